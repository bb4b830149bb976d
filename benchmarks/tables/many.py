"""Many threads at once, each doing small operations."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from .. import child, peers, servers
from ..measure import Case, Stopwatch, interleaved
from ..report import Column, Table
from . import Run

KIB10 = bytes(10 * 1024)
OURS = "netstorage, max_size={}"
EXCLUSIVE = "netstorage, max_size={}, exclusive"
BASE = EXCLUSIVE.format(4)
THEIRS = peers.DjangoStorages.label
TEXT = """\
Threads share one storage for {seconds} s; each goes through exists, save (10 KiB), read and \
delete of its own files. *p50* and *p99* are what one operation took, waiting for a session \
included; CPU is the client's for one operation. A client that is not made for threads stands \
behind a lock. *exclusive* is netstorage with the sharing of SFTP sessions switched off: each \
operation has a session to itself."""


def tables(run: Run) -> list[Table]:
    seconds = run.pick(10, 1)
    found = []
    for rtt, threads in itertools.product((0, 20), (16, 64)):
        with servers.sshd(rtt=rtt / 1000) as target:
            measure = partial(
                child.run, crowd, options=target.options, threads=threads, seconds=seconds
            )
            ours = peers.NetstorageSFTP.label
            cases = [
                Case(OURS.format(n), partial(measure, label=ours, max_size=n))
                for n in run.pick((1, 2, 4, 8, 16), (1, 4))
            ]
            cases += [
                Case(EXCLUSIVE.format(n), partial(measure, label=ours, max_size=n, shared=False))
                for n in run.pick((4, 16), (4,))
            ]
            cases += [
                Case(label, partial(measure, label=label))
                for label in (peers.DjangoStorages.label, peers.Fsspec.label, peers.Sshfs.label)
            ]
            lines = interleaved(cases, run.rounds)
        found.append(
            Table(
                f"many-{rtt}-{threads}",
                f"{threads} threads at {rtt} ms of round trip",
                "" if found else TEXT.format(seconds=seconds),
                [
                    Column("rate", f"× {THEIRS}", "×", ratio_to=THEIRS, more_is_better=True),
                    Column("rate", "× 4 exclusive", "×", ratio_to=BASE, more_is_better=True),
                    Column("rate", "operations/s", "1/s"),
                    Column("p50", "p50 ms", "ms"),
                    Column("p99", "p99 ms", "ms"),
                    Column("cpu", "CPU µs", "µs"),
                    Column("connections", "connections", "count"),
                    Column("errors", "errors", "count"),
                ],
                lines,
                ["operations/s"],
            )
        )
    return found


def crowd(
    label: str,
    options: dict[str, Any],
    threads: int,
    seconds: float,
    max_size: int | None = None,
    shared: bool = True,
) -> dict[str, float]:
    """Let threads loose on one client, in a child process."""
    if not shared:
        from netstorage.sftp.session import SFTPSession

        SFTPSession.concurrency = 1
    if max_size is not None:
        options = {**options, "pool": {"max_size": max_size}}
    peer = peers.make(label, options)
    peer.connect()
    lock = contextlib.nullcontext() if peer.thread_safe else threading.Lock()
    took: list[list[float]] = [[] for _ in range(threads)]
    errors = [0] * threads
    ready, done = threading.Barrier(threads + 1), threading.Event()

    def work(number: int) -> None:
        name = f"{number}.bin"
        verbs: list[Callable[[], object]] = [
            lambda: peer.exists(name),
            lambda: peer.save(name, KIB10),
            lambda: peer.read(name),
            lambda: peer.delete(name),
        ]
        ready.wait()
        for verb in itertools.cycle(verbs):
            if done.is_set():
                return
            started = time.perf_counter()
            try:
                with lock:
                    verb()
            except OSError:
                errors[number] += 1
            took[number].append(time.perf_counter() - started)

    crew = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(threads)]
    for thread in crew:
        thread.start()
    ready.wait()
    with Stopwatch() as watch:
        time.sleep(seconds)
        done.set()
        for thread in crew:
            thread.join()
    every = sorted(itertools.chain(*took))
    connections = 1
    if isinstance(peer, peers.NetstorageSFTP):
        connections = peer.storage.pool.stats().size
    return {
        "rate": len(every) / watch.wall,
        "p50": every[len(every) // 2] * 1000,
        "p99": every[len(every) * 99 // 100] * 1000,
        "cpu": watch.cpu / len(every) * 1e6,
        "errors": sum(errors),
        "connections": connections,
    }
