"""Refuse a commit whose subject is longer than 72 characters, or not followed by an empty line.

    python release/commit_subject.py FILE

`FILE` holds the message, as git gives it to a hook `commit-msg`.
"""

from __future__ import annotations

import sys
from pathlib import Path

LONGEST = 72


def wrong(message: str) -> str | None:
    """What is wrong with a message, or None. Lines that begin with # are git's own."""
    lines = [line.rstrip() for line in message.splitlines() if not line.startswith("#")]
    while lines and not lines[0]:
        lines.pop(0)
    if not lines:
        return None  # git refuses an empty message itself
    if len(lines[0]) > LONGEST:
        return f"the subject has {len(lines[0])} characters, more than {LONGEST}"
    if len(lines) > 1 and lines[1]:
        return "the second line is not empty: leave it so, between subject and body"
    return None


def main() -> int:
    """0 if the message is fine."""
    found = wrong(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if found is not None:
        print(f"commit refused: {found}", file=sys.stderr)
    return int(found is not None)


if __name__ == "__main__":
    sys.exit(main())
