"""Servers that restart, stop and come back: what can be repeated is, and the rest fails fast."""

from __future__ import annotations

import time

import pytest
from django.core.files.base import ContentFile

from netstorage import ConnectError, ConnectionLost
from tests.contract.helpers import (
    LOCKING,
    ONE_REQUEST,
    private_storage,
    read,
    remove_temporaries,
    uploaded,
)
from tests.contract.relay import Relay
from tests.servers.docker import Container

LONG = 3 * 2**20


@pytest.fixture
def own(storage, sibling):
    """A storage with a pool of its own and a file."""
    own = sibling()
    own.save("file.bin", ContentFile(b"x" * LONG))
    return own


@pytest.fixture
def outage(server):
    """Takes the server down; in any case it is back for the next test."""
    down = False

    def switch(on):
        nonlocal down
        if on != down:
            return
        if isinstance(server, Container):
            server._compose.execute(f"{'start' if on else 'kill'} {server.service}")
            if on:
                server.start()
        elif on:
            server.start()
        else:
            server.kill()
        down = not on

    yield switch
    switch(True)


def later(monkeypatch, storage):
    """Let the pool's pause after a failed connect be over."""
    monkeypatch.setattr(storage.pool, "_clock", lambda: time.monotonic() + 60)


def test_a_restart_between_operations_goes_unnoticed(own, server):
    before = own.pool.stats()
    reading = own.open("file.bin")
    assert reading.read(10) == b"x" * 10
    writing = own.open("written.bin", "wb")
    writing.write(b"before")

    server.restart()
    assert own.exists("file.bin")
    own.save("saved.bin", ContentFile(b"after"))
    assert len(reading.read()) == LONG - 10
    writing.write(b" and after")
    writing.close()
    reading.close()

    assert read(own, "saved.bin") == b"after"
    assert read(own, "written.bin") == b"before and after"
    assert sorted(own.listdir("")[1]) == ["file.bin", "saved.bin", "written.bin"]
    own.delete("saved.bin")
    now = own.pool.stats()
    assert now.connect_errors == 0
    if server.protocol == "sftp":
        # A session of HTTP outlives its connection.
        assert now.connects > before.connects
        assert now.closed_broken > before.closed_broken


@pytest.mark.parametrize("operation", ["save", "read", "delete", "listdir"])
def test_each_operation_may_be_the_first_after_a_cut(storage, server, operation):
    with Relay(server) as relay:
        own = private_storage(server, **relay.options | {"location": storage.options["location"]})
        own.save("file.bin", ContentFile(b"there"))
        relay.cut()
        if operation == "save":
            own.save("new.bin", ContentFile(b"new"))
            assert read(storage, "new.bin") == b"new"
        elif operation == "read":
            assert read(own, "file.bin") == b"there"
        elif operation == "delete":
            own.delete("file.bin")
            assert not storage.exists("file.bin")
        else:
            assert own.listdir("") == ([], ["file.bin"])
        own.pool.close()


def test_a_server_that_is_down_fails_fast_and_is_found_again(own, server, outage, monkeypatch):
    outage(False)
    errors = own.pool.stats().connect_errors
    with pytest.raises(ConnectError, match=r"first\.txt"):
        own.exists("first.txt")
    assert own.pool.stats().connect_errors == errors + 1
    with pytest.raises(ConnectError, match=r"not tried again for another .*second"):
        own.save("second.txt", ContentFile(b""))
    # Nobody waited for a second attempt: there was none.
    assert own.pool.stats().connect_errors == errors + 1
    later(monkeypatch, own)
    with pytest.raises(ConnectError, match=r"third\.txt") as caught:
        read(own, "third.txt")
    assert "not tried again" not in str(caught.value)
    assert own.pool.stats().connect_errors == errors + 2

    outage(True)
    monkeypatch.setattr(own.pool, "_clock", lambda: time.monotonic() + 120)
    assert own.exists("file.bin")
    assert own.save("back.txt", ContentFile(b"back")) == "back.txt"
    assert read(own, "back.txt") == b"back"


class TestACutInMidSave:
    """Of a big upload that has begun to flow."""

    @pytest.fixture
    def relay(self, server):
        with Relay(server) as relay:
            yield relay

    @pytest.fixture
    def own(self, storage, server, relay):
        own = private_storage(server, **relay.options | {"location": storage.options["location"]})
        yield own
        own.pool.close()

    def save(self, own, relay, threads, name):
        with uploaded(b"y" * 2 * LONG) as content:
            relay.hold_after(LONG)
            saving = threads.submit(own.save, name, content)
            relay.wait_until_held()
            relay.cut()
            return saving.result()

    def test_a_session_that_had_served_is_replaced(self, own, relay, storage, server, threads):
        own.exists("warm.txt")
        assert self.save(own, relay, threads, "dir/big.bin") == "dir/big.bin"
        assert read(storage, "dir/big.bin") == b"y" * 2 * LONG
        assert storage.listdir("dir") == ([], ["big.bin"])
        if server.name in LOCKING:
            remove_temporaries(server, storage)

    def test_a_fresh_session_is_not(self, own, relay, storage, server, threads):
        """Its loss says something of the server: the caller is told, and nothing is left.

        HTTP has repeated the request by then, if its connection had answered others.
        """
        try:
            self.save_at_once(own, relay, threads, "dir/big.bin")
        except ConnectionLost as error:
            assert server.protocol == "sftp" or server.name in LOCKING | ONE_REQUEST
            assert error.filename == "dir/big.bin"
            assert not storage.exists("dir/big.bin")
            assert storage.listdir("dir") == ([], [])
        else:
            assert server.protocol == "webdav"
            assert read(storage, "dir/big.bin") == b"y" * 2 * LONG
        if server.name in LOCKING:
            remove_temporaries(server, storage)

    def save_at_once(self, own, relay, threads, name):
        """With no question before it, so that the upload is its session's first work."""
        with uploaded(b"y" * 2 * LONG) as content:
            relay.hold_after(LONG)
            saving = threads.submit(own._save, name, content)
            relay.wait_until_held()
            relay.cut()
            return saving.result()
