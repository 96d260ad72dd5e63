"""Accuracy tables as model libraries publish them: one row per model, one column per data set, no predictions.

Recognised columns: ``model``; the accuracy columns that are asked for; and where they are there ``family`` (models that
are not independent of each other), ``extra_data`` (what a model was trained on beyond the others; empty, ``no``,
``none``, ``false`` and ``0`` mean nothing), ``n`` (images behind every accuracy) or ``n_SET`` (those of one column).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from gradlens.errors import InputError, NotFoundError
from gradlens.records import Skipped
from gradlens.shift.lines import family_of

ABOUT = ("model", "family", "extra_data", "n")
NOTHING = ("", "no", "none", "false", "0", "nan")


@dataclass(frozen=True)
class AccuracyTable:
    """Accuracies of M models on S sets.

    Attributes:
        models: M names, different.
        families: of each model; its name without a seed's ending where the file has none.
        extra_data: of each model, empty where there is none.
        sets: S names, the in-distribution set first.
        values: (M, S) fractions.
        images: (M, S) images behind each, 0 where unknown.
        scale: what the file held.
        skipped: rows that were left out.
    """

    models: tuple[str, ...]
    families: tuple[str, ...]
    extra_data: tuple[str, ...]
    sets: tuple[str, ...]
    values: np.ndarray
    images: np.ndarray
    scale: Literal["fractions", "percent"]
    skipped: tuple[Skipped, ...]


def read(path: Path, in_dist: str | None, probes: Sequence[str]) -> AccuracyTable:
    """A table of accuracies from CSV or Parquet.

    Fractions and percent are told apart by their size, over all columns together: percent as soon as one value is
    above 1. A column of which every value is at most 1 (and one is not 0) in a table of percent is refused, because
    it could be either.

    Args:
        path: the file.
        in_dist: the column of the in-distribution set.
        probes: columns of shifted sets; none, or ``all``: every other column of numbers.

    Raises:
        InputError: the file is no such table, or a value is no accuracy.
        NotFoundError: no such column.
    """
    table = _open(path)
    columns = table.column_names
    if "model" not in columns:
        raise InputError(f"{path}: expected a column model, it has {', '.join(columns) or 'none'}")
    if table.num_rows == 0:
        raise InputError(f"{path}: expected one row per model, the file has no rows")
    numeric = [c for c in columns if _is_number(table[c]) and c not in ABOUT and not c.startswith("n_")]
    if in_dist is None:
        raise InputError(f"{path}: expected --in-dist with the column of the in-distribution set: {', '.join(numeric)}")
    wanted = [p for p in dict.fromkeys(probes) if p != "all"]
    for name in (in_dist, *wanted):
        if name not in columns:
            raise NotFoundError("column", name, numeric, hint=f"these columns of {path} hold numbers")
    if in_dist in wanted:
        raise InputError(f"{in_dist} is the in-distribution column already; name other columns with --probe")
    if not wanted or "all" in probes:
        wanted += [c for c in numeric if c != in_dist and c not in wanted]
    if not wanted:
        raise InputError(f"{path}: expected a column of accuracies beside {in_dist}, there is none")
    sets = (in_dist, *wanted)

    names = _texts(table, "model")
    values = np.stack([_numbers(table, c, path) for c in sets], axis=1)
    values, scale = _as_fractions(values, sets, path)
    images = np.stack([_images(table, c, path) for c in sets], axis=1)
    families = _texts(table, "family") if "family" in columns else [family_of(m) for m in names]
    extra = _texts(table, "extra_data") if "extra_data" in columns else [""] * len(names)
    skipped = []
    keep = []
    for row, name in enumerate(names):
        without = [c for c, value in zip(sets, values[row], strict=True) if np.isnan(value)]
        if not name:
            raise InputError(f"{path}: model is missing in row {row + 1}")
        if without:
            skipped.append(Skipped(name, f"no accuracy in column {', '.join(without)}"))
        else:
            keep.append(row)
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(f"{path}: expected one row per model, {twice[0]} has {names.count(twice[0])}; rename or merge")
    if not keep:
        raise InputError(f"{path}: no model has an accuracy in each of {', '.join(sets)}")
    return AccuracyTable(
        models=tuple(names[i] for i in keep),
        families=tuple(families[i] or family_of(names[i]) for i in keep),
        extra_data=tuple("" if extra[i].strip().casefold() in NOTHING else extra[i].strip() for i in keep),
        sets=sets,
        values=values[keep],
        images=images[keep],
        scale=scale,
        skipped=tuple(skipped),
    )


def _open(path: Path) -> pa.Table:
    if not path.is_file():
        raise InputError(f"{path}: expected a table of accuracies (CSV or Parquet), there is no such file")
    try:
        with path.open("rb") as stream:
            if stream.read(4) == b"PAR1":
                return pq.read_table(path)
        as_text = {c: pa.string() for c in ("model", "family", "extra_data")}
        return pa_csv.read_csv(path, convert_options=pa_csv.ConvertOptions(column_types=as_text))
    except UnicodeDecodeError as err:
        raise InputError(f"{path}: expected Parquet or a CSV file in UTF-8: {err.reason}") from None
    except pa.ArrowException as err:
        raise InputError(f"{path}: cannot be read as a table: {str(err).splitlines()[0]}") from None


def _is_number(column: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_integer(column.type) or pa.types.is_floating(column.type))


def _texts(table: pa.Table, column: str) -> list[str]:
    return ["" if value is None else str(value).strip() for value in table[column].to_pylist()]


def _numbers(table: pa.Table, column: str, path: Path) -> np.ndarray:
    if not _is_number(table[column]) and not pa.types.is_null(table[column].type):
        odd = next(v for v in table[column].to_pylist() if v is not None)
        raise InputError(f"{path}: expected numbers in the column {column}, it holds values like {odd!r}")
    values = [np.nan if v is None else float(v) for v in table[column].to_pylist()]
    return np.array(values, dtype=np.float64)


def _images(table: pa.Table, column: str, path: Path) -> np.ndarray:
    """(M,) images behind the accuracies of one column; 0 where the file does not say."""
    name = next((c for c in (f"n_{column}", "n") if c in table.column_names), None)
    if name is None:
        return np.zeros(table.num_rows, dtype=np.int64)
    n = np.nan_to_num(_numbers(table, name, path))
    if (n < 0).any() or (n != np.rint(n)).any():
        raise InputError(f"{path}: expected whole numbers of images in the column {name}")
    return n.astype(np.int64)


def _as_fractions(
    values: np.ndarray, sets: Sequence[str], path: Path
) -> tuple[np.ndarray, Literal["fractions", "percent"]]:
    for column, name in zip(values.T, sets, strict=True):
        odd: Any = np.flatnonzero((column < 0) | (column > 100) | np.isinf(column))
        if len(odd):
            raise InputError(
                f"{path}: expected accuracies from 0 to 1 or 0 to 100 in the column {name}, row {int(odd[0]) + 1} has "
                f"{column[odd[0]]:g}; name the columns of accuracies with --in-dist and --probe"
            )
    largest = np.array([np.nanmax(c) if (~np.isnan(c)).any() else 0.0 for c in values.T])
    if (largest <= 1).all():
        return values, "fractions"
    for top, name in zip(largest, sets, strict=True):
        if 0 < top <= 1:
            raise InputError(
                f"{path}: the column {name} holds at most {top:g} where others hold percent; "
                "write all columns as percent or all as fractions, or leave it out with --probe"
            )
    return values / 100, "percent"
