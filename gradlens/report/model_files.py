"""The files of a run that say what a model is and what it takes for what, read back."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradlens.errors import InputError
from gradlens.report.run_files import Run, raw_rows
from gradlens.runtime import plain_file

MEASURED = ("parameters", "flops", "size_bytes", "latency_ms", "latency_p95_ms")


@dataclass(frozen=True)
class Cost:
    """A row of ``costs.csv``; what was not measured is not a number."""

    device: str
    threads: str
    parameters: float
    flops: float
    size_bytes: float
    latency_ms: float
    latency_p95_ms: float


@dataclass(frozen=True)
class DepthRow:
    """A row of ``depths.csv``: a depth, and the parameters and FLOPs of the stretch that ends there.

    Attributes:
        shape: (channels, rows, columns); (classes,) of the last row, which is the rest of the network.
    """

    name: str
    path: str
    position: float
    stride: str
    shape: tuple[int, ...]
    layout: str
    parameters: int
    flops: int


@dataclass(frozen=True)
class ModelFiles:
    """What the files say of the models, as far as they are there.

    Attributes:
        costs, depths, cards: by model.
        answers: images by (model, data set), then by (class, predicted class).
    """

    costs: Mapping[str, Cost]
    depths: Mapping[str, tuple[DepthRow, ...]]
    cards: Mapping[str, Mapping[str, Any]]
    answers: Mapping[tuple[str, str], Mapping[tuple[str, str], int]]


def read_model_files(run: Run) -> ModelFiles:
    """Read ``costs.csv``, ``depths.csv``, ``confusion.csv`` and ``cards/``; rows of models that the run does not score
    are left out.

    Raises:
        InputError: a file is not what a run writes; says where.
    """
    known = set(run.models)
    costs: dict[str, Cost] = {}
    depths: dict[str, list[DepthRow]] = {}
    for row, where in _rows(run.folder / "costs.csv"):
        measured = (_number(row, key, where) for key in MEASURED)
        cost = Cost(_text(row, "device", where), _text(row, "threads", where), *measured)
        if _text(row, "model", where) in known:
            costs[row["model"]] = cost
    for row, where in _rows(run.folder / "depths.csv"):
        if _text(row, "model", where) in known:
            depths.setdefault(row["model"], []).append(_depth(row, where))
    answers: dict[tuple[str, str], Counter[tuple[str, str]]] = {}
    for row, where in _rows(run.folder / "confusion.csv"):
        key = _text(row, "model", where), _text(row, "dataset", where)
        if key in run.scores:
            pair = _text(row, "class", where), _text(row, "predicted", where)
            answers.setdefault(key, Counter())[pair] += _whole(row, "n", where)
    return ModelFiles(
        costs, {m: tuple(rows) for m, rows in depths.items()}, read_cards(run.folder / "cards", known), answers
    )


def _rows(path: Path) -> list[tuple[Mapping[str, str], str]]:
    """Rows with where they stand."""
    return [(row, f"{path} row {i}") for i, row in enumerate(raw_rows(path), 1)]


def _text(row: Mapping[str, str], key: str, where: str) -> str:
    if key not in row:
        raise InputError(f"{where}: expected a column {key!r}, there is none")
    return row[key]


def _number(row: Mapping[str, str], key: str, where: str) -> float:
    text = _text(row, key, where)
    try:
        value = float(text) if text else math.nan
    except ValueError:
        raise InputError(f"{where}: expected a number under {key!r}, got {text!r}") from None
    if value < 0 or math.isinf(value):
        raise InputError(f"{where}: expected a finite number of at least 0 under {key!r}, got {text!r}")
    return value


def _whole(row: Mapping[str, str], key: str, where: str) -> int:
    value = _number(row, key, where)
    if not value.is_integer():
        raise InputError(f"{where}: expected a whole number under {key!r}, got {row[key]!r}")
    return int(value)


def _depth(row: Mapping[str, str], where: str) -> DepthRow:
    shape = _text(row, "shape", where)
    sides = shape.split("x")
    if len(sides) not in (1, 3) or not all(side.isascii() and side.isdigit() and int(side) for side in sides):
        raise InputError(f"{where}: expected a shape such as 64x8x8, got {shape!r}")
    return DepthRow(
        *(_text(row, "depth", where), _text(row, "path", where), _number(row, "position", where)),
        *(_text(row, "stride", where).replace("x", "×"), tuple(map(int, sides)), _text(row, "layout", where)),
        *(_whole(row, "parameters", where), _whole(row, "flops", where)),
    )


def read_cards(folder: Path, known: set[str]) -> dict[str, Mapping[str, Any]]:
    """The cards in a folder by the model that they are of; those of models that are not in ``known`` are left out.

    Raises:
        InputError: a file is no card; says which.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            card = json.loads(plain_file(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as err:
            raise InputError(f"{path} is not JSON: {err}") from None
        if not isinstance(card, dict) or not isinstance(card.get("model"), str):
            raise InputError(f"{path}: expected one JSON object with the name of its model under 'model'")
        if card["model"] in known:
            found[card["model"]] = card
    return found
