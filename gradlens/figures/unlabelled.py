"""Estimated accuracy of each model on a set without labels, by every way to estimate it."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlens.figures import style
from gradlens.shift.tables import percent
from gradlens.shift.unlabelled import ESTIMATORS, Guess, Record

_OTHER = "#b5b5b5"


def unlabelled(dataset: str, guesses: Sequence[Guess], records: Sequence[Record]) -> Figure:
    """One row per model, best in distribution first: all estimates as ticks, the one with the best record in colour.

    The coloured point has its interval (thick) and, beyond it, the mean error of its track record (thin).

    Args:
        dataset: the set.
        guesses: those of other sets, and undefined ones, are left out.
        records: on labelled sets, best first; may be empty.

    Raises:
        ValueError: there is no estimate on this set.
    """
    own = [g for g in guesses if g.dataset == dataset and g.estimate.defined]
    naive = {g.model: g.estimate.value for g in own if g.method == "in_dist_accuracy"}
    rest = [g for g in own if g.method != "in_dist_accuracy"]
    if not rest:
        raise ValueError(f"there is no estimate of accuracy on {dataset}")
    ways = {g.way for g in rest}
    best = next((r for r in records if r.mae.defined and not r.undefined and (r.method, r.probabilities) in ways), None)
    models = sorted(dict.fromkeys(g.model for g in rest), key=lambda m: -naive.get(m, 0.0))
    names = style.display_names(models)
    with style.paper():
        figure = Figure(figsize=(style.PAGE_WIDTH * 0.72, 0.2 * len(models) + 1.1))
        ax = figure.add_subplot()
        for y, model in enumerate(models):
            ax.axhline(y, color="#eeeeee", lw=0.5, zorder=0)
            for g in rest:
                if g.model == model and (best is None or g.way != (best.method, best.probabilities)):
                    (mark,) = ax.plot(g.estimate.value, y, ls="", marker="|", ms=6, color=_OTHER, zorder=1)
                    style.tell(mark, f"{model} on {dataset}, {_way(*g.way)}: {_estimated(g)}")
            if model in naive:
                (mark,) = ax.plot(
                    [naive[model]], [y], ls="", marker="o", ms=3.6, mfc="white", mec="#555555", mew=0.7, zorder=2
                )
                style.tell(mark, f"{model}, accuracy in distribution: {percent(naive[model])} %")
            for g in rest:
                if best is None or g.model != model or g.way != (best.method, best.probabilities):
                    continue
                e = g.estimate
                ax.hlines(
                    y, max(0, e.low - best.mae.value), min(1, e.high + best.mae.value), color=style.PALETTE[0], lw=0.6
                )
                ax.hlines(y, e.low, e.high, color=style.PALETTE[0], lw=2.2)
                (mark,) = ax.plot([e.value], [y], ls="", marker="o", ms=4, color=style.PALETTE[0], zorder=3)
                style.tell(mark, f"{model} on {dataset}, {_way(*g.way)}: {_estimated(g)}")
        ax.set_yticks(range(len(models)), [names[m] for m in models])
        ax.set_ylim(len(models) - 0.4, -0.6)
        ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}")
        ax.set_xlabel("Estimated accuracy (%)")
        ax.set_title(style.short(dataset, 60))
        handles = [
            Line2D([], [], ls="", marker="|", ms=6, color=_OTHER, label="other ways"),
            Line2D([], [], ls="", marker="o", ms=3.6, mfc="white", mec="#555555", label="accuracy in distribution"),
        ]
        if best is not None:
            way = _way(best.method, best.probabilities)
            told = f"{way}: interval, ± {percent(best.mae.value)} (its error elsewhere)"
            handles.insert(0, Line2D([], [], marker="o", ms=4, lw=2.2, color=style.PALETTE[0], label=told))
        figure.legend(handles=handles, loc="outside lower center", ncols=1 if best else 2)
    return figure


def _way(method: str, probabilities: str) -> str:
    return ESTIMATORS[method].title + ("" if probabilities == "none" else f", {probabilities}")


def _estimated(g: Guess) -> str:
    e = g.estimate
    return f"estimated {percent(e.value)} %" + (f" [{percent(e.low)}, {percent(e.high)}]" if e.low < e.high else "")
