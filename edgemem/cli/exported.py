"""What `edgemem export` prints about the bundle that it has written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgemem.cli.output import say
from edgemem.cli.show import print_json, print_table

if TYPE_CHECKING:
    from edgemem.bundle.manifest import Manifest

RATE = "learning_rate"
COLD = (
    "Without source frames, moments are taken for those of training: pass --source, or run",
    "edgemem warmup first, for the full effect.",
)

NO_RAIL = (
    "No source frames were known: guard rails see values that are no numbers, and nothing else."
)


def print_exported(out: Path, parity: Any, manifest: Manifest, *, given: bool, json: bool) -> None:
    """How the bundle at `out` compares with torch, and its learning rate.

    given: whether the rate is the user's.
    """
    origin, rate = manifest.exported_from, manifest.hyper_parameters.get(RATE)
    if json:
        print_json(
            {
                "out": str(out),
                "warm": origin["warm"],
                RATE: None if rate is None else rate.default,
                "calibration": origin.get("calibration"),
                "parity": parity.as_dict(),
            }
        )
        return
    if manifest.task is not None:
        task = manifest.task
        rail = f"outputs are checked: {task.limit:.3g} source deviations from the frozen model's"
        say(f"task {task.kind}", rail if task.deviation else NO_RAIL)
    if (alignment := origin.get("alignment")) is not None:
        say(*_alignment(alignment))
    elif manifest.task is None and not origin["warm"] and not origin.get("measured"):
        say(*COLD)
    _print_parity(out, parity)
    if rate is not None:
        say(_line(rate.default, manifest, given=given))


def _alignment(found: dict[str, Any]) -> tuple[str, ...]:
    """Where moments are aligned, and what that gains."""
    if found["alpha"] == 0:
        return (
            "moments are not aligned: on shifted source frames that was no better than the model",
        )
    count = len(found["names"])
    where = f"{count} sites" if count else "the BatchNorms of the model"
    if not found["tried"]:
        return (f"moments are aligned at {where}, untried: token ids cannot be shifted",)
    gain = f"{100 * found['frozen']:.1f} to {100 * found['error']:.1f} %"
    return (f"moments are aligned at {where}:", f"wrong answers on shifted source frames {gain}")


def _line(rate: float, manifest: Manifest, *, given: bool) -> str:
    """What became of the learning rate."""
    origin = manifest.exported_from
    if given:
        return f"learning rate {rate:g}, as given"
    found = origin.get("calibration")
    if found is None and manifest.task is not None:
        return f"learning rate {rate:g}, untried: outputs are not classes; --learning-rate sets it"
    if found is None:
        some = origin["warm"] or origin.get("measured")
        known = "too few source frames" if some else "no source frames"
        return f"{known}: small learning rate {rate:g}; edgemem tune chooses another"
    if rate == 0:
        moving = origin["statistics"] not in ("source", 0)
        rest = "statistics alone adapt" if moving else "nothing adapts"
        return f"steps gain nothing on this network's source frames: {rest} (learning rate 0)"
    first, last = found["trials"][0], found["trials"][-1]
    chosen = "kept" if rate == first["rate"] else f"lowered from {first['rate']:g}"
    gain = f"{100 * last['gain']:.1f} points"
    return f"learning rate {rate:g}, {chosen}: steps gain {gain} on shifted source frames"


def _print_parity(out: Path, parity: Any) -> None:
    limit = f"{parity.tolerance:.0e}"
    rows = [
        ("frozen outputs", f"{parity.frozen:.1e}", limit),
        ("predict", f"{parity.predict:.1e}", limit),
        ("adapt, worst output of the first step", f"{parity.first_step:.1e}", limit),
        ("adapt, gradients relative to their size", f"{parity.slots:.1e}", "1e-03"),
        (f"next block over {parity.steps} steps", f"{parity.after_steps:.1e}", "1e-04"),
        ("answers after a step", f"{parity.adapted:.1e}", f"{parity.adapted_limit:.0e}"),
    ]
    print_table(f"{out}: onnxruntime against torch", ("what", "difference", "limit"), rows)
