"""``gradlens shift-eval`` end to end: small random models, small folders of images, every file of a run."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score

from gradlens.data import probe_sets
from gradlens.records import Preprocess
from gradlens.runtime import Runtime
from gradlens.shift import predict as predict_module
from gradlens.workflows.measure import ANALYSES, Request, leave, shift_eval
from gradlens.workflows.measure.computed import image_sets
from gradlens.workflows.run_folder import RunFolder
from gradlens.zoo import checkpoints
from gradlens.zoo.build import build
from gradlens.zoo.cards import Card, Preprocessing
from runs import Run

CLASSES = ("ash", "beech", "cedar", "dogwood", "elm", "fir")
TABLES = ("summary.csv", "gaps.csv", "per_class.csv", "confusion.csv", "pairs.csv", "skipped.csv")
PER_CLASS = 12


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo of two models, a test set, a probe set that is paired with it, and a probe set without two classes."""
    root = tmp_path_factory.mktemp("place")
    preprocess = Preprocessing.of(Preprocess((3, 16, 16)))
    arguments = {"widths": [4, 4, 4, 4]}
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        module = build("gradlens:custom_cnn", arguments, len(CLASSES))
        for parameter in module.parameters():
            parameter.data *= 3  # random networks answer with one class for everything unless they are driven hard
        card = Card(builder="gradlens:custom_cnn", arguments=arguments, classes=CLASSES, preprocess=preprocess)
        checkpoints.save(root / "zoo" / "trees" / name, module, card)
    rng = np.random.default_rng(0)
    sets = root / "probe_sets"
    pairs = []
    for label, name in enumerate(CLASSES):
        for i in range(PER_CLASS):
            color = np.array([40 * label, 255 - 40 * label, 100])
            pixels = (color + rng.normal(0, 90, size=(20, 20, 3))).clip(0, 255).astype(np.uint8)
            save(sets / "trees-test" / name / f"{i:02d}.png", pixels)
            save(sets / "trees-dark" / name / f"{i:02d}.png", pixels // 3)
            pairs.append(f"{name}/{i:02d}.png")
            if label < 4 and i < (PER_CLASS if label else 3):
                save(root / "web" / name / f"{i:02d}.png", 255 - pixels)
    for name, role, shift, pair in (
        ("trees-test", "test", "none", None),
        ("trees-dark", "probe", "dark", "trees-test"),
    ):
        manifest = probe_sets.Manifest(
            schema=1, name=name, role=role, shift=shift, classes=list(CLASSES), paired_with=pair
        )
        (sets / name / "probe.toml").write_text(manifest.to_toml(), encoding="utf-8")
        rows = [f"{p},{p.split('/')[0]},{p if pair else ''},,," for p in pairs]
        (sets / name / "images.csv").write_text("\n".join(["path,class,pair,severity,sha256,mask", *rows]) + "\n")
    return root


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without figures, which take most of the time."""
    monkeypatch.setattr(leave, "draw", lambda *_: None)


def options(out: Path, *more: object) -> list[object]:
    return ["--zoo", "zoo", "--model", "trees/*", "--resamples", 200, "--device", "cpu", "--out", out, *more]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def finished(place: Path) -> tuple[Path, dict[str, Any]]:
    """One complete run with everything, figures too, and its JSON document."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        request = Request(
            out=place / "run",
            models=("trees/*",),
            zoo=Path("zoo"),
            probes=("all", "web"),
            resamples=200,
            command="gradlens shift-eval",
        )
        return place / "run", shift_eval(request, Runtime(device="cpu", quiet=True)).document


# ------------------------------------------------------------------------------------------- the files of a run


def test_a_run_leaves_every_file_of_the_interface(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, document = finished
    for name in (*TABLES, "run.json", "report.html", "tables/gaps.md", "tables/gaps.tex", "tables/scores.md"):
        assert (folder / name).stat().st_size > 0, name
    for stem in ("gap_heatmap", "shift_scatter", "confusion-trees--one", "confusion-trees--two"):
        assert (folder / "figures" / f"{stem}.pdf").read_bytes()[:5] == b"%PDF-"
        with Image.open(folder / "figures" / f"{stem}.png") as image:
            assert round(image.info["dpi"][0]) == 300
            told = json.loads(image.info["gradlens"])
        assert told["command"] == "gradlens shift-eval"
        assert told["weights"] == {
            m["name"]: m["weights"] for m in json.loads((folder / "run.json").read_text())["models"]
        }
        assert [len(digest) for digest in told["weights"].values()] == [64, 64]
    assert {p.name for p in (folder / "predictions").iterdir()} == {
        f"trees--{model}--{dataset}.parquet"
        for model in ("one", "two")
        for dataset in ("trees-test", "trees-dark", "web")
    }
    about = json.loads((folder / "run.json").read_text())
    on_disk = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert set(about["files"]) == on_disk
    assert set(document["figures"]) == {f for f in on_disk if f.startswith("figures/")}


def test_summary_has_one_row_per_model_set_and_metric(finished: tuple[Path, dict[str, Any]]) -> None:
    rows = read(finished[0] / "summary.csv")
    assert list(rows[0]) == ["model", "dataset", "role", "n", "metric", "value", "low", "high", "interval"]
    keys = [(r["model"], r["dataset"], r["metric"]) for r in rows]
    assert len(set(keys)) == len(keys) == 2 * 3 * 13
    assert {(r["dataset"], r["role"]) for r in rows} == {
        ("trees-test", "test"),
        ("trees-dark", "probe"),
        ("web", "probe"),
    }


def test_scores_are_those_of_scikit_learn_on_the_written_predictions(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    rows = {(r["model"], r["dataset"], r["metric"]): r for r in read(folder / "summary.csv")}
    for model in ("trees/one", "trees/two"):
        for dataset in ("trees-test", "trees-dark", "web"):
            table = pq.read_table(folder / "predictions" / f"{model}--{dataset}.parquet".replace("/", "--")).to_pandas()
            logits = np.stack(table["logits"])
            assert logits.dtype == np.float32
            predicted = logits.argmax(axis=1)
            assert len(set(predicted)) > 1  # a model that always says the same would prove little
            expected = {
                "accuracy": accuracy_score(table["label"], predicted),
                # over the classes that have images: the label set that the module states
                "macro_f1": f1_score(
                    table["label"], predicted, average="macro", labels=sorted(set(table["label"])), zero_division=0
                ),
                "top5": np.mean([y in np.argsort(-z)[:5] for y, z in zip(table["label"], logits, strict=True)]),
            }
            for metric, value in expected.items():
                row = rows[model, dataset, metric]
                assert float(row["value"]) == pytest.approx(value, abs=1e-12)
                assert float(row["low"]) <= value <= float(row["high"])
                assert int(row["n"]) == len(table)


def test_gaps_are_the_difference_of_their_sides(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    rows = read(folder / "gaps.csv")
    assert list(rows[0]) == [
        *("model", "in_dist", "probe", "metric", "label_space", "gap", "low", "high", "interval", "paired"),
        *("in_dist_value", "probe_value", "n_in_dist", "n_probe", "classes", "mix", "within"),
    ]
    keys = [(r["model"], r["probe"], r["metric"], r["label_space"]) for r in rows]
    assert len(set(keys)) == len(keys) == 2 * (2 + 1) * 13  # the full label space only where the classes are equal
    for row in rows:
        if row["gap"]:
            assert float(row["gap"]) == pytest.approx(float(row["in_dist_value"]) - float(row["probe_value"]))
            assert float(row["low"]) <= float(row["gap"]) <= float(row["high"])
    accuracy = {
        (r["probe"], r["label_space"]): r for r in rows if (r["model"], r["metric"]) == ("trees/one", "accuracy")
    }
    assert accuracy["trees-dark", "shared"]["paired"] == "true"
    assert "paired" in accuracy["trees-dark", "shared"]["interval"]
    web = accuracy["web", "shared"]
    assert (web["paired"], web["classes"], web["n_in_dist"]) == ("false", "4", str(4 * PER_CLASS))
    assert web["interval"].startswith("Newcombe")
    assert ("web", "full") not in accuracy
    assert float(web["mix"]) + float(web["within"]) == pytest.approx(float(web["gap"]))


def test_undefined_metrics_have_no_value_and_a_reason(finished: tuple[Path, dict[str, Any]]) -> None:
    # four shared classes: top-5 would be 100 % whatever the model says
    rows = [r for r in read(finished[0] / "gaps.csv") if r["metric"] == "top5" and r["probe"] == "web"]
    assert rows
    for row in rows:
        assert (row["gap"], row["low"], row["high"]) == ("", "", "")
        assert "not defined" in row["interval"]


def test_pairs_and_classes(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    pairs = read(folder / "pairs.csv")
    assert [(r["model_a"], r["model_b"], r["dataset"]) for r in pairs] == [
        ("trees/one", "trees/two", s) for s in ("trees-test", "web", "trees-dark")
    ]
    for row in pairs:
        a, b = (
            pq.read_table(folder / "predictions" / f"{m}--{row['dataset']}.parquet".replace("/", "--")).to_pandas()
            for m in (row["model_a"], row["model_b"])
        )
        right_a, right_b = a["prediction"] == a["label"], b["prediction"] == b["label"]
        assert int(row["b"]) == (right_a & ~right_b).sum()
        assert int(row["c"]) == (~right_a & right_b).sum()
        assert float(row["agreement"]) == pytest.approx((a["prediction"] == b["prediction"]).mean())
    per_class = read(folder / "per_class.csv")
    assert list(per_class[0]) == ["model", "dataset", "class", "n", "precision", "recall", "f1"]
    assert len(per_class) == 2 * (6 + 6 + 4)


def test_costs_depths_cards_and_counts_are_those_of_the_models(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    costs = {r["model"]: r for r in read(folder / "costs.csv")}
    depths = read(folder / "depths.csv")
    assert list(costs) == ["trees/one", "trees/two"]
    for name, row in costs.items():
        loaded = checkpoints.load_folder(folder.parent / "zoo" / name, name)
        assert int(row["parameters"]) == sum(p.numel() for p in loaded.module.parameters())
        state = [*loaded.module.parameters(), *loaded.module.buffers()]
        assert int(row["size_bytes"]) == sum(t.numel() * t.element_size() for t in state)
        assert 0 < float(row["latency_ms"]) <= float(row["latency_p95_ms"])
        own = [r for r in depths if r["model"] == name]
        assert [r["path"] for r in own].count("") == 1  # the last stretch, to the logits
        assert own[-1]["depth"] == "head"
        assert sum(int(r["parameters"]) for r in own) == int(row["parameters"])
        assert sum(int(r["flops"]) for r in own) == int(row["flops"])
        card = json.loads((folder / "cards" / f"{name.replace('/', '--')}.json").read_text())
        assert card == {"model": name, **json.loads(json.dumps(dict(loaded.card)))}
    counts = read(folder / "confusion.csv")
    for row in read(folder / "per_class.csv"):
        own = [r for r in counts if all(r[k] == row[k] for k in ("model", "dataset", "class"))]
        assert sum(int(r["n"]) for r in own) == int(row["n"])
        right = sum(int(r["n"]) for r in own if r["predicted"] == r["class"])
        assert right / int(row["n"]) == pytest.approx(float(row["recall"]))


def test_run_json_says_what_was_run(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    about = json.loads((folder / "run.json").read_text())
    assert about["command"] == "gradlens shift-eval"
    assert about["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert (about["device"], about["precision"], about["seed"]) == ("cpu", "fp32", 0)
    digests = {m["name"]: m["weights"] for m in about["models"]}
    weights = folder.parent / "zoo" / "trees" / "one" / "model.safetensors"
    assert digests["trees/one"] == checkpoints.sha256_of(weights)
    assert len(about["in_dist"]["fingerprint"]) == 64
    assert about["timings"]["total"] > 0
    assert any("compared on 4 of 6 classes" in w and "elm" in w for w in about["warnings"])
    assert any("fewer than 10 images of ash (3)" in w for w in about["warnings"])
    newest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_mtime_ns)
    assert newest.name == "run.json"


def test_json_document(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, document = finished
    assert [m["name"] for m in document["models"]] == ["trees/one", "trees/two"]
    assert all(m["parameters"] > 0 for m in document["models"])
    assert [p["name"] for p in document["probe_sets"]] == ["web", "trees-dark"]
    assert len(document["summary"]) == len(read(folder / "summary.csv"))
    assert len(document["gaps"]) == len(read(folder / "gaps.csv"))


def test_tables_for_a_report(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, document = finished
    gap = next(g for g in document["gaps"] if (g["model"], g["probe"], g["metric"]) == ("trees/one", "web", "accuracy"))
    cell = f"{100 * gap['gap']:+.1f}".replace("-", "\N{MINUS SIGN}")
    markdown = (folder / "tables" / "gaps.md").read_text()
    assert cell in next(line for line in markdown.splitlines() if line.startswith("| one"))
    latex = (folder / "tables" / "gaps.tex").read_text()
    assert r"\toprule" in latex
    assert latex.count(r"\begin") == latex.count(r"\end")


# ------------------------------------------------------------------------------------------- what must not matter


@pytest.mark.usefixtures("undrawn")
def test_batch_size_workers_and_cache_leave_the_same_bytes(here: Path, tmp_path: Path, run: Run) -> None:
    runs = {
        "plain": ["--fresh"],
        "cached": [],
        "small": ["--fresh", "--batch-size", 3, "--workers", 1],
        "large": ["--fresh", "--batch-size", 400, "--workers", 4],
    }
    for name, more in runs.items():
        result = run(*options(tmp_path / name, "--probe", "all", "--probe", "web", *more))
        assert result.code == 0, result.err
    files = [*TABLES, "tables/gaps.md", *(f"predictions/trees--{m}--web.parquet" for m in ("one", "two"))]
    for name in list(runs)[1:]:
        for file in files:
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "plain" / file).read_bytes(), (name, file)


@pytest.mark.usefixtures("undrawn")
def test_a_second_run_computes_nothing(here: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(*options(tmp_path / "a", "--probe", "web")).code == 0

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a network ran")

    monkeypatch.setattr(predict_module, "_forward", never)
    assert run(*options(tmp_path / "b", "--probe", "web")).code == 0
    fresh = run(*options(tmp_path / "c", "--probe", "web", "--fresh"))
    assert fresh.code == 1
    assert "a network ran" in fresh.err


@pytest.mark.usefixtures("undrawn")
def test_a_rerun_in_one_folder_leaves_the_files_of_the_last_run_only(here: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert run(*options(tmp_path / "run", "--probe", "web")).code == 0
    assert run("--zoo", "zoo", "--model", "trees/one", "--out", tmp_path / "run", "--resamples", 200).code == 0
    assert {p.name for p in (tmp_path / "run" / "predictions").iterdir()} == {
        "trees--one--trees-test.parquet",
        "trees--one--trees-dark.parquet",
    }
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert {r["model"] for r in read(tmp_path / "run" / "summary.csv")} == {"trees/one"}


@pytest.mark.usefixtures("undrawn")
def test_predictions_of_a_run_scored_again_give_the_same_tables(
    here: Path, tmp_path: Path, run: Run, finished: tuple[Path, dict[str, Any]]
) -> None:
    files = sorted((finished[0] / "predictions").iterdir())
    given = [word for file in files for word in ("--predictions", file)]
    result = run(*given, "--out", tmp_path / "again", "--resamples", 200)
    assert result.code == 0, result.err
    for name in ("summary.csv", "gaps.csv", "per_class.csv"):
        again, first = (
            sorted(map(tuple, (r.values() for r in read(f / name)))) for f in (tmp_path / "again", finished[0])
        )
        assert again == first, name


# ------------------------------------------------------------------------------------------- what a person sees


@pytest.mark.usefixtures("undrawn")
def test_the_printed_table(here: Path, tmp_path: Path, run: Run) -> None:
    result = run(*options(tmp_path / "run", "--probe", "web"))
    lines = result.out.splitlines()
    assert max(map(len, lines)) <= 120
    summary = {(r["model"], r["dataset"], r["metric"]): r for r in read(tmp_path / "run" / "summary.csv")}
    for model in ("one", "two"):
        row = next(line for line in lines if line.startswith(model))
        values = summary[f"trees/{model}", "trees-test", "accuracy"]
        low, value, high = (f"{100 * float(values[k]):.1f}" for k in ("low", "value", "high"))
        assert f"{value} [{low}, {high}]" in row
    accuracies = [float(line.split()[1]) for line in lines if line.split()[:1] in (["one"], ["two"])]
    assert accuracies == sorted(accuracies, reverse=True)
    assert "72 images" in result.out
    assert "n = 48 v 39" in result.out
    assert "Newcombe (gaps)" in result.out
    assert "compared on 4 of 6 classes; no image of elm, fir in web" in result.err
    assert "ash (3)" in result.err


@pytest.mark.usefixtures("undrawn")
def test_json_is_one_document_on_stdout(here: Path, tmp_path: Path, run: Run) -> None:
    result = run(*options(tmp_path / "run", "--probe", "web", "--json"))
    document = json.loads(result.out)
    assert document["schema"] == 1
    assert {"models", "probe_sets", "summary", "gaps"} <= set(document)
    undefined = [g for g in document["gaps"] if g["metric"] == "top5"]
    assert undefined
    assert all(g["gap"] is None for g in undefined)


@pytest.mark.usefixtures("undrawn")
def test_the_command_is_recorded(here: Path, tmp_path: Path, run: Run) -> None:
    run(*options(tmp_path / "run", "--probe", "web", "--fresh"))
    command = json.loads((tmp_path / "run" / "run.json").read_text())["command"]
    assert command.startswith("gradlens shift-eval --model 'trees/*' --probe web")
    assert "--fresh" in command
    assert "--confidence" not in command


# ------------------------------------------------------------------------------------------- exit codes


@pytest.mark.usefixtures("undrawn")
def test_skipped_images_are_listed_and_strict_says_so(here: Path, tmp_path: Path, run: Run) -> None:
    shutil.copytree(here / "web", tmp_path / "torn")
    (tmp_path / "torn" / "ash" / "00.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "torn" / "ash" / "notes.txt").write_text("not an image")
    given = options(tmp_path / "run", "--probe", tmp_path / "torn")
    assert run(*given).code == 0
    strict = run(*given, "--strict")
    assert strict.code == 3
    skipped = read(tmp_path / "run" / "skipped.csv")
    assert list(skipped[0]) == ["path", "reason"]
    assert sorted(Path(r["path"]).name for r in skipped) == ["00.png", "notes.txt"]  # one row each, not one per model
    assert all(r["reason"] for r in skipped)
    summary = {(r["dataset"], r["metric"]): r for r in read(tmp_path / "run" / "summary.csv")}
    assert summary["torn", "accuracy"]["n"] == "38"
    assert "2 images were not scored" in strict.err


@pytest.mark.usefixtures("undrawn")
def test_limits_are_a_gate(here: Path, tmp_path: Path, run: Run, finished: tuple[Path, dict[str, Any]]) -> None:
    given = options(tmp_path / "run", "--probe", "web")
    rows = read(finished[0] / "gaps.csv")
    drop = max(
        float(r["gap"]) for r in rows if (r["probe"], r["metric"], r["label_space"]) == ("web", "accuracy", "shared")
    )
    met = run(*given, "--max-drop", max(0.0, drop) + 1e-9, "--min-accuracy", 0)
    assert met.code == 0, met.err
    missed = run(*given, "--min-accuracy", 0.99)
    assert missed.code == 4
    assert "below --min-accuracy 0.99" in missed.err
    assert (tmp_path / "run" / "run.json").exists()
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["limits"]["missed"]


def bad(tmp_path: Path) -> dict[str, tuple[list[object], str]]:
    flat = tmp_path / "flat"
    for i in range(3):
        save(flat / f"{i}.png", np.zeros((20, 20, 3), np.uint8))
    save(tmp_path / "Trees" / "Ash" / "0.png", np.zeros((20, 20, 3), np.uint8))
    save(tmp_path / "second" / "web" / "ash" / "0.png", np.zeros((20, 20, 3), np.uint8))
    (tmp_path / "p.csv").write_text("model,dataset,index,label,prediction\nm,d,0,0,1\nm,e,0,x,1\n")
    (tmp_path / "q.csv").write_text("model,dataset,index,label,prediction\nm,d,0,0,1\nm,e,0,1,1\nn,d,0,1,1\n")
    return {
        "a model nobody knows": (["--zoo", "zoo", "--model", "trees/onne"], "did you mean 'trees/one'"),
        "a set nobody knows": ([*options(tmp_path / "r"), "--probe", "trees-drak"], "trees-dark"),
        "an unlabelled probe": ([*options(tmp_path / "r"), "--probe", flat], "is unlabelled"),
        "no class in common": (
            [*options(tmp_path / "r"), "--probe", tmp_path / "Trees"],
            "trees/one and Trees have no class in common (they differ by upper and lower case only)",
        ),
        "two sets of one name": (
            [*options(tmp_path / "r"), "--probe", "web", "--probe", tmp_path / "second" / "web"],
            "two image sets are called web",
        ),
        "a predictions file that is none": (["--predictions", tmp_path / "p.csv"], "p.csv: "),
        "predictions of one model only": (["--predictions", tmp_path / "q.csv", "--in-dist", "d"], "of n on e"),
        "a data set the file has not": (["--predictions", tmp_path / "q.csv", "--in-dist", "dd"], "did you mean 'd'"),
        "no in-distribution set": (["--predictions", tmp_path / "q.csv"], "expected --in-dist"),
        "no such file": (["--predictions", tmp_path / "none.csv"], "no such file"),
        "an analysis nobody knows": ([*options(tmp_path / "r"), "--with", "drft"], "did you mean 'drift'"),
        "an analysis that needs networks": (
            ["--predictions", tmp_path / "q.csv", "--in-dist", "d", "--with", "drift"],
            "--with drift needs networks",
        ),
        "a map nobody knows": (
            [*options(tmp_path / "r"), "--with", "explanations", "--cam-method", "gradcm"],
            "did you mean 'gradcam'",
        ),
        "a corruption nobody knows": (
            [*options(tmp_path / "r"), "--with", "corruptions", "--corruption", "fogg"],
            "did you mean 'fog'",
        ),
        "random weights": (
            ["--model", "torchvision:resnet18", "--in-dist", "web", "--offline"],
            "weights",
        ),
    }


@pytest.mark.parametrize(
    "name",
    [
        "a model nobody knows",
        "a set nobody knows",
        "an unlabelled probe",
        "no class in common",
        "two sets of one name",
        "a predictions file that is none",
        "predictions of one model only",
        "a data set the file has not",
        "no in-distribution set",
        "no such file",
        "an analysis nobody knows",
        "an analysis that needs networks",
        "a map nobody knows",
        "a corruption nobody knows",
        "random weights",
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_1(here: Path, tmp_path: Path, run: Run, name: str) -> None:
    args, message = bad(tmp_path)[name]
    if "--out" not in args:
        args = [*args, "--out", tmp_path / "r"]
    result = run(*args)
    assert result.code == 1
    assert message in result.err
    assert "Traceback" not in result.err
    last = result.err.strip().splitlines()[-1]
    assert last.startswith("gradlens: ")
    assert result.out == ""
    assert not (tmp_path / "r" / "run.json").exists()


@pytest.mark.parametrize(
    "args",
    [["--shard", "0/2"], ["--shard", "3/2"], ["--max-drop", "7"], ["--confidence", "1"], ["--top-k", "1"], ["--nope"]],
)
def test_wrong_usage_is_exit_code_2(run: Run, args: list[str]) -> None:
    assert run(*args).code == 2


@pytest.mark.usefixtures("undrawn")
def test_a_training_set_as_in_distribution_side_is_marked(here: Path, tmp_path: Path, run: Run) -> None:
    train = tmp_path / "sets" / "trees-train"
    shutil.copytree(here / "probe_sets" / "trees-test", train)
    text = (train / "probe.toml").read_text().replace("trees-test", "trees-train").replace('"test"', '"train"')
    (train / "probe.toml").write_text(text)
    result = run(*options(tmp_path / "run", "--in-dist", train, "--probe", "web"))
    assert result.code == 0, result.err
    assert "trees-train has the role train" in result.err
    assert "trees-train has the role train" in result.out
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["marks"]
    assert "too good" in (tmp_path / "run" / "tables" / "gaps.md").read_text()


def test_folders_without_a_manifest_have_the_role_they_are_used_in(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(place / "web", tmp_path / "probe_sets" / "plain")
    shutil.copytree(place / "web", tmp_path / "folder")
    monkeypatch.chdir(tmp_path)
    for in_dist, probe in (("plain", "folder"), ("folder", "plain")):
        request = Request(out=tmp_path, in_dist=in_dist, probes=(probe,))
        first, others = image_sets(request, ["trees/one"], Runtime(quiet=True))
        assert [first.role, *(o.role for o in others)] == ["test", "probe"]


# ------------------------------------------------------------------------------------------- faults


@pytest.mark.fault("shift-eval", "Ctrl-C")
@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_run_keeps_finished_parts(
    here: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = predict_module.predict

    def interrupted(models: Any, image_set: Any, *args: Any, **kwargs: Any) -> Any:
        if image_set.name == "web":
            raise KeyboardInterrupt
        return original(models, image_set, *args, **kwargs)

    monkeypatch.setattr("gradlens.workflows.measure.computed.predict", interrupted)
    result = run(*options(tmp_path / "run", "--probe", "web", "--probe", "all"))
    assert result.code == 130
    assert not (tmp_path / "run" / "run.json").exists()
    assert (tmp_path / "run" / "predictions" / "trees--one--trees-test.parquet").exists()
    monkeypatch.undo()
    monkeypatch.chdir(here)
    monkeypatch.setattr(leave, "draw", lambda *_: None)
    assert run(*options(tmp_path / "run", "--probe", "web", "--probe", "all")).code == 0


@pytest.mark.fault("shift-eval", "two at once")
def test_two_runs_in_one_folder_are_refused(here: Path, tmp_path: Path, run: Run) -> None:
    with RunFolder(tmp_path / "run"):
        result = run(*options(tmp_path / "run", "--probe", "web"))
        assert result.code == 1
        assert "another run is writing here" in result.err
    assert not (tmp_path / "run" / ".lock").exists()


def test_run_json_comes_last_and_goes_first(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.file("a.txt").write_text("1")
        folder.file("b.txt").write_text("1")
        folder.finish({})
    with RunFolder(tmp_path / "run"):  # and is left before it finished
        assert not (tmp_path / "run" / "run.json").exists()
    assert not (tmp_path / "run" / "run.json").exists()
    assert (tmp_path / "run" / "b.txt").exists()


def test_a_list_of_files_cannot_reach_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    (tmp_path / "run").mkdir()
    names = ["../mine.txt", str(tmp_path / "mine.txt"), "old.txt"]
    (tmp_path / "run" / "old.txt").write_text("old")
    (tmp_path / "run" / "run.json").write_text(json.dumps({"files": names}))
    with RunFolder(tmp_path / "run") as folder:
        folder.finish({})
    assert (tmp_path / "mine.txt").read_text() == "keep"
    assert not (tmp_path / "run" / "old.txt").exists()


@pytest.mark.usefixtures("undrawn")
def test_shards_of_one_folder_merge(here: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADLENS_CACHE", str(tmp_path / "cache0"))
    assert run(*options(tmp_path / "whole", "--probe", "web")).code == 0
    for i in (1, 2, 3):
        monkeypatch.setenv("GRADLENS_CACHE", str(tmp_path / f"cache{i}"))  # as on machines of their own
        result = run(*options(tmp_path / "run", "--probe", "web", "--shard", f"{i}/3"))
        assert result.code == 0, result.err
        assert not (tmp_path / "run" / "run.json").exists()
    monkeypatch.setenv("GRADLENS_CACHE", str(tmp_path / "cache4"))
    monkeypatch.setattr(predict_module, "_forward", lambda *_: pytest.fail("a network ran"))
    assert run(*options(tmp_path / "run", "--probe", "web")).code == 0
    for name in TABLES:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_plan_measures_and_runs_nothing(
    here: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(predict_module, "_forward", lambda *_: pytest.fail("the evaluation ran"))
    result = run(*options(tmp_path / "run", "--probe", "web", "--plan", "--json"))
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert [(m["name"], m["images"]) for m in document["models"]] == [("trees/one", 72 + 39), ("trees/two", 72 + 39)]
    assert all(m["forward_ms"] > 0 for m in document["models"])
    assert [(s["name"], s["to_decode"]) for s in document["probe_sets"]] == [("trees-test", 72), ("web", 39)]
    assert document["plan"]["seconds"] > 0
    assert not (tmp_path / "run").exists()
    assert "images to run" in run(*options(tmp_path / "run", "--probe", "web", "--plan")).out


# ------------------------------------------------------------------------------------------- published predictions


PUBLISHED = {
    "cudaconvnet": (0.8854, 0.77536, 0.7820),
    "vgg_15_BN_64": (0.9299, 0.84859, 0.8505),
    "resnet_basic_110": (0.9346, 0.85156, 0.8540),
    "wrn_28_10": (0.9593, 0.89708, 0.9015),
    "shake_shake_26_2x64d_SSI_cutout16": (0.9711, 0.92974, 0.9310),
}


@pytest.mark.usefixtures("undrawn")
def test_published_predictions_give_the_published_numbers(shared_data: Path, tmp_path: Path, run: Run) -> None:
    """Recht et al. 2018, table 1: accuracies, Clopper-Pearson intervals and gaps, from their own predictions."""
    args = ["--in-dist", "cifar10", "--probe", "cifar10.1-v4", "--probe", "cifar10.1-v6", "--resamples", 200]
    result = run("--predictions", shared_data / "cifar10.1-predictions.parquet", *args, "--out", tmp_path / "run")
    assert result.code == 0, result.err
    rows = {(r["model"], r["dataset"]): r for r in read(tmp_path / "run" / "summary.csv") if r["metric"] == "accuracy"}
    for model, values in PUBLISHED.items():
        for dataset, value in zip(("cifar10", "cifar10.1-v4", "cifar10.1-v6"), values, strict=True):
            assert round(float(rows[model, dataset]["value"]), 5) == value
    last = (
        rows["shake_shake_26_2x64d_SSI_cutout16", "cifar10"],
        rows["shake_shake_26_2x64d_SSI_cutout16", "cifar10.1-v4"],
    )
    ends = [[round(100 * float(r[k]), 1) for k in ("value", "low", "high")] for r in last]
    assert ends == [[97.1, 96.8, 97.4], [93.0, 91.8, 94.0]]
    gaps = [
        r for r in read(tmp_path / "run" / "gaps.csv") if r["metric"] == "accuracy" and r["label_space"] == "shared"
    ]
    assert {(r["paired"], r["interval"]) for r in gaps} == {("false", "Newcombe 95%")}
    gap = next(r for r in gaps if r["model"].startswith("shake") and r["probe"] == "cifar10.1-v4")
    assert round(100 * float(gap["gap"]), 1) == 4.1
    assert float(gap["low"]) > 0
    pairs = read(tmp_path / "run" / "pairs.csv")
    assert len(pairs) == 3 * 10
    assert all(float(r["p_holm"]) >= float(r["p_exact"]) for r in pairs)
    assert "97.1 [96.8, 97.4]" in result.out
    assert "+4.1 [3.0, 5.4]" in result.out


@pytest.mark.usefixtures("undrawn")
def test_predictions_as_csv_are_the_same(shared_data: Path, tmp_path: Path, run: Run) -> None:
    table = pq.read_table(shared_data / "cifar10.1-predictions.parquet").to_pandas()
    table[table["dataset"] != "cifar10"].to_csv(tmp_path / "p.csv", index=False)
    args = ["--in-dist", "cifar10.1-v4", "--probe", "cifar10.1-v6", "--resamples", 200]
    for name, file in (("csv", tmp_path / "p.csv"), ("parquet", shared_data / "cifar10.1-predictions.parquet")):
        assert run("--predictions", file, *args, "--out", tmp_path / name).code == 0
    for name in TABLES:
        assert (tmp_path / "csv" / name).read_bytes() == (tmp_path / "parquet" / name).read_bytes()


# ------------------------------------------------------------------------------------------- analyses and questions


def test_every_analysis_is_told_in_run_json_and_its_files_are_there(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, document = finished
    about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    free = [a.name for a in ANALYSES.values() if a.cost == "none"]
    assert [a["name"] for a in about["analyses"]] == free
    assert document["analyses"] == about["analyses"]
    for one in about["analyses"]:
        assert bool(one["not_done"]) != bool(one["tables"])
        for name in one["tables"]:
            assert read(folder / name) is not None
            assert name in about["files"]
        for stem in one["figures"]:
            assert (folder / "figures" / f"{stem}.png").is_file()
            assert (folder / "figures" / f"{stem}.pdf").is_file()


def test_the_ten_questions_are_all_answered_or_refused(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    rows = read(folder / "questions.csv")
    assert [int(r["question"]) for r in rows] == list(range(1, 11))
    for row in rows:
        assert row["asked"].endswith("?")
        assert row["answer"]
        assert all((folder / name).is_file() for name in row["files"].split())
    by_number = {int(r["question"]): r["answer"] for r in rows}
    assert "4 shared classes only, no raw gap" in by_number[1]  # web has four of the six
    assert "trees-dark: the same classes" in by_number[1]
    assert "detectable with 80 % power" in by_number[2]
    assert "not answered by this run" in by_number[3]
    assert "leakage" in by_number[3]
    assert "Top-5 is defined" in by_number[5]
    assert "Holm" in by_number[6]


@pytest.mark.usefixtures("undrawn")
def test_top_k_of_few_classes_is_refused_in_the_answers(here: Path, tmp_path: Path, run: Run) -> None:
    result = run(*options(tmp_path / "r", "--top-k", 6, "--model", "trees/one", "--quiet"))
    assert result.code == 0
    answers = {r["question"]: r["answer"] for r in read(tmp_path / "r" / "questions.csv")}
    assert "undefined for 2 models (top-6 of 6 classes)" in answers["5"]


@pytest.mark.usefixtures("undrawn")
def test_less_than_full_precision_is_compared_with_it(here: Path, tmp_path: Path, run: Run) -> None:
    result = run(*options(tmp_path / "r", "--precision", "bf16"))
    assert result.code == 0
    told = next(line for line in result.err.splitlines() if "bf16 against fp32" in line)
    found = re.search(r"on 64 images of trees-test: (\d+) of 128 answers are other classes, .* is (\S+) off", told)
    assert found is not None
    plain = run(*options(tmp_path / "p"))
    assert "against fp32" not in plain.err
    differ = sum(
        int(one["prediction"] != other["prediction"])
        for name in ("trees--one--trees-test", "trees--two--trees-test")
        for one, other in zip(
            *(pq.read_table(tmp_path / r / "predictions" / f"{name}.parquet").to_pylist() for r in "rp"), strict=True
        )
    )
    assert int(found[1]) <= differ
    assert 0 < float(found[2]) <= 1  # bf16 has eight bits: never equal
