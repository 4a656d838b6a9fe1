"""What docs name is there: files by their path, Python by its dotted name, make targets."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import edgemem

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/README.md")])
ROOMS = "edgemem|runtime|models|export|benchmarks|tests|examples|release"
TEXT = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}


def found(pattern):
    """What a pattern finds, with the pages that it is on."""
    pairs = [(match, page) for page, text in TEXT.items() for match in re.findall(pattern, text)]
    return {match: sorted({p for m, p in pairs if m == match}) for match, _ in pairs}


def test_files_that_are_named_exist():
    code = rf"(?<![\w./-])((?:{ROOMS})/[\w/.-]+\.(?:py|sh|txt|toml))\b"
    paths = found(code) | found(r"(?<![\w./-])(docs/[\w/.-]+\.(?:md|png|svg))\b")
    assert {path: pages for path, pages in paths.items() if not (ROOT / path).exists()} == {}
    assert len(paths) > 50


def exists(name):
    """Whether a dotted name leads to something."""
    words = name.split(".")
    for n in range(len(words), 0, -1):
        try:
            thing = importlib.import_module(".".join(words[:n]))
        except ModuleNotFoundError:
            continue
        for word in words[n:]:
            if not hasattr(thing, word):
                return False
            thing = getattr(thing, word)
        return True
    return False


@pytest.mark.parametrize(
    "name, there", [("edgemem.open", True), ("edgemem.runtime.nothing", False)]
)
def test_names_are_looked_up(name, there):
    assert exists(name) == there


def test_python_that_is_named_exists():
    names = found(r"(?<![\w.@/-])(edgemem(?:\.[A-Za-z_]\w*)+)")
    assert {n: pages for n, pages in names.items() if not exists(n) and ".db" not in n} == {}
    assert len(names) > 10


def unknown_keywords(code, name):
    """Keyword arguments in calls of `edgemem.NAME`, or `NAME`, that it does not take."""
    takes = inspect.signature(getattr(edgemem, name)).parameters
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    calls = [c for c in calls if ast.unparse(c.func) in (f"edgemem.{name}", name)]
    return {k.arg for call in calls for k in call.keywords} - {*takes, None}


def test_calls_on_pages_have_keywords_that_are_there():
    fences = found(r"(?s)```python\n(.*?)```")
    inline = found(r"`((?:edgemem\.)?(?:open|Options)\([^`]*\))`")
    calls = {code.replace("…", "..."): pages for code, pages in (fences | inline).items()}
    wrong = {}
    for code, pages in calls.items():
        try:
            names = unknown_keywords(code, "open") | unknown_keywords(code, "Options")
        except SyntaxError:  # a piece of a program
            continue
        if names:
            wrong[code] = (names, pages)
    assert wrong == {} and len(calls) > 15
    assert unknown_keywords("edgemem.open(b, cache='x', threads=1)", "open") == {"cache"}


def test_make_targets_that_are_named_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    heads = re.findall(r"^([\w -]+):(?!=)", makefile, flags=re.MULTILINE)
    targets = {target for head in heads for target in head.split()}
    named = found(r"`make ([a-z][\w-]*)")
    assert {n: pages for n, pages in named.items() if n not in targets} == {}
