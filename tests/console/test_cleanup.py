"""``cleanup`` removes what killed uploads left, and says so."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.files.base import ContentFile
from django.core.management import CommandError

from netstorage import leftovers
from netstorage.console.journal import Journal, Page, page_name
from netstorage.console.place import place
from netstorage.session import Entry
from netstorage.storage import TEMPORARY
from tests.contract.client import Client
from tests.contract.helpers import grow_old, raw_names, temporaries
from tests.contract.relay import Relay
from tests.contract.test_leftovers import hidden, put

FEW_SERVERS = True
PATIENCE = 60.0


@pytest.fixture
def left(server, nas):
    """What an upload left in ``dir`` that was killed three days ago: its name."""
    nas.save("dir/kept.txt", ContentFile(b"kept"))
    if server.protocol == "webdav":
        # Such servers may still find out that nobody sends any more, and remove it.
        put(nas, f"dir/{hidden()}")
    else:
        with Relay(server) as relay:
            options = relay.options | {"location": nas.options["location"]}
            with Client(server, "dir/video.mp4", [7], 2**21, **options) as client:
                client.wait_until_ready()
                relay.hold_after(2**20)
                client.go()
                relay.wait_until_held()
                client.kill()
                relay.cut()
    (name,) = temporaries(server, nas)
    wait_until_closed(server.root / nas.location / name)
    grow_old(server, nas, name)
    return name


def wait_until_closed(path: Path) -> None:
    """Wait until the server has written what it had received, which makes the file young again."""
    deadline = time.monotonic() + PATIENCE
    while any(is_open(path, descriptor) for descriptor in Path("/proc").glob("[0-9]*/fd/*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_open(path: Path, descriptor: Path) -> bool:
    with suppress(OSError):  # closed by now, or another user's
        return descriptor.readlink() == path
    return False


def test_it_is_shown_then_removed(run, nas, left):
    shown = f"nas:{left}  72 h old\n1 leftover "
    assert run("cleanup", "nas:", "--dry-run") == shown + "would be removed\n"
    assert left.removeprefix("dir/") in raw_names(nas, "dir")
    assert run("cleanup", "nas:dir", "--older-than", "2d") == shown + "removed\n"
    assert nas.listdir("dir") == ([], ["kept.txt"])
    assert run("cleanup", "nas") == "0 leftovers removed\n"


@pytest.mark.parametrize("age", ["73h", "4d", "1w"])
def test_what_is_younger_stays(run, nas, left, age):
    assert run("cleanup", "nas:", "--older-than", age) == "0 leftovers removed\n"
    nas.delete(left)


def test_what_cannot_be_removed_is_told_and_the_others_go(server, run, nas, left):
    """A hidden collection with a file in it that is nobody's leftover."""
    full = f"dir/{hidden()}"
    nas.save(f"{full}/photo.jpg", ContentFile(b"photo"))
    for name in (left, full):
        then = time.time() - timedelta(days=3).total_seconds()
        os.utime(server.root / nas.location / name, (then, then))
    with pytest.raises(CommandError, match=rf"^nas:{full}: .*not empty$"):
        run("cleanup", "nas:")
    assert temporaries(server, nas) == [f"{full}/photo.jpg", full]
    nas.delete(f"{full}/photo.jpg")
    nas.delete(full)


def test_the_journal_of_a_sync_that_nobody_went_on_with(server, run, nas):
    """With its pages, and with what a killed process has left of one."""
    journal = Journal(place("disk:"), place("nas:dir"), checksum=False)
    journal.write(page_name(), Page(done=["a"]))
    directory = next((server.root / nas.location / "dir").glob(f"{TEMPORARY}*"))
    (directory / hidden()).write_bytes(b"half")
    then = time.time() - timedelta(days=3).total_seconds()
    os.utime(directory, (then, then))
    out = run("cleanup", "nas:")
    assert out == f"nas:dir/{directory.name}  72 h old\n1 leftover removed\n"
    assert nas.listdir("dir") == ([], [])
    assert not directory.exists()


def test_a_journal_that_two_syncs_remove_at_once(run, nas, monkeypatch):
    """What the other one has removed meanwhile does not keep the rest from being removed."""
    journal = Journal(place("disk:"), place("nas:dir"), checksum=False)
    journal.write(page_name(), Page(done=["a"]))
    listed = leftovers._entries
    gone = Entry(page_name(), is_dir=False)
    monkeypatch.setattr(leftovers, "_entries", lambda *where: [gone, *listed(*where)])
    journal.remove()
    assert journal.pages() == []


@pytest.mark.parametrize(
    ("where", "told"),
    [("frozen:", "read-only"), ("disk:", "disk is no SFTP or WebDAV storage")],
)
def test_storages_that_are_left_alone(run, nas, where, told):
    with pytest.raises(CommandError, match=told):
        run("cleanup", where)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ls", "nas"], "'nas' is not of the form alias:path"),
        (["cleanup", "nass:"], "no alias 'nass'; did you mean 'nas'?"),
        (["cleanup", "nas:", "--older-than", "soon"], "'soon' is no age"),
        (["cleanup", "nas:", "--older-than", "0h"], "1:00:00 at the least"),
    ],
)
def test_what_is_typed_wrong_is_told_in_a_line(run, nas, words, told):
    with pytest.raises(CommandError, match=told.replace("?", r"\?")) as caught:
        run(*words)
    assert "\n" not in str(caught.value)
