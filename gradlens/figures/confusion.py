"""Confusion matrices: which class is taken for which, on one set or side by side on several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from gradlens.figures import style
from gradlens.shift.metrics import Scored

_NUMBERED = 16  # classes up to which cells hold numbers
_MARKED = 3  # confusions that are outlined and named


def confusion(panels: Sequence[Scored]) -> Figure:
    """One panel per set, side by side where the classes are few; rows are the true classes, columns the predicted ones.

    Colour is the share of the true class's images, on the scale of the colour bar. The largest confusions of each
    panel are outlined and named below it.

    Args:
        panels: of one model, in the same or in different label spaces, each with at least one image.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not panels or not all(len(panel) for panel in panels):
        raise ValueError("a confusion matrix needs at least one labelled image")
    most = max(len(panel.classes) for panel in panels)
    columns = 1 if most > 12 else min(len(panels), 2)
    rows = -(-len(panels) // columns)
    width = style.PAGE_WIDTH if columns > 1 or most > 8 else style.COLUMN_WIDTH
    names = max(len(style.short(name, 20)) for panel in panels for name in panel.classes)
    side = (width - 0.5) / columns - 0.3 - 0.055 * names
    with style.paper():
        # "compressed" is the constrained layout that knows of square panels
        figure = Figure(figsize=(width, rows * (side + 0.62 + 0.04 * names) + 0.2), layout="compressed")
        grid = figure.subplots(rows, columns, squeeze=False)
        for ax in list(grid.flat)[len(panels) :]:
            ax.set_visible(False)
        axes = list(grid.flat)[: len(panels)]
        for ax, panel in zip(axes, panels, strict=True):
            image = draw_on(ax, panel, cell=side / (len(panel.classes) + 1))
        bar = figure.colorbar(image, ax=axes, fraction=0.025, pad=0.015, aspect=25)
        bar.set_label("share of the true class (%)" + (", square-root scale" if most > _NUMBERED else ""))
        bar.outline.set_visible(False)
        figure.suptitle(style.short(panels[0].model, 60), x=0.01, ha="left")
    return figure


def draw_on(ax: Axes, scored: Scored, cell: float = 0.3) -> AxesImage:
    """Draw one matrix on ``ax`` and return its image (for a colour bar); see :func:`confusion`.

    A last column, "other", stands for answers outside the label space, where there are any. Rows name their number of
    images; a row of fewer than ten is grey.

    Args:
        ax: cleared axes.
        scored: of one model on one set.
        cell: width of a cell in inches, for the size of the text.
    """
    counts = scored.confusion
    k = len(scored.classes)
    if not counts[:, k].any():
        counts = counts[:, :k]
    images = counts.sum(axis=1)
    share = 100 * counts / np.maximum(images, 1)[:, None]
    norm = Normalize(0, 100) if k <= _NUMBERED else PowerNorm(0.5, 0, 100)  # shows rare confusions without numbers
    image = ax.imshow(share, cmap=style.sequential(), norm=norm, aspect="equal")
    names = [style.short(name, 20) for name in scored.classes]
    size = float(np.clip(0.8 * cell * 72, 3.5, 7))
    heads = names + (["other"] if counts.shape[1] > k else [])
    ax.set_xticks(range(counts.shape[1]), heads, rotation=90, fontsize=size)
    ax.set_yticks(range(k), [f"{name} ({n})" for name, n in zip(names, images, strict=True)], fontsize=size)
    for label, n in zip(ax.get_yticklabels(), images, strict=True):
        label.set_color("#999999" if n < 10 else "black")
    ax.tick_params(length=0, pad=2)
    for spine in ax.spines.values():
        spine.set_visible(False)
    for edge in range(k + 1):
        ax.axhline(edge - 0.5, color="white", linewidth=0.6)
    for edge in range(counts.shape[1] + 1):
        ax.axvline(edge - 0.5, color="white", linewidth=0.6)
    if k <= _NUMBERED:  # shares that would round to 0 show their colour alone
        colors = image.to_rgba(share)
        text = float(np.clip(0.42 * cell * 72, 3.5, 7))
        for row, column in zip(*np.nonzero(share >= 0.5), strict=True):
            color = style.text_color(colors[row, column])
            number = f"{share[row, column]:.0f}"
            ax.text(column, row, number, ha="center", va="center_baseline", fontsize=text, color=color)

    worst = _largest_confusions(counts)
    for row, column in zip(*np.nonzero(counts), strict=True) if k <= _NUMBERED else ():
        # of the pixel's own colour, under its lines and number, so that the cell can be pointed at
        own = Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=image.to_rgba(share)[row, column], lw=0)
        ax.add_patch(own)
        told = f"{counts[row, column]} of {images[row]} images ({share[row, column]:.1f} %)"
        style.tell(own, f"{scored.model} on {scored.dataset}: {names[row]} taken for {heads[column]}, {told}")
    for row, column in worst:
        box = Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, fill=False, edgecolor=style.PALETTE[1], linewidth=1.1)
        ax.add_patch(box)
    lines = [f"{names[r]} → {heads[c]}: {share[r, c]:.0f} % ({counts[r, c]} of {images[r]})" for r, c in worst]
    ax.set_title(style.short(scored.dataset, 40))
    ax.set_xlabel("predicted" + "".join("\n" + line for line in lines), fontsize=6.5, linespacing=1.3)
    ax.set_ylabel("true (images)", fontsize=6.5)
    return image


def _largest_confusions(counts: np.ndarray) -> list[tuple[int, int]]:
    """(row, column) of the cells off the diagonal with the most images, largest first; none with a single image."""
    off = counts.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:_MARKED]
    cells = [(int(i) // off.shape[1], int(i) % off.shape[1]) for i in order]
    return [(row, column) for row, column in cells if off[row, column] > 1]
