"""`edgemem generate`: the answer on standard output, what was fetched beside it."""

import json

import pytest
from commands import run_command
from made_memories import TEXTS

import edgemem
from edgemem.printable import printable

PROMPT = TEXTS[0]


def test_it_prints_the_answer(tiny, runtime):
    expected = runtime.generate(PROMPT, edgemem.Generation(6), block="off").all()
    found = run_command("generate", tiny, "--prompt", PROMPT, "--max-tokens", 6, "--block", "off")
    assert found.returncode == 0 and found.stderr.splitlines() == ["block: off"]

    lines = "\n".join(printable(line) for line in expected.split("\n"))
    assert found.stdout.rstrip("\n") == lines.rstrip("\n")


def test_json_tells_all(tiny, runtime):
    answer = runtime.generate(PROMPT, edgemem.Generation(6, temperature=0.9, top_p=0.8, seed=3))
    answer.all()
    found = run_command(
        "generate", tiny, "--prompt", PROMPT, "--max-tokens", 6, "--temperature", 0.9,
        "--top-p", 0.8, "--seed", 3, "--json",
    )  # fmt: skip
    assert json.loads(found.stdout) == {
        "text": answer.text,
        "tokens": answer.tokens,
        "prompt_tokens": answer.prompt_tokens,
        "finish": "length",
        "block": "fetched",
        "path": answer.memory.path,
        "denied": False,
        "events": [],
    }
    denied = run_command(
        "generate", tiny, "--prompt", PROMPT, "--deny", answer.memory.path, "--json"
    )
    assert json.loads(denied.stdout)["denied"] is True


@pytest.mark.parametrize(
    "words, reason",
    [
        (("--prompt", ""), "prompt: is empty"),
        (("--prompt", "caf\udce9"), "prompt: is not UTF-8"),
        (("--prompt", "a", "--temperature", "-1"), "temperature=-1.0"),
        (("--prompt", "a", "--block", "5"), "is no path of 2 levels"),
        (("--prompt", "a" * 200), "at most 96 fit"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tiny, words, reason):
    found = run_command("generate", tiny, *words)
    assert found.returncode == 2 and found.stdout == ""
    assert reason in found.stderr and len(found.stderr.splitlines()) == 1
