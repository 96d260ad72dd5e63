"""From a decoded image to a network's input, and back: which part of the image did the network see?

The geometry is that of timm's evaluation transform (``timm.data.create_transform``): resize so that the crop keeps
``crop_pct`` of the resized image, then crop the middle. Resizing is torchvision's, antialiased, on 8-bit values.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from gradlens.records import Preprocess

# a 1 x 5,000 strip resized to a short side of 224 pixels would be a million pixels long, of which 224 are kept
ASPECT_LIMIT = 16


def to_tensor(preprocess: Preprocess, image: np.ndarray) -> torch.Tensor:
    """The network's input for one image.

    Args:
        preprocess: the model's.
        image: uint8 (H, W, 3), RGB.

    Returns:
        float32 (3, h, w), ``preprocess.size``, normalised.
    """
    return normalised(preprocess, to_pixels(preprocess, image))


def to_pixels(preprocess: Preprocess, image: np.ndarray) -> torch.Tensor:
    """The part of an image that the network sees, at its size: uint8 (3, h, w), a quarter of :func:`to_tensor`'s bytes.

    Args:
        preprocess: the model's.
        image: uint8 (H, W, 3), RGB.
    """
    image = _trimmed(preprocess, image)
    pixels = torch.from_numpy(np.ascontiguousarray(image).copy()).permute(2, 0, 1)  # (3, H, W)
    rows, columns = resized_size(preprocess, *image.shape[:2])
    mode = InterpolationMode.BICUBIC if preprocess.interpolation == "bicubic" else InterpolationMode.BILINEAR
    pixels = tv.resize(pixels, [rows, columns], interpolation=mode, antialias=True)  # (3, rows, columns), uint8
    top, left = _anchor(preprocess, rows, columns)
    height, width = preprocess.size
    return pixels[:, top : top + height, left : left + width].contiguous()


def normalised(preprocess: Preprocess, pixels: torch.Tensor) -> torch.Tensor:
    """A network's input from what :func:`to_pixels` gives: float32, on the device the pixels are on.

    Args:
        preprocess: the model's.
        pixels: uint8 (..., 3, h, w).
    """
    mean = torch.tensor(preprocess.mean, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(preprocess.std, device=pixels.device).view(3, 1, 1)
    return (pixels.to(torch.float32) / 255 - mean) / std


def crop_box(preprocess: Preprocess, height: int, width: int) -> tuple[float, float, float, float]:
    """The part of an image that the network sees: (top, left, bottom, right) in pixels of the original.

    Pixel ``i`` covers ``[i, i + 1)``, so the whole image is ``(0, 0, height, width)``.
    """
    trim_top, trim_left, kept_height, kept_width = _trim(preprocess, height, width)
    rows, columns = resized_size(preprocess, kept_height, kept_width)
    top, left = _anchor(preprocess, rows, columns)
    down, across = kept_height / rows, kept_width / columns  # original pixels per resized pixel
    return (
        trim_top + top * down,
        trim_left + left * across,
        trim_top + (top + preprocess.size[0]) * down,
        trim_left + (left + preprocess.size[1]) * across,
    )


def view(preprocess: Preprocess, image: np.ndarray) -> np.ndarray:
    """The part of an image that the network sees, at the original's resolution: what a map is laid over.

    Args:
        preprocess: the model's.
        image: uint8 (H, W, 3).

    Returns:
        uint8 (h, w, 3), at least one pixel: :func:`crop_box` rounded to whole pixels.
    """
    height, width = image.shape[:2]
    top, left, bottom, right = crop_box(preprocess, height, width)
    first_row, first_column = min(round(top), height - 1), min(round(left), width - 1)
    return image[first_row : max(round(bottom), first_row + 1), first_column : max(round(right), first_column + 1)]


def resized_size(preprocess: Preprocess, height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of the whole image after resizing, before the crop; at least ``preprocess.size``."""
    rows, columns = (math.floor(side / preprocess.crop_pct) for side in preprocess.size)
    if preprocess.crop_mode == "squash":
        return rows, columns
    if rows == columns:  # torchvision's rule for one number: the long side is cut to a whole number
        if height <= width:
            return rows, int(rows * width / height)
        return int(rows * height / width), rows
    ratio = min(height / rows, width / columns)  # timm's ResizeKeepRatio
    return round(height / ratio), round(width / ratio)


def _anchor(preprocess: Preprocess, rows: int, columns: int) -> tuple[int, int]:
    """Top left corner of the middle crop, rounded as torchvision rounds it."""
    return round((rows - preprocess.size[0]) / 2), round((columns - preprocess.size[1]) / 2)


def _trim(preprocess: Preprocess, height: int, width: int) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the part worth resizing: all of it, but for strips of extreme aspect ratio."""
    if preprocess.crop_mode == "squash":
        return 0, 0, height, width
    aspect = ASPECT_LIMIT * max(preprocess.size) / min(preprocess.size)
    keep_height, keep_width = (min(a, math.ceil(b * aspect)) for a, b in ((height, width), (width, height)))
    # the same parity as the original, so that the middle stays where it is
    keep_height -= (height - keep_height) % 2
    keep_width -= (width - keep_width) % 2
    keep_height, keep_width = max(keep_height, 1), max(keep_width, 1)
    return (height - keep_height) // 2, (width - keep_width) // 2, keep_height, keep_width


def _trimmed(preprocess: Preprocess, image: np.ndarray) -> np.ndarray:
    top, left, height, width = _trim(preprocess, *image.shape[:2])
    return image[top : top + height, left : left + width]
