"""Charts of the page: inlined without becoming a way in, told by marks, saved as PNG, SVG and CSV."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

import browser
from gradlens import report
from gradlens.figures import gap_heatmap, severity, shift_scatter, style
from gradlens.records import Estimate
from gradlens.report import drawings
from gradlens.report.pictures import KNOWN, embed
from gradlens.report.run_files import Run, read
from gradlens.shift.tables import percent
from runs import write_run

ACCURACIES = {
    "cars/vit": {"cars-test": 0.93, "cars-night": 0.88, "cars-photos": 0.7},
    "cars/vgg": {"cars-test": 0.88, "cars-night": 0.7, "cars-photos": 0.45},
    "cars/<i>&": {"cars-test": 0.95, "cars-night": 0.6, "cars-photos": 0.62},
}


def points(run: Run) -> list[shift_scatter.Point]:
    """A run's gaps as the scatter wants them, with made-up intervals of five points around each side."""

    def near(value: float, n: int) -> Estimate:
        return Estimate(value, max(0, value - 0.05), min(1, value + 0.05), n, "Clopper-Pearson 95%")

    return [
        shift_scatter.Point(g.model, g.in_dist, g.probe, near(g.in_dist_value, 9), near(g.probe_value, 9))
        for g in run.gaps_of("accuracy").values()
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("charts")
    write_run(folder, ACCURACIES, in_dist="cars-test")
    found = read(folder)
    drawn = {
        "shift_scatter": shift_scatter.shift_scatter(points(found)),
        "gap_heatmap": gap_heatmap.gap_heatmap(list(found.gaps_of("accuracy").values())),
    }
    for name, figure in drawn.items():
        style.save(figure, folder / "figures" / name, ("png", "svg"))
    report.build(folder)
    return folder


def test_every_mark_of_a_chart_says_model_set_and_numbers(run: Path) -> None:
    source = (run / "figures" / "shift_scatter.svg").read_text()
    titles = [t.text for t in ET.fromstring(source).iter(f"{drawings.SVG}title")]
    gaps = read(run).gaps_of("accuracy")
    assert len(titles) == len(gaps) == 6
    for (model, probe), g in gaps.items():
        (own,) = (t for t in titles if t is not None and t.startswith(f"{model} on {probe}: "))
        assert f"{percent(g.probe_value)} % [" in own
        assert f"in distribution {percent(g.in_dist_value)} % [" in own


def test_charts_are_inlined_with_ids_of_their_own_and_nothing_to_fetch(run: Path) -> None:
    source = (run / "report.html").read_text()
    assert source.count("<svg") == 2
    ids = re.findall(r'\bid="([^"]+)"', source)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'(?:url\(|<use href=")#([^)"]+)', source):
        assert target in ids
    assert set(re.findall(r"url\((.)", source)) == {"#"}
    assert "<i>&" not in source  # a model's name, as text everywhere


def test_a_chart_looks_the_same_inlined(run: Path) -> None:
    """Every element of the file is there, in its order, with hundredths of a point at least."""
    path = run / "figures" / "shift_scatter.svg"
    inlined = ET.fromstring(
        str(drawings.inline(path, "x")).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ')
    )
    kept = [e.tag for e in ET.parse(path).iter() if "metadata" not in e.tag and e.tag.startswith(drawings.SVG)]
    dropped = {f"{drawings.SVG}style"}
    assert [e.tag for e in inlined.iter()] == [tag for tag in kept if tag not in dropped]
    texts = ["".join(e.itertext()) for e in ET.parse(path).iter(f"{drawings.SVG}text")]
    assert ["".join(e.itertext()) for e in inlined.iter(f"{drawings.SVG}text")] == [t.strip() for t in texts]


@pytest.mark.parametrize(
    "inside",
    [
        "<script>alert(1)</script>",
        '<a href="https://example.org"><text>x</text></a>',
        "<foreignObject><p>x</p></foreignObject>",
        '<g onclick="alert(1)"/>',
        '<image href="https://example.org/x.png"/>',
        '<use href="file.svg#x"/>',
        '<image href="data:image/svg+xml;base64,AAAA"/>',
        '<g style="fill: url(https://example.org)"/>',
        '<g style="fill: \\75 rl(https://example.org)"/>',
        '<g clip-path="url(other.svg#x)"/>',
        '<animate attributeName="href"/>',
        '<h:script xmlns:h="http://www.w3.org/1999/xhtml">alert(1)</h:script>',
    ],
)
def test_a_foreign_chart_stays_an_image(tmp_path: Path, inside: str) -> None:
    path = tmp_path / "mine.svg"
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" width="9pt" height="9pt"><g/>{inside}</svg>')
    assert drawings.inline(path, "mine") is None
    assert embed(path).data.startswith("data:image/svg+xml;base64,")
    path.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9pt" height="9pt"><g/></svg>')
    assert drawings.inline(path, "mine") is not None


@pytest.mark.parametrize("text", ["", "no picture", "<svg/>", "<svg xmlns='http://www.w3.org/2000/svg'><g>", "\x00"])
def test_what_is_no_svg_is_not_inlined(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.svg").write_text(text)
    assert drawings.inline(tmp_path / "x.svg", "x") is None


def test_entities_are_not_unfolded(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa">]><svg xmlns="http://www.w3.org/2000/svg"><text>&a;</text></svg>'
    (tmp_path / "x.svg").write_text(bomb)
    assert drawings.inline(tmp_path / "x.svg", "x") is None


def test_a_chart_has_its_numbers_in_words(run: Path) -> None:
    source = (run / "report.html").read_text()
    labels = re.findall(r'<svg [^>]*aria-label="([^"]+)"', source)
    assert len(labels) == 2
    gaps = [g.gap for g in read(run).gaps_of("accuracy").values()]
    largest = percent(max(g.value for g in gaps))
    assert all("hardest probe set" in label and largest in label for label in labels)


def test_tables_named_with_figures_are_files_of_a_run() -> None:
    names = {known.table for known in KNOWN.values()} - {""}
    assert all(re.fullmatch(r"\w+\.csv", name) for name in names)


def test_a_model_keeps_its_colour_where_others_are_left_out() -> None:
    everyone = ["a", "b", "c", "d"]
    with style.cast(everyone):
        whole = style.model_colors(everyone), style.model_markers(everyone)
        for some in itertools.combinations(everyone, 2):
            assert style.model_colors(some) == {m: whole[0][m] for m in some}
            assert style.model_markers(some) == {m: whole[1][m] for m in some}
        assert style.model_colors(["x", "y"]) == {"x": style.PALETTE[0], "y": style.PALETTE[1]}  # sets, not models
    assert style.model_colors(["b", "c"]) == {"b": style.PALETTE[0], "c": style.PALETTE[1]}


def test_figures_of_one_run_share_colours() -> None:
    """The same model's marks in two figures, one of which leaves the first model out."""

    def colour(figure: object, model: str) -> set[str]:
        lines = (line for ax in figure.axes for line in ax.lines)  # type: ignore[attr-defined]
        return {style_of.get_color() for style_of in lines if str(style_of.get_gid()).startswith(f"told: {model} ")}

    curves = [severity.Curve(m, "fog", 0.9, (1, 2), (0.8, 0.7), (0.7, 0.6), (0.9, 0.8)) for m in ("alex", "vgg", "vit")]
    exact = Estimate(0.9, 0.8, 0.95, 99, "Clopper-Pearson 95%")
    scatter = [shift_scatter.Point(m, "in", p, exact, exact) for m in ("vgg", "vit") for p in ("one", "two")]
    with style.cast(["alex", "vgg", "vit"]):
        left, right = severity.severity_curves(curves, "Wilson"), shift_scatter.shift_scatter(scatter)
    for model in ("vgg", "vit"):
        assert len(colour(left, model)) == 1
        assert colour(left, model) == colour(right, model)


# -- in a browser -----------------------------------------------------------------------------------------------------

Visit = Callable[..., browser.Tab]
SCATTER = "figure:has([data-name=shift_scatter])"


def test_browser_tells_what_a_mark_is_by_pointing_and_by_keys(visit: Visit, run: Path) -> None:
    page = visit(run / "report.html").page
    figure = page.locator(SCATTER)
    told, marks = figure.locator("output.told"), figure.locator(".mark")
    assert marks.count() == 6
    marks.first.dispatch_event("pointerover")
    assert told.inner_text() == marks.first.get_attribute("aria-label")
    figure.locator("svg").focus()
    page.keyboard.press("ArrowLeft")
    assert told.inner_text() == marks.last.get_attribute("aria-label")
    page.keyboard.press("ArrowRight")
    assert told.inner_text() == marks.first.get_attribute("aria-label")


def test_browser_saves_a_chart_as_png_svg_and_csv(visit: Visit, run: Path, tmp_path: Path) -> None:
    tab = visit(run / "report.html")
    files = {}
    for kind in ("png", "svg", "csv"):
        with tab.page.expect_download() as waiting:
            tab.page.locator(f"{SCATTER} [data-kind={kind}]").click()
        files[kind] = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(files[kind])
    assert {path.name for path in files.values()} == {"shift_scatter.png", "shift_scatter.svg", "gaps.csv"}
    assert files["csv"].read_bytes() == (run / "gaps.csv").read_bytes()
    with files["csv"].open() as stream:
        assert next(csv.reader(stream))[:3] == ["model", "in_dist", "probe"]
    with Image.open(files["png"]) as picture, Image.open(run / "figures" / "shift_scatter.png") as printed:
        assert picture.width == pytest.approx(printed.width, rel=0.01)  # 300 dots per inch of the same width
        assert picture.height == pytest.approx(printed.height, rel=0.02)
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 50
    assert ET.parse(files["svg"]).getroot().tag == f"{drawings.SVG}svg"
    assert tab.complaints == []
    assert [u for u in tab.requests if not u.startswith("data:")] == [(run / "report.html").resolve().as_uri()]


@browser.WIDTHS
@browser.SCHEMES
def test_browser_charts_fit_and_can_be_read_by_all(visit: Visit, run: Path, width: int, dark: bool) -> None:
    page = visit(run / "report.html", width, 800, dark).page
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    assert browser.violations(page) == []
