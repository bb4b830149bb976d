"""What workers do for ``manage.py netstorage sync --tasks``, on whatever backend TASKS names.

Celery's workers import a module of this name from every app, so it bears a site without a queue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from threading import Event, Lock, Thread
from typing import Any

from .bulk import run_many
from .console.copying import Copier, Counts
from .console.differences import Difference
from .console.fanout import BatchPage
from .console.journal import Journal
from .console.place import place
from .console.steps import carried
from .console.terminal import reason
from .exceptions import ConnectError, NetStorageError, PoolClosed
from .session import SMALL

__all__ = ["copy_batch"]

BEAT = 5.0
"""Seconds after which a worker shows again that it is there, and looks if it is still wanted."""


def _task(function: Callable[..., None]) -> Any:
    """Make it a task; return why not, if the site has no Tasks framework, or no such queue."""
    try:
        try:
            from django.tasks import task
        except ImportError:  # Django 5.2
            from django_tasks import task  # type: ignore[no-redef]
        return task(function)
    except Exception as error:  # noqa: BLE001 - whatever a backend says; `--tasks` tells
        return error


@_task
def copy_batch(
    *,
    run: str,
    page: str,
    source: str,
    dest: str,
    lines: list[str],
    checksum: bool,
    jobs: int | None,
) -> None:
    """Copy some files, and write down what became of them; done a second time, do the rest.

    Args:
        run: The name of the page without which nobody wants it any more.
        page: The name of the page to write.
        source: From where, as ``alias:path``.
        dest: To where.
        lines: Which files: differences, as they write themselves.
        checksum: Whether contents are compared.
        jobs: How many files at a time; None: as many as the servers carry.

    Raises:
        ConnectError: A server cannot be reached.
    """
    here, there = place(source), place(dest)
    journal = Journal(here, there, checksum=checksum)
    if not journal.has(run):
        return
    copier = partial(Copier, here, there, checksum=checksum)
    before = BatchPage.read(journal, page) if journal.has(page) else BatchPage()
    # What another worker could not copy, or did not find, is tried once more.
    batch = _Batch(journal, copier, replace(before, failed=[], gone=[]))

    def beat() -> None:
        if not journal.has(run):
            batch.stop.set()
        else:
            journal.write(page, batch.page())

    with _beating(beat):
        batch.copy(map(Difference.read, lines), *carried([here.storage, there.storage], jobs))
    if not batch.stop.is_set():
        journal.write(page, batch.page(is_finished=True))


class _Batch:
    """Files on their way, and the page that tells of them."""

    def __init__(self, journal: Journal, copier: Callable[[], Copier], page: BatchPage) -> None:
        self._journal = journal
        self._copier = copier
        self._page = page
        self._lock = Lock()
        self.stop = Event()

    def page(self, *, is_finished: bool = False) -> BatchPage:
        """Return what is known by now."""
        with self._lock:
            self._page.beats += 1
            return replace(
                self._page,
                done=list(self._page.done),
                failed=list(self._page.failed),
                gone=list(self._page.gone),
                is_finished=is_finished,
            )

    def copy(self, differences: Iterable[Difference], threads: int, share: int) -> None:
        """Copy what is not done yet."""
        done = set(self._page.done)
        run = run_many(
            self._copy,
            (each for each in differences if self._journal.key(each) not in done),
            threads=threads,
            slots=lambda each: share if each.size is None or each.size > SMALL else 1,
            give_up=lambda each: self.stop.set(),
        )
        with closing(run):
            for each, future in run:
                error = future.exception()
                if self.stop.is_set():
                    return
                self._note(each, error or future.result())

    def _copy(self, difference: Difference) -> Counts:
        # One for each file: its counts are told with its name, or not at all.
        copier = self._copier()
        copier.copy(difference, self._pass, self.stop)
        return copier.counts

    def _pass(self, count: float) -> None:
        with self._lock:
            self._page.passed += count

    def _note(self, difference: Difference, outcome: Counts | BaseException) -> None:
        if isinstance(outcome, (ConnectError, PoolClosed)):
            raise outcome
        with self._lock:
            if isinstance(outcome, BaseException):
                self._page.failed.append((difference.name, reason(outcome)))
                return
            self._page.counts += outcome
            if outcome.gone:
                self._page.gone.append(difference.name)
            else:
                self._page.done.append(self._journal.key(difference))


@contextmanager
def _beating(beat: Callable[[], None]) -> Iterator[None]:
    """Call ``beat`` at once, and again and again while the block runs."""
    over = Event()

    def go_on() -> None:
        while not over.wait(BEAT):
            # If the server cannot be reached, the block will tell.
            with suppress(OSError, NetStorageError):
                beat()

    beat()
    thread = Thread(target=go_on, name="netstorage-beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
