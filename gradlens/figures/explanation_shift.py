"""How maps move when the data shift: by depth on one probe set, and against the accuracy lost on all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gradlens.figures import style
from gradlens.shift.explanation_shift import Change
from gradlens.shift.tables import percent

_BEFORE, _AFTER, _CHANCE = "#0072B2", "#D55E00", "#999999"


@dataclass(frozen=True)
class Moved:
    """One model on one probe set.

    Attributes:
        lost: accuracy gap, a fraction.
        alike: how alike its maps stay, low and high the ends of its interval.
    """

    model: str
    probe: str
    lost: float
    alike: float
    low: float
    high: float


@dataclass(frozen=True)
class Level:
    """One model at one depth: the share of its maps on the object, and what maps that know nothing have there."""

    model: str
    depth: str
    energy: Change
    chance_in_dist: float
    chance_probe: float


def explanation_drop(points: Sequence[Moved], rho: Mapping[str, tuple[float, float, float]], in_dist: str) -> Figure:
    """One panel per probe set, mildest first: accuracy lost against how alike the maps stay, one point per model.

    Args:
        points: all models and probe sets.
        rho: per probe set Spearman's correlation of moving maps with lost accuracy, low, high; NaN where there is none.
        in_dist: the set that both are measured from.
    """
    lost: dict[str, list[float]] = {}
    for p in points:
        lost.setdefault(p.probe, []).append(p.lost)
    probes = sorted(lost, key=lambda probe: (float(np.mean(lost[probe])), probe))
    models = sorted({p.model for p in points})
    names, titles = style.display_names(models), style.probe_names(probes, in_dist)
    colors, markers = style.model_colors(models), style.model_markers(models)
    with style.paper():
        columns = min(len(probes), 3)
        rows = math.ceil(len(probes) / columns)
        per_line = max(1, int(style.PAGE_WIDTH / (0.46 + 0.062 * max(map(len, names.values())))))
        legend = 0.14 * math.ceil(len(models) / per_line) + 0.25 if columns > 1 else 0.0
        width = style.PAGE_WIDTH if columns > 1 else style.PAGE_WIDTH * 0.62
        figure = Figure(figsize=(width, rows * (1.75 if columns > 1 else 2.9) + 0.45 + legend))
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for k, ax in enumerate(axes.flat):
            if k >= len(probes):
                ax.set_visible(False)
                continue
            for p in sorted((p for p in points if p.probe == probes[k]), key=lambda p: p.model):
                marks = ax.errorbar(
                    100 * p.lost,
                    p.alike,
                    yerr=[[p.alike - p.low], [p.high - p.alike]],
                    color=colors[p.model],
                    marker=markers[p.model],
                    markersize=4,
                    markeredgecolor="white",
                    markeredgewidth=0.4,
                    elinewidth=0.6,
                )
                alike = f"{p.alike:.2f} [{p.low:.2f}, {p.high:.2f}]"
                style.tell(marks[0], f"{p.model} on {p.probe}: lost {percent(p.lost)} points, maps alike {alike}")
            value, low, high = rho.get(probes[k], (math.nan,) * 3)
            told = f"ρ {value:.2f} [{low:.2f}, {high:.2f}]".replace("-", "−") if math.isfinite(value) else ""
            ax.set_title(titles[probes[k]], fontsize=7.5)
            ax.set_title(told, loc="right", fontsize=5.5, color="#444444")
            ax.axvline(0, color="#bbbbbb", lw=0.6, zorder=0)
            ax.axhline(0, color="#bbbbbb", lw=0.6, zorder=0)
            if k + columns >= len(probes):
                ax.tick_params(labelbottom=True)
        if columns == 1:  # there is room for names beside the points
            ends = [(100 * p.lost, p.alike, names[p.model], colors[p.model]) for p in points]
            style.name_beside(axes[0, 0], ends, 0.75 * figure.get_figheight())
        else:
            handles = [Line2D([], [], ls="", color=colors[m], marker=markers[m], ms=4, label=names[m]) for m in models]
            ncols = min(per_line, len(models))
            figure.legend(handles=handles, loc="outside upper center", ncols=ncols, handletextpad=0.1)
        said = (
            "; ρ: Spearman's, of movement (1 − likeness) and loss"
            if any(map(math.isfinite, sum(rho.values(), ())))
            else ""
        )
        figure.supxlabel(f"Accuracy lost (percentage points), bars: intervals of the likeness{said}", fontsize=7.5)
        figure.supylabel("Likeness to the maps in distribution", fontsize=7.5)
    return figure


def explanation_depths(levels: Sequence[Level], in_dist: str, probe: str) -> Figure:
    """One panel per model: the share of the maps on the object at every depth, in distribution and on the probe set.

    Args:
        levels: all models, each from its first depth to its last.
        in_dist, probe: names of the two sets.
    """
    models = list(dict.fromkeys(level.model for level in levels))
    names = style.display_names(models)
    shown = style.probe_names([probe], in_dist)[probe]
    with style.paper():
        columns = min(len(models), 5)
        rows = math.ceil(len(models) / columns)
        width = max(2.6, style.PAGE_WIDTH * columns / 5)
        figure = Figure(figsize=(width, rows * 1.35 + (0.75 if columns > 3 else 1.0)))
        axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
        ends = (max(c.in_dist, c.probe + c.high - c.change) for c in (level.energy for level in levels))
        top = max(*(level.chance_in_dist for level in levels), *ends)
        for k, ax in enumerate(axes.flat):
            if k >= len(models):
                ax.set_visible(False)
                continue
            own = [level for level in levels if level.model == models[k]]
            x = np.arange(1, len(own) + 1)
            ax.plot(x, [level.chance_in_dist for level in own], color=_CHANCE, lw=0.9, ls=(0, (2, 2)))
            before, after = [level.energy.in_dist for level in own], [level.energy.probe for level in own]
            ax.grid(axis="y")
            ax.plot(x, before, color=_BEFORE)
            # the interval is that of the change, drawn where the change ends
            reach = [
                [level.energy.change - level.energy.low for level in own],
                [level.energy.high - level.energy.change for level in own],
            ]
            ax.errorbar(x, after, yerr=reach, color=_AFTER, elinewidth=0.7)
            for at, level in zip(x, own, strict=True):
                where, change = f"{level.model} at {level.depth}", level.energy
                (mark,) = ax.plot(at, change.in_dist, ls="", color=_BEFORE, marker="o", ms=2.8)
                style.tell(mark, f"{where} on {in_dist}: {percent(change.in_dist)} % of the map on the object")
                (mark,) = ax.plot(at, change.probe, ls="", color=_AFTER, marker="s", ms=2.8)
                moved = f"{percent(change.change, signed=True)} points [{percent(change.low)}, {percent(change.high)}]"
                style.tell(mark, f"{where} on {probe}: {percent(change.probe)} % of the map on the object, {moved}")
            ax.set_title(names[models[k]], fontsize=7)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.set_xlim(0.6, len(own) + 0.4)
            ax.set_ylim(0, 1.06 * top)
            ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}")
        handles = [
            Line2D([], [], color=_BEFORE, marker="o", ms=3, label=style.short(in_dist)),
            Line2D([], [], color=_AFTER, marker="s", ms=3, label=f"{shown} (bars: interval of the change)"),
            Line2D([], [], color=_CHANCE, ls=(0, (2, 2)), label="share of the image that the object covers"),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=3 if columns > 3 else 1)
        figure.supxlabel("Depth, from first to last", fontsize=7.5)
        figure.supylabel("Share of the map on the object (%)", fontsize=7.5)
    return figure
