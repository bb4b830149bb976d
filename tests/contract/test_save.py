"""What saving promises: any content, any depth, and nothing of the caller's touched."""

from __future__ import annotations

import hashlib
import io
import random
import re
from pathlib import Path, PurePosixPath

import pytest
from django.core.exceptions import SuspiciousFileOperation
from django.core.files.base import ContentFile, File
from django.core.files.storage import FileSystemStorage
from django.core.files.uploadedfile import InMemoryUploadedFile, SimpleUploadedFile

from tests.contract.helpers import Stream, raw_names, read, uploaded

BIG = 20 * 2**20 + 37
"""More than any window, flight or buffer, and no multiple of one."""


def in_memory(data: bytes) -> InMemoryUploadedFile:
    return InMemoryUploadedFile(io.BytesIO(data), "file", "m.bin", None, len(data), None)


@pytest.mark.parametrize(
    "make",
    [
        ContentFile,
        uploaded,
        in_memory,
        lambda data: SimpleUploadedFile("s.bin", data),
        lambda data: File(io.BytesIO(data)),
        io.BytesIO,
        lambda data: io.BufferedReader(io.BytesIO(data)),
        lambda data: Stream(iter([data[:7], data[7:]])),
    ],
    ids=[
        "ContentFile",
        "TemporaryUploadedFile",
        "InMemoryUploadedFile",
        "SimpleUploadedFile",
        "File",
        "BytesIO",
        "BufferedReader",
        "without-size",
    ],
)
@pytest.mark.parametrize("data", [b"", b"\x00\xff\r\n" * 5000], ids=["empty", "bytes"])
def test_every_kind_of_content_arrives(storage, make, data):
    content = make(data)
    assert storage.save("file.bin", content) == "file.bin"
    assert read(storage, "file.bin") == data
    assert storage.size("file.bin") == len(data)
    assert not content.closed
    content.close()


def test_text_arrives_as_utf_8(storage, tmp_path):
    text = "Grüße,\r\n試験 🗎\n"
    storage.save("a.txt", ContentFile(text))
    storage.save("b.txt", io.StringIO(text))
    path = tmp_path / "c.txt"
    path.write_text(text, newline="")
    with path.open(newline="") as file:
        storage.save("c.txt", file)
    for name in ("a.txt", "b.txt", "c.txt"):
        assert read(storage, name) == text.encode()


def test_a_plain_file_stays_open_and_where_it_is(storage, tmp_path):
    path = tmp_path / "local.bin"
    path.write_bytes(b"local")
    with path.open("rb") as file:
        storage.save("copy.bin", file)
        assert not file.closed
        file.seek(0)
        assert file.read() == b"local"
    assert path.read_bytes() == b"local"


def test_an_upload_on_disk_stays_the_caller_s(storage):
    """FileSystemStorage moves it away; a server gets a copy, and the caller keeps the file."""
    with uploaded(b"uploaded") as content:
        storage.save("u.bin", content)
        assert Path(content.temporary_file_path()).read_bytes() == b"uploaded"
        storage.save("again.bin", content)
    assert read(storage, "again.bin") == b"uploaded"


@pytest.mark.parametrize("position", [0, 3, 8])
def test_content_is_saved_from_its_beginning(storage, tmp_path, position):
    """As FileSystemStorage does it, and the position afterwards is the same."""
    positions = []
    for each in (FileSystemStorage(tmp_path), storage):
        content = ContentFile(b"position")
        content.seek(position)
        each.save("p.txt", content)
        positions.append(content.tell())
    assert read(storage, "p.txt") == b"position"
    assert positions[0] == positions[1]


def test_a_big_file_arrives_whole(storage):
    data = random.Random(1).randbytes(BIG)
    expected = hashlib.sha256(data).hexdigest()
    with uploaded(data) as content:
        storage.save("big.bin", content)
    assert storage.size("big.bin") == BIG

    digest = hashlib.sha256()
    with storage.open("big.bin") as file:
        for chunk in file.chunks():
            digest.update(chunk)
        assert digest.hexdigest() == expected
        file.seek(BIG - 100)
        assert file.read() == data[-100:]
    with storage.open("big.bin") as file:
        assert hashlib.sha256(file.read()).hexdigest() == expected
    with storage.open("big.bin") as file:
        file.seek(5 * 2**20 + 3)
        assert file.read(3 * 2**20) == data[5 * 2**20 + 3 : 8 * 2**20 + 3]
    storage.delete("big.bin")


@pytest.mark.parametrize("size", [32 * 2**10, 255 * 2**10, 2**20, 8 * 2**20])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_no_length_is_an_edge(storage, size, more):
    """Around the lengths of requests, buffers and windows."""
    data = random.Random(size + more).randbytes(size + more)
    storage.save("edge.bin", ContentFile(data))
    assert read(storage, "edge.bin") == data
    storage.delete("edge.bin")


def test_directories_are_made_on_demand(storage):
    assert storage.save("a/b/c/d.txt", ContentFile(b"deep")) == "a/b/c/d.txt"
    assert storage.save("a/b/e.txt", ContentFile(b"less")) == "a/b/e.txt"
    assert read(storage, "a/b/c/d.txt") == b"deep"
    assert read(storage, "a/b/e.txt") == b"less"
    assert storage.listdir("") == (["a"], [])


def test_a_big_file_goes_into_a_directory_that_is_missing(storage):
    """Where the server is asked for the directory before the body goes out."""
    data = bytes(3 * 2**20)
    storage.save("new/dir/big.bin", ContentFile(data))
    assert storage.size("new/dir/big.bin") == len(data)


@pytest.mark.parametrize("name", [Path("path/name.txt"), PurePosixPath("path/name.txt")])
def test_names_may_be_paths(storage, name):
    assert storage.save(name, ContentFile(b"path")) == "path/name.txt"
    assert storage.exists(name)
    assert storage.size(name) == 4
    assert read(storage, name) == b"path"
    assert storage.listdir(Path("path")) == ([], ["name.txt"])
    assert storage.get_modified_time(name)
    assert storage.url(str(name)) == "/media/path/name.txt"
    storage.delete(name)
    assert not storage.exists(name)


def test_the_content_s_name_stands_in(storage):
    assert storage.save(None, ContentFile(b"named", name="named.txt")) == "named.txt"
    assert read(storage, "named.txt") == b"named"


def test_a_taken_name_gets_an_alternative(storage):
    first = storage.save("same.txt", ContentFile(b"first"))
    second = storage.save("same.txt", ContentFile(b"second"))
    assert first == "same.txt"
    assert re.fullmatch(r"same_[A-Za-z0-9]{7}\.txt", second)
    assert read(storage, first) == b"first"
    assert read(storage, second) == b"second"
    assert sorted(storage.listdir("")[1]) == sorted([first, second])


def test_a_directory_s_name_is_taken(storage):
    storage.save("folder/file.txt", ContentFile(b"below"))
    name = storage.save("folder", ContentFile(b"beside"))
    assert re.fullmatch(r"folder_[A-Za-z0-9]{7}", name)
    assert read(storage, "folder/file.txt") == b"below"


def test_max_length_cuts_the_name(storage):
    name = storage.save("a" * 40 + ".txt", ContentFile(b"1"), max_length=20)
    assert len(name) == 20
    assert name.endswith(".txt")
    assert storage.exists(name)
    again = storage.save(name, ContentFile(b"2"), max_length=20)
    assert len(again) == 20
    assert again != name
    with pytest.raises(SuspiciousFileOperation):
        storage.save("dir/" + "a" * 40 + ".txt", ContentFile(b"3"), max_length=5)
    assert read(storage, name) == b"1"


def test_available_names(storage):
    assert storage.get_available_name("free.txt") == "free.txt"
    assert storage.is_name_available("free.txt")
    storage.save("taken.txt", ContentFile(b""))
    assert not storage.is_name_available("taken.txt")
    assert not storage.is_name_available("too-long.txt", max_length=5)
    other = storage.get_available_name("taken.txt")
    assert other != "taken.txt"
    assert not storage.exists(other)
    assert storage.get_alternative_name("root", ".ext").startswith("root_")
    assert storage.generate_filename("dir/a b?.txt") == "dir/a_b.txt"
    assert storage.get_valid_name("a b?.txt") == "a_b.txt"


class TestAllowOverwrite:
    def test_the_name_is_kept_and_the_content_replaced(self, sibling):
        storage = sibling(allow_overwrite=True)
        for data in (b"first", b"the second is longer", b"3", b""):
            assert storage.save("dir/same.txt", ContentFile(data)) == "dir/same.txt"
            assert read(storage, "dir/same.txt") == data
        assert storage.listdir("dir") == ([], ["same.txt"])
        assert list(raw_names(storage, "dir")) == ["same.txt"]

    def test_max_length_is_still_kept(self, sibling):
        storage = sibling(allow_overwrite=True)
        name = storage.save("a" * 40 + ".txt", ContentFile(b"1"), max_length=20)
        assert len(name) == 20

    def test_a_directory_is_not_replaced(self, storage, sibling):
        storage.save("folder/file.txt", ContentFile(b"below"))
        overwriting = sibling(allow_overwrite=True)
        with pytest.raises(IsADirectoryError) as caught:
            overwriting.save("folder", ContentFile(b"over"))
        assert caught.value.filename == "folder"
        assert read(storage, "folder/file.txt") == b"below"

    def test_neither_is_an_empty_directory(self, storage, sibling):
        storage.save("folder/file.txt", ContentFile(b"below"))
        storage.delete("folder/file.txt")
        with pytest.raises(IsADirectoryError):
            sibling(allow_overwrite=True).save("folder", ContentFile(b"over"))
        assert storage.listdir("") == (["folder"], [])


def test_read_only_refuses_every_change(storage, sibling):
    storage.save("kept.txt", ContentFile(b"kept"))
    storage.save("empty/x", ContentFile(b""))
    read_only = sibling(read_only=True)
    for change in (
        lambda: read_only.save("new.txt", ContentFile(b"new")),
        lambda: read_only.delete("kept.txt"),
        lambda: read_only.open("kept.txt", "wb"),
        lambda: read_only.open("kept.txt", "r+b"),
        lambda: read_only.open("new.txt", "xb"),
    ):
        with pytest.raises(PermissionError, match="read-only"):
            change()
    assert read(read_only, "kept.txt") == b"kept"
    assert read_only.listdir("") == (["empty"], ["kept.txt"])


def test_a_subclass_that_insists_on_a_taken_name_gets_an_error_not_a_loop(storage):
    class Stubborn(type(storage)):
        def get_available_name(self, name, max_length=None):
            return name

    stubborn = Stubborn(**storage._given)
    assert stubborn.save("a.txt", ContentFile(b"first")) == "a.txt"
    with pytest.raises(FileExistsError):
        stubborn.save("a.txt", ContentFile(b"second"))
    assert storage.open("a.txt").read() == b"first"
