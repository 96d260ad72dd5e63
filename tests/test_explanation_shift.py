"""How explanations move: selection of images, changes and their intervals, associations; the shape of a map."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ndtri
from sklearn.metrics import roc_auc_score

from gradlens.cam import shape
from gradlens.shift import explanation_shift as es
from gradlens.shift import intervals

# --- which images ----------------------------------------------------------------------------------------------------


def test_a_draw_is_balanced_and_does_not_depend_on_the_order() -> None:
    ids = {c: [f"{c}{i}" for i in range(n)] for c, n in {"a": 50, "b": 3, "c": 20}.items()}
    chosen = es.balanced(ids, 23, seed=1)
    assert len(chosen) == 23 == len(set(chosen))
    assert sorted(sum(i.startswith(c) for i in chosen) for c in "abc") == [3, 10, 10]
    turned = {c: list(reversed(ids[c])) for c in reversed(ids)}
    assert es.balanced(turned, 23, seed=1) == chosen
    assert es.balanced(ids, 23, seed=2) != chosen
    assert set(es.balanced(ids, 12, seed=1)) <= set(chosen)  # a smaller draw is part of a larger one
    assert len(es.balanced(ids, 1000)) == 73
    with pytest.raises(ValueError, match="at least one"):
        es.balanced(ids, 0)


# --- changes ---------------------------------------------------------------------------------------------------------


def test_a_paired_change_is_scipys_bootstrap() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(0.5, 0.1, (80, 3))
    after = before + rng.normal([-0.1, 0.0, 0.05], 0.05, (80, 3))
    after[::7, 1] = np.nan
    for j, c in enumerate(es.paired_change(before, after, resamples=4000)):
        there = np.isfinite(after[:, j])
        difference = (after - before)[there, j]
        theirs = stats.bootstrap((difference,), np.mean, n_resamples=4000, method="percentile", rng=1)
        assert c.change == pytest.approx(difference.mean())
        assert (c.in_dist, c.probe) == pytest.approx((before[there, j].mean(), after[there, j].mean()))
        assert (c.low, c.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.002)
        assert (c.n, c.undefined) == (int(there.sum()), 80 - int(there.sum()))
        assert c.interval == "paired bootstrap 95%"


def test_an_unpaired_change_ignores_the_class_mix() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = np.repeat(["a", "b", "z"], [40, 10, 5]), np.repeat(["a", "b"], [10, 40])
    level = {"a": 0.2, "b": 0.8, "z": 5.0}
    before = np.array([[level[c]] for c in ours]) + rng.normal(0, 0.01, (55, 1))
    after = np.array([[level[c]] for c in theirs]) + rng.normal(0, 0.01, (50, 1))
    (c,) = es.unpaired_change(before, after, ours, theirs)
    assert c.low < 0 < c.high
    assert abs(c.change) < 0.01
    assert after.mean() - before[:50].mean() > 0.3  # what a plain difference of means would say
    # a slow second version: mean over the shared classes of the class means
    expected = np.mean([after[theirs == k].mean() - before[ours == k].mean() for k in ("a", "b")])
    assert c.change == pytest.approx(expected)


def test_an_unpaired_interval_is_that_of_resampled_classes() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = np.repeat(["a", "b"], 30), np.repeat(["a", "b"], [12, 25])
    before, after = rng.normal(0, 1, (60, 1)), rng.normal(0.3, 1, (37, 1))
    (c,) = es.unpaired_change(before, after, ours, theirs, resamples=4000)
    slow = []
    for _ in range(4000):
        sides = [
            np.mean([np.mean(rng.choice(values[classes == k, 0], (classes == k).sum())) for k in ("a", "b")])
            for values, classes in ((before, ours), (after, theirs))
        ]
        slow.append(sides[1] - sides[0])
    assert (c.low, c.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.04)


@given(st.integers(0, 30), st.integers(1, 12), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_intervals_contain_the_change_whatever_is_missing(seed: int, n: int, missing: float) -> None:
    rng = np.random.default_rng(seed)
    before, after = rng.random((2, n, 2))
    after[rng.random((n, 2)) < missing] = np.nan
    classes = rng.integers(3, size=n)
    found = [*es.paired_change(before, after, resamples=100)]
    found += es.unpaired_change(before, after, classes, rng.permutation(classes), resamples=100)
    for c in found:
        assert c.n + c.undefined == n
        if c.n:
            assert c.low <= c.change <= c.high
            assert c.change == pytest.approx(c.probe - c.in_dist)
        else:
            assert math.isnan(c.change)
            assert c.interval.startswith("not defined")


@given(st.permutations(range(20)))
@settings(max_examples=25, deadline=None)
def test_the_value_does_not_depend_on_the_order_of_images(order: list[int]) -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random((2, 20, 2))
    classes = np.arange(20) % 3
    at = np.array(order)
    for a, b in zip(
        es.paired_change(before, after, resamples=100), es.paired_change(before[at], after[at], resamples=100),
        strict=True,
    ):  # fmt: skip
        assert a.change == pytest.approx(b.change)
    one = es.unpaired_change(before, after, classes, classes, resamples=100)
    two = es.unpaired_change(before[at], after, classes[at], classes, resamples=100)
    assert [c.change for c in one] == pytest.approx([c.change for c in two])


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("k", [0, 7, 30])
def test_the_change_of_a_share(paired: bool, k: int) -> None:
    before, after = np.zeros(30, dtype=bool), np.arange(30) < k
    c = es.share_change(before, after, paired)
    assert (c.in_dist, c.probe, c.change, c.n) == (0, k / 30, k / 30, 30)
    theirs = intervals.newcombe_paired(0, k, 0, 30 - k) if paired else intervals.newcombe(k, 30, 0, 30)
    assert (c.low, c.high) == pytest.approx(theirs)
    assert math.isnan(es.share_change(before[:0], after, paired).change)


def maps_of(classes: np.ndarray, seed: int, noise: float) -> np.ndarray:
    """Maps (n, 64) of sum 1: each class has its own place."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:8, :8]
    centres = {0: (2, 2), 1: (5, 5), 2: (2, 6)}
    clean = np.stack([np.exp(-((y - centres[c][0]) ** 2 + (x - centres[c][1]) ** 2) / 4).ravel() for c in classes])
    noisy = clean + noise * rng.random(clean.shape)
    return np.asarray(noisy / noisy.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("paired", [True, False])
def test_mean_maps_of_one_place_are_alike_and_of_others_not(paired: bool) -> None:
    classes = np.arange(45) % 3
    home = maps_of(classes, 0, 0.5)
    same = es.mean_map_similarity(home, maps_of(classes, 1, 0.5), classes, classes, paired)
    moved = es.mean_map_similarity(home, maps_of((classes + 1) % 3, 1, 0.5), classes, classes, paired)
    assert same.probe > 0.95 > 0.5 > moved.probe
    assert moved.low + 1 <= moved.probe <= moved.high + 1 < 0.7
    itself = es.mean_map_similarity(home, home, classes, classes, True)
    assert itself.probe == pytest.approx(1)
    # a slow second version
    expected = np.mean(
        [
            np.corrcoef(home[classes == k].mean(axis=0), maps_of((classes + 1) % 3, 1, 0.5)[classes == k].mean(axis=0))[
                0, 1
            ]
            for k in range(3)
        ]
    )
    assert moved.probe == pytest.approx(expected)


def test_maps_that_are_missing_or_even_have_no_likeness() -> None:
    classes = np.zeros(4, dtype=int)
    nothing = np.full((4, 9), np.nan)
    even = np.full((4, 9), 1 / 9)
    for a, b in ((nothing, even), (even, even)):
        c = es.mean_map_similarity(a, b, classes, classes, False)
        assert math.isnan(c.change)
        assert c.interval.startswith("not defined")


# --- associations ----------------------------------------------------------------------------------------------------


def test_separation_is_scikit_learns_and_scipys() -> None:
    rng = np.random.default_rng(0)
    flipped = rng.random(70) < 0.4
    values = np.round(rng.normal(0.3 * flipped, 0.4), 1)  # with ties
    values[3] = np.nan
    s = es.separation(values, flipped)
    there = np.isfinite(values)
    a, b = values[there & flipped], values[there & ~flipped]
    assert s.auroc == pytest.approx(roc_auc_score(flipped[there], values[there]))
    assert s.p == pytest.approx(stats.mannwhitneyu(a, b).pvalue)
    assert s.difference == pytest.approx(a.mean() - b.mean())
    theirs = stats.bootstrap((a, b), lambda x, y, axis: x.mean(axis) - y.mean(axis), method="percentile", rng=0)
    assert (s.low, s.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)
    assert s.auroc_low < s.auroc < s.auroc_high
    assert (s.n_flipped, s.n_stayed) == (len(a), len(b))


@pytest.mark.parametrize("flipped", [np.zeros(9, dtype=bool), np.ones(9, dtype=bool), np.arange(9) < 1])
def test_one_group_alone_is_refused(flipped: np.ndarray) -> None:
    s = es.separation(np.arange(9.0), flipped)
    assert math.isnan(s.auroc)
    assert math.isnan(s.p)
    assert "at least two of each" in s.interval


def test_equal_values_tell_nothing() -> None:
    s = es.separation(np.ones(10), np.arange(10) < 5)
    assert (s.auroc, s.p, s.difference) == (0.5, 1, 0)


@given(st.floats(0, 1), st.integers(2, 60), st.integers(2, 60))
@settings(max_examples=50, deadline=None)
def test_the_ends_of_an_auroc_solve_newcombes_equation(area: float, m: int, n: int) -> None:
    low, high = es.auroc_interval(area, m, n)
    assert 0 <= low <= area <= high <= 1
    z = ndtri(0.975)
    for t in (low, high):
        if 1e-6 < t < 1 - 1e-6 and abs(t - area) > 1e-6:
            spread = 1 + ((m + n) / 2 - 1) * ((1 - t) / (2 - t) + t / (1 + t))
            assert abs(area - t) == pytest.approx(z * math.sqrt(t * (1 - t) * spread / (m * n)), rel=1e-4)
    assert es.auroc_interval(1 - area, m, n) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_the_interval_of_an_auroc_covers() -> None:
    """A thousand samples of 25 and 25 with a true area of Phi(1 / sqrt 2) = .760, and perfect separation of few."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        a, b = rng.normal(1, 1, 25), rng.normal(0, 1, 25)
        area = stats.mannwhitneyu(a, b).statistic / 625
        low, high = es.auroc_interval(area, 25, 25)
        covered += low <= stats.norm.cdf(1 / math.sqrt(2)) <= high
    assert 0.93 < covered / 1000 < 0.98
    low, high = es.auroc_interval(1.0, 5, 5)
    assert high == 1
    assert 0.4 < low < 0.8


def test_rank_association_is_scipys() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=12)
    y = x + rng.normal(size=12)
    a = es.rank_association(x, y)
    theirs = stats.spearmanr(x, y)
    assert a.rho == pytest.approx(theirs.statistic)
    assert a.p == pytest.approx(theirs.pvalue, abs=0.01)  # theirs is Student's t, ours counts permutations
    assert a.low < a.rho < a.high
    z, reach = math.atanh(a.rho), ndtri(0.975) * math.sqrt((1 + a.rho**2 / 2) / 9)
    assert (a.low, a.high) == pytest.approx((math.tanh(z - reach), math.tanh(z + reach)))
    turned = rng.permutation(12)
    assert es.rank_association(x[turned], y[turned]) == a


def test_a_perfect_rank_correlation_of_few_models_is_uncertain() -> None:
    a = es.rank_association([1, 2, 3, 4, 5], [10, 20, 30, 40, 50])
    assert (a.rho, a.high) == (pytest.approx(1), 1)
    assert a.low < 0.2
    assert a.p == pytest.approx(2 / math.factorial(5))  # all permutations
    down = es.rank_association([1, 2, 3, 4, 5], [50, 40, 30, 20, 10])
    assert (down.rho, down.low, down.high) == pytest.approx((-1, -1, -a.low))


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], "4 models, at least 5"),
        ([1, 2, 3, 4, math.nan], [1, 2, 3, 4, 5], "4 models, at least 5"),
        ([1] * 6, [1, 2, 3, 4, 5, 6], "same value"),
        ([], [], "0 models"),
    ],
)
def test_an_association_of_few_models_is_refused(x: list[float], y: list[float], said: str) -> None:
    a = es.rank_association(x, y)
    assert math.isnan(a.rho)
    assert said in a.interval


# --- the shape of a map ----------------------------------------------------------------------------------------------


def test_the_shape_of_known_maps() -> None:
    one, even = torch.zeros(1, 9, 9), torch.ones(1, 9, 9)
    one[0, 2, 6] = 3
    assert shape.entropy(one).item() == 0
    assert shape.spread(one).item() == 0
    assert [c.item() for c in shape.centre(one)] == pytest.approx([6.5 / 9, 2.5 / 9])
    assert shape.entropy(even).item() == pytest.approx(1)
    assert [c.item() for c in shape.centre(even)] == pytest.approx([0.5, 0.5])
    # the uniform distribution on n cells of width 1 / n has the variance (n^2 - 1) / 12 n^2, here in two directions
    assert shape.spread(even).item() == pytest.approx(math.sqrt(2 * (81 - 1) / (12 * 81)))


@given(st.integers(0, 50), st.floats(0.1, 10))
@settings(max_examples=25, deadline=None)
def test_shape_is_scipys_and_does_not_depend_on_the_scale(seed: int, scale: float) -> None:
    heat = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 5, 8)))
    p = heat.clamp(min=0).flatten(1).numpy()
    assert shape.entropy(heat).numpy() == pytest.approx(stats.entropy(p, axis=1) / math.log(40))
    assert shape.entropy(scale * heat).numpy() == pytest.approx(shape.entropy(heat).numpy())
    assert shape.spread(scale * heat).numpy() == pytest.approx(shape.spread(heat).numpy())
    x, y = shape.centre(heat)
    assert ((x > 0) & (x < 1) & (y > 0) & (y < 5 / 8)).all()


def test_a_map_without_evidence_has_no_shape() -> None:
    for bad in (torch.zeros(1, 4, 4), -torch.ones(1, 4, 4), torch.full((1, 4, 4), math.nan)):
        for value in (shape.entropy(bad), shape.spread(bad), *shape.centre(bad)):
            assert value.isnan().all()
