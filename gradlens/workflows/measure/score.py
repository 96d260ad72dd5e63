"""From predictions to everything that is reported: scores, gaps, classes, pairs, and what a reader must know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from gradlens.records import Estimate, GapReport
from gradlens.runtime import Runtime
from gradlens.shift import gap, metrics, pairs, tables
from gradlens.workflows.measure.evidence import Evidence, Request, SetInfo


@dataclass(frozen=True)
class Findings:
    """The numbers of one evaluation.

    Attributes:
        scores: every metric by (model, data set).
        missed: the limits that were not reached, one sentence each.
        marks: why the gaps are not what they seem, where that is so; empty otherwise.
    """

    scores: Mapping[tuple[str, str], Mapping[str, Estimate]]
    gaps: list[GapReport]
    per_class: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    notes: list[str]
    marks: list[str]
    missed: list[str]


def score(evidence: Evidence, request: Request, runtime: Runtime) -> Findings:
    """Score every model on every set, compare each probe with the in-distribution set, and the models with each other.

    Raises:
        InputError: class names are ambiguous, or a pair shows two classes.
    """
    settings: dict[str, Any] = {
        "top_k": request.top_k,
        "confidence": request.confidence,
        "resamples": request.resamples,
        "seed": runtime.seed,
    }
    said = evidence.predictions
    scores: dict[tuple[str, str], Mapping[str, Estimate]] = {}
    gaps: list[GapReport] = []
    per_class: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for s in runtime.progress(evidence.sets, "scoring", unit="set"):
        # one set after the other, because all models share the bootstrap's draws of a set
        for m in evidence.models:
            scores[m.name, s.name] = metrics.evaluate(said[m.name, s.name], **settings)
            per_class += metrics.per_class(said[m.name, s.name])
            if s is not evidence.in_dist:
                paired = s.paired_with == evidence.in_dist.name
                gaps += gap.gaps(said[m.name, evidence.in_dist.name], said[m.name, s.name], paired=paired, **settings)
        rows += pairs.compare([said[m.name, s.name] for m in evidence.models])
    by_model = {(m.name, s.name): scores[m.name, s.name] for m in evidence.models for s in evidence.sets}
    order = {m.name: i for i, m in enumerate(evidence.models)}
    gaps.sort(key=lambda g: order[g.model])  # stable: by model, then probe, as in the summary
    return Findings(
        by_model,
        gaps,
        sorted(per_class, key=lambda r: order[r["model"]]),
        rows,
        [*_notes(evidence), *_detectable(gaps, request)],
        [*_marks(evidence), *evidence.marks],
        missed(by_model, gaps, request),
    )


def _notes(evidence: Evidence) -> list[str]:
    notes = []
    for probe in evidence.probes:
        for m in evidence.models:
            sides = evidence.predictions[m.name, evidence.in_dist.name], evidence.predictions[m.name, probe.name]
            note = gap.label_space_note(*sides)
            if note:
                notes.append(f"{probe.name}: {note}")
    for s in evidence.sets:
        for m in evidence.models:
            strange = metrics.unknown_images(evidence.predictions[m.name, s.name])
            if strange:
                shown = ", ".join(f"{name} ({n})" for name, n in strange.items())
                notes.append(f"{s.name}: {m.name} does not know {shown}; these images count as wrong in summary.csv")
        first = evidence.predictions[evidence.models[0].name, s.name]
        counts = np.bincount(first.labels[first.labels >= 0], minlength=len(first.label_classes))
        few = [f"{name} ({n})" for name, n in zip(first.label_classes, counts, strict=True) if 0 < n < tables.FEW]
        if few:
            notes.append(
                f"{s.name}: fewer than {tables.FEW} images of {', '.join(few)}; scores of these classes mean little"
            )
    return list(dict.fromkeys(notes))


def _detectable(gaps: list[GapReport], request: Request) -> list[str]:
    """How large a gap must be to show, for each probe set that is compared as an independent sample."""
    told: dict[str, list[GapReport]] = {}
    for g in gaps:
        if g.metric == "accuracy" and g.label_space == "shared" and g.gap.defined and not g.paired:
            told.setdefault(g.probe, []).append(g)
    notes = []
    for probe, of_models in told.items():
        middle = sorted(of_models, key=lambda g: g.in_dist_value)[len(of_models) // 2]
        least = gap.detectable_gap(middle.in_dist_value, middle.n_in_dist, middle.n_probe, request.confidence)
        notes.append(
            f"{probe}: {middle.n_probe:,} images show an accuracy gap of {100 * least:.1f} points or more "
            f"with 80 % power (at {100 * middle.in_dist_value:.1f} % in distribution)"
        )
    return notes


def _marks(evidence: Evidence) -> list[str]:
    used = {"train": "models were trained on", "select": "models were selected by"}
    return [
        f"{s.name} has the role {s.role}: where {used[s.role]} it, its scores are too good"
        + (", and so is every gap measured from it" if s is evidence.in_dist else "")
        for s in evidence.sets
        if s.role in used
    ] + [_filtered(s, evidence) for s in evidence.sets if s.filtered_by]


def _filtered(s: SetInfo, evidence: Evidence) -> str:
    """What it means that models chose a set's images, as a ResNet-50 chose ImageNet-A (Hendrycks et al. 2021)."""
    here = [
        m.name for m in evidence.models for by in s.filtered_by if fnmatchcase(m.name, by) or m.name.endswith(f"/{by}")
    ]
    text = f"{s.name} was filtered by the predictions of {', '.join(s.filtered_by)}: "
    if here:
        text += f"scores of {', '.join(dict.fromkeys(here))} there say how the images were chosen"
    else:
        text += "models that resemble them score differently there for that alone"
    return text + (", and so does every gap measured from it" if s is evidence.in_dist else "")


def missed(
    scores: Mapping[tuple[str, str], Mapping[str, Estimate]], gaps: list[GapReport], request: Request
) -> list[str]:
    """The limits of a request that were not reached, one sentence each."""
    missed = []
    if request.min_accuracy is not None:
        for (model, dataset), estimates in scores.items():
            value = estimates["accuracy"].value
            if not value >= request.min_accuracy:
                missed.append(
                    f"accuracy of {model} on {dataset} is {value:.4f}, below --min-accuracy {request.min_accuracy:g}"
                )
    if request.max_drop is not None:
        for g in gaps:
            if g.metric == "accuracy" and g.label_space == "shared" and not g.gap.value <= request.max_drop:
                missed.append(
                    f"accuracy of {g.model} drops by {g.gap.value:.4f} on {g.probe}, "
                    f"more than --max-drop {request.max_drop:g}"
                )
    return missed
