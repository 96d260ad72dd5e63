"""Drift of features by depth: one panel per probe set, one line per model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlens.figures import style
from gradlens.shift.tables import percent

_PANEL = 1.55  # inches, height of a panel
_NAMED = 7  # models up to which every line has its name


@dataclass(frozen=True)
class DepthPoint:
    """How well a classifier tells a probe set from the in-distribution set by the features of one depth.

    Attributes:
        model, in_dist, probe, depth: names.
        position: 0 at the pixels, 1 at the logits.
        error: held-out, a fraction; 0.5 where the sets cannot be told apart.
        low, high: ends of its interval.
        differs: whether the error is smaller than chance after correction.
    """

    model: str
    in_dist: str
    probe: str
    depth: str
    position: float
    error: float
    low: float
    high: float
    differs: bool


def drift(points: Sequence[DepthPoint]) -> Figure:
    """Held-out error of the domain classifier along the network, probe sets from least to most drift at the last depth.

    A filled marker says that the sets differ at that depth (a test by permutation, corrected: an interval that ends
    short of 50 % is no test); the line at 50 % that they cannot be told apart. Bars are the errors' intervals. Names
    stand at the ends of the lines; with more than seven models, at the lowest and the highest end, and a legend has the
    colours.

    Raises:
        ValueError: there is no point.
    """
    if not points:
        raise ValueError("there is no drift to draw")
    last: dict[str, list[float]] = {}
    for p in points:
        deepest = max(q.position for q in points if (q.model, q.probe) == (p.model, p.probe))
        if p.position == deepest:
            last.setdefault(p.probe, []).append(p.error)
    probes = sorted(last, key=lambda probe: (-float(np.mean(last[probe])), probe))
    models = sorted({p.model for p in points})
    names, titles = style.display_names(models), style.probe_names(probes, points[0].in_dist)
    colors, markers = style.model_colors(models), style.model_markers(models)
    columns = min(len(probes), 4 if len(probes) > 6 else 3)
    rows = -(-len(probes) // columns)
    per_line = max(1, int(style.PAGE_WIDTH / (0.46 + 0.062 * max(map(len, names.values())))))
    few = len(models) <= _NAMED
    legend = 0.0 if few else 0.14 * -(-len(models) // per_line) + 0.25
    with style.paper():
        figure = Figure(figsize=(style.PAGE_WIDTH if columns > 1 else style.COLUMN_WIDTH, rows * _PANEL + 0.4 + legend))
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for i, ax in enumerate(grid.flat):
            if i >= len(probes):
                ax.set_visible(False)
                continue
            ax.grid(axis="y")
            ax.axhline(0.5, color="#555555", lw=0.6, zorder=0.5)
            at_the_end: dict[str, DepthPoint] = {}
            for model in models:
                own = sorted((p for p in points if (p.model, p.probe) == (model, probes[i])), key=lambda p: p.position)
                x, y = [p.position for p in own], [p.error for p in own]
                ax.plot(x, y, color=colors[model], lw=0.9 if few else 0.6, alpha=0.8 if few else 0.5, zorder=2)
                at_the_end |= {model: own[-1]} if own else {}
                ax.vlines(x, [p.low for p in own], [p.high for p in own], color=colors[model], lw=0.5, alpha=0.45)
                for p in own:
                    face = colors[model] if p.differs else "white"
                    (mark,) = ax.plot(
                        [p.position],
                        [p.error],
                        ls="",
                        marker=markers[model],
                        ms=3 if few else 2.4,
                        mfc=face,
                        mec=colors[model],
                        mew=0.5,
                    )
                    sure = "the sets differ" if p.differs else "not told apart"
                    error = f"{percent(p.error)} % [{percent(p.low)}, {percent(p.high)}]"
                    style.tell(mark, f"{model} at {p.depth} on {p.probe}: error {error}, {sure}")
            ax.set_title(titles[probes[i]], fontsize=7.5)
            ax.set_xlim(-0.03, 1.03)
            ax.set_ylim(0, max(0.6, 1.05 * max(p.high for p in points)))
            shown = list(at_the_end.values())
            if not few and len(shown) > 2:
                shown = [choose(shown, key=lambda p: (p.error, p.model)) for choose in (min, max)]
            ends = [(p.position, p.error, names[p.model], colors[p.model]) for p in shown]
            style.name_beside(ax, ends, 0.72 * _PANEL, size=6)
            ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}")
            if i + columns >= len(probes):
                ax.tick_params(labelbottom=True)
        if not few:
            handles = [Line2D([], [], ls="", color=colors[m], marker=markers[m], ms=4, label=names[m]) for m in models]
            figure.legend(handles=handles, loc="outside upper center", ncols=per_line, handletextpad=0.1)
        figure.supxlabel(
            "Depth: 0 at the pixels, 1 at the logits. Bars: 95 % intervals. Filled: sets differ (p ≤ 0.05, corrected)",
            fontsize=7.5,
        )
        figure.supylabel("Held-out error (%)", fontsize=7.5)
    return figure
