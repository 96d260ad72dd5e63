"""Accuracy without labels: every estimator on every set, and how far it was off where the labels are known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradlens.errors import InputError
from gradlens.figures.estimates import estimates as estimates_figure
from gradlens.figures.unlabelled import unlabelled as unlabelled_figure
from gradlens.records import Estimate
from gradlens.shift.store import safe_stem
from gradlens.shift.tables import percent
from gradlens.shift.temperature import fit_temperature
from gradlens.shift.unlabelled import (
    ESTIMATORS,
    Guess,
    Record,
    Side,
    agreement_line,
    chosen_elsewhere,
    error_elsewhere,
    errors_by_set,
    estimate,
    normalised_nuclear_norm,
    nuclear_norm,
    side_of,
    track_record,
)
from gradlens.workflows.measure.analyses.analysis import Answer, Outcome, Subject, analysis
from gradlens.workflows.measure.analyses.ood import mean_by

ESTIMATES = (
    *("model", "dataset", "method", "probabilities", "estimate", "low", "high", "interval", "n", "n_in_dist"),
    *("accuracy", "error", "track_record_mae", "detail", "assumption"),
)
TRACK_RECORD = (
    *("method", "probabilities", "sets", "estimates", "undefined", "mae", "low", "high", "interval"),
    *("bias", "worst", "covered"),
)
NO_PROBABILITIES = "needs probabilities, only hard predictions are there"
ON_A_LINE = 0.5  # R^2 of agreement below which it is said that there is no line


@dataclass(frozen=True)
class _Answers:
    """One model's sides: in distribution, on labelled sets and on unlabelled ones; its temperature, or why none."""

    model: str
    in_dist: Side
    sets: dict[str, Side]
    temperature: float | None
    reason: str

    def kinds(self) -> Iterator[tuple[str, float | None]]:
        """The kinds of probabilities: raw, and divided by the temperature."""
        yield "raw", 1.0
        yield "calibrated", self.temperature


@analysis(
    "unlabelled",
    "Accuracy without labels",
    "What the accuracy would be estimated to be without labels, by every method, and how far each is off.",
)
def of_subject(subject: Subject) -> Outcome:
    """Estimates of every model on every probe set, labels hidden, and on every unlabelled set."""
    evidence = subject.evidence
    targets = [*subject.probes, *(s.name for s in evidence.unlabelled)]
    if not targets:
        return Outcome(not_done="estimates need a set to estimate on: --probe SOURCE or --unlabelled SOURCE")
    models = [_answers(subject, name) for name in subject.models]
    if not all(len(m.in_dist) for m in models):
        return Outcome(not_done="the in-distribution set has no labelled image to learn from")
    guesses = [g for m in models for g in _alone(m, targets, subject)]
    guesses += _calibrated_on_sets(models, targets, subject)
    together, notes = _together(models, targets, subject)
    guesses += together
    order = {name: i for i, name in enumerate(subject.models)}
    kept = {name: i for i, name in enumerate(targets)}
    rank = {name: i for i, name in enumerate(ESTIMATORS)}
    guesses.sort(key=lambda g: (order[g.model], kept[g.dataset], rank[g.method], g.probabilities != "raw"))
    errors = errors_by_set(guesses)
    records = track_record(guesses, subject.request.confidence, subject.runtime.seed)
    notes = [*(f"{m.model}: no calibrated probabilities ({m.reason})" for m in models if m.reason), *notes]
    findings = [*_on_unlabelled(subject, guesses, records), *_unfamiliar(subject), *_on_record(guesses, records)]
    return Outcome(
        tables={
            "estimates.csv": (ESTIMATES, [_row(g, errors.get(g.way, {})) for g in guesses]),
            "track_record.csv": (TRACK_RECORD, [_record_row(r) for r in records]),
        },
        figures=[
            *([("estimates", lambda: estimates_figure(guesses, records))] if _drawable(guesses) else []),
            *(
                (f"unlabelled-{safe_stem(s.name)}", lambda s=s: unlabelled_figure(s.name, guesses, records))
                for s in evidence.unlabelled
                if any(g.dataset == s.name and g.estimate.defined for g in guesses)
            ),
        ],
        findings=findings,
        notes=[*notes, *_coverage(records)],
        answers=_size(subject, guesses, records),
    )


def _answers(subject: Subject, model: str) -> _Answers:
    said = subject.evidence.predictions
    in_dist = side_of(said[model, subject.in_dist], labelled=True)
    sets = {name: side_of(said[model, name], labelled=True) for name in subject.probes}
    sets |= {s.name: side_of(said[model, s.name], labelled=False) for s in subject.evidence.unlabelled}
    if in_dist.logits is None or in_dist.truth is None:
        return _Answers(model, in_dist, sets, None, "")
    known = in_dist.truth >= 0
    try:
        temperature = fit_temperature(in_dist.logits[known], in_dist.truth[known])
    except InputError as err:
        return _Answers(model, in_dist, sets, None, str(err))
    return _Answers(model, in_dist, sets, temperature, "")


def _alone(m: _Answers, targets: Sequence[str], subject: Subject) -> Iterator[Guess]:
    """What the estimators say that need one model and two sets."""
    for kind, temperature in (("none", 1.0), *m.kinds()):
        needs = "predictions" if kind == "none" else "probabilities"
        detail = f"temperature {temperature:.4g}" if kind == "calibrated" and temperature is not None else ""
        here = _scaled(m.in_dist, temperature)
        for target in targets:
            # one temperature for both sides: a threshold set on one kind of probabilities means nothing on the other
            side = _scaled(m.sets[target], temperature).hidden
            for name, one in ESTIMATORS.items():
                if one.needs != needs:
                    continue
                try:
                    if temperature is None:
                        raise InputError(m.reason or NO_PROBABILITIES)
                    (found,) = estimate(one, here, side, **_settings(subject))
                except InputError as err:
                    found = Estimate.undefined(f"not defined: {err}", len(side))
                yield Guess(m.model, target, name, kind, found, _accuracy(m.sets[target]), len(m.in_dist), detail)


def _scaled(side: Side, temperature: float | None) -> Side:
    return side.at(1.0 if temperature is None else temperature)


def _calibrated_on_sets(models: Sequence[_Answers], targets: Sequence[str], subject: Subject) -> Iterator[Guess]:
    """What the nuclear norm says: a line through the labelled sets other than the one it is asked about."""
    for m in models:
        labelled = {name: s for name, s in {subject.in_dist: m.in_dist, **m.sets}.items() if s.truth is not None}
        for kind, temperature in m.kinds():
            norms = {
                name: normalised_nuclear_norm(_scaled(s, temperature))
                for name, s in {**labelled, **m.sets}.items()
                if len(s) and s.logits is not None and temperature is not None
            }
            for target in targets:
                side = m.sets[target]
                others = [name for name in labelled if name != target and name in norms]
                try:
                    if temperature is None:
                        raise InputError(m.reason or NO_PROBABILITIES)
                    if target not in norms:
                        raise InputError(NO_PROBABILITIES if len(side) else "no image")
                    found = nuclear_norm(
                        [norms[name] for name in others],
                        [_accuracy(labelled[name]) for name in others],
                        norms[target],
                        len(side),
                        subject.request.confidence,
                    )
                except InputError as err:
                    found = Estimate.undefined(f"not defined: {err}", len(side))
                detail = f"line through {len(others)} labelled sets"
                yield Guess(m.model, target, "nuclear_norm", kind, found, _accuracy(side), len(m.in_dist), detail)


def _together(models: Sequence[_Answers], targets: Sequence[str], subject: Subject) -> tuple[list[Guess], list[str]]:
    """What the estimators say that need several models, on the images that all of them have an answer to."""
    guesses, notes = [], []
    seen = _common([m.in_dist for m in models])
    for target in targets:
        sides = [m.sets[target] for m in models]
        common = _common(sides)
        told = ""
        if len(models) >= 3 and len(common[0]) and len(seen[0]):
            slope, r2 = agreement_line(seen, [s.hidden for s in common])
            pairs = len(models) * (len(models) - 1) // 2
            told = f"agreement of {pairs} pairs: slope {slope:.3g}, R² {r2:.3g}"
            if not r2 >= ON_A_LINE:
                notes.append(
                    f"{target}: the models' agreement lies on no line with that in distribution (R² {r2:.2f} over "
                    f"{pairs} pairs), so what ALine assumes cannot be seen to hold there"
                )
        for name, one in ESTIMATORS.items():
            if one.needs != "models":
                continue
            try:
                if len(models) < 3:
                    raise InputError(f"agreement needs at least three models, got {len(models)}")
                found = estimate(one, seen, [s.hidden for s in common], **_settings(subject))
            except InputError as err:
                found = [Estimate.undefined(f"not defined: {err}", len(s)) for s in sides]
            guesses += [
                Guess(m.model, target, name, "none", e, _accuracy(m.sets[target]), len(seen[0]), told)
                for m, e in zip(models, found, strict=True)
            ]
    return guesses, notes


def _common(sides: Sequence[Side]) -> list[Side]:
    shared = set.intersection(*(set(s.ids) for s in sides))
    return [s.take(np.array([i for i, name in enumerate(s.ids) if name in shared], dtype=np.int64)) for s in sides]


def _settings(subject: Subject) -> dict[str, Any]:
    request = subject.request
    return {"confidence": request.confidence, "resamples": request.resamples, "seed": subject.runtime.seed}


def _accuracy(side: Side) -> float:
    return float(side.right.mean()) if side.truth is not None and len(side) else math.nan


def _drawable(guesses: Sequence[Guess]) -> bool:
    return any(not math.isnan(g.error) for g in guesses)


# ---------------------------------------------------------------------------------------------- tables


def _row(g: Guess, errors: Mapping[str, float]) -> dict[str, object]:
    e = g.estimate
    return {
        "model": g.model,
        "dataset": g.dataset,
        "method": g.method,
        "probabilities": g.probabilities,
        "estimate": e.value,
        "low": e.low,
        "high": e.high,
        "interval": e.interval,
        "n": e.n,
        "n_in_dist": g.n_in_dist,
        "accuracy": g.accuracy,
        "error": g.error,
        "track_record_mae": error_elsewhere(errors, g.dataset),
        "detail": g.detail,
        "assumption": ESTIMATORS[g.method].assumption,
    }


def _record_row(r: Record) -> dict[str, object]:
    return {
        "method": r.method,
        "probabilities": r.probabilities,
        "sets": r.sets,
        "estimates": r.estimates,
        "undefined": r.undefined,
        "mae": r.mae.value,
        "low": r.mae.low,
        "high": r.mae.high,
        "interval": r.mae.interval,
        "bias": r.bias,
        "worst": r.worst,
        "covered": r.covered,
    }


# ---------------------------------------------------------------------------------------------- words


def title_of(method: str, probabilities: str) -> str:
    """``"ATC, entropy (raw probabilities)"``."""
    kind = "" if probabilities == "none" else f" ({probabilities} probabilities)"
    return f"{ESTIMATORS[method].title}{kind}"


def _best(records: Sequence[Record]) -> Record | None:
    """The way with the smallest error among those that could say something everywhere, the naive one aside."""
    ways = [r for r in records if r.mae.defined and not r.undefined and r.method != "in_dist_accuracy"]
    return ways[0] if ways else None


def _on_unlabelled(subject: Subject, guesses: Sequence[Guess], records: Sequence[Record]) -> list[str]:
    """A sentence for each unlabelled set."""
    best = _best(records)
    found = []
    for info in subject.evidence.unlabelled:
        own = [g for g in guesses if g.dataset == info.name and g.estimate.defined]
        if best is None:
            values = [g.estimate.value for g in own if g.method != "in_dist_accuracy"]
            if values:
                found.append(
                    f"{info.name} ({info.n:,} images without labels): accuracy is estimated from "
                    f"{percent(min(values))} to {percent(max(values))} %; no labelled probe set tells which to trust."
                )
            continue
        told = sorted((g for g in own if g.way == (best.method, best.probabilities)), key=lambda g: -g.estimate.value)
        if not told:
            continue
        first, last = told[0], told[-1]
        text = f"{info.name} ({info.n:,} images without labels): {first.model} is estimated at {_told(first)}"
        if len(told) > 1:
            text += f", {last.model} at {_told(last)}"
        found.append(
            f"{text} by {title_of(best.method, best.probabilities)}, which was off by {percent(best.mae.value)} points "
            f"on average on the {best.sets} labelled probe {_sets(best.sets)} of this run."
        )
    return found


def _unfamiliar(subject: Subject) -> list[str]:
    """How many images of the unlabelled sets look like nothing the models know, beside the labelled probe sets."""
    told = subject.settled.get("ood")
    if told is None or "ood.csv" not in told.tables:
        return []
    rows = [r for r in told.tables["ood.csv"][1] if r["score"] == "msp"]
    share = {name: 1 - passing for name, passing in mean_by(rows, "probe", "fpr95_in_dist_positive").items()}
    labelled = [share[name] for name in subject.probes if name in share]
    beside = (
        f"; on the labelled probe sets {percent(min(labelled))} to {percent(max(labelled))} % do" if labelled else ""
    )
    return [
        f"{percent(share[s.name])} % of the images of {s.name} look less familiar than 95 % of "
        f"those of {subject.in_dist} (largest probability, mean over models){beside}. Every estimate takes each "
        "image to show a class that the model knows; those that do not are counted as if they could be right."
        for s in subject.evidence.unlabelled
        if s.name in share
    ]


def _told(g: Guess) -> str:
    return f"{percent(g.estimate.value)} % [{percent(g.estimate.low)}, {percent(g.estimate.high)}]"


def _sets(n: int) -> str:
    return "set" if n == 1 else "sets"


def _on_record(guesses: Sequence[Guess], records: Sequence[Record]) -> list[str]:
    """Which way came closest where labels are known, and whether that is any better than guessing."""
    best = _best(records)
    if best is None:
        return []
    naive = next(r for r in records if r.method == "in_dist_accuracy")
    ways = sum(r.mae.defined and not r.undefined for r in records) - 1
    found = [
        f"With the labels hidden, {title_of(best.method, best.probabilities)} came closest of {ways} ways to estimate "
        f"accuracy: off by {percent(best.mae.value)} points on average{_range(best)} over {best.sets} labelled probe "
        f"{_sets(best.sets)}, against {percent(naive.mae.value)} for the guess that nothing has changed."
    ]
    honest = chosen_elsewhere(guesses)
    if not math.isnan(honest):
        found.append(
            f"Chosen by the other sets each time, the closest way is off by {percent(honest)} points on average: that "
            "is what to expect on a set without labels that is shifted like these."
        )
    over = [r for r in records if r.mae.defined and r.bias > 0]
    found.append(
        f"{len(over)} of {sum(r.mae.defined for r in records)} ways overestimate accuracy on average; "
        f"{title_of(best.method, best.probabilities)} {'over' if best.bias > 0 else 'under'}estimates it by "
        f"{percent(abs(best.bias))} points."
    )
    return found


def _range(r: Record) -> str:
    return f" [{percent(r.mae.low)}, {percent(r.mae.high)}]" if r.sets > 1 else ""


def _coverage(records: Sequence[Record]) -> list[str]:
    """What the intervals do not cover."""
    best = _best(records)
    if best is None:
        return []
    return [
        f"intervals of estimates without labels cover the sampling of images, not a wrong assumption: those of "
        f"{title_of(best.method, best.probabilities)} contain the accuracy in {percent(best.covered)} % of "
        f"{best.estimates} cases"
    ]


def _size(subject: Subject, guesses: Sequence[Guess], records: Sequence[Record]) -> tuple[Answer, ...]:
    """What question 2 is told of the unlabelled sets."""
    best = _best(records)
    parts = []
    for info in subject.evidence.unlabelled:
        own = [g for g in guesses if g.dataset == info.name and g.estimate.defined]
        if best is not None:
            own = [g for g in own if g.way == (best.method, best.probabilities)]
        if own:
            widest = max(g.estimate.high - g.estimate.low for g in own)
            by = "" if best is None else f" of {title_of(best.method, best.probabilities)}"
            parts.append(
                f"{info.name}: {info.n:,} images without labels, intervals{by} up to {percent(widest)} points wide."
            )
    return (Answer(2, " ".join(parts), ("estimates.csv",)),) if parts else ()
