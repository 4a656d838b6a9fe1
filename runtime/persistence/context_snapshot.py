"""What a snapshot holds of contexts besides the written blocks, and how it is read again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgemem.bank.written.record import Record
from edgemem.block import Arrays
from edgemem.runtime.contexts.recognition import NONE, Context, Contexts

COUNTERS = ("present", "rival", "votes", "opened")


def to_arrays(contexts: Contexts) -> Arrays:
    """What a snapshot holds of contexts, as arrays.

    Spreads of all contexts; key and count of the present one, whose leaf may have been written
    before they changed.
    """
    known = sorted(contexts.known)
    spreads = [contexts.known[number].spread for number in known]
    present = contexts.known.get(contexts.present)
    return {
        "contexts.number": np.array(known, np.int64),
        "contexts.spread": np.array(spreads, np.float64),
        "contexts.key": np.array([] if present is None else present.key, np.float32),
        "contexts.count": np.array(0 if present is None else present.count, np.int64),
    }


def to_counters(contexts: Contexts) -> dict[str, int]:
    """What the policy remembers from batch to batch."""
    return {name: getattr(contexts, name) for name in COUNTERS}


def contexts_of(
    arrays: Arrays, counters: Mapping[str, int], records: Mapping[int, Record], usable: set[int]
) -> Contexts:
    """The contexts of written blocks by number, those that are usable. Numbers are never reused."""
    spreads = _spreads(arrays)
    known = {
        number: Context(number, record.key, record.count, spreads.get(number, 0.0))
        for number, record in records.items()
        if number in usable
    }
    values = {name: int(counters.get(name, 0)) for name in COUNTERS}
    present = values["present"] if values["present"] in known else NONE
    if present != NONE and counters.get("version.leaf") == records[present].version:
        known[present] = _newer(known[present], arrays)
    opened = max([values["opened"], *records])
    return Contexts(known, present, values["rival"], values["votes"], opened)


def _newer(context: Context, arrays: Arrays) -> Context:
    """With key and count of the snapshot, where these fit and are of a later batch."""
    key, count = arrays.get("contexts.key"), arrays.get("contexts.count")
    if key is None or count is None or key.shape != context.key.shape or count.shape != ():
        return context
    if key.dtype != np.float32 or count.dtype != np.int64 or count <= context.count:
        return context
    return Context(context.number, key, int(count), context.spread)


def _spreads(arrays: Arrays) -> dict[int, float]:
    numbers, spreads = arrays.get("contexts.number"), arrays.get("contexts.spread")
    if numbers is None or spreads is None or numbers.shape != spreads.shape or numbers.ndim != 1:
        return {}
    return {int(n): float(s) for n, s in zip(numbers, spreads, strict=True) if s >= 0}
