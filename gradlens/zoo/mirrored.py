"""Layers that see an image and its mirror image alike: equivariance under left-right reflection.

Group convolutions of Cohen & Welling 2016 ("Group equivariant convolutional networks") for the group of two elements,
{identity, left-right mirror}; on natural images Weiler & Cesa 2019 ("General E(2)-equivariant steerable CNNs", D1)
found such networks to err less than plain ones with as many weights. Channels come in two halves: those of the second
show in the mirrored image what those of the first show in the image, mirrored. Each layer keeps that true, so averaging
over both halves at the end makes scores that do not change when the image is mirrored, and class activation maps that
are mirrored with it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class MirrorConv2d(nn.Module):
    """A 3×3 convolution without bias whose second half of outputs is the first's mirror image: half the weights.

    It moves by single pixels: a stride of 2 would meet other pixels from the right than from the left.

    Args:
        in_channels: of the input; in two halves, unless ``lifts``.
        out_channels: in two halves.
        lifts: the input is an image, whose channels have no halves.
    """

    def __init__(self, in_channels: int, out_channels: int, lifts: bool = False) -> None:
        super().__init__()
        if out_channels % 2 or (in_channels % 2 and not lifts):
            raise ValueError(f"channels in two halves must be even, got {in_channels} and {out_channels}")
        self.weight = nn.Parameter(torch.empty(out_channels // 2, in_channels, 3, 3))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # as torch.nn.Conv2d
        self.lifts = lifts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in, H, W) -> (N, out, H, W)."""
        swapped = self.weight if self.lifts else torch.cat(self.weight.chunk(2, 1)[::-1], 1)
        return F.conv2d(x, torch.cat([self.weight, swapped.flip(-1)]), padding=1)


class MirrorBatchNorm2d(nn.Module):
    """Batch norm with one mean, variance, scale and shift for a channel and its mirror image: (N, C, H, W) -> the same.

    Args:
        channels: C, in two halves.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The halves are laid side by side along the width: with channels last, that moves nothing in memory."""
        beside = x.movedim(1, -1).unflatten(-1, (2, -1)).flatten(2, 3).movedim(-1, 1)  # (N, C/2, H, 2W)
        return self.norm(beside).movedim(1, -1).unflatten(2, (-1, 2)).flatten(3).movedim(-1, 1)
