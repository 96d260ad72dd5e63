"""Is it only resolution or the codec? The in-distribution images with the probe images' size, codec and sharpness."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradlens.data.derived import derived
from gradlens.data.image_set import ImageSet
from gradlens.data.properties import PIXELS, Match, Properties, code_digest, drawn_for, match, matched, properties_of
from gradlens.errors import InputError
from gradlens.shift import intervals
from gradlens.shift.factors import Factor, by_level
from gradlens.shift.metrics import on_classes
from gradlens.shift.sides import Sides
from gradlens.workflows.measure.analyses.analysis import Answer, Outcome, Subject, analysis
from gradlens.workflows.measure.analyses.factors import sides
from gradlens.workflows.measure.evidence import SetInfo

CONTROLS = (
    *("model", "in_dist", "probe", "control", "changed", "n_in_dist", "n_probe", "gap"),
    *("explained", "explained_low", "explained_high", "explained_interval"),
    *("remainder", "remainder_low", "remainder_high", "remainder_interval"),
)
PROPERTIES = ("dataset", "role", "property", "n", "p5", "median", "p95", "share")
KINDS = {"size+aspect+codec": False, "size+aspect+codec+sharpness": True}


@analysis(
    "controls",
    "Resolution and codec",
    "How much of each gap the probe images' size, aspect, codec and sharpness explain alone.",
    cost="networks",
)
def of_subject(subject: Subject) -> Outcome:
    """Properties of each set, and each gap split into what a matched control explains and the remainder."""
    images = subject.evidence.images
    of_set: dict[str, dict[str, Properties]] = {}
    notes: list[str] = []
    for s in subject.evidence.sets:
        of_set[s.name] = _properties(images[s.name], subject, notes)
    rows: list[dict[str, Any]] = []
    parts: list[tuple[float, str]] = []
    for probe in subject.evidence.probes:
        try:
            both = sides(subject, probe)
        except InputError as err:
            notes.append(f"controls for {probe.name}: {err}")
            continue
        own: dict[str, list[dict[str, Any]]] = {}
        for kind, sharp in KINDS.items():
            how = _matches(images[probe.name], both, of_set[subject.in_dist], of_set[probe.name], sharp, subject)
            controlled = _control(subject, probe, kind, how, both)
            if controlled is None:
                notes.append(f"controls for {probe.name}: no in-distribution image was scored under the control")
                continue
            changed = sum(not how[name].nothing for name in controlled.kept.ids0)
            own[kind] = _rows(controlled, probe, kind, changed, subject)
            rows += own[kind]
        if own:
            parts.append(_told(own, probe, subject))
        finer = _not_undone(both, of_set[subject.in_dist], of_set[probe.name])
        if finer:
            notes.append(f"controls for {probe.name}: {finer}")
    if not rows:
        return Outcome(notes=notes, not_done="no probe set could be compared with a control")
    parts.sort(key=lambda part: (-part[0], part[1]))
    order = {m: i for i, m in enumerate(subject.models)}
    rows.sort(key=lambda r: order.get(r["model"], len(order)))  # stable: by model, then probe and control
    return Outcome(
        tables={
            "controls.csv": (CONTROLS, rows),
            "set_properties.csv": (PROPERTIES, _property_rows(subject, of_set)),
        },
        findings=[text for _, text in parts],
        notes=notes,
        answers=[Answer(4, " ".join(text for _, text in parts[:4]), ("controls.csv", "set_properties.csv"))],
    )


def _properties(image_set: ImageSet, subject: Subject, notes: list[str]) -> dict[str, Properties]:
    found = {}
    unread = 0
    for i in subject.runtime.progress(range(len(image_set)), f"properties of {image_set.name}", unit="image"):
        try:
            found[image_set.samples[i].id] = properties_of(image_set, i)
        except InputError:
            unread += 1  # it is in skipped.csv, with the reason
    if unread:
        notes.append(f"{image_set.name}: {unread} images that cannot be read have no properties")
    return found


def _matches(
    probe: ImageSet,
    both: Sides,
    ours: Mapping[str, Properties],
    theirs: Mapping[str, Properties],
    sharp: bool,
    subject: Subject,
) -> dict[str, Match]:
    """What is done to each in-distribution image: as its pair is, else as an image of the probe set drawn for it."""
    drawn = sorted(name for name in both.ids1 if name in theirs)
    partner: dict[str, str] = {}
    if both.partner is not None:
        for name, row in sorted(zip(both.ids1, both.partner, strict=True), reverse=True):
            partner[both.ids0[row]] = name
    found = {}
    for name in both.ids0:
        if name not in ours:
            continue
        like = partner.get(name) or drawn[drawn_for(name, len(drawn), subject.runtime.seed)]
        found[name] = match(ours[name], theirs[like], sharp=sharp) if like in theirs else Match()
    return found


@dataclass(frozen=True)
class Controlled:
    """A control's answers beside both sides.

    Attributes:
        kept: the sides, of the in-distribution images that were scored under the control as well.
        right: bool (n0, M), under the control.
    """

    kept: Sides
    right: np.ndarray


def _control(subject: Subject, probe: SetInfo, kind: str, how: Mapping[str, Match], both: Sides) -> Controlled | None:
    if all(one.nothing for one in how.values()):
        return Controlled(both, both.right0)  # the same images, so the same answers
    from gradlens.shift.predict import predict
    from gradlens.workflows.measure.computed import output_store

    origin = subject.evidence.images[subject.in_dist]
    chosen = [i for i, s in enumerate(origin.samples) if s.id in how]
    told = hashlib.sha256(repr(sorted(how.items())).encode()).hexdigest()
    tag = "like-" + probe.name + ("-sharpness" if KINDS[kind] else "")
    images = derived(
        origin.subset(chosen),
        f"{subject.in_dist}+{tag}",
        lambda image, key: matched(image, how[key]),
        f"{told} {code_digest()}",
    )
    networks = [subject.evidence.networks[m] for m in subject.models]
    answers = predict(networks, images, subject.runtime, output_store(subject.request), fresh=subject.request.fresh)
    classes = tuple(dict.fromkeys((*sorted(set(both.classes0)), *sorted(set(both.classes1)))))
    scored = [on_classes(a.predictions, classes) for a in answers]
    right = [dict(zip(s.ids, s.correct, strict=True)) for s in scored]
    kept = [i for i, name in enumerate(both.ids0) if all(name in r for r in right)]
    if not kept:
        return None
    matrix = np.array([[r[both.ids0[i]] for r in right] for i in kept], dtype=bool)
    return Controlled(_rows_of(both, kept), matrix)


def _rows_of(both: Sides, kept: Sequence[int]) -> Sides:
    """Only these in-distribution images, and of paired sides only the probe images of their scenes."""
    if len(kept) == len(both.ids0):
        return both
    smaller = replace(
        both,
        ids0=tuple(both.ids0[i] for i in kept),
        right0=both.right0[kept],
        classes0=tuple(both.classes0[i] for i in kept),
    )
    if both.partner is None:
        return smaller
    place = {row: i for i, row in enumerate(kept)}
    probes = [j for j, row in enumerate(both.partner) if row in place]
    return replace(
        smaller,
        ids1=tuple(both.ids1[j] for j in probes),
        right1=both.right1[probes],
        classes1=tuple(both.classes1[j] for j in probes),
        partner=np.array([place[both.partner[j]] for j in probes], dtype=np.int64),
    )


def _rows(controlled: Controlled, probe: SetInfo, kind: str, changed: int, subject: Subject) -> list[dict[str, Any]]:
    both, right = controlled.kept, controlled.right
    confidence = subject.request.confidence
    everything = Factor("", ("",) * len(both.ids0), ("",) * len(both.ids1))
    # explained: in distribution against the control, on the same images; remainder: the control against the probe
    compared = both.partner if both.partner is not None else np.arange(len(both.ids0))
    first = replace(
        both,
        ids1=tuple(str(i) for i in range(len(compared))),
        right1=right[compared],
        classes1=tuple(both.classes0[i] for i in compared),
        partner=compared,
    )
    explained = by_level(first, Factor("", None, ("",) * len(compared)), confidence)
    remainder = by_level(replace(both, right0=right), everything, confidence)
    same = (0.0, 0.0, 0.0, "exact: both sets have them alike")
    told = [
        _row(
            e.model,
            float(gap),
            (e.drop, e.low, e.high, e.interval) if changed else same,
            (r.drop, r.low, r.high, r.interval),
        )
        for e, r, gap in zip(explained, remainder, both.drop, strict=True)
    ]
    if len(both.models) > 1:
        told.append(_mean_row(both, right, compared, subject))
    where = {
        "in_dist": subject.in_dist,
        "probe": probe.name,
        "control": kind,
        "changed": changed,
        "n_in_dist": len(compared),
        "n_probe": len(both.ids1),
    }
    return [row | where for row in told]


Told = tuple[float, float, float, str]


def _row(model: str, gap: float, explained: Told, remainder: Told) -> dict[str, Any]:
    row: dict[str, Any] = {"model": model, "gap": gap}
    for name, (value, low, high, made) in (("explained", explained), ("remainder", remainder)):
        row |= {name: value, f"{name}_low": low, f"{name}_high": high, f"{name}_interval": made}
    return row


def _mean_row(both: Sides, right: np.ndarray, compared: np.ndarray, subject: Subject) -> dict[str, Any]:
    """The mean over models, with a bootstrap over images (all models' answers to an image together)."""
    resamples, seed = min(subject.request.resamples, 2000), subject.runtime.seed
    confidence = subject.request.confidence
    clean, control = both.right0[compared].mean(axis=1), right[compared].mean(axis=1)
    probe = both.right1.mean(axis=1)
    if both.partner is not None:
        columns = np.stack([np.bincount(both.scene, v) for v in (np.ones(len(clean)), clean, control, probe)], axis=1)
        sums = _resampled(columns, resamples, seed, 0)
        means = sums[:, 1:] / sums[:, :1]
    else:
        a = _resampled(np.stack([clean, control], axis=1), resamples, seed, 0) / len(clean)
        b = _resampled(probe[:, None], resamples, seed, 1) / len(probe)
        means = np.concatenate([a, b], axis=1)
    made = intervals.label("paired bootstrap" if both.partner is not None else "bootstrap", confidence)

    def told(values: np.ndarray, made: str) -> Told:
        point = float(values[0])
        return (point, *intervals.percentile(values[1:], point, confidence), made)

    return _row(
        f"mean of {len(both.models)}",
        float(means[0, 0] - means[0, 2]),
        told(means[:, 0] - means[:, 1], intervals.label("paired bootstrap", confidence)),
        told(means[:, 1] - means[:, 2], made),
    )


def _resampled(columns: np.ndarray, resamples: int, seed: int, stream: int) -> np.ndarray:
    """The sums of the sample, then of its resamples."""
    drawn = intervals.resample_units(columns, resamples, seed, stream)
    return np.concatenate([columns.sum(axis=0, keepdims=True), *drawn])


def _told(own: Mapping[str, Sequence[Mapping[str, Any]]], probe: SetInfo, subject: Subject) -> tuple[float, str]:
    """(gap, sentence) of the mean over models, or of the only one."""
    plain, sharp = (rows[-1] for rows in own.values()) if len(own) == 2 else (next(iter(own.values()))[-1], None)
    who = plain["model"] if len(subject.models) == 1 else f"{len(subject.models)} models on average"

    def points(row: Mapping[str, Any], what: str) -> str:
        low, high = row[f"{what}_low"], row[f"{what}_high"]
        return f"{100 * row[what]:.1f} [{100 * low:.1f}, {100 * high:.1f}]".replace("-", "−")

    text = (
        f"Size, aspect and codec alone explain {points(plain, 'explained')} of the {100 * plain['gap']:.1f} points "
        f"that {who} {'loses' if len(subject.models) == 1 else 'lose'} on {probe.name}"
    )
    if not plain["changed"]:
        text += " (they are the same on both sides)"
    last = plain
    if sharp is not None and sharp["changed"] > 0:
        text += f"; with sharpness matched as well, {points(sharp, 'explained')}"
        last = sharp
    return plain["gap"], f"{text}; {points(last, 'remainder')} remain."


def _not_undone(both: Sides, ours: Mapping[str, Properties], theirs: Mapping[str, Properties]) -> str:
    """Whether the probe is finer than the in-distribution set, which no control can undo."""
    own = [ours[name] for name in both.ids0 if name in ours]
    other = [theirs[name] for name in both.ids1 if name in theirs]
    if not own or not other:
        return ""
    said = []
    size0, size1 = (float(np.median([min(p.width, p.height) for p in some])) for some in (own, other))
    if size1 > 1.5 * size0:
        said.append(f"its images are larger (median short side {size1:g} against {size0:g} pixels)")
    quality0, quality1 = ([p.quality for p in some if p.quality is not None] for some in (own, other))
    if quality0 and quality1 and float(np.median(quality1)) > float(np.median(quality0)) + 5:
        said.append(f"less compressed (median JPEG quality {np.median(quality1):g} against {np.median(quality0):g})")
    return f"{' and '.join(said)}: detail that the in-distribution images lack cannot be added" if said else ""


def _property_rows(subject: Subject, of_set: Mapping[str, Mapping[str, Properties]]) -> list[dict[str, Any]]:
    """``set_properties.csv``: a row per set and number, and one per codec with its share."""
    inputs = sorted({min(n.preprocess.size) for n in subject.evidence.networks.values()})
    rows: list[dict[str, Any]] = []
    for s in subject.evidence.sets:
        own = list(of_set[s.name].values())
        numbers: dict[str, list[float]] = {
            "width": [p.width for p in own],
            "height": [p.height for p in own],
            "aspect": [p.aspect for p in own],
            "JPEG quality": [p.quality for p in own if p.quality is not None],
            "sharpness": [p.sharpness for p in own],
            **{f"upsampling to {side}": [side / min(p.width, p.height) for p in own] for side in inputs},
        }
        for name, values in numbers.items():
            low, middle, high = np.quantile(values, [0.05, 0.5, 0.95]) if values else (np.nan,) * 3
            rows.append(
                {
                    **{"dataset": s.name, "role": s.role, "property": name, "n": len(values)},
                    **{"p5": float(low), "median": float(middle), "p95": float(high), "share": np.nan},
                }
            )
        for codec, count in sorted(Counter(p.codec for p in own).items()):
            name = "stored as arrays" if codec == PIXELS else f"codec {codec}"
            rows.append(
                {
                    **{"dataset": s.name, "role": s.role, "property": name, "n": count},
                    **{"p5": np.nan, "median": np.nan, "p95": np.nan, "share": count / len(own)},
                }
            )
    return rows
