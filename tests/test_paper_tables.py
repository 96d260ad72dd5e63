"""For papers: tables with the numbers of the run and their intervals, LaTeX that holds, fonts that are embedded."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from gradlens.cli.main import main
from gradlens.figures import style
from gradlens.shift import intervals, pairs, store
from gradlens.shift.tables import Column, latex_table, percent
from runs import predictions

CLASSES = ("a&b", "50%", "c_d", "$x$", "#1", "{e}", "~f^", "g\\h")
MODELS = {"best_one": (0.92, 0.7), "other#2": (0.8, 0.6), "third": (0.9, 0.68)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("papers")
    files = []
    for i, (model, values) in enumerate(MODELS.items()):
        for dataset, value in zip(("own_test", "far"), values, strict=True):
            files.append(place / f"{i}-{dataset}.parquet")
            said = predictions(model, dataset, value, 10 * i + len(dataset), classes=CLASSES, pair=dataset == "far")
            store.write(files[-1], said, {"role": "test"})
    given = [part for path in files for part in ("--predictions", str(path))]
    with pytest.raises(SystemExit) as left:
        main(
            [
                "shift-eval",
                *given,
                "--in-dist",
                "own_test",
                "--resamples",
                "100",
                "--out",
                str(place / "run"),
                "--quiet",
            ]
        )
    assert not left.value.code
    return place / "run"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def markdown(path: Path) -> str:
    """A table as it reads when it is shown."""
    return re.sub(r"\\([^A-Za-z0-9\s])", r"\1", path.read_text(encoding="utf-8"))


def test_every_table_comes_as_markdown_and_latex(folder: Path) -> None:
    names = {path.stem for path in (folder / "tables").iterdir()}
    assert names == {"scores", "gaps", "classes-own_test", "classes-far", "pairs", "calibration"}
    listed = json.loads((folder / "run.json").read_text())["files"]
    assert {f"tables/{name}.{ending}" for name in names for ending in ("md", "tex")} <= set(listed)


def test_recalls_have_exact_intervals(folder: Path) -> None:
    text = markdown(folder / "tables" / "classes-far.md")
    for row in rows(folder / "per_class.csv"):
        if row["dataset"] == "far":
            n, recall = int(row["n"]), float(row["recall"])
            low, high = intervals.clopper_pearson(round(recall * n), n, 0.95)
            line = next(line for line in text.splitlines() if line.startswith(f"| {row['model']} "))
            assert f"{percent(recall)} [{percent(low)}, {percent(high)}]" in line


def test_pairs_are_differences_on_the_same_images(folder: Path) -> None:
    best = max(MODELS, key=lambda m: next(
        float(r["value"]) for r in rows(folder / "summary.csv")
        if (r["model"], r["dataset"], r["metric"]) == (m, "own_test", "accuracy")
    ))  # fmt: skip
    text = markdown(folder / "tables" / "pairs.md")
    assert best in text
    said = [stored.predictions for stored in store.read(sorted((folder / "predictions").iterdir()))]
    for model in set(MODELS) - {best}:
        one, other = (next(p for p in said if (p.model, p.dataset) == (m, "far")) for m in (best, model))
        d = pairs.paired_difference(one, other, 0.95)
        stars = "*" if f"{percent(d['difference'], True)}* [" in text else ""
        assert f"{percent(d['difference'], True)}{stars} [{percent(d['low'])}, {percent(d['high'])}]" in text
        differs = {
            r["dataset"] for r in rows(folder / "pairs.csv")
            if {r["model_a"], r["model_b"]} == {best, model} and float(r["p_holm"]) < 0.05
        }  # fmt: skip
        assert bool(stars) or "far" not in differs  # fewer comparisons here, so the correction is no stricter


def test_calibration_before_and_after(folder: Path) -> None:
    text = markdown(folder / "tables" / "calibration.md")
    own = [r for r in rows(folder / "calibration.csv") if r["metric"] == "ece"]
    assert len(own) == 12
    for r in own:
        assert f"{percent(float(r['value']))} [{percent(float(r['low']))}, {percent(float(r['high']))}]" in text


def test_latex_is_balanced_and_names_are_escaped(folder: Path) -> None:
    for path in (folder / "tables").glob("*.tex"):
        text = path.read_text(encoding="utf-8")
        braces = text.replace(r"\\", "")  # of ends of lines
        assert text.count(r"\begin{") == text.count(r"\end{")
        assert len(re.findall(r"(?<!\\)\{", braces)) == len(re.findall(r"(?<!\\)\}", braces))
        body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
        widths = {len(re.findall(r"(?<!\\)&", line)) for line in body.splitlines() if line.rstrip().endswith(r"\\")}
        assert widths == {len(re.findall(r"[lr]", re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)[0])) - 1}
        assert all(mark == "%" and text.startswith("% needs") for mark in re.findall(r"(?<![\\])[%#]", text))
    classes = (folder / "tables" / "classes-far.tex").read_text()
    for escaped in (r"a\&b", r"50\%", r"c\_d", r"\$x\$", r"\#1", r"\{e\}", r"\textasciitilde{}f\textasciicircum{}"):
        assert escaped in classes
    assert r"g\textbackslash{}h" in classes


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex on the PATH")
def test_pdflatex_sets_every_table_within_its_page(folder: Path, tmp_path: Path) -> None:
    many = [Column(("model",), tuple("ab"), False)]
    many += [Column((f"set {i}", "n = 9,000 × 2"), ("+21.5 [14.6, 29.4]", "−0.3 [−2.4, 1.7]"), True) for i in range(16)]
    (tmp_path / "wide.tex").write_text(latex_table(many, "≥ 16 sets — 50 %", "tab:wide"), encoding="utf-8")
    files = [tmp_path / "wide.tex", *sorted((folder / "tables").glob("*.tex"))]
    assert len(files) > 4
    text = "".join(rf"\input{{{path.as_posix()}}}\clearpage" + "\n" for path in files)
    packages = r"\usepackage{booktabs,graphicx}"
    for options in ("twocolumn", "12pt"):
        document = rf"\documentclass[{options}]{{article}}{packages}\begin{{document}}{text}\end{{document}}"
        (tmp_path / "paper.tex").write_text(document, encoding="utf-8")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
        assert done.returncode == 0, done.stdout[-2000:]
        log = (tmp_path / "paper.log").read_text(encoding="utf-8", errors="replace")
        assert "Overfull" not in log
        assert "Missing character" not in log


def test_figures_embed_their_fonts_as_outlines_that_journals_take(tmp_path: Path) -> None:
    with style.paper():
        figure = Figure(figsize=(style.COLUMN_WIDTH, 1))
        figure.add_subplot().set_title("Accuracy ≥ 90 %")
        (path,) = style.save(figure, tmp_path / "x", ("pdf",))
    content = path.read_bytes()
    assert b"/FontFile2" in content  # TrueType, embedded
    assert b"/Subtype /Type3" not in content


def test_every_figure_fits_a_page(folder: Path) -> None:
    from PIL import Image

    for path in (folder / "figures").glob("*.png"):
        with Image.open(path) as picture:
            assert picture.width / 300 <= style.PAGE_WIDTH + 0.01, path.name
        assert path.with_suffix(".pdf").is_file()
