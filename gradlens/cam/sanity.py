"""Does a map depend on what the model has learnt? Cascading parameter randomisation (Adebayo et al. 2018, NeurIPS).

The parameters are replaced by random ones from the logits downward, one stretch between depths at a time. A map that
explains the trained model must come apart on the way; one that stays as it was shows the image, or the architecture,
whatever the model has learnt.
"""

from __future__ import annotations

import copy
import inspect
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradlens.cam.measures import mean_interval, spearman
from gradlens.depths.modules import hooked, unwrap
from gradlens.errors import DepthError
from gradlens.records import HookPoint
from gradlens.zoo.outputs import logits_of

THRESHOLD = 0.5
_WINDOW = 7  # of SSIM, as in scikit-image


@dataclass(frozen=True, eq=False)
class Level:
    """One step of the cascade.

    Attributes:
        name: ``"after <depth>"``: everything behind that depth is random; ``"all"``.
        share: of the parameters that the logits read, how many are random, in 0..1.
        model: a copy of the model with these parameters, in evaluation mode.
    """

    name: str
    share: float
    model: nn.Module


def cascade(model: nn.Module, images: Tensor, points: Sequence[HookPoint], *, seed: int = 0) -> Iterator[Level]:
    """Copies of a model with ever more of it randomised, from the logits down to the pixels.

    The first level randomises what the logits read after the deepest of ``points``, each further one down to the next
    depth, the last one everything; levels that add no parameter are left out. What lies after a depth is read off the
    autograd graph: a parameter belongs where an operation last reads it, so parameters of containers (class tokens,
    position embeddings, layer scales) and modules that are called several times need no rule of their own. Parameters
    that the logits do not read (auxiliary heads) are left alone.

    A module that owns its parameters alone and has ``reset_parameters`` is reset as PyTorch initialises it; every other
    parameter is drawn from a normal distribution with its own mean and standard deviation. Each module's values
    depend on ``seed`` and its name only, so that a level keeps those of the level before. Batch norms that are reset
    forget their running statistics too, which would be those of a network that is no more; they are measured anew, in
    one pass of ``images``, or the activations of a deep network would vanish or explode and every map with them.

    Args:
        model: a classifier; not touched.
        images: (N, 3, H, W): what the statistics are measured on. At least two where a batch norm sees single cells.
        points: depths of this model at this input size.
        seed: of the random values.

    Raises:
        DepthError: no depth was given, or one did not run.
    """
    model = unwrap(model)
    with torch.inference_mode(False):
        images = images.clone() if images.is_inference() else images.detach()
        reads, ends = _reads(_copied(model), images[:1], points)
    total = sum(p.numel() for name, p in model.named_parameters() if name in reads)
    done = 0
    steps = sorted(((seq, f"after {name}") for name, seq in ends.items()), reverse=True)
    for end, name in [*steps, (-1, "all")]:
        random = {p for p, seq in reads.items() if seq > end}
        count = sum(p.numel() for n, p in model.named_parameters() if n in random)
        if count == done:
            continue
        done = count
        with torch.inference_mode(False), torch.no_grad():
            level = _copied(model)
            _measure_anew(level, _randomise(level, random, seed), images)
        yield Level(name, count / total, level)


def _copied(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).eval()


def _reads(model: nn.Module, image: Tensor, points: Sequence[HookPoint]) -> tuple[dict[str, int], dict[str, int]]:
    """When each parameter is last read, and when each depth is made: sequence numbers of autograd nodes, by name."""
    if not points:
        raise DepthError("expected at least one depth, got none")
    modules = dict(model.named_modules())
    wanted = {(p.path, p.call): p.name for p in points}
    ends: dict[str, int] = {}

    def see(path: str, call: int, tensor: Tensor) -> None:
        if (path, call) in wanted and tensor.grad_fn is not None:
            ends[wanted[path, call]] = tensor.grad_fn._sequence_nr()

    for p in model.parameters():
        p.requires_grad_(p.is_floating_point())
    with torch.enable_grad(), hooked({p.path: modules[p.path] for p in points}, see):
        logits = logits_of(model(image))
    missing = [p.name for p in points if p.name not in ends]
    if missing:
        raise DepthError(f"module {missing[0]!r} did not run in this forward pass")
    names = {id(p): name for name, p in model.named_parameters()}
    reads: dict[str, int] = {}
    waiting: list[Any] = [logits.grad_fn]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        for below, _ in node.next_functions:
            if below is None:
                continue
            name = names.get(id(getattr(below, "variable", None)))
            if name is not None:
                reads[name] = max(node._sequence_nr(), reads.get(name, -1))
            elif below not in seen:
                seen.add(below)
                waiting.append(below)
    return reads, ends


def _randomise(model: nn.Module, names: set[str], seed: int) -> list[_BatchNorm]:
    """Give the named parameters random values; returns the batch norms among their modules."""
    random = {id(p) for name, p in model.named_parameters() if name in names}
    norms = []
    for path, module in model.named_modules():
        own = {n: p for n, p in module.named_parameters(recurse=False) if id(p) in random}
        if not own:
            continue
        if isinstance(module, _BatchNorm):
            norms.append(module)
        reset = getattr(module, "reset_parameters", None)
        alone = not any(True for child in module.children() for _ in child.parameters())
        if callable(reset) and alone and not inspect.signature(reset).parameters:
            devices = sorted({p.device.index for p in own.values() if p.device.type == "cuda"})
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(_seed_of(path, seed))
                reset()
            continue
        for name, p in own.items():
            generator = torch.Generator().manual_seed(_seed_of(f"{path}.{name}", seed))
            draw = torch.randn(p.shape, generator=generator).to(p)
            p.copy_(p.mean() + p.std(correction=0) * draw)
    return norms


def _seed_of(name: str, seed: int) -> int:
    return zlib.crc32(f"{seed}/{name}".encode())


def _measure_anew(model: nn.Module, norms: Sequence[_BatchNorm], images: Tensor) -> None:
    """Fill the running statistics of these batch norms from one pass of the images."""
    measured = [n for n in norms if n.track_running_stats]
    if not measured:
        return
    usual = [n.momentum for n in measured]
    for n in measured:
        n.momentum = 1.0  # all of it from this one batch
        n.train()
    model(images)
    for n, momentum in zip(measured, usual, strict=True):
        n.momentum = momentum
        n.eval()


@dataclass(frozen=True, eq=False)
class Similarity:
    """How much two stacks of maps look alike, per map: (..., N), 1 for the same map, NaN where one says nothing.

    Attributes:
        spearman, ssim: of the maps with their signs.
        spearman_absolute, ssim_absolute: of their absolute values, for which a mere change of sign is no change.
    """

    spearman: Tensor
    spearman_absolute: Tensor
    ssim: Tensor
    ssim_absolute: Tensor


def similarity(before: Tensor, after: Tensor) -> Similarity:
    """Compare maps (..., N, H, W): Spearman rank correlation and SSIM, as Adebayo et al. 2018 do (section 4).

    For SSIM each map is divided by its largest absolute value. A constant or non-finite map has neither.
    """
    signed, absolute = (before, after), (before.abs(), after.abs())
    return Similarity(spearman(*signed), spearman(*absolute), ssim(*signed), ssim(*absolute))


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, IEEE TIP, eq. 13) of maps (..., H, W): (...), in -1..1.

    Uniform 7 × 7 windows (smaller where the map is), sample covariance, the mean over windows inside the map; each map
    over its largest absolute value; range of values 2 where one has negative values, else 1. NaN where a map is
    constant or not finite.
    """
    shape = first.shape[:-2]
    x, y = (_over_largest(t).reshape(-1, 1, *t.shape[-2:]) for t in (first, second))
    side = min(_WINDOW, (min(first.shape[-2:]) - 1) // 2 * 2 + 1)
    if side < 2:
        raise ValueError(f"expected maps of at least 3 x 3 cells, got {tuple(first.shape[-2:])}")

    def mean(t: Tensor) -> Tensor:
        return F.avg_pool2d(t, side, stride=1)

    span = torch.where(torch.minimum(x.amin((2, 3)), y.amin((2, 3))) < 0, 2.0, 1.0)[..., None, None]
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    mx, my = mean(x), mean(y)
    unbiased = side**2 / (side**2 - 1)
    vx, vy, vxy = (
        unbiased * (mean(p * q) - mp * mq) for p, q, mp, mq in ((x, x, mx, mx), (y, y, my, my), (x, y, mx, my))
    )
    values = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return values.mean((1, 2, 3)).reshape(shape).float()


def _over_largest(maps: Tensor) -> Tensor:
    wide = maps.double()
    top, low = wide.amax((-2, -1), keepdim=True), wide.amin((-2, -1), keepdim=True)
    size = torch.maximum(top, -low)
    return torch.where(torch.isfinite(size) & (top > low), wide / size, torch.nan)


@dataclass(frozen=True, eq=False)
class Randomisation:
    """What cascading randomisation does to maps: the curve.

    Attributes:
        levels: L + 1 names, ``"trained"`` first.
        shares: of the parameters randomised at each level, from 0 to 1.
        spearman, spearman_absolute, ssim, ssim_absolute: (L + 1, ..., N) similarity to the trained model's maps.
    """

    levels: tuple[str, ...]
    shares: tuple[float, ...]
    spearman: Tensor
    spearman_absolute: Tensor
    ssim: Tensor
    ssim_absolute: Tensor


def randomisation(
    model: nn.Module,
    images: Tensor,
    points: Sequence[HookPoint],
    maps: Callable[[nn.Module], Tensor],
    *,
    seed: int = 0,
) -> Randomisation:
    """Similarity of a model's maps to those of its randomised copies, level by level (:func:`cascade`).

    Costs one call of ``maps`` per level and one more, and a forward pass of ``images`` per level with batch norms.

    Args:
        maps: from a model to its maps of ``images`` (..., N, H, W), raw and signed, of one size at every call. Ask for
            the class that the trained model predicts, or the true one: a randomised copy predicts another.
    """
    trained = maps(model)
    names, shares = ["trained"], [0.0]
    curve = [similarity(trained, trained)]
    for level in cascade(model, images, points, seed=seed):
        names.append(level.name)
        shares.append(level.share)
        curve.append(similarity(trained, maps(level.model)))
    stacked = (torch.stack([getattr(s, k) for s in curve]) for k in Similarity.__dataclass_fields__)
    return Randomisation(tuple(names), tuple(shares), *stacked)


@dataclass(frozen=True)
class Verdict:
    """Whether a map survives full randomisation.

    Attributes:
        answer: ``"survives"``, ``"depends on the weights"``, or ``"undecided"`` where there are too few images to say.
        similarity: mean over images at the last level.
        low, high: its 95 % bootstrap interval over images.
        threshold: that it was held against.
        images: on which the map is defined before and after.
        reason: the rule that applied, in words.
    """

    answer: Literal["survives", "depends on the weights", "undecided"]
    similarity: float
    low: float
    high: float
    threshold: float
    images: int
    reason: str


def survives(curve: Tensor, *, threshold: float = THRESHOLD) -> Verdict:
    """Does a map survive the randomisation of the model? From one similarity curve (L + 1, N) of :func:`randomisation`.

    The rule, on the mean similarity at the last level and its interval over images:

    - *survives* where the whole interval is at or above ``threshold``, or at or below -``threshold`` (a map that turns
      into its negative has kept its shape), or where the loss since the first level is not distinguishable from zero
      (its interval reaches zero);
    - *depends on the weights* where the whole interval lies between -``threshold`` and ``threshold``;
    - *undecided* else, and with fewer than three images on which the map is defined at both levels.

    Raises:
        ValueError: there are not at least two levels.
    """
    if curve.ndim != 2 or len(curve) < 2:
        raise ValueError(f"expected a curve of at least two levels over images, got shape {tuple(curve.shape)}")
    first, last = (curve[i].double().cpu().numpy() for i in (0, -1))
    defined = ~np.isnan(first) & ~np.isnan(last)
    images = int(defined.sum())
    mean, low, high = mean_interval(last[defined])
    _, least_loss, _ = mean_interval((first - last)[defined])
    if images < 3:
        return Verdict("undecided", mean, low, high, threshold, images, f"the maps of {images} images are defined")
    if least_loss <= 0:
        return Verdict("survives", mean, low, high, threshold, images, "no loss of similarity can be told from zero")
    if low >= threshold or high <= -threshold:
        return Verdict("survives", mean, low, high, threshold, images, f"similarity is at least {threshold:g}")
    if -threshold < low and high < threshold:
        return Verdict(
            "depends on the weights", mean, low, high, threshold, images, f"similarity is below {threshold:g}"
        )
    return Verdict("undecided", mean, low, high, threshold, images, f"the interval holds {threshold:g}")
