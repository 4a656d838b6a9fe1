"""The benchmark of other outputs: pictures are what they are said to be, measures are right."""

import numpy as np
import pytest
import torch

from benchmarks.tasks import measures, scenes
from benchmarks.tasks.page import WAYS, page
from benchmarks.tasks.studies import pictures, to_tensor


def test_scenes_show_what_their_maps_say():
    found = scenes.scenes(20, 0)
    assert found.frames.shape == (20, 3, scenes.SIDE, scenes.SIDE)
    for picture, shown, present in zip(found.frames, found.maps, found.present, strict=True):
        assert set(np.unique(shown)) - {0} == set(np.flatnonzero(present) + 1)
        ink, ground = picture[:, shown > 0].mean(), picture[:, shown == 0].mean()
        assert ink > ground  # digits are brighter than any ground


def test_a_single_digit_lies_around_its_place():
    found = scenes.scenes(20, 0, most=1)
    for shown, place in zip(found.maps, found.places, strict=True):
        rows, columns = np.nonzero(shown)
        middle = np.array([rows.min() + rows.max() + 1, columns.min() + columns.max() + 1]) / 2
        assert np.abs(middle / scenes.SIDE - place).max() < scenes.DIGIT / scenes.SIDE / 2


def test_networks_are_judged_on_digits_they_never_saw():
    known, unseen = set(), set()
    for k in range(400):
        for found, seed in ((known, scenes.TRAINING_SEEDS), (unseen, 0)):
            ink, _ = scenes._drawn(np.random.default_rng([seed, k]), seed)
            found.add(ink.tobytes())
    assert len(known) > 100 and len(unseen) > 100 and not known & unseen


def test_training_surfaces_have_no_scratch_and_half_of_the_others_have():
    assert not scenes.surfaces(10, scenes.TRAINING_SEEDS)[1].any()
    frames, scratched = scenes.surfaces(10, 0)
    assert scratched.sum() == 5
    spread = frames.reshape(10, -1).astype(float).max(1)
    assert spread[scratched].min() >= 0.8 * 255 - 1


def test_right_answers_miss_nothing_and_wrong_ones_do():
    maps = np.array([[[1, 0], [2, 2]]])
    answers = np.eye(3, dtype=np.float32)[maps].transpose(0, 3, 1, 2)
    assert measures.overlap_missed(answers, maps) == 0
    other = np.array([[[1, 1], [2, 2]]])  # overlaps 0, 1/2 and 1
    assert measures.overlap_missed(answers, other) == pytest.approx(1 - (0 + 0.5 + 1) / 3)
    places = np.array([[0.0, 0.0], [0.3, 0.4]], np.float32)
    assert measures.distance(places, np.zeros((2, 2), np.float32)) == pytest.approx(0.25)
    steps = np.eye(11, dtype=np.float32)[[[0, 4, 4, 0, 4, 6]]]
    assert measures.digits_wrong(steps, np.array([[3, 3, 5]])) == 0
    assert measures.digits_wrong(steps, np.array([[3, 5, 5]])) == 1
    frames = np.zeros((4, 1, 2, 2), np.float32)
    made = frames + np.array([0.0, 0.1, 0.2, 0.3], np.float32)[:, None, None, None]
    scratched = np.array([False, False, True, True])
    assert measures.unranked(made, (frames, scratched)) == 0
    assert measures.unranked(made, (frames, ~scratched)) == 1


@pytest.mark.parametrize("name", pictures())
def test_every_loss_falls_on_what_its_network_answers(name):
    study = pictures()[name]
    frames, right = study.training(16)
    x, y = to_tensor(frames), study.target(frames, right)
    torch.manual_seed(0)
    model = study.network()
    optimizer, values = torch.optim.Adam(model.parameters(), 3e-3), []
    for _ in range(12):
        loss = study.loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0]
    conditions = study.conditions(16)
    assert len(conditions) == 9
    for shown, what in conditions.values():
        with torch.no_grad():
            answers = model.eval()(to_tensor(shown)).numpy()
        assert study.error(answers, what) >= 0


def test_the_page_names_what_became_worse():
    rows = {
        "clean": dict.fromkeys(WAYS, 0.1),
        "dark": {"given": 0.5, "statistics": 0.6, "step": 0.2},
    }
    exports = {way: {"sites": [], "alpha": 0.5, "learning_rate": 1e-3} for way in list(WAYS)[1:]}
    one = {"errors": rows, "exports": exports, "measure": "m", "frames": 8}
    one["largest_difference_at_rest"] = 1e-6
    versions = (
        "date",
        "machine",
        "cores",
        "python",
        "edgemem",
        "numpy",
        "onnxruntime",
        "torch",
        "onnx",
    )
    about = dict.fromkeys(versions, "0") | {"threads": 2, "batch": 16, "source_frames": 256}
    text = page({"Title": one}, about)
    assert "Statistics alone: better by a point in 0, worse under dark." in text
    assert "With steps: better by a point in 1, worse nowhere." in text
    assert "| as given | 10.0 | 50.0 |" in text
