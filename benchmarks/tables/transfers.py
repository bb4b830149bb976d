"""Large files, one at a time: the steps that the tables of SFTP, latency and WebDAV share."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from .. import child, peers, tools
from ..measure import Case, Measured, Stopwatch, median
from ..report import Column
from ..servers import Target

EMPTY = "empty"
OURS = "netstorage"
RCLONE_BEST = "rclone's best"

TEXT = """*Transfer* is the copying alone: for libraries the time after imports and login, for programs \
the time of the whole process less that of the same command with an empty file. *Process* is all of \
it, Python's start and imports included. CPU is the client's, with all its child processes, in \
seconds."""


def prepare(target: Target, scratch: Path, sizes: Iterable[int]) -> None:
    """Put files of so many MiB, and an empty one, on both sides."""
    for size in {*sizes}:
        block = bytes(range(256)) * 4096
        local = scratch / f"up-{size}"
        with local.open("wb") as file:
            for _ in range(size):
                file.write(block)
        shutil.copy(local, target.root / f"down-{size}")
        (target.root / f"down-{size}").chmod(0o644)
    (scratch / EMPTY).touch()
    (target.root / EMPTY).touch()


def cases(
    labels: Iterable[str],
    target: Target,
    scratch: Path,
    size: int,
    *,
    small: int | None = None,
    slow: Iterable[str] = (),
) -> list[Case]:
    """A case for each peer or tool; ``slow`` ones copy ``small`` MiB in place of ``size``."""
    return [
        Case(
            label,
            partial(_both, label, target, scratch, (small or size) if label in slow else size),
        )
        for label in labels
    ]


def _both(label: str, target: Target, scratch: Path, size: int) -> dict[str, float]:
    """One round: down, up, and for a tool the start alone."""
    down = str(scratch / "down")
    up = str(scratch / f"up-{size}")
    arguments: dict[str, Any] = {"label": label, "options": target.options}
    if label in tools.TOOLS:
        copy = partial(child.run, tools.copy, **arguments)
        start = copy(verb="get", name=EMPTY, path=down)
        got = dict(copy(verb="get", name=f"down-{size}", path=down))
        _check(Path(down), size)
        put = dict(copy(verb="put", name="up", path=up))
        for sample in (got, put):
            sample |= {"process": sample["wall"], "process_cpu": sample["cpu"]}
            # An empty file may take as long as a small one, in a quick look.
            sample["wall"] = max(sample["wall"] - start["wall"], 0.001)
            sample["cpu"] = max(sample["cpu"] - start["cpu"], 0.001)
    else:
        got = child.run(download, **arguments, name=f"down-{size}", path=down)
        _check(Path(down), size)
        put = child.run(upload, **arguments, name="up", path=up)
    _check(target.root / "up", size)
    target.clear("up")
    Path(down).unlink()
    sample = {f"down_{key}": value for key, value in got.items()}
    sample |= {f"up_{key}": value for key, value in put.items()}
    for way in ("down", "up"):
        sample[f"{way}_rate"] = size / sample[f"{way}_wall"]
    return sample


def _check(path: Path, size: int) -> None:
    there = path.stat().st_size
    if there != size * 2**20:
        raise child.Failed(f"{path.name} has {there} bytes in place of {size} MiB")


def download(label: str, options: dict[str, Any], name: str, path: str) -> dict[str, float]:
    """Time one download, in a child process."""
    peer = peers.make(label, options)
    peer.connect()
    with Stopwatch() as watch:
        peer.download_file(name, path)
    return {"wall": watch.wall, "cpu": watch.cpu}


def upload(label: str, options: dict[str, Any], name: str, path: str) -> dict[str, float]:
    """Time one upload, in a child process."""
    peer = peers.make(label, options)
    peer.connect()
    with Stopwatch() as watch:
        peer.upload_file(path, name)
    return {"wall": watch.wall, "cpu": watch.cpu}


def with_rclones_best(lines: list[Measured], key: str, *, more_is_better: bool) -> list[Measured]:
    """Add a line for the best of rclone's settings, which is what we compare with."""
    found = [line for line in lines if line.label in tools.RCLONES and key in line.values]
    if not found:
        return lines
    choose = max if more_is_better else min
    best = choose(found, key=lambda line: median(line.values[key]))
    return [*lines, Measured(RCLONE_BEST, best.values)]


def columns(way: str, base: str) -> list[Column]:
    """What is told of one direction; ratios first."""
    return [
        Column(f"{way}_wall", f"× {base}", "×", ratio_to=base),
        Column(f"{way}_wall", "netstorage is faster ×", "×", lead_of=OURS),
        Column(f"{way}_wall", "transfer s"),
        Column(f"{way}_cpu", "its CPU s"),
        Column(f"{way}_process", f"process × {base}", "×", ratio_to=base),
        Column(f"{way}_process", "process s"),
        Column(f"{way}_process_cpu", "its CPU s "),
    ]
