"""Plots: one bar for each line of a table, medians with the span from least to most."""

from __future__ import annotations

import re
from pathlib import Path

from .measure import median, progress
from .report import FORMATS, Table

OURS, OTHERS, INK = "#0b6e4f", "#b8c4bb", "#333333"


def file_name(table: Table, heading: str) -> str:
    """The plot's file name; a page refers to it."""
    if len(table.plots) == 1:
        return f"{table.name}.png"
    return f"{table.name}-{re.sub(r'[^a-z0-9]+', '-', heading.lower()).strip('-')}.png"


def draw(table: Table, folder: Path) -> None:
    """Draw the table's plots as PNG; without matplotlib say so and draw none."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        progress("matplotlib is not installed: no plots")
        return
    for column in table.columns:
        if column.heading not in table.plots:
            continue
        bars = [(line.label, table.cell(column, line)) for line in table.lines]
        bars = [(label, values) for label, values in bars if values]
        if not bars:
            continue
        middles = [median(values) for _, values in bars]
        spans = [
            [middle - min(values) for middle, (_, values) in zip(middles, bars, strict=True)],
            [max(values) - middle for middle, (_, values) in zip(middles, bars, strict=True)],
        ]
        figure = Figure(figsize=(8, 0.9 + 0.34 * len(bars)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        colors = [OURS if label.startswith("netstorage") else OTHERS for label, _ in bars]
        axes.barh(range(len(bars)), middles, color=colors, xerr=spans, ecolor=INK, capsize=2)
        for place, (middle, (_, values)) in enumerate(zip(middles, bars, strict=True)):
            text = FORMATS[column.unit].format(middle)
            axes.annotate(
                text, (max(values), place), (4, 0), textcoords="offset points", va="center",
                color=INK, fontsize=8,
            )  # fmt: skip
        axes.set_yticks(range(len(bars)), [label for label, _ in bars], fontsize=9)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlim(left=0)
        axes.set_title(f"{table.title}: {column.heading}", fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(folder / file_name(table, column.heading), dpi=120)
