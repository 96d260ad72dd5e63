"""Tables of cells, as the templates show them, and how numbers are written in them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradlens.records import Estimate
from gradlens.shift import tables
from gradlens.shift.metrics import METRICS

MOST_ROWS = 200  # of skipped inputs; the file has them all


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it says; ``small``: less important, under it.
        sort: what the column is sorted by: a number, or text.
        heat: 0 (no colour) to 1 (the strongest); negative in the opposite colour.
        title: the full story, on hover.
        bar: parts of a stacked bar: kind, where it begins and how long it is, in percent of the cell's width.
    """

    text: str
    small: str = ""
    sort: float | str = ""
    heat: float = 0.0
    title: str = ""
    bar: tuple[tuple[str, float, float], ...] = ()


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Attributes:
        heads: text and explanation of each column; screen: places of those that paper has no room for.
        rows: cells; the first one names the row.
        name: of a metric or a model, for those who pick one of several tables.
        title: in a list of tables.
    """

    caption: str
    heads: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Cell, ...], ...]
    name: str = ""
    title: str = ""
    screen: frozenset[int] = frozenset()


def title_of(metric: str) -> str:
    """A metric as a heading says it: ``top5`` is "Top-5 accuracy"."""
    if metric in METRICS:
        return METRICS[metric].title
    return f"Top-{metric[3:]} accuracy" if metric.startswith("top") and metric[3:].isdigit() else metric


def is_loss(metric: str) -> bool:
    """Whether less is better."""
    return metric in METRICS and METRICS[metric].better == "lower"


def in_percent(metric: str) -> bool:
    """Whether the metric is shown in percent; the others have units of their own."""
    return metric not in ("nll", "brier")  # both may exceed one


def number(value: float, metric: str, signed: bool = False) -> str:
    """A metric's value as text: percent, or three decimals; a dash where it is not defined."""
    if math.isnan(value):
        return "–"
    if in_percent(metric):
        return tables.percent(value, signed)
    return f"{value:{'+' if signed else ''}.3f}".replace("-", tables.MINUS)


def interval(e: Estimate, metric: str) -> str:
    """``[90.1, 94.3]``, or nothing where there is none."""
    return f"[{number(e.low, metric)}, {number(e.high, metric)}]" if e.defined else ""


def score_cell(e: Estimate | None, metric: str) -> Cell:
    """A score with its interval under it, and how that was made on hover."""
    if e is None or not e.defined:
        return Cell("–", sort=-math.inf, title="" if e is None else e.interval)
    return Cell(number(e.value, metric), interval(e, metric), e.value, title=f"n = {e.n:,}, {e.interval}")


def value_or_lowest(e: Estimate | None) -> float:
    """To sort by: what is not defined comes last."""
    return -math.inf if e is None or not e.defined else e.value
