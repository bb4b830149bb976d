"""What a subcommand says, and to whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TextIO


@dataclass(frozen=True)
class Terminal:
    """Where a subcommand writes.

    Attributes:
        out: For what was asked for.
        err: For what goes wrong, and how far something long has come.
    """

    out: TextIO
    err: TextIO

    def line(self, text: str = "") -> None:
        """Write a line of the answer."""
        self.out.write(text + "\n")

    def complain(self, text: str) -> None:
        """Write a line of what went wrong."""
        self.err.write(text + "\n")


def size_of(count: int) -> str:
    """Write a number of bytes as people read it, in at most nine characters."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1000:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
