"""How unfamiliar the images of each probe set look to each model, from its outputs alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from gradlens.errors import InputError
from gradlens.shift import ood
from gradlens.shift.ood import SCORES, Separation
from gradlens.shift.unlabelled import side_of
from gradlens.workflows.measure.analyses.analysis import Outcome, Subject, analysis

SEPARATION = (
    *("auroc", "low", "high", "interval", "fpr95_in_dist_positive", "fpr95_in_dist_positive_low"),
    *("fpr95_in_dist_positive_high", "fpr95_ood_positive", "fpr95_ood_positive_low", "fpr95_ood_positive_high"),
    *("fpr95_interval", "n_in_dist", "n_probe"),
)
OOD = ("model", "in_dist", "probe", "score", *SEPARATION)
FEWEST_SETS = 4  # for an association over sets


@analysis("ood", "Unfamiliar images", "How well each model's outputs tell the images of each set from its own kind.")
def of_subject(subject: Subject) -> Outcome:
    """Every score of the outputs, every model, every probe and unlabelled set against the in-distribution set."""
    targets = [*subject.probes, *(s.name for s in subject.evidence.unlabelled)]
    if not targets:
        return Outcome(not_done="images are unfamiliar compared with others: --probe SOURCE or --unlabelled SOURCE")
    said = subject.evidence.predictions
    rows: list[dict[str, Any]] = []
    notes = []
    for model in subject.models:
        seen = side_of(said[model, subject.in_dist], labelled=False).logits
        if seen is None:
            continue
        for probe in targets:
            new = side_of(said[model, probe], labelled=False).logits
            for name in SCORES:
                try:
                    if new is None:
                        raise InputError(f"{name} needs logits, and only hard predictions are there")
                    told = ood.separation(ood.scored(name, seen), ood.scored(name, new), **settings(subject))
                except InputError as err:
                    notes.append(f"{model} on {probe}: no OOD score {name} ({err})")
                    continue
                rows.append(
                    {"model": model, "in_dist": subject.in_dist, "probe": probe, "score": name}
                    | separation_row(told, len(seen), len(new))
                )
    if not rows:
        return Outcome(not_done="OOD scores need logits or probabilities; only hard predictions are there")
    return Outcome(
        tables={"ood.csv": (OOD, rows)}, findings=[_best(rows), *_association(subject, rows)], notes=_shortened(notes)
    )


def settings(subject: Subject) -> dict[str, Any]:
    """Confidence, resamples and seed of a separation."""
    request = subject.request
    return {"confidence": request.confidence, "resamples": request.resamples, "seed": subject.runtime.seed}


def separation_row(told: Separation, n_in_dist: int, n_probe: int) -> dict[str, Any]:
    """The columns :data:`SEPARATION`."""
    own, other = told.fpr95_in_dist_positive, told.fpr95_ood_positive
    return {
        "auroc": told.auroc.value,
        "low": told.auroc.low,
        "high": told.auroc.high,
        "interval": told.auroc.interval,
        "fpr95_in_dist_positive": own.value,
        "fpr95_in_dist_positive_low": own.low,
        "fpr95_in_dist_positive_high": own.high,
        "fpr95_ood_positive": other.value,
        "fpr95_ood_positive_low": other.low,
        "fpr95_ood_positive_high": other.high,
        "fpr95_interval": own.interval,
        "n_in_dist": n_in_dist,
        "n_probe": n_probe,
    }


def mean_by(rows: Sequence[Mapping[str, Any]], key: str, value: str) -> dict[str, float]:
    """Mean of one column by another, in the order of its first rows."""
    found: dict[str, list[float]] = {}
    for r in rows:
        found.setdefault(r[key], []).append(r[value])
    return {name: float(np.mean(values)) for name, values in found.items()}


def mean_gaps(subject: Subject) -> dict[str, float]:
    """Accuracy lost on each probe set, mean over models, as a fraction, on the shared classes."""
    found: dict[str, list[float]] = {}
    for g in subject.found.gaps:
        if (g.metric, g.label_space) == ("accuracy", "shared") and g.gap.defined:
            found.setdefault(g.probe, []).append(g.gap.value)
    return {probe: float(np.mean(values)) for probe, values in found.items()}


def association(subject: Subject, by_set: Mapping[str, float]) -> tuple[float, float, int] | None:
    """(Spearman's rho, p, sets) of a number per probe set with the accuracy lost there; ``None`` with too few sets."""
    gaps = mean_gaps(subject)
    sets = [s for s in by_set if s in gaps]
    values, lost = [by_set[s] for s in sets], [gaps[s] for s in sets]
    if len(sets) < FEWEST_SETS or len(set(values)) < 2 or len(set(lost)) < 2:
        return None
    rho, p = spearmanr(values, lost)
    return float(rho), float(p), len(sets)


def _best(rows: Sequence[Mapping[str, Any]]) -> str:
    scores = mean_by(rows, "score", "auroc")
    best = max(scores, key=lambda name: scores[name])
    own = [r for r in rows if r["score"] == best]
    by_set = mean_by(own, "probe", "auroc")
    most, least = (pick(by_set, key=lambda name: by_set[name]) for pick in (max, min))
    clearest = max((r for r in own if r["probe"] == most), key=lambda r: r["auroc"])
    sets = "1 set" if len(by_set) == 1 else f"{len(by_set)} sets"
    text = (
        f"{SCORES[best].title} tells unfamiliar images best (mean AUROC {scores[best]:.2f} over "
        f"{len({r['model'] for r in own})} models and {sets}): most clearly {most}, {by_set[most]:.2f} "
        f"({clearest['model']} {clearest['auroc']:.2f} [{clearest['low']:.2f}, {clearest['high']:.2f}])"
    )
    return text + (f", least {least}, {by_set[least]:.2f}." if least != most else ".")


def _association(subject: Subject, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    scores = mean_by(rows, "score", "auroc")
    best = max(scores, key=lambda name: scores[name])
    found = association(subject, mean_by([r for r in rows if r["score"] == best], "probe", "auroc"))
    if found is None:
        return []
    rho, p, n = found
    return [
        f"Sets that look more unfamiliar by {SCORES[best].title} {'lose more' if rho > 0 else 'do not lose more'} "
        f"accuracy: rank correlation {rho:.2f} over {n} probe sets (p = {p:.2g}), an association."
    ]


def _shortened(notes: Sequence[str], most: int = 3) -> list[str]:
    more = len(notes) - most
    return [
        *notes[:most],
        *([f"and {more} more OOD scores that are not defined, for such reasons"] if more > 0 else []),
    ]
