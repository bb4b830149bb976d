"""A line to a server on which something goes wrong, once, at a point that a test chooses."""

from __future__ import annotations

import contextlib
import enum
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.servers.base import Server

CHUNK = 2**16
SLOW = 0.001
"""Seconds between two pieces of what trickles."""
SILENCE = 60.0
"""Seconds after which nobody waits on a silent line any more."""


class Where(enum.Enum):
    """A place in a turn: what the client sends in one go, and what the server answers."""

    REQUEST = "before the request"
    FLIGHT = "in the middle of the request"
    ANSWER = "before the answer"
    PART = "in the middle of the answer"


class What(enum.Enum):
    """What happens to the connection there; to all others that come, nothing."""

    CUT = "closed at both ends"
    RESET = "reset at both ends"
    STALL = "silent from there on"
    TRICKLE = "slow from there on"
    CORRUPT = "one bit turned over"
    REFUSE = "closed, and the server down"
    NOTHING = "as before"


class Fault(NamedTuple):
    """What goes wrong, where; turns are counted from 1."""

    what: What
    turn: int
    where: Where

    def __str__(self) -> str:
        return f"{self.what.value}, {self.where.value} of turn {self.turn}"


class _Connection:
    """The two ends, and what happens between them from now on."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.ends = client, server
        self.gone = threading.Event()
        self.silent = False
        self.slow = False

    def wait(self) -> None:
        """Wait until the client has gone, or both were ended, and read nothing.

        A client that goes while it has more to send than fits into the line is never seen to go:
        its end of the stream stands behind what nobody reads.
        """
        poll = select.poll()
        with contextlib.suppress(ValueError):  # closed meanwhile
            poll.register(self.ends[0], select.POLLRDHUP)
        deadline = time.monotonic() + SILENCE
        # In pieces: once it was closed, its number may be another's.
        while not self.gone.is_set() and time.monotonic() < deadline and not poll.poll(50):
            pass

    def end(self, *, reset: bool = False) -> None:
        """Wake both directions; each closes the end that it reads from."""
        if self.gone.is_set():
            return
        self.gone.set()
        for end in self.ends:
            with contextlib.suppress(OSError):
                if reset:
                    # No time for what is still to be sent: closing it sends RST.
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RD)
                else:
                    end.shutdown(socket.SHUT_RDWR)


class FaultyLine:
    """Passes bytes between clients and a server, and counts turns.

    A turn begins with what a client sends after the server has spoken (or at the connection's
    beginning), whatever the protocol. Turns go on counting over several connections.

    Args:
        server: Where the line leads.

    Attributes:
        turns: How many there were since ``arm()`` or ``clear()``.
        struck: Whether the fault has happened.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._connections: list[_Connection] = []
        self._refuses = False
        self._open = threading.Event()
        self._open.set()
        self.clear()
        self._threads: list[threading.Thread] = []
        self._accepts = threading.Thread(target=self._accept)
        self._accepts.start()

    @property
    def options(self) -> dict[str, Any]:
        """The server's options, with the line in its place."""
        return self._server.options_through(self.port)

    def arm(self, fault: Fault | None, event: Callable[[], object] | None = None) -> None:
        """Count from here, and let ``fault`` happen when its point is reached.

        Args:
            fault: What goes wrong on the line, and where.
            event: What happens beside it at that moment; who connects meanwhile waits for its end.
        """
        with self._lock:
            self._fault = fault
            self._event = event
            self.turns = 0
            self._answering = True
            self.struck = False

    def clear(self) -> None:
        """End what is silent or slow, accept again, and let nothing happen any more."""
        self.arm(None)
        with self._lock:
            self._refuses = False
            ill = [each for each in self._connections if each.silent or each.slow]
        for connection in ill:
            connection.end()

    def __enter__(self) -> FaultyLine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepts.join()
        for connection in self._connections:
            connection.end()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                if self._refuses:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.close()
                    continue
                self._open.wait()
                try:
                    server = socket.create_connection((self._server.host, self._server.port))
                except OSError:
                    client.close()
                    continue
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = _Connection(client, server)
                with self._lock:
                    # A soak makes thousands: those that are over are forgotten.
                    open_ones = [each for each in self._connections if not each.gone.is_set()]
                    self._connections = [*open_ones, connection]
                self._threads = [each for each in self._threads if each.is_alive()]
                for up in (True, False):
                    thread = threading.Thread(target=self._pass, args=(connection, up))
                    self._threads.append(thread)
                    thread.start()

    def _pass(self, connection: _Connection, up: bool) -> None:
        source, target = connection.ends if up else connection.ends[::-1]
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                fault = self._strikes(connection, up)
                if fault is not None:
                    data = self._happen(connection, fault, data)
                if connection.silent:
                    connection.wait()
                    break
                if connection.gone.is_set():
                    # What follows a gap must not arrive: to a server it would be another request.
                    break
                self._send(connection, target, data)
        connection.end()
        source.close()

    def _send(self, connection: _Connection, target: socket.socket, data: bytes) -> None:
        step = max(1, len(data) // 20)
        while connection.slow and data:
            target.sendall(data[:step])
            data = data[step:]
            time.sleep(SLOW)
        target.sendall(data)

    def _strikes(self, connection: _Connection, up: bool) -> Fault | None:
        """Count turns; tell which fault happens with these bytes.

        What lasts begins here, under the lock: else it could begin after ``clear()``.
        """
        with self._lock:
            begins = up and self._answering
            if begins:
                self.turns += 1
                self._answering = False
            first_answer = not up and not self._answering
            if first_answer:
                self._answering = True
            fault = self._fault
            if fault is None or fault.turn != self.turns:
                return None
            reached = {
                Where.REQUEST: begins,
                Where.FLIGHT: begins,
                Where.ANSWER: first_answer,
                Where.PART: first_answer,
            }
            if not reached[fault.where]:
                return None
            self._fault = None
            self.struck = True
            self._refuses = fault.what is What.REFUSE
            connection.slow = fault.what is What.TRICKLE
            connection.silent = fault.what is What.STALL
            return fault

    def _happen(self, connection: _Connection, fault: Fault, data: bytes) -> bytes:
        """Do it to the connection; return what still goes through of ``data``."""
        if fault.what is What.TRICKLE:
            return data
        if fault.what is What.CORRUPT:
            at = len(data) // 2
            return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
        up = fault.where in {Where.REQUEST, Where.FLIGHT}
        half = len(data) // 2 if fault.where in {Where.FLIGHT, Where.PART} else 0
        with contextlib.suppress(OSError):
            connection.ends[1 if up else 0].sendall(data[:half])
        if self._event is not None:
            self._open.clear()
            try:
                self._event()
            finally:
                self._open.set()
        if fault.what is What.NOTHING:
            return data[half:]
        if fault.what is not What.STALL:
            connection.end(reset=fault.what is What.RESET)
        return b""
