"""Many threads, a small pool, and a line on which something goes wrong all the time.

``python -m tests.endurance.soak sshd --threads 200 --seconds 3600`` does for long what the suite
does for seconds. Each thread keeps files of its own, and knows what must lie on the server: after
an error an operation may have happened or not, but whole and once; after none it has. In the end
every file is compared, by another way to the server. What the process holds is looked at all the
while. The report is JSON; the exit status is 1 if anything was lost, doubled, wrong or leaked.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import hashlib
import json
import logging
import os
import random
import re
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

POOL = 4
TIMEOUT = 2.0
"""Seconds of silence after which a storage gives up."""
SIZES = (0, 1, 1000, 10_000, 100_000, 600_000)
GONE = b"gone"
MIB = 2**20
LOOKS = 60
"""How often it is looked at what the process holds."""
ADDED = 8
"""Files under names that the storage chose, in a thread's folder at a time."""
MAY_GROW = {"descriptors": 16, "threads": 16, "thousand blocks": 50, "allocated MiB": 16}
"""What the last quarter may hold more than the second.

Connections come and go. Blocks count Python's objects, each of them. What is resident is told, and
not judged: glibc keeps for each of many threads what was freed, in pieces between others.
"""


class Worker:
    """One thread's files: what each may hold, as digests; ``GONE`` stands for none.

    Args:
        storage: What is tried, with ``allow_overwrite``.
        keeping: The same without it.
        number: Its folder.
        seed: Where its dice begin.

    Attributes:
        untold: What was saved without an answer: it may be there, once, under any name.
    """

    def __init__(self, storage: Any, keeping: Any, number: int, seed: int) -> None:
        self.storage = storage
        self.keeping = keeping
        self.folder = f"w{number}"
        self.dice = random.Random(seed * 1000 + number)
        self.own = [f"{self.folder}/{number}.bin" for number in range(8)]
        self.may_hold: dict[str, set[bytes]] = {name: {GONE} for name in self.own}
        self.untold: set[bytes] = set()
        self.done: collections.Counter[str] = collections.Counter()
        self.errors: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []

    def run(self, until: float) -> None:
        from netstorage.exceptions import NetStorageError

        verbs = self.write, self.write, self.add, self.read, self.read, self.delete
        while time.monotonic() < until:
            name = self.dice.choice(list(self.may_hold))
            crowded = len(self.may_hold) >= len(self.own) + ADDED
            verb = self.delete if crowded else self.dice.choice(verbs)
            try:
                verb(name)
                self.done[verb.__name__] += 1
            except (OSError, NetStorageError) as error:
                self.errors[type(error).__name__] += 1
            except Exception as error:
                self.wrong.append(f"{verb.__name__} {name}: {error!r}")

    def write(self, name: str) -> None:
        """Replace what is there."""
        from django.core.files.base import ContentFile

        data = self.dice.randbytes(self.dice.choice(SIZES))
        self.may_hold[name].add(digest(data))
        got = self.storage.save(name, ContentFile(data))
        self.may_hold[name] = {digest(data)}
        if got != name:
            self.wrong.append(f"{name} was saved as {got}")

    def add(self, _: str) -> None:
        """Save under a name that is mostly taken: the storage finds another, and none twice."""
        from django.core.files.base import ContentFile

        # No two contents are alike: else a doubled file could be any.
        data = self.dice.randbytes(16 + self.dice.choice(SIZES))
        self.untold.add(digest(data))
        got = self.keeping.save(f"{self.folder}/new.bin", ContentFile(data))
        self.untold.discard(digest(data))
        if GONE not in self.may_hold.get(got, {GONE}):
            self.wrong.append(f"{got} was given out twice")
        self.may_hold[got] = {digest(data)}

    def read(self, name: str) -> None:
        try:
            with self.storage.open(name) as file:
                found = digest(file.read())
        except FileNotFoundError:
            found = GONE
        self._see(name, found)

    def delete(self, name: str) -> None:
        self.may_hold[name].add(GONE)
        self.storage.delete(name)
        self.may_hold[name] = {GONE}
        if name not in self.own:
            del self.may_hold[name]

    def compare(self, direct: Any) -> None:
        """Look at every file by another way: those that were told, and what else is there."""
        directories, files = direct.listdir(self.folder)
        there = {f"{self.folder}/{name}" for name in files} - {f"{self.folder}/.keep"}
        for name in there | self.may_hold.keys():
            found = GONE
            if name in there:
                with direct.open(name) as file:
                    found = digest(file.read())
            if name in self.may_hold:
                self._see(name, found)
            elif found in self.untold:
                self.untold.discard(found)
            else:
                self.wrong.append(f"{name} is there, and is nobody's, or another's double")
        self.wrong += [f"{self.folder}/{name} is a folder" for name in directories]

    def _see(self, name: str, found: bytes) -> None:
        if found not in self.may_hold[name]:
            state = "is gone" if found == GONE else "holds what nobody wrote"
            self.wrong.append(f"{name} {state}")


def digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def trouble(line: Any, dice: random.Random, until: float, sftp: bool) -> dict[str, int]:
    """Let faults happen one after the other; return how often each struck."""
    from tests.endurance.faulty import Fault, What, Where

    kinds = [What.CUT, What.RESET, What.STALL, What.TRICKLE] + [What.CORRUPT] * sftp
    struck: collections.Counter[str] = collections.Counter()
    while time.monotonic() < until:
        fault = Fault(dice.choice(kinds), dice.randrange(1, 10), dice.choice(list(Where)))
        line.arm(fault)
        time.sleep(dice.uniform(0.05, 0.5))
        if line.struck:
            struck[fault.what.name.lower()] += 1
    line.clear()
    return dict(struck)


class Mallinfo(ctypes.Structure):
    """What glibc's mallinfo2(3) tells of all arenas."""

    _fields_ = tuple(
        (field, ctypes.c_size_t)
        for field in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def state() -> dict[str, int]:
    """What this process holds."""
    status = Path("/proc/self/status").read_text()
    resident = re.search(r"VmRSS:\s+(\d+)", status)
    assert resident is not None
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo
    memory = mallinfo2()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "thousand blocks": sys.getallocatedblocks() // 1000,
        "allocated MiB": (memory.uordblks + memory.hblkhd) // MIB,
        "resident MiB": int(resident[1]) * 1024 // MIB,
    }


class Unremoved(logging.Handler):
    """Knows the temporary files that a storage says it could not remove."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if "could not remove" in record.msg and isinstance(record.args, tuple):
            self.names.add(PurePosixPath(str(record.args[0])).name)

    def knows(self, path: str) -> bool:
        """Whether a file, or a folder that it lies in, was told of."""
        return not self.names.isdisjoint(PurePosixPath(path).parts)


def soak(name: str, threads: int, seconds: float, seed: int) -> dict[str, Any]:
    """Do it; return the report."""
    from netstorage.pool import all_pools
    from tests.contract.helpers import private_storage, temporaries
    from tests.endurance.faulty import FaultyLine
    from tests.servers import SERVERS, fresh_location

    unremoved = Unremoved()
    logging.getLogger("netstorage").addHandler(unremoved)
    logging.getLogger("netstorage").propagate = False
    with SERVERS[name]() as server:
        location = fresh_location(server)
        direct = private_storage(server, location=location)
        for number in range(threads):
            # Not under fire: on some servers many at once make each other's folders fail.
            direct.save(f"w{number}/.keep", empty())
        before = state()
        with FaultyLine(server) as line, ThreadPoolExecutor(threads + 1) as executor:
            options = line.options | {
                "location": location,
                "timeout": TIMEOUT,
                "connect_timeout": 5,
                "pool": {"max_size": POOL, "timeout": 60},
            }
            storage = private_storage(server, **options, allow_overwrite=True)
            keeping = private_storage(server, **options)
            pool = storage.pool
            assert keeping.pool is pool
            workers = [Worker(storage, keeping, number, seed) for number in range(threads)]
            until = time.monotonic() + seconds
            fire = executor.submit(
                trouble, line, random.Random(seed), until, server.protocol == "sftp"
            )
            runs = [executor.submit(worker.run, until) for worker in workers]
            looks, most = [], 0
            while time.monotonic() < until:
                time.sleep(seconds / LOOKS)
                looks.append(state())
                now = pool.stats()
                most = max(most, now.size + now.connecting)
            for run in runs:
                run.result()
            struck = fire.result()
            stats = pool.stats()
            pool.close()
        for worker in workers:
            worker.compare(direct)
        left = temporaries(server, direct)
        direct.pool.close()
        settle(before)
        after = state()
    done: collections.Counter[str] = sum((w.done for w in workers), collections.Counter())
    errors: collections.Counter[str] = sum((w.errors for w in workers), collections.Counter())
    return {
        "server": name,
        "seconds": seconds,
        "threads": threads,
        "seed": seed,
        "done": dict(done),
        "errors": dict(errors),
        "struck": struck,
        "connects": stats.connects,
        "wrong": [what for worker in workers for what in worker.wrong],
        "leftovers that were told": sum(map(unremoved.knows, left)),
        "other leftovers": [path for path in left if not unremoved.knows(path)],
        "most sessions": most,
        "lent at the end": stats.in_use + stats.waiting + stats.connecting,
        "pools left": len([p for p in all_pools() if p.stats().size]),
        "before": before,
        "meanwhile": {what: [look[what] for look in looks] for what in before},
        "after": after,
    }


def empty() -> Any:
    from django.core.files.base import ContentFile

    return ContentFile(b"")


def settle(before: dict[str, int]) -> None:
    """Wait until paramiko's threads have seen that their connections are closed."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        now = state()
        if all(now[what] <= before[what] for what in ("threads", "descriptors")):
            return
        time.sleep(0.1)


def growth(seen: list[int]) -> float:
    """By how much the last quarter is above the second; in the first the threads begin."""
    quarter = len(seen) // 4
    return statistics.median(seen[-quarter:]) - statistics.median(seen[quarter : 2 * quarter])


def faults(report: dict[str, Any]) -> list[str]:
    """What a report tells that must not be."""
    found = [*report["wrong"]]
    if report["other leftovers"]:
        found.append("temporary files were left without a word")
    if report["lent at the end"] or report["pools left"]:
        found.append("sessions were not given back")
    if report["most sessions"] > POOL:
        found.append("there were more sessions than the pool may have")
    found += [
        f"{what} leaked: {report['before'][what]} before, {report['after'][what]} after"
        for what in ("threads", "descriptors")
        if report["after"][what] > report["before"][what]
    ]
    found += [
        f"{what} grew"
        for what, bound in MAY_GROW.items()
        if growth(report["meanwhile"][what]) > bound
    ]
    if not report["done"] or not report["struck"]:
        found.append("nothing was tried")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server")
    parser.add_argument("--threads", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    asked = parser.parse_args()
    report = soak(asked.server, asked.threads, asked.seconds, asked.seed)
    report["faults"] = faults(report)
    print(json.dumps(report, indent=1))
    sys.exit(bool(report["faults"]))


if __name__ == "__main__":
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    main()
