"""What it costs that a runtime may be called from any thread: the lock around every call."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import edgemem
from benchmarks.shared.report import command_line, save_json, setting, setting_text, whole
from edgemem.cli.show import print_table
from edgemem.demo import BUNDLE
from edgemem.runtime.ownership import Owned, in_turn

FRAME = np.zeros((1, 1, 8, 8), np.float32)
TARGET = 0.01  # of a prediction
CALLS = 1000  # in a row


class Idle(Owned):
    """Calls that do nothing, so that nothing hides what the lock takes."""

    def bare(self) -> None:
        """Without a lock."""

    @in_turn
    def locked(self) -> None:
        """With one."""


def seconds(call: Callable[[], object], calls: int) -> float:
    """Mean of one call in a round."""
    began = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - began) / calls


def main() -> None:
    """Measure in turn, print, save."""
    parser = command_line(__doc__, "benchmarks.cost.turn_cost --json turn.json")
    parser.add_argument("--rounds", type=whole, default=51, help="default 51")
    options = parser.parse_args()
    idle = Idle()
    with edgemem.open(BUNDLE, threads=1) as runtime:
        rounds = [
            (
                seconds(idle.locked, CALLS) - seconds(idle.bare, CALLS),
                seconds(lambda: runtime.predict(FRAME), 20),
            )
            for _ in range(options.rounds + 1)
        ][1:]
    lock, prediction = np.median(1e6 * np.array(rounds), axis=0)
    part = float(lock / prediction)
    rows = [
        ("a prediction of one frame", f"{prediction:.1f}", ""),
        ("of it, to wait in turn", f"{lock:.2f}", f"{part:.2%}"),
    ]
    print_table("calls in turn", ("", "µs", f"part (target {TARGET:.0%})"), rows)
    about = setting(threads=1, rounds=options.rounds)
    print(setting_text(about, f"1 thread, median of {options.rounds} rounds"))
    found = {"benchmark": "turn_cost", "setting": about, "results": {"part": part}}
    save_json(found, options.out / "turn_cost.json", options.json)


if __name__ == "__main__":
    main()
