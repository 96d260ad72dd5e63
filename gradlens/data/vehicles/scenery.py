"""The eight backgrounds.

A background is painted on a supersampled layer in the unit square (x to the right, y down); ``ground`` is the height
at which wheels or the waterline stand. Each takes a random generator and nothing else: the same seed gives the same
place behind any vehicle.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gradlens.data.vehicles.canvas import Drawing, Layer, curve, mix, paint, shade
from gradlens.data.vehicles.terrain import asphalt, green, jitter, noise, paint_sky, ridge, scaled, tree

Painter = Callable[[Layer, np.random.Generator, float], None]


def sea(layer: Layer, rng: np.random.Generator, ground: float) -> None:
    """Open water, sometimes with an island or a far sail."""
    horizon = ground - float(rng.uniform(0.10, 0.26))
    paint_sky(layer, rng, horizon)
    water = jitter(rng, [(52, 104, 140), (70, 128, 142), (66, 100, 120), (86, 140, 164)][int(rng.integers(4))], 10)
    d = Drawing()
    if rng.random() < 0.45:
        far = mix((110, 130, 128), green(rng), 0.3)
        x, w = rng.uniform(0, 1), rng.uniform(0.15, 0.5)
        d.fill(
            curve(
                [
                    (x - w, horizon + 0.01),
                    (x - w / 3, horizon - 0.06),
                    (x + w / 4, horizon - 0.035),
                    (x + w, horizon + 0.01),
                ]
            ),
            shade(far, 1.15),
            far,
        )
    d.box(0, horizon, 1, 1.02, shade(water, 1.32), shade(water, 0.78))
    paint(d, layer, scaled(layer))
    noise(layer, rng, horizon, 1, (40, 9), 6.0)
    d = Drawing()
    n = 70
    depth = rng.uniform(0, 1, n) ** 1.6
    xs, ys = rng.uniform(0, 1, n), horizon + 0.012 + depth * (1 - horizon)
    for k in range(n):
        length = 0.015 + 0.06 * depth[k] * rng.uniform(0.5, 1.5)
        tone = shade(water, 1.5) if rng.random() < 0.6 else shade(water, 0.72)
        d.fill(
            curve(
                [
                    (xs[k] - length, ys[k]),
                    (xs[k], ys[k] - 0.004 - 0.006 * depth[k]),
                    (xs[k] + length, ys[k]),
                    (xs[k], ys[k] + 0.002),
                ],
                3,
            ),
            tone,
        )
    paint(d, layer, scaled(layer))


def sky(layer: Layer, rng: np.random.Generator, ground: float) -> None:
    """The sky itself: larger clouds, at most a strip of land far below."""
    paint_sky(layer, rng, 1.0, 7, 1.8)
    if rng.random() < 0.4:
        d = Drawing()
        y = float(rng.uniform(0.90, 0.98))
        land = mix(green(rng), (170, 186, 196), 0.45)
        d.fill(ridge(rng, y, 0.03), shade(land, 1.1), shade(land, 0.85))
        paint(d, layer, scaled(layer))


def rails(layer: Layer, rng: np.random.Generator, ground: float) -> None:
    """A railway line through the country."""
    horizon = ground - float(rng.uniform(0.10, 0.24))
    paint_sky(layer, rng, horizon)
    field_, d = green(rng), Drawing()
    far = mix(field_, (160, 180, 190), 0.5)
    d.fill(ridge(rng, horizon, 0.05), shade(far, 1.1), far)
    d.box(0, horizon, 1, 1.02, shade(field_, 1.2), shade(field_, 0.75))
    for _ in range(int(rng.integers(2, 7))):
        s = rng.uniform(0.08, 0.2)
        tree(d, rng, rng.uniform(0, 1), horizon + 0.25 * s, s, rng.random() < 0.3, shade(field_, 0.85))
    if rng.random() < 0.7:  # catenary
        for x in np.arange(rng.uniform(0, 0.3), 1, 0.45):
            d.line([(x, ground - 0.05), (x, ground - 0.56)], 0.011, (104, 108, 112))
            d.line([(x, ground - 0.53), (x + 0.10, ground - 0.50)], 0.006, (104, 108, 112))
        for y in (0.50, 0.545):
            d.line([(0, ground - y), (1, ground - y)], 0.004, (84, 88, 92))
    gravel = jitter(rng, (142, 134, 126), 8)
    d.fill(
        [(0, ground - 0.035), (1, ground - 0.035), (1.0, ground + 0.11), (0, ground + 0.11)],
        shade(gravel, 1.1),
        shade(gravel, 0.75),
    )
    paint(d, layer, scaled(layer))
    noise(layer, rng, ground - 0.035, ground + 0.11, (40, 140), 16)
    noise(layer, rng, ground + 0.11, 1, (40, 70), 8)
    d = Drawing()
    start, gap = float(rng.uniform(-0.05, 0)), 0.052
    for k in range(22):
        x = start + k * gap
        d.fill(
            [
                (x, ground - 0.012),
                (x + 0.022, ground - 0.012),
                (x + 0.016, ground + 0.062),
                (x - 0.010, ground + 0.062),
            ],
            (104, 88, 74),
            (70, 60, 52),
        )
    for y, w in ((ground + 0.002, 0.011), (ground + 0.046, 0.014)):
        d.line([(0, y + w / 2), (1, y + w / 2)], w, (92, 72, 62))
        d.line([(0, y), (1, y)], w * 0.5, (206, 208, 212))
    paint(d, layer, scaled(layer))


def city(layer: Layer, rng: np.random.Generator, ground: float) -> None:
    """High buildings and a wide road."""
    kerb = ground - float(rng.uniform(0.05, 0.09))
    paint_sky(layer, rng, kerb)
    d = Drawing()
    for row, haze in ((0, 0.55), (1, 0.12)):
        x = float(rng.uniform(-0.1, 0))
        while x < 1:
            w = float(rng.uniform(0.11, 0.24))
            top = kerb - float(rng.uniform(0.28, 0.75) if row == 0 else rng.uniform(0.16, 0.52))
            wall = mix(
                jitter(
                    rng,
                    [(150, 142, 134), (120, 128, 140), (168, 132, 110), (196, 188, 176), (96, 112, 128)][
                        int(rng.integers(5))
                    ],
                    10,
                ),
                (190, 206, 220),
                haze,
            )
            d.box(x, top, x + w, kerb, shade(wall, 1.08), shade(wall, 0.82))
            pane, lit = mix(shade(wall, 0.55), (90, 110, 130), 0.4), mix(wall, (255, 236, 190), 0.6)
            cols, rows = max(2, round(w / 0.045)), max(2, round((kerb - top) / 0.06))
            for i in range(cols):
                for j in range(rows):
                    a, b = x + (i + 0.25) * w / cols, top + (j + 0.3) * (kerb - top) / rows
                    d.box(a, b, a + w / cols * 0.5, b + (kerb - top) / rows * 0.45, lit if rng.random() < 0.1 else pane)
            x += w + float(rng.uniform(-0.01, 0.03))
    walk = jitter(rng, (176, 172, 166), 6)
    d.box(0, kerb - 0.03, 1, kerb, shade(walk, 1.1), walk)
    for _ in range(int(rng.integers(0, 3))):
        s = rng.uniform(0.14, 0.22)
        tree(d, rng, rng.uniform(0, 1), kerb - 0.01, s, False, green(rng))
    for x in np.arange(rng.uniform(0, 0.4), 1, 0.5):
        d.line([(x, kerb), (x, kerb - 0.42), (x + 0.06, kerb - 0.44)], 0.009, (74, 78, 84))
    paint(d, layer, scaled(layer))
    asphalt(layer, rng, kerb, ground)


def park(layer: Layer, rng: np.random.Generator, ground: float) -> None:
    """Lawn, trees and a path."""
    horizon = ground - float(rng.uniform(0.14, 0.28))
    paint_sky(layer, rng, horizon, 3)
    grass, d = green(rng), Drawing()
    for k in range(14):
        s = rng.uniform(0.16, 0.4)
        tree(
            d,
            rng,
            k / 13 + rng.normal(0, 0.03),
            horizon + 0.02,
            s,
            rng.random() < 0.15,
            mix(shade(green(rng), 0.9), (150, 172, 170), 0.25),
        )
    d.box(0, horizon, 1, 1.02, shade(grass, 1.2), shade(grass, 0.7))
    for _ in range(int(rng.integers(1, 4))):
        s = rng.uniform(0.35, 0.6)
        tree(d, rng, rng.uniform(0, 1), horizon + rng.uniform(0.03, 0.09), s, False, green(rng))
    if rng.random() < 0.5:
        x = float(rng.uniform(0.05, 0.75))
        y = horizon + 0.06
        for rise in (0, 0.03):
            d.line([(x, y - rise), (x + 0.2, y - rise)], 0.014, (142, 98, 62))
        d.line([(x + 0.02, y - 0.03), (x + 0.02, y + 0.04)], 0.012, (80, 80, 84))
        d.line([(x + 0.18, y - 0.03), (x + 0.18, y + 0.04)], 0.012, (80, 80, 84))
    paint(d, layer, scaled(layer))
    noise(layer, rng, horizon, 1, (70, 90), 9)
    path = jitter(rng, (206, 188, 156), 8)
    d = Drawing()
    sway = float(rng.uniform(-0.02, 0.02))
    d.fill(
        curve(
            [
                (-0.2, ground - 0.035 + sway),
                (0.5, ground - 0.045),
                (1.2, ground - 0.035 - sway),
                (1.2, ground + 0.10),
                (0.5, ground + 0.085),
                (-0.2, ground + 0.10),
            ]
        ),
        shade(path, 1.08),
        shade(path, 0.84),
    )
    paint(d, layer, scaled(layer))
    noise(layer, rng, ground - 0.03, ground + 0.09, (20, 60), 4)
    d = Drawing()
    for _ in range(int(rng.integers(0, 26))):
        x, y = rng.uniform(0, 1), rng.uniform(ground + 0.11, 1)
        d.disc(x, y, 0.007, [(240, 226, 120), (240, 240, 240), (214, 110, 130)][int(rng.integers(3))])
    paint(d, layer, scaled(layer))


def highway(layer: Layer, rng: np.random.Generator, ground: float) -> None:
    """A motorway with a guard rail, fields behind it."""
    horizon = ground - float(rng.uniform(0.14, 0.24))
    paint_sky(layer, rng, horizon)
    land, d = jitter(rng, [(150, 156, 90), (190, 168, 110), (110, 140, 80)][int(rng.integers(3))], 10), Drawing()
    far = mix(land, (158, 178, 196), 0.55)
    d.fill(ridge(rng, horizon, 0.06), shade(far, 1.1), far)
    d.box(0, horizon, 1, 1.02, shade(land, 1.15), shade(land, 0.8))
    top = ground - 0.075
    if rng.random() < 0.5:  # a gantry or road sign
        x, s = float(rng.uniform(0.05, 0.8)), float(rng.uniform(0.14, 0.2))
        blue = jitter(rng, [(34, 84, 160), (30, 110, 74)][int(rng.integers(2))], 8)
        d.line([(x + s / 2, top), (x + s / 2, top - 0.34)], 0.014, (130, 134, 138))
        d.box(x, top - 0.46, x + s, top - 0.31, blue, shade(blue, 0.85), 0.012)
        for k in (0.05, 0.095):
            d.line([(x + 0.025, top - 0.46 + k), (x + s - 0.04, top - 0.46 + k)], 0.012, (240, 240, 240))
    paint(d, layer, scaled(layer))
    noise(layer, rng, horizon, top, (20, 40), 7)
    asphalt(layer, rng, top, ground)
    d = Drawing()
    for x in np.arange(rng.uniform(0, 0.12), 1, 0.13):
        d.line([(x, top + 0.012), (x, top - 0.05)], 0.010, (130, 132, 136))
    d.box(0, top - 0.065, 1, top - 0.03, (206, 210, 214), (138, 142, 148))
    d.line([(0, top - 0.047), (1, top - 0.047)], 0.005, (110, 114, 120))
    paint(d, layer, scaled(layer))


def street(layer: Layer, rng: np.random.Generator, ground: float) -> None:
    """A row of houses along a street."""
    kerb = ground - float(rng.uniform(0.05, 0.09))
    paint_sky(layer, rng, kerb, 2)
    d = Drawing()
    x = float(rng.uniform(-0.2, 0))
    while x < 1:
        w, top = float(rng.uniform(0.24, 0.36)), kerb - float(rng.uniform(0.34, 0.52))
        wall = jitter(
            rng,
            [(226, 204, 170), (190, 112, 88), (206, 214, 214), (232, 190, 150), (170, 178, 160), (214, 160, 140)][
                int(rng.integers(6))
            ],
            8,
        )
        roof = jitter(rng, [(150, 78, 60), (92, 84, 88), (120, 92, 72)][int(rng.integers(3))], 8)
        d.box(x, top, x + w, kerb, shade(wall, 1.05), shade(wall, 0.88))
        d.fill(
            [(x - 0.012, top), (x + 0.03, top - 0.13), (x + w - 0.03, top - 0.13), (x + w + 0.012, top)],
            shade(roof, 1.15),
            shade(roof, 0.8),
        )
        floors = 2
        for f in range(floors):
            y = top + 0.045 + f * (kerb - top) / floors
            for i in range(3):
                a = x + (i + 0.26) * w / 3
                if f == floors - 1 and i == 1:
                    door = jitter(rng, [(110, 66, 48), (48, 84, 92), (60, 84, 60)][int(rng.integers(3))], 10)
                    d.box(a - 0.01, kerb - 0.155, a + 0.055, kerb, shade(door, 1.15), shade(door, 0.8))
                else:
                    d.box(a - 0.006, y - 0.006, a + 0.056, y + 0.086, (240, 238, 232))
                    d.box(a, y, a + 0.05, y + 0.08, (120, 146, 166), (60, 76, 92))
                    d.line([(a + 0.025, y), (a + 0.025, y + 0.08)], 0.005, (240, 238, 232))
        x += w
    walk = jitter(rng, (184, 178, 168), 6)
    d.box(0, kerb - 0.028, 1, kerb, shade(walk, 1.1), shade(walk, 0.92))
    for _ in range(int(rng.integers(0, 3))):
        tree(d, rng, rng.uniform(0, 1), kerb - 0.005, rng.uniform(0.18, 0.36), False, green(rng))
    paint(d, layer, scaled(layer))
    asphalt(layer, rng, kerb, ground)


def mountain(layer: Layer, rng: np.random.Generator, ground: float) -> None:
    """A pass road under peaks."""
    horizon = ground - float(rng.uniform(0.10, 0.2))
    paint_sky(layer, rng, horizon, 3)
    d = Drawing()
    rock = jitter(rng, (128, 136, 150), 10)
    for _ in range(4):
        x, w, top = rng.uniform(-0.1, 1.1), rng.uniform(0.3, 0.55), horizon - rng.uniform(0.22, 0.55)
        c = mix(rock, (196, 210, 224), rng.uniform(0.1, 0.5))
        d.fill(
            [
                (x - w, horizon + 0.02),
                (x - 0.3 * w, (horizon + top) / 2 + 0.02),
                (x, top),
                (x + 0.42 * w, (horizon + top) / 2),
                (x + w, horizon + 0.02),
            ],
            shade(c, 1.1),
            shade(c, 0.86),
        )
        d.fill(
            [
                (x, top),
                (x + 0.42 * w, (horizon + top) / 2),
                (x + w, horizon + 0.02),
                (x + 0.12 * w, horizon + 0.02),
                (x + 0.05 * w, (horizon + top) / 2),
            ],
            shade(c, 0.86),
            shade(c, 0.74),
        )
        s = 0.33
        d.fill(
            [
                (x, top),
                (x - 0.3 * w * s * 1.9, top + (horizon - top) * s),
                (x - 0.06 * w, top + (horizon - top) * s * 0.7),
                (x + 0.04 * w, top + (horizon - top) * s),
                (x + 0.42 * w * s * 1.5, top + (horizon - top) * s * 0.85),
            ],
            (246, 248, 252),
            (218, 226, 238),
        )
    meadow = green(rng)
    d.fill(ridge(rng, horizon + 0.01, 0.035), shade(meadow, 1.05), shade(meadow, 0.7))
    for _ in range(int(rng.integers(6, 15))):
        s = rng.uniform(0.08, 0.2)
        tree(d, rng, rng.uniform(0, 1), horizon + 0.25 * s, s, True, mix(green(rng), (40, 84, 70), 0.5))
    top = ground - 0.055
    paint(d, layer, scaled(layer))
    noise(layer, rng, horizon, top, (30, 60), 6)
    asphalt(layer, rng, top, ground, (236, 206, 96))
    d = Drawing()
    for k, x in enumerate(np.arange(rng.uniform(0, 0.1), 1.0, 0.12)):
        d.box(
            x,
            top - 0.035,
            x + 0.055,
            top + 0.012,
            shade((206, 202, 196), 1.0 if k % 2 else 0.9),
            (150, 146, 142),
            0.006,
        )
    y = ground + 0.17
    for x in rng.uniform(0, 1, 26):
        h = rng.uniform(0.02, 0.06)
        d.fill(
            [(x - 0.03, 1.02), (x + rng.normal(0, 0.01), max(y, 1 - h)), (x + 0.03, 1.02)],
            shade(meadow, float(rng.uniform(0.7, 1.1))),
        )
    paint(d, layer, scaled(layer))


BACKGROUNDS: dict[str, Painter] = {
    "park": park, "city": city, "street": street, "mountain": mountain,
    "sky": sky, "sea": sea, "rails": rails, "highway": highway,
}  # fmt: skip
