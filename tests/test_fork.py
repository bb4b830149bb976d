"""Real forks on real servers: parent and child never share a connection.

What a child does on its parent's connection would show: the bytes of one SSH connection are
authenticated one after the other, so that a single one from the child breaks it; and a proxy counts
what comes through each connection.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import multiprocessing
import os
import secrets
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from typing import Any, NoReturn

import pytest
from django.core.files.base import ContentFile

from netstorage import SFTPStorage, WebDAVStorage
from netstorage.pool import PoolStats
from netstorage.storage import NetworkStorage
from netstorage.testing import EmbeddedServer, SFTPServer, WebDAVServer
from tests.servers.counting import Proxy

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
    # paramiko reads in a thread of its own; Python warns of any fork beside threads.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]

DEADLINE = 30
"""Seconds after which a test is taken to hang."""
ZERO = PoolStats(*[0] * 14)


@pytest.fixture(scope="module", params=[SFTPServer, WebDAVServer])
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    with request.param() as server:
        yield server


def storage_on(server: EmbeddedServer, **options: Any) -> NetworkStorage:
    """A storage in a folder of its own."""
    location = f"fork-{secrets.token_hex(4)}"
    (server.root / location).mkdir()
    cls = SFTPStorage if isinstance(server, SFTPServer) else WebDAVStorage
    return cls(**{**server.options, "location": location, **options})


@pytest.fixture
def storage(server: EmbeddedServer) -> NetworkStorage:
    """A storage that has one idle session."""
    # No other test's storage shares the pool.
    storage = storage_on(server, timeout=20 + secrets.randbelow(10**6) / 10**6)
    storage.save("before.txt", ContentFile(b"before"))
    stats = storage.pool.stats()
    assert (stats.connects, stats.size, stats.idle) == (1, 1, 1)
    return storage


def use(storage: NetworkStorage, who: str, rounds: int = 10) -> None:
    """Save, read and look. (WsgiDAV answers 500 if a file goes while it lists: no listing here.)"""
    for number in range(rounds):
        content = f"{who} {number} ".encode() * 1000
        name = storage.save(f"{who}-{number}.txt", ContentFile(content))
        with storage.open(name) as file:
            assert file.read() == content
        assert storage.size(name) == len(content)


def fork(body: Callable[[], object]) -> int:
    """Run `body` in a child; its exit status is 0 if nothing was raised."""
    pid = os.fork()
    if pid == 0:
        run_and_exit(body)
    return pid


def run_and_exit(body: Callable[[], object]) -> NoReturn:
    status = 1
    try:
        faulthandler.register(signal.SIGALRM, chain=True)
        signal.alarm(DEADLINE)
        body()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def finish(pid: int) -> None:
    """Wait for a child, and see that it did well."""
    deadline = time.monotonic() + DEADLINE + 5
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            pytest.fail("the child hangs")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(status) == 0


def barrier_of_two() -> Barrier:
    return multiprocessing.get_context("fork").Barrier(2, timeout=DEADLINE)


def test_parent_and_child_work_side_by_side(storage):
    pool, before = storage.pool, storage.pool.stats()
    barrier = barrier_of_two()

    def child() -> None:
        assert storage.pool is pool
        assert pool.stats() == ZERO
        barrier.wait()
        use(storage, "child")
        stats = pool.stats()
        assert (stats.connects, stats.closed_broken, stats.idle) == (1, 0, 1)

    pid = fork(child)
    barrier.wait()
    use(storage, "parent")
    finish(pid)
    use(storage, "later")
    after = pool.stats()
    assert after.requests > before.requests
    assert replace(after, requests=before.requests) == before


def test_a_child_of_a_child(storage):
    def child() -> None:
        use(storage, "child")

        def grandchild() -> None:
            assert storage.pool.stats() == ZERO
            use(storage, "grandchild")

        finish(fork(grandchild))
        use(storage, "child-again")
        assert storage.pool.stats().connects == 1

    finish(fork(child))
    use(storage, "parent")
    assert storage.pool.stats().connects == 1


def test_a_child_may_drop_what_it_inherited(storage):
    before = storage.pool.stats()

    def child() -> None:
        nonlocal storage
        del storage
        gc.collect()

    finish(fork(child))
    use(storage, "parent")
    assert storage.pool.stats().connects == before.connects


def test_fork_while_a_session_is_lent(storage):
    pool = storage.pool

    def child() -> None:
        use(storage, "child")
        assert pool.stats().connects == 1

    with pool.connection() as session:
        # The child leaves by os._exit(), as multiprocessing's do: the block does not end there.
        finish(fork(child))
        path = f"{storage.location}/before.txt"
        assert session.stat(path).size == len(b"before")
    assert pool.stats().connects == 1
    use(storage, "parent")


def test_four_worker_processes(storage):
    context = multiprocessing.get_context("fork")
    names = [f"worker{number}" for number in range(4)]
    workers = [context.Process(target=use, args=(storage, name)) for name in names]
    for worker in workers:
        worker.start()
    use(storage, "parent")
    for worker in workers:
        worker.join(DEADLINE)
        if worker.is_alive():
            worker.kill()
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    _, files = storage.listdir("")
    assert len(files) == 1 + 5 * 10
    for name in names:
        assert storage.open(f"{name}-9.txt").read() == f"{name} 9 ".encode() * 1000
    assert storage.pool.stats().connects == 1


# --- what comes over the wire -------------------------------------------------------------------


@pytest.fixture
def proxy(server: EmbeddedServer) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.stop()


@pytest.fixture
def proxied(
    server: EmbeddedServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> NetworkStorage:
    """A storage behind the proxy, whose connections are not renewed however slow the machine is."""
    monkeypatch.setattr("netstorage.webdav.endpoint.KEEPALIVE", 600.0)
    if isinstance(server, SFTPServer):
        return storage_on(server, port=proxy.port)
    assert isinstance(server, WebDAVServer)
    return storage_on(server, url=server.url.replace(str(server.port), str(proxy.port)))


def test_a_child_writes_nothing_on_its_parents_connection(proxied, proxy):
    proxied.save("before.txt", ContentFile(b"before"))
    before = list(proxy.sent)
    assert len(before) == 1

    def child() -> None:
        nonlocal proxied
        use(proxied, "child", rounds=3)
        proxied.pool.drain()
        del proxied
        gc.collect()

    finish(fork(child))
    assert proxy.sent[:1] == before
    assert len(proxy.sent) == 2
    assert not proxy.ended[0]
    assert proxied.size("before.txt") == 6
    assert proxy.sent[0] > before[0]
    assert len(proxy.sent) == 2


def test_a_child_leaves_a_block_that_its_parent_entered(proxied, proxy):
    pool = proxied.pool
    with pool.connection() as session:
        sent = proxy.sent[0]
        pid = os.fork()
        if pid == 0:
            signal.alarm(DEADLINE)
            # paramiko's is of no use here; the HTTP client opens another connection.
            with suppress(OSError):
                session.stat("")
    if pid == 0:
        # Nothing may come back to pytest.
        run_and_exit(lambda: leave(proxied))
    finish(pid)
    assert proxy.sent[0] == sent
    assert not proxy.ended[0]
    use(proxied, "parent")
    assert pool.stats().connects == 1


def leave(storage: NetworkStorage) -> None:
    assert storage.pool.stats() == ZERO
    use(storage, "child")
    assert storage.pool.stats().connects == 1


def test_fork_in_the_middle_of_a_transfer(proxied, proxy):
    """Another thread is stuck in an upload, and holds whatever locks there are."""
    proxied.save("before.txt", ContentFile(b"before"))
    content = secrets.token_bytes(8 * 2**20)
    names: list[str] = []
    uploading = threading.Thread(
        target=lambda: names.append(proxied.save("big.bin", ContentFile(content))), daemon=True
    )
    proxy.stall_after(3 * 2**20)
    uploading.start()
    assert proxy.stalled.wait(DEADLINE)
    pool = proxied.pool
    assert pool.stats().in_use == 1
    sent = proxy.sent[0]

    def child() -> None:
        assert pool.stats() == ZERO
        use(proxied, "child")
        assert proxied.listdir("")[1].count("big.bin") == 0

    finish(fork(child))
    assert proxy.sent[0] == sent
    assert pool.stats().in_use == 1
    proxy.go_on()
    uploading.join(DEADLINE)
    assert names == ["big.bin"]
    with proxied.open("big.bin") as file:
        assert file.read() == content
    stats = pool.stats()
    assert (stats.connects, stats.closed_broken) == (1, 0)


# --- how a child ends, and forks that Python does not see ---------------------------------------

SCRIPT = """
import ctypes, json, os, signal, sys, time
from django.conf import settings
settings.configure()
from django.core.files.base import ContentFile
import netstorage

def fork_unseen():
    # As a C program does it: without Python's hooks, and without letting other threads run.
    return ctypes.PyDLL(None).fork()

fork = {"seen": os.fork, "unseen": fork_unseen}[sys.argv[1]]
storage = getattr(netstorage, sys.argv[2])(**json.loads(sys.argv[3]))
storage.save("before.txt", ContentFile(b"before"))

def use(who):
    for number in range(5):
        name = storage.save(who, ContentFile(who.encode() * 1000))
        assert storage.open(name).read() == who.encode() * 1000

signal.alarm(30)
pid = fork()
if pid == 0:
    signal.alarm(30)
    CHILD
    sys.exit()  # the whole clean-up of an interpreter
_, status = os.waitpid(pid, 0)
assert status == 0, status
use("parent")
stats = storage.pool.stats()
assert (stats.connects, stats.closed_broken) == (1, 0), stats
print("done")
"""

CHILDREN = {
    "idle": "pass",
    "busy": "use('child'); assert storage.pool.stats().connects == 1",
    "dropping": "del storage; import gc; gc.collect()",
}


@pytest.mark.parametrize("child", CHILDREN)
@pytest.mark.parametrize("kind", ["seen", "unseen"])
def test_a_child_that_ends_like_any_program(server, tmp_path, kind, child):
    script = textwrap.dedent(SCRIPT).replace("CHILD", CHILDREN[child])
    storage = storage_on(server)
    options = json.dumps({**server.options, "location": storage.location})
    done = subprocess.run(
        [sys.executable, "-c", script, kind, type(storage).__name__, options],
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_the_interpreter_exits_at_once(server):
    """With sessions idle, one lent, and a file open."""
    script = """if True:
        import json, sys
        from django.conf import settings
        settings.configure()
        from django.core.files.base import ContentFile
        import netstorage
        storage = getattr(netstorage, sys.argv[1])(**json.loads(sys.argv[2]))
        storage.save("a.txt", ContentFile(b"a"))
        file = storage.open("a.txt")
        file.read(1)
        with storage.pool.connection(exclusive=True):
            use = storage.pool.connection()
            use.__enter__()
        print(storage.pool.stats().size)
    """
    storage = storage_on(server)
    options = json.dumps({**server.options, "location": storage.location})
    done = subprocess.run(
        [sys.executable, "-c", script, type(storage).__name__, options],
        capture_output=True,
        text=True,
        # Idle sessions would lie there for a minute.
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
