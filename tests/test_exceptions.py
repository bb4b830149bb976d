"""No exception of the layers below reaches a user: each is told in Python's words or ours."""

from __future__ import annotations

import contextlib
import inspect

import httpx
import paramiko.ssh_exception
import pytest
from webdav4.client import Client

import netstorage
from netstorage.exceptions import NetStorageError
from netstorage.sftp.ssh import SFTPEndpoint, _Deadline
from netstorage.sftp.transport import Socket
from netstorage.sftp.wire import Wire
from netstorage.webdav.http import HTTP

# It comes from reading one's cookies by name, which nobody does here.
NEVER_RAISED = {httpx.CookieConflict}


def classes(module: object) -> list[type[Exception]]:
    found = [each for _, each in inspect.getmembers(module, inspect.isclass)]
    return [each for each in found if issubclass(each, Exception) and each not in NEVER_RAISED]


def bare(kind: type[Exception]) -> Exception:
    """Make an exception without knowing its arguments."""
    error = kind.__new__(kind)
    with contextlib.suppress(Exception):
        error.args = ("the words of a library",)
    texts = ("explanation", "allowed_types", "hostname", "code", "text", "command", "error")
    error.__dict__.update(dict.fromkeys(texts, "x"), key=KEY, expected_key=KEY, errors={})
    return error


KEY = paramiko.ECDSAKey.generate()


def test_the_lists_are_not_empty() -> None:
    assert len(classes(httpx)) > 20
    assert len(classes(paramiko.ssh_exception)) > 10


@pytest.mark.parametrize("kind", classes(httpx))
def test_what_httpx_raises_is_told_in_our_words(kind: type[Exception]) -> None:
    http = HTTP(Client("http://nas/"), httpx.URL("http://nas/"), "http://nas/", 1)
    with pytest.raises(OSError) as caught, http._explained():
        raise bare(kind)
    http.close()
    assert isinstance(caught.value, (NetStorageError, TimeoutError))
    assert http.closed


class Broken:
    """A channel whose calls fail."""

    closed = False

    def __init__(self, error: Exception) -> None:
        self.error = error

    def settimeout(self, timeout: float) -> None:
        pass

    def get_transport(self) -> Broken:
        return self

    sock = None

    def recv(self, count: int) -> bytes:
        raise self.error


@pytest.mark.parametrize("kind", [*classes(paramiko.ssh_exception), EOFError, OSError])
def test_what_paramiko_raises_in_a_session_is_told_in_our_words(kind: type[Exception]) -> None:
    wire = Wire(Broken(bare(kind)), 1, "sftp://nas:22")  # type: ignore[arg-type]
    with pytest.raises(netstorage.ConnectionLost, match="sftp://nas:22 was lost"):
        wire.answer(1)
    assert not wire.stream.usable


@pytest.mark.parametrize("kind", [*classes(paramiko.ssh_exception), EOFError, OSError])
def test_what_paramiko_raises_on_the_way_is_told_in_our_words(kind: type[Exception]) -> None:
    endpoint = SFTPEndpoint("nas")
    with (
        Socket() as sock,
        pytest.raises(netstorage.ConnectError, match="sftp://nas:22"),
        endpoint._explained(sock, _Deadline(endpoint)),
    ):
        raise bare(kind)
