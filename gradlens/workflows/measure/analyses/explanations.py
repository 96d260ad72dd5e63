"""How class activation maps move between the in-distribution set and each probe set, and whether that goes with errors.

What is compared: maps of one method (``--cam-method``, default Grad-CAM) of the predicted class (``--cam-target
true``: of the true one) at every stage of every model, on up to ``--cam-images`` images of each set. When a
prediction flips, the predicted class's map is another class's map: part of its movement is then the flip itself;
``true`` holds the class fixed. The findings, the tables by image and the associations are read at one depth of each
model, the deepest with at least 6 by 6 cells and a usable map of half of the images in distribution (the last where
none has). A map whose status is not ``ok`` (:class:`gradlens.records.CamStack`) is counted as blank and nowhere else.

The words of the findings, of the change of the share of the map on the object less what a map that knows nothing would
have there (``excess``):

- *keeps looking at the object as before*: its whole interval lies within :data:`MARGIN` of 0;
- *moves off the object*, *moves onto the object*: its whole interval lies below 0, above 0;
- *undecided*: everything else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from gradlens.shift.explanation_shift import (
    Change,
    mean_map_similarity,
    paired_change,
    rank_association,
    separation,
    share_change,
    unpaired_change,
)
from gradlens.shift.pairs import holm
from gradlens.workflows.measure.analyses.analysis import Outcome, Subject, analysis
from gradlens.workflows.measure.evidence import Request

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gradlens.workflows.measure.maps import Comparison, Gathered, Measured

MARGIN = 0.05
"""Of the share of a map that lies on the object: a change smaller than this is called none."""

RESAMPLED_MAPS = 1000  # bootstrap resamples of mean maps, which cost more than those of numbers
FILE, IMAGES = "explanations.csv", "explanation_images.csv"
FLIPS, MODELS = "explanation_flips.csv", "explanation_models.csv"
COLUMNS = (
    "model", "depth", "position", "probe", "measure", "in_dist_value", "probe_value", "change", "low", "high",
    "interval", "n", "undefined", "paired", "read", "method", "target",
)  # fmt: skip
IMAGE_COLUMNS = (
    "model", "depth", "probe", "id", "pair", "class", "status_in_dist", "status", "right_in_dist", "right",
    "energy_in_dist", "energy", "object", "map_similarity", "centre_shift",
)  # fmt: skip
FLIP_COLUMNS = (
    "model", "depth", "probe", "feature", "n_flipped", "n_stayed", "flipped", "stayed", "difference", "low", "high",
    "auroc", "auroc_low", "auroc_high", "p", "p_holm", "family", "interval",
)  # fmt: skip
MODEL_COLUMNS = ("probe", "feature", "n", "rho", "low", "high", "p", "p_holm", "family", "interval")
FEATURES = {
    "energy lost": "the share of the map on the object that was lost",
    "map movement": "1 - rank correlation of the two maps of a scene",
    "centre shift": "distance of the maps' centres of mass, in image widths",
    "off the object": "1 - the share of the in-distribution map on the object",
}


@dataclass(frozen=True)
class Row:
    """One measure of one model, depth and probe set; ``read``: whether findings are read at this depth."""

    model: str
    depth: str
    position: float
    probe: str
    measure: str
    change: Change
    paired: bool
    read: bool


def _known_method(request: Request) -> None:
    import gradlens.cam.engine  # noqa: F401  # with all methods registered; needs torch
    from gradlens.cam.methods import METHODS

    METHODS[request.cam_method]


@analysis(
    "explanations",
    "Where the models look",
    "How class activation maps move between in-distribution and probe images of the same class, per model and depth, "
    "and whether that goes with errors.",
    cost="networks",
    check=_known_method,
)
def explanations(subject: Subject) -> Outcome:
    """Compare the maps of every model on every probe set with those in distribution (see the module's head)."""
    from gradlens.workflows.measure import maps  # torch

    gathered = maps.gather(subject.evidence, subject.request, subject.runtime)
    if not gathered.comparisons:
        return Outcome(not_done="no probe set has labelled images of a class of the in-distribution set")
    refused = [f"no maps of {name}: {reason}" for name, reason in gathered.refused.items()]
    models = [m for m in subject.models if m in gathered.in_dist]
    if not models:
        return Outcome(not_done="; ".join(refused) or "no image could be read again")
    changes, images, flips = [], [], []
    for c in gathered.comparisons:
        for model in models:
            if (model, c.probe) not in gathered.probes:
                continue
            sides = _Sides(subject, gathered, c, model)
            if not all(sides.rows()):  # no image of one side could be read again, which the notes say
                continue
            changes += sides.changes()
            images += sides.images()
            flips += sides.flips() if c.paired else []
    _corrected(flips)
    across = _across(subject, changes, models)
    _corrected(across)
    said = subject.request.cam_method, subject.request.cam_target
    tables: dict[str, tuple[Sequence[str], Sequence[Mapping[str, Any]]]] = {
        FILE: (COLUMNS, [_as_row(r, *said) for r in changes]),
        IMAGES: (IMAGE_COLUMNS, images),
        FLIPS: (FLIP_COLUMNS, flips),
        MODELS: (MODEL_COLUMNS, across),
    }
    return Outcome(
        tables=tables,
        figures=_figures(subject, changes, across, models),
        findings=_findings(subject, changes, flips, across, models),
        notes=[*refused, *_notes(subject, gathered)],
    )


@dataclass(frozen=True)
class _Sides:
    """One model's maps of both sides of a comparison, row by row where paired."""

    subject: Subject
    gathered: Gathered
    comparison: Comparison
    model: str

    @property
    def before(self) -> Measured:
        return self.gathered.in_dist[self.model]

    @property
    def after(self) -> Measured:
        return self.gathered.probes[self.model, self.comparison.probe]

    def rows(self) -> tuple[list[int], list[int]]:
        """Rows of both sides' measurements; the same scenes where paired (an image may have been unreadable)."""
        old, new = ({i: n for n, i in enumerate(side.images)} for side in (self.before, self.after))
        c = self.comparison
        if c.paired:
            both = [(old[a], new[b]) for a, b in zip(c.in_dist, c.images, strict=True) if a in old and b in new]
            return [a for a, _ in both], [b for _, b in both]
        return [old[a] for a in c.in_dist if a in old], [new[b] for b in c.images if b in new]

    def classes(self) -> tuple[np.ndarray, np.ndarray]:
        """Class names of both sides' rows."""
        from gradlens.workflows.measure.maps import class_of

        first, second = self.rows()
        home = self.subject.evidence.images[self.subject.in_dist]
        away = self.subject.evidence.images[self.comparison.probe]
        return (
            np.array([class_of(home, self.before.images[n]) for n in first], dtype=object),
            np.array([class_of(away, self.after.images[n]) for n in second], dtype=object),
        )

    def changes(self) -> list[Row]:
        """Every measure at every depth."""
        from gradlens.workflows.measure.maps import OF_A_PAIR, OF_ONE

        request, seed = self.subject.request, self.subject.runtime.seed
        settings: dict[str, Any] = {"confidence": request.confidence, "resamples": request.resamples, "seed": seed}
        first, second = self.rows()
        ours, theirs = self.classes()
        depths = self.before.depths
        before = np.hstack([self.before.table(m)[first] for m in OF_ONE])
        after = np.hstack([self.after.table(m)[second] for m in OF_ONE])
        if self.comparison.paired:
            names = [*OF_ONE, *OF_A_PAIR]
            paired = [self.after.table(m)[second] for m in OF_A_PAIR]
            # a map held against itself: no distance, a correlation of 1
            alone = [np.zeros_like(paired[0]), np.ones_like(paired[1])]
            found = paired_change(np.hstack([before, *alone]), np.hstack([after, *paired]), **settings)
        else:
            names = list(OF_ONE)
            found = unpaired_change(before, after, ours, theirs, **settings)
        rows = [
            self._row(d, name, found[m * len(depths) + d]) for m, name in enumerate(names) for d in range(len(depths))
        ]
        for d in range(len(depths)):
            alike = mean_map_similarity(
                np.array([self.before.pooled[d][n] for n in first]),
                np.array([self.after.pooled[d][n] for n in second]),
                ours,
                theirs,
                self.comparison.paired,
                request.confidence,
                RESAMPLED_MAPS,
                seed,
            )
            rows.append(self._row(d, "mean-map-similarity", alike))
            blank = share_change(
                ~self.before.ok()[first, d], ~self.after.ok()[second, d], self.comparison.paired, request.confidence
            )
            rows.append(self._row(d, "blank", blank))
        return rows

    def _row(self, depth: int, measure: str, change: Change) -> Row:
        point = self.before.depths[depth]
        return Row(
            self.model,
            point.name,
            point.position,
            self.comparison.probe,
            measure,
            change,
            self.comparison.paired,
            depth == self.before.reading,
        )

    def images(self) -> list[dict[str, Any]]:
        """Rows of :data:`IMAGES`: image by image, at the depth of reading; the in-distribution side where paired."""
        first, second = self.rows()
        home, away = (self.subject.evidence.images[s] for s in (self.subject.in_dist, self.comparison.probe))
        right_before, right_after = (self._right(s) for s in (self.subject.in_dist, self.comparison.probe))
        _, classes = self.classes()
        energy, covers = self.after.table("energy"), self.after.table("object")
        found, d = [], self.before.reading
        for k, b in enumerate(second):
            sample = away.samples[self.after.images[b]]
            row = {
                "model": self.model,
                "depth": self.before.depths[self.before.reading].name,
                "probe": self.comparison.probe,
                "id": sample.id,
                "pair": "",
                "class": classes[k],
                "status_in_dist": "",
                "status": self.after.statuses[b][d],
                "right_in_dist": "",
                "right": right_after[sample.id],
                "energy_in_dist": math.nan,
                "energy": float(energy[b, d]),
                "object": float(covers[b, d]),
                "map_similarity": math.nan,
                "centre_shift": math.nan,
            }
            if self.comparison.paired:
                a = first[k]
                partner = home.samples[self.before.images[a]].id
                row |= {
                    "pair": partner,
                    "status_in_dist": self.before.statuses[a][d],
                    "right_in_dist": right_before[partner],
                    "energy_in_dist": float(self.before.table("energy")[a, d]),
                    "map_similarity": float(self.after.table("map-similarity")[b, d]),
                    "centre_shift": float(self.after.table("centre-shift")[b, d]),
                }
            found.append(row)
        return found

    def _right(self, dataset: str) -> dict[str, bool]:
        p = self.subject.evidence.predictions[self.model, dataset]
        return {
            name: p.classes[answer] == p.label_classes[label]
            for name, label, answer in zip(p.ids, p.labels.tolist(), p.predicted.tolist(), strict=True)
            if label >= 0
        }

    def flips(self) -> list[dict[str, Any]]:
        """Rows of :data:`FLIPS`: of the scenes that are right in distribution, the lost ones against the others."""
        request = self.subject.request
        own = [r for r in self.images() if r["right_in_dist"]]
        flipped = np.array([not r["right"] for r in own], dtype=bool)
        before, after, alike, moved = (
            np.array([r[name] for r in own], dtype=np.float64)
            for name in ("energy_in_dist", "energy", "map_similarity", "centre_shift")
        )
        features = dict(zip(FEATURES, (before - after, 1 - alike, moved, 1 - before), strict=True))
        found = []
        for name, values in features.items():
            told = separation(values, flipped, request.confidence, request.resamples, self.subject.runtime.seed)
            where = {
                "model": self.model,
                "depth": self.before.depths[self.before.reading].name,
                "probe": self.comparison.probe,
            }
            found.append({**where, "feature": name, **asdict(told)})
        return found


def _corrected(rows: Sequence[dict[str, Any]]) -> None:
    """Add Holm-corrected p values; the family is all tests of the table that could be made."""
    tested = [r for r in rows if math.isfinite(r["p"])]
    for row in rows:
        row |= {"p_holm": math.nan, "family": len(tested)}
    for row, p in zip(tested, holm([r["p"] for r in tested]), strict=True):
        row["p_holm"] = p


def _as_row(r: Row, method: str, target: str) -> dict[str, Any]:
    c = r.change
    return {
        "model": r.model, "depth": r.depth, "position": r.position, "probe": r.probe, "measure": r.measure,
        "in_dist_value": c.in_dist, "probe_value": c.probe, "change": c.change, "low": c.low, "high": c.high,
        "interval": c.interval, "n": c.n, "undefined": c.undefined, "paired": r.paired, "read": r.read,
        "method": method, "target": target,
    }  # fmt: skip


def losses(subject: Subject, probe: str) -> dict[str, float]:
    """The accuracy gap of every model to a probe set, on the classes both sides share; only defined ones."""
    return {
        g.model: g.gap.value
        for g in subject.found.gaps
        if (g.probe, g.metric, g.label_space) == (probe, "accuracy", "shared") and g.gap.defined
    }


def _read(changes: Sequence[Row], probe: str, measure: str) -> dict[str, Change]:
    """A measure of every model at the depth it is read at."""
    return {r.model: r.change for r in changes if r.read and (r.probe, r.measure) == (probe, measure)}


def _moved(changes: Sequence[Row], probe: str) -> tuple[str, dict[str, Change]]:
    """What tells how far the maps of a probe set moved: the same scenes' maps where it is paired, else mean maps."""
    measure = (
        "map-similarity"
        if any(r.probe == probe and r.measure == "map-similarity" for r in changes)
        else ("mean-map-similarity")
    )
    return measure, _read(changes, probe, measure)


def _across(subject: Subject, changes: Sequence[Row], models: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of :data:`MODELS`: do the models whose maps move more lose more accuracy?"""
    request = subject.request
    found = []
    for probe in dict.fromkeys(r.probe for r in changes):
        lost = losses(subject, probe)
        measure, alike = _moved(changes, probe)
        on_object = _read(changes, probe, "energy")
        features: dict[str, Callable[[str], float]] = {
            f"1 - {measure}": lambda m, alike=alike: 1 - alike[m].probe,  # type: ignore[misc]
            "energy lost": lambda m, on_object=on_object: -on_object[m].change,  # type: ignore[misc]
            "off the object in distribution": lambda m, on_object=on_object: 1 - on_object[m].in_dist,  # type: ignore[misc]
        }
        own = [m for m in models if m in lost and m in alike]
        for name, value in features.items():
            told = rank_association(
                [value(m) for m in own], [lost[m] for m in own], request.confidence, subject.runtime.seed
            )
            found.append({"probe": probe, "feature": name, **asdict(told)})
    return found


# --- words -----------------------------------------------------------------------------------------------------------


def number(value: float, digits: int = 2) -> str:
    """A number as text prints it, with a real minus sign and no minus zero."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def span(low: float, high: float, digits: int = 2) -> str:
    """An interval as text prints it."""
    return f"[{number(low, digits)}, {number(high, digits)}]"


def movement(excess: Change) -> str:
    """What a change of the energy above chance is called (see the module's head)."""
    if math.isnan(excess.change):
        return "undecided"
    if excess.low > -MARGIN and excess.high < MARGIN:
        return "keeps"
    if excess.high < 0:
        return "off"
    return "onto" if excess.low > 0 else "undecided"


SAID = {
    "keeps": "keeps looking at the object as before",
    "off": "moves off the object",
    "onto": "moves onto the object",
    "undecided": "undecided",
}


def _findings(
    subject: Subject,
    changes: Sequence[Row],
    flips: Sequence[Mapping[str, Any]],
    across: Sequence[Mapping[str, Any]],
    models: Sequence[str],
) -> list[str]:
    probes = list(dict.fromkeys(r.probe for r in changes))
    mean_loss = {p: float(np.mean(list(losses(subject, p).values()) or [-1.0])) for p in probes}
    ordered = sorted(probes, key=lambda p: (-mean_loss[p], p))
    found = []
    for probe in ordered:
        text = [_alike(subject, changes, probe, models), _on_object(changes, probe, models)]
        found.append(" ".join(t for t in text if t))
    found += [t for t in (_within(flips), _between(across)) if t]
    return [t for t in found if t]


def _alike(subject: Subject, changes: Sequence[Row], probe: str, models: Sequence[str]) -> str:
    """Whose maps move most and least on a probe set."""
    measure, alike = _moved(changes, probe)
    own = sorted((m for m in models if math.isfinite(alike[m].probe)), key=lambda m: (alike[m].probe, m))
    without = [m for m in models if m not in own]
    blank = f" No usable map: {', '.join(without)}." if without else ""
    if not own:
        return f"{probe}:{blank}"
    lost = losses(subject, probe)

    def told(model: str) -> str:
        c = alike[model]
        text = f"{model} ({number(c.probe)} {span(c.low + c.in_dist, c.high + c.in_dist)}"
        points = f", accuracy {number(-100 * lost[model], 1)} points" if model in lost else ""
        return f"{text}{points})"

    what = (
        f"rank correlation of the maps of the same scene, {alike[own[0]].n} pairs"
        if measure == "map-similarity"
        else f"correlation of the classes' mean maps, {alike[own[0]].n} images"
    )
    if len(own) == 1:
        return f"{probe}: likeness of {told(own[0])} to its maps in distribution ({what}).{blank}"
    return f"{probe}: the maps of {told(own[0])} move most and those of {told(own[-1])} least ({what}).{blank}"


def _on_object(changes: Sequence[Row], probe: str, models: Sequence[str]) -> str:
    """Who moves off the object, onto it, or stays."""
    excess, energy = _read(changes, probe, "excess"), _read(changes, probe, "energy")
    groups: dict[str, list[str]] = {}
    for m in models:
        if math.isfinite(excess[m].change):
            groups.setdefault(movement(excess[m]), []).append(m)
    parts = []
    for word in ("off", "onto", "keeps", "undecided"):
        own = sorted(groups.get(word, []), key=lambda m: (-abs(excess[m].change), m))
        if not own:
            continue
        shown = [
            f"{m} ({number(energy[m].in_dist)} → {number(energy[m].probe)}, "
            f"above chance {number(excess[m].change)} {span(excess[m].low, excess[m].high)})"
            for m in own[:3]
        ]
        more = f" and {len(own) - 3} more" if len(own) > 3 else ""
        parts.append(f"{SAID[word]}: {', '.join(shown)}{more}")
    return f"Mask energy: {'; '.join(parts)}." if parts else ""


def _within(flips: Sequence[Mapping[str, Any]]) -> str:
    """In how many models and sets the maps of flipped images differ from the others'."""
    own = [r for r in flips if r["feature"] == "map movement" and math.isfinite(r["p"])]
    if not own:
        return ""
    more = [r for r in own if r["p_holm"] < 0.05 and r["auroc"] > 0.5]
    best = max(own, key=lambda r: (r["auroc_low"], r["model"], r["probe"]))
    return (
        f"Within models, maps of images that flipped from right to wrong moved further than those that stayed right in "
        f"{len(more)} of {len(own)} comparisons of a model and a probe set (Mann-Whitney, Holm over "
        f"{own[0]['family']} tests); strongest in {best['model']} on {best['probe']}: AUROC {number(best['auroc'])} "
        f"{span(best['auroc_low'], best['auroc_high'])}, {best['n_flipped']} flipped, {best['n_stayed']} not."
    )


def _between(across: Sequence[Mapping[str, Any]]) -> str:
    """Across models, the association of moving maps and lost accuracy."""
    own = [r for r in across if r["feature"].startswith("1 - ") and math.isfinite(r["rho"])]
    if not own:
        reasons = dict.fromkeys(r["interval"] for r in across)
        return f"Across models no association is told ({'; '.join(reasons)})." if reasons else ""
    best = max(own, key=lambda r: (abs(r["rho"]), r["probe"]))
    sure = [r for r in own if r["p_holm"] < 0.05]
    return (
        f"Across {best['n']} models, the association of moved maps with lost accuracy is strongest on {best['probe']}: "
        f"Spearman {number(best['rho'])} {span(best['low'], best['high'])}, p {best['p']:.2g} "
        f"({best['p_holm']:.2g} after Holm over {best['family']} tests); it holds after Holm on {len(sure)} of "
        f"{len(own)} probe sets."
    )


def _notes(subject: Subject, gathered: Gathered) -> list[str]:
    request = subject.request
    notes = [
        f"explanations: maps by {request.cam_method} of the {request.cam_target} class at every stage, on at most "
        f"{request.cam_images} images of each set, balanced over classes"
    ]
    blank = {
        s: sum(
            s in row for side in (gathered.in_dist, gathered.probes) for own in side.values() for row in own.statuses
        )
        for s in sorted(
            {
                s
                for side in (gathered.in_dist, gathered.probes)
                for own in side.values()
                for row in own.statuses
                for s in row
                if s != "ok"
            }
        )
    }
    if blank:
        told = ", ".join(f"{name}: {n}" for name, n in blank.items())
        notes.append(f"explanations: images without a usable map at some depth, over all models and sets ({told})")
    unpaired = [c.probe for c in gathered.comparisons if not c.paired]
    if unpaired:
        notes.append(
            f"explanations: {', '.join(unpaired)}: not the same scenes, so maps are compared by class and what differs "
            "between the images is part of every change"
        )
    missing = [p for p in subject.probes if p not in {c.probe for c in gathered.comparisons}]
    if missing:
        notes.append(f"explanations: {', '.join(missing)}: no class in common with {subject.in_dist}, not compared")
    if gathered.skipped:
        first = gathered.skipped[0]
        notes.append(
            f"explanations: {len(gathered.skipped)} images could not be read again, the first is {first.path}: "
            f"{first.reason}"
        )
    return notes


# --- figures ---------------------------------------------------------------------------------------------------------


def _figures(
    subject: Subject, changes: Sequence[Row], across: Sequence[Mapping[str, Any]], models: Sequence[str]
) -> list[tuple[str, Callable[[], Figure]]]:
    from gradlens.figures.explanation_shift import Level, Moved, explanation_depths, explanation_drop

    found: list[tuple[str, Callable[[], Figure]]] = []
    points = []
    for probe in dict.fromkeys(r.probe for r in changes):
        lost = losses(subject, probe)
        _, alike = _moved(changes, probe)
        points += [
            Moved(m, probe, lost[m], alike[m].probe, alike[m].in_dist + alike[m].low, alike[m].in_dist + alike[m].high)
            for m in models
            if m in lost and math.isfinite(alike[m].probe)
        ]
    rho = {
        str(r["probe"]): (float(r["rho"]), float(r["low"]), float(r["high"]))
        for r in across
        if str(r["feature"]).startswith("1 - ")
    }
    if points:
        found.append(("explanation_drop", partial(explanation_drop, points, rho, subject.in_dist)))
    with_masks = [r for r in changes if r.measure == "energy" and math.isfinite(r.change.change)]
    for probe in _hardest(subject, [r.probe for r in with_masks]):
        covers = {(r.model, r.depth): r.change for r in changes if (r.probe, r.measure) == (probe, "object")}
        levels = [
            Level(r.model, r.depth, r.change, covers[r.model, r.depth].in_dist, covers[r.model, r.depth].probe)
            for r in with_masks
            if r.probe == probe
        ]
        found.append(("explanation_depths", partial(explanation_depths, levels, subject.in_dist, probe)))
    return found


def _hardest(subject: Subject, probes: Sequence[str]) -> list[str]:
    """The probe set that costs the models most on average."""
    known = [p for p in dict.fromkeys(probes) if losses(subject, p)]
    return sorted(known, key=lambda p: (-float(np.mean(list(losses(subject, p).values()))), p))[:1]
