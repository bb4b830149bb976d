"""Pytest fixtures with real servers.

Put ``pytest_plugins = ["netstorage.testing.fixtures"]`` into the top-level ``conftest.py``.
The servers start when a test first asks for them, once in a session; each test that asks for a
storage gets an empty folder of its own on them.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from netstorage.testing import SFTPServer, WebDAVServer

if TYPE_CHECKING:
    from netstorage import SFTPStorage, WebDAVStorage


@pytest.fixture(scope="session")
def sftp_server() -> Iterator[SFTPServer]:
    """An SFTP server for the whole session."""
    with SFTPServer() as server:
        yield server


@pytest.fixture(scope="session")
def webdav_server() -> Iterator[WebDAVServer]:
    """A WebDAV server for the whole session."""
    with WebDAVServer() as server:
        yield server


@pytest.fixture
def sftp_storage(sftp_server: SFTPServer) -> SFTPStorage:
    """An `SFTPStorage` on an empty folder of the session's SFTP server."""
    from netstorage import SFTPStorage

    return SFTPStorage(**sftp_server.options, location=_empty_folder(sftp_server.root))


@pytest.fixture
def webdav_storage(webdav_server: WebDAVServer) -> WebDAVStorage:
    """A `WebDAVStorage` on an empty folder of the session's WebDAV server."""
    from netstorage import WebDAVStorage

    return WebDAVStorage(**webdav_server.options, location=_empty_folder(webdav_server.root))


def _empty_folder(root: Path) -> str:
    """Make a new folder below the server's root and return its name."""
    name = f"test-{secrets.token_hex(4)}"
    (root / name).mkdir()
    return name
