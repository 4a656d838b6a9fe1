"""The graph `learn` as a torch function, beside autograd; steps leave what was taught."""

import json

import numpy as np
import onnxruntime
import pytest
import torch

from edgemem.bundle.manifest import CLOSED
from edgemem.bundle.opening import open_bundle
from edgemem.errors import ExportError
from edgemem.export import Choices, export_bundle
from edgemem.export.functions.class_reading import FRAMES, SEEN, SUMS, teachable
from edgemem.export.functions.learn import HYPER_PARAMETERS, learn_function
from edgemem.export.functions.objective import likelihood_ratio
from edgemem.export.functions.optimizer import sgd
from edgemem.export.functions.predict_adapt import adapt_function, predict_function
from edgemem.export.functions.relation import relation_distance
from edgemem.models import attach
from edgemem.models.adaptive.classifier import features_of
from edgemem.models.networks.digits import Digits
from edgemem.models.norms.remembered import CLASS_PRIOR

OWN, CAPACITY, BATCH = 4, 6, 8


def new_model(lively, warmed, statistics):
    model = attach(
        lively(Digits(OWN, 4)),
        ["layer1"],
        torch.zeros(2, 1, 8, 8),
        statistics=statistics,
        norm_affine=True,
    )
    warmed(model)
    for array in model.remembered().values():
        array.zero_()
    return model


@pytest.fixture
def model(lively, warmed):
    return new_model(lively, warmed, "mix")


@pytest.fixture
def remembering(lively, warmed):
    return new_model(lively, warmed, "remembered")


def frames(seed=0, count=BATCH):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def labels(*given):
    return torch.tensor([*given, *[-1] * (BATCH - len(given))])


def call(function, **given):
    inputs = function.inputs | given
    values = function.call(*(inputs[name] for name in function.inputs))
    return dict(zip(function.outputs, values, strict=True))


def embedded(model, reading, x, filled=BATCH):
    """Features of the present frames, with statistics of these alone."""
    shares = (torch.arange(BATCH) < filled) / filled
    with features_of(reading.classifier) as seen:
        model(x, torch.tensor(filled / (filled + 16)), None, shares)
    return reading.prototypes.embedded(seen[0])


def test_labelled_frames_add_their_features_to_their_classes(model):
    with teachable(model, CAPACITY) as reading:
        learn = learn_function(model, frames(), reading, "full", learns=True)
        found = call(learn, x=frames(), y=labels(0, 5, 5), filled=torch.tensor(6.0))
        rows = embedded(model, reading, frames(), 6).detach()
    sums, counts = found[f"next.block.{SUMS}"], found[f"next.block.{FRAMES}"]
    torch.testing.assert_close(sums[0], rows[0])
    torch.testing.assert_close(sums[5], rows[1] + rows[2])
    assert not sums[1:5].any()
    assert counts.tolist() == [1, 0, 0, 0, 0, 2]
    assert not found[f"next.block.{SEEN}"].any()
    assert found["stat.updated"].item() == 1.0


def test_what_fills_a_batch_up_has_no_effect(model):
    with teachable(model, CAPACITY) as reading:
        learn = learn_function(model, frames(), reading, "full", learns=True)
        rubbish = torch.cat([frames()[:5], 7.0 * frames(1)[5:]])
        y = torch.tensor([-1, 0, 5, -1, -1, 3, 3, 3])
        a, b = (call(learn, x=x, y=y, filled=torch.tensor(5.0)) for x in (frames(), rubbish))
    for name in learn.outputs:
        rows = 5 if name == "logits" else None
        torch.testing.assert_close(a[name][:rows] if rows else a[name],
                                   b[name][:rows] if rows else b[name])  # fmt: skip


def test_the_step_is_that_of_autograd(model):
    """Cross-entropy to prototypes, and the relations of those known before."""
    x, rate, weight = frames(), 0.05, 0.7
    given = {"hp.learn_rate": torch.tensor(rate), "hp.relation_weight": torch.tensor(weight)}
    with teachable(model, CAPACITY) as reading:
        learn = learn_function(model, x, reading, "full", learns=True)
        found = call(learn, x=x, y=labels(0, 5), **given)
        rows = embedded(model, reading, x)
        with features_of(reading.classifier) as seen:
            model.frozen_logits(x)
        teacher = reading.prototypes.embedded(seen[0])
        known = reading.prototypes.source
        taught = torch.cat([5.0 * known, torch.zeros(2, known.shape[1])])
        taught[0] += rows[0].detach()
        taught[5] += rows[1].detach()
        after = torch.nn.functional.normalize(taught[[0, 1, 2, 3, 5]], dim=1)
        scores = 16.0 * rows[:2] @ after.T
        loss = torch.nn.functional.cross_entropy(scores, torch.tensor([0, 4]))
        before = torch.log_softmax(teacher @ known.T / 0.1, 0)
        now = torch.log_softmax(rows @ after[:OWN].T / 0.1, 0)
        distance = (before.exp() * (before - now)).sum(0).mean()
        (loss + weight * distance).backward()
        expected = {n: (p - rate * p.grad).detach() for n, p in model.learned().items()}
    torch.testing.assert_close(found["stat.relation"], distance)
    for name, value in expected.items():
        torch.testing.assert_close(found[f"next.block.{name}"], value, rtol=1e-4, atol=1e-6)
    moved = [n for n, p in model.learned().items() if not torch.equal(expected[n], p)]
    assert moved


def test_relations_are_those_of_the_paper_where_nothing_is_new(model):
    x = frames()
    with teachable(model, CAPACITY) as reading:
        learn = learn_function(model, x, reading, "full", learns=True)
        found = call(learn, x=x, y=labels(5))
        rows = embedded(model, reading, x)
        with features_of(reading.classifier) as seen:
            model.frozen_logits(x)
        teacher = reading.prototypes.embedded(seen[0])
        expected = relation_distance(rows, teacher, reading.prototypes.source, torch.tensor(0.1))
    torch.testing.assert_close(found["stat.relation"], expected)


def test_without_a_rate_only_prototypes_move(model):
    with teachable(model, CAPACITY) as reading:
        learn = learn_function(model, frames(), reading, "full", learns=True)
        found = call(learn, y=labels(5), x=frames(), **{"hp.learn_rate": torch.tensor(0.0)})
        for name, value in model.block().items():
            same = torch.equal(found[f"next.block.{name}"], value)
            assert same == (name not in (SUMS, FRAMES)), name


def test_a_step_without_gradient_asks_for_no_rate(model):
    with teachable(model, CAPACITY) as reading:
        learn = learn_function(model, frames(), reading, "full", learns=False)
        assert not {f"hp.{name}" for name in HYPER_PARAMETERS} & set(learn.inputs)
        found = call(learn, x=frames(), y=labels(5))
        assert found[f"next.block.{FRAMES}"][5] == 1.0
        for name, value in model.learned().items():
            assert torch.equal(found[f"next.block.{name}"], value)


@pytest.mark.parametrize("learns", [True, False])
def test_frames_that_are_not_finite_teach_nothing(model, learns):
    x = frames()
    x[1, 0, 0, 0] = torch.nan
    with teachable(model, CAPACITY) as reading:
        learn = learn_function(model, x, reading, "full", learns=learns)
        found = call(learn, x=x, y=labels(0, 5))
        for name, value in model.block().items():
            assert torch.equal(found[f"next.block.{name}"], value), name
    assert found["stat.updated"].item() == 0.0


def test_without_any_label_nothing_moves(model):
    with teachable(model, CAPACITY) as reading:
        learn = learn_function(model, frames(), reading, "full", learns=True)
        found = call(learn, x=frames(), y=labels())
        for name, value in model.block().items():
            assert torch.equal(found[f"next.block.{name}"], value), name
    assert found["stat.updated"].item() == 0.0


def test_steps_leave_what_was_taught_and_see_the_models_own(remembering):
    model = remembering
    with teachable(model, CAPACITY) as reading:
        adapt = adapt_function(model, frames(), likelihood_ratio(OWN), sgd(0.01), "full", reading)
        taught = {
            f"block.{SUMS}": torch.zeros(CAPACITY, 8),
            f"block.{FRAMES}": torch.zeros(CAPACITY),
        }
        taught[f"block.{SUMS}"][5], taught[f"block.{FRAMES}"][5] = torch.rand(8), 1.0
        given = taught
        for seed in range(3):
            found = call(adapt, x=frames(seed), **given)
            given = {n.removeprefix("next."): v for n, v in found.items() if n.startswith("next.")}
    for name, value in taught.items():
        assert torch.equal(given[name], value), name
    assert given[f"block.{SEEN}"].any()
    assert given[f"block.{CLASS_PRIOR}"].any()
    assert found["stat.updated"].item() == 1.0


def test_predict_and_adapt_read_alike(remembering):
    model = remembering
    with teachable(model, CAPACITY) as reading:
        adapt = adapt_function(model, frames(), likelihood_ratio(OWN), sgd(0.01), "full", reading)
        predict = predict_function(model, frames(), reading=reading)
        taught = {f"block.{SUMS}": torch.eye(CAPACITY, 8), f"block.{FRAMES}": torch.ones(CAPACITY)}
        a, b = (call(f, x=frames(), **taught)["logits"] for f in (adapt, predict))
    torch.testing.assert_close(a, b)
    assert (a > CLOSED / 2).all()


@pytest.fixture(scope="module")
def bundle(lively, warmed, tmp_path_factory):
    path = tmp_path_factory.mktemp("taught") / "taught.edgemem"
    model = new_model(lively, warmed, "mix")
    export_bundle(
        model, path, Choices(batch=BATCH, max_classes=CAPACITY, objective="prototype_relation")
    )
    return path


@pytest.mark.slow
def test_the_manifest_says_what_can_be_taught(bundle):
    manifest = open_bundle(bundle).manifest
    assert manifest.classes == CAPACITY
    assert len(manifest.labels) == OWN
    assert manifest.teaching.arrays == (SUMS, FRAMES)
    assert set(manifest.teaching.reads) == {"mixed", "prototypes", "classifier"}
    assert set(HYPER_PARAMETERS) <= set(manifest.hyper_parameters)
    assert all(value.frozen == 0.0 for value in manifest.hyper_parameters.values())


@pytest.mark.slow
def test_a_written_graph_teaches_and_another_reads_it(bundle):
    """The learnt block of `learn` goes into `predict`, by names alone."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    graphs = {
        name: onnxruntime.InferenceSession(str(bundle / f"{name}.onnx"), options)
        for name in ("learn", "predict")
    }
    manifest = open_bundle(bundle).manifest
    feeds = {f"block.{n}": a for n, a in open_bundle(bundle).generic.items()}
    feeds |= {
        f"hp.{n}": np.asarray(v.default, np.float32) for n, v in manifest.hyper_parameters.items()
    }
    feeds |= {
        "x": frames().numpy(),
        "y": labels(5, 5).numpy(),
        "filled": np.asarray(BATCH, np.float32),
    }

    def run(name):
        graph = graphs[name]
        names = [value.name for value in graph.get_outputs()]
        wanted = {value.name: feeds[value.name] for value in graph.get_inputs()}
        return dict(zip(names, graph.run(names, wanted), strict=True))

    before = run("predict")["logits"]
    feeds |= {n.removeprefix("next."): v for n, v in run("learn").items() if n.startswith("next.")}
    after = run("predict")["logits"]
    assert (before[:, 5] == CLOSED).all()
    assert (after[:, 4] == CLOSED).all()
    assert (after[:2].argmax(1) == 5).all()


@pytest.mark.parametrize("capacity", [OWN, 1, 0])
def test_capacity_must_leave_room(model, tmp_path, capacity):
    with pytest.raises(ExportError, match=f"max_classes {capacity}: leaves no room"):
        export_bundle(model, tmp_path / "x.edgemem", Choices(batch=BATCH, max_classes=capacity))
    assert not (tmp_path / "x.edgemem").exists()


def test_a_model_without_a_linear_classifier_cannot_be_taught(tmp_path):
    class Bare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.last = torch.nn.BatchNorm2d(1), torch.nn.Conv2d(1, OWN, 8)

        def forward(self, x):
            return self.last(self.norm(x)).flatten(1)

    model = attach(Bare().eval(), [], torch.zeros(2, 1, 8, 8), norm_affine=True)
    with pytest.raises(ExportError, match="does not end in a linear layer"):
        export_bundle(model, tmp_path / "x.edgemem", Choices(batch=BATCH, max_classes=9))


@pytest.mark.slow
def test_bundles_without_room_say_so(tmp_path, remembering):
    export_bundle(remembering, tmp_path / "x.edgemem", Choices(batch=BATCH, objective="statistics"))
    held = json.loads((tmp_path / "x.edgemem" / "manifest.json").read_text())
    assert held["teaching"] is None
    assert "learn" not in held["graphs"]
