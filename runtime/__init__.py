"""The device side: backends, the loop, policies. Needs numpy and one engine; never torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from edgemem.bundle.manifest import ONNX, Plan
from edgemem.bundle.opening import Bundle, open_bundle
from edgemem.errors import InputError
from edgemem.printable import shown
from edgemem.runtime.classes.class_table import ClassInfo
from edgemem.runtime.engines.choice import Engine, EngineSettings, choose, open_backend
from edgemem.runtime.engines.plan_choice import choose_plan
from edgemem.runtime.engines.protocol import Backend
from edgemem.runtime.loop import Runtime
from edgemem.runtime.options import DEFAULTS, Options, Provider
from edgemem.runtime.result import Event, EventKind, Result
from edgemem.runtime.step.hyper_parameters import HyperParameters, read_parameters
from edgemem.runtime.step.schedule import Schedule

__all__ = ["ClassInfo", "Event", "EventKind", "Options", "Result", "Runtime", "open"]


def open(
    bundle: Path | str,
    state: Path | str | None = None,
    *,
    adapt: bool = True,
    hyper_parameters: Mapping[str, float] | None = None,
    threads: int = 0,
    provider: Provider = "auto",
    options: Options = DEFAULTS,
) -> Runtime:
    """Open a bundle, verify it, and continue from the state file if there is one.

    Args:
        bundle: folder written by `edgemem export`.
        state: file to keep what is learnt in, made if missing; None = forget on close.
        adapt: False = predict only, whatever `step` is given.
        hyper_parameters: other values than the bundle's defaults, such as {"alpha": 0.5}.
        threads: of the inference engine; 0 = all cores.
        provider: what runs the graphs: "cpu", "xnnpack", "cuda", "coreml", "nnapi", "qnn" (all by
            onnxruntime) or "litert". "auto" = the first of qnn, cpu and litert that is here (not
            emulated), has graphs in the bundle and takes them; `runtime.engine` says which and
            why, and what failed is an event of the first step and a warning in the log. An NPU
            computes in half precision.
        options: when steps run, contexts, privacy, memory and start: see `Options`.

    Returns:
        The runtime, which goes on from the state file. Close it, or use it in a `with` block.

    Raises:
        BundleError: the bundle is missing, damaged or altered.
        StateError: the state file is damaged, of another bundle, or cannot be written.
        InputError: an unknown hyper-parameter, one that is not finite, an option that has no such
            value, a number of threads that no engine should start, a memory budget that no plan
            fits, or a provider that cannot be used here.
    """
    if not isinstance(options, Options):
        raise InputError(
            f"options={shown(options)}",
            "are no Options",
            "Pass such as edgemem.Options(contexts=False)",
        )
    adapt_when, memory_budget = options.adapt_when, options.memory_budget
    # These refuse what they do not know, before anything is opened.
    EngineSettings(threads)
    Schedule(1 if adapt_when is None else adapt_when)
    opened = open_bundle(bundle)
    chosen = {} if hyper_parameters is None else hyper_parameters
    HyperParameters(opened.manifest, chosen)
    parameters = {**read_parameters(opened.manifest, options.read), **chosen}
    if adapt and adapt_when == "drift" and (opened.manifest.source is None or not options.contexts):
        raise InputError(
            'adapt_when="drift"', "needs contexts to drift", "Pass a number, or warm the model up"
        )
    plan = choose_plan(opened.manifest, memory_budget) if adapt else None
    if memory_budget is not None and provider not in ("auto", "cpu"):
        raise InputError("memory_budget", f"is not known of {provider!r}", 'Use provider="cpu"')
    provider = provider if memory_budget is None else "cpu"  # plans are measured there
    step = "" if not adapt else "adapt" if plan is None else plan.graph
    engine, behind = _engines(opened, provider, plan, step, threads, options)
    kept = None
    if state is not None:
        from edgemem.state.store import State  # SQLite takes a while to load

        kept = State(state, opened.identity)
    try:
        return Runtime(
            opened,
            engine.backend,
            state=kept,
            adapt=adapt,
            adapt_when=opened.manifest.adapt_when if adapt_when is None else adapt_when,
            contexts=options.contexts,
            keep_frames=options.keep_frames,
            hyper_parameters=parameters,
            plan=plan if engine.backend.target == ONNX else None,
            background=behind,
            engine=engine,
        )
    except BaseException:
        if kept is not None:
            kept.close()
        raise


def _engines(
    bundle: Bundle, provider: Provider, plan: Plan | None, step: str, threads: int, options: Options
) -> tuple[Engine, Backend | None]:
    """The engine that predicts, and the one behind it, where steps run in the background."""
    profile = "latency" if plan is None else plan.profile
    cache = None if options.cache is None else Path(options.cache)
    spare = max(1, _cores() - 1) if options.background and threads == 0 else threads
    engine = choose(bundle, provider, EngineSettings(spare, profile, cache), step)
    if not options.background or not step:
        return engine, None
    return engine, open_backend(bundle, engine.provider, EngineSettings(1, profile, cache))


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
