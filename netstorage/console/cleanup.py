"""``cleanup ALIAS[:PATH]``: what killed uploads left behind."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError

from ..leftovers import DAY, _remove, find_leftovers
from ..storage import NetworkStorage
from .place import Place, place
from .terminal import Failures, Terminal

UNITS = {"h": timedelta(hours=1), "d": DAY, "w": 7 * DAY}


def age(text: str) -> timedelta:
    """Read an age such as ``36h``, ``2d`` or ``1w``; for argparse."""
    match = re.fullmatch(r"(\d{1,5})([hdw])", text)
    if match is None:
        raise ArgumentTypeError(f"{text!r} is no age: write hours, days or weeks, as 36h, 2d or 1w")
    return int(match[1]) * UNITS[match[2]]


def beginning(text: str) -> Place:
    """Read ``alias:path``, or an alias alone for all that it has; for argparse."""
    return place(text if ":" in text else f"{text}:")


def cleanup_arguments(parser: ArgumentParser) -> None:
    """Tell what may follow the subcommand's name."""
    parser.add_argument("place", metavar="ALIAS[:PATH]", type=beginning, help="where to begin")
    parser.add_argument(
        "--older-than", metavar="AGE", type=age, default=DAY, help="an hour or more; default: 1d"
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what would be removed")


def cleanup(options: dict[str, Any], terminal: Terminal) -> int:
    """Remove what killed uploads left behind."""
    where: Place = options["place"]
    if not isinstance(where.storage, NetworkStorage):
        raise CommandError(f"{where.alias} is no SFTP or WebDAV storage: there are no leftovers.")
    dry_run, failed, count = options["dry_run"], Failures("removed"), 0
    try:
        for leftover in find_leftovers(
            where.storage, older_than=options["older_than"], path=where.path
        ):
            name = f"{where.alias}:{leftover.name}"
            try:
                if not dry_run:
                    _remove(where.storage, leftover.name, is_dir=leftover.is_dir)
            except FileNotFoundError:
                continue  # somebody else was faster
            except OSError as error:
                failed.add(name, error)
                continue
            count += 1
            terminal.line(f"{name}  {leftover.age // timedelta(hours=1)} h old")
    except ValueError as error:
        raise CommandError(str(error)) from error
    verb = "would be removed" if dry_run else "removed"
    terminal.line(f"{count} leftover{'s' * (count != 1)} {verb}")
    failed.end()
    return 0
