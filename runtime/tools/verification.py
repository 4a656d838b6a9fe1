"""Verify a bundle on this device: every file, every graph, and the numbers that torch gave."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgemem.block import Array, Block
from edgemem.bundle.manifest import CLOSED, NPU, Manifest
from edgemem.bundle.opening import Bundle, open_bundle
from edgemem.bundle.reference_frames import (
    OUTPUTS,
    Reference,
    kept,
    read_reference,
    reference_frames,
)
from edgemem.errors import BundleError
from edgemem.runtime.answers import answers_of
from edgemem.runtime.engines.choice import EngineSettings, choose
from edgemem.runtime.step.graphs import Graphs
from edgemem.runtime.step.hyper_parameters import HyperParameters

# Of NPUs, which compute in half precision: it loses small probabilities of neighbouring frames.
HALF_TOLERANCE = 0.1


@dataclass(frozen=True)
class Verification:
    """Largest differences from what torch computed at export, relative to the largest number.

    Of all sizes of frames.

    Attributes:
        frozen: the frozen model.
        adapt: the answers of an adaptation step.
        adapted: the answers after it, which depend on every updated array.
        engine: what computed.
        limits: of the differences, by their names.
    """

    files: int
    engine: str
    limits: dict[str, float]
    frozen: float
    adapt: float
    adapted: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def verify(path: Path | str, threads: int = 0, provider: str = "auto") -> Verification:
    """Check a bundle completely, and compute its reference outputs again.

    Args:
        path: of the bundle.
        threads: of the engine; 0 = all cores.
        provider: see `edgemem.open`.

    Raises:
        InputError: the provider cannot be used here.
        BundleError: damaged, altered, or this device computes something else than torch did.
    """
    bundle = open_bundle(path)
    backend = choose(bundle, provider, EngineSettings(threads)).backend
    # The graphs alone: guard rails may answer otherwise on frames that are nothing but noise.
    graphs = Graphs(bundle, backend)
    half = HALF_TOLERANCE if backend.target == NPU else 0.0
    limits = dict.fromkeys(OUTPUTS, half)
    differences = dict.fromkeys(OUTPUTS, 0.0)
    for shape in bundle.manifest.frames.shapes:
        manifest = bundle.manifest.at(shape)
        thing = f"{bundle.path.name}/{manifest.reference}"
        reference = read_reference(bundle.read(manifest.reference), thing, manifest)
        allowed = {name: max(half, limit) for name, limit in reference.tolerance.items()}
        limits = {name: max(limits[name], allowed[name]) for name in OUTPUTS}
        for name, off in _off(bundle, graphs, manifest, reference).items():
            told = max(off, key=off.__getitem__)
            if not off[told] <= allowed[name]:
                raise BundleError(
                    f"{bundle.path.name}",
                    f"{name} {told} differ by {off[told]:.1e} from torch's, limit "
                    f"{allowed[name]:.0e}",
                    f"{backend.name} computes something else; use another version or provider",
                )
            differences[name] = max(differences[name], off[told])
    return Verification(len(bundle.manifest.files), backend.name, limits, **differences)


def _off(
    bundle: Bundle, graphs: Graphs, manifest: Manifest, reference: Reference
) -> dict[str, dict[str, float]]:
    """How far answers to frames of one size are from torch's, by stage and name."""
    parameters = HyperParameters(manifest, reference.parameters)
    frames = reference_frames(manifest.frames, reference.seed)
    outputs = graphs.adapt(frames, bundle.generic, manifest.slots.zero(), parameters)
    found = {
        "frozen": graphs.frozen(frames),
        "adapt": graphs.rows(outputs, frames),
        "adapted": graphs.predict(frames, Block.named("next.block", outputs), parameters),
    }
    return {
        name: {
            told: _difference(kept(answer), reference.answers[name][told])
            for told, answer in answers_of(rows, manifest).items()
        }
        for name, rows in found.items()
    }


def _difference(found: Array, expected: Array) -> float:
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    # Room for classes does not count for large.
    there = np.where(expected <= CLOSED / 2, 0.0, expected)
    return float(np.abs(found - expected).max()) / max(1.0, float(np.abs(there).max()))
