"""What the memories of a bank are, level by level, as manifests say it.

The format is docs/formats/text.md.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from edgemem.block import ArraySpec, BlockSpec
from edgemem.files.typed_json import Value

SEPARATE, SUM = "separate", "sum"
COMBINE = (SEPARATE, SUM)  # how a level meets the levels above it
FEED_FORWARD = "feed_forward"
KEYS = ("hashed_tfidf",)  # how the key of a text is computed
MOST_LEVELS, MOST_LAYERS, MOST_SIZE, MOST_BUCKETS = 32, 1 << 12, 1 << 20, 1 << 16
MOST_ELEMENTS = 1 << 28  # numbers of one level of a block
SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class KeySpec:
    """How the key of a text is computed. name: one of `KEYS`. length: numbers of a key."""

    name: str
    length: int


@dataclass(frozen=True)
class LevelSpec:
    """Blocks of one level of a bank of memories.

    Attributes:
        rank: inner columns that a block adds to every layer.
        combine: "separate": the level has graph inputs of its own. "sum": its numbers are added to
            those of the level above, which has the same arrays.
    """

    rank: int
    combine: str = SEPARATE


@dataclass(frozen=True)
class MemorySpec:
    """Memories `y += M3 (act(M1 x) * M2 x)` beside feed-forward layers of one anchor.

    Attributes:
        anchor: SHA-256 of the weights that the memories were learnt for.
        tokenizer: SHA-256 of the tokenizer that they were learnt with.
        layers: names of the layers that have memories, in the order of the network.
        width: numbers that such a layer takes and gives.
        gated: whether there is an M2.
        levels: level 1 first.
        key: how a text finds its memories.
    """

    anchor: str
    tokenizer: str
    layers: tuple[str, ...]
    width: int
    gated: bool
    levels: tuple[LevelSpec, ...]
    key: KeySpec

    def arrays(self, level: int) -> BlockSpec:
        """A block of a level, 0 for level 1: columns of m1 and m2, rows of m3, by layer.

        m1 and m2 are [layers, width, rank], m3 is [layers, rank, width]: x @ m1, then h @ m3.
        """
        count, rank = len(self.layers), self.levels[level].rank
        inner, outer = (count, self.width, rank), (count, rank, self.width)
        names = {"m1": inner, "m2": inner, "m3": outer} if self.gated else {
            "m1": inner, "m3": outer
        }  # fmt: skip
        return BlockSpec(tuple(ArraySpec(n, shape, "float32") for n, shape in names.items()))

    @property
    def elements(self) -> tuple[int, ...]:
        """Numbers of a block of each level."""
        return tuple(self.arrays(level).elements for level in range(len(self.levels)))

    def inputs(self) -> BlockSpec:
        """The whole block as graphs take it: the arrays `LEVEL.NAME` of every separate level."""
        return BlockSpec(
            tuple(
                ArraySpec(f"{level + 1}.{array.name}", array.shape, array.dtype)
                for level, spec in enumerate(self.levels)
                if spec.combine == SEPARATE
                for array in self.arrays(level).arrays
            )
        )

    def home(self, level: int) -> int:
        """The level whose graph inputs hold this one: itself, or the one that it is added to."""
        while self.levels[level].combine == SUM:
            level -= 1
        return level

    def mismatch(self) -> str | None:
        """Why this cannot be, or None."""
        for level, spec in enumerate(self.levels):
            if spec.combine == SUM and level == 0:
                return "level 1 has no level above to be added to"
            if spec.combine == SUM and spec.rank != self.levels[level - 1].rank:
                return f"level {level + 1} is added to level {level}, which has another rank"
            if self.elements[level] > MOST_ELEMENTS:
                return f"a block of level {level + 1} has {self.elements[level]:,} numbers"
        if len(set(self.layers)) != len(self.layers):
            return "a layer is named twice"
        return None


def memory_document(spec: MemorySpec) -> dict[str, Any]:
    """The field `memories` of a manifest."""
    return {
        "kind": FEED_FORWARD,
        "anchor": spec.anchor,
        "tokenizer": spec.tokenizer,
        "layers": list(spec.layers),
        "width": spec.width,
        "gated": spec.gated,
        "key": vars(spec.key),
        "levels": [
            {**vars(level), "arrays": _arrays(spec.arrays(number))}
            for number, level in enumerate(spec.levels)
        ],
    }


def read_memories(entry: Value) -> MemorySpec:
    """The field `memories` of a manifest, checked.

    Raises:
        EdgeMemError: of the document; a value of the wrong kind, or values that do not fit.
    """
    field = entry.field
    field("kind").choice((FEED_FORWARD,))
    levels = field("levels").list(MOST_LEVELS, 1)
    spec = MemorySpec(
        read_hash(field("anchor")),
        read_hash(field("tokenizer")),
        tuple(name.text() for name in field("layers").list(MOST_LAYERS, 1)),
        field("width").count(1, MOST_SIZE),
        field("gated").flag(),
        tuple(
            LevelSpec(
                level.field("rank").count(1, MOST_SIZE), level.field("combine").choice(COMBINE)
            )
            for level in levels
        ),
        KeySpec(
            field("key").field("name").choice(KEYS),
            field("key").field("length").count(1, MOST_BUCKETS),
        ),
    )
    if reason := spec.mismatch():
        entry.refuse(f"does not fit together: {reason}")
    for number, level in enumerate(levels):
        if level.field("arrays").plain != _arrays(spec.arrays(number)):
            level.field("arrays").refuse("does not follow from layers, width and rank")
    return spec


def read_hash(entry: Value) -> str:
    """64 hexadecimal digits."""
    if not SHA256.fullmatch(entry.text()):
        entry.refuse("is no SHA-256")
    return entry.text()


def block_bytes(spec: MemorySpec) -> int:
    """Bytes of what is fetched at once, as the graphs take it."""
    return 4 * sum(math.prod(array.shape) for array in spec.inputs().arrays)


def _arrays(block: BlockSpec) -> list[dict[str, Any]]:
    return [
        {"name": array.name, "shape": list(array.shape), "dtype": array.dtype}
        for array in block.arrays
    ]
