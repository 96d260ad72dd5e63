"""What the models of a run cost, how they are built up and what their cards say: files for the page and for readers.

Counted once per model; the latency is measured in ten passes of one image, with whatever else the machine does then.
``gradlens bench`` measures with more care.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from gradlens.depths.stretches import stretches
from gradlens.errors import DepthError, ModelError
from gradlens.records import HookPoint, LoadedModel
from gradlens.runtime import Runtime, whole_file
from gradlens.shift import store
from gradlens.shift.tables import write_csv
from gradlens.workflows.bench import machine
from gradlens.workflows.measure.evidence import Evidence
from gradlens.workflows.run_folder import RunFolder
from gradlens.workflows.see import depths_of
from gradlens.zoo.profile import profile
from gradlens.zoo.timing import latency

COSTS = (
    *("model", "parameters", "trainable", "flops", "size_bytes"),
    *("latency_ms", "latency_p95_ms", "device", "threads"),
)
DEPTHS = ("model", "depth", "path", "position", "stride", "shape", "layout", "parameters", "flops")
HEAD = "head"  # the row of what follows the deepest depth; its path is empty
PASSES = 10  # timed, of one image


@dataclass
class Costs:
    """What was found.

    Attributes:
        rows, depths: of ``costs.csv`` and ``depths.csv``.
        cards: model -> the ``gradlens`` table of its checkpoint, for those that have one.
        notes: which models have no depths, and why.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    depths: list[dict[str, Any]] = field(default_factory=list)
    cards: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def measure(evidence: Evidence, runtime: Runtime) -> Costs:
    """Count and time every network of a run; each is left where it was. Nothing where predictions came from files."""
    found = Costs()
    for model in runtime.progress(list(evidence.networks.values()), "measuring costs", unit="model"):
        was = next((p.device for p in model.module.parameters()), torch.device("cpu"))
        try:
            found.rows.append(_row(model, runtime))
            found.depths += _depth_rows(model, runtime)
        except (DepthError, ModelError) as err:
            found.notes.append(f"{model.name}: no depths: {str(err).partition(chr(10))[0]}")
        finally:
            model.module.to(was)
        if model.card:
            found.cards[model.name] = model.card
    return found


def write(run: RunFolder, found: Costs) -> None:
    """``costs.csv``, ``depths.csv`` and ``cards/``, as far as there is something to write."""
    if found.rows:
        write_csv(run.file("costs.csv"), COSTS, found.rows)
    if found.depths:
        write_csv(run.file("depths.csv"), DEPTHS, found.depths)
    names = store.different({name: store.safe_stem(name) for name in found.cards})
    for name, card in found.cards.items():
        with whole_file(run.file(f"cards/{names[name]}.json")) as part:
            part.write_text(json.dumps({"model": name, **card}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _row(model: LoadedModel, runtime: Runtime) -> dict[str, Any]:
    size = model.preprocess.input_size
    counted, timed, about = profile(model.module, size), latency(model.module, size, runtime, PASSES), machine(runtime)
    phases = ((model.card.get("training") or {}).get("phases")) or ()
    return {
        "model": model.name,
        "parameters": counted.parameters,
        "trainable": phases[-1]["parameters"] if phases else counted.trainable,
        "flops": counted.flops,
        "size_bytes": round(counted.size_mb * 1e6),
        "latency_ms": timed.median_ms,
        "latency_p95_ms": timed.p95_ms,
        "device": about["device_name"],
        "threads": about["threads"],
    }


def _depth_rows(model: LoadedModel, runtime: Runtime) -> list[dict[str, Any]]:
    """One row per depth, shallow to deep, with what the stretch that ends there holds, and one for the rest."""
    points = depths_of(model, runtime).points
    image = torch.zeros(1, *model.preprocess.input_size, device=runtime.torch_device())
    *parts, rest = stretches(model.module, points, image)
    rows = [_of_depth(p) | {"parameters": s.parameters, "flops": s.flops} for p, s in zip(points, parts, strict=True)]
    rows.append(_of_head(len(model.classes)) | {"parameters": rest.parameters, "flops": rest.flops})
    return [{"model": model.name, **row} for row in rows]


def _of_depth(point: HookPoint) -> dict[str, Any]:
    return {
        "depth": point.name,
        "path": point.path,
        "position": point.position,
        "stride": point.stride_text.replace("×", "x"),
        "shape": _by(point.shape),
        "layout": point.layout,
    }


def _of_head(classes: int) -> dict[str, Any]:
    return {"depth": HEAD, "path": "", "position": 1.0, "stride": "", "shape": str(classes), "layout": ""}


def _by(shape: Sequence[int]) -> str:
    """``"64x8x8"``."""
    return "x".join(map(str, shape))
