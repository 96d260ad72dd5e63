"""Pages of runs that scored no models on image sets: maps of a few images, a table of accuracies."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import browser
from gradlens import report
from gradlens.cli.main import main
from gradlens.errors import InputError


def leave(*args: object) -> None:
    with pytest.raises(SystemExit) as left:
        main([*map(str, args), "--quiet"])
    assert not left.value.code


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cam")
    pixels = np.random.default_rng(0).integers(0, 255, (70, 110, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "<b>.png")
    common = ("--layers", "last", "--method", "gradcam", "--method", "layercam", "--dpi", 60, "--out", folder / "run")
    leave("cam", "--model", "shufflenet", "--image", folder / "<b>.png", *common)
    return folder / "run"


@pytest.fixture(scope="module")
def accuracies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("accuracies")
    rng = np.random.default_rng(0)
    with (folder / "zoo.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["model", "family", "plain", "harder"])
        for i in range(12):
            rows.writerow([f"net{i}", f"f{i % 4}", 0.6 + 0.03 * i, round(0.3 + 0.04 * i + rng.normal() / 100, 4)])
    leave("shift-eval", "--accuracies", folder / "zoo.csv", "--in-dist", "plain", "--out", folder / "run")
    return folder / "run"


def test_a_run_of_maps_has_a_page_with_what_each_map_explains(maps: Path) -> None:
    told = json.loads((maps / "run.json").read_text())
    page = (maps / "report.html").read_text()
    assert "report.html" in told["files"]
    assert "Class activation maps of 1 model on 1 image" in page
    assert "&lt;b&gt;.png" in page
    assert "<b>.png" not in page
    for image in told["images"]:
        for said in (image["prediction"], image["target"], image["method"], f"{100 * image['probability']:.1f}"):
            assert f">{said}" in page
        assert f">{list(image['status'].values()).count('ok')} of 1" in page
    assert page.count("data:image/webp") == len(told["figures"])


def test_a_table_of_accuracies_has_a_page_with_its_lines(accuracies: Path) -> None:
    told = json.loads((accuracies / "run.json").read_text())
    page = (accuracies / "report.html").read_text()
    assert "Published accuracies of 12 models on plain and harder" in page
    assert told["findings"][0].split(":")[0] in page
    assert page.count("<svg") == 1
    assert page.count('class="mark"') == 12
    for name in ("accuracies", "lines", "effective robustness"):
        assert f"<summary>{name.capitalize()}" in page


def test_the_page_is_the_same_from_the_files(maps: Path, accuracies: Path) -> None:
    for folder in (maps, accuracies):
        before = (folder / "report.html").read_bytes()
        assert report.build(folder).read_bytes() == before


def test_a_run_that_lists_scores_needs_them(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"files": ["summary.csv"]}')
    with pytest.raises(InputError, match=r"summary\.csv is missing"):
        report.build(tmp_path)


def test_a_run_of_another_kind_shows_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"files": ["../x.csv", "a.csv", 3], "models": 1, "images": [2, {"status": 4}]}')
    (tmp_path / "a.csv").write_text("one,two\n1,<b>\n")
    page = report.build(tmp_path).read_text()
    assert "&lt;b&gt;" in page
    assert "0 of 0" in page


@browser.WIDTHS
@browser.SCHEMES
def test_browser_pages_fit_and_can_be_read_by_all(
    visit: Callable[..., browser.Tab], maps: Path, accuracies: Path, width: int, dark: bool
) -> None:
    for folder in (maps, accuracies):
        tab = visit(folder / "report.html", width, 800, dark)
        tab.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert tab.page.evaluate("document.scrollingElement.scrollWidth") <= width
        assert browser.violations(tab.page) == []
        assert tab.complaints == []
