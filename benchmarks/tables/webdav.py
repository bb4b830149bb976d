"""One large file over WebDAV on loopback, on Apache and on nginx."""

from __future__ import annotations

from .. import peers, servers, tools
from ..measure import interleaved
from ..report import Table
from . import Run, transfers

BASE = tools.Curl.label


def tables(run: Run) -> list[Table]:
    found = []
    for name, server in (("Apache", servers.apache), ("nginx", servers.nginx)):
        with server() as target, servers.scratch() as scratch:
            transfers.prepare(target, scratch, [run.size])
            labels = [*peers.WEBDAV, tools.Curl.label, tools.Rclone.label]
            cases = transfers.cases(labels, target, scratch, run.size)
            lines = transfers.finish(interleaved(cases, run.rounds), run.size)
        found += [
            Table(
                f"webdav-{name.lower()}-{way}",
                f"{word} of {run.size} MiB over WebDAV, {name}",
                transfers.TEXT if not found and way == "down" else "",
                transfers.columns(way, BASE),
                lines,
                [f"× {BASE}"],
            )
            for way, word in (("down", "GET"), ("up", "PUT"))
        ]
    return found
