"""The page and the picture of `make bench-ocr`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.shared.report import setting_text
from edgemem.plot import COLOURS

WAYS = {"given": "as given", "statistics": "statistics alone", "step": "with steps"}
SHADES = {"given": "frozen", "statistics": "statistics", "step": "adapted"}
PLAIN = 0.01  # differences above it are told
PICTURE = "images/ocr.png"
INTRODUCTION = """# Reading text: networks of others, under eight shifts

Written by `make bench-ocr`; do not edit.

The recogniser, detector and classifier of PP-OCRv4 are ONNX files of the package
rapidocr-onnxruntime: nobody of this project trained them, and only the files are used. Each became
a bundle by `edgemem export FILE --source FRAMES` with {source} unlabelled frames without any shift,
and ran on the device's runtime without torch. *As given* is onnxruntime on the file itself; the
bundle at rest answers alike (largest difference in the tables below). *Statistics alone*: moments
follow the stream. *With steps*: the likelihood ratio also moves scales and shifts of norms, which
has to be asked for where outputs are no exclusive classes.

Text is rendered: words of Python's help texts in five DejaVu fonts, any colours of some contrast.
Every shift is a stream of its own in batches of {batch}, from the bundle as exported. The shifts
are those of `benchmarks/ocr/shifts.py`, of one strength each, set by what the frozen recogniser
makes of them before anything was aligned. Export chooses sites, weight and limit of certainty on
others (`edgemem/shifts.py`): noise, blur and impulses have kin there. Seeds: {seed} for frames and
shifts, {source_seed} for source frames.

![errors by shift](images/ocr.png)
"""


def page(found: Mapping[str, Any], about: Mapping[str, Any], numbers: Mapping[str, int]) -> str:
    """The page as Markdown. found: by title of a network; numbers: of the introduction."""
    parts = [INTRODUCTION.format(**numbers)]
    for title, one in found.items():
        parts.append(_section(title, one))
    threads = f"threads: {about['threads']}"
    return "\n".join([*parts, f"{setting_text(about, threads)}\n"])


def _section(title: str, one: Mapping[str, Any]) -> str:
    export, errors = one["export"], one["errors"]
    about = (
        f"Share of wrong {one['measure']} in %, {one['frames']} frames of each shift. "
        f"{export['sites']} sites besides its BatchNorms, weight {export['alpha']:g}, rate of "
        f"steps {export['learning_rate']:g}; exported in {export['seconds']:.0f} s; at rest "
        f"{one['largest_difference_at_rest']:.1e} from the file."
    )
    lines = [
        f"## {title}",
        "",
        about,
        "",
        "| | " + " | ".join(errors) + " |",
        "|---" * (len(errors) + 1) + "|",
    ]
    for way, name in WAYS.items():
        numbers = (f"{100 * row[way]:.1f}" for row in errors.values())
        lines.append(f"| {name} | {' | '.join(numbers)} |")
    return "\n".join([*lines, "", _harms(errors), ""])


def _harms(errors: Mapping[str, Mapping[str, float]]) -> str:
    """In words, where a way is worse than the file as given by more than a point."""
    told = []
    for way in ("statistics", "step"):
        worse = [n for n, row in errors.items() if row[way] > row["given"] + PLAIN]
        gained = sum(row[way] < row["given"] - PLAIN for row in errors.values())
        what = f"plainly worse under {', '.join(worse)}" if worse else "plainly worse nowhere"
        told.append(f"{WAYS[way].capitalize()}: better by more than a point in {gained}, {what}.")
    return " ".join(told)


def picture(found: Mapping[str, Any], path: Path) -> None:
    """Bars of every network, shift and way."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(found), figsize=(9, 2.6 * len(found)), squeeze=False)
    for axis, (title, one) in zip(axes[:, 0], found.items(), strict=True):
        names = list(one["errors"])
        for number, (way, name) in enumerate(WAYS.items()):
            heights = [100 * one["errors"][shift][way] for shift in names]
            places = [place + 0.27 * (number - 1) for place in range(len(names))]
            axis.bar(places, heights, 0.25, label=name, color=COLOURS[SHADES[way]])
        axis.set_xticks(range(len(names)), names)
        axis.set_ylabel(f"wrong {one['measure']}, %")
        axis.set_title(title, loc="left")
    axes[0, 0].legend(frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
