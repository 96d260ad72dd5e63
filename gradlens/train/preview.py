"""The first batch of a run as its network will see it, for people to look at before they wait for the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from gradlens.train.augment import Augmenter, draw, order
from gradlens.train.images import Images
from gradlens.train.mix import Mixer, batch_seed
from gradlens.train.policies import batches
from gradlens.train.settings import Recipe


@dataclass(frozen=True)
class Preview:
    """Images of a batch, before and after augmentation.

    Attributes:
        originals: (N, 3, S, S) uint8, as they are kept.
        seen: (N, 3, s, s) float32, augmented, mixed and normalised: the network's input.
        shares: (N, K), how much each class counts in each image's target; one-hot rows without mixing.
    """

    originals: torch.Tensor
    seen: torch.Tensor
    shares: torch.Tensor


def first_batch(images: Images, recipe: Recipe, num_classes: int, workers: int = 0) -> Preview:
    """What the first step of :func:`gradlens.train.loop.train` is given.

    Args:
        images: the training images, at least ``recipe.batch_size``.
        recipe: with ``mean`` and ``std`` given.
        num_classes: K.
        workers: see :func:`gradlens.train.policies.batches`.
    """
    if recipe.mean is None or recipe.std is None:
        raise ValueError("the recipe needs mean and std; see mean_and_std")
    first = order(len(images), recipe.seed, 1)[: recipe.batch_size]
    ((_, changed),) = batches(images.pixels, [first], recipe, 1, workers)
    augment = Augmenter(recipe.augment, recipe.input_size, recipe.mean, recipe.std)
    seen, labels = augment(changed, draw(len(images), recipe.seed, 1)[first]), images.labels[first]
    mix = Mixer(recipe.mix, num_classes)
    if mix.mixes:
        seen, shares = mix(seen, labels, batch_seed(recipe.seed, 1, 0))
    else:
        shares = F.one_hot(labels, num_classes).to(torch.float32)
    return Preview(images.pixels[first], seen, shares)
