"""Optimised graphs, kept from one start to the next: an engine spends most of its start on them.

The check sums find damage, not malice: the folder is for the user alone. What is checked is what is
handed over: bytes, read once. One folder a graph: the optimised graph (for an NPU, what was
compiled for it), its weights, and their check sums. What it was made for is part of its name, so
another engine, processor or bundle never meets it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from edgemem.errors import BundleError
from edgemem.files.atomic import new_folder, sha256_file
from edgemem.files.typed_json import read_json
from edgemem.printable import printable

GRAPH, WEIGHTS, SUMS = "graph.onnx", "weights.bin", "manifest.json"
MOST_FILES = 16
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeptGraph:
    """An optimised graph with the files beside it, as they were checked."""

    path: Path
    contents: dict[Path, bytes]

    def read(self, path: Path) -> bytes:
        """All bytes of one of its files; raises BundleError for any other."""
        if path not in self.contents:
            raise BundleError(str(path), "is not a file of this kept graph", "It is made again")
        return self.contents[path]

    def steady(self, path: Path) -> AbstractContextManager[None]:
        """Nothing that happens to the files matters any more."""
        return nullcontext()


class SessionCache:
    """A folder of optimised graphs. made_for: whatever else they depend on, such as the bundle."""

    def __init__(self, folder: Path, *made_for: str) -> None:
        self._folder = folder
        about = (*made_for, onnxruntime.__version__, platform.machine(), _processor())
        self._tag = hashlib.sha256("\0".join(about).encode()).hexdigest()[:16]

    def find(self, name: str) -> KeptGraph | None:
        """The optimised graph of that name, if it is there and whole."""
        folder = self._place(name)
        try:
            return _read(folder)
        except FileNotFoundError:
            return None
        except (OSError, BundleError) as error:
            place = printable(str(folder))  # graphs are named by the bundle
            log.warning("%s is damaged (%s) and will be made again", place, printable(str(error)))
            return None

    def keep(self, name: str, write: Callable[[Path], object]) -> None:
        """Keep what `write` puts into a folder, as `GRAPH` and files beside it.

        A disk that refuses is no reason to stop.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.find(name) is not None:
                return  # another process was faster
            with new_folder(self._place(name)) as draft:
                write(draft)
                sums = {file.name: sha256_file(file) for file in draft.iterdir()}
                (draft / SUMS).write_text(json.dumps(sums))
        except Exception as error:  # noqa: BLE001 - the engine has its own for a full disk
            reason = printable(str(error))
            log.warning("the optimised %s is not kept (%s)", printable(name), reason)

    def _place(self, name: str) -> Path:
        return self._folder / f"{name}-{self._tag}"


def _read(folder: Path) -> KeptGraph:
    """The files of a folder; raises OSError or BundleError unless they are those of the sums."""
    thing, remedy = str(folder), "It is made again"
    sums = read_json((folder / SUMS).read_bytes(), thing, BundleError, remedy).object(MOST_FILES)
    here = {file.name for file in folder.iterdir()} - {SUMS}
    if GRAPH not in sums or set(sums) != here:
        raise BundleError(thing, "holds other files than it lists", remedy)
    contents = {folder / name: (folder / name).read_bytes() for name in here}
    for path, content in contents.items():
        if hashlib.sha256(content).hexdigest() != sums[path.name].text():
            raise BundleError(thing, f"has another {path.name} than it lists", remedy)
    return KeptGraph(folder / GRAPH, contents)


def _processor() -> str:
    """What instructions it has, where the system tells: layouts of weights depend on them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
