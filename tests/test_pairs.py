"""Two models on one set: McNemar, Holm, error consistency."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shift_samples import draw, rows, told
from sklearn.metrics import cohen_kappa_score
from test_metrics import published

from gradlens.shift import pairs

COLUMNS = ["model_a", "model_b", "dataset", "n", "b", "c", "p_exact", "p_mid", "p_holm", "agreement", "kappa"]
COLUMNS += ["p_bh", "family"]


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (1, 7), (7, 1), (5, 5), (12, 30), (400, 520)])
def test_exact_mcnemar_is_statsmodels_and_scipys(b: int, c: int) -> None:
    from scipy.stats import binomtest
    from statsmodels.stats.contingency_tables import mcnemar

    exact, mid = pairs.mcnemar(b, c)
    assert exact == pytest.approx(mcnemar([[10, b], [c, 10]], exact=True).pvalue, abs=1e-12)
    if b + c:
        assert exact == pytest.approx(binomtest(b, b + c).pvalue, abs=1e-9)
    assert 0 <= mid <= exact <= 1


def test_published_mcnemar() -> None:
    # Fagerland et al. 2013, airway hyper-responsiveness (b = 1, c = 7): exact .0703, mid-p .0391
    assert pairs.mcnemar(1, 7) == pytest.approx((0.0703, 0.0391), abs=5e-5)


def test_mid_p_counts_half_of_the_observed() -> None:
    # written out for b = 2, c = 6: 2 (P(0) + P(1) + P(2) / 2), P binomial of 8 with one half
    assert pairs.mcnemar(2, 6)[1] == pytest.approx(2 * (1 + 8 + 28 / 2) / 256)
    assert pairs.mcnemar(3, 3) == (1, 1)


@pytest.mark.parametrize("p_values", [[0.3], [0.04, 0.01, 0.03], [0.5, 0.5, 0.001, 0.02, 0.9], [0, 1, 0.2, 0.2]])
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    from statsmodels.stats.multitest import multipletests

    assert pairs.holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.2))
def test_holm_rejects_what_the_step_down_test_rejects(p_values: list[float], alpha: float) -> None:
    """Holm 1979 as a procedure: reject the smallest while p <= alpha / (those that are left)."""
    left = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = set()
    while left and p_values[left[0]] * len(left) <= alpha:
        rejected.add(left.pop(0))
    corrected = pairs.holm(p_values)
    assert {i for i, p in enumerate(corrected) if p <= alpha} == rejected
    assert all(p <= q <= 1 for p, q in zip(p_values, corrected, strict=True))


def test_holm_of_none() -> None:
    assert pairs.holm([]) == pairs.benjamini_hochberg([]) == []


@pytest.mark.parametrize("p_values", [[0.3], [0.04, 0.01, 0.03], [0.5, 0.5, 0.001, 0.02, 0.9], [0, 1, 0.2, 0.2]])
def test_benjamini_hochberg_is_statsmodels_and_never_stricter_than_holm(p_values: list[float]) -> None:
    from statsmodels.stats.multitest import multipletests

    corrected = pairs.benjamini_hochberg(p_values)
    assert corrected == pytest.approx(multipletests(p_values, method="fdr_bh")[1], abs=1e-12)
    assert all(q <= p + 1e-12 for q, p in zip(corrected, pairs.holm(p_values), strict=True))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_error_consistency_is_cohens_kappa_of_being_right(answers: list[tuple[bool, bool]]) -> None:
    right = np.array(answers)
    got = pairs.error_consistency(right[:, 0], right[:, 1])
    if right.all() or not right.any():
        assert math.isnan(got)
    else:
        assert got == pytest.approx(cohen_kappa_score(right[:, 0], right[:, 1]), abs=1e-9)


def test_rows_are_written_out() -> None:
    truth = [0, 0, 0, 1, 1, 1]
    a = told(truth, [0, 0, 0, 1, 0, 0], "abc", model="a")
    b = told(truth, [0, 1, 1, 1, 1, 0], "abc", model="b")
    (row,) = pairs.compare([a, b])
    assert list(row) == COLUMNS
    assert (row["model_a"], row["model_b"], row["dataset"], row["n"]) == ("a", "b", "set", 6)
    assert (row["b"], row["c"]) == (2, 1)
    assert row["agreement"] == 0.5
    observed, expected = 3 / 6, (4 / 6) * (3 / 6) + (2 / 6) * (3 / 6)
    assert row["kappa"] == pytest.approx((observed - expected) / (1 - expected))
    assert row["p_holm"] == row["p_exact"] == 1
    assert row["family"] == 1


def test_only_images_that_both_were_scored_on_count() -> None:
    a, b = draw(n=40, seed=1, model="a"), draw(n=40, seed=1, model="b")
    labels = b.labels.copy()
    labels[5] = -1
    part = rows(replace(b, labels=labels), np.random.default_rng(0).permutation(30))
    (row,) = pairs.compare([a, part])
    assert row["n"] == 29
    assert row["agreement"] == 1
    assert (row["b"], row["c"], row["p_exact"]) == (0, 0, 1)


def test_models_with_other_class_orders_agree_by_name() -> None:
    a = draw(n=30, k=3, seed=1, model="a")
    b = replace(a, model="b", classes=a.classes[::-1], predicted=2 - a.predicted, logits=a.logits[:, ::-1])
    (row,) = pairs.compare([a, b])
    assert (row["agreement"], row["b"], row["c"]) == (1, 0, 0)


def test_answers_outside_the_set_agree_when_they_have_one_name() -> None:
    a = told([0, 0], [1, 2], ("x", "out", "other"), label_classes=("x",), model="a")
    b = replace(a, model="b", predicted=np.array([1, 1]))
    (row,) = pairs.compare([a, b])
    assert row["agreement"] == 0.5
    assert (row["b"], row["c"]) == (0, 0)


def test_every_two_models_once_and_holm_over_all() -> None:
    models = [draw(n=150, seed=s, noise=1 + s / 2, model=f"m{s}", labels=draw(n=150).labels) for s in range(5)]
    table = pairs.compare(models)
    assert [(r["model_a"], r["model_b"]) for r in table] == [
        (f"m{i}", f"m{j}") for i in range(5) for j in range(i + 1, 5)
    ]
    assert [r["p_holm"] for r in table] == pairs.holm([r["p_exact"] for r in table])
    assert [r["p_bh"] for r in table] == pairs.benjamini_hochberg([r["p_exact"] for r in table])
    assert {r["family"] for r in table} == {10}
    assert any(r["p_holm"] > r["p_exact"] for r in table)


def test_one_model_has_no_pairs() -> None:
    assert pairs.compare([draw()]) == pairs.compare([]) == []


def test_sets_and_doubles_are_refused() -> None:
    with pytest.raises(ValueError, match="on one set"):
        pairs.compare([draw(model="a"), draw(model="b", dataset="other")])
    with pytest.raises(ValueError, match="given twice"):
        pairs.compare([draw(), draw()])


def test_no_image_in_common_is_said() -> None:
    a = draw(n=10, model="a")
    b = replace(draw(n=10, model="b"), ids=tuple(f"x{i}" for i in range(10)))
    (row,) = pairs.compare([a, b])
    assert (row["n"], row["b"], row["c"], row["p_exact"]) == (0, 0, 0, 1)
    assert math.isnan(row["agreement"])
    assert math.isnan(row["kappa"])


def test_published_models_differ_except_for_two(shared_data: Path) -> None:
    on_v4 = [p for (_, dataset), p in published(shared_data).items() if dataset == "cifar10.1-v4"]
    table = pairs.compare(on_v4)
    assert len(table) == 10
    same = [r for r in table if r["p_holm"] > 0.05]
    assert [{r["model_a"], r["model_b"]} for r in same] == [{"resnet_basic_110", "vgg_15_BN_64"}]
    accuracy = {p.model: (p.predicted == p.labels).mean() for p in on_v4}
    for r in table:
        assert (r["b"] - r["c"]) / r["n"] == pytest.approx(accuracy[r["model_a"]] - accuracy[r["model_b"]])
