"""Builders of gradlens' own: the custom CNN, fastai's XResNeXt-34, and what timm's and torchvision's entry points
have no argument for.

Everything but the first two is the library's own class, handed narrower numbers. Replaced are the stems of networks
for 32-pixel images, Xception's fixed stem, and heads whose input width changes (VGG's pair of 4096-wide linear layers
would hold nine tenths of the weights).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from gradlens.errors import ModelError
from gradlens.registry import Registry
from gradlens.zoo.custom_cnn import ConvBlock, CustomCNN

BUILDERS: Registry[Callable[..., nn.Module]] = Registry("builder of gradlens")


@BUILDERS.register("custom_cnn")
def custom_cnn(num_classes: int, **arguments: Any) -> nn.Module:
    """:class:`~gradlens.zoo.custom_cnn.CustomCNN`."""
    return CustomCNN(num_classes, **arguments)


@BUILDERS.register("xresnext34")
def xresnext34(num_classes: int, **arguments: Any) -> nn.Module:
    """:func:`~gradlens.zoo.xresnext.xresnext` with ResNet-34's stages."""
    from gradlens.zoo.xresnext import xresnext

    return xresnext(num_classes, layers=(3, 4, 6, 3), **arguments)


def _scaled(channels: int, width: float) -> int:
    """``channels * width``, rounded to a multiple of eight (never below eight), as mobile networks do."""
    return max(8, int(channels * width / 8 + 0.5) * 8)


@BUILDERS.register("vgg")
def vgg(
    num_classes: int, channels: Sequence[int] = (32, 64, 128, 256, 256), depths: Sequence[int] = (1, 1, 2, 2, 2)
) -> nn.Module:
    """torchvision's VGG with batch norm, narrow, read out by global average pooling and one linear layer.

    The default depths are VGG-11's (Simonyan & Zisserman 2015, table 1, column A).

    Args:
        num_classes: K.
        channels: per resolution.
        depths: 3×3 convolutions per resolution; each group ends with a 2×2 max pool.
    """
    from torchvision.models.vgg import VGG, make_layers

    plan: list[str | int] = []
    for width, depth in zip(channels, depths, strict=True):
        plan += [width] * depth + ["M"]
    features = make_layers(plan, batch_norm=True)
    with torch.device("meta"):  # its own head is 120 million weights, made only to be replaced
        model = VGG(nn.Identity(), num_classes=num_classes, init_weights=False)
    model.features = features
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Linear(channels[-1], num_classes)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


@BUILDERS.register("googlenet")
def googlenet(num_classes: int, width: float = 0.5, dropout: float = 0.2) -> nn.Module:
    """torchvision's GoogLeNet with every branch at ``width``, without auxiliary heads."""
    from torchvision.models.googlenet import BasicConv2d, GoogLeNet, Inception, InceptionAux

    def conv(inputs: int, outputs: int, **kwargs: Any) -> nn.Module:
        return BasicConv2d(inputs if inputs == 3 else _scaled(inputs, width), _scaled(outputs, width), **kwargs)

    made: list[int] = []  # what each Inception block hands on: the sum of its branches, rounded one by one

    def inception(inputs: int, *branches: int) -> nn.Module:
        narrow = [_scaled(b, width) for b in branches]  # ch1x1, ch3x3red, ch3x3, ch5x5red, ch5x5, pool_proj
        block = Inception(made[-1] if made else _scaled(inputs, width), *narrow)
        made.append(narrow[0] + narrow[2] + narrow[4] + narrow[5])
        return block

    model = GoogLeNet(
        num_classes, aux_logits=False, init_weights=False, blocks=[conv, inception, InceptionAux], dropout=dropout
    )
    model.fc = nn.Linear(made[-1], num_classes)
    return model


@BUILDERS.register("efficientnet")
def efficientnet(
    num_classes: int, width: float = 0.5, depth: float = 0.5, dropout: float = 0.2, stochastic_depth: float = 0.0
) -> nn.Module:
    """torchvision's EfficientNet with B0's plan (Tan & Le 2019, table 1) scaled by ``width`` and ``depth``."""
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    stage = partial(MBConvConfig, width_mult=width, depth_mult=depth)
    plan = [  # expansion, kernel, stride, input, output, layers
        stage(1, 3, 1, 32, 16, 1),
        stage(6, 3, 2, 16, 24, 2),
        stage(6, 5, 2, 24, 40, 2),
        stage(6, 3, 2, 40, 80, 3),
        stage(6, 5, 1, 80, 112, 3),
        stage(6, 5, 2, 112, 192, 4),
        stage(6, 3, 1, 192, 320, 1),
    ]
    return EfficientNet(plan, dropout=dropout, stochastic_depth_prob=stochastic_depth, num_classes=num_classes)


@BUILDERS.register("xception")
def xception(
    num_classes: int, stem: Sequence[int] = (16, 32), channels: Sequence[int] = (48, 96, 160), middle: int = 3
) -> nn.Module:
    """timm's aligned Xception (Chen et al. 2018) with a narrow stem; timm's entry points fix the stem at 32 and 64.

    Args:
        num_classes: K.
        stem: channels of its two convolutions.
        channels: of the entry flow's three strided blocks; the exit flow widens the last by a half.
        middle: blocks of the middle flow.
    """
    from timm.layers import ConvNormAct
    from timm.models.xception_aligned import XceptionAligned

    last = channels[-1]
    exit_width = _scaled(last, 1.5)
    entry = [{"in_chs": i, "out_chs": o, "stride": 2} for i, o in zip((stem[1], *channels), channels, strict=False)]
    model = XceptionAligned(
        [
            *entry,
            *({"in_chs": last, "out_chs": last, "stride": 1} for _ in range(middle)),
            {"in_chs": last, "out_chs": (last, exit_width, exit_width), "stride": 2},
            {"in_chs": exit_width, "out_chs": exit_width, "stride": 1, "no_skip": True, "start_with_relu": False},
        ],
        num_classes=num_classes,
    )
    model.stem = nn.Sequential(
        ConvNormAct(3, stem[0], kernel_size=3, stride=2), ConvNormAct(stem[0], stem[1], kernel_size=3, stride=1)
    )
    return model


@BUILDERS.register("small_images")
def small_images(num_classes: int, of: str, **arguments: Any) -> nn.Module:
    """The network that another builder makes, for images of about 32 pixels: it keeps their resolution at first.

    The first convolution takes every pixel (stride 1, and 3×3 where it was larger), and the pooling that follows it
    before the next convolution goes: the stems of He et al. (2016, section 4.2) and of Huang et al. (2017, section 3)
    on CIFAR. Everything behind is as it was.

    Args:
        num_classes: K.
        of: a builder, such as ``timm:resnet18``.
        arguments: its arguments.

    Raises:
        ModelError: that network does not begin with a convolution of the image, or with one that cuts it into patches.
    """
    from gradlens.zoo.build import build

    model = build(of, arguments, num_classes)
    layers = [(name, m) for name, m in model.named_modules() if not any(m.children())]
    kinds = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
    spatial = [(name, m) for name, m in layers if isinstance(m, kinds)]
    first, stem = spatial[0] if spatial else ("", None)
    if not isinstance(stem, nn.Conv2d) or stem.in_channels != 3:
        raise ModelError(f"{of} does not begin with a convolution of the image; small_images has no stem for it")
    if stem.kernel_size == stem.stride:
        raise ModelError(f"{of} cuts the image into patches; a smaller patch_size serves it, not small_images")
    side = min(3, *stem.kernel_size)
    narrow = nn.Conv2d(3, stem.out_channels, side, padding=side // 2, bias=stem.bias is not None)
    nn.init.kaiming_normal_(narrow.weight, mode="fan_out", nonlinearity="relu")
    if narrow.bias is not None:
        nn.init.zeros_(narrow.bias)
    model.set_submodule(first, narrow)
    for name, layer in spatial[1:]:
        if isinstance(layer, nn.Conv2d):
            break
        model.set_submodule(name, nn.Identity())
    return model


@BUILDERS.register("vit_conv_stem")
def vit_conv_stem(
    num_classes: int, stem: Sequence[int] = (32, 64, 64, 128, 128), img_size: int = 32, **arguments: Any
) -> nn.Module:
    """timm's VisionTransformer whose patches are made by convolutions (Xiao et al. 2021, "Early Convolutions Help
    Transformers See Better"): on a small data set it learns in a few epochs what a plain patch projection does not.

    Args:
        num_classes: K.
        stem: channels of its 3×3 convolutions; one that is wider than the one before halves the sides. A 1×1
            convolution follows.
        img_size: side of the images in pixels.
        arguments: of timm's class (``embed_dim``, ``depth``, ``num_heads`` ...).
    """
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=img_size,
        patch_size=2 ** sum(after > before for before, after in pairwise(stem)),
        num_classes=num_classes,
        embed_layer=partial(ConvPatches, channels=tuple(stem)),  # timm calls it as a class
        **arguments,
    )


class ConvPatches(nn.Module):
    """(N, 3, H, W) -> (N, tokens, dim) by strided convolutions, as timm's patch embedding.

    Attributes:
        num_patches, grid_size, patch_size: read by timm's VisionTransformer.
    """

    def __init__(
        self, img_size: int, patch_size: int, in_chans: int, embed_dim: int, channels: Sequence[int], **_: Any
    ) -> None:
        super().__init__()
        self.img_size = (img_size, img_size)
        self.patch_size = (patch_size, patch_size)
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        layers: list[nn.Module] = [ConvBlock(in_chans, channels[0])]
        layers += [ConvBlock(a, b, stride=2 if b > a else 1) for a, b in pairwise(channels)]
        self.stem = nn.Sequential(*layers)
        self.project = nn.Conv2d(channels[-1], embed_dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, H * W / patch_size**2, dim)."""
        return self.project(self.stem(x)).flatten(2).transpose(1, 2)
