"""docs/servers.md tells what each server does, and each server still does it.

With NETSTORAGE_SERVERS_PAGE=write these tests, and that of a full disk, write its tables instead.
"""

from __future__ import annotations

import errno
import io
import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
from django.core.files.base import ContentFile

from netstorage.exceptions import NetStorageError
from netstorage.webdav.experiments import temporary
from tests.contract.helpers import GAPS, LOOSE, STRICT, read
from tests.contract.page import SAME, SECTIONS, WRITE, check, told
from tests.servers import SERVERS

ROUNDS = 100
SAVERS = 4
READERS = 3
OLD, NEW = b"a" * 40_000, b"b" * 90_000

NAMES = {
    "umlauts, emoji": ["Grüße 🎉.txt"],
    "composed and decomposed accents": ["caf\u00e9.txt", "cafe\u0301.txt"],
    "255 bytes": ["n" * 251 + ".txt"],
    "a dot or space at the end": ["dot.", "space "],
    "a dot at the beginning": [".hidden"],
    "`\\`": ["back\\slash.txt"],
    "`?`, `;`": ["a?b.txt", "a;b.txt"],
    "`%`, `#`, `&`, `+`": ["100%25.txt", "a#b.txt", "a&b.txt", "a+b.txt"],
    "a line break": ["new\nline.txt"],
    "bytes that are no UTF-8": ["bytes-\udcff.txt"],
}


@contextmanager
def session_of(storage):
    with storage.pool.connection(exclusive=True) as session:
        yield session


def put(storage, session, data):
    """Upload under a hidden name, and return it."""
    name = temporary(storage._path(""))
    session.write(name, io.BytesIO(data), len(data), None, None)
    return name


def number_of(error):
    return errno.errorcode.get(getattr(error, "errno", None) or 0, type(error).__name__)


def overwrite(storage, name, data):
    file = storage.open(name, "wb")
    try:
        file.write(data)
        file.close()
    finally:
        file.discard()


# --- what has one answer -------------------------------------------------------------------------


def version(storage):
    with session_of(storage) as session:
        if hasattr(session, "_wire"):
            return session._transport.remote_version.removeprefix("SSH-2.0-")
        session.stat(storage._path(storage.save("named.txt", ContentFile(b""))))
        return session._http.software or "nothing"


def publishing(storage):
    """By which request a file gets its name."""
    with session_of(storage) as session:
        session.rename(put(storage, session, OLD), storage._path("published.bin"))
        if not hasattr(session, "_wire"):
            return "`MOVE`, `Overwrite: F`"
        if session._renames_safely:
            return "`RENAME`"
        return "hard link" if session._links else "`RENAME`, after a look"


def taken(storage):
    storage.save("taken.bin", ContentFile(OLD))
    with session_of(storage) as session:
        upload = put(storage, session, NEW)
        try:
            session.rename(upload, storage._path("taken.bin"))
        except FileExistsError:
            answer = "refused"
        else:
            answer = "**replaced**"
        with suppress(FileNotFoundError):
            session.remove(upload)
    assert (read(storage, "taken.bin") == OLD) is (answer == "refused")
    return answer


def overwriting(storage):
    overwrite(storage, "file.bin", OLD)
    try:
        overwrite(storage, "file.bin", NEW)
    except OSError as error:
        return f"refused ({number_of(error)})"
    assert read(storage, "file.bin") == NEW
    return "replaced"


def on_disk(storage):
    with session_of(storage) as session:
        return "yes" if "fsync@openssh.com" in session._wire.extensions else "no"


def ranges(storage):
    storage.save("ranges.bin", ContentFile(bytes(2**20)))
    got = []
    with session_of(storage) as session:
        path = storage._path("ranges.bin")
        session.read(path, 500_000, 500_010, lambda at, data: got.append(len(data)))
    return "alone" if sum(got) == 10 else "with the rest"


def times(storage):
    storage.save("times.txt", ContentFile(b"times"))
    with session_of(storage) as session:
        stat = session.stat(storage._path("times.txt"))
    seen = {"modification": stat.mtime, "last access": stat.atime, "creation": stat.created}
    return ", ".join(what for what, time in seen.items() if time is not None)


def deleting(storage, *, full):
    storage.save("dir/file.txt", ContentFile(b"kept"))
    if not full:
        storage.delete("dir/file.txt")
    try:
        storage.delete("dir")
    except OSError as error:
        assert storage.exists("dir/file.txt") is full
        return f"refused ({number_of(error)})"
    return "**gone with all in it**" if full else "gone"


def requests(storage):
    """How many a small file takes, once the server is known."""
    counted = []
    handler = logging.Handler()
    handler.emit = counted.append
    logger = logging.getLogger("httpx")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        for _ in range(2):
            seen = []
            for operation in (
                lambda: storage.save("dir/small.txt", ContentFile(b"small")),
                lambda: overwrite(storage, "dir/small.txt", b"other"),
                lambda: storage.delete("dir/small.txt"),
            ):
                counted.clear()
                operation()
                seen.append(str(len(counted)))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return ", ".join(seen)


def names(storage, which):
    """Whether a file keeps such a name, all the way, beside others."""
    for name in which:
        try:
            overwrite(storage, f"dir/{name}", name.encode("utf-8", "surrogateescape"))
        except (OSError, NetStorageError) as error:
            return f"refused ({number_of(error)})"
    for name in which:
        assert read(storage, f"dir/{name}") == name.encode("utf-8", "surrogateescape")
    listed = storage.listdir("dir")[1]
    if sorted(listed) == sorted(which):
        return "kept"
    return f"kept, but listed as `{listed[0]}`" if listed else "kept, but not listed"


VERSION = "Calls itself"
SFTP = {"On the disk before it gets its name (`fsync`)": on_disk}
WEBDAV = {"Requests to save, to replace, to delete a small file": requests}
ASKED = {
    VERSION: version,
    "A new file gets its name by": publishing,
    "… if the name is taken": taken,
    "Overwriting a file": overwriting,
    "Reading a part sends that part": ranges,
    "Times": times,
    "Deleting an empty directory": lambda storage: deleting(storage, full=False),
    "Deleting a directory with a file in it": lambda storage: deleting(storage, full=True),
    **{
        f"Names: {what}": lambda storage, which=which: names(storage, which)
        for what, which in NAMES.items()
    },
}
COLLISIONS = f"{SAVERS} savers rename to one name at the same instant: more than one got it"
TORN = f"{ROUNDS} overwrites, {READERS} readers without a pause: reads that went wrong"
FULL = "A full disk"


@pytest.mark.parametrize("question", [*ASKED, *SFTP, *WEBDAV])
def test_each_server_does_what_the_page_tells(server, storage, question):
    probe = (ASKED | (SFTP if server.protocol == "sftp" else WEBDAV)).get(question)
    if probe is None:
        return  # nothing that its protocol has
    answer = probe(storage)
    if question != VERSION or (WRITE and server.name not in SAME):
        check(server, question, answer)
    elif server.name not in SAME:
        # Another version may be installed here: what it does is what counts.
        program = re.compile(r"[A-Za-z]+")
        assert program.match(answer)[0] == program.match(told(server.name)[question])[0]


@pytest.mark.parametrize("name", SECTIONS)
def test_the_page_tells_nothing_else(name):
    own = SFTP if SERVERS[name].protocol == "sftp" else WEBDAV
    assert list(told(name)) == [*ASKED, *own, COLLISIONS, TORN, FULL]


# --- races: figures of chance, measured when the page is written ---------------------------------


def collisions(storage):
    """Rounds in which more than one saver was told that the name is its own."""
    twice = 0
    with ThreadPoolExecutor(SAVERS) as threads:
        for turn in range(ROUNDS):
            target = storage._path(f"race-{turn}.bin")
            together = threading.Barrier(SAVERS)

            def rename(_, target=target, together=together):
                with session_of(storage) as session:
                    upload = put(storage, session, b"mine")
                    together.wait(60)
                    try:
                        session.rename(upload, target)
                    except OSError:
                        with suppress(OSError):
                            session.remove(upload)
                        return False
                    return True

            twice += sum(threads.map(rename, range(SAVERS))) > 1
    return f"{twice} of {ROUNDS} rounds"


def torn_reads(storage):
    """Reads that met no file, an error, or something else than one whole version."""
    storage.save("read.bin", ContentFile(OLD))
    done = threading.Event()

    def look(_):
        reads = wrong = 0
        while not done.is_set():
            reads += 1
            try:
                wrong += read(storage, "read.bin") not in {OLD, NEW}
            except (OSError, NetStorageError):
                wrong += 1
        return wrong, reads

    with ThreadPoolExecutor(READERS) as threads:
        readers = [threads.submit(look, number) for number in range(READERS)]
        try:
            for turn in range(ROUNDS):
                overwrite(storage, "read.bin", (NEW, OLD)[turn % 2])
        finally:
            done.set()
    wrong, reads = map(sum, zip(*(reader.result() for reader in readers), strict=True))
    return f"{wrong} of {reads}"


@pytest.mark.parametrize("question", [COLLISIONS, TORN])
def test_the_races_were_run_and_fit_the_promises(server, sibling, question):
    """What must never happen did not; what may happen is told with its figure."""
    if WRITE and server.name not in SAME:
        limits = {"max_size": SAVERS + READERS, "timeout": 60}
        race = collisions if question == COLLISIONS else torn_reads
        check(server, question, race(sibling(pool=limits)))
    wrong, tried = map(int, re.match(r"(\d+) of (\d+)", told(server.name)[question]).groups())
    assert tried >= ROUNDS
    never = server.name in STRICT if question == COLLISIONS else server.name not in GAPS | LOOSE
    assert wrong == 0 or not never
