"""What a Parquet footer says of row groups: as pyarrow reads it where it is whole, one line where it is not."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gradlens.data.footer import RowGroup, row_groups
from gradlens.errors import InputError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Lists, gaps, texts, numbers, truth values, structures; metadata of the table and of columns."""
    table = pa.table(
        {
            "text": ["a", None, "b"] * 50,
            "list": [[1.5, 2.5], [], None] * 50,
            "truth": [True, False, None] * 50,
            "struct": [{"bytes": b"x", "path": None}] * 150,
            "time": pa.array(range(150), pa.timestamp("us", "UTC")),
        },
        metadata={"key": "v" * 300},
    )
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=70, write_page_index=True, sorting_columns=None)
    return tmp_path / "t.parquet"


def test_rows_and_values_are_pyarrows(path: Path) -> None:
    metadata = pq.ParquetFile(path).metadata
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    expected = [RowGroup(g.num_rows, tuple(g.column(j).num_values for j in range(g.num_columns))) for g in groups]
    assert row_groups(path) == expected
    assert [g.rows for g in expected] == [70, 70, 10]


def test_a_table_without_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "t.parquet")
    assert sum(g.rows for g in row_groups(tmp_path / "t.parquet")) == 0


def test_a_damaged_footer_is_one_line(path: Path) -> None:
    whole = path.read_bytes()
    length = int.from_bytes(whole[-8:-4], "little")
    read, said = 0, set()
    for place in range(len(whole) - 8 - length, len(whole)):
        for value in (0, 0x15, 0xFF):
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            try:
                row_groups(path)
                read += 1
            except InputError as err:
                said.add(str(err))
    assert read
    assert said == {
        f"{path}: the footer of this Parquet file is damaged",
        f"{path}: expected a Parquet file, its end is not one's",
    }
    for cut in (0, 4, 7, 11, len(whole) // 2):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match="its end is not one's"):
            row_groups(path)
