"""After each test: every session is given back, and no unfinished upload lies anywhere."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from netstorage.session import Entry
from netstorage.storage import NetworkStorage
from netstorage.webdav.session import WebDAVSession
from tests.contract.helpers import CANNOT_LIST, busy_pools, private_storage, temporaries
from tests.servers.base import Server


@pytest.fixture(autouse=True)
def sessions_given_back() -> Iterator[None]:
    """Nothing stays lent, whether a test's operations succeeded or failed."""
    before = busy_pools()
    yield
    assert [pool for pool in busy_pools() if pool not in before] == []


@pytest.fixture(autouse=True)
def listings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a server lists nothing, see that this is told, and look at its disk instead."""
    server = "server" in request.fixturenames and request.getfixturevalue("server")
    if not server or server.name not in CANNOT_LIST:
        return
    listdir = WebDAVSession.listdir

    def from_disk(session: WebDAVSession, path: str, *, details: bool = False) -> list[Entry]:
        with pytest.raises(OSError, match="cannot list") as caught:
            listdir(session, path, details=details)
        assert caught.value.errno == errno.ENOTSUP
        folder = server.root / path
        if not folder.exists():
            raise FileNotFoundError(errno.ENOENT, "no such directory", path)
        names = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
        return [Entry(entry.name, entry.is_dir()) for entry in names]

    monkeypatch.setattr(WebDAVSession, "listdir", from_disk)


@pytest.fixture
def storage(server: Server, storage: NetworkStorage) -> Iterator[NetworkStorage]:
    """A storage on each server in turn; at the end nothing unfinished lies in it."""
    yield storage
    assert temporaries(server, storage) == []


@pytest.fixture
def sibling(server: Server, storage: NetworkStorage) -> Callable[..., NetworkStorage]:
    """Makes storages with other options, and pools of their own, that see the same files."""

    def make(**options: Any) -> NetworkStorage:
        return private_storage(server, location=storage.options["location"], **options)

    return make


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Threads for what goes on beside the test."""
    with ThreadPoolExecutor(4) as executor:
        yield executor
