"""``gradlens shift-eval --unlabelled`` and ``--with drift`` end to end, on small random models and images."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.text import Text
from PIL import Image

from gradlens.data.folders import open_folder
from gradlens.errors import InputError, NotFoundError
from gradlens.figures.drift import DepthPoint
from gradlens.figures.drift import drift as drift_figure
from gradlens.figures.estimates import estimates as estimates_figure
from gradlens.figures.unlabelled import unlabelled as unlabelled_figure
from gradlens.records import Preprocess
from gradlens.runtime import Runtime
from gradlens.shift.unlabelled import track_record
from gradlens.workflows.measure import ANALYSES, Measurement, Request, Subject, analyses, leave, shift_eval
from gradlens.workflows.measure.analyses import chosen
from gradlens.workflows.measure.analyses import drift as drift_analysis
from gradlens.workflows.measure.features import depths, features, in_groups
from gradlens.workflows.measure.plan import plan
from gradlens.zoo import checkpoints
from gradlens.zoo.build import build
from gradlens.zoo.cards import Card, Preprocessing

CLASSES = ("ash", "beech", "cedar", "dogwood")
PER_CLASS = 15
MODELS = ("trees/one", "trees/three", "trees/two")
OWN = ("unlabelled", "ood", "drift")  # other analyses have tests of their own
RUNTIME = Runtime(device="cpu", quiet=True)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models; a test set, a darker one, and a flat folder of other images with a broken one among them."""
    root = tmp_path_factory.mktemp("place")
    preprocess = Preprocessing.of(Preprocess((3, 16, 16)))
    arguments = {"widths": [4, 4, 4, 4]}
    for seed, name in enumerate(("one", "two", "three")):
        torch.manual_seed(seed)
        module = build("gradlens:custom_cnn", arguments, len(CLASSES))
        for parameter in module.parameters():
            parameter.data *= 3  # random networks answer with one class for everything unless they are driven hard
        card = Card(builder="gradlens:custom_cnn", arguments=arguments, classes=CLASSES, preprocess=preprocess)
        checkpoints.save(root / "zoo" / "trees" / name, module, card)
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        for i in range(PER_CLASS):
            color = np.array([60 * label, 255 - 60 * label, 100])
            pixels = (color + rng.normal(0, 60, size=(20, 20, 3))).clip(0, 255).astype(np.uint8)
            save(root / "grove" / name / f"{i:02d}.png", pixels)
            save(root / "dark" / name / f"{i:02d}.png", pixels // 2)
            save(root / "web" / f"{name}-{i:02d}.png", 255 - pixels // 2)
    (root / "web" / "broken.png").write_bytes(b"no picture")
    return root


def run(place: Path, out: str, **more: Any) -> Measurement:
    request = Request(out=place / out, resamples=100, command="gradlens shift-eval", **more)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(leave, "draw", lambda *_: None)
        patch.setattr(analyses, "chosen", lambda r: [a for a in chosen(r) if a.name in OWN])
        return shift_eval(request, RUNTIME)


@pytest.fixture(scope="module")
def finished(place: Path) -> Measurement:
    """One run with everything: a labelled probe set, a set without labels, drift."""
    return run(
        place,
        "run",
        models=("trees/*",),
        zoo=Path("zoo"),
        in_dist="grove",
        probes=("dark",),
        unlabelled=("web",),
        analyses=("drift",),
    )


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


# --------------------------------------------------------------------------------------------- sets without labels


def test_an_unlabelled_set_is_predicted_and_never_scored(place: Path, finished: Measurement) -> None:
    for name in ("summary", "gaps", "per_class", "pairs"):
        assert not any("web" in row.values() for row in table(place / "run" / f"{name}.csv")), name
    stored = pq.read_table(place / "run" / "predictions" / "trees--one--web.parquet")
    assert stored["label"].to_pylist() == [-1] * len(CLASSES) * PER_CLASS
    assert len(stored["logits"][0]) == len(CLASSES)
    (broken,) = table(place / "run" / "skipped.csv")
    assert broken["path"].endswith("broken.png")
    (told,) = finished.document["unlabelled"]
    assert (told["name"], told["role"], told["n"]) == ("web", "unlabelled", len(CLASSES) * PER_CLASS + 1)


def test_every_way_is_tried_on_every_set_and_says_how_far_off_it_was(place: Path, finished: Measurement) -> None:
    rows = table(place / "run" / "estimates.csv")
    ways = {(r["method"], r["probabilities"]) for r in rows}
    assert len(rows) == len(MODELS) * 2 * len(ways)
    accuracy = {
        r["model"]: float(r["value"])
        for r in table(place / "run" / "summary.csv")
        if (r["dataset"], r["metric"]) == ("dark", "accuracy")
    }
    for r in rows:
        assert r["assumption"]
        assert r["interval"]
        if r["dataset"] == "web":
            assert r["accuracy"] == r["error"] == ""
        else:
            assert float(r["accuracy"]) == pytest.approx(accuracy[r["model"]])
        if r["estimate"] and r["accuracy"]:
            assert float(r["error"]) == pytest.approx(float(r["estimate"]) - float(r["accuracy"]))
    record = {(r["method"], r["probabilities"]): r for r in table(place / "run" / "track_record.csv")}
    assert set(record) == ways
    for way, r in record.items():
        errors = [abs(float(e["error"])) for e in rows if (e["method"], e["probabilities"]) == way and e["error"]]
        assert int(r["estimates"]) == len(errors)
        if errors:
            assert float(r["mae"]) == pytest.approx(np.mean(errors))
            beside = {
                e["track_record_mae"] for e in rows if (e["method"], e["probabilities"], e["dataset"]) == (*way, "web")
            }
            assert [float(x) for x in beside] == pytest.approx([float(r["mae"])])
    assert record["nuclear_norm", "raw"]["interval"].startswith("not defined: a line through labelled sets needs")


def test_findings_speak_of_the_set_without_labels(finished: Measurement) -> None:
    outcome = finished.outcomes["unlabelled"]
    assert outcome.findings[0].startswith("web (61 images without labels): trees/")
    assert "labelled probe set of this run" in outcome.findings[0]
    told = [
        1 - float(r["fpr95_in_dist_positive"])
        for r in finished.outcomes["ood"].tables["ood.csv"][1]
        if (r["probe"], r["score"]) == ("web", "msp")
    ]
    assert outcome.findings[1].startswith(f"{100 * np.mean(told):.1f} % of the images of web look less familiar")
    assert any(a.question == 2 and "web" in a.text for a in outcome.answers)
    assert {stem for stem, _ in outcome.figures} == {"estimates", "unlabelled-web"}
    assert "web (61 images" in finished.text


def test_the_same_files_give_the_same_estimates(place: Path, finished: Measurement) -> None:
    files = tuple(sorted((place / "run" / "predictions").iterdir(), reverse=True))
    again = run(place, "again", predictions=files, models=MODELS)
    assert [s.name for s in again.evidence.unlabelled] == ["web"]  # a run wrote that it has no labels
    for name in ("estimates.csv", "track_record.csv", "ood.csv"):
        first, second = ((place / out / name).read_bytes() for out in ("run", "again"))
        assert first == second, name


def test_labels_of_a_set_given_as_unlabelled_are_not_looked_at(place: Path, finished: Measurement) -> None:
    files = tuple((place / "run" / "predictions").iterdir())
    hidden = run(place, "hidden", predictions=files, in_dist="grove", unlabelled=("web", "dark"))
    assert "dark: 60 labels are not looked at, because it was given as unlabelled" in hidden.evidence.notes
    assert not hidden.evidence.probes
    before = {
        (r["model"], r["method"], r["probabilities"]): r["estimate"]
        for r in table(place / "run" / "estimates.csv")
        if r["dataset"] == "dark" and r["method"] != "nuclear_norm"
    }
    for r in table(place / "hidden" / "estimates.csv"):
        if r["dataset"] == "dark" and r["method"] != "nuclear_norm":
            assert r["estimate"] == before[r["model"], r["method"], r["probabilities"]]
    assert "no labelled probe set tells which to trust" in hidden.outcomes["unlabelled"].findings[0]


def test_labels_of_a_folder_given_as_unlabelled_are_not_looked_at(place: Path) -> None:
    hidden = run(
        place,
        "hidden-folder",
        models=("trees/one",),
        zoo=Path("zoo"),
        in_dist="grove",
        probes=("dark",),
        unlabelled=("./grove/../web", "grove/ash"),
    )
    assert [s.name for s in hidden.evidence.unlabelled] == ["web", "ash"]
    assert all((p.labels == -1).all() for (_, d), p in hidden.evidence.predictions.items() if d in ("web", "ash"))


def test_the_plan_counts_the_images_without_labels(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    request = Request(
        Path(), ("trees/one",), Path("zoo"), in_dist="grove", probes=("dark",), unlabelled=("web",), fresh=True
    )
    assert {s.name: s.images for s in plan(request, RUNTIME).sets} == {"grove": 60, "dark": 60, "web": 61}


def test_names_that_clash_or_are_unknown_are_refused(place: Path, finished: Measurement) -> None:
    files = tuple((place / "run" / "predictions").iterdir())
    common: dict[str, Any] = {"models": ("trees/one",), "zoo": Path("zoo"), "in_dist": "grove", "probes": ("dark",)}
    with pytest.raises(InputError, match="a set of this run is called dark already"):
        run(place, "clash", unlabelled=("dark",), **common)
    with pytest.raises(NotFoundError, match="no data set named 'wob'"):
        run(place, "unknown", predictions=files, in_dist="grove", unlabelled=("wob",))
    with pytest.raises(InputError, match="to be scored and was given with --unlabelled too"):
        run(place, "both", predictions=files, in_dist="grove", probes=("dark",), unlabelled=("dark",))
    with pytest.raises(InputError, match="estimates without labels come with --unlabelled web"):
        run(place, "probe", models=("trees/one",), zoo=Path("zoo"), in_dist="grove", probes=("web",))


# --------------------------------------------------------------------------------------------- unfamiliar images, drift


def test_ood_names_its_conventions(place: Path, finished: Measurement) -> None:
    rows = table(place / "run" / "ood.csv")
    assert {(r["model"], r["probe"], r["score"]) for r in rows} == {
        (m, p, s) for m in MODELS for p in ("dark", "web") for s in ("msp", "entropy", "max_logit", "energy")
    }
    for r in rows:
        assert float(r["low"]) <= float(r["auroc"]) <= float(r["high"])
        assert 0 <= float(r["fpr95_in_dist_positive"]) <= 1
        assert 0 <= float(r["fpr95_ood_positive"]) <= 1
        assert int(r["n_in_dist"]) == int(r["n_probe"]) == 60


def test_drift_has_every_statistic_at_every_depth(place: Path, finished: Measurement) -> None:
    rows = table(place / "run" / "drift.csv")
    depth_names = {r["depth"] for r in rows if r["model"] == "trees/one"}
    assert drift_analysis.OUTPUTS in depth_names
    assert len(rows) == len(MODELS) * 2 * ((len(depth_names) - 1) * 6 + 1)
    for r in rows:
        assert r["value"]
        assert r["floor"]
        assert r["paired"] == "false"
        assert r["p"] or r["test"].startswith("none")
        assert r["low"] or r["interval"].startswith("none")
        if r["p"]:
            assert float(r["p"]) <= float(r["p_bh"]) <= 1
    last = [r for r in rows if r["statistic"] == "domain_error" and r["probe"] == "web"]
    assert min(float(r["value"]) for r in last) < 0.2  # inverted colours are easily told from the others
    outcome = finished.outcomes["drift"]
    assert "web" in outcome.findings[0]
    assert [a.question for a in outcome.answers] == [9]
    assert {r["score"] for r in table(place / "run" / "ood_features.csv")} == {"mahalanobis", "knn"}


def test_features_are_the_means_of_what_the_depths_give(place: Path) -> None:
    model = checkpoints.load("trees/one", zoo=place / "zoo")
    points, without = depths([model], RUNTIME)
    assert not without
    images = open_folder(place / "grove")
    told = features([model], points, images, RUNTIME)["trees/one"]
    assert list(told.ids) == sorted(s.id for s in images.samples)
    turned = features([model], points, images.subset(np.arange(len(images))[::-1]), RUNTIME)["trees/one"]
    point = points["trees/one"][-1]
    seen: list[torch.Tensor] = []
    handle = model.module.get_submodule(point.path).register_forward_hook(lambda *args: seen.append(args[2]))
    from gradlens.data.preprocess import to_tensor

    one = next(i for i, s in enumerate(images.samples) if s.id == told.ids[7])
    with torch.no_grad():
        model.module.eval()(to_tensor(model.preprocess, images.read(one))[None])
    handle.remove()
    assert told.by_depth[point.name][7] == pytest.approx(seen[0].mean((2, 3))[0].numpy(), rel=1e-4, abs=1e-5)
    for depth, values in told.by_depth.items():
        assert turned.by_depth[depth] == pytest.approx(values, rel=1e-4, abs=1e-5)


def test_models_are_taken_in_groups_that_fit(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [checkpoints.load(name, zoo=place / "zoo") for name in MODELS]
    points, _ = depths(models, RUNTIME)
    each = sum(p.shape[0] for p in points[MODELS[0]])
    monkeypatch.setattr("gradlens.workflows.measure.features.ROOM", 2 * each * 50)
    assert [[m.name for m in g] for g in in_groups(models, points, 50)] == [list(MODELS[:2]), [MODELS[2]]]
    assert len(list(in_groups(models, points, 10**9))) == 3


def test_pairs_are_found_by_id_and_one_image_per_scene() -> None:
    x, y = np.arange(24.0).reshape(12, 2), np.arange(26.0).reshape(13, 2)
    partner = np.array([*range(12), 3])
    made = drift_analysis._clouds(x, y, partner)
    assert made.paired
    assert made.y.tolist() == y[:12].tolist()
    assert not drift_analysis._clouds(x, y, np.where(np.arange(13) < 3, -1, partner)).paired
    assert not drift_analysis._clouds(x, y, None).paired


def test_drift_is_refused_without_networks(place: Path, finished: Measurement) -> None:
    files = tuple((place / "run" / "predictions").iterdir())
    with pytest.raises(InputError, match="--with drift needs networks"):
        run(place, "no-networks", predictions=files, analyses=("drift",))


@pytest.mark.parametrize("name", ["unlabelled", "ood", "drift"])
def test_without_another_set_nothing_is_done_and_it_says_why(name: str, finished: Measurement) -> None:
    evidence = replace(finished.evidence, probes=[], unlabelled=[], unlabelled_images={})
    subject = Subject(evidence, finished.findings, Request(out=Path("nowhere"), resamples=100), RUNTIME)
    assert "--probe SOURCE or --unlabelled SOURCE" in ANALYSES[name].of(subject).not_done


def test_without_logits_what_needs_them_says_so(finished: Measurement) -> None:
    hard = {key: replace(p, logits=None) for key, p in finished.evidence.predictions.items()}
    evidence = replace(finished.evidence, predictions=hard)
    subject = Subject(evidence, finished.findings, Request(out=Path("nowhere"), resamples=100), RUNTIME)
    assert "hard predictions" in ANALYSES["ood"].of(subject).not_done
    outcome = ANALYSES["unlabelled"].of(subject)
    rows = outcome.tables["estimates.csv"][1]
    undefined = {r["method"] for r in rows if math.isnan(r["estimate"])}
    assert {"cot", "em", "doc", "nuclear_norm"} <= undefined
    assert not {"agreement", "aline_s", "aline_d", "in_dist_accuracy"} & undefined
    assert all("hard predictions" in r["interval"] for r in rows if r["method"] == "em")


# --------------------------------------------------------------------------------------------- figures


def test_figures_refuse_nothing_and_draw_the_rest(finished: Measurement) -> None:
    with pytest.raises(ValueError, match="no drift"):
        drift_figure([])
    with pytest.raises(ValueError, match="no estimate"):
        estimates_figure([], track_record([]))
    with pytest.raises(ValueError, match="no estimate"):
        unlabelled_figure("web", [], [])
    one = drift_figure([DepthPoint("m", "a", "b", "d", 0.5, 0.4, 0.31, 0.52, True)])
    (ax,) = one.axes
    (bars,) = (c for c in ax.collections if isinstance(c, LineCollection))
    assert [segment.tolist() for segment in bars.get_segments()] == [[[0.5, 0.31], [0.5, 0.52]]]
    assert any("intervals" in t.get_text() for t in one.findobj(Text))
