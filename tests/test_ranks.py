"""Ranks: their bootstrap against drawing images one by one, what tests leave open, groups, Kendall's tau."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from shift_samples import draw, rows

from gradlens.figures.ranks import Rank
from gradlens.figures.ranks import ranks as draw_ranks
from gradlens.records import Predictions
from gradlens.runtime import Runtime
from gradlens.shift import pairs, ranks
from gradlens.workflows.measure.analyses import ANALYSES, Outcome, Subject
from gradlens.workflows.measure.evidence import Evidence, ModelInfo, Request, SetInfo
from gradlens.workflows.measure.score import Findings


def answers(m: int, n: int, seed: int = 0, step: float = 0.25) -> np.ndarray:
    """(m, n) right or wrong; the same images are hard for all models, later models are better."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(size=n)
    return np.array([rng.normal(size=n) + hard < step * i for i in range(m)]).astype(np.int64)


def test_equal_scores_share_the_best_rank() -> None:
    assert ranks.ranks(np.array([0.5, 0.9, 0.9, 0.1])).tolist() == [3, 1, 1, 4]
    assert ranks.ranks(np.array([[1, 2], [2, 1]])).tolist() == [[2, 1], [1, 2]]


@pytest.mark.parametrize(("m", "n"), [(3, 400), (8, 150)])  # few kinds of images, and nearly as many as images
def test_ranks_are_resampled_as_if_images_were_drawn_one_by_one(m: int, n: int) -> None:
    right = answers(m, n)
    fast = ranks.ranks(ranks.resampled_right([right], 20_000)[0])
    rng = np.random.default_rng(1)
    slow = np.array([ranks.ranks(right[:, rng.integers(n, size=n)].sum(axis=1)) for _ in range(4000)])
    for model in range(m):
        shares = [np.bincount(drawn[:, model], minlength=m + 1) / len(drawn) for drawn in (fast, slow)]
        assert shares[0] == pytest.approx(shares[1], abs=0.03)


def test_differences_are_resampled_on_the_same_images() -> None:
    right = answers(2, 300)
    drawn = ranks.resampled_right([right], 20_000)[0]
    d = right[0] - right[1]
    assert (drawn[:, 0] - drawn[:, 1]).std() == pytest.approx(d.std() * math.sqrt(300), rel=0.05)
    assert (drawn[:, 0] - drawn[:, 1]).mean() == pytest.approx(d.sum(), abs=0.5)


def test_paired_sides_are_drawn_together() -> None:
    one = answers(4, 200)
    first, second = ranks.resampled_right([one, one], 500)
    assert (first == second).all()
    apart = [ranks.resampled_right([one], 500, stream=s)[0] for s in (0, 1)]
    assert (apart[0] != apart[1]).any()


def test_models_that_never_differ_always_tie() -> None:
    right = np.tile(answers(1, 50), (3, 1))
    assert (ranks.ranks(ranks.resampled_right([right], 100)[0]) == 1).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(1, 60), st.integers(0, 1000))
def test_order_of_images_does_not_matter_and_intervals_hold_the_rank(m: int, n: int, seed: int) -> None:
    right = answers(m, n, seed)
    drawn = ranks.resampled_right([right], 150, seed)[0]
    mixed = ranks.resampled_right([right[:, np.random.default_rng(seed).permutation(n)]], 150, seed)[0]
    assert (drawn == mixed).all()
    point = ranks.ranks(right.sum(axis=1))
    for i in range(m):
        e = ranks.rank_interval(int(point[i]), ranks.ranks(drawn)[:, i], n)
        assert 1 <= e.low <= e.value <= e.high <= m


def test_rank_range_is_what_holm_leaves() -> None:
    told = {("a", "c"), ("a", "d"), ("b", "d")}
    table = [
        {"model_a": x, "model_b": y, "b": 9, "c": 1, "p_holm": 0.01 if (x, y) in told else 0.2}
        for i, x in enumerate("abcd")
        for y in "abcd"[i + 1 :]
    ]
    ahead = ranks.better(table, 0.05)
    assert ahead == {"a": {"c", "d"}, "b": {"d"}, "c": set(), "d": set()}
    assert [ranks.rank_range(m, ahead) for m in "abcd"] == [(1, 2), (1, 3), (2, 4), (3, 4)]
    assert ranks.groups("abcd", ahead) == [["a", "b"], ["b", "c"], ["c", "d"]]
    turned = [r | {"b": r["c"], "c": r["b"]} for r in table]
    assert ranks.better(turned, 0.05)["d"] == {"a", "b"}


def test_ranges_hold_all_true_ranks_as_often_as_they_promise() -> None:
    """Simulated with two pairs of equally good models, where a bootstrap of ranks promises too much."""
    truth = [0.7, 0.7, 0.8, 0.8]
    possible = [{3, 4}, {3, 4}, {1, 2}, {1, 2}]
    held = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        labels = np.zeros(300, np.int64)
        said = [
            replace(draw(300, 2, labels=labels, model=f"m{i}", hard=True), predicted=(rng.random(300) > p).astype(int))
            for i, p in enumerate(truth)
        ]
        ahead = ranks.better(pairs.compare(said), 0.05)
        ranges = [ranks.rank_range(f"m{i}", ahead) for i in range(4)]
        held.append(all(lo <= min(p) and max(p) <= hi for (lo, hi), p in zip(ranges, possible, strict=True)))
    assert np.mean(held) >= 0.92


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.floats(0, 1), st.integers(0, 1000))
def test_groups_are_the_maximal_cliques_of_networkx(m: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"m{i}" for i in range(m)]
    ahead = {a: {b for b in names[i + 1 :] if rng.random() < share} for i, a in enumerate(names)}
    graph = networkx.Graph([(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if b not in ahead[a]])
    graph.add_nodes_from(names)
    found = ranks.groups(names, ahead)
    assert {frozenset(g) for g in found} == {frozenset(g) for g in networkx.find_cliques(graph)}
    assert len({tuple(g) for g in found}) == len(found)
    assert found[0][0] == "m0"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12))
def test_tau_is_scipys(scores: list[tuple[int, int]]) -> None:
    a, b = np.array(scores, dtype=float).T
    expected = stats.kendalltau(a, b).statistic if len(set(a)) > 1 and len(set(b)) > 1 else math.nan
    assert float(ranks.tau(a, b)) == pytest.approx(expected, nan_ok=True)
    both = ranks.tau(np.stack([a, b]), np.stack([b, a]))
    assert both == pytest.approx([expected, expected], nan_ok=True)


# --- the analysis ----------------------------------------------------------------------------------------------------


def subject(said: dict[tuple[str, str], Predictions], paired: bool = False) -> Subject:
    """Predictions, compared by the real functions; the first set is in distribution."""
    models, sets = (list(dict.fromkeys(key[i] for key in said)) for i in (0, 1))
    infos = [
        SetInfo(
            s,
            role="probe" if i else "test",
            n=len(said[models[0], s]),
            classes=said[models[0], s].label_classes,
            paired_with=sets[0] if i and paired else None,
        )
        for i, s in enumerate(sets)
    ]
    evidence = Evidence([ModelInfo(m, 4) for m in models], infos[0], infos[1:], said)
    table = [r for s in sets for r in pairs.compare([said[m, s] for m in models])]
    found = Findings({}, [], [], table, [], [], [])
    return Subject(evidence, found, Request(out=Path(), resamples=300), Runtime(quiet=True))


def several(noises: list[float], n: int = 400, probe: float = 1.4, seed: int = 0) -> dict[tuple[str, str], Predictions]:
    a, b = draw(n, 4, seed), draw(n, 4, seed + 1)
    ids = tuple(f"test-{i:05d}" for i in range(n))
    return {
        (f"m{i}", s): draw(n, 4, 10 * i + j, noise=noise * (probe if j else 1), model=f"m{i}", dataset=s, labels=base)
        if not j
        else replace(
            draw(n, 4, 10 * i + j, noise=noise * probe, model=f"m{i}", dataset=s, labels=base),
            pairs=ids if base is a.labels else None,
        )
        for i, noise in enumerate(noises)
        for j, (s, base) in enumerate((("test", a.labels), ("probe", b.labels)))
    }


def run(one: Subject) -> Outcome:
    return ANALYSES["ranks"].of(one)


def test_ranks_of_models_that_differ() -> None:
    outcome = run(subject(several([0.6, 1.0, 1.6, 3])))
    _, table = outcome.tables["ranks.csv"]
    first = [r for r in table if r["dataset"] == "test"]
    assert [r["rank"] for r in first] == [1, 2, 3, 4]
    assert all(r["best"] <= r["rank"] <= r["worst"] for r in first)
    assert all(r["low"] <= r["rank"] <= r["high"] for r in table)
    assert all(r["change_low"] <= r["change"] <= r["change_high"] for r in table if r["dataset"] == "probe")
    _, (row,) = outcome.tables["rank_correlation.csv"]
    assert row["tau"] == 1
    assert (row["n_in_dist"], row["n_probe"], row["paired"], row["classes"]) == (400, 400, False, 4)
    assert "told apart on test" in outcome.findings[0]
    assert "Kendall's tau 1.00" in outcome.findings[0]


def test_no_ranking_where_no_two_models_are_told_apart() -> None:
    outcome = run(subject(several([1.5, 1.5, 1.5])))
    _, table = outcome.tables["ranks.csv"]
    for r in table:
        assert math.isnan(r["rank"])
        assert r["interval"] == "no ranking: none of 3 pairs is told apart"
        assert (r["best"], r["worst"], r["groups"]) == (1, 3, "1")
    _, (row,) = outcome.tables["rank_correlation.csv"]
    assert math.isnan(row["tau"])
    assert row["interval"] == "not defined: no ranking on one of the two sets"
    assert outcome.findings[0].startswith("No ranking on test: none of 3 pairs")
    assert "on test and probe no two models are told apart" in outcome.answers[0].text
    draw_ranks([Rank(r["model"], r["dataset"], r["rank"], r["low"], r["high"], 1, 3) for r in table])


def test_scenes_are_drawn_once_for_both_sides() -> None:
    said = several([0.6, 1.2, 2.5])
    said = {
        key: replace(p, dataset="probe", labels=said[key[0], "test"].labels, pairs=said[key[0], "test"].ids)
        if key[1] == "probe"
        else p
        for key, p in said.items()
    }
    same = {
        key: replace(said[key[0], "test"], dataset="probe", pairs=said[key[0], "test"].ids) if key[1] == "probe" else p
        for key, p in said.items()
    }
    outcome = run(subject(same, paired=True))
    _, (row,) = outcome.tables["rank_correlation.csv"]
    assert row["paired"] is True
    changes = [r for r in outcome.tables["ranks.csv"][1] if r["dataset"] == "probe"]
    assert all((r["change"], r["change_low"], r["change_high"]) == (0, 0, 0) for r in changes)  # the same answers
    loose = run(subject(same, paired=False)).tables["rank_correlation.csv"][1][0]
    assert loose["paired"] is False
    assert loose["low"] <= row["low"]


def test_classes_that_one_side_lacks_are_left_out_of_the_comparison() -> None:
    said = several([0.6, 1.2, 2.5])
    said = {key: rows(p, np.flatnonzero(p.labels != 2)) if key[1] == "probe" else p for key, p in said.items()}
    _, (row,) = run(subject(said)).tables["rank_correlation.csv"]
    labels = said["m0", "test"].labels
    assert (row["classes"], row["n_in_dist"]) == (3, int((labels != 2).sum()))


def test_order_of_models_and_images_does_not_matter() -> None:
    said = several([0.6, 1.2, 1.3, 2.5])
    turned = {key: rows(p, np.random.default_rng(7).permutation(len(p))) for key, p in reversed(list(said.items()))}
    turned = dict(sorted(turned.items(), key=lambda item: item[0][1] == "probe"))
    one, two = (run(subject(s)).tables["ranks.csv"][1] for s in (said, turned))
    key = {(r["model"], r["dataset"]): r for r in two}
    for r in one:
        other = key[r["model"], r["dataset"]]
        for name in (
            "accuracy",
            "rank",
            "low",
            "high",
            "best",
            "worst",
            "groups",
            "change",
            "change_low",
            "change_high",
        ):
            assert r[name] == pytest.approx(other[name], nan_ok=True) if name != "groups" else r[name] == other[name]


def test_one_model_has_no_rank() -> None:
    outcome = run(subject(several([1.0])))
    assert "one model has no rank" in outcome.not_done
    assert not outcome.tables


def test_only_common_images_count_and_that_is_said() -> None:
    said = several([0.6, 1.2, 2.5])
    said["m1", "test"] = rows(said["m1", "test"], np.arange(100, 400))
    outcome = run(subject(said))
    assert {r["n"] for r in outcome.tables["ranks.csv"][1] if r["dataset"] == "test"} == {300}
    assert outcome.notes == ["test: ranks rest on the 300 images that every model was scored on"]
