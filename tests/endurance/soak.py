"""Many threads, a small pool, and a line on which something goes wrong all the time.

``python -m tests.endurance.soak sshd --threads 200 --seconds 3600`` does for long what the suite
does for seconds. Each thread keeps files of its own, and knows what must lie on the server: after
an error an operation may have happened or not, but whole; after none it has. In the end every file
is compared, by another way to the server. The report is JSON; the exit status is 1 if anything was
lost, wrong or leaked.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import logging
import os
import random
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

POOL = 4
TIMEOUT = 2.0
"""Seconds of silence after which a storage gives up."""
SIZES = (0, 1, 1000, 10_000, 100_000, 600_000)
GONE = b"gone"
MIB = 2**20


class Worker:
    """One thread's files: what each may hold, as digests; ``GONE`` stands for none.

    Args:
        storage: What is tried.
        number: Its folder.
        seed: Where its dice begin.
    """

    def __init__(self, storage: Any, number: int, seed: int) -> None:
        self.storage = storage
        self.folder = f"w{number}"
        self.dice = random.Random(seed * 1000 + number)
        self.may_hold: dict[str, set[bytes]] = {}
        self.done: collections.Counter[str] = collections.Counter()
        self.errors: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []

    def run(self, until: float) -> None:
        from netstorage.exceptions import NetStorageError

        while time.monotonic() < until:
            name = f"{self.folder}/{self.dice.randrange(8)}.bin"
            verb = self.dice.choice((self.write, self.write, self.read, self.read, self.delete))
            try:
                verb(name, self.may_hold.setdefault(name, {GONE}))
                self.done[verb.__name__] += 1
            except (OSError, NetStorageError) as error:
                self.errors[type(error).__name__] += 1
            except Exception as error:
                self.wrong.append(f"{verb.__name__} {name}: {error!r}")

    def write(self, name: str, holds: set[bytes]) -> None:
        from django.core.files.base import ContentFile

        data = self.dice.randbytes(self.dice.choice(SIZES))
        holds.add(digest(data))
        # With allow_overwrite, so that each thread's names stay its own.
        got = self.storage.save(name, ContentFile(data))
        holds.clear()
        holds.add(digest(data))
        if got != name:
            self.wrong.append(f"{name} was saved as {got}")

    def read(self, name: str, holds: set[bytes]) -> None:
        try:
            with self.storage.open(name) as file:
                found = digest(file.read())
        except FileNotFoundError:
            found = GONE
        self._see(name, holds, found)

    def delete(self, name: str, holds: set[bytes]) -> None:
        holds.add(GONE)
        self.storage.delete(name)
        holds.clear()
        holds.add(GONE)

    def compare(self, direct: Any) -> None:
        """Look at every file by another way."""
        for name, holds in self.may_hold.items():
            found = GONE
            if direct.exists(name):
                with direct.open(name) as file:
                    found = digest(file.read())
            self._see(name, holds, found)

    def _see(self, name: str, holds: set[bytes], found: bytes) -> None:
        if found not in holds:
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


def state() -> dict[str, int]:
    """What this process holds."""
    status = Path("/proc/self/status").read_text()
    resident = re.search(r"VmRSS:\s+(\d+)", status)
    assert resident is not None
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "resident MiB": int(resident[1]) * 1024 // MIB,
    }


class Unremoved(logging.Handler):
    """Counts the temporary files that a storage says it could not remove."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "could not remove" in record.msg


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
            storage = private_storage(
                server,
                **line.options | {"location": location},
                timeout=TIMEOUT,
                connect_timeout=5,
                allow_overwrite=True,
                pool={"max_size": POOL, "timeout": 60},
            )
            workers = [Worker(storage, number, seed) for number in range(threads)]
            until = time.monotonic() + seconds
            fire = executor.submit(
                trouble, line, random.Random(seed), until, server.protocol == "sftp"
            )
            runs = [executor.submit(worker.run, until) for worker in workers]
            time.sleep(seconds / 4)
            early = state()
            time.sleep(max(0.0, until - time.monotonic()))
            late = state()
            for run in runs:
                run.result()
            struck = fire.result()
            stats = storage.pool.stats()
            storage.pool.close()
        for worker in workers:
            worker.compare(direct)
        left = temporaries(server, direct)
        strange = strangers(direct, threads)
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
        "strangers": strange,
        "leftovers": len(left),
        "leftovers that were told": unremoved.count,
        "lent at the end": stats.in_use + stats.waiting + stats.connecting,
        "pools left": len([p for p in all_pools() if p.stats().size]),
        "before": before,
        "early": early,
        "late": late,
        "after": after,
    }


def empty() -> Any:
    from django.core.files.base import ContentFile

    return ContentFile(b"")


def strangers(direct: Any, threads: int) -> list[str]:
    """Names that nobody gave."""
    known = {".keep", *(f"{number}.bin" for number in range(8))}
    found = []
    for number in range(threads):
        directories, files = direct.listdir(f"w{number}")
        found += [f"w{number}/{name}" for name in {*directories, *files} - known]
    return found


def settle(before: dict[str, int]) -> None:
    """Wait until paramiko's threads have seen that their connections are closed."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        now = state()
        if all(now[what] <= before[what] for what in ("threads", "descriptors")):
            return
        time.sleep(0.1)


def faults(report: dict[str, Any]) -> list[str]:
    """What a report tells that must not be."""
    found = [*report["wrong"], *report["strangers"]]
    if report["leftovers"] > report["leftovers that were told"]:
        found.append("temporary files were left without a word")
    if report["lent at the end"] or report["pools left"]:
        found.append("sessions were not given back")
    found += [
        f"{what} leaked: {report['before'][what]} before, {report['after'][what]} after"
        for what in ("threads", "descriptors")
        if report["after"][what] > report["before"][what]
    ]
    if report["late"]["resident MiB"] > report["early"]["resident MiB"] + 64:
        found.append("memory grew")
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
