"""MixUp and CutMix: two images of a batch become one, and so do their labels; torchvision's, each batch seeded."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from gradlens.train.augment import derive_seed
from gradlens.train.settings import Mix


def batch_seed(seed: int, epoch: int, step: int) -> int:
    """The seed that a batch of an epoch is mixed under; ``step`` counts from 0."""
    return derive_seed(seed, epoch, use=4) + step


class Mixer:
    """What mixes a batch.

    Args:
        mix: what may happen; with both alphas given, each batch is mixed by one of the two, equally often.
        num_classes: K.
    """

    def __init__(self, mix: Mix, num_classes: int) -> None:
        self.num_classes, self.probability = num_classes, mix.probability
        self._ways: list[v2.Transform] = []
        if mix.mixup:
            self._ways.append(v2.MixUp(alpha=mix.mixup, num_classes=num_classes))
        if mix.cutmix:
            self._ways.append(v2.CutMix(alpha=mix.cutmix, num_classes=num_classes))

    @property
    def mixes(self) -> bool:
        """Whether any batch is mixed at all."""
        return bool(self._ways) and self.probability > 0

    def __call__(self, x: torch.Tensor, y: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix a batch; each image with the one before it (torchvision rolls the batch by one), all by the same share.

        Args:
            x: (N, 3, H, W) float, N of any size.
            y: (N,) int64, class indices.
            seed: of this batch; the same seed mixes the same way, and torch's own generator stays where it is.

        Returns:
            (N, 3, H, W), and the labels' shares (N, K) float32, rows summing to 1: what cross-entropy takes as a
            target. A batch that is not mixed has one-hot rows.
        """
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's CPU generator and takes no other
            torch.default_generator.manual_seed(seed)
            if self.mixes and float(torch.rand(())) < self.probability:
                way = self._ways[int(torch.randint(len(self._ways), ()))]
                mixed, shares = way(x, y)
                return mixed, shares.to(torch.float32)
        return x, F.one_hot(y, self.num_classes).to(torch.float32)
