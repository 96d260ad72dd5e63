"""What the backgrounds are made of: sky and clouds, ridges, trees, grass, asphalt."""

from __future__ import annotations

import cv2
import numpy as np

from gradlens.data.vehicles.canvas import Color, Drawing, Layer, curve, mix, paint, shade


def scaled(layer: Layer) -> np.ndarray:
    """The homography from the unit square to the layer's pixels."""
    h, w = layer.alpha.shape
    return np.array([[w, 0, 0], [0, h, 0], [0, 0, 1.0]])


def jitter(rng: np.random.Generator, color: Color, amount: float = 12) -> Color:
    """The colour moved by normal noise, the same for a whole object."""
    a, b, c = np.clip(np.asarray(color) + rng.normal(0, amount, 3) * 0.5 + rng.normal(0, amount) * 0.5, 0, 255)
    return float(a), float(b), float(c)


def noise(
    layer: Layer, rng: np.random.Generator, y0: float, y1: float, cells: tuple[int, int], strength: float
) -> None:
    """Soft value noise over the band from y0 to y1 (grass, asphalt, water)."""
    h, w = layer.alpha.shape
    a, b = max(0, round(y0 * h)), min(h, round(y1 * h))
    if b - a < 2:
        return
    coarse = rng.normal(0, strength, cells).astype(np.float32)
    grain = cv2.resize(coarse, (w, b - a), interpolation=cv2.INTER_LINEAR)
    layer.color[a:b] = np.clip(layer.color[a:b] + grain[..., None], 0, 255).astype(np.uint8)


def paint_sky(layer: Layer, rng: np.random.Generator, horizon: float, clouds: int = 4, big: float = 1.0) -> None:
    """A sky from the image's top to ``horizon`` with up to ``clouds`` clouds, ``big`` times their usual size."""
    top = jitter(rng, [(92, 148, 206), (120, 170, 214), (150, 178, 200), (108, 140, 186)][int(rng.integers(4))], 10)
    low = mix(top, jitter(rng, (236, 232, 222), 8), float(rng.uniform(0.6, 0.9)))
    d = Drawing()
    d.box(0, 0, 1, horizon + 0.01, top, low)
    paint(d, layer, scaled(layer))
    h, w = layer.alpha.shape
    small: np.ndarray = np.zeros((72, 72), np.float32)
    for _ in range(int(rng.integers(clouds // 2, clouds + 1))):
        x, y, s = rng.uniform(0, 1), rng.uniform(0.0, 0.9) * horizon, rng.uniform(0.05, 0.12) * big
        for _ in range(7):
            cx, cy, r = x + rng.normal(0, 1.1) * s, y - abs(rng.normal(0, 0.28)) * s, s * rng.uniform(0.35, 0.75)
            cv2.ellipse(
                small, (round(cx * 72), round(cy * 72)), (max(1, round(r * 108)), max(1, round(r * 50))),
                0, 0, 360, float(rng.uniform(0.5, 0.9)), -1,
            )  # fmt: skip
    small = cv2.GaussianBlur(small, (0, 0), 1.6 * big**0.5)
    limit = max(1, round(horizon * h))
    cover = cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)[:limit, :, None]
    white = np.linspace(255, 228, limit, dtype=np.float32)[:, None, None]
    above = layer.color[:limit].astype(np.float32)
    above += (white - above) * cover
    layer.color[:limit] = above


def ridge(rng: np.random.Generator, y: float, rough: float, points: int = 9) -> np.ndarray:
    """The outline of hills whose feet lie at height y and whose tops vary by ``rough``."""
    x = np.linspace(-0.1, 1.1, points)
    heights = y - np.abs(rng.normal(0, rough, points))
    crest = curve(np.stack([x, heights], 1), 4, closed=False)
    return np.concatenate([crest, [[1.1, 1.1], [-0.1, 1.1]]])


def tree(d: Drawing, rng: np.random.Generator, x: float, y: float, s: float, fir: bool, green: Color) -> None:
    """A fir or a broad-leaved tree, about ``s`` high, whose trunk stands at (x, y)."""
    d.box(x - 0.07 * s, y - 0.35 * s, x + 0.07 * s, y, (104, 80, 62), (74, 56, 44))
    if fir:
        for k in range(3):
            b, w = y - (0.15 + 0.27 * k) * s, (0.36 - 0.08 * k) * s
            d.fill([(x - w, b), (x, b - 0.5 * s), (x + w, b)], shade(green, 1.05), shade(green, 0.66))
    else:
        for k in range(5):
            r = s * rng.uniform(0.2, 0.32)
            c = shade(green, float(rng.uniform(0.8, 1.15)))
            d.disc(x + rng.normal(0, 0.2) * s, y - (0.5 + 0.11 * k) * s, r, shade(c, 1.15), shade(c, 0.72))


def green(rng: np.random.Generator) -> Color:
    """The colour of grass and leaves in some season."""
    return jitter(
        rng,
        [(92, 136, 70), (76, 120, 66), (128, 148, 70), (168, 130, 60)][int(rng.choice(4, p=[0.4, 0.3, 0.2, 0.1]))],
        10,
    )


def asphalt(layer: Layer, rng: np.random.Generator, top: float, ground: float, dashed: Color = (232, 230, 220)) -> None:
    """A road from height ``top`` to the image's lower edge, dashed below the ground line."""
    grey = jitter(rng, (116, 116, 120), 12)
    d = Drawing()
    d.box(0, top, 1, 1.02, shade(grey, 1.08), shade(grey, 0.74))
    y = ground + float(rng.uniform(0.09, 0.15))
    slant, start = float(rng.uniform(0.01, 0.03)), float(rng.uniform(-0.3, 0))
    for k in range(6):
        x = start + 0.28 * k
        d.fill([(x, y), (x + 0.15, y), (x + 0.15 - slant, y + 0.018), (x - slant, y + 0.018)], dashed)
    d.line([(-0.02, top + 0.02), (1.02, top + 0.02)], 0.008, shade(grey, 1.5))
    paint(d, layer, scaled(layer))
    noise(layer, rng, top, 1, (60, 60), 3.0)
    noise(layer, rng, top, 1, (6, 10), 4.0)
