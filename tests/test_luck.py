"""Training luck: variance components against statsmodels and simulation, families judged against both kinds of luck."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from shift_samples import draw, rows
from test_ranks import subject

from gradlens.records import Predictions
from gradlens.shift import luck
from gradlens.workflows.measure.analyses import ANALYSES


def normal(
    s: int, n: int, seed: int = 0, a: float = 0.1, b: float = 0.3, e: float = 0.4, mu: float = 0.8
) -> np.ndarray:
    """(s, n) values of the crossed model itself."""
    rng = np.random.default_rng(seed)
    return mu + rng.normal(0, a, (s, 1)) + rng.normal(0, b, (1, n)) + rng.normal(0, e, (s, n))


def test_components_are_those_of_statsmodels_two_way_table() -> None:
    import pandas as pd
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    y = normal(4, 30)
    long = pd.DataFrame({"y": y.ravel(), "run": np.repeat(range(4), 30), "image": np.tile(range(30), 4)})
    table = anova_lm(ols("y ~ C(run) + C(image)", long).fit())
    ms = table["sum_sq"] / table["df"]
    training, images, rest = luck.components(y)
    assert rest == pytest.approx(ms["Residual"])
    assert training == pytest.approx(max(0, (ms["C(run)"] - ms["Residual"]) / 30))
    assert images == pytest.approx(max(0, (ms["C(image)"] - ms["Residual"]) / 4))


def test_components_are_found_again() -> None:
    found = np.mean([luck.components(normal(5, 200, seed)) for seed in range(300)], axis=0)
    assert found == pytest.approx([0.1**2, 0.3**2, 0.4**2], rel=0.1)


def test_split_adds_up_and_says_what_one_run_varies() -> None:
    """Simulated: fresh runs on fresh images vary by training + sampling."""
    scores = [normal(1, 100, seed).mean() for seed in range(4000)]
    split = np.mean(
        [(s.training, s.sampling) for s in (luck.split([normal(6, 100, 7 + k)]) for k in range(300))], axis=0
    )
    assert split.sum() == pytest.approx(np.var(scores), rel=0.1)
    assert split[1] == pytest.approx((0.3**2 + 0.4**2) / 100, rel=0.1)


def test_two_sides_are_the_difference_of_their_means() -> None:
    a, b = normal(4, 50, 1), normal(4, 80, 2, mu=0.5)
    found = luck.split([a, b])
    assert found.mean == pytest.approx(a.mean() - b.mean())
    assert found.between == pytest.approx((a.mean(axis=1) - b.mean(axis=1)).var(ddof=1))
    rest = luck.components(a)[2] / 50 + luck.components(b)[2] / 80
    assert found.training == pytest.approx(max(0, found.between - rest))


def test_luck_of_training_alone_gives_the_t_interval_over_runs() -> None:
    scores = np.array([0.80, 0.84, 0.79, 0.87])
    values = np.repeat(scores[:, None], 50, axis=1)
    e = luck.mean_interval([values])
    low, high = stats.t.interval(0.95, 3, scores.mean(), stats.sem(scores))
    assert (e.low, e.high) == pytest.approx((low, high))
    other = np.repeat(np.array([0.70, 0.74, 0.72])[:, None], 50, axis=1)
    d = luck.difference([values], [other])
    welch = stats.ttest_ind(scores, [0.70, 0.74, 0.72], equal_var=False)
    assert d.p == pytest.approx(welch.pvalue)
    assert d.freedom == pytest.approx(welch.df)
    ends = welch.confidence_interval()
    assert (d.value.low, d.value.high) == pytest.approx((ends.low, ends.high))
    assert d.sampling_error == pytest.approx(0, abs=1e-12)


def test_luck_of_sampling_alone_gives_the_paired_t_interval() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.random(200) < 0.8, rng.random(200) < 0.7
    d = luck.difference([np.tile(one, (2, 1)).astype(float)], [np.tile(two, (3, 1)).astype(float)])
    paired = stats.ttest_rel(one.astype(float), two.astype(float))
    assert d.p == pytest.approx(paired.pvalue)
    assert d.training_error == 0


@pytest.mark.parametrize("runs", [2, 5])
def test_equal_families_are_told_apart_no_more_often_than_promised(runs: int) -> None:
    """Simulated under the model; judging against sampling alone would be wrong far more often."""
    found, naive = [], []
    for seed in range(400):
        both = normal(2 * runs, 200, seed, a=0.05)
        one, two = [both[:runs]], [both[runs:]]
        d = luck.difference(one, two)
        found.append(d.p < 0.05)
        naive.append(abs(d.value.value) > 1.96 * d.sampling_error)
    assert np.mean(found) <= 0.075
    assert np.mean(naive) > 0.12


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.integers(2, 40), st.integers(0, 1000))
def test_order_does_not_matter_and_intervals_hold_the_mean(s: int, n: int, seed: int) -> None:
    values = (normal(s, n, seed) > 0.8).astype(float)
    e, split = luck.mean_interval([values]), luck.split([values])
    assert e.low <= e.value <= e.high
    assert min(split.training, split.sampling, split.shared, split.between) >= 0
    rng = np.random.default_rng(seed)
    mixed = values[rng.permutation(s)][:, rng.permutation(n)]
    assert luck.mean_interval([mixed]).high == pytest.approx(e.high)
    assert luck.difference([values], [values]).p == 1
    assert math.isnan(split.share) or 0 <= split.share <= 1


def test_one_run_has_no_variance() -> None:
    with pytest.raises(ValueError, match="two runs and two images"):
        luck.components(np.ones((1, 10)))


# --- the analysis ----------------------------------------------------------------------------------------------------


def runs_of(
    noises: dict[str, tuple[float, ...]], n: int = 240, paired: bool = False
) -> dict[tuple[str, str], Predictions]:
    labels = draw(n, 4, 0).labels
    found = {}
    for i, (family, own) in enumerate(noises.items()):
        for j, noise in enumerate(own):
            name = f"{family}-s{j}" if len(own) > 1 else family
            for k, dataset in enumerate(("test", "probe")):
                p = draw(n, 4, 100 * i + 10 * j + k, noise=noise * (1 + k), model=name, dataset=dataset, labels=labels)
                ids = tuple(f"test-{x:05d}" for x in range(n)) if paired and k else None
                found[name, dataset] = replace(p, pairs=ids)
    return found


def test_families_and_gaps_are_split() -> None:
    said = runs_of({"a": (0.8, 0.9, 1.0), "b": (1.6, 1.7), "alone": (1.0,)})
    outcome = ANALYSES["luck"].of(subject(said))
    columns, table = outcome.tables["luck.csv"]
    assert all(set(columns) == set(r) for r in table)
    assert {(r["family"], r["runs"]) for r in table} == {("a", 3), ("b", 2)}
    assert [(r["quantity"], r["dataset"]) for r in table[::2]] == [
        ("accuracy", "test"),
        ("accuracy", "probe"),
        ("gap", "probe"),
    ]
    accuracy = np.mean([(said[f"a-s{j}", "test"].predicted == said["a-s0", "test"].labels).mean() for j in range(3)])
    assert table[0]["value"] == pytest.approx(accuracy)
    gap = next(r for r in table if (r["family"], r["quantity"]) == ("a", "gap"))
    after = np.mean([(said[f"a-s{j}", "probe"].predicted == said["a-s0", "probe"].labels).mean() for j in range(3)])
    assert gap["value"] == pytest.approx(accuracy - after)
    assert (gap["n_in_dist"], gap["n"], gap["paired"]) == (240, 240, False)
    columns, tests = outcome.tables["luck_pairs.csv"]
    assert all(set(columns) == set(r) for r in tests)
    assert len(tests) == 3
    assert tests[0]["difference"] > 0
    assert any("alone" in note for note in outcome.notes)
    assert "5 of 6 models are runs of 2 families" in outcome.answers[0].text


def test_pairs_of_images_stay_together() -> None:
    said = runs_of({"a": (0.8, 0.9, 1.0), "b": (1.6, 1.7)}, paired=True)
    same = {
        k: replace(said[k[0], "test"], dataset="probe", pairs=said[k].pairs) if k[1] == "probe" else p
        for k, p in said.items()
    }
    rows_ = ANALYSES["luck"].of(subject(same, paired=True)).tables["luck.csv"][1]
    gap = next(r for r in rows_ if r["quantity"] == "gap")
    assert gap["paired"] is True
    assert (gap["value"], gap["sd_training"], gap["sd_sampling"]) == (0, 0, 0)


def test_order_of_files_does_not_matter() -> None:
    said = runs_of({"a": (0.8, 1.2), "b": (1.6, 1.7, 2.2)})
    turned = {k: rows(p, np.random.default_rng(1).permutation(len(p))) for k, p in reversed(list(said.items()))}
    turned = dict(sorted(turned.items(), key=lambda item: item[0][1] == "probe"))
    one, two = (ANALYSES["luck"].of(subject(s)).tables["luck_pairs.csv"][1] for s in (said, turned))
    assert [r["family_a"] for r in one] == [r["family_a"] for r in two]
    for a, b in zip(one, two, strict=True):
        assert (a["low"], a["p_holm"]) == pytest.approx((b["low"], b["p_holm"]))


def test_no_seeds_is_said() -> None:
    outcome = ANALYSES["luck"].of(subject(runs_of({"a": (1.0,), "b": (1.2,)})))
    assert outcome.not_done.startswith("none of 2 models was trained twice")
