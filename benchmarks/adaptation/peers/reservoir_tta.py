"""ReservoirTTA: a pool of adapted norm parameters, chosen by the style of the batch.

Rules of LTS5/ReservoirTTA with its CIFAR-10 settings for ETA, the simplest of its bases that
filters samples (`eta_reservoir.yaml`: Adam at 1e-3, no Fisher term). Two things differ from the
code:

- the style key comes from the second to fourth convolution of the model itself, before any
  adaptation. The authors take these convolutions of a VGG-19 trained on ImageNet; we have no such
  weights, and a device would have to hold them beside the model;
- the authors' loader gives source batches of the test's batch size; here the first call to `adapt`
  sets that size, and a smaller batch opens no set.
"""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from benchmarks.adaptation.peers.base import Peer, Source, copied, entropies
from benchmarks.adaptation.peers.entropy import Eta, published_similarity

if TYPE_CHECKING:
    from typing import Any

SETS = 16
BUFFER_PER_SET = 64
SOURCE_FRAMES = 2000
SOURCE_KEYS = 1000
QUANTILE = 0.999
CENTROID_RATE = 1e-4
RESET_COUNT = 10


class _Enough(Exception):
    """Ends a forward pass after the layers of the style key."""


class Style:
    """Log-variances over a batch of each channel of early convolutions (paper: style features)."""

    def __init__(self, model: nn.Module) -> None:
        self.model = copied(model)
        kinds = (nn.Conv1d, nn.Conv2d)
        found = [module for module in self.model.modules() if isinstance(module, kinds)]
        self.layers = found[1:4] or found
        self.seen: list[Tensor] = []
        for layer in self.layers:
            layer.register_forward_hook(self._see)

    def _see(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.seen.append(output.detach().flatten(2))
        if len(self.seen) == len(self.layers):
            raise _Enough

    @torch.no_grad()
    def moments(self, frames: Tensor) -> Tensor:
        """Of each frame and channel: number of positions, sum, sum of squares; [n, 3, channels]."""
        self.seen = []
        with contextlib.suppress(_Enough):
            self.model(frames)
        layers = [values.double() for values in self.seen]
        count = torch.cat([torch.full_like(v[..., 0], v.shape[-1]) for v in layers], 1)
        total = torch.cat([values.sum(-1) for values in layers], 1)
        squares = torch.cat([values.square().sum(-1) for values in layers], 1)
        return torch.stack([count, total, squares], 1)

    def key(self, frames: Tensor) -> Tensor:
        """The key [channels] of a batch."""
        return key_of(self.moments(frames))


def key_of(moments: Tensor) -> Tensor:
    """Logarithm of the unbiased variance of each channel, [channels]."""
    count, total, squares = moments.sum(0)
    variance = (squares - total.square() / count) / (count - 1)
    return variance.clamp_min(1e-12).log().to(torch.get_default_dtype())


def source_keys(style: Style, frames: Tensor, size: int) -> Tensor:
    """Keys [1000, channels] of random batches of up to 2,000 source frames."""
    drawn = frames[torch.randperm(len(frames))[:SOURCE_FRAMES]]
    moments = torch.cat([style.moments(part) for part in drawn.split(200)])
    if len(drawn) > size:
        draws = [torch.randperm(len(drawn))[:size] for _ in range(SOURCE_KEYS)]
    else:
        draws = [torch.randint(len(drawn), (size,)) for _ in range(SOURCE_KEYS)]
    return torch.stack([key_of(moments[draw]) for draw in draws])


class Router:
    """Centroids of style keys, found online (paper: online clustering by mutual information).

    keys: of source batches. They give the first centroid and, as a quantile of the distances
    between them, how far from all centroids a key may be before a new one is opened.
    """

    def __init__(self, keys: Tensor) -> None:
        self.origin = keys.mean(0, keepdim=True)
        distances = torch.pdist(keys)
        self.threshold = torch.quantile(distances[distances > 0], QUANTILE).item()
        self.buffer = keys[:0]
        self.count = 0
        self._set_offsets(torch.zeros_like(self.origin))

    @property
    def centroids(self) -> Tensor:
        """All centroids [k, channels]."""
        return self.origin + self.offsets

    def _set_offsets(self, offsets: Tensor) -> None:
        self.offsets = offsets.requires_grad_(True)
        self.optimizer = torch.optim.AdamW([self.offsets], lr=CENTROID_RATE)

    @torch.no_grad()
    def shares(self, key: Tensor) -> Tensor:
        """How much each set has to say about a key, [k]; learns nothing."""
        return (-torch.cdist(key[None], self.centroids)[0]).softmax(0)

    def route(self, key: Tensor, may_open: bool) -> tuple[Tensor, bool]:
        """Shares of the sets and whether the last of them is new; the centroids then learn."""
        nearest = torch.cdist(key[None], self.centroids.detach()).min().item()
        opened = may_open and nearest > self.threshold and len(self.offsets) < SETS
        if opened:
            self._set_offsets(torch.cat([self.offsets.detach(), key[None] - self.origin]))
        shares = self.shares(key)
        self._learn(torch.cat([self.buffer, key[None]]))
        self._store(key)
        return shares, opened

    def _learn(self, keys: Tensor) -> None:
        """Lowers the mean entropy of the assignments, raises the entropy of their mean."""
        with torch.enable_grad():
            scores = -torch.cdist(keys, self.centroids)
            mean = scores.softmax(1).mean(0)
            loss = entropies(scores).mean() + (mean * (mean + 1e-8).log()).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def _store(self, key: Tensor) -> None:
        """Reservoir sampling; the room grows with the centroids, the count is cut now and then."""
        room = BUFFER_PER_SET * len(self.offsets)
        if len(self.buffer) < room:
            self.buffer = torch.cat([self.buffer, key[None]])
        else:
            place = int(torch.randint(max(self.count, 1), ()))
            if place < room:
                self.buffer[place] = key
            if self.count > RESET_COUNT * room:
                self.count = room
        self.count += 1


@dataclass
class NormSet:
    """What one set holds between its batches: parameters, optimiser slots, mean prediction."""

    values: list[Tensor]
    slots: dict[str, Any]
    mean_prediction: Tensor | None


class ReservoirTta:
    """Vray et al., arXiv 2505.14511: the sets' weighted mean answers, the nearest set adapts."""

    def __init__(self, model: nn.Module, source: Source, learning_rate: float) -> None:
        self.base = Eta(model, learning_rate, source.classes, published_similarity(source))
        self.style = Style(model)
        self.source_frames = source.frames
        self.sets = [NormSet(self._values(), self._slots(), None)]
        self.router: Router | None = None
        self.batch = 0

    def predict(self, frames: Tensor) -> Tensor:
        """Logits of the mean of the sets, weighted by how near their centroids are."""
        if self.router is None:
            return self.base.predict(frames)
        return self._ensemble(frames, self.router.shares(self.style.key(frames)))

    def adapt(self, frames: Tensor) -> Tensor:
        """The same after routing, then a step of ETA on the nearest set."""
        if self.router is None:
            self.batch = len(frames)
            self.router = Router(source_keys(self.style, self.source_frames, self.batch))
        key = self.style.key(frames)
        shares, opened = self.router.route(key, may_open=len(frames) >= self.batch)
        if opened:
            self.sets.append(self._copy_of_surest(frames))
        logits = self._ensemble(frames, shares)
        self._learn(frames, self.sets[int(shares.argmax())])
        return logits

    def _values(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.base.parameters]

    def _slots(self) -> dict[str, Any]:
        return copy.deepcopy(self.base.optimizer.state_dict())

    @torch.no_grad()
    def _load(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.base.parameters, values, strict=True):
            parameter.copy_(value)

    def _ensemble(self, frames: Tensor, shares: Tensor) -> Tensor:
        stacks = zip(*(member.values for member in self.sets), strict=True)
        self._load([torch.stack(stack, -1) @ shares for stack in stacks])
        return self.base.predict(frames)

    def _copy_of_surest(self, frames: Tensor) -> NormSet:
        """The set with the least mean entropy minus entropy of the mean prediction, copied."""
        scores = []
        for member in self.sets:
            self._load(member.values)
            logits = self.base.predict(frames)
            mean = logits.softmax(1).mean(0)
            scores.append((entropies(logits).mean() + (mean * (mean + 1e-8).log()).sum()).item())
        surest = self.sets[scores.index(min(scores))]
        values = [value.clone() for value in surest.values]
        return NormSet(values, copy.deepcopy(surest.slots), None)

    def _learn(self, frames: Tensor, member: NormSet) -> None:
        self._load(member.values)
        self.base.optimizer.load_state_dict(member.slots)
        self.base.mean_prediction = member.mean_prediction
        self.base.adapt(frames)
        member.values, member.slots = self._values(), self._slots()
        member.mean_prediction = self.base.mean_prediction


PEERS: dict[str, Peer] = {
    "ReservoirTTA": Peer(ReservoirTta, 1e-3, "Vray et al., arXiv 2505.14511, 2025"),
}
