"""``python -m benchmarks``: measure everything, or one table for a quick look."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from .measure import progress
from .report import RESULTS, Report, Table
from .tables import (
    Run,
    bounds,
    collectstatic,
    downloads,
    large,
    latency,
    lazy,
    many,
    memory,
    overhead,
    roundtrips,
    sync,
    webdav,
)

TABLES: dict[str, Callable[[Run], list[Table]]] = {
    "roundtrips": roundtrips.tables,
    "large": large.tables,
    "latency": latency.tables,
    "webdav": webdav.tables,
    "bounds": bounds.tables,
    "memory": memory.tables,
    "lazy": lazy.tables,
    "many": many.tables,
    "overhead": overhead.tables,
    "collectstatic": collectstatic.tables,
    "sync": sync.tables,
    "downloads": downloads.tables,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("table", nargs="*", help=f"of {', '.join(TABLES)}; default: all, written")
    parser.add_argument("--quick", action="store_true", help="small sizes, 1 round")
    parser.add_argument("--rounds", type=int, help="default 5")
    parser.add_argument("--size", type=int, help="MiB of a large file, default 256")
    parser.add_argument("--write", action="store_true", help="write a single table's results, too")
    parser.add_argument("--render", action="store_true", help="only make tables and plots again")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    asked = parser.parse_args()
    if unknown := set(asked.table) - set(TABLES):
        parser.error(f"no such table: {', '.join(unknown)}; there are {', '.join(TABLES)}")
    run = Run(
        rounds=asked.rounds or (1 if asked.quick else 5),
        size=asked.size or (8 if asked.quick else 256),
        quick=asked.quick,
    )
    report = Report(asked.output)
    conditions = {"rounds": run.rounds, "large file": f"{run.size} MiB"}
    if run.quick:
        conditions["quick"] = "yes"
    for name in () if asked.render else asked.table or TABLES:
        progress(f"{name}:")
        started = time.monotonic()
        tables = TABLES[name](run)
        progress(f"{name}: {time.monotonic() - started:.0f} s")
        for table in tables:
            print(table.markdown(), flush=True)
        if asked.write or not asked.table:
            # After each: what follows may fail, and hours be lost.
            report.add(name, tables, conditions)
    if asked.render or asked.write or not asked.table:
        report.write()


if __name__ == "__main__":
    main()
