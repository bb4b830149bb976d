"""One SFTP session for many threads: whose turn it is to read, and what one's trouble costs others.

The servers are `tests.servers.scripted.Scripted`: real SSH, and SFTP as each test tells it.
"""

from __future__ import annotations

import io
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.files.base import ContentFile

from netstorage.exceptions import ConnectionLost, ProtocolError
from netstorage.session import SMALL
from netstorage.sftp import frames as w
from netstorage.sftp.session import SFTPSession
from tests.contract.helpers import private_storage
from tests.servers import fresh_location
from tests.servers.scripted import Flights, Held, frame, hang_up, on, silent

THREADS = SFTPSession.concurrency
SHORT = 0.3


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2 * THREADS) as executor:
        yield executor


def one_session(server: Any, **options: Any) -> Any:
    """A storage with one open session."""
    storage = server.storage(pool={"max_size": 1}, **options)
    storage.exists("warm")
    return storage


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


@pytest.mark.parametrize("turn", [None, list.reverse], ids=["in-order", "backwards"])
def test_everybodys_requests_are_in_flight_at_once(scripted, threads, turn):
    server = scripted()
    storage = one_session(server, timeout=5)
    server.put("there")
    server.script = flights = Flights(THREADS, turn=turn)
    names = [("there", "not")[number % 2] for number in range(THREADS)]
    assert list(threads.map(storage.exists, names)) == [name == "there" for name in names]
    assert flights.flights == [["LSTAT"] * THREADS]
    assert storage.pool.stats().connects == 1


def test_no_more_than_the_stated_number_share(scripted, threads):
    server = scripted()
    storage = one_session(server, timeout=5)
    server.script = held = Held("LSTAT")
    asked = [threads.submit(storage.exists, "a") for _ in range(THREADS + 1)]
    until(lambda: held.count == THREADS and storage.pool.stats().waiting == 1)
    held.release(server)
    assert [each.result(10) for each in asked] == [False] * (THREADS + 1)


def test_every_verb_of_every_thread_means_its_own_file(any_sftp, threads):
    """On each server, with one session: what one thread saves, reads and deletes is its own."""
    storage = private_storage(any_sftp, location=fresh_location(any_sftp), pool={"max_size": 1})

    def work(number: int) -> list[bytes]:
        content = b"%d " % number * 1000 * (number + 1)
        seen = []
        for turn in range(3):
            name = storage.save(f"deep/{number % 4}/{turn}-{number}", ContentFile(content))
            assert storage.size(name) == len(content)
            with storage.open(name) as file:
                seen.append(file.read())
            assert name.rpartition("/")[2] in storage.listdir(f"deep/{number % 4}")[1]
            storage.delete(name)
            assert not storage.exists(name)
        return seen

    done = list(threads.map(work, range(THREADS)))
    assert done == [[b"%d " % n * 1000 * (n + 1)] * 3 for n in range(THREADS)]
    assert storage.pool.stats().connects == 1
    assert storage.pool.stats().idle == 1


@pytest.mark.parametrize(("size", "sessions"), [(SMALL, 1), (SMALL + 1, 2)])
def test_a_long_transfer_shares_with_nobody(scripted, threads, size, sessions):
    """What is small goes by, on another session."""
    server = scripted()
    storage = server.storage(timeout=5)
    storage.exists("warm")
    server.script = held = Held("OPEN")
    long = threads.submit(storage.save, "long", ContentFile(bytes(size)))
    until(lambda: held.count == 1)
    assert storage.exists("other") is False
    assert storage.pool.stats().size == sessions
    held.release(server)
    assert long.result(10) == "long"


def test_a_lost_session_is_replaced_for_everybody(scripted, threads):
    server = scripted()
    storage = one_session(server, timeout=5)
    started = threading.Barrier(THREADS)
    server.script = on("LSTAT", hang_up, nth=THREADS // 2)

    def ask(number: int) -> bool:
        started.wait()
        return bool(storage.exists(str(number)))

    assert list(threads.map(ask, range(THREADS))) == [False] * THREADS
    assert storage.pool.stats().connects == 2


def test_silence_ends_for_everybody_by_the_deadline(scripted, threads):
    server = scripted()
    storage = one_session(server, timeout=SHORT)
    server.script = on("LSTAT", silent, each=True)
    asked = [threads.submit(storage.exists, str(number)) for number in range(THREADS)]
    errors = [each.exception(10) for each in asked]
    assert {type(error) for error in errors} == {TimeoutError}
    assert {error.filename for error in errors} == {str(number) for number in range(THREADS)}
    server.script = None
    assert storage.exists("a") is False


def test_a_slow_frame_is_no_silence_for_those_who_wait_beside_it(scripted, threads):
    """It takes longer than the deadline; each of its packets does not."""

    def drip(peer: Any, request: Any) -> bytes | None:
        later = peer.server.loop.loop.call_later
        answer = peer.honest(request) if request.name in {"READ", "LSTAT"} else b""
        if request.name == "READ":
            step = len(answer) // 5 + 1
            for number in range(5):
                later(0.3 * number, peer.send, answer[number * step :][:step])
        elif request.name == "LSTAT":
            later(1.4, peer.send, answer)
        else:
            return None
        return b""

    server = scripted()
    storage = one_session(server, timeout=1)
    server.put("f", b"f" * 200_000)
    server.script = drip

    def read() -> bytes:
        with storage.open("f") as file:
            return file.read()

    reading = threads.submit(read)
    until(lambda: "READ" in server.asked())
    looking = threads.submit(storage.exists, "f")
    assert reading.result(10) == b"f" * 200_000
    assert looking.result(10) is True
    assert storage.pool.stats().connects == 1


def test_a_request_that_is_passed_over_does_not_wait_for_ever(scripted, threads):
    """The server answers others all the time, so the line is never silent."""
    server = scripted()
    storage = one_session(server, timeout=SHORT)
    server.script = on("LSTAT", silent)
    forgotten = threads.submit(storage.exists, "forgotten")
    until(lambda: "LSTAT" in server.asked()[1:])
    others = 0
    while not forgotten.done():
        try:
            storage.size("other")
        except FileNotFoundError:
            others += 1
        except TimeoutError:  # one of them noticed, for both
            break
    with pytest.raises(TimeoutError, match="did not go on"):
        forgotten.result(10)
    assert others > 10


def test_one_borrowers_full_disk_is_no_trouble_for_another(scripted, threads):
    """Whoever reads for all hands the data on; what the owner makes of it is the owner's."""
    server = scripted()
    storage = one_session(server, timeout=5)
    server.put("a", b"a" * 1000)
    server.put("b", b"b" * 1000)
    server.script = Flights(2, 4, turn=list.reverse)
    got: list[bytes] = []

    def full(offset: int, piece: memoryview) -> None:
        raise OSError("no room here")

    def keep(offset: int, piece: memoryview) -> None:
        got.append(bytes(piece))

    def read(name: str, sink: Any) -> None:
        with storage.pool.connection() as session:
            session.read(name, 0, None, sink)

    unlucky, lucky = threads.submit(read, "a", full), threads.submit(read, "b", keep)
    with pytest.raises(OSError, match="no room here"):
        unlucky.result(10)
    lucky.result(10)
    assert b"".join(got) == b"b" * 1000
    assert storage.pool.stats().connects == 1


class TestInterrupts:
    """Ctrl-C in the main thread, while another thread uses the same session."""

    def interrupt_when(self, condition: Callable[[], object]) -> threading.Thread:
        def interrupt() -> None:
            until(condition)
            time.sleep(0.05)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        return thread

    def test_who_waits_may_go(self, scripted, threads):
        server = scripted()
        storage = one_session(server, timeout=5)
        server.script = held = Held("LSTAT")
        other = threads.submit(storage.exists, "other")
        until(lambda: held.count == 1)
        clock = self.interrupt_when(lambda: held.count == 2)
        with pytest.raises(KeyboardInterrupt):
            storage.exists("mine")
        clock.join()
        held.release(server)
        assert other.result(10) is False
        until(lambda: storage.pool.stats().in_use == 0)
        assert storage.exists("mine") is False

    def test_who_reads_for_all_may_go(self, scripted, threads):
        server = scripted()
        storage = one_session(server, timeout=5)
        server.script = held = Held("LSTAT")
        others: list[Any] = []

        def joined() -> bool:
            if not others and held.count == 1:
                others.append(threads.submit(storage.exists, "other"))
            return held.count == 2

        clock = self.interrupt_when(joined)
        with pytest.raises(KeyboardInterrupt):
            storage.exists("mine")
        clock.join()
        held.release(server)
        # Nobody knows where in the stream the reading ended, so the session is replaced.
        assert others[0].result(10) is False
        assert storage.pool.stats().connects == 2


def test_content_that_cannot_be_read_is_no_trouble_for_another(scripted, threads):
    """What was begun is ended in order, so the session serves on."""
    server = scripted()
    storage = one_session(server, timeout=5)
    server.script = held = Held("LSTAT")
    other = threads.submit(storage.exists, "other")
    until(lambda: held.count == 1)

    class Broken(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk is gone"), storage.pool.connection() as session:
        session.write("new", Broken(b"content"), 7, None, None)
    assert "CLOSE" in server.asked()
    held.release(server)
    assert other.result(10) is False
    assert storage.pool.stats().connects == 1


@pytest.mark.parametrize("number", [0, 1000], ids=["bad-body", "bad-number"])
def test_another_borrowers_bad_answer_does_not_unpublish(scripted, threads, number):
    """The rename was done, but its answer was lost with the wire: the storage looks."""
    server = scripted()
    storage = one_session(server, timeout=5)
    server.script = held = Held("RENAME")
    saving = threads.submit(storage.save, "new", ContentFile(b"content"))
    until(lambda: held.count == 1)
    server.script = on("STAT", lambda peer, asked: frame(w.ATTRS, asked.id + number, b""))
    with pytest.raises((ProtocolError, FileNotFoundError)):
        storage.size("other")
    assert saving.result(10) == "new"
    assert server.files == {b"new": b"content"}


def test_late_data_goes_nowhere(scripted, threads):
    """Whoever gave up has begun anew, perhaps, and with the same spool."""
    server = scripted()
    storage = one_session(server, timeout=5)
    server.put("f", b"content")
    got: list[bytes] = []
    server.script = held = Held("READ")
    with storage.pool.connection() as session:
        wire = session._wire

        class GiveUp(BaseException):
            pass

        def give_up(request: int) -> int:
            raise GiveUp

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(wire, "data", give_up)
            with pytest.raises(GiveUp):
                session.read("f", 0, 7, lambda _, piece: got.append(bytes(piece)))
        until(lambda: held.count == 1)
        held.release(server)
        # Its answer comes before this one.
        assert session.stat("f").size == 7
    assert got == []


@pytest.mark.parametrize("step", ["receive", "send"])
def test_an_interrupt_between_two_steps_ends_the_stream(scripted, monkeypatch, step):
    """Nobody knows then where in a frame it stands; who shares it must not go on from there."""
    server = scripted()
    storage = one_session(server, timeout=5)
    with pytest.raises(KeyboardInterrupt), storage.pool.connection() as session:
        done = getattr(session._wire.stream, step)

        def interrupted(*args: Any) -> Any:
            done(*args)
            raise KeyboardInterrupt

        monkeypatch.setattr(session._wire.stream, step, interrupted)
        session.stat("f")
    with pytest.raises(ConnectionLost, match="interrupted"):
        session._wire.stream.require_usable()


def test_nobody_waits_for_ever_for_a_reader_that_is_gone(scripted):
    """An interrupt may hit even there where the reading is handed on."""
    server = scripted()
    storage = one_session(server, timeout=SHORT)
    with pytest.raises(TimeoutError, match="did not go on"), storage.pool.connection() as session:
        session._wire._reader = 0
        session.stat("f")


def test_a_broken_wire_says_so_to_who_comes_later(scripted):
    server = scripted()
    storage = one_session(server, timeout=5)
    with pytest.raises(ConnectionLost), storage.pool.connection() as session:
        server.script = on("LSTAT", hang_up)
        with pytest.raises(ConnectionLost):
            session.stat("a", follow=False)
        session.stat("b", follow=False)
