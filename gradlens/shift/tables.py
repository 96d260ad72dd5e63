"""Tables of a shift evaluation: CSV for programs, text for the terminal, Markdown and LaTeX for a report.

CSV keeps fractions at full precision. Everything for people is in percent (gaps: percentage points) with one decimal.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gradlens.records import Estimate, GapReport, Skipped
from gradlens.runtime import whole_file

SUMMARY = ("model", "dataset", "role", "n", "metric", "value", "low", "high", "interval")
GAPS = (
    *("model", "in_dist", "probe", "metric", "label_space", "gap", "low", "high", "interval", "paired"),
    *("in_dist_value", "probe_value", "n_in_dist", "n_probe", "classes", "mix", "within"),
)
PER_CLASS = ("model", "dataset", "class", "n", "precision", "recall", "f1")
CONFUSION = ("model", "dataset", "class", "predicted", "n")
PAIRS = (
    *("model_a", "model_b", "dataset", "n", "b", "c", "p_exact", "p_mid", "p_holm", "agreement", "kappa"),
    *("p_bh", "family"),
)
SKIPPED = ("path", "reason")
FEW = 10  # images of a class below which its scores are marked
MINUS = "\N{MINUS SIGN}"


# ---------------------------------------------------------------------------------------------- rows and CSV


def summary_rows(
    scores: Mapping[tuple[str, str], Mapping[str, Estimate]], roles: Mapping[str, str]
) -> list[dict[str, Any]]:
    """One row per model, data set and metric. ``scores`` is keyed by (model, data set), ``roles`` by data set."""
    return [
        {
            "model": model,
            "dataset": dataset,
            "role": roles[dataset],
            "n": estimate.n,
            "metric": metric,
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "interval": estimate.interval,
        }
        for (model, dataset), estimates in scores.items()
        for metric, estimate in estimates.items()
    ]


def gap_rows(gaps: Iterable[GapReport]) -> list[dict[str, Any]]:
    """One row per gap, the interval's parts beside the value."""
    rows = []
    for g in gaps:
        row = {k: v for k, v in asdict(g).items() if k != "gap"}
        row |= {"gap": g.gap.value, "low": g.gap.low, "high": g.gap.high, "interval": g.gap.interval}
        rows.append({k: row[k] for k in GAPS})
    return rows


def skipped_rows(skipped: Iterable[Skipped]) -> list[dict[str, Any]]:
    """One row per image that was not scored."""
    return [asdict(s) for s in skipped]


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows as CSV: UTF-8, full precision, an empty cell where a number is not defined."""
    with whole_file(path) as part, part.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(row[c]) for c in columns] for row in rows)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(float(value)) if isinstance(value, float) else str(value)


# ---------------------------------------------------------------------------------------------- for people


@dataclass(frozen=True)
class Column:
    """One column of a table for people: heading lines, one cell per model."""

    heading: tuple[str, ...]
    cells: tuple[str, ...]
    right: bool = True

    @property
    def width(self) -> int:
        return max(map(len, (*self.heading, *self.cells)))


def percent(value: float, signed: bool = False) -> str:
    """Per cent to one decimal; with a sign where asked, and a dash where there is no value.

    >>> percent(0.9297), percent(0.019, signed=True), percent(math.nan)
    ('93.0', '+1.9', '–')
    """
    if math.isnan(value):
        return "–"
    text = f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
    if text in ("-0.0", "+0.0"):
        text = "0.0"
    return text.replace("-", MINUS)


def with_interval(value: float, low: float, high: float, signed: bool = False) -> str:
    """A value as tables print it.

    >>> with_interval(0.9711, 0.9676, 0.9743)
    '97.1 [96.8, 97.4]'
    """
    if math.isnan(value):
        return "–"
    return f"{percent(value, signed)} [{percent(low)}, {percent(high)}]"


def score_columns(models: Sequence[str], scores: Mapping[str, Mapping[str, Estimate]], top_k: int) -> list[Column]:
    """Accuracy with its interval, macro-F1 and top-k of each model on one set."""
    top = f"top{top_k}"
    columns = [Column(("model",), tuple(models), right=False)]
    for metric, heading in (("accuracy", "accuracy"), ("macro_f1", "macro-F1"), (top, f"top-{top_k}")):
        estimates = [scores[m][metric] for m in models]
        if any(e.defined for e in estimates):
            cells = tuple(with_interval(e.value, e.low, e.high) for e in estimates)
            columns.append(Column((heading,), cells))
    return columns


def gap_columns(
    models: Sequence[str], gaps: Sequence[GapReport], probes: Sequence[str], metric: str, label_space: str
) -> list[Column]:
    """The gap of one metric to each probe set, with its interval; headed by the set's name and size."""
    found = {(g.model, g.probe): g for g in gaps if g.metric == metric and g.label_space == label_space}
    columns = []
    for probe in probes:
        own = [found[m, probe] for m in models if (m, probe) in found]
        if not own:
            continue
        size = f"{_span(g.n_probe for g in own)} pairs"
        if not all(g.paired for g in own):
            size = f"n = {_span(g.n_in_dist for g in own)} v {_span(g.n_probe for g in own)}"
        cells = []
        for m in models:
            g = found.get((m, probe))
            cells.append("–" if g is None else with_interval(g.gap.value, g.gap.low, g.gap.high, signed=True))
        columns.append(Column((probe, size), tuple(cells)))
    return columns


def _span(counts: Iterable[int]) -> str:
    low, *_, high = sorted([*(found := set(counts)), *found])
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def width_of(columns: Sequence[Column]) -> int:
    """Characters that the columns take side by side."""
    return sum(c.width for c in columns) + 2 * (len(columns) - 1)


def text_table(columns: Sequence[Column], width: int) -> str:
    """Columns side by side; those that do not fit into ``width`` follow in blocks below, the first one repeated."""
    first, *rest = columns
    blocks: list[list[Column]] = []
    room = 0
    for column in rest:
        if not blocks or room + 2 + column.width > width:
            blocks.append([first])
            room = first.width
        blocks[-1].append(column)
        room += 2 + column.width
    return "\n\n".join(_block(block) for block in blocks or [[first]])


def _block(columns: Sequence[Column]) -> str:
    lines = max(len(c.heading) for c in columns)
    rows = [[(*c.heading, *[""] * (lines - len(c.heading)))[i] for c in columns] for i in range(lines)]
    rows += [list(cells) for cells in zip(*(c.cells for c in columns), strict=True)]
    rows.insert(lines, ["─" * c.width for c in columns])
    return "\n".join(
        "  ".join(t.rjust(c.width) if c.right else t.ljust(c.width) for t, c in zip(row, columns, strict=True)).rstrip()
        for row in rows
    )


def markdown_table(columns: Sequence[Column]) -> str:
    """The columns as a Markdown table; heading lines are joined."""
    head = " | ".join("<br>".join(map(_markdown, c.heading)) for c in columns)
    rule = " | ".join("--:" if c.right else ":--" for c in columns)
    rows = [" | ".join(_markdown(t) for t in row) for row in zip(*(c.cells for c in columns), strict=True)]
    return "\n".join(f"| {line} |" for line in (head, rule, *rows)) + "\n"


# a name out of somebody's files is neither a tag, a link nor the end of its cell
_MARKDOWN = {**{c: f"\\{c}" for c in "\\`*_|[]"}, "<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " ", "\r": " "}


def _markdown(text: str) -> str:
    return "".join(_MARKDOWN.get(c, c) for c in text)


def latex_table(columns: Sequence[Column], caption: str, label: str) -> str:
    """The columns as a LaTeX ``table*`` (booktabs and graphicx): intervals in smaller type behind their values.

    With more than five columns of numbers the intervals stand below the values. A table that is still wider than the
    page is scaled down to it.
    """
    stacked = len(columns) > 6
    lines = max(len(c.heading) for c in columns)
    heads = [
        " & ".join(_latex((*c.heading, *[""] * (lines - len(c.heading)))[i]) for c in columns) + r" \\"
        for i in range(lines)
    ]
    rows = [
        " & ".join(_latex_cell(t, stacked) for t in row) + r" \\"
        for row in zip(*(c.cells for c in columns), strict=True)
    ]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,graphicx}; for names in other letters than Latin, LuaLaTeX",
            r"\begin{table*}",
            r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}",
            f"  \\caption{{{_latex(caption)}}}",
            f"  \\label{{{label}}}",
            # as wide as it comes, or as the page where that is less
            r"  \resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
            r"  \begin{tabular}{" + "".join("r" if c.right else "l" for c in columns) + "}",
            r"    \toprule",
            *(f"    {line}" for line in heads),
            r"    \midrule",
            *(f"    {line}" for line in rows),
            r"    \bottomrule",
            r"  \end{tabular}}",
            r"\end{table*}",
            "",
        ]
    )


_LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "\n": " ",  # an empty line would end the caption or cell
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    MINUS: "$-$",
    "–": "--",
    "—": "---",
    "×": r"$\times$",
    "≥": r"$\ge$",
    "≤": r"$\le$",
    "→": r"$\to$",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def _latex_cell(text: str, stacked: bool) -> str:
    value, bracket, interval = text.partition(" [")
    if not bracket or not interval.endswith("]"):
        return _latex(text)
    ends = f"{{\\scriptsize[{_latex(interval[:-1])}]}}"
    return f"\\shortstack[r]{{{_latex(value)}\\\\{ends}}}" if stacked else f"{_latex(value)} {ends}"
