"""What people have beside weights of their own torch code, as a network and what is known of it."""

import json
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from edgemem.errors import AttachError, CheckpointError, InputError, MissingExtraError
from edgemem.models import attach, save_adaptive
from edgemem.models.given_models import named_models
from edgemem.models.given_models.given import given_model
from edgemem.models.model_options import AttachSettings, load_model
from edgemem.models.networks import digits
from edgemem.models.prototypes import PrototypeModel
from edgemem.models.prototypes.encoder import Encoder, EncoderSettings
from edgemem.models.prototypes.prototype_checkpoint import save_prototypes
from edgemem.models.tensor_rows import TensorRows


def opened(path, target=None, arguments=(), shape=None, said=None):
    return given_model(path, target, arguments, shape, (said if said is not None else []).append)


def to_onnx(network, path, shape):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.zeros(2, *shape),), path, dynamo=False, input_names=["x"],
            dynamic_axes={"x": {0: "n"}}, training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
        )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory, lively):
    return to_onnx(lively(digits()), tmp_path_factory.mktemp("onnx") / "digits.onnx", (1, 8, 8))


def test_an_onnx_file_tells_all_and_wants_no_model(onnx_file):
    given = opened(onnx_file)
    assert given.model == "digits.onnx"
    assert given.network.input_shape == (1, 8, 8)
    with pytest.raises(InputError, match=r"--model a:b: is in digits\.onnx already\. Leave it out"):
        opened(onnx_file, "a:b")


def test_what_was_warmed_up_from_a_file_opens_with_that_file(onnx_file, tmp_path):
    network = opened(onnx_file).network
    adaptive = attach(network, [], torch.zeros(2, 1, 8, 8), norm_affine=True)
    with torch.no_grad():
        for value in adaptive.block().values():
            value.add_(0.25)
    save_adaptive(adaptive, tmp_path / "warm.safetensors", {"model": "digits.onnx"})
    settings = AttachSettings(None, norm_affine=None)
    found, _ = load_model(tmp_path / "warm.safetensors", str(onnx_file), [], settings)
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(found(x).logits, adaptive(x).logits)
    with pytest.raises(InputError, match=r"does not say what model.*made with digits\.onnx"):
        opened(tmp_path / "warm.safetensors")


@pytest.fixture
def folder(tmp_path):
    """A classifier as transformers saves it, with what its preprocessor says."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic",
        id2label={0: "cat", 1: "dog", 2: "owl"},
    )  # fmt: skip
    torch.manual_seed(0)
    network = transformers.ResNetForImageClassification(config).eval()
    network.save_pretrained(tmp_path)
    about = {
        "do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.5],
        "do_rescale": True, "rescale_factor": 1 / 127.5, "size": {"height": 32, "width": 48},
    }  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    return tmp_path, network


def test_a_folder_of_hugging_face(folder):
    path, network = folder
    given = opened(path)
    assert given.labels == ("cat", "dog", "owl")
    assert given.network.input_shape == (3, 32, 48)
    x = torch.rand(2, 3, 32, 48)
    # As its preprocessor does it, from a picture of bytes.
    mean, deviation = (
        torch.tensor(v).view(1, 3, 1, 1) for v in ([0.5, 0.4, 0.3], [0.2, 0.25, 0.5])
    )
    with torch.no_grad():
        expected = network((255 * x / 127.5 - mean) / deviation).logits
        found = given.network(given.normalization.applied(x)).logits
    assert torch.allclose(found, expected, atol=1e-4)
    settings = AttachSettings(None, norm_affine=True)
    adaptive, _ = load_model(path, None, [], settings)
    assert adaptive.labels == ("cat", "dog", "owl")
    assert torch.allclose(adaptive.frozen_logits(x), expected, atol=1e-4)


def test_folders_that_are_refused(folder):
    from safetensors.torch import load_file, save_file

    path, _ = folder
    weights = load_file(path / "model.safetensors")
    save_file(
        {n: v for n, v in weights.items() if "classifier" not in n}, path / "model.safetensors"
    )
    with pytest.raises(CheckpointError, match=r"lacks 2 weights.*such as 'classifier"):
        opened(path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"hidden_sizes": [1 << 15, 1 << 15]}))
    with pytest.raises(CheckpointError, match="describes .* weights, and its files hold"):
        opened(path)
    (path / "config.json").write_text(json.dumps(config | {"architectures": ["os"]}))
    with pytest.raises(CheckpointError, match="names the architecture 'os'"):
        opened(path)
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds no weights in safetensors"):
        opened(path)


def test_transformers_is_an_extra(folder, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"edgemem\[hf\]"):
        opened(folder[0])


def test_prototypes_answer_with_the_nearest_one(tmp_path, lively):
    settings = EncoderSettings("classifier", None, (1, 8, 8))
    model = PrototypeModel(Encoder(lively(digits()), settings), 48).with_task([7, 3, 5])
    model, x = model.eval(), torch.rand(32, 1, 8, 8)
    with torch.no_grad():
        features = model.features(x)
        model.prototypes[0].copy_(features[:3] - features.mean(0))  # so that answers differ
    path = tmp_path / "prototypes.safetensors"
    source = {"model": "edgemem.models.networks:digits", "model_arguments": ""}
    save_prototypes(model, path, settings, source)
    given = opened(path)
    assert given.labels == ("7", "3", "5")
    with torch.no_grad():
        answers = given.network(x).argmax(1)
    assert [int(given.labels[i]) for i in answers] == model.predict(x.numpy()).tolist()
    assert len(set(answers.tolist())) > 1
    # Code is not imported by its name in a file.
    save_prototypes(model, path, settings, {"model": "os:getcwd"})
    with pytest.raises(InputError, match="--model: is missing.*it was made with os:getcwd"):
        opened(path)
    assert opened(path, "edgemem.models.networks:digits").labels == ("7", "3", "5")


def zipped(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


FOREIGN = {
    "m.tflite": (b"\x1c\0\0\0TFL3", r"is a TFLite model.*tf2onnx\.convert --tflite m\.tflite"),
    "m.h5": (
        b"\x89HDF\r\n\x1a\n",
        r"is an HDF5 file.*model\.export\('saved'\).*--saved-model saved",
    ),
    "m.mlmodel": (b"\x08\x01\x12", "is a Core ML model.*model that it was made from"),
    "m.keras": (["model.weights.h5", "config.json"], "is a Keras model.*--saved-model saved"),
    "m.pt2": (["m/archive_format", "m/models/model.json"], r"torch\.export, .*torch\.onnx\.export"),
    "m.pt": (["m/constants.pkl", "m/code/x.py", "m/data.pkl"], r"TorchScript .*torch\.jit\.load"),
    "notes.txt": (b"plain text", "does not say what model it is of"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_models_of_others_are_refused_with_their_converter(tmp_path, name):
    content, expected = FOREIGN[name]
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else zipped(path, *content)
    with pytest.raises((CheckpointError, InputError), match=f"(?s){expected}"):
        opened(path)


def test_a_saved_model_and_a_path_that_is_not_there(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="is a SavedModel of TensorFlow.*tf2onnx"):
        opened(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        opened(tmp_path / "none.onnx")


@pytest.mark.slow
def test_the_ways_out_of_programs_lead_to_a_file_that_opens(tmp_path, lively, monkeypatch):
    """The remedies, run as they are printed."""
    monkeypatch.chdir(tmp_path)
    network, frames = lively(digits()), torch.rand(2, 1, 8, 8)
    sizes = ({0: torch.export.Dim("n")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(network, (frames,), dynamic_shapes=sizes), "a.pt2")
        torch.jit.save(torch.jit.trace(network, frames), "b.pt")
        for name in ("a.pt2", "b.pt"):
            with pytest.raises(CheckpointError) as refused:
                opened(tmp_path / name)
            code = refused.value.remedy.partition("trusted: ")[2]
            exec(code, {"torch": torch, "frames": frames})  # noqa: S102
            found = opened(tmp_path / "model.onnx").network
            assert torch.allclose(found(frames), network(frames), atol=1e-5)


class Named(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.pretrained_cfg = {"input_size": (1, 8, 8), "mean": (0.5,), "std": (0.25,)}
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, classes)


@pytest.fixture
def timm(tmp_path, monkeypatch):
    """A package that makes models by name as timm does."""
    (tmp_path / "timm.py").write_text(
        "made = []\n"
        "def list_models(): return ['tiny', 'small']\n"
        "def create_model(name, pretrained, num_classes=10):\n"
        "    made.append((name, pretrained, num_classes))\n"
        "    return Named(num_classes)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import timm

    timm.Named = Named
    yield timm
    sys.modules.pop("timm")


def test_names_of_public_packages_count_classes_in_the_checkpoint(tmp_path, timm):
    trained, said = Named(3), []
    torch.save(
        {"state_dict": {f"module.{n}": v for n, v in trained.state_dict().items()}},
        tmp_path / "w.pt",
    )
    given = opened(tmp_path / "w.pt", "timm:tiny", said=said)
    assert timm.made == [("tiny", False, 10), ("tiny", False, 3)]
    assert torch.equal(given.network.head.weight, trained.head.weight)
    assert given.network.input_shape == (1, 8, 8)
    assert any("--mean 0.5 --std 0.25" in line for line in said)
    with pytest.raises(CheckpointError, match="does not fit Named"):
        opened(tmp_path / "w.pt", "timm:tiny", ["num_classes=4"])
    with pytest.raises(InputError, match="is no model of timm. Use one such as tiny"):
        opened(tmp_path / "w.pt", "timm:tiniest")


def test_public_packages_are_extras(tmp_path, monkeypatch):
    torch.save(Named(3).state_dict(), tmp_path / "w.pt")
    monkeypatch.setattr(named_models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"edgemem\[torchvision\]"):
        opened(tmp_path / "w.pt", "torchvision:resnet18")


def test_a_checkpoint_of_lightning(tmp_path, lively):
    """As its trainer saves one: the network within a module, beside what training needs."""
    network = lively(digits())
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    state["metric.total"] = torch.zeros(3)
    whole = {"epoch": 3, "state_dict": state, "hyper_parameters": {"rate": 0.1}, "loops": {}}
    torch.save(
        whole | {"optimizer_states": [{"state": {0: {"m": torch.ones(2)}}}]}, tmp_path / "l.ckpt"
    )
    found = opened(tmp_path / "l.ckpt", "edgemem.models.networks:digits").network
    x = torch.from_numpy(np.random.default_rng(0).random((2, 1, 8, 8), np.float32))
    assert torch.equal(found(x), network(x))


@pytest.fixture
def text_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=12, max_position_embeddings=9, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    network = transformers.BertForSequenceClassification(config).eval()
    network.save_pretrained(tmp_path / "text")
    return tmp_path / "text", network


def test_a_folder_of_a_text_classifier_takes_token_ids_and_a_mask(text_folder):
    path, network = text_folder
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(0, 40, (48, 6)), (rng.random((48, 6)) > 0.3).astype(np.int64)
    mask[:, 0] = 1
    with pytest.raises(InputError, match="--input-shape: is missing.*of token ids their number"):
        load_model(path, None, [], AttachSettings(None, norm_affine=True))
    cold, _ = load_model(path, None, [], AttachSettings(None, norm_affine=True, input_shape="6"))
    source = path.parent / "source.npz"
    np.savez(source, x=ids, attention_mask=mask)
    words = []
    aligned, chosen = load_model(
        path, None, [], AttachSettings(None, norm_affine=True, source=source), note=words.append
    )
    with torch.no_grad():
        x, beside = torch.from_numpy(ids), {"attention_mask": torch.from_numpy(mask)}
        expected = network(x, attention_mask=beside["attention_mask"]).logits
        for adaptive in (cold, aligned):
            assert adaptive.attachment.ids == (0, 39)
            assert [(i.name, i.low, i.high) for i in adaptive.attachment.inputs] == [
                ("attention_mask", 0, 1)
            ]
            found = adaptive.frozen_logits(TensorRows(x, beside))
            assert torch.allclose(found, expected, atol=1e-5)
    # No synthetic shift is one of token ids: the norms are taken, and that is said.
    assert any("untried" in word for word in words)
    assert chosen["alignment"]["tried"] == {}
    assert aligned.attachment.sites and all("LayerNorm" in s for s in aligned.attachment.sites)
    with pytest.raises(AttachError, match="mean and deviation: mean nothing to token ids"):
        settings = AttachSettings(None, norm_affine=True, input_shape="6", mean="1")
        load_model(path, None, [], settings)


def test_a_frames_input_is_of_onnx_files_alone(text_folder):
    settings = AttachSettings(None, norm_affine=True, input_shape="6", frames_input="input_ids")
    with pytest.raises(InputError, match="--frames-input: has no place"):
        load_model(text_folder[0], None, [], settings)
