"""Accuracy by confidence: in distribution and on the probe set where confidences mean least, a panel per model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlens.figures import style
from gradlens.shift.calibration import Reliability
from gradlens.shift.tables import percent

_COLORS = (style.PALETTE[0], style.PALETTE[1])
_MARKERS = ("o", "s")
_LINE = 8.5  # points that a line above a panel takes


def reliability(curves: Sequence[Reliability], in_dist: str) -> Figure:
    """One panel per model in the given order: bars are intervals of the bins' accuracies, the diagonal is calibrated.

    Filled markers: after temperature scaling. Open ones, dashed: before.

    Args:
        curves: of each model those of ``in_dist`` and of one probe set, with and without scaling.
        in_dist: the in-distribution set's name.

    Raises:
        ValueError: nothing to draw.
    """
    models = list(dict.fromkeys(c.model for c in curves))
    if not models:
        raise ValueError("no reliability to draw")
    names = style.display_names(models)
    probes = style.probe_names([c.dataset for c in curves if c.dataset != in_dist], in_dist)
    with style.paper():
        columns = min(3, len(models))
        rows = math.ceil(len(models) / columns)
        figure = Figure(figsize=(style.PAGE_WIDTH * (columns / 3 if columns > 1 else 0.5), 2.35 * rows + 0.6))
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for i, ax in enumerate(grid.flat):
            if i >= len(models):
                ax.set_visible(False)
                continue
            own = [c for c in curves if c.model == models[i]]
            draw_on(ax, own, in_dist, probes)
            ax.set_title(names[models[i]], fontsize=7.5, pad=4 + _LINE * len({c.dataset for c in own}))
            if i + columns >= len(models):
                ax.tick_params(labelbottom=True)
        handles = [
            Line2D([], [], color=_COLORS[0], marker="o", ms=4, label=style.short(in_dist)),
            Line2D([], [], color=_COLORS[1], marker="s", ms=4, label="probe set with the largest error"),
            Line2D([], [], color="#666666", marker="o", ms=4, mfc="white", ls="--", label="before temperature scaling"),
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=columns)
        figure.supxlabel("Mean confidence of the bin (%)", fontsize=7.5)
        figure.supylabel("Accuracy of the bin (%)", fontsize=7.5)
    return figure


def draw_on(ax: Axes, curves: Sequence[Reliability], in_dist: str, names: Mapping[str, str]) -> Axes:
    """Draw the curves of one model on ``ax``, its errors in lines above it, and return it; ``names``: what to call the
    probe sets.
    """
    ax.plot([0, 1], [0, 1], color="#555555", lw=0.6, zorder=0)
    above = 2 + _LINE * len({c.dataset for c in curves})
    for c in sorted(curves, key=lambda c: (c.dataset != in_dist, c.scaling != "temperature")):
        other = int(c.dataset != in_dist)
        values = [e.value for e in c.accuracy]
        look: Any = {"color": _COLORS[other], "marker": _MARKERS[other]}
        if c.scaling == "none":
            (line,) = ax.plot(c.confidence, values, **look, ls="--", lw=0.7, ms=3, mfc="white", mew=0.6, alpha=0.75)
            line.set_zorder(2)
            style.tell(line, _told(c, "before temperature scaling"))
            continue
        bars = [[e.value - e.low for e in c.accuracy], [e.high - e.value for e in c.accuracy]]
        marks = ax.errorbar(
            c.confidence, values, yerr=bars, **look, ms=3.5, elinewidth=0.6, mec="white", mew=0.4, zorder=3
        )
        style.tell(marks[0], _told(c, "after temperature scaling"))
        before = next(
            (f" ({100 * b.ece:.1f} before)" for b in curves if (b.dataset, b.scaling) == (c.dataset, "none")), ""
        )
        name = f"{names[c.dataset]}: " if other else ""
        above -= _LINE
        ax.annotate(
            f"{name}ECE {100 * c.ece:.1f} %{before}",
            (0, 1), (0, above), xycoords="axes fraction", textcoords="offset points", annotation_clip=False,
            fontsize=6.5, color=_COLORS[other], va="bottom",
        )  # fmt: skip
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.02)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks([0, 0.25, 0.5, 0.75, 1])
        axis.set_major_formatter(lambda value, _: f"{100 * value:.3g}")
    return ax


def _told(c: Reliability, when: str) -> str:
    bins = ", ".join(f"{100 * x:.0f} → {percent(e.value)} %" for x, e in zip(c.confidence, c.accuracy, strict=True))
    return f"{c.model} on {c.dataset}, {when}: ECE {percent(c.ece)} %; confidence → accuracy {bins}"
