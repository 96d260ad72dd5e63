"""Attribution against truth: which of two twins reads the background, told from maps alone.

Two models of one architecture, trained by one recipe; for one of them the background went with the class, for the
other it did not. On paired images (the same object at the same place, another background) the maps of the model that
reads the background should lie less on the object, and move more when the background is swapped. Whoever trained the
twins knows the truth, so the answers of a method and depth can be counted as hits and misses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from gradlens.cam.localisation import energy
from gradlens.cam.measures import mean_interval, spearman

Answer = Literal["A", "B", "undecided"]


@dataclass(frozen=True)
class Evidence:
    """One feature of the maps, compared between the twins image by image.

    Attributes:
        feature: what was compared.
        a, b: mean over the pairs of model A and of model B.
        towards_a: mean over the pairs of the difference that speaks for A as the model that reads the background;
            negative values speak for B.
        low, high: its 95 % bootstrap interval over pairs.
        p: of the two-sided Wilcoxon signed-rank test that the difference is symmetric about zero; 1 where none differs.
        pairs: on which the feature is defined for both models.
        points_to: ``"A"`` or ``"B"`` where p is below the level asked for, else ``"undecided"``.
    """

    feature: str
    a: float
    b: float
    towards_a: float
    low: float
    high: float
    p: float
    pairs: int
    points_to: Answer


@dataclass(frozen=True)
class TwinAnswer:
    """Which twin was trained with the background correlation, and why.

    Attributes:
        answer: that model; ``"undecided"`` where no evidence is significant or the two contradict each other.
        energy: share of the map on the object, mean of the image and its pair; less of it speaks for a model.
        movement: 1 - Spearman correlation of the maps of an image and its pair; more of it speaks for a model.
        level: the chance, if the twins do not differ, that either evidence points somewhere (each gets half of it).
    """

    answer: Answer
    energy: Evidence
    movement: Evidence
    level: float


def tell_apart(
    a: Tensor, a_swapped: Tensor, b: Tensor, b_swapped: Tensor, masks: Tensor, *, level: float = 0.05
) -> TwinAnswer:
    """Which of two models was trained with the background correlation, from their maps alone.

    Two pieces of evidence, each with a paired test at ``level`` / 2 (Bonferroni). The answer is the model that the
    evidence points to; with one piece undecided the other decides, with both undecided or at odds nobody does. Where
    a map is blank or constant, its pair is left out of the evidence that needs it (:attr:`Evidence.pairs` says how many
    were left).

    Args:
        a, a_swapped: heat (N, H, W) of model A on N images, and on the same objects before another background.
        b, b_swapped: the same of model B.
        masks: bool (N, H, W): where the object is, in both images of a pair.
        level: of significance.

    Raises:
        ValueError: the shapes differ.
    """
    shapes = {tuple(t.shape) for t in (a, a_swapped, b, b_swapped, masks)}
    if len(shapes) != 1 or a.ndim != 3:
        raise ValueError(f"expected four stacks of maps and one of masks, all (N, H, W), got {sorted(shapes)}")
    on_a, on_b = ((energy(x, masks) + energy(y, masks)) / 2 for x, y in ((a, a_swapped), (b, b_swapped)))
    moved_a, moved_b = (1 - spearman(x, y) for x, y in ((a, a_swapped), (b, b_swapped)))
    return told_by(on_a, on_b, moved_a, moved_b, level=level)


def told_by(on_a: Tensor, on_b: Tensor, moved_a: Tensor, moved_b: Tensor, *, level: float = 0.05) -> TwinAnswer:
    """:func:`tell_apart` from what was measured of the maps before.

    Args:
        on_a, on_b: (N,) share of the map on the object, mean of an image and its pair; NaN where a map is blank.
        moved_a, moved_b: (N,) 1 - Spearman correlation of the maps of an image and its pair; NaN likewise.
        level: of significance.
    """
    by_energy = _evidence("energy on the object", on_a, on_b, less=True, level=level / 2)
    by_movement = _evidence("movement between paired images", moved_a, moved_b, less=False, level=level / 2)
    said = {by_energy.points_to, by_movement.points_to} - {"undecided"}
    answer: Answer = next(iter(said)) if len(said) == 1 else "undecided"
    return TwinAnswer(answer, by_energy, by_movement, level)


def _evidence(feature: str, a: Tensor, b: Tensor, *, less: bool, level: float) -> Evidence:
    """Compare (N,) values of the two models; ``less`` of the feature, or more of it, speaks for a model."""
    defined = torch.isfinite(a) & torch.isfinite(b)
    mine, other = (t[defined].double().cpu().numpy() for t in (a, b))
    towards_a = other - mine if less else mine - other
    mean, low, high = mean_interval(towards_a)
    p = float(stats.wilcoxon(towards_a).pvalue) if np.any(towards_a) else 1.0
    points_to: Answer = "undecided"
    if p < level and mean != 0:
        points_to = "A" if mean > 0 else "B"
    mean_a, mean_b = (float(x.mean()) if len(x) else float("nan") for x in (mine, other))
    return Evidence(feature, mean_a, mean_b, mean, low, high, p, len(mine), points_to)
