"""Bulk data in flight: many requests under way at once, within bounds, and each answer examined."""

from __future__ import annotations

from collections import deque
from collections.abc import Sized
from typing import TYPE_CHECKING, BinaryIO, cast

from ..session import Sink
from . import frames
from .frames import Attributes, StatusError, string
from .wire import IN_FLIGHT_BYTES, IN_FLIGHT_REQUESTS, Wire

if TYPE_CHECKING:
    from typing import Protocol

    from _typeshed import WriteableBuffer

    class _Reads(Protocol):
        def readinto(self, buffer: WriteableBuffer, /) -> int: ...


def download(
    wire: Wire, handle: bytes, start: int, stop: int | None, sink: Sink
) -> tuple[Attributes, StatusError | None]:
    """Read a range of an open file, and what the file is, in one flight.

    Returns:
        The file's attributes, and the first answer that was bad.
    """
    fstat = wire.request(frames.FSTAT, string(handle))
    failure: StatusError | None = None
    reads: deque[tuple[int, int, int]] = deque()
    # The length is not known yet: a first READ travels with the question for it.
    limit = start + wire.max_read if stop is None else stop
    offset = start
    attributes: Attributes | None = None
    while True:
        while offset < limit and failure is None and _has_room(reads, wire.max_read):
            length = min(wire.max_read, limit - offset)
            reads.append((wire.request_read(handle, offset, length, sink), offset, length))
            offset += length
        try:
            if attributes is None:
                attributes = wire.attributes(fstat)
                limit = min(x for x in (stop, attributes.size, 2**63) if x is not None)
                continue
            if not reads:
                break
            request, at, length = reads.popleft()
            count = wire.data(request)
        except StatusError as error:
            failure = failure or error
            if attributes is None:
                attributes = Attributes()
            continue
        if count == 0:
            limit = min(limit, at)
        elif (rest := min(at + length, limit) - at - count) > 0 and failure is None:
            # A short answer says nothing of the end: ask for the rest.
            at += count
            reads.appendleft((wire.request_read(handle, at, rest, sink), at, rest))
    return attributes, failure


def upload(
    wire: Wire, handle: bytes, source: BinaryIO, size: int
) -> tuple[deque[int], StatusError | None]:
    """Send the data within the bounds of a flight.

    Returns:
        The WRITEs whose answers are still owed, and the first answer that was bad.
    """
    head = frames.write_head_size(handle)
    frame = memoryview(bytearray(head + min(wire.max_write, max(size, 1))))
    writes: deque[int] = deque()
    failure: StatusError | None = None
    offset = 0
    source.seek(0)
    while offset < size and failure is None:
        count = _read_into(source, frame[head : head + min(wire.max_write, size - offset)])
        if not count:
            # Nothing has its name yet: what was sent is removed with the temporary file.
            failure = StatusError(-1, f"the content ended at {offset} of {size} bytes")
            break
        if not _has_room(writes, wire.max_write):
            failure = wire.failure_of(writes.popleft())
        writes.append(wire.request_write(frame, handle, offset, count))
        offset += count
    return writes, failure


def _has_room(in_flight: Sized, length: int) -> bool:
    return len(in_flight) < IN_FLIGHT_REQUESTS and (len(in_flight) + 1) * length <= IN_FLIGHT_BYTES


def _read_into(source: BinaryIO, buffer: memoryview) -> int:
    """Fill ``buffer``; less comes only at the end of ``source``."""
    readinto = cast("_Reads", source).readinto
    filled = 0
    while filled < len(buffer) and (count := readinto(buffer[filled:])):
        filled += count
    return filled
