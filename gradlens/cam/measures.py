"""What can be measured about a map: one record per measure, and what the measures share.

The measures themselves live beside this module: :mod:`gradlens.cam.faithfulness` (does the model agree?),
:mod:`gradlens.cam.localisation` (does the mask agree?). They take heat maps of any positive scale and know no methods.
Importing these two fills :data:`MEASURES`, as :mod:`gradlens.workflows.evaluate` does.

Shapes everywhere: N images (N, 3, H, W); M maps of each as ``heat`` (M, N, H, W), for instance methods times depths,
so that what does not depend on the map is computed once; results (M, N), one value per map and image. Where heat is
(N, H, W), results are (N,). NaN marks a value that is not defined, never a bad one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlens.depths.modules import undisturbed
from gradlens.registry import Registry
from gradlens.zoo.outputs import logits_of

Function = TypeVar("Function", bound=Callable[..., Tensor])
Needs = Literal["model", "mask", "explainer"]
Model = nn.Module | Callable[[Tensor], Any]


@dataclass(frozen=True)
class Measure:
    """A number about one map of one image.

    Attributes:
        name: as registered and as people type it.
        title: for tables and figures.
        better: which direction is better.
        needs: how ``function`` is called. ``"model"``: ``function(model, images, targets, heat)``; ``"mask"``:
            ``function(heat, masks)`` with masks bool (N, H, W); ``"explainer"``: ``function(explainer, images,
            targets)`` where ``explainer(images, targets)`` gives heat.
        low, high: the range of its values.
        paper: author, year, place, equation.
        function: what computes it.
        chance: for ``"mask"``: ``chance(masks)`` (N,) is the value that a map which knows nothing gets.
    """

    name: str
    title: str
    better: Literal["higher", "lower"]
    needs: Needs
    low: float
    high: float
    paper: str
    function: Callable[..., Tensor]
    chance: Callable[[Tensor], Tensor] | None = None


MEASURES: Registry[Measure] = Registry("CAM measure")


def measure(
    name: str,
    title: str,
    *,
    better: Literal["higher", "lower"],
    needs: Needs,
    paper: str,
    low: float = 0.0,
    high: float = 1.0,
    chance: Callable[[Tensor], Tensor] | None = None,
) -> Callable[[Function], Function]:
    """Decorator that registers a function as a measure (:class:`Measure`) and leaves it as it is."""

    def file(function: Function) -> Function:
        MEASURES.register(name)(Measure(name, title, better, needs, low, high, paper, function, chance))
        return function

    return file


def probabilities(model: Model, images: Tensor, targets: Tensor) -> Tensor:
    """(N,) softmax probability of each image's target, from one forward pass in evaluation mode without gradients.

    Args:
        model: a classifier, or a function from images to what a classifier returns.
        images: (N, 3, H, W).
        targets: (N,) class indices.
    """
    if isinstance(model, nn.Module):
        with undisturbed(model), torch.no_grad():
            logits = logits_of(model(images))
    else:
        with torch.no_grad():
            logits = logits_of(model(images))
    return logits.float().softmax(1).gather(1, targets.to(logits.device)[:, None])[:, 0]


def unit(heat: Tensor) -> Tensor:
    """The positive part of each map (..., H, W) over its maximum, in 0..1; NaN throughout where nothing is positive.

    So a map that is blank, negative everywhere or not finite makes what is computed from it undefined.
    """
    positive = torch.where(torch.isfinite(heat).all(-1, keepdim=True).all(-2, keepdim=True), heat, torch.nan)
    positive = positive.clamp(min=0)
    top = positive.amax((-2, -1), keepdim=True)
    return torch.where(top > 0, positive / top, torch.nan)


def ranks(heat: Tensor) -> Tensor:
    """Each pixel's place when the highest value comes first: (..., H, W) int32, 0 to H·W - 1.

    Equal values rank in raster order (a stable sort), so the same map is ranked the same way everywhere.
    """
    order = heat.flatten(-2).argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(order.shape[-1], device=order.device, dtype=torch.int32).expand_as(order)
    return torch.empty_like(places, memory_format=torch.contiguous_format).scatter_(-1, order, places).view(heat.shape)


def orderless(heat: Tensor) -> Tensor:
    """Which maps (..., H, W) rank nothing: the same value everywhere, or not finite; bool (...)."""
    finite = torch.isfinite(heat).flatten(-2).all(-1)
    flat = torch.nan_to_num(heat).flatten(-2)
    return ~finite | (flat.amax(-1) == flat.amin(-1))


def as_many(heat: Tensor, images: Tensor, targets: Tensor) -> tuple[Tensor, bool]:
    """``heat`` as (M, N, H, W), and whether it came as (N, H, W).

    Raises:
        ValueError: maps, images and targets do not fit together.
    """
    n, _, height, width = images.shape
    if heat.ndim not in (3, 4) or tuple(heat.shape[-3:]) != (n, height, width):
        raise ValueError(f"expected heat ({n}, {height}, {width}) or (M, {n}, {height}, {width}), got {heat.shape}")
    if tuple(targets.shape) != (n,) or targets.is_floating_point():
        raise ValueError(f"expected {n} class indices, got {targets.dtype} of shape {tuple(targets.shape)}")
    return (heat, False) if heat.ndim == 4 else (heat[None], True)


def random_heat(images: Tensor, cells: int = 7, seed: int = 0) -> Tensor:
    """Maps that know nothing: uniform noise on a ``cells`` × ``cells`` grid, enlarged as a CAM is. (N, H, W) in 0..1.

    The row of a table that says what a measure gives to no explanation at all.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand((len(images), 1, cells, cells), generator=generator)
    enlarged = F.interpolate(noise, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return enlarged.to(images.device)


def mean_interval(
    values: np.ndarray, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of per-image values with its percentile bootstrap interval (images are resampled); NaN values are left out.

    Returns:
        (mean, low, high); all NaN where no value is defined.
    """
    defined = np.asarray(values, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    if not len(defined):
        return np.nan, np.nan, np.nan
    picks = np.random.default_rng(seed).integers(0, len(defined), (resamples, len(defined)))
    low, high = np.quantile(defined[picks].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return float(defined.mean()), float(low), float(high)


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation of two stacks of maps (..., H, W), ties at their mean rank; NaN if one is constant.

    In -1..1; computed in float64.
    """
    return _pearson(_mean_ranks(first.flatten(-2)), _mean_ranks(second.flatten(-2)))


def _mean_ranks(values: Tensor) -> Tensor:
    """Rank of each of the last dimension's values, equal ones sharing their mean: float64; NaN where not finite."""
    ordered = values.contiguous().sort(-1).values
    below = torch.searchsorted(ordered, values.contiguous(), right=False)
    up_to = torch.searchsorted(ordered, values.contiguous(), right=True)
    ranked = (below + up_to - 1).double() / 2
    return torch.where(torch.isfinite(values).all(-1, keepdim=True), ranked, torch.nan)


def _pearson(first: Tensor, second: Tensor) -> Tensor:
    x, y = (t - t.mean(-1, keepdim=True) for t in (first, second))
    return ((x * y).sum(-1) / (x.square().sum(-1) * y.square().sum(-1)).sqrt()).float()
