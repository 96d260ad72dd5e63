"""The files of a run, read back as records."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradlens.errors import InputError
from gradlens.records import Estimate, GapReport, Skipped


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
    """

    folder: Path
    about: Mapping[str, Any]
    scores: Mapping[tuple[str, str], Mapping[str, Estimate]]
    gaps: tuple[GapReport, ...]
    per_class: tuple[Mapping[str, Any], ...]
    pairs: tuple[Mapping[str, Any], ...]
    skipped: tuple[Skipped, ...]
    figures: tuple[Path, ...]

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
    if not folder.is_dir():
        raise InputError(
            f"{folder} is no folder; expected the folder of a run, such as runs/shift-eval-20260101-120000"
        )
    if about is None:
        about = _run_json(folder / "run.json")
    scores: dict[tuple[str, str], dict[str, Estimate]] = {}
    for row in _rows(folder / "summary.csv", ("model", "dataset", "metric", "n")):
        scores.setdefault((row["model"], row["dataset"]), {})[row["metric"]] = _estimate(row, "value", row["n"])
    if not scores:
        raise InputError(f"{folder / 'summary.csv'} has no scores; a page needs a run of gradlens shift-eval")
    gaps = [
        GapReport(
            **{key: row[key] for key in ("model", "in_dist", "probe", "metric", "label_space")},
            gap=_estimate(row, "gap", min(row["n_in_dist"], row["n_probe"])),
            paired=row["paired"] == "true",
            **{key: row[key] for key in ("in_dist_value", "probe_value", "n_in_dist", "n_probe", "classes")},
            **{key: row[key] for key in ("mix", "within")},
        )
        for row in _rows(folder / "gaps.csv", ("n_in_dist", "n_probe", "classes"), optional=True)
    ]
    return Run(
        folder,
        about,
        scores,
        tuple(gaps),
        tuple(_rows(folder / "per_class.csv", ("n",), optional=True)),
        tuple(_rows(folder / "pairs.csv", ("n", "b", "c"), optional=True)),
        tuple(Skipped(r["path"], r["reason"]) for r in _rows(folder / "skipped.csv", (), optional=True)),
        tuple(pictures(folder / "figures")),
    )


def pictures(folder: Path) -> list[Path]:
    """One file per figure of a folder, sorted by name: the SVG where there is one, else the PNG."""
    by_name = {path.stem: path for path in sorted(folder.glob("*.png"))}
    by_name |= {path.stem: path for path in sorted(folder.glob("*.svg"))}
    return [by_name[name] for name in sorted(by_name)]


def _run_json(path: Path) -> Mapping[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path.parent} has no run.json: no run, or one that did not finish") from None
    except ValueError as err:
        raise InputError(f"{path} is not JSON: {err}") from None
    if not isinstance(about, dict):
        raise InputError(f"{path} should hold one JSON object, got {type(about).__name__}")
    return about


TEXT = {"model", "model_a", "model_b", "dataset", "role", "metric", "interval", "in_dist", "probe", "label_space"}
TEXT |= {"paired", "class", "path", "reason"}
WHOLE = {"n", "n_in_dist", "n_probe", "classes", "b", "c"}


def _rows(path: Path, needed: Sequence[str], optional: bool = False) -> Iterator[dict[str, Any]]:
    """The rows of a CSV file: text as it is, counts as int, everything else as float (empty: not a number)."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            lacking = [name for name in needed if name not in (reader.fieldnames or ())]
            if lacking:
                raise InputError(f"{path} has no column {lacking[0]!r}")
            for row in reader:
                try:
                    yield {key: _value(key, text) for key, text in row.items()}
                except (ValueError, TypeError) as err:  # a row with too few or too many cells gives None
                    raise InputError(f"{path} line {reader.line_num}: {err}") from None
    except FileNotFoundError:
        if not optional:
            raise InputError(f"{path} is missing; expected the folder of a finished shift evaluation") from None


def _value(key: str, text: str) -> str | int | float:
    if key in TEXT:
        return text
    if key in WHOLE:
        return int(text)
    return float(text) if text else math.nan


def _estimate(row: Mapping[str, Any], value: str, n: int) -> Estimate:
    return Estimate(row[value], row["low"], row["high"], n, row["interval"])
