"""A site in front of one server of each protocol, the real one where it is installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test.utils import override_settings

from tests.contract.helpers import busy_pools
from tests.downloads.site import Site, wait_until, wsgi_site
from tests.endurance.conftest import CHOSEN
from tests.servers.base import Server

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
