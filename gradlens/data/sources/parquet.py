"""Parquet in the Hugging Face image layout: ``image`` = struct of ``bytes`` and ``path``, ``label`` = whole number.

Class names stand in the schema metadata (key ``huggingface``); a column of class names as text serves as well. Row
groups are read when an image of theirs is asked for, and the last ones used stay in memory.
"""

from __future__ import annotations

import bisect
import itertools
import json
import threading
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gradlens.data.bounds import GROUP_BYTES, check_parquet
from gradlens.data.decode import reason
from gradlens.data.folders import remarks_on
from gradlens.data.footer import row_groups
from gradlens.data.image_set import ImageSet, Store, sha256_of
from gradlens.errors import InputError
from gradlens.records import Sample
from gradlens.runtime import plain_file

ROWS_AT_ONCE = 64
CACHE_BYTES = 64 * 2**20  # encoded images kept in memory; one row group is kept even if it is larger
IMAGE_NAMES = ("image", "img")
LABEL_NAMES = ("label", "labels", "class", "fine_label")


class RowGroups(Store):
    """The image column of a Parquet file, row group by row group."""

    def __init__(self, path: Path, file: pq.ParquetFile, column: str) -> None:
        self.path, self.column = path, column
        self._file = file
        self._starts = [0, *itertools.accumulate(group.rows for group in row_groups(path))]
        self._groups: OrderedDict[int, pa.Array] = OrderedDict()
        self._lock = threading.Lock()

    def encoded(self, row: int) -> bytes | Path | np.ndarray:
        group = bisect.bisect_right(self._starts, row) - 1
        try:
            value = self._group(group)[row - self._starts[group]].as_py()
        except ValueError as err:  # a path that is no UTF-8
            raise InputError(f"{self.path}: row {row} is damaged: {reason(err)}") from err
        return encoded_in(value, self.path, row)

    def content(self) -> str:
        return self._content

    @cached_property
    def _content(self) -> str:
        return sha256_of(self.path)

    def _group(self, group: int) -> pa.Array:
        with self._lock:
            if group in self._groups:
                self._groups.move_to_end(group)
                return self._groups[group]
            try:
                self._groups[group] = self._read(group)
            except (pa.ArrowException, OSError) as err:
                raise InputError(f"{self.path}: row group {group} is damaged: {reason(err)}") from err
            while len(self._groups) > 1 and sum(g.nbytes for g in self._groups.values()) > CACHE_BYTES:
                self._groups.popitem(last=False)
            return self._groups[group]

    def _read(self, group: int) -> pa.Array:
        """A row group, a few rows at a time: one image that is named in every row would come as many times."""
        parts: list[pa.Array] = []
        room = GROUP_BYTES
        for batch in self._file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=[self.column]):
            parts.append(batch.column(0))
            room -= batch.column(0).nbytes
            if room < 0:
                raise InputError(
                    f"{self.path}: expected at most {GROUP_BYTES:,} bytes in row group {group}, got more; write the "
                    "table with smaller row groups"
                )
        return pa.concat_arrays(parts)


def encoded_in(value: Any, path: Path, row: int) -> bytes | Path:
    """The image that a cell of the image column holds, or the file beside the table that it names.

    Raises:
        InputError: there is none, or it lies elsewhere.
    """
    if isinstance(value, bytes):
        return value
    if value is None or (value.get("bytes") is None and not value.get("path")):
        raise InputError(f"{path}: row {row} holds no image")
    if value.get("bytes") is not None:
        return bytes(value["bytes"])
    beside = (path.parent / value["path"]).resolve()
    if not beside.is_relative_to(path.parent.resolve()):
        raise InputError(f"{path}: row {row} names a file outside the table's folder: {value['path']!r}")
    return beside


def columns_of(path: Path, file: pq.ParquetFile) -> tuple[str, str | None, tuple[str, ...] | None]:
    """The image column, the label column where there is one, and the names that its numbers stand for.

    Names are ``None`` where labels are names themselves.

    Raises:
        InputError: there is no image column, a column stands there twice, or numbers have no names.
    """
    schema = file.schema_arrow
    if twice := next((name for name in schema.names if schema.names.count(name) > 1), None):
        raise InputError(f"{path}: expected each column once, {twice!r} stands there more than once; remove one")
    features = _features(path, schema)
    image = _column(schema, features, "Image", IMAGE_NAMES)
    if image is None or not _holds_images(schema.field(image).type):
        raise InputError(
            f"{path}: expected a column 'image' of bytes or of struct<bytes, path>, got {', '.join(schema.names)}"
        )
    label = _column(schema, features, "ClassLabel", LABEL_NAMES)
    return image, label, None if label is None else _names(path, schema.field(label).type, label, features)


def open_parquet(path: Path) -> ImageSet:
    """The images of a Parquet file; ids are row numbers. A label of -1 or null means unlabelled.

    Raises:
        InputError: the file is damaged, has no image column, no rows, or labels without names.
    """
    try:
        file = pq.ParquetFile(plain_file(path))
        check_parquet(path, file.metadata)
    except InputError:
        raise
    except Exception as err:  # pyarrow raises whatever a damaged footer leads it to
        raise InputError(f"{path}: expected a Parquet file, but it cannot be read: {reason(err)}") from err
    image, label, names = columns_of(path, file)
    if not file.metadata.num_rows:
        raise InputError(f"{path}: expected images, got a table without rows")
    classes, labels = _labels(path, file, label, names) if label else (None, [None] * file.metadata.num_rows)
    samples = tuple(Sample(str(row), label) for row, label in enumerate(labels))
    return ImageSet(
        name=path.stem,
        role="unlabelled" if classes is None else "test",
        classes=classes,
        samples=samples,
        location=str(path),
        store=RowGroups(path, file, image),
        rows=tuple(range(len(samples))),
        remarks=tuple(remarks_on(classes or (), samples)),
    )


def _features(path: Path, schema: pa.Schema) -> dict[str, Any]:
    stored = (schema.metadata or {}).get(b"huggingface")
    if stored is None:
        return {}
    try:
        features = json.loads(stored)["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise InputError(
            f"{path}: the schema's 'huggingface' metadata is not as datasets writes it: {reason(err)}"
        ) from err
    return features if isinstance(features, dict) else {}


def _column(schema: pa.Schema, features: dict[str, Any], kind: str, usual: tuple[str, ...]) -> str | None:
    declared = [n for n, f in features.items() if isinstance(f, dict) and f.get("_type") == kind and n in schema.names]
    named = [n for n in usual if n in schema.names]
    both = [n for n in named if n in declared]
    return next(iter(both + declared + named), None)


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return "bytes" in [kind.field(i).name for i in range(kind.num_fields)]
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _names(path: Path, kind: pa.DataType, column: str, features: dict[str, Any]) -> tuple[str, ...] | None:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return None
    feature = features.get(column)
    names = feature.get("names") if isinstance(feature, dict) else None
    if not names:
        raise InputError(
            f"{path}: column {column!r} holds numbers, but the schema names no classes "
            "(huggingface metadata, info.features.label.names); write the table with datasets' ClassLabel, "
            "or use a column of class names as text"
        )
    if not pa.types.is_integer(kind):
        raise InputError(f"{path}: expected whole numbers or text in column {column!r}, got {kind}")
    classes = tuple(map(str, names))
    if len(set(classes)) != len(classes):
        raise InputError(f"{path}: the schema names a class twice")
    return classes


def _labels(
    path: Path, file: pq.ParquetFile, column: str, classes: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[int | None]]:
    try:
        values = file.read(columns=[column]).column(column)
        listed = values.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as err:
        raise InputError(f"{path}: column {column!r} is damaged: {reason(err)}") from err
    if classes is None:
        classes = tuple(sorted({t for t in listed if t is not None}))
        position = {c: i for i, c in enumerate(classes)}
        return classes, [None if t is None else position[t] for t in listed]
    labels: list[int | None] = []
    for row, value in enumerate(listed):
        if value is not None and not -1 <= value < len(classes):
            raise InputError(f"{path}: row {row} has label {value}, but there are {len(classes)} classes")
        labels.append(None if value is None or value == -1 else int(value))
    return classes, labels
