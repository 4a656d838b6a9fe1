"""The bundle with what another device learnt: its blocks become levels that are shipped."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np

import edgemem
from benchmarks.adaptation.protocols import Protocol
from benchmarks.adaptation.streams import Builder
from benchmarks.adaptation.worker import Pool
from edgemem.bank.building.collected import learnt_opener
from edgemem.bank.building.hierarchy import build_bank
from edgemem.bank.building.ship import ship
from edgemem.bank.written.transfer import export_blocks
from edgemem.bundle.opening import open_bundle
from edgemem.cli.commands.tune import tune
from edgemem.state.store import State

LEVELS, BRANCH, SEED = 2, 4, 1000


def write_shipped(folder: Path, name: str, protocol: Protocol) -> None:
    """Run a device for two visits to a recurring protocol's contexts, export its blocks, build
    levels of them, ship these."""
    assert protocol.two_visits is not None
    builder = Builder(np.load(folder / "labels.npy"), SEED)
    stream = protocol.two_visits(builder, protocol.contexts, 0)
    pool = Pool(folder, stream.contexts)
    bundle = open_bundle(folder / "bundles" / "remembered.edgemem")
    with tempfile.TemporaryDirectory(dir=folder) as text:
        other = Path(text)
        with edgemem.open(bundle.path, other / "state.db", threads=1) as runtime:
            for start in range(0, len(stream), stream.batch):
                part = slice(start, start + stream.batch)
                runtime.step(pool.frames(stream.context[part], stream.image[part]))
        with closing(State(other / "state.db", None)) as state:
            export_blocks(state, other / "blocks.safetensors")
        learnt = learnt_opener(bundle, [other / "blocks.safetensors"])
        build_bank(learnt, other / "bank", levels=LEVELS, branch=BRANCH)
        ship(other / "bank", bundle.path, folder / "bundles" / f"shipped, {name}.edgemem")


def write_tuned(folder: Path) -> None:
    """Tune the default bundle of a prepared folder by the source frames that peers may use."""
    bundles = folder / "bundles"
    out = bundles / "tuned.edgemem"
    tune(bundles / "remembered.edgemem", source=folder / "source.npz", out=out, threads=1)
