"""ONNX files with several inputs: which one the frames are, and the same answers as the file."""

import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import helper
from onnx_models import save
from torch import nn

from edgemem.errors import AttachError, InputError
from edgemem.models import align, attach
from edgemem.models.model_options import AttachSettings, load_model
from edgemem.models.onnx_files.onnx_model import load_onnx
from edgemem.models.tensor_rows import TensorRows, call

ADD = [helper.make_node("Add", ["x", "other"], ["y"])]


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.table = nn.Conv2d(3, 6, 3), nn.Embedding(9, 4)
        self.norm, self.answer = nn.LayerNorm(10), nn.Linear(10, 5)

    def forward(self, kind, image, shown):
        seen = self.conv(image).relu().mean((2, 3)) * shown.unsqueeze(1).to(image.dtype)
        return self.answer(self.norm(torch.cat([seen, self.table(kind)], 1)))


@pytest.fixture(scope="module")
def given():
    rng = np.random.default_rng(0)
    return {
        "kind": rng.integers(0, 9, 40),
        "image": rng.random((40, 3, 8, 8), np.float32),
        "shown": rng.random(40) > 0.3,
    }


@pytest.fixture(scope="module")
def mixed(given, tmp_path_factory):
    """A file whose second input is the frames."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("onnx") / "mixed.onnx"
    some = tuple(torch.from_numpy(array[:3]) for array in given.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the older exporter
        torch.onnx.export(
            Mixed().eval(), some, str(path), dynamo=False, opset_version=17,
            input_names=list(given), dynamic_axes={name: {0: "n"} for name in given},
        )  # fmt: skip
    return path


def by_onnxruntime(path, given, count):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {name: array[:count] for name, array in given.items()})[0]


def rows_of(given, count):
    others = {n: torch.from_numpy(a[:count]) for n, a in given.items() if n != "image"}
    return TensorRows(torch.from_numpy(given["image"][:count]), others)


def test_the_only_pictures_are_the_frames(mixed, given):
    network, _ = load_onnx(mixed, None)
    assert network.input_name == "image" and network.input_shape == (3, 8, 8)
    assert [(i.name, i.dtype, i.shape) for i in network.beside] == [
        ("kind", "int64", ()), ("shown", "bool", ()),
    ]  # fmt: skip
    with torch.no_grad():
        found = call(network, rows_of(given, 7)).numpy()
    np.testing.assert_allclose(found, by_onnxruntime(mixed, given, 7), rtol=0, atol=1e-5)


def test_whole_numbers_are_places_in_the_table_of_the_file(mixed, given):
    rows = rows_of({**given, "kind": given["kind"] % 3}, 6)
    network, _ = load_onnx(mixed, None)
    model = attach(network, [], rows.x, norm_affine=True, inputs=rows.others)
    assert {i.name: (i.low, i.high) for i in model.attachment.inputs} == {
        "kind": (0, 8), "shown": (0, 1),
    }  # fmt: skip
    with torch.no_grad():
        found = model.frozen_logits(rows_of(given, 9)).numpy()
    np.testing.assert_allclose(found, by_onnxruntime(mixed, given, 9), rtol=0, atol=1e-5)


def test_source_frames_bring_the_others_by_name(mixed, given, tmp_path):
    x = {"x" if name == "image" else name: array for name, array in given.items()}
    np.savez(tmp_path / "s.npz", **x)
    settings = AttachSettings(None, source=tmp_path / "s.npz", sites="conv")
    adaptive, _ = load_model(mixed, None, [], settings)
    assert adaptive.attachment.sites == ("conv",) and set(adaptive.source_beside) == {
        "kind", "shown",
    }  # fmt: skip
    with torch.no_grad():
        found = adaptive.frozen_logits(rows_of(given, 9)).numpy()
    np.testing.assert_allclose(found, by_onnxruntime(mixed, given, 9), rtol=0, atol=1e-5)
    del x["kind"]
    np.savez(tmp_path / "less.npz", **x)
    settings = AttachSettings(None, source=tmp_path / "less.npz", sites="conv")
    with pytest.raises(InputError, match="less.npz: kind: is missing.*kind=array"):
        load_model(mixed, None, [], settings)


def test_without_source_frames_the_file_tells_what_there_is(mixed):
    adaptive, _ = load_model(mixed, None, [], AttachSettings(None, norm_affine=True))
    assert [given.name for given in adaptive.attachment.inputs] == ["kind", "shown"]


def test_two_inputs_that_may_be_frames_need_a_name(tmp_path):
    path = save(tmp_path / "two.onnx", ADD, more={"other": ("n", 3, 8, 8)})
    with pytest.raises(InputError, match="--frames-input: is missing.*x, other"):
        load_onnx(path, None)
    with pytest.raises(InputError, match="--frames-input z: is no input of two.onnx.*x, other"):
        load_onnx(path, None, "z")
    network, _ = load_onnx(path, None, "x")
    assert network.input_name == "x" and [i.name for i in network.beside] == ["other"]
    x, other = torch.rand(3, 3, 8, 8), torch.rand(3, 3, 8, 8)
    assert call(network, TensorRows(x, {"other": other})).equal(x + other)


def test_an_input_that_the_network_does_not_take(given):
    rows = rows_of(given, 6)

    class Plain(nn.Module):
        def forward(self, x):
            return x.flatten(1)

    with pytest.raises(AttachError, match="input 'kind': is not taken by forward.x. of Plain"):
        align(Plain(), given["image"], sites=(), inputs={"kind": given["kind"]})
    with pytest.raises(AttachError, match="input 'kind': has shape .5. beside 6 frames"):
        attach(Mixed(), [], rows.x, inputs={"kind": rows.others["kind"][:5]})
