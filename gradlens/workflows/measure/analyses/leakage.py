"""Whether training or in-distribution images are among the images that scores rest on, and what scores are without."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gradlens.data.duplicates import Duplicate, Signatures, known_scenes, near_duplicates
from gradlens.data.sources import ImageSet
from gradlens.figures.contact_sheet import contact_sheet
from gradlens.records import Estimate
from gradlens.shift import leakage, tables
from gradlens.workflows.measure.analyses.analysis import Answer, Outcome, Subject, analysis
from gradlens.workflows.measure.training_data import TrainingSet, of_models

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAKAGE = ("kind", "set_a", "a", "set_b", "b", "distance", "alike", "fine", "exact", "verified", "same_class")
LEAKAGE_SETS = (
    *("kind", "set_a", "set_b", "n_a", "n_b", "pairs", "doubtful", "paired", "leaked", "share", "low", "high"),
    "interval",
)
LEAKAGE_SCORES = ("model", "dataset", "role", "images", "metric", "n", "value", "low", "high", "interval")
MARKED = 0.01  # share of leaked images from which a set is marked
SHOWN = 3  # pairs of each kind in the figure


@dataclass(frozen=True)
class _Scan:
    """The near-duplicates between two sets, or within one.

    Attributes:
        kind: ``probe-train``, ``probe-test``, ``test-train`` or ``within``.
        pairs: found, without those of paired images, whose scenes are known.
        paired: how many verified pairs of paired images there are.
        n_a, n_b: images that could be decoded.
    """

    kind: str
    a: ImageSet
    b: ImageSet
    pairs: list[Duplicate]
    paired: int
    n_a: int
    n_b: int

    @property
    def leaked(self) -> set[str]:
        """Ids in ``a`` that have a verified partner; within a set, all but one of each group of images."""
        verified = [p for p in self.pairs if p.verified]
        return {p.b if self.kind == "within" else p.a for p in verified}


@analysis(
    "leakage",
    "Leakage",
    "Which probe and test images are near-duplicates of training or test images, and the scores without them.",
    cost="images",
)
def of_subject(subject: Subject) -> Outcome:
    """Scans every set against the training sets, the probe sets against the in-distribution set, and each by itself."""
    evidence = subject.evidence
    training = of_models(evidence.networks.values(), subject.request.train, subject.runtime)
    scans = list(_scans(subject, training))
    scores, changes = _scores(subject, training, scans)
    rows = [row for s in scans for row in _pair_rows(s)]
    return Outcome(
        tables={
            "leakage.csv": (LEAKAGE, rows),
            "leakage_sets.csv": (LEAKAGE_SETS, [_set_row(s, subject.request.confidence) for s in scans]),
            "leakage_scores.csv": (LEAKAGE_SCORES, scores),
        },
        figures=[("leakage", _drawing(scans))] if any(s.leaked for s in scans) else [],
        findings=[_main(subject, scans, changes), *_found(scans, subject.request.confidence), *_moves(changes)],
        notes=[*_not_scanned(training), *_doubts(scans), *_undecodable(scans)],
        marks=_marks(scans, training),
        answers=[Answer(3, _answer(scans, training), ("leakage.csv", "leakage_sets.csv", "leakage_scores.csv"))],
    )


# --- looking ---------------------------------------------------------------------------------------------------------


def _scans(subject: Subject, training: Sequence[TrainingSet]) -> Iterable[_Scan]:
    evidence = subject.evidence
    probes = [evidence.images[name] for name in subject.probes] + list(evidence.unlabelled_images.values())
    in_dist = evidence.images[subject.in_dist]
    signed: dict[int, Signatures] = {}

    def scan(kind: str, a: ImageSet, b: ImageSet) -> _Scan:
        for s in (a, b):
            if id(s) not in signed:
                signed[id(s)] = Signatures.of(s, subject.runtime)
        of_a, of_b = signed[id(a)], signed[id(b)]
        found = near_duplicates(of_a, None if kind == "within" else of_b, subject.runtime)
        scenes = known_scenes(a, b)
        others = [p for p in found if not any(p.a in of_one and p.b in of_other for of_one, of_other in scenes)]
        known = sum(p.verified for p in found) - sum(p.verified for p in others)
        return _Scan(kind, a, b, others, known, len(of_a), len(of_b))

    for one in training:
        if one.images is not None:
            yield from (scan("probe-train", p, one.images) for p in probes)
            yield scan("test-train", in_dist, one.images)
    yield from (scan("probe-test", p, in_dist) for p in probes)
    yield from (scan("within", s, s) for s in (in_dist, *probes))


def _pair_rows(s: _Scan) -> list[dict[str, Any]]:
    classes_a, classes_b = _classes(s.a), _classes(s.b)
    return [
        {
            "kind": s.kind,
            "set_a": s.a.name,
            "a": p.a,
            "set_b": s.b.name,
            "b": p.b,
            "distance": p.distance,
            "alike": p.alike,
            "fine": p.fine,
            "exact": p.exact,
            "verified": p.verified,
            "same_class": classes_a[p.a] == classes_b[p.b] if p.a in classes_a and p.b in classes_b else None,
        }
        for p in s.pairs
    ]


def _classes(images: ImageSet) -> dict[str, str]:
    """Class names by id, of the labelled images."""
    return {s.id: images.classes[s.label] for s in images.samples if s.label is not None and images.classes is not None}


def _share(s: _Scan, confidence: float) -> Estimate:
    return leakage.share(len(s.leaked), s.n_a, confidence)


def _set_row(s: _Scan, confidence: float) -> dict[str, Any]:
    share = _share(s, confidence)
    return {
        "kind": s.kind,
        "set_a": s.a.name,
        "set_b": s.b.name,
        "n_a": s.n_a,
        "n_b": s.n_b,
        "pairs": sum(p.verified for p in s.pairs),
        "doubtful": sum(not p.verified for p in s.pairs),
        "paired": s.paired,
        "leaked": len(s.leaked),
        "share": share.value,
        "low": share.low,
        "high": share.high,
        "interval": share.interval,
    }


# --- scores without --------------------------------------------------------------------------------------------------


def _leaked(model: str, dataset: str, training: Sequence[TrainingSet], scans: Sequence[_Scan]) -> set[str]:
    """Ids of a set's images that a model was trained on, or that the in-distribution set has as well."""
    own = {t.images.name for t in training if t.images is not None and model in t.models}
    return {
        name
        for s in scans
        if s.a.name == dataset and (s.kind == "probe-test" or (s.kind != "within" and s.b.name in own))
        for name in s.leaked
    }


def _scores(
    subject: Subject, training: Sequence[TrainingSet], scans: Sequence[_Scan]
) -> tuple[list[dict[str, Any]], list[tuple[str, str, Estimate, Estimate]]]:
    """Rows of ``leakage_scores.csv``, and (model, probe, gap, gap without leaked images) where that differs."""
    request, said = subject.request, subject.evidence.predictions
    rows: list[dict[str, Any]] = []
    changes: list[tuple[str, str, Estimate, Estimate]] = []
    for model in subject.models:
        gone = {s.name: _leaked(model, s.name, training, scans) for s in subject.evidence.sets}
        for s in subject.evidence.sets:
            own = said[model, s.name]
            ids = gone[s.name] & set(own.ids)

            def row(images: str, metric: str, e: Estimate, s: Any = s, model: str = model) -> dict[str, Any]:
                head = {"model": model, "dataset": s.name, "role": s.role, "images": images, "metric": metric}
                return head | {"n": e.n, "value": e.value, "low": e.low, "high": e.high, "interval": e.interval}

            rows.append(row("all", "accuracy", leakage.accuracy(own, request.confidence)))
            clean = leakage.without(own, ids)
            rows.append(row("without leaked", "accuracy", leakage.accuracy(clean, request.confidence)))
            if ids:
                leaked = leakage.only(own, ids)
                rows.append(row("leaked", "accuracy", leakage.accuracy(leaked, request.confidence)))
                rows.append(row("leaked", "advantage", leakage.advantage(own, ids, request.confidence)))
            if s is subject.evidence.in_dist:
                continue
            before = next(
                g.gap
                for g in subject.found.gaps
                if (g.model, g.probe, g.metric, g.label_space) == (model, s.name, "accuracy", "shared")
            )
            after = before
            if ids or gone[subject.in_dist]:
                after = leakage.accuracy_gap(
                    leakage.without(said[model, subject.in_dist], gone[subject.in_dist]),
                    clean,
                    paired=s.paired_with == subject.in_dist,
                    confidence=request.confidence,
                    resamples=request.resamples,
                    seed=subject.runtime.seed,
                ).gap
                changes.append((model, s.name, before, after))
            rows += [row("all", "accuracy gap", before), row("without leaked", "accuracy gap", after)]
    return rows, changes


# --- saying ----------------------------------------------------------------------------------------------------------


def _percent(e: Estimate) -> str:
    return f"{100 * e.value:.1f} % [{100 * e.low:.1f}, {100 * e.high:.1f}]" if e.defined else "no image"


def _points(e: Estimate) -> str:
    return f"{tables.with_interval(e.value, e.low, e.high, signed=True)} points" if e.defined else "not defined"


def _main(subject: Subject, scans: Sequence[_Scan], changes: Sequence[tuple[str, str, Estimate, Estimate]]) -> str:
    scored = [p.name for p in subject.evidence.probes] + list(subject.evidence.unlabelled_images)
    across = [s for s in scans if s.kind in ("probe-train", "probe-test")]
    against = list(dict.fromkeys(f"{s.b.name} ({s.n_b:,} images)" for s in across))
    sides = {s.a.name: s.n_a for s in scans}
    names = scored or [subject.in_dist]
    kinds = ("probe-train", "probe-test") if scored else ("test-train",)
    leaked = {(s.a.name, i) for s in scans if s.kind in kinds for i in s.leaked}
    n = sum(sides[name] for name in names)
    if not scored:
        against = [f"{s.b.name} ({s.n_b:,} images)" for s in scans if s.kind == "test-train"]
    if not against:
        return (
            f"{subject.in_dist}: no training set was to be had, so its {n:,} images were compared with each other only"
        )
    share = leakage.share(len(leaked), n, subject.request.confidence)
    what = "probe images" if scored else f"images of {subject.in_dist}"
    text = f"{len(leaked):,} of {n:,} {what} ({_percent(share)}) are near-duplicates of images in {', '.join(against)}"
    moved = [c for c in changes if c[2].defined and c[3].defined]
    if moved:
        model, probe, before, after = max(moved, key=lambda c: (abs(c[3].value - c[2].value), c[:2]))
        text += (
            f"; without leaked images, the accuracy gap moves most for {model} on {probe}: "
            f"{_points(before)} with them, {_points(after)} without"
        )
    return text


def _found(scans: Sequence[_Scan], confidence: float) -> list[str]:
    """One sentence for each two sets that have near-duplicates."""
    told = []
    for s in scans:
        if s.leaked:
            share = _percent(_share(s, confidence))
            of = "another image of the set" if s.kind == "within" else f"an image of {s.b.name}"
            conflict = sum(row["verified"] and row["same_class"] is False for row in _pair_rows(s))
            text = f"{s.a.name}: {len(s.leaked):,} of {s.n_a:,} images ({share}) repeat {of}"
            told.append(text + (f"; {conflict} pairs have two classes" if conflict else ""))
    return told


def _moves(changes: Sequence[tuple[str, str, Estimate, Estimate]]) -> list[str]:
    told = []
    for probe in dict.fromkeys(c[1] for c in changes):
        moves = [abs(a.value - b.value) for _, p, b, a in changes if p == probe and a.defined and b.defined]
        if moves:
            told.append(
                f"{probe}: without leaked images on either side the accuracy gaps of {len(moves)} models change by "
                f"{100 * float(np.median(moves)):.2f} points (median), at most {100 * max(moves):.2f}"
            )
        lost = sum(p == probe and b.defined and not a.defined for _, p, b, a in changes)
        if lost:
            told.append(f"{probe}: without leaked images nothing is left to compare for {lost} models")
    return told


def _marks(scans: Sequence[_Scan], training: Sequence[TrainingSet]) -> list[str]:
    marks = []
    for s in scans:
        share = len(s.leaked) / s.n_a if s.n_a else 0.0
        if share <= MARKED:
            continue
        count = f"{s.a.name}: {len(s.leaked):,} of {s.n_a:,} images ({100 * share:.1f} %)"
        if s.kind == "within":
            marks.append(f"{count} repeat another image of the set: it holds fewer independent images than n says")
        elif s.kind == "probe-test":
            marks.append(f"{count} are near-duplicates of {s.b.name}: the two sides are not independent")
        else:
            own = [m for t in training if t.images is not None and t.images.name == s.b.name for m in t.models]
            marks.append(
                f"{count} are near-duplicates of {s.b.name}, on which {_some(own) or 'other models'} were trained: "
                "their scores there are too good"
            )
    return marks


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more models" if len(names) > most else "")


def _not_scanned(training: Sequence[TrainingSet]) -> list[str]:
    return [
        f"the training images of {_some(t.models)}{f' ({t.name})' if t.name else ''} were not scanned: {t.reason}"
        for t in training
        if t.images is None
    ]


def _doubts(scans: Sequence[_Scan]) -> list[str]:
    return [
        f"{s.a.name} and {s.b.name}: {n} more pairs come near without being verified; leakage.csv has them"
        if s.kind != "within"
        else f"{s.a.name}: {n} more pairs within it come near without being verified; leakage.csv has them"
        for s in scans
        if (n := sum(not p.verified for p in s.pairs))
    ]


def _undecodable(scans: Sequence[_Scan]) -> list[str]:
    short: Mapping[str, tuple[int, int]] = {
        images.name: (n, len(images)) for s in scans for images, n in ((s.a, s.n_a), (s.b, s.n_b)) if n < len(images)
    }
    return [
        f"{name}: {of - n} of {of} images cannot be decoded and were not compared" for name, (n, of) in short.items()
    ]


def _answer(scans: Sequence[_Scan], training: Sequence[TrainingSet]) -> str:
    parts = []
    for t in training:
        if t.images is None:
            known = (
                f"the training set of {_some(t.models)} was not scanned ({t.reason}), so nothing is said about what "
            )
            parts.append(f"{known[0].upper()}{known[1:]}they have seen.")
            continue
        own = [s for s in scans if s.kind in ("probe-train", "test-train") and s.b is t.images]
        n_train = own[0].n_b if own else len(t.images)
        says = "as --train says" if t.claimed else "as their cards say"
        whose = _some(t.models) or "no model here"
        parts.append(f"{t.images.name} ({n_train:,} images; training set of {whose}, {says}) was scanned.")
        clean = [s.a.name for s in own if not s.leaked]
        if clean:
            parts.append(f"No near-duplicate of it was found in {', '.join(clean)}: their images are unseen.")
        parts += [
            f"{len(s.leaked):,} of {s.n_a:,} images of {s.a.name} are near-duplicates of it, the others are unseen."
            for s in own
            if s.leaked
        ]
    shared = [s for s in scans if s.kind == "probe-test"]
    both = [f"{len(s.leaked):,} of {s.n_a:,} of {s.a.name}" for s in shared if s.leaked]
    if shared:
        text = f"Images that {shared[0].b.name} has as well: " + (", ".join(both) or "none in any set")
        parts.append(
            text + (" (paired images, whose scenes are known, do not count)." if any(s.paired for s in shared) else ".")
        )
    return " ".join(parts)


def _drawing(scans: Sequence[_Scan]) -> Callable[[], Figure]:
    """A sheet of verified pairs, a row for each two kinds of sets: those first that the pixels agree least about."""

    def draw() -> Figure:
        rows = []
        for kind in dict.fromkeys(s.kind for s in scans):
            own = [(s, p) for s in scans if s.kind == kind for p in s.pairs if p.verified]
            own.sort(key=lambda pair: (pair[1].fine, pair[0].a.name, pair[1].a, pair[1].b))
            pictures = [_picture(*side) for s, p in own[:SHOWN] for side in ((s.a, p.a), (s.b, p.b))]
            if pictures:
                rows.append((kind, [*pictures, *[None] * (2 * SHOWN - len(pictures))]))
        return contact_sheet(rows, ["image", "repeats"] * SHOWN, "Near-duplicates, the least certain first")

    return draw


def _picture(images: ImageSet, name: str) -> np.ndarray | None:
    return images.read(next(i for i, s in enumerate(images.samples) if s.id == name))
