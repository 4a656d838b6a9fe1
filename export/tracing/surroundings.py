"""How torch and Python are set while a function is traced."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def plain() -> Iterator[None]:
    """While active, torch runs layers as simple operators, not as one that fuses them.

    And models are told that they are exported, as torch.export tells them: some leave out then
    what branches on values.
    """
    mha, mkldnn = torch.backends.mha, torch.backends.mkldnn
    fast = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    fused = mkldnn.set_flags(_enabled=False)[0]  # type: ignore[no-untyped-call]
    exporting = torch.compiler._is_exporting_flag
    torch.compiler._is_exporting_flag = True
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.compiler._is_exporting_flag = exporting
        mkldnn.set_flags(_enabled=fused)  # type: ignore[no-untyped-call]
        mha.set_fastpath_enabled(fast)


@contextmanager
def without_collecting() -> Iterator[None]:
    """While active, garbage in cycles stays: to look for it took a fifth of an export's time."""
    active = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if active:
            gc.enable()


@contextmanager
def quiet() -> Iterator[None]:
    """Tracing warns about its own internals; none of it is for our users."""
    names = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
