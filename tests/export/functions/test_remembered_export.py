"""What a block remembers of its context, in the exported graphs and through the runtime."""

import copy
import math

import numpy as np
import onnxruntime
import pytest
import torch
from scipy.stats import entropy

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.errors import InputError
from edgemem.export import Choices
from edgemem.models import attach
from edgemem.models.networks import digits
from edgemem.models.norms.remembered import (
    CLASS_PRIOR,
    EVENNESS,
    FLOOR,
    FRAMES,
    HYPER_PARAMETERS,
    MEAN,
    NAMES,
    SOURCE_FRAMES,
    VAR,
)
from edgemem.models.norms.statistics import MixedStatistics
from edgemem.runtime.frames import LARGEST
from edgemem.state.store import State

pytestmark = pytest.mark.slow
BATCH, CLASSES, STEPS, RATE = 8, 10, 20, 0.01
EVERY_FRAME = 2 * math.log(CLASSES)  # an entropy margin that takes all


@pytest.fixture(scope="module")
def bundle(lively, warmed, exported):
    network = lively(digits())
    example = torch.zeros(2, 1, 8, 8)
    model = warmed(attach(network, ["layer1", "layer2"], example, statistics="remembered"))
    for value in model.remembered().values():
        value.zero_()
    choices = Choices(BATCH, "meta", "all", "ecotta", learning_rate=RATE)
    return exported(network, model, choices)


def frames(count=BATCH, seed=0):
    return np.random.default_rng(seed).random((count, 1, 8, 8), np.float32)


def is_remembered(name):
    return name.split(".")[-1] in NAMES


def session(bundle, name="adapt"):
    path = str(bundle.path / f"{name}.onnx")
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def start(bundle, **scalars):
    """Inputs of `adapt` but the frames: nothing learnt or remembered on the device yet."""
    opened = open_bundle(bundle.path)
    manifest = opened.manifest
    defaults = {name: hp.default for name, hp in manifest.hyper_parameters.items()}
    values = {f"block.{n}": v for n, v in opened.generic.items()}
    values |= {f"opt.{n}": v for n, v in manifest.slots.zero().items()}
    return values | {f"hp.{n}": np.asarray(v, np.float32) for n, v in (defaults | scalars).items()}


def run(graph, inputs, x):
    names = [value.name for value in graph.get_outputs()]
    wanted = {v.name: (inputs | {"x": x})[v.name] for v in graph.get_inputs()}
    return dict(zip(names, graph.run(names, wanted), strict=True))


def following(outputs):
    return {n.removeprefix("next."): v for n, v in outputs.items() if n.startswith("next.")}


def stored(bundle, path):
    """Arrays in a state file."""
    state = State(path, open_bundle(bundle.path).identity)
    try:
        return state.read().arrays
    finally:
        state.close()


def same(one, other):
    assert one.keys() == other.keys()
    return {name for name in one if one[name].tobytes() == other[name].tobytes()}


def test_block_slots_and_scalars_are_specified(bundle):
    manifest = open_bundle(bundle.path).manifest
    shapes = {spec.name: spec.shape for spec in manifest.block.arrays}
    model = bundle.model
    assert shapes == {name: tuple(value.shape) for name, value in model.block().items()}
    assert shapes[CLASS_PRIOR] == (CLASSES,)
    assert shapes[FRAMES] == shapes[EVENNESS] == ()
    assert {name for name in shapes if is_remembered(name)} == set(model.remembered())
    norms = [n for n, m in model.named_modules() if isinstance(m, MixedStatistics)]
    assert set(model.remembered()) == {CLASS_PRIOR, FRAMES, EVENNESS} | {
        f"{norm}.{kind}" for norm in norms for kind in (MEAN, VAR)
    }
    assert all((value == 0).all() for value in manifest.block.zero().values())
    slots = {spec.name for spec in manifest.slots.arrays}
    assert slots == {f"momentum.{name}" for name in model.learned()}
    for name, default in HYPER_PARAMETERS.items():
        assert manifest.hyper_parameters[name].default == pytest.approx(default)
        assert manifest.hyper_parameters[name].frozen == 0.0


def test_twenty_steps_remember_what_a_plain_loop_remembers(bundle):
    graph = session(bundle)
    inputs = start(bundle, entropy_margin=EVERY_FRAME, source_share=0.0, label_order=0.0)
    loop = PlainLoop(bundle.model)
    for seed in range(STEPS):
        x = frames(seed=seed) * 0.6 + 0.3
        outputs = run(graph, inputs, x)
        np.testing.assert_allclose(outputs["logits"], loop.step(x), rtol=1e-3, atol=1e-3)
        inputs |= following(outputs)
    found = {n.removeprefix("block."): v for n, v in inputs.items() if n.startswith("block.")}
    expected = {n: v.detach().numpy() for n, v in loop.model.block().items()}
    assert found.keys() == expected.keys()
    assert found[FRAMES] == STEPS * BATCH
    generic = open_bundle(bundle.path).generic
    for name, value in expected.items():
        size = max(1.0, float(np.abs(value).max()))
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-4 * size, err_msg=name)
        if is_remembered(name):
            assert np.abs(value).max() > 1e-2, name  # by far more than the tolerance
        else:
            assert (found[name] != generic[name]).any(), name


class PlainLoop:
    """EcoTTA with autograd and torch.optim; what is remembered, from the definitions in float64."""

    def __init__(self, model):
        self.model = copy.deepcopy(model)
        self.model.gradient = "meta"
        self.optimizer = torch.optim.SGD(self.model.learned().values(), RATE, momentum=0.9)
        self.inputs = {}
        for name, module in self.model.named_modules():
            if isinstance(module, MixedStatistics):
                module.register_forward_pre_hook(
                    lambda _, args, name=name: self.inputs.update({name: args[0].detach()})
                )

    def step(self, x):
        """Logits from before the update, the class prior included."""
        memory, n = self.model.remembered(), len(x)
        low, high = (HYPER_PARAMETERS[f"{name}_batch_weight"] for name in ("least", "even"))
        least = low + (high - low) * memory[EVENNESS].item() ** 8
        weight = max(least, n / (n + memory[FRAMES].item()))
        alpha = torch.tensor(self.model.alpha(n))
        output = self.model(torch.from_numpy(x), alpha, torch.tensor(weight))
        log_p = output.logits.log_softmax(1)
        loss = -(log_p.exp() * log_p).sum(1).mean() + 0.25 * sum(output.distances)
        self.optimizer.zero_grad()
        loss.backward()
        logits = output.logits.detach().double().numpy()
        prior = memory[CLASS_PRIOR].double().numpy() + 1 / CLASSES
        even = 1 / CLASSES + FLOOR
        strength = HYPER_PARAMETERS["prior_weight"] * (1 - (np.exp(entropy(prior)) / CLASSES) ** 32)
        weighed = logits + strength * np.log((prior + FLOOR) / even)
        self._remember(memory, logits)
        self.optimizer.step()
        return weighed

    def _remember(self, memory, logits):
        n = len(logits)
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        weights = (p / (p.mean(0) + FLOOR)).sum(1)
        weights /= weights.sum()
        memory[FRAMES] += n
        total = memory[FRAMES].item()
        rate = max(HYPER_PARAMETERS["memory_rate"], n / (total + SOURCE_FRAMES))
        share = p.mean(0)
        stand_for = np.exp(-(share * np.log(share)).sum())
        drawn = np.exp(max(np.log(CLASSES) - (CLASSES - 1) / (2 * n), 0.0))
        even = min((stand_for - 1) / max(drawn - 1, 1.0), 1.0)
        now = {CLASS_PRIOR: share - 1 / CLASSES, EVENNESS: np.float64(even)}
        for name, value in self.inputs.items():
            norm = self.model.get_submodule(name)
            values = value.double().flatten(2).transpose(1, 2).numpy()  # frames, places, channels
            each = weights[:, None, None] / values.shape[1]
            mean = (each * values).sum((0, 1))
            var = (each * (values - mean) ** 2).sum((0, 1))
            now[f"{name}.{MEAN}"] = mean - norm.mean.numpy()
            now[f"{name}.{VAR}"] = var - norm.var.numpy()
        for name, value in now.items():
            own = min(rate, 0.5) if name == CLASS_PRIOR else rate
            memory[name].mul_(1 - own).add_(torch.as_tensor(own * value).float())
        memory[EVENNESS].clamp_(max=even)


@pytest.mark.parametrize("steps", [0, 1, 12])
def test_both_graphs_give_the_same_logits_bit_for_bit(bundle, steps):
    graph, inputs = session(bundle), start(bundle)
    for seed in range(steps):
        inputs |= following(run(graph, inputs, frames(seed=seed)))
    x = frames(seed=99)
    one = run(graph, inputs, x)["logits"]
    other = run(session(bundle, "predict"), inputs, x)["logits"]
    assert one.tobytes() == other.tobytes()


def test_the_frozen_answer_is_the_network_whatever_is_remembered(bundle):
    x = frames(5 * BATCH)
    with torch.no_grad():
        expected = bundle.network(torch.from_numpy(x)).numpy()
    with edgemem.open(bundle.path, threads=1) as runtime:
        adapted = runtime.step(x).logits
        for count in (1, 3, 5 * BATCH):
            found = runtime.predict(x[:count], frozen=True).logits
            np.testing.assert_allclose(found, expected[:count], rtol=0, atol=1e-5)
    assert np.abs(adapted - expected).max() > 0.1


def test_a_batch_without_reliable_frames_is_remembered_but_not_learnt(bundle, tmp_path):
    path = tmp_path / "state.db"
    with edgemem.open(bundle.path, path, threads=1) as runtime:
        runtime.hyper_parameters.set(entropy_margin=EVERY_FRAME)
        runtime.step(frames())
    before = stored(bundle, path)
    assert any(value.any() for name, value in before.items() if name.startswith("opt."))
    with edgemem.open(bundle.path, path, threads=1) as runtime:
        runtime.hyper_parameters.set(entropy_margin=0.0)
        runtime.step(frames(seed=1))
        assert runtime.counters["unreliable"] == 0
    after = stored(bundle, path)
    adapting = {name for name in after if name.startswith(("block.", "opt."))}
    kept = same({n: before[n] for n in adapting}, {n: after[n] for n in adapting})
    assert kept == {name for name in adapting if not is_remembered(name)}
    assert after[f"block.{FRAMES}"] == 2 * BATCH


def test_the_graph_leaves_block_and_slots_as_they_are_when_a_frame_is_not_a_number(bundle):
    graph, inputs = session(bundle), start(bundle)
    inputs |= following(run(graph, inputs, frames()))
    for bad in (np.nan, np.inf):
        x = frames(seed=1)
        x[3, 0, 2, 2] = bad
        outputs = run(graph, inputs, x)
        assert outputs["stat.updated"] == 0
        for name, value in following(outputs).items():
            assert value.tobytes() == inputs[name].tobytes(), name


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_only_finite_values_are_ever_kept(bundle, alpha, tmp_path):
    """The largest frames that a runtime takes, between ordinary ones and refused ones."""
    path = tmp_path / "state.db"
    scalars = {"alpha": alpha, "entropy_margin": EVERY_FRAME}
    with edgemem.open(bundle.path, path, threads=1, hyper_parameters=scalars) as runtime:
        for seed in range(7):
            x = frames(seed=seed)
            if seed % 2:
                x[seed] *= LARGEST / np.abs(x[seed]).max()
            logits = runtime.step(x).logits
            runtime.flush()
            assert np.isfinite(logits).all()
        for refused in (np.nan, np.inf, 1e20):
            with pytest.raises(InputError, match="NaN or infinite|beyond"):
                runtime.step(np.full((BATCH, 1, 8, 8), refused, np.float32))
        assert runtime.counters["updates"] >= 4
    arrays = stored(bundle, path)
    assert all(np.isfinite(value).all() for value in arrays.values())


def test_what_is_remembered_comes_back_from_the_state_file(bundle, tmp_path):
    x, path = frames(6 * BATCH), tmp_path / "state.db"
    with edgemem.open(bundle.path, threads=1) as runtime:
        expected = [runtime.step(part).logits for part in np.split(x, 2)]
    found = []
    for part in np.split(x, 2):
        with edgemem.open(bundle.path, path, threads=1) as runtime:
            found.append(runtime.step(part).logits)
    for one, other in zip(found, expected, strict=True):
        assert one.tobytes() == other.tobytes()
