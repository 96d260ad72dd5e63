"""How steady training was: from epoch to epoch, and from seed to seed."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import stdev
from typing import Any

from gradlens.shift.tables import percent
from gradlens.workflows.measure.analyses import Outcome
from gradlens.workflows.study.section import Course, Trained, section

EPOCHS = (
    *("model", "epochs", "kept", "selection_best", "selection_last", "selection_sd_last_third", "largest_drop"),
    *("train_last", "overfitting"),
)
SEEDS = ("family", "seeds", "dataset", "lowest", "mean", "highest", "sd")


@section(
    "stability",
    "Stability",
    "How much selection accuracy moves over the last third of the epochs, and test accuracy from seed to seed.",
)
def of_course(course: Course) -> Outcome:
    """Spread over the epochs of each run, from its history, and over the seeds of each family."""
    rows = [_epochs(t) for t in course.runs]
    seeds = [_seeds(name, own, course) for name, own in course.families().items() if len(own) > 1]
    findings = []
    steady = [r for r in rows if not math.isnan(r["selection_sd_last_third"])]
    if steady:
        calm = min(steady, key=lambda r: r["selection_sd_last_third"])
        wild = max(steady, key=lambda r: r["selection_sd_last_third"])
        findings.append(
            f"Over the last third of the epochs selection accuracy moves least for {calm['model']} (standard deviation "
            f"{percent(calm['selection_sd_last_third'])} points) and most for {wild['model']} "
            f"({percent(wild['selection_sd_last_third'])})."
        )
    worst = max(rows, key=lambda r: r["overfitting"])
    findings.append(
        f"Accuracy on the training images, as they were augmented, exceeds that on the selection images most for "
        f"{worst['model']}: {percent(worst['overfitting'], signed=True)} points in the last epoch."
    )
    if seeds:
        wide = max(seeds, key=lambda r: r["sd"])
        findings.append(
            f"From seed to seed, accuracy on {wide['dataset']} moves most for {wide['family']}: "
            f"{percent(wide['lowest'])} to {percent(wide['highest'])} % over {wide['seeds']} seeds "
            f"(standard deviation {percent(wide['sd'])} points)."
        )
    alone = sum(len(own) == 1 for own in course.families().values())
    notes = [f"{alone} of {len(course.families())} networks were trained once; nothing is known of their luck"]
    return Outcome(
        tables={"stability.csv": (EPOCHS, rows), "stability_seeds.csv": (SEEDS, seeds)},
        findings=findings,
        notes=notes if alone else [],
    )


def _epochs(run: Trained) -> dict[str, Any]:
    history = run.training.history
    selection = [float(e["select_accuracy"]) for e in history]
    last = selection[-max(1, len(selection) // 3) :]
    drops = [a - b for a, b in pairwise(selection)]
    train = float(history[-1]["accuracy"])
    return {
        "model": run.run.name,
        "epochs": len(history),
        "kept": run.training.kept,
        "selection_best": max(selection),
        "selection_last": selection[-1],
        "selection_sd_last_third": stdev(last) if len(last) > 1 else math.nan,
        "largest_drop": max([0.0, *drops]),
        "train_last": train,
        "overfitting": train - selection[-1],
    }


def _seeds(family: str, own: list[Trained], course: Course) -> dict[str, Any]:
    values = [course.accuracy(t) for t in own]
    return {
        "family": family,
        "seeds": len(own),
        "dataset": course.subject.in_dist,
        "lowest": min(values),
        "mean": sum(values) / len(values),
        "highest": max(values),
        "sd": stdev(values),
    }
