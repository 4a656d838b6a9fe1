"""Memory of adaptation methods: counted as the papers do, and of the whole process.

Counted as in EcoTTA's paper (after TinyTL): weights, and the inputs of every layer that learns.
Kept by autograd: weights, and all that torch in fact keeps for the backward pass; what shares
storage counts once. WRN-40-2, random weights, batch 64, MB of 1e6 bytes. Each method runs in a
process of its own; EdgeMem's step runs in the runtime, without torch, and is counted in torch, from
the model it was exported from.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cost.step_cost_model import NETWORKS, adaptive_model, network, write_steps
from benchmarks.shared.report import command_line, save_json, setting, setting_text
from edgemem.cli.show import print_table, progress

NETWORK, BATCH = "WRN-40-2", 64
STEPS = 3
PARTS = NETWORKS[NETWORK][1]
OURS = {"EdgeMem, source": "source", "EdgeMem, mix": "mix"}  # on the meta path
TORCH = ("frozen model", "Tent", "CoTTA", "EcoTTA")
MEMORY_WORKER = Path(__file__).with_name("memory_worker.py")


class Saved:
    """Bytes that autograd keeps, besides weights. peak: the most at any time."""

    def __init__(self, weights: set[int]) -> None:
        self.now = self.peak = 0
        self._weights, self._uses = weights, dict[int, int]()

    def pack(self, tensor: Any) -> Any:
        """Count a tensor when it is saved."""
        return _Held(self, tensor)

    def add(self, storage: Any) -> None:
        """One more use of a storage."""
        place = storage.data_ptr()
        if place in self._weights:
            return
        self._uses[place] = self._uses.get(place, 0) + 1
        if self._uses[place] == 1:
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)

    def drop(self, storage: Any) -> None:
        """One use less."""
        place = storage.data_ptr()
        if place in self._uses:
            self._uses[place] -= 1
            if not self._uses[place]:
                self.now -= storage.nbytes()
                del self._uses[place]


class _Held:
    """A saved tensor, counted while it lives."""

    def __init__(self, saved: Saved, tensor: Any) -> None:
        self._saved, self.tensor = saved, tensor
        saved.add(tensor.untyped_storage())

    def __del__(self) -> None:
        self._saved.drop(self.tensor.untyped_storage())


def method(name: str) -> tuple[Callable[[Any], Any], list[Any]]:
    """What adapts on a batch, and every model it keeps in memory."""
    import torch

    from benchmarks.adaptation.peers import cotta, ecotta, entropy
    from benchmarks.adaptation.peers.base import Source
    from benchmarks.shared.views import image_view

    frames = torch.rand(8, *NETWORKS[NETWORK][2])
    source = Source(frames, torch.zeros(8, dtype=torch.int64), 10, image_view)
    model = network(NETWORK)
    if name == "frozen model":
        return torch.no_grad()(model), [model.requires_grad_(False)]
    if name == "EcoTTA":
        made = ecotta.make_ecotta(model, source, 5e-3, PARTS, None)
        return made.adapt, _models(made)
    peers = entropy.PEERS | cotta.PEERS
    made = peers[name].make(model, source, peers[name].learning_rate)
    return made.adapt, _models(made)


def _models(made: Any) -> list[Any]:
    """Every torch module that an object of a peer holds."""
    from torch import nn

    if isinstance(made, nn.Module):
        return [made]
    held = vars(made).values() if type(made).__module__.startswith("benchmarks.adaptation.") else ()
    return [model for value in held for model in _models(value)]


class LearningInputs:
    """Bytes of the inputs of all layers with parameters of their own that require a gradient."""

    def __init__(self, models: list[Any]) -> None:
        self._bytes: dict[Any, int] = {}
        for layer in {layer for model in models for layer in model.modules()}:
            if any(p.requires_grad for p in layer.parameters(recurse=False)):
                layer.register_forward_pre_hook(self._note)

    def _note(self, layer: Any, inputs: tuple[Any, ...]) -> None:
        self._bytes[layer] = inputs[0].numel() * 4

    def mb(self) -> float:
        """In all; a layer that runs several times counts once."""
        return sum(self._bytes.values()) / 1e6


def counted(name: str) -> dict[str, float]:
    """Weights and peak of what is saved, of one method in torch; and this process's peak."""
    import torch

    from edgemem.runtime.engines.process_memory import peak_rss_mb

    torch.manual_seed(0)
    adapt, models = ours(OURS[name]) if name in OURS else method(name)
    everything = [t for m in models for t in (*m.parameters(), *m.buffers())]
    own = {tensor.untyped_storage().data_ptr(): tensor for tensor in everything}
    inputs, saved = LearningInputs(models), Saved(set(own))
    x = torch.rand(BATCH, *NETWORKS[NETWORK][2])
    for _ in range(STEPS):
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda held: held.tensor):
            adapt(x)
    weights = sum(tensor.untyped_storage().nbytes() for tensor in own.values()) / 1e6
    return {
        "paper_mb": weights + inputs.mb(),
        "autograd_mb": weights + saved.peak / 1e6,
        "peak_mb": peak_rss_mb(),
    }


def ours(statistics: str) -> tuple[Callable[[Any], None], list[Any]]:
    """Our step in torch, for counting."""
    import torch

    from benchmarks.cost.step_cost_model import HP
    from edgemem.export.functions.objective import ecotta

    model, objective = adaptive_model(NETWORK, statistics), ecotta(10)
    hp = {k: torch.tensor(v) for k, v in (objective.hyper_parameters | HP).items()}
    weight = model.alpha(BATCH)
    alpha = None if weight is None else torch.tensor(weight)
    model.gradient = "meta"

    def adapt(x: Any) -> None:
        objective.loss(model(x, alpha), hp).value.backward()
        model.zero_grad()

    return adapt, [model]


def child(*words: object) -> dict[str, float]:
    """What one process found."""
    command = [sys.executable, *map(str, words)]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return found


def runtime_peak(statistics: str, threads: int) -> dict[str, float]:
    """Peak MB of the process that runs our exported step, fast and lean."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="edgemem-") as text:
        folder = Path(text)
        write_steps(adaptive_model(NETWORK, statistics), BATCH, folder, ("meta",))
        for plan, profile in (("meta", "latency"), ("meta_lean", "memory")):
            words = (MEMORY_WORKER, "step", folder / f"{plan}.onnx", folder / "inputs.npz", profile)
            found[profile] = child(*words, threads)["peak_mb"]
    return found


def measure(threads: int, note: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Figures of every method."""
    found = {}
    for name in (*TORCH, *OURS):
        note(name)
        found[name] = child(
            "-m", "benchmarks.cost.method_memory", "--count", name, "--threads", threads
        )
        if name in OURS:
            peaks = runtime_peak(OURS[name], threads)
            found[name] |= {"peak_mb": peaks["latency"], "lean_peak_mb": peaks["memory"]}
    return found


def show(found: dict[str, dict[str, float]]) -> None:
    """One table."""
    cotta = found["CoTTA"]["paper_mb"]
    rows = [
        (name, f"{row['paper_mb']:.0f}", f"{100 * (row['paper_mb'] / cotta - 1):+.0f} %",
         f"{row['autograd_mb']:.0f}", f"{row['peak_mb']:.0f}",
         f"{row['lean_peak_mb']:.0f}" if "lean_peak_mb" in row else "")
        for name, row in found.items()
    ]  # fmt: skip
    headings = ("MB", "as in paper", "to CoTTA", "autograd", "process", "leanest")
    print_table(f"{NETWORK}, batch {BATCH}", headings, rows)


def draw(path: Path, found: dict[str, dict[str, float]]) -> None:
    """Counted memory beside that of the process."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes, places = figure.subplots(), np.arange(len(found))
    papers = [row["paper_mb"] for row in found.values()]
    counted_bars = axes.barh(places + 0.2, papers, 0.4, label="counted as in the paper")
    peaks = axes.barh(places - 0.2, [r["peak_mb"] for r in found.values()], 0.4, label="process")
    for bars in (counted_bars, peaks):
        axes.bar_label(bars, fmt="%.0f", fontsize=8, padding=2)
    axes.set_yticks(places, list(found))
    axes.invert_yaxis()
    axes.set(xlabel="MB", title=f"One step, {NETWORK}, batch {BATCH}")
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print, save."""
    parser = command_line(__doc__, "benchmarks.cost.method_memory --json m.json", threads=2)
    parser.add_argument("--count", metavar="METHOD", help="count one method in this process")
    options = parser.parse_args()
    if options.count:
        import torch

        torch.set_num_threads(options.threads)
        print(json.dumps(counted(options.count)))
        return
    with progress("methods") as bar:
        task = bar.add_task("memory", total=len(TORCH) + len(OURS), note="")
        found = measure(options.threads, lambda name: bar.update(task, advance=1, note=name))
    show(found)
    about = setting(threads=options.threads, steps=STEPS)
    print(setting_text(about, f"{options.threads} threads, {STEPS} steps"))
    result = {"benchmark": "method_memory", "setting": about, "results": found}
    save_json(result, options.out / "method_memory.json", options.json)
    draw(options.out / "method_memory.png", found)
    print(f"Picture: {options.out / 'method_memory.png'}")


if __name__ == "__main__":
    main()
