"""One image under every corruption, mild to severe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from gradlens.figures.style import PAGE_WIDTH, paper, short

_GAP = 0.03  # inches between the severities of a corruption
_BETWEEN = 0.14  # inches between corruptions
_TITLE = 0.17


def corruption_sheet(
    clean: np.ndarray, corrupted: Mapping[str, Sequence[np.ndarray]], severities: Sequence[int], title: str
) -> Figure:
    """Groups of one image per severity, a group per corruption, the clean image first.

    Args:
        clean: uint8 (H, W, 3).
        corrupted: name -> one uint8 (H, W, 3) per severity.
        severities: what they are.
        title: one line above.
    """
    groups: list[tuple[str, Sequence[np.ndarray]]] = [("clean", [clean]), *corrupted.items()]
    per_group = max(1, len(severities))
    columns = max(1, min(len(groups), 6, 12 // per_group))  # a group is wide enough for its name
    rows = math.ceil(len(groups) / columns)
    with paper():
        wide = (PAGE_WIDTH - 0.12 - (columns - 1) * _BETWEEN) / columns
        cell = min(1.0, (wide - (per_group - 1) * _GAP) / per_group)
        tall = min(cell * clean.shape[0] / clean.shape[1], 1.6 * cell)
        height = 0.3 + rows * (tall + _TITLE + 0.05)
        figure = Figure(figsize=(PAGE_WIDTH, height))
        figure.set_layout_engine("none")  # laid out in inches
        ax = figure.add_axes((0, 0, 1, 1))
        ax.axis("off")
        told = ", ".join(map(str, severities))
        word = "severity" if len(severities) == 1 else "severities"
        ax.text(0.06, 0.13, f"{short(title, 60)}: {word} {told}", fontsize=8.5, va="center", weight="bold")
        for i, (name, images) in enumerate(groups):
            left = 0.06 + (i % columns) * (wide + _BETWEEN)
            top = 0.3 + (i // columns) * (tall + _TITLE + 0.05)
            ax.text(left, top + _TITLE / 2, short(name.replace("_", " "), 30), fontsize=7, va="center")
            for j, image in enumerate(images):
                x, y = left + j * (cell + _GAP), top + _TITLE
                across = min(cell, tall * image.shape[1] / image.shape[0])
                ax.imshow(image, extent=(x, x + across, y + tall, y), aspect="auto")
        ax.set(xlim=(0, PAGE_WIDTH), ylim=(height, 0))  # inches, y downwards
    return figure
