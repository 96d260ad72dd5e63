"""An image set: what is known about its images before any is decoded, and the way to decode each.

:class:`ImageSet` is the same for every kind of source; a :class:`Store` knows where the encoded images lie. Listing a
set decodes nothing.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from gradlens.data.decode import decode, decode_mask
from gradlens.data.room import ROOM
from gradlens.errors import GradlensError, InputError
from gradlens.records import Role, Sample, Skipped
from gradlens.runtime import Runtime, plain_file


class Store(ABC):
    """Where the encoded images of a set lie, by row number. Safe to read from several threads."""

    @abstractmethod
    def encoded(self, row: int) -> bytes | Path | np.ndarray:
        """An image file's bytes, its path, or pixels: uint8 (H, W, 3), RGB.

        Raises:
            InputError: the row cannot be read.
        """

    def mask(self, row: int) -> Path | None:
        """The file of the object's mask, where there is one."""
        return None

    @abstractmethod
    def content(self) -> str:
        """A sha256 over the encoded content of all rows: it changes when any image does."""


@dataclass(frozen=True)
class ImageSet:
    """Images of one source, listed but not decoded.

    Attributes:
        name: of the probe set, or of the file or folder without its ending.
        role: what the images are for.
        classes: class names that labels index, or ``None`` where the set is unlabelled.
        samples: one per image, ids unique.
        location: where it came from, as messages should name it.
        store: where its images lie.
        rows: the store's row of each sample.
        paired_with: name of the set that the samples' ``pair`` refers to.
        shift: what was changed, ``"none"`` in distribution, ``None`` where nobody said.
        filtered_by: models whose predictions decided which images are in it.
        skipped: what the listing left out, and why.
        remarks: what a person should know about this set, one sentence each.
    """

    name: str
    role: Role
    classes: tuple[str, ...] | None
    samples: tuple[Sample, ...]
    location: str
    store: Store
    rows: tuple[int, ...]
    paired_with: str | None = None
    shift: str | None = None
    filtered_by: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.samples):
            raise ValueError(f"{len(self.samples)} samples but {len(self.rows)} rows")
        if len({sample.id for sample in self.samples}) != len(self.samples):
            raise ValueError(f"ids of {self.location} are not unique")
        known = len(self.classes or ())
        for sample in self.samples:
            if sample.label is not None and not 0 <= sample.label < known:
                raise ValueError(f"label {sample.label} of {sample.id} is not in 0..{known - 1}")
        if self.classes is not None and len(set(self.classes)) != known:
            raise ValueError(f"class names of {self.location} are not unique: {self.classes}")

    def __len__(self) -> int:
        return len(self.samples)

    def path(self, i: int) -> str:
        """What messages and tables call image ``i``: its location and id."""
        return f"{self.location}/{self.samples[i].id}" if self.location else self.samples[i].id

    def read(self, i: int) -> np.ndarray:
        """Image ``i``: uint8 (H, W, 3), RGB.

        Raises:
            InputError: it cannot be decoded.
            GradlensError: there is no memory to decode it, which is no fault of the image: it must not be left out.
        """
        encoded = self.store.encoded(self.rows[i])
        if isinstance(encoded, np.ndarray):
            return encoded
        with ROOM.for_image(encoded, self.path(i)):
            try:
                return decode(encoded, self.path(i))
            except InputError as err:
                if isinstance(err.__cause__, MemoryError):
                    raise GradlensError(f"out of memory while decoding {self.path(i)}; use fewer --workers") from err
                raise

    def mask(self, i: int) -> np.ndarray | None:
        """The object's mask of image ``i``: bool (H, W), or ``None`` where there is none.

        Raises:
            InputError: there is one, and it cannot be decoded.
        """
        path = self.store.mask(self.rows[i])
        if path is None:
            return None
        with ROOM.for_image(path, str(path)):
            return decode_mask(path, str(path))

    def digest(self, i: int) -> str:
        """sha256 of image ``i`` as it is stored: equal for exact copies."""
        return sha256_of(self.store.encoded(self.rows[i]))

    @cached_property
    def labels(self) -> np.ndarray:
        """int64 (N,), -1 where unlabelled."""
        return np.array([-1 if s.label is None else s.label for s in self.samples], dtype=np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the content of the store and this set's ids and class names."""
        digest = hashlib.sha256(self.store.content().encode())
        for row, sample in zip(self.rows, self.samples, strict=True):
            label = "" if sample.label is None or self.classes is None else self.classes[sample.label]
            digest.update(f"{row}\0{sample.id}\0{label}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def subset(self, indices: Sequence[int] | np.ndarray) -> ImageSet:
        """The set of some of its images, in the order given; classes and remarks stay."""
        chosen = [int(i) for i in indices]
        return replace(self, samples=tuple(self.samples[i] for i in chosen), rows=tuple(self.rows[i] for i in chosen))


def sha256_of(encoded: bytes | Path | np.ndarray) -> str:
    """sha256 of what a :class:`Store` returns for an image.

    Raises:
        InputError: the file cannot be read.
    """
    if isinstance(encoded, np.ndarray):
        return hashlib.sha256(f"{encoded.shape}".encode() + np.ascontiguousarray(encoded).tobytes()).hexdigest()
    if not isinstance(encoded, Path):
        return hashlib.sha256(encoded).hexdigest()
    try:
        with plain_file(encoded).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as err:
        raise InputError(f"{encoded}: expected a readable file, but the system refused: {err.strerror}") from err


def decoded(
    image_set: ImageSet, workers: int = 0, runtime: Runtime | None = None
) -> Iterator[tuple[int, np.ndarray | Skipped]]:
    """Every image in order, decoded ahead by threads.

    Args:
        image_set: what to decode.
        workers: threads; 0 asks ``runtime`` and then takes one per core, at most 8.
        runtime: shows a progress bar where given.

    Yields:
        (index, uint8 (H, W, 3)), or (index, :class:`~gradlens.records.Skipped`) where an image cannot be decoded.
    """
    workers = workers or (runtime.workers if runtime else 0) or min(8, os.cpu_count() or 1)

    def one(i: int) -> np.ndarray | Skipped:
        try:
            return image_set.read(i)
        except InputError as err:
            return Skipped(image_set.path(i), str(err))

    def ahead() -> Iterator[tuple[int, np.ndarray | Skipped]]:
        pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        waiting: deque[tuple[int, Future[np.ndarray | Skipped]]] = deque()
        try:
            for i in range(len(image_set)):
                waiting.append((i, pool.submit(one, i)))
                if len(waiting) > 4 * workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            for first, future in waiting:
                yield first, future.result()
        finally:  # also when the reader stops early
            pool.shutdown(wait=True, cancel_futures=True)

    images = ahead()
    if runtime is None:
        return images
    return iter(runtime.progress(images, f"decoding {image_set.name}", total=len(image_set), unit="image"))
