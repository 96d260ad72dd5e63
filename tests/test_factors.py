"""Factors, severity and corruption error against statsmodels, slow versions and what was planted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, kstest

from gradlens.errors import InputError
from gradlens.shift import corruption_error as ce
from gradlens.shift import factors, gap, intervals, severity
from gradlens.shift.factors import Factor
from gradlens.shift.sides import Sides, sides_of
from tests.shift_samples import draw, rows, told


def paired(right0: np.ndarray, right1: np.ndarray, partner: np.ndarray | None = None) -> Sides:
    """Sides from matrices; each probe image shows the scene of the in-distribution image in its row by default."""
    n0, n1 = len(right0), len(right1)
    partner = np.arange(n1) if partner is None else partner
    classes0 = tuple("ab"[i % 2] for i in range(n0))
    return Sides(
        tuple(f"m{i}" for i in range(right0.shape[1])),
        "test",
        "probe",
        tuple(f"t{i:04d}" for i in range(n0)),
        tuple(f"p{i:04d}" for i in range(n1)),
        right0.astype(bool),
        right1.astype(bool),
        classes0,
        tuple(classes0[i] for i in partner),
        partner,
    )


def independent(right0: np.ndarray, right1: np.ndarray) -> Sides:
    return replace(paired(right0, right1, np.zeros(len(right1), int)), partner=None)


# --- sides ------------------------------------------------------------------------------------------------------------


def test_sides_agree_with_the_gaps() -> None:
    a, b = draw(n=80, seed=1, dataset="test"), draw(n=80, seed=2, noise=3, dataset="probe")
    b = replace(b, labels=a.labels, pairs=a.ids)
    for is_paired in (True, False):
        both = sides_of([a], [b], paired=is_paired)
        report = next(g for g in gap.gaps(a, b, paired=is_paired, resamples=20) if g.metric == "accuracy")
        assert both.drop[0] == pytest.approx(report.gap.value, abs=1e-12)
        assert (both.partner is not None) == is_paired


def test_sides_do_not_depend_on_the_order_of_images() -> None:
    a = draw(n=60, seed=1, dataset="test")
    b = draw(n=60, seed=2, dataset="probe", labels=a.labels, pairs=a.ids)
    order = np.random.default_rng(0).permutation(60)
    one, other = sides_of([a], [b], paired=True), sides_of([rows(a, order)], [rows(b, order[::-1])], paired=True)
    assert one.ids1 == other.ids1
    np.testing.assert_array_equal(one.right1, other.right1)
    np.testing.assert_array_equal(one.partner, other.partner)


def test_only_images_that_all_models_know_are_compared() -> None:
    a, b = draw(n=40, seed=1, dataset="test"), draw(n=40, seed=2, dataset="probe")
    second = [replace(rows(p, np.arange(5, 40)), model="other") for p in (a, b)]
    both = sides_of([a, second[0]], [b, second[1]], paired=False)
    assert both.right0.shape == (35, 2)
    with pytest.raises(ValueError, match="same models"):
        sides_of([a], [second[1]], paired=False)


def test_pairs_of_two_classes_and_empty_sides_are_refused() -> None:
    a = told([0, 1, 0, 1], [0, 1, 0, 1], "ab", dataset="test")
    b = told([1, 0, 1, 0], [0, 1, 0, 1], "ab", dataset="probe", pairs=a.ids)
    with pytest.raises(InputError, match="a pair must show the same class"):
        sides_of([a], [b], paired=True)
    with pytest.raises(InputError, match="no labelled image of test"):
        sides_of([a], [told([0, 0], [0, 0], "xy", dataset="probe")], paired=False)


def test_too_few_pairs_make_independent_sides() -> None:
    a = draw(n=20, seed=1, dataset="test")
    b = draw(n=20, seed=2, dataset="probe", labels=a.labels, pairs=[*a.ids[:10], *[None] * 10])
    assert sides_of([a], [b], paired=True).partner is None
    b = replace(b, pairs=(*a.ids[:19], None))
    both = sides_of([a], [b], paired=True)
    assert both.partner is not None
    assert (len(both.ids1), both.left_out) == (19, 1)


# --- factors as levels ------------------------------------------------------------------------------------------------


def test_kinds_of_factors() -> None:
    n = 60
    probe = [
        {
            "body": f"b{i}",
            "effects": "clutter:2 crop:1" if i % 2 else "",
            "area": i / n,
            "flip": i % 2,
            "same": "x",
            "light": "dusk" if i % 3 else None,
        }
        for i in range(n)
    ]
    ours = [{"area": i / n, "flip": i % 2, "same": "x", "effects": ""} for i in range(n)]
    found, left_out = factors.factors_of(ours, probe)
    by_name = {f.name: f for f in found}
    assert set(by_name) == {"clutter", "crop", "area", "flip", "light"}
    assert left_out == {"body": "60 different values, more than 20"}
    assert by_name["clutter"].probe[:2] == ("(none)", "2")
    assert by_name["clutter"].in_dist is not None
    assert set(by_name["clutter"].in_dist) == {"(none)"}
    assert by_name["light"].in_dist is None
    assert by_name["light"].probe[0] == "(none)"
    assert by_name["area"].measured
    counts = [by_name["area"].probe.count(level) for level in sorted(set(by_name["area"].probe))]
    assert counts == [15, 15, 15, 15]
    assert set(by_name["flip"].probe) == {"0", "1"}


def test_typicality_and_where_it_makes_sense() -> None:
    classes = ["a"] * 10 + ["b"] * 10
    levels = ["sea"] * 9 + ["city"] + ["city"] * 9 + ["sea"]
    judged = factors.typicality(classes, levels, ["a", "a", "a", "b"], ["sea", "city", "moon", "city"])
    assert judged == ("typical", "rare", "unseen", "typical")
    assert factors.goes_with_class(classes * 2, levels * 2)
    assert factors.goes_with_class([{"b": "a\0"}.get(c, c) for c in classes] * 2, levels * 2)  # a name of its own
    assert not factors.goes_with_class(classes, levels)  # so few could be chance
    assert not factors.goes_with_class(classes, ["sea", "city"] * 10)  # independent of the class
    assert not factors.goes_with_class(classes, ["x"] * 20)  # one level
    assert not factors.goes_with_class(classes, ["a1", "a2"] * 5 + ["b1", "b2"] * 5)  # a property of the class


# --- levels -----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 60), st.integers(1, 4), st.booleans())
def test_levels_contain_the_drop_and_average_to_it(seed: int, n: int, k: int, is_paired: bool) -> None:
    rng = np.random.default_rng(seed)
    right0, right1 = rng.random((n, 2)) < 0.8, rng.random((n, 2)) < 0.5
    levels = tuple(f"l{i}" for i in rng.integers(k, size=n))
    both = paired(right0, right1) if is_paired else independent(right0, right1)
    found = factors.by_level(both, Factor("f", levels, levels))
    for level in found:
        assert level.low <= level.drop <= level.high
        assert level.drop == pytest.approx(level.in_dist - level.probe)
    own = [level for level in found if level.model == "m0"]
    assert sum(level.n for level in own) == n
    if is_paired:
        assert sum(level.n * level.drop for level in own) / n == pytest.approx(both.drop[0], abs=1e-12)


def test_levels_use_the_published_intervals() -> None:
    rng = np.random.default_rng(1)
    both = paired(rng.random((50, 1)) < 0.9, rng.random((50, 1)) < 0.4)
    (level,) = factors.by_level(both, Factor("f", ("x",) * 50, ("x",) * 50), 0.9)
    a, b = both.right0[:, 0], both.right1[:, 0]
    cells = [int(c.sum()) for c in (a & b, a & ~b, ~a & b, ~a & ~b)]
    assert (level.low, level.high) == intervals.newcombe_paired(*cells, 0.9)
    (level,) = factors.by_level(replace(both, partner=None), Factor("f", ("x",) * 50, ("x",) * 50))
    assert (level.low, level.high) == intervals.newcombe(int(a.sum()), 50, int(b.sum()), 50)
    (level,) = factors.by_level(replace(both, partner=None), Factor("f", None, ("x",) * 50))
    assert math.isnan(level.drop)
    assert level.interval == "not defined: no in-distribution image of this level"


def test_scenes_with_several_images_are_clusters() -> None:
    rng = np.random.default_rng(2)
    right0 = rng.random((30, 1)) < 0.9
    partner = np.repeat(np.arange(30), 2)
    both = paired(right0, rng.random((60, 1)) < 0.5, partner)
    (level,) = factors.by_level(both, Factor("f", None, ("x",) * 60))
    fit = sm.OLS(both.lost[:, 0], np.ones(60)).fit(
        cov_type="cluster", cov_kwds={"groups": partner, "use_correction": False}, use_t=True
    )
    half = float(fit.bse[0]) * math.sqrt(30 / 29) * float(np.abs(fit.conf_int()[0] - fit.params[0])[0] / fit.bse[0])
    assert (level.low, level.high) == pytest.approx((level.drop - half, level.drop + half))
    assert "60 probe images of 30 scenes" in level.interval


# --- tests ------------------------------------------------------------------------------------------------------------


def slow_score(y: np.ndarray, data: pd.DataFrame, name: str, others: Sequence[str]) -> tuple[float, int]:
    """Wooldridge 1991, regression by regression: residuals of y and of each dummy on the rest, then 1 on products."""
    rest = " + ".join(f"C({o})" for o in others) or "1"
    u = smf.ols(f"y ~ {rest}", data.assign(y=y)).fit().resid.to_numpy()
    dummies = pd.get_dummies(data[name], drop_first=True, dtype=float)
    z = np.stack([smf.ols(f"d ~ {rest}", data.assign(d=dummies[c])).fit().resid.to_numpy() for c in dummies], axis=1)
    fit = sm.OLS(np.ones(len(y)), z * u[:, None]).fit()
    return len(y) - float(fit.ssr), z.shape[1]  # n times the uncentred R squared


def test_score_tests_against_regressions_by_hand() -> None:
    rng = np.random.default_rng(3)
    n = 240
    light, place = rng.integers(3, size=n), rng.integers(2, size=n)
    right1 = rng.random((n, 2)) < np.stack([0.9 - 0.3 * (light == 2), np.full(n, 0.6)], axis=1)
    both = paired(np.ones((n, 2)), right1)
    found = [Factor(name, None, tuple(map(str, v))) for name, v in (("light", light), ("place", place))]
    data = pd.DataFrame({"class": both.classes1, "light": light, "place": place}).rename(columns={"class": "cls"})
    for t in factors.score_tests(both, found):
        name = {"class": "cls"}.get(t.factor, t.factor)
        expected, df = slow_score(
            both.lost[:, int(t.model[1])], data, name, [c for c in ("cls", "light", "place") if c != name]
        )
        assert (t.statistic, t.df) == (pytest.approx(expected, rel=1e-6), df)
        assert t.p == pytest.approx(chi2.sf(expected, df))
        assert t.p_holm >= t.p
        assert t.family == 3
        assert 0 <= t.r2 <= 1
    assert next(t.p_holm for t in factors.score_tests(both, found) if (t.model, t.factor) == ("m0", "light")) < 1e-4


def test_score_tests_hold_their_level_where_a_level_loses_nothing() -> None:
    """Under the null p values are uniform, also with rare losses and small levels, where a Wald test's are not."""
    rng = np.random.default_rng(4)
    p = []
    for _ in range(150):
        levels = Factor("f", None, tuple(map(str, rng.choice(4, size=160, p=[0.4, 0.3, 0.2, 0.1]))))
        both = paired(np.ones((160, 1)), rng.random((160, 1)) < 0.85)
        p += [t.p for t in factors.score_tests(both, [levels]) if t.factor == "f" and t.df]
    assert kstest(p, "uniform").pvalue > 0.01


def test_nothing_to_test_is_said() -> None:
    n = 40
    same = Factor("same", None, tuple("xy"[i % 2] for i in range(n)))  # tells the class and nothing else
    both = paired(np.ones((n, 1)), np.random.default_rng(0).random((n, 1)) < 0.5)
    notes = {t.factor: (t.df, t.note) for t in factors.score_tests(both, [same])}
    assert notes["same"] == (0, "the other factors tell it already")
    still = {t.factor: t.note for t in factors.score_tests(paired(np.ones((n, 1)), np.ones((n, 1))), [same])}
    assert set(still.values()) == {"the outcome does not vary"}


def test_rare_levels_are_pooled() -> None:
    levels = ("a",) * 30 + ("b",) * 9 + ("c",) * 9 + ("d",) * 20
    assert factors._dummies(levels).shape == (68, 2)  # a against d and the pool of b and c
    assert factors._dummies(("a",) * 30 + ("b",) * 3).shape == (33, 0)


# --- split ------------------------------------------------------------------------------------------------------------


def effects(rng: np.random.Generator, n: int, names: Sequence[str], share: float = 0.5) -> list[Factor]:
    return [Factor(name, ("(none)",) * n, tuple(np.where(rng.random(n) < share, "1", "(none)"))) for name in names]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(6, 80), st.integers(1, 4), st.booleans())
def test_parts_add_up_to_the_drop(seed: int, n: int, k: int, is_paired: bool) -> None:
    rng = np.random.default_rng(seed)
    right0, right1 = rng.random((n, 3)) < 0.8, rng.random((n, 3)) < 0.5
    both = paired(right0, right1) if is_paired else independent(right0, right1)
    found = (
        effects(rng, n, "wxyz"[:k])
        if is_paired
        else [
            Factor(name, tuple(map(str, rng.integers(3, size=n))), tuple(map(str, rng.integers(3, size=n))))
            for name in "wxyz"[:k]
        ]
    )
    split = factors.split(both, found, resamples=30)
    if split is None:
        assert all(f.in_dist == f.probe for f in found)
        return
    for m, model in enumerate(both.models):
        own = [p for p in split.parts if p.model == model]
        assert sum(p.value for p in own) == pytest.approx(both.drop[m], abs=1e-9)
        assert own[-1].factor == factors.UNEXPLAINED
        assert all(p.low <= p.value <= p.high for p in own)
    assert sum(p.value for p in split.mean) == pytest.approx(both.drop.mean(), abs=1e-9)


def test_split_of_pairs_is_a_regression_with_an_effect_for_each_scene() -> None:
    rng = np.random.default_rng(5)
    n = 120
    found = effects(rng, n, ("clutter", "crop"))
    right1 = rng.random((n, 1)) < np.where(np.array(found[0].probe) == "1", 0.3, 0.9)[:, None]
    both = paired(np.ones((n, 1)), right1)
    split = factors.split(both, found, resamples=50)
    assert split is not None
    x = np.stack([np.array(f.probe) == "1" for f in found], axis=1).astype(float)
    scenes = np.eye(n)
    design = np.block([[np.zeros((n, 2)), scenes], [x, scenes]])
    fit = sm.OLS(np.concatenate([both.right0[:, 0], both.right1[:, 0]]).astype(float), design).fit()
    parts = {p.factor: p.value for p in split.parts}
    for i, f in enumerate(found):
        assert parts[f.name] == pytest.approx(-fit.params[i] * x[:, i].mean(), abs=1e-7)


def test_split_of_independent_sides_is_oaxacas() -> None:
    rng = np.random.default_rng(6)
    levels0 = tuple(rng.choice(["day", "night"], p=[0.8, 0.2], size=150))
    levels1 = tuple(rng.choice(["day", "night"], p=[0.3, 0.7], size=100))

    def right(levels: Sequence[str], base: float) -> np.ndarray:
        return rng.random((len(levels), 1)) < (base - 0.4 * (np.array(levels) == "night"))[:, None]

    both = independent(right(levels0, 0.95), right(levels1, 0.85))
    split = factors.split(both, [Factor("light", levels0, levels1)], resamples=50)
    assert split is not None
    y = np.concatenate([both.right0[:, 0], both.right1[:, 0]]).astype(float)
    night = np.array([v == "night" for v in levels0 + levels1], dtype=float)
    side = np.repeat([0.0, 1.0], [150, 100])
    fit = sm.OLS(y, np.stack([np.ones(250), night, side], axis=1)).fit()
    expected = fit.params[1] * (night[:150].mean() - night[150:].mean())
    parts = {p.factor: p.value for p in split.parts}
    assert parts["light"] == pytest.approx(expected, abs=1e-7)
    assert parts[factors.UNEXPLAINED] == pytest.approx(-fit.params[2], abs=1e-7)


def slow_shapley(slopes: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Shapley 1953 from its definition: the mean over all orders of changing the factors of the fitted regression."""
    k = len(slopes)
    parts = np.zeros(k)
    for order in itertools.permutations(range(k)):
        changed = np.zeros(k)
        for i in order:
            before = slopes @ (changed * means)
            changed[i] = 1
            parts[i] += slopes @ (changed * means) - before
    return parts / math.factorial(k)


def test_split_is_the_shapley_value_of_the_regression() -> None:
    rng = np.random.default_rng(7)
    found = effects(rng, 200, "wxyz")
    x = np.stack([np.array(f.probe) == "1" for f in found], axis=1).astype(float)
    both = paired(np.ones((200, 1)), rng.random((200, 1)) < 0.9 - 0.2 * x[:, :1] - 0.4 * x[:, 1:2])
    slopes = np.linalg.lstsq(x, both.lost[:, 0], rcond=None)[0]
    split = factors.split(both, found, resamples=20)
    assert split is not None
    parts = {p.factor: p.value for p in split.parts}
    expected = slow_shapley(slopes, x.mean(axis=0))
    assert [parts[f.name] for f in found] == pytest.approx(expected.tolist(), abs=1e-7)


def test_a_planted_effect_is_found_and_a_harmless_one_is_not_blamed() -> None:
    rng = np.random.default_rng(8)
    n = 600
    found = effects(rng, n, ("harmful", "harmless"), 0.6)
    right1 = rng.random((n, 1)) > 0.5 * (np.array(found[0].probe) == "1")[:, None]
    split = factors.split(paired(np.ones((n, 1)), right1), found, resamples=1000, confidence=0.99)
    assert split is not None
    parts = {p.factor: p for p in split.parts}
    assert parts["harmful"].low < 0.3 < parts["harmful"].high
    assert parts["harmful"].low > 0.2
    assert parts["harmless"].low < 0 < parts["harmless"].high
    assert abs(parts["harmless"].value) < 0.04


def test_split_intervals_cover() -> None:
    """The true part is inside the 90 % interval in about 90 % of samples."""
    inside = 0
    for seed in range(120):
        rng = np.random.default_rng([9, seed])
        found = effects(rng, 150, ("x", "y"))
        share = np.mean(np.array(found[0].probe) == "1")
        right1 = rng.random((150, 1)) > 0.4 * (np.array(found[0].probe) == "1")[:, None]
        split = factors.split(paired(np.ones((150, 1)), right1), found, resamples=200, confidence=0.9, seed=seed)
        assert split is not None
        part = next(p for p in split.parts if p.factor == "x")
        inside += part.low <= 0.4 * share <= part.high
    assert 0.82 <= inside / 120 <= 0.97


def test_split_ignores_the_order_of_images() -> None:
    rng = np.random.default_rng(10)
    found = effects(rng, 80, "xy")
    right0, right1 = rng.random((80, 2)) < 0.9, rng.random((80, 2)) < 0.6
    order = rng.permutation(80)
    one = factors.split(paired(right0, right1), found, resamples=20)
    moved = [Factor(f.name, f.in_dist, tuple(f.probe[i] for i in order)) for f in found]
    both = paired(right0, right1[order], order)
    other = factors.split(both, moved, resamples=20)
    assert one is not None
    assert other is not None
    assert [p.value for p in one.parts] == pytest.approx([p.value for p in other.parts], abs=1e-9)


def test_factors_that_change_together_are_said_to() -> None:
    n = 40
    found = [Factor(name, ("0",) * n, ("1",) * n) for name in ("crop", "style")]
    both = paired(np.ones((n, 1)), np.zeros((n, 1)))
    split = factors.split(both, found, resamples=20)
    assert split is not None
    assert split.left_out["crop and style"] == "they change together, so that their parts cannot be told apart"
    assert sum(p.value for p in split.parts) == pytest.approx(1)
    assert factors.split(both, [Factor("f", ("x",) * n, ("x",) * n)]) is None


def test_images_of_a_scene_are_drawn_together() -> None:
    rng = np.random.default_rng(11)
    found = effects(rng, 60, "x")
    right0, right1 = np.ones((60, 1)), rng.random((60, 1)) < 0.6
    once = factors.split(paired(right0, right1), found, resamples=400)
    twice = factors.split(
        paired(right0, np.repeat(right1, 2, axis=0), np.repeat(np.arange(60), 2)),
        [Factor("x", found[0].in_dist, tuple(np.repeat(found[0].probe, 2)))],
        resamples=400,
    )
    assert once is not None
    assert twice is not None
    for a, b in zip(once.parts, twice.parts, strict=True):  # copies tell nothing new
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), abs=1e-9)


# --- severity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clustered", [False, True])
def test_slope_against_statsmodels(clustered: bool) -> None:
    rng = np.random.default_rng(12)
    x = rng.integers(1, 6, size=90).astype(float)
    y = (rng.random(90) < 0.1 * x).astype(float)
    cluster = np.arange(90) // 3 if clustered else np.arange(90)
    slope, low, high, p, made = severity.slope(x, y, cluster, 0.9)
    options = {"cov_type": "cluster", "cov_kwds": {"groups": cluster}} if clustered else {"cov_type": "HC1"}
    fit = sm.OLS(y, sm.add_constant(x)).fit(use_t=True, **options)
    assert slope == pytest.approx(fit.params[1])
    assert (low, high) == pytest.approx(tuple(fit.conf_int(0.1)[1]))
    assert p == pytest.approx(fit.pvalues[1])
    assert made == ("cluster-robust t 90%" if clustered else "robust t 90%")


def test_slopes_that_are_not_defined_say_why() -> None:
    one = severity.slope(np.ones(5), np.arange(5.0), np.arange(5))
    assert math.isnan(one[0])
    assert one[4] == "not defined: one severity only"
    exact = severity.slope(np.array([1.0, 1, 2, 2]), np.array([0.0, 0, 1, 1]), np.arange(4))
    assert exact[:3] == (1, 1, 1)
    assert math.isnan(exact[3])
    assert severity.slope(np.array([1.0, 2]), np.array([0.0, 1]), np.arange(2))[4] == "not defined: 2 scenes"


def test_steps_and_trends() -> None:
    rng = np.random.default_rng(13)
    levels = [1 + i % 3 for i in range(150)]
    right1 = rng.random((150, 2)) < np.array([0.9, 0.6, 0.3])[np.array(levels) - 1][:, None]
    both = paired(np.ones((150, 2)), right1)
    steps = severity.by_severity(both, levels)
    assert [(s.model, s.severity, s.n) for s in steps] == [(m, k, 50) for m in ("m0", "m1") for k in (1, 2, 3)]
    for s in steps:
        k = round(s.accuracy * 50)
        assert (s.low, s.high) == intervals.clopper_pearson(k, 50)
        assert s.drop == pytest.approx(1 - s.accuracy)
        assert s.drop_low <= s.drop <= s.drop_high
    for t in severity.trends(both, levels):
        assert t.low < 0.3 < t.high
        assert t.p < 1e-6
    alone = severity.by_severity(replace(both, partner=None), levels)
    assert all(s.drop_interval == "Newcombe 95%" for s in alone)


# --- corruption error -------------------------------------------------------------------------------------------------


def test_corruption_error_by_hand() -> None:
    rng = np.random.default_rng(14)
    clean = rng.random((100, 2)) < 0.1
    wrong = {"fog": rng.random((100, 3, 2)) < 0.4, "blur": rng.random((100, 2, 2)) < 0.3}
    found = {(e.model, e.corruption): e for e in ce.corruption_errors(clean, wrong, ["a", "b"], "b", resamples=200)}
    expected = []
    relative = []
    for name, w in wrong.items():
        error = w.mean(axis=(0, 1))
        assert found["a", name].error.value == pytest.approx(error[0])
        expected.append(error[0] / error[1])
        relative.append((error[0] - clean[:, 0].mean()) / (error[1] - clean[:, 1].mean()))
        assert found["a", name].ce.value == pytest.approx(expected[-1])
    assert found["a", ce.MEAN].ce.value == pytest.approx(np.mean(expected))
    assert found["a", ce.MEAN].relative.value == pytest.approx(np.mean(relative))
    reference = found["b", ce.MEAN].ce
    assert (reference.value, reference.low, reference.high) == pytest.approx((1, 1, 1))


def test_a_reference_without_errors_defines_nothing() -> None:
    clean = np.zeros((20, 2), bool)
    wrong = {"fog": np.zeros((20, 1, 2), bool)}
    wrong["fog"][:5, 0, 0] = True
    (error, mean) = ce.corruption_errors(clean, wrong, ["a", "b"], "b", resamples=50)[:2]
    assert error.error.value == 0.25
    assert not error.ce.defined
    assert error.ce.interval == mean.ce.interval == "not defined: b makes no error under fog"
    assert error.relative.interval == "not defined: b loses nothing under fog"


def test_the_reference_is_the_median_model() -> None:
    accuracies = {"c": 0.9, "a": 0.5, "b": 0.7}
    assert ce.reference_of(accuracies) == "b"
    assert ce.reference_of({**accuracies, "d": 0.7}) == "b"  # of two in the middle the first
    assert ce.reference_of(dict(reversed(accuracies.items()))) == "b"
    assert ce.reference_of({"only": 0.3}) == "only"
