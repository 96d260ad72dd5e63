"""A stroke alphabet for watermarks and captions: fonts differ between OpenCV versions, these lines do not."""

from __future__ import annotations

from gradlens.data.vehicles.canvas import Color, Drawing

# Strokes on a grid 4 wide and 6 high, y down.
_GLYPHS: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "A": (((0, 6), (2, 0), (4, 6)), ((0.8, 4), (3.2, 4))),
    "B": (((0, 0), (0, 6), (3, 6), (4, 4.6), (3, 3), (0, 3)), ((0, 0), (2.8, 0), (3.6, 1.5), (2.8, 3))),
    "C": (((4, 0.8), (3, 0), (1, 0), (0, 1), (0, 5), (1, 6), (3, 6), (4, 5.2)),),
    "D": (((0, 0), (0, 6), (2.4, 6), (4, 4.4), (4, 1.6), (2.4, 0), (0, 0)),),
    "E": (((4, 0), (0, 0), (0, 6), (4, 6)), ((0, 3), (3, 3))),
    "F": (((4, 0), (0, 0), (0, 6)), ((0, 3), (3, 3))),
    "G": (((4, 0.8), (3, 0), (1, 0), (0, 1), (0, 5), (1, 6), (3, 6), (4, 5), (4, 3.2), (2.4, 3.2)),),
    "H": (((0, 0), (0, 6)), ((4, 0), (4, 6)), ((0, 3), (4, 3))),
    "I": (((2, 0), (2, 6)),),
    "K": (((0, 0), (0, 6)), ((4, 0), (0, 3.4), (4, 6))),
    "L": (((0, 0), (0, 6), (4, 6)),),
    "M": (((0, 6), (0, 0), (2, 3), (4, 0), (4, 6)),),
    "N": (((0, 6), (0, 0), (4, 6), (4, 0)),),
    "O": (((1, 0), (0, 1), (0, 5), (1, 6), (3, 6), (4, 5), (4, 1), (3, 0), (1, 0)),),
    "P": (((0, 6), (0, 0), (3, 0), (4, 1.5), (3, 3), (0, 3)),),
    "R": (((0, 6), (0, 0), (3, 0), (4, 1.5), (3, 3), (0, 3)), ((2, 3), (4, 6))),
    "S": (((4, 0.8), (3, 0), (1, 0), (0, 1), (0.4, 2.6), (3.6, 3.6), (4, 5), (3, 6), (1, 6), (0, 5.2)),),
    "T": (((0, 0), (4, 0)), ((2, 0), (2, 6))),
    "U": (((0, 0), (0, 5), (1, 6), (3, 6), (4, 5), (4, 0)),),
    "V": (((0, 0), (2, 6), (4, 0)),),
    "W": (((0, 0), (1, 6), (2, 2.4), (3, 6), (4, 0)),),
    "X": (((0, 0), (4, 6)), ((4, 0), (0, 6))),
    "Y": (((0, 0), (2, 3), (4, 0)), ((2, 3), (2, 6))),
}

WORDS = ("PREVIEW", "SAMPLE", "PIXBOX", "STOCKS", "IMAGES", "WEBPIC", "FOTOLY", "SHARED")


def lettering(d: Drawing, text: str, x: float, y: float, height: float, color: Color, slope: float = 0.0) -> None:
    """Append ``text`` with its upper left corner at (x, y), y down; ``slope`` is how far it falls per unit of width."""
    unit = height / 6
    for i, letter in enumerate(text):
        left = x + i * unit * 5.8
        for stroke in _GLYPHS.get(letter, ()):  # a space has no strokes
            points = [(left + a * unit, y + b * unit + slope * (left + a * unit - x)) for a, b in stroke]
            d.line(points, unit * 0.95, color)
