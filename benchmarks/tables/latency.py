"""One large file over SFTP on long lines, where what is in flight decides."""

from __future__ import annotations

from .. import peers, servers, tools
from ..measure import interleaved
from ..report import Column, Table
from . import Run, transfers

BEST = transfers.RCLONE_BEST
TEXT = """\
Over a line with a delay and no other limit, in MiB a second. {size} MiB are copied; {slow} copy \
{small} MiB, since they wait for an answer most of the time."""
SLOW = [peers.DjangoStorages.label, tools.Curl.label]


def tables(run: Run) -> list[Table]:
    found = []
    small = run.pick(16, 1)
    for rtt in (20, 50):
        with servers.sshd(rtt=rtt / 1000) as target, servers.scratch() as scratch:
            transfers.prepare(target, scratch, [run.size, small])
            cases = transfers.cases(
                [*peers.SFTP, *tools.TOOLS], target, scratch, run.size, small=small, slow=SLOW
            )
            lines = transfers.finish(interleaved(cases, run.rounds), run.size)
        text = TEXT.format(size=run.size, slow=" and ".join(SLOW), small=small)
        found += [
            Table(
                f"latency-{rtt}-{way}",
                f"{word} over SFTP at {rtt} ms",
                text if not found and way == "down" else "",
                [
                    Column(f"{way}_rate", f"× {BEST}", "×", ratio_to=BEST, more_is_better=True),
                    Column(
                        f"{way}_rate", "netstorage is faster ×", "×",
                        lead_of=transfers.OURS, more_is_better=True,
                    ),
                    Column(f"{way}_rate", "MiB/s", "MiB/s"),
                    Column(f"{way}_cpu", "CPU s"),
                ],
                lines,
                ["MiB/s"],
            )
            for way, word in (("down", "Download"), ("up", "Upload"))
        ]  # fmt: skip
    return found
