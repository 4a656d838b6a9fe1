"""What came of many faults of one kind."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

ENDINGS = ("", "-wal", "-journal")
EVIDENCE = Path("results", "torture")  # files that were judged wrong, as the fault left them


def files_of(path):
    """The content of a state file and what belongs to it, by name."""
    files = [Path(f"{path}{ending}") for ending in ENDINGS]
    return {file.name: file.read_bytes() for file in files if file.exists()}


@dataclass
class Row:
    """One line of the table.

    fault: its kind. cases: how many there were. old, new: after how many the file held what had been
    acknowledged last, or what was on the way. lost: steps, at most. skipped: why there were none. failures: what was
    wrong, with what makes it again.
    """

    fault: str
    cases: int = 0
    old: int | None = 0
    new: int | None = 0
    lost: int | None = 0
    skipped: str = ""
    failures: list[str] = field(default_factory=list)

    def add(self, verdict, case, files=None):
        """Count one case; case: what makes it again. files: kept, if it is a failure."""
        self.cases += 1
        if self.lost is not None:
            self.lost = max(self.lost, verdict.lost)
        if verdict.wrong:
            self.failures.append(f"{case}: {'; '.join(verdict.wrong)}")
            folder = EVIDENCE / f"{self.fault}, {case}".replace(":", "").replace(" ", "-")
            for name, content in (files or {}).items():
                folder.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
        elif verdict.content == "old":
            self.old += 1
        else:
            self.new += 1

    def cells(self):
        """Text of the columns of the table."""
        if self.skipped:
            return [self.fault, "skipped", "–", "–", "–", "–"]
        figures = (self.cases, self.old, self.new, self.lost, len(self.failures))
        return [self.fault, *("–" if n is None else f"{n:,}" for n in figures)]

    def as_dict(self):
        """For JSON."""
        return asdict(self)


COLUMNS = ("fault", "cases", "old", "new", "most steps lost", "failures")
