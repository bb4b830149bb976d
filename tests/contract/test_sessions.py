"""Sessions are lent for one operation: nothing that a program does in between holds one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.files.base import ContentFile, File

from tests.contract.helpers import STRICT, read

LONG = 3 * 2**20
"""More than the first windows of a reader."""


@pytest.fixture
def single(storage, sibling):
    """A storage with one session only, which fails soon if somebody waits for another."""
    storage.save("file.bin", ContentFile(b"x" * LONG))
    return sibling(pool={"max_size": 1, "timeout": 5})


def test_files_left_open_hold_no_session(single):
    files = [single.open("file.bin") for _ in range(10)]
    for file in files:
        assert file.read(10) == b"x" * 10
    writing = single.open("new.bin", "wb")
    writing.write(b"not yet")
    assert single.pool.stats().in_use == 0
    single.save("other.bin", ContentFile(b"other"))
    for file in files:
        assert file.read(10) == b"x" * 10
        file.close()
    writing.close()
    assert read(single, "new.bin") == b"not yet"


def test_copying_within_a_storage(single):
    with single.open("file.bin") as file:
        assert single.save("copy.bin", file) == "copy.bin"
        assert not file.closed
    with single.open("file.bin") as file:
        single.save("again.bin", File(file))
    assert single.size("copy.bin") == single.size("again.bin") == LONG
    assert read(single, "copy.bin") == b"x" * LONG


def test_content_that_asks_the_storage_while_it_is_read(single):
    class Curious(ContentFile):
        def chunks(self, chunk_size=None):
            yield read(single, "file.bin")
            yield str(single.size("file.bin")).encode()
            single.save("by-the-way.bin", ContentFile(b"saved"))

    single.save("curious.bin", Curious(b""))
    assert single.size("curious.bin") == LONG + len(str(LONG))
    assert read(single, "by-the-way.bin") == b"saved"


def test_saving_while_a_file_is_read_piece_by_piece(single):
    total = 0
    with single.open("file.bin") as file:
        for number, chunk in enumerate(file.chunks(2**20)):
            total += len(chunk)
            single.save(f"part-{number}.bin", ContentFile(chunk[:10]))
            assert single.exists(f"part-{number}.bin")
    assert total == LONG
    assert read(single, "part-2.bin") == b"x" * 10


def test_writing_files_side_by_side(single):
    with single.open("a.bin", "wb") as a, single.open("b.bin", "wb") as b:
        for _ in range(100):
            a.write(b"a")
            b.write(b"b")
    assert read(single, "a.bin") == b"a" * 100
    assert read(single, "b.bin") == b"b" * 100


@pytest.mark.parametrize("size", [1, 4])
def test_threads_share_what_there_is(sibling, server, size):
    busy = sibling(pool={"max_size": size, "timeout": 60})

    def work(number):
        data = bytes([number]) * 5000
        name = busy.save(f"dir/{number}.bin", ContentFile(data))
        assert read(busy, name) == data
        assert busy.exists(name)
        if server.name in STRICT:
            again = busy.save("dir/same.bin", ContentFile(data))
            assert read(busy, again) == data
        busy.delete(name)
        return name

    with ThreadPoolExecutor(8) as threads:
        names = list(threads.map(work, range(16)))
    assert len(set(names)) == 16
    numbers = busy.pool.stats()
    assert (numbers.in_use, numbers.waiting) == (0, 0)
    assert 1 <= numbers.connects <= size


def test_a_failure_gives_the_session_back(single):
    before = single.pool.stats().connects
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            read(single, "missing.bin")
        with pytest.raises(FileExistsError):
            single.save("file.bin/below.bin", ContentFile(b""))
        with pytest.raises(NotADirectoryError):
            single.listdir("file.bin")
    assert single.exists("file.bin")
    # A verdict on a file is no reason to part.
    assert single.pool.stats().connects == max(before, 1)
