"""Scores from sufficient statistics: what a set too large to keep leaves of every image, added up.

Of each model and set there remain the confusion counts by name, and the sums and sums of squares of what each image
adds to the calibration bins, the log loss, the Brier score and the top-k count. Their size depends on the classes and
on how many parts the set was read in, not on the images. Every metric is the same function of the same sums as in
:mod:`gradlens.shift.metrics`; only intervals that resample images are made otherwise, and their names say how:

============================  =================================================================================
shares of images              Clopper-Pearson, as always; their gaps Newcombe
made of confusion counts      multinomial resampling of the counts, which is the bootstrap over images
negative log-likelihood,      normal, from the sum of squares
Brier score
calibration error             normal resampling of the bins' sums, with their covariance
============================  =================================================================================

Sums of floats are kept by part and added in the order of the parts, so that they do not depend on which process read
which part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy.special import ndtri

from gradlens.errors import InputError
from gradlens.records import Estimate, GapReport, Predictions
from gradlens.shift import intervals
from gradlens.shift.gap import decompose
from gradlens.shift.metrics import (
    ECE_BINS,
    METRICS,
    Columns,
    Counts,
    Grades,
    Scored,
    columns_of,
    metric_name,
    on_classes,
)

RESAMPLED = "multinomial bootstrap of the confusion counts"
NORMAL = "normal"
BINS = "normal resampling of the bins"


@dataclass
class Sums:
    """What is left of one model's answers on one set.

    Attributes:
        model, dataset: names.
        classes: the model's.
        top_k: k of the top-k count.
        counts: (true class, predicted class) by name -> images.
        parts: number of the part -> (2, 4 + 15) float64, sums and sums of squares of the columns of
            :class:`~gradlens.shift.metrics.Grades`.
    """

    model: str
    dataset: str
    classes: tuple[str, ...]
    top_k: int = 5
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    parts: dict[int, np.ndarray] = field(default_factory=dict)

    def add(self, part: int, predictions: Predictions) -> None:
        """Count the labelled images of a part; a part that was counted before is an error of the caller.

        Raises:
            InputError: see :func:`~gradlens.shift.metrics.on_classes`.
        """
        if part in self.parts:
            raise ValueError(f"part {part} of {self.dataset} was counted before")
        scored = on_classes(predictions)
        if not len(scored):
            self.parts[part] = np.zeros((2, 4 + ECE_BINS))
            return
        kept = predictions.labels >= 0
        pairs, images = np.unique(
            np.stack([predictions.labels[kept], predictions.predicted[kept]]), axis=1, return_counts=True
        )
        for (true, said), n in zip(pairs.T.tolist(), images.tolist(), strict=True):
            key = predictions.label_classes[true], predictions.classes[said]
            self.counts[key] = self.counts.get(key, 0) + n
        grades = columns_of(scored, self.top_k).parts["grades"]
        self.parts[part] = np.stack([grades.sum(axis=0), np.square(grades).sum(axis=0)])

    def take(self, other: Sums) -> None:
        """Add what another process counted.

        Raises:
            ValueError: it is of another model or set, or a part was counted twice.
        """
        if (other.model, other.dataset, other.classes, other.top_k) != (
            self.model, self.dataset, self.classes, self.top_k,
        ):  # fmt: skip
            raise ValueError("sums of two models or sets cannot be added")
        if twice := self.parts.keys() & other.parts.keys():
            raise ValueError(f"part {min(twice)} of {self.dataset} was counted twice")
        for key, n in other.counts.items():
            self.counts[key] = self.counts.get(key, 0) + n
        self.parts.update(other.parts)

    def plain(self) -> dict[str, Any]:
        """As plain types, for a file or another process."""
        return {
            "model": self.model, "dataset": self.dataset, "classes": list(self.classes), "top_k": self.top_k,
            "counts": [[*key, n] for key, n in self.counts.items()],
            "parts": {str(part): values.tolist() for part, values in self.parts.items()},
        }  # fmt: skip

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Sums:
        """From what :meth:`plain` gives."""
        return cls(
            plain["model"], plain["dataset"], tuple(plain["classes"]), plain["top_k"],
            {(true, said): n for true, said, n in plain["counts"]},
            {int(part): np.array(values) for part, values in plain["parts"].items()},
        )  # fmt: skip

    @property
    def images(self) -> int:
        """Labelled images."""
        return sum(self.counts.values())

    def with_images(self) -> tuple[str, ...]:
        """Classes that have images: those the model knows in its order, then the others by name."""
        there = {true for true, _ in self.counts}
        return (*(c for c in self.classes if c in there), *sorted(there - set(self.classes)))

    def grades(self) -> tuple[np.ndarray, np.ndarray]:
        """Sums and sums of squares over all parts, added in their order: (4 + 15,) each."""
        total = np.zeros((2, 4 + ECE_BINS))
        for part in sorted(self.parts):
            total += self.parts[part]
        return total[0], total[1]


@dataclass(frozen=True)
class _Cells:
    """The confusion counts in one label space: one row per kind of answer, and how many images gave it."""

    columns: Columns
    images: np.ndarray

    @property
    def total(self) -> Counts:
        return Counts.of((self.images @ self.columns.parts["counts"]).reshape(1, -1))

    def resampled(self, resamples: int, seed: int, stream: int) -> dict[str, np.ndarray]:
        chunks = intervals.resample_cells(self.columns.parts["counts"], self.images, resamples, seed, stream)
        values: dict[str, list[np.ndarray]] = {}
        for sums in chunks:
            total = Counts.of(sums)
            for name, m in METRICS.items():
                if m.sums == "counts":
                    values.setdefault(name, []).append(m.of(total))
        return {name: np.concatenate(found) for name, found in values.items()}


def _cells(sums: Sums, classes: Sequence[str]) -> _Cells:
    place = {name: i for i, name in enumerate(classes)}
    kinds: dict[tuple[int, int], int] = {}
    for (true, said), n in sums.counts.items():
        if true in place:
            key = place[true], place.get(said, len(classes))
            kinds[key] = kinds.get(key, 0) + n
    order = sorted(kinds)
    truth, answers = (np.array([key[i] for key in order], dtype=np.int64) for i in (0, 1))
    scored = Scored(
        sums.model, sums.dataset, tuple(classes), tuple(map(str, range(len(order)))), truth, answers, None,
        np.full(len(order), -1), len(sums.classes), (None,) * len(order),
    )  # fmt: skip
    return _Cells(columns_of(scored, sums.top_k), np.array([kinds[key] for key in order], dtype=np.int64))


def _missing(sums: Sums) -> dict[str, str]:
    missing = {}
    if len(sums.classes) <= sums.top_k:
        missing["topk"] = f"not defined: top-{sums.top_k} of {len(sums.classes)} classes"
    strangers = sum(n for (true, _), n in sums.counts.items() if true not in set(sums.classes))
    if strangers:
        missing["nll"] = f"not defined: {strangers} images of classes that the model does not know"
    return missing


def evaluate(sums: Sums, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0) -> dict[str, Estimate]:
    """Every metric in the ``full`` label space, by the names of the result tables; see the module's head."""
    n = sums.images
    if not n:
        none = Estimate.undefined("not defined: no labelled image", 0)
        return {metric_name(name, sums.top_k): none for name in METRICS}
    cells, graded = _cells(sums, sums.with_images()), sums.grades()
    missing = _missing(sums)
    draws = cells.resampled(resamples, seed, 0)
    estimates: dict[str, Estimate] = {}
    for name, m in METRICS.items():
        if name in missing:
            estimates[metric_name(name, sums.top_k)] = Estimate.undefined(missing[name], n)
            continue
        value = float(m.of(cells.total if m.sums == "counts" else Grades.of(graded[0].reshape(1, -1)))[0])
        rests_on = n
        if m.proportion:
            low, high = intervals.clopper_pearson(round(value * n), n, confidence)
            method = "Clopper-Pearson"
        elif m.sums == "counts":
            low, high = intervals.percentile(draws[name], value, confidence)
            method = RESAMPLED
            if name == "worst_class_recall":
                recall, of_class = cells.total.recall[0], cells.total.truths[0]
                rests_on = int(of_class[np.lexsort((of_class, recall))[0]])
        else:
            low, high, method = _graded_interval(name, value, n, graded, confidence, resamples, seed)
        estimates[metric_name(name, sums.top_k)] = Estimate(
            value, low, high, rests_on, intervals.label(method, confidence)
        )
    return estimates


def _graded_interval(
    name: str,
    value: float,
    n: int,
    sums: tuple[np.ndarray, np.ndarray],
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[float, float, str]:
    totals, squares = sums
    if name == "ece":
        low, high = intervals.basic(_bin_draws(n, sums, resamples, seed), value, confidence, (0.0, 1.0))
        return low, high, BINS
    column = {"nll": 2, "brier": 3}[name]
    variance = max(0.0, squares[column] / n - (totals[column] / n) ** 2)
    half = float(ndtri((1 + confidence) / 2)) * math.sqrt(variance / n)
    return max(0.0, value - half), value + half, NORMAL


def _bin_draws(n: int, of: tuple[np.ndarray, np.ndarray], resamples: int, seed: int) -> np.ndarray:
    """(B,) calibration errors of resamples: the bins' sums S of n images are drawn from N(S, n Σ).

    An image is in one bin, so products of two bins are 0 and n Σ = diag(sums of squares) - S Sᵀ / n.
    """
    sums, square = (values[4:] for values in of)
    covariance = np.diag(square) - np.outer(sums, sums) / n
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    drawn = sums + np.random.default_rng([seed, n]).standard_normal((resamples, ECE_BINS)) @ root.T
    return np.abs(drawn).sum(axis=1) / n


def per_class(sums: Sums) -> list[dict[str, Any]]:
    """Rows of ``per_class.csv``: see :func:`gradlens.shift.metrics.per_class`."""
    if not sums.images:
        return []
    classes = sums.with_images()
    total = _cells(sums, classes).total
    columns = zip(classes, total.truths[0], total.precision[0], total.recall[0], total.f1[0], strict=True)
    return [
        {
            "model": sums.model, "dataset": sums.dataset, "class": name, "n": int(n),
            "precision": float(precision), "recall": float(recall), "f1": float(f1),
        }
        for name, n, precision, recall, f1 in columns
    ]  # fmt: skip


def confusion(sums: Sums) -> list[dict[str, Any]]:
    """Rows of ``confusion.csv``: how many images of each class got each answer, by name."""
    return [
        {"model": sums.model, "dataset": sums.dataset, "class": true, "predicted": said, "n": n}
        for (true, said), n in sorted(sums.counts.items())
    ]


def gaps(
    in_dist: Sums, probe: Sums, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> list[GapReport]:
    """Every metric's gap, in distribution minus probe, of independent samples, in the label spaces of
    :func:`gradlens.shift.gap.gaps`.

    Counts know an answer but not the logits behind it: where the shared classes are not all that the model knows, an
    answer outside them counts as wrong, and metrics of probabilities are not defined.

    Raises:
        InputError: there is no shared class.
    """
    ours, theirs = in_dist.with_images(), probe.with_images()
    shared = tuple(c for c in ours if c in set(theirs) and c in set(in_dist.classes))
    if not shared:
        raise InputError(f"{in_dist.dataset} and {probe.dataset} share no class that {in_dist.model} knows")
    same = set(ours) == set(theirs)
    all_of_it = same and set(shared) == set(ours) == set(in_dist.classes)
    reports = _compared(in_dist, probe, shared, "shared", all_of_it, confidence, resamples, seed)
    if same:
        reports += _compared(in_dist, probe, ours, "full", True, confidence, resamples, seed)
    return reports


def _compared(
    in_dist: Sums,
    probe: Sums,
    classes: Sequence[str],
    space: Literal["shared", "full"],
    whole: bool,
    confidence: float,
    resamples: int,
    seed: int,
) -> list[GapReport]:
    sides = _cells(in_dist, classes), _cells(probe, classes)
    totals = sides[0].total, sides[1].total
    images = int(sides[0].images.sum()), int(sides[1].images.sum())
    draws = [side.resampled(resamples, seed, stream) for stream, side in enumerate(sides)]
    mix, within = decompose(*totals)
    nan = math.nan
    reports = []
    for name, m in METRICS.items():
        missing = _missing(in_dist).get(name) or _missing(probe).get(name)
        if m.sums == "grades" and not whole:
            missing = "not defined: counts hold no logits to choose among the shared classes with"
        values = nan, nan
        if missing:
            gap = Estimate.undefined(missing, min(images))
        else:
            of = totals if m.sums == "counts" else [Grades.of(s.grades()[0].reshape(1, -1)) for s in (in_dist, probe)]
            values = float(m.of(of[0])[0]), float(m.of(of[1])[0])
            gap = _gap(name, values, (in_dist, probe), images, draws, confidence, resamples, seed)
        reports.append(
            GapReport(
                model=in_dist.model, in_dist=in_dist.dataset, probe=probe.dataset,
                metric=metric_name(name, in_dist.top_k), label_space=space, gap=gap, paired=False,
                in_dist_value=values[0], probe_value=values[1], n_in_dist=images[0], n_probe=images[1],
                classes=len(classes), mix=mix if name == "accuracy" else nan,
                within=within if name == "accuracy" else nan,
            )
        )  # fmt: skip
    return reports


def _gap(
    name: str,
    values: tuple[float, float],
    sides: tuple[Sums, Sums],
    images: tuple[int, int],
    draws: Sequence[Mapping[str, np.ndarray]],
    confidence: float,
    resamples: int,
    seed: int,
) -> Estimate:
    m, difference, (n0, n1) = METRICS[name], values[0] - values[1], images
    if m.proportion:
        right = round(values[0] * n0), round(values[1] * n1)
        low, high = intervals.newcombe(right[0], n0, right[1], n1, confidence)
        method = "Newcombe"
    elif m.sums == "counts":
        low, high = intervals.percentile(draws[0][name] - draws[1][name], difference, confidence)
        method = RESAMPLED
    elif name == "ece":
        first = _bin_draws(n0, sides[0].grades(), resamples, seed)
        second = _bin_draws(n1, sides[1].grades(), resamples, seed + 1)
        low, high = intervals.basic(first - second, difference, confidence, (-1.0, 1.0))
        method = BINS
    else:
        halves = []
        for value, n, s in zip(values, images, sides, strict=True):
            halves.append(_graded_interval(name, value, n, s.grades(), confidence, resamples, seed)[1] - value)
        half = math.hypot(*halves)
        low, high, method = difference - half, difference + half, NORMAL
    return Estimate(
        difference, min(low, difference), max(high, difference), min(n0, n1), intervals.label(method, confidence)
    )
