"""What the contract's tests share."""

from __future__ import annotations

import io
import itertools
import os
import posixpath
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.core.files.uploadedfile import TemporaryUploadedFile

from netstorage.pool import all_pools
from netstorage.storage import TEMPORARY, NetworkStorage
from tests.servers import make_storage
from tests.servers.base import Server

APACHES = {"apache", "docker-apache", "apache-behind-tls", "apache-behind-prefix"}
"""One program, whose ways a container or a proxy does not change."""

CANNOT_LIST = {"nginx-plain"}
"""Servers without PROPFIND; their listings come from the disk (`contract/conftest.py`)."""

HIDES_DOTS = {"nginx", *CANNOT_LIST}
"""Servers that list no names that begin with a dot (by the code of nginx-dav-ext-module)."""

HIDES_LINKS = {"rclone-sftp"}
"""SFTP servers that list no symbolic links."""

LOCKING = {"rclone-webdav"}
"""Servers that let nobody remove a half upload until they noticed that its connection is gone."""

WRITES_IN_PLACE = {"embedded-webdav"}
"""WebDAV servers that begin with a file under its name while it is still on its way."""

FORGETS = {"rclone-sftp"}
"""Servers that may lose sight of files, as long as many make their directory at the same time."""

TAKES_FOR_LATIN_1 = {"sabre"}
"""Servers that take bytes which are no UTF-8 for Latin-1, and list them as what they then mean."""

ONE_REQUEST = {"sabre"}
"""Servers that end each connection after one answer: nothing is repeated on a fresh one."""

STRICT = {"embedded-sftp", "sshd", "docker-sshd", "proftpd"}
"""Servers whose RENAME refuses a taken name (SFTP.md); elsewhere a window of some ms is left."""

GAPS = {"rclone-webdav", "rclone-sftp", "embedded-webdav", "sabre", *APACHES}
"""Servers that remove the old file before they rename the new one, whatever they are told."""

LOOSE = {"rclone-webdav", "rclone-sftp", "embedded-webdav", *APACHES}
"""Servers that look before they open, and so may send a new file to the length of the old one."""

OLD = timedelta(days=3)
"""An age at which nobody doubts that an upload is dead."""

_numbers = itertools.count(1)


def private_storage(server: Server, **options: Any) -> NetworkStorage:
    """A storage with a pool that it shares with no other, whatever limits it has."""
    own = {"timeout": 30 + next(_numbers) / 1000}
    return make_storage(server, **own | options)


def read(storage: NetworkStorage, name: str) -> bytes:
    """All of a file."""
    with storage.open(name) as file:
        return file.read()


def raw_names(storage: NetworkStorage, path: str = "") -> dict[str, bool]:
    """What really lies in a directory, unfinished uploads too: names, and which are directories."""
    with storage.pool.connection() as session:
        return {entry.name: entry.is_dir for entry in session.listdir(storage._path(path))}


def temporaries(server: Server, storage: NetworkStorage) -> list[str]:
    """Unfinished uploads and experiments anywhere in a storage, what lies deeper first."""
    location = storage.location
    if server.root is not None:
        # A server may hide them; the disk does not.
        top = server.root / location
        hidden = [x for path in top.rglob(TEMPORARY + "*") for x in (path, *path.rglob("*"))]
        found = {str(path.relative_to(top)) for path in hidden}
        return sorted(found, key=len, reverse=True)
    return list(_hidden(storage, ""))


def _hidden(storage: NetworkStorage, path: str) -> Iterator[str]:
    try:
        entries = raw_names(storage, path)
    except FileNotFoundError:
        return
    for name, is_dir in entries.items():
        if name.startswith(TEMPORARY):
            yield posixpath.join(path, name)
        elif is_dir:
            yield from _hidden(storage, posixpath.join(path, name))


def wait_until_begun(server: Server, storage: NetworkStorage) -> None:
    """Wait until a server that writes where it was told to has begun with an upload.

    Else it may do so once it was told to remove the file, and has answered that there is none.
    """
    deadline = time.monotonic() + 30
    while server.name in WRITES_IN_PLACE and not temporaries(server, storage):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def remove_temporaries(server: Server, storage: NetworkStorage) -> None:
    """Clear up after a client that could not: it is dead, or the server kept a lock on its file."""
    deadline = time.monotonic() + 30
    while left := temporaries(server, storage):
        for name in left:
            try:
                storage.delete(name)
            except OSError:
                # Go's server ends its lock when it notices the end of the connection.
                assert server.name in LOCKING
                assert time.monotonic() < deadline
                time.sleep(0.02)


def grow_old(server: Server, storage: NetworkStorage, *names: str) -> None:
    """Set back when they changed last, on the server's disk."""
    assert server.root is not None
    then = time.time() - OLD.total_seconds()
    for name in names:
        os.utime(server.root / storage.location / name, (then, then))


def busy_pools() -> list[str]:
    """Pools that still have something lent or promised."""
    numbers = {pool: pool.stats() for pool in all_pools()}
    return [repr(pool) for pool, n in numbers.items() if n.in_use or n.waiting or n.connecting]


def uploaded(data: bytes, name: str = "upload.bin") -> TemporaryUploadedFile:
    """An upload on disk, as Django's request handling makes it."""
    file = TemporaryUploadedFile(name, "application/octet-stream", len(data), None)
    file.write(data)
    file.seek(0)
    return file


class Stream(io.RawIOBase):
    """Content that comes from somewhere: it has no size, and no way back."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._left = self._left or next(self._pieces, b"")
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
