"""One word, one meaning: modules and classes are named by words of docs/glossary.md."""

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
SECTIONS = dict(
    zip(*[iter(re.split(r"^## (.*)\n", PAGE, flags=re.MULTILINE)[1:])] * 2, strict=True)
)
TO_GO, PLAIN = "Words to go", "Plain words in names"
PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+")


def words_of(name):
    """The words of a name, in lower case: `OnnxRuntimeGraph`, `state_file`, `_Door`."""
    return [part.lower() for part in PART.findall(name)]


def modules_and_classes():
    """Name -> where it is defined, of modules and of public classes; folders are modules, too, but
    may have the name of one: `edgemem/bank` and its commands in
    `edgemem/cli/commands/bank_levels.py`."""
    modules, classes = defaultdict(list), defaultdict(list)
    for folder in ("edgemem", "runtime", "models", "export"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            where = path.relative_to(ROOT).as_posix()
            if path.stem == "__init__":
                modules[path.parent.name] += []
            else:
                modules[path.stem].append(where)
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    classes[node.name].append(where)
    return modules, classes


def first_column(section):
    """Words in code type in the first column of a section's table."""
    rows = [line.split("|")[1] for line in SECTIONS[section].splitlines() if line.startswith("| `")]
    return [word for cell in rows for word in re.findall(r"`(\w+)`", cell)]


TERMS = [w for section in SECTIONS if section not in (TO_GO, PLAIN) for w in first_column(section)]
MODULES, CLASSES = modules_and_classes()
USED = {word: name for name in [*MODULES, *CLASSES] for word in words_of(name)}


def test_names_are_taken_apart():
    assert words_of("OnnxRuntimeGraph") == ["onnx", "runtime", "graph"]
    assert words_of("state_file") == ["state", "file"] and words_of("_Conv1d") == ["conv1d"]
    assert words_of("ONNXGraph") == ["onnx", "graph"]
    assert {"loop", "contexts"} <= set(MODULES) and "Runtime" in CLASSES


def test_every_word_is_explained_once():
    explained = TERMS + first_column(TO_GO) + SECTIONS[PLAIN].split(":", 1)[1].split()
    assert sorted({word for word in explained if explained.count(word) > 1}) == []


def test_every_word_of_a_name_is_in_the_glossary():
    plain = SECTIONS[PLAIN].split(":", 1)[1].split()
    known = {*TERMS, *first_column(TO_GO), *plain}
    assert {word: name for word, name in USED.items() if word not in known} == {}


def test_no_name_holds_a_word_to_go():
    assert {word: USED[word] for word in first_column(TO_GO) if word in USED} == {}


def twice(places):
    return {n: p for n, p in places.items() if len(p) > 1 and not n.startswith("_")}


def test_no_module_has_the_name_of_another():
    assert twice(MODULES) == {}


def test_no_public_class_has_the_name_of_another():
    assert twice(CLASSES) == {}
