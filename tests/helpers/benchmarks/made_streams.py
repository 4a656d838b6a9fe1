"""Streams of the harness on made-up frames."""

import numpy as np

from benchmarks.adaptation.protocols import protocols
from benchmarks.adaptation.streams import Builder

LABELS = np.random.default_rng(0).permutation(np.arange(300) % 10)
FRAMES = 40
ALL = protocols(visits=2, long_visits=3)


def stream(name, seed=1):
    protocol = ALL[name]
    return protocol.make(Builder(LABELS, seed), protocol.contexts, FRAMES)
