"""Corruption error against a reference model scored in the same run.

Hendrycks & Dietterich 2019, "Benchmarking neural network robustness to common corruptions and perturbations": a model's
errors under a corruption, summed over severities, divided by those of a reference model, and averaged over corruptions.
Constants from the literature are another model, other images and other software: they shift a ResNet-50 from 76.5 to
78.2, so the reference here is always scored on the same images by the same code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradlens.records import Estimate
from gradlens.shift import intervals

MEAN = "mean"


@dataclass(frozen=True)
class CorruptionError:
    """One model's error under one corruption (or, with :data:`MEAN`, their mean), over severities.

    Attributes:
        error: share of images wrong, mean over severities, in [0, 1].
        ce: error over the reference's; mCE where ``corruption`` is the mean.
        relative: error beyond the clean error, over the reference's; relative mCE for the mean.
    """

    model: str
    corruption: str
    error: Estimate
    ce: Estimate
    relative: Estimate


def reference_of(accuracies: Mapping[str, float]) -> str:
    """The model with the median accuracy (of two, the lower one; of equal ones, the first by name).

    The best model's errors are too few to divide by, and the worst makes every other look good.
    """
    ranked = sorted(accuracies, key=lambda name: (accuracies[name], name))
    return ranked[(len(ranked) - 1) // 2]


def corruption_errors(
    clean: np.ndarray,
    wrong: Mapping[str, np.ndarray],
    models: Sequence[str],
    reference: str,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[CorruptionError]:
    """Error, CE and relative CE of each model under each corruption, then their means, with bootstrap intervals.

    Images are drawn with replacement, each with all its corruptions and for all models, so that the quotient's two
    models always err on the same images.

    Args:
        clean: (n, M) bool, whether each model is wrong on each clean image.
        wrong: corruption -> (n, S, M) bool, of the same images at S severities; S may differ between corruptions.
        models: M names.
        reference: one of them.
        confidence: nominal coverage.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    at = list(models).index(reference)
    n, m = clean.shape
    names = list(wrong)
    # (n, C, M): each image's error under each corruption, mean over severities
    errors = np.stack([wrong[name].mean(axis=1) for name in names], axis=1)
    columns = np.concatenate([clean.astype(np.float64), errors.reshape(n, -1)], axis=1)
    sums = np.concatenate([columns.sum(axis=0, keepdims=True), *intervals.resample_units(columns, resamples, seed)]) / n
    base, under = sums[:, :m], sums[:, m:].reshape(-1, len(names), m)  # (1 + B, M), (1 + B, C, M)
    under = np.concatenate([under, under.mean(axis=1, keepdims=True)], axis=1)
    beyond = under - base[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        ce = under[:, :-1] / under[:, :-1, at : at + 1]
        relative = beyond[:, :-1] / beyond[:, :-1, at : at + 1]
    ce = np.concatenate([ce, ce.mean(axis=1, keepdims=True)], axis=1)
    relative = np.concatenate([relative, relative.mean(axis=1, keepdims=True)], axis=1)
    made = intervals.label("bootstrap", confidence)
    found = []
    for j, model in enumerate(models):
        for i, name in enumerate([*names, MEAN]):
            weak = [c for c in names if name in (c, MEAN) and not under[0, names.index(c), at]]
            gains = [c for c in names if name in (c, MEAN) and not beyond[0, names.index(c), at] > 0]
            found.append(
                CorruptionError(
                    model,
                    name,
                    _estimate(under[:, i, j], n, made, confidence, ""),
                    _estimate(ce[:, i, j], n, made, confidence, _reason(weak, f"{reference} makes no error")),
                    _estimate(relative[:, i, j], n, made, confidence, _reason(gains, f"{reference} loses nothing")),
                )
            )
    return found


def _reason(where: Sequence[str], what: str) -> str:
    return f"not defined: {what} under {', '.join(where)}" if where else ""


def _estimate(values: np.ndarray, n: int, made: str, confidence: float, reason: str) -> Estimate:
    """Of the sample (first) and its resamples; those in which the quotient has no denominator are left out and told."""
    point = float(values[0])
    if reason or not math.isfinite(point):
        return Estimate.undefined(reason or "not defined: the reference makes no error", n)
    finite = values[1:][np.isfinite(values[1:])]
    low, high = intervals.percentile(finite, point, confidence)
    lost = len(values) - 1 - len(finite)
    return Estimate(point, low, high, n, made + (f", {lost} resamples without a denominator" if lost else ""))
