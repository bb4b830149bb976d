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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from itertools import chain, count

from .exceptions import (
    AuthenticationError,
    ConnectError,
    ConnectionLost,
    HostKeyError,
    PoolClosed,
    PoolTimeout,
    ProtocolError,
)
from .limits import Counters, PoolLimits, PoolStats
from .session import Endpoint, Session

logger = logging.getLogger("netstorage.pool")

MAX_CONNECTING = 2
"""Connects at a time: sshd drops unauthenticated connections at random in a burst (MaxStartups)."""
PING_AFTER = 5.0
"""Seconds of idleness after which a session must show a sign of life before it is lent."""
BACKOFF_MIN, BACKOFF_MAX = 0.5, 30.0
"""Bounds of the pause after a failed connect, in seconds; it doubles from failure to failure."""
LOOK_AGAIN = 0.5
"""Seconds after which who waits looks again: nothing but time ends the pause after a failure."""
JITTER = 0.1
"""Limits and pauses vary by up to this part, so that sessions made together do not end together."""


@dataclass(eq=False)
class _Member:
    """A session and its place in the pool."""

    session: Session
    generation: int
    expires: float
    leases: int = 0
    exclusive: bool = False
    served: bool = False
    last_used: float = 0.0
    broken: bool = False
    pid: int = field(default_factory=os.getpid)


_FATAL = (ConnectionError, TimeoutError, ProtocolError)


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
    """Sessions of one endpoint, lent to one borrower at a time, or to several where a session can.

    Args:
        endpoint: Where to connect.
        limits: Bounds of the pool.
        clock: Seconds, monotonic.
        jitter: A number from 0 to 1, new at each call.

    Attributes:
        name: The endpoint's, or if another pool of the process has it, with a number behind.
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
        weakref.finalize(self, _close_idle, self._idle)
        taken = {pool.name for pool in all_pools()}
        names = chain([str(endpoint)], (f"{endpoint} ({number})" for number in count(2)))
        self.name: str = next(name for name in names if name not in taken)
        _pools[id(self)] = self

    def _reset(self) -> None:
        """Start empty: at birth, and in a forked child."""
        # Nothing foreign runs under it: a log handler may well ask for the pool's repr.
        self._lock = threading.Lock()
        self._busy: set[_Member] = set()
        self._waiters: deque[_Waiter] = deque()
        self._connecting = 0
        self._closing = 0
        self._generation = 0
        self._suspect_before = -1.0
        self._failures = 0
        self._retry_at = 0.0
        self._last_error: tuple[type[ConnectError], str] | None = None
        self._reaper: threading.Timer | None = None
        self._counters = Counters()
        self._pid = os.getpid()

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
            self._give_back(member, keep=not isinstance(error, _FATAL))
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
            outdated = self._take_outdated()
        self._close(outdated)

    def close(self) -> None:
        """Close idle sessions now and lent ones on return; refuse borrowers from now on."""
        self._check_process()
        with self._lock:
            self._closed = True
            self._generation += 1
            outdated = self._take_outdated()
            self._dispatch()
            if self._reaper is not None:
                self._reaper.cancel()
                self._reaper = None
        self._close(outdated)

    def reap(self) -> None:
        """Close the sessions that idled or lived too long. Called by itself; may be called."""
        self._check_process()
        with self._lock:
            outdated = self._take_outdated()
            self._schedule_reaper()
        self._close(outdated)

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
        deadline = self._clock() + self.limits.timeout
        with self._lock:
            self._counters.requests += 1
            outdated = self._take_outdated()
        self._close(outdated)
        with self._lock:
            # Nobody overtakes the queue.
            grant = None if self._waiters else self._grant(exclusive)
            if grant is None:
                waiter = _Waiter(exclusive)
                self._waiters.append(waiter)
        while True:
            grant = grant or self._wait(waiter, deadline)
            if isinstance(grant, _Permit):
                return self._connect(exclusive)
            if not isinstance(grant, _Member):
                raise grant
            try:
                if self._is_fit(grant):
                    self._open_to_others(grant, exclusive)
                    return grant
            except BaseException:
                self._give_back(grant, keep=False)
                raise
            waiter = _Waiter(exclusive)
            with self._lock:
                # It has waited already: what takes the lost session's place is for it.
                self._waiters.appendleft(waiter)
            self._give_back(grant, keep=False)
            grant = waiter.grant

    def _wait(self, waiter: _Waiter, deadline: float) -> _Grant:
        """Wait in the queue for a grant."""
        started = now = self._clock()
        try:
            while waiter.grant is None and now < deadline:
                if not waiter.granted.wait(min(deadline - now, LOOK_AGAIN)):
                    with self._lock:
                        self._dispatch()
                now = self._clock()
        except BaseException:
            self._withdraw(waiter)
            raise
        with self._lock:
            self._counters.waits += 1
            self._counters.wait_seconds += now - started
            if waiter.grant is not None:
                return waiter.grant
            self._counters.timeouts += 1
            self._waiters.remove(waiter)
            # A bulk transfer at the head may have held up others that can share.
            self._dispatch()
            numbers = self._stats()
        raise PoolTimeout(
            f"no session to {self.endpoint} came free within {self.limits.timeout:g} s "
            f"(the pool's timeout): {_brief(numbers)}, max_size={self.limits.max_size}. "
            "Raise the pool's max_size or timeout, or make fewer requests at once."
        )

    def _withdraw(self, waiter: _Waiter) -> None:
        """Let go what an interrupted borrower waited for, or was given at that moment."""
        with self._lock:
            if waiter.grant is None:
                self._waiters.remove(waiter)
            elif isinstance(waiter.grant, _Permit):
                self._connecting -= 1
            self._dispatch()
        if isinstance(waiter.grant, _Member):
            self._give_back(waiter.grant, keep=True)

    def _grant(self, exclusive: bool) -> _Grant | None:
        """Find what a borrower can have now, with the lock held; None: it has to wait."""
        if self._closed:
            return PoolClosed(f"the pool of {self.endpoint} is closed")
        if self._idle:
            member = self._idle.pop()
            # Who has to ask for a sign of life keeps it to himself meanwhile.
            return self._lease(member, exclusive or not self._was_well(member))
        if not exclusive:
            open_to_all = [member for member in self._busy if self._may_be_joined(member)]
            if open_to_all:
                return self._lease(min(open_to_all, key=lambda member: member.leases), exclusive)
        size = len(self._busy) + self._connecting + self._closing
        may_grow = size < self.limits.max_size
        backing_off = self._last_error is not None and self._clock() < self._retry_at
        if may_grow and not backing_off and self._connecting < MAX_CONNECTING:
            self._connecting += 1
            return _PERMIT
        if backing_off and not self._busy and not self._connecting:
            return self._fail_fast()
        return None

    def _may_be_joined(self, member: _Member) -> bool:
        return (
            not (member.exclusive or member.broken or self._is_outdated(member))
            and member.leases < member.session.concurrency
            # A sign of life cannot be asked for: it would wait behind the others' work.
            and self._was_well(member)
        )

    def _was_well(self, member: _Member) -> bool:
        """Tell whether a session worked a moment ago, and none has broken since."""
        return (
            self._clock() - member.last_used < PING_AFTER
            and member.last_used > self._suspect_before
        )

    def _fail_fast(self) -> ConnectError:
        """Tell the last failure again instead of waiting for another."""
        assert self._last_error is not None  # noqa: S101 - told by the caller's test
        kind, message = self._last_error
        pause = max(0.0, self._retry_at - self._clock())
        return kind(f"{message} (not tried again for another {pause:.1f} s)")

    def _open_to_others(self, member: _Member, exclusive: bool) -> None:
        if member.exclusive and not exclusive:
            with self._lock:
                member.exclusive = False
                member.last_used = self._clock()
                self._dispatch()

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
        if not member.session.is_alive():
            return False
        if not member.served or not member.exclusive or self._was_well(member):
            return True
        idle = self._clock() - member.last_used
        try:
            member.session.ping()
        except OSError as error:
            logger.info(
                "a session to %s did not answer after %.0f s: %s", self.endpoint, idle, str(error)
            )
            return False
        return True

    def _give_back(self, member: _Member, *, keep: bool) -> None:
        self._check_process()
        keep = keep and member.session.is_alive()
        with self._lock:
            if member not in self._busy:
                return  # lent before a fork
            member.leases -= 1
            member.served = True
            member.last_used = self._clock()
            if not keep:
                member.broken = True
                self._suspect_before = member.last_used
            if not member.leases:
                self._busy.discard(member)
                self._idle.append(member)
            outdated = self._take_outdated()
            self._dispatch()
            self._schedule_reaper()
        if not keep:
            logger.info("closing a broken session to %s", self.endpoint)
        self._close(outdated)

    # Opening and closing

    def _connect(self, exclusive: bool) -> _Member:
        with self._lock:
            generation, failures = self._generation, self._failures
        try:
            session = self.endpoint.connect()
        except BaseException as error:
            pause = 0.0
            with self._lock:
                self._connecting -= 1
                self._counters.connect_errors += 1
                if isinstance(error, ConnectError):
                    pause = self._back_off(error, failures)
                self._dispatch()
            # The text alone: a record that is kept would keep the error's frames, secrets included.
            logger.warning(
                "no session to %s, next attempt in %.1f s: %s", self.endpoint, pause, str(error)
            )
            raise
        with self._lock:
            self._connecting -= 1
            self._counters.connects += 1
            self._failures = 0
            self._last_error = None
            expires = self._clock() + self.limits.max_lifetime * (1 - JITTER * self._jitter())
            member = _Member(session, generation, expires, last_used=self._clock())
            self._lease(member, exclusive)
            self._dispatch()
        logger.debug("opened a session to %s", self.endpoint)
        return member

    def _back_off(self, error: ConnectError, failures: int) -> float:
        """Let the next attempt wait, longer from failure to failure; return for how long.

        Args:
            error: What went wrong.
            failures: How many attempts had failed before; those made side by side count once.
        """
        pause = min(BACKOFF_MAX, BACKOFF_MIN * 2.0**failures) * (1 - JITTER * self._jitter())
        # No overflow, however long a server stays away.
        self._failures = min(failures + 1, 16)
        # Not the error itself: it would keep alive all that its traceback sees, secrets included.
        kind = next(
            k for k in (AuthenticationError, HostKeyError, ConnectError) if isinstance(error, k)
        )
        self._last_error = kind, str(error)
        self._retry_at = self._clock() + pause
        return pause

    def _is_outdated(self, member: _Member) -> bool:
        return member.generation != self._generation or self._clock() >= member.expires

    def _idles_until(self, member: _Member) -> float:
        return min(member.expires, member.last_used + self.limits.max_idle)

    def _take_outdated(self) -> list[_Member]:
        """Remove the idle sessions that may not serve again, with the lock held.

        They take up room until ``_close()`` had them.
        """
        outdated = []
        for member in tuple(self._idle):
            if member.broken:
                self._counters.closed_broken += 1
            elif self._is_outdated(member):
                self._counters.closed_lifetime += 1
            elif self._clock() >= self._idles_until(member):
                self._counters.closed_idle += 1
            else:
                continue
            self._idle.remove(member)
            outdated.append(member)
        self._closing += len(outdated)
        return outdated

    def _close(self, outdated: list[_Member]) -> None:
        """Close sessions, then let others take their room."""
        for member in outdated:
            try:
                member.session.close()
            finally:
                with self._lock:
                    self._closing -= 1
                    self._dispatch()

    def _schedule_reaper(self) -> None:
        """Have idle sessions closed in time: a timer runs only when there are any."""
        if not self._idle or self._reaper is not None:
            return
        pause = min(map(self._idles_until, self._idle)) - self._clock()
        pause += self.limits.max_idle * JITTER * self._jitter()
        reaper = threading.Timer(min(max(pause, 0.0), threading.TIMEOUT_MAX), _reap)
        reaper.args = (weakref.ref(self, lambda _: reaper.cancel()),)
        reaper.daemon = True
        # While the interpreter exits no thread can be started; nor is there a need for one.
        with suppress(RuntimeError):
            reaper.start()
            self._reaper = reaper

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
            _abandon(member)

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


def _close_idle(members: list[_Member]) -> None:
    """Close what a pool leaves behind, unless it is a parent's."""
    while members:
        member = members.pop()
        if member.pid == os.getpid():
            member.session.close()
        else:
            _abandon(member)


def _abandon(member: _Member) -> None:
    # Kept for ever: collecting a session would run its library's clean-up on the wire.
    _abandoned.append(member)
    member.session.abandon()


def _reap(reference: weakref.ref[ConnectionPool]) -> None:
    pool = reference()
    if pool is not None:
        pool._reaper = None
        pool.reap()


# The registry: one pool for each endpoint, for as long as a storage holds it.

_pools: weakref.WeakValueDictionary[int, ConnectionPool] = weakref.WeakValueDictionary()
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
        if pool is None or pool._closed:
            pool = _registry[endpoint] = ConnectionPool(endpoint, limits)
        elif pool.limits != limits:
            raise ValueError(
                f"two storages share {endpoint} but not their pool options: "
                f"{pool.limits} and {limits}"
            )
        return pool


def all_pools() -> list[ConnectionPool]:
    """Return the pools of this process."""
    # In one step: other threads may be making pools.
    return [pool for reference in _pools.valuerefs() if (pool := reference()) is not None]


def pool_stats() -> dict[str, PoolStats]:
    """Return the numbers of all pools of this process, by name. Asks no server."""
    return {pool.name: pool.stats() for pool in all_pools()}


def _after_fork_in_child() -> None:
    global _registry_lock, _fork_lock
    _registry_lock = threading.Lock()
    _fork_lock = threading.Lock()
    for pool in all_pools():
        pool._forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
