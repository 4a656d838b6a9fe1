"""Which engine runs a bundle: the best that is here, with what was picked and why."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgemem.bundle.manifest import LITERT, ONNX
from edgemem.bundle.opening import Bundle
from edgemem.errors import EdgeMemError, InputError
from edgemem.printable import printable, shown
from edgemem.runtime.engines.protocol import Backend
from edgemem.runtime.engines.providers import (
    AUTOMATIC,
    PROVIDERS,
    Provider,
    compiled_for,
    is_emulated,
    missing,
)
from edgemem.runtime.result import Event, EventKind, Events

if TYPE_CHECKING:
    from edgemem.runtime.engines.session_cache import SessionCache

log = logging.getLogger(__name__)
MOST_THREADS = 16  # on whatever machine; as engines start them, 256 take seconds


@dataclass(frozen=True)
class EngineSettings:
    """How an engine is opened; see `edgemem.open`. profile: of the plan of the step.

    Raises:
        InputError: a number of threads that no engine should start.
    """

    threads: int = 0
    profile: str = "latency"
    cache: Path | None = None

    def __post_init__(self) -> None:
        thing, most = f"threads={shown(self.threads)}", max(MOST_THREADS, 2 * (os.cpu_count() or 1))
        if isinstance(self.threads, bool) or not hasattr(self.threads, "__index__"):
            raise InputError(thing, "is no whole number", "Pass 0 for all cores")
        object.__setattr__(self, "threads", int(self.threads))  # of numpy, perhaps
        if self.threads < 0:
            raise InputError(thing, "is negative", "Pass 0 for all cores")
        if self.threads > most:
            reason = f"is more than {most}, which take long to start and gain nothing here"
            raise InputError(thing, reason, f"Pass 0 for all cores, or at most {most}")


@dataclass(frozen=True)
class Engine:
    """What was chosen.

    Attributes:
        provider: its name.
        why: for people.
        passed_over: what was preferred, and why it does not run; among them what is here and failed
            (`failed`).
    """

    provider: str
    backend: Backend
    why: str
    passed_over: dict[str, str]
    failed: tuple[str, ...] = ()

    def events(self) -> Events:
        """What failed and was replaced."""
        text = "{} fails ({}); {} runs"
        return tuple(
            Event(EventKind.FALLBACK, text.format(name, self.passed_over[name], self.backend.name))
            for name in self.failed
        )


def choose(
    bundle: Bundle,
    provider: str = "auto",
    settings: EngineSettings | None = None,
    step: str = "adapt",
) -> Engine:
    """The first provider that is here, has graphs in the bundle and takes them.

    Args:
        bundle: an opened one.
        provider: a name of `PROVIDERS`, which then runs or fails; or "auto", see `AUTOMATIC`.
        settings: of the engine.
        step: name of the graph that adapts; "" = nothing shall.

    Raises:
        InputError: an unknown provider, or one that cannot be used here.
        BundleError: the provider asked for, or the last that was tried, refuses a graph.
    """
    if not isinstance(provider, str) or (provider != "auto" and provider not in PROVIDERS):
        known = ", ".join(["auto", *PROVIDERS])
        raise InputError(f"provider {shown(provider)}", "is unknown", f"Use one of {known}")
    settings, passed_over, failed = settings or EngineSettings(), dict[str, str](), list[str]()
    refused: EdgeMemError | None = None
    for name in AUTOMATIC if provider == "auto" else (provider,):
        reason = usable(bundle, PROVIDERS[name], adapt=bool(step))
        if reason is None and provider == "auto" and is_emulated(PROVIDERS[name]):
            reason = "it would only be emulated here"
        if reason is not None:
            passed_over[name] = reason
            continue
        try:
            backend = open_backend(bundle, name, settings)
            _try(bundle, name, backend, step)
        except EdgeMemError as error:
            if provider != "auto":
                raise
            passed_over[name], refused = error.reason, error
            failed.append(name)
            log.warning("%s fails (%s), so the next engine is tried", name, error.reason)
            continue
        why = "asked for" if provider != "auto" else _why(passed_over)
        log.info("%s runs %s: %s", backend.name, printable(bundle.path.name), why)
        return Engine(name, backend, why, passed_over, tuple(failed))
    if refused is not None:
        raise refused
    raise _nothing(bundle, provider, passed_over)


def usable(bundle: Bundle, provider: Provider, *, adapt: bool = True) -> str | None:
    """Why a provider cannot run a bundle here, or None if it might."""
    if (reason := missing(provider)) is not None:
        return reason
    for graph in ("predict", *(("adapt",) if adapt else ()), "key"):
        here = bundle.manifest.binding(graph, provider.target)
        if here is None and graph in bundle.manifest.graphs:
            option = f"edgemem export --target {provider.export}"
            return f"the bundle has no {graph!r} graph for it; {option} adds it"
    return None


def open_backend(bundle: Bundle, provider: str, settings: EngineSettings) -> Backend:
    """The engine of a provider that is here."""
    if PROVIDERS[provider].target == LITERT:
        from edgemem.runtime.engines.litert_engine import LiteRtBackend

        return LiteRtBackend(settings.threads, bundle.files)
    from edgemem.runtime.engines.onnxruntime_engine import OnnxRuntimeBackend

    cache: SessionCache | None = None
    if settings.cache is not None:
        from edgemem.runtime.engines.session_cache import SessionCache

        about = compiled_for(PROVIDERS[provider])
        cache = SessionCache(settings.cache, bundle.identity, *about)
    return OnnxRuntimeBackend(settings.threads, settings.profile, cache, provider, bundle.files)


def _try(bundle: Bundle, provider: str, backend: Backend, step: str) -> None:
    """Open what shall run; the backend keeps it.

    On the CPU what opens `predict` opens the others, which wait until they are needed.
    """
    names = ["predict"]
    if provider != "cpu":
        names += ["key", *([step if backend.target == ONNX else "adapt"] if step else [])]
    for graph in names:
        binding = bundle.manifest.binding(graph, backend.target)
        if binding is not None:
            backend.open(bundle.path / binding.file, binding)


def _why(passed_over: dict[str, str]) -> str:
    if not passed_over:
        return "the first choice"
    return "; ".join(f"{name}: {reason}" for name, reason in passed_over.items())


def _nothing(bundle: Bundle, provider: str, passed_over: dict[str, str]) -> InputError:
    """No engine: what would have to change."""
    if provider != "auto":
        known = PROVIDERS[provider]
        here = missing(known) is None
        remedy = f"Export it with --target {known.export}" if here else f"Needed: {known.needs}"
        return InputError(f"provider {provider!r}", passed_over[provider], remedy)
    targets = [PROVIDERS[n].export for n, reason in passed_over.items() if "--target" in reason]
    remedy = "Install onnxruntime, or LiteRT: docs/benchmarks/targets.md says how"
    if targets:
        remedy = f"Export it with --target {','.join(sorted(targets))}"
    reasons = "; ".join(f"{name}: {reason}" for name, reason in passed_over.items())
    return InputError(f"bundle {bundle.path.name!r}", f"no engine runs it ({reasons})", remedy)
