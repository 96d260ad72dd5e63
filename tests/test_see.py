"""``gradlens cam`` and ``gradlens layers`` as somebody at a terminal meets them: files, JSON, exit codes, errors."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gradlens.cam.engine import explain
from gradlens.cli.main import main
from gradlens.data.preprocess import to_tensor
from gradlens.errors import InputError, NotFoundError
from gradlens.figures.cam_grid import Caption, Cell, Column, Row, cam_grid, overlay
from gradlens.records import LoadedModel, Preprocess
from gradlens.workflows.see.targets import asks
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
        (["--model", "shufflenet", "--target", "contrast:car"], 1, "contrast:A/B"),
        (["--model", "shufflenet", "--target", "contrast:car/bsu"], 1, "did you mean 'bus'"),
        (["--model", "shufflenet", "--target", "contrast:car/bus", "--method", "occlusion"], 1, "one class at a time"),
        (["--model", "shufflenet", "--method", "rollout", "--n", "1"], 1, "attention"),
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
    "arguments",
    [
        [],
        ["--model", "vit", "--scale", "huge"],
        ["--model", "vit", "--image", "a", "--data", "b"],
        ["--model", "vit", "--outline", "circle"],
        ["--model", "vit", "--threshold", "0"],
        ["--model", "vit", "--features", "0"],
    ],
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


def png_words(path: str | Path) -> dict[str, str]:
    """Caption and alt text of a figure, as its file tells them."""
    with Image.open(path) as file:
        told = json.loads(file.info["gradlens"])
    return {"caption": told["caption"], "alt": told["alt"]}


def test_several_methods_give_a_page_per_image(gradlens, tmp_path: Path, photo: Path) -> None:  # type: ignore[no-untyped-def]
    """Depths and pixels in one figure; what this network cannot do is said, and does not stop the rest."""
    run = gradlens(
        "cam", "--model", "shufflenet", "--image", photo, "--out", tmp_path / "run", "--json", "--dpi", 60, "--layers",
        "2", "--method", "gradcam", "--method", "integrated-gradients", "--method", "rollout", "--method", "gradcam",
        "--save-maps",
    )  # fmt: skip
    told = json.loads(run.out)
    assert [Path(p).name for p in told["figures"]] == ["cam--image-01.png"]
    assert "Integrated Gradients" in png_words(told["figures"][0])["alt"]
    (model,) = told["models"]
    assert list(model["refused"]) == ["rollout"]
    assert "attention" in run.err
    names = [layer["name"] for layer in model["layers"]]
    assert names[0] == "input"
    assert len(names) == 3
    gradcam, pixels, refused = told["images"]
    assert gradcam["status"] == dict.fromkeys(names[1:], "ok")
    assert pixels["status"] == {"input": "ok"}
    assert refused["status"] == dict.fromkeys(names[1:], "undefined")
    # signed raw maps of both kinds, each in its own file, with statuses
    assert [Path(p).name for p in told["maps"]] == ["vehicles--shufflenet.npz", "vehicles--shufflenet--input.npz"]
    with np.load(told["maps"][1], allow_pickle=False) as maps:
        assert maps["input"].shape == (1, 96, 96)
        assert maps["input"].min() < 0 < maps["input"].max()
        assert maps["stacks.status"].tolist() == [["ok"]]
    with np.load(told["maps"][0], allow_pickle=False) as maps:
        assert maps["stacks.layers"].tolist() == names[1:]
        assert maps["stacks.method"].tolist() == ["gradcam"]
        assert maps["stacks.logit"][0] == gradcam["target_logit"]


def test_several_models_methods_and_layers_give_a_page_each(gradlens, tmp_path: Path, photo: Path) -> None:  # type: ignore[no-untyped-def]
    run = gradlens(
        "cam", "--model", "shufflenet", "--model", "vit", "--image", photo, "--out", tmp_path / "run", "--json",
        "--dpi", 40, "--layers", "2", "--method", "gradcam", "--method", "rollout",
    )  # fmt: skip
    told = json.loads(run.out)
    names = ["cam--image-01--vehicles--shufflenet.png", "cam--image-01--vehicles--vit.png"]
    assert [Path(p).name for p in told["figures"]] == names
    assert [list(m["refused"]) for m in told["models"]] == [["rollout"], []]


def test_a_contrast_is_the_difference_of_two_targets(gradlens, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Grad-CAM is linear in the gradient: what speaks for A rather than B is A's map minus B's."""
    common = ["cam", "--model", "shufflenet", "--n", 1, "--dpi", 40, "--layers", "last", "--save-maps", "--json"]
    targets = ["--target", "predicted", "--target", "contrast:predicted/second", "--target", "second"]
    told = json.loads(gradlens(*common, *targets, "--out", tmp_path / "a").out)
    first, contrast, second = told["images"][:3]
    assert (contrast["target"], contrast["against"]) == (first["target"], second["target"])
    assert first["against"] is None
    assert first["target_probability"] > second["target_probability"]
    layer = told["models"][0]["layers"][0]["name"]
    with np.load(told["maps"][0], allow_pickle=False) as maps:
        a, both, b = maps[layer][:3]
        assert maps["stacks.against"].tolist()[:3] == ["", second["target"], ""]
    np.testing.assert_allclose(both, a - b, atol=1e-4 * np.abs(a).max())


def test_two_targets_stand_side_by_side(gradlens, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    common = ["cam", "--model", "shufflenet", "--n", 1, "--dpi", 40, "--layers", "last", "--json"]
    told = json.loads(gradlens(*common, "--target", "true", "--target", "ship", "--out", tmp_path / "a").out)
    assert "A true class, B class ship" in png_words(told["figures"][0])["caption"]


def test_boxes_are_in_pixels_of_the_original(gradlens, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The photo is wider than the network's view; a box never leaves the part that the network saw."""
    path = tmp_path / "wide.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (200, 500, 3), dtype=np.uint8)).save(path)
    common = ["cam", "--model", "shufflenet", "--image", path, "--dpi", 40, "--layers", "3", "--json"]
    told = json.loads(gradlens(*common, "--outline", "box", "--threshold", 0.3, "--out", tmp_path / "a").out)
    (image,) = told["images"]
    assert [o["layer"] for o in image["outlines"]] == [layer["name"] for layer in told["models"][0]["layers"]]
    loaded = checkpoints.load("vehicles/shufflenet")
    pixels = np.asarray(Image.open(path))
    (stack,) = explain(loaded.module, to_tensor(loaded.preprocess, pixels)[None], layers="3").stacks()
    for told_outline, raw in zip(image["outlines"], stack.maps, strict=True):
        left, top, right, bottom = told_outline["box"]
        assert 150 <= left < right <= 350  # the middle square
        assert 0 <= top < bottom <= 200
        assert 0 < told_outline["area"] <= 1
        # the map, enlarged to the original's size by another library, is strong somewhere at every edge of the box
        heat = np.asarray(Image.fromarray(raw).resize((200, 200), Image.Resampling.BILINEAR))
        inside = heat[round(top) : round(bottom), round(left) - 150 : round(right) - 150]
        for edge in (inside[:3], inside[-3:], inside[:, :3], inside[:, -3:]):
            assert edge.max() >= 0.25 * heat.max()
    plain = json.loads(gradlens(*common, "--out", tmp_path / "b").out)
    assert "outlines" not in plain["images"][0]


def test_the_strongest_channels(gradlens, tmp_path: Path, photo: Path) -> None:  # type: ignore[no-untyped-def]
    common = ["cam", "--model", "shufflenet", "--image", photo, "--dpi", 40, "--layers", "2", "--json"]
    told = json.loads(gradlens(*common, "--features", 3, "--out", tmp_path / "a").out)
    assert [Path(p).name for p in told["figures"]] == ["cam--vehicles--shufflenet.png", "features--image-01.png"]
    assert [f["layer"] for f in told["features"]] == [layer["name"] for layer in told["models"][0]["layers"]]
    for one in told["features"]:
        assert len(one["channels"]) == 3
        assert one["shares"] == sorted(one["shares"], reverse=True)
        assert one["rank"] == "contribution"
    # the channels that are strongest whatever the class are not those that decide
    other = json.loads(gradlens(*common, "--features", 3, "--rank", "activation", "--out", tmp_path / "b").out)
    assert [f["channels"] for f in other["features"]] != [f["channels"] for f in told["features"]]
    assert "features" not in json.loads((gradlens(*common, "--out", tmp_path / "c")).out)


def test_batches_change_nothing(gradlens, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    common = ["cam", "--model", "shufflenet", "--data", "vehicles-test", "--n", 5, "--dpi", 40, "--layers", "last"]
    for size in (2, 16):
        gradlens(*common, "--save-maps", "--batch-size", size, "--out", tmp_path / str(size))
    few, many = (np.load(tmp_path / s / "maps" / "vehicles--shufflenet.npz") for s in ("2", "16"))
    assert few["stacks.image"].tolist() == many["stacks.image"].tolist()
    assert len(set(few["stacks.image"].tolist())) == 5
    layer = str(few["stacks.layers"][0])
    np.testing.assert_allclose(few[layer], many[layer], rtol=1e-3, atol=1e-4 * np.abs(many[layer]).max())


def test_methods_are_listed(gradlens) -> None:  # type: ignore[no-untyped-def]
    listed = json.loads(gradlens("cam", "--list-methods", "--json").out)["methods"]
    names = [m["name"] for m in listed]
    assert {"gradcam", "scorecam", "rollout", "integrated-gradients", "fullgrad"} <= set(names)
    assert all(m["paper"] and m["formula"] for m in listed)
    table = gradlens("cam", "--list-methods").out
    assert all(m["title"] in table and m["formula"] in table for m in listed)


class TestTargets:
    logits = torch.tensor([[0.0, 3, 2, 1], [5, 1, 0, 2]])

    def model(self, *classes: str) -> LoadedModel:
        return LoadedModel("net", torch.nn.Identity(), classes, Preprocess((3, 8, 8)), "none")

    def picked(self, spec: str, *classes: str, labels: tuple[str | None, ...] = (None, None)) -> list[list[int]]:
        found = asks([spec], self.model(*classes))
        sides = [side for ask in found for side in (ask.pick, ask.against) if side]
        return [side(self.logits, labels).tolist() for side in sides]

    @pytest.mark.parametrize(
        ("spec", "expected"),
        [
            ("predicted", [[1, 0]]),
            ("second", [[2, 3]]),
            ("top:3", [[1, 0], [2, 3], [3, 1]]),
            ("c", [[2, 2]]),
            ("3", [[3, 3]]),
            ("contrast:predicted/second", [[1, 0], [2, 3]]),
            ("contrast:a/b/3", [[0, 0], [3, 3]]),
            ("contrast:1/a/b", [[1, 1], [0, 0]]),
        ],
    )
    def test_what_they_mean(self, spec: str, expected: list[list[int]]) -> None:
        assert self.picked(spec, "a/b", "b", "c", "d") == expected

    def test_a_class_called_like_an_index_or_a_word(self) -> None:
        assert self.picked("1", "3", "2", "1", "0") == [[2, 2]]
        assert self.picked("true", "a", "true", "c", "d", labels=("d", "a")) == [[3, 0]]

    def test_a_contrast_that_can_be_read_in_two_ways_is_refused(self) -> None:
        with pytest.raises(InputError, match="2 ways"):
            self.picked("contrast:a/b/c", "a", "b/c", "a/b", "c")
        with pytest.raises(NotFoundError):
            self.picked("contrast:a/x", "a", "b", "c", "d")


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
        assert "scale map" in words.lower()

    def test_cells_must_match_columns(self) -> None:
        with pytest.raises(ValueError, match="columns"):
            cam_grid([self.row(np.ones((2, 2)))], [Column("one"), Column("two")], title="t")
