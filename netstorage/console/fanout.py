"""A sync's files copied by workers, through Django's Tasks; the journal tells how far they are."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from django.core.management.base import CommandError

from ..exceptions import ConnectError, NetStorageError
from .copying import Counts
from .differences import Difference, Plan
from .journal import Journal, Page, page_name
from .place import Place
from .terminal import Failures, Terminal, told

FILES, BYTES = 500, 2**30
"""A batch is full with so many files, or so many bytes: some minutes of a worker's time."""
POLL = 1.0
"""Seconds between two looks at the journal."""
DEAD = 60.0
"""Seconds without a beat after which a batch is given to another worker."""
PATIENCE = 600.0
"""Seconds in which some worker has to do something."""
ATTEMPTS = 3
"""How many workers a batch is given to before its files are told as failures."""
ASKED = 5
"""How many results are asked for at each look."""


@dataclass
class BatchPage(Page):
    """A page of the journal on which a worker tells how far it is with a batch.

    Attributes:
        counts: What became of the files that are done.
        failed: Names of files, and why they were not copied.
        gone: Names of files that were not found.
        passed: How many bytes have gone by.
        beats: How often it was written.
        is_finished: Whether nothing will be added.
    """

    counts: Counts = field(default_factory=Counts)
    failed: list[tuple[str, str]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    passed: float = 0
    beats: int = 0
    is_finished: bool = False

    @classmethod
    def read(cls, journal: Journal, name: str) -> BatchPage:
        """Read such a page."""
        told = journal.page(name)
        return cls(**{**told, "counts": Counts(**told["counts"])})


@dataclass
class _Batch:
    """Some of the plan's files.

    Attributes:
        name: Of its page.
        start: The first file's place in the plan.
        count: How many files.
        page: What the journal had last.
        beat: When that changed last, on the monotonic clock; None: no worker has begun.
        given: When it was given to a worker.
        attempts: How many workers it was given to, since one has begun it or ended a file.
        result: The last one's.
        is_over: Whether that one had ended at the last look.
    """

    name: str
    start: int
    count: int
    page: BatchPage | None = None
    beat: float | None = None
    given: float = 0
    attempts: int = 0
    result: Any = None
    is_over: bool = False


class FanOut:
    """Has the files of a plan copied, and waits for the end.

    Args:
        source: From where.
        dest: To where.
        plan: What.
        journal: Where the workers write.
        options: The sync's ``checksum`` and ``jobs``.
    """

    def __init__(
        self, source: Place, dest: Place, plan: Plan, journal: Journal, options: dict[str, Any]
    ) -> None:
        self._source = source
        self._dest = dest
        self._plan = plan
        self._journal = journal
        self._options = {"checksum": options["checksum"], "jobs": options["jobs"]}
        self._run = page_name()
        self._waiting: dict[str, _Batch] = {}
        self._done = 0
        self._is_begun = False
        self._counts = Counts()

    def copy(self, failed: Failures, terminal: Terminal) -> Counts:
        """Give the files to workers, and return what became of them.

        Raises:
            CommandError: On Ctrl-C, when no worker does anything, or when somebody else ended the
                same sync. The workers end then, too, and the next sync goes on.
        """
        if not len(self._plan):
            return self._counts
        try:
            # As long as this page is there, the work is wanted.
            self._journal.write(self._run, Page())
            with terminal.progress(failed.what, self._plan.size, of_bytes=True) as advance:
                for batch, files in self._batches():
                    self._waiting[batch.name] = batch
                    self._give(batch, files)
                self._wait(failed, terminal, advance)
        except KeyboardInterrupt:
            raise CommandError(
                f"Interrupted: {self._done} of {len(self._plan)} were {failed.what}. Workers end "
                "what they are at.",
                returncode=130,
            ) from None
        finally:
            with suppress(OSError, NetStorageError):
                self._journal.remove_page(self._run)
        return self._counts

    def _batches(self) -> Iterator[tuple[_Batch, list[Difference]]]:
        files: list[Difference] = []
        start = size = 0
        for each in self._plan:
            if len(files) == FILES or (files and size + (each.size or 0) > BYTES):
                yield _Batch(page_name(), start, len(files)), files
                start, size, files = start + len(files), 0, []
            files.append(each)
            size += each.size or 0
        yield _Batch(page_name(), start, len(files)), files

    def _files(self, batch: _Batch) -> Iterator[Difference]:
        return islice(self._plan, batch.start, batch.start + batch.count)

    def _give(self, batch: _Batch, files: Iterable[Difference]) -> None:
        batch.attempts += 1
        batch.is_over = False
        batch.given = time.monotonic()
        batch.beat = None if batch.page is None else batch.given
        try:
            batch.result = task().enqueue(
                run=self._run,
                page=batch.name,
                source=str(self._source),
                dest=str(self._dest),
                lines=[str(each) for each in files],
                **self._options,
            )
        except Exception as error:  # whatever a queue's backend raises
            raise CommandError(
                f"The setting TASKS names a backend that takes no task: {told(error)}. See that "
                "its server runs and its tables are migrated; another sync goes on from here."
            ) from error

    def _wait(self, failed: Failures, terminal: Terminal, advance: Any) -> None:
        began = last = time.monotonic()
        is_told = False
        while self._waiting:
            seen = self._look(failed, advance)
            now = time.monotonic()
            last = now if seen else last
            if now - last > PATIENCE:
                raise CommandError(
                    f"No worker has done anything for {PATIENCE:.0f} seconds ({self._done} of "
                    f"{len(self._plan)} were {failed.what}). See that workers run; another sync "
                    "goes on from there."
                )
            if now - began > DEAD and not (self._is_begun or is_told):
                is_told = True
                terminal.complain("No worker has begun yet. Does one run?")
            for batch in self._lost(now, last):
                if batch.attempts < ATTEMPTS:
                    self._give(batch, self._files(batch))
                else:
                    self._give_up(batch, failed)
            if self._waiting:
                time.sleep(POLL)

    def _look(self, failed: Failures, advance: Any) -> bool:
        """Read the pages that workers write; tell whether there is anything new."""
        names = {entry.name for entry in self._journal.pages()}
        if self._run not in names and not self._journal.has(self._run):
            raise CommandError("Somebody else ended the same sync; start it again to go on.")
        is_new = False
        for name in names & self._waiting.keys():
            batch = self._waiting[name]
            try:
                page = BatchPage.read(self._journal, name)
            except ConnectError:
                raise
            except (OSError, ValueError):
                continue  # it is being replaced, which not all do at once; the next look will tell
            if page == batch.page:
                continue
            is_new = self._is_begun = True
            before = batch.page or BatchPage()
            advance(page.passed - before.passed)
            self._done += len(page.done) - len(before.done)
            if batch.page is None or len(page.done) > len(before.done):
                batch.attempts = 1
            batch.page, batch.beat = page, time.monotonic()
            if page.is_finished:
                self._end(batch, failed)
        return is_new

    def _end(self, batch: _Batch, failed: Failures) -> None:
        del self._waiting[batch.name]
        if batch.page is None:
            return
        for name, message in batch.page.failed:
            self._fail(name, message, failed)
        gone = 0
        for name in batch.page.gone:
            if self._source.below(name).exists():
                message = "is there, but a worker did not find it. Do all see the same files?"
                self._fail(name, message, failed)
            else:
                gone += 1
        self._counts += replace(batch.page.counts, gone=gone)

    def _fail(self, name: str, message: str, failed: Failures) -> None:
        what = f"{self._source.below(name)} -> {self._dest.below(name)}"
        failed.add(what, OSError(errno.EIO, message))

    def _lost(self, now: float, last: float) -> list[_Batch]:
        """Return the batches whose workers were killed, or had to give up.

        Args:
            now: On the monotonic clock.
            last: When any worker was last heard of.
        """
        lost = [x for x in self._waiting.values() if x.beat is not None and now - x.beat > DEAD]
        for batch in list(self._waiting.values())[:ASKED]:
            was_over, batch.is_over = batch.is_over, _is_over(batch.result)
            self._is_begun |= batch.is_over
            # At the last look already, so this one would have found its last page.
            if was_over and batch not in lost:
                lost.append(batch)
        # Nobody is at work: a worker that was killed had fetched the rest ahead, as Celery's do.
        idle = [x for x in self._waiting.values() if x.beat is None and x.attempts < ATTEMPTS]
        if self._is_begun:
            lost += [x for x in idle if now - max(last, x.given) > DEAD and x not in lost]
        return lost

    def _give_up(self, batch: _Batch, failed: Failures) -> None:
        page = batch.page or BatchPage()
        told = {*page.done, *page.gone, *(name for name, _ in page.failed)}
        errors = [error.exception_class_path for error in getattr(batch.result, "errors", ())]
        message = f"given to {ATTEMPTS} workers, and none came to its end"
        message += f" ({errors[-1]})" if errors else ""
        for each in self._files(batch):
            if not {each.name, self._journal.key(each)} & told:
                self._fail(each.name, message, failed)
        self._end(batch, failed)


def task() -> Any:
    """Return the task that workers do.

    Raises:
        CommandError: There is no Tasks framework, or it has no queue for the task.
    """
    # Here, since Django's settings must be there when it is imported.
    from ..tasks import copy_batch

    if isinstance(copy_batch, ImportError):
        message = "--tasks needs Django's Tasks framework: with Django 5.2, install django-tasks."
        raise CommandError(message) from copy_batch
    if isinstance(copy_batch, Exception):
        raise CommandError(
            "--tasks uses the queue 'default' of the backend 'default' in the setting TASKS: "
            f"{told(copy_batch)}"
        ) from copy_batch
    return copy_batch


def _is_over(result: Any) -> bool:
    """Tell whether a task has ended, if its backend tells that."""
    # The journal tells what was done. Results may be forgotten, be kept nowhere, or not be reached.
    with suppress(Exception):
        result.refresh()
    return bool(result.is_finished)
