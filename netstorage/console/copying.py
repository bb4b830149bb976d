"""One file of a sync: copied whole, compared with its source, or told of."""

from __future__ import annotations

import errno
import hashlib
import time
from dataclasses import astuple, dataclass
from threading import Event, Lock

from ..storage import NetworkStorage
from .content import Content
from .differences import Difference
from .local import Taken
from .place import Place
from .steps import Done


@dataclass
class Counts:
    """What became of files that were to be copied.

    Attributes:
        copied: How many were copied.
        size: How many bytes these have.
        same: How many had the same content already.
        gone: How many were not there any more.
    """

    copied: int = 0
    size: int = 0
    same: int = 0
    gone: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Return what both count."""
        return Counts(*map(sum, zip(astuple(self), astuple(other), strict=True)))


class Copier:
    """Copies files from one directory to another, from any thread.

    Args:
        source: From where.
        dest: To where.
        checksum: Whether what was written is read again and compared.

    Attributes:
        counts: What became of the files.
    """

    def __init__(self, source: Place, dest: Place, *, checksum: bool) -> None:
        self._source = source
        self._dest = dest
        self._checksum = checksum
        self._lock = Lock()
        self.counts = Counts()

    def differs(self, difference: Difference, done: Done, stop: Event) -> bool:
        """Tell whether a file has to be copied; if only the contents can show it, read them."""
        if difference.is_open and self._equal(difference.name, done, stop):
            self._count(Counts(same=1))
            return False
        return True

    def copy(self, difference: Difference, done: Done, stop: Event) -> None:
        """Copy a file if it has to be, and see that it arrived."""
        here = self._source.below(difference.name)
        try:
            if self.differs(difference, done, stop):
                if difference.is_open:
                    done = _nothing  # its bytes were counted when they were compared
                self._write(difference, done, stop)
        except FileNotFoundError:
            if here.exists():
                raise
            self._count(Counts(gone=1))

    def _write(self, difference: Difference, done: Done, stop: Event) -> None:
        here, there = (top.below(difference.name) for top in (self._source, self._dest))
        # What is changed after it was read, but in the same second, would have the same time.
        if 0 < (left := int(difference.mtime or 0) + 1 - time.time()) <= 1:
            stop.wait(left)
        with here.open() as file:
            content = Content(file, done, stop)
            try:
                there.write(
                    content,
                    force=difference.is_there,
                    mtime=difference.mtime,
                    seen_free=not difference.is_there,
                )
            except Taken:
                # It may be another worker's, or another sync's.
                if self._equal(difference.name, _nothing, stop):
                    self._count(Counts(same=1))
                    return
                message = "came to be in the meantime; run sync again to compare it"
                raise FileExistsError(errno.EEXIST, message, str(there)) from None
            size = file.size
        # Ours compare the length before they give a file its name.
        if not isinstance(there.storage, NetworkStorage) and (told := there.stat().size) != size:
            raise OSError(errno.EIO, f"has {told} of {size} bytes after it was written", str(there))
        if self._checksum and not self._equal(difference.name, _nothing, stop):
            raise OSError(errno.EIO, "is not what was written", str(there))
        self._count(Counts(copied=1, size=size))

    def _equal(self, name: str, done: Done, stop: Event) -> bool:
        here = _digest(self._source.below(name), done, stop)
        return here == _digest(self._dest.below(name), _nothing, stop)

    def _count(self, more: Counts) -> None:
        with self._lock:
            self.counts += more


def _digest(place: Place, done: Done, stop: Event) -> bytes:
    digest = hashlib.sha256()
    with place.open() as file:
        for chunk in Content(file, done, stop).chunks():
            digest.update(chunk)
    return digest.digest()


def _nothing(done: float) -> None:
    """Tell nobody."""
