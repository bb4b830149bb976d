"""One large file over SFTP on loopback, beside libraries and programs."""

from __future__ import annotations

from .. import peers, servers, tools
from ..measure import interleaved
from ..report import Table
from . import Run, transfers

BASE = tools.OpenSSH.label


def tables(run: Run) -> list[Table]:
    with servers.sshd() as target, servers.scratch() as scratch:
        transfers.prepare(target, scratch, [run.size])
        cases = transfers.cases([*peers.SFTP, *tools.TOOLS], target, scratch, run.size)
        lines = transfers.finish(interleaved(cases, run.rounds), run.size)
    return [
        Table(
            f"large-{way}",
            f"{word} of {run.size} MiB over SFTP",
            text,
            transfers.columns(way, BASE),
            lines,
            [f"× {BASE}"],
        )
        for way, word, text in (("down", "Download", transfers.TEXT), ("up", "Upload", ""))
    ]
