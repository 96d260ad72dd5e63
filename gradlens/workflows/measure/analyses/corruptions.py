"""The in-distribution images under common corruptions, scored by the same models: mCE against one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradlens.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from gradlens.data.derived import corrupted
from gradlens.errors import InputError, NotFoundError
from gradlens.figures import corruptions as sheet
from gradlens.figures import severity as figure
from gradlens.shift import intervals
from gradlens.shift.corruption_error import MEAN, CorruptionError, corruption_errors, reference_of
from gradlens.shift.severity import by_severity
from gradlens.shift.sides import Sides, sides_of
from gradlens.workflows.measure.analyses.analysis import Outcome, Subject, analysis
from gradlens.workflows.measure.evidence import Request

CORRUPTION = (
    *("model", "in_dist", "corruption", "family", "severity", "n", "error", "low", "high", "interval"),
    *("drop", "drop_low", "drop_high", "drop_interval"),
)
MCE = (
    *("model", "in_dist", "reference", "corruption", "severities", "n", "error", "error_low", "error_high"),
    *("ce", "ce_low", "ce_high", "relative_ce", "relative_ce_low", "relative_ce_high"),
    *("interval", "ce_interval", "relative_ce_interval"),
)


def _known(request: Request) -> None:
    for name in request.corruptions:
        CORRUPTIONS[name]
    if not request.severities or not set(request.severities) <= set(SEVERITIES):
        raise InputError(f"expected severities out of {SEVERITIES}, got {request.severities}")


@analysis(
    "corruptions",
    "Common corruptions",
    "Noise, blur, weather and compression on the in-distribution images, and the corruption error against a model.",
    cost="networks",
    check=_known,
)
def of_subject(subject: Subject) -> Outcome:
    """Errors under each corruption and severity, and mCE against a reference model scored in this run."""
    request = subject.request
    names = request.corruptions or tuple(CORRUPTIONS)
    found = {name: CORRUPTIONS[name] for name in names}
    levels = tuple(sorted(set(request.severities)))
    reference = _reference(subject)
    under = _scored(subject, tuple(found), levels)
    common = sorted(set.intersection(*(set(s.ids1) for s in under.values())))
    right = {key: _of(s, common) for key, s in under.items()}
    first = next(iter(under.values()))
    place = {name: i for i, name in enumerate(first.ids0)}
    clean = first.right0[[place[name] for name in common]]
    errors = corruption_errors(
        ~clean,
        {name: np.stack([~right[name, level] for level in levels], axis=1) for name in found},
        subject.models,
        reference,
        confidence=request.confidence,
        resamples=min(request.resamples, 2000),
        seed=subject.runtime.seed,
    )
    rows = [
        row for name, c in found.items() for level in levels for row in _rows(subject, under, name, c.family, level)
    ]
    rows.sort(key=lambda r: subject.models.index(r["model"]))  # stable: by model, then corruption
    notes = [
        f"corruption errors are in units of {reference}, scored in this run: they cannot be compared with published "
        "ones, whose unit is AlexNet on ImageNet"
    ]
    if len(common) < len(subject.evidence.images[subject.in_dist]):
        left = len(subject.evidence.images[subject.in_dist]) - len(common)
        notes.append(f"{left} images that some model was not scored on are left out of the corruption errors")
    return Outcome(
        tables={
            "corruptions.csv": (CORRUPTION, rows),
            "mce.csv": (MCE, [_mce_row(e, subject, reference, levels) for e in errors]),
        },
        figures=[
            ("corruptions", lambda: _sheet(subject, tuple(found), levels)),
            ("corruption_severity", lambda: _curves(subject, rows, clean, tuple(found), levels)),
        ],
        findings=_findings(errors, reference, levels, clean, subject),
        notes=notes,
    )


def _reference(subject: Subject) -> str:
    if subject.request.reference is None:
        return reference_of({m: subject.found.scores[m, subject.in_dist]["accuracy"].value for m in subject.models})
    asked = subject.request.reference
    matching = [m for m in subject.models if m == asked or m.rpartition("/")[2] == asked]
    if len(matching) != 1:
        raise NotFoundError("model of this run", asked, subject.models, hint="--reference is one of the scored models")
    return matching[0]


def _scored(subject: Subject, names: Sequence[str], levels: Sequence[int]) -> dict[tuple[str, int], Sides]:
    from gradlens.shift.predict import predict
    from gradlens.workflows.measure.computed import output_store

    origin = subject.evidence.images[subject.in_dist]
    networks = [subject.evidence.networks[m] for m in subject.models]
    clean = [subject.evidence.predictions[m, subject.in_dist] for m in subject.models]
    store = output_store(subject.request)
    found = {}
    work = [(name, level) for name in names for level in levels]
    for name, level in subject.runtime.progress(work, "corruptions", unit="set"):
        images = corrupted(origin, name, level, subject.runtime.seed)
        answers = predict(networks, images, subject.runtime, store, fresh=subject.request.fresh)
        found[name, level] = sides_of(clean, [a.predictions for a in answers], paired=True)
    return found


def _of(both: Sides, ids: Sequence[str]) -> np.ndarray:
    place = {name: i for i, name in enumerate(both.ids1)}
    return both.right1[[place[name] for name in ids]]


def _rows(
    subject: Subject, under: Mapping[tuple[str, int], Sides], name: str, family: str, level: int
) -> list[dict[str, Any]]:
    both = under[name, level]
    steps = by_severity(both, [level] * len(both.ids1), subject.request.confidence)
    return [
        {
            "model": s.model,
            "in_dist": subject.in_dist,
            "corruption": name,
            "family": family,
            "severity": level,
            "n": s.n,
            "error": 1 - s.accuracy,
            "low": 1 - s.high,
            "high": 1 - s.low,
            "interval": s.interval,
            "drop": s.drop,
            "drop_low": s.drop_low,
            "drop_high": s.drop_high,
            "drop_interval": s.drop_interval,
        }
        for s in steps
    ]


def _mce_row(e: CorruptionError, subject: Subject, reference: str, levels: Sequence[int]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": e.model,
        "in_dist": subject.in_dist,
        "reference": reference,
        "corruption": e.corruption,
        "severities": " ".join(map(str, levels)),
        "n": e.error.n,
        "interval": e.error.interval,
    }
    for name, estimate in (("error", e.error), ("ce", e.ce), ("relative_ce", e.relative)):
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        if name != "error":
            row[f"{name}_interval"] = estimate.interval
    return row


def _sheet(subject: Subject, names: Sequence[str], levels: Sequence[int]) -> Any:
    """The first image by id, under everything."""
    origin = subject.evidence.images[subject.in_dist]
    i = min(range(len(origin)), key=lambda j: origin.samples[j].id)
    image, key = origin.read(i), origin.samples[i].id
    panels = {n: [corrupt(image, n, level, key, subject.runtime.seed) for level in levels] for n in names}
    return sheet.corruption_sheet(image, panels, levels, f"{subject.in_dist}/{key}")


def _curves(
    subject: Subject, rows: Sequence[Mapping[str, Any]], clean: np.ndarray, names: Sequence[str], levels: Sequence[int]
) -> Any:
    at = {(r["model"], r["corruption"], r["severity"]): r for r in rows}
    curves = []
    for name in names:
        for m, model in enumerate(subject.models):
            own = [at[model, name, level] for level in levels]
            curves.append(
                figure.Curve(
                    model,
                    name,
                    float(clean[:, m].mean()),
                    tuple(levels),
                    tuple(1 - r["error"] for r in own),
                    tuple(1 - r["high"] for r in own),
                    tuple(1 - r["low"] for r in own),
                )
            )
    return figure.severity_curves(curves, intervals.label("Clopper-Pearson", subject.request.confidence))


def _findings(
    errors: Sequence[CorruptionError], reference: str, levels: Sequence[int], clean: np.ndarray, subject: Subject
) -> list[str]:
    means = [e for e in errors if e.corruption == MEAN]
    single = [e for e in errors if e.corruption != MEAN]
    kinds = len({e.corruption for e in single})
    at = ("severity " if len(levels) == 1 else "severities ") + ", ".join(map(str, levels))
    under = f"Under {f'{kinds} corruptions' if kinds > 1 else single[0].corruption.replace('_', ' ')} at {at}"
    best, worst = (f(means, key=lambda e: (e.error.value, e.model)) for f in (min, max))
    wrong = dict(zip(subject.models, 1 - clean.mean(axis=0), strict=True))

    def told(e: CorruptionError) -> str:
        text = f"{e.model} errs on {100 * e.error.value:.1f} % [{100 * e.error.low:.1f}, {100 * e.error.high:.1f}]"
        text += f" of the images ({100 * wrong[e.model]:.1f} % clean"
        if e.ce.defined and e.model != reference:
            text += f"; mCE {100 * e.ce.value:.0f} [{100 * e.ce.low:.0f}, {100 * e.ce.high:.0f}] against {reference}"
        return text + ")"

    found = [f"{under}, {told(best)}" + (f"; {told(worst)}" if worst is not best else "") + "."]
    if kinds > 1:
        names = dict.fromkeys(e.corruption for e in single)
        hard = {c: float(np.mean([e.error.value for e in single if e.corruption == c])) for c in names}
        most, least = (f(hard, key=lambda c: (hard[c], c)) for f in (max, min))
        found.append(
            f"Over all models {most.replace('_', ' ')} costs most ({100 * hard[most]:.1f} % wrong) and "
            f"{least.replace('_', ' ')} least ({100 * hard[least]:.1f} %)."
        )
    return found
