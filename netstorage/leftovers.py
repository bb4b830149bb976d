"""What killed uploads left behind: hidden names that nobody will publish any more."""

from __future__ import annotations

import errno
import io
import posixpath
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from .session import Entry, Session
from .storage import NetworkStorage, hidden_name, is_temporary

DAY = timedelta(days=1)
AT_LEAST = timedelta(hours=1)
"""An age that no upload reaches without a sign of life: its time changes with each piece."""

# A page of a sync's journal, as netstorage.console.journal names them.
_PAGE = re.compile(r"[0-9a-f]{32}\.json")


@dataclass(frozen=True)
class Leftover:
    """A hidden file, or over WebDAV perhaps a hidden collection.

    Attributes:
        name: Its name in the storage.
        age: How long ago it changed last, by the server's own clock.
        is_dir: Whether it is a collection: an experiment's, with at the most some empty files, or
            the journal of a sync, with its pages.
    """

    name: str
    age: timedelta
    is_dir: bool


def find_leftovers(
    storage: NetworkStorage, *, older_than: timedelta = DAY, path: str = ""
) -> Iterator[Leftover]:
    """Find what uploads left in directory ``path`` and below, without following symbolic links.

    What changed within ``older_than`` may be an upload that is under way, and is passed over. To
    learn the server's time, a hidden empty file is made in ``path`` and removed.

    Args:
        storage: An ``SFTPStorage`` or ``WebDAVStorage``.
        older_than: The age, an hour at the least.
        path: Where to begin; the storage's root.

    Raises:
        ValueError: ``older_than`` is less than an hour.
        PermissionError: The storage's option ``read_only`` is set.
        OSError: The server does not tell when a file changed (ENOTSUP), or refused to look.
    """
    storage._refuse_read_only(path)
    if older_than < AT_LEAST:
        raise ValueError(f"older_than must be {AT_LEAST} at the least: uploads may be under way")
    return _find(storage, older_than, path, _server_time(storage, path))


def remove_leftovers(
    storage: NetworkStorage, *, older_than: timedelta = DAY, path: str = ""
) -> list[Leftover]:
    """Remove what ``find_leftovers()`` finds; return what was removed.

    It is safe while others upload, and while others remove leftovers, too.

    Raises:
        ValueError: See ``find_leftovers()``.
        OSError: See there; or one could not be removed. What came before it is gone.
    """
    removed = []
    for leftover in find_leftovers(storage, older_than=older_than, path=path):
        with suppress(FileNotFoundError):
            _remove(storage, leftover.name, is_dir=leftover.is_dir)
            removed.append(leftover)
    return removed


def _find(
    storage: NetworkStorage, older_than: timedelta, path: str, now: float
) -> Iterator[Leftover]:
    for entry in _entries(storage, path):
        name = posixpath.join(path, entry.name)
        if is_temporary(entry.name):
            with suppress(FileNotFoundError):
                stat = storage._stat(name, follow=False)
                age = timedelta(seconds=now - _known(stat.mtime, storage, name))
                if age > older_than:
                    yield Leftover(name, age, stat.is_dir)
        elif entry.is_dir and not entry.is_link:
            with suppress(FileNotFoundError):
                yield from _find(storage, older_than, name, now)


def _remove(storage: NetworkStorage, name: str, *, is_dir: bool) -> None:
    if is_dir:
        for entry in _entries(storage, name):
            if is_temporary(entry.name) or _PAGE.fullmatch(entry.name):
                with suppress(FileNotFoundError):  # who removes the same was faster
                    _remove(storage, posixpath.join(name, entry.name), is_dir=entry.is_dir)
    # Not recursive: should there be anything else in it, it stays, and is told.
    storage._run(name, lambda session: session.remove(storage._path(name)))


def _entries(storage: NetworkStorage, path: str) -> list[Entry]:
    return storage._run(path, lambda session: list(session.listdir(storage._path(path))))


def _server_time(storage: NetworkStorage, path: str) -> float:
    """Ask for the time on the server's own clock, which need not be right."""
    name = posixpath.join(path, hidden_name())
    probe = storage._path(name)

    def ask(session: Session) -> float:
        session.write(probe, io.BytesIO(), 0, None, None)
        try:
            return _known(session.stat(probe, follow=False).mtime, storage, name)
        finally:
            session.remove(probe)

    return storage._run(name, ask, repeat=False)


def _known(mtime: float | None, storage: NetworkStorage, name: str) -> float:
    if mtime is None:
        message = f"{storage.pool.endpoint} does not tell when a file changed last"
        raise OSError(errno.ENOTSUP, message, name)
    return mtime
