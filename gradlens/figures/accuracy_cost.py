"""Accuracy against what it costs: one panel per kind of cost, with the models that nobody beats at both joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from gradlens.figures import style

_PANEL = 2.0  # inches, height


@dataclass(frozen=True)
class Point:
    """One model in one panel.

    Attributes:
        model: its name.
        kind: of cost, with its unit: the panel, and the label of its axis.
        cost: in that unit; positive.
        accuracy, low, high: a fraction and its interval.
        efficient: whether no model costs no more and is no less accurate.
    """

    model: str
    kind: str
    cost: float
    accuracy: float
    low: float
    high: float
    efficient: bool


def accuracy_cost(points: Sequence[Point], dataset: str) -> Figure:
    """One panel per kind of cost, in the order they come in; filled markers are on the Pareto front, which is a line.

    Args:
        points: of at least one kind of cost.
        dataset: that the accuracy is on.

    Raises:
        ValueError: there is no point.
    """
    if not points:
        raise ValueError("expected at least one model with an accuracy and a cost, got none")
    kinds = list(dict.fromkeys(p.kind for p in points))
    models = sorted({p.model for p in points})
    names = style.display_names(models)
    colors, markers = style.model_colors(models), style.model_markers(models)
    across = len(kinds) if len(kinds) <= 3 else 2
    down = -(-len(kinds) // across)
    per_line = max(1, int(style.PAGE_WIDTH / (0.46 + 0.062 * max(map(len, names.values())))))
    legend = 0.14 * -(-len(models) // per_line) + 0.25
    with style.paper():
        figure = Figure(figsize=(style.PAGE_WIDTH, down * _PANEL + 0.5 + legend))
        grid = figure.subplots(down, across, sharey=True, squeeze=False)
        for i, ax in enumerate(grid.flat):
            if i >= len(kinds):
                ax.set_visible(False)
                continue
            draw_on(ax, [p for p in points if p.kind == kinds[i]], models)
            ax.set_xlabel(kinds[i])
        handles = [Line2D([], [], ls="", color=colors[m], marker=markers[m], ms=4, label=names[m]) for m in models]
        figure.legend(handles=handles, loc="outside upper center", ncols=per_line, handletextpad=0.1)
        figure.supylabel("accuracy (%)", fontsize=7.5)
        told = f"Accuracy on {style.short(dataset, 40)} with its interval. Filled and joined (Pareto front): no other "
        style.caption(figure, told + "model is at least as accurate and costs no more.")
    return figure


def draw_on(ax: Axes, points: Sequence[Point], models: Sequence[str] | None = None) -> Axes:
    """Draw the points of one kind of cost on ``ax``, and return it.

    Args:
        ax: cleared axes.
        points: at least one.
        models: all models of the figure, so that colours are the same in each of its panels.
    """
    models = sorted(models or {p.model for p in points})
    colors, markers = style.model_colors(models), style.model_markers(models)
    front = sorted({(p.cost, p.accuracy) for p in points if p.efficient})
    front.append((max(p.cost for p in points), front[-1][1]))  # nothing better is to be had for more
    ax.step(*zip(*front, strict=True), where="post", color="#999999", lw=0.8, zorder=1)
    for p in sorted(points, key=lambda p: p.model):
        ax.errorbar(
            p.cost,
            p.accuracy,
            yerr=[[p.accuracy - p.low], [p.high - p.accuracy]],
            color=colors[p.model],
            marker=markers[p.model],
            markersize=4.5,
            markerfacecolor=colors[p.model] if p.efficient else "white",
            markeredgewidth=0.8,
            ecolor=to_rgba(colors[p.model], 0.4),
            elinewidth=0.7,
            zorder=3,
        )
    costs = np.array([p.cost for p in points])
    if costs.max() > 3 * costs.min():
        ax.set_xscale("log")
        decades = float(np.log10(costs.max() / costs.min()))
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_minor_formatter(NullFormatter())
    else:
        ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}")
    ax.grid(axis="y")
    return ax
