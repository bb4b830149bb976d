"""Tables: what they hold, how they are kept as JSON and shown as Markdown."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from .measure import Measured, median, ratios

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "django-netstorage", "Django", "paramiko", "django-storages", "fsspec", "sshfs", "asyncssh",
    "webdav4", "httpx", "webdavclient3", "requests", "gunicorn", "uvicorn",
)  # fmt: skip
PROGRAMS = (
    ("ssh", "-V"), ("rclone", "version"), ("lftp", "--version"), ("curl", "--version"),
    ("/usr/sbin/apache2", "-v"), ("/usr/sbin/nginx", "-v"),
)  # fmt: skip

FORMATS = {
    "s": "{:.2f}",
    "ms": "{:.1f}",
    "µs": "{:.0f}",
    "×": "{:.2f}",
    "MiB": "{:.1f}",
    "MiB/s": "{:.0f}",
    "1/s": "{:.0f}",
    "KiB": "{:.1f}",
    "%": "{:.3f}",
    "round trips": "{:.1f}",
    "count": "{:.0f}",
}


@dataclass
class Column:
    """One column.

    Attributes:
        key: The name of the values.
        heading: What stands above.
        unit: The values' unit, a key of FORMATS.
        ratio_to: Label of a line; the column then says how many times as good as that line each
            line is, compared round by round.
        lead_of: Label of a line; the column then says how many times as good that line is.
        more_is_better: Whether a higher value is the better one.
    """

    key: str
    heading: str
    unit: str = "s"
    ratio_to: str = ""
    lead_of: str = ""
    more_is_better: bool = False


@dataclass
class Table:
    """One table.

    Attributes:
        name: Its name in file names.
        title: Its heading.
        text: How to read it, and those of the same part that follow without a text.
        columns: Its columns.
        lines: Its lines, with the values of every round.
        plots: Headings of the columns that are drawn, too.
    """

    name: str
    title: str
    text: str
    columns: list[Column]
    lines: list[Measured]
    plots: list[str] = field(default_factory=list)

    def cell(self, column: Column, line: Measured) -> list[float]:
        """The column's figures for a line, one for each round; none where there is nothing."""
        values = line.values.get(column.key, [])
        other = column.ratio_to or column.lead_of
        if not (values and other):
            return values
        base = next((each.values.get(column.key) for each in self.lines if each.label == other), [])
        if not base:
            return []
        flip = bool(column.lead_of) != column.more_is_better
        return ratios(base, values) if flip else ratios(values, base)

    def markdown(self) -> str:
        """The heading, the text, the lines, and the plots' names."""
        rows = [["", *(column.heading for column in self.columns)]]
        for line in self.lines:
            if line.missing:
                rows.append([line.label, line.missing, *[""] * (len(self.columns) - 1)])
            else:
                cells = (shown(self.cell(column, line), column.unit) for column in self.columns)
                rows.append([line.label, *cells])
        rows.insert(1, ["---", *["--:"] * len(self.columns)])
        table = "\n".join(
            f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows
        )
        paragraphs = [f"### {self.title}", *([self.text] if self.text else []), table]
        return "\n\n".join(paragraphs) + "\n"


def shown(values: list[float], unit: str) -> str:
    """The median, and the least and the most if they look different."""
    if not values:
        return "–"
    middle, least, most = (
        FORMATS[unit].format(value) for value in (median(values), min(values), max(values))
    )
    return middle if least == most else f"{middle} ({least}–{most})"


def machine() -> dict[str, str]:
    """What was measured on, and with which versions."""
    cpu = re.search(r"model name\s*: (.*)", _read("/proc/cpuinfo"))
    facts = {
        "measured": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": f"{os.cpu_count()} × {cpu[1] if cpu else platform.machine()}",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            facts[package] = "absent"
    for program, option in PROGRAMS:
        try:
            done = subprocess.run([program, option], capture_output=True, text=True, check=False)
        except OSError:
            facts[Path(program).name] = "absent"
        else:
            facts[Path(program).name] = (done.stdout or done.stderr).splitlines()[0]
    return facts


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


class Report:
    """The results of a folder: ``results.json`` and, made from it alone, ``tables.md`` and plots.

    Args:
        folder: Where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "results.json"
        self.parts: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def add(self, name: str, tables: list[Table], conditions: dict[str, Any]) -> None:
        """Put a part in, in place of what was measured of it before, and write the file."""
        self.parts[name] = {
            "conditions": conditions,
            "machine": machine(),
            "tables": [asdict(table) for table in tables],
        }
        self.folder.mkdir(exist_ok=True)
        text = json.dumps(self.parts, indent=1, ensure_ascii=False)
        (self.folder / "results.json").write_text(text + "\n")

    def tables(self, name: str) -> list[Table]:
        """A part's tables."""
        return [
            Table(
                **{
                    **table,
                    "columns": [Column(**column) for column in table["columns"]],
                    "lines": [Measured(**line) for line in table["lines"]],
                }
            )
            for table in self.parts[name]["tables"]
        ]

    def markdown(self, name: str) -> str:
        """A part as Markdown, between marks by which a page can include it."""
        part = self.parts[name]
        text = "\n".join(table.markdown() for table in self.tables(name))
        conditions = ", ".join(f"{key} {value}" for key, value in part["conditions"].items())
        measured = f"Measured {part['machine']['measured']}: {conditions}."
        if "quick" in part["conditions"]:
            measured += " **A quick look at small sizes: nothing to be quoted.**"
        return f"<!-- {name} -->\n\n{text}\n{measured}\n\n<!-- end of {name} -->\n"

    def text(self) -> str:
        """All parts, with the machine that the first was measured on."""
        facts = next(iter(self.parts.values()))["machine"]
        versions = "\n".join(f"- {name}: {value}" for name, value in facts.items())
        machine = f"<!-- machine -->\n\n{versions}\n\n<!-- end of machine -->\n"
        parts = "\n".join(f"## {name}\n\n{self.markdown(name)}" for name in self.parts)
        head = "# Measured\n\nMade by `python -m benchmarks`; edit nothing here."
        return f"{head}\n\n{machine}\n{parts}"

    def write(self) -> None:
        """Write the tables and draw the plots of all parts."""
        from .plots import draw

        (self.folder / "tables.md").write_text(self.text())
        for name in self.parts:
            for table in self.tables(name):
                draw(table, self.folder)
