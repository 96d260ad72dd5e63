"""What vehicles have in common: paint, glass, wheels, lamps. Coordinates: x to the front, y up, the ground at y = 0."""

from __future__ import annotations

import colorsys
import math

import numpy as np

from gradlens.data.vehicles.canvas import Color, Drawing, ellipse, mix, shade

BLACK: Color = (30, 30, 34)
RUBBER: Color = (44, 44, 48)
STEEL: Color = (188, 193, 200)
GLASS: Color = (74, 100, 122)
LAMP: Color = (255, 246, 214)
TAIL: Color = (205, 44, 40)
AMBER: Color = (244, 160, 48)
WHITE: Color = (240, 240, 238)

_PAINTS: tuple[Color, ...] = (
    (196, 48, 44), (222, 98, 48), (236, 178, 52), (70, 134, 86), (38, 112, 118), (48, 98, 164), (96, 154, 206),
    (36, 54, 92), (120, 72, 128), (232, 230, 224), (176, 182, 188), (98, 104, 112), (52, 54, 60), (148, 96, 66),
    (206, 196, 164), (152, 36, 58),
)  # fmt: skip


def paint_color(rng: np.random.Generator, bright: bool = False) -> Color:
    """One of sixteen car paints, its hue and lightness moved a little (``bright``: none of the greys)."""
    base = _PAINTS[int(rng.integers(9 if bright else len(_PAINTS)))]
    h, lum, s = colorsys.rgb_to_hls(*(c / 255 for c in base))
    h = (h + rng.normal(0, 0.012)) % 1
    lum = float(np.clip(lum * rng.uniform(0.86, 1.14), 0.08, 0.94))
    s = float(np.clip(s * rng.uniform(0.8, 1.15), 0, 1))
    r, g, b = colorsys.hls_to_rgb(h, lum, s)
    return r * 255, g * 255, b * 255


def glass(d: Drawing, points: list[tuple[float, float]], r: float = 0.02, tint: Color = GLASS) -> None:
    """A window: sky above, dark below, a slanted reflection."""
    d.fill(points, shade(tint, 1.45), shade(tint, 0.55), r)
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    w = x1 - x0
    if w > 0.12:
        a, lean = x0 + 0.3 * w, 0.25 * (y1 - y0)
        band = [(a - lean, y0), (a + 0.16 * w - lean, y0), (a + 0.16 * w + lean, y1), (a + lean, y1)]
        inside = [(min(max(x, x0 + 0.1 * w), x1 - 0.1 * w), min(max(y, y0 + 0.01), y1 - 0.01)) for x, y in band]
        d.glaze(inside, (255, 255, 255), 0.22)


def windows(
    d: Drawing, x0: float, x1: float, y0: float, y1: float, n: int, gap: float = 0.025, r: float = 0.02
) -> None:
    """``n`` equal windows in a row."""
    step = (x1 - x0) / n
    for i in range(n):
        a, b = x0 + i * step + gap / 2, x0 + (i + 1) * step - gap / 2
        glass(d, [(a, y0), (b, y0), (b, y1), (a, y1)], r)


def wheel(
    d: Drawing, x: float, r: float, rim: str = "alloy", spokes: int = 5, turn: float = 0.0, y: float | None = None
) -> None:
    """A car or lorry wheel that stands on the ground: tyre, rim, spokes or bolts, hub."""
    y = r if y is None else y
    d.disc(x, y, r, shade(RUBBER, 1.12), shade(RUBBER, 0.62))
    d.disc(x, y, r * 0.86, (26, 26, 29))
    d.disc(x, y, r * 0.66, shade(STEEL, 1.25), shade(STEEL, 0.72))
    if rim == "alloy":
        d.disc(x, y, r * 0.58, (58, 60, 66))
        for k in range(spokes):
            t = turn + 2 * math.pi * k / spokes
            c, s = math.cos(t), math.sin(t)
            n = (-s * r * 0.10, c * r * 0.10)
            tip = (x + c * r * 0.60, y + s * r * 0.60)
            d.fill(
                [(x + n[0], y + n[1]), (tip[0] + n[0] * 0.7, tip[1] + n[1] * 0.7),
                 (tip[0] - n[0] * 0.7, tip[1] - n[1] * 0.7), (x - n[0], y - n[1])],
                shade(STEEL, 1.15), shade(STEEL, 0.85),
            )  # fmt: skip
    else:
        d.disc(x, y, r * 0.42, shade(STEEL, 0.62), shade(STEEL, 0.95))
        for k in range(6):
            t = turn + math.pi * k / 3
            d.disc(x + r * 0.53 * math.cos(t), y + r * 0.53 * math.sin(t), r * 0.06, (70, 70, 74))
    d.disc(x, y, r * 0.17, shade(STEEL, 1.2), shade(STEEL, 0.6))


def arch(d: Drawing, x: float, r: float, color: Color = (24, 24, 27)) -> None:
    """The dark opening above a wheel."""
    top = ellipse(x, r, r * 1.2, r * 1.2, -12, 192, 18)
    d.fill(top, color)


def spoked_wheel(d: Drawing, x: float, r: float, tyre: float, spokes: int, rim: Color, turn: float) -> None:
    """A bicycle or motorcycle wheel: what is between the spokes stays open."""
    for k in range(spokes):
        t = turn + 2 * math.pi * k / spokes
        lean = t + (0.22 if k % 2 else -0.22)
        d.line(
            [(x + 0.09 * r * math.cos(lean), r + 0.09 * r * math.sin(lean)),
             (x + 0.92 * r * math.cos(t), r + 0.92 * r * math.sin(t))],
            0.006, (150, 153, 160),
        )  # fmt: skip
    d.ring(x, r, r * 0.90 - tyre / 2, 0.018, rim)
    d.ring(x, r, r - tyre / 2, tyre, RUBBER)
    d.ring(x, r, r - tyre * 0.25, tyre * 0.18, shade(RUBBER, 1.3))
    d.disc(x, r, 0.03 + 0.04 * r, shade(STEEL, 1.1), shade(STEEL, 0.6))


def tube(d: Drawing, points: list[tuple[float, float]], width: float, color: Color) -> None:
    """A painted tube with a light upper edge."""
    d.line(points, width, shade(color, 0.72))
    d.line([(x, y + width * 0.16) for x, y in points], width * 0.55, color)
    d.line([(x, y + width * 0.28) for x, y in points], width * 0.2, mix(color, (255, 255, 255), 0.5))


def stripe(d: Drawing, x0: float, x1: float, y0: float, y1: float, color: Color) -> None:
    """A band painted along a side."""
    d.box(x0, y0, x1, y1, shade(color, 1.08), shade(color, 0.8))
