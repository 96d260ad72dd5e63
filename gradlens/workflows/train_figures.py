"""Figures of what is trained on: how its images are spread over classes, and a batch of them as the network sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gradlens.data.headers import native_size
from gradlens.data.image_set import ImageSet
from gradlens.errors import InputError
from gradlens.figures import style
from gradlens.figures.augmented_batch import augmented_batch
from gradlens.figures.class_distribution import SetSpread, class_distribution
from gradlens.runtime import Runtime
from gradlens.train.images import Images
from gradlens.train.preview import first_batch
from gradlens.train.settings import Recipe

_SHOWN = 16  # images of a batch


def spread(images: ImageSet, use: str, runtime: Runtime) -> SetSpread:
    """What an image set is made of; reads the header of each image (about four thousand a second), decodes none.

    Images without a label are not counted; those whose header cannot be read have no size.

    Args:
        images: of any source.
        use: ``"training"``, ``"selection"``, ``"test"`` or ``"probe"``.
        runtime: progress.
    """
    sizes = []
    every = runtime.progress(range(len(images)), f"sizes of {images.name}", total=len(images), unit="image")
    for i in every:
        try:
            sizes.append(native_size(images.store.encoded(images.rows[i]), images.path(i)))
        except InputError:  # decoding reports it
            continue
    classes = images.classes or ()
    counts = np.bincount(images.labels[images.labels >= 0], minlength=len(classes))
    return SetSpread(images.name, use, classes, tuple(counts.tolist()), tuple(sizes))


def draw_distribution(sets: Sequence[SetSpread], stem: Path) -> list[Path]:
    """Write ``stem.png`` and ``stem.pdf``: images per class of each set, the training set first, and native sizes."""
    told = {s.name: {"use": s.use, "images": sum(s.counts)} for s in sets}
    return style.save(class_distribution(sets), stem, provenance={"figure": "class distribution", "sets": told})


def draw_batch(images: Images, recipe: Recipe, classes: Sequence[str], path: Path, runtime: Runtime) -> Path:
    """Write the beginning of the first batch, before and after augmentation, to ``path``.

    Args:
        images: the training images.
        recipe: with ``mean`` and ``std`` given.
        classes: names of the labels.
        path: ending in ``.png``, ``.pdf`` or ``.svg``.
        runtime: processes for policies.

    Raises:
        InputError: another ending.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "pdf", "svg"):
        raise InputError(f"expected a figure file ending in .png, .pdf or .svg, got {path.name!r}")
    batch = first_batch(images, recipe, len(classes), runtime.workers)
    figure = augmented_batch(
        batch.originals[:_SHOWN].permute(0, 2, 3, 1).numpy(),
        batch.seen[:_SHOWN].permute(0, 2, 3, 1).numpy(),
        batch.shares[:_SHOWN].numpy(),
        classes,
        mean=recipe.mean or (0, 0, 0),
        std=recipe.std or (1, 1, 1),
        title=f"{recipe.model}: first batch of {recipe.batch_size}, seed {recipe.seed}",
    )
    (written,) = style.save(
        figure,
        path.with_suffix(""),
        (kind,),
        provenance={"figure": "augmented batch", "augment": recipe.augment.model_dump()},
    )
    return written
