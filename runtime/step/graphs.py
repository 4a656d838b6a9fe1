"""The graphs of a bundle: opened on first use, checked against the manifest, bound by name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgemem.block import Array, Arrays, Block
from edgemem.bundle.manifest import FILLED, LABELS, REMEDY, REMEMBER, Manifest
from edgemem.bundle.opening import Bundle
from edgemem.bundle.rows import fields, shape_of
from edgemem.errors import BundleError, InputError
from edgemem.runtime.answers import Answers, rows_of
from edgemem.runtime.engines.protocol import Backend, Graph
from edgemem.runtime.step.contract import (
    READING,
    check_adapt,
    check_key,
    check_learn,
    check_predict,
    check_remember,
)

Frames = Array  # rows: frames, and what comes beside them
# Every other graph is a step.
CHECKS = {
    "predict": check_predict, "key": check_key, "learn": check_learn, REMEMBER: check_remember,
}  # fmt: skip
RATE = "learning_rate"
REMEDIES = {"learn": 'Open it with provider="cpu" to teach classes'}


class Graphs:
    """Runs the graphs of one bundle. zero: the block with which the model is the frozen one.

    frozen_parameters: the hyper-parameters that go with it. step: the graph that adapts.
    step_backend: what runs it; None = as the others.

    Raises:
        BundleError: the `predict` graph does not fit the manifest.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        step: str = "adapt",
        step_backend: Backend | None = None,
    ) -> None:
        self._bundle, self._backend, self._step = bundle, backend, step
        self._step_backend = step_backend or backend
        self.zero = bundle.manifest.block.zero()
        parameters = bundle.manifest.hyper_parameters
        self.frozen_parameters = {name: value.frozen for name, value in parameters.items()}
        teaching = bundle.manifest.teaching
        reads = () if teaching is None else teaching.reads.values()
        self._reads = {name for values in reads for name in values}
        frames = bundle.manifest.frames
        self._manifests = {shape: bundle.manifest.at(shape) for shape in frames.shapes}
        self._opened: dict[tuple[str, tuple[int, ...]], Graph] = {}
        self.open("predict")

    def open(self, name: str, window: Frames | None = None) -> Graph:
        """The graph of that name. window: frames of the size that it is for; None = the first.

        Raises:
            InputError: the bundle has none.
            BundleError: it does not fit the manifest.
        """
        manifest = self.manifest(window)
        if (name, manifest.frames.shape) not in self._opened:
            backend = self._step_backend if name in {self._step, REMEMBER} else self._backend
            binding = manifest.binding(name, backend.target)
            if binding is None:
                raise InputError(
                    f"bundle {manifest.name!r}",
                    f"has no {name!r} graph for {backend.name}",
                    REMEDIES.get(name, "Open it with adapt=False"),
                )
            graph = backend.open(self._bundle.path / binding.file, binding)
            check = CHECKS.get(name, check_adapt)
            check(graph, manifest, f"{self._bundle.path.name}/{binding.file}")
            self._opened[name, manifest.frames.shape] = graph
        return self._opened[name, manifest.frames.shape]

    def manifest(self, window: Frames | None) -> Manifest:
        """What the bundle says of frames of that size."""
        shape = self._bundle.manifest.frames.shape if window is None else shape_of(window)
        return self._manifests[shape]

    @property
    def knows_keys(self) -> bool:
        """Whether anything is known of context keys."""
        return self._bundle.manifest.source is not None

    def open_step(
        self, hyper_parameters: Mapping[str, float], window: Frames | None = None
    ) -> Graph:
        """The graph that adapts under these; see `open`, and raises as it.

        At a learning rate of zero that is `remember`, which computes no gradient, if it is there.
        """
        there = self._bundle.manifest.binding(REMEMBER, self._step_backend.target) is not None
        remembers = there and hyper_parameters.get(RATE) == 0
        return self.open(REMEMBER if remembers else self._step, window)

    def predict(
        self, window: Frames, block: Block, hyper_parameters: Mapping[str, float]
    ) -> Answers:
        """Answers to a window [n, ...]."""
        graph = self.open("predict", window)
        feeds = {**block.under("block"), **_scalars(hyper_parameters, graph)}
        return self.rows(self._run(graph, window, feeds), window)

    @property
    def tells_classes(self) -> bool:
        """Whether answers are logits of classes."""
        return self._bundle.manifest.task is None

    def rows(self, outputs: Arrays, window: Frames) -> Answers:
        """Answers to a window, from what a graph returned.

        Raises:
            BundleError: an output has another shape than the manifest says.
        """
        thing = f"{self._bundle.path.name}: graph"
        return rows_of(outputs, self.manifest(window), len(window), thing)

    def frozen(self, window: Frames) -> Answers:
        """Answers of the frozen model."""
        return self.predict(window, self.zero, self.frozen_parameters)

    def frozen_taught(
        self, window: Frames, hyper_parameters: Mapping[str, float], taught: Block
    ) -> Answers:
        """Answers of the frozen model with arrays that were taught.

        In the way chosen to read them.
        """
        return self._frozen(window, self._reads, hyper_parameters, taught)

    def frozen_read(
        self, window: Frames, hyper_parameters: Mapping[str, float], taught: Block
    ) -> Answers:
        """The same, read as those of the block are in all that does not belong to the model."""
        return self._frozen(window, self._reads | READING, hyper_parameters, taught)

    def _frozen(
        self,
        window: Frames,
        read: set[str],
        hyper_parameters: Mapping[str, float],
        taught: Block,
    ) -> Answers:
        reading = {name: hyper_parameters[name] for name in read & hyper_parameters.keys()}
        return self.predict(window, self.zero.replace(taught), self.frozen_parameters | reading)

    def adapt(
        self, window: Frames, block: Block, slots: Block, hyper_parameters: Mapping[str, float]
    ) -> Arrays:
        """All outputs of one adaptation step on a full batch."""
        graph = self.open_step(hyper_parameters, window)
        arrays = {**block.under("block"), **slots.under("opt")}
        given = {**_inputs(window, graph), **_scalars(hyper_parameters, graph)}
        given |= {name: array for name, array in arrays.items() if name in graph.inputs}
        kept = {f"next.{name}": array for name, array in arrays.items()}
        return kept | graph.run(given)

    def learn(
        self,
        window: Frames,
        labels: NDArray[np.int64],
        block: Block,
        hyper_parameters: Mapping[str, float],
    ) -> Arrays:
        """All outputs of `learn` on at most a batch of frames. labels: [n], -1 = a frame without.

        Raises:
            InputError: the bundle has no such graph.
        """
        graph, batch = self.open("learn"), self._bundle.manifest.frames.batch
        y = np.full(batch, -1, np.int64)
        y[: len(labels)] = labels
        feeds = {LABELS: y, **block.under("block"), **_scalars(hyper_parameters, graph)}
        return self._run(graph, window, feeds)

    def key(self, window: Frames) -> Array:
        """The context key of a window.

        Raises:
            BundleError: the graph gives another size than the manifest says.
        """
        key = self._run(self.open("key", window), window, {})["key"]
        if key.shape != (size := (self._bundle.manifest.key,)):
            thing, reason = f"{self._bundle.path.name}: graph key", f"gives {list(key.shape)}"
            raise BundleError(thing, f"{reason} numbers instead of {list(size)}", REMEDY)
        return key

    def _run(self, graph: Graph, window: Frames, feeds: Arrays) -> Arrays:
        """All outputs; a graph for one batch size gets zeros after the frames, and is told."""
        if FILLED not in graph.inputs:
            return graph.run({**_inputs(window, graph), **feeds})
        filled = np.asarray(len(window), np.float32)
        if (short := self._bundle.manifest.frames.batch - len(window)) > 0:
            window = np.concatenate([window, np.zeros((short, *window.shape[1:]), window.dtype)])
        return graph.run({**_inputs(window, graph), FILLED: filled, **feeds})


def _inputs(window: Frames, graph: Graph) -> Arrays:
    """What a graph takes of rows: not every one needs all that comes beside the frames."""
    return {name: array for name, array in fields(window).items() if name in graph.inputs}


def _scalars(values: Mapping[str, float], graph: Graph) -> Arrays:
    names = {name: f"hp.{name}" for name in values}
    return {
        full: np.asarray(values[name], np.float32)
        for name, full in names.items()
        if full in graph.inputs
    }
