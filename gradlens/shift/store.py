"""Predictions as files: what a run leaves, what others published, and the cache of what was computed already.

A predictions file is Parquet or CSV with one row per image, ``model, dataset, index|path, label, prediction`` and,
where known, ``logits`` or ``probabilities``; class names stand in the Parquet metadata, or in CSV in a first line
``# classes: ["cat", "dog"]``. The files a run writes are predictions files too, so a run can be scored again,
elsewhere, without its models or its images.

In the files a run writes, ``label`` and ``prediction`` index the same list: the model's classes, then those classes of
the set that the model does not know. ``argmax(logits) == label`` is therefore what "correct" means, with any library.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from gradlens.data.bounds import MOST_CLASSES, check_parquet, check_text, text_columns
from gradlens.errors import InputError
from gradlens.records import Predictions
from gradlens.runtime import UNFINISHED, scratch, whole_file

K = TypeVar("K")

STALE_SECONDS = 86_400.0  # nobody writes one part for a day
MOST_COLUMNS = 1_000  # of a CSV file; what a table of predictions has more of, nobody reads
IN_MEMORY = 8 * 2**20  # bytes of one model's logits on one set, above which they live in a file


@dataclass(frozen=True)
class StoredPredictions:
    """Predictions as read from a file, with what the file knew about their image set.

    Attributes:
        about: what a run wrote beside them (role, shift, paired_with, checksums, versions); empty for foreign files.
        source: the file's path.
    """

    predictions: Predictions
    about: Mapping[str, Any]
    source: str


# ---------------------------------------------------------------------------------------------- writing


def file_names(pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """A file name for each (model, dataset): ``<model>--<dataset>.parquet`` with ``/`` as ``--``, all different."""
    stems = different({(model, dataset): safe_stem(f"{model}--{dataset}") for model, dataset in pairs})
    return {pair: f"{stem}.parquet" for pair, stem in stems.items()}


def different(stems: Mapping[K, str]) -> dict[K, str]:
    """The same, where two are equal (``a/b`` and ``a--b`` are two models) the later one with ``~2`` and so on."""
    found: dict[K, str] = {}
    for key, stem in stems.items():
        name, again = stem, 1
        while name in found.values():
            again += 1
            name = f"{stem}~{again}"
        found[key] = name
    return found


def safe_stem(name: str) -> str:
    """``name`` as a file's name without its ending: ``/`` as ``--``, not hidden, not longer than file systems take."""
    stem = name.replace("/", "--").replace("\\", "--").replace("\0", "").lstrip(".")
    if len(stem.encode()) > 200:
        stem = stem.encode()[:180].decode(errors="ignore") + "-" + hashlib.sha256(stem.encode()).hexdigest()[:12]
    return stem


def write(path: Path, predictions: Predictions, about: Mapping[str, Any]) -> None:
    """Write one model's predictions on one image set as Parquet (atomically, the same bytes for the same content).

    Args:
        path: the file to write.
        predictions: what to write.
        about: the image set's role, shift and pairing, and what made the predictions (checksums, versions): for a later
            run that must not mistake a training set for a test set, and for whoever finds the file alone.
    """
    p = predictions
    names = p.classes + tuple(c for c in p.label_classes if c not in p.classes)
    position = {name: i for i, name in enumerate(names)}
    into = np.array([position[c] for c in p.label_classes] + [-1], dtype=np.int64)  # -1, unlabelled, stays -1
    n = len(p)
    columns: dict[str, pa.Array] = {
        "model": pa.array([p.model] * n, pa.string()),
        "dataset": pa.array([p.dataset] * n, pa.string()),
    }
    if n and all(i.isdecimal() and str(int(i)) == i for i in p.ids):
        columns["index"] = pa.array([int(i) for i in p.ids], pa.int64())
    else:
        columns["path"] = pa.array(p.ids, pa.string())
    columns["label"] = pa.array(into[p.labels] if n else [], pa.int64())
    columns["prediction"] = pa.array(p.predicted, pa.int64())
    if p.logits is not None:
        columns["logits"] = _list_array(p.logits)
    if p.pairs is not None:
        columns["pair"] = pa.array(p.pairs, pa.string())
    metadata = {
        "classes": json.dumps(p.classes, ensure_ascii=False),
        "label_classes": json.dumps(names, ensure_ascii=False),
        "set_classes": json.dumps(p.label_classes, ensure_ascii=False),
        "gradlens": json.dumps({"schema": 1, **about}, ensure_ascii=False, sort_keys=True),
    }
    with whole_file(path) as part:
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), part, compression="zstd")


def _list_array(matrix: np.ndarray) -> pa.ListArray:
    n, k = matrix.shape
    offsets = pa.array(np.arange(n + 1, dtype=np.int64) * k, pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(matrix, dtype=np.float32).reshape(-1)))


# ---------------------------------------------------------------------------------------------- reading


def read(paths: Sequence[Path]) -> list[StoredPredictions]:
    """All predictions in some files, one record per model and dataset, in the order the files name them.

    Rows of one model and dataset may be spread over several files (shards); they are joined by id.

    Raises:
        InputError: a file is not a predictions file; a row makes no sense; an image was predicted twice.
    """
    together: dict[tuple[str, str], StoredPredictions] = {}
    for path in paths:
        for found in _read_one(Path(path)):
            key = found.predictions.model, found.predictions.dataset
            together[key] = _join(together[key], found) if key in together else found
    return list(together.values())


def _read_one(path: Path) -> list[StoredPredictions]:
    try:
        return _parsed(path)
    except (pa.ArrowException, UnicodeDecodeError, RecursionError) as err:
        raise InputError(f"{path}: cannot be read as predictions: {str(err).partition(chr(10))[0]}") from err


def _parsed(path: Path) -> list[StoredPredictions]:
    table, metadata = _open(path)
    columns = set(table.column_names)
    id_column = "path" if "path" in columns else "index"
    scores = next((c for c in ("logits", "probabilities") if c in columns), None)
    wanted = ["model", "dataset", id_column, "label", "prediction"]
    missing = [("index or path" if c == "index" else c) for c in wanted if c not in columns]
    if missing:
        raise InputError(
            f"{path}: expected the columns model, dataset, index or path, label, prediction; "
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing "
            f"(it has {', '.join(table.column_names)})"
        )
    if len(columns) != table.num_columns:
        twice = next(c for c in table.column_names if table.column_names.count(c) > 1)
        raise InputError(f"{path}: expected each column once, {twice!r} stands there more than once; remove one")
    if table.num_rows == 0:
        raise InputError(f"{path}: expected at least one prediction, the file has no rows")

    model, dataset, ids = (_strings(table, c, path) for c in ("model", "dataset", id_column))
    classes, label_classes, set_classes = (
        _names(metadata, k, path) for k in ("classes", "label_classes", "set_classes")
    )
    label, label_names = _codes(table, "label", path, missing_is_unlabelled=True)
    prediction, prediction_names = _codes(table, "prediction", path, missing_is_unlabelled=False)
    if (label_names is None) != (prediction_names is None) and (label >= 0).any():
        raise InputError(f"{path}: expected label and prediction of one kind, one holds numbers and the other names")
    matrix = _matrix(table, scores, path) if scores else None

    if prediction_names is not None:
        if classes is None and matrix is not None:
            raise InputError(f"{path}: {scores} need class names in their order, in the metadata key 'classes'")
        known = classes or tuple(sorted({*prediction_names, *(label_names or ())}))
        prediction = _by_name(prediction, prediction_names, known, "prediction", path)
        if label_names is not None:
            label_classes = label_classes or (known if classes is None else _with(known, label_names))
            label = _by_name(label, label_names, label_classes, "label", path)
        classes, label_classes = known, label_classes or known
    elif classes is None:
        k = matrix.shape[1] if matrix is not None else int(max(label.max(), prediction.max())) + 1
        if k > MOST_CLASSES:
            raise InputError(f"{path}: label or prediction {k - 1} would mean {k} classes; the most is {MOST_CLASSES}")
        classes = tuple(f"class_{i}" for i in range(k))
    label_classes = label_classes or classes
    _in_range(label, len(label_classes), "label", path, lowest=-1)
    _in_range(prediction, len(classes), "prediction", path, lowest=0)
    if matrix is not None:
        matrix = _checked_scores(matrix, scores == "probabilities", prediction, len(classes), path)
    if set_classes is not None and set(set_classes) <= set(label_classes):
        own = {name: i for i, name in enumerate(set_classes)}
        into = np.array([own.get(c, -2) for c in label_classes] + [-1], dtype=np.int64)
        label = into[label]
        _in_range(label, len(set_classes), "label", path, lowest=-1)
        label_classes = set_classes

    pairs = np.array(table["pair"].to_pylist(), dtype=object) if "pair" in columns else None
    about = _about(metadata)
    found = []
    for rows in _groups(model, dataset):
        first = rows[0]
        own_ids = tuple(ids[rows].tolist())
        if len(set(own_ids)) != len(own_ids):
            twice = next(i for i in own_ids if own_ids.count(i) > 1)
            raise InputError(
                f"{path}: expected one row per model, dataset and {id_column}; "
                f"{model[first]} on {dataset[first]} has {id_column} {twice} more than once"
            )
        found.append(
            StoredPredictions(
                Predictions(
                    model=model[first],
                    dataset=dataset[first],
                    classes=classes,
                    label_classes=label_classes,
                    ids=own_ids,
                    labels=label[rows],
                    predicted=prediction[rows],
                    logits=None if matrix is None else matrix[rows],
                    pairs=None if pairs is None else tuple(pairs[rows].tolist()),
                ),
                about=about,
                source=str(path),
            )
        )
    return found


def _open(path: Path) -> tuple[pa.Table, dict[str, str]]:
    """The table and its metadata; for CSV the metadata are ``# key: JSON`` lines before the header."""
    if not path.is_file():
        raise InputError(f"{path}: expected a predictions file (Parquet or CSV), there is no such file")
    try:
        with path.open("rb") as stream:
            if stream.read(4) == b"PAR1":
                table = _bounded_table(path)
                raw = table.schema.metadata or {}
                return table, {k.decode(errors="replace"): v.decode(errors="replace") for k, v in raw.items()}
        if path.suffix.lower() in (".parquet", ".pq"):
            raise InputError(f"{path}: is called Parquet but is not; write it again or give it its own ending")
        metadata: dict[str, str] = {}
        skip = 0
        with path.open(encoding="utf-8-sig") as text:
            for line in text:
                if not line.startswith("#"):
                    if (columns := line.count(",") + 1) > MOST_COLUMNS:
                        raise InputError(f"{path}: expected a table of predictions, got one of {columns:,} columns")
                    break
                key, _, value = line[1:].partition(":")
                metadata[key.strip()] = value.strip()
                skip += 1
        options = pa_csv.ReadOptions(skip_rows=skip)
        as_text = pa_csv.ConvertOptions(column_types={c: pa.string() for c in ("model", "dataset", "path", "pair")})
        return pa_csv.read_csv(path, options, convert_options=as_text), metadata
    except UnicodeDecodeError as err:
        raise InputError(f"{path}: expected Parquet or a CSV file in UTF-8: {err.reason}") from None
    except (pa.ArrowException, OSError) as err:
        if isinstance(err, OSError) and err.errno is not None:
            raise
        raise InputError(f"{path}: cannot be read as predictions: {str(err).splitlines()[0]}") from None


def _bounded_table(path: Path) -> pa.Table:
    """A Parquet file's table, its text as words and numbers of words; refused where it claims more than it can hold."""
    with pq.ParquetFile(path) as file:
        check_parquet(path, file.metadata)
        text = text_columns(file.schema_arrow)
    with pq.ParquetFile(path, read_dictionary=text) as file:
        table = file.read()
    check_text(path, table)
    return table


def _about(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        about = json.loads(metadata.get("gradlens", "{}"))
    except (ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def _names(metadata: Mapping[str, str], key: str, path: Path) -> tuple[str, ...] | None:
    """Class names from the metadata: our own keys, else (for ``classes``) those of the Hugging Face layout."""
    names: Any = None
    try:
        if key in metadata:
            names = json.loads(metadata[key])
        elif key == "classes" and "huggingface" in metadata:
            features = json.loads(metadata["huggingface"])["info"]["features"]
            names = next(
                (features[c]["names"] for c in ("prediction", "label") if "names" in features.get(c, {})), None
            )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        if key not in metadata:
            return None
        names = ()
    if names is None:
        return None
    none = names == [] and key == "set_classes"  # of a set without labels
    if not isinstance(names, list) or not (names or none) or not all(isinstance(n, str) for n in names):
        raise InputError(f"{path}: expected a JSON list of class names under the metadata key {key!r}")
    if len(set(names)) != len(names):
        raise InputError(f"{path}: class names under the metadata key {key!r} are not unique")
    return tuple(names)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _strings(table: pa.Table, column: str, path: Path) -> np.ndarray:
    """A column as an object array of strings, none of them missing or empty."""
    values = _plain(table[column])
    if pa.types.is_nested(values.type):
        raise InputError(f"{path}: expected text or numbers in the column {column}, it holds {values.type}")
    text = values.cast(pa.string())
    bad = pc.or_kleene(pc.is_null(text), pc.equal(text, ""))
    if pc.any(bad).as_py():
        row = int(np.nonzero(bad.to_numpy(zero_copy_only=False))[0][0]) + 1
        raise InputError(f"{path}: {column} is missing in row {row}")
    return np.asarray(text.to_numpy(zero_copy_only=False), dtype=object)


def _codes(
    table: pa.Table, column: str, path: Path, *, missing_is_unlabelled: bool
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """A column of class indices or class names: (N,) int64, and the names it indexes (``None`` for plain indices)."""
    values = _plain(table[column])
    null = pc.is_null(values).to_numpy(zero_copy_only=False)
    if null.any() and not missing_is_unlabelled:
        raise InputError(f"{path}: {column} is missing in row {int(np.nonzero(null)[0][0]) + 1}")
    kind = values.type
    if pa.types.is_null(kind):
        return np.full(len(values), -1, dtype=np.int64), None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        text = values.to_numpy(zero_copy_only=False)
        names = tuple(sorted({t for t in text if t is not None}))
        numeric = [t for t in names if t.strip().lstrip("+-").isdecimal()]
        if numeric and len(numeric) < len(names):
            odd = next(t for t in names if t not in set(numeric))
            row = text.tolist().index(odd) + 1  # NumPy would compare without the zero bytes at a text's end
            raise InputError(
                f"{path}: {column} in row {row} is {odd!r}, where other rows hold numbers like {numeric[0]}"
            )
        position = {name: i for i, name in enumerate(names)}
        return np.array([-1 if t is None else position[t] for t in text], dtype=np.int64), names
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise InputError(f"{path}: expected class indices or class names in the column {column}, it holds {kind}")
    numbers = pc.fill_null(values.cast(pa.float64(), safe=False), -1.0).to_numpy(zero_copy_only=False)
    odd_rows = np.nonzero(~np.isfinite(numbers) | (numbers != np.rint(numbers)) | (np.abs(numbers) >= 2**53))[0]
    if len(odd_rows):
        row = int(odd_rows[0])
        raise InputError(f"{path}: expected whole numbers in the column {column}, row {row + 1} has {numbers[row]}")
    return numbers.astype(np.int64), None


def _with(known: tuple[str, ...], more: Iterable[str]) -> tuple[str, ...]:
    return known + tuple(n for n in more if n not in known)


def _by_name(codes: np.ndarray, names: tuple[str, ...], known: tuple[str, ...], column: str, path: Path) -> np.ndarray:
    position = {name: i for i, name in enumerate(known)}
    unknown = [n for n in names if n not in position]
    if unknown:
        shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
        raise InputError(f"{path}: the {column} {unknown[0]!r} is not among the file's classes ({shown})")
    return np.array([position[n] for n in names] + [-1], dtype=np.int64)[codes]


def _in_range(codes: np.ndarray, k: int, column: str, path: Path, *, lowest: int) -> None:
    bad = np.nonzero((codes < lowest) | (codes >= k))[0]
    if len(bad):
        raise InputError(
            f"{path}: expected a {column} between 0 and {k - 1} ({k} classes), "
            f"row {int(bad[0]) + 1} has {codes[bad[0]]}"
        )


def _matrix(table: pa.Table, column: str, path: Path) -> np.ndarray:
    """A column of equally long lists of numbers (or, in CSV, of their JSON) as an (N, K) float64 array."""
    values = _plain(table[column])
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        try:
            values = pa.chunked_array([pa.array([json.loads(t) for t in values.to_pylist()], pa.list_(pa.float64()))])
        except (ValueError, TypeError, pa.ArrowException):
            raise InputError(f"{path}: expected a JSON list of numbers in each row of the column {column}") from None
    kind = values.type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not listed or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise InputError(f"{path}: expected a list of numbers per row in the column {column}, it holds {kind}")
    flat = values.combine_chunks()
    if isinstance(flat, pa.ChunkedArray):
        flat = pa.concat_arrays(flat.chunks)
    lengths = pc.fill_null(pc.list_value_length(flat), 0).to_numpy(zero_copy_only=False)
    if lengths.min() != lengths.max() or lengths[0] == 0:
        row = int(np.nonzero(lengths != lengths[0])[0][0]) if lengths[0] else 0
        raise InputError(
            f"{path}: expected {column} of the same length in every row, row 1 has {lengths[0]} and row {row + 1} "
            f"has {lengths[row]}"
        )
    numbers = pc.fill_null(flat.flatten().cast(pa.float64()), float("nan"))
    return np.asarray(numbers.to_numpy(zero_copy_only=False)).reshape(len(flat), int(lengths[0]))


def _checked_scores(matrix: np.ndarray, probabilities: bool, prediction: np.ndarray, k: int, path: Path) -> np.ndarray:
    """Logits (float32) from logits or probabilities that agree with the predictions."""
    what = "probabilities" if probabilities else "logits"
    if matrix.shape[1] != k:
        raise InputError(f"{path}: expected {k} {what} per row (one per class), got {matrix.shape[1]}")
    odd = np.nonzero(~np.isfinite(matrix).all(axis=1))[0]
    if len(odd):
        raise InputError(f"{path}: expected finite {what}, row {int(odd[0]) + 1} has one that is not")
    if probabilities:
        odd = np.nonzero((matrix.min(axis=1) < 0) | (np.abs(matrix.sum(axis=1) - 1) > 1e-2))[0]
        if len(odd):
            row = int(odd[0])
            raise InputError(
                f"{path}: expected probabilities of at least 0 that sum to 1, those of row {row + 1} sum to "
                f"{matrix[row].sum():.6g} with {matrix[row].min():.6g} as the smallest"
            )
        # softmax(log p) = p; a probability of exactly 0 becomes the smallest normal float instead of -inf
        matrix = np.log(np.maximum(matrix, np.finfo(np.float32).tiny))
    rows = np.arange(len(matrix))
    odd = np.nonzero(matrix[rows, prediction] < matrix.max(axis=1))[0]
    if len(odd):
        row = int(odd[0])
        raise InputError(
            f"{path}: row {row + 1} predicts class {prediction[row]}, but its largest entry in {what} is that of class "
            f"{int(matrix[row].argmax())}"
        )
    return matrix.astype(np.float32)


def _groups(model: np.ndarray, dataset: np.ndarray) -> list[np.ndarray]:
    """Row numbers of each (model, dataset), in the order of their first rows."""
    _, m = np.unique(model, return_inverse=True)
    _, d = np.unique(dataset, return_inverse=True)
    _, first, group = np.unique(m * (d.max() + 1) + d, return_index=True, return_inverse=True)
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(group))[:-1])
    return [parts[i] for i in np.argsort(first)]


def _join(a: StoredPredictions, b: StoredPredictions) -> StoredPredictions:
    p, q = a.predictions, b.predictions
    where = f"{p.model} on {p.dataset}"
    if (p.classes, p.label_classes) != (q.classes, q.label_classes):
        raise InputError(f"{where}: {a.source} and {b.source} have different classes")
    if (p.logits is None) != (q.logits is None):
        raise InputError(f"{where}: only one of {a.source} and {b.source} has logits")
    twice = set(p.ids) & set(q.ids)
    if twice:
        raise InputError(f"{where}: {min(twice)} is both in {a.source} and in {b.source}")
    joined = replace(
        p,
        ids=p.ids + q.ids,
        labels=np.concatenate([p.labels, q.labels]),
        predicted=np.concatenate([p.predicted, q.predicted]),
        logits=None if p.logits is None or q.logits is None else np.concatenate([p.logits, q.logits]),
        pairs=None if p.pairs is None or q.pairs is None else p.pairs + q.pairs,
    )
    return replace(a, predictions=joined)


# ---------------------------------------------------------------------------------------------- the cache


@dataclass
class Outputs:
    """What a model said about some images: logits by image id, or why there are none."""

    logits: dict[str, np.ndarray] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.logits) + len(self.skipped)

    def update(self, other: Outputs) -> None:
        """Take over everything that ``other`` knows."""
        self.logits.update(other.logits)
        self.skipped.update(other.skipped)


class Known:
    """What the store has of one model and image set; logits stay on disk until they are asked for.

    Attributes:
        skipped: why an image has no logits, by id.
    """

    def __init__(self, parts: Iterable[Path] = ()) -> None:
        self.skipped: dict[str, str] = {}
        self._parts: list[Path] = []
        self._place: dict[str, tuple[int, int]] = {}  # part and row of each id
        for part in parts:
            self._add(part)

    def _add(self, part: Path) -> None:
        try:
            # all columns, so that a part whose logits are damaged counts as not there from the start
            table = _open_part(part, ["id", "reason", "logits"])
            ids, reasons = (table[c].to_pylist() for c in ("id", "reason"))
        except (pa.ArrowException, OSError, KeyError):
            return
        row = 0
        for image, reason in zip(ids, reasons, strict=True):
            if reason is not None:
                self.skipped[image] = reason
                continue
            self._place[image] = (len(self._parts), row)
            row += 1
        self._parts.append(part)

    def __contains__(self, image: str) -> bool:
        return image in self._place or image in self.skipped

    def __len__(self) -> int:
        return len(self._place) + len(self.skipped)

    def has_logits(self, image: str) -> bool:
        """Whether there are logits of the image, rather than a reason why not."""
        return image in self._place

    def logits(self, ids: Sequence[str], classes: int) -> np.ndarray:
        """(n, classes) float32 of images that have logits; beyond 8 MB in an unnamed file that the system may page out.

        Args:
            ids: n ids.
            classes: how many logits an image has.
        """
        shape = len(ids), classes
        large = len(ids) * classes * 4 > IN_MEMORY
        found = scratch(shape, np.float32, self._parts[0].parent) if large else np.empty(shape, np.float32)
        places = np.array([self._place[image] for image in ids], dtype=np.int64).reshape(len(ids), 2)
        for number, part in enumerate(self._parts):
            wanted = np.flatnonzero(places[:, 0] == number)
            if not len(wanted):
                continue
            rows = _open_part(part, ["reason", "logits"])
            listed = rows["logits"].combine_chunks().filter(rows["reason"].combine_chunks().is_null())
            values = np.asarray(listed.flatten(), dtype=np.float32).reshape(-1, classes)
            found[wanted] = values[places[wanted, 1]]
        return found


def _open_part(path: Path, columns: Sequence[str]) -> pa.Table:
    """Read without a memory map, which would keep a file open that another process replaces."""
    return pq.read_table(path, columns=list(columns), memory_map=False, page_checksum_verification=True)


class OutputStore:
    """Outputs on disk, kept under a key that says what made them. Parts of one key are merged by image id.

    A part is written whole or not at all, never changed, and named by what it holds, so that any number of processes
    may write into one store, and a process that is killed loses only what it had not written yet.

    Args:
        roots: folders that are read; the first one is written to.
        whole: the first one is later read alone, by machines that do not see the others: what those hold is copied.
    """

    def __init__(self, *roots: Path, whole: bool = False) -> None:
        self.roots = roots
        self.whole = whole

    def known(self, key: str) -> Known:
        """Everything that is known under ``key``; parts that cannot be read count as not there."""
        if self.whole:
            self._copy(key)
        parts = [part for root in self.roots for part in sorted((root / key).glob("*.parquet"))]
        return Known(part for part in parts if not part.name.startswith(UNFINISHED))

    def _copy(self, key: str) -> None:
        first, *others = self.roots
        for part in (p for root in others for p in (root / key).glob("*.parquet")):
            if not part.name.startswith(UNFINISHED) and not (first / key / part.name).exists():
                with whole_file(first / key / part.name) as copy:
                    shutil.copyfile(part, copy)

    def save(self, key: str, outputs: Outputs, about: Mapping[str, Any]) -> Path | None:
        """Add a part under ``key``; ``about`` is what the key was made of, for whoever opens the file."""
        if not len(outputs):
            return None
        ids = [*outputs.logits, *outputs.skipped]
        rows = [*outputs.logits.values(), *([None] * len(outputs.skipped))]
        table = pa.table(
            {
                "id": pa.array(ids, pa.string()),
                "logits": pa.array(rows, pa.list_(pa.float32())),
                "reason": pa.array([None] * len(outputs.logits) + list(outputs.skipped.values()), pa.string()),
            },
            metadata={"about": json.dumps(dict(about), sort_keys=True)},
        )
        name = hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:24]
        path = self.roots[0] / key / f"{name}.parquet"
        for left in path.parent.glob(f"{UNFINISHED}*"):  # by a process that was killed, unless it is still writing
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > STALE_SECONDS:
                    left.unlink()
        with whole_file(path) as part:
            pq.write_table(table, part, compression="zstd", write_page_checksum=True)
        return path


def key_of(about: Mapping[str, Any]) -> str:
    """The name under which outputs are kept: a hash of everything that can change them."""
    return hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode()).hexdigest()
