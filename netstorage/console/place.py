"""Where something lies: an alias of STORAGES and a path, written ``alias:path``."""

from __future__ import annotations

import difflib
import posixpath
from argparse import ArgumentTypeError
from collections.abc import Iterator
from dataclasses import dataclass, replace

from django.conf import settings
from django.core.files.storage import Storage, storages

from ..storage import NetworkStorage


@dataclass(frozen=True)
class Place:
    """A file or directory in a storage, or where one may come to be.

    Attributes:
        alias: The storage's name in STORAGES.
        storage: The storage: ours, or any other.
        path: The name in it; "" is its root.
    """

    alias: str
    storage: Storage
    path: str

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"{self.alias}:{self.path}"

    def __truediv__(self, name: str) -> Place:
        """Return what has that name in this directory."""
        return replace(self, path=posixpath.join(self.path, name))

    def is_dir(self) -> bool:
        """Tell whether it is a directory."""
        if isinstance(self.storage, NetworkStorage):
            try:
                return self.storage._stat(self.path).is_dir
            except (FileNotFoundError, NotADirectoryError):
                return False
        try:
            directories, files = self.storage.listdir(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        # Storages without directories, such as S3, list any name as an empty one.
        return bool(directories or files or not self.path) or self.storage.exists(self.path)

    def walk(self) -> Iterator[tuple[Place, list[str], list[str]]]:
        """Give this directory and each below with the names of its directories and files."""
        directories, files = (sorted(names) for names in self.storage.listdir(self.path))
        yield self, directories, files
        for name in directories:
            yield from (self / name).walk()


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
        ArgumentTypeError: There is none of that name.
    """
    return storages[known_alias(alias)]


def place(text: str) -> Place:
    """Read ``alias:path``; for argparse.

    Raises:
        ArgumentTypeError: It is not written so, or there is no such alias.
    """
    alias, colon, path = text.partition(":")
    if not colon:
        raise ArgumentTypeError(f"{text!r} is not of the form alias:path")
    return Place(alias, storage_of(alias), path.strip("/"))
