"""The process models of Django sites: what forks has used its storage; workers save and read.

Workers end in the midst, and others are forked in their place. What one does on the connection
that it inherited would show: a proxy counts what comes through each.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from billiard.exceptions import TimeLimitExceeded
from celery.result import AsyncResult

from netstorage.leftovers import find_leftovers, remove_leftovers
from netstorage.storage import NetworkStorage
from tests.contract.helpers import STRICT, grow_old, private_storage, read, temporaries
from tests.endurance.broker import make_app
from tests.endurance.faulty import Fault, FaultyLine, What, Where
from tests.servers import fresh_location, keeper
from tests.servers.base import Server, free_port
from tests.servers.counting import Proxy

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

ROOT = Path(__file__).parents[2]
DEADLINE = 60
"""Seconds after which a test is taken to hang."""
WORKERS = 2
CLIENTS = 8
EACH = 8
"""What a worker does before another takes its place."""
SIZES = (20, 5000, 300_000)

Answer = dict[str, Any]


@dataclass
class Site:
    """The project of `tests.endurance.project`, on a storage of its own behind a proxy.

    Attributes:
        port: Where it finds its server.
    """

    server: Server
    direct: NetworkStorage
    proxy: Proxy
    folder: Path
    port: int
    asked: set[str] = field(default_factory=set)
    """Digests of what was sent."""
    answers: list[Answer] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @contextlib.contextmanager
    def running(self, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run the project under a Python program; what hangs at the end is killed."""
        location = self.direct.options["location"]
        storage = {
            "BACKEND": f"netstorage.{type(self.direct).__name__}",
            "OPTIONS": self.server.options_through(self.port) | {"location": location},
        }
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=os.environ
                | {
                    "PROJECT_STORAGE": json.dumps(storage),
                    "PROJECT_REPORT": str(self.report),
                }
                | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                family = keeper.descendants(process.pid)
                keeper.send([process.pid, *family], signal.SIGKILL)
                process.wait()

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def report(self) -> Path:
        """What the first process tells at its end."""
        return self.folder / "report.json"

    def task(self) -> tuple[str, bytes]:
        """A name and a content; no other task has the content, and where possible all the name."""
        number = next(self._numbers)
        content = f"{number} ".encode() * (SIZES[number % len(SIZES)] // 2)
        self.asked.add(digest(content))
        return "same.bin" if self.server.name in STRICT else f"{number}.bin", content

    def note(self, content: bytes, answer: Answer) -> None:
        assert answer["digest"] == digest(content)
        pool = answer["pool"]
        assert (pool["closed_broken"], pool["connect_errors"]) == (0, 0), pool
        self.answers.append(answer)

    @property
    def pids(self) -> set[int]:
        return {answer["pid"] for answer in self.answers}

    def check_files(self) -> None:
        """Everything that was answered is there, once, and nothing that nobody sent."""
        given = {answer["name"]: answer["digest"] for answer in self.answers}
        assert len(given) == len(self.answers), "a name was given out twice"
        found = {name: digest(read(self.direct, name)) for name in self.direct.listdir("")[1]}
        assert {name: found.get(name) for name in given} == given
        # What got no answer may be there, but whole and once.
        others = [found[name] for name in found.keys() - given.keys()]
        assert len(others) == len(set(others))
        assert set(others) <= self.asked - set(given.values())
        assert temporaries(self.server, self.direct) == []

    def check_loader(self) -> None:
        """Its session has served on to the end."""
        stats = json.loads(self.report.read_text())
        assert (stats["connects"], stats["closed_broken"]) == (1, 0), stats


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def site(server: Server, tmp_path: Path) -> Iterator[Site]:
    direct = private_storage(server, location=fresh_location(server))
    proxy = Proxy(server.port)
    yield Site(server, direct, proxy, tmp_path, proxy.port)
    proxy.stop()


def gone(pids: set[int]) -> bool:
    """Wait until all have ended."""
    deadline = time.monotonic() + DEADLINE
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


# --- web servers --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """How workers are run.

    Attributes:
        command: What starts them, with a port; SIGTERM lets them finish what they have begun.
        preloads: Whether the project is loaded once, before they are forked.
        tells: Whether what loads it comes to its end as Python's programs do.
        hang_up: Whether workers end by SIGHUP, instead of by themselves. uWSGI's SIGTERM at the
            moment in which it replaces a worker misses that one, and then it waits for it for ever.
    """

    command: Callable[[int], list[str]]
    preloads: bool = True
    tells: bool = True
    hang_up: bool = False


def gunicorn(*arguments: str) -> Callable[[int], list[str]]:
    command = ["-m", "gunicorn", "tests.endurance.project:application", "--no-control-socket"]
    common = ["--workers", str(WORKERS), "--max-requests", str(EACH), *arguments]
    return lambda port: [*command, *common, "--bind", f"127.0.0.1:{port}"]


GRACEFUL = ("--hook-master-start", "unix_signal:15 gracefully_kill_them_all")


def uwsgi(*arguments: str, term: tuple[str, ...] = GRACEFUL) -> Callable[[int], list[str]]:
    program = ["-c", "import pyuwsgi; pyuwsgi.run()", "--module", "tests.endurance.project"]
    common = ["--master", "--processes", str(WORKERS), *arguments]
    return lambda port: [*program, *common, *term, "--http-socket", f"127.0.0.1:{port}"]


GEVENT = ("--worker-class=gevent",)
PATCHED = ("--preload", "--config=python:tests.endurance.gunicorn_gevent")

MODELS = {
    "gunicorn-sync": Model(gunicorn("--preload")),
    "gunicorn-gthread": Model(gunicorn("--preload", "--worker-class=gthread", "--threads=4")),
    "gunicorn-gevent": Model(gunicorn(*GEVENT), preloads=False, tells=False),
    "gunicorn-gevent-preload": Model(gunicorn(*GEVENT, *PATCHED)),
    "uwsgi": Model(uwsgi(), tells=False, hang_up=True),
    "uwsgi-threads": Model(uwsgi("--threads=4"), tells=False, hang_up=True),
    "uwsgi-lazy": Model(uwsgi("--lazy-apps"), preloads=False, tells=False),
}


class Client:
    """Posts a site's tasks, many at once."""

    def __init__(self, site: Site, port: int) -> None:
        self.site = site
        self.port = port
        self.over = threading.Event()

    def ask(self, _: object = None) -> None:
        name, content = self.site.task()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            connection.request("POST", f"/{name}", content)
            response = connection.getresponse()
            said = response.read()
        except (OSError, http.client.HTTPException):
            if self.over.is_set():
                return
            raise
        finally:
            connection.close()
        assert response.status == 200, self.site.log.read_text()
        self.site.note(content, json.loads(said))

    def wait_for(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until somebody listens."""
        deadline = time.monotonic() + DEADLINE
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            started = process.poll() is None and time.monotonic() < deadline
            assert started, self.site.log.read_text()
            time.sleep(0.02)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_web_workers(site: Site, model: Model) -> None:
    port = free_port()
    client = Client(site, port)
    with site.running(*model.command(port)) as process, ThreadPoolExecutor(CLIENTS) as threads:
        client.wait_for(process)
        client.ask()
        inherited = site.proxy.sent[0]
        deadline = time.monotonic() + DEADLINE

        def ask_until(workers: int) -> None:
            while len(site.pids) < workers:
                assert time.monotonic() < deadline, "no worker took another's place"
                list(threads.map(client.ask, range(CLIENTS * 2)))

        ask_until(WORKERS)
        if model.hang_up:
            begun = threads.map(client.ask, range(CLIENTS * 2))
            keeper.send(list(site.pids), signal.SIGHUP)
            list(begun)
        if model.preloads:
            ask_until(2 * WORKERS)
            assert process.pid not in site.pids
            assert site.proxy.sent[0] == inherited
            assert not site.proxy.ended[0]

        client.over.set()
        enough = len(site.answers) + CLIENTS
        late = [threads.submit(client.ask) for _ in range(CLIENTS * 2)]
        while len(site.answers) < enough:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.terminate()
        assert process.wait(DEADLINE) == 0, site.log.read_text()
    for task in late:
        task.result()
    assert gone(site.pids)
    assert "Traceback" not in site.log.read_text()
    site.check_files()
    if model.tells:
        site.check_loader()


# --- Celery -------------------------------------------------------------------------------------


class Broker:
    """A folder through which tasks go to Celery's workers, and their results come back."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._folder = site.folder / "broker"
        for name in ("sent", "queue", "control", "results"):
            (self._folder / name).mkdir(parents=True)
        self._app = make_app(self._folder)

    def running(self, *arguments: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
        command = ["-m", "celery", "-A", "tests.endurance.tasks", "worker", "--without-mingle"]
        command += ["--max-tasks-per-child", str(EACH), *arguments]
        return self._site.running(*command, PROJECT_BROKER=str(self._folder))

    def send(self, **options: Any) -> tuple[bytes, AsyncResult]:
        """Send one of the site's tasks."""
        name, content = self._site.task()
        task = self._app.send_task("tests.endurance.tasks.work", [name, content.hex()], **options)
        # The worker would take a message that is not yet written, too.
        for message in (self._folder / "sent").iterdir():
            message.rename(self._folder / "queue" / message.name)
        return content, task


def test_celery_workers(site: Site) -> None:
    """Its main process loads the project, and forks."""
    broker = Broker(site)
    deadline = time.monotonic() + DEADLINE

    with broker.running("--concurrency", str(WORKERS)) as process:
        content, task = broker.send()
        site.note(content, task.get(DEADLINE, interval=0.05))
        inherited = site.proxy.sent[0]
        while len(site.pids) < 2 * WORKERS:
            assert time.monotonic() < deadline, "no worker took another's place"
            for content, task in [broker.send() for _ in range(CLIENTS * 2)]:
                site.note(content, task.get(DEADLINE, interval=0.01))
        assert process.pid not in site.pids
        assert site.proxy.sent[0] == inherited
        assert not site.proxy.ended[0]

        # A SIGTERM at the moment in which Celery replaces a worker may end the new one in the midst
        # of a task, or wait for ever: it comes when none is about to be replaced.
        while not settled(site, process.pid):
            assert time.monotonic() < deadline, site.log.read_text()
            time.sleep(0.05)
        workers = set(keeper.descendants(process.pid))
        process.terminate()
        assert process.wait(DEADLINE) == 0, site.log.read_text()
    assert gone(site.pids | workers)
    assert "Traceback" not in site.log.read_text()
    site.check_files()
    site.check_loader()


def settled(site: Site, parent: int) -> bool:
    """Whether all workers run, and may go on with other tasks."""
    done = Counter(answer["pid"] for answer in site.answers)
    workers = keeper.descendants(parent)
    return len(workers) == WORKERS and all(done[pid] < EACH for pid in workers)


# --- in the middle of a save ---------------------------------------------------------------------

ONLY_SFTP = pytest.mark.parametrize("server", ["sshd"], indirect=True)
"""What a program does to its workers is the same whatever they speak."""


@dataclass
class Hold:
    """Holds a save where all of it lies on the server, and has no name yet."""

    site: Site
    line: FaultyLine
    reached: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def arm(self) -> None:
        """Hold the next save of a worker that has a session."""
        self.line.arm(Fault(What.NOTHING, 3, Where.ANSWER), self._happen)

    def _happen(self) -> None:
        self.reached.set()
        self.go_on.wait(DEADLINE)

    def wait(self) -> None:
        assert self.reached.wait(DEADLINE), self.site.log.read_text()
        assert len(temporaries(self.site.server, self.site.direct)) == 1

    def wait_for_log(self, text: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while text not in self.site.log.read_text():
            assert time.monotonic() < deadline, self.site.log.read_text()
            time.sleep(0.01)

    def check_leftover(self) -> None:
        """There is one, it is found and removed, and nothing else is amiss."""
        server, direct = self.site.server, self.site.direct
        (left,) = temporaries(server, direct)
        grow_old(server, direct, left)
        assert [leftover.name for leftover in find_leftovers(direct)] == [left]
        remove_leftovers(direct)
        self.site.check_files()
        assert len(self.site.answers) == 1


@pytest.fixture
def hold(site: Site) -> Iterator[Hold]:
    with FaultyLine(site.server) as line:
        site.port = line.port
        hold = Hold(site, line)
        yield hold
        hold.go_on.set()


@dataclass(frozen=True)
class End:
    """How one worker is brought to its end.

    Attributes:
        command: What starts it.
        told: Whether it is told by SIGTERM; else it takes too long.
        says: What the log tells of it.
        finishes: Whether the save is.
    """

    command: Callable[[int], list[str]]
    told: bool
    says: str
    finishes: bool = False


ONE = ("--preload", "--workers", "1")
ALONE = ("--processes", "1")
LIMIT = "3"
"""Seconds that a task may take: a busy machine reaches the hold in less."""
ENDS = {
    "gunicorn": End(gunicorn(*ONE), True, "Handling signal: term", finishes=True),
    "gunicorn-timeout": End(gunicorn(*ONE, "--timeout", LIMIT), False, "WORKER TIMEOUT"),
    "uwsgi": End(uwsgi(*ALONE), True, "Gracefully killing worker", finishes=True),
    "uwsgi-reload": End(uwsgi(*ALONE, term=()), True, "binary reloading uWSGI"),
    "uwsgi-die-on-term": End(uwsgi(*ALONE, term=("--die-on-term",)), True, "goodbye to uWSGI"),
    "uwsgi-harakiri": End(uwsgi(*ALONE, "--harakiri", LIMIT), False, "HARAKIRI ON WORKER"),
}


@ONLY_SFTP
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_worker_that_ends_while_it_saves(site: Site, hold: Hold, end: End) -> None:
    port = free_port()
    client = Client(site, port)
    with site.running(*end.command(port)) as process, ThreadPoolExecutor(1) as threads:
        client.wait_for(process)
        client.ask()
        workers = site.pids
        hold.arm()
        client.over.set()
        begun = threads.submit(client.ask)
        hold.wait()
        if end.told:
            process.terminate()
        hold.wait_for_log(end.says)
        if end.finishes:
            hold.go_on.set()
            assert process.wait(DEADLINE) == 0, site.log.read_text()
        assert gone(workers)
        hold.go_on.set()
        begun.result(DEADLINE)
    if end.finishes:
        assert len(site.answers) == 2
        site.check_files()
    else:
        hold.check_leftover()


@ONLY_SFTP
def test_celery_that_ends_while_a_worker_saves(site: Site, hold: Hold) -> None:
    """By SIGTERM, which lets it finish."""
    broker = Broker(site)
    with broker.running("--concurrency", "1") as process:
        content, task = broker.send()
        site.note(content, task.get(DEADLINE, interval=0.01))
        workers = site.pids
        hold.arm()
        content, task = broker.send()
        hold.wait()
        process.terminate()
        hold.wait_for_log("Warm shutdown")
        hold.go_on.set()
        site.note(content, task.get(DEADLINE, interval=0.01))
        assert process.wait(DEADLINE) == 0, site.log.read_text()
    assert gone(workers)
    site.check_files()


@ONLY_SFTP
def test_a_celery_task_that_takes_too_long(site: Site, hold: Hold) -> None:
    broker = Broker(site)
    with broker.running("--concurrency", "1"):
        content, task = broker.send()
        site.note(content, task.get(DEADLINE, interval=0.01))
        workers = site.pids
        hold.arm()
        _, task = broker.send(time_limit=int(LIMIT))
        hold.wait()
        with pytest.raises(TimeLimitExceeded):
            task.get(DEADLINE, interval=0.01)
        assert gone(workers)
        hold.go_on.set()
    hold.check_leftover()


def test_gevent_workers_that_patch_too_late(site: Site) -> None:
    """With what was preloaded two requests at once wait for each other, until gunicorn ends it."""
    port = free_port()
    client = Client(site, port)
    client.over.set()
    command = gunicorn(*GEVENT, *ONE, "--timeout", "1")(port)
    with site.running(*command) as process, ThreadPoolExecutor(CLIENTS) as threads:
        client.wait_for(process)
        list(threads.map(client.ask, range(CLIENTS)))
    assert "WORKER TIMEOUT" in site.log.read_text()
