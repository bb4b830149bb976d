"""``check ALIAS``: the whole way to a storage, step by step."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from secrets import token_hex
from typing import Any

from django.core.files.base import ContentFile
from django.core.files.storage import Storage, storages

from ..storage import NetworkStorage, hidden_name
from .findings import Finding, Note, Step, lines, walk
from .place import known_alias
from .terminal import Terminal
from .way import Way


def check_arguments(parser: ArgumentParser) -> None:
    """Tell what may follow the subcommand's name."""
    parser.add_argument("alias", metavar="ALIAS", type=known_alias, help="a storage of STORAGES")
    parser.add_argument("--json", action="store_true", help="a list of objects, for programs")


def check(options: dict[str, Any], terminal: Terminal) -> int:
    """Go the whole way to a storage, and tell at each step what was found."""
    found: list[Finding] = []
    with closing(look_at(options["alias"])) as findings:
        if options["json"]:
            found += findings
            text = json.dumps([asdict(each) for each in found], indent=2)
            terminal.data(text.encode() + b"\n")
        else:
            for line in lines(_kept(findings, found)):
                terminal.line(line)
                terminal.flush()
    return int(any(each.status == "fail" for each in found))


def _kept(findings: Iterator[Finding], found: list[Finding]) -> Iterator[Finding]:
    for finding in findings:
        found.append(finding)
        yield finding


def look_at(alias: str) -> Generator[Finding, None, None]:
    """Look at a storage of STORAGES step by step.

    What it makes on the server has hidden names, and is removed however the check ends; on storages
    that are not ours by their own ``delete()``.
    """
    with ExitStack() as stack:
        yield from walk(_steps(alias, stack))


def _steps(alias: str, stack: ExitStack) -> Iterator[Step]:
    ways: list[Way | Elsewhere] = []

    def settings() -> str | Note:
        storage = storages[alias]
        if not isinstance(storage, NetworkStorage):
            ways.append(Elsewhere(storage, stack))
            return Note(
                f"{type(storage).__name__}, which is not of netstorage",
                "Only what Django's Storage API allows is tried.",
            )
        ways.append(_way_to(storage, stack))
        where = f", location {storage.location!r}" if storage.location else ""
        return f"{type(storage).__name__} on {storage.pool.endpoint}{where}"

    remedy = f"Correct the entry {alias!r} of STORAGES; `manage.py check` looks at all of them."
    yield Step("settings", settings, remedy=remedy)
    if ways:
        yield from ways[0].steps()
    else:
        yield Step("all else", settings, ("settings",))


def _way_to(storage: NetworkStorage, stack: ExitStack) -> Way:
    # Not before: one protocol's library is enough for its storage.
    if "url" in storage.options:
        from .way_webdav import WebDAVWay

        return WebDAVWay(storage, stack)
    from .way_sftp import SFTPWay

    return SFTPWay(storage, stack)


class Elsewhere:
    """What can be done with a storage that is not ours: a small file comes and goes."""

    def __init__(self, storage: Storage, stack: ExitStack) -> None:
        self._storage = storage
        self._stack = stack
        self._name = hidden_name()
        self._content = token_hex(500).encode()

    def steps(self) -> list[Step]:
        """Return the steps."""
        return [
            Step("save", self._save),
            Step("read", self._read, ("save",)),
            Step("delete", self._delete, ("save",)),
        ]

    def _save(self) -> str:
        # Whatever ends it: a disk that is full keeps an empty file.
        self._stack.callback(self._clean_up)
        self._name = self._storage.save(self._name, ContentFile(self._content))
        return f"{len(self._content)} bytes as {self._name}"

    def _read(self) -> str:
        with self._storage.open(self._name) as file:
            if file.read() != self._content:
                raise OSError("the storage gave back other bytes than it was given")
        return "the same bytes came back"

    def _delete(self) -> str:
        self._storage.delete(self._name)
        if self._storage.exists(self._name):
            raise OSError(f"{self._name} is still there")
        self._name = ""
        return "it is gone"

    def _clean_up(self) -> None:
        with suppress(Exception):
            if self._name:
                self._storage.delete(self._name)
