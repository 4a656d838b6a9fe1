"""The commands on a bank's levels as a user runs them."""

import json

import numpy as np
import pytest
from commands import run_command
from places import begin_of


def run(*arguments, code=0):
    """Standard output and standard error of a command that ends with `code`."""
    finished = run_command("bank", *arguments)
    assert finished.returncode == code, finished.stderr
    assert "Traceback" not in finished.stderr
    return finished.stdout, finished.stderr


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys.npz"
    np.savez(path, keys=np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32))
    return path


@pytest.fixture
def bank(keys, tmp_path):
    run("build", keys, "--levels", 2, "--branch", 4, "--out", tmp_path / "b", "--elements", 5)
    return tmp_path / "b"


def test_build_lists_what_it_built(keys, tmp_path):
    out, _ = run("build", keys, "--levels", 2, "--branch", 4, "--out", tmp_path / "b", "--json")
    found = json.loads(out)
    assert found["branch"] == 4
    assert [level["nodes"] for level in found["levels"]] == [4, 16]
    assert [level["elements"] for level in found["levels"]] == [0, 0]
    assert json.loads(run("ls", tmp_path / "b", "--json")[0]) == found


def test_build_says_when_most_rows_are_empty(keys, tmp_path):
    def told(levels):
        return run("build", keys, "--levels", levels, "--branch", 16, "--out", tmp_path / "b")[0]

    assert "rows are empty: fewer --levels" in told(3)
    assert "empty" not in told(1)


def test_ls_and_show_print_tables(bank):
    out, _ = run("ls", bank)
    assert "level-2.safetensors" in out and "float32" in out
    out, _ = run("show", bank)
    assert "share" in out and all(len(line) <= 80 for line in out.splitlines())
    found = json.loads(run("show", bank, "--json")[0])
    assert [row["nodes"] for row in found["levels"]] == [4, 16]


def test_show_saves_a_picture(bank, tmp_path):
    run("show", bank, "--plot", tmp_path / "tree.png")
    assert (tmp_path / "tree.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    _, error = run("show", bank, "--plot", tmp_path / "tree.txt", code=2)
    assert "no kind of picture" in error


def test_verify_names_every_fault_and_ends_with_2(bank):
    out, _ = run("verify", bank)
    assert "as it was written" in out
    path = bank / "level-2.safetensors"
    begin = begin_of(path)
    places = [begin["blocks"] + 20 * row for row in (3, 9)] + [begin["count"]]
    content = bytearray(path.read_bytes())
    for place in places:
        content[place] ^= 1
    path.write_bytes(content)
    out, error = run("verify", bank, "--json", code=2)
    found = json.loads(out)
    assert not found["whole"]
    text = "\n".join(found["faults"])
    assert "row 3" in text and "row 9" in text and "counts or check sums" in text
    assert "children of row 0" in text
    assert error.splitlines()[-1].startswith("edgemem: ")


def test_a_folder_without_levels_is_one_clear_error(tmp_path):
    for command in ("ls", "show", "verify"):
        _, error = run(command, tmp_path, code=2)
        assert "level-1.safetensors" in error


def test_help_shows_an_example():
    for command in ("build", "ls", "show", "verify"):
        assert "Example: edgemem bank" in run(command, "--help")[0]
