"""Runs that were made before, in the user's cache: an aborted table goes on where it stopped, and
what decides no outcome makes none again."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.adaptation.kept import LIBRARY, REPOSITORY
from benchmarks.shared.cache import cache_home, code_meaning, digest

OURS_CODE = ("courses", "measures", "running", "subjects")
PEERS_CODE = (*OURS_CODE, "peers")


def kept(decides: Sequence[Any], make: Callable[[], Any], *, ours: bool) -> Any:
    """What `make` returns, from the cache if it was made before; it must go through JSON.

    decides: what the outcome depends on, beside code. ours: it depends on the runtime's code, too.
    """
    text = json.dumps([*decides, _code(ours)]).encode()
    path = cache_home() / "new-classes" / f"{digest([text])[:24]}.json"
    if path.exists():
        return json.loads(path.read_text())
    found = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(found))
    draft.replace(path)
    return found


@functools.cache
def _code(ours: bool) -> str:
    folder = REPOSITORY / "benchmarks" / "new_classes"
    paths = [folder / f"{name}.py" for name in (OURS_CODE if ours else PEERS_CODE)]
    if ours:
        paths += [path for pattern in LIBRARY for path in sorted(REPOSITORY.glob(pattern))]
    return digest(map(code_meaning, paths))
