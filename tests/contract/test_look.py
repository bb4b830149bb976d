"""What asking promises: exists, size, listdir, times and url."""

from __future__ import annotations

import datetime
import errno
import io
import time

import pytest
from django.core.files.base import ContentFile
from django.test import override_settings

from netstorage.storage import TEMPORARY
from tests.contract.helpers import CANNOT_LIST, HIDES_DOTS, HIDES_LINKS, raw_names

CLOCK = 5
"""Seconds that a server's clock and the coarseness of its times may make."""


@pytest.fixture
def tree(storage):
    """dir/inner/leaf.txt, dir/file.txt and top.txt."""
    for name in ("top.txt", "dir/file.txt", "dir/inner/leaf.txt"):
        storage.save(name, ContentFile(name.encode()))
    return storage


def test_exists(tree):
    assert tree.exists("top.txt")
    assert tree.exists("dir/inner/leaf.txt")
    assert tree.exists("dir")
    assert tree.exists("dir/")
    assert tree.exists("")
    assert not tree.exists("missing.txt")
    assert not tree.exists("dir/missing.txt")
    assert not tree.exists("missing/file.txt")


def test_nothing_exists_below_a_file(tree):
    assert not tree.exists("top.txt/file.txt")
    assert not tree.exists("top.txt/dir/file.txt")


def test_nothing_exists_before_the_first_save(storage):
    """The root may come with the first file."""
    assert not storage.exists("")
    assert not storage.exists("file.txt")
    with pytest.raises(FileNotFoundError):
        storage.listdir("")
    storage.delete("file.txt")


def test_size(tree):
    assert tree.size("top.txt") == 7
    assert tree.size("dir/inner/leaf.txt") == 18


@pytest.mark.parametrize("name", ["missing.txt", "missing/file.txt", "top.txt/file.txt"])
def test_what_is_missing_has_no_size_and_no_times(tree, name):
    for ask in (tree.size, tree.get_modified_time):
        with pytest.raises(FileNotFoundError) as caught:
            ask(name)
        assert caught.value.errno == errno.ENOENT
        assert caught.value.filename == name


def listed(listing):
    directories, files = listing
    return sorted(directories), sorted(files)


@pytest.mark.parametrize("path", ["", ".", "dir/.."])
def test_listdir_of_the_root(tree, path):
    assert listed(tree.listdir(path)) == (["dir"], ["top.txt"])


@pytest.mark.parametrize("path", ["dir", "dir/", "./dir", "dir/inner/.."])
def test_listdir_tells_directories_from_files(tree, path):
    assert listed(tree.listdir(path)) == (["inner"], ["file.txt"])


def test_listdir_of_an_empty_directory(tree):
    tree.delete("dir/inner/leaf.txt")
    assert tree.listdir("dir/inner") == ([], [])


def test_listdir_of_what_is_missing(tree):
    with pytest.raises(FileNotFoundError) as caught:
        tree.listdir("missing")
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == "missing"


def test_listdir_of_many(storage):
    """More than one answer's worth of names."""
    names = [f"{number:03d}-{'x' * 100}.txt" for number in range(150)]
    storage.save(f"{names[0]}/file", ContentFile(b""))
    with storage.pool.connection() as session:
        for name in names[1:]:
            session.write(storage._path(name), io.BytesIO(), 0, None, None)
    directories, files = storage.listdir("")
    assert directories == names[:1]
    assert sorted(files) == names[1:]


def test_a_listing_tells_what_asking_tells(tree, server):
    """Of each file, directory and link, if details are wanted; else names alone."""
    tree.save("dir/empty.txt", ContentFile(b""))
    tree.save("dir/large.bin", ContentFile(bytes(300_000)))
    sizes = {"file.txt": 12, "empty.txt": 0, "large.bin": 300_000}
    names = {*sizes, "inner"}
    if server.root is not None:
        folder = server.root / tree.location / "dir"
        (folder / "link").symlink_to("large.bin")
        if server.protocol == "sftp":
            # WebDAV knows no links, and some servers cannot list one to nowhere.
            (folder / "nowhere").symlink_to("missing")
            names |= set() if server.name in HIDES_LINKS else {"link", "nowhere"}
            sizes |= {} if server.name in HIDES_LINKS else {"link": 300_000}
    where = tree._path("dir")
    with tree.pool.connection() as session:
        assert not any(entry.stat for entry in session.listdir(where))
        entries = {entry.name: entry for entry in session.listdir(where, details=True)}
        assert entries.keys() - {"link"} == names - {"link"}
        for name, entry in entries.items():
            assert (entry.stat is None) == (name == "nowhere" or server.name in CANNOT_LIST)
            if entry.stat is not None:
                asked = session.stat(f"{where}/{name}")
                assert entry.is_dir == entry.stat.is_dir == asked.is_dir
                assert entry.stat.size == asked.size
                assert entry.stat.same_version(asked)
                assert int(entry.stat.mtime) == int(asked.mtime)
                assert name not in sizes or entry.stat.size == sizes[name]
    assert "link" not in names or "link" in entries


def test_unfinished_uploads_do_not_show(storage, server, tmp_path):
    storage.save("file.txt", ContentFile(b""))
    temporary = TEMPORARY + "0" * 32
    path = tmp_path / "source"
    path.write_bytes(b"half")
    with path.open("rb") as source, storage.pool.connection() as session:
        session.write(storage._path(temporary), source, 4, None, None)
    if server.name not in HIDES_DOTS:
        assert set(raw_names(storage)) == {"file.txt", temporary}
    assert storage.exists(temporary)
    assert storage.listdir("") == ([], ["file.txt"])
    storage.delete(temporary)


def test_a_user_s_file_with_the_same_prefix_is_a_file_like_any(storage, server):
    name = TEMPORARY + "notes.txt"
    assert storage.save(name, ContentFile(b"")) == name
    assert storage.exists(name)
    if server.name not in HIDES_DOTS:
        assert storage.listdir("") == ([], [name])
    storage.delete(name)


def test_modified_time_is_aware_in_utc_with_use_tz(storage):
    before = datetime.datetime.now(datetime.timezone.utc)
    storage.save("file.txt", ContentFile(b"now"))
    modified = storage.get_modified_time("file.txt")
    assert modified.utcoffset() == datetime.timedelta(0)
    assert abs((modified - before).total_seconds()) < CLOCK


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_modified_time_is_local_and_naive_without_use_tz(storage, zone):
    storage.save("file.txt", ContentFile(b"now"))
    with override_settings(USE_TZ=False, TIME_ZONE=zone):
        modified = storage.get_modified_time("file.txt")
        assert modified.tzinfo is None
        assert abs((modified - datetime.datetime.now()).total_seconds()) < CLOCK


def test_a_directory_has_a_modified_time(tree, server):
    if server.name in CANNOT_LIST:
        # HEAD is answered with a redirect to the slash, which tells no time.
        with pytest.raises(NotImplementedError):
            tree.get_modified_time("dir")
        return
    assert abs(tree.get_modified_time("dir").timestamp() - time.time()) < CLOCK


@pytest.mark.parametrize(
    ("ask", "words"),
    [("get_accessed_time", "last access"), ("get_created_time", "creation")],
)
def test_other_times_are_there_or_clearly_not(storage, server, ask, words):
    storage.save("file.txt", ContentFile(b"now"))
    try:
        told = getattr(storage, ask)("file.txt")
    except NotImplementedError as error:
        assert words in str(error)
        assert str(server.port) in str(error)
    else:
        assert abs(told.timestamp() - time.time()) < CLOCK
    # SFTP version 3 has the one, WebDAV the other.
    expected = {"sftp": "get_accessed_time", "webdav": "get_created_time"}
    if ask != expected[server.protocol]:
        with pytest.raises(NotImplementedError):
            getattr(storage, ask)("file.txt")


def test_url_needs_no_server(storage, sibling):
    assert storage.url("file.txt") == "/media/file.txt"
    assert storage.url("a b/ü#?.txt") == "/media/a%20b/%C3%BC%23%3F.txt"
    assert storage.url("/leading.txt") == "/media/leading.txt"
    assert sibling(base_url="https://cdn.example.com/m").url("x.txt") == (
        "https://cdn.example.com/m/x.txt"
    )
    with pytest.raises(ValueError, match="base_url"):
        sibling(base_url=None).url("x.txt")


def test_path_is_for_local_files_alone(storage):
    with pytest.raises(NotImplementedError):
        storage.path("file.txt")
