"""Planes and ships as drawings. A ship's waterline lies at y = 0."""

from __future__ import annotations

import numpy as np

from gradlens.data.vehicles.canvas import Color, Drawing, curve, mix, shade
from gradlens.data.vehicles.parts import BLACK, GLASS, RUBBER, STEEL, WHITE, glass, paint_color, windows


def _gear(d: Drawing, x: float, y: float, r: float) -> None:
    d.line([(x, y + 0.12), (x, y)], 0.024, STEEL)
    d.disc(x, y, r, RUBBER, (26, 26, 28))
    d.disc(x, y, r * 0.45, STEEL)


def _propeller(d: Drawing, x: float, y: float, r: float, a: float) -> None:
    for t in (a, a + np.pi):
        tip = (x + 0.03, y + r * np.sin(t) * 1.0)
        d.fill(
            curve([(x, y), (x + 0.035, (y + tip[1]) / 2), tip, (x - 0.015, (y + tip[1]) / 2)]),
            (86, 88, 94),
            (50, 51, 56),
        )
    d.fill(curve([(x - 0.02, y + 0.05), (x + 0.06, y), (x - 0.02, y - 0.05)]), (226, 70, 56), (130, 36, 32))


def plane(style: str, rng: np.random.Generator) -> Drawing:
    """An aeroplane, from its side or (``fighter``, ``below``) from below, flying to the right."""
    d, trim = Drawing(), paint_color(rng, bright=True)
    shell = mix((236, 238, 242), paint_color(rng), float(rng.choice([0.04, 0.1, 0.6])))
    dark = shade(shell, 0.66)
    if style == "below":
        wing = [(0.16, 0.06), (-0.34, 0.86), (-0.47, 0.86), (-0.22, 0.04)]
        for s in (1, -1):
            d.fill([(x, y * s) for x, y in wing], shade(shell, 0.98), shade(shell, 0.78), 0.03)
            d.line([(-0.40, 0.84 * s), (-0.20, 0.08 * s)], 0.02, shade(trim, 0.9))
            d.fill(
                [(-0.74, 0.03 * s), (-0.92, 0.33 * s), (-1.0, 0.33 * s), (-0.92, 0.02 * s)],
                shade(shell, 0.95),
                shade(shell, 0.74),
                0.02,
            )
            for k in (0.32, 0.56)[: 1 if rng.random() < 0.5 else 2]:
                x = 0.20 - 0.62 * k
                d.fill(
                    [
                        (x - 0.05, (k - 0.05) * s),
                        (x + 0.17, (k - 0.055) * s),
                        (x + 0.17, (k + 0.055) * s),
                        (x - 0.05, (k + 0.05) * s),
                    ],
                    shade(trim, 1.1),
                    shade(trim, 0.6),
                    0.04,
                )
        d.fill(
            curve(
                [
                    (1.0, 0.0),
                    (0.86, 0.09),
                    (0.5, 0.115),
                    (-0.5, 0.10),
                    (-1.0, 0.02),
                    (-1.0, -0.02),
                    (-0.5, -0.10),
                    (0.5, -0.115),
                    (0.86, -0.09),
                ]
            ),
            shade(shell, 1.2),
            shade(shell, 0.6),
        )
        d.fill(curve([(0.90, 0.05), (0.82, 0.075), (0.82, -0.075), (0.90, -0.05)]), GLASS, shade(GLASS, 0.6))
        d.line([(-0.95, 0.0), (-0.55, 0.0)], 0.03, dark)
        return d
    if style == "fighter":
        grey = mix((142, 150, 158), trim, 0.12)
        for s in (1, -1):
            d.fill(
                [(0.14, 0.06 * s), (-0.40, 0.56 * s), (-0.58, 0.56 * s), (-0.62, 0.06 * s)],
                shade(grey, 1.1),
                shade(grey, 0.75),
                0.02,
            )
            d.fill(
                [(-0.62, 0.05 * s), (-0.82, 0.30 * s), (-0.97, 0.30 * s), (-0.92, 0.04 * s)],
                shade(grey, 1.05),
                shade(grey, 0.7),
                0.01,
            )
            d.disc(-0.36, 0.36 * s, 0.055, shade(trim, 1.0))
            d.fill(
                [(0.30, 0.07 * s), (0.10, 0.16 * s), (-0.20, 0.14 * s), (-0.20, 0.06 * s)],
                shade(grey, 0.9),
                shade(grey, 0.6),
                0.02,
            )
        d.fill(
            curve(
                [
                    (1.0, 0.0),
                    (0.66, 0.065),
                    (0.2, 0.105),
                    (-0.6, 0.10),
                    (-0.98, 0.06),
                    (-0.98, -0.06),
                    (-0.6, -0.10),
                    (0.2, -0.105),
                    (0.66, -0.065),
                ]
            ),
            shade(grey, 1.25),
            shade(grey, 0.55),
        )
        d.fill(
            curve([(0.62, 0.0), (0.50, 0.055), (0.26, 0.05), (0.20, 0.0), (0.26, -0.05), (0.50, -0.055)]),
            shade(GLASS, 1.6),
            shade(GLASS, 0.7),
        )
        d.fill([(-1.03, 0.05), (-0.93, 0.06), (-0.93, -0.06), (-1.03, -0.05)], (70, 66, 66), (40, 38, 40))
        return d
    if style in ("airliner", "cargo"):
        up = rng.random() < 0.6  # wheels up
        thick = 0.125 + float(rng.uniform(-0.01, 0.02))
        d.fill(
            [(-0.10, 0.02), (-0.44, 0.36), (-0.53, 0.36), (-0.34, 0.02)], shade(shell, 0.80), shade(shell, 0.6), 0.02
        )  # far wing
        d.fill(
            [(-0.66, 0.08), (-0.94, 0.47), (-1.04, 0.47), (-0.95, 0.06)], shade(trim, 1.12), shade(trim, 0.68), 0.03
        )  # fin
        d.glaze([(-0.86, 0.30), (-0.94, 0.42), (-1.0, 0.42), (-0.98, 0.30)], WHITE, 0.6)
        d.fill(
            curve(
                [
                    (1.0, -0.02),
                    (0.90, 0.07),
                    (0.70, thick),
                    (0.2, thick + 0.005),
                    (-0.5, thick),
                    (-0.82, 0.10),
                    (-1.02, 0.085),
                    (-0.86, 0.0),
                    (-0.56, -0.10),
                    (0.0, -thick - 0.01),
                    (0.6, -thick),
                    (0.88, -0.10),
                ]
            ),
            shade(shell, 1.22),
            shade(shell, 0.58),
        )
        stripe = int(rng.integers(3))
        if stripe == 0:
            d.fill(
                curve([(0.95, -0.03), (0.3, -0.02), (-0.5, -0.01), (-0.95, 0.06), (-0.5, -0.05), (0.3, -0.06)]),
                shade(trim, 1.05),
                shade(trim, 0.8),
            )
        elif stripe == 1:
            d.glaze(
                curve([(0.9, -0.09), (0.6, -thick), (0.0, -thick - 0.01), (-0.5, -0.10), (-0.3, -0.06), (0.5, -0.06)]),
                trim,
                0.85,
            )
        if style == "airliner":
            for x in np.linspace(-0.56, 0.66, int(rng.integers(15, 22))):
                d.disc(float(x), 0.045, 0.016, (58, 74, 92))
        glass(d, [(0.82, 0.045), (0.90, 0.04), (0.86, 0.085), (0.78, 0.09)], 0.01)
        d.line([(0.58, -0.05), (0.58, 0.08)], 0.008, dark)
        d.fill([(-0.76, 0.07), (-1.06, 0.14), (-1.12, 0.12), (-0.94, 0.03)], shade(shell, 1.0), shade(shell, 0.7), 0.01)
        for x, y in ((0.06, -0.14), (-0.10, -0.22))[: 1 if style == "airliner" else 2]:
            d.box(
                x - 0.15,
                y - 0.06,
                x + 0.14,
                y + 0.06,
                shade(trim, 1.2) if stripe else shade(shell, 1.0),
                shade(shell, 0.5),
                0.05,
            )
            d.disc(x + 0.13, y, 0.024, (44, 46, 52), ry=0.056)
        d.fill(
            [(0.22, -0.05), (-0.48, -0.36), (-0.62, -0.37), (-0.30, -0.06)], shade(shell, 1.1), shade(shell, 0.68), 0.02
        )  # near wing
        d.line([(-0.52, -0.35), (-0.28, -0.08)], 0.014, dark)
        d.fill([(-0.58, -0.36), (-0.63, -0.36), (-0.68, -0.27), (-0.64, -0.27)], shade(trim, 1.1), shade(trim, 0.7))
        if not up:
            _gear(d, 0.66, -0.24, 0.045)
            _gear(d, -0.14, -0.26, 0.055)
        return d
    # propeller planes
    body = trim if rng.random() < 0.6 else shell
    d.fill([(-0.74, 0.03), (-0.92, 0.36), (-1.02, 0.36), (-0.99, 0.02)], shade(shell, 1.1), shade(shell, 0.7), 0.05)
    d.fill(
        curve(
            [
                (0.80, 0.0),
                (0.76, 0.12),
                (0.50, 0.16),
                (0.2, 0.17),
                (-0.4, 0.10),
                (-1.0, 0.04),
                (-1.0, -0.01),
                (-0.4, -0.11),
                (0.2, -0.17),
                (0.66, -0.14),
            ]
        ),
        shade(body, 1.2),
        shade(body, 0.58),
    )
    d.glaze(
        curve([(0.72, 0.02), (0.0, 0.03), (-0.95, 0.02), (0.0, -0.05), (0.7, -0.05)]),
        WHITE if body is trim else trim,
        0.8,
    )
    d.fill([(-0.76, 0.04), (-1.02, 0.06), (-1.06, 0.03), (-0.8, -0.01)], shade(shell, 1.05), shade(shell, 0.6), 0.02)
    if style == "biplane":
        for y in (0.40, -0.12):
            d.fill(
                [(0.44, y), (0.42, y + 0.05), (-0.10, y + 0.03), (-0.10, y - 0.01)],
                shade(trim if body is shell else shell, 1.1),
                shade(shell, 0.6),
                0.02,
            )
        for x in (0.36, 0.0):
            d.line([(x, -0.10), (x + 0.02, 0.41)], 0.02, (122, 84, 54))
        d.line([(0.36, -0.10), (0.02, 0.40)], 0.008, (150, 150, 150))
        d.fill(curve([(-0.10, 0.15), (-0.14, 0.24), (-0.30, 0.20), (-0.36, 0.12)]), (74, 56, 46), (40, 34, 32))
    else:
        d.fill(curve([(0.52, 0.15), (0.30, 0.31), (0.0, 0.32), (-0.28, 0.12)]), shade(body, 1.1), shade(body, 0.8))
        glass(d, [(0.43, 0.155), (0.24, 0.155), (0.24, 0.27), (0.31, 0.26)], 0.02)
        glass(d, [(0.20, 0.155), (-0.14, 0.145), (-0.02, 0.27), (0.20, 0.275)], 0.02)
        if style == "seaplane":
            for x in (0.4, -0.1):
                d.line([(x, -0.14), (x + 0.04, -0.42)], 0.026, STEEL)
            d.fill(
                curve([(0.82, -0.42), (0.70, -0.37), (-0.5, -0.38), (-0.66, -0.42), (-0.2, -0.51), (0.6, -0.51)]),
                shade(shell, 1.1),
                shade(shell, 0.6),
            )
        d.fill([(0.40, 0.31), (0.38, 0.37), (-0.20, 0.36), (-0.20, 0.32)], shade(shell, 1.15), shade(shell, 0.7), 0.02)
        d.line([(0.22, 0.31), (0.30, -0.10)], 0.02, STEEL)
    if style != "seaplane":
        d.line([(0.34, -0.12), (0.44, -0.33)], 0.028, STEEL)
        d.disc(0.45, -0.35, 0.085, RUBBER, (26, 26, 28))
        d.disc(0.45, -0.35, 0.04, STEEL)
        _gear(d, -0.90, -0.12, 0.035)
    _propeller(d, 0.82, 0.0, 0.34, float(rng.uniform(0.5, 1.5)))
    return d


def _hull(d: Drawing, color: Color, deck: float, bow: float, stern: float, band: Color, flare: float = 0.16) -> None:
    top = [(-1 + 0.02, stern), (-0.4, deck), (0.5, deck + (bow - deck) * 0.25), (1.0, bow)]
    d.fill([*top, (1.0 - flare, 0.0), (-0.93, 0.0)], shade(color, 1.18), shade(color, 0.62), 0.02)
    d.fill(
        [(-0.945, 0.055), (1.0 - flare * 0.82, 0.055), (1.0 - flare, 0.0), (-0.93, 0.0)],
        shade(band, 1.0),
        shade(band, 0.7),
    )
    d.line([(x, y - 0.03) for x, y in top], 0.016, shade(color, 1.5))


def _cabin(d: Drawing, x0: float, y0: float, x1: float, y1: float, color: Color, n: int) -> None:
    d.fill([(x0, y0), (x0 + 0.02, y1), (x1 - 0.05, y1), (x1, y0)], shade(color, 1.1), shade(color, 0.78), 0.015)
    h = y1 - y0
    windows(d, x0 + 0.05, x1 - 0.07, y0 + 0.34 * h, y1 - 0.2 * h, n, 0.022, 0.008)


def _funnel(d: Drawing, x: float, y: float, w: float, h: float, color: Color) -> None:
    d.fill([(x, y), (x - 0.04, y + h), (x - 0.04 + w, y + h), (x + w, y)], shade(color, 1.15), shade(color, 0.65))
    d.fill(
        [(x - 0.035, y + h * 0.78), (x - 0.04, y + h), (x - 0.04 + w, y + h), (x - 0.03 + w, y + h * 0.78)],
        (44, 44, 48),
    )


def ship(style: str, rng: np.random.Generator) -> Drawing:
    """A ship or boat seen from its side, sailing to the right."""
    d, body, trim = Drawing(), paint_color(rng), paint_color(rng, bright=True)
    white = mix((238, 238, 234), trim, 0.05)
    red = (150, 52, 46)
    if style in ("sail", "schooner"):
        hull = white if rng.random() < 0.5 else body
        wood = (150, 104, 62)
        cloth = mix((246, 242, 230), trim, float(rng.choice([0.0, 0.0, 0.35])))
        d.fill(
            curve(
                [(-0.80, 0.17), (0.0, 0.14), (0.92, 0.24), (0.70, 0.06), (0.45, -0.0), (-0.60, -0.0), (-0.80, 0.08)], 5
            ),
            shade(hull, 1.15),
            shade(hull, 0.62),
        )
        d.line([(-0.80, 0.165), (0.0, 0.145), (0.90, 0.235)], 0.026, wood)
        d.glaze([(-0.76, 0.06), (0.72, 0.08), (0.62, 0.035), (-0.7, 0.02)], trim, 0.8)
        d.fill([(-0.38, 0.15), (-0.34, 0.25), (0.10, 0.25), (0.22, 0.15)], shade(white, 1.1), shade(white, 0.8), 0.02)
        windows(d, -0.32, 0.08, 0.175, 0.225, 4, 0.03, 0.005)
        masts = [(0.10, 1.62)] if style == "sail" else [(0.26, 1.40), (-0.34, 1.25)]
        for i, (x, h) in enumerate(masts):
            d.line([(x, 0.16), (x, h)], 0.028, mix(wood, (210, 200, 190), 0.5))
            boom = x - (0.78 if style == "sail" else 0.50)
            d.line([(x, 0.32), (boom, 0.31)], 0.024, wood)
            main = [
                (x - 0.02, h - 0.05),
                (x - 0.30 * (x - boom), h * 0.62),
                (boom + 0.03, 0.36),
                ((x + boom) / 2, 0.35),
                (x - 0.02, 0.36),
            ]
            d.fill(rounded_sail(main), shade(cloth, 1.05), shade(cloth, 0.82))
            for f in (0.25, 0.45, 0.65):
                y = 0.36 + (h - 0.41) * f
                d.line([(x - 0.02, y), (x - (x - boom) * (1 - f) * 0.86, y - 0.02)], 0.007, shade(cloth, 0.68))
            if i == 0:
                d.fill(
                    curve([(x + 0.05, h * 0.90), (0.52, 0.72), (0.86, 0.30), (0.45, 0.36), (x + 0.06, 0.36)], 5),
                    shade(mix(cloth, trim, 0.25), 1.02),
                    shade(mix(cloth, trim, 0.25), 0.78),
                )
        d.fill(
            [
                (masts[0][0], masts[0][1] + 0.08),
                (masts[0][0] - 0.16, masts[0][1] + 0.05),
                (masts[0][0], masts[0][1] + 0.01),
            ],
            trim,
        )
        return d
    if style == "container":
        _hull(d, body, 0.22, 0.34, 0.24, red)
        for i, x in enumerate(np.linspace(-0.50, 0.66, 8)):
            for k in range(int(rng.integers(2, 5)) if i < 7 else 2):
                c = paint_color(rng)
                d.box(
                    float(x) - 0.076,
                    0.24 + 0.085 * k,
                    float(x) + 0.076,
                    0.318 + 0.085 * k,
                    shade(c, 1.15),
                    shade(c, 0.65),
                )
                d.line([(float(x) - 0.02, 0.25 + 0.085 * k), (float(x) - 0.02, 0.31 + 0.085 * k)], 0.006, shade(c, 0.6))
        for k in range(4):
            _cabin(d, -0.86, 0.24 + 0.11 * k, -0.62, 0.35 + 0.11 * k, white, 3)
        _funnel(d, -0.96, 0.24, 0.10, 0.42, trim)
        d.line([(-0.72, 0.68), (-0.72, 0.86)], 0.018, STEEL)
        d.line([(0.88, 0.30), (0.88, 0.52)], 0.018, STEEL)
    elif style == "cruise":
        _hull(d, mix(white, body, float(rng.choice([0.0, 0.9]))), 0.24, 0.33, 0.25, trim)
        decks = int(rng.integers(3, 5))
        for k in range(decks):
            _cabin(d, -0.90 + 0.07 * k, 0.24 + 0.095 * k, 0.70 - 0.09 * k, 0.335 + 0.095 * k, white, 15 - 2 * k)
        top = 0.24 + 0.095 * decks
        _funnel(d, -0.42, top, 0.17, 0.20, trim)
        d.line([(0.22, top), (0.22, top + 0.16)], 0.018, STEEL)
        for x in np.linspace(-0.62, 0.28, 5):
            d.box(float(x), 0.235, float(x) + 0.11, 0.275, AMBER_BOAT, shade(AMBER_BOAT, 0.6), 0.02)
        for x in np.linspace(-0.84, 0.78, 17):
            d.disc(float(x), 0.165, 0.012, (50, 56, 64))
    elif style == "ferry":
        _hull(d, body, 0.20, 0.28, 0.22, red, 0.12)
        _cabin(d, -0.86, 0.20, 0.64, 0.38, white, 7)
        _cabin(d, -0.80, 0.38, 0.44, 0.50, white, 9)
        _cabin(d, 0.02, 0.50, 0.38, 0.63, white, 4)
        _funnel(d, -0.46, 0.50, 0.20, 0.22, trim)
        d.line([(0.14, 0.63), (0.14, 0.82)], 0.018, STEEL)
        d.line([(-0.98, 0.26), (-0.98, 0.40)], 0.012, STEEL)
    elif style == "yacht":
        d.fill(
            curve([(-0.96, 0.22), (-0.2, 0.25), (0.5, 0.30), (1.0, 0.36), (0.72, 0.10), (0.5, -0.0), (-0.90, -0.0)], 5),
            shade(white, 1.1),
            shade(white, 0.66),
        )
        d.glaze([(-0.93, 0.12), (0.86, 0.20), (0.80, 0.15), (-0.93, 0.07)], trim, 0.9)
        d.fill([(-0.66, 0.24), (-0.50, 0.46), (0.14, 0.46), (0.50, 0.30)], shade(white, 1.1), shade(white, 0.8), 0.03)
        d.fill([(-0.50, 0.32), (-0.42, 0.41), (0.12, 0.41), (0.30, 0.33)], shade(GLASS, 0.9), shade(GLASS, 0.5), 0.02)
        d.fill([(-0.52, 0.46), (-0.44, 0.60), (-0.06, 0.58), (0.06, 0.46)], shade(white, 1.1), shade(white, 0.8), 0.03)
        d.line([(-0.40, 0.60), (-0.50, 0.82)], 0.03, white)
        d.line([(0.52, 0.33), (0.96, 0.44)], 0.010, STEEL)
    else:  # a tug or fishing boat
        hull = mix(body, trim, 0.4)
        d.fill(
            curve(
                [
                    (-0.92, 0.28),
                    (-0.2, 0.20),
                    (0.4, 0.28),
                    (0.96, 0.50),
                    (0.78, 0.16),
                    (0.62, -0.0),
                    (-0.80, -0.0),
                    (-0.92, 0.12),
                ],
                5,
            ),
            shade(hull, 1.15),
            shade(hull, 0.6),
        )
        d.line(curve([(-0.92, 0.26), (-0.2, 0.19), (0.4, 0.27), (0.94, 0.48)], closed=False), 0.035, white)
        d.glaze([(-0.86, 0.06), (0.70, 0.07), (0.62, 0.0), (-0.80, 0.0)], red, 0.85)
        _cabin(d, -0.20, 0.22, 0.36, 0.50, white, 3)
        _cabin(d, -0.08, 0.50, 0.30, 0.72, mix(white, trim, 0.5), 3)
        d.box(-0.14, 0.71, 0.33, 0.755, shade(trim, 1.0), shade(trim, 0.7), 0.01)
        _funnel(d, -0.34, 0.24, 0.14, 0.38, trim)
        d.line([(0.04, 0.75), (0.04, 1.06)], 0.022, (120, 90, 60))
        d.line([(0.04, 0.98), (-0.76, 0.62)], 0.014, (120, 90, 60))
        d.line([(-0.76, 0.62), (-0.76, 0.26)], 0.014, BLACK)
        for x in (-0.66, -0.36, 0.52):
            d.disc(x, 0.13, 0.055, RUBBER, (22, 22, 24))
    return d


AMBER_BOAT: Color = (236, 128, 48)  # lifeboats


def rounded_sail(points: list[tuple[float, float]]) -> np.ndarray:
    """A sail's outline: straight along mast and boom, bellied behind."""
    return np.concatenate([curve(points[:3], 6, closed=False), np.asarray(points[3:])])
