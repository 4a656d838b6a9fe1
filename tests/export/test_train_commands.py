"""`edgemem warmup` and `edgemem export`, as a user types them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.cli import main
from edgemem.models import attach, save_adaptive
from edgemem.models.checkpoints.checkpoint import read_tensors
from edgemem.models.networks import digits

pytestmark = pytest.mark.slow

DIGITS = ("--model", "edgemem.models.networks:digits")
COMMAND = Path(sys.executable).with_name("edgemem")


def run(folder, *arguments):
    """The installed command in a process of its own."""
    return subprocess.run(
        [COMMAND, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory, lively):
    """A checkpoint and source data, as others would bring them."""
    folder = tmp_path_factory.mktemp("user")
    network = lively(digits())
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, folder / "digits.pt")
    x = np.random.default_rng(0).integers(0, 256, (64, 1, 8, 8), np.uint8)
    with torch.no_grad():
        y = network(torch.from_numpy(x).float() / 255).argmax(1).numpy()
    np.savez(folder / "train.npz", x=x, y=y)
    model = attach(network, ["layer1"], torch.zeros(2, 1, 8, 8))
    save_adaptive(model, folder / "ready.safetensors", {})
    np.savez(folder / "wide.npz", x=np.zeros((64, 1, 9, 9), np.uint8), y=y)
    return folder


def test_three_commands_lead_from_a_checkpoint_to_a_device(folder):
    warm = run(
        folder, "warmup", "digits.pt", *DIGITS, "--data", "train.npz",
        "--parts", "layer1,layer2[0:1]", "--out", "warm.safetensors",
        "--epochs", "2", "--batch-size", "16", "--bottleneck", "4", "--threads", "1", "--json",
    )  # fmt: skip
    assert warm.returncode == 0, warm.stderr
    assert "digits.pt: took 'state_dict' without the prefix 'module.'" in warm.stderr
    figures = json.loads(warm.stdout)
    assert (figures["step"], figures["steps"]) == (8, 8)
    assert not list(folder.glob("*progress*"))

    made = run(
        folder, "export", "warm.safetensors", *DIGITS, "--batch", "4",
        "--gradient", "meta", "--out", "net.edgemem", "--json",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    figures = json.loads(made.stdout)
    assert figures["warm"] is True
    assert figures["parity"]["first_step"] <= 1e-5
    bundle = open_bundle(folder / "net.edgemem")
    origin = bundle.manifest.exported_from
    rate = bundle.manifest.hyper_parameters["learning_rate"].default
    assert figures["calibration"]["rate"] == figures["learning_rate"] == rate
    assert origin["parts"] == ["layer1", "layer2[0:1]"]
    assert origin["checkpoint"] == "digits.pt"
    assert str(folder) not in json.dumps(origin)
    warm_arrays, _ = read_tensors(folder / "warm.safetensors")
    for name, value in bundle.generic.items():
        assert (warm_arrays[name].numpy() == value).all()
    with edgemem.open(folder / "net.edgemem", threads=1) as runtime:
        x = np.load(folder / "train.npz")["x"]
        found = runtime.predict(x, frozen=True).logits
    with torch.no_grad():
        network = digits().eval()
        state = torch.load(folder / "digits.pt", weights_only=True)["state_dict"]
        network.load_state_dict({k.removeprefix("module."): v for k, v in state.items()})
        expected = network(torch.from_numpy(x).float() / 255).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_warmed_up_checkpoint_may_adapt_the_affine_pairs_as_well(folder):
    made = run(
        folder, "export", "ready.safetensors", *DIGITS, "--norm-affine", "--gradient", "full",
        "--batch", "4", "--out", "affine.edgemem",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert re.search(r" (\d+)/\1 stages", made.stderr), made.stderr
    assert "gradients relative to their size" in made.stdout
    manifest = open_bundle(folder / "affine.edgemem").manifest
    rate = manifest.hyper_parameters["learning_rate"].default
    assert f"no source frames: small learning rate {rate:g}; edgemem tune" in made.stdout
    assert manifest.exported_from["norm_affine"] is True
    assert "frozen.layer1.0.1.weight_delta" in [array.name for array in manifest.block.arrays]


def test_a_mistake_ends_with_one_line_and_code_two(folder):
    ended = run(folder, "export", "digits.pt", "--model", "no.such:net", "--out", "x.edgemem")
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "--model 'no.such:net': cannot be imported" in ended.stderr
    assert not (folder / "x.edgemem").exists()


BAD_EXPORTS = {
    "digits.pt --model networks:digits": "cannot be imported",
    "digits.pt --model edgemem.models.networks": "is not a target",
    "digits.pt --model edgemem.models.networks:": "is not a target",
    "digits.pt --model .networks:digits": "cannot be imported",
    "digits.pt --model edgemem.models.networks:lenet --parts layer1": "no callable 'lenet'",
    "digits.pt --model edgemem.models:Recipe --parts layer1": "gives a Recipe",
    "digits.pt --model edgemem.models.networks:digits --model-arg size=3": "cannot be called",
    "digits.pt --model edgemem.models.networks:digits --model-arg classes": "not name=value",
    "digits.pt --model edgemem.models.networks:digits": "--source: is missing.*layer1",
    "digits.pt --model edgemem.models.networks:digits --parts layer9": "Nearest names.*layer1",
    "digits.pt --model edgemem.models.networks:resnet20 --parts layer1": "does not fit CifarResNet",
    "digits.pt --model edgemem.models.networks:digits --parts layer1 --statistics most": "unknown",
    "digits.pt --model edgemem.models.networks:digits --parts layer1 --input-shape a,b": "numbers",
    "digits.pt --model edgemem.models.networks:digits --parts layer1 --statistics remembered": (
        "needs contexts"
    ),
    "digits.pt --model edgemem.models.networks:digits --parts layer1 --std 0": "must be positive",
    "digits.pt --model edgemem.models.networks:digits --parts layer1 --mean 1,2": "1 channels",
    "digits.pt --model edgemem.models.networks:digits --parts layer1 --batch 1": "too small",
    "digits.pt --model edgemem.models.networks:digits --parts layer1 --gradient no": "full or meta",
    "ready.safetensors --model edgemem.models.networks:digits --parts layer2": "--parts: differs",
    "ready.safetensors --model edgemem.models.networks:digits --statistics 0.5": "--statistics: di",
    "ready.safetensors --model edgemem.models.networks:digits --input-shape 1,9,9": "--input-shape",
    "ready.safetensors --model edgemem.models.networks:digits --mean 0.5": "--mean/--std: differs",
    "ready.safetensors --model edgemem.models.networks:digits --norm-affine --gradient meta": (
        "--gradient full"
    ),
    "ready.safetensors --model edgemem.models.networks:resnet20": "does not fit CifarResNet",
    "missing.pt --model edgemem.models.networks:digits --parts layer1": "does not exist",
    "train.npz --model edgemem.models.networks:digits --parts layer1": "arrays of numpy",
}
BAD_WARMUPS = {
    "ready.safetensors --data train.npz --parts layer1 --out a.safetensors": "warmed up already",
    "digits.pt --data none.npz --parts layer1 --out a.safetensors": "does not exist",
    "digits.pt --data wide.npz --parts layer1 --out a.safetensors": r"frames of \[1, 9, 9\]",
    "digits.pt --data train.npz --parts layer1 --out a.pt": r"must end in \.safetensors",
    "digits.pt --data train.npz --parts layer1 --out no/a.safetensors": "cannot be written",
    "digits.pt --data train.npz --parts , --out a.safetensors": "no meta network",
    "digits.pt --data train.npz --parts layer1 --out a.safetensors --batch-size 65": "fewer than",
    "digits.pt --data train.npz --parts layer1 --out a.safetensors --batch-size 0": "batch size 0",
    "digits.pt --data train.npz --parts layer1 --out a.safetensors --epochs -1": "epochs -1",
    "digits.pt --data train.npz --parts layer1 --out a.safetensors --kernel-size 2": "odd",
}


def mistake(folder, capsys, monkeypatch, *arguments):
    """What the command says when it ends with code 2; in this process, which is faster."""
    before = sorted(folder.rglob("*"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["edgemem", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert sorted(folder.rglob("*")) == before
    return capsys.readouterr().err


@pytest.mark.parametrize("line", BAD_EXPORTS)
def test_every_mistake_of_export_is_explained(line, folder, capsys, monkeypatch):
    arguments = ("export", *line.split(), "--out", "x.edgemem")
    said = mistake(folder, capsys, monkeypatch, *arguments)
    assert re.search(BAD_EXPORTS[line], said), said


@pytest.mark.parametrize("line", BAD_WARMUPS)
def test_every_mistake_of_warmup_is_explained(line, folder, capsys, monkeypatch):
    said = mistake(folder, capsys, monkeypatch, "warmup", *line.split(), *DIGITS)
    assert re.search(BAD_WARMUPS[line], said), said
