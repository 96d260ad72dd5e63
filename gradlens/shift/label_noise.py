"""Labels that all good models contradict with one voice, and what the accuracy would be if those labels were wrong.

Of the models given, those whose accuracy on this very set reaches :data:`GOOD` are the jury; they must be of at least
:data:`JURY` families, because seeds of one architecture err alike (``resnet-s1`` is of the family ``resnet``). An image
is *contradicted* when every juror names the same class and that class is not its label.

What this is not: a proof. Models that learnt the same shortcut err together (which is why the jury is chosen by its
accuracy on the set itself, not in distribution), and :func:`expected` says how many images a jury of these errors
would contradict if its families erred independently of one another.

Where it leaves Northcutt, Jiang & Chuang 2021, "Confident learning: estimating uncertainty in dataset labels" (JAIR):
they take one model's out-of-sample probabilities and a threshold per class, and estimate the joint distribution of
noisy and true labels; here several models vote with hard answers, which published predictions have too, and no
distribution is estimated. An image is listed only when nobody dissents, so one juror's slip hides a wrong label.

Measured on the published hard predictions of five models for CIFAR-10's 10,000 test images, with 5 % of the labels
replaced by a random other class (mean of five draws): 84 % of the planted labels are listed, and 90 % of what is listed
was planted; most of the rest are the 50 images that all five contradict as published. On the 2,021 images of
CIFAR-10.1 v4, where four models are jurors: 77 % and 66 %, with 43 contradicted as published.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradlens.shift import intervals
from gradlens.shift.lines import family_of
from gradlens.shift.panel import Panel

GOOD = 0.8
"""Accuracy on the set that makes a model a juror."""

JURY = 3
"""Families of jurors that are needed."""


@dataclass(frozen=True)
class Contradicted:
    """An image whose label every juror contradicts.

    Attributes:
        dataset, id: the image; label: its class as labelled; vote: the class the jury names.
        jurors: how many, all of one voice.
        agreement: share of *all* models given the image that name the same class, in (0, 1].
        confidence: mean probability the jurors give to their vote; NaN without logits.
    """

    dataset: str
    id: str
    label: str
    vote: str
    jurors: int
    agreement: float
    confidence: float


@dataclass(frozen=True)
class Bounds:
    """The accuracy of one model as labelled, and if every contradicted label were wrong.

    Attributes:
        n: images; contradicted: of them contradicted.
        accuracy: as labelled; low, high: its Clopper-Pearson interval; interval: its name.
        relabelled: with the jury's class in place of every contradicted label.
        removed: on the other images alone; NaN where there are none.
    """

    model: str
    dataset: str
    juror: bool
    n: int
    contradicted: int
    accuracy: float
    low: float
    high: float
    interval: str
    relabelled: float
    removed: float


def jury(panel: Panel, good: float = GOOD) -> np.ndarray:
    """(J,) places of the models whose accuracy on the set is at least ``good``."""
    answered = panel.answered.sum(axis=1)
    accuracy = np.divide(panel.right.sum(axis=1), answered, out=np.zeros(len(answered)), where=answered > 0)
    return np.flatnonzero(accuracy >= good)


def families(panel: Panel, jurors: np.ndarray) -> list[str]:
    """The families that the jurors are of, each once, in their order; see :func:`gradlens.shift.lines.family_of`."""
    return list(dict.fromkeys(family_of(panel.models[j]) for j in jurors))


def votes(panel: Panel, jurors: np.ndarray) -> np.ndarray:
    """(n,) the class that every juror names where it is not the label; -1 elsewhere, and where a juror is silent."""
    if not len(jurors):
        return np.full(len(panel), -1, dtype=np.int64)
    said = panel.answers[jurors]
    one_voice = (said == said[0]).all(axis=0) & (said[0] >= 0) & (said[0] != panel.labels)
    return np.where(one_voice, said[0], -1)


def contradicted(panel: Panel, jurors: np.ndarray) -> list[Contradicted]:
    """The images whose label the jury contradicts with one voice, the most confident first, then by id."""
    vote = votes(panel, jurors)
    found = []
    for i in np.flatnonzero(vote >= 0).tolist():
        own = np.sort(panel.confidence[jurors, i])  # sorted: the order of the models must not move a bit
        agreeing = int((panel.answers[:, i] == vote[i]).sum())
        found.append(
            Contradicted(
                panel.dataset,
                panel.ids[i],
                panel.classes[panel.labels[i]],
                panel.classes[vote[i]],
                len(jurors),
                agreeing / int(panel.answered[:, i].sum()),
                float(np.nanmean(own)) if not np.isnan(own).all() else float("nan"),
            )
        )
    return sorted(found, key=lambda c: (-np.nan_to_num(c.confidence), c.id))


def expected(panel: Panel, jurors: np.ndarray) -> float:
    """Images that the jury would contradict with one voice if, given the label, its families erred independently.

    The sum over labels y of n_y times the sum over classes c other than y of the product over families of the share of
    images labelled y that the family calls c: of its member that does so least, since the others may err on just the
    same images. All labels are taken as right, so it is an upper bound of what independent errors explain; errors that
    families share make more.
    """
    total = 0.0
    family = np.array([family_of(panel.models[j]) for j in jurors])
    for y in np.unique(panel.labels).tolist():
        own = panel.labels == y
        shares = np.stack(
            [
                np.bincount(a[own & (a >= 0)], minlength=len(panel.classes)) / max(1, int((own & (a >= 0)).sum()))
                for a in panel.answers[jurors]
            ]
        )
        together = np.prod([shares[family == f].min(axis=0) for f in families(panel, jurors)], axis=0)
        total += int(own.sum()) * float(together.sum() - together[y])
    return total


def bounds(panel: Panel, jurors: np.ndarray, confidence: float = 0.95) -> list[Bounds]:
    """The accuracy of each model as labelled and if every contradicted label were wrong.

    A juror can only gain: it named the jury's class. Another model loses where it agreed with the label.
    """
    vote = votes(panel, jurors)
    doubted = vote >= 0
    corrected = np.where(doubted, vote, panel.labels)
    found = []
    for m, name in enumerate(panel.models):
        own = panel.answered[m]
        n, k = int(own.sum()), int(panel.right[m].sum())
        if not n:
            continue
        low, high = intervals.clopper_pearson(k, n, confidence)
        kept = own & ~doubted
        found.append(
            Bounds(
                name,
                panel.dataset,
                m in jurors,
                n,
                int((own & doubted).sum()),
                k / n,
                low,
                high,
                intervals.label("Clopper-Pearson", confidence),
                int((own & (panel.answers[m] == corrected)).sum()) / n,
                int((panel.right[m] & kept).sum()) / int(kept.sum()) if kept.any() else float("nan"),
            )
        )
    return found
