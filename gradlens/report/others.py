"""Runs that are no evaluation of models on image sets: maps of a few images, a table of accuracies, costs.

Their page has what ``run.json`` says, every table the run lists, and its figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradlens.report import made
from gradlens.report.analyses import raw_table
from gradlens.report.cells import Cell, Table
from gradlens.report.run_files import raw_rows
from gradlens.shift.tables import percent


@dataclass(frozen=True)
class Other:
    """What the templates show of such a run."""

    title: str
    findings: tuple[str, ...]
    remarks: tuple[str, ...]
    tables: tuple[Table, ...]
    facts: tuple[tuple[str, str], ...]


def is_other(about: Mapping[str, Any]) -> bool:
    """Whether a run says that it wrote files, and no scores of models on image sets among them."""
    files = about.get("files")
    return isinstance(files, list) and "summary.csv" not in files


def read_other(folder: Path, about: Mapping[str, Any]) -> Other:
    """What is to be shown of a run's folder.

    Args:
        folder: the run.
        about: the content of its ``run.json``.

    Raises:
        InputError: a table is not UTF-8.
    """
    names = sorted(f for f in _texts(about, "files") if f == Path(f).name and f.endswith(".csv"))
    csv = (raw_table(name, tuple(raw_rows(folder / name))) for name in names)
    tables = [*_maps(about), *(table for table in csv if table)]
    return Other(
        _title(about), _texts(about, "findings"), tuple(made.remarks(about)), tuple(tables), tuple(made.facts(about))
    )


def _texts(about: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = about.get(key)
    return tuple(text for text in value if isinstance(text, str)) if isinstance(value, list) else ()


def _records(about: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = about.get(key)
    return [record for record in value if isinstance(record, dict)] if isinstance(value, list) else []


def _title(about: Mapping[str, Any]) -> str:
    models, images = _records(about, "models"), {i.get("path") for i in _records(about, "images")}

    def counted(n: int, one: str) -> str:
        return f"{n} {one if n == 1 else one + 's'}"

    if images:
        return f"Class activation maps of {counted(len(models), 'model')} on {counted(len(images), 'image')}"
    sets = _texts(about, "probe_sets")
    if about.get("mode") == "accuracies":
        return (
            f"Published accuracies of {counted(len(models), 'model')} on {about.get('in_dist')} and {', '.join(sets)}"
        )
    verb = str(about.get("verb") or about.get("command") or "run").removeprefix("gradlens ").split(" ")[0]
    return f"{verb.capitalize()} of {counted(len(models), 'model')}"


def _maps(about: Mapping[str, Any]) -> list[Table]:
    """What each map explains, and at how many depths there is one; what the others are instead."""
    rows = []
    for image in _records(about, "images"):
        status = image.get("status")
        counts = Counter(map(str, status.values())) if isinstance(status, dict) else Counter[str]()
        good = counts.pop("ok", 0)
        told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        rows.append(
            (
                *(_said(image, key) for key in ("path", "model", "label", "prediction")),
                _share(image, "probability"),
                _said(image, "target"),
                _share(image, "target_probability"),
                _said(image, "method"),
                Cell(f"{good} of {good + counts.total()}", told, good, counts.total() / max(1, good + counts.total())),
            )
        )
    if not rows:
        return []
    heads = (
        ("Image", ""),
        ("Model", ""),
        ("Class", ""),
        ("Prediction", ""),
        ("Probability", "%"),
        ("Explained", "class"),
        ("Its probability", "%"),
        ("Method", ""),
        ("Depths with a map", "what the others are"),
    )
    return [Table("What the maps explain", heads, tuple(rows), "maps", "what the maps explain")]


def _said(record: Mapping[str, Any], key: str) -> Cell:
    value = record.get(key)
    return Cell("–") if value in (None, "") else Cell(str(value), sort=str(value))


def _share(record: Mapping[str, Any], key: str) -> Cell:
    value = record.get(key)
    return Cell(percent(value), sort=value) if isinstance(value, float | int) else Cell("–", sort=-1.0)
