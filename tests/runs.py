"""Runs to test with: what a command left; a folder of random predictions, scored and written by the real functions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradlens.records import Predictions, Skipped
from gradlens.shift import gap, metrics, pairs, tables


@dataclass(frozen=True)
class Result:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]
"""A command, run with these arguments."""

CLASSES = ("bicycle", "bus", "car", "motorcycle", "plane", "ship", "train", "truck")


def predictions(
    model: str,
    dataset: str,
    accuracy: float,
    seed: int,
    n: int = 160,
    classes: Sequence[str] = CLASSES,
    pair: bool = True,
) -> Predictions:
    """Predictions that are right about ``accuracy`` of the time; ids of all data sets correspond."""
    rng = np.random.default_rng(seed)
    k = len(classes)
    labels = np.arange(n) % k
    hard = np.random.default_rng(n).normal(size=n)  # the same images are hard for every model
    right = rng.normal(size=n) * 0.7 + hard < np.quantile(rng.normal(size=4000) * 0.7 + rng.normal(size=4000), accuracy)
    wrong = (labels + rng.integers(1, k, n)) % k
    logits = rng.normal(size=(n, k)).astype(np.float32)
    logits[np.arange(n), np.where(right, labels, wrong)] = logits.max(axis=1) + rng.uniform(0.2, 4, n)
    return Predictions(
        model,
        dataset,
        tuple(classes),
        tuple(classes),
        tuple(f"{i:04d}.jpg" for i in range(n)),
        labels.astype(np.int64),
        logits.argmax(axis=1).astype(np.int64),
        logits,
        tuple(f"{i:04d}.jpg" for i in range(n)) if pair else None,
    )


def write_run(
    folder: Path,
    accuracies: Mapping[str, Mapping[str, float]],
    *,
    in_dist: str = "vehicles-test",
    classes: Sequence[str] = CLASSES,
    skipped: Sequence[Skipped] = (),
    about: Mapping[str, Any] | None = None,
    n: int = 160,
    resamples: int = 40,
    seed: int = 0,
) -> dict[tuple[str, str], Predictions]:
    """Write a run folder from model -> data set -> accuracy; returns the predictions behind it."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {
        (model, dataset): predictions(model, dataset, value, seed + 97 * i + j, n, classes, dataset != in_dist)
        for i, (model, own) in enumerate(accuracies.items())
        for j, (dataset, value) in enumerate(own.items())
    }
    datasets = list(dict.fromkeys(dataset for _, dataset in said))
    scores = {key: metrics.evaluate(p, resamples=resamples) for key, p in said.items()}
    gaps = [
        g
        for (model, dataset), p in said.items()
        if dataset != in_dist
        for g in gap.gaps(said[model, in_dist], p, paired=True, resamples=resamples)
    ]
    roles = {d: "test" if d == in_dist else "probe" for d in datasets}
    tables.write_csv(folder / "summary.csv", tables.SUMMARY, tables.summary_rows(scores, roles))
    tables.write_csv(folder / "gaps.csv", tables.GAPS, tables.gap_rows(gaps))
    tables.write_csv(
        folder / "per_class.csv", tables.PER_CLASS, [r for p in said.values() for r in metrics.per_class(p)]
    )
    tables.write_csv(
        folder / "confusion.csv", tables.CONFUSION, [r for p in said.values() for r in metrics.confusion(p)]
    )
    rows = [r for d in datasets for r in pairs.compare([p for (_, dataset), p in said.items() if dataset == d])]
    tables.write_csv(folder / "pairs.csv", tables.PAIRS, rows)
    tables.write_csv(folder / "skipped.csv", tables.SKIPPED, tables.skipped_rows(skipped))
    sets = [{"name": d, "role": roles[d], "n": n, "classes": list(classes), "paired_with": in_dist} for d in datasets]
    document = {
        "schema": 1,
        "command": "gradlens shift-eval",
        "versions": {"torch": "2.15.0"},
        "device": "cpu",
        "device_name": "2 threads",
        "seed": 0,
        "confidence": 0.95,
        "resamples": resamples,
        "in_dist": next(s for s in sets if s["name"] == in_dist),
        "probe_sets": [s for s in sets if s["name"] != in_dist],
        "models": [{"name": m, "parameters": 1_000_000 + 37 * i} for i, m in enumerate(accuracies)],
        "warnings": [],
        "timings": {"total": 12.5},
        **(about or {}),
    }
    (folder / "run.json").write_text(json.dumps(document), encoding="utf-8")
    return said
