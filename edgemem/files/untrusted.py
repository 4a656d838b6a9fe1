"""Files that others wrote, looked at before they are opened.

They are plain, and no larger than they may be.
"""

from __future__ import annotations

import stat
from pathlib import Path

from edgemem.errors import EdgeMemError, InputError


def require_file(path: Path, error: type[EdgeMemError] = InputError) -> int:
    """The size of a plain file in bytes. Pipes and devices, which may never end, are none.

    Raises:
        error: missing, no plain file, or not to be reached.
    """
    try:
        found = path.stat()
    except FileNotFoundError as cause:
        raise error(str(path), "does not exist", "Check the path") from cause
    except (OSError, ValueError) as cause:  # ValueError: a path with a zero character
        raise _unreachable(path, error, cause) from cause
    if stat.S_ISDIR(found.st_mode):
        raise error(str(path), "is a folder", "Pass a file")
    if not stat.S_ISREG(found.st_mode):
        reason = "is a pipe or a device, not a plain file"
        raise error(str(path), reason, "Write it to a file first")
    return found.st_size


def read_bounded(path: Path, most: int, error: type[EdgeMemError] = InputError) -> bytes:
    """All of a plain file of at most that many bytes.

    Raises:
        error: as `require_file`; larger, or not readable.
    """
    if (size := require_file(path, error)) > most:
        raise _large(path, error, size, most)
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as cause:
        raise _unreachable(path, error, cause) from cause
    if len(content) > most:  # it grew, or does not say how large it is
        raise _large(path, error, len(content), most)
    return content


def _unreachable(path: Path, error: type[EdgeMemError], cause: Exception) -> EdgeMemError:
    reason = f"cannot be read ({getattr(cause, 'strerror', None) or cause})"
    return error(str(path), reason, "Check the path and its permissions")


def _large(path: Path, error: type[EdgeMemError], size: int, most: int) -> EdgeMemError:
    return error(str(path), f"is larger than {most:,} bytes ({size:,})", "Check the path")
