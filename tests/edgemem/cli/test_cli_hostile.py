"""Every command with hostile values, in this process: done, or refused in words; never a traceback.

What a command raises beyond its own errors would leave `main`, and fail the test with its
traceback.
"""

import itertools
import os
import signal
import sys

import numpy as np
import pytest

import edgemem
from edgemem.cli import main
from edgemem.demo import BUNDLE, STREAM

NUMBERS = (
    "-1", "0", "1", "nan", "inf", "-inf", "1e400", "-1e400", "1e38", str(2**31), str(2**63),
    str(2**64 - 1), "9" * 400, "9" * 5000, "", " ", "1\0", "0x10", "1.5", "--5", "٣", "x\x1b[2J",
)  # fmt: skip
TEXTS = (
    "",
    ",",
    "a\0b",
    "\x1b]0;owned\x07",
    "\udcff",
    "x" * 5000,
    "[red]",
    "a=b=c",
    "../..",
    "nan",
)
PATHS = (
    "missing", "folder", "pipe", "/dev/zero", "/dev/full", "empty", "noise", "loop", "dangling", "",
    "x" * 300, "a\0b.npz", "missing/deeper", "\udcff", "empty/below", "\x1b[2J", "many.npz",
)  # fmt: skip
# Of each command, values that work; None is left out. Named options are replaced one by one.
QUICK = {
    ("run",): {
        "BUNDLE": "path", "--input": "path", "--state": "path", "--plot": "path",
        "--adapt-when": "number", "--memory-budget": "number", "--chunk": "number",
        "--set": "text", "--threads": "number", "--provider": "text",
    },
    ("inspect",): {"BUNDLE": "path"},
    ("verify",): {"BUNDLE": "path", "--threads": "number", "--provider": "text"},
    ("doctor",): {"BUNDLE": "path"},
    ("bank", "build"): {
        "SOURCE": "path", "--out": "path", "--bundle": "path", "--levels": "number",
        "--branch": "number", "--elements": "number", "--storage": "text", "--seed": "number",
    },
    ("bank", "ls"): {"FOLDER": "path"},
    ("bank", "show"): {"FOLDER": "path", "--plot": "path"},
    ("bank", "verify"): {"FOLDER": "path"},
    ("bank", "keys"): {
        "BUNDLE": "path", "--input": "path", "--out": "path", "--threads": "number"
    },
    ("bank", "ship"): {"BANK": "path", "BUNDLE": "path", "--out": "path"},
    ("bank", "blocks"): {"STATE": "path"},
    ("bank", "compact"): {"STATE": "path"},
    ("bank", "forget"): {"STATE": "path", "ID": "text"},
    ("bank", "rollback"): {"STATE": "path", "ID": "text"},
    ("bank", "export"): {"STATE": "path", "--out": "path", "--id": "text"},
    ("bank", "import"): {"STATE": "path", "FILE": "path"},
}  # fmt: skip
SLOW = {
    ("demo",): {"--out": "path", "--threads": "number"},
    ("tune",): {
        "BUNDLE": "path", "--source": "path", "--out": "path", "--frames": "number",
        "--seed": "number", "--threads": "number",
    },
    ("warmup",): {
        "CHECKPOINT": "path", "--model": "text", "--data": "path", "--parts": "text",
        "--out": "path", "--model-arg": "text", "--statistics": "number", "--input-shape": "number",
        "--mean": "number", "--std": "number", "--kernel-size": "number", "--bottleneck": "number",
        "--groups": "number", "--epochs": "number", "--batch-size": "number",
        "--learning-rate": "number", "--labels": "text", "--seed": "number", "--threads": "number",
    },
    ("export",): {
        "CHECKPOINT": "path", "--model": "text", "--out": "path", "--parts": "text",
        "--batch": "number", "--gradient": "text", "--statistics": "number", "--learn": "text",
        "--objective": "text", "--optimizer": "text", "--learning-rate": "number",
        "--labels": "text", "--target": "text", "--int8": "path", "--max-classes": "number",
        "--input-shape": "number", "--mean": "number", "--std": "number",
    },
    ("train-prototypes",): {
        "CHECKPOINT": "path", "--data": "path", "--out": "path", "--test": "path",
        "--classes-per-task": "number", "--head": "text", "--relation-axis": "text",
        "--relation-weight": "number", "--relation-temperature": "number", "--epochs": "number",
        "--batch-size": "number", "--learning-rate": "number", "--prototype-rate": "number",
        "--rate-at-end": "number", "--seed": "number", "--threads": "number",
    },
}  # fmt: skip
VALUES = {"number": NUMBERS, "text": TEXTS, "path": PATHS}
# Devices are never written to: whoever runs the tests as root would lose them if a check were gone.
WRITTEN = {"--out", "--plot", "--state", "STATE"}
pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes and /dev/zero")


@pytest.fixture(scope="session")
def training(working):
    """The same of commands that need torch. Exports stop at the labels, which are too few."""
    import torch

    from edgemem.models.networks import digits

    folder = working["tune",]["--source"].parent
    torch.manual_seed(0)
    torch.save(digits().state_dict(), folder / "weights.pt")
    given = {"CHECKPOINT": folder / "weights.pt", "--model": "edgemem.models.networks:digits"}
    data = {"--data": folder / "source.npz", "--epochs": 1, "--batch-size": 16, "--threads": 1}
    return {
        ("warmup",): given
        | data
        | {"--parts": "layer1", "--input-shape": "1,8,8", "--out": "warm.safetensors"},
        ("export",): given
        | {"--parts": "layer1", "--input-shape": "1,8,8", "--out": "e.edgemem", "--labels": "a,b"},
        ("train-prototypes",): given | data | {"--input-shape": "1,8,8", "--out": "p.safetensors"},
    }


@pytest.fixture(scope="session")
def working(tmp_path_factory, demo_levels):
    """For every command the words with which it works, by the name of the option."""
    folder = tmp_path_factory.mktemp("working")
    with np.load(STREAM) as data:
        np.savez(folder / "s.npz", **{name: data[name][:16] for name in data.files})
        np.savez(folder / "source.npz", x=data["x"][:64], y=data["y"][:64])
        x = data["x"][:32]
    with edgemem.open(BUNDLE, folder / "s.db", threads=1) as runtime:
        runtime.step(x)
    keys = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    np.savez(folder / "keys.npz", keys=keys)
    from edgemem.bank.written.transfer import export_blocks
    from edgemem.state.store import State

    state = State(folder / "s.db", None, read_only=True)
    export_blocks(state, folder / "blocks.safetensors")
    state.close()
    stream, state_file = folder / "s.npz", folder / "s.db"
    return {
        ("run",): {"BUNDLE": BUNDLE, "--input": stream, "--threads": 1},
        ("inspect",): {"BUNDLE": BUNDLE},
        ("verify",): {"BUNDLE": BUNDLE, "--threads": 1},
        ("doctor",): {"BUNDLE": BUNDLE},
        ("demo",): {"--out": "results", "--threads": -1},
        ("tune",): {
            "BUNDLE": BUNDLE, "--source": folder / "source.npz", "--out": "t.edgemem",
            "--frames": 0,
        },
        ("bank", "build"): {
            "SOURCE": folder / "keys.npz", "--out": "bank", "--levels": 1, "--branch": 2
        },
        ("bank", "ls"): {"FOLDER": demo_levels},
        ("bank", "show"): {"FOLDER": demo_levels},
        ("bank", "verify"): {"FOLDER": demo_levels},
        ("bank", "keys"): {"BUNDLE": BUNDLE, "--input": stream, "--out": "k.npz", "--threads": 1},
        ("bank", "ship"): {"BANK": demo_levels, "BUNDLE": BUNDLE, "--out": "shipped.edgemem"},
        ("bank", "blocks"): {"STATE": state_file},
        ("bank", "compact"): {"STATE": state_file},
        ("bank", "forget"): {"STATE": state_file, "ID": "nobody"},
        ("bank", "rollback"): {"STATE": state_file, "ID": "nobody"},
        ("bank", "export"): {"STATE": state_file, "--out": "b.safetensors"},
        ("bank", "import"): {"STATE": "new.db", "FILE": folder / "blocks.safetensors"},
    }  # fmt: skip


@pytest.fixture
def outcome(tmp_path, monkeypatch, capsys):
    """Function: run the command line in a folder with hostile files; exit code, and its output."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "noise").write_bytes(np.random.default_rng(0).bytes(5000))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    np.savez(tmp_path / "many.npz", **{f"a{n}": np.zeros(1) for n in range(50)})
    monkeypatch.chdir(tmp_path)

    def run(words):
        monkeypatch.setattr(sys, "argv", ["edgemem", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, capsys.readouterr()

    def late(number, frame):
        raise AssertionError("the command does not end")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(600)
    yield run
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def words_of(command, values):
    options = [[name, value] for name, value in values.items() if name.startswith("--")]
    places = [value for name, value in values.items() if not name.startswith("--")]
    return [*command, *itertools.chain(*options), "--", *places]


def cases(table):
    return [
        pytest.param(command, option, kind, id=f"{' '.join(command)} {option}")
        for command, options in table.items()
        for option, kind in options.items()
    ]


def check(outcome, command, option, kind, values, some=slice(None)):
    for value in VALUES[kind][some]:
        if option in WRITTEN and value.startswith("/dev"):
            continue
        code, said = outcome(words_of(command, values | {option: value}))
        assert code in {0, 2}, (value, code, said.err)
        for output in (said.out, said.err):
            assert "Traceback" not in output, (value, output)
        if kind != "text" or command[0] == "bank":
            assert "\x1b" not in said.out, (value, said.out)


def a_quarter(table, command, option):
    """Neighbours in a command meet different values."""
    return slice(list(table[command]).index(option) % 4, None, 4)


@pytest.mark.parametrize(("command", "option", "kind"), cases(QUICK))
def test_some_hostile_values_are_refused_in_words(outcome, working, command, option, kind):
    check(outcome, command, option, kind, working[command], a_quarter(QUICK, command, option))


@pytest.mark.slow
@pytest.mark.parametrize(("command", "option", "kind"), cases(QUICK))
def test_hostile_values_are_refused_in_words(outcome, working, command, option, kind):
    check(outcome, command, option, kind, working[command])


@pytest.mark.slow
@pytest.mark.parametrize(("command", "option", "kind"), cases(SLOW))
def test_hostile_values_of_long_commands_are_refused_in_words(
    outcome, working, training, command, option, kind
):
    """These take seconds where a value is right after all: each option meets a quarter of them."""
    values = (working | training)[command]
    check(outcome, command, option, kind, values, a_quarter(SLOW, command, option))
