"""Things that are no vehicles: what stands around them and what comes in front of them."""

from __future__ import annotations

import numpy as np

from gradlens.data.vehicles.canvas import Color, Drawing, curve, ellipse, mix, shade
from gradlens.data.vehicles.parts import paint_color, wheel


def bystander(d: Drawing, rng: np.random.Generator) -> None:
    """One object that is no vehicle, standing on y = 0, about 1 high."""
    c = paint_color(rng, bright=True)
    kind = int(rng.integers(7))
    if kind == 0:  # traffic cone
        d.fill([(-0.3, 0), (-0.06, 0.9), (0.06, 0.9), (0.3, 0)], (244, 122, 48), (200, 80, 30))
        d.fill([(-0.2, 0.32), (-0.14, 0.55), (0.14, 0.55), (0.2, 0.32)], (240, 240, 240))
        d.box(-0.4, -0.02, 0.4, 0.06, (200, 86, 34))
    elif kind == 1:  # a pile of boxes
        for k, (x, y, s) in enumerate(((-0.25, 0, 0.45), (0.22, 0, 0.4), (-0.05, 0.45, 0.38))):
            tone = mix((190, 150, 104), c, 0.25 * k)
            d.box(x - s / 2, y, x + s / 2, y + s, shade(tone, 1.15), shade(tone, 0.75))
            d.line([(x, y), (x, y + s)], 0.05, shade(tone, 0.7))
    elif kind == 2:  # balloons
        for k in range(3):
            x, y = (k - 1) * 0.28, 0.75 + 0.15 * (k % 2)
            d.line([(0, 0.0), (x, y)], 0.015, (120, 120, 120))
            b = paint_color(rng, bright=True)
            d.disc(x, y + 0.1, 0.17, shade(b, 1.35), shade(b, 0.75), ry=0.21)
    elif kind == 3:  # a round sign
        d.line([(0, 0), (0, 0.7)], 0.06, (150, 152, 156))
        d.disc(0, 0.85, 0.26, c, shade(c, 0.8))
        d.disc(0, 0.85, 0.18, (242, 242, 240))
        d.line([(-0.1, 0.85), (0.1, 0.85)], 0.06, (40, 40, 44))
    elif kind == 4:  # a person
        skin: Color = ((236, 196, 164), (170, 118, 84), (112, 74, 54))[int(rng.integers(3))]
        d.line([(-0.08, 0.42), (-0.1, 0)], 0.13, (60, 66, 84))
        d.line([(0.08, 0.42), (0.1, 0)], 0.13, (60, 66, 84))
        d.box(-0.18, 0.4, 0.18, 0.78, shade(c, 1.1), shade(c, 0.75), 0.08)
        d.line([(-0.17, 0.72), (-0.24, 0.44)], 0.09, shade(c, 0.85))
        d.line([(0.17, 0.72), (0.24, 0.44)], 0.09, shade(c, 0.85))
        d.disc(0, 0.9, 0.11, skin, shade(skin, 0.85))
        d.fill(ellipse(0, 0.92, 0.115, 0.11, 0, 180), (64, 48, 38))
    elif kind == 5:  # a stray wheel
        wheel(d, 0, 0.42, "alloy" if rng.random() < 0.5 else "steel", 6, float(rng.uniform(0, 1)))
    else:  # a parasol
        d.line([(0, 0), (0, 0.9)], 0.05, (170, 170, 170))
        for k in range(6):
            left, right = -0.55 + k * 1.1 / 6, -0.55 + (k + 1) * 1.1 / 6
            d.fill([(left, 0.62), (0, 1.0), (right, 0.62)], c if k % 2 else (240, 238, 230))


def in_front(x: float, y: float, s: float, kind: int, rng: np.random.Generator) -> Drawing:
    """One of six things between the camera and the point (x, y), about ``s`` times its usual size; y down."""
    d = Drawing()
    if kind == 0:  # a lamp post
        c = shade((104, 110, 116), float(rng.uniform(0.6, 1.2)))
        half = 0.014 * s
        d.box(x - half, -0.02, x + half, 1.02, shade(c, 1.1), shade(c, 0.7))
        d.box(x - half, -0.02, x - half * 0.3, 1.02, shade(c, 1.45))
        d.box(x - half * 1.8, 0.90, x + half * 1.8, 1.02, shade(c, 0.85), shade(c, 0.6), 0.005)
    elif kind == 1:  # a tree trunk with a crown
        bark: Color = (112, 86, 64)
        half = 0.030 * s
        d.fill(
            [
                (x - half, -0.02),
                (x + half, -0.02),
                (x + half * 1.2, 0.9),
                (x + half * 2, 1.02),
                (x - half * 2, 1.02),
                (x - half * 1.2, 0.9),
            ],
            shade(bark, 1.05),
            shade(bark, 0.7),
        )
        for k in range(5):
            d.line(
                [(x + half * (0.3 * k - 0.7), 0.1 + 0.13 * k), (x + half * (0.3 * k - 0.6), 0.3 + 0.13 * k)],
                0.006,
                shade(bark, 0.62),
            )
        for _ in range(9):
            g = shade((84, 124, 62), float(rng.uniform(0.7, 1.2)))
            d.disc(
                x + rng.normal(0, 0.10),
                rng.uniform(-0.03, 0.2),
                rng.uniform(0.05, 0.09),
                shade(g, 1.15),
                shade(g, 0.75),
            )
    elif kind == 2:  # a twig with leaves
        a = float(rng.uniform(0, 2 * np.pi))
        g = shade(((92, 142, 60), (170, 130, 50), (60, 110, 70))[int(rng.integers(3))], float(rng.uniform(0.8, 1.15)))
        direction = np.array([np.cos(a), np.sin(a)])
        start = np.array([x, y]) - direction * 0.2
        d.line([tuple(start), tuple(start + direction * 0.42)], 0.010, (96, 74, 52))
        for k in range(8):
            p = start + direction * (0.03 + 0.05 * k)
            t = a + (0.9 if k % 2 else -0.9)
            u, v = np.array([np.cos(t), np.sin(t)]), np.array([-np.sin(t), np.cos(t)])
            length = 0.10 * s
            d.fill(
                curve(
                    [
                        tuple(p),
                        tuple(p + u * length * 0.5 + v * length * 0.27),
                        tuple(p + u * length),
                        tuple(p + u * length * 0.5 - v * length * 0.27),
                    ]
                ),
                shade(g, float(rng.uniform(1.0, 1.25))),
                shade(g, 0.75),
            )
            d.line([tuple(p), tuple(p + u * length * 0.85)], 0.004, shade(g, 0.6))
    elif kind == 3:  # a hand that reaches in from below or above
        skin: Color = ((236, 196, 164), (178, 126, 92), (118, 80, 60))[int(rng.integers(3))]
        up = -1.0 if rng.random() < 0.8 else 1.0
        edge = 1.05 if up < 0 else -0.05
        sleeve = paint_color(rng)
        d.line([(x, edge), (x, y - up * 0.13 * s)], 0.085 * s, shade(skin, 0.92))
        d.line([(x, edge), (x, (edge + y) / 2 - up * 0.08)], 0.125 * s, sleeve)
        d.fill(
            curve(
                [
                    (x - 0.065 * s, y - up * 0.12 * s),
                    (x - 0.07 * s, y),
                    (x + 0.06 * s, y + up * 0.005),
                    (x + 0.065 * s, y - up * 0.10 * s),
                    (x, y - up * 0.17 * s),
                ]
            ),
            shade(skin, 1.05),
            shade(skin, 0.86),
        )
        for k in range(4):
            fx = x + (-0.05 + 0.036 * k) * s
            d.line(
                [(fx, y - up * 0.02 * s), (fx + 0.004 * (k - 1.5), y + up * (0.085 + 0.02 * (k in (1, 2))) * s)],
                0.031 * s,
                shade(skin, 0.98),
            )
        for k in range(3):
            fx = x + (-0.032 + 0.036 * k) * s
            d.line([(fx, y), (fx, y + up * 0.06 * s)], 0.005, shade(skin, 0.7))
        d.line([(x + 0.05 * s, y - up * 0.09 * s), (x + 0.11 * s, y - up * 0.02 * s)], 0.034 * s, shade(skin, 0.98))
    elif kind == 4:  # a fence of boards
        c = mix((176, 140, 100), paint_color(rng), 0.2)
        top = y - 0.03
        low = min(1.02, top + 0.34 * s)
        x0 = x - 0.2 * s
        for yy in (top + 0.06, low - 0.07):
            d.box(x0 - 0.02, yy, x0 + 0.40 * s, yy + 0.025, shade(c, 0.8), shade(c, 0.6))
        for k in range(5):
            px = x0 + 0.085 * k * s
            d.fill(
                [
                    (px, low),
                    (px, top + 0.02),
                    (px + 0.022 * s, top),
                    (px + 0.044 * s, top + 0.02),
                    (px + 0.044 * s, low),
                ],
                shade(c, 1.12),
                shade(c, 0.72),
            )
    else:  # a sign board
        c = paint_color(rng, bright=True)
        half, high = 0.085 * s, 0.065 * s
        d.box(x - 0.010, y, x + 0.010, 1.02, (150, 152, 156), (100, 102, 108))
        d.box(x - half, y - high, x + half, y + high, shade(c, 1.05), shade(c, 0.8), 0.015)
        for row, width in ((-0.4, 0.7), (0.0, 0.5), (0.4, 0.6)):
            d.line(
                [(x - half * 0.7, y + high * row), (x - half * 0.7 + 1.6 * half * width, y + high * row)],
                0.011,
                (245, 245, 240),
            )
    return d
