"""The comparison of two commits: its ratios, its page, and what it refuses."""

import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from benchmarks.cost import two_commits

COMMITS = {
    "before": {"commit": "abc1234", "date": "2026-11-29", "subject": "Before"},
    "now": {"commit": "def5678", "date": "2026-11-30", "subject": "Now"},
}


def measured(*milliseconds, labels=(0, 1, 2)):
    return [
        {"ms": {"step": value}, "steps": 4, "wrong": 1, "labels": list(labels)}
        for value in milliseconds
    ]


def test_ratios_are_taken_round_by_round():
    found = two_commits.compare(measured(1.0, 2.0, 10.0), measured(2.0, 3.0, 5.0))["step"]
    assert (found["before"], found["now"]) == (2.0, 3.0)
    assert (found["lowest"], found["ratio"], found["highest"]) == (0.5, 1.5, 2.0)
    assert found["ratio of least"] == 2.0


def test_the_page_names_both_commits_and_says_whether_answers_differ():
    before, now = measured(1.0), measured(2.0, labels=(0, 1, 3))
    document = {
        "commits": COMMITS,
        "results": two_commits.compare(before, now),
        "stream": two_commits.stream_text(before[0], now[0]),
    }
    page = two_commits.page(document, "the setting")
    assert "make bench-commits BEFORE=abc1234" in page and "`def5678` (2026-11-30), Now" in page
    assert "| step | 1.00 | 2.00 | 2.00 | 2.00, 2.00 | 2.00 |" in page
    assert "labels that differ: 1." in page and "the setting" in page


def test_what_git_does_not_know_is_refused():
    with pytest.raises(ArgumentTypeError, match="no-such-commit"):
        two_commits.commit("no-such-commit")


@pytest.mark.slow
def test_a_version_runs_from_where_it_was_laid_out(tmp_path):
    """The worker imports the copy, not what is installed here."""
    site = two_commits.lay_out("HEAD", tmp_path / "site")
    where = subprocess.run(
        [sys.executable, "-P", "-c", "import edgemem.runtime; print(edgemem.runtime.__file__)"],
        env={"PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert Path(where.strip()) == site / "edgemem" / "runtime" / "__init__.py"
    found = two_commits.one_round({"now": site})["now"]
    assert set(found["ms"]) >= {two_commits.START, "step, 16 frames", "the demo's stream"}
    assert min(found["ms"].values()) > 0 and found["steps"] > 0
    assert len(found["labels"]) == 4800 and 0 < found["wrong"] < 2400
