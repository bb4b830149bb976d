"""``ls``, ``tree`` and ``du``: what lies where."""

from __future__ import annotations

import errno
import os
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from django.core.files.storage import FileSystemStorage

from ..bulk import default_threads, run_many
from ..session import Entry, Stat
from ..storage import NetworkStorage
from .place import Place, Side, place
from .terminal import Failures, Terminal, size_of, time_of

TREE = "├── ", "└── ", "│   "
ASCII_TREE = "|-- ", "`-- ", "|   "


def ls_arguments(parser: ArgumentParser) -> None:
    """Tell what may follow the subcommand's name."""
    parser.add_argument("place", metavar="ALIAS:[PATH]", type=place, help="a directory or a file")
    parser.add_argument("-l", dest="long", action="store_true", help="show sizes and times, too")
    parser.add_argument("-R", dest="below", action="store_true", help="list all that lies below")


def ls(options: dict[str, Any], terminal: Terminal) -> int:
    """List what lies in a directory."""
    where: Place = options["place"]
    failed = Failures("listed")

    def show(rows: list[tuple[str, Place, Entry]]) -> None:
        stats: dict[str, Stat] = {}
        if options["long"]:
            asked = [(here, x) for _, here, x in rows if not x.is_dir or _dated(here)]
            stats = _stats(asked, failed)
        for label, here, entry in rows:
            if not options["long"]:
                terminal.line(label)
                continue
            stat = stats.get(here.path, Stat())
            size = "-" if entry.is_dir or stat.size is None else size_of(stat.size)
            time = "-" if stat.mtime is None else time_of(stat.mtime)
            terminal.line(f"{size:>9}  {time:16}  {label}")

    if not _is_dir(where):
        show([(where.path, where, Entry(where.name, False))])
    for number, (directory, entries) in enumerate(below(where, failed) if where.is_dir() else ()):
        if options["below"]:
            if number:
                terminal.line()
            terminal.line(str(directory))
        show([(_label(entry), directory / entry.name, entry) for entry in entries])
        if not options["below"]:
            break
    failed.end()
    return 0


def tree_arguments(parser: ArgumentParser) -> None:
    """Tell what may follow the subcommand's name."""
    parser.add_argument("place", metavar="ALIAS:[PATH]", type=place, help="where to begin")


def tree(options: dict[str, Any], terminal: Terminal) -> int:
    """Draw all that lies below a directory."""
    failed = Failures("listed")
    counts = {True: 0, False: 0}
    fork, end, bar = TREE if terminal.can_show("".join(TREE)) else ASCII_TREE

    def draw(directory: Place, indent: str) -> None:
        entries = listed(directory, failed) or []
        for entry in entries:
            is_last = entry is entries[-1]
            terminal.line(f"{indent}{end if is_last else fork}{_label(entry)}")
            counts[entry.is_dir] += 1
            if entry.is_dir and not entry.is_link:
                draw(directory / entry.name, indent + ("    " if is_last else bar))

    where: Place = options["place"]
    if not _is_dir(where):
        raise NotADirectoryError(errno.ENOTDIR, "is a file", str(where))
    terminal.line(str(where))
    draw(where, "")
    failed.end()
    directories, files = counts[True], counts[False]
    terminal.line(
        f"{directories} {'directory' if directories == 1 else 'directories'}, "
        f"{files} file{'s' * (files != 1)}"
    )
    return 0


def du_arguments(parser: ArgumentParser) -> None:
    """Tell what may follow the subcommand's name."""
    parser.add_argument("place", metavar="ALIAS:[PATH]", type=place, help="where to begin")
    parser.add_argument("-s", dest="sum", action="store_true", help="show the sum alone")


def du(options: dict[str, Any], terminal: Terminal) -> int:
    """Add up the sizes of the files below each directory."""
    where: Place = options["place"]
    failed = Failures("added up")

    def show(here: Place, size: int) -> int:
        if here is where or not options["sum"]:
            terminal.line(f"{size_of(size):>9}  {here}")
        return size

    def measure(directory: Place) -> int:
        entries = listed(directory, failed) or []
        inner = [directory / x.name for x in entries if x.is_dir and not x.is_link]
        files = [(directory / x.name, x) for x in entries if not x.is_dir]
        size = sum(measure(each) for each in inner)
        return show(directory, size + sum(x.size or 0 for x in _stats(files, failed).values()))

    if _is_dir(where):
        measure(where)
    else:
        show(where, where.stat().size or 0)
    failed.end()
    return 0


def _is_dir(where: Place) -> bool:
    """Tell whether it is a directory.

    Raises:
        FileNotFoundError: It is nothing.
    """
    if where.is_dir():
        return True
    if not where.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(where))
    return False


def below(top: Place, failed: Failures) -> Iterator[tuple[Place, list[Entry]]]:
    """Give a directory and each below it with what lies there; no links are followed."""
    waiting = [top]
    while waiting:
        directory = waiting.pop()
        entries = listed(directory, failed)
        if entries is None:
            continue
        yield directory, entries
        inner = [directory / x.name for x in entries if x.is_dir and not x.is_link]
        waiting += reversed(inner)


def listed(directory: Side, failed: Failures) -> list[Entry] | None:
    """Return what lies in a directory; None if that cannot be told, which is one more failure."""
    try:
        return directory.entries()
    except Exception as error:  # noqa: BLE001 - told, and what no other survives is raised
        failed.add(directory, error)
        return None


def _stats(places: list[tuple[Place, Entry]], failed: Failures) -> dict[str, Stat]:
    """Take what the listing told, and ask for the others, many at once.

    What a link to nowhere is stays unknown.
    """
    found = {
        here.path: entry.stat
        for here, entry in places
        if entry.stat is not None and (entry.is_dir or entry.stat.size is not None)
    }
    unknown = [here for here, _ in places if here.path not in found]
    if not unknown:
        return found
    threads = default_threads(unknown[0].storage)
    with closing(run_many(Place.stat, unknown, threads=threads)) as run:
        for here, future in run:
            try:
                found[here.path] = future.result()
            except FileNotFoundError:
                pass
            except Exception as error:  # noqa: BLE001 - as above
                failed.add(here, error)
    return found


def _dated(directory: Place) -> bool:
    """Tell whether the storage's directories have times; in S3 they are not even there."""
    return isinstance(directory.storage, (NetworkStorage, FileSystemStorage))


def _label(entry: Entry) -> str:
    return f"{entry.name}/" if entry.is_dir else entry.name
