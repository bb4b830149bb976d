"""One server of each protocol, the real one where it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.files.base import ContentFile

from netstorage.storage import NetworkStorage
from tests.endurance.faulty import FaultyLine
from tests.endurance.scene import BIG, OLD, Scene
from tests.servers import SERVERS
from tests.servers.base import Server
from tests.servers.sshd import Sshd

CHOSEN = [
    real if SERVERS[real].unavailable() is None else embedded
    for real, embedded in (("sshd", "embedded-sftp"), ("apache", "embedded-webdav"))
]


@pytest.fixture(scope="session", params=CHOSEN)
def server(request: pytest.FixtureRequest, running_servers) -> Iterator[Server]:
    """Each server in turn."""
    if request.param == "sshd" and Sshd.unavailable() is None:
        # It counts logins that broke off, and beyond ten it drops others at random.
        with Sshd(extra=["MaxStartups 1000"]) as server:
            yield server
    else:
        yield running_servers.get(request.param, request)


@pytest.fixture
def scene(storage: NetworkStorage, server: Server) -> Iterator[Scene]:
    """A server with some files, behind a line on which things go wrong."""
    storage.save("dir/kept.bin", ContentFile(OLD))
    storage.save("big.bin", ContentFile(BIG))
    with FaultyLine(server) as line, ThreadPoolExecutor(2) as threads:
        yield Scene(server, storage, line, threads)
