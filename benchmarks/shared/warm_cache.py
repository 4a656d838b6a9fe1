"""Warm-ups for benchmarks, kept in the user's cache: the same settings are trained once."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

import edgemem.models
from benchmarks.shared.cache import cache_home
from edgemem.cli.show import percent, progress
from edgemem.files.atomic import sha256_file
from edgemem.models import AdaptiveModel, Progress, Recipe, save_adaptive, warm_up

WARM_UP_CODE = (
    "adaptive/adaptive_model", "adaptive/attach", "adaptive/meta_network", "norms/statistics",
    "warmup/augment", "warmup/source_keys", "warmup/warm_up",
)  # fmt: skip


def cache_path(kind: str, settings: Mapping[str, Any]) -> Path:
    """Where a checkpoint of these settings lies; any change of the warm-up's code is one, too."""
    code = Path(edgemem.models.__file__).parent
    hashes = [sha256_file(code / f"{name}.py") for name in WARM_UP_CODE]
    text = json.dumps({**settings, "code": hashes})
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return cache_home() / "warm" / f"{kind}-{digest}.safetensors"


def cached_warm_up(
    kind: str,
    settings: Mapping[str, Any],
    recipe: Recipe,
    attached: Callable[[], AdaptiveModel],
    source: Callable[[], tuple[NDArray[Any], NDArray[Any]]],
) -> Path:
    """The checkpoint after a warm-up, from the cache if it is there; continues after an abort.

    kind: starts the file's name. settings: all that decides how the checkpoint comes out, beside
    the recipe. attached: the model to train. source: its frames, channels first, and labels.
    """
    path = cache_path(kind, {**settings, "recipe": asdict(recipe)})
    if path.exists():
        print(f"warm-up: taken from the cache, {path.name}", file=sys.stderr)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    model, resume = attached(), path.with_suffix(".progress.safetensors")
    frames, labels = source()
    with progress("steps") as bar:
        task = bar.add_task("warm-up", total=None, note="")

        def note(p: Progress) -> None:
            text = f"loss {p.loss:.3f}, accuracy {percent(p.accuracy)}"
            bar.update(task, completed=p.step, total=p.steps, note=text)

        warm_up(model, frames, labels, recipe, resume=resume, report=note)
    save_adaptive(model, path, {"checkpoint": kind})
    resume.unlink(missing_ok=True)
    return path
