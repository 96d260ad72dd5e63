"""Stratified splits: a part of every class held out, the same images each time."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from gradlens.data.image_set import ImageSet
from gradlens.errors import TrainingError


def split(images: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """(the rest, the part held out): ``fraction`` of each class, rounded, at least one image of it and never all.

    Which images are held out depends on their ids and on ``seed`` alone: a set that grows keeps its split, and another
    order or another version of NumPy changes nothing. scikit-learn's splitters draw from the order of the rows.

    Raises:
        TrainingError: a class has fewer than two images.
    """
    labels = images.labels
    keys = [f"{seed}/{s.id}".encode("utf-8", "surrogateescape") for s in images.samples]
    ranks = [hashlib.sha256(key).digest() for key in keys]
    held: list[int] = []
    for label in range(len(images.classes or ())):
        own = np.flatnonzero(labels == label).tolist()
        if len(own) < 2:
            raise TrainingError(
                f"{images.location}: class {(images.classes or ())[label]!r} has {len(own)} images; two are the least "
                "when some are held out for selection"
            )
        count = min(max(1, round(fraction * len(own))), len(own) - 1)
        held += sorted(own, key=lambda i: ranks[i])[:count]
    out = np.zeros(len(images), dtype=bool)
    out[held] = True
    return (
        images.subset(np.flatnonzero(~out)),
        replace(images.subset(np.flatnonzero(out)), role="select", name=f"{images.name}-held-out"),
    )
