"""How unfamiliar an image looks to a model, and how well that tells a probe set from the in-distribution set.

Every score grows with unfamiliarity. Two numbers say how well it separates two sets: the area under the ROC curve, and
the false-positive rate at 95 % true positives (FPR95), which has two values because "positive" may mean either side;
both are given, each under a name that says which.

===============  =========================================  ======================
score            formula                                    paper
===============  =========================================  ======================
msp              -max_k p_k                                 Hendrycks & Gimpel 2017
entropy          -sum_k p_k ln p_k                          (Shannon 1948)
max_logit        -max_k z_k                                 Hendrycks et al. 2022
energy           -ln sum_k exp z_k                          Liu et al. 2020
mahalanobis      min_c (f - mu_c)' S^-1 (f - mu_c)          Lee et al. 2018
knn              distance to the k-th nearest, |f| = 1      Sun et al. 2022
===============  =========================================  ======================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp, ndtri, softmax, xlogy
from scipy.stats import rankdata
from sklearn.covariance import ledoit_wolf
from sklearn.neighbors import NearestNeighbors

from gradlens.errors import InputError
from gradlens.records import Estimate
from gradlens.registry import Registry
from gradlens.shift import intervals
from gradlens.shift.unlabelled import MOST_RESAMPLES, draws

NEIGHBOUR = 10
"""k of the k-nearest-neighbour distance; Sun et al. take 50 of 50,000 training images."""

FOLDS = 5


# --- scores of the outputs -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """A score of unfamiliarity.

    Attributes:
        of: (n, K) logits -> (n,), larger where less familiar.
        title: as a table heads it.
        scale: whether it needs logits whose level means something, which probabilities have lost.
    """

    of: Callable[[np.ndarray], np.ndarray]
    title: str
    scale: bool


SCORES: Registry[Score] = Registry("OOD score")


def score(
    name: str, title: str, *, scale: bool = False
) -> Callable[[Callable[[np.ndarray], np.ndarray]], Callable[[np.ndarray], np.ndarray]]:
    """File a function of logits as a score."""

    def file(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        SCORES.register(name)(Score(function, title, scale))
        return function

    return file


@score("msp", "Max probability")
def msp(logits: np.ndarray) -> np.ndarray:
    """-ln max_k p_k, in [0, ln K]: the order of 1 - max p, without ties where that rounds to 0.

    Hendrycks & Gimpel 2017, "A baseline for detecting misclassified and out-of-distribution examples".
    """
    others = logits - logits.max(axis=1, keepdims=True)
    others[np.arange(len(logits)), logits.argmax(axis=1)] = -np.inf
    return np.log1p(np.exp(others).sum(axis=1))


@score("entropy", "Entropy")
def entropy(logits: np.ndarray) -> np.ndarray:
    """-sum_k p_k ln p_k in nats, in [0, ln K]."""
    p = softmax(logits, axis=1)
    return -xlogy(p, p).sum(axis=1)


@score("max_logit", "Max logit", scale=True)
def max_logit(logits: np.ndarray) -> np.ndarray:
    """-max_k z_k. Hendrycks et al. 2022, "Scaling out-of-distribution detection for real-world settings"."""
    return -logits.max(axis=1)


@score("energy", "Energy", scale=True)
def energy(logits: np.ndarray) -> np.ndarray:
    """-ln sum_k exp z_k, temperature 1. Liu et al. 2020, "Energy-based out-of-distribution detection"."""
    return -logsumexp(logits, axis=1)


def scored(name: str, logits: np.ndarray) -> np.ndarray:
    """(n,) the score ``name`` of (n, K) logits, a block of rows at a time.

    Raises:
        InputError: the score needs the level of the logits, and these are logarithms of probabilities.
    """
    one = SCORES[name]
    rows = max(1, 2**22 // max(1, logits.shape[1]))
    blocks = [logits[i : i + rows].astype(np.float64) for i in range(0, max(1, len(logits)), rows)]
    if one.scale and len(logits) and all(np.abs(logsumexp(b, axis=1)).max() < 1e-4 for b in blocks):
        raise InputError(f"{name} needs logits, and only probabilities are there")
    return np.concatenate([one.of(b) for b in blocks])


# --- scores of features ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureScore:
    """A score of unfamiliarity that is learned from features of in-distribution images.

    Attributes:
        fit: (n, C) features and (n,) classes of known images -> a function of (m, C) features to (m,) scores.
        title: as a table heads it.
    """

    fit: Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]
    title: str


FEATURE_SCORES: Registry[FeatureScore] = Registry("OOD score of features")

Fit = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]


def feature_score(name: str, title: str) -> Callable[[Fit], Fit]:
    """File a function of known features and classes as a score."""

    def file(fit: Fit) -> Fit:
        FEATURE_SCORES.register(name)(FeatureScore(fit, title))
        return fit

    return file


@feature_score("mahalanobis", "Mahalanobis")
def mahalanobis(known: np.ndarray, classes: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Squared distance to the nearest class mean under one covariance of all classes, in [0, inf).

    Lee et al. 2018, "A simple unified framework for detecting out-of-distribution samples and adversarial attacks",
    without their perturbation of the input and their weighting of layers. The covariance is shrunk (Ledoit & Wolf
    2004), because there may be fewer images than features.
    """
    names, own = np.unique(classes, return_inverse=True)
    means = np.stack([known[own == c].mean(axis=0) for c in range(len(names))])
    covariance, _ = ledoit_wolf(known - means[own], assume_centered=True)
    # a feature that never varies in a network would make the matrix singular
    ridge = 1e-9 * max(float(np.trace(covariance)) / len(covariance), 1e-30)
    whiten = np.linalg.cholesky(np.linalg.inv(covariance + ridge * np.eye(len(covariance))))
    centres = means @ whiten

    def of(features: np.ndarray) -> np.ndarray:
        at = features @ whiten  # (m, C)
        return np.stack([np.square(at - centre).sum(axis=1) for centre in centres]).min(axis=0)

    return of


@feature_score("knn", f"{NEIGHBOUR}-nearest neighbour")
def knn(known: np.ndarray, classes: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Euclidean distance to the tenth nearest known image, features scaled to length one, in [0, 2].

    Sun et al. 2022, "Out-of-distribution detection with deep nearest neighbors".
    """
    tree = NearestNeighbors(n_neighbors=min(NEIGHBOUR, len(known))).fit(_unit(known))
    return lambda features: tree.kneighbors(_unit(features))[0][:, -1]


def _unit(features: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(length > 0, length, 1)


@dataclass(frozen=True, eq=False)
class CrossFit:
    """A score of features, learned five times, each time without a fifth of the in-distribution images.

    Attributes:
        in_dist: (n,) scores of the in-distribution images, each by what was learned without it.
        folds: (n,) which fit that was.
        fits: the five learned scores.
    """

    in_dist: np.ndarray
    folds: np.ndarray
    fits: tuple[Callable[[np.ndarray], np.ndarray], ...]

    def scores(self, probe: np.ndarray, partner: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
        """(m,) scores of (m, C) features, each by one of the fits.

        Args:
            probe: features.
            partner: (m,) the in-distribution image that shows the same scene, -1 where none does: what is used was
                learned without it. A random fit otherwise.
            seed: of the random fits.
        """
        fold = np.random.default_rng([seed, 1]).permutation(len(probe)) % FOLDS
        if partner is not None:
            fold = np.where(partner >= 0, self.folds[partner], fold)
        told = np.empty(len(probe))
        for i, fit in enumerate(self.fits):
            if (fold == i).any():
                told[fold == i] = fit(probe[fold == i].astype(np.float64))
        return told


def cross_fit(name: str, in_dist: np.ndarray, classes: np.ndarray, seed: int = 0) -> CrossFit:
    """Learn the score ``name`` of :data:`FEATURE_SCORES` such that no image is scored by what it was learned from.

    A score that was learned from the in-distribution images it is then compared on finds them too familiar.

    Args:
        name: of the score.
        in_dist: (n, C) features.
        classes: (n,) their classes.
        seed: of the folds.

    Raises:
        InputError: too few images for folds.
    """
    n = len(in_dist)
    if n < 2 * FOLDS:
        raise InputError(f"{name} needs at least {2 * FOLDS} in-distribution images, got {n}")
    folds = np.random.default_rng([seed, 0]).permutation(n) % FOLDS
    features = in_dist.astype(np.float64)
    fits = tuple(FEATURE_SCORES[name].fit(features[folds != i], classes[folds != i]) for i in range(FOLDS))
    told = np.empty(n)
    for i, fit in enumerate(fits):
        told[folds == i] = fit(features[folds == i])
    return CrossFit(told, folds, fits)


# --- how well a score separates two sets -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Separation:
    """How well a score tells two sets apart.

    Attributes:
        auroc: chance that a probe image scores higher than an in-distribution image, in [0, 1]; 0.5 knows nothing.
        fpr95_in_dist_positive: share of probe images that pass where 95 % of the in-distribution images pass.
        fpr95_ood_positive: share of in-distribution images flagged where 95 % of the probe images are.
    """

    auroc: Estimate
    fpr95_in_dist_positive: Estimate
    fpr95_ood_positive: Estimate


def separation(
    in_dist: np.ndarray, probe: np.ndarray, *, confidence: float = 0.95, resamples: int = MOST_RESAMPLES, seed: int = 0
) -> Separation:
    """How well scores tell two sets apart; both sides are taken as independent samples.

    Args:
        in_dist: (n0,) scores.
        probe: (n1,) scores, larger where less familiar.
        confidence: nominal coverage.
        resamples: of the bootstrap of FPR95, at most 500.
        seed: of the bootstrap.

    Raises:
        InputError: a side is empty, or a score is not finite.
    """
    if not len(in_dist) or not len(probe):
        raise InputError(f"two sets are told apart by their images, got {len(in_dist)} and {len(probe)}")
    if not (np.isfinite(in_dist).all() and np.isfinite(probe).all()):
        raise InputError("a score is not finite")
    n = len(in_dist) + len(probe)
    rates = {
        "fpr95_in_dist_positive": (_passing(in_dist, probe), 1),
        "fpr95_ood_positive": (_passing(-probe, -in_dist), 0),
    }
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in rates}
    count = min(resamples, MOST_RESAMPLES)
    for w in draws(len(in_dist), len(probe), count, seed):
        for name, (rate, other) in rates.items():
            drawn[name].append(rate(w[1 - other], w[other]))
    label = f"{intervals.label('bootstrap', confidence)}, {count} resamples"
    found = {}
    for name, (rate, other) in rates.items():
        sizes = (len(in_dist), len(probe))
        point = float(rate(np.ones((1, sizes[1 - other])), np.ones((1, sizes[other])))[0])
        low, high = intervals.percentile(np.concatenate(drawn[name]), point, confidence)
        found[name] = Estimate(point, low, high, n, label)
    return Separation(auroc(in_dist, probe, confidence), **found)


def _passing(positive: np.ndarray, other: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Of weights: the share of ``other`` at or below the least threshold that 95 % of ``positive`` do not exceed."""
    order, order_other = np.argsort(positive, kind="stable"), np.argsort(other, kind="stable")
    passing = np.searchsorted(other[order_other], positive[order], side="right")

    def of(w: np.ndarray, w_other: np.ndarray) -> np.ndarray:
        cumulative = w[:, order].cumsum(axis=1)
        at = (cumulative < 0.95 * cumulative[:, -1:] - 1e-9).sum(axis=1)
        up_to = np.concatenate([np.zeros((len(w), 1)), w_other[:, order_other].cumsum(axis=1)], axis=1)
        return up_to[np.arange(len(w)), passing[at]] / up_to[:, -1]

    return of


def auroc(in_dist: np.ndarray, probe: np.ndarray, confidence: float = 0.95) -> Estimate:
    """Area under the ROC curve with DeLong's interval, in [0, 1]; ties count half.

    A = P(probe > in_dist) + P(equal) / 2. DeLong, DeLong & Clarke-Pearson 1988, by the midranks of Sun & Xu 2014. Where
    the sets do not overlap at all DeLong's variance is 0, and the interval is Newcombe's (2006, method 5), which is
    not: the A0 at which A is z standard errors of Hanley & McNeil 1982 away.
    """
    m, n = len(probe), len(in_dist)
    ranks = rankdata(np.concatenate([probe, in_dist]))
    area = float((ranks[:m].sum() / m - (m + 1) / 2) / n)
    z = float(ndtri((1 + confidence) / 2))
    above = (ranks[:m] - rankdata(probe)) / n  # of each probe image: share of in-distribution images below it
    below = 1 - (ranks[m:] - rankdata(in_dist)) / m
    variance = (above.var(ddof=1) / m if m > 1 else math.nan) + (below.var(ddof=1) / n if n > 1 else math.nan)
    if variance > 1e-18:
        half = z * math.sqrt(variance)
        label = intervals.label("DeLong", confidence)
        return Estimate(area, max(0.0, area - half), min(1.0, area + half), m + n, label)

    def error(a: float) -> float:
        spread = 1 + (m + n - 2) / 2 * ((1 - a) / (2 - a) + a / (1 + a))
        return math.sqrt(a * (1 - a) * spread / (m * n))

    def beyond(side: float) -> float:
        end = 1.0 if side > 0 else 0.0
        if abs(end - area) < 1e-9:
            return end

        def far(a: float) -> float:
            return side * (a - area) - z * error(a)

        inner = area + side * 1e-9
        return float(brentq(far, inner, end)) if far(inner) < 0 < far(end) else end

    label = intervals.label("Newcombe (AUC, method 5)", confidence)
    return Estimate(area, min(beyond(-1), area), max(beyond(1), area), m + n, label)
