"""What a run says about failing images and doubtful labels: tables, findings, answers, the gallery."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_shortcut import subject_of

from gradlens.figures.failure_gallery import FailureRow, Shown, failure_gallery
from gradlens.runtime import Runtime
from gradlens.workflows.measure import Request, shift_eval
from gradlens.workflows.measure.analyses import ANALYSES

CLASSES = ("cat", "dog", "emu")


def table(path: Path, name: str) -> list[dict[str, str]]:
    with (path / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], set[str]]:
    """A run from hard predictions of four models of about 90 %, six labels of whose test set were replaced."""
    folder = tmp_path_factory.mktemp("published")
    rng = np.random.default_rng(0)
    doubtful = {f"home-{i}" for i in range(0, 60, 10)}
    lines = ["model,dataset,path,label,prediction"]
    for dataset, accuracy in (("home", 0.93), ("away", 0.4)):
        truth = rng.integers(3, size=120)
        for m in range(4):
            said = np.where(rng.random(120) < accuracy, truth, (truth + 1) % 3)
            for i, (t, answer) in enumerate(zip(truth, said, strict=True)):
                name = f"{dataset}-{i}"
                answer = t if name in doubtful else answer
                label = (t + 1) % 3 if name in doubtful else t
                lines.append(f"m{m},{dataset},{name},{CLASSES[label]},{CLASSES[answer]}")
    (folder / "said.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    request = Request(
        out=folder / "run", predictions=(folder / "said.csv",), in_dist="home", probes=("away",), resamples=100
    )
    measured = shift_eval(request, Runtime(device="cpu", quiet=True))
    return folder / "run", measured.document, doubtful


def test_planted_labels_are_listed_and_answer_question_seven(
    published: tuple[Path, dict[str, Any], set[str]],
) -> None:
    run, document, doubtful = published
    listed = table(run, "label_noise.csv")
    assert {r["id"] for r in listed} == doubtful
    assert all(r["label"] != r["vote"] and r["jurors"] == "4" and float(r["agreement"]) == 1 for r in listed)
    (question,) = [q for q in document["questions"] if q["question"] == 7]
    assert "home: 6 of 120 labels are contradicted with one voice by all 4 models" in question["answer"]
    assert "Not judged: away (0)" in question["answer"]  # nobody is good enough there
    for b in table(run, "label_noise_bounds.csv"):
        assert float(b["relabelled"]) == pytest.approx(float(b["accuracy"]) + 6 / 120)
        assert float(b["low"]) <= float(b["accuracy"]) <= float(b["high"])
        assert b["interval"].startswith("Clopper-Pearson")


def test_failures_of_hard_predictions(published: tuple[Path, dict[str, Any], set[str]]) -> None:
    run, document, doubtful = published
    rows = table(run, "failures.csv")
    assert {r["kind"] for r in rows} == {"wrong in every model"}
    assert {r["id"] for r in rows if r["dataset"] == "home"} >= doubtful
    assert {r["model"] for r in rows} == {"(every model)"}
    for t in table(run, "failure_counts.csv"):
        assert (t["n"], t["confident"], t["pairs"]) == ("120", "-1", "0")
    (told,) = [a for a in document["analyses"] if a["name"] == "failures"]
    assert "are wrong in every one of 4 models" in told["findings"][0]
    assert any("hard predictions" in note for note in told["notes"])
    assert set(json.loads((run / "run.json").read_text())["files"]) >= {"failures.csv", "label_noise.csv"}


def test_the_gallery_shows_both_sides_of_a_flip() -> None:
    subject = subject_of(["vehicles/vit", "vehicles/shufflenet"], scenes=8, maps=4)
    outcome = ANALYSES["gallery"].of(subject)
    stems = [stem for stem, _ in outcome.figures]
    assert "gallery-flip-vehicles--vit" in stems
    assert "gallery-confident-error-vehicles--shufflenet" in stems
    assert "gallery-wrong-in-every-model" in stems
    for _, draw in outcome.figures:
        figure = draw()
        assert figure.axes[0].images  # pictures and maps
        said = {t.get_text() for t in figure.axes[0].texts}
        assert any(text.startswith("✗") for text in said)
    flips = dict(outcome.figures)["gallery-flip-vehicles--vit"]().axes[0]
    assert len(flips.images) % 5 == 0  # two pictures and three maps in every row
    assert any(t.get_text().startswith("✓ says") for t in flips.texts)


def test_without_failures_there_is_no_gallery() -> None:
    subject = subject_of(["twins/vgg"], scenes=8, maps=4)
    right = {
        key: replace(p, predicted=np.array([p.classes.index(p.label_classes[k]) for k in p.labels]))
        for key, p in subject.evidence.predictions.items()
    }
    outcome = ANALYSES["gallery"].of(replace(subject, evidence=replace(subject.evidence, predictions=right)))
    assert "no model gets a labelled image wrong" in outcome.not_done


def test_a_blank_map_is_said_and_a_short_row_refused() -> None:
    view = np.zeros((8, 8, 3), dtype=np.uint8)
    blank = Shown(view, np.zeros((2, 2)), "zero gradient", "cat 3 %")
    figure = failure_gallery([FailureRow("cat", ["set"], [Shown(view), blank])], ["image", "map"], "title")
    assert "no map:\nzero gradient" in {t.get_text() for t in figure.axes[0].texts}
    with pytest.raises(ValueError, match="2 pictures in every row"):
        failure_gallery([FailureRow("cat", [], [blank])], ["image", "map"], "title")
