"""The door of a state file.

Where its path leads, who may enter, and what is made if it is missing.
"""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from pathlib import Path

from edgemem.errors import StateError
from edgemem.files.untrusted import require_file
from edgemem.state.lock import Handle, OpenInParentError, holder, make_private, owned
from edgemem.state.sqlite_errors import refused, state_error

ONLY_ONCE = "Open a state file only once; others may read it with read_only=True"


@dataclass(frozen=True)
class StateAccess:
    """path: absolute, without links. fresh: whether the file was made just now, empty."""

    path: Path
    handle: Handle
    fresh: bool


def enter(path: Path, *, make: bool, read_only: bool) -> StateAccess:
    """Come to own the file at a path, or to read it. make: make it if it is missing.

    Raises:
        StateError: it is missing, has an owner, or the system refuses.
    """
    fresh = False
    try:
        path = Path(os.path.realpath(path))
        if path.exists():
            require_file(path, StateError)  # opening a pipe would never end
        if not make and not path.exists():
            raise state_error(path, "is not there", "Pass the path of a state file")
        fresh = make and make_private(path)
        return StateAccess(path, Handle(path, write=False) if read_only else _owned(path), fresh)
    except OpenInParentError as error:
        raise state_error(
            path,
            "is open in the process of which this one is a fork",
            "Open it in a process that was started anew, as multiprocessing's spawn does",
        ) from error
    except PermissionError as error:
        raise (refused(path, error) if os.name == "posix" else _locked(path)) from error
    except BlockingIOError as error:
        raise _locked(path) from error
    except (OSError, ValueError) as error:
        if fresh:
            path.unlink(missing_ok=True)
        raise refused(path, error) from error


def _owned(path: Path) -> Handle:
    try:
        return owned(path)
    except BlockingIOError:  # by a handle that is lost, but not yet collected?
        gc.collect()
        return owned(path)


def _locked(path: Path) -> StateError:
    process = holder(path)
    where = "" if process is None else f", in process {process}"
    return state_error(path, f"is locked: it is open for writing already{where}", ONLY_ONCE)
