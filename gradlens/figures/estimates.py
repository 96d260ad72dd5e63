"""Estimated against true accuracy where labels are known but were hidden: one panel per way to estimate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlens.figures import style
from gradlens.shift.tables import percent
from gradlens.shift.unlabelled import ESTIMATORS, Guess, Record

_PANEL = 1.62  # inches, height of a panel
_COLUMNS = 4


def estimates(guesses: Sequence[Guess], records: Sequence[Record]) -> Figure:
    """One panel per estimator, closest first, with the better kind of probabilities; a point per model and set.

    On the diagonal the estimate is right, above it accuracy is overestimated. Colours and markers are probe sets. All
    panels have the same axes.

    Args:
        guesses: those without a known accuracy, or undefined, are left out.
        records: of the same guesses, best first.

    Raises:
        ValueError: nothing can be drawn.
    """
    drawn = [g for g in guesses if not np.isnan(g.error)]
    best: dict[str, Record] = {}
    for r in records:
        if r.mae.defined:
            best.setdefault(r.method, r)
    if not drawn or not best:
        raise ValueError("there is no estimate with a known accuracy")
    sets = list(dict.fromkeys(g.dataset for g in drawn))
    colors, markers = style.model_colors(sets), style.model_markers(sets)
    names = style.display_names(sets)
    values = [v for g in drawn for v in (g.accuracy, g.estimate.value)]
    low, high = max(0.0, min(values) - 0.04), min(1.0, max(values)) + 0.03
    with style.paper():
        columns = min(_COLUMNS, len(best))
        rows = -(-len(best) // columns)
        per_line = max(1, int(style.PAGE_WIDTH / (0.4 + 0.062 * max(map(len, names.values())))))
        legend = 0.14 * -(-len(sets) // per_line) + 0.25
        figure = Figure(
            figsize=(min(style.PAGE_WIDTH, style.PAGE_WIDTH * columns / _COLUMNS + 0.2), rows * _PANEL + 0.45 + legend)
        )
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for i, ax in enumerate(grid.flat):
            if i >= len(best):
                ax.set_visible(False)
                continue
            r = list(best.values())[i]
            ax.axline((0, 0), slope=1, color="#555555", lw=0.6, zorder=0)
            for g in drawn:
                if g.way != (r.method, r.probabilities):
                    continue
                mark = ax.scatter(
                    [g.accuracy],
                    [g.estimate.value],
                    s=9,
                    color=colors[g.dataset],
                    marker=markers[g.dataset],
                    linewidths=0.3,
                    edgecolors="white",
                    zorder=3,
                )
                told = f"estimated {percent(g.estimate.value)} %, measured {percent(g.accuracy)} %"
                style.tell(mark, f"{g.model} on {g.dataset}: {told}")
            kind = "" if r.probabilities == "none" else f", {r.probabilities}"
            ax.set_title(f"{ESTIMATORS[r.method].title}{kind}", fontsize=7)
            ax.text(
                0.97,
                0.04,
                f"off by {percent(r.mae.value)}",
                transform=ax.transAxes,
                ha="right",
                fontsize=6,
                color="#444444",
            )
            ax.set_xlim(low, high)
            ax.set_ylim(low, high)
            ax.set_aspect("equal")
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_formatter(lambda value, _: f"{100 * value:.3g}")
            if i + columns >= len(best):
                ax.tick_params(labelbottom=True)
        handles = [Line2D([], [], ls="", color=colors[s], marker=markers[s], ms=4, label=names[s]) for s in sets]
        figure.legend(handles=handles, loc="outside upper center", ncols=per_line, handletextpad=0.1)
        figure.supxlabel("Accuracy (%), hidden from the estimate; off by: mean absolute error in points", fontsize=7.5)
        figure.supylabel("Estimated accuracy (%)", fontsize=7.5)
    return figure
