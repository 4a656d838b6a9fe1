"""The device side: backends, the loop, policies. Needs numpy and one engine; never torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from edgemem.bundle import open_bundle
from edgemem.errors import InputError
from edgemem.manifest import ONNX
from edgemem.runtime.backends.choice import Settings, choose, open_backend
from edgemem.runtime.class_table import ClassInfo
from edgemem.runtime.loop import Runtime
from edgemem.runtime.plans import choose_plan
from edgemem.runtime.result import Event, Result
from edgemem.runtime.schedule import Schedule, When
from edgemem.runtime.settings import HyperParameters, read_parameters

__all__ = ["ClassInfo", "Event", "Result", "Runtime", "open"]


def open(  # noqa: PLR0913 - each is one choice, by name
    bundle: Path | str,
    state: Path | str | None = None,
    *,
    adapt: bool = True,
    adapt_when: When | None = None,
    contexts: bool = True,
    keep_frames: bool = True,
    hyper_parameters: Mapping[str, float] | None = None,
    read: str | None = None,
    threads: int = 0,
    background: bool = False,
    memory_budget: int | str | None = None,
    cache: Path | str | None = None,
    provider: str = "auto",
) -> Runtime:
    """Open a bundle, verify it, and continue from the state file if there is one.

    Args:
        bundle: folder written by `edgemem export`.
        state: file to keep what is learnt in, made if missing; None = forget on close.
        adapt: False = predict only, whatever `step` is given.
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
        hyper_parameters: other values than the bundle's defaults, such as {"alpha": 0.5}.
        read: how a bundle that can be taught classes answers: "mixed", by the prototypes of
            classes and the frozen classifier, each as far as it is to be trusted; "prototypes" or
            "classifier", by one of them alone. None = as the bundle says. It sets
            hyper-parameters, unless these are set.
        threads: of the inference engine; 0 = all cores.
        background: steps run on a thread of their own, of low priority, and on one core; calls
            return without waiting for them. Batches that come while a step runs are only predicted.
            Prediction leaves that core alone if `threads` is 0.
        memory_budget: bytes, or text such as "128MB", for graphs, weights and activations; the
            fastest plan of the step that fits is taken, on the CPU. None = the fastest of all.
        provider: what runs the graphs: "cpu", "xnnpack", "cuda", "coreml", "nnapi", "qnn" (all by
            onnxruntime) or "litert". "auto" = the first of qnn, cpu and litert that is here (not
            emulated), has graphs in the bundle and takes them; `runtime.engine` says which and
            why, and what failed is an event of the first step and a warning in the log. An NPU
            computes in half precision.
        cache: folder for optimised graphs, so that later starts are faster; made if missing. It
            must be writable by you alone: check sums find damage, not malice. None = optimise anew.

    Raises:
        BundleError: the bundle is missing, damaged or altered.
        StateError: the state file is damaged, of another bundle, or cannot be written.
        InputError: an unknown hyper-parameter, one that is not finite, an unknown `read` or value
            of `adapt_when`, a number of threads that no engine should start, a memory budget that
            no plan fits, or a provider that cannot be used here.
    """
    # These refuse what they do not know, before anything is opened.
    Settings(threads)
    Schedule(1 if adapt_when is None else adapt_when)
    opened = open_bundle(bundle)
    chosen = {} if hyper_parameters is None else hyper_parameters
    HyperParameters(opened.manifest, chosen)
    parameters = {**read_parameters(opened.manifest, read), **chosen}
    if adapt and adapt_when == "drift" and (opened.manifest.source is None or not contexts):
        raise InputError(
            'adapt_when="drift"', "needs contexts to drift", "Pass a number, or warm the model up"
        )
    plan = choose_plan(opened.manifest, memory_budget) if adapt else None
    profile = "latency" if plan is None else plan.profile
    step = "" if not adapt else "adapt" if plan is None else plan.graph
    kept_graphs = None if cache is None else Path(cache)
    spare = max(1, _cores() - 1) if background and threads == 0 else threads
    if memory_budget is not None and provider not in ("auto", "cpu"):
        raise InputError("memory_budget", f"is not known of {provider!r}", 'Use provider="cpu"')
    provider = provider if memory_budget is None else "cpu"  # plans are measured there
    engine = choose(opened, provider, Settings(spare, profile, kept_graphs), step)
    behind = None
    if background and adapt:
        behind = open_backend(opened, engine.provider, Settings(1, profile, kept_graphs))
    kept = None
    if state is not None:
        from edgemem.state import State  # SQLite takes a while to load

        kept = State(state, opened.identity)
    try:
        return Runtime(
            opened,
            engine.backend,
            state=kept,
            adapt=adapt,
            adapt_when=opened.manifest.adapt_when if adapt_when is None else adapt_when,
            contexts=contexts,
            keep_frames=keep_frames,
            hyper_parameters=parameters,
            plan=plan if engine.backend.target == ONNX else None,
            background=behind,
            engine=engine,
        )
    except BaseException:
        if kept is not None:
            kept.close()
        raise


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
