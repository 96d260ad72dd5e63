"""Which models rest on the background: from pairs in which only it changed, and of twins on the committed models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from gradlens.data.sources import ImageSet, open_source
from gradlens.records import Sample
from gradlens.runtime import Runtime, cache_dir
from gradlens.shift import intervals, shortcut, store
from gradlens.shift.explanation_shift import balanced
from gradlens.shift.predict import predict
from gradlens.workflows.measure.analyses import ANALYSES, Outcome, Subject
from gradlens.workflows.measure.computed import _model_info, _set_info
from gradlens.workflows.measure.evidence import Evidence, Request
from gradlens.workflows.measure.score import score
from gradlens.zoo import checkpoints

ZOO = Path(__file__).resolve().parent.parent / "checkpoints"
FACTORS = {"background": "sea", "body": "ferry", "flip": 0, "angle": 1.5, "color": "#405060", "effects": None}
TWINS = ("convnext", "custom_cnn", "densenet", "googlenet", "mobilenet", "resnet", "swin", "vgg", "vit")

# --- which pairs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "only"),
    [
        ({"background": "street"}, True),
        ({}, False),
        ({"background": "street", "body": "yacht"}, False),
        ({"background": "street", "angle": 1.6}, False),
        ({"background": "street", "color": "#465060"}, True),  # shines through the edge
        ({"background": "street", "color": "#605060"}, False),  # another light
        ({"background": "street", "effects": "night:1"}, False),
        ({"background": None}, False),
        ({"background": "street", "extra": 1}, False),
    ],
)
def test_only_the_background_changed(change: dict[str, object], only: bool) -> None:
    one, other = Sample("a", factors=FACTORS), Sample("b", factors=FACTORS | change)
    assert shortcut.only_background(one, other) is only
    assert shortcut.only_background(other, one) is only


def test_a_background_is_the_class_that_stands_before_it() -> None:
    seen = [("sea", 0)] * 7 + [("sea", 1)] * 3 + [("street", 2)] * 4 + [("park", 0), ("park", 1), ("park", 2)]
    samples = [Sample(str(i), label, factors={"background": b}) for i, (b, label) in enumerate(seen)]
    samples += [Sample("x", None, factors={"background": "sea"}), Sample("y", 1)]
    assert shortcut.own_class(samples) == {"sea": 0, "street": 2}  # nobody has half of the park
    assert shortcut.told_by_background(samples) == (12, 17)
    assert shortcut.told_by_background([]) == (0, 0)


# --- what a swap does ------------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_swap_is_paired_newcombe_and_mcnemar(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    right, after, lured, was, now = rng.random((5, n)) < rng.random((5, 1))
    s = shortcut.swap(right, after, lured, was, now)
    cells = [int(x.sum()) for x in (right & after, right & ~after, ~right & after, ~right & ~after)]
    assert (s.low, s.high) == pytest.approx(intervals.newcombe_paired(cells[0], cells[1], cells[2], cells[3]))
    assert s.loss == pytest.approx(right.mean() - after.mean())
    assert s.p == pytest.approx(binomtest(cells[1], cells[1] + cells[2]).pvalue if cells[1] + cells[2] else 1)
    assert s.low <= s.loss <= s.high
    assert s.n_lured == lured.sum()
    if lured.any():
        assert s.gain == pytest.approx(now[lured].mean() - was[lured].mean())
        assert s.gain_low <= s.gain <= s.gain_high
    turned = rng.permutation(n)
    assert shortcut.swap(right[turned], after[turned], lured[turned], was[turned], now[turned]) == s or np.isnan(s.gain)


def bits(k: int, n: int = 100) -> np.ndarray:
    return np.arange(n) < k


@pytest.mark.parametrize(
    ("after", "follows", "verdict"),
    [
        (40, 60, "rests on the background"),
        (40, 0, "undecided"),  # it loses, but its answers do not go where the background points
        (100, 0, "does not rest on the background"),
        (94, 5, "undecided"),
    ],
)
def test_the_verdict_needs_a_loss_that_follows_the_background(after: int, follows: int, verdict: str) -> None:
    every = bits(100)
    assert shortcut.swap(every, bits(after), every, ~every, bits(follows)[::-1]).verdict == verdict
    with pytest.raises(ValueError, match="at least one pair"):
        shortcut.swap(*(every[:0],) * 5)


def test_of_two_models_the_one_that_loses_more() -> None:
    every = bits(100)
    one = shortcut.loss_difference(every, bits(50), every, bits(95))
    assert one.points_to == "A"
    assert one.difference == pytest.approx(0.45)
    other = shortcut.loss_difference(every, bits(95), every, bits(50))
    assert (other.points_to, other.difference) == ("B", pytest.approx(-0.45))
    same = shortcut.loss_difference(every, bits(95), every, bits(95))
    assert (same.points_to, same.low, same.high) == ("undecided", 0, 0)
    # a slow second version of the interval
    rng = np.random.default_rng(0)
    values = bits(95).astype(float) - bits(50)
    slow = [rng.choice(values, 100).mean() for _ in range(4000)]
    assert (one.low, one.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.02)


# --- the committed models --------------------------------------------------------------------------------------------


def subject_of(names: list[str], scenes: int, maps: int, analyses: tuple[str, ...] = ()) -> Subject:
    """A scored evaluation of committed models on some scenes of the test set, on their own and another background."""
    runtime = Runtime(device="cpu", quiet=True)
    home, away = (open_source(name, runtime=runtime) for name in ("vehicles-test", "vehicles-context"))
    assert home.classes is not None
    by_class: dict[str, list[str]] = {}
    for s in home.samples:
        assert s.label is not None
        by_class.setdefault(home.classes[s.label], []).append(s.id)
    chosen = set(balanced(by_class, scenes))
    sets: list[ImageSet] = [
        home.subset([i for i, s in enumerate(home.samples) if s.id in chosen]),
        replace(away.subset([i for i, s in enumerate(away.samples) if s.pair in chosen]), role="probe"),
    ]
    models = [checkpoints.load(name, zoo=ZOO) for name in names]
    request = Request(out=Path(), models=tuple(names), resamples=500, cam_images=maps, analyses=analyses)
    evidence = Evidence([_model_info(m) for m in models], _set_info(sets[0]), [_set_info(sets[1])], {})
    evidence.images = {s.name: s for s in sets}
    evidence.networks = {m.name: m for m in models}
    for s in sets:
        for m, answer in zip(
            models, predict(models, s, runtime, store.OutputStore(cache_dir() / "outputs")), strict=True
        ):
            evidence.predictions[m.name, s.name] = answer.predictions
    return Subject(evidence, score(evidence, request, runtime), request, runtime)


@pytest.fixture(scope="module")
def twins() -> tuple[Subject, dict[str, Outcome]]:
    names = [f"{collection}/{name}" for name in TWINS for collection in ("vehicles", "twins")]
    subject = subject_of(names, scenes=48, maps=24)
    settled: dict[str, Outcome] = {}
    for name in ("explanations", "shortcut"):
        settled[name] = ANALYSES[name].of(replace(subject, settled=settled))
    return subject, settled


def test_of_twins_the_one_that_was_trained_with_the_shortcut_is_named(
    twins: tuple[Subject, dict[str, Outcome]],
) -> None:
    rows = twins[1]["shortcut"].tables["shortcut_pairs.csv"][1]
    assert {r["model_a"].rpartition("/")[2] for r in rows} == set(TWINS)
    for column, hits, misses in (("by_predictions", 9, 0), ("by_maps", 6, 0), ("rests_on_the_background", 6, 0)):
        named = [r[column] for r in rows]
        assert sum(n.startswith("vehicles/") for n in named) >= hits, column
        assert sum(n.startswith("twins/") for n in named) <= misses, column
    assert all(r["n_maps"] >= 18 for r in rows)


def test_each_model_is_judged_on_its_own(twins: tuple[Subject, dict[str, Outcome]]) -> None:
    rows = twins[1]["shortcut"].tables["shortcut.csv"][1]
    verdicts = {r["model"]: r["verdict"] for r in rows}
    assert all(verdicts[f"vehicles/{name}"] == "rests on the background" for name in TWINS)
    assert not any(verdicts[f"twins/{name}"] == "rests on the background" for name in TWINS)
    for r in rows:
        assert r["low"] <= r["loss"] <= r["high"]
        assert r["n"] == 48
        if r["model"].startswith("vehicles/"):
            assert r["follows"] > r["follows_before"]
    said = " ".join(twins[1]["shortcut"].findings)
    assert "built alike, vehicles/densenet rests on the background" in said
    assert "In vehicles-test the background alone tells the class of" in said


def test_maps_move_with_the_background_only_where_models_read_it(twins: tuple[Subject, dict[str, Outcome]]) -> None:
    rows = twins[1]["explanations"].tables["explanations.csv"][1]
    alike = {r["model"]: r for r in rows if r["measure"] == "map-similarity" and r["read"]}
    for name in TWINS:
        assert alike[f"vehicles/{name}"]["probe_value"] < alike[f"twins/{name}"]["probe_value"]
    for r in rows:
        assert r["n"] + r["undefined"] == 24 or r["measure"] == "blank"
        if np.isfinite(r["change"]):
            assert r["low"] <= r["change"] <= r["high"]
            assert r["change"] == pytest.approx(r["probe_value"] - r["in_dist_value"])
    (across,) = [
        r for r in twins[1]["explanations"].tables["explanation_models.csv"][1] if r["feature"] == "1 - map-similarity"
    ]
    assert across["n"] == 18
    assert across["low"] <= across["rho"] <= across["high"]
    assert across["rho"] > 0.2  # models whose maps move more lose more
    assert "Across 18 models" in " ".join(twins[1]["explanations"].findings)


def test_every_depth_and_measure_has_its_row(twins: tuple[Subject, dict[str, Outcome]]) -> None:
    outcome = twins[1]["explanations"]
    for file, (columns, rows) in outcome.tables.items():
        assert rows, file
        assert all(set(columns) == set(r) for r in rows), file
        json.dumps([[str(v) for v in r.values()] for r in rows])
    rows = outcome.tables["explanations.csv"][1]
    measures = {r["measure"] for r in rows}
    assert measures == {
        "energy", "object", "excess", "entropy", "spread", "centre-x", "centre-y", "centre-shift", "map-similarity",
        "mean-map-similarity", "blank",
    }  # fmt: skip
    per_model = {m: [r for r in rows if r["model"] == m] for m in twins[0].models}
    assert all(len({r["depth"] for r in own}) * 11 == len(own) for own in per_model.values())
    for r in rows:
        if r["measure"] == "excess":
            match = {x["measure"]: x for x in rows if (x["model"], x["depth"]) == (r["model"], r["depth"])}
            assert r["change"] == pytest.approx(match["energy"]["change"] - match["object"]["change"], abs=1e-6)


def test_the_figures_are_drawn(twins: tuple[Subject, dict[str, Outcome]]) -> None:
    for name in ("explanations", "shortcut"):
        assert [stem for stem, draw in twins[1][name].figures if draw().get_figwidth() > 2]


def test_published_predictions_say_nothing_about_backgrounds() -> None:
    subject = subject_of(["vehicles/shufflenet"], scenes=8, maps=4)
    without = replace(subject.evidence, images={}, networks={})
    assert "run the models" in ANALYSES["shortcut"].of(replace(subject, evidence=without)).not_done
    few = ANALYSES["shortcut"].of(subject)
    assert "no probe set has 20 pairs" in few.not_done
