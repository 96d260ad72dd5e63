"""In-distribution against shifted accuracy, one point per model with an interval on both axes, one panel per probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gradlens.figures import style
from gradlens.records import Estimate
from gradlens.shift.tables import percent

_PANEL = 1.75  # inches, height of one of several panels


@dataclass(frozen=True)
class Point:
    """One model's accuracy on both sides, as fractions.

    Attributes:
        model, in_dist, probe: names.
        x: on the in-distribution set.
        y: on the probe set, in the same label space.
    """

    model: str
    in_dist: str
    probe: str
    x: Estimate
    y: Estimate


@dataclass(frozen=True)
class Curve:
    """What accuracy after the shift is expected at each accuracy before it.

    Attributes:
        x, y: (n,) fractions.
        low, high: (n,) the band around it.
        label: what it is, in a few words; printed in the panel.
    """

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    label: str


def shift_scatter(
    points: Sequence[Point], metric: str = "accuracy", curves: Mapping[str, Curve] | None = None
) -> Figure:
    """One panel per probe set, mildest first; the diagonal is "no loss", parallels to it are points lost.

    A single panel names its models beside the points, several panels share a legend. All panels have the same axes.

    Args:
        points: those with an undefined side are left out.
        metric: what x and y are, a fraction; for the axis labels.
        curves: by probe set, where a line was fitted.

    Raises:
        ValueError: no point has both sides defined.
    """
    drawn = _drawn(points)
    curves = curves or {}
    lost: dict[str, list[float]] = {}
    for p in drawn:
        lost.setdefault(p.probe, []).append(p.x.value - p.y.value)
    probes = sorted(lost, key=lambda probe: (float(np.mean(lost[probe])), probe))
    models = sorted({p.model for p in drawn})
    names = style.display_names(models)
    titles = style.probe_names(probes, drawn[0].in_dist)
    with style.paper():
        if len(probes) == 1:
            figure = Figure(figsize=(style.PAGE_WIDTH * 0.72, max(3.2, 0.16 * len(models) + 0.9)))
            ax = figure.add_subplot()
            draw_on(ax, drawn, span(drawn), named=names, curve=curves.get(probes[0]))
            ax.set_title(style.short(probes[0], 60))
            axes = [ax]
        else:
            columns = len(probes) if len(probes) <= 4 else int(np.ceil(len(probes) / np.ceil(len(probes) / 4)))
            rows = int(np.ceil(len(probes) / columns))
            per_line = max(1, int(style.PAGE_WIDTH / (0.46 + 0.062 * max(map(len, names.values())))))
            legend = 0.14 * int(np.ceil(len(models) / per_line)) + 0.25
            figure = Figure(figsize=(style.PAGE_WIDTH, rows * _PANEL + 0.35 + legend))
            grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
            axes = []
            for i, ax in enumerate(grid.flat):
                if i >= len(probes):
                    ax.set_visible(False)
                    continue
                own = [p for p in drawn if p.probe == probes[i]]
                draw_on(ax, own, span(drawn), models=models, curve=curves.get(probes[i]))
                ax.set_title(titles[probes[i]], fontsize=7.5)
                if i + columns >= len(probes):
                    ax.tick_params(labelbottom=True)  # the panel below it is empty
                axes.append(ax)
            colors, markers = style.model_colors(models), style.model_markers(models)
            handles = [Line2D([], [], ls="", color=colors[m], marker=markers[m], ms=4, label=names[m]) for m in models]
            figure.legend(handles=handles, loc="outside upper center", ncols=per_line, handletextpad=0.1)
        told = "; ".join(dict.fromkeys(p.x.interval for p in drawn if p.x.low < p.x.high))
        bars = f", bars: {told} intervals" if told else ""
        figure.supxlabel(f"{metric.capitalize()} on {_sets(drawn)} (%){bars}", fontsize=7.5)
        figure.supylabel(f"{metric.capitalize()} after the shift (%)", fontsize=7.5)
    return figure


def draw_on(
    ax: Axes,
    points: Sequence[Point],
    limits: tuple[float, float, float, float] | None = None,
    models: Sequence[str] | None = None,
    named: Mapping[str, str] | None = None,
    curve: Curve | None = None,
) -> Axes:
    """Draw the points of one probe set on ``ax``, and return it.

    Args:
        ax: cleared axes.
        points: of one probe set.
        limits: (left, right, bottom, top) as fractions; from the points by default.
        models: all models of the figure, so that colours are the same in each of its panels.
        named: what to write beside each model's point; nothing by default.
        curve: a fitted line with its band.
    """
    points = _drawn(points)
    left, right, bottom, top = limits or span(points)
    models = sorted(models or {p.model for p in points})
    colors, markers = style.model_colors(models), style.model_markers(models)
    fine = (0.05,) if top - bottom < 0.3 else ()
    for lost in (0.0, *fine, 0.1, 0.2, 0.4, 0.6, 0.8):
        dashes = (0, (4, 3)) if lost else "-"
        ax.axline((1, 1 - lost), slope=1, color="#bbbbbb" if lost else "#555555", lw=0.6, linestyle=dashes, zorder=0)
        if bottom + 0.03 * (top - bottom) < left - lost < top - 0.05 * (top - bottom):
            told = f"−{100 * lost:.0f}" if lost else "no loss"
            x = left + 0.02 * (right - left)
            label = ax.text(x, x - lost, told, fontsize=5.5, color="#777777", va="center", zorder=1)
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})
    if curve is not None:
        ax.fill_between(curve.x, curve.low, curve.high, color="#999999", alpha=0.22, lw=0, zorder=1.5)
        ax.plot(curve.x, curve.y, color="#333333", lw=0.9, zorder=2)
        label = ax.text(
            0.98, 0.03, curve.label, transform=ax.transAxes, fontsize=5.5, ha="right", va="bottom", zorder=4
        )
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8})
    for p in sorted(points, key=lambda p: p.model):
        marks = ax.errorbar(
            p.x.value,
            p.y.value,
            xerr=[[p.x.value - p.x.low], [p.x.high - p.x.value]],
            yerr=[[p.y.value - p.y.low], [p.y.high - p.y.value]],
            color=colors[p.model],
            marker=markers[p.model],
            markersize=4,
            markeredgecolor="white",
            markeredgewidth=0.4,
            ecolor=to_rgba(colors[p.model], 0.5),
            elinewidth=0.7,
            zorder=3,
        )
        style.tell(marks[0], f"{p.model} on {p.probe}: {_told(p.y)}, in distribution {_told(p.x)}")
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(lambda value, _: f"{100 * value:.3g}")
    if named:
        figure = ax.get_figure(root=True)
        assert figure is not None
        ends = [(p.x.value, p.y.value, named[p.model], colors[p.model]) for p in points]
        style.name_beside(ax, ends, 0.75 * figure.get_figheight())
    return ax


def span(points: Sequence[Point]) -> tuple[float, float, float, float]:
    """(left, right, bottom, top) that hold all points with their intervals, as fractions."""
    points = _drawn(points)
    left, right = min(p.x.low for p in points), max(p.x.high for p in points)
    bottom, top = min(p.y.low for p in points), max(max(p.y.high for p in points), left)
    dx, dy = max(0.04 * (right - left), 0.004), max(0.04 * (top - bottom), 0.004)
    return left - dx, right + dx, bottom - dy, top + dy


def _drawn(points: Sequence[Point]) -> list[Point]:
    drawn = [p for p in points if p.x.defined and p.y.defined]
    if not drawn:
        raise ValueError("no model has a defined accuracy on both sides")
    return drawn


def _told(e: Estimate) -> str:
    """``85.0 % [81.1, 88.3]``."""
    return f"{percent(e.value)} % [{percent(e.low)}, {percent(e.high)}]"


def _sets(points: Sequence[Point]) -> str:
    return ", ".join(style.short(name, 40) for name in dict.fromkeys(p.in_dist for p in points))
