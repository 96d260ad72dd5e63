"""Vector drawings as display lists, and how they become pixels.

A vehicle, a house or a leaf is a `Drawing`: filled polygons, strokes and translucent glazes in its own coordinates.
`paint` puts a drawing on a `Layer` (colour and coverage, supersampled) through a homography, in one of several styles.
Keeping the list apart from the pixels lets one drawing be measured, fitted, cut into parts and drawn in another style.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

Color = tuple[float, float, float]
Points = Sequence[tuple[float, float]] | np.ndarray

SUBPIXEL = 4  # bits of a pixel that OpenCV's polygon filling takes below the point
PAPER: Color = (244, 241, 233)
INK: Color = (42, 42, 50)


def shade(color: Color, factor: float) -> Color:
    """Darker for ``factor`` below 1, nearer to white above (2 is white)."""
    if factor <= 1:
        return (color[0] * factor, color[1] * factor, color[2] * factor)
    return mix(color, (255, 255, 255), factor - 1)


def mix(a: Color, b: Color, t: float) -> Color:
    """``a`` at 0, ``b`` at 1."""
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


def luminance(color: Color) -> float:
    """Rec. 601 luma of an RGB colour, 0 to 255."""
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]


def ellipse(
    x: float, y: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0, n: int = 28
) -> np.ndarray:
    """Points on an ellipse's arc, angles in degrees, shape (n, 2)."""
    return _unit_arc(start, end, n) * (rx, ry) + (x, y)


@functools.lru_cache(maxsize=256)
def _unit_arc(start: float, end: float, n: int) -> np.ndarray:
    t = np.linspace(math.radians(start), math.radians(end), n, endpoint=(end - start) % 360 != 0)
    return np.stack([np.cos(t), np.sin(t)], axis=1)


def rounded(points: Points, radius: float, steps: int = 4) -> np.ndarray:
    """A polygon with its corners cut by quadratic Bézier arcs that start ``radius`` before each corner."""
    p = np.asarray(points, dtype=np.float64)
    before, after = np.roll(p, 1, axis=0) - p, np.roll(p, -1, axis=0) - p
    reach_b = np.minimum(radius / (np.linalg.norm(before, axis=1) + 1e-9), 0.5)[:, None]
    reach_a = np.minimum(radius / (np.linalg.norm(after, axis=1) + 1e-9), 0.5)[:, None]
    a, b = p + before * reach_b, p + after * reach_a
    t = np.linspace(0, 1, steps)[None, :, None]
    curve = (1 - t) ** 2 * a[:, None] + 2 * t * (1 - t) * p[:, None] + t**2 * b[:, None]
    return curve.reshape(-1, 2)


def curve(points: Points, steps: int = 6, closed: bool = True) -> np.ndarray:
    """A Catmull-Rom spline through the points."""
    p = np.asarray(points, dtype=np.float64)
    if closed:
        p0, p1, p2, p3 = np.roll(p, 1, axis=0), p, np.roll(p, -1, axis=0), np.roll(p, -2, axis=0)
    else:
        q = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
        p0, p1, p2, p3 = q[:-3], q[1:-2], q[2:-1], q[3:]
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = p0[:, None], p1[:, None], p2[:, None], p3[:, None]
    out = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
    out = out.reshape(-1, 2)
    return out if closed else np.concatenate([out, p[-1:]])


@dataclass(frozen=True)
class Stroke:
    """One step of a drawing.

    Attributes:
        kind: ``"fill"`` (a polygon), ``"line"`` (an open path) or ``"glaze"`` (translucent, only over what is there).
        points: (N, 2) in the drawing's coordinates.
        color: at the top of the polygon.
        to: at its bottom; ``None`` for one colour.
        width: of a line, in the drawing's units.
        alpha: of a glaze.
    """

    kind: str
    points: np.ndarray
    color: Color
    to: Color | None = None
    width: float = 0.0
    alpha: float = 1.0


@dataclass
class Drawing:
    """A display list. x grows to the right and y upwards for vehicles; `paint`'s homography decides."""

    strokes: list[Stroke] = field(default_factory=list)

    def fill(self, points: Points, color: Color, to: Color | None = None, r: float = 0.0) -> None:
        """A polygon, its corners rounded by ``r``, shaded from ``color`` (top) to ``to`` (bottom)."""
        p = rounded(points, r) if r else np.asarray(points, dtype=np.float64)
        self.strokes.append(Stroke("fill", p, color, to))

    def box(
        self, x0: float, y0: float, x1: float, y1: float, color: Color, to: Color | None = None, r: float = 0.0
    ) -> None:
        """A rectangle with rounded corners."""
        self.fill([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color, to, r)

    def disc(
        self, x: float, y: float, r: float, color: Color, to: Color | None = None, ry: float | None = None
    ) -> None:
        """A disc or ellipse."""
        self.strokes.append(Stroke("fill", ellipse(x, y, r, r if ry is None else ry), color, to))

    def line(self, points: Points, width: float, color: Color) -> None:
        """An open path with round ends."""
        self.strokes.append(Stroke("line", np.asarray(points, dtype=np.float64), color, width=width))

    def ring(self, x: float, y: float, r: float, width: float, color: Color) -> None:
        """A circle's outline."""
        p = ellipse(x, y, r, r)
        self.line(np.concatenate([p, p[:1]]), width, color)

    def glaze(self, points: Points, color: Color, alpha: float) -> None:
        """A translucent polygon over what has been drawn so far (highlights, reflections, dirt)."""
        self.strokes.append(Stroke("glaze", np.asarray(points, dtype=np.float64), color, alpha=alpha))

    def extent(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) of all that is drawn."""
        every = np.concatenate([s.points for s in self.strokes if s.kind != "glaze"])
        (left, low), (right, high) = every.min(axis=0), every.max(axis=0)
        return float(left), float(low), float(right), float(high)


class Layer:
    """Colour (H, W, 3) and coverage (H, W), both uint8, at the supersampled size."""

    def __init__(self, height: int, width: int, base: Color | None = None) -> None:
        self.color = np.zeros((height, width, 3), np.uint8)
        self.alpha = np.zeros((height, width), np.uint8)
        self.opaque = base is not None  # covered already: nothing drawn changes the coverage
        if base is not None:
            self.color[:] = base
            self.alpha[:] = 255


def project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points through a 3×3 homography, (N, 2) to (N, 2)."""
    q = points @ matrix[:, :2].T + matrix[:, 2]
    return q[:, :2] / q[:, 2:]


def paint(drawing: Drawing, layer: Layer, matrix: np.ndarray, style: str = "photo", ink: Color = INK) -> None:
    """Rasterise a drawing.

    Args:
        drawing: what to draw.
        layer: what to draw on; its colour and coverage change.
        matrix: 3×3 homography from the drawing's coordinates to the layer's pixels.
        style: ``"photo"`` (shaded), ``"poster"`` (flat colours), ``"line"`` (ink on paper) or ``"silhouette"``.
        ink: colour of lines and silhouettes in those styles.
    """
    unit = math.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    for s in drawing.strokes:
        px = project(matrix, s.points)
        color, to = s.color, s.to
        if style != "photo":
            if s.kind == "glaze":
                continue
            color, to = _restyled(s, style, ink), None
        if s.kind == "fill":
            _fill(layer, px, color, to)
            if style == "line":
                _polyline(layer, np.concatenate([px, px[:1]]), max(1.0, 0.011 * unit), ink)
        elif s.kind == "line":
            width = max(1.0, 0.010 * unit) if style == "line" and s.width < 0.03 else s.width * unit
            _polyline(layer, px, width, color)
        else:
            _glaze(layer, px, color, s.alpha)


def _restyled(s: Stroke, style: str, ink: Color) -> Color:
    if style == "silhouette":
        return ink
    flat = mix(s.color, s.to, 0.5) if s.to is not None else s.color
    if style == "line":
        return ink if s.kind == "line" else (shade(ink, 1.25) if luminance(flat) < 62 else PAPER)
    mean = sum(flat) / 3  # poster: a few strong colours
    return tuple(float(np.clip(round((mean + (c - mean) * 1.45) / 51) * 51, 0, 255)) for c in flat)  # type: ignore[return-value]


def _fixed(px: np.ndarray) -> np.ndarray:
    return np.rint((px - 0.5) * (1 << SUBPIXEL)).astype(np.int32)


def _window(layer: Layer, px: np.ndarray) -> tuple[int, int, int, int] | None:
    h, w = layer.alpha.shape
    x0, y0 = np.floor(px.min(axis=0)).astype(int) - 1
    x1, y1 = np.ceil(px.max(axis=0)).astype(int) + 2
    x0, y0, x1, y1 = max(int(x0), 0), max(int(y0), 0), min(int(x1), w), min(int(y1), h)
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _fill(layer: Layer, px: np.ndarray, color: Color, to: Color | None) -> None:
    fixed = _fixed(px)
    if to is not None:
        top, bottom = float(px[:, 1].min()), float(px[:, 1].max())
        if bottom - top < 5:  # too low for a gradient to be seen
            color, to = mix(color, to, 0.5), None
    if to is None:
        cv2.fillPoly(layer.color, [fixed], color, cv2.LINE_8, SUBPIXEL)
    else:
        window = _window(layer, px)
        if window is None:
            return
        x0, y0, x1, y1 = window
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(mask, [_fixed(px - (x0, y0))], 255, cv2.LINE_8, SUBPIXEL)
        t = np.clip((np.arange(y0, y1) + 0.5 - top) / max(bottom - top, 1e-6), 0, 1)[:, None]
        rows = np.asarray(color) * (1 - t) + np.asarray(to) * t
        ramp = np.repeat(np.rint(rows).astype(np.uint8)[:, None], x1 - x0, axis=1)
        cv2.copyTo(ramp, mask, layer.color[y0:y1, x0:x1])
    if not layer.opaque:
        cv2.fillPoly(layer.alpha, [fixed], 255, cv2.LINE_8, SUBPIXEL)


def _polyline(layer: Layer, px: np.ndarray, width: float, color: Color) -> None:
    fixed, thick = [_fixed(px)], max(1, round(width))
    cv2.polylines(layer.color, fixed, False, color, thick, cv2.LINE_8, SUBPIXEL)
    if not layer.opaque:
        cv2.polylines(layer.alpha, fixed, False, 255, thick, cv2.LINE_8, SUBPIXEL)


def _glaze(layer: Layer, px: np.ndarray, color: Color, alpha: float) -> None:
    window = _window(layer, px)
    if window is None:
        return
    x0, y0, x1, y1 = window
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    cv2.fillPoly(mask, [_fixed(px - (x0, y0))], 255, cv2.LINE_8, SUBPIXEL)
    cv2.bitwise_and(mask, layer.alpha[y0:y1, x0:x1], mask)
    there = layer.color[y0:y1, x0:x1]
    over = cv2.addWeighted(there, 1 - alpha, np.full_like(there, np.rint(color).astype(np.uint8)), alpha, 0)
    cv2.copyTo(over, mask, there)
