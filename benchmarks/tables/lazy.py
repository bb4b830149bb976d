"""Files opened and read in part: bytes that really move, and the price of small pieces."""

from __future__ import annotations

import io
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

from .. import child, peers, servers
from ..measure import Case, Stopwatch, interleaved
from ..report import Column, Table
from . import Run, transfers

TEXT = """\
What the server sends, counted on the line between, for the names in a ZIP of {zip:.0f} MiB \
and for the size of a JPEG of 4 megapixels ({jpeg:.1f} MiB) through Pillow, both through \
`Storage.open()`. 100 % would be the whole file."""
PIECES = """\
Reading {size} MiB in sequence through `Storage.open()`, in pieces of 4 KiB as Django's \
FileResponse does, and in a single `read()`."""


OURS = peers.NetstorageSFTP.label
THEIRS = peers.DjangoStorages.label
SMALL = 16


def tables(run: Run) -> list[Table]:
    moved, pieces = [], []
    for protocol, server in (("SFTP", servers.sshd), ("WebDAV", servers.apache)):
        with server(counted=True) as target:
            _zip(target.root / "names.zip", run.pick(1024, 32))
            target.put("photo.jpg", _jpeg())
            sizes = {
                name: (target.root / name).stat().st_size for name in ("names.zip", "photo.jpg")
            }
            cases = [Case(f"netstorage, {protocol}", partial(_moved, target, sizes))]
            if protocol == "SFTP":
                _zip(target.root / "small.zip", SMALL)
                sizes["small.zip"] = (target.root / "small.zip").stat().st_size
                # It reads the whole, twice, one READ at a time: minutes for 1 GiB.
                theirs = partial(_moved, target, sizes, THEIRS, "small.zip")
                cases += [Case(f"{THEIRS} (ZIP of {SMALL} MiB)", theirs)]
            moved += interleaved(cases, min(run.rounds, 3))
        with server() as target, servers.scratch() as scratch:
            transfers.prepare(target, scratch, [run.size])
            measure = partial(child.run, sequential, options=target.options, size=run.size)
            cases = [Case(f"netstorage, {protocol}", partial(measure, label=OURS))]
            pieces += interleaved(cases, run.rounds)
    zipped, photo = sizes["names.zip"] / 2**20, sizes["photo.jpg"] / 2**20
    return [
        Table(
            "lazy",
            "Reading a part",
            TEXT.format(zip=zipped, jpeg=photo),
            [
                Column("zip_share", "ZIP: % moved", "%"),
                Column("zip_bytes", "KiB moved", "KiB"),
                Column("zip_wall", "s"),
                Column("jpeg_share", "JPEG: % moved", "%"),
                Column("jpeg_bytes", "KiB moved ", "KiB"),
            ],
            moved,
        ),
        Table(
            "pieces",
            "Small pieces",
            PIECES.format(size=run.size),
            [
                Column("ratio", "small pieces cost ×", "×"),
                Column("pieces", "4 KiB pieces s"),
                Column("single", "single read s"),
                Column("pieces_cpu", "pieces' CPU s"),
                Column("single_cpu", "single read's CPU s"),
            ],
            pieces,
        ),
    ]


def _zip(path: Path, size: int) -> None:
    """A stored ZIP of so many MiB in 64 members."""
    block = bytes(size * 2**20 // 64)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number in range(64):
            archive.writestr(f"member-{number}.bin", block)


def _jpeg() -> bytes:
    """A photograph's worth of noise, 4 megapixels."""
    try:
        from PIL import Image
    except ImportError as error:
        raise SystemExit("this table needs Pillow") from error
    into = io.BytesIO()
    channels = [Image.effect_noise((2272, 1704), 40) for _ in range(3)]
    Image.merge("RGB", channels).save(into, "JPEG", quality=85)
    return into.getvalue()


def _moved(
    target: servers.Target, sizes: dict[str, int], label: str = OURS, archive: str = "names.zip"
) -> dict[str, float]:
    """Count what passes more than in a process that only logs in."""
    line = target.proxy
    assert line is not None
    sample, counts = {}, {}
    names = {"zip": archive, "jpeg": "photo.jpg"}
    for what, name in {"nothing": "", **names}.items():
        before = line.counts()["down"]
        got = child.run(look, label=label, options=target.options, what=what, name=name)
        counts[what] = line.counts()["down"] - before
        sample[f"{what}_wall"] = got["wall"]
    for what, name in names.items():
        count = counts[what] - counts["nothing"]
        sample |= {f"{what}_bytes": count / 1024, f"{what}_share": count / sizes[name] * 100}
    return sample


def look(label: str, options: dict[str, Any], what: str, name: str) -> dict[str, float]:
    """Look into a file, in a child process."""
    peer = peers.make(label, options)
    assert isinstance(peer, peers.DjangoPeer)
    peer.connect()
    with Stopwatch() as watch:
        if what == "zip":
            with peer.storage.open(name) as file, zipfile.ZipFile(file) as archive:
                assert len(archive.namelist()) == 64
        elif what == "jpeg":
            from PIL import Image

            with peer.storage.open(name) as file, Image.open(file) as image:
                assert image.size == (2272, 1704)
    return {"wall": watch.wall}


def sequential(label: str, options: dict[str, Any], size: int) -> dict[str, float]:
    """Read a file in one piece and in small ones, in a child process."""
    peer = peers.make(label, options)
    assert isinstance(peer, peers.DjangoPeer)
    peer.connect()
    name = f"down-{size}"
    with Stopwatch() as single, peer.storage.open(name) as file:
        assert len(file.read()) == size * 2**20
    count = 0
    with Stopwatch() as pieces, peer.storage.open(name) as file:
        while piece := file.read(4096):
            count += len(piece)
    assert count == size * 2**20
    return {
        "single": single.wall,
        "single_cpu": single.cpu,
        "pieces": pieces.wall,
        "pieces_cpu": pieces.cpu,
        "ratio": pieces.wall / single.wall,
    }
