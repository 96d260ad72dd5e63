"""Scores and gaps with and without images that a model may have seen before.

"We remove near-duplicates and report both" is what Barz & Denzler 2020, "Do we train on test data? Purging CIFAR of
near-duplicates", did for CIFAR; which images have leaked is found elsewhere and comes in as ids.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from gradlens.records import Estimate, GapReport, Predictions
from gradlens.shift import gap, intervals
from gradlens.shift.metrics import on_classes


def share(k: int, n: int, confidence: float = 0.95) -> Estimate:
    """``k`` of ``n`` images, in [0, 1], with the exact interval of Clopper & Pearson 1934; undefined where n = 0."""
    if not n:
        return Estimate.undefined("not defined: no image is left", 0)
    low, high = intervals.clopper_pearson(k, n, confidence)
    return Estimate(k / n, low, high, n, intervals.label("Clopper-Pearson", confidence))


def without(predictions: Predictions, ids: Collection[str]) -> Predictions:
    """The predictions on all other images."""
    return _kept(predictions, [name not in ids for name in predictions.ids])


def only(predictions: Predictions, ids: Collection[str]) -> Predictions:
    """The predictions on these images."""
    return _kept(predictions, [name in ids for name in predictions.ids])


def _kept(p: Predictions, keep: list[bool]) -> Predictions:
    rows = np.flatnonzero(keep)
    return replace(
        p,
        ids=tuple(p.ids[i] for i in rows),
        labels=p.labels[rows],
        predicted=p.predicted[rows],
        logits=None if p.logits is None else p.logits[rows],
        pairs=None if p.pairs is None else tuple(p.pairs[i] for i in rows),
    )


def accuracy(predictions: Predictions, confidence: float = 0.95) -> Estimate:
    """Share of labelled images that are right, over all classes and unmasked, in [0, 1]; Clopper-Pearson.

    Undefined without a labelled image.
    """
    scored = on_classes(replace(predictions, logits=None))
    return share(int(scored.correct.sum()), len(scored), confidence)


def advantage(predictions: Predictions, ids: Collection[str], confidence: float = 0.95) -> Estimate:
    """Accuracy on the leaked images minus accuracy on the others, in [-1, 1]; Newcombe 1998, method 10.

    Two groups of different images: the leaked ones may also be easier or harder by themselves, so this is an
    association and not what leaking has done. Undefined where one of the groups is empty.
    """
    leaked, others = (
        on_classes(replace(part, logits=None)) for part in (only(predictions, ids), without(predictions, ids))
    )
    if not (len(leaked) and len(others)):
        none = "no labelled image has leaked" if not len(leaked) else "every labelled image has leaked"
        return Estimate.undefined(f"not defined: {none}", 0)
    k1, n1, k0, n0 = int(leaked.correct.sum()), len(leaked), int(others.correct.sum()), len(others)
    low, high = intervals.newcombe(k1, n1, k0, n0, confidence)
    value = k1 / n1 - k0 / n0
    return Estimate(value, min(low, value), max(high, value), min(n0, n1), intervals.label("Newcombe", confidence))


def accuracy_gap(
    in_dist: Predictions,
    probe: Predictions,
    *,
    paired: bool,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> GapReport:
    """The accuracy gap on the classes both sides share, in [-1, 1], as ``gaps.csv`` has it (see :mod:`gap`)."""
    every = gap.gaps(in_dist, probe, paired=paired, confidence=confidence, resamples=resamples, seed=seed)
    return next(g for g in every if g.metric == "accuracy" and g.label_space == "shared")
