"""Bicycles and motorcycles as drawings."""

from __future__ import annotations

import math

import numpy as np

from gradlens.data.vehicles.canvas import Color, Drawing, curve, mix, shade
from gradlens.data.vehicles.parts import (
    AMBER,
    BLACK,
    GLASS,
    LAMP,
    RUBBER,
    STEEL,
    TAIL,
    WHITE,
    paint_color,
    spoked_wheel,
    tube,
)


def bicycle(style: str, rng: np.random.Generator) -> Drawing:
    """A bicycle seen from its side."""
    d, body = Drawing(), paint_color(rng, bright=rng.random() < 0.75)
    tyre = {"mountain": 0.075, "electric": 0.055, "cargo": 0.05}.get(style, 0.036) + float(rng.uniform(-0.004, 0.006))
    r = {"cargo": 0.36, "folding": 0.29}.get(style, 0.43)
    tube_w = {"electric": 0.062, "mountain": 0.055, "cargo": 0.055}.get(style, 0.042)
    rear, front = -0.56, {"cargo": 0.72, "folding": 0.5}.get(style, 0.57)
    front_r = 0.26 if style == "cargo" else r
    spokes, turn = int(rng.integers(9, 15)) * 2, float(rng.uniform(0, 1))
    rim = STEEL if rng.random() < 0.6 else shade(body, 0.9)
    spoked_wheel(d, rear, r, tyre, spokes, rim, turn)
    spoked_wheel(d, front, front_r, tyre, spokes, rim, turn + 0.3)

    crank, seat = (-0.10, 0.30), (-0.25, 0.83 + float(rng.uniform(-0.03, 0.03)))
    head_low, head_top = (0.39, 0.70), (0.34, 0.88)
    if style == "cargo":
        head_low, head_top = (0.12, 0.60), (0.07, 0.86)
    if style == "folding":
        head_low, head_top = (0.36, 0.52), (0.28, 0.94)
    dark = shade(body, 0.8)
    if style in ("city", "electric") and rng.random() < 0.8:  # mudguards
        for x in (rear, front):
            d.line(
                np.stack([x + (r + 0.035) * np.cos(a := np.linspace(0.35, 2.5, 14)), r + (r + 0.035) * np.sin(a)], 1),
                0.022,
                shade(body, 0.9),
            )
    tube(d, [(rear, r), crank], tube_w * 0.7, dark)
    tube(d, [(rear, r), (seat[0] + 0.03, seat[1] - 0.10)], tube_w * 0.6, dark)
    tube(d, [crank, seat], tube_w, body)
    if style in ("city", "electric", "folding"):
        low_step = 0.46 if style != "folding" else 0.5
        p = curve(
            [
                (head_low[0] - 0.02, head_low[1] + 0.02),
                (0.12, low_step),
                (-0.06, 0.40),
                (crank[0] - 0.05, crank[1] + 0.14),
            ],
            closed=False,
        )
        tube(d, [(float(x), float(y)) for x, y in p], tube_w * 1.15, body)
    else:
        tube(d, [(seat[0] + 0.03, seat[1] - 0.08), head_top], tube_w, body)
        tube(d, [crank, head_low], tube_w * 1.15, body)
    if style == "electric":
        d.fill([(-0.02, 0.36), (0.06, 0.33), (0.31, 0.60), (0.23, 0.65)], (58, 60, 66), (34, 34, 38), 0.03)
    tube(d, [head_low, head_top], tube_w * 1.1, body)
    if style == "cargo":
        tube(d, [(0.12, 0.62), (0.24, 0.24), (front, front_r)], tube_w, body)
        box = mix((166, 124, 84), paint_color(rng), 0.3)
        d.fill([(0.17, 0.30), (0.94, 0.34), (0.98, 0.74), (0.10, 0.72)], shade(box, 1.2), shade(box, 0.6), 0.03)
        for y in (0.44, 0.58):
            d.line([(0.16, y), (0.95, y + 0.02)], 0.01, shade(box, 0.5))
        tube(d, [head_top, (0.0, 1.02)], 0.035, STEEL)
        tube(d, [(-0.07, 1.04), (0.06, 1.01)], 0.045, RUBBER)
    else:
        tube(
            d, [head_low, (front - 0.03, 0.56), (front, front_r)], tube_w * 0.85, dark if style != "mountain" else STEEL
        )
        top = (head_top[0] - 0.02, head_top[1] + 0.09)
        tube(d, [head_top, top], 0.034, STEEL)
        if style == "road":
            drop = curve(
                [
                    top,
                    (top[0] + 0.13, top[1] + 0.02),
                    (top[0] + 0.20, top[1] - 0.06),
                    (top[0] + 0.14, top[1] - 0.16),
                    (top[0] + 0.03, top[1] - 0.17),
                ],
                closed=False,
            )
            d.line(drop, 0.042, RUBBER)
        elif style == "mountain":
            tube(d, [(top[0] - 0.06, top[1] + 0.01), (top[0] + 0.13, top[1] + 0.03)], 0.045, RUBBER)
        else:
            back = curve(
                [top, (top[0] + 0.05, top[1] + 0.07), (top[0] - 0.06, top[1] + 0.10), (top[0] - 0.19, top[1] + 0.06)],
                closed=False,
            )
            d.line(back, 0.032, STEEL)
            d.line(back[-4:], 0.048, shade((120, 74, 44), 0.8))
            if rng.random() < 0.55:
                basket = (150, 116, 78)
                d.fill(
                    [(0.42, 0.80), (0.66, 0.80), (0.70, 1.02), (0.40, 1.02)],
                    shade(basket, 1.15),
                    shade(basket, 0.7),
                    0.02,
                )
                for k in range(4):
                    d.line([(0.455 + 0.06 * k, 0.81), (0.45 + 0.07 * k, 1.01)], 0.008, shade(basket, 0.5))
            d.disc(0.44, 0.74, 0.035, LAMP, AMBER)
    d.line([seat, (seat[0] - 0.03, seat[1] + 0.07)], 0.034, STEEL)
    leather = (54, 44, 40) if rng.random() < 0.6 else (132, 82, 48)
    s = (seat[0] - 0.04, seat[1] + 0.08)
    d.fill(
        curve(
            [
                (s[0] - 0.14, s[1] + 0.035),
                (s[0], s[1] + 0.03),
                (s[0] + 0.17, s[1] + 0.02),
                (s[0] + 0.16, s[1] - 0.012),
                (s[0], s[1] - 0.02),
                (s[0] - 0.10, s[1] - 0.045),
            ]
        ),
        shade(leather, 1.4),
        shade(leather, 0.7),
    )
    if style in ("city", "electric") and rng.random() < 0.6:  # luggage rack
        d.line([(-0.80, 0.93), (-0.32, 0.92)], 0.03, (70, 72, 76))
        d.line([(-0.74, 0.92), (rear, r)], 0.016, (90, 92, 96))
    d.line([(rear, r - 0.055), (crank[0], crank[1] - 0.085)], 0.012, (70, 70, 74))
    d.line([(rear, r + 0.05), (crank[0], crank[1] + 0.085)], 0.012, (70, 70, 74))
    d.ring(crank[0], crank[1], 0.085, 0.024, (112, 116, 122))
    angle = float(rng.uniform(0, 6.28))
    for sign in (1, -1):
        q = (crank[0] + sign * 0.17 * math.cos(angle), crank[1] + sign * 0.17 * math.sin(angle))
        d.line([crank, q], 0.026, shade(STEEL, 0.75))
        d.line([(q[0] - 0.055, q[1]), (q[0] + 0.055, q[1])], 0.034, BLACK)
    return d


def motorcycle(style: str, rng: np.random.Generator) -> Drawing:
    """A motorcycle, scooter or moped seen from its side."""
    d, body = Drawing(), paint_color(rng)
    metal = shade(STEEL, 0.8)
    r = {"scooter": 0.24, "moped": 0.34, "enduro": 0.36, "cruiser": 0.32}.get(style, 0.33)
    tyre = {"moped": 0.06, "enduro": 0.095, "scooter": 0.085}.get(style, 0.105)
    rear, front = -0.58, {"cruiser": 0.72, "scooter": 0.60}.get(style, 0.62)
    turn = float(rng.uniform(0, 1))
    for x in (rear, front):
        if style in ("sport", "scooter", "naked"):
            d.disc(x, r, r, shade(RUBBER, 1.1), shade(RUBBER, 0.6))
            d.disc(x, r, r - tyre * 0.8, (92, 96, 104), (60, 62, 68))
            for k in range(5):
                t = turn + x + 1.2566 * k
                d.line(
                    [(x, r), (x + (r - tyre) * np.cos(t), r + (r - tyre) * np.sin(t))],
                    0.04,
                    shade(body, 0.8) if style == "sport" else STEEL,
                )
            d.ring(x, r, r * 0.42, 0.022, shade(STEEL, 1.1))
            d.disc(x, r, 0.05, STEEL, shade(STEEL, 0.5))
        else:
            spoked_wheel(d, x, r, tyre, 20, STEEL, turn)

    if style == "scooter":
        d.line([(front, r), (0.47, 0.62), (0.40, 0.98)], 0.05, metal)
        d.fill(
            curve([(front - 0.24, r + 0.10), (front, r + r * 0.98), (front + 0.25, r + 0.10), (front, r + 0.14)]),
            shade(body, 1.15),
            shade(body, 0.7),
        )
        d.fill(
            curve(
                [
                    (0.50, 0.86),
                    (0.33, 0.92),
                    (0.26, 0.55),
                    (0.10, 0.27),
                    (-0.30, 0.20),
                    (-0.30, 0.30),
                    (0.02, 0.36),
                    (0.30, 0.36),
                    (0.44, 0.56),
                ]
            ),
            shade(body, 1.15),
            shade(body, 0.7),
        )
        d.fill(
            curve(
                [
                    (-0.88, 0.48),
                    (-0.72, 0.64),
                    (-0.30, 0.64),
                    (-0.10, 0.56),
                    (-0.10, 0.24),
                    (-0.36, 0.20),
                    (-0.64, 0.34),
                ]
            ),
            shade(body, 1.2),
            shade(body, 0.6),
        )
        d.glaze(curve([(-0.74, 0.56), (-0.4, 0.59), (-0.2, 0.54), (-0.4, 0.53)]), (255, 255, 255), 0.4)
        d.fill(
            curve([(-0.84, 0.66), (-0.50, 0.75), (-0.12, 0.70), (-0.06, 0.62), (-0.5, 0.60), (-0.80, 0.60)]),
            (84, 60, 48),
            (40, 32, 30),
        )
        d.disc(0.48, 0.96, 0.075, LAMP, (214, 206, 170))
    elif style == "moped":
        tube(d, [(rear, r), (-0.08, 0.34), (0.30, 0.62)], 0.07, body)
        tube(d, [(-0.08, 0.34), (-0.26, 0.72)], 0.06, body)
        d.fill(
            curve([(-0.22, 0.50), (0.02, 0.46), (0.28, 0.66), (0.22, 0.74), (-0.05, 0.62), (-0.22, 0.62)]),
            shade(body, 1.2),
            shade(body, 0.7),
        )
        d.box(-0.20, 0.20, 0.08, 0.40, metal, (60, 62, 66), 0.05)
        d.fill(curve([(-0.56, 0.76), (-0.2, 0.80), (-0.02, 0.76), (-0.2, 0.70), (-0.52, 0.70)]), (56, 50, 50), BLACK)
        d.line([(front, r), (0.36, 0.72), (0.30, 0.98)], 0.045, metal)
        d.disc(0.44, 0.80, 0.07, LAMP, (200, 196, 170))
        d.line([(rear - 0.1, 0.18), (-0.02, 0.24)], 0.045, STEEL)
    else:
        d.line([(rear, r), (-0.06, 0.36)], 0.075, shade(metal, 0.7))
        d.line([(rear + 0.04, r + 0.04), (-0.26, 0.62)], 0.045, (226, 180, 60) if style == "sport" else metal)
        d.box(-0.26, 0.22, 0.24, 0.56, (120, 124, 130), (52, 54, 58), 0.07)  # engine
        for y in (0.34, 0.39, 0.44, 0.49):
            d.line([(-0.06, y), (0.22, y + 0.03)], 0.016, shade(STEEL, 1.05))
        d.disc(-0.12, 0.36, 0.10, shade(STEEL, 1.1), shade(STEEL, 0.55))
        d.line(
            curve(
                [(0.20, 0.40), (0.24, 0.26), (0.02, 0.18), (-0.40, 0.20), (-0.82, 0.26 if style != "enduro" else 0.5)],
                closed=False,
            ),
            0.055,
            shade(STEEL, 1.05),
        )
        d.line([(-0.46, 0.205), (-0.84, 0.265 if style != "enduro" else 0.5)], 0.085, shade(STEEL, 0.9))
        fork_top = {"cruiser": (0.34, 0.92), "enduro": (0.34, 1.0)}.get(style, (0.34, 0.88))
        d.line([(front, r), fork_top], 0.07, STEEL)
        d.line([(front, r), (front - 0.12, r + 0.25)], 0.085, (70, 72, 78))
        d.fill(
            curve([(-0.16, 0.62), (-0.02, 0.82), (0.20, 0.84), (0.34, 0.72), (0.22, 0.58), (0.0, 0.55)]),
            shade(body, 1.3),
            shade(body, 0.62),
        )  # tank
        d.glaze(curve([(-0.04, 0.74), (0.08, 0.79), (0.22, 0.76), (0.08, 0.73)]), (255, 255, 255), 0.5)
        seat_y = 0.60 if style == "cruiser" else 0.68
        tail = -0.86 if style in ("sport", "enduro") else -0.76
        d.fill(
            curve(
                [
                    (-0.12, seat_y - 0.02),
                    (-0.10, seat_y + 0.06),
                    (-0.40, seat_y + 0.05),
                    (-0.62, seat_y + 0.13),
                    (tail, seat_y + 0.17),
                    (tail, seat_y + 0.10),
                    (-0.44, seat_y - 0.06),
                ]
            ),
            (62, 58, 58),
            BLACK,
        )
        d.fill(
            curve(
                [
                    (-0.20, 0.60),
                    (-0.45, 0.62),
                    (tail - 0.03, seat_y + 0.12),
                    (tail + 0.04, seat_y + 0.04),
                    (-0.52, 0.50),
                    (-0.26, 0.48),
                ]
            ),
            shade(body, 1.05),
            shade(body, 0.6),
        )
        d.disc(tail - 0.02, seat_y + 0.08, 0.035, TAIL, shade(TAIL, 0.6))
        if style == "sport":
            d.fill(
                curve(
                    [
                        (0.30, 0.98),
                        (0.52, 0.92),
                        (0.66, 0.74),
                        (0.46, 0.60),
                        (0.40, 0.34),
                        (0.22, 0.20),
                        (-0.10, 0.22),
                        (0.02, 0.46),
                        (0.26, 0.66),
                    ]
                ),
                shade(body, 1.2),
                shade(body, 0.6),
            )
            d.fill(curve([(0.24, 0.96), (0.32, 1.06), (0.48, 0.95), (0.40, 0.90)]), shade(GLASS, 1.5), GLASS)
            d.glaze(curve([(0.10, 0.30), (0.30, 0.36), (0.40, 0.58), (0.32, 0.56), (0.22, 0.40)]), WHITE, 0.55)
            d.fill([(0.52, 0.80), (0.63, 0.76), (0.60, 0.70), (0.50, 0.72)], LAMP, (200, 200, 190), 0.03)
        else:
            bars = {
                "cruiser": [(0.34, 0.92), (0.24, 1.10), (0.06, 1.06)],
                "enduro": [(0.36, 1.0), (0.28, 1.10), (0.18, 1.09)],
            }.get(style, [(0.34, 0.9), (0.30, 1.0), (0.18, 1.0)])
            d.line(bars, 0.038, metal)
            d.line(bars[1:], 0.055, RUBBER)
            d.disc(0.44, 0.86, 0.085, shade(STEEL, 1.2), shade(STEEL, 0.5))
            d.disc(0.455, 0.86, 0.066, LAMP, (210, 206, 184))
        guard: Color = shade(body, 0.95)
        g = 0.16 if style == "enduro" else 0.0
        a = np.linspace(0.25, 2.1, 12)
        d.line(np.stack([front + (r + 0.04) * np.cos(a), r + g + (r + 0.04) * np.sin(a)], 1), 0.05, guard)
        if style == "cruiser":
            a = np.linspace(0.9, 3.0, 12)
            d.line(np.stack([rear + (r + 0.05) * np.cos(a), r + (r + 0.05) * np.sin(a)], 1), 0.075, guard)
    if style in ("scooter", "moped"):
        d.line([(0.44, 0.99), (0.34, 1.06), (0.22, 1.04)], 0.045, metal)
        d.line([(0.30, 1.055), (0.20, 1.035)], 0.06, RUBBER)
        d.line([(0.40, 1.05), (0.36, 1.18)], 0.012, BLACK)
        d.disc(0.35, 1.20, 0.045, (90, 96, 104), (130, 140, 150))
        d.disc(-0.86, 0.58 if style == "scooter" else 0.66, 0.035, TAIL, shade(TAIL, 0.6))
    return d
