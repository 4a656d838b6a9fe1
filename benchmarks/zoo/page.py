"""The page of the matrix: one line for each architecture, then what is refused, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.shared.report import setting_text
from benchmarks.zoo.kept import PACKAGES
from benchmarks.zoo.verdict import BEYOND, REFUSED, RIGHT, WRONG, Verdict

NOTHING = "–"
HEAD = (
    "architecture", "library", "frame", "verdict", "norms", "sites", "aligned / frozen",
    "step / frozen", "MB", "× checkpoint", "frozen off", "export",
)  # fmt: skip
TITLES = {
    WRONG: "Wrong: what went wrong",
    REFUSED: "Refused: why, and what to do",
    BEYOND: "Beyond limits",
}
INTRODUCTION = """# Models: which architectures come out right

Written by `{command}`; do not edit.

{counts}

Each was aligned with 128 unlabelled source frames (`edgemem export MODEL --source FRAMES`, sites
chosen by the command), exported for batches of 8, and run on a stream that drifts away. **Weights
are random**, with the statistics of BatchNorms measured on the frames and logits scaled to a
deviation of 2. So the table tells whether a network is carried over rightly and what that costs. It
tells nothing of what alignment gains: for that, see [the results](benchmarks/results.md).

*Right* means: the bundle's frozen logits are those of the model that was given (within 1e-4 of the
largest); every output of the step is that of torch; over 20 batches of the drifting stream, answers
and block stay finite and change (answers of the graph: of random weights a guard often takes the
frozen model's; where alignment would not help, export leaves a network as it is, and answers have
to stay); a restart from the state file answers the same; and the bundle passes `edgemem verify` in
an environment without torch. *Refused*: one error says why, and what to do. *Wrong*: anything else,
also where the export's own check stopped it, so that nothing was written. *Beyond limits*: it took
more than {seconds} seconds of one core or 12 GB of address space.

*norms*: layers where moments are aligned, those at *sites* that were put in among them. *aligned /
frozen*: time of a prediction, compared with torch's ONNX export of the given model in the same
onnxruntime, one thread, a batch of 8. *step / frozen*: the same of an adaptation step. *MB*: the
whole bundle, with all graphs; *× checkpoint*: compared with the model's weights. *frozen off*:
largest difference of frozen logits. *export*: seconds of one core, alignment included.

{about}
"""


def page(
    rows: Mapping[str, Mapping[str, Any]],
    verdicts: Mapping[str, Verdict],
    about: Mapping[str, Any],
    listed: int,
) -> str:
    """The page as Markdown.

    rows: by "library/architecture", in the order to show. listed: how many there will be.
    """
    counts = Counter(found.word for found in verdicts.values())
    parts = [
        INTRODUCTION.format(
            command="make bench-zoo",
            counts=_counts(counts, len(verdicts), listed),
            seconds=about["seconds"],
            about=_setting(about, rows),
        ),
        _table(HEAD, [_line(label, rows[label], found) for label, found in verdicts.items()]),
    ]
    for word, title in TITLES.items():
        if counts[word]:
            parts += [f"\n## {title}\n", _reasons(verdicts, word)]
    return "\n".join(parts)


def _counts(counts: Counter[str], total: int, listed: int) -> str:
    words = [f"{counts[word]} {word}" for word in (REFUSED, BEYOND, WRONG) if counts[word]]
    text = f"**Of {total} architectures {counts[RIGHT]} are right**"
    others = f"; {', '.join(words)}." if words else "."
    missing = f" {listed - total} more are listed and have not run yet." if listed > total else ""
    return text + others + missing


def _setting(about: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> str:
    dates = sorted({str(row["date"]) for row in rows.values()})
    codes = {str(row["made_with"]["code"]) for row in rows.values()}
    last = next(reversed(list(rows.values())))["made_with"]
    others = ", ".join(f"{name} {last[name]}" for name in PACKAGES if name not in about)
    states = "one state of the code" if len(codes) == 1 else f"{len(codes)} states of the code"
    choices = f"rows of {dates[0]} to {dates[-1]}, {states}; {others}"
    return setting_text(about, choices)


def _line(label: str, row: Mapping[str, Any], found: Verdict) -> list[str]:
    library, name = label.split("/", 1)
    frame = " × ".join(map(str, row.get("frame", ()))) or NOTHING
    ms = row.get("ms", {})
    plain = ms.get("frozen")
    ratios = [f"{ms[what] / plain:.1f}" if plain else NOTHING for what in ("aligned", "step")]
    export = row["align_s"] + row["export_s"] if "export_s" in row else None
    return [
        name, library, frame, f"**{found.word}**" if found.word != RIGHT else RIGHT,
        str(row.get("norms", NOTHING)), str(row.get("sites", NOTHING)), *ratios,
        f"{row['bytes'] / 1e6:.1f}" if "bytes" in row else NOTHING,
        f"{row['times_checkpoint']:.1f}" if "bytes" in row else NOTHING,
        f"{row['frozen_off']:.0e}" if "frozen_off" in row else NOTHING,
        f"{export:.0f} s" if export is not None else NOTHING,
    ]  # fmt: skip


def _reasons(verdicts: Mapping[str, Verdict], word: str) -> str:
    head = ("architecture", "reason", "remedy") if word == REFUSED else ("architecture", "reason")
    rows = [
        [label.split("/", 1)[1], _plain(found.reason), _plain(found.remedy)][: len(head)]
        for label, found in verdicts.items()
        if found.word == word
    ]
    return _table(head, rows)


def _plain(text: str) -> str:
    """Text of an error as a cell."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
