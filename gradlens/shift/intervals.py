"""Intervals: of one proportion, of a difference of two, and by bootstrap for everything else.

===========================  ==========================================  ================================
what                         function                                    paper
===========================  ==========================================  ================================
a proportion                 :func:`clopper_pearson`                     Clopper & Pearson 1934
                             :func:`wilson`                              Wilson 1927
difference, two samples      :func:`newcombe`                            Newcombe 1998a, method 10
difference, the same sample  :func:`newcombe_paired`                     Newcombe 1998b, method 10
anything made of sums        :func:`resample_units`,                     Efron 1979
                             :func:`resample_cells`, :func:`percentile`
one that sampling inflates   the same, :func:`basic`                     Davison & Hinkley 1997
===========================  ==========================================  ================================

All are two-sided. ``confidence`` is the nominal coverage, in (0, 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import betaincinv, ndtri

from gradlens.runtime import scratch

Interval = tuple[float, float]
"""(low, high)."""

_KEPT_DRAWS = 2**26  # bytes of one kept set of draws: 6,700 images with 10,000 resamples
_FILED_DRAWS = 2**29  # bytes of one kept set of draws in a file: 53,000 images with 10,000 resamples
_CHUNK = 2**22  # draws made at once where they are not kept; bounds the memory


def label(method: str, confidence: float) -> str:
    """How an interval was made, as tables print it: ``"Clopper-Pearson 95%"``."""
    return f"{method} {100 * confidence:g}%"


def _checked(k: float, n: float, confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if not 0 <= k <= n:
        raise ValueError(f"expected 0 <= k <= n, got k={k}, n={n}")


def clopper_pearson(k: float, n: float, confidence: float = 0.95) -> Interval:
    """Exact interval of a proportion, ``k`` of ``n``, in [0, 1]; never covers less often than ``confidence``.

    Counts are whole, but for effective ones of units that are not independent (Korn & Graubard 1998).

    The low end is 0 where k = 0, the high end 1 where k = n; nothing is known, (0, 1), where n = 0.
    Clopper & Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the binomial".

    >>> low, high = clopper_pearson(1800, 2000)
    >>> f"{low:.3f} to {high:.3f}"
    '0.886 to 0.913'
    """
    _checked(k, n, confidence)
    alpha = 1 - confidence
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, alpha / 2))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - alpha / 2))
    return low, high


def wilson(k: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion, ``k`` of ``n``, in [0, 1]; (0, 1) where n = 0.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    >>> low, high = wilson(0, 10)  # none of ten does not mean never
    >>> f"{low:.3f} to {high:.3f}"
    '0.000 to 0.278'
    """
    _checked(k, n, confidence)
    if n == 0:
        return 0.0, 1.0
    z = float(ndtri((1 + confidence) / 2))
    p = k / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # the ends are exactly 0 and 1 there; the formula leaves them at 1e-17
    return 0.0 if k == 0 else middle - half, 1.0 if k == n else middle + half


def newcombe(k0: int, n0: int, k1: int, n1: int, confidence: float = 0.95) -> Interval:
    """Interval of ``k0/n0 - k1/n1`` for two independent samples, in [-1, 1].

    Newcombe 1998, "Interval estimation for the difference between independent proportions", method 10 (hybrid score):
    the distances of the Wilson ends from their proportions, added as squares.
    """
    if n0 < 1 or n1 < 1:
        raise ValueError(f"a difference needs images on both sides, got {n0} and {n1}")
    p0, p1 = k0 / n0, k1 / n1
    low0, high0 = wilson(k0, n0, confidence)
    low1, high1 = wilson(k1, n1, confidence)
    d = p0 - p1
    return d - math.hypot(p0 - low0, high1 - p1), d + math.hypot(high0 - p0, p1 - low1)


def newcombe_paired(both: int, first: int, second: int, neither: int, confidence: float = 0.95) -> Interval:
    """Interval of the difference of two proportions on the same units, (first - second) / n, in [-1, 1].

    Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on paired
    data", method 10: as :func:`newcombe`, less what the correlation of the two proportions explains (phi with a
    continuity correction, 0 where a margin is empty).

    Args:
        both, first, second, neither: units that are right on both sides, on one side only, on neither.
        confidence: nominal coverage.

    >>> low, high = newcombe_paired(both=80, first=15, second=2, neither=3)
    >>> f"{low:.2f} to {high:.2f}"
    '0.05 to 0.22'
    """
    n = both + first + second + neither
    if n < 1:
        raise ValueError("a difference needs pairs, got none")
    k0, k1 = both + first, both + second
    p0, p1 = k0 / n, k1 / n
    low0, high0 = wilson(k0, n, confidence)
    low1, high1 = wilson(k1, n, confidence)
    margins = k0 * (n - k0) * k1 * (n - k1)
    product = float(both * neither - first * second)
    if product > 0:
        product = max(product - n / 2, 0)
    phi = product / math.sqrt(margins) if margins else 0.0

    def length(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))

    d = (first - second) / n
    return d - length(p0 - low0, high1 - p1), d + length(high0 - p0, p1 - low1)


def percentile(values: np.ndarray, point: float, confidence: float = 0.95) -> Interval:
    """Percentile interval from resampled values, widened where needed to contain the point estimate.

    A biased statistic (the worst class) can lie outside the percentiles of its own resamples; see :func:`basic`.
    Efron 1979, "Bootstrap methods: another look at the jackknife".

    Args:
        values: (B,) the statistic on each resample, finite.
        point: the statistic on the sample itself.
        confidence: nominal coverage.
    """
    _checked(0, 0, confidence)
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return min(float(low), point), max(float(high), point)


def basic(
    values: np.ndarray, point: float, confidence: float = 0.95, ends: Interval = (-math.inf, math.inf)
) -> Interval:
    """Basic interval: the percentile interval mirrored at the point estimate, cut off at the ends of the range.

    For a statistic that sampling inflates, as it does a sum of absolute values. Resampling inflates it once more, so
    the percentiles lie above the truth by the bias twice; mirrored, by none of it to first order. Davison & Hinkley
    1997, "Bootstrap methods and their application", section 5.2.

    Args:
        values: (B,) the statistic on each resample, finite.
        point: the statistic on the sample itself.
        confidence: nominal coverage.
        ends: of the statistic's range.
    """
    low, high = percentile(values, point, confidence)
    return max(ends[0], 2 * point - high), min(ends[1], 2 * point - low)


def bootstrap(
    values: np.ndarray, point: float, confidence: float, *, inflated: bool, ends: Interval
) -> tuple[float, float, str]:
    """Low, high and method: :func:`basic` for what sampling inflates, which alone needs ``ends``, else
    :func:`percentile`.
    """
    if inflated:
        return *basic(values, point, confidence, ends), "basic bootstrap"
    return *percentile(values, point, confidence), "bootstrap"


def _draw(n: int, rows: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of n units is drawn in n draws with replacement: (rows, n)."""
    drawn = rng.integers(n, size=(rows, n), dtype=np.int32 if n * rows < 2**31 else np.int64)
    drawn += np.arange(rows, dtype=drawn.dtype)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)


def _draws(n: int, resamples: int, seed: int, stream: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng([seed, stream])
    rows = max(1, _CHUNK // n)
    for start in range(0, resamples, rows):
        yield _draw(n, min(rows, resamples - start), rng)


@lru_cache(maxsize=2)  # all models of a run share the draws of an image set
def _kept_draws(n: int, resamples: int, seed: int, stream: int) -> np.ndarray:
    """(resamples, n) uint8; in a file where they are many."""
    shape = resamples, n
    kept = np.empty(shape, np.uint8) if is_small(n, resamples) else scratch(shape, np.uint8)
    start = 0
    for draws in _draws(n, resamples, seed, stream):
        kept[start : start + len(draws)] = draws
        start += len(draws)
    return kept


def _kept_or_drawn(n: int, resamples: int, seed: int, stream: int) -> Iterator[np.ndarray]:
    """Draws, chunk by chunk: those that were kept, or anew where they are too many or there is no room for them."""
    try:
        if n * resamples > _FILED_DRAWS:
            raise OSError
        kept = _kept_draws(n, resamples, seed, stream)
    except OSError:
        return _draws(n, resamples, seed, stream)
    rows = max(1, _CHUNK // n)
    return (kept[start : start + rows] for start in range(0, resamples, rows))


def is_small(n: int, resamples: int) -> bool:
    """Whether the draws of :func:`resample_units` stay in memory; :func:`resample_cells` is then slower."""
    return n * resamples <= _KEPT_DRAWS


def resample_units(columns: Any, resamples: int, seed: int = 0, stream: int = 0) -> Iterator[np.ndarray]:
    """Nonparametric bootstrap of column sums: n rows drawn with replacement, again and again.

    The same n, seed and stream draw the same rows, so that two calls with the same units make a paired bootstrap.

    Args:
        columns: (n, m) array or scipy sparse array, n >= 1.
        resamples: how many.
        seed: of the draws.
        stream: samples that are to be independent get different ones.

    Yields:
        (b, m) sums of the next b resamples.
    """
    for draws in _kept_or_drawn(columns.shape[0], resamples, seed, stream):
        yield draws.astype(np.float64) @ columns


def resample_cells(
    columns: Any, counts: np.ndarray, resamples: int, seed: int = 0, stream: int = 0
) -> Iterator[np.ndarray]:
    """The same bootstrap where many rows are equal: how often each *kind* of row is drawn is multinomial.

    Exactly the distribution of :func:`resample_units` on the repeated rows, at a cost that does not depend on their
    number: for a confusion matrix, the kinds are its cells.

    Args:
        columns: (c, m) array or scipy sparse array, one row per kind.
        counts: (c,) how many units are of each kind, all positive.
        resamples: how many.
        seed: of the draws.
        stream: samples that are to be independent get different ones.

    Yields:
        (b, m) sums of the next b resamples.
    """
    rng = np.random.default_rng([seed, stream])
    n = int(counts.sum())
    rows = max(1, _CHUNK // len(counts))
    # multinomial draws cell after cell until none are left: large ones first is faster
    order = np.argsort(-counts, kind="stable")
    columns, shares = columns[order], counts[order] / n
    for start in range(0, resamples, rows):
        yield rng.multinomial(n, shares, size=min(rows, resamples - start)).astype(np.float64) @ columns
