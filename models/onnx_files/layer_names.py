"""What the layers of a file are called: as their nodes where these tell, else as their weights."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgemem.models.onnx_files.onnx_graph import Node

WRONG = re.compile(r"[^0-9A-Za-z_]+")
WEIGHTS = ("weight", "w_0")  # how torch and Paddle end the names of weights


@dataclass
class Names:
    """Names of layers. taken: those that no other layer may have."""

    taken: set[str]

    def new(self, node: Node) -> str:
        """The dotted name of a node's layer; the same for the same file."""
        parts = [WRONG.sub("_", part) for part in _said(node).split(".")]
        name = ".".join(part for part in parts if part.strip("_")) or node.operator
        if self._collides(name):
            name = name.replace(".", "_")
        base, number = name, 1
        while self._collides(name):
            name, number = f"{base}_{number}", number + 1
        self.taken.add(name)
        return name

    def _collides(self, name: str) -> bool:
        """A layer holds no other layers, so a name leads to one only, or further."""
        return any(
            name == other or name.startswith(f"{other}.") or other.startswith(f"{name}.")
            for other in self.taken
        )


def _said(node: Node) -> str:
    """What a file calls a layer.

    A node's name is a path through the modules, each of which may repeat the one before it:
    /layer1/layer1.0/conv1/Conv is layer1.0.conv1.
    """
    weight, _, last = (node.inputs[1] if len(node.inputs) > 1 else "").rpartition(".")
    if last in WEIGHTS and weight and not node.name.startswith("/"):
        return weight
    parts: list[str] = []
    for part in node.name.split("/"):
        if parts and part.startswith(f"{parts[-1]}."):
            parts.pop()
        parts.append(part)
    last = parts[-1]
    kinds = {node.operator, "MatMul"}  # which is part of many a linear layer
    if last in kinds or (len(parts) > 2 and last.rpartition("_")[0] in kinds):
        parts.pop()
    return ".".join(parts) or node.name
