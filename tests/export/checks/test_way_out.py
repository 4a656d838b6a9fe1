"""Where a step cannot be traced: the remedy that is named is one that works."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgemem.errors import ExportError
from edgemem.export import Choices, export_bundle
from edgemem.export.checks import way_out
from edgemem.export.choices import frame_spec, functions_of
from edgemem.export.lowering import table
from edgemem.export.tracing.trace import traced
from edgemem.models import attach

UNKNOWN = torch.ops.aten.upsample_bilinear2d_backward.default


class Warp(nn.Module):
    """A layer without a backward rule, once that is taken away."""

    def forward(self, x):
        return F.max_pool2d(F.interpolate(x, scale_factor=2, mode="bilinear"), 2)


@pytest.fixture(autouse=True)
def without_a_rule(monkeypatch):
    monkeypatch.delitem(table.RULES, UNKNOWN)


def part(inputs, outputs, *more, norm=nn.BatchNorm2d):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), norm(outputs), nn.ReLU(), *more)


class Network(nn.Module):
    """Two parts; the warp is within the second, between both, or behind them."""

    def __init__(self, place, norm=nn.BatchNorm2d):
        super().__init__()
        self.first = part(1, 4, norm=norm)
        self.between = Warp() if place == "between" else nn.Identity()
        self.second = part(4, 4, *([Warp()] if place == "within" else []), norm=norm)
        self.behind = Warp() if place == "behind" else nn.Identity()
        self.classifier = nn.Linear(4, 3)

    def forward(self, x):
        x = self.behind(self.second(self.between(self.first(x))))
        return self.classifier(x.mean((2, 3)))


@pytest.fixture
def make(lively, warmed):
    """place, parts, statistics -> a warm adaptive model."""

    def model(place, parts, statistics="mix", norm_affine=False):
        network = lively(Network(place))
        x = torch.zeros(2, 1, 6, 6)
        adaptive = attach(network, parts, x, statistics=statistics, norm_affine=norm_affine)
        return warmed(adaptive) if parts else adaptive

    return model


BOTH = ["first", "second"]
CASES = {
    "within a part": ("within", BOTH, "full", "mix", "second.3", "Use --gradient meta without"),
    "before a part": (
        "between",
        BOTH,
        "full",
        "mix",
        "between",
        "--gradient meta, .*--parts second$",
    ),
    "with meta": ("between", BOTH, "meta", "mix", "between", "--gradient meta, .*--parts second$"),
    "behind all parts": ("behind", BOTH, "full", "mix", "behind", "Warm up with --statistics rem"),
    "remembering": ("behind", BOTH, "meta", "remembered", "behind", "^Use --objective statistics"),
    "no parts": ("between", [], "full", "mix", "between", "Warm up with --statistics remembered"),
}


SLOW = ("before a part", "behind all parts", "no parts")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in CASES]
)
def test_the_operator_its_module_and_a_way_out_are_named(name, make, monkeypatch):
    place, parts, gradient, statistics, module, remedy = CASES[name]
    model = make(place, parts, statistics, norm_affine=not parts)
    monkeypatch.setattr(way_out, "to_onnx", lambda function: None)
    choices = Choices(batch=4, gradient=gradient)
    arguments = model, choices, frame_spec(model, choices)
    functions, _ = functions_of(*arguments)
    with pytest.raises(way_out.Untraceable) as caught:
        traced(functions["adapt"], portable=False)
    learned = list(model.learned())
    found = way_out.with_way_out(caught.value, "adapt", *arguments, None)
    assert found.thing == f"operator aten.upsample_bilinear2d_backward.default in {module!r}"
    assert found.reason == "has no backward rule here"
    assert re.search(remedy, found.remedy)
    assert list(model.learned()) == learned


def test_a_model_that_can_remember_nothing_is_not_told_to(lively):
    """With a GroupNorm alone there is no key, so statistics are no way out."""
    network = lively(Network("behind", lambda channels: nn.GroupNorm(2, channels)))
    model = attach(network, [], torch.zeros(2, 1, 6, 6), norm_affine=True)
    choices = Choices(batch=4)
    frames = frame_spec(model, choices)
    with pytest.raises(way_out.Untraceable) as caught:
        traced(functions_of(model, choices, frames)[0]["adapt"], portable=False)
    found = way_out.with_way_out(caught.value, "adapt", model, choices, frames, None)
    assert found.remedy == "Write that layer in other operators: a step has to cross it"


FOLLOWED = {
    "meta": ("within", BOTH, "mix", Choices(batch=4, gradient="meta")),
    "fewer parts": ("between", ["second"], "mix", Choices(batch=4, gradient="meta")),
    "statistics": ("behind", BOTH, "remembered", Choices(batch=4, objective="statistics")),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLLOWED)
def test_following_the_remedy_works(name, make, tmp_path):
    place, parts, statistics, choices = FOLLOWED[name]
    export_bundle(make(place, parts, statistics), tmp_path / "net.edgemem", choices).check()


@pytest.mark.slow
def test_an_export_says_it_and_writes_nothing(make, tmp_path):
    model = make("within", BOTH)
    with pytest.raises(ExportError, match=r"in 'second\.3': has no backward rule.*--gradient meta"):
        export_bundle(model, tmp_path / "net.edgemem", Choices(batch=4))
    assert list(tmp_path.iterdir()) == []


def test_a_layer_that_no_graph_has_is_named_and_meta_is_no_remedy(make):
    model = make("within", BOTH)
    error = way_out.Untraceable(
        "model", "cannot be traced (aten.upsample_bilinear2d)", "Write it so"
    )
    choices = Choices(batch=4)
    found = way_out.with_way_out(error, "predict", model, choices, frame_spec(model, choices), None)
    assert (found.thing, found.remedy) == ("model in 'second.3'", "Write it so")
