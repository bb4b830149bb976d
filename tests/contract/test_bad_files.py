"""Directories where files are expected and the reverse, and disks that take nothing."""

from __future__ import annotations

import errno
import logging
import os
import posixpath
import subprocess
from contextlib import contextmanager, suppress

import pytest
from django.core.files.base import ContentFile

from tests.contract.helpers import private_storage, raw_names, read, temporaries
from tests.contract.page import check


@pytest.fixture
def tree(storage):
    """dir/file.txt and file.txt, which are to be as they were at the end."""
    storage.save("dir/file.txt", ContentFile(b"inner"))
    storage.save("file.txt", ContentFile(b"outer"))
    yield storage
    assert raw_names(storage) == {"dir": True, "file.txt": False}
    assert raw_names(storage, "dir") == {"file.txt": False}
    assert read(storage, "dir/file.txt") == b"inner"
    assert read(storage, "file.txt") == b"outer"


@contextmanager
def refused(kind, number, name):
    with pytest.raises(OSError, match=r".") as caught:
        yield
    assert type(caught.value) is kind
    assert caught.value.errno == number
    assert caught.value.filename == name
    assert name in str(caught.value)


def publish(storage, name, mode):
    file = storage.open(name, mode)
    try:
        file.write(b"new")
        file.close()
    finally:
        file.discard()


class TestDirectoryWhereAFileIsExpected:
    def test_reading(self, tree):
        with tree.open("dir") as file, refused(IsADirectoryError, errno.EISDIR, "dir"):
            file.read()
        with tree.open("dir") as file, refused(IsADirectoryError, errno.EISDIR, "dir"):
            assert file.size

    def test_size(self, tree):
        with refused(IsADirectoryError, errno.EISDIR, "dir"):
            tree.size("dir")

    @pytest.mark.parametrize("mode", ["wb", "ab", "r+b"])
    def test_writing(self, tree, mode):
        with refused(IsADirectoryError, errno.EISDIR, "dir"):
            publish(tree, "dir", mode)

    def test_creating(self, tree):
        with refused(FileExistsError, errno.EEXIST, "dir"):
            publish(tree, "dir", "xb")

    def test_the_root(self, tree):
        with tree.open("") as file, pytest.raises(IsADirectoryError):
            file.read()
        with pytest.raises(IsADirectoryError):
            tree.size("")


class TestFileWhereADirectoryIsExpected:
    @pytest.mark.parametrize("name", ["file.txt", "file.txt/"])
    def test_listdir(self, tree, name):
        with refused(NotADirectoryError, errno.ENOTDIR, name):
            tree.listdir(name)

    def test_listdir_below(self, tree):
        with refused(FileNotFoundError, errno.ENOENT, "file.txt/dir"):
            tree.listdir("file.txt/dir")

    @pytest.mark.parametrize("name", ["file.txt/below.txt", "file.txt/deep/below.txt"])
    @pytest.mark.parametrize("size", [3, 2 * 2**20], ids=["small", "big"])
    def test_saving_below(self, tree, name, size):
        with refused(FileExistsError, errno.EEXIST, name):
            tree.save(name, ContentFile(bytes(size)))

    @pytest.mark.parametrize("mode", ["wb", "xb"])
    def test_writing_below(self, tree, mode):
        with refused(FileExistsError, errno.EEXIST, "file.txt/below.txt"):
            publish(tree, "file.txt/below.txt", mode)

    def test_editing_below(self, tree, server):
        if server.name == "lighttpd":
            return  # reads the file itself; see test_open.py
        with refused(FileNotFoundError, errno.ENOENT, "file.txt/below.txt"):
            publish(tree, "file.txt/below.txt", "r+b")


# --- disks ---------------------------------------------------------------------------------------


FULL = {
    "embedded-sftp": errno.ENOSPC,
    "sshd": errno.ENOSPC,
    "proftpd": errno.ENOSPC,
    "apache": errno.ENOSPC,
    # What these say is a 500, a 405, or a sentence, whatever the reason.
    "embedded-webdav": errno.EIO,
    "nginx": errno.EIO,
    "nginx-plain": errno.EIO,
    "lighttpd": errno.EIO,
    "sabre": errno.EIO,
    "rclone-webdav": errno.ENOTSUP,
    "rclone-sftp": errno.EIO,
}
READ_ONLY = FULL | {
    "embedded-sftp": errno.EROFS,
    "sshd": errno.EROFS,
    "proftpd": errno.EROFS,
    "apache": errno.EIO,
}
FILLS = {
    # Keeps the file that it could not finish open, so that its space is not given back.
    "embedded-webdav",
    # Leaves its own copy between two file systems (NAME.0000000001) when it cannot finish it.
    "nginx",
    "nginx-plain",
}


@pytest.fixture(params=list(FULL))
def local_server(request, running_servers):
    """Each server that works on this machine's disks; the containers' have a small one each."""
    return running_servers.get(request.param, request)


@pytest.fixture
def disk(local_server):
    """Mounts a disk of its own below the server's root; gives a storage on it."""
    server = local_server
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    mounted = []

    def mount(options, **more):
        path = server.root / f"disk-{len(mounted)}-{os.urandom(4).hex()}"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"only root can mount a small disk, and not here: {done.stderr}")
        mounted.append(path)
        location = posixpath.join(server.options.get("location", ""), path.name)
        return private_storage(server, location=location, **more)

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)
        path.rmdir()


def test_a_full_disk(disk, local_server, caplog):
    caplog.set_level(logging.DEBUG)
    storage = disk("size=1m")
    storage.save("kept.txt", ContentFile(b"kept"))
    for name in ("dir/big.bin", "big.bin"):
        with pytest.raises(OSError, match=r"big\.bin") as caught:
            storage.save(name, ContentFile(bytes(2 * 2**20)))
        assert caught.value.errno == FULL[local_server.name]
        assert caught.value.filename == name
        assert not storage.exists(name)
        check(local_server, "A full disk", errno.errorcode[caught.value.errno])
    assert read(storage, "kept.txt") == b"kept"
    if local_server.name not in FILLS:
        assert temporaries(local_server, storage) == []
        assert storage.save("small.bin", ContentFile(bytes(2**19))) == "small.bin"


def test_small_files_on_a_full_disk(disk, local_server):
    """WebDAV compares no small file with what the server holds of it: its answer must tell.

    SFTP does compare, and has to: asyncssh's server says nothing of a part that did not fit.
    """
    storage = disk("size=64k")
    storage.save("kept.txt", ContentFile(b"kept"))
    storage.save("half.bin", ContentFile(bytes(52 * 2**10)))
    folder = local_server.root / posixpath.basename(storage.location)
    # Of the first a part fits.
    for name, size in (("part.bin", 10 * 2**10), ("none.bin", 1)):
        with pytest.raises(OSError, match=name) as caught:
            storage.save(name, ContentFile(bytes(size)))
        assert caught.value.errno in {FULL[local_server.name], errno.ENOSPC, errno.EIO}
        assert not (folder / name).exists()
        with (folder / "fill").open("wb", buffering=0) as fill, suppress(OSError):
            while fill.write(bytes(4096)):
                pass
    assert (folder / "kept.txt").read_bytes() == b"kept"
    # Once there is room it goes on.
    for name in ("fill", "half.bin"):
        (folder / name).unlink()
    assert storage.save("again.bin", ContentFile(bytes(10 * 2**10))) == "again.bin"


@pytest.mark.parametrize("how", ["overwrite", "write"])
def test_a_file_is_not_lost_when_its_successor_does_not_fit(disk, local_server, how):
    storage = disk("size=1m", allow_overwrite=True)
    storage.save("file.bin", ContentFile(b"old"))
    with pytest.raises(OSError, match=r"file\.bin") as caught:
        if how == "write":
            publish_big(storage, "file.bin")
        else:
            storage.save("file.bin", ContentFile(bytes(2 * 2**20)))
    assert caught.value.errno == FULL[local_server.name]
    assert read(storage, "file.bin") == b"old"
    if local_server.name not in FILLS:
        assert temporaries(local_server, storage) == []
        assert storage.save("file.bin", ContentFile(b"new")) == "file.bin"
        assert read(storage, "file.bin") == b"new"


def publish_big(storage, name):
    file = storage.open(name, "wb")
    try:
        file.write(bytes(2 * 2**20))
        file.close()
    finally:
        file.discard()


def test_a_read_only_disk(disk, local_server):
    storage = disk("ro")
    for name in ("new.txt", "dir/new.txt"):
        with pytest.raises(OSError, match=r"new\.txt") as caught:
            storage.save(name, ContentFile(b"new"))
        # Apache and lighttpd answer 403 to a directory, and 500 to a file.
        assert caught.value.errno in {READ_ONLY[local_server.name], errno.EACCES}
        assert caught.value.filename == name
    # Not asked of the server: rclone's listings are broken while it misses a file it believed in.
    assert list((local_server.root / posixpath.basename(storage.location)).iterdir()) == []


def test_a_full_disk_in_a_container(any_container):
    storage = private_storage(any_container, location=any_container.small)
    name = storage.save("kept.txt", ContentFile(b"kept"))
    with pytest.raises(OSError, match=r"big\.bin") as caught:
        storage.save("big.bin", ContentFile(bytes(4 * 2**20)))
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == "big.bin"
    assert not storage.exists("big.bin")
    assert read(storage, name) == b"kept"
    assert temporaries(any_container, storage) == []
    storage.delete(name)


@pytest.fixture(params=["docker-sshd", "docker-apache"])
def any_container(request, running_servers):
    return running_servers.get(request.param, request)


def test_a_directory_that_is_another_s(running_servers, request):
    """In the container the user is nobody special, and the root above the uploads is root's."""
    server = running_servers.get("docker-sshd", request)
    storage = private_storage(server, location="/")
    for name in ("new.txt", "dir/new.txt"):
        with refused(PermissionError, errno.EACCES, name):
            storage.save(name, ContentFile(b"new"))
    assert "new.txt" not in storage.listdir("")[1]
