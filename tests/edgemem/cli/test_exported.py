"""What `edgemem export` says about the learning rate of the bundle that it has written."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from edgemem.bundle.manifest import TaskSpec
from edgemem.bundle.opening import open_bundle
from edgemem.cli.exported import print_exported
from edgemem.demo import BUNDLE


class Parity:
    frozen = predict = first_step = slots = after_steps = 1e-7
    steps, tolerance, adapted, adapted_limit = 20, 1e-5, 1e-7, 1e-4

    @staticmethod
    def as_dict():
        return {"steps": 20}


def manifest(rate, calibration=None, **origin):
    known = dict(open_bundle(BUNDLE).manifest.hyper_parameters)
    if rate is None:
        del known["learning_rate"]
    else:
        known["learning_rate"] = replace(known["learning_rate"], default=rate)
    told = {"warm": True, "statistics": "remembered", **origin}
    if calibration is not None:
        told["calibration"] = calibration
    made = open_bundle(BUNDLE).manifest
    return replace(made, hyper_parameters=known, exported_from=told)


def trials(*pairs):
    return [{"rate": rate, "gain": gain} for rate, gain in pairs]


KEPT = {"rate": 3e-4, "trials": trials((3e-4, 0.021))}
LOWERED = {"rate": 9e-5, "trials": trials((3e-4, -0.2), (9e-5, 0.004))}
NONE = {"rate": 0.0, "trials": trials((3e-4, -0.2), (9e-5, -0.1), (3e-5, 0.0))}
LINES = {
    "kept": ((3e-4, KEPT), "learning rate 0.0003, kept: steps gain 2.1 points on shifted source"),
    "lowered": ((9e-5, LOWERED), "learning rate 9e-05, lowered from 0.0003: steps gain 0.4 points"),
    "none": ((0.0, NONE), "steps gain nothing .* statistics alone adapt \\(learning rate 0\\)"),
}


def said(capsys, made, *, given=False):
    print_exported(Path("b.edgemem"), Parity, made, given=given, json=False)
    return capsys.readouterr().out


@pytest.mark.parametrize("name", LINES)
def test_what_source_frames_allow_is_said_in_one_line(name, capsys):
    arguments, line = LINES[name]
    text = said(capsys, manifest(*arguments))
    assert re.search(line, text.splitlines()[-1]), text
    print_exported(Path("b.edgemem"), Parity, manifest(*arguments), given=False, json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["learning_rate"], found["calibration"]) == arguments


def test_without_steps_and_with_source_statistics_nothing_adapts(capsys):
    assert "nothing adapts (learning" in said(capsys, manifest(0.0, NONE, statistics="source"))


def test_without_source_frames_or_with_few_the_rate_is_small_and_tune_is_named(capsys):
    cold = said(capsys, manifest(3e-5, warm=False))
    assert "pass --source" in cold
    assert "no source frames: small learning rate 3e-05; edgemem tune chooses another" in cold
    few = said(capsys, manifest(3e-5))
    assert "pass --source" not in few
    aligned = {"names": ["a", "b"], "frozen": 0.312, "error": 0.125, "tried": {"a": [2, 0.2]}}
    aligned |= {"alpha": 0.8}
    found = said(capsys, manifest(3e-5, warm=False, measured=True, alignment=aligned))
    assert "at 2 sites:" in found and "31.2 to 12.5 %" in found and "pass --source" not in found
    made = manifest(3e-5, warm=False, measured=True, alignment=aligned | {"alpha": 0.0})
    assert "moments are not aligned: on shifted source frames that was no better" in said(
        capsys, made
    )
    assert "too few source frames: small learning rate 3e-05; edgemem tune chooses" in few
    assert "too few source frames" in said(capsys, manifest(3e-5, warm=False, measured=True))


def test_where_outputs_are_not_classes_no_rate_was_tried(capsys):
    made = replace(manifest(3e-5, warm=False, measured=True), task=TaskSpec("dense", (), 2))
    text = said(capsys, made)
    assert "learning rate 3e-05, untried: outputs are not classes" in text and "tune" not in text


def test_a_rate_of_the_user_is_repeated_and_a_step_without_one_says_nothing(capsys):
    assert "learning rate 0.02, as given" in said(capsys, manifest(0.02), given=True)
    assert "learning rate" not in said(capsys, manifest(None))
