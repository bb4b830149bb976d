"""One server of each protocol, the real one where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from django.core.files.base import ContentFile

from tests.endurance.faulty import FaultyLine
from tests.endurance.scene import BIG, OLD, Scene
from tests.servers import SERVERS, fresh_location, make_storage
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
def make_scene(server: Server) -> Iterator[Callable[[], Scene]]:
    """Makes scenes that know nothing of each other."""
    with ExitStack() as stack:

        def make() -> Scene:
            storage = make_storage(server, location=fresh_location(server))
            storage.save("dir/kept.bin", ContentFile(OLD))
            storage.save("big.bin", ContentFile(BIG))
            line = stack.enter_context(FaultyLine(server))
            return Scene(server, storage, line, stack.enter_context(ThreadPoolExecutor(2)))

        yield make


@pytest.fixture
def scene(make_scene: Callable[[], Scene]) -> Scene:
    """A server with some files, behind a line on which things go wrong."""
    return make_scene()
