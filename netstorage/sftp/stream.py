"""Bytes over an SSH channel: with deadlines, and with every end told in our words."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import cast

from paramiko import Channel
from paramiko.buffered_pipe import BufferedPipe, PipeTimeout
from paramiko.ssh_exception import SSHException

from ..exceptions import ConnectionLost, ProtocolError

ENDS = (SSHException, EOFError, OSError)
"""What calls on a channel raise when nothing more comes through."""

UNSENT = "take what was sent"

CHANNEL_WINDOW = 2**23
"""Bytes that the server may send ahead of our reading: what a download can have on its way."""
MOST_PACKETS = 2**12
"""Packets that are kept as they came: each takes memory of its own, even for a single byte."""
FLOODED = f"sent more than {CHANNEL_WINDOW} bytes ahead of our reading"


class Pipe(BufferedPipe):  # type: ignore[type-arg] # generic in the stubs only
    """What a channel received, for one thread to read.

    paramiko's own wakes the reader at every packet, 32 KiB at the most, for which both threads want
    Python's lock. Here the reader says how much it needs before it can go on.

    Attributes:
        enough: Bytes that a read waits for.
        fed_at: When something came last, in ``time.monotonic()``'s seconds.
        flooded: Whether more came than may lie here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enough = 1
        self.flooded = False
        self._changed = threading.Condition(threading.Lock())
        self._packets: list[bytes] = []
        self._size = 0
        self.fed_at = 0.0
        self._ended = False

    def feed(self, data: bytes | str) -> None:
        """Take in a packet's data.

        Raises:
            ConnectionAbortedError: It is more than was granted, for paramiko to end the connection.
        """
        packet = data if isinstance(data, bytes) else data.encode()
        with self._changed:
            self._packets.append(packet)
            self._size += len(packet)
            self.fed_at = time.monotonic()
            # Nobody else counts: paramiko takes in whatever comes (RFC 4254, section 5.2).
            if self._size > CHANNEL_WINDOW:
                self._packets, self._size = [], 0
                self.flooded = self._ended = True
                self._changed.notify()
                raise ConnectionAbortedError(errno.ECONNABORTED, FLOODED)
            if len(self._packets) > MOST_PACKETS:
                self._packets = [b"".join(self._packets)]
            if self._size >= self.enough:
                self._changed.notify()

    def close(self) -> None:
        """Let reading end behind what is there."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def read(self, nbytes: int, timeout: float | None = None) -> bytes:
        """Return what is there, ``nbytes`` at the most, once that is enough; nothing: the end.

        Raises:
            PipeTimeout: Nothing came for ``timeout`` seconds.
        """
        began = time.monotonic()
        with self._changed:
            while self._size < self.enough and not self._ended:
                left = timeout
                if timeout is not None:
                    left = max(began, self.fed_at) + timeout - time.monotonic()
                    if left <= 0:
                        raise PipeTimeout
                self._changed.wait(left)
            data = b"".join(self._packets)
            self._packets = [data[nbytes:]]
            self._size = len(self._packets[0])
            return data[:nbytes]

    def read_ready(self) -> bool:
        """Tell whether reading would not wait."""
        return self._size >= self.enough or self._ended

    def __len__(self) -> int:
        """Return how many bytes are there."""
        return self._size


class Drain(BufferedPipe):  # type: ignore[type-arg] # generic in the stubs only
    """Takes what the server's program says on stderr, which nobody reads, for read."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def feed(self, data: bytes | str) -> None:
        """Drop it, and grant as much again."""
        with self._channel.lock:
            self._channel.in_window_sofar += len(data)


class Stream:
    """Sends and receives over a channel. One thread at a time sends, and one receives.

    Args:
        channel: An open channel, on which nothing was received yet.
        timeout: Seconds of silence after which the server is given up.
        server: The server's name, for messages.

    Attributes:
        timeout: Seconds of silence after which the server is given up.
    """

    def __init__(self, channel: Channel, timeout: float, server: str) -> None:
        self.channel = channel
        self._pipe = channel.in_buffer = Pipe()
        channel.in_stderr_buffer = Drain(channel)
        self.timeout = timeout
        self._server = server
        self._chunk = memoryview(b"")
        # What makes the error, not the error: that would keep alive all that its traceback sees.
        self._failure: Callable[[], Exception] | None = None
        channel.settimeout(timeout)

    @property
    def heard_at(self) -> float:
        """When something came last, in ``time.monotonic()``'s seconds."""
        return self._pipe.fed_at

    def set_timeout(self, timeout: float | None = None) -> None:
        """Change the deadline for a while; None: back to what it was."""
        self.channel.settimeout(self.timeout if timeout is None else timeout)

    @property
    def usable(self) -> bool:
        """Whether nothing has ended it yet."""
        return self._failure is None and not self.channel.closed

    def require_usable(self) -> None:
        """Raise what ended it, if something has."""
        if self._failure is not None:
            raise self._failure()

    def send(self, data: bytes | memoryview) -> None:
        """Send all of ``data``."""
        self.require_usable()
        view = memoryview(data)
        while view:
            try:
                sent = self.channel.send(cast("bytes", view))
            except TimeoutError as error:
                raise self.timed_out(UNSENT) from error
            except ENDS as error:
                raise self._explained(error) from error
            if not sent:
                raise self.lost("the server closed it")
            view = view[sent:]

    def receive(self, count: int) -> bytes:
        """Receive exactly ``count`` bytes."""
        piece = self.receive_some(count) if count else memoryview(b"")
        if len(piece) == count:
            return bytes(piece)
        whole = bytearray(piece)
        while len(whole) < count:
            whole += self.receive_some(count - len(whole))
        return bytes(whole)

    def receive_some(self, count: int) -> memoryview:
        """Receive what is there of ``count`` bytes that are on their way: all, or the first."""
        if not self._chunk:
            self._pipe.enough = count
            # Asking for all that is there spares paramiko moving the rest within its buffer.
            try:
                self._chunk = memoryview(self.channel.recv(2**24))
            except ENDS as error:
                raise self._explained(error) from error
            if not self._chunk:
                raise self.lost("the server closed it")
        piece, self._chunk = self._chunk[:count], self._chunk[count:]
        return piece

    def _explained(self, error: Exception) -> Exception:
        """Tell what ended a call on the channel in our words."""
        if isinstance(error, TimeoutError):
            return self.timed_out()
        return self.lost(str(error) or "the connection ended")

    # Its end

    def timed_out(self, what: str = "go on") -> Exception:
        """End it: the server did not do something in time."""
        seconds = self.channel.gettimeout()
        message = f"{self._server} did not {what} within {seconds:g} s"
        if seconds == self.timeout:
            message += " (timeout)"
        return self._end(partial(TimeoutError, errno.ETIMEDOUT, message))

    def lost(self, why: str) -> Exception:
        """End it: nothing comes through any more, or nobody knows any more where it stands."""
        if self._pipe.flooded:
            return self.violation(FLOODED)
        if getattr(self.channel.get_transport().sock, "stalled", False):
            return self.timed_out(UNSENT)
        return self._end(
            partial(ConnectionLost, f"the session with {self._server} was lost: {why}")
        )

    def violation(self, what: str) -> ProtocolError:
        """End it: the server breaks the protocol.

        Who comes later, or uses it beside, learns only that it is lost, and may well do better on
        another one.
        """
        message = f"{self._server} broke the SFTP protocol: it {what}"
        self._end(partial(ConnectionLost, message))
        return ProtocolError(message)

    def _end(self, error: Callable[[], Exception]) -> Exception:
        self._failure = self._failure or error
        return error()
