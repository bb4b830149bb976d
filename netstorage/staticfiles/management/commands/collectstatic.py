"""``collectstatic`` for storages on a server: make ready here, then send many files at once.

Django's command asks the server several questions for each file, one after the other. This one
collects and post-processes in a local folder, exactly as Django does with a local STATIC_ROOT,
lists what the server has, and sends what it lacks through ``save_many()``. The manifest follows
when all files are there, so a site that reads it finds what it names. For other storages the
command is Django's.
"""

from __future__ import annotations

import copy
import os
import posixpath
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from django.conf import STATICFILES_STORAGE_ALIAS, settings
from django.contrib.staticfiles.management.commands import collectstatic
from django.core.files.base import ContentFile, File
from django.core.files.storage import FileSystemStorage, Storage, storages
from django.core.management.base import CommandError
from django.utils.functional import LazyObject

from netstorage.bulk import Content, default_threads, run_many, save_many
from netstorage.exceptions import NetStorageError
from netstorage.storage import NetworkStorage

T = TypeVar("T")
R = TypeVar("R")

Source = tuple[Storage, str]
"""Where a finder found a file: its storage, and the name there."""


class _Stage:
    """Mixed into a storage's class: its files lie in a local folder instead of on the server."""

    local: FileSystemStorage
    before: Any
    """The storage with what was collected before; None if that will not stay."""
    processed: set[str]

    def _open(self, name: str, mode: str = "rb") -> File[Any]:
        return self.local.open(name, mode)

    def _save(self, name: str, content: File[Any]) -> str:
        saved: str = self.local.save(name, content)
        self.processed.add(saved)
        return saved

    def exists(self, name: str) -> bool:
        return self.local.exists(name)

    def delete(self, name: str) -> None:
        self.local.delete(name)
        self.processed.discard(name)

    def hashed_name(self, name: str, content: Any = None, filename: str | None = None) -> str:
        try:
            hashed: str = super().hashed_name(name, content, filename)  # type: ignore[misc]
        except ValueError:
            if content is not None or self.before is None:
                raise
            # Some file refers to one that was not collected now, but may have been before.
            hashed = self.before.hashed_name(name, content, filename)
        return hashed


class Command(collectstatic.Command):
    """Collects static files on a server, many at a time."""

    def set_options(self, **options: Any) -> None:
        """Begin with nothing found."""
        super().set_options(**options)
        self._found: dict[str, Source] = {}
        self._deleted: list[str] = []

    def collect(self) -> dict[str, list[str]]:
        """Collect; split off from handle() by Django."""
        server = self.storage
        if isinstance(server, LazyObject):
            server = storages[STATICFILES_STORAGE_ALIAS]
        if not isinstance(server, NetworkStorage):
            return super().collect()
        with tempfile.TemporaryDirectory(
            prefix="netstorage-", dir=settings.FILE_UPLOAD_TEMP_DIR
        ) as folder:
            stage = _stage(server, Path(folder), None if self.clear else server)
            original, self.storage = self.storage, stage
            # Here all is done in a dry run, too: how else would it know what would be sent?
            dry_run, self.dry_run = self.dry_run, False
            try:
                collected = super().collect()
                self.dry_run = dry_run
                self._publish(server, stage)
            except (NetStorageError, OSError) as error:
                raise CommandError(str(error)) from error
            finally:
                self.storage, self.dry_run = original, dry_run
        collected["modified"] = self.copied_files
        collected["deleted"] = self._deleted
        return collected

    def clear_dir(self, path: str) -> None:
        """Put ``--clear`` off: what is not collected goes at the end, so that nothing is missed."""
        if not isinstance(self.storage, _Stage):
            super().clear_dir(path)

    def copy_file(self, path: str, prefixed_path: str, source_storage: Storage) -> None:
        """Note a file that was found, and have it at hand for post-processing."""
        if not isinstance(self.storage, _Stage):
            super().copy_file(path, prefixed_path, source_storage)
            return
        self._found[prefixed_path.replace(os.sep, "/")] = source_storage, path
        if self.post_process and hasattr(self.storage, "post_process"):
            with source_storage.open(path) as file:
                self.storage.local.save(prefixed_path, file)

    # From here on: the server

    def _publish(self, server: Any, stage: Any) -> None:
        """Make the server have what was collected."""
        threads = default_threads(server)
        names = self._found.keys() | stage.processed
        there = _listing(server, None if self.clear else names, threads)
        files = dict(self._missing(server, stage, there, threads))
        if self.dry_run:
            for name in files:
                self.log(f"Pretending to copy '{name}'", level=1)
            self.copied_files += files.keys() & self._found.keys()
        else:
            self._send(server, files)
            self._send_manifest(server, stage)
        if self.clear:
            if _has_manifest(stage) and server.manifest_storage is server:
                there.discard(stage.manifest_name)
            self._delete(server, there - names, threads)

    def _missing(
        self, server: Any, stage: Any, there: set[str], threads: int
    ) -> Iterator[tuple[str, Content]]:
        """Find the files that the server does not have as they are here.

        A name that holds the hash of its content stands for this content. Other files are compared
        by their times, as Django does.
        """
        kept = set() if self.clear else there
        for name in stage.processed:
            if name not in kept or not _is_hashed(stage, name):
                yield name, stage.local.path(name)
        plain = {
            name: source for name, source in self._found.items() if name not in stage.processed
        }
        compared = [(name, *source) for name, source in plain.items() if name in kept]
        current = {
            name
            for (name, *_), is_current in _all(partial(_is_current, server), compared, threads)
            if is_current
        }
        for name, (storage, path) in plain.items():
            if name in current:
                self.log(f"Skipping '{name}' (not modified)")
                self.unmodified_files.append(name)
            else:
                yield name, partial(storage.open, path)

    def _send(self, server: Any, files: dict[str, Content]) -> None:
        for saved in save_many(_replacing(server), files.items()):
            if saved.error is not None:
                continue  # told together at the end
            if saved.name != saved.asked:
                raise CommandError(f"'{saved.asked}' was saved under another name: '{saved.name}'")
            self.log(f"Copied '{saved.name}'", level=2)
            if saved.name in self._found:
                self.copied_files.append(saved.name)

    def _send_manifest(self, server: Any, stage: Any) -> None:
        """Publish the manifest, if one was made."""
        if not _has_manifest(stage):
            return
        name = stage.manifest_name
        with stage.manifest_storage.open(name) as file:
            content = ContentFile(file.read())
        target = server.manifest_storage
        if isinstance(target, NetworkStorage):
            _replacing(target).save(name, content)
        else:
            if target.exists(name):
                target.delete(name)
            target.save(name, content)
        server.hashed_files, server.manifest_hash = stage.hashed_files, stage.manifest_hash

    def _delete(self, server: Any, names: set[str], threads: int) -> None:
        """Do what ``--clear`` promises, but first of all remove a manifest of what goes."""
        manifest = names & {getattr(server, "manifest_name", None)}
        for batch in (manifest, names - manifest):
            if self.dry_run:
                for name in batch:
                    self.log(f"Pretending to delete '{name}'", level=2)
                    self._deleted.append(name)
                continue
            for name, _ in _all(server.delete, batch, threads):
                self.log(f"Deleted '{name}'", level=2)
                self._deleted.append(name)


def _stage(server: NetworkStorage, folder: Path, before: NetworkStorage | None) -> Any:
    """Return the like of ``server`` whose files, and manifest, lie in a local folder."""
    stage: Any = copy.copy(server)
    stage.__class__ = type(type(server).__name__, (_Stage, type(server)), {})
    stage.local = FileSystemStorage(folder / "files", allow_overwrite=True)
    stage.before = before
    stage.processed = set()
    if hasattr(stage, "manifest_storage"):
        stage.manifest_storage = FileSystemStorage(folder / "manifest")
    return stage


def _has_manifest(stage: Any) -> bool:
    name = getattr(stage, "manifest_name", None)
    return name is not None and bool(stage.manifest_storage.exists(name))


def _replacing(server: NetworkStorage) -> NetworkStorage:
    """Return the like of ``server`` that replaces files, each in one step."""
    replacing = copy.copy(server)
    replacing._given = {**server._given, "allow_overwrite": True}
    return replacing


def _listing(server: Storage, names: Iterable[str] | None, threads: int) -> set[str]:
    """Return the files that lie in the folders of ``names``; None: in all folders."""
    folders: set[str] = set()
    for name in names or ():
        while name := posixpath.dirname(name):
            folders.add(name)
    there: set[str] = set()
    level = [""]
    while level:
        below = []
        for folder, (directories, files) in _all(partial(_listdir, server), level, threads):
            there.update(posixpath.join(folder, name) for name in files)
            below += [posixpath.join(folder, name) for name in directories]
        level = below if names is None else [folder for folder in below if folder in folders]
    return there


def _listdir(server: Storage, folder: str) -> tuple[list[str], list[str]]:
    try:
        return server.listdir(folder)
    except FileNotFoundError:
        # The root, before the first time.
        return [], []


def _is_current(server: Storage, file: tuple[str, Storage, str]) -> bool:
    name, storage, path = file
    try:
        theirs, ours = server.get_modified_time(name), storage.get_modified_time(path)
    except (FileNotFoundError, NotImplementedError):
        return False
    return theirs.replace(microsecond=0) >= ours.replace(microsecond=0)


def _is_hashed(stage: Any, name: str) -> bool:
    with stage.local.open(name) as file:
        digest = stage.file_hash(name, file)
    return bool(digest) and digest in posixpath.basename(name)


def _all(work: Callable[[T], R], items: Collection[T], threads: int) -> Iterator[tuple[T, R]]:
    """Call ``work`` for all items at once; the first failure ends it."""
    for item, future in run_many(work, items, threads=threads):
        yield item, future.result()
