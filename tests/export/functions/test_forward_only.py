"""A step without a backward pass: what is remembered moves, what is learnt stays."""

import numpy as np
import onnx
import pytest
import torch

import edgemem
from edgemem.export import Choices, export_bundle
from edgemem.models import attach
from edgemem.models.networks import digits
from edgemem.testing import session_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(lively, warmed, tmp_path_factory):
    path = tmp_path_factory.mktemp("forward") / "net.edgemem"
    network, x = lively(digits()), torch.zeros(2, 1, 8, 8)
    model = warmed(attach(network, ["layer1", "layer2"], x, statistics="remembered"))
    export_bundle(model, path, Choices(8, objective="statistics"))
    return path


def test_the_graph_has_no_backward_pass(bundle):
    nodes = {
        name: [node.op_type for node in onnx.load(bundle / f"{name}.onnx").graph.node]
        for name in ("predict", "adapt")
    }
    assert nodes["adapt"].count("Conv") == nodes["predict"].count("Conv")
    assert "ConvTranspose" not in nodes["adapt"]


def test_only_what_is_remembered_moves(bundle):
    frames = np.random.default_rng(0).random((8, 1, 8, 8)).astype(np.float32)
    with edgemem.open(bundle, threads=1) as runtime:
        before = session_of(runtime).block
        assert "learning_rate" not in runtime.hyper_parameters
        assert runtime.step(frames).adapted
        after = session_of(runtime).block
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved and all("remembered" in name for name in moved)
    assert {name for name in before if "remembered" in name} - moved <= {"remembered_evenness"}


def test_a_block_that_remembers_nothing_is_refused(lively, warmed, tmp_path):
    model = warmed(attach(lively(digits()), ["layer1"], torch.zeros(2, 1, 8, 8)))
    with pytest.raises(edgemem.ExportError, match="needs a block that remembers"):
        export_bundle(model, tmp_path / "x.edgemem", Choices(8, objective="statistics"))
