"""Where graphs can run: every provider by name, what it needs, and whether it is here."""

from __future__ import annotations

import importlib
import importlib.util
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgemem.manifest import LITERT, NPU, ONNX

# Compiling for a Hexagon processor that is not there: which one, and in half precision.
EMULATED = {"soc_model": "57", "enable_htp_fp16_precision": "1"}
QNN_PACKAGE = "onnxruntime_qnn"


@dataclass(frozen=True)
class Provider:
    """One engine on one kind of processor.

    execution_provider: its name in onnxruntime; "" = another engine. target: the set of graphs it
    runs. export: the option of `edgemem export` that adds these. needs: how to get it.
    """

    name: str
    execution_provider: str
    target: str
    export: str
    needs: str


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider("qnn", "QNNExecutionProvider", NPU, "qnn", "pip install onnxruntime-qnn"),
        Provider("coreml", "CoreMLExecutionProvider", NPU, "coreml", "onnxruntime on macOS or iOS"),
        Provider("cuda", "CUDAExecutionProvider", ONNX, "onnx", "pip install onnxruntime-gpu"),
        Provider("cpu", "CPUExecutionProvider", ONNX, "onnx", "pip install onnxruntime"),
        Provider("litert", "", LITERT, "litert", "pip install 'edgemem[litert]'"),
        Provider("xnnpack", "XnnpackExecutionProvider", ONNX, "onnx", "a build with XNNPACK"),
        Provider("nnapi", "NnapiExecutionProvider", NPU, "coreml", "onnxruntime on Android"),
    )
}
# What "auto" tries, in this order. XNNPACK and NNAPI (which Android 15 gave up) run on request.
AUTOMATIC = ("qnn", "coreml", "cuda", "cpu", "litert")


def missing(provider: Provider) -> str | None:
    """Why a provider cannot be used here, or None if it can."""
    if provider.target == LITERT:
        from edgemem.runtime.backends.litert_engine import PACKAGES

        found = any(importlib.util.find_spec(package) for package in PACKAGES)
        return None if found else "LiteRT is not installed"
    try:
        import onnxruntime
    except ImportError as error:
        return f"onnxruntime cannot be imported ({error})"
    if provider.name == "qnn" and importlib.util.find_spec(QNN_PACKAGE):
        return None
    if provider.execution_provider in onnxruntime.get_available_providers():
        return None
    return f"onnxruntime {onnxruntime.__version__} has no {provider.execution_provider}"


def qnn_devices() -> tuple[Sequence[Any], dict[str, str]]:
    """The NPUs that the QNN plug-in finds, and the options to open them with.

    Without a Hexagon processor the plug-in compiles for one and emulates it, which proves that a
    graph runs there and what it gives, not how fast.
    """
    import onnxruntime

    plugin = importlib.import_module(QNN_PACKAGE)
    name = PROVIDERS["qnn"].execution_provider
    if not any(device.ep_name == name for device in onnxruntime.get_ep_devices()):
        onnxruntime.register_execution_provider_library(name, plugin.get_library_path())
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
    emulated = EMULATED if platform.machine().lower() in ("x86_64", "amd64") else {}
    return devices, {"backend_path": plugin.get_qnn_htp_path(), **emulated}
