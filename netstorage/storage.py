"""Django's Storage API, told once in the verbs of a session."""

from __future__ import annotations

import errno
import logging
import posixpath
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import count
from pathlib import PurePath
from typing import Any, BinaryIO, TypeVar

from django.conf import settings
from django.core.files.base import File

from . import telemetry
from .exceptions import ConnectionLost, NetStorageError, PoolTimeout, ProtocolError
from .files import RemoteFile, local_source
from .names import NamedStorage, as_text
from .session import SMALL, Session, Sink, Stat
from .spool import Spool

logger = logging.getLogger("netstorage.storage")

T = TypeVar("T")

TEMPORARY = ".netstorage-"
"""Uploads grow under this prefix and 32 hexadecimal digits, beside the name they will get."""
_HIDDEN = re.compile(re.escape(TEMPORARY) + r"[0-9a-f]{32}(-link|\?;)?")

NAMES_TRIED = 100
"""How many names a save tries: a server, or a subclass, may say of every one that it is taken."""
UPLOADS_TRIED = 5
"""How often a content is sent that is gone from the server before it has its name."""

# Storage.save() does not hand its max_length to _save(), which may have to find another name.
_max_length: ContextVar[int | None] = ContextVar("netstorage_max_length", default=None)
# Nor does Storage.get_available_name() count what it asks is_name_available().
_tries: ContextVar[Iterator[int] | None] = ContextVar("netstorage_tries", default=None)


class NetworkStorage(NamedStorage):
    """A Django storage on a server; the protocols derive from it.

    Every option may come from the setting named by ``settings_name``, too; arguments win.

    Raises:
        ImproperlyConfigured: An option is unknown; or, at the first use, missing or of no use.
        SuspiciousFileOperation: From every method: a name leaves ``location``.
        NetStorageError: From every method that talks to the server; see netstorage.exceptions.
    """

    # Sessions

    @telemetry.watched
    def _run(
        self,
        name: str | PurePath,
        operation: Callable[[Session], T],
        *,
        exclusive: bool = False,
        repeat: bool = True,
    ) -> T:
        """Do one operation on a session, and put the storage's name for the file into errors.

        Args:
            name: What the operation is about.
            operation: What to do. A session that had served before and turns out to be lost is
                replaced by another, once, and the operation done again.
            exclusive: Keep the session from others meanwhile, for bulk transfers.
            repeat: Whether doing the operation a second time is safe.
        """
        try:
            try:
                with self.pool.connection(exclusive=exclusive) as session:
                    return operation(self._entered(session))
            except ConnectionLost as error:
                if not (error.reused and repeat):
                    raise
                logger.info("repeating after a lost session: %s", error)
            with self.pool.connection(exclusive=exclusive) as session:
                return operation(self._entered(session))
        except (OSError, NetStorageError) as error:
            error.filename = str(name)
            raise

    def _entered(self, session: Session) -> Session:
        """Return what operations use of a session: protocols may bound it to ``location``."""
        return session

    def _refuse_read_only(self, name: str | PurePath) -> None:
        if self.options["read_only"]:
            raise PermissionError(errno.EROFS, "the storage is read-only (its option)", str(name))

    # Saving

    @property
    def _allow_overwrite(self) -> bool:
        return bool(self.options["allow_overwrite"])

    @telemetry.operation("save")
    def save(self, name: str | None, content: Any, max_length: int | None = None) -> str:
        """Put ``content`` under ``name``, or under an alternative if that is taken.

        Returns:
            The name it got.
        """
        self._refuse_read_only(name or getattr(content, "name", None) or "")
        token = _max_length.set(max_length)
        try:
            return super().save(name, content, max_length=max_length)
        finally:
            _max_length.reset(token)

    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        """Return ``name``, or an alternative that is free.

        Raises:
            FileExistsError: One name after the other was said to be taken, and no end in sight.
        """
        token = _tries.set(count())
        try:
            return super().get_available_name(name, max_length=max_length)
        except FileExistsError as error:
            error.filename = str(name)
            raise
        finally:
            _tries.reset(token)

    def is_name_available(self, name: str, max_length: int | None = None) -> bool:
        """Tell whether ``save()`` may use ``name``: it is free, or may be overwritten."""
        if (tries := _tries.get()) is not None and next(tries) == NAMES_TRIED:
            raise FileExistsError(
                errno.EEXIST,
                f"no free name was found: {NAMES_TRIED} were tried, and each is taken, or so the "
                "server says. If it says so of names that nobody made, save under another name or "
                "in another directory.",
                name,
            )
        if self._allow_overwrite:
            return not (max_length and len(name) > max_length)
        return super().is_name_available(name, max_length=max_length)

    def get_alternative_name(self, file_root: str, file_ext: str) -> str:
        """Return another name to try: with a random suffix, unless names may be overwritten."""
        if self._allow_overwrite:
            return f"{file_root}{file_ext}"
        return super().get_alternative_name(file_root, file_ext)

    def _save(self, name: str, content: File[Any]) -> str:
        self._refuse_read_only(name)
        with local_source(content, self._spool) as (source, size):
            return self._store(name, source, size, overwrite=self._allow_overwrite, rename=True)

    @telemetry.operation("save")
    def _store(
        self,
        name: str,
        source: BinaryIO,
        size: int,
        *,
        overwrite: bool,
        rename: bool,
        mtime: float | None = None,
    ) -> str:
        """Upload under a temporary name, then publish; return the name that it got.

        Args:
            name: The name wanted.
            source: Local file with the content.
            size: Its length in bytes.
            overwrite: Whether a file of that name is replaced.
            rename: Whether another name is taken if that one is; else FileExistsError.
            mtime: When it was modified last, if the server is to keep that.
        """
        name = self._clean(name)
        directory = posixpath.dirname(self._path(name))
        temporaries: list[str] = []

        def upload(session: Session) -> str:
            # A lost session may have left part of a file: each try gets a name of its own.
            temporary = posixpath.join(directory, hidden_name())
            temporaries.append(temporary)
            modes = self.file_permissions_mode, self.directory_permissions_mode
            session.write(temporary, source, size, *modes, mtime)
            return temporary

        try:
            temporary = self._run(name, upload, exclusive=size > SMALL)
            for tries in count(1):
                try:
                    self._publish(name, temporary, size, overwrite)
                except FileExistsError:
                    if not rename or tries == NAMES_TRIED:
                        raise
                    name = self._clean(self.get_available_name(name, _max_length.get()))
                except FileNotFoundError:
                    # Its directory was removed; or rclone removed it for another save of its name.
                    if len(temporaries) >= UPLOADS_TRIED:
                        raise
                    temporary = self._run(name, upload, exclusive=size > SMALL)
                else:
                    break
            temporaries.remove(temporary)
        finally:
            for leftover in temporaries:
                self._remove_temporary(name, leftover)
        return name

    def _publish(self, name: str, temporary: str, size: int, overwrite: bool) -> None:
        """Give the uploaded file its name; if the answer got lost, look what happened."""
        path = self._path(name)

        def move(session: Session) -> None:
            (session.replace if overwrite else session.rename)(temporary, path)

        def settle(session: Session) -> None:
            try:
                session.stat(temporary, follow=False)
                move(session)
            except FileNotFoundError:
                # Only this call knows the temporary name: if it is gone, it was moved.
                if session.stat(path, follow=False).size not in {size, None}:
                    raise

        try:
            self._run(name, move, repeat=False)
        except (ConnectionLost, TimeoutError, ProtocolError) as error:
            if isinstance(error, PoolTimeout):
                raise
            logger.info("looking whether %r was published: %s", name, error)
            self._run(name, settle)

    def _remove_temporary(self, name: str, path: str) -> None:
        try:
            self._run(name, lambda session: session.remove(path))
        except FileNotFoundError:
            pass
        except (OSError, NetStorageError) as error:
            logger.warning("could not remove the temporary file %s: %s", path, error)

    # Reading and looking

    def _open(self, name: str, mode: str = "rb") -> File[Any]:
        if set(mode) & set("wax+"):
            self._refuse_read_only(name)
            if not self._clean(name):
                raise IsADirectoryError(errno.EISDIR, "is the root of the storage", str(name))
        self._clean(name)
        name = as_text(name)
        return RemoteFile(_Remote(self, name), name, mode)

    def _spool(self) -> Spool:
        return Spool(self.max_memory_size, settings.FILE_UPLOAD_TEMP_DIR)

    @telemetry.operation("stat")
    def _stat(self, name: str | PurePath, *, follow: bool = True) -> Stat:
        path = self._path(name)
        return self._run(name, lambda session: session.stat(path, follow=follow))

    @telemetry.operation("read")
    def _read(
        self, name: str, read: Callable[[Session, str], T], start: int, stop: int | None
    ) -> T:
        """Do what reads bytes ``start`` to ``stop`` of a file."""
        path = self._path(name)
        exclusive = stop is None or stop - start > SMALL
        return self._run(name, lambda session: read(session, path), exclusive=exclusive)

    @telemetry.operation("exists")
    def exists(self, name: str) -> bool:
        """Tell whether ``name`` is taken: by a file, a directory, or a link to nowhere."""
        try:
            self._stat(name, follow=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def size(self, name: str) -> int:
        """Return the length of a file in bytes."""
        stat = self._stat(name)
        if stat.is_dir:
            raise IsADirectoryError(errno.EISDIR, "a directory has no size", str(name))
        if stat.size is None:
            raise OSError(errno.ENOTSUP, "the server does not tell the file's size", str(name))
        return stat.size

    @telemetry.operation("listdir")
    def listdir(self, path: str) -> tuple[list[str], list[str]]:
        """Return the names of the directories and of the files in ``path``; "" is the root.

        Uploads that are not finished do not show.
        """
        where = self._path(path)
        directories: list[str] = []
        files: list[str] = []
        for entry in self._run(path, lambda session: list(session.listdir(where))):
            if not is_temporary(entry.name):
                (directories if entry.is_dir else files).append(entry.name)
        return directories, files

    def get_accessed_time(self, name: str) -> datetime:
        """Return when a file was last read, where the protocol tells."""
        return self._time(name, "atime", "time of last access")

    def get_created_time(self, name: str) -> datetime:
        """Return when a file was created, where the protocol tells."""
        return self._time(name, "created", "time of creation")

    def get_modified_time(self, name: str) -> datetime:
        """Return when a file was last modified; aware in UTC if USE_TZ, else in local time."""
        return self._time(name, "mtime", "time of modification")

    def _time(self, name: str, which: str, meaning: str) -> datetime:
        timestamp: float | None = getattr(self._stat(name), which)
        if timestamp is None:
            raise NotImplementedError(f"{self.pool.endpoint} does not tell a file's {meaning}.")
        tz = timezone.utc if settings.USE_TZ else None
        return datetime.fromtimestamp(timestamp, tz=tz)

    # Changing

    @telemetry.operation("delete")
    def delete(self, name: str) -> None:
        """Remove a file or an empty directory; a missing one is no error.

        Raises:
            OSError: A directory is not empty (ENOTEMPTY): nothing is removed recursively.
        """
        if not name or not (path := self._clean(name)):
            raise ValueError("The name must be given to delete().")
        self._refuse_read_only(name)
        path = self._path(path)
        with suppress(FileNotFoundError):
            self._run(name, lambda session: session.remove(path))


def hidden_name() -> str:
    """Return a name that no listing shows; ``cleanup`` knows of what is left under such."""
    return TEMPORARY + secrets.token_hex(16)


def is_temporary(name: str) -> bool:
    """Tell whether a name is that of an upload under way, or of an experiment on the server."""
    return _HIDDEN.fullmatch(name) is not None


@dataclass(frozen=True)
class _Remote:
    """One file of a storage, for RemoteFile."""

    storage: NetworkStorage
    name: str

    def stat(self) -> Stat:
        stat = self.storage._stat(self.name)
        if stat.is_dir:
            raise IsADirectoryError(errno.EISDIR, "is a directory", self.name)
        return stat

    def read(self, start: int, stop: int | None, sink: Sink) -> Stat:
        return self.storage._read(
            self.name, lambda session, path: session.read(path, start, stop, sink), start, stop
        )

    def publish(self, source: BinaryIO, size: int, *, exclusive: bool) -> None:
        if exclusive and self.storage.exists(self.name):
            # Else it would be sent in vain.
            raise FileExistsError(errno.EEXIST, "the name is taken", self.name)
        self.storage._store(self.name, source, size, overwrite=not exclusive, rename=False)

    def spool(self) -> Spool:
        return self.storage._spool()
