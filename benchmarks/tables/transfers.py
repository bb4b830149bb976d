"""Large files, one at a time: the steps that the tables of SFTP, latency and WebDAV share."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from .. import child, peers, tools
from ..measure import Case, Measured, median
from ..report import Column
from ..servers import Target

EMPTY = "empty"
OURS = "netstorage"
RCLONE_BEST = "rclone's best"

TEXT = """\
*Transfer* is the copying alone: for libraries the time after imports and login, for programs \
the time of the whole process less that of the same command with an empty file. *Process* is all \
of it, Python's start and imports included. CPU is the client's, with all its child processes, in \
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
        got = copy(verb="get", name=f"down-{size}", path=down)
        got |= {"start_wall": start["wall"], "start_cpu": start["cpu"]}
        start = copy(verb="put", name=EMPTY, path=str(scratch / EMPTY))
        put = copy(verb="put", name="up", path=up)
        put |= {"start_wall": start["wall"], "start_cpu": start["cpu"]}
        for sample in (got, put):
            # The child around it is ours.
            sample |= {"process": sample["wall"], "process_cpu": sample["cpu"]}
    else:
        got = child.run(peers.download, **arguments, name=f"down-{size}", path=down)
        put = child.run(peers.upload, **arguments, name="up", path=up)
    _check(Path(down), size)
    _check(target.root / "up", size)
    target.clear("up")
    Path(down).unlink()
    sample = {f"down_{key}": value for key, value in got.items()}
    sample |= {f"up_{key}": value for key, value in put.items()}
    return {**sample, "size": size}


def _check(path: Path, size: int) -> None:
    there = path.stat().st_size
    if there != size * 2**20:
        raise child.Failed(f"{path.name} has {there} bytes in place of {size} MiB")


def finish(lines: list[Measured], size: int) -> list[Measured]:
    """Take the programs' start off their time; add MiB/s, and the best of rclone's settings."""
    for line in lines:
        for way in ("down", "up"):
            for key in ("wall", "cpu"):
                values = line.values.get(f"{way}_{key}", [])
                starts = line.values.get(f"{way}_start_{key}", [])
                if starts:
                    start = median(starts)
                    # Where nothing is left, the file was too small to tell.
                    line.values[f"{way}_{key}"] = [v - start for v in values if v > start]
            walls, sizes = line.values.get(f"{way}_wall", []), line.values.get("size", [size])
            line.values[f"{way}_rate"] = [sizes[0] / wall for wall in walls]
    best = Measured(RCLONE_BEST)
    for way in ("down", "up"):
        found = [x for x in lines if x.label in tools.RCLONES and x.values.get(f"{way}_wall")]
        if found:
            values = min(found, key=lambda line: median(line.values[f"{way}_wall"])).values
            best.values |= {key: values[key] for key in values if key.startswith(way)}
    # One setting is its best, and needs no second line.
    tuned = any(line.label in tools.RCLONES[1:] for line in lines)
    return [*lines, best] if best.values and tuned else lines


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
