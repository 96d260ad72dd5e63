"""The grid of maps: rows and columns of cells, each a map laid over what the network saw. All CAM figures are drawn
with it (``cam_images``, ``cam_models``, ``cam_methods``, ``cam_targets``, ``feature_maps``).

A cell's map stays raw until here. What is drawn is its positive part, ReLU(map), or, where both signs are asked for,
the map itself, divided by the largest (absolute) value found in the same map, image, row or figure; which of these it
was is printed on the figure. Maps of single pixels are so uneven that one of them would leave all others dark: their
99th percentile stands for the largest value, and the figure says so.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from matplotlib.patheffects import Normal, Stroke

from gradlens.figures.style import COLUMN_WIDTH, PAGE_WIDTH, diverging, drawable, paper, short
from gradlens.records import CamStack, MapStatus

Scale = Literal["map", "image", "row", "figure"]

COLOR_MAP = "inferno"  # lightness rises evenly with the value, for every kind of colour vision (jet turns back 3 times)
RIGHT, WRONG = "#1a7f37", "#c4281c"
PAGE_HEIGHT = 9.3  # inches that a page leaves for one figure
MOST_COLUMNS = 10  # maps beside each other before a row of depths wraps
LARGEST, SMALLEST = 1.15, 0.5  # inches a side of a cell
TILE = 256  # pixels a side at most of one cell: 300 dpi at 0.85 inches
FINE = 0.99  # the quantile of a map of pixels that its strongest colour stands for
MARKS = "./:_-> "  # after these a name may go on in the next line; ">" ends what stands for a letter without a font
_GAP = 0.035  # inches between cells
_GROUP = 0.075  # inches between groups of columns, more than between cells
_BLOCK = 0.06  # inches between images, more than between the rows of one
_NAMES = 0.86  # inches left of the grid
_CAPTION = 0.13  # inches under a row of cells that carry captions
_LETTER = 0.0083  # mean width of a character in inches per point
_BOLD = 1.08  # times as broad are bold ones
_BROAD = 6.0  # inches: figures from here on have room for any title, and for what the colours mean beside them
_LINE = 0.12  # inches a line of the legend
_RAMP = 1.61  # inches left of what stands beside the colours of the legend
_TOP, _FOOT = 0.30, 0.42  # inches for title and legend
_GREY = "#666666"
_SHOWN: dict[Scale, str] = {
    "map": "each map is divided by its own maximum: colours compare places within one map only",
    "image": "maps of one image and method share one maximum",
    "row": "all maps of a row share one maximum",
    "figure": "all maps of this figure share one maximum",
}
SAID: dict[str, str] = {
    "all negative": "all evidence\nis negative",
    "zero gradient": "gradient\nis zero",
    "undefined": "not defined\nhere",
    "constant": "the same\neverywhere",
    "non-finite": "not finite",
}
"""What stands in the place of a map that shows nothing, by its status."""


@dataclass(frozen=True)
class Caption:
    """A prediction under a picture. ``correct`` is ``None`` where there is no label to compare with."""

    text: str
    correct: bool | None = None


@dataclass(frozen=True)
class Cell:
    """One map.

    Attributes:
        map: (rows, columns), raw.
        status: what the map can be used for.
        caption: small text under it (columns are models: each cell has its own prediction).
        signed: draw both signs, in two colours.
        outline: closed polygons (points, 2), x and y as shares of the view, drawn over the map.
        said: what the cell says instead of showing a map.
        fine: a map of single pixels.
    """

    map: np.ndarray
    status: MapStatus
    caption: Caption | None = None
    signed: bool = False
    outline: Sequence[np.ndarray] = ()
    said: str = ""
    fine: bool = False

    @property
    def drawn(self) -> bool:
        """Whether there is a map to see."""
        return not self.said and (self.status == "ok" or (self.signed and self.status == "all negative"))

    @property
    def top(self) -> float:
        """The value that the strongest colour stands for; 0 where nothing is drawn."""
        if not self.drawn:
            return 0.0
        values = np.abs(self.map) if self.signed else self.map
        most = float(np.quantile(values, FINE)) if self.fine else 0.0
        return most if most > 0 else float(values.max())


@dataclass(frozen=True)
class Row:
    """One line of cells.

    Attributes:
        view: uint8 (H, W, 3), the part of the image that the network saw.
        name: what stands left of it: its class or file, a model, a method.
        source: small lines below the name: the set it comes from, the target.
        cells: one per column, ``None`` where this row has no such depth.
        image: rows with the same value share their maximum for ``scale="image"``.
        caption: the prediction, where one model made the whole row.
        block: consecutive rows of one block stay together, and only the first shows the picture; each row is its own
            block where it is empty.
    """

    view: np.ndarray
    name: str
    source: str | Sequence[str]
    cells: Sequence[Cell | None]
    image: str
    caption: Caption | None = None
    block: str = ""


@dataclass(frozen=True)
class Column:
    """A depth or a model: its name, and what is printed small below it (its stride).

    Consecutive columns of one ``group`` stand closer to one another, below the group's name.
    """

    name: str
    note: str = ""
    group: str = ""


@dataclass(frozen=True)
class Scene:
    """One image as one model saw it: what the CAM figures are made from.

    Attributes:
        view: uint8 (H, W, 3), the part of the image that the network saw.
        name, source: its class or file, and the set it comes from.
        stacks: the model's maps of this image, one stack per target and method, the methods of one target together.
        caption: what the model predicts.
        outlines: per stack and depth the polygons to draw over a map (:class:`Cell`); empty where none are asked for.
    """

    view: np.ndarray
    name: str
    source: str
    stacks: Sequence[CamStack]
    caption: Caption | None = None
    outlines: Sequence[Sequence[Sequence[np.ndarray]]] = ()

    @property
    def model(self) -> str:
        """The model's name without its collection."""
        return self.stacks[0].model.rpartition("/")[2]

    def cells(self, k: int, signed: bool = False, captions: bool = False) -> list[Cell]:
        """Stack ``k``, a cell per depth, each with its depth's name below it if asked for."""
        stack = self.stacks[k]
        outlines = self.outlines[k] if self.outlines else [()] * len(stack.maps)
        return [
            Cell(
                m,
                status,
                Caption(p.name) if captions else None,
                signed,
                lines,
                fine=not p.path or m.shape[0] > p.shape[1],
            )
            for m, status, p, lines in zip(stack.maps, stack.statuses, stack.depths, outlines, strict=True)
        ]

    def targets(self) -> list[tuple[tuple[int, str], tuple[int, str] | None]]:
        """What is explained, in order: class, and the class it is contrasted with."""
        first = self.stacks[0].method
        return [(s.target, s.against) for s in self.stacks if s.method == first]

    def methods(self) -> list[str]:
        """The methods, in order."""
        return list(dict.fromkeys(s.method for s in self.stacks))


def target_text(stack: CamStack) -> str:
    """``→ car``, or ``→ car − bus`` for a contrast."""
    against = f" − {stack.against[1]}" if stack.against else ""
    return f"→ {stack.target[1]}{against}"


def depth_columns(stack: CamStack) -> list[Column]:
    """The stack's depths as columns, with their strides."""
    return [Column(p.name, f"stride {p.stride_text}" if p.path else "pixels") for p in stack.depths]


def cam_grid(
    rows: Sequence[Row],
    columns: Sequence[Column],
    *,
    title: str,
    scale: Scale = "map",
    note: str = "",
    what: str = "map",
) -> Iterator[Figure]:
    """Draw the grid, one figure per page, each when it is asked for.

    Args:
        rows: images, in order.
        columns: what the cells of each row are, in order.
        title: one line above the grid.
        scale: over what the maximum is taken that one colour stands for.
        note: what else the reader must know, in the legend.
        what: what a cell shows, as the legend calls it.

    Returns:
        Pages between the widths of a column and of a page, none higher than a page.

    Raises:
        ValueError: a row has another number of cells than there are columns.
    """
    for row in rows:
        if len(row.cells) != len(columns):
            raise ValueError(f"{len(columns)} columns, but {len(row.cells)} cells for {row.name}")
    plan = _plan(rows, columns, title)
    pages = _pages(rows, plan)
    tops = iter(_maxima(rows, scale))

    def draw() -> Iterator[Figure]:
        for i, blocks in enumerate(pages, start=1):
            number = f" ({i} of {len(pages)})" if len(pages) > 1 else ""
            with paper():
                drawn = [[(row, next(tops)) for row in block] for block in blocks]
                page = _page(drawn, plan, title + number, _Legend(scale, note, what))
            yield page

    return draw()


Line = Sequence[tuple[float, int, Column]]  # x in inches, number of the column, the column


@dataclass(frozen=True)
class _Plan:
    """Sizes in inches, the same on every page."""

    lines: tuple[Line, ...]
    cell: float
    header: float
    width: float

    @property
    def wraps(self) -> bool:
        return len(self.lines) > 1

    @property
    def free(self) -> float:
        """Height that a page has for blocks."""
        return PAGE_HEIGHT - _TOP - _FOOT - self.below - (0.0 if self.wraps else self.header)

    @property
    def below(self) -> float:
        """Height of what does not fit beside the colours of the legend of a narrow figure."""
        return 3 * _LINE if self.width < _BROAD else 0.0

    def height_of(self, row: Row, alone: bool) -> float:
        """Of one line of a row, with what stands under it; a prediction needs no room where nothing is below it."""
        captions = any(c and c.caption for c in row.cells) or (row.caption and alone and not self.wraps)
        return _aspect(row.view) * self.cell + _GAP + (_CAPTION if captions else 0.0)

    def block_height(self, rows: Sequence[Row]) -> float:
        """Of all lines of a block."""
        # where depths wrap, every line needs its own names above it
        one = sum(self.height_of(row, len(rows) == 1) for row in rows) + (self.header if self.wraps else 0.0)
        return len(self.lines_of(rows)) * one + _BLOCK

    def lines_of(self, rows: Sequence[Row]) -> list[Line]:
        """The lines of a block; where depths wrap, without columns that it has nothing in."""
        if not self.wraps:
            return list(self.lines)
        lines = [[p for p in line if any(row.cells[p[1]] is not None for row in rows)] for line in self.lines]
        return [line for line in lines if line]


def _plan(rows: Sequence[Row], columns: Sequence[Column], title: str) -> _Plan:
    """Cells as large as the page's width allows; smaller where a block then fits on one page."""
    # its smallest letters, and the number of a page behind it
    least = min(_BROAD, max(COLUMN_WIDTH, 0.1 + (len(title) + 11) * _LETTER * _BOLD * 7))
    groups = _groups(columns)
    broad = max(map(len, groups))
    wraps = len(columns) > MOST_COLUMNS
    most = max(1, (MOST_COLUMNS - wraps) // broad)  # groups beside each other; if they must wrap, the cells are larger
    across = math.ceil(len(groups) / math.ceil(len(groups) / most))  # wrapped lines are of even length
    between = _GROUP if broad > 1 else 0.0
    cell = min(LARGEST, (PAGE_WIDTH - _NAMES - 0.05 - across * between) / (across * broad + 1) - _GAP)
    plan = _placed(columns, groups, across, between, cell, least)
    blocks = _blocks(rows)
    while cell > SMALLEST and any(plan.block_height(block) > plan.free for block in blocks):
        cell -= 0.02
        smaller = _placed(columns, groups, across, between, cell, least)
        if all(smaller.block_height(block) <= smaller.free for block in blocks):
            return smaller
    return plan


def _placed(
    columns: Sequence[Column],
    groups: Sequence[Sequence[int]],
    across: int,
    between: float,
    cell: float,
    least: float,
) -> _Plan:
    lines, widest = [], 0.0
    for first in range(0, len(groups), across):
        line, x = [], _NAMES + cell + _GAP
        for group in groups[first : first + across]:
            x += between
            for number in group:
                line.append((x, number, columns[number]))
                x += cell + _GAP
        lines.append(tuple(line))
        widest = max(widest, x)
    header = 0.09 + 0.105 * max(len(_broken(c.name, cell)) + bool(c.note) for c in columns) + 0.12 * (between > 0)
    return _Plan(tuple(lines), cell, header, max(widest + 0.05, least))


def _groups(columns: Sequence[Column]) -> list[list[int]]:
    """Numbers of the columns that stay beside each other."""
    groups: list[list[int]] = []
    for i, column in enumerate(columns):
        if i and column.group and column.group == columns[i - 1].group:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _blocks(rows: Sequence[Row]) -> list[list[Row]]:
    blocks: list[list[Row]] = []
    for row in rows:
        if blocks and row.block and row.block == blocks[-1][0].block:
            blocks[-1].append(row)
        else:
            blocks.append([row])
    return blocks


def _pages(rows: Sequence[Row], plan: _Plan) -> list[list[list[Row]]]:
    """Pages of blocks of rows: a block stays on one page unless it is higher than a page."""
    pages: list[list[list[Row]]] = []
    left = 0.0
    for block in _blocks(rows):
        for part in _parts(block, plan):
            height = plan.block_height(part)
            if not pages or height > left:
                pages.append([])
                left = plan.free
            pages[-1].append(part)
            left -= height
    return pages


def _parts(block: list[Row], plan: _Plan) -> list[list[Row]]:
    """The block, in as few parts of even length as fit a page each."""
    for count in range(1, len(block) + 1):
        size = math.ceil(len(block) / count)
        parts = [block[i : i + size] for i in range(0, len(block), size)]
        if all(plan.block_height(part) <= plan.free for part in parts):
            return parts
    return [[row] for row in block]  # one row alone is higher than a page


def _aspect(view: np.ndarray) -> float:
    return view.shape[0] / view.shape[1]


def _broken(name: str, width: float, size: float = 6, most_lines: int = 3, marks: str = MARKS) -> list[str]:
    """A name over at most three lines, broken after dots, slashes, colons, underscores, hyphens and spaces."""
    most = max(6, int((width + _GAP) / (_LETTER * size)))
    parts = name = drawable(name)
    for mark in marks:
        parts = parts.replace(mark, mark + "\0")
    lines = [""]
    for part in parts.split("\0"):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > most:
            lines.append("")
        lines[-1] += part
    if len(lines) > most_lines:
        lines = ["…" + lines[-most_lines], *lines[1 - most_lines :]] if most_lines > 1 else [name]
    return [short(line, most + 2) for line in lines]


def _maxima(rows: Sequence[Row], scale: Scale) -> list[list[float]]:
    """The value that stands for the strongest colour, per cell."""
    own = [[c.top if c else 0.0 for c in r.cells] for r in rows]
    if scale == "map":
        return own
    if scale == "row":
        return [[max(values)] * len(values) for values in own]
    groups = [r.image if scale == "image" else "" for r in rows]
    tops: dict[str, float] = {}
    for g, values in zip(groups, own, strict=True):
        tops[g] = max(tops.get(g, 0.0), *values)
    return [[tops[g]] * len(v) for g, v in zip(groups, own, strict=True)]


Drawn = list[tuple[Row, list[float]]]  # rows of a block, with the value of the strongest colour of each cell


@dataclass(frozen=True)
class _Legend:
    scale: Scale
    note: str
    what: str

    def told(self, cells: Sequence[Cell], width: float) -> tuple[list[tuple[bool, str]], list[str]]:
        """For each kind of map on the page whether both its signs are drawn and what stands beside its colours; and the
        lines below them.
        """
        said = f"scale {self.scale}: {_SHOWN[self.scale].replace('map', self.what)}"
        kinds = []
        if not cells or any(not c.signed for c in cells):
            kinds.append((False, f"ReLU({self.what})", said))
            said = "divided likewise, by the largest absolute value"
        if any(c.signed for c in cells):
            kinds.append((True, f"{self.what} with both signs", said.replace("maximum", "largest absolute value")))
        ramps, lines = [], []
        letter = _LETTER * 6 * 0.9
        for signed, head, rest in kinds:
            texts = (f"{head}; {rest}", f"{head}; {rest.rpartition(':')[0]}" if rest.count(":") > 1 else "")
            fitting = [t for t in texts if t and len(t) <= (width - _RAMP - 0.4) / letter]
            ramps.append((signed, fitting[0] if fitting else head))
            if not fitting:
                lines.append(rest[0].upper() + rest[1:])
        fine = f"Maps of pixels: the {100 * FINE:.0f}th percentile stands for the maximum."
        lines += [line for line in (self.note, fine if any(c.fine for c in cells) else "") if line]
        return ramps, [part for line in lines for part in textwrap.wrap(line, int((width - 0.12) / letter))]


def _page(blocks: Sequence[Drawn], plan: _Plan, title: str, legend: _Legend) -> Figure:
    body = sum(plan.block_height([row for row, _ in block]) for block in blocks)
    body += 0.0 if plan.wraps else plan.header
    cells = [c for block in blocks for row, _ in block for c in row.cells if c and c.drawn]
    ramps, lines = legend.told(cells, plan.width)
    foot = _FOOT + 0.16 * (len(ramps) - 1) + _LINE * len(lines)
    height = _TOP + body + foot
    figure = Figure(figsize=(plan.width, height), layout="none")  # type: ignore[arg-type]  # a documented value
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, plan.width), ylim=(height, 0))  # inches, y downwards
    ax.axis("off")
    letter = _LETTER * _BOLD
    size = max(7.0, min(9.0, (plan.width - 0.1) / (letter * len(title))))
    ax.text(
        0.06, 0.17, short(title, int((plan.width - 0.1) / (letter * size))), fontsize=size, va="center", weight="bold"
    )
    y = _TOP
    if not plan.wraps:
        _header(ax, plan.lines[0], plan, y, first=True)
        y += plan.header
    for block in blocks:
        y = _draw_block(ax, block, plan, y)
    _draw_legend(ax, ramps, lines, height - foot)
    ax.set(xlim=(0, plan.width), ylim=(height, 0))  # imshow moves the limits
    return figure


def _header(ax: Axes, line: Line, plan: _Plan, y: float, first: bool) -> None:
    base = y + plan.header - 0.05
    for x, _, column in [*([(_NAMES, -1, Column("image"))] if first else []), *line]:
        low = base
        if column.note:
            _fitted(ax, column.note, x + plan.cell / 2, low, plan.cell, va="bottom", color=_GREY)
            low -= 0.095
        lines = _broken(column.name, plan.cell)
        size = min(6.0, (plan.cell + _GAP) / (_LETTER * max(map(len, lines))))  # one word may be longer than the cell
        ax.text(x + plan.cell / 2, low, "\n".join(lines), ha="center", va="bottom", fontsize=size, linespacing=1.05)
    for name, members in groupby(line, key=lambda placed: placed[2].group):
        if name:
            placed = list(members)
            left, right = placed[0][0], placed[-1][0] + plan.cell
            top = y + 0.085
            lines = _broken(name, right - left, most_lines=1)
            ax.text((left + right) / 2, top, lines[0], ha="center", va="center", fontsize=6)
            ax.plot([left, right], [top + 0.065] * 2, color="#999999", linewidth=0.5)


def _draw_block(ax: Axes, block: Drawn, plan: _Plan, y: float) -> float:
    for number, line in enumerate(plan.lines_of([row for row, _ in block])):
        if plan.wraps:
            _header(ax, line, plan, y, first=number == 0)
            y += plan.header
        for i, (row, tops) in enumerate(block):
            height = plan.cell * _aspect(row.view)
            if number == 0 or len(block) > 1:
                _name(ax, row, y + height / 2)
            if number == 0 and i == 0:
                _picture(ax, tile(row.view), _NAMES, y, plan.cell, height)
                if row.caption:  # its neighbours have none
                    _caption(ax, row.caption, _NAMES + plan.cell / 2, y + height, plan.cell + 0.25)
            for x, column, _ in line:
                cell = row.cells[column]
                if cell is not None:
                    _cell(ax, row.view, cell, tops[column], x, y, plan.cell, height)
            y += plan.height_of(row, len(block) == 1)
    return y + _BLOCK


def _name(ax: Axes, row: Row, middle: float) -> None:
    """The row's name and what is said about it, right-aligned before the picture."""
    room = _NAMES - 0.1
    longest = max(map(len, drawable(row.name).split(" "))) * _LETTER  # inches per point
    names = _broken(row.name, room, 7 if longest * 7 <= room else 5.5, marks=" " if longest * 5.5 <= room else MARKS)
    # the capitals of what stands for a letter without a font are broad
    broad = _BOLD if any("<U+" in part for part in names) else 1.0
    size = min(7.0, room / (_LETTER * broad * max(1, *map(len, names))))
    sources = [row.source] if isinstance(row.source, str) else list(row.source)
    notes = [line for source in sources if source for line in _broken(source, room, 5.5, most_lines=2)]
    y = middle - (0.12 * len(names) + 0.1 * len(notes)) / 2
    for text in names:
        ax.text(_NAMES - 0.07, y + 0.06, text, ha="right", va="center", fontsize=size)
        y += 0.12
    for text in notes:
        ax.text(_NAMES - 0.07, y + 0.05, text, ha="right", va="center", fontsize=5.5, color=_GREY)
        y += 0.1


def tile(view: np.ndarray) -> np.ndarray:
    """The view at the size a cell is printed at; itself where it has that size."""
    factor = TILE / max(view.shape[:2])
    size = (max(1, round(view.shape[1] * factor)), max(1, round(view.shape[0] * factor)))
    if size == (view.shape[1], view.shape[0]):
        return view
    # enlarged small images keep smooth edges, reduced ones no moiré
    return cv2.resize(view, size, interpolation=cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA)


def overlay(view: np.ndarray, raw: np.ndarray, top: float) -> np.ndarray:
    """A map's positive part over its image.

    Args:
        view: uint8 (H, W, 3), what the network saw.
        raw: (rows, columns), a raw map.
        top: the value that the brightest colour stands for, positive.

    Returns:
        uint8 (h, w, 3): the image in grey, coloured where the map is positive; the stronger, the more opaque.
    """
    grey = _grey(view)
    heat = _enlarged(np.clip(raw.astype(np.float32) / np.float32(top), 0, 1), grey)
    color = mpl.colormaps[COLOR_MAP](heat)[..., :3].astype(np.float32)
    opacity = (0.42 + 0.38 * heat)[..., None]
    return np.round(255 * (color * opacity + grey * (1 - opacity))).astype(np.uint8)


def signed_overlay(view: np.ndarray, raw: np.ndarray, top: float) -> np.ndarray:
    """A map with both signs over its image: brown where it is positive, blue where it is negative.

    Args:
        view: uint8 (H, W, 3), what the network saw.
        raw: (rows, columns), a raw map.
        top: the absolute value that the darkest colours stand for, positive.

    Returns:
        uint8 (h, w, 3): the image in pale grey, tinted where the map is not zero; the stronger, the darker.
    """
    pale = 0.62 + 0.38 * _grey(view)
    heat = _enlarged(np.clip(raw.astype(np.float32) / np.float32(top), -1, 1), pale)
    # multiplied, like ink on paper: mixing would show the map's zeros as lines, darker than the white around them
    return np.round(255 * pale * diverging()((heat + 1) / 2)[..., :3].astype(np.float32)).astype(np.uint8)


def _grey(view: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(tile(view), cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None] / 255
    return np.asarray(grey)


def _enlarged(heat: np.ndarray, like: np.ndarray) -> np.ndarray:
    size = (like.shape[1], like.shape[0])
    # a pixel-level map is often larger than its cell
    shrinks = heat.shape[0] > size[1] and heat.shape[1] > size[0]
    return cv2.resize(heat, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _cell(ax: Axes, view: np.ndarray, cell: Cell, top: float, x: float, y: float, width: float, height: float) -> None:
    if cell.drawn:
        draw = signed_overlay if cell.signed else overlay
        _picture(ax, draw(view, cell.map, top), x, y, width, height)
        for polygon in cell.outline:
            points = polygon * np.array([width, height]) + np.array([x, y])
            shape = Polygon(points, closed=True, fill=False, edgecolor="white", linewidth=0.6, zorder=4)
            shape.set_path_effects([Stroke(linewidth=1.3, foreground="black"), Normal()])
            ax.add_patch(shape)
    else:
        _blank(ax, cell.said or SAID.get(cell.status, cell.status), x, y, width, height)
    if cell.caption:
        _caption(ax, cell.caption, x + width / 2, y + height, width)


def _picture(ax: Axes, pixels: np.ndarray, x: float, y: float, width: float, height: float) -> None:
    ax.imshow(pixels, extent=(x, x + width, y + height, y), aspect="auto", interpolation="antialiased", zorder=2)


def _blank(ax: Axes, said: str, x: float, y: float, width: float, height: float) -> None:
    ax.add_patch(Rectangle((x, y), width, height, facecolor="#f3f3f3", edgecolor="#bbbbbb", linewidth=0.5, zorder=2))
    size = min(5.5, (width - 0.02) / (_LETTER * max(map(len, said.split("\n")))))
    ax.text(x + width / 2, y + height / 2, said, ha="center", va="center", fontsize=size, color="#555555", zorder=3)


def _caption(ax: Axes, caption: Caption, x: float, y: float, width: float) -> None:
    mark = {True: "✓ ", False: "✗ ", None: ""}[caption.correct]
    color = {True: RIGHT, False: WRONG, None: "#333333"}[caption.correct]
    _fitted(ax, mark + caption.text, x, y + 0.02, width, va="top", color=color)


def _fitted(ax: Axes, text: str, x: float, y: float, width: float, **look: Any) -> None:
    """Small text, centred; smaller and then shortened where it would reach into its neighbours."""
    size = min(5.5, max(4.3, (width + _GAP) / (_LETTER * len(text))))
    most = max(8, int((width + _GAP) / (_LETTER * size)))
    ax.text(x, y, _shortened(text, most), ha="center", fontsize=size, **look)


def _shortened(text: str, most: int) -> str:
    """A module path keeps its end, which tells depths apart; other text its beginning and end."""
    if len(text) > most and "." in text and " " not in text:
        tails = (text[i + 1 :] for i, letter in enumerate(text) if letter == ".")
        text = next((f"…{tail}" for tail in tails if len(tail) < most), text)
    return short(text, most)


def _draw_legend(ax: Axes, ramps: Sequence[tuple[bool, str]], lines: Sequence[str], top: float) -> None:
    """What the colours mean: one line for each kind of map on the page, then the lines below."""
    y = top + 0.22
    for signed, text in ramps:
        _ramp(ax, y, diverging() if signed else mpl.colormaps[COLOR_MAP], "−max" if signed else "0", "max", text)
        y += 0.16
    for line in lines:
        ax.text(0.06, y - 0.02, line, va="center", fontsize=6, color="#444444")
        y += _LINE


def _ramp(ax: Axes, y: float, colors: Any, low: str, high: str, text: str) -> None:
    left = 0.36
    ax.imshow(
        colors(np.linspace(0, 1, 128))[None, :, :3],
        extent=(left, left + 0.85, y + 0.05, y - 0.05),
        aspect="auto",
        zorder=2,
    )
    ax.text(left - 0.04, y, low, ha="right", va="center", fontsize=6)
    ax.text(left + 0.89, y, high, ha="left", va="center", fontsize=6)
    ax.text(_RAMP, y, text, va="center", fontsize=6, color="#444444")
