"""What operations come to, told to OpenTelemetry where its API is installed.

An operation is what a program asks of a storage: a save, a look, a piece of a file. It may borrow
sessions several times; what is done on all of them counts as one. It is told as a span within the
span of the caller, and in metrics. Names of files may be personal data: none is told, and neither
are messages of errors, which hold them. Nothing else imports OpenTelemetry.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import asdict
from functools import lru_cache, wraps
from time import perf_counter
from typing import Any, BinaryIO, Protocol, TypeVar, cast
from urllib.parse import urlsplit

from . import __version__
from .pool import ConnectionPool, all_pools
from .session import Session, Sink, Stat

try:
    from opentelemetry import context, metrics, trace
except ImportError:
    INSTALLED = False
else:
    INSTALLED = True

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)
"""Bounds of histograms: from a look on the local network to a long transfer."""
CLIENT, POOL = "netstorage.client", "netstorage.client.connection"
"""What the names of metrics begin with; those of pools are OpenTelemetry's for databases."""
PORTS = {"http": 80, "https": 443}


class Operation:
    """What one operation comes to.

    Attributes:
        pool: Whose sessions it works on.
        name: What it is.
        waited: Seconds until it had its sessions.
        sent: Bytes of content that were stored.
        received: Bytes of content that came.
        round_trips: How often it had to have an answer before it could ask on.
        reconnects: How often a lost session or connection was replaced, and its work done again.
    """

    def __init__(self, pool: ConnectionPool, name: str) -> None:
        self.pool = pool
        self.name = name
        self.waited = 0.0
        self.sent = self.received = self.round_trips = self.reconnects = 0
        self._needs: dict[int, int] = {}

    def asked(self, request: int) -> None:
        """Note a numbered request; those that wait for no other's answer share a round trip."""
        self._needs[request] = self.round_trips + 1

    def awaits(self, request: int) -> None:
        """Note that what follows depends on a request's answer."""
        self.round_trips = max(self.round_trips, self._needs.pop(request, 0))


_current: ContextVar[Operation | None] = ContextVar("netstorage_operation", default=None)
at_work: ContextVar[Operation | None] = ContextVar("netstorage_at_work", default=None)
"""The operation for which the session at hand works, if somebody wants to know what it does."""


class _HasPool(Protocol):
    @property
    def pool(self) -> ConnectionPool: ...


def operation(name: str) -> Callable[[F], F]:
    """Have a storage's method told as one operation, with all that it does itself by others."""

    def decorate(method: F) -> F:
        @wraps(method)
        def told(self: _HasPool, *args: Any, **options: Any) -> Any:
            with _operation(self.pool, name):
                return method(self, *args, **options)

        return cast("F", told) if _opentelemetry else method

    return decorate


def watched(run: F) -> F:
    """Have what is done on sessions counted: ``run`` gets a storage, a file's name and the work."""

    @wraps(run)
    def watching(
        self: _HasPool, name: object, work: Callable[[Session], Any], **options: Any
    ) -> Any:
        lent = 0.0
        again = False

        def counted(session: Session) -> Any:
            nonlocal lent, again
            began = perf_counter()
            done.reconnects += again
            again = True
            token = at_work.set(done)
            try:
                return work(cast("Session", _Watched(session, done)))
            finally:
                at_work.reset(token)
                lent += perf_counter() - began

        with _operation(self.pool, "") as done:
            began = perf_counter()
            try:
                return run(self, name, counted, **options)
            finally:
                waited = perf_counter() - began - lent
                done.waited += waited
                cast("_OpenTelemetry", _opentelemetry).waits.record(waited, _of_pool(self.pool))

    return cast("F", watching) if _opentelemetry else run


def carrier() -> Callable[..., Any]:
    """Return what calls a function, in whatever thread, as a part of the span of now."""
    if not INSTALLED:
        return _call
    here = context.get_current()

    def call(work: Callable[..., T], *args: Any) -> T:
        token = context.attach(here)
        try:
            return work(*args)
        finally:
            context.detach(token)

    return call


def _call(work: Callable[..., T], *args: Any) -> T:
    return work(*args)


class _Watched:
    """A session that counts the content that passes, and names what nobody named."""

    def __init__(self, session: Session, done: Operation) -> None:
        self._session = session
        self._done = done

    def __getattr__(self, verb: str) -> Any:
        self._done.name = self._done.name or verb
        return getattr(self._session, verb)

    def read(self, path: str, start: int, stop: int | None, sink: Sink) -> Stat:
        done = self._done
        done.name = done.name or "read"

        def count(offset: int, data: memoryview) -> None:
            done.received += len(data)
            sink(offset, data)

        return self._session.read(path, start, stop, count)

    def write(self, path: str, source: BinaryIO, size: int, *args: Any, **options: Any) -> None:
        self._session.write(path, source, size, *args, **options)
        self._done.sent += size


def _operation(pool: ConnectionPool, name: str) -> AbstractContextManager[Operation]:
    """Begin an operation, unless one on the same pool is under way: then this is a part of it."""
    outer = _current.get()
    if outer is not None and outer.pool is pool:
        return nullcontext(outer)
    return _begun(pool, name)


@contextmanager
def _begun(pool: ConnectionPool, name: str) -> Iterator[Operation]:
    telemetry = cast("_OpenTelemetry", _opentelemetry)
    done = Operation(pool, name)
    failure: str | None = None
    with telemetry.tracer.start_as_current_span(
        f"netstorage {name}".rstrip(),
        kind=trace.SpanKind.CLIENT,
        attributes={**_server(str(pool.endpoint)), **_of_pool(pool)},
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        token = _current.set(done)
        began = perf_counter()
        try:
            yield done
        except BaseException as error:
            # Its name: the error itself would be in a circle with this frame.
            failure = _kind_of(error)
            raise
        finally:
            _current.reset(token)
            telemetry.tell(done, failure, perf_counter() - began, span)


@lru_cache(maxsize=64)
def _server(endpoint: str) -> dict[str, str | int]:
    try:
        url = urlsplit(endpoint)
        port = url.port or PORTS.get(url.scheme)
    except ValueError:
        return {}  # connecting will tell what is wrong with it
    named = {
        "server.address": url.hostname,
        "server.port": port,
        "network.protocol.name": url.scheme.removesuffix("s"),
    }
    return {name: value for name, value in named.items() if value}


def _of_pool(pool: ConnectionPool) -> dict[str, str]:
    return {f"{POOL}.pool.name": pool.name}


def _kind_of(error: BaseException) -> str:
    """Name an error: its type, or where that is OSError, which says nothing, its number."""
    if type(error) is OSError and (code := errno.errorcode.get(error.errno or 0)):
        return code
    kind = type(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return module + kind.__qualname__


class _OpenTelemetry:
    """A tracer, and the instruments of a meter."""

    def __init__(self, tracer: trace.Tracer, meter: metrics.Meter) -> None:
        self.tracer = tracer
        self.durations = meter.create_histogram(
            f"{CLIENT}.operation.duration",
            "s",
            "Duration of operations",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self.waits = meter.create_histogram(
            f"{POOL}.wait_time",
            "s",
            "Time until a session was lent",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self.io = meter.create_counter(f"{CLIENT}.io", "By", "Content stored and received")
        self.round_trips = meter.create_counter(
            f"{CLIENT}.round_trips", "{round_trip}", "Round trips of operations"
        )
        self.reconnects = meter.create_counter(
            f"{CLIENT}.reconnects", "{reconnect}", "Sessions lost at work and replaced"
        )
        meter.create_observable_up_down_counter(
            f"{POOL}.count",
            [_of_pools("idle", "idle"), _of_pools("in_use", "used")],
            "{connection}",
            "Open sessions",
        )
        for name, number, unit in (
            ("max", "max_size", "{connection}"),
            ("pending_requests", "waiting", "{request}"),
        ):
            meter.create_observable_up_down_counter(f"{POOL}.{name}", [_of_pools(number)], unit)
        for name, number, unit in (
            ("timeouts", "timeouts", "{timeout}"),
            ("opened", "connects", "{connection}"),
            ("failed", "connect_errors", "{connection}"),
            ("broken", "closed_broken", "{connection}"),
        ):
            meter.create_observable_counter(f"{POOL}.{name}", [_of_pools(number)], unit)

    def tell(self, done: Operation, failure: str | None, seconds: float, span: trace.Span) -> None:
        """Tell what an operation came to."""
        # Nobody named it, and it got no session to show what it is.
        done.name = done.name or "_OTHER"
        attributes = {"netstorage.operation.name": done.name, **_server(str(done.pool.endpoint))}
        if failure is not None:
            attributes["error.type"] = failure
            span.set_status(trace.StatusCode.ERROR)
        self.durations.record(seconds, attributes)
        for counter, number, more in (
            (self.round_trips, done.round_trips, {}),
            (self.reconnects, done.reconnects, {}),
            (self.io, done.sent, {"netstorage.io.direction": "sent"}),
            (self.io, done.received, {"netstorage.io.direction": "received"}),
        ):
            if number:
                counter.add(number, {**attributes, **more})
        if span.is_recording():
            span.update_name(f"netstorage {done.name}")
            span.set_attributes(attributes)
            span.set_attributes(
                {
                    "netstorage.bytes_sent": done.sent,
                    "netstorage.bytes_received": done.received,
                    "netstorage.round_trips": done.round_trips,
                    "netstorage.wait_time": done.waited,
                    "netstorage.reconnects": done.reconnects,
                }
            )


def _of_pools(number: str, state: str | None = None) -> metrics.CallbackT:
    """Return what reads a number of each pool."""

    def observe(_: metrics.CallbackOptions) -> Iterator[metrics.Observation]:
        for pool in all_pools():
            numbers = {"max_size": pool.limits.max_size, **asdict(pool.stats())}
            attributes = _of_pool(pool) | ({f"{POOL}.state": state} if state else {})
            yield metrics.Observation(numbers[number], attributes)

    return observe


_opentelemetry: _OpenTelemetry | None = None
if INSTALLED:
    # One that is too old for us does no harm to who has it for other reasons.
    with suppress(TypeError):
        _opentelemetry = _OpenTelemetry(
            trace.get_tracer("netstorage", __version__),
            metrics.get_meter("netstorage", __version__),
        )
