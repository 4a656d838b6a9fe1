"""A process of `compare.py`: one engine, in its own environment, repeats one step.

`prepare ENGINE FOLDER` converts what the engine starts from; `serve ENGINE FOLDER THREADS` loads
that, writes what the first step gives to ENGINE.npz, and answers every line on its input with the
milliseconds of a step, at last with the process's peak memory. Needs numpy and the engine only.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]
Step = Callable[[], Arrays]


def values(folder: Path) -> list[Any]:
    """The step's inputs in order."""
    with np.load(folder / "inputs.npz") as held:
        return [held[name] for name in names(folder)["inputs"]]


def names(folder: Path) -> dict[str, list[str]]:
    """Names of inputs, outputs and of the block's arrays."""
    found: dict[str, list[str]] = json.loads((folder / "names.json").read_text())
    return found


def load_edgemem(folder: Path, threads: int, plan: str = "full", profile: str = "latency") -> Step:
    """The exported graph as the runtime opens it."""
    from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend

    graph = OnnxRuntimeBackend(threads, profile).open(folder / f"{plan}.onnx")
    feeds = dict(zip(names(folder)["inputs"], values(folder), strict=True))
    feeds = {name: feeds[name] for name in graph.inputs}
    return lambda: dict(graph.run(feeds))


def load_lean(folder: Path, threads: int) -> Step:
    """The lean plan with the engine set for memory."""
    return load_edgemem(folder, threads, "full_lean", "memory")


def load_eager(folder: Path, threads: int, compiled: bool = False) -> Step:
    """The same model and loss in torch, with torch's SGD."""
    import torch

    from benchmarks.cost.step_cost_model import HP, adaptive_model
    from benchmarks.engines.model import NETWORK, STATISTICS
    from edgemem.export.functions.objective import ecotta

    torch.set_num_threads(threads)
    model, objective = adaptive_model(NETWORK, STATISTICS), ecotta(10)
    hp = {k: torch.tensor(v) for k, v in (objective.hyper_parameters | HP).items()}
    given = dict(zip(names(folder)["inputs"], values(folder), strict=True))
    x, block = torch.from_numpy(given["x"]), model.block()
    rate, momentum = (float(given[f"hp.{name}"]) for name in ("learning_rate", "momentum"))
    optimizer = torch.optim.SGD(block.values(), rate, momentum)

    def forward() -> tuple[Any, Any]:
        output = model(x, None)
        return objective.loss(output, hp).value, output.logits

    run = torch.compile(forward) if compiled else forward

    def step() -> Arrays:
        loss, logits = run()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        moved = {f"next.block.{k}": v.detach().numpy() for k, v in block.items()}
        return moved | {"logits": logits.detach().numpy()}

    return step


def load_compiled(folder: Path, threads: int) -> Step:
    """The same through torch.compile, the optimiser apart."""
    return load_eager(folder, threads, compiled=True)


def prepare_training(folder: Path) -> None:
    """Gradient graph, optimiser graph and checkpoint of onnxruntime-training."""
    import onnx
    from onnxruntime.training import artifacts

    model = onnx.load(folder / "loss.onnx")
    (folder / "training").mkdir()
    block = {f"model.{name}" for name in names(folder)["block"]}
    every = {value.name for value in model.graph.initializer}
    artifacts.generate_artifacts(
        model,
        requires_grad=sorted(block),
        frozen_params=sorted(every - block),
        optimizer=artifacts.OptimType.SGD,
        artifact_directory=folder / "training",
    )


def load_training(folder: Path, threads: int) -> Step:
    """onnxruntime-training; its SGD knows no momentum, which the first step has none of either."""
    import onnxruntime
    from onnxruntime.training.api import CheckpointState, Module, Optimizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    place, given = (
        folder / "training",
        dict(zip(names(folder)["inputs"], values(folder), strict=True)),
    )
    state = CheckpointState.load_checkpoint(str(place / "checkpoint"))
    module = Module(
        str(place / "training_model.onnx"),
        state,
        str(place / "eval_model.onnx"),
        session_options=options,
    )
    optimizer = Optimizer(str(place / "optimizer_model.onnx"), module)
    optimizer.set_learning_rate(float(given["hp.learning_rate"]))
    module.train()

    def step() -> Arrays:
        _, logits = module(given["x"])
        optimizer.step()
        module.lazy_reset_grad()
        return {"logits": logits}

    def first() -> Arrays:
        moved = step()
        moved |= {
            f"next.block.{name}": state.parameters[f"model.{name}"].data
            for name in names(folder)["block"]
        }
        return moved

    step.first = first
    return step


def prepare_executorch(folder: Path) -> None:
    """The traced step with XNNPACK where its partitioner takes it."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.load(folder / "step_plain.pt2")
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    (folder / "step.pte").write_bytes(lowered.to_executorch().buffer)


def load_executorch(folder: Path, threads: int) -> Step:
    """Its runtime, with as many threads as it takes."""
    import torch
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(folder / "step.pte")
    method, given = program.load_method("forward"), [torch.from_numpy(v) for v in values(folder)]
    outputs = names(folder)["outputs"]
    return lambda: {
        name: value.numpy() for name, value in zip(outputs, method.execute(given), strict=True)
    }


def prepare_litert(folder: Path) -> None:
    """The traced step, converted; without the pass over layouts, which takes some wrongly."""
    import litert_torch
    import torch
    from litert_torch import fx_infra
    from litert_torch._convert import fx_passes

    class Keep(fx_infra.ExportedProgramPassBase):
        def call(self, program: Any) -> Any:
            return fx_infra.ExportedProgramPassResult(program, False)

    fx_passes.OptimizeLayoutTransposesPass = Keep

    program = torch.export.load(folder / "step_plain.pt2")
    given = tuple(torch.from_numpy(value) for value in values(folder))
    litert_torch.convert(program.module(), given).export(str(folder / "step.tflite"))


def load_litert(folder: Path, threads: int) -> Step:
    """LiteRT's interpreter with XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / "step.tflite"), num_threads=threads)
    runner, outputs = interpreter.get_signature_runner(), names(folder)["outputs"]
    given = {f"args_{i}": value for i, value in enumerate(values(folder))}

    def step() -> Arrays:
        found = runner(**given)
        return {name: found[f"output_{i}"] for i, name in enumerate(outputs)}

    return step


PREPARE = {
    "onnxruntime-training": prepare_training,
    "ExecuTorch": prepare_executorch,
    "LiteRT": prepare_litert,
}
LOAD: dict[str, Callable[[Path, int], Step]] = {
    "EdgeMem": load_edgemem,
    "EdgeMem, lean": load_lean,
    "torch eager": load_eager,
    "torch.compile": load_compiled,
    "onnxruntime-training": load_training,
    "ExecuTorch": load_executorch,
    "LiteRT": load_litert,
}


def serve(engine: str, folder: Path, threads: int) -> None:
    """Answer every line with one step's time, preceded by one that is not timed."""
    step = LOAD[engine](folder, threads)
    np.savez(folder / f"{engine}.npz", **getattr(step, "first", step)())
    say("ready")
    for _ in sys.stdin:
        step()
        began = time.perf_counter()
        step()
        say(1000 * (time.perf_counter() - began))
    say(peak_mb())


def say(what: object) -> None:
    """One line to the parent; the prefix tells it from what an engine prints."""
    print(f"engines: {what}", flush=True)


def peak_mb() -> float:
    """Largest resident set of this process so far (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+)", status)[1]) * 1024 / 1e6


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        PREPARE[sys.argv[2]](Path(sys.argv[3]))
    else:
        serve(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
