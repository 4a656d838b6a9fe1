"""The page and the picture of `make bench-tasks`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.shared.report import setting_text
from edgemem.plot import COLOURS

WAYS = {"given": "as given", "statistics": "statistics alone", "step": "with steps"}
SHADES = {"given": "frozen", "statistics": "statistics", "step": "adapted"}
PLAIN = 0.01  # differences above it are told
PICTURE = Path("images/tasks.png")
INTRODUCTION = """# Other outputs: what adapting does to each

Written by `make bench-tasks`; do not edit.

Small networks, trained by the benchmark and written as ONNX files. Each became a bundle by
`edgemem export FILE --source FRAMES --task TASK` with {source_frames} unlabelled frames without any
shift. It ran on the runtime in batches of {batch}. *As given* is the network in torch. *Statistics
alone*: moments follow the stream. *With steps*: scales and shifts of norms learn, too. For outputs
that are not classes, steps have to be asked for (`--norm-affine --objective`): by the likelihood
ratio of positions or labels; of places by aligning features in their subspace (SSA, with its
authors' optimizer and rate), of reconstructions by aligning moments.

Pictures are digits of scikit-learn on coloured ground, under the shifts of
`benchmarks/ocr/shifts.py`. Speech is the free spoken digit dataset, as other microphones hear it,
and a speaker whom the network never heard in training. Networks are judged on digits and
recordings that they did not train on. Every condition is a stream of its own, from the bundle as
exported. Nothing of export was chosen by these figures.

![errors by condition](images/tasks.png)
"""


def page(found: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """The page as Markdown; found: by title of a study."""
    parts = [INTRODUCTION.format(**about)]
    parts += [_section(title, one) for title, one in found.items()]
    return "\n".join([*parts, setting_text(about, f"threads: {about['threads']}"), ""])


def _section(title: str, one: Mapping[str, Any]) -> str:
    errors, sites = one["errors"], one["exports"]["statistics"]["sites"]
    rate = one["exports"]["step"]["learning_rate"]
    about = (
        f"Missed {one['measure']} in %, up to {one['frames']} frames of each condition. "
        f"{len(sites)} sites besides BatchNorms, weight {one['exports']['statistics']['alpha']:g}"
        f", rate of steps {rate:g}; at rest {one['largest_difference_at_rest']:.1e} from the "
        "network as given."
    )
    head = ["| | " + " | ".join(errors) + " |", "|---" * (len(errors) + 1) + "|"]
    rows = [
        f"| {name} | " + " | ".join(f"{100 * row[way]:.1f}" for row in errors.values()) + " |"
        for way, name in WAYS.items()
    ]
    return "\n".join([f"## {title}", "", about, "", *head, *rows, "", _harms(errors), ""])


def _harms(errors: Mapping[str, Mapping[str, float]]) -> str:
    """In words, where a way is worse than the network as given by more than a point."""
    told = []
    for way in list(WAYS)[1:]:
        worse = [name for name, row in errors.items() if row[way] > row["given"] + PLAIN]
        gained = sum(row[way] < row["given"] - PLAIN for row in errors.values())
        what = f"worse under {', '.join(worse)}" if worse else "worse nowhere"
        told.append(f"{WAYS[way].capitalize()}: better by a point in {gained}, {what}.")
    return " ".join(told)


def picture(found: Mapping[str, Any], folder: Path) -> None:
    """Bars of every study, condition and way, below `folder`."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(found), figsize=(9, 2.4 * len(found)), squeeze=False)
    for axis, (title, one) in zip(axes[:, 0], found.items(), strict=True):
        errors = one["errors"]
        for number, (way, name) in enumerate(WAYS.items()):
            heights = [100 * row[way] for row in errors.values()]
            places = [place + 0.27 * (number - 1) for place in range(len(errors))]
            axis.bar(places, heights, 0.25, label=name, color=COLOURS[SHADES[way]])
        axis.set_xticks(range(len(errors)), list(errors))
        axis.set_ylabel("missed, %")
        axis.set_title(f"{title}: {one['measure']}", loc="left")
    axes[0, 0].legend(frameon=False)
    figure.tight_layout()
    (folder / PICTURE).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / PICTURE, dpi=110)
    pyplot.close(figure)
