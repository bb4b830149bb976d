"""After each test: every session is given back, and no unfinished upload lies anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from netstorage.storage import NetworkStorage
from tests.contract.helpers import busy_pools, private_storage, temporaries
from tests.servers.base import Server


@pytest.fixture(autouse=True)
def sessions_given_back() -> Iterator[None]:
    """Nothing stays lent, whether a test's operations succeeded or failed."""
    before = busy_pools()
    yield
    assert [pool for pool in busy_pools() if pool not in before] == []


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
