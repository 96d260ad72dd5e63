"""The shape of a map: how even it is, where its middle lies, how far it spreads.

None says whether a map is good; beside the same model's maps of other images they say how explanations change. Every
function takes heat (..., H, W) of any positive scale (negative heat counts as none) and gives (...); NaN marks a map
without a positive value or one that is not finite.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradlens.cam.measures import unit


def shares(heat: Tensor) -> Tensor:
    """Each pixel's share of the map's positive values: (..., H, W), sum 1; NaN throughout where there are none."""
    positive = unit(heat).double()
    return positive / positive.sum((-2, -1), keepdim=True)


def entropy(heat: Tensor) -> Tensor:
    """Shannon entropy of the shares over its largest value, ln(H W): 0 for one pixel, 1 for an even map.

    Shannon 1948. It depends on the size of the map: compare maps of one size only.
    """
    p = shares(heat)
    if p.shape[-2] * p.shape[-1] == 1:
        return torch.where(torch.isnan(p).squeeze((-2, -1)), torch.nan, 0.0).double()
    return -torch.xlogy(p, p).sum((-2, -1)) / math.log(p.shape[-2] * p.shape[-1])


def centre(heat: Tensor) -> tuple[Tensor, Tensor]:
    """(x, y) centre of mass of the map, in widths of the image from its left and from its top edge.

    x lies in 0..1, y in 0..H/W.
    """
    p = shares(heat)
    height, width = p.shape[-2:]
    x = (torch.arange(width, device=p.device, dtype=p.dtype) + 0.5) / width
    y = (torch.arange(height, device=p.device, dtype=p.dtype) + 0.5) / width
    return (p.sum(-2) * x).sum(-1), (p.sum(-1) * y).sum(-1)


def spread(heat: Tensor) -> Tensor:
    """Root of the mean squared distance of the map's mass from its centre, in image widths; 0 for one pixel."""
    p = shares(heat)
    height, width = p.shape[-2:]
    middle_x, middle_y = centre(heat)
    x = (torch.arange(width, device=p.device, dtype=p.dtype) + 0.5) / width
    y = (torch.arange(height, device=p.device, dtype=p.dtype) + 0.5) / width
    across = (p.sum(-2) * (x - middle_x[..., None]) ** 2).sum(-1)
    down = (p.sum(-1) * (y - middle_y[..., None]) ** 2).sum(-1)
    return (across + down).sqrt()
