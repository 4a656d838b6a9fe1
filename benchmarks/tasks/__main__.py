"""Segmentation, labels, lines, places, reconstruction, an LSTM: what adapting does to each.

Small networks are trained here, written as ONNX files, aligned by `edgemem export FILE --source`,
and run by the runtime under shifts. Minutes on two cores.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.shared.cifar import data_folder
from benchmarks.shared.report import command_line, save_json, setting
from benchmarks.tasks.page import page, picture
from benchmarks.tasks.running import BATCH, SOURCE_FRAMES, figures
from benchmarks.tasks.speech import study as spoken
from benchmarks.tasks.studies import pictures
from benchmarks.tasks.training import trained

QUICK_FRAMES = (640, 96)
NO_SPEECH = "speech is skipped: no data; set EDGEMEM_DATA to a folder with fsdd/"


def main() -> None:
    """Train, export, run, print, and write the page."""
    known = pictures()
    if (data := data_folder()) is not None:
        known["speech"] = spoken(data)
    parser = command_line(
        __doc__, "benchmarks.tasks --quick segmentation", quick="few frames, no page", threads=2
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(known)}; default all")
    parser.add_argument("--page", type=Path, metavar="PATH", help="write the tables there")
    options = parser.parse_args()
    if data is None:
        print(NO_SPEECH)
    if options.page is not None and (options.quick or options.names):
        parser.error("a page is of all studies, and of all frames")
    if unknown := set(options.names) - set(known):
        parser.error(f"{min(unknown)} is none of {', '.join(known)}")
    about = setting(threads=options.threads, batch=BATCH, source_frames=SOURCE_FRAMES)
    found: dict[str, Any] = {}
    for name in options.names or known:
        study = known[name]
        training, count = QUICK_FRAMES if options.quick else study.frames
        model = trained(study, training)
        with tempfile.TemporaryDirectory(prefix="edgemem-") as folder:
            found[study.title] = figures(study, model, count, options.threads, Path(folder))
        save_json(
            {"benchmark": "tasks", "setting": about, "results": found},
            options.out / "tasks.json",
            options.json,
        )
    if options.page is not None:
        options.page.write_text(page(found, about))
        picture(found, options.page.parent)


if __name__ == "__main__":
    main()
