"""Peak memory while a large file passes, whatever the reader's pace."""

from __future__ import annotations

import re
import time
from functools import partial
from pathlib import Path
from typing import Any

from .. import child, peers, servers
from ..measure import Case, interleaved
from ..report import Column, Table
from . import Run, transfers

TEXT = """\
Growth of the process's peak resident memory while one file of {size} MiB passes, above \
what it needs after a small file went each way. *slowly* is a reader that pauses between pieces of \
64 KiB as Django makes them. FILE_UPLOAD_MAX_MEMORY_SIZE, which bounds what a storage may keep \
of a file, is Django's 2.5 MiB."""
VERBS = {"upload": "save MiB", "download": "read MiB", "slowly": "read slowly MiB"}
SEVERAL = 2


def tables(run: Run) -> list[Table]:
    size = run.pick(4 * run.size, run.size)
    # These take minutes for it: one READ at a time.
    slow = {peers.DjangoStorages.label: ["upload"]}
    found = []
    for name, title, labels, server in (
        ("sftp", "SFTP", [*peers.SFTP], servers.sshd),
        ("webdav", "WebDAV on Apache", [*peers.WEBDAV], servers.apache),
    ):
        with server() as target, servers.scratch() as scratch:
            transfers.prepare(target, scratch, [size, 1])
            lines = interleaved(
                [
                    Case(label, partial(_sample, label, target, scratch, size, slow.get(label)))
                    for label in labels
                    if label != peers.SshfsTuned.label
                ],
                min(run.rounds, SEVERAL),
            )
        found.append(
            Table(
                f"memory-{name}",
                f"Memory, {title}",
                "" if found else TEXT.format(size=size),
                [Column(verb, heading, "MiB") for verb, heading in VERBS.items()],
                lines,
                ["save MiB"],
            )
        )
    return found


def _sample(
    label: str, target: servers.Target, scratch: Path, size: int, only: list[str] | None
) -> dict[str, float]:
    growths = {}
    for verb in only or VERBS:
        if verb == "slowly" and not label.startswith("netstorage"):
            continue
        sample = child.run(
            growth, label=label, options=target.options, verb=verb, folder=str(scratch), size=size
        )
        growths[verb] = sample["growth"]
        target.clear("up", "small")
    return growths


def growth(label: str, options: dict[str, Any], verb: str, folder: str, size: int) -> Any:
    """Measure one transfer's peak, in a child process."""
    peer = peers.make(label, options)
    peer.connect()
    here = Path(folder)
    peer.upload_file(str(here / "up-1"), "small")
    peer.download_file("small", str(here / "small"))
    # The peak begins anew (proc(5): clear_refs).
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    if verb == "upload":
        peer.upload_file(str(here / f"up-{size}"), "up")
    elif verb == "download":
        peer.download_file(f"down-{size}", str(here / "down"))
        (here / "down").unlink()
    else:
        assert isinstance(peer, peers.DjangoPeer)
        with peer.storage.open(f"down-{size}") as file:
            for chunk in file.chunks():
                time.sleep(len(chunk) / 2**27)
    return {"growth": max(0, _status("VmHWM") - before) / 1024}


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])
