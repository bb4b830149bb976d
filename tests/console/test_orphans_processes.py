"""``orphans`` as a process: its databases, Ctrl-C, a kill, servers that go away."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
from django.conf import settings
from django.core.files.base import ContentFile

from tests.console.conftest import PATIENCE
from tests.console.gallery.models import Letter, Photo
from tests.console.test_processes import interrupt, lose_server, through
from tests.contract.helpers import OLD, remove_temporaries
from tests.contract.relay import Relay

FEW_SERVERS = True

MANY = 1000


@pytest.fixture
def full(server, nas, transactional_db):
    """Files that are in use, and many orphans: the directory on the server's disk."""
    Photo.objects.bulk_create(Photo(image=f"dir/{number}.kept") for number in range(3))
    nas.save("dir/0.kept", ContentFile(b"kept"))
    directory = server.root / nas.location / "dir"
    then = time.time() - OLD.total_seconds()
    for name in [*(f"{n}.kept" for n in range(1, 3)), *(f"{n}.orphan" for n in range(MANY))]:
        (directory / name).write_bytes(b"x")
        os.utime(directory / name, (then, then))
    return directory


def orphans_in(directory: Path) -> set[str]:
    assert len(list(directory.glob("*.kept"))) == 3
    return {path.name for path in directory.glob("*.orphan")}


def ended(child, first=b""):
    """Wait for the end; return the status, what was deleted as it says, and the error's lines."""
    out, err = child.communicate(timeout=PATIENCE)
    lines = (first + out).decode().splitlines()
    deleted = {line.split()[0].removeprefix("nas:dir/") for line in lines if ".orphan" in line}
    return child.returncode, deleted, err.decode().splitlines()


def test_status(manage, nas, database):
    """For monitoring: 1 if there is something to tell."""
    Photo.objects.create(image="a")
    nas.save("a", ContentFile(b"a"))
    databases = {"default": database()}
    for words, status, out, err in [
        (["nas"], 0, "0 orphans (0 B), 0 rows without their files\n", ""),
        (["disk"], 1, "", "CommandError: disk: No such file or directory\n"),
    ]:
        child = manage(settings.STORAGES, "orphans", *words, databases=databases)
        told = child.communicate(timeout=PATIENCE)
        assert (child.returncode, *(x.decode() for x in told)) == (status, out, err)
    nas.delete("a")
    nas.save("dir/.b", ContentFile(b"b"))
    child = manage(settings.STORAGES, "orphans", "nas", databases=databases)
    out, err = child.communicate(timeout=PATIENCE)
    assert (child.returncode, err) == (1, b"")
    assert b"image a: the file is missing\n0 orphans (0 B), 1 row without its file\n" in out


def test_rows_in_every_database(manage, server, nas, database, full):
    """A row in any of them keeps its file; one database is not migrated, and has no rows."""
    shard = Letter.objects.create(file="dir/0.orphan")
    databases = {"shard": database("shard.sqlite3")}
    shard.delete()
    databases |= {"default": database(), "empty": full.parent / ".empty.sqlite3"}
    child = manage(settings.STORAGES, "orphans", "nas", "--delete", databases=databases)
    status, deleted, err = ended(child)
    assert (status, err, len(deleted)) == (0, [], MANY - 1)
    assert orphans_in(full) == {"0.orphan"}


def test_a_database_that_is_not_migrated(manage, nas, full, tmp_path):
    databases = {"default": tmp_path / "new.sqlite3"}
    child = manage(settings.STORAGES, "orphans", "nas", "--delete", databases=databases)
    status, deleted, err = ended(child)
    assert (status, deleted, len(err)) == (1, set(), 1)
    assert err[0].endswith("(no such table: gallery_photo). Is it there, and migrated?")
    assert len(orphans_in(full)) == MANY


@pytest.fixture
def deleting(manage, server, nas, database, full):
    """A process that has deleted some, and now waits for the server; what it told."""
    databases = {"default": database()}
    with Relay(server) as relay:
        aliases = through(relay, nas)
        child = manage(aliases, "orphans", "nas", "--delete", databases=databases)
        first = os.read(child.stdout.fileno(), 2**16)
        assert first.startswith(b"nas:dir/"), child.communicate()
        relay.hold_after(0)
        relay.wait_until_held()
        yield child, relay, first
    remove_temporaries(server, nas)


def test_ctrl_c(deleting, full):
    """What was deleted is told, to the last one."""
    child, relay, first = deleting
    child.send_signal(signal.SIGINT)
    relay.release()
    status, deleted, err = ended(child, first)
    assert status == 130
    assert 0 < len(deleted) < MANY
    assert err == [f"CommandError: Interrupted ({len(deleted)} orphans deleted before)."]
    assert orphans_in(full) == {f"{number}.orphan" for number in range(MANY)} - deleted


def test_a_server_that_goes_away(deleting, full):
    child, relay, first = deleting
    relay.stop_listening()
    relay.cut()
    status, deleted, err = ended(child, first)
    assert status == 1
    assert len(err) == 1
    assert str(relay.port) in err[0]
    assert err[0].endswith(f"({len(deleted)} orphans deleted before)")
    left = orphans_in(full)
    # Of the last ones nobody heard what became of them.
    assert deleted <= {f"{number}.orphan" for number in range(MANY)} - left
    assert 0 < len(left) < MANY


def test_a_process_that_is_killed(manage, nas, deleting, full, database):
    """Nothing is broken: another one does the rest."""
    child, _relay, first = deleting
    child.kill()
    ended(child, first)
    left = orphans_in(full)
    assert 0 < len(left) < MANY
    databases = {"default": database()}
    child = manage(settings.STORAGES, "orphans", "nas", "--delete", databases=databases)
    status, deleted, err = ended(child)
    assert (status, err) == (0, [])
    assert deleted <= left
    assert orphans_in(full) == set()


@pytest.mark.parametrize("words", [[], ["--delete"]])
def test_a_server_that_goes_away_while_it_lists(manage, server, nas, database, full, words):
    databases = {"default": database()}
    with Relay(server, answers=True) as relay:
        relay.hold_after(2**14)
        child = manage(through(relay, nas), "orphans", "nas", *words, databases=databases)
        lose_server(child, relay)
    assert len(orphans_in(full)) == MANY


def test_ctrl_c_while_it_lists(manage, server, nas, database, full):
    databases = {"default": database()}
    with Relay(server, answers=True) as relay:
        relay.hold_after(2**14)
        child = manage(through(relay, nas), "orphans", "nas", "--delete", databases=databases)
        relay.wait_until_held()
        told = interrupt(child, relay)
    assert child.returncode == 130
    assert re.fullmatch(r"CommandError: Interrupted.*\.\n", told)
    assert "Traceback" not in told
