"""The zoo's own network: a small residual CNN that trains in minutes on two cores, at any input size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from gradlens.zoo.mirrored import MirrorBatchNorm2d, MirrorConv2d


class ConvBlock(nn.Sequential):
    """3×3 convolution, batch norm, ReLU: (N, in, H, W) -> (N, out, H/stride, W/stride).

    ``mirrored`` and ``lifts``: see :mod:`gradlens.zoo.mirrored`; mirrored ones have a stride of 1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, mirrored: bool = False, lifts: bool = False
    ) -> None:
        conv, norm = (
            (MirrorConv2d(in_channels, out_channels, lifts), MirrorBatchNorm2d(out_channels))
            if mirrored
            else (nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False), nn.BatchNorm2d(out_channels))
        )
        super().__init__(conv, norm, nn.ReLU())


class Residual(nn.Module):
    """``x + f(x)`` where f is two :class:`ConvBlock` of the same width."""

    def __init__(self, channels: int, mirrored: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(*(ConvBlock(channels, channels, mirrored=mirrored) for _ in range(2)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return x + self.body(x)


class CustomCNN(nn.Module):
    """A stem and three stages, each a convolution, a 2×2 max pool and a number of residual blocks.

    After D. Page's "How to train your ResNet" (2018): few wide layers keep two cores busier than many narrow ones.
    Unlike there, the head averages (a maximum would give all but one cell of a map a zero gradient), and its logits
    are not scaled by 1/8.

    Args:
        num_classes: K, outputs.
        widths: channels of the stem and of each stage.
        residuals: residual blocks in each stage.
        stem_stride: 1 keeps small images whole (CIFAR), 2 halves larger ones.
        dropout: before the classifier, while training.
        mirrored: the network sees an image and its mirror image alike (:mod:`gradlens.zoo.mirrored`); widths are even,
            the stem's stride is 1, and a layer has half the weights.
    """

    def __init__(
        self,
        num_classes: int,
        widths: Sequence[int] = (32, 64, 128, 256),
        residuals: Sequence[int] = (1, 0, 1),
        stem_stride: int = 1,
        dropout: float = 0.0,
        mirrored: bool = False,
    ) -> None:
        super().__init__()
        if len(residuals) != len(widths) - 1:
            raise ValueError(f"{len(widths)} widths need {len(widths) - 1} residuals, got {len(residuals)}")
        if mirrored and stem_stride != 1:
            raise ValueError(f"a mirrored network needs a stem_stride of 1, got {stem_stride}")
        self.stem = ConvBlock(3, widths[0], stem_stride, mirrored, lifts=True)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    ConvBlock(before, after, mirrored=mirrored),
                    nn.MaxPool2d(2),
                    *(Residual(after, mirrored) for _ in range(blocks)),
                )
                for before, after, blocks in zip(widths, widths[1:], residuals, strict=False)
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.halves = 2 if mirrored else 1
        self.num_features = widths[-1] // self.halves
        self.fc = nn.Linear(self.num_features, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, K) logits; H and W of at least ``stem_stride * 2**stages``."""
        x = self.stages(self.stem(x))
        features = self.pool(x).unflatten(1, (self.halves, -1)).mean(1).flatten(1)
        return self.fc(self.dropout(features))
