"""Accuracy without labels: against slow versions next to the papers, and what must hold for every estimator."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from scipy.special import softmax
from scipy.stats import norm
from shift_samples import draw, rows, told

from gradlens.errors import InputError
from gradlens.records import Estimate, Predictions
from gradlens.shift.temperature import fit_temperature
from gradlens.shift.unlabelled import (
    ESTIMATORS,
    FEWEST_RESAMPLES,
    Guess,
    Side,
    agreement_line,
    chosen_elsewhere,
    error_elsewhere,
    errors_by_set,
    estimate,
    normalised_nuclear_norm,
    nuclear_norm,
    resamples_of,
    side_of,
    track_record,
)

ALONE = [name for name, one in ESTIMATORS.items() if one.needs in ("predictions", "probabilities")]
TOGETHER = [name for name, one in ESTIMATORS.items() if one.needs == "models"]


def sides(n0: int = 150, n1: int = 110, k: int = 5, seed: int = 0, noise: float = 2.2) -> tuple[Side, Side]:
    """A labelled side, and a harder one whose truth is known to the test alone."""
    return (
        side_of(draw(n0, k, seed, noise=1.2), labelled=True),
        side_of(draw(n1, k, seed + 1, noise=noise, dataset="other"), labelled=True),
    )


def several(
    models: int = 4, n: int = 120, k: int = 4, seed: int = 0, noise: float = 1.5, dataset: str = "set"
) -> list[Side]:
    """Models of different quality on the same images."""
    labels = np.random.default_rng(seed).integers(k, size=n)
    made = (
        draw(n, k, seed + 1 + m, noise=noise * (0.7 + 0.3 * m), labels=labels, dataset=dataset, model=f"m{m}")
        for m in range(models)
    )
    return [side_of(p, labelled=True) for p in made]


def value(name: str, a: Side, b: Side) -> float:
    return estimate(ESTIMATORS[name], a, b.hidden, resamples=100)[0].value


# --------------------------------------------------------------------------------------------- temperature


def test_temperature_minimises_the_log_likelihood() -> None:
    p = draw(400, 6, seed=3)
    assert p.logits is not None
    z = p.logits.astype(float)

    def loss(x: np.ndarray) -> float:
        return float(-np.log(softmax(z / x[0], axis=1)[np.arange(len(z)), p.labels]).mean())

    oracle = minimize(loss, [1.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12}).x[0]
    assert fit_temperature(p.logits, p.labels) == pytest.approx(oracle, rel=1e-4)


def test_temperature_undoes_a_factor() -> None:
    p = draw(300, 4, seed=5)
    assert p.logits is not None
    assert fit_temperature(7 * p.logits, p.labels) == pytest.approx(7 * fit_temperature(p.logits, p.labels), rel=1e-4)


def test_no_temperature_where_every_image_is_right_or_nothing_is_known() -> None:
    labels = np.arange(20) % 3
    with pytest.raises(InputError, match="all 20 images are right"):
        fit_temperature(np.eye(3)[labels] * 4, labels)
    with pytest.raises(InputError, match="labelled images"):
        fit_temperature(np.zeros((0, 3)), np.zeros(0, dtype=int))
    with pytest.raises(InputError, match="no temperature"):
        fit_temperature(-np.eye(3)[labels], labels)


# --------------------------------------------------------------------------------------------- one model, by the paper


def test_average_confidence_and_doc() -> None:
    a, b = sides()
    assert a.logits is not None
    assert b.logits is not None
    conf = [softmax(s.logits.astype(float), axis=1).max(axis=1).mean() for s in (a, b)]  # type: ignore[union-attr]
    assert value("average_confidence", a, b) == pytest.approx(conf[1], abs=1e-12)
    assert value("doc", a, b) == pytest.approx(a.right.mean() - (conf[0] - conf[1]), abs=1e-12)


@pytest.mark.parametrize(("name", "negative_entropy"), [("atc_max_confidence", False), ("atc_negative_entropy", True)])
@pytest.mark.parametrize("seed", range(5))
def test_atc_as_in_the_paper(name: str, negative_entropy: bool, seed: int) -> None:
    a, b = sides(n0=60, n1=45, seed=10 * seed)

    def score(side: Side) -> np.ndarray:
        assert side.logits is not None
        p = softmax(side.logits.astype(float), axis=1)
        return (p * np.log(p)).sum(axis=1) if negative_entropy else p.max(axis=1)

    errors = (~a.right).sum()
    thresholds = [t for t in score(a) if (score(a) < t).sum() == errors]  # equation 1, exactly
    assert len(thresholds) == 1
    assert value(name, a, b) == pytest.approx((score(b) >= thresholds[0]).mean(), abs=1e-12)


@pytest.mark.parametrize("name", ["atc_max_confidence", "atc_negative_entropy"])
def test_atc_scores_with_the_probabilities_that_set_the_threshold(name: str) -> None:
    """With two classes both scores order images as |z0 - z1| does, so a temperature on both sides changes nothing.

    A version that calibrates the threshold and then scores raw probabilities is caught by that.
    """
    a, b = sides(k=2, noise=1.6)
    assert value(name, a.at(3.0), b.at(3.0)) == value(name, a, b)
    assert value(name, a.at(3.0), b) != value(name, a, b)


@pytest.mark.parametrize("seed", range(4))
def test_cot_is_the_optimal_transport_to_the_class_mix(seed: int) -> None:
    labels = np.repeat(np.arange(4), [6, 3, 9, 6])
    a = side_of(draw(24, 4, seed, labels=labels), labelled=True)
    b = side_of(draw(24, 4, seed + 50, noise=2.5, dataset="other"), labelled=True)
    assert b.logits is not None
    p = softmax(b.logits.astype(float), axis=1)
    cost = np.abs(p[:, None] - np.eye(4)[None]).max(axis=2)  # sup norm, as in the paper
    n, k = cost.shape
    rows_sum, columns_sum = np.kron(np.eye(n), np.ones(k)), np.kron(np.ones(n), np.eye(k))
    mix = np.bincount(a.truth, minlength=k) / len(a)
    best = linprog(cost.ravel(), A_eq=np.vstack([rows_sum, columns_sum]), b_eq=np.concatenate([np.full(n, 1 / n), mix]))
    assert value("cot", a, b) == pytest.approx(1 - best.fun, abs=1e-9)


def test_cot_where_counts_are_no_whole_numbers() -> None:
    a, b = sides(n0=37, n1=23, k=4)
    assert b.logits is not None
    p = softmax(b.logits.astype(float), axis=1)
    n, k = p.shape
    rows_sum, columns_sum = np.kron(np.eye(n), np.ones(k)), np.kron(np.ones(n), np.eye(k))
    mix = np.bincount(a.truth, minlength=k) / len(a)
    best = linprog(
        (1 - p).ravel(), A_eq=np.vstack([rows_sum, columns_sum]), b_eq=np.concatenate([np.full(n, 1 / n), mix])
    )
    assert 1 - best.fun - 1e-9 <= value("cot", a, b) <= 1 - best.fun + k / n


def test_bbse_and_em_as_in_the_papers() -> None:
    a, b = sides(n0=300, n1=200, k=4)
    assert a.logits is not None
    assert b.logits is not None
    assert a.truth is not None
    c = np.zeros((4, 4))
    np.add.at(c, (a.predicted, a.truth), 1 / len(a))
    mu = np.bincount(b.predicted, minlength=4) / len(b)
    q = np.maximum(np.linalg.solve(c, mu), 0) * c.sum(axis=0)
    recall = np.diag(c) / c.sum(axis=0)
    assert value("bbse", a, b) == pytest.approx((q / q.sum() * recall).sum(), abs=1e-9)
    p, prior = softmax(b.logits.astype(float), axis=1), c.sum(axis=0)
    mix = prior.copy()
    for _ in range(5000):
        posterior = p * (mix / prior)
        mix = (posterior / posterior.sum(axis=1, keepdims=True)).mean(axis=0)
    assert value("em", a, b) == pytest.approx((mix * recall).sum(), abs=1e-3)


@pytest.mark.parametrize("name", ["bbse", "em"])
def test_label_shift_is_recovered(name: str) -> None:
    rng = np.random.default_rng(0)
    a = side_of(draw(6000, 3, 1, noise=1.0, labels=rng.choice(3, 6000, p=[0.6, 0.3, 0.1])), labelled=True)
    b = side_of(draw(6000, 3, 2, noise=1.0, labels=rng.choice(3, 6000, p=[0.1, 0.2, 0.7])), labelled=True)
    assert a.logits is not None
    assert a.truth is not None
    t = fit_temperature(a.logits, a.truth)
    assert value(name, a.at(t), b.at(t)) == pytest.approx(b.right.mean(), abs=0.03)


def test_bbse_refuses_classes_that_are_predicted_alike() -> None:
    a = side_of(told([0, 1, 2, 0, 1, 2], [0, 0, 2, 0, 0, 2], "abc"), labelled=True)
    with pytest.raises(InputError, match="singular"):
        estimate(ESTIMATORS["bbse"], a, a.hidden)


def test_nuclear_norm_reads_off_the_line() -> None:
    labelled = [side_of(draw(90, 4, s, noise=0.6 + 0.4 * s, dataset=f"d{s}"), labelled=True) for s in range(6)]
    new = side_of(draw(70, 4, 99, noise=1.7), labelled=True)
    assert new.logits is not None
    p = softmax(new.logits.astype(float), axis=1)
    assert normalised_nuclear_norm(new) == pytest.approx(np.linalg.norm(p, "nuc") / np.sqrt(4 * 70), abs=1e-12)
    x = np.array([normalised_nuclear_norm(s) for s in labelled])
    y = np.array([s.right.mean() for s in labelled])
    fit = sm.OLS(y, sm.add_constant(x)).fit()
    frame = fit.get_prediction([[1.0, normalised_nuclear_norm(new)]]).summary_frame(alpha=0.1)
    found = nuclear_norm(list(x), list(y), normalised_nuclear_norm(new), len(new), 0.9)
    assert found.n == 70
    assert found.value == pytest.approx(frame["mean"][0], abs=1e-12)
    assert (found.low, found.high) == pytest.approx((frame["obs_ci_lower"][0], min(1, frame["obs_ci_upper"][0])))
    with pytest.raises(InputError, match="at least four"):
        nuclear_norm(list(x[:3]), list(y[:3]), 0.5, 70)
    with pytest.raises(InputError, match="same nuclear norm"):
        nuclear_norm([0.5] * 4, list(y[:4]), 0.5, 70)


# --------------------------------------------------------------------------------------------- several models


def test_aline_as_in_the_paper() -> None:
    a, b = several(), several(seed=40, noise=2.4, dataset="other")
    n = len(a[0])
    pairs = list(combinations(range(4), 2))

    def probit(rate: float) -> float:
        return float(norm.ppf(min(max(rate, 0.5 / n), 1 - 0.5 / n)))

    agreed = [[probit((s[i].predicted == s[j].predicted).mean()) for i, j in pairs] for s in (a, b)]
    slope, intercept = np.polyfit(*agreed, 1)
    known = [probit(s.right.mean()) for s in a]
    by_line = [e.value for e in estimate(ESTIMATORS["aline_s"], a, [s.hidden for s in b])]
    assert by_line == pytest.approx(norm.cdf(slope * np.array(known) + intercept), abs=1e-9)
    design, target = np.zeros((len(pairs), 4)), np.zeros(len(pairs))
    for row, (i, j) in enumerate(pairs):
        design[row, [i, j]] = 0.5
        target[row] = agreed[1][row] + slope * ((known[i] + known[j]) / 2 - agreed[0][row])
    solved = np.linalg.lstsq(design, target, rcond=None)[0]
    by_pair = [e.value for e in estimate(ESTIMATORS["aline_d"], a, [s.hidden for s in b])]
    assert by_pair == pytest.approx(norm.cdf(solved), abs=1e-9)
    told_slope, r2 = agreement_line(a, [s.hidden for s in b])
    assert told_slope == pytest.approx(slope)
    assert r2 == pytest.approx(np.corrcoef(*agreed)[0, 1] ** 2)


def test_agreement_is_the_mean_over_the_other_models() -> None:
    b = several(models=3)
    found = [e.value for e in estimate(ESTIMATORS["agreement"], several(models=3), [s.hidden for s in b])]
    for i in range(3):
        others = [np.mean(b[i].predicted == b[j].predicted) for j in range(3) if j != i]
        assert found[i] == pytest.approx(np.mean(others))


def test_agreement_is_by_class_name() -> None:
    a = side_of(told([0, 1, 1], [0, 1, 1], "ab"), labelled=True)
    turned = side_of(told([0, 1, 1], [1, 0, 0], "ba", label_classes=("a", "b")), labelled=True)
    assert [e.value for e in estimate(ESTIMATORS["agreement"], [a, turned], [a.hidden, turned.hidden])] == [1, 1]
    assert turned.right.all()


@pytest.mark.parametrize("name", ["aline_s", "aline_d"])
def test_a_line_needs_three_models(name: str) -> None:
    two = several(models=2)
    with pytest.raises(InputError, match="three models"):
        estimate(ESTIMATORS[name], two, [s.hidden for s in two])


# --------------------------------------------------------------------------------------------- every estimator


@pytest.mark.parametrize("name", [n for n in ALONE if n not in ("average_confidence", "cot", "em")])
def test_without_a_shift_the_estimate_is_the_accuracy(name: str) -> None:
    a, _ = sides()
    assert value(name, a, a) == pytest.approx(a.right.mean(), abs=1e-9)


@pytest.mark.parametrize("name", ["aline_s", "aline_d"])
def test_without_a_shift_the_line_gives_the_accuracy(name: str) -> None:
    a = several()
    found = estimate(ESTIMATORS[name], a, [s.hidden for s in a])
    assert [e.value for e in found] == pytest.approx([s.right.mean() for s in a], abs=1e-9)


@pytest.mark.parametrize("name", ALONE)
@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 40), st.integers(1, 40), st.sampled_from([0.0, 1.0, 9.0])
)
def test_estimates_are_shares_inside_their_interval(
    name: str, seed: int, k: int, n0: int, n1: int, noise: float
) -> None:
    """Also with ties (no noise: logits of equal images are equal), one class on a side, one image."""
    a = side_of(draw(n0, k, seed, noise=noise), labelled=True)
    b = side_of(draw(n1, k, seed + 1, noise=noise, dataset="other"), labelled=False)
    try:
        (e,) = estimate(ESTIMATORS[name], a, b, resamples=100)
    except InputError:
        assert name == "bbse"  # the only one that refuses: a singular confusion matrix
        return
    assert -1e-9 <= e.low <= e.value <= e.high <= 1 + 1e-9
    assert e.n == n1
    assert "bootstrap" in e.interval


@pytest.mark.parametrize("name", [*ALONE, *TOGETHER])
def test_the_order_of_images_changes_nothing(name: str) -> None:
    one = ESTIMATORS[name]
    turn = np.random.default_rng(9).permutation(80)
    labels = turn % 4
    p = [[draw(80, 4, s + m, labels=labels, dataset=d) for m in range(3)] for s, d in ((0, "set"), (7, "other"))]
    made = []
    for order in (np.arange(80), turn):
        a, b = ([side_of(rows(x, order), labelled=True) for x in side] for side in p)
        pair = (a, [s.hidden for s in b]) if one.needs == "models" else (a[0], b[0].hidden)
        made.append(estimate(one, *pair, resamples=100))
    assert made[0] == made[1]


@pytest.mark.parametrize("name", TOGETHER)
def test_the_order_of_models_changes_nothing(name: str) -> None:
    a, b = several(), several(seed=40, dataset="other")
    turn = [2, 0, 3, 1]
    found = estimate(ESTIMATORS[name], a, [s.hidden for s in b])
    turned = estimate(ESTIMATORS[name], [a[i] for i in turn], [b[i].hidden for i in turn])
    for i, e in zip(turn, turned, strict=True):
        assert (e.value, e.low, e.high) == pytest.approx((found[i].value, found[i].low, found[i].high), abs=1e-12)


@pytest.mark.parametrize("name", [n for n in ALONE if ESTIMATORS[n].needs == "probabilities"])
def test_hard_predictions_are_refused_where_probabilities_are_needed(name: str) -> None:
    a = side_of(draw(20, 3, hard=True), labelled=True)
    with pytest.raises(InputError, match="only hard predictions"):
        estimate(ESTIMATORS[name], a, a.hidden)


def test_all_right_and_all_wrong_in_distribution() -> None:
    right = side_of(
        told([0, 1, 0], [0, 1, 0], "ab", logits=np.array([[3, 1], [1, 2], [5, 0]], np.float32)), labelled=True
    )
    wrong = side_of(
        told([1, 0, 1], [0, 1, 0], "ab", logits=np.array([[3, 1], [1, 2], [5, 0]], np.float32)), labelled=True
    )
    for name in ("atc_max_confidence", "atc_negative_entropy", "in_dist_accuracy"):
        assert value(name, right, right) == 1
        assert value(name, wrong, wrong) == 0
    unsure = side_of(told([0], [0], "ab", logits=np.array([[0.1, 0.0]], np.float32)), labelled=True)
    assert value("atc_max_confidence", right, unsure) == 0  # less sure than the least sure image that was right


def test_classes_the_model_does_not_know_are_wrong() -> None:
    p = told([0, 1, 2], [0, 1, 1], "ab", label_classes=("a", "b", "z"))
    assert side_of(p, labelled=True).right.tolist() == [True, True, False]


def test_an_empty_side_is_refused() -> None:
    a, _ = sides()
    empty = side_of(draw(0, 5, labels=np.zeros(0, dtype=np.int64)), labelled=False)
    with pytest.raises(InputError, match="images on both sides"):
        estimate(ESTIMATORS["in_dist_accuracy"], a, empty)


def test_non_finite_logits_and_doubled_classes_are_refused() -> None:
    with pytest.raises(InputError, match="not finite"):
        side_of(told([0], [0], "ab", logits=np.array([[np.inf, 0]], np.float32)), labelled=True)
    with pytest.raises(InputError, match="twice"):
        side_of(told([0], [0], "aa"), labelled=True)


def test_the_interval_is_that_of_a_mean() -> None:
    a, b = sides(n1=400)
    (e,) = estimate(ESTIMATORS["average_confidence"], a, b.hidden, resamples=500)
    spread = np.exp(b.log_confidence).std(ddof=1) / np.sqrt(400)
    assert e.high - e.low == pytest.approx(2 * 1.96 * spread, rel=0.12)


def test_what_costs_too_much_is_not_resampled() -> None:
    bbse = ESTIMATORS["bbse"]
    assert resamples_of(bbse, 1000, 1000, 10, 1, 10_000) == 500
    assert FEWEST_RESAMPLES <= resamples_of(bbse, 1000, 1000, 200, 1, 10_000) < 500
    assert resamples_of(bbse, 1000, 1000, 1000, 1, 10_000) == 0


# --------------------------------------------------------------------------------------------- track record


def guess(method: str, dataset: str, value: float, accuracy: float, model: str = "m", half: float = 0.05) -> Guess:
    e = Estimate(value, value - half, value + half, 10, "test")
    return Guess(model, dataset, method, "raw", e, accuracy, 10)


def test_track_record_by_hand() -> None:
    guesses = [
        guess("doc", "a", 0.80, 0.70),
        guess("doc", "a", 0.76, 0.80, model="other"),
        guess("doc", "b", 0.50, 0.60),
        guess("cot", "a", 0.72, 0.70),
        guess("cot", "b", 0.61, 0.60),
        guess("cot", "new", 0.61, float("nan")),
    ]
    cot, doc = track_record(guesses)
    assert (cot.method, cot.sets, cot.estimates, cot.covered) == ("cot", 2, 2, 1)
    assert cot.mae.value == pytest.approx(0.015)
    assert doc.mae.value == pytest.approx((0.07 + 0.10) / 2)  # mean over sets of the mean over models
    assert doc.bias == pytest.approx((0.10 - 0.04 - 0.10) / 3)
    assert (doc.worst, doc.covered) == (pytest.approx(0.1), pytest.approx(1 / 3))
    errors = errors_by_set(guesses)
    assert errors["cot", "raw"] == pytest.approx({"a": 0.02, "b": 0.01})
    assert error_elsewhere(errors["cot", "raw"], "a") == pytest.approx(0.01)
    assert error_elsewhere(errors["cot", "raw"], "new") == pytest.approx(0.015)
    assert chosen_elsewhere(guesses) == pytest.approx(0.015)


def test_choosing_by_the_other_sets_is_punished_where_luck_changes() -> None:
    guesses = [
        *(guess("doc", d, 0.5 + e, 0.5) for d, e in (("a", 0.0), ("b", 0.3))),
        *(guess("cot", d, 0.5 + e, 0.5) for d, e in (("a", 0.3), ("b", 0.0))),
    ]
    assert min(r.mae.value for r in track_record(guesses)) == pytest.approx(0.15)
    assert chosen_elsewhere(guesses) == pytest.approx(0.3)


def test_an_estimator_that_could_say_nothing_comes_last_with_its_reason() -> None:
    nothing = Guess("m", "a", "em", "raw", Estimate.undefined("not defined: because", 5), 0.5, 10)
    records = track_record([nothing, guess("cot", "a", 0.6, 0.5)])
    assert [r.method for r in records] == ["cot", "em"]
    assert records[1].mae.interval == "not defined: because"
    assert (records[1].undefined, records[1].estimates) == (1, 0)


def test_published_models_without_looking_at_the_labels(shared_data: object) -> None:
    """Five published CIFAR-10 models, hard predictions only: agreement says something about CIFAR-10.1 all the same."""
    from pathlib import Path

    from gradlens.shift import store

    found = store.read([Path(str(shared_data)) / "cifar10.1-predictions.parquet"])
    said: dict[tuple[str, str], Predictions] = {
        (s.predictions.model, s.predictions.dataset): s.predictions for s in found
    }
    models = sorted({m for m, _ in said})
    a = [side_of(said[m, "cifar10"], labelled=True) for m in models]
    b = [side_of(said[m, "cifar10.1-v6"], labelled=True) for m in models]
    naive = np.mean([abs(x.right.mean() - y.right.mean()) for x, y in zip(a, b, strict=True)])
    for name in ("aline_s", "aline_d"):
        errors = [
            e.value - s.right.mean()
            for e, s in zip(estimate(ESTIMATORS[name], a, [s.hidden for s in b]), b, strict=True)
        ]
        assert np.abs(errors).mean() < naive / 3
