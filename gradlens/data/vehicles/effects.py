"""What the internet does to a photograph: things behind and in front, night, drawings, cuts, marks, bad compression.

Every effect takes a severity from 1 (mild) to 3 (severe) and its own random generator. Sizes are parts of the image.
"""

from __future__ import annotations

import cv2
import numpy as np

from gradlens.data.vehicles.canvas import (
    PAPER,
    Color,
    Drawing,
    Layer,
    ellipse,
    paint,
    shade,
)
from gradlens.data.vehicles.draw import KINDS
from gradlens.data.vehicles.glyphs import WORDS, lettering
from gradlens.data.vehicles.parts import paint_color
from gradlens.data.vehicles.terrain import scaled
from gradlens.data.vehicles.things import bystander, in_front


def ink_of(style: str, rng: np.random.Generator) -> Color:
    """The colour of lines and silhouettes."""
    inks: tuple[Color, ...] = ((40, 40, 48), (36, 52, 92), (86, 48, 40), (30, 66, 62))
    ink = inks[int(rng.integers(len(inks)))]
    return shade(ink, 0.6) if style == "silhouette" else ink


def drawn_background(image: np.ndarray, style: str, rng: np.random.Generator) -> np.ndarray:
    """The place behind the vehicle in the vehicle's style: (H, W, 3) float32 to float32."""
    ink = np.asarray(ink_of(style, rng), np.float32)
    soft = cv2.GaussianBlur(image, (0, 0), 1.2)
    if style == "poster":
        tone = soft.mean(axis=2, keepdims=True)
        return np.clip(np.round(tone / 36) * 36 + (soft - tone) * 1.35, 0, 255)  # few tones, strong colours
    grey = soft.mean(axis=2)
    paper = np.asarray(PAPER, np.float32)
    if style == "line":
        dog = cv2.GaussianBlur(grey, (0, 0), 1.0) - cv2.GaussianBlur(grey, (0, 0), 2.2)
        lines = np.clip(np.abs(dog) / 9 - 0.25, 0, 0.6)[..., None]
        return paper * (1 - lines) + ink * lines
    hue = np.asarray(((250, 214, 160), (190, 214, 232), (226, 200, 214))[int(rng.integers(3))], np.float32)
    tone = np.round(np.clip(grey / 255, 0, 1) * 3) / 3  # four tones of one colour
    return hue * (0.72 + 0.34 * tone[..., None])


def _stand(layer: Layer, d: Drawing, x: float, y: float, k: float, flip: bool = False) -> None:
    """Paint a drawing with its x = 0, y = 0 at the point (x, y) of the image, ``k`` image widths per unit."""
    h, w = layer.alpha.shape
    paint(d, layer, np.array([[-k * w if flip else k * w, 0, x * w], [0, -k * h, y * h], [0, 0, 1.0]]))


def clutter(
    layer: Layer, taken: np.ndarray, vehicle: str, ground: float, severity: int, rng: np.random.Generator
) -> None:
    """Put other things behind the vehicle, where it does not hide them: 3, 6 or 9, with up to three other vehicles.

    Args:
        layer: the background, painted on.
        taken: coverage (H, W) of the vehicle, 0 to 1.
        vehicle: its class, which no distractor shares.
        ground: the ground line's height.
        severity: 1 to 3.
        rng: where all choices come from.
    """
    others = [c for c in KINDS if c != vehicle]
    free = cv2.blur(taken, (25, 25))
    size = taken.shape[0]

    def spot(low: float, high: float) -> tuple[float, float]:
        xs, ys = rng.uniform(0.05, 0.95, 16), rng.uniform(low, high, 16)
        at = [
            free[min(size - 1, int(max(0.0, y - 0.1) * size)), min(size - 1, int(x * size))]
            for x, y in zip(xs, ys, strict=True)
        ]
        best = int(np.argmin(at))
        return float(xs[best]), float(ys[best])

    width = (0.0, 0.26, 0.36, 0.46)[severity]
    for k in range(severity):
        name = others[int(rng.integers(len(others)))]
        kind = KINDS[name]
        d = kind.draw(kind.bodies[int(rng.integers(len(kind.bodies)))], rng)
        left, low, right, high = d.extent()
        x, y = spot(0.16, 0.5) if name == "plane" else spot(0.45, 0.98)
        _stand(
            layer, d, x, y, width * float(rng.uniform(0.8, 1.15)) / max(right - left, 1.3 * (high - low)), k % 2 == 0
        )
    for _ in range(2 * severity):
        d = Drawing()
        bystander(d, rng)
        x, y = spot(ground - 0.1, 1.0)
        _stand(layer, d, x, y, float(rng.uniform(0.10, 0.15 + 0.03 * severity)))


def occluders(layer: Layer, target: np.ndarray, severity: int, rng: np.random.Generator) -> None:
    """Put things in front until 15, 32 or 52 % of the vehicle are hidden.

    Args:
        layer: an empty layer, painted on.
        target: the vehicle's coverage (H, W) uint8 at the layer's size.
        severity: 1 to 3.
        rng: where all choices come from.
    """
    goal = (0.0, 0.15, 0.32, 0.52)[severity]
    rows, cols = np.nonzero(target)
    if not len(rows):
        return
    h, w = target.shape
    for _ in range(24):
        if cv2.countNonZero(cv2.bitwise_and(layer.alpha, target)) >= goal * len(rows):
            return
        at = int(rng.integers(len(rows)))
        x, y, s = cols[at] / w, rows[at] / h, float(rng.uniform(0.8, 1.2))
        paint(in_front(x, y, s, int(rng.integers(6)), rng), layer, scaled(layer))


def night(image: np.ndarray, severity: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Dusk, night under one colour of lamps, or nearly dark; returns the image and the sensor noise's deviation.

    Args:
        image: (H, W, 3) float32, 0 to 255.
        severity: 1 to 3.
        rng: chooses the cast and where the lamp stands.
    """
    casts = ((0.72, 0.84, 1.18), (1.20, 0.86, 0.52), (0.62, 1.05, 0.80), (1.05, 0.62, 1.10), (0.60, 0.74, 1.25))
    cast = np.asarray(casts[int(rng.integers(len(casts)))], np.float32)
    h, w = image.shape[:2]
    x, y = np.meshgrid(np.linspace(0, 1, w, dtype=np.float32), np.linspace(0, 1, h, dtype=np.float32))
    lamp_x, lamp_y = rng.uniform(0.1, 0.9), rng.uniform(0.0, 0.5)
    glow = np.exp(-((x - lamp_x) ** 2 + (y - lamp_y) ** 2) / 0.22)[..., None]
    gamma, gain = ((1.0, 0.90), (1.1, 0.72), (1.3, 0.58))[severity - 1]
    strength = (0.35, 0.65, 0.95)[severity - 1]
    linear = np.clip(image / 255, 0, 1) ** gamma * gain * (0.66 + 0.7 * glow)
    grey = linear.mean(axis=2, keepdims=True)
    muted = grey + (linear - grey) * (0.9, 0.7, 0.5)[severity - 1]
    return muted * (1 + (cast - 1) * strength) * 255, (2.2, 3.5, 5.5)[severity - 1]


def crop(image: np.ndarray, mask: np.ndarray, severity: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cut a window out of the picture around a part of the vehicle, of another aspect ratio; the cut keeps its shape.

    The window's sides are about 80, 58 or 42 % of the vehicle's larger extent (in geometric mean), its aspect ratio up
    to 1.4, 1.9 or 2.4 either way; the cut is enlarged so that its area is that of a whole image.
    """
    h, w = mask.shape
    rows, cols = np.nonzero(mask)
    part, ratio = ((0.80, 1.4), (0.58, 1.9), (0.42, 2.4))[severity - 1]
    aspect = float(np.exp(rng.uniform(0.5, 1.0) * np.log(ratio)))
    if rng.random() < 0.4:
        aspect = 1 / aspect
    if len(rows):
        side = part * max(np.ptp(rows) + 1, np.ptp(cols) + 1)
        center = (
            np.median(cols) + rng.uniform(-0.25, 0.25) * np.ptp(cols),
            np.median(rows) + rng.uniform(-0.1, 0.1) * np.ptp(rows),
        )
    else:
        side, center = part * w, (w / 2, h / 2)
    cw, ch = min(w, round(side * aspect**0.5)), min(h, round(side / aspect**0.5))
    x0 = int(np.clip(round(center[0] - cw / 2), 0, w - cw))
    y0 = int(np.clip(round(center[1] - ch / 2), 0, h - ch))
    zoom = (h * w / (cw * ch)) ** 0.5
    size = (round(cw * zoom), round(ch * zoom))
    cut = cv2.resize(image[y0 : y0 + ch, x0 : x0 + cw], size, interpolation=cv2.INTER_CUBIC)
    seen = cv2.resize(mask[y0 : y0 + ch, x0 : x0 + cw].astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    return cut, seen >= 0.5


def watermark(
    image: np.ndarray, mask: np.ndarray, severity: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A name in the corner; a caption bar and a sticker; a name all over the picture with bars, frame and stickers.

    What is opaque hides the vehicle and leaves its mask; translucent lettering does not.
    """
    h, w = mask.shape
    color = paint_color(rng, bright=True)
    word = WORDS[int(rng.integers(len(WORDS)))]
    out, hidden = image.astype(np.float32), np.zeros((h, w), bool)

    def put(d: Drawing, alpha: float) -> None:
        nonlocal out, hidden
        layer = Layer(h * 3, w * 3)
        paint(d, layer, scaled(layer))
        over = cv2.resize(layer.color, (w, h), interpolation=cv2.INTER_AREA).astype(np.float32)
        cover = cv2.resize(layer.alpha, (w, h), interpolation=cv2.INTER_AREA).astype(np.float32)[..., None] / 255
        out = out * (1 - cover * alpha) + over * alpha
        if alpha == 1:
            hidden |= cover[..., 0] >= 0.5

    if severity == 3:
        d = Drawing()
        for row in range(5):
            for col in range(3):
                lettering(
                    d,
                    word,
                    -0.15 + 0.42 * col + 0.1 * (row % 2),
                    0.08 + 0.22 * row,
                    0.075,
                    (252, 252, 252),
                    slope=-0.35,
                )
        put(d, 0.55)
    else:
        d = Drawing()
        lettering(d, word, 0.04, 0.06 if severity == 2 else 0.88, 0.06, (252, 252, 252))
        put(d, 0.8)
    if severity >= 2:
        d = Drawing()
        bar = float(rng.uniform(0.13, 0.19))
        dark = rng.random() < 0.5
        ground: Color = (24, 24, 28) if dark else (248, 248, 244)
        d.box(-0.01, 1 - bar, 1.01, 1.01, ground)
        other = WORDS[int(rng.integers(len(WORDS)))]
        caption = f"{other} {word}"
        high = min(bar * 0.42, 0.9 / (0.97 * len(caption)))
        lettering(d, caption, 0.05, 1 - bar / 2 - high / 2, high, (250, 250, 250) if dark else (30, 30, 34))
        x, y, s = (0.84, 0.15, 0.105) if rng.random() < 0.6 else (0.15, 0.66, 0.095)
        points = ellipse(x, y, s, s, n=25)[:24].copy()
        points[::2] = (x, y) + (points[::2] - (x, y)) * 0.84
        d.fill(points, shade(color, 1.1), shade(color, 0.85))
        lettering(d, "NEW" if rng.random() < 0.5 else "TOP", x - s * 0.62, y - s * 0.28, s * 0.55, (255, 255, 255))
        put(d, 1.0)
    if severity == 3:
        d = Drawing()
        f = 0.035
        for x0, y0, x1, y1 in ((0, 0, 1, f), (0, 1 - f, 1, 1), (0, 0, f, 1), (1 - f, 0, 1, 1)):
            d.box(x0, y0, x1, y1, color)
        x, y = float(rng.uniform(0.25, 0.75)), float(rng.uniform(0.3, 0.6))
        s = 0.085
        d.disc(x, y, s, (255, 220, 80), (240, 180, 50))
        for k in (-1, 1):
            d.disc(x + k * s * 0.36, y - s * 0.25, s * 0.14, (60, 44, 30))
        d.line(ellipse(x, y + s * 0.05, s * 0.55, s * 0.5, 20, 160, 12), 0.014, (60, 44, 30))
        put(d, 1.0)
    return np.clip(np.rint(out), 0, 255).astype(np.uint8), mask & ~hidden


def recompress(image: np.ndarray, severity: int) -> np.ndarray:
    """Make the picture small, compress it heavily as JPEG, and enlarge it again to its size."""
    factor, quality = ((0.62, 34), (0.46, 24), (0.34, 18))[severity - 1]
    h, w = image.shape[:2]
    small = cv2.resize(image, (max(8, round(w * factor)), max(8, round(h * factor))), interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    again = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[..., ::-1]
    return np.ascontiguousarray(cv2.resize(again, (w, h), interpolation=cv2.INTER_LINEAR))
