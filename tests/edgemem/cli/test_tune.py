"""`edgemem tune`: a new bundle with what was chosen, and the old one untouched."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from opening import opened_with

from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE, STREAM

COMMAND = Path(sys.executable).with_name("edgemem")


@pytest.fixture
def source(tmp_path):
    with np.load(STREAM) as held:
        clear = held["context"] == "clear"
        np.savez(tmp_path / "source.npz", x=held["x"][clear], y=held["y"][clear])
    return tmp_path / "source.npz"


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def run(*words):
    words = (COMMAND, "tune", *map(str, words))
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_tuned_bundle_holds_the_choice_and_its_report(bundle, seal, source, tmp_path):
    seal(bundle, lambda m: m["hyper_parameters"]["alpha"].update(default=1.0))
    before, out = contents(bundle), tmp_path / "tuned.edgemem"
    finished = run(bundle, "--source", source, "--out", out, "--frames", 64, "--json")
    assert finished.returncode == 0, finished.stderr
    assert contents(bundle) == before
    report, tuned = json.loads(finished.stdout), open_bundle(out)
    assert report["identity"] == tuned.identity != open_bundle(bundle).identity
    assert report["changed"]["alpha"] == {"from": 1.0, "to": 0.5}
    assert tuned.manifest.hyper_parameters["alpha"].default == 0.5
    assert tuned.manifest.exported_from["tuned"]["changed"] == report["changed"]
    assert report["after"]["all"] < report["before"]["all"]
    verified = subprocess.run([COMMAND, "verify", out], capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stdout


def test_how_often_the_step_runs_is_part_of_a_bundle(bundle, seal):
    seal(bundle, lambda m: m.update(adapt_when=3))
    with np.load(STREAM) as held:
        x = held["x"][: 6 * 16]
    for options, steps in (({}, 2), ({"adapt_when": 1}, 6)):
        with opened_with(bundle, contexts=False, **options) as runtime:
            runtime.step(x)
            assert runtime.counters["steps"] == steps


def test_a_place_that_holds_something_else_is_refused(source, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    for out in (tmp_path / "taken", BUNDLE):
        finished = run(BUNDLE, "--source", source, "--out", out)
        assert finished.returncode == 2 and finished.stderr.strip().startswith("edgemem: ")
    assert (tmp_path / "taken" / "file").read_text() == "mine"
