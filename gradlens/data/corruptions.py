"""Common corruptions of photographs in five severities, from 32 pixels up, the same pixels on every run.

The families and constants are those of Hendrycks & Dietterich 2019, "Benchmarking neural network robustness to common
corruptions and perturbations": each function holds the constants of CIFAR-10-C (32 pixels) and of ImageNet-C (224
pixels); an image whose shorter side lies between gets what lies between (in the logarithm of the side), and above 224
pixels lengths grow with the side. The code is our own, on OpenCV and NumPy: an image takes milliseconds. It leaves the
paper where that needs a loop over pixels or foreign pictures: ``glass_blur`` moves all pixels at once instead of
swapping neighbours one after the other, ``fog`` adds octaves of smooth noise instead of a diamond-square plasma;
``elastic_transform`` and ``spatter``, and at 32 pixels ``glass_blur``, have constants of their own; ``frost``, which
pastes photographs, is not here.

What is random about an image is seeded by its id, the corruption's name and a seed, and not by the severity: a severer
image has more of the same noise, and no image depends on which others were corrupted before it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from gradlens.registry import Registry

SEVERITIES = (1, 2, 3, 4, 5)
SMALL, LARGE = 32, 224  # pixels of CIFAR-10-C and ImageNet-C
Function = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Corruption:
    """A way to make photographs worse.

    Attributes:
        name: as ``--corruption`` takes it.
        family: ``noise``, ``blur``, ``weather`` or ``digital``.
        apply: (uint8 (H, W, 3) RGB, severity 1 to 5, generator) -> uint8 of the same shape.
        moves: whether things are elsewhere afterwards, so that a mask of the clean image no longer fits.
    """

    name: str
    family: str
    apply: Function
    moves: bool = False


CORRUPTIONS: Registry[Corruption] = Registry("corruption")


def corruption(family: str, *, moves: bool = False) -> Callable[[Function], Function]:
    """File a function under its own name."""

    def file(function: Function) -> Function:
        name = function.__name__
        CORRUPTIONS.register(name)(Corruption(name, family, function, moves))
        return function

    return file


def corrupt(image: np.ndarray, name: str, severity: int, key: str, seed: int = 0) -> np.ndarray:
    """An image, made worse.

    Args:
        image: uint8 (H, W, 3), RGB.
        name: of one of :data:`CORRUPTIONS`.
        severity: 1 (mild) to 5.
        key: the image's id.
        seed: with the key and the name the seed of everything random.

    Returns:
        uint8 of the same shape.

    Raises:
        NotFoundError: no such corruption.
        ValueError: no such severity, or not an RGB image of bytes.
    """
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be one of {', '.join(map(str, SEVERITIES))}, got {severity}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected uint8 (H, W, 3), got {image.dtype} {image.shape}")
    found = CORRUPTIONS[name]
    digest = hashlib.sha256(f"{seed}\0{name}\0{key}".encode("utf-8", "surrogateescape")).digest()
    return found.apply(image, severity, np.random.default_rng(int.from_bytes(digest[:16], "little")))


@cache
def code_digest() -> str:
    """A hash of this file and of the versions of what it computes with: it changes when any pixel may."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for package in ("opencv-python", "numpy"):
        digest.update(importlib.metadata.version(package).encode())
    return digest.hexdigest()


# --- constants for a size ---------------------------------------------------------------------------------------------


def _at(image: np.ndarray, severity: int, small: Sequence[float], large: Sequence[float]) -> float:
    """The constant for a severity and the image's shorter side: CIFAR-10-C's, ImageNet-C's, or between them."""
    a, b = small[severity - 1], large[severity - 1]
    t = math.log(min(image.shape[:2]) / SMALL) / math.log(LARGE / SMALL)
    return a + (b - a) * min(max(t, 0.0), 1.0)


def _length(image: np.ndarray, severity: int, small: Sequence[float], large: Sequence[float]) -> float:
    """The same for a length in pixels, which grows with larger images and shrinks with smaller ones."""
    side = min(image.shape[:2])
    return _at(image, severity, small, large) * (max(side / LARGE, 1.0) if side > SMALL else side / SMALL)


def _unit(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / 255


def _bytes(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


# --- noise ------------------------------------------------------------------------------------------------------------


@corruption("noise")
def gaussian_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Normal noise on every value, as in low light."""
    scale = _at(image, severity, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38))
    return _bytes(_unit(image) + np.float32(scale) * _normal(rng, image.shape))


@corruption("noise")
def shot_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Poisson noise: light arrives in quanta."""
    quanta = math.exp(
        _at(image, severity, np.log((500, 250, 100, 75, 50)).tolist(), np.log((60, 25, 12, 5, 3)).tolist())
    )
    return _bytes(rng.poisson(_unit(image) * quanta).astype(np.float32) / np.float32(quanta))


@corruption("noise")
def impulse_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Salt and pepper: some values are all or nothing."""
    share = _at(image, severity, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27))
    drawn = rng.random(image.shape, dtype=np.float32)
    out = image.copy()
    out[drawn < share] = 0
    out[drawn < share / 2] = 255
    return out


@corruption("noise")
def speckle_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Normal noise that grows with the value."""
    scale = _at(image, severity, (0.06, 0.10, 0.12, 0.16, 0.20), (0.15, 0.20, 0.35, 0.45, 0.60))
    x = _unit(image)
    return _bytes(x + x * np.float32(scale) * _normal(rng, image.shape))


# --- blur -------------------------------------------------------------------------------------------------------------


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), max(sigma, 1e-3), borderType=cv2.BORDER_REFLECT_101)


@corruption("blur")
def gaussian_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A normal kernel."""
    return _bytes(_blurred(_unit(image), _length(image, severity, (0.4, 0.6, 0.7, 0.8, 1.0), (1, 2, 3, 4, 6))))


@corruption("blur")
def defocus_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A disk with a soft edge: out of focus."""
    radius = _length(image, severity, (0.6, 0.8, 1.0, 1.25, 1.6), (3, 4, 6, 8, 10))
    half = math.ceil(radius) + 1
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    disk = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    return _bytes(cv2.filter2D(_unit(image), -1, disk / disk.sum(), borderType=cv2.BORDER_REFLECT_101))


@corruption("blur", moves=True)
def glass_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Pixels change places with near ones, as through frosted glass."""
    sigma = _length(image, severity, (0.30, 0.35, 0.40, 0.45, 0.50), (0.7, 0.9, 1.0, 1.1, 1.5))
    reach = _length(image, severity, (0.6, 0.7, 0.8, 0.9, 1.0), (2, 2.5, 3.5, 4.5, 5.5))
    h, w = image.shape[:2]
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    dx, dy = rng.uniform(-reach, reach, (2, h, w)).astype(np.float32)
    mixed = cv2.remap(
        _blurred(_unit(image), sigma), np.rint(x + dx), np.rint(y + dy), cv2.INTER_NEAREST, None, cv2.BORDER_REFLECT_101
    )
    return _bytes(_blurred(mixed, sigma))


def _line(length: float, sigma: float, angle: float) -> np.ndarray:
    """A kernel along a line from the centre, weighted as one half of a normal curve."""
    half = math.ceil(length) + 1
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    steps = np.linspace(0, length, 4 * half + 1)
    x, y = half + steps * math.cos(angle), half + steps * math.sin(angle)
    weight = np.exp(-(steps**2) / (2 * sigma**2))
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    for right in (0, 1):
        for down in (0, 1):
            part = (1 - np.abs(x - column - right)) * (1 - np.abs(y - row - down))
            np.add.at(kernel, (row + down, column + right), weight * part)
    return np.asarray(kernel / kernel.sum())


@corruption("blur")
def motion_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The camera moved, by at most 45 degrees from the horizontal."""
    length = _length(image, severity, (6, 6, 6, 8, 9), (10, 15, 15, 15, 20))
    sigma = _length(image, severity, (1, 1.5, 2, 2, 2.5), (3, 5, 8, 12, 15))
    kernel = _line(length, sigma, math.radians(rng.uniform(-45, 45)))
    return _bytes(cv2.filter2D(_unit(image), -1, kernel, borderType=cv2.BORDER_REFLECT_101))


def _zoomed(image: np.ndarray, factor: float) -> np.ndarray:
    h, w = image.shape[:2]
    matrix = np.array([[factor, 0, (w - 1) / 2 * (1 - factor)], [0, factor, (h - 1) / 2 * (1 - factor)]], np.float64)
    return cv2.warpAffine(image, matrix, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


@corruption("blur", moves=True)
def zoom_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The camera came nearer: the mean of enlargements."""
    most = _at(image, severity, (1.05, 1.10, 1.15, 1.20, 1.25), (1.10, 1.15, 1.20, 1.25, 1.30))
    x = _unit(image)
    steps = np.linspace(1, most, 9)
    total = x.copy()
    for factor in steps:
        total += _zoomed(x, float(factor))
    return _bytes(total / (len(steps) + 1))


# --- weather ----------------------------------------------------------------------------------------------------------


def _clouds(shape: tuple[int, int], decay: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise in 0-1: octaves from the whole image down to two pixels, each ``decay`` times weaker."""
    h, w = shape
    total, weight = np.zeros(shape, np.float32), 1.0
    cells = 2
    while cells <= max(h, w) // 2:
        coarse = rng.random((cells + 1, cells + 1), dtype=np.float32)
        total += np.float32(weight) * cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC)
        cells, weight = cells * 2, weight / decay
    low, high = float(total.min()), float(total.max())
    return np.asarray((total - low) / max(high - low, 1e-6))


@corruption("weather")
def fog(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Clouds added to everything, and the sum scaled back to the picture's own range."""
    amount = _at(image, severity, (0.2, 0.5, 0.75, 1.0, 1.5), (1.5, 2.0, 2.5, 2.5, 3.0))
    decay = _at(image, severity, (3, 3, 2.5, 2, 1.75), (2, 2, 1.7, 1.5, 1.4))
    x = _unit(image)
    most = max(float(x.max()), 1e-6)
    return _bytes((x + np.float32(amount) * _clouds(image.shape[:2], decay, rng)[..., None]) * (most / (most + amount)))


@corruption("weather")
def snow(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Flakes that fall aslant before a whitened picture."""
    i = severity - 1
    h, w = image.shape[:2]
    mean, threshold, kept = (
        _at(image, severity, small, large)
        for small, large in (
            ((0.1, 0.12, 0.25, 0.3, 0.35), (0.1, 0.2, 0.55, 0.55, 0.55)),
            ((0.6, 0.58, 0.58, 0.58, 0.55), (0.5, 0.5, 0.9, 0.85, 0.85)),
            ((0.95, 0.9, 0.9, 0.85, 0.8), (0.8, 0.7, 0.7, 0.65, 0.55)),
        )
    )
    size = _length(image, severity, (1, 1, 1.75, 2.25, 1.25), (3, 2, 4, 4.5, 2.5))
    flakes = _normal(rng, (math.ceil(h / size) + 1, math.ceil(w / size) + 1)) * np.float32(0.3) + np.float32(mean)
    layer = cv2.resize(flakes, None, fx=size, fy=size, interpolation=cv2.INTER_LINEAR)[:h, :w]
    layer = np.clip(np.where(layer < threshold, 0, layer), 0, 1).astype(np.float32)
    streak = _length(image, severity, (8, 10, 10, 12, 14), (10, 12, 12, 12, 12))
    kernel = _line(streak, (3, 4, 6, 8, 12)[i], math.radians(rng.uniform(-135, -45)))
    layer = cv2.filter2D(layer, -1, kernel, borderType=cv2.BORDER_REFLECT_101)[..., None]
    x = _unit(image)
    grey = cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)[..., None]
    whitened = np.float32(kept) * x + np.float32(1 - kept) * np.maximum(x, grey * 1.5 + 0.5)
    return _bytes(whitened + layer + np.ascontiguousarray(layer[::-1, ::-1]))


@corruption("weather")
def spatter(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Drops of water on the lens (severities 1 to 3), of mud (4 and 5)."""
    size = max(min(image.shape[:2]) / LARGE * (4.0, 3.5, 3.0, 3.5, 3.5)[severity - 1], 0.6)
    field = _blurred(_normal(rng, image.shape[:2]), size)
    field /= max(float(field.std()), 1e-6)
    covered = (0.04, 0.08, 0.14, 0.14, 0.24)[severity - 1]
    edge = float(np.quantile(field, 1 - covered))
    drops = np.clip((field - edge) * 3, 0, 1)[..., None]
    x = _unit(image)
    if severity <= 3:
        # lit from above: a drop is lighter where its surface rises
        slope = cv2.Sobel(drops[..., 0], cv2.CV_32F, 0, 1, ksize=3)[..., None]
        color = np.array([0.69, 0.93, 0.93], np.float32) + 0.4 * np.clip(slope, -1, 1)
        return _bytes(x + 0.75 * drops * (color - x))
    mud = np.array([63, 42, 20], np.float32) / 255
    return _bytes(x + np.minimum(drops * 1.5, 1) * (mud - x))


@corruption("weather")
def brightness(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Too much light: the value of HSV, raised."""
    amount = _at(image, severity, (0.05, 0.10, 0.15, 0.20, 0.30), (0.1, 0.2, 0.3, 0.4, 0.5))
    hsv = cv2.cvtColor(_unit(image), cv2.COLOR_RGB2HSV)
    hsv[..., 2] = np.clip(hsv[..., 2] + np.float32(amount), 0, 1)
    return _bytes(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


# --- digital ----------------------------------------------------------------------------------------------------------


@corruption("digital")
def contrast(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Drawn towards the mean colour."""
    kept = _at(image, severity, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05))
    x = _unit(image)
    mean = x.mean(axis=(0, 1), keepdims=True)
    return _bytes((x - mean) * np.float32(kept) + mean)


@corruption("digital")
def saturate(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Too little colour (severities 1 and 2), too much (3 to 5)."""
    times = _at(image, severity, (0.3, 0.1, 1.5, 2.0, 2.5), (0.3, 0.1, 2.0, 5.0, 20.0))
    more = (0.0, 0.0, 0.0, 0.1, 0.2)[severity - 1]
    hsv = cv2.cvtColor(_unit(image), cv2.COLOR_RGB2HSV)
    hsv[..., 1] = np.clip(hsv[..., 1] * np.float32(times) + np.float32(more), 0, 1)
    return _bytes(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


@corruption("digital", moves=True)
def elastic_transform(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Stretched here and there: by 0.8 to 2 % of the side (standard deviation), over 6 to 2.5 % of it."""
    h, w = image.shape[:2]
    side = min(h, w)
    smooth = side * (0.06, 0.05, 0.04, 0.03, 0.025)[severity - 1]
    strength = side * (0.008, 0.011, 0.014, 0.017, 0.020)[severity - 1]
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    moved = []
    for _ in range(2):
        field = _blurred(_normal(rng, (h, w)), smooth)
        moved.append(field * np.float32(strength / max(float(field.std()), 1e-6)))
    return _bytes(cv2.remap(_unit(image), x + moved[0], y + moved[1], cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT_101))


@corruption("digital")
def pixelate(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Made small, and large again without smoothing."""
    factor = _at(image, severity, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25))
    factor *= min(LARGE / min(image.shape[:2]), 1.0)
    h, w = image.shape[:2]
    small = cv2.resize(image, (max(1, round(w * factor)), max(1, round(h * factor))), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (w, h), interpolation=cv2.INTER_NEAREST)


@corruption("digital")
def jpeg_compression(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Through a JPEG file of low quality."""
    quality = round(_at(image, severity, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)))
    encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.ascontiguousarray(np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[..., ::-1])
