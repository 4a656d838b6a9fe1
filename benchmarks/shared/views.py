"""Random views of frames, in plain torch; every draw comes from torch's global generator.

`image_view` is the view of CoTTA (Wang et al., CVPR 2022, augmentation-averaged pseudo-labels) and
RoTTA (Yuan et al., CVPR 2023, robust training with timeliness), with the strengths that
mariodoebler/test-time-adaptation publishes. One draw serves a whole batch, as there; noise is drawn
for each number. They pad the image before turning it; here the sampling goes past the edge in the
same way, and only what the crop keeps is computed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

GREY = (0.2989, 0.587, 0.114)
NOISE = 0.005


def image_view(frames: Tensor) -> Tensor:
    """Colours, small turn, shift and zoom, blur, flip, noise; [n, 3, h, w] in [0, 1]."""
    view = moved(jittered(frames.clamp(0, 1)), margin=2, padding="border")
    view = flipped(blurred(view, uniform(0.001, 0.5), radius=2))
    return (view + NOISE * torch.randn_like(view)).clamp(0, 1)


def sound_view(signals: Tensor) -> Tensor:
    """Gain of 0.8 to 1.2, a shift of up to 1/16 with zeros coming in, noise; [n, c, t].

    Ours: none of the papers adapts on sound. The noise is 0.5 % of each signal's deviation.
    """
    length = signals.shape[-1]
    reach = length // 16
    shift = int(torch.randint(-reach, reach + 1, ()))
    padded = functional.pad(signals, (reach, reach))
    view = uniform(0.8, 1.2)[0] * padded[..., reach - shift : reach - shift + length]
    return view + NOISE * signals.std((1, 2), keepdim=True) * torch.randn_like(view)


def warm_up_view(frames: Tensor) -> Tensor:
    """EcoTTA's view in warm-up (Lily-Le/EcoTTA): colours, blur, grey, drawn for each image.

    Colours 0.4, hue 0.1 on 40 % of the images, 3x3 blur on 20 %, grey on 10 %; the order of the
    colour changes is drawn once a batch.
    """
    n = len(frames)
    coloured = frames
    for change in torch.randperm(4).tolist():
        coloured = COLOURS[change](coloured, uniform(*WARM_UP_RANGES[change], n))
    view = torch.where(chosen(0.4, n), coloured, frames)
    padded = functional.pad(view, (1, 1, 1, 1), mode="reflect")
    view = torch.where(chosen(0.2, n), blurred(padded, uniform(0.1, 2.0, n), radius=1), view)
    return torch.where(chosen(0.1, n), grey(view).expand_as(view), view)


def uniform(low: float, high: float, count: int = 1) -> Tensor:
    """Random numbers [count, 1, 1, 1] that scale frames."""
    return torch.empty(count, 1, 1, 1).uniform_(low, high)


def chosen(share: float, count: int) -> Tensor:
    """True for a random share of frames, [count, 1, 1, 1]."""
    return torch.rand(count, 1, 1, 1) < share


def grey(frames: Tensor) -> Tensor:
    """Luma [n, 1, h, w]."""
    weights = torch.tensor(GREY).view(1, 3, 1, 1)
    return (frames * weights).sum(1, keepdim=True)


def brighter(frames: Tensor, factor: Tensor) -> Tensor:
    """Brightness times a factor."""
    return (frames * factor).clamp(0, 1)


def contrasted(frames: Tensor, factor: Tensor) -> Tensor:
    """Distance from the mean luma of the image times a factor."""
    mean = grey(frames).mean((1, 2, 3), keepdim=True)
    return (mean + factor * (frames - mean)).clamp(0, 1)


def saturated(frames: Tensor, factor: Tensor) -> Tensor:
    """Distance from grey times a factor."""
    plain = grey(frames)
    return (plain + factor * (frames - plain)).clamp(0, 1)


def hue_shifted(frames: Tensor, turns: Tensor) -> Tensor:
    """Hue moved by a part of a turn."""
    top, least = frames.amax(1, keepdim=True), frames.amin(1, keepdim=True)
    spread = top - least
    red, green, blue = frames.split(1, 1)
    safe = spread.clamp_min(1e-12)
    sector = torch.where(
        top == red,
        (green - blue) / safe,
        torch.where(top == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sector = sector + 6 * turns
    offsets = torch.tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)
    k = (offsets + sector).remainder(6)
    return (top - spread * torch.minimum(k, 4 - k).clamp(0, 1)).clamp(0, 1)


def gamma_changed(frames: Tensor, gamma: Tensor) -> Tensor:
    """Frames to the power of gamma."""
    return frames.clamp(1e-8, 1) ** gamma


COLOURS = (brighter, contrasted, saturated, hue_shifted, gamma_changed)
RANGES = ((0.6, 1.4), (0.7, 1.3), (0.5, 1.5), (-0.06, 0.06), (0.7, 1.3))
WARM_UP_RANGES = ((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1))


def jittered(frames: Tensor) -> Tensor:
    """All five colour changes in random order."""
    for change in torch.randperm(len(COLOURS)).tolist():
        frames = COLOURS[change](frames, uniform(*RANGES[change]))
    return frames


def moved(frames: Tensor, margin: int, padding: str) -> Tensor:
    """Turned by up to 15 degrees, shifted, zoomed by 0.9 to 1.1; margin: pixels around the crop.

    The shift is a whole number of pixels, up to 1/16 of the image with half of it as border around.
    """
    height, width = frames.shape[-2:]
    border = height // 2
    angle = math.radians(uniform(-15, 15).item())
    reach = [(size + 2 * border) / 16 for size in (width, height)]
    shift = [round(uniform(-most, most).item()) for most in reach]
    return warped(frames, angle, shift, uniform(0.9, 1.1).item(), margin, padding)


def warped(
    frames: Tensor, angle: float, shift: list[int], zoom: float, margin: int, padding: str
) -> Tensor:
    """Frames turned (radians, clockwise), zoomed about their centre, shifted by (x, y) pixels."""
    height, width = frames.shape[-2:]
    y = torch.arange(-margin, height + margin).view(-1, 1) - (height - 1) / 2 - shift[1]
    x = torch.arange(-margin, width + margin).view(1, -1) - (width - 1) / 2 - shift[0]
    cosine, sine = math.cos(angle) / zoom, math.sin(angle) / zoom
    from_x = (cosine * x + sine * y) * 2 / (width - 1)
    from_y = (cosine * y - sine * x) * 2 / (height - 1)
    grid = torch.stack([from_x, from_y], -1).expand(len(frames), -1, -1, -1)
    return functional.grid_sample(frames, grid, padding_mode=padding, align_corners=True)


def blurred(frames: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Gaussian blur; the result is smaller by the radius on each side."""
    offsets = torch.arange(-radius, radius + 1).view(1, -1)
    weights = (-0.5 * (offsets / sigma.view(-1, 1)).square()).exp()
    weights = (weights / weights.sum(1, keepdim=True)).view(-1, 2 * radius + 1, 1, 1, 1)
    for axis in (2, 3):
        size = frames.shape[axis] - 2 * radius
        taps = [frames.narrow(axis, k, size) * weights[:, k] for k in range(2 * radius + 1)]
        frames = torch.stack(taps).sum(0)
    return frames


def flipped(frames: Tensor) -> Tensor:
    """Left and right exchanged, every other time."""
    return frames.flip(-1) if torch.rand(()) < 0.5 else frames
