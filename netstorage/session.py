"""What a storage may ask of a server: the verbs that every protocol speaks.

A session is one authenticated connection. Paths are ``str`` with ``/`` between segments, as the
storage has checked and joined them; bytes that are not UTF-8 travel as surrogate escapes.

Each verb either does what it says, or raises and has done nothing visible under a final name:

- the server's verdict on a file: FileNotFoundError, FileExistsError, PermissionError,
  IsADirectoryError, NotADirectoryError, or another OSError with ``errno``. The session stays good;
- TimeoutError, ConnectionLost or ProtocolError: the session is of no further use.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar, Protocol

Sink = Callable[[int, memoryview], Any]
"""Takes a piece of a file: its offset in bytes and its content, valid during the call only. The
thread that calls it may be another borrower's."""

SMALL = 255 * 2**10
"""Bytes up to which a transfer may share a session; a longer one would hold up the others."""

LONGEST_LISTING, ENTRY = 2**28, 2**8
"""Bytes of a listing beyond which a server is taken to be lying, and what an entry counts beside
its name: nearly a million entries."""


@dataclass(frozen=True, slots=True)
class Stat:
    """What a server tells of a file or directory; None where it does not tell.

    Attributes:
        is_dir: Whether it is a directory (a collection).
        size: Length in bytes.
        mtime: Last modification, in seconds since the epoch.
        atime: Last access, in seconds since the epoch.
        created: Creation, in seconds since the epoch.
        etag: HTTP's entity tag, without quotes and weakness mark.
        is_special: Whether it is a pipe, a device or a socket: reading it may wait for ever.
    """

    is_dir: bool = False
    size: int | None = None
    mtime: float | None = None
    atime: float | None = None
    created: float | None = None
    etag: str | None = None
    is_special: bool = False

    def same_version(self, other: Stat) -> bool:
        """Tell whether both describe the same content, as far as the server lets one see."""
        seen: list[tuple[object, object]] = [(self.size, other.size), (self.etag, other.etag)]
        if self.etag is None or other.etag is None:
            # HTTP knows no time in the future: Apache says "now", a second later another one.
            seen.append((self.mtime, other.mtime))
        return all(a == b for a, b in seen if a is not None and b is not None)


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory.

    Attributes:
        name: The name.
        is_dir: Whether it is a directory, or a symbolic link to one.
        is_link: Whether it is a symbolic link, as far as the server tells.
        stat: What ``Session.stat()`` would say of it, where the listing tells; of a symbolic link
            that is what it leads to.
    """

    name: str
    is_dir: bool
    is_link: bool = False
    stat: Stat | None = None


def is_entry(name: str) -> bool:
    """Tell whether what a server lists is a name, and leads nowhere else."""
    return name not in {"", ".", ".."} and "/" not in name and "\0" not in name


class Session(ABC):
    """One authenticated connection to a server."""

    concurrency: ClassVar[int] = 1
    """How many borrowers may use the session at the same time, each in a thread of its own."""

    @abstractmethod
    def is_alive(self) -> bool:
        """Tell, without touching the network, whether the session can serve another operation."""

    @abstractmethod
    def ping(self) -> None:
        """Ask the server for a sign of life, within a short deadline; raise if there is none."""

    @abstractmethod
    def close(self) -> None:
        """End the session. Never raises, never waits for the server."""

    @abstractmethod
    def abandon(self) -> None:
        """Drop the session in a forked child: nothing is written to the parent's connection."""

    @abstractmethod
    def stat(self, path: str, *, follow: bool = True) -> Stat:
        """Describe ``path``; with ``follow=False`` a symbolic link itself, where there are such."""

    @abstractmethod
    def listdir(self, path: str, *, details: bool = False) -> Iterable[Entry]:
        """Name what lies in directory ``path``, without ``.`` and ``..``.

        With ``details`` the entries tell what one listing can tell of each file. That takes no more
        requests, but over WebDAV more than twice the bytes.
        """

    @abstractmethod
    def read(self, path: str, start: int, stop: int | None, sink: Sink) -> Stat:
        """Give bytes ``start`` to ``stop`` (None: to the end) of a file to ``sink``.

        A server that ignores ranges may make it more than was asked for. Returns what the file was
        while it was read.
        """

    @abstractmethod
    def write(
        self,
        path: str,
        source: BinaryIO,
        size: int,
        mode: int | None,
        directory_mode: int | None,
        mtime: float | None = None,
    ) -> None:
        """Create ``path`` with ``size`` bytes from the beginning of ``source``, and verify it.

        Directories that are missing are made, too; others may be making them at the same time.

        Args:
            path: A name that nobody else uses; an existing file is refused where the server can.
            source: A local file, read with ``seek`` and ``readinto``.
            size: How many bytes it holds.
            mode: Permission bits, or None for the server's default.
            directory_mode: The same for each directory that has to be made.
            mtime: When the content was modified last, in seconds since the epoch. Where the
                protocol or the server cannot keep it, the file is as old as its upload.

        Raises:
            OSError: See above. Any failure may leave a part of the file.
        """

    @abstractmethod
    def rename(self, source: str, target: str, *, is_dir: bool = False) -> None:
        """Give ``source``, a file or a directory, the name ``target``, or raise FileExistsError."""

    @abstractmethod
    def replace(self, source: str, target: str) -> None:
        """Give the file ``source`` the name ``target``, replacing a file atomically."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove the file, the symbolic link or the empty directory ``path``."""


class Endpoint(Protocol):
    """Where and as whom to connect: hashable, equal for equal connections, secrets out of repr."""

    def connect(self) -> Session:
        """Open a session, or raise ConnectError."""

    def __str__(self) -> str:
        """Name the server in messages, without secrets."""
