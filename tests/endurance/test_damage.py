"""The ends themselves fail: servers and clients are killed, disks fill, files change meanwhile.

The promises are those that hold when the line fails (test_faults.py).
"""

from __future__ import annotations

import errno
import itertools
import os
import posixpath
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from django.core.files.base import ContentFile

from netstorage import FileChanged
from netstorage.leftovers import find_leftovers, remove_leftovers
from netstorage.pool import BACKOFF_MIN
from netstorage.storage import TEMPORARY, is_temporary
from tests.contract import test_bad_files
from tests.contract.client import Client
from tests.contract.helpers import HIDES_DOTS, grow_old, read, temporaries
from tests.endurance import test_faults
from tests.endurance.faulty import Fault, What, Where
from tests.endurance.scene import (
    BIG,
    NEW,
    OLD,
    OPERATIONS,
    PATIENCE,
    Operation,
    Outcome,
    Scene,
    promised,
    require_promised,
)
from tests.servers import SERVERS
from tests.servers.apache import Apache
from tests.servers.base import ChildServer, Server
from tests.servers.nginx import Nginx
from tests.servers.proftpd import Proftpd
from tests.servers.sshd import Sshd


class Limited(ChildServer):
    """Can be held to a size of files, and hears of it by an error: the signal would end it."""

    limit = ""

    def command(self) -> list[str]:
        return [
            *["env", "--ignore-signal=XFSZ"],
            *["prlimit", f"--fsize={self.limit or 'unlimited'}:unlimited"],
            *super().command(),
        ]


class LimitedSshd(Limited, Sshd):
    pass


class LimitedApache(Limited, Apache):
    pass


FACTORIES: dict[str, Callable[[], ChildServer]] = {
    "sshd": lambda: LimitedSshd(extra=["MaxStartups 1000"], ordinary=True),
    "apache": lambda: LimitedApache(ordinary=True),
    "proftpd": Proftpd,
    "nginx": Nginx,
}
LATER = "The server is killed, and comes back later"
AT_ONCE = "The server is killed, and comes back at once"
READ_ONLY = "The directory becomes read-only"
REMOVED = "The directory is removed"
LIMITED = "A limit for the size of files is reached"
CHANGED = "The file is {} while it is read"
FULL_DISK = "The disk is full"

OWN_TEMPORARIES = {"apache": ".davfs.tmp*"}
"""What servers that were killed in an upload leave under names of their own."""


@pytest.fixture(scope="module", params=FACTORIES)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Servers that can be killed, and those that permissions bind."""
    reason = SERVERS[request.param].unavailable()
    if reason:
        pytest.skip(reason)
    with FACTORIES[request.param]() as server:
        yield server


@pytest.fixture
def scene(scene: Scene) -> Iterator[Scene]:
    """With patience: starting a server takes its time. It is up again for the next test."""
    scene.timeout = scene.connect_timeout = PATIENCE / 2
    yield scene
    assert isinstance(scene.server, ChildServer)
    if scene.server.process is None:
        scene.server.start()


def directory(scene: Scene) -> Path:
    assert scene.server.root is not None
    return scene.server.root / scene.direct.location / "dir"


def clear_up(scene: Scene, *names: str) -> int:
    """Find and remove what was left, and see that nothing else is there; return how much it was.

    Args:
        scene: Where.
        names: What may be there.
    """
    server, direct = scene.server, scene.direct
    left = temporaries(server, direct)
    for path in ("", "dir"):
        assert not any(is_temporary(name) for name in itertools.chain(*direct.listdir(path)))
    grow_old(server, direct, *left)
    top = directory(scene).parent
    if server.name in HIDES_DOTS:
        # The command of docs/saving.md.
        age = ["-mmin", "+1440"]
        subprocess.run(["find", top, "-name", f"{TEMPORARY}*", *age, "-delete"], check=True)
    else:
        found = {leftover.name for leftover in find_leftovers(direct)}
        assert found == {name for name in left if posixpath.dirname(name) not in left}
        assert {leftover.name for leftover in remove_leftovers(direct)} == found
    assert temporaries(server, direct) == []
    for path in top.rglob(OWN_TEMPORARIES.get(server.name, "-")):
        path.unlink()
    files = {str(path.relative_to(top)) for path in top.rglob("*") if not path.is_dir()}
    assert files <= {"dir/kept.bin", "big.bin", *names}
    return len(left)


def test_the_documentation_tells_of_all_this() -> None:
    damage = {LATER, AT_ONCE, READ_ONLY, REMOVED, LIMITED, FULL_DISK}
    line = {*test_faults.ROWS.values(), test_faults.CONNECTING}
    assert set(promised()) == {*damage, *line, *map(CHANGED.format, CHANGES)}
    full = {errno.errorcode[number] for number in test_bad_files.FULL.values()}
    assert promised()[FULL_DISK] == (set(), full)


# --- the server is killed ------------------------------------------------------------------------

KILLED = ["save", "save big", "overwrite", "write", "read", "listdir", "delete"]
PAIRS = [
    *((server, which) for server in ("sshd", "apache") for which in KILLED),
    ("proftpd", "save big"),
    ("nginx", "overwrite"),
]


@pytest.mark.parametrize(("server", "which"), PAIRS, indirect=["server"], scope="module")
def test_a_server_that_is_killed_and_comes_back_later(
    scene: Scene, which: str, record_property: Callable[..., None]
) -> None:
    operation, server = OPERATIONS[which], scene.server
    outcomes: Counter[str] = Counter()
    left = 0
    for turn in few_turns(scene, operation):
        for where in (Where.FLIGHT, Where.ANSWER):
            with scene.doing(operation, Fault(What.CUT, turn, where), server.kill) as outcome:
                if outcome.struck:
                    server.start()
                require_promised(LATER, operation, outcome)
                scene.nothing_lost(operation, outcome)
                left += clear_up(scene, operation.name)
                # The next one has to wait for one step of the pause, and no more.
                outcome.storage.pool._clock = lambda: time.monotonic() + BACKOFF_MIN
            assert outcome.storage.pool.stats().connect_errors == (not outcome.done)
            outcomes[str(outcome)] += 1
    record_property("outcomes", dict(outcomes))
    # Striking in the middle of uploads is striking where they lie under their hidden names.
    assert left or operation.after is None


@pytest.mark.parametrize("which", [which for which in KILLED if which not in {"save", "write"}])
@pytest.mark.parametrize("server", ["sshd", "apache"], indirect=True, scope="module")
def test_a_server_that_is_killed_and_comes_back_at_once(
    scene: Scene, which: str, record_property: Callable[..., None]
) -> None:
    operation, server = OPERATIONS[which], scene.server
    outcomes: Counter[str] = Counter()

    def restart() -> None:
        server.kill()
        server.start()

    for turn in few_turns(scene, operation):
        fault = Fault(What.CUT, turn, Where.ANSWER)
        with scene.doing(operation, fault, restart) as outcome:
            require_promised(AT_ONCE, operation, outcome)
            scene.nothing_lost(operation, outcome)
            clear_up(scene, operation.name)
        assert outcome.storage.pool.stats().connect_errors == 0
        outcomes[str(outcome)] += 1
    record_property("outcomes", dict(outcomes))


def few_turns(scene: Scene, operation: Operation) -> list[int]:
    """Each costs the start of a server."""
    turns = scene.turns(operation)
    return sorted({turns[0], turns[len(turns) // 2], *turns[-2:]})


# --- the client is killed ------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["save", "save big", "overwrite"])
@pytest.mark.parametrize("server", ["sshd", "apache"], indirect=True, scope="module")
def test_a_client_that_is_killed(scene: Scene, which: str) -> None:
    """Wherever it was; test_atomic.py has one that is held up in its upload."""
    operation = OPERATIONS[which]
    assert operation.after is not None
    number, size = 7, len(operation.after)
    operation = replace(operation, after=bytes([number]) * size)
    options = scene.line.options | {"location": scene.direct.options["location"]}
    options |= {"allow_overwrite": operation.overwrite}
    left = 0
    for point in itertools.count(2):
        # Before and after each of its requests.
        fault = Fault(What.CUT, point // 2, (Where.REQUEST, Where.ANSWER)[point % 2])
        scene.set_up(operation)
        with Client(scene.server, operation.name, [number], size, **options) as client:
            client.wait_until_ready()
            killed = threading.Event()

            def kill(client: Client = client, killed: threading.Event = killed) -> None:
                client.kill()
                killed.set()

            scene.line.arm(fault, kill)
            client.go()
            if not client.has_ended():
                break
            assert killed.wait(PATIENCE)
        scene.line.clear()
        assert scene.content(operation.name) in [operation.before, operation.after]
        left += clear_up(scene, operation.name)
        assert scene.direct.save("dir/next.bin", ContentFile(OLD)) == "dir/next.bin"
        scene.direct.delete("dir/next.bin")
    assert left > 0


# --- the directory -------------------------------------------------------------------------------

PLACES = (Where.REQUEST, Where.FLIGHT, Where.ANSWER)
CHANGING = ["save", "save big", "overwrite", "write", "delete"]


@pytest.mark.parametrize("which", CHANGING)
@pytest.mark.parametrize("server", ["sshd", "apache"], indirect=True, scope="module")
def test_a_directory_that_becomes_read_only(
    scene: Scene, which: str, record_property: Callable[..., None]
) -> None:
    operation, path = OPERATIONS[which], directory(scene)
    outcomes: Counter[str] = Counter()
    left = 0
    for turn, where in itertools.product(scene.turns(operation), PLACES):
        fault = Fault(What.NOTHING, turn, where)
        try:
            with scene.doing(operation, fault, lambda: path.chmod(0o555)) as outcome:
                require_promised(READ_ONLY, operation, outcome)
                scene.nothing_lost(operation, outcome)
                path.chmod(0o755)
                left += clear_up(scene, operation.name)
        finally:
            path.chmod(0o755)
        outcomes[str(outcome)] += 1
    record_property("outcomes", dict(outcomes))
    # What nobody might remove while it was so.
    assert left or operation.after is None


@pytest.mark.parametrize("which", CHANGING)
@pytest.mark.parametrize("server", ["sshd", "apache"], indirect=True, scope="module")
def test_a_directory_that_is_removed(
    scene: Scene, which: str, record_property: Callable[..., None]
) -> None:
    operation, path = OPERATIONS[which], directory(scene)
    outcomes: Counter[str] = Counter()

    def remove() -> None:
        # While the server may still be making files in it.
        while path.exists():
            shutil.rmtree(path, ignore_errors=True)

    for turn, where in itertools.product(scene.turns(operation), PLACES):
        with scene.doing(operation, Fault(What.NOTHING, turn, where), remove) as outcome:
            if not scene.direct.exists("dir/kept.bin"):
                scene.direct.save("dir/kept.bin", ContentFile(OLD))
            # What was published before goes with the directory.
            gone = [None] if where is Where.ANSWER or not outcome.done else []
            require_promised(REMOVED, operation, outcome)
            scene.nothing_lost(operation, outcome, *gone)
            assert clear_up(scene, operation.name) == 0
        outcomes[str(outcome)] += 1
    record_property("outcomes", dict(outcomes))


# --- the file that is read -----------------------------------------------------------------------

OTHER = b"BIG!" * (len(BIG) // 4)


def a_file(scene: Scene) -> Path:
    """One that changed long ago: SFTP tells whole seconds, and so a second change in one is not."""
    path = directory(scene).parent / "changing.bin"
    path.write_bytes(BIG)
    path.chmod(0o644)
    os.utime(path, (0, 0))
    return path


def replace_file(path: Path) -> None:
    """By one of the same length."""
    other = path.with_name("other")
    other.write_bytes(OTHER)
    other.chmod(0o644)
    other.rename(path)


def append_to_file(path: Path) -> None:
    with path.open("ab") as file:
        file.write(OLD)


CHANGES: dict[str, tuple[Callable[[Path], object], list[bytes]]] = {
    "replaced": (replace_file, [BIG, OTHER]),
    "truncated": (lambda path: os.truncate(path, 1000), [BIG, BIG[:1000]]),
    "grown": (append_to_file, [BIG, BIG + OLD]),
    "deleted": (Path.unlink, [BIG]),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("server", ["sshd", "apache"], indirect=True, scope="module")
def test_a_file_that_changes_while_it_is_read(
    scene: Scene, change: str, record_property: Callable[..., None]
) -> None:
    """One version or an error, and never a mixture, whatever moment it changes in."""
    do, versions = CHANGES[change]
    path = a_file(scene)
    operation = Operation(lambda storage: read(storage, "changing.bin") in versions, True)
    outcomes: Counter[str] = Counter()

    for turn, where in itertools.product(scene.turns(operation), Where):
        a_file(scene)
        with scene.doing(operation, Fault(What.NOTHING, turn, where), lambda: do(path)) as outcome:
            require_promised(CHANGED.format(change), operation, outcome)
        outcomes[str(outcome)] += 1
    record_property("outcomes", dict(outcomes))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("server", ["sshd", "apache"], indirect=True, scope="module")
def test_a_file_that_changes_between_two_windows(scene: Scene, change: str) -> None:
    do, _ = CHANGES[change]
    path = a_file(scene)
    with scene.direct.open("changing.bin") as file:
        assert file.read(10) == BIG[:10]
        do(path)
        with pytest.raises((FileChanged, FileNotFoundError)) as caught:
            file.read()
        assert caught.value.filename == "changing.bin"
        assert caught.type is (FileNotFoundError if change == "deleted" else FileChanged)


# --- the room ------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["save big", "overwrite", "write"])
@pytest.mark.parametrize("server", ["sshd", "apache"], indirect=True, scope="module")
def test_a_limit_for_the_size_of_files(scene: Scene, which: str) -> None:
    """What a quota does in the middle of a file, where the system has none to set.

    A write that goes beyond RLIMIT_FSIZE fails with EFBIG, as with EDQUOT beyond a quota.
    """
    operation, server = OPERATIONS[which], scene.server
    assert isinstance(server, Limited)
    scene.set_up(operation)
    storage = scene.storage(allow_overwrite=True)
    with limited(server, len(NEW) // 2), pytest.raises(OSError, match=operation.name) as caught:
        operation.do(storage)
    require_promised(LIMITED, operation, Outcome(True, caught.value, storage))
    assert scene.content(operation.name) == operation.before
    assert clear_up(scene, operation.name) == 0
    operation.do(storage)
    assert scene.content(operation.name) == operation.after
    storage.pool.close()


@contextmanager
def limited(server: Limited, size: int) -> Iterator[None]:
    server.limit = str(size)
    server.restart()
    try:
        yield
    finally:
        server.limit = ""
        server.restart()
