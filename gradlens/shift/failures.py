"""Which images are got wrong: the most confident errors, flips between paired images, what every model gets wrong.

Nothing here judges why. An image that every model gets wrong may be mislabelled (:mod:`gradlens.shift.label_noise`),
may show several things, or may be beyond all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from gradlens.shift.panel import Panel

Kind = Literal["confident error", "flip", "wrong in every model"]

CONFIDENT = 0.9
"""An error at this confidence or above is counted as a confident one."""


@dataclass(frozen=True)
class Failure:
    """One image that a model, or every model, gets wrong.

    Attributes:
        model: its name; empty where it is every model.
        dataset, id: the image.
        kind: why it is listed.
        label: its true class.
        predicted: what the model says; of every model, what most of them say (of equal ones the first by name).
        confidence: probability of ``predicted``, mean over the models that say so; NaN without logits.
        margin: that less the probability of the true class, in [0, 1] for a most likely answer; NaN where not known.
        models_wrong, models: how many models get the image wrong, of how many that were given it.
        pair: id of the in-distribution image of its scene; empty where there is none.
        in_dist_prediction: what the model says about that image; empty where there is none, and for every model.
    """

    model: str
    dataset: str
    kind: Kind
    id: str
    label: str
    predicted: str
    confidence: float
    margin: float
    models_wrong: int
    models: int
    pair: str
    in_dist_prediction: str


@dataclass(frozen=True)
class Tally:
    """How often one model fails on one set.

    Attributes:
        n: images; errors: of them wrong; confident: errors at :data:`CONFIDENT` or above (-1 without logits).
        pairs: images with a partner in distribution; flips: right there, wrong here; recovered: the reverse.
    """

    model: str
    dataset: str
    n: int
    errors: int
    confident: int
    pairs: int
    flips: int
    recovered: int


def confident_errors(probe: Panel, in_dist: Panel | None = None, most: int = 20) -> list[Failure]:
    """Of each model the ``most`` errors with the highest confidence, highest first; none without logits.

    Equal confidence ranks by how many models err, then by id.

    Args:
        probe: the set they are on.
        in_dist: the set its pairs refer to, asked the same models in the same order, or ``None``.
        most: how many of each model.
    """
    known = probe.wrong & ~np.isnan(probe.confidence)
    return _listed("confident error", known, probe, in_dist, most)


def flips(probe: Panel, in_dist: Panel, most: int = 20) -> list[Failure]:
    """Of each model the ``most`` images that it gets wrong though it is right on the same scene in distribution.

    Highest confidence first; without logits, and where equal, by how many models err, then by id.
    """
    return _listed("flip", flipped(probe, in_dist), probe, in_dist, most)


def flipped(probe: Panel, in_dist: Panel) -> np.ndarray:
    """(M, n) bool: wrong here, right on the paired in-distribution image."""
    partner = probe.partners(in_dist)
    return probe.wrong & (partner >= 0) & in_dist.right[:, partner]


def recovered(probe: Panel, in_dist: Panel) -> np.ndarray:
    """(M, n) bool: right here, wrong on the paired in-distribution image."""
    partner = probe.partners(in_dist)
    return probe.right & (partner >= 0) & in_dist.wrong[:, partner]


def wrong_in_all(probe: Panel) -> np.ndarray:
    """(n,) bool: every model was given the image, there are at least two, and all are wrong."""
    return np.asarray(probe.wrong.all(axis=0)) & (len(probe.models) > 1)


def wrong_in_every_model(probe: Panel, most: int = 20) -> list[Failure]:
    """The ``most`` images that every model gets wrong, those with the most equal answers first, then the most certain.

    Empty for a single model.
    """
    found = []
    for i in np.flatnonzero(wrong_in_all(probe)).tolist():
        votes = np.bincount(probe.answers[:, i], minlength=len(probe.classes))
        leading = [k for k in range(len(probe.classes)) if votes[k] == votes.max()]
        said = min(leading, key=lambda k: probe.classes[k])
        own = probe.answers[:, i] == said
        confidence, margin = (_mean(values[own, i]) for values in (probe.confidence, probe.margin))
        failure = _failure("wrong in every model", probe, i, said, confidence, margin)
        found.append((-int(votes.max()), -np.nan_to_num(confidence), probe.ids[i], failure))
    return [failure for *_, failure in sorted(found, key=lambda f: f[:3])[:most]]


def tallies(probe: Panel, in_dist: Panel | None = None) -> list[Tally]:
    """How often each model fails on a set; ``in_dist`` where its pairs refer to it."""
    shape = probe.answers.shape
    lost = flipped(probe, in_dist) if in_dist is not None else np.zeros(shape, dtype=bool)
    won = recovered(probe, in_dist) if in_dist is not None else np.zeros(shape, dtype=bool)
    paired = np.zeros(shape, dtype=bool)
    if in_dist is not None:
        partner = probe.partners(in_dist)
        paired = probe.answered & (partner >= 0) & in_dist.answered[:, partner]
    sure = probe.wrong & (np.nan_to_num(probe.confidence) >= CONFIDENT)
    scored = (probe.answered & ~np.isnan(probe.confidence)).any(axis=1)
    return [
        Tally(
            name,
            probe.dataset,
            int(probe.answered[m].sum()),
            int(probe.wrong[m].sum()),
            int(sure[m].sum()) if scored[m] else -1,
            int(paired[m].sum()),
            int(lost[m].sum()),
            int(won[m].sum()),
        )
        for m, name in enumerate(probe.models)
    ]


def _listed(kind: Kind, chosen: np.ndarray, probe: Panel, in_dist: Panel | None, most: int) -> list[Failure]:
    """The ``most`` of the chosen (M, n) images of each model."""
    others = probe.wrong.sum(axis=0)
    partner = probe.partners(in_dist) if in_dist is not None else np.full(len(probe), -1)
    found = []
    for m, name in enumerate(probe.models):
        images = np.flatnonzero(chosen[m])  # in the order of their ids
        order = np.lexsort((images, -others[images], -np.nan_to_num(probe.confidence[m, images])))
        for i in images[order[:most]].tolist():
            answer = int(probe.answers[m, i])
            failure = _failure(kind, probe, i, answer, float(probe.confidence[m, i]), float(probe.margin[m, i]), name)
            if partner[i] >= 0 and in_dist is not None and (before := in_dist.answers[m, partner[i]]) >= 0:
                failure = replace(failure, in_dist_prediction=in_dist.classes[before])
            found.append(failure)
    return found


def _failure(
    kind: Kind, probe: Panel, i: int, answer: int, confidence: float, margin: float, model: str = ""
) -> Failure:
    return Failure(
        model=model,
        dataset=probe.dataset,
        kind=kind,
        id=probe.ids[i],
        label=probe.classes[probe.labels[i]],
        predicted=probe.classes[answer],
        confidence=confidence,
        margin=margin,
        models_wrong=int(probe.wrong[:, i].sum()),
        models=int(probe.answered[:, i].sum()),
        pair=probe.pairs[i] or "",
        in_dist_prediction="",
    )


def _mean(values: Sequence[float] | np.ndarray) -> float:
    known = np.sort(np.asarray(values)[~np.isnan(values)])  # sorted, so that the order of the models cannot move a bit
    return float(known.mean()) if len(known) else float("nan")
