"""Many files at once: what waits for answers in turn takes as long as all its round trips.

One engine, ``run_many()``, has a bounded number of calls under way in threads; ``save_many()`` is
the way for users. Works with any of Django's storages; ours say how much they can carry.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Condition, Event
from typing import Any, TypeVar

from django.core.files.base import File
from django.core.files.storage import Storage

from .exceptions import ConnectError, PoolClosed, SaveManyError
from .files import _local_file, broken_off
from .session import SMALL
from .storage import NetworkStorage
from .telemetry import carrier

T = TypeVar("T")
R = TypeVar("R")

# File is generic in the stubs only.
Content = File | os.PathLike[str] | str | Callable[[], File]  # type: ignore[type-arg]
"""What to save: an open file, the path of a local file, or a function that opens a file."""

MAX_THREADS = 32
"""Threads at the most. At 20 ms a save of 4 round trips then leaves every 2.5 ms, which keeps one
core of CPython busy; more threads would only wait for each other."""
ELSEWHERE = 8
"""Threads for a storage that is not ours and does not say what it can carry."""
LISTED = 20
"""Failures that an error holds and shows; there may be a million."""


@dataclass(frozen=True)
class Saved:
    """What became of one file of ``save_many()``.

    Attributes:
        asked: The name that was asked for.
        name: The name it got; None if it was not saved.
        error: Why it was not saved; None if it was.
    """

    asked: str
    name: str | None = None
    error: Exception | None = None


def save_many(
    storage: Storage, files: Iterable[tuple[str, Content]], *, threads: int | None = None
) -> Iterator[Saved]:
    """Save files, many at a time; tell what became of each as it is done, in no fixed order.

    A generator: nothing is saved before the first result is asked for, and it has to be run to its
    end. ``files`` may be a generator, too, of any length. It is read a few files ahead, in the
    caller's thread, where paths and functions are opened as well when their turn comes; what was
    opened here is closed here. The content is read in another thread.

    A file that cannot be saved does not stop the others: it comes as a result with an ``error``,
    and at the end there is a SaveManyError, so that no failure goes unnoticed. If no session can
    be opened any more, no other file is begun.

    When the caller leaves the loop, presses Ctrl-C, or when ``files`` raises, no other file is
    begun, small files that are under way are finished, and large ones are broken off. As always,
    each is there as a whole or not at all. Other storages than ours could leave a part of what is
    broken off: there, large files are finished, too.

    Args:
        storage: Any storage; as with ``storage.save()``, taken names are changed, or overwritten if
            the storage allows that.
        files: Names and contents.
        threads: How many small files to have under way at a time. A large one counts as many, so
            that it has a session for itself. Default: what the pool's sessions can carry, up to 32.

    Raises:
        SaveManyError: At the end: not all files were saved.
        ConnectError: Before anything else: the server cannot be reached.
    """
    sessions = storage.pool.limits.max_size if isinstance(storage, NetworkStorage) else MAX_THREADS
    threads = default_threads(storage) if threads is None else threads
    # A large file counts as all that one session carries, so nobody waits long for the pool.
    share = -(-threads // sessions)
    opened: set[_Job] = set()
    summary = SaveManyError()
    failures: list[Saved] = []

    def jobs() -> Iterator[_Job]:
        for name, content in files:
            if summary.unreachable:
                return
            job = _Job(name)
            opened.add(job)
            job.open(content)
            yield job

    def save(job: _Job) -> str:
        # Who takes it out closes it: nothing is closed while it is read.
        opened.remove(job)
        return job.save(storage)

    run = run_many(
        save,
        jobs(),
        threads=threads,
        slots=lambda job: share if job.is_large else 1,
        give_up=lambda job: job.break_off(),
    )
    try:
        with closing(run):
            for job, future in run:
                saved = _result(job, future)
                if saved.error is None:
                    summary.saved += 1
                else:
                    summary.failed += 1
                    summary.unreachable |= isinstance(saved.error, (ConnectError, PoolClosed))
                    if len(failures) < LISTED:
                        failures.append(saved)
                yield saved
    finally:
        for job in list(opened):
            with suppress(KeyError):
                opened.remove(job)
                job.close()
    if failures:
        summary.failures = failures
        summary.args = (_message(summary),)
        raise summary from failures[0].error


def run_many(
    work: Callable[[T], R],
    items: Iterable[T],
    *,
    threads: int,
    slots: Callable[[T], int] = lambda item: 1,
    give_up: Callable[[T], object] = lambda item: None,
) -> Generator[tuple[T, Future[R]], None, None]:
    """Call ``work`` for each item, many at a time, and give the finished calls as they come.

    Args:
        work: What to do, in a thread.
        items: Read in the caller's thread, one ahead of what is under way.
        threads: How many calls may be under way.
        slots: How many of them an item counts as.
        give_up: Called for what is under way when the run ends early, before it is waited for.
    """
    done: SimpleQueue[Future[R]] = SimpleQueue()
    under_way: dict[Future[R], T] = {}
    free = threads
    executor = ThreadPoolExecutor(threads, "netstorage-bulk")
    # Ctrl-C while a thread is started leaves one of which the executor does not know.
    calls, is_over, ended = 0, False, Condition()

    def call(item: T) -> R:
        nonlocal calls
        with ended:
            if is_over:
                raise CancelledError
            calls += 1
        try:
            return work(item)
        finally:
            with ended:
                calls -= 1
                ended.notify()

    try:
        for item in items:
            needed = min(slots(item), threads)
            while free < needed or not done.empty():
                future = done.get()
                finished = under_way.pop(future)
                free += min(slots(finished), threads)
                yield finished, future
            future = executor.submit(carrier(), call, item)
            under_way[future] = item
            free -= needed
            future.add_done_callback(done.put)
        while under_way:
            future = done.get()
            yield under_way.pop(future), future
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for item in under_way.values():
            give_up(item)
        with ended:
            is_over = True
            ended.wait_for(lambda: not calls)
        executor.shutdown()


def default_threads(storage: Storage, wanted: int | None = None) -> int:
    """Return how many small operations a storage can carry at a time, in threads.

    Args:
        storage: Any storage.
        wanted: How many somebody asked for; ours do no more than their sessions carry.

    Raises:
        ConnectError: The server cannot be reached.
    """
    if not isinstance(storage, NetworkStorage):
        return wanted or ELSEWHERE
    with storage.pool.connection() as session:
        return min(wanted or MAX_THREADS, storage.pool.limits.max_size * session.concurrency)


@dataclass(eq=False)
class _Job:
    """One file of ``save_many()``: opened in the caller's thread, saved and closed in another."""

    name: str
    is_large: bool = False
    _content: File | None = None  # type: ignore[type-arg] # generic in the stubs only
    _is_ours: bool = False
    _error: Exception | None = None
    _broken_off: Event = field(default_factory=Event)

    def open(self, content: Content) -> None:
        """Open what is no open file yet; a failure is this file's, and told in its turn."""
        try:
            if isinstance(content, (str, os.PathLike)):
                opened: Any = Path(content).open("rb")  # noqa: SIM115 - closed by close()
            else:
                opened = content() if callable(content) else content
            self._is_ours = opened is not content
            self._content = opened if isinstance(opened, File) else File(opened, self.name)
            # What is not here yet has no length that could be known for nothing.
            local = _local_file(self._content)
            self.is_large = local is None or local.seek(0, os.SEEK_END) > SMALL
            if local is not None:
                local.seek(0)
        except Exception as error:  # noqa: BLE001 - whatever the caller's function raises
            self._error = error

    def save(self, storage: Storage) -> str:
        """Save the content, and return the name that it got."""
        # Elsewhere a save that fails may leave half a file: FileSystemStorage does.
        token = broken_off.set(self._broken_off if isinstance(storage, NetworkStorage) else None)
        try:
            if self._error is not None:
                raise self._error
            assert self._content is not None  # noqa: S101 - opened; for the type checker
            return storage.save(self.name, self._content)
        finally:
            broken_off.reset(token)
            self.close()

    def break_off(self) -> None:
        """End a long transfer at its next read; a short one is done as soon."""
        if self.is_large:
            self._broken_off.set()

    def close(self) -> None:
        """Close what was opened here."""
        if self._is_ours and self._content is not None:
            self._content.close()


def _result(job: _Job, future: Future[str]) -> Saved:
    error = future.exception()
    if error is None:
        return Saved(job.name, future.result())
    if not isinstance(error, Exception):
        raise error
    return Saved(job.name, error=error)


def _message(summary: SaveManyError) -> str:
    lines = [f"{summary.failed} of {summary.saved + summary.failed} files were not saved"]
    if summary.unreachable:
        lines[0] += ", and the rest was not tried, because the server cannot be reached"
    lines += [f"{x.asked}: {type(x.error).__name__}: {x.error}" for x in summary.failures]
    if summary.failed > len(summary.failures):
        lines.append(f"and {summary.failed - len(summary.failures)} more")
    return "\n".join(lines)
