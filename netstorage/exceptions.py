"""The errors that are ours.

What a server says of a file is told in Python's own words: FileNotFoundError, FileExistsError,
PermissionError, IsADirectoryError, NotADirectoryError, or an OSError with ENOSPC, EDQUOT, EFBIG,
EBUSY, each with ``errno`` set and the storage name as ``filename``. A server that stays silent past
its deadline is a TimeoutError. What is left stands here::

    NetStorageError
    ├── ConnectError (ConnectionError)      no session could be opened
    │   ├── AuthenticationError             the server refused the credentials
    │   └── HostKeyError                    the server is not the one that is trusted
    ├── ConnectionLost (ConnectionError)    an open session broke
    ├── ProtocolError (OSError)             the server broke the protocol
    ├── PoolTimeout (TimeoutError)          every session stayed busy
    ├── PoolClosed                          the pool was closed
    ├── FileChanged (OSError)               the file changed under its reader or editor
    └── SaveManyError                       some of many files could not be saved
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .bulk import Saved


class NetStorageError(Exception):
    """Base of every error that is netstorage's own.

    Attributes:
        filename: The storage name of the file that was asked for, where there was one.
    """

    filename: str | None = None

    def __str__(self) -> str:
        """Tell the file's name behind the message, as Python's own OSErrors do."""
        message = super().__str__()
        return f"{message}: {self.filename!r}" if self.filename else message


class ConnectError(NetStorageError, ConnectionError):
    """No session could be opened: name, route, TLS, protocol or root folder."""


class AuthenticationError(ConnectError):
    """The server refused the credentials. Never retried by itself."""


class HostKeyError(ConnectError):
    """The server's host key is unknown, changed or revoked. Nothing was sent to it."""


class ConnectionLost(NetStorageError, ConnectionError):
    """An open session broke in the middle of its work.

    Attributes:
        reused: Whether the session had served before, so that a fresh one may well do better.
    """

    reused = False


class ProtocolError(NetStorageError, OSError):
    """The server answered what its protocol does not allow."""


class PoolTimeout(NetStorageError, TimeoutError):
    """No session came free within the pool's ``timeout``. The message holds the pool's numbers."""


class PoolClosed(NetStorageError):
    """The pool was closed and lends no more sessions."""


class FileChanged(NetStorageError, OSError):
    """The file on the server is no longer the one that reading or editing began with."""


class SaveManyError(NetStorageError):
    """Some of many files could not be saved. The message shows the first of them.

    Attributes:
        saved: How many were saved.
        failed: How many were tried and not saved.
        failures: The first twenty that failed, each with its ``error``.
        unreachable: Whether the rest was not tried, because no session could be opened any more.
    """

    saved: int = 0
    failed: int = 0
    failures: Sequence[Saved] = ()
    unreachable: bool = False
