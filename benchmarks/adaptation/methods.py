"""Every method of the harness by name: ours as ways to open a bundle, peers by their modules.

Nothing here imports torch: a process that runs one of ours must not load it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SHIPPED, TUNED = "shipped", "tuned"
NO_MEMORY = {"least_batch_weight": 1.0, "prior_weight": 0.0}


@dataclass(frozen=True)
class Ours:
    """A bundle and how it is opened.

    bundle: see `setups.BUNDLES`; TUNED, as `edgemem tune` leaves it; SHIPPED, which holds what
    another device learnt in two visits to the contexts of a protocol, on other frames. adapt_when:
    a step on one batch in so many.
    """

    bundle: str = "remembered"
    adapt: bool = True
    adapt_when: int = 1
    contexts: bool = True
    hyper_parameters: Mapping[str, float] = field(default_factory=dict)


OURS: dict[str, Ours] = {
    "EdgeMem": Ours(),
    "EdgeMem, each frame alone": Ours(hyper_parameters={"label_order": 0.0}),
    "EdgeMem, one step in ten": Ours(adapt_when=10),
    "EdgeMem, tuned": Ours(bundle=TUNED),
    "EdgeMem, one state": Ours(bundle="mix", contexts=False),
    "EdgeMem, forgetful state": Ours(
        contexts=False, hyper_parameters={"least_batch_weight": 0.9, "memory_rate": 0.1}
    ),
    "EdgeMem, shipped levels": Ours(bundle=SHIPPED),
    "EdgeMem, meta path": Ours(bundle="meta path"),
    "EdgeMem, int8": Ours(bundle="int8"),
    "EdgeMem, forward only": Ours(bundle="forward only"),
    "EdgeMem, warm-up on re-measured": Ours(bundle="warm-up on re-measured"),
    "EdgeMem, re-measured": Ours(bundle="re-measured"),
    "EdgeMem, from an ONNX file": Ours(bundle="ONNX file"),
    "EdgeMem, re-measured, forward only": Ours(bundle="re-measured, forward only"),
    "warm, not adapted": Ours(adapt=False, contexts=False, hyper_parameters=NO_MEMORY),
}
PEERS: dict[str, str] = {
    "source": "statistics",
    "batch statistics": "statistics",
    "Tent": "entropy",
    "ETA": "entropy",
    "EATA": "entropy",
    "RDumb": "entropy",
    "SAR": "sar",
    "ROID": "roid",
    "EcoTTA": "ecotta",
    "CoTTA": "cotta",
    "RoTTA": "rotta",
    "PeTTA": "petta",
    "ReservoirTTA": "reservoir_tta",
    "LAME": "forward_only",
    "T3A": "forward_only",
}
# Peers on our warmed-up network: what the warm-up gains, and what our steps do.
PEERS_WHEN_WARM = ("batch statistics", "Tent", "ETA", "ROID", "LAME", "T3A")
WARM = {f"{name}, warm": name for name in PEERS_WHEN_WARM}
# Peers on a network whose norms have the moments of source frames in eval mode: the gain of that
# is nobody's own. Those that never use the source's moments get only other scales and shifts.
# EcoTTA's meta networks are warmed up around the moments that were given.
REMEASURED = {f"{name}, re-measured": name for name in PEERS if name not in ("source", "EcoTTA")}
METHODS = (*OURS, *PEERS, *WARM, *REMEASURED)
# Fewer where a run takes long: of contexts that return, of single frames, of six speakers, of the
# long run. Some of our own variants run when they are asked for. CoTTA runs where its paper has
# it, and where labels are correlated.
VARIANTS = (
    "EdgeMem, forgetful state", "EdgeMem, shipped levels",
    "EdgeMem, meta path", "EdgeMem, tuned", "EdgeMem, int8", "EdgeMem, forward only",
    "EdgeMem, warm-up on re-measured", "EdgeMem, from an ONNX file",
)  # fmt: skip
FIRST_REMEASURED = (
    "batch statistics, re-measured", "Tent, re-measured", "ETA, re-measured",
    "ROID, re-measured", "LAME, re-measured",
)  # fmt: skip
MOST = tuple(
    name
    for name in METHODS
    if name not in (*VARIANTS, "CoTTA", *REMEASURED) or name in FIRST_REMEASURED
)
MEMORIES = (
    "EdgeMem", "EdgeMem, each frame alone", "EdgeMem, one state", "source", "batch statistics",
    "Tent", "ROID", "EcoTTA", "RoTTA", "PeTTA", "ReservoirTTA", "LAME", "T3A", "ROID, warm",
)  # fmt: skip
SINGLE = (
    "EdgeMem", "source", "batch statistics", "ROID", "EcoTTA", "RoTTA", "LAME", "ROID, warm",
)  # fmt: skip
DEEPER = (
    "EdgeMem", "warm, not adapted", "source", "batch statistics", "Tent", "ETA", "ROID", "EcoTTA",
    "RoTTA", "LAME", "ROID, warm",
)  # fmt: skip
SPOKEN = (*SINGLE, "EdgeMem, tuned", "EdgeMem, one state", "Tent", "EATA", "SAR")
SWEPT = ("EdgeMem", "Tent", "ETA", "SAR", "ROID", "EcoTTA", "Tent, warm", "ROID, warm")
LASTING = ("EdgeMem", "source", "batch statistics", "PeTTA")
# With as many seeds as EdgeMem: what it is compared with by name, or is derived from.
REPEATED = (
    "EdgeMem", "EdgeMem, tuned", "source", "batch statistics", "ROID", "EcoTTA", "RoTTA", "LAME",
    "ETA, warm", "ROID, warm", "LAME, warm",
)  # fmt: skip


def named(text: str) -> tuple[str, float]:
    """A method's name, and the factor of its learning rate: "Tent x0.3" is Tent at 0.3 times."""
    name, _, factor = text.partition(" x")
    return name, float(factor or 1)


def with_factor(name: str, factor: float) -> str:
    """The other way round."""
    return name if factor == 1 else f"{name} x{factor:g}"
