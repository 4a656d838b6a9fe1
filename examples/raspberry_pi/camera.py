"""A camera whose model gets used to where it hangs.

Without arguments it takes the camera that it finds, or else the packaged demo: handwritten digits
under changing conditions. Every answer is from before the update it leads to.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from pathlib import Path

import numpy as np
from service import StopSignal, notify
from sources import fit, open_input
from view import View

sys.path.append(str(Path(__file__).resolve().parents[1]))
from score import Score

import edgemem
from edgemem.demo import BUNDLE

EXAMPLES = """examples:
  python examples/raspberry_pi/camera.py
  python examples/raspberry_pi/camera.py --input photos --invert
  python examples/raspberry_pi/camera.py --input camera --bundle camera.edgemem --state camera.db
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", default="auto", help="auto, camera, demo, a folder of images, or a video file")
    add("--bundle", type=Path, default=BUNDLE, help="folder written by edgemem export")
    add("--state", type=Path, help="file to keep what is learnt in; made if missing")
    add("--invert", action="store_true", help="dark on light becomes light on dark")
    add("--frames", type=int, default=0, help="stop after so many; 0 = never")
    add("--adapt-when", help='a step on one batch in so many, "drift", or such as "2s/min"')
    add("--memory-budget", help="for graphs and activations, such as 64MB")
    add("--fps", type=float, default=0, help="frames per second at most; 0 = as many as there are")
    add("--flush-minutes", type=float, default=60, help="write what is learnt so often; 0 = never")
    add("--threads", type=int, default=1, help="of the engine; 0 = all cores")
    add("--out", type=Path, default=Path("results"), help="folder of the picture")
    add("--json", action="store_true", help="print one JSON object, no view")
    return parser.parse_args()


def watch(options: argparse.Namespace, stopping: threading.Event) -> tuple[Score, float]:
    """Answer every frame, and learn from it; the score and the milliseconds of a frame."""
    frames, score, seconds = open_input(options.input), Score("frames"), 0.0
    with opened(options) as runtime:
        manifest = runtime.bundle.manifest
        notify("READY=1")
        with View(manifest.labels, options.json) as view:
            flushed = time.monotonic()
            for image, label, name in frames:
                # Frames with labels are those of the demo, which are as the model wants them.
                x = fit(image, manifest.frames.shape, options.invert and label is None)
                began = time.monotonic()
                result = runtime.step(x)
                seconds += time.monotonic() - began
                frozen = runtime.predict(x, frozen=True)
                score.add(name, np.array([-1 if label is None else label]), frozen, result)
                view.show(result, frozen, label)
                notify("WATCHDOG=1")
                if 0 < 60 * options.flush_minutes < time.monotonic() - flushed:
                    flushed = time.monotonic()
                    flush(runtime, view)
                spare = 1 / options.fps + began - time.monotonic() if options.fps > 0 else 0
                if stopping.wait(max(spare, 0)) or score.frames == options.frames:
                    break
    return score, 1000 * seconds / max(score.frames, 1)


def opened(options: argparse.Namespace) -> edgemem.Runtime:
    when = options.adapt_when
    return edgemem.open(
        options.bundle,
        options.state,
        options=edgemem.Options(
            adapt_when=int(when) if when and when.isdigit() else when,
            memory_budget=options.memory_budget,
        ),
        threads=options.threads,
    )


def flush(runtime: edgemem.Runtime, view: View) -> None:
    """Write what was learnt; a disk that refuses is no reason to stop seeing."""
    try:
        runtime.flush()
    except edgemem.StateError as error:
        view.tell(f"unwritten: {error}")


def main() -> int:
    """Exit code 2 for bad input, with one line that says what and why; 143 after SIGTERM."""
    options, stopping = arguments(), StopSignal()
    try:
        score, milliseconds = watch(options, stopping)
        picture = score.draw(options.out / "camera.png", "Digits under changing conditions")
    except edgemem.EdgeMemError as error:
        print(f"camera.py: {error}", file=sys.stderr)
        return 2
    score.show(options.json, picture, milliseconds)
    return stopping.exit_code


if __name__ == "__main__":
    sys.exit(main())
