"""Two models on one image set: is one better, and do they err on the same images?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from scipy.special import bdtr
from scipy.stats import binom, false_discovery_control

from gradlens.records import Predictions
from gradlens.shift import intervals
from gradlens.shift.metrics import on_classes


@dataclass(frozen=True)
class Pair:
    """Two models on the images both were scored on.

    Attributes:
        model_a, model_b, dataset: names.
        n: images.
        b: images that only ``model_a`` gets right.
        c: images that only ``model_b`` gets right.
        p_exact, p_mid: McNemar's test of equal accuracy, see :func:`mcnemar`.
        p_holm: ``p_exact`` corrected for all pairs compared on this set, see :func:`holm`.
        agreement: share of images on which both say the same class, in [0, 1].
        kappa: error consistency, see :func:`error_consistency`; ``nan`` where it is not defined.
        p_bh: ``p_exact`` corrected for the false discovery rate, see :func:`benjamini_hochberg`.
        family: how many pairs ``p_holm`` and ``p_bh`` are corrected for.
    """

    model_a: str
    model_b: str
    dataset: str
    n: int
    b: int
    c: int
    p_exact: float
    p_mid: float
    p_holm: float
    agreement: float
    kappa: float
    p_bh: float
    family: int


@dataclass(frozen=True)
class Outcomes:
    """Images that both of two models get right, only the first, only the second, and neither."""

    both: int
    first: int
    second: int
    neither: int

    @property
    def n(self) -> int:
        return self.both + self.first + self.second + self.neither


def outcomes(right_a: np.ndarray, right_b: np.ndarray) -> Outcomes:
    """The four cells of McNemar's table.

    Args:
        right_a, right_b: (n,) bool, of the same images.
    """
    cells = [(right_a & right_b), (right_a & ~right_b), (~right_a & right_b), ~(right_a | right_b)]
    return Outcomes(*(int(cell.sum()) for cell in cells))


def mcnemar(b: int, c: int) -> tuple[float, float]:
    """(exact, mid-p) two-sided p values of McNemar's test from the discordant counts; (1, 1) where there are none.

    Under equal accuracy the b of b + c discordant images are binomial with p = 1/2. Exact: twice the smaller tail, at
    most 1. Mid-p: twice the tail that counts half of the observed count; less conservative, and about as valid.
    McNemar 1947; Fagerland, Lydersen & Laake 2013, "The McNemar test for binary matched-pairs data".

    >>> exact, mid_p = mcnemar(2, 9)  # the first model alone is right on 2 images, the second alone on 9
    >>> f"{exact:.3f} {mid_p:.3f}"
    '0.065 0.039'
    """
    n, k = b + c, min(b, c)
    if n == 0:
        return 1.0, 1.0
    tail = float(bdtr(k, n, 0.5))
    return min(1.0, 2 * tail), min(1.0, 2 * tail - float(binom.pmf(k, n, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for the size of their family, in [0, 1], in the given order.

    The i-th smallest of m is multiplied by m - i + 1 and never smaller than the one before. Holm 1979.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in corrected]


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """p values corrected for the false discovery rate, in [0, 1], in the given order.

    Calling those below alpha different makes at most alpha of the calls wrong on average; weaker than Holm's promise,
    that no call at all is wrong with probability 1 - alpha. Benjamini & Hochberg 1995.
    """
    if not len(p_values):
        return []
    return [float(value) for value in false_discovery_control(p_values, method="bh")]


def error_consistency(right_a: np.ndarray, right_b: np.ndarray) -> float:
    """Kappa of being right together, in [-1, 1]: 0 as often as two independent models of these accuracies, 1 always.

    ``nan`` where chance alone makes them consistent on every image (both always right, or both always wrong).
    Geirhos, Meding & Wichmann 2020, "Beyond accuracy: quantifying trial-by-trial behaviour ... by measuring error
    consistency".

    Args:
        right_a, right_b: (n,) bool.
    """
    if not len(right_a):
        return math.nan
    p, q = right_a.mean(), right_b.mean()
    expected = p * q + (1 - p) * (1 - q)
    if expected == 1:
        return math.nan
    return float(((right_a == right_b).mean() - expected) / (1 - expected))


def compare(predictions: Sequence[Predictions]) -> list[dict[str, Any]]:
    """Rows of ``pairs.csv``: every two of the models, each over all classes and images both were scored on, unmasked.

    The keys are the attributes of :class:`Pair`, in order. Fewer than two models give no rows.

    Raises:
        ValueError: the predictions are not all of one set, or two are of one model.
        InputError: class names are ambiguous, or logits are not finite.
    """
    if len({p.dataset for p in predictions}) > 1:
        raise ValueError(f"pairs are compared on one set, got {sorted({p.dataset for p in predictions})}")
    if len({p.model for p in predictions}) < len(predictions):
        raise ValueError("a model was given twice")
    answers = _answers(predictions)
    found = [_pair(answers, i, j) for i, j in combinations(range(len(predictions)), 2)]
    p_values = [pair.p_exact for pair in found]
    corrected = zip(found, holm(p_values), benjamini_hochberg(p_values), strict=True)
    return [asdict(replace(pair, p_holm=p, p_bh=q, family=len(found))) for pair, p, q in corrected]


@dataclass(frozen=True)
class _Answers:
    """What M models said about the N images that any of them was scored on.

    Attributes:
        models, dataset: names.
        there: (M, N) bool, whether the model was scored on the image.
        right: (M, N) bool.
        said: (M, N) codes of class names, the same for all models.
    """

    models: tuple[str, ...]
    dataset: str
    there: np.ndarray
    right: np.ndarray
    said: np.ndarray


def _answers(predictions: Sequence[Predictions]) -> _Answers:
    # the answers are needed under their own names, also those outside the set's classes, so nothing is masked
    scored = [on_classes(replace(p, logits=None)) for p in predictions]
    place: dict[str, int] = {}
    names: dict[str, int] = {}
    for s in scored:
        for image in s.ids:
            place.setdefault(image, len(place))
    shape = len(predictions), len(place)
    there, right, said = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(shape, np.int32)
    for row, (s, p) in enumerate(zip(scored, predictions, strict=True)):
        at = np.fromiter((place[image] for image in s.ids), np.int64, len(s))
        there[row, at] = True
        right[row, at] = s.correct
        codes = np.array([names.setdefault(name, len(names)) for name in p.classes], np.int32)
        own = dict(zip(p.ids, codes[p.predicted].tolist(), strict=True))
        said[row, at] = [own[image] for image in s.ids]
    dataset = predictions[0].dataset if predictions else ""
    return _Answers(tuple(p.model for p in predictions), dataset, there, right, said)


def _pair(answers: _Answers, i: int, j: int) -> Pair:
    both = answers.there[i] & answers.there[j]
    right_a, right_b = answers.right[i][both], answers.right[j][both]
    same = answers.said[i][both] == answers.said[j][both]
    cells = outcomes(right_a, right_b)
    exact, mid = mcnemar(cells.first, cells.second)
    return Pair(
        model_a=answers.models[i],
        model_b=answers.models[j],
        dataset=answers.dataset,
        n=cells.n,
        b=cells.first,
        c=cells.second,
        p_exact=exact,
        p_mid=mid,
        p_holm=exact,
        agreement=float(same.mean()) if len(same) else math.nan,
        kappa=error_consistency(right_a, right_b),
        p_bh=exact,
        family=1,
    )


def paired_difference(one: Predictions, other: Predictions, confidence: float) -> dict[str, Any]:
    """Accuracy of ``one`` minus that of ``other`` on the images both were scored on: Newcombe's paired interval."""
    a, b = on_classes(one), on_classes(other)
    right = dict(zip(b.ids, b.correct, strict=True))
    right_a = np.array([x for i, x in zip(a.ids, a.correct, strict=True) if i in right], bool)
    right_b = np.array([right[i] for i in a.ids if i in right], bool)
    cells = outcomes(right_a, right_b)
    low, high = intervals.newcombe_paired(cells.both, cells.first, cells.second, cells.neither, confidence)
    return {
        "dataset": one.dataset,
        "n": cells.n,
        "accuracy": (cells.both + cells.first) / cells.n,
        "baseline_accuracy": (cells.both + cells.second) / cells.n,
        "difference": (cells.first - cells.second) / cells.n,
        "low": low,
        "high": high,
        "interval": intervals.label("paired Newcombe", confidence),
        "only_variant": cells.first,
        "only_baseline": cells.second,
        "p_exact": mcnemar(cells.first, cells.second)[0],
    }
