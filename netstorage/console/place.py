"""Where something lies: an alias of STORAGES and a path, written ``alias:path``."""

from __future__ import annotations

import difflib
import errno
import os
import posixpath
import tempfile
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files.base import ContentFile, File
from django.core.files.storage import FileSystemStorage, Storage, storages

from ..session import Entry, Session, Stat
from ..storage import NetworkStorage, hidden_name
from .content import Content
from .findings import explain
from .local import Key, Local, Taken, named, parts, plain, refuse_special, visible


@dataclass(frozen=True)
class Place:
    """A file or directory in a storage, or where one may come to be.

    Attributes:
        alias: The storage's name in STORAGES.
        storage: The storage: ours, or any other.
        path: The name in it; "" is its root.
        slash: Whether it was written with a slash at the end, as a directory.
    """

    alias: str
    storage: Storage
    path: str
    slash: bool = False

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"{self.alias}:{self.path}"

    def __truediv__(self, name: str) -> Place:
        """Return what has that name in this directory."""
        return replace(self, path=posixpath.join(self.path, plain(name)), slash=False)

    def below(self, path: str) -> Place:
        """Return what has that path below this directory; "" is the directory itself."""
        names = [plain(name) for name in path.split("/") if name]
        # Made for each of a million files; replace() would take several times as long.
        return Place(self.alias, self.storage, posixpath.join(self.path, *names)) if names else self

    @property
    def name(self) -> str:
        """The last part of the path; the root has none."""
        return posixpath.basename(self.path)

    def key(self) -> Key:
        """Return what is equal for one file, however its place is written, as far as is known."""
        if isinstance(self.storage, NetworkStorage):
            return id(self.storage.pool), parts(self.storage._path(self.path))
        if isinstance(self.storage, FileSystemStorage):
            return Local(Path(self.storage.path(self.path))).key()
        return id(self.storage), parts(self.path)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Let what the block raises name this place as it is written, alias and all."""
        try:
            yield
        except OSError as error:
            error.filename = str(self)
            raise

    def require_inside(self, *, follow: bool = False) -> None:
        """Refuse to remove on this machine what a symbolic link leads to outside of the storage.

        Over SFTP the option confine_links does. A link itself may go, unless it is to be followed.

        Raises:
            PermissionError: It does not lie in the storage's location.
        """
        if not (isinstance(self.storage, FileSystemStorage) and self.path):
            return
        path = Path(self.storage.path(self.path))
        real = (path if follow else path.parent).resolve()
        if not real.is_relative_to(Path(self.storage.location).resolve()):
            message = f"a symbolic link leads out of the storage, to {real}; remove it there"
            raise PermissionError(errno.EACCES, message, str(self))

    # Looking

    def exists(self) -> bool:
        """Tell whether something lies there."""
        with self.told():
            if not self.path or self.storage.exists(self.path):
                return True
        # An object store's directory is no name of its own.
        return not isinstance(self.storage, (NetworkStorage, FileSystemStorage)) and self.is_dir()

    def is_dir(self, *, follow: bool = True) -> bool:
        """Tell whether it is a directory, or a link to one if those are followed."""
        if not self.path:
            return True
        if isinstance(self.storage, NetworkStorage):
            try:
                with self.told():
                    return self.storage._stat(self.path, follow=follow).is_dir
            except (FileNotFoundError, NotADirectoryError):
                return False
        try:
            directories, files = self.storage.listdir(self.path)
        except (FileNotFoundError, NotADirectoryError, FileExistsError):
            return False  # the last is InMemoryStorage's word for a file
        if directories or files:
            return follow or not self._is_link()
        # Storages without directories, such as S3, list any name as an empty one.
        if not self.storage.exists(self.path):
            return False
        try:
            self.storage.open(self.path).close()
        except IsADirectoryError:
            return follow or not self._is_link()
        return False

    def _is_link(self) -> bool:
        storage = self.storage
        return isinstance(storage, FileSystemStorage) and Path(storage.path(self.path)).is_symlink()

    def entries(self) -> list[Entry]:
        """Tell what lies in this directory, sorted; uploads that are not finished do not show.

        Raises:
            SuspiciousFileOperation: The listing has a name that would lead elsewhere.
        """
        storage, path = self.storage, self.path
        if isinstance(storage, NetworkStorage):
            where = storage._path(path)
            return visible(
                storage._run(path, lambda session: list(session.listdir(where, details=True)))
            )
        directories, files = storage.listdir(path)
        on_disk: dict[str, Entry] = {}
        if isinstance(storage, FileSystemStorage):
            on_disk = {each.name: each for each in Local(Path(storage.path(path))).entries()}
            if type(storage).size is not FileSystemStorage.size:
                # What is encrypted, say, has another length there.
                on_disk = {name: replace(entry, stat=None) for name, entry in on_disk.items()}
        return visible(
            on_disk.get(name) or Entry(plain(name), is_dir)
            for names, is_dir in ((directories, True), (files, False))
            for name in names
            if name
        )

    def stat(self) -> Stat:
        """Tell what the storage tells of a file."""
        storage, path = self.storage, self.path
        if isinstance(storage, NetworkStorage):
            return storage._stat(path)
        mtime = None
        with suppress(NotImplementedError):
            mtime = storage.get_modified_time(path).timestamp()
        return Stat(size=storage.size(path), mtime=mtime)

    # Files

    def open(self) -> File[Any]:
        """Open a file for reading."""
        if isinstance(self.storage, FileSystemStorage):
            path = Path(self.storage.path(self.path))
            refuse_special(path.exists() and not (path.is_file() or path.is_dir()), self)
        return self.storage.open(self.path, "rb")

    def write(
        self, content: Content, *, force: bool, mtime: float | None = None, seen_free: bool = False
    ) -> None:
        """Make a file that gets its name when it is whole; only with ``force`` it may be another's.

        Storages that are neither ours nor Django's own on disk can rename nothing: there the name
        is looked at just before, and what is replaced is removed first.

        Args:
            content: What is written.
            force: Whether it replaces a file.
            mtime: When it was modified last, if the storage is to keep that and can.
            seen_free: Whether the caller has looked if the name is free.
        """
        storage = self.storage
        if not self.path:
            raise IsADirectoryError(errno.EISDIR, "is the root of the storage", str(self))
        look = not force
        if isinstance(storage, NetworkStorage):
            storage._refuse_read_only(self.path)
            # It refuses a taken name at the end, too: a look only keeps from sending in vain.
            look = look and not seen_free
        if look and self.exists():
            raise Taken(self, is_dir=self.is_dir())
        if isinstance(storage, NetworkStorage):
            with content.source(storage._spool) as (source, size):
                try:
                    storage._store(
                        self.path, source, size, overwrite=force, rename=False, mtime=mtime
                    )
                except FileExistsError:
                    if force or not self.exists():
                        raise
                    raise Taken(self, is_dir=self.is_dir()) from None
        elif isinstance(storage, FileSystemStorage):
            name = posixpath.join(posixpath.dirname(self.path), hidden_name())
            temporary = Path(storage.path(name))
            with named(temporary, Path(storage.path(self.path)), self, force=force):
                saved = storage.save(name, content)  # type: ignore[arg-type] # has chunks()
                self._require_saved_as(name, saved)
                if mtime is not None:
                    os.utime(temporary, (mtime, mtime))
        else:
            with tempfile.TemporaryFile(dir=settings.FILE_UPLOAD_TEMP_DIR) as spool:
                for chunk in content.chunks():
                    spool.write(chunk)
                spool.seek(0)
                if force and storage.get_available_name(self.path) != self.path:
                    storage.delete(self.path)
                saved = storage.save(self.path, File(spool, self.name))
            self._require_saved_as(self.path, posixpath.normpath(saved))

    def _require_saved_as(self, name: str, saved: str) -> None:
        """Let no file stay under a name that nobody asked for."""
        if saved == name:
            return
        self.storage.delete(saved)
        if self.exists():
            raise Taken(self, is_dir=self.is_dir())
        # Django's own take a backslash for a slash.
        raise OSError(errno.EINVAL, f"the storage would have saved it as {saved!r}", str(self))

    def make_dir(self) -> None:
        """Make the directory, where the storage has such: the Storage API can by a file in it."""
        self.storage.delete(self.storage.save((self / hidden_name()).path, ContentFile(b"")))

    def delete(self) -> None:
        """Remove a file, a symbolic link, or an empty directory."""
        if self._is_link():
            # FileSystemStorage takes one to a directory for a directory.
            Path(self.storage.path(self.path)).unlink()
        else:
            self.storage.delete(self.path)

    def rename(self, target: Place, *, force: bool) -> None:
        """Give it another name in the same storage, which is one of ours."""
        storage = self.storage
        assert isinstance(storage, NetworkStorage)  # noqa: S101 - for the type checker
        storage._refuse_read_only(self.path)
        is_dir = self.is_dir(follow=False)
        here, there = storage._path(self.path), storage._path(target.path)

        def move(session: Session) -> None:
            if force and not is_dir:
                session.replace(here, there)
            else:
                session.rename(here, there, is_dir=is_dir)

        # As with save(), a directory that is missing is made. Apache would answer 500.
        parent = replace(target, path=posixpath.dirname(target.path))
        if not parent.is_dir():
            parent.make_dir()
        try:
            storage._run(target.path, move, repeat=False)
        except FileExistsError:
            if not target.exists():
                raise
            raise Taken(target, is_dir=target.is_dir()) from None


Side = Place | Local
"""Where a copy may begin or end."""


def known_alias(text: str) -> str:
    """Read the name of a storage of STORAGES; for argparse.

    Raises:
        ArgumentTypeError: There is none of that name.
    """
    if text not in settings.STORAGES:
        near = difflib.get_close_matches(text, settings.STORAGES, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(settings.STORAGES)}."
        raise ArgumentTypeError(f"STORAGES has no alias {text!r}; {hint}")
    return text


def storage_of(alias: str) -> Storage:
    """Return a storage of STORAGES.

    Raises:
        ArgumentTypeError: There is none of that name, or its settings are of no use.
    """
    try:
        return storages[known_alias(alias)]
    except ArgumentTypeError:
        raise
    except Exception as error:  # whatever another's storage raises
        raise ArgumentTypeError(unusable(alias, error)) from error


def unusable(alias: str, error: Exception) -> str:
    """Tell why a storage of STORAGES cannot be made, and what to do."""
    found, remedy = explain(error)
    return f"STORAGES[{alias!r}]: {found}. {remedy or 'Correct that entry.'}"


def place(text: str) -> Place:
    """Read ``alias:path``; for argparse.

    Raises:
        ArgumentTypeError: It is not written so, there is no such alias, or the path leaves it.
    """
    alias, colon, path = text.partition(":")
    if not colon:
        raise ArgumentTypeError(f"{text!r} is not of the form alias:path")
    clean = posixpath.normpath(path.strip("/") or ".")
    if clean == ".." or clean.startswith("../"):
        raise ArgumentTypeError(f"{text!r} leads out of the storage")
    return Place(alias, storage_of(alias), "" if clean == "." else clean, path.endswith("/"))
