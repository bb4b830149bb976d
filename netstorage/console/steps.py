"""Many files, several at once, with an account of what became of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from threading import Event
from typing import Any

from django.core.management.base import CommandError

from ..bulk import ELSEWHERE, default_threads, run_many
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
    """

    source: Any
    target: Any = None
    is_dir: bool = False
    size: int | None = None

    def __str__(self) -> str:
        """Say what goes where."""
        return str(self.source) if self.target is None else f"{self.source} -> {self.target}"


def run_steps(
    steps: list[Step],
    work: Callable[[Step, Done, Event], None],
    failed: Failures,
    terminal: Terminal,
) -> None:
    """Do each step, several at once; a failure does not keep the others from being done.

    Args:
        steps: What is to be done.
        work: Does a step. It tells how many bytes went by, and raises once the event is set.
        failed: Gets the failures.
        terminal: Where the progress shows.

    Raises:
        CommandError: With what was done: on Ctrl-C, or if the server cannot be reached any more.
    """
    if not steps:
        return
    finished: list[Step] = []
    stop = Event()
    sizes = [step.size for step in steps if step.size is not None]
    of_bytes = len(sizes) == len(steps) and any(sizes)

    def do(step: Step) -> None:
        work(step, advance if of_bytes else lambda done: None, stop)
        finished.append(step)
        if not of_bytes:
            advance(1)

    try:
        threads, share = _threads(steps)
        total = sum(sizes) if of_bytes else len(steps)
        run = run_many(
            do,
            steps,
            threads=threads,
            # What may be large has a session for itself.
            slots=lambda step: share if step.size is None or step.size > SMALL else 1,
            give_up=lambda step: stop.set(),
        )
        with terminal.progress(failed.what, total, of_bytes=of_bytes) as advance, closing(run):
            for step, future in run:
                if (error := future.exception()) is not None:
                    failed.add(step, error)
    except KeyboardInterrupt:
        message = f"Interrupted: {len(finished)} of {len(steps)} were {failed.what}."
        raise CommandError(message, returncode=130) from None
    except (ConnectError, PoolClosed) as error:
        done = f" ({len(finished)} of {len(steps)} were {failed.what} before)"
        raise CommandError(reason(error) + done * (len(steps) > 1)) from error


def _threads(steps: list[Step]) -> tuple[int, int]:
    """Return how many threads all storages carry, and as how many of them a large file counts."""
    sides = [side for step in steps for side in (step.source, step.target)]
    storages = {id(side.storage): side.storage for side in sides if isinstance(side, Place)}
    threads = min(default_threads(storage) for storage in storages.values())
    sessions = min(
        storage.pool.limits.max_size if isinstance(storage, NetworkStorage) else ELSEWHERE
        for storage in storages.values()
    )
    return threads, -(-threads // min(sessions, threads))
