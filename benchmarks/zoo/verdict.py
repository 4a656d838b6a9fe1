"""What became of one architecture, in a word and a reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

RIGHT, REFUSED, WRONG, BEYOND = "right", "refused", "wrong", "beyond limits"
TRACED = "traced"  # that far a quick run goes
LIMIT = 1e-4  # frozen logits from those of the given model, relative to the largest
RESTORED = 1e-5  # answers after the state file was opened again
NO_REMEDY = "report"
CHECKED = "parity check"


@dataclass(frozen=True)
class Verdict:
    """word: one of the five above. reason: "" where it is right. remedy: of a refusal."""

    word: str
    reason: str = ""
    remedy: str = ""


def verdict(found: Mapping[str, Any]) -> Verdict:
    """Judge what a worker wrote.

    A refusal counts as one only if its remedy is something to do: that the export's own comparison
    stops, or that the remedy is to report the model, counts as wrong.
    """
    if "beyond" in found:
        return Verdict(BEYOND, f"{found['stage']} takes more than {found['beyond']}")
    if "raised" in found:
        return Verdict(WRONG, f"{found['stage']}: {found['raised'].splitlines()[0]}")
    if "refused" in found:
        return _refusal(found["refused"])
    if found["stage"] == TRACED:
        return Verdict(TRACED)
    return next(_faults(found), Verdict(RIGHT))


def _refusal(told: Mapping[str, str]) -> Verdict:
    text = f"{told['thing']}: {told['reason']}"
    if told["thing"] == CHECKED or told["remedy"].lower().startswith(NO_REMEDY):
        return Verdict(WRONG, f"stopped by the export's own check: {text}")
    return Verdict(REFUSED, text, told["remedy"])


def _faults(found: Mapping[str, Any]) -> Iterator[Verdict]:
    stream = found["stream"]
    if not found["frozen_off"] <= LIMIT:
        yield Verdict(WRONG, f"frozen logits are off by {found['frozen_off']:.0e}")
    if not stream["finite"]:
        yield Verdict(WRONG, "answers or block are not finite on the drifting stream")
    moved = stream["answers_moved"]
    left_alone = found["alpha"] == 0  # nothing is aligned then, so answers have to stay
    if not stream["block_moved"] > 0 or not (moved == 0 if left_alone else moved > 0):
        yield Verdict(WRONG, "the wrong things change on the drifting stream")
    if not stream["restored_off"] <= RESTORED:
        yield Verdict(WRONG, f"answers are off by {stream['restored_off']:.0e} after a restart")
    if found["device"] != "ok":
        yield Verdict(WRONG, f"device environment: {found['device'].splitlines()[-1]}")
