"""Many files, several at once, with an account of what became of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from threading import Event, Lock
from typing import Any

from django.core.files.storage import FileSystemStorage, Storage
from django.core.management.base import CommandError

from ..bulk import ELSEWHERE, MAX_THREADS, default_threads, run_many
from ..exceptions import ConnectError, PoolClosed
from ..session import SMALL
from ..storage import NetworkStorage
from .place import Place
from .terminal import Failures, Terminal, reason

Done = Callable[[float], None]


@dataclass(frozen=True)
class Step:
    """What is to be done with one file, or with one empty directory.

    Attributes:
        source: Which: a Place, or a Local.
        target: Where to, if it goes anywhere.
        is_dir: Whether it is an empty directory.
        size: Its length, if that is known already.
        mtime: When it was modified last, if that is known already.
    """

    source: Any
    target: Any = None
    is_dir: bool = False
    size: int | None = None
    mtime: float | None = None

    def __str__(self) -> str:
        """Say what goes where."""
        return str(self.source) if self.target is None else f"{self.source} -> {self.target}"


@dataclass(frozen=True)
class Steps:
    """Steps that are gone through once, and what is known of them before.

    Attributes:
        each: The steps, which need not be in memory.
        count: How many there are.
        size: How many bytes all have, if that is known of each.
        storages: Those that take part.
    """

    each: Iterable[Any]
    count: int
    size: int | None
    storages: list[Storage]

    @classmethod
    def of(cls, steps: list[Step]) -> Steps:
        """Find out what a list of them tells."""
        sizes = [step.size for step in steps if step.size is not None]
        size = sum(sizes) if len(sizes) == len(steps) else None
        sides = (side for step in steps for side in (step.source, step.target))
        storages = {id(side.storage): side.storage for side in sides if isinstance(side, Place)}
        return cls(steps, len(steps), size, list(storages.values()))


def run_steps(
    steps: Steps,
    work: Callable[[Any, Done, Event], None],
    failed: Failures,
    terminal: Terminal,
    *,
    jobs: int | None = None,
) -> None:
    """Do each step, several at once; a failure does not keep the others from being done.

    Args:
        steps: What is to be done.
        work: Does a step. It tells how many bytes went by, and raises once the event is set.
        failed: Gets the failures.
        terminal: Where the progress shows.
        jobs: How many small files at a time, at the most; None: as many as the storages carry.

    Raises:
        CommandError: With what was done: on Ctrl-C, or if the server cannot be reached any more.
    """
    if not steps.count:
        return
    finished, lock = 0, Lock()
    stop = Event()
    of_bytes = bool(steps.size)

    def do(step: Step) -> None:
        nonlocal finished
        work(step, advance if of_bytes else lambda done: None, stop)
        with lock:
            finished += 1
        if not of_bytes:
            advance(1)

    try:
        threads, share = carried(steps.storages, jobs)
        run = run_many(
            do,
            steps.each,
            threads=threads,
            # What may be large has a session for itself.
            slots=lambda step: share if step.size is None or step.size > SMALL else 1,
            give_up=lambda step: stop.set(),
        )
        total = steps.size or steps.count
        with terminal.progress(failed.what, total, of_bytes=of_bytes) as advance, closing(run):
            for step, future in run:
                if (error := future.exception()) is not None:
                    failed.add(step, error)
    except KeyboardInterrupt:
        message = f"Interrupted: {finished} of {steps.count} were {failed.what}."
        raise CommandError(message, returncode=130) from None
    except (ConnectError, PoolClosed) as error:
        done = f" ({finished} of {steps.count} were {failed.what} before)"
        raise CommandError(reason(error) + done * (steps.count > 1)) from error


def carried(storages: list[Storage], jobs: int | None) -> tuple[int, int]:
    """Return how many threads storages carry, and as how many of them a large file counts.

    Args:
        storages: Those that take part.
        jobs: How many threads there may be; None: as many as we think good.

    Raises:
        ConnectError: A server cannot be reached.
    """
    # A disk answers at once: the other side is what threads wait for.
    threads = min(
        (jobs or MAX_THREADS)
        if isinstance(storage, FileSystemStorage)
        else default_threads(storage, jobs)
        for storage in storages
    )
    sessions = min(
        storage.pool.limits.max_size if isinstance(storage, NetworkStorage) else ELSEWHERE
        for storage in storages
    )
    return threads, -(-threads // min(sessions, threads))
