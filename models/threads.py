"""How many threads torch uses."""

from __future__ import annotations

import torch

from edgemem.errors import InputError
from edgemem.printable import shown

MOST_THREADS = 1024


def set_threads(threads: int) -> None:
    """Let torch use so many threads; 0 = its choice.

    Raises InputError where there are no such many.
    """
    if not 0 <= threads <= MOST_THREADS:
        raise InputError(
            f"--threads {shown(threads)}", "is out of range", f"Use 0 to {MOST_THREADS}"
        )
    if threads:
        torch.set_num_threads(threads)
