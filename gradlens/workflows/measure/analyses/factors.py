"""What changed: how the loss goes along with what the images were made with, where they say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from gradlens.errors import InputError
from gradlens.figures import factors as figure
from gradlens.shift import factors, intervals
from gradlens.shift.sides import Sides, sides_of
from gradlens.shift.store import safe_stem
from gradlens.workflows.measure.analyses.analysis import Outcome, Subject, analysis
from gradlens.workflows.measure.evidence import SetInfo

LEVELS = (
    *("model", "in_dist", "probe", "factor", "level", "n", "n_in_dist", "in_dist_value", "probe_value"),
    *("drop", "low", "high", "interval"),
)
TESTS = (
    *("model", "in_dist", "probe", "factor", "outcome", "n", "levels", "df", "statistic", "p", "p_holm", "family"),
    *("r2", "note"),
)
SPLIT = ("model", "in_dist", "probe", "factor", "changed", "n", "part", "low", "high", "interval", "drop")
MOST_RESAMPLES = 2000  # the ends of the parts' intervals are stable to half a point by then


def sides(subject: Subject, probe: SetInfo) -> Sides:
    """What all models of a run got right in distribution and on a probe set."""
    said = subject.evidence.predictions
    return sides_of(
        [said[m, subject.in_dist] for m in subject.models],
        [said[m, probe.name] for m in subject.models],
        paired=probe.paired_with == subject.in_dist,
    )


@analysis("factors", "What changed", "How each model's loss goes along with what the images were made with.")
def of_subject(subject: Subject) -> Outcome:
    """Levels, tests and the split of the drop, for every probe set whose images carry factors."""
    images = subject.evidence.images
    carrying = [
        p for p in subject.evidence.probes if p.name in images and any(s.factors for s in images[p.name].samples)
    ]
    if not carrying:
        return Outcome(
            not_done="no probe set says what its images were made with: factors are further columns of its images.csv"
            if images
            else "predictions from files do not say what the images were made with; run the models on image sets"
        )
    levels: list[dict[str, Any]] = []
    tests: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    figures, notes, left_out = [], [], {}
    several: list[str] = []
    unusual: list[str] = []
    depends: list[tuple[int, str]] = []
    for probe in carrying:
        try:
            both = sides(subject, probe)
        except InputError as err:
            notes.append(f"factors of {probe.name}: {err}")
            continue
        own = {name: {s.id: s.factors for s in images[name].samples} for name in (subject.in_dist, probe.name)}
        found, skipped = factors.factors_of(
            [own[subject.in_dist][i] for i in both.ids0], [own[probe.name][i] for i in both.ids1]
        )
        found = factors.with_typicality(found, both)
        left_out.update({(name, reason.split(",")[-1]): (name, reason) for name, reason in skipped.items()})
        where = {"in_dist": subject.in_dist, "probe": probe.name}
        for f in found:
            levels += [_level_row(level, where) for level in factors.by_level(both, f, subject.request.confidence)]
        tested = factors.score_tests(both, found)
        tests += [asdict(t) | where for t in tested]
        split = factors.split(
            both,
            found,
            confidence=subject.request.confidence,
            resamples=min(subject.request.resamples, MOST_RESAMPLES),
            seed=subject.runtime.seed,
        )
        changed = () if split is None else split.factors
        depends += _differs(tested, [f for f in found if f.name not in changed], both, probe.name, subject)
        if split is None:
            continue
        drops = dict(zip(both.models, map(float, both.drop), strict=True))
        mean = float(np.mean(list(drops.values())))
        told = [*split.parts, *(split.mean if len(both.models) > 1 else ())]
        parts += [_part_row(p, where, drops.get(p.model, mean)) for p in told]
        tied = [f"{name}: {why}" for name, why in split.left_out.items() if "told apart" in why]
        notes += [f"split of the loss on {probe.name}: {text}" for text in tied]
        names = {f.name: _phrase(f) for f in found}
        if len(split.factors) > 2:
            several.append(_of_several(split.mean, names, mean, probe.name, len(both.models)))
            shown = {f.name: f"unusual {f.stands_for}" for f in found if f.stands_for}
            points = [
                figure.PartPoint(p.model, shown.get(p.factor, p.factor), p.value, p.low, p.high) for p in split.parts
            ]
            made = split.parts[0].interval
            figures.append(
                (
                    f"factor_split-{safe_stem(probe.name)}",
                    lambda points=points, name=probe.name, drops=drops, made=made: figure.factor_split(
                        points, name, drops, made
                    ),
                )
            )
        for f in found:
            if f.stands_for and f.name in split.factors:
                unusual.append(_of_unusual(f, split, both, probe.name, subject))
    if not levels:
        return Outcome(notes=notes, not_done="the factors of the probe sets' images do not vary")
    notes += [f"factor {name} is left out: {reason}" for name, reason in left_out.values()]
    strongest = [text for _, text in sorted(depends, key=lambda d: (-d[0], d[1]))[:3]]
    return Outcome(
        tables={
            "factors.csv": (LEVELS, levels),
            "factor_tests.csv": (TESTS, tests),
            **({"factor_split.csv": (SPLIT, parts)} if parts else {}),
        },
        figures=figures,
        findings=[*several, *unusual, *strongest],
        notes=notes,
    )


def _phrase(f: factors.Factor) -> str:
    return f"a {f.stands_for} unusual for the class" if f.stands_for else f.name


def _points(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]".replace("-", "−")


def _level_row(level: factors.Level, where: dict[str, str]) -> dict[str, Any]:
    return asdict(level) | {"in_dist_value": level.in_dist, "probe_value": level.probe} | where


def _part_row(part: factors.Part, where: dict[str, str], drop: float) -> dict[str, Any]:
    row = asdict(part)
    return row | where | {"part": row["value"], "drop": drop}


def _of_several(mean: Sequence[factors.Part], names: Mapping[str, str], drop: float, probe: str, models: int) -> str:
    told = [f"{_points(p.value, p.low, p.high)} go with {names[p.factor]}" for p in mean[:-1]]
    rest = mean[-1]
    who = "the model loses" if models == 1 else f"{models} models lose on average"
    return (
        f"Of the {100 * drop:.1f} points that {who} on {probe}, {', '.join(told[:4])}"
        + (f", less with {', '.join(names[p.factor] for p in mean[4:-1])}" if len(told) > 4 else "")
        + f"; {_points(rest.value, rest.low, rest.high)} with no recorded change."
    )


def _of_unusual(f: factors.Factor, split: factors.Split, both: Sides, probe: str, subject: Subject) -> str:
    """Which model loses most, and least, to what is unusual for its class."""
    own = sorted((p for p in split.parts if p.factor == f.name), key=lambda p: (-p.value, p.model))
    most, least = own[0], own[-1]
    drops = dict(zip(both.models, both.drop, strict=True))
    text = (
        f"Of {most.model}'s {100 * drops[most.model]:.1f} points on {probe}, "
        f"{_points(most.value, most.low, most.high)} go with {_phrase(f)} "
        f"({most.changed} of {most.n} images changed it)"
    )
    if len(own) == 1:
        return f"{text}."
    at, column = split.factors.index(f.name), {m: i for i, m in enumerate(both.models)}
    difference = most.value - least.value
    draws = split.draws[:, at, column[most.model]] - split.draws[:, at, column[least.model]]
    low, high = intervals.percentile(draws, difference, subject.request.confidence)
    return (
        f"{text}, the most of {len(own)} models; of {least.model}'s {100 * drops[least.model]:.1f}, the least, "
        f"{_points(least.value, least.low, least.high)}: a difference of {_points(difference, low, high)}."
    )


def _differs(
    tested: Sequence[factors.ScoreTest], found: Sequence[factors.Factor], both: Sides, probe: str, subject: Subject
) -> list[tuple[int, str]]:
    """The unchanged factor whose levels differ in what is lost for most models, and between which levels."""
    level = 1 - subject.request.confidence
    counts = {
        f.name: sum(t.p_holm < level for t in tested if t.factor == f.name)
        for f in found
        if not f.stands_for and not any(g.stands_for == f.name for g in found)
    }
    if not counts or max(counts.values()) * 2 <= len(both.models):
        return []
    name = min(counts, key=lambda n: (-counts[n], n))
    f = next(f for f in found if f.name == name)
    outcome = both.lost if both.partner is not None else 1.0 - both.right1
    at = np.array(f.probe, dtype=object)
    means = {v: float(outcome[at == v].mean()) for v in sorted(set(f.probe)) if (at == v).sum() >= factors.FEWEST}
    if len(means) < 2:
        return []
    worst, best = max(means, key=lambda v: means[v]), min(means, key=lambda v: means[v])
    family = max(t.family for t in tested)
    what = "lost" if both.partner is not None else "wrong"
    ends = " and ".join(f"{100 * means[v]:.1f} at {v}".replace("-", "−") for v in (worst, best))
    text = (
        f"On {probe} what is {what} differs by {name} for {counts[name]} of {len(both.models)} models "
        f"(robust score tests, Holm over {family} factors): on average {ends} (points)."
    )
    return [(counts[name], text)]
