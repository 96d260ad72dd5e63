"""``gradlens cam --evaluate``: tables, figures, randomisation, twins; a set without masks; what is refused."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gradlens.cli.main import main
from gradlens.figures.cam_scores import cam_scores
from gradlens.records import CamScore
from gradlens.workflows.evaluate import MEASURES, Randomised, _trust


def gradlens(*arguments: object, code: int = 0) -> tuple[str, str]:
    """What the command prints on stdout and on stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as done:
        main([str(a) for a in arguments])
    assert int(done.value.code or 0) == code, err.getvalue()
    assert "Traceback" not in err.getvalue()
    return out.getvalue(), err.getvalue()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("evaluate") / "run"
    said, _ = gradlens(
        "cam", "--evaluate", "--model", "vit", "--layers", "2", "--method", "gradcam", "--method", "gradient-rollout",
        "--n", 12, "--twins", "twins", "--dpi", 60, "--json", "--out", out,
    )  # fmt: skip
    return json.loads(said), out


def test_every_measure_of_every_map_and_of_chance(told: tuple[dict[str, Any], Path]) -> None:
    document, out = told
    assert document["n"] == 12
    assert document["data"] == "vehicles-test"
    table = rows(out / "evaluation.csv")
    measures = {r["measure"] for r in table}
    assert measures >= {"insertion", "deletion", "road", "average-drop", "increase", "infidelity", "max-sensitivity"}
    assert measures >= {"pointing", "energy", "iou", "rank-accuracy"}
    per_measure = {m: [(r["method"], r["depth"]) for r in table if r["measure"] == m] for m in measures}
    first = per_measure["road"]
    assert first[-1] == ("random", "input")
    assert len(first) == 5  # two methods at two depths, and maps that know nothing
    assert all(pairs == first for pairs in per_measure.values())
    for r in table:
        assert int(r["n"]) + int(r["undefined"]) == 12
        if int(r["n"]):
            assert float(r["low"]) <= float(r["value"]) <= float(r["high"])
        assert (r["chance"] != "") == (MEASURES[r["measure"]].needs == "mask")
    assert len(document["scores"]) == len(table)
    assert {Path(p).name for p in document["figures"]} == {f"cam-scores--{m}.png" for m in measures}
    assert all(Path(p).is_file() for p in document["figures"])
    assert set(json.loads((out / "run.json").read_text())["files"]) >= {"evaluation.csv", "trust.csv", "twins.csv"}


def test_randomisation_begins_at_one_and_ends_elsewhere(told: tuple[dict[str, Any], Path]) -> None:
    table = rows(told[1] / "randomisation.csv")
    trained = [r for r in table if r["level"] == "trained" and int(r["n"])]
    random = [r for r in table if r["level"] == "all" and int(r["n"])]
    assert trained
    assert all(float(r["spearman"]) == pytest.approx(1, abs=1e-4) for r in trained)
    assert all(float(r["share"]) == 1 for r in random)
    assert all(float(r["spearman"]) < 0.9 for r in random)
    assert {r["verdict"] for r in table} <= {"survives", "depends on the weights", "undecided"}


def test_twins_are_told_apart(told: tuple[dict[str, Any], Path]) -> None:
    """Of a ViT that reads the background and its twin that does not, the maps name the right one."""
    table = rows(told[1] / "twins.csv")
    assert len(table) == 4
    deep = [r for r in table if r["method"] == "gradient-rollout" and r["stage"] == "2"]
    assert [r["answer"] for r in deep] == ["vehicles/vit"]
    assert deep[0]["hit"] == "true"
    assert float(deep[0]["energy_model"]) < float(deep[0]["energy_twin"])
    assert not any(r["hit"] == "false" for r in table)


def score(method: str, measure: str, value: float, undefined: int = 0) -> CamScore:
    return CamScore("m", method, "d", 0.5, measure, 10 - undefined, undefined, value, value, value, math.nan)


def curve(method: str, verdict: str) -> Randomised:
    return Randomised("m", method, "d", "all", 1.0, 8, 0.5, 0.5, 0.5, 0.5, verdict)


def test_trust_ranks_by_faithfulness_and_puts_survivors_last() -> None:
    values = {
        "good": (0.9, 0.1, 0.4), "bad": (0.3, 0.5, 0.0), "immune": (0.95, 0.05, 0.45), "blank": (0.92, 0.08, 0.42)
    }  # fmt: skip
    scores = [
        score(method, measure, value, 5 if method == "blank" else 0)
        for method, three in values.items()
        for measure, value in zip(("insertion", "deletion", "road"), three, strict=True)
    ]
    randomised = [curve(m, "survives" if m == "immune" else "depends on the weights") for m in values]
    assert [t.method for t in _trust(scores, randomised)] == ["good", "bad", "blank", "immune"]
    ranks = {t.method: t.mean_rank for t in _trust(scores, randomised)}
    assert ranks == {"immune": 1, "blank": 2, "good": 3, "bad": 4}


def test_a_set_without_masks_has_no_localisation(tmp_path: Path) -> None:
    for name in ("car", "bus"):
        (tmp_path / "set" / name).mkdir(parents=True)
        noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "set" / name / "a.png")
    said, remarks = gradlens(
        "cam", "--evaluate", "--model", "shufflenet", "--model", "vit", "--data", tmp_path / "set", "--layers", "last",
        "--method", "gradcam", "--method", "rollout", "--measure", "increase", "--measure", "energy", "--json",
        "--out", tmp_path / "run",
    )  # fmt: skip
    document = json.loads(said)
    assert {s["measure"] for s in document["scores"]} == {"increase"}
    # a convolutional network has no attention: said, not dropped
    (left,) = document["skipped"]
    assert "shufflenet" in left["path"]
    assert "rollout" in left["path"]
    assert "rollout is left out" in remarks
    assert not (tmp_path / "run" / "twins.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--evaluate", "--model", "vit", "--measure", "insertoin"], 1, "insertion"),
        (["--evaluate", "--model", "vit", "--method", "gradcm"], 1, "gradcam"),
        (["--model", "vit", "--measure", "insertion"], 2, "--evaluate"),
        (["--evaluate", "--model", "vit", "--image", "x.png"], 2, "--data"),
        (["--evaluate"], 2, "--model"),
    ],
)
def test_what_is_refused(arguments: list[str], code: int, said: str) -> None:
    _, remarks = gradlens("cam", *arguments, code=code)
    assert said in remarks


def test_measures_are_listed() -> None:
    listed = json.loads(gradlens("cam", "--list-measures", "--json")[0])["measures"]
    assert {m["name"] for m in listed} >= {"insertion", "road", "energy", "max-sensitivity"}
    assert all(m["paper"] and m["better"] in ("higher", "lower") for m in listed)
    assert "Petsiuk" in gradlens("cam", "--list-measures")[0]


def test_the_figure_marks_each_models_best_and_says_what_is_undefined() -> None:
    scores = [
        score("gradcam", "deletion", 0.4), score("layercam", "deletion", 0.2), score("random", "deletion", 0.6),
        CamScore("m", "cam", "d", 0.5, "deletion", 0, 10, math.nan, math.nan, math.nan, math.nan),
    ]  # fmt: skip
    figure = cam_scores(scores, title="deletion AUC", better="lower")
    (ax,) = figure.axes
    texts = {t.get_text(): t for t in ax.texts}
    assert {"gradcam", "layercam", "cam", "random", ".40", ".20", ".60", "deletion AUC (lower is better)"} <= set(texts)
    assert [t for t in (".40", ".20", ".60") if texts[t].get_fontweight() == "bold"] == [".20"]
    assert texts["random"].get_position()[1] == max(texts[m].get_position()[1] for m in ("gradcam", "cam", "random"))
    assert sum(patch.get_hatch() is not None for patch in ax.patches) == 1
    with pytest.raises(ValueError, match="one measure"):
        cam_scores([*scores, score("gradcam", "road", 0.1)], title="", better="lower")
