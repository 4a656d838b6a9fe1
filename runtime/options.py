"""How a bundle is opened, beside what most people choose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgemem.runtime.step.schedule import When

Provider = Literal["auto", "cpu", "xnnpack", "cuda", "coreml", "nnapi", "qnn", "litert"]
Read = Literal["mixed", "prototypes", "classifier"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Choices for `edgemem.open`; each has a value that suits most.

    Attributes:
        adapt_when: None = as the bundle says, which is 1 unless it was tuned; n = the step runs on
            one full batch in n; "drift" = while the present context is young, or when its key moves
            further than it usually does; "2s/min" = as long as steps take no more than so many
            seconds of a minute. For a budget of energy, divide joules by the watts that the device
            draws more while it adapts. Contexts are followed always.
        contexts: keep a block for each context, where the bundle was warmed up. False = one block
            for all; statistics that a block remembers are then stale whenever the context changes.
        keep_frames: False = no frame is ever written to the state file, and those that it holds are
            deleted at once. The price: after a restart nothing is known of the frames before it, so
            answers are as after a new start until a batch has come, and frames that waited for a
            step take part in none. What was learnt is kept all the same.
        read: how a bundle that can be taught classes answers: "mixed", by the prototypes of
            classes and the frozen classifier, each as far as it is to be trusted; "prototypes" or
            "classifier", by one of them alone. None = as the bundle says. It sets
            hyper-parameters, unless these are set.
        background: steps run on a thread of their own, of low priority, and on one core; calls
            return without waiting for them. Batches that come while a step runs are only predicted.
            Prediction leaves that core alone if `threads` is 0.
        memory_budget: bytes, or text such as "128MB", for graphs, weights and activations; the
            fastest plan of the step that fits is taken, on the CPU. None = the fastest of all.
        cache: folder for optimised graphs, so that later starts are faster; made if missing. It
            must be writable by you alone: check sums find damage, not malice. None = optimise anew.
    """

    adapt_when: When | None = None
    contexts: bool = True
    keep_frames: bool = True
    read: Read | None = None
    background: bool = False
    memory_budget: int | str | None = None
    cache: Path | str | None = None


DEFAULTS = Options()
