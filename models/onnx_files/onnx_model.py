"""From an ONNX file to a network of torch that is proven to be the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from edgemem.bundle.frame_spec import FrameSpec
from edgemem.errors import CheckpointError, InputError
from edgemem.models.input_sizes import size_name
from edgemem.models.onnx_files.comparing import GivenFile, batch_of, compare
from edgemem.models.onnx_files.file_inputs import axis_names
from edgemem.models.onnx_files.network import OnnxNetwork
from edgemem.models.onnx_files.network_building import build_network
from edgemem.models.onnx_files.onnx_graph import OnnxGraph, read_graph


def load_onnx(
    path: Path,
    input_shape: tuple[int, ...] | None,
    frames_input: str | None = None,
    open_shape: Callable[[], tuple[int, ...]] | None = None,
) -> tuple[OnnxNetwork, tuple[str, ...] | None]:
    """A network in eval mode that answers as a file does within 1e-4, and its class names if known.

    input_shape: of one frame, where the file leaves sizes open; None = as the file says.
    frames_input: of several inputs the one that the frames are. open_shape: what tells the shape
    where neither does, such as that of source frames.

    Raises:
        CheckpointError: damaged, or something of it is not converted or differs; names the node.
        InputError: the shape is missing, or contradicts the file.
    """
    graph = read_graph(path, frames_input)
    if input_shape is None and open_shape is not None and None in graph.sizes[1:]:
        input_shape = open_shape()
    frame = _frame(graph, input_shape)
    spec = _spec(graph, frame)
    # Built first, with a bound on sizes: the engine computes whatever a file asks for.
    network, tried = _built(graph, spec)
    given = GivenFile(path)
    fixed_batch = batch_of(given, graph, spec)
    if fixed_batch != tried:
        network = build_network(graph, spec, fixed_batch)
    compare(given, graph, network, spec, fixed_batch)
    return network, graph.labels


def compare_sizes(
    path: Path,
    first: tuple[int, ...],
    shapes: Iterable[tuple[int, ...]],
    frames_input: str | None,
) -> None:
    """Whether a file that is converted for frames of one shape is the same at others, too.

    What depends on the size is in the conversion, and not in the weights.

    Raises:
        CheckpointError: it is not.
        InputError: the file does not take frames of a shape.
    """
    network, _ = load_onnx(path, first, frames_input)
    graph, given = read_graph(path, frames_input), GivenFile(path)
    for shape in shapes:
        size = size_name(shape)
        spec = _spec(graph, _frame(graph, shape, f"--sizes {size}"))
        try:
            compare(given, graph, network, spec, batch_of(given, graph, spec))
        except CheckpointError as error:
            raise CheckpointError(
                f"size {size}",
                f"{error.thing} {error.reason}",
                "Leave it out, or export one bundle for each size",
            ) from error


def _spec(graph: OnnxGraph, frame: tuple[int, ...]) -> FrameSpec:
    """What the file takes."""
    named: dict[str, int] = {}
    if graph.beside:
        names = axis_names(graph.path, graph.input_name)
        named = {n: size for n, size in zip(names, frame, strict=True) if n is not None}
    beside = tuple(item.spec(graph.path, named) for item in graph.beside)
    return FrameSpec(frame, 1, companions=False, known_companions=0, ids=graph.ids, inputs=beside)


def _built(graph: OnnxGraph, frame: FrameSpec) -> tuple[OnnxNetwork, int | None]:
    """A network, and the batch that it was built for: as the file says, or one that it hides."""
    declared = graph.sizes[0]
    try:
        return build_network(graph, frame, declared), declared
    except CheckpointError:
        if declared is not None:
            raise
        try:
            return build_network(graph, frame, 1), 1
        except CheckpointError:
            pass  # the first error tells more
        raise


def _frame(
    graph: OnnxGraph, given: tuple[int, ...] | None, option: str | None = None
) -> tuple[int, ...]:
    own = graph.sizes[1:]
    shown = ",".join("?" if size is None else str(size) for size in own)
    if given is None:
        if None in own:
            raise InputError(
                "--input-shape",
                f"is missing, and {graph.path.name} leaves sizes of its frames open ({shown})",
                "Pass the shape of one frame, such as 3,224,224",
            )
        return tuple(size for size in own if size is not None)
    fits = len(given) == len(own) and all(
        size in (None, wanted) for size, wanted in zip(own, given, strict=False)
    )
    if not fits:
        raise InputError(
            option or f"--input-shape {','.join(map(str, given))}",
            f"contradicts {graph.path.name}, whose {graph.input_name!r} is {shown}",
            "Leave it out where the file has numbers, or pass a shape that fits",
        )
    return given
