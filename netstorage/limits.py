"""What bounds a pool, and what it counts."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class PoolLimits:
    """The pool's options, in psycopg_pool's words.

    Attributes:
        max_size: Sessions at the most, in each process.
        timeout: Seconds to wait for a session.
        max_idle: Seconds after which an unused session is closed.
        max_lifetime: Seconds after which a session is replaced.
    """

    max_size: int = 4
    timeout: float = 10.0
    max_idle: float = 60.0
    max_lifetime: float = 3600.0

    def __post_init__(self) -> None:
        """Refuse what no pool could work with."""
        if isinstance(self.max_size, bool) or not isinstance(self.max_size, int):
            raise TypeError(f"max_size must be a whole number, not {self.max_size!r}")
        if self.max_size < 1:
            raise ValueError(f"max_size must be at least 1, not {self.max_size}")
        for name in ("timeout", "max_idle", "max_lifetime"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number of seconds, not {value!r}")
            if not 0 < value <= threading.TIMEOUT_MAX:
                raise ValueError(f"{name} must be a positive number of seconds, not {value!r}")


@dataclass
class Counters:
    """What a pool counts; see PoolStats."""

    requests: int = 0
    waits: int = 0
    wait_seconds: float = 0.0
    timeouts: int = 0
    connects: int = 0
    connect_errors: int = 0
    closed_idle: int = 0
    closed_lifetime: int = 0
    closed_broken: int = 0


@dataclass(frozen=True)
class PoolStats:
    """A pool's numbers at one moment, then what it has counted since it was made.

    Attributes:
        size: Open sessions: ``idle`` + ``in_use``.
        idle: Sessions that lie ready.
        in_use: Sessions that are lent.
        connecting: Sessions that are being opened.
        waiting: Borrowers that wait for a session.
        requests: Sessions asked for.
        waits: Requests that had to wait.
        wait_seconds: The time they waited, in sum.
        timeouts: Requests that waited in vain.
        connects: Sessions opened.
        connect_errors: Attempts that failed.
        closed_idle: Sessions closed for ``max_idle``.
        closed_lifetime: Sessions closed for ``max_lifetime`` or by ``drain()``.
        closed_broken: Sessions closed because they broke.
    """

    size: int
    idle: int
    in_use: int
    connecting: int
    waiting: int
    requests: int
    waits: int
    wait_seconds: float
    timeouts: int
    connects: int
    connect_errors: int
    closed_idle: int
    closed_lifetime: int
    closed_broken: int
