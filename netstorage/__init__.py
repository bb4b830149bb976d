"""Django storage backends for SFTP and WebDAV servers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .exceptions import (
    AuthenticationError,
    ConnectError,
    ConnectionLost,
    FileChanged,
    HostKeyError,
    NetStorageError,
    PoolClosed,
    PoolTimeout,
    ProtocolError,
    SaveManyError,
)

if TYPE_CHECKING:
    from .pool import pool_stats as pool_stats
    from .sftp import SFTPStorage as SFTPStorage
    from .webdav import WebDAVStorage as WebDAVStorage

__version__ = "0.1.0"

__all__ = [
    "AuthenticationError",
    "ConnectError",
    "ConnectionLost",
    "FileChanged",
    "HostKeyError",
    "NetStorageError",
    "PoolClosed",
    "PoolTimeout",
    "ProtocolError",
    "SFTPStorage",
    "SaveManyError",
    "WebDAVStorage",
    "__version__",
    "pool_stats",
]

# Imported on first use: whoever installed one extra needs no other.
_LATER = {"SFTPStorage": ".sftp", "WebDAVStorage": ".webdav", "pool_stats": ".pool"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
