"""What a swapped background does to every model: accuracy before and after, and answers that follow the background."""

from __future__ import annotations

import math
from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlens.figures import style
from gradlens.shift.shortcut import Swap
from gradlens.shift.tables import percent

_BEFORE, _AFTER, _FOLLOWS = "#0072B2", "#D55E00", "#CC79A7"


def shortcut(judged: Mapping[tuple[str, str], Swap]) -> Figure:
    """One panel per probe set, one line per model, the largest loss first.

    Args:
        judged: by (model, probe set).
    """
    probes = list(dict.fromkeys(probe for _, probe in judged))
    models = list(dict.fromkeys(model for model, _ in judged))
    names = style.display_names(models)
    with style.paper():
        width = style.PAGE_WIDTH * (0.85 if len(probes) == 1 else 1)
        figure = Figure(figsize=(width, len(probes) * (0.155 * len(models) + 0.55) + 0.6))
        axes = figure.subplots(len(probes), 1, sharex=True, squeeze=False)[:, 0]
        for ax, probe in zip(axes, probes, strict=True):
            own = sorted((m for m in models if (m, probe) in judged), key=lambda m: (judged[m, probe].loss, m))
            for y, model in enumerate(own):
                s = judged[model, probe]
                ax.plot([100 * s.swapped, 100 * s.in_dist], [y, y], color="#cccccc", lw=2.2, zorder=1)
                ax.plot(100 * s.in_dist, y, "o", color=_BEFORE, ms=4, zorder=3)
                low, high = (
                    100 * min(1.0, max(0.0, s.in_dist - end)) for end in (s.high, s.low)
                )  # the interval is that of the loss
                ax.plot([low, high], [y, y], color=_AFTER, lw=0.9, zorder=2)
                (mark,) = ax.plot(100 * s.swapped, y, "s", color=_AFTER, ms=4, zorder=3)
                told = f"right on {percent(s.swapped)} %, with its own background on {percent(s.in_dist)} %"
                style.tell(mark, f"{model} on {probe}: {told}")
                if math.isfinite(s.follows):
                    ax.plot(100 * s.follows, y, "D", color=_FOLLOWS, ms=3.4, zorder=3)
                    ax.plot(100 * s.follows_before, y, "D", mfc="white", mec=_FOLLOWS, ms=3.4, mew=0.8, zorder=3)
            ax.set_yticks(range(len(own)), [names[m] for m in own], fontsize=6.5)
            ax.set_ylim(-0.6, len(own) - 0.4)
            ax.set_xlim(-2, 102)
            ax.set_title(f"{style.short(probe, 60)}: {judged[own[0], probe].n} pairs", fontsize=7.5)
            ax.grid(axis="x")
        handles = [
            Line2D([], [], ls="", marker="o", color=_BEFORE, ms=4, label="right, own background"),
            Line2D([], [], marker="s", color=_AFTER, ms=4, lw=0.9, label="right, swapped (line: interval of the loss)"),
            Line2D(
                [],
                [],
                ls="",
                marker="D",
                mfc="white",
                mec=_FOLLOWS,
                ms=3.4,
                label="says the new background's class, before",
            ),
            Line2D([], [], ls="", marker="D", color=_FOLLOWS, ms=3.4, label="and after the swap"),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
        figure.supxlabel("share of the images (%)", fontsize=7.5)
    return figure
