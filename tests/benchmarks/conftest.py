"""The benchmarks are a package beside the installed ones: last on the path, so that these win."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads of tiny convolutions wait for each other far longer than they work."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
