"""Bulk data in flight: many requests under way at once, within bounds, and each answer examined."""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, BinaryIO, cast

from ..session import Sink
from . import frames
from .frames import Attributes, StatusError, string
from .wire import LONGEST_LENGTH, Wire

if TYPE_CHECKING:
    from typing import Protocol

    from _typeshed import WriteableBuffer

    class _Reads(Protocol):
        def readinto(self, buffer: WriteableBuffer, /) -> int: ...


IN_FLIGHT_REQUESTS = 64
"""Requests of lookups that may be in flight."""
FIRST_WINDOW, FIRST_REQUESTS = 16 * LONGEST_LENGTH, 64
"""Bytes of bulk data that may be in flight at first, and in how many requests at the most: enough
for loopback and for 20 ms at 1 Gbit/s."""
LAST_WINDOW, LAST_REQUESTS = 32 * LONGEST_LENGTH, 256
"""The same on a long line: as many bytes as the channel takes in (stream.CHANNEL_WINDOW)."""


class Window:
    """How much may be in flight: more, as long as the line has room for it.

    A whole window that is answered within little more than a round trip has left the line idle for
    the rest of it; then the window doubles.

    Args:
        length: Bytes of one request.
        begin: How much an earlier transfer had in flight at its end; 0: nobody knows.

    Attributes:
        bytes: Bytes that may be in flight.
    """

    def __init__(self, length: int, begin: int = 0) -> None:
        self._length = length
        self.bytes = max(begin, min(FIRST_WINDOW, FIRST_REQUESTS * length))
        self._round_trip: float | None = None
        self._started = time.monotonic()
        self._answered = 0

    def has_room(self, requests: int) -> bool:
        """Tell whether one more request may go out beside so many."""
        return (requests + 1) * self._length <= self.bytes

    def answered(self, count: int) -> None:
        """Count the bytes of an answer; the first one, of none, tells the round trip."""
        now = time.monotonic()
        if self._round_trip is None:
            self._round_trip = now - self._started
            self._started = now
            return
        self._answered += count
        if self._answered >= self.bytes:
            if now - self._started < 1.5 * self._round_trip:
                self.bytes = min(2 * self.bytes, LAST_WINDOW, LAST_REQUESTS * self._length)
            self._started, self._answered = now, 0


class _Taker:
    """Hands data to its owner's sink, whichever thread reads it, until the owner wants no more."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._lock = threading.Lock()
        self.failure: BaseException | None = None

    def __call__(self, offset: int, data: memoryview) -> None:
        with self._lock:
            if self.failure is None:
                try:
                    self._sink(offset, data)
                except Exception as error:  # noqa: BLE001 - told once all answers are there
                    self.failure = error

    def stop(self, reason: BaseException) -> None:
        """Drop what comes from now on."""
        with self._lock:
            self.failure = self.failure or reason


def download(
    wire: Wire, handle: bytes, start: int, stop: int | None, sink: Sink
) -> tuple[Attributes, BaseException | None]:
    """Read a range of an open file, and what the file is, in one flight.

    Returns:
        The file's attributes, and the first answer that was bad, or what ``sink`` raised.
    """
    take = _Taker(sink)
    try:
        return _download(wire, handle, start, stop, take), take.failure
    except BaseException as error:
        # The session may serve others on, and what is on its way for this one will come.
        take.stop(error)
        raise


def _download(wire: Wire, handle: bytes, start: int, stop: int | None, take: _Taker) -> Attributes:
    fstat = wire.request(frames.FSTAT, string(handle))
    reads: deque[tuple[int, int, int]] = deque()
    longest = wire.max_read
    window = Window(longest, wire.in_flight)
    # The length is not known yet: a first READ travels with the question for it.
    limit = start + longest if stop is None else stop
    offset = start
    attributes: Attributes | None = None
    while True:
        while offset < limit and take.failure is None and window.has_room(len(reads)):
            length = min(longest, limit - offset)
            reads.append((wire.request_read(handle, offset, length, take), offset, length))
            offset += length
        try:
            if attributes is None:
                attributes = wire.attributes(fstat)
                window.answered(0)
                limit = min(x for x in (stop, attributes.size, 2**63) if x is not None)
                continue
            if not reads:
                break
            request, at, length = reads.popleft()
            count = wire.data(request)
            window.answered(count)
        except StatusError as error:
            take.stop(error)
            if attributes is None:
                attributes = Attributes()
            continue
        if count == 0:
            limit = min(limit, at)
        elif (rest := min(at + length, limit) - at - count) > 0 and take.failure is None:
            # A short answer says nothing of the end: ask for the rest.
            at += count
            reads.appendleft((wire.request_read(handle, at, rest, take), at, rest))
    wire.in_flight = window.bytes
    return attributes


def upload(
    wire: Wire, handle: bytes, source: BinaryIO, size: int
) -> tuple[deque[int], Exception | None]:
    """Send the data within the bounds of a flight.

    Returns:
        The WRITEs whose answers are still owed, and the first answer that was bad, or why the
        content could not be read.
    """
    head = frames.write_head_size(handle)
    longest = wire.max_write
    # Not more: what a server lets into its channel, 2 MiB for most, is the bound of an upload.
    window = Window(longest)
    frame = memoryview(bytearray(head + min(longest, max(size, 1))))
    writes: deque[int] = deque()
    failure: Exception | None = None
    offset = 0
    while offset < size and failure is None:
        try:
            if not offset:
                source.seek(0)
            count = _read_into(source, frame[head : head + min(longest, size - offset)])
        except Exception as error:  # noqa: BLE001 - told once all answers are there
            failure = error
            break
        if not count:
            # Nothing has its name yet: what was sent is removed with the temporary file.
            failure = OSError(errno.EIO, f"the content ended at {offset} of {size} bytes")
            break
        if not window.has_room(len(writes)):
            failure = wire.failure_of(writes.popleft())
        writes.append(wire.request_write(frame, handle, offset, count))
        offset += count
    return writes, failure


def _read_into(source: BinaryIO, buffer: memoryview) -> int:
    """Fill ``buffer``; less comes only at the end of ``source``."""
    readinto = cast("_Reads", source).readinto
    filled = 0
    while filled < len(buffer) and (count := readinto(buffer[filled:])):
        filled += count
    return filled
