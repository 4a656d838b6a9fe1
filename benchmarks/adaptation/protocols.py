"""The protocols of the harness by name, and the contexts that each needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.adaptation import streams
from benchmarks.adaptation.methods import (
    DEEPER,
    LASTING,
    MEMORIES,
    MOST,
    REPEATED,
    SINGLE,
    SPOKEN,
    SWEPT,
)
from benchmarks.adaptation.streams import CLEAN, LEVELS, Builder, Stream

CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur",
    "motion_blur", "zoom_blur", "snow", "frost", "fog",
    "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
RETURNING = ("gaussian_noise", "defocus_blur", "snow", "contrast", "pixelate")
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
GRADUAL = tuple(f"{name}/{level}" for name in CORRUPTIONS for level in sorted(set(LEVELS))[:-1])

ALL = 1000  # seeds


@dataclass(frozen=True)
class Protocol:
    """make: (builder, contexts, frames per context) -> stream.
    tasks: a run is the mean over these. two_visits: a recurring one, cut short. methods and seeds:
    no others and no more, for runs take long; repeated: those that run with all seeds, the others
    with one. rates: factors of the learning rate of each."""

    make: Callable[[Builder, Sequence[str], int], Stream]
    contexts: tuple[str, ...] = CORRUPTIONS
    tasks: tuple[str, ...] = ("ResNet-20",)
    two_visits: Callable[[Builder, Sequence[str], int], Stream] | None = None
    methods: tuple[str, ...] = MOST
    seeds: int = ALL
    repeated: tuple[str, ...] = REPEATED
    rates: tuple[float, ...] = (1.0,)


def protocols(visits: int, long_visits: int) -> dict[str, Protocol]:
    """All by name. visits: of the recurring one whose labels are correlated, a quarter of them
    of the others; long_visits: of the long run."""
    come_back = {
        name: Protocol(
            streams.recurring(priors, order, visits // part or 2),
            RETURNING,
            methods=MEMORIES,
            seeds=seeds,
            repeated=("EdgeMem",),
            two_visits=streams.recurring(priors, order, 2),
        )
        for name, priors, order, part, seeds in (
            ("recurring, correlated", "flat", streams.correlated, 1, ALL),
            ("recurring, balanced", "flat", None, 4, 1),
            ("recurring, skewed", "skewed", None, 4, 1),
            ("recurring, contradicting", "halves", None, 4, 1),
        )
    }
    long_run = streams.recurring("flat", streams.correlated, long_visits)
    return {
        "continual": Protocol(streams.continual, methods=(*MOST, "CoTTA")),
        "continual, rates swept": Protocol(
            streams.continual, methods=SWEPT, seeds=1, rates=(0.3, 1.0, 3.0)
        ),
        "gradual": Protocol(streams.gradual, seeds=1),
        "mixed": Protocol(streams.mixed),
        "label-correlated": Protocol(streams.label_correlated, methods=(*MOST, "CoTTA")),
        "bursts of one class": Protocol(streams.bursts, repeated=("EdgeMem",)),
        "single frames": Protocol(streams.single, RETURNING, methods=SINGLE, repeated=("EdgeMem",)),
        "the same frames in batches": Protocol(
            streams.continual, RETURNING, methods=SINGLE, repeated=("EdgeMem",)
        ),
        "clean": Protocol(streams.clean),
        "JPEG files": Protocol(streams.continual, ("JPEG files",)),
        "continual, ResNet-32": Protocol(
            streams.continual, tasks=("ResNet-32",), methods=DEEPER, seeds=1
        ),
        "speech": Protocol(
            streams.speech,
            ("unseen speaker",),
            tasks=tuple(f"speech, {name}" for name in SPEAKERS),
            methods=SPOKEN,
        ),
        **come_back,
        "long run": Protocol(long_run, RETURNING, methods=LASTING, seeds=1),
    }


def pool_contexts(chosen: Sequence[Protocol], task: str) -> tuple[str, ...]:
    """Contexts of a task whose frames these protocols need."""
    chosen = [protocol for protocol in chosen if task in protocol.tasks]
    needed = {name for protocol in chosen for name in protocol.contexts} | {CLEAN}
    if any(protocol.make is streams.gradual for protocol in chosen):
        needed |= set(GRADUAL)
    return tuple(sorted(needed))
