"""Clients of a web server that drop what they get: at full speed, or at a slow line's pace."""

from __future__ import annotations

import re
import select
import socket
import time

PIECE = 2**20
SLOW_PIECE = 2**16


class _Download:
    """One connection, and how far it is."""

    def __init__(self, port: int, path: str, rate: float) -> None:
        self.sock = socket.socket()
        if rate:
            # Or the kernel would take megabytes off the server's hands.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_PIECE)
        self.sock.connect(("127.0.0.1", port))
        self.rate = rate
        self.began = time.perf_counter()
        self.sock.sendall(f"GET /{path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        self.head = b""
        self.length: int | None = None
        self.got = 0
        self.first = 0.0
        self.due = 0.0
        self.over = False

    def take(self, buffer: memoryview) -> None:
        """Take what there is."""
        count = self.sock.recv_into(buffer[:SLOW_PIECE] if self.rate else buffer)
        if self.length is None:
            self.head, ends, body = (self.head + bytes(buffer[:count])).partition(b"\r\n\r\n")
            if ends:
                told = re.search(rb"\r\ncontent-length: *(\d+)", self.head, re.IGNORECASE)
                if told is None or self.head.split()[1] != b"200":
                    raise OSError(f"no file: {self.head[:500]!r}")
                self.length, self.got = int(told[1]), len(body)
        else:
            self.got += count
        if self.got and not self.first:
            self.first = time.perf_counter() - self.began
        if self.rate:
            self.due = self.began + self.got / self.rate
        if not count or self.got == self.length:
            self.over = True


def fetch(
    port: int, path: str, count: int = 1, rate: float = 0, seconds: float = 0
) -> dict[str, float]:
    """Get a file ``count`` times at once, in a child process.

    Args:
        port: Where the server listens, on 127.0.0.1.
        path: The file's, without the first slash.
        count: How many clients there are.
        rate: Bytes a second that each of them takes; 0: what comes.
        seconds: When they go away, done or not; 0: not before they are done.
    """
    buffer = memoryview(bytearray(PIECE))
    began = time.perf_counter()
    downloads = [_Download(port, path, rate) for _ in range(count)]
    try:
        while under_way := [one for one in downloads if not one.over]:
            now = time.perf_counter()
            if seconds and now - began > seconds:
                break
            due = {one.sock: one for one in under_way if one.due <= now}
            wait = min((one.due - now for one in under_way if one.due > now), default=1.0)
            for sock in select.select(due, (), (), wait)[0]:
                due[sock].take(buffer)
        wall = time.perf_counter() - began
    finally:
        for one in downloads:
            one.sock.close()
    if not seconds and any(one.got != one.length for one in downloads):
        raise OSError("a download is not complete")
    got = [one.got for one in downloads]
    return {
        "wall": wall,
        "rate": sum(got) / wall / 2**20,
        "first": max(one.first for one in downloads) * 1000,
        "least": min(got) / wall / 2**20,
    }
