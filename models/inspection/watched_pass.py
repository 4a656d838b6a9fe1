"""One pass through a network with an eye on its norms and linear layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgemem.errors import AttachError
from edgemem.models.norms.norm_calls import DEFAULT_EPS, marks_of, norm_call


@dataclass(frozen=True)
class Run:
    """One run of one norm.

    Attributes:
        within: by its own layer's forward, called as a module.
        gate: a factor of what it gives, one; the answer has a slope in it where it depends on the
            norm.
    """

    layer: nn.Module
    of_batch: bool
    x: Tensor
    eps: float
    within: bool
    gate: Tensor


@dataclass
class Pass:
    """What ran in one pass, in order.

    Attributes:
        inputs: of the watched modules.
        linear: layers that answer [n, classes], with their outputs.
    """

    runs: list[Run] = field(default_factory=list)
    inputs: dict[nn.Module, Tensor] = field(default_factory=dict)
    linear: list[tuple[nn.Linear, Tensor]] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.zeros(0))


def watched_pass(
    network: nn.Module,
    answer: Callable[[], Tensor],
    watched: Iterable[nn.Module],
    silenced: int | None = None,
) -> Pass:
    """One pass of a network.

    watched: modules whose inputs are kept. silenced: number of the run of a norm that gives half of
    what it does.

    Raises:
        AttachError: a norm without source statistics.
    """
    seen = Pass()
    running: list[nn.Module] = []
    with _hooks(network, running, seen, set(watched)), _Watching(network, running, seen, silenced):
        seen.logits = answer()
    return seen


@contextmanager
def _hooks(
    network: nn.Module, running: list[nn.Module], seen: Pass, watched: set[nn.Module]
) -> Iterator[None]:
    """While active, `running` holds the modules that are in their forward."""

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        running.append(module)
        if module in watched and args and isinstance(args[0], Tensor):
            seen.inputs.setdefault(module, args[0].detach())

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        running.pop()
        if isinstance(module, nn.Linear) and isinstance(output, Tensor):
            seen.linear.append((module, output.detach()))

    handles = []
    for module in network.modules():
        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave, prepend=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Watching(TorchFunctionMode):
    """While active, notes every run of a norm."""

    def __init__(
        self, network: nn.Module, running: list[nn.Module], seen: Pass, silenced: int | None
    ) -> None:
        super().__init__()
        self._names = {module: name for name, module in network.named_modules()}
        self._layers = {mark: m for m in self._names for mark in marks_of(m)}
        self._running, self._seen, self._silenced = running, seen, silenced

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called by torch in place of `func`."""
        call = norm_call(func, args, kwargs or {})
        if call is None:
            return func(*args, **(kwargs or {}))
        inner = self._running[-1] if self._running else None
        layer = self._layers.get(call.mark)
        if call.of_batch and call.values.get("training", False):
            self._refuse(layer or inner, known=layer is not None)
        result = func(*args, **(kwargs or {}))
        if layer is None:
            return result
        number = len(self._seen.runs)
        gate = torch.ones((), device=result.device, requires_grad=torch.is_grad_enabled())
        x, eps = call.values["input"].detach().clone(), call.values.get("eps", DEFAULT_EPS)
        self._seen.runs.append(Run(layer, call.of_batch, x, eps, layer is inner, gate))
        return result * (0.5 if number == self._silenced else gate)

    def _refuse(self, layer: nn.Module | None, *, known: bool) -> None:
        """Where a norm has no statistics of its source. Others may norm weights in this way."""
        name = f"BatchNorm layer {self._names.get(layer or nn.Identity(), '')!r}"
        if known:
            raise AttachError(
                name,
                "takes the statistics of its batch in eval mode, so the model has no frozen answer",
                "Let it use its running statistics in eval mode",
            )
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise AttachError(
                name,
                "keeps no running statistics, so its source statistics are unknown",
                "Train it with track_running_stats=True",
            )
