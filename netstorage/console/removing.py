"""``rm``: files, and with ``-r`` directories."""

from __future__ import annotations

import errno
import os
from argparse import ArgumentParser
from threading import Event
from typing import Any

from django.core.files.storage import FileSystemStorage

from ..storage import NetworkStorage
from .looking import below
from .place import Place, place
from .steps import Done, Step, Steps, run_steps
from .terminal import Failures, Terminal, reason


def rm_arguments(parser: ArgumentParser) -> None:
    """Tell what may follow the subcommand's name."""
    parser.add_argument("places", metavar="ALIAS:PATH", type=place, nargs="+", help="what goes")
    parser.add_argument(
        "-r", dest="recursive", action="store_true", help="directories, too, with all in them"
    )


def rm(options: dict[str, Any], terminal: Terminal) -> int:
    """Remove files."""
    failed = Failures("removed")
    steps: list[Step] = []
    tops: list[Place] = []
    for where in options["places"]:
        where.require_inside()
        if not where.path:
            failed.add(where, OSError(errno.EINVAL, "is the root of a storage; name what is in it"))
        elif where.is_dir(follow=False):
            if not options["recursive"]:
                failed.add(where, IsADirectoryError(errno.EISDIR, "is a directory; add -r"))
                continue
            tops.append(where)
            for directory, entries in below(where, failed):
                # A link to a directory goes as a file does: alone.
                files = [entry for entry in entries if entry.is_link or not entry.is_dir]
                steps += [Step(directory / entry.name, size=0) for entry in files]
        elif where.exists():
            steps.append(Step(where, size=0))
        else:
            failed.add(where, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))

    def remove(step: Step, done: Done, stop: Event) -> None:
        step.source.delete()

    run_steps(Steps.of(steps), remove, failed, terminal)
    remove_directories(tops, failed)
    failed.end()
    return 0


def remove_directories(tops: list[Place], failed: Failures) -> None:
    """Remove directories with those below them; what is in them is gone, or a known failure."""
    some_stay = bool(failed.lines)
    for top in tops:
        for directory in reversed([each for each, _ in below(top, failed)]):
            has_directories = isinstance(directory.storage, (NetworkStorage, FileSystemStorage))
            if not (has_directories or directory.is_dir()):
                continue  # in a bucket it went with its last file, and may have a file's name
            try:
                directory.delete()
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    failed.add(directory, error)
                elif not some_stay:
                    hint = "hidden files of uploads (.netstorage-…) are in it"
                    if isinstance(directory.storage, NetworkStorage):
                        hint = "`cleanup` knows of hidden files that uploads left"
                    failed.add(directory, OSError(error.errno, f"{reason(error)}; {hint}"))
                    some_stay = True
