"""Every error that EdgeMem raises on purpose.

    EdgeMemError
    ├── BundleError       a bundle is missing, damaged, altered or of an unknown format
    ├── BankError         a level of the bank is missing, damaged or of another shape
    ├── StateError        a state file is damaged, of another bundle, or cannot be written
    ├── InputError        frames, labels, streams or options that do not fit
    ├── AttachError       a model or part that cannot be given a meta network
    ├── CheckpointError   a checkpoint that is damaged, unsafe or does not fit the model
    ├── ExportError       a step that cannot be traced, or whose graph misses the parity check
    └── MissingExtraError an optional dependency is not installed

Each message names the thing, the reason and the remedy.
"""

from __future__ import annotations

from edgemem.printable import printable


class EdgeMemError(Exception):
    """Base of all errors of EdgeMem: what is wrong, why, and what to do about it.

    Messages quote names and paths that others chose, so they are made harmless to print.
    """

    def __init__(self, thing: str, reason: str, remedy: str) -> None:
        thing, reason, remedy = printable(thing), printable(reason), printable(remedy)
        super().__init__(f"{thing}: {reason}. {remedy}.")
        self.thing = thing
        self.reason = reason
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[EdgeMemError], tuple[str, str, str]]:
        return type(self), (self.thing, self.reason, self.remedy)


class BundleError(EdgeMemError):
    """A bundle is missing, damaged, altered or of an unknown format."""


class BankError(EdgeMemError):
    """A level of the bank is missing, damaged, or does not fit the others or the bundle."""


class StateError(EdgeMemError):
    """A state file is damaged, belongs to another bundle, or cannot be written."""


class InputError(EdgeMemError):
    """Frames, streams or options that do not fit."""


class AttachError(EdgeMemError):
    """A model or one of its parts cannot be given a meta network."""


class CheckpointError(EdgeMemError):
    """A checkpoint is damaged, unsafe to load, or does not fit the model."""


class ExportError(EdgeMemError):
    """A step cannot be traced, or its graph misses the parity check."""


class MissingExtraError(EdgeMemError):
    """An optional dependency is needed and not installed."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(module, "is not installed", f"Run: pip install 'edgemem[{extra}]'")
        self.module, self.extra = module, extra

    def __reduce__(self) -> tuple[type[EdgeMemError], tuple[str, str]]:  # type: ignore[override]
        return type(self), (self.module, self.extra)
