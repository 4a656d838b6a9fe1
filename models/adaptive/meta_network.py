"""The meta network: EcoTTA's small trainable companion of one frozen part.

Song et al., CVPR 2023, section 3.1: `u = BN(x) + ReLU(BN'(Conv(u_in)))`, where x is the output of
the frozen part and u_in its input. Written so that all-zero arrays are exactly the identity on x:
the affine pair of BN is relative to the source moments of x, that of BN' is absolute.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from edgemem.errors import AttachError
from edgemem.models.norms.moments import per_channel
from edgemem.models.norms.statistics import MixedStatistics, PassSettings
from edgemem.printable import shown

# By rank of the maps. Maps [n, c] are signals of length one.
CONVOLUTIONS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {
    2: nn.Conv1d,
    3: nn.Conv1d,
    4: nn.Conv2d,
    5: nn.Conv3d,
}
EPS = 1e-5
LARGEST_KERNEL = 127


@dataclass(frozen=True)
class Form:
    """Shape of the convolution in a meta network.

    Attributes:
        kernel_size: odd.
        bottleneck: 0 = one dense convolution; r = 1x1 down to out_channels/r, k x k there, 1x1 up.
        groups: of the k x k convolution; 0 = depthwise (k x k per channel, then 1x1), which keeps
            wide layers light.
    """

    kernel_size: int = 3
    bottleneck: int = 0
    groups: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.kernel_size <= LARGEST_KERNEL or self.kernel_size % 2 == 0:
            raise AttachError(
                f"kernel size {shown(self.kernel_size)}",
                f"must be odd, positive and at most {LARGEST_KERNEL}",
                "Use 1, 3 or 5",
            )
        if self.bottleneck < 0 or self.groups < 0:
            raise AttachError(
                "meta network form", "bottleneck and groups cannot be negative", "Use 0 or more"
            )

    def inner(self, channels: int) -> int:
        """Channels between the 1x1 convolutions of a bottleneck to so many channels."""
        return max(channels // self.bottleneck, 1)


class OutputNorm(MixedStatistics):
    """BN on the frozen output: normalise, scale, then return to the source moments.

    Without known source moments (no warm-up) there is nothing to return to, and it is an affine
    map around the identity.
    """

    def __init__(self, channels: int, settings: PassSettings) -> None:
        super().__init__(torch.zeros(channels), torch.ones(channels), settings)
        self.known = False
        self.scale_delta = nn.Parameter(torch.zeros(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    @property
    def normalizes(self) -> bool:
        """Without known source moments it does not."""
        return self.known

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, ...] -> the same shape; x itself, bit for bit, at zero and source statistics."""
        gain = self.scale_delta + 1.0
        if not self.known:
            return x * per_channel(gain, x) + per_channel(self.shift, x)
        mean, var = self.mean, self.var + EPS
        deviation = torch.sqrt(var)
        if self.settings.alpha is not None:
            distance, var = self.moments(x + per_channel(-mean, x), EPS)
            mean = mean + distance
        scale = (deviation / torch.sqrt(var)) * gain
        shift = (self.mean - mean * scale) + deviation * self.shift
        return x * per_channel(scale, x) + per_channel(shift, x)


class BranchNorm(MixedStatistics):
    """BN' after the convolution. At weight = bias = 0 the branch is silent."""

    def __init__(self, channels: int, settings: PassSettings) -> None:
        super().__init__(torch.zeros(channels), torch.ones(channels), settings)
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, ...] -> the same shape."""
        return self.normalized(x, self.weight, self.bias, EPS)


def branch_convolution(
    channels: tuple[int, int], stride: tuple[int, ...], rank: int, form: Form
) -> nn.Module:
    """The convolution of a meta network, (in, out) channels, in the given form."""
    if rank == 2:
        return _OfVectors(branch_convolution(channels, (1,), 3, replace(form, kernel_size=1)))
    conv, (inputs, outputs), k = CONVOLUTIONS[rank], channels, form.kernel_size
    pointwise = {"kernel_size": 1, "bias": False}
    wide = {"kernel_size": k, "stride": stride, "padding": k // 2, "bias": False}
    if form.bottleneck:
        inner = form.inner(outputs)
        return nn.Sequential(
            conv(inputs, inner, **pointwise),  # type: ignore[arg-type]
            conv(inner, inner, groups=form.groups or inner, **wide),  # type: ignore[arg-type]
            conv(inner, outputs, **pointwise),  # type: ignore[arg-type]
        )
    if form.groups == 0:
        return nn.Sequential(
            conv(inputs, inputs, groups=inputs, **wide),  # type: ignore[arg-type]
            conv(inputs, outputs, **pointwise),  # type: ignore[arg-type]
        )
    return conv(inputs, outputs, groups=form.groups, **wide)  # type: ignore[arg-type]


class _OfVectors(nn.Module):
    """A convolution of signals, for maps [n, c]."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        """[n, in] -> [n, out]."""
        found: Tensor = self.convolution(x.unsqueeze(2))
        return found.squeeze(2)


class MetaNetwork(nn.Module):
    """BN on the frozen output plus a convolution block in parallel to the frozen part."""

    def __init__(
        self,
        channels: tuple[int, int],
        stride: tuple[int, ...],
        rank: int,
        form: Form,
        settings: PassSettings,
    ) -> None:
        super().__init__()
        self.output_norm = OutputNorm(channels[1], settings)
        self.convolution: nn.Module | None = branch_convolution(channels, stride, rank, form)
        self.branch_norm: BranchNorm | None = BranchNorm(channels[1], settings)
        self.reset()

    def reset(self) -> None:
        """To what it is when attached: all arrays zero, no source moments known."""
        self.output_norm.known = False
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
            for name, buffer in self.named_buffers():
                buffer.fill_(1.0 if name.split(".")[-1] == "var" else 0.0)

    @contextmanager
    def without_branch(self) -> Iterator[None]:
        """Leave the convolution block out: at its zero value it is silent and gets no gradient."""
        kept = self.convolution, self.branch_norm
        self.convolution = self.branch_norm = None
        try:
            yield
        finally:
            self.convolution, self.branch_norm = kept

    def forward(self, part_input: Tensor, part_output: Tensor) -> Tensor:
        """Input [n, in, ...] and output [n, out, ...] of the frozen part -> [n, out, ...]."""
        aligned: Tensor = self.output_norm(part_output)
        if self.convolution is None or self.branch_norm is None:
            return aligned
        return aligned + torch.relu(self.branch_norm(self.convolution(part_input)))
