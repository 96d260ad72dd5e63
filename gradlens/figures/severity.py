"""Accuracy over severity: a panel per shift, a line per model from its clean accuracy on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlens.figures import style
from gradlens.shift.tables import percent

_COLUMNS = 4
_PANEL = 1.45  # inches, height
_NAMED = 7  # models up to which every line has its name and its intervals


@dataclass(frozen=True)
class Curve:
    """One model under one shift.

    Attributes:
        clean: accuracy in distribution; severities: those measured, ascending.
        values, low, high: accuracy at each, as fractions.
    """

    model: str
    shift: str
    clean: float
    severities: tuple[int, ...]
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def severity_curves(curves: Sequence[Curve], interval: str) -> Figure:
    """One panel per shift in the order given, all with the same axes; severity 0 is the in-distribution set.

    Each line has its name at its end and its intervals as bars, beside one another so that they can be told apart. With
    more than seven models that holds for the best and the worst at the last severity of each panel; the others are
    thin, and a legend has their colours.

    Args:
        curves: of every model under every shift.
        interval: how the intervals were made.

    Raises:
        ValueError: there are no curves.
    """
    if not curves:
        raise ValueError("expected at least one curve")
    shifts = list(dict.fromkeys(c.shift for c in curves))
    models = sorted({c.model for c in curves})
    names = style.display_names(models)
    colors, markers = style.model_colors(models), style.model_markers(models)
    rows = math.ceil(len(shifts) / _COLUMNS)
    columns = math.ceil(len(shifts) / rows)
    most = max(max(c.severities) for c in curves)
    told = {shift: _told([c for c in curves if c.shift == shift]) for shift in shifts}
    drawn = [v for c in curves for v in (c.clean, *c.values, *(c.low + c.high if c.model in told[c.shift] else ()))]
    room = 0.02 + 0.03 * (max(drawn) - min(drawn))
    per_line = max(1, int(style.PAGE_WIDTH / (0.46 + 0.062 * max(map(len, names.values())))))
    legend = 0.15 * math.ceil(len(models) / per_line) + 0.2 if len(models) > _NAMED else 0.0
    panel = _PANEL if columns > 2 else 2.0
    titles = _titles(shifts)
    with style.paper():
        width = style.PAGE_WIDTH if columns > 2 else style.COLUMN_WIDTH * (1 + 0.7 * (columns - 1)) + 0.6
        figure = Figure(figsize=(width, rows * panel + 0.45 + legend))
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for i, ax in enumerate(grid.flat):
            if i >= len(shifts):
                ax.set_visible(False)
                continue
            ax.grid(axis="y")
            own = sorted((c for c in curves if c.shift == shifts[i]), key=lambda c: c.model)
            ax.set_title(titles[shifts[i]], fontsize=7.5)
            ax.set_xticks(range(most + 1))
            ax.set_xlim(-0.25, most + 0.25)
            ax.set_ylim(min(drawn) - room, max(drawn) + room)
            ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}")
            named = [c for c in own if c.model in told[shifts[i]]]
            for c in own:
                _draw(ax, c, colors[c.model], markers[c.model], bold=c in named)
            for k, c in enumerate(named):
                moved = [s + 0.07 * (k - (len(named) - 1) / 2) for s in c.severities]
                ax.vlines(moved, c.low, c.high, color=colors[c.model], lw=0.8, alpha=0.6)
            ends = [(c.severities[-1], c.values[-1], names[c.model], colors[c.model]) for c in named]
            style.name_beside(ax, ends, 0.72 * panel, size=6)
            if i + columns >= len(shifts):
                ax.tick_params(labelbottom=True)
        if len(models) > _NAMED:
            handles = [
                Line2D([], [], color=colors[m], marker=markers[m], ms=3.5, lw=0.9, label=names[m]) for m in models
            ]
            style_of = {"ncols": per_line, "handletextpad": 0.4, "handlelength": 1.4}
            figure.legend(handles=handles, loc="outside upper center", **style_of)
        which = "" if len(models) <= _NAMED else " of the best and the worst, which have their names"
        figure.supxlabel(f"Severity (0: in distribution); bars: {interval}{which}", fontsize=7.5)
        figure.supylabel("Accuracy (%)", fontsize=7.5)
    return figure


def _told(curves: Sequence[Curve]) -> set[str]:
    """Models whose lines have name and intervals: all of a few, else the best and the worst at the last severity."""
    if len(curves) <= _NAMED:
        return {c.model for c in curves}
    return {choose(curves, key=lambda c: (c.values[-1], c.model)).model for choose in (min, max)}


def _draw(ax: Axes, c: Curve, color: str, marker: str, bold: bool) -> None:
    x, y = [0, *c.severities], [c.clean, *c.values]
    ax.plot(x, y, color=color, lw=1.4 if bold else 0.7, alpha=0.95 if bold else 0.5, zorder=3 if bold else 2)
    ends = ["", *(f" [{percent(low)}, {percent(high)}]" for low, high in zip(c.low, c.high, strict=True))]
    for severity, value, reach in zip(x, y, ends, strict=True):
        (mark,) = ax.plot(
            severity, value, color=color, marker=marker, ms=3 if bold else 2.2, ls="", zorder=4 if bold else 2.5
        )
        where = f"at severity {severity} of {c.shift}" if severity else "in distribution"
        style.tell(mark, f"{c.model} {where}: {percent(value)} %{reach}")


def _titles(shifts: Sequence[str]) -> dict[str, str]:
    """``night`` for ``vehicles-night``, where all shifts are sets of one collection."""
    heads = {shift.partition("-")[0] for shift in shifts}
    one = len(heads) == 1 and all("-" in shift for shift in shifts)
    return {s: style.short((s.partition("-")[2] if one else s).replace("_", " "), 22) for s in shifts}
