"""The streams of the adaptation harness and what a run is judged by, against brute force."""

import importlib
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import linregress

from benchmarks.adaptation.kept import keep, kept, run_path
from benchmarks.adaptation.measures import WINDOW, known, measures, trend, worst_window
from benchmarks.adaptation.methods import OURS, PEERS, SHIPPED, TUNED, WARM, named, with_factor
from benchmarks.adaptation.peers.base import batch_norms
from benchmarks.adaptation.peers.entropy import PEERS as ENTROPY_PEERS
from benchmarks.adaptation.protocols import RETURNING, pool_contexts, protocols
from benchmarks.adaptation.running import RunningPeer, running
from benchmarks.adaptation.setups import BUNDLES, WarmNetwork, remeasured, with_statistics
from benchmarks.adaptation.streams import VISIT, Builder, Stream, correlated
from benchmarks.adaptation.worker import pool_path, run
from benchmarks.shared.speech import BANDS, RATE, STEPS, features, mel_bands, other_voices
from edgemem.models import Recipe, attach, warm_up
from edgemem.models.adaptive.adaptive_model import SOURCE
from edgemem.models.networks import digits, resnet20

pytestmark = pytest.mark.slow

LABELS = np.random.default_rng(0).permutation(np.arange(300) % 10)
FRAMES = 40
ALL = protocols(visits=2, long_visits=3)


def stream(name, seed=1):
    protocol = ALL[name]
    return protocol.make(Builder(LABELS, seed), protocol.contexts, FRAMES)


@pytest.mark.parametrize("name", ALL)
def test_every_frame_has_the_label_of_its_image_and_a_context_that_is_in_the_pool(name):
    made = stream(name)
    np.testing.assert_array_equal(made.label, LABELS[made.image])
    assert len(made.context) == len(made.visit) == len(made)
    assert set(np.unique(made.context)) == set(range(len(made.contexts)))
    task = ALL[name].tasks[0]
    assert set(made.contexts) <= set(pool_contexts([ALL[name]], task))
    assert made.batch == {"single frames": 1, "speech": 16}.get(name, 64)


@pytest.mark.parametrize("name", ALL)
def test_a_seed_gives_one_stream_and_another_seed_another(name):
    assert (stream(name).image == stream(name).image).all()
    assert (stream(name).image != stream(name, seed=2).image).any()


@pytest.mark.parametrize("name", ["continual", "gradual", "label-correlated", "single frames"])
def test_contexts_come_once_each_in_order(name):
    made = stream(name)
    assert (np.diff(made.context)[np.diff(made.context) != 0] >= -4).all()
    if name != "gradual":
        np.testing.assert_array_equal(made.context, np.sort(made.context))
        assert (np.bincount(made.context) == FRAMES).all()


def test_a_gradual_change_rises_to_severity_five_and_falls_again():
    made = stream("gradual")
    names = [made.contexts[k] for k in made.context[np.diff(made.context, prepend=-1) != 0]]
    levels = ("/1", "/2", "/3", "/4", "", "/4", "/3", "/2", "/1")
    assert names[:9] == [f"gaussian_noise{level}" for level in levels]


def test_mixed_contexts_change_all_the_time():
    made = stream("mixed")
    assert (np.diff(made.context) != 0).mean() > 0.8
    assert (np.bincount(made.context) == FRAMES).all()


@pytest.mark.parametrize("name", [name for name in ALL if name.startswith("recurring")])
def test_contexts_return_in_the_same_order(name):
    made = stream(name)
    expected = np.tile(np.repeat(np.arange(len(RETURNING)), VISIT), 2)
    np.testing.assert_array_equal(made.context, expected)
    np.testing.assert_array_equal(made.visit, np.repeat([0, 1], len(RETURNING) * VISIT))
    if name == "recurring, contradicting":
        assert ((made.label < 5) == (made.context % 2 == 0)).all()


@given(st.integers(0, 1000))
def test_correlated_labels_are_the_same_ones_in_longer_runs(seed):
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 10, VISIT)
    found = correlated(classes, rng)
    np.testing.assert_array_equal(np.sort(found), np.sort(classes))

    def runs(labels):
        return 1 + int((labels[1:] != labels[:-1]).sum())

    assert runs(found) <= 100 and runs(found) < runs(classes) / 2


def test_label_correlated_contexts_show_the_frames_of_the_continual_ones_in_longer_runs():
    made, plain = stream("label-correlated"), stream("continual")
    for k in range(len(made.contexts)):
        here, there = made.context == k, plain.context == k
        assert len(set(made.image[here])) == FRAMES
        changes = [(np.diff(s.label[p]) != 0).sum() for s, p in ((made, here), (plain, there))]
        assert changes[0] < changes[1]


def test_a_stream_survives_its_file(tmp_path):
    made = stream("recurring, skewed")
    made.save(tmp_path / "s.npz")
    back = Stream.load(tmp_path / "s.npz")
    assert back.contexts == made.contexts and back.batch == made.batch
    for name in ("context", "image", "label", "visit"):
        np.testing.assert_array_equal(getattr(back, name), getattr(made, name))


def test_measures_are_those_of_their_definitions():
    context = np.repeat([0, 1, 0, 1], 256)
    visit = np.repeat([0, 0, 1, 1], 256)
    zeros = np.zeros(1024, np.int64)
    made = Stream(("fog", "snow"), context, zeros, zeros, visit, 64)
    wrong = np.random.default_rng(0).random(1024) < np.repeat([0.6, 0.5, 0.4, 0.2], 256)
    cells = [
        [wrong[:256].mean(), wrong[256:512].mean()],
        [wrong[512:768].mean(), wrong[768:].mean()],
    ]
    found = measures(wrong, made)
    assert found["error"] == pytest.approx(np.mean(cells))
    assert found["by_visit"] == pytest.approx([np.mean(row) for row in cells])
    assert found["by_context"]["snow"] == pytest.approx((cells[0][1] + cells[1][1]) / 2)
    gain = [cells[0][k] - cells[1][k] for k in (0, 1)]
    assert found["backward_transfer"] == pytest.approx(np.mean(gain))
    assert found["forgetting"] == pytest.approx(-np.mean(gain))
    first = np.concatenate([wrong[start : start + 128] for start in (256, 512, 768)])
    assert found["first"] == pytest.approx(first.mean())


@given(st.lists(st.booleans(), min_size=1, max_size=700))
def test_the_worst_window_is_the_worst_of_all(values):
    wrong = np.array(values)
    size = min(WINDOW, len(wrong))
    windows = [wrong[i : i + size].mean() for i in range(len(wrong) - size + 1)]
    assert worst_window(wrong) == pytest.approx(max(windows))


def test_a_trend_is_the_slope_over_visits_but_the_first_with_its_standard_error():
    rng = np.random.default_rng(0)
    expected = np.r_[0.9, np.linspace(0.1, 0.5, 41)[1:]]  # 41 visits of 1,000 frames, 0.01 each
    table = expected[:, None] + rng.normal(0, 0.02, (41, 5))
    slope, error = trend(table, 41_000)
    by_scipy = linregress(np.arange(40) / 10, table[1:].mean(1))
    assert slope == pytest.approx(by_scipy.slope) and error == pytest.approx(by_scipy.stderr)
    assert abs(slope - 0.1) < 3 * error < 0.02
    assert trend(table[:10], 10_000) == (None, None)


class Echo:
    """Answers with the first number of each frame; knows source frames only after 100 frames."""

    context = bytes_written = None

    def __init__(self):
        self.calls = []

    def answer(self, frames):
        self.calls.append(len(frames))
        return frames[:, 0].astype(np.int64)

    def evaluate(self, frames):
        return frames[:, 0].astype(np.int64) if sum(self.calls) > 100 else np.full(len(frames), -1)

    def close(self):
        raise AssertionError("who opens it closes it")


@pytest.mark.parametrize("batch", [1, 64])
def test_the_runner_gives_every_frame_once_and_compares_with_its_label(tmp_path, batch):
    labels = np.arange(50) % 10
    (tmp_path / "pool").mkdir()
    np.save(tmp_path / "clean_labels.npy", labels)
    right, off = np.stack([labels, labels], 1), np.stack([labels + 1, labels], 1)
    for name, frames in (("clean", right), ("fog/3", right), ("snow", off)):
        np.save(pool_path(tmp_path, name), frames.astype(np.uint8))
    image = np.random.default_rng(0).integers(0, 50, 130)
    context = np.repeat([0, 1], [70, 60])
    made = Stream(("fog/3", "snow"), context, image, labels[image], 0 * image, batch)
    method = Echo()
    found = run(tmp_path, method, made)
    np.testing.assert_array_equal(found["wrong"], context == 1)
    assert method.calls == ([1] * 130 if batch == 1 else [64, 64, 2])
    assert found["source_after"] == 0 and found["peak_mb"] > 0 and found["ms_per_frame"] > 0


def test_every_method_is_where_the_registry_says():
    for name, module in PEERS.items():
        peers = importlib.import_module(f"benchmarks.adaptation.peers.{module}").PEERS
        assert name in peers and peers[name].paper
    assert {way.bundle for way in OURS.values()} <= {*BUNDLES, SHIPPED, TUNED}


def test_a_network_whose_norms_are_measured_anew_is_the_same_and_knows_its_source(even_frames):
    torch.manual_seed(0)
    network, x = digits().eval(), torch.from_numpy(even_frames)
    with torch.no_grad():
        before = network(x)
        remeasured(network, x)
        torch.testing.assert_close(network(x), before, rtol=1e-4, atol=1e-4)
        seen = []
        norm = batch_norms(network)[-1]
        norm.register_forward_pre_hook(lambda _, args: seen.append(args[0].transpose(0, 1)))
        network(x)
    torch.testing.assert_close(norm.running_mean, seen[0].flatten(1).mean(1), rtol=1e-4, atol=1e-4)


def test_peers_adapt_the_norms_of_our_warm_network_and_leave_it_alone():
    network = attach(resnet20().eval(), ["layer1"], torch.rand(2, 3, 32, 32))
    network.mark_warm()
    warm, x = WarmNetwork(network).eval(), torch.rand(16, 3, 32, 32)
    before = {name: value.clone() for name, value in warm.state_dict().items()}
    assert set(WARM.values()) <= set(PEERS)
    method = ENTROPY_PEERS["Tent"].make(warm, None, 1e-2)
    with torch.no_grad():
        torch.testing.assert_close(method.predict(x), warm(x))
        first = method.predict(x)
    method.adapt(x)
    assert not torch.equal(method.predict(x), first)
    assert all(torch.equal(before[name], value) for name, value in warm.state_dict().items())
    moved = [p for p in method.parameters if p.grad is not None and p.grad.any()]
    assert len(moved) > 20 and all(p.dim() == 1 for p in method.parameters)


def test_a_warm_model_that_remembers_keeps_all_that_its_warm_up_found(even_frames):
    network = digits()
    model = attach(network, ["layer1"], torch.zeros(2, 1, 8, 8))
    model.labels = tuple("abcdefghij")
    warm_up(model, even_frames, np.arange(len(even_frames)) % 10, Recipe(1, 32))
    other = with_statistics(model, network, "remembered")
    assert other.attachment.statistics == "remembered" and other.warm
    assert other.labels == model.labels
    for name in SOURCE:
        assert getattr(other, name).equal(getattr(model, name))
    x = torch.from_numpy(even_frames[:8])
    with torch.no_grad():
        assert other(x).logits.equal(model(x).logits)


def test_a_bundle_runs_as_a_method_and_keeps_what_it_learnt(tmp_path, bundle, digits_stream):
    (tmp_path / "bundles").mkdir()
    shutil.copytree(bundle, tmp_path / "bundles" / "remembered.edgemem")
    x, y = (array[:64] for array in digits_stream)
    method = running(tmp_path, "EdgeMem", "continual", tmp_path / "state.db", 0, 1)
    before = method.evaluate(x)
    wrong = np.mean([method.answer(x[i : i + 16]) != y[i : i + 16] for i in range(0, 64, 16)])
    assert wrong < 0.9 and before.shape == (64,)
    method.close()
    assert (tmp_path / "state.db").stat().st_size > 0


def test_single_frames_of_a_peer_go_through_a_window_that_is_learnt_from_when_full():
    seen = []

    class Noting:
        def predict(self, frames):
            seen.append(("predict", len(frames)))
            return torch.eye(3)[frames.flatten(1)[:, 0].long()]

        def adapt(self, frames):
            seen.append(("adapt", len(frames)))
            return torch.eye(3)[frames.flatten(1)[:, 0].long()]

    peer = RunningPeer(Noting())
    frames = np.random.default_rng(0).integers(0, 2, (130, 1, 1, 1)).astype(np.uint8) * 255
    labels = [peer.answer(frames[i : i + 1])[0] for i in range(130)]
    np.testing.assert_array_equal(labels, frames[:, 0, 0, 0] // 255)
    assert [i for i, (kind, _) in enumerate(seen) if kind == "adapt"] == [63, 127]
    assert [size for _, size in seen] == [min(i + 1, 64) for i in range(130)]


def test_batches_are_known_by_a_name_that_their_context_had_before():
    zeros = np.zeros(1024, np.int64)
    context, visit = np.repeat([0, 1, 0, 1], 256), np.repeat([0, 0, 1, 1], 256)
    made = Stream(("fog", "snow"), context, zeros, zeros, visit, 64)
    assert known(list("aabbccccbxaacacd"), made) == 5 / 8
    assert known([None] * 16, made) is None
    once = Stream(("fog",), zeros[:128], zeros[:128], zeros[:128], zeros[:128], 64)
    assert known(["a", "a"], once) is None


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
def test_a_factor_of_the_learning_rate_is_part_of_the_name(factor):
    assert named(with_factor("ROID, warm", factor)) == ("ROID, warm", factor)


def test_bursts_are_long_runs_of_one_class():
    made = stream("bursts of one class")
    assert (np.bincount(made.context) == FRAMES).all()
    assert all(len(set(made.label[made.context == k])) == 1 for k in range(len(made.contexts)))


def test_speech_shows_every_recording_once():
    made = stream("speech")
    np.testing.assert_array_equal(np.sort(made.image), np.arange(len(LABELS)))


def test_features_of_speech_follow_the_pitch():
    """A tone's energy lies in the band of its frequency, wherever the recording ends."""
    seconds = np.arange(3000) / RATE
    for hertz in (500, 1000, 2000):
        found = features(0.5 * np.sin(2 * np.pi * hertz * seconds))
        assert found.shape == (BANDS, STEPS)
        filters = mel_bands()
        nearest = filters[:, round(hertz / (RATE / 2) * (filters.shape[1] - 1))].argmax()
        assert abs(int(found[:, 5].argmax()) - int(nearest)) <= 1
        assert (found[:, -1] == found[:, -1].min()).all()


def test_a_kept_run_comes_back_as_it_was(tmp_path):
    wrong = np.random.default_rng(0).random(101) < 0.3
    keep(tmp_path / "runs" / "a.npz", wrong, {"known": None, "ms_per_frame": 1.5})
    found, figures = kept(tmp_path / "runs" / "a.npz")
    np.testing.assert_array_equal(found, wrong)
    assert figures == {"known": None, "ms_per_frame": 1.5}
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a.npz"]


def prepared(folder, frame=0, seed=1):
    """What `run_path` reads of a prepared folder."""
    (folder / "pool").mkdir(parents=True)
    (folder / "streams").mkdir()
    for name in (*ALL["continual"].contexts, "clean"):
        np.save(pool_path(folder, name), np.full((2, 2), frame))
    stream("continual", seed).save(folder / "streams" / "continual-0.npz")
    (folder / "setup.json").write_text('{"decides": ["a", false, "b"]}')
    return folder


def test_a_run_is_kept_for_its_method_stream_and_frames_alone(tmp_path):
    first, again = prepared(tmp_path / "a"), prepared(tmp_path / "b")
    ours = run_path(first, "EdgeMem", "continual", 0, 1)
    assert ours == run_path(again, "EdgeMem", "continual", 0, 1)
    others = [
        run_path(first, "Tent", "continual", 0, 1),
        run_path(first, "Tent x0.3", "continual", 0, 1),
        run_path(first, "EdgeMem", "continual", 0, 2),
        run_path(prepared(tmp_path / "c", frame=1), "EdgeMem", "continual", 0, 1),
        run_path(prepared(tmp_path / "d", seed=2), "EdgeMem", "continual", 0, 1),
    ]
    assert len({ours, *others}) == len(others) + 1


def test_other_voices_keep_shape_and_loudness_and_leave_the_recording_alone():
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(4, BANDS, STEPS)).astype(np.float32)
    before = frames.copy()
    made = other_voices(frames, 0)
    assert made.shape == frames.shape
    assert made.dtype == np.float32
    assert (made.max((1, 2)) <= frames.max((1, 2))).all()
    assert (np.abs(made - frames).mean((1, 2)) > 0.1).all()
    np.testing.assert_array_equal(frames, before)
    constant = np.ones((1, BANDS, STEPS), np.float32)
    np.testing.assert_allclose(other_voices(constant, 1), constant, atol=1e-6)
