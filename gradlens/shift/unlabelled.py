"""The accuracy of a model on images without labels, estimated from what it says about them.

An estimator compares a labelled in-distribution set with an unlabelled one and returns a guess at the share of images
that the model gets right there, in [0, 1]. Each rests on an assumption that the images themselves cannot confirm, so
none is worth more than its error on the sets of the same run that do have labels.

======================  ==================================================  ===========================
estimator               idea                                                paper
======================  ==================================================  ===========================
in_dist_accuracy        nothing has changed                                 (what has to be beaten)
average_confidence      confidence is accuracy                              Guo et al. 2017
doc                     accuracy falls as much as confidence does           Guillory et al. 2021
atc_max_confidence      as many are right as lie above a learned threshold  Garg et al. 2022
atc_negative_entropy    the same, on the entropy                            Garg et al. 2022
cot                     mass that must move to reach the known class mix    Lu et al. 2023
nuclear_norm            confident and varied answers are right              Deng et al. 2023
agreement               models agree as often as they are right             Jiang et al. 2022
aline_s, aline_d        accuracy lies on the line that agreement lies on    Baek et al. 2022
bbse                    only the class mix has changed (from predictions)   Lipton et al. 2018
em                      only the class mix has changed (from probabilities) Saerens et al. 2002
======================  ==================================================  ===========================

An estimator is written once, for many weightings of the images at a time: weights of one give the estimate, counts of
images drawn with replacement give its bootstrap. Probabilities come from :attr:`Side.logits`, which a caller divides
by a temperature or leaves raw *on both sides*; a threshold is never set on one kind and applied to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations
from typing import Any, Literal

import numpy as np
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp, ndtr, ndtri, xlogy
from scipy.stats import linregress
from scipy.stats import t as student

from gradlens.errors import InputError
from gradlens.records import Estimate, Predictions
from gradlens.registry import Registry
from gradlens.shift import intervals

Needs = Literal["predictions", "probabilities", "models", "sets"]
Weighted = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From (B, n0) weights of the in-distribution images and (B, n1) of the unlabelled ones to (B, ...) estimates."""

MOST_RESAMPLES = 500  # an end of a 95 % interval then moves by about a tenth of the interval from seed to seed
WORK = 2e10  # multiplications of one bootstrap; fewer resamples are made where one takes more
FEWEST_RESAMPLES = 100  # an interval from fewer is not given
TRANSPORTED = 1000  # images that the assignment is solved for; its potentials then price all images
MOST_PROBABILITIES = 2**24  # of one side, at once: 16,777 images of 1,000 classes
EM_STEPS, EM_STILL = 500, 1e-5  # the class mix stands still when no share of it moves by more
_CHUNK = 2**21  # weights of one side at once
_SEEN, _NEW = 0, 1  # streams of the draws


# --- the two sides ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Side:
    """One model's answers on one set, in the order of their ids (so that no result depends on the order of files).

    Attributes:
        classes: K names, in the order of the logits.
        ids: n ids.
        predicted: (n,) into ``classes``.
        truth: (n,) into ``classes``, -1 where the model does not know the true class; ``None`` where it is not told.
        logits: (n, K) float, divided by the temperature in use; ``None`` for hard predictions.
    """

    classes: tuple[str, ...]
    ids: tuple[str, ...]
    predicted: np.ndarray
    truth: np.ndarray | None
    logits: np.ndarray | None

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, temperature: float) -> Side:
        """The same answers with logits divided by ``temperature``; what is computed of them is kept there, not here."""
        logits = self.logits if self.logits is None or temperature == 1 else self.logits / temperature
        return Side(self.classes, self.ids, self.predicted, self.truth, logits)

    def take(self, rows: np.ndarray) -> Side:
        """Some of its images."""
        return Side(
            self.classes,
            tuple(self.ids[i] for i in rows),
            self.predicted[rows],
            None if self.truth is None else self.truth[rows],
            None if self.logits is None else self.logits[rows],
        )

    @property
    def hidden(self) -> Side:
        """The same answers, the truth untold."""
        return Side(self.classes, self.ids, self.predicted, None, self.logits)

    @cached_property
    def right(self) -> np.ndarray:
        """(n,) bool."""
        assert self.truth is not None
        return self.predicted == self.truth

    @cached_property
    def log_confidence(self) -> np.ndarray:
        """(n,) ln of the largest probability, <= 0; tells confidences apart that both round to 1."""
        return np.concatenate([_log_confidence(z) for z in self._blocks()])

    @cached_property
    def negative_entropy(self) -> np.ndarray:
        """(n,) sum of p ln p, in [-ln K, 0]."""
        return np.concatenate([xlogy(p, p).sum(axis=1) for p in map(_softmax, self._blocks())])

    @cached_property
    def thinned(self) -> np.ndarray:
        """Indices of the images whose probabilities are worked on at once: all, or a random part of very many."""
        most = max(1, MOST_PROBABILITIES // len(self.classes))
        if len(self) <= most:
            return np.arange(len(self))
        return np.sort(np.random.default_rng(len(self)).choice(len(self), most, replace=False))

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(m, K) of the images ``thinned``."""
        assert self.logits is not None
        return _softmax(self.logits[self.thinned].astype(np.float64))

    def _blocks(self) -> Iterator[np.ndarray]:
        assert self.logits is not None
        rows = max(1, 2**22 // self.logits.shape[1])
        for start in range(0, max(1, len(self)), rows):
            yield self.logits[start : start + rows].astype(np.float64)


def side_of(predictions: Predictions, *, labelled: bool) -> Side:
    """A model's answers on a set.

    Args:
        predictions: of one model on one set.
        labelled: take the images that have a label, and tell it; else take all images, and tell none.

    Raises:
        InputError: a class name of the model occurs twice, or logits are not finite.
    """
    p = predictions
    where = f"{p.model} on {p.dataset}"
    if len(set(p.classes)) < len(p.classes):
        raise InputError(f"{where}: a class of the model occurs twice; classes are matched by name, so rename one")
    kept = np.flatnonzero(p.labels >= 0) if labelled else np.arange(len(p))
    order = np.array(sorted(kept, key=lambda i: p.ids[i]), dtype=np.int64)
    place = {name: i for i, name in enumerate(p.classes)}
    known = np.array([place.get(name, -1) for name in p.label_classes], dtype=np.int64)
    logits = None if p.logits is None else p.logits[order]
    if logits is not None and not np.isfinite(logits).all():
        raise InputError(f"{where}: some logits are not finite; such images must be listed as skipped")
    return Side(
        p.classes,
        tuple(p.ids[i] for i in order),
        p.predicted[order],
        known[p.labels[order]] if labelled else None,
        logits,
    )


def _log_confidence(z: np.ndarray) -> np.ndarray:
    others = z - z.max(axis=1, keepdims=True)
    others[np.arange(len(z)), z.argmax(axis=1)] = -np.inf
    return -np.log1p(np.exp(others).sum(axis=1))


def _softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z - logsumexp(z, axis=1, keepdims=True))


# --- the registry ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimator:
    """A way to guess accuracy without labels.

    Attributes:
        name, title: as tables and figures call it.
        of: makes a :data:`Weighted` function; what it takes depends on ``needs``.
        needs: ``"predictions"`` or ``"probabilities"`` of one model: ``of(in_dist, unlabelled)``, sides;
            ``"models"``: ``of(in_dist, unlabelled)``, lists of sides of at least three models over the same images;
            ``"sets"``: what :func:`nuclear_norm` takes.
        assumption: what must hold, as one clause.
        cost: multiplications of one resample, of (n0, n1, classes, models).
    """

    name: str
    title: str
    of: Callable[..., Any]
    needs: Needs
    assumption: str
    cost: Callable[[int, int, int, int], float]


ESTIMATORS: Registry[Estimator] = Registry("estimator")


def estimator(
    name: str,
    title: str,
    needs: Needs,
    assumption: str,
    cost: Callable[[int, int, int, int], float] = lambda n0, n1, k, m: 10.0 * (n0 + n1),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """File a function as an estimator."""

    def file(function: Callable[..., Any]) -> Callable[..., Any]:
        ESTIMATORS.register(name)(Estimator(name, title, function, needs, assumption, cost))
        return function

    return file


def _mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(B,) or (B, m) weighted means of (n,) or (n, m) values."""
    total = weights.sum(axis=1)
    mean = weights @ values
    return mean / (total if mean.ndim == 1 else total[:, None])


# --- one model -------------------------------------------------------------------------------------------------------


@estimator("in_dist_accuracy", "In-distribution accuracy", "predictions", "nothing that matters has changed")
def in_dist_accuracy(in_dist: Side, unlabelled: Side) -> Weighted:
    """The accuracy in distribution, as if there were no shift: the guess that an estimator has to beat."""
    return lambda w0, w1: _mean(w0, in_dist.right.astype(float))


@estimator(
    "average_confidence",
    "Average confidence",
    "probabilities",
    "the model is as well calibrated on the new images as its probabilities claim",
)
def average_confidence(in_dist: Side, unlabelled: Side) -> Weighted:
    """Mean over the unlabelled images of max_k p_k, in [1/K, 1].

    Guo et al. 2017, "On calibration of modern neural networks": for a calibrated model this is its accuracy. The
    baseline of Garg et al. 2022.
    """
    confidence = np.exp(unlabelled.log_confidence)
    return lambda w0, w1: _mean(w1, confidence)


@estimator(
    "doc", "DoC", "probabilities", "accuracy falls by as many points as mean confidence does, whatever the shift"
)
def doc(in_dist: Side, unlabelled: Side) -> Weighted:
    """In-distribution accuracy less the fall of mean confidence, cut to [0, 1].

    acc = acc_S - (mean_S max p - mean_T max p). Guillory et al. 2021, "Predicting with confidence on unseen
    distributions" (difference of confidences), without the regression that they fit on further shifted sets.
    """
    right, seen, new = in_dist.right.astype(float), np.exp(in_dist.log_confidence), np.exp(unlabelled.log_confidence)
    return lambda w0, w1: np.clip(_mean(w0, right - seen) + _mean(w1, new), 0, 1)


@estimator(
    "atc_max_confidence",
    "ATC, confidence",
    "probabilities",
    "the confidence above which as many images lie as are right is the same on the new images",
)
def atc_max_confidence(in_dist: Side, unlabelled: Side) -> Weighted:
    """Share of unlabelled images at or above the threshold t of maximum confidence, in [0, 1].

    t is such that the share of in-distribution images below it is their error rate:
    E_S[s < t] = E_S[wrong], acc_T = E_T[s >= t], s = max p. Garg et al. 2022, "Leveraging unlabeled data to predict
    out-of-distribution performance", equations 1 and 2. The score is ln max p: the same order, without ties at 1.
    """
    return _above_threshold(in_dist.log_confidence, in_dist.right, unlabelled.log_confidence)


@estimator(
    "atc_negative_entropy",
    "ATC, entropy",
    "probabilities",
    "the entropy below which as many images lie as are right is the same on the new images",
)
def atc_negative_entropy(in_dist: Side, unlabelled: Side) -> Weighted:
    """As :func:`atc_max_confidence`, with s = sum of p ln p. Garg et al. 2022."""
    return _above_threshold(in_dist.negative_entropy, in_dist.right, unlabelled.negative_entropy)


def _above_threshold(seen: np.ndarray, right: np.ndarray, new: np.ndarray) -> Weighted:
    order0, order1 = np.argsort(seen, kind="stable"), np.argsort(new, kind="stable")
    ascending = seen[order0]
    # how many new images lie below each candidate for the threshold; beyond the last one, all
    below = np.append(np.searchsorted(new[order1], ascending, side="left"), len(new))
    wrong = (~right).astype(float)

    def of(w0: np.ndarray, w1: np.ndarray) -> np.ndarray:
        cumulative = w0[:, order0].cumsum(axis=1)
        # the first image with more weight up to it than is wrong; equal scores are not told apart below
        at = (cumulative <= (w0 @ wrong)[:, None] + 1e-9).sum(axis=1)
        under = np.concatenate([np.zeros((len(w1), 1)), w1[:, order1].cumsum(axis=1)], axis=1)
        return 1 - under[np.arange(len(w1)), below[at]] / under[:, -1]

    return of


@estimator(
    "cot",
    "COT",
    "probabilities",
    "the new images have the class mix of the in-distribution set",
    lambda n0, n1, k, m: 10.0 * (n0 + n1),
)
def cot(in_dist: Side, unlabelled: Side) -> Weighted:
    """One less the cost of carrying the softmax outputs to one-hot labels of the in-distribution class mix, in [0, 1].

    Carrying an output p to class y costs ||p - e_y||_inf = 1 - p_y; acc = 1 - min over couplings of the mean cost.
    Lu et al. 2023, "Characterizing out-of-distribution error via optimal transport" (COT). Where they draw labels, here
    the class counts are the mix itself, rounded (largest remainders). The assignment is solved exactly for at most
    1,000 images; its dual potentials v then give the cost of all of them, mean_i min_y (1 - p_iy - v_y) + sum_y q_y v_y
    (equal to the optimum where the counts are whole, never above it otherwise), and, held fixed, of every resample.
    """
    p = unlabelled.probabilities  # (m, K)
    k = p.shape[1]
    assert in_dist.truth is not None
    known = in_dist.truth >= 0
    if not known.any():
        raise InputError("the in-distribution set has no image of a class that the model knows")
    one_hot = np.zeros((len(in_dist), k))
    one_hot[np.flatnonzero(known), in_dist.truth[known]] = 1
    part = p
    if len(p) > TRANSPORTED:
        part = p[np.sort(np.random.default_rng(len(p)).choice(len(p), TRANSPORTED, replace=False))]
    v = _potentials(1 - part, one_hot.sum(axis=0))
    price = _cheapest(p, v)
    thinned = unlabelled.thinned

    def of(w0: np.ndarray, w1: np.ndarray) -> np.ndarray:
        mass = w0 @ one_hot
        mix = mass / np.maximum(mass.sum(axis=1, keepdims=True), 1)
        return np.clip(1 - (_mean(w1[:, thinned], price) + mix @ v), 0, 1)

    return of


def _cheapest(p: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(n,) min over classes of 1 - p - v, a block of rows at a time."""
    rows = max(1, 2**22 // p.shape[1])
    return np.concatenate([(1 - p[i : i + rows] - v).min(axis=1) for i in range(0, len(p), rows)])


def _potentials(cost: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(K,) dual potentials of the cheapest assignment of n rows to classes in the proportions of ``counts``.

    Of an optimal assignment, v_k - v_j <= cost_ik - cost_ij for every row i that went to j: shortest paths between
    classes (Bellman 1958) satisfy all of them at once.
    """
    n = len(cost)
    share = counts / counts.sum() * n
    whole = np.floor(share).astype(np.int64)
    whole[np.argsort(-(share - whole), kind="stable")[: n - whole.sum()]] += 1
    columns = np.repeat(np.arange(len(counts)), whole)
    rows, places = linear_sum_assignment(cost[:, columns])
    went = columns[places]
    there = np.flatnonzero(whole)
    step = np.array([(cost[rows[went == j]] - cost[rows[went == j], j][:, None]).min(axis=0) for j in there])  # (J, K)
    v = np.zeros(cost.shape[1])
    for _ in range(len(counts)):
        nearer = np.minimum(v, (v[there][:, None] + step).min(axis=0))
        if np.allclose(nearer, v, rtol=0, atol=1e-12):
            break
        v = nearer
    return v


# --- label shift -----------------------------------------------------------------------------------------------------


@estimator(
    "bbse",
    "BBSE",
    "predictions",
    "only the class mix has changed, and within each class the model errs as before (label shift)",
    lambda n0, n1, k, m: float(n1 * k + 20 * k**3),
)
def bbse(in_dist: Side, unlabelled: Side) -> Weighted:
    """Accuracy at the class mix that explains how often each class is predicted, in [0, 1].

    w = C^+ mu with C[i, j] = P_S(predicted i, true j) and mu[i] = P_T(predicted i); the mix q_j ~ max(w_j, 0) P_S(j)
    gives acc = sum_j q_j recall_j. Lipton, Wang & Smola 2018, "Detecting and correcting for label shift with black box
    predictors". Classes without an in-distribution image stay without one.

    Raises:
        InputError: the confusion matrix is singular: two classes are predicted alike, and their mix cannot be told.
    """
    cells, there = _cells(in_dist)
    k = len(in_dist.classes)
    answers = np.eye(k)[unlabelled.predicted] if k <= 64 else None
    whole = np.asarray(cells.sum(axis=0)).reshape(k, len(there))
    if np.linalg.matrix_rank(whole / len(in_dist)) < len(there):
        raise InputError("the in-distribution confusion matrix is singular: the mix of some classes cannot be told")

    def of(w0: np.ndarray, w1: np.ndarray) -> np.ndarray:
        confusion = (w0 @ cells).reshape(len(w0), k, len(there)) / w0.sum(axis=1)[:, None, None]
        told = w1 @ answers if answers is not None else _counted(w1, unlabelled.predicted, k)
        w = (np.linalg.pinv(confusion, rcond=1e-9) @ (told / w1.sum(axis=1)[:, None])[:, :, None])[:, :, 0]
        return _accuracy_at(np.maximum(w, 0) * confusion.sum(axis=1), confusion, there)

    return of


@estimator(
    "em",
    "EM",
    "probabilities",
    "only the class mix has changed, within each class the model errs as before, and its probabilities are calibrated",
    lambda n0, n1, k, m: float(100 * n1 * k + 20 * k**3),
)
def em(in_dist: Side, unlabelled: Side) -> Weighted:
    """Accuracy at the class mix under which the probabilities are most likely, in [0, 1].

    q <- mean over images of (q_j / p_j) p_ij / sum_k (q_k / p_k) p_ik, from q = p, the in-distribution mix;
    acc = sum_j q_j recall_j. Saerens, Latinne & Decaestecker 2002, "Adjusting the outputs of a classifier to new a
    priori probabilities". Classes without an in-distribution image stay without one.
    """
    cells, there = _cells(in_dist)
    k = len(in_dist.classes)
    p = unlabelled.probabilities[:, there]  # (m, J)
    thinned = unlabelled.thinned

    def of(w0: np.ndarray, w1: np.ndarray) -> np.ndarray:
        confusion = (w0 @ cells).reshape(len(w0), k, len(there))
        prior = confusion.sum(axis=1)
        prior = prior / np.maximum(prior.sum(axis=1, keepdims=True), 1)
        weights = w1[:, thinned] / w1[:, thinned].sum(axis=1, keepdims=True)
        mix = prior.copy()
        moving = np.arange(len(mix))
        for _ in range(EM_STEPS):
            before = mix[moving]
            ratio = np.divide(before, prior[moving], out=np.zeros_like(before), where=prior[moving] > 0)
            likelihood = np.maximum(ratio @ p.T, 1e-300)
            new = ratio * ((weights[moving] / likelihood) @ p)
            new /= new.sum(axis=1, keepdims=True)
            mix[moving] = new
            moving = moving[np.abs(new - before).max(axis=1) > EM_STILL]
            if not len(moving):
                break
        return _accuracy_at(mix, confusion, there)

    return of


def _cells(in_dist: Side) -> tuple[sparse.csr_array, np.ndarray]:
    """(n, K * J) one-hot (predicted, true) cells of the J classes that have images, and which those are.

    Raises:
        InputError: no image is of a class that the model knows.
    """
    assert in_dist.truth is not None
    k = len(in_dist.classes)
    there = np.unique(in_dist.truth[in_dist.truth >= 0])
    if not len(there):
        raise InputError("the in-distribution set has no image of a class that the model knows")
    column = np.full(k + 1, -1)
    column[there] = np.arange(len(there))
    at = column[in_dist.truth]
    rows = np.flatnonzero(at >= 0)
    columns = in_dist.predicted[rows] * len(there) + at[rows]
    return sparse.csr_array((np.ones(len(rows)), (rows, columns)), (len(in_dist), k * len(there))), there


def _counted(weights: np.ndarray, answers: np.ndarray, k: int) -> np.ndarray:
    return np.stack([np.bincount(answers, weights=w, minlength=k) for w in weights])


def _accuracy_at(mix: np.ndarray, confusion: np.ndarray, there: np.ndarray) -> np.ndarray:
    """(B,) recall of (B, K, J) confusions averaged over (B, J) class mixes."""
    of_class = confusion.sum(axis=1)
    hits = confusion[:, there, np.arange(len(there))]
    recall = np.divide(hits, of_class, out=np.zeros_like(hits), where=of_class > 0)
    return np.clip((mix * recall).sum(axis=1) / np.maximum(mix.sum(axis=1), 1e-300), 0, 1)


# --- several models --------------------------------------------------------------------------------------------------


@estimator(
    "agreement",
    "Agreement",
    "models",
    "a model is right as often as another one, equally good and trained on its own, says the same",
    lambda n0, n1, k, m: float(n1 * m * m),
)
def agreement(in_dist: Sequence[Side], unlabelled: Sequence[Side]) -> Weighted:
    """Each model's mean agreement with the other models on the unlabelled images, in [0, 1].

    Jiang et al. 2022, "Assessing generalization of SGD via disagreement": for two runs of one recipe whose ensemble is
    calibrated, the disagreement rate is the error rate. Here the others are different architectures.
    """
    pairs = list(combinations(range(len(unlabelled)), 2))
    same = _same(unlabelled, pairs)
    member = _members(pairs, len(unlabelled))
    return lambda w0, w1: _mean(w1, same) @ member / (len(unlabelled) - 1)


@estimator(
    "aline_s",
    "ALine-S",
    "models",
    "agreement of models lies on a line (probit) across the two sets, and accuracy lies on the same one",
    lambda n0, n1, k, m: float((n0 + n1) * m * m),
)
def aline_s(in_dist: Sequence[Side], unlabelled: Sequence[Side]) -> Weighted:
    """Each model's accuracy from the line through all pairs' agreement, in [0, 1].

    probit(agreement_T) = a probit(agreement_S) + b over pairs of models, then probit(acc_T) = a probit(acc_S) + b. Baek
    et al. 2022, "Agreement-on-the-line: predicting the performance of neural networks under distribution shift",
    ALine-S. Rates of 0 and 1, which have no probit, are moved by half an image.
    """
    lines = _lines(in_dist, unlabelled)

    def of(w0: np.ndarray, w1: np.ndarray) -> np.ndarray:
        accuracy, _, _, slope, intercept = lines(w0, w1)
        return ndtr(slope[:, None] * accuracy + intercept[:, None])

    return of


@estimator(
    "aline_d",
    "ALine-D",
    "models",
    "agreement of models lies on a line (probit) across the two sets, and accuracy lies on the same one, pair by pair",
    lambda n0, n1, k, m: float((n0 + n1) * m * m + m**3),
)
def aline_d(in_dist: Sequence[Side], unlabelled: Sequence[Side]) -> Weighted:
    """Each model's accuracy from each pair's own deviation from the line, in [0, 1].

    Least squares over pairs (h, h') in the unknown probit accuracies: (P_T(h) + P_T(h'))/2 = probit(agreement_T) +
    a ((P_S(h) + P_S(h'))/2 - probit(agreement_S)). Baek et al. 2022, ALine-D. Needs three models, else the pairs do
    not fix the accuracies.
    """
    lines = _lines(in_dist, unlabelled)
    pairs = list(combinations(range(len(unlabelled)), 2))
    half = _members(pairs, len(unlabelled)) / 2  # (pairs, models)
    solved = np.linalg.pinv(half)

    def of(w0: np.ndarray, w1: np.ndarray) -> np.ndarray:
        accuracy, agreed0, agreed1, slope, _ = lines(w0, w1)
        return ndtr((agreed1 + slope[:, None] * (accuracy @ half.T - agreed0)) @ solved.T)

    return of


def agreement_line(in_dist: Sequence[Side], unlabelled: Sequence[Side]) -> tuple[float, float]:
    """(slope, R^2) of probit agreement across the two sets: how far the assumption of ALine can be seen to hold."""
    _, agreed0, agreed1, slope, _ = _lines(in_dist, unlabelled)(
        np.ones((1, len(in_dist[0]))), np.ones((1, len(unlabelled[0])))
    )
    r = np.corrcoef(agreed0[0], agreed1[0])[0, 1] if np.ptp(agreed0) > 0 and np.ptp(agreed1) > 0 else np.nan
    return float(slope[0]), float(r**2)


def _lines(in_dist: Sequence[Side], unlabelled: Sequence[Side]) -> Callable[..., tuple[np.ndarray, ...]]:
    """Of weights: probits of accuracy (B, M), of agreement on both sides (B, P), slope and intercept (B,)."""
    if len(unlabelled) < 3:
        raise InputError(f"a line of agreement needs at least three models, got {len(unlabelled)}")
    pairs = list(combinations(range(len(unlabelled)), 2))
    right = np.stack([s.right for s in in_dist], axis=1).astype(float)
    same0, same1 = _same(in_dist, pairs), _same(unlabelled, pairs)

    def of(w0: np.ndarray, w1: np.ndarray) -> tuple[np.ndarray, ...]:
        accuracy, agreed0 = _probit(_mean(w0, right), len(right)), _probit(_mean(w0, same0), len(same0))
        agreed1 = _probit(_mean(w1, same1), len(same1))
        x = agreed0 - agreed0.mean(axis=1, keepdims=True)
        spread = (x * x).sum(axis=1)
        slope = np.divide((x * agreed1).sum(axis=1), spread, out=np.zeros(len(x)), where=spread > 0)
        return accuracy, agreed0, agreed1, slope, agreed1.mean(axis=1) - slope * agreed0.mean(axis=1)

    return of


def _probit(rates: np.ndarray, n: int) -> np.ndarray:
    return ndtri(np.clip(rates, 0.5 / n, 1 - 0.5 / n))


def _same(sides: Sequence[Side], pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """(n, pairs) whether two models answer with the same class, by name."""
    if any(s.ids != sides[0].ids for s in sides):
        raise ValueError("agreement is a matter of the same images")
    code = {name: i for i, name in enumerate(dict.fromkeys(c for s in sides for c in s.classes))}
    said = np.stack([np.array([code[c] for c in s.classes])[s.predicted] for s in sides], axis=1)
    first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return (said[:, first] == said[:, second]).astype(np.float64)


def _members(pairs: Sequence[tuple[int, int]], models: int) -> np.ndarray:
    """(pairs, models) 1 where the model is one of the pair."""
    member = np.zeros((len(pairs), models))
    for row, pair in enumerate(pairs):
        member[row, list(pair)] = 1
    return member


# --- several sets ----------------------------------------------------------------------------------------------------


@estimator(
    "nuclear_norm",
    "Nuclear norm",
    "sets",
    "the labelled sets of this run lie on a line with the new one: accuracy against the norm of the predictions",
)
def nuclear_norm(
    norms: Sequence[float], accuracies: Sequence[float], norm: float, n: int, confidence: float = 0.95
) -> Estimate:
    """Accuracy read off a line through labelled sets, accuracy against normalised nuclear norm, cut to [0, 1].

    x = ||P||_* / sqrt(min(n, K) n) in (0, 1], P the (n, K) probabilities: large where answers are confident and the
    classes are all used. Deng et al. 2023, "Confidence and dispersity speak: characterizing prediction matrix for
    unsupervised accuracy estimation", with the labelled sets of this run in place of their synthetic ones. The interval
    is that of a prediction from the line (t distribution): here sets are the units, not images.

    Args:
        norms: of S labelled sets, see :func:`normalised_nuclear_norm`.
        accuracies: of the same sets.
        norm: of the unlabelled set.
        n: its images.
        confidence: nominal coverage.

    Raises:
        InputError: fewer than four labelled sets, or all have the same norm.
    """
    if len(norms) < 4:
        raise InputError(f"a line through labelled sets needs at least four of them, got {len(norms)}")
    x, y = np.asarray(norms, dtype=np.float64), np.asarray(accuracies, dtype=np.float64)
    if np.ptp(x) < 1e-12:
        raise InputError("all labelled sets have the same nuclear norm, so there is no line through them")
    fit = linregress(x, y)
    sets = len(x)
    value = fit.intercept + fit.slope * norm
    residual = ((y - fit.intercept - fit.slope * x) ** 2).sum() / (sets - 2)
    around = np.sqrt(residual * (1 + 1 / sets + (norm - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()))
    half = student.ppf((1 + confidence) / 2, sets - 2) * around
    told = intervals.label("prediction t", confidence) + f", line through {sets} sets"
    value, low, high = (float(np.clip(v, 0, 1)) for v in (value, value - half, value + half))
    return Estimate(value, low, high, n, told)


def normalised_nuclear_norm(side: Side) -> float:
    """||P||_* / sqrt(min(n, K) n) of the (n, K) probabilities, in (0, 1]; Deng et al. 2023."""
    p = side.probabilities
    return float(np.linalg.svd(p, compute_uv=False).sum() / np.sqrt(min(p.shape) * len(p)))


# --- estimates with their intervals ----------------------------------------------------------------------------------


def resamples_of(one: Estimator, n0: int, n1: int, classes: int, models: int, resamples: int) -> int:
    """How many resamples an estimator gets: as asked, at most 500, fewer where one costs much; 0 means too much."""
    affordable = int(WORK / one.cost(n0, n1, classes, models))
    return 0 if affordable < FEWEST_RESAMPLES else min(resamples, MOST_RESAMPLES, affordable)


def estimate(
    one: Estimator,
    in_dist: Side | Sequence[Side],
    unlabelled: Side | Sequence[Side],
    *,
    confidence: float = 0.95,
    resamples: int = MOST_RESAMPLES,
    seed: int = 0,
) -> list[Estimate]:
    """What an estimator says, with a percentile bootstrap interval over the images of both sides.

    The images of the two sides are drawn independently of each other; a temperature in the logits is held fixed.

    Args:
        one: any but those that need sets.
        in_dist: the labelled side, or with ``needs == "models"`` one per model, over the same images.
        unlabelled: the other side, likewise.
        confidence: nominal coverage.
        resamples: see :func:`resamples_of`.
        seed: of the draws.

    Returns:
        One per model.

    Raises:
        InputError: the estimator is not defined here; the message says why.
    """
    sides0 = [in_dist] if isinstance(in_dist, Side) else list(in_dist)
    sides1 = [unlabelled] if isinstance(unlabelled, Side) else list(unlabelled)
    n0, n1 = len(sides0[0]), len(sides1[0])
    if not n0 or not n1:
        raise InputError(f"an estimate needs images on both sides, got {n0} in distribution and {n1} without labels")
    if one.needs == "probabilities" and (sides0[0].logits is None or sides1[0].logits is None):
        raise InputError("needs probabilities, only hard predictions are there")
    of = one.of(in_dist, unlabelled)
    point = np.atleast_1d(np.squeeze(of(np.ones((1, n0)), np.ones((1, n1))), axis=0))
    count = resamples_of(one, n0, n1, len(sides0[0].classes), len(sides0), resamples)
    if not count:
        told = f"none: a bootstrap with {len(sides0[0].classes)} classes takes too long"
        return [Estimate(float(v), 0.0, 1.0, n1, told) for v in point]
    drawn = np.concatenate([np.asarray(of(w0, w1)).reshape(-1, len(point)) for w0, w1 in draws(n0, n1, count, seed)])
    label = f"{intervals.label('bootstrap', confidence)}, {count} resamples"
    ends = [intervals.percentile(drawn[:, i], float(v), confidence) for i, v in enumerate(point)]
    return [Estimate(float(v), low, high, n1, label) for v, (low, high) in zip(point, ends, strict=True)]


def draws(n0: int, n1: int, resamples: int, seed: int) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """How often each image of two sides is drawn, independently of the other side: (b, n0) and (b, n1), in chunks."""
    return (_kept if resamples * max(n0, n1) <= _CHUNK else _drawn)(n0, n1, resamples, seed)


@lru_cache(maxsize=8)  # every model and estimator of a set draws the same
def _kept(n0: int, n1: int, resamples: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(_drawn(n0, n1, resamples, seed))


def _drawn(n0: int, n1: int, resamples: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    streams = [(n, np.random.default_rng([seed, stream])) for n, stream in ((n0, _SEEN), (n1, _NEW))]
    rows = max(1, _CHUNK // max(n0, n1))
    for start in range(0, resamples, rows):
        b = min(rows, resamples - start)
        w0, w1 = (_counts(rng.integers(n, size=(b, n)), n) for n, rng in streams)
        yield w0, w1


def _counts(drawn: np.ndarray, n: int) -> np.ndarray:
    rows = len(drawn)
    flat = (drawn + np.arange(rows)[:, None] * n).ravel()
    return np.bincount(flat, minlength=rows * n).reshape(rows, n).astype(np.float64)


# --- track record ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Guess:
    """What an estimator says of one model on one set, and what is true where that is known.

    Attributes:
        model, dataset: names.
        method: registered name of the estimator.
        probabilities: ``"raw"``, ``"calibrated"`` (temperature fitted in distribution), or ``"none"`` were used.
        estimate: undefined where the estimator is, with the reason.
        accuracy: of the same images; ``nan`` where they have no labels.
        n_in_dist: in-distribution images.
        detail: numbers that tell how far the assumption can be seen to hold.
    """

    model: str
    dataset: str
    method: str
    probabilities: str
    estimate: Estimate
    accuracy: float
    n_in_dist: int
    detail: str = ""

    @property
    def way(self) -> tuple[str, str]:
        """Method and kind of probabilities: what has a track record."""
        return self.method, self.probabilities

    @property
    def error(self) -> float:
        """Estimate less accuracy; ``nan`` where either is not there."""
        return self.estimate.value - self.accuracy


@dataclass(frozen=True)
class Record:
    """How well one way of estimating did on labelled sets whose labels it did not see.

    Attributes:
        sets, estimates: how many of each were made.
        undefined: estimates that could not be made.
        mae: mean over sets of the mean absolute error over models, with a bootstrap interval over sets.
        bias: mean error, positive where accuracy is overestimated.
        worst: the largest absolute error.
        covered: share of intervals that contain the accuracy.
    """

    method: str
    probabilities: str
    sets: int
    estimates: int
    undefined: int
    mae: Estimate
    bias: float
    worst: float
    covered: float


def track_record(guesses: Sequence[Guess], confidence: float = 0.95, seed: int = 0) -> list[Record]:
    """The record of every way among guesses about labelled sets, best first; a way without any estimate comes last.

    Guesses about unlabelled sets are left out.
    """
    ways: dict[tuple[str, str], list[Guess]] = {}
    for g in guesses:
        if not np.isnan(g.accuracy):
            ways.setdefault(g.way, []).append(g)
    records = [_record(way, own, confidence, seed) for way, own in ways.items()]
    order = {way: i for i, way in enumerate(ways)}
    return sorted(records, key=lambda r: (not r.mae.defined, r.mae.value, order[r.method, r.probabilities]))


def _record(way: tuple[str, str], guesses: Sequence[Guess], confidence: float, seed: int) -> Record:
    made = [g for g in guesses if g.estimate.defined]
    if not made:
        reason = next(iter(dict.fromkeys(g.estimate.interval for g in guesses)))
        nothing = float("nan")
        return Record(*way, 0, 0, len(guesses), Estimate.undefined(reason, 0), nothing, nothing, nothing)
    by_set: dict[str, list[float]] = {}
    for g in made:
        by_set.setdefault(g.dataset, []).append(abs(g.error))
    errors = np.array([np.mean(by_set[name]) for name in sorted(by_set)])
    value = float(errors.mean())
    if len(errors) > 1:
        drawn = np.random.default_rng([seed, 7]).integers(len(errors), size=(2000, len(errors)))
        low, high = intervals.percentile(errors[drawn].mean(axis=1), value, confidence)
        label = f"{intervals.label('bootstrap', confidence)} over {len(errors)} sets"
    else:
        low, high, label = 0.0, 1.0, "none: one labelled set says nothing of others"
    signed = np.array([g.error for g in made])
    inside = [g.estimate.low <= g.accuracy <= g.estimate.high for g in made]
    return Record(
        *way,
        len(errors),
        len(made),
        len(guesses) - len(made),
        Estimate(value, low, high, len(made), label),
        float(signed.mean()),
        float(np.abs(signed).max()),
        float(np.mean(inside)),
    )


def errors_by_set(guesses: Sequence[Guess]) -> dict[tuple[str, str], dict[str, float]]:
    """Of each way: labelled set -> mean absolute error over models, where it could say something."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for g in guesses:
        if not np.isnan(g.error):
            found.setdefault(g.way, {}).setdefault(g.dataset, []).append(abs(g.error))
    return {way: {name: float(np.mean(errors)) for name, errors in own.items()} for way, own in found.items()}


def error_elsewhere(errors: Mapping[str, float], dataset: str) -> float:
    """Mean of one way's errors over the labelled sets other than ``dataset``; ``nan`` where there is none."""
    others = [error for name, error in errors.items() if name != dataset]
    return float(np.mean(others)) if others else float("nan")


def chosen_elsewhere(guesses: Sequence[Guess]) -> float:
    """Mean over sets of the error of the way that did best on the *other* sets; ``nan`` with fewer than two sets.

    The error of the best of many ways on the sets it was chosen by flatters it; this one does not.
    """
    by_way = errors_by_set(guesses)
    sets = sorted({name for own in by_way.values() for name in own})
    everywhere = [own for own in by_way.values() if len(own) == len(sets)]
    if len(sets) < 2 or not everywhere:
        return float("nan")

    picked = [min((error_elsewhere(own, name), own[name]) for own in everywhere)[1] for name in sets]
    return float(np.mean(picked))
