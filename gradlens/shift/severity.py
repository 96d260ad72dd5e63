"""Accuracy by severity of a shift, and whether it falls with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from gradlens.shift import intervals
from gradlens.shift.factors import Factor, by_level
from gradlens.shift.sides import Sides


@dataclass(frozen=True)
class Step:
    """One model's accuracy on the probe images of one severity.

    Attributes:
        n: images.
        accuracy, low, high: in [0, 1], with its Clopper-Pearson interval.
        drop, drop_low, drop_high: against the same scenes in distribution (paired) or all in-distribution images.
        interval, drop_interval: how they were made.
    """

    model: str
    severity: int
    n: int
    accuracy: float
    low: float
    high: float
    interval: str
    drop: float
    drop_low: float
    drop_high: float
    drop_interval: str


@dataclass(frozen=True)
class Trend:
    """How accuracy changes from one severity to the next, as the slope of a straight line.

    Attributes:
        slope: accuracy lost per step, a fraction; positive where it falls.
        low, high: its interval; p: two-sided, of no slope.
        interval: how they were made, or why there are none.
        n: images; scenes: independent units among them.
    """

    model: str
    slope: float
    low: float
    high: float
    p: float
    interval: str
    n: int
    scenes: int


def by_severity(sides: Sides, severities: Sequence[int], confidence: float = 0.95) -> list[Step]:
    """Accuracy and drop at each severity, for each model.

    Args:
        sides: what the models got right.
        severities: of the probe images, in the order of ``sides.ids1``.
        confidence: nominal coverage.
    """
    at = np.asarray(severities)
    found = []
    for level in sorted(set(severities)):
        chosen = at == level
        # one level on both sides: independent samples are compared with the whole in-distribution set
        only = Factor("severity", ("",) * len(sides.ids0), tuple("" if c else "other" for c in chosen))
        drops = {d.model: d for d in by_level(sides, only, confidence) if d.level == ""}
        for m, model in enumerate(sides.models):
            k, n = int(sides.right1[chosen, m].sum()), int(chosen.sum())
            low, high = intervals.clopper_pearson(k, n, confidence)
            d = drops[model]
            made = intervals.label("Clopper-Pearson", confidence)
            found.append(Step(model, level, n, k / n, low, high, made, d.drop, d.low, d.high, d.interval))
    return sorted(found, key=lambda step: (sides.models.index(step.model), step.severity))


def trends(sides: Sides, severities: Sequence[int], confidence: float = 0.95) -> list[Trend]:
    """The slope of what is lost over severity, for each model.

    Least squares of the paired difference (or, for independent sides, of being wrong) on severity, with the variance
    left free (White 1980, with n / (n - 2)) and clustered by scene where scenes have several images (Liang & Zeger
    1986); t interval with one degree of freedom per scene, less one (less two where each image is a scene).
    """
    x = np.asarray(severities, dtype=np.float64)
    y = sides.lost if sides.partner is not None else 1.0 - sides.right1
    return [
        Trend(model, *slope(x, y[:, m], sides.scene, confidence), len(x), int(sides.scene.max()) + 1)
        for m, model in enumerate(sides.models)
    ]


def slope(
    x: np.ndarray, y: np.ndarray, cluster: np.ndarray, confidence: float = 0.95
) -> tuple[float, float, float, float, str]:
    """(slope, low, high, p, how) of y on x by least squares with cluster-robust errors.

    Args:
        x, y: (n,).
        cluster: (n,) numbers from 0; images of one scene share theirs.
        confidence: nominal coverage.
    """
    n, g = len(x), int(cluster.max()) + 1 if len(cluster) else 0
    centred = x - x.mean() if n else x
    spread = float(centred @ centred)
    if spread == 0:
        return math.nan, math.nan, math.nan, math.nan, "not defined: one severity only"
    b = float(centred @ y) / spread
    if g < 3:
        return b, math.nan, math.nan, math.nan, f"not defined: {g} scenes"
    residual = y - y.mean() - b * centred
    summed = np.bincount(cluster, centred * residual, minlength=g)
    if g == n:
        factor, df, made = n / (n - 2), n - 2, "robust t"
    else:
        factor, df, made = g / (g - 1) * (n - 1) / (n - 2), g - 1, "cluster-robust t"
    error = math.sqrt(factor * float(summed @ summed)) / spread
    if error == 0:
        # every image of a severity fares alike: the line is exact, and so tells nothing of other images
        return b, b, b, math.nan, "not defined: no variation around the line"
    half = float(student.ppf((1 + confidence) / 2, df)) * error
    return b, b - half, b + half, 2 * float(student.sf(abs(b) / error, df)), intervals.label(made, confidence)
