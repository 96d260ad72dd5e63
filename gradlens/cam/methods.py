"""CAM methods: one pure function each, registered once, with its paper and formula.

Symbols, at one depth of a network that gives logits y: A (N, C, h, w) activations; G = ∂s/∂A (N, C, h, w) gradients of
the score s; s is the target's logit, or target minus another class's logit where two classes are contrasted; c runs
over channels, i and j over rows and columns. Maps are (N, h, w), signed and unscaled. Papers apply a ReLU to most of
these maps: that belongs to showing a map, not to computing it, so the sign stays.

What a method needs decides how it is called (:class:`Method`). Those here are formulas over one captured pass. Those
that run the model themselves have files of their own: :mod:`gradlens.cam.perturbation`, :mod:`gradlens.cam.attention`,
:mod:`gradlens.cam.attribution`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from gradlens.registry import Registry

F = TypeVar("F", bound=Callable[..., Any])
Needs = Literal["gradients", "activations", "curvature", "model"]


@dataclass(frozen=True)
class Method:
    """A way to make maps.

    Attributes:
        name: as registered and as people type it.
        title: as papers write it.
        function: what computes the maps; called according to ``needs``.
        needs: ``"activations"``: ``function(A)``; ``"gradients"``: ``function(A, G)``; ``"curvature"``:
            ``function(A, G, H)`` with H = (∂²s/∂A²) A; each gives (N, h, w). ``"model"``:
            ``function(model, images, points, targets)`` with images (N, 3, H, W), hook points, targets (N, T) class
            indices; gives one (N, T, h, w) tensor per point, or a single (N, T, H, W) one where ``at`` is ``"pixels"``.
            NaN throughout marks a map that this depth or network does not define.
        paper: author, year, place.
        formula: the map in the symbols of this module.
        at: ``"depths"``: a map per depth; ``"pixels"``: one map per image, at the input.
        contrast: the score is the target's logit minus that of the most likely other class.
    """

    name: str
    title: str
    function: Callable[..., Any]
    needs: Needs
    paper: str
    formula: str
    at: Literal["depths", "pixels"] = "depths"
    contrast: bool = False


METHODS: Registry[Method] = Registry("CAM method")


def method(
    name: str,
    title: str,
    *,
    paper: str,
    formula: str,
    needs: Needs = "gradients",
    at: Literal["depths", "pixels"] = "depths",
    contrast: bool = False,
) -> Callable[[F], F]:
    """Decorator that registers a function as a method (:class:`Method`) and leaves it as it is."""

    def file(function: F) -> F:
        METHODS.register(name)(Method(name, title, function, needs, paper, formula, at, contrast))
        return function

    return file


def _weighted(weights: Tensor, a: Tensor) -> Tensor:
    """Σ_c w_c A_c for weights (N, C)."""
    n, c, h, w = a.shape
    return torch.bmm(weights.unsqueeze(1).to(a.dtype), a.reshape(n, c, h * w)).reshape(n, h, w)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """``above / below``, 0 where ``below`` is 0."""
    return torch.where(below == 0, 0.0, above / torch.where(below == 0, 1.0, below))


@method(
    "gradcam",
    "Grad-CAM",
    paper="Selvaraju et al. 2017, ICCV, eq. 1 and 2",
    formula="Σ_c (mean_ij G_cij) A_c",
)
def gradcam(a: Tensor, g: Tensor) -> Tensor:
    """Grad-CAM: channels weighted by their mean gradient."""
    return _weighted(g.mean((2, 3)), a)


@method(
    "gradcam++",
    "Grad-CAM++",
    paper="Chattopadhay et al. 2018, WACV, eq. 7 and 19",
    formula="Σ_c w_c A_c, w_c = Σ_ij α_cij ReLU(G_cij), α = G² / (2 G² + G³ Σ_ij A_c)",
)
def gradcam_plus_plus(a: Tensor, g: Tensor) -> Tensor:
    """Grad-CAM++ for the exponential score, whose positive factor exp(s) cancels in α and only scales w.

    In float64, because α mixes third powers of small gradients. α is zero where the gradient is (0/0 there).
    """
    g, wide = g.double(), a.double()
    g2 = g.square()
    alpha = _ratio(g2, 2 * g2 + g2 * g * wide.sum((2, 3), keepdim=True))
    return _weighted((alpha * g.clamp(min=0)).sum((2, 3)), wide).to(a.dtype)


@method("hirescam", "HiResCAM", paper="Draelos and Carin 2020, arXiv:2011.08891", formula="Σ_c G_c ⊙ A_c")
def hirescam(a: Tensor, g: Tensor) -> Tensor:
    """HiResCAM: every cell weighted by its own gradient; faithful where the head is linear.

    Right before a normalisation over channels (layer norm of a pre-norm transformer or a ConvNeXt stage) it is zero by
    nature: the score does not change with a cell's scale, so G_c ⊙ A_c sums to 0 (Euler). What rounding leaves of that
    is no evidence: a cell whose products cancel to 1e-5 of their size gets 0.
    """
    products = a * g
    total = products.sum(1)
    return torch.where(total.abs() <= 1e-5 * products.abs().sum(1), 0.0, total)


@method(
    "elementwise",
    "element-wise Grad-CAM",
    paper="as in Gildenblat et al. 2021, pytorch-grad-cam (GradCAMElementWise); no paper of its own",
    formula="Σ_c ReLU(G_c ⊙ A_c)",
)
def elementwise(a: Tensor, g: Tensor) -> Tensor:
    """Element-wise Grad-CAM: the positive products of gradient and activation; never negative."""
    return (a * g).clamp(min=0).sum(1)


@method("layercam", "LayerCAM", paper="Jiang et al. 2021, IEEE TIP, vol. 30", formula="Σ_c ReLU(G_c) ⊙ A_c")
def layercam(a: Tensor, g: Tensor) -> Tensor:
    """LayerCAM: every cell weighted by its own gradient where that is positive; made for shallow depths."""
    return (a * g.clamp(min=0)).sum(1)


@method(
    "xgradcam",
    "XGrad-CAM",
    paper="Fu et al. 2020, BMVC, arXiv:2008.02312",
    formula="Σ_c (Σ_ij G_cij A_cij / Σ_ij A_cij) A_c",
)
def xgradcam(a: Tensor, g: Tensor) -> Tensor:
    """XGrad-CAM: gradients averaged with the activations as weights.

    A channel whose activations sum to zero has no weight in the paper (0/0); it gets none here.
    """
    return _weighted(_ratio((a * g).sum((2, 3)), a.sum((2, 3))), a)


@method(
    "eigencam",
    "Eigen-CAM",
    needs="activations",
    paper="Muhammad and Yeasin 2020, IJCNN, arXiv:2008.00299",
    formula="A v₁, v₁ the first right singular vector of A as an (h·w) × C matrix; Σ_ij of the map made non-negative",
)
def eigencam(a: Tensor) -> Tensor:
    """Eigen-CAM: the first principal component of the activations; of no class in particular.

    A singular vector's sign is arbitrary; the one is taken with which the map's values sum to something positive.
    """
    return _first_component(a)


@method(
    "eigengradcam",
    "Eigen-Grad-CAM",
    paper="as in Gildenblat et al. 2021, pytorch-grad-cam (EigenGradCAM); Eigen-CAM of G ⊙ A",
    formula="(G ⊙ A) v₁, v₁ the first right singular vector of G ⊙ A as an (h·w) × C matrix; sign as for Eigen-CAM",
)
def eigengradcam(a: Tensor, g: Tensor) -> Tensor:
    """Eigen-Grad-CAM: the first principal component of the products of gradient and activation."""
    return _first_component(a * g)


def _first_component(features: Tensor) -> Tensor:
    """Projection of every cell (N, C, h, w) on the strongest direction of its image's cells: (N, h, w).

    Through the smaller of the two Gram matrices, in float64: the cells' one gives the map as √λ times its first
    eigenvector, the channels' one gives the direction.
    """
    n, c, h, w = features.shape
    x = features.flatten(2).double()  # (N, C, cells)
    if h * w <= c:
        values, vectors = torch.linalg.eigh(x.transpose(1, 2) @ x)
        projected = vectors[..., -1] * values[:, -1:].clamp(min=0).sqrt()
    else:
        _, vectors = torch.linalg.eigh(x @ x.transpose(1, 2))
        projected = (vectors[..., -1].unsqueeze(1) @ x)[:, 0]
    flip = torch.where(projected.sum(1, keepdim=True) < 0, -1.0, 1.0)
    return (projected * flip).reshape(n, h, w).to(features.dtype)


@method(
    "shapleycam",
    "ShapleyCAM",
    needs="curvature",
    paper="Cai 2025, arXiv:2501.06261",
    formula="Σ_c (mean_ij (G − ½ H)_cij) A_c, H = (∂²s/∂A²) A",
)
def shapleycam(a: Tensor, g: Tensor, h: Tensor) -> Tensor:
    """ShapleyCAM: Grad-CAM with the second-order term of the Shapley value; equals it where the head is linear.

    The score is the logit; the paper also proposes one of its own (ReST, logit plus log-probability).
    """
    return _weighted((g - 0.5 * h).mean((2, 3)), a)


@method(
    "finercam",
    "Finer-CAM",
    contrast=True,
    paper="Zhang et al. 2025, CVPR, arXiv:2501.11309, with one reference class and γ = 1",
    formula="Σ_c (mean_ij G_cij) A_c, s = y_target − y_other",
)
def finercam(a: Tensor, g: Tensor) -> Tensor:
    """Finer-CAM: Grad-CAM of the target's logit minus that of the class it is most easily taken for."""
    return gradcam(a, g)


@method(
    "cam",
    "CAM",
    needs="curvature",
    paper="Zhou et al. 2016, CVPR, eq. 1 and 2",
    formula="Σ_c W_target,c A_c where y = W mean_ij A + b; so W = Σ_ij G_ij",
)
def cam(a: Tensor, g: Tensor, h: Tensor) -> Tensor:
    """CAM, where everything after the depth is average pooling and a linear layer; undefined (NaN) elsewhere.

    That the head is of that kind is read off the derivatives: the gradient is the same in every cell, and the
    second-order term is zero.
    """
    size = g.abs().amax((1, 2, 3))
    uneven = (g - g.mean((2, 3), keepdim=True)).abs().amax((1, 2, 3))
    bent = h.abs().amax((1, 2, 3))
    linear = (uneven <= 1e-4 * size) & (bent <= 1e-4 * size * a.abs().amax((1, 2, 3)).clamp(min=1)) & (size > 0)
    return torch.where(linear[:, None, None], _weighted(g.sum((2, 3)), a), torch.nan)
