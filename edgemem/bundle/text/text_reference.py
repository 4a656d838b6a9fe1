"""What transformers said of a few tokens, with which a device compares what it computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgemem.block import Array, ArraySpec, Block, BlockSpec, unpack
from edgemem.bundle.manifest import REMEDY
from edgemem.bundle.reference_frames import kept, kept_of
from edgemem.errors import BundleError

IDS = "ids"
ANCHOR, GENERIC = "anchor", "generic"  # the zero block, and that which belongs to no text
MOST_TOKENS = 64


@dataclass(frozen=True, eq=False)
class TextReference:
    """Tokens, and what `kept` leaves of the logits [n, vocabulary] behind each, by block.

    Attributes:
        ids: [n].
        logits: of "anchor", and of "generic" where there is a bank.
    """

    ids: NDArray[np.int64]
    logits: Mapping[str, NDArray[np.float32]]

    def arrays(self) -> dict[str, Array]:
        """As a file holds it."""
        return {IDS: self.ids, **{name: kept(found) for name, found in self.logits.items()}}


def read_text_reference(
    content: bytes, thing: str, vocabulary: int, *, memories: bool
) -> TextReference:
    """What a reference file holds. memories: whether the bundle has a bank.

    Raises:
        BundleError: other arrays, shapes or values than it has to hold.
    """
    found = Block(unpack(content, thing, BundleError, REMEDY))
    count, names = np.size(found.get(IDS, ())), (ANCHOR, GENERIC) if memories else (ANCHOR,)
    logits = [ArraySpec(name, (count, kept_of(vocabulary)), "float32") for name in names]
    reason = BlockSpec((ArraySpec(IDS, (count,), "int64"), *logits)).mismatch(found)
    if reason is None and not 0 < count <= MOST_TOKENS:
        reason = f"holds {count} tokens"
    if reason is None and not found.is_finite():
        reason = "holds NaN or infinite values"
    if reason is None and not 0 <= found[IDS].min() <= found[IDS].max() < vocabulary:
        reason = "holds tokens that the model does not know"
    if reason is not None:
        raise BundleError(thing, reason, REMEDY)
    return TextReference(found[IDS], {name: found[name] for name in names})
