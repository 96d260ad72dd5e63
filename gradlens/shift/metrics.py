"""The scores of one model on one image set: what each is, in which label space, and with which interval.

Classes are matched by name. A *label space* is what an image is scored against:

``full``
    every labelled image of the set counts, and the model answers with any class it knows (unmasked). An image of a
    class that the model does not know counts as wrong; :func:`unknown_images` says how many there are.
masked to given classes
    only images of those classes count. The model answers with one of those classes: the largest of their logits, which
    is its own answer wherever that is one of them. Without logits, an answer outside counts as wrong.

Averages over classes (macro, balanced, worst) run over the classes that have at least one true image. A class that was
never predicted has precision 0 (scikit-learn's ``zero_division=0``).

Every metric is a function of sums over images, so one bootstrap serves them all: it draws images, adds up, and calls
the same function. To add a metric, write that function under ``@metric``.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
from scipy import sparse
from scipy.special import logsumexp

from gradlens.errors import InputError
from gradlens.records import Estimate, Predictions
from gradlens.registry import Registry
from gradlens.shift import intervals

SumsKind = Literal["counts", "grades"]

ECE_BINS = 15
_DENSE_CLASSES = 64  # up to here a dense product is faster than a sparse one
_LOGITS_AT_ONCE = 2**22  # bounds the memory: 50,000 images of 1,000 classes would need gigabytes


# --- label spaces ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """Labelled predictions in one label space, in the order of their ids (so that no result depends on file order).

    Attributes:
        model, dataset: names.
        classes: K names of the label space.
        ids: n ids.
        truth: (n,) into ``classes``.
        predicted: (n,) into ``classes``; K where the answer is none of them.
        logits: (n, C) of the classes the model may answer with, or ``None``.
        column: (n,) the true class's column of ``logits``; -1 where the model does not know it.
        candidates: C, how many classes the model may answer with.
        pairs: n ids of the paired set's images, ``None`` where unpaired.
    """

    model: str
    dataset: str
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    truth: np.ndarray
    predicted: np.ndarray
    logits: np.ndarray | None
    column: np.ndarray
    candidates: int
    pairs: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def correct(self) -> np.ndarray:
        """(n,) bool."""
        return self.predicted == self.truth

    @property
    def confusion(self) -> np.ndarray:
        """(K, K + 1) counts: rows true, columns predicted, the last one for answers that are none of ``classes``."""
        k = len(self.classes)
        return np.bincount(self.truth * (k + 1) + self.predicted, minlength=k * (k + 1)).reshape(k, k + 1)


def classes_with_images(predictions: Predictions) -> tuple[str, ...]:
    """The set's classes that have at least one image here, in the set's order."""
    there = set(predictions.labels[predictions.labels >= 0].tolist())
    return tuple(name for i, name in enumerate(predictions.label_classes) if i in there)


def unknown_images(predictions: Predictions) -> dict[str, int]:
    """Classes of the set that the model does not know, and how many images of each there are."""
    known = set(predictions.classes)
    counts = Counter(predictions.labels[predictions.labels >= 0].tolist())
    named = {name: counts[i] for i, name in enumerate(predictions.label_classes)}
    return {name: n for name, n in named.items() if n and name not in known}


def on_classes(predictions: Predictions, classes: Sequence[str] | None = None) -> Scored:
    """The labelled images in a label space: ``full`` by default, else masked to ``classes`` (see the module's head).

    Raises:
        InputError: a class name is ambiguous or unknown to the model, or logits are not finite.
    """
    where = f"{predictions.model} on {predictions.dataset}"
    masked = classes is not None
    space = classes_with_images(predictions) if classes is None else tuple(classes)
    twice = [name for name, times in Counter(space).items() if times > 1]
    twice += [name for name in dict.fromkeys(space) if predictions.classes.count(name) > 1]
    if twice:
        raise InputError(f"{where}: class {twice[0]!r} occurs twice; classes are matched by name, so rename one")
    known = {name: i for i, name in enumerate(predictions.classes)}
    if masked and (strange := [name for name in space if name not in known]):
        raise InputError(f"{where}: the model does not know {strange[0]!r}, so it cannot be scored on that class")

    place = {name: i for i, name in enumerate(space)}
    from_label = np.array([place.get(name, -1) for name in predictions.label_classes], dtype=np.int64)
    from_answer = np.array([place.get(name, len(space)) for name in predictions.classes], dtype=np.int64)
    truth = np.where(predictions.labels >= 0, from_label[predictions.labels], -1)
    order = np.array(sorted(np.flatnonzero(truth >= 0), key=lambda i: predictions.ids[i]), dtype=np.int64)
    truth = truth[order]
    predicted = from_answer[predictions.predicted[order]]
    logits = None if predictions.logits is None else predictions.logits[order]
    if logits is not None and not np.isfinite(logits).all():
        bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
        raise InputError(
            f"{where}: the logits of {len(bad)} of {len(order)} images are not finite, the first is "
            f"{predictions.ids[order[bad[0]]]!r}; such images must be listed as skipped, they cannot be scored"
        )
    column = np.array([known.get(name, -1) for name in space], dtype=np.int64)
    if masked and logits is not None and len(order):
        logits = logits[:, column]
        column = np.arange(len(space))
        outside = predicted == len(space)
        predicted = np.where(outside, logits.argmax(axis=1), predicted)
    return Scored(
        model=predictions.model,
        dataset=predictions.dataset,
        classes=space,
        ids=tuple(predictions.ids[i] for i in order),
        truth=truth,
        predicted=predicted,
        logits=logits,
        column=column[truth] if len(order) else truth,
        candidates=len(space) if masked else len(predictions.classes),
        pairs=tuple(predictions.pairs[i] if predictions.pairs else None for i in order),
    )


# --- metrics ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """Sums that hard predictions give, of B samples at once.

    Attributes:
        images: (B,).
        hits: (B, K) images of a class that were predicted as it.
        truths: (B, K) images of a class.
        calls: (B, K) images that were predicted as a class.
    """

    images: np.ndarray
    hits: np.ndarray
    truths: np.ndarray
    calls: np.ndarray

    @classmethod
    def of(cls, sums: np.ndarray) -> Counts:
        """From (B, 1 + 3K) sums of the columns ``counts``."""
        k = (sums.shape[1] - 1) // 3
        return cls(sums[:, 0], *(sums[:, 1 + i * k : 1 + (i + 1) * k] for i in range(3)))

    @cached_property
    def recall(self) -> np.ndarray:
        """(B, K); 0 where a class has no images."""
        return _ratio(self.hits, self.truths)

    @cached_property
    def precision(self) -> np.ndarray:
        """(B, K); 0 where a class was never predicted."""
        return _ratio(self.hits, self.calls)

    @cached_property
    def f1(self) -> np.ndarray:
        """(B, K); 0 where a class has no images and was never predicted."""
        return _ratio(2 * self.hits, self.truths + self.calls)

    def macro(self, per_class: np.ndarray) -> np.ndarray:
        """(B,) plain mean over the classes that have images."""
        present = self.truths > 0
        return (per_class * present).sum(axis=1) / present.sum(axis=1)

    def weighted(self, per_class: np.ndarray) -> np.ndarray:
        """(B,) mean over classes weighted by their images."""
        return (per_class * self.truths).sum(axis=1) / self.images


@dataclass(frozen=True)
class Grades:
    """Sums that need logits, of B samples at once.

    Attributes:
        images: (B,).
        in_top: (B,) images whose true class is among the k largest logits.
        log_loss: (B,) of -ln p(true class).
        squared: (B,) of the squared distance between probabilities and the one-hot truth.
        excess: (B, 15) per confidence bin, sum of (1 if correct else 0) - confidence.
    """

    images: np.ndarray
    in_top: np.ndarray
    log_loss: np.ndarray
    squared: np.ndarray
    excess: np.ndarray

    @classmethod
    def of(cls, sums: np.ndarray) -> Grades:
        """From (B, 4 + 15) sums of the columns ``grades``."""
        images, in_top, log_loss, squared = sums[:, :4].T
        return cls(images, in_top, log_loss, squared, sums[:, 4:])


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part, dtype=np.float64), where=whole > 0)


_SUMS: dict[SumsKind, Callable[[np.ndarray], Any]] = {"counts": Counts.of, "grades": Grades.of}


@dataclass(frozen=True)
class Metric:
    """A score.

    Attributes:
        of: from B samples' sums to (B,) values.
        sums: which sums it takes.
        proportion: whether it is a share of images, so that an exact interval exists.
        inflated: whether sampling makes it larger (a sum of absolute values), so that its interval is the basic one.
        better: which direction is better.
        title: as a figure or table heads it.
    """

    of: Callable[[Any], np.ndarray]
    sums: SumsKind
    proportion: bool
    inflated: bool
    better: Literal["higher", "lower"]
    title: str


METRICS: Registry[Metric] = Registry("metric")
"""By name; ``topk`` is called ``top5`` in results when k is 5."""


def metric(
    name: str,
    title: str,
    *,
    sums: SumsKind = "counts",
    proportion: bool = False,
    inflated: bool = False,
    better: Literal["higher", "lower"] = "higher",
) -> Callable[[Callable[[Any], np.ndarray]], Callable[[Any], np.ndarray]]:
    """File a function of :class:`Counts` or :class:`Grades` as a metric."""

    def file(function: Callable[[Any], np.ndarray]) -> Callable[[Any], np.ndarray]:
        METRICS.register(name)(Metric(function, sums, proportion, inflated, better, title))
        return function

    return file


def metric_name(name: str, top_k: int = 5) -> str:
    """The name a registered metric has in results: ``topk`` becomes ``top5``."""
    return f"top{top_k}" if name == "topk" else name


@metric("accuracy", "Accuracy", proportion=True)
def accuracy(c: Counts) -> np.ndarray:
    """Share of images whose predicted class is the true one, in [0, 1]."""
    return c.hits.sum(axis=1) / c.images


@metric("topk", "Top-k accuracy", sums="grades", proportion=True)
def topk(g: Grades) -> np.ndarray:
    """Share of images whose true class is among the k largest logits, in [0, 1]. Equal logits rank by class order.

    Not defined where the model chooses among k classes or fewer, and for hard predictions.
    """
    return g.in_top / g.images


@metric("macro_f1", "Macro-F1")
def macro_f1(c: Counts) -> np.ndarray:
    """Mean over the classes with images of F1 = 2 TP / (2 TP + FP + FN), in [0, 1]. Van Rijsbergen 1979."""
    return c.macro(c.f1)


@metric("weighted_f1", "Weighted F1")
def weighted_f1(c: Counts) -> np.ndarray:
    """Mean F1 of the classes weighted by their images, in [0, 1]."""
    return c.weighted(c.f1)


@metric("balanced_accuracy", "Balanced accuracy")
def balanced_accuracy(c: Counts) -> np.ndarray:
    """Mean recall of the classes with images, in [0, 1]: accuracy as if they were equally frequent. Brodersen 2010."""
    return c.macro(c.recall)


@metric("macro_precision", "Macro precision")
def macro_precision(c: Counts) -> np.ndarray:
    """Mean precision of the classes with images, in [0, 1]."""
    return c.macro(c.precision)


@metric("macro_recall", "Macro recall")
def macro_recall(c: Counts) -> np.ndarray:
    """Mean recall of the classes with images, in [0, 1]: the other name of balanced accuracy."""
    return c.macro(c.recall)


@metric("weighted_precision", "Weighted precision")
def weighted_precision(c: Counts) -> np.ndarray:
    """Mean precision of the classes weighted by their images, in [0, 1]."""
    return c.weighted(c.precision)


@metric("weighted_recall", "Weighted recall")
def weighted_recall(c: Counts) -> np.ndarray:
    """Mean recall of the classes weighted by their images, in [0, 1]: the other name of accuracy."""
    return c.weighted(c.recall)


@metric("ece", "Calibration error", sums="grades", inflated=True, better="lower")
def ece(g: Grades) -> np.ndarray:
    """Expected calibration error, in [0, 1]: mean over images of their bin's |accuracy - mean confidence|.

    Confidence is the largest probability; 15 bins of equal width, (lo, hi]. Naeini et al. 2015; Guo et al. 2017.
    """
    return np.abs(g.excess).sum(axis=1) / g.images


@metric("nll", "Negative log-likelihood", sums="grades", better="lower")
def nll(g: Grades) -> np.ndarray:
    """Mean of -ln p(true class), in nats, in [0, inf). Not defined where the model does not know a true class."""
    return g.log_loss / g.images


@metric("brier", "Brier score", sums="grades", better="lower")
def brier(g: Grades) -> np.ndarray:
    """Mean squared distance of the probabilities from the one-hot truth, summed over classes, in [0, 2]. Brier 1950."""
    return g.squared / g.images


@metric("worst_class_recall", "Worst-class recall")
def worst_class_recall(c: Counts) -> np.ndarray:
    """Smallest recall among the classes with images, in [0, 1]. Rests on that class's images alone.

    The smallest of several noisy recalls is biased downwards, and more so in resamples: read the interval as wide.
    """
    return np.where(c.truths > 0, c.recall, np.inf).min(axis=1)


# --- from images to sums ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Columns:
    """What each unit (an image, or the images of one scene) adds to the sums.

    Attributes:
        parts: (units, m) array or sparse array per kind of sums; ``grades`` only with logits.
        cells: (units,) integers, equal where rows of ``counts`` are; ``None`` where a unit is no single image.
        missing: why a metric is not defined, by registered name.
        top_k: the k of ``topk``.
    """

    parts: dict[SumsKind, Any]
    cells: np.ndarray | None
    missing: dict[str, str]
    top_k: int

    def __len__(self) -> int:
        return int(self.parts["counts"].shape[0])

    @cached_property
    def _digest(self) -> bytes:
        told = hashlib.blake2b(repr((sorted(self.missing), self.top_k, len(self))).encode(), digest_size=16)
        for part in self.parts.values():
            arrays = (part,) if isinstance(part, np.ndarray) else (part.data, part.indices, part.indptr)
            for array in arrays:
                told.update(np.ascontiguousarray(array).data)
        return told.digest()

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Columns) and self._digest == other._digest

    def defined(self, kind: SumsKind) -> list[str]:
        """Registered names of the metrics made of one kind of sums that have a value here."""
        return [name for name, m in METRICS.items() if m.sums == kind and name not in self.missing]

    def total(self, kind: SumsKind) -> Any:
        """:class:`Counts` or :class:`Grades` of all units, with B = 1."""
        return _SUMS[kind](np.asarray(self.parts[kind].sum(axis=0), dtype=np.float64).reshape(1, -1))

    def values(self) -> dict[str, float]:
        """Every defined metric on all units, by registered name."""
        totals = {kind: self.total(kind) for kind in self.parts}
        return {
            name: float(m.of(totals[m.sums])[0])
            for name, m in METRICS.items()
            if m.sums in totals and name not in self.missing
        }

    def take(self, units: sparse.csr_array, cells: np.ndarray | None) -> Columns:
        """Columns of new units: ``units`` (new, old) says how often each old one counts in each new one."""
        parts: dict[SumsKind, Any] = {kind: units @ part for kind, part in self.parts.items()}
        return Columns(parts, cells, self.missing, self.top_k)


def columns_of(scored: Scored, top_k: int = 5) -> Columns:
    """One unit per image."""
    k, n = len(scored.classes), len(scored)
    rows = np.arange(n)
    answered = scored.predicted < k
    hit = scored.correct
    ones = np.concatenate([rows, rows[hit], rows, rows[answered]])
    places = np.concatenate(
        [np.zeros(n, np.int64), 1 + scored.truth[hit], 1 + k + scored.truth, 1 + 2 * k + scored.predicted[answered]]
    )
    counts = sparse.csr_array((np.ones(len(ones)), (ones, places)), shape=(n, 1 + 3 * k))
    parts: dict[SumsKind, Any] = {"counts": counts if k > _DENSE_CLASSES else counts.toarray()}
    cells = scored.truth * (k + 1) + scored.predicted
    if scored.logits is None:
        reason = "not defined: needs logits, only hard predictions are there"
        return Columns(parts, cells, {name: reason for name, m in METRICS.items() if m.sums == "grades"}, top_k)

    missing = {}
    if scored.candidates <= top_k:
        missing["topk"] = f"not defined: top-{top_k} of {scored.candidates} classes"
    strangers = int((scored.column < 0).sum())
    if strangers:
        missing["nll"] = f"not defined: {strangers} images of classes that the model does not know"
    parts["grades"] = _graded(scored, top_k)
    return Columns(parts, cells, missing, top_k)


def _graded(scored: Scored, top_k: int) -> np.ndarray:
    """(n, 4 + 15): see :class:`Grades`. For a true class that the model does not know, p(true class) is 0."""
    assert scored.logits is not None
    rows = max(1, _LOGITS_AT_ONCE // scored.logits.shape[1])
    blocks = [
        _graded_rows(scored.logits[part], scored.column[part], scored.correct[part], top_k)
        for part in (slice(start, start + rows) for start in range(0, len(scored), rows))
    ]
    return np.concatenate(blocks)


def _graded_rows(raw: np.ndarray, column: np.ndarray, correct: np.ndarray, top_k: int) -> np.ndarray:
    logits = raw.astype(np.float64)
    n, c = logits.shape
    images = np.arange(n)
    known = column >= 0
    at = np.where(known, column, 0)
    own = logits[images, at]
    ahead = (logits > own[:, None]) | ((logits == own[:, None]) & (np.arange(c) < at[:, None]))
    log_p = logits - logsumexp(logits, axis=1, keepdims=True)
    p = np.exp(log_p)
    p_true = np.where(known, p[images, at], 0.0)
    confidence = p.max(axis=1)
    bins = np.searchsorted(np.linspace(0, 1, ECE_BINS + 1), np.minimum(confidence, 1.0), side="left") - 1
    graded = np.zeros((n, 4 + ECE_BINS))
    graded[:, 0] = 1
    graded[:, 1] = known & (ahead.sum(axis=1) < top_k)
    graded[:, 2] = np.where(known, -log_p[images, at], 0.0)
    graded[:, 3] = np.square(p).sum(axis=1) - 2 * p_true + 1
    graded[images, 4 + bins] = correct - confidence
    return graded


# --- intervals -------------------------------------------------------------------------------------------------------


def resampled(
    sides: Sequence[Columns], resamples: int = 10_000, seed: int = 0, stream: int = 0
) -> list[dict[str, np.ndarray]]:
    """Nonparametric bootstrap of every defined metric that has no exact interval or is to enter a difference.

    Args:
        sides: columns of the same units, in the same order: one for a single sample, two for a paired one. Each
            resample draws the same units on every side.
        resamples: B.
        seed: of the draws.
        stream: samples that are to be independent get different ones.

    Returns:
        per side, (B,) values by registered name.
    """
    if intervals.is_small(len(sides[0]), resamples):
        return [_resampled_alone(side, resamples, seed, stream) for side in sides]  # the same draws for every side
    kinds = list(sides[0].parts)
    found: list[dict[str, np.ndarray]] = [{} for _ in sides]
    cells = _joint_cells(sides)
    if cells is not None:
        _, first, counts = np.unique(cells, return_index=True, return_counts=True)
        rows = _beside([side.parts["counts"][first] for side in sides])
        _collect(sides, ["counts"], intervals.resample_cells(rows, counts, resamples, seed, stream), found)
        kinds.remove("counts")
    if kinds:
        rows = _beside([side.parts[kind] for kind in kinds for side in sides])
        _collect(sides, kinds, intervals.resample_units(rows, resamples, seed, stream), found)
    return found


@lru_cache(maxsize=48)  # the same side returns in every gap of a model; 48 times 1 MB with 10,000 resamples
def _resampled_alone(side: Columns, resamples: int, seed: int, stream: int) -> dict[str, np.ndarray]:
    found: list[dict[str, np.ndarray]] = [{}]
    rows = _beside(list(side.parts.values()))
    _collect([side], list(side.parts), intervals.resample_units(rows, resamples, seed, stream), found)
    for values in found[0].values():
        values.flags.writeable = False
    return found[0]


def _beside(blocks: list[Any]) -> Any:
    return np.hstack(blocks) if all(isinstance(b, np.ndarray) for b in blocks) else sparse.hstack(blocks, "csr")


def _collect(
    sides: Sequence[Columns],
    kinds: Sequence[SumsKind],
    chunks: Iterable[np.ndarray],
    found: list[dict[str, np.ndarray]],
) -> None:
    """Add the metrics of each side to ``found``; ``chunks`` hold sums of the kinds' columns, of all sides, in order."""
    ends = np.cumsum([side.parts[kind].shape[1] for kind in kinds for side in sides])[:-1]
    pieces: list[dict[str, list[np.ndarray]]] = [{} for _ in sides]
    for sums in chunks:
        blocks = iter(np.split(sums, ends, axis=1))
        for kind in kinds:
            for side, values in zip(sides, pieces, strict=True):
                total = _SUMS[kind](next(blocks))
                for name in side.defined(kind):
                    values.setdefault(name, []).append(METRICS[name].of(total))
    for values, collected in zip(pieces, found, strict=True):
        collected.update({name: np.concatenate(chunk) for name, chunk in values.items()})


def _joint_cells(sides: Sequence[Columns]) -> np.ndarray | None:
    joint = np.zeros(len(sides[0]), dtype=np.int64)
    for side in sides:
        if side.cells is None:
            return None
        joint = joint * (int(side.cells.max()) + 1) + side.cells
    return joint


def evaluate(
    predictions: Predictions,
    *,
    top_k: int = 5,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    classes: Sequence[str] | None = None,
) -> dict[str, Estimate]:
    """Every metric of one model on one set, by the names of the result tables.

    Shares of images get Clopper-Pearson intervals, calibration error a basic bootstrap interval over images, everything
    else a percentile one. A metric that is not defined here (top-5 of five classes, anything of probabilities without
    logits, no labelled image) has the reason in :attr:`~gradlens.records.Estimate.interval`. ``n`` is the number of
    images, for the worst class that class's own.

    Args:
        predictions: of one model on one set; images without a label are left out.
        top_k: k of top-k accuracy.
        confidence: nominal coverage of the intervals.
        resamples: of the bootstrap.
        seed: of the bootstrap; the same seed gives the same ends.
        classes: the label space; ``None`` is ``full`` (see the module's head).

    Raises:
        InputError: class names are ambiguous or unknown to the model, or logits are not finite.
    """
    scored = on_classes(predictions, classes)
    n = len(scored)
    if n == 0:
        return {metric_name(name, top_k): Estimate.undefined("not defined: no labelled image", 0) for name in METRICS}
    columns = columns_of(scored, top_k)
    values = columns.values()
    draws = resampled([columns], resamples, seed)[0]
    estimates = {}
    for name, m in METRICS.items():
        if name in columns.missing:
            estimate = Estimate.undefined(columns.missing[name], n)
        elif m.proportion:
            low, high = intervals.clopper_pearson(round(values[name] * n), n, confidence)
            estimate = Estimate(values[name], low, high, n, intervals.label("Clopper-Pearson", confidence))
        else:
            low, high, method = intervals.bootstrap(
                draws[name], values[name], confidence, inflated=m.inflated, ends=(0.0, 1.0)
            )
            rests_on = worst_class(scored)[1] if name == "worst_class_recall" else n
            estimate = Estimate(values[name], low, high, rests_on, intervals.label(method, confidence))
        estimates[metric_name(name, top_k)] = estimate
    return estimates


def worst_class(scored: Scored) -> tuple[str, int, float]:
    """(name, images, recall) of the class with the smallest recall; of several, the one with the fewest images."""
    confusion = scored.confusion
    images = confusion.sum(axis=1)
    there = np.flatnonzero(images)
    recall = confusion[there, there] / images[there]
    worst = there[np.lexsort((images[there], recall))[0]]
    return scored.classes[worst], int(images[worst]), float(confusion[worst, worst] / images[worst])


def per_class(predictions: Predictions, classes: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Rows of ``per_class.csv``: one per class of the label space, by default all classes of the set that have images.

    Keys: ``model, dataset, class, n, precision, recall, f1``; precision is 0 where the class was never predicted.
    """
    scored = on_classes(predictions, classes)
    if not len(scored):
        return []
    total = columns_of(scored).total("counts")
    columns = zip(scored.classes, total.truths[0], total.precision[0], total.recall[0], total.f1[0], strict=True)
    return [
        {
            "model": scored.model,
            "dataset": scored.dataset,
            "class": name,
            "n": int(n),
            "precision": float(precision),
            "recall": float(recall) if n else math.nan,
            "f1": float(f1) if n else math.nan,
        }
        for name, n, precision, recall, f1 in columns
    ]


def confusion(predictions: Predictions) -> list[dict[str, Any]]:
    """Rows of ``confusion.csv``: how many images of each class got each answer, by name; none for what never happened.

    Keys: ``model, dataset, class, predicted, n``.
    """
    labelled = predictions.labels >= 0
    k = len(predictions.classes)
    cells, counts = np.unique(predictions.labels[labelled] * k + predictions.predicted[labelled], return_counts=True)
    return [
        {
            "model": predictions.model,
            "dataset": predictions.dataset,
            "class": predictions.label_classes[cell // k],
            "predicted": predictions.classes[cell % k],
            "n": int(n),
        }
        for cell, n in zip(cells.tolist(), counts, strict=True)
    ]
