"""`attach`: which parts it takes, which it refuses and why."""

import pytest
import torch
from torch import nn

from edgemem.errors import AttachError
from edgemem.models import Form, attach
from edgemem.models.adaptive.parts import split_parts
from edgemem.models.networks import conv1d, digits, resnet20


class Branches(nn.Module):
    """Parts of every inconvenient kind."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.adder = Adder()
        self.keyword = Keyword()
        self.masked = Masked()
        self.pair = Pair()
        self.again = nn.ReLU()
        self.unused = nn.Conv2d(8, 8, 1)
        self.vectors = nn.Flatten()
        self.narrow = nn.Conv2d(8, 8, 3)
        self.classifier = nn.Linear(8, 4)

    def forward(self, x):
        x = self.again(self.again(self.stem(x)))
        x, _ = self.pair(self.keyword(x=self.adder(x, x)))
        x = self.masked(x, mask=x > 0)
        return self.classifier(self.vectors(self.narrow(x).mean((2, 3), keepdim=True)))


class Adder(nn.Module):
    def forward(self, x, y):
        return x + y


class Keyword(nn.Module):
    def forward(self, *, x):
        return x


class Masked(nn.Module):
    def forward(self, x, mask=None):
        return x if mask is None else x * mask


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def refusal(parts, network=None, frames=None, **options):
    """The error of attaching to `parts`."""
    example = torch.zeros(2, 3, 8, 8) if frames is None else frames
    with pytest.raises(AttachError) as caught:
        attach(network or Branches(), parts, example, **options)
    return caught.value


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ("adder", "takes (Tensor, Tensor), not exactly one tensor"),
        ("keyword", "takes (x=Tensor), not one tensor, by position"),
        ("masked", "takes (Tensor, mask=Tensor), not one tensor, by position"),
        ("pair", "returns (tuple), not exactly one tensor"),
        ("again", "runs more than once"),
        ("unused", "does not run"),
        ("vectors", "needs [n, c, …] maps"),
        ("narrow", "maps size 8 to 6, which no stride does"),
    ],
)
def test_a_part_that_cannot_have_a_meta_network_is_named_with_the_reason(part, reason):
    error = refusal([part])
    assert error.thing == f"part {part!r}"
    assert reason in error.reason
    assert error.remedy


@pytest.mark.parametrize(
    ("part", "nearest"),
    [("layer4", "layer1"), ("layer1.5", "layer1.2"), ("laier2[0:2]", "layer2"), ("", "conv1")],
)
def test_an_unknown_part_lists_the_nearest_names(part, nearest):
    error = refusal([part], resnet20(), torch.zeros(2, 3, 32, 32))
    assert "no such module" in error.reason
    assert nearest in error.remedy.removeprefix("Nearest names: ").split(", ")


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ("layer1[0:4]", "has 3 modules"),
        ("layer1[2:2]", "has 3 modules"),
        ("layer1[2:1]", "has 3 modules"),
        ("layer1[3:]", "has 3 modules"),
        ("layer1.0[0:1]", "is a BasicBlock, not a Sequential"),
        ("layer1[0]", "no such module"),
        ("layer1[-1:]", "no such module"),
        ("layer1[0:2:1]", "no such module"),
    ],
)
def test_a_wrong_range_is_refused(part, reason):
    assert reason in refusal([part], resnet20(), torch.zeros(2, 3, 32, 32)).reason


@pytest.mark.parametrize(
    "parts",
    [
        ["layer1", "layer1.1"],
        ["layer1.1", "layer1"],
        ["layer1", "layer1[0:3]"],
        ["layer1[0:2]", "layer1[1:3]"],
        ["layer1[0:2]", "layer1.0"],
        ["layer1.1.conv1", "layer1[0:2]"],
        ["layer2", "layer2"],
    ],
)
def test_parts_inside_one_another_are_refused(parts):
    error = refusal(parts, resnet20(), torch.zeros(2, 3, 32, 32))
    assert "lies inside part" in error.reason
    assert all(repr(part) in str(error) for part in parts)


@pytest.mark.parametrize(
    ("text", "same"),
    [("layer1[:]", "layer1"), ("layer1[:3]", "layer1"), ("layer1[0:]", "layer1")],
)
def test_open_ranges_run_to_the_ends(text, same, lively, warmed):
    network, x = lively(resnet20()), torch.rand(2, 3, 32, 32)
    one, other = (warmed(attach(network, [part], x)) for part in (text, same))
    with torch.no_grad():
        assert one(x).logits.equal(other(x).logits)


def test_the_order_in_which_parts_are_named_does_not_matter(lively):
    network, x = lively(resnet20()), torch.rand(2, 3, 32, 32)
    names = ["layer3", "layer1", "layer2"]
    model = attach(network, names, x)
    assert model.attachment.parts == tuple(names)
    output = model(x)
    shapes = {n: p.shape for n, p in model.block().items() if n.endswith("convolution.weight")}
    assert [tuple(shapes[f"meta.layer{i}.convolution.weight"][:2]) for i in (1, 2, 3)] == [
        (16, 16),
        (32, 16),
        (64, 32),
    ]
    assert len(output.distances) == 3


def test_parts_on_the_command_line_are_separated_by_commas():
    assert split_parts(" layer1, layer3[0:3],,features.0 ") == [
        "layer1",
        "layer3[0:3]",
        "features.0",
    ]
    assert split_parts("") == []


def test_a_norm_without_running_statistics_is_refused():
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert "keeps no running statistics" in refusal(["0"], network).reason


@pytest.mark.parametrize("statistics", ["running", -0.1, 1.5, float("nan"), None, [0.5]])
def test_unknown_statistics_are_refused(statistics):
    error = refusal(["layer1"], digits(), torch.zeros(2, 1, 8, 8), statistics=statistics)
    assert repr(statistics) in error.thing


@pytest.mark.parametrize(
    ("statistics", "alpha"), [("source", None), ("batch", 1.0), ("mix", 0.5), (0.2, 0.2), (0, 0.0)]
)
def test_statistics_set_the_weight_of_the_batch(statistics, alpha):
    model = attach(digits(), ["layer1"], torch.zeros(2, 1, 8, 8), statistics=statistics)
    assert model.alpha(16) == alpha
    if statistics == "mix":
        assert model.alpha(200) == 200 / 216  # the source counts as sixteen frames


def test_a_network_that_returns_no_row_of_logits_is_named():
    error = refusal([], digits().stem, torch.zeros(2, 1, 8, 8))
    assert "cannot be told by its shape" in error.reason
    assert "'dense' or " in error.remedy


@pytest.mark.parametrize(
    ("network", "frames", "reason"),
    [
        (resnet20(), torch.zeros(2, 1, 32, 32), "refuses it"),
        (conv1d(), torch.zeros(2, 6, 16, 2), "refuses it"),
    ],
    ids=["channels", "rank"],
)
def test_an_example_that_the_network_refuses_is_named(network, frames, reason):
    error = refusal([], network, frames)
    assert error.thing == f"example input {list(frames.shape)}"
    assert reason in error.reason


def test_forms_that_make_no_sense_are_refused():
    for wrong in ({"kernel_size": 2}, {"kernel_size": 0}, {"bottleneck": -1}, {"groups": -1}):
        with pytest.raises(AttachError):
            Form(**wrong)
    frames = torch.zeros(2, 1, 8, 8)
    for form in (Form(groups=5), Form(bottleneck=4, groups=5)):
        assert "5 groups" in refusal(["layer1"], digits(), frames, form=form).reason
