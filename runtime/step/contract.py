"""The graph contract: which inputs and outputs a graph of a bundle must have."""

from __future__ import annotations

from edgemem.block import BlockSpec
from edgemem.bundle.further_input import FRAMES
from edgemem.bundle.manifest import FILLED, LABELS, Manifest
from edgemem.errors import BundleError
from edgemem.runtime.engines.protocol import Graph, TensorSpec

REQUIRED_STATS = ("loss", "updated")
# Hyper-parameters of how logits are read, not of the model that gives them.
READING = frozenset({"label_order"})


def check_predict(graph: Graph, manifest: Manifest, thing: str) -> None:
    """Check a `predict` graph against the manifest.

    Raises:
        BundleError: an input or output is missing, unknown, or of another shape or dtype.
    """
    arrays = _block_inputs(manifest.block, "block") | _filled(graph, manifest, thing)
    _check_inputs(graph, manifest, arrays, thing)
    _check_outputs(graph, (*manifest.answers, "key"), thing)


def check_adapt(graph: Graph, manifest: Manifest, thing: str) -> None:
    """Check an `adapt` graph against the manifest; raises BundleError as `check_predict`."""
    arrays = {**_block_inputs(manifest.block, "block"), **_block_inputs(manifest.slots, "opt")}
    _check_inputs(graph, manifest, arrays, thing)
    stats = [f"stat.{name}" for name in (*REQUIRED_STATS, *manifest.stats)]
    names = (*manifest.answers, "key", *(f"next.{name}" for name in arrays), *stats)
    _check_outputs(graph, names, thing)
    batch = graph.inputs[FRAMES].shape[0]
    if batch not in (None, manifest.frames.batch):
        raise _mismatch(thing, f"adapts on {batch} frames, not {manifest.frames.batch}")


def check_remember(graph: Graph, manifest: Manifest, thing: str) -> None:
    """Check a `remember` graph against the manifest; raises BundleError as `check_predict`."""
    batch = manifest.frames.batch
    if graph.inputs[FRAMES].shape[:1] != (batch,):
        raise _mismatch(thing, f"takes {graph.inputs[FRAMES].shape[0]} frames, not {batch}")
    _check_inputs(graph, manifest, _block_inputs(manifest.block, "block"), thing)
    following = [f"next.block.{spec.name}" for spec in manifest.block.arrays if not spec.learns]
    stats = [f"stat.{name}" for name in (*REQUIRED_STATS, *manifest.stats)]
    _check_outputs(graph, (*manifest.answers, "key", *following, *stats), thing)


def check_learn(graph: Graph, manifest: Manifest, thing: str) -> None:
    """Check a `learn` graph against the manifest; raises BundleError as `check_predict`."""
    batch, blocks = manifest.frames.batch, _block_inputs(manifest.block, "block")
    frames = graph.inputs.get(FRAMES)
    if frames is not None and frames.shape[:1] != (batch,):
        raise _mismatch(thing, f"learns from {frames.shape[0]} frames, not {batch}")
    labelled = {LABELS: TensorSpec((batch,), "int64"), FILLED: TensorSpec((), "float32")}
    _check_inputs(graph, manifest, blocks | labelled, thing)
    following = [f"next.{name}" for name in blocks]
    stats = [f"stat.{name}" for name in REQUIRED_STATS]
    _check_outputs(graph, (*manifest.answers, "key", *following, *stats), thing)


def check_key(graph: Graph, manifest: Manifest, thing: str) -> None:
    """Check a `key` graph against the manifest; raises BundleError as `check_predict`."""
    _check_inputs(graph, manifest, _filled(graph, manifest, thing), thing)
    _check_outputs(graph, ("key",), thing)


def _beside(manifest: Manifest, frames: TensorSpec) -> dict[str, TensorSpec]:
    """What may come beside the frames, as many rows as these have."""
    batch = frames.shape[:1]
    return {
        given.tensor: TensorSpec((*batch, *given.shape), given.dtype)
        for given in manifest.frames.inputs
    }


def _block_inputs(spec: BlockSpec, prefix: str) -> dict[str, TensorSpec]:
    return {f"{prefix}.{s.name}": TensorSpec(s.shape, s.dtype) for s in spec.arrays}


def _filled(graph: Graph, manifest: Manifest, thing: str) -> dict[str, TensorSpec]:
    """The input that a graph for one batch size has beside the others."""
    frames = graph.inputs.get(FRAMES)
    if frames is None or frames.shape[:1] == (None,):
        return {}
    if frames.shape[:1] != (manifest.frames.batch,):
        raise _mismatch(thing, f"takes {frames.shape[0]} frames, not {manifest.frames.batch}")
    return {FILLED: TensorSpec((), "float32")}


def _check_inputs(
    graph: Graph, manifest: Manifest, arrays: dict[str, TensorSpec], thing: str
) -> None:
    expected = arrays | {f"hp.{n}": TensorSpec((), "float32") for n in manifest.hyper_parameters}
    inputs = dict(graph.inputs)
    frames = inputs.pop(FRAMES, None)
    if frames is None or frames.dtype != manifest.frames.dtype:
        raise _mismatch(thing, f"has no {manifest.frames.dtype} input {FRAMES!r}")
    if frames.shape[1:] != manifest.frames.shape:
        raise _mismatch(
            thing, f"takes frames of {list(frames.shape[1:])}, not {list(manifest.frames.shape)}"
        )
    expected |= _beside(manifest, frames)
    for name, spec in inputs.items():
        if name not in expected:
            raise _mismatch(thing, f"has an unknown input {name!r}")
        if spec != expected[name]:
            raise _mismatch(
                thing,
                f"input {name!r} is {spec.dtype}{list(spec.shape)}, the manifest says "
                f"{expected[name].dtype}{list(expected[name].shape)}",
            )
    if missing := [name for name in arrays if name not in inputs]:
        raise _mismatch(thing, f"lacks the input {missing[0]!r}")


def _check_outputs(graph: Graph, names: tuple[str, ...], thing: str) -> None:
    if missing := [name for name in names if name not in graph.outputs]:
        raise _mismatch(thing, f"lacks the output {missing[0]!r}")


def _mismatch(thing: str, reason: str) -> BundleError:
    return BundleError(
        thing, f"{reason}: graph and manifest do not belong together", "Export the bundle again"
    )
