"""LSTM, GRU and RNN of a file as those of torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgemem.models.onnx_files.operators.calls import Host, NodeCall, Refused

# Where torch's gates stand among those of a file: ifgo of iofc, rzn of zrh.
GATES = {"LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2], "RNN": [0]}
ACTIVATIONS = {
    "LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"],
}  # fmt: skip
KINDS: dict[str, type[Any]] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}


class Recurrent(nn.Module):
    """A recurrent layer that takes and gives what the operator of a file does.

    In [steps, n, size]; out [steps, directions, n, hidden], and the last states.
    """

    def __init__(self, cells: nn.RNNBase, backwards: bool) -> None:
        super().__init__()
        self.cells = cells
        self.backwards = backwards

    def forward(self, x: Tensor, *states: Tensor | None) -> tuple[Tensor, ...]:
        """states: the first ones [directions, n or 1, hidden]; None = zeros."""
        x = x.flip(0) if self.backwards else x
        directions = 2 if self.cells.bidirectional else 1
        hidden = self.cells.hidden_size
        shape = (directions, x.shape[1], hidden)
        first = [x.new_zeros(shape) if state is None else state.expand(shape) for state in states]
        lstm = isinstance(self.cells, nn.LSTM)
        y, last = self.cells(x, tuple(first) if lstm else first[0])
        y = y.reshape(x.shape[0], x.shape[1], directions, hidden).transpose(1, 2)
        y = y.flip(0) if self.backwards else y
        return (y, *last) if lstm else (y, last)


def recurrent(call: NodeCall, inner: Host, own: Host, bias: Host | None) -> Recurrent:
    """A layer from the weights of a node: inner [d, gates * hidden, in], own [..., hidden].

    Raises Refused for a form that torch has not.
    """
    kind, direction = call.operator, call.attribute("direction", "forward")
    directions, hidden = inner.shape[0], own.shape[2]
    _check(call, directions)
    with torch.random.fork_rng(devices=[]):
        cells: nn.RNNBase = KINDS[kind](
            inner.shape[2], hidden, bidirectional=direction == "bidirectional"
        )
    gates = GATES[kind]
    if inner.shape[1] != len(gates) * hidden or own.shape[1] != inner.shape[1]:
        raise Refused(f"has weights of {list(inner.shape)} for {hidden} hidden values")

    def ordered(rows: Host) -> Tensor:
        parts = rows.reshape(len(gates), hidden, *rows.shape[1:])[gates]
        return torch.from_numpy(np.array(parts, np.float32).reshape(rows.shape))

    for number in range(directions):
        end = "_l0_reverse" if number else "_l0"
        both = np.zeros(2 * len(gates) * hidden, np.float32) if bias is None else bias[number]
        arrays = {
            "weight_ih": inner[number], "weight_hh": own[number],
            "bias_ih": both[: len(gates) * hidden], "bias_hh": both[len(gates) * hidden :],
        }  # fmt: skip
        for name, array in arrays.items():
            getattr(cells, name + end).data = ordered(array)
    return Recurrent(cells, direction == "reverse")


def _check(call: NodeCall, directions: int) -> None:
    kind = call.operator
    if call.given(4):
        raise Refused("takes lengths of sequences")
    if kind == "LSTM" and call.given(7):
        raise Refused("has peepholes")
    if kind == "GRU" and not call.attribute("linear_before_reset", 0):
        raise Refused("resets before the linear layer, which torch's does not")
    if (
        call.attribute("layout", 0)
        or call.attribute("input_forget", 0)
        or "clip" in call.attributes
    ):
        raise Refused("has another layout, coupled gates or a clip")
    usual = ACTIVATIONS[kind] * directions
    if [name.lower() for name in call.attribute("activations", usual)] != usual:
        raise Refused("has other activations than torch's")
