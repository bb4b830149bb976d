"""Bytes on this machine, on their way from a server or to it."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from typing import IO, TYPE_CHECKING, cast

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


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
        self._roll_over(self._file.tell() + memoryview(data).nbytes)
        return self._file.write(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position."""
        if whence == os.SEEK_CUR:
            offset += self.tell()
        elif whence == os.SEEK_END:
            offset += self.size()
        require_position(offset)
        return self._file.seek(offset)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        """Cut or extend to ``size`` bytes."""
        size = self.tell() if size is None else size
        require_position(size)
        self.dirty = True
        self._roll_over(size)
        self._file.truncate(size)
        missing = size - self.size()
        if missing > 0:  # BytesIO does not extend; real files do
            position = self._file.tell()
            self._file.seek(0, os.SEEK_END)
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

    def _roll_over(self, size: int) -> None:
        """Move to the disk before ``size`` bytes outgrow the memory they may take."""
        if not isinstance(self._file, io.BytesIO) or size <= self._max_memory:
            return
        position = self._file.tell()
        disk = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 - closed by close()
        try:
            disk.write(self._file.getbuffer())
            disk.seek(position)
        except BaseException:
            disk.close()
            raise
        self._file = cast("IO[bytes]", disk)


def require_position(position: int) -> None:
    """Refuse a negative position as files do; BytesIO would take some for 0."""
    if position < 0:
        raise OSError(errno.EINVAL, f"{position} is no position in a file")
