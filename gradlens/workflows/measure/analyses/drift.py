"""How far the features of each probe set lie from those of the in-distribution set, at every depth of every model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax
from scipy.stats import false_discovery_control

from gradlens.errors import InputError
from gradlens.figures.drift import DepthPoint
from gradlens.figures.drift import drift as drift_figure
from gradlens.records import HookPoint
from gradlens.shift import drift, ood
from gradlens.shift.drift import STATISTICS, Clouds, Drift
from gradlens.shift.gap import ENOUGH_PAIRS
from gradlens.shift.tables import percent
from gradlens.shift.unlabelled import side_of
from gradlens.workflows.measure.analyses.analysis import Answer, Outcome, Subject, analysis
from gradlens.workflows.measure.analyses.ood import SEPARATION, association, mean_by, separation_row, settings

if TYPE_CHECKING:
    from gradlens.data.sources import ImageSet
    from gradlens.workflows.measure.features import Features

DRIFT = (
    *("model", "in_dist", "probe", "depth", "position", "statistic", "value", "low", "high", "interval"),
    *("p", "p_bh", "test", "floor", "n_in_dist", "n_probe", "features", "paired", "note"),
)
OOD_FEATURES = ("model", "in_dist", "probe", "depth", "position", "score", *SEPARATION)
OUTPUTS = "softmax"  # the depth that is no depth: the probabilities
LEVEL = 0.05


@analysis(
    "drift",
    "Drift of features",
    "How far each probe set lies from the in-distribution set in the features of every depth.",
    cost="networks",
)
def of_subject(subject: Subject) -> Outcome:
    """Every statistic of :mod:`gradlens.shift.drift` and feature score of :mod:`gradlens.shift.ood`, at every depth."""
    from gradlens.workflows.measure.features import depths, features, in_groups  # torch: only when it is asked for

    evidence = subject.evidence
    sets = {s.name: evidence.images[s.name] for s in evidence.probes} | evidence.unlabelled_images
    if not sets:
        return Outcome(not_done="drift is measured towards another set: --probe SOURCE or --unlabelled SOURCE")
    images = evidence.images[subject.in_dist]
    networks = [evidence.networks[name] for name in subject.models]
    points, notes = depths(networks, subject.runtime)
    rows: list[dict[str, Any]] = []
    unfamiliar: list[dict[str, Any]] = []
    usable = [m for m in networks if m.name in points]
    for group in in_groups(usable, points, len(images) + max(map(len, sets.values()))):
        seen = features(group, points, images, subject.runtime)
        homes = [_home(m.name, images, points[m.name], seen[m.name], subject.runtime.seed) for m in group]
        for name, shifted in sets.items():
            new = features(group, points, shifted, subject.runtime)
            for home in homes:
                try:
                    told, scores = _compared(home, name, shifted, new[home.model], subject)
                except InputError as err:
                    notes.append(f"{home.model} on {name}: {err}")
                    continue
                rows += told
                unfamiliar += scores
    for m in networks:
        outputs, said = _outputs(subject, m.name, sets)
        rows += outputs
        notes += said
    if not rows:
        return Outcome(not_done="; ".join(notes) or "no model has a depth to compare")
    _correct(rows)
    order = {m: i for i, m in enumerate(subject.models)}
    rows.sort(key=lambda r: order[r["model"]])  # stable: probe sets, depths and statistics as they came
    unfamiliar.sort(key=lambda r: order[r["model"]])
    drawn = [_point(r) for r in rows if r["statistic"] == "domain_error"]
    return Outcome(
        tables={"drift.csv": (DRIFT, rows), "ood_features.csv": (OOD_FEATURES, unfamiliar)},
        figures=[("drift", lambda: drift_figure(drawn))] if drawn else (),
        findings=_findings(subject, rows, unfamiliar),
        notes=[*notes, *_limits(rows)],
        answers=[Answer(9, _answer(subject, rows), ("drift.csv",))],
    )


@dataclass(frozen=True, eq=False)
class _Home:
    """One model in distribution: its features, the floors and the fitted scores, made once for all sets.

    Attributes:
        model: name.
        ids: n images.
        by_depth: depth -> (n, C).
        positions: of the depths.
        floors: depth -> statistic -> value.
        fits: (depth, score) -> what was learned.
    """

    model: str
    ids: tuple[str, ...]
    by_depth: Mapping[str, np.ndarray]
    positions: Mapping[str, float]
    floors: Mapping[str, Mapping[str, float]]
    fits: Mapping[tuple[str, str], ood.CrossFit]


def _home(model: str, images: ImageSet, points: Sequence[HookPoint], seen: Features, seed: int) -> _Home:
    labels = {s.id: -1 if s.label is None else s.label for s in images.samples}
    classes = np.array([labels[name] for name in seen.ids], dtype=np.int64)
    fits = {
        (depth, score): ood.cross_fit(score, x, classes, seed)
        for depth, x in seen.by_depth.items()
        for score in ood.FEATURE_SCORES
    }
    floors = {depth: drift.floors(x, seed=seed) for depth, x in seen.by_depth.items()}
    return _Home(model, seen.ids, seen.by_depth, {p.name: p.position for p in points}, floors, fits)


def _compared(
    home: _Home, probe: str, images: ImageSet, new: Features, subject: Subject
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of ``drift.csv`` and ``ood_features.csv`` of one model and one set."""
    partner = _partners(home.ids, new.ids, images, subject.in_dist)
    seed = subject.runtime.seed
    rows, unfamiliar = [], []
    for depth, y in new.by_depth.items():
        x = home.by_depth[depth]
        at: dict[str, Any] = {"model": home.model, "in_dist": subject.in_dist, "probe": probe, "depth": depth}
        at["position"] = home.positions[depth]
        clouds = _clouds(x, y, partner)
        told = drift.measure(clouds, permutations=_permutations(subject), seed=seed)
        rows += [at | _row(name, d, home.floors[depth][name], clouds) for name, d in told.items()]
        for score in ood.FEATURE_SCORES:
            fit = home.fits[depth, score]
            separation = ood.separation(fit.in_dist, fit.scores(y, partner, seed), **settings(subject))
            unfamiliar.append(at | {"score": score} | separation_row(separation, len(x), len(y)))
    return rows, unfamiliar


def _outputs(subject: Subject, model: str, sets: Mapping[str, ImageSet]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of ``drift.csv`` on the softmax outputs of one model, and why there are none for a set."""
    said = subject.evidence.predictions
    seen = side_of(said[model, subject.in_dist], labelled=False)
    rows: list[dict[str, Any]] = []
    notes = []
    if seen.logits is None:
        return rows, [f"{model}: drift of outputs needs logits"]
    x = softmax(seen.logits.astype(np.float64), axis=1)
    seed = subject.runtime.seed
    floors = drift.floors(x, OUTPUTS, seed)
    for probe, images in sets.items():
        new = side_of(said[model, probe], labelled=False)
        at = {"model": model, "in_dist": subject.in_dist, "probe": probe, "depth": OUTPUTS, "position": 1.0}
        try:
            if new.logits is None:
                raise InputError("drift of outputs needs logits")
            y = softmax(new.logits.astype(np.float64), axis=1)
            clouds = _clouds(x, y, _partners(seen.ids, new.ids, images, subject.in_dist))
            told = drift.measure(clouds, OUTPUTS, _permutations(subject), seed)
        except InputError as err:
            notes.append(f"{model} on {probe}: {err}")
            continue
        rows += [at | _row(name, d, floors[name], clouds) for name, d in told.items()]
    return rows, notes


def _permutations(subject: Subject) -> int:
    return min(drift.PERMUTATIONS, subject.request.resamples)


def _partners(seen: Sequence[str], new: Sequence[str], images: ImageSet, in_dist: str) -> np.ndarray | None:
    """(m,) the in-distribution row that shows the scene of each new image, -1 where none; ``None`` if unpaired."""
    if images.paired_with != in_dist:
        return None
    place = {name: i for i, name in enumerate(seen)}
    pair = {s.id: s.pair for s in images.samples}
    return np.array([place.get(pair[name] or "", -1) for name in new], dtype=np.int64)


def _clouds(x: np.ndarray, y: np.ndarray, partner: np.ndarray | None) -> Clouds:
    """Pairs where nine tenths of the new images have a partner (of a scene's several images the first), else all."""
    if partner is not None and len(partner) and (partner >= 0).mean() >= ENOUGH_PAIRS:
        rows = np.flatnonzero(partner >= 0)
        scenes, first = np.unique(partner[rows], return_index=True)
        return Clouds(x[scenes], y[rows[first]], paired=True)
    return Clouds(x, y)


def _row(name: str, d: Drift, floor: float, clouds: Clouds) -> dict[str, Any]:
    return {
        "statistic": name,
        "value": d.value,
        "low": d.low,
        "high": d.high,
        "interval": d.interval,
        "p": d.p,
        "p_bh": math.nan,
        "test": d.test,
        "floor": floor,
        "n_in_dist": d.n[0],
        "n_probe": d.n[1],
        "features": clouds.features,
        "paired": clouds.paired,
        "note": d.note,
    }


def _correct(rows: Sequence[dict[str, Any]]) -> None:
    """Fill in p values corrected for all rows of a statistic (Benjamini & Hochberg 1995)."""
    for name in STATISTICS:
        own = [r for r in rows if r["statistic"] == name and not math.isnan(r["p"])]
        if own:
            for r, p in zip(own, false_discovery_control([r["p"] for r in own]), strict=True):
                r["p_bh"] = float(p)


def _point(r: Mapping[str, Any]) -> DepthPoint:
    names = (r["model"], r["in_dist"], r["probe"], r["depth"])
    return DepthPoint(*names, r["position"], r["value"], r["low"], r["high"], bool(r["p_bh"] <= LEVEL))


# ---------------------------------------------------------------------------------------------- words


def _at_the_end(rows: Sequence[Mapping[str, Any]], statistic: str, first: bool = False) -> list[Mapping[str, Any]]:
    """One statistic at the last (or first) depth of each model and set."""
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for r in sorted((r for r in rows if r["statistic"] == statistic), key=lambda r: r["position"], reverse=first):
        found[r["model"], r["probe"]] = r
    return list(found.values())


def _differing(rows: Sequence[Mapping[str, Any]], statistic: str) -> tuple[int, int]:
    own = [r for r in rows if r["statistic"] == statistic and not math.isnan(r["p_bh"])]
    return sum(r["p_bh"] <= LEVEL for r in own), len(own)


def _told(r: Mapping[str, Any]) -> str:
    return f"{r['model']} {percent(r['value'])} % [{percent(r['low'])}, {percent(r['high'])}]"


def _findings(
    subject: Subject, rows: Sequence[Mapping[str, Any]], unfamiliar: Sequence[Mapping[str, Any]]
) -> list[str]:
    last = _at_the_end(rows, "domain_error")
    if not last:
        return []
    errors = mean_by(last, "probe", "value")
    most, least = (pick(errors, key=lambda name: errors[name]) for pick in (min, max))
    models = len({r["model"] for r in last})
    clearest = min((r for r in last if r["probe"] == most), key=lambda r: r["value"])
    text = (
        f"By the features of the last depth a linear classifier tells {most} from {subject.in_dist} with "
        f"{percent(errors[most])} % held-out error (mean over {models} models; 50 % cannot tell; {_told(clearest)})"
    )
    found = [text + (f", {least} with {percent(errors[least])} %." if least != most else ".")]
    first = mean_by(_at_the_end(rows, "domain_error", first=True), "probe", "value")
    moved = {name: errors[name] - first[name] for name in errors}
    for words, name in (("less", max(moved, key=lambda s: moved[s])), ("more", min(moved, key=lambda s: moved[s]))):
        change = moved[name]
        if (change > 0) == (words == "less") and abs(change) >= 0.01:
            found.append(
                f"{name} is told apart {words} at the last depth than at the first: held-out error "
                f"{percent(first[name])} % there, {percent(errors[name])} % at the end (mean over {models} models)."
            )
    away = association(subject, {r: -v for r, v in errors.items()})
    if away is not None:
        rho, p, n = away
        found.append(
            f"Probe sets that lie further away at the last depth {'lose more' if rho > 0 else 'do not lose more'} "
            f"accuracy: rank correlation {rho:.2f} over {n} sets (p = {p:.2g}), an association."
        )
    deepest = {(r["model"], r["probe"]): r["depth"] for r in last}
    ends = [r for r in unfamiliar if deepest.get((r["model"], r["probe"])) == r["depth"]]
    scores = mean_by(ends, "score", "auroc")
    if scores:
        told = ", ".join(f"{ood.FEATURE_SCORES[name].title} {value:.2f}" for name, value in scores.items())
        found.append(f"Unfamiliar images by the features of the last depth: mean AUROC {told}.")
    return found


def _answer(subject: Subject, rows: Sequence[Mapping[str, Any]]) -> str:
    last = _at_the_end(rows, "domain_error")
    parts = []
    for probe, error in mean_by(last, "probe", "value").items():
        own = [r for r in rows if r["probe"] == probe and r["statistic"] == "mmd2"]
        differ = sum(r["p_bh"] <= LEVEL for r in own)
        parts.append(f"{probe} (error {percent(error)} %, MMD² differs at {differ} of {len(own)} depths of models)")
    outputs, tried = _differing(rows, "bbsds")
    text = f"Different in features, by the domain classifier at the last depth (50 % = not): {'; '.join(parts)}. "
    text += f"Outputs differ (BBSDs) in {outputs} of {tried} comparisons."
    away = association(subject, {name: -v for name, v in mean_by(last, "probe", "value").items()})
    if away is not None:
        text += f" Distance and accuracy lost are associated with rank correlation {away[0]:.2f} over {away[2]} sets."
    return text


def _limits(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the statistics do not tell."""
    notes = []
    paired = [r["probe"] for r in rows if r["paired"]]
    if paired:
        names = ", ".join(dict.fromkeys(paired))
        notes.append(f"drift: {names} show the scenes of the in-distribution set, so permutations swap within pairs")
    few = [r for r in rows if r["statistic"] == "frechet" and r["note"]]
    if few:
        of = sum(r["statistic"] == "frechet" for r in rows)
        notes.append(f"Fréchet distance: fewer images than features in {len(few)} of {of} comparisons, biased upwards")
    tests = sum(not math.isnan(r["p"]) for r in rows)
    smallest = min((r["p"] for r in rows if "permutations" in r["test"]), default=math.nan)
    if tests and not math.isnan(smallest):
        notes.append(
            f"drift: {tests:,} p values, corrected by Benjamini and Hochberg within each statistic (p_bh); none by "
            f"permutation can be below {smallest:.3g} where that many permutations were made"
        )
    return notes
