"""The images of a training run: decoded and resized once, kept as the 8-bit values that the resizing leaves.

They lie in memory, or in a file that the system pages in where memory is short.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gradlens.data.image_set import ImageSet, decoded
from gradlens.data.preprocess import to_pixels
from gradlens.errors import TrainingError
from gradlens.records import Preprocess, Skipped
from gradlens.runtime import Runtime, cache_dir, scratch
from gradlens.train.settings import Recipe


@dataclass(frozen=True)
class Images:
    """Labelled images, decoded.

    Attributes:
        pixels: (N, 3, S, S) uint8, RGB.
        labels: (N,) int64, class indices.
    """

    pixels: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4 or len(self.pixels) != len(self.labels):
            raise ValueError(
                f"expected (N, 3, S, S) uint8 pixels and N labels, got {self.pixels.dtype} "
                f"{tuple(self.pixels.shape)} and {len(self.labels)} labels"
            )

    def __len__(self) -> int:
        return len(self.labels)


def load_images(
    images: ImageSet, classes: Sequence[str], recipe: Recipe, side: int, runtime: Runtime
) -> tuple[Images, list[Skipped]]:
    """Decode the images of a set and resize them as for inference, to ``side`` pixels.

    Args:
        images: labelled.
        classes: what labels shall index; ``images`` may have them in another order.
        recipe: crop mode and interpolation.
        side: in pixels.
        runtime: decoding threads, progress.

    Returns:
        The images that could be decoded, in order, and those that could not.

    Raises:
        TrainingError: neither the memory nor the disk has room for them.
    """
    same = Preprocess((3, side, side), recipe.interpolation, 1.0, recipe.crop_mode, (0, 0, 0), (1, 1, 1))
    pixels = _room(images, side, runtime)
    label = [classes.index(name) for name in images.classes or ()]
    kept: list[int] = []
    lost: list[Skipped] = []
    for i, image in decoded(images, runtime.workers, runtime):
        if isinstance(image, Skipped):
            lost.append(image)
            continue
        pixels[len(kept)] = to_pixels(same, image)
        kept.append(i)
    labels = torch.tensor([label[images.labels[i]] for i in kept], dtype=torch.int64)
    return Images(pixels[: len(kept)], labels), lost


def _room(images: ImageSet, side: int, runtime: Runtime) -> torch.Tensor:
    """(N, 3, side, side) uint8, to be filled: in memory, or in an unnamed file where that would take half of it."""
    shape = len(images), 3, side, side
    need, free = math.prod(shape), free_memory()
    if need <= free / 2:
        return torch.empty(shape, dtype=torch.uint8)
    size = f"{len(images):,} images of {side} pixels take {need / 1e9:.1f} GB, {free / 1e9:.1f} GB of memory are free"
    try:
        pixels = scratch(shape, np.uint8, cache_dir())  # temporary folders are often kept in memory themselves
    except OSError as err:
        disk = shutil.disk_usage(cache_dir()).free / 1e9
        raise TrainingError(
            f"{images.location}: {size}, and {disk:.1f} GB on the disk of {cache_dir()}; lower cache_size or "
            "input_size, train on fewer images, or let GRADLENS_CACHE name a folder on a larger disk"
        ) from err
    runtime.say(f"{images.name}: {size}; they are kept in a file under {cache_dir()} until the run ends")
    return torch.from_numpy(pixels)


def free_memory() -> int:
    """Bytes that can be had without swapping, and no more than the control group may use; physical memory elsewhere."""
    try:
        table = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:  # not Linux
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError):  # Windows
            return sys.maxsize
    free = next(int(line.split()[1]) * 1024 for line in table.splitlines() if line.startswith("MemAvailable:"))
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # no control groups, or no limit ("max")
            free = min(free, int(Path(limit).read_text(encoding="ascii")))
    return free


def mean_and_std(images: Images) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Per-channel mean and standard deviation of all pixels, on a 0-1 scale, rounded to six places.

    Selection and test images have no part in it: the workflow hands in the training images alone.
    """
    counts = torch.zeros(3, 256, dtype=torch.int64)  # exact in integers, whatever the number of images
    for part in images.pixels.split(1024):  # they may lie on disk
        counts += torch.stack([torch.bincount(part[:, c].flatten(), minlength=256) for c in range(3)])
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts * values).sum(1) / counts.sum(1)
    std = ((counts * (values - mean[:, None]) ** 2).sum(1) / counts.sum(1)).sqrt().clamp(min=1 / 255)
    red, green, blue = (round(m, 6) for m in mean.tolist())
    s_red, s_green, s_blue = (round(s, 6) for s in std.tolist())
    return (red, green, blue), (s_red, s_green, s_blue)
