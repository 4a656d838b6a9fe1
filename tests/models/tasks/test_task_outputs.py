"""Tasks other than classes: what fits them, and what is taken of their outputs."""

import re

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from scipy.stats import entropy
from task_networks import (
    NETWORKS,
    Detector,
    Embedding,
    MultiLabel,
    Recogniser,
    Regression,
    UNet,
    lively,
)
from torch import nn

from edgemem.bundle.manifest import TASKS, OutputSpec
from edgemem.errors import AttachError, InputError
from edgemem.models import attach, warm_up
from edgemem.models.checkpoints.adaptive_checkpoint import load_adaptive, save_adaptive
from edgemem.models.tasks.recognised_task import recognised_task
from edgemem.models.tasks.task_outputs import Task, fitting, logit_rows, summary


def example(task):
    return torch.rand(4, *NETWORKS[task][1], generator=torch.Generator().manual_seed(0))


def adaptive(task, network=None, **options):
    made = lively(NETWORKS[task][0]()) if network is None else network
    return attach(made, [], example(task), statistics="remembered", task=task, **options), made


def test_all_lists_of_tasks_are_the_same():
    assert Task.__args__ == TASKS


@pytest.mark.parametrize("task", NETWORKS)
def test_at_rest_every_output_is_that_of_the_given_model(task):
    model, network = adaptive(task)
    x = torch.rand(5, *NETWORKS[task][1])
    with torch.no_grad():
        own, found = network(x), model.with_block(
            {name: torch.zeros_like(value) for name, value in model.block().items()}, x
        )  # fmt: skip
    own = own if isinstance(own, dict) else {"out0": own}
    assert list(found.named) == list(own)
    for name, value in own.items():
        torch.testing.assert_close(found.named[name], value, rtol=1e-5, atol=1e-5)
    assert model.attachment.task == task
    assert set(model.remembered()) > {"remembered_frames"}
    assert not {"remembered_prior", "remembered_evenness"} & set(model.block())


@pytest.mark.parametrize("task", sorted(set(NETWORKS) - {"regression", "embedding", "multilabel"}))
def test_what_cannot_be_told_by_its_shape_asks_for_the_task_and_names_it(task):
    with pytest.raises(AttachError, match=f"Name its task.*'{task}'.* would fit"):
        attach(lively(NETWORKS[task][0]()), [], example(task), norm_affine=True)


def test_every_task_named_by_the_error_is_taken():
    network = lively(UNet(1))
    with pytest.raises(AttachError) as caught:
        attach(network, [], example("dense"), norm_affine=True)
    options = re.findall(r"'(\w+)'", caught.value.remedy.split("attach")[1])
    assert options == ["dense", "detection", "regression", "reconstruction"]
    for task in options:
        model, _ = adaptive("dense", network)
        model = attach(network, [], example("dense"), norm_affine=True, task=task)
        assert model.attachment.task == task


def test_sigmoids_of_many_labels_name_their_task():
    network = lively(MultiLabel(end=nn.Sigmoid()))
    with pytest.raises(AttachError, match="multi-label.*--task multilabel"):
        attach(network, [], example("multilabel"), norm_affine=True)


@pytest.mark.parametrize(
    ("task", "network", "reason"),
    [
        ("dense", Regression(3), r"needs \[n, classes, h, w\].*returns out0 \[n, 3\].*Use "),
        ("sequence", UNet(), r"needs \[n, t, classes\].*Use dense"),
        ("reconstruction", UNet(2), r"needs \[n, 1, 8, 8\], as the frames have"),
        ("multilabel", UNet(), r"needs \[n, numbers\]"),
        ("embedding", Detector(), r"boxes \[n, 16, 4\], scores \[n, 16, 2\]"),
        ("poses", Regression(), "'poses': is not a known choice.*regression"),
    ],
)
def test_a_task_that_does_not_fit_the_outputs_is_refused(task, network, reason):
    with pytest.raises(AttachError, match=reason):
        attach(lively(network), [], example("dense"), norm_affine=True, task=task)


def test_named_outputs_of_classes_say_what_else_they_could_be():
    with pytest.raises(AttachError, match="not logits"):
        attach(lively(Detector()), [], example("detection"), norm_affine=True, task="classes")


def test_outputs_of_classes_go_with_no_other_task():
    with pytest.raises(AttachError, match="are of classes, not of dense"):
        attach(lively(UNet()), [], example("dense"), task="dense", outputs="logits")


def test_frames_that_see_each_other_are_refused_for_every_output():
    class Mixed(Regression):
        def forward(self, x):
            y = super().forward(x)
            return y, y - y.mean(0)

    with pytest.raises(AttachError, match="answers a frame otherwise beside other frames"):
        attach(lively(Mixed()), [], example("regression"), norm_affine=True, task="regression")


def test_a_number_for_each_frame_may_come_without_an_axis():
    model, network = adaptive("regression", lively(Regression(bare=True)))
    assert model.attachment.named == (OutputSpec("out0", ()),)
    x = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        assert summary_of(model, x)[:, 0].equal(network(x))


def summary_of(model, x):
    attachment = model.attachment
    with torch.no_grad():
        found = model.untouched_outputs(x)
        return summary(attachment.task, model.attachment.scale, found, attachment.named)


def check_summary(model, x, means, entropies):
    """Numbers of classes [n, k], and after them the mean of entropies [n, ...]."""
    found = summary_of(model, x).numpy()
    np.testing.assert_allclose(found[:, :-1], means, rtol=1e-5)
    np.testing.assert_allclose(found[:, -1], entropies.reshape(len(x), -1).mean(1), rtol=1e-4)


def rows_of(model, x):
    with torch.no_grad():
        return model.untouched_logits(x)


def run(network, x):
    with torch.no_grad():
        return network(x).numpy()


def test_dense_rows_and_summary_are_those_of_all_positions():
    model, network = adaptive("dense")
    x = torch.rand(5, 1, 8, 8)
    own = run(network, x)  # [5, 3, 8, 8]
    expected = np.stack([own[n, :, i, j] for n in range(5) for i in range(8) for j in range(8)])
    np.testing.assert_array_equal(rows_of(model, x), expected)
    check_summary(model, x, softmax(own, 1).mean((2, 3)), entropy(softmax(own, 1), axis=1))


def test_of_one_channel_a_position_is_one_of_two_classes():
    model, network = adaptive("dense", lively(UNet(1)))
    x = torch.rand(5, 1, 8, 8)
    own = run(network, x)[:, 0]
    np.testing.assert_allclose(softmax(rows_of(model, x), 1)[:, 1], expit(own).ravel(), rtol=1e-5)
    doubt = entropy(np.stack([expit(own), expit(-own)]), axis=0)
    check_summary(model, x, expit(own).mean((1, 2))[:, None], doubt)


@pytest.mark.parametrize("time_first", [False, True])
def test_sequences_have_a_row_for_each_step_of_each_frame(time_first):
    model, network = adaptive("sequence", lively(Recogniser(time_first=time_first)))
    x = torch.rand(6, 4, 20)
    own = run(network, x)
    own = own.transpose(1, 0, 2) if time_first else own
    assert model.attachment.named[0].axis == int(time_first)
    np.testing.assert_allclose(rows_of(model, x), own.reshape(-1, 5), atol=1e-6)
    check_summary(model, x, softmax(own, 2).mean(1), entropy(softmax(own, 2), axis=2))


@pytest.mark.parametrize(
    ("task", "network", "plain"),
    [
        ("dense", UNet(3, nn.Softmax(1)), UNet(3)),
        ("dense", UNet(1, nn.Sigmoid()), UNet(1)),
        ("sequence", Recogniser(5, end=nn.Softmax(2)), Recogniser(5)),
        ("sequence", Recogniser(5, end=nn.LogSoftmax(2)), Recogniser(5)),
        ("multilabel", MultiLabel(end=nn.Sigmoid()), MultiLabel()),
    ],
)
def test_probabilities_have_the_rows_and_the_summary_of_their_logits(task, network, plain):
    model, _ = adaptive(task, lively(network))
    other, _ = adaptive(task, lively(plain))
    x = torch.rand(5, *NETWORKS[task][1])
    found, expected = (torch.log_softmax(rows_of(m, x), 1) for m in (model, other))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(summary_of(model, x), summary_of(other, x), rtol=1e-4, atol=1e-5)
    scale = "logits" if isinstance(network.end, nn.LogSoftmax) else "probabilities"
    assert model.attachment.scale == scale


def test_labels_are_rows_of_two_classes():
    model, network = adaptive("multilabel")
    x = torch.rand(5, 1, 8, 8)
    own = run(network, x)
    np.testing.assert_allclose(softmax(rows_of(model, x), 1)[:, 1], expit(own).ravel(), rtol=1e-5)
    check_summary(model, x, expit(own), entropy(np.stack([expit(own), expit(-own)]), axis=0))


def test_many_numbers_are_summed_up_by_means_of_neighbours():
    model, network = adaptive("embedding", lively(Embedding(300)))
    x = torch.rand(5, 1, 8, 8)
    np.testing.assert_allclose(
        summary_of(model, x), run(network, x).reshape(5, 150, 2).mean(2), rtol=1e-5, atol=1e-7
    )
    specs = (OutputSpec("a", (1000,)), OutputSpec("b", (2,), 1))
    found = {"a": torch.arange(1000.0).repeat(3, 1), "b": torch.rand(2, 3)}
    told = summary("regression", "logits", found, specs)
    eight = np.arange(1000).reshape(125, 8).mean(1)  # at most 128 for each of two outputs
    np.testing.assert_allclose(told, np.concatenate([np.tile(eight, (3, 1)), found["b"].T], 1))


def test_a_detector_has_four_numbers_of_each_output():
    model, network = adaptive("detection")
    x = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        outputs = [value.flatten(1).numpy() for value in network(x).values()]
    expected = [
        f(v) for v in outputs for f in (
            lambda v: v.mean(1), lambda v: np.abs(v - v.mean(1, keepdims=True)).mean(1),
            lambda v: v.min(1), lambda v: v.max(1),
        )
    ]  # fmt: skip
    np.testing.assert_allclose(summary_of(model, x), np.stack(expected, 1), rtol=1e-4, atol=1e-5)
    assert not len(rows_of(model, x))


def test_tasks_without_classes_have_no_rows():
    found = {"out0": torch.rand(3, 2)}
    specs = (OutputSpec("out0", (2,)),)
    assert logit_rows("regression", "logits", found, specs).shape == (0, 0)
    assert fitting(specs, (1, 8, 8)) == [
        "classes",
        "multilabel",
        "detection",
        "regression",
        "embedding",
    ]


def test_a_checkpoint_keeps_the_task(tmp_path):
    model, network = adaptive("sequence", lively(Recogniser(5, True, nn.Softmax(2))))
    save_adaptive(model, tmp_path / "net.safetensors", {})
    again, _ = load_adaptive(tmp_path / "net.safetensors", network)
    assert again.attachment == model.attachment
    x = torch.rand(3, 4, 20)
    assert rows_of(again, x).equal(rows_of(model, x))


def test_a_warm_up_needs_classes():
    model, _ = adaptive("regression")
    with pytest.raises(InputError, match="'regression': has no classes"):
        warm_up(model, np.zeros((64, 1, 8, 8), np.float32), np.zeros(64, np.int64))


def test_as_many_numbers_as_the_frames_have_may_be_the_frames_again():
    network, x = nn.Linear(6, 6), torch.rand(4, 6)
    with pytest.raises(AttachError, match="cannot be told by its shape.*'reconstruction'"):
        recognised_task(network, x, "auto")
    assert recognised_task(network, x, "classes").task == "classes"
