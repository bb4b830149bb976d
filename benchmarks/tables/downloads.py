"""Files that visitors download through a site: its pace, its memory, and who waits meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import quantiles

from .. import browsers, child, servers
from ..appservers import AppServer, serving
from ..measure import Case, Measured, interleaved
from ..report import Column, Table
from . import Run, transfers

PROTOCOLS = ("SFTP", "WebDAV")
OURS = "netstorage's view, {}"
OPENED = "netstorage's open() in a FileResponse, {}"
LOCAL = "a local file in a FileResponse"
READ = f"{LOCAL}, --no-sendfile"
THEIRS = "django-storages in a FileResponse"
LINES = {
    "gunicorn": [
        (LOCAL, "gunicorn", "SFTP", "local"),
        (READ, "gunicorn --no-sendfile", "SFTP", "local"),
        *[(OURS.format(protocol), "gunicorn", protocol, "view") for protocol in PROTOCOLS],
        *[(OPENED.format(protocol), "gunicorn", protocol, "open") for protocol in PROTOCOLS],
        (THEIRS, "gunicorn", "SFTP", "django-storages"),
    ],
    "uvicorn": [
        (LOCAL, "uvicorn", "SFTP", "local"),
        *[(OURS.format(protocol), "uvicorn", protocol, "view") for protocol in PROTOCOLS],
    ],
}
TEXT = """\
A client gets {size} MiB from a site, which gets them from OpenSSH's server or Apache; \
django-storages gets {small} MiB. gunicorn hands a local file to the kernel, by `sendfile`, unless \
told not to. CPU is the application server's for each GiB, *memory* what its peak grows by. Under \
ASGI Django reads the whole of a FileResponse before it sends any."""
FAR = """\
{size} MiB, with {rtt} ms of round trip between site and file server, and none between site and \
client."""
CROWD = """\
Clients at once, each of 1 GiB, who go away after {full} s; *slow* ones take 2 MB a second and go \
away after {slow} s. gunicorn has 50 threads, the pool 4 sessions. *exists()* is what a look at \
the file server takes meanwhile in the same process, as a page has to: median and 99th \
percentile."""
HUGE = "huge"
SMALL = 1
SLOW = 2e6


def tables(run: Run) -> list[Table]:
    return [*_near(run), *_far(run), _crowds(run)]


def _near(run: Run) -> list[Table]:
    small = run.pick(16, 1)
    with _place([run.size, small]) as place:
        cases = [
            Case(
                f"{server}: {label}",
                partial(
                    place.download, command, protocol, way, small if label == THEIRS else run.size
                ),
            )
            for server, lines in LINES.items()
            for label, command, protocol, way in lines
        ]
        measured = interleaved(cases, run.rounds)
    found = []
    for server in LINES:
        bases = {"× local file": LOCAL}
        if server == "gunicorn":
            bases |= {"× --no-sendfile": READ, "× django-storages": THEIRS}
        lines = [
            Measured(line.label.removeprefix(f"{server}: "), line.values, line.missing)
            for line in measured
            if line.label.startswith(server)
        ]
        columns = [
            *[
                Column("rate", heading, "×", ratio_to=base, more_is_better=True)
                for heading, base in bases.items()
            ],
            Column("rate", "MiB/s", "MiB/s"),
            Column("cpu", "CPU s"),
            Column("memory", "memory MiB", "MiB"),
            Column("first", "first byte ms", "ms"),
        ]
        title = f"Download of {run.size} MiB through {server}"
        text = "" if found else TEXT.format(size=run.size, small=small)
        found.append(Table(f"downloads-{server}", title, text, columns, lines, ["MiB/s"]))
    return found


def _far(run: Run) -> list[Table]:
    rtt, size = 20, max(run.size // 2, 1)
    found = []
    with _place([size], rtt) as place:
        for protocol in PROTOCOLS:
            base = OPENED.format(protocol)
            lines = [
                (base, "gunicorn", "open"),
                (OURS.format(protocol), "gunicorn", "view"),
                (f"{OURS.format(protocol)}, uvicorn", "uvicorn", "view"),
            ]
            cases = [
                Case(label, partial(place.download, server, protocol, way, size))
                for label, server, way in lines
            ]
            columns = [
                Column("rate", "× open()", "×", ratio_to=base, more_is_better=True),
                Column("rate", "MiB/s", "MiB/s"),
                Column("cpu", "CPU s"),
                Column("memory", "memory MiB", "MiB"),
                Column("first", "first byte ms", "ms"),
            ]
            name, title = f"downloads-far-{protocol.lower()}", f"Download at {rtt} ms, {protocol}"
            text = "" if found else FAR.format(size=size, rtt=rtt)
            found.append(Table(name, title, text, columns, interleaved(cases, run.rounds)))
    return found


def _crowds(run: Run) -> Table:
    full, slow = run.pick((5.0, 10.0), (1.0, 1.0))
    with _place([]) as place:
        cases = [
            Case(
                f"{server}, {protocol}: {count or 'none'}{pace}",
                partial(place.crowd, server, protocol, count, rate, seconds),
            )
            for server in LINES
            for protocol in PROTOCOLS
            for pace, rate, seconds, counts in (
                ("", 0, full, run.pick((0, 1, 10, 50), (0, 3))),
                (" slow", SLOW, slow, run.pick((1, 10, 50), (3,))),
            )
            for count in counts
        ]
        # Once: each takes its time.
        lines = interleaved(cases, 1)
    return Table(
        "downloads-crowds",
        "Many downloads at once",
        CROWD.format(full=round(full), slow=round(slow)),
        [
            Column("memory", "memory MiB", "MiB"),
            Column("rate", "MiB/s", "MiB/s"),
            Column("p50", "exists() p50 ms", "ms"),
            Column("p99", "exists() p99 ms", "ms"),
        ],
        lines,
    )


@dataclass
class _Place:
    """File servers that hold the files, and a folder that holds them, too."""

    targets: dict[str, servers.Target]
    folder: Path

    @contextmanager
    def site(self, server: str, protocol: str, way: str) -> Iterator[AppServer]:
        """Run an application server, its connection made and its modules loaded."""
        with serving(
            server,
            storage=f"{protocol}Storage",
            options=self.targets[protocol].options,
            folder=str(self.folder),
        ) as app:
            child.run(browsers.fetch, port=app.port, path=_path(way, SMALL))
            yield app

    def download(self, server: str, protocol: str, way: str, size: int) -> dict[str, float]:
        """Get one file, in one way."""
        with self.site(server, protocol, way) as app:
            idle, cpu = app.begin()
            sample = child.run(browsers.fetch, port=app.port, path=_path(way, size))
            return {
                **sample,
                "cpu": (app.cpu() - cpu) / size * 1024,
                "memory": max(0, app.memory("VmHWM") - idle),
            }

    def crowd(
        self, server: str, protocol: str, count: int, rate: float, seconds: float
    ) -> dict[str, float]:
        """Let clients get the huge file, and look at the file server meanwhile."""
        with self.site(server, protocol, "view") as app:
            idle, _ = app.begin()
            app.ask("look")
            sample: dict[str, float] = {}
            if count:
                fetch = partial(child.run, browsers.fetch, port=app.port, path=f"view/{HUGE}")
                sample |= fetch(count=count, rate=rate, seconds=seconds)
                sample["memory"] = app.memory("VmHWM") - idle
            else:
                time.sleep(seconds)
            parts = quantiles(app.ask("looked")["took"], n=100)
            return {**sample, "p50": parts[49] * 1000, "p99": parts[98] * 1000}


def _path(way: str, size: int) -> str:
    return f"local/up-{size}" if way == "local" else f"{way}/down-{size}"


@contextmanager
def _place(sizes: list[int], rtt: float = 0) -> Iterator[_Place]:
    far = rtt / 1000
    with servers.sshd(rtt=far) as sftp, servers.apache(rtt=far) as dav, servers.scratch() as folder:
        for target in (sftp, dav):
            transfers.prepare(target, folder, [*sizes, SMALL])
            target.put(HUGE, b"")
            # Nothing but a hole: it takes no memory.
            os.truncate(target.root / HUGE, 2**30)
        yield _Place({"SFTP": sftp, "WebDAV": dav}, folder)
