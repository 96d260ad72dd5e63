"""How far apart two clouds of features are: the in-distribution set and a probe set, at one depth of one network.

=================  =====================================================  ==========================================
statistic          what it is                                             paper
=================  =====================================================  ==========================================
domain_error       held-out error of a linear domain classifier           Ben-David et al. 2010
proxy_a_distance   2 (1 - 2 error)                                        Ben-David et al. 2010
mmd2               squared maximum mean discrepancy, Gaussian kernel      Gretton et al. 2012
kid                the same, cubic polynomial kernel                      Binkowski et al. 2018
energy             2 E|X - Y| - E|X - X'| - E|Y - Y'|                     Szekely & Rizzo 2004
frechet            distance of two Gaussians with the clouds' moments     Dowson & Landau 1982; Heusel et al. 2017
bbsds              largest KS statistic of a softmax output               Rabanser et al. 2019
=================  =====================================================  ==========================================

Which images
    The rows of two clouds are independent samples, or pairs: row i of both shows the same scene. A permutation then
    swaps the two images of a scene, and nothing else; scenes are kept together when a classifier is cross-validated.

How many
    Kernel statistics of more than 1,000 images a side are means over blocks of that size (Zaremba et al. 2013,
    "B-tests"; the usual way to compute KID): memory is that of one block, whatever the number of images. The domain
    classifier takes at most 2,000 images a side. Where a side is larger than that allows, a random part of it is used,
    and :attr:`Drift.n` says how much.

How to read a value
    Against its p value (labels permuted within blocks), and against the floor that :func:`floors` gives: what two
    halves of the in-distribution set differ by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import ks_2samp

from gradlens.errors import InputError
from gradlens.registry import Registry
from gradlens.shift import intervals

BLOCK = 1000  # images a side whose kernel is held at once
MOST_CLASSIFIED = 2000  # images a side
FOLDS = 5
RIDGE = (
    0.1  # per training image, on features of variance one: keeps the classifier sane where features outnumber images
)
PERMUTATIONS = 199
FEWEST = 10  # images a side
SPLITS = 5  # halvings of the in-distribution set that the floor is found with


@dataclass(frozen=True, eq=False)
class Clouds:
    """Features of two sets at one depth, or softmax outputs.

    Attributes:
        x: (n0, C) of the in-distribution set.
        y: (n1, C) of the probe set.
        paired: whether row i of both shows the same scene.
    """

    x: np.ndarray
    y: np.ndarray
    paired: bool = False

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or self.y.ndim != 2 or self.x.shape[1] != self.y.shape[1]:
            raise ValueError(f"expected (n, C) of one C, got {self.x.shape} and {self.y.shape}")
        if self.paired and len(self.x) != len(self.y):
            raise ValueError(f"{len(self.x)} and {len(self.y)} rows are no pairs")
        if min(len(self.x), len(self.y)) < FEWEST:
            raise InputError(f"drift needs at least {FEWEST} images a side, got {len(self.x)} and {len(self.y)}")
        for side in (self.x, self.y):
            if not all(np.isfinite(block).all() for block in _row_blocks(side)):
                raise InputError("features are not finite")

    @property
    def features(self) -> int:
        return int(self.x.shape[1])


@dataclass(frozen=True)
class Drift:
    """One statistic of two clouds.

    Attributes:
        value: see the statistic.
        low, high: ends of its interval; ``nan`` where it has none.
        interval: how that was made, or why there is none.
        p: chance of such a value, or one that says more drift, without drift; ``nan`` where there is no test.
        test: how p was found, or why not.
        n: images used, in distribution and of the probe set.
        note: what limits the value; empty where nothing does.
    """

    value: float
    low: float
    high: float
    interval: str
    p: float
    test: str
    n: tuple[int, int]
    note: str = ""


@dataclass(frozen=True)
class Statistic:
    """A measure of drift.

    Attributes:
        of: (clouds, permutations, seed) -> :class:`Drift`; no p where ``permutations`` is 0.
        title: as figures head it.
        grows: whether a larger value means more drift.
        on: ``"features"`` of a depth, or the ``"softmax"`` outputs.
    """

    of: Callable[[Clouds, int, int], Drift]
    title: str
    grows: bool
    on: str


STATISTICS: Registry[Statistic] = Registry("drift statistic")

Function = Callable[[Clouds, int, int], Drift]


def statistic(name: str, title: str, *, grows: bool = True, on: str = "features") -> Callable[[Function], Function]:
    """File a function of two clouds as a statistic."""

    def file(function: Function) -> Function:
        STATISTICS.register(name)(Statistic(function, title, grows, on))
        return function

    return file


# --- domain classifier -----------------------------------------------------------------------------------------------


@statistic("domain_error", "Domain classifier's error", grows=False)
def domain_error(clouds: Clouds, permutations: int = PERMUTATIONS, seed: int = 0) -> Drift:
    """Held-out error of a linear classifier that tells the two sets apart, in [0, 1]; 0.5 where it cannot.

    Ridge regression on the labels -1 and 1 (Fisher's discriminant, shrunk), five-fold cross-validated, on standardised
    features and equally many images of both sets; a scene's images lie in one fold. Ben-David et al. 2010, "A theory of
    learning from different domains"; Lopez-Paz & Oquab 2017, "Revisiting classifier two-sample tests". The same
    regressions serve all permutations, because they depend on the labels only linearly.

    The interval is for the error of such classifiers trained on as many images. Held-out answers share their training
    images, which makes the error vary more than as many independent answers would (Bates et al. 2023,
    "Cross-validation: what does it estimate and how well does it do it?"); the number of answers is therefore divided
    by the ratio of the variance over the permutations to the binomial one, where that is above 1 (Korn & Graubard 1998,
    "Confidence intervals for proportions with small expected number of positive counts"). No bootstrap over images: one
    drawn twice would lie in training and held-out folds at once.
    """
    return _classified(clouds, permutations, seed)


@lru_cache(maxsize=1)  # two statistics are made of it
def _classified(clouds: Clouds, permutations: int, seed: int) -> Drift:
    n = min(len(clouds.x), len(clouds.y), MOST_CLASSIFIED)
    rng = np.random.default_rng([seed, 0])
    rows0, rows1 = _chosen(clouds, n, n, rng)
    z = np.concatenate([clouds.x[rows0], clouds.y[rows1]]).astype(np.float64)
    spread = z.std(axis=0)
    z = (z - z.mean(axis=0)) / np.where(spread > 0, spread, 1)
    labels = np.repeat([-1.0, 1.0], n)[:, None]
    fold = np.tile(np.arange(n) % FOLDS, 2)
    permuted = np.empty((2 * n, permutations))
    for f in range(FOLDS):  # within folds: one that holds more of one label is harder than the true ones, which do not
        own = fold == f
        permuted[own] = 2 * _relabelled(own.sum() // 2, own.sum() // 2, clouds.paired, permutations, rng) - 1
    codes = np.concatenate([labels, permuted], axis=1)
    wrong = np.zeros(codes.shape[1])
    for f in range(FOLDS):
        train, test = fold != f, fold == f
        answers = _ridge(z[train], z[test], codes[train])
        wrong += np.where(answers == 0, 0.5, np.sign(answers) != codes[test]).sum(axis=0)
    k, total = wrong[0], 2 * n
    excess = max(1.0, float(wrong[1:].var()) / (total / 4)) if permutations else 1.0
    low, high = intervals.clopper_pearson(k / excess, total / excess)
    p, test_name = _p(-wrong, clouds.paired, permutations)
    return Drift(k / total, low, high, intervals.label("Korn-Graubard", 0.95), p, test_name, (n, n))


def _ridge(train: np.ndarray, test: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Ridge regression with an intercept, many labellings (n, B) at once: answers on ``test``."""
    n, c = train.shape
    centre, middle = train.mean(axis=0), labels.mean(axis=0)
    a, b = train - centre, labels - middle
    if c <= n:
        weights = np.linalg.solve(a.T @ a + RIDGE * n * np.eye(c), a.T @ b)
    else:
        weights = a.T @ np.linalg.solve(a @ a.T + RIDGE * n * np.eye(n), b)
    return np.asarray(middle + (test - centre) @ weights)


@statistic("proxy_a_distance", "Proxy A-distance")
def proxy_a_distance(clouds: Clouds, permutations: int = PERMUTATIONS, seed: int = 0) -> Drift:
    """2 (1 - 2 error) of :func:`domain_error`, in [-2, 2]: 2 where the sets are told apart, about 0 where they are not.

    Ben-David et al. 2010.
    """
    error = domain_error(clouds, permutations, seed)
    value, low, high = (2 * (1 - 2 * e) for e in (error.value, error.high, error.low))
    return replace(error, value=value, low=low, high=high)


# --- kernels ---------------------------------------------------------------------------------------------------------


@statistic("mmd2", "MMD²")
def mmd2(clouds: Clouds, permutations: int = PERMUTATIONS, seed: int = 0) -> Drift:
    """Unbiased squared maximum mean discrepancy with a Gaussian kernel, in [-2, 2], about 0 without drift.

    k(a, b) = exp(-|a - b|^2 / (2 s^2)), s the median distance of two images of the pooled sets (of the first block). Of
    independent samples equation 3 of Gretton et al. 2012, "A kernel two-sample test"; of pairs their equation 4, which
    leaves out k(x_i, y_i), so that a scene does not meet itself.
    """
    scale: list[float] = []

    def kernel(z: np.ndarray) -> np.ndarray:
        distances = cdist(z, z, "sqeuclidean")
        if not scale:
            middle = float(np.median(distances[np.triu_indices(len(z), 1)]))
            scale.append(middle if middle > 0 else 1.0)
        return np.exp(-distances / (2 * scale[0]))

    return _of_kernel(clouds, kernel, permutations, seed)


@statistic("kid", "Kernel distance (KID)")
def kid(clouds: Clouds, permutations: int = PERMUTATIONS, seed: int = 0) -> Drift:
    """Unbiased squared MMD with the kernel (a.b / C + 1)^3, about 0 without drift; its unit is that of the features.

    Binkowski et al. 2018, "Demystifying MMD GANs", on this network's features instead of Inception's.
    """
    return _of_kernel(clouds, lambda z: (z @ z.T / z.shape[1] + 1) ** 3, permutations, seed)


@statistic("energy", "Energy distance")
def energy(clouds: Clouds, permutations: int = PERMUTATIONS, seed: int = 0) -> Drift:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, in [0, inf), 0 for equal sets; its unit is that of the features.

    Szekely & Rizzo 2004, "Testing for equal distributions in high dimension" (V-statistic: slightly above 0 also
    without drift; a test by permutation is not touched by that).
    """
    return _of_kernel(clouds, lambda z: -cdist(z, z), permutations, seed, unbiased=False)


def _of_kernel(
    clouds: Clouds,
    kernel: Callable[[np.ndarray], np.ndarray],
    permutations: int,
    seed: int,
    unbiased: bool = True,
) -> Drift:
    """mean k(x, x') + mean k(y, y') - 2 mean k(x, y), mean over blocks, for the sets and for permuted labels."""
    rng = np.random.default_rng([seed, 0])
    sums = np.zeros(1 + permutations)
    used = [0, 0]
    blocks = list(_blocks(clouds, rng))
    for rows0, rows1 in blocks:
        m, n = len(rows0), len(rows1)
        z = np.concatenate([clouds.x[rows0], clouds.y[rows1]]).astype(np.float64)
        first = np.repeat([1.0, 0.0], [m, n])[:, None]
        labels = np.concatenate([first, 1 - _relabelled(m, n, clouds.paired, permutations, rng)], axis=1)
        sums += _discrepancy(kernel(z), labels, clouds.paired, unbiased)
        used = [used[0] + m, used[1] + n]
    values = sums / len(blocks)
    p, test = _p(values, clouds.paired, permutations)
    if len(blocks) > 1:
        test += f", {len(blocks)} blocks"
    return Drift(float(values[0]), math.nan, math.nan, "none: judged by p and floor", p, test, (used[0], used[1]))


def _discrepancy(kernel: np.ndarray, first: np.ndarray, paired: bool, unbiased: bool) -> np.ndarray:
    """(B,) of an (N, N) kernel for (N, B) labellings: 1 where an image counts as in distribution, else 0."""
    m = first[:, 0].sum()
    n = len(first) - m
    rows = kernel.sum(axis=1)
    xx = np.einsum("ib,ib->b", first, kernel @ first)
    x_all = rows @ first
    xy, yy = x_all - xx, rows.sum() - 2 * x_all + xx
    if not unbiased:
        return np.asarray(xx / m**2 + yy / n**2 - 2 * xy / (m * n))
    diagonal = np.diag(kernel)
    dx = diagonal @ first
    dy = diagonal.sum() - dx
    if paired:
        own = np.diag(kernel, int(m)).sum()  # k(x_i, y_i), the same whichever of the two is called x
        return np.asarray((xx - dx + yy - dy - 2 * (xy - own)) / (m * (m - 1)))
    return np.asarray((xx - dx) / (m * (m - 1)) + (yy - dy) / (n * (n - 1)) - 2 * xy / (m * n))


# --- moments ---------------------------------------------------------------------------------------------------------


@statistic("frechet", "Fréchet distance")
def frechet(clouds: Clouds, permutations: int = 0, seed: int = 0) -> Drift:
    """|m0 - m1|^2 + tr(S0 + S1 - 2 (S0 S1)^(1/2)) of means m and covariances S, in [0, inf), in squared features.

    Dowson & Landau 1982, "The Frechet distance between multivariate normal distributions"; on features Heusel et al.
    2017 (FID). Biased upwards, by about 1/n and by more the more features there are: to be compared with a floor, not
    across numbers of images. There is no permutation test, whose price would be a matrix root each.
    """
    (mean0, s0), (mean1, s1) = _moments(clouds.x), _moments(clouds.y)
    values, vectors = np.linalg.eigh(s0)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ s1 @ root), 0)).sum()
    value = float(np.square(mean0 - mean1).sum() + np.trace(s0) + np.trace(s1) - 2 * cross)
    n = min(len(clouds.x), len(clouds.y))
    few = f"{n} images for {clouds.features} features: biased upwards" if n <= clouds.features else ""
    return Drift(
        max(value, 0.0),
        math.nan,
        math.nan,
        "none: judged by its floor",
        math.nan,
        "none: to be compared with its floor",
        (len(clouds.x), len(clouds.y)),
        few,
    )


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance (n - 1 in the denominator), a block of rows at a time."""
    n, c = features.shape
    mean = sum((block.astype(np.float64).sum(axis=0) for block in _row_blocks(features)), np.zeros(c)) / n
    scatter = np.zeros((c, c))
    for block in _row_blocks(features):
        centred = block.astype(np.float64) - mean
        scatter += centred.T @ centred
    return mean, scatter / (n - 1)


# --- outputs ---------------------------------------------------------------------------------------------------------


@statistic("bbsds", "BBSDs", on="softmax")
def bbsds(clouds: Clouds, permutations: int = 0, seed: int = 0) -> Drift:
    """Largest Kolmogorov-Smirnov statistic over the softmax outputs, in [0, 1]; p times their number (Bonferroni).

    Rabanser, Gunnemann & Lipton 2019, "Failing loudly: an empirical study of methods for detecting dataset shift"
    (black-box shift detection, soft). The two sets are taken as independent; for pairs, which resemble each other, the
    p value is then too large rather than too small.
    """
    tests = [ks_2samp(clouds.x[:, c], clouds.y[:, c], method="asymp") for c in range(clouds.features)]
    value = max(float(t.statistic) for t in tests)
    p = min(1.0, len(tests) * min(float(t.pvalue) for t in tests))
    told = f"Kolmogorov-Smirnov, Bonferroni over {len(tests)} outputs"
    told += ", pairs taken as independent" if clouds.paired else ""
    n = len(clouds.x), len(clouds.y)
    return Drift(value, math.nan, math.nan, "none: judged by p and floor", p, told, n)


# --- what all of them share ------------------------------------------------------------------------------------------


def floors(in_dist: np.ndarray, on: str = "features", seed: int = 0) -> dict[str, float]:
    """What two random halves of the in-distribution set differ by: the most of five halvings, by statistic.

    Halves are smaller than the sets, so that a statistic which is biased upwards has its floor a little too high: what
    lies above it is drift all the more.

    Args:
        in_dist: (n, C) features, or softmax outputs.
        on: which of them it is.
        seed: of the halvings.

    Raises:
        InputError: too few images.
    """
    found: dict[str, list[float]] = {name: [] for name, s in STATISTICS.items() if s.on == on}
    half = len(in_dist) // 2
    for split in range(SPLITS):
        order = np.random.default_rng([seed, 2, split]).permutation(len(in_dist))
        halves = Clouds(in_dist[order[:half]], in_dist[order[half : 2 * half]])
        for name, values in found.items():
            values.append(STATISTICS[name].of(halves, 0, seed).value)
    return {name: (max if STATISTICS[name].grows else min)(values) for name, values in found.items()}


def measure(clouds: Clouds, on: str = "features", permutations: int = PERMUTATIONS, seed: int = 0) -> dict[str, Drift]:
    """Every statistic of features, or of softmax outputs, by name."""
    return {name: s.of(clouds, permutations, seed) for name, s in STATISTICS.items() if s.on == on}


def _chosen(clouds: Clouds, most0: int, most1: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """At most so many rows of both sides, in random order, pairs together."""
    if clouds.paired:
        rows = rng.permutation(len(clouds.x))[:most0]
        return rows, rows
    return rng.permutation(len(clouds.x))[:most0], rng.permutation(len(clouds.y))[:most1]


def _blocks(clouds: Clouds, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of both sides that are compared with one another: all, or blocks of at most 1,000 a side."""
    count = math.ceil(min(len(clouds.x), len(clouds.y)) / BLOCK)
    rows0, rows1 = _chosen(clouds, count * BLOCK, count * BLOCK, rng)
    yield from zip(np.array_split(rows0, count), np.array_split(rows1, count), strict=True)


def _relabelled(m: int, n: int, paired: bool, permutations: int, rng: np.random.Generator) -> np.ndarray:
    """(m + n, permutations) of 0 (in distribution) and 1 (probe): shuffled, or for pairs swapped within each."""
    if paired:
        swapped = rng.integers(2, size=(m, permutations)).astype(np.float64)
        return np.concatenate([swapped, 1 - swapped])
    labels = np.repeat([0.0, 1.0], [m, n])[:, None]
    return rng.permuted(np.repeat(labels, permutations, axis=1), axis=0)


def _p(values: np.ndarray, paired: bool, permutations: int) -> tuple[float, str]:
    """Share of labellings, the true one among them, whose value is at least the true one's."""
    if not permutations:
        return math.nan, "none: no permutations asked for"
    slack = 1e-12 * max(1.0, float(np.abs(values).max()))
    p = float((values >= values[0] - slack).mean())
    return p, f"{permutations} permutations" + (" within pairs" if paired else "")


def _row_blocks(features: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(1, 2**22 // max(1, features.shape[1]))
    for start in range(0, len(features), rows):
        yield features[start : start + rows]
