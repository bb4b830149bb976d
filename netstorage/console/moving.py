"""``cat``, ``get``, ``put``, ``cp`` and ``mv``: files on their way, each whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from threading import Event
from typing import Any

from django.conf import settings
from django.core.files.base import File
from django.core.management.base import CommandError

from ..session import Stat
from ..storage import NetworkStorage
from .content import PIECE, Content
from .local import Local, local, refuse_special
from .looking import listed
from .place import Place, Side, place
from .removing import remove_directories
from .steps import Done, Step, Steps, run_steps
from .terminal import Failures, Terminal, shown


def cat_arguments(parser: ArgumentParser) -> None:
    """Tell what may follow the subcommand's name."""
    parser.add_argument("places", metavar="ALIAS:PATH", type=place, nargs="+", help="a file")


def cat(options: dict[str, Any], terminal: Terminal) -> int:
    """Write files to standard output."""
    failed = Failures("shown")
    for where in options["places"]:
        if not where.path:
            failed.add(where, IsADirectoryError(errno.EISDIR, "is a directory"))
            continue
        for chunk in _pieces(where, failed):
            terminal.data(chunk)
    failed.end()
    return 0


def _pieces(where: Place, failed: Failures) -> Iterator[bytes]:
    """Give what is in a file; that it cannot be read, or no further, is one more failure."""
    try:
        if isinstance(where.storage, NetworkStorage):
            refuse_special(where.stat().is_special, where)
        with where.open() as file:
            yield from file.chunks(PIECE)
    except Exception as error:  # noqa: BLE001 - told, and what no other survives is raised
        failed.add(where, error)


def get_arguments(parser: ArgumentParser) -> None:
    """Tell what may follow the subcommand's name."""
    _sources(parser, "ALIAS:PATH", place, "a file or a directory")
    _target(parser, "LOCAL", local, "a path on this machine; -: standard output")
    _recursive(parser)


def get(options: dict[str, Any], terminal: Terminal) -> int:
    """Copy files from a storage to this machine."""
    if options["target"] is None:
        return cat({"places": options["sources"]}, terminal)
    return _copy(options, terminal)


def put_arguments(parser: ArgumentParser) -> None:
    """Tell what may follow the subcommand's name."""
    _sources(parser, "LOCAL", local, "a path on this machine; -: standard input")
    _target(parser, "ALIAS:PATH", place, "a name, or a directory to put it into")
    _recursive(parser)


def put(options: dict[str, Any], terminal: Terminal) -> int:
    """Copy files from this machine to a storage."""
    if None not in options["sources"]:
        return _copy(options, terminal)
    target: Place = options["target"]
    if len(options["sources"]) > 1 or target.slash or target.is_dir():
        raise CommandError(shown(f"{target}: standard input goes to one file; it needs a name."))
    if sys.stdin is None:
        raise CommandError("Standard input is closed: pipe into it what is to be put.")
    with tempfile.TemporaryFile(dir=settings.FILE_UPLOAD_TEMP_DIR) as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        content = Content(File(file), lambda count: None, Event())
        target.write(content, force=options["force"])
    return 0


def cp_arguments(parser: ArgumentParser) -> None:
    """Tell what may follow the subcommand's name."""
    _sources(parser, "ALIAS:PATH", place, "a file or a directory")
    _target(parser, "ALIAS:PATH", place, "a name, or a directory to put it into")
    _recursive(parser)


def cp(options: dict[str, Any], terminal: Terminal) -> int:
    """Copy files within a storage, or to another one."""
    return _copy(options, terminal)


def mv_arguments(parser: ArgumentParser) -> None:
    """Tell what may follow the subcommand's name."""
    _sources(parser, "ALIAS:PATH", place, "a file or a directory")
    _target(parser, "ALIAS:PATH", place, "a name, or a directory to move it into")


def mv(options: dict[str, Any], terminal: Terminal) -> int:
    """Rename files within a storage, or move them to another one."""
    failed = Failures("moved")
    steps: list[Step] = []
    tops: list[Place] = []
    for source, target, is_dir in _pairs(options, failed):
        source.require_inside()
        if isinstance(source.storage, NetworkStorage):
            with source.told():
                source.storage._refuse_read_only(source.path)
        if not source.path:
            failed.add(
                source, OSError(errno.EINVAL, "is the root of a storage; name what is in it")
            )
        elif _is_rename(source, target):
            steps.append(Step(source, target, size=0))
        elif is_dir and not source.is_dir(follow=False):
            failed.add(source, OSError(errno.ELOOP, "is a symbolic link to a directory"))
        elif is_dir and target.exists():
            failed.add(source, FileExistsError(errno.EEXIST, f"{target} is there already"))
        else:
            steps += _steps(source, target, failed, is_dir=is_dir)
            tops += [source] * is_dir

    def move(step: Step, done: Done, stop: Event) -> None:
        source, target = step.source, step.target
        if _is_rename(source, target):
            source.rename(target, force=options["force"])
        elif step.is_dir:
            target.make_dir()
        else:
            before = source.stat()
            _write(step, done, stop, force=options["force"])
            # If both are one file by two ways, this shows it, too: its time is another one now.
            if not before.same_version(source.stat()) or target.stat().size != before.size:
                raise OSError(errno.EBUSY, "changed while it was copied; it was not removed")
            source.delete()

    run_steps(Steps.of(steps), move, failed, terminal)
    if not failed.lines:
        remove_directories(tops, failed)
    failed.end()
    return 0


def _is_rename(source: Place, target: Place) -> bool:
    return isinstance(source.storage, NetworkStorage) and source.alias == target.alias


def _copy(options: dict[str, Any], terminal: Terminal) -> int:
    failed = Failures("copied")
    steps: list[Step] = []
    for source, target, is_dir in _pairs(options, failed):
        if is_dir and not options["recursive"]:
            failed.add(source, IsADirectoryError(errno.EISDIR, "is a directory; add -r"))
        else:
            steps += _steps(source, target, failed, is_dir=is_dir)

    def copy(step: Step, done: Done, stop: Event) -> None:
        if step.is_dir:
            step.target.make_dir()
        else:
            _write(step, done, stop, force=options["force"])

    run_steps(Steps.of(steps), copy, failed, terminal)
    failed.end()
    return 0


def _write(step: Step, done: Done, stop: Event, *, force: bool) -> None:
    # Only a file on this machine can be given a time.
    mtime = None
    if isinstance(step.target, Local):
        mtime = step.source.stat().mtime if step.mtime is None else step.mtime
    with step.source.open() as file:
        step.target.write(Content(file, done, stop), force=force, mtime=mtime)


def _pairs(options: dict[str, Any], failed: Failures) -> Iterator[tuple[Any, Any, bool]]:
    """Give each source with its target, and whether it is a directory."""
    sources, target = options["sources"], options["target"]
    into = target.slash or target.is_dir()
    if len(sources) > 1 and not into:
        raise CommandError(shown(f"{target} is no directory to take {len(sources)} files."))
    seen: set[str] = set()
    for source in sources:
        there = target / source.name if into and source.name else target
        is_dir = source.is_dir()
        error: OSError | None = None
        if not source.exists():
            error = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        elif is_dir and lies_in(there, source):
            error = OSError(errno.EINVAL, f"cannot go into itself, to {there}")
        elif there.key() == source.key():
            error = OSError(errno.EINVAL, f"is the same file as {there}")
        elif is_dir and there.exists() and not there.is_dir():
            error = NotADirectoryError(errno.ENOTDIR, f"{there} is a file")
        elif str(there) in seen:
            error = FileExistsError(errno.EEXIST, f"another one goes to {there}")
        if error is None:
            seen.add(str(there))
            yield source, there, is_dir
        else:
            failed.add(source, error)


def lies_in(side: Side, directory: Side) -> bool:
    """Tell whether one is the other, or lies below it, as far as is known."""
    (there, path), (here, top) = side.key(), directory.key()
    return there == here and path[: len(top)] == top


def _steps(source: Side, target: Side, failed: Failures, *, is_dir: bool) -> Iterator[Step]:
    """Give all that has to be done to copy a file or a directory."""
    if not is_dir:
        yield from _step(source, target, failed)
        return
    waiting = [(source, target)]
    while waiting:
        here, there = waiting.pop()
        entries = listed(here, failed)
        if entries == []:
            yield Step(here, there, is_dir=True, size=0)
        for entry in entries or ():
            inner, its_target = here / entry.name, there / entry.name
            if entry.is_dir and entry.is_link:
                failed.add(inner, OSError(errno.ELOOP, "is a symbolic link to a directory"))
            elif entry.is_dir:
                waiting.append((inner, its_target))
            else:
                # Asking for those that the listing does not tell would take as long as copying.
                is_asked = entry.stat is None and isinstance(inner, Local)
                told = None if is_asked else entry.stat or Stat()
                yield from _step(inner, its_target, failed, told)


def _step(source: Side, target: Side, failed: Failures, stat: Stat | None = None) -> Iterator[Step]:
    try:
        stat = stat or source.stat()
        refuse_special(stat.is_special, source)
        yield Step(source, target, size=stat.size, mtime=stat.mtime)
    except OSError as error:
        failed.add(source, error)


def _sources(
    parser: ArgumentParser, metavar: str, kind: Callable[[str], object], meaning: str
) -> None:
    parser.add_argument("sources", metavar=metavar, type=kind, nargs="+", help=meaning)


def _target(
    parser: ArgumentParser, metavar: str, kind: Callable[[str], object], meaning: str
) -> None:
    parser.add_argument("target", metavar=metavar, type=kind, help=meaning)
    parser.add_argument("--force", action="store_true", help="replace files that are there already")


def _recursive(parser: ArgumentParser) -> None:
    parser.add_argument(
        "-r", dest="recursive", action="store_true", help="directories, too, with all in them"
    )
