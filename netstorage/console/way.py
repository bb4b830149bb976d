"""The steps of ``check`` that every protocol has: what can be done in the storage's root.

All is done on one session that the check opens itself, under hidden names of its own, which are
removed at the end, whatever happens. The storage's pool lends nothing and remembers nothing.
"""

from __future__ import annotations

import errno
import io
import os
import posixpath
import socket
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from datetime import timedelta
from typing import Any, ClassVar

from ..exceptions import ConnectError, NetStorageError
from ..session import Session, Stat
from ..storage import NetworkStorage, hidden_name
from .findings import SESSION, Note, Step, explain
from .terminal import size_of

LOOKS = 5
"""Questions of which the round trip is the median."""
SIZES = (2**18, 2**20, 2**22)
"""Bytes of a transfer that is timed: the next size follows while one took less than ENOUGH."""
ENOUGH = 0.5
"""Seconds of a transfer that tell its speed."""
CLOCKS = 60.0
"""Seconds by which clocks may differ before it is worth a note."""


class Way(ABC):
    """The whole way to a storage's root, and what can be done there.

    Args:
        storage: The storage.
        stack: Takes what is to be closed and removed at the end.

    Attributes:
        session: The session, once a step has opened it.
        home: What the root is without the option ``location``.
    """

    home: ClassVar[str]
    session: Session

    def __init__(self, storage: NetworkStorage, stack: ExitStack) -> None:
        self.storage = storage
        self.stack = stack
        self.endpoint: Any = storage.pool.endpoint
        self._base = ""
        self._files: Session | None = None
        self._made: list[str] = []
        self._first = self._second = self._bulk = ""
        self._bulk_size = 0
        self._server_ahead: float | None = None

    @abstractmethod
    def connecting(self) -> list[Step]:
        """Return the steps up to a session; the last is called ``session``."""

    @abstractmethod
    def how_published(self) -> str | Note:
        """Tell how a new name is given on this server, once that was done."""

    @abstractmethod
    def how_replaced(self) -> str:
        """Tell how a file is replaced on this server, once that was done."""

    def stat(self, session: Session, directory: str) -> Stat:
        """Describe a directory that may be the root."""
        return session.stat(directory)

    @abstractmethod
    def space(self, directory: str) -> int | None:
        """Return the free bytes on the disk of a directory, where the server tells."""

    def steps(self) -> list[Step]:
        """Return all steps, in their order."""
        there = (SESSION, "root")
        writes = (*there, "write")
        usable = "Set the option location to a folder that this user may use."
        return [
            *self.connecting(),
            Step("root", self._root, (SESSION,), usable),
            Step("round trip", self._round_trip, there),
            Step("space", self._space, there),
            Step("write", self._write, there),
            Step("clock", self._clock, writes),
            Step("ranges", self._ranges, writes),
            Step("publish", self._publish, writes),
            Step("replace", self._replace, (*writes, "publish")),
            Step("upload", self._upload, writes),
            Step("download", self._download, (*writes, "upload")),
            Step("delete", self._delete),
            Step("sessions", self._sessions, there),
        ]

    # Looking

    def _root(self) -> str | Note:
        location = self._base = self.storage.location
        session = self._files = self.storage._entered(self.session)
        # Last in, first out: before the session is closed.
        self.stack.callback(self._clean_up)
        while True:
            try:
                there = self.stat(session, self._base)
                break
            except FileNotFoundError:
                if self._base in {"", "/"}:
                    raise
                if self.storage.options["read_only"]:
                    message = f"{location} does not exist. Correct the option location."
                    raise FileNotFoundError(errno.ENOENT, message) from None
                # Where a link leads out of what does not exist yet is no question.
                session = self._files = self.session
                self._base = posixpath.dirname(self._base)
        if not there.is_dir:
            message = f"{self._base} is a file. Set the option location to a folder."
            raise NotADirectoryError(errno.ENOTDIR, message)
        if self._base == location:
            return f"{location or self.home} exists"
        return Note(
            f"{location} does not exist",
            f"The first save makes it, in {self._base or self.home}, "
            "where the rest is tried. If it should be there, correct the option location.",
        )

    def _round_trip(self) -> str:
        times = []
        for _ in range(LOOKS):
            began = time.monotonic()
            self._look(self.session)
            times.append(time.monotonic() - began)
        return f"{statistics.median(times) * 1000:.1f}\xa0ms for a look (median of {LOOKS})"

    def _space(self) -> str | Note:
        free = self.space(self._base)
        if free is None:
            return "the server does not tell how much is free"
        if free < SIZES[-1]:
            return Note(f"{size_of(free)} free", "Make room on the server's disk.")
        return f"{size_of(free)} free"

    # Writing

    def _write(self) -> str | Note:
        if self.storage.options["read_only"]:
            return Note("not tried", "The option read_only is set: nothing is written to it.")
        content = os.urandom(1000)
        before = time.time()
        self._first = self._make(content)
        after = time.time()
        held = bytearray()
        stat = self._at_root.read(self._first, 0, None, lambda offset, piece: held.extend(piece))
        if held != content:
            raise OSError(errno.EIO, "the server gave back other bytes than it was sent")
        if stat.mtime is not None:
            # Servers tell whole seconds, rounded down.
            ahead = stat.mtime - after if stat.mtime > after else min(0, stat.mtime + 1 - before)
            self._server_ahead = ahead
        return f"{len(content)} bytes written, read and compared"

    def _ranges(self) -> str | Note | None:
        if not self._first:
            return None
        came: list[int] = []
        self._at_root.read(self._first, 100, 200, lambda offset, piece: came.append(len(piece)))
        if sum(came) > 100:
            return Note(
                "the server sends the whole file where a part is asked for",
                "Large files are read slowly; see what lies between: a proxy, a compression.",
            )
        return "a part of a file is read alone"

    def _publish(self) -> str | Note | None:
        if not self._first:
            return None
        session = self._at_root
        second, target = self._make(b"second"), self._name()
        session.rename(self._first, target)
        with suppress(FileExistsError):
            session.rename(second, target)
            message = (
                "a rename over a taken name was not refused. Two saves of one name may lose a "
                "file on this server: see that names differ, or use another server."
            )
            raise OSError(errno.EIO, message)
        self._first = target
        self._second = second
        return self.how_published()

    def _replace(self) -> str | Note | None:
        if not self._first:
            return None
        session = self._at_root
        try:
            session.replace(self._second, self._first)
        except OSError as error:
            if error.errno != errno.ENOTSUP or self.storage.options["allow_overwrite"]:
                raise
            return Note(explain(error)[0], "Leave the option allow_overwrite off on this server.")
        held = bytearray()
        session.read(self._first, 0, None, lambda offset, piece: held.extend(piece))
        if held != b"second":
            raise OSError(errno.EIO, "the server says that it replaced a file, and did not")
        return self.how_replaced()

    def _clock(self) -> str | Note | None:
        ahead = self._server_ahead
        if ahead is None:
            return None
        apart = timedelta(seconds=round(abs(ahead)))
        if abs(ahead) < CLOCKS:
            told = "the server's agrees with this machine's"
            return f"{told}, but for {apart}" if abs(ahead) >= 2 else told
        return Note(
            f"the server's is {apart} {'ahead' if ahead > 0 else 'behind'}",
            "Let both machines ask a time server (NTP): the times of files are the server's.",
        )

    # Bulk

    def _upload(self) -> str | None:
        if not self._first:
            return None
        content = io.BytesIO(os.urandom(SIZES[-1]))

        def send(size: int) -> None:
            self._bulk, self._bulk_size = self._name(), size
            self._at_root.write(self._bulk, content, size, *self._modes)

        return _speed(send, SIZES[-1])

    def _download(self) -> str | None:
        if not self._bulk:
            return None

        def fetch(size: int) -> None:
            self._at_root.read(self._bulk, 0, size, lambda offset, piece: None)

        return _speed(fetch, self._bulk_size)

    # Its end

    def _delete(self) -> str | None:
        if not self._made:
            return None
        count = len(self._made)
        left = self._clean_up()
        if left:
            what = "A hidden file stays on the server; `cleanup` removes it after a day"
            raise OSError(errno.EIO, f"{', '.join(left)} could not be removed. {what}.")
        return f"the {count} hidden files of this check are gone"

    def _clean_up(self) -> list[str]:
        """Remove what is there, also when the check is interrupted; return what may still be."""
        if self._remove_all(self.session):
            # The session may be what broke, or what Ctrl-C has broken.
            with suppress(OSError, NetStorageError), closing(self.endpoint.connect()) as session:
                self._remove_all(session)
        return self._made

    def _remove_all(self, session: Session) -> list[str]:
        """Remove the files of this check; return those that may still be there."""
        for path in reversed(self._made[:]):
            with suppress(OSError, NetStorageError):
                with suppress(FileNotFoundError):
                    session.remove(path)
                if not _is_there(session, path):
                    self._made.remove(path)
        return self._made

    def _sessions(self) -> str:
        wanted = self.storage._limits().max_size
        with ExitStack() as others:
            opened = [self.session]
            try:
                while len(opened) < wanted:
                    session = self.endpoint.connect()
                    others.callback(session.close)
                    for each in (*opened, session):
                        self._look(each)
                    opened.append(session)
            except (OSError, NetStorageError) as error:
                why, _ = explain(error)
                raise ConnectError(
                    f"{len(opened)} of {wanted} at the same time: {why}. Let the server take more, "
                    f'or set the option pool={{"max_size": {len(opened)}}}'
                ) from error
        return f"{wanted} at the same time, as many as the pool's max_size"

    # Names

    @property
    def _at_root(self) -> Session:
        """The session, bound to the storage's root where its options want that."""
        assert self._files is not None  # noqa: S101 - every user of it needs the step "root"
        return self._files

    @property
    def _modes(self) -> tuple[int | None, int | None]:
        return self.storage.file_permissions_mode, self.storage.directory_permissions_mode

    def _look(self, session: Session) -> None:
        """Ask for what is not there: some servers do not describe the root itself."""
        _is_there(session, self._hidden())

    def _hidden(self) -> str:
        return posixpath.join(self._base, hidden_name())

    def _name(self) -> str:
        path = self._hidden()
        self._made.append(path)
        return path

    def _make(self, content: bytes) -> str:
        path = self._name()
        self._at_root.write(path, io.BytesIO(content), len(content), *self._modes)
        return path


def addresses(host: str, port: int, option: str) -> str:
    """Resolve a name, within the time that the system's resolver takes for it."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConnectError(
            f"the name {host!r} cannot be resolved: {why}. Check the option {option}, and the name "
            "servers of this machine."
        ) from error
    return ", ".join(dict.fromkeys(str(address[4][0]) for address in found))


def _is_there(session: Session, path: str) -> bool:
    try:
        session.stat(path, follow=False)
    except FileNotFoundError:
        return False
    return True


def _speed(transfer: Callable[[int], None], longest: int) -> str:
    """Time a transfer that is long enough to tell, and not much longer."""
    for size in SIZES:
        began = time.monotonic()
        transfer(size)
        seconds = time.monotonic() - began
        if size >= longest or seconds > ENOUGH:
            break
    return f"{size_of(round(size / max(seconds, 1e-6)))}/s ({size_of(size)})"
