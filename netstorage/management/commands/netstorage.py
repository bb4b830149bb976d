"""``manage.py netstorage``: look at storages, move files between them, see that all is well."""

from __future__ import annotations

import logging
import os
import sys
from argparse import ArgumentParser
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO, cast

from django.core.exceptions import ImproperlyConfigured, SuspiciousFileOperation
from django.core.management.base import BaseCommand, CommandError

from netstorage.console.terminal import Terminal, told
from netstorage.exceptions import NetStorageError

SUBCOMMANDS = {
    "check": "check",
    "ls": "looking",
    "tree": "looking",
    "du": "looking",
    "cat": "moving",
    "get": "moving",
    "put": "moving",
    "cp": "moving",
    "mv": "moving",
    "rm": "removing",
    "sync": "sync",
    "cleanup": "cleanup",
    "orphans": "orphans",
}
"""In which module of netstorage.console each is, in the order in which help shows them."""

INTERRUPTED = "Interrupted."

PIPE_CLOSED = 128 + 13
"""The status that shells give to a program that a closed pipe has ended."""


class Command(BaseCommand):
    """Calls the function of netstorage.console that a subcommand names."""

    help = "Look at storages, and move files between them."
    # What is wrong with a storage is for `check` to tell.
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Let each subcommand have its own."""
        subparsers = parser.add_subparsers(dest="subcommand", metavar="SUBCOMMAND", required=True)
        for name, where in SUBCOMMANDS.items():
            module = import_module(f"netstorage.console.{where}")
            run = getattr(module, name)
            summary = run.__doc__.partition("\n")[0].removesuffix(".")
            subparser = subparsers.add_parser(name, help=summary, description=summary)
            getattr(module, f"{name}_arguments")(subparser)
            subparser.set_defaults(run=run)

    def run_from_argv(self, argv: list[str]) -> None:
        """Run it as a program: Ctrl-C is told in a line also while modules are imported."""
        try:
            super().run_from_argv(argv)
        except KeyboardInterrupt:
            self.stderr.write(f"CommandError: {INTERRUPTED}")
            sys.exit(128 + 2)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the subcommand; exit with its status, or with what went wrong in one line."""
        # Where no logging is set up, Python would write what these say beside our own line.
        for name in ("netstorage.pool", "paramiko"):
            logging.getLogger(name).addHandler(logging.NullHandler())
        with Path(os.devnull).open("w") as nowhere:
            # Below Django's wrappers, which end each piece with a line break. What was closed by
            # who has started this is None.
            streams = cast("list[TextIO | None]", [self.stdout._out, self.stderr._out])
            status = self._run(options, Terminal(*(stream or nowhere for stream in streams)))
        if status:
            sys.exit(status)

    def _run(self, options: dict[str, Any], terminal: Terminal) -> int:
        try:
            status: int = options["run"](options, terminal)
            terminal.flush()
        except BrokenPipeError:
            # Who reads has seen enough, as `head` has.
            terminal.drop()
            return PIPE_CLOSED
        except (NetStorageError, OSError, ImproperlyConfigured, SuspiciousFileOperation) as error:
            raise CommandError(told(error)) from error
        except KeyboardInterrupt:
            raise CommandError(INTERRUPTED, returncode=128 + 2) from None
        return status
