"""Which two classes are taken for one another most, and how far other weights reduce that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from gradlens.shift.tables import percent
from gradlens.workflows.measure.analyses import Outcome
from gradlens.workflows.study.section import Course, Trained, section

COLUMNS = ("model", "dataset", "seeds", "class_a", "class_b", "a_as_b", "b_as_a", "both", "images", "share")
REDUCED = ("model", "variant", "baseline", "dataset", "class_a", "class_b", "before", "after", "reduction")
HARDEST = 5


@section(
    "confusion_pairs",
    "Hardest pairs of classes",
    "Images of either class taken for the other, both ways together, and how many fewer than at the baseline.",
)
def of_course(course: Course) -> Outcome:
    """Counts on the test set, over the seeds of each network, and the reduction of the baseline's hardest pairs."""
    families = course.families()
    counted = {name: _pairs(own, course) for name, own in families.items()}
    rows = [{"model": name, **row} for name, own in counted.items() for row in own]
    reduced = [r for name, own in families.items() for r in _reduced(name, own, counted, course.study.baseline)]
    whole: dict[tuple[str, str], int] = {}
    for row in rows:
        key = row["class_a"], row["class_b"]
        whole[key] = whole.get(key, 0) + row["both"]
    order = sorted(whole, key=lambda k: -whole[k])[:HARDEST]
    if not order or not whole[order[0]]:
        return Outcome(
            tables={"confusion_pairs.csv": (COLUMNS, rows)}, findings=["No image was taken for another class."]
        )
    shown = ", ".join(f"{a} and {b} ({whole[a, b]:g})" for a, b in order if whole[a, b])
    findings = [f"Confused most on {course.subject.in_dist}, both ways, over all {len(course.runs)} runs: {shown}."]
    for model in dict.fromkeys(r["model"] for r in reduced):
        known = [r for r in reduced if r["model"] == model and r["before"]]
        for variant in dict.fromkeys(r["variant"] for r in known):
            own = [r for r in known if r["variant"] == variant]
            before, after = sum(r["before"] for r in own), sum(r["after"] for r in own)
            findings.append(
                f"{model}: the baseline's {len(own)} hardest pairs are confused {after:g} times with {variant}, "
                f"{before:g} times with {own[0]['baseline']}: {percent(abs(1 - after / before))} % "
                f"{'fewer' if after <= before else 'more'}."
            )
    return Outcome(
        tables={"confusion_pairs.csv": (COLUMNS, rows), "confusion_reduction.csv": (REDUCED, reduced)},
        findings=findings,
        notes=["counts over several seeds are means, so that networks with more seeds compare with others"],
    )


def _pairs(own: Sequence[Trained], course: Course) -> list[dict[str, Any]]:
    """Every two classes, most confused first; counts are means over the seeds."""
    said = [course.subject.evidence.predictions[t.name, course.subject.in_dist] for t in own]
    classes = said[0].label_classes
    place = {name: i for i, name in enumerate(classes)}
    matrix = np.zeros((len(classes), len(classes)))
    images = np.zeros(len(classes))
    for p in said:
        answer = np.array([place.get(name, -1) for name in p.classes])[p.predicted]
        known = (p.labels >= 0) & (answer >= 0)
        np.add.at(matrix, (p.labels[known], answer[known]), 1 / len(said))
        images += np.bincount(p.labels[p.labels >= 0], minlength=len(classes)) / len(said)
    rows = []
    for a, b in combinations(range(len(classes)), 2):
        both, n = float(matrix[a, b] + matrix[b, a]), float(images[a] + images[b])
        rows.append(
            {
                "dataset": said[0].dataset,
                "seeds": len(said),
                "class_a": classes[a],
                "class_b": classes[b],
                "a_as_b": float(matrix[a, b]),
                "b_as_a": float(matrix[b, a]),
                "both": both,
                "images": n,
                "share": both / n if n else math.nan,
            }
        )
    return sorted(rows, key=lambda r: -r["both"])


def _reduced(
    name: str, own: Sequence[Trained], counted: Mapping[str, list[dict[str, Any]]], baseline: str
) -> list[dict[str, Any]]:
    """The baseline's hardest pairs, before and with this variant."""
    run = own[0].run
    base = f"{run.model}-{baseline}"
    if not baseline or run.variant == baseline or base not in counted:
        return []
    after = {(r["class_a"], r["class_b"]): r["both"] for r in counted[name]}
    rows = []
    for r in counted[base][:HARDEST]:
        now = after[r["class_a"], r["class_b"]]
        rows.append(
            {
                "model": run.model,
                "variant": run.variant,
                "baseline": baseline,
                **{k: r[k] for k in ("dataset", "class_a", "class_b")},
                "before": r["both"],
                "after": now,
                "reduction": 1 - now / r["both"] if r["both"] else math.nan,
            }
        )
    return rows
