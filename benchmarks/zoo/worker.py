"""One architecture, in a process of its own: align, export, open, run; writes what came out.

Arguments: label, the device environment's `edgemem` ("" = only align, and trace the step), path to
write, seconds of the processor.
"""

from __future__ import annotations

import copy
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

import edgemem
from benchmarks.zoo.architectures import Architecture, named
from benchmarks.zoo.calibrated import answers, calibrate
from benchmarks.zoo.frames import Frames, drifting, source_frames
from benchmarks.zoo.verdict import TRACED
from benchmarks.zoo.without_cuda import import_torchvision
from edgemem.block import Block
from edgemem.bundle.opening import open_bundle
from edgemem.errors import EdgeMemError
from edgemem.export import Choices, export_bundle
from edgemem.export.checks.parity import check_at_rest
from edgemem.export.choices import frame_spec, functions_of
from edgemem.export.tracing.trace import check_traceable
from edgemem.models.adaptive.adaptive_model import AdaptiveModel
from edgemem.models.sites.aligned_model import align
from edgemem.runtime.engines.choice import EngineSettings, choose
from edgemem.runtime.step.graphs import Graphs

SOURCE, FEW, BATCH, BATCHES = 128, 32, 8, 20
RATE = 3e-4  # that of exports without a calibration
MEMORY = 12 << 30  # bytes of address space
NO_MEMORY = ("bad_alloc", "can't allocate memory", "MemoryError")  # of onnxruntime, torch, Python
TURNS = 15


def study(architecture: Architecture, device: str, folder: Path, found: dict[str, Any]) -> None:
    """Fill `found`, stage by stage.

    Raises:
        EdgeMemError: the model is refused.
    """
    frames = architecture.read(source_frames(architecture.shape, SOURCE if device else FEW))
    found["stage"] = "making the model"
    model = architecture.make()
    calibrate(model, torch.from_numpy(frames))
    found["parameters"] = sum(p.numel() for p in model.parameters())
    held = [*model.parameters(), *model.buffers()]
    checkpoint = sum(array.numel() * array.element_size() for array in held)
    given = copy.deepcopy(model)
    found["stage"], began = "align", time.process_time()
    adaptive, chosen = align(model, frames, task=architecture.task, batch=BATCH)
    found["align_s"] = time.process_time() - began
    found |= {"sites": len(adaptive.attachment.sites), "norms": len(_norms(adaptive))}
    found["alpha"] = None if chosen is None else chosen.alpha
    found["stage"], began = "export", time.process_time()
    bundle, choices = folder / "model.edgemem", Choices(batch=BATCH, learning_rate=RATE)
    if not device:
        _trace(adaptive, choices)
        found["stage"] = TRACED
        return
    parity = export_bundle(adaptive, bundle, choices)
    found["export_s"] = time.process_time() - began
    found["parity"] = parity.as_dict()
    found["bytes"] = sum(p.stat().st_size for p in bundle.rglob("*") if p.is_file())
    found["times_checkpoint"] = found["bytes"] / checkpoint
    found["stage"] = "frozen"
    drifted = [architecture.read(x) for x in drifting(architecture.shape, BATCHES, BATCH)]
    found["frozen_off"] = _frozen_off(bundle, given, frames, drifted[::5])
    found["stage"] = "stream"
    found["stream"] = _stream(bundle, drifted, folder)
    found["stage"] = "device"
    found["device"] = _verify(device, bundle)
    found["stage"] = "times"
    found["ms"] = _times(bundle, _plain(given, frames[:BATCH]), frames[:BATCH])
    found["stage"] = "done"


def _trace(adaptive: AdaptiveModel, choices: Choices) -> None:
    """The part of an export that meets what a model does; raises as it does."""
    frames = frame_spec(adaptive, choices)
    check_at_rest(adaptive, frames)
    functions, _ = functions_of(adaptive, choices, frames)
    check_traceable(functions["adapt"])


def _norms(model: nn.Module) -> list[nn.Module]:
    from edgemem.models.norms.statistics import AdaptingNorm

    return [module for module in model.modules() if isinstance(module, AdaptingNorm)]


def _frozen_off(bundle: Path, given: nn.Module, frames: Frames, drifted: list[Frames]) -> float:
    """Largest distance of the bundle's frozen answers from the given model's, relative to these."""
    worst = 0.0
    with edgemem.open(bundle, threads=1, provider="cpu") as runtime:
        for part in (frames[: 4 * BATCH], *drifted, frames[:3]):
            expected = answers(given, torch.from_numpy(part)).numpy()
            answer = _answer(runtime.predict(part, frozen=True))
            if answer.shape != expected.shape:
                return float("inf")
            off = np.abs(answer - expected).max() / max(1.0, float(np.abs(expected).max()))
            worst = max(worst, float(off)) if np.isfinite(off) else float("inf")
    return worst


def _answer(result: edgemem.Result) -> Frames:
    """The output that a model of these has."""
    return next(iter(result.outputs.values()))


def _stream(bundle: Path, drifted: list[Frames], folder: Path) -> dict[str, Any]:
    """A stream that drifts: what happened, and whether it changed the block and the answers."""
    kinds: dict[str, int] = {}
    finite, state = True, folder / "state.db"
    with edgemem.open(bundle, state=state, threads=1, provider="cpu") as runtime:
        start = runtime._session.block  # nothing public gives the arrays
        for batch in drifted:
            result = runtime.step(batch)
            finite &= bool(np.isfinite(_answer(result)).all())
            for event in result.events:
                kinds[str(event.kind)] = kinds.get(str(event.kind), 0) + 1
        block = runtime._session.block
        aligned = _answer(runtime.predict(batch))
        moved = max((float(np.abs(block[n] - start[n]).max()) for n in block), default=0.0)
        sound = all(bool(np.isfinite(block[n]).all()) for n in block)
    with edgemem.open(bundle, state=state, threads=1, provider="cpu") as runtime:
        again = _answer(runtime.predict(batch))
    return {
        "events": kinds,
        "finite": finite and sound and bool(np.isfinite(aligned).all()),
        "block_moved": moved,
        "answers_moved": _moved(bundle, batch, block),
        "restored_off": float(np.abs(again - aligned).max()),
    }


def _moved(path: Path, x: Frames, block: Block) -> float:
    """How far a block's answers are from the frozen model's, whichever of them a guard would give.

    Of networks with random weights the guards often choose the frozen one.
    """
    bundle = open_bundle(path)
    graphs = Graphs(bundle, choose(bundle, "cpu", EngineSettings(1)).backend)
    values = {name: value.default for name, value in bundle.manifest.hyper_parameters.items()}
    return float(np.abs(graphs.predict(x, block, values) - graphs.frozen(x)).max())


def _verify(device: str, bundle: Path) -> str:
    """ "ok", or what `edgemem verify` says in the device environment."""
    done = subprocess.run(
        [device, "verify", str(bundle), "--threads", "1", "--json"], capture_output=True, text=True
    )
    return "ok" if done.returncode == 0 else (done.stderr or done.stdout).strip()[-400:]


def _plain(given: nn.Module, x: Frames) -> Callable[[], Any] | None:
    """The given model as people carry it: torch's own ONNX export; None where it has none."""

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.given = given

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output = self.given(x)
            found: torch.Tensor = getattr(output, "logits", output)
            return found

    written = io.BytesIO()
    try:
        torch.onnx.export(
            Logits().eval(), (torch.from_numpy(x),), written, dynamo=False, opset_version=17
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            written.getvalue(), options, providers=["CPUExecutionProvider"]
        )
    except Exception:  # noqa: BLE001 - not our export
        return None
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: x})


def _times(path: Path, plain: Callable[[], Any] | None, x: Frames) -> dict[str, float]:
    """Milliseconds of a batch: the given model's graph, ours, and a step.

    Of the processor, on the one thread that runs them, and the fastest of some turns each: while
    other work holds the processor, a call that takes long waits, and one that is short does not.
    """
    bundle = open_bundle(path)
    manifest = bundle.manifest
    graphs = Graphs(bundle, choose(bundle, "cpu", EngineSettings(1)).backend)
    values = {name: value.default for name, value in manifest.hyper_parameters.items()}
    block, slots = bundle.generic, manifest.slots.zero()
    calls: dict[str, Callable[[], Any]] = {
        "aligned": lambda: graphs.predict(x, block, values),
        "step": lambda: graphs.adapt(x, block, slots, values),
    }
    if plain is not None:
        calls["frozen"] = plain
    seen: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(TURNS + 1):
        for name, call in calls.items():
            began = time.thread_time()
            call()
            seen[name].append(1000 * (time.thread_time() - began))
    return {name: min(times[1:]) for name, times in seen.items()}


def main() -> None:
    """See above."""
    label, device, text, seconds = sys.argv[1:]
    path, limit = Path(text), int(seconds)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    torch.manual_seed(0)
    torch.set_num_threads(1)
    import_torchvision()
    found: dict[str, Any] = {}
    signal.signal(signal.SIGXCPU, lambda *_: _ended(found, path, limit))
    with tempfile.TemporaryDirectory(prefix="edgemem-") as folder:
        try:
            study(named(label), device, Path(folder), found)
        except EdgeMemError as error:
            found["refused"] = {n: getattr(error, n) for n in ("thing", "reason", "remedy")}
        except Exception as error:  # noqa: BLE001 - what is thrown is what the matrix tells
            found["raised"] = f"{type(error).__name__}: {error}"
            found["trace"] = traceback.format_exc()
        told = str(found.get("refused") or found.get("raised"))
        if any(sign in told for sign in NO_MEMORY):
            found["beyond"] = f"{MEMORY >> 30} GB of address space"
    _write(found, path)


def _ended(found: dict[str, Any], path: Path, limit: int) -> None:
    _write(found | {"beyond": f"{limit} seconds of the processor"}, path)
    os._exit(0)


def _write(found: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(found | {"seconds": time.process_time()}, indent=1, default=str))


if __name__ == "__main__":
    main()
