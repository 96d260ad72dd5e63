"""fastai's XResNeXt, which neither timm nor torchvision has: timm's ResNet with a grouped basic block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models.resnet import BasicBlock, ResNet
from torch import nn


class GroupedBasicBlock(BasicBlock):
    """A basic block whose first 3×3 convolution is grouped and wider (timm's refuses both; ResNeXt's bottleneck is
    another block). In fastai it is ``SEResNeXtBlock`` with expansion 1 and no squeeze-and-excitation."""

    def __init__(
        self, inplanes: int, planes: int, stride: int = 1, *args: Any, cardinality: int, base_width: int, **kwargs: Any
    ) -> None:
        super().__init__(inplanes, planes, stride, *args, **kwargs)
        width = planes * base_width // 64 * cardinality
        self.conv1 = nn.Conv2d(inplanes, width, 3, stride, padding=1, groups=cardinality, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, planes, 3, padding=1, bias=False)


def xresnext(num_classes: int, layers: Sequence[int], cardinality: int = 32, base_width: int = 4) -> nn.Module:
    """Three 3×3 convolutions as stem, averaging on the way past a strided block (He et al. 2019, "Bag of Tricks"),
    grouped basic blocks; weights drawn as timm draws a ResNet's.

    Args:
        num_classes: K.
        layers: blocks per stage; (3, 4, 6, 3) is fastai's ``xresnext34``.
        cardinality: groups of each block's first convolution.
        base_width: channels per group in the first stage; that convolution makes ``planes / 64 * base_width *
            cardinality`` channels.
    """
    return ResNet(
        GroupedBasicBlock,  # type: ignore[arg-type]  # timm names its two blocks where any would do
        tuple(layers),
        num_classes=num_classes,
        cardinality=cardinality,
        base_width=base_width,
        stem_type="deep",
        stem_width=32,
        avg_down=True,
    )
