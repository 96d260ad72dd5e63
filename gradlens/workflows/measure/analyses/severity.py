"""How accuracy falls with severity, on probe sets whose images come in severities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from gradlens.errors import InputError
from gradlens.figures import severity as figure
from gradlens.shift import intervals, severity
from gradlens.shift.sides import Sides
from gradlens.workflows.measure.analyses.analysis import Outcome, Subject, analysis
from gradlens.workflows.measure.analyses.factors import sides

SEVERITY = (
    *("model", "in_dist", "probe", "severity", "n", "accuracy", "low", "high", "interval"),
    *("drop", "drop_low", "drop_high", "drop_interval"),
)
TRENDS = ("model", "in_dist", "probe", "slope", "low", "high", "p", "interval", "n", "scenes", "steps")


@analysis("severity", "Severity", "How accuracy falls from one severity of a shift to the next.")
def of_subject(subject: Subject) -> Outcome:
    """Accuracy at each severity, and the trend, for every probe set whose images have severities."""
    images = subject.evidence.images
    graded = {
        p.name: {s.id: s.severity for s in images[p.name].samples if s.severity is not None}
        for p in subject.evidence.probes
        if p.name in images
    }
    probes = [p for p in subject.evidence.probes if len(set(graded.get(p.name, {}).values())) > 1]
    if not probes:
        return Outcome(
            not_done="no probe set comes in several severities (the column severity of images.csv)"
            if images
            else "predictions from files do not say how severe a shift is; run the models on image sets"
        )
    rows: list[dict[str, Any]] = []
    slopes: list[dict[str, Any]] = []
    curves, notes, told = [], [], []
    for probe in probes:
        try:
            both = sides(subject, probe)
        except InputError as err:
            notes.append(f"severities of {probe.name}: {err}")
            continue
        own = graded[probe.name]
        kept = [i for i, name in enumerate(both.ids1) if name in own]
        if len(kept) < len(both.ids1):
            notes.append(f"{probe.name}: {len(both.ids1) - len(kept)} images without a severity are left out of trends")
            both = _rows(both, kept)
        levels = [own[name] for name in both.ids1]
        where = {"in_dist": subject.in_dist, "probe": probe.name}
        steps = severity.by_severity(both, levels, subject.request.confidence)
        rows += [asdict(s) | where for s in steps]
        trends = severity.trends(both, levels, subject.request.confidence)
        slopes += [asdict(t) | where | {"steps": len(set(levels))} for t in trends]
        clean = dict(zip(both.models, _clean(both), strict=True))
        for model in both.models:
            of = [s for s in steps if s.model == model]
            curves.append(
                figure.Curve(
                    model,
                    probe.name,
                    clean[model],
                    *(tuple(getattr(s, field) for s in of) for field in ("severity", "accuracy", "low", "high")),
                )
            )
        told.append(_sentence(probe.name, both, levels, trends, subject))
    if not rows:
        return Outcome(notes=notes, not_done="no probe set with severities could be compared")
    told.sort(key=lambda one: (-one[0], one[1]))
    made = intervals.label("Clopper-Pearson", subject.request.confidence)
    return Outcome(
        tables={"severity.csv": (SEVERITY, rows), "severity_trends.csv": (TRENDS, slopes)},
        figures=[("severity", lambda: figure.severity_curves(curves, made))],
        findings=[text for _, text in told],
        notes=notes,
    )


def _rows(both: Sides, kept: Sequence[int]) -> Sides:
    return replace(
        both,
        ids1=tuple(both.ids1[i] for i in kept),
        right1=both.right1[kept],
        classes1=tuple(both.classes1[i] for i in kept),
        partner=None if both.partner is None else both.partner[kept],
    )


def _clean(both: Sides) -> list[float]:
    right = both.right0 if both.partner is None else both.right0[both.partner]
    return [float(v) for v in right.mean(axis=0)]


def _sentence(
    probe: str, both: Sides, levels: Sequence[int], trends: Sequence[severity.Trend], subject: Subject
) -> tuple[float, str]:
    """(slope, sentence) of the mean over models, and how many of them fall."""
    y = both.lost if both.partner is not None else 1.0 - both.right1
    confidence = subject.request.confidence
    slope, low, high, *_ = severity.slope(np.asarray(levels, dtype=np.float64), y.mean(axis=1), both.scene, confidence)
    falls = sum(t.low > 0 for t in trends)
    ends = f"{min(levels)} to {max(levels)}"
    who = trends[0].model if len(trends) == 1 else f"{len(trends)} models on average"
    fall = f"{100 * slope:.1f}" + ("" if math.isnan(low) else f" [{100 * low:.1f}, {100 * high:.1f}]")
    text = f"From severity {ends} of {probe}, accuracy of {who} falls by {fall.replace('-', '−')} points a step"
    if len(trends) > 1:
        text += f"; it falls for {falls} of {len(trends)} (interval above zero)"
    return slope, f"{text}."
