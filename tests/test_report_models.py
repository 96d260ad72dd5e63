"""What the page says of each model: the files' numbers, nothing of them as markup, and it works in a browser."""

from __future__ import annotations

import csv
import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import browser
from gradlens import report
from gradlens.errors import InputError
from gradlens.records import Predictions
from gradlens.report import model_page
from gradlens.report.architecture import amount, architecture
from gradlens.report.confusions import MOST_CLASSES, MOST_PAIRS, confusion
from gradlens.report.curves import charts, history_table
from gradlens.report.model_files import read_model_files
from gradlens.report.models import model_table
from gradlens.report.run_files import read
from gradlens.shift.tables import percent, write_csv
from gradlens.workflows.measure.costs import COSTS, DEPTHS
from runs import CLASSES, write_run

ACCURACIES = {
    "vehicles/resnet": {"vehicles-test": 0.95, "vehicles-context": 0.7, "vehicles-night": 0.9},
    "vehicles/vit": {"vehicles-test": 0.9, "vehicles-context": 0.8, "vehicles-night": 0.85},
    "vehicles/vgg": {"vehicles-test": 0.8, "vehicles-context": 0.5, "vehicles-night": 0.6},
    "vehicles/swin": {"vehicles-test": 0.85, "vehicles-context": 0.75, "vehicles-night": 0.6},
}
PARAMETERS = {"vehicles/resnet": 11_200_000, "vehicles/vit": 719_912, "vehicles/vgg": 9_000_000}
Said = dict[tuple[str, str], Predictions]
Visit = Callable[..., browser.Tab]


def add_files(folder: Path, card: bool = True) -> None:
    """Costs and depths of three of the models, a card of one."""
    rows = [
        {
            "model": model,
            "parameters": n,
            "trainable": n,
            "flops": 9 * n,
            "size_bytes": 4 * n,
            "latency_ms": 1.5 + i,
            "latency_p95_ms": 2.5 + i,
            "device": "a processor",
            "threads": 2,
        }
        for i, (model, n) in enumerate(PARAMETERS.items())
    ]
    write_csv(folder / "costs.csv", COSTS, rows)
    depths = [
        ("stem", "stem", 0.25, "4", "64x24x24", "NCHW", 1_000, 250),
        ("layer1.0", "layer1.0", 0.75, "8", "128x12x12", "NCHW", 30_000, 500),
        ("head", "", 1.0, "", "8", "", 9_000, 250),
    ]
    columns = DEPTHS[1:]
    found = [{"model": m, **dict(zip(columns, row, strict=True))} for m in PARAMETERS for row in depths]
    write_csv(folder / "depths.csv", DEPTHS, found)
    if card:
        history = [
            {"epoch": e, "loss": 2 / e, "accuracy": 0.1 * e, "select_accuracy": 0.09 * e, "select_loss": 2.5 / e}
            for e in range(1, 8)
        ]
        settings = {"optimiser": {"name": "adamw", "lr": 0.002, "momentum": 0.0}, "batch_size": 64}
        training = {"recipe": "vehicles", "epochs": 7, "kept": 6, "seed": 3, "settings": settings, "history": history}
        training |= {"data": "vehicles-train", "images": 3200, "fingerprint": "ab" * 32, "seconds": 600.0}
        told = {"model": "vehicles/vit", "builder": "timm:vit", "training": training, "sha256": "cd" * 32}
        (folder / "cards").mkdir()
        (folder / "cards" / "vehicles--vit.json").write_text(json.dumps(told))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    folder = tmp_path_factory.mktemp("run")
    said = write_run(folder, ACCURACIES, resamples=20)
    add_files(folder)
    report.build(folder)
    return folder, said


def plain(text: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", text)).replace("\N{NO-BREAK SPACE}", " ").strip()


def part(folder: Path, anchor: str) -> str:
    """The source of one model's part of the page."""
    source = (folder / "report.html").read_text(encoding="utf-8")
    return source.split(f'id="{anchor}"')[1].split('<details class="model">')[0].split("</section>")[0]


def table(source: str, label: str) -> list[list[str]]:
    """The texts of a table's body, head cells too, by the label of its region."""
    body = source.split(f'aria-label="{label}')[1].split("<tbody>")[1].split("</tbody>")[0]
    return [
        [plain(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.S)]
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", body, re.S)
    ]


# -- the numbers are the files' ---------------------------------------------------------------------------------------


def test_the_table_has_every_score_gap_and_cost_of_the_files(measured: tuple[Path, Said]) -> None:
    folder, said = measured
    run = read(folder)
    found = model_table(run, read_model_files(run))
    assert [m for m, _, _ in found.rows] == ["vehicles/resnet", "vehicles/vit", "vehicles/swin", "vehicles/vgg"]
    columns = {(c.group, c.title): c for c in found.columns}
    for row, (model, _, _) in enumerate(found.rows):
        p = said[model, "vehicles-test"]
        own = {title: column.cells[row] for (_, title), column in columns.items()}
        assert own["Accuracy"].sort == (p.predicted == p.labels).mean()
        for metric, title in (("macro_precision", "Macro precision"), ("macro_recall", "Macro recall"), ("ece", "")):
            cell = own[title] if title else next(c.cells[row] for c in found.columns if c.name == "ece")
            estimate = run.scores[model, "vehicles-test"][metric]
            assert (cell.text, cell.sort) == (percent(estimate.value), estimate.value)
            assert cell.small == f"[{percent(estimate.low)}, {percent(estimate.high)}]"
        for probe in ("context", "night"):
            gap = run.gaps_of("accuracy")[model, f"vehicles-{probe}"]
            cell = columns["Gap, points", probe].cells[row]
            assert (cell.text, cell.sort) == (percent(gap.gap.value, True), gap.gap.value)
        if model in PARAMETERS:
            n = PARAMETERS[model]
            assert [own[t].sort for t in ("Parameters", "FLOPs", "Size")] == [n, 9 * n, 4 * n]
    assert columns["Cost", "Latency"].cells[0].text == "1.50"
    assert columns["Cost", "Latency"].cells[0].small == "p95 2.50"
    swin = columns["Cost", "Size"].cells[2]
    assert (swin.text, swin.sort) == ("–", -np.inf)  # not measured: last in every order
    assert "a processor, threads: 2" in found.caption


def test_confusion_matrices_and_pairs_are_those_of_the_predictions(measured: tuple[Path, Said]) -> None:
    folder, said = measured
    for dataset in ("vehicles-test", "vehicles-night"):
        p = said["vehicles/vgg", dataset]
        shown = table(part(folder, "model-vgg"), f"Confusion matrix of vgg on {dataset.removeprefix('vehicles-')}")
        for true, row in enumerate(shown):
            counts = [int(((p.labels == true) & (p.predicted == k)).sum()) for k in range(len(CLASSES))]
            n = sum(counts)
            assert row[0] == f"{CLASSES[true]} {n}"
            assert row[1:] == [f"{c}{percent(c / n)}" if c else "0" for c in counts]
    p = said["vehicles/vgg", "vehicles-night"]
    wrong = {(a, b): int(((p.labels == a) & (p.predicted == b)).sum()) for a in range(8) for b in range(8) if a != b}
    a, b = max(wrong, key=lambda k: (wrong[k], tuple(-ord(c) for c in CLASSES[k[0]])))
    n, images = wrong[a, b], int((p.labels == a).sum())
    text = part(folder, "model-vgg").split("Most confused on night")[1].split("</ul>")[0]
    first = plain(text.split("<li>")[1].split("</li>")[0])
    assert re.fullmatch(rf"\w+ taken for \w+ {n} times of \d+ \({re.escape(percent(n / images))} %\)", first)
    assert text.count("<li>") == MOST_PAIRS


def test_bars_are_those_of_the_classes(measured: tuple[Path, Said]) -> None:
    folder, _ = measured
    with (folder / "per_class.csv").open() as stream:
        rows = {(r["class"], r["dataset"]): r for r in csv.DictReader(stream) if r["model"] == "vehicles/swin"}
    source = part(folder, "model-swin")
    for score, title in (("recall", "Recall"), ("precision", "Precision"), ("f1", "F1")):
        shown = table(source, f"{title} of swin by class")
        assert [row[0] for row in shown] == list(CLASSES)
        for name, *cells in shown:
            sets = ("vehicles-test", "vehicles-context", "vehicles-night")
            assert cells == [percent(float(rows[name, d][score])) for d in sets]
    bus = rows["bus", "vehicles-night"]["recall"], rows["bus", "vehicles-test"]["recall"]
    night, test = (f"{100 * float(x):.1f}%" for x in bus)
    assert f"--v:{night};--d:{test}" in source  # its bar, and where it is in distribution


def test_other_predictions_give_another_page(measured: tuple[Path, Said], tmp_path: Path) -> None:
    folder, _ = measured
    write_run(tmp_path, ACCURACIES, resamples=20, seed=5)
    add_files(tmp_path)
    report.build(tmp_path)
    for label in ("Confusion matrix of vit on test", "Recall of vit by class", "Scores of vit on every set"):
        assert table(part(folder, "model-vit"), label) != table(part(tmp_path, "model-vit"), label)
    assert table(part(folder, "model-vit"), "Depths of vit") == table(part(tmp_path, "model-vit"), "Depths of vit")


def test_a_card_is_told(measured: tuple[Path, Said]) -> None:
    folder, _ = measured
    run = read(folder)
    told = dict(next(p for p in model_page.pages(run, read_model_files(run)) if p.shown == "vit").facts)
    assert told["Recipe"] == "vehicles"
    assert told["Epochs"] == "7, the weights are those of epoch 6"
    assert told["Optimiser"] == "adamw, lr 0.002"  # what is zero is off
    assert told["Training data"] == f"vehicles-train, 3,200 images, fingerprint {'ab' * 8}…"
    assert told["Training time"] == "10 min"
    assert told["SHA-256 of the weights"] == "cd" * 32
    assert "Learning curves" in part(folder, "model-vit")
    assert "Learning curves" not in part(folder, "model-vgg")  # it has no card


def test_the_diagram_is_that_of_the_depths(measured: tuple[Path, Said]) -> None:
    folder, _ = measured
    run = read(folder)
    net = architecture(read_model_files(run).depths["vehicles/vit"])
    assert net is not None
    assert net.pixels == (96, 96)
    assert [s.name for s in net.steps] == ["stem", "layer1.0", "logits"]
    assert [s.parameters for s in net.steps] == [
        "1\N{NO-BREAK SPACE}k",
        "30\N{NO-BREAK SPACE}k",
        "9\N{NO-BREAK SPACE}k",
    ]
    assert [s.flop_share for s in net.steps] == [0.25, 0.5, 0.25]
    stem, layer = net.steps[0], net.steps[1]
    assert stem.height == pytest.approx(2**0.5 * layer.height, abs=0.02)  # twice the rows
    assert "most of them (75 %) on the way to layer1.0" in plain(net.summary)
    assert table(part(folder, "model-vit"), "Depths of vit")[1] == [
        *("layer1.0", "128 × 12 × 12", "8", "NCHW", "75.0", "30,000", "500")
    ]


# -- the parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "–"), (float("nan"), "–"), (999, "999"), (999.6, "1 k"), (123_456, "123 k"), (2.5e9, "2.5 G"), (1e13, "10 T")],
)
def test_amounts(value: float, text: str) -> None:
    assert plain(amount(value)) == text


def test_answers_outside_the_set_are_columns_of_their_own() -> None:
    found = confusion("d", "d", {("a", "a"): 3, ("a", "b"): 1, ("a", "x"): 2, ("b", "x"): 1}, ["b", "a"], 100)
    assert found.columns == ("b", "a", "x")
    assert [(r.name, r.images, [c[0] for c in r.cells]) for r in found.rows] == [
        ("b", 1, [0, 0, 1]),
        ("a", 6, [1, 3, 2]),
    ]
    assert (found.images, found.wrong) == (7, 4)
    assert tuple(map(plain, found.pairs[:2])) == (
        "a taken for x 2 times of 6 (33.3 %)",
        "a taken for b once of 6 (16.7 %)",
    )


def test_many_classes_show_the_most_confused_pairs_only() -> None:
    names = [f"class {i:03d}" for i in range(MOST_CLASSES + 1)]
    answers = {(a, b): 9 if a == b else 1 for a in names for b in names}
    found = confusion("d", "d", answers, names, 10**6)
    assert found.rows == ()
    assert len(found.pairs) == MOST_PAIRS
    assert confusion("d", "d", {("a", "a"): 1}, ["a"], 0).rows == ()  # no room on the page


def test_curves_stay_in_their_frame() -> None:
    history = [{"epoch": e, "loss": v, "accuracy": 0.5} for e, v in ((1, 3.0), (2, 0.7), (3, 0.69))]
    accuracy, loss = charts(history, kept=3)
    for chart in (accuracy, loss):
        for _, _, points in chart.lines:
            xy = np.array([[float(v) for v in p.split(",")] for p in points.split()])
            assert (xy[:, 0] >= 0).all()
            assert (xy[:, 0] <= 320).all()
            assert (xy[:, 1] >= 0).all()
            assert (xy[:, 1] <= 150).all()
        assert 3 <= len(chart.ticks) <= 7
        assert chart.kept == 320
    assert loss.alt == "Loss over epochs 1 to 3: training from 3.000 to 0.690; epoch 3 was kept"
    shown = history_table(history, "net")
    assert shown is not None
    assert [[c.text for c in row] for row in shown.rows] == [
        ["1", "50.0", "3"],
        ["2", "50.0", "0.7"],
        ["3", "50.0", "0.69"],
    ]
    assert charts([{"epoch": 1, "loss": 2.0}], 1) == []  # a point is no curve
    assert charts([{"epoch": "x"}, 3, {"epoch": 1, "loss": float("nan")}], 1) == []  # type: ignore[list-item]


# -- what comes from outside -------------------------------------------------------------------------------------------


def test_names_never_become_markup(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    classes = (evil, '"quoted" & co', *CLASSES[2:])
    write_run(tmp_path, {f"z/{evil}": {"test": 0.8, evil: 0.5}, "z/b": {"test": 0.7, evil: 0.4}}, in_dist="test",
              classes=classes, resamples=5)  # fmt: skip
    rows = [{"model": f"z/{evil}", "depth": evil, "path": evil, "position": 0.5, "stride": "4", "shape": "8x8x8"}]
    rows = [row | {"layout": evil, "parameters": 5, "flops": 7} for row in rows]
    write_csv(tmp_path / "depths.csv", DEPTHS, rows)
    card = {"model": f"z/{evil}", "builder": evil, "training": {"recipe": evil, "history": [{evil: evil}]}}
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "x.json").write_text(json.dumps(card))
    source = report.build(tmp_path).read_text(encoding="utf-8")
    assert "<img src=x" not in source
    assert source.count(html.escape(evil)) > 20
    anchors = [anchor for _, anchor, _ in model_table(read(tmp_path), read_model_files(read(tmp_path))).rows]
    assert all(re.fullmatch(r"model-[\w.-]+", anchor) for anchor in anchors)


def test_every_model_has_an_anchor_of_its_own(tmp_path: Path) -> None:
    write_run(tmp_path, {name: {"test": 0.9} for name in ("a b", "a/b", "a-b", "é")}, in_dist="test", resamples=2)
    found = model_page.anchors(read(tmp_path))
    assert found == {"a b": "model-a-b", "a/b": "model-a-b~2", "a-b": "model-a-b~3", "é": "model-é"}


def test_a_run_without_these_files(tmp_path: Path) -> None:
    """What other tools published: no costs, no depths, no cards, no counts."""
    write_run(tmp_path, ACCURACIES, resamples=2)
    (tmp_path / "confusion.csv").unlink()
    report.build(tmp_path)
    source = part(tmp_path, "model-vit")
    for heading in ("What it takes for what", "Architecture", "Learning curves"):
        assert heading not in source
    assert "Class by class" in source
    assert "Recipe and card" in source


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("costs.csv", "model,parameters\nvehicles/vit,3\n", "row 1: expected a column 'device'"),
        ("costs.csv", ",".join(COSTS) + "\nvehicles/vit,x,1,1,1,1,1,cpu,1\n", "a number under 'parameters', got 'x'"),
        ("costs.csv", ",".join(COSTS) + "\nvehicles/vit,-1,1,1,1,1,1,cpu,1\n", "at least 0 under 'parameters'"),
        ("depths.csv", ",".join(DEPTHS) + "\nvehicles/vit,a,a,0,1,8x0x8,NCHW,1,1\n", "a shape such as 64x8x8"),
        ("depths.csv", ",".join(DEPTHS) + "\nvehicles/vit,a,a,0,1,8x8x8,NCHW,1.5,1\n", "a whole number"),
        ("confusion.csv", "model,dataset,class,predicted,n\nvehicles/vit,vehicles-test,a,b,\n", "a whole number"),
        ("cards/a.json", "[1]", "one JSON object with the name of its model"),
        ("cards/a.json", "[" * 100_000, "is not JSON"),
    ],
)
def test_broken_files_are_refused_with_the_place(tmp_path: Path, file: str, content: str, said: str) -> None:
    write_run(tmp_path, {"vehicles/vit": {"vehicles-test": 0.9}}, resamples=2)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    with pytest.raises(InputError, match=re.escape(said)):
        report.build(tmp_path)


def test_a_card_of_the_wrong_kinds_is_told_as_far_as_it_goes(tmp_path: Path) -> None:
    write_run(tmp_path, {"vehicles/vit": {"vehicles-test": 0.9}}, resamples=2)
    odd: dict[str, Any] = {"model": "vehicles/vit", "builder": 3, "training": {"settings": [1], "epochs": {}}}
    odd |= {"classes": "x", "preprocess": {"input_size": 3}, "scores": [1, {"metric": "accuracy", "value": "y"}]}
    odd["training"] |= {"phases": [{"parts": 3}], "seconds": "long", "kept": "last", "history": {"a": 1}}
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "a.json").write_text(json.dumps(odd))
    report.build(tmp_path)
    assert "Built by</dt><dd>3<" in part(tmp_path, "model-vehicles-vit")


def test_the_index_leads_to_the_models_of_the_report(measured: tuple[Path, Said], tmp_path: Path) -> None:
    folder, _ = measured
    source = report.index(folder, "All", [], run=folder).read_text(encoding="utf-8")
    assert '<a href="report.html#model-vit">vit</a>' in source
    (folder / "index.html").unlink()
    write_run(tmp_path, {"net": {"vehicles-test": 0.9}}, resamples=2)
    source = report.index(tmp_path, "All", [], run=tmp_path).read_text(encoding="utf-8")
    assert "#model-net" not in source  # there is no page of the run that it could lead to


# -- in a browser ------------------------------------------------------------------------------------------------------


def names(tab: browser.Tab, selector: str = "table.models") -> list[str]:
    return tab.page.locator(f"{selector} tbody tr:not([hidden]) > th").all_inner_texts()


def test_browser_opens_a_model_by_click_and_by_keyboard_and_closes_it(
    visit: Visit, measured: tuple[Path, Said]
) -> None:
    tab = visit(measured[0] / "report.html")
    page = tab.page
    model = page.locator("details.model", has=page.locator("#model-vgg"))
    focused = "document.activeElement.textContent.trim()"
    page.locator("table.models tbody tr", has_text="vgg").locator("td").first.click()
    assert page.locator("#model-vgg").is_visible()
    assert page.url.endswith("#model-vgg")
    assert page.evaluate(focused).startswith("vgg")
    model.get_by_role("button", name="Close").first.click()
    assert not page.locator("#model-vgg").is_visible()
    assert page.evaluate(focused) == "vgg"  # back at the link in the table
    assert page.evaluate("document.activeElement.tagName") == "A"
    page.keyboard.press("Enter")
    assert page.locator("#model-vgg").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#model-vgg").is_visible()
    assert len(tab.requests) == 1
    assert tab.complaints == []


def test_browser_follows_a_link_to_a_model(visit: Visit, measured: tuple[Path, Said]) -> None:
    tab = visit((measured[0] / "report.html").resolve().as_uri() + "#model-swin")
    assert tab.page.locator("#model-swin").is_visible()
    assert not tab.page.locator("#model-vit").is_visible()
    tab.page.evaluate("location.hash = 'model-vit'")
    tab.page.locator("#model-vit").wait_for(state="visible")


def test_browser_saves_a_learning_curve(visit: Visit, measured: tuple[Path, Said]) -> None:
    page = visit((measured[0] / "report.html").resolve().as_uri() + "#model-vit").page
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download model-vit-loss as SVG").click()
    drawn = ElementTree.parse(waiting.value.path())
    lines = drawn.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert [line.get("stroke") for line in lines] == ["#5b6069", "#0072b2"]  # it needs no style sheet
    assert len((lines[0].get("points") or "").split()) == 7


def saved(page: Any, place: str, kind: str, folder: Path) -> Path:
    """What a button saves, under the name it proposes."""
    with page.expect_download() as waiting:
        page.locator(f"{place} .save [data-kind={kind}]").first.click()
    path = folder / str(waiting.value.suggested_filename)
    waiting.value.save_as(path)
    return path


def test_browser_saves_a_matrix_as_it_is_shown(visit: Visit, measured: tuple[Path, Said], tmp_path: Path) -> None:
    folder, said = measured
    tab = visit((folder / "report.html").resolve().as_uri() + "#model-vit", dark=True)
    place = "details.model[open] .confused:visible"
    files = {kind: saved(tab.page, place, kind, tmp_path) for kind in ("csv", "svg", "png")}
    assert {path.name for path in files.values()} == {f"model-vit-confusion-test.{kind}" for kind in files}
    p = said["vehicles/vit", "vehicles-test"]
    with files["csv"].open(encoding="utf-8") as stream:
        head, *rows = csv.reader(stream)
    assert head[1:] == list(CLASSES)
    counts = [[int(((p.labels == i) & (p.predicted == j)).sum()) for j in range(8)] for i in range(8)]
    assert [[int(n) for n in row[1:]] for row in rows] == counts
    drawn = ElementTree.parse(files["svg"]).getroot()
    texts = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    body = [[CLASSES[true], str(sum(row)), *map(str, row)] for true, row in enumerate(counts)]
    assert texts[-80:] == [text for row in body for text in row]
    shades = [r.get("fill") for r in drawn.iter("{http://www.w3.org/2000/svg}rect")]
    assert shades[0] == "#fff"  # paper, whatever the page's colours are
    assert tab.page.evaluate("document.documentElement.className") == "scripted"
    with Image.open(files["png"]) as picture:
        width, height = float(drawn.get("width") or 0), float(drawn.get("height") or 0)
        assert picture.width == pytest.approx(width * 300 / 96, abs=1)
        assert picture.height == pytest.approx(height * 300 / 96, abs=2)
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 50
    assert tab.complaints == []


def test_browser_saves_the_diagram_and_its_numbers(visit: Visit, measured: tuple[Path, Said], tmp_path: Path) -> None:
    page = visit((measured[0] / "report.html").resolve().as_uri() + "#model-vit").page
    place = "details.model[open] [data-paint='.net']"
    drawn = ElementTree.parse(saved(page, place, "svg", tmp_path)).getroot()
    texts = {text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {"pixels", "stem", "layer1.", "logits", "64 × 24 × 24", "30 k"} <= texts
    with saved(page, place, "csv", tmp_path).open(encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    assert [row[0] for row in rows] == ["Depth", "stem", "layer1.0", "logits"]
    assert [row[5:] for row in rows[1:]] == [["1000", "250"], ["30000", "500"], ["9000", "250"]]


def test_browser_saves_the_bars_of_classes(visit: Visit, measured: tuple[Path, Said], tmp_path: Path) -> None:
    folder, said = measured
    tab = visit((folder / "report.html").resolve().as_uri() + "#model-vit", dark=True)
    drawn = ElementTree.parse(saved(tab.page, "details.model[open] [data-score=recall]", "svg", tmp_path)).getroot()
    rectangles = [dict(r.attrib) for r in drawn.iter("{http://www.w3.org/2000/svg}rect")]
    lines = [r for r in rectangles if r.get("width") == "2" and r["fill"] == "#1b1d21"]  # the ink of paper
    p, night = said["vehicles/vit", "vehicles-test"], said["vehicles/vit", "vehicles-night"]
    assert len(lines) == 8 * (len({d for m, d in said if m == "vehicles/vit"}) - 1)  # where it is in distribution
    lengths = {}
    for i, r in enumerate(rectangles[:-1]):  # a bar lies on its background, which begins where it begins
        bar = rectangles[i + 1]
        if (
            r.get("x") == bar.get("x")
            and r.get("height") == bar.get("height")
            and float(bar["width"]) <= float(r["width"])
        ):
            lengths.setdefault(r["y"], []).append(float(bar["width"]) / float(r["width"]))
    first = next(iter(lengths.values()))
    for of in (p, night):
        recall = float((of.predicted[of.labels == 0] == 0).mean())
        assert any(length == pytest.approx(recall, abs=0.02) for length in first)
    assert tab.complaints == []


def test_browser_saves_tables_with_full_precision(visit: Visit, measured: tuple[Path, Said], tmp_path: Path) -> None:
    folder, _ = measured
    page = visit(folder / "report.html").page
    assert saved(page, "[data-metric=accuracy]", "csv", tmp_path).read_bytes() == (folder / "gaps.csv").read_bytes()
    with saved(page, "[data-paint]:has(> .scroll > table.models)", "csv", tmp_path).open(encoding="utf-8") as stream:
        first = next(csv.DictReader(stream))
    scores = read(folder).scores[f"vehicles/{first['Model']}", "vehicles-test"]
    assert float(first["Accuracy"]) == scores["accuracy"].value  # a fraction, under a heading without a unit


@pytest.mark.parametrize("kind", ["heat", "confusion"])
def test_browser_tells_what_a_cell_is_by_keys(visit: Visit, measured: tuple[Path, Said], kind: str) -> None:
    folder, said = measured
    page = visit((folder / "report.html").resolve().as_uri() + "#model-vit").page
    table = page.locator(f"table.{kind}:visible").first
    told = page.locator(f".scroll:has(table.{kind}:visible) + output.told").first
    table.locator("tbody td").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")  # there is nothing above
    heads = [h.split("\n")[0].strip(" ↕") for h in table.locator("thead tr").last.locator("th").all_inner_texts()]
    assert table.locator("td[tabindex='0']").count() == 1
    if kind == "heat":
        model = table.locator("tbody th").first.inner_text()
        gap = read(folder).gaps_of("accuracy")[f"vehicles/{model}", f"vehicles-{heads[2]}"]
        assert told.inner_text().startswith(f"{model}, {heads[2]}: {percent(gap.gap.value, True)}; [")
        assert f"{percent(gap.in_dist_value)} → {percent(gap.probe_value)}" in told.inner_text()
    else:
        p = said["vehicles/vit", "vehicles-test"]
        n, of = int(((p.labels == 0) & (p.predicted == 1)).sum()), int((p.labels == 0).sum())
        share = f" ({percent(n / of)} %)" if n else ""
        assert told.inner_text() == f"{CLASSES[0]} taken for {CLASSES[1]}: {n}{share} of {of} images"


def test_browser_hides_columns(visit: Visit, measured: tuple[Path, Said]) -> None:
    wide, narrow = (visit(measured[0] / "report.html", width) for width in (1440, 360))
    shown = "table.models thead tr:last-child th:visible"
    assert 8 < wide.page.locator(shown).count() < 16  # as many as fit
    wide.page.locator("details.columns summary").click()
    wide.page.get_by_role("button", name="All columns").click()
    everything = wide.page.locator(shown).all_inner_texts()
    assert len(everything) == 1 + 6 + 2 + 3 + 4  # model, scores, gaps, outside, cost
    assert "night" in " ".join(everything)
    few = narrow.page.locator(shown).all_inner_texts()
    assert 2 <= len(few) <= 4
    assert few[1].startswith("Accuracy")
    frame = narrow.page.locator(".scroll", has=narrow.page.locator("table.models"))
    assert frame.evaluate("e => e.scrollWidth <= e.clientWidth")
    wide.page.get_by_label("Gap on each probe set").uncheck()
    texts = " ".join(wide.page.locator(shown).all_inner_texts())
    assert "night" not in texts
    assert "Gap, points" not in wide.page.locator("tr.groups th:visible").all_inner_texts()
    assert "(13 of 15 shown)" in wide.page.locator(".columns .note").inner_text()
    wide.page.get_by_role("button", name="All columns").click()
    assert wide.page.locator(shown).all_inner_texts() == everything


def test_browser_filters_by_name_and_by_number(visit: Visit, measured: tuple[Path, Said]) -> None:
    page = (tab := visit(measured[0] / "report.html")).page
    page.locator(".filter-column").select_option(label="Size (MB)")
    page.locator(".filter-number").fill("4")
    assert names(tab) == ["vit"]
    assert names(tab, "[data-metric=accuracy] table") == ["vit"]
    page.locator(".filter-side").select_option("least")
    assert names(tab) == ["resnet", "vgg"]  # swin was not measured
    assert page.locator("#model-tools output").inner_text() == "2 of 4"
    page.locator("input.filter").fill("G")
    assert names(tab) == ["vgg"]
    page.locator("input.filter").fill("")
    page.locator(".filter-number").fill("")
    assert len(names(tab)) == 4


def test_browser_chooses_set_cells_and_score(visit: Visit, measured: tuple[Path, Said]) -> None:
    folder, said = measured
    page = visit((folder / "report.html").resolve().as_uri() + "#model-vit").page
    model = page.locator("details.model[open]")
    matrix = model.locator("table.confusion:visible")
    assert matrix.count() == 1
    p = said["vehicles/vit", "vehicles-context"]
    right = int(((p.labels == 0) & (p.predicted == 0)).sum())
    model.locator(".pick-set").select_option(label="context")
    assert "vit on context" in matrix.locator("caption").inner_text()
    first = matrix.locator("tbody td").first
    assert first.inner_text() == str(right)
    model.locator(".pick-cells").select_option("shares")
    assert first.inner_text() == percent(right / int((p.labels == 0).sum()))
    bars = model.locator("table.levels:visible")
    assert bars.locator("caption").all_inner_texts()[0].startswith("Recall of vit")
    model.locator(".pick-score").select_option("f1")
    assert bars.count() == 1
    assert bars.locator("caption").inner_text().startswith("F1 of vit")


def test_browser_without_scripts_shows_the_same(visit: Visit, measured: tuple[Path, Said]) -> None:
    page = visit(measured[0] / "report.html", scripts=False).page
    model = page.locator("details.model", has=page.locator("#model-vit"))
    model.locator("summary").first.click()
    assert model.locator("table.confusion:visible").count() == 3
    assert model.locator("table.levels:visible").count() == 3
    assert model.locator("table.confusion td.right small:visible").count() > 0
    assert page.locator(".js:visible").count() == 0


@browser.WIDTHS
@browser.SCHEMES
def test_browser_models_fit_and_can_be_read_by_all(
    visit: Visit, measured: tuple[Path, Said], width: int, dark: bool
) -> None:
    tab = visit((measured[0] / "report.html").resolve().as_uri() + "#model-vit", width, 800, dark)
    tab.page.evaluate(
        "document.querySelectorAll('details.model[open] details, details.columns').forEach(d => d.open = true)"
    )
    assert tab.page.evaluate("document.scrollingElement.scrollWidth") <= width
    assert browser.violations(tab.page, "[aria-labelledby=models], details.model[open]") == []
    assert tab.complaints == []
