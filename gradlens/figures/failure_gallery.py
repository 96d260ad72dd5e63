"""Failures as pictures: one row per image, its maps beside it, and what was said in words below each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradlens.figures.cam_grid import RIGHT, WRONG, overlay, tile
from gradlens.figures.style import PAGE_WIDTH, paper, short
from gradlens.records import MapStatus

_NAMES = 1.05  # inches left of the pictures
_CAPTION = 0.13  # inches under each picture
_GAP = 0.05
_LARGEST = 1.15
_TOP, _HEAD, _FOOT = 0.3, 0.3, 0.24
_GREY = "#666666"


@dataclass(frozen=True)
class Shown:
    """One picture.

    Attributes:
        view: uint8 (H, W, 3), what the network saw.
        map: (rows, columns), a raw map laid over it; ``None`` shows the picture alone.
        status: what the map can be used for.
        caption: a class, with its probability where it is known.
        correct: whether that class is the true one; ``None`` where nothing is claimed.
    """

    view: np.ndarray
    map: np.ndarray | None = None
    status: MapStatus = "ok"
    caption: str = ""
    correct: bool | None = None


@dataclass(frozen=True)
class FailureRow:
    """One image: its true class, where it is from, and its pictures, ``None`` where there is none."""

    name: str
    notes: Sequence[str]
    shown: Sequence[Shown | None]


def failure_gallery(rows: Sequence[FailureRow], columns: Sequence[str], title: str, note: str = "") -> Figure:
    """Draw a page.

    Args:
        rows: images, in order; each has one picture per column.
        columns: what stands above each column; a line break is kept.
        title: one line above the page.
        note: what else a reader must know, below it.

    Raises:
        ValueError: a row has another number of pictures than there are columns.
    """
    if any(len(row.shown) != len(columns) for row in rows):
        raise ValueError(f"expected {len(columns)} pictures in every row")
    with paper():
        cell = min(_LARGEST, (PAGE_WIDTH - _NAMES - 0.05) / len(columns) - _GAP)
        width = max(4.6, _NAMES + len(columns) * (cell + _GAP) + 0.05)
        high = cell + _CAPTION + _GAP
        height = _TOP + _HEAD + len(rows) * high + _FOOT
        figure = Figure(figsize=(width, height))
        figure.set_layout_engine("none")  # the page is laid out in inches
        ax = figure.add_axes((0, 0, 1, 1))
        ax.axis("off")
        ax.text(0.06, 0.17, short(title, int(width / 0.072)), fontsize=8.5, va="center", weight="bold")
        for j, name in enumerate(columns):
            x = _NAMES + j * (cell + _GAP) + cell / 2
            ax.text(x, _TOP + _HEAD - 0.04, name, ha="center", va="bottom", fontsize=6, linespacing=1.1)
        for i, row in enumerate(rows):
            y = _TOP + _HEAD + i * high
            lines = [short(row.name, 18), *(short(text, 24) for text in row.notes)]
            for k, text in enumerate(lines):
                middle = y + cell / 2 + 0.115 * (k - (len(lines) - 1) / 2)
                size, color = (7.0, "black") if k == 0 else (5.2, _GREY)
                ax.text(_NAMES - 0.07, middle, text, ha="right", va="center", fontsize=size, color=color)
            for j, one in enumerate(row.shown):
                if one is not None:
                    _draw(ax, one, _NAMES + j * (cell + _GAP), y, cell)
        said = "Each map (its positive part) is divided by its own maximum: colours compare places within one map only."
        foot = f"{said} {note}".strip()
        ax.text(0.06, height - 0.1, short(foot, int(width / 0.0475)), fontsize=5.6, va="center", color="#444444")
        ax.set(xlim=(0, width), ylim=(height, 0))  # inches, y downwards
    return figure


def _draw(ax: Axes, one: Shown, x: float, y: float, cell: float) -> None:
    longest = max(one.view.shape[:2])  # a picture keeps its shape and is centred in its cell
    down, across = cell * one.view.shape[0] / longest, cell * one.view.shape[1] / longest
    left, top = x + (cell - across) / 2, y + (cell - down) / 2
    pixels = tile(one.view)
    if one.map is not None and one.status == "ok":
        pixels = overlay(one.view, one.map, float(one.map.max()))
    if one.map is not None and one.status != "ok":
        ax.text(
            x + cell / 2, y + cell / 2, f"no map:\n{one.status}", ha="center", va="center", fontsize=5.5, color=_GREY
        )
    else:
        ax.imshow(pixels, extent=(left, left + across, top + down, top), aspect="auto", interpolation="antialiased")
    if one.caption:
        mark, color = {True: ("✓ ", RIGHT), False: ("✗ ", WRONG), None: ("", "#333333")}[one.correct]
        text = short(mark + one.caption, max(8, int(cell / 0.046)))
        ax.text(x + cell / 2, y + cell + 0.02, text, ha="center", va="top", fontsize=5.5, color=color)
