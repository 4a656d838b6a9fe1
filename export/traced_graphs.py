"""The graphs of a bundle for one size of frames: traced, written, and compared with torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from torch import Tensor

from edgemem.bundle.frame_spec import FrameSize, FrameSpec
from edgemem.bundle.manifest import REMEMBER, Plan
from edgemem.bundle.reference_frames import reference_frames
from edgemem.export.checks.onnx_graphs import Arrays, onnx_engine
from edgemem.export.checks.parity import check_at_rest, check_learn, check_parity, check_remember
from edgemem.export.checks.parity_result import Parity
from edgemem.export.checks.way_out import with_way_out
from edgemem.export.choices import Choices, functions_of
from edgemem.export.frame_sizes import at_size
from edgemem.export.functions.class_reading import Reading
from edgemem.export.functions.forward import Function
from edgemem.export.functions.objective import Objective
from edgemem.export.lowering.table import Untraceable
from edgemem.export.memory_plans import check_plans, plan_graphs
from edgemem.export.tracing.trace import to_onnx
from edgemem.export.turned_kernels import turn_on_load
from edgemem.export.weights import strip_notes
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.input_sizes import size_name
from edgemem.models.tensor_rows import named_tensors, of_array

Report = Callable[[str], None]


@dataclass(frozen=True)
class TracedGraphs:
    """All graphs for frames of one size.

    Attributes:
        graphs: by name, those of the step included.
        steps: names of the graphs of the step, `adapt` first.
        suffix: of their files' names; empty for the model's own size.
        outputs: shapes of what the outputs of a task say of one frame.
    """

    frames: FrameSpec
    functions: Mapping[str, Function]
    objective: Objective
    graphs: Mapping[str, onnx.ModelProto]
    steps: tuple[str, ...]
    suffix: str = ""
    outputs: tuple[tuple[int, ...], ...] = ()

    def step_inputs(self) -> dict[str, Tensor]:
        """Inputs of a step on reference frames."""
        given = named_tensors(of_array(reference_frames(self.frames, 0)))
        return self.functions["adapt"].inputs | given

    def write(self, folder: Path) -> None:
        """Write every graph to a file of its own."""
        for name, graph in self.graphs.items():
            content = graph.SerializeToString(deterministic=True)
            (folder / f"{name}{self.suffix}.onnx").write_bytes(content)

    def keep_plans(self, folder: Path, plans: list[Plan]) -> FrameSize:
        """Delete graphs of the step that no plan names; the files of this size.

        What has no graph of its own for a plan has the one before, which it would be again.
        """
        kept = {plan.graph for plan in plans}
        own = {name: name for name in self.graphs if name not in self.steps}
        for name in ("adapt", *sorted(kept)):
            before = "adapt_balanced" if name == "adapt_lean" else "adapt"
            own[name] = next(n for n in (name, before, "adapt") if n in self.steps)
        for name in set(self.steps) - set(own.values()):
            (folder / f"{name}{self.suffix}.onnx").unlink()
        files = {name: f"{file}{self.suffix}.onnx" for name, file in own.items()}
        return FrameSize(
            self.frames.shape, files, f"reference{self.suffix}.safetensors", self.outputs
        )


def traced_graphs(
    model: AdaptiveModel,
    choices: Choices,
    frames: FrameSpec,
    reading: Reading | None,
    report: Report,
    suffix: str = "",
) -> TracedGraphs:
    """The graphs of a model for the size of frames that it is for at present.

    Raises:
        ExportError: the model at rest is not the one that was given, or a graph cannot be traced.
    """
    check_at_rest(model, frames)
    functions, objective = functions_of(model, choices, frames, reading)
    graphs = {}
    for name, function in functions.items():
        report(f"tracing {name}{suffix}")
        try:
            graphs[name] = to_onnx(function)
        except Untraceable as error:
            raise with_way_out(error, name, model, choices, frames, reading) from error
    report("planning memory")
    steps = plan_graphs(graphs["adapt"])
    graphs |= steps
    for graph in graphs.values():
        turn_on_load(graph)
        strip_notes(graph)
    outputs = tuple(spec.shape for spec in model.attachment.named)
    return TracedGraphs(frames, functions, objective, graphs, tuple(steps), suffix, outputs)


def further_sizes(
    model: AdaptiveModel, choices: Choices, frames: FrameSpec, report: Report
) -> list[TracedGraphs]:
    """The graphs for every further size; raises as `traced_graphs` and `at_size`."""
    found = []
    for shape in choices.sizes:
        spec = replace(frames, shape=shape)
        with at_size(model, shape):
            suffix = f"-{size_name(shape)}"
            found.append(traced_graphs(model, choices, spec, None, report, suffix))
    return found


def compared(folder: Path, model: AdaptiveModel, traced: TracedGraphs) -> tuple[Parity, Arrays]:
    """Written graphs beside torch: the figures, and torch's outputs for the reference file.

    Raises:
        ExportError: a graph computes something else than torch.
    """
    with at_size(model, traced.frames.shape):
        return _compared(folder, model, traced)


def _compared(folder: Path, model: AdaptiveModel, traced: TracedGraphs) -> tuple[Parity, Arrays]:
    functions, frames, suffix = traced.functions, traced.frames, traced.suffix
    predict, adapt, exercise = functions["predict"], functions["adapt"], traced.objective.exercise
    engine = onnx_engine(folder, suffix)
    parity, reference = check_parity(engine, model, predict, adapt, frames, exercise)
    parity.check()
    check_plans(folder, list(traced.steps), traced.step_inputs(), suffix)
    if REMEMBER in functions:
        path = folder / f"{REMEMBER}{suffix}.onnx"
        check_remember(path, functions[REMEMBER], frames, parity.rounding)
    if "learn" in functions:
        check_learn(folder / f"learn{suffix}.onnx", functions["learn"], frames, parity.rounding)
    return parity, reference
