"""CAM methods: one pure function each, from activations and gradients of one depth to one raw map per image.

Symbols: A (N, C, h, w) activations, G (N, C, h, w) gradients of the target's logit with respect to A; maps are
(N, h, w), signed and unscaled. Papers apply a ReLU to most of these maps: that belongs to showing a map, not to
computing it, so the sign stays.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gradlens.registry import Registry

Method = Callable[[Tensor, Tensor], Tensor]
METHODS: Registry[Method] = Registry("CAM method")


@METHODS.register("gradcam")
def gradcam(a: Tensor, g: Tensor) -> Tensor:
    """Grad-CAM: Σ_c (mean_ij G_cij) A_c. Selvaraju et al. 2017, eq. 1 and 2, without the ReLU."""
    weights = g.mean((2, 3))  # (N, C)
    return torch.einsum("nc,nchw->nhw", weights, a)


@METHODS.register("hirescam")
def hirescam(a: Tensor, g: Tensor) -> Tensor:
    """HiResCAM: Σ_c G_c ⊙ A_c. Draelos and Carin 2020, eq. 5."""
    return (a * g).sum(1)


@METHODS.register("layercam")
def layercam(a: Tensor, g: Tensor) -> Tensor:
    """LayerCAM: Σ_c ReLU(G_c) ⊙ A_c. Jiang et al. 2021, eq. 6 and 7."""
    return (a * g.clamp(min=0)).sum(1)


@METHODS.register("xgradcam")
def xgradcam(a: Tensor, g: Tensor) -> Tensor:
    """XGrad-CAM: Σ_c (Σ_ij G_cij A_cij / Σ_ij A_cij) A_c. Fu et al. 2020, eq. 7.

    A channel whose activations sum to zero has no weight in the paper (0/0); it gets none here.
    """
    total = a.sum((2, 3))
    weights = torch.where(total == 0, 0.0, (a * g).sum((2, 3)) / torch.where(total == 0, 1.0, total))
    return torch.einsum("nc,nchw->nhw", weights, a)


@METHODS.register("gradcam++")
def gradcam_plus_plus(a: Tensor, g: Tensor) -> Tensor:
    """Grad-CAM++: Σ_c w_c A_c, w_c = Σ_ij α_cij ReLU(G_cij), α = G² / (2 G² + G³ Σ_ij A_c).

    Chattopadhay et al. 2018, eq. 19 for the exponential score, whose positive factor exp(score) cancels in α and only
    scales w. In float64, because α mixes third powers of small gradients. α is zero where the gradient is (0/0 there).
    """
    g2 = g.double().square()
    g3 = g2 * g.double()
    denominator = 2 * g2 + g3 * a.double().sum((2, 3), keepdim=True)
    alpha = torch.where(denominator == 0, 0.0, g2 / torch.where(denominator == 0, 1.0, denominator))
    weights = (alpha * g.double().clamp(min=0)).sum((2, 3))
    return torch.einsum("nc,nchw->nhw", weights, a.double()).to(a.dtype)
