"""Accuracy over severity: a panel per shift, a line per model from its clean accuracy on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlens.figures import style
from gradlens.shift.tables import percent

_COLUMNS = 5
_PANEL = 1.35  # inches, height


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

    Intervals are drawn as bars, beside one another so that they can be told apart; with more than four models they are
    left to the table.

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
    bars = len(models) <= 4
    most = max(max(c.severities) for c in curves)
    drawn = [v for c in curves for v in (c.clean, *(c.low + c.high if bars else c.values))]
    room = 0.02 + 0.03 * (max(drawn) - min(drawn))
    per_line = max(1, int(style.PAGE_WIDTH / (0.46 + 0.062 * max(map(len, names.values())))))
    legend = 0.15 * math.ceil(len(models) / per_line) + 0.2
    panel = _PANEL if columns > 2 else 2.0
    with style.paper():
        width = style.PAGE_WIDTH if columns > 2 else style.COLUMN_WIDTH * (1 + 0.5 * (columns - 1)) + 0.6
        figure = Figure(figsize=(width, rows * panel + 0.55 + legend))
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for i, ax in enumerate(grid.flat):
            if i >= len(shifts):
                ax.set_visible(False)
                continue
            ax.grid(axis="y")
            for c in sorted((c for c in curves if c.shift == shifts[i]), key=lambda c: c.model):
                x = [0, *c.severities]
                ax.plot(x, [c.clean, *c.values], color=colors[c.model], lw=0.9, alpha=0.85, zorder=2)
                (own,) = ax.plot(x, [c.clean, *c.values], color=colors[c.model], marker=markers[c.model], ms=2.6, ls="")
                steps = ", ".join(f"{k}: {percent(v)} %" for k, v in zip(x, [c.clean, *c.values], strict=True))
                style.tell(own, f"{c.model} under {c.shift}, accuracy by severity {steps}")
                if bars:
                    moved = [s + 0.07 * (models.index(c.model) - (len(models) - 1) / 2) for s in c.severities]
                    ax.vlines(moved, c.low, c.high, color=colors[c.model], lw=0.8, alpha=0.6)
            ax.set_title(style.short(shifts[i].replace("_", " "), 22), fontsize=7.5)
            ax.set_xticks(range(most + 1))
            ax.set_xlim(-0.25, most + 0.25)
            ax.set_ylim(min(drawn) - room, max(drawn) + room)
            ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}")
            if i + columns >= len(shifts):
                ax.tick_params(labelbottom=True)
        handles = [Line2D([], [], color=colors[m], marker=markers[m], ms=3.5, lw=0.9, label=names[m]) for m in models]
        figure.legend(handles=handles, loc="outside upper center", ncols=per_line, handletextpad=0.4, handlelength=1.4)
        told = f"; bars: {interval}" if bars else ""
        figure.supxlabel(f"Severity (0: in distribution){told}", fontsize=7.5)
        figure.supylabel("Accuracy (%)", fontsize=7.5)
    return figure
