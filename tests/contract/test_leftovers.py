"""What killed uploads leave is found and removed, and nothing else is."""

from __future__ import annotations

import io
import os
import secrets
import time
from datetime import timedelta

import pytest
from django.core.files.base import ContentFile

from netstorage import WebDAVStorage
from netstorage.leftovers import Leftover, find_leftovers, remove_leftovers
from netstorage.storage import TEMPORARY
from tests.contract.client import Client
from tests.contract.helpers import (
    HIDES_DOTS,
    LOCKING,
    OLD,
    grow_old,
    raw_names,
    remove_temporaries,
    temporaries,
)
from tests.contract.relay import Relay
from tests.servers import fresh_location

CACHING = {"rclone-webdav", "rclone-sftp"}
"""Servers that do not see when somebody else sets a directory's time."""


def hidden() -> str:
    return TEMPORARY + secrets.token_hex(16)


def put(storage, name: str) -> None:
    """Write a file under whatever name."""
    with storage.pool.connection() as session:
        session.write(storage._path(name), io.BytesIO(b"half"), 4, None, None)


@pytest.fixture
def on_disk(server, storage):
    """Servers whose files lie on this machine and show names with a dot."""
    return server.root is not None and server.name not in HIDES_DOTS


def test_only_old_ones_are_removed(server, storage, on_disk):
    storage.save("dir/kept.txt", ContentFile(b"kept"))
    top, deep, young = hidden(), f"dir/deeper/{hidden()}", f"dir/{hidden()}"
    for name in (top, deep, young):
        put(storage, name)
    if on_disk:
        grow_old(server, storage, top, deep, "dir/kept.txt")
        found = {leftover.name: leftover for leftover in find_leftovers(storage)}
        assert set(found) == {top, deep}
        for leftover in found.values():
            assert not leftover.is_dir
            assert abs(leftover.age - OLD) < timedelta(minutes=5)
        assert list(find_leftovers(storage, older_than=timedelta(days=4))) == []
        assert [x.name for x in find_leftovers(storage, path="dir")] == [deep]
    removed = remove_leftovers(storage)
    assert {leftover.name for leftover in removed} == ({top, deep} if on_disk else set())
    assert storage.listdir("dir") == (["deeper"], ["kept.txt"])
    if server.name not in HIDES_DOTS:
        assert young.rpartition("/")[2] in raw_names(storage, "dir")
    for name in {top, deep, young} - {leftover.name for leftover in removed}:
        storage.delete(name)


@pytest.mark.parametrize("suffix", ["", "-link"])
def test_look_alikes_stay(server, storage, on_disk, suffix):
    others = [".netstorage-notes.txt", f"{hidden()}.txt", f"{TEMPORARY}{'A' * 32}", "plain"]
    name = hidden() + suffix
    for each in (*others, name):
        put(storage, each)
    if on_disk:
        grow_old(server, storage, *others, name)
    assert [x.name for x in remove_leftovers(storage)] == ([name] if on_disk else [])
    for each in others:
        assert storage.exists(each)
        storage.delete(each)
    storage.delete(name)


def test_a_collection_of_an_experiment(server, storage, on_disk):
    collection = hidden()
    inner = f"{collection}/{hidden()}"
    strange = f"{collection}/photo.jpg"
    put(storage, inner)
    if not on_disk or server.name in CACHING:
        assert remove_leftovers(storage) == []
        storage.delete(inner)
        if server.name in HIDES_DOTS:
            # It lets nobody remove an empty collection; see test_delete.py.
            (server.root / storage.location / collection).rmdir()
        else:
            storage.delete(collection)
        return
    grow_old(server, storage, inner, collection)
    assert [(x.name, x.is_dir) for x in find_leftovers(storage)] == [(collection, True)]
    put(storage, strange)
    grow_old(server, storage, collection)
    with pytest.raises(OSError, match="not empty"):
        remove_leftovers(storage)
    assert storage.exists(strange)
    storage.delete(strange)
    grow_old(server, storage, collection)
    assert [x.name for x in remove_leftovers(storage)] == [collection]
    assert not storage.exists(collection)


def test_links_are_not_followed(server, storage, on_disk, tmp_path):
    if not on_disk:
        return
    storage.save("dir/kept.txt", ContentFile(b"kept"))
    elsewhere = tmp_path / hidden()
    elsewhere.write_bytes(b"another's")
    link = server.root / storage.location / "link"
    link.symlink_to(tmp_path)
    then = time.time() - OLD.total_seconds()
    os.utime(elsewhere, (then, then))
    try:
        if server.protocol == "sftp":
            assert remove_leftovers(storage) == []
        assert elsewhere.exists()
    finally:
        link.unlink()


def test_an_upload_under_way_is_safe(server, storage, on_disk):
    """However often somebody else cleans up, and whatever lies beside it."""
    old = hidden()
    put(storage, old)
    if on_disk:
        grow_old(server, storage, old)
    size = 3 * 2**20
    with Relay(server) as relay:
        options = relay.options | {"location": storage.options["location"]}
        with Client(server, "file.bin", [7], size, **options) as client:
            client.wait_until_ready()
            relay.hold_after(2**20)
            client.go()
            relay.wait_until_held()
            assert [x.name for x in remove_leftovers(storage)] == ([old] if on_disk else [])
            relay.release()
            assert client.names() == {7: "file.bin"}
    assert storage.size("file.bin") == size
    if not on_disk:
        storage.delete(old)
    if server.name in LOCKING:
        remove_temporaries(server, storage)


@pytest.mark.parametrize("age", [timedelta(0), timedelta(minutes=59), -OLD])
def test_too_young_an_age_is_refused(storage, age):
    with pytest.raises(ValueError, match="1:00:00 at the least"):
        find_leftovers(storage, older_than=age)


@pytest.mark.parametrize("use", [find_leftovers, remove_leftovers])
def test_a_read_only_storage_is_left_alone(storage, sibling, use):
    storage.save("kept.txt", ContentFile(b"kept"))
    with pytest.raises(PermissionError, match="read-only"):
        use(sibling(read_only=True))


def test_what_is_gone_meanwhile_is_no_error(server, storage, on_disk, monkeypatch):
    gone = Leftover(hidden(), OLD, is_dir=False)
    monkeypatch.setattr("netstorage.leftovers.find_leftovers", lambda *_, **__: iter([gone]))
    assert remove_leftovers(storage) == []


@pytest.mark.parametrize("length", [20, 60, 100])
def test_a_save_far_down_leaves_nothing(any_webdav, caplog, length):
    """Where a path is long, Apache removes a collection at the second attempt only."""
    options = {**any_webdav.options, "headers": {"X-Known": secrets.token_hex(4)}}
    location = fresh_location(any_webdav)
    storage = WebDAVStorage(**options, location=location, allow_overwrite=True)
    name = f"{'n' * length}/{'m' * length}/a.txt"
    storage.save(name, ContentFile(b"first"))
    storage.save(name, ContentFile(b"second"))
    storage.delete(name)
    assert temporaries(any_webdav, storage) == []
    assert caplog.records == []
