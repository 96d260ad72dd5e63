"""The work folder of a training: its curves, what was trained and with which settings, and what the card says.

A training that has not ended, or that an earlier version made, has no ``run.json`` and no card there; its page has the
curves, and says what it cannot know.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradlens.errors import InputError
from gradlens.records import Estimate
from gradlens.report import made, model_page
from gradlens.report.cells import Cell, Table, score_cell, title_of
from gradlens.report.curves import Chart, charts, history_table
from gradlens.report.model_files import read_cards
from gradlens.runtime import plain_file
from gradlens.shift.tables import percent

METRICS = "metrics.jsonl"
NO_RUN = (
    "There is no run.json here: the training has not ended, or an earlier version of gradlens made it. Its settings "
    "and its scores stand on the card of its checkpoint."
)


@dataclass(frozen=True)
class Trained:
    """What the templates show of a training.

    Attributes:
        anchor: what downloads are named after.
        findings: sentences.
        curves, epochs: of the training as charts and as a table.
        scores: of the checkpoint on every set that its card names; ``None`` where there is no card.
        card: what is known of its making, (what, value); facts: likewise of the run.
    """

    title: str
    anchor: str
    findings: tuple[str, ...]
    remarks: tuple[str, ...]
    curves: tuple[Chart, ...]
    epochs: Table | None
    scores: Table | None
    card: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]


def is_training(folder: Path) -> bool:
    """Whether a training wrote its epochs here."""
    return (folder / METRICS).is_file()


def read_training(folder: Path, about: Mapping[str, Any] | None) -> Trained:
    """What is to be shown of a training's work folder.

    Args:
        folder: of the training.
        about: the content of its ``run.json``; ``None`` where there is none.

    Raises:
        InputError: a file is not what a training writes; says where.
    """
    history, stopped = _history(folder / METRICS)
    recorded = (about or {}).get("models")
    models = [m["name"] for m in recorded if isinstance(m, dict) and "name" in m] if isinstance(recorded, list) else []
    name = str(models[0]) if models else folder.resolve().name
    card = read_cards(folder / "cards", {name}).get(name, {})
    told = card.get("training")
    training: Mapping[str, Any] = told if isinstance(told, dict) else {}
    kept = training.get("kept")
    kept = kept if isinstance(kept, int) else 0
    return Trained(
        f"Training of {name}",
        "training",
        tuple(_findings(history, kept, stopped)),
        (NO_RUN,) if about is None else tuple(made.remarks(about)),
        tuple(charts(history, kept)),
        history_table(history, name),
        _scores(card, name),
        tuple(model_page.facts(about or {}, name, card)) if card else (),
        tuple(made.facts(about)) if about else (),
    )


def _history(path: Path) -> tuple[list[Mapping[str, Any]], str]:
    """The epochs, and why it stopped before the last that was asked for (``""``: it did not)."""
    rows: list[Mapping[str, Any]] = []
    stopped = ""
    for i, line in enumerate(plain_file(path).read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise InputError(f"{path} line {i}: expected one JSON object for an epoch, got {line[:40]!r}")
        if "stopped" in row:
            stopped = str(row.get("reason") or "")
        else:
            rows.append(row)
    if not rows:
        raise InputError(f"{path} holds no epoch yet; build the page when the first one has ended")
    return rows, stopped


def _number(row: Mapping[str, Any], key: str) -> float:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) else math.nan


def _findings(history: list[Mapping[str, Any]], kept: int, stopped: str) -> list[str]:
    """Sentences on how it ended, what it reached, and how far training and held-out part lie apart."""
    last = history[-1]
    seconds = sum(s for row in history if (s := _number(row, "seconds")) > 0)
    time = f" in {seconds / 60:.0f} minutes" if seconds >= 120 else f" in {seconds:.0f} s" if seconds else ""
    ended = f"{len(history)} {'epoch' if len(history) == 1 else 'epochs'}{time}" + (
        f"; stopped: {stopped}" if stopped else ""
    )
    held_out = {int(_number(row, "epoch")): v for row in history if (v := _number(row, "select_accuracy")) == v}
    if not held_out:
        return [f"{ended}. No held-out images were scored on the way."]
    best = max(held_out, key=lambda epoch: held_out[epoch])
    own = kept if kept in held_out else best
    which = f"the weights are those of epoch {own}" if kept in held_out else f"the best is epoch {own}"
    said = [f"{ended}; {which}, right on {percent(held_out[own])}\N{NO-BREAK SPACE}% of the held-out images."]
    apart = _number(last, "accuracy") - _number(last, "select_accuracy")
    if apart == apart:
        side = "above" if apart >= 0 else "below"
        said.append(
            f"In the last epoch accuracy on the training images, as augmentation shows them, is {percent(abs(apart))} "
            f"points {side} that on the held-out images."
        )
    return said


def _scores(card: Mapping[str, Any], name: str) -> Table | None:
    """A row per set of the card, a column per metric."""
    scores = card.get("scores")
    known = [s for s in scores if isinstance(s, dict) and "dataset" in s] if isinstance(scores, list) else []
    sets, metrics = (list(dict.fromkeys(str(s.get(key)) for s in known)) for key in ("dataset", "metric"))
    if not known:
        return None
    found = {
        (str(s["dataset"]), str(s.get("metric"))): Estimate(
            _number(s, "value"),
            _number(s, "low"),
            _number(s, "high"),
            int(s.get("n") or 0),
            str(s.get("interval") or ""),
        )
        for s in known
    }
    rows = tuple(
        (Cell(dataset, sort=dataset), *(score_cell(found.get((dataset, m)), m) for m in metrics)) for dataset in sets
    )
    heads = (("Set", ""), *((title_of(m), "%") for m in metrics))
    return Table(f"Scores of {name} as its card has them, with their intervals", heads, rows)
