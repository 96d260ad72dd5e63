"""Pages of trainings: curves, scores and card of the files, also of a training that has not ended."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import browser
from gradlens import report
from gradlens.cli.main import main
from gradlens.errors import InputError
from gradlens.report.training import NO_RUN

EPOCHS = [
    {"epoch": e, "loss": 2.0 / e, "accuracy": 0.3 + 0.1 * e, "select_accuracy": s, "select_loss": 2.5 / e, "lr": 0.01}
    | {"seconds": 90.0}
    for e, s in enumerate((0.4, 0.7, 0.65), 1)
]


def lines(*rows: Mapping[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """What an unfinished training has left."""
    folder = tmp_path / "<b>vit"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(lines(*EPOCHS))
    return folder


@pytest.fixture
def finished(work: Path) -> Path:
    training = {"recipe": "shapes", "epochs": 3, "kept": 2, "seed": 5, "data": "shapes-train", "images": 1200}
    score = {"dataset": "shapes-test", "metric": "accuracy", "value": 0.625, "low": 0.5, "high": 0.75, "n": 64}
    card = {"model": "shapes/vit", "builder": "timm:vit", "training": training, "scores": [score]}
    (work / "cards").mkdir()
    (work / "cards" / "shapes--vit.json").write_text(json.dumps(card))
    about = {"verb": "train", "command": "gradlens train shapes", "models": [{"name": "shapes/vit"}], "files": []}
    (work / "run.json").write_text(json.dumps(about))
    return work


def test_an_unfinished_training_shows_its_curves_and_says_what_is_missing(work: Path) -> None:
    page = report.build(work).read_text()
    assert "<h1>Training of &lt;b&gt;vit</h1>" in page
    assert "3 epochs in 4 minutes; the best is epoch 2, right on 70.0 % of the held-out images." in page.replace(
        "\N{NO-BREAK SPACE}", " "
    )
    assert "5.0 points below that on the held-out images" in page  # 60.0 against 65.0
    assert NO_RUN in page
    assert page.count("<polyline") == 4
    assert 'id="card"' not in page


def test_a_finished_training_shows_scores_and_card(finished: Path) -> None:
    page = report.build(finished).read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "<h1>Training of shapes/vit</h1>" in page
    assert "the weights are those of epoch 2, right on 70.0 % of the held-out images" in page
    assert page.count('class="kept"') == 2
    assert re.search(r"62\.5<span class=\"small\">\[50\.0, 75\.0\]", page)
    for text in ("shapes-train, 1,200 images", "timm:vit", "gradlens train shapes"):
        assert text in page
    assert NO_RUN not in page


def test_why_it_stopped_early_is_told(work: Path) -> None:
    (work / "metrics.jsonl").write_text(lines(*EPOCHS, {"stopped": 3, "reason": "no better for 1 epoch"}))
    assert "3 epochs in 4 minutes; stopped: no better for 1 epoch;" in report.build(work).read_text()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no epoch yet"),
        ("[1]\n", "line 1: expected one JSON object"),
        (lines(EPOCHS[0]) + "{half", "line 2: expected one JSON object"),
    ],
)
def test_broken_metrics_are_refused_with_the_place(work: Path, content: str, said: str) -> None:
    (work / "metrics.jsonl").write_text(content)
    with pytest.raises(InputError, match=said):
        report.build(work)
    with pytest.raises(SystemExit) as left:
        main(["report", str(work)])
    assert left.value.code == 1


@browser.WIDTHS
@browser.SCHEMES
def test_browser_pages_fit_and_can_be_read_by_all(
    visit: Callable[..., browser.Tab], finished: Path, width: int, dark: bool
) -> None:
    tab = visit(report.build(finished), width, 800, dark)
    tab.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.page.evaluate("document.scrollingElement.scrollWidth") <= width
    assert browser.violations(tab.page) == []
    assert tab.complaints == []
