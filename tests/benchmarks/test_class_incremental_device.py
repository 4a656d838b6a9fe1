"""Teaching classes on a device: courses, measures and peers, against other formulations."""

import numpy as np
import pytest
import teachable
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid

from benchmarks.new_classes.courses import LABELLED, MET, batches, course
from benchmarks.new_classes.kept import kept
from benchmarks.new_classes.measures import Accuracies, accuracies
from benchmarks.new_classes.outcomes import Outcome, grouped
from benchmarks.new_classes.page import page, tables
from benchmarks.new_classes.peers import FineTuned, NearestMean, StreamingLDA
from benchmarks.new_classes.running import OURS, WAYS, Peers, features, run_ours
from benchmarks.new_classes.show import SPEECH, draw, goal_table, picture
from benchmarks.new_classes.subjects import Subject
from edgemem.models import attach
from edgemem.models.networks import conv1d

pytestmark = pytest.mark.slow

OWN, NEW = (1, 4, 7), (0, 2, 9)
LABELS = np.random.default_rng(0).permutation(np.repeat((*OWN, *NEW), 100))
TEST = np.concatenate([np.flatnonzero(c == LABELS)[:10] for c in (*OWN, *NEW)])


def made(seed=0):
    return course(LABELS, OWN, NEW, TEST, seed)


def test_no_frame_of_a_course_comes_twice_and_the_test_part_never():
    found = made()
    for met in (found.met, found.strangers):
        used = np.concatenate([*met, *found.lessons, found.test])
        assert len(set(used.tolist())) == len(used)
    assert [len(met) for met in found.met] == [MET] * 3
    assert [len(lesson) for lesson in found.lessons] == [LABELLED] * 3


def test_classes_are_met_and_taught_in_their_order():
    found = made()
    own = [OWN[column] for column in found.columns[np.isin(LABELS, OWN)]]
    np.testing.assert_array_equal(own, LABELS[np.isin(LABELS, OWN)])
    for number, (met, lesson) in enumerate(zip(found.met, found.lessons, strict=True)):
        assert set(found.columns[lesson]) == {3 + number} and len(set(LABELS[lesson])) == 1
        assert found.columns[met].max() < 3 + number
    assert max(found.columns[met].max() for met in found.strangers[:1]) > 3


def test_a_seed_decides_all_and_another_one_other_frames():
    one, again, other = made(), made(), made(1)
    np.testing.assert_array_equal(one.met, again.met)
    np.testing.assert_array_equal(one.lessons, again.lessons)
    assert not np.array_equal(one.lessons, other.lessons)
    np.testing.assert_array_equal(one.test, other.test)


def test_batches_hold_all_in_order():
    parts = batches(np.arange(35))
    assert [len(part) for part in parts] == [16, 16, 3]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(35))


def test_accuracies_against_loops():
    found, rng = made(), np.random.default_rng(0)
    scores = [rng.normal(size=(len(TEST), 6)) for _ in range(4)]
    got = accuracies(found, scores)
    for taught, held in enumerate(scores):
        right = {"old": [], "new": [], "all": []}
        for row, frame in enumerate(TEST):
            column = found.columns[frame]
            if column >= 3 + taught:
                continue
            hit = max(range(3 + taught), key=lambda c, row=row, held=held: held[row, c]) == column
            right["all"].append(hit)
            right["old" if column < 3 else "new"].append(hit)
        assert got.old[taught] == pytest.approx(np.mean(right["old"]))
        assert got.all[taught] == pytest.approx(np.mean(right["all"]))
        if taught:
            assert got.new[taught - 1] == pytest.approx(np.mean(right["new"]))
    assert len(got.new) == 3 and got.old_apart >= got.old[-1]


def clusters(classes=4, size=6, each=40, seed=0):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(size, size))
    labels = np.repeat(np.arange(classes), each)
    return 2 * rng.normal(size=(classes, size))[labels] + rng.normal(
        size=(classes * each, size)
    ) @ mix, labels


@pytest.mark.parametrize("shrinkage", [0.1, 1e-4])
def test_lda_of_source_classes_is_that_of_scikit_learn(shrinkage):
    x, y = clusters()
    theirs = LinearDiscriminantAnalysis("lsqr", shrinkage=shrinkage, priors=[0.25] * 4)
    # Theirs shrinks towards the mean variance, of features that are scaled to variance one first.
    scale = np.sqrt(((x - np.stack([x[y == c].mean(0) for c in range(4)])[y]) ** 2).mean(0))
    peer = StreamingLDA(x / scale, y, shrinkage=shrinkage, scaled=True)
    fitted = theirs.fit(x / scale, y)
    np.testing.assert_array_equal(peer.scores(x / scale).argmax(1), fitted.predict(x / scale))


def test_lda_that_goes_on_is_lda_of_all_frames():
    """Classes that are taught later give the same means and covariance as all at once."""
    x, y = clusters()
    first = y < 2
    peer = StreamingLDA(x[first], y[first], shrinkage=1e-4, scaled=False)
    for column in (2, 3):
        peer.learn(x[y == column], column)
    whole = StreamingLDA(x, y, shrinkage=1e-4, scaled=False)
    np.testing.assert_allclose(peer.scores(x), whole.scores(x), rtol=1e-8, atol=1e-8)


def test_nearest_means_are_those_of_scikit_learn():
    x, y = clusters()
    peer = NearestMean(x[y < 3], y[y < 3], cosine=False)
    peer.learn(x[y == 3], 3)
    theirs = NearestCentroid().fit(x, y)
    np.testing.assert_array_equal(peer.scores(x).argmax(1), theirs.predict(x))
    cosine = NearestMean(x, y, cosine=True).scores(x)
    means = np.stack([x[y == c].mean(0) for c in range(4)])
    expected = [[np.dot(a, b) / np.linalg.norm(b) for b in means] for a in x]
    np.testing.assert_allclose(cosine, expected)


def test_fine_tuning_learns_the_new_class():
    torch.manual_seed(0)
    x, y = clusters(classes=3)
    peer = FineTuned(torch.nn.Linear(6, 2), 0.1)
    peer.learn(x[y == 2], 2)
    assert (peer.scores(x[y == 2]).argmax(1) == 2).all()


def outcomes(lead=0.1):
    made_of = {OURS: {"": lead}, "NCM, cosine": {"": 0.0}, "NCM, Euclid": {"": -0.1},
               "LDA": {"a": -0.2, "b": 0.05}, "LDA, our warm model": {"a": 0.0}}  # fmt: skip
    return [
        Outcome(SPEECH, subject, seed, 5, method, name,
                Accuracies((0.9, 0.85 + more), (0.5,), (0.9, 0.6 + more), 0.895))
        for method, settings in made_of.items()
        for name, more in settings.items()
        for subject in ("one", "two")
        for seed in range(2)
    ]  # fmt: skip


def test_the_better_setting_of_a_peer_counts_and_goals_are_told():
    (group,) = grouped(outcomes())
    assert group.settings == {"LDA": "b"}
    _, rows = goal_table([group], [{"own": 10, "prototypes": 240_000}])
    said = {row[0]: row[1:] for row in rows}
    assert said["above NCM, cosine"] == ["10.0±0.0", "+3", "met"]
    assert said["above LDA"] == ["5.0±0.0", "+3", "met"]
    assert said["old lose, among all"][2] == "met"
    assert said["old lose, among old"] == ["0.5±0.0", "1", "met"]
    (group,) = grouped(outcomes(lead=0.07))
    assert {row[0]: row[3] for row in goal_table([group], [])[1]}["above LDA"] == "missed"


def test_the_page_and_its_pictures(tmp_path):
    groups = grouped(outcomes())
    cost = {
        "group": "speech", "shots": 5, "milliseconds": 3.0, "first": 9.0, "graph": 1.0,
        "row": 264, "written": 5e4, "grown": 0.0,
    }  # fmt: skip
    block = {"own": 10, "capacity": 100, "row": 2056, "prototypes": 226_080, "all": 230_000}
    text = page(groups, [cost], [block], "today", "the command")
    for title, (columns, rows) in tables(groups, [cost], [block]).items():
        assert title and all(len(row) == len(columns) for row in rows)
    assert "Better settings of peers: LDA: b." in text and picture(groups[0]) in text
    draw(groups[0], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def subject_of(frames, labels, **more):
    test = np.concatenate([np.flatnonzero(labels == c)[:10] for c in range(5)])
    held = {"model": None, "bundle": None, "source": None} | more
    return Subject("one", (0, 1), **held, frames=frames, labels=labels, test=test)


@pytest.fixture
def graphs(tmp_path, monkeypatch):
    """Optimised graphs, and runs, are kept in a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("benchmarks.new_classes.running.GRAPHS", tmp_path / "graphs")


@pytest.mark.parametrize("name", WAYS)
def test_a_device_is_taught_a_course(tmp_path, graphs, name):
    """On separable classes; a device that is not taught never answers with a new class."""
    labels = np.random.default_rng(0).permutation(np.arange(500) % 5)
    frames = np.concatenate([teachable.frames_of(c, seed=k) for k, c in enumerate(labels)])
    bundle = teachable.write_bundle(tmp_path / "tiny.edgemem")
    subject = subject_of(frames, labels, bundle=bundle)
    found, cost = run_ours(
        subject, course(labels, (0, 1), (2, 3, 4), subject.test, 0), 5, WAYS[name]
    )
    assert found.old[0] >= 0.95 and len(found.old) == len(found.all) == 4
    if WAYS[name].teaches:
        assert found.all[-1] >= 0.9 and min(found.new) >= 0.9, found
        assert min(cost.milliseconds) > 0 and min(cost.written) > 0
    else:
        assert max(found.new) == 0 and max(cost.written) == 0


def test_features_of_peers_are_those_of_the_network(graphs):
    torch.manual_seed(0)
    network = conv1d(3, 2, 32)
    model = attach(network, ("blocks[0:1]",), torch.zeros(2, 3, 32), statistics="remembered")
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(500) % 5)
    frames = rng.normal(size=(500, 3, 32)).astype(np.float32)
    subject = subject_of(frames, labels, model=model, source=(frames[:60], np.arange(60) % 2))
    with torch.no_grad():
        expected = network.eval().blocks(network.stem(torch.from_numpy(frames[:9]))).mean(2)
    np.testing.assert_allclose(features(subject, frames[:9], warm=False), expected, atol=1e-5)
    assert not np.allclose(features(subject, frames[:9], warm=True), expected, atol=1e-2)

    made_of = course(labels, (0, 1), (2, 3, 4), subject.test, 0)
    found = {(name, setting): right for name, setting, right in Peers(subject).run(made_of, 5)}
    means = [frames[:60][np.arange(60) % 2 == c] for c in range(2)]
    means += [frames[lesson[:5]] for lesson in made_of.lessons]
    means = np.stack([features(subject, held, warm=False).mean(0) for held in means])
    near = ((features(subject, frames[subject.test], warm=False)[:, None] - means) ** 2).sum(2)
    right = near.argmin(1) == made_of.columns[subject.test]
    assert found["NCM, Euclid", ""].all[-1] == pytest.approx(right.mean())


def test_what_was_made_is_not_made_again(graphs):
    calls = []
    for _ in range(2):
        found = kept(["a", 1], lambda: calls.append(1) or {"all": [0.5]}, ours=True)
        assert found == {"all": [0.5]}
    kept(["a", 2], lambda: calls.append(1) or 0, ours=True)
    kept(["a", 2], lambda: calls.append(1) or 0, ours=False)
    assert len(calls) == 3
