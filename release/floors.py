"""Prints the oldest versions of what users install that pyproject.toml allows, as constraints."""

import re
import tomllib
from pathlib import Path
from typing import Any

USERS = ("plot", "train", "export")  # extras; the others are for work on the project itself


def floors(project: dict[str, Any]) -> list[str]:
    """name==version for each `name>=version`."""
    asked = [*project["dependencies"]]
    for extra in USERS:
        asked += project["optional-dependencies"][extra]
    found = (re.match(r"([\w-]+)>=([\w.]+)", text) for text in asked)
    return [f"{match[1]}=={match[2]}" for match in found if match]


if __name__ == "__main__":
    document = tomllib.loads(Path("pyproject.toml").read_text())
    print("\n".join(floors(document["project"])))
