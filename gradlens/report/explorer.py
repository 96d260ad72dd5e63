"""Maps of the samples at every depth, and the strongest channels: what the page's script draws, as compact data."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup

from gradlens.figures.cam_grid import COLOR_MAP, SAID
from gradlens.figures.style import diverging
from gradlens.report.kept import Kept


@dataclass(frozen=True)
class Sample:
    """A photograph of a scene, as the page shows it without a script.

    Attributes:
        number: what the script calls it.
        shown: the set, without what all sets' names begin with.
    """

    number: str
    shown: str
    label: str
    address: str
    width: int
    height: int


@dataclass(frozen=True)
class Explorer:
    """Everything that can be explored.

    Attributes:
        scenes: the samples, scene by scene; others: (name, shown) of the sets beside the first that show them.
        models: (name, shown) of those that have maps; explored: of those that have channels.
        refused: (shown, reason) of those that have none.
        method: the CAM method's name.
        data: what the script draws from, as the content of a JSON script block.
    """

    scenes: tuple[tuple[Sample, ...], ...]
    others: tuple[tuple[str, str], ...]
    models: tuple[tuple[str, str], ...]
    explored: tuple[tuple[str, str], ...]
    refused: tuple[tuple[str, str], ...]
    method: str
    data: Markup


def explorer(kept: Kept, models: Mapping[str, str], sets: Mapping[str, str]) -> Explorer:
    """What the run kept of maps.

    Args:
        kept: its pictures.
        models, sets: what names are shown as.
    """
    names = [m for m in models if m in kept.depths]
    explored = {row["model"] for row in kept.features}
    scenes = tuple(
        tuple(
            Sample(number, sets.get(name, name), str(s["label"]), kept.picture(s["file"]), *_tile(s))
            for name, number in scene.items()
            for s in (kept.by_id[number],)
        )
        for scene in kept.scenes
    )
    document = {
        "said": {status: " ".join(text.split()) for status, text in SAID.items()},
        "colours": {"one": _colours(mpl.colormaps[COLOR_MAP]), "two": _colours(diverging())},
        "sets": {name: sets.get(name, name) for name in dict.fromkeys(s["dataset"] for s in kept.samples)},
        "samples": {s["id"]: _sample(s) for s in kept.samples if s["use"] != "sheet"},
        "scenes": [list(scene.values()) for scene in kept.scenes],
        "models": [_model(name, models[name], kept) for name in names],
    }
    others = dict.fromkeys(name for scene in kept.scenes for name in list(scene)[1:])
    return Explorer(
        scenes,
        tuple((name, sets.get(name, name)) for name in others),
        tuple((m, models[m]) for m in names),
        tuple((m, models[m]) for m in names if m in explored),
        tuple((models.get(r["model"], r["model"]), r["reason"]) for r in kept.refused),
        next((row["method"] for row in kept.maps), ""),
        script_data(document),
    )


def script_data(document: Any) -> Markup:
    """A JSON document as the content of a script block: nothing in it can end the block or begin a comment."""
    text = json.dumps(document, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return Markup(text)  # noqa: S704 (escaped here)


def _tile(sample: Mapping[str, Any], longest: int = 128) -> tuple[int, int]:
    """Width and height at which a photograph's tile is shown."""
    scale = min(1.0, longest / max(sample["width"], sample["height"]))
    return max(1, round(sample["width"] * scale)), max(1, round(sample["height"] * scale))


def _colours(colours: Any) -> str:
    """256 colours as red, green and blue bytes in base64."""
    table = np.rint(255 * np.asarray(colours(np.linspace(0, 1, 256)))[:, :3]).astype(np.uint8)
    return base64.b64encode(table.tobytes()).decode()


def _sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    return {name: sample[name] for name in ("dataset", "key", "label", "width", "height", "crops")}


def _model(name: str, shown: str, kept: Kept) -> dict[str, Any]:
    """One model: sheets of maps, and rows of numbers that say where each map lies in them.

    A map is ``[depth, status, left, top, width, height]`` (status 0: drawn; else an index into ``statuses``), and a
    channel ``[depth, channel, share, sign, low, high, status, left, top, width, height]``.
    """
    depths = kept.depths[name]
    place = {d["name"]: i for i, d in enumerate(depths)}
    statuses = ["ok", *SAID]
    sheets: dict[str, str] = {}
    maps: dict[str, list[list[Any]]] = {}
    said: dict[str, list[Any]] = {}

    def where(row: Mapping[str, Any]) -> list[int]:
        if "file" not in row:
            return [statuses.index(row["status"])]
        kind = row["file"].split("/")[1]
        sheets.setdefault(kind, kept.picture(row["file"]))
        return [0, *row["box"]]

    for row in _of(kept.maps, name):
        maps.setdefault(row["sample"], []).append([place[row["depth"]], *where(row)])
        said[row["sample"]] = [row["prediction"], row["probability"]]
    features: dict[str, list[list[Any]]] = {}
    shown_depths = list(dict.fromkeys(row["depth"] for row in _of(kept.features, name)))
    for row in _of(kept.features, name):
        numbers = [row["channel"], row["strength"], row["sign"], *(_short(row[end]) for end in ("low", "high"))]
        features.setdefault(row["sample"], []).append([shown_depths.index(row["depth"]), *numbers, *where(row)])
    return {
        "name": name,
        "shown": shown,
        "geometry": kept.geometries[name],
        "reading": kept.reading[name],
        "depths": [[d["name"], d["stride"], d["shape"]] for d in depths],
        "explored": shown_depths,
        "statuses": statuses,
        "sheets": sheets,
        "maps": maps,
        "said": said,
        "features": features,
    }


def _of(rows: Iterable[Mapping[str, Any]], model: str) -> Sequence[Mapping[str, Any]]:
    return [row for row in rows if row["model"] == model]


def _short(value: float) -> float:
    """Four digits: what a label shows."""
    return float(f"{value:.4g}")
