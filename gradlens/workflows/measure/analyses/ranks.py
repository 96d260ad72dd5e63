"""Which models are better than which, and whether a shift changes that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gradlens.figures import ranks as figure
from gradlens.figures import style
from gradlens.shift import gap, intervals, ranks
from gradlens.shift.metrics import Scored, on_classes
from gradlens.workflows.measure.analyses.analysis import Answer, Outcome, Subject, analysis
from gradlens.workflows.measure.evidence import SetInfo

RANKS = (
    *("model", "dataset", "n", "models", "accuracy", "rank", "low", "high", "interval", "best", "worst", "range"),
    *("groups", "change", "change_low", "change_high", "change_interval"),
)
RANK_CORRELATION = (
    *("in_dist", "probe", "models", "n_in_dist", "n_probe", "classes", "paired", "tau", "low", "high", "interval"),
)
MOST_GROUPS = 6  # that are named in a sentence; the table has all


@analysis("ranks", "Ranks", "Which models are told apart on each set, and whether the shift changes their order.")
def of_subject(subject: Subject) -> Outcome:
    """Ranks on each set, and how they move from the in-distribution set to each probe set."""
    if len(subject.models) < 2:
        return Outcome(not_done="one model has no rank; give two or more with --model")
    rows, notes = [], []
    told: dict[str, tuple[int, int]] = {}
    named: dict[str, list[list[str]]] = {}
    for s in subject.evidence.sets:
        own, told[s.name], named[s.name] = _on_set(subject, s)
        rows += own
        largest = max(len(subject.evidence.predictions[m, s.name]) for m in subject.models)
        if own[0]["n"] < min(largest, s.n):
            notes.append(f"{s.name}: ranks rest on the {own[0]['n']:,} images that every model was scored on")
    correlations = []
    for probe in subject.evidence.probes:
        own = [r for r in rows if r["dataset"] == probe.name]
        correlations.append(_moved(subject, probe, own, all(told[n][0] for n in (subject.in_dist, probe.name))))
    drawn = [figure.Rank(r["model"], r["dataset"], r["rank"], r["low"], r["high"], r["best"], r["worst"]) for r in rows]
    return Outcome(
        tables={"ranks.csv": (RANKS, rows), "rank_correlation.csv": (RANK_CORRELATION, correlations)},
        figures=[("ranks", lambda: figure.ranks(drawn, subject.request.confidence))],
        findings=[_main(subject, told, correlations), *_moves(subject, rows), *_groups(subject, told, named)],
        notes=notes,
        answers=[_answer(subject, told)],
    )


def _names(subject: Subject) -> list[str]:
    """The models in an order of their own, so that the draws do not depend on the order they were given in."""
    return sorted(subject.models)


def _scored(subject: Subject, dataset: str, classes: Sequence[str] | None) -> list[Scored]:
    said = [subject.evidence.predictions[m, dataset] for m in _names(subject)]
    return [on_classes(p if classes is not None else replace(p, logits=None), classes) for p in said]


def _right(scored: Sequence[Scored]) -> tuple[list[str], np.ndarray]:
    """(ids, (M, n) right or wrong) of the images that every model was scored on, in the order of their ids."""
    common = set(scored[0].ids).intersection(*(s.ids for s in scored[1:]))
    ids = sorted(common)
    right = np.zeros((len(scored), len(ids)), dtype=np.int8)
    for row, s in enumerate(scored):
        right[row] = s.correct[[i for i, name in enumerate(s.ids) if name in common]]
    return ids, right


def _on_set(subject: Subject, s: SetInfo) -> tuple[list[dict[str, Any]], tuple[int, int], list[list[str]]]:
    """Rows of ``ranks.csv``; (pairs told apart, pairs); the groups that are not."""
    confidence, models = subject.request.confidence, _names(subject)
    _, right = _right(_scored(subject, s.name, None))
    n = right.shape[1]
    tests = [r for r in subject.found.pairs if r["dataset"] == s.name]
    ahead = ranks.better(tests, 1 - confidence)
    accuracy = right.mean(axis=1) if n else np.full(len(models), math.nan)
    order = sorted(range(len(models)), key=lambda i: (-accuracy[i], models[i]))
    found = ranks.groups([models[i] for i in order], ahead)
    different = sum(map(len, ahead.values()))
    if different:
        point = ranks.ranks(accuracy)
        drawn = ranks.ranks(ranks.resampled_right([right], subject.request.resamples, subject.runtime.seed)[0])
        estimates = [ranks.rank_interval(int(point[i]), drawn[:, i], n, confidence) for i in range(len(models))]
    rows = []
    for i, model in enumerate(models):
        best, worst = ranks.rank_range(model, ahead)
        row = dict.fromkeys(RANKS, math.nan) | {"change_interval": "" if s is subject.evidence.in_dist else None}
        row |= {"model": model, "dataset": s.name, "n": n, "models": len(models), "accuracy": float(accuracy[i])}
        row |= {"best": best, "worst": worst, "range": intervals.label("Holm-corrected McNemar", confidence)}
        row |= {"groups": " ".join(str(g) for g, names in enumerate(found, 1) if model in names)}
        row["interval"] = f"no ranking: none of {len(tests)} pairs is told apart"
        if different:
            e = estimates[i]
            row |= {"rank": e.value, "low": e.low, "high": e.high, "interval": e.interval}
        rows.append(row)
    return rows, (different, len(tests)), found


def _moved(subject: Subject, probe: SetInfo, rows: Sequence[dict[str, Any]], told: bool) -> dict[str, Any]:
    """Adds the changes of rank to the rows of a probe set, and returns its row of ``rank_correlation.csv``."""
    confidence, said = subject.request.confidence, subject.evidence.predictions
    sides = [(said[m, subject.in_dist], said[m, probe.name]) for m in _names(subject)]
    shared = [gap.shared_classes(a, b) for a, b in sides]
    # as in gaps.csv: everything where both sides have the same classes, else what both have and every model knows
    same = all(gap.same_classes(a, b) for a, b in sides)
    classes = None if same else tuple(c for c in shared[0] if all(c in own for own in shared))
    head: dict[str, Any] = {
        "in_dist": subject.in_dist,
        "probe": probe.name,
        "models": len(subject.models),
        "paired": False,
    }
    head |= {"classes": len(shared[0]) if classes is None else len(classes), "n_in_dist": 0, "n_probe": 0}
    reason = "" if told else "no ranking on one of the two sets"
    if classes == ():
        reason = "no class in common"
    if not reason:
        one, two = _scored(subject, subject.in_dist, classes), _scored(subject, probe.name, classes)
        (ids0, right0), (ids1, right1) = _right(one), _right(two)
        units = None
        if probe.paired_with == subject.in_dist:
            units = _scenes(ids0, right0, ids1, right1, dict(zip(two[0].ids, two[0].pairs, strict=True)))
        settings: Any = {"resamples": subject.request.resamples, "seed": subject.runtime.seed}
        if units is not None:
            right0, right1, head["n_probe"] = units
            head |= {"paired": True, "n_in_dist": right0.shape[1]}
            drawn0, drawn1 = ranks.resampled_right([right0, right1], **settings)
        else:
            head |= {"n_in_dist": right0.shape[1], "n_probe": right1.shape[1]}
            drawn0 = ranks.resampled_right([right0], **settings, stream=0)[0]
            drawn1 = ranks.resampled_right([right1], **settings, stream=1)[0]
        if not (right0.shape[1] and right1.shape[1]):
            reason = "no image of a shared class that every model was scored on"
    if reason:
        for row in rows:
            row["change_interval"] = f"not defined: {reason}"
        nothing = {"tau": math.nan, "low": math.nan, "high": math.nan, "interval": f"not defined: {reason}"}
        return head | nothing
    score0, score1 = right0.sum(axis=1), right1.sum(axis=1)
    points = ranks.ranks(score1) - ranks.ranks(score0)
    drawn = ranks.ranks(drawn1) - ranks.ranks(drawn0)
    for i, row in enumerate(rows):
        e = ranks.rank_interval(int(points[i]), drawn[:, i], head["n_probe"], confidence)
        row |= {"change": e.value, "change_low": e.low, "change_high": e.high, "change_interval": e.interval}
    e = ranks.tau_interval(score0, score1, drawn0, drawn1, confidence)
    return head | {"tau": e.value, "low": e.low, "high": e.high, "interval": e.interval}


def _scenes(
    ids0: Sequence[str], right0: np.ndarray, ids1: Sequence[str], right1: np.ndarray, pairs: dict[str, str | None]
) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Both sides by scene, and how many probe images they hold; ``None`` where too few are paired (as for gaps)."""
    place = {name: i for i, name in enumerate(ids0)}
    partner = np.array([place.get(pairs[name] or "", -1) for name in ids1], dtype=np.int64)
    image = np.flatnonzero(partner >= 0)
    if not len(image) or len(image) < gap.ENOUGH_PAIRS * len(ids1):
        return None
    scenes, scene = np.unique(partner[image], return_inverse=True)
    times = np.bincount(scene)
    after = np.stack([np.bincount(scene, row[image], len(scenes)) for row in right1])
    return right0[:, scenes] * times, after.astype(np.int64), len(image)


# --- sentences -------------------------------------------------------------------------------------------------------


def _main(subject: Subject, told: dict[str, tuple[int, int]], correlations: Sequence[dict[str, Any]]) -> str:
    different, pairs = told[subject.in_dist]
    if pairs == 1:
        text = f"The two models are {'' if different else 'not '}told apart on {subject.in_dist} (McNemar)"
    elif different:
        text = f"{different} of {pairs} pairs of models are told apart on {subject.in_dist} (McNemar, Holm-corrected)"
    else:
        text = f"No ranking on {subject.in_dist}: none of {pairs} pairs of models is told apart (McNemar, Holm)"
    known = [c for c in correlations if not math.isnan(c["tau"])]
    if known:
        worst = min(known, key=lambda c: c["tau"])
        share = "the lowest rank correlation is that with" if len(known) > 1 else "rank correlation with"
        text += f"; {share} {worst['probe']}: Kendall's tau {_signed(worst['tau'])} "
        text += f"[{_signed(worst['low'])}, {_signed(worst['high'])}]"
    elif subject.probes:
        most = max(subject.probes, key=lambda p: told[p][0])
        if pairs == 1:
            text += f"; on {sum(told[p][0] for p in subject.probes)} of {len(subject.probes)} probe sets they are"
        else:
            text += f"; on the probe sets at most {told[most][0]} of {told[most][1]} ({most})"
    return text + "."


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _moves(subject: Subject, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Where the interval of a change of rank leaves out zero."""
    moved = [r for r in rows if r["change"] == r["change"] and (r["change_low"] > 0 or r["change_high"] < 0)]
    asked = [r for r in rows if r["change"] == r["change"]]
    if not asked:
        return []
    text = f"{len(moved)} of {len(asked)} changes of rank have an interval without 0"
    if moved:
        far = max(moved, key=lambda r: abs(r["change"]))
        places = abs(int(far["change"]))
        text += (
            f"; the largest: {far['model']} {'falls' if far['change'] > 0 else 'rises'} by {places} "
            f"{'place' if places == 1 else 'places'} on {far['dataset']} "
            f"[{_signed(far['change_low'])[:-3]}, {_signed(far['change_high'])[:-3]}]"
        )
    return [text + f" (bootstrap {100 * subject.request.confidence:g} %, each on its own)."]


def _groups(subject: Subject, told: dict[str, tuple[int, int]], named: dict[str, list[list[str]]]) -> list[str]:
    """Who is not told apart: in distribution by name, on the probe sets how many from the best."""
    short = style.display_names(subject.models)
    found = []
    several = [g for g in named[subject.in_dist] if len(g) > 1]
    if told[subject.in_dist][0] and several:
        more = [f"{len(several) - MOST_GROUPS} more groups"] if len(several) > MOST_GROUPS else []
        shown = "; ".join([_some([short[m] for m in g]) for g in several[:MOST_GROUPS]] + more)
        found.append(f"On {subject.in_dist} these are not told apart: {shown}.")
    first = [f"{p} {len(named[p][0])}" for p in subject.probes if told[p][0]]
    if first:
        found.append(f"Models of the best model's group, of {len(short)}, on each probe set: {', '.join(first)}.")
    return found


def _some(names: Sequence[str], most: int = 8) -> str:
    if len(names) <= most:
        return ", ".join(names[:-1]) + f" and {names[-1]}"
    return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"


def _answer(subject: Subject, told: dict[str, tuple[int, int]]) -> Answer:
    without = [name for name, (different, _) in told.items() if not different]
    ranked = len(told) - len(without)
    text = f"A ranking is given on {ranked} of {len(told)} sets"
    if without:
        text += f"; on {_some(without) if len(without) > 1 else without[0]} no two models are told apart"
    return Answer(6, text + ".", ("ranks.csv", "rank_correlation.csv"))
