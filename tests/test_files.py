"""RemoteFile, Spool and local_source: files without a server in sight.

`Far` stands for a file on a server. It counts what it is asked, and has the vices that servers
have: it may ignore ranges, answer out of order or short, not know sizes, or change in between.
"""

from __future__ import annotations

import csv
import errno
import gc
import io
import os
import random
import tempfile
import warnings
import zipfile
from contextlib import suppress
from itertools import count, pairwise
from pathlib import Path

import pytest
from django.core.files.base import ContentFile, File
from django.core.files.uploadedfile import (
    InMemoryUploadedFile,
    SimpleUploadedFile,
    TemporaryUploadedFile,
)
from django.http import FileResponse
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from netstorage import ConnectionLost, FileChanged, ranges
from netstorage.files import RemoteFile, local_source
from netstorage.ranges import BUFFER, FIRST_WINDOW, LAST_WINDOW, LONG, NEAR, NEAR_WINDOW, PASSING
from netstorage.session import SMALL, Stat
from netstorage.spool import Spool

BLOCK = 2**15
"""What servers answer at once: the size of SFTP's READ."""


def some_bytes(size: int) -> bytes:
    """Bytes that tell their place, with line ends among them."""
    return random.Random(0).randbytes(size)


class Far:
    """A file on a server that exists in this test only.

    Args:
        content: What it holds; None: it does not exist.
        ranges: Whether it answers with the range that was asked for, or with all.
        order: In which order the pieces of an answer come: "first", "last" or "mixed".
        short: Whether an answer may hold less than was asked for.
        sizes: Whether it tells sizes.
        etags: Whether it tells entity tags.
        max_memory: What spools may keep in memory.
    """

    def __init__(
        self,
        content: bytes | None = b"",
        *,
        ranges: bool = True,
        order: str = "first",
        short: bool = False,
        sizes: bool = True,
        etags: bool = True,
        max_memory: int = 2**20,
    ) -> None:
        self.content = content
        self.ranges = ranges
        self.order = order
        self.short = short
        self.sizes = sizes
        self.etags = etags
        self.max_memory = max_memory
        self.version = 1
        self.requests: list[str] = []
        self.asked: list[tuple[int, int]] = []
        self.stops: list[int | None] = []
        self.moved = 0
        self.published = 0
        self.before_read = lambda: None
        self.before_publish = lambda: None

    def change(self, content: bytes | None) -> None:
        """Let somebody else write."""
        self.content = content
        self.version += 1

    def stat(self) -> Stat:
        self.requests.append("stat")
        return self._stat()

    def _stat(self) -> Stat:
        if self.content is None:
            raise FileNotFoundError(errno.ENOENT, "no such file")
        return Stat(
            size=len(self.content) if self.sizes else None,
            mtime=None if self.etags else float(self.version),
            etag=str(self.version) if self.etags else None,
        )

    def read(self, start, stop, sink) -> Stat:
        self.requests.append("read")
        self.before_read()
        described = self._stat()
        end = len(self.content) if stop is None else min(stop, len(self.content))
        self.asked.append((start, end))
        self.stops.append(stop)
        if not self.ranges:
            start, end = 0, len(self.content)
        elif self.short and end - start > 1:
            end -= (end - start) // 2
        blocks = [(at, self.content[at : min(at + BLOCK, end)]) for at in range(start, end, BLOCK)]
        if self.order == "last":
            blocks.reverse()
        elif self.order == "mixed":
            random.Random(1).shuffle(blocks)
        for offset, data in blocks:
            buffer = bytearray(data)
            sink(offset, memoryview(buffer))
            # What was given is valid during the call only.
            buffer[:] = b"#" * len(buffer)
            self.moved += len(data)
        return described

    def publish(self, source, size, *, exclusive) -> None:
        self.requests.append("publish")
        self.before_publish()
        if exclusive and self.content is not None:
            raise FileExistsError(errno.EEXIST, "the name is taken")
        source.seek(0)
        buffer = bytearray(size)
        assert source.readinto(buffer) == size
        self.change(bytes(buffer))
        self.published += 1

    def spool(self) -> Spool:
        return Spool(self.max_memory)

    def open(self, mode: str = "rb") -> RemoteFile:
        return RemoteFile(self, "some/file", mode)


# --- reading, against io.BytesIO -----------------------------------------------------------------

SIZES = st.integers(0, 300_000) | st.sampled_from(
    [0, 1, FIRST_WINDOW, FIRST_WINDOW + 1, BLOCK, BUFFER, SMALL, SMALL + 1]
)
AMOUNTS = st.integers(0, 40_000) | st.sampled_from([1, 4096, FIRST_WINDOW, 100_000, 200_000])
PLACES = st.integers(0, 320_000)

READING = st.one_of(
    st.tuples(st.just("read"), AMOUNTS | st.sampled_from([-1, None])),
    st.tuples(st.just("seek"), PLACES, st.just(os.SEEK_SET)),
    st.tuples(st.just("seek"), st.integers(0, 50_000), st.just(os.SEEK_CUR)),
    st.tuples(st.just("seek"), st.integers(-100_000, 1000), st.just(os.SEEK_END)),
    st.tuples(st.just("tell")),
    st.tuples(st.just("readline")),
    st.tuples(st.just("readlines")),
    st.tuples(st.just("readinto"), AMOUNTS),
    st.tuples(st.just("size")),
    st.tuples(st.just("chunks"), st.integers(1000, 100_000)),
    st.tuples(st.just("lines")),
)


def do_reading(file: File, step: tuple):
    what, *arguments = step
    if what == "readinto":
        buffer = bytearray(arguments[0])
        return file.readinto(buffer), bytes(buffer)
    if what == "size":
        # Django keeps the first answer of BytesIO's, too.
        return file.size
    if what == "chunks":
        return b"".join(file.chunks(*arguments))
    if what == "lines":
        return list(file)
    if what == "seek" and arguments[1] == os.SEEK_END:
        # BytesIO takes what lies before the beginning for the beginning; files do not.
        arguments[0] = max(arguments[0], -file.size)
    return getattr(file, what)(*arguments)


@settings(max_examples=150, deadline=None)
@given(
    size=SIZES,
    steps=st.lists(READING, max_size=12),
    ranges=st.booleans(),
    order=st.sampled_from(["first", "last", "mixed"]),
    short=st.booleans(),
    sizes=st.booleans(),
    etags=st.booleans(),
    max_memory=st.sampled_from([0, 10_000, 2**20]),
)
@example(  # To the end past a piece that is there already.
    size=200_000,
    steps=[("seek", 100_000, 0), ("read", 10), ("seek", 0, 0), ("read", -1)],
    ranges=True,
    order="first",
    short=False,
    sizes=True,
    etags=True,
    max_memory=0,
)
@example(  # The length, where nobody tells it, past a piece that is there already.
    size=200_000,
    steps=[("seek", 100_000, 0), ("read", 10), ("seek", 50_000, 0), ("read", 10), ("size",)],
    ranges=True,
    order="first",
    short=False,
    sizes=False,
    etags=True,
    max_memory=0,
)
def test_it_reads_like_bytesio(size, steps, ranges, order, short, sizes, etags, max_memory):
    """Whatever the server's ways, a reader sees what it would see in memory."""
    content = some_bytes(size)
    far = Far(
        content,
        ranges=ranges,
        order=order,
        short=short and sizes,
        sizes=sizes,
        etags=etags,
        max_memory=max_memory,
    )
    near = File(io.BytesIO(content))
    with far.open() as file:
        for step in steps:
            assert do_reading(file, step) == do_reading(near, step), step
            assert file.tell() == near.tell(), step
    if ranges and sizes and not short:
        fetched = sorted(far.asked)
        assert all(before[1] <= after[0] for before, after in pairwise(fetched)), fetched


@settings(max_examples=50, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=3000),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("read"), st.integers(0, 200) | st.just(-1)),
            st.tuples(st.just("readline")),
            st.tuples(st.just("tell")),
            st.tuples(st.just("seek"), st.just(0), st.sampled_from([os.SEEK_SET, os.SEEK_END])),
        ),
        max_size=8,
    ),
)
def test_text_reads_like_a_local_file(text, steps):
    content = text.encode()
    near = File(io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    with Far(content).open("r") as file:
        for what, *arguments in steps:
            assert getattr(file, what)(*arguments) == getattr(near, what)(*arguments)


@pytest.mark.parametrize("order", ["first", "last", "mixed"])
def test_a_fetch_that_is_repeated_leaves_nothing_of_the_first_try(order):
    """A session broke in the middle, and by the second try the file was another, shorter one."""
    far = Far(b"old" * BLOCK, order=order)
    whole, far.read = far.read, None

    def broken(start, stop, sink):
        whole(start, stop, sink)
        far.change(b"new" * 100)
        return whole(start, stop, sink)

    far.read = broken
    with far.open() as file:
        assert file.read() == b"new" * 100
        assert file.size == 300


def test_a_seek_before_the_beginning_is_refused():
    with Far(b"abc").open() as file, pytest.raises(OSError, match="position") as caught:
        file.seek(-1)
    assert caught.value.errno == errno.EINVAL


def test_a_closed_file_says_so():
    file = Far(b"abc").open()
    file.close()
    file.close()
    assert file.closed
    assert not (file.readable() or file.seekable() or file.writable())
    with pytest.raises(ValueError, match="closed file"):
        file.read()


def test_a_closed_file_can_be_opened_again():
    far = Far(b"abc")
    file = far.open()
    assert file.read(1) == b"a"
    assert file.open() is file
    assert file.read() == b"abc"
    file.close()
    far.change(b"def")
    with file.open() as again:
        assert again.read() == b"def"
    with file.open("wb") as again:
        again.write(b"ghi")
    assert far.content == b"ghi"


def test_open_before_the_first_use_asks_nothing():
    far = Far(b"abc")
    far.open().open().close()
    assert far.requests == []


@pytest.mark.parametrize("mode", ["", "b", "t", "rw", "rbt", "rr", "r++", "U", "z", "wx"])
def test_modes_that_python_refuses_are_refused(mode):
    with pytest.raises((ValueError, DeprecationWarning)):  # Python 3.10 only warns of "U"
        open(os.devnull, mode)  # noqa: SIM115 - nothing is opened
    with pytest.raises(ValueError, match="invalid mode"):
        Far().open(mode)


@pytest.mark.parametrize(
    ("mode", "readable", "writable"),
    [
        ("r", True, False),
        ("rb", True, False),
        ("rt", True, False),
        ("w", False, True),
        ("ab", False, True),
        ("x+b", True, True),
        ("r+", True, True),
    ],
)
def test_the_mode_tells_what_can_be_done(mode, readable, writable):
    with Far().open(mode) as file:
        assert (file.readable(), file.writable(), file.seekable()) == (readable, writable, True)
        if not readable:
            with pytest.raises(io.UnsupportedOperation):
                file.read()
        if not writable:
            with pytest.raises(io.UnsupportedOperation):
                file.write("x" if "b" not in mode else b"x")
        file.discard()


def test_it_is_no_file_of_the_operating_system():
    """So nobody sends it by its descriptor."""
    with Far(b"abc").open() as file, pytest.raises(io.UnsupportedOperation):
        file.fileno()


# --- how much it asks ----------------------------------------------------------------------------

BIG = 20 * 2**20


def test_opening_and_closing_asks_nothing():
    far = Far(b"abc")
    with far.open() as file:
        assert (file.name, file.mode, str(file), bool(file)) == (
            "some/file",
            "rb",
            "some/file",
            True,
        )
    with far.open("r+b"):
        pass
    assert far.requests == []


def test_the_size_costs_one_stat_and_none_after_a_window():
    far = Far(b"x" * 100)
    with far.open() as file:
        assert (file.size, len(file), file.size) == (100, 100, 100)
        assert far.requests == ["stat"]
    far = Far(b"x" * 100)
    with far.open() as file:
        file.read(1)
        assert file.size == 100
        assert file.seek(0, os.SEEK_END) == 100
        assert far.requests == ["read"]


def test_a_head_and_a_tail_move_little():
    far = Far(bytes(BIG))
    with far.open() as file:
        file.read(100)
        file.seek(-100, os.SEEK_END)
        assert file.read() == bytes(100)
    assert far.requests == ["read", "read"]
    assert far.moved <= 2 * FIRST_WINDOW


@pytest.mark.parametrize("piece", [1000, 4096, 2**16, 2**20], ids=str)
def test_reading_in_sequence_makes_few_requests(piece):
    """Windows grow: 20 MiB in pieces of 4 KiB, as FileResponse reads, are no 5000 requests."""
    content = some_bytes(BIG)
    far = Far(content)
    with far.open() as file:
        assert b"".join(iter(lambda: file.read(piece), b"")) == content
    assert far.requests.count("read") <= 8
    assert far.moved == BIG


@pytest.fixture
def small_windows(monkeypatch):
    """What takes many MiB otherwise, to be seen with some KiB."""
    for name in ("NEAR_WINDOW", "LAST_WINDOW", "PASSING"):
        monkeypatch.setattr(ranges, name, 100_000)


@pytest.mark.parametrize("max_memory", [0, 2**20])
@pytest.mark.parametrize("piece", [1000, 50_000, 150_000])
@pytest.mark.usefixtures("small_windows")
def test_what_is_read_straight_on_takes_little_room(piece, max_memory):
    content = random.Random(1).randbytes(2_000_000)
    far = Far(content, max_memory=max_memory)
    with far.open() as file:
        room = 0
        for start in range(0, len(content), piece):
            assert file.read(piece) == content[start : start + piece]
            room = max(room, file._ranges._spool.size())
        assert room <= 3 * 100_000
        assert far.moved == len(content)

        # Who goes back has what was forgotten fetched again, once.
        for _ in range(3):
            file.seek(0)
            assert file.read() == content
        assert far.moved <= 2 * len(content)


@pytest.mark.parametrize("order", ["first", "last", "mixed"])
@pytest.mark.parametrize("piece", [1000, 99_999, 200_000, -1])
@pytest.mark.usefixtures("small_windows")
def test_what_goes_past_the_spool_is_as_it_was(piece, order):
    """In whatever order it arrives, with jumps ahead, and for one who goes back."""
    content = random.Random(1).randbytes(2_000_000)
    far = Far(content, order=order)
    with far.open() as file:
        file.seek(1_000_000)
        assert file.read(10) == content[1_000_000:1_000_010]
        file.seek(0)
        assert b"".join(iter(lambda: file.read(piece), b"")) == content
        for back in (10, 140_000, 900_000):
            file.seek(len(content) - back)
            assert file.read(piece) == content[-back:][: None if piece < 0 else piece]


@pytest.mark.usefixtures("small_windows")
def test_a_repeated_window_is_the_last_ones(monkeypatch):
    """A lost session may have brought a part already, in other pieces and of an older version."""
    content = random.Random(1).randbytes(1_000_000)
    far = Far(content)
    whole = far.read

    def twice(start, stop, sink):
        sink(start, memoryview(b"#" * 3000))
        sink(start + 5000, memoryview(b"#" * 3000))
        return whole(start, stop, sink)

    far.read = twice
    with far.open() as file:
        assert b"".join(iter(lambda: file.read(1000), b"")) == content
    with far.open() as file:
        assert file.read() == content


@pytest.mark.usefixtures("small_windows")
def test_a_lost_window_drops_nothing_that_is_still_to_be_read():
    content = random.Random(1).randbytes(500_000)
    far = Far(content)
    with far.open() as file:
        assert file.read(300_000) == content[:300_000]

        def fail() -> None:
            far.before_read = lambda: None
            raise ConnectionLost("gone")

        far.before_read = fail
        with pytest.raises(ConnectionLost):
            file.read(200_000)
        position = file.tell()
        assert file.read() == content[position:]
        file.seek(0)
        assert file.read() == content


@pytest.mark.parametrize(
    ("seconds", "most"), [(0, NEAR_WINDOW), (NEAR / 2, NEAR_WINDOW), (NEAR * 2, LAST_WINDOW)]
)
def test_windows_grow_to_a_bound(monkeypatch, seconds, most):
    """A larger one where the server is far, and each window costs two round trips."""
    far = Far(bytes(LAST_WINDOW + 4 * NEAR_WINDOW), max_memory=0)
    now = count(0, seconds)
    monkeypatch.setattr("netstorage.ranges.monotonic", lambda: next(now))
    with far.open() as file:
        while file.read(2**16):
            pass
    assert max(end - start for start, end in far.asked) == most


def test_windows_grow_from_what_is_read_at_once():
    far = Far(bytes(BIG))
    with far.open() as file:
        while file.read(2**20):
            pass
    assert [end - start for start, end in far.asked[:3]] == [2**20, 2**22, BIG - 5 * 2**20]


def test_a_window_that_took_long_is_not_followed_by_a_larger_one(monkeypatch):
    """Others want the session, and the consumer something to go on with."""
    far = Far(bytes(BIG))
    now = 0.0
    monkeypatch.setattr("netstorage.ranges.monotonic", lambda: now)
    quick, far.read = far.read, None

    def slow(start, stop, sink):
        nonlocal now
        now += LONG * (stop - start) / 2**19  # just too long for 512 KiB
        return quick(start, stop, sink)

    far.read = slow
    with far.open() as file:
        while file.read(4096):
            pass
    assert max(end - start for start, end in far.asked) == 2**19


def test_a_jump_shrinks_the_window_again():
    far = Far(bytes(BIG))
    with far.open() as file:
        file.read(5 * 2**20)
        before = far.moved
        file.seek(-(2**20), os.SEEK_END)
        file.read(1)
        assert far.moved - before <= FIRST_WINDOW


def test_a_small_read_asks_for_no_more_than_a_window():
    far = Far(bytes(BIG))
    with far.open() as file:
        file.read(1)
        file.seek(2**20)
        file.readline(10)
    assert far.asked == [(0, FIRST_WINDOW), (2**20, 2**20 + FIRST_WINDOW)]


@pytest.mark.parametrize("size", [FIRST_WINDOW + 1, 100_000, BUFFER + 1, PASSING - 1])
@pytest.mark.parametrize("how", ["read", "readinto"])
def test_a_large_read_is_one_request_for_what_it_reads(how, size):
    far = Far(bytes(BIG))
    with far.open() as file:
        assert len(file.read(size)) == size if how == "read" else file.readinto(bytearray(size))
        assert far.asked == [(0, size)]
        # It says nothing of the next one, wherever that is.
        file.seek(0)
        file.read(1)
        file.seek(2**24)
        file.readline(1)
    assert far.asked == [(0, size), (2**24, 2**24 + FIRST_WINDOW)]


@pytest.mark.parametrize("how", ["read", "readinto"])
def test_a_very_large_read_is_one_request_and_not_kept(how):
    content = some_bytes(BIG)
    far = Far(content)
    size = PASSING + BUFFER + 1
    with far.open() as file:
        if how == "read":
            assert file.read(size) == content[:size]
        else:
            buffer = bytearray(size)
            assert file.readinto(buffer) == size
            assert buffer == content[:size]
        assert file._ranges._spool.size() <= BUFFER
        assert far.asked == [(0, size)]
        assert file.read() == content[size:]
    assert far.asked == [(0, size), (size, BIG)]


def test_a_large_read_that_failed_says_nothing_of_the_next():
    far = Far(bytes(BIG))

    def lost():
        raise ConnectionLost("gone")

    with far.open() as file:
        far.before_read = lost
        with pytest.raises(ConnectionLost):
            file.read(BIG)
        far.before_read = lambda: None
        file.readline(1)
    assert far.asked == [(0, FIRST_WINDOW)]


@pytest.mark.parametrize("size", [0, 1, SMALL], ids=["empty", "a byte", "a piece"])
def test_reading_all_of_a_small_file_is_one_bounded_request(size):
    far = Far(some_bytes(size))
    with far.open() as file:
        assert file.read() == far.content
        assert (file.read(), file.size) == (b"", size)
    assert far.requests == ["read"]
    # Told the whole's length, not an end: so it counts as small.
    assert far.stops == [SMALL]


def test_reading_all_of_a_large_file_is_two_requests():
    far = Far(some_bytes(BIG))
    with far.open() as file:
        assert file.read() == far.content
    assert far.asked == [(0, SMALL), (SMALL, BIG)]


def test_reading_all_of_a_known_length_is_one_request():
    far = Far(some_bytes(BIG))
    with far.open() as file:
        assert file.size == BIG
        assert file.read() == far.content
    assert far.requests == ["stat", "read"]


def test_reading_the_rest_of_a_file_is_one_request():
    far = Far(some_bytes(BIG))
    with far.open() as file:
        assert file.read(10) + file.read() == far.content
    assert far.asked == [(0, FIRST_WINDOW), (FIRST_WINDOW, BIG)]


@pytest.mark.parametrize("size", [0, 10_000, SMALL, BIG])
def test_reading_all_where_no_length_is_told(size):
    """Then the end is where nothing comes any more; once found, it is known."""
    far = Far(some_bytes(size), sizes=False)
    with far.open() as file:
        assert file.read() == far.content
        assert far.requests == ["read", "stat", "read"]
        assert far.stops == [SMALL, None]
        assert (file.read(), file.size) == (b"", size)
        assert file.seek(0, os.SEEK_END) == size
    assert far.requests == ["read", "stat", "read"]
    assert far.moved == size


def test_reading_all_where_ranges_are_ignored_is_one_request():
    far = Far(some_bytes(BIG), ranges=False)
    with far.open() as file:
        assert file.read() == far.content
    assert far.requests == ["read"]


def test_reading_all_from_behind_the_end():
    far = Far(some_bytes(1000))
    with far.open() as file:
        file.seek(2000)
        assert file.read() == b""
        assert file.tell() == 2000
    assert far.requests == ["read"]


def test_what_was_read_is_never_fetched_again():
    far = Far(some_bytes(200_000))
    with far.open() as file:
        first = file.read()
        file.seek(0)
        assert file.read() == first == b"".join(file.chunks())
    assert far.requests == ["read"]


def test_at_the_end_nothing_is_asked():
    far = Far(b"abc")
    with far.open() as file:
        assert file.read() == b"abc"
        assert [file.read(), file.read(10), file.readline()] == [b"", b"", b""]
        file.seek(1000)
        assert file.read() == b""
    assert far.requests == ["read"]


def test_a_server_that_ignores_ranges_sends_all_but_once():
    far = Far(some_bytes(200_000), ranges=False)
    with far.open() as file:
        file.seek(100_000)
        middle = file.read(50)
        file.seek(0)
        assert file.read()[100_000:100_050] == middle
    assert far.requests == ["read"]


def test_the_length_that_nobody_tells_is_found_by_reading():
    far = Far(some_bytes(50_000), sizes=False)
    with far.open() as file:
        assert file.size == 50_000
        assert len(file.read()) == 50_000
    assert far.moved == 50_000


def test_a_size_told_later_is_believed():
    """A partial answer may not know the whole's length; a stat afterwards does."""
    far = Far(some_bytes(200_000), sizes=False)
    with far.open() as file:
        file.read(1)
        far.sizes = True
        assert file.size == 200_000
    assert far.requests == ["read", "stat"]


# --- changes while it is read --------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"y" * 100_000, b"y" * 50_000, b"y" * 200_000], ids=["same", "shorter", "longer"]
)
@pytest.mark.parametrize("etags", [True, False], ids=["etag", "mtime"])
def test_a_change_between_windows_is_no_mixture(content, etags):
    far = Far(b"x" * 100_000, etags=etags)
    file = far.open()
    assert file.read(10) == b"x" * 10
    far.change(content)
    with pytest.raises(FileChanged, match="changed on the server while it was read") as caught:
        file.read()
    assert caught.value.filename == "some/file"
    assert "some/file" in str(caught.value)
    file.close()
    with file.open() as again:
        assert again.read() == content


def test_a_change_after_the_size_was_told_is_found():
    far = Far(b"x" * 100)
    with far.open() as file:
        assert file.size == 100
        far.change(b"y" * 100)
        with pytest.raises(FileChanged):
            file.read()


def test_a_file_that_vanishes_between_windows_is_missing():
    far = Far(b"x" * 100_000)
    with far.open() as file:
        file.read(1)
        far.change(None)
        with pytest.raises(FileNotFoundError):
            file.read()


def test_less_than_was_promised_is_no_end():
    """A server that says 100 bytes but gives none must not look like a file that ends early."""
    far = Far(b"x" * 100)

    def nothing(start, stop, sink):
        return far._stat()

    far.read = nothing
    with far.open() as file, pytest.raises(FileChanged, match="has none at 0"):
        file.read()


def test_an_error_leaves_the_reader_usable():
    far = Far(some_bytes(100_000))

    def lost():
        far.before_read = lambda: None
        raise ConnectionLost("gone")

    with far.open() as file:
        file.read(10)
        far.before_read = lost
        with pytest.raises(ConnectionLost):
            file.seek(50_000), file.read(10)
        file.seek(50_000)
        assert file.read(10) == far.content[50_000:50_010]


# --- those who read ------------------------------------------------------------------------------


def test_a_zip_is_listed_by_its_tail():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for number in range(20):
            archive.writestr(f"{number}.bin", some_bytes(2**19))
    far = Far(packed.getvalue())
    with far.open() as file, zipfile.ZipFile(file) as archive:
        assert archive.namelist() == [f"{number}.bin" for number in range(20)]
        assert far.moved < 4 * FIRST_WINDOW
        assert archive.read("7.bin") == some_bytes(2**19)
        assert far.moved < 3 * 2**20
    assert far.requests.count("stat") == 1


def test_the_size_of_an_image_is_in_its_head():
    image = Image.frombytes("RGB", (800, 600), some_bytes(800 * 600 * 3))
    packed = io.BytesIO()
    image.save(packed, "PNG")
    far = Far(packed.getvalue())
    with far.open() as file:
        assert Image.open(file).size == (800, 600)
        assert far.moved <= FIRST_WINDOW < len(far.content)
        assert Image.open(file).tobytes() == image.tobytes()


def test_csv_reads_it_as_text():
    rows = [[str(number), "ünïcode, quoted"] for number in range(2000)]
    packed = io.StringIO(newline="")
    csv.writer(packed).writerows(rows)
    far = Far(packed.getvalue().encode())
    with far.open("r") as file:
        assert list(csv.reader(file)) == rows
    with far.open() as file, io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
        assert list(csv.reader(text)) == rows
        assert text.seek(0) == 0
        assert next(text).startswith("0,")
    assert file.closed


@pytest.mark.django_db  # the end of a request closes old connections
def test_a_response_knows_its_length():
    content = some_bytes(100_000)
    far = Far(content)
    response = FileResponse(far.open(), filename="x.bin")
    assert response["Content-Length"] == "100000"
    assert b"".join(response.streaming_content) == content
    response.close()
    assert response.file_to_stream.closed
    assert far.requests.count("stat") == 1
    assert far.moved == 100_000


@pytest.mark.django_db  # the end of a request closes old connections
def test_a_response_from_the_middle_has_the_rest():
    file = Far(some_bytes(1000)).open()
    file.seek(900)
    response = FileResponse(file, filename="x.bin")
    assert response["Content-Length"] == "100"
    assert len(b"".join(response.streaming_content)) == 100
    response.close()


# --- writing, against local files ----------------------------------------------------------------

WRITING = st.one_of(
    st.tuples(st.just("write"), st.binary(max_size=50)),
    st.tuples(st.just("write"), st.integers(0, 20_000).map(some_bytes)),
    st.tuples(st.just("read"), st.integers(0, 30_000) | st.just(-1)),
    st.tuples(st.just("readline")),
    st.tuples(st.just("seek"), st.integers(-5, 30_000), st.just(os.SEEK_SET)),
    st.tuples(st.just("seek"), st.integers(-100, 100), st.sampled_from([1, 2])),
    st.tuples(st.just("tell")),
    st.tuples(st.just("truncate")),
    st.tuples(st.just("truncate"), st.integers(-1, 30_000)),
    st.tuples(st.just("flush")),
    st.tuples(st.just("writelines"), st.lists(st.binary(max_size=10), max_size=3)),
)


def outcome(file, step):
    """What a step gives: its value, or the kind of its failure."""
    what, *arguments = step
    try:
        result = getattr(file, what)(*arguments)
    except OSError as error:
        return type(error), error.errno
    except UnicodeDecodeError as error:
        # Text that was overwritten from the middle of a letter.
        return type(error), error.reason
    return result, file.tell()


@settings(max_examples=200, deadline=None)
@given(
    mode=st.sampled_from(["wb", "w+b", "xb", "x+b", "ab", "a+b", "r+b"]),
    before=st.none() | st.integers(0, 20_000).map(some_bytes),
    steps=st.lists(WRITING, max_size=12),
    max_memory=st.sampled_from([0, 100, 10_000, 2**20]),
)
@example(  # What truncate() adds must not move the position.
    mode="w+b",
    before=None,
    steps=[("write", b"abc"), ("truncate", 10), ("write", b"d")],
    max_memory=99,
)
@example(  # BytesIO would take this for 0.
    mode="w+b", before=None, steps=[("write", b"abc"), ("seek", -5, 1)], max_memory=99
)
def test_it_writes_like_a_local_file(mode, before, steps, max_memory):
    """The same values, positions and refusals, and in the end the same content."""
    far = Far(before, max_memory=max_memory)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "near")
        if before is not None:
            path.write_bytes(before)
        try:
            near = path.open(mode, buffering=io.DEFAULT_BUFFER_SIZE)
        except OSError as error:
            # Nothing is asked before the first use, and whether a name is free at the end.
            with pytest.raises(type(error)), far.open(mode) as file:
                file.tell()
            file.discard()
            assert far.content == before
            return
        with near, far.open(mode) as file:
            for step in steps:
                assert outcome(file, step) == outcome(near, step), step
            near.flush()
            assert file.size == path.stat().st_size
        assert far.content == path.read_bytes()


@settings(max_examples=100, deadline=None)
@given(
    mode=st.sampled_from(["w", "wt", "w+", "x", "a", "a+", "r+"]),
    before=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.text(st.characters(exclude_categories=["Cs"]))),
            st.tuples(st.just("read"), st.integers(0, 20) | st.just(-1)),
            st.tuples(st.just("readline")),
            st.tuples(st.just("seek"), st.just(0), st.sampled_from([os.SEEK_SET, os.SEEK_END])),
            st.tuples(st.just("flush")),
        ),
        max_size=8,
    ),
)
def test_text_is_written_like_a_local_file(mode, before, steps):
    if (before is None and mode == "r+") or (before is not None and mode == "x"):
        return
    content = None if before is None else before.encode()
    far = Far(content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "near")
        if content is not None:
            path.write_bytes(content)
        with (
            path.open(mode, io.DEFAULT_BUFFER_SIZE, encoding="utf-8") as near,
            far.open(mode) as file,
        ):
            for step in steps:
                assert outcome(file, step) == outcome(near, step), step
        assert far.content == path.read_bytes()


@pytest.mark.parametrize("mode", ["wb", "xb", "ab", "w", "a"])
def test_an_untouched_new_file_comes_to_be(mode):
    far = Far(None)
    with far.open(mode):
        pass
    assert far.content == b""


@pytest.mark.parametrize(("mode", "content"), [("wb", b""), ("ab", b"old"), ("r+b", b"old")])
def test_an_untouched_file_is_as_after_python_s_open(mode, content):
    far = Far(b"old")
    with far.open(mode):
        pass
    assert far.content == content
    assert far.moved == 0


@pytest.mark.parametrize("mode", ["ab", "r+b"])
def test_a_file_that_was_only_read_is_not_published(mode):
    far = Far(b"old")
    with far.open(mode.replace("ab", "a+b")) as file:
        file.seek(0)
        assert file.read() == b"old"
    assert far.published == 0


def test_nothing_is_published_before_close():
    far = Far(b"old")
    with far.open("wb") as file:
        file.write(b"x" * 100_000)
        file.flush()
        assert far.requests == []
        assert far.content == b"old"
        assert file.size == 100_000
    assert far.requests == ["publish"]


@pytest.mark.parametrize("mode", ["wb", "xb", "ab", "r+b", "w", "a"])
@pytest.mark.parametrize("size", [10, 100_000])
def test_an_exception_in_the_block_publishes_nothing(mode, size):
    before = None if mode == "xb" else b"old"
    far = Far(before)
    with pytest.raises(ZeroDivisionError), far.open(mode) as file:
        file.write(b"x" * size if "b" in mode else "x" * size)
        1 / 0  # noqa: B018 - raises
    assert (far.published, far.content) == (0, before)
    assert file.closed
    file.close()
    assert far.published == 0


def test_discard_publishes_nothing():
    far = Far(b"old")
    file = far.open("wb")
    file.write(b"new")
    file.discard()
    file.discard()
    assert file.closed
    file.close()
    assert far.content == b"old"


@pytest.mark.parametrize("mode", ["w+b", "a+b", "r+b"])
def test_a_close_that_failed_can_be_tried_again(mode):
    far = Far(b"old")
    file = far.open(mode)
    file.write(b"new")

    def broken():
        file._spool.seek(1)  # A session that read a part of it.
        raise ConnectionLost("gone")

    far.before_publish = broken
    with pytest.raises(ConnectionLost):
        file.close()
    assert not file.closed
    assert far.content == b"old"
    far.before_publish = lambda: None
    file.write(b"er")
    file.close()
    assert far.content == {"w+b": b"newer", "a+b": b"oldnewer", "r+b": b"newer"}[mode]
    assert file.closed


def test_a_close_that_failed_can_be_given_up():
    far = Far(b"old")
    with pytest.raises(FileExistsError), far.open("xb") as file:
        file.write(b"new")
    assert not file.closed
    file.discard()
    assert (file.closed, far.content) == (True, b"old")


@pytest.mark.parametrize("mode", ["r+b", "ab"])
def test_an_edit_does_not_undo_another(mode):
    far = Far(b"old")
    file = far.open(mode)
    file.write(b"mine")
    far.change(b"theirs")
    with pytest.raises(FileChanged, match="nothing was published") as caught:
        file.close()
    assert caught.value.filename == "some/file"
    assert far.content == b"theirs"
    file.discard()


def test_appending_to_a_file_that_appeared_meanwhile_is_refused():
    far = Far(None)
    file = far.open("ab")
    file.write(b"mine")
    far.change(b"theirs")
    with pytest.raises(FileExistsError):
        file.close()
    assert far.content == b"theirs"
    file.discard()


def test_editing_a_missing_file_is_refused():
    with pytest.raises(FileNotFoundError), Far(None).open("r+b") as file:
        file.write(b"x")


@pytest.mark.parametrize("size", [1, 100_000], ids=["in the buffer", "in the spool"])
def test_content_that_nobody_published_is_warned_of(size):
    far = Far(b"old")
    file = far.open("wb")
    file.write(b"x" * size)
    with pytest.warns(ResourceWarning, match="'some/file' was written to but never closed"):
        del file
        gc.collect()
    assert far.content == b"old"


def test_no_warning_where_nothing_is_lost():
    """Readers may be dropped; and a failed close() has told already."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file = Far(b"abc").open()
        file.read()
        del file
        file = Far(b"abc").open("r+b")
        file.read()
        del file
        file = Far(b"abc").open("xb")
        file.write(b"x")
        with suppress(FileExistsError):
            file.close()
        del file
        gc.collect()


# --- Spool ---------------------------------------------------------------------------------------


def on_disk(spool: Spool) -> bool:
    return not isinstance(spool._file, io.BytesIO)


def test_a_spool_moves_to_the_disk_at_its_limit(tmp_path):
    with Spool(10, str(tmp_path)) as spool:
        spool.write(b"x" * 10)
        assert not on_disk(spool)
        spool.write(b"y")
        assert on_disk(spool)
        assert (spool.size(), spool.tell()) == (11, 11)
        spool.seek(8)
        assert spool.read() == b"xxy"


def test_a_spool_s_directory_is_used(tmp_path):
    with Spool(0, str(tmp_path / "missing")) as spool, pytest.raises(FileNotFoundError):
        spool.write(b"x")


def test_a_far_write_takes_no_memory():
    with Spool(10) as spool:
        spool.seek(2**40)
        with suppress(OSError):  # The disk may not hold files of that size.
            spool.write(b"x")
        assert on_disk(spool)


@pytest.mark.parametrize("max_memory", [0, 100], ids=["disk", "memory"])
def test_a_spool_truncates_like_a_file(max_memory):
    with Spool(max_memory) as spool:
        spool.write(b"abcdef")
        spool.seek(2)
        assert spool.truncate(4) == 4
        assert (spool.size(), spool.tell()) == (4, 2)
        assert spool.truncate(8) == 8
        assert (spool.size(), spool.tell()) == (8, 2)
        spool.seek(0)
        assert spool.read() == b"abcd\0\0\0\0"
        spool.seek(3)
        assert spool.truncate() == 3
        assert spool.size() == 3


def test_a_spool_truncated_beyond_its_limit_moves_to_the_disk():
    with Spool(10) as spool:
        spool.write(b"abc")
        spool.truncate(11)
        assert on_disk(spool)
        assert (spool.size(), spool.tell()) == (11, 3)


@pytest.mark.parametrize("max_memory", [0, 100], ids=["disk", "memory"])
def test_an_appending_spool_writes_to_its_end(max_memory):
    with Spool(max_memory, append=True) as spool:
        spool.write(b"abc")
        spool.seek(0)
        spool.write(b"def")
        assert spool.tell() == 6
        spool.seek(0)
        assert spool.read() == b"abcdef"


@pytest.mark.parametrize("max_memory", [0, 100], ids=["disk", "memory"])
@pytest.mark.parametrize("seek", [(-1, os.SEEK_SET), (-4, os.SEEK_CUR), (-4, os.SEEK_END)])
def test_a_spool_has_no_negative_positions(max_memory, seek):
    with Spool(max_memory) as spool:
        spool.write(b"abc")
        with pytest.raises(OSError, match="no position"):
            spool.seek(*seek)
        with pytest.raises(OSError, match="no position"):
            spool.truncate(-1)
        assert spool.tell() == 3


@pytest.mark.parametrize("max_memory", [0, 100], ids=["disk", "memory"])
def test_a_spool_forgets(max_memory):
    spool = Spool(max_memory)
    with io.BufferedWriter(spool) as buffered:
        buffered.write(b"flushed")
        buffered.flush()
        buffered.write(b"not yet")
        spool.forget()
        assert spool.size() == 0
    assert spool.closed


def test_a_disk_that_is_full_loses_nothing(monkeypatch):
    """The bytes in memory stay where they are."""

    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "no space")

    with Spool(3) as spool:
        spool.write(b"abc")
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: Full())
        with pytest.raises(OSError, match="no space"):
            spool.write(b"d")
        spool.seek(0)
        assert spool.read() == b"abc"


# --- local_source --------------------------------------------------------------------------------

CONTENT = b"0123456789" * 1000


class Pieces:
    """Content that has chunks and nothing else."""

    def __init__(self, *pieces):
        self.pieces = pieces

    def chunks(self):
        yield from self.pieces


class OwnChunks(ContentFile):
    """Its content is not what lies below."""

    def chunks(self, chunk_size=None):
        yield CONTENT


class OwnRead(File):
    """A file that decodes what lies below."""

    def read(self, *args):
        return bytes(255 - byte for byte in self.file.read(*args))


def temporary_upload() -> TemporaryUploadedFile:
    upload = TemporaryUploadedFile("x.bin", "application/octet-stream", len(CONTENT), None)
    upload.write(CONTENT)
    upload.seek(0)
    return upload


def spooled(max_size: int) -> File:
    file = tempfile.SpooledTemporaryFile(max_size=max_size)  # noqa: SIM115 - closed by the test
    file.write(CONTENT)
    return File(file, name="x")


def piped() -> File:
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as file:
        file.write(CONTENT)
    return File(os.fdopen(reader, "rb"), name="x")


def remote(mode: str = "rb") -> RemoteFile:
    return Far(CONTENT, max_memory=100).open(mode)


def own_chunks_of_an_instance() -> ContentFile:
    content = ContentFile(b"something else")
    content.chunks = lambda chunk_size=None: iter([CONTENT])
    return content


IN_PLACE = {
    "BytesIO": lambda path: File(io.BytesIO(CONTENT), name="x"),
    "ContentFile": lambda path: ContentFile(CONTENT),
    "TemporaryUploadedFile": lambda path: temporary_upload(),
    "InMemoryUploadedFile": lambda path: InMemoryUploadedFile(
        io.BytesIO(CONTENT), None, "x", None, len(CONTENT), None
    ),
    "SimpleUploadedFile": lambda path: SimpleUploadedFile("x", CONTENT),
    "open rb": lambda path: File(path.open("rb")),
    "open r+b": lambda path: File(path.open("r+b")),
    "a file twice wrapped": lambda path: File(File(path.open("rb"))),
    "NamedTemporaryFile": lambda path: named_temporary(),
}

SPOOLED = {
    "text": lambda path: ContentFile(CONTENT.decode()),
    "StringIO": lambda path: File(io.StringIO(CONTENT.decode()), name="x"),
    "open r": lambda path: File(path.open("r", encoding="ascii")),
    "open unbuffered": lambda path: File(path.open("rb", buffering=0)),
    "chunks only": lambda path: Pieces(CONTENT[:10], CONTENT[10:].decode()),
    "chunks of bytearrays": lambda path: Pieces(bytearray(CONTENT[:10]), memoryview(CONTENT[10:])),
    "own chunks": lambda path: OwnChunks(b"something else"),
    "own chunks of an instance": lambda path: own_chunks_of_an_instance(),
    "own read": lambda path: OwnRead(io.BytesIO(bytes(255 - byte for byte in CONTENT))),
    "own read, wrapped": lambda path: File(
        OwnRead(io.BytesIO(bytes(255 - byte for byte in CONTENT)), name="x")
    ),
    "a subclass of BytesIO": lambda path: File(type("Mine", (io.BytesIO,), {})(CONTENT)),
    "pipe": lambda path: piped(),
    "SpooledTemporaryFile in memory": lambda path: spooled(2**20),
    "SpooledTemporaryFile on disk": lambda path: spooled(1),
    "remote": lambda path: remote(),
    "remote text": lambda path: remote("r"),
    "remote being edited": lambda path: remote("r+b"),
    "remote wrapped": lambda path: File(remote()),
}


def named_temporary() -> File:
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - closed by the test
    file.write(CONTENT)
    return File(file)


def take(content) -> tuple[bytes, bool]:
    """The bytes that an upload would send, and whether they come from a spool."""
    spools = []

    def spool() -> Spool:
        spools.append(Spool(100))
        return spools[-1]

    with local_source(content, spool) as (source, size):
        source.seek(0)
        buffer = bytearray(size + 1)
        count = source.readinto(buffer)
        assert count == size
    assert all(made.closed for made in spools)
    return bytes(buffer[:count]), bool(spools)


@pytest.fixture
def on_this_disk(tmp_path) -> Path:
    path = tmp_path / "x"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize("kind", IN_PLACE)
def test_local_files_are_uploaded_from_where_they_are(kind, on_this_disk):
    content = IN_PLACE[kind](on_this_disk)
    assert take(content) == (CONTENT, False)
    assert not content.closed
    # Whoever saves it again saves the same.
    assert take(content) == (CONTENT, False)
    content.file.close()


@pytest.mark.parametrize("kind", SPOOLED)
def test_other_content_is_spooled_first(kind, on_this_disk):
    content = SPOOLED[kind](on_this_disk)
    assert take(content) == (CONTENT, True)
    if isinstance(content, File):
        assert not content.closed
        content.file.close()


def test_an_upload_begins_at_the_beginning(on_this_disk):
    """As Django's chunks() does, wherever the file's position is."""
    with on_this_disk.open("rb") as plain:
        plain.seek(5000)
        assert take(File(plain)) == (CONTENT, False)
    middle = ContentFile(CONTENT.decode())
    middle.seek(5000)
    assert take(middle) == (CONTENT, True)


def test_a_file_that_is_still_written_is_uploaded_with_its_buffer(tmp_path):
    with (tmp_path / "x").open("w+b") as plain:
        plain.write(b"not flushed")
        assert take(File(plain)) == (b"not flushed", False)


@pytest.mark.parametrize(
    "empty", [lambda: ContentFile(b""), lambda: ContentFile(""), Pieces, lambda: Pieces(b"")]
)
def test_empty_content_is_empty(empty):
    assert take(empty())[0] == b""


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with (tmp_path / "x").open("wb") as plain, pytest.raises(io.UnsupportedOperation):
        take(File(plain))


def test_a_content_s_own_error_is_its_own():
    class Broken:
        def chunks(self):
            yield b"abc"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        take(Broken())


# --- on real servers -----------------------------------------------------------------------------


@pytest.fixture(params=["sftp_storage", "webdav_storage"])
def embedded(request):
    """A storage on each embedded server, at an empty folder."""
    return request.getfixturevalue(request.param)


def test_a_reader_holds_no_session(embedded):
    """Between windows, and with files left open, every session is free for others."""
    name = embedded.save("big.bin", ContentFile(some_bytes(200_000)))
    files = [embedded.open(name) for _ in range(10)]
    assert [file.read(100) for file in files] == [some_bytes(200_000)[:100]] * 10
    assert embedded.pool.stats().in_use == 0
    for file in files:
        assert file.read() == some_bytes(200_000)[100:]
        file.close()


def test_a_change_on_the_server_is_seen(embedded):
    name = embedded.save("a.bin", ContentFile(b"x" * 100_000))
    with embedded.open(name) as file:
        file.read(10)
        with embedded.open(name, "wb") as other:
            other.write(b"y" * 99_999)
        with pytest.raises(FileChanged) as caught:
            file.read()
        assert caught.value.filename == name


def test_a_directory_is_no_file(embedded):
    embedded.save("folder/a.txt", ContentFile(b"x"))
    with embedded.open("folder") as file:
        with pytest.raises(IsADirectoryError):
            file.read()
        with pytest.raises(IsADirectoryError):
            _ = file.size


def test_a_copy_within_the_storage_needs_one_session(embedded):
    """The content is read from the storage that is written to: no hold-and-wait."""
    name = embedded.save("a.bin", ContentFile(some_bytes(100_000)))
    with embedded.open(name) as file:
        copy = embedded.save("b.bin", file)
        assert not file.closed
    with embedded.open(copy) as file:
        assert file.read() == some_bytes(100_000)


@pytest.mark.parametrize("kind", [*IN_PLACE, *SPOOLED])
def test_every_kind_of_content_arrives(embedded, kind, on_this_disk):
    content = {**IN_PLACE, **SPOOLED}[kind](on_this_disk)
    name = embedded.save("x.bin", content)
    with embedded.open(name) as file:
        assert file.read() == CONTENT
    assert embedded.size(name) == len(CONTENT)
    if isinstance(content, File):
        assert not content.closed
        content.file.close()


class Counted:
    """A file on a real server, with what was asked of it and how many bytes came."""

    def __init__(self, storage, name: str) -> None:
        self.remote = storage.open(name)._remote
        self.stops: list[int | None] = []
        self.moved = 0

    def read(self, start, stop, sink) -> Stat:
        def count(offset, data):
            self.moved += len(data)
            sink(offset, data)

        self.stops.append(stop)
        return self.remote.read(start, stop, count)

    def stat(self) -> Stat:
        return self.remote.stat()

    def spool(self) -> Spool:
        return self.remote.spool()

    def open(self) -> RemoteFile:
        return RemoteFile(self, "counted")


@pytest.mark.parametrize("size", [0, 10_000, SMALL, SMALL + 1, 2**20])
def test_reading_all_asks_for_a_piece_and_for_what_is_left(storage, size):
    name = storage.save("a.bin", ContentFile(some_bytes(size)))
    counted = Counted(storage, name)
    before = storage.pool.stats().requests
    with counted.open() as file:
        assert file.read() == some_bytes(size)
        assert file.size == size
    assert counted.stops == ([SMALL] if size <= SMALL else [SMALL, size])
    assert counted.moved == size
    # No question beside: each read is one operation.
    assert storage.pool.stats().requests - before == len(counted.stops)


def test_listing_a_large_zip_moves_its_tail(storage, server):
    """Of 1 GiB; on a server whose disk is not here, of what is uploaded in little time."""
    if server.root is None:
        size = 2**24
        name = storage.save("a.zip", ContentFile(zipped(io.BytesIO(bytes(size))).getvalue()))
    else:
        size, name = 2**30, storage.save("a.zip", ContentFile(b""))
        path = server.root / storage.location / name
        with path.open("r+b") as sparse:
            sparse.truncate(size)
            zipped(sparse)
    counted = Counted(storage, name)
    with counted.open() as file, zipfile.ZipFile(file) as archive:
        assert archive.namelist() == [f"{number}.txt" for number in range(1000)]
        assert counted.moved < size / 100
        assert archive.read("7.txt") == b"7"
    assert counted.moved < size / 100
    storage.delete(name)


def zipped(file):
    """An archive behind what the file holds, which may be anything."""
    with zipfile.ZipFile(file, "a") as archive:
        for number in range(1000):
            archive.writestr(f"{number}.txt", str(number))
    return file


@pytest.fixture(scope="module")
def photograph() -> bytes:
    """A JPEG of 4 megapixels, with noise as a camera's, so that it is as long as a camera's."""
    packed = io.BytesIO()
    Image.effect_noise((2464, 1632), 40).convert("RGB").save(packed, "JPEG", quality=80)
    assert 10**6 < packed.tell() < 4 * 10**6
    return packed.getvalue()


def test_the_size_of_a_photograph_moves_its_head(storage, photograph):
    name = storage.save("a.jpg", ContentFile(photograph))
    counted = Counted(storage, name)
    with counted.open() as file:
        assert Image.open(file).size == (2464, 1632)
    assert counted.moved < len(photograph) / 100
