"""A site in front of one server of each protocol, the real one where it is installed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from django.core.files.base import ContentFile
from django.test.utils import override_settings

from netstorage.storage import NetworkStorage
from tests.contract.helpers import busy_pools, private_storage
from tests.downloads.site import BIG, Site, content, wait_until, wsgi_site
from tests.endurance.conftest import CHOSEN
from tests.servers import fresh_location
from tests.servers.base import Server

LONG_AGO = 1_500_000_000
SETTINGS = {"ROOT_URLCONF": "tests.downloads.site", "ALLOWED_HOSTS": ["*"], "MIDDLEWARE": []}


@pytest.fixture(scope="session", params=CHOSEN)
def server(request: pytest.FixtureRequest, running_servers) -> Server:
    """Each server in turn."""
    return running_servers.get(request.param, request)


@pytest.fixture(autouse=True)
def sessions_given_back() -> Iterator[None]:
    """Nothing stays lent; a client may have its last byte a little sooner."""
    before = busy_pools()
    yield
    wait_until(lambda: not [pool for pool in busy_pools() if pool not in before])


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The site, for all tests of a module."""
    with override_settings(**SETTINGS), wsgi_site() as site:
        yield site


@pytest.fixture
def alone(server: Server) -> NetworkStorage:
    """A storage with a pool of its own, and an old and big file."""
    storage = private_storage(server, location=fresh_location(server), allow_overwrite=True)
    storage.save("big.bin", ContentFile(content(BIG)))
    assert server.root is not None
    os.utime(server.root / storage.location / "big.bin", (LONG_AGO, LONG_AGO))
    return storage
