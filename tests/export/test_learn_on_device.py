"""A bundle that was trained on some digits is taught the others, beside a stream without labels."""

import shutil

import numpy as np
import pytest
import torch
from opening import opened_with
from sklearn.datasets import load_digits
from torch.nn import functional

import edgemem
from edgemem.block import pack, unpack
from edgemem.cli.commands.device import inspect
from edgemem.export import Choices, export_bundle
from edgemem.models import attach
from edgemem.models.networks import digits
from edgemem.models.warmup.warm_up import warm_up
from edgemem.models.warmup.warm_up_recipe import Recipe
from edgemem.runtime.tools.verification import verify

pytestmark = pytest.mark.slow

BATCH, OWN, CAPACITY, SHOTS = 32, 8, 12, 5
NEW = {8: "eight", 9: "nine"}


@pytest.fixture(scope="module")
def data():
    """Frames of even numbers of the source and of odd ones, uint8, with labels."""
    images, labels = load_digits(return_X_y=True)
    x = np.round(images * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return (x[::2], labels[::2]), (x[1::2], labels[1::2])


@pytest.fixture(scope="module")
def bundle(data, tmp_path_factory):
    """Answers the digits below eight; has room for twelve classes. Its features tell all ten apart,
    as those of a large model do."""
    x, y = data[0]
    torch.manual_seed(0)
    network = digits()
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    frames, labels = torch.from_numpy(x).float() / 255, torch.from_numpy(y)
    for _ in range(8):
        for chosen in torch.randperm(len(frames)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(network(frames[chosen]), labels[chosen]).backward()
            optimizer.step()
    rows = network.classifier
    network.classifier = torch.nn.Linear(rows.in_features, OWN)
    with torch.no_grad():
        network.classifier.weight.copy_(rows.weight[:OWN])
        network.classifier.bias.copy_(rows.bias[:OWN])
    x, y = x[y < OWN], y[y < OWN]
    model = attach(network.eval(), ["layer1", "layer2"], torch.zeros(2, 1, 8, 8))
    warm_up(model, x, y, Recipe(epochs=2))
    path = tmp_path_factory.mktemp("taught") / "digits.edgemem"
    labels = ("zero", "one", "two", "three", "four", "five", "six", "seven")
    export_bundle(model, path, Choices(BATCH, labels=labels, max_classes=CAPACITY), source={})
    return path


def right(results, y):
    return float((np.concatenate([r.labels for r in results]) == y).mean())


def step_all(runtime, x):
    return [runtime.step(x[i : i + BATCH]) for i in range(0, len(x), BATCH)]


def lesson(data, rng, numbers=tuple(NEW)):
    x, y = data[0]
    chosen = np.concatenate([rng.choice(np.flatnonzero(y == n), SHOTS, False) for n in numbers])
    return x[chosen], y[chosen]


def test_the_bundle_verifies_here(bundle):
    found = verify(bundle, threads=1)
    assert max(found.frozen, found.adapt, found.adapted) < 1e-4


def test_room_for_classes_hides_no_difference(bundle, seal, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy.edgemem")
    arrays = unpack((copy / "reference.safetensors").read_bytes(), "", AssertionError, "")
    arrays["adapted.logits"] = arrays["adapted.logits"] + np.float32(0.05)
    (copy / "reference.safetensors").write_bytes(pack(arrays))
    seal(copy)
    with pytest.raises(edgemem.BundleError, match="adapted logits differ"):
        verify(copy, threads=1)


def test_inspect_names_the_room(bundle, capsys):
    inspect(bundle)
    assert f"{OWN}, room for {CAPACITY}" in capsys.readouterr().out


@pytest.mark.parametrize("contexts", [True, False])
def test_taught_between_steps_in_changing_light(bundle, data, contexts, tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "s.db"
    x, y = data[1]
    order = rng.permutation(len(x))[: 12 * BATCH]
    x, y = x[order], y[order]
    dark = np.round(0.4 * x.astype(np.float32) + 80).astype(np.uint8)
    old = y < OWN
    with opened_with(bundle, path, threads=1, contexts=contexts) as runtime:
        before = right(step_all(runtime, x[old]), y[old])
        step_all(runtime, x)
        frames, labels = lesson(data, rng)
        runtime.learn(frames, [NEW[n] for n in labels])
        for light in (x, dark, x, dark):
            results = step_all(runtime, light)
            found = np.concatenate([result.labels for result in results])
        new = y >= OWN
        assert runtime.counters["updates"] > 20
        assert (found[new] == y[new]).mean() > 0.8 and (found[old] == y[old]).mean() > before - 0.1
        for kind in ("reset", "restored", "frozen"):
            assert not [e for result in results for e in result.events if e.kind == kind]
        expected = runtime.predict(x[:BATCH]).logits
    with opened_with(bundle, path, threads=1, contexts=contexts) as runtime:
        np.testing.assert_array_equal(runtime.predict(x[:BATCH]).logits, expected)
        assert [info.name for info in runtime.classes()][OWN:] == ["eight", "nine"]
        runtime.forget_class("eight")
        assert (runtime.predict(x[:BATCH]).labels != OWN).all()


@pytest.mark.parametrize("read", ["mixed", "prototypes", "classifier"])
def test_every_way_to_read(bundle, data, read):
    x, y = data[1]
    with opened_with(bundle, threads=1, read=read) as runtime:
        frames, labels = lesson(data, np.random.default_rng(1))
        result = runtime.learn(frames, labels)
        assert (result.logits[:, CAPACITY - 2 :] == -1e4).all()
        found = runtime.predict(x[: 4 * BATCH]).labels
        new = y[: 4 * BATCH] >= OWN
        assert ((found[new] >= OWN).mean() > 0.5) == (read != "classifier")
        frozen = runtime.predict(x[:BATCH], frozen=True)
        assert (frozen.logits[:, OWN:] == -1e4).all()
