"""What the tests of faults share: operations, the scene of each, and what was promised of it."""

from __future__ import annotations

import errno
import itertools
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.core.files.base import ContentFile

from netstorage import NetStorageError
from netstorage.storage import NetworkStorage
from tests.contract.helpers import private_storage, read
from tests.endurance.faulty import Fault, FaultyLine
from tests.servers.base import Server

OLD, NEW, BIG = b"old" * 1000, b"new" * 4000, b"big!" * 2**17
PATIENCE = 20.0
"""Seconds after which a test takes an operation to hang."""
NOT_STRUCK = "not struck"
TURNS = 4
"""Turns of which each is tried; of longer operations the first, and some on the way to the end."""
PAGE = Path(__file__).parents[2] / "docs" / "faults.md"


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
class Outcome:
    """What came of an operation.

    Attributes:
        struck: Whether the fault happened.
        error: What was raised, if anything.
        storage: The storage that did it.
    """

    struck: bool
    error: OSError | NetStorageError | None
    storage: NetworkStorage

    @property
    def done(self) -> bool:
        return self.error is None

    def __str__(self) -> str:
        if not self.struck:
            return NOT_STRUCK
        if self.error is None:
            return "done"
        if type(self.error) is OSError and self.error.errno:
            return errno.errorcode[self.error.errno]
        return type(self.error).__name__


@dataclass
class Scene:
    """A server with some files, and a storage that reaches it over a faulty line.

    Attributes:
        direct: A storage that sees the same files without the line.
        timeout: Seconds of silence after which a storage gives up.
        connect_timeout: The same while it connects.
    """

    server: Server
    direct: NetworkStorage
    line: FaultyLine
    threads: ThreadPoolExecutor
    timeout: float = 0.5
    connect_timeout: float = 1

    def storage(self, **options: Any) -> NetworkStorage:
        own = self.line.options | {"location": self.direct.options["location"]}
        own |= {"timeout": self.timeout + next(_thousandths)}
        own |= {"connect_timeout": self.connect_timeout}
        return private_storage(self.server, **own | options)

    def set_up(self, operation: Operation) -> None:
        for name in (operation.name, "a/b/c.bin", "a/b", "a"):
            if name:
                self.direct.delete(name)
        if operation.before is not None:
            self.direct.save(operation.name, ContentFile(operation.before))

    def turns(self, operation: Operation) -> list[int]:
        """Turns of an operation at which faults may strike; it is done once to count them."""
        self.set_up(operation)
        storage = self.storage(allow_overwrite=operation.overwrite)
        storage.exists("warm")
        self.line.arm(None)
        assert operation.do(storage) == operation.right
        storage.pool.close()
        last = self.line.turns
        chosen = {*range(1, TURNS + 1), last // 3, last // 2, last - 1, last}
        return sorted(chosen & {*range(1, last + 1)})

    @contextmanager
    def doing(
        self,
        operation: Operation,
        fault: Fault,
        event: Callable[[], object] | None = None,
        *,
        cold: bool = False,
    ) -> Iterator[Outcome]:
        """Do the operation with one fault, and see that it ends, and how.

        Args:
            operation: What is done.
            fault: What goes wrong.
            event: What happens beside the line at that moment.
            cold: Whether the storage has yet to connect.
        """
        self.set_up(operation)
        line, storage = self.line, self.storage(allow_overwrite=operation.overwrite)
        happened = threading.Event()

        def happen() -> None:
            if event is not None:
                event()
            happened.set()

        try:
            if not cold:
                storage.exists("warm")
            line.arm(fault, happen)
            error = None
            result = self.threads.submit(operation.do, storage)
            try:
                value = result.result(PATIENCE)
            except TimeoutError as caught:
                assert result.done(), f"hangs: {fault}"
                error = caught
            except (OSError, NetStorageError) as caught:
                error = caught
            struck = line.struck
            assert event is None or not struck or happened.wait(PATIENCE), f"{fault}: no event"
            if error is None:
                assert value == operation.right, fault
            else:
                assert struck, f"{fault}: {error!r}"
                assert error.filename is not None, f"{fault}: {error!r}"
            stats = storage.pool.stats()
            assert (stats.in_use, stats.waiting, stats.connecting) == (0, 0, 0), fault
            line.clear()
            yield Outcome(struck, error, storage)
            # The next one works, whatever became of this one.
            assert storage.exists("dir/kept.bin"), fault
        finally:
            line.clear()
            storage.pool.close()

    def nothing_lost(self, operation: Operation, outcome: Outcome, *or_else: bytes | None) -> None:
        """See that the old file is there, or the new one, whole: by another way than the line."""
        if operation.name:
            there = self.content(operation.name)
            allowed = [operation.after] if outcome.done else [operation.before, operation.after]
            assert there in [*allowed, *or_else], f"{len(there or b'')} bytes, {outcome.error!r}"
        assert read(self.direct, "dir/kept.bin") == OLD

    def content(self, name: str) -> bytes | None:
        return read(self.direct, name) if self.direct.exists(name) else None


_thousandths = itertools.count(0.001, 0.0001)


def promised() -> dict[str, tuple[set[str], set[str]]]:
    """The table of the documentation: what may come of reading, and of changing, by the fault."""
    rows = re.findall(r"^\| (.+?) +\|(.+)\|(.+)\|$", PAGE.read_text(), re.MULTILINE)[1:]
    return {
        name: (set(re.findall(r"\w+", reading)), set(re.findall(r"\w+", changing)))
        for name, reading, changing in rows
    }


def require_promised(row: str, operation: Operation, outcome: Outcome) -> None:
    """Hold what came of an operation against the documentation."""
    reading, changing = promised()[row]
    if str(outcome) not in {NOT_STRUCK, *(changing if operation.name else reading)}:
        raise AssertionError(f"docs/faults.md does not tell: {row}: {outcome}") from outcome.error
