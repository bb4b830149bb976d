"""``cleanup ALIAS[:PATH]``: remove what killed uploads left behind."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError

from ..leftovers import DAY, find_leftovers, remove_leftovers
from ..storage import NetworkStorage
from .place import Place, place
from .terminal import Terminal

UNITS = {"h": timedelta(hours=1), "d": DAY, "w": 7 * DAY}


def age(text: str) -> timedelta:
    """Read an age such as ``36h``, ``2d`` or ``1w``; for argparse."""
    match = re.fullmatch(r"(\d{1,5})([hdw])", text)
    if match is None:
        raise ArgumentTypeError(f"{text!r} is no age: write hours, days or weeks, as 36h, 2d or 1w")
    return int(match[1]) * UNITS[match[2]]


def add_arguments(parser: ArgumentParser) -> None:
    """Tell what may follow the subcommand's name."""
    parser.add_argument("place", metavar="ALIAS:[PATH]", type=place, help="where to begin")
    parser.add_argument(
        "--older-than", metavar="AGE", type=age, default=DAY, help="an hour or more; default: 1d"
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what would be removed")


def run(options: dict[str, Any], terminal: Terminal) -> int:
    """Remove leftovers, and say which."""
    where: Place = options["place"]
    if not isinstance(where.storage, NetworkStorage):
        raise CommandError(f"{where.alias} is no SFTP or WebDAV storage: there are no leftovers.")
    clean = find_leftovers if options["dry_run"] else remove_leftovers
    try:
        found = list(clean(where.storage, older_than=options["older_than"], path=where.path))
    except ValueError as error:
        raise CommandError(str(error)) from error
    for leftover in found:
        terminal.line(f"{where.alias}:{leftover.name}  {leftover.age // timedelta(hours=1)} h old")
    verb = "would be removed" if options["dry_run"] else "removed"
    terminal.line(f"{len(found)} leftover{'s' * (len(found) != 1)} {verb}")
    return 0
