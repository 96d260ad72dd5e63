"""``gradlens cam`` and ``gradlens layers`` as somebody at a terminal meets them: files, JSON, exit codes, errors."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gradlens.cam.engine import explain
from gradlens.cli.main import main
from gradlens.data.preprocess import to_tensor
from gradlens.figures.cam_grid import Caption, Cell, Column, Row, cam_grid, overlay
from gradlens.zoo import checkpoints


class Run:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def error(self) -> str:
        """The one line that an error is."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("gradlens: ")]
        return line


@pytest.fixture
def gradlens(capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def run(*args: object) -> Run:
        with pytest.raises(SystemExit) as done:
            main([str(a) for a in args])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return Run(int(done.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 255, (70, 110, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_one_model_on_its_own_examples(gradlens, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "run"
    run = gradlens("cam", "--model", "shufflenet", "--n", 2, "--out", out, "--dpi", 60, "--save-maps", "--json")
    assert run.code == 0
    told = json.loads(run.out)
    assert told["schema"] == 1
    (model,) = told["models"]
    assert model["name"] == "vehicles/shufflenet"
    assert [len(layer["status"]) for layer in model["layers"]] == [4] * len(model["layers"])
    strides = [layer["stride"][0] for layer in model["layers"]]
    assert strides == sorted(strides)
    assert len(told["images"]) == 4  # two scenes, each in distribution and as the internet might show it
    sets = [Path(i["path"]).parts[-3] for i in told["images"]]
    assert sets == ["vehicles-test", "vehicles-internet"] * 2
    assert all(Path(p).is_file() for p in told["figures"] + told["maps"])
    record = json.loads((out / "run.json").read_text())
    assert set(record["files"]) >= {"run.json", "skipped.csv"}
    # raw maps: what the library gives for the same images
    loaded = checkpoints.load("vehicles/shufflenet")
    image = np.asarray(Image.open(told["images"][0]["path"]).convert("RGB"))
    (stack,) = explain(loaded.module, to_tensor(loaded.preprocess, image)[None]).stacks()
    with np.load(told["maps"][0], allow_pickle=False) as maps:
        np.testing.assert_allclose(maps[stack.depths[-1].name][0], stack.maps[-1], rtol=1e-3, atol=1e-6)
        assert maps["stacks.method"].tolist() == ["gradcam"] * 4


def test_several_models_and_layers_give_a_page_per_image(gradlens, tmp_path: Path, photo: Path) -> None:  # type: ignore[no-untyped-def]
    common = ["cam", "--model", "shufflenet", "--model", "vit", "--image", photo, "--dpi", 60, "--json"]
    one = json.loads(gradlens(*common, "--out", tmp_path / "a").out)
    assert [Path(p).name for p in one["figures"]] == ["cam--models.png"]
    assert [len(m["layers"]) for m in one["models"]] == [1, 1]
    pages = json.loads(gradlens(*common, "--out", tmp_path / "b", "--layers", "3").out)
    assert [Path(p).name for p in pages["figures"]] == ["cam--image-01.png"]
    assert [len(m["layers"]) for m in pages["models"]] == [3, 3]


def test_targets_and_methods_make_rows(gradlens, tmp_path: Path, photo: Path) -> None:  # type: ignore[no-untyped-def]
    run = gradlens(
        "cam", "--model", "shufflenet", "--image", photo, "--out", tmp_path / "run", "--json", "--dpi", 60, "--layers",
        "last", "--target", "top:2", "--target", "ship", "--method", "gradcam", "--method", "layercam",
    )  # fmt: skip
    images = json.loads(run.out)["images"]
    assert [i["method"] for i in images] == ["gradcam", "layercam"] * 3
    assert images[0]["target"] == images[0]["prediction"]
    assert images[4]["target"] == "ship"
    assert images[0]["target_probability"] > images[2]["target_probability"]


def test_an_unreadable_image_is_skipped_and_told(gradlens, tmp_path: Path, photo: Path) -> None:  # type: ignore[no-untyped-def]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"<html>not an image</html>")
    common = ["cam", "--model", "shufflenet", "--image", photo, "--image", broken, "--dpi", 60, "--layers", "last"]
    run = gradlens(*common, "--out", tmp_path / "run")
    assert run.code == 0
    assert "broken.jpg" in run.err
    with (tmp_path / "run" / "skipped.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 1
    assert rows[0]["path"].endswith("broken.jpg")
    assert gradlens(*common, "--out", tmp_path / "strict", "--strict").code == 3
    only_broken = gradlens("cam", "--model", "shufflenet", "--image", broken, "--out", tmp_path / "none")
    assert only_broken.code == 1
    assert "readable" in only_broken.error


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--model", "densnet"], 1, "densenet"),
        (["--model", "shufflenet", "--layers", "stage2.0.branch"], 1, "no layer"),
        (["--model", "shufflenet", "--target", "trian"], 1, "train"),
        (["--model", "shufflenet", "--target", "top:99"], 1, "1..8"),
        (["--model", "shufflenet", "--method", "gradcan"], 1, "gradcam"),
        (["--model", "shufflenet", "--data", "vehicles-tset"], 1, "vehicles-test"),
        (["--model", "shufflenet", "--image", "nowhere.jpg"], 1, "nowhere.jpg"),
        (["--model", "timm:resnet10t", "--data", "vehicles-test"], 1, "random"),
    ],
)
def test_what_is_not_there(gradlens, tmp_path: Path, arguments: list[str], code: int, words: str) -> None:  # type: ignore[no-untyped-def]
    run = gradlens("cam", *arguments, "--out", tmp_path / "run")
    assert run.code == code
    assert words in run.error
    assert run.out == ""


@pytest.mark.parametrize(
    "arguments", [[], ["--model", "vit", "--scale", "huge"], ["--model", "vit", "--image", "a", "--data", "b"]]
)
def test_wrong_usage(gradlens, arguments: list[str]) -> None:  # type: ignore[no-untyped-def]
    assert gradlens("cam", *arguments).code == 2


def test_layers_lists_depths_of_a_model_without_weights(gradlens) -> None:  # type: ignore[no-untyped-def]
    run = gradlens("layers", "--model", "torchvision:mobilenet_v3_small", "--classes", 7, "--json")
    (model,) = json.loads(run.out)["models"]
    assert len(model["layers"]) >= 3
    keys = {"name", "path", "stride", "shape", "layout", "verified", "position", "selectors"}
    assert all(keys <= set(layer) for layer in model["layers"])
    table = gradlens("layers", "--model", "shufflenet", "--layers", "stages").out
    assert "picked by" in table
    assert "stage4" in table or "conv5" in table


class TestFigure:
    view = np.full((40, 40, 3), 200, np.uint8)

    def row(self, *maps: np.ndarray, image: str = "a") -> Row:
        return Row(self.view, "a class of €5 $", "set", [Cell(m, "ok") for m in maps], image, Caption("x 9%", False))

    def tops(self, scale: str) -> list[list[float]]:
        from gradlens.figures.cam_grid import _maxima

        low, high = np.full((2, 2), 1.0), np.full((2, 2), 4.0)
        rows = [self.row(low, high), self.row(low, low), self.row(low, low * 2, image="b")]
        return _maxima(rows, scale)  # type: ignore[arg-type]

    def test_what_one_colour_stands_for(self) -> None:
        assert self.tops("map") == [[1, 4], [1, 1], [1, 2]]
        assert self.tops("row") == [[4, 4], [1, 1], [2, 2]]
        assert self.tops("image") == [[4, 4], [4, 4], [2, 2]]
        assert self.tops("figure") == [[4, 4]] * 3

    def test_the_overlay_is_brightest_where_the_map_is(self) -> None:
        raw = np.zeros((4, 4), np.float32)
        raw[1, 2] = 3
        drawn = overlay(self.view, raw, 3.0).astype(int).sum(2)
        row, column = np.unravel_index(drawn.argmax(), drawn.shape)
        assert (row * 4 // drawn.shape[0], column * 4 // drawn.shape[1]) == (1, 2)

    def test_negative_evidence_is_not_drawn(self) -> None:
        raw = np.full((2, 2), -1.0, np.float32)
        raw[0, 0] = 1
        np.testing.assert_array_equal(overlay(self.view, raw, 1.0), overlay(self.view, np.maximum(raw, 0), 1.0))

    def test_many_depths_wrap_and_many_images_take_pages(self) -> None:
        rows = [self.row(*[np.ones((2, 2))] * 23) for _ in range(9)]
        pages = list(cam_grid(rows, [Column(f"features.{i}", "stride 4") for i in range(23)], title="t"))
        assert len(pages) > 1
        assert all(p.get_size_inches()[0] <= 6.91 and p.get_size_inches()[1] <= 10.2 for p in pages)

    def test_every_page_scales_its_own_rows(self) -> None:
        raw = np.arange(4.0).reshape(2, 2)
        rows = [self.row(raw * 2.0**i, image=str(i)) for i in range(30)]
        pages = list(cam_grid(rows, [Column("one")], title="t"))
        assert len(pages) > 1
        expected = overlay(self.view, raw, 3.0)
        # of each row the picture and its map, then the legend's ramp
        drawn = [np.asarray(im.get_array()) for page in pages for im in page.axes[0].images[1:-1:2]]
        assert len(drawn) == len(rows)
        for map_drawn in drawn:
            np.testing.assert_array_equal(map_drawn, expected)

    def test_a_blank_cell_says_why_and_the_scale_is_printed(self) -> None:
        cells = [Cell(np.zeros((2, 2)), "zero gradient"), Cell(-np.ones((2, 2)), "all negative")]
        (page,) = cam_grid([Row(self.view, "n", "s", cells, "a")], [Column("one"), Column("two")], title="t")
        words = " ".join(t.get_text() for t in page.axes[0].texts)
        assert "gradient\nis zero" in words
        assert "all evidence\nis negative" in words
        assert "scale map" in words

    def test_cells_must_match_columns(self) -> None:
        with pytest.raises(ValueError, match="columns"):
            cam_grid([self.row(np.ones((2, 2)))], [Column("one"), Column("two")], title="t")
