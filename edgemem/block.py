"""Blocks: named arrays that specialise the model to one context, and their specification."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from edgemem.errors import EdgeMemError, InputError

Array = NDArray[Any]
Arrays = dict[str, Array]
LARGEST_VALUE = 1e30  # in a block
DTYPES = ("float32", "float16", "int8", "int64")


class Block(Mapping[str, Array]):
    """Arrays by name, as one value: nobody changes it, whoever wants another makes one.

    Everything that adapts is a block; so are its parts, its changes, and the optimiser's slots.
    Two blocks are equal only if they are the same object; `has_values_of` compares numbers.

    Args:
        arrays: become read-only, not copied.
    """

    __slots__ = ("__weakref__", "_arrays")
    __hash__ = object.__hash__

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = dict(arrays)
        for array in self._arrays.values():
            array.flags.writeable = False

    @classmethod
    def named(cls, prefix: str, arrays: Mapping[str, Array]) -> Block:
        """Of all arrays that carry a prefix in the graph contract, without it."""
        start = f"{prefix}."
        return cls({n.removeprefix(start): a for n, a in arrays.items() if n.startswith(start)})

    def under(self, prefix: str) -> Arrays:
        """The arrays under the names they have in the graph contract."""
        return {f"{prefix}.{name}": array for name, array in self._arrays.items()}

    def __reduce__(self) -> tuple[type[Block], tuple[Arrays]]:
        return Block, (self._arrays,)  # copies are read-only, too

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __add__(self, change: Mapping[str, Array]) -> Block:
        """With a change of some or all arrays."""
        # Scalars stay arrays, as engines want them.
        return self.replace({name: np.asarray(self[name] + part) for name, part in change.items()})

    def __sub__(self, other: Mapping[str, Array]) -> Block:
        """Without what some or all arrays of another block hold."""
        return self.replace({name: np.asarray(self[name] - part) for name, part in other.items()})

    def replace(self, arrays: Mapping[str, Array]) -> Block:
        """With other arrays in place of those of the same names."""
        return Block(self._arrays | dict(arrays)) if arrays else self

    def part(self, names: Iterable[str]) -> Block:
        """Some of the arrays."""
        return Block({name: self._arrays[name] for name in names})

    def zeros(self) -> Block:
        """Zeros of the same shapes: no change at all."""
        return Block({name: np.zeros_like(array) for name, array in self._arrays.items()})

    def has_values_of(self, other: Mapping[str, Array]) -> bool:
        """Whether the other block has the same arrays with the same numbers."""
        if self is other:
            return True
        return self.keys() == other.keys() and all(np.array_equal(other[n], self[n]) for n in self)

    def is_finite(self) -> bool:
        """Whether no array holds NaN or an infinity."""
        return is_finite(self._arrays)

    def is_sound(self) -> bool:
        """Whether these are values of a block, see the function `is_sound`."""
        return is_sound(self._arrays)


@dataclass(frozen=True)
class ArraySpec:
    """Name, shape, dtype and zero value of one array.

    The zero value fills the array that leaves the frozen model as it is. learns: whether steps
    follow a gradient in it; else it remembers what frames were like.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    zero: float = 0.0
    learns: bool = False

    @property
    def nbytes(self) -> int:
        """Size in bytes, computed without reserving memory."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class BlockSpec:
    """What every block of one bundle consists of (or every set of optimiser slots)."""

    arrays: tuple[ArraySpec, ...]

    @property
    def nbytes(self) -> int:
        """Size of one block in bytes."""
        return sum(spec.nbytes for spec in self.arrays)

    @property
    def elements(self) -> int:
        """Numbers of one block, all arrays together."""
        return sum(math.prod(spec.shape) for spec in self.arrays)

    def flatten(self, arrays: Mapping[str, Array]) -> NDArray[np.float32]:
        """A block as one vector, float32 [elements]: arrays in this order, each in C order.

        Raises:
            InputError: the arrays are no block of this kind.
        """
        if reason := self.mismatch(arrays):
            raise InputError("block", reason, "Use blocks of this bundle")
        values, first = np.empty(self.elements, np.float32), 0
        for spec in self.arrays:
            part = arrays[spec.name].reshape(-1)
            values[first : first + part.size] = part
            first += part.size
        return values

    def unflatten(self, values: NDArray[np.float32]) -> Block:
        """A block of its own memory from a vector [elements], as `flatten` makes one.

        Raises:
            InputError: a vector of another length.
        """
        if values.shape != (self.elements,):
            raise InputError(
                "block", f"has shape {list(values.shape)}", f"Pass {self.elements} numbers"
            )
        arrays, first = {}, 0
        for spec in self.arrays:
            size = math.prod(spec.shape)
            part = np.array(values[first : first + size], spec.dtype)
            arrays[spec.name] = part.reshape(spec.shape)
            first += size
        return Block(arrays)

    def zero(self) -> Block:
        """The block that changes nothing."""
        return Block({s.name: np.full(s.shape, s.zero, s.dtype) for s in self.arrays})

    def mismatch(self, arrays: Mapping[str, Array]) -> str | None:
        """Why the arrays are not a block of this kind, or None if they are."""
        expected = {spec.name: spec for spec in self.arrays}
        if missing := sorted(set(expected) - set(arrays)):
            return f"array {missing[0]!r} is missing"
        if unknown := sorted(set(arrays) - set(expected)):
            return f"array {unknown[0]!r} is not in the block specification"
        for name, spec in expected.items():
            found = arrays[name]
            if found.shape != spec.shape or found.dtype != spec.dtype:
                return (
                    f"array {name!r} is {found.dtype}{list(found.shape)}, "
                    f"not {spec.dtype}{list(spec.shape)}"
                )
        return None


def is_sound(arrays: Mapping[str, Array]) -> bool:
    """Whether these are values of a block: neither NaN nor infinite, nor too large.

    Too large are those of which the sum of a few blocks might become infinite.
    """
    # NaN is neither above nor below anything.
    return all(
        float(array.max()) <= LARGEST_VALUE and float(array.min()) >= -LARGEST_VALUE
        for array in arrays.values()
        if array.size
    )


def is_finite(arrays: Mapping[str, Array]) -> bool:
    """Whether no array holds NaN or an infinity."""
    return all(bool(np.isfinite(array).all()) for array in arrays.values())


def pack(arrays: Mapping[str, Array], metadata: dict[str, str] | None = None) -> bytes:
    """Arrays as safetensors bytes; the same arrays in any order give the same bytes."""
    # Not ascontiguousarray, which gives scalars a dimension.
    ordered = {name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}
    packed: bytes = safetensors.numpy.save(ordered, metadata)
    return packed


def unpack(content: bytes, thing: str, error: type[EdgeMemError], remedy: str) -> Arrays:
    """Arrays of safetensors bytes.

    Raises:
        error: not safetensors, sizes that do not add up, or dtypes that numpy does not have.
    """
    try:
        arrays: Arrays = safetensors.numpy.load(content)
    except Exception as cause:  # whatever the library stumbles over, it is the file
        raise error(thing, f"is not readable safetensors ({cause!r})", remedy) from cause
    return arrays
