"""Files on a server, as Django's File: read by ranges into a spool, written through one."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Protocol, cast

from django.core.files.base import File

from .exceptions import FileChanged
from .session import Sink, Stat

if TYPE_CHECKING:
    from types import TracebackType

    from _typeshed import ReadableBuffer, WriteableBuffer

FIRST_WINDOW = 8 * 2**10
"""Bytes fetched at least where reading starts or jumps to: a header or a directory of a ZIP."""
WINDOW_GROWTH = 4
LAST_WINDOW = 8 * 2**20
"""Bytes fetched at once at the most while reading goes on in sequence."""


class Remote(Protocol):
    """One file on a server, as a storage offers it to RemoteFile."""

    def stat(self) -> Stat:
        """Describe the file."""

    def read(self, start: int, stop: int | None, sink: Sink) -> Stat:
        """Give a range to ``sink``; see Session.read."""

    def publish(self, source: BinaryIO, size: int, *, exclusive: bool) -> None:
        """Put the content under the file's name, atomically; ``exclusive``: if it is free."""

    def spool(self) -> Spool:
        """Make an empty spool."""


class Spool(io.RawIOBase):
    """Bytes kept in memory up to a limit, then in a temporary file.

    Args:
        max_memory: The limit, in bytes.
        directory: Where the temporary file goes; None: where the system puts them.
        append: Whether each write goes to the end, as with O_APPEND.
    """

    def __init__(
        self, max_memory: int, directory: str | None = None, *, append: bool = False
    ) -> None:
        self._file: IO[bytes] = io.BytesIO()
        self._max_memory = max_memory
        self._directory = directory
        self.append = append
        self.dirty = False
        self._forgotten = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill ``buffer`` from the current position."""
        return cast("io.BufferedIOBase", self._file).readinto(buffer)

    def write(self, data: ReadableBuffer) -> int:
        """Write all of ``data``."""
        if self._forgotten:
            return memoryview(data).nbytes
        self.dirty = True
        if self.append:
            self._file.seek(0, os.SEEK_END)
        written = self._file.write(data)
        self._roll_over()
        return written

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        """Cut or extend to ``size`` bytes."""
        self.dirty = True
        size = self.tell() if size is None else size
        if size > self._max_memory:
            self._roll_over(size)
        self._file.truncate(size)
        missing = size - self.size()
        if missing > 0:  # BytesIO does not extend; real files do
            position = self._file.seek(0, os.SEEK_END) - size + missing
            self._file.write(b"\0" * missing)
            self._file.seek(position)
        return size

    def size(self) -> int:
        """Return the number of bytes held."""
        position = self._file.tell()
        try:
            return self._file.seek(0, os.SEEK_END)
        finally:
            self._file.seek(position)

    def forget(self) -> None:
        """Drop the bytes, and what a buffer above will still flush when it is closed."""
        self._forgotten = True
        self._file.close()
        self._file = io.BytesIO()

    def close(self) -> None:
        """Drop the bytes."""
        self._file.close()
        super().close()

    def _roll_over(self, size: int | None = None) -> None:
        """Move to the disk once the bytes outgrow the memory they may take."""
        if not isinstance(self._file, io.BytesIO):
            return
        position = self._file.tell()
        if max(position, size or 0) <= self._max_memory:
            return
        disk = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 - closed by close()
        try:
            disk.write(self._file.getbuffer())
            disk.seek(position)
        except BaseException:
            disk.close()
            raise
        self._file = cast("IO[bytes]", disk)


class _Ranges(io.RawIOBase):
    """The bytes of a remote file: fetched when they are first read, kept in a spool.

    ``_pieces`` tells, sorted, which ranges are there: (start, stop, place in the spool).
    """

    def __init__(self, remote: Remote, name: str) -> None:
        self._remote = remote
        self._name = name
        self._spool = remote.spool()
        self._pieces: list[tuple[int, int, int]] = []
        self._position = 0
        self._window = FIRST_WINDOW
        self._fetched_to = 0
        self._version: Stat | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
        if base is None:
            base = self.size()
        if base + offset < 0:
            raise OSError(22, f"cannot seek to {base + offset}", self._name)
        self._position = base + offset
        return self._position

    def size(self) -> int:
        """Return the file's length; ask the server only if no answer told it yet."""
        if self._version is None or self._version.size is None:
            self._check(self._remote.stat())
            assert self._version is not None  # noqa: S101 - set by _check; for the type checker
        if self._version.size is None:
            self._fetch(self._fetched_to, None)
            return max((stop for _, stop, _ in self._pieces), default=0)
        return self._version.size

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        if not view:
            return 0
        piece = self._piece_at(self._position)
        if piece is None and not self._at_end():
            self._fetch(self._position, self._position + len(view))
            piece = self._piece_at(self._position)
        if piece is None:
            return 0
        start, stop, place = piece
        count = min(len(view), stop - self._position)
        self._spool.seek(place + self._position - start)
        count = self._spool.readinto(view[:count])
        self._position += count
        return count

    def readall(self) -> bytes:
        # To the end in one fetch, instead of windows that grow.
        start = self._position
        piece = self._piece_at(start)
        missing = piece[1] if piece else start
        if not self._at_end(missing):
            self._fetch(missing, None)
        parts = []
        while piece := self._piece_at(self._position):
            parts.append(self.read(piece[1] - self._position) or b"")
        return b"".join(parts)

    def close(self) -> None:
        if not self.closed:
            self._spool.close()
        super().close()

    def _at_end(self, position: int | None = None) -> bool:
        position = self._position if position is None else position
        size = self._version.size if self._version else None
        return size is not None and position >= size

    def _piece_at(self, position: int) -> tuple[int, int, int] | None:
        index = bisect_right(self._pieces, position, key=lambda piece: piece[0]) - 1
        if index >= 0 and position < self._pieces[index][1]:
            return self._pieces[index]
        return None

    def _fetch(self, start: int, stop: int | None) -> None:
        """Get ``start`` to ``stop``, and ahead of it while reading goes on in sequence."""
        in_sequence = start == self._fetched_to and start > 0
        self._window = (
            min(self._window * WINDOW_GROWTH, LAST_WINDOW) if in_sequence else FIRST_WINDOW
        )
        if stop is not None:
            stop = max(stop, start + self._window)
        size = self._version.size if self._version else None
        for end in (size, self._next_piece(start)):
            if end is not None:
                stop = end if stop is None else min(stop, end)
        arrived: list[tuple[int, int, int]] = []
        place = self._spool.seek(0, os.SEEK_END)

        def sink(offset: int, data: memoryview) -> None:
            nonlocal place
            self._spool.write(data)
            end = offset + len(data)
            if arrived and arrived[-1][1] == offset:
                arrived[-1] = (arrived[-1][0], end, arrived[-1][2])
            else:
                arrived.append((offset, end, place))
            place += len(data)

        self._check(self._remote.read(start, stop, sink))
        for piece in arrived:
            self._keep(piece)
        self._fetched_to = max((end for _, end, _ in arrived), default=start)
        promised = self._version.size if self._version else None
        if promised is not None:
            wanted = promised if stop is None else min(stop, promised)
            if start < wanted and self._piece_at(start) is None:
                raise _changed(
                    self._name,
                    f"the server says {promised} bytes but has none at {start}; "
                    "open the file again to read what it holds now",
                )

    def _next_piece(self, start: int) -> int | None:
        index = bisect_right(self._pieces, start, key=lambda piece: piece[0])
        return self._pieces[index][0] if index < len(self._pieces) else None

    def _keep(self, piece: tuple[int, int, int]) -> None:
        start, stop, place = piece
        # A server that ignores ranges sends again what is there.
        self._pieces = [p for p in self._pieces if not (start <= p[0] and p[1] <= stop)]
        before = self._piece_at(start - 1) if start else None
        if before and before[1] == start and before[2] + start - before[0] == place:
            self._pieces.remove(before)
            piece = (before[0], stop, before[2])
        insort(self._pieces, piece)

    def _check(self, now: Stat) -> None:
        """Refuse to put together a file from two versions of it."""
        if self._version is not None and not self._version.same_version(now):
            raise _changed(
                self._name,
                "the file changed on the server while it was read; open it again to read it anew",
            )
        if self._version is None or (self._version.etag is None and now.size is not None):
            self._version = now


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
        self._file: IO[Any] | None = None
        self._ranges: _Ranges | None = None
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
        if spool is not None and not self._closed and spool.dirty:
            warnings.warn(
                f"{self.name!r} was written to but never closed: nothing was published",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def _reader(self) -> IO[Any]:
        self._ranges = _Ranges(self._remote, self.name or "")
        buffered = io.BufferedReader(self._ranges, FIRST_WINDOW)
        return self._as_mode(buffered)

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
        if self._file is None and self._kind in {"a", "r"}:
            return
        self.file.flush()
        spool = self._spool
        assert spool is not None  # noqa: S101 - made with the stream; for the type checker
        if self._base is not None:
            if not spool.dirty:
                return
            if not self._base.same_version(self._remote.stat()):
                raise _changed(
                    self.name or "",
                    "the file changed on the server while it was edited; nothing was published",
                )
        # What was not there when editing began must not be there now; "w" replaces.
        exclusive = self._kind != "w" and self._base is None
        self._remote.publish(cast("BinaryIO", spool), spool.size(), exclusive=exclusive)


def _changed(name: str, message: str) -> FileChanged:
    error = FileChanged(message)
    error.filename = name
    return error


@contextmanager
def local_source(content: Any, spool: Callable[[], Spool]) -> Iterator[tuple[BinaryIO, int]]:
    """Give content as a local file, with its length in bytes, without closing it.

    Files on disk and in memory are used as they are. Anything else may be slow, may not rewind, or
    may itself read from a storage, so it is spooled before a session is borrowed.

    Args:
        content: A Django File.
        spool: Makes an empty spool.
    """
    local = _local_file(content)
    if local is not None:
        yield local, local.seek(0, os.SEEK_END)
        return
    with spool() as copy:
        for chunk in content.chunks():
            copy.write(chunk.encode() if isinstance(chunk, str) else chunk)
        yield cast("BinaryIO", copy), copy.tell()


def _local_file(content: Any) -> BinaryIO | None:
    # Whoever overrides chunks() means another content than the file below.
    chunks = getattr(type(content), "chunks", None)
    if not getattr(chunks, "__module__", "").startswith("django.core.files."):
        return None
    file = content
    while isinstance(file, (File, tempfile._TemporaryFileWrapper)):
        if isinstance(file, RemoteFile):
            return None
        file = file.file
    local = type(file) is io.BytesIO or (
        type(file) in {io.BufferedReader, io.BufferedRandom} and type(file.raw) is io.FileIO
    )
    return file if local and file.seekable() else None
