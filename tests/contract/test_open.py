"""What open files promise: lazy reading anywhere, writing that is published whole or not at all."""

from __future__ import annotations

import io
import random
import zipfile

import pytest
from django.core.files.base import ContentFile
from django.core.files.images import ImageFile

from netstorage import FileChanged
from tests.contract.helpers import read


@pytest.fixture
def requests(storage):
    """Counts the sessions asked for since the last call."""
    last = storage.pool.stats().requests

    def count():
        nonlocal last
        before, last = last, storage.pool.stats().requests
        return last - before

    return count


class TestReading:
    def test_opening_asks_for_nothing(self, storage, requests):
        with storage.open("not-there.txt"):
            pass
        assert requests() == 0

    def test_a_small_file_is_one_request(self, storage, requests):
        storage.save("small.txt", ContentFile(b"small"))
        requests()
        with storage.open("small.txt") as file:
            assert file.read() == b"small"
            assert file.size == 5
        assert requests() == 1

    @pytest.mark.parametrize("name", ["missing.txt", "missing/file.txt", "file.txt/below.txt"])
    def test_what_is_missing_is_told_at_the_first_read(self, storage, server, name):
        if server.name == "lighttpd" and name.startswith("file.txt/"):
            # It takes what follows a file's name in a GET for CGI's PATH_INFO, and answers with
            # the file (unless static-file.disable-pathinfo is set). Looking first would cost every
            # read a request; exists(), size() and delete() tell the truth.
            return
        storage.save("file.txt", ContentFile(b"x"))
        with storage.open(name) as file, pytest.raises(FileNotFoundError) as caught:
            file.read()
        assert caught.value.filename == name
        with storage.open(name) as file, pytest.raises(FileNotFoundError):
            assert file.size

    def test_seeking_everywhere(self, storage):
        rng = random.Random(7)
        data = rng.randbytes(300_000)
        storage.save("file.bin", ContentFile(data))
        local = io.BytesIO(data)
        with storage.open("file.bin") as file:
            for _ in range(40):
                where = rng.randrange(len(data) + 1000)
                count = rng.choice([0, 1, 10, 5000, 70_000])
                assert file.seek(where) == local.seek(where)
                assert file.read(count) == local.read(count)
                assert file.tell() == local.tell()
            assert file.seek(-10, io.SEEK_END) == len(data) - 10
            assert file.read() == data[-10:]
            assert file.read() == b""

    def test_text_and_lines(self, storage):
        storage.save("lines.txt", ContentFile("eins\nzwei\ndröi\n"))
        with storage.open("lines.txt", "r") as file:
            assert list(file) == ["eins\n", "zwei\n", "dröi\n"]
        with storage.open("lines.txt") as file:
            assert [bytes(line) for line in file] == [b"eins\n", b"zwei\n", "dröi\n".encode()]

    def test_an_empty_file(self, storage):
        storage.save("empty", ContentFile(b""))
        with storage.open("empty") as file:
            assert file.read() == b""
            assert file.size == 0
            assert list(file.chunks()) == []

    def test_a_zip_and_a_picture_are_read_in_place(self, storage):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("big.bin", random.Random(3).randbytes(2**20))
            archive.writestr("small.txt", "found")
        storage.save("a.zip", ContentFile(buffer.getvalue()))
        with storage.open("a.zip") as file, zipfile.ZipFile(file) as archive:
            assert archive.namelist() == ["big.bin", "small.txt"]
            assert archive.read("small.txt") == b"found"
        image = pytest.importorskip("PIL.Image")
        picture = io.BytesIO()
        image.new("RGB", (31, 17)).save(picture, "PNG")
        storage.save("p.png", ContentFile(picture.getvalue()))
        with ImageFile(storage.open("p.png")) as file:
            assert (file.width, file.height) == (31, 17)

    def test_a_file_can_be_opened_again(self, storage):
        storage.save("file.txt", ContentFile(b"again"))
        file = storage.open("file.txt")
        assert file.read() == b"again"
        file.close()
        with file.open() as reopened:
            assert reopened.read() == b"again"

    def test_a_change_while_reading_is_an_error_not_a_mixture(self, storage, sibling):
        storage.save("file.bin", ContentFile(b"a" * 3 * 2**20))
        with storage.open("file.bin") as file:
            assert file.read(10) == b"a" * 10
            sibling(allow_overwrite=True).save("file.bin", ContentFile(b"b" * 4 * 2**20))
            with pytest.raises(FileChanged, match="changed") as caught:
                file.read()
            assert caught.value.filename == "file.bin"


class TestWriting:
    @pytest.mark.parametrize("mode", ["wb", "xb", "ab", "w+b"])
    def test_what_is_written_is_published_on_close(self, storage, mode):
        file = storage.open("dir/new.bin", mode)
        file.write(b"some ")
        file.write(b"bytes")
        assert not storage.exists("dir/new.bin")
        file.close()
        assert read(storage, "dir/new.bin") == b"some bytes"

    def test_wb_replaces(self, storage):
        storage.save("file.bin", ContentFile(b"old and long"))
        with storage.open("file.bin", "wb") as file:
            file.write(b"new")
            assert read(storage, "file.bin") == b"old and long"
        assert read(storage, "file.bin") == b"new"

    def test_ab_appends(self, storage):
        storage.save("file.bin", ContentFile(b"old"))
        with storage.open("file.bin", "ab") as file:
            file.write(b" and new")
        assert read(storage, "file.bin") == b"old and new"

    def test_r_plus_edits(self, storage):
        storage.save("file.bin", ContentFile(b"0123456789"))
        with storage.open("file.bin", "r+b") as file:
            file.seek(3)
            file.write(b"abc")
            file.seek(0)
            assert file.read() == b"012abc6789"
        assert read(storage, "file.bin") == b"012abc6789"

    def test_text(self, storage):
        with storage.open("file.txt", "w") as file:
            file.write("grüezi\n")
        assert read(storage, "file.txt") == "grüezi\n".encode()

    def test_xb_refuses_what_is_there(self, storage):
        storage.save("file.bin", ContentFile(b"first"))
        file = storage.open("file.bin", "xb")
        file.write(b"second")
        with pytest.raises(FileExistsError) as caught:
            file.close()
        assert caught.value.filename == "file.bin"
        file.discard()
        assert read(storage, "file.bin") == b"first"

    def test_r_plus_needs_a_file(self, storage):
        with pytest.raises(FileNotFoundError), storage.open("missing.bin", "r+b") as file:
            file.read()

    def test_an_exception_publishes_nothing(self, storage):
        storage.save("old.txt", ContentFile(b"old"))
        for name in ("old.txt", "new.txt"):
            with pytest.raises(ZeroDivisionError), storage.open(name, "wb") as file:
                file.write(b"half")
                raise ZeroDivisionError
        assert read(storage, "old.txt") == b"old"
        assert not storage.exists("new.txt")

    def test_a_file_that_changed_meanwhile_is_not_overwritten(self, storage, sibling):
        storage.save("file.bin", ContentFile(b"base"))
        file = storage.open("file.bin", "r+b")
        file.write(b"EDIT")
        sibling(allow_overwrite=True).save("file.bin", ContentFile(b"another's"))
        with pytest.raises(FileChanged, match="changed"):
            file.close()
        file.discard()
        assert read(storage, "file.bin") == b"another's"
