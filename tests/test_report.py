"""The page of a run: says what the files say, lets nothing of them become markup, works in a browser."""

from __future__ import annotations

import base64
import csv
import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, PngImagePlugin

import browser
from gradlens import report
from gradlens.errors import InputError
from gradlens.records import Predictions, Skipped
from gradlens.report import answers
from gradlens.report.pictures import embed
from gradlens.report.run_files import read
from gradlens.shift.tables import percent
from runs import CLASSES, write_run

ACCURACIES = {
    "vehicles/resnet": {
        "vehicles-test": 0.97,
        "vehicles-context": 0.78,
        "vehicles-night": 0.9,
        "vehicles-internet": 0.5,
    },
    "vehicles/vit": {"vehicles-test": 0.93, "vehicles-context": 0.85, "vehicles-night": 0.88, "vehicles-internet": 0.7},
    "vehicles/vgg": {"vehicles-test": 0.88, "vehicles-context": 0.55, "vehicles-night": 0.7, "vehicles-internet": 0.45},
    "vehicles/swin": {"vehicles-test": 0.95, "vehicles-context": 0.8, "vehicles-night": 0.6, "vehicles-internet": 0.62},
}


def paint(path: Path, width: int = 400, height: int = 200, noise: bool = False, **said: str) -> Path:
    """A picture file, with text for the page in the chunk that gradlens writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((height, width, 3), 240, np.uint8)
    if noise:
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text("gradlens", json.dumps(said))
    Image.fromarray(pixels).save(path, pnginfo=chunk, dpi=(300, 300))
    return path


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, str], Predictions]]:
    folder = tmp_path_factory.mktemp("run")
    said = write_run(folder, ACCURACIES, skipped=[Skipped("broken.jpg", "not an image")])
    paint(folder / "figures" / "gap_heatmap.png", 2070, 900)
    paint(folder / "figures" / "confusion-vehicles--vgg.png", 2070, 900)
    (folder / "figures" / "gap_heatmap.pdf").write_bytes(b"%PDF")
    report.build(folder)
    return folder, said


@pytest.fixture
def run(measured: tuple[Path, dict[tuple[str, str], Predictions]], tmp_path: Path) -> Path:
    """A copy of the run for a test that changes it, without its page."""
    shutil.copytree(measured[0], tmp_path / "run", ignore=shutil.ignore_patterns("report.html", "figures", "demo"))
    return tmp_path / "run"


@pytest.fixture(scope="module")
def one_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    write_run(folder, {"net": {"vehicles-test": 0.9}})
    return folder


class Seen(HTMLParser):
    """What a browser would make of a page: elements with attributes, ids, and text by element."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._inside: str = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside == "script" and "type" not in self.elements[-1][1]:  # the others hold data
            self.scripts.append(data)
        elif self._inside != "style":
            self.text.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def plain(text: str) -> str:
    return re.sub(r"<[^>]+>", "", text).replace("\N{NO-BREAK SPACE}", " ")


# -- what it says -----------------------------------------------------------------------------------------------------


def test_a_model_that_guesses_is_no_robust_one(tmp_path: Path) -> None:
    """At the share of the largest class there is nothing to lose; the page says so and picks another."""
    write_run(
        tmp_path / "run",
        {
            "good": {"vehicles-test": 0.9, "vehicles-night": 0.6},
            "coin": {"vehicles-test": 0.12, "vehicles-night": 0.12},
        },
    )
    found = read(tmp_path / "run")
    assert answers.guessing(found) == ["coin"]
    robust = next(p for p in answers.answer(found).picks if p.title == "Most robust")
    assert robust.models == ("good",)
    said = [plain(s) for s in answers.answer(found).sentences]
    assert any(s.startswith("coin is no better than naming the largest class every time") for s in said)
    assert not any("coin" in s for s in said if "keeps" in s)


def test_sentences_state_the_measured_numbers(measured: tuple[Path, dict[tuple[str, str], Predictions]]) -> None:
    folder, said = measured
    accuracy = {key: float((p.predicted == p.labels).mean()) for key, p in said.items()}
    sentences = [plain(s) for s in answers.answer(read(folder)).sentences]
    best = max((m for m in ACCURACIES), key=lambda m: accuracy[m, "vehicles-test"])
    assert f"{best.removeprefix('vehicles/')} is the most accurate on vehicles-test" in sentences[0]
    assert f"{percent(accuracy[best, 'vehicles-test'])} % [" in sentences[0]
    assert "of 160 images" in sentences[0]
    kept = {m: accuracy[m, "vehicles-internet"] / accuracy[m, "vehicles-test"] for m in ACCURACIES}
    most, least = max(kept, key=lambda m: kept[m]), min(kept, key=lambda m: kept[m])
    assert "hardest probe set is internet" in sentences[1]
    assert f"{most.removeprefix('vehicles/')} keeps the most of its accuracy, {percent(kept[most])} %" in sentences[1]
    assert f"{least.removeprefix('vehicles/')} the least, {percent(kept[least])} %" in sentences[1]
    gap = percent(accuracy[least, "vehicles-test"] - accuracy[least, "vehicles-internet"])
    assert f"{gap} points [" in sentences[1]
    assert "160 pairs of images" in sentences[1]


def test_every_sentence_and_pick_follows_the_predictions(tmp_path: Path) -> None:
    """The same models with each other's predictions, and with the sets' predictions exchanged, read differently."""
    names, rows = list(ACCURACIES), list(ACCURACIES.values())
    mixed = {
        "vehicles-test": "vehicles-test",
        "vehicles-context": "vehicles-internet",
        "vehicles-night": "vehicles-context",
        "vehicles-internet": "vehicles-night",
    }
    sizes = (4_000_000, 1_000_000, 3_000_000, 2_000_000)

    def costs(order: Sequence[int]) -> dict[str, Any]:
        return {"models": [{"name": name, "parameters": sizes[i]} for name, i in zip(names, order, strict=True)]}

    write_run(tmp_path / "one", ACCURACIES, about=costs(range(4)))
    other = {
        names[i]: {d: rows[(i + 1) % 4][mixed[d]] * (0.98 if d == "vehicles-test" else 1) for d in mixed}
        for i in range(4)
    }
    write_run(tmp_path / "two", other, seed=11, about=costs(range(4)))
    write_run(tmp_path / "three", other, seed=11, about=costs([1, 2, 3, 0]))  # what they cost goes with the predictions
    flops = {name: 2.0 * size for name, size in zip(names, sizes, strict=True)}
    moved = {name: flops[names[(i + 1) % 4]] for i, name in enumerate(names)}
    first = answers.answer(read(tmp_path / "one"), flops)
    second, third = answers.answer(read(tmp_path / "two"), flops), answers.answer(read(tmp_path / "three"), moved)
    assert not set(first.sentences) & set(second.sentences)
    assert not set(first.sentences) & set(third.sentences)
    titles = ["Best in distribution", "Best outside", "Most robust", "Smallest", "Balanced", "Mobile"]
    chosen = [{p.title: (p.models, p.value) for p in found.picks} for found in (first, second, third)]
    assert [list(picks) for picks in chosen] == [titles] * 3
    # the smallest is the same whatever it says; every other pick follows the predictions
    assert [title for title in titles if chosen[0][title] == chosen[1][title]] == ["Smallest"]
    # and where the costs move with them, so does the smallest
    assert [title for title in titles if chosen[0][title] == chosen[2][title]] == []


def test_equally_good_models_are_all_named(tmp_path: Path) -> None:
    said = write_run(tmp_path, {name: {"vehicles-test": 0.9} for name in ("a", "b", "c")}, resamples=2)
    rows = (tmp_path / "summary.csv").read_text().splitlines()
    first = [row for row in rows if row.startswith("a,")]
    same = [rows[0], *first, *(row.replace("a,", f"{name},", 1) for name in "bc" for row in first)]
    (tmp_path / "summary.csv").write_text("\n".join(same) + "\n")
    value = percent(float((said["a", "vehicles-test"].predicted == said["a", "vehicles-test"].labels).mean()))
    assert plain(answers.answer(read(tmp_path)).sentences[0]).startswith(
        f"a, b and c are the most accurate on vehicles-test: {value} %"
    )


def test_picks_keep_their_rules(measured: tuple[Path, dict[tuple[str, str], Predictions]]) -> None:
    folder, said = measured
    accuracy = {key: float((p.predicted == p.labels).mean()) for key, p in said.items()}
    probes = [d for d in ACCURACIES["vehicles/vit"] if d != "vehicles-test"]
    mean = {m: float(np.mean([accuracy[m, d] for d in probes])) for m in ACCURACIES}
    picks = {p.title: p for p in answers.answer(read(folder)).picks}
    assert picks["Best outside"].models == (max(mean, key=lambda m: mean[m]),)
    assert picks["Best outside"].value == f"{percent(max(mean.values()))} %"
    kept = {m: 3 * mean[m] / (3 * accuracy[m, "vehicles-test"]) for m in ACCURACIES}
    assert picks["Most robust"].models == (max(kept, key=lambda m: kept[m]),)
    assert picks["Smallest"].models == (
        "vehicles/resnet",
    )  # the first has the fewest parameters in the test's run.json
    near = [m for m in ACCURACIES if mean[m] >= max(mean.values()) - 0.02]
    assert picks["Balanced"].models == (near[0],)
    assert "Mobile" not in picks  # nothing counted the FLOPs
    flops = {m: 1e9 * (1 + i) for i, m in enumerate(reversed(ACCURACIES))}
    light = [m for m in flops if mean[m] >= max(mean.values()) - 0.05]
    mobile = next(p for p in answers.answer(read(folder), flops).picks if p.title == "Mobile")
    assert mobile.models == (light[0],)
    assert mobile.value == f"{flops[light[0]] / 1e9:.3g} GFLOPs"


def cells(page: Path, label: str) -> list[list[str]]:
    """The texts of a table's body, found by the beginning of its region's label."""
    source = page.read_text(encoding="utf-8")
    part = next(x for x in source.split('<div class="scroll"')[1:] if f'aria-label="{label}' in x.split(">")[0])
    body = part.split("<tbody>")[1].split("</tbody>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.S)
    return [[plain(c) for c in re.findall(r"<(?:td|th)[^>]*>(.*?)</(?:td|th)>", row, re.S)] for row in rows]


def test_the_gap_table_has_every_gap_with_its_interval(
    measured: tuple[Path, dict[tuple[str, str], Predictions]],
) -> None:
    folder, _ = measured
    shown = {row[0]: row[1:] for row in cells(folder / "report.html", "Accuracy on vehicles-test (n = 160) minus")}
    with (folder / "gaps.csv").open() as stream:
        rows = [r for r in csv.DictReader(stream) if r["metric"] == "accuracy" and r["label_space"] == "shared"]
    assert len(rows) == 12
    mean = {p: np.mean([float(r["gap"]) for r in rows if r["probe"] == p]) for p in {r["probe"] for r in rows}}
    order = sorted(mean, key=lambda p: mean[p])  # mildest first
    for row in rows:
        column = order.index(row["probe"])
        interval = f"[{percent(float(row['low']))}, {percent(float(row['high']))}]"
        assert shown[row["model"].removeprefix("vehicles/")][column] == percent(float(row["gap"]), True) + interval


def test_a_lower_is_better_metric_colours_the_other_way(run: Path) -> None:
    source = report.build(run).read_text()
    nll = source.split('data-metric="nll"')[1].split("</table>")[0]
    assert 'class="loss"' in nll
    assert "−" in nll  # in distribution minus probe is negative where the probe's error is larger
    assert "less is better" in nll


def test_skipped_inputs_and_provenance_are_on_the_page(
    measured: tuple[Path, dict[tuple[str, str], Predictions]],
) -> None:
    folder, _ = measured
    text = " ".join(Seen(folder / "report.html").text)
    for wanted in ("broken.jpg", "not an image", "gradlens shift-eval", "torch 2.15.0", "Clopper-Pearson", "2 threads"):
        assert wanted in text


def test_the_same_files_give_the_same_page(measured: tuple[Path, dict[tuple[str, str], Predictions]]) -> None:
    folder, _ = measured
    before = (folder / "report.html").read_bytes()
    assert report.build(folder).read_bytes() == before


def test_confusion_matrices_stand_with_their_model(measured: tuple[Path, Any], tmp_path: Path) -> None:
    """As tables; as the picture where the run left no counts."""
    assert "confusion-vehicles--vgg" not in (measured[0] / "report.html").read_text()
    shutil.copytree(measured[0], tmp_path / "run")
    (tmp_path / "run" / "confusion.csv").unlink()
    before, after = report.build(tmp_path / "run").read_text().split('id="model-vgg"')
    assert "confusion-vehicles--vgg" not in before
    assert "confusion-vehicles--vgg" in after.split('<details class="model">')[0].split("</section>")[0]


# -- smaller runs and broken ones -------------------------------------------------------------------------------------


def test_one_model_onone_set(one_set: Path) -> None:
    page = Seen(report.build(one_set))
    text = " ".join(" ".join(page.text).split())
    assert "1 model on vehicles-test" in text
    assert "net scores on vehicles-test" in text
    assert "Generalization gaps" not in text


def test_one_model_and_one_probe(tmp_path: Path) -> None:
    write_run(tmp_path, {"net": {"vehicles-test": 0.9, "photos": 0.6}})
    sentences = [plain(s) for s in answers.answer(read(tmp_path)).sentences]
    assert sentences[1].startswith("On photos net keeps ")
    assert sentences[2] == "The interval of the gap lies above zero."


def test_too_few_classes_for_top5(tmp_path: Path) -> None:
    write_run(tmp_path, {"net": ACCURACIES["vehicles/vit"]}, classes=CLASSES[:4])
    text = " ".join(Seen(report.build(tmp_path)).text)
    assert "nan" not in text.lower().split()
    assert "Top-5" not in text.split("How it was made")[0]


def test_a_run_that_knows_little_about_itself(run: Path) -> None:
    """run.json of a future or foreign version: what is not understood is left out."""
    (run / "run.json").write_text('{"models": [1, {"name": 2}], "in_dist": 3, "warnings": "x", "confidence": "?"}')
    text = " ".join(Seen(report.build(run)).text)
    assert "Parameters" not in text
    assert "resnet" in text


def test_what_run_json_will_say_can_be_given(run: Path) -> None:
    (run / "run.json").unlink()
    with pytest.raises(InputError, match=r"no run\.json"):
        report.build(run)
    about = {"command": "by hand", "in_dist": {"name": "x", "classes": ("a", "b")}, "limits": {"missed": ["too low"]}}
    text = report.build(run, about).read_text()
    assert "by hand" in text
    assert "<li>too low</li>" in text
    (run / "run.json").write_text(json.dumps(about))
    assert report.build(run).read_text() == text


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("run.json", "[1]", "one JSON object, got list"),
        ("run.json", "{", "is not JSON"),
        ("summary.csv", "a,b\n1,2\n", "has no column 'model'"),
        ("summary.csv", "model,dataset,role,n,metric,value,low,high,interval\n", "has no scores"),
        ("summary.csv", "model,dataset,role,n,metric,value,low,high,interval\nm,d,test,x,accuracy,1,1,1,i\n", "line 2"),
        ("summary.csv", "model,dataset,role,n,metric,value,low,high,interval\nm,d,test\n", "line 2"),
        (
            "summary.csv",
            "model,dataset,role,n,metric,value,low,high,interval\nm,d,test,1,accuracy,1,2,3,i\n",
            "interval",
        ),
        ("summary.csv", None, "is missing"),
        ("figures/a.png", "no picture", "is no picture"),
    ],
)
def test_broken_runs_are_refused_with_the_place(
    one_set: Path, tmp_path: Path, file: str, content: str | None, said: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(one_set, folder, ignore=shutil.ignore_patterns("report.html"))
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=re.escape(said)):
        report.build(folder)
    assert not (folder / "report.html").exists()


def test_command(measured: tuple[Path, dict[tuple[str, str], Predictions]], tmp_path: Path) -> None:
    from gradlens.cli.report import command

    folder, _ = measured
    done = CliRunner().invoke(command, [str(folder)])
    assert done.exit_code == 0
    assert done.stdout.strip() == str(folder / "report.html")
    document = json.loads(CliRunner().invoke(command, [str(folder), "--json"]).stdout)
    assert document["report"] == str(folder / "report.html")
    assert document["bytes"] == (folder / "report.html").stat().st_size
    assert CliRunner().invoke(command, [str(tmp_path / "nowhere")]).exit_code == 2


# -- nothing of a run becomes markup ----------------------------------------------------------------------------------

EVIL = "<script>alert(1)</script>"
QUOTED = "\"'><img src=x onerror=alert(1)>"


def test_names_and_files_cannot_inject_markup(tmp_path: Path) -> None:
    classes = (EVIL, QUOTED, "a&b", "</style><b>", "{{ 7 * 7 }}", "c", "d", "e")
    accuracies = {EVIL: {QUOTED: 0.9, f"probe{EVIL}": 0.5}, f"net{QUOTED}": {QUOTED: 0.8, f"probe{EVIL}": 0.6}}
    write_run(
        tmp_path,
        accuracies,
        in_dist=QUOTED,
        classes=classes,
        skipped=[Skipped(EVIL, QUOTED)],
        about={"command": EVIL, "warnings": [EVIL, QUOTED], "versions": {EVIL: QUOTED}, "device": EVIL},
    )
    paint(tmp_path / "figures" / "a<b>'x&.png", caption=EVIL, alt=QUOTED)
    drawing = f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">{EVIL}</svg>'
    (tmp_path / "figures" / "b.svg").write_text(drawing)
    clean = tmp_path / "clean"
    write_run(clean, {"one": {"in": 0.9, "out": 0.5}, "two": {"in": 0.8, "out": 0.6}}, in_dist="in")
    usual = {tag for tag, _ in Seen(report.build(clean)).elements} | {"img", "figure", "figcaption", "details", "li"}
    for path in (
        report.build(tmp_path),
        report.index(tmp_path, EVIL, [(EVIL, QUOTED, [(tmp_path / "figures" / "a<b>'x&.png", QUOTED)])], tmp_path),
    ):
        page = Seen(path)
        assert {tag for tag, _ in page.elements} <= usual | {"ul", "summary"}
        assert [a.get("type", "") for a in page.of("script")].count("") == 1
        assert {a.get("type", "application/json") for a in page.of("script")} == {"application/json"}
        assert [a for _, a in page.elements for name in a if name.startswith("on")] == []
        assert all(str(a["src"]).startswith("data:image/") for a in page.of("img") if "src" in a)
        assert "{{ 7 * 7 }}" in "".join(page.text) or path.name == "index.html"
        assert EVIL in "".join(page.text)  # shown as what it is


def test_a_page_loads_nothing_and_allows_only_its_own_script(
    measured: tuple[Path, dict[tuple[str, str], Predictions]],
) -> None:
    folder, _ = measured
    page = Seen(folder / "report.html")
    policy = next(a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    script = "".join(page.scripts)
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    for _, attributes in page.elements:
        for name in ("src", "href", "data", "action", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/")), value
    assert "url(" not in folder.joinpath("report.html").read_text()


def test_every_picture_has_words_and_every_table_a_caption(
    measured: tuple[Path, dict[tuple[str, str], Predictions]],
) -> None:
    folder, _ = measured
    page = Seen(folder / "report.html")
    pictures = [a for a in page.of("img") if "src" in a]
    assert pictures
    assert all(len(a.get("alt") or "") > 20 for a in pictures)
    assert len(page.of("table")) == len(page.of("caption"))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in page.of("a") if a["href"]} <= {f"#{i}" for i in ids}
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert page.of("html")[0]["lang"] == "en"


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_pictures_become_small_and_keep_their_words(tmp_path: Path) -> None:
    picture = embed(
        paint(tmp_path / "cam_grid--densenet.png", 2070, 600, caption="Grids of densenet", alt="Three rows")
    )
    assert (picture.width, picture.height) == (1800, 522)
    assert picture.inches == pytest.approx(6.9, abs=0.01)
    assert (picture.caption, picture.alt) == ("Grids of densenet", "Three rows")
    assert picture.data.startswith("data:image/webp;base64,")
    content = base64.b64decode(picture.data.split(",")[1])
    assert content[:4] == b"RIFF"
    named = embed(paint(tmp_path / "confusion-vehicles--vgg.png"))
    assert named.caption.startswith("What vehicles/vgg takes for what")
    assert "true classes in rows" in named.alt
    assert embed(paint(tmp_path / "my_own.png")).caption == "my own"
    assert embed(paint(tmp_path / "x.png"), "given").caption == "given"


def test_a_chart_is_kept_without_loss(tmp_path: Path) -> None:
    import io

    path = paint(tmp_path / "chart.png", 900, 300)
    with Image.open(io.BytesIO(base64.b64decode(embed(path).data.split(",")[1]))) as small, Image.open(path) as large:
        assert np.array_equal(np.asarray(small.convert("RGB")), np.asarray(large))


def test_pictures_beyond_the_room_are_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradlens.report.page.ROOM", 60_000)
    figures = [paint(tmp_path / "figures" / f"{name} 1.png", 100, 60, noise=True) for name in "abc"]
    page = report.index(tmp_path, "Many", [report.Section("Grids", "All of them.", figures)])
    seen = Seen(page)
    shown = [a for a in seen.of("img") if "src" in a]
    links = [a["href"] for a in seen.of("a") if str(a["href"]).startswith("figures/")]
    assert (len(shown), len(links)) == (2, 1)
    assert "%201.png" in str(links[0])


def test_a_page_stays_small_enough_to_mail(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        paint(run / "figures" / f"{name}.png", 300, 200, noise=True)
    whole = report.build(run).stat().st_size
    assert len([a for a in Seen(run / "report.html").of("img") if "src" in a]) == 3
    monkeypatch.setattr("gradlens.report.page.MOST", whole - 1000)
    page = report.build(run)
    assert page.stat().st_size <= whole - 1000
    links = [str(a["href"]) for a in Seen(page).of("a") if str(a["href"]).startswith("figures/")]
    assert links == ["figures/c.png"]
    assert (run / links[0]).is_file()
    assert "Left out to keep this file small" in page.read_text()


# -- the index of a demo ----------------------------------------------------------------------------------------------


def test_index_shows_sections_and_the_run(measured: tuple[Path, dict[tuple[str, str], Predictions]]) -> None:
    folder, _ = measured
    demo = folder / "demo"
    figure = paint(demo / "cam" / "grid.png")
    found = [f"finding {i}" for i in range(6)]
    page = report.index(
        demo, "The story", [("Where they look", "At every depth.", [(figure, "densenet")], found)], folder
    )
    assert page == demo / "index.html"
    seen = Seen(page)
    text = " ".join(" ".join(seen.text).split())
    for wanted in ("The story", "Where they look", "At every depth.", "is the most accurate on", "Generalization gaps"):
        assert wanted in text
    assert all(finding in text for finding in found)
    assert "2 more" in text  # those after the fourth
    assert [a["alt"] for a in seen.of("img") if "src" in a] == ["densenet"]
    links = {str(a["href"]) for a in seen.of("a") if not str(a["href"]).startswith("#")}
    assert {link.partition("#")[0] for link in links} == {"../report.html"}


def test_index_without_a_run(tmp_path: Path) -> None:
    page = report.index(tmp_path / "out", "Grids", [("One", "", [])])
    assert "Models" not in " ".join(Seen(page).text)


# -- in a browser -----------------------------------------------------------------------------------------------------


def names(tab: browser.Tab, table: str) -> list[str]:
    """The first cells of a table's rows that are shown."""
    rows = tab.page.locator(f"{table} tbody tr:not([hidden]) > th")
    return [text.strip() for text in rows.all_inner_texts()]


MODELS = "[aria-labelledby=models] table"
Visit = Callable[..., browser.Tab]


def test_browser_loads_only_the_file_and_has_nothing_to_complain(visit: Visit, measured: tuple[Path, Any]) -> None:
    file = measured[0] / "report.html"
    tab = visit(file)
    assert [u for u in tab.requests if not u.startswith("data:image/")] == [file.resolve().as_uri()]
    assert tab.complaints == []
    assert tab.page.evaluate(
        "[...document.querySelectorAll('figure img')].every(i => i.complete && i.naturalWidth > 0)"
    )


def test_browser_sorts_by_numbers_and_by_names(visit: Visit, measured: tuple[Path, Any]) -> None:
    page = (tab := visit(measured[0] / "report.html")).page
    accuracy = {
        m.removeprefix("vehicles/"): float(
            (measured[1][m, "vehicles-test"].predicted == measured[1][m, "vehicles-test"].labels).mean()
        )
        for m in ACCURACIES
    }
    by_accuracy = sorted(accuracy, key=lambda m: accuracy[m])
    head = page.locator(f"{MODELS} th", has_text="Accuracy").first
    head.get_by_role("button").click()
    assert names(tab, MODELS) == by_accuracy[::-1]
    assert head.get_attribute("aria-sort") == "descending"
    head.get_by_role("button").press("Enter")
    assert names(tab, MODELS) == by_accuracy
    assert head.get_attribute("aria-sort") == "ascending"
    page.locator(f"{MODELS} th button").first.click()
    assert names(tab, MODELS) == sorted(accuracy)
    assert page.locator(f"{MODELS} [aria-sort]").count() == 1


def test_browser_filters_models_in_both_tables(visit: Visit, measured: tuple[Path, Any]) -> None:
    tab = visit(measured[0] / "report.html")
    tab.page.locator("input.filter").fill("VG")
    assert names(tab, MODELS) == ["vgg"]
    assert names(tab, "[data-metric=accuracy] table") == ["vgg"]
    assert tab.page.locator("#models ~ .tools output").inner_text() == "1 of 4"


def test_browser_shows_one_metric_at_a_time(visit: Visit, measured: tuple[Path, Any]) -> None:
    page = visit(measured[0] / "report.html").page
    shown = "[...document.querySelectorAll('[data-metric]')].filter(p => p.offsetHeight > 0).map(p => p.dataset.metric)"
    assert page.evaluate(shown) == ["accuracy"]
    page.locator("select.metric").select_option("macro_f1")
    assert page.evaluate(shown) == ["macro_f1"]


def test_browser_enlarges_a_figure_and_closes_it(visit: Visit, measured: tuple[Path, Any]) -> None:
    page = visit(measured[0] / "report.html").page
    page.get_by_text("The accuracy gaps as a figure").click()
    page.locator("button.enlarge").first.click()
    dialog = page.get_by_role("dialog")
    assert dialog.is_visible()
    assert len(dialog.locator("img").get_attribute("alt") or "") > 20
    dialog.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()


@browser.WIDTHS
@browser.SCHEMES
def test_browser_fits_its_window_and_can_be_read_by_all(
    visit: Visit, measured: tuple[Path, Any], width: int, dark: bool
) -> None:
    page = visit(measured[0] / "report.html", width, 800, dark).page
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    assert browser.violations(page) == []


def test_browser_prints_what_was_folded(visit: Visit, measured: tuple[Path, Any]) -> None:
    page = visit(measured[0] / "report.html").page
    page.evaluate(
        "addEventListener('beforeprint', () => window.folded = document.querySelectorAll('details:not([open])'))"
    )
    before = page.locator("details[open]").count()
    assert page.pdf()[:5] == b"%PDF-"
    assert page.evaluate("[...folded].every((d) => d.matches('.raw'))")  # their files have them
    assert page.locator("details[open]").count() == before < page.locator("details:not(.raw)").count()
