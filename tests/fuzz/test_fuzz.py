"""Files that were altered: each is refused, or told of, or read as it was written."""

import pytest
from fuzzing.case import REFUSED, SAME
from fuzzing.formats import FORMATS
from fuzzing.run import failures, jobs, run


@pytest.mark.parametrize("cases", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_altered_file_does_harm(cases):
    found = run(jobs(cases, FORMATS), workers=1)
    assert failures(found) == []
    assert set(found) == set(FORMATS)
    assert sum(entry.cases for entry in found.values()) >= cases
    # The edits reach the readers, and do not merely break every file.
    for entry in found.values():
        assert entry.outcomes[REFUSED] and entry.outcomes[SAME]


def test_cases_that_cannot_be_run_have_not_passed():
    with pytest.raises(RuntimeError, match="cannot begin"):
        run([("no such format", [1])], workers=1)


def test_seed_makes_the_same_case_again(tmp_path):
    for name, made in FORMATS.items():
        folders = [tmp_path / f"{name}-{number}" for number in range(2)]
        for folder in folders:
            folder.mkdir()
        one, two = map(made, folders)
        assert [one.case(seed) for seed in range(20)] == [two.case(seed) for seed in range(20)]
