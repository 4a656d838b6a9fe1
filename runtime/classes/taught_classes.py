"""Classes that are taught on the device: a session once one is learnt, forgotten or renamed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgemem.block import Block
from edgemem.bundle.manifest import Teaching
from edgemem.bundle.opening import Bundle
from edgemem.errors import InputError
from edgemem.runtime.classes.class_table import Label
from edgemem.runtime.classes.labels import Labels, checked_labels, require_no_contradiction
from edgemem.runtime.classes.lesson import Clear, Lesson, clearing, teach
from edgemem.runtime.contexts import context_blocks
from edgemem.runtime.logits import Logits
from edgemem.runtime.session import Session
from edgemem.runtime.step.graphs import Frames, Graphs
from edgemem.runtime.step.ring import Ring


@dataclass(frozen=True, eq=False)
class Forgotten:
    """A session without what was taught of a class. clear: takes that out of any block."""

    session: Session
    clear: Clear


def lesson(
    session: Session, frames: Frames, labels: Labels, bundle: Bundle, graphs: Graphs
) -> Lesson:
    """Check labelled frames.

    Raises:
        InputError: see `Runtime.learn`.
    """
    require_teaching(bundle)
    graphs.open("learn")
    classes = session.all_classes(bundle)
    table, numbers = classes.opened(checked_labels(labels, len(frames)))
    if len(table.names) < 2:
        raise InputError(
            "labels", "are of the only class there is", "Teach two classes, or more, at once"
        )
    require_no_contradiction(frames, numbers)
    return Lesson(frames, numbers, table)


def learn(
    session: Session,
    given: Lesson,
    graphs: Graphs,
    parameters: Mapping[str, float],
    ring: Ring,
    bundle: Bundle,
) -> tuple[Session, Logits]:
    """After a lesson; and the logits of its frames, from before it.

    Raises:
        InputError: nothing finite comes of it.
    """
    teaching = require_teaching(bundle)
    block, logits = teach(given, graphs, session.block, parameters, ring)
    change = block - session.block
    moved = [name for name in teaching.arrays if change[name].any()]
    session = replace(
        session,
        block=block,
        good=_one(session.good.replace(block.part(moved)), block),
        contexts=context_blocks.teach(session.contexts, change, teaching),
        classes=given.table.given(given.numbers, moved),
    )
    return session, logits


def forget(session: Session, label: Label, bundle: Bundle) -> Forgotten:
    """Without what was taught of a class, everywhere.

    Raises:
        InputError: see `Runtime.forget_class`.
    """
    teaching, (checked,) = require_teaching(bundle), checked_labels(label, 1)
    classes = session.all_classes(bundle)
    number = classes.number(checked)
    table = classes.forgotten(number)
    own = number < len(table.own)  # how common one of these is was not taught
    clear = clearing(table.taught if own else teaching.arrays, number)
    good, block = clear(session.good), clear(session.block)
    contexts = context_blocks.forget(session.contexts, clear)
    good = _one(good, block)
    return Forgotten(
        replace(session, block=block, good=good, contexts=contexts, classes=table), clear
    )


def rename(session: Session, label: Label, name: str, bundle: Bundle) -> Session:
    """With another name for a class.

    Raises:
        InputError: see `Runtime.rename_class`.
    """
    require_teaching(bundle)
    (checked,) = checked_labels(label, 1)
    classes = session.all_classes(bundle)
    return replace(session, classes=classes.renamed(classes.number(checked), name))


def require_teaching(bundle: Bundle) -> Teaching:
    """How a bundle learns classes.

    Raises:
        InputError: it learns none.
    """
    teaching = bundle.manifest.teaching
    if teaching is None:
        raise InputError(
            f"bundle {bundle.manifest.name!r}",
            "learns no classes",
            "Export it again with --max-classes",
        )
    return teaching


def told(given: Lesson) -> str:
    """What was learnt from a lesson."""
    counts = Counter(given.numbers)
    parts = [f"{given.table.names[n]!r} from {counts[n]}" for n in sorted(counts)]
    return f"{', '.join(parts)} labelled frame{'s' if len(given.numbers) > 1 else ''}"


def _one(good: Block, block: Block) -> Block:
    """The last sound block; the block in use itself where both have the same values.

    For the same values must not be tried twice.
    """
    return block if good.has_values_of(block) else good
