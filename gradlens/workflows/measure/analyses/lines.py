"""How accuracy after the shift goes with accuracy before it over many models, and which models lie off that line."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from gradlens.errors import NotFoundError
from gradlens.figures.shift_scatter import Curve, Point, shift_scatter
from gradlens.records import Estimate, GapReport
from gradlens.shift import intervals, lines
from gradlens.shift.pairs import holm
from gradlens.shift.tables import percent
from gradlens.workflows.measure.analyses.analysis import Answer, Outcome, Subject, analysis

LINES = (
    *("in_dist", "probe", "transform", "models", "families", "spread", "n_in_dist", "n_probe", "noise_share", "r2"),
    *("slope", "slope_low", "slope_high", "intercept", "intercept_low", "intercept_high", "interval"),
)
EFFECTIVE_ROBUSTNESS = (
    *("model", "family", "in_dist", "probe", "transform", "in_dist_value", "probe_value", "n_in_dist", "n_probe"),
    *("expected", "effective_robustness", "low", "high", "interval", "p", "p_holm", "baseline", "baseline_models"),
    *("extra_data",),
)
NOISY = 0.1  # share of the spread that is sampling noise, above which it is said


@dataclass(frozen=True)
class Zoo:
    """Accuracies of many models before and after shifts, and what is known of the models.

    Attributes:
        points: one per model and probe set; an estimate's ``n`` is 0 where the number of images is not known.
        families: of each model.
        extra_data: what a model was trained on beyond the others, where that is known.
        baseline: patterns of families and models whose line the others are held against; none: all other families.
    """

    points: Sequence[Point]
    families: Mapping[str, str]
    extra_data: Mapping[str, str] = field(default_factory=dict)
    baseline: Sequence[str] = ()
    confidence: float = 0.95
    resamples: int = 10_000
    seed: int = 0


def point(g: GapReport, confidence: float) -> Point:
    """Accuracy on both sides of a gap, on the images that the gap compares."""
    return Point(
        g.model,
        g.in_dist,
        g.probe,
        accuracy(g.in_dist_value, g.n_in_dist, confidence),
        accuracy(g.probe_value, g.n_probe, confidence),
    )


def accuracy(value: float, n: int, confidence: float) -> Estimate:
    """An accuracy with its exact interval; without one where the number of images is not known (0)."""
    if n < 1:
        return Estimate(value, value, value, 0, "")
    low, high = intervals.clopper_pearson(round(value * n), n, confidence)
    return Estimate(value, min(low, value), max(high, value), n, intervals.label("Clopper-Pearson", confidence))


@analysis("lines", "Lines over models", "How accuracy after the shift goes with accuracy before it, and who is off.")
def of_subject(subject: Subject) -> Outcome:
    """Lines through all models on every probe set."""
    gaps = [g for g in subject.found.gaps if (g.metric, g.label_space) == ("accuracy", "shared") and g.gap.defined]
    outcome = fit(
        Zoo(
            [point(g, subject.request.confidence) for g in gaps],
            {m: lines.family_of(m) for m in subject.models},
            baseline=subject.request.baseline,
            confidence=subject.request.confidence,
            resamples=subject.request.resamples,
            seed=subject.runtime.seed,
        )
    )
    if len(subject.models) < 2:
        return outcome
    return replace(outcome, answers=[*outcome.answers, _independent(subject)])


def fit(zoo: Zoo) -> Outcome:
    """Lines and effective robustness on every probe set that allows them.

    Raises:
        NotFoundError: a pattern of the baseline matches no family and no model.
    """
    _check_baseline(zoo)
    probes = list(dict.fromkeys(p.probe for p in zoo.points))
    if not probes:
        return Outcome(not_done="no probe set shares a class with the in-distribution set")
    table: list[dict[str, Any]] = []
    robust: list[dict[str, Any]] = []
    curves, refused, notes = {}, {}, []
    for probe in probes:
        own = sorted((p for p in zoo.points if p.probe == probe), key=lambda p: p.model)
        reason = lines.refusal([p.x.value for p in own])
        if reason:
            refused[probe] = reason
        for transform in lines.TRANSFORMS:
            rows, line = _line_rows(zoo, own, transform, reason)
            table += rows
            if not reason:
                robust += _robustness(zoo, own, transform)
                if line is not None and (transform == "probit" or probe not in curves):
                    curves[probe] = _curve(own, line, zoo.confidence)
        share = table[-1]["noise_share"]
        if not reason and share > NOISY:
            notes.append(
                f"{probe}: sampling noise makes {percent(share)} % of the variance of the models' in-distribution "
                "accuracies, and pulls the slope towards 0 by about that"
            )
    if len(refused) == len(probes):
        reasons = "; ".join(f"{reason} ({_some(own)})" for reason, own in _by_reason(refused).items())
        text = f"No line is drawn: {reasons}."
        return Outcome(not_done=f"no line is drawn: {reasons}", answers=[Answer(9, text, ("gaps.csv",))])
    notes += [f"{_some(own)}: no line is drawn; {reason}" for reason, own in _by_reason(refused).items()]
    families = len({zoo.families[p.model] for p in zoo.points})
    if families < 20:
        notes.append(f"intervals that draw families rest on {families} families; with so few they are too narrow")
    extra = sorted({p.model for p in zoo.points if zoo.extra_data.get(p.model)})
    if extra:
        notes.append(f"trained on extra data, and so not of the baseline: {_some(extra)}")
    fitted = [p for p in zoo.points if p.probe in curves]
    main = [r for r in table if r["interval"].startswith("t ") and r["transform"] == _main_scale(table, r["probe"])]
    return Outcome(
        tables={"lines.csv": (LINES, table), "effective_robustness.csv": (EFFECTIVE_ROBUSTNESS, robust)},
        figures=[("lines", lambda: shift_scatter(fitted, curves=curves))],
        findings=[_closest(main), *_off(robust, table, 1 - zoo.confidence)],
        notes=notes,
        answers=[_harder(main, refused, robust, table, 1 - zoo.confidence)],
    )


# --- rows ------------------------------------------------------------------------------------------------------------


def _sides(points: Sequence[Point]) -> dict[str, np.ndarray]:
    return {
        "x": np.array([p.x.value for p in points]),
        "y": np.array([p.y.value for p in points]),
        "n_x": np.array([p.x.n for p in points]),
        "n_y": np.array([p.y.n for p in points]),
    }


def _line_rows(
    zoo: Zoo, points: Sequence[Point], transform: str, reason: str
) -> tuple[list[dict[str, Any]], lines.Line | None]:
    """Rows of ``lines.csv``: with t intervals and with those that draw families; one row where there is no line."""
    sides = _sides(points)
    families = [zoo.families[p.model] for p in points]
    row: dict[str, Any] = dict.fromkeys(LINES, math.nan)
    row |= {"in_dist": points[0].in_dist, "probe": points[0].probe, "transform": transform, "models": len(points)}
    row |= {"families": len(set(families)), "spread": float(np.ptp(sides["x"]))}
    row |= {"n_in_dist": int(sides["n_x"].min()) or math.nan, "n_probe": int(sides["n_y"].min()) or math.nan}
    row["noise_share"] = lines.noise_share(sides["x"], sides["n_x"])
    if not reason:
        try:
            line = lines.fit(**sides, transform=transform, confidence=zoo.confidence)
        except ValueError as err:
            reason = str(err)
    if reason:
        return [row | {"interval": f"not defined: {reason}"}], None
    drawn = lines.bootstrap(
        **sides,
        families=families,
        transform=transform,
        confidence=zoo.confidence,
        resamples=zoo.resamples,
        seed=zoo.seed,
    )
    row["r2"] = line.r2
    rows = []
    for slope, intercept in ((line.slope, line.intercept), drawn):
        row = row | {"slope": line.slope.value, "slope_low": slope.low, "slope_high": slope.high}
        row |= {"intercept": line.intercept.value, "intercept_low": intercept.low, "intercept_high": intercept.high}
        rows.append(row | {"interval": slope.interval})
    return rows, line


def _robustness(zoo: Zoo, points: Sequence[Point], transform: str) -> list[dict[str, Any]]:
    """Rows of ``effective_robustness.csv`` of one probe set and scale."""
    rows = []
    for p in points:
        family = zoo.families[p.model]
        base, name = _baseline(zoo, points, p.model)
        row: dict[str, Any] = dict.fromkeys(EFFECTIVE_ROBUSTNESS, math.nan)
        row |= {"model": p.model, "family": family, "in_dist": p.in_dist, "probe": p.probe, "transform": transform}
        row |= {"in_dist_value": p.x.value, "probe_value": p.y.value}
        row |= {"n_in_dist": p.x.n or math.nan, "n_probe": p.y.n or math.nan}
        row |= {"baseline": name, "baseline_models": len(base), "extra_data": zoo.extra_data.get(p.model, "")}
        reason = lines.refusal([q.x.value for q in base])
        try:
            if not reason:
                line = lines.fit(**_sides(base), transform=transform, confidence=zoo.confidence)
                settings: Any = {"n_x": p.x.n, "n_y": p.y.n, "confidence": zoo.confidence}
                rho, chance = lines.effective_robustness(line, p.x.value, p.y.value, **settings)
        except ValueError as err:
            reason = str(err)
        if reason:
            rows.append(row | {"interval": f"not defined: {reason}"})
            continue
        row |= {"expected": p.y.value - rho.value, "effective_robustness": rho.value}
        if p in base:
            rows.append(row | {"interval": "not defined: the model is of the baseline, whose line it helped to fit"})
        else:
            rows.append(row | {"low": rho.low, "high": rho.high, "interval": rho.interval, "p": chance})
    tested = [r for r in rows if not math.isnan(r["p"])]
    for row, corrected in zip(tested, holm([r["p"] for r in tested]), strict=True):
        row["p_holm"] = corrected
    return rows


def _baseline(zoo: Zoo, points: Sequence[Point], model: str) -> tuple[list[Point], str]:
    """The points that a model is held against, and what they are called."""
    if zoo.baseline:
        return [p for p in points if _matches(zoo, p.model, zoo.baseline)], " ".join(zoo.baseline)
    family = zoo.families[model]
    plain = " without extra data" if any(zoo.extra_data.values()) else ""
    base = [p for p in points if zoo.families[p.model] != family and not zoo.extra_data.get(p.model)]
    return base, f"all families but {family}{plain}"


def _matches(zoo: Zoo, model: str, patterns: Sequence[str]) -> bool:
    names = {model, zoo.families[model], *(n.rpartition("/")[2] for n in (model, zoo.families[model]))}
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _check_baseline(zoo: Zoo) -> None:
    for pattern in zoo.baseline:
        if not any(_matches(zoo, model, [pattern]) for model in zoo.families):
            known = sorted(set(zoo.families.values()))
            raise NotFoundError("baseline family or model", pattern, known, hint="--baseline takes names and globs")


def _curve(points: Sequence[Point], line: lines.Line, confidence: float) -> Curve:
    sides = _sides(points)
    inner = lines.inside(sides["x"], sides["n_x"], line.transform)
    x = np.linspace(inner.min(), inner.max(), 60)
    low, high = line.band(x, confidence, new=False)
    return Curve(x, line.at(x), low, high, f"{line.transform} line, R² {line.r2:.2f}")


# --- sentences -------------------------------------------------------------------------------------------------------


def _main_scale(table: Sequence[Mapping[str, Any]], probe: str) -> str:
    """The scale that sentences speak of: probit, or where an accuracy of 0 or 1 forbids it the identity."""
    fitted = {r["transform"] for r in table if r["probe"] == probe and not math.isnan(r["slope"])}
    return "probit" if "probit" in fitted else "identity"


def _closest(main: Sequence[Mapping[str, Any]]) -> str:
    ordered = sorted(main, key=lambda r: (-r["r2"] if r["r2"] == r["r2"] else 1.0, r["probe"]))
    first, last = ordered[0], ordered[-1]
    models = f"{first['models']} models of {first['families']} families"
    text = f"A line in accuracy on {first['in_dist']} through {models} explains accuracy on {first['probe']} "
    text += f"{'best: ' if last is not first else 'with '}{_told(first)}"
    if last is not first:
        text += f"; of {len(main)} probe sets it explains {last['probe']} least ({_told(last)})"
    return text + ". These are associations."


def _told(row: Mapping[str, Any]) -> str:
    r2 = "R² undefined" if math.isnan(row["r2"]) else f"R² {row['r2']:.2f}"
    ends = f"[{_number(row['slope_low'])}, {_number(row['slope_high'])}]"
    return f"{r2}, slope {_number(row['slope'])} {ends} on the {row['transform']} scale"


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _tested(robust: Sequence[Mapping[str, Any]], table: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    scale = {r["probe"]: _main_scale(table, r["probe"]) for r in table}
    return [r for r in robust if r["transform"] == scale[r["probe"]] and not math.isnan(r["p_holm"])]


def _off(robust: Sequence[Mapping[str, Any]], table: Sequence[Mapping[str, Any]], alpha: float) -> list[str]:
    tested = _tested(robust, table)
    if not tested:
        reasons = sorted({r["interval"].removeprefix("not defined: ") for r in robust})
        return [f"Effective robustness is not defined: {reasons[0]} (the baseline is {robust[0]['baseline']})."]
    far = [r for r in tested if r["p_holm"] < alpha]
    probes = len({r["probe"] for r in tested})
    text = f"{len(far)} of {len(tested)} effective robustnesses differ from 0 (Holm over the models of each probe set"
    text += f", {probes} sets)" if probes > 1 else ")"
    largest = max(far or tested, key=lambda r: abs(r["effective_robustness"]))
    text += (
        f"; the largest{' of them' if far else ''}: {largest['model']} on {largest['probe']} "
        f"{percent(largest['effective_robustness'], signed=True)} points "
        f"[{percent(largest['low'])}, {percent(largest['high'])}] "
        f"against the line of {largest['baseline']} ({largest['baseline_models']} models)"
    )
    return [text + "."]


def _harder(
    main: Sequence[Mapping[str, Any]],
    refused: Mapping[str, str],
    robust: Sequence[Mapping[str, Any]],
    table: Sequence[Mapping[str, Any]],
    alpha: float,
) -> Answer:
    parts = []
    for row in main:
        off = [r["model"] for r in _tested(robust, table) if r["probe"] == row["probe"] and r["p_holm"] < alpha]
        text = f"{row['probe']}: {_told(row)}, {row['models']} models"
        parts.append(text + (f", off the line of the others: {_some(off)}." if off else "."))
    parts += [f"{_some(own)}: no line, {reason}." for reason, own in _by_reason(refused).items()]
    parts.append("A set that is only harder keeps the models on one line; these are associations.")
    return Answer(9, " ".join(parts), ("lines.csv", "effective_robustness.csv"))


def _independent(subject: Subject) -> Answer:
    families = Counter(lines.family_of(m) for m in subject.models)
    text = f"{len(subject.models)} training runs of {len(families)} families"
    several = [f"{name} ({n})" for name, n in families.items() if n > 1]
    text += f", several runs of {_some(several)}" if several else ", one run each"
    text += "; the unit is a training run, and bootstraps over models draw families."
    own = [r for r in subject.found.pairs if r["dataset"] == subject.in_dist and not math.isnan(r["kappa"])]
    if own:
        middle = statistics.median(r["kappa"] for r in own)
        text += (
            f" The median error consistency of {len(own)} pairs on {subject.in_dist} is κ = {_number(middle)} "
            "(0 where errors are independent, 1 where they are on the same images)."
        )
    trained = Counter(
        str(n.card["training"]["data"])
        for n in subject.evidence.networks.values()
        if (n.card.get("training") or {}).get("data")
    )
    if trained:
        text += f" Trained on {_some([f'{name} ({n})' for name, n in trained.items()])}, as their cards say."
    else:
        text += " Nothing says what they were trained on, so models with extra data are not marked."
    return Answer(10, text, ("pairs.csv",))


def _by_reason(refused: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for probe, reason in refused.items():
        found.setdefault(reason, []).append(probe)
    return found


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
