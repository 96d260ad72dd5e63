"""A small CNN for 32-pixel images that gets far in few epochs: its first filters are not learnt but computed.

After K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024), with residual connections as in its larger
networks; the head averages, so that every cell of a map has a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import SqueezeExcitation

EPSILON = 5e-4
"""Added to the variance of a patch's components before they are scaled to one: the weakest are little but noise."""


class WhitenedConv(nn.Module):
    """A convolution with fixed filters, each there twice with opposite signs, and a bias that learns.

    (N, C, H, W) -> (N, 2 · C · side², H - side + 1, W - side + 1). :meth:`whiten` computes the filters: the principal
    components of patches, scaled so that their responses have unit variance and no correlation. Until then they are a
    random orthonormal basis.

    Args:
        channels: C, of the images.
        side: of a filter, in pixels.
    """

    def __init__(self, channels: int = 3, side: int = 2) -> None:
        super().__init__()
        self.side = side
        size = channels * side**2
        basis = nn.init.orthogonal_(torch.empty(size, size)).view(size, channels, side, side)
        self.filters: torch.Tensor
        self.register_buffer("filters", torch.cat([basis, -basis]))
        self.bias = nn.Parameter(torch.zeros(2 * size))

    @torch.no_grad()
    def whiten(self, images: torch.Tensor) -> None:
        """Compute the filters.

        Args:
            images: (N, C, H, W) float, normalised as the network sees them.
        """
        basis = self.filters[: len(self.filters) // 2]
        patches = F.unfold(images.double(), self.side).transpose(1, 2).flatten(0, 1)  # (M, C · side²)
        variances, components = torch.linalg.eigh(patches.T @ patches / len(patches))
        largest = components.gather(0, components.abs().argmax(0, keepdim=True))
        components = components * largest.sign()  # which eigh leaves open
        scaled = (components / (variances + EPSILON).sqrt()).T.flip(0)  # the strongest first
        self.filters.copy_(torch.cat([scaled, -scaled]).view(-1, *basis.shape[1:]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        # the weakest components are scaled up most: bf16's rounding of the pixels would be an eighth of what they say
        kind = x.device.type  # "meta" has no autocast
        with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
            return F.conv2d(x.to(self.filters.dtype), self.filters, self.bias)


class ShiftNorm(nn.BatchNorm2d):
    """Batch norm that learns a shift and no scale: the convolution behind it can scale as well."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=False)
        self.bias = nn.Parameter(torch.zeros(channels))


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    """3×3 without bias, its first ``inputs`` outputs the inputs themselves at first, where there are as many."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    if outputs >= inputs:
        with torch.no_grad():
            nn.init.dirac_(conv.weight[:inputs])
    return conv


class Stage(nn.Module):
    """Convolution, norm, GELU, a residual branch of further convolutions, and a 2×2 max pool somewhere.

    (N, in, H, W) -> (N, out, H // 2, W // 2); without a pool the sides stay.

    Args:
        inputs, outputs: channels.
        depth: convolutions, with the first.
        pool: ``"early"``, behind the first convolution; ``"late"``, behind the branch; ``"none"``.
        squeeze: whether the branch ends with squeeze and excitation (Hu et al. 2018), by an eighth.
    """

    def __init__(self, inputs: int, outputs: int, depth: int, pool: str, squeeze: bool) -> None:
        super().__init__()
        down: tuple[nn.Module, ...] = (nn.MaxPool2d(2),) if pool == "early" else ()
        self.first = nn.Sequential(_conv(inputs, outputs), *down, ShiftNorm(outputs), nn.GELU())
        body = [m for _ in range(depth - 1) for m in (_conv(outputs, outputs), ShiftNorm(outputs), nn.GELU())]
        if body and squeeze:
            body.append(SqueezeExcitation(outputs, outputs // 8))
        self.body = nn.Sequential(*body)
        self.pool = nn.MaxPool2d(2) if pool == "late" else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = self.first(x)
        return self.pool(x + self.body(x) if len(self.body) else x)


class WhitenedCNN(nn.Module):
    """A whitening stem, stages, global average pooling, one linear layer.

    Args:
        num_classes: K, outputs.
        widths: channels of each stage.
        depths: convolutions of each stage, of at least 1.
        pools: where each stage halves the sides, see :class:`Stage`.
        squeeze: see :class:`Stage`.
        logit_scale: what the logits are multiplied by, which slows the head down where all rates are high.
    """

    def __init__(
        self,
        num_classes: int,
        widths: Sequence[int] = (64, 256, 256),
        depths: Sequence[int] = (2, 2, 2),
        pools: Sequence[str] = ("early", "early", "early"),
        squeeze: bool = False,
        logit_scale: float = 1 / 9,
    ) -> None:
        super().__init__()
        if not len(widths) == len(depths) == len(pools) or min(depths) < 1 or {*pools} - {"early", "late", "none"}:
            raise ValueError(
                "expected a depth of at least 1 and a pool (early, late or none) per width, "
                f"got widths {widths}, depths {depths} and pools {pools}"
            )
        whitened = WhitenedConv()
        self.stem = nn.Sequential(whitened, nn.GELU())
        before = (len(whitened.bias), *widths)
        self.stages = nn.Sequential(
            *(Stage(i, o, d, p, squeeze) for i, o, d, p in zip(before, widths, depths, pools, strict=False))
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[-1], num_classes, bias=False)
        self.num_features = widths[-1]
        self.logit_scale = logit_scale

    def whiten(self, images: torch.Tensor) -> None:
        """:meth:`WhitenedConv.whiten` of the stem, before the first step of a training from scratch."""
        whitened = self.stem[0]
        assert isinstance(whitened, WhitenedConv)
        whitened.whiten(images)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, K) logits; H and W of more than 2 to the power of the pools."""
        return self.fc(self.pool(self.stages(self.stem(x))).flatten(1)) * self.logit_scale
