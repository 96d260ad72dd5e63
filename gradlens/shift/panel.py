"""All models' answers to one image set, side by side: what is asked of images rather than of models starts here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import softmax

from gradlens.errors import InputError
from gradlens.records import Predictions

_AT_ONCE = 2**22  # logits turned into probabilities at once; bounds the memory


@dataclass(frozen=True, eq=False)
class Panel:
    """What M models say about the n labelled images of one set, in the order of the images' ids.

    Attributes:
        dataset: its name.
        models: M names.
        classes: K names: the set's, then those that only models know.
        ids: n ids, sorted.
        labels: (n,) into ``classes``.
        answers: (M, n) into ``classes``; -1 where a model was not given the image.
        confidence: (M, n) probability of the answer; NaN without logits or answer.
        margin: (M, n) probability of the answer less that of the true class, 0 where it is right; NaN without logits,
            without an answer, and where the model does not know the true class.
        pairs: n ids of the paired set's images, ``None`` where unpaired.
    """

    dataset: str
    models: tuple[str, ...]
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    labels: np.ndarray
    answers: np.ndarray
    confidence: np.ndarray
    margin: np.ndarray
    pairs: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def answered(self) -> np.ndarray:
        """(M, n) bool."""
        return self.answers >= 0

    @cached_property
    def right(self) -> np.ndarray:
        """(M, n) bool; false where there is no answer."""
        return self.answers == self.labels

    @cached_property
    def wrong(self) -> np.ndarray:
        """(M, n) bool; false where there is no answer."""
        return self.answered & ~self.right

    @cached_property
    def place(self) -> dict[str, int]:
        """Where each id stands."""
        return {name: i for i, name in enumerate(self.ids)}

    def partners(self, other: Panel) -> np.ndarray:
        """(n,) places of this panel's pairs in another panel; -1 where there is none."""
        return np.array([-1 if p is None else other.place.get(p, -1) for p in self.pairs], dtype=np.int64)


def panel(predictions: Sequence[Predictions]) -> Panel:
    """Set the predictions of several models on one image set side by side; classes and images are matched by name.

    Raises:
        ValueError: no predictions, predictions of several sets, or two of one model.
        InputError: two models were scored against different labels or pairs of one image, or a class name occurs twice.
    """
    if not predictions:
        raise ValueError("expected predictions of at least one model")
    if len({p.dataset for p in predictions}) > 1:
        raise ValueError(f"a panel is of one set, got {sorted({p.dataset for p in predictions})}")
    if len({p.model for p in predictions}) < len(predictions):
        raise ValueError("a model was given twice")
    for p in predictions:
        for names in (p.classes, p.label_classes):
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise InputError(f"{p.model} on {p.dataset}: class {twice!r} occurs twice; rename one")
    classes = tuple(dict.fromkeys([c for p in predictions for c in p.label_classes] + sorted(_known(predictions))))
    place = {name: i for i, name in enumerate(classes)}
    told: dict[str, tuple[int, str | None]] = {}
    for p in predictions:
        of_label = [place[name] for name in p.label_classes]
        for i in np.flatnonzero(p.labels >= 0).tolist():
            fact = of_label[p.labels[i]], p.pairs[i] if p.pairs else None
            if told.setdefault(p.ids[i], fact) != fact:
                raise InputError(
                    f"{p.dataset}: {p.ids[i]!r} has another label or pair for {p.model} than for "
                    f"{predictions[0].model}; give all models the same labels"
                )
    ids = tuple(sorted(told))
    at = {name: i for i, name in enumerate(ids)}
    labels = np.array([told[name][0] for name in ids], dtype=np.int64)
    shape = len(predictions), len(ids)
    answers = np.full(shape, -1, dtype=np.int64)
    confidence, margin = np.full(shape, np.nan), np.full(shape, np.nan)
    for m, p in enumerate(predictions):
        rows = np.flatnonzero(p.labels >= 0)
        columns = np.array([at[p.ids[i]] for i in rows], dtype=np.int64)
        answers[m, columns] = np.array([place[name] for name in p.classes], dtype=np.int64)[p.predicted[rows]]
        if p.logits is not None and len(rows):
            confidence[m, columns], margin[m, columns] = _certainty(p, rows)
    return Panel(
        dataset=predictions[0].dataset,
        models=tuple(p.model for p in predictions),
        classes=classes,
        ids=ids,
        labels=labels,
        answers=answers,
        confidence=confidence,
        margin=margin,
        pairs=tuple(told[name][1] for name in ids),
    )


def _known(predictions: Sequence[Predictions]) -> set[str]:
    return {name for p in predictions for name in p.classes}


def _certainty(p: Predictions, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(confidence, margin) of the given rows, a block at a time."""
    assert p.logits is not None
    known = {name: k for k, name in enumerate(p.classes)}
    column = np.array([known.get(name, -1) for name in p.label_classes], dtype=np.int64)[p.labels[rows]]
    confidence, margin = np.empty(len(rows)), np.empty(len(rows))
    size = max(1, _AT_ONCE // len(p.classes))
    for start in range(0, len(rows), size):
        block = slice(start, start + size)
        probabilities = softmax(np.asarray(p.logits[rows[block]], dtype=np.float64), axis=1)
        line = np.arange(len(probabilities))
        confidence[block] = probabilities[line, p.predicted[rows[block]]]
        true = np.where(column[block] >= 0, probabilities[line, column[block]], np.nan)
        margin[block] = confidence[block] - true
    return confidence, margin
