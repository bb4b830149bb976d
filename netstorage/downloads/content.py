"""A file's bytes on their way to a client, fetched in windows.

A window is fetched at once, into memory, and then sent at the client's pace while no session is
held. So a slow client holds nobody up, and one that goes away leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import cast
from weakref import WeakKeyDictionary

from ..files import RemoteFile
from ..pool import ConnectionPool
from ..ranges import changed
from ..session import Session, Stat
from ..storage import NetworkStorage
from ..telemetry import carrier

FIRST_WINDOW = 64 * 2**10
"""Bytes fetched at first, together with what the file is: the client gets them early."""
WINDOW_GROWTH = 4
LAST_WINDOW = 4 * 2**20
"""Bytes fetched at once at the most: so much memory takes a download. Each window costs a round
trip or two, in which the client waits."""
LONG = 0.5
"""Seconds that a window may take and the next one still be larger: others want the session."""

Part = bytes | tuple[int, int]
"""What is sent: bytes as they are, or the file's bytes from the first offset to the second."""


class Content:
    """One file, to be sent once.

    Raises:
        FileChanged: From whatever fetches: the file is not what it was at first.

    Attributes:
        stat: What the file is, once ``look()`` or ``begin()`` has asked.
    """

    def __init__(self, storage: NetworkStorage, name: str) -> None:
        self.stat: Stat | None = None
        self._storage = storage
        self._name = name
        self._window = FIRST_WINDOW
        self._begun: tuple[int, deque[bytes]] | None = None
        self._whole: RemoteFile | None = None
        # Also what is fetched once the view has returned is a part of its request.
        self._call = carrier()

    @property
    def size(self) -> int:
        """The file's length in bytes. If no answer told it, the whole is fetched to learn it."""
        if self.stat is None or self.stat.size is None:
            return self._fetch_whole().size
        return self.stat.size

    def look(self) -> None:
        """Learn what the file is."""
        self._check(self._storage._stat(self._name))

    def begin(self, start: int, stop: int | None = None) -> None:
        """Fetch a first window from ``start``, and learn what the file is by the way."""
        end = start + FIRST_WINDOW if stop is None else min(start + FIRST_WINDOW, stop)
        future = _slots(self._storage.pool).submit(self._call, self._fetch, start, end)
        self._begun = start, future.result()
        first = cast("Stat", self.stat)
        if first.mtime is None and first.etag is None:
            # lighttpd tells neither with files of types that it does not know, nor others with 416.
            told = self._storage._stat(self._name)
            self._check(told)
            self.stat = told if told.size is not None else replace(told, size=first.size)

    def stream(self, parts: Iterable[Part]) -> Iterator[bytes]:
        """Give the bytes of ``parts``, one window after the other; then close."""
        try:
            for future in self._windows(parts):
                window = future.result()
                while window:
                    yield window.popleft()
        finally:
            self.close()

    async def astream(self, parts: Iterable[Part]) -> AsyncIterator[bytes]:
        """Give the same without blocking the event loop."""
        try:
            for future in self._windows(parts):
                window = await asyncio.wrap_future(future)
                while window:
                    yield window.popleft()
        finally:
            self.close()

    def close(self) -> None:
        """Forget what was fetched."""
        if self._whole is not None:
            self._whole.close()

    def _windows(self, parts: Iterable[Part]) -> Iterator[Future[deque[bytes]]]:
        for part in parts:
            if isinstance(part, bytes):
                yield _done(deque([part]))
                continue
            start, stop = part
            begun_at, begun = self._begun or (None, deque())
            if begun_at == start:
                self._begun = None
                window = _cut(begun, stop - start)
                start += sum(map(len, window))
                yield _done(window)
            while start < stop:
                end = min(start + self._window, stop)
                yield _slots(self._storage.pool).submit(self._call, self._fetch, start, end)
                start = end

    def _fetch(self, start: int, stop: int) -> deque[bytes]:
        """Fetch a window: all of it, or what the file has."""

        def read(session: Session, path: str) -> tuple[Stat, list[tuple[int, bytes]]]:
            pieces: list[tuple[int, bytes]] = []

            def sink(offset: int, data: memoryview) -> None:
                if offset < start or offset + len(data) > stop:
                    raise _IgnoresRanges
                pieces.append((offset, bytes(data)))

            return session.read(path, start, stop, sink), pieces

        if self._whole is not None:
            return self._fetch_from_whole(start, stop)
        began = time.monotonic()
        try:
            stat, pieces = self._storage._read(self._name, read, start, stop)
        except _IgnoresRanges:
            return self._fetch_from_whole(start, stop)
        self._check(stat)
        if time.monotonic() - began < LONG:
            self._window = min(self._window * WINDOW_GROWTH, LAST_WINDOW)
        window: deque[bytes] = deque()
        offset = start
        for at, data in sorted(pieces):
            if at == offset:
                window.append(data)
                offset += len(data)
        self._require(offset, stop)
        return window

    def _fetch_from_whole(self, start: int, stop: int) -> deque[bytes]:
        whole = self._fetch_whole()
        whole.seek(start)
        data = whole.read(stop - start)
        self._require(start + len(data), stop)
        return deque([data])

    def _fetch_whole(self) -> RemoteFile:
        """Spool the file: its server ignores ranges, or does not tell how long it is."""
        if self._whole is None:
            if self.stat is None:
                self.look()
            self._whole = cast("RemoteFile", self._storage.open(self._name))
            self._check(Stat(size=self._whole.size))
        return self._whole

    def _require(self, offset: int, stop: int) -> None:
        if offset < min(stop, self.size):
            raise changed(self._name, f"the server has no bytes at {offset}, of {self.size}")

    def _check(self, stat: Stat) -> None:
        if self.stat is None:
            self.stat = stat
        elif not self.stat.same_version(stat):
            raise changed(self._name, "the file changed on the server while it was sent")


class _IgnoresRanges(Exception):
    """The server sends more than it was asked for."""


def _cut(window: deque[bytes], length: int) -> deque[bytes]:
    """Return the first ``length`` bytes of a window."""
    cut: deque[bytes] = deque()
    for data in window:
        cut.append(data[:length])
        length -= len(cut[-1])
    return cut


def _done(window: deque[bytes]) -> Future[deque[bytes]]:
    future: Future[deque[bytes]] = Future()
    future.set_result(window)
    return future


_executors: WeakKeyDictionary[ConnectionPool, tuple[int, ThreadPoolExecutor]] = WeakKeyDictionary()
_lock = threading.Lock()


def _slots(pool: ConnectionPool) -> ThreadPoolExecutor:
    """Return the threads in which downloads fetch: half as many as the pool may have sessions.

    So something is always left for uploads and pages, and no event loop has to wait.
    """
    with _lock:
        pid, executor = _executors.get(pool, (0, None))
        # A forked child has none of its parent's threads.
        if executor is None or pid != os.getpid():
            executor = ThreadPoolExecutor(max(pool.limits.max_size // 2, 1), "netstorage-download")
            _executors[pool] = os.getpid(), executor
    return executor


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
