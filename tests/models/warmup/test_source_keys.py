"""What keys of source data look like, against the keys that the model itself gives."""

import numpy as np
import pytest
import torch

from edgemem.models import attach, load_adaptive, observe_source, save_adaptive
from edgemem.models.networks import conv1d, digits
from edgemem.models.warmup.source_keys import source_keys

NETWORKS = {"digits": (digits, "layer1"), "conv1d": (conv1d, "stem")}


@pytest.fixture(params=NETWORKS)
def observed(request, lively):
    """An adaptive model that has seen source frames, and the frames."""
    factory, part = NETWORKS[request.param]
    network = lively(factory())
    frames = np.random.default_rng(0).random((300, *network.input_shape), np.float32)
    model = attach(network, [part], torch.zeros(2, *network.input_shape))
    observe_source(model, frames)
    return model, frames


def keys_of(model, frames, batch, count, seed=1):
    rng = np.random.default_rng(seed)
    picks = [rng.choice(len(frames), batch) for _ in range(count)]
    with torch.no_grad():
        return np.stack([model(torch.from_numpy(frames[i])).key.numpy() for i in picks])


@pytest.mark.parametrize("batch", [4, 32])
def test_mean_and_scale_are_those_of_keys_that_the_model_gives(observed, batch):
    model, frames = observed
    found = source_keys(model, batch)
    keys = keys_of(model, frames, batch, 400)
    normal = (keys - found.mean) @ found.whitening.T
    # Below one where numbers of the key nearly agree: the ridge holds those directions back.
    assert 0.6 < (normal**2).sum(1).mean() < 1.15
    beyond = (np.linalg.norm(normal, axis=1) > found.novelty).mean()
    assert beyond <= 0.02


def test_other_frames_are_beyond_novelty(observed):
    model, frames = observed
    found = source_keys(model, 32)
    keys = keys_of(model, 0.3 * frames + 0.7, 32, 20)
    assert (np.linalg.norm((keys - found.mean) @ found.whitening.T, axis=1) > found.novelty).all()


def test_the_same_seed_gives_the_same_figures(observed):
    model, _ = observed
    one, other = source_keys(model, 8), source_keys(model, 8)
    assert one.novelty == other.novelty and (one.whitening == other.whitening).all()


def test_how_certain_the_frozen_model_is_of_source_frames_is_kept(observed):
    model, frames = observed
    with torch.no_grad():
        answers = torch.distributions.Categorical(
            logits=model.untouched_logits(torch.from_numpy(frames))
        )
    found = source_keys(model, 8)
    assert found.entropy == pytest.approx(float(answers.entropy().mean()), rel=1e-4)
    assert found.entropy_deviation == pytest.approx(float(answers.entropy().std()), rel=1e-3)


def test_labels_are_kept_beside_their_frames(observed):
    model, frames = observed
    labels = np.arange(len(frames)) % 7
    observe_source(model, frames, labels)
    kept = model.source_frames.numpy()
    for frame, label in zip(kept, model.source_labels.tolist(), strict=True):
        places = np.flatnonzero((frames == frame).all(tuple(range(1, frames.ndim))))
        assert label in labels[places]


def test_a_model_that_saw_no_source_data_has_none():
    model = attach(digits(), ["layer1"], torch.zeros(2, 1, 8, 8))
    assert source_keys(model, 8) is None
    assert "source_moments" not in model.state_dict()


def test_a_checkpoint_keeps_what_was_observed(observed, tmp_path):
    model, _ = observed
    save_adaptive(model, tmp_path / "m.safetensors", {})
    network = conv1d() if "stem" in model.attachment.parts else digits()
    again, _ = load_adaptive(tmp_path / "m.safetensors", network)
    assert again.source_moments.equal(model.source_moments)
    assert (source_keys(again, 8).whitening == source_keys(model, 8).whitening).all()
