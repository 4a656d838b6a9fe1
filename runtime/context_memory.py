"""Blocks of contexts: a slow root that all share, and a leaf for each, in memory and in the bank.

The block in use is root + leaf. A part of every change goes to the root (`root_share` of each
array), the rest stays with the leaf, which goes to the state file when its context is left.
"""

from __future__ import annotations

import numpy as np

from edgemem.bank.record import Provenance
from edgemem.bank.written import WrittenBlocks
from edgemem.block import Array, Arrays, ArraySpec, BlockSpec, is_finite, unpack
from edgemem.bundle import Bundle
from edgemem.errors import BundleError, StateError
from edgemem.runtime.contexts import NONE, Context, Contexts, SourceKeys, follow
from edgemem.runtime.contract import prefixed, stripped
from edgemem.runtime.result import Event
from edgemem.state import State

CAPACITY = 64  # contexts
PREFIX = "context-"
COUNTERS = ("present", "rival", "votes", "opened")


class ContextMemory:
    """All contexts of one runtime.

    root: the part of the block that all contexts share. contexts: what the policy knows.
    """

    def __init__(self, bundle: Bundle, state: State | None) -> None:
        self._bundle, self._spec = bundle, bundle.manifest.block
        self.root = bundle.generic
        self.contexts = Contexts()
        self._source = source_keys(bundle)
        self._state = state
        self._written = None if state is None else WrittenBlocks(state)
        self._leaves: dict[int, Arrays] = {}
        self._gone: set[int] = set()

    @property
    def name(self) -> str:
        """Name of the present context."""
        present = self.contexts.present
        return "generic" if present == NONE else f"{PREFIX}{present}"

    def arrive(self, key: Array, block: Arrays, events: list[Event]) -> Arrays | None:
        """Follow the key of a batch; the block to go on with, or None to stay with the present."""
        before = self.contexts
        normal = self._source.normal(key)
        self.contexts = after = follow(before, normal, self._source.novelty, CAPACITY)
        if after.present == before.present:
            return None
        if before.present in after.known:
            self._leaves[before.present] = difference(block, self.root)
        for number in set(before.known) - set(after.known):
            self._leaves.pop(number, None)
            self._gone.add(number)
        if after.present in before.known:
            events.append(Event("context", f"{self.name} is back"))
            return total(self.root, self._leaf(after.present, events))
        events.append(Event("context", f"{self.name} is new"))
        return self.root

    def learn(self, before: Arrays, after: Arrays) -> None:
        """Give the root its part of a change of the block."""
        for spec in self._spec.arrays:
            if spec.root_share:
                share = np.asarray(spec.root_share, spec.dtype)
                change = share * (after[spec.name] - before[spec.name])
                # Scalars stay arrays, as engines want them.
                self.root = self.root | {spec.name: np.asarray(self.root[spec.name] + change)}

    def write(self, block: Arrays, steps: int, entropy: float, why: str) -> None:
        """Write the leaves that changed; inside a transaction of the state file."""
        if self._written is None:
            return
        if self.contexts.present != NONE:
            self._leaves[self.contexts.present] = difference(block, self.root)
        about = Provenance(self._bundle.identity, steps, entropy, why)
        for number in self._gone:
            if self._written.version(f"{PREFIX}{number}"):
                self._written.forget(f"{PREFIX}{number}")
        for number, leaf in self._leaves.items():
            context = self.contexts.known[number]
            self._written.put(
                f"{PREFIX}{number}", leaf, path="+",
                key=context.key, count=context.count, provenance=about,
            )  # fmt: skip
        self._gone, self._leaves = set(), {}

    def counters(self) -> dict[str, int]:
        """For the snapshot."""
        return {name: getattr(self.contexts, name) for name in COUNTERS}

    def arrays(self) -> Arrays:
        """For the snapshot."""
        known = sorted(self.contexts.known)
        spreads = [self.contexts.known[number].spread for number in known]
        return prefixed("root", self.root) | {
            "contexts.number": np.array(known, np.int64),
            "contexts.spread": np.array(spreads, np.float64),
        }

    def load(self, arrays: Arrays, counters: dict[str, int]) -> list[Event]:
        """Go on from a snapshot and the written blocks; what was damaged is told."""
        if self._written is None or self._state is None:
            return []
        # A run without contexts commits no root; the written blocks are still there.
        root = stripped("root", arrays) or self._bundle.generic
        if self._spec.mismatch(root) is not None or not is_finite(root):
            raise StateError(
                str(self._state.path), "holds a root that does not fit the bundle",
                "Delete the state file to start again from the bundle",
            )  # fmt: skip
        self.root, self._leaves, self._gone = root, {}, set()
        listing, known = self._written.listing(), dict[int, Context]()
        spreads = _spreads(arrays)
        size = self._source.mean.size
        for record in listing.records:
            number = record.id.removeprefix(PREFIX)
            if record.id.startswith(PREFIX) and number.isdigit() and record.key.size == size:
                spread = spreads.get(int(number), 0.0)
                known[int(number)] = Context(int(number), record.key, record.count, spread)
        values = {name: int(counters.get(name, 0)) for name in COUNTERS}
        values["opened"] = max([values["opened"], *known])
        if values["present"] not in known:
            values["present"] = NONE
        self.contexts = Contexts(
            known, values["present"], values["rival"], values["votes"], values["opened"]
        )
        return [Event("damaged", str(error)) for error in listing.damage]

    def reset(self) -> None:
        """Forget every context; the written blocks go with the next commit."""
        self._gone |= set(self.contexts.known)
        self.root, self._leaves = self._bundle.generic, {}
        self.contexts = Contexts(opened=self.contexts.opened)

    def _leaf(self, number: int, events: list[Event]) -> Arrays:
        if number in self._leaves:
            return self._leaves[number]
        try:
            if self._written is not None:
                leaf = self._written.read(f"{PREFIX}{number}")[1]
                if self._spec.mismatch(leaf) is None and is_finite(leaf):
                    return leaf
            events.append(Event("damaged", f"{PREFIX}{number} does not fit; it starts afresh"))
        except StateError as error:
            events.append(Event("damaged", str(error)))
        return {name: np.zeros_like(array) for name, array in self.root.items()}


def _spreads(arrays: Arrays) -> dict[int, float]:
    numbers, spreads = arrays.get("contexts.number"), arrays.get("contexts.spread")
    if numbers is None or spreads is None or numbers.shape != spreads.shape or numbers.ndim != 1:
        return {}
    return {int(n): float(s) for n, s in zip(numbers, spreads, strict=True) if s >= 0}


def difference(block: Arrays, root: Arrays) -> Arrays:
    """The leaf of a block."""
    return {name: np.asarray(block[name] - root[name]) for name in block}


def total(root: Arrays, leaf: Arrays) -> Arrays:
    """The block of a leaf."""
    return {name: np.asarray(root[name] + leaf[name]) for name in root}


def source_keys(bundle: Bundle) -> SourceKeys:
    """The bundle's source keys.

    Raises:
        BundleError: they do not fit the manifest.
    """
    manifest = bundle.manifest
    assert manifest.source is not None
    thing = f"{bundle.path.name}/{manifest.source}"
    remedy = "Export the bundle again"
    found = unpack((bundle.path / manifest.source).read_bytes(), thing, BundleError, remedy)
    size = manifest.key
    shapes = {"mean": (size,), "whitening": (size, size), "novelty": ()}
    spec = BlockSpec(tuple(ArraySpec(name, shape, "float32") for name, shape in shapes.items()))
    if reason := spec.mismatch(found):
        raise BundleError(thing, reason, remedy)
    if not is_finite(found) or found["novelty"] <= 0:
        raise BundleError(thing, "holds impossible values", remedy)
    return SourceKeys(found["mean"], found["whitening"], float(found["novelty"]))
