"""What the page says of each analysis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gradlens.report.cells import Cell, Table
from gradlens.report.run_files import Analysed
from gradlens.shift import tables

MOST_RAW = 60  # rows of a file on the page; the file has them all


def raw_tables(one: Analysed) -> list[Table]:
    """An analysis's tables as its files have them."""
    return [table for name, rows in one.tables.items() if (table := raw_table(name, rows))]


def raw_table(name: str, rows: Sequence[Mapping[str, str]]) -> Table | None:
    """A file of a run as it is: columns that say something, numbers to four digits; none where it has no rows."""
    if not rows:
        return None
    columns = [key for key in rows[0] if any(row.get(key) for row in rows)]
    title = name.removesuffix(".csv").replace("_", " ")
    caption = title + (f", the first {MOST_RAW} of {len(rows):,} rows" if len(rows) > MOST_RAW else "")
    body = tuple(tuple(_raw_cell(row.get(key, "")) for key in columns) for row in rows[:MOST_RAW])
    return Table(caption, tuple((key.replace("_", " "), "") for key in columns), body, name, title)


def _raw_cell(text: str) -> Cell:
    try:
        value = float(text)
    except ValueError:
        return Cell(text or "–", sort=text)
    if not math.isfinite(value):
        return Cell("–", sort=-math.inf)
    shown = f"{int(value):,}" if text.lstrip("-").isdigit() else f"{value:.4g}"
    return Cell(shown.replace("-", tables.MINUS), sort=value, title=text)
