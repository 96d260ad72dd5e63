"""A contact sheet: rows of images of a set, each beside the same scene in the sets that are paired with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from gradlens.figures.style import PAGE_WIDTH, paper, short

_NAMES = 0.75  # inches left of the pictures
_GAP = 0.04  # inches between pictures


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[np.ndarray | None]]], columns: Sequence[str], title: str
) -> Figure:
    """Draw the sheet at the text width of a report.

    Args:
        rows: (name, one uint8 (H, W, 3) image per column, or ``None`` where there is none).
        columns: what stands above each column.
        title: one line above the sheet.
    """
    with paper():
        cell = min(1.2, (PAGE_WIDTH - _NAMES) / len(columns) - _GAP)
        width = max(3.0, _NAMES + len(columns) * (cell + _GAP))
        height = 0.55 + len(rows) * (cell + _GAP) + 0.05
        figure = Figure(figsize=(width, height))
        figure.set_layout_engine("none")  # the sheet is laid out in inches
        ax = figure.add_axes((0, 0, 1, 1))
        ax.axis("off")
        ax.text(0.06, 0.17, title, fontsize=9, va="center", weight="bold")
        for j, name in enumerate(columns):
            x = _NAMES + j * (cell + _GAP) + cell / 2
            ax.text(x, 0.46, short(name, max(8, int(cell / 0.05))), ha="center", va="center", fontsize=6)
        for i, (name, images) in enumerate(rows):
            y = 0.55 + i * (cell + _GAP)
            ax.text(_NAMES - 0.08, y + cell / 2, short(name, 14), ha="right", va="center", fontsize=7)
            for j, image in enumerate(images):
                if image is not None:
                    x = _NAMES + j * (cell + _GAP)
                    longest = max(image.shape[:2])  # the image keeps its shape and is centred in its cell
                    down, across = cell * image.shape[0] / longest, cell * image.shape[1] / longest
                    left, top = x + (cell - across) / 2, y + (cell - down) / 2
                    ax.imshow(image, extent=(left, left + across, top + down, top), aspect="auto")
        ax.set(xlim=(0, width), ylim=(height, 0))  # inches, y downwards
    return figure
