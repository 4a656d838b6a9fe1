"""`train_memories`: an anchor and documents become a bank of memories."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgemem.bank.building.keys import new_array
from edgemem.bank.levels.level_header import STORAGES
from edgemem.bank.memories.memory_writing import MemoryTree, build_tree, write_memories
from edgemem.bank.memories.text_key import key_weights, text_key
from edgemem.bundle.copying import check_kind
from edgemem.bundle.sealed_document import MEMORIES
from edgemem.bundle.text.memory_spec import KEYS, KeySpec, LevelSpec, MemorySpec
from edgemem.errors import InputError
from edgemem.files.atomic import explain_write_errors
from edgemem.models.memory.anchor import Anchor, load_anchor
from edgemem.models.memory.documents import Window, read_windows
from edgemem.models.memory.feed_forward import (
    FeedForward,
    Placement,
    feed_forward_layers,
    placed,
    tensors_of,
)
from edgemem.models.memory.memory_training import (
    Groups,
    MemoryNodes,
    MemoryRecipe,
    loss_of,
    train_nodes,
)

# Stage, done, steps, loss.
Progress = Callable[[str, int, int, float], None]


@dataclass(frozen=True)
class MemoryForm:
    """What a bank is to look like.

    Attributes:
        ranks: inner columns of the blocks of each level, level 1 first.
        branch: children of a node.
        layers: how many feed-forward layers of the anchor have memories.
        placement: "late" or "uniform".
        window: tokens that are trained on at once; each window has a key of its own.
        key_length: numbers of a key.
        storage: of blocks: "float32", "float16" or "int8".
    """

    ranks: tuple[int, ...] = (4, 4)
    branch: int = 8
    layers: int = 8
    placement: Placement = "late"
    window: int = 256
    key_length: int = 1024
    storage: str = "float16"


@dataclass(frozen=True)
class TrainedMemories:
    """What was trained, and mean losses in nats a token on the texts that were trained on.

    Attributes:
        windows: how many there were.
        nodes: present ones of each level.
        anchor: loss of the anchor alone.
        fetched: with the blocks along each window's own path, before they were rounded to their
            storage.
        generic: with the generic block.
    """

    windows: int
    nodes: tuple[int, ...]
    anchor: float
    fetched: float
    generic: float


def train_memories(
    folder: Path | str,
    documents: Path | str,
    out: Path | str,
    form: MemoryForm | None = None,
    recipe: MemoryRecipe | None = None,
    progress: Progress = lambda stage, done, steps, loss: None,
) -> TrainedMemories:
    """Train a bank of memories for a frozen anchor, and write it whole or not at all.

    Next-token loss alone. Every window is seen as often with the generic block as with its own.

    Args:
        folder: of Hugging Face, with tokenizer.json.
        documents: a text, or a folder of .txt and .md.
        out: folder to write; an old bank there is replaced only if everything succeeds.
        form: default MemoryForm().
        recipe: default MemoryRecipe().
        progress: called after each step.

    Raises:
        CheckpointError, AttachError: the folder holds no anchor of a known family.
        InputError: documents, form or recipe that cannot be, or a folder that cannot be written.
    """
    out, form, recipe = Path(out).absolute(), form or MemoryForm(), recipe or MemoryRecipe()
    check_kind(out, MEMORIES)
    if form.storage not in STORAGES:
        known = ", ".join(STORAGES)
        raise InputError(f"storage {form.storage!r}", "is unknown", f"Use {known}")
    if not form.ranks or min(form.ranks) < 1 or form.key_length < 1:
        raise InputError(f"ranks {form.ranks}", "make no block", "Use such as 4,4")
    anchor = load_anchor(folder)
    layers = placed(feed_forward_layers(anchor.network), form.layers, form.placement)
    if form.window >= anchor.context:
        reason = f"do not fit into a context of {anchor.context}"
        raise InputError(f"windows of {form.window} tokens", reason, "Use shorter ones")
    windows = read_windows(Path(documents), anchor.tokenizer, form.window)
    spec = _spec(anchor, layers, form)
    weights = key_weights((window.text for window in windows), spec.key)
    keys = np.stack([text_key(window.text, spec.key, weights) for window in windows])
    tree = build_tree(keys, levels=len(form.ranks), branch=form.branch, seed=recipe.seed)
    groups = _groups(tree, keys, windows)
    with explain_write_errors(out), tempfile.TemporaryDirectory(dir=out.parent) as place:
        rows = [
            new_array(Path(place, f"{level}.npy"), np.float32, (len(tree.keys[level]), size))
            for level, size in enumerate(spec.elements)
        ]
        trainer = _Trainer(anchor, layers, spec, recipe, progress)
        fetched = trainer.subtrees(groups, rows)
        generic = trainer.generic(windows)
        trained_on = {
            "folder": Path(folder).name,
            "windows": len(windows),
            "recipe": asdict(recipe),
            "form": asdict(form),
            "torch": torch.__version__,
        }
        whole = generic.whole((0,) * len(form.ranks))
        write_memories(
            out, spec, tree, [_each(part) for part in rows], whole, weights,
            storage=form.storage, trained_on=trained_on,
        )  # fmt: skip
        plain = trainer.mean(windows, tensors_of(spec.inputs().zero()))
        beside = trainer.mean(windows, tensors_of(whole))
    counts = tuple(int((count > 0).sum()) for count in tree.counts)
    return TrainedMemories(len(windows), counts, plain, fetched, beside)


class _Trainer:
    """Trains parts of a bank, one after another."""

    def __init__(
        self,
        anchor: Anchor,
        layers: tuple[FeedForward, ...],
        spec: MemorySpec,
        recipe: MemoryRecipe,
        progress: Progress,
    ) -> None:
        self._anchor, self._layers, self._spec = anchor, layers, spec
        self._recipe, self._progress = recipe, progress

    def subtrees(self, groups: Groups, rows: list[NDArray[np.float32]]) -> float:
        """Train every subtree of level 1 into the rows of all levels; the mean loss after it."""
        tops = sorted({path[0] for path in groups})
        total, count = 0.0, 0
        for number, top in enumerate(tops):
            below = {path: windows for path, windows in groups.items() if path[0] == top}
            nodes = self._train(f"subtree {number + 1} of {len(tops)}", below, top)
            for level, part in enumerate(rows):
                for row, values in nodes.rows(level).items():
                    part[row] = values
            for path, windows in below.items():
                total += self.mean(windows, nodes.block(path)) * len(windows)
                count += len(windows)
        return total / count

    def generic(self, windows: list[Window]) -> MemoryNodes:
        """Train the block that belongs to no text, on all of them."""
        path = (0,) * len(self._spec.levels)
        return self._train("generic block", {path: windows}, -1)

    def mean(self, windows: Sequence[Window], block: Mapping[str, torch.Tensor]) -> float:
        """Mean loss of windows with one block."""
        with torch.no_grad():
            found = [
                loss_of(self._anchor, self._layers, self._spec, block, [window]).item()
                for window in windows
            ]
        return sum(found) / len(found)

    def _train(self, stage: str, groups: Groups, top: int) -> MemoryNodes:
        recipe = replace(self._recipe, seed=self._recipe.seed + 1 + top)  # as no other part
        return train_nodes(
            self._anchor, self._layers, self._spec, groups, recipe,
            lambda done, steps, loss: self._progress(stage, done, steps, loss),
        )  # fmt: skip


def _spec(anchor: Anchor, layers: tuple[FeedForward, ...], form: MemoryForm) -> MemorySpec:
    return MemorySpec(
        anchor.sha256,
        anchor.tokenizer_sha256,
        tuple(layer.name for layer in layers),
        layers[0].width,
        layers[0].gated,
        tuple(LevelSpec(rank) for rank in form.ranks),
        KeySpec(KEYS[0], form.key_length),
    )


def _groups(
    tree: MemoryTree, keys: NDArray[np.float32], windows: list[Window]
) -> dict[tuple[int, ...], list[Window]]:
    """The windows of each leaf, found as a device finds them."""
    found = defaultdict(list)
    for key, window in zip(keys, windows, strict=True):
        found[tree.path(key)].append(window)
    return dict(found)


def _each(part: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for row in part:
        yield np.array(row)
