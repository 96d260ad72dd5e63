"""Does the model agree with the map? What happens to the target's probability when pixels go or come as the map says.

Every function takes images (N, 3, H, W) as the network expects them, targets (N,), and heat (N, H, W) or, for M maps of
the same images, (M, N, H, W) of any positive scale, all on the model's device; gives (N,) or (M, N). The network runs
on ``batch`` images at a time. *Forward passes* are counted in images that run through it.

A map that ranks nothing (constant, not finite) has no insertion, deletion or ROAD; one without a positive value has no
change in confidence: NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import solveh_banded
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from gradlens.cam.measures import Model, as_many, measure, orderless, probabilities, ranks, unit

PERCENTILES = (20, 40, 60, 80)  # those of pytorch-grad-cam's own example; its default is every ten
STEPS = 10
_RISE = "Petsiuk et al. 2018, BMVC (RISE), section 4.2"
_GRADCAMPP = "Chattopadhay et al. 2018, WACV, section 4.1"

# Noisy linear imputation (Rong et al. 2022): what a missing pixel takes from its neighbours.
_LATER_NEIGHBOURS = {(0, 1): 1 / 6, (1, -1): 1 / 12, (1, 0): 1 / 6, (1, 1): 1 / 12}  # in raster order


def blurred(images: Tensor) -> Tensor:
    """What insertion starts from: RISE's blur, 11 × 11 pixels and σ = 5, for images of up to 224 pixels.

    The kernel grows with larger images, so that they are blurred as much in their own terms, and shrinks to fit ones
    smaller than itself.
    """
    scale = max(1.0, min(images.shape[-2:]) / 224)
    size = 2 * round(5 * scale) + 1
    largest = 2 * ((min(images.shape[-2:]) - 1) // 2) + 1  # reflection needs an image wider than the kernel's half
    size = min(size, largest)
    return tv.gaussian_blur(images, [size, size], [5.0 * scale, 5.0 * scale])


@measure("insertion", "insertion AUC", better="higher", needs="model", paper=_RISE)
def insertion(
    model: Model, images: Tensor, targets: Tensor, heat: Tensor, *, steps: int = STEPS, batch: int = 64
) -> Tensor:
    """Area under the target's probability while the blurred image gets its pixels back, highest heat first.

    In 0..1, higher is better. Trapezoids over the share of pixels restored, ``steps`` equal steps. Forward passes:
    ``steps`` - 1 per map, and 2 per image. Ties: raster order.
    """
    return _area(insertion_curve(model, images, targets, heat, steps=steps, batch=batch))


@measure("deletion", "deletion AUC", better="lower", needs="model", paper=_RISE)
def deletion(
    model: Model, images: Tensor, targets: Tensor, heat: Tensor, *, steps: int = STEPS, batch: int = 64
) -> Tensor:
    """Area under the target's probability while pixels become 0 (the training data's mean colour), highest heat first.

    In 0..1, lower is better. Trapezoids over the share of pixels deleted, ``steps`` equal steps. Forward passes:
    ``steps`` - 1 per map, and 2 per image. Ties: raster order.
    """
    return _area(deletion_curve(model, images, targets, heat, steps=steps, batch=batch))


def insertion_curve(
    model: Model, images: Tensor, targets: Tensor, heat: Tensor, *, steps: int = STEPS, batch: int = 64
) -> Tensor:
    """The curve under :func:`insertion`: probabilities (..., N, steps + 1), from the blurred image to the original."""
    return _curve(model, blurred(images), images, targets, heat, steps, batch)


def deletion_curve(
    model: Model, images: Tensor, targets: Tensor, heat: Tensor, *, steps: int = STEPS, batch: int = 64
) -> Tensor:
    """The curve under :func:`deletion`: probabilities (..., N, steps + 1), from the original to the mean colour."""
    return _curve(model, images, torch.zeros_like(images), targets, heat, steps, batch)


def _curve(model: Model, start: Tensor, end: Tensor, targets: Tensor, heat: Tensor, steps: int, batch: int) -> Tensor:
    """Probabilities (..., N, steps + 1) on the way from ``start`` to ``end``, a share of the pixels at each step."""
    maps, single = as_many(heat, start, targets)
    place = ranks(maps)  # (M, N, H, W)
    pixels = place.shape[-1] * place.shape[-2]
    counts = torch.tensor([round(pixels * k / steps) for k in range(1, steps)], device=place.device)

    def between(m: Tensor, n: Tensor, k: Tensor) -> Tensor:
        return torch.where((place[m, n] < counts[k, None, None])[:, None], end[n], start[n])

    curve = start.new_empty((*place.shape[:2], steps + 1), dtype=torch.float32)
    curve[..., 0] = _unchanged(model, start, targets, batch)  # no map enters the two ends
    curve[..., 1:-1] = _run(model, targets, (*place.shape[:2], steps - 1), between, batch)
    curve[..., -1] = _unchanged(model, end, targets, batch)
    curve[orderless(maps)] = torch.nan
    return curve[0] if single else curve


def _run(
    model: Model,
    targets: Tensor,
    shape: tuple[int, int, int],
    compose: Callable[[Tensor, Tensor, Tensor], Tensor],
    batch: int,
) -> Tensor:
    """Probability of the target for every (map, image, step): ``compose`` makes the images, ``batch`` at a time."""
    work = torch.cartesian_prod(*(torch.arange(s, device=targets.device) for s in shape)).reshape(-1, 3)
    parts = [probabilities(model, compose(*part.unbind(1)), targets[part[:, 1]]) for part in work.split(batch)]
    return torch.cat(parts).reshape(shape) if parts else torch.empty(shape, device=targets.device)


def _unchanged(model: Model, images: Tensor, targets: Tensor, batch: int) -> Tensor:
    """(N,) probability of the target for images as they are."""
    return torch.cat(
        [probabilities(model, x, t) for x, t in zip(images.split(batch), targets.split(batch), strict=True)]
    )


def _area(curve: Tensor) -> Tensor:
    return torch.trapezoid(curve, dx=1 / (curve.shape[-1] - 1))


@measure(
    "road",
    "ROAD",
    better="higher",
    needs="model",
    low=-0.5,
    high=0.5,
    paper="Rong et al. 2022, ICML; MoRF and LeRF in one number as in Gildenblat et al. 2021, pytorch-grad-cam",
)
def road(
    model: Model,
    images: Tensor,
    targets: Tensor,
    heat: Tensor,
    *,
    percentiles: tuple[int, ...] = PERCENTILES,
    noise: float = 0.01,
    seed: int = 0,
    batch: int = 64,
) -> Tensor:
    """ROAD: (LeRF - MoRF) / 2, the mean over percentiles of pixels removed; in -1/2..1/2, higher is better.

    MoRF and LeRF are the target's probabilities after the most and the least relevant pixels were imputed
    (:func:`road_curves`); halved as in pytorch-grad-cam. A map that knows nothing gets about 0. Forward passes: 2 per
    map and percentile.
    """
    morf, lerf = road_curves(model, images, targets, heat, percentiles=percentiles, noise=noise, seed=seed, batch=batch)
    return (lerf - morf).mean(-1) / 2


def road_curves(
    model: Model,
    images: Tensor,
    targets: Tensor,
    heat: Tensor,
    *,
    percentiles: tuple[int, ...] = PERCENTILES,
    noise: float = 0.01,
    seed: int = 0,
    batch: int = 64,
) -> tuple[Tensor, Tensor]:
    """Probabilities after removing each percentile of pixels: most relevant first, least relevant first.

    Removed pixels are imputed (:func:`impute`), with Gaussian noise of standard deviation ``noise`` on them (in
    network units; the same noise for every image, map and percentile, so that maps differ by their masks alone and no
    result depends on which images share a batch).

    Args:
        percentiles: of pixels removed, each between 0 and 100, both excluded.

    Returns:
        MoRF and LeRF, each (..., N, percentiles).
    """
    if not all(0 < p < 100 for p in percentiles):
        raise ValueError(f"expected percentiles between 0 and 100, got {percentiles}")
    maps, single = as_many(heat, images, targets)
    blank = orderless(maps)
    place = ranks(maps)
    pixels = place.shape[-1] * place.shape[-2]
    counts = torch.tensor([round(pixels * p / 100) for p in percentiles], device=place.device)
    generator = torch.Generator().manual_seed(seed)
    speckle = noise * torch.randn(images.shape[1:], generator=generator).to(images)

    def removed(most: bool) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def compose(m: Tensor, n: Tensor, k: Tensor) -> Tensor:
            count = counts[k, None, None]
            missing = place[m, n] < count if most else place[m, n] >= pixels - count
            missing &= ~blank[m, n, None, None]  # its result is undefined whatever is computed
            filled = impute(images[n], missing)
            return torch.where(missing[:, None], filled + speckle, filled)

        return compose

    shape = (*place.shape[:2], len(percentiles))
    curves = []
    for most in (True, False):
        curve = _run(model, targets, shape, removed(most), batch)
        curve[blank] = torch.nan
        curves.append(curve[0] if single else curve)
    return curves[0], curves[1]


def impute(images: Tensor, missing: Tensor) -> Tensor:
    """Linear imputation: every missing pixel is the weighted mean of its eight neighbours, missing ones included.

    Solves Σ_j w_ij (x_i - x_j) = 0 for all missing i, w = 1/6 across an edge and 1/12 across a corner; at the border
    only neighbours inside the image count (Rong et al. 2022, noisy linear imputation without its noise). In raster
    order the system is banded, symmetric and positive definite: one banded Cholesky factorisation per mask, on the CPU,
    in float32 (its rounding stays two orders below the noise that is added).

    Args:
        images: (J, C, H, W).
        missing: bool (J, H, W), not all of an image.

    Returns:
        (J, C, H, W), as ``images`` where nothing is missing.
    """
    values = images.detach().float().cpu().clone()
    holes = missing.cpu()
    known = torch.where(holes[:, None], 0.0, values)
    weights = torch.tensor([[1 / 12, 1 / 6, 1 / 12], [1 / 6, 0, 1 / 6], [1 / 12, 1 / 6, 1 / 12]])
    from_known = F.conv2d(known.flatten(0, 1)[:, None], weights[None, None], padding=1).view(values.shape).numpy()
    total = F.conv2d(torch.ones_like(values[:1, :1]), weights[None, None], padding=1)[0, 0].numpy()
    filled = values.numpy()
    for x, b, hole in zip(filled, from_known, holes.numpy(), strict=True):
        if hole.any():
            x[:, hole] = solveh_banded(
                _bands(hole, total), b[:, hole].T, lower=True, overwrite_ab=True, overwrite_b=True, check_finite=False
            ).T
    return torch.where(missing[:, None], torch.from_numpy(filled).to(images), images)


def _bands(hole: np.ndarray, total: np.ndarray) -> np.ndarray:
    """The system over the missing pixels in raster order, in LAPACK's lower banded form: (bandwidth + 1, pixels).

    Args:
        hole: bool (H, W).
        total: (H, W) sum of the weights of each pixel's neighbours inside the image.
    """
    number = np.cumsum(hole).reshape(hole.shape) - 1
    height, width = hole.shape
    pairs = []
    for (down, across), weight in _LATER_NEIGHBOURS.items():
        here = slice(0, height - down), slice(max(0, -across), width - max(0, across))
        there = slice(down, height), slice(max(0, across), width + min(0, across))
        both = hole[here] & hole[there]
        pairs.append((number[here][both], number[there][both], weight))
    bandwidth = max((int((there - here).max()) for here, there, _ in pairs if len(here)), default=0)
    bands = np.zeros((bandwidth + 1, int(hole.sum())), dtype=np.float32, order="F")  # as LAPACK wants it
    bands[0] = total[hole]
    for here, there, weight in pairs:
        bands[there - here, here] = -weight
    return bands


def confidence(
    model: Model, images: Tensor, targets: Tensor, heat: Tensor, *, batch: int = 64
) -> tuple[Tensor, Tensor]:
    """The target's probability for each image (N,), and for each image times its map (..., N).

    The map is scaled to 0..1 (positive part over maximum) and multiplies the network's input, so that what the map
    hides becomes the training data's mean colour. Forward passes: 1 per map and 1 per image.
    """
    maps, single = as_many(heat, images, targets)
    scaled = unit(maps)
    before = _unchanged(model, images, targets, batch)
    shown = torch.nan_to_num(scaled)
    after = _run(
        model, targets, (*maps.shape[:2], 1), lambda m, n, _k: images[n] * shown[m, n][:, None].to(images), batch
    )[..., 0]
    after = torch.where(torch.isnan(scaled).flatten(2).any(2), torch.nan, after)
    return before, after[0] if single else after


@measure("average-drop", "average drop", better="lower", needs="model", paper=_GRADCAMPP)
def average_drop(model: Model, images: Tensor, targets: Tensor, heat: Tensor, *, batch: int = 64) -> Tensor:
    """max(0, Y - O) / Y: the share of the target's probability Y that is lost where only the map's part is shown.

    In 0..1, lower is better. A map that shows everything loses nothing, and a random map that shows half of the image
    may lose less than a true one that shows a tenth: compare maps of like area only, and read it beside the others.
    See :func:`confidence` for Y, O and the forward passes.
    """
    before, after = confidence(model, images, targets, heat, batch=batch)
    return (before - after).clamp(min=0) / before


@measure("increase", "increase in confidence", better="higher", needs="model", paper=_GRADCAMPP)
def increase(model: Model, images: Tensor, targets: Tensor, heat: Tensor, *, batch: int = 64) -> Tensor:
    """1 where the target's probability is higher with only the map's part shown, else 0; higher is better.

    See :func:`confidence` for the two probabilities and the forward passes.
    """
    before, after = confidence(model, images, targets, heat, batch=batch)
    return torch.where(torch.isnan(after), torch.nan, (after > before).float())


@measure(
    "average-gain",
    "average gain",
    better="higher",
    needs="model",
    paper="Zhang et al. 2023, arXiv:2301.07002 (Opti-CAM)",
)
def average_gain(model: Model, images: Tensor, targets: Tensor, heat: Tensor, *, batch: int = 64) -> Tensor:
    """max(0, O - Y) / (1 - Y): the share of the missing probability that is won where only the map's part is shown.

    In 0..1, higher is better; the counterpart of :func:`average_drop`. 0 where Y is 1, nothing being left to win.
    """
    before, after = confidence(model, images, targets, heat, batch=batch)
    left = 1 - before
    return torch.where(left > 0, (after - before).clamp(min=0) / torch.where(left > 0, left, 1), after * 0)


@measure(
    "infidelity",
    "infidelity",
    better="lower",
    needs="model",
    paper="Yeh et al. 2019, NeurIPS, definition 2.1, with square removal; scaled as Captum does",
)
def infidelity(
    model: Model, images: Tensor, targets: Tensor, heat: Tensor, *, samples: int = 20, seed: int = 0, batch: int = 64
) -> Tensor:
    """Mean of (β Iᵀφ - (f(x) - f(x - I)))²: does the map's sum in a square predict what removing the square costs?

    I marks a random square, its side a quarter to a half of the image's, that becomes 0 (the training data's mean
    colour); Iᵀφ is the map's sum in it; f the target's probability; β the factor per map that fits best, so that the
    map's scale does not matter. In 0..1, lower is better. A constant map is measured too (its sums say how large the
    square is); NaN for one that is zero everywhere or not finite. The squares are the same for every image and map, so
    forward passes are ``samples`` + 1 per image, whatever the number of maps.
    Captum's ``infidelity(normalize=True)`` gives the same number, one map at a time.
    """
    maps, single = as_many(heat, images, targets)
    squares = removal_squares(images.shape[-2:], samples, seed).to(images.device)  # (S, H, W)
    before = _unchanged(model, images, targets, batch)
    after = _run(
        model,
        targets,
        (1, len(images), samples),
        lambda _m, n, k: torch.where(squares[k][:, None], 0.0, images[n]),
        batch,
    )[0]
    change = (before[:, None] - after).double()  # (N, S)
    sums = torch.einsum("mnhw,shw->mns", maps.double(), squares.double())
    power = sums.square().mean(-1, keepdim=True)  # 0 where no square meets the map: then it predicts no change
    beta = torch.where(power == 0, 0.0, (sums * change).mean(-1, keepdim=True) / power)
    result = (beta * sums - change).square().mean(-1).float()
    result = torch.where((maps == 0).flatten(2).all(2), torch.nan, result)
    return result[0] if single else result


def removal_squares(size: tuple[int, int] | torch.Size, samples: int, seed: int = 0) -> Tensor:
    """Random squares for :func:`infidelity`: bool (samples, H, W), sides uniform in 1/4..1/2 of the shorter side."""
    height, width = size
    draw = np.random.default_rng(seed)
    shorter = min(height, width)
    sides = draw.integers(max(1, shorter // 4), max(2, shorter // 2 + 1), samples)
    top = draw.integers(0, height - sides + 1)
    left = draw.integers(0, width - sides + 1)
    rows, columns = np.arange(height), np.arange(width)
    down = (rows >= top[:, None]) & (rows < (top + sides)[:, None])  # (samples, H)
    across = (columns >= left[:, None]) & (columns < (left + sides)[:, None])  # (samples, W)
    return torch.from_numpy(down[:, :, None] & across[:, None, :])


@measure(
    "max-sensitivity",
    "max-sensitivity",
    better="lower",
    needs="explainer",
    high=float("inf"),
    paper="Yeh et al. 2019, NeurIPS, definition 3.1",
)
def max_sensitivity(
    explainer: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    targets: Tensor,
    *,
    radius: float = 0.02,
    samples: int = 5,
    seed: int = 0,
) -> Tensor:
    """max over noise δ of ‖φ(x + δ) - φ(x)‖ / ‖φ(x)‖: how far the map moves when the image hardly does.

    0 and up, lower is better; δ is uniform in ±``radius`` (network units), the maximum is over ``samples`` draws. A
    constant explainer gets 0, so it says nothing without a measure of faithfulness beside it. Costs ``samples`` + 1
    explanations per image. NaN where the map of the unchanged image is zero everywhere or not finite. Captum's
    ``sensitivity_max`` gives the same number for the same noise.

    Args:
        explainer: from (N, 3, H, W) images and (N,) targets to heat (N, H, W) or (M, N, H, W), scaled as it should be
            compared (raw maps: raw; maps as drawn: 0..1).
    """
    at_rest = explainer(images, targets)
    size = at_rest.flatten(-2).norm(dim=-1)
    worst = torch.zeros_like(size)
    for noise in noises(images, radius, samples, seed):
        moved = (explainer(images + noise, targets) - at_rest).flatten(-2).norm(dim=-1)
        worst = torch.maximum(worst, moved)
    return torch.where(size > 0, worst / size, torch.nan)


def noises(images: Tensor, radius: float, samples: int, seed: int = 0) -> Iterator[Tensor]:
    """``samples`` draws of noise uniform in ±``radius``, each for one image, (3, H, W); the same for all of a batch."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(samples):
        yield ((2 * torch.rand(images.shape[1:], generator=generator) - 1) * radius).to(images)
