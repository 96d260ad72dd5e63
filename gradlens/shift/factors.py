"""What changed: how the accuracy a model loses goes along with what its images were made with.

=================================================  ====================================================
question                                           function
=================================================  ====================================================
how much is lost at each level of a factor?        :func:`by_level`
does the loss differ between the levels?           :func:`score_tests` (all factors in one regression)
how much of the loss goes with which factor?       :func:`split` (parts add up to the loss)
is a background usual for its class?               :func:`typicality`
=================================================  ====================================================

All of it is association: an image's factors go along with what a model gets right. Where the images were rendered in
pairs that differ in these factors and in nothing else, it is an experiment as well.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import chi2, chi2_contingency
from scipy.stats import t as student
from scipy.stats.contingency import association

from gradlens.shift import intervals
from gradlens.shift.pairs import holm
from gradlens.shift.sides import Sides

BINS = 4
"""A number with more values than levels are told apart becomes so many bins with equally many images."""

MOST_LEVELS = 20
FEWEST = 10
"""Levels of fewer images are pooled before they are tested."""

ASSOCIATED = 0.3
"""Cramér's V between class and factor from which on a level counts as usual or unusual for a class."""

UNEXPLAINED = "not explained"
NONE = "(none)"
OTHER = "(other)"

# --- factors as levels -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Factor:
    """One factor of the images of both sides, as levels.

    Attributes:
        name: as the tables call it.
        in_dist, probe: the level of each image; ``None`` for a side whose images do not carry the factor.
        measured: whether it is a number in bins.
        stands_for: the factor that this one is made of and that it replaces in a split.
    """

    name: str
    in_dist: tuple[str, ...] | None
    probe: tuple[str, ...]
    measured: bool = False
    stands_for: str = ""


def factors_of(
    in_dist: Sequence[Mapping[str, Any]], probe: Sequence[Mapping[str, Any]], bins: int = BINS
) -> tuple[list[Factor], dict[str, str]]:
    """The factors that probe images carry, and why the others are left out.

    Text and whole numbers with few values keep their values; numbers with many become bins with equally many images,
    over both sides together. Text like ``"clutter:2 crop:1"`` becomes a factor for each name in it, with the number as
    its level. A factor with one level on both sides tells nothing and is left out silently.

    Args:
        in_dist, probe: the factors of each image.
        bins: for numbers.

    Returns:
        (factors, reason by the name of each factor that is left out).
    """
    found: list[Factor] = []
    left_out: dict[str, str] = {}
    for name in dict.fromkeys(key for one in probe for key in one):
        theirs = [one.get(name) for one in probe]
        ours = [one.get(name) for one in in_dist] if any(name in one for one in in_dist) else None
        values = [v for v in (*(ours or ()), *theirs) if v not in (None, "")]
        if not values:
            continue
        if all(_is_marked(v) for v in values):
            found += _marked(name, ours, theirs)
            continue
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values) and len(set(values)) > bins + 1:
            edges = np.unique(np.quantile(np.array(values, dtype=np.float64), np.linspace(0, 1, bins + 1)))
            found.append(
                Factor(
                    name,
                    None if ours is None else tuple(_bin(v, edges) for v in ours),
                    tuple(_bin(v, edges) for v in theirs),
                    measured=True,
                )
            )
            continue
        levels = len(set(map(str, values)))
        if levels > MOST_LEVELS:
            left_out[name] = f"{levels} different values, more than {MOST_LEVELS}"
            continue
        found.append(Factor(name, None if ours is None else tuple(map(_level, ours)), tuple(map(_level, theirs))))
    return [f for f in found if len({*(f.in_dist or ()), *f.probe}) > 1], left_out


def _level(value: Any) -> str:
    return NONE if value in (None, "") else str(value)


def _is_marked(value: Any) -> bool:
    """Whether it is text like ``"clutter:2 crop:1"``."""
    if not isinstance(value, str):
        return False
    parts = [word.rpartition(":") for word in value.split()]
    return bool(parts) and all(name and number.isdecimal() for name, _, number in parts)


def _marked(name: str, ours: Sequence[Any] | None, theirs: Sequence[Any]) -> Iterator[Factor]:
    def read(values: Sequence[Any]) -> list[dict[str, str]]:
        return [{w.rpartition(":")[0]: w.rpartition(":")[2] for w in str(v or "").split()} for v in values]

    said0, said1 = None if ours is None else read(ours), read(theirs)
    for mark in sorted({m for one in (*(said0 or ()), *said1) for m in one}):
        yield Factor(
            mark if mark != name else f"{name}:{mark}",
            None if said0 is None else tuple(one.get(mark, NONE) for one in said0),
            tuple(one.get(mark, NONE) for one in said1),
        )


def _bin(value: Any, edges: np.ndarray) -> str:
    if value in (None, ""):
        return NONE
    i = int(np.clip(np.searchsorted(edges, float(value), side="right") - 1, 0, max(len(edges) - 2, 0)))
    end = "]" if i == len(edges) - 2 else ")"
    return f"[{edges[i]:.4g}, {edges[min(i + 1, len(edges) - 1)]:.4g}{end}"


def goes_with_class(classes: Sequence[str], levels: Sequence[str]) -> bool:
    """Whether a factor is tied to the class in distribution without being a property of the class itself.

    Cramér's V of at least :data:`ASSOCIATED`, a chi-square p below 0.001, and some level in more than one class: body
    styles of cars are no context that could be swapped.
    """
    table = _table(classes, levels)
    if min(table.shape) < 2 or (table > 0).sum(axis=0).max() < 2:
        return False
    return bool(association(table, method="cramer") >= ASSOCIATED and chi2_contingency(table).pvalue < 0.001)


def _table(classes: Sequence[str], levels: Sequence[str]) -> np.ndarray:
    # as Python's strings: NumPy's own lose zero bytes at their end
    rows, row = np.unique(np.array(classes, dtype=object), return_inverse=True)
    columns, column = np.unique(np.array(levels, dtype=object), return_inverse=True)
    return np.bincount(row * len(columns) + column, minlength=len(rows) * len(columns)).reshape(len(rows), -1)


def typicality(
    classes: Sequence[str], levels: Sequence[str], of_classes: Sequence[str], of_levels: Sequence[str]
) -> tuple[str, ...]:
    """How usual each image's level is for its class in distribution.

    ``typical``: at least as frequent in the class as overall; ``rare``: it occurs, but less often than overall;
    ``unseen``: no in-distribution image of the class has it.

    Args:
        classes, levels: of the in-distribution images.
        of_classes, of_levels: of the images to judge.
    """
    both, by_class, by_level = Counter(zip(classes, levels, strict=True)), Counter(classes), Counter(levels)
    judged = []
    for c, v in zip(of_classes, of_levels, strict=True):
        if not both[c, v]:
            judged.append("unseen")
        else:
            judged.append("typical" if both[c, v] * len(classes) >= by_level[v] * by_class[c] else "rare")
    return tuple(judged)


def with_typicality(factors: Sequence[Factor], sides: Sides) -> list[Factor]:
    """The factors, and for each that goes with the class in distribution one called ``<name>_typical``."""
    found = list(factors)
    for f in factors:
        if f.in_dist is not None and not f.measured and goes_with_class(sides.classes0, f.in_dist):
            found.append(
                Factor(
                    f"{f.name}_typical",
                    typicality(sides.classes0, f.in_dist, sides.classes0, f.in_dist),
                    typicality(sides.classes0, f.in_dist, sides.classes1, f.probe),
                    stands_for=f.name,
                )
            )
    return found


# --- by level --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Level:
    """What one model lost on the probe images of one level.

    Attributes:
        n: probe images; n_in_dist: images they are compared with.
        in_dist, probe: accuracies, in [0, 1].
        drop, low, high: their difference with its interval, in [-1, 1]; ``nan`` where there is nothing to compare with.
        interval: how it was made, or why there is none.
    """

    model: str
    factor: str
    level: str
    n: int
    n_in_dist: int
    in_dist: float
    probe: float
    drop: float
    low: float
    high: float
    interval: str


def by_level(sides: Sides, factor: Factor, confidence: float = 0.95) -> list[Level]:
    """Accuracy on the probe images of each level, and what was lost there.

    Paired sides: against the same scenes in distribution (Newcombe's paired interval; where a scene has several probe
    images of the level, a cluster-robust t interval). Independent sides: against the in-distribution images of the
    same level (Newcombe's hybrid score interval).
    """
    found: list[Level] = []
    at1 = np.array(factor.probe, dtype=object)
    at0 = None if factor.in_dist is None else np.array(factor.in_dist, dtype=object)
    for level in sorted(set(factor.probe)):
        chosen = np.flatnonzero(at1 == level)
        for m, model in enumerate(sides.models):
            right1 = sides.right1[chosen, m]
            if sides.partner is not None:
                scenes = sides.partner[chosen]
                right0 = sides.right0[scenes, m]
                d, low, high, made = _paired_drop(right0, right1, scenes, confidence)
            else:
                right0 = sides.right0[at0 == level, m] if at0 is not None else np.zeros(0, bool)
                d, low, high, made = _independent_drop(right0, right1, confidence)
            mean0 = float(right0.mean()) if len(right0) else math.nan
            found.append(
                Level(
                    model,
                    factor.name,
                    level,
                    len(right1),
                    len(right0),
                    mean0,
                    float(right1.mean()),
                    d,
                    low,
                    high,
                    made,
                )
            )
    return found


def _paired_drop(
    right0: np.ndarray, right1: np.ndarray, scenes: np.ndarray, confidence: float
) -> tuple[float, float, float, str]:
    d = float(right0.mean() - right1.mean())
    if len(np.unique(scenes)) == len(scenes):
        both, first, second = (int(side.sum()) for side in (right0 & right1, right0 & ~right1, ~right0 & right1))
        low, high = intervals.newcombe_paired(both, first, second, len(right0) - both - first - second, confidence)
        return d, min(low, d), max(high, d), intervals.label("paired Newcombe", confidence)
    _, group = np.unique(scenes, return_inverse=True)
    sums = np.bincount(group, right0.astype(float) - right1 - d)
    g = len(sums)
    made = intervals.label("cluster-robust t", confidence)
    if g < 2:
        return d, math.nan, math.nan, f"not defined: {len(scenes)} probe images of one scene"
    half = float(student.ppf((1 + confidence) / 2, g - 1)) * math.sqrt(g / (g - 1) * float(sums @ sums)) / len(scenes)
    return d, max(-1.0, d - half), min(1.0, d + half), f"{made}, {len(scenes)} probe images of {g} scenes"


def _independent_drop(right0: np.ndarray, right1: np.ndarray, confidence: float) -> tuple[float, float, float, str]:
    if not len(right0):
        return math.nan, math.nan, math.nan, "not defined: no in-distribution image of this level"
    d = float(right0.mean() - right1.mean())
    low, high = intervals.newcombe(int(right0.sum()), len(right0), int(right1.sum()), len(right1), confidence)
    return d, min(low, d), max(high, d), intervals.label("Newcombe", confidence)


# --- does the loss differ between levels? ----------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoreTest:
    """Whether a model's loss (or, unpaired, being right) differs between the levels of one factor, the others held.

    Attributes:
        outcome: ``"paired difference"`` or ``"right"``.
        n: probe images; levels: after pooling; df: restrictions tested.
        statistic: chi-square with ``df`` degrees of freedom under the null; ``nan`` where nothing can be tested.
        p: of it; p_holm: corrected for the ``family`` of factors tested for this model and probe.
        r2: share of the outcome's variance that the factor explains beyond the others, in [0, 1].
        note: why there is no test.
    """

    model: str
    factor: str
    outcome: str
    n: int
    levels: int
    df: int
    statistic: float
    p: float
    p_holm: float
    family: int
    r2: float
    note: str = ""


def score_tests(sides: Sides, factors: Sequence[Factor]) -> list[ScoreTest]:
    """One linear regression of each model's outcome on all factors of the probe images and the class; each tested.

    The outcome is the paired difference (1: lost, -1: gained) or, for independent sides, whether the probe image is
    right. The test is the score test with the variance left free (White 1980; Wooldridge 1991, "On the application of
    robust, regression-based diagnostics to models of conditional means and conditional variances"), clustered by scene
    where a scene has several images: with u the residuals of the regression without the factor and z its dummies
    less what the others tell of them, (sum z u)' (sum_g (z u)_g (z u)_g')^-1 (sum z u). A Wald test of the same would
    take a level on which nothing is lost for infinitely certain. Levels of fewer than :data:`FEWEST` images are pooled.
    """
    n = len(sides.ids1)
    y = sides.lost if sides.partner is not None else sides.right1.astype(np.float64)
    outcome = "paired difference" if sides.partner is not None else "right"
    cluster = sides.scene
    blocks = {"class": _dummies(sides.classes1)} | {f.name: _dummies(f.probe) for f in factors}
    names = [name for name, block in blocks.items() if block.shape[1]]
    design = np.concatenate([np.ones((n, 1)), *(blocks[name] for name in names)], axis=1)
    sizes = [1, *(blocks[name].shape[1] for name in names)]
    ends = np.cumsum(sizes)
    everything = _residual(design, y)
    by_model: dict[str, list[ScoreTest]] = {m: [] for m in sides.models}
    for i, name in enumerate(names, start=1):
        own = slice(ends[i] - sizes[i], ends[i])
        others = np.delete(design, np.arange(own.start, own.stop), axis=1)
        z, u = _residual(others, design[:, own]), _residual(others, y)
        for m, model in enumerate(sides.models):
            statistic, df = _score(z, u[:, m], cluster)
            total = float(((y[:, m] - y[:, m].mean()) ** 2).sum())
            r2 = float((u[:, m] ** 2).sum() - (everything[:, m] ** 2).sum()) / total if total > 0 else math.nan
            note = "" if df else ("the outcome does not vary" if total <= 0 else "the other factors tell it already")
            p = float(chi2.sf(statistic, df)) if df else math.nan
            by_model[model].append(
                ScoreTest(model, name, outcome, n, sizes[i] + 1, df, statistic, p, p, 0, max(0.0, r2), note)
            )
    found = []
    for tests in by_model.values():
        tested = [t for t in tests if t.df]
        corrected = dict(zip([t.factor for t in tested], holm([t.p for t in tested]), strict=True))
        found += [
            ScoreTest(**{**t.__dict__, "p_holm": corrected.get(t.factor, math.nan), "family": len(tested)})
            for t in tests
        ]
    return found


def _dummies(levels: Sequence[str]) -> np.ndarray:
    """(n, levels - 1), rare levels pooled; the most frequent level is the one without a column."""
    counts = Counter(levels)
    pooled = [level if counts[level] >= FEWEST else OTHER for level in levels]
    counts = Counter(pooled)
    if 0 < counts[OTHER] < FEWEST:  # too few even together: counted with the most frequent
        most = min(counts, key=lambda level: (level == OTHER, -counts[level], level))
        pooled = [most if level == OTHER else level for level in pooled]
        counts = Counter(pooled)
    kept = sorted(counts, key=lambda level: (-counts[level], level))[1:]
    values = np.array(pooled, dtype=object)
    return (
        np.stack([values == level for level in kept], axis=1).astype(np.float64) if kept else np.zeros((len(levels), 0))
    )


def _residual(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(y - x @ np.linalg.lstsq(x, y, rcond=1e-10)[0])


def _score(z: np.ndarray, u: np.ndarray, cluster: np.ndarray) -> tuple[float, int]:
    """(statistic, degrees of freedom) of the robust score test; (nan, 0) where nothing is left to test."""
    scores = z * u[:, None]
    summed = np.zeros((int(cluster.max()) + 1, z.shape[1]))
    np.add.at(summed, cluster, scores)
    meat = summed.T @ summed
    values, vectors = np.linalg.eigh(meat)
    scale = float((z**2).sum()) * float((u**2).mean())
    kept = values > 1e-9 * max(scale, 1e-12)
    if not kept.any():
        return math.nan, 0
    along = vectors[:, kept].T @ scores.sum(axis=0)
    return float((along**2 / values[kept]).sum()), int(kept.sum())


# --- how much of the drop goes with which factor? --------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """The part of a model's drop that goes with one factor; all parts of a model add up to its drop.

    Attributes:
        factor: its name, or :data:`UNEXPLAINED`.
        changed: pairs in which the factor differs (paired sides), else probe images that carry it.
        n: pairs, or probe images.
        value, low, high: in accuracy, a fraction; may be negative.
        interval: how it was made.
    """

    model: str
    factor: str
    changed: int
    n: int
    value: float
    low: float
    high: float
    interval: str


@dataclass(frozen=True)
class Split:
    """A drop split over factors.

    Attributes:
        parts: of every model, by model and then factor, largest mean first; the last of each is what is not explained.
        mean: the same for the mean over the models.
        draws: (B, k + 1, M) resampled parts, in the order of ``factors``; for differences between models.
        factors: k names and :data:`UNEXPLAINED`.
        left_out: factors that changed but are not among the parts, with the reason.
    """

    parts: tuple[Part, ...]
    mean: tuple[Part, ...]
    draws: np.ndarray
    factors: tuple[str, ...]
    left_out: Mapping[str, str]


def split(
    sides: Sides,
    factors: Sequence[Factor],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Split | None:
    """Split of the drop over the factors that differ between the sides; ``None`` where none does.

    One linear regression on all factors at once; a factor's part is its slopes times the mean change of its levels.
    That is its Shapley value in the game "which factors have changed already" played with the fitted regression, in
    which the order of the changes does not matter (Shapley 1953; Shorrocks 2013, "Decomposition procedures for
    distributional analysis"), and Oaxaca's and Blinder's split of a difference of means (1973). The parts and what no
    factor explains add up to the drop. Not the Shapley value of refitted regressions (Lindeman, Merenda & Gold 1980):
    that gives a harmless factor a share of what goes along with it.

    Paired sides: the difference of each pair is regressed on the change of its factors, through the origin (where
    nothing changed, nothing is lost), which is a regression with an effect for each scene. Numbers are left out there:
    measured on the picture, they change with whatever was done to it. Independent sides: being right is regressed on
    the factors with an intercept for each side (Jann 2008, "The Blinder-Oaxaca decomposition").

    Intervals: percentile bootstrap over scenes (all images of a scene together), or over the images of each side.

    Args:
        sides: what the models got right.
        factors: with levels for both sides' images, in the order of ``sides.ids0`` and ``sides.ids1``.
        confidence: nominal coverage.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    coded, left_out = _coded(sides, factors)
    if not coded:
        return None
    names = tuple(c.name for c in coded)
    group = np.concatenate([[i] * c.probe.shape[1] for i, c in enumerate(coded)]).astype(np.int64)
    x0, x1 = (np.concatenate([getattr(c, side) for c in coded], axis=1) for side in ("in_dist", "probe"))
    if sides.partner is not None:
        moments = _paired_moments(sides, x1 - x0[sides.partner], resamples, seed)
        made = intervals.label("bootstrap over scenes" if not sides.single else "bootstrap over pairs", confidence)
    else:
        moments = _independent_moments(sides, x0, x1, resamples, seed)
        made = intervals.label("bootstrap", confidence)
    gram, cross, shift, drop = moments  # the first of each is the sample itself
    if together := _tied(gram[0], group, names):
        left_out[" and ".join(together)] = "they change together, so that their parts cannot be told apart"
    explained = _slopes(gram, cross) * shift[:, :, None]  # (1 + B, p, M)
    values = np.stack([explained[:, group == i].sum(axis=1) for i in range(len(coded))], axis=1)
    values = np.concatenate([values, (drop - values.sum(axis=1))[:, None]], axis=1)  # (1 + B, k + 1, M)
    point, draws = values[0], values[1:]
    averaged = values.mean(axis=2, keepdims=True)
    order = [*sorted(range(len(coded)), key=lambda i: (-averaged[0, i, 0], names[i])), len(coded)]
    told = (*names, UNEXPLAINED)
    n = len(sides.ids1)
    changed = [*(c.changed for c in coded), n]

    def parts(model: str, point: np.ndarray, draws: np.ndarray) -> list[Part]:
        found = []
        for i in order:
            low, high = intervals.percentile(draws[:, i], float(point[i]), confidence)
            found.append(Part(model, told[i], changed[i], n, float(point[i]), low, high, made))
        return found

    return Split(
        tuple(part for m, model in enumerate(sides.models) for part in parts(model, point[:, m], draws[:, :, m])),
        tuple(parts(f"mean of {len(sides.models)}", averaged[0, :, 0], averaged[1:, :, 0])),
        draws,
        told,
        left_out,
    )


@dataclass(frozen=True)
class _Coded:
    """A factor as columns of a regression: one per level but the first."""

    name: str
    in_dist: np.ndarray
    probe: np.ndarray
    changed: int


def _coded(sides: Sides, factors: Sequence[Factor]) -> tuple[list[_Coded], dict[str, str]]:
    """The factors that differ between the sides, and why others are not among them."""
    found: list[_Coded] = []
    left_out: dict[str, str] = {}
    stands_for = {f.stands_for: f.name for f in factors if f.stands_for}
    for f in factors:
        if f.in_dist is None:
            left_out[f.name] = f"images of {sides.in_dist} do not carry it"
            continue
        ours, theirs = np.array(f.in_dist, dtype=object), np.array(f.probe, dtype=object)
        changed = int((ours[sides.partner] != theirs).sum()) if sides.partner is not None else len(theirs)
        if not changed:
            continue
        if f.name in stands_for:
            left_out[f.name] = f"{stands_for[f.name]} stands for it"
            continue
        if f.measured and sides.partner is not None:
            left_out[f.name] = "a number, measured on the changed image"
            continue
        levels = sorted({*ours, *theirs}, key=lambda level: (-int((ours == level).sum()), level))[1:]
        columns = [np.stack([side == level for level in levels], axis=1) for side in (ours, theirs)]
        found.append(_Coded(f.name, columns[0].astype(np.float64), columns[1].astype(np.float64), changed))
    return sorted(found, key=lambda c: (-c.changed, c.name)), left_out


Moments = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Of the sample and its B resamples: X'X (1 + B, p, p), X'Y (1 + B, p, M), shift (1 + B, p), drop (1 + B, M)."""


def _columns(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n, 1 + p + M + p p + p M): what the sums of a regression are made of."""
    n = len(x)
    return np.concatenate(
        [
            np.ones((n, 1)),
            x,
            y,
            (x[:, :, None] * x[:, None, :]).reshape(n, -1),
            (x[:, :, None] * y[:, None, :]).reshape(n, -1),
        ],
        axis=1,
    )


def _sums(columns: np.ndarray, p: int, m: int, resamples: int, seed: int, stream: int) -> list[np.ndarray]:
    """Count, means of x and y, means of xx' and xy', of the sample and its resamples."""
    drawn = [columns.sum(axis=0, keepdims=True), *intervals.resample_units(columns, resamples, seed, stream)]
    sums = np.concatenate(drawn)
    means = sums[:, 1:] / sums[:, :1]
    x, y, xx, xy = np.split(means, np.cumsum([p, m, p * p]), axis=1)
    return [x, y, xx.reshape(-1, p, p), xy.reshape(-1, p, m)]


def _paired_moments(sides: Sides, change: np.ndarray, resamples: int, seed: int) -> Moments:
    lost = sides.lost
    columns = _columns(change, lost)
    if not sides.single:
        columns = np.stack([np.bincount(sides.scene, column) for column in columns.T], axis=1)
    x, y, xx, xy = _sums(columns, change.shape[1], lost.shape[1], resamples, seed, 0)
    return xx, xy, x, y


def _independent_moments(sides: Sides, x0: np.ndarray, x1: np.ndarray, resamples: int, seed: int) -> Moments:
    m, p = sides.right0.shape[1], x0.shape[1]
    n0, n1 = len(x0), len(x1)
    gram, cross, means = 0.0, 0.0, []
    for stream, (x, right, share) in enumerate(((x0, sides.right0, n0), (x1, sides.right1, n1))):
        mx, my, xx, xy = _sums(_columns(x, right.astype(np.float64)), p, m, resamples, seed, stream)
        weight = share / (n0 + n1)
        gram = gram + weight * (xx - mx[:, :, None] * mx[:, None, :])
        cross = cross + weight * (xy - mx[:, :, None] * my[:, None, :])
        means.append((mx, my))
    (mx0, my0), (mx1, my1) = means
    return np.asarray(gram), np.asarray(cross), mx0 - mx1, my0 - my1


def _slopes(gram: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """(1 + B, p, M): of the regressions with these normal equations."""
    # levels that a resample misses make it singular; so small a ridge changes no digit that is printed
    ridge = 1e-9 * np.maximum(np.trace(gram, axis1=1, axis2=2), 1e-12)
    return np.asarray(np.linalg.solve(gram + ridge[:, None, None] * np.eye(gram.shape[1]), cross))


def _tied(gram: np.ndarray, group: np.ndarray, names: Sequence[str]) -> list[str]:
    """Factors that the other factors tell: a regression cannot keep them apart."""
    rank = int(np.linalg.matrix_rank(gram, hermitian=True))
    tied = []
    for i, name in enumerate(names):
        own, others = np.flatnonzero(group == i), np.flatnonzero(group != i)
        alone = int(np.linalg.matrix_rank(gram[np.ix_(own, own)], hermitian=True))
        rest = int(np.linalg.matrix_rank(gram[np.ix_(others, others)], hermitian=True)) if len(others) else 0
        if rank < alone + rest:
            tied.append(name)
    return tied
