"""What a user sets in Python: names and values that are known, or an error before opening."""

import math

import numpy as np
import pytest
from opening import opened_with

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE
from edgemem.runtime.step.hyper_parameters import HyperParameters

MANIFEST = open_bundle(BUNDLE).manifest


@pytest.fixture
def parameters():
    return HyperParameters(MANIFEST, {"alpha": 0.25})


def test_values_are_the_bundles_but_for_those_chosen(parameters):
    own = {name: value.default for name, value in MANIFEST.hyper_parameters.items()}
    assert dict(parameters) == own | {"alpha": 0.25}
    parameters.set(alpha=2 * parameters["alpha"])
    parameters.set({"alpha": parameters["alpha"] + np.float32(0.25)})
    assert parameters["alpha"] == 0.75 and type(parameters["alpha"]) is float
    assert {**parameters} == own | {"alpha": 0.75} and len(parameters) == len(own)


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, 1e39, 10**400, None, "1", "x", 1j, [1], np.array([1, 2])],
)
def test_what_is_no_finite_number_in_single_precision_is_refused(parameters, value):
    others = {name: 1.0 for name in parameters if name != "alpha"}
    for given, more in (({"alpha": value}, {}), ({}, {"alpha": value}), (others, {"alpha": value})):
        before = dict(parameters)
        with pytest.raises(edgemem.InputError, match="'alpha': is .*Pass a finite number"):
            parameters.set(given, **more)
        assert dict(parameters) == before
    assert parameters["alpha"] == 0.25


@pytest.mark.parametrize("name", ["alhpa", "", "hp.alpha", 3, None, ("alpha",)])
def test_unknown_names_are_refused(parameters, name):
    with pytest.raises(edgemem.InputError, match="is unknown to this bundle. It has alpha"):
        parameters.set({name: 1.0})
    with pytest.raises(TypeError):
        del parameters["alpha"]
    with pytest.raises(TypeError):
        parameters[name] = 1.0
    assert name not in parameters and parameters["alpha"] == 0.25


@pytest.mark.parametrize(
    "options",
    [
        {"threads": -1},
        {"threads": 100_000},
        {"threads": 10**5000},
        {"threads": 1.5},
        {"threads": "2"},
        {"threads": True},
        {"adapt_when": 0},
        {"adapt_when": True},
        {"adapt_when": 1.5},
        {"adapt_when": math.nan},
        {"adapt_when": ["drift"]},
        {"adapt_when": np.zeros(3)},
        {"adapt_when": "0s/min"},
        {"adapt_when": "9" * 5000},
        {"memory_budget": 0},
        {"memory_budget": -5},
        {"memory_budget": True},
        {"memory_budget": math.nan},
        {"memory_budget": math.inf},
        {"memory_budget": "9" * 400},
        {"memory_budget": 10**5000},
        {"memory_budget": ["1MB"]},
        {"hyper_parameters": {"alpha": math.nan}},
        {"hyper_parameters": {"alhpa": 1.0}},
        {"hyper_parameters": ["alpha"]},
        {"hyper_parameters": "alpha"},
        {"provider": "gpu"},
        {"provider": None},
        {"provider": ["cpu"]},
        {"read": "mixed"},
        {"read": ["mixed"]},
    ],
)
def test_options_out_of_range_are_refused_and_make_no_state_file(tmp_path, options):
    with pytest.raises(edgemem.InputError) as caught:
        opened_with(BUNDLE, tmp_path / "s.db", **options)
    assert len(str(caught.value)) < 500
    assert not list(tmp_path.iterdir())
