"""What a subcommand says, and to whom."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TextIO

from django.core.management.base import CommandError

from ..bulk import LISTED
from ..exceptions import ConnectError, PoolClosed


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
        with self._named():
            self.out.write(self._encodable(shown(text)) + "\n")

    def flush(self) -> None:
        """See that all of the answer is written."""
        with self._named():
            self.out.flush()

    def complain(self, text: str) -> None:
        """Write a line of what went wrong."""
        self.err.write(shown(text) + "\n")

    def data(self, data: bytes) -> None:
        """Write a piece of a file as it is."""
        with self._named():
            if (buffer := getattr(self.out, "buffer", None)) is None:
                self.out.write(data.decode(errors="replace"))
                return
            self.out.flush()
            buffer.write(data)

    def can_show(self, text: str) -> bool:
        """Tell whether the terminal's encoding has these characters."""
        return self._encodable(text) == text

    def drop(self) -> None:
        """Forget what is not written yet, which Python would try once more at the exit."""
        with suppress(OSError):  # of what is no file
            out = self.out.fileno()
            os.dup2(os.open(os.devnull, os.O_WRONLY), out)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Let a disk that is full be known from the storages'."""
        try:
            yield
        except OSError as error:
            error.filename = "standard output"
            self.drop()
            raise

    def _encodable(self, text: str) -> str:
        encoding = getattr(self.out, "encoding", None) or "utf-8"
        return text.encode(encoding, "replace").decode(encoding)

    @contextmanager
    def progress(
        self, what: str, total: int | None, *, of_bytes: bool
    ) -> Iterator[Callable[[float], None]]:
        """Show a bar while the block runs, if somebody is watching and rich is there.

        Args:
            what: What is done.
            total: How much of it; None: nobody knows yet.
            of_bytes: Whether these are bytes.

        Yields:
            What is called with each bit that was done, from any thread.
        """
        bar = None
        if self.err.isatty():
            with suppress(ImportError):
                from rich import progress as rich
                from rich.console import Console

                amount = rich.DownloadColumn() if of_bytes else rich.MofNCompleteColumn()
                columns = (rich.TextColumn("{task.description}"), rich.BarColumn(None), amount)
                more = (rich.TransferSpeedColumn(),) if of_bytes else ()
                bar = rich.Progress(
                    *columns,
                    *more,
                    rich.TimeRemainingColumn(),
                    console=Console(file=self.err),
                    transient=True,
                    expand=True,
                )
        if bar is None:
            yield lambda done: None
            return
        with bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.advance(task, done)


@dataclass
class Failures:
    """What went wrong with some of many, while the rest went on.

    Attributes:
        what: What was to be done, such as "copied".
        limit: How many are told at the end; None: all.
        lines: What is told of each.
    """

    what: str
    limit: int | None = LISTED
    lines: list[str] = field(default_factory=list)

    def add(self, name: object, error: BaseException) -> None:
        """Remember it; raise it if no other can go well after it."""
        if isinstance(error, (ConnectError, PoolClosed)) or not isinstance(error, Exception):
            raise error
        # A storage's root ends with a colon already.
        self.lines.append(shown(f"{str(name).removesuffix(':')}: {reason(error)}"))

    def end(self) -> None:
        """Tell them, if there are any.

        Raises:
            CommandError: There are.
        """
        if not self.lines:
            return
        lines = self.lines[: self.limit]
        if len(self.lines) > 1:
            lines.insert(0, f"{len(self.lines)} were not {self.what}:")
        if self.limit is not None and len(self.lines) > self.limit:
            lines.append(f"and {len(self.lines) - self.limit} more")
        raise CommandError("\n".join(lines))


def reason(error: BaseException) -> str:
    """Return what an error says, without its number and the file's name."""
    told = getattr(error, "strerror", None) or next(iter(error.args), "")
    return str(told) or type(error).__name__


def told(error: BaseException) -> str:
    """Return an error as a line: about which file, if it says so, and what."""
    name = getattr(error, "filename", None)
    if not name or isinstance(error, ConnectError):  # that is about all files
        return shown(reason(error))
    # A storage's root ends with a colon already.
    return shown(f"{str(name).removesuffix(':')}: {reason(error)}")


def shown(text: str) -> str:
    """Return text for one line: what is no character, or would move the cursor, is replaced."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def size_of(count: int) -> str:
    """Write a number of bytes as people read it, in at most nine characters."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1000:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def time_of(timestamp: float) -> str:
    """Write a time as people read it, in 16 characters: local time, that of TIME_ZONE."""
    return datetime.fromtimestamp(timestamp).isoformat(" ", "minutes")
