"""The zoo's architectures: one line each. Recipes refer to them by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gradlens.registry import Registry


@dataclass(frozen=True)
class Architecture:
    """A builder, its arguments, and how it trains fastest on a CPU.

    Attributes:
        builder, arguments: see :func:`gradlens.zoo.build.build`.
        input_size: (3, H, W).
        precision: of the training passes that was measured to be fastest on two cores with AVX-512 bf16.
        channels_last: whether that memory format was faster with it.
    """

    builder: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    input_size: tuple[int, int, int] = (3, 96, 96)
    precision: str = "bf16"
    channels_last: bool = True


ARCHITECTURES: Registry[Architecture] = Registry("architecture")


def _add(name: str, builder: str, *, size: int = 96, fast: str = "bf16 channels_last", **arguments: Any) -> None:
    precision, _, layout = fast.partition(" ")
    ARCHITECTURES.register(name)(
        Architecture(builder, arguments, (3, size, size), precision, layout == "channels_last")
    )


# timm's builders are preferred where their arguments reach: timm itself can then load the checkpoint folder.
# `fast` was measured for each on a CPU with AVX-512 bf16, a training step of 32 images, best of four combinations.
_add("custom_cnn", "gradlens:custom_cnn", widths=[16, 32, 64, 160], residuals=[0, 1, 1], stem_stride=2)
_add("resnet", "timm:resnet18", channels=[24, 48, 96, 192])
_add("wide_resnet", "timm:wide_resnet50_2", layers=[1, 1, 2, 1], channels=[16, 32, 64, 128])
_add("densenet", "timm:densenet121", growth_rate=16, block_config=[3, 4, 6, 4])
_add("convnext", "timm:convnext_atto", depths=[2, 2, 4, 2], dims=[24, 48, 96, 192])
_add(
    "swin",
    "timm:swin_tiny_patch4_window7_224",
    img_size=96,
    window_size=6,
    embed_dim=32,
    depths=[2, 2, 2, 2],
    num_heads=[1, 2, 4, 8],
)
_add(
    "vit",
    "timm:vit_tiny_patch16_224",
    fast="fp32 channels_last",
    img_size=96,
    patch_size=12,
    embed_dim=96,
    depth=6,
    num_heads=3,
)
_add("mobilenet", "timm:mobilenetv2_035", fast="fp32 channels_last")
_add("efficientnet", "gradlens:efficientnet", fast="fp32 channels_last", width=0.5, depth=0.5)
_add("googlenet", "gradlens:googlenet", width=0.5)
_add("shufflenet", "torchvision:shufflenet_v2_x0_5", fast="fp32 channels_last")
_add("mnasnet", "timm:mnasnet_small", fast="fp32 channels_last")
_add("xception", "gradlens:xception", channels=[32, 64, 128], middle=2)
_add("vgg", "gradlens:vgg", channels=[16, 32, 64, 128, 128])

# For 32 pixels; none is above 3 million parameters.
_add(
    "cifar10/custom_cnn",
    "gradlens:custom_cnn",
    size=32,
    widths=[64, 160, 256, 328],
    residuals=[1, 1, 1],
    mirrored=True,
)
_add(
    "cifar10/resnet",
    "gradlens:small_images",
    size=32,
    of="timm:resnet18",
    layers=[1, 1, 1, 1],
    channels=[24, 48, 128, 256],
)
_add(
    "cifar10/densenet",
    "gradlens:small_images",
    size=32,
    of="timm:densenet121",
    growth_rate=16,
    block_config=[3, 5, 7],
    bn_size=2,
)
_add("cifar10/vgg", "gradlens:vgg", size=32, channels=[24, 64, 128, 256, 256], depths=[1, 1, 2, 2, 1])
_add(
    "cifar10/vit",
    "gradlens:vit_conv_stem",
    size=32,
    fast="bf16",
    embed_dim=192,
    depth=4,
    num_heads=3,
    class_token=False,
    global_pool="avg",
)
_add(
    "cifar10/convnext",
    "timm:convnext_atto",
    size=32,
    patch_size=2,
    depths=[2, 2, 4, 2],
    dims=[24, 48, 96, 192],
)
_add("cifar10/mobilenet", "gradlens:small_images", size=32, fast="fp32 channels_last", of="timm:mobilenetv2_035")
_add(
    "cifar10/efficientnet",
    "gradlens:small_images",
    size=32,
    fast="fp32 channels_last",
    of="gradlens:efficientnet",
    width=0.35,
    depth=0.35,
)
_add("cifar10/mnasnet", "gradlens:small_images", size=32, fast="fp32 channels_last", of="timm:mnasnet_small")
_add(
    "cifar10/shufflenet",
    "gradlens:small_images",
    size=32,
    fast="fp32 channels_last",
    of="torchvision:shufflenet_v2_x0_5",
)
_add(
    "cifar10/xception",
    "gradlens:small_images",
    size=32,
    fast="fp32 channels_last",
    of="gradlens:xception",
    channels=[32, 64, 128],
    middle=1,
)
