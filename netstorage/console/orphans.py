"""``orphans ALIAS``: files that no row refers to, and rows whose file is missing.

The worst that could happen is that a file goes which is in use. So what is in doubt stays, and what
cannot be read ends the command.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from django.conf import STATICFILES_STORAGE_ALIAS, settings
from django.core.exceptions import ImproperlyConfigured, SuspiciousFileOperation
from django.core.files.storage import FileSystemStorage, storages
from django.core.management.base import CommandError

from ..bulk import default_threads, run_many
from ..exceptions import ConnectError, PoolClosed
from ..leftovers import AT_LEAST, DAY, _server_time
from ..session import Stat
from ..storage import NetworkStorage
from .cleanup import age
from .names import Names, tails
from .place import Place, storage_of, unusable
from .rows import Column, columns, may_touch, root_of
from .terminal import Failures, Terminal, reason, shown, size_of

HOUR = timedelta(hours=1)


def top(alias: str) -> Place:
    """Read an alias as the root of its storage; for argparse."""
    return Place(alias, storage_of(alias), "")


def orphans_arguments(parser: ArgumentParser) -> None:
    """Tell what may follow the subcommand's name."""
    parser.add_argument("top", metavar="ALIAS", type=top, help="a storage of STORAGES")
    parser.add_argument("--delete", action="store_true", help="delete the files that it shows")
    parser.add_argument(
        "--older-than",
        metavar="AGE",
        type=age,
        default=DAY,
        help="pass over younger files; an hour or more; default: 1d",
    )


def orphans(options: dict[str, Any], terminal: Terminal) -> int:
    """Find files that no row refers to, and rows whose file is missing."""
    where: Place = options["top"]
    delete: bool = options["delete"]
    if options["older_than"] < AT_LEAST:
        raise CommandError("--older-than is an hour at the least: files are saved before rows.")
    of_others = set(roots_below(where))
    fields = list(columns(where.storage))
    if delete:
        refuse(where, fields)
    failed = Failures("deleted" if delete else "looked at")
    with closing(Names(root_of(where.storage))) as names:
        # Files first, rows after: what is saved in between is not in the list, and a file in it has
        # its row read, if that was committed by then. For what is committed later there is the age,
        # and the question that is asked again before a file is deleted.
        for directory, files, links in listed(where, of_others, failed):
            if delete and links:
                raise CommandError(
                    f"{directory / links[0]} is a symbolic link, and what it leads to may be in "
                    "use: nothing is deleted. `rm` removes files."
                )
            names.add_files((directory / name).path for name in files + links)
        for column in fields:
            names.add_rows(column)
        missing = 0
        for line in missing_files(where, names, failed):
            missing += 1
            terminal.line(f"{line}: the file is missing")
        if delete and names.are_strange():
            raise CommandError(
                f"No row refers to any file of {where.alias}: is this the right database? "
                "Nothing is deleted; `rm` removes files."
            )
        work = Work(where, fields, options["older_than"], delete)
        work.run(names, failed, terminal)
    for count, why in (
        (work.young, "younger"),
        (work.taken + names.alike, "with a name that a row may mean"),
    ):
        if count:
            terminal.line(f"passed over: {count} {why}")
    terminal.line(
        f"{_counted(work.count, 'orphan')}{' deleted' * delete} ({size_of(work.size)}), "
        f"{_counted(missing, 'row')} without {'its file' if missing == 1 else 'their files'}"
    )
    failed.end()
    return int(bool(missing or (work.count and not delete)))


def roots_below(where: Place) -> Iterator[str]:
    """Find directories that are the roots of other aliases: what lies there is their matter.

    Raises:
        CommandError: The storage's own root is among static files, which no row refers to.
    """
    here = root_of(where.storage)
    for alias in settings.STORAGES:
        try:
            there = root_of(storages[alias])
        except Exception as error:  # whatever another's storage raises
            # Without STATIC_URL and STATIC_ROOT there are no static files.
            if alias == STATICFILES_STORAGE_ALIAS and isinstance(error, ImproperlyConfigured):
                continue
            raise CommandError(shown(unusable(alias, error))) from error
        if not may_touch(storages[alias], where.storage):
            continue
        if alias == STATICFILES_STORAGE_ALIAS and here[: len(there)] == there:
            raise CommandError(
                f"{where.alias} has static files, too, which no row refers to: give the alias "
                f"{alias!r} a location of its own."
            )
        if here != there and there[: len(here)] == here:
            yield "/".join(there[len(here) :])


def refuse(where: Place, fields: list[Column]) -> None:
    """Refuse to delete from what is no storage of uploads, or may not be changed.

    Raises:
        CommandError: It is none.
        PermissionError: It has the option ``read_only``.
    """
    if isinstance(where.storage, NetworkStorage):
        where.storage._refuse_read_only(where.alias)
    if isinstance(where.storage, FileSystemStorage) and not where.storage.base_location:
        raise CommandError(
            f"{where.alias} is the working directory: set MEDIA_ROOT, or its option 'location'."
        )
    if not any(column.is_own for column in fields):
        raise CommandError(
            f"No FileField uses the storage {where.alias!r}, so nobody knows whose its files are. "
            "Nothing is deleted; `rm` removes files."
        )


def listed(
    where: Place, of_others: set[str], failed: Failures
) -> Iterator[tuple[Place, list[str], list[str]]]:
    """Give each directory, several being listed at once, with its files and its links to files.

    Names that begin with a dot are left out: a root may be the home directory of the account.
    """
    threads = default_threads(where.storage)
    level = [where]
    while level:
        run = run_many(Place.entries, level, threads=threads)
        level = []
        with closing(run):
            for directory, future in run:
                if (error := future.exception()) is not None:
                    failed.add(directory, error)
                    if directory is where:
                        failed.end()
                    continue
                files: list[str] = []
                links: list[str] = []
                for entry in future.result():
                    inner = directory / entry.name
                    if entry.name.startswith(".") or inner.path in of_others:
                        continue
                    is_link = entry.is_link or inner._is_link()
                    if not entry.is_dir:
                        (links if is_link else files).append(entry.name)
                    elif not is_link:
                        level.append(inner)
                yield directory, files, links


def missing_files(where: Place, names: Names, failed: Failures) -> Iterator[str]:
    """Ask for each file that was not listed whether it is there; tell which rows lack theirs."""

    def is_missing(name: str) -> bool:
        try:
            return not where.storage.exists(name)
        except SuspiciousFileOperation:
            return True

    threads = default_threads(where.storage)
    for chunk in names.not_listed():
        lines = {name: told for name in chunk if (told := names.lines_of(name))}
        missing = []
        with closing(run_many(is_missing, lines, threads=threads)) as run:
            for name, future in run:
                if (error := future.exception()) is not None:
                    failed.add(replace(where, path=name), error)
                elif future.result():
                    missing.append(name)
        for name in sorted(missing):
            yield from lines[name]


@dataclass
class Work:
    """What is done with orphans: they are shown, or deleted and shown.

    Attributes:
        where: The root of the storage.
        columns: What is asked again before a file is deleted.
        older_than: The age that they have.
        delete: Whether they are deleted.
        count: How many there were.
        size: How many bytes they had together.
        young: How many were younger.
        taken: How many are used since the rows were read.
    """

    where: Place
    columns: list[Column]
    older_than: timedelta
    delete: bool
    count: int = 0
    size: int = 0
    young: int = 0
    taken: int = 0
    _now: float = field(default_factory=time.time)

    def run(self, names: Names, failed: Failures, terminal: Terminal) -> None:
        """Do it with what no row has.

        Raises:
            CommandError: With what was done: on Ctrl-C, or if the server is not reached any more.
        """
        storage = self.where.storage
        try:
            threads = default_threads(storage)
            if self.delete and isinstance(storage, NetworkStorage):
                # A server's clock need not be right. A dry run writes nothing to learn it.
                self._now = _server_time(storage, "")
            for chunk in names.orphans():
                self._do(self._unused(chunk) if self.delete else chunk, threads, failed, terminal)
        except KeyboardInterrupt:
            raise CommandError(f"Interrupted{self._before()}.", returncode=130) from None
        except (ConnectError, PoolClosed) as error:
            raise CommandError(reason(error) + self._before()) from error

    def _unused(self, chunk: list[str]) -> list[str]:
        """Ask whether rows have come to refer to files while the storage was listed."""
        top = root_of(self.where.storage)
        ends = {name: tails("/".join([*top, name])) for name in chunk}
        taken: set[str] = set()
        for column in self.columns:
            if column.is_own:
                taken |= column.which_of(chunk)
            else:
                used = column.which_of({end for each in ends.values() for end in each})
                taken |= {name for name, each in ends.items() if not used.isdisjoint(each)}
        unused = [name for name in chunk if name not in taken]
        self.taken += len(chunk) - len(unused)
        return unused

    def _do(self, chunk: list[str], threads: int, failed: Failures, terminal: Terminal) -> None:
        done: dict[str, Stat] = {}

        def do(name: str) -> bool:
            place = replace(self.where, path=name)
            stat = place.stat()
            if stat.mtime is None and self.delete:
                raise _Timeless
            if stat.mtime is not None and self._age(stat.mtime) <= self.older_than:
                return False
            if self.delete:
                place.delete()
            done[name] = stat
            return True

        try:
            with closing(run_many(do, chunk, threads=threads)) as run:
                for name, future in run:
                    error = future.exception()
                    if isinstance(error, _Timeless):
                        raise CommandError(
                            f"{self.where.alias} does not tell when a file changed last; it may be "
                            "one whose row is to come. `rm` removes files."
                        )
                    if error is None:
                        self.young += not future.result()
                    elif not isinstance(error, FileNotFoundError):  # somebody else was faster
                        failed.add(replace(self.where, path=name), error)
        finally:
            # Whatever has ended it, what was deleted is told.
            for name, stat in sorted(done.items()):
                self.count += 1
                self.size += stat.size or 0
                size = "-" if stat.size is None else size_of(stat.size)
                hours = None if stat.mtime is None else self._age(stat.mtime) // HOUR
                old = "-" if hours is None else f"{hours} h" if hours < 48 else f"{hours // 24} d"
                terminal.line(f"{replace(self.where, path=name)}  {size}  {old}")
            terminal.flush()

    def _age(self, mtime: float) -> timedelta:
        return timedelta(seconds=self._now - mtime)

    def _before(self) -> str:
        return f" ({_counted(self.count, 'orphan')} deleted before)" * self.delete


class _Timeless(Exception):
    """Nobody tells when a file changed last."""


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
