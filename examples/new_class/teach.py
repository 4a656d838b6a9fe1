"""Teaches a digit classifier three digits that it has never seen, from five labelled frames each.

The packaged network knows 0 to 6. Frames without labels come in between, to which it adapts. What
is counted before and after takes part in none of that.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from shown import draw, show

import edgemem
from edgemem.stopping import stopping

HERE = Path(__file__).parent
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NEW, LABELLED, MET, TEST = (7, 8, 9), 5, 64, 300


def main() -> int:
    """Exit code 2 for what cannot be done, with one line that says why."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, help="file to keep what is taught in")
    parser.add_argument("--seed", type=int, default=0, help="of which frames are used for what")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the picture")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()

    with np.load(HERE / "digits.npz") as held:
        order = np.random.default_rng(options.seed).permutation(len(held["y"]))
        frames, digits = held["x"][order], held["y"][order].astype(int)
    (test, stream), (truth, known) = (np.split(array, [TEST]) for array in (frames, digits))
    try:
        bundle = HERE / "digits.edgemem"
        with stopping() as stop, edgemem.open(bundle, options.state, threads=1) as device:
            before = device.predict(test)
            for number, digit in enumerate(NEW):
                met = stream[known < digit]  # nobody shows it what it has not been taught
                with stop.later():
                    device.step(met[number * MET : (number + 1) * MET])
                    device.learn(stream[known == digit][:LABELLED], [DIGITS[digit]] * LABELLED)
            after = device.predict(test)
            names = [found.name for found in device.classes()]
        answers = [[names[k] for k in result.labels] for result in (before, after)]
        picture = draw(options.out / "new_class.png", test, truth, answers, DIGITS)
    except edgemem.EdgeMemError as error:
        print(f"teach.py: {error}", file=sys.stderr)
        return 2
    show(truth, answers, DIGITS, picture, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
