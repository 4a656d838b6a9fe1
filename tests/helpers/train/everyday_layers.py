"""Layers as people use them, between a convolution with BatchNorm and a classifier."""

import torch
import torch.nn.functional as F
from torch import nn


class Call(nn.Module):
    """A function of one tensor as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Tokens(nn.Module):
    """A layer of sequences [n, t, c], or [t, n, c], for maps [n, c, ...]."""

    def __init__(self, layer, batch_first=True, **options):
        super().__init__()
        self.layer, self.batch_first, self.options = layer, batch_first, options

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens if self.batch_first else tokens.transpose(0, 1)
        attends = isinstance(self.layer, nn.MultiheadAttention)
        found = self.layer(*[tokens] * (3 if attends else 1), **self.options)
        found = found[0] if isinstance(found, tuple) else found
        return (found if self.batch_first else found.transpose(0, 1)).transpose(1, 2)


class LastState(nn.Module):
    """The last hidden state of a recurrent layer, of all its directions."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        _, state = self.layer(x.flatten(2).transpose(1, 2))
        state = state[0] if isinstance(state, tuple) else state
        return state.transpose(0, 1).flatten(1)


class Attention(nn.Module):
    """Attention as vision transformers spell it, reshaping by the batch's own size."""

    def __init__(self, channels=8, heads=2, causal=False):
        super().__init__()
        self.qkv, self.heads, self.causal = nn.Linear(channels, 3 * channels), heads, causal

    def forward(self, x):
        n, c, *size = x.shape
        tokens = self.qkv(x.reshape(n, c, -1).transpose(1, 2))
        q, k, v = tokens.reshape(n, -1, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return found.transpose(1, 2).reshape(n, -1, c).transpose(1, 2).reshape(n, c, *size)


class SqueezeExcite(nn.Module):
    def __init__(self, channels=8):
        super().__init__()
        self.down, self.up = nn.Linear(channels, 2), nn.Linear(2, channels)

    def forward(self, x):
        n, c, _, _ = x.size()
        squeezed = F.adaptive_avg_pool2d(x, 1).view(n, c)
        return x * F.hardsigmoid(self.up(F.silu(self.down(squeezed)))).view(n, c, 1, 1)


def shuffled(x):
    """Channel shuffle as ShuffleNet spells it."""
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


class Skip(nn.Module):
    """A U-Net's way: down, up to the size of what was there, and beside it."""

    def forward(self, x):
        small = F.avg_pool2d(x, 2)
        up = F.interpolate(small, size=x.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat([x, up], 1)


def activations(*kinds):
    return nn.Sequential(*(nn.Sequential(nn.Conv2d(8, 8, 1), kind) for kind in kinds))


def encoder_layer(norm_first):
    return nn.TransformerEncoderLayer(
        8, 2, 16, 0.1, "gelu", batch_first=True, norm_first=norm_first
    )


IMAGE, SIGNAL, VOLUME, VECTOR = (8, 7, 6), (8, 9), (8, 3, 5, 4), (8,)
# name -> what makes the layer, and the maps [c, ...] that it takes
LAYERS = {
    "adaptive pools": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d((5, 4)), nn.AdaptiveMaxPool2d((3, None))),
        IMAGE,
    ),
    "adaptive pools of signals": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool1d(7), nn.AdaptiveMaxPool1d(4)),
        SIGNAL,
    ),
    "adaptive pools of volumes": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool3d((2, 5, 3)), nn.AdaptiveMaxPool3d(2)),
        VOLUME,
    ),
    "pools with ends": (
        lambda: nn.Sequential(
            nn.MaxPool2d(3, 2, 1, ceil_mode=True),
            nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
            nn.AvgPool2d(2, 1, divisor_override=3),
        ),
        IMAGE,
    ),
    "pools of volumes": (
        lambda: nn.Sequential(nn.MaxPool3d(2, 1), nn.AvgPool3d(2, 2, 1, ceil_mode=True)),
        VOLUME,
    ),
    "upsampling": (
        lambda: nn.Sequential(
            nn.Upsample(scale_factor=2),
            nn.Upsample(scale_factor=1.5, mode="bilinear"),
            nn.Upsample(size=(9, 11), mode="bilinear", align_corners=True),
            nn.Upsample(size=(8, 8), mode="bicubic"),
        ),
        IMAGE,
    ),
    "upsampling of signals": (
        lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.Upsample(size=7, mode="linear")),
        SIGNAL,
    ),
    "a skip": (Skip, IMAGE),
    "transposed convolution": (
        lambda: nn.ConvTranspose2d(8, 6, 3, 2, 1, 1, groups=2),
        IMAGE,
    ),
    "transposed convolution of signals": (
        lambda: nn.ConvTranspose1d(8, 6, 4, 3, 1, dilation=2),
        SIGNAL,
    ),
    "transposed convolution of volumes": (lambda: nn.ConvTranspose3d(8, 4, 2, 2), VOLUME),
    "convolution of volumes": (
        lambda: nn.Sequential(nn.Conv3d(8, 6, 3, (1, 2, 1), 1), nn.BatchNorm3d(6), nn.ReLU()),
        VOLUME,
    ),
    "attention": (lambda: Attention(), IMAGE),
    "causal attention": (lambda: Attention(causal=True), SIGNAL),
    "multi-head attention": (
        lambda: Tokens(nn.MultiheadAttention(8, 2, batch_first=True), need_weights=False),
        IMAGE,
    ),
    "multi-head attention, time first": (
        lambda: Tokens(nn.MultiheadAttention(8, 4), batch_first=False),
        SIGNAL,
    ),
    "transformer layers": (
        lambda: nn.Sequential(Tokens(encoder_layer(False)), Tokens(encoder_layer(True))),
        SIGNAL,
    ),
    "LSTM": (lambda: Tokens(nn.LSTM(8, 5, batch_first=True)), SIGNAL),
    "LSTM, both ways": (
        lambda: LastState(nn.LSTM(8, 3, 2, batch_first=True, dropout=0.1, bidirectional=True)),
        (8, 4),
    ),
    "GRU, both ways": (
        lambda: Tokens(nn.GRU(8, 3, bidirectional=True), batch_first=False),
        (8, 5),
    ),
    "norms": (
        lambda: nn.Sequential(
            nn.LayerNorm([8, 7, 6]),
            nn.GroupNorm(4, 8),
            nn.Tanh(),  # without it the next norm undoes scales and shifts: no gradient to compare
            nn.InstanceNorm2d(8, affine=True),
            nn.LocalResponseNorm(3),
        ),
        IMAGE,
    ),
    "smooth activations": (
        lambda: activations(nn.SiLU(True), nn.GELU(), nn.Mish(), nn.Softplus(), nn.Sigmoid()),
        IMAGE,
    ),
    "bent activations": (
        lambda: activations(
            nn.Hardswish(), nn.Hardsigmoid(), nn.PReLU(8), nn.RReLU(), nn.Softshrink(0.1)
        ),
        IMAGE,
    ),
    "paddings": (
        lambda: nn.Sequential(
            nn.ReflectionPad2d((1, 2, 0, 3)),
            nn.ReplicationPad2d((2, 0, 1, 1)),
            nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"),
        ),
        IMAGE,
    ),
    "shuffles": (
        lambda: nn.Sequential(
            Call(shuffled), nn.ChannelShuffle(4), nn.PixelShuffle(2), nn.PixelUnshuffle(2)
        ),
        IMAGE,
    ),
    "squeeze and excite": (SqueezeExcite, IMAGE),
    "dropouts at rest": (
        lambda: nn.Sequential(nn.Dropout2d(), nn.AlphaDropout(), nn.Dropout()),
        IMAGE,
    ),
    "sampling a grid": (
        lambda: Call(
            lambda x: F.grid_sample(
                x,
                F.affine_grid(x.mean((2, 3))[:, :6].view(-1, 2, 3), x.shape, align_corners=False),
                align_corners=False,
            )
        ),
        IMAGE,
    ),
    "vectors": (
        lambda: nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout()),
        VECTOR,
    ),
}


class Network(nn.Module):
    """A stem with BatchNorm, one of these layers, and a classifier of what is left."""

    def __init__(self, name):
        super().__init__()
        make, (channels, *size) = LAYERS[name]
        conv = [nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d][len(size)]
        norm = [nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d][len(size)]
        self.input_shape = (3, *size)
        kernel = [1] if size else []
        self.stem = nn.Sequential(conv(3, channels, *kernel), norm(channels), nn.Tanh())
        self.layer = make()
        left = self.layer.eval()(torch.zeros(2, channels, *size)).flatten(1).shape[1]
        self.classifier = nn.Linear(left, 4)

    def forward(self, x):
        found = self.layer(self.stem(x))
        return self.classifier(found.reshape(found.shape[0], -1))
