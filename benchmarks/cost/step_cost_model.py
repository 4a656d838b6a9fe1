"""Networks of the benchmarks of a step, and their graphs as files, without a parity check.

Random weights: time and memory do not depend on them.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from edgemem.export.functions.forward import Function

HP = {"entropy_margin": 100.0}  # every sample counts
STATISTICS = ("source", "mix")
# network, its parts, the shape of a frame
NETWORKS: dict[str, tuple[str, tuple[str, ...], tuple[int, ...]]] = {
    "WRN-40-2": ("wrn40_2", ("block1[0:3]", "block1[3:6]", "block2", "block3"), (3, 32, 32)),
    "ResNet-20": ("resnet20", ("layer1[0:2]", "layer1[2:3]", "layer2", "layer3"), (3, 32, 32)),
    "MobileNet-style": (
        "depthwise",
        ("features[0:2]", "features[2:3]", "features[3:4]", "features[4:5]"),
        (3, 96, 96),
    ),
    "1-D": ("conv1d", ("stem", "blocks[0:1]", "blocks[1:2]", "blocks[2:3]"), (6, 128)),
}


def network(name: str) -> Any:
    """The frozen model."""
    import torch

    from edgemem.models import networks

    torch.manual_seed(0)
    return getattr(networks, NETWORKS[name][0])().eval()


def adaptive_model(name: str, statistics: str, learn: str = "all") -> Any:
    """With live meta networks, as after a warm-up; learn: as in `Choices`."""
    import torch

    from edgemem.models import attach

    _, parts, shape = NETWORKS[name]
    model = enlivened(attach(network(name), parts, torch.rand(2, *shape), statistics=statistics))
    for kernel in model.kernels():
        kernel.requires_grad_(learn == "all")
    return model


def enlivened(model: Any) -> Any:
    """Give the branches of meta networks something to do."""
    import torch

    for meta in model.meta_networks():
        torch.nn.init.uniform_(meta.branch_norm.weight, 0.05, 0.15)
    model.mark_warm()
    return model


def write_frozen(name: str, batch: int, path: Path) -> None:
    """The plain model as torch's own exporter writes it, BN folded."""
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own internals
        exported = torch.onnx.export(
            network(name), (torch.rand(batch, *NETWORKS[name][2]),), dynamo=True, verbose=False
        )
    exported.save(path)


def write_steps(model: Any, batch: int, folder: Path, gradients: tuple[str, ...]) -> None:
    """`predict.onnx` and, for each gradient, its plans, with one weights file and their inputs."""
    from edgemem.export import Choices
    from edgemem.export.choices import frame_spec, functions_of
    from edgemem.export.memory_plans import plan_graphs
    from edgemem.export.tracing.trace import to_onnx
    from edgemem.export.weights import FILE, share_weights, strip_notes

    graphs = {}
    for gradient in gradients:
        choices = Choices(batch, gradient, "all", "ecotta")
        functions, _ = functions_of(model, choices, frame_spec(model, choices))
        if not graphs:
            graphs["predict"] = to_onnx(functions["predict"])
        for plan, graph in plan_graphs(to_onnx(functions["adapt"])).items():
            graphs[plan.replace("adapt", gradient)] = graph
        np.savez(folder / "inputs.npz", **_values(functions["adapt"]))
    for graph in graphs.values():
        strip_notes(graph)
    (folder / FILE).write_bytes(share_weights(graphs.values()))
    for name, graph in graphs.items():
        (folder / f"{name}.onnx").write_bytes(graph.SerializeToString(deterministic=True))


def _values(function: Function) -> dict[str, Any]:
    values = {name: value.detach().numpy() for name, value in function.inputs.items()}
    values |= {f"hp.{name}": np.asarray(value, np.float32) for name, value in HP.items()}
    values["x"] = np.random.default_rng(0).random(values["x"].shape, np.float32)
    return values
