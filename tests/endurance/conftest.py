"""One server of each protocol, the real one where it is installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
    if request.param == "sshd":
        # It counts logins that broke off, and beyond ten it drops others at random.
        with Sshd(extra=["MaxStartups 1000"]) as server:
            yield server
    else:
        yield running_servers.get(request.param, request)
