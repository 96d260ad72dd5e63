"""Intervals: against scipy, statsmodels, published numbers, and how often they cover."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse, stats

from gradlens.shift import intervals

COUNTS = [(0, 1), (1, 1), (0, 20), (20, 20), (1, 20), (7, 19), (1800, 2000), (9711, 10000), (3, 50000)]
CONFIDENCES = [0.5, 0.9, 0.95, 0.99]


@pytest.mark.parametrize("confidence", CONFIDENCES)
@pytest.mark.parametrize(("k", "n"), COUNTS)
def test_intervals_of_a_proportion_are_scipys(k: int, n: int, confidence: float) -> None:
    test = stats.binomtest(k, n)
    for function, method in ((intervals.clopper_pearson, "exact"), (intervals.wilson, "wilson")):
        theirs = test.proportion_ci(confidence, method=method)
        assert function(k, n, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_published_interval_of_1800_in_2000() -> None:
    low, high = intervals.clopper_pearson(1800, 2000)
    assert (round(100 * low, 1), round(100 * high, 1)) == (88.6, 91.3)  # Recht et al. 2018


@pytest.mark.parametrize("function", [intervals.clopper_pearson, intervals.wilson])
def test_ends_are_exactly_zero_and_one(function) -> None:
    for n in (1, 7, 50, 10_000):
        assert function(0, n)[0] == 0
        assert function(n, n)[1] == 1
        assert 0 < function(0, n)[1] < 1
        assert 0 < function(n, n)[0] < 1
    assert function(0, 0) == (0, 1)


@pytest.mark.parametrize(("k", "n", "confidence"), [(-1, 5, 0.95), (6, 5, 0.95), (1, 5, 0.0), (1, 5, 1.0), (1, 5, 95)])
def test_nonsense_is_refused(k: int, n: int, confidence: float) -> None:
    for function in (intervals.clopper_pearson, intervals.wilson):
        with pytest.raises(ValueError, match=r"confidence|expected 0 <= k <= n"):
            function(k, n, confidence)


def test_newcombe_is_the_textbooks() -> None:
    # Newcombe 1998a, table II, method 10
    assert intervals.newcombe(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert intervals.newcombe(9, 10, 3, 10) == pytest.approx((0.1705, 0.8090), abs=5e-5)


@pytest.mark.parametrize(
    ("k0", "n0", "k1", "n1"), [(56, 70, 48, 80), (10, 10, 0, 20), (0, 5, 0, 7), (930, 1000, 15, 20)]
)
def test_newcombe_is_statsmodels(k0: int, n0: int, k1: int, n1: int) -> None:
    from statsmodels.stats.proportion import confint_proportions_2indep

    theirs = confint_proportions_2indep(k0, n0, k1, n1, method="newcomb", compare="diff", alpha=0.1)
    assert intervals.newcombe(k0, n0, k1, n1, 0.9) == pytest.approx(theirs, abs=1e-9)


def test_paired_newcombe_is_the_published_one() -> None:
    # Fagerland, Lydersen & Laake 2014, airway hyper-responsiveness: -0.507 to -0.026
    assert intervals.newcombe_paired(1, 1, 7, 12) == pytest.approx((-0.507, -0.026), abs=5e-4)


def slow_paired_newcombe(a: int, b: int, c: int, d: int, confidence: float) -> tuple[float, float]:
    """Newcombe 1998b, method 10, in the paper's letters, with scipy's Wilson ends."""
    n = a + b + c + d
    p1, p2 = (a + b) / n, (a + c) / n
    w1, w2 = (stats.binomtest(k, n).proportion_ci(confidence, method="wilson") for k in (a + b, a + c))
    if (a + b) * (c + d) * (a + c) * (b + d) == 0:
        phi = 0.0
    else:
        numerator = a * d - b * c
        if numerator > n / 2:
            numerator = numerator - n / 2
        elif numerator >= 0:
            numerator = 0
        phi = numerator / math.sqrt((a + b) * (c + d) * (a + c) * (b + d))
    dl1, du1, dl2, du2 = p1 - w1.low, w1.high - p1, p2 - w2.low, w2.high - p2
    delta = math.sqrt(dl1**2 - 2 * phi * dl1 * du2 + du2**2)
    epsilon = math.sqrt(du1**2 - 2 * phi * du1 * dl2 + dl2**2)
    return p1 - p2 - delta, p1 - p2 + epsilon


@given(st.tuples(*[st.integers(0, 40)] * 4).filter(any), st.sampled_from(CONFIDENCES))
def test_paired_newcombe_is_the_papers(counts: tuple[int, int, int, int], confidence: float) -> None:
    assert intervals.newcombe_paired(*counts, confidence) == pytest.approx(
        slow_paired_newcombe(*counts, confidence), abs=1e-9
    )


@given(st.tuples(*[st.integers(0, 300)] * 4).filter(any))
def test_paired_newcombe_contains_the_difference_and_mirrors(counts: tuple[int, int, int, int]) -> None:
    both, first, second, neither = counts
    low, high = intervals.newcombe_paired(both, first, second, neither)
    d = (first - second) / sum(counts)
    assert -1 - 1e-12 <= low <= d + 1e-12
    assert d - 1e-12 <= high <= 1 + 1e-12
    assert intervals.newcombe_paired(both, second, first, neither) == pytest.approx((-high, -low), abs=1e-12)


@given(st.integers(1, 200), st.integers(1, 200), st.data())
def test_newcombe_contains_the_difference(n0: int, n1: int, data: st.DataObject) -> None:
    k0, k1 = data.draw(st.integers(0, n0)), data.draw(st.integers(0, n1))
    low, high = intervals.newcombe(k0, n0, k1, n1)
    assert -1 - 1e-12 <= low <= k0 / n0 - k1 / n1 <= high <= 1 + 1e-12


def test_pairing_shortens_the_interval_of_correlated_sides() -> None:
    paired = intervals.newcombe_paired(250, 40, 5, 25)
    independent = intervals.newcombe(290, 320, 255, 320)
    assert paired[1] - paired[0] < 0.8 * (independent[1] - independent[0])


def test_paired_newcombe_covers() -> None:
    rng = np.random.default_rng(0)
    cells = np.array([0.7, 0.15, 0.03, 0.12])
    truth = cells[1] - cells[2]
    ends = np.array([intervals.newcombe_paired(*(int(c) for c in draw)) for draw in rng.multinomial(100, cells, 2000)])
    covered = ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean()
    assert 0.935 <= covered <= 0.975


def test_empty_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="both sides"):
        intervals.newcombe(0, 0, 1, 2)
    with pytest.raises(ValueError, match="pairs"):
        intervals.newcombe_paired(0, 0, 0, 0)


def test_percentile_interval_contains_the_point() -> None:
    values = np.linspace(0, 1, 1001)
    assert intervals.percentile(values, 0.5, 0.9) == pytest.approx((0.05, 0.95))
    assert intervals.percentile(values, 1.2, 0.9) == pytest.approx((0.05, 1.2))
    assert intervals.percentile(values, -1, 0.9) == pytest.approx((-1, 0.95))


def sums_by_units(columns: np.ndarray, resamples: int, **how: int) -> np.ndarray:
    return np.concatenate(list(intervals.resample_units(columns, resamples, **how)))


def test_resampling_by_units_draws_n_of_n() -> None:
    columns = np.eye(5)
    drawn = sums_by_units(columns, 4000)
    assert drawn.shape == (4000, 5)
    assert (drawn.sum(axis=1) == 5).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(5), abs=0.06)
    assert drawn.var(axis=0) == pytest.approx(np.full(5, 1 - 1 / 5), abs=0.08)  # n p (1 - p)


def test_resampling_repeats_by_seed_and_differs_by_stream() -> None:
    columns = np.random.default_rng(0).normal(size=(30, 2))
    first = sums_by_units(columns, 50, seed=3)
    assert np.array_equal(first, sums_by_units(columns, 50, seed=3))
    assert not np.array_equal(first, sums_by_units(columns, 50, seed=4))
    assert not np.array_equal(first, sums_by_units(columns, 50, seed=3, stream=1))


def test_kept_and_fresh_draws_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.random.default_rng(0).normal(size=(100, 3))
    kept = sums_by_units(columns, 300)
    monkeypatch.setattr(intervals, "_KEPT_DRAWS", 0)
    assert not intervals.is_small(100, 300)
    assert np.array_equal(kept, sums_by_units(columns, 300))


def test_sparse_columns_give_the_same_sums() -> None:
    columns = np.random.default_rng(0).integers(2, size=(40, 6)).astype(float)
    dense = sums_by_units(columns, 100)
    assert np.array_equal(dense, np.concatenate(list(intervals.resample_units(sparse.csr_array(columns), 100))))


def test_resampling_cells_has_the_distribution_of_resampling_units() -> None:
    """The multinomial shortcut against drawing every unit: same mean, same covariance."""
    kinds = np.array([[1.0, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 0]])
    counts = np.array([40, 5, 14, 1])
    by_cells = np.concatenate(list(intervals.resample_cells(kinds, counts, 20_000)))
    by_units = sums_by_units(np.repeat(kinds, counts, axis=0), 20_000)
    assert by_cells.mean(axis=0) == pytest.approx(by_units.mean(axis=0), abs=0.15)
    assert np.cov(by_cells.T) == pytest.approx(np.cov(by_units.T), abs=0.5)


def test_no_warning_at_the_ends() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for k, n in ((0, 1), (1, 1), (0, 10**6), (10**6, 10**6)):
            intervals.clopper_pearson(k, n)
            intervals.wilson(k, n)
            intervals.newcombe(k, n, n - k, n)


@pytest.mark.parametrize(("in_memory", "in_file"), [(0, 2**30), (0, 0)])
def test_draws_are_the_same_in_memory_in_a_file_and_made_anew(
    monkeypatch: pytest.MonkeyPatch, in_memory: int, in_file: int
) -> None:
    columns = np.random.default_rng(0).normal(size=(300, 4))
    expected = np.concatenate(list(intervals.resample_units(columns, 700, seed=3)))
    monkeypatch.setattr(intervals, "_KEPT_DRAWS", in_memory)
    monkeypatch.setattr(intervals, "_FILED_DRAWS", in_file)
    intervals._kept_draws.cache_clear()
    found = np.concatenate(list(intervals.resample_units(columns, 700, seed=3)))
    assert intervals._kept_draws.cache_info().currsize == (in_file > 0)
    np.testing.assert_array_equal(found, expected)
    intervals._kept_draws.cache_clear()


def test_a_full_disk_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> np.ndarray:
        raise OSError(28, "No space left on device")

    columns = np.ones((50, 1))
    monkeypatch.setattr(intervals, "_KEPT_DRAWS", 0)
    monkeypatch.setattr(intervals, "scratch", full)
    intervals._kept_draws.cache_clear()
    assert all((sums == 50).all() for sums in intervals.resample_units(columns, 20))


def test_a_mirrored_interval_covers_what_sampling_inflates() -> None:
    """Calibration error of 152 images whose confidence is 2 points too high, over 15 bins of equal width."""
    rng = np.random.default_rng(0)

    def sample(n: int) -> tuple[np.ndarray, np.ndarray]:
        confidence = 0.3 + 0.7 * rng.beta(3, 1, n)
        inside = np.ceil(15 * confidence) - 1 == np.arange(15)[:, None]  # (15, n)
        return confidence, inside

    def error(excess: np.ndarray, inside: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.abs((weights * excess) @ inside.T).sum(axis=1) / len(excess)

    n, runs, truth = 152, 200, 0.02
    covered = {"percentile": 0, "basic": 0}
    for _ in range(runs):
        confidence, inside = sample(n)
        excess = (rng.random(n) < confidence - truth) - confidence
        point = float(error(excess, inside, np.ones((1, n)))[0])
        draws = error(excess, inside, rng.multinomial(n, np.full(n, 1 / n), 300))
        for name, (low, high) in {
            "percentile": intervals.percentile(draws, point),
            "basic": intervals.basic(draws, point, ends=(0.0, 1.0)),
        }.items():
            assert low <= point <= high
            covered[name] += low <= truth <= high
    assert covered["percentile"] < 0.1 * runs
    assert covered["basic"] > 0.75 * runs
