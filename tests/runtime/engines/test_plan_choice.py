"""Which plan a memory budget leads to."""

import dataclasses

import pytest
from opening import opened_with

import edgemem
from edgemem.bundle.manifest import Plan
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE
from edgemem.errors import InputError
from edgemem.runtime.engines.plan_choice import choose_plan

PLANS = (
    Plan("fast", "adapt", "latency", 90_000_000, 10.0),
    Plan("lean", "adapt", "latency", 50_000_000, 13.0),
    Plan("lean, mapped", "adapt", "memory", 30_000_000, 20.0),
)


@pytest.fixture
def manifest():
    return dataclasses.replace(open_bundle(BUNDLE).manifest, plans=PLANS)


@pytest.mark.parametrize(
    ("budget", "name"),
    [
        (None, "fast"),
        ("1GB", "fast"),
        (90_000_000, "fast"),
        (89_999_999, "lean"),
        ("50MB", "lean"),
        ("47.7 MiB", "lean"),
        ("30000kb", "lean, mapped"),
    ],
)
def test_the_fastest_plan_that_fits_is_taken(manifest, budget, name):
    assert choose_plan(manifest, budget).name == name


@pytest.mark.parametrize("budget", ["29MB", 1])
def test_a_budget_that_nothing_fits_is_refused_with_what_would(manifest, budget):
    with pytest.raises(InputError, match="less than the 30 MB of the leanest plan"):
        choose_plan(manifest, budget)


@pytest.mark.parametrize("budget", ["", "lots", "12 parsecs", "-5MB", 0, "0MB", "1e9", "nan"])
def test_what_is_no_size_is_refused(manifest, budget):
    with pytest.raises(InputError, match="is no size"):
        choose_plan(manifest, budget)


def test_a_bundle_without_a_step_has_no_plan(manifest):
    assert choose_plan(dataclasses.replace(manifest, plans=()), "1KB") is None


def test_the_runtime_takes_the_plan_and_says_which():
    plans = open_bundle(BUNDLE).manifest.plans
    with edgemem.open(BUNDLE) as runtime:
        assert runtime.plan == plans[0]
    with opened_with(BUNDLE, memory_budget=plans[-1].bytes) as runtime:
        assert runtime.plan == plans[-1]
    with opened_with(BUNDLE, adapt=False, memory_budget="1KB") as runtime:
        assert runtime.plan is None
    with pytest.raises(InputError, match="leanest plan"):
        opened_with(BUNDLE, memory_budget="1KB")
