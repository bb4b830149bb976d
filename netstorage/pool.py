"""Lending sessions: one bounded pool for each endpoint of a process.

The life of a session: a borrower finds no idle one and gets the permit to connect; when it is
done, the longest waiting borrower gets the session, or else it lies idle on top of the stack; it is
closed once it broke, idled for ``max_idle`` seconds, lived for ``max_lifetime`` seconds, or when
``drain()`` came between. Knows no Django and no protocol.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

from .exceptions import (
    AuthenticationError,
    ConnectError,
    ConnectionLost,
    HostKeyError,
    PoolClosed,
    PoolTimeout,
)
from .session import Endpoint, Session

logger = logging.getLogger("netstorage.pool")

MAX_CONNECTING = 2
"""Connects at a time: sshd drops unauthenticated connections at random in a burst (MaxStartups)."""
PING_AFTER = 5.0
"""Seconds of idleness after which a session must show a sign of life before it is lent."""
BACKOFF_MIN, BACKOFF_MAX = 0.5, 30.0
"""Bounds of the pause after a failed connect, in seconds; it doubles from failure to failure."""
JITTER = 0.1
"""Limits and pauses vary by up to this part, so that sessions made together do not end together."""


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
class _Counters:
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


@dataclass(eq=False)
class _Member:
    """A session and its place in the pool."""

    session: Session
    generation: int
    expires: float
    leases: int = 0
    exclusive: bool = False
    served: bool = False
    idle_since: float = 0.0


class _Permit:
    """Leave to open one more session."""


_PERMIT = _Permit()
_Grant = _Member | _Permit | ConnectError | PoolClosed


@dataclass(eq=False)
class _Waiter:
    """A borrower in the queue; ``granted`` is set once ``grant`` holds what it waited for."""

    exclusive: bool
    granted: threading.Event = field(default_factory=threading.Event)
    grant: _Grant | None = None


class ConnectionPool:
    """Sessions of one endpoint, lent one borrower at a time (or several, where a session can).

    Args:
        endpoint: Where to connect.
        limits: Bounds of the pool.
        clock: Seconds, monotonic.
        jitter: A number from 0 to 1, new at each call.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        limits: PoolLimits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.endpoint = endpoint
        self.limits = limits or PoolLimits()
        self._clock = clock
        self._jitter = jitter
        self._idle: list[_Member] = []
        self._closed = False
        self._reset()
        # Idle sessions end with the last storage that used them, and at the interpreter's exit.
        weakref.finalize(self, _close_all, self._idle)
        _pools.add(self)

    def _reset(self) -> None:
        """Start empty: at birth, and in a forked child."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._busy: set[_Member] = set()
        self._waiters: deque[_Waiter] = deque()
        self._connecting = 0
        self._generation = 0
        self._suspect_before = -1.0
        self._failures = 0
        self._retry_at = 0.0
        self._last_error: ConnectError | None = None
        self._reaper: threading.Timer | None = None
        self._counters = _Counters()

    # What borrowers use

    @contextmanager
    def connection(self, *, exclusive: bool = False) -> Iterator[Session]:
        """Lend a session for one operation; it comes back, or is closed, when the block ends.

        Args:
            exclusive: Share the session with nobody, as bulk transfers should.

        Raises:
            PoolTimeout: No session came free within ``limits.timeout`` seconds.
            ConnectError: The server cannot be reached, or could not a moment ago.
            PoolClosed: ``close()`` was called.
        """
        member = self._borrow(exclusive)
        try:
            yield member.session
        except ConnectionLost as error:
            error.reused = member.served
            self._give_back(member, keep=False)
            raise
        except OSError as error:
            # A verdict on a file keeps the session; a deadline or a broken protocol does not.
            self._give_back(member, keep=not isinstance(error, (ConnectionError, TimeoutError)))
            raise
        except BaseException:
            self._give_back(member, keep=False)
            raise
        else:
            self._give_back(member, keep=True)

    def stats(self) -> PoolStats:
        """Return the pool's numbers."""
        self._check_process()
        with self._lock:
            return self._stats()

    def drain(self) -> None:
        """Let no session that is open now serve again: idle ones close, lent ones on return."""
        self._check_process()
        with self._lock:
            self._generation += 1
            drained = self._take_outdated()
        _close_all(drained)

    def close(self) -> None:
        """Close idle sessions now and lent ones on return; refuse borrowers from now on."""
        self._check_process()
        with self._lock:
            self._closed = True
            self._generation += 1
            closed = self._take_outdated()
            self._dispatch()
        _close_all(closed)

    def reap(self) -> None:
        """Close the sessions that idled or lived too long. Called by itself; may be called."""
        self._check_process()
        with self._lock:
            outdated = self._take_outdated()
            self._dispatch()
            self._schedule_reaper(again=True)
        _close_all(outdated)

    def __repr__(self) -> str:
        """Show the numbers that tell a healthy pool from a sick one."""
        s = self.stats()
        return (
            f"<ConnectionPool {self.endpoint} {'closed ' if self._closed else ''}"
            f"size={s.size}/{self.limits.max_size} idle={s.idle} in_use={s.in_use} "
            f"connecting={s.connecting} waiting={s.waiting}>"
        )

    # Borrowing and giving back

    def _borrow(self, exclusive: bool) -> _Member:
        self._check_process()
        with self._lock:
            self._counters.requests += 1
        deadline = self._clock() + self.limits.timeout
        while True:
            grant = self._acquire(exclusive, deadline)
            if isinstance(grant, _Permit):
                return self._connect(exclusive)
            if not isinstance(grant, _Member):
                raise grant
            if self._is_fit(grant):
                return grant
            self._give_back(grant, keep=False)

    def _acquire(self, exclusive: bool, deadline: float) -> _Grant:
        """Return a grant, waiting for it in the queue if there is none at once."""
        with self._lock:
            outdated = self._take_outdated()
            # Nobody overtakes the queue.
            grant = None if self._waiters else self._grant(exclusive)
            if grant is None:
                waiter = _Waiter(exclusive)
                self._waiters.append(waiter)
                self._dispatch()
        _close_all(outdated)
        if grant is not None:
            return grant
        started = self._clock()
        waiter.granted.wait(max(0.0, deadline - started))
        with self._lock:
            self._counters.waits += 1
            self._counters.wait_seconds += self._clock() - started
            if waiter.grant is not None:
                return waiter.grant
            self._waiters.remove(waiter)
            self._counters.timeouts += 1
            # A bulk transfer at the head may have held up others that can share.
            self._dispatch()
            numbers = self._stats()
        raise PoolTimeout(
            f"no session to {self.endpoint} came free within {self.limits.timeout:g} s "
            f"(the pool's timeout): {_brief(numbers)}, max_size={self.limits.max_size}. "
            "Raise the pool's max_size or timeout, or make fewer requests at once."
        )

    def _grant(self, exclusive: bool) -> _Grant | None:
        """Find what a borrower can have now, with the lock held; None: it has to wait."""
        if self._closed:
            return PoolClosed(f"the pool of {self.endpoint} is closed")
        if self._idle:
            return self._lease(self._idle.pop(), exclusive)
        may_grow = len(self._busy) + self._connecting < self.limits.max_size
        backing_off = self._last_error is not None and self._clock() < self._retry_at
        if may_grow and not backing_off and self._connecting < MAX_CONNECTING:
            self._connecting += 1
            return _PERMIT
        if not exclusive:
            open_to_all = [
                member
                for member in self._busy
                if not member.exclusive
                and member.leases < member.session.concurrency
                and member.generation == self._generation
            ]
            if open_to_all:
                return self._lease(min(open_to_all, key=lambda member: member.leases), exclusive)
        if backing_off and not self._busy and not self._connecting:
            return self._fail_fast()
        return None

    def _lease(self, member: _Member, exclusive: bool) -> _Member:
        member.leases += 1
        member.exclusive = exclusive
        self._busy.add(member)
        return member

    def _dispatch(self) -> None:
        """Hand what is free to those who wait longest, with the lock held."""
        while self._waiters:
            waiter = self._waiters[0]
            waiter.grant = self._grant(waiter.exclusive)
            if waiter.grant is None:
                return
            self._waiters.popleft()
            waiter.granted.set()

    def _is_fit(self, member: _Member) -> bool:
        """Tell whether a session that lay idle still works."""
        if member.leases > 1:
            return member.session.is_alive()
        if not member.session.is_alive():
            return False
        if not member.served:
            return True
        idle = self._clock() - member.idle_since
        if idle < PING_AFTER and member.idle_since > self._suspect_before:
            return True
        try:
            member.session.ping()
        except OSError as error:
            logger.info(
                "a session to %s did not answer after %.0f s: %s", self.endpoint, idle, error
            )
            return False
        return True

    def _give_back(self, member: _Member, *, keep: bool) -> None:
        keep = keep and member.session.is_alive()
        with self._lock:
            if member not in self._busy:
                # Lent before a fork or already given up by another borrower of it.
                return
            member.leases -= 1
            member.served = True
            if not keep:
                self._counters.closed_broken += 1
                self._suspect_before = self._clock()
            elif member.leases:
                self._dispatch()
                return
            self._busy.discard(member)
            outdated = []
            if keep:
                member.exclusive = False
                member.idle_since = self._clock()
                self._idle.append(member)
                outdated = self._take_outdated()
                self._schedule_reaper()
            self._dispatch()
        if not keep:
            logger.info("closed a broken session to %s", self.endpoint)
            member.session.close()
        _close_all(outdated)

    # Opening and closing

    def _connect(self, exclusive: bool) -> _Member:
        with self._lock:
            generation = self._generation
        try:
            session = self.endpoint.connect()
        except BaseException as error:
            with self._lock:
                self._connecting -= 1
                self._counters.connect_errors += 1
                if isinstance(error, ConnectError):
                    self._back_off(error)
                self._dispatch()
            raise
        with self._lock:
            self._connecting -= 1
            self._counters.connects += 1
            self._failures = 0
            self._last_error = None
            expires = self._clock() + self.limits.max_lifetime * (1 - JITTER * self._jitter())
            member = self._lease(_Member(session, generation, expires), exclusive)
            self._dispatch()
        logger.debug("opened a session to %s", self.endpoint)
        return member

    def _back_off(self, error: ConnectError) -> None:
        """Let the next attempt wait, longer from failure to failure."""
        pause = min(BACKOFF_MAX, BACKOFF_MIN * 2**self._failures) * (1 - JITTER * self._jitter())
        # No overflow, however long a server stays away.
        self._failures = min(self._failures + 1, 16)
        self._last_error = error
        self._retry_at = self._clock() + pause
        logger.warning("no session to %s, next attempt in %.1f s: %s", self.endpoint, pause, error)

    def _fail_fast(self) -> ConnectError:
        """Tell the last failure again instead of waiting for another."""
        error = self._last_error
        assert error is not None  # noqa: S101 - told by the caller's test; for the type checker
        pause = max(0.0, self._retry_at - self._clock())
        kinds = (AuthenticationError, HostKeyError, ConnectError)
        kind = next(kind for kind in kinds if isinstance(error, kind))
        return kind(f"{error} (not tried again for another {pause:.1f} s)")

    def _take_outdated(self) -> list[_Member]:
        """Remove the idle sessions that may not serve again, with the lock held."""
        now = self._clock()
        outdated = []
        for member in tuple(self._idle):
            if member.generation != self._generation or now >= member.expires:
                self._counters.closed_lifetime += 1
            elif now >= member.idle_since + self.limits.max_idle:
                self._counters.closed_idle += 1
            else:
                continue
            self._idle.remove(member)
            outdated.append(member)
        return outdated

    def _schedule_reaper(self, *, again: bool = False) -> None:
        """Have idle sessions closed in time: a timer lives only as long as there are any."""
        if again:
            self._reaper = None
        if self._idle and self._reaper is None:
            pause = self.limits.max_idle * (1 + JITTER * self._jitter())
            self._reaper = threading.Timer(pause, _reap, (weakref.ref(self),))
            self._reaper.daemon = True
            self._reaper.start()

    # Forks

    def _check_process(self) -> None:
        # uWSGI forks without running Python's hooks.
        if self._pid != os.getpid():
            with _fork_lock:
                if self._pid != os.getpid():
                    self._forget_parent()

    def _forget_parent(self) -> None:
        """Start empty in a forked child; the parent's connections are the parent's."""
        inherited = [*self._idle, *self._busy]
        self._idle.clear()
        self._reset()
        for member in inherited:
            member.session.abandon()
        # Kept for ever: collecting a session would run its library's clean-up on the wire.
        _abandoned.extend(inherited)

    def _stats(self) -> PoolStats:
        counted = {f.name: getattr(self._counters, f.name) for f in fields(self._counters)}
        return PoolStats(
            size=len(self._idle) + len(self._busy),
            idle=len(self._idle),
            in_use=len(self._busy),
            connecting=self._connecting,
            waiting=len(self._waiters),
            **counted,
        )


def _brief(stats: PoolStats) -> str:
    return ", ".join(
        f"{name}={getattr(stats, name)}"
        for name in ("size", "idle", "in_use", "connecting", "waiting")
    )


def _close_all(members: list[_Member]) -> None:
    while members:
        members.pop().session.close()


def _reap(pool: weakref.ref[ConnectionPool]) -> None:
    if (alive := pool()) is not None:
        alive.reap()


# The registry: one pool for each endpoint, for as long as a storage holds it.

_pools: weakref.WeakSet[ConnectionPool] = weakref.WeakSet()
_registry: weakref.WeakValueDictionary[Endpoint, ConnectionPool] = weakref.WeakValueDictionary()
_registry_lock = threading.Lock()
_fork_lock = threading.Lock()
_abandoned: list[_Member] = []


def get_pool(endpoint: Endpoint, limits: PoolLimits) -> ConnectionPool:
    """Return the process's pool for ``endpoint``.

    Raises:
        ValueError: There is one, with other limits.
    """
    with _registry_lock:
        pool = _registry.get(endpoint)
        if pool is None:
            pool = _registry[endpoint] = ConnectionPool(endpoint, limits)
        elif pool.limits != limits:
            raise ValueError(
                f"two storages share {endpoint} but not their pool options: "
                f"{pool.limits} and {limits}"
            )
        return pool


def all_pools() -> list[ConnectionPool]:
    """Return the pools of this process."""
    return list(_pools)


def _after_fork_in_child() -> None:
    global _registry_lock
    _registry_lock = threading.Lock()
    for pool in all_pools():
        pool._forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
