"""``gradlens study``: from a file to a report, and every study file that comes with gradlens."""

from __future__ import annotations

import csv
import html
import json
import shutil
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from sklearn.metrics import confusion_matrix, f1_score

from gradlens.cli.main import cli
from gradlens.errors import GradlensError, InputError, NotFoundError
from gradlens.figures import style
from gradlens.records import Predictions
from gradlens.runtime import Runtime
from gradlens.shift import store
from gradlens.shift.pairs import paired_difference
from gradlens.workflows import study as workflow
from gradlens.workflows.study import SECTIONS, Changes, schema
from gradlens.workflows.study.sections.recommendation import chosen
from gradlens.zoo import checkpoints

QUIET = Runtime(device="cpu", quiet=True, offline=True)
CLASSES = ("disc", "stripes", "wedge")
STUDIES = ("cifar10-controlled", "fifteen-architectures", "five-backbones", "ten-torchvision", "three-approaches")

STUDY = """
title = "Shapes"
question = "Does a second variant help?"
notes = ["the published one stopped on its test half"]
classes = 3
seeds = [0, 1]
baseline = "plain"
resamples = 100
sections = [
  "class_distribution", "curves", "stability", "classification_report", "confusion_pairs", "augmentation",
  "variants", "schedules", "transfer", "costs", "efficiency", "recommendation", "cam_depths",
]
answer = ["efficiency", "schedules"]
data = {{train = "{root}/train", select_fraction = 0.2, test = "{root}/test", probes = ["{root}/dim"]}}
[recipe]
input_size = 16
epochs = 2
batch_size = 16
optimiser = {{name = "adam", lr = 0.01}}
[variants.plain]
[variants.flipped]
only = ["small"]
augment = {{pad = 1, flip = 0.5}}
schedule = {{name = "cosine"}}
[variants.frozen]
only = ["small"]
strategy = "frozen"
of.small.optimiser.lr = 0.02
[narrow.models.small]
builder = "gradlens:custom_cnn"
arguments = {{widths = [8, 16, 16], residuals = [0, 0]}}
[narrow.models.other]
builder = "gradlens:custom_cnn"
arguments = {{widths = [8, 8], residuals = [1]}}
"""


def paint(kind: str, generator: np.random.Generator, side: int = 20) -> np.ndarray:
    y, x = np.mgrid[:side, :side] / side
    shape = {"disc": (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.1, "stripes": (x * 5 % 1) < 0.5, "wedge": x > y}[kind]
    image = generator.integers(0, 90, (side, side, 3))
    image[shape] += 120
    return image.astype(np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of images and a study of them."""
    root = tmp_path_factory.mktemp("study")
    for seed, (name, count) in enumerate({"train": 20, "test": 12, "dim": 10}.items()):
        generator = np.random.default_rng(seed)
        for kind in CLASSES:
            (root / name / kind).mkdir(parents=True)
            for i in range(count):
                image = paint(kind, generator) // (3 if name == "dim" else 1)
                Image.fromarray(image).save(root / name / kind / f"{i:03}.png")
    (root / "shapes.toml").write_text(STUDY.format(root=root.as_posix()), encoding="utf-8")
    return root


def command(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["study", *map(str, arguments), "--device", "cpu", "--offline", "--quiet"])


@pytest.fixture(scope="module", autouse=True)
def small_figures() -> Iterator[None]:
    """Figures are drawn small: what they look like is the business of their own tests."""
    with pytest.MonkeyPatch.context() as patch:
        whole = style.save
        patch.setattr(
            style, "save", lambda figure, stem, *_, provenance=None, **__: whole(figure, stem, ("png",), 40, provenance)
        )
        yield


@pytest.fixture(scope="module")
def done(place: Path) -> Path:
    """The folder that the study left."""
    result = command(place / "shapes.toml", "--out", place / "out", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["study"], told["scale"]) == ("shapes", "narrow")
    assert len(told["trained"]) == 8
    return place / "out"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def predictions(folder: Path, run: str, dataset: str) -> Predictions:
    (found,) = store.read([folder / "predictions" / f"shapes--{run}--{dataset}.parquet"])
    return found.predictions


def about(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return document


# --- a whole study ---------------------------------------------------------------------------------------------------


def test_every_run_has_a_checkpoint_that_loads_and_a_row_in_the_tables(done: Path) -> None:
    families = ("small-plain", "small-flipped", "small-frozen", "other-plain")
    runs = [f"{name}{seed}" for name in families for seed in ("", "-s1")]
    assert {p.name for p in (done / "zoo" / "shapes").iterdir()} == set(runs)
    assert [m["name"] for m in about(done)["models"]] == [f"shapes/{r}" for r in runs]
    model = checkpoints.load_folder(done / "zoo" / "shapes" / "small-frozen-s1", "x")
    assert model.card["training"]["seed"] == 1
    assert model.card["training"]["settings"]["optimiser"]["lr"] == 0.02


def test_every_section_is_told_first_and_its_files_are_there(done: Path) -> None:
    told = about(done)
    asked = told["study"]["sections"]
    assert [a["name"] for a in told["analyses"]][: len(asked)] == asked
    for a in told["analyses"][: len(asked)]:
        assert not a["not_done"], a
        assert a["findings"], a["name"]
        for name in a["tables"]:
            assert rows(done / name), name
        for stem in a["figures"]:
            assert (done / "figures" / f"{stem}.png").is_file()
    page = (done / "report.html").read_text(encoding="utf-8")
    for name in asked:
        assert f'id="analysis-{name}"' in page
    assert "Shapes: " in page
    findings = {a["name"]: a["findings"] for a in told["analyses"]}
    first = html.unescape(page[page.index('class="answer"') : page.index('id="picks"')])
    begins = ["Does a second variant help?", *findings["efficiency"], *findings["schedules"]]
    places = [first.index(text.replace("shapes/", "")) for text in begins[:4]]
    assert places == sorted(places)
    assert "the published one stopped on its test half" in first


def test_the_report_is_scikit_learns(done: Path) -> None:
    said = predictions(done, "small-plain", "test")
    own = [r for r in rows(done / "classification_report.csv") if (r["model"], r["dataset"]) == ("small-plain", "test")]
    macro = next(float(r["f1"]) for r in own if r["class"] == "macro avg")
    assert macro == pytest.approx(f1_score(said.labels, said.predicted, average="macro", zero_division=0.0))


def test_confusions_are_counted_both_ways(done: Path) -> None:
    both = [predictions(done, run, "test") for run in ("other-plain", "other-plain-s1")]
    matrix = sum(confusion_matrix(p.labels, p.predicted, labels=range(3)) for p in both) / 2
    own = [r for r in rows(done / "confusion_pairs.csv") if r["model"] == "other-plain"]
    assert len(own) == 3
    for r in own:
        a, b = CLASSES.index(r["class_a"]), CLASSES.index(r["class_b"])
        assert float(r["both"]) == pytest.approx(matrix[a, b] + matrix[b, a])


def test_costs_are_those_of_the_cards(done: Path) -> None:
    for r in rows(done / "training_costs.csv"):
        card = checkpoints.read_card(done / "zoo" / "shapes" / r["model"])
        assert int(r["parameters"]) == card.parameters
        assert int(r["flops"]) == card.flops
        assert float(r["latency_ms"]) > 0
        frozen = r["model"] == "small-frozen"
        assert (int(r["trainable"]) < card.parameters) == frozen


def test_a_strategy_is_compared_with_the_baseline_over_seeds(done: Path) -> None:
    own = [r for r in rows(done / "strategies_against.csv") if r["quantity"] == "accuracy" and r["dataset"] == "test"]
    assert {(r["model"], r["strategy"]) for r in own} == {
        ("small", "flipped"),
        ("small", "frozen"),
    }
    for r in own:
        means = [
            np.mean(
                [
                    (p.predicted == p.labels).mean()
                    for seed in ("", "-s1")
                    for p in [predictions(done, f"{r['model']}-{v}{seed}", "test")]
                ]
            )
            for v in (r["strategy"], "plain")
        ]
        assert float(r["difference"]) == pytest.approx(means[0] - means[1])
        assert float(r["low"]) <= float(r["difference"]) <= float(r["high"])
    gaps = [r for r in rows(done / "strategies.csv") if r["quantity"] == "gap"]
    assert {r["dataset"] for r in gaps} == {"dim"}


def test_a_finished_study_trains_nothing_again_and_says_the_same(done: Path, place: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in done.glob("zoo/shapes/*/model.safetensors")}
    summary = (done / "summary.csv").read_bytes()
    result = command(place / "shapes.toml", "--out", done, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["trained"] == []
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert (done / "summary.csv").read_bytes() == summary


def test_a_study_goes_on_where_it_was(done: Path, place: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path / "out")
    lost = tmp_path / "out" / "zoo" / "shapes" / "other-plain"
    weights = (lost / "model.safetensors").read_bytes()
    shutil.rmtree(lost)
    shutil.rmtree(tmp_path / "out" / "work" / "other-plain")
    result = command(place / "shapes.toml", "--out", tmp_path / "out", "--json")
    assert json.loads(result.stdout)["trained"] == ["other-plain"]
    assert (lost / "model.safetensors").read_bytes() == weights


def test_other_images_other_seeds_fewer_runs(place: Path, tmp_path: Path) -> None:
    found = command(
        place / "shapes.toml", "--out", tmp_path / "out", "--only", "small-f*", "--seeds", "3", "--dry-run", "--json",
        "--data", f"train={place}/dim", "--data", f"test={place}/test",
    )  # fmt: skip
    told = json.loads(found.stdout)
    assert [(r["name"], r["seed"]) for r in told["runs"]] == [("small-flipped", 3), ("small-frozen", 3)]
    assert [(i["role"], i["n"]) for i in told["images"]] == [("train", 30), ("test", 36)]
    assert told["missing"] == []
    assert not (tmp_path / "out").exists()


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('baseline = "plain"', 'baseline = "plane"', "baseline 'plane' is none of the variants"),
        ("seeds = [0, 1]", "seeds = [1, 1]", "seeds must differ"),
        ('answer = ["efficiency"', 'answer = ["efficency"', "answer 'efficency' is none of the sections"),
        ("notes = [", "note = [", "no field named 'note'; did you mean 'notes'?"),
        ('"costs", "efficiency"', '"efficiency", "costs"', "needs 'costs' before it"),
        ('"class_distribution"', '"class_distributions"', "did you mean 'class_distribution'?"),
        ("batch_size = 16", "batchsize = 16", "no field named 'batchsize'; did you mean 'batch_size'"),
        ('only = ["small"]', 'only = ["smal"]', "'smal', which is none of the models small, other"),
        ("widths = [8, 8]", "width = [8, 8]", "cannot be built"),
        ("[narrow.models.small]", "[narrow.models.small", "is not TOML"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(place: Path, tmp_path: Path, old: str, new: str, said: str) -> None:
    text = STUDY.format(root=place.as_posix())
    assert old in text
    (tmp_path / "x.toml").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(GradlensError, match=said.replace("?", r"\?").replace("[", r"\[")) as err:
        workflow.plan(str(tmp_path / "x.toml"), "narrow", Changes(), QUIET)
    assert "\n" not in str(err.value)


def test_what_is_asked_for_must_be_there(place: Path) -> None:
    file = str(place / "shapes.toml")
    with pytest.raises(InputError, match=r"has no \[full\]; scales that it has: narrow"):
        workflow.plan(file, "full", Changes(), QUIET)
    with pytest.raises(NotFoundError, match="no run named 'big'"):
        workflow.plan(file, "narrow", Changes(only=("big",)), QUIET)
    with pytest.raises(NotFoundError, match="did you mean 'transfer'"):
        workflow.plan("transfr", "narrow", Changes(), QUIET)
    with pytest.raises(InputError, match="needs --data test="):
        workflow.plan(file, "narrow", Changes(data=(("train", "x"),)), QUIET)
    assert command(file, "--data", "training=x").exit_code == 2
    assert command(file, "--seeds", "1;2").exit_code == 2
    assert command("--quiet").exit_code == 2


def test_missing_images_stop_it_after_everything_else_was_checked(place: Path, tmp_path: Path) -> None:
    arguments = (place / "shapes.toml", "--data", f"train={tmp_path}/nothing", "--data", f"test={place}/test")
    result = command(*arguments, "--out", tmp_path / "out")
    assert result.exception is not None
    assert "images to train" in str(result.exception)
    assert not (tmp_path / "out").exists()
    assert "not here: images to train" in command(*arguments, "--dry-run").stdout


# --- rules -----------------------------------------------------------------------------------------------------------


def row(model: str, accuracy: float, flops: int, parameters: int = 1, latency: float = 1.0) -> dict[str, Any]:
    return {"model": model, "accuracy": accuracy, "flops": flops, "parameters": parameters, "latency_ms": latency}


def test_picks_follow_their_rules() -> None:
    costs = [
        row("a", 0.9, 900, 90, 9),
        row("b", 0.86, 100, 10, 1),
        row("c", 0.88, 300, 30, 3),
        row("d", 0.7, 90, 9, 3.1),
    ]
    assert chosen("best", costs)["model"] == "a"
    assert chosen("mobile", costs)["model"] == "b"  # of a, b and c, which are within 5 points of the best
    assert chosen("balanced", costs)["model"] == "c"  # of a and c, which are within 2
    assert chosen("best", [row("x", 0.9, 5), row("y", 0.9, 4)])["model"] == "y"


def test_a_paired_difference_counts_the_same_images() -> None:
    def said(answers: Sequence[int], ids: Sequence[str]) -> Predictions:
        labels = np.zeros(len(ids), dtype=np.int64)
        return Predictions("m", "s", ("x", "y"), ("x", "y"), tuple(ids), labels, np.array(answers, dtype=np.int64))

    found = paired_difference(said([0, 0, 1, 0], "abcd"), said([1, 0, 0, 0], "dcba"), 0.95)
    # a right-right, b right-right, c wrong-right, d right-wrong
    assert (found["n"], found["only_variant"], found["only_baseline"], found["difference"]) == (4, 1, 1, 0.0)
    assert found["p_exact"] == 1.0


# --- the files that come with gradlens -------------------------------------------------------------------------------


def test_all_studies_are_listed() -> None:
    assert set(STUDIES) <= set(schema.known())
    result = command("--list", "--json")
    told = {s["name"]: s for s in json.loads(result.stdout)["studies"]}
    assert all(set(told[name]["scales"]) == {"full", "narrow"} for name in STUDIES)


@pytest.mark.parametrize("name", [*STUDIES, "transfer"])
@pytest.mark.parametrize("scale", ["full", "narrow"])
def test_a_study_file_is_whole(name: str, scale: schema.Scale) -> None:
    study = schema.load(name, scale)
    runs = schema.runs(study)
    assert len({r.name for r in runs}) == len(runs)
    for section in study.sections:
        assert set(SECTIONS[section].after) <= set(study.sections)
    for r in runs:
        assert r.recipe.builder


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_full_scale_is_checked_up_to_the_download(name: str, place: Path, tmp_path: Path) -> None:
    # three-approaches renders its images, which takes a minute and is nothing to wait for here
    own = ("--data", f"train={place}/train", "--data", f"test={place}/test") if name == "three-approaches" else ()
    result = command(name, "--scale", "full", "--out", tmp_path / "out", *own)
    assert isinstance(result.exception, InputError)
    assert result.exception.exit_code == 1
    assert str(result.exception).startswith(f"study {name} cannot start at scale full: ")
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_every_section_is_used_by_a_study() -> None:
    used = {s for name in schema.known() for scale in schema.scales_of(name) for s in schema.load(name, scale).sections}
    assert used == set(SECTIONS)


def test_studies_come_with_the_wheel(root: Path) -> None:
    assert '"studies"' in (root / "hatch_build.py").read_text(encoding="utf-8")
    for path in (root / "studies").glob("*.toml"):
        assert tomllib.loads(path.read_text(encoding="utf-8"))["question"]
