"""Root and leaves as they are at present, and what of them the next commit has to write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from edgemem.block import Block


@dataclass(frozen=True, eq=False)
class KeptBlocks:
    """Root and leaves in memory, and what of them is to be written.

    Attributes:
        root: the part of a block that all contexts share.
        paths: the shipped rows that a context stands on, none if that is empty; not there as long
            as it is unknown.
        leaves: those that are not yet written.
        gone: contexts whose leaves are to be deleted.
        why_root: not empty: the root is not yet written.
        root_is_gone: a written one is to be deleted.
    """

    root: Block
    paths: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    leaves: Mapping[int, Block] = field(default_factory=dict)
    gone: frozenset[int] = frozenset()
    why_root: str = ""
    root_is_gone: bool = False

    def with_root(self, root: Block, why: str) -> KeptBlocks:
        """Another root."""
        return replace(self, root=root, why_root=why)

    def with_leaf(self, number: int, leaf: Block) -> KeptBlocks:
        """Another leaf of a context."""
        return replace(self, leaves={**self.leaves, number: leaf})

    def with_path(self, number: int, path: tuple[int, ...]) -> KeptBlocks:
        """A context stands on these shipped rows."""
        return replace(self, paths={**self.paths, number: path})

    def without(self, numbers: Iterable[int], *, noted: bool = True) -> KeptBlocks:
        """Without some contexts. noted: whether their leaves may have been written."""
        gone = frozenset(numbers)
        if not gone:
            return self
        return replace(
            self,
            paths={n: path for n, path in self.paths.items() if n not in gone},
            leaves={n: leaf for n, leaf in self.leaves.items() if n not in gone},
            gone=self.gone | gone if noted else self.gone,
        )

    def cleared(self, clear: Callable[[Block], Block]) -> KeptBlocks:
        """With root and leaves as `clear` makes them; it hands back what it does not change."""
        root, leaves = clear(self.root), {n: clear(leaf) for n, leaf in self.leaves.items()}
        kept = replace(self, leaves=leaves)
        return kept if root is self.root else kept.with_root(root, "a class was forgotten")

    def started_again(self, numbers: Iterable[int], root: Block, generic: Block) -> KeptBlocks:
        """Nothing that was learnt in these contexts, all there are, and another root."""
        kept, is_generic = self.without(numbers), root is generic
        why = "" if is_generic else "rolled back"
        return replace(kept, root=root, why_root=why, root_is_gone=is_generic)
