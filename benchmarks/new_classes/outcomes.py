"""Figures of all runs, from which tables, pictures and goals are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.new_classes.measures import Accuracies

Figure = Callable[[Accuracies], float]


@dataclass(frozen=True)
class Outcome:
    """One run. group: of subjects that go into one mean. setting: of the method, where several were
    tried."""

    group: str
    subject: str
    seed: int
    shots: int
    method: str
    setting: str
    found: Accuracies

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Group:
    """All runs of one group of subjects with as many labelled frames a class; of each method only
    the setting with the best accuracy on all classes in the end, by mean."""

    name: str
    shots: int
    by_method: dict[str, list[Outcome]]
    settings: dict[str, str]

    def by_seed(self, method: str, figure: Figure) -> NDArray[np.float64]:
        """Means over subjects, in per cent."""
        runs = self.by_method[method]
        seeds = sorted({run.seed for run in runs})
        means = [np.mean([figure(run.found) for run in runs if run.seed == k]) for k in seeds]
        return 100 * np.array(means)

    def by_subject(self, method: str, figure: Figure) -> dict[str, float]:
        """Means over seeds, in per cent."""
        runs = self.by_method[method]
        return {
            name: 100 * float(np.mean([figure(run.found) for run in runs if run.subject == name]))
            for name in dict.fromkeys(run.subject for run in runs)
        }

    def course(self, method: str, what: str) -> NDArray[np.float64]:
        """Old, new or all by the number of classes taught, in per cent; mean over runs."""
        return 100 * np.mean([getattr(run.found, what) for run in self.by_method[method]], 0)


def in_the_end(found: Accuracies) -> float:
    """Accuracy on all classes when all were taught."""
    return found.all[-1]


def grouped(outcomes: Iterable[Outcome]) -> list[Group]:
    """In the order they come."""
    found: dict[tuple[str, int], dict[str, dict[str, list[Outcome]]]] = {}
    for one in outcomes:
        methods = found.setdefault((one.group, one.shots), {})
        methods.setdefault(one.method, {}).setdefault(one.setting, []).append(one)
    groups = []
    for (name, shots), methods in found.items():
        best = {
            method: max(settings, key=_mean_of(settings)) for method, settings in methods.items()
        }
        held = {method: methods[method][setting] for method, setting in best.items()}
        told = {method: setting for method, setting in best.items() if len(methods[method]) > 1}
        groups.append(Group(name, shots, held, told))
    return groups


def _mean_of(settings: dict[str, list[Outcome]]) -> Callable[[str], float]:
    return lambda setting: float(np.mean([in_the_end(run.found) for run in settings[setting]]))


def better(group: Group, methods: Sequence[str]) -> str:
    """The method with the best accuracy on all classes in the end."""
    return max(methods, key=lambda name: float(group.by_seed(name, in_the_end).mean()))
