"""The architectures of the matrix: what each is, and how to make it. Weights are random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from benchmarks.zoo import audio_and_sensors, outputs_of_other_kinds, transformers_models
from benchmarks.zoo.without_cuda import import_torchvision
from edgemem.models.tasks.task_outputs import AUTO, Task

CLASSES = 10
IMAGE = 64


@dataclass(frozen=True)
class Architecture:
    """One row.

    Attributes:
        shape: of a frame.
        make: gives the model.
        task: what its answers are, as `align` takes it.
        tokens: how many there are, where its frames are ids of these.
    """

    name: str
    library: str
    shape: tuple[int, ...]
    make: Callable[[], nn.Module]
    task: Task | Literal["auto"] = AUTO
    tokens: int = 0

    def read(self, frames: NDArray[np.float32]) -> NDArray[Any]:
        """Frames between 0 and 1 as the model takes them."""
        return (frames * (self.tokens - 1)).astype(np.int64) if self.tokens else frames


def _timm(
    name: str, size: int = IMAGE, *, called: str | None = None, **choices: Any
) -> Architecture:
    def make() -> nn.Module:
        import_torchvision()
        import timm

        model: nn.Module = timm.create_model(name, num_classes=CLASSES, **choices)
        return model

    return Architecture(called or name, "timm", (3, size, size), make)


def _torchvision(name: str, size: int = IMAGE, **choices: Any) -> Architecture:
    def make() -> nn.Module:
        models = import_torchvision().models
        model: nn.Module = models.get_model(name, weights=None, num_classes=CLASSES, **choices)
        return model

    return Architecture(name, "torchvision", (3, size, size), make)


def _video(name: str, size: int = 32, frames: int = 8) -> Architecture:
    made = _torchvision(name)
    return Architecture(name, "torchvision", (3, frames, size, size), made.make)


def _built(
    name: str,
    library: str,
    shape: tuple[int, ...],
    make: Callable[[int], nn.Module],
    task: Task | Literal["auto"] = AUTO,
    tokens: int = 0,
) -> Architecture:
    return Architecture(name, library, shape, lambda: make(CLASSES), task, tokens)


SMALL_SWIN = {"embed_dim": 32, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}

ARCHITECTURES: tuple[Architecture, ...] = (
    # Convolution networks with BatchNorm.
    _timm("mobilenetv2_050"),
    _timm("mobilenetv3_small_050"),
    _timm("mobilenetv4_conv_small"),
    _timm("efficientnet_lite0"),
    _timm("mnasnet_small"),
    _timm("ghostnet_050"),
    _timm("ghostnetv2_100"),
    _timm("regnetx_002"),
    _timm("regnety_002"),
    _timm("resnet18"),
    _timm("resnet26"),
    _timm("resnext26ts"),
    _timm("seresnext26d_32x4d"),
    _timm("densenet121"),
    _timm("mobileone_s0"),
    _timm("repvgg_a0"),
    _timm("repghostnet_050"),
    _timm("tinynet_e"),
    _timm("lcnet_050"),
    _timm("hardcorenas_a"),
    _timm("fbnetc_100"),
    _timm("spnasnet_100"),
    _timm("semnasnet_075"),
    _timm("hrnet_w18_small"),
    _timm("dla46_c"),
    _timm("selecsls42b"),
    _timm("vovnet39a"),
    _timm("cspresnet50"),
    _timm("darknet17"),
    _timm("res2net50_14w_8s"),
    _timm("skresnet18"),
    _timm("inception_v3", 96),
    _timm("xception41", 96),
    _timm("starnet_s1"),
    _torchvision("shufflenet_v2_x0_5"),
    _torchvision("mobilenet_v3_small"),
    _torchvision("googlenet", init_weights=False, aux_logits=False),
    _torchvision("vgg11_bn"),
    # Convolution networks without BatchNorm.
    _torchvision("squeezenet1_1"),
    _torchvision("alexnet"),
    _torchvision("vgg11"),
    _torchvision("convnext_tiny"),
    _timm("convnext_atto"),
    _timm("convnextv2_atto"),
    _timm("resnetv2_50d_gn"),
    _timm("resnet26", norm_layer="groupnorm", called="resnet26 with GroupNorm"),
    _timm("nf_resnet26"),
    _timm("eca_nfnet_l0"),
    # Convolutions and attention.
    _timm("fastvit_t8"),
    _timm("mobilevit_xxs"),
    _timm("mobilevitv2_050"),
    _timm("levit_128s", 224),
    _timm("efficientformer_l1", 224),
    _timm("efficientformerv2_s0", 224),
    _timm("poolformer_s12"),
    _timm("poolformerv2_s12"),
    _timm("edgenext_xx_small"),
    _timm("efficientvit_b0"),
    _timm("efficientvit_m0", 224),
    _timm("repvit_m0_9"),
    _timm("mobilenetv4_hybrid_medium"),
    _timm("tiny_vit_5m_224", 224),
    _timm("maxvit_pico_rw_256", img_size=IMAGE),
    _timm("coat_lite_tiny", 224),
    _timm("pvt_v2_b0"),
    _timm("shvit_s1"),
    _timm("botnet26t_256", img_size=IMAGE),
    # Transformers, and networks of linear layers.
    _timm("vit_tiny_patch16_224", img_size=IMAGE),
    _timm("deit_tiny_patch16_224", img_size=IMAGE),
    _timm("deit_tiny_distilled_patch16_224", img_size=IMAGE),
    _timm("swin_tiny_patch4_window7_224", img_size=IMAGE, window_size=4, **SMALL_SWIN),
    _timm("swinv2_tiny_window8_256", img_size=IMAGE, window_size=4, **SMALL_SWIN),
    _timm("xcit_nano_12_p16_224"),
    _timm("mixer_s32_224", img_size=IMAGE),
    _timm("gmlp_ti16_224", img_size=IMAGE),
    _timm("resmlp_12_224", img_size=IMAGE),
    _timm("cait_xxs24_224", img_size=IMAGE),
    _timm("convit_tiny", img_size=IMAGE),
    _timm("pit_ti_224", 224),
    _torchvision("vit_b_16", image_size=IMAGE),
    _torchvision("swin_t"),
    # Video.
    _video("r3d_18"),
    _video("mc3_18"),
    *(_built(name, "transformers", *rest) for name, *rest in transformers_models.MODELS),
    *(_built(name, "torch", *rest) for name, *rest in audio_and_sensors.MODELS),
    *(Architecture(*rest) for rest in outputs_of_other_kinds.MODELS),
)


def named(label: str) -> Architecture:
    """The architecture of this label."""
    return next(found for found in ARCHITECTURES if label_of(found) == label)


def label_of(architecture: Architecture) -> str:
    """Library and name, which no other has."""
    return f"{architecture.library}/{architecture.name}"
