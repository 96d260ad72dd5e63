"""How much a small file may claim to hold: Parquet and zip archives can say "a billion zeros" in a hundred bytes.

What is checked before anything is read is what the file says about itself; what a file can lie about is counted while
it is read.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gradlens.data.footer import row_groups
from gradlens.errors import InputError

ROWS_PER_BYTE = 4  # of a Parquet file; an image's number, label and prediction take a byte or more together
FREE_ROWS = 1_000_000
VALUES_PER_BYTE = 64  # in columns of lists; rounded probabilities of 1,000 classes are mostly zeros
FREE_VALUES = 16_000_000
TEXT_BYTES = 2**30  # of one column of text
GROUP_BYTES = 2**30  # of the encoded images of one row group
MOST_CLASSES = 200_000  # a wild label without class names must not become a billion of them
ARCHIVE_BYTES = 2**34  # of one array of a NumPy archive
INFLATED = 200  # times its compressed size, beyond which an array of more than FREE_BYTES is a bomb
FREE_BYTES = 2**28


def check_parquet(path: Path, metadata: pq.FileMetaData) -> None:
    """Refuse a Parquet file that claims many more values than its bytes can say.

    Raises:
        InputError: it does.
    """
    size = path.stat().st_size
    if metadata.num_rows > FREE_ROWS + ROWS_PER_BYTE * size:
        raise InputError(
            f"{path}: {size:,} bytes claim {metadata.num_rows:,} rows; it is damaged, or made to fill the memory"
        )
    groups = row_groups(path)
    if any(len(group.values) != metadata.num_columns for group in groups):
        raise InputError(f"{path}: expected {metadata.num_columns} columns in every row group; it is damaged")
    for column in range(metadata.num_columns):
        values = sum(group.values[column] for group in groups)
        if values > FREE_VALUES + VALUES_PER_BYTE * size:
            name = metadata.schema.column(column).path
            raise InputError(
                f"{path}: {size:,} bytes claim {values:,} values in column {name!r}; it is damaged, or made to fill "
                "the memory"
            )


def check_text(path: Path, table: pa.Table) -> None:
    """Refuse columns of text that are short as they are stored, as words and numbers of words, and huge as text.

    Raises:
        InputError: one is.
    """
    for name in table.column_names:
        column = table[name]
        if not pa.types.is_dictionary(column.type) or not _is_text(column.type.value_type):
            continue
        total = 0
        for chunk in column.chunks:
            lengths = pc.take(pc.binary_length(chunk.dictionary), chunk.indices)
            total += pc.sum(lengths).as_py() or 0
        if total > TEXT_BYTES:
            raise InputError(
                f"{path}: expected at most {TEXT_BYTES:,} bytes of text in column {name!r}, got {total:,}; "
                "it is damaged, or made to fill the memory"
            )


def _is_text(kind: pa.DataType) -> bool:
    return any(
        is_(kind)
        for is_ in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    )


def text_columns(schema: pa.Schema) -> list[str]:
    """Names of the columns of text: to be read as words and their numbers, which no file can blow up."""
    return [name for name in schema.names if _is_text(schema.field(name).type)]


def numbered_classes(where: str | Path, highest: int) -> tuple[str, ...]:
    """Names for labels that have none: ``0`` to ``highest``.

    Raises:
        InputError: they would be too many.
    """
    if highest >= MOST_CLASSES:
        raise InputError(
            f"{where}: label {highest} would mean {highest + 1} classes; without names the most is {MOST_CLASSES:,}"
        )
    return tuple(map(str, range(highest + 1)))


def check_archive(path: Path, names: tuple[str, ...]) -> None:
    """Refuse a NumPy archive of which one of the arrays ``names`` is a decompression bomb.

    A zip archive says how large each member is, and Python's reader stops there, so this cannot be lied about.

    Raises:
        InputError: one is.
        zipfile.BadZipFile: it is no archive.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.filename.removesuffix(".npy") not in names:
                continue
            large = member.file_size > FREE_BYTES + INFLATED * member.compress_size
            if large or member.file_size > ARCHIVE_BYTES:
                raise InputError(
                    f"{path}: {member.compress_size:,} bytes claim to hold {member.file_size:,} in "
                    f"{member.filename!r}; it is damaged, or made to fill the memory"
                )
