"""EdgeMem: models that keep adapting on the device, with an ordinary inference runtime.

    import edgemem

    with edgemem.open("camera.edgemem", state="camera.db") as runtime:
        result = runtime.step(frames)

Importing this package loads neither numpy nor onnxruntime; `open` does. Training and export
(`edgemem.models`, `edgemem.export`) need extras and are imported by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgemem.errors import (
    AttachError,
    BankError,
    BundleError,
    CheckpointError,
    EdgeMemError,
    ExportError,
    InputError,
    MissingExtraError,
    StateError,
)
from edgemem.version import VERSION as __version__

if TYPE_CHECKING:
    from edgemem.runtime import ClassInfo, Event, EventKind, Options, Result, Runtime, open
    from edgemem.runtime.language.generated import Generated
    from edgemem.runtime.language.generation import Generation
    from edgemem.runtime.language.language_runtime import LanguageRuntime, open_language

__all__ = [
    "AttachError",
    "BankError",
    "BundleError",
    "CheckpointError",
    "ClassInfo",
    "EdgeMemError",
    "Event",
    "EventKind",
    "ExportError",
    "Generated",
    "Generation",
    "InputError",
    "LanguageRuntime",
    "MissingExtraError",
    "Options",
    "Result",
    "Runtime",
    "StateError",
    "__version__",
    "open",
    "open_language",
]
LANGUAGE = {
    "Generated": "generated",
    "Generation": "generation",
    "LanguageRuntime": "language_runtime",
    "open_language": "language_runtime",
}


def __getattr__(name: str) -> Any:
    if name in ("ClassInfo", "Event", "EventKind", "Options", "Result", "Runtime", "open"):
        from edgemem import runtime

        return getattr(runtime, name)
    if name in LANGUAGE:
        import importlib

        return getattr(importlib.import_module(f"edgemem.runtime.language.{LANGUAGE[name]}"), name)
    raise AttributeError(f"module 'edgemem' has no attribute {name!r}")
