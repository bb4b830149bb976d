"""What lies on this machine, written as its path, and how a file on its disk gets its name."""

from __future__ import annotations

import errno
import os
import stat as modes
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.core.exceptions import SuspiciousFileOperation
from django.core.files.base import File

from ..session import Entry, Stat, is_entry
from ..storage import hidden_name, is_temporary
from .content import Content

Key = tuple[int, tuple[str, ...]]


class Taken(FileExistsError):
    """The name is another's, and may not be overwritten."""

    def __init__(self, name: object, *, is_dir: bool) -> None:
        message = "is there already; --force replaces it"
        if is_dir:
            message = "is there already, and is a directory"
        super().__init__(errno.EEXIST, message, str(name))


@dataclass(frozen=True)
class Local:
    """A file or directory on this machine, or where one may come to be.

    Attributes:
        path: Its path.
        slash: Whether it was written with a slash at the end, as a directory.
        top: The directory that what lies below it must not leave by a symbolic link.
    """

    path: Path
    slash: bool = False
    top: Path | None = None

    def __str__(self) -> str:
        """Return the path."""
        return str(self.path)

    def __truediv__(self, name: str) -> Local:
        """Return what has that name in this directory."""
        if Path(name).name != name:  # on Windows more than a slash leads elsewhere
            raise SuspiciousFileOperation(f"the name {name!r} leads elsewhere")
        return Local(self.path / plain(name), top=self.top or self.path)

    @property
    def name(self) -> str:
        """The last part of the path; ``.`` and ``..`` have none."""
        return self.path.name if self.path.name != ".." else ""

    def key(self) -> Key:
        """Return what is equal for one file, and for a place on this machine's disk."""
        return 0, parts(os.path.realpath(self.path))

    def exists(self) -> bool:
        """Tell whether something lies there, be it a link to nowhere."""
        return os.path.lexists(self.path)

    def is_dir(self, *, follow: bool = True) -> bool:
        """Tell whether it is a directory, or a link to one if those are followed."""
        return self.path.is_dir() and (follow or not self.path.is_symlink())

    def entries(self) -> list[Entry]:
        """Tell what lies in this directory, sorted; what is not finished does not show."""
        return visible(_scan(self.path))

    def stat(self) -> Stat:
        """Tell what the system tells of a file."""
        refuse_special(not self.path.is_file() and self.path.exists(), self)
        stat = self.path.stat()
        return Stat(size=stat.st_size, mtime=stat.st_mtime)

    def open(self) -> File[Any]:
        """Open a file for reading."""
        return File(self.path.open("rb"))

    def write(self, content: Content, *, force: bool, mtime: float | None = None) -> None:
        """Make a file that gets its name when it is whole; only with ``force`` it may be another's.

        Args:
            content: What is written.
            force: Whether it replaces a file.
            mtime: When it was modified last, where that is known.
        """
        if not force and self.exists():
            raise Taken(self, is_dir=self.is_dir())
        self._make_dirs(self.path.parent)
        temporary = self.path.parent / hidden_name()
        with named(temporary, self.path, self, force=force):
            with temporary.open("xb") as file:
                for chunk in content.chunks():
                    file.write(chunk)
            if mtime is not None:
                os.utime(temporary, (mtime, mtime))

    def make_dir(self) -> None:
        """Make the directory."""
        self._make_dirs(self.path)

    def _make_dirs(self, path: Path) -> None:
        for each in (path, *path.parents) if self.top else ():
            if each == self.top:
                break
            if each.is_symlink():
                raise OSError(errno.ELOOP, "is a symbolic link; it may lead elsewhere", str(each))
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            message = f"{error.filename} exists and is not a directory"
            raise NotADirectoryError(errno.ENOTDIR, message, str(path)) from None


def local(text: str) -> Local | None:
    """Read a path on this machine; ``-`` is None, for standard input or output. For argparse."""
    return None if text == "-" else Local(Path(text), text.endswith(os.sep))


def refuse_special(is_special: bool, what: object) -> None:
    """Refuse a pipe or a device: to open it may wait for ever, and everybody else on its session.

    Raises:
        OSError: It is one (EINVAL).
    """
    if is_special:
        raise OSError(errno.EINVAL, "is no regular file", str(what))


@contextmanager
def named(temporary: Path, path: Path, told: object, *, force: bool) -> Iterator[None]:
    """Give what the block writes as ``temporary`` its name: ``path``, in errors ``told``."""
    try:
        yield
        if force:
            temporary.replace(path)
            return
        try:
            # Of all that gives a file a name, only this refuses one that is taken.
            os.link(temporary, path)
        except OSError as error:
            # A disk without hard links: a look just before is all there is.
            if isinstance(error, FileExistsError) or os.path.lexists(path):
                raise Taken(told, is_dir=path.is_dir()) from None
            temporary.rename(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _scan(path: Path) -> list[Entry]:
    """List a directory of this machine; links, pipes and the like tell no more than their names."""

    def told(entry: os.DirEntry[str]) -> Stat | None:
        with suppress(OSError):  # gone by now
            stat = entry.stat(follow_symlinks=False)
            is_dir = modes.S_ISDIR(stat.st_mode)
            if is_dir or modes.S_ISREG(stat.st_mode):
                return Stat(is_dir, stat.st_size, stat.st_mtime)
        return None

    with os.scandir(path) as found:
        return [Entry(x.name, x.is_dir(), x.is_symlink(), told(x)) for x in found]


def visible(entries: Iterable[Entry]) -> list[Entry]:
    """Sort entries, without uploads that are not finished."""
    return sorted((x for x in entries if not is_temporary(x.name)), key=lambda x: x.name)


def plain(name: str) -> str:
    """Return a name that leads nowhere else.

    Raises:
        SuspiciousFileOperation: It does.
    """
    if not is_entry(name):
        raise SuspiciousFileOperation(f"the name {name!r} leads elsewhere")
    return name


def parts(path: str) -> tuple[str, ...]:
    """Return the names in a path."""
    return tuple(part for part in path.split("/") if part)
