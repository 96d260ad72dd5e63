"""Variants against the baseline on the same images: what augmentation does, what a schedule does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gradlens.figures import differences as figure
from gradlens.shift import pairs
from gradlens.shift.tables import percent
from gradlens.workflows.measure.analyses import Outcome
from gradlens.workflows.study.section import Course, Trained, section

COLUMNS = (
    *("model", "variant", "baseline", "seed", "dataset", "n", "accuracy", "baseline_accuracy", "difference", "low"),
    *("high", "interval", "only_variant", "only_baseline", "p_exact", "p_holm", "tests"),
)
SCHEDULES = (
    *("model", "variant", "seed", "schedule", "warmup", "lr", "epochs", "accuracy", "low", "high", "interval"),
    *("kept", "select_accuracy"),
)


@section(
    "augmentation",
    "The effect of augmentation",
    "Accuracy with and without, on the same images of each set: McNemar's test and the paired difference.",
)
def augmentation(course: Course) -> Outcome:
    """Each run with augmentation against the one without, on every set."""
    return _against_baseline(course, "augmentation")


@section(
    "variants",
    "Variants against the baseline",
    "Accuracy of each variant and of the baseline on the same images of each set: McNemar's test, paired difference.",
)
def variants(course: Course) -> Outcome:
    """Each run of a variant against the baseline's, on every set."""
    return _against_baseline(course, "variants")


@section(
    "schedules",
    "Learning-rate schedules",
    "One model under several schedules: accuracy of each, and which of them are told apart.",
)
def schedules(course: Course) -> Outcome:
    """Accuracy under each schedule, every two compared on the same images (McNemar, Holm)."""
    found: list[dict[str, Any]] = []
    findings = []
    tests: list[dict[str, Any]] = []
    by_model: dict[str, list[Trained]] = {}
    for t in course.runs:
        by_model.setdefault(t.run.model, []).append(t)
    for model, own in by_model.items():
        if len({t.run.variant for t in own}) < 2:
            continue
        found += [_scheduled(t, course) for t in own]
        compared = pairs.compare([course.subject.evidence.predictions[t.name, course.subject.in_dist] for t in own])
        tests += compared
        rows = sorted((r for r in found if r["model"] == model), key=lambda r: -r["accuracy"])
        differ = sum(t["p_holm"] < 1 - course.subject.request.confidence for t in compared)
        findings.append(
            f"{model} on {course.subject.in_dist}: {rows[0]['variant']} is highest ({percent(rows[0]['accuracy'])} % "
            f"[{percent(rows[0]['low'])}, {percent(rows[0]['high'])}]), {rows[-1]['variant']} lowest "
            f"({percent(rows[-1]['accuracy'])} %); {differ} of {len(compared)} pairs of schedules are told apart "
            "(McNemar, Holm)."
        )
    if not found:
        return Outcome(not_done="schedules are compared where one model has several variants")
    return Outcome(
        tables={"schedules.csv": (SCHEDULES, found), "schedule_pairs.csv": (tuple(tests[0]), tests)}, findings=findings
    )


def _scheduled(t: Trained, course: Course) -> dict[str, Any]:
    score = course.subject.found.scores[t.name, course.subject.in_dist]["accuracy"]
    recipe = t.run.recipe
    kept = next(e for e in t.training.history if e["epoch"] == t.training.kept)
    return {
        "model": t.run.model,
        "variant": t.run.variant,
        "seed": t.run.seed,
        "schedule": recipe.schedule.name,
        "warmup": recipe.schedule.warmup,
        "lr": recipe.optimiser.lr,
        "epochs": len(t.training.history),
        "accuracy": score.value,
        "low": score.low,
        "high": score.high,
        "interval": score.interval,
        "kept": t.training.kept,
        "select_accuracy": kept["select_accuracy"],
    }


def _against_baseline(course: Course, stem: str) -> Outcome:
    """Every run against the baseline's run of the same model and seed, on every set."""
    baseline = course.study.baseline
    base = {(t.run.model, t.run.seed): t for t in course.runs if t.run.variant == baseline}
    compared = [
        (t, base[t.run.model, t.run.seed])
        for t in course.runs
        if t.run.variant != baseline and (t.run.model, t.run.seed) in base
    ]
    if not compared:
        return Outcome(not_done=f"no run has a counterpart of the variant {baseline!r}")
    said = course.subject.evidence.predictions
    confidence = course.subject.request.confidence
    rows: list[dict[str, Any]] = []
    for s in course.subject.evidence.sets:
        own: list[dict[str, Any]] = []
        for one, other in compared:
            head = {"model": one.run.model, "variant": one.run.variant, "baseline": baseline, "seed": one.run.seed}
            own.append(head | pairs.paired_difference(said[one.name, s.name], said[other.name, s.name], confidence))
        for row, p in zip(own, pairs.holm([r["p_exact"] for r in own]), strict=True):
            rows.append(row | {"p_holm": p, "tests": len(own)})
    marks = [
        figure.Mark(r["dataset"], r["model"], r["variant"], r["difference"], r["low"], r["high"])
        for r in rows
        if r["seed"] == course.study.seeds[0]
    ]
    return Outcome(
        tables={f"{stem}.csv": (COLUMNS, rows)},
        figures=[(stem, lambda: figure.differences(marks, baseline, rows[0]["interval"]))],
        findings=[_said(rows, s.name, 1 - confidence) for s in course.subject.evidence.sets],
        notes=["one seed each: a difference holds the luck of training as well"]
        if len(course.study.seeds) == 1
        else [f"the figure shows the seed {course.study.seeds[0]}; the table has all"],
    )


def _said(rows: Sequence[Mapping[str, Any]], dataset: str, alpha: float) -> str:
    own = [r for r in rows if r["dataset"] == dataset]
    better = [r for r in own if r["p_holm"] < alpha and r["difference"] > 0]
    worse = [r for r in own if r["p_holm"] < alpha and r["difference"] < 0]
    most = max(own, key=lambda r: (abs(r["difference"]), r["model"]))
    return (
        f"{dataset}: better in {len(better)} and worse in {len(worse)} of {len(own)} comparisons with "
        f"{most['baseline']} (McNemar, Holm); the largest difference is {most['model']}'s with {most['variant']}, "
        f"{percent(most['difference'], signed=True)} points [{percent(most['low'])}, {percent(most['high'])}]."
    )
