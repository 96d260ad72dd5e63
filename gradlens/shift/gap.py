"""The generalization gap: in-distribution score minus probe score of one model, with its interval and its parts.

Which images and classes count
    ``shared`` label space (always): the classes of which both sides have images and which the model knows; images of
    other classes are left out, and the model answers with one of the shared classes (its largest logit among them;
    with hard predictions, an answer outside counts as wrong). ``full`` as well where both sides have images of the
    same classes: all labelled images, unmasked.

Which interval
    Two independent samples: Newcombe's hybrid score interval for shares of images, else the difference of independent
    bootstraps. The same scenes on both sides (a probe image's ``pair`` names the in-distribution image of its scene):
    Newcombe's paired interval, else a bootstrap that draws scenes. Where a scene has several probe images, the scene
    stays the unit: its in-distribution image counts once for each of them, and every metric gets the bootstrap.

Partly paired sets
    If at least nine tenths of the probe images have their partner among the scored images, those pairs are compared
    and nothing else; the number stands in the interval's name. With fewer, all images are compared as independent
    samples, which makes the interval wider than need be, never narrower, and the interval's name says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy import sparse
from scipy.special import ndtri

from gradlens.errors import InputError
from gradlens.records import Estimate, GapReport, Predictions
from gradlens.shift import intervals
from gradlens.shift.metrics import (
    METRICS,
    Columns,
    Counts,
    Scored,
    classes_with_images,
    columns_of,
    metric_name,
    on_classes,
    resampled,
    unknown_images,
)

ENOUGH_PAIRS = 0.9
"""Share of the probe images that must have a partner for a paired comparison."""


# --- label spaces ----------------------------------------------------------------------------------------------------


def shared_classes(in_dist: Predictions, probe: Predictions) -> tuple[str, ...]:
    """Classes of which both sides have images and which the model knows, in the in-distribution set's order."""
    there, known = set(classes_with_images(probe)), set(in_dist.classes) & set(probe.classes)
    return tuple(name for name in classes_with_images(in_dist) if name in there and name in known)


def same_classes(in_dist: Predictions, probe: Predictions) -> bool:
    """Whether both sides have images of the same classes, so that a gap over all of them can be told."""
    return set(classes_with_images(in_dist)) == set(classes_with_images(probe))


def label_space_note(in_dist: Predictions, probe: Predictions) -> str:
    """What the shared label space leaves out, in one sentence; empty where it leaves out nothing.

    >>> label_space_note(cifar10, internet)  # doctest: +SKIP
    'compared on 9 of 10 classes; no image of deer in cifar10-internet'
    """
    ours, theirs = classes_with_images(in_dist), classes_with_images(probe)
    shared = shared_classes(in_dist, probe)
    every = tuple(dict.fromkeys(ours + theirs))
    if len(shared) == len(every):
        return ""
    parts = [f"compared on {len(shared)} of {len(every)} classes"]
    for side, has in ((in_dist, set(ours)), (probe, set(theirs))):
        if gone := [name for name in every if name not in has]:
            parts.append(f"no image of {_listed(gone)} in {side.dataset}")
    strangers = {**unknown_images(in_dist), **unknown_images(probe)}
    if strangers:
        parts.append(f"{in_dist.model} does not know {_listed(list(strangers))}")
    return "; ".join(parts)


def _listed(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# --- the two sides, as samples of units ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sides:
    """Both sides in one label space, ready to be compared.

    Attributes:
        in_dist, probe: columns; of the same scenes in the same order where paired.
        n_in_dist, n_probe: images.
        paired: whether the units are scenes.
        single: whether each scene has one probe image (or the sides are independent).
        remark: what the interval's name should add.
    """

    in_dist: Columns
    probe: Columns
    n_in_dist: int
    n_probe: int
    paired: bool
    single: bool
    remark: str = ""


def _sides(in_dist: Scored, probe: Scored, paired: bool, top_k: int) -> _Sides:
    a, b = columns_of(in_dist, top_k), columns_of(probe, top_k)
    independent = _Sides(a, b, len(in_dist), len(probe), paired=False, single=True)
    if not paired:
        return independent
    place = {name: i for i, name in enumerate(in_dist.ids)}
    partner = np.array([place.get(pair, -1) if pair is not None else -1 for pair in probe.pairs], dtype=np.int64)
    image = np.flatnonzero(partner >= 0)
    if len(image) < ENOUGH_PAIRS * len(probe):
        return replace(independent, remark=f"; only {len(image)} of {len(probe)} probe images are paired")
    scenes, scene = np.unique(partner[image], return_inverse=True)
    names = np.array(in_dist.classes, dtype=object)
    differ = np.flatnonzero(names[in_dist.truth[partner[image]]] != np.array(probe.classes, object)[probe.truth[image]])
    if len(differ):
        one = image[differ[0]]
        raise InputError(
            f"{probe.dataset}: {probe.ids[one]!r} is labelled {probe.classes[probe.truth[one]]!r} but its pair "
            f"{probe.pairs[one]!r} in {in_dist.dataset} is {names[in_dist.truth[partner[one]]]!r}; "
            "a pair must show the same class"
        )
    times = np.bincount(scene)
    single = bool((times == 1).all())
    shape = len(scenes)
    ones = np.ones(len(image))
    return _Sides(
        a.take(sparse.csr_array((ones, (scene, partner[image])), (shape, len(in_dist))), _cells(a, scenes, single)),
        b.take(
            sparse.csr_array((ones, (scene, image)), (shape, len(probe))), _cells(b, image[np.argsort(scene)], single)
        ),
        len(image),
        len(image),
        paired=True,
        single=single,
        remark=(f", {len(image)} of {len(probe)} pairs" if len(image) < len(probe) else "")
        + ("" if single else f", {len(image)} probe images of {len(scenes)} scenes"),
    )


def _cells(columns: Columns, images: np.ndarray, single: bool) -> np.ndarray | None:
    return columns.cells[images] if single and columns.cells is not None else None


# --- gaps ------------------------------------------------------------------------------------------------------------


def gaps(
    in_dist: Predictions,
    probe: Predictions,
    *,
    paired: bool,
    top_k: int = 5,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[GapReport]:
    """Every metric's gap in every label space (see the module's head), in the order of the metrics.

    A gap that is not defined (top-5 of five shared classes, no class in common) has the reason in its interval's name.

    Args:
        in_dist, probe: what one model said about each set.
        paired: whether the probe's ``pairs`` name images of the in-distribution set.
        top_k: k of top-k accuracy.
        confidence: nominal coverage of the intervals.
        resamples: of the bootstrap.
        seed: of the bootstrap; the same seed gives the same ends.

    Raises:
        ValueError: the sides are of different models.
        InputError: class names are ambiguous, logits are not finite, or a pair shows two classes.
    """
    if in_dist.model != probe.model:
        raise ValueError(f"a gap is of one model, got {in_dist.model} and {probe.model}")
    shared = shared_classes(in_dist, probe)
    spaces: list[tuple[Literal["shared", "full"], tuple[str, ...] | None]] = [("shared", shared)]
    if same_classes(in_dist, probe):
        spaces.append(("full", None))
    reports: list[GapReport] = []
    for space, classes in spaces:
        everything = set(classes_with_images(in_dist))
        if space == "full" and set(shared) == everything == set(in_dist.classes) == set(probe.classes):
            # nothing was masked and nothing left out, so this is the same comparison
            reports += [replace(report, label_space="full") for report in reports]
            break
        a, b = on_classes(in_dist, classes), on_classes(probe, classes)
        reports += _compared(a, b, space, paired, top_k, confidence, resamples, seed)
    return reports


def _compared(
    a: Scored,
    b: Scored,
    space: Literal["shared", "full"],
    paired: bool,
    top_k: int,
    confidence: float,
    resamples: int,
    seed: int,
) -> list[GapReport]:
    def report(name: str, gap: Estimate, **rest: Any) -> GapReport:
        common = {"model": a.model, "in_dist": a.dataset, "probe": b.dataset, "label_space": space}
        return GapReport(metric=metric_name(name, top_k), gap=gap, classes=len(a.classes), **{**common, **rest})

    none = {"in_dist_value": math.nan, "probe_value": math.nan, "mix": math.nan, "within": math.nan}
    if not (len(a) and len(b)):
        empty = a.dataset if not len(a) else b.dataset
        reason = f"not defined: no labelled image of a shared class in {empty}"
        undefined = Estimate.undefined(reason, 0)
        counts = {"n_in_dist": len(a), "n_probe": len(b), "paired": False}
        return [report(name, undefined, **none, **counts) for name in METRICS]

    sides = _sides(a, b, paired, top_k)
    left, right = sides.in_dist.values(), sides.probe.values()
    if sides.paired:
        draws0, draws1 = resampled([sides.in_dist, sides.probe], resamples, seed)
    else:
        draws0 = resampled([sides.in_dist], resamples, seed, stream=0)[0]
        draws1 = resampled([sides.probe], resamples, seed, stream=1)[0]
    n = min(sides.n_in_dist, sides.n_probe)
    reports = []
    for name, m in METRICS.items():
        counts = {"n_in_dist": sides.n_in_dist, "n_probe": sides.n_probe, "paired": sides.paired}
        missing = sides.in_dist.missing.get(name) or sides.probe.missing.get(name)
        if missing:
            values = {**none, "in_dist_value": left.get(name, math.nan), "probe_value": right.get(name, math.nan)}
            reports.append(report(name, Estimate.undefined(missing, n), **values, **counts))
            continue
        gap = left[name] - right[name]
        if m.proportion and sides.single:
            low, high, method = _of_proportions(name, sides, confidence)
        else:
            low, high, method = intervals.bootstrap(
                draws0[name] - draws1[name], gap, confidence, inflated=m.inflated, ends=(-1.0, 1.0)
            )
            method = f"paired {method}" if sides.paired else method
        # sums and differences of floats may put an end 1e-17 on the wrong side of the gap
        estimate = Estimate(gap, min(low, gap), max(high, gap), n, intervals.label(method, confidence) + sides.remark)
        mix, within = decompose(sides.in_dist.total("counts"), sides.probe.total("counts"))
        values = {"in_dist_value": left[name], "probe_value": right[name]}
        values |= {"mix": mix, "within": within} if name == "accuracy" else {"mix": math.nan, "within": math.nan}
        reports.append(report(name, estimate, **values, **counts))
    return reports


def _of_proportions(name: str, sides: _Sides, confidence: float) -> tuple[float, float, str]:
    """Low, high and method for the gap of a share of images; each unit is one image (or one pair)."""
    right0, right1 = (_right(name, columns) for columns in (sides.in_dist, sides.probe))
    if not sides.paired:
        low, high = intervals.newcombe(int(right0.sum()), len(right0), int(right1.sum()), len(right1), confidence)
        return low, high, "Newcombe"
    both, first, second = (int(side.sum()) for side in (right0 & right1, right0 & ~right1, ~right0 & right1))
    low, high = intervals.newcombe_paired(both, first, second, len(right0) - both - first - second, confidence)
    return low, high, "paired Newcombe"


def _right(name: str, columns: Columns) -> np.ndarray:
    """(units,) bool: whether the unit counts for the proportion ``name``."""
    if name == "topk":
        return np.asarray(columns.parts["grades"][:, 1] > 0)
    counts = columns.parts["counts"]
    k = (counts.shape[1] - 1) // 3
    return np.asarray(counts[:, 1 : 1 + k].sum(axis=1) > 0).ravel()


def decompose(in_dist: Counts, probe: Counts) -> tuple[float, float]:
    """(mix, within): the parts of an accuracy gap; they add up to it.

    With q a class's share of the images and a its accuracy, 0 in distribution and 1 on the probe set,
    mix = sum (q0 - q1) (a0 + a1) / 2: the probe has more images of classes that are hard anyway;
    within = sum (q0 + q1) / 2 (a0 - a1): the same class got harder.
    Kitagawa 1955, "Components of a difference between two rates"; Oaxaca 1973; Blinder 1973.

    Args:
        in_dist, probe: counts with B = 1 over the same classes; a class without images on one side is taken to have
            the other side's accuracy there, so that its share goes to the mix.
    """
    q0, q1 = (side.truths[0] / side.images[0] for side in (in_dist, probe))
    a0, a1 = (side.recall[0] for side in (in_dist, probe))
    a0, a1 = np.where(q0 > 0, a0, a1), np.where(q1 > 0, a1, a0)
    return float(((q0 - q1) * (a0 + a1)).sum() / 2), float(((q0 + q1) * (a0 - a1)).sum() / 2)


def detectable_gap(
    accuracy: float, n_in_dist: int, n_probe: int, confidence: float = 0.95, power: float = 0.8
) -> float:
    """The smallest true accuracy gap that two independent samples of these sizes would show, in [0, 1].

    delta = (z_{1-alpha/2} + z_power) sqrt(p (1 - p) (1/n0 + 1/n1)), two-sided, with p the accuracy pulled towards one
    half as if two right and two wrong in-distribution images were added (Agresti & Coull 1998), since p = 1 would make
    every gap detectable. Fleiss 1981. Paired sets detect smaller gaps.

    >>> f"{detectable_gap(0.85, 10_000, 200):.3f}"
    '0.071'
    """
    if n_in_dist < 1 or n_probe < 1:
        return 1.0
    p = (accuracy * n_in_dist + 2) / (n_in_dist + 4)
    z = float(ndtri((1 + confidence) / 2) + ndtri(power))
    return min(1.0, z * math.sqrt(p * (1 - p) * (1 / n_in_dist + 1 / n_probe)))
