"""The commands on a state file's blocks as a user runs them."""

import json
from contextlib import closing

import numpy as np
import pytest
from commands import run_command

from edgemem.bank.written.record import Provenance
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.state.store import State


def run(*arguments, code=0):
    """Standard output and standard error of a command that ends with `code`."""
    finished = run_command("bank", *arguments)
    assert finished.returncode == code, finished.stderr
    assert "Traceback" not in finished.stderr
    return finished.stdout, finished.stderr


@pytest.fixture
def path(tmp_path):
    """A state with the blocks night (versions 1 and 3) and day (2)."""
    with closing(State(tmp_path / "s.db", "bundle")) as state:
        for name in ("night", "day", "night"):
            WrittenBlocks(state).put(
                name,
                {"w": np.ones(2000, np.float32)},
                path="3/51",
                key=[1, 2],
                count=1200,
                provenance=Provenance("bundle", 9, 0.5, "context change"),
            )
    return tmp_path / "s.db"


def versions(path):
    out, _ = run("blocks", path, "--json")
    return {block["id"]: block["version"] for block in json.loads(out)["blocks"]}


def test_blocks_prints_a_table_of_80_columns(path):
    out, _ = run("blocks", path)
    assert "s.db: 2 blocks written here, 16,144 bytes" in out
    night = next(line for line in out.splitlines() if "night" in line)
    assert night.split() == ["night", "3/51", "3", "1,200", "8,072", "context", "change"]
    assert max(map(len, out.splitlines())) <= 80


def test_blocks_as_json_says_where_they_come_from(path):
    found = json.loads(run("blocks", path, "--json")[0])
    assert (found["bundle"], found["damage"]) == ("bundle", [])
    assert [block["id"] for block in found["blocks"]] == ["day", "night"]
    assert found["blocks"][1]["provenance"]["why"] == "context change"


def test_rollback_forget_and_compact_do_as_they_say(path):
    assert "block 'night' is now version 4, rolled back to version 1." in run(
        "rollback", path, "night"
    )[0].replace("\n", " ")
    assert versions(path) == {"night": 4, "day": 2}
    run("rollback", path, "night", code=2)
    assert "is forgotten" in run("forget", path, "night")[0]
    assert versions(path) == {"day": 2}
    size = path.stat().st_size
    given = json.loads(run("compact", path, "--json")[0])["bytes"]
    assert given == size - path.stat().st_size > 0
    assert "0 bytes given back" in run("compact", path)[0]


def test_blocks_move_to_a_device_without_a_state(path, tmp_path):
    out = tmp_path / "blocks.safetensors"
    assert "2 blocks. Next: edgemem bank import" in run("export", path, "--out", out)[0]
    assert "2 blocks taken, 0 as new" in run("import", tmp_path / "new.db", out)[0]
    found = json.loads(run("import", tmp_path / "new.db", out, "--json")[0])
    assert (found["taken"], sorted(found["kept"])) == ([], ["day", "night"])
    assert versions(tmp_path / "new.db") == versions(path)
    found = json.loads(run("export", path, "--out", out, "--id", "day", "--json")[0])
    assert [block["id"] for block in found["blocks"]] == ["day"]


def test_a_damaged_block_is_named_and_the_others_are_listed(path):
    with closing(State(path, None)) as state:
        state.rows("UPDATE block SET count = 5 WHERE id = 'day'")
    out, error = run("blocks", path, code=2)
    assert "night" in out and "block 'day': is damaged. Run edgemem bank rollback" in error
    out, _ = run("blocks", path, "--json", code=2)
    assert [block["id"] for block in json.loads(out)["blocks"]] == ["night"]
    assert "block 'day': is damaged" in json.loads(out)["damage"][0]


@pytest.mark.parametrize(
    "arguments",
    [
        ("blocks", "missing.db"),
        ("compact", "missing.db"),
        ("forget", "s.db", "dusk"),
        ("forget", "s.db", b"\xff".decode("utf-8", "surrogateescape")),
        ("rollback", "s.db", "day"),
        ("export", "s.db", "--out", "nowhere/f"),
        ("export", "s.db", "--out", "f", "--id", "dusk"),
        ("import", "s.db", "missing"),
        ("import", "s.db", "s.db"),
        ("blocks", "text"),
    ],
)
def test_refusals_are_one_line_and_change_nothing(path, tmp_path, monkeypatch, arguments):
    (tmp_path / "text").write_text("text")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    monkeypatch.chdir(tmp_path)
    _, error = run(*arguments, code=2)
    assert error.startswith("edgemem: ") and error.count("\n") == 1
    left = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert left.keys() == before.keys()
    assert versions(path) == {"night": 3, "day": 2}


def test_blocks_reads_beside_a_running_writer_and_the_others_are_refused(path):
    with closing(State(path, "bundle")):
        assert versions(path) == {"night": 3, "day": 2}
        _, error = run("forget", path, "night", code=2)
        assert "is locked" in error


@pytest.mark.parametrize("command", ["blocks", "compact", "forget", "rollback", "export", "import"])
def test_help_shows_an_example(command):
    assert f"Example: edgemem bank {command}" in run(command, "--help")[0]
