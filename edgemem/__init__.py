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
    "InputError",
    "MissingExtraError",
    "Options",
    "Result",
    "Runtime",
    "StateError",
    "__version__",
    "open",
]


def __getattr__(name: str) -> Any:
    if name in ("ClassInfo", "Event", "EventKind", "Options", "Result", "Runtime", "open"):
        from edgemem import runtime

        return getattr(runtime, name)
    raise AttributeError(f"module 'edgemem' has no attribute {name!r}")
