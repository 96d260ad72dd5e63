"""How much of a score is luck of training, how much luck of sampling: several runs of a model on the same images.

The model is that of two crossed random effects: run s is right on image i with Y[s, i] = mu + a[s] + b[i] + e[s, i],
where a is what a training run (its seed) changes for all images, b how hard an image is for all runs, and e the rest.
Bouthillier et al. 2021, "Accounting for variance in machine learning benchmarks"; the components are those of a two-way
analysis of variance without replication (Searle, Casella & McCulloch 1992, "Variance components").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from gradlens.records import Estimate
from gradlens.shift import intervals


@dataclass(frozen=True)
class Split:
    """The variance of one run's score on a fresh sample of as many images, in parts.

    Attributes:
        runs: how many there are.
        mean: of their scores.
        between: observed variance of the runs' scores (n - 1), which holds a part of the sampling.
        training: variance between training runs alone, sigma_a^2; 0 where the observed one is no larger than sampling.
        sampling: variance from drawing images, (sigma_b^2 + sigma_e^2) / n.
        shared: the part of it that all runs share, sigma_b^2 / n, because they are scored on the same images.
    """

    runs: int
    mean: float
    between: float
    training: float
    sampling: float
    shared: float

    @property
    def share(self) -> float:
        """Of the whole variance, the part that is training; ``nan`` where nothing varies."""
        whole = self.training + self.sampling
        return self.training / whole if whole > 0 else math.nan


def components(values: np.ndarray) -> tuple[float, float, float]:
    """(training, images, rest): the variance components sigma_a^2, sigma_b^2, sigma_e^2, none below 0.

    Mean squares of rows, columns and residual: (MS_rows - MS_rest) / n, (MS_columns - MS_rest) / S, MS_rest. A
    component that comes out negative is 0, as is usual.

    Args:
        values: (S, n) one value per run and image, S >= 2, n >= 2.
    """
    s, n = values.shape
    if s < 2 or n < 2:
        raise ValueError(f"components need two runs and two images, got {s} and {n}")
    values = values - values.mean()
    rows, columns = values.mean(axis=1), values.mean(axis=0)
    rest = values - rows[:, None] - columns[None, :]
    ms_rest = float((rest**2).sum() / ((s - 1) * (n - 1)))
    ms_rows, ms_columns = float(n * (rows**2).sum() / (s - 1)), float(s * (columns**2).sum() / (n - 1))
    return max(0.0, (ms_rows - ms_rest) / n), max(0.0, (ms_columns - ms_rest) / s), ms_rest


def split(sides: Sequence[np.ndarray]) -> Split:
    """The parts of the variance of a score that is a mean over images, or a difference of two such means.

    Args:
        sides: (S, n) values; one for a score or a difference within pairs of images, two for the first's mean minus
            the second's on independent samples of images.
    """
    runs = len(sides[0])
    scores = _scores(sides)
    parts = [(components(side), side.shape[1]) for side in sides]
    rest = sum(e / n for (_, _, e), n in parts)
    shared = sum(b / n for (_, b, _), n in parts)
    between = float(scores.var(ddof=1))
    return Split(runs, float(scores.mean()), between, max(0.0, between - rest), shared + rest, shared)


def _scores(sides: Sequence[np.ndarray]) -> np.ndarray:
    """(S,) each run's score."""
    first = sides[0].mean(axis=1)
    return np.asarray(first - sides[1].mean(axis=1) if len(sides) > 1 else first)


def mean_interval(sides: Sequence[np.ndarray], confidence: float = 0.95) -> Estimate:
    """The mean score of a family's runs, for new runs and new images, with a t interval; ``n`` counts runs.

    Variance: observed variance between runs over S, plus what the runs share by being scored on the same images.
    Degrees of freedom by Satterthwaite 1946: with two runs the interval is wide, as it should be.

    Args:
        sides: as :func:`split` takes them.
        confidence: nominal coverage.
    """
    found = split(sides)
    value, runs = found.mean, found.runs
    images = min(side.shape[1] for side in sides)
    half, _ = _half([(found.between / runs, runs - 1), (found.shared, images - 1)], confidence)
    return Estimate(value, value - half, value + half, runs, intervals.label("t over runs and images", confidence))


@dataclass(frozen=True)
class Difference:
    """Two families' mean scores compared.

    Attributes:
        value: first minus second, with its interval; ``n`` counts the runs of both.
        training_error, sampling_error: standard errors from the runs and from the images.
        freedom: degrees of freedom of the t interval.
        p: two-sided, of no difference.
    """

    value: Estimate
    training_error: float
    sampling_error: float
    freedom: float
    p: float


def difference(first: Sequence[np.ndarray], second: Sequence[np.ndarray], confidence: float = 0.95) -> Difference:
    """Is one family better than another beyond the luck of training and of sampling?

    Both are scored on the same images, so what is hard for both cancels. Variance: between the runs of each family
    over their number (Welch 1947), plus that of the difference of the families' means from image to image, over n. A
    little of the sampling is in both terms, so the interval errs on the wide side. Satterthwaite's degrees of freedom.

    Args:
        first, second: (S1, n) and (S2, n) values per side, on the same images in the same order; see :func:`split`.
        confidence: nominal coverage.
    """
    one, two = _scores(first), _scores(second)
    value = float(one.mean() - two.mean())
    terms = [(float(x.var(ddof=1)) / len(x), len(x) - 1) for x in (one, two)]
    training = sum(v for v, _ in terms)
    sampling = 0.0
    for a, b in zip(first, second, strict=True):
        d = a.mean(axis=0) - b.mean(axis=0)
        terms.append((float(d.var(ddof=1)) / len(d), len(d) - 1))
        sampling += terms[-1][0]
    half, freedom = _half(terms, confidence)
    error = math.sqrt(training + sampling)
    p = float(2 * stats.t.sf(abs(value) / error, freedom)) if error > 0 else float(value == 0)
    made = intervals.label("t over runs and images", confidence)
    estimate = Estimate(value, value - half, value + half, len(one) + len(two), made)
    return Difference(estimate, math.sqrt(training), math.sqrt(sampling), freedom, p)


def _half(terms: Sequence[tuple[float, int]], confidence: float) -> tuple[float, float]:
    """Half the width of a t interval, and its degrees of freedom, from (variance, degrees of freedom) terms."""
    total = sum(v for v, _ in terms)
    if total == 0:
        return 0.0, math.inf
    freedom = total**2 / sum(v**2 / df for v, df in terms)
    return float(stats.t.ppf((1 + confidence) / 2, freedom) * math.sqrt(total)), float(freedom)
