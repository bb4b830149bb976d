"""A site in front of each server of the contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test.utils import override_settings

from netstorage.storage import NetworkStorage
from tests.contract.helpers import busy_pools
from tests.downloads.site import Site, place, wait_until, wsgi_site

SETTINGS = {"ROOT_URLCONF": "tests.downloads.site", "ALLOWED_HOSTS": ["*"], "MIDDLEWARE": []}


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
def url(site: Site, storage: NetworkStorage) -> str:
    """Where the storage's files are on the site."""
    return place(storage)
