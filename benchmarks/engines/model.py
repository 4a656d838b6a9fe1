"""One adaptation step in every form that an engine of `compare.py` starts from."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.cost.step_cost_model import HP, adaptive_model, write_steps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgemem.export.functions.forward import Function

BATCH, NETWORK, STATISTICS = 16, "ResNet-20", "source"


def write_forms(folder: Path) -> None:
    """`full.onnx` (ours), `step.pt2` and `step_plain.pt2` (traced), `loss.onnx` (forward only).

    The step is the same everywhere; `step_plain` has no transposed convolution, which some
    converters refuse, and `loss` leaves backward pass and update to the engine.
    """
    from edgemem.export import Choices
    from edgemem.export.choices import frame_spec, functions_of

    model = adaptive_model(NETWORK, STATISTICS)
    choices = Choices(BATCH, "full", "all", "ecotta")
    step = functions_of(model, choices, frame_spec(model, choices))[0]["adapt"]
    write_steps(model, BATCH, folder, ("full",))
    with np.load(folder / "inputs.npz") as values:
        inputs = {name: values[name] for name in step.inputs}
    _write_program(step, folder / "step.pt2", plain=False)
    _write_program(step, folder / "step_plain.pt2", plain=True)
    _write_loss(model, inputs["x"], folder / "loss.onnx")
    names = {"inputs": list(inputs), "outputs": list(step.outputs), "block": list(model.block())}
    (folder / "names.json").write_text(json.dumps(names))


def _write_program(step: Function, path: Path, *, plain: bool) -> None:
    """The traced step with torch operators only."""
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    from edgemem.export.lowering.table import decompositions

    table = decompositions()
    table[torch.ops.edgemem.beyond.default] = lambda x, limit, above: torch.where(
        x > limit if above else x < limit, 1.0, 0.0
    )
    if plain:
        table[torch.ops.aten.convolution_backward.default] = _plain_backward
    arguments = tuple(step.inputs.values())
    trace = make_fx(
        step.call, tracing_mode="fake", _allow_non_fake_inputs=True, decomposition_table=table
    )
    torch.export.save(torch.export.export(trace(*arguments).eval(), arguments), path)


def _plain_backward(  # noqa: PLR0917 - the operator's
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: list[int] | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    mask: list[bool],
) -> tuple[Tensor | None, Tensor | None, None]:
    """Strided gradients by zeros between the pixels, weight gradients by slices; dilation 1."""
    import torch
    import torch.nn.functional as F

    from edgemem.export.lowering.convolution import input_gradient

    (n, _, h, w), (o, i, kh, kw) = grad.shape, weight.shape
    dx = dw = None
    if mask[0]:
        g = F.pad(grad.unsqueeze(4), (0, stride[1] - 1)).reshape(n, o, h, w * stride[1])
        g = F.pad(g.unsqueeze(3), (0, 0, 0, stride[0] - 1)).reshape(n, o, h * stride[0], -1)
        ends = [x.shape[2 + a] + 2 * padding[a] - weight.shape[2 + a] + 1 for a in (0, 1)]
        g = F.pad(g, (0, ends[1] - g.shape[3], 0, ends[0] - g.shape[2]))
        dx = input_gradient(g, x, weight, [1, 1], padding, dilation, groups)
    if mask[1]:
        padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
        rows = (h - 1) * stride[0] + 1
        flat = grad.reshape(n, o, h * w).clone(memory_format=torch.contiguous_format)
        columns, taps = (w - 1) * stride[1] + 1, []
        for a, b in itertools.product(range(kh), range(kw)):
            seen = padded[:, :, a : a + rows : stride[0], b : b + columns : stride[1]]
            seen = seen.reshape(n, i, h * w).transpose(1, 2).contiguous()
            taps.append(torch.bmm(flat, seen).sum(0))
        dw = torch.stack(taps, 2).reshape(o, i, kh, kw)
    return dx, dw, None


def _write_loss(model: nn.Module, x: np.ndarray, path: Path) -> None:
    """x -> loss, logits; the block's arrays are initialisers. Norms are plain arithmetic."""
    import torch

    from edgemem.export.functions.objective import ecotta
    from edgemem.export.lowering.table import decompositions

    objective = ecotta(10)
    hp = {k: torch.tensor(v) for k, v in (objective.hyper_parameters | HP).items()}

    class WithLoss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            output = self.model(x, None)
            return objective.loss(output, hp).value, output.logits

    frames = torch.from_numpy(x)
    program = torch.export.export(WithLoss().eval(), (frames,), strict=False)
    program = program.run_decompositions(decompositions())
    exported = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False)
    exported.save(path)
