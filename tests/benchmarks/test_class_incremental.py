"""The harness of learning new classes: runs on tiny data, and peers' rules against loops."""

import copy
import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.class_incremental import __main__ as command
from benchmarks.class_incremental.kept import keep, kept, run_path
from benchmarks.class_incremental.methods import JOINT, METHODS, OURS
from benchmarks.class_incremental.peers.base import Batch, Classifier, head_loss
from benchmarks.class_incremental.peers.icarl import ICaRL, herd
from benchmarks.class_incremental.peers.prototypes import ContrastiveMeans, Prototypes
from benchmarks.class_incremental.peers.regularised import (
    EWC,
    LwF,
    distillation,
    fisher_information,
)
from benchmarks.class_incremental.peers.replay import DER, ER, Reservoir
from benchmarks.class_incremental.running import accuracy, run, start_of
from benchmarks.class_incremental.show import course, goals, sweep_table, table
from benchmarks.class_incremental.split import Setting, load, merged, split
from benchmarks.class_incremental.views import crop_and_flip
from edgemem.accuracy import figures, from_rows, read_accuracy
from edgemem.models.prototypes import learn_task

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
TINY = Setting("2 x 2", "made up", 4, 2, 12, 6, epochs=2, batch_size=8, channels=4)
ONES = replace(TINY, name="4 x 1", classes_per_task=1)
SEED = 3


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads of tiny convolutions wait for each other far longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made_up(count, seed):
    """Colours and noise, in mixed order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(4 * count) % 4)
    frames = rng.integers(0, 90, (4 * count, 3, 16, 16)) + 40 * labels[:, None, None, None]
    return frames.astype(np.uint8), labels


DATA = made_up(15, 0), made_up(10, 1)


def tasks_of(setting=TINY, seed=SEED):
    return split(DATA, setting, seed)


def start(setting=TINY):
    return start_of(setting, SEED, CPU)


def learnt(learner, tasks):
    for task in tasks:
        learner.learn(task.classes, task.frames, task.labels)
    return learner


def batch_of(learner, task, count=8):
    frames, labels = task.frames[:count], torch.from_numpy(task.labels[:count])
    return Batch(learner.augmented(frames), frames, labels)


def test_tasks_are_disjoint_whole_and_of_the_first_images():
    tasks = tasks_of()
    assert sorted(merged(tasks).classes) == [0, 1, 2, 3] and len(tasks) == 2
    for task in tasks:
        assert np.bincount(task.labels, minlength=4)[list(task.classes)].tolist() == [12, 12]
        assert len(task.test_labels) == 12 and set(task.test_labels) == set(task.classes)
        own = np.flatnonzero(DATA[0][1] == task.classes[0])[:12]
        np.testing.assert_array_equal(task.frames[task.labels == task.classes[0]], DATA[0][0][own])
    again, other = tasks_of(), [split(DATA, TINY, seed)[0].classes for seed in range(8)]
    assert [task.classes for task in again] == [task.classes for task in tasks]
    assert len(set(other)) > 1


def test_a_view_is_a_shifted_crop_that_may_be_flipped():
    x = torch.rand(20, 3, 16, 16)
    found = crop_and_flip(x, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(x, (4,) * 4)
    flips = 0
    for image, view in zip(padded, found, strict=True):
        crops = [
            (flip, (image.flip(2) if flip else image)[:, down : down + 16, right : right + 16])
            for flip in (False, True) for down in range(9) for right in range(9)
        ]  # fmt: skip
        fits = [flip for flip, crop in crops if torch.equal(crop, view)]
        assert len(fits) == 1
        flips += fits[0]
    assert 0 < flips < 20


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("setting", [TINY, ONES], ids=["two", "one"])
def test_every_method_gives_two_matrices_that_fit_together(method, setting):
    tasks = tasks_of(setting)
    found = run(method, METHODS[method].chosen, setting, tasks, SEED, CPU)
    count = 1 if method == JOINT else setting.tasks
    assert found.by_task.values.shape == found.by_class.values.shape == (count, count)
    lower = np.tril_indices(count)
    assert (found.by_task.values[lower] >= found.by_class.values[lower]).all()
    if setting is ONES:
        assert (found.by_task.values[lower] == 1).all()
    else:
        head = method.split()[0] in ("fine-tuning", "LwF", "EWC", "ER", "DER")
        assert (figures(found.by_task)["forward_transfer"] is not None) == head
    assert found.seconds > 0


def test_a_run_is_the_same_twice():
    for method in (OURS, "DER 200"):
        runs = [run(method, METHODS[method].chosen, TINY, tasks_of(), SEED, CPU) for _ in range(2)]
        assert np.array_equal(runs[0].by_task.values, runs[1].by_task.values, equal_nan=True)


def test_an_accuracy_is_of_the_best_among_some_classes():
    scores = np.array([[1, 5, 3], [4, 9, 2], [0, 1, np.nan]], np.float32)
    assert accuracy(scores[:2], np.array([2, 0]), (0, 2)) == 1
    assert accuracy(scores[:2], np.array([2, 0]), (2, 1, 0)) == 0
    assert accuracy(scores[:2], np.array([2, 2]), (0, 2)) == 0.5
    assert np.isnan(accuracy(scores, np.array([0, 0, 0]), (0, 2)))


def test_peers_see_the_batches_that_learn_task_makes():
    task, seen = tasks_of()[0], []

    def spy(x, generator):
        seen.append(x.clone())
        return crop_and_flip(x, generator)

    ours = Prototypes(start(), METHODS_RECIPE)
    learn_task(ours.model, task.frames, task.labels, ours.recipe, views=spy)
    peer = Classifier(start())
    peer.tasks.append(list(task.classes))
    found = [b.frames for e in range(2) for b in peer.batches(task.frames, task.labels, e)]
    assert len(seen) == 2 * len(found) == 12
    for mine, theirs in zip(seen[::2], found, strict=True):
        assert torch.equal(mine, torch.from_numpy(theirs).float() / 255)


METHODS_RECIPE = start().recipe


def test_a_head_lets_its_own_classes_compete_only():
    logits, labels = torch.randn(5, 4), torch.tensor([3, 1, 1, 3, 1])
    by_loop = -sum(
        math.log(math.exp(row[k]) / (math.exp(row[1]) + math.exp(row[3])))
        for row, k in zip(logits.tolist(), labels.tolist(), strict=True)
    )
    assert head_loss(logits, labels, [3, 1]).item() == pytest.approx(by_loop / 5, rel=1e-5)


@pytest.mark.parametrize(
    ("setting", "heads"), [(TINY, [[2, 0], [1, 3]]), (ONES, [[2, 0, 1], [2, 0, 1, 3]])]
)
def test_with_one_class_a_task_all_seen_classes_compete(setting, heads):
    peer = Classifier(start())
    size = setting.classes_per_task
    peer.tasks = [[2, 0, 1, 3][k : k + size] for k in range(0, 4, size)]
    assert peer.heads == heads


def test_distillation_of_lwf_is_its_formula_and_the_teacher_stays():
    new, old = torch.randn(3, 4), torch.randn(3, 4)
    total = 0.0
    for head in ([2, 0], [1]):
        for a, b in zip(new.tolist(), old.tolist(), strict=True):
            mine, theirs = ([math.exp(row[k] / 2) for k in head] for row in (a, b))
            total -= sum(
                t / sum(theirs) * math.log(m / sum(mine)) for m, t in zip(mine, theirs, strict=True)
            )
    found = distillation(new, old, [[2, 0], [1]], 2.0)
    assert found.item() == pytest.approx(total / 3, rel=1e-5)

    first, second = tasks_of()
    peer = learnt(LwF(start(), 3.0), [first])
    before = copy.deepcopy(peer.network.state_dict())
    assert peer.teacher is None
    learnt(peer, [second])
    assert all(torch.equal(v, before[k]) for k, v in peer.teacher.state_dict().items())
    assert not torch.equal(peer.network[1].weight, peer.teacher[1].weight)


def test_fisher_information_is_the_mean_of_squared_gradients_and_ewc_adds_its_penalty():
    first, second = tasks_of()
    peer = learnt(EWC(start(), 5.0), [first])
    network, head = peer.network.eval(), list(first.classes)
    expected = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    for frame, label in zip(first.frames, first.labels, strict=True):
        logits = network(torch.from_numpy(frame)[None].float() / 255)[0, head]
        network.zero_grad()
        torch.log_softmax(logits, 0)[head.index(label)].backward()
        for name, p in network.named_parameters():
            expected[name] += p.grad**2 / len(first.frames)
    found = fisher_information(network, first.frames, first.labels, head, CPU)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-7)
        assert torch.equal(peer.fisher[name], found[name])

    network.train()
    peer.tasks.append(list(second.classes))
    batch = batch_of(peer, second)
    plain = Classifier.loss(peer, batch).item()
    assert peer.loss(batch).item() == pytest.approx(plain, rel=1e-5)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1)
    plain = Classifier.loss(peer, batch).item()
    penalty = 5 * sum(0.01 * value.sum().item() for value in found.values())
    assert peer.loss(batch).item() - plain == pytest.approx(penalty, rel=1e-3)


def test_a_reservoir_holds_each_item_as_often_as_any_other():
    counts = np.zeros(10)
    for seed in range(1500):
        memory = Reservoir(3, seed)
        for part in np.split(np.arange(10), [2, 7]):
            memory.offer(part, part * 10)
            assert len(memory) <= 3
        items, tens = memory.rows()
        assert len(set(items.tolist())) == 3 and (tens == 10 * items).all()
        counts[items] += 1
    assert abs(counts / 1500 - 0.3).max() < 0.05
    assert len(memory.draw(2)[0]) == 2 and len(memory.draw(9)[0]) == 3


@pytest.mark.parametrize("peer", [ER(start(), 10), DER(start(), 10, 0.3)], ids=["ER", "DER"])
def test_replay_stores_at_most_its_number_and_each_frame_with_its_own_label(peer):
    tasks = tasks_of()
    learnt(peer, tasks)
    frames, labels, *_ = peer.memory.rows()
    assert len(peer.memory) == len(labels) == 10
    assert peer.memory.offered == sum(len(task.labels) for task in tasks) * TINY.epochs
    whole = merged(tasks)
    for frame, label in zip(frames, labels, strict=True):
        assert label in whole.labels[(whole.frames == frame).all((1, 2, 3))]


def test_der_keeps_logits_as_its_formula_says():
    first, second = tasks_of()
    peer = learnt(DER(start(), 2, 0.3), [first])
    memory = copy.deepcopy(peer.memory)
    peer.tasks.append(list(second.classes))
    peer.network.eval()
    batch, state = batch_of(peer, second), peer.generator.get_state()
    found = peer.loss(batch).item()
    frames, _, stored = memory.draw(2)
    peer.generator.set_state(state)
    with torch.no_grad():
        replayed = peer.network(peer.augmented(frames)).tolist()
        own = head_loss(peer.network(batch.x), batch.labels, peer.seen).item()
    pairs = [
        pair
        for rows in zip(replayed, stored.tolist(), strict=True)
        for pair in zip(*rows, strict=True)
    ]
    distance = sum((a - b) ** 2 for a, b in pairs) / len(pairs)
    assert found == pytest.approx(own + 0.3 * distance, rel=1e-4)


def test_herding_takes_at_each_step_what_brings_the_mean_nearest():
    features = np.random.default_rng(0).random((12, 5)).astype(np.float32)
    chosen = []
    for _ in range(6):
        left = [k for k in range(12) if k not in chosen]
        means = [features[[*chosen, k]].mean(0) for k in left]
        gaps = [np.linalg.norm(features.mean(0) - mean) for mean in means]
        chosen.append(left[int(np.argmin(gaps))])
    assert herd(features, 6).tolist() == chosen
    assert sorted(herd(features, 99).tolist()) == list(range(12))


def test_icarl_shares_its_exemplars_among_classes_and_asks_the_teacher_about_old_ones():
    first, second = tasks_of()
    peer = learnt(ICaRL(start(), 9), [first])
    assert {k: len(v) for k, v in peer.exemplars.items()} == dict.fromkeys(first.classes, 4)
    learnt(peer, [second])
    assert {k: len(v) for k, v in peer.exemplars.items()} == dict.fromkeys(peer.seen, 2)
    whole = merged([first, second])
    for label, held in peer.exemplars.items():
        own = whole.frames[whole.labels == label]
        assert all((own == frame).all((1, 2, 3)).any() for frame in held)

    peer.network.eval()
    batch, total = batch_of(peer, second), 0.0
    with torch.no_grad():
        answers = torch.sigmoid(peer.network(batch.x)).tolist()
        teacher = torch.sigmoid(peer.teacher(batch.x)).tolist()
        for mine, theirs, label in zip(answers, teacher, batch.labels.tolist(), strict=True):
            for k in range(4):
                target = theirs[k] if k in first.classes else float(k == label)
                total -= target * math.log(mine[k]) + (1 - target) * math.log(1 - mine[k])
    assert peer.loss(batch).item() == pytest.approx(total / 8, rel=1e-4)


def test_nearest_means_are_those_of_when_a_class_was_learnt():
    first, second = tasks_of()
    peer = learnt(ContrastiveMeans(start()), [first])
    with torch.no_grad():
        features = peer.model.encoder(torch.from_numpy(first.frames).float() / 255)
    features = features / features.norm(dim=1, keepdim=True)
    label = min(first.classes)
    mean = features[torch.from_numpy(first.labels == label)].mean(0)
    torch.testing.assert_close(peer.model.prototypes[0][0].detach(), mean, rtol=1e-3, atol=1e-5)
    held = peer.model.prototypes[0].detach().clone()
    learnt(peer, [second])
    assert torch.equal(peer.model.prototypes[0], held)


def test_a_kept_run_comes_back_and_other_numbers_are_another_run(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tasks, numbers = tasks_of(), METHODS[OURS].chosen
    path = run_path(OURS, numbers, TINY, tasks, SEED, "cpu")
    assert kept(path) is None
    found = run(OURS, numbers, TINY, tasks, SEED, CPU)
    keep(path, found)
    again = kept(path)
    assert np.array_equal(again.by_class.values, found.by_class.values, equal_nan=True)
    assert again.seconds == found.seconds
    others = [
        run_path(OURS, {**numbers, "relation_weight": 3.0}, TINY, tasks, SEED, "cpu"),
        run_path(OURS, numbers, replace(TINY, epochs=3), tasks, SEED, "cpu"),
        run_path(OURS, numbers, TINY, tasks_of(seed=4), SEED, "cpu"),
        run_path(OURS, numbers, TINY, tasks, 4, "cpu"),
        run_path("LwF", numbers, TINY, tasks, SEED, "cpu"),
    ]
    assert len({path, *others}) == 6


def test_tables_and_goals_are_computed_from_matrices():
    ours, peer = (
        replace(
            run("fine-tuning", {}, TINY, tasks_of(), SEED, CPU),
            by_task=from_rows(rows), by_class=from_rows([[0.5], [0.1, 0.6]]), seconds=2.0,
        )
        for rows in ([[0.9], [0.8, 0.7]], [[0.9], [0.5, 0.9]])
    )  # fmt: skip
    columns, rows = table({OURS: [ours, peer]}, "by_task")
    cells = dict(zip(columns, rows[0], strict=True))
    assert cells["ACC"] == "72.5±2.5" and cells["F learnt"] == "25.0±15.0" and cells["FWT"] == "–"
    _, rows = goals([(TINY, {OURS: [ours], "LwF": [peer], "ER 200": [peer], "ER 500": [peer]})])
    assert rows == [
        ["2 x 2, task-incremental", "LwF", "+5.0", "+5.0", "met"],
        ["2 x 2, task-incremental", "ER 200", "+5.0", "+5.0", "met"],
        ["2 x 2, class-incremental", "LwF", "+0.0", "+0.0", "missed"],
    ]
    assert course(ours.by_task) == pytest.approx([0.9, 0.75])
    tried = [command.Tried("LwF", numbers, ours) for numbers in METHODS["LwF"].variants()]
    assert [row[-1] for row in sweep_table(tried)[1]] == ["chosen", "", ""]


@pytest.fixture
def invoked(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGEMEM_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def invoke(*words):
        monkeypatch.setattr(sys, "argv", ["class_incremental", *words])
        command.main()
        return tmp_path

    return invoke


def test_one_command_writes_page_pictures_matrices_and_figures(invoked, monkeypatch, capsys):
    monkeypatch.setattr(command, "load", lambda folder, name: DATA)
    monkeypatch.setattr(command, "FIVE", TINY)
    monkeypatch.setattr(command, "TEN", ONES)
    folder = invoked("--methods", "PRD", "LwF", "joint", "--seeds", "2", "--out", "out")
    page = (folder / "out" / "class-incremental-results.md").read_text()
    assert "## 4 x 1 classes, class-incremental" in page and "## Numbers tried" in page
    assert "4 x 1 classes, task-incremental" not in page
    assert "Goals" in capsys.readouterr().out
    assert len(list((folder / "out" / "results").glob("*.png"))) == 3
    matrices = list((folder / "results" / "class-incremental").glob("*-seed-1.by-class.json"))
    assert len(matrices) == 6 and all(read_accuracy(path).tasks in (1, 2, 4) for path in matrices)
    found = json.loads((folder / "results" / "class-incremental.json").read_text())
    assert len(found["results"]) == 2 and len(found["sweep"]) == 8
    invoked("--methods", "PRD", "--seeds", "1", "--settings", "4 x 1")
    found = json.loads((folder / "results" / "class-incremental.json").read_text())
    assert [one["name"] for one in found["results"]] == ["4 x 1"]
    with pytest.raises(SystemExit):
        invoked("--settings", "3 x 3")
    assert "unknown setting '3 x 3'" in capsys.readouterr().err


def test_it_is_skipped_aloud_without_data_and_the_long_setting_without_a_gpu(
    invoked, monkeypatch, capsys
):
    invoked("--quick")
    assert "skipped: no cifar10 in the benchmark data" in capsys.readouterr().out
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    invoked("--long")
    assert "skipped: --long needs a GPU" in capsys.readouterr().out


def test_other_data_sets_are_read_from_two_files(tmp_path):
    (tmp_path / "made").mkdir()
    assert load(tmp_path, "made") is None
    for part, (x, y) in zip(("train", "test"), DATA, strict=True):
        np.savez(tmp_path / "made" / f"{part}.npz", x=x, y=y)
    for found, expected in zip(load(tmp_path, "made"), DATA, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
