"""Gap per model and shift, as a heat map: which model loses how much where, with the interval in every cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from gradlens.figures import style
from gradlens.records import GapReport
from gradlens.shift.metrics import METRICS

_ROW = 0.31  # inches
_CELL = 0.78  # inches, the widest a cell gets
_GLYPH = 0.6  # mean width of a digit or letter, in font sizes


def gap_heatmap(
    reports: Sequence[GapReport], metric: str = "accuracy", label_space: Literal["shared", "full"] = "shared"
) -> Figure:
    """Models (rows, smallest mean gap first) by probe sets (columns, mildest first).

    Each cell holds the gap and its interval; bold where the interval excludes zero. Brown is score lost, blue is score
    gained. A gap that is not defined is hatched; a pair of model and probe without a report stays white.

    Args:
        reports: of any metrics and label spaces; the ones asked for are drawn.
        metric: whose gaps.
        label_space: in which.

    Raises:
        ValueError: no report is of this metric and label space.
    """
    chosen = _chosen(reports, metric, label_space)
    probes = list(dict.fromkeys(r.probe for r in chosen))
    models = list(dict.fromkeys(r.model for r in chosen))
    margin = 0.62 + max(map(len, style.display_names(models).values())) * _GLYPH * 7 / 72
    width = float(np.clip(margin + _CELL * (len(probes) + 1) + 0.6, style.COLUMN_WIDTH, style.PAGE_WIDTH))
    with style.paper():
        figure = Figure(figsize=(width, 1.35 + _ROW * len(models)))
        ax = figure.add_subplot()
        image = draw_on(ax, chosen, metric, label_space, cell=(width - margin - 0.6) / (len(probes) + 1))
        bar = figure.colorbar(image, ax=ax, fraction=0.03, pad=0.015, aspect=18)
        bar.set_label(f"{_unit(metric)} lost")
        bar.outline.set_visible(False)
        array = image.get_array()
        shown = np.ma.compressed(array) if array is not None else np.empty(0)
        if shown.any():  # only the colours that occur, and zero; all of them where every gap is nought
            bar.ax.set_ylim(min(0.0, shown.min()), max(0.0, shown.max()))
        style.caption(figure, caption(chosen, metric, label_space))
    return figure


def draw_on(
    ax: Axes,
    reports: Sequence[GapReport],
    metric: str = "accuracy",
    label_space: Literal["shared", "full"] = "shared",
    cell: float = _CELL,
) -> AxesImage:
    """Draw the heat map on ``ax`` and return its image (for a colour bar); see :func:`gap_heatmap`.

    Args:
        ax: cleared axes.
        reports: of any metrics and label spaces; the ones asked for are drawn.
        metric: whose gaps.
        label_space: in which.
        cell: width of a cell in inches, for the size of the text.
    """
    chosen = _chosen(reports, metric, label_space)
    at = {(r.model, r.probe): r for r in chosen}
    models = _sorted_by_mean_gap([(r.model, r) for r in chosen])
    probes = _sorted_by_mean_gap([(r.probe, r) for r in chosen])
    in_dist = chosen[0].in_dist
    scale = 100 if _is_fraction(metric) else 1
    # a gap of a score that is better when lower is a loss when negative
    sign = -1 if _registered(metric) in METRICS and METRICS[_registered(metric)].better == "lower" else 1
    values = np.full((len(models), len(probes)), np.nan)
    for (model, probe), r in at.items():
        values[models.index(model), probes.index(probe)] = sign * scale * r.gap.value
    there = np.abs(values[np.isfinite(values)])
    most = max(float(there.max()) if len(there) else 0.0, 0.05 * scale)
    image = ax.imshow(
        np.ma.masked_invalid(values), cmap=style.diverging(), norm=TwoSlopeNorm(0, -most, most), aspect="auto"
    )

    one_score = all(
        len({r.in_dist_value for r in chosen if r.model == model and r.gap.defined}) <= 1 for model in models
    )
    for row, model in enumerate(models):
        for column, probe in enumerate(probes):
            if (model, probe) in at:
                _cell(ax, row, column, at[model, probe], image, scale, cell)
        scores = {r.in_dist_value for r in chosen if r.model == model and r.gap.defined}
        if one_score and scores:
            ax.text(-1, row, f"{scale * scores.pop():{_digits(scale)}}", ha="center", va="center_baseline", fontsize=7)
    ax.set_xlim(-1.5 if one_score else -0.5, len(probes) - 0.5)

    names = style.probe_names(probes, in_dist)
    places = list(range(len(probes)))
    heads = [names[probe] for probe in probes]
    if one_score:
        places, heads = [-1, *places], ["distribution", *heads]
    fits = max(map(len, heads)) * _GLYPH * 7 / 72 < cell
    if one_score:
        heads[0] = "in\ndistribution" if fits else "in distribution"
    ax.xaxis.tick_top()
    ax.set_xticks(places, heads, rotation=0 if fits else 35, ha="center" if fits else "left", rotation_mode="anchor")
    shown = style.display_names(models)
    ax.set_yticks(range(len(models)), [shown[model] for model in models])
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    for edge in range(len(probes) + 1):
        ax.axvline(edge - 0.5, color="white", linewidth=1.5)
    for edge in range(len(models) + 1):
        ax.axhline(edge - 0.5, color="white", linewidth=1.5)
    return image


def _chosen(reports: Sequence[GapReport], metric: str, label_space: str) -> list[GapReport]:
    chosen = [r for r in reports if r.metric == metric and r.label_space == label_space]
    if not chosen:
        raise ValueError(f"no report of {metric} in the {label_space} label space")
    return chosen


def _cell(ax: Axes, row: int, column: int, report: GapReport, image: AxesImage, scale: float, cell: float) -> None:
    gap = report.gap
    if not gap.defined:
        box = Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="#f4f4f4", edgecolor="#bbbbbb", hatch="////", lw=0)
        ax.add_patch(box)
        label = ax.text(column, row, "not defined", ha="center", va="center", fontsize=5.5, color="#444444")
        label.set_bbox({"facecolor": "#f4f4f4", "edgecolor": "none", "pad": 1})
        return
    shown = image.get_array()
    assert shown is not None
    color = style.text_color(image.to_rgba(shown)[row, column])
    digits = _digits(scale)
    box = Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=image.to_rgba(shown)[row, column], lw=0)
    ax.add_patch(box)  # of the pixel's own colour, so that the cell can be pointed at
    sure = gap.low > 0 or gap.high < 0
    value = f"{scale * gap.value:{digits}}".replace("-", "−")
    ends = f"[{scale * gap.low:{digits}}, {scale * gap.high:{digits}}]".replace("-", "−")
    small = float(np.clip(0.94 * cell * 72 / (len(ends) * 0.56), 3.5, 5.8))
    weight = "bold" if sure else "normal"
    ax.text(column, row - 0.03, value, ha="center", va="bottom", fontsize=7.5, color=color, fontweight=weight)
    ax.text(column, row + 0.08, ends, ha="center", va="top", fontsize=small, color=color)
    sides = " → ".join(f"{scale * side:{digits}}" for side in (report.in_dist_value, report.probe_value))
    n = f"{report.n_in_dist:,} against {report.n_probe:,} images" if not report.paired else f"{report.n_probe:,} pairs"
    style.tell(box, f"{report.model} on {report.probe}: {value} {ends}, {sides}, {n}")


def _sorted_by_mean_gap(named: list[tuple[str, GapReport]]) -> list[str]:
    """Names by their mean defined gap, smallest first; those without any last."""
    gaps: dict[str, list[float]] = {}
    for name, report in named:
        gaps.setdefault(name, []).extend([report.gap.value] if report.gap.defined else [])
    return sorted(gaps, key=lambda name: (not gaps[name], float(np.mean(gaps[name])) if gaps[name] else 0.0, name))


def caption(
    reports: Sequence[GapReport], metric: str = "accuracy", label_space: Literal["shared", "full"] = "shared"
) -> str:
    """What the numbers of :func:`draw_on` are: sets, sizes, classes, design, unit, intervals."""
    chosen = _chosen(reports, metric, label_space)
    told = [r for r in chosen if r.gap.defined] or chosen
    n0, n1, classes = (_span(getattr(r, side) for r in told) for side in ("n_in_dist", "n_probe", "classes"))
    pairing = {r.paired for r in told}
    design = (
        "partly the same scenes" if len(pairing) > 1 else "same scenes" if pairing == {True} else "independent sets"
    )
    levels = {r.gap.interval.split("%")[0].split()[-1] for r in told if "%" in r.gap.interval}
    level = f"{levels.pop()} % intervals" if len(levels) == 1 else "intervals"
    scored = f"{classes} {label_space} classes" if label_space == "shared" else f"all {classes} classes"
    return (
        f"{_title(metric)} on {style.short(chosen[0].in_dist, 40)} (n = {n0}) minus probe (n = {n1}), {design}, "
        f"{scored}; in {_unit(metric)}, {level} in brackets, bold where zero lies outside."
    )


def _span(numbers: Iterable[int]) -> str:
    found = sorted(numbers)
    low, high = found[0], found[-1]
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _registered(metric: str) -> str:
    return "topk" if metric.startswith("top") and metric[3:].isdigit() else metric


def _title(metric: str) -> str:
    name = _registered(metric)
    return f"Top-{metric[3:]} accuracy" if name == "topk" else METRICS[name].title if name in METRICS else metric


def _is_fraction(metric: str) -> bool:
    return metric not in ("nll", "brier")


def _unit(metric: str) -> str:
    return {"nll": "nats", "brier": "Brier score"}.get(metric, "points")


def _digits(scale: float) -> str:
    return ".1f" if scale == 100 else ".3f"
