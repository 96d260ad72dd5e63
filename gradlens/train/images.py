"""The images of a training run in memory: decoded and resized once, as the 8-bit values that the resizing leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gradlens.data.image_set import ImageSet, decoded
from gradlens.data.preprocess import to_tensor
from gradlens.records import Preprocess, Skipped
from gradlens.runtime import Runtime
from gradlens.train.settings import Recipe


@dataclass(frozen=True)
class Images:
    """Labelled images in memory.

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


def in_memory(
    images: ImageSet, classes: Sequence[str], recipe: Recipe, side: int, runtime: Runtime
) -> tuple[Images, list[Skipped]]:
    """Decoded and resized as for inference, to ``side`` pixels, kept as the 8-bit values that the resizing leaves."""
    same = Preprocess((3, side, side), recipe.interpolation, 1.0, recipe.crop_mode, (0, 0, 0), (1, 1, 1))
    pixels = torch.empty(len(images), 3, side, side, dtype=torch.uint8)
    label = [classes.index(name) for name in images.classes or ()]
    kept: list[int] = []
    lost: list[Skipped] = []
    for i, image in decoded(images, runtime.workers, runtime):
        if isinstance(image, Skipped):
            lost.append(image)
            continue
        pixels[len(kept)] = (to_tensor(same, image) * 255).round().to(torch.uint8)
        kept.append(i)
    labels = torch.tensor([label[images.labels[i]] for i in kept], dtype=torch.int64)
    return Images(pixels[: len(kept)], labels), lost


def mean_and_std(images: Images) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Per-channel mean and standard deviation of all pixels, on a 0-1 scale, rounded to six places."""
    counts = torch.stack(
        [torch.bincount(images.pixels[:, c].flatten(), minlength=256) for c in range(3)]
    ).double()  # (3, 256): exact in integers, whatever the number of images
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts * values).sum(1) / counts.sum(1)
    std = ((counts * (values - mean[:, None]) ** 2).sum(1) / counts.sum(1)).sqrt().clamp(min=1 / 255)
    red, green, blue = (round(m, 6) for m in mean.tolist())
    s_red, s_green, s_blue = (round(s, 6) for s in std.tolist())
    return (red, green, blue), (s_red, s_green, s_blue)
