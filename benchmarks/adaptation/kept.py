"""Runs that were made before, in the user's cache: the full table takes hours, so what was made is
not made again as long as nothing that decides its outcome has changed. Comments and docstrings do
not decide it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.adaptation.methods import OURS, SHIPPED, TUNED, WARM, named
from benchmarks.adaptation.streams import CLEAN, Stream, pool_path
from benchmarks.shared.cache import cache_home, code_meaning, digest
from edgemem.files.atomic import sha256_file

REPOSITORY = Path(__file__).resolve().parents[2]
HARNESS_CODE = ("benchmarks/adaptation/running.py", "benchmarks/adaptation/worker.py")
LIBRARY = ("edgemem/**/*.py", "runtime/**/*.py", "export/**/*.py", "models/**/*.py")
TUNING = ("tuning.py", "shifts.py")  # of the runtime; only what is tuned passes them
PEERS_CODE = ("benchmarks/adaptation/peers/*.py", "benchmarks/shared/views.py")
WARM_UP_CODE = (
    "benchmarks/adaptation/setups.py",
    "benchmarks/adaptation/tasks.py",
    "benchmarks/shared/resnets.py",
    "benchmarks/shared/speech.py",
    "models/**/*.py",
)
CODE = {
    "ours": (*LIBRARY, *WARM_UP_CODE),
    "peer": PEERS_CODE,
    "warm peer": (*PEERS_CODE, *WARM_UP_CODE),
}


def run_path(folder: Path, method: str, protocol: str, seed: int, threads: int) -> Path:
    """Where the run's outcome is kept. folder: of its task, prepared."""
    stream = Stream.load(folder / "streams" / f"{protocol}-{seed}.npz")
    setup = json.loads((folder / "setup.json").read_text())
    name, _ = named(method)
    kind = "ours" if name in OURS else "warm peer" if name in (*WARM, "EcoTTA") else "peer"
    way = asdict(OURS[name]) if name in OURS else None
    shipped_for = protocol if way and way["bundle"] == SHIPPED else None
    tuned = way is not None and way["bundle"] == TUNED
    decides = [method, way, shipped_for, seed, threads, setup["decides"], _code(kind, tuned)]
    text = json.dumps([decides, _stream(stream), _frames(folder, stream.contexts)])
    name = hashlib.sha256(text.encode()).hexdigest()[:24]
    return cache_home() / "runs" / f"{name}.npz"


def keep(path: Path, wrong: NDArray[np.bool_], figures: dict[str, Any]) -> None:
    """Write a run's outcome; wrong: of every frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft.npz")
    np.savez(draft, wrong=np.packbits(wrong), frames=len(wrong), figures=json.dumps(figures))
    draft.replace(path)


def kept(path: Path) -> tuple[NDArray[np.bool_], dict[str, Any]]:
    """What `keep` wrote."""
    with np.load(path) as held:
        wrong = np.unpackbits(held["wrong"], count=int(held["frames"])).astype(np.bool_)
        figures: dict[str, Any] = json.loads(str(held["figures"]))
    return wrong, figures


def _stream(stream: Stream) -> str:
    held = [getattr(stream, field.name) for field in fields(stream)]
    parts = [array.tobytes() for array in held if isinstance(array, np.ndarray)]
    return digest([*parts, repr(stream.contexts).encode(), str(stream.batch).encode()])


def _frames(folder: Path, contexts: Iterable[str]) -> list[str]:
    return [_file(pool_path(folder, name)) for name in (*contexts, CLEAN)]


@functools.cache
def _file(path: Path) -> str:
    return sha256_file(path)


@functools.cache
def _code(kind: str, tuned: bool) -> str:
    """Digest of the code that a run passes."""
    patterns = (*HARNESS_CODE, *CODE[kind])
    paths = [path for pattern in patterns for path in sorted(REPOSITORY.glob(pattern))]
    return digest(code_meaning(path) for path in paths if tuned or path.name not in TUNING)
