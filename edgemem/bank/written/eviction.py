"""Which written blocks go first when there is no room for all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from edgemem.bank.written.record import Record


def worth(count: int, age: int, nbytes: int) -> float:
    """How much a block deserves its bytes: one that stands for much, is new and small is best.

    Greedy-dual-size-frequency (Cherkasova 1998) with the age as a divisor: `age` is counted in
    writes to the state file, not in seconds, because clocks of devices go backwards.
    """
    return (1 + count) / ((1 + max(0, age)) * max(1, nbytes))


def least_first(
    records: Collection[Record],
    stored: Iterable[tuple[str, int]],
    clock: int,
    keep: Collection[str],
) -> Iterator[tuple[str, int]]:
    """Ids and versions in the order in which they may go.

    Earlier versions first, oldest first; then current ones, least worth first.

    Args:
        records: current versions; what belongs to none of their blocks stays.
        stored: id and version of all there is.
        clock: the present on the scale of `Record.version`.
        keep: ids whose current version stays.
    """
    current = {record.id: record.version for record in records}
    for version, name in sorted((version, name) for name, version in stored):
        if version < current.get(name, 0):
            yield name, version
    for record in sorted(records, key=lambda r: worth(r.count, clock - r.version, r.nbytes)):
        if record.id not in keep:
            yield record.id, record.version
