"""Whether the frozen model answers in place of the adapted one, or beside it.

Familiar frames: where what comes in is like the source's, the frozen model answers and nothing is
learnt, see `familiar`.

Second opinion: batches of few classes spoil statistics that are taken from them, which no block can
help. The adapted model is then far less certain than the frozen one, which gets the larger a share
of the answer, while the block goes on learning.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgemem.block import Array, Arrays, is_finite
from edgemem.bundle import Bundle
from edgemem.runtime.contexts import SourceKeys
from edgemem.runtime.familiar import (
    Seen,
    goes_on,
    is_as_certain,
    is_near,
    nothing_seen,
    seen_of,
)
from edgemem.runtime.graphs import Frames, Graphs
from edgemem.runtime.learner import Learner, Logits
from edgemem.runtime.opinion import SHARES, averaged, frozen_share, used
from edgemem.runtime.result import Event, tell
from edgemem.runtime.source_keys import source_keys

SEEN = "guard.seen"  # name of an array in a snapshot
ASK_EVERY = 4  # batches, while the frozen model has no share of the answer
CLEAR_UP = 256.0  # frames about which the frozen model is asked one batch after the other
HALF = 0.5  # a share that is worth telling
FAMILIAR = "the frames are like the source's; the frozen model answers and nothing is learnt"
UNFAMILIAR = "the frames are not like the source's any more"
TAUGHT = "classes were taught, which the source does not have"


class SecondOpinion:
    """share: of the frozen model in the answer, because it is more certain."""

    def __init__(self, bundle: Bundle, graphs: Graphs, learner: Learner) -> None:
        self._bundle, self._graphs, self._learner = bundle, graphs, learner
        self._keys: SourceKeys | None = None
        self._companions = bundle.manifest.frames.companions
        self.reset()

    def reset(self) -> None:
        """Nothing has been seen."""
        self.share = 0.0
        self._batches = self._looks = 0  # since the context began: of the block, and of all
        self._seen = self._nothing_seen()
        self._learner.familiar = self._learner.in_order = False

    @property
    def used(self) -> float:
        """The share that answers are made with."""
        return used(self.share)

    def counters(self) -> dict[str, int]:
        """For the snapshot."""
        return {
            "guard.share": round(SHARES * self.share),
            "guard.batches": self._batches,
            "guard.looks": self._looks,
            "guard.familiar": int(self._learner.familiar),
        }

    def arrays(self) -> Arrays:
        """For the snapshot."""
        return {SEEN: self._seen.to_array()}

    def load(self, arrays: Arrays, counters: Mapping[str, int]) -> None:
        """Go on from a snapshot."""
        manifest = self._bundle.manifest
        self.share = min(max(counters.get("guard.share", 0), 0), SHARES) / SHARES
        self._batches = counters.get("guard.batches", 0)
        self._looks = counters.get("guard.looks", 0)
        self._seen = seen_of(arrays.get(SEEN), manifest.key, manifest.classes)
        self._learner.familiar = bool(counters.get("guard.familiar", 0))
        self._learner.in_order = goes_on(self._seen)

    def arrived(self) -> None:
        """Another context has begun."""
        self._batches, self._looks, self._seen = 0, 0, self._nothing_seen()

    def key(self, window: Frames) -> Array | None:
        """Context key of a batch; None where nothing is known of keys, or it is not finite."""
        if self._bundle.manifest.source is None:
            return None
        key = self._graphs.key(window)
        return key if is_finite({"": key}) else None

    def is_familiar(self, window: Frames, key: Array | None, events: list[Event]) -> bool:
        """Whether this batch goes on what is like the source's; takes note of it. Where classes
        were taught nothing is: the source has none of them. Nor is a batch without a key."""
        before = self._learner.familiar
        found = key is not None and self._goes_on(window, key, before)
        if found and not before:
            tell(events, "familiar", FAMILIAR)
        elif before and not found:
            tell(events, "unfamiliar", TAUGHT if self._learner.carries else UNFAMILIAR)
        self._learner.familiar, self._learner.in_order = found, goes_on(self._seen)
        return found

    def may_be_familiar(self, few: Frames) -> bool:
        """Whether the first frames of all, too few for a batch, may be the source's. Statistics that
        are taken from so few are worse than the source's then."""
        size = self._bundle.manifest.frames.batch
        if not self._companions or not self._may_be or len(few) >= size:
            return False
        key = self.key(few)
        if key is None:
            return False
        source = self._source_keys()
        return is_near(self._nothing_seen().with_key(source.normal(key), len(few)), source, size)

    def _goes_on(self, window: Frames, key: Array, before: bool) -> bool:
        source, size = self._source_keys(), len(window)
        self._seen = self._seen.with_key(source.normal(key), size)
        self._looks += 1
        if not self._may_be or not is_near(self._seen, source, size, before):
            return False
        if self._seen.asked < CLEAR_UP or self._looks % ASK_EVERY == 1:
            answers = self._graphs.frozen(window)
            if not is_finite({"": answers}):
                return False
            self._seen = self._seen.with_answers(answers)
        return is_as_certain(self._seen, source, before)

    def on(self, window: Frames, key: Array | None, own: Logits, events: list[Event]) -> Logits:
        """The block's logits [n, classes] of a full batch, together with the frozen model's where
        these deserve a share. Statistics of the source no batch can spoil; without its keys nothing
        is known of it."""
        self._batches += 1
        if not self._companions or key is None:
            return own
        if not self.used and self._batches % ASK_EVERY != 1:
            return own
        frozen, before = self._learner.frozen(window), self.share
        newest = frozen_share(own, frozen, self._distance(key))
        self.share = newest if self._batches == 1 else averaged(before, newest)
        if before < HALF <= self.share:
            text = f"the adapted model is unsure; the frozen one has {self.share:.0%} of the answer"
            tell(events, "frozen", text)
        elif self.share < HALF <= before:
            tell(events, "recovered", "the adapted model is sure again")
        return self._learner.with_frozen(own, window, self.used) if self.used else own

    @property
    def _may_be(self) -> bool:
        """Whether any frames may be familiar."""
        return self._bundle.manifest.familiar and not self._learner.carries

    def _nothing_seen(self) -> Seen:
        return nothing_seen(self._bundle.manifest.key, self._bundle.manifest.classes)

    def _distance(self, key: Array) -> float:
        """Of a batch from the source."""
        return float(np.sqrt(np.mean(np.square(self._source_keys().normal(key)))))

    def _source_keys(self) -> SourceKeys:
        if self._keys is None:
            self._keys = source_keys(self._bundle)
        return self._keys
