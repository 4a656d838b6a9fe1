"""Optimised graphs, kept from one start to the next: an engine spends most of its start on them.

The check sums find damage, not malice: the folder is for the user alone. One folder a graph: the
optimised graph (for an NPU, what was compiled for it), its weights, and their check sums. What it
was made for is part of its name, so another engine, processor or bundle never meets it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Callable
from pathlib import Path

import onnxruntime

from edgemem.files import new_folder, sha256_file

GRAPH, WEIGHTS, SUMS = "graph.onnx", "weights.bin", "manifest.json"
log = logging.getLogger(__name__)


class SessionCache:
    """A folder of optimised graphs. made_for: whatever else they depend on, such as the bundle."""

    def __init__(self, folder: Path, *made_for: str) -> None:
        self._folder = folder
        about = (*made_for, onnxruntime.__version__, platform.machine(), _processor())
        self._tag = hashlib.sha256("\0".join(about).encode()).hexdigest()[:16]

    def find(self, name: str) -> Path | None:
        """The optimised graph of that name, if it is there and whole."""
        folder = self._place(name)
        try:
            sums = json.loads((folder / SUMS).read_bytes())
            here = {file.name for file in folder.iterdir()} - {SUMS}
            whole = (
                GRAPH in sums
                and set(sums) == here
                and all(sha256_file(folder / file) == known for file, known in sums.items())
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.warning("%s is damaged (%s) and will be made again", folder, error)
            return None
        if not whole:
            log.warning("%s is damaged and will be made again", folder)
            return None
        return folder / GRAPH

    def keep(self, name: str, write: Callable[[Path], object]) -> None:
        """Keep what `write` puts into a folder, as `GRAPH` and files beside it; a disk that refuses
        is no reason to stop."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.find(name) is not None:
                return  # another process was faster
            with new_folder(self._place(name)) as draft:
                write(draft)
                sums = {file.name: sha256_file(file) for file in draft.iterdir()}
                (draft / SUMS).write_text(json.dumps(sums))
        except Exception as error:  # noqa: BLE001 - the engine has its own for a full disk
            log.warning("the optimised %s is not kept (%s)", name, error)

    def _place(self, name: str) -> Path:
        return self._folder / f"{name}-{self._tag}"


def _processor() -> str:
    """What instructions it has, where the system tells: layouts of weights depend on them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
