"""NumPy archives: ``images`` (N, H, W[, 1 or 3]) uint8, ``labels`` (N,) numbers or text, ``classes`` (K,) text."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from gradlens.data.bounds import check_archive, numbered_classes
from gradlens.data.decode import reason
from gradlens.data.folders import remarks_on
from gradlens.data.image_set import ImageSet, Store, sha256_of
from gradlens.errors import InputError
from gradlens.records import Sample
from gradlens.runtime import plain_file


class Pixels(Store):
    """Images that are an array already."""

    def __init__(self, path: Path, images: np.ndarray) -> None:
        self.path, self.images = path, images

    def encoded(self, row: int) -> bytes | Path | np.ndarray:
        image = self.images[row]
        if image.ndim == 2:
            image = image[..., None]
        return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))

    def content(self) -> str:
        return self._content

    @cached_property
    def _content(self) -> str:
        return sha256_of(self.path)


def open_npz(path: Path) -> ImageSet:
    """The images of an ``.npz``; ids are row numbers. Without ``classes``, numbers are the classes' names.

    Nothing pickled is read.

    Raises:
        InputError: no archive, no array ``images``, or an array of another type or shape.
    """
    try:
        check_archive(plain_file(path), ("images", "labels", "classes"))
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            names = archive.files
            images, labels, classes = (archive.get(name) for name in ("images", "labels", "classes"))
    except InputError:
        raise
    except Exception as err:  # zipfile, zlib and NumPy raise a dozen kinds on damaged archives
        raise InputError(f"{path}: expected a NumPy archive of plain arrays: {reason(err)}") from err
    if images is None:
        raise InputError(f"{path}: expected the arrays images, labels, got {', '.join(names) or 'none'}")
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise InputError(
            f"{path}: expected images as uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3), "
            f"got {images.dtype} {images.shape}"
        )
    if not images.size:
        raise InputError(f"{path}: expected images, got an array of shape {images.shape}")
    known, indices = _labels(path, labels, classes, len(images))
    samples = tuple(Sample(str(i), label) for i, label in enumerate(indices))
    return ImageSet(
        name=path.stem,
        role="unlabelled" if known is None else "test",
        classes=known,
        samples=samples,
        location=str(path),
        store=Pixels(path, images),
        rows=tuple(range(len(samples))),
        remarks=tuple(remarks_on(known or (), samples)),
    )


def _labels(
    path: Path, labels: np.ndarray | None, classes: np.ndarray | None, n: int
) -> tuple[tuple[str, ...] | None, list[int | None]]:
    if labels is None:
        return None, [None] * n
    labels = labels.reshape(-1) if labels.shape == (n, 1) else labels
    if labels.shape != (n,):
        raise InputError(f"{path}: expected one label for each of {n} images, got {labels.shape}")
    if labels.dtype.kind in "US":
        texts = [t.decode() if isinstance(t, bytes) else str(t) for t in labels]
        names = tuple(map(str, classes)) if classes is not None else tuple(sorted(set(texts)))
        if unknown := sorted(set(texts) - set(names)):
            raise InputError(f"{path}: label {unknown[0]!r} is not among its classes")
        position = {c: i for i, c in enumerate(names)}
        return names, [position[t] for t in texts]
    if labels.dtype.kind not in "iu":
        raise InputError(f"{path}: expected labels as whole numbers or text, got {labels.dtype}")
    names = tuple(map(str, classes)) if classes is not None else numbered_classes(path, int(labels.max()))
    if labels.min() < -1 or labels.max() >= len(names):
        raise InputError(f"{path}: labels go from {labels.min()} to {labels.max()}, but there are {len(names)} classes")
    return names, [None if label == -1 else int(label) for label in labels]
