"""What the shift playground can do to a picture: corruptions that gradlens measures with, and three more.

Darkness, crop and surroundings have constants of their own; the others are :mod:`gradlens.data.corruptions`, at the
same five severities. Nothing here moves a score anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from gradlens.app.looking import Photo
from gradlens.data.corruptions import SEVERITIES, corrupt
from gradlens.registry import Registry

MOST = max(SEVERITIES)
SIDE = 448  # pixels: the shorter side of what is changed; some corruptions take seconds on a camera's full size


@dataclass(frozen=True)
class Change:
    """Something that may happen to a picture on its way to a model.

    Attributes:
        title: as the page lists it.
        what: one sentence about it.
        apply: (uint8 (H, W, 3), severity 1 to 5, key of the picture) -> uint8 (h, w, 3).
    """

    title: str
    what: str
    apply: Callable[[np.ndarray, int, str], np.ndarray]


CHANGES: Registry[Change] = Registry("change")


def _file(
    name: str, title: str, what: str
) -> Callable[[Callable[[np.ndarray, int], np.ndarray]], Callable[..., object]]:
    def file(function: Callable[[np.ndarray, int], np.ndarray]) -> Callable[..., object]:
        CHANGES.register(name)(Change(title, what, lambda image, severity, _: function(image, severity)))
        return function

    return file


def _corruption(name: str, title: str, what: str) -> None:
    CHANGES.register(name)(Change(title, what, lambda image, severity, key: corrupt(image, name, severity, key)))


_corruption("defocus_blur", "Blur", "Out of focus: a disk-shaped kernel.")
_corruption("jpeg_compression", "JPEG", "Saved as a JPEG of low quality.")


@_file("crop", "Crop", "Only the middle of the picture, enlarged: 90 to 40 % of its sides.")
def crop(image: np.ndarray, severity: int) -> np.ndarray:
    """The middle 90, 75, 60, 50 or 40 % of each side."""
    kept = (0.9, 0.75, 0.6, 0.5, 0.4)[severity - 1]
    height, width = image.shape[:2]
    rows, columns = max(1, round(kept * height)), max(1, round(kept * width))
    top, left = (height - rows) // 2, (width - columns) // 2
    return image[top : top + rows, left : left + columns]


@_file("night", "Night", "A half to a twentieth of the light, tinted blue, without the noise that a camera would add.")
def night(image: np.ndarray, severity: int) -> np.ndarray:
    """Linear light times 0.5, 0.3, 0.18, 0.1 or 0.05, red and green a little less than blue."""
    kept = (0.5, 0.3, 0.18, 0.1, 0.05)[severity - 1]
    tint = np.array([0.75, 0.85, 1.0]) ** (severity / MOST)
    levels = np.arange(256) / 255
    # out of sRGB's transfer curve and back; a power of 2.2 comes close enough for the eye
    table = np.stack([255 * (levels**2.2 * kept * t) ** (1 / 2.2) for t in tint], -1)
    return np.stack([np.rint(table[:, c]).astype(np.uint8)[image[..., c]] for c in range(3)], -1)


_corruption("gaussian_noise", "Noise", "Normal noise on every value, as of a sensor in low light.")


@_file("surroundings", "Context", "What lies outside an ellipse in the middle fades into the picture's mean colour.")
def surroundings(image: np.ndarray, severity: int) -> np.ndarray:
    """Outside an ellipse of 95, 80, 65, 50 or 40 % of the sides: the mean colour, with a soft edge."""
    kept = (0.95, 0.8, 0.65, 0.5, 0.4)[severity - 1]
    height, width = image.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    outside = np.clip((np.hypot(x, y) - kept) / 0.15 + 0.5, 0, 1)[..., None]
    mean = image.reshape(-1, 3).mean(0)
    return np.rint(image * (1 - outside) + mean * outside).astype(np.uint8)


_corruption("motion_blur", "Motion", "The camera moved while the shutter was open.")
_corruption("fog", "Fog", "Clouds of white over everything.")
_corruption("snow", "Snow", "Flakes that fall aslant before a whitened picture.")
_corruption("contrast", "Contrast", "Drawn towards the mean colour.")
_corruption("pixelate", "Pixelate", "Made small, and large again without smoothing.")
_corruption("elastic_transform", "Stretch", "Stretched here and there.")


def base(photo: Photo) -> Photo:
    """The picture at the size that changes work on: its shorter side at most :data:`SIDE` pixels."""
    height, width = photo.pixels.shape[:2]
    factor = SIDE / min(height, width)
    if factor >= 1:
        return photo
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return Photo(cv2.resize(photo.pixels, size, interpolation=cv2.INTER_AREA), f"{photo.key}/{SIDE}")


def changed(photo: Photo, name: str, severity: int) -> Photo:
    """A picture after something happened to it; itself at severity 0. The same pixels every time.

    Args:
        photo: see :func:`base`.
        name: of one of :data:`CHANGES`.
        severity: 0 to 5.

    Raises:
        NotFoundError: no such change.
        ValueError: no such severity.
    """
    change = CHANGES[name]
    if severity not in (0, *SEVERITIES):
        raise ValueError(f"severity must be 0 to {MOST}, got {severity}")
    if not severity:
        return photo
    pixels = np.ascontiguousarray(change.apply(photo.pixels, severity, photo.key))
    return replace(photo, pixels=pixels, key=f"{photo.key}/{name}-{severity}")
