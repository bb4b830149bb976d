"""Where the time of a large file goes, step by step: what a client can save, and what it cannot."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from .. import child, peers, servers
from ..measure import Case, Stopwatch, interleaved
from ..report import Column, Table
from . import Run, transfers

PACKET = 32 * 2**10
"""Bytes in a packet of OpenSSH's."""
CIPHER, FILE = "AES-GCM alone", "writing a local file alone"
DROPPED, HANDED, PIECES, DOWNLOAD = (
    "session, data dropped",
    "session, data handed to a file",
    "Storage.open(), pieces dropped",
    "Storage.open(), written to a file",
)
SENT, UPLOAD = "session, a file sent", "Storage.save() of a file"
TEXT = """\
The steps of moving {size} MiB, each with all that it needs of those above it. CPU is the \
client's; *calling thread* is the part of it that netstorage's own code runs in, the rest is \
paramiko's thread, which receives and deciphers. *Server* is the CPU of the server's processes, \
which run beside. *AES-GCM alone* deciphers as many packets of 32 KiB in memory; *writing a local \
file alone* fills one on tmpfs from memory. *Handed to a file* is what a program without a File \
that can be read anyhow would do. WebDAV, on Apache here, has neither cipher nor second thread."""


def tables(run: Run) -> list[Table]:
    found = []
    for protocol, server, labels in (
        ("SFTP", servers.sshd, [CIPHER, FILE, DROPPED, HANDED, PIECES, DOWNLOAD, SENT, UPLOAD]),
        ("WebDAV", servers.apache, [FILE, DROPPED, HANDED, PIECES, DOWNLOAD, SENT, UPLOAD]),
    ):
        with server() as target, servers.scratch() as scratch:
            transfers.prepare(target, scratch, [run.size])
            cases = [
                Case(label, partial(_sample, label, target, scratch, run.size)) for label in labels
            ]
            lines = interleaved(cases, run.rounds)
        found.append(
            Table(
                f"bounds-{protocol.lower()}",
                f"Steps of a transfer, {protocol}",
                "" if found else TEXT.format(size=run.size),
                [
                    Column("wall", "s"),
                    Column("cpu", "CPU s"),
                    Column("thread", "calling thread CPU s"),
                    Column("server", "server CPU s"),
                ],
                lines,
            )
        )
    return found


def _sample(label: str, target: servers.Target, scratch: Path, size: int) -> dict[str, float]:
    try:
        return child.run(step, label=label, options=target.options, folder=str(scratch), size=size)
    finally:
        target.clear("up")
        (scratch / "down").unlink(missing_ok=True)


def step(label: str, options: dict[str, Any], folder: str, size: int) -> Any:
    """Measure one step, in a child process."""
    alone = {CIPHER: _decipher, FILE: partial(_write, Path(folder) / "down")}
    if label in alone:
        with Stopwatch() as watch:
            alone[label](size)
        return {"wall": watch.wall, "cpu": watch.cpu}
    client = peers.make(transfers.OURS, options)
    assert isinstance(client, peers.DjangoPeer)
    client.connect()
    with _prepared(label, client, Path(folder), size) as work:
        server, thread = _server_seconds(), time.thread_time()
        with Stopwatch() as watch:
            work()
        return {
            "wall": watch.wall,
            "cpu": watch.cpu,
            "thread": time.thread_time() - thread,
            "server": _server_seconds() - server,
        }


@contextmanager
def _prepared(
    label: str, client: peers.DjangoPeer, folder: Path, size: int
) -> Iterator[Callable[[], object]]:
    storage, name, up = client.storage, f"down-{size}", folder / f"up-{size}"
    if label == PIECES:
        with storage.open(name) as file:
            yield lambda: [None for _ in file.chunks(peers.PIECE)]
    elif label == DOWNLOAD:
        yield partial(client.download_file, name, str(folder / "down"))
    elif label == UPLOAD:
        yield partial(client.upload_file, str(up), "up")
    else:
        # Below the Storage API: to see what that adds.
        with storage.pool.connection(exclusive=True) as session, up.open("rb") as source:
            path = storage._path(name)
            if label == DROPPED:
                yield partial(session.read, path, 0, None, lambda offset, data: None)
            elif label == HANDED:
                with (folder / "down").open("wb") as file:
                    yield partial(session.read, path, 0, None, lambda _, data: file.write(data))
            else:
                path = storage._path("up")
                yield partial(session.write, path, source, size * 2**20, None, None)


def _decipher(size: int) -> None:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher, nonce = AESGCM(secrets.token_bytes(16)), bytes(12)
    packet = cipher.encrypt(nonce, bytes(PACKET), None)
    for _ in range(size * 2**20 // PACKET):
        cipher.decrypt(nonce, packet, None)


def _write(path: Path, size: int) -> None:
    piece = bytes(peers.PIECE)
    with path.open("wb") as file:
        for _ in range(size * 2**20 // peers.PIECE):
            file.write(piece)


def _server_seconds() -> float:
    """CPU seconds of the servers that run; but for the one in use they are idle (proc(5))."""
    ticks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "comm").read_text().startswith(("sshd", "sftp-server", "apache2")):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        except OSError:  # it ended meanwhile
            continue
    return ticks / os.sysconf("SC_CLK_TCK")
