"""OOD scores and how well they separate: against scikit-learn, scipy and slow versions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax
from scipy.stats import entropy as shannon
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score, roc_curve

from gradlens.errors import InputError
from gradlens.shift.ood import FEATURE_SCORES, FOLDS, SCORES, auroc, cross_fit, scored, separation

whole = st.lists(st.integers(-4, 4), min_size=1, max_size=30)


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_those_of_the_papers_and_grow_with_unfamiliarity(name: str) -> None:
    z = np.random.default_rng(0).normal(size=(50, 6)) * 3
    p = softmax(z, axis=1)
    paper = {
        "msp": -np.log(p.max(axis=1)),
        "entropy": shannon(p, axis=1),
        "max_logit": -z.max(axis=1),
        "energy": -logsumexp(z, axis=1),
    }
    assert scored(name, z) == pytest.approx(paper[name], abs=1e-9)
    sure, unsure = np.array([[9.0, 0, 0]]), np.array([[1.0, 0.9, 0.8]])
    assert scored(name, sure)[0] < scored(name, unsure)[0]


def test_confidence_that_rounds_to_one_is_still_ordered() -> None:
    z = np.array([[60.0, 0, 0], [70.0, 0, 0], [80.0, 0, 0]])
    assert len(set(softmax(z, axis=1).max(axis=1))) == 1
    assert (np.diff(scored("msp", z)) < 0).all()


@pytest.mark.parametrize("name", [n for n, s in SCORES.items() if s.scale])
def test_scores_of_logits_are_refused_for_probabilities(name: str) -> None:
    p = softmax(np.random.default_rng(0).normal(size=(9, 4)), axis=1)
    with pytest.raises(InputError, match="only probabilities"):
        scored(name, np.log(p))


@settings(max_examples=50, deadline=None)
@given(whole, whole)
def test_auroc_is_scikit_learns_also_with_ties(a: list[int], b: list[int]) -> None:
    x, y = np.array(a, float), np.array(b, float)
    e = auroc(x, y)
    assert e.value == pytest.approx(
        roc_auc_score(np.repeat([0, 1], [len(x), len(y)]), np.concatenate([x, y])), abs=1e-12
    )
    assert 0 <= e.low <= e.value <= e.high <= 1
    assert auroc(-x, -y).value == pytest.approx(1 - e.value, abs=1e-12)
    assert e.high > e.low  # never certain


def test_delong_from_its_structural_components() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=40).round(1), rng.normal(0.8, size=30).round(1)
    psi = (y[:, None] > x).astype(float) + (y[:, None] == x) / 2
    variance = psi.mean(axis=1).var(ddof=1) / 30 + psi.mean(axis=0).var(ddof=1) / 40
    e = auroc(x, y)
    assert (e.value - e.low, e.high - e.value) == pytest.approx([1.959964 * np.sqrt(variance)] * 2, rel=1e-5)


def test_delong_covers() -> None:
    truth, inside = 0.7602499, 0  # P(Y > X) for unit normals one apart
    for seed in range(300):
        rng = np.random.default_rng(seed)
        e = auroc(rng.normal(size=60), rng.normal(1.0, size=50))
        inside += e.low <= truth <= e.high
    assert 0.91 <= inside / 300 <= 0.98


def test_sets_that_do_not_overlap_have_an_interval_all_the_same() -> None:
    e = auroc(np.arange(20.0), np.arange(100.0, 130.0))
    assert e.value == e.high == 1
    assert 0.8 < e.low < 0.99
    assert "Newcombe" in e.interval


@settings(max_examples=40, deadline=None)
@given(whole, whole)
def test_fpr95_from_scikit_learns_curve(a: list[int], b: list[int]) -> None:
    x, y = np.array(a, float), np.array(b, float)
    found = separation(x, y, resamples=100)
    for got, positive, other in ((found.fpr95_in_dist_positive, -x, -y), (found.fpr95_ood_positive, y, x)):
        fpr, tpr, _ = roc_curve(
            np.repeat([1, 0], [len(positive), len(other)]), np.concatenate([positive, other]), drop_intermediate=False
        )
        assert got.value == pytest.approx(fpr[np.argmax(tpr >= 0.95 - 1e-12)], abs=1e-12)
        assert 0 <= got.low <= got.value <= got.high <= 1


def test_the_two_conventions_of_fpr95_differ() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, 500), np.concatenate([rng.normal(0, 1, 60), rng.normal(6, 1, 440)])
    found = separation(x, y, resamples=100)
    assert found.fpr95_in_dist_positive.value < 0.15
    assert found.fpr95_ood_positive.value > 0.4


def test_separation_does_not_depend_on_scale() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=50), rng.normal(0.5, size=40)
    assert separation(x, y, resamples=100) == separation(8 * x, 8 * y, resamples=100)


def test_nothing_is_told_apart_by_nothing() -> None:
    with pytest.raises(InputError, match="got 0 and 3"):
        separation(np.zeros(0), np.zeros(3))
    with pytest.raises(InputError, match="not finite"):
        separation(np.array([np.nan]), np.zeros(3))


def clouds(n: int = 60, c: int = 4, k: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    classes = np.arange(n) % k
    return (rng.normal(size=(n, c)) + 4 * np.eye(k, c)[classes]).astype(np.float32), classes


def test_mahalanobis_is_the_distance_to_the_nearest_class() -> None:
    x, classes = clouds()
    new = np.random.default_rng(5).normal(size=(7, 4)) * 3
    means = np.stack([x[classes == c].astype(float).mean(axis=0) for c in range(3)])
    precision = np.linalg.inv(LedoitWolf(assume_centered=True).fit(x.astype(float) - means[classes]).covariance_)
    slow = [min((f - m) @ precision @ (f - m) for m in means) for f in new]
    assert FEATURE_SCORES["mahalanobis"].fit(x.astype(float), classes)(new) == pytest.approx(slow, rel=1e-6)


def test_knn_is_the_distance_to_the_tenth_neighbour() -> None:
    x, classes = clouds()
    new = np.random.default_rng(5).normal(size=(7, 4))
    unit = lambda a: a / np.linalg.norm(a, axis=1, keepdims=True)  # noqa: E731
    slow = np.sort(np.linalg.norm(unit(new)[:, None] - unit(x.astype(float))[None], axis=2), axis=1)[:, 9]
    assert FEATURE_SCORES["knn"].fit(x.astype(float), classes)(new) == pytest.approx(slow, abs=1e-9)


@pytest.mark.parametrize("name", FEATURE_SCORES)
def test_no_image_is_scored_by_what_was_learned_from_it(name: str) -> None:
    x, classes = clouds()
    fit = cross_fit(name, x, classes)
    for fold in range(FOLDS):
        own = fit.folds == fold
        of = FEATURE_SCORES[name].fit(x[~own].astype(float), classes[~own])
        assert fit.in_dist[own] == pytest.approx(of(x[own].astype(float)))
    # the same images as a paired probe set: each goes to the fit without its partner, so the scores are equal
    assert fit.scores(x, np.arange(len(x))) == pytest.approx(fit.in_dist)
    told = separation(fit.in_dist, fit.scores(x, np.arange(len(x))), resamples=100)
    assert told.auroc.value == pytest.approx(0.5)


@pytest.mark.parametrize("name", FEATURE_SCORES)
def test_feature_scores_work_with_fewer_images_than_features_and_with_dead_features(name: str) -> None:
    x, classes = clouds(n=20, c=50)
    x[:, 3] = 0
    assert np.isfinite(cross_fit(name, x, classes).scores(x + 1)).all()


@pytest.mark.parametrize("name", FEATURE_SCORES)
def test_fresh_images_of_the_same_kind_are_not_unfamiliar(name: str) -> None:
    """Scored by a fit that saw them, the in-distribution images would look too familiar, and these unfamiliar."""
    x, classes = clouds(n=200, c=30)
    fresh, _ = clouds(n=200, c=30, seed=1)
    e = separation(cross_fit(name, x, classes).in_dist, cross_fit(name, x, classes).scores(fresh), resamples=100).auroc
    assert e.low <= 0.5 <= e.high
