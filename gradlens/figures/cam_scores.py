"""Methods × depths of every model as a heat map of one measure: which maps are true, where."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gradlens.figures import style
from gradlens.figures.style import PAGE_WIDTH, paper, text_color
from gradlens.records import CamScore

_ROW = 0.165  # inches
_SLANT = 0.38  # inches that the last depth's name reaches to the right of its cell
_COLOURS = "viridis"
_GLYPH = 0.0083  # inches that a character takes per point


def cam_scores(
    scores: Sequence[CamScore], *, title: str, better: Literal["higher", "lower"], methods: Sequence[str] = ()
) -> Figure:
    """Rows are methods, columns each model's depths from shallow to deep, before them one for methods at the pixels.

    The brighter, the better; the value is printed in the cell, bold in the best cell of each model. Hatched: no image
    had a defined value. Empty: the method has no map there.

    Args:
        scores: of one measure.
        title: of the measure.
        better: which direction is better.
        methods: order of the rows; that of the scores if empty.

    Raises:
        ValueError: no scores, or of several measures.
    """
    if len({s.measure for s in scores}) != 1:
        raise ValueError("expected the scores of one measure")
    there = dict.fromkeys(s.method for s in scores)
    rows = [m for m in methods or sorted(there, key=lambda m: m == "random") if m in there]
    models = list(dict.fromkeys(s.model for s in scores))
    columns = {model: _depths([s for s in scores if s.model == model]) for model in models}
    names = style.display_names(models)
    margin = 0.1 + max(map(len, rows)) * _GLYPH * 6.2
    lines = _lines(models, columns, PAGE_WIDTH - margin - _SLANT)
    block = 0.68 + _ROW * len(rows)
    height = 0.42 + block * len(lines) + 0.2
    defined = [s.value for s in scores if not math.isnan(s.value)]
    low, high = (min(defined), max(defined)) if defined else (0.0, 1.0)
    with paper():
        figure = Figure(figsize=(PAGE_WIDTH, height), layout="none")  # type: ignore[arg-type]  # a documented value
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set(xlim=(0, PAGE_WIDTH), ylim=(height, 0))
        ax.axis("off")
        arrow = "higher is better" if better == "higher" else "lower is better"
        ax.text(0.06, 0.16, f"{title} ({arrow})", fontsize=9, weight="bold", va="center")
        y = 0.42
        for line in lines:
            cell = min(0.42, (PAGE_WIDTH - margin - _SLANT - 0.1 * len(line)) / sum(len(columns[m]) for m in line))
            x = margin
            for i, method in enumerate(rows):
                top = y + 0.56 + _ROW * i
                ax.text(margin - 0.05, top + _ROW / 2, method, ha="right", va="center", fontsize=6.2)
            for model in line:
                own = {(s.method, s.depth): s for s in scores if s.model == model}
                best = _best(list(own.values()), better)
                _heads(ax, columns[model], names[model], x, y, cell)
                for i, method in enumerate(rows):
                    for k, depth in enumerate(columns[model]):
                        score = own.get((method, depth))
                        if score is not None:
                            at = (x + k * cell, y + 0.56 + _ROW * i)
                            _cell(ax, score, at, cell, (low, high), better, score is best)
                x += cell * len(columns[model]) + 0.1
            y += block
        _legend(ax, low, high, better, height)
    return figure


def _depths(scores: Sequence[CamScore]) -> list[str]:
    return [s.depth for s in sorted({s.depth: s for s in scores}.values(), key=lambda s: s.position)]


def _lines(models: Sequence[str], columns: dict[str, list[str]], width: float) -> list[list[str]]:
    """Models distributed over lines such that a cell stays wide enough for its number."""
    lines: list[list[str]] = [[]]
    for model in models:
        taken = sum(len(columns[m]) for m in lines[-1]) + len(columns[model])
        if lines[-1] and width / taken < 0.27:
            lines.append([])
        lines[-1].append(model)
    return lines


def _heads(ax: Axes, depths: Sequence[str], name: str, x: float, y: float, cell: float) -> None:
    ax.text(x, y + 0.02, name, fontsize=7, weight="bold", va="center")
    for k, depth in enumerate(depths):
        short = depth if len(depth) <= 16 else "…" + depth[-15:]  # the end tells depths apart
        ax.text(x + (k + 0.5) * cell, y + 0.54, short, fontsize=4.6, rotation=38, ha="left", va="bottom",
                rotation_mode="anchor", color="#444444")  # fmt: skip


def _best(scores: Sequence[CamScore], better: str) -> CamScore | None:
    defined = [s for s in scores if not math.isnan(s.value)]
    if not defined:
        return None
    return max(defined, key=lambda s: s.value) if better == "higher" else min(defined, key=lambda s: s.value)


def _cell(
    ax: Axes,
    score: CamScore,
    at: tuple[float, float],
    cell: float,
    span: tuple[float, float],
    better: str,
    best: bool,
) -> None:
    x, y = at
    if math.isnan(score.value):
        ax.add_patch(Rectangle((x, y), cell, _ROW, facecolor="#f4f4f4", edgecolor="#cccccc", hatch="////", lw=0))
        return
    low, high = span
    share = (score.value - low) / (high - low) if high > low else 0.5
    color = mpl.colormaps[_COLOURS](share if better == "higher" else 1 - share)
    ax.add_patch(Rectangle((x, y), cell, _ROW, facecolor=color, edgecolor="white", lw=0.4))
    text = f"{score.value:z.2f}".replace("0.", ".", 1) if abs(score.value) < 0.995 else f"{score.value:.1f}"
    ax.text(
        x + cell / 2, y + _ROW / 2, text.replace("-", "−"), ha="center", va="center_baseline",
        fontsize=min(5.6, cell * 17), color=text_color(color), weight="bold" if best else "normal",
    )  # fmt: skip


def _legend(ax: Axes, low: float, high: float, better: str, height: float) -> None:
    ramp = mpl.colormaps[_COLOURS](np.linspace(0, 1, 128) if better == "higher" else np.linspace(1, 0, 128))
    y = height - 0.13
    ax.imshow(ramp[None, :, :3], extent=(0.6, 1.6, y + 0.05, y - 0.05), aspect="auto")
    ax.text(0.55, y, f"{low:.2f}".replace("-", "−"), ha="right", va="center", fontsize=6)
    ax.text(1.65, y, f"{high:.2f}", ha="left", va="center", fontsize=6)
    note = "mean over images; bold: the model's best; hatched: undefined for every image (blank maps)"
    ax.text(2.1, y, note, va="center", fontsize=6, color="#444444")
    ax.set(xlim=(0, PAGE_WIDTH), ylim=(height, 0))
