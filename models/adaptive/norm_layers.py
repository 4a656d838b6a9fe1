"""The norms of a frozen model, made ready to adapt.

They are replaced, or kept and met where they are called.
"""

from __future__ import annotations

from torch import nn

from edgemem.errors import AttachError
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.inspection.trial import NormUse, Trial
from edgemem.models.norms.frozen_norm import FrozenNorm, InPlaceNorm
from edgemem.models.norms.norm_calls import AffinePair

# Layers whose arithmetic is known. A subclass may do more, so it is kept.
OF_TORCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def adapt_norms(model: AdaptiveModel, trial: Trial) -> None:
    """Let the norms that `trial` found take part in what adapts; the first one gives the key.

    Raises:
        AttachError: a norm whose statistics cannot be those of frames.
    """
    names = {module: name for name, module in model.frozen.named_modules()}
    replaced: dict[nn.Module, FrozenNorm] = {}
    of_batch = [use.of_batch for use in trial.norms]
    # What lies before the key stays frozen, or the key would move with the block.
    for use in trial.norms[of_batch.index(True) if any(of_batch) else 0 :]:
        name = names[use.layer]
        if not use.of_batch:
            model.norms[_key(name)] = AffinePair(use.layer)
            continue
        _check_use(model, name, use)
        norm = _norm(model, name, use)
        norm.rows = use.rows or 1
        if isinstance(norm, InPlaceNorm):
            model.norms[_key(name)] = norm
        else:
            replaced[use.layer] = norm
        norm.is_key = use is trial.norms[of_batch.index(True)] and use.rows is not None
    for parent in list(model.frozen.modules()):
        for child_name, child in parent._modules.items():
            if child in replaced:  # a norm may have several names
                parent._modules[child_name] = replaced[child]


def _norm(model: AdaptiveModel, name: str, use: NormUse) -> FrozenNorm:
    kind = FrozenNorm if _is_plain(use) else InPlaceNorm
    return kind(use.layer, model.settings, use.eps)


def _is_plain(use: NormUse) -> bool:
    """Whether the layer does what torch's does and nothing else, and is only called."""
    layer = use.layer
    hooks = [*layer._forward_hooks, *layer._forward_pre_hooks]
    own = type(layer) in OF_TORCH and "forward" not in vars(layer)
    return own and use.within and not hooks


def _key(name: str) -> str:
    return name.replace(".", "/")  # module names must not contain dots


def _check_use(model: AdaptiveModel, name: str, use: NormUse) -> None:
    statistics = model.attachment.statistics
    if use.rows is None and statistics != "source":
        raise AttachError(
            f"BatchNorm layer {name!r}",
            "normalises rows that are not those of one frame after another, so a batch's "
            "statistics cannot be told by frame",
            "Use statistics source",
        )
    if use.runs > 1 and statistics == "remembered":
        raise AttachError(
            f"BatchNorm layer {name!r}",
            f"runs {use.runs} times in a forward pass, and a block remembers one set of its "
            "statistics",
            "Use statistics mix",
        )
