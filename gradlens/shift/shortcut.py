"""Does a model rest on the background? Told from images that show the same object before another background.

Whether only the background changed is read from what the images were made with (``Sample.factors``), never from the
name of a set: a pair counts where the factor ``background`` differs and every other factor is equal. A colour
(``#rrggbb``) is measured on the object's pixels, not set, so it may differ by :data:`COLOR_TOLERANCE`.

Within such pairs the background was manipulated and nothing else, so a loss of accuracy is an effect of the background,
not only associated with it. It does not say what in the background it was.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gradlens.records import Sample
from gradlens.shift import intervals
from gradlens.shift.pairs import mcnemar

FACTOR = "background"
COLOR_TOLERANCE = 16
"""Of 255, in each channel: another background shines through the object's antialiased edge (0 to 12 in rendered sets;
night lamps change it by 60 and more)."""

FEWEST_PAIRS = 20
"""Pairs in which only the background changed that an answer needs."""

MARGIN = 0.05
"""Of accuracy: what a swapped background may cost a model that is said not to rest on it."""

TYPICAL = 0.5
"""Share of a background's in-distribution images that must be of one class to call the background that class's own."""

Verdict = Literal["rests on the background", "does not rest on the background", "undecided"]


@dataclass(frozen=True)
class Swap:
    """What another background does to one model.

    Attributes:
        n: pairs in which only the background changed.
        in_dist, swapped: accuracy before and after.
        loss: ``in_dist - swapped`` with its interval, low to high; p: exact McNemar test of no loss.
        n_lured: pairs whose new background is another class's own, and whose old one is not that class's.
        follows_before, follows: share of them answered with that class before and after the swap.
        gain: ``follows - follows_before`` with its interval, gain_low to gain_high; NaN where n_lured is 0.
        verdict: *rests on* where the whole interval of the loss lies above :data:`MARGIN` and answers follow the new
            background (the gain's interval lies above 0), or no background is any class's own; *does not* where the
            interval of the loss lies below the margin; else *undecided*.
        interval: how the intervals were made.
    """

    n: int
    in_dist: float
    swapped: float
    loss: float
    low: float
    high: float
    p: float
    n_lured: int
    follows_before: float
    follows: float
    gain: float
    gain_low: float
    gain_high: float
    verdict: Verdict
    interval: str


def only_background(sample: Sample, partner: Sample) -> bool:
    """Whether two images were made with the same factors but for the background."""
    a, b = sample.factors, partner.factors
    if a.get(FACTOR) is None or b.get(FACTOR) is None or a[FACTOR] == b[FACTOR]:
        return False
    return set(a) == set(b) and all(_same(a[name], b[name]) for name in a if name != FACTOR)


def _same(a: Any, b: Any) -> bool:
    if a == b:
        return True
    one, other = _rgb(a), _rgb(b)
    return (
        one is not None
        and other is not None
        and max(abs(x - y) for x, y in zip(one, other, strict=True)) <= (COLOR_TOLERANCE)
    )


def _rgb(value: Any) -> tuple[int, ...] | None:
    if not (isinstance(value, str) and len(value) == 7 and value.startswith("#")):
        return None
    try:
        return tuple(int(value[i : i + 2], 16) for i in (1, 3, 5))
    except ValueError:
        return None


def own_class(samples: Iterable[Sample]) -> dict[str, int]:
    """Background -> the label that at least :data:`TYPICAL` of its images have; other backgrounds are left out."""
    seen: dict[str, Counter[int]] = {}
    for s in samples:
        background = s.factors.get(FACTOR)
        if background is not None and s.label is not None:
            seen.setdefault(str(background), Counter())[s.label] += 1
    found = {}
    for background, counts in sorted(seen.items()):
        label, times = min(counts.items(), key=lambda c: (-c[1], c[0]))
        if times >= TYPICAL * counts.total():
            found[background] = label
    return found


def told_by_background(samples: Iterable[Sample]) -> tuple[int, int]:
    """(k, n): of n images with a known background, k have the class that is the most frequent before theirs.

    What a classifier that sees nothing but the background would get right of these very images.
    """
    seen: dict[str, Counter[int]] = {}
    for s in samples:
        if s.factors.get(FACTOR) is not None and s.label is not None:
            seen.setdefault(str(s.factors[FACTOR]), Counter())[s.label] += 1
    return sum(max(c.values()) for c in seen.values()), sum(c.total() for c in seen.values())


def swap(
    right: np.ndarray,
    right_swapped: np.ndarray,
    lured: np.ndarray,
    follows_before: np.ndarray,
    follows: np.ndarray,
    confidence: float = 0.95,
) -> Swap:
    """What another background does to one model (:class:`Swap`).

    Args:
        right, right_swapped: (n,) bool, whether the answer is right before and after the swap.
        lured: (n,) bool, whether the new background is another class's own (and the old one is not that class's).
        follows_before, follows: (n,) bool, whether the answer is the class of the new background; read where lured.
        confidence: of the intervals: paired Newcombe, of the same pairs of images.

    Raises:
        ValueError: no pair.
    """
    if not len(right):
        raise ValueError("expected at least one pair")
    loss, low, high = _paired(right, right_swapped, confidence)
    nan = math.nan
    before = after = gain = gain_low = gain_high = nan
    if lured.any():
        before, after = float(follows_before[lured].mean()), float(follows[lured].mean())
        gain, gain_low, gain_high = _paired(follows[lured], follows_before[lured], confidence)
    verdict: Verdict = "undecided"
    if high < MARGIN:
        verdict = "does not rest on the background"
    elif low > MARGIN and (not lured.any() or gain_low > 0):
        verdict = "rests on the background"
    only, other = int((right & ~right_swapped).sum()), int((~right & right_swapped).sum())
    return Swap(
        len(right),
        float(right.mean()),
        float(right_swapped.mean()),
        loss,
        low,
        high,
        mcnemar(only, other)[0],
        int(lured.sum()),
        before,
        after,
        gain,
        gain_low,
        gain_high,
        verdict,
        intervals.label("paired Newcombe", confidence),
    )


def _paired(first: np.ndarray, second: np.ndarray, confidence: float) -> tuple[float, float, float]:
    a, b, c, d = (int(x.sum()) for x in (first & second, first & ~second, ~first & second, ~first & ~second))
    low, high = intervals.newcombe_paired(a, b, c, d, confidence)
    point = float(first.mean() - second.mean())
    return point, min(low, point), max(high, point)


@dataclass(frozen=True)
class LossDifference:
    """How much more a swapped background costs model A than model B on the same scenes.

    Attributes:
        difference: loss of A less loss of B, in [-2, 2], with its interval, low to high (bootstrap over scenes).
        n: scenes.
        points_to: ``"A"`` where the whole interval lies above 0, ``"B"`` where it lies below, else ``"undecided"``.
        interval: how it was made.
    """

    difference: float
    low: float
    high: float
    n: int
    points_to: Literal["A", "B", "undecided"]
    interval: str


def loss_difference(
    a: np.ndarray,
    a_swapped: np.ndarray,
    b: np.ndarray,
    b_swapped: np.ndarray,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> LossDifference:
    """Which of two models another background costs more, on the same n scenes.

    Args:
        a, a_swapped, b, b_swapped: (n,) bool, whether the models are right before and after the swap.
    """
    values = (a.astype(np.float64) - a_swapped) - (b.astype(np.float64) - b_swapped)
    if not len(values):
        raise ValueError("expected at least one pair")
    point = float(values.mean())
    cells, kinds = np.unique(values, return_counts=True)
    sums = np.concatenate(list(intervals.resample_cells(cells[:, None], kinds, resamples, seed)))
    low, high = intervals.percentile(sums[:, 0] / len(values), point, confidence)
    points_to: Literal["A", "B", "undecided"] = "A" if low > 0 else "B" if high < 0 else "undecided"
    return LossDifference(point, low, high, len(values), points_to, intervals.label("bootstrap", confidence))
