"""``manage.py netstorage``: look at storages, move files between them, see that all is well."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from importlib import import_module
from typing import Any, TextIO, cast

from django.core.exceptions import ImproperlyConfigured, SuspiciousFileOperation
from django.core.management.base import BaseCommand, CommandError

from netstorage.console.terminal import Terminal
from netstorage.exceptions import NetStorageError

SUBCOMMANDS = ("check", "cleanup")
"""The modules of netstorage.console that are subcommands, in the order in which help shows them."""


class Command(BaseCommand):
    """Calls the module of netstorage.console that a subcommand names."""

    help = "Look at storages, and move files between them."
    # What is wrong with a storage is for `check` to tell.
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Let each subcommand have its own."""
        subparsers = parser.add_subparsers(dest="subcommand", metavar="SUBCOMMAND", required=True)
        for name in SUBCOMMANDS:
            module = import_module(f"netstorage.console.{name}")
            summary = (module.__doc__ or "").partition(": ")[2].partition("\n")[0]
            subparser = subparsers.add_parser(name, help=summary, description=summary.capitalize())
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the subcommand; exit with its status, or with what went wrong in one line."""
        # Below Django's wrappers, which end each piece with a line break.
        terminal = Terminal(cast("TextIO", self.stdout._out), cast("TextIO", self.stderr._out))
        try:
            status: int = options["run"](options, terminal)
        except (NetStorageError, OSError, ImproperlyConfigured, SuspiciousFileOperation) as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            raise CommandError("Interrupted.", returncode=130) from None
        if status:
            sys.exit(status)
