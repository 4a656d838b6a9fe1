"""Methods as the runner sees them: frames in, predicted labels out."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.adaptation.methods import OURS, PEERS, REMEASURED, SHIPPED, WARM, Ours, named

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.adaptation.peers.base import Method

Frames = NDArray[Any]
Labels = NDArray[np.int64]
WINDOW = 64  # frames a peer keeps when frames come one by one
EVALUATION_BATCH = 64


class Running(Protocol):
    """One method on one stream. context: what it takes the last frames' context for, if it tells
    contexts apart."""

    context: str | None
    bytes_written: int | None

    def answer(self, frames: Frames) -> Labels:
        """Labels of the next frames of the stream; it may learn from them."""

    def evaluate(self, frames: Frames) -> Labels:
        """Labels with what has been learnt so far; learns nothing."""

    def close(self) -> None:
        """No frames come any more."""


class RunningBundle:
    """One of ours, in the runtime."""

    context: str | None = None

    def __init__(
        self, bundle: Path, way: Ours, state: Path, threads: int, factor: float = 1.0
    ) -> None:
        import edgemem

        self._runtime = edgemem.open(
            bundle,
            state,
            adapt=way.adapt,
            options=edgemem.Options(adapt_when=way.adapt_when, contexts=way.contexts),
            threads=threads,
            hyper_parameters=way.hyper_parameters,
        )
        if factor != 1:
            rate = factor * self._runtime.hyper_parameters["learning_rate"]
            self._runtime.hyper_parameters.set(learning_rate=rate)
        self._names = way.contexts

    def answer(self, frames: Frames) -> Labels:
        """One call of `step`."""
        result = self._runtime.step(frames)
        self.context = result.context if self._names else None
        return result.labels

    @property
    def bytes_written(self) -> int:
        """To the state file."""
        return self._runtime.bytes_written

    def evaluate(self, frames: Frames) -> Labels:
        """In batches, with the block that is in use."""
        parts = range(0, len(frames), EVALUATION_BATCH)
        found = [self._runtime.predict(frames[i : i + EVALUATION_BATCH]).labels for i in parts]
        return np.concatenate(found)

    def close(self) -> None:
        """Commit what was learnt."""
        self._runtime.close()


class RunningPeer:
    """A peer in torch; single frames go through a window of the last 64."""

    context: str | None = None
    bytes_written: int | None = None

    def __init__(self, method: Method) -> None:
        self._method = method
        self._window: list[Tensor] = []
        self._seen = 0

    def answer(self, frames: Frames) -> Labels:
        """One batch; or one frame, which is answered in its window."""
        x = _tensor(frames)
        if len(x) > 1:
            return _labels(self._method.adapt(x))
        self._window = [*self._window, x][-WINDOW:]
        self._seen += 1
        import torch

        window = torch.cat(self._window)
        act = self._method.adapt if self._seen % WINDOW == 0 else self._method.predict
        return _labels(act(window)[-1:])

    def evaluate(self, frames: Frames) -> Labels:
        """In batches."""
        x = _tensor(frames)
        return np.concatenate(
            [_labels(self._method.predict(part)) for part in x.split(EVALUATION_BATCH)]
        )

    def close(self) -> None:
        """Nothing is open."""


def peer_of(folder: Path, name: str, seed: int, threads: int) -> Method:
    """The peer of that name, with the network that it starts from."""
    import torch

    from benchmarks.adaptation.setups import Setup

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    setup, (name, factor) = Setup(folder), named(name)
    network = setup.warm() if name in WARM else setup.frozen()
    if name in REMEASURED:
        setup.remeasure(network)
    name = (WARM | REMEASURED).get(name, name)
    peer = importlib.import_module(f"benchmarks.adaptation.peers.{PEERS[name]}").PEERS[name]
    made: Method = peer.make(network, setup.source(), factor * peer.learning_rate)
    return made


def _tensor(frames: Frames) -> Tensor:
    import torch

    x = torch.from_numpy(np.array(frames))
    return x.float() / 255 if x.dtype == torch.uint8 else x


def _labels(logits: Tensor) -> Labels:
    found: Labels = logits.argmax(1).numpy()
    return found


def bundle_path(folder: Path, way: Ours, protocol: str) -> Path:
    """Where the bundle of one of ours lies."""
    name = f"{SHIPPED}, {protocol}" if way.bundle == SHIPPED else way.bundle
    return folder / "bundles" / f"{name}.edgemem"


def running(
    folder: Path, name: str, protocol: str, state: Path, seed: int, threads: int
) -> Running:
    """The method of that name, ready for a protocol."""
    ours, factor = named(name)
    if ours in OURS:
        way = OURS[ours]
        return RunningBundle(bundle_path(folder, way, protocol), way, state, threads, factor)
    return RunningPeer(peer_of(folder, name, seed, threads))
