"""Which of the measured plans of a step are worth having."""

from edgemem.bundle.manifest import Plan
from edgemem.export.memory_plans import _worth_having


def plans(*rows):
    return [
        Plan(f"{graph} {profile}", graph, profile, size, ms) for graph, profile, size, ms in rows
    ]


def test_each_plan_needs_clearly_less_memory_than_the_faster_ones():
    fast, lean, mapped = measured = plans(
        ("adapt", "latency", 100, 5.0), ("adapt_lean", "latency", 50, 9.0),
        ("adapt", "memory", 80, 6.0),
    )  # fmt: skip
    assert _worth_having(measured) == [fast, mapped, lean]


def test_computing_more_for_the_same_memory_is_faster_by_chance_only():
    fast, _, mapped, _ = measured = plans(
        ("adapt", "latency", 100, 5.0), ("adapt_lean", "latency", 98, 4.0),
        ("adapt", "memory", 90, 7.0), ("adapt_lean", "memory", 89, 6.0),
    )  # fmt: skip
    assert _worth_having(measured) == [fast, mapped]
