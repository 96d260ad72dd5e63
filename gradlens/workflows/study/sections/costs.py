"""What each run costs, to train and to use, beside what it scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from gradlens.figures.accuracy_cost import Point, accuracy_cost
from gradlens.shift.tables import percent
from gradlens.workflows.bench import Cost, Measures, cost_of, efficient, machine
from gradlens.workflows.measure.analyses import Outcome
from gradlens.workflows.study.section import Course, Trained, section
from gradlens.zoo import checkpoints

COLUMNS = (
    *("model", "network", "seeds", "dataset", "accuracy", "low", "high", "input_size", "parameters", "trainable"),
    *("flops", "size_mb", "latency_ms", "latency_p95_ms", "images_per_second", "batch_size"),
    *("epochs", "train_minutes", "minutes_per_epoch"),
)
BATCH = 32


@section(
    "costs",
    "Costs",
    "Parameters, FLOPs (two per multiply-accumulate), size, latency and throughput here, and minutes of training.",
)
def of_course(course: Course) -> Outcome:
    """One row per network and variant; each network is timed once, training times are those of the runs."""
    measured: dict[str, Cost] = {}
    rows = []
    families = course.families()
    for name, own in course.runtime.progress(list(families.items()), "timing", unit="network"):
        recipe = own[0].run.recipe
        key = recipe.model_dump_json(include={"builder", "arguments", "input_size", "head"})
        if key not in measured:
            model = checkpoints.load_folder(own[0].folder, own[0].name)
            measured[key] = cost_of(model, course.runtime, Measures(passes=30, batch_sizes=(BATCH,)))
        rows.append(_row(name, own, measured[key], course))
    about = machine(course.runtime)
    note = (
        f"times are of {about['device_name']} ({about['device']}, threads: {about['threads']}), with whatever else "
        "ran; minutes of training are of all epochs with their selection, without decoding"
    )
    if any(r["trainable"] != r["parameters"] for r in rows):
        note += "; trainable parameters are those of the last phase"
    points = pareto(
        rows,
        [("parameters (million)", "parameters", 1e6), ("GFLOPs per image", "flops", 1e9)],
        [("latency of one image (ms)", "latency_ms", 1)],
    )
    return Outcome(
        tables={"training_costs.csv": (COLUMNS, rows)},
        figures=[("costs", lambda: accuracy_cost(points, course.subject.in_dist))],
        findings=_said(rows),
        notes=[note],
    )


def _row(name: str, own: Sequence[Trained], cost: Cost, course: Course) -> dict[str, Any]:
    scores = [course.subject.found.scores[t.name, course.subject.in_dist]["accuracy"] for t in own]
    epochs = sum(len(t.training.history) for t in own)
    minutes = sum(t.training.seconds for t in own) / 60
    timed, batch = cost.latency, cost.throughput[0]
    return {
        "model": name,
        "network": own[0].run.recipe.builder,
        "seeds": len(own),
        "dataset": course.subject.in_dist,
        "accuracy": mean(s.value for s in scores),
        "low": mean(s.low for s in scores),
        "high": mean(s.high for s in scores),
        "input_size": own[0].run.recipe.input_size,
        "parameters": cost.profile.parameters,
        "trainable": own[0].training.phases[-1].parameters,
        "flops": cost.profile.flops,
        "size_mb": cost.profile.size_mb,
        "latency_ms": timed.median_ms if timed else None,
        "latency_p95_ms": timed.p95_ms if timed else None,
        "images_per_second": batch.images_per_second,
        "batch_size": batch.batch_size,
        "epochs": epochs / len(own),
        "train_minutes": minutes / len(own),
        "minutes_per_epoch": minutes / epochs,
    }


def pareto(rows: Sequence[Mapping[str, Any]], *kinds: Sequence[tuple[str, str, float]]) -> list[Point]:
    """Points of accuracy against each kind of cost: (label, column, how many of the column make one of the label)."""
    points = []
    for label, column, unit in (k for some in kinds for k in some):
        costs = [r[column] / unit for r in rows]
        front = efficient(costs, [r["accuracy"] for r in rows])
        points += [
            Point(r["model"], label, cost, r["accuracy"], r["low"], r["high"], on)
            for r, cost, on in zip(rows, costs, front, strict=True)
        ]
    return points


def rows_of(course: Course) -> Sequence[Mapping[str, Any]]:
    """The rows that the section ``costs`` left, for sections after it."""
    return course.subject.settled["costs"].tables["training_costs.csv"][1]


def _said(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    best = max(rows, key=lambda r: (r["accuracy"], r["model"]))
    small = min(rows, key=lambda r: (r["parameters"], r["model"]))
    fast = min(rows, key=lambda r: (r["latency_ms"], r["model"]))
    quick = min(rows, key=lambda r: (r["minutes_per_epoch"], r["model"]))
    return [
        f"{best['model']} is the most accurate ({percent(best['accuracy'])} %, {best['parameters']:,} parameters, "
        f"{best['flops'] / 1e9:.3g} GFLOPs); {small['model']} is the smallest ({small['parameters']:,}, "
        f"{percent(small['accuracy'])} %).",
        f"{fast['model']} answers fastest ({fast['latency_ms']:.3g} ms for one image, median; "
        f"{fast['images_per_second']:,.0f} images per second in batches of {fast['batch_size']}); {quick['model']} "
        f"trains fastest ({60 * quick['minutes_per_epoch']:.3g} seconds per epoch).",
    ]
