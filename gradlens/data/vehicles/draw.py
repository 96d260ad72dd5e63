"""The eight vehicles: which body styles each has, where each is usually seen, and how large it may appear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradlens.data.vehicles import cars, craft, cycles, heavy, rail
from gradlens.data.vehicles.canvas import Drawing


@dataclass(frozen=True)
class Kind:
    """What there is to know about a class.

    Attributes:
        draw: (body style, generator) to drawing.
        bodies: its body styles, equally likely.
        home: the background it is nearly always photographed on.
        away: other backgrounds it is plausibly seen on.
        tall: the largest part of the image's height it may take.
    """

    draw: Callable[[str, np.random.Generator], Drawing]
    bodies: tuple[str, ...]
    home: str
    away: tuple[str, ...]
    tall: float = 0.6


KINDS: dict[str, Kind] = {
    "bicycle": Kind(
        cycles.bicycle,
        ("road", "city", "mountain", "electric", "cargo", "folding"),
        "park",
        ("street", "city", "mountain"),
    ),
    "bus": Kind(
        heavy.bus,
        ("city", "coach", "double", "school", "mini", "articulated"),
        "city",
        ("highway", "street", "mountain"),
    ),
    "car": Kind(
        cars.car,
        ("sedan", "hatchback", "wagon", "suv", "coupe", "minivan", "pickup", "beetle"),
        "street",
        ("highway", "city", "mountain"),
    ),
    "motorcycle": Kind(
        cycles.motorcycle,
        ("sport", "naked", "cruiser", "enduro", "scooter", "moped"),
        "mountain",
        ("highway", "street", "park"),
    ),
    "plane": Kind(
        craft.plane,
        ("airliner", "cargo", "below", "fighter", "propeller", "biplane", "seaplane"),
        "sky",
        ("sea", "mountain", "highway"),
    ),
    "ship": Kind(
        craft.ship,
        ("sail", "schooner", "container", "cruise", "ferry", "yacht", "tug"),
        "sea",
        ("sky", "mountain", "city"),
        0.68,
    ),
    "train": Kind(
        rail.train,
        ("steam", "tram", "highspeed", "electric", "diesel", "coach", "railcar"),
        "rails",
        ("city", "street", "park"),
    ),
    "truck": Kind(
        heavy.truck, ("box", "semi", "tanker", "dump", "flatbed", "van"), "highway", ("city", "street", "mountain")
    ),
}

CLASSES: tuple[str, ...] = tuple(KINDS)
