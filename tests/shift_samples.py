"""Predictions drawn at random, for the tests of the shift side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gradlens.records import Predictions


def draw(
    n: int = 120,
    k: int = 6,
    seed: int = 0,
    *,
    noise: float = 1.5,
    hard: bool = False,
    model: str = "model",
    dataset: str = "set",
    labels: np.ndarray | None = None,
    pairs: Sequence[str | None] | None = None,
) -> Predictions:
    """n images of k classes ``c0``, ``c1``, ...; the true class has the larger logit more often the less noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(k, size=n) if labels is None else labels
    logits = (rng.normal(size=(n, k)) * noise).astype(np.float32)
    logits[np.arange(n)[labels >= 0], labels[labels >= 0]] += 2
    names = tuple(f"c{i}" for i in range(k))
    return Predictions(
        model=model,
        dataset=dataset,
        classes=names,
        label_classes=names,
        ids=tuple(f"{dataset}-{i:05d}" for i in range(n)),
        labels=labels,
        predicted=logits.argmax(axis=1),
        logits=None if hard else logits,
        pairs=None if pairs is None else tuple(pairs),
    )


def told(labels: Sequence[int], predicted: Sequence[int], classes: Sequence[str], **rest: object) -> Predictions:
    """Predictions, written out; ``rest`` are further fields."""
    fields = {
        "model": "model",
        "dataset": "set",
        "classes": tuple(classes),
        "label_classes": tuple(classes),
        "ids": tuple(str(i) for i in range(len(labels))),
        "labels": np.array(labels, dtype=np.int64),
        "predicted": np.array(predicted, dtype=np.int64),
    }
    return Predictions(**{**fields, **rest})  # type: ignore[arg-type]


def rows(p: Predictions, order: np.ndarray) -> Predictions:
    """The given images in the given order."""
    return replace(
        p,
        ids=tuple(p.ids[i] for i in order),
        labels=p.labels[order],
        predicted=p.predicted[order],
        logits=None if p.logits is None else p.logits[order],
        pairs=None if p.pairs is None else tuple(p.pairs[i] for i in order),
    )
