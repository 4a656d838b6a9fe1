"""When an export fails: a clear error, no bundle, nothing left behind, the old bundle untouched."""

import copy
import errno
import math
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_network import Brighter, Small
from torch import nn

from edgemem.bundle.manifest_checks import MOST_FRAME_BYTES
from edgemem.bundle.opening import open_bundle
from edgemem.errors import AttachError, ExportError, InputError
from edgemem.export import Choices, export_bundle
from edgemem.export.checks.parity import STEPS
from edgemem.export.checks.parity_result import Parity, adapted_tolerance
from edgemem.export.choices import check_choices
from edgemem.export.lowering import convolution
from edgemem.models import attach
from edgemem.models.networks.digits import Digits

FULL = Choices(batch=8, gradient="full", learn="all", objective="ecotta")
RIGHT = Parity(
    frozen=1e-7,
    predict=0.0,
    first_step=1e-6,
    worst_output="logits",
    slots=9e-4,
    batches=1,
    after_steps=9e-5,
    steps=STEPS,
    updated=STEPS,
    predict_equals_adapt=True,
    adapted=2e-4,
    adapted_limit=3e-4,
    rounding=1e-7,
)


@pytest.fixture(scope="module")
def tiny(lively, warmed):
    """keyword arguments of attach -> a warm adaptive model."""

    def make(network=None, parts=("layer1",), **options):
        network = lively(network or Digits(width=4))
        return warmed(attach(network, parts, torch.zeros(2, 1, 8, 8), **options))

    return make


def fingerprint(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["weight_gradient", "input_gradient"])
def test_a_backward_rule_that_is_one_percent_off_is_caught(rule, tiny, tmp_path, monkeypatch):
    right = getattr(convolution, rule)
    monkeypatch.setattr(convolution, rule, lambda *arguments: 1.01 * right(*arguments))
    model = tiny(parts=("layer1.1",))
    with pytest.raises(ExportError, match="onnxruntime and torch differ by"):
        export_bundle(
            model,
            tmp_path / "net.edgemem",
            Choices(batch=8, gradient="full", learn="all", objective="ecotta"),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_branches_on_values_is_refused_with_the_reason(tiny, tmp_path):
    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else 2 * x

    network = Small()
    network.stem.append(Branch())
    with pytest.raises(ExportError, match="cannot be traced"):
        export_bundle(tiny(network), tmp_path / "net.edgemem", Choices(batch=8))
    assert list(tmp_path.iterdir()) == []


def test_an_operator_that_onnx_does_not_have_is_named(tiny, tmp_path):
    class Bessel(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    network = Small()
    network.stem.append(Bessel())
    with pytest.raises(ExportError, match=r"operator prims\.bessel_j0 has no ONNX form"):
        export_bundle(tiny(network), tmp_path / "net.edgemem", Choices(batch=8))
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_draws_random_numbers_is_refused(tiny):
    class Noise(nn.Module):
        def forward(self, x):
            return nn.functional.dropout(x, 0.1, training=True)

    network = Digits(width=4)
    network.layer2.append(Noise())
    with pytest.raises(AttachError, match="draws random numbers"):
        tiny(network)


def fail_with(code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    return fail


def limited_files(patch):
    """As on a full disk: no file grows beyond 2 KB, less than any graph."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def full_disk(patch):
    patch.setattr(os, "fsync", fail_with(errno.ENOSPC))


def failing_rename(patch):
    """The disk fails when the finished bundle is put in its place."""
    rename, failures = Path.rename, []

    def fail(self, target):
        if Path(target).name == "net.edgemem" and not failures:
            failures.append(target)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    patch.setattr(Path, "rename", fail)


@pytest.mark.parametrize("disaster", [limited_files, full_disk, failing_rename])
@pytest.mark.parametrize("existing", [False, True], ids=["new", "over an old bundle"])
def test_a_failing_disk_leaves_what_was_there(disaster, existing, instant, tmp_path, monkeypatch):
    path = tmp_path / "net.edgemem"
    if existing:
        shutil.copytree(instant.path, path)
    before = fingerprint(tmp_path)
    restore = disaster(monkeypatch)
    try:
        with pytest.raises(InputError, match=r"net\.edgemem.*cannot be written"):
            export_bundle(instant.model, path, FULL)
    finally:
        monkeypatch.undo()
        if restore:
            restore()
    assert fingerprint(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["net.edgemem"] * existing
    if existing:
        open_bundle(path)


def test_an_interrupt_leaves_the_old_bundle(instant, tmp_path):
    path = shutil.copytree(instant.path, tmp_path / "net.edgemem")
    before = fingerprint(tmp_path)

    def stop(stage):
        if stage == "comparing with torch":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_bundle(instant.model, path, Choices(batch=8), report=stop)
    assert fingerprint(tmp_path) == before


def rate_of(path):
    return open_bundle(path).manifest.hyper_parameters["learning_rate"].default


def test_an_old_bundle_is_replaced_when_all_went_well(instant, tmp_path):
    path = shutil.copytree(instant.path, tmp_path / "net.edgemem")
    assert rate_of(path) != 0.25
    export_bundle(instant.model, path, replace(FULL, learning_rate=0.25))
    assert rate_of(path) == 0.25
    assert [p.name for p in tmp_path.iterdir()] == ["net.edgemem"]


@pytest.mark.parametrize("folder", ["/proc", "missing"])
def test_a_folder_that_cannot_be_written_is_named(folder, instant, tmp_path):
    with pytest.raises(InputError, match=r"net\.edgemem.*cannot be written"):
        export_bundle(instant.model, tmp_path / folder / "net.edgemem", FULL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["file", "folder"])
def test_what_is_not_a_bundle_is_never_replaced(content, instant, tmp_path):
    path = tmp_path / "photos"
    if content == "folder":
        path.mkdir()
    (path / "cat.txt" if content == "folder" else path).write_text("dear")
    with pytest.raises(InputError, match="exists and is not a bundle"):
        export_bundle(instant.model, path, FULL)
    assert [p.read_text() for p in tmp_path.rglob("*") if p.is_file()] == ["dear"]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (Choices(batch=1), "batch 1.*too small"),
        (Choices(labels=("n" * 1025, *"123456789")), "label 'nnn.*more than 1,024 characters"),
        (Choices(gradient="half"), "gradient 'half'.*Use full or meta"),
        (Choices(objective="rotta"), "objective 'rotta'.*Use alignment or ecotta"),
        (Choices(learn="some"), "learn 'some'.*Use all or norms"),
        (Choices(optimizer="lion"), "optimizer 'lion'.*Use sgd or adam"),
        (Choices(labels=("yes", "no")), "2 names for 10 classes"),
        (Choices(hyper_parameters={"rate": 1.0}), "hyper-parameter 'rate'.*learning_rate"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_choices_are_named_before_anything_is_traced(choices, message, tiny, tmp_path):
    with pytest.raises(ExportError, match=message):
        export_bundle(tiny(), tmp_path / "net.edgemem", choices)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_no_manifest_may_have_is_named_at_once(tiny):
    model = tiny()
    values = math.prod(model.attachment.input_shape)
    with pytest.raises(ExportError, match="Use a smaller one"):
        check_choices(model, Choices(batch=MOST_FRAME_BYTES // 8 // values + 1))


def test_the_meta_gradient_cannot_train_the_affine_pairs(tiny, tmp_path):
    with pytest.raises(ExportError, match=r"BN affine pairs.*--gradient full"):
        export_bundle(tiny(norm_affine=True), tmp_path / "net.edgemem", Choices(gradient="meta"))


def test_a_model_without_anything_that_adapts_is_refused(tiny, tmp_path):
    with pytest.raises(ExportError, match="no array that adapts"):
        export_bundle(tiny(parts=()), tmp_path / "net.edgemem", Choices(gradient="meta"))


def test_a_graph_that_is_not_the_network_is_refused_on_frames_of_its_source(instant, tmp_path):
    """The graphs are those of another network, which differs for bright frames alone."""
    network = copy.deepcopy(instant.network)
    network.stem.insert(0, Brighter())
    network = network.eval()
    model = attach(network, ["layer1"], torch.zeros(2, 1, 8, 8))
    model.meta.load_state_dict(instant.model.meta.state_dict())
    model.mark_warm()
    choices = Choices(batch=8, gradient="full", learn="all", objective="ecotta")
    model.source_frames = torch.rand(9, 1, 8, 8)
    assert export_bundle(model, tmp_path / "same.edgemem", choices).frozen < 1e-5
    model.source_frames = 4 * torch.rand(9, 1, 8, 8)
    with pytest.raises(ExportError, match="frozen outputs"):
        export_bundle(model, tmp_path / "other.edgemem", choices)


@pytest.mark.parametrize(
    "field", ["frozen", "predict", "first_step", "slots", "after_steps", "adapted"]
)
@pytest.mark.parametrize("value", [2e-3, float("inf"), float("nan")])
def test_parity_refuses_every_figure_above_its_limit(field, value):
    RIGHT.check()
    with pytest.raises(ExportError, match="limit"):
        replace(RIGHT, **{field: value}).check()


@pytest.mark.parametrize(
    ("rounding", "limit"), [(0.0, 1e-5), (1e-6, 1e-5), (1e-5, 8e-5), (1.0, 1e-3)]
)
def test_a_network_that_rounds_much_itself_gets_more_room(rounding, limit):
    given = replace(RIGHT, rounding=rounding)
    replace(given, frozen=0.99 * limit).check()
    for field in ("frozen", "predict", "first_step"):
        with pytest.raises(ExportError, match="limit"):
            replace(given, **{field: 1.01 * limit}).check()


@pytest.mark.parametrize(
    ("rounding", "moved", "limit"),
    [(0.0, 0.0, 1e-4), (3e-5, 0.0, 2.4e-4), (0.0, 1e-3, 8e-3), (0.0, 1.0, 5e-2)],
)
def test_answers_after_a_step_have_the_room_that_torch_itself_takes(rounding, moved, limit):
    assert adapted_tolerance(rounding, moved) == pytest.approx(limit)


def test_parity_refuses_a_comparison_in_which_nothing_moved():
    with pytest.raises(ExportError, match="no step changed the block"):
        replace(RIGHT, updated=0).check()
