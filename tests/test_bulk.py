"""Many files at once: all of them saved or told, in bounded memory, and an end to everything."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.request import urlopen

import pytest
from django.core.files.base import ContentFile, File
from django.core.files.storage import FileSystemStorage

from netstorage import ConnectError, PoolTimeout, SaveManyError, bulk
from netstorage.bulk import LISTED, default_threads, run_many, save_many
from netstorage.files import broken_off
from netstorage.session import SMALL
from tests.contract.helpers import (
    private_storage,
    read,
    temporaries,
)
from tests.contract.relay import PATIENCE, Relay
from tests.servers import fresh_location
from tests.servers.base import free_port

FEW_SERVERS = True
ROOT = Path(__file__).parents[1]


def numbered(count, size=100):
    return ((f"d{n % 7}/{n}.txt", ContentFile(b"%d " % n * size)) for n in range(count))


def test_all_are_saved_and_told(storage):
    results = list(save_many(storage, numbered(60)))
    assert sorted(each.asked for each in results) == sorted(name for name, _ in numbered(60))
    assert all(each.name == each.asked and each.error is None for each in results)
    assert read(storage, "d3/10.txt") == b"10 " * 100
    assert sum(len(storage.listdir(f"d{n}")[1]) for n in range(7)) == 60
    assert storage.pool.stats().in_use == 0


def test_paths_and_functions_are_opened_in_turn_and_closed(any_sftp, tmp_path):
    storage = private_storage(any_sftp, location=fresh_location(any_sftp))
    path = tmp_path / "a.bin"
    path.write_bytes(b"path")
    opened = []

    def function():
        assert threading.current_thread() is threading.main_thread()
        assert sum(not file.closed for file in opened) <= 5
        opened.append(File(path.open("rb")))
        return opened[-1]

    own = File(path.open("rb"))
    with own:
        files = [("path", path), ("text", str(path)), ("own", own)]
        names = [f"f{n}" for n in range(40)]
        results = list(save_many(storage, [*files, *((n, function) for n in names)], threads=4))
        assert not own.closed
    assert len(results) == 43
    assert len(opened) == 40
    assert all(file.closed for file in opened)
    assert all(read(storage, each.name) == b"path" for each in results)


def test_a_taken_name_is_changed_as_save_does(any_webdav):
    storage = private_storage(any_webdav, location=fresh_location(any_webdav))
    storage.save("a.txt", ContentFile(b"old"))
    (saved,) = save_many(storage, [("a.txt", ContentFile(b"new"))])
    assert saved.asked == "a.txt"
    assert saved.name != "a.txt"
    assert read(storage, "a.txt") == b"old"
    assert read(storage, saved.name) == b"new"


def test_failures_stop_nobody_else_and_are_told_twice(storage, tmp_path):
    def broken():
        raise RuntimeError("no content")

    files = [*numbered(20), ("gone", tmp_path / "gone"), ("broken", broken), ("../out", tmp_path)]
    results = []
    with pytest.raises(SaveManyError) as caught:
        for saved in save_many(storage, files):
            results.append(saved)
    failed = {each.asked: each.error for each in results if each.error is not None}
    assert failed.keys() == {"gone", "broken", "../out"}
    assert isinstance(failed["gone"], FileNotFoundError)
    assert (caught.value.saved, caught.value.failed) == (20, 3)
    assert {each.asked for each in caught.value.failures} == failed.keys()
    assert caught.value.__cause__ in failed.values()
    assert "3 of 23 files were not saved" in str(caught.value)
    assert "broken: RuntimeError: no content" in str(caught.value)
    assert not caught.value.unreachable


def test_an_error_lists_the_first_failures_only(tmp_path):
    storage = FileSystemStorage(tmp_path / "storage")
    with pytest.raises(SaveManyError, match="and 80 more") as caught:
        list(save_many(storage, ((f"{n}", tmp_path / "gone") for n in range(100))))
    assert len(caught.value.failures) == LISTED
    assert caught.value.failed == 100


def test_any_storage_will_do(tmp_path):
    storage = FileSystemStorage(tmp_path)
    assert len(list(save_many(storage, numbered(30)))) == 30
    assert (tmp_path / "d3" / "10.txt").read_bytes() == b"10 " * 100


def test_files_are_read_a_few_ahead_only(tmp_path):
    taken = itertools.count()
    told = 0
    last = 0

    def endless():
        nonlocal last
        for last in taken:
            yield f"{last}.txt", ContentFile(b"x")

    run = save_many(FileSystemStorage(tmp_path), endless(), threads=4)
    for _ in run:
        told += 1
        assert last - told <= 5
        if told == 500:
            break
    run.close()
    assert next(taken) == last + 1
    # What was begun is finished: nothing more comes.
    assert len(list(tmp_path.iterdir())) <= told + 5


def test_no_file_at_all(any_sftp):
    assert list(save_many(private_storage(any_sftp), [])) == []


def test_an_error_in_the_callers_generator_ends_it(storage):
    def files():
        yield from numbered(30)
        raise LookupError("the database is gone")

    results = []
    with pytest.raises(LookupError, match="the database is gone"):
        for saved in save_many(storage, files()):
            results.append(saved)
    assert all(read(storage, each.name) for each in results)
    names = {path.name for path in map(Path, (each.name for each in results))}
    there = {name for n in range(7) for name in storage.listdir(f"d{n}")[1]}
    assert names <= there
    assert storage.pool.stats().in_use == 0


def test_large_files_do_not_crowd_out_the_rest(server, tmp_path):
    """With a pool that hardly waits, many threads and large files, nobody waits in vain."""
    storage = private_storage(
        server, location=fresh_location(server), pool={"max_size": 2, "timeout": 10}
    )
    large = tmp_path / "large"
    large.write_bytes(os.urandom(SMALL + 1))
    at_once = threading.Semaphore(2)

    class Watched(type(storage)):
        def save(self, name, content, max_length=None):
            is_large = name.startswith("large")
            if is_large:
                assert at_once.acquire(blocking=False), "more large files than sessions"
            try:
                return super().save(name, content, max_length)
            finally:
                if is_large:
                    at_once.release()

    watched = Watched(**storage._given)
    files = [(f"large{n}", large) if n % 2 else (f"small{n}", ContentFile(b"x")) for n in range(40)]
    assert len(list(save_many(watched, files, threads=8))) == 40
    assert watched.pool.stats().timeouts == 0


def test_threads_by_default(any_sftp, any_webdav, tmp_path):
    """As many as the pool's sessions carry; each borrower finds one."""
    for server in (any_sftp, any_webdav):
        storage = private_storage(server, pool={"max_size": 3})
        with storage.pool.connection() as session:
            carries = session.concurrency
        assert default_threads(storage) == min(32, 3 * carries)
    assert default_threads(FileSystemStorage(tmp_path)) > 1


@pytest.mark.parametrize("threads", [0, -1])
def test_it_needs_a_thread(tmp_path, threads):
    with pytest.raises(ValueError, match="greater than 0"):
        list(save_many(FileSystemStorage(tmp_path), [], threads=threads))


class TestADeadServer:
    def test_from_the_start(self, any_sftp):
        storage = private_storage(any_sftp, port=free_port())
        with pytest.raises(ConnectError):
            list(save_many(storage, numbered(5)))

    def test_in_the_middle(self, any_sftp):
        """No million of files is tried on a server that is gone."""
        with Relay(any_sftp) as relay:
            storage = private_storage(
                any_sftp, **relay.options | {"location": fresh_location(any_sftp)}
            )
            results = []
            run = save_many(storage, numbered(100_000), threads=4)
            with pytest.raises(SaveManyError, match="the rest was not tried") as caught:
                for saved in run:
                    results.append(saved)
                    if len(results) == 20:
                        relay.stop_listening()
                        relay.cut()
            assert caught.value.unreachable
            assert len(results) < 100
            assert sum(each.error is None for each in results) == caught.value.saved


SAVER = """
    import json, sys, django
    from django.conf import settings
    settings.configure()
    django.setup()
    from pathlib import Path
    from netstorage import SFTPStorage, WebDAVStorage
    from netstorage.bulk import save_many

    storage = {cls}(**json.loads({options!r}))
    def files():
        for n in range(100_000):
            yield f"small{{n}}", Path({small!r})
            if n == 5:
                yield "large", Path({large!r})
    for number, saved in enumerate(save_many(storage, files(), threads=4)):
        print(number, flush=True)
"""


@pytest.fixture
def saver(server, tmp_path):
    """A process that saves without end, one large file among them that hangs in the middle."""
    (tmp_path / "small").write_bytes(b"small")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**30)
    storage = private_storage(server, location=fresh_location(server))
    code = textwrap.dedent(SAVER).format(
        cls=type(storage).__name__,
        options=json.dumps(storage._given),
        small=str(tmp_path / "small"),
        large=str(tmp_path / "large"),
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            for _ in range(20):
                assert process.stdout.readline(), process.stderr.read()
            yield process, storage
        finally:
            process.kill()


@pytest.mark.parametrize(
    "server", ["embedded-sftp", "sshd", "embedded-webdav", "apache"], indirect=True
)
def test_ctrl_c(saver, server):
    """Nothing new starts, what is under way ends, and nothing unfinished stays."""
    process, storage = saver
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE * 2)
    assert process.returncode in {-signal.SIGINT, 130}, errors
    assert "KeyboardInterrupt" in errors
    assert temporaries(server, storage) == []
    names = storage.listdir("")[1]
    assert len(names) >= 20
    assert "large" not in names
    assert all(storage.size(name) == 5 for name in names)


class Slow:
    """A web server with one file that takes a while."""

    size = 24 * 2**16

    def __init__(self):
        self.under_way = threading.Event()
        slow = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(slow.size))
                self.end_headers()
                with suppress(ConnectionError):
                    for sent in range(0, slow.size, 2**16):
                        if sent == slow.size // 6:
                            slow.under_way.set()
                        time.sleep(0.04)
                        self.wfile.write(b"x" * 2**16)

            def log_message(self, *arguments):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)

    def open(self):
        return File(urlopen(f"http://127.0.0.1:{self.server.server_port}/"), "slow")


@pytest.fixture
def slow():
    slow = Slow()
    thread = threading.Thread(target=slow.server.serve_forever)
    thread.start()
    yield slow
    slow.server.shutdown()
    thread.join()
    slow.server.server_close()


def begin(storage, content, under_way):
    """Save a large file, and give the run back while it is under way."""
    run = save_many(storage, [("large", content), ("small", ContentFile(b"x"))], threads=2)
    assert next(run).name == "small"
    assert under_way.wait(PATIENCE)
    return run


def test_what_is_broken_off_is_not_taken_for_whole(server, slow):
    """To who reads it, a response that was closed looks like one that has ended."""
    storage = private_storage(server, location=fresh_location(server))
    begin(storage, slow.open, slow.under_way).close()
    assert storage.listdir("") == ([], ["small"])
    assert temporaries(server, storage) == []


def test_elsewhere_large_files_are_finished(slow, tmp_path):
    """FileSystemStorage would leave half a file."""
    begin(FileSystemStorage(tmp_path), slow.open, slow.under_way).close()
    assert (tmp_path / "large").stat().st_size == slow.size


def test_ctrl_c_twice(slow, tmp_path, monkeypatch):
    """Nobody waits for what is under way; still it is not closed while it is read."""
    shutdown = bulk.ThreadPoolExecutor.shutdown

    def interrupted(executor, wait=True, **options):
        if wait:
            raise KeyboardInterrupt
        shutdown(executor, wait=False, **options)

    run = begin(FileSystemStorage(tmp_path), slow.open, slow.under_way)
    monkeypatch.setattr(bulk.ThreadPoolExecutor, "shutdown", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.close()
    for thread in threading.enumerate():
        if thread.name.startswith("netstorage-bulk"):
            thread.join()
    assert (tmp_path / "large").stat().st_size == slow.size


class Elsewhere(File):
    """Content that is no local file."""

    def chunks(self, chunk_size=None):
        yield from File.chunks(self, chunk_size)


@pytest.mark.parametrize("kind", ["path", "function", "own", "spooled"])
def test_uploads_are_broken_off(server, tmp_path, kind):
    """Whatever the content is; a file of the caller's stays open."""
    storage = private_storage(server, location=fresh_location(server))
    path = tmp_path / "large"
    path.write_bytes(os.urandom(4 * SMALL))
    under_way = threading.Event()

    class Watched(type(storage)):
        def _store(self, name, *arguments, **options):
            if name == "large":
                under_way.set()
                assert broken_off.get().wait(PATIENCE)
            return super()._store(name, *arguments, **options)

    with path.open("rb") as own:
        contents = {
            "path": path,
            "function": lambda: File(path.open("rb")),
            "own": File(own),
            "spooled": Elsewhere(own),
        }
        watched = Watched(**storage._given)
        begin(watched, contents[kind], under_way).close()
        assert not own.closed
    assert storage.listdir("") == ([], ["small"])


def test_run_many_gives_calls_up_when_it_ends_early():
    go, full = threading.Event(), threading.Event()
    given_up = []

    def give_up(item):
        given_up.append(item)
        go.set()

    def work(item):
        if item == 2:
            full.set()
        assert (go if item else full).wait(PATIENCE)

    run = run_many(work, itertools.count(), threads=3, give_up=give_up)
    assert next(run)[0] == 0
    run.close()
    assert given_up == [1, 2]


def test_pool_timeouts_are_told(any_sftp):
    """They are failures of single files; that the rest goes on is the caller's to decide."""
    storage = private_storage(any_sftp, pool={"max_size": 1, "timeout": 0.05})
    with storage.pool.connection(exclusive=True), pytest.raises(SaveManyError) as caught:
        list(save_many(storage, numbered(2), threads=1))
    assert isinstance(caught.value.__cause__, PoolTimeout)
