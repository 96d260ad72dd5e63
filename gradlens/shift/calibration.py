"""Do confidences mean what they say? Calibration before and after temperature scaling, and the risk of abstaining less.

The temperature is fitted on in-distribution data only. On that data itself the scores after scaling are cross-fitted:
the images are split in halves, and each half is scored with the temperature of the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from scipy import sparse
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from gradlens.records import Estimate
from gradlens.registry import Registry
from gradlens.shift import intervals
from gradlens.shift.metrics import ECE_BINS, Scored

COOLEST, HOTTEST = 0.01, 100.0
"""Temperatures are looked for between these; a model that makes no error would want 0."""

MOST_RESAMPLES = 1000
_DRAWS = 2**22  # of images by one bootstrap: 419 resamples of 10,000 images, 250 at least
_CHUNK = 2**21


@dataclass(frozen=True, eq=False)
class Graded:
    """What calibration is made of, per image.

    Attributes:
        p: (n, C) probabilities.
        log_p_true: (n,) log probability of the true class; ``nan`` where the model does not know it.
        truth: (n,) column of the true class, -1 where the model does not know it.
        confidence: (n,) of the predicted class.
        correct: (n,) bool.
    """

    p: np.ndarray
    log_p_true: np.ndarray
    truth: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray

    def __len__(self) -> int:
        return len(self.correct)

    def take(self, images: np.ndarray) -> Graded:
        """The given images, in the given order."""
        parts = (self.p, self.log_p_true, self.truth, self.confidence, self.correct)
        return Graded(*(part[images] for part in parts))


def graded(scored: Scored, temperature: float | np.ndarray = 1.0) -> Graded:
    """Probabilities of ``softmax(logits / T)``.

    Args:
        scored: with logits.
        temperature: T > 0, one for all images or (n,) one each.

    Raises:
        ValueError: there are no logits.
    """
    if scored.logits is None:
        raise ValueError("calibration needs logits")
    scale = np.broadcast_to(np.asarray(temperature, dtype=np.float64), len(scored))[:, None]
    log_p = log_softmax(scored.logits.astype(np.float64) / scale, axis=1)
    p = np.exp(log_p)
    rows = np.arange(len(scored))
    known = scored.column >= 0
    own = np.where(known, log_p[rows, np.where(known, scored.column, 0)], math.nan)
    return Graded(p, own, scored.column, np.minimum(p.max(axis=1, initial=0.0), 1.0), scored.correct)


def temperature(scored: Scored, images: np.ndarray | None = None) -> float:
    """The T that makes -mean log softmax(logits / T)[true class] smallest, in [0.01, 100].

    Guo et al. 2017, "On calibration of modern neural networks". The loss is convex in 1 / T. Above 1: the model is too
    sure of itself. Images of classes that the model does not know are left out.

    Args:
        scored: with logits.
        images: (m,) which images to fit on; all by default.

    Raises:
        ValueError: no logits, or no image of a class that the model knows.
    """
    if scored.logits is None:
        raise ValueError("calibration needs logits")
    chosen = np.arange(len(scored)) if images is None else images
    chosen = chosen[scored.column[chosen] >= 0]
    if not len(chosen):
        raise ValueError("a temperature needs images of classes that the model knows")
    logits = scored.logits[chosen].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    own = logits[np.arange(len(chosen)), scored.column[chosen]]
    if (own == 0).all():
        return COOLEST  # without an error the loss falls for as long as T does

    def loss(log_t: float) -> float:
        scale = math.exp(-log_t)
        return float(np.mean(np.log(np.exp(logits * scale).sum(axis=1)) - own * scale))

    found = minimize_scalar(loss, bounds=(math.log(COOLEST), math.log(HOTTEST)), method="bounded", options=_PRECISE)
    return float(math.exp(found.x))


_PRECISE = {"xatol": 1e-6}


def cross_fitted(scored: Scored, seed: int = 0) -> np.ndarray:
    """(n,) temperatures: each half of the images gets the one that was fitted on the other half.

    The halves are drawn from the images in the order of their ids, so the order of files does not matter.

    Raises:
        ValueError: a half has no image of a class that the model knows.
    """
    order = np.random.default_rng([seed, len(scored)]).permutation(len(scored))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    found = np.empty(len(scored))
    found[halves[0]], found[halves[1]] = temperature(scored, halves[1]), temperature(scored, halves[0])
    return found


# --- scores ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """A calibration score.

    Attributes:
        of: a :class:`Graded` and (B, n) weights (how often each image counts; sums to n) to (B,) values.
        title: as a figure or table heads it.
        needs_truth: whether every true class must be one that the model knows.
        inflated: whether sampling makes it larger, so that its interval is the basic one.
    """

    of: Callable[[Graded, np.ndarray], np.ndarray]
    title: str
    needs_truth: bool
    inflated: bool


SCORES: Registry[Score] = Registry("calibration score")


def score(
    name: str, title: str, *, needs_truth: bool = False, inflated: bool = False
) -> Callable[[Callable[[Graded, np.ndarray], np.ndarray]], Callable[[Graded, np.ndarray], np.ndarray]]:
    """File a function of :class:`Graded` and weights as a calibration score."""

    def file(function: Callable[[Graded, np.ndarray], np.ndarray]) -> Callable[[Graded, np.ndarray], np.ndarray]:
        SCORES.register(name)(Score(function, title, needs_truth, inflated))
        return function

    return file


def _bins(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Which bin (lo, hi] each value is in; the first one holds its lower end too."""
    return np.clip(np.searchsorted(edges, values, side="left") - 1, 0, len(edges) - 2)


def _gaps(graded: Graded, bins: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """(B,) sum over bins of |sum of (correct - confidence)| over the number of images."""
    excess = sparse.csr_array(
        (graded.correct - graded.confidence, (np.arange(len(bins)), bins)), shape=(len(bins), count)
    )
    return np.asarray(np.abs(weights @ excess.toarray().astype(weights.dtype)).sum(axis=1) / weights.sum(axis=1))


@score("ece", "Calibration error", inflated=True)
def ece(graded: Graded, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error over 15 bins (lo, hi] of equal width, in [0, 1]. Naeini et al. 2015; Guo et al. 2017.

    Biased upwards with few images per bin: even a calibrated model has one above 0.
    """
    return _gaps(graded, _bins(graded.confidence, np.linspace(0, 1, ECE_BINS + 1)), weights, ECE_BINS)


@score("ece_equal_mass", "Calibration error, equal mass", inflated=True)
def ece_equal_mass(graded: Graded, weights: np.ndarray) -> np.ndarray:
    """The same over 15 bins that hold equally many images, in [0, 1]. Nguyen & O'Connor 2015; Nixon et al. 2019.

    Bins end at quantiles of the confidences; equal confidences share a bin, so that the order of images does not
    matter. In resamples the bins stay those of the sample.
    """
    edges = equal_mass_edges(graded.confidence, ECE_BINS)
    return _gaps(graded, _bins(graded.confidence, edges), weights, len(edges) - 1)


def equal_mass_edges(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Ends of at most ``bins`` bins (lo, hi] that hold about equally many of the values; at least two ends."""
    inner = np.quantile(confidence, np.arange(1, bins) / bins, method="inverted_cdf")
    edges = np.unique(np.concatenate([[min(0.0, float(confidence.min()))], inner, [confidence.max()]]))
    return edges if len(edges) > 1 else np.array([0.0, 1.0])


@score("ece_classwise", "Class-wise calibration error", inflated=True)
def ece_classwise(graded: Graded, weights: np.ndarray) -> np.ndarray:
    """Mean over the model's classes of the calibration error of "it is this class", 15 equal bins each, in [0, 1].

    sum_k sum_b |sum over images in bin b of (1 if truth is k else 0) - p_k| / (n K). Kull et al. 2019, "Beyond
    temperature scaling"; static calibration error in Nixon et al. 2019.
    """
    n, k = graded.p.shape
    edges = np.linspace(0, 1, ECE_BINS + 1)
    total = np.zeros(len(weights))
    for c in range(k):
        excess = sparse.csr_array(
            ((graded.truth == c) - graded.p[:, c], (np.arange(n), _bins(graded.p[:, c], edges))), shape=(n, ECE_BINS)
        )
        used = np.unique(excess.indices)  # most probabilities lie in one or two bins
        total += np.abs(weights @ excess.toarray()[:, used].astype(weights.dtype)).sum(axis=1)
    return total / (weights.sum(axis=1) * k)


@score("nll", "Negative log-likelihood", needs_truth=True)
def nll(graded: Graded, weights: np.ndarray) -> np.ndarray:
    """Mean of -ln p(true class), in nats, in [0, inf)."""
    return np.asarray(weights @ -graded.log_p_true.astype(weights.dtype)) / weights.sum(axis=1)


@score("brier", "Brier score")
def brier(graded: Graded, weights: np.ndarray) -> np.ndarray:
    """Mean squared distance of the probabilities from the one-hot truth, summed over classes, in [0, 2]. Brier 1950.

    A true class that the model does not know has probability 0.
    """
    rows = np.arange(len(graded))
    own = np.where(graded.truth >= 0, graded.p[rows, np.maximum(graded.truth, 0)], 0.0)
    squared = np.square(graded.p).sum(axis=1) - 2 * own + 1
    return np.asarray(weights @ squared.astype(weights.dtype)) / weights.sum(axis=1)


@score("aurc", "Area under risk-coverage")
def aurc(graded: Graded, weights: np.ndarray) -> np.ndarray:
    """Mean error rate of the i most confident images over i = 1 ... n, in [0, 1]; smaller is better.

    Geifman & El-Yaniv 2017, "Selective classification for deep neural networks". Depends on the accuracy and on the
    order of the confidences, not on their size. Images of equal confidence (also an image drawn twice) err together
    by their mean: the expectation over their orders.
    """
    order = np.argsort(-graded.confidence, kind="stable")
    ranked = graded.confidence[order]
    w = weights if (order == np.arange(len(order))).all() else weights[:, order]
    wrong = ~graded.correct[order]
    # sum over i of (errors among the first i) / i = sum over errors at place j of H(n) - H(j - 1), H harmonic numbers
    n = round(float(weights[0].sum()))
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, n + 1))])
    up_to = np.concatenate([[0.0], np.cumsum(harmonic[:-1])])  # of H(j - 1), j = 1 ... m
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    starts = np.concatenate([[0], ends[:-1] + 1])
    after = np.cumsum(w, axis=1)
    with_errors = np.flatnonzero(np.add.reduceat(wrong, starts))  # groups of equal confidence that hold an error
    last = after[:, ends[with_errors]]
    images = last - np.where(starts[with_errors] > 0, after[:, starts[with_errors] - 1], 0)
    errors = images
    if len(ends) < len(order):
        errors = np.add.reduceat(w * wrong, starts, axis=1)[:, with_errors]
    places = np.rint(last).astype(np.int64)
    sums = images * harmonic[n] - (up_to[places] - up_to[places - np.rint(images).astype(np.int64)])
    share = np.divide(errors, images, out=np.zeros(errors.shape), where=images > 0)
    return np.asarray((share * sums).sum(axis=1, dtype=np.float64) / n)


# --- intervals -------------------------------------------------------------------------------------------------------


def resamples_of(n: int, wanted: int) -> int:
    """How many resamples these scores get: as many as asked for, at most 1,000, fewer for very many images."""
    return min(wanted, max(250, min(MOST_RESAMPLES, _DRAWS // max(n, 1))))


@lru_cache(maxsize=2)  # all models of a run share the draws of an image set
def _kept_weights(n: int, times: int, seed: int) -> np.ndarray:
    return np.concatenate(list(_drawn_weights(n, times, seed)))


def _drawn_weights(n: int, times: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of n images is drawn in n draws with replacement: (b, n) at a time."""
    rng = np.random.default_rng([seed, n])
    rows = max(1, _CHUNK // n)
    for start in range(0, times, rows):
        now = min(rows, times - start)
        units = rng.integers(n, size=(now, n)) + np.arange(now)[:, None] * n
        yield np.bincount(units.ravel(), minlength=now * n).reshape(now, n).astype(np.float32)


def evaluate(graded: Graded, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> dict[str, Estimate]:
    """Every score with a bootstrap interval over images, the temperature and the bins kept as they are: a basic one for
    the three calibration errors, which are sums of absolute values, a percentile one for the others.

    The interval's name says how many resamples there were, see :func:`resamples_of`.

    Args:
        graded: at least one image.
        confidence: nominal coverage.
        resamples: wanted.
        seed: of the draws.
    """
    n = len(graded)
    times = resamples_of(n, resamples)
    graded = graded.take(np.argsort(-graded.confidence, kind="stable"))  # as one score wants it
    strangers = int((graded.truth < 0).sum())
    missing = f"not defined: {strangers} images of classes that the model does not know"
    names = [name for name, s in SCORES.items() if not (s.needs_truth and strangers)]
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in names}
    small = n * times <= _DRAWS
    for weights in [_kept_weights(n, times, seed)] if small else _drawn_weights(n, times, seed):
        for name in names:
            drawn[name].append(SCORES[name].of(graded, weights))
    once = np.ones((1, n))
    found = {}
    for name in SCORES:
        if name not in names:
            found[name] = Estimate.undefined(missing, n)
            continue
        value = float(SCORES[name].of(graded, once)[0])
        low, high, method = intervals.bootstrap(
            np.concatenate(drawn[name]), value, confidence, inflated=SCORES[name].inflated, ends=(0.0, 1.0)
        )
        found[name] = Estimate(value, low, high, n, f"{intervals.label(method, confidence)}, {times} resamples")
    return found


# --- reliability -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reliability:
    """Accuracy by confidence, in bins of equally many images.

    Attributes:
        model, dataset: names.
        scaling: ``"none"`` or ``"temperature"``.
        ece: the expected calibration error over 15 bins of equal width.
        confidence: mean of each bin.
        accuracy: of each bin, with its Clopper-Pearson interval and n.
    """

    model: str
    dataset: str
    scaling: Literal["none", "temperature"]
    ece: float
    confidence: tuple[float, ...]
    accuracy: tuple[Estimate, ...]


def reliability(
    graded: Graded, model: str, dataset: str, scaling: Any, bins: int = 10, level: float = 0.95
) -> Reliability:
    """What a reliability diagram shows (Niculescu-Mizil & Caruana 2005); equal confidences share a bin."""
    place = _bins(graded.confidence, equal_mass_edges(graded.confidence, bins))
    means, shares = [], []
    for b in np.unique(place):
        inside = place == b
        k, n = int(graded.correct[inside].sum()), int(inside.sum())
        low, high = intervals.clopper_pearson(k, n, level)
        means.append(float(graded.confidence[inside].mean()))
        shares.append(Estimate(k / n, min(low, k / n), max(high, k / n), n, intervals.label("Clopper-Pearson", level)))
    error = float(ece(graded, np.ones((1, len(graded))))[0])
    return Reliability(model, dataset, scaling, error, tuple(means), tuple(shares))
