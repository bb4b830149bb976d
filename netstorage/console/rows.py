"""Which rows refer to files of a storage, in all models and databases, and how they name them."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.apps import apps
from django.core.exceptions import SuspiciousFileOperation
from django.core.files.storage import FileSystemStorage, Storage
from django.core.management.base import CommandError
from django.db import Error, connections, router
from django.db.models import FileField, Model, QuerySet

from ..storage import NetworkStorage
from .place import Place
from .terminal import reason, shown

Parts = tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """A FileField of a model, in one of the databases.

    Attributes:
        field: The field.
        model: Its model.
        database: The alias of the database.
        is_own: Whether its storage is the one that is looked at.
        base: Where its storage begins, if that is comparable with the one that is looked at.
    """

    field: FileField
    model: type[Model]
    database: str
    is_own: bool
    base: Parts | None

    def __str__(self) -> str:
        """Name the model and the field."""
        return f"{self.model._meta.label}.{self.field.name}"

    def rows(self) -> Iterator[tuple[Any, str]]:
        """Give the key of each row that has a file, and the name that it has."""
        name = self.field.name
        with told(self, self.database):
            for key, value in self._all().values_list("pk", name).iterator(chunk_size=2000):
                if value:
                    yield key, str(value)

    def which_of(self, names: Iterable[str]) -> set[str]:
        """Ask which of these names rows have now."""
        name = self.field.name
        # A database takes no bytes that are no text.
        storable = [x for x in names if x == x.encode("utf-8", "ignore").decode()]
        with told(self, self.database):
            rows = self._all().filter(**{f"{name}__in": storable})
            return set(map(str, rows.values_list(name, flat=True)))

    def name_below(self, top: Parts, name: str) -> str | None:
        """Return a row's name as a listing from ``top`` has it; None if nobody can tell."""
        if self.base is None:
            return None
        parts = (*self.base, *cleaned(self.field.storage, name).split("/"))
        return "/".join(parts[len(top) :]) if parts[: len(top)] == top else None

    def _all(self) -> QuerySet[Model]:
        # By none of the managers: what hides deleted rows would hide whose their files are.
        return QuerySet(self.model, using=self.database)


def columns(storage: Storage) -> Iterator[Column]:
    """Find every FileField of the installed apps, whatever its storage, in each database."""
    for model in apps.get_models(include_auto_created=True):
        # What is inherited from a concrete model is in that one's table.
        fields = [x for x in model._meta.local_concrete_fields if isinstance(x, FileField)]
        if not fields or model._meta.proxy:
            continue
        for database in _databases(model):
            for field in fields:
                is_own = is_same(field.storage, storage)
                is_known = is_own or are_comparable(field.storage, storage)
                base = root_of(field.storage) if is_known else None
                yield Column(field, model, database, is_own, base)


def _databases(model: type[Model]) -> list[str]:
    """Return where a model's rows are: where it is read and written, and wherever else it is."""
    found = [router.db_for_read(model), router.db_for_write(model)]
    for database in connections:
        if database not in found and router.allow_migrate_model(database, model):
            tables = connections[database].introspection
            with told(model._meta.label, database):
                if tables.identifier_converter(model._meta.db_table) in tables.table_names(
                    include_views=True
                ):
                    found.append(database)
    return list(dict.fromkeys(found))


@contextmanager
def told(what: object, database: str) -> Iterator[None]:
    """Tell in a line that a database does not answer a query; nothing is done without all rows."""
    try:
        yield
    except Error as error:
        message = shown(reason(error).partition("\n")[0])
        raise CommandError(
            f"{what} cannot be read from the database {database!r} ({message}). "
            "Is it there, and migrated?"
        ) from error


def is_same(one: Storage, other: Storage) -> bool:
    """Tell whether two storages surely hold the same files under the same names."""
    if are_comparable(one, other):
        return root_of(one) == root_of(other)
    made = getattr(one, "_constructor_args", None)
    return one == other or (
        made is not None
        and one.__class__ is other.__class__
        and made == getattr(other, "_constructor_args", None)
    )


def are_comparable(one: Storage, other: Storage) -> bool:
    """Tell whether the paths of two storages are those of one disk, or of one account."""
    if isinstance(one, NetworkStorage) and isinstance(other, NetworkStorage):
        # Nobody has said where an account begins.
        are_absolute = [each.location.startswith("/") for each in (one, other)]
        return one.pool is other.pool and are_absolute[0] == are_absolute[1]
    return isinstance(one, FileSystemStorage) and isinstance(other, FileSystemStorage)


def may_touch(one: Storage, other: Storage) -> bool:
    """Tell whether two storages may be of one disk, account or bucket, as far as is known."""
    known = NetworkStorage, FileSystemStorage
    if isinstance(one, known) or isinstance(other, known):
        return are_comparable(one, other)
    return getattr(one, "bucket_name", None) == getattr(other, "bucket_name", None)


def root_of(storage: Storage) -> Parts:
    """Return where a storage begins; object stores may have a ``location``, too."""
    if isinstance(storage, (NetworkStorage, FileSystemStorage)):
        parts = Place("", storage, "").key()[1]
    else:
        parts = tuple(str(getattr(storage, "location", "")).split("/"))
    return tuple(part for part in parts if part not in {"", "."})


def cleaned(storage: Storage, name: str) -> str:
    """Return a name as a listing has it; what is no name in the storage stays as it is."""
    try:
        if isinstance(storage, NetworkStorage):
            return storage._clean(name)
        if isinstance(storage, FileSystemStorage):
            return Path(os.path.relpath(storage.path(name), storage.path(""))).as_posix()
    except SuspiciousFileOperation:
        return name
    return posixpath.normpath(name).lstrip("/")
