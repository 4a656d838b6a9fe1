"""What a case is, what it may lead to, and what a format has to know."""

import hashlib
import json
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np

REFUSED, SAME, TOLD, OTHER, FAILED = "refused", "same", "told", "other", "failed"
OUTCOMES = (REFUSED, SAME, TOLD, OTHER, FAILED)


@dataclass(frozen=True)
class Case:
    """Edits of a file that was intact. sealed: hashes and sizes are computed anew afterwards, as
    somebody would who alters a file on purpose. base: which of the format's intact files."""

    edits: list
    sealed: bool = False
    base: str = ""

    def to_json(self):
        return vars(self)


@dataclass
class Output:
    """What the reader made of a file. told: it said that something is damaged.

    digest: of all that anybody would notice. wrong: what may not be in any output, however the
    file came about, in words.
    """

    digest: str
    told: bool = False
    wrong: str = ""


class Format(ABC):
    """One kind of file. name: as on the command line. share: of all cases.

    Makes what is intact in a folder of its own when it is made.
    """

    name: str
    share: float

    @abstractmethod
    def invent(self, rng: random.Random) -> Case:
        """Edits, and whether they are sealed."""

    @abstractmethod
    def build(self, case: Case) -> None:
        """Write the intact files anew and edit them."""

    @abstractmethod
    def use(self) -> Output:
        """Read the files as a device does; whatever is raised goes through."""

    def go_on(self) -> None:  # noqa: B027 - most formats have nothing to go on with
        """Use what an altered file has become, after it was accepted; nothing may be raised."""

    def case(self, seed: int) -> Case:
        return self.invent(random.Random(f"{self.name} {seed}"))


@dataclass
class Digest:
    """Collects what an output consists of."""

    state: object = field(default_factory=hashlib.sha256)
    wrong: str = ""

    def add(self, *values):
        for value in values:
            if isinstance(value, np.ndarray):
                self.state.update(f"{value.dtype}{value.shape}".encode())
                self.state.update(np.ascontiguousarray(value).tobytes())
            elif isinstance(value, bytes):
                self.state.update(value)
            else:
                self.state.update(json.dumps(value, sort_keys=True, default=str).encode())
            self.state.update(b"\0")

    def add_finite(self, name, array):
        """Add numbers that a reader may only give when they are finite."""
        self.add(array)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            self.wrong = self.wrong or f"{name} are not finite"

    def output(self, *, told=False):
        return Output(self.state.hexdigest(), told, self.wrong)
