"""Client CPU of one small operation, against bare paramiko sending the same requests."""

from __future__ import annotations

import posixpath
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

from .. import child, peers, servers
from ..measure import Case, Stopwatch, interleaved
from ..report import Column, Table
from . import Run

KIB10 = bytes(10 * 1024)
BARE = "paramiko, the same requests"
TEXT = """\
Client CPU of one operation, in microseconds, over {count} of them in one thread on loopback. \
Bare paramiko sends what netstorage sends: LSTAT for *exists*; for *save* LSTAT, exclusive OPEN, \
WRITE, FSETSTAT, FSTAT, CLOSE and RENAME of 10 KiB, without Django, a pool, or a look at \
anything but the size. Both have TCP_NODELAY and AES-GCM."""


def tables(run: Run) -> list[Table]:
    count = run.pick(2000, 50)
    labels = [peers.NetstorageSFTP.label, BARE, peers.DjangoStorages.label]
    with servers.sshd() as target:
        measure = partial(_sample, target, count)
        lines = interleaved([Case(label, partial(measure, label)) for label in labels], run.rounds)
    columns = []
    for verb in ("exists", "save"):
        columns += [
            Column(f"{verb}_cpu", f"{verb}: × bare paramiko", "×", lead_of=BARE),
            Column(f"{verb}_cpu", f"{verb}: CPU µs", "µs"),
            Column(f"{verb}_wall", f"{verb}: µs", "µs"),
        ]
    return [Table("overhead", "Overhead", TEXT.format(count=count), columns, lines)]


def _sample(target: servers.Target, count: int, label: str) -> dict[str, float]:
    try:
        return child.run(repeat, label=label, options=target.options, count=count)
    finally:
        target.clear(*(path.name for path in target.root.iterdir()))


def repeat(label: str, options: dict[str, Any], count: int) -> dict[str, float]:
    """Do the same again and again, in a child process."""
    exists, save = _bare(options) if label == BARE else _peer(label, options)
    exists("no-such-file")
    save("first")
    sample = {}
    works = {"exists": lambda i: exists("no-such-file"), "save": lambda i: save(f"{i}.bin")}
    for verb, work in works.items():
        with Stopwatch() as watch:
            for number in range(count):
                work(number)
        sample |= {f"{verb}_cpu": watch.cpu / count * 1e6, f"{verb}_wall": watch.wall / count * 1e6}
    return sample


Verbs = tuple[Callable[[str], object], Callable[[str], object]]


def _peer(label: str, options: dict[str, Any]) -> Verbs:
    peer = peers.make(label, options)
    peer.connect()
    return peer.exists, lambda name: peer.save(name, KIB10)


def _bare(options: dict[str, Any]) -> Verbs:
    peer = peers.Paramiko(options)
    peer.connect()
    client, location = peer.client, options["location"]

    def exists(name: str) -> bool:
        try:
            client.lstat(posixpath.join(location, name))
        except FileNotFoundError:
            return False
        return True

    def save(name: str) -> None:
        assert not exists(name)
        temporary = posixpath.join(location, f".bare-{secrets.token_hex(16)}")
        with client.open(temporary, "wx") as file:
            file.set_pipelined()
            file.write(KIB10)
            file.chmod(0o644)
            assert file.stat().st_size == len(KIB10)
        client.rename(temporary, posixpath.join(location, name))

    return exists, save
