"""Symbolic links that lead out of the location: refused on request, whatever is asked for."""

from __future__ import annotations

import errno
import os
import posixpath
import secrets
import time
from datetime import timedelta

import pytest
from django.core.files.base import ContentFile

from netstorage.leftovers import find_leftovers, remove_leftovers
from netstorage.storage import TEMPORARY
from tests.contract.helpers import private_storage, read

WRITES_THROUGH = {"proftpd"}
"""Servers that replace what a link leads to, not the link."""
CANNOT_TELL_NOWHERE = {"proftpd"}
"""Servers that do not say where a link to nowhere leads."""


@pytest.fixture(params=["embedded-sftp", "sshd", "proftpd"])
def any_sftp(request, running_servers):
    """Servers on this machine that resolve links when they are asked where a path leads."""
    return running_servers.get(request.param, request)


@pytest.fixture
def place(any_sftp):
    """A folder with a location and something outside of it, and links of all kinds between."""
    top = any_sftp.root / f"links-{secrets.token_hex(4)}"
    inside, outside = top / "inside", top / "outside"
    (inside / "dir" / "deep").mkdir(parents=True)
    (outside / "sub").mkdir(parents=True)
    (inside / "dir" / "file.txt").write_bytes(b"inside")
    (outside / "file.txt").write_bytes(b"outside")
    # One name is the beginning of the other.
    (top / "inside-not").mkdir()
    for name, target in {
        "to-dir": "dir",
        "to-file": "dir/file.txt",
        "out": "../outside",
        "out-sub": "dir/../../outside/sub",
        "out-file": "../outside/file.txt",
        "out-like": "../inside-not",
        "out-new": "../outside/new",
        "out-twice": "dir/again",
        "dir/again": "../out",
        "loop": "loop",
    }.items():
        (inside / name).symlink_to(target)
    return inside


@pytest.fixture
def make(any_sftp, place):
    """Makes storages at that location."""
    base = any_sftp.options.get("location", "")
    location = posixpath.join(base, *place.relative_to(any_sftp.root).parts)
    storages = []

    def make(**options):
        storages.append(private_storage(any_sftp, location=location, **options))
        return storages[-1]

    yield make
    for storage in storages:
        storage.pool.close()


@pytest.fixture
def confined(make):
    return make(confine_links=True)


def save(storage, name):
    return storage.save(name, ContentFile(b"new"))


def write(storage, name):
    with storage.open(name, "wb") as file:
        file.write(b"new")


OPERATIONS = {
    "exists": lambda storage, name: storage.exists(name),
    "size": lambda storage, name: storage.size(name),
    "mtime": lambda storage, name: storage.get_modified_time(name),
    "atime": lambda storage, name: storage.get_accessed_time(name),
    "read": read,
    "listdir": lambda storage, name: storage.listdir(name),
    "save": save,
    "write": write,
    "delete": lambda storage, name: storage.delete(name),
    "leftovers": lambda storage, name: list(find_leftovers(storage, path=name)),
    "remove-leftovers": lambda storage, name: remove_leftovers(storage, path=name),
}


def snapshot(folder):
    return {path: path.lstat().st_mtime_ns for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    "name", ["out/file.txt", "out/sub", "out-twice/file.txt", "to-dir/again/file.txt"]
)
def test_nothing_is_done_behind_a_link_that_leads_out(confined, place, operation, name):
    before = snapshot(place.parent)
    with pytest.raises(PermissionError, match="leads out of the storage's location") as caught:
        OPERATIONS[operation](confined, name)
    assert caught.value.errno == errno.EACCES
    assert caught.value.filename.startswith(name)
    assert snapshot(place.parent) == before
    # A verdict, which costs no session.
    assert confined.pool.stats().closed_broken == 0


@pytest.mark.parametrize("operation", ["size", "mtime", "read", "listdir"])
@pytest.mark.parametrize("name", ["out", "out-sub", "out-file", "out-like", "out-twice"])
def test_what_follows_a_link_does_not_follow_it_out(confined, operation, name):
    with pytest.raises(PermissionError, match="leads out of the storage's location"):
        OPERATIONS[operation](confined, name)


@pytest.mark.parametrize("name", ["out", "out-file", "out-new", "to-file", "loop"])
def test_a_link_itself_is_there_and_can_be_removed(confined, place, name):
    target = (place / name).resolve() if name != "loop" else None
    there = target is not None and target.exists()
    assert confined.exists(name)
    confined.delete(name)
    assert not (place / name).is_symlink()
    assert target is None or target.exists() == there
    assert (place.parent / "outside" / "file.txt").read_bytes() == b"outside"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_nothing_is_done_behind_a_link_to_nowhere_outside(any_sftp, confined, place, operation):
    before = snapshot(place.parent)
    told = operation in {"exists", "delete"} and any_sftp.name in CANNOT_TELL_NOWHERE
    if told:
        # As of any name that is missing.
        assert not OPERATIONS[operation](confined, "out-new/x")
    else:
        with pytest.raises((PermissionError, FileNotFoundError)):
            OPERATIONS[operation](confined, "out-new/x")
    assert snapshot(place.parent) == before


def test_a_new_name_is_found_where_a_link_leads_out(confined, place):
    name = save(confined, "out-file")
    assert name != "out-file"
    assert (place / name).read_bytes() == b"new"


@pytest.mark.parametrize("operation", ["save", "write"])
def test_a_link_that_leads_out_is_not_saved_over(make, place, operation):
    storage = make(confine_links=True, allow_overwrite=True)
    with pytest.raises(PermissionError, match="leads out"):
        OPERATIONS[operation](storage, "out-file")
    assert (place.parent / "outside" / "file.txt").read_bytes() == b"outside"
    assert [path for path in place.iterdir() if path.name.startswith(TEMPORARY)] == []


@pytest.mark.parametrize("confine", [False, True])
def test_saving_over_a_link_replaces_the_link(make, any_sftp, place, confine):
    storage = make(confine_links=confine, allow_overwrite=True)
    assert save(storage, "to-file") == "to-file"
    through = any_sftp.name in WRITES_THROUGH
    assert (place / "to-file").is_symlink() is through
    assert (place / "to-file").read_bytes() == b"new"
    assert (place / "dir" / "file.txt").read_bytes() == (b"new" if through else b"inside")


def test_what_stays_inside_works(confined, place):
    """Links within the location, missing names and folders, and the root itself."""
    assert read(confined, "to-file") == read(confined, "to-dir/file.txt") == b"inside"
    assert confined.size("to-file") == 6
    assert confined.listdir("to-dir/deep") == ([], [])
    assert save(confined, "to-dir/new.txt") == "to-dir/new.txt"
    assert save(confined, "a/b/c.txt") == "a/b/c.txt"
    write(confined, "d/e.txt")
    assert (place / "dir" / "new.txt").read_bytes() == b"new"
    assert confined.exists("")
    for name in ("none", "none/none", "dir/file.txt/below"):
        assert not confined.exists(name)
        with pytest.raises(FileNotFoundError):
            read(confined, name)
        confined.delete(name)
    confined.delete("a/b/c.txt")


def test_a_listing_tells_links_out_as_no_directories(confined):
    directories, files = confined.listdir("")
    assert sorted(directories) == ["dir", "to-dir"]
    assert {"out", "out-sub", "out-like", "out-file", "out-twice"} <= set(files)


def test_a_listing_tells_nothing_of_what_links_lead_to(confined):
    where = confined._path("")
    listed = confined._run("", lambda session: list(session.listdir(where, details=True)))
    links = {entry.name: entry.stat for entry in listed if entry.is_link}
    assert [x.stat for x in listed if x.name not in links] == [confined._stat("dir")]
    assert links.keys() >= {"to-dir", "to-file", "out", "out-file", "loop"}
    assert not any(links.values())


def test_leftovers_outside_stay(confined, place):
    name = TEMPORARY + secrets.token_hex(16)
    then = time.time() - timedelta(days=3).total_seconds()
    for folder in (place / "dir", place.parent / "outside"):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (then, then))
    assert [leftover.name for leftover in remove_leftovers(confined)] == [f"dir/{name}"]
    assert (place.parent / "outside" / name).exists()


def test_the_location_may_be_a_link(any_sftp, place, confined):
    """It is the operator's choice; and one that comes into being with the first save."""
    link = place.parent / "link"
    link.symlink_to("inside")
    base = any_sftp.options.get("location", "")
    for name in ("link", "missing/deep"):
        location = posixpath.join(base, place.parent.name, name)
        storage = private_storage(any_sftp, location=location, confine_links=True)
        assert not storage.exists("first.txt")
        assert save(storage, "sub/first.txt") == "sub/first.txt"
        assert read(storage, "sub/first.txt") == b"new"
        storage.pool.close()
    with pytest.raises(PermissionError):
        private_storage(
            any_sftp, location=posixpath.join(base, place.parent.name, "link"), confine_links=True
        ).exists("out/file.txt")


def test_a_long_chain_of_links_is_no_way_out(confined, place):
    """OpenSSH gives up on it sooner than the kernel, and says that nothing is there."""
    (place / "chain-0").symlink_to("../outside")
    for number in range(1, 36):
        (place / f"chain-{number}").symlink_to(f"chain-{number - 1}")
    assert (place / "chain-35" / "file.txt").exists()
    for operation in ("size", "read", "save", "write"):
        with pytest.raises(OSError):
            OPERATIONS[operation](confined, "chain-35/file.txt")
    with pytest.raises(OSError):
        confined.listdir("chain-35")
    assert [path.name for path in (place.parent / "outside").iterdir() if path.is_file()] == [
        "file.txt"
    ]
    assert (place.parent / "outside" / "file.txt").read_bytes() == b"outside"


def test_without_the_option_links_are_followed(make, place):
    storage = make()
    assert storage.exists("out/file.txt")
    assert read(storage, "out-file") == b"outside"
    assert save(storage, "out/sub/new.txt") == "out/sub/new.txt"
    assert (place.parent / "outside" / "sub" / "new.txt").read_bytes() == b"new"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_server_that_may_not_resolve_links_is_refused(request, running_servers, operation):
    """rclone gives back the path that it was asked for."""
    server = running_servers.get("rclone-sftp", request)
    plain = private_storage(server, location=f"links-{secrets.token_hex(4)}")
    save(plain, "dir/file.txt")
    storage = private_storage(server, location=plain.options["location"], confine_links=True)
    with pytest.raises(OSError, match="option confine_links cannot be kept") as caught:
        OPERATIONS[operation](storage, "dir/file.txt")
    assert caught.value.errno == errno.ENOTSUP
    assert plain.listdir("") == (["dir"], [])
