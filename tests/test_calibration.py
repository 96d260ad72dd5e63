"""Calibration: against scikit-learn, against slow versions, with ties, and at its edges."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from shift_samples import draw, rows, told
from sklearn.metrics import brier_score_loss, log_loss
from test_ranks import subject

from gradlens.figures.reliability import reliability as draw_reliability
from gradlens.records import Predictions
from gradlens.shift import calibration, metrics
from gradlens.shift.calibration import SCORES
from gradlens.shift.metrics import on_classes
from gradlens.workflows.measure.analyses import ANALYSES


def graded(p: Predictions, t: float = 1.0) -> calibration.Graded:
    return calibration.graded(on_classes(p), t)


def values(g: calibration.Graded) -> dict[str, float]:
    once = np.ones((1, len(g)))
    return {name: float(s.of(g, once)[0]) for name, s in SCORES.items()}


@pytest.mark.parametrize(("n", "k"), [(1, 2), (50, 2), (300, 6)])
@pytest.mark.parametrize("t", [0.4, 1.0, 3.0])
def test_nll_and_brier_are_scikit_learns(n: int, k: int, t: float) -> None:
    p = draw(n, k, seed=n)
    found = values(graded(p, t))
    probabilities = softmax(p.logits.astype(float) / t, axis=1)
    assert found["nll"] == pytest.approx(log_loss(p.labels, probabilities, labels=range(k)))
    brier = brier_score_loss(p.labels, probabilities, labels=list(range(k)), scale_by_half=False)
    assert found["brier"] == pytest.approx(brier)


def test_unscaled_scores_are_those_of_the_summary() -> None:
    p = draw(400, 7, seed=3)
    summary = metrics.evaluate(p, resamples=100)
    found = values(graded(p))
    for name in ("ece", "nll", "brier"):
        assert found[name] == pytest.approx(summary[name].value, abs=1e-9)


@pytest.mark.parametrize("noise", [0.7, 1.5, 4])
def test_temperature_is_that_of_a_fine_grid(noise: float) -> None:
    p = draw(300, 5, seed=1, noise=noise)
    grid = np.geomspace(0.05, 20, 4000)
    losses = [-np.log(softmax(p.logits.astype(float) / t, axis=1)[np.arange(300), p.labels]).mean() for t in grid]
    found = calibration.temperature(on_classes(p))
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=2e-3)
    # at the optimum the mean logit of the true class is the expected one
    scored = on_classes(p)
    probabilities = softmax(scored.logits.astype(float) / found, axis=1)
    own = scored.logits[np.arange(300), scored.truth]
    assert own.mean() == pytest.approx((probabilities * scored.logits).sum(axis=1).mean(), abs=1e-3)


def test_temperature_undoes_a_scale() -> None:
    p = draw(500, 4, seed=2)
    hot = replace(p, logits=p.logits * 3)
    assert calibration.temperature(on_classes(hot)) == pytest.approx(
        3 * calibration.temperature(on_classes(p)), rel=1e-3
    )


def test_a_model_without_errors_has_no_temperature_but_a_limit() -> None:
    p = draw(60, 3, seed=0, noise=0.01)
    assert calibration.temperature(on_classes(p)) == calibration.COOLEST


def test_halves_do_not_see_themselves() -> None:
    p = draw(101, 4, seed=5)
    scored = on_classes(p)
    found = calibration.cross_fitted(scored)
    one, two = sorted(set(found.tolist()))
    assert {int((found == one).sum()), int((found == two).sum())} == {50, 51}
    for t in (one, two):
        assert calibration.temperature(scored, np.flatnonzero(found != t)) == pytest.approx(t)
    mixed = on_classes(rows(p, np.random.default_rng(0).permutation(101)))
    assert (calibration.cross_fitted(mixed) == found).all()


def slow_aurc(confidence: np.ndarray, correct: np.ndarray) -> float:
    order = np.argsort(-confidence, kind="stable")
    wrong = ~correct[order]
    return float(np.mean([wrong[: i + 1].mean() for i in range(len(wrong))]))


def test_aurc_is_the_mean_risk_over_coverages() -> None:
    p = draw(200, 4, seed=8)
    g = graded(p)
    assert values(g)["aurc"] == pytest.approx(slow_aurc(g.confidence, g.correct))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.4, 0.6, 0.9]), st.booleans()), min_size=1, max_size=6))
def test_ties_err_by_their_mean(images: list[tuple[float, bool]]) -> None:
    """Written out: the mean over all orders of images that the confidences allow."""
    confidence, correct = np.array([c for c, _ in images]), np.array([r for _, r in images])
    n = len(images)
    g = calibration.Graded(np.zeros((n, 2)), np.zeros(n), np.zeros(n, int), confidence, correct)
    orders = [np.array(o) for o in permutations(range(n))]
    expected = np.mean([slow_aurc(confidence[o], correct[o]) for o in orders])
    assert SCORES["aurc"].of(g, np.ones((1, n)))[0] == pytest.approx(expected)


@pytest.mark.parametrize("name", SCORES)
@settings(max_examples=25, deadline=None)
@given(st.integers(2, 60), st.integers(2, 5), st.integers(0, 500), st.booleans())
def test_weights_are_images_drawn_several_times(name: str, n: int, k: int, seed: int, ties: bool) -> None:
    p = draw(n, k, seed)
    p = replace(p, logits=np.round(p.logits)) if ties else p
    p = replace(p, predicted=p.logits.argmax(axis=1))
    g = graded(p, 0.8)
    drawn = np.random.default_rng(seed).integers(n, size=n)
    weights = np.bincount(drawn, minlength=n)[None].astype(np.float32)
    weighted = float(SCORES[name].of(g, weights)[0])
    if name == "ece_equal_mass":  # its bins stay those of the sample
        edges = calibration.equal_mass_edges(g.confidence, 15)
        place = np.clip(np.searchsorted(edges, g.confidence[drawn], side="left") - 1, 0, len(edges) - 2)
        excess = g.correct[drawn] - g.confidence[drawn]
        expected = np.abs(np.bincount(place, excess, len(edges) - 1)).sum() / n
    else:
        expected = float(SCORES[name].of(g.take(drawn), np.ones((1, n)))[0])
    assert weighted == pytest.approx(expected, abs=1e-4)
    order = np.random.default_rng(seed).permutation(n)
    assert values(g.take(order))[name] == pytest.approx(values(g)[name], abs=1e-9)
    assert values(g)[name] >= 0


def test_classwise_error_written_out() -> None:
    p = draw(80, 3, seed=4)
    g = graded(p)
    truth, probabilities = p.labels, softmax(p.logits.astype(float), axis=1)
    total = 0.0
    for c in range(3):
        for b in range(15):
            inside = (probabilities[:, c] > b / 15) & (probabilities[:, c] <= (b + 1) / 15)
            if inside.any():
                off = (truth[inside] == c).mean() - probabilities[inside, c].mean()
                total += inside.mean() * abs(off) / 3
    assert values(g)["ece_classwise"] == pytest.approx(total)


def test_equal_mass_bins_hold_equally_many_and_share_no_tie() -> None:
    confidence = np.random.default_rng(0).uniform(0.2, 1, 150)
    edges = calibration.equal_mass_edges(confidence, 15)
    assert np.histogram(confidence, edges)[0].tolist() == pytest.approx([10] * 15, abs=1)
    assert len(calibration.equal_mass_edges(np.full(20, 0.5), 15)) == 2
    assert calibration.equal_mass_edges(np.zeros(3), 15).tolist() == [0, 1]


def test_intervals_hold_their_points_and_say_how_they_were_made() -> None:
    g = graded(draw(150, 4, seed=6))
    found = calibration.evaluate(g, resamples=300)
    assert list(found) == list(SCORES)
    for name, e in found.items():
        assert 0 <= e.low <= e.value <= e.high
        assert e.low < e.high
        assert e.n == 150
        assert e.interval == f"{'basic ' if name.startswith('ece') else ''}bootstrap 95%, 300 resamples"
    assert calibration.evaluate(g, resamples=300) == found
    assert calibration.resamples_of(10_000, 10_000) == 419
    assert calibration.resamples_of(10**6, 10_000) == 250
    assert calibration.resamples_of(100, 10_000) == 1000


def test_nll_interval_is_that_of_a_plain_bootstrap() -> None:
    g = graded(draw(200, 4, seed=7))
    e = calibration.evaluate(g, resamples=1000)["nll"]
    half = 1.96 * g.log_p_true.std() / math.sqrt(200)
    assert (e.low, e.high) == pytest.approx((e.value - half, e.value + half), abs=0.2 * half)


def test_classes_that_the_model_does_not_know() -> None:
    p = draw(60, 3, seed=1)
    p = replace(p, label_classes=("c0", "c1", "zebra"))
    scored = on_classes(p)
    known = scored.column >= 0
    assert calibration.temperature(scored) == calibration.temperature(scored, np.flatnonzero(known))
    found = calibration.evaluate(calibration.graded(scored), resamples=100)
    assert "images of classes that the model does not know" in found["nll"].interval
    assert found["brier"].defined
    with pytest.raises(ValueError, match="classes that the model knows"):
        calibration.temperature(scored, np.flatnonzero(~known))


def test_hard_predictions_have_no_confidence() -> None:
    with pytest.raises(ValueError, match="needs logits"):
        graded(draw(20, 3, hard=True))
    with pytest.raises(ValueError, match="needs logits"):
        calibration.temperature(on_classes(told([0, 1], [0, 1], "ab")))


@pytest.mark.parametrize("bins", [1, 10])
def test_reliability_bins_hold_all_images(bins: int) -> None:
    g = graded(draw(95, 4, seed=2))
    r = calibration.reliability(g, "m", "s", "none", bins)
    assert sum(e.n for e in r.accuracy) == 95
    assert len(r.accuracy) == bins
    assert sum(e.n * e.value for e in r.accuracy) == pytest.approx(g.correct.sum())
    assert list(r.confidence) == sorted(r.confidence)


# --- the analysis ----------------------------------------------------------------------------------------------------


def many(models: int = 2, hard: int = 0) -> dict[tuple[str, str], Predictions]:
    found = {}
    for i in range(models):
        for j, name in enumerate(("test", "probe", "other")):
            p = draw(160, 4, 10 * i + j, noise=1 + j, model=f"m{i}", dataset=name)
            found[f"m{i}", name] = replace(p, logits=None) if i < hard else p
    return found


def test_analysis_scores_before_and_after() -> None:
    outcome = ANALYSES["calibration"].of(subject(many()))
    columns, table = outcome.tables["calibration.csv"]
    assert set(columns) == set(table[0])
    assert len(table) == 2 * 3 * 2 * len(SCORES)
    by = {(r["model"], r["dataset"], r["scaling"], r["metric"]): r for r in table}
    p = many()["m0", "probe"]
    t = by["m0", "probe", "temperature", "nll"]["temperature"]
    assert t == calibration.temperature(on_classes(many()["m0", "test"]))
    assert by["m0", "probe", "temperature", "nll"]["value"] == pytest.approx(
        log_loss(p.labels, softmax(p.logits.astype(float) / t, axis=1), labels=range(4))
    )
    assert by["m0", "probe", "temperature", "nll"]["fitted_on"] == "all of test"
    assert by["m0", "test", "temperature", "nll"]["fitted_on"].startswith("the other half of test (T ")
    assert by["m0", "test", "none", "nll"]["fitted_on"] == ""
    assert outcome.findings[0].startswith("Calibration error (ECE, median of 2 models) on test: ")
    assert "on other" in outcome.findings[0]


def test_cross_fitting_is_not_better_than_the_truth() -> None:
    """Fitted and scored on the same images, the loss looks smaller than it is; cross-fitted, it is not too small."""
    own, crossed = [], []
    for seed in range(40):
        scored = on_classes(draw(40, 4, seed, noise=1.5))
        own.append(values(calibration.graded(scored, calibration.temperature(scored)))["nll"])
        crossed.append(values(calibration.graded(scored, calibration.cross_fitted(scored)))["nll"])
    fresh = on_classes(draw(40_000, 4, 99, noise=1.5))
    best = values(calibration.graded(fresh, calibration.temperature(fresh)))["nll"]
    assert np.mean(own) < np.mean(crossed)
    assert np.mean(crossed) > best - 0.03


def test_models_without_logits_are_named() -> None:
    outcome = ANALYSES["calibration"].of(subject(many(2, hard=1)))
    assert outcome.notes[0] == "no calibration of m0: predictions without logits"
    assert {r["model"] for r in outcome.tables["calibration.csv"][1]} == {"m1"}
    nothing = ANALYSES["calibration"].of(subject(many(1, hard=1)))
    assert "needs logits or probabilities" in nothing.not_done


@pytest.mark.parametrize("models", [1, 2, 6])
def test_reliability_figure(models: int) -> None:
    outcome = ANALYSES["calibration"].of(subject(many(models)))
    (stem, make) = outcome.figures[0]
    figure = make()
    assert stem == "reliability"
    assert len([ax for ax in figure.axes if ax.get_visible()]) == models
    figure.draw_without_rendering()
    with pytest.raises(ValueError, match="no reliability"):
        draw_reliability([], "test")
