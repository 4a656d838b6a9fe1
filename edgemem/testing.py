"""For tests of what uses a runtime: backends that answer as told, and a look at what was learnt.

An example, with `path` of a bundle and `frames` of its shape:

    from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend
    from edgemem.testing import WatchedBackend, open_with, session_of

    backend = WatchedBackend(OnnxRuntimeBackend())
    with open_with(path, backend) as runtime:
        runtime.step(frames)
        assert "adapt" in [call.graph for call in backend.calls]
        assert session_of(runtime).block.is_finite()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgemem.block import Array, Arrays
from edgemem.bundle.further_input import FRAMES
from edgemem.bundle.manifest import SUMMARY, Binding, Manifest
from edgemem.bundle.opening import open_bundle
from edgemem.runtime.batch import Batch
from edgemem.runtime.engines.protocol import Backend, Graph, TensorSpec
from edgemem.runtime.frames import Inputs, checked
from edgemem.runtime.loop import Runtime
from edgemem.runtime.result import Events
from edgemem.runtime.session import Session
from edgemem.runtime.step.ring import Ring
from edgemem.state.store import State

Answer = Mapping[str, float]


def open_with(
    bundle: Path | str, backend: Backend, state: Path | str | None = None, **options: Any
) -> Runtime:
    """Open a bundle with a backend of your own.

    Args:
        bundle: folder written by `edgemem export`.
        backend: what runs its graphs.
        state: file to keep what is learnt in; None = forget on close.
        options: those of `Runtime`, by name.

    Raises:
        EdgeMemError: as `edgemem.open`.
    """
    opened = open_bundle(bundle)
    kept = None if state is None else State(state, opened.identity)
    try:
        return Runtime(opened, backend, state=kept, **options)
    except BaseException:
        if kept is not None:
            kept.close()
        raise


def session_of(runtime: Runtime) -> Session:
    """All that changes in a runtime, as it is now."""
    return runtime._keeper.session


def notices_of(runtime: Runtime) -> Events:
    """What happened between calls, and the next one will tell."""
    return runtime._keeper.notices


def ring_of(runtime: Runtime) -> Ring:
    """The frames that a runtime holds in memory."""
    return runtime._ring


def state_of(runtime: Runtime) -> State:
    """Its open state file; opened without one it has none."""
    assert runtime._state is not None
    return runtime._state


def put_session(runtime: Runtime, session: Session) -> None:
    """Go on from another session, as if it had come about; the next commit writes it."""
    runtime._keeper.take(session)
    runtime._keeper.changed = True


def batch_of(runtime: Runtime, frames: Array, inputs: Inputs | None = None) -> Batch:
    """Frames as the runtime takes them, to ask its graphs about under any block.

    They are not noted as frames that came in.

    Raises:
        InputError: frames that do not fit the bundle.
    """
    taken = checked(frames, runtime.bundle.manifest.frames, inputs)
    return Batch(taken, runtime._graphs, dict(runtime.hyper_parameters))


def wait_for_step(runtime: Runtime) -> None:
    """Until the step in the background has finished, if one runs.

    The next call takes what it learnt, or tells why it failed.
    """
    if (behind := runtime._keeper.behind) is not None:
        behind.wait()


@dataclass(frozen=True)
class Call:
    """One run of a graph."""

    graph: str
    feeds: Mapping[str, Array]
    outputs: Arrays


class WatchedBackend:
    """Another backend, whose calls are noted.

    Args:
        backend: the other one.
        change: given a call, what its outputs are to be instead.

    Attributes:
        opened: its graphs by name.
        calls: all of them in order.
    """

    def __init__(
        self, backend: Backend, change: Callable[[Call], Arrays] = lambda call: call.outputs
    ) -> None:
        self.name, self.target = backend.name, backend.target
        self.opened: dict[str, Graph] = {}
        self.calls: list[Call] = []
        self.change, self._backend = change, backend

    def open(self, path: Path, binding: Binding | None = None) -> Graph:
        """A graph whose calls are noted under its file's name without suffix.

        Where the file holds several graphs, under the graph's own.
        """
        name = "" if binding is None else binding.signature
        name = name or path.name.split(".")[0]
        self.opened[name] = self._backend.open(path, binding)
        return _WatchedGraph(name, self.opened[name], self)


class _WatchedGraph:
    def __init__(self, name: str, graph: Graph, backend: WatchedBackend) -> None:
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self._name, self._graph, self._backend = name, graph, backend

    def run(self, feeds: Mapping[str, Array]) -> Arrays:
        """All outputs by name."""
        call = Call(self._name, feeds, self._graph.run(feeds))
        self._backend.calls.append(call)
        return self._backend.change(call)


class ScriptedBackend:
    """Graphs without a network.

    `adapt` adds to every array what the script says; `predict` answers with the mean of the block's
    first array.

    Args:
        manifest: of the bundle that is opened with it.
        script: an answer for each step in turn: "add", what is added (1 without), "loss" and
            "updated", those statistics, and "logits", what is added to what is answered.
        limit: a mean above it gives NaN: a block that fails although its values are finite.
    """

    name, target = "scripted", "onnx"

    def __init__(self, manifest: Manifest, *script: Answer, limit: float = np.inf) -> None:
        self._manifest, self._script, self._limit = manifest, list(script), limit

    def open(self, path: Path, binding: Binding | None = None) -> Graph:
        """The graph of that file."""
        steps = None if path.name.startswith("predict") else self._script
        frames = self._manifest.frames
        sizes = (size.shape for size in frames.sizes if path.name in size.graphs.values())
        return _ScriptedGraph(self._manifest.at(next(sizes, frames.shape)), steps, self._limit)


class _ScriptedGraph:
    def __init__(self, manifest: Manifest, script: list[Answer] | None, limit: float) -> None:
        self._script, self._limit, self._answers = script, limit, _answer_shapes(manifest)
        arrays = {f"block.{s.name}": s for s in manifest.block.arrays}
        if script is not None:
            arrays |= {f"opt.{s.name}": s for s in manifest.slots.arrays}
        self._arrays = arrays
        frames = TensorSpec((None, *manifest.frames.shape), manifest.frames.dtype)
        specs = {n: TensorSpec(s.shape, s.dtype) for n, s in arrays.items()}
        specs |= {s.tensor: TensorSpec((None, *s.shape), s.dtype) for s in manifest.frames.inputs}
        self.inputs: Mapping[str, TensorSpec] = {**specs, FRAMES: frames}
        self.outputs = (*self._answers, "key", *(f"next.{name}" for name in arrays))
        self.outputs += tuple(f"stat.{name}" for name in manifest.stats)

    def run(self, feeds: Mapping[str, Array]) -> Arrays:
        """All outputs by name."""
        answer: Answer = {"add": 1.0} if self._script is None else self._script.pop(0)
        mean = feeds[next(iter(self._arrays))].mean()
        mean = mean if mean <= self._limit else np.float32(np.nan)
        outputs: Arrays = {"key": np.zeros(1, np.float32)}
        value = np.float32(mean + answer.get("logits", 0))
        for name, (shape, axis) in self._answers.items():
            sizes = (*shape[:axis], len(feeds[FRAMES]), *shape[axis:])
            outputs[name] = np.full(sizes, value, np.float32)
        for name in self._arrays:
            outputs[f"next.{name}"] = np.asarray(feeds[name] + np.float32(answer.get("add", 0)))
        stats = {"loss": 1.0, "updated": 1.0} | {
            name: value for name, value in answer.items() if name in ("loss", "updated")
        }
        return outputs | {
            f"stat.{name}": np.asarray(value, np.float32) for name, value in stats.items()
        }


def _answer_shapes(manifest: Manifest) -> dict[str, tuple[tuple[int, ...], int]]:
    """Shape of one frame's part of each answer, and the axis of the frames."""
    task = manifest.task
    if task is None:
        return {"logits": ((len(manifest.labels),), 0)}
    return {SUMMARY: ((task.summary,), 0)} | {o.tensor: (o.shape, o.axis) for o in task.outputs}
