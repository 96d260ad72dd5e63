"""What an image file is apart from what it shows: native size, codec, compression, sharpness; and another image given
the same.

Headers are read here without decoding the picture; pixels come from :mod:`gradlens.data.decode` as everywhere.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, JpegImagePlugin

from gradlens.data.image_set import ImageSet
from gradlens.errors import InputError
from gradlens.runtime import plain_file

PIXELS = "pixels"
"""The codec of images that are stored as arrays."""

LOSSY_WEBP = 80  # a WebP file does not tell its quality; this is the default of Pillow and of most web servers
SHARP = 0.9  # share of the gradient energy below the frequency that is called an image's sharpness
WINDOW = 256  # pixels on a side of the middle that sharpness is measured on
LARGEST = 512  # pixels of the shorter side; no picture is enlarged beyond it, since no network sees more of it
NEAR = 0.02  # relative difference of aspect or sharpness that is none

# the luminance table of the JPEG standard's annex K, row by row, which quality scales
_ANNEX_K = np.array(
    [
        *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
        *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
        *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
        *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
    ]
)


@dataclass(frozen=True)
class Properties:
    """Of one image.

    Attributes:
        width, height: native, upright, in pixels.
        codec: ``JPEG``, ``PNG``, ... or :data:`PIXELS`.
        quality: of a JPEG, 1 to 100, see :func:`jpeg_quality`.
        tables: its quantisation tables; subsampling: as Pillow numbers it (0: 4:4:4, 1: 4:2:2, 2: 4:2:0).
        sharpness: see :func:`sharpness`; ``nan`` where it was not measured.
    """

    width: int
    height: int
    codec: str
    quality: int | None = None
    tables: tuple[tuple[int, ...], ...] = ()
    subsampling: int = -1
    sharpness: float = float("nan")

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.width / self.height


def properties_of(image_set: ImageSet, i: int) -> Properties:
    """Of image ``i`` of a set; decodes it for its sharpness.

    Raises:
        InputError: it cannot be read.
    """
    image = image_set.read(i)
    encoded = image_set.store.encoded(image_set.rows[i])
    sharp = sharpness(image)
    height, width = image.shape[:2]
    if isinstance(encoded, np.ndarray):
        return Properties(width, height, PIXELS, sharpness=sharp)
    codec, quality, tables, subsampling = _header(encoded, image_set.path(i))
    return Properties(width, height, codec, quality, tables, subsampling, sharp)


def _header(encoded: bytes | Path, name: str) -> tuple[str, int | None, tuple[tuple[int, ...], ...], int]:
    try:
        with Image.open(plain_file(encoded) if isinstance(encoded, Path) else io.BytesIO(encoded)) as image:
            codec = str(image.format)
            quantisation = getattr(image, "quantization", None)
            if codec not in ("JPEG", "MPO") or not quantisation:
                return codec, None, (), -1
            tables = tuple(tuple(int(v) for v in quantisation[k]) for k in sorted(quantisation))
            return "JPEG", jpeg_quality(tables[0]), tables, int(JpegImagePlugin.get_sampling(image))
    except (OSError, ValueError, SyntaxError) as err:
        raise InputError(f"{name}: expected an image whose header can be read: {err}") from err


def jpeg_quality(luminance: tuple[int, ...]) -> int:
    """The quality, 1 to 100, whose standard luminance table is nearest to this one.

    Exact for files of libjpeg and everything built on it (Pillow, OpenCV, most cameras' software); for tables of a
    maker's own (Photoshop) an equivalent.
    """
    return int(np.abs(_standard_tables() - np.asarray(luminance)).sum(axis=1)[::-1].argmin() * -1 + 100)


@cache
def _standard_tables() -> np.ndarray:
    """(100, 64), by quality from 1; libjpeg's ``jpeg_quality_scaling``."""
    quality = np.arange(1, 101)
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return np.asarray(np.clip((_ANNEX_K[None] * scale[:, None] + 50) // 100, 1, 255))


def sharpness(image: np.ndarray) -> float:
    """The frequency, as a share of the highest that pixels can show, below which nine tenths of the detail lie; (0, 1].

    Detail is the energy of the luminance's gradient in the middle of the picture: its spectrum times the squared
    frequency, which is about flat for photographs (Field 1987, "Relations between the statistics of natural images and
    the response properties of cortical cells"). A picture that was made larger, or compressed so that fine detail is
    gone, has less than its size promises. A picture of one colour has the value 1.
    """
    h, w = image.shape[:2]
    top, left = max(0, (h - WINDOW) // 2), max(0, (w - WINDOW) // 2)
    grey = cv2.cvtColor(np.ascontiguousarray(image[top : top + WINDOW, left : left + WINDOW]), cv2.COLOR_RGB2GRAY)
    grey = grey.astype(np.float64)
    rows, columns = grey.shape
    grey = (grey - grey.mean()) * np.hanning(rows + 2)[1:-1, None] * np.hanning(columns + 2)[None, 1:-1]
    power = np.abs(np.fft.rfft2(grey)) ** 2
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None]) * 2
    energy, at = (power * frequency**2).ravel(), frequency.ravel()
    total = float(energy.sum())
    if total <= 1e-9 * grey.size:
        return 1.0
    order = np.argsort(at, kind="stable")
    reached = np.cumsum(energy[order]) >= SHARP * total
    return min(1.0, float(at[order][reached.argmax()]))


# --- the same for another image ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Match:
    """What is done to one image so that it becomes like another; nothing where a field is ``None``.

    Attributes:
        size: (width, height) to bring it to, with mirrored margins that give it that aspect first.
        sharpness: to bring it down to.
        codec: (codec, tables, subsampling) to pass it through.
    """

    size: tuple[int, int] | None = None
    sharpness: float | None = None
    codec: tuple[str, tuple[tuple[int, ...], ...], int] | None = None

    @property
    def nothing(self) -> bool:
        return self.size is None and self.sharpness is None and self.codec is None


def match(own: Properties, wanted: Properties, *, sharp: bool) -> Match:
    """How an image gets the properties of another, as far as it can.

    Detail that is not there cannot be added: an image is passed through a JPEG of lower quality, not of higher, and
    made less sharp, not sharper (its size may grow, which adds no detail).
    """
    shrink = min(1.0, max(LARGEST, min(own.width, own.height)) / min(wanted.width, wanted.height))
    like = (max(1, round(wanted.width * shrink)), max(1, round(wanted.height * shrink)))
    size = like if like != (own.width, own.height) else None
    codec = None
    if wanted.codec == "JPEG" and wanted.quality is not None:
        if own.quality is None or wanted.quality < own.quality:
            codec = ("JPEG", wanted.tables, wanted.subsampling)
    elif wanted.codec in ("WEBP", "GIF") and own.codec != wanted.codec:
        codec = (wanted.codec, (), -1)
    less = sharp and wanted.sharpness < own.sharpness * (1 - NEAR)
    return Match(size, wanted.sharpness if less or (sharp and size is not None) else None, codec)


def matched(image: np.ndarray, how: Match) -> np.ndarray:
    """An image, brought to another's size, sharpness and codec: uint8 (H, W, 3)."""
    if how.size is not None:
        image = _sized(image, *how.size)
    if how.sharpness is not None:
        image = _softened(image, how.sharpness)
    if how.codec is not None:
        image = _recoded(image, *how.codec)
    return np.ascontiguousarray(image)


def _sized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    h, w = image.shape[:2]
    if abs(w / h / (width / height) - 1) > NEAR:
        # cut to the aspect it would lose what it shows, and squeezed its shapes
        more_w, more_h = max(0, round(h * width / height) - w), max(0, round(w * height / width) - h)
        left, top = more_w // 2, more_h // 2
        image = cv2.copyMakeBorder(image, top, more_h - top, left, more_w - left, cv2.BORDER_REFLECT)
    smaller = width * height < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def _softened(image: np.ndarray, wanted: float) -> np.ndarray:
    """Made smaller and large again, by the factor (found by halving) that leaves the wanted sharpness."""
    h, w = image.shape[:2]
    low, high = 0.05, 1.0
    best, off = image, sharpness(image) - wanted
    if off <= NEAR * wanted:
        return image
    for _ in range(7):
        factor = (low + high) / 2
        small = cv2.resize(image, (max(2, round(w * factor)), max(2, round(h * factor))), interpolation=cv2.INTER_AREA)
        again = cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC)
        more = sharpness(again) - wanted
        if abs(more) < abs(off):
            best, off = again, more
        low, high = (low, factor) if more > 0 else (factor, high)
    return best


def _recoded(image: np.ndarray, codec: str, tables: tuple[tuple[int, ...], ...], subsampling: int) -> np.ndarray:
    picture = Image.fromarray(np.ascontiguousarray(image))
    stream = io.BytesIO()
    if codec == "JPEG":
        used = [list(t) for t in tables]
        if len(used) == 1:  # a grey JPEG's
            used *= 2
        picture.save(stream, "JPEG", qtables=used, subsampling=max(subsampling, 0))
    elif codec == "WEBP":
        picture.save(stream, "WEBP", quality=LOSSY_WEBP)
    else:
        picture.convert("P", palette=Image.Palette.ADAPTIVE).save(stream, codec)
    with Image.open(stream) as file:
        return np.asarray(file.convert("RGB"))


@cache
def code_digest() -> str:
    """A hash of this file and of the versions of what it computes with."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for package in ("opencv-python", "numpy", "pillow"):
        digest.update(importlib.metadata.version(package).encode())
    return digest.hexdigest()


# --- a set's images with the properties of another's ------------------------------------------------------------------


def drawn_for(key: str, among: int, seed: int) -> int:
    """Which of so many is drawn for the image with this id: the same whatever other images there are."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "little") % among
