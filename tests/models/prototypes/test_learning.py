"""Learning a task: what changes, what must not, and that an interruption changes nothing."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from two_tasks import RECIPE, STEPS, Interruption, interrupt, second

from edgemem.models.prototypes import (
    PrototypeModel,
    TaskProgress,
    TaskRecipe,
    learn_task,
    prototype_loss,
    relation_distillation,
    supervised_contrastive_loss,
)


def state(model):
    return copy.deepcopy(model.state_dict())


def same(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def plain(x, generator):
    return x


@pytest.mark.parametrize("axis", ["samples", "prototypes"])
def test_the_given_model_frames_and_labels_stay_bit_for_bit(known, data, axis):
    before, training = state(known), [m.training for m in known.modules()]
    frames, _, labels = (array.copy() for array in data)
    for array in (frames, labels):
        array.flags.writeable = False
    recipe = dataclasses.replace(RECIPE, relation_axis=axis)
    learnt = learn_task(known, frames, labels, recipe)
    assert same(state(known), before) and known.tasks == ((0, 1, 2),)
    assert [m.training for m in known.modules()] == training
    assert all(p.grad is None and p.requires_grad for p in known.parameters())
    assert (frames == data[0]).all() and (labels == data[2]).all()
    assert learnt.tasks == ((0, 1, 2), (3, 4, 5)) and not learnt.training
    assert not set(map(id, known.parameters())) & set(map(id, learnt.parameters()))


def test_everything_learns_old_prototypes_included(known, data):
    before, learnt = state(known), second(known, data)
    after = learnt.state_dict()
    assert all(not value.equal(after[name]) for name, value in before.items())


def test_without_distillation_old_prototypes_stay(known, data):
    learnt = second(known, data, dataclasses.replace(RECIPE, relation_weight=0.0))
    assert learnt.prototypes[0].equal(known.prototypes[0])
    assert not learnt.encoder[0].weight.equal(known.encoder[0].weight)


def test_prototypes_have_a_rate_of_their_own(known, data):
    still = dataclasses.replace(RECIPE, prototype_rate=0.0)
    learnt, start = second(known, data, still), known.with_task([3, 4, 5], seed=1)
    for found, expected in zip(learnt.prototypes, start.prototypes, strict=True):
        assert found.equal(expected)
    assert not learnt.encoder[0].weight.equal(known.encoder[0].weight)
    body = dataclasses.replace(RECIPE, learning_rate=0.0)
    learnt = second(known, data, body)
    for found, expected in zip(learnt.prototypes, start.prototypes, strict=True):
        assert not found.equal(expected)
    assert same(learnt.encoder.state_dict(), known.encoder.state_dict())
    assert same(learnt.projection.state_dict(), known.projection.state_dict())


@pytest.mark.parametrize("end", [1.0, 0.25, 0.0])
def test_rates_fall_along_half_a_cosine(end):
    recipe = TaskRecipe(rate_at_end=end)
    factors = [recipe.rate_factor(step, 8) for step in range(9)]
    cosine = np.cos(np.linspace(0, np.pi, 9))
    np.testing.assert_allclose(factors, end + (1 - end) * (1 + cosine) / 2, atol=1e-12)
    assert end < 1 or set(factors) == {1.0}


def test_all_rates_fall_and_an_interrupted_task_goes_on_where_they_were(known, data, tmp_path):
    recipe = dataclasses.replace(RECIPE, rate_at_end=0.0)
    steps, frames = [], (data[0], data[2])
    whole = learn_task(known, *frames, recipe, steps.append)
    constant = second(known, data)
    assert not whole.prototypes[1].equal(constant.prototypes[1])
    assert not same(whole.encoder.state_dict(), constant.encoder.state_dict())

    def stop(progress):
        if progress.step == steps[-1].step // 3 * 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_task(known, *frames, recipe, stop, resume=tmp_path / "p.safetensors")
    again = learn_task(known, *frames, recipe, resume=tmp_path / "p.safetensors")
    assert same(again.state_dict(), whole.state_dict())


@pytest.mark.parametrize("axis", ["samples", "prototypes"])
def test_one_epoch_of_four_steps_is_plain_gradient_descent_on_the_weighted_sum(known, data, axis):
    """Momentum and decay for encoder and head; neither for prototypes, at ten times the rate."""
    recipe = TaskRecipe(
        1, 12, 0.02, 0.5, 0.01, 0.2, 0.3, prototype_weight=1.5, relation_weight=20.0,
        relation_temperature=0.2, relation_axis=axis,
    )  # fmt: skip
    batches = []

    def spy(x, generator):
        batches.append(x.clone())
        return x

    learnt = second(known, data, recipe, views=spy)
    model, velocity = known.with_task([3, 4, 5], seed=1), {}
    label_of = {tuple(frame): label for frame, label in zip(data[0].tolist(), data[2], strict=True)}
    assert len(batches) == 8 and all(len(x) == 12 for x in batches)
    for one, other in zip(batches[::2], batches[1::2], strict=True):
        assert one.equal(other)
        x = torch.cat([one, other])
        y = torch.tensor([label_of[tuple(frame)] - 3 for frame in x.tolist()])
        features = model.encoder(x)
        loss = supervised_contrastive_loss(model.projection(features), y, 0.3)
        loss = loss + 1.5 * prototype_loss(features, model.prototypes[1], y)
        loss = loss + 20.0 * relation_distillation(
            features, model.prototypes[0], known.encoder(x).detach(), known.prototypes[0].detach(),
            temperature=0.2, relation_axis=axis,
        )  # fmt: skip
        named = dict(model.named_parameters())
        grads = torch.autograd.grad(loss, list(named.values()))
        with torch.no_grad():
            for (name, parameter), grad in zip(named.items(), grads, strict=True):
                if name.startswith("prototypes"):
                    parameter.sub_(0.2 * grad)
                    continue
                velocity[name] = 0.5 * velocity.get(name, 0) + grad + 0.01 * parameter
                parameter.sub_(0.02 * velocity[name])
    for name, value in model.state_dict().items():
        torch.testing.assert_close(learnt.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_the_teacher_is_in_eval_mode_and_its_statistics_stay(grid):
    """In train mode a norm would give features that change with the batch."""
    frames, row, column = grid(48, 0)
    encoder = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    known = learn_task(PrototypeModel(encoder, 8), frames, column, RECIPE)
    known.train()  # a caller may leave it so
    before, seen = state(known), []

    def watch(module, args, output):
        if not module.training:
            seen.append(args[0].requires_grad)

    handle = known.encoder[1].register_forward_hook(watch)
    learnt = learn_task(known, frames, 3 + row, RECIPE)
    handle.remove()
    assert len(seen) == RECIPE.epochs * STEPS and not any(seen)
    assert known.training and same(state(known), before)
    assert not learnt.encoder[1].running_mean.equal(known.encoder[1].running_mean)


def test_what_needs_no_gradient_stays(known, data):
    model = copy.deepcopy(known)
    model.encoder[0].requires_grad_(False)
    learnt = second(model, data)
    assert same(learnt.encoder[0].state_dict(), known.encoder[0].state_dict())
    assert not learnt.encoder[2].weight.equal(known.encoder[2].weight)


def test_the_same_seed_gives_the_same_model_and_another_seed_another(known, data):
    torch.manual_seed(99)  # the state of the global generator is nobody's business
    before = torch.get_rng_state()
    expected = state(second(known, data))
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(7)
    assert same(state(second(known, data)), expected)
    assert not same(state(second(known, data, dataclasses.replace(RECIPE, seed=1))), expected)


def test_dropout_in_the_encoder_is_drawn_from_the_seed_too(data, tmp_path):
    """Also after an interruption, when epochs before did not draw."""
    model = PrototypeModel(nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5)), 8)
    found, resume = [], tmp_path / "progress.safetensors"
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(state(learn_task(model, data[0], data[1], RECIPE)))
    with pytest.raises(Interruption):
        learn_task(model, data[0], data[1], RECIPE, interrupt(STEPS + 1), resume=resume)
    found.append(state(learn_task(model, data[0], data[1], RECIPE, resume=resume)))
    assert same(found[0], found[1]) and same(found[0], found[2])


def test_progress_tells_every_step_and_its_terms(known, data):
    seen = []
    second(known, data, progress=seen.append, views=plain)
    assert [p.step for p in seen] == list(range(1, 3 * STEPS + 1))
    assert all(isinstance(p, TaskProgress) and p.steps == 3 * STEPS for p in seen)
    assert seen[0].relation == pytest.approx(0, abs=1e-6)  # nothing has changed yet
    assert seen[-1].relation > 1e-6
    for p in seen:
        assert p.loss == pytest.approx(p.contrastive + 2 * p.prototype + 4 * p.relation, rel=1e-4)
        assert 0 <= p.accuracy <= 1


def test_every_frame_is_seen_once_an_epoch_however_many_there_are(new_model, data):
    for count in (1, 15, 16, 17, 33):
        seen = []

        def spy(x, generator, seen=seen):
            seen.append(x)
            return x

        frames, labels = data[0][:count], data[1][:count]
        learn_task(new_model(), frames, labels, TaskRecipe(epochs=1, batch_size=16), views=spy)
        assert max(len(x) for x in seen) <= 16 and len(seen) == 2 * -(-count // 16)
        rows = torch.cat(seen[::2]).numpy()
        assert sorted(map(tuple, rows)) == sorted(map(tuple, frames))


def test_every_epoch_and_every_task_has_an_order_of_its_own(known, new_model, data):
    orders = []
    for model in (new_model(), known):
        seen = []
        learn_task(
            model, data[0], data[2], RECIPE, views=lambda x, _, seen=seen: seen.append(x) or x
        )
        rows = torch.cat(seen[::2]).view(RECIPE.epochs, len(data[0]), 2)
        orders += [tuple(map(tuple, epoch.tolist())) for epoch in rows]
    assert len(set(orders)) == 2 * RECIPE.epochs


@pytest.mark.parametrize("step", [2, STEPS, STEPS + 1, 2 * STEPS + 2, 3 * STEPS])
def test_an_interruption_changes_nothing_bit_for_bit(step, known, data, tmp_path):
    resume, seen = tmp_path / "progress.safetensors", []
    with pytest.raises(Interruption):
        second(known, data, progress=interrupt(step), resume=resume)
    assert resume.exists() == (step > STEPS)
    learnt = second(known, data, progress=seen.append, resume=resume)
    assert seen[0].step == 1 + STEPS * ((step - 1) // STEPS)  # epochs done are not repeated
    assert same(state(learnt), state(second(known, data)))
    assert [p.name for p in tmp_path.iterdir()] == ["progress.safetensors"]


def test_three_tasks_in_turn_are_told_apart(new_model, grid):
    frames, row, column = grid(240, 5)
    model, recipe = new_model(), TaskRecipe(epochs=10, batch_size=40, prototype_rate=0.1)
    for task in range(3):
        own = row == task
        model = learn_task(model, frames[own], 3 * task + column[own], recipe)
    assert model.classes == tuple(range(9))
    answers = model.predict(frames)
    assert set(answers) <= set(range(9))
    for task in range(3):
        assert set(model.predict(frames, model.tasks[task])) <= set(model.tasks[task])
    last = model.predict(frames[row == 2], model.tasks[2])
    assert np.mean(last == 6 + column[row == 2]) > 0.8
