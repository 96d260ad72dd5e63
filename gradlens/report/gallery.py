"""The failure gallery: the images that ``failures.csv`` names and the run kept, with what every model says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from scipy.special import softmax

from gradlens.records import Predictions
from gradlens.report.explorer import script_data
from gradlens.report.kept import Kept
from gradlens.report.run_files import Run
from gradlens.shift import store
from gradlens.shift.tables import percent


@dataclass(frozen=True)
class Card:
    """One image of the gallery, as it stands without a script.

    Attributes:
        number: what the script calls it.
        address: of the photograph; width, height: of its tile.
        label: its true class; shown: its set.
        text: who fails on it and what is said, the most confident failure first.
    """

    number: str
    address: str
    width: int
    height: int
    label: str
    shown: str
    text: str


@dataclass(frozen=True)
class Gallery:
    """Failures.

    Attributes:
        cards: images, the one with the surest wrong answer first.
        listed: how many images ``failures.csv`` names.
        sets, models: (name, shown) to choose from; classes, kinds: names.
        data: what the script filters by and shows, as the content of a JSON script block.
    """

    cards: tuple[Card, ...]
    listed: int
    sets: tuple[tuple[str, str], ...]
    models: tuple[tuple[str, str], ...]
    classes: tuple[str, ...]
    kinds: tuple[str, ...]
    data: Markup


def gallery(run: Run, kept: Kept, models: Mapping[str, str], sets: Mapping[str, str]) -> Gallery | None:
    """The failures that can be shown; ``None`` where there is none.

    Raises:
        InputError: a predictions file of the run cannot be read.
    """
    rows = [r for a in run.analyses if a.name == "failures" for r in a.tables.get("failures.csv", ())]
    of_image: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        sample = kept.by_key.get((row["dataset"], row["id"]))
        if sample is not None and sample["use"] != "sheet":
            of_image.setdefault(sample["id"], []).append(row)
    if not of_image:
        return None
    numbers = sorted(of_image, key=lambda n: (-max(_number(r["confidence"]) or 0.0 for r in of_image[n]), n))
    said = {
        name: _said(run, kept, name, [n for n in numbers if kept.by_id[n]["dataset"] == name], models)
        for name in dict.fromkeys(kept.by_id[n]["dataset"] for n in numbers)
    }
    cards = tuple(_card(kept.by_id[n], of_image[n], kept, models, sets) for n in numbers)
    document = {
        "models": list(models),
        "images": [
            {
                "id": n,
                "pair": next((r["pair"] for r in of_image[n] if r["pair"]), ""),
                "failures": [[r["kind"], _model(r), r["predicted"], _number(r["confidence"])] for r in of_image[n]],
                "said": said[kept.by_id[n]["dataset"]].get(n, []),
            }
            for n in numbers
        ],
    }
    known = [kept.by_id[n] for n in numbers]
    failing = {_model(r) for n in numbers for r in of_image[n]}
    return Gallery(
        cards,
        len({(r["dataset"], r["id"]) for r in rows}),
        tuple((name, sets.get(name, name)) for name in dict.fromkeys(s["dataset"] for s in known)),
        tuple((m, shown) for m, shown in models.items() if m in failing),
        tuple(sorted({s["label"] for s in known})),
        tuple(dict.fromkeys(r["kind"] for n in numbers for r in of_image[n])),
        script_data(document),
    )


def _model(row: Mapping[str, str]) -> str:
    """The model of a row; empty where it is every model."""
    return "" if row["kind"] == "wrong in every model" else row["model"]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _said(
    run: Run, kept: Kept, dataset: str, numbers: Sequence[str], models: Mapping[str, str]
) -> dict[str, list[list[Any] | None]]:
    """By image what each model says: class and probability (``None`` without logits), in the order of the models."""
    files = store.file_names((m, s) for s in run.datasets for m in models)
    answers: dict[str, list[list[Any] | None]] = {n: [] for n in numbers}
    for model in models:
        path = run.folder / "predictions" / files[model, dataset]
        found: Predictions | None = None
        if path.is_file():
            stored = [s.predictions for s in store.read([path])]
            found = next((p for p in stored if (p.model, p.dataset) == (model, dataset)), None)
        row = {} if found is None else {name: i for i, name in enumerate(found.ids)}
        for n in numbers:
            i = row.get(kept.by_id[n]["key"])
            answers[n].append(None if found is None or i is None else _answer(found, i))
    return answers


def _answer(p: Predictions, i: int) -> list[Any]:
    name = p.classes[int(p.predicted[i])]
    if p.logits is None or not np.isfinite(p.logits[i]).all():
        return [name, None]
    return [name, round(float(softmax(p.logits[i].astype(np.float64))[int(p.predicted[i])]), 6)]


def _card(
    sample: Mapping[str, Any],
    rows: Sequence[Mapping[str, str]],
    kept: Kept,
    models: Mapping[str, str],
    sets: Mapping[str, str],
) -> Card:
    scale = min(1.0, 96 / max(sample["width"], sample["height"]))
    width, height = (max(1, round(scale * sample[side])) for side in ("width", "height"))
    surest = max(rows, key=lambda r: _number(r["confidence"]) or 0.0)
    who = "every model" if not _model(surest) else models.get(surest["model"], surest["model"])
    confidence = _number(surest["confidence"])
    text = f"{who}: {surest['predicted']}" + ("" if confidence is None else f" {percent(confidence)} %")
    shown = sets.get(sample["dataset"], sample["dataset"])
    address = kept.picture(sample["file"])
    return Card(sample["id"], address, width, height, sample["label"], shown, text)
