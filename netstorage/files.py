"""Files on a server, as Django's File: read by ranges, written through a spool."""

from __future__ import annotations

import errno
import io
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from threading import Event
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from django.core.files.base import File

from .ranges import Ranges, Reader, Remote, changed
from .session import Stat
from .spool import Spool

if TYPE_CHECKING:
    from types import TracebackType

    from _typeshed import WriteableBuffer

broken_off: ContextVar[Event | None] = ContextVar("netstorage_broken_off", default=None)
"""Breaks off the saves in this context once it is set: their content raises at its next read.

Closing the content would not do: for some files this looks like their end.
"""


class RemoteFile(File):  # type: ignore[type-arg] # generic in the stubs only
    """A file on the server; made by ``Storage.open()``.

    Nothing is asked of the server before the first use. Reading fetches what is asked for, in
    windows that grow while reading goes on in sequence, and holds no session in between; seeking is
    free. Writing goes to a spool, and ``close()`` puts the whole under its name at once; leaving a
    ``with`` block by an exception, or ``discard()``, publishes nothing.

    Raises:
        FileChanged: The file changed on the server since its first piece was read.
    """

    def __init__(self, remote: Remote, name: str, mode: str = "rb") -> None:
        kind = mode.replace("b", "").replace("t", "").replace("+", "")
        if kind not in {"r", "w", "a", "x"} or len(set(mode)) != len(mode) or {"b", "t"} <= {*mode}:
            raise ValueError(f"invalid mode: {mode!r}")
        self.name = name
        self.mode = mode
        self._remote = remote
        self._kind = kind
        self._writes = kind != "r" or "+" in mode
        self._closed = False
        self._refused = False
        self._file: IO[Any] | None = None
        self._ranges: Ranges | None = None
        self._spool: Spool | None = None
        self._base: Stat | None = None

    @property
    def file(self) -> IO[Any]:
        """The stream below; made, and for ``a`` and ``r+`` filled, at its first use."""
        if self._closed:
            raise ValueError("I/O operation on closed file.")
        if self._file is None:
            self._file = self._editor() if self._writes else self._reader()
        return self._file

    @file.setter
    def file(self, value: IO[Any] | None) -> None:
        # Django's FieldFile lets go of a file in this way.
        self._file = value

    @property
    def closed(self) -> bool:
        """Whether the file was closed."""
        return self._closed

    @property
    def size(self) -> int:
        """Length in bytes: of what was written so far, or on the server."""
        if self._writes:
            stream = self.file
            stream.flush()
            assert self._spool is not None  # noqa: S101 - made with the stream; for the type checker
            return self._spool.size()
        self.file  # noqa: B018 - makes the reader
        assert self._ranges is not None  # noqa: S101 - made with the stream; for the type checker
        return self._ranges.size()

    def readable(self) -> bool:
        """Tell whether the mode allows reading."""
        return not self._closed and (self._kind == "r" or "+" in self.mode)

    def writable(self) -> bool:
        """Tell whether the mode allows writing."""
        return not self._closed and self._writes

    def seekable(self) -> bool:
        """Tell whether the file is open."""
        return not self._closed

    def open(self, mode: str | None = None, *args: Any, **kwargs: Any) -> RemoteFile:
        """Go back to the beginning; a closed file is opened again."""
        if self._closed:
            # The caller holds this very object, so it is made anew in place.
            self.__init__(self._remote, self.name or "", mode or self.mode)  # type: ignore[misc]
        elif self._file is not None:
            self._file.seek(0)
        return self

    def close(self) -> None:
        """Publish what was written, then close.

        When publishing fails, the error is raised and the file stays open with its content, so that
        ``close()`` can be tried again, or ``discard()`` given up with.
        """
        if self._closed:
            return
        if self._writes:
            self._refused = True
            self._publish()
        self.discard()

    def discard(self) -> None:
        """Close without publishing."""
        self._closed = True
        file, self._file = self._file, None
        if self._spool is not None:
            self._spool.forget()
        if file is not None:
            file.close()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Close; publish nothing when the block failed."""
        if exc_type is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        """Warn of content that nobody published."""
        spool = getattr(self, "_spool", None)
        if spool is None or self._closed or self._refused:
            return
        with suppress(OSError, ValueError):
            if self._file is not None:
                self._file.flush()
        if spool.dirty:
            warnings.warn(
                f"{self.name!r} was written to but never closed: nothing was published",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def _reader(self) -> IO[Any]:
        self._ranges = Ranges(self._remote, self.name or "")
        return self._as_mode(Reader(self._ranges))

    def _editor(self) -> IO[Any]:
        spool = self._remote.spool()
        if self._kind in {"a", "r"}:
            self._base = self._load(spool)
        spool.append = self._kind == "a"
        spool.dirty = False
        if not spool.append:
            spool.seek(0)
        self._spool = spool
        return self._as_mode(
            io.BufferedRandom(spool) if "+" in self.mode else io.BufferedWriter(spool)
        )

    def _as_mode(self, buffered: Any) -> IO[Any]:
        if "b" in self.mode:
            return cast("IO[Any]", buffered)
        return io.TextIOWrapper(buffered, encoding="utf-8")

    def _load(self, spool: Spool) -> Stat | None:
        """Bring what is to be edited; None where appending starts a new file."""

        def sink(offset: int, data: memoryview) -> None:
            spool.seek(offset)
            spool.write(data)

        try:
            stat = self._remote.read(0, None, sink)
        except FileNotFoundError:
            if self._kind == "r":
                raise
            return None
        spool.seek(0, os.SEEK_END)
        return stat

    def _publish(self) -> None:
        if self._file is None and self._kind == "r":
            return
        if self._file is None and self._kind == "a":
            # Nothing to append; but as with Python's open(), a missing file comes to be.
            with suppress(FileNotFoundError):
                self._remote.stat()
                return
        self.file.flush()
        spool = self._spool
        assert spool is not None  # noqa: S101 - made with the stream; for the type checker
        if self._base is not None:
            if not spool.dirty:
                return
            if not self._base.same_version(self._remote.stat()):
                raise changed(
                    self.name or "",
                    "the file changed on the server while it was edited; nothing was published",
                )
        # What was not there when editing began must not be there now; "w" replaces.
        exclusive = self._kind != "w" and self._base is None
        position = spool.tell()
        try:
            self._remote.publish(cast("BinaryIO", spool), spool.size(), exclusive=exclusive)
        finally:
            # The buffer above counts on it, should the file stay open.
            spool.seek(position)


@contextmanager
def local_source(content: Any, spool: Callable[[], Spool]) -> Iterator[tuple[BinaryIO, int]]:
    """Give content as a local file, with its length in bytes, without closing it.

    Files on disk and in memory are used as they are. Anything else may be slow, may not rewind, or
    may itself read from a storage, so it is spooled before a session is borrowed.

    Args:
        content: A Django File.
        spool: Makes an empty spool.

    Raises:
        OSError: ``broken_off`` was set (ECANCELED); reading what is given raises it, too.
    """
    local = _local_file(content)
    if local is not None:
        yield _breakable(local), local.seek(0, os.SEEK_END)
        return
    with spool() as copy:
        for chunk in content.chunks():
            _refuse_broken_off(broken_off.get())
            copy.write(chunk.encode() if isinstance(chunk, str) else chunk)
        yield _breakable(cast("BinaryIO", copy)), copy.tell()


class _Breakable:
    """A local file as sessions read it, until ``flag`` is set."""

    def __init__(self, file: BinaryIO, flag: Event) -> None:
        self.seek = file.seek
        self._readinto = cast("io.BufferedIOBase", file).readinto
        self._flag = flag

    def readinto(self, buffer: WriteableBuffer) -> int:
        _refuse_broken_off(self._flag)
        return self._readinto(buffer)


def _breakable(file: BinaryIO) -> BinaryIO:
    flag = broken_off.get()
    return file if flag is None else cast("BinaryIO", _Breakable(file, flag))


def _refuse_broken_off(flag: Event | None) -> None:
    if flag is not None and flag.is_set():
        raise OSError(errno.ECANCELED, "the transfer was broken off")


def _local_file(content: Any) -> BinaryIO | None:
    # Whoever overrides chunks() or read() means another content than the file below.
    if not (getattr(content.chunks, "__module__", None) or "").startswith("django.core.files."):
        return None
    file = content
    while isinstance(file, (File, tempfile._TemporaryFileWrapper)):
        if isinstance(file, RemoteFile):
            return None
        if isinstance(file, File) and type(file).read is not File.read:
            return None
        file = file.file
    local = type(file) is io.BytesIO or (
        type(file) in {io.BufferedReader, io.BufferedRandom} and type(file.raw) is io.FileIO
    )
    return file if local and file.seekable() else None
