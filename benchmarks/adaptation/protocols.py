"""The protocols of the harness by name, and the contexts that each needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adaptation import streams
from adaptation.streams import CLEAN, LEVELS, Builder, Stream

CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur",
    "motion_blur", "zoom_blur", "snow", "frost", "fog",
    "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
RETURNING = (
    "gaussian_noise", "impulse_noise", "defocus_blur", "glass_blur", "snow",
    "fog", "contrast", "pixelate", "brightness", "elastic_transform",
)  # fmt: skip
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
GRADUAL = tuple(f"{name}/{level}" for name in CORRUPTIONS for level in sorted(set(LEVELS))[:-1])


@dataclass(frozen=True)
class Protocol:
    """make: (builder, contexts, frames per context) -> stream. share: of the frames per context.
    tasks: a run is the mean over these. two_visits: a recurring one, cut short."""

    make: Callable[[Builder, Sequence[str], int], Stream]
    contexts: tuple[str, ...] = CORRUPTIONS
    share: float = 1.0
    tasks: tuple[str, ...] = ("ResNet-20",)
    two_visits: Callable[[Builder, Sequence[str], int], Stream] | None = None


def protocols(visits: int, long_visits: int) -> dict[str, Protocol]:
    """All by name. visits: of the recurring ones; long_visits: of the long run."""
    come_back = {
        name: Protocol(
            streams.recurring(priors, order, visits),
            RETURNING,
            two_visits=streams.recurring(priors, order, 2),
        )
        for name, priors, order in (
            ("recurring, balanced", "flat", None),
            ("recurring, skewed", "skewed", None),
            ("recurring, correlated", "flat", streams.correlated),
            ("recurring, contradicting", "halves", None),
        )
    }
    long_run = streams.recurring("flat", streams.correlated, long_visits)
    return {
        "continual": Protocol(streams.continual),
        "gradual": Protocol(streams.gradual),
        "mixed": Protocol(streams.mixed),
        "label-correlated": Protocol(streams.label_correlated),
        "bursts of one class": Protocol(streams.bursts),
        "single frames": Protocol(streams.single, share=0.15),
        "clean": Protocol(streams.clean),
        "JPEG files": Protocol(streams.continual, ("JPEG files",)),
        "continual, ResNet-32": Protocol(streams.continual, tasks=("ResNet-32",)),
        "speech": Protocol(
            streams.speech, ("unseen speaker",), tasks=tuple(f"speech, {name}" for name in SPEAKERS)
        ),
        **come_back,
        "long run": Protocol(long_run, RETURNING),
    }


def pool_contexts(chosen: Sequence[Protocol], task: str) -> tuple[str, ...]:
    """Contexts of a task whose frames these protocols need."""
    chosen = [protocol for protocol in chosen if task in protocol.tasks]
    needed = {name for protocol in chosen for name in protocol.contexts} | {CLEAN}
    if any(protocol.make is streams.gradual for protocol in chosen):
        needed |= set(GRADUAL)
    return tuple(sorted(needed))
