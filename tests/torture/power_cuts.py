"""Power cuts: every state that the disk may be left in must hold what had been acknowledged."""

import random
import subprocess
import sys
import tempfile
from pathlib import Path

from counts import Row
from device import Said, fast_folder, judged
from disk import ALL, NOTHING, SIZES, SOME, Disk, behind, built, events_of

HOW = (ALL, NOTHING, SIZES, SOME, SOME, SOME)
GO_ON = 20  # one in so many images is also gone on from
NOT_KEPT = ("journal", "s.db-shm")  # what the device says, and memory shared by processes


def recorded(bundle, library, seed, code=""):
    """Let a device live behind the disk; all that it wrote. code: run before it."""
    with tempfile.TemporaryDirectory(prefix="edgemem-") as folder:
        watched, log = Path(folder, "watched"), Path(folder, "log")
        watched.mkdir()
        words = [str(bundle), str(watched), str(seed)]
        program = f"{code}\nimport recorded\nrecorded.main(*{words!r})"
        command = [sys.executable, "-W", "ignore", "-c", program]
        done = subprocess.run(
            command, env=behind(library, watched, log), capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"the recorded device failed:\n{done.stderr}")
        return list(events_of(log))


def run(bundle, seed, cuts, told, code=""):
    """Cut the power about so many times, each in several ways; a row for each way. told: called
    after each."""
    rows = {how: Row(f"power cut, {how} kept") for how in dict.fromkeys(HOW)}
    with fast_folder() as folder:
        library = built(folder)
        if library is None:
            for row in rows.values():
                row.skipped = "there is no C compiler: install cc"
            return list(rows.values())
        events = recorded(bundle, library, seed, code)
        chance, disk, said = random.Random(seed), Disk(), Said()
        chosen = _chosen(events, cuts, chance)
        for number, event in enumerate(events):
            disk.happen(event)
            if event.kind == "W" and disk.is_named(event.file, "journal"):
                said.hear(event.content)
            if number in chosen:
                for variant, how in enumerate(HOW):
                    case = f"after change {number}, variant {variant} at seed {seed}"
                    _cut(rows[how], disk, how, Path(folder, "image"), bundle, said, case)
                told()
    return list(rows.values())


def _chosen(events, cuts, chance):
    """After which changes the power is cut: among those that make the file; then mostly around
    those that are not mere writes."""
    journal = next(event.file for event in events if event.content == b"journal")
    made = next(n for n, event in enumerate(events) if event[:2] == ("W", journal))
    rare = [n for n, event in enumerate(events) if event.kind != "W"]
    around = sorted({n + d for n in rare for d in (-1, 0) if n + d >= made})
    around = chance.sample(around, min(len(around), cuts // 2))
    rest = sorted(set(range(made, len(events))) - set(around))
    making = chance.sample(range(made), min(made, cuts))
    return {*making, *around, *chance.sample(rest, min(len(rest), cuts - len(around)))}


def _cut(row, disk, how, folder, bundle, said, case):
    image = disk.after_cut(how, random.Random(case))
    files = {name: content for name, content in image.items() if name not in NOT_KEPT}
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    verdict = judged(folder / "s.db", bundle, said, run=row.cases % GO_ON == 0)
    row.add(verdict, case, files)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
