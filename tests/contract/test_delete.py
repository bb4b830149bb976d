"""What deleting promises: files and empty directories, and never more."""

from __future__ import annotations

import errno

import pytest
from django.core.files.base import ContentFile

from tests.contract.helpers import CANNOT_LIST, HIDES_DOTS, read


def test_a_file_goes_and_its_directory_stays(storage):
    storage.save("dir/file.txt", ContentFile(b"x"))
    storage.save("dir/other.txt", ContentFile(b"y"))
    storage.delete("dir/file.txt")
    assert not storage.exists("dir/file.txt")
    assert storage.listdir("dir") == ([], ["other.txt"])


@pytest.mark.parametrize("name", ["missing.txt", "missing/file.txt", "file.txt/below.txt"])
def test_what_is_missing_is_no_error(storage, name):
    storage.save("file.txt", ContentFile(b"x"))
    storage.delete(name)
    assert storage.listdir("") == ([], ["file.txt"])


@pytest.mark.parametrize("name", ["dir", "dir/"])
def test_an_empty_directory_goes(storage, server, name):
    storage.save("dir/file.txt", ContentFile(b"x"))
    storage.delete("dir/file.txt")
    if server.name in HIDES_DOTS:
        # It may look empty and not be so, and the server's DELETE is recursive.
        with pytest.raises(OSError, match="whether the collection is empty") as caught:
            storage.delete(name)
        assert caught.value.errno == errno.ENOTSUP
        assert storage.listdir("") == (["dir"], [])
        return
    storage.delete(name)
    assert not storage.exists("dir")
    assert storage.listdir("") == ([], [])


@pytest.mark.parametrize("name", ["dir", "dir/", "dir/inner"])
def test_a_full_directory_stays_with_everything_in_it(storage, server, name):
    storage.save("dir/file.txt", ContentFile(b"x"))
    storage.save("dir/inner/leaf.txt", ContentFile(b"y"))
    with pytest.raises(OSError, match="empty") as caught:
        storage.delete(name)
    blind = server.name in CANNOT_LIST
    assert caught.value.errno == (errno.ENOTSUP if blind else errno.ENOTEMPTY)
    assert caught.value.filename == name
    assert read(storage, "dir/file.txt") == b"x"
    assert read(storage, "dir/inner/leaf.txt") == b"y"


def test_a_directory_of_hidden_or_empty_things_is_not_empty(storage, server):
    storage.save("dir/.hidden", ContentFile(b"x"))
    with pytest.raises(OSError, match="empty") as caught:
        storage.delete("dir")
    hides = server.name in HIDES_DOTS
    assert caught.value.errno == (errno.ENOTSUP if hides else errno.ENOTEMPTY)
    assert read(storage, "dir/.hidden") == b"x"
    storage.save("outer/inner/x", ContentFile(b""))
    storage.delete("outer/inner/x")
    with pytest.raises(OSError, match="empty"):
        storage.delete("outer")
    assert storage.listdir("outer") == (["inner"], [])


@pytest.mark.parametrize("name", ["", ".", "./", "dir/.."])
def test_the_root_is_not_deleted(storage, name):
    storage.save("dir/file.txt", ContentFile(b"x"))
    with pytest.raises(ValueError, match="name"):
        storage.delete(name)
    assert read(storage, "dir/file.txt") == b"x"


def test_a_name_can_be_used_again(storage):
    for data in (b"first", b"second"):
        assert storage.save("file.txt", ContentFile(data)) == "file.txt"
        assert read(storage, "file.txt") == data
        storage.delete("file.txt")
