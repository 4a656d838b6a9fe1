"""The reference names all that is public, and nothing else."""

import importlib
import re
from pathlib import Path

import pytest

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"
PUBLIC = ("edgemem", "edgemem.models", "edgemem.models.prototypes", "edgemem.export")


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_in_the_reference(module):
    pages = "\n".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md"))
    shown = re.findall(rf"^::: {re.escape(module)}\.(\w+)$", pages, flags=re.MULTILINE)
    names = importlib.import_module(module).__all__
    assert sorted(shown) == sorted(name for name in names if not name.startswith("__"))
