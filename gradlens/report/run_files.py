"""The files of a run, read back as records."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gradlens.errors import InputError
from gradlens.records import Estimate, GapReport, Skipped
from gradlens.runtime import plain_file

T = TypeVar("T")


@dataclass(frozen=True)
class Analysed:
    """What one analysis left.

    Attributes:
        title, what: its heading, and a sentence on what it tells.
        findings, notes: sentences.
        tables: file name -> rows, all cells as the file has them.
        figures: names of its pictures, without ending.
        not_done: why there is nothing, where that is so.
    """

    name: str
    title: str
    what: str
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    tables: Mapping[str, tuple[Mapping[str, str], ...]]
    figures: tuple[str, ...]
    not_done: str


@dataclass(frozen=True)
class Run:
    """What a run left.

    Attributes:
        folder: where.
        about: the content of ``run.json``.
        scores: metric -> estimate by (model, data set), in the order of ``summary.csv``.
        gaps: every row of ``gaps.csv``.
        per_class, pairs: the rows of these files, numbers as numbers.
        skipped: what was not scored.
        figures: one picture per figure, by name: its SVG where there is one, else its PNG.
        analyses: what the analyses left, in the order they were done.
        questions: rows of ``questions.csv``.
    """

    folder: Path
    about: Mapping[str, Any]
    scores: Mapping[tuple[str, str], Mapping[str, Estimate]]
    gaps: tuple[GapReport, ...]
    per_class: tuple[Mapping[str, Any], ...]
    pairs: tuple[Mapping[str, Any], ...]
    skipped: tuple[Skipped, ...]
    figures: tuple[Path, ...]
    analyses: tuple[Analysed, ...] = ()
    questions: tuple[Mapping[str, str], ...] = ()

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(model for model, _ in self.scores))

    @property
    def datasets(self) -> list[str]:
        return list(dict.fromkeys(dataset for _, dataset in self.scores))

    @property
    def in_dist(self) -> str:
        """The set every gap is measured from; the first one where there is no gap."""
        return self.gaps[0].in_dist if self.gaps else self.datasets[0]

    @property
    def probes(self) -> list[str]:
        return list(dict.fromkeys(gap.probe for gap in self.gaps))

    def gaps_of(self, metric: str) -> dict[tuple[str, str], GapReport]:
        """The gaps of one metric on the shared classes, by (model, probe)."""
        return {(g.model, g.probe): g for g in self.gaps if g.metric == metric and g.label_space == "shared"}


def read(folder: Path, about: Mapping[str, Any] | None = None) -> Run:
    """Read a run's folder.

    Args:
        folder: the run.
        about: the content of its ``run.json``, where the run is about to write that as its last file.

    Raises:
        InputError: no such folder, an unfinished run, or a file that is not what a run writes.
    """
    about = run_json(folder) if about is None else about
    scores: dict[tuple[str, str], dict[str, Estimate]] = {}
    for key, estimate in records(folder / "summary.csv", _score):
        scores.setdefault(key[:2], {})[key[2]] = estimate
    if not scores:
        raise InputError(f"{folder / 'summary.csv'} has no scores; a page needs a run of gradlens shift-eval")
    run = Run(
        folder,
        about,
        scores,
        tuple(records(folder / "gaps.csv", _gap, optional=True)),
        tuple(records(folder / "per_class.csv", _row_with(*PER_CLASS), optional=True)),
        tuple(records(folder / "pairs.csv", _row_with(*PAIR), optional=True)),
        tuple(records(folder / "skipped.csv", lambda row: Skipped(row["path"], row["reason"]), optional=True)),
        tuple(figure_files(folder / "figures")),
        tuple(_analysed(folder, one) for one in about.get("analyses", []) if isinstance(one, dict)),
        tuple(raw_rows(folder / "questions.csv")),
    )
    _check_agreement(run)
    return run


def _check_agreement(run: Run) -> None:
    """The tables of a run speak of the same models and sets, and every model has an accuracy on every set."""
    for model in run.models:
        for dataset in run.datasets:
            if "accuracy" not in run.scores.get((model, dataset), {}):
                raise InputError(f"{run.folder / 'summary.csv'} has no accuracy of {model!r} on {dataset!r}")
    named = [("gaps.csv", g.model, d) for g in run.gaps for d in (g.in_dist, g.probe)]
    named += [("per_class.csv", row["model"], row["dataset"]) for row in run.per_class]
    named += [("pairs.csv", row[m], row["dataset"]) for row in run.pairs for m in ("model_a", "model_b")]
    for file, model, dataset in named:
        if (model, dataset) not in run.scores:
            raise InputError(f"{run.folder / file} speaks of {model!r} on {dataset!r}, which summary.csv does not know")
    if len({g.in_dist for g in run.gaps}) > 1:
        raise InputError(f"{run.folder / 'gaps.csv'} measures gaps from more than one set")


def _row_with(*columns: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda row: row | {column: row[column] for column in columns}


def _analysed(folder: Path, told: Mapping[str, Any]) -> Analysed:
    def texts(key: str) -> tuple[str, ...]:
        return tuple(str(text) for text in told.get(key, []))

    # a name is a file of this folder and nothing else, whatever the list says
    files = [name for name in texts("tables") if name == Path(name).name]
    plain = {key: str(told.get(key, "")) for key in ("name", "title", "what", "not_done")}
    tables = {name: tuple(raw_rows(folder / name)) for name in files}
    return Analysed(**plain, findings=texts("findings"), notes=texts("notes"), tables=tables, figures=texts("figures"))


def raw_rows(path: Path) -> Iterator[Mapping[str, str]]:
    """Rows with every cell as the file has it; none where there is no file.

    Raises:
        InputError: it is no table, or a row is cut off.
    """
    try:
        with plain_file(path).open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(f"{path} line {reader.line_num}: expected {len(reader.fieldnames or ())} cells")
                yield row
    except FileNotFoundError:
        return
    except (UnicodeDecodeError, csv.Error) as err:
        raise InputError(f"{path} is not CSV in UTF-8: {err}") from None


def figure_files(folder: Path) -> list[Path]:
    """One file per figure of a folder, sorted by name: the SVG where there is one, else the PNG."""
    by_name = {path.stem: path for path in sorted(folder.glob("*.png"))}
    by_name |= {path.stem: path for path in sorted(folder.glob("*.svg"))}
    return [by_name[name] for name in sorted(by_name)]


def run_json(folder: Path) -> Mapping[str, Any]:
    """What a run says of itself.

    Raises:
        InputError: no such folder, or an unfinished run.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} is no folder; expected the folder of a run, such as runs/shift-eval-20260101-120000"
        )
    path = folder / "run.json"
    try:
        about = json.loads(plain_file(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path.parent} has no run.json: no run, or one that did not finish") from None
    except (ValueError, RecursionError) as err:
        raise InputError(f"{path} is not JSON: {err}") from None
    if not isinstance(about, dict):
        raise InputError(f"{path} should hold one JSON object, got {type(about).__name__}")
    return about


TEXT = {"model", "model_a", "model_b", "dataset", "role", "metric", "interval", "in_dist", "probe", "label_space"}
TEXT |= {"paired", "class", "path", "reason"}
PER_CLASS = ("model", "dataset", "class", "n", "precision", "recall", "f1")
PAIR = ("model_a", "model_b", "dataset", "n", "b", "c", "p_holm", "agreement", "kappa")
WHOLE = {"n", "n_in_dist", "n_probe", "classes", "b", "c"}


def records(path: Path, make: Callable[[dict[str, Any]], T], optional: bool = False) -> Iterator[T]:
    """What ``make`` makes of each row: text as it is, counts as int, everything else as float (empty: not a number)."""
    try:
        with plain_file(path).open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            for row in reader:
                try:
                    record = make({key: _value(key, text) for key, text in row.items()})
                except KeyError as err:
                    raise InputError(f"{path} has no column {err}") from None
                except (ValueError, TypeError) as err:  # a row with too few cells gives None
                    raise InputError(f"{path} line {reader.line_num}: {err}") from None
                yield record
    except FileNotFoundError:
        if not optional:
            raise InputError(f"{path} is missing; expected the folder of a finished shift evaluation") from None
    except (UnicodeDecodeError, csv.Error) as err:
        raise InputError(f"{path} is not CSV in UTF-8: {err}") from None


def _score(row: dict[str, Any]) -> tuple[tuple[str, str, str], Estimate]:
    return (row["model"], row["dataset"], row["metric"]), _estimate(row, "value", row["n"])


def _gap(row: dict[str, Any]) -> GapReport:
    plain = ("model", "in_dist", "probe", "metric", "label_space", "in_dist_value", "probe_value", "n_in_dist")
    return GapReport(
        **{key: row[key] for key in (*plain, "n_probe", "classes", "mix", "within")},
        gap=_estimate(row, "gap", min(row["n_in_dist"], row["n_probe"])),
        paired=row["paired"] == "true",
    )


def _value(key: str, text: str) -> str | int | float:
    if key in TEXT:
        return text
    if key in WHOLE:
        return int(text)
    return float(text) if text else math.nan


def _estimate(row: Mapping[str, Any], value: str, n: int) -> Estimate:
    return Estimate(row[value], row["low"], row["high"], n, row["interval"])
