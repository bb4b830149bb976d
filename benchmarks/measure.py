"""Stopwatches, and rounds in which all that is compared takes its turn."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .child import Absent, Failed

Values = dict[str, list[float]]
"""Figures by name, one for each round."""


def cpu_seconds() -> float:
    """CPU seconds of this process and of the children that it has waited for."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Stopwatch:
    """Measures its ``with`` block: ``wall`` and ``cpu`` are seconds."""

    def __enter__(self) -> Stopwatch:
        self._cpu = cpu_seconds()
        self._wall = time.perf_counter()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.wall = time.perf_counter() - self._wall
        self.cpu = cpu_seconds() - self._cpu


@dataclass
class Case:
    """One line of a table.

    Attributes:
        label: Its name.
        sample: Measures once.
        at_most: Rounds after which it has been measured enough, for what takes minutes.
    """

    label: str
    sample: Callable[[], Mapping[str, float]]
    at_most: int | None = None


@dataclass
class Measured:
    """What came of a case: values, or the reason why there are none."""

    label: str
    values: Values = field(default_factory=dict)
    missing: str = ""


def interleaved(cases: list[Case], rounds: int) -> list[Measured]:
    """Measure all cases in turn, again and again, so that a noisy minute hits each alike.

    Each round begins with another case: none always follows the same neighbour's mess. A case that
    is absent or fails is left out from then on, and says why.
    """
    results = {case.label: Measured(case.label) for case in cases}
    for turn in range(rounds):
        start = turn % len(cases)
        for case in cases[start:] + cases[:start]:
            result = results[case.label]
            if result.missing or (case.at_most is not None and turn >= case.at_most):
                continue
            progress(f"  round {turn + 1}/{rounds}: {case.label}")
            try:
                sample = case.sample()
            except Absent as error:
                result.missing = f"absent: {error}"
            except Failed as error:
                progress(str(error))
                result.missing = f"failed: {str(error).splitlines()[-1]}"
            else:
                for name, value in sample.items():
                    result.values.setdefault(name, []).append(value)
    return list(results.values())


def median(values: list[float]) -> float:
    return statistics.median(values)


def ratios(values: list[float], base: list[float]) -> list[float]:
    """How many times ``base`` holds ``values``, round by round where both were measured.

    If one was measured less often, its median stands for the rounds that it lacks.
    """
    if len(values) == len(base):
        return [b / v for v, b in zip(values, base, strict=True)]
    return [median(base) / median(values)]


def progress(text: str) -> None:
    """Tell the person who waits."""
    print(text, file=sys.stderr, flush=True)
