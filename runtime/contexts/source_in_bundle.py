"""What a bundle says about keys of source data."""

from __future__ import annotations

from edgemem.block import ArraySpec, BlockSpec, is_finite, unpack
from edgemem.bundle.opening import Bundle
from edgemem.errors import BundleError
from edgemem.runtime.contexts.recognition import SourceKeys


def source_keys(bundle: Bundle) -> SourceKeys:
    """The bundle's source keys.

    Raises:
        BundleError: they do not fit the manifest.
    """
    manifest = bundle.manifest
    assert manifest.source is not None
    thing = f"{bundle.path.name}/{manifest.source}"
    remedy = "Export the bundle again"
    found = unpack(bundle.read(manifest.source), thing, BundleError, remedy)
    size = manifest.key
    numbers = ("novelty", "entropy", "entropy_deviation")
    shapes = {"mean": (size,), "whitening": (size, size), **dict.fromkeys(numbers, ())}
    spec = BlockSpec(tuple(ArraySpec(name, shape, "float32") for name, shape in shapes.items()))
    if reason := spec.mismatch(found):
        raise BundleError(thing, reason, remedy)
    if not is_finite(found) or found["novelty"] <= 0:
        raise BundleError(thing, "holds impossible values", remedy)
    return SourceKeys(found["mean"], found["whitening"], *(float(found[name]) for name in numbers))
