"""One decoder for training, scoring, maps and the app: the same file gives the same pixels everywhere.

Other readers differ on the same photograph (OpenCV rotates by EXIF, Pillow does not; Pillow clips 16-bit grey to white
and drops alpha; torchvision refuses animations), so nothing else in gradlens opens an image file. What is done is in
:data:`DECODE_POLICY`, which every card and run records.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from gradlens.errors import InputError

DECODE_POLICY = (
    "EXIF orientation applied; first frame of animations; alpha composited over white; 16 bits reduced to the upper 8; "
    "CMYK converted without its profile; colour profiles ignored"
)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF")
EXTENSIONS = frozenset(
    f".{ending}"
    for ending in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "avif"),
    )
)
PIXEL_LIMIT = 178_956_970  # twice Pillow's own warning threshold: half a gigabyte of RGB

_WHITE = (255, 255, 255, 255)
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# what people's folders really hold under an image's name, by its first bytes
_NOT_IMAGES = (
    (re.compile(rb"\s*(<!doctype html|<html|<head|<script)", re.I), "an HTML page (a download that failed?)"),
    (re.compile(rb"\s*<(\?xml|svg)", re.I), "XML or SVG, which has no pixels"),
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer (run: git lfs pull)"),
    (re.compile(rb".{4}ftyp(heic|heix|mif1|msf1|hevc)", re.S), "a HEIC photograph, which is not read; save it as JPEG"),
    (re.compile(rb"%PDF"), "a PDF"),
    (re.compile(rb"PK\x03\x04"), "a zip archive"),
    (re.compile(rb"\x1f\x8b"), "gzip-compressed data"),
    (re.compile(rb".{4}ftyp|\x1aE\xdf\xa3", re.S), "a video"),
)


def decode(source: bytes | Path, name: str) -> np.ndarray:
    """The pixels of an image file.

    Args:
        source: an encoded image, or where one lies.
        name: what error messages call it.

    Returns:
        uint8 array (H, W, 3), RGB, upright.

    Raises:
        InputError: it is missing, not an image, damaged, too large, or of a depth without a defined white.
    """
    with _opened(source, name) as stream, _strict_and_silent_pillow():
        image = _open(stream, name)
        try:
            image.load()
            return pixels_of(image, name)
        except InputError:
            raise
        except Exception as err:  # Pillow's plugins raise whatever damaged bytes lead them to
            raise InputError(
                f"{name}: expected a whole {image.format} image, but its data is damaged: {reason(err)}"
            ) from err


def pixels_of(image: Image.Image, name: str) -> np.ndarray:
    """An image that Pillow has opened, by the same policy: uint8 array (H, W, 3), RGB, upright.

    Raises:
        InputError: its values have no defined white.
    """
    upright = _TRANSPOSE.get(orientation(image))
    rgb = _to_rgb(image, name)
    return np.asarray(rgb.transpose(upright) if upright is not None else rgb)


@contextmanager
def opened(source: bytes | Path, name: str) -> Iterator[Image.Image]:
    """An image file whose header was read; nothing is decoded yet.

    Raises:
        InputError: as :func:`decode`, for what the header tells.
    """
    with _opened(source, name) as stream, _strict_and_silent_pillow():
        yield _open(stream, name)


def decode_mask(source: bytes | Path, name: str) -> np.ndarray:
    """An object mask: bool array (H, W), true where the mask image is lighter than mid-grey.

    Raises:
        InputError: as :func:`decode`.
    """
    return np.asarray(decode(source, name)[..., 1] > 127)


def reason(err: BaseException) -> str:
    """What another library's error says, on one line of bearable length; its type where it says nothing."""
    return " ".join(str(err).split())[:300] or type(err).__name__


def file_ending(source: bytes | Path) -> str:
    """The usual ending for the format of an image that decodes, such as ``".jpg"``."""
    with _opened(source, "image") as stream, _strict_and_silent_pillow():
        kind = _open(stream, "image").format or ""
    return {"JPEG": ".jpg", "MPO": ".jpg", "DIB": ".bmp", "TIFF": ".tif"}.get(kind, f".{kind.lower()}")


@contextmanager
def _opened(source: bytes | Path, name: str) -> Iterator[IO[bytes]]:
    if not isinstance(source, Path):
        yield BytesIO(source)
        return
    if source.is_dir():
        raise InputError(f"{name}: expected an image file, got a folder")
    if source.exists() and not source.is_file():
        raise InputError(f"{name}: expected an image file, got a device or pipe")
    try:
        stream = source.open("rb")
    except FileNotFoundError:
        raise InputError(f"{name}: expected an image file, but there is none of that name") from None
    except OSError as err:
        raise InputError(f"{name}: expected a readable image file, but the system refused: {err.strerror}") from err
    with stream:
        yield stream


def _open(stream: IO[bytes], name: str) -> Image.Image:
    """The header read, the size checked, nothing decoded yet."""
    start = stream.read(64)
    if not start:
        raise InputError(f"{name}: expected an image, but the file is empty (0 bytes)")
    stream.seek(0)
    try:
        image = Image.open(stream, formats=FORMATS)
        width, height = image.size
    except Image.DecompressionBombError as err:
        raise InputError(f"{name}: expected at most {PIXEL_LIMIT:,} pixels: {reason(err)}") from None
    except UnidentifiedImageError:
        what = next((what for pattern, what in _NOT_IMAGES if pattern.match(start)), None)
        got = what or f"something else (it starts with {start[:8]!r})"
        raise InputError(f"{name}: expected an image ({', '.join(FORMATS)}), got {got}") from None
    except Exception as err:  # as above: plugins raise anything on damaged headers
        raise InputError(f"{name}: expected an image, but its header is damaged: {reason(err)}") from err
    if width * height > PIXEL_LIMIT:
        raise InputError(
            f"{name}: expected at most {PIXEL_LIMIT:,} pixels, got {width} x {height} = {width * height:,}; "
            "make a smaller copy"
        )
    return image


def orientation(image: Image.Image) -> int:
    """What EXIF says about how the picture is to be turned, from 1 (upright) to 8."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # EXIF written by broken software: the picture itself is fine, and upright for all we know
        return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG")):
        deep = np.asarray(image).astype(np.int64)
        grey = (deep >> 8).clip(0, 255).astype(np.uint8)
        if isinstance(image.info.get("transparency"), int):
            grey[deep == image.info["transparency"]] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise InputError(f"{name}: expected 8 or 16 bits per channel, got {kind} values, which have no defined white")
    if image.mode in ("La", "RGBa"):  # premultiplied alpha
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, _WHITE), rgba).convert("RGB")
    return image.convert("RGB")


_FILTER = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_switching = threading.Lock()
_holding_filter: list[list[tuple[object, ...]]] = []
_tolerant = False
_users = 0


@contextmanager
def _strict_and_silent_pillow() -> Iterator[None]:
    """While any thread decodes, Pillow warns of nothing and refuses truncated files; afterwards all is as before.

    Both are switches of the whole process. ``warnings.catch_warnings`` swaps the list of filters and is not safe with
    threads: two of them that overlap can leave the wrong list behind for good. Here one entry is put into the list in
    force and taken out of the same. ``LOAD_TRUNCATED_IMAGES``, which some libraries set, would give grey pixels for
    missing ones.
    """
    global _users, _tolerant
    with _switching:
        if not _users:
            _tolerant, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
        _users += 1
        current: list[tuple[object, ...]] = warnings.filters  # type: ignore[assignment]
        if _FILTER not in current:
            current.insert(0, _FILTER)
            _holding_filter.append(current)
    try:
        yield
    finally:
        with _switching:
            _users -= 1
            if not _users:
                ImageFile.LOAD_TRUNCATED_IMAGES = _tolerant
                for filters in _holding_filter:
                    if _FILTER in filters:
                        filters.remove(_FILTER)
                _holding_filter.clear()
