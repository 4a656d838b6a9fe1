"""Hooks of mkdocs: what the site has beside docs/ (see mkdocs.yml).

- `build/site-packages/edgemem`: the packages as they are installed, for the reference reads
  sources there.
- `reference/commands.md`: what `edgemem --help` and the help of every command print.
- README files of examples, and pages of the root, with links that still lead somewhere.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ROOT / "build" / "site-packages"
WIDTH = "100"
EXAMPLES = ("raspberry_pi", "keyword_spotting", "sensors", "new_class")
# Files outside docs/ -> their place in the site.
TAKEN = {f"examples/{name}/README.md": f"examples/{name}.md" for name in EXAMPLES} | {
    "examples/new_class/new_class.png": "examples/new_class.png",
    "CONTRIBUTING.md": "project/CONTRIBUTING.md",
    "SECURITY.md": "project/SECURITY.md",
    "CHANGELOG.md": "project/CHANGELOG.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]*)(#[^)]*)?\)")


def on_startup(command: str, dirty: bool) -> None:
    """Lay the packages out as they are installed, before anything looks for them."""
    shutil.rmtree(PACKAGES, ignore_errors=True)
    no_caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "edgemem", PACKAGES / "edgemem", ignore=no_caches)
    for folder in ("runtime", "models", "export"):
        shutil.copytree(ROOT / folder, PACKAGES / "edgemem" / folder, ignore=no_caches)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that docs/ does not hold."""
    from mkdocs.structure.files import File

    commands = File.generated(config, "reference/commands.md", content=commands_page())
    files.append(commands)
    for source, place in TAKEN.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to where files are in the site.

    One to a file that is not there becomes its name.
    """
    sources = {place: source for source, place in TAKEN.items()}
    path = page.file.src_uri
    return relinked(markdown, sources.get(path, f"docs/{path}"), path)


def relinked(markdown: str, source: str, place: str) -> str:
    """Markdown of the file `source` with links as they are right at `place` in the site."""

    def link(found: re.Match[str]) -> str:
        mark, text, target, anchor = found.groups()
        if not target or ":" in target:
            return found[0]
        meant = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        at = TAKEN.get(meant)
        if at is None and meant.startswith("docs/"):
            at = meant.removeprefix("docs/")
        if at is None and (ROOT / meant).exists():
            return text if text.startswith("`") else f"{text} (`{meant}`)"
        if at is None:
            return found[0]  # mkdocs says that it leads nowhere
        return f"{mark}[{text}]({posixpath.relpath(at, posixpath.dirname(place))}{anchor or ''})"

    return LINK.sub(link, markdown)


def commands_page() -> str:
    """Help of every command, asked of the commands themselves."""
    from typer.main import get_command

    os.environ["TERMINAL_WIDTH"] = WIDTH  # typer reads it when it draws
    from edgemem.cli import app

    page = ["# Commands", "", "What `edgemem --help` prints, and the help of every command.", ""]
    for name, text in helps(get_command(app), "edgemem"):
        level = "##" if name.count(" ") < 2 else "###"
        page += [f"{level} {name}", "", "```text", text, "```", ""]
    return "\n".join(page)


def helps(command: click.Command, name: str) -> list[tuple[str, str]]:
    """The full name of a command and its help, and the same of all commands below it."""
    from typer.testing import CliRunner

    from edgemem.cli import app

    result = CliRunner().invoke(app, [*name.split()[1:], "--help"])
    if result.exit_code:
        raise SystemExit(f"{name} --help: exit code {result.exit_code}\n{result.output}")
    lines = [line.rstrip() for line in result.output.strip("\n").splitlines()]
    found = [(name, "\n".join(lines).strip("\n"))]
    for below, part in getattr(command, "commands", {}).items():
        found += helps(part, f"{name} {below}")
    return found
