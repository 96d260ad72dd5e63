"""What several models got right on both sides of a shift, image by image: what analyses of a drop share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradlens.errors import InputError
from gradlens.records import Predictions
from gradlens.shift.gap import ENOUGH_PAIRS, shared_classes
from gradlens.shift.metrics import Scored, on_classes


@dataclass(frozen=True)
class Sides:
    """Which images each of M models got right in distribution (n0 images) and on a probe set (n1 images).

    Only images of classes that both sides have and every model knows, and that every model was scored on; each model
    answers with one of these classes. Rows are in the order of the ids, so that no result depends on file order.

    Attributes:
        models: M names.
        in_dist, probe: names of the sets.
        ids0, ids1: of the images.
        right0, right1: bool (n0, M) and (n1, M).
        classes0, classes1: the class name of each image.
        partner: (n1,) row of ``right0`` that shows the same scene, or ``None`` where the sides are independent samples.
        left_out: probe images without a partner, where the sides are paired.
    """

    models: tuple[str, ...]
    in_dist: str
    probe: str
    ids0: tuple[str, ...]
    ids1: tuple[str, ...]
    right0: np.ndarray
    right1: np.ndarray
    classes0: tuple[str, ...]
    classes1: tuple[str, ...]
    partner: np.ndarray | None = None
    left_out: int = 0

    @property
    def lost(self) -> np.ndarray:
        """(n1, M) of paired sides: 1 where only the in-distribution image is right, -1 where only the probe's is."""
        if self.partner is None:
            raise ValueError("independent samples have no differences by image")
        return self.right0[self.partner].astype(np.float64) - self.right1

    @property
    def drop(self) -> np.ndarray:
        """(M,) accuracy in distribution minus accuracy on the probe set, of what is compared here."""
        if self.partner is not None:
            return np.asarray(self.lost.mean(axis=0))
        return np.asarray(self.right0.mean(axis=0) - self.right1.mean(axis=0))

    @property
    def single(self) -> bool:
        """Whether each scene has one probe image (or the sides are independent)."""
        return len(np.unique(self.scene)) == len(self.ids1)

    @property
    def scene(self) -> np.ndarray:
        """(n1,) number of each probe image's scene, from 0; every image is its own where the sides are independent."""
        if self.partner is None:
            return np.arange(len(self.ids1))
        return np.asarray(np.unique(self.partner, return_inverse=True)[1])


def sides_of(in_dist: Sequence[Predictions], probe: Sequence[Predictions], *, paired: bool) -> Sides:
    """Both sides of a shift for several models.

    Args:
        in_dist, probe: one per model, in the same order.
        paired: whether the probe's ``pairs`` name in-distribution images; with partners for fewer than nine tenths of
            the probe images the sides are compared as independent samples, as in :mod:`gradlens.shift.gap`.

    Raises:
        InputError: no image is left that every model was scored on, or a pair shows two classes.
    """
    if not in_dist or [p.model for p in in_dist] != [p.model for p in probe]:
        raise ValueError("expected the same models on both sides, at least one")
    spaces = [shared_classes(a, b) for a, b in zip(in_dist, probe, strict=True)]
    classes = tuple(c for c in spaces[0] if all(c in space for space in spaces))
    ids0, right0, names0, _ = _matrix([on_classes(p, classes) for p in in_dist])
    ids1, right1, names1, pairs = _matrix([on_classes(p, classes) for p in probe])
    if not ids0 or not ids1:
        empty = in_dist[0].dataset if not ids0 else probe[0].dataset
        raise InputError(f"no labelled image of {empty} is of a class that both sets have and every model knows")
    partner, left_out = None, 0
    if paired:
        place = {name: i for i, name in enumerate(ids0)}
        at = np.array([-1 if pair is None else place.get(pair, -1) for pair in pairs], dtype=np.int64)
        kept = np.flatnonzero(at >= 0)
        if len(kept) >= ENOUGH_PAIRS * len(ids1):
            partner, left_out = at[kept], len(ids1) - len(kept)
            ids1, right1 = tuple(ids1[i] for i in kept), right1[kept]
            names1 = tuple(names1[i] for i in kept)
            for i, j in enumerate(partner):
                if names1[i] != names0[j]:
                    raise InputError(
                        f"{probe[0].dataset}: {ids1[i]!r} is labelled {names1[i]!r} but its pair {ids0[j]!r} is "
                        f"{names0[j]!r}; a pair must show the same class"
                    )
    return Sides(
        tuple(p.model for p in in_dist),
        in_dist[0].dataset,
        probe[0].dataset,
        ids0,
        ids1,
        right0,
        right1,
        names0,
        names1,
        partner,
        left_out,
    )


def _matrix(
    scored: Sequence[Scored],
) -> tuple[tuple[str, ...], np.ndarray, tuple[str, ...], tuple[str | None, ...]]:
    """Ids that all models have, (n, M) right or not, class names and pairs."""
    common = set(scored[0].ids).intersection(*(s.ids for s in scored[1:]))
    columns = []
    for s in scored:
        columns.append(s.correct[[i for i, name in enumerate(s.ids) if name in common]])
    first = scored[0]
    kept = [i for i, name in enumerate(first.ids) if name in common]
    ids = tuple(first.ids[i] for i in kept)
    right = np.stack(columns, axis=1) if columns else np.zeros((0, 0), bool)
    return ids, right, tuple(first.classes[first.truth[i]] for i in kept), tuple(first.pairs[i] for i in kept)
