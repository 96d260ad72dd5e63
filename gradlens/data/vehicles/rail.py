"""Trains as drawings."""

from __future__ import annotations

import numpy as np

from gradlens.data.vehicles.canvas import Drawing, curve, mix, shade
from gradlens.data.vehicles.parts import (
    LAMP,
    STEEL,
    TAIL,
    WHITE,
    glass,
    paint_color,
    stripe,
    windows,
)


def _bogie(d: Drawing, x: float, r: float = 0.062, n: int = 2, gap: float = 0.17) -> None:
    half = gap * (n - 1) / 2
    d.box(x - half - 0.09, r * 0.9, x + half + 0.09, r * 2.3, (66, 68, 74), (34, 35, 40), 0.02)
    for k in range(n):
        c = x - half + k * gap
        d.disc(c, r, r, (96, 98, 106), (44, 45, 50))
        d.disc(c, r, r * 0.5, STEEL, (84, 86, 92))


def _pantograph(d: Drawing, x: float, y: float, lift: float = 0.2) -> None:
    d.line([(x - 0.10, y), (x + 0.07, y + lift * 0.5), (x - 0.04, y + lift)], 0.016, (78, 80, 86))
    d.line([(x - 0.13, y + lift), (x + 0.06, y + lift)], 0.020, (60, 62, 66))
    d.box(x - 0.13, y - 0.01, x + 0.10, y + 0.03, (96, 98, 104), (60, 62, 66))


def train(style: str, rng: np.random.Generator) -> Drawing:
    """A locomotive, tram or carriage seen from its side, running to the right."""
    d, body, trim = Drawing(), paint_color(rng, bright=rng.random() < 0.6), paint_color(rng)
    low = 0.13
    if style == "steam":
        black = mix((44, 46, 50), body, float(rng.choice([0.0, 0.55])))
        d.box(-1.0, 0.20, 0.94, 0.29, (120, 36, 34), (70, 24, 24))
        d.fill(
            [(-1.0, 0.26), (-1.0, 0.56), (-0.62, 0.56), (-0.62, 0.26)], shade(black, 1.2), shade(black, 0.7), 0.01
        )  # tender
        d.fill(curve([(-0.98, 0.56), (-0.8, 0.64), (-0.64, 0.56)]), (40, 38, 38))
        d.fill(
            [(-0.58, 0.26), (-0.58, 0.80), (-0.20, 0.80), (-0.20, 0.26)], shade(black, 1.25), shade(black, 0.7), 0.01
        )
        d.fill([(-0.64, 0.80), (-0.60, 0.86), (-0.18, 0.86), (-0.13, 0.80)], shade(black, 0.9), shade(black, 0.6), 0.02)
        glass(d, [(-0.50, 0.56), (-0.28, 0.56), (-0.28, 0.73), (-0.50, 0.73)])
        d.box(-0.20, 0.30, 0.82, 0.62, shade(black, 1.65), shade(black, 0.5), 0.05)  # boiler
        for x in (0.0, 0.25, 0.5):
            d.line([(x, 0.305), (x, 0.615)], 0.016, (196, 158, 74))
        d.box(0.80, 0.29, 0.90, 0.64, shade(black, 1.2), shade(black, 0.5), 0.03)
        d.fill(
            [(0.62, 0.60), (0.60, 0.86), (0.57, 0.92), (0.79, 0.92), (0.76, 0.86), (0.74, 0.60)],
            shade(black, 1.3),
            shade(black, 0.7),
        )
        d.disc(0.22, 0.64, 0.09, (206, 168, 84), (150, 110, 50))
        d.disc(0.91, 0.56, 0.05, LAMP, (206, 190, 140))
        d.fill([(0.82, 0.26), (1.0, 0.06), (1.0, 0.03), (0.82, 0.10)], (120, 36, 34), (70, 24, 24))
        for x in (-0.36, -0.03, 0.30):
            d.disc(x, 0.15, 0.15, (120, 40, 38), (70, 24, 24))
            d.disc(x, 0.15, 0.115, (54, 26, 28))
            for k in range(6):
                t = 1.047 * k + 0.3
                d.line([(x, 0.15), (x + 0.12 * np.cos(t), 0.15 + 0.12 * np.sin(t))], 0.014, (150, 56, 52))
            d.disc(x, 0.15, 0.03, STEEL)
        d.line([(-0.36, 0.11), (0.30, 0.11), (0.66, 0.15)], 0.028, STEEL)
        for x in (0.60, 0.76, -0.72, -0.90):
            d.disc(x, 0.075, 0.075, (110, 44, 42), (60, 26, 26))
            d.disc(x, 0.075, 0.03, STEEL)
        if rng.random() < 0.7:
            for k in range(4):
                s = 0.07 + 0.035 * k
                d.disc(0.62 - 0.16 * k, 1.02 + 0.07 * k, s, (226, 226, 226), (186, 188, 192))
        return d
    if style == "tram":
        top = 0.66 + float(rng.uniform(-0.04, 0.05))
        d.fill(
            [(-1, low), (-0.985, 0.42), (-0.93, top), (0.93, top), (0.985, 0.42), (1, low)],
            shade(body, 1.15),
            shade(body, 0.66),
            0.06,
        )
        cream = mix((238, 228, 200), trim, 0.15)
        d.fill(
            [(-0.975, 0.36), (-0.93, top - 0.04), (0.93, top - 0.04), (0.975, 0.36)],
            shade(cream, 1.1),
            shade(cream, 0.85),
            0.03,
        )
        windows(d, -0.74, 0.74, 0.38, top - 0.09, 7, 0.03)
        for s in (-1, 1):
            glass(d, [(s * 0.95, 0.37), (s * 0.79, 0.37), (s * 0.79, top - 0.09), (s * 0.915, top - 0.09)])
            d.disc(s * 0.97, 0.24, 0.03, LAMP if s > 0 else TAIL)
            d.box(s * 0.62 - 0.09, low + 0.02, s * 0.62 + 0.09, top - 0.08, (60, 64, 70), (38, 40, 46), 0.01)
            glass(
                d,
                [
                    (s * 0.62 - 0.07, low + 0.09),
                    (s * 0.62 + 0.07, low + 0.09),
                    (s * 0.62 + 0.07, top - 0.1),
                    (s * 0.62 - 0.07, top - 0.1),
                ],
            )
        d.box(-0.7, top - 0.005, 0.5, top + 0.05, (150, 154, 160), (110, 112, 118), 0.02)
        _pantograph(d, 0.0, top + 0.05, 0.22)
        for x in (-0.5, 0.5):
            _bogie(d, x, 0.06)
        return d
    if style == "highspeed":
        top = 0.56 + float(rng.uniform(-0.03, 0.03))
        nose = [
            (-1, low),
            (-1, top),
            (0.30, top),
            (0.56, top - 0.03),
            (0.80, 0.38),
            (0.97, 0.22),
            (1.0, 0.16),
            (0.96, low - 0.02),
        ]
        shell = mix(WHITE, trim, float(rng.choice([0.04, 0.5])))
        d.fill(nose, shade(shell, 1.12), shade(shell, 0.68), 0.09)
        d.fill([(-1, 0.29), (-1, 0.22), (0.97, 0.16), (0.93, 0.23), (0.6, 0.29)], shade(body, 1.1), shade(body, 0.8))
        windows(d, -0.97, 0.28, 0.335, 0.44, 9, 0.03)
        glass(d, [(0.50, 0.40), (0.70, 0.385), (0.57, top - 0.055), (0.46, top - 0.05)], 0.03)
        d.fill([(0.88, 0.25), (0.96, 0.20), (0.93, 0.18), (0.86, 0.22)], LAMP, (210, 206, 190), 0.01)
        d.line([(-0.62, low), (-0.62, top - 0.005)], 0.016, shade(shell, 0.5))
        d.line([(0.36, low + 0.03), (0.36, top - 0.06)], 0.01, shade(shell, 0.55))
        _pantograph(d, -0.3, top, 0.16)
        d.box(-1.0, 0.07, 0.86, low + 0.02, (78, 80, 86), (46, 47, 52), 0.02)
        for x in (-0.82, -0.42, 0.56):
            _bogie(d, x, 0.058)
        return d
    top = {"electric": 0.66, "diesel": 0.70, "coach": 0.64, "railcar": 0.68}[style] + float(rng.uniform(-0.02, 0.03))
    d.box(-0.98, 0.09, 0.98, 0.17, (66, 68, 74), (36, 37, 42))
    if style == "diesel":  # long bonnet, cab towards the front
        d.box(-0.97, low + 0.02, 0.42, 0.56, shade(body, 1.15), shade(body, 0.62), 0.02)
        d.box(0.68, low + 0.02, 0.97, 0.47, shade(body, 1.15), shade(body, 0.62), 0.04)
        d.fill(
            [(0.38, low + 0.02), (0.38, top), (0.70, top), (0.74, 0.46), (0.74, low + 0.02)],
            shade(body, 1.2),
            shade(body, 0.62),
            0.03,
        )
        glass(d, [(0.43, 0.47), (0.53, 0.47), (0.53, top - 0.06), (0.43, top - 0.06)])
        glass(d, [(0.56, 0.47), (0.69, 0.47), (0.67, top - 0.06), (0.56, top - 0.06)])
        for k in np.linspace(-0.88, 0.28, 9):
            d.box(k, 0.30, k + 0.09, 0.50, shade(body, 0.75), shade(body, 0.5))
        stripe(d, -0.97, 0.97, 0.19, 0.25, trim)
        d.line([(-0.97, 0.62), (-0.97, 0.2), (0.4, 0.2)], 0.012, (226, 222, 210))
        d.line([(-0.97, 0.62), (0.36, 0.62)], 0.012, (226, 222, 210))
        d.box(-0.5, 0.555, -0.2, 0.62, (70, 72, 78), (44, 45, 50), 0.01)
    else:
        ends = 0.05 if style != "coach" else 0.01
        d.fill(
            [(-1, low), (-1, 0.36), (-1 + ends, top), (1 - ends, top), (1, 0.36), (1, low)],
            shade(body, 1.12),
            shade(body, 0.66),
            0.04,
        )
        d.glaze([(-0.94, top - 0.02), (0.94, top - 0.02), (0.94, top - 0.05), (-0.94, top - 0.05)], WHITE, 0.35)
        if rng.random() < 0.7:
            stripe(d, -0.99, 0.99, 0.22, 0.31, trim)
        if style == "electric":
            for k in np.linspace(-0.56, 0.40, 5):
                d.box(k, 0.40, k + 0.14, 0.54, shade(body, 0.78), shade(body, 0.5), 0.01)
                for y in (0.44, 0.47, 0.50):
                    d.line([(k + 0.01, y), (k + 0.13, y)], 0.008, shade(body, 0.42))
            for s in (-1, 1):
                glass(d, [(s * 0.80, 0.40), (s * 0.93, 0.40), (s * 0.91, top - 0.07), (s * 0.80, top - 0.07)])
                d.line([(s * 0.70, low + 0.03), (s * 0.70, top - 0.05)], 0.012, shade(body, 0.5))
            _pantograph(d, -0.5, top, 0.18)
            _pantograph(d, 0.45, top, 0.05)
        else:
            windows(d, -0.78, 0.78, 0.38, top - 0.09, int(rng.integers(7, 10)), 0.035)
            for s in (-1, 1):
                d.box(
                    s * 0.88 - 0.06, low + 0.02, s * 0.88 + 0.06, top - 0.07, shade(body, 0.8), shade(body, 0.55), 0.01
                )
                glass(
                    d,
                    [
                        (s * 0.88 - 0.04, 0.40),
                        (s * 0.88 + 0.04, 0.40),
                        (s * 0.88 + 0.04, top - 0.1),
                        (s * 0.88 - 0.04, top - 0.1),
                    ],
                )
            d.box(-0.9, top - 0.008, 0.9, top + 0.03, (120, 124, 130), (90, 92, 98), 0.02)
    d.disc(0.965, 0.25, 0.028, LAMP)
    for x in (-1.03, 1.03):
        d.line([(x * 0.97, 0.14), (x, 0.14)], 0.05, (60, 62, 66))
    for x in (-0.66, 0.66):
        _bogie(d, x, 0.07, 3 if style in ("diesel", "electric") and rng.random() < 0.5 else 2, 0.19)
    d.box(-0.3, 0.05, 0.3, 0.12, (70, 72, 78), (40, 41, 46), 0.02)
    return d
