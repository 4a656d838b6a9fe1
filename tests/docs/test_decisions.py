"""Decisions are listed, short and few to a folder; so are the other pages of docs."""

from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
RECORDS = sorted((DOCS / "decisions").glob("*/*.md"))
MOST_WORDS = 320
MOST_PAGES = 12


def title(page):
    first = page.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# "), page
    return first[2:]


def test_the_list_names_every_record_by_its_title():
    listed = (DOCS / "decisions" / "index.md").read_text(encoding="utf-8")
    found = [line for line in listed.splitlines() if line.startswith("- ")]
    expected = [f"- [{title(r)}]({r.parent.name}/{r.name})" for r in RECORDS]
    assert sorted(found) == sorted(expected) and len(RECORDS) > 50


def test_records_are_short():
    assert [r.name for r in RECORDS if len(r.read_text("utf-8").split()) > MOST_WORDS] == []


def test_no_folder_holds_more_than_twelve_pages():
    folders = [folder for folder in [DOCS, *DOCS.rglob("*")] if folder.is_dir()]
    assert [f.name for f in folders if len(list(f.glob("*.md"))) > MOST_PAGES] == []
