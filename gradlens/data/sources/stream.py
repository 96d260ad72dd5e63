"""A SOURCE read in order, a few thousand images at a time, so that memory does not grow with the number of images.

WebDataset shards are read one after the other and Parquet files (local, or braces over several) by batches of rows; a
data set of the hub is streamed by ``datasets`` itself. Any other SOURCE is listed as a whole, and only its images are
read in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gradlens.data.decode import reason
from gradlens.data.image_set import ImageSet, Store
from gradlens.data.sources import open_source
from gradlens.data.sources.hub import open_hub_stream
from gradlens.data.sources.parquet import columns_of, encoded_in
from gradlens.data.sources.tar import expand_braces, open_tar, set_name
from gradlens.errors import InputError
from gradlens.records import Role, Sample
from gradlens.runtime import Runtime

PART = 2048  # images that are listed at once


@dataclass(frozen=True)
class Stream:
    """Images of one source, in its order.

    Attributes:
        name, role, location, shift: as of an :class:`~gradlens.data.image_set.ImageSet`.
        parts: the images, a part at a time, from the start at each call; ids are unique over all parts. A part's class
            names are those that it knows, which may differ from part to part where labels are names.
        length: how many images there are, ``None`` where only the end tells.
        stamp: of the files that it reads: sizes and times; empty where they are not known.
    """

    name: str
    role: Role
    location: str
    parts: Callable[[], Iterator[ImageSet]]
    length: int | None = None
    shift: str | None = None
    stamp: str = ""


def open_stream(spec: str, *, offline: bool = False, runtime: Runtime | None = None) -> Stream:
    """The stream that a SOURCE names; see the module's head.

    Raises:
        As :func:`~gradlens.data.sources.open_source`; a part that is damaged raises when it is reached.
    """
    if spec.startswith("hf:"):
        name, role, rows = open_hub_stream(spec, offline)
        return Stream(name, role, spec, lambda: _hub_parts(rows(PART), name, role, spec))
    files = [Path(p) for p in expand_braces(spec)]
    if spec.endswith(".tar"):
        return Stream(set_name(spec, files), "test", spec, lambda: _tar_parts(files), stamp=_stamp(files))
    if spec.endswith(".parquet") and all(f.is_file() for f in files):
        length = sum(_opened(f).metadata.num_rows for f in files)
        return Stream(set_name(spec, files), "test", spec, lambda: _parquet_parts(files), length, stamp=_stamp(files))
    whole = open_source(spec, offline=offline, runtime=runtime)
    return Stream(whole.name, whole.role, whole.location, lambda: _cut(whole), len(whole), whole.shift)


def _stamp(files: Sequence[Path]) -> str:
    try:
        return " ".join(f"{f}:{f.stat().st_size}:{f.stat().st_mtime_ns}" for f in files)
    except OSError as err:
        raise InputError(f"{err.filename}: expected a file, but the system refused: {err.strerror}") from err


def _cut(images: ImageSet) -> Iterator[ImageSet]:
    """Parts of a listed set, which no longer know where all of it lies: their content is not to be hashed."""
    for start in range(0, len(images), PART):
        end = min(start + PART, len(images))
        part = images.subset(range(start, end))
        skipped = images.skipped if start == 0 else ()
        yield replace(part, store=_Passing(images.store), skipped=skipped)


class _Passing(Store):
    """A store whose images are read once, in passing."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def encoded(self, row: int) -> bytes | Path | np.ndarray:
        return self.store.encoded(row)

    def content(self) -> str:
        return ""  # of a part that nobody asks for again


def _tar_parts(shards: Sequence[Path]) -> Iterator[ImageSet]:
    for shard in shards:
        listed = open_tar(str(shard))
        if len(shards) > 1:
            samples = tuple(replace(s, id=f"{shard.stem}/{s.id}") for s in listed.samples)
            listed = replace(listed, samples=samples)
        yield from _cut(listed)


class _Rows(Store):
    """Images of one batch of rows."""

    def __init__(self, values: Sequence[Any], path: Path, start: int) -> None:
        self.values, self.path, self.start = values, path, start

    def encoded(self, row: int) -> bytes | Path | np.ndarray:
        value = self.values[row]
        return encoded_in(value.as_py() if isinstance(value, pa.Scalar) else value, self.path, self.start + row)

    def content(self) -> str:
        return ""


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except Exception as err:  # pyarrow raises whatever a damaged footer leads it to
        raise InputError(f"{path}: expected a Parquet file, but it cannot be read: {reason(err)}") from err


def _parquet_parts(files: Sequence[Path]) -> Iterator[ImageSet]:
    for path in files:
        with _opened(path) as file:
            image, label, names = columns_of(path, file)
            columns = [image] if label is None else [image, label]
            start = 0
            try:
                for batch in file.iter_batches(PART, columns=columns):
                    labels = None if label is None else batch.column(label).to_pylist()
                    store = _Rows(batch.column(image), path, start)
                    prefix = f"{path.stem}/" if len(files) > 1 else ""
                    yield _part(path.stem, str(path), "test", store, labels, names, prefix, start)
                    start += batch.num_rows
            except (pa.ArrowException, OSError) as err:
                raise InputError(f"{path}: damaged after {start:,} rows: {reason(err)}") from err


def _hub_parts(rows: Iterator[tuple[Sequence[Any], Any, tuple[str, ...] | None]], name: str, role: Role,
               spec: str) -> Iterator[ImageSet]:  # fmt: skip
    start = 0
    for values, labels, names in rows:
        yield _part(name, spec, role, _Rows(values, Path(spec), start), labels, names, "", start)
        start += len(values)


def _part(
    name: str,
    location: str,
    role: Role,
    store: _Rows,
    labels: Sequence[int | str | None] | None,
    names: tuple[str, ...] | None,
    prefix: str,
    start: int,
) -> ImageSet:
    indices: list[int | None] = [None] * len(store.values)
    if labels is not None:
        if names is None:  # labels are names themselves
            names = tuple(sorted({str(label) for label in labels if label is not None}))
        position = {c: i for i, c in enumerate(names)}
        indices = [None if v in (None, -1) else (v if isinstance(v, int) else position[v]) for v in labels]
        odd = next((v for v in indices if v is not None and not 0 <= v < len(names)), None)
        if odd is not None:
            raise InputError(f"{location}: label {odd} has no name among the {len(names)} classes")
    samples = tuple(Sample(f"{prefix}{start + i}", label) for i, label in enumerate(indices))
    return ImageSet(name, role, names, samples, location, store, tuple(range(len(samples))))
