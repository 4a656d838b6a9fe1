"""One bundle for frames of several sizes: beside torch at each, on a device, and refused."""

import shutil

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import edgemem
from edgemem.block import Block, unpack
from edgemem.bundle.frame_spec import FrameSpec
from edgemem.bundle.manifest import Plan
from edgemem.bundle.opening import open_bundle
from edgemem.errors import BundleError, CheckpointError, ExportError, InputError
from edgemem.export import Choices, bundle_writer, export_bundle
from edgemem.export.choices import frame_spec, functions_of
from edgemem.export.export_command import export_checkpoint
from edgemem.export.traced_graphs import TracedGraphs
from edgemem.models import align, attach
from edgemem.models.input_sizes import resized, shapes_of
from edgemem.models.model_options import AttachSettings
from edgemem.runtime.engines.choice import EngineSettings, choose
from edgemem.runtime.loop import Runtime
from edgemem.runtime.step.graphs import Graphs
from edgemem.runtime.step.ring import Ring
from edgemem.runtime.tools.verification import verify
from edgemem.testing import ScriptedBackend
from tests.helpers.onnx_models import answers, save
from tests.helpers.sealing import reseal

OWN, SIZES = (3, 12, 12), ((3, 8, 16), (3, 20, 12))
BATCH = 4


class Pooled(nn.Module):
    """Classes of frames of any size."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 6, 3, 1, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.second(self.first(x)).mean((2, 3)))


class Dense(nn.Module):
    """A class for every other place of a frame."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        return self.head(self.first(x))


@pytest.fixture(scope="module", autouse=True)
def instant_plans():
    """One plan, which nobody measures."""
    with pytest.MonkeyPatch.context() as patch:
        plan = Plan("fast", "adapt", "latency", 1 << 20, 1.0)
        patch.setattr(bundle_writer, "measured_plans", lambda *_: [plan])
        yield


@pytest.fixture(scope="module")
def pooled(lively, tmp_path_factory):
    """The given network, the adaptive model, and the path of a bundle for three sizes."""
    network = lively(Pooled())
    model = attach(network, [], torch.zeros(2, *OWN), norm_affine=True, statistics="mix")
    path = tmp_path_factory.mktemp("pooled") / "sizes.edgemem"
    export_bundle(model, path, Choices(BATCH, learning_rate=0.1, sizes=SIZES))
    return network, model, path


def frames_of(shape, n=BATCH, seed=0):
    return np.random.default_rng(seed).random((n, *shape), np.float32)


@pytest.mark.parametrize("shape", (OWN, *SIZES))
def test_frozen_answers_are_those_of_the_given_model(pooled, shape):
    network, _, path = pooled
    frames = frames_of(shape, 7)
    with edgemem.open(path) as runtime, torch.no_grad():
        found = runtime.predict(frames, frozen=True).logits
        expected = network(torch.from_numpy(frames)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("shape", (OWN, *SIZES))
def test_a_step_is_the_one_of_a_model_for_that_size_alone(pooled, shape):
    network, _, path = pooled
    frames, bundle = frames_of(shape), open_bundle(path)
    alone = attach(network, [], torch.zeros(2, *shape), norm_affine=True, statistics="mix")
    choices = Choices(BATCH, learning_rate=0.1, objective="likelihood_ratio")
    functions, _ = functions_of(alone, choices, frame_spec(alone, choices))
    adapt = functions["adapt"]
    inputs = adapt.inputs | {"x": torch.from_numpy(frames)}
    expected = dict(zip(adapt.outputs, adapt.call(*inputs.values()), strict=True))
    graphs = Graphs(bundle, choose(bundle, "cpu", EngineSettings(1)).backend)
    hyper = {name: value.default for name, value in bundle.manifest.hyper_parameters.items()}
    found = graphs.adapt(frames, bundle.generic, bundle.manifest.slots.zero(), hyper)
    moved = Block.named("next.block", found)
    assert found["stat.updated"] == 1
    for name in moved:
        np.testing.assert_allclose(
            moved[name], expected[f"next.block.{name}"].detach().numpy(), atol=1e-5
        )
    assert any((moved[name] != bundle.generic[name]).any() for name in moved)


def test_what_is_learnt_at_one_size_answers_at_another(pooled):
    frames, others = frames_of(SIZES[0]), frames_of(OWN)
    with edgemem.open(pooled[2]) as runtime:
        before = runtime.predict(others).logits
        assert runtime.step(frames).adapted
        assert np.abs(runtime.predict(others).logits - before).max() > 1e-4


def test_no_step_is_made_of_two_sizes(pooled):
    with edgemem.open(pooled[2]) as runtime:
        runtime.step(frames_of(OWN, 3))
        assert not runtime.step(frames_of(SIZES[0], 1)).adapted
        assert runtime.step(frames_of(SIZES[0], 3)).adapted
        assert not runtime.step(frames_of(OWN, 3)).adapted
        assert runtime.counters["frames"] == 10 and runtime.counters["steps"] == 1


def test_frames_that_are_let_go_are_told(pooled):
    with edgemem.open(pooled[2]) as runtime:
        assert runtime.step(frames_of(OWN, 3)).events == ()
        (event,) = runtime.step(frames_of(SIZES[0], 1)).events
        assert event.kind == "resized" and "from 3 that waited" in event.message
        runtime.step(frames_of(SIZES[0], 3))
        assert all(e.kind != "resized" for e in runtime.step(frames_of(OWN, 1)).events)


def test_one_batch_in_two_is_counted_without_frames_that_were_let_go(pooled):
    with edgemem.open(pooled[2], options=edgemem.Options(adapt_when=2)) as runtime:
        runtime.step(frames_of(OWN, 2)), runtime.step(frames_of(SIZES[0], 2))
        for _ in range(10):
            runtime.step(frames_of(OWN, 6)), runtime.step(frames_of(SIZES[0], 2))
        assert runtime.counters["steps"] == 5


def test_a_call_of_another_size_within_a_step_mixes_nothing(pooled, tmp_path, monkeypatch):
    """A signal may call from within a call: what it leaves in the ring is of its own size."""
    others, seen = frames_of(SIZES[0], 2), []
    with edgemem.open(pooled[2], tmp_path / "state") as runtime:
        adapt = runtime._graphs.adapt

        def interrupted(window, *rest):
            seen.append(window.copy())
            if len(seen) == 1:
                runtime.step(others)
            return adapt(window, *rest)

        monkeypatch.setattr(runtime._graphs, "adapt", interrupted)
        mine = frames_of(OWN, 6)
        runtime.step(mine)
        assert len(seen) == 1
        runtime.step(mine[:2])
        np.testing.assert_array_equal(seen[1], np.concatenate([mine[4:], mine[:2]]))
        runtime.flush()


def test_an_interrupted_change_of_size_leaves_no_frames(monkeypatch):
    ring, others = Ring(4, OWN), frames_of(SIZES[0], 2)
    ring.push(frames_of(OWN, 3))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(np, "zeros", interrupted)
        ring.turn_to(others)
    assert ring.count == 0
    ring.push(others)
    np.testing.assert_array_equal(ring.last(2), others)


def test_keys_of_one_source_are_near_at_every_size(lively, tmp_path):
    """Padding weighs more in small frames: it moves keys, unless each size takes that off."""
    model = aligned(lively(Pooled()), frames_of(OWN, 64))
    path = tmp_path / "keys.edgemem"
    export_bundle(model, path, Choices(16, sizes=((3, 6, 6), (3, 24, 24))))
    bundle = open_bundle(path)
    source = unpack((path / bundle.manifest.source).read_bytes(), "", BundleError, "")
    graphs = Graphs(bundle, choose(bundle, "cpu", EngineSettings(1)).backend)

    def distance(frames):
        return np.linalg.norm(source["whitening"] @ (graphs.key(frames) - source["mean"]))

    own = model.attachment.input_shape
    for shape in bundle.manifest.frames.shapes:
        frames = resized(torch.from_numpy(frames_of(own, 16, seed=5)), shape).numpy()
        assert distance(frames) < 2 * source["novelty"]
    # Not so without: the graph of the model's own size, where frames of another may pass it.
    plain = key_of(model, resized(torch.from_numpy(frames_of(own, 16, seed=5)), (3, 6, 6)))
    away = np.linalg.norm(source["whitening"] @ (plain - source["mean"]))
    assert away > 3 * source["novelty"]
    assert model.settings.key_shift is None


def aligned(network, frames):
    model, _ = align(network, frames, sites=(), batch=16)
    return model


def key_of(model, frames):
    with torch.no_grad():
        return model(frames).key.numpy()


class Folded(nn.Module):
    """Steps of a sequence folded into the batch, as recognisers of text do."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv1d(3, 4, 3, padding=1), nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        n, c, h, w = x.shape
        y = x.permute(0, 3, 1, 2).reshape(n * w, c, h)
        return self.head(torch.relu(self.norm(self.first(y))).mean(2).reshape(n, w, 4))


def test_norms_that_see_other_rows_are_refused(lively, tmp_path):
    example = torch.rand(2, *OWN)
    model = attach(
        lively(Folded()), [], example, norm_affine=True, statistics="remembered", task="sequence"
    )
    with pytest.raises(ExportError, match="norm '.*norm' see 32 rows of two frames, not 24"):
        export_bundle(model, tmp_path / "n.edgemem", Choices(BATCH, sizes=SIZES[:1]))


def test_answers_of_another_length_are_refused(lively, tmp_path):
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1)
    )
    model = attach(
        lively(network), [], torch.rand(2, *OWN), norm_affine=True, statistics="remembered",
        task="reconstruction",
    )  # fmt: skip
    with pytest.raises(ExportError, match="size 8x16: gives 192 numbers where"):
        export_bundle(model, tmp_path / "n.edgemem", Choices(BATCH, sizes=SIZES))


def test_a_plan_without_a_graph_of_its_own_has_the_one_before(tmp_path):
    names = ("predict", "adapt", "adapt_balanced")
    for name in names:
        (tmp_path / f"{name}-s.onnx").write_bytes(b"")
    frames = FrameSpec(OWN, BATCH, companions=False, known_companions=0)
    traced = TracedGraphs(frames, {}, None, dict.fromkeys(names), names[1:], "-s")
    plans = [Plan(n, n, "latency", 1, 1.0) for n in ("adapt", "adapt_lean")]
    found = traced.keep_plans(tmp_path, plans)
    assert found.graphs["adapt_lean"] == "adapt_balanced-s.onnx"
    assert {p.name for p in tmp_path.iterdir()} == set(found.graphs.values())


def test_frames_of_another_size_do_not_stand_beside_those_that_wait(pooled):
    frames = frames_of(SIZES[1], 2)
    with edgemem.open(pooled[2]) as fresh:
        expected = fresh.predict(frames).logits
    with edgemem.open(pooled[2]) as runtime:
        runtime.step(frames_of(OWN, 3))
        np.testing.assert_array_equal(runtime.predict(frames).logits, expected)
        assert runtime.step(frames_of(OWN, 1)).adapted  # predict changes nothing


@pytest.mark.parametrize("shape", (OWN, *SIZES))
def test_frames_that_wait_are_kept_over_a_restart(pooled, tmp_path, shape):
    state = tmp_path / "state"
    with edgemem.open(pooled[2], state=state) as runtime:
        runtime.step(frames_of(shape, BATCH - 1))
    with edgemem.open(pooled[2], state=state) as runtime:
        assert runtime.step(frames_of(shape, 1, seed=1)).adapted


def test_a_change_of_size_is_committed(pooled, tmp_path):
    state = tmp_path / "state"
    with edgemem.open(pooled[2], state=state) as runtime:
        runtime.step(frames_of(OWN, BATCH - 1))
        runtime.step(frames_of(SIZES[0], 1))
    with edgemem.open(pooled[2], state=state) as runtime:
        assert not runtime.step(frames_of(OWN, 1)).adapted
        assert not runtime.step(frames_of(SIZES[0], BATCH - 1)).adapted


def test_other_sizes_are_refused_with_all_that_there_are(pooled):
    with edgemem.open(pooled[2]) as runtime:
        with pytest.raises(InputError, match=r"\[n, 3, 12, 12\] or \[n, 3, 8, 16\] or") as caught:
            runtime.step(frames_of((3, 16, 8)))
        assert "[4, 3, 16, 8]" in str(caught.value)
        assert runtime.predict(frames_of(SIZES[0], 1)[0]).logits.shape == (1, 4)  # bare


def test_a_scripted_backend_knows_every_size(pooled):
    bundle = open_bundle(pooled[2])
    backend = ScriptedBackend(bundle.manifest, {"add": 1.0}, {"add": 1.0})
    with Runtime(bundle, backend, contexts=False) as runtime:
        for shape in (OWN, SIZES[1]):
            assert runtime.step(frames_of(shape)).adapted


def test_weights_are_there_once(pooled):
    path = pooled[2]

    def places(name):
        found = onnx.load(path / name, load_external_data=False)
        return {
            tuple((e.key, e.value) for e in tensor.external_data)
            for tensor in found.graph.initializer
            if tensor.external_data
        }

    assert places("predict.onnx") == places("predict-8x16.onnx") != set()


def test_verify_looks_at_every_size(pooled, tmp_path):
    path = shutil.copytree(pooled[2], tmp_path / "copy.edgemem")
    assert verify(path).adapted < 1e-4
    # The graph for one size in the place of that for another.
    reseal(path, lambda d: d["frames"]["sizes"][1]["graphs"].update(predict="predict.onnx"))
    with pytest.raises(BundleError, match=r"takes frames of \[3, 12, 12\]"):
        verify(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda size, d: size["graphs"].pop("adapt"),
        lambda size, d: size["graphs"].update(more="predict.onnx"),
        lambda size, d: size.update(shape=[3, 12, 12]),
        lambda size, d: size.update(shape=[1, 8, 16]),
        lambda size, d: size.update(shape=[3, 8]),
        lambda size, d: size.update(shape=[3, 1 << 20, 1 << 20]),
        lambda size, d: size.update(reference="none"),
        lambda size, d: size.update(outputs=[[1]]),
        lambda size, d: d["frames"].update(ids=[0, 3]),
    ],
)
def test_a_manifest_whose_sizes_do_not_fit_is_refused(pooled, tmp_path, change):
    path = shutil.copytree(pooled[2], tmp_path / "copy.edgemem")
    reseal(path, lambda document: change(document["frames"]["sizes"][0], document))
    with pytest.raises(BundleError):
        open_bundle(path)


def test_outputs_of_places_have_the_size_of_their_frames(lively, tmp_path):
    network = lively(Dense())
    model = attach(
        network, [], torch.zeros(2, *OWN), norm_affine=True, statistics="mix", task="dense"
    )
    path = tmp_path / "dense.edgemem"
    choices = Choices(BATCH, objective="tent", learning_rate=0.1, sizes=SIZES)
    export_bundle(model, path, choices)
    assert model.attachment.named[0].shape == (4, 6, 6)  # as it was before
    with edgemem.open(path) as runtime, torch.no_grad():
        for shape in (OWN, *SIZES):
            frames = frames_of(shape)
            (found,) = runtime.predict(frames, frozen=True).outputs.values()
            expected = network(torch.from_numpy(frames)).numpy()
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, atol=1e-5)
            (found,) = runtime.step(frames).outputs.values()
            assert found.shape == expected.shape
    assert verify(path).adapted < 1e-4


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        (((3, 8, 8), (3, 8, 8)), "size 8x8: is there twice"),
        ((OWN,), "size 12x12: is there twice"),
        (((1, 8, 8),), r"size 8x8: is of frames of \[1, 8, 8\]"),
        (([3, 8, 8],), r"size \[3, 8, 8\]: is no shape"),
        ((3, 48, 160), "size 3: is no shape of a frame"),
        (((3, 8),), r"size 8: is of frames of \[3, 8\]"),
        (((3, 1 << 14, 1 << 14),), "makes steps of more than"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(lively, tmp_path, sizes, named):
    model = attach(lively(Pooled()), [], torch.zeros(2, *OWN), norm_affine=True)
    with pytest.raises(ExportError, match=named):
        export_bundle(model, tmp_path / "n.edgemem", Choices(BATCH, sizes=sizes))
    assert not (tmp_path / "n.edgemem").exists()


def test_a_model_for_one_size_is_refused_by_name(lively, tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(400, 4))
    model = attach(lively(network), [], torch.zeros(2, *OWN), norm_affine=True)
    with pytest.raises(ExportError, match="size 8x16: is none that the model runs on"):
        export_bundle(model, tmp_path / "n.edgemem", Choices(BATCH, sizes=SIZES))


@pytest.mark.parametrize(
    "choice", [{"targets": ("onnx", "qnn")}, {"int8": frames_of(OWN)}, {"max_classes": 9}]
)
def test_what_is_for_one_size_is_refused(lively, tmp_path, choice):
    model = attach(lively(Pooled()), [], torch.zeros(2, *OWN), norm_affine=True)
    with pytest.raises(ExportError, match="not there yet for bundles of several sizes"):
        export_bundle(model, tmp_path / "n.edgemem", Choices(BATCH, sizes=SIZES, **choice))


def onnx_file(path, size, *pads):
    """A convolution, a mean over places and a linear layer, for frames of that size."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(6, 3, 3, 3)).astype(np.float32),
        "m": rng.normal(size=(6, 4)).astype(np.float32),
    }
    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["a"], strides=[2, 2], **dict(pads)),
        node("Relu", ["a"], ["b"]),
        node("GlobalAveragePool", ["b"], ["c"]),
        node("Flatten", ["c"], ["d"]),
        node("MatMul", ["d", "m"], ["y"]),
    ]
    return save(path, nodes, weights, ("n", 3, *size))


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.npz"
    np.savez(path, x=frames_of(OWN, 32))
    return path


def export_file(path, source, out, sizes):
    settings = AttachSettings(None, source=source, sizes=sizes, norm_affine=None)
    return export_checkpoint(path, None, [], settings, Choices(BATCH), out, lambda stage: None)


def test_a_file_with_open_sizes_adapts_at_each(tmp_path, source):
    """Its own size is that of the source frames, where nothing else says it."""
    path, out = onnx_file(tmp_path / "open.onnx", ("h", "w")), tmp_path / "open.edgemem"
    export_file(path, source, out, "8x16,20x12")
    with edgemem.open(out) as runtime:
        for shape in (OWN, *SIZES):
            frames = frames_of(shape)
            found = runtime.predict(frames, frozen=True).logits
            np.testing.assert_allclose(found, answers(path, frames)[0], atol=1e-5)


def test_a_file_that_is_converted_for_one_size_is_refused_at_others(tmp_path, source):
    # What is padded to keep the size depends on it, and is written into the converted network.
    path = onnx_file(tmp_path / "same.onnx", ("h", "w"), ("auto_pad", "SAME_UPPER"))
    with pytest.raises(CheckpointError, match="size 9x16"):
        export_file(path, source, tmp_path / "n.edgemem", "9x16")


def test_a_file_of_fixed_size_takes_no_other(tmp_path, source):
    path = onnx_file(tmp_path / "fixed.onnx", OWN[1:])
    with pytest.raises(InputError, match="--sizes 8x16: contradicts fixed.onnx"):
        export_file(path, source, tmp_path / "n.edgemem", "8x16")


@pytest.mark.parametrize(
    "text", ["", "8", "9" * 5000 + "x8", "8x16x2", "8xa", "0x8", "8x16,", "-8x16", "8 x16", "²x8"]
)
def test_text_that_is_no_size_is_refused(text):
    with pytest.raises(InputError, match="--sizes") as caught:
        shapes_of(text, OWN)
    assert "12x12" in str(caught.value)


def test_sizes_as_text():
    assert shapes_of("8x16, 20x12", OWN) == SIZES
    assert shapes_of("400", (2, 800)) == ((2, 400),)
    assert shapes_of(None, OWN) == ()


def test_resized_frames_keep_their_mean():
    frames = torch.rand(2, 3, 12, 12)
    assert resized(frames, (3, 12, 12)) is frames
    found = resized(frames, (3, 6, 6))
    np.testing.assert_allclose(found.mean((2, 3)), frames.mean((2, 3)), atol=1e-5)
