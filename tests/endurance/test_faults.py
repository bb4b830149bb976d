"""Whatever goes wrong on the line, wherever: done or told, whole or not there, and over with it.

Each test does one operation as often as there are points at which its fault can strike. A point is
a turn (what the client sends in one go, and the answer), and a place in it.
"""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from django.core.files.base import ContentFile

from netstorage import NetStorageError
from netstorage.storage import NetworkStorage
from tests.contract.helpers import (
    private_storage,
    read,
    remove_temporaries,
    temporaries,
)
from tests.endurance.faulty import Fault, FaultyLine, What, Where
from tests.servers.base import Server

OLD, NEW, BIG = b"old" * 1000, b"new" * 4000, b"big!" * 2**17
TIMEOUT = 0.5
"""Seconds of silence after which a storage gives up."""
PATIENCE = 20.0
"""Seconds after which a test takes an operation to hang."""
NOT_STRUCK = "not struck"
TURNS = 4
"""Turns of which each is tried; of longer operations the first, and some on the way to the end."""


@dataclass(frozen=True)
class Operation:
    """What is done, and what may be there afterwards.

    Attributes:
        do: Does it; gives what it returns.
        right: What it must have returned, if it did.
        name: The file that it changes, if it does.
        before: What that holds before; None: there is none.
        after: What it holds once it is done; None: there is none.
        overwrite: Whether the storage may overwrite.
    """

    do: Callable[[NetworkStorage], Any]
    right: Any
    name: str = ""
    before: bytes | None = None
    after: bytes | None = None
    overwrite: bool = False


def write(name: str, data: bytes) -> Callable[[NetworkStorage], Any]:
    def do(storage: NetworkStorage) -> None:
        with storage.open(name, "wb") as file:
            file.write(data)

    return do


def save(name: str, data: bytes) -> Callable[[NetworkStorage], Any]:
    return lambda storage: storage.save(name, ContentFile(data))


OPERATIONS = {
    "exists": Operation(lambda storage: storage.exists("dir/kept.bin"), True),
    "size": Operation(lambda storage: storage.size("dir/kept.bin"), len(OLD)),
    "listdir": Operation(lambda storage: storage.listdir("dir"), ([], ["kept.bin"])),
    "read": Operation(lambda storage: read(storage, "dir/kept.bin"), OLD),
    "read big": Operation(lambda storage: read(storage, "big.bin"), BIG),
    "save": Operation(save("dir/new.bin", NEW), "dir/new.bin", "dir/new.bin", None, NEW),
    "save deep": Operation(save("a/b/c.bin", NEW), "a/b/c.bin", "a/b/c.bin", None, NEW),
    "save big": Operation(save("dir/new.bin", BIG), "dir/new.bin", "dir/new.bin", None, BIG),
    "overwrite": Operation(
        save("dir/old.bin", NEW), "dir/old.bin", "dir/old.bin", OLD, NEW, overwrite=True
    ),
    "write": Operation(write("dir/old.bin", NEW), None, "dir/old.bin", OLD, NEW),
    "delete": Operation(lambda storage: storage.delete("dir/old.bin"), None, "dir/old.bin", OLD),
}


@dataclass
class Scene:
    """A server with some files, and a storage that reaches it over a faulty line."""

    server: Server
    direct: NetworkStorage
    line: FaultyLine
    threads: ThreadPoolExecutor

    def storage(self, **options: Any) -> NetworkStorage:
        own = self.line.options | {"location": self.direct.options["location"]}
        return private_storage(
            self.server, **own, timeout=TIMEOUT + next(_thousandths), connect_timeout=1, **options
        )

    def set_up(self, operation: Operation) -> None:
        for name in (operation.name, "a/b/c.bin", "a/b", "a"):
            if name:
                self.direct.delete(name)
        if operation.before is not None:
            self.direct.save(operation.name, ContentFile(operation.before))


_thousandths = itertools.count(0.001, 0.0001)


@pytest.fixture
def scene(storage: NetworkStorage, server: Server) -> Iterator[Scene]:
    """One server of each protocol: the contract tells them apart, here it is the line."""
    storage.save("dir/kept.bin", ContentFile(OLD))
    storage.save("big.bin", ContentFile(BIG))
    with FaultyLine(server) as line, ThreadPoolExecutor(2) as threads:
        yield Scene(server, storage, line, threads)


def places(what: What) -> list[Where]:
    """Where a fault can strike: what is slow or turned over is so in something, not before it.

    Half a request and silence is, to a server, no request: only the deadline is waited for.
    """
    if what in {What.TRICKLE, What.CORRUPT}:
        return [Where.FLIGHT, Where.PART]
    if what is What.STALL:
        return [Where.REQUEST, Where.ANSWER, Where.PART]
    return list(Where)


@pytest.mark.parametrize("what", What, ids=lambda what: what.name.lower())
@pytest.mark.parametrize("which", OPERATIONS)
def test_a_fault_at_every_point(
    scene: Scene, which: str, what: What, no_pause: None, record_property: Callable[..., None]
) -> None:
    operation = OPERATIONS[which]
    if what is What.CORRUPT and scene.server.protocol == "webdav":
        # Plain HTTP has nothing against it; TLS has (RFC 8446, 5.2).
        return
    turns = count_turns(scene, operation)
    chosen = {*range(1, TURNS + 1), turns // 3, turns // 2, turns - 1, turns}
    outcomes = collections.Counter(
        strike(scene, operation, Fault(what, turn, where))
        for turn in sorted(chosen & {*range(1, turns + 1)})
        for where in places(what)
    )
    # For whoever wants the matrix: -o junit_family=xunit1 --junitxml=FILE.
    record_property("outcomes", dict(outcomes))
    assert outcomes.total() > outcomes[NOT_STRUCK]


@pytest.mark.parametrize("what", What, ids=lambda what: what.name.lower())
def test_a_fault_at_every_point_of_connecting(scene: Scene, what: What, no_pause: None) -> None:
    if what is What.CORRUPT and scene.server.protocol == "webdav":
        return
    operation = OPERATIONS["exists"]
    for turn in itertools.count(1):
        outcomes = {
            strike(scene, operation, Fault(what, turn, where), cold=True) for where in places(what)
        }
        if outcomes == {NOT_STRUCK}:
            break
    assert turn > 1


def count_turns(scene: Scene, operation: Operation) -> int:
    scene.set_up(operation)
    storage = scene.storage(allow_overwrite=operation.overwrite)
    storage.exists("warm")
    scene.line.arm(None)
    assert operation.do(storage) == operation.right
    storage.pool.close()
    return scene.line.turns


def strike(scene: Scene, operation: Operation, fault: Fault, *, cold: bool = False) -> str:
    """Do the operation with one fault, and see that nothing is lost; tell what came of it."""
    scene.set_up(operation)
    line, storage = scene.line, scene.storage(allow_overwrite=operation.overwrite)
    try:
        if not cold:
            storage.exists("warm")
        line.arm(fault)
        error = None
        result = scene.threads.submit(operation.do, storage)
        try:
            value = result.result(PATIENCE)
        except TimeoutError as caught:
            assert result.done(), f"hangs: {fault}"
            error = caught
        except (OSError, NetStorageError) as caught:
            error = caught
        struck = line.struck
        if error is None:
            assert value == operation.right, fault
        else:
            assert struck, f"{fault}: {error!r}"
            assert error.filename is not None, f"{fault}: {error!r}"
            # What is only slow must not fail.
            if fault.what is What.TRICKLE:
                raise AssertionError(f"{fault}: {error!r}") from error
        stats = storage.pool.stats()
        assert (stats.in_use, stats.waiting, stats.connecting) == (0, 0, 0), fault
        line.clear()
        look_after(scene, operation, fault, done=error is None)
        # The next one works, whatever became of this one.
        assert storage.exists("dir/kept.bin"), fault
    finally:
        line.clear()
        storage.pool.close()
    if not struck:
        return NOT_STRUCK
    return "done" if error is None else type(error).__name__


def look_after(scene: Scene, operation: Operation, fault: Fault, *, done: bool) -> None:
    """What lies on the server, seen by another way."""
    direct = scene.direct
    if operation.name:
        there = read(direct, operation.name) if direct.exists(operation.name) else None
        allowed = [operation.after] if done else [operation.before, operation.after]
        assert there in allowed, f"{fault}: {len(there or b'')} bytes"
    assert read(direct, "dir/kept.bin") == OLD
    deadline = time.monotonic() + PATIENCE
    while left := temporaries(scene.server, direct):
        if fault.what is What.REFUSE:
            # Nobody could remove it: the server was down.
            remove_temporaries(scene.server, direct)
        assert time.monotonic() < deadline, f"{fault}: {left}"
        time.sleep(0.01)


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait after a failed connect: here each is on purpose."""
    monkeypatch.setattr("netstorage.pool.BACKOFF_MIN", 0.0)
