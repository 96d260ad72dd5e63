"""Figures of the shift side: what they draw, at every size, with any name, and how they are written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from shift_samples import draw, told

from gradlens.figures import style
from gradlens.figures.confusion import confusion
from gradlens.figures.gap_heatmap import gap_heatmap
from gradlens.figures.shift_scatter import Point, shift_scatter
from gradlens.records import Estimate, GapReport
from gradlens.shift.metrics import on_classes

AWKWARD = ["$x$ and $", "100% _^{}\\frac", "Straße", "кошка", "猫", "a\nb", "<script>&amp;", "x" * 90]


def report(model: str, probe: str, value: float | None, *, half: float = 0.02, metric: str = "accuracy") -> GapReport:
    if value is None:
        gap = Estimate.undefined("not defined: because", 0)
    else:
        gap = Estimate(value, value - half, value + half, 200, "paired Newcombe 95%")
    return GapReport(
        model=model,
        in_dist="sets-test",
        probe=probe,
        metric=metric,
        label_space="shared",
        gap=gap,
        paired=True,
        in_dist_value=0.95,
        probe_value=0.95 - (value or 0),
        n_in_dist=200,
        n_probe=200,
        classes=8,
        mix=0.0,
        within=value or 0.0,
    )


def many(models: int, probes: int) -> list[GapReport]:
    rng = np.random.default_rng(0)
    return [report(f"m{i}", f"sets-p{j}", float(rng.uniform(-0.1, 0.7))) for i in range(models) for j in range(probes)]


def points(models: int, probes: int) -> list[Point]:
    def estimate(value: float, half: float) -> Estimate:
        return Estimate(value, max(0, value - half), min(1, value + half), 200, "Clopper-Pearson 95%")

    rng = np.random.default_rng(0)
    return [
        Point(f"m{i}", "sets-test", f"sets-p{j}", estimate(0.9 + i / 200, 0.02), estimate(rng.uniform(0.2, 0.95), 0.05))
        for i in range(models)
        for j in range(probes)
    ]


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.findobj(Text) if t.get_visible() and t.get_text()]


def assert_text_inside(figure: Figure) -> None:
    """Nothing that is written is cut off at the figure's edge."""
    for _ in range(2):  # as savefig does: the layout sees the ticks of the first pass
        figure.draw_without_rendering()
    box = figure.get_tightbbox()  # inches, of everything that is drawn
    width, height = figure.get_size_inches()
    assert min(box.x0, box.y0) > -0.02
    assert box.x1 < width + 0.02
    assert box.y1 < height + 0.02


@pytest.fixture(autouse=True)
def _settings_stay_as_they_were() -> Iterator[None]:
    before = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == before


# --- heat map ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("models", "probes"), [(1, 1), (1, 10), (20, 1), (14, 9), (20, 10)])
def test_heat_map_at_every_size(models: int, probes: int) -> None:
    figure = gap_heatmap(many(models, probes))
    assert style.COLUMN_WIDTH <= figure.get_figwidth() <= style.PAGE_WIDTH
    assert_text_inside(figure)
    cells = [t for t in texts(figure) if re.fullmatch(r"\[−?\d+\.\d, −?\d+\.\d\]", t)]
    assert len(cells) == models * probes


def test_heat_map_texts_of_a_row_do_not_touch() -> None:
    figure = gap_heatmap(many(3, 10))
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in figure.findobj(Text) if t.get_text().startswith("[")]
    for i, a in enumerate(boxes):
        assert not any(a.overlaps(b) for b in boxes[i + 1 :])


def test_heat_map_sorts_and_tells_what_it_shows() -> None:
    reports = [
        report("weak", "sets-hard", 0.5),
        report("weak", "sets-easy", 0.01, half=0.02),
        report("strong", "sets-hard", 0.2),
        report("strong", "sets-easy", -0.05),
    ]
    figure = gap_heatmap(reports)
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["strong", "weak"]
    assert [t.get_text() for t in ax.get_xticklabels()][-2:] == ["easy", "hard"]
    written = {t.get_text(): t.get_fontweight() for t in ax.texts}
    assert written["50.0"] == "bold"
    assert written["−5.0"] == "bold"
    assert written["1.0"] == "normal"  # its interval holds zero
    assert "[48.0, 52.0]" in written
    assert written["95.0"] == "normal"  # the in-distribution score
    caption = " ".join(" ".join(texts(figure)).split())
    assert "Accuracy on sets-test (n = 200) minus probe (n = 200), same scenes, 8 shared classes" in caption
    assert "95 % intervals" in caption


def test_zero_is_the_middle_of_the_colours_and_loss_is_brown() -> None:
    image = gap_heatmap([report("m", "a", 0.4), report("m", "b", -0.1)]).axes[0].images[0]
    assert image.norm(0.0) == 0.5
    red, _, blue = image.to_rgba(np.array([40.0]))[0][:3]
    assert red > blue
    red, _, blue = image.to_rgba(np.array([-40.0]))[0][:3]
    assert blue > red


def test_a_loss_that_is_better_when_lower_is_brown_when_it_grows() -> None:
    image = gap_heatmap([report("m", "a", -0.3, metric="ece")], metric="ece").axes[0].images[0]
    red, _, blue = image.to_rgba(image.get_array())[0][0][:3]
    assert red > blue


def test_undefined_and_absent_cells_are_told_apart() -> None:
    figure = gap_heatmap([report("a", "p", 0.1), report("a", "q", None), report("b", "p", 0.2)])
    assert texts(figure).count("not defined") == 1
    assert len([p for p in figure.axes[0].patches if p.get_hatch()]) == 1


def test_a_heat_map_of_undefined_gaps_alone() -> None:
    assert "not defined" in texts(gap_heatmap([report("a", "p", None)]))


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="no report of top5"):
        gap_heatmap(many(1, 1), metric="top5")
    with pytest.raises(ValueError, match="both sides"):
        shift_scatter([])
    with pytest.raises(ValueError, match="at least one labelled image"):
        confusion([on_classes(draw(n=3, labels=np.full(3, -1)))])


# --- scatter ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("models", "probes"), [(1, 1), (20, 1), (3, 2), (14, 9), (5, 10), (2, 5)])
def test_scatter_at_every_size(models: int, probes: int) -> None:
    figure = shift_scatter(points(models, probes))
    assert figure.get_figwidth() <= style.PAGE_WIDTH
    assert_text_inside(figure)
    panels = [ax for ax in figure.axes if ax.get_visible()]
    assert len(panels) == probes
    assert all(len(ax.containers) == models for ax in panels)
    for name in {f"m{i}" for i in range(models)}:
        assert texts(figure).count(name) == 1


def test_names_beside_points_do_not_touch() -> None:
    figure = shift_scatter(points(20, 1))
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(t) for t in figure.axes[0].texts if re.fullmatch(r"m\d+", t.get_text())]
    assert len(boxes) == 20
    for i, a in enumerate(boxes):
        assert not any(a.shrunk(1, 0.9).overlaps(b.shrunk(1, 0.9)) for b in boxes[i + 1 :])


def test_spread_keeps_order_and_distance_and_leaves_room_alone() -> None:
    assert style.spread([0.1, 0.5, 0.9], 0.1).tolist() == [0.1, 0.5, 0.9]
    places = style.spread([0.5, 0.5, 0.5, 0.52, 3], 0.1)
    assert np.diff(places)[:3] == pytest.approx([0.1] * 3)
    assert places[-1] == 3
    assert places[:4].mean() == pytest.approx(0.505)


def test_a_model_has_one_colour_in_every_panel() -> None:
    figure = shift_scatter(points(9, 3))
    for index in range(9):
        looks = {
            (ax.containers[index].lines[0].get_color(), ax.containers[index].lines[0].get_marker())
            for ax in figure.axes
        }
        assert len(looks) == 1


def test_undefined_points_are_left_out() -> None:
    some = points(3, 1)
    some[1] = replace(some[1], y=Estimate.undefined("no image", 0))
    assert len(shift_scatter(some).axes[0].containers) == 2


# --- confusion --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 8, 17, 40])
def test_confusion_at_every_size(k: int) -> None:
    figure = confusion([on_classes(draw(n=20 * k, k=k, noise=2))] * 2)
    assert figure.get_figwidth() <= style.PAGE_WIDTH
    assert_text_inside(figure)
    numbers = [t for t in figure.axes[0].texts if t.get_text().isdigit()]
    assert bool(numbers) == (k <= 16)


def test_confusion_shows_shares_and_names_the_largest() -> None:
    p = told([0] * 10 + [1] * 10, [0] * 6 + [1] * 4 + [1] * 10, ["cat", "dog"])
    figure = confusion([on_classes(p)])
    ax = figure.axes[0]
    assert ax.images[0].get_array().tolist() == [[60, 40], [0, 100]]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["cat (10)", "dog (10)"]
    assert "cat → dog: 40 % (4 of 10)" in ax.get_xlabel()
    outlined = [patch for patch in ax.patches if patch.get_linewidth()]
    assert len(outlined) == 1
    assert [str(patch.get_gid()) for patch in ax.patches if patch not in outlined] == [
        "told: model on set: cat taken for cat, 6 of 10 images (60.0 %)",
        "told: model on set: cat taken for dog, 4 of 10 images (40.0 %)",
        "told: model on set: dog taken for dog, 10 of 10 images (100.0 %)",
    ]
    assert outlined[0].get_xy() == pytest.approx((1 - 0.47, 0 - 0.47))


def test_confusion_has_a_column_for_answers_outside() -> None:
    p = told([0, 0, 1], [0, 2, 1], ["a", "b", "c"])
    ax = confusion([on_classes(p, ["a", "b"])]).axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b", "other"]
    assert ax.images[0].get_array().tolist() == [[50, 0, 50], [0, 100, 0]]


# --- style and files --------------------------------------------------------------------------------------------------


def test_awkward_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    figures = {
        "heat": gap_heatmap([report(m, p, 0.1) for m in AWKWARD for p in AWKWARD[:2]]),
        "scatter": shift_scatter([replace(p, model=m) for m in AWKWARD for p in points(1, 1)]),
        "panels": shift_scatter([replace(p, model=m) for m in AWKWARD for p in points(1, 2)]),
        "confusion": confusion([on_classes(told(range(8), range(8), AWKWARD))]),
    }
    for name, figure in figures.items():
        written = texts(figure)
        assert any("$x$ and $" in t for t in written)
        assert any("кошка" in t for t in written)
        style.save(figure, tmp_path / name, ("png", "pdf"), dpi=50)


def test_characters_without_a_glyph_are_spelled_out() -> None:
    assert style.drawable("ok ß ∞ →") == "ok ß ∞ →"
    unassigned = "\U000e0fff"
    assert style.drawable(f"a{unassigned}b") == "a<U+E0FFF>b"


def test_display_names_stay_different() -> None:
    assert style.display_names(["vehicles/a", "vehicles/b"]) == {"vehicles/a": "a", "vehicles/b": "b"}
    assert style.display_names(["v/a", "w/a"]) == {"v/a": "v/a", "w/a": "w/a"}
    long = ["x" * 30 + "1" + "y" * 30, "x" * 30 + "2" + "y" * 30]
    assert len(set(style.display_names(long).values())) == 2
    assert style.probe_names(["s-a", "s-b"], "s-test") == {"s-a": "a", "s-b": "b"}
    assert style.probe_names(["cifar10.1-v4", "cifar10.1-v6"], "cifar10") == {
        "cifar10.1-v4": "cifar10.1-v4",
        "cifar10.1-v6": "cifar10.1-v6",
    }
    assert style.probe_names(["a-b-x", "a-c"], "a-b-test") == {"a-b-x": "b-x", "a-c": "c"}


def test_colours_do_not_depend_on_the_order_and_differ() -> None:
    names = [f"m{i:02d}" for i in range(40)]
    colors, markers = style.model_colors(names), style.model_markers(names)
    assert style.model_colors(names[::-1]) == colors
    assert len({(colors[n], markers[n]) for n in names}) == 40


def test_colour_maps_are_even_and_readable() -> None:
    def lightness(rgb: np.ndarray) -> np.ndarray:
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        y = linear @ [0.2126, 0.7152, 0.0722]
        return 116 * np.cbrt(y) - 16  # CIE L*, another measure than the one they are built with

    steps = np.diff(lightness(np.array(style.sequential().colors)))
    assert (steps < 0).all()
    assert steps.std() < 0.1 * abs(steps.mean())
    both = lightness(np.array(style.diverging().colors))
    assert both[0] == pytest.approx(both[-1], abs=6)
    assert both.argmax() in (127, 128)
    for colors in (style.sequential().colors, style.diverging().colors):
        for color in colors:
            luminance = ((lightness(np.array(color)) + 16) / 116) ** 3
            ink = 0.0 if style.text_color(color) == "black" else 1.0
            high, low = max(luminance, ink), min(luminance, ink)
            assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG AA


def test_files_repeat_and_tell_where_they_came_from(tmp_path: Path) -> None:
    told = {"command": "gradlens shift-eval", "name": "猫"}
    for folder in ("one", "two"):
        figure = gap_heatmap(many(1, 1))
        paths = style.save(figure, tmp_path / folder / "gaps.v1", ("png", "pdf", "svg"), provenance=told)
        assert [p.name for p in paths] == ["gaps.v1.png", "gaps.v1.pdf", "gaps.v1.svg"]
    for ending in ("png", "pdf", "svg"):
        one, two = (tmp_path / folder / f"gaps.v1.{ending}" for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    with Image.open(tmp_path / "one/gaps.v1.png") as image:
        assert json.loads(image.text["gradlens"]) == told
        assert image.width == round(figure.get_figwidth() * 300)
    assert b"gradlens shift-eval" in (tmp_path / "one/gaps.v1.pdf").read_bytes()
    assert "gradlens shift-eval" in (tmp_path / "one/gaps.v1.svg").read_text()
    assert not [p for p in (tmp_path / "one").iterdir() if p.name.startswith(".")]


def test_pdf_fonts_are_embedded_truetype(tmp_path: Path) -> None:
    with mpl.rc_context({"pdf.fonttype": 3, "pdf.compression": 0, "text.usetex": False}):
        (path,) = style.save(gap_heatmap(many(1, 1)), tmp_path / "a", ("pdf",))
    content = path.read_bytes()
    assert b"/FontFile2" in content
    assert b"/Subtype /Type3" not in content


def test_unknown_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="png, pdf, svg, got 'gif'"):
        style.save(Figure(), tmp_path / "a", ("gif",))
    assert list(tmp_path.iterdir()) == []


def test_figures_leave_pyplot_alone() -> None:
    code = (
        "import sys; from gradlens.figures import style, gap_heatmap, shift_scatter, confusion; "
        "from matplotlib.figure import Figure; from pathlib import Path; import tempfile; "
        "style.save(Figure(), Path(tempfile.mkdtemp()) / 'a'); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
