"""Differences with their intervals: a row per thing compared, a panel per quantity, a colour per model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlens.figures import style

_COLUMNS = 4


@dataclass(frozen=True)
class Mark:
    """One point.

    Attributes:
        panel, row: where it stands; group: whose colour it has.
        value, low, high: a difference of fractions, and its interval.
    """

    panel: str
    row: str
    group: str
    value: float
    low: float
    high: float


def differences(marks: Sequence[Mark], baseline: str, interval: str) -> Figure:
    """One panel per quantity in the order given; all have the same rows and the same axis, with 0 marked.

    A point whose interval leaves 0 out is filled, the others are hollow.

    Args:
        marks: in the order of panels, rows and groups.
        baseline: what the differences are from.
        interval: how the intervals were made.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not marks:
        raise ValueError("expected at least one difference")
    panels, rows, groups = ([*dict.fromkeys(getattr(m, k) for m in marks)] for k in ("panel", "row", "group"))
    colors, markers = style.model_colors(groups), style.model_markers(groups)
    columns = min(_COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    labels = {row: style.short(row, 24) for row in rows}
    names = 0.055 * max(map(len, labels.values()))
    step = 0.09 * len(groups) + 0.08
    width = min(style.PAGE_WIDTH, max(style.COLUMN_WIDTH, names + 1.55 * columns))
    with style.paper():
        figure = Figure(figsize=(width, lines * (step * len(rows) + 0.32) + 0.62))
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for i, ax in enumerate(grid.flat):
            if i >= len(panels):
                ax.set_visible(False)
                continue
            ax.axvline(0, color="#555555", lw=0.6, zorder=1)
            ax.grid(axis="x")
            for m in (m for m in marks if m.panel == panels[i]):
                y = rows.index(m.row) + 0.6 * (groups.index(m.group) - (len(groups) - 1) / 2) / len(groups)
                ax.hlines(y, m.low, m.high, color=colors[m.group], lw=0.9, zorder=2)
                clear = m.low > 0 or m.high < 0
                face = colors[m.group] if clear else "white"
                ax.plot(m.value, y, marker=markers[m.group], ms=3.4, mfc=face, mec=colors[m.group], mew=0.8, zorder=3)
            ax.set_title(style.short(panels[i], 26), fontsize=7.5)
            ax.set_yticks(range(len(rows)), [labels[row] for row in rows])
            ax.set_ylim(len(rows) - 0.4, -0.6)
            ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}".replace("-", "\N{MINUS SIGN}"))
            if i + columns >= len(panels):
                ax.tick_params(labelbottom=True)
        if len(groups) > 1:
            handles = [
                Line2D([], [], color=colors[g], marker=markers[g], ms=3.4, lw=0.9, label=style.short(g)) for g in groups
            ]
            figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(groups)))
        figure.supxlabel(f"Percentage points against {baseline}; bars: {interval}", fontsize=7.5)
    return figure
