"""The grid of maps: rows are images, columns are depths (or models), each cell a map laid over what the network saw.

A cell's map stays raw until here. What is drawn is its positive part, ReLU(map), divided by the largest value found
in the same map, image, row or figure; which of these it was is printed on the figure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gradlens.figures.style import PAGE_WIDTH, paper, short
from gradlens.records import MapStatus

Scale = Literal["map", "image", "row", "figure"]

COLOR_MAP = "inferno"  # lightness rises evenly with the value, for every kind of colour vision (jet turns back 3 times)
RIGHT, WRONG = "#1a7f37", "#c4281c"
PAGE_HEIGHT = 9.3  # inches that a page leaves for one figure
MOST_COLUMNS = 10  # cells beside each other before a row of depths wraps
_GAP = 0.035  # inches between cells
_NAMES = 0.78  # inches left of the grid
_CAPTION = 0.13  # inches under a row of cells that carry captions
_TILE = 256  # pixels a side at most of one cell: 300 dpi at 0.85 inches
_SHOWN: dict[Scale, str] = {
    "map": "each map is divided by its own maximum: colours compare places within one map only",
    "image": "all maps of an image are divided by their common maximum",
    "row": "all maps of a row are divided by their common maximum",
    "figure": "all maps of this figure are divided by their common maximum",
}


@dataclass(frozen=True)
class Caption:
    """A prediction under a picture. ``correct`` is ``None`` where there is no label to compare with."""

    text: str
    correct: bool | None = None


@dataclass(frozen=True)
class Cell:
    """One map and its status; ``caption`` where every cell has its own prediction (columns are models)."""

    map: np.ndarray
    status: MapStatus
    caption: Caption | None = None


@dataclass(frozen=True)
class Row:
    """One image.

    Attributes:
        view: uint8 (H, W, 3), the part of the image that the network saw.
        name, source: what stands left of it: its class or file, and the set it comes from.
        cells: one per column, ``None`` where this row has no such depth.
        image: which image it is: rows of one image share their maximum for ``scale="image"``.
        caption: the prediction, where one model made the whole row.
    """

    view: np.ndarray
    name: str
    source: str
    cells: Sequence[Cell | None]
    image: str
    caption: Caption | None = None


@dataclass(frozen=True)
class Column:
    """A depth or a model: its name, and what is printed small below it (its stride)."""

    name: str
    note: str = ""


def cam_grid(rows: Sequence[Row], columns: Sequence[Column], *, title: str, scale: Scale = "map") -> list[Figure]:
    """Draw the grid, one figure per page.

    Args:
        rows: images, in order.
        columns: what the cells of each row are, in order.
        title: one line above the grid.
        scale: over what the maximum is taken that one colour stands for.

    Returns:
        Pages of the text width of a report, none higher than a page.

    Raises:
        ValueError: a row has another number of cells than there are columns.
    """
    for row in rows:
        if len(row.cells) != len(columns):
            raise ValueError(f"{len(columns)} columns, but {len(row.cells)} cells for {row.name}")
    with paper():
        plan = _plan(rows, columns)
        tops = _maxima(rows, scale)
        parts = [slice(i, i + plan.rows_per_page) for i in range(0, len(rows), plan.rows_per_page)]
        return [
            _page(
                rows[part],
                columns,
                plan,
                tops[part],
                title + (f" ({i} of {len(parts)})" if len(parts) > 1 else ""),
                scale,
            )
            for i, part in enumerate(parts, start=1)
        ]


@dataclass(frozen=True)
class _Plan:
    """Sizes in inches of one page."""

    across: int  # maps per line
    lines: int  # lines per image
    cell: float
    line_height: float
    header: float
    rows_per_page: int


def _plan(rows: Sequence[Row], columns: Sequence[Column]) -> _Plan:
    lines = math.ceil(len(columns) / (MOST_COLUMNS - 1))
    across = math.ceil(len(columns) / lines)  # wrapped lines are of even length
    cell = min(1.15, (PAGE_WIDTH - _NAMES - 0.05) / (across + 1) - _GAP)
    height = max(_aspect(r.view) for r in rows) * cell
    header = 0.09 + 0.105 * max(len(_broken(c.name, cell)) + bool(c.note) for c in columns)
    captions = any(r.caption for r in rows) or any(c and c.caption for r in rows for c in r.cells)
    line = height + _GAP + (_CAPTION if captions else 0.0)
    # where depths wrap, every line needs its own names above it
    block = lines * line + (lines * header if lines > 1 else 0.0)
    free = PAGE_HEIGHT - 0.75 - (header if lines == 1 else 0.0)
    return _Plan(across, lines, cell, line, header, max(1, int(free / block)))


def _aspect(view: np.ndarray) -> float:
    return view.shape[0] / view.shape[1]


def _broken(name: str, width: float) -> list[str]:
    """A module path over at most three lines, broken at its dots."""
    most = max(6, int((width + _GAP) / 0.05))  # characters of 6 point text
    lines = [""]
    for part in name.replace(".", ".\0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part) > most:
            lines.append("")
        lines[-1] += part
    if len(lines) > 3:
        lines = ["…" + lines[-3], *lines[-2:]]
    return [short(line, most + 2) for line in lines]


def _maxima(rows: Sequence[Row], scale: Scale) -> list[list[float]]:
    """The value that stands for the brightest colour, per cell."""
    own = [[float(c.map.max()) if c and c.status == "ok" else 0.0 for c in r.cells] for r in rows]
    if scale == "map":
        return own
    if scale == "row":
        return [[max(values)] * len(values) for values in own]
    groups = [r.image if scale == "image" else "" for r in rows]
    tops = {g: max(max(v) for v, other in zip(own, groups, strict=True) if other == g) for g in set(groups)}
    return [[tops[g]] * len(v) for g, v in zip(groups, own, strict=True)]


def _page(
    rows: Sequence[Row], columns: Sequence[Column], plan: _Plan, tops: list[list[float]], title: str, scale: Scale
) -> Figure:
    header_each = plan.header if plan.lines > 1 else 0.0
    body = len(rows) * plan.lines * (plan.line_height + header_each) + (plan.header if plan.lines == 1 else 0.0)
    width = _NAMES + (plan.across + 1) * (plan.cell + _GAP) + 0.05
    width = max(width, 6.0)  # the title and the legend need their room
    height = 0.30 + body + 0.42
    figure = Figure(figsize=(width, height), layout="none")  # type: ignore[arg-type]  # a documented value
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(height, 0))  # inches, y downwards
    ax.axis("off")
    ax.text(0.06, 0.17, title, fontsize=9, va="center", weight="bold")
    y = 0.30
    if plan.lines == 1:
        _header(ax, columns, plan, y, first=True)
        y += plan.header
    for row, row_tops in zip(rows, tops, strict=True):
        y = _draw_row(ax, row, columns, row_tops, plan, y, header_each)
    _legend(ax, scale, width, height)
    return figure


def _header(ax: Axes, columns: Sequence[Column], plan: _Plan, y: float, first: bool) -> None:
    names = [Column("image"), *columns] if first else list(columns)
    for i, column in enumerate(names, start=0 if first else 1):
        x = _NAMES + i * (plan.cell + _GAP) + plan.cell / 2
        lines = _broken(column.name, plan.cell)
        base = y + plan.header - 0.05
        if column.note:
            _fitted(ax, column.note, x, base, plan.cell, va="bottom", color="#666666")
            base -= 0.095
        ax.text(x, base, "\n".join(lines), ha="center", va="bottom", fontsize=6, linespacing=1.05)


def _draw_row(
    ax: Axes, row: Row, columns: Sequence[Column], tops: Sequence[float], plan: _Plan, y: float, header_each: float
) -> float:
    for line in range(plan.lines):
        part = slice(line * plan.across, (line + 1) * plan.across)
        if header_each:
            _header(ax, columns[part], plan, y, first=line == 0)
            y += header_each
        height = plan.cell * _aspect(row.view)
        if line == 0:
            ax.text(_NAMES - 0.08, y + height / 2 - 0.055, short(row.name, 15), ha="right", va="center", fontsize=7)
            source = short(row.source, 18)
            ax.text(
                _NAMES - 0.08, y + height / 2 + 0.065, source, ha="right", va="center", fontsize=5.5, color="#666666"
            )
            _picture(ax, _tile(row.view), _NAMES, y, plan.cell, height)
            if row.caption:
                _caption(ax, row.caption, _NAMES + plan.cell / 2, y + height, plan.cell + 0.25)  # no neighbour there
        for i, (cell, top) in enumerate(zip(row.cells[part], tops[part], strict=True), start=1):
            x = _NAMES + i * (plan.cell + _GAP)
            if cell is None:
                continue
            if cell.status == "ok":
                _picture(ax, overlay(row.view, cell.map, top), x, y, plan.cell, height)
            else:
                _blank(ax, cell.status, x, y, plan.cell, height)
            if cell.caption:
                _caption(ax, cell.caption, x + plan.cell / 2, y + height, plan.cell)
        y += plan.line_height
    return y


def _tile(view: np.ndarray) -> np.ndarray:
    """The view at the size a cell is printed at."""
    factor = _TILE / max(view.shape[:2])
    size = (max(1, round(view.shape[1] * factor)), max(1, round(view.shape[0] * factor)))
    # enlarged small images keep smooth edges, reduced ones no moiré
    return cv2.resize(view, size, interpolation=cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA)


def overlay(view: np.ndarray, raw: np.ndarray, top: float) -> np.ndarray:
    """A map over its image.

    Args:
        view: uint8 (H, W, 3), what the network saw.
        raw: (rows, columns), a raw map.
        top: the value that the brightest colour stands for, positive.

    Returns:
        uint8 (h, w, 3): the image in grey, coloured where the map is positive; the stronger, the more opaque.
    """
    tile = _tile(view)
    grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None] / 255
    heat = np.clip(raw.astype(np.float32) / np.float32(top), 0, 1)
    heat = cv2.resize(heat, (tile.shape[1], tile.shape[0]), interpolation=cv2.INTER_LINEAR)
    color = mpl.colormaps[COLOR_MAP](heat)[..., :3].astype(np.float32)
    opacity = (0.42 + 0.38 * heat)[..., None]
    return np.round(255 * (color * opacity + grey * (1 - opacity))).astype(np.uint8)


def _picture(ax: Axes, tile: np.ndarray, x: float, y: float, width: float, height: float) -> None:
    ax.imshow(tile, extent=(x, x + width, y + height, y), aspect="auto", interpolation="antialiased", zorder=2)


def _blank(ax: Axes, status: str, x: float, y: float, width: float, height: float) -> None:
    ax.add_patch(Rectangle((x, y), width, height, facecolor="#f3f3f3", edgecolor="#bbbbbb", linewidth=0.5, zorder=2))
    said = {"all negative": "all evidence\nis negative", "zero gradient": "gradient\nis zero"}.get(status, status)
    ax.text(x + width / 2, y + height / 2, said, ha="center", va="center", fontsize=5.5, color="#555555", zorder=3)


def _caption(ax: Axes, caption: Caption, x: float, y: float, width: float) -> None:
    mark = {True: "✓ ", False: "✗ ", None: ""}[caption.correct]
    color = {True: RIGHT, False: WRONG, None: "#333333"}[caption.correct]
    _fitted(ax, mark + caption.text, x, y + 0.02, width, va="top", color=color)


def _fitted(ax: Axes, text: str, x: float, y: float, width: float, **look: Any) -> None:
    """Small text, centred; smaller and then shortened where it would reach into its neighbours."""
    at_one_point = 0.0083  # mean width of a character in inches per point
    size = min(5.5, max(4.3, (width + _GAP) / (at_one_point * len(text))))
    most = max(8, int((width + _GAP) / (at_one_point * size)))
    ax.text(x, y, short(text, most), ha="center", fontsize=size, **look)


def _legend(ax: Axes, scale: Scale, width: float, height: float) -> None:
    y = height - 0.2
    ramp = mpl.colormaps[COLOR_MAP](np.linspace(0, 1, 128))[None, :, :3]
    ax.imshow(ramp, extent=(_NAMES + 0.1, _NAMES + 0.95, y + 0.05, y - 0.05), aspect="auto", zorder=2)
    ax.text(_NAMES + 0.06, y, "0", ha="right", va="center", fontsize=6)
    ax.text(_NAMES + 0.99, y, "max", ha="left", va="center", fontsize=6)
    shown = _SHOWN[scale] if width > 6.7 else _SHOWN[scale].partition(":")[0]  # what it means, where that fits
    ax.text(_NAMES + 1.28, y, f"ReLU(map); scale {scale}: {shown}", va="center", fontsize=6, color="#444444")
    ax.set(xlim=(0, width), ylim=(height, 0))  # imshow moves the limits
