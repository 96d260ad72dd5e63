"""The classification report of every run: precision, recall and F1 of each class, macro and weighted means."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradlens.records import Predictions
from gradlens.shift.tables import percent
from gradlens.workflows.measure.analyses import Outcome
from gradlens.workflows.study.section import Course, section

COLUMNS = ("model", "dataset", "class", "precision", "recall", "f1", "support")


@section(
    "classification_report",
    "Classification report",
    "scikit-learn's report of each run on each set: precision, recall and F1 by class, macro and weighted means.",
)
def of_course(course: Course) -> Outcome:
    """One report per run and set; the finding is about the test set."""
    rows = []
    for t in course.runs:
        for s in course.subject.evidence.sets:
            rows += _report(course.subject.evidence.predictions[t.name, s.name], t.run.name)
    own = [r for r in rows if (r["dataset"], r["class"]) == (course.subject.in_dist, "macro avg")]
    best = max(own, key=lambda r: r["f1"])
    text = (
        f"On {best['dataset']} {best['model']} has the highest macro-F1, {percent(best['f1'])} % (precision "
        f"{percent(best['precision'])} %, recall {percent(best['recall'])} %, {best['support']:,} images)"
    )
    if len(own) > 1:
        last = min(own, key=lambda r: r["f1"])
        text += f"; {last['model']} the lowest, {percent(last['f1'])} %"
    return Outcome(tables={"classification_report.csv": (COLUMNS, rows)}, findings=[f"{text}."])


def _report(said: Predictions, model: str) -> list[dict[str, Any]]:
    """Rows of one run on one set. Answers outside the set's classes are wrong, and no class's precision."""
    from sklearn.metrics import classification_report

    known = said.labels >= 0
    truth = np.array(said.label_classes, dtype=object)[said.labels[known]]
    answer = np.array(said.classes, dtype=object)[said.predicted[known]]
    classes = [c for c in said.label_classes if (truth == c).any()]
    told = classification_report(truth, answer, labels=classes, output_dict=True, zero_division=0.0)
    return [
        {
            "model": model,
            "dataset": said.dataset,
            "class": name,
            "precision": told[name]["precision"],
            "recall": told[name]["recall"],
            "f1": told[name]["f1-score"],
            "support": int(told[name]["support"]),
        }
        for name in (*classes, "macro avg", "weighted avg")
    ]
