"""``manage.py netstorage sync`` beside ``rclone sync``: small files far away, and a large one."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .. import child, servers, tools
from ..measure import Case, interleaved
from ..report import Column, Table
from . import Run

OURS = "netstorage"
THEIRS = tools.Rclone.label
UNCHECKED = "rclone, no checksums"
FOUR = ["--transfers=4", "--checkers=4"]
"""As many connections as our pool has by default."""
RCLONES = {THEIRS: FOUR, UNCHECKED: [*FOUR, "--sftp-disable-hashcheck"]}
ENOUGH = 3
"""Rounds of what takes minutes."""
KIB = 4
IN_EACH = 100
"""Files in a directory."""
LONG_AGO = 1_700_000_000
RTT = 20

SMALL_TEXT = """\
Files of {kib} KiB, {in_each} in each directory, {rtt} ms away: {count} for netstorage, {part} for \
rclone, whose pace is that of the line. *Up* is from a disk to where nothing is, *down* the way \
back, *nothing to do* a run over {count} files that are the same at both ends, for all. Each is a \
whole process, Python's start included: `manage.py netstorage sync` with a pool of 4 sessions, \
`rclone sync` with 4 transfers and 4 checkers; *connections* is how many were made on the way up. \
Over SFTP both give a copy the time of its original. As it comes, rclone also runs `md5sum` on the \
server after each file; with `--sftp-disable-hashcheck` (*no checksums*) it does not. netstorage \
compares the length that the server holds before the copy gets its name."""
WEBDAV_TEXT = """\
The same with {count} files for both. Apache ends a connection after 100 requests."""
LARGE_TEXT = """\
One file of {size} MB on loopback, by the same commands. It is sparse, so no disk is read."""


def tables(run: Run) -> list[Table]:
    count, part = run.pick((10_000, 500), (20, 10))
    webdav = run.pick(1000, 10)
    size = run.pick(5000, 8)
    text = SMALL_TEXT.format(kib=KIB, in_each=IN_EACH, rtt=RTT, count=count, part=part)
    with servers.scratch() as scratch:
        fill(scratch, {count, part, webdav}, size)
        with servers.sshd(rtt=RTT / 1000) as target:
            cases = [
                Case(OURS, partial(small, OURS, target, scratch, count, count), ENOUGH),
                # Waiting for the line does not vary.
                *(Case(x, partial(small, x, target, scratch, part, count), 1) for x in RCLONES),
            ]
            lines = interleaved(cases, run.rounds)
            found = [
                Table("sync-sftp", "sync of small files over SFTP", text, _columns(*RCLONES), lines)
            ]
        text = WEBDAV_TEXT.format(count=webdav)
        with servers.apache(rtt=RTT / 1000) as target:
            cases = [
                Case(x, partial(small, x, target, scratch, webdav, webdav), ENOUGH)
                for x in (OURS, THEIRS)
            ]
            lines = interleaved(cases, run.rounds)
            found.append(
                Table(
                    "sync-webdav", "sync of small files over WebDAV", text, _columns(THEIRS), lines
                )
            )
        text = LARGE_TEXT.format(size=size)
        for protocol, server, rclones in (
            ("SFTP", servers.sshd, [*RCLONES]),
            ("WebDAV", servers.apache, [THEIRS]),
        ):
            with server() as target:
                cases = [
                    Case(x, partial(large, x, target, scratch, size), ENOUGH)
                    for x in (OURS, *rclones)
                ]
                lines = interleaved(cases, run.rounds)
            columns = [*_pace("", "MB/s", rclones), Column("wall", "s"), Column("cpu", "CPU s")]
            title = f"sync of one large file over {protocol}"
            found.append(Table(f"sync-large-{protocol.lower()}", title, text, columns, lines))
            text = ""
    return found


def _columns(*rclones: str) -> list[Column]:
    return [
        *_pace("up", "files/s", rclones),
        Column("up_cpu", "its CPU s"),
        Column("up_connections", "connections", "count"),
        *_pace("down", "files/s", rclones),
        Column("down_cpu", "its CPU s "),
        Column("same_wall", "nothing to do, s"),
    ]


def _pace(way: str, unit: str, rclones: Sequence[str]) -> list[Column]:
    """How many there are in a second, after the ratios to what rclone does."""
    key = f"{way}_rate".lstrip("_")
    ratios = [(f"{way} × {x}".strip(), x) for x in rclones]
    return [
        *(Column(key, heading, "×", ratio_to=x, more_is_better=True) for heading, x in ratios),
        Column(key, f"{way}, {unit}".lstrip(", "), "1/s", more_is_better=True),
    ]


def fill(scratch: Path, counts: set[int], size: int) -> None:
    """Make trees of so many small files, each with a content and a time; and one of so many MB."""
    (scratch / "large").mkdir()
    with (scratch / "large" / "file").open("wb") as file:
        file.truncate(size * 10**6)
    for count in counts:
        for number in range(count):
            path = scratch / f"small-{count}" / f"{number // IN_EACH}" / f"{number}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(number.to_bytes(4, "big") * (KIB * 256))
            os.utime(path, (LONG_AGO + number,) * 2)


def small(
    label: str, target: servers.Target, scratch: Path, count: int, same: int
) -> dict[str, float]:
    """One round: up to where nothing is, down again, and a run that finds nothing to do."""
    assert target.proxy is not None
    run = partial(child.run, sync, label=label, options=target.options, disk=str(scratch))
    before = target.proxy.counts()["connections"]
    up = run(source=f"disk:small-{count}", dest="nas:up")
    up["connections"] = target.proxy.counts()["connections"] - before
    down = run(source="nas:up", dest="disk:down")
    for copy in (target.root / "up", scratch / "down"):
        require_same(scratch / f"small-{count}", copy, times="url" not in target.options)
    target.clear("up")
    shutil.rmtree(scratch / "down")
    copied = _put_same(target, scratch / f"small-{same}")
    nothing = run(source=f"disk:small-{same}", dest="nas:same")
    if _times(target.root / "same") != copied:
        raise child.Failed(f"{label} copied what was the same")
    target.clear("same")
    sample = {f"up_{key}": value for key, value in up.items()}
    sample |= {f"down_{key}": value for key, value in down.items()}
    sample |= {f"same_{key}": value for key, value in nothing.items()}
    return {**sample, "up_rate": count / up["wall"], "down_rate": count / down["wall"]}


def large(label: str, target: servers.Target, scratch: Path, size: int) -> dict[str, float]:
    sample = child.run(
        sync,
        label=label,
        options=target.options,
        disk=str(scratch),
        source="disk:large",
        dest="nas:large",
    )
    there = (target.root / "large" / "file").stat().st_size
    target.clear("large")
    if there != size * 10**6:
        raise child.Failed(f"{there} bytes arrived, not {size} MB")
    return {**sample, "rate": size / sample["wall"]}


def _put_same(target: servers.Target, source: Path) -> dict[str, float]:
    """Put a copy on the server behind its back; WebDAV's are as old as their upload."""
    keep = "url" not in target.options
    copy = target.root / "same"
    shutil.copytree(source, copy, copy_function=shutil.copy2 if keep else shutil.copyfile)
    # Apache's worker is another user.
    copy.chmod(0o777)
    return _times(copy)


def _times(folder: Path) -> dict[str, float]:
    return {str(x.relative_to(folder)): x.stat().st_mtime for x in folder.rglob("*") if x.is_file()}


def require_same(source: Path, copy: Path, *, times: bool) -> None:
    """See that each file arrived whole, and with its time where that can be kept."""
    here, there = _times(source), _times(copy)
    if here.keys() != there.keys() or (times and here != there):
        raise child.Failed(f"{copy.name} has {len(there)} files, not the {len(here)} of the source")
    for name in here:
        if (source / name).read_bytes() != (copy / name).read_bytes():
            raise child.Failed(f"{name} is another one in {copy.name}")


# Called in a child process.


def sync(
    label: str, options: dict[str, Any], disk: str, source: str, dest: str
) -> dict[str, float]:
    """Run a whole command as an operator does, between ``disk:`` and ``nas:``."""
    with tempfile.TemporaryDirectory() as folder:
        if label == OURS:
            protocol = "WebDAV" if "url" in options else "SFTP"
            files = "django.core.files.storage.FileSystemStorage"
            storages = {
                "nas": {"BACKEND": f"netstorage.{protocol}Storage", "OPTIONS": options},
                "disk": {"BACKEND": files, "OPTIONS": {"location": disk}},
            }
            text = f"INSTALLED_APPS = ['netstorage']\nSTORAGES = {storages!r}\nSECRET_KEY = '-'\n"
            (Path(folder) / "site_settings.py").write_text(text)
            command = [sys.executable, "-m", "django", "netstorage", "--settings=site_settings"]
            return tools.run(label, [*command, "sync", source, dest], folder)
        rclone = tools.Rclone(options)
        ends = [
            rclone.remote(path) if side == "nas" else str(Path(disk) / path)
            for side, path in (end.split(":") for end in (source, dest))
        ]
        return tools.run(label, ["rclone", *rclone.login, *RCLONES[label], "sync", *ends])
