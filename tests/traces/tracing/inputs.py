"""What traces bring along, for recording them: frames of the examples' simulators, and levels."""

import sys
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
from tracing.frames import ROOT

import edgemem
from edgemem.bank.building.collected import learnt_opener
from edgemem.bank.building.hierarchy import build_bank
from edgemem.bank.written.transfer import export_blocks
from edgemem.bundle.opening import open_bundle
from edgemem.state.store import State

DAMAGED = 7  # byte of a row


def worn(each):
    """Windows [places, each, 3, 128] float16 of the sensors' simulator."""
    sys.path.append(str(ROOT / "examples" / "sensors"))
    from motion import ACTIVITIES, PLACES, window

    rng = np.random.default_rng(4)
    places = ("front pocket", "wrist", "handbag")
    found = [[window(ACTIVITIES[n // 4 % 5], PLACES[place], rng) for n in range(each)]
             for place in places]  # fmt: skip
    return np.array(found, np.float16)


def spoken(each):
    """Features [speakers, each, 32, 62] float16 of the voices' simulator."""
    sys.path.append(str(ROOT / "examples" / "keyword_spotting"))
    from features import features
    from voices import SPEAKERS, WORDS, speak

    rng = np.random.default_rng(4)
    found = [[features(speak(WORDS[n % 6], *SPEAKERS[name], rng)) for n in range(each)]
             for name in list(SPEAKERS)[:3]]  # fmt: skip
    return np.array(found, np.float16)


def learnt_levels(bundle, visits, out):
    """Write the levels of a bank of what a device learns in some contexts."""
    opened = open_bundle(bundle)
    with tempfile.TemporaryDirectory() as room:
        state, blocks = Path(room) / "state.db", Path(room) / "blocks.safetensors"
        with edgemem.open(
            bundle, state, threads=1, hyper_parameters={"learning_rate": 0.01}
        ) as one:
            for visit in visits:
                for first in range(0, len(visit), 16):
                    one.step(visit[first : first + 16].astype(np.float32))
        with closing(State(state, None, read_only=True)) as held:
            export_blocks(held, blocks)
        build_bank(learnt_opener(opened, [blocks]), out, levels=2, branch=2)


def damaged_byte(folder, level, row):
    """Place of a byte of a row's numbers, which lie last in the file of a level."""
    from edgemem.bank.levels.level import Level

    path = folder / f"level-{level}.safetensors"
    with Level(path) as opened:
        shape = opened.shape
    return path.stat().st_size - (shape.rows - row) * shape.row_bytes + DAMAGED
