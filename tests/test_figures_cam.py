"""CAM figures from synthetic stacks: what is drawn where, what the figure says, how pages are filled."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.text import Text
from PIL import Image

from gradlens.cam.derived import Channels, difference, outline, strongest_channels
from gradlens.depths.capture import Captured, Score
from gradlens.figures.cam_grid import (
    PAGE_HEIGHT,
    TILE,
    Caption,
    Cell,
    Column,
    Row,
    Scene,
    _broken,
    _maxima,
    _shortened,
    cam_grid,
    overlay,
    signed_overlay,
    tile,
)
from gradlens.figures.cam_images import cam_images
from gradlens.figures.cam_methods import cam_methods
from gradlens.figures.cam_models import cam_models, cam_models_by_depths
from gradlens.figures.cam_targets import SAME, cam_targets
from gradlens.figures.feature_maps import feature_maps
from gradlens.figures.style import COLUMN_WIDTH, PAGE_WIDTH, diverging, save
from gradlens.records import CamStack, HookPoint, MapStatus

VIEW = np.full((40, 40, 3), 200, np.uint8)
PIXELS = HookPoint(path="", call=1, shape=(3, 40, 40), stride=(1.0, 1.0), layout="NCHW")


def point(path: str, cells: int = 4) -> HookPoint:
    return HookPoint(path=path, call=1, shape=(8, cells, cells), stride=(40 / cells, 40 / cells), layout="NCHW")


def stack(
    *maps: np.ndarray,
    method: str = "gradcam",
    target: tuple[int, str] = (0, "car"),
    against: tuple[int, str] | None = None,
    status: MapStatus = "ok",
    depths: tuple[HookPoint, ...] = (),
    model: str = "zoo/net",
) -> CamStack:
    return CamStack(
        model=model,
        image="a",
        method=method,
        target=target,
        logit=2.0,
        probability=0.6,
        depths=depths or tuple(point(f"layer{i}") for i in range(len(maps))),
        maps=maps,
        statuses=(status,) * len(maps),
        against=against,
    )


def scene(*stacks: CamStack, name: str = "bus") -> Scene:
    return Scene(VIEW, name, "test", stacks, Caption("car 60%", False))


def words(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.findobj(Text) if isinstance(t, Text) and t.get_text()]


def tiles(figure: Figure) -> dict[tuple[float, float], np.ndarray]:
    """Every picture on the page but the legend's ramps, by its left and upper edge in inches, row by row."""
    found = {}
    for image in figure.axes[0].images:
        left, right, _, top = image.get_extent()
        if not math.isclose(right - left, 0.85):
            found[round(top, 3), round(left, 3)] = np.asarray(image.get_array())
    return {(left, top): found[top, left] for top, left in sorted(found)}


def rising(scale: float = 1.0) -> np.ndarray:
    return np.arange(16, dtype=np.float32).reshape(4, 4) * scale


class TestCell:
    def test_signed_maps_show_both_signs_in_two_hues(self) -> None:
        raw = np.zeros((4, 4), np.float32)
        raw[:, 0], raw[:, 3] = -2, 2
        drawn = signed_overlay(VIEW, raw, 2.0).astype(int)
        left, middle, right = drawn[128, 5], drawn[128, 128], drawn[128, 250]
        assert left[2] > left[0] + 40  # blue
        assert right[0] > right[2] + 40  # brown
        assert np.ptp(middle) < 12  # zero is grey

    def test_a_zero_of_a_signed_map_is_no_line(self) -> None:
        """From zero to the largest value, the picture only gets darker: no bright rim around what is near zero."""
        ramp = np.linspace(0, 1, 40, dtype=np.float32)[None].repeat(40, 0)
        light = signed_overlay(VIEW, ramp, 1.0).astype(int).sum(2)[128]
        assert (np.diff(light) <= 3).all()

    def test_a_signed_legend_has_the_colours_of_the_cells(self) -> None:
        white = np.full((40, 40, 3), 255, np.uint8)
        drawn = signed_overlay(white, np.full((4, 4), -1.0, np.float32), 1.0)
        np.testing.assert_allclose(drawn[0, 0] / 255, diverging()(0.0)[:3], atol=0.01)

    @pytest.mark.parametrize(
        ("cell", "top", "drawn"),
        [
            (Cell(np.array([[-4.0, 1]]), "ok"), 1, True),
            (Cell(np.array([[-4.0, 1]]), "ok", signed=True), 4, True),
            (Cell(np.array([[-4.0, -1]]), "all negative"), 0, False),
            (Cell(np.array([[-4.0, -1]]), "all negative", signed=True), 4, True),
            (Cell(np.full((1, 2), np.nan), "undefined", signed=True), 0, False),
            (Cell(np.array([[1.0, 2]]), "ok", said="no"), 0, False),
            (Cell(np.array([[0.0] * 98 + [1, 100]]), "ok", fine=True), 1.99, True),
            (Cell(np.array([[0.0] * 999 + [100]]), "ok", fine=True), 100, True),  # the percentile is zero
        ],
    )
    def test_what_is_drawn_and_what_the_strongest_colour_stands_for(self, cell: Cell, top: float, drawn: bool) -> None:
        assert cell.drawn is drawn
        assert cell.top == pytest.approx(top)

    @pytest.mark.parametrize("status", ["undefined", "non-finite", "constant", "zero gradient", "all negative"])
    def test_every_status_is_said_in_its_cell(self, status: MapStatus) -> None:
        (page,) = cam_images([scene(stack(np.full((4, 4), np.nan), status=status))])
        said = {"undefined": "not defined", "non-finite": "not finite", "constant": "the same"}.get(status, status[:4])
        assert any(said.split()[0] in text for text in words(page))
        assert len(tiles(page)) == 1  # the image alone

    def test_a_view_of_a_cells_size_is_not_resized_again(self) -> None:
        once = tile(VIEW)
        assert max(once.shape[:2]) == TILE
        assert tile(once) is once

    def test_maps_finer_than_a_cell_are_averaged_not_sampled(self) -> None:
        raw = np.zeros((1024, 1024), np.float32)
        raw[::4, ::4] = 1  # sampling every fourth pixel would show all or nothing
        drawn = overlay(VIEW, raw, 1.0)
        np.testing.assert_array_equal(drawn, overlay(VIEW, np.full((4, 4), 1 / 16, np.float32), 1.0))


class TestGrid:
    def test_common_maxima_of_signed_maps_are_of_absolute_values(self) -> None:
        cells = [Cell(np.array([[-8.0, 1]]), "ok", signed=True), Cell(np.array([[3.0, 1]]), "ok")]
        assert _maxima([Row(VIEW, "n", "s", cells, "a")], "row") == [[8, 8]]
        assert _maxima([Row(VIEW, "n", "s", cells, "a")], "map") == [[8, 3]]

    def test_rows_of_a_block_show_the_picture_once_and_stay_on_one_page(self) -> None:
        rows = [Row(VIEW, f"m{i}", "", [Cell(rising(), "ok")] * 5, "a", block=str(i // 6)) for i in range(12)]
        pages = list(cam_grid(rows, [Column(f"d{i}") for i in range(5)], title="t"))
        assert len(pages) == 2
        for number, page in enumerate(pages):
            assert len(tiles(page)) == 1 + 6 * 5
            assert {f"m{i}" for i in range(6 * number, 6 * number + 6)} <= set(words(page))
            assert f"({number + 1} of 2)" in words(page)[0]

    def test_a_block_higher_than_a_page_gets_smaller_cells(self) -> None:
        columns = [Column(f"d{i}") for i in range(5)]

        def cell_width(rows: int) -> float:
            block = [Row(VIEW, f"m{i}", "", [Cell(rising(), "ok")] * 5, "a", block="one") for i in range(rows)]
            (page,) = cam_grid(block, columns, title="t")
            assert page.get_size_inches()[1] <= PAGE_HEIGHT + 0.01
            left, right, _, _ = page.axes[0].images[0].get_extent()
            return float(right - left)

        assert cell_width(11) < cell_width(3)

    def test_a_block_too_high_for_any_page_is_split_evenly(self) -> None:
        rows = [Row(VIEW, f"m{i}", "", [Cell(rising(), "ok")], "a", block="one") for i in range(40)]
        pages = list(cam_grid(rows, [Column("d")], title="t"))
        counts = [len(tiles(page)) - 1 for page in pages]
        assert sum(counts) == 40
        assert len(pages) > 1
        assert max(counts) - min(counts) <= len(pages)

    @pytest.mark.parametrize(("depths", "lines"), [(9, 1), (10, 1), (11, 2), (18, 2), (19, 3), (30, 4)])
    def test_depths_wrap_into_even_lines(self, depths: int, lines: int) -> None:
        (page,) = cam_images([scene(stack(*[rising()] * depths))])
        tops = [top for _, top in tiles(page)]
        per_line = [tops.count(y) for y in sorted(set(tops))]
        assert len(per_line) == lines
        per_line[0] -= 1  # the image
        assert sum(per_line) == depths
        assert max(per_line[:-1], default=depths) - per_line[-1] < lines or lines == 1
        assert page.get_size_inches()[0] <= PAGE_WIDTH + 0.01

    def test_every_cell_lies_on_the_page_and_on_no_other(self) -> None:
        (page,) = cam_images([scene(stack(*[rising()] * 19)) for _ in range(2)])
        width, height = page.get_size_inches()
        boxes = [image.get_extent() for image in page.axes[0].images]
        for i, (left, right, low, high) in enumerate(boxes):
            assert 0 <= left < right <= width
            assert 0 <= high < low <= height
            for x0, x1, y1, y0 in boxes[:i]:
                assert right <= x0 + 1e-9 or x1 <= left + 1e-9 or low <= y0 + 1e-9 or y1 <= high + 1e-9

    @pytest.mark.parametrize(
        "names",
        [
            [f"features.denseblock{i}.denselayer{i}.conv" for i in range(10)],
            [f"layer{i}" for i in range(10)],
            ["a_module_with_a_long_name_but_no_dots_at_all"] * 10,
        ],
    )
    def test_names_of_depths_do_not_run_into_one_another(self, names: list[str]) -> None:
        depths = tuple(point(n) for n in names)
        (page,) = cam_images([scene(stack(*[rising()] * 10, depths=depths))])
        page.set_dpi(200)
        renderer = FigureCanvasAgg(page).get_renderer()
        headings = [
            t.get_window_extent(renderer)
            for t in page.axes[0].texts
            if t.get_verticalalignment() == "bottom" and t.get_text() != "image"
        ]
        assert len(headings) == 20
        for a in headings:
            assert a.x0 >= 0
            assert a.x1 <= page.get_size_inches()[0] * 200
        level = {round(b.y0): sorted((x.x0, x.x1) for x in headings if round(x.y0) == round(b.y0)) for b in headings}
        for spans in level.values():
            assert all(right < left + 4 for (_, right), (left, _) in itertools.pairwise(spans))

    @pytest.mark.parametrize("method", ["gradcam", "integrated-gradients"])
    @pytest.mark.parametrize("depths", [1, 2, 3, 6])
    def test_few_columns_make_a_narrow_figure_that_says_as_much(self, depths: int, method: str) -> None:
        (page,) = cam_images([scene(stack(*[rising()] * depths, method=method))])
        width, height = page.get_size_inches()
        drawn = max(image.get_extent()[1] for image in page.axes[0].images)
        assert COLUMN_WIDTH - 0.01 <= width <= max(COLUMN_WIDTH, drawn + 1.2)
        if depths == 1:
            assert width == pytest.approx(COLUMN_WIDTH, abs=0.05)
        told = " ".join(words(page)).lower()
        assert "relu(map)" in told
        assert "each map is divided by its own maximum" in told
        page.set_dpi(200)
        renderer = FigureCanvasAgg(page).get_renderer()
        for text in page.axes[0].texts:
            box = text.get_window_extent(renderer)
            assert box.x0 >= -1
            assert box.x1 <= 200 * width + 1
            assert 0 <= box.y0 < box.y1 <= 200 * height

    def test_a_name_without_a_font_stays_legible(self) -> None:
        (page,) = cam_images(
            [scene(stack(rising(), rising()), name="\U000e0ffe\U000e0ffd\U000e0ffc ünïcödé $x_1$.jpg")]
        )
        page.set_dpi(200)
        renderer = FigureCanvasAgg(page).get_renderer()
        names = [t for t in page.axes[0].texts if "<U+" in t.get_text() or ".jpg" in t.get_text()]
        assert len(names) >= 2
        for text in names:
            assert text.get_fontsize() >= 4
            assert text.get_window_extent(renderer).x0 >= -1

    def test_names_keep_what_tells_them_apart(self) -> None:
        assert _shortened("features.denseblock4.denselayer16.conv2", 20) == "…denselayer16.conv2"
        assert len(_shortened("a very long caption of a cell", 12)) == 12
        assert _broken("features.denseblock1", 0.5) == ["features.", "denseblock1"]
        assert len(_broken("a.b" * 40, 0.5)) == 3

    @pytest.mark.parametrize("length", [10, 90, 110, 300])
    def test_a_title_fits_the_page_and_keeps_the_page_number(self, length: int) -> None:
        rows = [Row(VIEW, "n", "s", [Cell(rising(), "ok")], str(i)) for i in range(20)]
        page = next(cam_grid(rows, [Column("d")], title=("vehicles/net · " * 30)[:length]))
        (title,) = [t for t in page.axes[0].texts if "(1 of " in t.get_text()]
        assert title.get_window_extent(FigureCanvasAgg(page).get_renderer()).x1 <= page.get_size_inches()[0] * page.dpi

    def test_a_page_is_drawn_when_it_is_asked_for(self) -> None:
        rows = [Row(VIEW, "n", "s", [Cell(rising(), "ok")], str(i)) for i in range(5000)]
        pages = cam_grid(rows, [Column("d")], title="t")
        assert "of" in words(next(pages))[0]


class TestFigures:
    def test_images_name_contrasts_and_show_the_picture_once_per_image(self) -> None:
        one = scene(stack(rising()), stack(rising(), target=(1, "bus"), against=(2, "ship")))
        (page,) = cam_images([one, one])
        assert sum("→ car" in text for text in words(page)) == 2
        assert any("bus − ship" in " ".join(words(page)[i : i + 2]) for i in range(len(words(page))))
        assert len(tiles(page)) == 2 * (1 + 2)

    def test_methods_that_explain_pixels_have_a_column_of_their_own(self) -> None:
        deep = stack(rising(), rising(2))
        pixels = stack(np.ones((40, 40)), method="occlusion", depths=(PIXELS,))
        (page,) = cam_methods(scene(deep, pixels), titles={"gradcam": "Grad-CAM"})
        assert {"Grad-CAM", "occlusion", "input", "pixels", "layer0", "layer1"} <= set(words(page))
        places = list(tiles(page))
        (image, *first), second = places[:3], places[3:]
        assert len(second) == 1
        assert image[0] < second[0][0] < min(x for x, _ in first)
        assert any("99th percentile" in text for text in words(page))

    def test_methods_without_pixels_have_no_such_column(self) -> None:
        (page,) = cam_methods(scene(stack(rising()), stack(rising(), method="layercam")))
        assert "input" not in words(page)
        assert not any("percentile" in text for text in words(page))
        (page,) = cam_methods(scene(stack(np.ones((40, 40)), method="occlusion", depths=(PIXELS,))))
        assert "input" in words(page)
        assert len(tiles(page)) == 2

    def test_methods_do_not_share_a_maximum(self) -> None:
        """Units of two methods have nothing in common, so scale=image is one of each."""
        pages = [
            next(cam_methods(scene(stack(rising()), stack(rising(s), method="other")), scale="image")) for s in (1, 100)
        ]
        a, b = (list(tiles(page).values()) for page in pages)
        np.testing.assert_array_equal(a[1], b[1])

    def test_two_targets_stand_side_by_side_with_their_difference(self) -> None:
        a, b = stack(rising(), rising(2)), stack(rising()[::-1].copy(), rising(2), target=(1, "bus"))
        one = scene(a, b, difference(a, b))
        (page,) = cam_targets([one], names=("predicted", "true"))
        said = words(page)
        assert said.count("A − B") == 2
        assert {"A car 60%", "B bus 60%"} <= set(said)
        assert any("A: predicted. B: true." in text for text in said)
        drawn = list(tiles(page).values())
        np.testing.assert_array_equal(drawn[1], overlay(VIEW, a.maps[0], 15))
        np.testing.assert_array_equal(drawn[2], overlay(VIEW, b.maps[0], 15))
        np.testing.assert_array_equal(drawn[3], signed_overlay(VIEW, a.maps[0] - b.maps[0], 12))
        assert len(drawn) == 1 + 3 + 2  # at the second depth both are alike: no difference to draw

    def test_one_target_twice_has_no_difference(self) -> None:
        a = stack(rising())
        (page,) = cam_targets([scene(a, a, difference(a, a))])
        assert SAME in words(page)
        with pytest.raises(ValueError, match="difference"):
            cam_targets([scene(a, a)])

    def test_groups_of_columns_are_not_torn(self) -> None:
        a, b = stack(*[rising()] * 7), stack(*[rising(-1) + 3] * 7, target=(1, "bus"))
        (page,) = cam_targets([scene(a, b, difference(a, b))])
        tops = [top for _, top in tiles(page)]
        assert [tops.count(y) for y in sorted(set(tops))] == [1 + 9, 9, 3]

    def test_models_at_their_last_depth(self) -> None:
        nets = [scene(stack(rising(), rising(3), model=f"zoo/net{k}")) for k in range(3)]
        (page,) = cam_models([nets, nets], title="all")
        assert {"net0", "net1", "net2", "layer1"} <= set(words(page))
        assert len(tiles(page)) == 2 * (1 + 3)

    def test_models_with_fewer_depths_leave_no_empty_lines(self) -> None:
        scenes = [scene(stack(*[rising()] * n, model=f"zoo/net{n}")) for n in (13, 3)]
        (page,) = cam_models_by_depths(scenes)
        tops = [top for _, top in tiles(page)]
        assert [tops.count(y) for y in sorted(set(tops))] == [8, 6, 4]
        assert words(page).count("depth 3") == 2
        assert words(page).count("depth 9") == 1

    def test_outlines_are_drawn_over_the_maps_in_place(self) -> None:
        square = np.array([[0.25, 0.5], [0.75, 0.5], [0.75, 1.0], [0.25, 1.0]])
        one = Scene(VIEW, "bus", "test", [stack(rising(), rising())], outlines=[[[square], []]])
        (page,) = cam_images([one], note="Box: half")
        (drawn,) = [p for p in page.axes[0].patches if isinstance(p, Polygon)]
        (_, cell, _) = [image.get_extent() for image in page.axes[0].images[:3]]
        left, right, bottom, top = cell
        xs, ys = drawn.get_xy().T
        assert (xs.min() - left) / (right - left) == pytest.approx(0.25)
        assert (xs.max() - left) / (right - left) == pytest.approx(0.75)
        assert (ys.min() - top) / (bottom - top) == pytest.approx(0.5)
        assert (ys.max() - top) / (bottom - top) == pytest.approx(1)
        assert "Box: half" in words(page)

    def test_channels_with_their_numbers_and_shares(self) -> None:
        first = Channels(point("a"), "contribution", (7, 3), (0.5, 0.125), (1, -1), (rising(), rising(2)))
        second = Channels(point("b"), "contribution", (1,), (0.051,), (1,), (rising(),))
        (page,) = feature_maps(scene(stack(rising())), [first, second])
        said = words(page)
        assert {"#7 +50%", "#3 −12%", "#1 +5.1%", "2 of 8: 62%"} <= set(said)
        told = " ".join(said)  # in lines as long as the figure is wide
        assert "Ranked by contribution" in told
        assert "raises the score of car" in told
        assert any("ReLU(activation)" in text for text in said)
        assert len(tiles(page)) == 1 + 3

    def test_channels_with_negative_values_are_drawn_with_both_signs(self) -> None:
        channels = Channels(point("a"), "activation", (0,), (0.2,), (0,), (rising() - 8,))
        (page,) = feature_maps(scene(stack(rising())), [channels])
        assert any("both signs" in text for text in words(page))
        assert "#0 20%" in words(page)
        np.testing.assert_array_equal(list(tiles(page).values())[1], signed_overlay(VIEW, rising() - 8, 8))

    def test_channels_of_a_depth_without_gradient_say_so(self) -> None:
        channels = Channels(point("a"), "contribution", (0,), (0.0,), (0,), (rising(),))
        (page,) = feature_maps(scene(stack(rising())), [channels])
        assert "gradient\nis zero" in words(page)

    @pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
    def test_files_at_the_size_of_a_page(self, tmp_path: Path, ending: str) -> None:
        (page,) = cam_images([scene(stack(*[rising()] * 9), name="$5_£")])
        (path,) = save(page, tmp_path / "x", [ending], 100, {"alt": "words"})
        if ending == "png":
            with Image.open(path) as file:
                assert file.width == pytest.approx(PAGE_WIDTH * 100, abs=5)
                assert json.loads(file.info["gradlens"])["alt"] == "words"
        elif ending == "pdf":
            content = path.read_bytes()
            assert b"/FontFile2" in content  # embedded TrueType
            assert b"/Type3" not in content
        else:
            assert "<text" not in path.read_text()  # letters are shapes: no font is needed

    def test_all_formats_of_one_figure_without_a_warning(self, tmp_path: Path) -> None:
        (page,) = cam_images([scene(stack(rising()))])
        assert len(save(page, tmp_path / "x", ["png", "pdf", "svg"], 50)) == 3


class TestOutline:
    def test_a_box_around_the_largest_region_in_the_original(self) -> None:
        raw = np.zeros((8, 8), np.float32)
        raw[2:6, 1:4] = 1
        raw[7, 7] = 1
        found = outline(raw, (8, 8), 0.5)
        assert found is not None
        assert found.box == (1 / 8, 2 / 8, 4 / 8, 6 / 8)
        assert found.area == pytest.approx(13 / 64)
        assert found.regions == 2
        # the network saw columns 30 to 70 of an image 100 wide, all 40 rows
        assert found.box_in((0.0, 30.0, 40.0, 70.0)) == pytest.approx((35, 10, 50, 30))

    @pytest.mark.parametrize("threshold", [0.05, 0.2, 0.5, 0.9, 1.0])
    def test_the_mask_is_where_the_enlarged_map_reaches_its_share(self, threshold: float) -> None:
        raw = np.random.default_rng(0).normal(size=(7, 7)).astype(np.float32)
        found = outline(raw, (50, 60), threshold)
        heat = torch.nn.functional.interpolate(
            torch.from_numpy(raw).clamp(min=0)[None, None], (50, 60), mode="bilinear", align_corners=False
        )[0, 0].numpy()
        strong = heat >= threshold * heat.max() - 1e-6
        assert found is not None
        assert found.area == pytest.approx(strong.mean(), abs=2 / 3000)
        count, _ = cv2.connectedComponents(strong.astype(np.uint8))
        assert abs(found.regions - (count - 1)) <= 1  # a pixel within rounding of the threshold
        rows, columns = np.nonzero(strong)
        left, top, right, bottom = found.box
        assert columns.min() / 60 <= left < right <= (columns.max() + 1) / 60
        assert rows.min() / 50 <= top < bottom <= (rows.max() + 1) / 50

    def test_holes_are_borders_but_no_regions(self) -> None:
        raw = np.ones((9, 9), np.float32)
        raw[3:6, 3:6] = 0
        found = outline(raw, (9, 9), 0.9)
        assert found is not None
        assert (len(found.contours), found.regions) == (2, 1)
        assert found.box == (0, 0, 1, 1)

    @pytest.mark.parametrize("raw", [np.zeros((3, 3)), -np.ones((3, 3)), np.full((3, 3), np.nan)])
    def test_where_nothing_is_positive_there_is_none(self, raw: np.ndarray) -> None:
        assert outline(raw, (9, 9)) is None

    @pytest.mark.parametrize("threshold", [0.0, 1.5, math.nan])
    def test_a_threshold_is_a_share(self, threshold: float) -> None:
        with pytest.raises(ValueError, match="threshold"):
            outline(np.ones((3, 3)), (9, 9), threshold)


class TestDifference:
    def test_values_and_statuses(self) -> None:
        a = stack(rising(), rising(), rising(), np.ones((4, 4)))
        b = stack(rising(2), rising(), np.full((4, 4), np.nan), rising(), target=(1, "bus"))
        b = replace(b, statuses=("ok", "ok", "undefined", "ok"))
        got = difference(a, b)
        np.testing.assert_array_equal(got.maps[0], -rising())
        assert got.statuses == ("all negative", "zero gradient", "undefined", "ok")
        assert (got.target, got.against) == ((0, "car"), (1, "bus"))

    def test_only_of_what_can_be_compared(self) -> None:
        with pytest.raises(ValueError, match="layercam"):
            difference(stack(rising()), stack(rising(), method="layercam"))


class TestChannels:
    def captured(self) -> Captured:
        generator = torch.Generator().manual_seed(0)
        a = torch.randn(2, 8, 4, 4, generator=generator)
        g = torch.randn(2, 8, 4, 4, generator=generator)
        return Captured(torch.zeros(2, 3), Score(torch.zeros(2, dtype=torch.int64)), (a,), (g,))

    @pytest.mark.parametrize("rank", ["contribution", "activation"])
    def test_against_the_formula_written_slowly(self, rank: str) -> None:
        captured = self.captured()
        found = strongest_channels(captured, [point("a")], 3, rank)  # type: ignore[arg-type]
        for n in range(2):
            a, g = captured.activations[0][n].double().numpy(), captured.gradients[0][n].double().numpy()
            strength = np.array([np.abs(a[c]).mean() for c in range(8)])
            if rank == "contribution":
                strength *= [abs(g[c].mean()) for c in range(8)]
            best = np.argsort(-strength)[:3]
            assert found[n][0].indices == tuple(best)
            np.testing.assert_allclose(found[n][0].shares, strength[best] / strength.sum(), rtol=1e-5)
            assert found[n][0].signs == tuple(int(np.sign(g[c].mean())) for c in best)
            np.testing.assert_array_equal(found[n][0].maps[1], captured.activations[0][n, best[1]])

    def test_no_more_channels_than_there_are(self) -> None:
        assert len(strongest_channels(self.captured(), [point("a")], 99)[0][0].indices) == 8

    def test_shares_are_zero_where_nothing_contributes(self) -> None:
        captured = self.captured()
        blank = Captured(captured.logits, captured.score, captured.activations, (torch.zeros(2, 8, 4, 4),))
        assert strongest_channels(blank, [point("a")], 2)[0][0].shares == (0, 0)
