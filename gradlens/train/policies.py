"""Learnt and random augmentation policies (AutoAugment and what followed it), one image at a time in worker processes.

The policies are torchvision's and timm's own. Both draw from global generators (torch's, Python's, NumPy's), so each
image is changed in a process whose generators were seeded from (seed, epoch, the image's index) just before: nothing
depends on the order of the batches, the number of processes, or on whether the run was interrupted.
"""

from __future__ import annotations

import os
import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data import auto_augment
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from gradlens.train.augment import derive_seed
from gradlens.train.settings import Recipe

_TORCHVISION: dict[str, Callable[[], v2.Transform]] = {
    "randaugment": v2.RandAugment,  # Cubuk et al. 2020: two operations of magnitude 9
    "autoaugment": v2.AutoAugment,  # Cubuk et al. 2019: the policy found on ImageNet
    "autoaugment-cifar10": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
    "autoaugment-svhn": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.SVHN),
    "trivialaugment": v2.TrivialAugmentWide,  # Müller & Hutter 2021
    "augmix": v2.AugMix,  # Hendrycks et al. 2020, without its consistency loss
}
# timm leaves out a section that it cannot read ("rand-m9-foo"), so the notation is checked here
_TIMM = re.compile(r"(rand|augmix|originalr?|v0r?|3a)(-((?!t)[a-z]+\d+(\.\d+)?|t(weights|3aw?)))*")


def transform(policy: str, side: int, mean: Sequence[float]) -> Callable[[Image.Image], Image.Image]:
    """What a policy's name stands for.

    Args:
        policy: see :class:`gradlens.train.settings.Augment`.
        side: of the images in pixels; timm's translations go by it.
        mean: of the training images, on a 0-1 scale: what timm fills empty corners with (torchvision's stay black).

    Raises:
        ValueError: no such policy.
    """
    if policy in _TORCHVISION:
        return _TORCHVISION[policy]()
    try:
        if not _TIMM.fullmatch(policy):
            raise ValueError("that is not its notation")
        # as timm's create_transform sets them
        settings: dict[str, Any] = {
            "translate_const": int(side * 0.45),
            "img_mean": tuple(min(255, round(255 * channel)) for channel in mean),
        }
        if policy.startswith("rand"):
            made = auto_augment.rand_augment_transform(policy, settings)
        elif policy.startswith("augmix"):
            made = auto_augment.augment_and_mix_transform(policy, settings | {"translate_pct": 0.3})
        else:
            made = auto_augment.auto_augment_transform(policy, settings)
    except (ValueError, AssertionError) as err:
        raise ValueError(
            f"expected {', '.join(_TORCHVISION)} or timm's notation, like rand-m9-mstd0.5-inc1, got {policy!r} ({err})"
        ) from err
    chains = made.policy if isinstance(made, auto_augment.AutoAugment) else [made.ops]
    for operation in (operation for chain in chains for operation in chain):
        if operation.aug_fn is auto_augment.posterize:
            operation.aug_fn = _posterize
    return made


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """timm's, for any number of bits: with none (the highest magnitude) Pillow 13 raises where it once made black."""
    if bits >= 8:
        return image
    return ImageOps.posterize(image, bits) if bits else Image.new(image.mode, image.size)


class _Changed(Dataset[np.ndarray]):
    """Images by index, each changed by a policy under its own seed. Seeds its process's generators: for workers."""

    def __init__(self, pixels: torch.Tensor, policy: Callable[[Image.Image], Image.Image], seed: int) -> None:
        self.pixels, self.policy, self.seed = pixels, policy, seed

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> np.ndarray:
        seed = derive_seed(self.seed, 0, index)
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        image = Image.fromarray(self.pixels[index].permute(1, 2, 0).numpy())
        return np.asarray(self.policy(image)).transpose(2, 0, 1)


def batches(
    pixels: torch.Tensor, order: Sequence[torch.Tensor], recipe: Recipe, epoch: int, workers: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of one epoch, changed by ``recipe.augment.policy`` where there is one, in the order asked for.

    Args:
        pixels: (n, 3, S, S) uint8, all training images.
        order: indices of each batch.
        recipe: with ``mean`` given.
        epoch: from 1.
        workers: processes that change images ahead; 0 takes one per core, at most 8. Without a policy there are none.

    Yields:
        (indices (N,), uint8 pixels (N, 3, S, S)).
    """
    if not recipe.augment.policy:
        for indices in order:
            yield indices, pixels[indices]
        return
    policy = transform(recipe.augment.policy, pixels.shape[-1], recipe.mean or (0.5, 0.5, 0.5))
    cores = os.cpu_count() or 1
    loader = DataLoader(
        _Changed(pixels, policy, derive_seed(recipe.seed, epoch, use=5)),
        batch_sampler=[indices.tolist() for indices in order],
        num_workers=min(workers or 8, cores),
        # a forked process sees the pixels as they lie, in memory or in a file; others are sent a copy of all
        multiprocessing_context="fork" if sys.platform == "linux" else None,
        collate_fn=np.stack,  # arrays come through a pipe; tensors need shared memory, of which containers have little
        generator=torch.Generator(),  # else it draws from torch's own, which dropout draws from
    )
    for indices, changed in zip(order, loader, strict=True):
        yield indices, torch.from_numpy(changed)
