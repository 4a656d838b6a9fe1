"""The streams of the adaptation harness and what a run is judged by, against brute force."""

import importlib
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_streams import ALL, stream
from scipy.stats import linregress

from benchmarks.adaptation.kept import keep, kept, run_path
from benchmarks.adaptation.measures import WINDOW, known, measures, trend, worst_window
from benchmarks.adaptation.methods import OURS, PEERS, SHIPPED, TUNED, WARM, named, with_factor
from benchmarks.adaptation.peers.base import batch_norms
from benchmarks.adaptation.peers.entropy import PEERS as ENTROPY_PEERS
from benchmarks.adaptation.running import RunningPeer, running
from benchmarks.adaptation.setups import BUNDLES, WarmNetwork, remeasured, with_statistics
from benchmarks.adaptation.streams import Stream
from benchmarks.adaptation.worker import pool_path, run
from edgemem.models import Recipe, attach, warm_up
from edgemem.models.adaptive.adaptive_model import SOURCE
from edgemem.models.networks import digits, resnet20

pytestmark = pytest.mark.slow


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
