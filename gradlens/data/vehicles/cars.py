"""Cars as drawings."""

from __future__ import annotations

import itertools

import numpy as np

from gradlens.data.vehicles.canvas import Drawing, mix, shade
from gradlens.data.vehicles.parts import (
    GLASS,
    LAMP,
    TAIL,
    arch,
    glass,
    paint_color,
    wheel,
)

# Car bodies: rear deck height, foot and top of the rear window, top and foot of the windscreen,
# then heights of bonnet, roof and belt, and the wheels' radius
_CARS: dict[str, tuple[float, float, float, float, float, float, float, float, float]] = {
    "sedan": (0.50, -0.70, -0.36, 0.16, 0.52, 0.46, 0.75, 0.48, 0.195),
    "hatchback": (0.52, -0.90, -0.66, 0.12, 0.50, 0.48, 0.81, 0.50, 0.205),
    "wagon": (0.52, -0.93, -0.80, 0.14, 0.50, 0.46, 0.77, 0.49, 0.195),
    "suv": (0.60, -0.93, -0.82, 0.14, 0.46, 0.58, 0.93, 0.60, 0.235),
    "coupe": (0.47, -0.80, -0.22, 0.06, 0.48, 0.42, 0.66, 0.45, 0.205),
    "minivan": (0.58, -0.93, -0.86, 0.30, 0.72, 0.52, 0.95, 0.57, 0.19),
    "pickup": (0.56, -0.20, -0.14, 0.20, 0.48, 0.54, 0.88, 0.57, 0.23),
    "beetle": (0.40, -0.86, -0.40, 0.12, 0.42, 0.44, 0.82, 0.52, 0.21),
}


def car(style: str, rng: np.random.Generator) -> Drawing:
    """A passenger car seen from its side, driving to the right."""
    deck, rear_foot, rear_top, front_top, front_foot, bonnet, roof, belt, r = _CARS[style]
    roof, belt = roof + rng.uniform(-0.025, 0.03), belt + rng.uniform(-0.01, 0.01)
    body, d = paint_color(rng), Drawing()
    low = 0.13 + (0.05 if style in ("suv", "pickup") else 0.0)
    rear_x, front_x = -0.62 + rng.uniform(-0.03, 0.02), 0.63 + rng.uniform(-0.02, 0.03)

    outline = [
        (-0.95, low), (-0.995, low + 0.1), (-0.99, deck - 0.08), (-0.95, deck), (rear_foot, deck + 0.025),
        (rear_top, roof - 0.01), ((rear_top + front_top) / 2, roof + 0.015), (front_top, roof - 0.005),
        (front_foot, belt + 0.01), (0.86, bonnet - 0.05), (0.985, bonnet - 0.16), (1.0, low + 0.08), (0.95, low),
    ]  # fmt: skip
    smooth = 0.22 if style == "beetle" else 0.075
    d.fill(outline, shade(body, 1.16), shade(body, 0.62), r=smooth)
    d.glaze(
        [(-0.97, belt - 0.055), (0.88, belt - 0.075), (0.93, belt - 0.11), (-0.98, belt - 0.10)], (255, 255, 255), 0.30
    )
    d.glaze([(-0.99, low + 0.11), (0.99, low + 0.11), (0.95, low), (-0.95, low)], (12, 12, 16), 0.35)
    d.box(rear_x, low - 0.03, front_x, low + 0.025, shade(body, 0.34))

    # windows between belt and roof, following the slope of both ends
    y0, y1 = belt + 0.025, roof - 0.055
    slope_r, slope_f = (rear_top - rear_foot) / (roof - deck), (front_foot - front_top) / (roof - belt)
    left0, left1 = rear_foot + slope_r * (y0 - deck) + 0.07, rear_foot + slope_r * (y1 - deck) + 0.075
    right0, right1 = front_foot - slope_f * (y0 - belt) - 0.09, front_foot - slope_f * (y1 - belt) - 0.07
    pillars = {
        "coupe": [0.0],
        "pickup": [0.12],
        "suv": [-0.5, -0.14],
        "wagon": [-0.5, -0.16],
        "minivan": [-0.42, 0.1],
    }.get(style, [-0.2 + float(rng.uniform(-0.04, 0.04))])
    edges = [(left0, left1), *((p, p) for p in pillars), (right0, right1)]
    tint = mix(GLASS, (40, 46, 54), float(rng.uniform(0, 0.7)))
    for (a0, a1), (b0, b1) in itertools.pairwise(edges):
        if b0 - a0 > 0.06:
            glass(d, [(a0 + 0.018, y0), (b0 - 0.018, y0), (b1 - 0.018, y1), (a1 + 0.018, y1)], 0.03, tint)
    seam = shade(body, 0.45)
    for p in [*pillars, right0 - 0.02 if style != "pickup" else 0.46]:
        d.line([(p, belt), (p + 0.015, low + 0.16), (p, low + 0.05)], 0.009, seam)
        d.line([(p - 0.11, belt - 0.10), (p - 0.05, belt - 0.10)], 0.02, shade(body, 1.35))
    if style == "pickup":
        d.line([(-0.97, deck), (-0.24, deck)], 0.03, shade(body, 0.5))
        d.line([(-0.22, deck), (-0.22, low + 0.08)], 0.01, seam)
    if style in ("suv", "wagon") and rng.random() < 0.7:
        d.line([(rear_top + 0.06, roof + 0.035), (front_top - 0.05, roof + 0.035)], 0.02, (60, 62, 66))
    if rng.random() < 0.08 and style in ("sedan", "wagon"):  # a taxi
        d.box(-0.2, roof + 0.01, 0.05, roof + 0.075, (250, 214, 70), (214, 160, 40), 0.02)

    d.fill(
        [(0.86, bonnet - 0.10), (0.965, bonnet - 0.13), (0.985, bonnet - 0.20), (0.88, bonnet - 0.19)],
        LAMP,
        (190, 196, 200),
        0.03,
    )
    d.fill(
        [(-0.985, deck - 0.05), (-0.91, deck - 0.05), (-0.90, deck - 0.14), (-0.99, deck - 0.14)],
        TAIL,
        shade(TAIL, 0.6),
        0.02,
    )
    d.box(0.86, low + 0.0, 1.01, low + 0.085, shade(body, 0.5), (34, 34, 38), 0.03)
    d.box(-1.01, low + 0.0, -0.86, low + 0.085, shade(body, 0.5), (34, 34, 38), 0.03)
    d.fill(
        [
            (right0 - 0.01, belt + 0.02),
            (right0 - 0.08, belt + 0.03),
            (right0 - 0.07, belt + 0.09),
            (right0, belt + 0.075),
        ],
        shade(body, 0.85),
        shade(body, 0.5),
        0.02,
    )

    rim = "steel" if rng.random() < 0.25 else "alloy"
    spokes, turn = int(rng.integers(5, 9)), float(rng.uniform(0, 1))
    for x in (rear_x, front_x):
        arch(d, x, r)
        wheel(d, x, r * 0.98, rim, spokes, turn + x)
    return d
