"""Gaps: label spaces, pairs, intervals, parts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shift_samples import draw, rows, told

from gradlens.errors import InputError
from gradlens.records import GapReport, Predictions
from gradlens.shift import gap, intervals, metrics
from gradlens.workflows.measure.evidence import Request
from gradlens.workflows.measure.score import _detectable

FEW = 200


def by_metric(reports: list[GapReport], space: str = "shared") -> dict[str, GapReport]:
    return {r.metric: r for r in reports if r.label_space == space}


def scenes(seed: int = 0, n: int = 150, k: int = 6, probe_noise: float = 3) -> tuple[Predictions, Predictions]:
    """A set and the same scenes after a shift: what was hard stays hard."""
    a = draw(n=n, k=k, seed=seed, dataset="test")
    b = draw(n=n, k=k, seed=seed + 1, dataset="probe", noise=probe_noise, labels=a.labels, pairs=a.ids)
    logits = a.logits + 0.6 * b.logits
    return a, replace(b, logits=logits, predicted=logits.argmax(axis=1))


# --- independent samples ----------------------------------------------------------------------------------------------


def test_accuracy_gap_has_newcombes_interval() -> None:
    a, b = draw(seed=1), draw(seed=2, n=80, noise=3, dataset="probe")
    r = by_metric(gap.gaps(a, b, paired=False, resamples=FEW))["accuracy"]
    k0, k1 = int((a.predicted == a.labels).sum()), int((b.predicted == b.labels).sum())
    assert (r.in_dist_value, r.probe_value) == (k0 / 120, k1 / 80)
    assert r.gap.value == k0 / 120 - k1 / 80
    assert (r.gap.low, r.gap.high) == intervals.newcombe(k0, 120, k1, 80)
    assert (r.n_in_dist, r.n_probe, r.classes, r.paired) == (120, 80, 6, False)
    assert r.gap.interval == "Newcombe 95%"
    assert (r.model, r.in_dist, r.probe) == ("model", "set", "probe")


def test_textbook_gap() -> None:
    a = told([0] * 70, [0] * 56 + [1] * 14, "ab", dataset="a")
    b = told([0] * 80, [0] * 48 + [1] * 32, "ab", dataset="b")
    r = by_metric(gap.gaps(a, b, paired=False, resamples=FEW))["accuracy"]
    assert (r.gap.low, r.gap.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_every_metric_has_its_own_difference() -> None:
    a, b = draw(seed=1), draw(seed=2, n=80, noise=3, dataset="probe")
    one, two = metrics.evaluate(a, resamples=FEW), metrics.evaluate(b, resamples=FEW)
    reports = by_metric(gap.gaps(a, b, paired=False, resamples=FEW))
    assert list(reports) == list(one)
    for name, r in reports.items():
        assert (r.in_dist_value, r.probe_value) == (one[name].value, two[name].value)
        assert r.gap.value == pytest.approx(one[name].value - two[name].value, abs=1e-12)
    assert reports["nll"].gap.value < 0  # a loss grows under shift


def test_bootstrap_gap_is_that_of_two_independent_bootstraps() -> None:
    a, b = draw(seed=3, k=4), draw(seed=4, k=4, n=90, noise=3, dataset="probe")
    r = by_metric(gap.gaps(a, b, paired=False, resamples=5000))["macro_f1"]
    assert r.gap.interval == "bootstrap 95%"
    rng = np.random.default_rng(0)

    def slow(p: Predictions) -> np.ndarray:
        drawn = [rows_of(p, rng.integers(len(p), size=len(p))) for _ in range(600)]
        return np.array([metrics.columns_of(d).values()["macro_f1"] for d in drawn])

    expected = np.quantile(slow(a) - slow(b), [0.025, 0.975])
    assert (r.gap.low, r.gap.high) == pytest.approx(expected, abs=0.03)


def rows_of(p: Predictions, drawn: np.ndarray) -> metrics.Scored:
    """A resample: images may repeat, so their ids are made new."""
    fresh = tuple(f"{i:05d}" for i in range(len(drawn)))
    return metrics.on_classes(
        replace(p, ids=fresh, pairs=None, labels=p.labels[drawn], predicted=p.predicted[drawn], logits=None)
    )


def test_identical_independent_sets_have_no_gap_but_an_interval() -> None:
    a = draw(seed=1)
    for r in gap.gaps(a, replace(a, dataset="twin"), paired=False, resamples=FEW):
        assert r.gap.value == 0
        assert r.gap.low < 0 < r.gap.high


def test_models_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="of one model"):
        gap.gaps(draw(model="a"), draw(model="b"), paired=False)


# --- label spaces -----------------------------------------------------------------------------------------------------


def test_probe_without_a_class_is_compared_on_the_others() -> None:
    a = draw(n=200, k=7, seed=5, noise=3, dataset="test")
    b = draw(n=100, k=7, seed=6, noise=3, dataset="probe")
    b = rows(b, np.flatnonzero(b.labels != 4))
    reports = gap.gaps(a, b, paired=False, resamples=FEW)
    assert {r.label_space for r in reports} == {"shared"}
    r = by_metric(reports)["accuracy"]
    keep = a.labels != 4
    logits = a.logits[keep].copy()
    logits[:, 4] = -np.inf
    assert r.in_dist_value == pytest.approx((logits.argmax(axis=1) == a.labels[keep]).mean())
    assert (r.classes, r.n_in_dist, r.n_probe) == (6, int(keep.sum()), len(b))
    assert gap.shared_classes(a, b) == ("c0", "c1", "c2", "c3", "c5", "c6")
    assert gap.label_space_note(a, b) == "compared on 6 of 7 classes; no image of c4 in probe"


def test_equal_classes_are_compared_in_both_spaces() -> None:
    a, b = draw(seed=1), draw(seed=2, dataset="probe")
    reports = gap.gaps(a, b, paired=False, resamples=FEW)
    shared, full = by_metric(reports, "shared"), by_metric(reports, "full")
    assert list(shared) == list(full)
    # the model knows nothing else, so masking changes nothing
    assert all(replace(full[name], label_space="shared").gap == shared[name].gap for name in full)
    assert gap.label_space_note(a, b) == ""


def test_a_model_that_knows_more_is_masked_in_shared_and_not_in_full() -> None:
    a, b = (draw(n=150, k=8, seed=s, noise=3, dataset=d) for s, d in ((1, "test"), (2, "probe")))
    a, b = (rows(p, np.flatnonzero(p.labels < 3)) for p in (a, b))
    reports = gap.gaps(a, b, paired=False, resamples=FEW)
    shared, full = by_metric(reports, "shared")["accuracy"], by_metric(reports, "full")["accuracy"]
    assert full.in_dist_value == (a.predicted == a.labels).mean()
    assert shared.in_dist_value == (a.logits[:, :3].argmax(axis=1) == a.labels).mean()
    assert shared.in_dist_value > full.in_dist_value
    assert by_metric(reports, "shared")["top5"].gap.interval == "not defined: top-5 of 3 classes"
    assert by_metric(reports, "full")["top5"].gap.defined


def test_classes_that_the_model_does_not_know_are_wrong_in_full_and_absent_in_shared() -> None:
    a = told([0, 0, 1, 2], [0, 0, 1, 1], "ab", label_classes=("a", "b", "strange"), dataset="test")
    b = told([0, 1, 2, 2], [0, 0, 1, 1], "ab", label_classes=("a", "b", "strange"), dataset="probe")
    reports = gap.gaps(a, b, paired=False, resamples=FEW)
    shared, full = by_metric(reports, "shared")["accuracy"], by_metric(reports, "full")["accuracy"]
    assert (shared.in_dist_value, shared.probe_value, shared.n_in_dist, shared.n_probe) == (1, 0.5, 3, 2)
    assert (full.in_dist_value, full.probe_value, full.n_in_dist, full.n_probe) == (0.75, 0.25, 4, 4)
    assert gap.label_space_note(a, b) == "compared on 2 of 3 classes; model does not know strange"


def test_nothing_in_common_is_said() -> None:
    a = told([0, 0], [0, 0], "ab", dataset="test")
    b = told([1, 1], [1, 1], "ab", dataset="probe")
    reports = gap.gaps(a, b, paired=True, resamples=FEW)
    assert {r.label_space for r in reports} == {"shared"}
    for r in reports:
        assert not r.gap.defined
        assert "no labelled image of a shared class" in r.gap.interval
        assert r.classes == 0


def test_class_order_of_the_sets_does_not_matter() -> None:
    a, b = draw(seed=1), draw(seed=2, n=70, noise=3, dataset="probe")
    order = np.array([3, 0, 5, 1, 4, 2])
    turned = replace(b, label_classes=tuple(b.label_classes[i] for i in order), labels=np.argsort(order)[b.labels])
    for one, two in zip(
        gap.gaps(a, b, paired=False, resamples=FEW), gap.gaps(a, turned, paired=False, resamples=FEW), strict=True
    ):
        assert two.gap.value == pytest.approx(one.gap.value, abs=1e-12)
        assert two.mix == pytest.approx(one.mix, abs=1e-12, nan_ok=True)


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_paired_accuracy_gap_has_the_paired_interval() -> None:
    a, b = scenes()
    r = by_metric(gap.gaps(a, b, paired=True, resamples=FEW))["accuracy"]
    right0, right1 = a.predicted == a.labels, b.predicted == b.labels
    table = [(right0 & right1), (right0 & ~right1), (~right0 & right1), (~right0 & ~right1)]
    assert (r.gap.low, r.gap.high) == intervals.newcombe_paired(*(int(cell.sum()) for cell in table))
    assert r.paired
    assert r.gap.interval == "paired Newcombe 95%"
    loose = by_metric(gap.gaps(a, b, paired=False, resamples=FEW))["accuracy"]
    assert loose.gap.value == r.gap.value
    assert r.gap.high - r.gap.low < loose.gap.high - loose.gap.low


def test_the_order_of_a_paired_set_does_not_matter() -> None:
    a, b = scenes()
    rng = np.random.default_rng(0)
    shuffled = gap.gaps(rows(a, rng.permutation(len(a))), rows(b, rng.permutation(len(b))), paired=True, resamples=FEW)
    assert repr(shuffled) == repr(gap.gaps(a, b, paired=True, resamples=FEW))


def test_paired_bootstrap_draws_scenes() -> None:
    a, b = scenes(n=90, k=4)
    r = by_metric(gap.gaps(a, b, paired=True, resamples=5000))["macro_f1"]
    assert r.gap.interval == "paired bootstrap 95%"
    rng = np.random.default_rng(0)
    slow = []
    for _ in range(600):
        drawn = rng.integers(90, size=90)
        one, two = (metrics.columns_of(rows_of(p, drawn)).values()["macro_f1"] for p in (a, b))
        slow.append(one - two)
    assert (r.gap.low, r.gap.high) == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.025)


def test_many_pairs_take_the_shortcut_and_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = scenes(n=300, k=5)
    by_units = by_metric(gap.gaps(a, b, paired=True, resamples=6000))
    monkeypatch.setattr(intervals, "_KEPT_DRAWS", 0)
    by_cells = by_metric(gap.gaps(a, b, paired=True, resamples=6000))
    for name, r in by_units.items():
        ends = (by_cells[name].gap.low, by_cells[name].gap.high)
        assert ends == pytest.approx((r.gap.low, r.gap.high), abs=0.01 * max(1, abs(r.gap.value)), nan_ok=True)


def test_the_same_images_twice_have_no_gap_at_all() -> None:
    a = draw(seed=1)
    b = replace(a, dataset="copy", pairs=a.ids)
    for r in gap.gaps(a, b, paired=True, resamples=FEW):
        assert r.gap.value == 0
        if r.metric not in ("accuracy", "top5"):
            assert r.gap.low == r.gap.high == 0


def test_a_few_missing_partners_are_left_out_and_said() -> None:
    a, b = scenes(n=100)
    r = by_metric(gap.gaps(rows(a, np.arange(3, 100)), b, paired=True, resamples=FEW))["accuracy"]
    assert r.paired
    assert (r.n_in_dist, r.n_probe) == (97, 97)
    assert r.gap.interval == "paired Newcombe 95%, 97 of 100 pairs"
    whole = by_metric(gap.gaps(rows(a, np.arange(3, 100)), rows(b, np.arange(3, 100)), paired=True, resamples=FEW))
    assert r.gap.value == whole["accuracy"].gap.value


def test_mostly_unpaired_sets_are_compared_as_independent_and_said() -> None:
    a, b = scenes(n=100)
    b = replace(b, pairs=tuple(pair if i < 50 else None for i, pair in enumerate(b.pairs or ())))
    r = by_metric(gap.gaps(a, b, paired=True, resamples=FEW))["accuracy"]
    assert not r.paired
    assert (r.n_in_dist, r.n_probe) == (100, 100)
    assert r.gap.interval == "Newcombe 95%; only 50 of 100 probe images are paired"
    none = by_metric(gap.gaps(a, replace(b, pairs=None), paired=True, resamples=FEW))["accuracy"]
    assert "only 0 of 100" in none.gap.interval


def test_several_probe_images_of_a_scene_are_one_unit() -> None:
    a, b = scenes(n=60, k=4)
    twice = replace(
        b,
        ids=tuple(f"{name}-{i}" for i in (1, 2) for name in b.ids),
        labels=np.tile(b.labels, 2),
        predicted=np.tile(b.predicted, 2),
        logits=np.tile(b.logits, (2, 1)),
        pairs=tuple(b.pairs or ()) * 2,
    )
    one = by_metric(gap.gaps(a, b, paired=True, resamples=3000))
    two = by_metric(gap.gaps(a, twice, paired=True, resamples=3000))
    for name in ("macro_f1", "nll", "ece"):
        # copies of the same images tell nothing new, so the interval must not shrink
        assert (two[name].gap.low, two[name].gap.high) == pytest.approx(
            (one[name].gap.low, one[name].gap.high), abs=1e-9
        )
    r = two["accuracy"]
    assert r.gap.value == pytest.approx(one["accuracy"].gap.value)
    assert (r.n_in_dist, r.n_probe) == (120, 120)
    assert r.gap.interval == "paired bootstrap 95%, 120 probe images of 60 scenes"


def test_pairs_of_two_classes_are_refused() -> None:
    a, b = scenes(n=40)
    labels = b.labels.copy()
    labels[7] = (labels[7] + 1) % 6
    with pytest.raises(InputError, match=r"'probe-00007' is labelled 'c\d' but its pair 'test-00007' in test is 'c\d'"):
        gap.gaps(a, replace(b, labels=labels), paired=True)


# --- parts ------------------------------------------------------------------------------------------------------------


def test_class_mix_alone() -> None:
    # both classes are as hard on both sides (1 and 0), only their shares change
    a = told([0] * 8 + [1] * 2, [0] * 10, "ab", dataset="test")
    b = told([0] * 2 + [1] * 8, [0] * 10, "ab", dataset="probe")
    r = by_metric(gap.gaps(a, b, paired=False, resamples=FEW))["accuracy"]
    assert (r.gap.value, r.mix, r.within) == pytest.approx((0.6, 0.6, 0))


def test_within_class_alone() -> None:
    a = told([0] * 5 + [1] * 5, [0] * 5 + [1] * 5, "ab", dataset="test")
    b = told([0] * 5 + [1] * 5, [0] * 5 + [0] * 5, "ab", dataset="probe")
    r = by_metric(gap.gaps(a, b, paired=False, resamples=FEW))["accuracy"]
    assert (r.gap.value, r.mix, r.within) == pytest.approx((0.5, 0, 0.5))


def slow_parts(a: Predictions, b: Predictions) -> tuple[float, float]:
    """Kitagawa 1955 with the midpoint weights, class after class."""
    mix = within = 0.0
    for c in range(len(a.label_classes)):
        q0, q1 = (float((p.labels == c).mean()) for p in (a, b))
        a0, a1 = (float((p.predicted[p.labels == c] == c).mean()) for p in (a, b))
        mix += (q0 - q1) * (a0 + a1) / 2
        within += (q0 + q1) / 2 * (a0 - a1)
    return mix, within


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(5, 60), st.integers(5, 60), st.booleans())
def test_parts_add_up_and_intervals_contain_the_gap(seed: int, k: int, n0: int, n1: int, paired: bool) -> None:
    a = draw(n=n0, k=k, seed=seed, dataset="test")
    if paired:
        b = draw(n=n0, k=k, seed=seed + 1, noise=3, dataset="probe", labels=a.labels, pairs=a.ids)
    else:
        b = draw(n=n1, k=k, seed=seed + 1, noise=3, dataset="probe")
    reports = gap.gaps(a, b, paired=paired, resamples=50)
    for r in reports:
        if r.gap.defined:
            assert r.gap.value == r.in_dist_value - r.probe_value
        if r.metric == "accuracy" and r.gap.defined:
            assert r.mix + r.within == pytest.approx(r.gap.value, abs=1e-12)
            if paired:
                assert r.mix == pytest.approx(0, abs=1e-12)
        else:
            assert math.isnan(r.mix)
            assert math.isnan(r.within)
    full = by_metric(reports, "full")
    if full and set(a.labels) == set(range(k)):
        assert (full["accuracy"].mix, full["accuracy"].within) == pytest.approx(slow_parts(a, b), abs=1e-12)


# --- size -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "points"), [(50, 14), (200, 7), (2000, 2.4)])
def test_detectable_gap(n: int, points: float) -> None:
    assert 100 * gap.detectable_gap(0.85, 10_000, n) == pytest.approx(points, abs=0.3)


def test_detectable_gap_has_its_power() -> None:
    """Simulated: a true gap of this size is found (interval excludes zero) in about 80 % of samples."""
    p0, n0, n1 = 0.8, 2000, 300
    d = gap.detectable_gap(p0, n0, n1)
    rng = np.random.default_rng(0)
    k0, k1 = rng.binomial(n0, p0, 1500), rng.binomial(n1, p0 - d, 1500)
    found = np.mean([intervals.newcombe(int(x), n0, int(y), n1)[0] > 0 for x, y in zip(k0, k1, strict=True)])
    assert found == pytest.approx(0.8, abs=0.06)


def test_detectable_gap_at_the_edges() -> None:
    assert gap.detectable_gap(0.9, 0, 10) == gap.detectable_gap(0.9, 10, 0) == 1
    assert 0 < gap.detectable_gap(1.0, 1000, 1000) < 0.02
    assert gap.detectable_gap(0.5, 1, 1) == 1


def test_what_an_independent_probe_set_can_show_is_told(tmp_path: Path) -> None:
    a, b = draw(n=400, seed=1, noise=1, dataset="test"), draw(n=60, seed=2, noise=1, dataset="few")
    reports = gap.gaps(a, b, paired=False, resamples=FEW)
    (note,) = _detectable(reports, Request(out=tmp_path))
    least = gap.detectable_gap((a.predicted == a.labels).mean(), 400, 60)
    assert note.startswith(f"few: 60 images show an accuracy gap of {100 * least:.1f} points or more with 80 % power")
    paired = gap.gaps(*scenes(n=30), paired=True, resamples=FEW)
    assert _detectable(paired, Request(out=tmp_path)) == []
