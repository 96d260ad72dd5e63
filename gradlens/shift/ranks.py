"""Who is better than whom: ranks, how far they can be trusted, and how a shift changes them.

Two kinds of limits stand beside a rank. The bootstrap over images says how the rank varies from sample to sample; where
models are nearly equal it is too sure of itself. The range that the pairwise tests leave is valid for all models at
once and needs no assumption about ties: a model is behind those that are better after Holm's correction and ahead of
those that are worse, and nothing more is known. Where the tests tell no two models apart there is no ranking.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from gradlens.records import Estimate
from gradlens.shift import intervals

_CHUNK = 2**22  # draws made at once; bounds the memory


def ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, 1 for the largest; equal scores share the best of their ranks (1, 2, 2, 4)."""
    return stats.rankdata(-np.asarray(scores, dtype=np.float64), method="min", axis=-1).astype(np.int64)


def resampled_right(
    sides: Sequence[np.ndarray], resamples: int = 10_000, seed: int = 0, stream: int = 0
) -> list[np.ndarray]:
    """Nonparametric bootstrap of how many images each model gets right, up to a number that all models share.

    Units are drawn with replacement, the same ones for every model (and for every side: a paired bootstrap). A unit on
    which all models of a side agree moves no rank; those that are so on every side are drawn only as a number, which
    is binomial. For ranks and differences this is exactly the bootstrap over all units. Efron 1979.

    Args:
        sides: (M, n) integers each, how many of a unit's images a model gets right (0 or 1 where units are images).
        resamples: B.
        seed: of the draws.
        stream: samples that are to be independent get different ones.

    Returns:
        per side, (B, M) counts.
    """
    n = sides[0].shape[1]
    matter = np.zeros(n, bool)
    for side in sides:
        matter |= (side != side[:1]).any(axis=0)
    rows = np.concatenate([side[:, matter] for side in sides]).astype(np.float32).T  # (units that matter, sides x M)
    kinds, counts = np.unique(rows, axis=0, return_counts=True)  # sorted, so that the order of images does not matter
    found = np.zeros((resamples, rows.shape[1]))
    if len(kinds):
        rng = np.random.default_rng([seed, stream])
        drawn = rng.binomial(n, len(rows) / n, size=resamples)
        few = 8 * len(kinds) <= len(rows)  # a multinomial costs a binomial per kind, which a few draws do not
        sizes = max(1, _CHUNK // (len(kinds) if few else max(1, int(drawn.max()))))
        each = np.repeat(np.arange(len(kinds)), counts)
        for start in range(0, resamples, sizes):
            now = drawn[start : start + sizes]
            if few:
                times = rng.multinomial(now, counts / counts.sum())
            else:
                units = each[rng.integers(len(rows), size=int(now.sum()))]
                units += np.repeat(np.arange(len(now)) * len(kinds), now)
                times = np.bincount(units, minlength=len(now) * len(kinds)).reshape(len(now), -1)
            found[start : start + sizes] = times.astype(np.float32) @ kinds
    return np.split(found, len(sides), axis=1)


def rank_interval(point: int, drawn: np.ndarray, n: int, confidence: float = 0.95) -> Estimate:
    """A rank, or a change of rank, with its percentile bootstrap interval in whole ranks, widened to hold the point.

    Too narrow where models are nearly equal (Xie, Singh & Zhang 2009; Mogstad et al. 2024): see :func:`rank_range`.

    Args:
        point: the rank.
        drawn: (B,) ranks in resamples.
        n: images.
        confidence: nominal coverage.
    """
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(drawn, ends[:1], method="lower")[0], np.quantile(drawn, ends[1:], method="higher")[0]
    made = intervals.label("bootstrap over images", confidence)
    return Estimate(float(point), min(float(low), point), max(float(high), point), n, made)


def better(pairs: Sequence[Mapping[str, Any]], alpha: float) -> dict[str, set[str]]:
    """For each model, those it is better than: Holm's p below alpha and more discordant images on its side.

    Args:
        pairs: rows of ``pairs.csv`` of one data set.
        alpha: the family's error rate.
    """
    ahead: dict[str, set[str]] = {}
    for row in pairs:
        a, b = row["model_a"], row["model_b"]
        ahead.setdefault(a, set())
        ahead.setdefault(b, set())
        if row["p_holm"] < alpha:
            ahead[a if row["b"] > row["c"] else b].add(b if row["b"] > row["c"] else a)
    return ahead


def rank_range(model: str, ahead: Mapping[str, set[str]]) -> tuple[int, int]:
    """(best, worst) rank that the pairwise tests leave open, for all models at once.

    From 1 + how many are better to M - how many are worse. With tests that hold their family's error rate the ranges
    of all models hold all true ranks with probability 1 - alpha. Klein, Wright & Wieczorek 2020, "A joint confidence
    region for an overall ranking of populations"; Mogstad, Romano, Shaikh & Wilhelm 2024, "Inference for ranks".
    """
    above = sum(model in beaten for beaten in ahead.values())
    return 1 + above, len(ahead) - len(ahead[model])


def groups(models: Sequence[str], ahead: Mapping[str, set[str]]) -> list[list[str]]:
    """The largest groups in which no two models are told apart; two models share one if and only if they are not.

    Maximal cliques (Bron & Kerbosch 1973): what a compact letter display shows (Piepho 2004). Groups overlap, because
    "not told apart" is not transitive.

    Args:
        models: names, best first; groups and their members come in this order.
        ahead: what :func:`better` gives.
    """
    place = {m: i for i, m in enumerate(models)}
    near = {m: {o for o in models if o != m and o not in ahead[m] and m not in ahead[o]} for m in models}
    found: list[list[str]] = []

    def grow(clique: set[str], open_: set[str], closed: set[str]) -> None:
        if not open_ and not closed:
            found.append(sorted(clique, key=place.__getitem__))
            return
        pivot = max(sorted(open_ | closed, key=place.__getitem__), key=lambda m: len(near[m] & open_))
        for m in sorted(open_ - near[pivot], key=place.__getitem__):
            grow(clique | {m}, open_ & near[m], closed & near[m])
            open_, closed = open_ - {m}, closed | {m}

    grow(set(), set(models), set())
    return sorted(found, key=lambda clique: [place[m] for m in clique])


def tau(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Kendall's tau-b between two scores of the same M models, in [-1, 1]; ``nan`` where all scores of a side tie.

    1: the same order; 0: none; -1: the reverse. Kendall 1945, "The treatment of ties in ranking problems".

    Args:
        first, second: (..., M) each.

    Returns:
        (...,).
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    agree, own0, own1 = (np.zeros(first.shape[:-1]) for _ in range(3))
    for i, j in combinations(range(first.shape[-1]), 2):
        a, b = np.sign(first[..., i] - first[..., j]), np.sign(second[..., i] - second[..., j])
        agree += a * b
        own0 += a * a
        own1 += b * b
    product = own0 * own1
    return np.divide(agree, np.sqrt(product), out=np.full(agree.shape, math.nan), where=product > 0)


FEWEST = 3
"""Models that a rank correlation needs."""


def tau_interval(
    first: np.ndarray, second: np.ndarray, drawn0: np.ndarray, drawn1: np.ndarray, confidence: float = 0.95
) -> Estimate:
    """Kendall's tau with its percentile interval over images; ``n`` counts models.

    Resampling adds noise to both orders, which pulls tau towards 0: the low end errs downwards. The models are taken as
    they are; nothing is said about others.

    Args:
        first, second: (M,) scores.
        drawn0, drawn1: (B, M) scores in resamples.
        confidence: nominal coverage.
    """
    if len(first) < FEWEST:
        return Estimate.undefined(f"not defined: tau of {len(first)} models can only be -1 or 1", len(first))
    point = float(tau(first, second))
    if math.isnan(point):
        return Estimate.undefined("not defined: all models score the same on one side", len(first))
    values = tau(drawn0, drawn1)
    low, high = intervals.percentile(values[~np.isnan(values)], point, confidence)
    return Estimate(point, low, high, len(first), intervals.label("bootstrap over images", confidence))
