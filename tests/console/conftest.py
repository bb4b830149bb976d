"""Storages for the subcommands: ``nas`` on each server in turn, and some of other kinds."""

from __future__ import annotations

import io
import os
import pty
import re
import sqlite3
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import Storage, storages
from django.core.management import call_command
from django.db import connection
from django.test import override_settings

from tests.contract.helpers import temporaries
from tests.servers import fresh_location

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0

over_sftp = pytest.mark.parametrize("server", ["embedded-sftp", "sshd"], indirect=True)
"""For what WebDAV does not know, such as links and names that are no text."""


class Bucket(Storage):
    """A storage without directories, as object stores are: names are keys, slashes or not."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def _open(self, name, mode="rb"):
        if name not in self.blobs:
            raise FileNotFoundError(2, "no such key", name)
        return ContentFile(self.blobs[name], name)

    def _save(self, name, content):
        self.blobs[name] = b"".join(content.chunks())
        return name

    def delete(self, name):
        self.blobs.pop(name, None)

    def exists(self, name):
        return name in self.blobs

    def size(self, name):
        return len(self.blobs[name])

    def listdir(self, path):
        prefix = f"{path}/" if path else ""
        rests = [key[len(prefix) :].split("/") for key in self.blobs if key.startswith(prefix)]
        return sorted({x[0] for x in rests if x[1:]}), [x[0] for x in rests if not x[1:]]


class Hostile(Storage):
    """A storage whose listing names what does not lie in it."""

    def listdir(self, path):
        return ([], ["../../escaped.txt"])

    def exists(self, name):
        return True

    def _open(self, name, mode="rb"):
        return ContentFile(b"evil", name)

    def size(self, name):
        return 4


def backend(server) -> str:
    return f"netstorage.{'SFTP' if server.protocol == 'sftp' else 'WebDAV'}Storage"


@pytest.fixture
def run():
    """Run a subcommand in this process, and return what it writes."""

    def run(*words: str | os.PathLike[str]) -> str:
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        call_command("netstorage", *map(os.fspath, words), stdout=out)
        out.flush()
        return out.buffer.getvalue().decode()

    return run


@pytest.fixture
def nas(server, tmp_path):
    """Make each server in turn the alias ``nas``, and give the other aliases."""
    options = {**server.options, "location": fresh_location(server)}
    entry = {"BACKEND": backend(server), "OPTIONS": options}
    with override_settings(
        STORAGES={
            "nas": entry,
            "nas2": {**entry, "OPTIONS": {**options, "location": fresh_location(server)}},
            "twin": entry,
            "frozen": {**entry, "OPTIONS": {**options, "read_only": True}},
            "disk": {
                "BACKEND": "django.core.files.storage.FileSystemStorage",
                "OPTIONS": {"location": tmp_path / "disk"},
            },
            "memory": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
            "bucket": {"BACKEND": "tests.console.conftest.Bucket"},
            "hostile": {"BACKEND": "tests.console.conftest.Hostile"},
        }
    ):
        yield storages["nas"]
        assert temporaries(server, storages["nas"]) == []
        assert list(tmp_path.rglob(".netstorage-*")) == []


@pytest.fixture
def fill():
    """Save files in a storage: names and contents."""

    def fill(storage: Storage, **files: bytes) -> None:
        for name, content in files.items():
            storage.save(name, ContentFile(content))

    return fill


@pytest.fixture
def manage(tmp_path_factory) -> Callable[..., subprocess.Popen[bytes]]:
    """Start ``python -m django netstorage ...`` in a process of its own.

    Args:
        storages: The child's STORAGES.
        words: What follows.
        databases: SQLite files by alias; without them the child has an empty database.
        options: For Popen.
    """
    folder = tmp_path_factory.mktemp("project")
    children: list[subprocess.Popen[bytes]] = []

    def manage(
        storages: dict[str, Any],
        *words: object,
        databases: dict[str, Path] | None = None,
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        engine = "django.db.backends.sqlite3"
        files = {alias: {"ENGINE": engine, "NAME": x} for alias, x in (databases or {}).items()}
        (folder / "its_settings.py").write_text(
            "from pathlib import PosixPath\n"
            "from tests.settings import *\n"
            f"STORAGES = {storages!r}\nTIME_ZONE = 'UTC'\n"
            f"DATABASES = {files!r} or DATABASES\n"
            # Its models have storages, which not every child has.
            "if DATABASES['default']['NAME'] == ':memory:':\n"
            "    INSTALLED_APPS.remove('tests.console.gallery')\n"
        )
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "its_settings",
            "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
            "COLUMNS": "80",
            "TERM": "xterm",
        }
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        children.append(
            subprocess.Popen(
                [sys.executable, "-m", "django", "netstorage", *map(str, words)],
                **{**pipes, "env": environment, "cwd": folder, **options},
            )
        )
        return children[-1]

    yield manage
    for child in children:
        child.kill()
        child.communicate()


@pytest.fixture
def database(transactional_db, tmp_path):
    """Copy the database to a file, for a process."""

    def copy(name="db.sqlite3"):
        connection.ensure_connection()
        target = sqlite3.connect(tmp_path / name)
        connection.connection.backup(target)
        target.close()
        return tmp_path / name

    return copy


@pytest.fixture
def watched(manage):
    """Run a process before a terminal of 80 columns; return the lines that were seen there."""

    def watched(storages: dict[str, Any], *words: object) -> list[str]:
        master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        child = manage(storages, *words, stderr=slave)
        os.close(slave)
        seen = b""
        # Linux says EIO where the other end is closed.
        with suppress(OSError):
            while piece := os.read(master, 2**16):
                seen += piece
        os.close(master)
        assert child.wait(PATIENCE) == 0
        return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode()))

    return watched


@pytest.fixture
def peak(manage, monkeypatch):
    """Memory of a process that ends well, in bytes at the most."""
    # These take time and memory of their own.
    for name in ("PYTHONDEVMODE", "COVERAGE_PROCESS_CONFIG"):
        monkeypatch.delenv(name, raising=False)

    def peak(storages, *words):
        child = manage(storages, *words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        return usage.ru_maxrss * 2**10

    return peak
