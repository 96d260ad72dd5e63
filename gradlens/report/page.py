"""A run's files -> one HTML file. The words come from :mod:`gradlens.report.answers`, the looks from ``templates/``."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from gradlens import __version__
from gradlens.report.others import is_other, read_other
from gradlens.report.pictures import Picture, embed
from gradlens.report.run_files import Run, figure_files, read, run_json
from gradlens.report.training import is_training, read_training
from gradlens.report.views import page_title, pictured, view
from gradlens.report.wording import SHOWN, Words
from gradlens.runtime import whole_file
from gradlens.shift.tables import percent

ROOM = 8_000_000  # bytes of figures in one page
FIGURES_OF_TRAINING = ("class_distribution",)
MOST = 9_900_000  # bytes of a page: figures that would make it larger are linked, so that the page can still be mailed


class Section(NamedTuple):
    """A part of an index page: a heading, a sentence or two, figures (a path, or a path and its caption), findings."""

    heading: str
    text: str
    figures: Sequence[Path | tuple[Path, str]]
    findings: Sequence[str] = ()


def build(run_dir: Path, about: Mapping[str, Any] | None = None) -> Path:
    """Write ``report.html`` into a run's folder, from the files that are there; nothing is computed again.

    Args:
        run_dir: the folder of a run: of a shift evaluation, of maps, of costs; or the work folder of a training, which
            has a page while it is unfinished, too.
        about: what ``run.json`` is going to hold, for a run that has not written it yet (it is a run's last file).

    Returns:
        The path of the page: one file, which opens without a network.

    Raises:
        InputError: the folder is that of no finished run, or one of its files is not what it should be.
    """
    # what is given goes through JSON as well, so that the page is the same when it is built again from the file
    if about is not None:
        about = json.loads(json.dumps(about))
    elif (run_dir / "run.json").exists() or not is_training(run_dir):
        about = run_json(run_dir)
    if is_training(run_dir):
        return _build_training(run_dir, about)
    assert about is not None
    if is_other(about):
        return _build_other(run_dir, about)
    run = read(run_dir, about)
    shown = view(run)
    # a model's confusion matrices are shown with it, as tables where their counts are there
    of_model = {f"confusion-{model.replace('/', '--')}": model for model in run.models}
    counted = (run_dir / "confusion.csv").is_file()
    figures = [path for path in run.figures if not (counted and path.stem in of_model)]
    told = _told(run, shown["sentences"][1:])
    of_analysis = {name: one.name for one in run.analyses for name in one.figures}
    elsewhere = {*of_model, *of_analysis, "gap_heatmap", "shift_scatter"}
    shown |= pictured(run)

    def page(pictures: list[Picture], linked: list[Path]) -> str:
        in_analysis: dict[str, list[Picture]] = {one.name: [] for one in run.analyses}
        for picture in pictures:
            if picture.name in of_analysis:
                in_analysis[of_analysis[picture.name]].append(picture)
        # the lines are drawn through the same points, so that one of the two scatters is enough
        scatter = [p for p in pictures if p.name == "shift_scatter" and not in_analysis.get("lines")]
        return _render(
            "report.html.j2",
            title=page_title(run),
            pictures=[picture for picture in pictures if picture.name not in elsewhere],
            of_gaps={"heat": [p for p in pictures if p.name == "gap_heatmap"], "scatter": scatter},
            in_analysis=in_analysis,
            confusions={of_model[picture.name]: picture for picture in pictures if picture.name in of_model},
            linked=[path for path in linked if path.stem not in of_analysis],
            left_out={one.name: [p for p in linked if of_analysis.get(p.stem) == one.name] for one in run.analyses},
            base=run_dir,
            tables=_tables(run_dir, [*(picture.table for picture in pictures), "gaps.csv"]),
            **shown,
        )

    return _write(run_dir / "report.html", _fitting(figures, told, page))


def _build_training(work: Path, about: Mapping[str, Any] | None) -> Path:
    trained = read_training(work, about)
    # the curves are drawn anew, beside their numbers
    figures = [path for name in FIGURES_OF_TRAINING if (path := work / f"{name}.png").is_file()]

    def page(pictures: list[Picture], linked: list[Path]) -> str:
        return _render(
            "training.html.j2",
            title=trained.title,
            trained=trained,
            pictures=pictures,
            linked=linked,
            base=work,
            tables={},
            explored=None,
            models={},
        )

    return _write(work / "report.html", _fitting(figures, {}, page))


def _build_other(run_dir: Path, about: Mapping[str, Any]) -> Path:
    other = read_other(run_dir, about)

    def page(pictures: list[Picture], linked: list[Path]) -> str:
        return _render(
            "other.html.j2",
            title=other.title,
            other=other,
            pictures=pictures,
            linked=linked,
            tables=_tables(run_dir, [picture.table for picture in pictures]),
            base=run_dir,
        )

    html = _fitting(figure_files(run_dir / "figures"), {"lines": " ".join(other.findings[:2])}, page)
    return _write(run_dir / "report.html", html)


def _fitting(figures: Sequence[Path], told: Mapping[str, str], page: Callable[[list[Picture], list[Path]], str]) -> str:
    """The page with as many of the figures, in their order, as leave it under :data:`MOST` bytes."""
    room = ROOM
    while True:
        pictures, linked = _embedded(figures, told=told, room=room)
        html = page(pictures, linked)
        excess = len(html.encode()) - MOST
        if excess <= 0 or not pictures:
            return html
        room = sum(picture.size for picture in pictures) - excess


def index(folder: Path, title: str, sections: Iterable[Section | tuple[Any, ...]], run: Path | None = None) -> Path:
    """Write ``index.html`` into a folder: sections with figures, and the answer and the tables of a run.

    Args:
        folder: where; links are relative to it.
        title: the page's heading.
        sections: what to show, in this order, after the run's answer.
        run: the folder of a shift evaluation.

    Returns:
        The path of the page.

    Raises:
        InputError: as :func:`build`; a figure that cannot be read.
    """
    parts, left = [], ROOM
    for section in sections:
        heading, text, figures, findings = Section(*section)
        captions = {figure[0]: figure[1] for figure in figures if not isinstance(figure, Path)}
        paths = [figure if isinstance(figure, Path) else figure[0] for figure in figures]
        pictures, linked = _embedded(paths, captions, room=left)
        left -= sum(picture.size for picture in pictures)
        words = Words(tuple(findings[:SHOWN]), tuple(findings[SHOWN:]), ())
        parts.append({"heading": heading, "text": text, "words": words, "pictures": pictures, "linked": linked})
    shown = {"run": None} if run is None else view(read(run))
    report = None if run is None or not (run / "report.html").is_file() else run / "report.html"
    html = _render("index.html.j2", tables={}, title=title, sections=parts, report=report, base=folder, **shown)
    return _write(folder / "index.html", html)


def _write(path: Path, html: str) -> Path:
    with whole_file(path) as part:
        part.write_text(html, encoding="utf-8")
    return path


def _embedded(
    figures: Iterable[Path],
    captions: Mapping[Path, str] | None = None,
    told: Mapping[str, str] | None = None,
    room: int = ROOM,
) -> tuple[list[Picture], list[Path]]:
    """The figures that fit into ``room`` bytes, and the paths of those that do not."""
    pictures: list[Picture] = []
    linked: list[Path] = []
    for path in figures:
        picture = embed(path, (captions or {}).get(path, ""), (told or {}).get(path.stem, ""))
        if picture.size > room:
            linked.append(path)
        else:
            pictures.append(picture)
            room -= picture.size
    return pictures, linked


def _told(run: Run, sentences: Iterable[Markup]) -> dict[str, str]:
    """The numbers that matter of each figure, by its name: what its analysis found, or the answer itself."""
    found = {name: " ".join(one.findings[:2]) for one in run.analyses for name in one.figures}
    of_gaps = " ".join(text.striptags() for text in sentences)
    return {"gap_heatmap": of_gaps, "shift_scatter": of_gaps} | found


def _tables(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Files of the run, packed (gzip, base64), by name: what "CSV" under a figure saves."""
    return {
        name: base64.b64encode(gzip.compress((folder / name).read_bytes(), mtime=0)).decode()
        for name in sorted({*names} - {""})
        if (folder / name).is_file()
    }


# ---------------------------------------------------------------------------------------------- rendering


def _render(template: str, base: Path, **shown: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gradlens.report", "templates"),
        autoescape=jinja2.select_autoescape(default=True, disabled_extensions=("css", "js")),  # ours, not the run's
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["link"] = lambda path: _link(path, base)
    script = environment.get_template("script.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(**shown, script_hash=f"sha256-{digest}", version=__version__)


def _link(path: Path, base: Path) -> str:
    """A path relative to the page, safe as a URL."""
    return quote(Path(os.path.relpath(path, base)).as_posix())
