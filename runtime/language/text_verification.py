"""Verify a bundle of text on this device: every file, and the logits that transformers gave."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgemem.block import Array
from edgemem.bundle.reference_frames import TOLERANCE, kept
from edgemem.bundle.text.text_opening import open_text_bundle
from edgemem.bundle.text.text_reference import ANCHOR, GENERIC, read_text_reference
from edgemem.errors import BundleError
from edgemem.runtime.engines.choice import EngineSettings
from edgemem.runtime.language.decoding import Decoding, open_decoder


@dataclass(frozen=True)
class TextVerification:
    """Largest differences of logits from those of transformers, relative to the largest logit.

    Attributes:
        files: how many were hashed.
        limit: of the differences.
        differences: of "anchor", and of "generic" where there is a bank.
    """

    files: int
    limit: float
    differences: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def verify_text(path: Path | str, threads: int = 0) -> TextVerification:
    """Check all files of a bundle of text but its levels, and compute its reference again.

    Args:
        path: of the bundle.
        threads: of the engine; 0 = all cores.

    Raises:
        BundleError: damaged, altered, or this device computes something else than transformers.
    """
    bundle = open_text_bundle(path)
    manifest, held = bundle.manifest, bundle.memories
    name = manifest.reference
    content, thing = bundle.files.read(bundle.path / name), f"{bundle.path.name}/{name}"
    vocabulary = manifest.text.vocabulary
    reference = read_text_reference(content, thing, vocabulary, memories=held is not None)
    graph = open_decoder(bundle, EngineSettings(threads).threads)
    blocks: dict[str, dict[str, Array]] = {ANCHOR: {}}
    if held is not None:
        blocks = {ANCHOR: dict(held.spec.inputs().zero()), GENERIC: dict(held.generic)}
    differences = {}
    for block, expected in reference.logits.items():
        decoding = Decoding(graph, bundle, blocks[block])
        found = np.concatenate([kept(decoding.add([token])) for token in reference.ids.tolist()])
        off = float(np.abs(found - expected).max()) / max(1e-6, float(np.abs(expected).max()))
        if not off <= TOLERANCE:
            raise BundleError(
                bundle.path.name,
                f"logits of the {block} differ by {off:.1e} from those of transformers, limit "
                f"{TOLERANCE:.0e}",
                "The engine computes something else; use another version of onnxruntime",
            )
        differences[block] = off
    return TextVerification(len(manifest.files), TOLERANCE, differences)
