"""A TCP proxy that adds a delay and counts bytes, in a process of its own.

Each chunk is sent on when its time has come, so what is in flight is not bounded by the proxy and
nothing waits for an answer: a long line, not a slow one. A chunk is read only while the other side
takes what is due, so a slow receiver slows the sender, as TCP does.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections import deque

from .child import ROOT

CHUNK = 2**20


class Proxy:
    """The proxy, run as a child process on 127.0.0.1.

    Args:
        host: The server's address.
        port: The server's port.
        delay: Seconds that each chunk is held up, in each direction: half a round trip.

    Attributes:
        port: Where clients connect.
    """

    def __init__(self, host: str, port: int, delay: float) -> None:
        # No GIL is shared with what is measured.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.proxy", host, str(port), str(delay)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
            bufsize=1,
        )
        self.port: int = self._answer()["port"]

    def counts(self) -> dict[str, int]:
        """``up`` and ``down``: bytes sent by clients and by the server so far; ``connections``."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        return self._answer()

    def _answer(self) -> dict[str, int]:
        assert self._process.stdout is not None
        answer: dict[str, int] = json.loads(self._process.stdout.readline())
        return answer

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class _Way:
    """One direction of a connection: chunks on their way, each with the time when it is due."""

    def __init__(self, name: str, source: socket.socket, target: socket.socket) -> None:
        self.name = name
        self.source = source
        self.target = target
        self.chunks: deque[tuple[float, memoryview]] = deque()
        self.reading = True
        self.blocked = False

    def read(self, delay: float) -> int:
        try:
            data = self.source.recv(CHUNK)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        self.chunks.append((time.monotonic() + delay, memoryview(data)))
        self.reading = bool(data)
        return len(data)

    def write(self, now: float) -> None:
        """Send what is due, as far as the other side takes it."""
        self.blocked = False
        while self.chunks and self.chunks[0][0] <= now:
            due, data = self.chunks[0]
            try:
                if not data:
                    self.target.shutdown(socket.SHUT_WR)
                    sent = 0
                else:
                    sent = self.target.send(data)
            except BlockingIOError:
                sent = 0
                self.blocked = True
            except OSError:
                # Nobody is there any more: let the sender know.
                self.reading = False
                self.chunks.clear()
                with contextlib.suppress(OSError):
                    self.source.shutdown(socket.SHUT_RDWR)
                return
            if sent < len(data):
                self.chunks[0] = (due, data[sent:])
                self.blocked = True
                return
            self.chunks.popleft()

    @property
    def over(self) -> bool:
        return not self.reading and not self.chunks


def main() -> None:
    host, port, delay = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    listener.setblocking(False)
    counts = {"up": 0, "down": 0, "connections": 0}
    ways: list[_Way] = []
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    while True:
        # select(), not epoll: its timeouts are exact to some microseconds.
        reads: dict[object, _Way | None] = {listener: None, 0: None}
        reads.update((way.source, way) for way in ways if way.reading and not way.blocked)
        writes = {way.target: way for way in ways if way.blocked}
        due = min((w.chunks[0][0] for w in ways if w.chunks and not w.blocked), default=None)
        pause = None if due is None else max(0.0, due - time.monotonic())
        readable, writable, _ = select.select(reads, writes, (), pause)
        for source in readable:
            if source == 0:
                if not os.read(0, 1):
                    return
                print(json.dumps(counts), flush=True)
            elif source is listener:
                ways += _accept(listener, host, port)
                counts["connections"] += 1
            elif way := reads[source]:
                counts[way.name] += way.read(delay)
        now = time.monotonic()
        for way in ways:
            if (
                way.chunks
                and way.chunks[0][0] <= now
                and (not way.blocked or way.target in writable)
            ):
                way.write(now)
        if any(way.over for way in ways):
            # The sockets of a pair of ways close when neither is in use any more.
            used = {id(s) for way in ways if not way.over for s in (way.source, way.target)}
            for way in ways:
                if way.over and id(way.source) not in used:
                    way.source.close()
                    way.target.close()
            ways = [way for way in ways if not way.over]


def _accept(listener: socket.socket, host: str, port: int) -> list[_Way]:
    client = listener.accept()[0]
    try:
        server = socket.create_connection((host, port))
    except OSError:
        client.close()
        return []
    for sock in (client, server):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
    return [_Way("up", client, server), _Way("down", server, client)]


if __name__ == "__main__":
    main()
