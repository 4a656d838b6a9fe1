"""The adaptive model: a frozen model, its meta networks, and one forward pass over both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from edgemem.models.adaptive.attachment import Attachment, Gradient, Learn
from edgemem.models.adaptive.meta_network import MetaNetwork
from edgemem.models.adaptive.outputs import Output
from edgemem.models.adaptive.parts import Part
from edgemem.models.inspection.untouched import twin_of
from edgemem.models.norms.norm_calls import AffinePair, RoutedNorms
from edgemem.models.norms.remembered import CLASS_PRIOR, EVENNESS, FRAMES, MEAN, VAR
from edgemem.models.norms.statistics import AdaptingNorm, MixedStatistics, PassSettings, past_of
from edgemem.models.tasks.answered import answered
from edgemem.models.tasks.named_outputs import Named
from edgemem.models.tasks.recognised_task import recognised_task, slopes
from edgemem.models.tasks.task_outputs import AUTO, Task
from edgemem.models.tensor_rows import Frames, call

if TYPE_CHECKING:
    from edgemem.models.adaptive.class_prototypes import ClassPrototypes

# What is kept of source data: buffers, None before a warm-up; see source_keys and source_checks.
SOURCE = ("source_moments", "source_entropies", "source_frames", "source_labels", "source_range")


class AdaptiveModel(nn.Module):
    """A frozen model whose parts have meta networks. Made by `attach`.

    Its block is what it learns (parameters that require a gradient) and what it remembers (moving
    averages); all of it zero, together with source statistics (`alpha=0`), is the frozen model.
    """

    def __init__(
        self,
        frozen: nn.Module,
        settings: PassSettings,
        attachment: Attachment,
    ) -> None:
        super().__init__()
        self.frozen = frozen
        # In a list: neither a submodule nor in the state dict. Its arrays are those of `frozen`.
        self._untouched = [twin_of(frozen)]
        self.meta = nn.ModuleDict()
        self.norms = nn.ModuleDict()  # of layers that stay in the frozen model, see norm_calls
        self.sites = nn.ModuleDict()  # identity norms behind modules of the frozen model
        self.attachment = attachment
        self.warm = False
        self.labels: tuple[str, ...] | None = None  # where source data names its classes
        self.gradient: Gradient = "full"
        self.settings = settings
        self.source_moments: Tensor | None
        self.source_entropies: Tensor | None
        self.source_frames: Tensor | None
        self.source_labels: Tensor | None
        self.source_range: Tensor | None
        for name in SOURCE:
            self.register_buffer(name, None)
        self.source_beside: dict[str, Tensor] = {}  # beside the source frames
        self.classifier_name: str | None = None
        self.prototypes: ClassPrototypes | None = None  # see class_prototypes
        self._distances: list[Tensor] = []
        self._inputs: dict[str, Tensor] = {}

    def add_meta_network(self, part: Part, meta: MetaNetwork) -> None:
        """Let `meta` replace what `part` returns."""
        key = part.name.replace(".", "/")  # module names must not contain dots
        self.meta[key] = meta
        part.surround(self, key)

    def add_norm_affine(self) -> None:
        """Put the affine pairs of the frozen norms into the block, as differences of zero."""
        for module in self.modules():
            if isinstance(module, (AdaptingNorm, AffinePair)) and module.weight_delta is None:
                module.make_trainable()
        self.attachment = replace(self.attachment, norm_affine=True)

    def enter_part(self, key: str, part_input: Tensor) -> Tensor:
        """Keep what goes into a part for its meta network; what the part shall see instead."""
        if self.settings.plain:
            return part_input
        self._inputs[key] = part_input
        return part_input.detach() if self.gradient == "meta" else part_input

    def leave_part(self, key: str, output: Tensor) -> Tensor:
        """What the meta network makes of a part's output."""
        if self.settings.plain:
            return output
        if self.gradient == "meta":
            output = output.detach()
        replaced: Tensor = self.meta[key](self._inputs.pop(key), output)
        difference = (replaced - output.detach()).abs()
        # In two stages: one fp32 sum over millions of values differs between engines.
        self._distances.append(difference.mean(list(range(2, difference.dim()))).mean())
        return replaced

    def meta_networks(self) -> Iterator[MetaNetwork]:
        """The meta networks in the order they were attached."""
        for meta in self.meta.values():
            assert isinstance(meta, MetaNetwork)
            yield meta

    def alpha(self, frames: int) -> float | None:
        """Weight of the batch's statistics for a batch of so many frames; None = source only."""
        if next(self._norms(), None) is None:
            return None
        return self.attachment.alpha(frames)

    def block(self) -> dict[str, Tensor]:
        """The arrays that adapt, by name."""
        return self.learned() | self.remembered() | self.taught()

    def taught(self) -> dict[str, Tensor]:
        """The arrays of the block that hold prototypes; none where no class can be taught."""
        held = {} if self.prototypes is None else self.prototypes.arrays()
        return {f"prototypes.{name}": array for name, array in held.items()}

    @contextmanager
    def teachable(self, prototypes: ClassPrototypes, capacity: int) -> Iterator[None]:
        """While active, the block has room for so many classes, the model's own included."""
        before, prior = self.prototypes, getattr(self, CLASS_PRIOR, None)
        self.prototypes = prototypes
        prototypes.make_room(capacity)
        if prior is not None:
            setattr(self, CLASS_PRIOR, torch.zeros(capacity))
        try:
            yield
        finally:
            prototypes.make_room(0)
            self.prototypes = before
            if prior is not None:
                setattr(self, CLASS_PRIOR, prior)

    def kernels(self) -> list[nn.Parameter]:
        """Those of the convolutions in meta networks."""
        return [parameter for parameter in self.meta.parameters() if parameter.dim() > 1]

    @contextmanager
    def learning(self, what: Learn) -> Iterator[None]:
        """While active, the block learns "all", or scales and shifts of "norms" alone."""
        constant = [k for k in self.kernels() if k.requires_grad] if what == "norms" else []
        for kernel in constant:
            kernel.requires_grad_(False)
        try:
            yield
        finally:
            for kernel in constant:
                kernel.requires_grad_(True)

    def learned(self) -> dict[str, Tensor]:
        """The arrays of the block that follow a gradient."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def remembered(self) -> dict[str, Tensor]:
        """The arrays of the block that are moving averages."""
        if self.attachment.statistics != "remembered":
            return {}
        own = (CLASS_PRIOR, FRAMES, EVENNESS) if self.attachment.task == "classes" else (FRAMES,)
        arrays: dict[str, Tensor] = {name: getattr(self, name) for name in own}
        for name, norm in self._norms():
            if norm.normalizes:
                arrays |= {f"{name}.{kind}": getattr(norm, kind) for kind in (MEAN, VAR)}
        return arrays

    def make_remembering(self, classes: int) -> None:
        """Give the block a place for the statistics of its context, and the class prior, if any."""
        if self.attachment.task == "classes":
            self.register_buffer(CLASS_PRIOR, torch.zeros(classes))
            self.register_buffer(EVENNESS, torch.zeros(()))
        self.register_buffer(FRAMES, torch.zeros(()))
        for _, norm in self._norms():
            norm.make_remembering()

    def mark_warm(self) -> None:
        """Declare the meta networks trained and the source moments of their norms known."""
        self.warm = True
        for meta in self.meta_networks():
            meta.output_norm.known = True

    def forward(
        self,
        x: Frames,
        alpha: Tensor | None = None,
        batch_weight: Tensor | None = None,
        frame_weights: Tensor | None = None,
    ) -> Output:
        """Frames [n, ...] float32, or token ids, with what comes beside them -> Output.

        alpha: weight of the target's statistics; None = source. batch_weight: of the batch against
        what is remembered; None = the batch alone is the target. frame_weights: [n], of sum one, of
        the frames in the statistics of the batch; None = all alike.
        """
        self.settings.clear()
        self.settings.alpha, self.settings.frame_weights = alpha, frame_weights
        self.settings.past = past_of(dict(self._norms()), alpha, batch_weight)
        self._distances.clear()
        with self._routed():
            logits, found = answered(self.frozen, x, self.attachment)
        distances, key = tuple(self._distances), self.settings.key
        seen = {
            name: (norm.var, self.settings.seen[norm])
            for name, norm in self._norms()
            if norm in self.settings.seen
        }
        self._distances.clear()
        self.settings.clear()
        return Output(logits, logits.new_zeros(0) if key is None else key, distances, seen, found)

    def with_block(self, block: dict[str, Tensor], *arguments: Frames | None) -> Output:
        """What `forward` gives with other arrays in place of the block's, which stays as it is."""
        # Untied: a layer under two names would keep the other arrays for good.
        output: Output = functional_call(self, block, arguments, tie_weights=False)
        return output

    def _norms(self) -> Iterator[tuple[str, MixedStatistics]]:
        for name, module in self.named_modules():
            if isinstance(module, MixedStatistics):
                yield name, module

    def _routed(self) -> AbstractContextManager[object]:
        return RoutedNorms(self.norms.values()) if len(self.norms) else nullcontext()

    @property
    def untouched(self) -> nn.Module:
        """The model that was given, in eval mode, with nothing replaced; over the same arrays."""
        return self._untouched[0]

    def untouched_logits(self, x: Frames) -> Tensor:
        """Logits of the model that was given, see `Output`."""
        return answered(self.untouched, x, self.attachment)[0]

    def untouched_outputs(self, x: Frames) -> Named:
        """What the model that was given returns: the oracle of all that is compared."""
        logits, found = answered(self.untouched, x, self.attachment)
        return found or {"logits": logits}

    @property
    def key_norm(self) -> AdaptingNorm | None:
        """The norm whose input gives the context key: the first that runs."""
        norms = (module for module in self.modules() if isinstance(module, AdaptingNorm))
        return next((norm for norm in norms if norm.is_key), None)

    @property
    def classifier(self) -> nn.Linear | None:
        """The linear layer of the frozen model that answers, if there is one."""
        if self.classifier_name is None:
            return None
        found = self.frozen.get_submodule(self.classifier_name)
        assert isinstance(found, nn.Linear)
        return found

    def train(self, mode: bool = True) -> AdaptiveModel:
        """As torch's; the frozen model stays in eval mode, where it is the one that was given."""
        super().train(mode)
        self.frozen.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AdaptiveModel:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.untouched._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def frozen_logits(self, x: Frames) -> Tensor:
        """Logits of the frozen model by itself: no meta network, torch's batch norm."""
        self.settings.plain = True
        try:
            return answered(self.frozen, x, self.attachment)[0]
        finally:
            self.settings.plain = False

    def recognise_outputs(self, x: Frames, task: Task | Literal["auto"] = AUTO) -> None:
        """Find out what kind of output the frozen model has, by frames [n, ...].

        Raises:
            AttachError: a kind that cannot be adapted, or does not fit the task, see `recognised`.
        """
        self.settings.plain = True
        try:
            with slopes(self.frozen) if self.attachment.ids else nullcontext():
                given = self.attachment.normalized(x)
                found = recognised_task(lambda rows: call(self.frozen, rows), given, task)
        finally:
            self.settings.plain = False
        self.attachment = replace(self.attachment, **found._asdict())

    @property
    def classes(self) -> int:
        """How many classes the model tells apart; 0 for other tasks."""
        if self.attachment.task != "classes":
            return 0
        with torch.no_grad():
            return self.frozen_logits(self.attachment.example(2)).shape[1]
