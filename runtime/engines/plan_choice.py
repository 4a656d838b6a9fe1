"""Which plan of the adaptation step to run: the fastest that fits a memory budget."""

from __future__ import annotations

import re

from edgemem.bundle.manifest import Manifest, Plan
from edgemem.errors import InputError
from edgemem.printable import shown

UNITS = {
    "": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
}
LARGEST = 1 << 60  # bytes; more is no memory of anything
SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*")


def choose_plan(manifest: Manifest, budget: int | str | None) -> Plan | None:
    """The fastest plan within the budget; None where the bundle does not adapt.

    budget: bytes, or text such as "128MB"; None = no bound.

    Raises:
        InputError: no plan fits, or the budget is no size.
    """
    if not manifest.plans:
        return None
    limit = None if budget is None else _bytes(budget)
    fitting = [plan for plan in manifest.plans if limit is None or plan.bytes <= limit]
    if fitting:
        return min(fitting, key=lambda plan: plan.milliseconds)
    least = min(plan.bytes for plan in manifest.plans)
    raise InputError(
        f"memory_budget={shown(budget)}",
        f"is less than the {least / 1e6:.0f} MB of the leanest plan of {manifest.name!r}",
        "Allow more, open with adapt=False, or export with a smaller batch",
    )


def _bytes(budget: int | str) -> int:
    match = None if isinstance(budget, bool) else SIZE.fullmatch(_text(budget))
    size = float(match[1]) * UNITS.get(match[2], 0) if match else 0.0
    if not 0 < size <= LARGEST:
        raise InputError(
            f"memory_budget={shown(budget)}", "is no size", 'Pass bytes, or text such as "128MB"'
        )
    return int(size)


def _text(budget: int | str) -> str:
    try:
        return str(budget).lower()
    except ValueError:  # a whole number of more digits than Python writes
        return ""
