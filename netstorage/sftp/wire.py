"""SFTP version 3 on an open channel: requests in flight, every answer examined.

With OpenSSH's extensions (OpenSSH PROTOCOL, section 4). Sending a request returns its number;
asking for the answer of that number reads frames until it is there. Several threads may do so at
the same time: one of those that wait reads for all, and hands each answer to whom it belongs.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

from paramiko import Channel

from ..session import Sink
from ..telemetry import at_work
from .frames import (
    ATTRS,
    CONNECTION_LOST,
    DATA,
    EOF,
    EXTENDED,
    EXTENDED_REPLY,
    HANDLE,
    INIT,
    LONGEST_HANDLE,
    NAME,
    NO_CONNECTION,
    OK,
    READ,
    STATUS,
    VERSION,
    WRITE,
    Attributes,
    Body,
    StatusError,
    string,
    write_head_size,
)
from .stream import Stream

DEFAULT_LENGTH = 32 * 2**10
"""Bytes of data in a request that every server takes (section 3: packets of 34000 bytes)."""
LONGEST_LENGTH = 255 * 2**10
"""Bytes of data in a request at the most: what OpenSSH allows in its packets of 256 KiB."""
MAX_FRAME = 2**20
"""Bytes of an answer beyond which a server is taken to be lying."""
LONGEST_WORDS = 1024
"""Bytes that are kept of what a server says to a refusal."""

_HEAD = struct.Struct(">IBI")


class Answer(NamedTuple):
    """The kind of an answer, and its body behind the request's number."""

    kind: int
    body: bytes


class _Read(NamedTuple):
    """Where the data of a READ goes, and how much of it was asked for."""

    sink: Sink
    offset: int
    length: int


class Wire:
    """The client's end of an SFTP channel.

    Args:
        channel: An open channel, on which nothing was received yet.
        timeout: Seconds of silence after which the server is given up.
        server: The server's name, for messages.

    Attributes:
        stream: The bytes below; its failure is the wire's.
        extensions: What the server offers beyond version 3, with each one's version.
        in_flight: Bytes that the last download found the line to have room for; 0: none did.
    """

    def __init__(self, channel: Channel, timeout: float, server: str) -> None:
        self.stream = Stream(channel, timeout, server)
        self.extensions: dict[str, str] = {}
        self.in_flight = 0
        self._asked_limits: int | None = None
        self._max_read = self._max_write = DEFAULT_LENGTH
        # Held for moments only: it guards all that follows.
        self._lock = threading.Lock()
        self._next_id = 0
        self._outgoing = bytearray()
        self._waiting: dict[int, _Read | None] = {}
        self._ignored: set[int] = set()
        self._answers: dict[int, Answer] = {}
        self._reader: int | None = None
        self._parked: dict[int, threading.Lock] = {}
        self._oldest_since: float | None = None
        # Held while bytes go out: frames must not mix.
        self._sending = threading.Lock()

    def start(self) -> None:
        """Agree on version 3, learn the server's extensions, ask for its limits."""
        stream = self.stream
        stream.send(struct.pack(">IBI", 5, INIT, 3))
        head = stream.receive(5)
        if all(0x20 <= byte < 0xF8 or byte in b"\t\n\r\x1b" for byte in head):
            raise stream.violation(
                "sent text before SFTP began. Most likely a start-up file of the login's shell, "
                "such as .bashrc, prints something: it must not where no terminal is"
            )
        length, kind = struct.unpack(">IB", head)
        reader = Body(stream.receive(self._require_length(length, 1)), stream.violation)
        if kind != VERSION or reader.uint() != 3:
            raise stream.violation("does not speak SFTP version 3")
        while reader.more():
            name, value = reader.string(), reader.string()
            self.extensions[name.decode("ascii", "replace")] = value.decode("ascii", "replace")
        if "limits@openssh.com" in self.extensions:
            # Travels with the first request that somebody makes.
            self._asked_limits = self.request_extended("limits@openssh.com")

    @property
    def max_read(self) -> int:
        """Bytes to ask for in one READ."""
        self._learn_limits()
        return self._max_read

    @property
    def max_write(self) -> int:
        """Bytes to send in one WRITE."""
        self._learn_limits()
        return self._max_write

    def _learn_limits(self) -> None:
        with self._lock:
            request_id, self._asked_limits = self._asked_limits, None
        if request_id is None:
            return
        try:
            body = Body(self.extended(request_id), self.stream.violation)
        except StatusError:
            return
        packet, read, write = body.uint64(), body.uint64(), body.uint64()
        # 0 says nothing; a WRITE's packet holds 1 KiB of handle and fields beside its data.
        longest = min(packet - 1024, LONGEST_LENGTH) if packet > 2048 else DEFAULT_LENGTH
        self._max_read = min(read or DEFAULT_LENGTH, longest)
        self._max_write = min(write or DEFAULT_LENGTH, longest)

    # Requests

    def request(self, kind: int, fields: bytes) -> int:
        """Put a request into the flight and return its number; it goes out with ``flush()``."""
        return self._number(kind, fields, None)

    def request_read(self, handle: bytes, offset: int, length: int, sink: Sink) -> int:
        """Ask for a piece of a file, which goes to ``sink`` as it arrives.

        The sink must not raise: the thread that calls it may not be this one.
        """
        fields = string(handle) + struct.pack(">QI", offset, length)
        return self._number(READ, fields, _Read(sink, offset, length))

    def request_extended(self, name: str, fields: bytes = b"") -> int:
        """Put a request of an extension into the flight."""
        return self.request(EXTENDED, string(name.encode()) + fields)

    def request_write(self, frame: memoryview, handle: bytes, offset: int, length: int) -> int:
        """Send ``length`` bytes that lie in ``frame`` behind room for the request's head.

        Args:
            frame: A buffer that begins with ``write_head_size(handle)`` bytes to be filled here.
            handle: The open file.
            offset: Where in the file the data belongs.
            length: How many bytes of data follow the head.
        """
        head = write_head_size(handle)
        with self._lock:
            request_id = self._take_id(None)
        _HEAD.pack_into(frame, 0, head - 4 + length, WRITE, request_id)
        frame[9 : head - 12] = string(handle)
        struct.pack_into(">QI", frame, head - 12, offset, length)
        self._send(frame[: head + length])
        return request_id

    def ignore(self, request_id: int) -> None:
        """Drop an answer whenever it comes: it can tell nothing that matters."""
        with self._lock:
            if self._answers.pop(request_id, None) is None:
                self._ignored.add(request_id)

    def flush(self) -> None:
        """Send the requests of the flight."""
        if self._outgoing:
            self._send()

    def _send(self, frame: bytes | memoryview = b"") -> None:
        """Send what waits to be sent, and a frame behind it."""
        with self._sending:
            try:
                with self._lock:
                    outgoing, self._outgoing = self._outgoing, bytearray()
                self.stream.send(memoryview(outgoing))
                self.stream.send(frame)
            except BaseException:
                # Nobody knows how much of it went.
                self.stream.lost("it was interrupted")
                raise

    def _number(self, kind: int, fields: bytes, read: _Read | None) -> int:
        with self._lock:
            request_id = self._take_id(read)
            self._outgoing += _HEAD.pack(5 + len(fields), kind, request_id)
            self._outgoing += fields
        return request_id

    def _take_id(self, read: _Read | None) -> int:
        self._next_id = (self._next_id + 1) & 0xFFFFFFFF
        self._waiting[self._next_id] = read
        if (operation := at_work.get()) is not None:
            operation.asked(self._next_id)
        return self._next_id

    # Answers

    def answer(self, request_id: int) -> Answer:
        """Return the answer to a request, whatever it says, once it is there."""
        self.flush()
        if (operation := at_work.get()) is not None:
            operation.awaits(request_id)
        try:
            while True:
                with self._lock:
                    if request_id in self._answers:
                        return self._answers.pop(request_id)
                    self.stream.require_usable()
                    if self._reader is None:
                        self._reader = request_id
                    reads = self._reader == request_id
                    if not reads:
                        turn = self._parked[request_id] = threading.Lock()
                        turn.acquire()
                if reads:
                    self._read_for_all()
                elif not turn.acquire(timeout=self.stream.timeout):
                    self._require_sound()
        finally:
            self._stop_waiting(request_id)

    def _stop_waiting(self, request_id: int) -> None:
        """See to it that somebody reads for those who still wait."""
        with self._lock:
            self._parked.pop(request_id, None)
            if self._reader == request_id:
                self._reader = None
            if self._reader is None:
                if self._parked:
                    self._wake(next(iter(self._parked)))
                else:
                    self._oldest_since = None

    def _wake(self, request_id: int) -> None:
        """Let the thread go on that waits for this answer, if one does."""
        turn = self._parked.pop(request_id, None)
        if turn is not None:
            turn.release()

    def status(self, request_id: int) -> None:
        """Wait for a status; raise StatusError unless it is OK."""
        self._expect(self.answer(request_id), None)

    def failure_of(self, request_id: int | None) -> StatusError | None:
        """Wait for a status; return it if it is not OK."""
        if request_id is None:
            return None
        try:
            self.status(request_id)
        except StatusError as error:
            return error
        return None

    def first_failure(
        self, request_ids: Iterable[int | None], failure: Exception | None
    ) -> Exception | None:
        """Wait for a status for each request; return ``failure`` or else the first bad one."""
        for request_id in request_ids:
            refused = self.failure_of(request_id)
            failure = failure or refused
        return failure

    def handle(self, request_id: int) -> bytes:
        """Wait for the handle of an opened file or directory."""
        handle = self._expect(self.answer(request_id), HANDLE).string()
        if len(handle) > LONGEST_HANDLE:
            raise self.stream.violation(f"gave a handle of {len(handle)} bytes")
        return handle

    def attributes(self, request_id: int) -> Attributes:
        """Wait for attributes."""
        return self._expect(self.answer(request_id), ATTRS).attributes()

    def extended(self, request_id: int) -> bytes:
        """Wait for the reply of an extension."""
        answer = self.answer(request_id)
        self._expect(answer, EXTENDED_REPLY)
        return answer.body

    def names(self, request_id: int) -> list[tuple[bytes, Attributes]] | None:
        """Wait for a piece of a directory: names with their own attributes; None at its end."""
        try:
            body = self._expect(self.answer(request_id), NAME)
        except StatusError as error:
            if error.code == EOF:
                return None
            raise
        names = []
        for _ in range(body.uint()):
            name = body.string()
            body.string()  # the line that `ls -l` would show
            names.append((name, body.attributes()))
        return names

    def data(self, request_id: int) -> int:
        """Wait for the data of a READ; return how many bytes its sink got, 0 at the file's end."""
        try:
            return self._expect(self.answer(request_id), DATA).uint()
        except StatusError as error:
            if error.code == EOF:
                return 0
            raise

    def _expect(self, answer: Answer, kind: int | None) -> Body:
        body = Body(answer.body, self.stream.violation)
        if answer.kind == STATUS:
            code = body.uint()
            if kind is None and code == OK:
                return body
            message = (
                body.string()[:LONGEST_WORDS].decode("utf-8", "replace") if body.more() else ""
            )
            if code in {NO_CONNECTION, CONNECTION_LOST}:
                raise self.stream.lost(f"the server lost its own connection ({message!r})")
            if code == OK:
                raise self.stream.violation(f"answered with status {code} ({message!r})")
            raise StatusError(code, message)
        if answer.kind != kind:
            raise self.stream.violation(f"answered with a packet of type {answer.kind}")
        return body

    # Frames

    def _read_for_all(self) -> None:
        try:
            self._receive_answer()
        except BaseException:
            # Nobody knows where in a frame the stream stands.
            self.stream.lost("it was interrupted")
            raise

    def _receive_answer(self) -> None:
        """Read one frame, for whomever it is; only the one reader does so."""
        stream = self.stream
        length, kind = struct.unpack(">IB", stream.receive(5))
        length = self._require_length(length, 5)
        request_id = int.from_bytes(stream.receive(4), "big")
        if request_id not in self._waiting:
            raise stream.violation("answered a request that was not made")
        read = self._waiting[request_id]
        if kind == DATA and read is not None:
            body = self._receive_data(read, length)
        else:
            body = stream.receive(length)
        with self._lock:
            self._require_progress(request_id)
            del self._waiting[request_id]
            if request_id in self._ignored:
                self._ignored.discard(request_id)
            else:
                self._answers[request_id] = Answer(kind, body)
                self._wake(request_id)

    def _require_progress(self, answered: int) -> None:
        """Give the server up if it answers others but, for too long, not the oldest request."""
        now = time.monotonic()
        if self._oldest_since is None or answered == next(iter(self._waiting)):
            self._oldest_since = now
        elif now - self._oldest_since > self.stream.timeout:
            raise self.stream.timed_out()

    def _require_sound(self) -> None:
        """Give the server up if nothing came for so long; whoever reads for all should have."""
        if time.monotonic() - self.stream.heard_at > self.stream.timeout:
            raise self.stream.timed_out()

    def _require_length(self, length: int, head: int) -> int:
        """Return how much of a packet lies behind ``head`` bytes of it."""
        if not 0 <= length - head <= MAX_FRAME:
            raise self.stream.violation(f"announced a packet of {length} bytes")
        return length - head

    def _receive_data(self, read: _Read, length: int) -> bytes:
        """Hand the data of a READ to its sink piece by piece, without putting it together."""
        stream = self.stream
        announced = stream.receive(4)
        count = int.from_bytes(announced, "big")
        if count != length - 4 or not 0 < count <= read.length:
            raise stream.violation(f"answered a READ of {read.length} bytes with {count}")
        offset, left = read.offset, count
        while left:
            piece = stream.receive_some(left)
            read.sink(offset, piece)
            offset += len(piece)
            left -= len(piece)
        return announced
