"""The pictures of a run and of its page: what the engine gave is what is kept, and what is kept is what is drawn."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from scipy.special import softmax

import browser
from gradlens import report
from gradlens.cam.derived import strongest_channels
from gradlens.cam.engine import explain
from gradlens.cam.targets import scores_of
from gradlens.data import probe_sets
from gradlens.data.decode import decode
from gradlens.data.preprocess import to_tensor
from gradlens.depths.capture import capture
from gradlens.errors import DepthError, InputError
from gradlens.figures.cam_grid import SAID
from gradlens.records import LoadedModel, Preprocess, Role
from gradlens.report import answers
from gradlens.report.kept import Kept, read_kept
from gradlens.report.run_files import read
from gradlens.report.tiles import in_8_bits, packed, photograph, unpacked
from gradlens.report.views import pictured
from gradlens.runtime import Runtime
from gradlens.shift import store
from gradlens.workflows.measure import Measurement, Request, image_maps, images, leave, shift_eval
from gradlens.workflows.measure.analyses import Subject
from gradlens.workflows.run_folder import RunFolder
from gradlens.workflows.see import depths_of
from gradlens.zoo import checkpoints
from gradlens.zoo.build import build
from gradlens.zoo.cards import Card, Preprocessing

chromium, visit = browser.chromium, browser.visit

HOSTILE = "<img src=x onerror=alert(1)> & 'co'"
CLASSES = ("ash", "beech", "cedar", HOSTILE)
PER_CLASS = 6
MODELS = ("trees/one", "trees/two", "trees/flat")
RUNTIME = Runtime(device="cpu", quiet=True)
SETS = ("trees-test", "trees-dark", "web")


# -- a small world ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models and one without any gradient; a set, the same scenes darker, and other images of two classes."""
    root = tmp_path_factory.mktemp("world")
    preprocess = Preprocessing.of(Preprocess((3, 48, 48)))
    arguments = {"widths": [8, 8, 8, 8]}
    for seed, name in enumerate(("one", "two", "flat")):
        torch.manual_seed(seed)
        module = build("gradlens:custom_cnn", arguments, len(CLASSES))
        for parameter in module.parameters():
            parameter.data *= 2.5
        if name == "flat":
            last = [m for m in module.modules() if isinstance(m, torch.nn.Linear)][-1]
            last.weight.data.zero_()
        card = Card(builder="gradlens:custom_cnn", arguments=arguments, classes=CLASSES, preprocess=preprocess)
        checkpoints.save(root / "zoo" / "trees" / name, module, card)
    rng = np.random.default_rng(0)
    rows = []
    for label, name in enumerate(CLASSES):
        for i in range(PER_CLASS):
            pixels = rng.integers(0, 90, size=(60, 80, 3), dtype=np.uint8)
            pixels[10 + 5 * i : 30 + 5 * i, 12 * label : 12 * label + 30, label % 3] = 255
            _save(root / "probe_sets" / "trees-test" / name / f"{i}.png", pixels)
            _save(root / "probe_sets" / "trees-dark" / name / f"{i}.png", pixels // 3)
            rows.append((f"{name}/{i}.png", name))
            if label < 2:
                _save(root / "web" / name / f"{i}.png", 255 - pixels[:, : 60 + i])
    shutil.copy(root / "web" / "ash" / "0.png", root / "web" / "ash" / "again.png")
    (root / "web" / "ash" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    roles: dict[str, tuple[Role, str | None]] = {"trees-test": ("test", None), "trees-dark": ("probe", "trees-test")}
    for name, (role, pair) in roles.items():
        manifest = probe_sets.Manifest(
            schema=1, name=name, role=role, shift="none" if pair is None else "dark", classes=list(CLASSES),
            paired_with=pair,
        )  # fmt: skip
        (root / "probe_sets" / name / "probe.toml").write_text(manifest.to_toml(), encoding="utf-8")
        with (root / "probe_sets" / name / "images.csv").open("w", encoding="utf-8", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(("path", "class", "pair", "severity", "sha256", "mask"))
            table.writerows((path, label, path if pair else "", "", "", "") for path, label in rows)
    return root


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def evaluated(world: Path, out: Path) -> Measurement:
    """The run of all models over all sets, without figures, which take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        patch.setattr(leave, "draw", lambda *_: None)
        return shift_eval(request(out), RUNTIME)


def request(out: Path, count: int = 2) -> Request:
    return Request(
        out=out,
        models=("trees/*",),
        zoo=Path("zoo"),
        probes=("all", "web"),
        resamples=100,
        images=count,
        command="gradlens shift-eval",
    )


def left_again(world: Path, measured: tuple[Path, Measurement], out: Path, count: int) -> Path:
    """The same evaluation's pictures again, in a copy of its folder; returns the page."""
    _, found = measured
    if not out.exists():
        shutil.copytree(measured[0], out)
    about = json.loads((out / "run.json").read_text(encoding="utf-8"))
    with pytest.MonkeyPatch.context() as patch, RunFolder(out) as place:
        patch.chdir(world)
        for name in about["files"]:
            if not name.startswith("images/"):
                place.file(name)
        subject = Subject(found.evidence, found.findings, request(out, count), RUNTIME)
        images.leave(place, subject, found.outcomes)
        place.finish({k: v for k, v in about.items() if k not in ("schema", "files")})
    return report.build(out)


@pytest.fixture(scope="module")
def measured(world: Path) -> tuple[Path, Measurement]:
    return world / "run", evaluated(world, world / "run")


@pytest.fixture(scope="module")
def run(measured: tuple[Path, Measurement]) -> Path:
    return measured[0]


@pytest.fixture(scope="module")
def kept(run: Path) -> Kept:
    found = read_kept(run)
    assert found is not None
    return found


def pixels_of(world: Path, sample: Mapping[str, Any]) -> np.ndarray:
    folder = world / "web" if sample["dataset"] == "web" else world / "probe_sets" / sample["dataset"]
    return decode(folder / sample["key"], sample["key"])


# -- what a run keeps -------------------------------------------------------------------------------------------------


MAP = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=20))


@settings(max_examples=25)
@given(st.lists(MAP, min_size=1, max_size=6))
def test_every_map_comes_out_of_its_sheet_as_it_went_in(maps: list[np.ndarray]) -> None:
    content, boxes = packed(maps)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sheet.png"
        path.write_bytes(content)
        for one, box in zip(maps, boxes, strict=True):
            assert np.array_equal(unpacked(path, box), one)
        with pytest.raises(InputError, match="has no map at"):
            unpacked(path, (0, 10**6, 1, 1))


@settings(max_examples=25)
@given(st.integers(1, 200), st.integers(1, 200))
def test_a_tile_is_never_larger_than_asked_nor_than_the_photograph(height: int, width: int) -> None:
    with Image.open(io.BytesIO(photograph(np.zeros((height, width, 3), np.uint8), 96))) as tile:
        assert max(tile.size) == min(96, max(height, width))
        assert abs(tile.width / tile.height - width / height) <= 0.51 * (1 + width / height) / min(tile.size)


def test_a_range_without_width_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a range"):
        in_8_bits(np.zeros((2, 2)), 0, 0)


def test_maps_are_those_of_the_engine(world: Path, kept: Kept) -> None:
    """Every kept map against the record that the engine makes of it: same cells to half a grey level, same words."""
    drawn = blank = 0
    for name in MODELS:
        model = checkpoints.load(name, zoo=world / "zoo")
        depths = depths_of(model, RUNTIME)
        rows = [r for r in kept.maps if r["model"] == name]
        numbers = sorted({r["sample"] for r in rows})
        x = torch.stack([to_tensor(model.preprocess, pixels_of(world, kept.by_id[n])) for n in numbers])
        stacks = explain(model.module, x, layers="all", depths=depths).stacks(model.classes, numbers)
        found = {stack.image: stack for stack in stacks}
        for row in rows:
            stack = found[row["sample"]]
            at = [p.name for p in stack.depths].index(row["depth"])
            assert (row["status"], row["target"]) == (stack.statuses[at], stack.target[1])
            assert row["probability"] == pytest.approx(stack.probability, abs=1e-5)
            if row["status"] != "ok":
                assert "file" not in row
                blank += 1
                continue
            raw = np.clip(stack.maps[at], 0, None)
            shown = unpacked(kept.folder / row["file"], row["box"]) / 255
            assert shown.shape == raw.shape
            assert np.abs(shown - raw / raw.max()).max() <= 0.5 / 255 + 1e-4
            drawn += 1
    assert drawn > 100
    assert blank > 20  # the model without a gradient


def test_channels_are_the_strongest(world: Path, kept: Kept) -> None:
    model = checkpoints.load("trees/one", zoo=world / "zoo")
    points = depths_of(model, RUNTIME).select(("stages",))
    rows = [r for r in kept.features if r["model"] == "trees/one"]
    number = rows[0]["sample"]
    x = to_tensor(model.preprocess, pixels_of(world, kept.by_id[number]))[None]
    (found,) = capture(
        model.module, x, points, lambda z: scores_of(None, z), lambda c: strongest_channels(c, points, 6)
    )
    for channels in found[0]:
        own = [r for r in rows if (r["sample"], r["depth"]) == (number, channels.depth.name)]
        assert [r["channel"] for r in own] == list(channels.indices)
        assert [r["strength"] for r in own] == pytest.approx(list(channels.shares), abs=1e-6)
        for row, raw in zip(own, channels.maps, strict=True):
            if row["status"] == "ok":
                shown = unpacked(kept.folder / row["file"], row["box"]) / 255 * (row["high"] - row["low"]) + row["low"]
                assert np.abs(shown - raw).max() <= (row["high"] - row["low"]) * 0.51 / 255


def test_samples_show_one_scene_in_every_set(kept: Kept) -> None:
    assert len(kept.scenes) == 2
    labels = []
    for scene in kept.scenes:
        own = {name: kept.by_id[number] for name, number in scene.items()}
        labels.append(own["trees-test"]["label"])
        assert own["trees-dark"]["key"] == own["trees-test"]["key"]  # its pair
        assert {s["label"] for s in own.values()} == {labels[-1]}
        assert set(own) == set(SETS)  # scenes that every set can show
    assert sorted(labels) == ["ash", "beech"]  # classes of all sets
    explored = {kept.by_id[r["sample"]]["dataset"] for r in kept.features}
    assert "trees-test" in explored
    assert len(explored) <= 2


def test_failures_have_the_map_of_who_fails(run: Path, kept: Kept) -> None:
    with (run / "failures.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len({(r["dataset"], r["id"]) for r in rows}) < images.FAILURES  # so that all are kept here
    there = {(r["model"], r["sample"]) for r in kept.maps if r["depth"] == kept.reading[r["model"]]}
    for row in rows:
        number = kept.by_key[row["dataset"], row["id"]]["id"]
        for model in MODELS if row["kind"] == "wrong in every model" else (row["model"],):
            assert (model, number) in there


def test_what_the_sets_hold(world: Path, kept: Kept) -> None:
    told = {s["name"]: s for s in kept.sets}
    assert set(told) == set(SETS)
    assert told["trees-test"]["classes"] == dict.fromkeys(CLASSES, PER_CLASS)
    assert told["trees-test"]["sizes"] == [[80, 60, 24]]
    assert told["web"]["copies"] == 1
    files = [p for p in (world / "web").rglob("*.png") if p.name != "broken.png"]
    sizes = sorted(decode(p, p.name).shape[1::-1] for p in files)
    assert sorted((w, h) for w, h, n in told["web"]["sizes"] for _ in range(n)) == sizes


def test_a_rerun_writes_the_same_bytes_and_takes_away_what_is_no_longer_asked_for(
    world: Path, measured: tuple[Path, Measurement], tmp_path: Path
) -> None:
    out = tmp_path / "again"
    left_again(world, measured, out, 2)
    first, second = (
        {p.relative_to(folder).as_posix(): p.read_bytes() for p in (folder / "images").rglob("*") if p.is_file()}
        for folder in (measured[0], out)
    )
    assert first == second
    assert len(first) > 30
    assert set(first) <= set(json.loads((out / "run.json").read_text(encoding="utf-8"))["files"])
    page = left_again(world, measured, out, 0).read_text(encoding="utf-8")
    left = [p.relative_to(out).as_posix() for p in (out / "images").rglob("*") if p.is_file()]
    assert left == ["images/index.json"]  # counts, and no picture of anything
    assert "data:image/webp" not in page
    assert "80 × 60" in page


def test_a_model_without_depths_is_told_and_the_others_have_their_maps(
    world: Path, measured: tuple[Path, Measurement], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(network: LoadedModel, *rest: Any) -> image_maps.Looked:
        if network.name == "trees/two":
            raise DepthError("no depth: <b>all</b> of it is parallel")
        return image_maps.look(network, *rest)

    monkeypatch.setattr(images, "look", look)
    page = left_again(world, measured, tmp_path / "run", 1).read_text(encoding="utf-8")
    found = read_kept(tmp_path / "run")
    assert found is not None
    assert found.refused == [{"model": "trees/two", "reason": "no depth: <b>all</b> of it is parallel"}]
    assert set(found.depths) == {"trees/one", "trees/flat"}
    assert "no depth: &lt;b&gt;all&lt;/b&gt; of it is parallel" in page


# -- what the page says -----------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """All elements of a page with their attributes, the text of its data blocks, and the rest of its text."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.data: dict[str, str] = {}
        self.text = ""
        self._inside = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.found.append((tag, attributes))
        self._inside = str(attributes.get("id")) if tag == "script" else tag

    def handle_data(self, data: str) -> None:
        if self._inside in ("pictures-data", "failures-data"):
            self.data[self._inside] = self.data.get(self._inside, "") + data
        elif self._inside not in ("style", "None"):
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""


@pytest.fixture(scope="module")
def page(run: Path) -> Elements:
    return Elements(run / "report.html")


def test_names_become_no_markup(page: Elements) -> None:
    assert not [a for _, a in page.found if "onerror" in a or a.get("src") == "x"]
    assert HOSTILE in page.text
    for content in page.data.values():
        assert "<" not in content
    samples = json.loads(page.data["pictures-data"])["samples"]
    assert HOSTILE in {s["label"] for s in samples.values()}


def test_probabilities_in_the_gallery_are_those_of_the_predictions(run: Path, kept: Kept, page: Elements) -> None:
    told = json.loads(page.data["failures-data"])
    checked = 0
    stored = {
        (s.predictions.model, s.predictions.dataset): s.predictions
        for s in store.read(sorted((run / "predictions").glob("*.parquet")))
    }
    for image in told["images"]:
        sample = kept.by_id[image["id"]]
        for model, (answer, probability) in zip(told["models"], image["said"], strict=True):
            p = stored[model, sample["dataset"]]
            i = p.ids.index(sample["key"])
            assert p.logits is not None
            assert answer == p.classes[p.predicted[i]]
            assert probability == pytest.approx(softmax(p.logits[i].astype(float)).max(), abs=1e-6)
            checked += 1
        failures = {(kind, model) for kind, model, _, _ in image["failures"]}
        assert failures
    assert checked == 3 * len(told["images"])
    with (run / "failures.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert sum(len(image["failures"]) for image in told["images"]) == len(rows)


def test_counts_of_the_data_are_those_of_the_sets(page: Elements, kept: Kept) -> None:
    bars = re.findall(r"width:([\d.]+)%", str([a.get("style") for t, a in page.found if a.get("class") == "bar"]))
    counts = [n for s in kept.sets for n in s["classes"].values() if n]
    largest = [max(s["classes"].values()) for s in kept.sets for n in s["classes"].values() if n]
    assert [float(b) for b in bars] == [round(100 * n / most, 1) for n, most in zip(counts, largest, strict=True)]
    assert "Without images: " not in page.text


def test_a_damaged_index_is_one_clear_error(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    index = tmp_path / "run" / "images" / "index.json"
    whole = json.loads(index.read_text(encoding="utf-8"))
    for change, said in (
        ({"schema": 2}, "schema"),
        ({"maps": None}, "has no maps"),
        ({"samples": [{**whole["samples"][0], "file": "../../secret.webp"}], "scenes": [], "maps": []}, "outside"),
        ({"samples": [{**s, "file": "run.json"} for s in whole["samples"]]}, "expected a PNG or WebP"),
        ({"samples": [{**s, "file": "images/none.webp"} for s in whole["samples"]]}, "No such file"),
    ):
        changed = {**whole, **change}
        if said == "outside":
            first = whole["samples"][0]
            changed["sets"] = [{**whole["sets"][0], "sheet": [first["id"]]}]
            changed["features"], changed["depths"] = [], {}
        index.write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(InputError, match=said):
            pictured(read(tmp_path / "run"))
    index.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        pictured(read(tmp_path / "run"))
    index.unlink()
    assert 'id="explorer"' not in report.build(tmp_path / "run").read_text(encoding="utf-8")


# -- in a browser -----------------------------------------------------------------------------------------------------

Visit = Callable[..., browser.Tab]


def cams(tab: browser.Tab, model: str) -> Any:
    """The figure of one model's maps, unfolded and drawn."""
    figure = tab.page.locator(f'figure.cams[data-model="{model}"]')
    figure.evaluate(
        "f => { for (let d = f.closest('details'); d; d = d.parentElement.closest('details')) d.open = true; }"
    )
    figure.scroll_into_view_if_needed()
    figure.locator(".depth").nth(1).wait_for()
    return figure


def test_browser_draws_the_kept_maps_and_says_why_there_is_none(visit: Visit, run: Path, kept: Kept) -> None:
    """The colours on the page against those computed here from the kept map and photograph, as figures do it."""
    import matplotlib as mpl

    tab = visit(run / "report.html")
    figure = cams(tab, "trees/one")
    rows = [r for r in kept.maps if r["model"] == "trees/one"]
    first = next(iter(kept.scenes[0].values()))
    depths = [d["name"] for d in kept.depths["trees/one"]]
    names = figure.locator(".depth b").all_text_contents()
    assert [n.replace("\u200b", "") for n in names if "\u200b" in n or n in depths] == depths
    for at in (0, len(depths) - 1):
        row = next(r for r in rows if (r["sample"], r["depth"]) == (first, depths[at]))
        assert row["status"] == "ok"
        canvas = figure.locator(".depth").nth(at + 1).locator("canvas").first
        width, height, pixels = canvas.evaluate(
            "c => [c.width, c.height, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]"
        )
        shown = np.array(pixels, dtype=float).reshape(height, width, 4)[..., :3]
        cells = torch.from_numpy(unpacked(run / row["file"], row["box"]) / 255)[None, None]
        heat = F.interpolate(cells, (height, width), mode="bilinear", align_corners=False)[0, 0].numpy()
        sample = kept.by_id[first]
        with Image.open(run / sample["file"]) as tile:
            left, top, right, bottom = sample["crops"][kept.geometries["trees/one"]]
            box = (left * tile.width, top * tile.height, right * tile.width, bottom * tile.height)
            view = tile.convert("RGB").resize((width, height), Image.Resampling.BILINEAR, box=box)
        grey = np.asarray(view.convert("L"), dtype=float)[..., None]
        opacity = (0.42 + 0.38 * heat)[..., None]
        wanted = 255 * mpl.colormaps["inferno"](heat)[..., :3] * opacity + grey * (1 - opacity)
        assert np.abs(shown - wanted).mean() < 4  # the two enlarge the photograph in their own ways
        assert np.corrcoef(shown.ravel(), wanted.ravel())[0, 1] > 0.99
    flat = cams(tab, "trees/flat")
    assert flat.locator(".blank").first.text_content() == SAID["zero gradient"].replace("\n", " ")
    assert flat.locator(".depth:not(.photos) canvas").count() == 0
    before = figure.locator("canvas").first.get_attribute("aria-label")
    figure.locator(".scene").select_option(index=1)
    tab.page.wait_for_function(
        "([f, text]) => f.querySelector('canvas').getAttribute('aria-label') !== text",
        arg=[figure.element_handle(), before],
    )
    assert tab.requests == [(run / "report.html").as_uri()]
    assert tab.complaints == []


def test_browser_switches_the_explorer(visit: Visit, run: Path, kept: Kept) -> None:
    tab = visit(run / "report.html")
    explorer = tab.page.locator(".explorer")
    explorer.scroll_into_view_if_needed()
    explorer.locator(".channels button").first.wait_for()

    def rows() -> list[dict[str, Any]]:
        model, depth, sample = (explorer.locator(f".{n}").input_value() for n in ("model", "depth", "sample"))
        own = [r for r in kept.features if (r["model"], r["depth"], r["sample"]) == (model, depth, sample)]
        return [dict(r) for r in own]

    def wait() -> None:
        number = rows()[0]["channel"]
        tab.page.wait_for_function(
            "n => document.querySelector('.channels button')?.textContent.includes(`channel ${n}:`)"
            " && document.querySelector('.said').textContent.includes(`channel ${n}:`)",
            arg=number,
        )
        buttons = explorer.locator(".channels button").all_text_contents()
        assert [int(re.search(r"channel (\d+)", b)[1]) for b in buttons] == [r["channel"] for r in rows()]  # type: ignore[index]
        for text, row in zip(buttons, rows(), strict=True):
            assert f"{100 * row['strength']:.1f}" in text

    wait()
    explorer.locator(".model").select_option("trees/two")
    wait()
    explorer.locator(".depth").select_option(index=2)
    wait()
    explorer.locator(".sample").select_option(index=1)
    wait()
    second = explorer.locator(".channels button").nth(1)
    second.focus()
    tab.page.keyboard.press("Enter")
    wanted = rows()[1]["channel"]
    tab.page.wait_for_function("n => document.querySelector('.said').textContent.includes(`channel ${n}:`)", arg=wanted)
    assert second.get_attribute("aria-pressed") == "true"
    assert explorer.locator(".channels [aria-pressed=true]").count() == 1
    assert explorer.locator(".panels canvas, .panels .blank").count() >= 3
    explorer.locator(".model").select_option("trees/flat")
    tab.page.wait_for_function("() => document.querySelector('.said').textContent.startsWith('flat')")
    assert explorer.locator(".panels .blank").first.text_content() == SAID["zero gradient"].replace("\n", " ")
    assert tab.complaints == []


def test_browser_filters_the_gallery_and_counts_what_is_left(visit: Visit, run: Path, kept: Kept) -> None:
    with (run / "failures.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    tab = visit(run / "report.html")
    place = tab.page.locator(".gallery")

    def expected(dataset: str = "", label: str = "", model: str = "", kind: str = "", low: float = 0) -> int:
        return len(
            {
                (r["dataset"], r["id"])
                for r in rows
                if dataset in ("", r["dataset"])
                and label in ("", r["label"])
                and (model in ("", r["model"]) or r["kind"] == "wrong in every model")
                and kind in ("", r["kind"])
                and float(r["confidence"]) >= low
            }
        )

    def counted() -> tuple[int, int]:
        told = re.match(r"(\d+) of (\d+) images", place.locator("output").text_content() or "")
        assert told
        assert place.locator(".cards > li:visible").count() == min(24, int(told[1]))
        return int(told[1]), int(told[2])

    every = expected()
    assert counted() == (every, every)
    place.locator(".by-set").select_option("trees-dark")
    assert counted() == (expected("trees-dark"), every)
    place.locator(".by-class").select_option(HOSTILE)
    assert counted() == (expected("trees-dark", HOSTILE), every)
    place.locator(".by-class").select_option("")
    place.locator(".by-model").select_option("trees/one")
    assert counted() == (expected("trees-dark", model="trees/one"), every)
    place.locator(".by-kind").select_option("confident error")
    assert counted()[0] == expected("trees-dark", model="trees/one", kind="confident error")
    place.locator(".from").fill("60")
    assert counted()[0] == expected("trees-dark", "", "trees/one", "confident error", 0.6)
    place.locator(".all").click()
    assert counted() == (every, every)
    if every > 24:
        place.locator(".more-cards").click()
        assert place.locator(".cards > li:visible").count() == min(48, every)
        assert tab.page.evaluate("document.activeElement.matches('.card')")
    assert tab.complaints == []


def test_browser_enlarges_a_failure_with_every_models_answer(visit: Visit, run: Path, page: Elements) -> None:
    told = json.loads(page.data["failures-data"])
    tab = visit(run / "report.html")
    cards, box = tab.page.locator(".cards .card"), tab.page.locator("#failure")
    cards.first.focus()
    tab.page.keyboard.press("Enter")
    box.locator("figcaption").filter(has_text="pixels").wait_for()

    def shown() -> list[tuple[str, str]]:
        cells = [r.locator("td").all_text_contents() for r in box.locator("tbody tr").all()]
        return [(answer[2:], probability) for answer, probability in cells]

    def wanted(i: int) -> list[tuple[str, str]]:
        return [(answer, f"{100 * probability:.1f}") for answer, probability in told["images"][i]["said"]]

    assert shown() == wanted(0)
    assert box.locator(".before").is_disabled()
    box.locator(".next").click()
    assert shown() == wanted(1)
    tab.page.keyboard.press("ArrowLeft")
    assert shown() == wanted(0)
    select = box.locator(".map-of")
    for name in select.locator("option").evaluate_all("options => options.map((o) => o.value)"):
        select.select_option(name)
        short = answers.short_models(list(MODELS))[name]
        box.locator("figcaption").filter(has_text=short).wait_for()
    assert browser.violations(tab.page) == []
    tab.page.keyboard.press("Escape")
    assert not box.is_visible()
    assert tab.page.evaluate("document.activeElement === document.querySelector('.cards .card')")
    assert tab.complaints == []


@pytest.mark.parametrize("scroll", [False, True], ids=["unseen", "seen"])
def test_browser_prints_maps_of_models_that_were_never_opened(
    visit: Visit, run: Path, kept: Kept, scroll: bool
) -> None:
    tab = visit(run / "report.html", dark=scroll)
    if scroll:  # what was on show before stays as it was
        cams(tab, "trees/one")
    open_before = tab.page.locator("details[open]").count()
    pdf = tab.page.pdf(prefer_css_page_size=True)
    shown = {m: tab.page.locator(f'figure.cams[data-model="{m}"]') for m in kept.depths}
    for model, figure in shown.items():
        columns = figure.locator(".depth:not(.photos)")
        assert columns.count() == len(kept.depths[model])
        assert columns.locator("canvas, .blank").count() == 2 * columns.count()  # in distribution, and shifted
    blank = "all => all.filter((c) => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size < 8)"
    drawn = tab.page.locator(".cams canvas, .explorer canvas, .cards > li:not([hidden]) canvas")
    assert drawn.count() > 20
    assert drawn.evaluate_all(f"{blank}.map((c) => c.outerHTML)") == []
    assert tab.page.locator(".explorer .channels button").count() >= 1
    covered = tab.page.locator(".cards .view:has(canvas) img").evaluate_all(
        "all => all.map((i) => getComputedStyle(i).opacity)"
    )
    assert set(covered) == {"0"}  # no photograph looks out from under its map
    assert len(re.findall(rb"/Subtype ?/Image", pdf)) >= drawn.count() / 2  # equal pictures are kept once
    assert tab.page.locator("details[open]").count() == open_before  # the page is as it was
    assert tab.complaints == []


def test_browser_prints_models_in_compact_form(visit: Visit, run: Path) -> None:
    tab = visit(run / "report.html", width=720, height=960)  # a letter's paper within its margins
    tab.page.emulate_media(media="print")
    tab.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 720  # or everything would be printed smaller
    heights = tab.page.locator("details.model").evaluate_all("all => all.map((d) => d.getBoundingClientRect().height)")
    assert len(heights) == 3
    assert max(heights) < 0.62 * 960
    for model in tab.page.locator("details.model").all():
        printed = model.locator(".confused table")
        assert [t.is_visible() for t in printed.all()].count(True) == 1
        assert not model.locator("select, button.plain, .part.screen").first.is_visible()
        assert model.locator(".part.scores, .part.maps, .part.recipe").evaluate_all("all => all.length") == 3
    assert tab.page.locator("details.raw:visible").count() == tab.page.locator("details.raw.summed").count()
    pages = len(re.findall(rb"/Type ?/Page\b", tab.page.pdf(prefer_css_page_size=True)))
    assert 5 <= pages <= 14


@browser.WIDTHS
@browser.SCHEMES
def test_browser_pictures_fit_their_window_and_can_be_read_by_all(
    visit: Visit, run: Path, width: int, dark: bool
) -> None:
    tab = visit(run / "report.html", width=width, dark=dark)
    cams(tab, "trees/one")
    tab.page.locator(".explorer").scroll_into_view_if_needed()
    tab.page.locator(".panels canvas").first.wait_for()
    tab.page.evaluate("for (const d of document.querySelectorAll('details.set')) d.open = true")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.violations(tab.page) == []
    assert tab.complaints == []


def test_browser_without_scripts_shows_photographs_and_says_what_is_missing(visit: Visit, run: Path) -> None:
    tab = visit(run / "report.html", scripts=False)
    assert tab.page.locator(".cards img:visible").count() == len(tab.page.locator(".cards li").all()) > 5
    assert tab.page.locator(".scene-row img:visible").count() >= 4
    assert tab.page.locator(".explorer:visible, .gallery .tools:visible, .more-cards:visible").count() == 0
    assert "are drawn from the page’s data by its script" in (
        tab.page.locator("noscript p:visible").text_content() or ""
    )
