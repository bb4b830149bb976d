"""The tables: each module measures one subject and returns its tables from ``tables(run)``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """How much is measured.

    Attributes:
        rounds: How often each line is measured, in turn with the others.
        size: MiB of a large file.
        quick: Whether to take everything small, to see that it works.
    """

    rounds: int = 5
    size: int = 256
    quick: bool = False

    def pick(self, full: T, quick: T) -> T:
        """What to do: all of it, or a little for a quick look."""
        return quick if self.quick else full
