"""Learning curves of a training's history, as small charts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradlens.report.cells import Cell, Table
from gradlens.shift import tables

WIDTH, HEIGHT = 320, 150  # of the plotting area, in units of the SVG
COLUMNS = {
    "accuracy": ("Accuracy", "training, %"),
    "select_accuracy": ("Accuracy", "held out, %"),
    "loss": ("Loss", "training"),
    "select_loss": ("Loss", "held out"),
    "lr": ("Learning rate", ""),
}


@dataclass(frozen=True)
class Chart:
    """One quantity over the epochs.

    Attributes:
        title: what is drawn.
        lines: (what it is of, whether it is the held-out part, points of an SVG polyline).
        ticks: (height in the SVG, text) of the vertical axis.
        kept: where the kept epoch is; ``None`` where that is not known.
        first, last: epochs at the ends.
        alt: the chart in words.
    """

    title: str
    lines: tuple[tuple[str, bool, str], ...]
    ticks: tuple[tuple[float, str], ...]
    kept: float | None
    first: int
    last: int
    alt: str


def charts(history: Sequence[Mapping[str, Any]], kept: int) -> list[Chart]:
    """Accuracy and loss, of training and of the held-out part, where the history has two epochs or more of them.

    Args:
        history: one row per epoch, as in a checkpoint's card.
        kept: the epoch whose weights these are (0: not known).
    """
    kinds = (("Accuracy", "accuracy", "select_accuracy"), ("Loss", "loss", "select_loss"))
    found = (_chart(title, history, (training, held_out), kept) for title, training, held_out in kinds)
    return [chart for chart in found if chart is not None]


def history_table(history: Sequence[Mapping[str, Any]], shown: str) -> Table | None:
    """The history as a table of the quantities that are in it; ``None`` where no epoch has any."""
    known = {key: dict(_points(history, key)) for key in COLUMNS}
    known = {key: values for key, values in known.items() if values}
    epochs = sorted({epoch for values in known.values() for epoch in values})
    if not epochs:
        return None
    rows = tuple(
        (Cell(f"{epoch:g}", sort=epoch), *(_cell(key, known[key].get(epoch, math.nan)) for key in known))
        for epoch in epochs
    )
    return Table(f"The training of {shown}, epoch by epoch", (("Epoch", ""), *(COLUMNS[key] for key in known)), rows)


def _cell(key: str, value: float) -> Cell:
    if math.isnan(value):
        return Cell("–", sort=-math.inf)
    return Cell(tables.percent(value) if "accuracy" in key else f"{value:.4g}", sort=value)


def _chart(title: str, history: Sequence[Mapping[str, Any]], keys: tuple[str, str], kept: int) -> Chart | None:
    series = {key: _points(history, key) for key in keys}
    series = {key: points for key, points in series.items() if len(points) > 1}
    if not series:
        return None
    epochs = [x for points in series.values() for x, _ in points]
    values = [y for points in series.values() for _, y in points]
    left, right = min(epochs), max(epochs)
    low, high, step = _nice(min(values), max(values))

    def x_of(epoch: float) -> float:
        return round(WIDTH * (epoch - left) / (right - left), 1) if right > left else 0.0

    def y_of(value: float) -> float:
        return round(HEIGHT * (high - value) / (high - low), 1)

    def text(value: float) -> str:
        return f"{tables.percent(value)} %" if title == "Accuracy" else f"{value:.3f}"

    lines, told = [], []
    for key, name in zip(keys, ("training", "held out"), strict=True):
        if key in series:
            points = series[key]
            lines.append((name, key == keys[1], " ".join(f"{x_of(x)},{y_of(y)}" for x, y in points)))
            told.append(f"{name} from {text(points[0][1])} to {text(points[-1][1])}")
    count = round((high - low) / step)
    ticks = tuple((y_of(low + i * step), _tick(low + i * step, title)) for i in range(count + 1))
    where = x_of(kept) if left <= kept <= right else None
    alt = f"{title} over epochs {left:g} to {right:g}: {'; '.join(told)}"
    if where is not None:
        alt += f"; epoch {kept} was kept"
    return Chart(title, tuple(lines), ticks, where, round(left), round(right), alt)


def _points(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(epoch, value) of the rows that have both as finite numbers."""
    rows = [(row.get("epoch"), row.get(key)) for row in history if isinstance(row, Mapping)]
    return [
        (float(x), float(y))
        for x, y in rows
        if isinstance(x, int | float) and isinstance(y, int | float) and math.isfinite(x) and math.isfinite(y)
    ]


def _nice(low: float, high: float) -> tuple[float, float, float]:
    """Ends of an axis around the values, and a step of 1, 2 or 5 that gives it three to six ticks."""
    span = max(high - low, 1e-6 * max(abs(high), 1.0))
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= span / 4)
    bottom, top = step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)
    return (bottom, top, step) if top > bottom else (bottom - step, top + step, step)


def _tick(value: float, title: str) -> str:
    return f"{100 * value:.4g}" if title == "Accuracy" else f"{value:.3g}"
