"""The rank of each model on each set: how it varies with the images, and what the pairwise tests leave open."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from gradlens.figures import style

_ROW = 0.125  # inches per model
_PALE = "#dfe5ea"


@dataclass(frozen=True)
class Rank:
    """One model's rank on one set.

    Attributes:
        model, dataset: names.
        rank, low, high: with its bootstrap interval; ``nan`` where the set tells no two models apart.
        best, worst: the range that the pairwise tests leave.
    """

    model: str
    dataset: str
    rank: float
    low: float
    high: float
    best: int
    worst: int


def ranks(found: Sequence[Rank], confidence: float = 0.95) -> Figure:
    """One panel per set in the given order, one row per model, best in the first set on top.

    Args:
        found: for every set one rank per model; the first set is the one in distribution.
        confidence: of the intervals, for the legend.

    Raises:
        ValueError: nothing to draw.
    """
    if not found:
        raise ValueError("no ranks to draw")
    datasets = list(dict.fromkeys(r.dataset for r in found))
    first = [r for r in found if r.dataset == datasets[0]]
    models = [r.model for r in sorted(first, key=lambda r: (r.rank if r.rank == r.rank else 0, r.best, r.model))]
    names = style.display_names(models)
    titles = {datasets[0]: style.short(datasets[0]), **style.probe_names(datasets[1:], datasets[0])}
    with style.paper():
        columns = len(datasets) if len(datasets) <= 5 else math.ceil(len(datasets) / math.ceil(len(datasets) / 5))
        rows = math.ceil(len(datasets) / columns)
        width = style.PAGE_WIDTH if columns > 2 else style.PAGE_WIDTH * 0.72
        figure = Figure(figsize=(width, rows * (_ROW * len(models) + 0.35) + 0.65))
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for i, ax in enumerate(grid.flat):
            if i >= len(datasets):
                ax.set_visible(False)
                continue
            draw_on(ax, [r for r in found if r.dataset == datasets[i]], models)
            ax.set_title(titles[datasets[i]], fontsize=7.5)
            ax.set_yticks(range(len(models)), [names[m] for m in models], fontsize=6)
            if i + columns >= len(datasets):
                ax.tick_params(labelbottom=True)
        blue = style.PALETTE[0]
        percent = f"{100 * confidence:g} %"
        handles = [
            Line2D([], [], color=blue, marker="o", ms=3.5, lw=1.2, label=f"rank, {percent} bootstrap interval"),
            Patch(color=_PALE, label=f"what pairwise tests leave open ({percent}, all models at once)"),
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=2 if columns > 2 else 1)
        figure.supxlabel(f"Rank of {len(models)} models by accuracy (1 is best)", fontsize=7.5)
    return figure


def draw_on(ax: Axes, found: Sequence[Rank], models: Sequence[str]) -> Axes:
    """Draw the ranks of one set on ``ax``, and return it; ``models`` from top to bottom."""
    place = {m: i for i, m in enumerate(models)}
    told = True
    for r in found:
        y = place[r.model]
        ax.barh(y, r.worst - r.best + 0.7, left=r.best - 0.35, height=0.8, color=_PALE, zorder=1)
        if math.isnan(r.rank):
            told = False
            continue
        ax.plot([r.low, r.high], [y, y], color=style.PALETTE[0], lw=1.2, solid_capstyle="butt", zorder=2)
        (mark,) = ax.plot([r.rank], [y], color=style.PALETTE[0], marker="o", ms=3.5, mec="white", mew=0.4, zorder=3)
        ranked = f"rank {r.rank:g} [{r.low:g}, {r.high:g}]; pairwise tests leave {r.best} to {r.worst}"
        style.tell(mark, f"{r.model} on {r.dataset}: {ranked}")
    if not told:
        ax.text(
            0.5,
            0.5,
            "no ranking:\nmodels are not\ntold apart",
            transform=ax.transAxes,
            ha="center",
            va="center",
            fontsize=6.5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2},
            zorder=4,
        )
    ax.set_xlim(0.4, len(models) + 0.6)
    ax.set_ylim(len(models) - 0.4, -0.6)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    return ax
