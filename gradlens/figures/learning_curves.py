"""How training went: loss, accuracy and learning rate over the epochs, of one run or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gradlens.figures import style

_PANELS = (("loss", "Loss", 1.25), ("accuracy", "Accuracy (%)", 1.25), ("lr", "Rate", 0.5))  # inches


@dataclass(frozen=True)
class TrainingRun:
    """One training run as a card or ``metrics.jsonl`` tells it.

    Attributes:
        model: its name; runs of one name differ in their seed alone, and are drawn as one band.
        history: one row per epoch with ``epoch`` (from 1), ``loss``, ``accuracy``, ``select_loss``,
            ``select_accuracy`` and ``lr``.
        kept: the epoch whose weights were kept; 0 for none.
        phases: the last epoch of each phase; empty where there is one.
    """

    model: str
    history: tuple[Mapping[str, Any], ...]
    kept: int = 0
    phases: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.history:
            raise ValueError(f"{self.model}: expected at least one epoch")


def run_of(model: str, training: Mapping[str, Any]) -> TrainingRun:
    """A run as the ``training`` part of a card tells it (:class:`gradlens.zoo.cards.Training`, dumped).

    Raises:
        ValueError: the card has no history.
    """
    lengths = [p["epochs"] for p in training.get("settings", {}).get("phases", ())]
    return TrainingRun(
        model,
        tuple(training["history"]),
        int(training["kept"]),
        tuple(int(end) for end in np.cumsum(lengths)) if len(lengths) > 1 else (),
    )


def learning_curves(runs: Sequence[TrainingRun]) -> Figure:
    """Loss and accuracy, on training images dashed and on selection images solid, and below them the learning rate.

    Several runs of one model are a line through their means and a band from the lowest to the highest. A dot is the
    epoch whose weights were kept; a vertical line, where all runs have the same phases, is the end of a phase.

    Args:
        runs: of one or more models.

    Raises:
        ValueError: there are none.
    """
    if not runs:
        raise ValueError("expected at least one training run")
    models = sorted({r.model for r in runs})
    names, colors, markers = style.display_names(models), style.model_colors(models), style.model_markers(models)
    per_line = max(1, int(style.COLUMN_WIDTH / (0.38 + 0.058 * max(map(len, names.values())))))
    lines = -(-len(models) // per_line) if len(models) > 1 else 0
    with style.paper():
        height = sum(inches for _, _, inches in _PANELS) + 0.75 + 0.16 * lines
        figure = Figure(figsize=(style.COLUMN_WIDTH, height))
        axes = dict(
            zip(
                (panel for panel, _, _ in _PANELS),
                figure.subplots(3, 1, sharex=True, height_ratios=[inches for _, _, inches in _PANELS]),
                strict=True,
            )
        )
        for model in models:
            own = [r for r in runs if r.model == model]
            for panel, ax in axes.items():
                if panel == "lr":
                    _band(ax, own, "lr", 1, color=colors[model], ls="-", lw=0.9)
                    continue
                scale = 100 if panel == "accuracy" else 1
                _band(ax, own, panel, scale, color=colors[model], ls=(0, (3, 1.5)), lw=0.8, alpha=0.75)
                _band(ax, own, f"select_{panel}", scale, color=colors[model], ls="-", lw=1.1)
                for run in own:
                    kept = next((row for row in run.history if row["epoch"] == run.kept), None)
                    if kept is not None:
                        ax.plot(
                            kept["epoch"], scale * kept[f"select_{panel}"], color=colors[model], ls="",
                            marker=markers[model], ms=3.6, mec="white", mew=0.5, zorder=4,
                        )  # fmt: skip
        longest = max(r.history[-1]["epoch"] for r in runs)
        ends = {r.phases for r in runs}
        for panel, label, _ in _PANELS:
            ax = axes[panel]
            ax.set_ylabel(label)
            ax.grid(axis="y")
            for end in next(iter(ends))[:-1] if len(ends) == 1 else ():
                ax.axvline(end + 0.5, color="#888888", lw=0.6, ls=":", zorder=1)
        figure.align_ylabels()
        axes["accuracy"].yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        axes["lr"].set_ylim(bottom=0)
        axes["lr"].yaxis.set_major_locator(MaxNLocator(2))
        axes["lr"].yaxis.set_major_formatter(lambda value, _: f"{value:.2g}")
        axes["lr"].set_xlim(0.5, longest + 0.5)
        axes["lr"].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes["lr"].set_xlabel("Epoch")
        _legend(figure, models, names, colors, markers, per_line)
    return figure


def _band(ax: Axes, runs: Sequence[TrainingRun], field: str, scale: float, **look: Any) -> None:
    """Mean of the runs at each epoch, and the room between the lowest and the highest."""
    epochs = sorted({row["epoch"] for run in runs for row in run.history})
    at: list[list[float]] = [
        [scale * row[field] for run in runs for row in run.history if row["epoch"] == e] for e in epochs
    ]
    if any(len(values) > 1 for values in at):
        ax.fill_between(
            epochs, [min(v) for v in at], [max(v) for v in at], color=look["color"], alpha=0.15, lw=0, zorder=1
        )
    ax.plot(epochs, [float(np.mean(v)) for v in at], zorder=3, marker="." if len(epochs) == 1 else "", **look)


def _legend(
    figure: Figure,
    models: Sequence[str],
    names: Mapping[str, str],
    colors: Mapping[str, str],
    markers: Mapping[str, str],
    per_line: int,
) -> None:
    plain = colors[models[0]] if len(models) == 1 else "#444444"
    figure.legend(
        handles=[
            Line2D([], [], color=plain, ls=(0, (3, 1.5)), lw=0.8, label="training"),
            Line2D([], [], color=plain, lw=1.1, label="selection"),
            Line2D([], [], color=plain, ls="", marker="o", ms=3.6, mec="white", mew=0.5, label="kept"),
        ],
        loc="outside upper center", ncols=3, handlelength=1.8,
    )  # fmt: skip
    if len(models) > 1:
        figure.legend(
            handles=[Line2D([], [], color=colors[m], marker=markers[m], ms=3.5, label=names[m]) for m in models],
            loc="outside lower center",
            ncols=per_line,
            handlelength=1.4,
            handletextpad=0.4,
        )
