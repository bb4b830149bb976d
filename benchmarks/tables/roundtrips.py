"""Round trips of each verb: with 50 ms each way, seconds turn into counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from .. import child, peers, servers
from ..measure import Case, interleaved
from ..report import Column, Table
from . import Run

KIB10 = bytes(10 * 1024)
TIMES = 2
HEADINGS = {
    "exists": "exists",
    "size": "size",
    "modified": "mtime",
    "save": "save 10 KiB",
    "save_deep": "… 3 folders missing",
    "overwrite": "… overwriting",
    "read": "read 10 KiB",
    "delete": "delete",
    "listdir": "listdir",
    "connect": "connect",
}
TEXT = """\
Round trips: seconds over a line with {rtt} ms of delay, divided by the delay. Connections \
stand before, but for *connect*: from nothing to the first answer, without TCP's own handshake. \
*listdir* lists {entries} names. netstorage's and django-storages' saves begin with Django's look \
for a free name; netstorage's write under a temporary name, compare the size and rename, the \
others write in place."""


def tables(run: Run) -> list[Table]:
    rtt = run.pick(100, 20) / 1000
    entries = run.pick(1000, 50)
    found = []
    for name, title, classes, server in (
        ("roundtrips-sftp", "SFTP on OpenSSH", peers.SFTP, servers.sshd),
        ("roundtrips-webdav", "WebDAV on Apache", peers.WEBDAV, servers.apache),
    ):
        with server(rtt=rtt) as target:
            for number in range(entries):
                target.put(f"many/{number}.txt", b"")
            target.put("there.txt", KIB10)
            lines = interleaved(
                [
                    Case(label, partial(_sample, label, target, rtt))
                    for label in classes
                    if label != peers.SshfsTuned.label
                ],
                run.rounds,
            )
        columns = [Column(key, heading, "round trips") for key, heading in HEADINGS.items()]
        text = "" if found else TEXT.format(rtt=round(rtt * 1000), entries=entries)
        plots = [HEADINGS["save"], HEADINGS["read"]]
        found.append(Table(name, title, text, columns, lines, plots))
    return found


def _sample(label: str, target: servers.Target, rtt: float) -> dict[str, float]:
    for number in range(TIMES):
        target.put(f"gone-{number}.txt", KIB10)
        target.clear(f"new-{number}.txt", f"a{number}")
    return child.run(verbs, label=label, options=target.options, direct=target.direct, rtt=rtt)


def verbs(label: str, options: dict[str, Any], direct: dict[str, Any], rtt: float) -> Any:
    """Time each verb, in a child process; imports are done on a short line before.

    The least of a few times counts: a busy machine adds time, and nothing takes any away.
    """
    peers.make(label, direct).connect()
    peer = peers.make(label, options)
    counts = {}

    def count(verb: str, call: Callable[[int], object], times: int = TIMES) -> None:
        took = []
        for number in range(times):
            started = time.perf_counter()
            try:
                call(number)
            except NotImplementedError:
                return
            took.append(time.perf_counter() - started)
        counts[verb] = min(took) / rtt

    count("connect", lambda number: peer.connect(), times=1)
    count("exists", lambda number: peer.exists("there.txt"))
    count("size", lambda number: peer.size("there.txt"))
    count("modified", lambda number: peer.modified("there.txt"))
    count("save", lambda number: peer.save(f"new-{number}.txt", KIB10))
    count("save_deep", lambda number: peer.save_deep(f"a{number}/b/c/new.txt", KIB10))
    count("overwrite", lambda number: peer.overwrite("there.txt", KIB10))
    count("read", lambda number: peer.read("there.txt"))
    count("delete", lambda number: peer.delete(f"gone-{number}.txt"))
    count("listdir", lambda number: peer.listdir("many"))
    return counts
