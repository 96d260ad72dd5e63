"""Image sets whose pixels pass through a function: the same images, corrupted or brought to another size or codec.

A derived set is an :class:`~gradlens.data.image_set.ImageSet` like any other: it decodes when read, its fingerprint
changes with the function, and its images are paired with those it was made from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from gradlens.data.corruptions import CORRUPTIONS, SEVERITIES, code_digest, corrupt
from gradlens.data.image_set import ImageSet, Store
from gradlens.errors import InputError

Change = Callable[[np.ndarray, str], np.ndarray]
"""(uint8 (H, W, 3), the image's id) -> uint8 (H', W', 3); the same every time."""


class Changed(Store):
    """The pixels of another set's images, changed.

    Args:
        origin: whose images.
        change: what is done to each.
        key: everything that could change what ``change`` returns; the images' ids are no part of it.
        masks: whether the masks still fit.
    """

    def __init__(self, origin: ImageSet, change: Change, key: str, masks: bool) -> None:
        self.origin, self.change, self.key, self.masks = origin, change, key, masks

    def encoded(self, row: int) -> bytes | Path | np.ndarray:
        return self.change(self.origin.read(row), self.origin.samples[row].id)

    def mask(self, row: int) -> Path | None:
        return self.origin.store.mask(self.origin.rows[row]) if self.masks else None

    def content(self) -> str:
        return hashlib.sha256(f"{self.origin.fingerprint}\0{self.key}".encode()).hexdigest()


def derived(
    origin: ImageSet, name: str, change: Change, key: str, *, severity: int | None = None, masks: bool = False
) -> ImageSet:
    """The images of a set, changed, under a name of their own and paired with those they were made from.

    Made from images to train or select on, they are still that; from any others, they are a probe set.

    Args:
        origin: labelled or not.
        name: of the new set; also says what was changed, behind the name of ``origin`` and a ``+``.
        change: (image, id) -> image.
        key: everything that could change what ``change`` returns.
        severity: of every image, where there is one.
        masks: whether the masks of ``origin`` still fit.
    """
    return replace(
        origin,
        name=name,
        role="probe" if origin.role == "test" else origin.role,
        samples=tuple(replace(s, pair=s.id, severity=severity) for s in origin.samples),
        location=f"{origin.location}+{name.rpartition('+')[2]}",
        store=Changed(origin, change, key, masks),
        rows=tuple(range(len(origin))),
        paired_with=origin.name,
        shift=name.rpartition("+")[2],
    )


def corrupted(origin: ImageSet, name: str, severity: int, seed: int = 0) -> ImageSet:
    """A set under one of :data:`~gradlens.data.corruptions.CORRUPTIONS`, called ``<origin>+<corruption>-<severity>``.

    Raises:
        NotFoundError: no such corruption.
    """
    moves = CORRUPTIONS[name].moves
    return derived(
        origin,
        f"{origin.name}+{name}-{severity}",
        lambda image, key: corrupt(image, name, severity, key, seed),
        f"{name} {severity} {seed} {code_digest()}",
        severity=severity,
        masks=not moves,
    )


def split_spec(spec: str) -> tuple[str, str, int] | None:
    """``"vehicles-test+fog-3"`` as (source, corruption, severity); ``None`` where it does not end like that.

    Raises:
        NotFoundError: it does, but there is no such corruption.
        InputError: there is, but not of that severity.
    """
    source, plus, tail = spec.rpartition("+")
    name, dash, level = tail.rpartition("-")
    if not (plus and source and dash and level.isdecimal()):
        return None
    CORRUPTIONS[name]
    if int(level) not in SEVERITIES:
        raise InputError(f"{spec}: expected a severity from {SEVERITIES[0]} to {SEVERITIES[-1]}, got {level}")
    return source, name, int(level)


def of_scenes(image_set: ImageSet) -> ImageSet:
    """A derived set of a set that is itself paired, paired with the scenes of the first of them."""
    if not isinstance(image_set.store, Changed) or image_set.store.origin.paired_with is None:
        return image_set
    origin = image_set.store.origin
    pairs = {s.id: s.pair for s in origin.samples}
    return replace(
        image_set,
        paired_with=origin.paired_with,
        samples=tuple(replace(s, pair=pairs[s.id]) for s in image_set.samples),
    )
