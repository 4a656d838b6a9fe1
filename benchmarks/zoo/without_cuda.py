"""torchvision beside a torch without CUDA."""

from __future__ import annotations

from types import ModuleType
from typing import Any

OPERATORS = ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
             "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # fmt: skip
DECLARED: list[Any] = []


def import_torchvision() -> ModuleType:
    """torchvision, whose wheel is for CUDA.

    Its own operators (NMS and others after detection) cannot be loaded here then; its models need
    none of them, but its import, and that of transformers, wants two of them declared.
    """
    import torch

    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in OPERATORS:
            library.define(operator)
        DECLARED.append(library)  # they are declared as long as this lives
        import torchvision
    found: ModuleType = torchvision
    return found
