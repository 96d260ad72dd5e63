"""Drift between feature clouds: against scipy, scikit-learn and slow versions next to the papers; memory; null."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.stats import energy_distance, ks_2samp, kstest
from sklearn.linear_model import RidgeClassifier

from gradlens.errors import InputError
from gradlens.shift import drift
from gradlens.shift.drift import FOLDS, RIDGE, STATISTICS, Clouds, _ridge, floors, measure

FEATURES = [name for name, s in STATISTICS.items() if s.on == "features"]


def clouds(n0: int = 40, n1: int = 30, c: int = 5, shift: float = 0.5, seed: int = 0, paired: bool = False) -> Clouds:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n0, c))
    y = (x if paired else rng.normal(size=(n1, c))) + shift + 0.3 * rng.normal(size=(n0 if paired else n1, c))
    return Clouds(x.astype(np.float32), y.astype(np.float32), paired)


def value(name: str, c: Clouds) -> float:
    return STATISTICS[name].of(c, 0, 0).value


# --------------------------------------------------------------------------------------------- by the papers


@pytest.mark.parametrize("name", ["mmd2", "kid"])
@pytest.mark.parametrize("paired", [False, True])
def test_unbiased_mmd_by_its_sums(name: str, paired: bool) -> None:
    made = clouds(12, 11, paired=paired)
    x, y = made.x.astype(float), made.y.astype(float)
    z = np.concatenate([x, y])
    distances = [np.linalg.norm(a - b) for i, a in enumerate(z) for b in z[i + 1 :]]
    s = np.median(np.square(distances))

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3) if name == "kid" else float(np.exp(-np.sum((a - b) ** 2) / (2 * s)))

    m, n = len(x), len(y)
    if paired:  # equation 4 of Gretton et al. 2012
        slow = sum(
            k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i]) for i in range(m) for j in range(m) if i != j
        ) / (m * (m - 1))
    else:  # equation 3
        slow = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
        slow += sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
        slow -= 2 * sum(k(a, b) for a in x for b in y) / (m * n)
    assert value(name, made) == pytest.approx(slow, rel=1e-9)


def test_energy_distance_is_scipys_in_one_dimension() -> None:
    made = clouds(c=1)
    assert value("energy", made) == pytest.approx(energy_distance(made.x[:, 0], made.y[:, 0]) ** 2, rel=1e-9)


def test_frechet_by_the_matrix_root() -> None:
    made = clouds(60, 50)
    s0, s1 = np.cov(made.x.astype(float).T), np.cov(made.y.astype(float).T)
    means = np.sum((made.x.astype(float).mean(axis=0) - made.y.astype(float).mean(axis=0)) ** 2)
    slow = means + np.trace(s0 + s1 - 2 * sqrtm(s0 @ s1).real)
    assert value("frechet", made) == pytest.approx(slow, rel=1e-9)


@pytest.mark.parametrize("c", [5, 60])
def test_domain_classifier_is_scikit_learns_ridge(c: int) -> None:
    """Also with more features than images, where the other side of the same equations is solved."""
    made = clouds(30, 30, c, shift=0.4, paired=True)
    rng = np.random.default_rng([0, 0])
    rows = rng.permutation(30)
    z = np.concatenate([made.x[rows], made.y[rows]]).astype(float)
    z = (z - z.mean(axis=0)) / z.std(axis=0)
    labels, fold = np.repeat([0, 1], 30), np.tile(np.arange(30) % FOLDS, 2)
    wrong = 0
    for f in range(FOLDS):
        train = fold != f
        model = RidgeClassifier(alpha=RIDGE * train.sum()).fit(z[train], labels[train])
        wrong += (model.predict(z[~train]) != labels[~train]).sum()
    found = STATISTICS["domain_error"].of(made, 0, 0)
    assert found.value == pytest.approx(wrong / 60)
    assert found.low <= found.value <= found.high
    assert value("proxy_a_distance", made) == pytest.approx(2 * (1 - 2 * wrong / 60))


def test_bbsds_is_the_largest_ks_with_bonferroni() -> None:
    rng = np.random.default_rng(0)
    made = Clouds(rng.dirichlet(np.ones(3), 40), rng.dirichlet([1, 1, 2], 50))
    tests = [ks_2samp(made.x[:, i], made.y[:, i], method="asymp") for i in range(3)]
    found = STATISTICS["bbsds"].of(made, 0, 0)
    assert found.value == max(t.statistic for t in tests)
    assert found.p == min(1, 3 * min(t.pvalue for t in tests))


# --------------------------------------------------------------------------------------------- what must hold


@pytest.mark.parametrize("name", STATISTICS)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(10, 30), st.integers(10, 30), st.integers(1, 6))
def test_rows_may_come_in_any_order(name: str, seed: int, n0: int, n1: int, c: int) -> None:
    if name in ("domain_error", "proxy_a_distance"):  # folds follow the rows; a caller gives them in the order of ids
        n0 = n1 = 200
    made = clouds(n0, n1, c, seed=seed)
    rng = np.random.default_rng(seed)
    turned = Clouds(rng.permutation(made.x), rng.permutation(made.y))
    far = 0.2 if STATISTICS[name] in (STATISTICS["domain_error"], STATISTICS["proxy_a_distance"]) else 1e-9
    assert value(name, turned) == pytest.approx(value(name, made), rel=1e-7, abs=far)


@pytest.mark.parametrize("name", [n for n in FEATURES if n not in ("domain_error", "proxy_a_distance")])
def test_equal_sets_are_no_distance_apart(name: str) -> None:
    x = np.random.default_rng(0).normal(size=(50, 4))
    assert value(name, Clouds(x, x, paired=True)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", FEATURES)
def test_equal_pairs_are_never_significant(name: str) -> None:
    x = np.random.default_rng(0).normal(size=(50, 4))
    found = STATISTICS[name].of(Clouds(x, x, paired=True), 50, 0)
    assert found.p == 1 or np.isnan(found.p)
    if name == "domain_error":
        assert found.value == pytest.approx(0.5)


@pytest.mark.parametrize(("shift", "paired"), [(0.0, False), (1.0, False), (1.0, True)])
def test_the_intervals_of_the_error_hold(shift: float, paired: bool) -> None:
    """200 times 80 images a side, against the error of such classifiers on all images; 95 % intervals may miss 10."""
    rng = np.random.default_rng(4)

    def drawn(n: int) -> Clouds:
        scene = rng.normal(size=(2, n, 8))
        x, y = (0.8 * scene[0 if paired else i] + 0.6 * rng.normal(size=(n, 8)) for i in range(2))
        return Clouds(x, y + shift * np.eye(8)[0], paired)

    errors, found = [], []
    for seed in range(200):
        made, new = drawn(80), drawn(1000)
        found.append(drift.domain_error(made, 49, seed))
        train = np.concatenate([made.x[:64], made.y[:64]])  # four fifths, as in a fold
        test = (np.concatenate([new.x, new.y]) - train.mean(axis=0)) / train.std(axis=0)
        train = (train - train.mean(axis=0)) / train.std(axis=0)
        answers = _ridge(train, test, np.repeat([-1.0, 1.0], 64)[:, None])[:, 0]
        errors.append(np.mean((answers > 0) != np.repeat([False, True], 1000)))
    truth = np.mean(errors)
    assert sum(e.low <= truth <= e.high for e in found) >= 184  # 0.95 less two standard errors


@pytest.mark.parametrize("name", STATISTICS)
def test_more_drift_is_told_as_more(name: str) -> None:
    near, far = (value(name, clouds(150, 150, shift=s)) for s in (0.1, 1.5))
    assert (far > near) == STATISTICS[name].grows


@pytest.mark.parametrize("name", [n for n in FEATURES if n not in ("frechet", "proxy_a_distance")])
@pytest.mark.parametrize("paired", [False, True])
def test_p_is_uniform_without_drift(name: str, paired: bool) -> None:
    """120 comparisons of one distribution with itself; pairs resemble each other, which free permutations mistake."""
    found = []
    for seed in range(120):
        rng = np.random.default_rng([1, seed])
        scene = rng.normal(size=(40, 3)) if paired else np.zeros((40, 3))
        x, y = (scene + 0.7 * rng.normal(size=(40, 3)) for _ in range(2))
        found.append(STATISTICS[name].of(Clouds(x, y, paired), 39, seed).p)
    # p values of 40 labellings are multiples of 1/40, and ties of an error count make them larger
    assert kstest(np.array(found) - 0.0125, "uniform", alternative="greater").pvalue > 0.001
    assert np.mean(np.array(found) <= 0.05) < 0.12


def test_pairs_show_a_small_change_that_independent_samples_hide() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 4))
    y = x + 0.1 + 0.02 * rng.normal(size=x.shape)
    assert STATISTICS["mmd2"].of(Clouds(x, y, paired=True), 99, 0).p <= 0.02
    assert STATISTICS["mmd2"].of(Clouds(x, y), 99, 0).p > 0.2
    assert "within pairs" in STATISTICS["mmd2"].of(Clouds(x, y, paired=True), 99, 0).test


def test_few_images_for_many_features_is_said() -> None:
    told = measure(clouds(30, 25, c=40), permutations=9)
    assert "biased upwards" in told["frechet"].note
    assert set(told) == set(FEATURES)


def test_the_floor_is_what_halves_differ_by() -> None:
    x = np.random.default_rng(0).normal(size=(200, 4))
    floor = floors(x)
    assert set(floor) == set(FEATURES)
    assert floor["domain_error"] < 0.55
    far = measure(Clouds(x, x + 2.0), permutations=0)
    for name, d in far.items():
        assert (d.value > floor[name]) if STATISTICS[name].grows else (d.value < floor[name])


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="at least 10 images"):
        clouds(9, 30)
    with pytest.raises(InputError, match="not finite"):
        Clouds(np.full((20, 2), np.nan), np.zeros((20, 2)))


# --------------------------------------------------------------------------------------------- size


def test_blocks_are_the_mean_of_their_own_values(monkeypatch: pytest.MonkeyPatch) -> None:
    made = clouds(60, 50)
    monkeypatch.setattr(drift, "BLOCK", 20)
    blocks = list(drift._blocks(made, np.random.default_rng([0, 0])))
    assert [len(a) + len(b) for a, b in blocks] == [37, 37, 36]
    each = [value("energy", Clouds(made.x[a], made.y[b])) for a, b in blocks]
    found = STATISTICS["energy"].of(made, 19, 0)
    assert found.value == pytest.approx(np.mean(each))
    assert found.test == "19 permutations, 3 blocks"
    assert found.n == (60, 50)


@pytest.mark.parametrize("name", [n for n in FEATURES if n != "proxy_a_distance"])
def test_memory_is_that_of_one_block(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """6,000 x 6,000 images: one kernel of all would take 1.1 GB; blocks of 200 take less than 30 MB."""
    monkeypatch.setattr(drift, "BLOCK", 200)
    monkeypatch.setattr(drift, "MOST_CLASSIFIED", 1000)
    made = clouds(6000, 6000, c=4)
    tracemalloc.start()
    found = STATISTICS[name].of(made, 9, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6
    assert found.n == ((1000, 1000) if name == "domain_error" else (6000, 6000))


def test_a_side_that_is_much_larger_is_used_in_part_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "BLOCK", 50)
    assert STATISTICS["mmd2"].of(clouds(400, 30), 9, 0).n == (50, 30)
