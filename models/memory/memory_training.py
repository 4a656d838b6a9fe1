"""Trains memories beside a frozen anchor: a block for each node of the tree, and the generic one.

Every text is trained with the blocks along its path alone, so subtrees of level 1 know nothing of
each other and are trained one after another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgemem.bank.memories.memory_path import MemoryPath
from edgemem.block import Block
from edgemem.bundle.text.memory_spec import MemorySpec
from edgemem.errors import InputError
from edgemem.models.memory.anchor import Anchor
from edgemem.models.memory.documents import Window
from edgemem.models.memory.feed_forward import FeedForward, new_block, with_block

Groups = Mapping[MemoryPath, Sequence[Window]]
# Steps done, steps in all, loss.
Note = Callable[[int, int, float], None]
IGNORED = -100  # label of what is no token, as transformers has it
BETAS, DECAY, CLIP, RATE_AT_END = (0.9, 0.95), 1e-3, 1.0, 0.1


@dataclass(frozen=True)
class MemoryRecipe:
    """How memories are trained.

    Attributes:
        epochs: how often every window is seen.
        batch: windows of a step; all of one leaf.
        rate: of AdamW, at the beginning; at the end a tenth.
        seed: the same seed gives the same bank.

    Raises:
        InputError: a value that cannot be.
    """

    epochs: int = 8
    batch: int = 4
    rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}", "is none", "Use 1 or more")
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise InputError(f"rate={self.rate}", "is not above zero", "Use such as 0.001")
        if self.seed < 0:
            raise InputError(f"seed={self.seed}", "is negative", "Use 0 or more")


class MemoryNodes:
    """The blocks of some nodes of a tree while they are trained."""

    def __init__(
        self, spec: MemorySpec, paths: Sequence[MemoryPath], random: torch.Generator
    ) -> None:
        self._spec = spec
        self._blocks: dict[tuple[int, int], dict[str, nn.Parameter]] = {}
        for path in sorted(paths):
            for level, row in enumerate(path):
                if (level, row) not in self._blocks:
                    self._blocks[level, row] = self._new(level, random)

    def _new(self, level: int, random: torch.Generator) -> dict[str, nn.Parameter]:
        start = f"{level + 1}."
        whole = new_block(self._spec, random)
        return {
            name.removeprefix(start): nn.Parameter(value)
            for name, value in whole.items()
            if name.startswith(start)
        }

    def parameters(self) -> list[nn.Parameter]:
        """All arrays of all blocks."""
        return [value for block in self._blocks.values() for value in block.values()]

    def block(self, path: MemoryPath) -> dict[str, Tensor]:
        """The block of a path, as the anchor takes it."""
        return {
            f"{level + 1}.{name}": value
            for level, row in enumerate(path)
            for name, value in self._blocks[level, row].items()
        }

    def rows(self, level: int) -> dict[int, NDArray[np.float32]]:
        """What was learnt for the nodes of a level, as level files hold it."""
        arrays = self._spec.arrays(level)
        return {
            row: arrays.flatten({name: value.detach().numpy() for name, value in block.items()})
            for (number, row), block in self._blocks.items()
            if number == level
        }

    def whole(self, path: MemoryPath) -> Block:
        """The block of a path as a value."""
        return Block({name: value.detach().numpy() for name, value in self.block(path).items()})


def train_nodes(
    anchor: Anchor,
    layers: Sequence[FeedForward],
    spec: MemorySpec,
    groups: Groups,
    recipe: MemoryRecipe,
    note: Note = lambda done, steps, loss: None,
) -> MemoryNodes:
    """Train the blocks along some paths on the windows of each; the anchor does not change.

    Raises:
        InputError: the loss is not finite.
    """
    random = torch.Generator().manual_seed(recipe.seed)
    nodes = MemoryNodes(spec, list(groups), random)
    optimizer = torch.optim.AdamW(
        nodes.parameters(), lr=recipe.rate, betas=BETAS, weight_decay=DECAY
    )
    per_epoch = sum(-(-len(windows) // recipe.batch) for windows in groups.values())
    steps = per_epoch * recipe.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    done = 0
    for _ in range(recipe.epochs):
        for path, windows in _batches(groups, recipe.batch, random):
            optimizer.zero_grad()
            loss = loss_of(anchor, layers, spec, nodes.block(path), windows)
            if not torch.isfinite(loss):
                raise InputError("training", "has a loss that is not finite", "Use a lower rate")
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(nodes.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            done += 1
            note(done, steps, loss.item())
    return nodes


def loss_of(
    anchor: Anchor,
    layers: Sequence[FeedForward],
    spec: MemorySpec,
    block: Mapping[str, Tensor],
    windows: Sequence[Window],
) -> Tensor:
    """Mean negative log-likelihood of the tokens of some windows with a block, in nats."""
    longest = max(len(window.ids) for window in windows)
    ids = torch.zeros(len(windows), longest, dtype=torch.int64)
    labels = torch.full_like(ids, IGNORED)
    for row, window in enumerate(windows):
        ids[row, : len(window.ids)] = labels[row, : len(window.ids)] = torch.tensor(window.ids)
    with with_block(layers, spec, block):
        output = anchor.network(
            input_ids=ids,
            attention_mask=(labels != IGNORED).long(),
            labels=labels,
            use_cache=False,
        )
    found: Tensor = output.loss
    return found


def _rate(step: int, steps: int) -> float:
    share = min(step / max(steps, 1), 1.0)
    return RATE_AT_END + (1 - RATE_AT_END) * (1 + math.cos(math.pi * share)) / 2


def _batches(
    groups: Groups, size: int, random: torch.Generator
) -> list[tuple[MemoryPath, list[Window]]]:
    """All windows once, in batches of one leaf each, in random order."""
    found = []
    for path, windows in groups.items():
        order = torch.randperm(len(windows), generator=random).tolist()
        for first in range(0, len(order), size):
            found.append((path, [windows[n] for n in order[first : first + size]]))
    return [found[n] for n in torch.randperm(len(found), generator=random).tolist()]
