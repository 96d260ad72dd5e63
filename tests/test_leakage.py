"""Leakage: scores with and without repeats, training data found by the card, and what a run says about it."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from shift_samples import draw, told
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint
from test_duplicates import jpeg, part, scene

from gradlens.cli.main import main
from gradlens.data import probe_sets
from gradlens.data.folders import open_folder
from gradlens.data.probe_sets import Manifest
from gradlens.data.sources import open_source
from gradlens.data.splits import split
from gradlens.records import LoadedModel, Preprocess
from gradlens.runtime import Runtime
from gradlens.shift import gap, leakage
from gradlens.workflows.measure import analyses, leave, published
from gradlens.workflows.measure.training_data import of_models, uses
from gradlens.zoo import checkpoints
from gradlens.zoo.build import build
from gradlens.zoo.cards import Card, Preprocessing, Training

QUIET = Runtime(quiet=True)
CLASSES = ("ash", "beech")
PER_CLASS = 8
SHIFT_EVAL = ("shift-eval", "--zoo", "zoo", "--resamples", "100", "--device", "cpu")

# --- statistics ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**16), st.sets(st.integers(0, 39), max_size=40))
@settings(max_examples=30, deadline=None)
def test_parts_add_up_and_agree_with_statsmodels(seed: int, chosen: set[int]) -> None:
    p = draw(40, 4, seed, noise=2.0)
    ids = {p.ids[i] for i in chosen}
    leaked, clean = leakage.only(p, ids), leakage.without(p, ids)
    assert sorted(leaked.ids + clean.ids) == sorted(p.ids)
    right = p.predicted == p.labels
    for one in (p, leaked, clean):
        e = leakage.accuracy(one)
        own = np.array([i in one.ids for i in p.ids])
        assert e.n == own.sum()
        if e.n:
            assert e.value == right[own].mean()
            low, high = proportion_confint(right[own].sum(), e.n, method="beta")
            assert (e.low, e.high) == pytest.approx((low if e.value else 0, high if e.value < 1 else 1))
        else:
            assert not e.defined
            assert "no image" in e.interval
    a = leakage.advantage(p, ids)
    if leaked.ids and clean.ids:
        counts = int((leaked.predicted == leaked.labels).sum()), int((clean.predicted == clean.labels).sum())
        assert a.value == pytest.approx(counts[0] / len(leaked) - counts[1] / len(clean))
        ends = confint_proportions_2indep(counts[0], len(leaked), counts[1], len(clean), method="newcomb")
        assert (a.low, a.high) == pytest.approx(ends)
    else:
        assert not a.defined


def test_advantage_names_the_empty_side() -> None:
    p = told([0, 1, 1], [0, 1, 0], ["a", "b"])
    assert "no labelled image has leaked" in leakage.advantage(p, set()).interval
    assert "every labelled image has leaked" in leakage.advantage(p, set(p.ids)).interval


def test_nothing_leaked_is_the_same_gap() -> None:
    a, b = draw(60, seed=1, dataset="test"), draw(50, seed=2, dataset="probe")
    usual = next(g for g in gap.gaps(a, b, paired=False) if (g.metric, g.label_space) == ("accuracy", "shared"))
    assert leakage.accuracy_gap(leakage.without(a, ()), leakage.without(b, {"other"}), paired=False) == usual


def test_without_keeps_rows_together() -> None:
    p = draw(20, seed=3, pairs=[f"p{i}" for i in range(20)])
    kept = leakage.without(p, {p.ids[0], p.ids[7]})
    assert kept.logits is not None
    assert kept.pairs is not None
    assert [int(q[1:]) for q in kept.pairs] == [i for i in range(20) if i not in (0, 7)]
    np.testing.assert_array_equal(kept.logits[6], p.logits[8])  # type: ignore[index]


# --- a place where images have leaked --------------------------------------------------------------------------------


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models; a training set; a test set; a probe set with four leaked images; a set paired with the test set.

    ``by-card`` was trained on all of the training set, ``by-split`` on what was not held out of it; ``unknown`` has no
    record. The web images 0 and 1 of each class are a crop and a JPEG of training images, 2 is one of a test image, 3
    repeats 4, all others are new.
    """
    root = tmp_path_factory.mktemp("leaky")
    sets = root / "probe_sets"
    for label, name in enumerate(CLASSES):
        train = [scene(1000 * label + i, 64) for i in range(PER_CLASS)]
        test = [scene(1000 * label + 100 + i, 64) for i in range(PER_CLASS)]
        web = [scene(1000 * label + 200 + i, 64) for i in range(PER_CLASS)]
        web[0], web[1], web[2] = part(train[0], 0.1, 0, 0.85), jpeg(train[1], 40), test[2][:, ::-1]
        web[3] = cv2.resize(web[4], (48, 48), interpolation=cv2.INTER_AREA)
        for i in range(PER_CLASS):
            save(sets / "trees-train" / name / f"{i}.png", train[i])
            save(sets / "trees-test" / name / f"{i}.png", test[i])
            save(sets / "trees-web" / name / f"{i}.png", web[i])
            save(sets / "trees-dark" / name / f"{i}.png", test[i] // 2)
    manifests = {
        "trees-train": {"role": "train", "shift": "none"},
        "trees-test": {"role": "test", "shift": "none"},
        "trees-web": {"role": "probe", "shift": "web", "filtered_by": ["by-card", "clip-*"]},
        "trees-dark": {"role": "probe", "shift": "dark", "paired_with": "trees-test"},
    }
    for name, fields in manifests.items():
        manifest = Manifest(schema=1, name=name, classes=list(CLASSES), **fields)
        (sets / name / "probe.toml").write_text(manifest.to_toml())
    rows = [f"{c}/{i}.png,{c},{c}/{i}.png,,," for c in CLASSES for i in range(PER_CLASS)]
    (sets / "trees-dark" / "images.csv").write_text("\n".join(["path,class,pair,severity,sha256,mask", *rows]) + "\n")
    arguments = {"widths": [4, 4, 4, 4]}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(probe_sets, "bundled", lambda name: root / "none")
        train_set = open_source("trees-train")
        rest, held = split(train_set, 0.25, 3)
        common = {"recipe": "trees", "epochs": 1, "seed": 0, "seconds": 1.0, "data": "trees-train"}
        data = {"train": "trees-train", "select_fraction": 0.25, "select_seed": 3}
        records = {
            "by-card": Training(**common, images=16, fingerprint=train_set.fingerprint),
            "by-split": Training(
                **common, images=len(rest), fingerprint=rest.fingerprint, select=held.name, select_images=len(held),
                select_fingerprint=held.fingerprint, settings={"data": data},
            ),
            "unknown": None,
        }  # fmt: skip
        for seed, (name, training) in enumerate(records.items()):
            torch.manual_seed(seed)
            module = build("gradlens:custom_cnn", arguments, len(CLASSES))
            card = Card(
                builder="gradlens:custom_cnn", arguments=arguments, classes=CLASSES,
                preprocess=Preprocessing.of(Preprocess((3, 16, 16))), training=training,
            )  # fmt: skip
            checkpoints.save(root / "zoo" / "trees" / name, module, card)
    return root


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    monkeypatch.setattr(probe_sets, "bundled", lambda name: place / "none")
    # what other analyses do and draw takes most of the time
    monkeypatch.setattr(leave.confusion, "confusion", lambda *_: Figure())
    monkeypatch.setattr(leave.gap_heatmap, "gap_heatmap", lambda *_: Figure())
    monkeypatch.setattr(leave.shift_scatter, "shift_scatter", lambda *_: Figure())
    only = {"leakage": analyses.ANALYSES["leakage"]}
    monkeypatch.setattr(analyses, "chosen", lambda request: [only[n] for n in request.analyses if n in only])
    return place


Run = Callable[..., Path]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    def call(*more: str, models: str = "trees/*") -> Path:
        out = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        with pytest.raises(SystemExit) as left:
            main([*SHIFT_EVAL, "--model", models, "--in-dist", "trees-test", "--out", str(out), *more])
        assert not left.value.code, capsys.readouterr().err
        return out

    return call


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def about(out: Path) -> dict[str, object]:
    return dict(json.loads((out / "run.json").read_text()))


def models() -> list[LoadedModel]:
    return [
        checkpoints.load(f"trees/{name}", zoo=Path("zoo"), weights=None, classes=None, offline=True)
        for name in ("by-card", "by-split", "unknown")
    ]


# --- what a card names -----------------------------------------------------------------------------------------------


def test_a_card_names_its_training_and_its_selection_set(here: Path) -> None:
    by_card, by_split, unknown = models()
    train_set, test_set = open_source("trees-train"), open_source("trees-test")
    rest, held = split(train_set, 0.25, 3)
    assert uses(by_card.card, train_set) == ("trained",)
    assert uses(by_split.card, train_set) == ("trained", "chosen")  # the whole of what it was split from
    assert uses(by_split.card, rest) == ("trained",)
    assert uses(by_split.card, held) == ("chosen",)
    assert uses(unknown.card, train_set) == uses(by_card.card, test_set) == uses(by_split.card, test_set) == ()


def test_training_sets_are_found_given_or_told_missing(here: Path, tmp_path: Path) -> None:
    by_card, by_split, unknown = models()
    found = of_models([by_card, by_split], (), QUIET)
    assert [(t.name, t.models, t.images is not None, t.claimed) for t in found] == [
        ("trees-train", ("trees/by-card", "trees/by-split"), True, False)
    ]
    (none,) = of_models([unknown], (), QUIET)
    assert none.images is None
    assert "give --train SOURCE" in none.reason
    (given_,) = of_models([by_card, by_split], ("trees-train",), QUIET)
    assert given_.models == ("trees/by-card", "trees/by-split")
    (claim,) = of_models([unknown], ("trees-test",), QUIET)
    assert (claim.claimed, claim.models) == (True, ("trees/unknown",))
    copy = tmp_path / "changed"
    shutil.copytree("probe_sets/trees-train", copy)
    (copy / "ash" / "0.png").unlink()
    card = {**by_card.card, "training": {**by_card.card["training"], "settings": {"data": {"train": str(copy)}}}}
    (other,) = of_models([replace(by_card, card=card)], (), QUIET)
    assert other.images is None
    assert "fingerprints differ" in other.reason
    card = {**by_card.card, "training": {**by_card.card["training"], "data": "nowhere"}}
    (gone,) = of_models([replace(by_card, card=card)], (), QUIET)
    assert gone.reason == "nowhere is not here; say where it is with --train SOURCE"


def test_sets_that_must_be_rendered_are_not_rendered_unasked(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "probe_sets" / "big").mkdir(parents=True)
    recipe = {"generator": "vehicles", "role": "train", "shift": "none", "per_class": 1, "seed": 5}
    text = Manifest(schema=1, name="big", kind="rendered", shift="none", classes=["car"], recipe=recipe).to_toml()
    (tmp_path / "probe_sets" / "big" / "probe.toml").write_text(text)
    by_card = models()[0]
    monkeypatch.chdir(tmp_path)
    card = {**by_card.card, "training": {**by_card.card["training"], "data": "big"}}
    (found,) = of_models([replace(by_card, card=card)], (), QUIET)
    assert found.images is None
    assert found.reason == "it has to be rendered first, which takes minutes: --train big"


# --- a run -----------------------------------------------------------------------------------------------------------


def test_a_run_finds_what_was_planted(here: Path, run: Run) -> None:
    out = run("--probe", "trees-web", "--probe", "trees-dark", "--with", "leakage", models="trees/by-*")
    pairs = {(r["kind"], r["set_a"], r["a"], r["b"]) for r in rows(out / "leakage.csv") if r["verified"] == "true"}
    planted = {("probe-train", "trees-web", f"{c}/{i}.png", f"{c}/{i}.png") for c in CLASSES for i in (0, 1)}
    planted |= {("probe-test", "trees-web", f"{c}/2.png", f"{c}/2.png") for c in CLASSES}
    planted |= {("within", "trees-web", f"{c}/3.png", f"{c}/4.png") for c in CLASSES}
    assert pairs == planted
    sets = {(r["kind"], r["set_a"]): r for r in rows(out / "leakage_sets.csv")}
    assert (sets["probe-train", "trees-web"]["leaked"], sets["probe-train", "trees-web"]["n_a"]) == ("4", "16")
    dark = sets["probe-test", "trees-dark"]
    assert int(dark["paired"]) >= 12  # its own scenes, found and not counted
    assert (dark["leaked"], dark["pairs"]) == ("0", "0")
    scores = {(r["model"], r["dataset"], r["images"], r["metric"]): r for r in rows(out / "leakage_scores.csv")}
    for model in ("trees/by-card", "trees/by-split"):
        every = scores[model, "trees-web", "all", "accuracy"]
        clean = scores[model, "trees-web", "without leaked", "accuracy"]
        assert (every["n"], clean["n"], scores[model, "trees-web", "leaked", "accuracy"]["n"]) == ("16", "10", "6")
        gaps = rows(out / "gaps.csv")
        usual = next(g for g in gaps if (g["model"], g["probe"], g["metric"]) == (model, "trees-web", "accuracy"))
        assert scores[model, "trees-web", "all", "accuracy gap"]["value"] == usual["gap"]
        in_dist = float(scores[model, "trees-test", "all", "accuracy"]["value"])
        assert float(scores[model, "trees-web", "without leaked", "accuracy gap"]["value"]) == pytest.approx(
            in_dist - float(clean["value"])
        )
    document = about(out)
    marks = "\n".join(document["marks"])  # type: ignore[arg-type]
    assert "trees-web: 4 of 16 images (25.0 %) are near-duplicates of trees-train" in marks
    assert "trees-web: 2 of 16 images (12.5 %) are near-duplicates of trees-test" in marks
    assert "trees-web: 2 of 16 images (12.5 %) repeat another image of the set" in marks
    analysis = next(a for a in document["analyses"] if a["name"] == "leakage")  # type: ignore[attr-defined]
    assert analysis["findings"][0].startswith("6 of 32 probe images (18.8 % [7.2, 36.4]) are near-duplicates")
    assert analysis["figures"] == ["leakage"]
    with Image.open(out / "figures" / "leakage.png") as sheet:
        assert sheet.width > sheet.height
    (answer,) = [r["answer"] for r in rows(out / "questions.csv") if r["question"] == "3"]
    assert (
        "trees-train (16 images; training set of trees/by-card, trees/by-split, as their cards say) was scanned"
        in answer
    )
    assert "No near-duplicate of it was found in trees-dark, trees-test: their images are unseen." in answer
    assert "4 of 16 images of trees-web are near-duplicates of it, the others are unseen." in answer


def test_images_are_called_new_only_where_training_data_was_scanned(here: Path, run: Run) -> None:
    out = run("--probe", "trees-dark", "--with", "leakage", models="trees/unknown")
    assert {r["kind"] for r in rows(out / "leakage_sets.csv")} == {"probe-test", "within"}
    text = (out / "run.json").read_text() + (out / "questions.csv").read_text() + (out / "leakage_sets.csv").read_text()
    assert "unseen" not in text
    assert "The training set of trees/unknown was not scanned" in text
    assert "0 of 16 probe images (0.0 % [0.0, 20.6]) are near-duplicates of images in trees-test (16 images)" in text
    out = run("--probe", "trees-web", "--train", "trees-train", models="trees/unknown")  # --train implies the analysis
    answer = next(r["answer"] for r in rows(out / "questions.csv") if r["question"] == "3")
    assert "training set of trees/unknown, as --train says" in answer
    assert {r["kind"] for r in rows(out / "leakage_sets.csv")} == {"probe-train", "test-train", "probe-test", "within"}


# --- question 8: chosen on this set? ---------------------------------------------------------------------------------


def test_sets_that_models_were_trained_or_chosen_on_are_marked(
    here: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sets = ["--in-dist", "trees-train", "--probe", "trees-test"]
    with pytest.raises(SystemExit):
        main([*SHIFT_EVAL, "--model", "trees/by-*", *sets, "--out", str(tmp_path / "run")])
    err = capsys.readouterr().err
    too_good = "its score there is too good, and so is every gap measured from it"
    assert f"trees/by-card was trained on trees-train: {too_good}" in err
    assert f"trees/by-split was trained on and was chosen by its score on trees-train: {too_good}" in err
    assert "trees-train has the role train" in err
    answer = next(r["answer"] for r in rows(tmp_path / "run" / "questions.csv") if r["question"] == "8")
    assert "trees-train (train)" in answer
    assert too_good in answer


def test_a_set_filtered_by_a_model_is_marked_also_from_its_predictions(here: Path, run: Run, tmp_path: Path) -> None:
    out = run("--probe", "trees-web")
    expected = (
        "trees-web was filtered by the predictions of by-card, clip-*: "
        "scores of trees/by-card there say how the images were chosen"
    )
    assert expected in about(out)["marks"]  # type: ignore[operator]
    files = sorted((out / "predictions").glob("*.parquet"))
    from gradlens.workflows.measure import Request
    from gradlens.workflows.measure.score import score

    request = Request(out=tmp_path / "again", predictions=tuple(files), in_dist="trees-test", resamples=100)
    evidence = published.from_files(request)
    assert next(s for s in evidence.sets if s.name == "trees-web").filtered_by == ("by-card", "clip-*")
    assert expected in score(evidence, request, QUIET).marks
    evidence.models = [m for m in evidence.models if m.name != "trees/by-card"]
    assert any("models that resemble them score differently" in m for m in score(evidence, request, QUIET).marks)


def test_plain_folders_are_filtered_by_nobody(here: Path) -> None:
    assert open_folder(Path("probe_sets/trees-web")).filtered_by == ()
    assert open_source("trees-web").filtered_by == ("by-card", "clip-*")
