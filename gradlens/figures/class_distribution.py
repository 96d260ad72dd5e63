"""How a data set's images are spread: images per class of each of its parts, and how large the images are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from gradlens.figures import style

_LINE = 0.125  # inches per class whose name is printed
_NAMED = 48  # classes beyond this are drawn as a curve: their names would be smaller than can be read


@dataclass(frozen=True)
class SetSpread:
    """What one image set is made of.

    Attributes:
        name: of the set.
        use: what it is for: ``"training"``, ``"selection"``, ``"test"``, ``"probe"``.
        classes: names.
        counts: images of each class.
        sizes: (width, height) of each image in its file, in pixels; empty where nobody looked.
    """

    name: str
    use: str
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if len(self.classes) != len(self.counts):
            raise ValueError(f"{self.name}: {len(self.classes)} classes but {len(self.counts)} counts")

    @property
    def imbalance(self) -> float:
        """Images of the largest class over those of the smallest: 1 where balanced, infinite where a class is empty."""
        return max(self.counts) / min(self.counts) if min(self.counts) else float("inf")


def class_distribution(sets: Sequence[SetSpread]) -> Figure:
    """Draw images per class, one panel per set, and the images' native sizes where they are known.

    Classes stand in the order of the first set, the largest first, in every panel, so that a class is found in the
    same row. A panel's heading has the set's number of images and its imbalance ratio.

    Args:
        sets: the first one is what is trained on.

    Raises:
        ValueError: there is no set.
    """
    if not sets:
        raise ValueError("there is no image set to draw")
    first = dict(zip(sets[0].classes, sets[0].counts, strict=True))
    classes = sorted({c for s in sets for c in s.classes}, key=lambda c: (-first.get(c, 0), c))
    named = len(classes) <= _NAMED
    per_row = min(len(sets), 4)
    rows = -(-len(sets) // per_row)
    colors = [style.PALETTE[i % len(style.PALETTE)] for i in range(len(sets))]
    sizes = {size for s in sets for size in s.sizes}
    sized = len(sizes) > 1  # of one size there is nothing to draw
    panel = max(0.9, _LINE * len(classes) + 0.1) if named else 1.5
    last = 1.9 if sized else 0.0
    with style.paper():
        figure = Figure(
            figsize=(style.COLUMN_WIDTH if per_row == 1 else style.PAGE_WIDTH, rows * (panel + 0.74) + last + 0.25)
        )
        bands = figure.subfigures(
            2 if sized else 1, 1, height_ratios=[rows * (panel + 0.74), last][: 1 + sized], squeeze=False
        )
        grid = bands[0, 0].subplots(rows, per_row, sharey=named, squeeze=False)
        for i, ax in enumerate(grid.flat):
            if i >= len(sets):
                ax.set_visible(False)
            elif named:
                _bars(ax, sets[i], classes, colors[i])
            else:
                _curve(ax, sets[i], classes, colors[i], first_of_row=i % per_row == 0)
        if sized:
            _sizes(bands[1, 0].subplots(1, 1), sets, colors)
        style.caption(
            figure,
            "Imbalance: images of the largest class over those of the smallest. Classes in the order of the first set."
            + "".join(
                f" All image files are {width} × {height} pixels."
                for width, height in sizes
                if len(sizes) == 1 and all(s.sizes for s in sets)
            ),
        )
    return figure


def _heading(ax: Axes, told: SetSpread) -> None:
    ratio = told.imbalance
    imbalance = "a class is empty" if np.isinf(ratio) else f"imbalance {ratio:.3g}"
    ax.set_title(f"{style.short(told.name, 26)}\n{told.use}, {sum(told.counts):,} images\n{imbalance}", fontsize=6.5)


def _bars(ax: Axes, told: SetSpread, classes: Sequence[str], color: str) -> None:
    counts = dict(zip(told.classes, told.counts, strict=True))
    most = max(max(told.counts), 1)
    for row, name in enumerate(classes):
        if name not in counts:
            ax.text(0.02 * most, row, "no such class", va="center", fontsize=5.5, color="#888888")
            continue
        ax.barh(row, counts[name], height=0.72, color=color)
        ax.text(counts[name] + 0.02 * most, row, f"{counts[name]:,}", va="center", fontsize=5.5)
    ax.set_yticks(range(len(classes)), [style.short(c, 22) for c in classes], fontsize=6)
    ax.set_ylim(len(classes) - 0.4, -0.6)
    ax.set_xlim(0, 1.28 * most)
    ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    ax.set_xlabel("Images")
    _heading(ax, told)


def _curve(ax: Axes, told: SetSpread, classes: Sequence[str], color: str, *, first_of_row: bool) -> None:
    counts = dict(zip(told.classes, told.counts, strict=True))
    values = np.array([counts.get(c, 0) for c in classes])
    ax.bar(np.arange(1, len(classes) + 1), values, width=1.0, color=color)
    for place, name in (
        (0.98, min(told.classes, key=lambda c: counts[c])),
        (0.80, max(counts, key=lambda c: counts[c])),
    ):
        word = "fewest" if place == 0.98 else "most"
        ax.text(
            0.98, place, f"{word}: {style.short(name, 16)}, {counts[name]:,}", transform=ax.transAxes, ha="right",
            va="top", fontsize=5.5, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
        )  # fmt: skip
    ax.set_ylim(0, 1.45 * max(1, values.max()))
    ax.set_xlim(0.5, len(classes) + 0.5)
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.set_xlabel(f"Class, of {len(classes)}")
    if first_of_row:
        ax.set_ylabel("Images")
    _heading(ax, told)


def _sizes(ax: Axes, sets: Sequence[SetSpread], colors: Sequence[str]) -> None:
    """Width against height, both logarithmic; the area of a point goes with the number of its images."""
    for place, (told, color) in enumerate(zip(sets, colors, strict=True)):
        if not told.sizes:
            continue
        found, number = np.unique(np.array(told.sizes), axis=0, return_counts=True)
        sides = np.sqrt(np.prod(np.array(told.sizes), axis=1))
        label = f"{style.short(told.name, 26)}: " + (
            f"all {found[0, 0]} × {found[0, 1]}"
            if len(found) == 1
            else f"{len(found):,} sizes, median side {np.median(sides):.0f}, {sides.min():.0f} to {sides.max():.0f}"
        )
        areas = np.clip(4 + 2 * np.sqrt(number), 0, 60)
        ax.scatter(found[:, 0], found[:, 1], s=areas, alpha=0.45, lw=0, color=color, label=label, zorder=3 - place / 10)
    every = np.concatenate([np.array(s.sizes).ravel() for s in sets if s.sizes])
    low, high = every.min() / 1.3, every.max() * 1.3
    ax.plot([low, high], [low, high], color="#bbbbbb", lw=0.6, zorder=1)
    ax.set(
        xscale="log",
        yscale="log",
        xlim=(low, high),
        ylim=(low, high),
        xlabel="Width (pixels)",
        ylabel="Height (pixels)",
    )
    ticks = [t for t in (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192) if low <= t <= high]
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(ticks, [str(t) for t in ticks])
        axis.set_minor_locator(NullLocator())
    ax.set_title("Native sizes of the image files", fontsize=7.5)
    if len(sets) == 1:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), fontsize=6, scatterpoints=1)
    else:
        ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=6, scatterpoints=1)
