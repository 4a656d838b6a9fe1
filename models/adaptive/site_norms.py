"""Identity norms behind the sites of a frozen model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.norms.norm_calls import AffinePair
from edgemem.models.norms.statistics import AdaptingNorm
from edgemem.models.sites.candidates import named_sites
from edgemem.models.sites.identity_norm import IdentityNorm
from edgemem.models.tensor_rows import Frames


def add_sites(model: AdaptiveModel, example: Frames) -> None:
    """Put the identity norms of `model.attachment.sites` in place; the first norm gives the key.

    example: frames [n, ...], with what comes beside them.

    Raises:
        AttachError: a site behind which moments cannot be aligned.
    """
    sites = model.attachment.sites
    if not sites:
        return

    def answer(x: Frames) -> tuple[Tensor, ...]:
        output = model(x)
        return (output.logits, *output.named.values())

    for site in named_sites(model.frozen, answer, example, sites):
        identity = IdentityNorm(site.channels, site.axis, model.settings)
        identity.rows = site.rows
        name = site.name.replace(".", "/")  # module names must not contain dots
        model.sites[name] = identity
        model.frozen.get_submodule(site.name).register_forward_hook(_SiteHook(model, name))
    order = _order(model, example)
    key = next(norm for norm in order if isinstance(norm, AdaptingNorm))
    for norm in order:
        if isinstance(norm, AdaptingNorm):
            norm.is_key = norm is key
    before = set(order[: order.index(key)])
    for name, norm in list(model.norms.items()):
        # What lies before the key stays frozen, or the key would move with the block.
        if isinstance(norm, AffinePair) and norm in before:
            del model.norms[name]


def _order(model: AdaptiveModel, example: Frames) -> list[nn.Module]:
    """The norms of an adaptive model, in order of their first run."""
    seen: dict[nn.Module, None] = {}
    handles = [
        norm.register_forward_pre_hook(lambda norm, _: seen.setdefault(norm))
        for norm in model.modules()
        if isinstance(norm, (AdaptingNorm, AffinePair))
    ]
    try:
        with torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return list(seen)


@dataclass(frozen=True, eq=False)
class _SiteHook:
    """Lets what a module returns pass through the identity norm of its site.

    An object, so that a deep copy of the model hooks into the copy.
    """

    model: AdaptiveModel
    key: str

    def __call__(self, _: nn.Module, __: object, output: Tensor | tuple[Any, ...]) -> Any:
        norm = self.model.sites[self.key]
        if not isinstance(output, tuple):
            return norm(output)
        first, *rest = output
        return (norm(first), *rest)
