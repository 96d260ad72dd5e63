"""Buses and trucks as drawings."""

from __future__ import annotations

import numpy as np

from gradlens.data.vehicles.canvas import Color, Drawing, curve, mix, shade
from gradlens.data.vehicles.parts import (
    AMBER,
    BLACK,
    LAMP,
    STEEL,
    TAIL,
    WHITE,
    arch,
    glass,
    paint_color,
    stripe,
    wheel,
    windows,
)


def bus(style: str, rng: np.random.Generator) -> Drawing:
    """A bus seen from its side, driving to the right."""
    d, body, trim = Drawing(), paint_color(rng, bright=rng.random() < 0.6), paint_color(rng)
    if style == "school":
        body, trim = mix((240, 178, 40), paint_color(rng), 0.08), (40, 38, 40)
    if style == "double" and rng.random() < 0.6:
        body = mix((196, 40, 40), body, 0.15)
    low, r = 0.12, 0.135
    top = {"city": 0.80, "coach": 0.86, "double": 1.16, "school": 0.80, "mini": 0.92, "articulated": 0.62}[style]
    top += float(rng.uniform(-0.025, 0.03))
    nose = {"coach": 0.07, "mini": 0.16}.get(style, 0.03)
    if style == "school":
        d.fill(
            [(0.62, low), (0.62, 0.50), (0.92, 0.46), (1.0, 0.40), (1.0, low)],
            shade(body, 1.12),
            shade(body, 0.66),
            0.05,
        )
        outline = [(-1, low), (-1, top), (0.68, top), (0.70, low)]
        end = 0.70
    else:
        outline = [(-1, low), (-1, top), (1 - nose - 0.03, top), (1 - nose * 0.3, 0.50), (1.0, 0.42), (1.0, low)]
        end = 1.0
    d.fill(outline, shade(body, 1.15), shade(body, 0.66), r=0.06)
    d.glaze(
        [(-0.97, top - 0.025), (end - 0.12, top - 0.025), (end - 0.12, top - 0.06), (-0.97, top - 0.06)], WHITE, 0.35
    )
    if style == "articulated":
        r = 0.11
    if rng.random() < 0.75:
        h = float(rng.uniform(0.05, 0.12))
        stripe(d, -0.985, end - 0.015, low + 0.10, low + 0.10 + h, trim)
    d.glaze([(-1, low + 0.05), (end, low + 0.05), (end, low), (-1, low)], (10, 10, 12), 0.4)

    belt = 0.42 if style != "articulated" else 0.34
    line = top - 0.11 if style != "double" else 0.70
    n = int(rng.integers(5, 8)) if style != "mini" else 3
    front = end - nose - 0.16
    if style in ("coach", "articulated"):
        d.fill(
            [(-0.95, belt), (front + 0.01, belt), (front + 0.01, line), (-0.95, line)], (46, 52, 60), (30, 34, 40), 0.03
        )
    door_w, doors = 0.20, ([front - 0.20] if style != "city" else [front - 0.20, -0.18])
    if style == "articulated":
        doors = [front - 0.18, 0.22, -0.62]
    windows(d, -0.94, front, belt, line, n if style != "articulated" else 9, 0.03)
    if style == "double":
        windows(d, -0.94, 0.90, 0.80, top - 0.08, n + 1, 0.03)
        d.line([(-0.99, 0.755), (0.97, 0.755)], 0.012, shade(body, 0.55))
    for x in doors:
        d.box(x, low + 0.02, x + door_w, line + 0.01, (52, 56, 62), (34, 36, 40), 0.015)
        glass(
            d,
            [
                (x + 0.015, low + 0.07),
                (x + door_w / 2 - 0.008, low + 0.07),
                (x + door_w / 2 - 0.008, line - 0.01),
                (x + 0.015, line - 0.01),
            ],
        )
        glass(
            d,
            [
                (x + door_w / 2 + 0.008, low + 0.07),
                (x + door_w - 0.015, low + 0.07),
                (x + door_w - 0.015, line - 0.01),
                (x + door_w / 2 + 0.008, line - 0.01),
            ],
        )
    # windscreen side, sign, lamps
    if style == "school":
        glass(d, [(end - 0.13, 0.44), (end - 0.03, 0.44), (end - 0.04, top - 0.12), (end - 0.13, top - 0.12)])
        d.line([(0.72, 0.36), (0.97, 0.33)], 0.012, shade(body, 0.5))
        for y in (0.24, 0.31):
            d.line([(-0.98, y), (0.60, y)], 0.016, trim)
    else:
        glass(d, [(front + 0.03, belt - 0.06), (0.985, belt - 0.05), (0.985 - nose, line), (front + 0.03, line)], 0.03)
        d.box(front - 0.02, top - 0.095, 0.94 - nose, top - 0.025, (28, 28, 30), r=0.01)
        for k in range(4):
            d.line([(front + 0.02 + 0.045 * k, top - 0.06), (front + 0.04 + 0.045 * k, top - 0.06)], 0.03, AMBER)
        d.line([(0.97, line - 0.02), (1.04, line - 0.03), (1.04, line - 0.14)], 0.022, BLACK)
    d.fill([(0.93, 0.26), (0.995, 0.25), (0.995, 0.33), (0.94, 0.33)], LAMP, (200, 200, 190), 0.02)
    d.box(-1.0, 0.26, -0.965, 0.40, TAIL, shade(TAIL, 0.6), 0.01)
    if style == "articulated":
        for k in range(6):
            d.line(
                [(-0.14 + 0.028 * k, low + 0.01), (-0.14 + 0.028 * k, top - 0.01)],
                0.018,
                (64, 66, 70) if k % 2 else (36, 38, 42),
            )
    if style in ("city", "coach") and rng.random() < 0.5:
        d.box(-0.6, top - 0.005, -0.1, top + 0.055, shade(body, 0.95), shade(body, 0.7), 0.02)
    axles = {
        "mini": [-0.58, 0.60],
        "articulated": [-0.80, 0.02, 0.58],
        "double": [-0.56, 0.58],
        "school": [-0.52, 0.78],
    }.get(style, [-0.55, 0.60])
    if style == "mini":
        r = 0.17
    for x in axles:
        arch(d, x, r)
        wheel(d, x, r, "steel", turn=float(rng.uniform(0, 1)))
    return d


def _cab(d: Drawing, x: float, w: float, low: float, top: float, body: Color, bonnet: bool) -> None:
    """A lorry's cab whose back wall stands at x."""
    if bonnet:
        wall = x + w * 0.52
        d.fill(
            [
                (x, low),
                (x, top),
                (wall - 0.06, top),
                (wall + 0.01, low + (top - low) * 0.52),
                (x + w - 0.05, low + (top - low) * 0.46),
                (x + w, low + (top - low) * 0.36),
                (x + w, low),
            ],
            shade(body, 1.15),
            shade(body, 0.62),
            0.05,
        )
        mid = low + (top - low) * 0.55
        glass(d, [(x + 0.04, mid), (wall - 0.02, mid), (wall - 0.085, top - 0.06), (x + 0.04, top - 0.06)])
        d.box(x + w - 0.055, low + 0.10, x + w + 0.012, low + (top - low) * 0.36, STEEL, shade(STEEL, 0.55), 0.015)
        d.line([(x - 0.03, low + 0.1), (x - 0.03, top + 0.16)], 0.045, STEEL)
    else:
        d.fill(
            [
                (x, low),
                (x, top),
                (x + w * 0.68, top),
                (x + w * 0.93, low + (top - low) * 0.58),
                (x + w, low + (top - low) * 0.45),
                (x + w, low),
            ],
            shade(body, 1.15),
            shade(body, 0.62),
            0.055,
        )
        mid = low + (top - low) * 0.52
        glass(d, [(x + w * 0.30, mid), (x + w * 0.90, mid), (x + w * 0.66, top - 0.065), (x + w * 0.30, top - 0.065)])
        d.line([(x + w * 0.24, low + 0.10), (x + w * 0.24, top - 0.05)], 0.009, shade(body, 0.5))
        d.line([(x + w * 0.72, low + 0.08), (x + w * 0.78, mid - 0.03)], 0.009, shade(body, 0.5))
        d.line([(x + w * 0.97, mid + 0.17), (x + w + 0.03, mid + 0.15), (x + w + 0.03, mid + 0.03)], 0.022, BLACK)
        d.glaze(
            [(x + 0.01, top - 0.02), (x + w * 0.6, top - 0.02), (x + w * 0.6, top - 0.05), (x + 0.01, top - 0.05)],
            WHITE,
            0.35,
        )
    d.line([(x + w * 0.34, mid - 0.07), (x + w * 0.46, mid - 0.07)], 0.022, shade(body, 0.45))
    d.box(x + w - 0.07, low + 0.085, x + w + 0.004, low + 0.165, LAMP, (198, 198, 190), 0.015)
    d.box(x + w * 0.55, low - 0.03, x + w + 0.012, low + 0.06, (84, 86, 92), (44, 45, 50), 0.02)


def truck(style: str, rng: np.random.Generator) -> Drawing:
    """A lorry seen from its side, driving to the right."""
    d, body, load = Drawing(), paint_color(rng, bright=rng.random() < 0.6), paint_color(rng)
    low, r = 0.20, {"semi": 0.105, "van": 0.16}.get(style, 0.15)
    if style == "van":  # a delivery van: one body from the bonnet to the back
        top = 0.94 + float(rng.uniform(-0.06, 0.06))
        white = mix(WHITE, load, float(rng.uniform(0, 0.7)))
        d.fill(
            [(-1, 0.15), (-1, top), (0.34, top), (0.68, 0.60), (0.95, 0.50), (1.0, 0.40), (1.0, 0.15)],
            shade(white, 1.1),
            shade(white, 0.66),
            0.07,
        )
        glass(d, [(0.26, 0.60), (0.64, 0.60), (0.40, top - 0.10), (0.26, top - 0.10)], 0.03)
        d.line([(0.22, 0.20), (0.22, top - 0.05)], 0.010, shade(white, 0.5))
        d.line([(-0.42, 0.20), (-0.42, top - 0.05)], 0.010, shade(white, 0.5))
        stripe(d, -0.97, 0.18, 0.38, 0.38 + float(rng.uniform(0.06, 0.2)), body)
        d.glaze([(-1, 0.2), (1, 0.2), (1, 0.15), (-1, 0.15)], BLACK, 0.4)
        d.box(0.90, 0.34, 0.985, 0.42, LAMP, (200, 200, 190), 0.02)
        d.box(-1.0, 0.42, -0.96, 0.58, TAIL, shade(TAIL, 0.6), 0.01)
        axles = [-0.6, 0.66]
    else:
        bonnet = rng.random() < (0.55 if style in ("semi", "dump") else 0.25)
        cab_w = {"semi": 0.40, "pickup": 0.6}.get(style, 0.46) + (0.10 if bonnet else 0.0)
        cab_x = 1.0 - cab_w
        cab_top = {"semi": 0.76}.get(style, 0.84) + float(rng.uniform(-0.04, 0.05))
        d.box(-0.98, low - 0.01, 0.95, low + 0.075, (70, 72, 78), (34, 35, 40))
        if style in ("box", "semi"):
            top = {"semi": 0.84}.get(style, 1.02) + float(rng.uniform(-0.05, 0.06))
            cargo = mix(WHITE, load, float(rng.choice([0.08, 0.85])))
            x1 = cab_x - 0.05
            d.fill(
                [(-1, low + 0.06), (-1, top), (x1, top), (x1, low + 0.06)], shade(cargo, 1.1), shade(cargo, 0.74), 0.02
            )
            kind = int(rng.integers(3))
            if kind == 0:
                for k in np.linspace(-0.94, x1 - 0.06, 15):
                    d.line([(k, low + 0.10), (k, top - 0.04)], 0.008, shade(cargo, 0.8))
            elif kind == 1:
                mid = (low + top) / 2 + 0.03
                stripe(d, -0.99, x1 - 0.005, mid - 0.09, mid + 0.05, body)
                d.line([(-0.6, mid + 0.12), (0.1, mid + 0.12)], 0.035, shade(body, 0.7))
            else:
                d.disc((x1 - 1) / 2, (low + top) / 2 + 0.03, 0.17, shade(body, 1.1), shade(body, 0.8))
                d.disc((x1 - 1) / 2, (low + top) / 2 + 0.03, 0.09, shade(cargo, 1.1))
            d.box(-1.0, low + 0.055, x1, low + 0.10, shade(STEEL, 0.8), (80, 82, 88))
        elif style == "tanker":
            x1 = cab_x - 0.05
            tank = mix(STEEL, load, float(rng.choice([0.1, 0.8])))
            d.box(-0.98, low + 0.08, x1, 0.86, shade(tank, 1.55), shade(tank, 0.45), 0.20)
            d.glaze([(-0.9, 0.70), (x1 - 0.08, 0.70), (x1 - 0.08, 0.76), (-0.9, 0.76)], WHITE, 0.5)
            for k in np.linspace(-0.7, x1 - 0.28, 3):
                d.line([(k, low + 0.09), (k, 0.855)], 0.014, shade(tank, 0.6))
            d.box(-0.45, 0.85, -0.2, 0.91, shade(tank, 0.9), shade(tank, 0.5), 0.02)
        elif style == "dump":
            x1 = cab_x - 0.04
            d.fill(
                [
                    (-1.02, 0.78),
                    (-0.90, low + 0.09),
                    (x1, low + 0.09),
                    (x1, 0.90),
                    (x1 + 0.14, 0.95),
                    (x1 + 0.13, 0.99),
                    (x1 - 0.06, 0.95),
                ],
                shade(load, 1.15),
                shade(load, 0.6),
                0.02,
            )
            for k in np.linspace(-0.74, x1 - 0.1, 5):
                d.line([(k, low + 0.12), (k - 0.02, 0.80)], 0.022, shade(load, 0.62))
            if rng.random() < 0.6:
                sand = (176, 150, 108)
                d.fill(
                    curve([(-0.92, 0.79), (-0.6, 0.93), (-0.2, 1.02), (x1 - 0.1, 0.92), (-0.3, 0.82)]),
                    shade(sand, 1.1),
                    shade(sand, 0.7),
                )
        else:  # flatbed with a load
            x1 = cab_x - 0.05
            wood = (158, 118, 78)
            kind = int(rng.integers(3))
            if kind == 0:
                for row in range(3):
                    for k in range(5 - row):
                        x = -0.86 + 0.28 * k * (x1 + 0.9) / 1.4 + 0.13 * row
                        d.disc(x, low + 0.22 + 0.21 * row, 0.125, shade(wood, 1.2), shade(wood, 0.6))
                        d.disc(x, low + 0.22 + 0.21 * row, 0.08, shade(wood, 1.45), shade(wood, 1.1))
            elif kind == 1:
                for k in range(3):
                    w = (x1 + 0.92) / 3
                    h = float(rng.uniform(0.28, 0.5))
                    c = mix(wood, paint_color(rng), 0.6)
                    d.box(
                        -0.94 + k * w,
                        low + 0.10,
                        -0.97 + (k + 1) * w,
                        low + 0.10 + h,
                        shade(c, 1.15),
                        shade(c, 0.65),
                        0.01,
                    )
                    d.line([(-0.94 + k * w, low + 0.12), (-0.97 + (k + 1) * w, low + 0.08 + h)], 0.014, shade(c, 0.6))
            for k in np.linspace(-0.96, x1 - 0.03, 6):
                d.line([(k, low + 0.1), (k, low + 0.26)], 0.022, shade(STEEL, 0.6))
            d.box(-1.0, low + 0.06, x1, low + 0.13, shade(wood, 1.1), shade(wood, 0.6))
            d.box(x1 - 0.03, low + 0.1, x1, 0.72, shade(STEEL, 0.7), shade(STEEL, 0.5))
        _cab(d, cab_x, cab_w, low, cab_top, body, bonnet)
        d.box(-1.0, low + 0.0, -0.965, low + 0.07, TAIL, shade(TAIL, 0.6))
        axles = {"semi": [-0.84, -0.62, 0.38, 0.82], "box": [-0.62, 0.72], "flatbed": [-0.66, 0.72]}.get(
            style, [-0.74, -0.42, 0.72]
        )
        d.box(-0.28, low - 0.07, 0.12, low + 0.05, (92, 94, 100), (44, 45, 50), 0.03)
    for x in axles:
        arch(d, x, r) if style == "van" or x > 0.6 else d.glaze(
            [(x - r, low + 0.05), (x + r, low + 0.05), (x + r, low), (x - r, low)], BLACK, 0.5
        )
        wheel(d, x, r, "steel", turn=float(rng.uniform(0, 1)))
    return d
