"""Whatever a model returns, as tensors by name with the axis of the frames."""

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from transformers.modeling_outputs import SemanticSegmenterOutput

from edgemem.bundle.manifest import OutputSpec
from edgemem.errors import AttachError
from edgemem.models.tasks.named_outputs import flat, frames_first, named, output_specs

ONE, TWO = torch.rand(2, 3), torch.rand(2, 5, 4)
X = torch.rand(4, 3)


class Pair(NamedTuple):
    boxes: Tensor
    scores: Tensor


@dataclass
class Held:
    depth: Tensor
    nothing: Tensor | None = None


@pytest.mark.parametrize(
    ("output", "names"),
    [
        (ONE, ["out0"]),
        ((ONE, TWO), ["out0", "out1"]),
        ([ONE, [TWO, TWO]], ["out0", "out1.0", "out1.1"]),
        ({"boxes": TWO, "scores": ONE}, ["boxes", "scores"]),
        ({"a": {"b": ONE}, "loss": None}, ["a.b"]),
        ({0: ONE}, ["0"]),
        (Pair(TWO, ONE), ["boxes", "scores"]),
        (Held(ONE), ["depth"]),
        (SemanticSegmenterOutput(logits=TWO), ["logits"]),
    ],
)
def test_tensors_have_the_names_that_the_model_gives_them(output, names):
    found = named(output)
    assert list(found) == names
    assert all(any(value is held for held in (ONE, TWO)) for value in found.values())


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (ONE.argmax(1), "'out0': is int64.*Return the numbers it is made from"),
        ({"mask": ONE > 0}, "'mask': is bool"),
        ((ONE, 3), "'out1': is a int, and no graph"),
        ({"a b": ONE}, "'a b': is a tensor, under a name that no graph has"),
        (None, "returns 0 tensors"),
        ([ONE] * 65, "returns 65 tensors, and 1 to 64"),
    ],
)
def test_what_no_graph_returns_is_refused_by_name(output, reason):
    with pytest.raises(AttachError, match=reason):
        named(output)


def test_the_axis_of_the_frames_is_found():
    def model(x):
        return x.sum(1), x[None].expand(6, -1, -1), x[:, None, :, None]

    specs = output_specs(model, X)
    assert specs == (
        OutputSpec("out0", ()), OutputSpec("out1", (6, 3), 1), OutputSpec("out2", (1, 3, 1)),
    )  # fmt: skip
    found = named(model(X))
    assert [tuple(v.shape) for v in frames_first(found, specs).values()] == [
        (4,), (4, 6, 3), (4, 1, 3, 1),
    ]  # fmt: skip
    assert flat(found, specs).shape == (4, 1 + 18 + 3)
    assert flat(found, specs)[2, 1:].tolist() == [*X[2].tolist()] * 6 + X[2].tolist()


def test_one_example_frame_is_enough_to_find_it():
    assert output_specs(lambda x: x.T, X[:1]) == (OutputSpec("out0", (3,), 1),)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda x: x.mean(0), "no axis holds the frames"),
        (lambda x: x.flatten()[:, None], r"\[6, 1\] for two frames and \[9, 1\] for three"),
        (lambda x: x @ x.T, "no axis holds the frames"),
        (lambda x: x[x[:, 0] > 2], "no axis holds the frames"),
        (lambda x: x[:, :0], "holds nothing"),
        (lambda x: {"a": x} if len(x) == 2 else {"b": x}, "for some numbers of frames only"),
    ],
)
def test_outputs_without_such_an_axis_are_refused(model, reason):
    with pytest.raises(AttachError, match=reason):
        output_specs(model, X)
