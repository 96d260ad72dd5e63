"""The parts of a drop that go with each factor: a panel per factor, a point with its interval per model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gradlens.figures import style
from gradlens.shift.tables import percent

_ROW = 0.145  # inches per model
_PANELS = 5  # in a row


@dataclass(frozen=True)
class PartPoint:
    """The part of one model's drop that goes with one factor, as fractions of accuracy."""

    model: str
    factor: str
    value: float
    low: float
    high: float


def factor_split(points: Sequence[PartPoint], probe: str, drops: dict[str, float], interval: str) -> Figure:
    """One panel per factor in the order given, models in rows, the one that loses most on top.

    The parts of a model add up to what it loses, which stands beside its name. A hollow marker's interval holds zero.

    Args:
        points: of every model for every factor.
        probe: the set's name.
        drops: accuracy that each model loses, a fraction.
        interval: how the intervals were made.

    Raises:
        ValueError: there are no points.
    """
    if not points:
        raise ValueError("expected at least one factor")
    factors = list(dict.fromkeys(p.factor for p in points))
    models = sorted(drops, key=lambda m: (drops[m], m))
    names = style.display_names(models)
    height = {m: i for i, m in enumerate(models)}
    rows = math.ceil(len(factors) / _PANELS)
    columns = math.ceil(len(factors) / rows)
    with style.paper():
        figure = Figure(figsize=(style.PAGE_WIDTH, rows * (0.5 + _ROW * max(len(models), 3)) + 0.45))
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        colors, markers = style.model_colors(models), style.model_markers(models)
        for i, ax in enumerate(grid.flat):
            if i >= len(factors):
                ax.set_visible(False)
                continue
            ax.axvline(0, color="#666666", lw=0.7, zorder=0.5)
            ax.grid(axis="x")
            ax.hlines(range(len(models)), 0, 1, transform=ax.get_yaxis_transform(), color="#f0f0f0", lw=0.5, zorder=0)
            for p in points:
                if p.factor == factors[i]:
                    y = height[p.model]
                    color, sure = colors[p.model], p.low > 0 or p.high < 0
                    ax.plot([p.low, p.high], [y, y], color=color, lw=1.1, alpha=0.55, solid_capstyle="butt")
                    (mark,) = ax.plot(
                        p.value, y, marker=markers[p.model], ms=3, color=color, mfc=color if sure else "white", mew=0.7
                    )
                    told = f"{percent(p.value, signed=True)} points [{percent(p.low)}, {percent(p.high)}]"
                    style.tell(mark, f"{p.model} on {probe}, {p.factor}: {told} of the {percent(drops[p.model])} lost")
            ax.set_title(style.short(factors[i], 24), fontsize=7.5)
            ax.set_yticks(range(len(models)), [f"{names[m]} ({100 * drops[m]:.0f})" for m in models])
            ax.set_ylim(-0.7, len(models) - 0.3)
            ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}")
            ax.tick_params(axis="y", length=0, labelleft=i % columns == 0)
            ax.tick_params(labelbottom=True)
        told = (
            f"Points of accuracy lost on {style.short(probe, 40)} that go with each factor (in all: beside the model)"
        )
        figure.supxlabel(f"{told}\nBars: {interval}; hollow where they hold 0", fontsize=7.5)
    return figure
