"""SFTP version 3 on an open channel: requests in flight, every answer examined.

With OpenSSH's extensions (OpenSSH PROTOCOL, section 4). Sending a request returns its number;
asking for the answer of that number reads frames until it is there. One thread at a time.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple, TypeVar, cast

from paramiko import Channel
from paramiko.ssh_exception import SSHException

from ..exceptions import ConnectionLost, ProtocolError
from ..session import Sink
from .frames import (
    ATTRS,
    CONNECTION_LOST,
    DATA,
    EOF,
    EXTENDED,
    EXTENDED_REPLY,
    HANDLE,
    INIT,
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

DEFAULT_LENGTH = 32 * 2**10
"""Bytes of data in a request that every server takes (section 3: packets of 34000 bytes)."""
LONGEST_LENGTH = 255 * 2**10
"""Bytes of data in a request at the most: what OpenSSH allows in its packets of 256 KiB."""
MAX_FRAME = 2**20
"""Bytes of an answer beyond which a server is taken to be lying."""
IN_FLIGHT_BYTES = 16 * LONGEST_LENGTH
IN_FLIGHT_REQUESTS = 64
"""Bounds of what bulk transfers keep in flight: enough for loopback and for 20 ms at 1 Gbit/s."""

_T = TypeVar("_T")

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
        channel: An open channel, on which the subsystem was started.
        timeout: Seconds of silence after which the server is given up.
        server: The server's name, for messages.

    Attributes:
        extensions: What the server offers beyond version 3, with each one's version.
        max_read: Bytes to ask for in one READ.
        max_write: Bytes to send in one WRITE.
    """

    def __init__(self, channel: Channel, timeout: float, server: str) -> None:
        self.channel = channel
        self._timeout = timeout
        self._server = server
        self._next_id = 0
        self._waiting: dict[int, _Read | None] = {}
        self._answers: dict[int, Answer] = {}
        self._ignored: set[int] = set()
        self._outgoing = bytearray()
        self._chunk = memoryview(b"")
        self._broken = False
        self.extensions: dict[str, str] = {}
        self.max_read = self.max_write = DEFAULT_LENGTH
        channel.settimeout(timeout)

    def start(self) -> None:
        """Agree on version 3, learn the server's extensions and limits."""
        self._send_all(struct.pack(">IBI", 5, INIT, 3))
        head = self._receive_exactly(5)
        if all(0x20 <= byte < 0xF8 or byte in b"\t\n\r\x1b" for byte in head):
            raise self.violation(
                "sent text before SFTP began. Most likely a start-up file of the login's shell, "
                "such as .bashrc, prints something: it must not where no terminal is"
            )
        kind, body = self._parse_frame_head(head, numbered=False)
        reader = self._body(self._receive_exactly(body))
        if kind != VERSION or reader.uint() != 3:
            raise self.violation("does not speak SFTP version 3")
        while reader.more():
            name, value = reader.string(), reader.string()
            self.extensions[name.decode("ascii", "replace")] = value.decode("ascii", "replace")
        if "limits@openssh.com" in self.extensions:
            self._learn_limits()

    def _learn_limits(self) -> None:
        try:
            body = self._body(self.extended(self.request_extended("limits@openssh.com")))
        except StatusError:
            return
        packet, read, write = body.uint64(), body.uint64(), body.uint64()
        # 0 says nothing; a WRITE's packet holds 1 KiB of handle and fields beside its data.
        longest = min(packet - 1024, LONGEST_LENGTH) if packet > 2048 else DEFAULT_LENGTH
        self.max_read = min(read or DEFAULT_LENGTH, longest)
        self.max_write = min(write or DEFAULT_LENGTH, longest)

    @property
    def idle(self) -> bool:
        """Whether nothing is owed by either side, so that the wire can serve anew."""
        owed = self._waiting.keys() - self._ignored
        return not (self._broken or owed or self._outgoing or self.channel.closed)

    def set_timeout(self, timeout: float | None = None) -> None:
        """Change the deadline for a while; None: back to what it was."""
        self.channel.settimeout(self._timeout if timeout is None else timeout)

    # Requests

    def request(self, kind: int, fields: bytes) -> int:
        """Put a request into the flight and return its number; it goes out with ``flush()``."""
        return self._number(kind, fields, None)

    def request_read(self, handle: bytes, offset: int, length: int, sink: Sink) -> int:
        """Ask for a piece of a file, which goes to ``sink`` as it arrives."""
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
        request_id = self._take_id()
        _HEAD.pack_into(frame, 0, head - 4 + length, WRITE, request_id)
        frame[9 : head - 12] = string(handle)
        struct.pack_into(">QI", frame, head - 12, offset, length)
        self._waiting[request_id] = None
        self.flush()
        self._send_all(frame[: head + length])
        return request_id

    def ignore(self, request_id: int) -> None:
        """Drop an answer whenever it comes: it can tell nothing that matters."""
        if self._answers.pop(request_id, None) is None:
            self._ignored.add(request_id)

    def flush(self) -> None:
        """Send the requests of the flight."""
        if self._outgoing:
            outgoing, self._outgoing = self._outgoing, bytearray()
            self._send_all(memoryview(outgoing))

    def _number(self, kind: int, fields: bytes, read: _Read | None) -> int:
        request_id = self._take_id()
        self._outgoing += _HEAD.pack(5 + len(fields), kind, request_id)
        self._outgoing += fields
        self._waiting[request_id] = read
        return request_id

    def _take_id(self) -> int:
        self._next_id = (self._next_id + 1) & 0xFFFFFFFF
        return self._next_id

    # Answers

    def answer(self, request_id: int) -> Answer:
        """Return the answer to a request, whatever it says, once it is there."""
        self.flush()
        while request_id not in self._answers:
            self._receive_answer()
        return self._answers.pop(request_id)

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
        self, request_ids: Iterable[int | None], failure: StatusError | None
    ) -> StatusError | None:
        """Wait for a status for each request; return ``failure`` or else the first bad one."""
        for request_id in request_ids:
            refused = self.failure_of(request_id)
            failure = failure or refused
        return failure

    def handle(self, request_id: int) -> bytes:
        """Wait for the handle of an opened file or directory."""
        return self._expect(self.answer(request_id), HANDLE).string()

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
        body = self._body(answer.body)
        if answer.kind == STATUS:
            code = body.uint()
            if kind is None and code == OK:
                return body
            message = body.string().decode("utf-8", "replace") if body.more() else ""
            if code in {NO_CONNECTION, CONNECTION_LOST}:
                raise self._lost(message or "the server lost its own connection")
            if code == OK:
                raise self.violation(f"answered with status {code} {message}".rstrip())
            raise StatusError(code, message)
        if answer.kind != kind:
            raise self.violation(f"answered with a packet of type {answer.kind}")
        return body

    # Bytes

    def _receive_answer(self) -> None:
        kind, length = self._parse_frame_head(self._receive_exactly(5), numbered=True)
        request_id = int.from_bytes(self._receive_exactly(4), "big")
        if request_id not in self._waiting:
            raise self.violation("answered a request that was not made")
        read = self._waiting[request_id]
        if kind == DATA and read is not None:
            body = self._receive_data(read, length)
        else:
            body = self._receive_exactly(length)
        del self._waiting[request_id]
        if request_id in self._ignored:
            self._ignored.discard(request_id)
        else:
            self._answers[request_id] = Answer(kind, body)

    def _parse_frame_head(self, head: bytes, *, numbered: bool) -> tuple[int, int]:
        length, kind = struct.unpack(">IB", head)
        rest = length - (5 if numbered else 1)
        if not 0 <= rest <= MAX_FRAME:
            raise self.violation(f"announced a packet of {length} bytes")
        return kind, rest

    def _receive_data(self, read: _Read, length: int) -> bytes:
        """Hand the data of a READ to its sink piece by piece, without putting it together."""
        announced = self._receive_exactly(4)
        count = int.from_bytes(announced, "big")
        if count != length - 4 or not 0 < count <= read.length:
            raise self.violation(f"answered a READ of {read.length} bytes with {count}")
        offset, left = read.offset, count
        try:
            while left:
                piece = self._receive_some(left)
                read.sink(offset, piece)
                offset += len(piece)
                left -= len(piece)
        except BaseException:
            self._broken = True
            raise
        return announced

    def _receive_exactly(self, count: int) -> bytes:
        piece = self._receive_some(count) if count else memoryview(b"")
        if len(piece) == count:
            return bytes(piece)
        whole = bytearray(piece)
        while len(whole) < count:
            whole += self._receive_some(count - len(whole))
        return bytes(whole)

    def _receive_some(self, count: int) -> memoryview:
        if not self._chunk:
            # Asking for all that is there spares paramiko moving the rest within its buffer.
            self._chunk = memoryview(self._guard(partial(self.channel.recv, 2**22)))
            if not self._chunk:
                raise self._lost("the server closed it")
        piece, self._chunk = self._chunk[:count], self._chunk[count:]
        return piece

    def _send_all(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            sent = self._guard(partial(self.channel.send, cast("bytes", view)))
            if not sent:
                raise self._lost("the server closed it")
            view = view[sent:]

    def _guard(self, call: Callable[[], _T]) -> _T:
        """Do one call on the channel, and tell its failures in our words."""
        try:
            return call()
        except TimeoutError as error:
            raise self._timed_out() from error
        except (SSHException, EOFError, OSError) as error:
            raise self._lost(str(error) or "the connection ended") from error
        except BaseException:
            self._broken = True
            raise

    def _timed_out(self) -> TimeoutError:
        self._broken = True
        timeout = self.channel.gettimeout()
        return TimeoutError(
            errno.ETIMEDOUT, f"{self._server} did not go on within {timeout:g} s (timeout)"
        )

    def _lost(self, why: str) -> ConnectionLost | TimeoutError:
        self._broken = True
        if getattr(self.channel.get_transport().sock, "stalled", False):
            return self._timed_out()
        return ConnectionLost(f"the session with {self._server} was lost: {why}")

    def _body(self, data: bytes) -> Body:
        return Body(data, self.violation)

    def violation(self, what: str) -> ProtocolError:
        """Make the error for a server that breaks the protocol; the wire is of no further use."""
        self._broken = True
        return ProtocolError(f"{self._server} broke the SFTP protocol: it {what}")
