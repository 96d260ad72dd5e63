"""A network as its depths and the stretches between them: what a diagram of boxes shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gradlens.report.model_files import DepthRow
from gradlens.shift import tables

TALLEST, WIDEST = 5.0, 3.2  # of a box, in em


@dataclass(frozen=True)
class Step:
    """A stretch of the network and the depth that it ends at.

    Attributes:
        depth: the row of the file.
        parameters, flops: of the stretch, as text.
        parameter_share, flop_share: of the whole network, 0-1.
        height, width: of the depth's box in em: by rows of its grid and by channels.
    """

    depth: DepthRow
    parameters: str
    flops: str
    parameter_share: float
    flop_share: float
    height: float
    width: float

    @property
    def name(self) -> str:
        """Of the depth; the last stretch ends at the logits."""
        return self.depth.name if self.depth.path else "logits"

    @property
    def work(self) -> str:
        """Share of the network's work that is done here, in percent."""
        return tables.percent(self.depth.position)

    @property
    def shape(self) -> str:
        """``96 × 8 × 8``: channels, rows, columns."""
        return " × ".join(f"{side:,}" for side in self.depth.shape)


@dataclass(frozen=True)
class Architecture:
    """A network from its pixels to its logits.

    Attributes:
        pixels: (rows, columns) that go in.
        height: of the pixels' box in em.
        steps: shallow to deep; the last one ends at the logits.
        summary: the diagram in words.
    """

    pixels: tuple[int, int]
    height: float
    steps: tuple[Step, ...]
    summary: str


def architecture(rows: Sequence[DepthRow]) -> Architecture | None:
    """The diagram of one model's rows of ``depths.csv``; ``None`` where no depth was found."""
    grids = [r for r in rows if len(r.shape) == 3]
    if not grids:
        return None
    pixels = _pixels(grids[0])
    parameters, flops = (sum(getattr(r, what) for r in rows) for what in ("parameters", "flops"))
    largest = max(r.shape[0] for r in grids)
    steps = tuple(
        Step(
            r,
            amount(r.parameters),
            amount(r.flops),
            r.parameters / parameters if parameters else 0.0,
            r.flops / flops if flops else 0.0,
            _height(r.shape[1] / pixels[0]) if len(r.shape) == 3 else TALLEST / 3,
            _width(r.shape[0] / largest) if len(r.shape) == 3 else 0.35,
        )
        for r in rows
    )
    heaviest, busiest = max(steps, key=lambda s: s.parameter_share), max(steps, key=lambda s: s.flop_share)
    summary = (
        f"{len(grids)} depths from {pixels[0]} × {pixels[1]} pixels to {rows[-1].shape[0]} logits; "
        f"{amount(parameters)} parameters, most of them ({heaviest.parameter_share:.0%}) on the way to "
        f"{heaviest.name}; {amount(flops)}FLOPs per image, most of them ({busiest.flop_share:.0%}) on the way to "
        f"{busiest.name}"
    )
    return Architecture(pixels, TALLEST, steps, summary.replace("%", "\N{NO-BREAK SPACE}%"))


def _pixels(first: DepthRow) -> tuple[int, int]:
    """Rows and columns of the input, from the shape and the stride of a depth."""
    sides = first.stride.split("×")
    try:
        down, across = float(sides[0]), float(sides[-1])
    except ValueError:
        down = across = 1.0
    return max(1, round(first.shape[1] * down)), max(1, round(first.shape[2] * across))


def _height(share: float) -> float:
    """Square-root scale: a grid of one cell still shows beside one of a hundred."""
    return round(max(0.45, TALLEST * math.sqrt(min(1.0, share))), 2)


def _width(share: float) -> float:
    return round(max(0.3, WIDEST * math.sqrt(share)), 2)


def amount(value: float) -> str:
    """Three digits and a unit: ``1.23 M``; a dash for nothing and for what is not known."""
    if math.isnan(value) or value == 0:
        return "–"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}\N{NO-BREAK SPACE}{unit}"
    return f"{value:.0f}"
