"""How explanations move between two image sets: what was measured of each map goes in, changes with intervals come out.

Nothing here knows what a map is. The inputs are numbers per image (energy inside the mask, entropy, ...), pooled maps
per image, and whether an image was flipped from right to wrong.

===================================  ===================================  ==========================================
what                                 function                             paper
===================================  ===================================  ==========================================
change of a mean, same scenes        :func:`paired_change`                Efron 1979 (bootstrap over scenes)
change of a mean, other images       :func:`unpaired_change`              Efron 1979 (bootstrap within classes)
change of a share                    :func:`share_change`                 Newcombe 1998 (a, b), method 10
likeness of mean maps                :func:`mean_map_similarity`          Pearson 1895, bootstrap over images
does a change go with an error?      :func:`separation`                   Mann & Whitney 1947; Newcombe 2006, method 5
do models that move lose more?       :func:`rank_association`             Spearman 1904; Bonett & Wright 2000
===================================  ===================================  ==========================================

Nothing but the images was manipulated, so what goes together is *associated*: a map that moved is not why a model
erred.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import ndtri

from gradlens.shift import intervals

FEWEST_MODELS = 5
"""Models that an association across models needs."""

_AT_ONCE = 2**22  # floats of resampled maps at once; bounds the memory


@dataclass(frozen=True)
class Change:
    """A measure in distribution, on the probe set, and the difference.

    Attributes:
        in_dist, probe: its mean on either side.
        change: ``probe - in_dist``; low, high: its interval.
        n: pairs (paired), or images of the smaller side (unpaired) with a value; undefined: those without one.
        interval: how the interval was made, or why there is no value.
    """

    in_dist: float
    probe: float
    change: float
    low: float
    high: float
    n: int
    undefined: int
    interval: str

    @classmethod
    def nothing(cls, reason: str, undefined: int) -> Change:
        """No value, and why."""
        nan = math.nan
        return cls(nan, nan, nan, nan, nan, 0, undefined, f"not defined: {reason}")


# --- which images ----------------------------------------------------------------------------------------------------


def balanced(ids_by_class: Mapping[str, Iterable[str]], most: int, seed: int = 0) -> list[str]:
    """At most ``most`` ids, as many of each class as can be, drawn at random; sorted.

    The draw depends on the ids and the seed alone, not on their order: each id has its own random number (a hash of
    seed and id), and the smallest of each class are taken in turns.
    """
    if most < 1:
        raise ValueError(f"expected at least one image, got {most}")

    def lot(name: str) -> bytes:
        return hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()

    ranked = {c: sorted(set(ids), key=lot) for c, ids in ids_by_class.items()}
    turns = max(map(len, ranked.values()), default=0)
    classes = sorted(ranked, key=lot)  # the last turn may not reach all of them: which, is drawn too
    in_turn = [ranked[c][t] for t in range(turns) for c in classes if t < len(ranked[c])]
    return sorted(in_turn[:most])


# --- changes ---------------------------------------------------------------------------------------------------------


def paired_change(
    in_dist: np.ndarray, probe: np.ndarray, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> list[Change]:
    """Mean change of each of m measures over n pairs of images of the same scene.

    A pair counts for a measure where both sides have a value. Percentile bootstrap over pairs; all measures share the
    draws.

    Args:
        in_dist, probe: (n, m) values of the same scenes in the same order; NaN where there is none.
    """
    if in_dist.shape != probe.shape or in_dist.ndim != 2:
        raise ValueError(f"expected two arrays (pairs, measures) of one shape, got {in_dist.shape} and {probe.shape}")
    n, m = in_dist.shape
    there = np.isfinite(in_dist) & np.isfinite(probe)
    difference = np.where(there, probe - in_dist, 0.0)
    counts = there.sum(axis=0)
    draws = np.empty((0, 2 * m))
    if n:
        columns = np.hstack([difference, there.astype(np.float64)])
        draws = np.concatenate(list(intervals.resample_units(columns, resamples, seed)))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = draws[:, :m] / draws[:, m:]
    found = []
    for j in range(m):
        k = int(counts[j])
        if not k:
            found.append(Change.nothing("no pair has a value on both sides", n))
            continue
        before, after = (float(side[there[:, j], j].mean()) for side in (in_dist, probe))
        point = after - before
        drawn = means[:, j]
        low, high = intervals.percentile(drawn[np.isfinite(drawn)], point, confidence)
        label = intervals.label("paired bootstrap", confidence)
        found.append(Change(before, after, point, low, high, k, n - k, label))
    return found


def unpaired_change(
    in_dist: np.ndarray,
    probe: np.ndarray,
    in_dist_classes: np.ndarray,
    probe_classes: np.ndarray,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[Change]:
    """Mean change of each of m measures between different images of the same classes.

    Each side's mean is the mean over classes of the class means, over the classes with a value on both sides, so that
    a different class mix is no change. Percentile bootstrap over images within classes.

    Args:
        in_dist, probe: (n0, m) and (n1, m) values; NaN where there is none.
        in_dist_classes, probe_classes: (n0,) and (n1,) class names or numbers.
    """
    if in_dist.shape[1:] != probe.shape[1:] or in_dist.ndim != 2:
        raise ValueError(f"expected two arrays (images, measures), got {in_dist.shape} and {probe.shape}")
    shared = sorted(set(in_dist_classes.tolist()) & set(probe_classes.tolist()))
    m = in_dist.shape[1]
    sides = [
        _by_class(values, classes, shared) for values, classes in ((in_dist, in_dist_classes), (probe, probe_classes))
    ]
    counts = [np.array([c[:, m:].sum(axis=0) for c in columns]).reshape(-1, m) for columns in sides]
    both = (counts[0] > 0) & (counts[1] > 0)  # (classes, m)
    means, drawn = [], []
    for stream, columns in enumerate(sides):
        mean, total, times = np.zeros(m), np.zeros((resamples, m)), np.zeros((resamples, m))
        for number, own in enumerate(columns):
            sums = np.concatenate(list(intervals.resample_units(own, resamples, seed, 2 * number + stream)))
            # a resample may draw none of a class's few images with a value
            defined = (sums[:, m:] > 0) & both[number]
            total += np.where(defined, sums[:, :m] / np.where(defined, sums[:, m:], 1), 0.0)
            times += defined
            mean += np.where(both[number], own[:, :m].sum(axis=0) / np.maximum(own[:, m:].sum(axis=0), 1), 0.0)
        means.append(mean / np.maximum(both.sum(axis=0), 1))
        drawn.append(np.where(times > 0, total / np.maximum(times, 1), np.nan))
    smaller = min(len(in_dist), len(probe))
    found = []
    for j in range(m):
        if not both[:, j].any():
            found.append(Change.nothing("no class has a value on both sides", smaller))
            continue
        before, after = float(means[0][j]), float(means[1][j])
        n = int(min(side[both[:, j], j].sum() for side in counts))
        difference = drawn[1][:, j] - drawn[0][:, j]
        low, high = intervals.percentile(difference[np.isfinite(difference)], after - before, confidence)
        made = intervals.label("bootstrap within classes", confidence)
        found.append(Change(before, after, after - before, low, high, n, smaller - n, made))
    return found


def _by_class(values: np.ndarray, classes: np.ndarray, names: Sequence[object]) -> list[np.ndarray]:
    """Per class (n, 2m): the values with 0 where there is none, and whether there is one."""
    found = []
    for name in names:
        own = values[classes == name]
        there = np.isfinite(own)
        found.append(np.hstack([np.where(there, own, 0.0), there.astype(np.float64)]))
    return found


def share_change(in_dist: np.ndarray, probe: np.ndarray, paired: bool, confidence: float = 0.95) -> Change:
    """Change of the share of images for which something holds, in [-1, 1].

    Args:
        in_dist, probe: bool (n0,) and (n1,); of the same scenes in the same order where ``paired``.
        paired: chooses Newcombe's paired interval over the one of independent samples.
    """
    if not (len(in_dist) and len(probe)):
        return Change.nothing("no image on one side", max(len(in_dist), len(probe)))
    before, after = float(in_dist.mean()), float(probe.mean())
    point = after - before
    if paired:
        a, b, c, d = (int(x.sum()) for x in (probe & in_dist, probe & ~in_dist, ~probe & in_dist, ~probe & ~in_dist))
        low, high = intervals.newcombe_paired(a, b, c, d, confidence)
        made = "paired Newcombe"
    else:
        low, high = intervals.newcombe(int(probe.sum()), len(probe), int(in_dist.sum()), len(in_dist), confidence)
        made = "Newcombe"
    n = min(len(in_dist), len(probe))
    return Change(before, after, point, min(low, point), max(high, point), n, 0, intervals.label(made, confidence))


def mean_map_similarity(
    in_dist: np.ndarray,
    probe: np.ndarray,
    in_dist_classes: np.ndarray,
    probe_classes: np.ndarray,
    paired: bool,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Change:
    """How alike the mean maps of the same class are in two sets: Pearson correlation over cells, mean over classes.

    In [-1, 1]; a set compared with itself has 1, which is what ``in_dist`` says. Two samples of one population have
    less, the fewer images and the finer the grid: read the value beside those of other probe sets, not beside 1.
    Percentile bootstrap over images within classes, widened to contain the value (resampled means are noisier, and so
    less alike); the same scenes are drawn on both sides where ``paired``.

    Args:
        in_dist, probe: (n0, cells) and (n1, cells) maps, each of sum 1; NaN where an image has none.
        in_dist_classes, probe_classes: (n0,) and (n1,).
        paired: whether row i shows the same scene on both sides.
    """
    there0, there1 = np.isfinite(in_dist).all(axis=1), np.isfinite(probe).all(axis=1)
    if paired:
        there0 = there1 = there0 & there1
    smaller = min(len(in_dist), len(probe))
    points, drawn, n = [], [], [0, 0]
    for name in sorted(set(in_dist_classes.tolist()) & set(probe_classes.tolist())):
        a = in_dist[there0 & (in_dist_classes == name)]
        b = probe[there1 & (probe_classes == name)]
        if not (len(a) and len(b)):
            continue
        value = _correlation(a.mean(axis=0)[None], b.mean(axis=0)[None])[0]
        if math.isnan(value):
            continue
        points.append(value)
        n = [n[0] + len(a), n[1] + len(b)]
        drawn.append(_drawn_similarity(a, b, paired, resamples, np.random.default_rng([seed, len(points)])))
    if not points:
        return Change.nothing("no class has a mean map on both sides that varies over its cells", smaller)
    point = float(np.mean(points))
    values = np.nanmean(np.array(drawn), axis=0)
    low, high = intervals.percentile(values[np.isfinite(values)] - 1, point - 1, confidence)
    made = intervals.label("paired bootstrap" if paired else "bootstrap within classes", confidence)
    return Change(1.0, point, point - 1, low, high, min(n), smaller - min(n), f"{made}, {resamples} resamples")


def _drawn_similarity(
    a: np.ndarray, b: np.ndarray, paired: bool, resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """(resamples,) correlation of the mean maps of resampled images."""
    found = []
    size = max(1, _AT_ONCE // a.shape[1])
    for start in range(0, resamples, size):
        count = min(size, resamples - start)
        weights = rng.multinomial(len(a), np.full(len(a), 1 / len(a)), size=count)
        other = weights if paired else rng.multinomial(len(b), np.full(len(b), 1 / len(b)), size=count)
        found.append(_correlation(weights @ a, other @ b))
    return np.concatenate(found)


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(r,) Pearson correlation of the rows of two arrays (r, cells); NaN where a row is constant."""
    x = x - x.mean(axis=1, keepdims=True)
    y = y - y.mean(axis=1, keepdims=True)
    norm = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    constant = norm <= 1e-12 * max(1e-300, float(np.abs(norm).max()))
    return np.where(constant, np.nan, (x * y).sum(axis=1) / np.where(constant, 1.0, norm))


# --- associations ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Separation:
    """How a value differs between two groups of images, flipped ones and ones that stayed right.

    Attributes:
        n_flipped, n_stayed: images with a value.
        flipped, stayed: means; difference: ``flipped - stayed`` with its interval low to high.
        auroc: chance that a flipped image has the larger value than one that stayed (ties count half), in [0, 1], with
            its interval auroc_low to auroc_high; one half: the value tells nothing.
        p: two-sided Mann-Whitney test that the two have the same distribution.
        interval: how both intervals were made, or why there are none.
    """

    n_flipped: int
    n_stayed: int
    flipped: float
    stayed: float
    difference: float
    low: float
    high: float
    auroc: float
    auroc_low: float
    auroc_high: float
    p: float
    interval: str


def separation(
    values: np.ndarray, flipped: np.ndarray, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Separation:
    """Compare a value between flipped and other images; images without a value are left out.

    The difference of means has a percentile bootstrap interval, both groups resampled on their own; the AUROC has
    :func:`auroc_interval`.

    Args:
        values: (n,); NaN where there is none.
        flipped: (n,) bool.
    """
    there = np.isfinite(values)
    a, b = values[there & flipped], values[there & ~flipped]
    if len(a) < 2 or len(b) < 2:
        nan = math.nan
        mean_a, mean_b = (float(x.mean()) if len(x) else nan for x in (a, b))
        reason = f"not defined: {len(a)} flipped and {len(b)} other images, at least two of each are needed"
        return Separation(len(a), len(b), mean_a, mean_b, nan, nan, nan, nan, nan, nan, nan, reason)
    draws = [
        np.concatenate(list(intervals.resample_units(x[:, None], resamples, seed, stream)))[:, 0] / len(x)
        for stream, x in enumerate((a, b))
    ]
    difference = float(a.mean() - b.mean())
    low, high = intervals.percentile(draws[0] - draws[1], difference, confidence)
    test = stats.mannwhitneyu(a, b)
    area = float(test.statistic) / (len(a) * len(b))
    area_low, area_high = auroc_interval(area, len(a), len(b), confidence)
    made = f"{intervals.label('bootstrap', confidence)}; AUROC {intervals.label('Newcombe 2006', confidence)}"
    p = float(test.pvalue) if np.ptp(np.concatenate([a, b])) > 0 else 1.0
    return Separation(
        len(a),
        len(b),
        float(a.mean()),
        float(b.mean()),
        difference,
        low,
        high,
        area,
        area_low,
        area_high,
        p,
        made,
    )


def auroc_interval(area: float, m: int, n: int, confidence: float = 0.95) -> intervals.Interval:
    """Interval of an AUROC from m and n cases, in [0, 1].

    The areas t with |area - t| = z sqrt(V(t)), where V(t) = t (1 - t) [1 + (N - 1) ((1 - t)/(2 - t) + t/(1 + t))] / mn
    and N = (m + n) / 2: Hanley & McNeil's variance at the end itself, not at the estimate, so that a perfect separation
    has an interval too. Newcombe 2006, "Confidence intervals for an effect size measure based on the Mann-Whitney
    statistic. Part 2: asymptotic methods and evaluation", method 5.
    """
    if m < 1 or n < 1 or not 0 <= area <= 1:
        raise ValueError(f"expected an area in [0, 1] and cases of both kinds, got {area}, {m}, {n}")
    z = float(ndtri((1 + confidence) / 2))
    middle = (m + n) / 2

    def beyond(t: float) -> float:
        spread = 1 + (middle - 1) * ((1 - t) / (2 - t) + t / (1 + t))
        return (area - t) ** 2 - z * z * t * (1 - t) * spread / (m * n)

    nearly = 1 - 1e-12  # at 1 itself the equation holds for an area of 1, and so at 0
    low = 0.0 if area == 0 else float(brentq(beyond, 0.0, min(area, nearly)))
    high = 1.0 if area == 1 else float(brentq(beyond, max(area, 1 - nearly), 1.0))
    return min(low, area), max(high, area)


@dataclass(frozen=True)
class Association:
    """Spearman's rank correlation across models.

    Attributes:
        rho: in [-1, 1]; low, high: its interval.
        p: two-sided permutation test that the ranks are unrelated.
        n: models.
        interval: how the interval was made, or why there is no value.
    """

    rho: float
    low: float
    high: float
    p: float
    n: int
    interval: str


def rank_association(
    x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, confidence: float = 0.95, seed: int = 0
) -> Association:
    """Do models with more of one thing have more of another? Spearman's rho; models without a value are left out.

    The interval is Fisher's with the variance (1 + rho^2 / 2) / (n - 3), Bonett & Wright 2000, "Sample size
    requirements for estimating Pearson, Kendall and Spearman correlations"; a perfect rho, whose transform is infinite,
    has the other end of the next smaller rho that n ranks can give. The p value counts permutations, all of them where
    they are few (7 models), else 9,999 at random. Fewer than :data:`FEWEST_MODELS` models are refused. Models of one
    family, or trained on the same images, are not independent: the interval is too narrow for them.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    there = np.isfinite(a) & np.isfinite(b)
    a, b = a[there], b[there]
    n, nan = len(a), math.nan
    if n < FEWEST_MODELS:
        return Association(nan, nan, nan, nan, n, f"not defined: {n} models, at least {FEWEST_MODELS} are needed")
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return Association(nan, nan, nan, nan, n, "not defined: all models have the same value")
    # permutations are drawn by position: in the order of the values they do not depend on the order of the models
    order = np.lexsort((b, a))
    first, second = (stats.zscore(stats.rankdata(v[order])) for v in (a, b))
    rho = float(np.clip((first * second).mean(), -1, 1))

    def statistic(shuffled: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray((shuffled * second).mean(axis=axis))

    test = stats.permutation_test(
        (first,), statistic, permutation_type="pairings", n_resamples=9999, vectorized=True,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    inner = 1 - 12 / (n * (n * n - 1))
    z = math.atanh(max(-inner, min(inner, rho)))
    reach = float(ndtri((1 + confidence) / 2)) * math.sqrt((1 + rho * rho / 2) / (n - 3))
    low, high = math.tanh(z - reach), math.tanh(z + reach)
    low, high = (-1.0 if rho <= -inner else low), (1.0 if rho >= inner else high)
    made = intervals.label("Fisher z (Bonett & Wright)", confidence)
    return Association(rho, min(low, rho), max(high, rho), float(test.pvalue), n, made)
