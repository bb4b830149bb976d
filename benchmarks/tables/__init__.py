"""The tables: each module measures one subject and returns its tables from ``tables(run)``."""

from __future__ import annotations

from dataclasses import dataclass


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

    def pick(self, full: int, quick: int) -> int:
        """A number of things to do: all of them, or a few for a quick look."""
        return quick if self.quick else full
