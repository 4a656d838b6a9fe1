"""Memories beside feed-forward layers, against networks whose layers really are wider."""

import copy

import pytest
import torch
from language_models import FAMILIES, VOCABULARY, tiny
from made_memories import spec_of
from torch import nn

from edgemem.bundle.text.memory_spec import LevelSpec
from edgemem.errors import AttachError, InputError
from edgemem.models.memory.feed_forward import (
    feed_forward_layers,
    named_layers,
    new_block,
    placed,
    with_block,
)

IDS = torch.arange(1, 13)[None]
RANKS = (3, 2)


def spec_for(network, layers, levels=RANKS, **changes):
    return spec_of(
        layers=tuple(layer.name for layer in layers),
        width=layers[0].width,
        gated=layers[0].gated,
        levels=tuple(
            level if isinstance(level, LevelSpec) else LevelSpec(level) for level in levels
        ),
        **changes,
    )


def random_block(spec, seed=1):
    random = torch.Generator().manual_seed(seed)
    return {
        array.name: 0.3 * torch.randn(array.shape, generator=random)
        for array in spec.inputs().arrays
    }


@torch.no_grad()
def logits(network, block=None, spec=None, layers=()):
    if block is None:
        return network(input_ids=IDS, use_cache=False).logits
    with with_block(layers, spec, block):
        return network(input_ids=IDS, use_cache=False).logits


@torch.no_grad()
def widened(network, layers, block):
    """A copy whose layers have the columns of all levels behind their own."""
    network = copy.deepcopy(network)
    for place, layer in enumerate(layers):
        module = network.get_submodule(layer.name)
        for name in sorted({name[0] for name in block}):
            into, out = block[f"{name}.m1"][place], block[f"{name}.m3"][place]
            if layer.gated:
                add(module.gate_proj, "weight", into.T, 0)
                add(module.up_proj, "weight", block[f"{name}.m2"][place].T, 0)
                add(module.down_proj, "weight", out.T, 1)
            else:  # GPT-2 keeps [in, out]
                add(module.c_fc, "weight", into, 1)
                add(module.c_fc, "bias", torch.zeros(into.shape[1]), 0)
                add(module.c_proj, "weight", out, 0)
                module.c_fc.nf += into.shape[1]
    return network


def add(module, name, more, axis):
    value = torch.cat([getattr(module, name), more], axis)
    setattr(module, name, nn.Parameter(value))


@pytest.mark.parametrize("placement", ["late", "uniform"])
@pytest.mark.parametrize("family", FAMILIES)
def test_memories_are_further_columns_of_the_layers(family, placement):
    network = tiny(family)
    layers = placed(feed_forward_layers(network), 2, placement)
    spec = spec_for(network, layers)
    block = random_block(spec)
    found = logits(network, block, spec, layers)
    expected = logits(widened(network, layers, block))
    plain = logits(network)
    assert (found - plain).abs().max() > 1e-2 * plain.abs().max()
    assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_block_is_the_anchor_exactly_and_can_learn(family):
    network = tiny(family).requires_grad_(False)
    layers = placed(feed_forward_layers(network), 2)
    spec = spec_for(network, layers)
    block = new_block(spec, torch.Generator().manual_seed(0))
    assert torch.equal(logits(network, block, spec, layers), logits(network))
    for array in block.values():
        array.requires_grad_()
    with with_block(layers, spec, block):
        network(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    assert all(block[f"{level}.m3"].grad.abs().max() > 0 for level in (1, 2))
    assert all(weight.grad is None for weight in network.parameters())


def test_columns_apart_are_not_columns_added():
    """Levels that are separate add their outputs; to add their numbers is something else."""
    network = tiny()
    layers = placed(feed_forward_layers(network), 2)
    apart = spec_for(network, layers, (2, 2))
    block = random_block(apart)
    added = spec_for(network, layers, (LevelSpec(2), LevelSpec(2, "sum")))
    sums = {f"1.{name}": block[f"1.{name}"] + block[f"2.{name}"] for name in ("m1", "m2", "m3")}
    assert sorted(sums) == sorted(array.name for array in added.inputs().arrays)
    one, other = logits(network, block, apart, layers), logits(network, sums, added, layers)
    assert (one - other).abs().max() > 1e-2 * one.abs().max()
    half = {name: array / 2 for name, array in sums.items()}
    assert (logits(network, half, added, layers) - other).abs().max() > 1e-3


def test_hooks_are_gone_afterwards():
    network = tiny()
    layers = placed(feed_forward_layers(network), 3)
    spec = spec_for(network, layers)
    before = logits(network)
    with pytest.raises(RuntimeError), with_block(layers, spec, random_block(spec)):
        raise RuntimeError
    assert torch.equal(logits(network), before)


@pytest.mark.parametrize(
    "count, placement, expected",
    [(1, "late", [2]), (2, "late", [1, 2]), (3, "uniform", [0, 1, 2]), (1, "uniform", [1])],
)
def test_placement(count, placement, expected):
    layers = feed_forward_layers(tiny())
    assert [layers.index(layer) for layer in placed(layers, count, placement)] == expected


@pytest.mark.parametrize("count, placement", [(0, "late"), (4, "late"), (1, "early")])
def test_a_placement_that_cannot_be_is_refused(count, placement):
    with pytest.raises(InputError):
        placed(feed_forward_layers(tiny()), count, placement)


class Strange(nn.Module):
    """Two layers, of which one has a feed-forward part that is known."""

    def __init__(self, known):
        super().__init__()
        network = tiny()
        self.config = network.config
        self.layers = network.model.layers[:known]


@pytest.mark.parametrize("known", [0, 1])
def test_an_unknown_network_is_refused_with_what_was_looked_for(known):
    with pytest.raises(AttachError, match=r"gate_proj.*c_fc, c_proj, act") as told:
        feed_forward_layers(Strange(known))
    assert f"{known} known feed-forward modules in 3 layers" in str(told.value)


def test_layers_of_another_anchor_are_refused():
    network = tiny()
    layers = placed(feed_forward_layers(network), 2)
    spec = spec_for(network, layers)
    assert [layer.name for layer in named_layers(network, spec)] == list(spec.layers)
    for other in (spec_of(width=17), spec_of(gated=False), spec_of(layers=("model.x",))):
        with pytest.raises(AttachError, match="no feed-forward layer"):
            named_layers(network, other)


def test_the_vocabulary_is_that_of_the_tokenizer():
    assert logits(tiny()).shape[-1] == VOCABULARY
