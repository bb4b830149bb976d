"""SFTP on the wire: requests in flight, every answer examined, and servers that misbehave.

The servers are `tests.servers.scripted.Scripted`: real SSH, and SFTP as each test tells it.
"""

from __future__ import annotations

import errno
import io
import itertools
import random
import shutil
import stat
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.management import call_command
from django.test import override_settings

from netstorage import SFTPStorage
from netstorage.exceptions import ConnectError, ConnectionLost, FileChanged, ProtocolError
from netstorage.session import ENTRY, SMALL
from netstorage.sftp import frames as w
from netstorage.sftp import transfer
from netstorage.sftp.session import RENAME_TRIES
from netstorage.sftp.stream import CHANNEL_WINDOW, Pipe
from netstorage.storage import UPLOADS_TRIED, NetworkStorage
from tests.contract.helpers import Stream
from tests.servers.scripted import (
    LIMITS,
    NAMES,
    OPENSSH,
    Flights,
    Loop,
    Peer,
    Proxy,
    Request,
    Scripted,
    attributes,
    data,
    frame,
    hang_up,
    names,
    on,
    silent,
    status,
    string,
    version,
)
from tests.servers.sshd import Sshd

SHORT = 0.3
"""Seconds of silence for servers that are silent for good."""
KIB = 2**10
TEN_KIB = ContentFile(bytes(10 * 1024))
WITHOUT_LIMITS = {name: v for name, v in OPENSSH.items() if not name.startswith(b"limits")}
SMALL_PIECES = (LIMITS[0], 32 * KIB, 32 * KIB, 0)


def connects(storage: NetworkStorage) -> int:
    return storage.pool.stats().connects


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def read(storage: NetworkStorage, name: str) -> bytes:
    with storage.open(name) as file:
        return file.read()


def lengths(server: Scripted, name: str) -> list[int]:
    return [request.length for request in server.requests if request.name == name]


# --- how much a request holds -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extensions", "limits", "expected"),
    [
        pytest.param(OPENSSH, LIMITS, (255 * KIB, 255 * KIB), id="OpenSSH"),
        pytest.param(OPENSSH, (2**20, 2**20, 2**20, 0), (255 * KIB, 255 * KIB), id="more"),
        pytest.param(OPENSSH, (2**64 - 1,) * 4, (255 * KIB, 255 * KIB), id="absurdly-much"),
        pytest.param(OPENSSH, (LIMITS[0], 65536, 40000, 0), (65536, 40000), id="less"),
        pytest.param(OPENSSH, (34000, 2**20, 2**20, 0), (32976, 32976), id="short-packets"),
        pytest.param(OPENSSH, (0, 0, 0, 0), (32 * KIB, 32 * KIB), id="zeros"),
        pytest.param(OPENSSH, (LIMITS[0], 0, 0, 0), (32 * KIB, 32 * KIB), id="no-lengths"),
        pytest.param(OPENSSH, (1, 2**20, 2**20, 0), (32 * KIB, 32 * KIB), id="absurdly-short"),
        pytest.param(WITHOUT_LIMITS, LIMITS, (32 * KIB, 32 * KIB), id="not-offered"),
        pytest.param({}, LIMITS, (32 * KIB, 32 * KIB), id="no-extensions"),
    ],
)
def test_requests_are_as_long_as_the_server_allows(scripted, extensions, limits, expected):
    server = scripted(extensions=extensions, limits=limits)
    storage = server.storage()
    whole = content(600_000)
    storage.save("f", ContentFile(whole))
    assert bytes(server.files[b"f"]) == whole
    assert read(storage, "f") == whole
    assert max(lengths(server, "READ")) == expected[0]
    assert max(lengths(server, "WRITE")) == expected[1]
    # Nothing is sent twice, and nothing in smaller pieces than need be.
    assert len(lengths(server, "WRITE")) == -(-len(whole) // expected[1])
    assert sum(lengths(server, "WRITE")) == len(whole)


def test_limits_of_one_byte_work(scripted):
    server = scripted(limits=(LIMITS[0], 1, 1, 1))
    storage = server.storage()
    storage.save("f", ContentFile(b"0123456789" * 20))
    assert read(storage, "f") == b"0123456789" * 20
    assert set(lengths(server, "WRITE")) == {1}


def test_refused_limits_are_no_limits(scripted):
    server = scripted(on("limits", w.FAILURE))
    storage = server.storage()
    server.put("f", content(100_000))
    assert read(storage, "f") == content(100_000)
    assert max(lengths(server, "READ")) == 32 * KIB


# --- how much is in flight ----------------------------------------------------------------------


class Lazy:
    """Answers a kind of request only when ``wanted`` of it wait, and in a random order."""

    def __init__(self, name: str, wanted: int, total: int) -> None:
        self._name, self._wanted, self._total = name, wanted, total
        self._held: list[Request] = []
        self._seen = 0
        self._random = random.Random(7)

    def __call__(self, peer: Peer, request: Request) -> bytes | None:
        if request.name != self._name:
            return None
        self._seen += 1
        self._held.append(request)
        if len(self._held) < self._wanted and self._seen < self._total:
            return b""
        held, self._held = self._held, []
        self._random.shuffle(held)
        return b"".join(map(peer.honest, held))


@pytest.mark.parametrize(
    ("limits", "wanted", "size"),
    [
        pytest.param(LIMITS, 16, 40 * 255 * KIB, id="long"),
        pytest.param(SMALL_PIECES, 64, 150 * 32 * KIB, id="short"),
    ],
)
def test_many_requests_are_in_flight_and_answers_come_in_any_order(scripted, limits, wanted, size):
    """The server answers only once all that may be in flight is: fewer would wait for ever."""
    server = scripted(limits=limits)
    storage = server.storage()
    whole = content(size)
    total = size // limits[1]

    server.script = Lazy("WRITE", wanted, total)
    storage.save("f", ContentFile(whole))
    assert bytes(server.files[b"f"]) == whole

    received = bytearray(size)

    def sink(offset: int, piece: memoryview) -> None:
        received[offset : offset + len(piece)] = piece

    # The first READ travels with the FSTAT that tells how much there is.
    server.script = Lazy("READ", wanted, total)
    with storage.pool.connection() as session:
        session.read("f", 0, size, sink)
    assert bytes(received) == whole
    assert connects(storage) == 1


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        pytest.param(LIMITS, 16, id="long"),
        pytest.param(SMALL_PIECES, 64, id="short"),
        pytest.param((LIMITS[0], 1, 1, 0), 64, id="tiny"),
    ],
)
@pytest.mark.parametrize("name", ["READ", "WRITE"])
def test_no_more_is_in_flight_than_the_bound(scripted, limits, most, name):
    """A server that never answers sees everything that a client sends without waiting."""
    server = scripted(on(name, silent, each=True), limits=limits)
    storage = server.storage(timeout=SHORT * 3)
    size = min(limits[1] * 100, 2**23)
    server.put("f", content(size))
    with pytest.raises(TimeoutError), storage.pool.connection() as session:
        if name == "READ":
            session.read("f", 0, size, lambda *_: None)
        else:
            session.write("g", io.BytesIO(content(size)), size, None, None)
    assert server.ended.acquire(timeout=10)
    assert len(lengths(server, name)) == most
    assert sum(lengths(server, name)) <= transfer.FIRST_WINDOW


class TestWindow:
    """A line's round trip takes 50 ms here."""

    @pytest.fixture
    def clock(self, monkeypatch):
        clock = SimpleNamespace(now=100.0)
        monkeypatch.setattr(transfer, "time", SimpleNamespace(monotonic=lambda: clock.now))
        return clock

    def answered(self, clock: Any, length: int, *seconds: float) -> int:
        """How many requests may be in flight after windows that took so long to be answered."""
        window = transfer.Window(length)
        clock.now += 0.05
        window.answered(0)

        def room() -> int:
            return next(n for n in range(100_000) if not window.has_room(n))

        for each in seconds:
            clock.now += each
            for _ in range(room()):
                window.answered(length)
        return room()

    def test_grows_while_a_window_takes_little_more_than_a_round_trip(self, clock):
        assert self.answered(clock, 255 * KIB) == 16
        assert self.answered(clock, 255 * KIB, 0.06) == 32
        assert self.answered(clock, 32 * KIB) == 64
        assert self.answered(clock, 32 * KIB, 0.06) == 128

    def test_does_not_grow_where_the_line_is_full(self, clock):
        assert self.answered(clock, 255 * KIB, 0.08, 0.2, 5) == 16
        assert self.answered(clock, 32 * KIB, 0.06, 0.09) == 128

    def test_begins_with_what_the_last_one_found(self, clock):
        assert transfer.Window(255 * KIB, 32 * 255 * KIB).has_room(31)
        assert not transfer.Window(255 * KIB, 32 * 255 * KIB).has_room(32)
        assert transfer.Window(255 * KIB, 1).has_room(15)

    def test_is_bounded(self, clock):
        assert self.answered(clock, 255 * KIB, *[0.05] * 9) == 32
        assert self.answered(clock, 32 * KIB, *[0.05] * 9) == 255
        assert self.answered(clock, 1, *[0.05] * 9) == 256


def test_short_answers_are_completed(scripted):
    asked = random.Random(3)

    def short(peer: Peer, request: Request) -> bytes:
        offset, length = struct.unpack(">QI", request.body[-12:])
        some = asked.randint(1, length)
        head = request.body[: -len(request.body[-12:])]
        return peer.honest(Request(w.READ, request.id, head + struct.pack(">QI", offset, some)))

    server = scripted(on("READ", short, each=True))
    server.put("f", content(3_000_000))
    storage = server.storage()
    assert read(storage, "f") == content(3_000_000)
    with storage.open("f") as file:
        file.seek(2_000_000)
        assert file.read(500_000) == content(3_000_000)[2_000_000:2_500_000]


def test_a_server_that_gives_one_byte_at_a_time(scripted):
    def one(peer: Peer, request: Request) -> bytes:
        (offset,) = struct.unpack(">Q", request.body[-12:-4])
        whole = peer.server.files[b"f"]
        return data(request.id, bytes(whole[offset : offset + 1])) or status(request.id, w.EOF)

    server = scripted(on("READ", one, each=True))
    server.put("f", b"slowly but surely")
    assert read(server.storage(), "f") == b"slowly but surely"


def test_nothing_is_asked_for_behind_the_end(scripted):
    """Two flights for a small file: OPEN, then FSTAT and READ; a CLOSE that nobody waits for."""
    flights = Flights(1, 2)
    server = scripted(flights)
    server.put("f", content(10 * KIB))
    storage = server.storage(timeout=2)
    assert read(storage, "f") == content(10 * KIB)
    assert flights.flights == [["OPEN"], ["FSTAT", "READ"]]
    assert storage.exists("f")
    assert flights.extra == ["CLOSE", "LSTAT"]


def test_a_file_that_ends_before_its_size_fails(scripted):
    """Bytes that the server promised and has not are missing loudly."""

    def shorter(peer: Peer, request: Request) -> bytes:
        return frame(w.ATTRS, request.id, attributes(200_000, stat.S_IFREG | 0o644, (1, 2)))

    server = scripted(on("FSTAT", shorter, each=True))
    server.put("f", content(100_000))
    storage = server.storage()
    with pytest.raises(FileChanged, match="200000 bytes"), storage.open("f") as file:
        file.read()
    assert connects(storage) == 1


def test_a_server_that_tells_no_size(scripted):
    """Reading goes on to the end of the file, saving goes without the comparison."""

    def unsized(peer: Peer, request: Request) -> bytes:
        return frame(w.ATTRS, request.id, attributes(None, stat.S_IFREG | 0o644))

    server = scripted(on("FSTAT", unsized, each=True))
    storage = server.storage()
    storage.save("f", ContentFile(content(1_000_000)))
    assert read(storage, "f") == content(1_000_000)
    assert connects(storage) == 1


def test_a_server_that_tells_nothing(scripted):
    def nothing(peer: Peer, request: Request) -> bytes:
        return frame(w.ATTRS, request.id, attributes())

    server = scripted(on("FSTAT", nothing, each=True))
    storage = server.storage(file_permissions_mode=0o600)
    storage.save("f", ContentFile(b"content"))
    assert read(storage, "f") == b"content"
    server.script = on("STAT", nothing, each=True)
    with pytest.raises(OSError, match="does not tell the file's size") as caught:
        storage.size("f")
    assert caught.value.errno == errno.ENOTSUP
    with pytest.raises(NotImplementedError, match="time of modification"):
        storage.get_modified_time("f")


# --- round trips --------------------------------------------------------------------------------


def test_exists_is_one_round_trip(scripted):
    server = scripted()
    storage = server.storage()
    assert not storage.exists("f")
    assert server.asked() == ["LSTAT"]


def test_a_small_save_is_four_round_trips(scripted):
    """Django's probe; OPEN; the data and everything up to CLOSE; the RENAME alone."""
    flights = Flights(1, 1, 5, 1)
    server = scripted(flights)
    storage = server.storage(timeout=2)
    assert storage.save("f", ContentFile(b"small")) == "f"
    assert flights.flights == [
        ["LSTAT"],
        ["OPEN"],
        ["WRITE", "FSETSTAT", "fsync", "FSTAT", "CLOSE"],
        ["RENAME"],
    ]
    assert flights.extra == []


def test_an_overwriting_save_is_three_round_trips(scripted):
    flights = Flights(1, 5, 1)
    server = scripted(flights)
    server.put("f", b"old")
    storage = server.storage(timeout=2, allow_overwrite=True)
    storage.save("f", ContentFile(b"new"))
    assert flights.flights[-1] == ["posix-rename"]
    assert flights.extra == []
    assert server.files == {b"f": b"new"}


@pytest.mark.parametrize("last", ["WRITE", "FSETSTAT", "fsync", "CLOSE"])
def test_the_rename_waits_for_every_answer(scripted, last):
    """Whichever answer comes last and is bad: the RENAME was not sent before it."""
    later: list[bytes] = []

    def script(peer: Peer, request: Request) -> bytes | None:
        if request.name == last:
            later.append(status(request.id, w.FAILURE))
            if last == "CLOSE":
                return later.pop()
            return b""
        if request.name == "CLOSE":
            return peer.honest(request) + b"".join(later)
        # A mode that could not be set matters only where it is not what was wanted.
        if request.name == "FSTAT":
            return frame(w.ATTRS, request.id, attributes(5, stat.S_IFREG | 0o600))
        return None

    server = scripted(script)
    storage = server.storage()
    with pytest.raises(OSError):
        storage.save("f", ContentFile(b"small"))
    assert "RENAME" not in server.asked()
    assert server.files == {}
    assert connects(storage) == 1


def test_missing_folders_are_made_in_one_flight(scripted):
    flights = Flights(1, 1, 3, 1, 5, 1)
    server = scripted(flights)
    storage = server.storage(timeout=2)
    storage.save("a/b/c/f", ContentFile(b"deep"))
    assert flights.flights[2] == ["MKDIR"] * 3
    assert flights.extra == []
    assert server.files == {b"a/b/c/f": b"deep"}


def test_modes_of_missing_folders_are_set_in_one_flight(scripted):
    flights = Flights(1, 1, 4, 8, 1)
    server = scripted(flights)
    storage = server.storage(timeout=2, directory_permissions_mode=0o750)
    storage.save("a/b/c/f", ContentFile(b"deep"))
    assert flights.flights[2] == ["MKDIR"] * 3 + ["OPEN"]
    assert flights.flights[3][:3] == ["SETSTAT"] * 3
    assert {server.modes[path] for path in (b"a", b"a/b", b"a/b/c")} == {0o750}


def test_links_in_a_listing_are_followed_in_one_flight(scripted):
    flights = Flights(1, 2, 40)
    server = scripted(flights)
    server.directories.add(b"target")
    for number in range(40):
        server.links[b"link%d" % number] = b"target"
    storage = server.storage(timeout=2)
    directories, files = storage.listdir("")
    assert len(directories) == 41
    assert files == []


def overwriting(storage: SFTPStorage) -> SFTPStorage:
    return SFTPStorage(**{**storage.options, "allow_overwrite": True})


class Observed:
    """A channel that counts how often its user turns from sending to waiting."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._sent = False
        self.flights = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def send(self, data: Any) -> int:
        self._sent = True
        return self._channel.send(data)

    def recv(self, size: int) -> bytes:
        self.flights += self._sent
        self._sent = False
        return self._channel.recv(size)


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    if reason := Sshd.unavailable():
        pytest.skip(f"sshd: {reason}")
    with Sshd() as server:
        yield server


@pytest.mark.parametrize(
    ("work", "flights", "confined"),
    [
        pytest.param(lambda storage: storage.exists("small"), 1, 2, id="exists"),
        pytest.param(lambda storage: storage.size("small"), 1, 2, id="size"),
        pytest.param(lambda storage: storage.get_modified_time("small"), 1, 2, id="mtime"),
        pytest.param(lambda storage: storage.get_accessed_time("small"), 1, 2, id="atime"),
        pytest.param(lambda storage: storage.save("new", TEN_KIB), 4, 7, id="save"),
        pytest.param(lambda storage: storage.save("a/b/c/new", TEN_KIB), 5, 8, id="save-3-missing"),
        pytest.param(lambda storage: overwriting(storage).save("f", TEN_KIB), 3, 5, id="overwrite"),
        pytest.param(lambda storage: read(storage, "small"), 2, 3, id="read"),
        pytest.param(lambda storage: storage.delete("small"), 1, 2, id="delete"),
        pytest.param(lambda storage: storage.listdir("many"), 4, 5, id="listdir-1000"),
    ],
)
@pytest.mark.parametrize("confine", [False, True])
def test_round_trips_on_openssh(sshd, work, flights, confined, confine):
    (sshd.root / "small").write_bytes(content(10 * KIB))
    (sshd.root / "many").mkdir(exist_ok=True)
    for number in range(1000):
        (sshd.root / "many" / f"{number:04}.txt").touch()
    shutil.rmtree(sshd.root / "a", ignore_errors=True)
    (sshd.root / "new").unlink(missing_ok=True)
    storage = SFTPStorage(**sshd.options, confine_links=confine)
    with storage.pool.connection() as session:
        stream = session._wire.stream
        observed = stream.channel = Observed(stream.channel)
    work(storage)
    assert observed.flights <= (confined if confine else flights)
    assert connects(storage) == 1
    storage.pool.close()


def test_round_trips_of_a_sync_on_openssh(sshd, tmp_path):
    """A new small file takes those of a save, less the look: the comparison has seen it is free."""
    asked = []
    for count in (1, 11):
        for number in range(count):
            path = tmp_path / str(count) / f"{number}.bin"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content(4 * KIB))
        with override_settings(STORAGES=sides(sshd, tmp_path / str(count))):
            pool = storages["nas"].pool
            with pool.connection() as session:
                stream = session._wire.stream
                observed = stream.channel = Observed(stream.channel)
            call_command("netstorage", "sync", "disk:", f"nas:sync-{count}", "--jobs=1")
            asked.append(observed.flights)
            pool.close()
        assert len([*(sshd.root / f"sync-{count}").iterdir()]) == count
    assert asked[1] - asked[0] == 10 * 3


def test_small_files_of_a_sync_share_sessions(sshd, tmp_path, monkeypatch):
    """Else no more would be under way than the pool has sessions."""
    run, alone = SFTPStorage._run, []

    def watched(storage, name, *arguments, exclusive=False, **options):
        alone.extend([name] * exclusive)
        return run(storage, name, *arguments, exclusive=exclusive, **options)

    monkeypatch.setattr(SFTPStorage, "_run", watched)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "small").write_bytes(content(SMALL))
    with override_settings(STORAGES=sides(sshd, tmp_path)):
        call_command("netstorage", "sync", "disk:files", "nas:shared")
        call_command("netstorage", "sync", "nas:shared", "disk:back")
        storages["nas"].pool.close()
    assert (tmp_path / "back" / "small").read_bytes() == content(SMALL)
    assert alone == []


def sides(sshd: Sshd, folder: Path) -> dict[str, Any]:
    """Both ends of a sync, as settings."""
    disk = "django.core.files.storage.FileSystemStorage"
    return {
        "nas": {"BACKEND": "netstorage.SFTPStorage", "OPTIONS": sshd.options},
        "disk": {"BACKEND": disk, "OPTIONS": {"location": folder}},
    }


# --- every answer is examined -------------------------------------------------------------------


@pytest.mark.parametrize("nth", [1, 7, 20])
@pytest.mark.parametrize("code", [w.FAILURE, w.PERMISSION_DENIED, 14, 99])
def test_a_write_that_fails(scripted, nth, code):
    """An error, nothing published, the handle closed, and the session is as good as before."""
    server = scripted(on("WRITE", code, nth=nth), limits=SMALL_PIECES)
    storage = server.storage()
    with pytest.raises(OSError) as caught:
        storage.save("f", ContentFile(content(20 * 32 * KIB)))
    expected = {w.FAILURE: errno.EDQUOT, w.PERMISSION_DENIED: errno.EACCES, 14: errno.ENOSPC}
    assert caught.value.errno == expected.get(code, errno.EIO)
    assert caught.value.filename == "f"
    assert server.files == {}
    assert "CLOSE" in server.asked()
    assert "RENAME" not in server.asked()
    # The same session serves on.
    server.script = None
    storage.save("f", ContentFile(b"second try"))
    assert read(storage, "f") == b"second try"
    assert connects(storage) == 1


def test_a_write_that_fails_with_answers_out_of_order(scripted):
    """All the answers are read, wherever the bad one comes."""

    def turn(answers: list[bytes]) -> None:
        if len(answers) < 24:
            return
        answers[5] = status(struct.unpack_from(">I", answers[5], 5)[0], w.FAILURE)
        answers.reverse()

    server = scripted(Flights(1, 1, 20 + 4, turn=turn), limits=SMALL_PIECES)
    storage = server.storage(timeout=2)
    with pytest.raises(OSError):
        storage.save("f", ContentFile(content(20 * 32 * KIB)))
    assert not storage.exists("f")
    with storage.pool.connection() as session:
        assert session._wire._answers == {}
        assert session._wire._waiting.keys() <= session._wire._ignored
    assert connects(storage) == 1


def test_a_full_disk(scripted):
    server = scripted(on("WRITE", w.FAILURE))
    server.free = 0
    with pytest.raises(OSError) as caught:
        server.storage().save("f", ContentFile(b"content"))
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("name", ["fsync", "CLOSE"])
def test_what_follows_the_data_may_fail(scripted, name):
    server = scripted(on(name, w.FAILURE))
    storage = server.storage()
    with pytest.raises(OSError) as caught:
        storage.save("f", ContentFile(b"content"))
    assert caught.value.filename == "f"
    assert server.files == {}
    assert "RENAME" not in server.asked()
    assert storage.save("f", ContentFile(b"content")) == "f"
    assert connects(storage) == 1


def test_a_mode_that_cannot_be_set_but_is_right_is_no_failure(scripted):
    server = scripted(on("FSETSTAT", w.OP_UNSUPPORTED))
    server.storage(file_permissions_mode=0o640).save("f", ContentFile(b"content"))
    assert server.files == {b"f": b"content"}


def test_a_mode_that_cannot_be_set_fails_and_says_what_to_do(scripted):
    def script(peer: Peer, request: Request) -> bytes | None:
        if request.name == "FSETSTAT":
            return status(request.id, w.PERMISSION_DENIED)
        if request.name == "FSTAT":
            return frame(w.ATTRS, request.id, attributes(7, stat.S_IFREG | 0o777))
        return None

    server = scripted(script)
    storage = server.storage(file_permissions_mode=0o640)
    with pytest.raises(PermissionError, match="file_permissions_mode"):
        storage.save("f", ContentFile(b"content"))
    assert server.files == {}
    assert connects(storage) == 1


@pytest.mark.parametrize("wrong", [0, 6, 8, 2**63 - 1])
def test_a_size_that_does_not_match(scripted, wrong):
    def lie(peer: Peer, request: Request) -> bytes:
        return frame(w.ATTRS, request.id, attributes(wrong, stat.S_IFREG | 0o644))

    server = scripted(lambda peer, asked: lie(peer, asked) if asked.name in looks else None)
    storage = server.storage()
    looks = {"FSTAT", "LSTAT"}
    with pytest.raises(OSError, match=f"holds {wrong} of 7 bytes") as caught:
        storage._store("f", io.BytesIO(b"content"), 7, overwrite=True, rename=False)
    looks = set()
    assert caught.value.errno == errno.EIO
    assert server.files == {}
    assert "RENAME" not in server.asked()
    assert storage.save("f", ContentFile(b"content")) == "f"
    assert connects(storage) == 1


@pytest.mark.parametrize(
    "early",
    [
        pytest.param(frame(w.ATTRS, 0, attributes(3, stat.S_IFREG | 0o644)), id="too-short"),
        pytest.param(status(0, w.NO_SUCH_FILE), id="not-there"),
    ],
)
def test_a_size_that_was_told_too_early(scripted, early):
    """Go's server works on several requests at a time: it is asked again when all is done."""

    def tell(peer: Peer, request: Request) -> bytes:
        return early[:5] + struct.pack(">I", request.id) + early[9:]

    server = scripted(on("FSTAT", tell))
    storage = server.storage()
    assert storage.save("f", ContentFile(b"content")) == "f"
    assert server.files == {b"f": b"content"}
    assert server.asked()[-3:] == ["CLOSE", "LSTAT", "RENAME"]


def test_a_read_that_fails_in_the_middle(scripted):
    server = scripted(on("READ", w.FAILURE, nth=5), limits=SMALL_PIECES)
    server.put("f", content(20 * 32 * KIB))
    storage = server.storage()
    with pytest.raises(OSError) as caught:
        read(storage, "f")
    assert caught.value.errno == errno.EIO
    assert caught.value.filename == "f"
    assert read(storage, "f") == content(20 * 32 * KIB)
    assert connects(storage) == 1


def test_content_that_ends_early(scripted):
    """The source holds less than was said: an error, and the session is kept."""
    server = scripted()
    storage = server.storage()
    with pytest.raises(OSError, match="ended at 4 of 10 bytes"), storage.pool.connection() as s:
        s.write("f", io.BytesIO(b"less"), 10, None, None)
    assert not storage.exists("g")
    assert connects(storage) == 1


def test_a_source_that_fails_leaves_no_session_behind(scripted):
    class Broken(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            if self.tell() > 100_000:
                raise OSError(errno.EIO, "the disk is gone")
            return super().readinto(buffer)

    server = scripted(limits=SMALL_PIECES)
    storage = server.storage()
    with pytest.raises(OSError, match="disk is gone"), storage.pool.connection() as session:
        session.write("f", Broken(content(300_000)), 300_000, None, None)
    assert storage.exists("f")
    assert read(storage, "f") != b""


def test_a_sink_that_raises_costs_nobody_the_session(scripted):
    """What is still under way is taken off the pipe, and the error comes when that is done."""
    server = scripted()
    server.put("f", content(5_000_000))
    storage = server.storage()

    def full(offset: int, piece: memoryview) -> None:
        raise OSError(errno.ENOSPC, "no room for it here")

    with pytest.raises(OSError, match="no room"), storage.pool.connection() as session:
        session.read("f", 0, None, full)
    assert session.is_alive()
    assert lengths(server, "READ") != []
    assert read(storage, "f") == content(5_000_000)
    assert connects(storage) == 1


# --- a file that gets its name after all --------------------------------------------------------

LIKE_RCLONE = {
    "server_version": "rclone/",
    "extensions": {b"posix-rename@openssh.com": b"1"},
}


def gone(peer: Peer, request: Request) -> bytes:
    """rclone moved it, and removed it for another's of that name."""
    source, target = request.strings[-2:]
    del peer.server.files[source]
    peer.server.files[target] = bytearray(b"another's")
    return status(request.id, w.FAILURE)


def without_directory(peer: Peer, request: Request) -> bytes:
    """Somebody removed the directory with all that was in it."""
    peer.server.files.clear()
    peer.server.directories.remove(b"dir")
    return peer.honest(request)


@pytest.mark.parametrize("code", [w.FAILURE, w.NO_SUCH_FILE])
@pytest.mark.parametrize("request_name", ["RENAME", "posix-rename"])
def test_a_rename_that_another_disturbed_is_tried_again(scripted, request_name, code):
    """rclone fails to remove what another removes at the same time; ours is still there."""
    server = scripted(on(request_name, code), **LIKE_RCLONE)
    storage = server.storage(allow_overwrite=request_name == "posix-rename")
    assert storage.save("f", ContentFile(b"ours")) == "f"
    assert server.files == {b"f": b"ours"}
    assert server.asked().count("WRITE") == 1


def test_a_name_that_was_taken_for_a_moment(scripted):
    """It was when the server refused, and is free again when we look: ours may have it."""
    server = scripted(on("RENAME", w.FAILURE))
    assert server.storage().save("f", ContentFile(b"ours")) == "f"
    assert server.files == {b"f": b"ours"}
    assert server.asked().count("WRITE") == 1


def test_a_disturbed_rename_does_not_overwrite(scripted):
    """The name was free before the first try, and is not before the second."""

    def too_late(peer: Peer, request: Request) -> bytes:
        if b"f" not in server.files:
            server.put("f", b"another's")
            return status(request.id, w.FAILURE)
        source, target = request.strings
        server.files[target] = server.files.pop(source)
        return status(request.id, w.OK)

    server = scripted(on("RENAME", too_late, each=True), **LIKE_RCLONE)
    storage = server.storage()
    name = storage.save("f", ContentFile(b"ours"))
    assert server.files.pop(b"f") == b"another's"
    assert server.files == {name.encode(): b"ours"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_is_gone_before_it_has_its_name_is_sent_again(scripted, overwrite):
    server = scripted(on("posix-rename" if overwrite else "RENAME", gone), **LIKE_RCLONE)
    storage = server.storage(allow_overwrite=overwrite)
    name = storage.save("f", ContentFile(b"ours"))
    if not overwrite:
        assert server.files.pop(b"f") == b"another's"
    assert server.files == {name.encode(): b"ours"}


def test_a_directory_that_goes_before_a_file_has_its_name_is_made_again(scripted):
    server = scripted(on("RENAME", without_directory))
    server.directories.add(b"dir")
    assert server.storage().save("dir/f", ContentFile(b"ours")) == "dir/f"
    assert server.files == {b"dir/f": b"ours"}


@pytest.mark.parametrize(
    ("disturbance", "renames", "error"),
    [(w.FAILURE, RENAME_TRIES, OSError), (gone, UPLOADS_TRIED, FileNotFoundError)],
)
def test_what_is_always_disturbed_is_an_error(scripted, disturbance, renames, error):
    server = scripted(on("posix-rename", disturbance, each=True), **LIKE_RCLONE)
    storage = server.storage(allow_overwrite=True)
    with pytest.raises(error):
        storage.save("f", ContentFile(b"ours"))
    assert server.asked().count("posix-rename") == renames
    assert b"ours" not in server.files.values()


# --- servers without extensions -----------------------------------------------------------------


def test_a_server_without_extensions(scripted):
    server = scripted(extensions={})
    storage = server.storage()
    assert storage.save("f", ContentFile(b"one")) == "f"
    assert storage.save("f", ContentFile(b"two")) != "f"
    assert server.asked().count("RENAME") == 2
    assert read(storage, "f") == b"one"
    assert set(server.asked()) <= {
        "LSTAT", "OPEN", "WRITE", "FSETSTAT", "FSTAT", "CLOSE", "RENAME", "READ"
    }  # fmt: skip


def test_a_server_without_posix_rename_refuses_to_replace(scripted):
    server = scripted(extensions={})
    server.put("f", b"old")
    storage = server.storage(allow_overwrite=True)
    with pytest.raises(OSError, match=r"lacks the extension posix-rename@openssh\.com") as caught:
        storage.save("f", ContentFile(b"new"))
    assert caught.value.errno == errno.ENOTSUP
    assert server.files == {b"f": b"old"}
    # Where nothing is to be replaced, it works.
    assert storage.save("g", ContentFile(b"new")) == "g"
    assert connects(storage) == 1


@pytest.mark.parametrize("lost", ["fsync@openssh.com", "statvfs@openssh.com"])
def test_extensions_are_not_used_unless_offered(scripted, lost):
    server = scripted(
        on("WRITE", w.FAILURE, nth=2),
        extensions={k: v for k, v in OPENSSH.items() if k.decode() != lost},
    )
    storage = server.storage()
    storage.save("f", ContentFile(b"content"))
    with pytest.raises(OSError):
        storage.save("g", ContentFile(b"content"))
    assert lost.partition("@")[0] not in server.asked()


# --- the start ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("greeting", "match"),
    [
        pytest.param(version(2), "does not speak SFTP version 3", id="lower"),
        pytest.param(version(6), "does not speak SFTP version 3", id="higher"),
        pytest.param(b"Welcome to ACME!\r\n", "start-up file of the login's shell", id="text"),
        pytest.param(b"\x1b[1mHello\x1b[0m\n", "start-up file of the login's shell", id="colours"),
        pytest.param("Grüß Gott\n".encode(), "start-up file of the login's shell", id="umlauts"),
        pytest.param(b"\xff" * 40, "announced a packet of 4294967295 bytes", id="noise"),
        pytest.param(b"\0\0\0\0" + version(), "announced a packet of 0 bytes", id="empty"),
        pytest.param(b"\0\0\0\1\2", "ends too early", id="no-number"),
        pytest.param(
            version()[:3] + b"\x08" + version()[4:] + b"\0\0\0", "ends too early", id="cut"
        ),
        pytest.param(status(1, w.FAILURE), "does not speak SFTP version 3", id="status"),
        pytest.param(b"hi\n", r"did not start SFTP within 0\.8 s \(connect_timeout\)", id="short"),
        pytest.param(b"", r"did not start SFTP within 0\.8 s \(connect_timeout\)", id="nothing"),
    ],
)
def test_a_start_that_is_none(scripted, greeting, match):
    server = scripted(greeting=greeting)
    storage = server.storage(connect_timeout=0.8)
    with pytest.raises(ConnectError, match=match) as caught:
        storage.exists("f")
    assert f"sftp://127.0.0.1:{server.port}" in str(caught.value)
    assert caught.value.filename == "f"


def test_extensions_with_odd_names_are_carried(scripted):
    odd = {b"\xff\xfe": b"\x80", b"": b"", b"vendor-id": b"\0\0\0\4ACME" * 3}
    storage = scripted(extensions=odd).storage()
    assert not storage.exists("f")


def test_limits_that_end_too_early(scripted):
    server = scripted(limits=(1,))
    server.put("f", b"content")
    storage = server.storage()
    assert storage.exists("f")
    with pytest.raises(ProtocolError, match="ends too early"):
        read(storage, "f")


# --- lies ---------------------------------------------------------------------------------------

Answer = Callable[[Request], bytes]


def with_id(kind: int, body: bytes) -> Answer:
    return lambda request: frame(kind, request.id, body)


TWO = struct.pack(">I", 2)
LIES: dict[str, tuple[str, str, Answer]] = {
    "huge": ("LSTAT", "announced a packet of 4294967295", lambda r: b"\xff" * 64),
    "too-long": ("LSTAT", "announced a packet", lambda r: struct.pack(">IBI", 2**21, 105, r.id)),
    "zero-length": ("LSTAT", "packet of 0 bytes", lambda r: bytes(9)),
    "too-short": ("LSTAT", "packet of 4 bytes", lambda r: struct.pack(">IB", 4, 105) + b"abc"),
    "nobodys-answer": ("LSTAT", "not made", lambda r: status(r.id + 1, w.FAILURE)),
    "old-answer": ("LSTAT", "not made", lambda r: status(0, w.FAILURE)),
    "text": ("LSTAT", "announced a packet", lambda r: b"Connection closed by server.\r\n"),
    "unknown-type": ("LSTAT", "packet of type 177", with_id(177, b"")),
    "version-again": ("LSTAT", "not made", lambda r: version()),
    "handle-for-attrs": ("LSTAT", "packet of type 102", with_id(w.HANDLE, string(b"h"))),
    "data-for-attrs": ("LSTAT", "packet of type 103", with_id(w.DATA, string(b"h"))),
    "name-for-handle": ("OPEN", "packet of type 104", lambda r: names(r.id, [])),
    "data-for-handle": ("OPENDIR", "packet of type 103", with_id(w.DATA, string(b"h"))),
    "attrs-for-status": ("REMOVE", "packet of type 105", with_id(w.ATTRS, attributes())),
    "attrs-for-data": ("READ", "packet of type 105", with_id(w.ATTRS, attributes())),
    "handle-for-names": ("READDIR", "packet of type 102", with_id(w.HANDLE, string(b"h"))),
    "ok-for-attrs": ("LSTAT", "answered with status 0", lambda r: status(r.id, w.OK)),
    "ok-for-handle": ("OPEN", "answered with status 0", lambda r: status(r.id, w.OK)),
    "ok-for-data": ("READ", "answered with status 0", lambda r: status(r.id, w.OK)),
    "ok-for-names": ("READDIR", "answered with status 0", lambda r: status(r.id, w.OK)),
    "attrs-cut": ("LSTAT", "ends too early", with_id(w.ATTRS, attributes(7, 0o644)[:-1])),
    "attrs-empty": ("LSTAT", "ends too early", with_id(w.ATTRS, b"")),
    "attrs-more-than-is": ("LSTAT", "ends too early", with_id(w.ATTRS, b"\xff" * 4)),
    "attrs-extended": (
        "LSTAT",
        "ends too early",
        with_id(w.ATTRS, struct.pack(">II", 0x80000000, 2**32 - 1)),
    ),
    "status-empty": ("REMOVE", "ends too early", with_id(w.STATUS, b"")),
    "status-cut": ("REMOVE", "ends too early", with_id(w.STATUS, struct.pack(">III", 4, 99, 0))),
    "handle-cut": ("OPEN", "ends too early", with_id(w.HANDLE, struct.pack(">I", 99) + b"h")),
    "handle-empty": ("OPEN", "ends too early", with_id(w.HANDLE, b"")),
    "names-missing": ("READDIR", "ends too early", with_id(w.NAME, struct.pack(">I", 2**32 - 1))),
    "names-one-short": (
        "READDIR",
        "ends too early",
        lambda r: frame(w.NAME, r.id, TWO + names(r.id, [(b"a", attributes())])[13:]),
    ),
    "data-longer-than-asked": ("READ", "READ of", lambda r: data(r.id, bytes(r.length + 1))),
    "data-longer-than-frame": ("READ", "READ of", with_id(w.DATA, struct.pack(">I", 99) + b"few")),
    "data-shorter-than-frame": ("READ", "READ of", with_id(w.DATA, struct.pack(">I", 1) + b"few")),
    "attrs-impossible-size": (
        "LSTAT",
        f"told of a file of {2**63} bytes",
        with_id(w.ATTRS, attributes(2**63, stat.S_IFREG, (1, 2))),
    ),
    "attrs-all-impossible": (
        "STAT",
        f"told of a file of {2**64 - 1} bytes",
        with_id(w.ATTRS, struct.pack(">I", 0xF) + b"\xff" * 28),
    ),
    "handle-long": ("OPEN", "a handle of 257 bytes", with_id(w.HANDLE, string(b"h" * 257))),
    "handle-endless": (
        "OPENDIR",
        "a handle of 1000000 bytes",
        with_id(w.HANDLE, string(bytes(10**6))),
    ),
    "data-empty": ("READ", "with 0", lambda r: data(r.id, b"")),
}  # fmt: skip


def work_on_everything(storage: NetworkStorage) -> None:
    """Sends every kind of request there is."""
    storage.exists("f")
    storage.size("f")
    storage.listdir("")
    read(storage, "f")
    storage.save("new/g", ContentFile(b"content"))
    storage.delete("new/g")
    storage.delete("new")


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_lies(scripted, lie):
    """An error that says what was wrong; the session is given up, another one does the work."""
    name, match, answer = LIES[lie]
    server = scripted(on(name, lambda peer, request: answer(request)))
    server.put("f", content(300_000))
    storage = server.storage(timeout=5)
    with pytest.raises(ProtocolError, match=match) as caught:
        work_on_everything(storage)
    assert caught.value.filename is not None
    assert storage.pool.stats().closed_broken == 1
    server.files = {b"f": bytearray(content(300_000))}
    server.directories = {b""}
    work_on_everything(storage)
    assert connects(storage) == 2


def test_an_answer_that_comes_twice(scripted):
    """The second one is nobody's; it does not become the answer of the next request."""
    server = scripted(on("LSTAT", lambda peer, request: peer.honest(request) * 2))
    server.put("f")
    storage = server.storage()
    assert storage.exists("f")
    with pytest.raises(ProtocolError, match="not made"):
        storage.exists("missing")
    assert not storage.exists("missing")
    assert connects(storage) == 2


def test_names_beyond_their_count_are_ignored(scripted):
    def lie(peer: Peer, request: Request) -> bytes:
        entries = [(b"a", attributes(1, 0o100644)), (b"b", attributes(1, 0o100644))]
        body = struct.pack(">I", 1) + names(request.id, entries)[13:]
        return frame(w.NAME, request.id, body)

    server = scripted(on("READDIR", lie))
    storage = server.storage()
    assert storage.listdir("") == ([], ["a"])
    assert connects(storage) == 1


@pytest.mark.parametrize(
    ("code", "number"),
    [
        (w.EOF, errno.EIO),
        (w.NO_SUCH_FILE, errno.ENOENT),
        (w.PERMISSION_DENIED, errno.EACCES),
        (w.FAILURE, errno.EIO),
        (w.BAD_MESSAGE, errno.EINVAL),
        (w.OP_UNSUPPORTED, errno.ENOTSUP),
        (9, errno.EIO),
        (10, errno.ENOENT),
        (11, errno.EEXIST),
        (12, errno.EROFS),
        (13, errno.EIO),
        (14, errno.ENOSPC),
        (15, errno.EDQUOT),
        (17, errno.EBUSY),
        (18, errno.ENOTEMPTY),
        (19, errno.ENOTDIR),
        (20, errno.EINVAL),
        (24, errno.EISDIR),
        (31, errno.EIO),
        (2**32 - 1, errno.EIO),
    ],
)
def test_status_codes_are_told_in_pythons_words(scripted, code, number):
    server = scripted(on("STAT", code, each=True))
    server.put("f")
    storage = server.storage()
    with pytest.raises(OSError) as caught:
        storage.size("f")
    assert caught.value.errno == number
    assert caught.value.filename == "f"
    assert isinstance(caught.value, type(OSError(number, "")))
    # A verdict keeps the session.
    assert storage.exists("f")
    assert connects(storage) == 1


@pytest.mark.parametrize("code", [w.NO_CONNECTION, w.CONNECTION_LOST])
def test_a_server_that_lost_its_own_connection(scripted, code):
    server = scripted(on("LSTAT", code))
    storage = server.storage()
    with pytest.raises(ConnectionLost, match="scripted"):
        storage.exists("f")
    assert not storage.exists("f")
    assert connects(storage) == 2


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param(struct.pack(">I", 3), None, id="no-message"),
        pytest.param(struct.pack(">I", 3) + string(b""), None, id="empty"),
        pytest.param(struct.pack(">I", 3) + string(b"n\xffn"), "n\ufffdn", id="no-utf8"),
        pytest.param(struct.pack(">I", 3) + string(b"x" * 5000), "'" + "x" * 200 + "'", id="long"),
        pytest.param(struct.pack(">I", 3) + string(b"a\nb\0"), r"a\nb\x00", id="control"),
    ],
)
def test_a_servers_words(scripted, body, said):
    server = scripted(on("STAT", lambda peer, r: frame(w.STATUS, r.id, body)))
    storage = server.storage()
    with pytest.raises(PermissionError) as caught:
        storage.size("f")
    if said is None:
        assert "it says" not in str(caught.value)
    else:
        assert said in str(caught.value)
    assert len(str(caught.value)) < 400
    assert connects(storage) == 1


# --- more than is read ---------------------------------------------------------------------------


def test_a_flood_that_nobody_reads_ends_the_connection(scripted, loop):
    """Nothing of it is kept; paramiko alone would take it all in, for as long as it comes."""
    peers = []
    server = scripted(lambda peer, request: peers.append(peer))
    storage = server.storage()
    with storage.pool.connection() as session:
        session.stat("")
        loop.run(peers[0].flood(2 * CHANNEL_WINDOW))
        assert server.ended.acquire(timeout=30)
        assert not session.is_alive()
        assert len(session._wire.stream._pipe) == 0
        with pytest.raises(ProtocolError, match=f"more than {CHANNEL_WINDOW} bytes ahead"):
            session.stat("")
        with pytest.raises(ConnectionLost):
            session.stat("")
    assert storage.exists("")
    assert connects(storage) == 2


def test_an_idle_session_that_was_flooded_is_not_lent(scripted, loop):
    peers = []
    server = scripted(lambda peer, request: peers.append(peer))
    storage = server.storage()
    assert storage.exists("")
    loop.run(peers[0].flood(2 * CHANNEL_WINDOW))
    assert server.ended.acquire(timeout=30)
    assert storage.exists("")
    assert connects(storage) == 2


def test_as_much_as_was_granted_is_no_flood():
    """In packets of two bytes, which would take twenty times their memory."""
    pipe = Pipe()
    tracemalloc.start()
    for number in range(100_000):
        pipe.feed(b"%02d" % (number % 100))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 2**20
    pipe.feed(bytes(CHANNEL_WINDOW - len(pipe)))
    assert pipe.read(CHANNEL_WINDOW).startswith(b"000102")
    assert not pipe.flooded


def test_what_is_said_on_stderr_takes_no_room(scripted):
    """It is dropped, and granted again: else a server that logs there would soon have to wait."""

    def script(peer: Peer, request: Request) -> None:
        peer.channel.write_stderr(bytes(3 * 2**20))

    storage = scripted(script).storage(timeout=5)
    for _ in range(8):
        assert storage.exists("")
    assert connects(storage) == 1


# --- listing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, NAMES, NAMES + 1, 1000, 5000])
def test_listings_of_any_length(scripted, count):
    server = scripted()
    server.directories.add(b"dir")
    for number in range(count):
        server.files[b"dir/%04d" % number] = bytearray()
    storage = server.storage()
    directories, files = storage.listdir("dir")
    assert directories == []
    assert sorted(files) == [f"{number:04}" for number in range(count)]
    # All that was asked for is answered or forgotten, and the handle closed.
    assert storage.exists("dir")
    assert server.asked().count("CLOSE") == 1
    assert connects(storage) == 1


def test_links_are_told_as_what_they_lead_to(scripted):
    server = scripted()
    server.put("dir/file")
    for link, target in [
        (b"to-dir", b"dir"),
        (b"to-file", b"dir/file"),
        (b"to-link", b"to-dir"),
        (b"to-nowhere", b"missing"),
        (b"to-itself", b"to-itself"),
        (b"in-circles", b"back"),
        (b"back", b"in-circles"),
    ]:
        server.links[link] = target
    storage = server.storage()
    directories, files = storage.listdir("")
    assert sorted(directories) == ["dir", "to-dir", "to-link"]
    assert sorted(files) == ["back", "in-circles", "to-file", "to-itself", "to-nowhere"]
    assert connects(storage) == 1


def test_entries_without_a_type_are_looked_up(scripted):
    def bare(peer: Peer, request: Request) -> bytes:
        return names(request.id, [(b"dir", attributes()), (b"f", attributes(3))])

    server = scripted(on("READDIR", bare))
    server.put("dir/inner")
    server.put("f")
    assert server.storage().listdir("") == (["dir"], ["f"])


def test_names_that_are_not_utf8_can_be_listed_and_opened(scripted):
    server = scripted()
    name = b"caf\xe9\xff".decode("utf-8", "surrogateescape")
    server.put(name, b"latin")
    storage = server.storage()
    assert storage.listdir("") == ([], [name])
    assert read(storage, name) == b"latin"
    storage.delete(name)
    assert server.files == {}


def test_names_that_lead_elsewhere_are_dropped(scripted):
    def entries(peer: Peer, request: Request) -> bytes:
        bad = [b".", b"..", b"", b"/", b"a/b", b"/etc/passwd", b"../up", b"\0", b"a\0b"]
        bad += [b"good", b"..."]
        return names(request.id, [(name, attributes(1, 0o100644)) for name in bad])

    server = scripted(on("READDIR", entries))
    assert server.storage().listdir("") == ([], ["good", "..."])


def test_a_listing_without_names_ends(scripted):
    """Some servers say so instead of EOF."""
    server = scripted(on("READDIR", lambda peer, request: names(request.id, []), each=True))
    storage = server.storage()
    assert storage.listdir("") == ([], [])
    assert connects(storage) == 1


def test_a_listing_that_repeats_itself_ends(scripted):
    server = scripted(
        on("READDIR", lambda peer, r: names(r.id, [(b"f", attributes(1, 0o100644))]), each=True)
    )
    storage = server.storage()
    with pytest.raises(ProtocolError, match="same names over and over"):
        storage.listdir("")
    assert storage.exists("") is True


def test_a_listing_without_end(scripted, monkeypatch):
    """A new name for each question, for ever: given up at a bound, and the session with it."""
    numbers = itertools.count()

    def more(peer: Peer, request: Request) -> bytes:
        some = [b"%032x" % next(numbers) for _ in range(NAMES)]
        return names(request.id, [(name, attributes(1, 0o100644)) for name in some])

    monkeypatch.setattr("netstorage.sftp.session.LONGEST_LISTING", 2**20)
    server = scripted(on("READDIR", more, each=True))
    server.directories.add(b"dir")
    storage = server.storage()
    with pytest.raises(ProtocolError, match="lists names without end") as caught:
        storage.listdir("dir")
    assert caught.value.filename == "dir"
    # What was in flight at the bound, and no more.
    assert next(numbers) < 2**20 // (ENTRY + 32) + 65 * NAMES
    assert not storage.exists("f")
    assert connects(storage) == 2


def test_a_length_that_no_memory_holds(scripted):
    """It may be true: reading in pieces works as far as there is anything, and so does the rest."""

    def lie(peer: Peer, request: Request) -> bytes:
        return frame(w.ATTRS, request.id, attributes(2**62, stat.S_IFREG | 0o644, (1, 2)))

    server = scripted(on("FSTAT", lie, each=True))
    server.put("f", content(1000))
    storage = server.storage()
    with pytest.raises(OSError, match="read the file in pieces") as caught:
        read(storage, "f")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOMEM, "f")
    with storage.open("f") as file:
        assert file.read(1000) == content(1000)
        file.seek(2**62 - 10)
        with pytest.raises(FileChanged, match="has none at"):
            file.read(10)
    assert connects(storage) == 1


def test_a_listing_that_fails_in_the_middle(scripted):
    """The answers of the READDIRs that were in flight do not confuse what follows."""
    server = scripted(on("READDIR", w.FAILURE, nth=3))
    for number in range(1000):
        server.put(f"{number}")
    storage = server.storage()
    with pytest.raises(OSError) as caught:
        storage.listdir("")
    assert caught.value.errno == errno.EIO
    assert storage.exists("17")
    assert not storage.exists("missing")
    assert server.asked().count("CLOSE") == 1
    assert connects(storage) == 1


# --- silence, and the end -----------------------------------------------------------------------

STEPS: dict[str, Callable[[NetworkStorage], Any]] = {
    "LSTAT": lambda storage: storage.exists("f"),
    "STAT": lambda storage: storage.size("f"),
    "OPENDIR": lambda storage: storage.listdir("dir"),
    "READDIR": lambda storage: storage.listdir("dir"),
    "OPEN": lambda storage: read(storage, "f"),
    "FSTAT": lambda storage: read(storage, "f"),
    "READ": lambda storage: read(storage, "f"),
    "WRITE": lambda storage: storage.save("new", ContentFile(content(200_000))),
    "FSETSTAT": lambda storage: storage.save("new", ContentFile(content(200_000))),
    "fsync": lambda storage: storage.save("new", ContentFile(content(200_000))),
    "CLOSE": lambda storage: storage.save("new", ContentFile(content(200_000))),
    "RENAME": lambda storage: storage.save("new", ContentFile(content(200_000))),
    "MKDIR": lambda storage: storage.save("made/new", ContentFile(content(200_000))),
    "REMOVE": lambda storage: storage.delete("f"),
    "RMDIR": lambda storage: storage.delete("empty"),
}


def stocked(server: Scripted) -> Scripted:
    server.put("f", content(200_000))
    server.put("dir/file")
    server.directories.add(b"empty")
    return server


@pytest.mark.parametrize("name", STEPS)
def test_a_server_that_goes_in_the_middle_is_replaced_once(scripted, name):
    """On a session that served before: another one does the work, and nobody notices."""
    server = stocked(scripted())
    storage = server.storage()
    assert storage.exists("f")
    server.script = on(name, hang_up)
    STEPS[name](storage)
    assert connects(storage) == 2
    if name in {"WRITE", "FSETSTAT", "fsync", "CLOSE", "RENAME"}:
        assert bytes(server.files[b"new"]) == content(200_000)
    server.script = None
    assert not [path for path in server.files if b".netstorage-" in path]


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("how", ["hang-up", "end"])
def test_a_server_that_always_goes_is_an_error(scripted, name, how):
    server = stocked(scripted())
    storage = server.storage()
    script = hang_up if how == "hang-up" else (lambda peer, request: peer.end())
    server.script = on(name, script, each=True)
    with pytest.raises(ConnectionLost, match=f"127.0.0.1:{server.port} was lost") as caught:
        STEPS[name](storage)
    assert caught.value.filename is not None
    assert b"new" not in server.files
    assert storage.pool.stats().in_use == 0
    # As soon as it behaves, all is well.
    server.script = None
    assert storage.exists("dir/file")


def test_a_rename_whose_answer_is_lost_is_settled(scripted):
    """Done, and then the connection broke: the file has its name once, and nothing is repeated."""

    def done_and_gone(peer: Peer, request: Request) -> bytes:
        peer.honest(request)
        return peer.hang_up()

    server = scripted(on("RENAME", done_and_gone))
    storage = server.storage()
    assert storage.save("f", ContentFile(b"once")) == "f"
    assert server.files == {b"f": b"once"}
    assert server.asked().count("WRITE") == 1


@pytest.mark.parametrize("name", STEPS)
def test_a_server_that_falls_silent(scripted, name):
    server = stocked(scripted(on(name, silent, each=True)))
    storage = server.storage(timeout=SHORT)
    with pytest.raises(TimeoutError, match=r"did not go on within 0\.3 s \(timeout\)") as caught:
        STEPS[name](storage)
    assert caught.value.errno == errno.ETIMEDOUT
    assert caught.value.filename is not None
    assert b"new" not in server.files
    assert storage.pool.stats().in_use == 0
    server.script = None
    assert storage.exists("dir/file")


def test_silence_in_the_middle_of_a_frame(scripted):
    server = stocked(scripted(on("READ", lambda peer, r: peer.honest(r)[:5000])))
    storage = server.storage(timeout=SHORT)
    with pytest.raises(TimeoutError, match="timeout"):
        read(storage, "f")
    assert read(storage, "f") == content(200_000)
    assert connects(storage) == 2


def test_a_slow_frame_is_no_silence(scripted):
    """Each piece comes in time, the whole does not: a line may be slow."""

    def drip(peer: Peer, request: Request) -> bytes:
        answer = peer.honest(request)
        step = len(answer) // 5 + 1
        for number in range(5):
            piece = answer[number * step :][:step]
            peer.server.loop.loop.call_later(0.3 * number, peer.send, piece)
        return b""

    server = stocked(scripted(on("READ", drip)))
    storage = server.storage(timeout=1)
    assert read(storage, "f") == content(200_000)
    assert connects(storage) == 1


def test_a_late_answer_does_not_reach_the_next_request(scripted):
    """After a timeout the session is gone: what it still says is nobody's."""
    held: list[tuple[Peer, Request]] = []

    def hold(peer: Peer, request: Request) -> bytes:
        held.append((peer, request))
        return b""

    server = stocked(scripted(on("LSTAT", hold)))
    storage = server.storage(timeout=SHORT)
    with pytest.raises(TimeoutError):
        storage.exists("f")
    peer, request = held[0]
    server.loop.loop.call_soon_threadsafe(lambda: peer.send(peer.honest(request)))
    assert not storage.exists("missing")
    assert connects(storage) == 2


@pytest.fixture
def proxy(loop: Loop) -> Iterator[Callable[..., Proxy]]:
    proxies: list[Proxy] = []

    def make(*args: Any, **options: Any) -> Proxy:
        proxies.append(Proxy(loop, *args, **options))
        return proxies[-1]

    yield make
    for each in proxies:
        each.stop()


def test_a_peer_that_stops_reading(scripted, proxy):
    """An upload into a TCP connection whose window is full ends by the deadline."""
    server = scripted(window=2**26)
    gate = proxy(server.port)
    storage = server.storage(port=gate.port, timeout=SHORT)

    def freeze(peer: Peer, request: Request) -> None:
        gate.freeze()

    server.script = on("WRITE", freeze)
    with (
        pytest.raises(TimeoutError, match=r"take what was sent within 0\.3 s \(timeout\)"),
        storage.pool.connection() as session,
    ):
        session.write("f", Endless(2**26), 2**26, None, None)
    assert not session.is_alive()
    assert not storage.exists("missing")


def test_a_peer_that_opens_no_window(scripted):
    """SSH's own window is full: the channel takes nothing more."""

    def pause(peer: Peer, request: Request) -> None:
        peer.channel.pause_reading()

    server = scripted(on("WRITE", pause))
    storage = server.storage(timeout=SHORT)
    match = r"take what was sent within 0\.3 s \(timeout\)"
    with pytest.raises(TimeoutError, match=match), storage.pool.connection() as session:
        session.write("f", Endless(2**26), 2**26, None, None)
    assert not session.is_alive()


class Endless(Stream):
    """So many zeros, made as they are read."""

    def __init__(self, size: int) -> None:
        self.left = size
        super().__init__(iter(lambda: bytes(2**18), b""))

    def seek(self, offset: int, whence: int = 0) -> int:
        return 0


def test_a_connection_that_breaks(scripted, proxy):
    """A cable that is pulled between two operations costs nothing but a new session."""
    server = scripted()
    server.put("f")
    gate = proxy(server.port)
    storage = server.storage(port=gate.port)
    assert storage.exists("f")
    gate.cut()
    assert storage.exists("f")
    assert connects(storage) == 2


def test_the_numbers_of_requests_wrap_around(scripted):
    server = stocked(scripted())
    storage = server.storage()
    with storage.pool.connection() as session:
        session._wire._next_id = 2**32 - 3
    assert read(storage, "f") == content(200_000)
    assert storage.exists("f")
    assert {0, 2**32 - 1} <= {request.id for request in server.requests}
    assert connects(storage) == 1


def test_a_ping_is_satisfied_by_any_verdict(scripted):
    """A login directory that may not be looked at is no reason to connect again."""
    server = scripted(on("STAT", w.PERMISSION_DENIED, each=True))
    storage = server.storage()
    with storage.pool.connection() as session:
        session.ping()
    server.script = on("STAT", hang_up)
    with pytest.raises(ConnectionLost), storage.pool.connection() as session:
        session.ping()
