"""Small pictures of a page: photographs as WebP tiles, and many grey maps packed into one sheet."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gradlens.errors import InputError
from gradlens.runtime import plain_file

Box = tuple[int, int, int, int]
"""Where a map lies in its sheet: (left, top, width, height) in pixels."""

_NARROWEST = 256  # pixels: the least width of a sheet, so that small maps share rows


def photograph(pixels: np.ndarray, longest: int, quality: int = 78) -> bytes:
    """A photograph as a WebP file of at most ``longest`` pixels a side; a smaller one keeps its size.

    Args:
        pixels: uint8 (H, W, 3), RGB.
    """
    image = Image.fromarray(pixels)
    if max(image.size) > longest:
        scale = longest / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=quality, method=6)
    return stream.getvalue()


def in_8_bits(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values between ``low`` and ``high`` as whole numbers from 0 to 255; what lies outside is clipped.

    Raises:
        ValueError: ``high`` is not above ``low``.
    """
    if not low < high:
        raise ValueError(f"expected a range, got {low:g} to {high:g}")
    share = (values.astype(np.float64) - low) / (high - low)
    return np.asarray(np.rint(255 * share.clip(0, 1)).astype(np.uint8))


def packed(maps: Sequence[np.ndarray]) -> tuple[bytes, list[Box]]:
    """Maps side by side in one greyscale PNG, and where each of them lies; equal sizes share rows.

    One file, because a hundred small ones would be headers for the most part.

    Args:
        maps: at least one uint8 (rows, columns), of any sizes.
    """
    if not maps:
        raise ValueError("expected at least one map")
    cells = sum(m.size for m in maps)
    width = max(_NARROWEST, math.isqrt(cells), *(m.shape[1] for m in maps))
    boxes: dict[int, Box] = {}
    left = top = deepest = 0
    for i in sorted(range(len(maps)), key=lambda i: (-maps[i].shape[0], -maps[i].shape[1], i)):
        rows, columns = maps[i].shape
        if left + columns > width:
            left, top, deepest = 0, top + deepest, 0
        boxes[i] = (left, top, columns, rows)
        left, deepest = left + columns, max(deepest, rows)
    sheet = np.zeros((top + deepest, width), np.uint8)
    for i, (x, y, columns, rows) in boxes.items():
        sheet[y : y + rows, x : x + columns] = maps[i]
    stream = io.BytesIO()
    Image.fromarray(sheet).save(stream, "PNG", optimize=True)
    return stream.getvalue(), [boxes[i] for i in range(len(maps))]


def unpacked(path: Path, box: Sequence[int]) -> np.ndarray:
    """One map of a sheet, as it went in: uint8 (rows, columns).

    Raises:
        InputError: the sheet cannot be read, or has nothing there.
    """
    try:
        with Image.open(plain_file(path)) as file:
            sheet = np.asarray(file.convert("L"))
    except (OSError, ValueError, SyntaxError) as err:
        raise InputError(f"{path} is no picture that can be read: {err}") from err
    left, top, width, height = box
    found = sheet[top : top + height, left : left + width]
    if found.shape != (height, width):
        raise InputError(f"{path} is {sheet.shape[1]} x {sheet.shape[0]} pixels and has no map at {list(box)}")
    return found


def data_uri(path: Path) -> str:
    """A PNG or WebP file as the address of an image inside a page.

    Raises:
        InputError: the file is missing or of another kind.
    """
    kinds = {b"\x89PNG": "png", b"RIFF": "webp"}
    try:
        content = plain_file(path).read_bytes()
    except OSError as err:
        raise InputError(f"{path}: expected a picture of this run, but the system refused: {err.strerror}") from err
    kind = kinds.get(content[:4])
    if kind is None:
        raise InputError(f"{path}: expected a PNG or WebP picture, got something else; run the evaluation again")
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
