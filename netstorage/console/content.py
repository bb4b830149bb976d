"""A file on its way from one side to the other."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from django.core.files.base import File

from ..exceptions import FileChanged
from ..files import _local_file, _refuse_broken_off
from ..session import SMALL
from ..spool import Spool

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PIECE = SMALL
"""Bytes of a file that are in memory at a time; all of a small one, which shares a session then."""


class Content:
    """What is written, read in pieces; it tells how far it has come, and can be broken off.

    Args:
        file: The file, which is not closed.
        done: Called with the number of bytes that went by.
        stop: Once it is set, the next piece raises an OSError (ECANCELED).
    """

    def __init__(self, file: File[Any], done: Callable[[float], object], stop: Event) -> None:
        self._file = file
        self._local = _local_file(file)
        self._done = done
        self._stop = stop

    def chunks(self, share: float = 1) -> Iterator[bytes]:
        """Give the pieces in order, as Django's files do, each telling this share of its length."""
        unchanged = self._watch()
        for chunk in self._file.chunks(PIECE):
            self._pass(len(chunk) * share)
            yield chunk
        unchanged()

    def _pass(self, count: float) -> None:
        _refuse_broken_off(self._stop)
        self._done(count)

    @contextmanager
    def source(self, spool: Callable[[], Spool]) -> Iterator[tuple[BinaryIO, int]]:
        """Give it as a session takes it, with its length; what is not local is fetched first."""
        if self._local is not None:
            unchanged, size = self._watch(), self._local.seek(0, os.SEEK_END)

            def passed(count: int) -> None:
                self._pass(count)
                if self._local is not None and self._local.tell() >= size:
                    unchanged()

            yield _watched(self._local, passed), size
            return
        # It goes by twice: when it is fetched, and when it is sent.
        with spool() as copy:
            for chunk in self.chunks(0.5):
                copy.write(chunk)
            yield _watched(copy, lambda count: self._pass(count / 2)), copy.tell()

    def _watch(self) -> Callable[[], None]:
        """Return what raises FileChanged if a file on this disk was written to meanwhile.

        Files of our storages look after that themselves.
        """
        if self._local is None or isinstance(self._local, io.BytesIO):
            return lambda: None
        number = self._local.fileno()

        def version() -> tuple[int, int]:
            stat = os.fstat(number)
            return stat.st_size, stat.st_mtime_ns

        before = version()

        def unchanged() -> None:
            if version() != before:
                raise FileChanged("changed while it was read")

        return unchanged


class _Watched:
    """A local file as sessions read it."""

    def __init__(self, file: BinaryIO | Spool, passed: Callable[[int], None]) -> None:
        self.seek = file.seek
        self._readinto = cast("io.BufferedIOBase", file).readinto
        self._passed = passed

    def readinto(self, buffer: WriteableBuffer) -> int:
        count = self._readinto(buffer)
        self._passed(count)
        return count


def _watched(file: BinaryIO | Spool, passed: Callable[[int], None]) -> BinaryIO:
    return cast("BinaryIO", _Watched(file, passed))
