"""Labels that all good models contradict: planted ones are found, and the bounds are what relabelling gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shift_samples import rows, told

from gradlens.records import Predictions
from gradlens.shift import label_noise, store
from gradlens.shift.panel import Panel, panel

K = 10


def models(n: int, accuracies: list[float], seed: int = 0) -> list[Predictions]:
    """Models that err independently of one another, with logits."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(K, size=n)
    said = []
    for m, accuracy in enumerate(accuracies):
        answers = np.where(rng.random(n) < accuracy, labels, (labels + rng.integers(1, K, n)) % K)
        logits = rng.normal(size=(n, K)).astype(np.float32)
        logits[np.arange(n), answers] += 6
        said.append(told(labels.tolist(), answers.tolist(), [f"c{k}" for k in range(K)], model=f"m{m}", logits=logits))
    return [replace(p, predicted=p.logits.argmax(axis=1)) for p in said if p.logits is not None]


def planted(said: list[Predictions], rate: float, seed: int) -> tuple[list[Predictions], set[str]]:
    """The same predictions against labels of which a share is replaced by another class, drawn at random."""
    rng = np.random.default_rng(seed)
    ids = sorted(said[0].ids)
    hit = set(rng.choice(ids, round(rate * len(ids)), replace=False).tolist())
    k = len(said[0].label_classes)
    turn = dict(zip(ids, rng.integers(1, k, len(ids)).tolist(), strict=True))
    return [
        replace(
            p,
            labels=np.array(
                [(t + turn[i]) % k if i in hit else t for i, t in zip(p.ids, p.labels.tolist(), strict=True)]
            ),
        )
        for p in said
    ], hit


def precision_recall(p: Panel, jurors: np.ndarray, hit: set[str]) -> tuple[float, float]:
    listed = {c.id for c in label_noise.contradicted(p, jurors)}
    return len(listed & hit) / max(1, len(listed)), len(listed & hit) / len(hit)


def confident_learning(p: Panel, m: int, probabilities: np.ndarray) -> set[str]:
    """Northcutt et al. 2021, section 3.1, for one model: off-diagonal of the confident joint.

    t_j is the mean probability of j over images labelled j; an image labelled i is counted as j, the class of highest
    probability among those with p(j) >= t_j.
    """
    k = probabilities.shape[1]
    thresholds = np.array([probabilities[p.labels == j, j].mean() for j in range(k)])
    found = set()
    for i, row in enumerate(probabilities):
        above = np.flatnonzero(row >= thresholds)
        if len(above) and above[row[above].argmax()] != p.labels[i]:
            found.add(p.ids[i])
    return found


def test_planted_labels_are_found_when_models_err_independently() -> None:
    said, hit = planted(models(4000, [0.95, 0.94, 0.93, 0.92]), 0.05, 0)
    p = panel(said)
    jurors = label_noise.jury(p)
    assert len(jurors) == 4
    precision, recall = precision_recall(p, jurors, hit)
    assert precision > 0.99
    # all four must be right about the image: .95 * .94 * .93 * .92 = .764
    assert recall == pytest.approx(0.764, abs=0.08)


def test_confident_learning_of_one_model_lists_more_and_is_less_pure() -> None:
    said, hit = planted(models(4000, [0.95, 0.94, 0.93, 0.92]), 0.05, 0)
    p = panel(said)
    precision, recall = precision_recall(p, label_noise.jury(p), hit)
    place = {name: i for i, name in enumerate(said[0].ids)}
    assert said[0].logits is not None
    logits = said[0].logits[[place[i] for i in p.ids]].astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    listed = confident_learning(p, 0, probabilities)
    assert len(listed & hit) / len(hit) > recall
    assert len(listed & hit) / len(listed) < precision


@pytest.mark.parametrize(
    ("dataset", "precision", "recall", "as_published"),
    [("cifar10", 0.85, 0.80, 50), ("cifar10.1-v4", 0.60, 0.70, 43)],
)
def test_planted_labels_in_published_predictions(
    dataset: str, precision: float, recall: float, as_published: int, shared_data: Path
) -> None:
    """What the module says was measured, with some room."""
    stored = store.read([shared_data / "cifar10.1-predictions.parquet"])
    said = [s.predictions for s in stored if s.predictions.dataset == dataset]
    p = panel(said)
    assert len(label_noise.contradicted(p, label_noise.jury(p))) == as_published
    assert label_noise.expected(p, label_noise.jury(p)) < 0.1
    measured = []
    for seed in range(3):
        noisy, hit = planted(said, 0.05, seed)
        q = panel(noisy)
        measured.append(precision_recall(q, label_noise.jury(q), hit))
    found = np.mean(measured, axis=0)
    assert found[0] > precision
    assert found[1] > recall


def test_expected_is_what_independent_errors_give() -> None:
    counts, chances = [], []
    for seed in range(12):
        p = panel(models(3000, [0.82, 0.82, 0.82], seed))
        jurors = np.arange(3)
        counts.append(len(label_noise.contradicted(p, jurors)))
        chances.append(label_noise.expected(p, jurors))
    # 3,000 images, all wrong with .18^3, alike with 1/81: 0.22 each
    assert np.mean(chances) == pytest.approx(3000 * 0.18**3 / 81, rel=0.15)
    assert np.mean(counts) == pytest.approx(np.mean(chances), abs=3 * np.sqrt(np.mean(chances) / 12))


def test_seeds_of_one_architecture_count_as_one_voice() -> None:
    said = models(3000, [0.82, 0.82, 0.82])
    seeds = [replace(said[0], model=name) for name in ("m0", "m0-s1", "m0-s2")]  # err on the same images
    alike = panel([*seeds, *said[1:]])
    jurors = label_noise.jury(alike)
    assert len(jurors) == 5
    assert label_noise.families(alike, jurors) == ["m0", "m1", "m2"]
    single = panel(said)
    assert label_noise.expected(alike, jurors) == label_noise.expected(single, label_noise.jury(single)) > 0


def test_models_that_share_a_shortcut_are_no_jury() -> None:
    labels = [0, 1] * 20
    wrong = [1 - k for k in labels]
    p = panel([told(labels, wrong, ["cat", "dog"], model=m) for m in "abc"])
    assert len(label_noise.jury(p)) == 0
    assert (label_noise.votes(p, label_noise.jury(p)) == -1).all()


def test_bounds_are_those_of_relabelled_data() -> None:
    said, _ = planted(models(600, [0.95, 0.9, 0.92, 0.5]), 0.06, 3)
    p = panel(said)
    jurors = label_noise.jury(p)
    doubted = {c.id: c.vote for c in label_noise.contradicted(p, jurors)}
    assert doubted
    for m, b in enumerate(label_noise.bounds(p, jurors)):
        one = said[m]
        relabelled = [doubted.get(i, one.label_classes[t]) for i, t in zip(one.ids, one.labels, strict=True)]
        answers = [one.classes[a] for a in one.predicted]
        assert b.relabelled == pytest.approx(np.mean([a == t for a, t in zip(answers, relabelled, strict=True)]))
        kept = [
            one.classes[a] == one.label_classes[t]
            for i, a, t in zip(one.ids, one.predicted, one.labels, strict=True)
            if i not in doubted
        ]
        assert b.removed == pytest.approx(np.mean(kept))
        assert b.low <= b.accuracy <= b.high
        assert b.juror == (m < 3)
        if b.juror:
            assert b.relabelled == pytest.approx(b.accuracy + len(doubted) / b.n)


@given(st.permutations(range(80)), st.permutations(range(4)), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_the_order_of_images_and_models_does_not_matter(order: list[int], which: list[int], seed: int) -> None:
    said, _ = planted(models(80, [0.95, 0.9, 0.92, 0.85], seed), 0.2, seed)
    other = [rows(said[m], np.array(order)) for m in which]
    a, b = panel(said), panel(other)
    assert label_noise.contradicted(a, label_noise.jury(a, 0.6)) == label_noise.contradicted(
        b, label_noise.jury(b, 0.6)
    )


@pytest.mark.parametrize("right", [True, False])
def test_nothing_wrong_and_everything_wrong(right: bool) -> None:
    labels = [0, 1, 0, 1]
    answers = labels if right else [1, 0, 1, 0]
    p = panel([told(labels, answers, ["cat", "dog"], model=m) for m in "abc"])
    jurors = np.arange(3)
    assert len(label_noise.contradicted(p, jurors)) == (0 if right else 4)
    for b in label_noise.bounds(p, jurors):
        assert b.relabelled == 1
        assert (b.removed == 1) if right else np.isnan(b.removed)
    assert label_noise.expected(p, jurors) == pytest.approx(0 if right else 4)
