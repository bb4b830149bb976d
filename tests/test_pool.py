"""The pool on a scripted endpoint: events and an injected clock, no server and no sleeps."""

from __future__ import annotations

import errno
import gc
import itertools
import logging
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from netstorage import pool as pool_module
from netstorage.exceptions import (
    AuthenticationError,
    ConnectError,
    ConnectionLost,
    FileChanged,
    HostKeyError,
    PoolClosed,
    PoolTimeout,
    ProtocolError,
)
from netstorage.pool import ConnectionPool, PoolLimits, PoolStats, all_pools, get_pool
from netstorage.session import Session

DEADLINE = 20.0
"""Seconds after which a test is taken to hang; none should ever come near."""


class FakeSession(Session):
    """The part of a session that the pool knows of."""

    def __init__(self, endpoint: FakeEndpoint, number: int) -> None:
        self.endpoint = endpoint
        self.number = number
        self.alive = True
        self.answers: deque[bool] = deque()
        self.pings = 0
        self.ping_error: BaseException | None = None
        self.closed = 0
        self.abandoned = 0
        self.before_close: Callable[[], object] = lambda: None

    def __repr__(self) -> str:
        return f"<session {self.number}>"

    def is_alive(self) -> bool:
        return self.answers.popleft() if self.answers else self.alive

    def ping(self) -> None:
        self.pings += 1
        if self.ping_error is not None:
            raise self.ping_error

    def close(self) -> None:
        self.before_close()
        self.closed += 1
        self.endpoint.count(-1)

    def abandon(self) -> None:
        self.abandoned += 1


class SharedSession(FakeSession):
    concurrency = 3


# The verbs are nobody's business here.
FakeSession.__abstractmethods__ = SharedSession.__abstractmethods__ = frozenset()


class Gate:
    """A connect that stands still until it is let through, or refused."""

    def __init__(self) -> None:
        self._arrived = threading.Event()
        self._opened = threading.Event()
        self._error: BaseException | None = None

    def pass_through(self) -> None:
        self._arrived.set()
        assert self._opened.wait(DEADLINE)
        if self._error is not None:
            raise self._error

    @property
    def reached(self) -> bool:
        return self._arrived.is_set()

    def await_arrival(self) -> None:
        assert self._arrived.wait(DEADLINE), "nobody connects"

    def open(self, error: BaseException | None = None) -> None:
        self._error = error
        self._opened.set()


class FakeEndpoint:
    """Connects at once, unless `script` says otherwise: each connect takes its next entry."""

    def __init__(self, session_class: type[FakeSession] = FakeSession) -> None:
        self.session_class = session_class
        self.script: deque[BaseException | Gate] = deque()
        self.sessions: list[FakeSession] = []
        self.attempts = 0
        self.open = self.most_open = 0
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return "fake://server"

    def gate(self) -> Gate:
        gate = Gate()
        self.script.append(gate)
        return gate

    def count(self, change: int) -> None:
        with self._lock:
            self.open += change
            self.most_open = max(self.most_open, self.open)

    def connect(self) -> FakeSession:
        with self._lock:
            self.attempts += 1
            step = self.script.popleft() if self.script else None
        if isinstance(step, BaseException):
            raise step
        self.count(+1)
        try:
            if step is not None:
                step.pass_through()
        except BaseException:
            self.count(-1)
            raise
        with self._lock:
            session = self.session_class(self, len(self.sessions))
            self.sessions.append(session)
        return session


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Borrower:
    """A thread that borrows a session and keeps it until it is told to give it back."""

    def __init__(self, pool: ConnectionPool, *, exclusive: bool = False) -> None:
        self.session: FakeSession | None = None
        self.error: BaseException | None = None
        self._raises: BaseException | None = None
        self._settled = threading.Event()
        self._finish = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(pool, exclusive), daemon=True)
        self._thread.start()

    def _run(self, pool: ConnectionPool, exclusive: bool) -> None:
        try:
            with pool.connection(exclusive=exclusive) as session:
                self.session = session
                self._settled.set()
                assert self._finish.wait(DEADLINE)
                if self._raises is not None:
                    raise self._raises
        except BaseException as error:
            self.error = error
        self._settled.set()

    @property
    def waits(self) -> bool:
        return not self._settled.is_set()

    def got(self) -> FakeSession:
        assert self._settled.wait(DEADLINE), "it got nothing"
        assert self.session is not None, self.error
        return self.session

    def failed(self) -> BaseException:
        assert self._settled.wait(DEADLINE), "it got nothing"
        self._thread.join(DEADLINE)
        assert self.error is not None
        return self.error

    def give_back(self, error: BaseException | None = None) -> None:
        self._raises = error
        self._finish.set()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.001)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def endpoint() -> FakeEndpoint:
    return FakeEndpoint()


@pytest.fixture
def shared() -> FakeEndpoint:
    return FakeEndpoint(SharedSession)


@pytest.fixture(autouse=True)
def no_second_look(monkeypatch):
    """Who waits is woken, or waits for ever: a wake-up that was forgotten shows."""
    monkeypatch.setattr(pool_module, "LOOK_AGAIN", 10 * DEADLINE)


@pytest.fixture
def second_looks(no_second_look, monkeypatch):
    """Who waits looks again, and soon."""
    monkeypatch.setattr(pool_module, "LOOK_AGAIN", 0.01)


@pytest.fixture
def make_pool(clock):
    """Makes pools without jitter; in the end nothing may be lent, promised or lost."""
    pools: list[ConnectionPool] = []

    def make(
        endpoint: FakeEndpoint, clock: Callable[[], float] = clock, jitter: float = 0.0, **limits
    ) -> ConnectionPool:
        limits = PoolLimits(**{"timeout": 10 * DEADLINE, **limits})
        pool = ConnectionPool(endpoint, limits, clock=clock, jitter=lambda: jitter)
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        stats = pool.stats()
        assert (stats.in_use, stats.waiting, stats.connecting, pool._closing) == (0, 0, 0, 0)
        assert pool.endpoint.open == stats.size
        pool.close()
        assert pool.endpoint.open == 0
        assert all(session.closed + session.abandoned == 1 for session in pool.endpoint.sessions)


@pytest.fixture
def borrow() -> Iterator[Callable[..., Borrower]]:
    """Starts borrowers; those that are left give back in the end."""
    borrowers: list[Borrower] = []

    def start(pool: ConnectionPool, *, exclusive: bool = False, queued: bool = False) -> Borrower:
        """Start one; with `queued`, return when it stands in the queue."""
        waiting = pool.stats().waiting
        borrower = Borrower(pool, exclusive=exclusive)
        borrowers.append(borrower)
        if queued:
            until(lambda: pool.stats().waiting == waiting + 1)
        return borrower

    yield start
    for borrower in borrowers:
        borrower.give_back()


@pytest.fixture
def timers(monkeypatch) -> list[FakeTimer]:
    """The timers that were started, in place of real ones."""
    FakeTimer.started = []
    monkeypatch.setattr(threading, "Timer", FakeTimer)
    return FakeTimer.started


class FakeTimer:
    started: ClassVar[list[FakeTimer]]

    def __init__(self, interval: float, function: Callable[..., object]) -> None:
        self.interval = interval
        self.function = function
        self.args: tuple = ()
        self.daemon = False
        self.cancelled = False

    def start(self) -> None:
        assert self.daemon
        FakeTimer.started.append(self)

    def cancel(self) -> None:
        self.cancelled = True

    def fire(self) -> None:
        self.function(*self.args)


def use(pool: ConnectionPool, **kwargs) -> FakeSession:
    with pool.connection(**kwargs) as session:
        return session


def use_together(pool: ConnectionPool, count: int) -> list[FakeSession]:
    """Leave `count` sessions idle; the last of the list is on top."""
    contexts = [pool.connection(exclusive=True) for _ in range(count)]
    sessions = [context.__enter__() for context in contexts]
    for context in contexts:
        context.__exit__(None, None, None)
    return sessions


# --- size, reuse, order -------------------------------------------------------------------------


def test_a_session_is_used_again(make_pool, endpoint):
    pool = make_pool(endpoint)
    assert use(pool) is use(pool) is use(pool)
    assert endpoint.attempts == 1


def test_nothing_is_opened_before_it_is_needed(make_pool, endpoint):
    make_pool(endpoint).stats()
    assert endpoint.attempts == 0


def test_never_more_than_max_size(make_pool, endpoint, borrow):
    pool = make_pool(endpoint, max_size=3)
    three = [borrow(pool) for _ in range(3)]
    assert len({each.got() for each in three}) == 3
    fourth = borrow(pool, queued=True)
    assert fourth.waits
    assert endpoint.open == 3
    three[1].give_back()
    assert fourth.got() is three[1].session
    assert endpoint.attempts == 3


def test_the_session_used_last_is_lent_first(make_pool, endpoint):
    pool = make_pool(endpoint)
    one, two, three = use_together(pool, 3)
    assert use(pool) is three
    with pool.connection() as first, pool.connection() as second:
        assert (first, second) == (three, two)
    # Those below it may age and go: what is in demand is what stays.
    assert use(pool) is three
    assert one.closed == 0


def test_who_waits_longest_is_served_first(make_pool, endpoint, borrow):
    pool = make_pool(endpoint, max_size=1)
    holder = borrow(pool)
    session = holder.got()
    queue = [borrow(pool, queued=True) for _ in range(4)]
    for borrower in queue:
        holder.give_back()
        assert borrower.got() is session
        assert [each.waits for each in queue[queue.index(borrower) + 1 :]] == [True] * (
            len(queue) - 1 - queue.index(borrower)
        )
        holder = borrower


def test_a_session_is_handed_over_so_that_nobody_can_snatch_it(make_pool, endpoint, borrow):
    pool = make_pool(endpoint, max_size=1)
    with pool.connection() as session:
        waiting = borrow(pool, queued=True)
    # Whoever waited owns it already, whether its thread runs yet or not.
    assert pool.stats().idle == 0
    assert pool.stats().waiting == 0
    late = borrow(pool, queued=True)
    assert waiting.got() is session
    assert late.waits
    waiting.give_back()
    assert late.got() is session


def test_who_was_handed_a_dead_session_keeps_its_place(make_pool, endpoint, borrow):
    pool = make_pool(endpoint, max_size=1)
    holder = borrow(pool)
    holder.got().answers.extend([True, False])  # on return, then as it is lent
    gate = endpoint.gate()
    first = borrow(pool, queued=True)
    second = borrow(pool, queued=True)
    holder.give_back()
    gate.await_arrival()
    gate.open()
    assert first.got() is endpoint.sessions[1]
    assert second.waits


def test_the_room_of_a_broken_session_is_free_once_it_is_closed(make_pool, endpoint, borrow):
    pool = make_pool(endpoint, max_size=1)
    holder = borrow(pool)
    session = holder.got()
    waiting = borrow(pool, queued=True)
    seen = []
    session.before_close = lambda: seen.append((endpoint.attempts, pool.stats().waiting))
    holder.give_back(ConnectionLost("gone"))
    waiting.got()
    assert seen == [(1, 1)]
    assert endpoint.most_open == 1


def test_a_close_that_fails_frees_the_room(make_pool, endpoint):
    pool = make_pool(endpoint, max_size=1)

    def fail() -> None:
        session.before_close = lambda: None
        session.close()
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"), pool.connection() as session:
        session.before_close = fail
        raise ConnectionLost("gone")
    assert use(pool) is not session


# --- connecting ---------------------------------------------------------------------------------


def test_two_connect_at_a_time(make_pool, endpoint, borrow):
    pool = make_pool(endpoint, max_size=4)
    gates = [endpoint.gate() for _ in range(3)]
    first, second = borrow(pool), borrow(pool)
    gates[0].await_arrival()
    gates[1].await_arrival()
    third = borrow(pool, queued=True)
    assert pool.stats().connecting == 2
    assert not gates[2].reached
    gates[0].open()
    first.got()
    # The permit went on to who waited.
    gates[2].await_arrival()
    fourth = borrow(pool, queued=True)
    first.give_back()
    # Others are still connecting, and the session that came back first served.
    assert fourth.got() is first.session
    assert endpoint.attempts == 3
    gates[1].open()
    gates[2].open()
    assert len({second.got(), third.got(), fourth.got()}) == 3


def test_a_failed_connect_wakes_who_waits(make_pool, endpoint, borrow):
    pool = make_pool(endpoint, max_size=1)
    gate = endpoint.gate()
    first = borrow(pool)
    gate.await_arrival()
    others = [borrow(pool, queued=True) for _ in range(3)]
    gate.open(error := ConnectError("no route"))
    assert first.failed() is error
    for other in others:
        assert str(other.failed()).startswith("no route (not tried again")
    assert endpoint.attempts == 1


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt()])
def test_a_connect_that_ends_otherwise_passes_its_permit_on(make_pool, endpoint, borrow, error):
    pool = make_pool(endpoint, max_size=1)
    gate = endpoint.gate()
    first = borrow(pool)
    gate.await_arrival()
    second = borrow(pool, queued=True)
    gate.open(error)
    assert first.failed() is error
    assert second.got() is endpoint.sessions[0]
    assert pool.stats().connect_errors == 1


# --- the check on borrow ------------------------------------------------------------------------


def test_a_dead_session_is_not_lent(make_pool, endpoint):
    pool = make_pool(endpoint)
    session = use(pool)
    session.alive = False
    assert use(pool) is not session
    assert (session.closed, session.pings) == (1, 0)
    assert pool.stats().closed_broken == 1


def test_a_session_that_died_in_use_is_closed_on_return(make_pool, endpoint):
    pool = make_pool(endpoint)
    with pool.connection() as session:
        session.alive = False
    assert session.closed == 1
    assert pool.stats().size == 0


def test_a_sign_of_life_is_asked_for_after_a_pause_only(make_pool, endpoint, clock):
    pool = make_pool(endpoint)
    session = use(pool)
    clock.advance(pool_module.PING_AFTER - 0.01)
    use(pool)
    assert session.pings == 0
    clock.advance(pool_module.PING_AFTER)
    use(pool)
    assert session.pings == 1
    use(pool)
    assert session.pings == 1


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionLost("gone"), ProtocolError("what?")])
def test_a_session_that_gives_no_sign_of_life_is_replaced(
    make_pool, endpoint, clock, error, caplog
):
    caplog.set_level(logging.INFO, "netstorage.pool")
    pool = make_pool(endpoint, max_size=1)
    session = use(pool)
    session.ping_error = error
    clock.advance(pool_module.PING_AFTER)
    assert use(pool) is not session
    assert session.closed == 1
    assert pool.stats().closed_broken == 1
    silent, broken = caplog.messages
    assert silent.startswith(f"a session to {endpoint} did not answer after 5 s")
    assert broken == f"closing a broken session to {endpoint}"


def test_after_a_loss_the_other_idle_sessions_are_asked(make_pool, endpoint, clock):
    pool = make_pool(endpoint)
    one, two, three = use_together(pool, 3)
    clock.advance(1)
    with pytest.raises(ConnectionLost), pool.connection() as session:
        raise ConnectionLost("gone")
    assert session is three
    clock.advance(1)
    assert use(pool) is two
    assert use(pool) is two
    # Once it showed a sign of life, it is trusted again.
    assert (one.pings, two.pings) == (0, 1)


def test_a_fresh_session_is_not_asked(make_pool, endpoint):
    pool = make_pool(endpoint)
    with pytest.raises(ConnectionLost), pool.connection():
        raise ConnectionLost("gone")
    assert use(pool).pings == 0


def test_an_interrupted_check_loses_no_session(make_pool, endpoint, clock):
    pool = make_pool(endpoint, max_size=1)
    session = use(pool)
    session.ping_error = KeyboardInterrupt()
    clock.advance(pool_module.PING_AFTER)
    with pytest.raises(KeyboardInterrupt):
        use(pool)
    assert session.closed == 1
    assert use(pool) is not session


# --- idleness and lifetime ----------------------------------------------------------------------


def test_a_session_that_idled_too_long_is_closed(make_pool, endpoint, clock):
    pool = make_pool(endpoint, max_idle=60)
    one, two = use_together(pool, 2)
    clock.advance(59)
    assert use(pool) is two
    clock.advance(2)
    pool.reap()
    assert (one.closed, two.closed) == (1, 0)
    clock.advance(58)
    assert use(pool) is not two
    assert pool.stats().closed_idle == 2


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 1000), (1.0, 900)])
def test_a_session_lives_for_max_lifetime_at_the_most(make_pool, endpoint, clock, jitter, seconds):
    pool = make_pool(endpoint, jitter=jitter, max_lifetime=1000, max_idle=5000)
    session = use(pool)
    clock.advance(seconds - 1)
    assert use(pool) is session
    clock.advance(1)
    assert use(pool) is not session
    assert session.closed == 1
    assert pool.stats().closed_lifetime == 1


def test_a_lent_session_is_not_closed_for_its_age_before_it_is_back(make_pool, endpoint, clock):
    pool = make_pool(endpoint, max_lifetime=1000)
    with pool.connection() as session:
        clock.advance(2000)
        pool.reap()
        assert session.closed == 0
    assert session.closed == 1
    assert pool.stats().closed_lifetime == 1


def test_an_aged_session_goes_to_nobody_on_return(make_pool, endpoint, clock, borrow):
    pool = make_pool(endpoint, max_size=1, timeout=10**6)
    with pool.connection() as session:
        waiting = borrow(pool, queued=True)
        clock.advance(4000)
    assert waiting.got() is not session
    assert session.closed == 1


@pytest.mark.parametrize(("jitter", "interval"), [(0.0, 60), (1.0, 66)])
def test_idle_sessions_are_closed_in_time(make_pool, endpoint, clock, timers, jitter, interval):
    pool = make_pool(endpoint, jitter=jitter, max_idle=60)
    session = use(pool)
    (timer,) = timers
    assert timer.interval == pytest.approx(interval)
    clock.advance(interval)
    timer.fire()
    assert session.closed == 1
    assert timers == [timer], "nothing lies idle, so nothing is to be waited for"
    use(pool)
    assert len(timers) == 2


def test_the_timer_comes_back_for_what_is_not_due_yet(make_pool, endpoint, clock, timers):
    pool = make_pool(endpoint, max_idle=60)
    one, two = use_together(pool, 2)
    clock.advance(45)
    assert use(pool) is two
    clock.advance(15)
    timers[0].fire()
    assert (one.closed, two.closed) == (1, 0)
    assert [timer.interval for timer in timers] == [60, 45]
    clock.advance(45)
    timers[1].fire()
    assert two.closed == 1
    assert len(timers) == 2


def test_the_timer_looks_at_lifetimes_too(make_pool, endpoint, timers):
    use(make_pool(endpoint, max_idle=60, max_lifetime=10))
    assert timers[0].interval == 10


def test_there_is_one_timer_at_a_time(make_pool, endpoint, timers):
    pool = make_pool(endpoint)
    for _ in range(3):
        use_together(pool, 3)
        pool.reap()
    assert len(timers) == 1


def test_a_timer_never_waits_longer_than_python_can(make_pool, endpoint, timers):
    longest = threading.TIMEOUT_MAX
    use(make_pool(endpoint, jitter=1.0, max_idle=longest, max_lifetime=longest))
    assert timers[0].interval <= longest


def test_close_stops_the_timer(make_pool, endpoint, timers):
    pool = make_pool(endpoint)
    use(pool)
    pool.close()
    assert timers[0].cancelled
    timers[0].fire()  # it was too late
    assert len(timers) == 1


def test_the_timer_stops_with_its_pool(endpoint, timers):
    pool = ConnectionPool(endpoint)
    use(pool)
    del pool
    gc.collect()
    assert timers[0].cancelled
    timers[0].fire()  # it was too late
    assert endpoint.open == 0


def test_where_no_thread_can_be_started_there_is_no_timer(make_pool, endpoint, timers, monkeypatch):
    def refuse(timer: FakeTimer) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    pool = make_pool(endpoint, max_size=1)
    with monkeypatch.context() as patch:
        patch.setattr(FakeTimer, "start", refuse)
        session = use(pool)
    assert timers == []
    assert use(pool) is session
    assert len(timers) == 1


def test_with_a_real_timer(make_pool, endpoint):
    pool = make_pool(endpoint, clock=time.monotonic, max_idle=0.01)
    session = use(pool)
    until(lambda: session.closed == 1)
    until(lambda: pool.stats().closed_idle == 1)


# --- a dead server ------------------------------------------------------------------------------


class OddError(HostKeyError):
    """An endpoint's own kind of error, which cannot be made from a message."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one}, {two}")


KINDS = [
    (ConnectError("refused"), ConnectError, "refused"),
    (AuthenticationError("wrong password"), AuthenticationError, "wrong password"),
    (HostKeyError("changed"), HostKeyError, "changed"),
    (OddError("not", "him"), HostKeyError, "not, him"),
]


@pytest.mark.parametrize(("error", "kind", "message"), KINDS)
def test_a_dead_server_fails_fast(make_pool, endpoint, clock, error, kind, message):
    pool = make_pool(endpoint)
    endpoint.script.append(error)
    with pytest.raises(kind) as first:
        use(pool)
    assert first.value is error
    clock.advance(0.1)
    for _ in range(3):
        with pytest.raises(ConnectError) as again:
            use(pool)
        assert type(again.value) is kind
        assert again.value is not error
        assert str(again.value) == f"{message} (not tried again for another 0.4 s)"
    assert endpoint.attempts == 1
    clock.advance(0.4)
    use(pool)
    assert endpoint.attempts == 2


@pytest.mark.parametrize(("jitter", "part"), [(0.0, 1.0), (1.0, 0.9)])
def test_the_pause_doubles_up_to_half_a_minute(make_pool, endpoint, clock, jitter, part):
    pool = make_pool(endpoint, jitter=jitter)
    for attempt, pause in enumerate([0.5, 1, 2, 4, 8, 16, 30, 30, 30], start=1):
        endpoint.script.append(ConnectError("refused"))
        with pytest.raises(ConnectError):
            use(pool)
        assert endpoint.attempts == attempt
        clock.advance(pause * part - 0.001)
        with pytest.raises(ConnectError, match="not tried again"):
            use(pool)
        assert endpoint.attempts == attempt
        clock.advance(0.002)
    # One success, and all is forgotten.
    with pytest.raises(ConnectionLost), pool.connection():
        raise ConnectionLost("gone")
    endpoint.script.append(ConnectError("refused"))
    with pytest.raises(ConnectError):
        use(pool)
    clock.advance(0.5)
    use(pool)


def test_a_server_may_stay_away_for_years(make_pool, endpoint, clock):
    pool = make_pool(endpoint)
    for _ in range(1100):
        endpoint.script.append(ConnectError("refused"))
        with pytest.raises(ConnectError):
            use(pool)
        clock.advance(30)
    assert pool.stats().connect_errors == 1100


def test_failures_side_by_side_count_once(make_pool, endpoint, clock, borrow):
    pool = make_pool(endpoint)
    gates = [endpoint.gate(), endpoint.gate()]
    borrowers = [borrow(pool), borrow(pool)]
    for gate in gates:
        gate.await_arrival()
    for gate in gates:
        gate.open(ConnectError("refused"))
    for borrower in borrowers:
        borrower.failed()
    clock.advance(0.5)
    use(pool)


def test_the_message_names_no_other_file(make_pool, endpoint):
    pool = make_pool(endpoint)
    endpoint.script.append(ConnectError("refused"))
    with pytest.raises(ConnectError) as failed:
        use(pool)
    failed.value.filename = "secret-plans.txt"  # as the storage does
    with pytest.raises(ConnectError) as again:
        use(pool)
    assert "secret-plans" not in str(again.value)


def test_the_pool_keeps_nothing_alive_that_a_failed_connect_saw(make_pool, caplog):
    caplog.set_level(logging.CRITICAL, "netstorage.pool")  # it keeps what it sees

    class Password(str):
        pass

    class Endpoint(FakeEndpoint):
        def connect(self) -> FakeSession:
            password = Password("hunter2")
            self.seen = weakref.ref(password)
            raise ConnectError("refused")

    pool = make_pool(endpoint := Endpoint())
    with suppress(ConnectError):
        use(pool)
    gc.collect()
    assert endpoint.seen() is None


def test_while_others_work_a_failure_is_no_reason_to_give_up(make_pool, endpoint, borrow):
    pool = make_pool(endpoint)
    holder = borrow(pool)
    holder.got()
    endpoint.script.append(ConnectError("too many at once"))
    assert "too many" in str(borrow(pool).failed())
    waiting = borrow(pool, queued=True)
    assert waiting.waits
    holder.give_back()
    assert waiting.got() is holder.session
    assert endpoint.attempts == 2


@pytest.mark.usefixtures("second_looks")
def test_who_waits_connects_once_the_pause_is_over(make_pool, endpoint, clock, borrow):
    pool = make_pool(endpoint)
    holder = borrow(pool)
    holder.got()
    endpoint.script.append(ConnectError("too many at once"))
    borrow(pool).failed()
    waiting = borrow(pool, queued=True)
    clock.advance(0.5)
    # Nothing comes back and nobody else asks.
    assert waiting.got() is not holder.session


def test_when_the_last_session_breaks_who_waits_fails_fast(make_pool, endpoint, borrow):
    pool = make_pool(endpoint)
    holder = borrow(pool)
    holder.got()
    endpoint.script.append(ConnectError("the server went down"))
    borrow(pool).failed()
    waiting = borrow(pool, queued=True)
    holder.give_back(ConnectionLost("gone"))
    assert "the server went down (not tried again" in str(waiting.failed())


# --- drain and close ----------------------------------------------------------------------------


def test_drain_replaces_all_sessions(make_pool, endpoint):
    pool = make_pool(endpoint)
    one, two = use_together(pool, 2)
    with pool.connection() as lent:
        pool.drain()
        assert (one.closed, two.closed) == (1, 0)
        assert lent is two
    assert lent.closed == 1
    assert pool.stats().closed_lifetime == 2
    assert use(pool) not in (one, two)


def test_drain_meets_who_is_connecting(make_pool, endpoint, borrow):
    pool = make_pool(endpoint)
    gate = endpoint.gate()
    borrower = borrow(pool)
    gate.await_arrival()
    pool.drain()
    gate.open()
    session = borrower.got()
    borrower.give_back()
    assert session.closed == 1


def test_a_drained_session_goes_to_nobody_on_return(make_pool, endpoint, borrow):
    pool = make_pool(endpoint, max_size=1)
    with pool.connection() as session:
        waiting = borrow(pool, queued=True)
        pool.drain()
    assert waiting.got() is not session


def test_close_turns_everybody_away(make_pool, endpoint, borrow):
    pool = make_pool(endpoint, max_size=2)
    idle, _ = use_together(pool, 2)
    with pool.connection() as lent:
        other = borrow(pool)
        other.got()
        waiting = [borrow(pool, queued=True) for _ in range(3)]
        other.give_back()
        waiting[0].got()
        pool.close()
        for each in waiting[1:]:
            assert isinstance(each.failed(), PoolClosed)
        assert lent.closed == 0
    assert lent.closed == 1
    waiting[0].give_back()
    assert idle.closed == 1
    with pytest.raises(PoolClosed, match="the pool of fake://server is closed"):
        use(pool)
    pool.close()  # twice is fine


def test_close_closes_what_is_idle(make_pool, endpoint):
    pool = make_pool(endpoint)
    sessions = use_together(pool, 3)
    pool.close()
    assert [session.closed for session in sessions] == [1, 1, 1]
    assert pool.stats().size == 0


# --- numbers ------------------------------------------------------------------------------------


ZERO = PoolStats(*[0] * 14)


def test_stats_tell_each_thing_apart(make_pool, endpoint, clock, borrow):
    pool = make_pool(endpoint, max_size=3, max_idle=60, max_lifetime=1000)
    assert pool.stats() == ZERO

    endpoint.script.append(ConnectError("refused"))
    with pytest.raises(ConnectError):
        use(pool)
    clock.advance(1)
    assert pool.stats() == replace(ZERO, requests=1, connect_errors=1)

    gate = endpoint.gate()
    borrowers = [borrow(pool)]
    gate.await_arrival()
    assert pool.stats() == replace(ZERO, requests=2, connect_errors=1, connecting=1)
    gate.open()
    borrowers += [borrow(pool), borrow(pool)]
    for borrower in borrowers:
        borrower.got()
    waiting = borrow(pool, queued=True)
    now = replace(ZERO, requests=5, connect_errors=1, connects=3, size=3, in_use=3, waiting=1)
    assert pool.stats() == now

    clock.advance(2.5)
    borrowers[0].give_back()
    waiting.got()
    now = replace(now, waiting=0, waits=1, wait_seconds=2.5)
    assert pool.stats() == now

    borrowers[1].give_back(ConnectionLost("gone"))
    borrowers[2].give_back()
    now = replace(now, size=2, in_use=1, idle=1, closed_broken=1)
    assert pool.stats() == now

    clock.advance(60)
    pool.reap()
    now = replace(now, size=1, idle=0, closed_idle=1)
    assert pool.stats() == now

    clock.advance(1000)
    waiting.give_back()
    assert pool.stats() == replace(now, size=0, in_use=0, closed_lifetime=1)


def test_stats_cannot_be_changed(make_pool, endpoint):
    stats = make_pool(endpoint).stats()
    with pytest.raises(AttributeError):
        stats.idle = 5
    assert set(asdict(stats).values()) == {0}


def test_repr_shows_the_state(make_pool, endpoint, borrow):
    pool = make_pool(endpoint, max_size=2)
    use_together(pool, 2)
    with pool.connection():
        assert repr(pool) == (
            "<ConnectionPool fake://server size=2/2 idle=1 in_use=1 connecting=0 waiting=0>"
        )
    pool.close()
    assert repr(pool) == (
        "<ConnectionPool fake://server closed size=0/2 idle=0 in_use=0 connecting=0 waiting=0>"
    )


def test_a_log_handler_may_look_at_the_pool(make_pool, endpoint, clock):
    """Error trackers show the repr of what they find in the frames of who logs."""
    seen = []

    class Curious(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append((record.getMessage(), repr(pool)))

    pool = make_pool(endpoint)
    logger = logging.getLogger("netstorage.pool")
    handler, level = Curious(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        endpoint.script.append(ConnectError("refused"))
        with pytest.raises(ConnectError):
            use(pool)
        clock.advance(1)
        session = use(pool)
        session.ping_error = ConnectionLost("gone")
        clock.advance(6)
        use(pool)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert [message for message, _ in seen] == [
        "no session to fake://server, next attempt in 0.5 s: refused",
        "opened a session to fake://server",
        "a session to fake://server did not answer after 6 s: gone",
        "closing a broken session to fake://server",
        "opened a session to fake://server",
    ]


# --- waiting in vain ----------------------------------------------------------------------------


def test_a_timeout_tells_the_numbers(make_pool, endpoint):
    pool = make_pool(endpoint, clock=time.monotonic, max_size=1, timeout=0.01)
    with pool.connection():
        with pytest.raises(PoolTimeout) as timeout:
            use(pool)
        stats = pool.stats()
    assert str(timeout.value) == (
        "no session to fake://server came free within 0.01 s (the pool's timeout): size=1, "
        "idle=0, in_use=1, connecting=0, waiting=0, max_size=1. "
        "Raise the pool's max_size or timeout, or make fewer requests at once."
    )
    assert (stats.waits, stats.timeouts) == (1, 1)
    assert stats.wait_seconds >= 0.01
    use(pool)


def test_who_gave_up_is_given_nothing(make_pool, endpoint, borrow):
    pool = make_pool(endpoint, clock=time.monotonic, max_size=1, timeout=0.01)
    with pool.connection() as session:
        borrower = borrow(pool)
        assert isinstance(borrower.failed(), PoolTimeout)
    assert pool.stats().idle == 1
    assert use(pool) is session


def test_who_gives_up_lets_those_behind_it_pass(make_pool, shared, borrow):
    pool = make_pool(shared, clock=time.monotonic, max_size=1)
    patient = pool.limits
    with pool.connection() as session:
        pool.limits = PoolLimits(max_size=1, timeout=0.1)
        bulk = borrow(pool, exclusive=True)
        until(lambda: pool.stats().waiting == 1 or not bulk.waits)
        pool.limits = patient
        small = borrow(pool)
        assert isinstance(bulk.failed(), PoolTimeout)
        assert small.got() is session


def interrupt(monkeypatch, before: Callable[[], object]) -> None:
    """Let the next waits end by Ctrl-C, after `before`."""
    waiter_class = pool_module._Waiter

    def make(exclusive: bool) -> pool_module._Waiter:
        waiter = waiter_class(exclusive)

        def wait(timeout: float) -> bool:
            before()
            raise KeyboardInterrupt

        waiter.granted.wait = wait  # type: ignore[method-assign]
        return waiter

    monkeypatch.setattr(pool_module, "_Waiter", make)


def test_who_is_interrupted_leaves_the_queue(make_pool, endpoint, monkeypatch):
    pool = make_pool(endpoint, max_size=1)
    with pool.connection(), monkeypatch.context() as patch:
        interrupt(patch, before=lambda: None)
        with pytest.raises(KeyboardInterrupt):
            use(pool)
        assert pool.stats().waiting == 0
    use(pool)


def test_a_session_given_to_who_is_interrupted_is_not_lost(make_pool, endpoint, monkeypatch):
    pool = make_pool(endpoint, max_size=1)
    context = pool.connection()
    session = context.__enter__()
    with monkeypatch.context() as patch:
        interrupt(patch, before=lambda: context.__exit__(None, None, None))
        with pytest.raises(KeyboardInterrupt):
            use(pool)
    assert pool.stats().idle == 1
    assert use(pool) is session


def test_a_permit_given_to_who_is_interrupted_is_not_lost(make_pool, endpoint, monkeypatch):
    pool = make_pool(endpoint, max_size=1)
    context = pool.connection()
    session = context.__enter__()

    def lose() -> None:
        session.alive = False
        context.__exit__(None, None, None)
        assert pool.stats().connecting == 1

    with monkeypatch.context() as patch:
        interrupt(patch, before=lose)
        with pytest.raises(KeyboardInterrupt):
            use(pool)
    assert pool.stats().connecting == 0
    use(pool)


# --- what an error says of the session ----------------------------------------------------------


@pytest.mark.parametrize(
    "verdict",
    [
        FileNotFoundError(errno.ENOENT, "no such file"),
        FileExistsError(errno.EEXIST, "taken"),
        PermissionError(errno.EACCES, "denied"),
        IsADirectoryError(errno.EISDIR, "a directory"),
        NotADirectoryError(errno.ENOTDIR, "a file"),
        OSError(errno.ENOSPC, "full"),
        FileChanged("changed"),
    ],
)
def test_a_verdict_on_a_file_keeps_the_session(make_pool, endpoint, verdict):
    pool = make_pool(endpoint)
    with pytest.raises(type(verdict)) as raised, pool.connection() as session:
        raise verdict
    assert raised.value is verdict
    assert use(pool) is session
    assert session.pings == 0


@pytest.mark.parametrize(
    "error",
    [
        ConnectionLost("gone"),
        ConnectionResetError(errno.ECONNRESET, "gone"),
        AuthenticationError("no longer welcome"),
        TimeoutError(errno.ETIMEDOUT, "silent"),
        ProtocolError("nonsense"),
        KeyError("a bug"),
        KeyboardInterrupt(),
        GeneratorExit(),
    ],
)
def test_any_other_error_ends_the_session(make_pool, endpoint, error):
    pool = make_pool(endpoint)
    with pytest.raises(type(error)) as raised, pool.connection() as session:
        raise error
    assert raised.value is error
    assert session.closed == 1
    assert pool.stats().closed_broken == 1
    assert use(pool) is not session


def test_a_verdict_on_a_dead_session_does_not_save_it(make_pool, endpoint):
    pool = make_pool(endpoint)
    with pytest.raises(FileNotFoundError), pool.connection() as session:
        session.alive = False
        raise FileNotFoundError
    assert session.closed == 1


def test_a_lost_session_says_whether_it_had_served(make_pool, endpoint):
    pool = make_pool(endpoint)
    with pytest.raises(ConnectionLost) as fresh, pool.connection():
        raise ConnectionLost("gone")
    assert not fresh.value.reused
    use(pool)
    with pytest.raises(ConnectionLost) as reused, pool.connection():
        raise ConnectionLost("gone")
    assert reused.value.reused


# --- sessions that carry several operations -----------------------------------------------------


def test_a_session_is_shared_up_to_its_concurrency(make_pool, shared, borrow):
    pool = make_pool(shared, max_size=1)
    three = [borrow(pool) for _ in range(3)]
    assert len({each.got() for each in three}) == 1
    fourth = borrow(pool, queued=True)
    three[0].give_back()
    assert fourth.got() is three[0].session
    assert (pool.stats().size, pool.stats().in_use) == (1, 1)
    for each in (*three[1:], fourth):
        each.give_back()
    assert pool.stats().idle == 1


def test_the_pool_shares_before_it_grows(make_pool, shared, borrow):
    """Numbered requests travel together; a connect costs round trips, and servers count them."""
    pool = make_pool(shared, max_size=2)
    five = [borrow(pool).got() for _ in range(5)]
    assert [session.number for session in five] == [0, 0, 0, 1, 1]


def test_who_joins_chooses_the_session_with_less_to_do(make_pool, shared, borrow):
    pool = make_pool(shared, max_size=2)
    five = [borrow(pool) for _ in range(5)]
    numbers = [each.got().number for each in five]
    five[1].give_back()
    five[2].give_back()
    assert (numbers, borrow(pool).got().number) == ([0, 0, 0, 1, 1], 0)


def test_a_bulk_transfer_has_the_session_for_itself(make_pool, shared, borrow):
    pool = make_pool(shared, max_size=1)
    bulk = borrow(pool, exclusive=True)
    session = bulk.got()
    small = [borrow(pool, queued=True) for _ in range(2)]
    assert [each.waits for each in small] == [True, True]
    bulk.give_back()
    assert [each.got() for each in small] == [session, session]


def test_a_bulk_transfer_is_not_starved(make_pool, shared, borrow):
    pool = make_pool(shared, max_size=1)
    first, second = borrow(pool), borrow(pool)
    session = first.got()
    assert second.got() is session
    bulk = borrow(pool, exclusive=True, queued=True)
    # There is room for a third, but somebody waits.
    third = borrow(pool, queued=True)
    first.give_back()
    assert bulk.waits
    second.give_back()
    assert bulk.got() is session
    assert third.waits
    bulk.give_back()
    assert third.got() is session


def test_a_broken_session_takes_nobody_in_and_closes_behind_the_last(make_pool, shared, borrow):
    """Who still uses it will see for himself, unless it was the other's trouble alone."""
    pool = make_pool(shared, max_size=2)
    one, two, three = (borrow(pool) for _ in range(3))
    session = one.got()
    assert two.got() is three.got() is session
    one.give_back(ConnectionLost("gone"))
    assert borrow(pool).got() is not session
    two.give_back(error := ConnectionLost("gone"))
    assert error.reused
    assert session.closed == 0
    three.give_back()
    assert (session.closed, pool.stats().closed_broken) == (1, 1)


@pytest.mark.parametrize("aged", [True, False])
def test_a_shared_session_that_is_to_go_takes_nobody_in(make_pool, shared, clock, borrow, aged):
    pool = make_pool(shared, max_size=1, max_lifetime=1000)
    first = borrow(pool)
    session = first.got()
    if aged:
        clock.advance(1000)
    else:
        pool.drain()
    second = borrow(pool, queued=True)
    first.give_back()
    assert second.got() is not session


def test_nobody_joins_a_session_that_has_been_silent(make_pool, shared, clock, borrow):
    """A sign of life could not be asked for: it would wait behind what takes so long."""
    pool = make_pool(shared, max_size=2)
    holder = borrow(pool)
    session = holder.got()
    assert use(pool) is session
    clock.advance(6)
    assert use(pool) is not session
    assert session.pings == 0
    holder.give_back()
    assert pool.stats().idle == 2


def test_a_session_is_tested_before_others_join(make_pool, shared, clock, borrow):
    pool = make_pool(shared, max_size=1)
    session = use(pool)
    clock.advance(6)
    joining: list[Borrower] = []
    session.ping = lambda: joining.append(borrow(pool, queued=True))  # type: ignore[method-assign]
    with pool.connection() as lent:
        assert lent is session
        assert joining[0].got() is session
        joining[0].give_back()


# --- limits and registry ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "error", "message"),
    [
        ({"max_size": 0}, ValueError, "max_size must be at least 1, not 0"),
        ({"max_size": -1}, ValueError, "max_size must be at least 1, not -1"),
        ({"max_size": 1.5}, TypeError, "max_size must be a whole number, not 1.5"),
        ({"max_size": True}, TypeError, "max_size must be a whole number, not True"),
        ({"max_size": "4"}, TypeError, "max_size must be a whole number, not '4'"),
        *(
            case
            for name in ("timeout", "max_idle", "max_lifetime")
            for case in (
                ({name: 0}, ValueError, f"{name} must be a positive number of seconds, not 0"),
                ({name: -1}, ValueError, f"{name} must be a positive number of seconds, not -1"),
                ({name: float("nan")}, ValueError, f"{name} must be a positive number"),
                ({name: float("inf")}, ValueError, f"{name} must be a positive number"),
                ({name: 1e300}, ValueError, f"{name} must be a positive number"),
                ({name: None}, TypeError, f"{name} must be a number of seconds, not None"),
                ({name: True}, TypeError, f"{name} must be a number of seconds, not True"),
                ({name: "9"}, TypeError, f"{name} must be a number of seconds, not '9'"),
            )
        ),
    ],
)
def test_limits_that_make_no_sense(limits, error, message):
    with pytest.raises(error, match=message):
        PoolLimits(**limits)


def test_the_limits_are_those_of_psycopg_pool():
    assert PoolLimits() == PoolLimits(max_size=4, timeout=10, max_idle=60, max_lifetime=3600)
    assert ConnectionPool(FakeEndpoint()).limits == PoolLimits()


@dataclass(frozen=True)
class Named:
    """An endpoint that equals others of its name."""

    name: str

    def __str__(self) -> str:
        return self.name

    def connect(self) -> FakeSession:
        return FakeSession(FakeEndpoint(), 0)


def test_one_pool_for_each_endpoint():
    pool = get_pool(Named("a"), PoolLimits())
    assert get_pool(Named("a"), PoolLimits()) is pool
    other = get_pool(Named("b"), PoolLimits(max_size=9))
    assert other is not pool
    assert {pool, other} <= set(all_pools())


def test_one_endpoint_has_one_set_of_limits():
    pool = get_pool(Named("c"), PoolLimits())
    with pytest.raises(ValueError, match=r"two storages share c but not their.*max_size=4.*=9"):
        get_pool(Named("c"), PoolLimits(max_size=9))
    del pool
    gc.collect()
    assert get_pool(Named("c"), PoolLimits(max_size=9)).limits.max_size == 9


def test_a_pool_that_nobody_holds_is_gone_with_its_sessions():
    pool = get_pool(Named("d"), PoolLimits())
    sessions = use_together(pool, 2)
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    assert [session.closed for session in sessions] == [1, 1]
    assert "d" not in [str(each.endpoint) for each in all_pools()]


def test_many_threads_get_the_same_pool():
    barrier = threading.Barrier(8)
    pools = []

    def get() -> None:
        barrier.wait(DEADLINE)
        pools.append(get_pool(Named("e"), PoolLimits()))

    threads = [threading.Thread(target=get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert len(pools) == 8
    assert len(set(pools)) == 1


def test_pools_are_listed_while_others_come_and_go():
    stop = threading.Event()

    def make() -> None:
        while not stop.is_set():
            ConnectionPool(FakeEndpoint())

    thread = threading.Thread(target=make)
    thread.start()
    try:
        for _ in range(2000):
            all_pools()
    finally:
        stop.set()
        thread.join(DEADLINE)


# --- another process ----------------------------------------------------------------------------
# The real thing is in test_fork.py; here a process id that changes stands for a fork without hooks.


@pytest.fixture
def become_child(monkeypatch) -> Iterator[Callable[[], None]]:
    with monkeypatch.context() as patch:
        yield lambda: patch.setattr(os, "getpid", lambda: -1)


def test_a_child_starts_empty(endpoint, become_child):
    pool = ConnectionPool(endpoint, PoolLimits(max_size=2))
    idle, _ = use_together(pool, 2)
    with pool.connection() as lent:
        become_child()
        assert pool.stats() == ZERO
        assert use(pool) not in (idle, lent)
        assert (idle.abandoned, lent.abandoned) == (1, 1)
    assert pool.stats() == replace(ZERO, requests=1, connects=1, size=1, idle=1)
    assert (idle.closed, lent.closed) == (0, 0)
    pool.close()
    assert endpoint.open == 2  # the parent's


def test_a_child_that_leaves_a_block_touches_nothing(endpoint, become_child):
    pool = ConnectionPool(endpoint)
    with pytest.raises(ConnectionLost), pool.connection() as session:
        become_child()
        raise ConnectionLost("of course")
    assert (session.closed, session.abandoned) == (0, 1)
    assert pool.stats() == ZERO


def test_a_child_forgets_once(endpoint, become_child):
    pool = ConnectionPool(endpoint)
    use(pool)
    become_child()
    barrier = threading.Barrier(8)

    def borrow() -> None:
        barrier.wait(DEADLINE)
        use(pool)

    threads = [threading.Thread(target=borrow) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert endpoint.sessions[0].abandoned == 1
    assert pool.stats().requests == 8
    pool.close()


def test_a_child_that_drops_a_pool_leaves_the_sessions_to_the_parent(endpoint, become_child):
    pool = ConnectionPool(endpoint)
    session = use(pool)
    become_child()
    del pool
    gc.collect()
    assert (session.closed, session.abandoned) == (0, 1)


def test_what_a_child_inherited_is_never_collected(endpoint, become_child):
    """Collecting a session would run its library's clean-up, which may write on the wire."""
    pool = ConnectionPool(endpoint)
    kept = weakref.ref(use(pool))
    become_child()
    pool.stats()
    del pool
    endpoint.sessions.clear()
    gc.collect()
    assert kept() is not None


def test_what_the_server_did_to_the_parent_is_forgotten(endpoint, become_child):
    pool = ConnectionPool(endpoint)
    endpoint.script.append(ConnectError("refused"))
    with pytest.raises(ConnectError):
        use(pool)
    become_child()
    use(pool)
    pool.close()


def test_a_closed_pool_is_closed_for_children_too(endpoint, become_child):
    pool = ConnectionPool(endpoint)
    pool.close()
    become_child()
    with pytest.raises(PoolClosed):
        use(pool)


# --- all at once --------------------------------------------------------------------------------


class Weather(FakeEndpoint):
    """A server that fails now and then, and an umpire of what may happen on it."""

    def __init__(self, session_class: type[FakeSession], seed: int) -> None:
        super().__init__(session_class)
        self.chance = random.Random(seed)
        self.connecting = self.most_connecting = 0
        self.users: dict[FakeSession, list[bool]] = {}
        self.fouls: list[str] = []
        self.lock = threading.Lock()

    def connect(self) -> FakeSession:
        with self.lock:
            self.connecting += 1
            self.most_connecting = max(self.most_connecting, self.connecting)
            fails = self.chance.random() < 0.1
        try:
            time.sleep(0)
            if fails:
                raise ConnectError("a shower")
            return super().connect()
        finally:
            with self.lock:
                self.connecting -= 1

    def enter(self, session: FakeSession, exclusive: bool) -> None:
        with self.lock:
            users = self.users.setdefault(session, [])
            users.append(exclusive)
            if len(users) > (1 if any(users) else session.concurrency):
                self.fouls.append(f"{session} has too many users: {users}")

    def leave(self, session: FakeSession, exclusive: bool) -> None:
        with self.lock:
            self.users[session].remove(exclusive)


@pytest.mark.parametrize("session_class", [FakeSession, SharedSession])
@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_operations_by_sixteen_threads(session_class, seed):
    endpoint = Weather(session_class, seed)
    # Time passes with each look at the clock: limits, pauses and deadlines all come up.
    ticks = itertools.count()
    limits = PoolLimits(max_size=4, timeout=10, max_idle=2, max_lifetime=10)
    pool = ConnectionPool(endpoint, limits, clock=lambda: next(ticks) * 0.01)
    outcomes: list[object] = []
    errors = [ConnectionLost, TimeoutError, ProtocolError, KeyError, FileNotFoundError]

    def operate(chance: random.Random) -> None:
        for _ in range(75):
            exclusive = chance.random() < 0.3
            try:
                with pool.connection(exclusive=exclusive) as session:
                    endpoint.enter(session, exclusive)
                    try:
                        time.sleep(chance.choice([0, 0, 0.0001]))
                        if chance.random() < 0.05:
                            session.alive = False
                        if chance.random() < 0.05:
                            session.ping_error = ConnectionLost("by a stroke of lightning")
                        if chance.random() < 0.2:
                            raise chance.choice(errors)("an accident")
                    finally:
                        endpoint.leave(session, exclusive)
            except (*errors, ConnectError, PoolTimeout) as error:
                outcomes.append(error)
            else:
                outcomes.append(None)
            if chance.random() < 0.01:
                pool.drain()

    threads = [
        threading.Thread(target=operate, args=(random.Random(f"{seed}.{number}"),), daemon=True)
        for number in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert not any(thread.is_alive() for thread in threads), pool

    stats = pool.stats()
    assert endpoint.fouls == []
    assert endpoint.most_connecting <= pool_module.MAX_CONNECTING
    assert endpoint.most_open <= limits.max_size
    assert len(outcomes) == stats.requests == 16 * 75
    assert None in outcomes
    assert (stats.in_use, stats.waiting, stats.connecting, pool._closing) == (0, 0, 0, 0)
    assert stats.size == stats.idle == endpoint.open <= limits.max_size
    closed = stats.closed_idle + stats.closed_lifetime + stats.closed_broken
    assert stats.connects == len(endpoint.sessions) == closed + stats.idle
    assert stats.timeouts == sum(isinstance(error, PoolTimeout) for error in outcomes)
    pool.close()
    assert [session.closed for session in endpoint.sessions] == [1] * len(endpoint.sessions)


# --- the end ------------------------------------------------------------------------------------


def run_script(body: str) -> str:
    script = "from tests.test_pool import *\n" + textwrap.dedent(body)
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        # Shorter than max_idle: a timer that is waited for would be noticed.
        timeout=DEADLINE,
        cwd=Path(__file__).parents[1],
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_interpreter_exits_with_idle_sessions():
    """They are closed, and nothing is waited for."""
    output = run_script("""
        pool = ConnectionPool(FakeEndpoint())
        for session in use_together(pool, 2):
            session.before_close = lambda: print("closed")
    """)
    assert output == "closed\nclosed\n"


def test_the_interpreter_exits_with_a_session_lent():
    output = run_script("""
        pool = ConnectionPool(FakeEndpoint())
        context = pool.connection()
        context.__enter__()
        print("lent")
    """)
    assert output == "lent\n"


def test_a_pool_works_while_the_interpreter_exits():
    output = run_script("""
        import atexit

        @atexit.register
        def late():
            print(use(pool).number)
            print(repr(pool))

        pool = ConnectionPool(FakeEndpoint())
    """)
    assert output == (
        "0\n<ConnectionPool fake://server size=1/4 idle=1 in_use=0 connecting=0 waiting=0>\n"
    )
