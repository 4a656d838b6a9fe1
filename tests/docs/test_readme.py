"""README keeps its promises: it is short, its program runs, its figures are measured."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs/benchmarks/results.md").read_text(encoding="utf-8")


def prose(text):
    """Paragraphs of a page, without code, tables, pictures, headings and targets of links."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"!\[[^]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    lines = ["" if line.startswith(("|", "#")) else line for line in text.splitlines()]
    return [" ".join(p.split()) for p in "\n".join(lines).split("\n\n") if p.strip()]


def long_sentences(text, most=25):
    """Sentences of more words than that."""
    sentences = [s for p in prose(text) for s in re.split(r"(?<=[.!?])[*]*\s+", p)]
    return [s for s in sentences if len(s.split()) > most]


def test_a_long_sentence_is_found():
    assert long_sentences("word " * 26 + "end.\n\nA short one. " + "`x` " * 25 + ".") != []
    assert long_sentences("| " + "word " * 30 + "|\n\nShort.") == []


def test_it_is_short():
    assert len(README.splitlines()) <= 90
    assert long_sentences(README) == []


def test_its_program_prints_what_it_says():
    program, said = re.search(
        r"```python\n(.*?)```\s+```text\n(.*?)```", README, re.DOTALL
    ).groups()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, "README.md", "exec"), {})  # noqa: S102
    assert printed.getvalue() == said


def cells(line):
    return [cell.strip(" *") for cell in line.strip().strip("|").split("|")]


STREAMS = {
    "five contexts return, labels come in runs": "recurring, correlated",
    "all corruptions mixed": "mixed",
    "one corruption after another": "continual",
    "clean frames": "clean",
    "bursts of one class": "bursts of one class",
    "spoken digits, speakers never heard": "speech",
}


def errors_of(section):
    """Method -> error of the first seed, and the same as a cell of README has it."""
    part = RESULTS.split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = [cells(line)[:3] for line in part.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if row[0] not in ("method", "---")]
    shown = {name: f"{error} ({seeds})" if "±" in seeds else error for name, error, seeds in rows}
    return {name: float(error) for name, error, _ in rows}, shown


@pytest.mark.parametrize("row, section", STREAMS.items())
def test_figures_of_its_table_are_those_of_the_results(row, section):
    errors, shown = errors_of(section)
    line = next(line for line in README.splitlines() if line.startswith(f"| {row} |"))
    _, frozen, other, warm, own = cells(line.replace("*", ""))
    assert (frozen, own) == (shown["source"], shown["EdgeMem"])
    ours = ("EdgeMem", "source", "warm, not adapted", "batch statistics")
    peers = [name for name in errors if not name.startswith(ours)]
    for cell, ending in ((other, ""), (warm, ", warm")):
        named, figure = cell.split(" ", 1)
        beside = [name for name in peers if name.endswith(", warm") == bool(ending)]
        assert figure == shown[named + ending]
        assert errors[named + ending] == min(errors[name] for name in beside)


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [t for t in targets if "://" not in t and not (ROOT / t).exists()] == []
