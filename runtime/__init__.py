"""The device side: backends, the loop, policies. Needs numpy and onnxruntime; never torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgemem.bundle import open_bundle
from edgemem.errors import InputError
from edgemem.runtime.loop import Runtime
from edgemem.runtime.onnxruntime_backend import OnnxRuntimeBackend
from edgemem.runtime.result import Event, Result
from edgemem.state import State

__all__ = ["Event", "Result", "Runtime", "open"]


def open(
    bundle: Path | str,
    state: Path | str | None = None,
    *,
    adapt: bool = True,
    contexts: bool = True,
    hyper_parameters: Mapping[str, float] | None = None,
    threads: int = 0,
) -> Runtime:
    """Open a bundle, verify it, and continue from the state file if there is one.

    Args:
        bundle: folder written by `edgemem export`.
        state: file to keep what is learnt in, made if missing; None = forget on close.
        adapt: False = predict only, whatever `step` is given.
        contexts: keep a block for each context, where the bundle was warmed up. False = one block
            for all; statistics that a block remembers are then stale whenever the context changes.
        hyper_parameters: other values than the bundle's defaults, such as {"alpha": 0.5}.
        threads: of the inference engine; 0 = all cores.

    Raises:
        BundleError: the bundle is missing, damaged or altered.
        StateError: the state file is damaged, of another bundle, or cannot be written.
        InputError: an unknown hyper-parameter, or a negative number of threads.
    """
    if threads < 0:
        raise InputError(f"threads={threads}", "is negative", "Pass 0 for all cores")
    opened = open_bundle(bundle)
    kept = None if state is None else State(state, opened.identity)
    try:
        return Runtime(
            opened,
            OnnxRuntimeBackend(threads),
            state=kept,
            adapt=adapt,
            contexts=contexts,
            hyper_parameters=hyper_parameters,
        )
    except BaseException:
        if kept is not None:
            kept.close()
        raise
