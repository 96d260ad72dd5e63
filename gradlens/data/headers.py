"""What an image file is before it is decoded: codec, native size, JPEG quality, and what readers disagree about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from gradlens.data.decode import opened, orientation

# ITU-T T.81, annex K, table K.1: what encoders scale by their "quality"
_LUMINANCE = np.array(
    [
        *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
        *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
        *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
        *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
    ]
)


@dataclass(frozen=True)
class Header:
    """An image file's native properties.

    Attributes:
        codec: as Pillow calls it (``JPEG``, ``PNG``), or ``array`` for pixels that came without a file.
        width, height: of the upright picture, in pixels.
        mode: how pixels are stored, as Pillow calls it: ``RGB``, ``L``, ``P``, ``CMYK``, ``I;16``.
        frames: more than 1 for animations.
        orientation: what EXIF says, from 1 (upright) to 8.
        jpeg_quality: 1 to 100; ``None`` for other codecs. See :func:`jpeg_quality`.
        size: of the file, in bytes.
    """

    codec: str
    width: int
    height: int
    mode: str
    frames: int
    orientation: int
    jpeg_quality: int | None
    size: int


def header(encoded: bytes | Path | np.ndarray, name: str) -> Header:
    """The header of what a store holds of an image.

    Raises:
        InputError: it is missing, no image, or its header is damaged.
    """
    if isinstance(encoded, np.ndarray):
        return Header("array", encoded.shape[1], encoded.shape[0], "RGB", 1, 1, None, encoded.nbytes)
    with opened(encoded, name) as image:
        width, height = _upright(image)
        return Header(
            codec=image.format or "",
            width=width,
            height=height,
            mode=image.mode,
            frames=_frames(image),
            orientation=orientation(image),
            jpeg_quality=jpeg_quality(image),
            size=len(encoded) if isinstance(encoded, bytes) else encoded.stat().st_size,
        )


def native_size(encoded: bytes | Path | np.ndarray, name: str) -> tuple[int, int]:
    """(width, height) of the upright picture alone: twenty times as fast as a whole :func:`header`.

    Raises:
        InputError: as :func:`header`.
    """
    if isinstance(encoded, np.ndarray):
        return encoded.shape[1], encoded.shape[0]
    with opened(encoded, name) as image:
        return _upright(image)


def _upright(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (width, height) if orientation(image) < 5 else (height, width)


def _frames(image: Image.Image) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # counting frames reads further into the file, and damaged ones raise anything
        return 1


def jpeg_quality(image: Image.Image) -> int | None:
    """The quality, 1 to 100, at which libjpeg would make the luminance table nearest to the file's; ``None`` elsewhere.

    Exact for files that libjpeg and its kin wrote; other encoders (cameras, Photoshop) have tables of their own.
    """
    tables = getattr(image, "quantization", None)
    if not tables:
        return None
    found = np.sort(np.asarray(tables[min(tables)]))  # sorted: versions of Pillow differ in the order
    scaled = [np.sort(_scaled(quality)) for quality in range(1, 101)]
    return 1 + int(np.argmin([np.abs(found - table).sum() for table in scaled]))


def _scaled(quality: int) -> np.ndarray:
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((_LUMINANCE * percent + 50) // 100).clip(1, 255)
