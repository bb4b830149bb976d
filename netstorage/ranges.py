"""The bytes of a file on a server: fetched when they are first read, then kept."""

from __future__ import annotations

import errno
import io
import os
from bisect import bisect_right, insort
from collections.abc import Callable
from dataclasses import asdict, replace
from time import monotonic
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeVar

from .exceptions import FileChanged
from .session import SMALL, Sink, Stat
from .spool import Spool, require_position

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

T = TypeVar("T")
U = TypeVar("U")

FIRST_WINDOW = 8 * 2**10
"""Bytes fetched at least where reading starts or jumps to: a header or a directory of a ZIP."""
WINDOW_GROWTH = 4
NEAR_WINDOW = 32 * 2**20
"""Bytes fetched at once at the most while reading goes on in sequence, and the server is near: more
would only pass through more memory, less would leave it idle between two windows more often."""
LAST_WINDOW = 64 * 2**20
"""The same where that takes longer than ``NEAR`` seconds: each window costs two round trips."""
NEAR = 0.1
PASSING = 8 * 2**20
"""Bytes from which on a single read goes past the spool, into the reader's own memory."""
LONG = 0.5
"""Seconds that a window may take and the next one still be larger: others want the session."""
BUFFER = 128 * 2**10
"""Bytes taken from the spool at once for those who read little at a time."""


class Remote(Protocol):
    """One file on a server, as a storage offers it to RemoteFile."""

    def stat(self) -> Stat:
        """Describe the file."""

    def read(self, start: int, stop: int | None, sink: Sink) -> Stat:
        """Give a range to ``sink``; see Session.read."""

    def publish(self, source: BinaryIO, size: int, *, exclusive: bool) -> None:
        """Put the content under the file's name, atomically; ``exclusive``: if it is free."""

    def spool(self) -> Spool:
        """Make an empty spool."""


class Ranges(io.RawIOBase):
    """The bytes of a remote file: fetched when they are first read, kept in a spool.

    What is read straight on takes no more room than two windows: then the spool is filled anew. A
    very large read goes past it. For somebody who goes back to what was forgotten it is fetched
    again, and all is kept from then on.

    ``_pieces`` tells, sorted, which ranges are in the spool: (start, stop, place there).
    """

    def __init__(self, remote: Remote, name: str) -> None:
        self._remote = remote
        self.name = name
        self._spool = remote.spool()
        self._pieces: list[tuple[int, int, int]] = []
        self._position = 0
        self._window = FIRST_WINDOW
        self._fetched_to = 0
        self._forgotten_to = 0
        self._goes_back = False
        self._took = 0.0
        self._version: Stat | None = None
        self.wanted = 0
        """Where the read that is under way ends, if that is known to be beyond a window."""

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position; only the end costs a request, if nothing told it yet."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
        if base is None:
            base = self.size()
        require_position(base + offset)
        self._position = base + offset
        return self._position

    def size(self) -> int:
        """Return the file's length; ask the server only if no answer told it yet."""
        if self.told_size is None:
            self._check(self._remote.stat())
        if self.told_size is None:
            # Then reading to the end is what tells.
            self._fetch(self._last_byte(), None)
            self._check(Stat(size=self._last_byte()))
        assert self.told_size is not None  # noqa: S101 - set by _check; for the type checker
        return self.told_size

    @property
    def told_size(self) -> int | None:
        """The file's length, if an answer told it."""
        return self._version.size if self._version else None

    def _last_byte(self) -> int:
        return max((stop for _, stop, _ in self._pieces), default=0)

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read into ``buffer`` what is there at the position; fetch only if that is nothing."""
        view = memoryview(buffer).cast("B")
        if not view:
            return 0
        count = self._copy(view)
        if not count and not self._at_end():
            count = self._fetch(self._position, self.wanted, view) or self._copy(view)
        self._position += count
        return count

    def _copy(self, view: memoryview) -> int:
        """Copy what is here of the bytes at the position; return how many."""
        piece = self._piece_at(self._position)
        if piece is None:
            return 0
        start, stop, place = piece
        self._spool.seek(place + self._position - start)
        return self._spool.readinto(view[: stop - self._position])

    def close(self) -> None:
        """Forget the bytes."""
        if not self.closed:
            self._spool.close()
        super().close()

    def _at_end(self) -> bool:
        return self.told_size is not None and self._position >= self.told_size

    def _piece_at(self, position: int) -> tuple[int, int, int] | None:
        index = bisect_right(self._pieces, position, key=lambda piece: piece[0]) - 1
        if index >= 0 and position < self._pieces[index][1]:
            return self._pieces[index]
        return None

    def _fetch(self, start: int, stop: int | None, view: memoryview | None = None) -> int:
        """Get ``start`` to ``stop`` (None: the end), and a window from ``start`` at the least.

        Args:
            start: From where.
            stop: How far, if that is more than a window.
            view: The memory of whoever reads from ``start``.

        Returns:
            How many bytes are in ``view`` already.
        """
        goes_on = start == self._fetched_to and start > 0
        if not goes_on:
            self._window = FIRST_WINDOW
        elif self._took < LONG:
            largest = NEAR_WINDOW if self._took < NEAR else LAST_WINDOW
            self._window = max(self._window, min(self._window * WINDOW_GROWTH, largest))
        if stop is not None:
            stop = max(stop, start + self._window)
        for end in (self.told_size, self._next_piece(start)):
            if end is not None:
                stop = end if stop is None else min(stop, end)
        if stop is not None:
            # Who reads much at once goes on so.
            self._window = max(self._window, min(stop - start, NEAR_WINDOW))

        self._goes_back = self._goes_back or start < self._forgotten_to
        if not self._goes_back:
            if view is not None and stop is not None and min(len(view), stop - start) >= PASSING:
                count = self._receive(start, stop, view[: stop - start])
                self._forgotten_to = start + count
                return count
            if goes_on and self._spool.size() >= NEAR_WINDOW:
                self._pieces = []
                self._forgotten_to = start
        self._receive(start, stop)
        return 0

    def _receive(self, start: int, stop: int | None, memory: memoryview | None = None) -> int:
        """Fetch a range: into ``memory`` what that has room for, anything else into the spool.

        Returns:
            How many bytes of ``memory`` are filled, from its beginning.
        """
        passed: list[tuple[int, int, int]] = []
        kept: list[tuple[int, int, int]] = []
        room = start + len(memory or ())
        place = self._spool.seek(0, os.SEEK_END if self._pieces else os.SEEK_SET)

        def sink(offset: int, data: memoryview) -> None:
            nonlocal place
            end = offset + len(data)
            if memory is not None and start <= offset and end <= room:
                memory[offset - start : end - start] = data
                _note(passed, offset, end, offset - start)
            else:
                self._spool.write(data)
                _note(kept, offset, end, place)
                place += len(data)

        began = monotonic()
        self._check(self._remote.read(start, stop, sink))
        self._took = monotonic() - began
        arrived_to = max((end for _, end, _ in (*passed, *kept)), default=start)
        # A fetch that was repeated may have met a longer file before.
        told = self.told_size
        limit = arrived_to if told is None else told
        for first, end, at in kept:
            self._keep(first, min(end, limit), at)
        filled = start
        for first, end, _ in sorted(passed):
            if first <= filled:
                filled = max(filled, min(end, limit))
        self._fetched_to = min(arrived_to, limit)
        if told is not None and filled == start and self._piece_at(start) is None:
            wanted = told if stop is None else min(stop, told)
            if start < wanted:
                raise changed(
                    self.name,
                    f"the server says {told} bytes but has none at {start}; "
                    "open the file again to read what it holds now",
                )
        return filled - start

    def _next_piece(self, start: int) -> int | None:
        index = bisect_right(self._pieces, start, key=lambda piece: piece[0])
        return self._pieces[index][0] if index < len(self._pieces) else None

    def _keep(self, start: int, stop: int, place: int) -> None:
        if stop <= start:
            return
        # A server that ignores ranges, or a fetch that was repeated, sends again what is there.
        pieces = []
        for first, end, at in self._pieces:
            if first < start:
                pieces.append((first, min(end, start), at))
            if end > stop:
                pieces.append((max(first, stop), end, at + max(stop - first, 0)))
        self._pieces = pieces
        before = self._piece_at(start - 1) if start else None
        if before and before[2] + start - before[0] == place:
            self._pieces.remove(before)
            start, place = before[0], before[2]
        insort(self._pieces, (start, stop, place))

    def _check(self, now: Stat) -> None:
        """Refuse to put together a file from two versions of it."""
        if self._version is not None and not self._version.same_version(now):
            raise changed(
                self.name,
                "the file changed on the server while it was read; open it again to read it anew",
            )
        if self._version is None:
            self._version = now
        else:
            told = {name: value for name, value in asdict(now).items() if value is not None}
            self._version = replace(self._version, **told)


class Reader(io.BufferedReader):
    """A buffer over Ranges for those who read little at a time.

    A buffer is filled with what there is, so that it may be large and a header's window small. Of
    those who read much Ranges learns here how much that is.
    """

    def __init__(self, ranges: Ranges) -> None:
        super().__init__(ranges, BUFFER)
        self._ranges = ranges

    def read(self, size: int | None = -1, /) -> bytes:
        """Read ``size`` bytes, or all: what is missing of them is fetched at once."""
        if size is None or size < 0:
            if self._ranges.told_size is None:
                # A small file shares its session, and the answer tells how much more there is.
                self._want(SMALL, self.peek, 1)
            # Of a known length there is but one copy in memory.
            size = max(self._ranges.size() - self.tell(), 0)
        if size <= FIRST_WINDOW:
            return super().read(size)
        try:
            return self._want(size, super().read, size)
        except (MemoryError, OverflowError) as error:
            message = f"{size} bytes do not fit into memory at once: read the file in pieces"
            raise OSError(errno.ENOMEM, message, self._ranges.name) from error

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read into ``buffer``; what is missing is fetched at once."""
        return self._want(memoryview(buffer).nbytes, super().readinto, buffer)

    def _want(self, size: int, read: Callable[[T], U], argument: T) -> U:
        self._ranges.wanted = self.tell() + size
        try:
            return read(argument)
        finally:
            self._ranges.wanted = 0


def _note(pieces: list[tuple[int, int, int]], start: int, stop: int, place: int) -> None:
    """Add a piece; one that goes on from the last is one with it."""
    if pieces and pieces[-1][1] == start:
        start, _, place = pieces.pop()
    pieces.append((start, stop, place))


def changed(name: str, message: str) -> FileChanged:
    """Make the error that says that a file is no longer the one it was."""
    error = FileChanged(message)
    error.filename = name
    return error
