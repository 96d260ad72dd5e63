"""Rows and values of a Parquet file's row groups, as its footer says them.

pyarrow has them too (``FileMetaData.row_group(i).column(j)``), but these two calls do not translate what C++ throws at
a damaged footer, and the process is ended. So the footer is walked here: Thrift's compact protocol
(https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md), of which a few fields are kept
(https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradlens.errors import InputError

_MARK = b"PAR1"
_DEEPEST = 32  # a footer's structures lie seven deep
# Thrift's numbers of fields
_ROW_GROUPS, _COLUMNS, _ROWS, _COLUMN_DATA, _VALUES = 4, 1, 3, 3, 5
_TRUE, _FALSE, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _LISTS, _MAP, _STRUCT = 1, 2, 3, (4, 5, 6), 7, 8, (9, 10), 11, 12


@dataclass(frozen=True)
class RowGroup:
    """What a footer claims of one row group.

    Attributes:
        rows: in it.
        values: of each column; of a list each element is one.
    """

    rows: int
    values: tuple[int, ...]


def row_groups(path: Path) -> list[RowGroup]:
    """The row groups of a Parquet file.

    Raises:
        InputError: the footer is damaged.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        end = file.read()
        length = int.from_bytes(end[:4], "little")
        if end[4:] != _MARK or length + 8 > size:
            raise InputError(f"{path}: expected a Parquet file, its end is not one's")
        file.seek(size - 8 - length)
        footer = file.read(length)
    try:
        groups = _Walk(footer).struct(0)[_ROW_GROUPS]
        return [RowGroup(g[_ROWS], tuple(c[_COLUMN_DATA][_VALUES] for c in g[_COLUMNS])) for g in groups]
    except (IndexError, KeyError, TypeError, ValueError) as err:
        raise InputError(f"{path}: the footer of this Parquet file is damaged") from err


class _Walk:
    """A position in bytes of Thrift's compact protocol, and what is read from there on."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def struct(self, depth: int) -> dict[int, Any]:
        """A structure: number of a field -> value; texts, doubles and maps are ``None``."""
        if depth > _DEEPEST:
            raise ValueError("too deep")
        fields: dict[int, Any] = {}
        number = 0
        while kind := self._byte():
            step, kind = kind >> 4, kind & 15
            number = number + step if step else self._integer()
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _INTEGERS:
            return self._integer()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in _LISTS:
            head = self._byte()
            count, kind = head >> 4, head & 15
            return [self._value(kind, depth + 1) for _ in range(self._varint() if count == 15 else count)]
        if kind in (_TRUE, _FALSE, _BYTE):  # in a list a truth value is a byte
            self._byte()
        elif kind == _BINARY:
            self._skip(self._varint())
        elif kind == _DOUBLE:
            self._skip(8)
        elif kind == _MAP and (count := self._varint()):
            kinds = self._byte()
            for _ in range(count):
                self._value(kinds >> 4, depth + 1)
                self._value(kinds & 15, depth + 1)
        elif kind != _MAP:
            raise ValueError("no such type")
        return None

    def _byte(self) -> int:
        byte = self.data[self.at]
        self.at += 1
        return byte

    def _varint(self) -> int:
        number = shift = 0
        while shift < 70:
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
            shift += 7
        raise ValueError("too long")

    def _integer(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)

    def _skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self.data):
            raise IndexError
