"""Accuracy against the time of training."""

from __future__ import annotations

from gradlens.figures.accuracy_cost import accuracy_cost
from gradlens.shift.tables import percent
from gradlens.workflows.measure.analyses import Outcome
from gradlens.workflows.study.section import Course, section
from gradlens.workflows.study.sections.costs import pareto, rows_of

COLUMNS = ("model", "accuracy", "minutes_per_epoch", "efficiency", "normalised_efficiency", "on_front")


@section(
    "efficiency",
    "Accuracy against minutes per epoch",
    "Accuracy over minutes per epoch, scaled so that the most efficient network has 1, and who is on the Pareto front.",
    after=("costs",),
)
def of_course(course: Course) -> Outcome:
    """Normalised efficiency of every network, and the front."""
    costs = rows_of(course)
    kind = ("minutes per epoch", "minutes_per_epoch", 1.0)
    points = pareto(costs, [kind])
    ratio = [r["accuracy"] / r["minutes_per_epoch"] for r in costs]
    most = max(ratio) or 1.0
    rows = [
        {
            "model": r["model"],
            "accuracy": r["accuracy"],
            "minutes_per_epoch": r["minutes_per_epoch"],
            "efficiency": x,
            "normalised_efficiency": x / most,
            "on_front": p.efficient,
        }
        for r, x, p in zip(costs, ratio, points, strict=True)
    ]
    order = sorted(rows, key=lambda r: -r["normalised_efficiency"])
    front = sorted((r for r in rows if r["on_front"]), key=lambda r: r["minutes_per_epoch"])
    shown = ", ".join(f"{r['model']} ({percent(r['accuracy'])} %)" for r in front)
    findings = [
        f"{order[0]['model']} has the most accuracy per minute of an epoch ({percent(order[0]['accuracy'])} % at "
        f"{60 * order[0]['minutes_per_epoch']:.3g} s)"
        + (f", {order[-1]['model']} the least: {order[-1]['normalised_efficiency']:.2g} of it." if rows[1:] else "."),
        f"On the front, where nobody is both as accurate and as fast to train: {shown}.",
    ]
    return Outcome(
        tables={"efficiency.csv": (COLUMNS, rows)},
        figures=[("efficiency", lambda: accuracy_cost(points, course.subject.in_dist))],
        findings=findings,
        notes=["accuracy over time favours fast networks however little they know; the front does not"],
    )
