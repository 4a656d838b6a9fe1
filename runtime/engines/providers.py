"""Where graphs can run: every provider by name, what it needs, and whether it is here."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgemem.bundle.manifest import LITERT, NPU, ONNX
from edgemem.errors import InputError, MissingExtraError

# Compiling for a Hexagon processor that is not there: which one, and in half precision.
EMULATED = {"soc_model": "57", "enable_htp_fp16_precision": "1"}
QNN_PACKAGE = "onnxruntime_qnn"
REMEDY = 'Use provider="auto"'


@dataclass(frozen=True)
class Provider:
    """One engine on one kind of processor.

    Attributes:
        execution_provider: its name in onnxruntime; "" = another engine.
        target: the set of graphs it runs.
        export: the option of `edgemem export` that adds these.
        needs: how to get it.
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
# What "auto" tries, in this order; what nothing was run on yet is there by name only.
AUTOMATIC = ("qnn", "cpu", "litert")


def missing(provider: Provider) -> str | None:
    """Why a provider cannot be used here, or None if it can."""
    return _missing_litert() if provider.target == LITERT else _missing_onnxruntime(provider)


def _missing_litert() -> str | None:
    from edgemem.runtime.engines.litert_engine import interpreter_class

    try:
        interpreter_class()
    except MissingExtraError as error:
        return str(error.__cause__ or "LiteRT is not installed")
    return None


def _missing_onnxruntime(provider: Provider) -> str | None:
    try:
        import onnxruntime
    except ImportError as error:
        return f"onnxruntime cannot be imported ({error})"
    version = f"onnxruntime {onnxruntime.__version__}"
    if provider.name == "qnn":
        if importlib.util.find_spec(QNN_PACKAGE) is None:
            return "onnxruntime-qnn is not installed"
        takes_plug_ins = hasattr(onnxruntime, "get_ep_devices")
        return None if takes_plug_ins else f"{version} takes no plug-ins; 1.24.2 does"
    here = provider.execution_provider in onnxruntime.get_available_providers()
    return None if here else f"{version} has no {provider.execution_provider}"


def is_emulated(provider: Provider) -> bool:
    """Whether a provider would only act as if its processor were here."""
    return provider.name == "qnn" and platform.machine().lower() in ("x86_64", "amd64")


def compiled_for(provider: Provider) -> tuple[str, ...]:
    """What a compiled graph depends on, beside the engine and the CPU."""
    if provider.name != "qnn":
        return () if provider.name == "cpu" else (provider.name,)
    devices, options = qnn_devices()
    known = [f"{device.ep_metadata} {device.device.metadata}" for device in devices]
    version = importlib.metadata.version("onnxruntime-qnn")
    return (provider.name, version, str(sorted(options.items())), *known)


@functools.cache
def _register_qnn() -> Any:
    """The plug-in, registered; a second time in one process is refused."""
    import onnxruntime

    plugin = importlib.import_module(QNN_PACKAGE)
    onnxruntime.register_execution_provider_library(
        PROVIDERS["qnn"].execution_provider, plugin.get_library_path()
    )
    return plugin


def qnn_devices() -> tuple[Sequence[Any], dict[str, str]]:
    """The NPUs that the QNN plug-in finds, one at least, and the options to open them with.

    Without a Hexagon processor the plug-in compiles for one and emulates it, which proves that a
    graph runs there and what it gives, not how fast.

    Raises:
        InputError: the plug-in does not load, or finds none.
    """
    import onnxruntime

    qnn = PROVIDERS["qnn"]
    try:
        plugin = _register_qnn()
        devices = [d for d in onnxruntime.get_ep_devices() if d.ep_name == qnn.execution_provider]
        library = plugin.get_qnn_htp_path()
    except Exception as error:
        raise InputError("provider 'qnn'", f"fails ({error})", REMEDY) from error
    if not devices:
        raise InputError("provider 'qnn'", "finds no NPU", REMEDY)
    return devices, {"backend_path": library, **(EMULATED if is_emulated(qnn) else {})}
