"""Valid files, broken: in ways that any format can be, and in ways that text formats are."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

LARGEST = 4 * 2**20  # bytes; larger files say nothing more and take longer

# what stands where a number, a name or a path should
NUMBERS = (
    "0",
    "-1",
    "1e999",
    "-1e999",
    "nan",
    "NaN",
    "Infinity",
    "4294967296",
    "9" * 40,
    "1_0",
    "٣",
    "0x10",
    "1.5",
    "",
)
TEXTS = (
    "../../../../etc/passwd", "/etc/passwd", "C:\\x", "a" * 5000, "\0", "\x1b[2J", "\ud800", "=cmd|'/c calc'!A0",
    "</script>",
    "<img src=x onerror=alert(1)>", "\\input{/etc/passwd}", "${7*7}", "{{7*7}}", "$x$", "%s%n", "\u202e",
    "\N{ZERO WIDTH SPACE}",
    "é", "e\N{COMBINING ACUTE ACCENT}", "\r\n", ",", '"', "'", "[[", "null", "true", "{}", "[]", "",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 1e308, float("nan"), float("inf"), 10**12, 2**70, "", "x", [], {}, [[]], [None], {"x": 1},
    [1] * 3,
    *TEXTS,
)  # fmt: skip
SIZES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 100_000)

Mutation = Callable[[random.Random, bytes, Sequence[bytes]], bytes]
"""(random numbers, a file, other valid files of the format) -> a broken file."""


def _flip(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if out:
            # headers decide what happens next, so half of the bits are flipped in there
            where = rng.randrange(min(len(out), 64) if rng.random() < 0.5 else len(out))
            out[where] ^= 1 << rng.randrange(8)
    return bytes(out)


def _cut(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _remove(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.randrange(1, 64) :]


def _repeat(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.randrange(1, 256)]
    return data[:start] + piece * rng.choice((2, 3, 50)) + data[start:]


def _size(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    out = bytearray(data)
    number = struct.pack(rng.choice("<>") + rng.choice("HIQ"), 0)
    kind = rng.choice("<>") + {2: "H", 4: "I", 8: "Q"}[len(number)]
    if len(out) >= len(number):
        where = rng.randrange(min(len(out) - len(number) + 1, 256 if rng.random() < 0.7 else len(out)))
        out[where : where + len(number)] = struct.pack(kind, rng.choice(SIZES) % 2 ** (8 * len(number)))
    return bytes(out[: max(len(data), 1)])


def _splice(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _noise(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.randbytes(rng.randrange(1, 32)) + data[start:]


def _whole(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    return rng.choice(
        (b"", b"\0" * 64, b"{", b"[" * 5000, b"<html>", b"\xff\xfe\x00", b"\xef\xbb\xbf" + data, data * 2)
    )


def _number(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data))
    return _replaced(rng, data, found, NUMBERS)


def _string(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    found = list(re.finditer(rb'(?<=")[^"\n]*(?=")|(?<=,)[^,\n]*(?=,)|[A-Za-z_]{2,}', data))
    return _replaced(rng, data, found, TEXTS)


def _line(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    lines = data.split(b"\n")
    i = rng.randrange(len(lines))
    what = rng.randrange(3)
    if what == 0:
        del lines[i]
    elif what == 1:
        lines.insert(i, lines[i])
    else:
        other = rng.randrange(len(lines))
        lines[i], lines[other] = lines[other], lines[i]
    return b"\n".join(lines)


def _replaced(rng: random.Random, data: bytes, found: Sequence[re.Match[bytes]], texts: Sequence[str]) -> bytes:
    if not found:
        return _noise(rng, data, ())
    match = rng.choice(found)
    text = rng.choice(texts).encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:  # the same everywhere, so that names still agree with one another
        return data.replace(match[0], text)[:LARGEST] if match[0] else text + data
    return data[: match.start()] + text + data[match.end() :]


def _leaf(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A JSON document that is still one: one of its values is another."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return _string(rng, data, others)
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            places.append((value, key))
            if isinstance(inner, dict | list):
                walk(inner)

    if isinstance(document, dict | list):
        walk(document)
    for _ in range(rng.choice((1, 1, 2))):
        if places:
            holder, key = rng.choice(places)
            holder[key] = rng.choice(VALUES)
    return json.dumps(document).encode()


BINARY: tuple[Mutation, ...] = (_flip, _flip, _cut, _remove, _repeat, _size, _size, _splice, _noise, _whole)
TEXT: tuple[Mutation, ...] = (
    _leaf,
    _leaf,
    _leaf,
    _number,
    _number,
    _string,
    _string,
    _string,
    _line,
    _cut,
    _noise,
    _splice,
    _flip,
    _whole,
)


def broken(rng: random.Random, data: bytes, others: Sequence[bytes], text: bool) -> bytes:
    """``data`` after one to four mutations."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(TEXT if text else BINARY)(rng, data, others)[:LARGEST]
    return data
