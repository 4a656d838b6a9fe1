"""How much of a graph phones would take, by onnxruntime's own checkers of its mobile providers.

They read lists of operators; nothing runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

COREML_LIST = "coreml_supported_mlprogram_ops.md"


def partitions(paths: Mapping[str, Path]) -> dict[str, Any]:
    """What CoreML (ML programs) and NNAPI support of every graph.

    Nodes, how many of them are supported, in how many partitions, and which operators are not.
    """
    import onnx
    from onnxruntime.tools.mobile_helpers import usability_checker

    found: dict[str, Any] = {"coreml": {}, "nnapi": {}}
    for name, path in paths.items():
        model = onnx.shape_inference.infer_shapes(onnx.load(path))
        checked = {
            "coreml": usability_checker.check_coreml_partitions(model, True, COREML_LIST),
            "nnapi": usability_checker.check_nnapi_partitions(model, True),
        }
        for provider, info in checked.items():
            found[provider][name] = {
                "nodes": info.num_nodes,
                "supported": info.num_supported_nodes,
                "partitions": info.num_partitions,
                "unsupported": sorted(
                    operator.removeprefix("ai.onnx:") for operator in info.unsupported_ops
                ),
            }
    return found
