"""WebDataset shards: tar files in which members that share a name up to the first dot are one sample.

The image is the member ``KEY.jpg`` (or another image ending), its class ``KEY.cls`` (a number or a name), ``KEY.json``
(its field ``label``, ``cls``, ``class`` or ``class_name``) or ``KEY.txt`` (one line). Names for numbers stand in a file
``classnames.txt`` or ``classes.txt`` beside the shards. Nothing is ever unpacked: members are read in place.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from gradlens.data.bounds import numbered_classes
from gradlens.data.decode import EXTENSIONS, reason
from gradlens.data.folders import remarks_on
from gradlens.data.image_set import ImageSet, Store, sha256_of
from gradlens.errors import InputError
from gradlens.records import Sample, Skipped
from gradlens.runtime import plain_file

JSON_FIELDS = ("label", "cls", "class", "class_name")
NAME_FILES = ("classnames.txt", "classes.txt")
LABEL_LIMIT = 2**20  # a label file larger than this is none


@dataclass(frozen=True)
class Member:
    """Where a file lies inside a shard."""

    shard: Path
    offset: int
    size: int

    def read(self) -> bytes:
        try:
            with self.shard.open("rb") as stream:
                stream.seek(self.offset)
                data = stream.read(self.size)
        except OSError as err:
            raise InputError(f"{self.shard}: expected a readable file, but the system refused: {err.strerror}") from err
        if len(data) != self.size:
            raise InputError(f"{self.shard}: the shard ends early")
        return data


@dataclass
class _Entry:
    image: Member | None = None
    labels: dict[str, Member] = field(default_factory=dict)


class Members(Store):
    """Images inside uncompressed tar files."""

    def __init__(self, shards: Sequence[Path], members: Sequence[Member]) -> None:
        self.shards, self.members = tuple(shards), tuple(members)

    def encoded(self, row: int) -> bytes | Path | np.ndarray:
        return self.members[row].read()

    def content(self) -> str:
        return self._content

    @cached_property
    def _content(self) -> str:
        return hashlib.sha256("".join(map(sha256_of, self.shards)).encode()).hexdigest()


def open_tar(spec: str) -> ImageSet:
    """The images of one shard or, with braces (``test-{000..009}.tar``), of several.

    Ids are the samples' keys, after the shard's name where there are several.

    Raises:
        InputError: a shard is missing, compressed or damaged, holds no image, or labels only some of its images.
    """
    shards = [Path(p) for p in expand_braces(spec)]
    members: list[Member] = []
    ids: list[str] = []
    labels: list[str | int | None] = []
    skipped: list[Skipped] = []
    for shard in shards:
        for key, entry in _entries(shard, skipped).items():
            if entry.image is None:
                skipped.append(Skipped(f"{shard}/{key}", "a sample without an image"))
                continue
            members.append(entry.image)
            ids.append(key if len(shards) == 1 else f"{shard.stem}/{key}")
            labels.append(_label(entry, f"{shard}/{key}"))
    if not members:
        raise InputError(f"{spec}: expected a WebDataset tar with images, found none in it")
    classes, indices = _classes(spec, shards[0].parent, labels)
    samples = tuple(Sample(i, label) for i, label in zip(ids, indices, strict=True))
    return ImageSet(
        name=set_name(spec, shards),
        role="unlabelled" if classes is None else "test",
        classes=classes,
        samples=samples,
        location=spec,
        store=Members(shards, members),
        rows=tuple(range(len(samples))),
        skipped=tuple(skipped),
        remarks=tuple(remarks_on(classes or (), samples)),
    )


def expand_braces(spec: str) -> list[str]:
    """``a-{0..2}.tar`` → ``a-0.tar a-1.tar a-2.tar``, ``{a,b}.tar`` → ``a.tar b.tar``; zeros in front are kept."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", spec)
    if match is None:
        return [spec]
    first, last, names = match.groups()
    parts = names.split(",") if names else _numbers(first, last)
    return [e for part in parts for e in expand_braces(spec[: match.start()] + part + spec[match.end() :])]


def _numbers(first: str, last: str) -> Iterator[str]:
    if abs(int(last) - int(first)) >= 100_000:
        raise InputError(f"{{{first}..{last}}} would name more than 100,000 shards")
    step = 1 if int(last) >= int(first) else -1
    return (f"{n:0{len(first)}d}" for n in range(int(first), int(last) + step, step))


def _entries(shard: Path, skipped: list[Skipped]) -> dict[str, _Entry]:
    try:
        with tarfile.open(plain_file(shard), mode="r:") as archive:
            found = [(m.name, Member(shard, m.offset_data, m.size)) for m in archive if m.isreg() and not m.issparse()]
    except FileNotFoundError:
        raise InputError(f"{shard}: expected a WebDataset tar, but there is no such file") from None
    except (tarfile.TarError, OSError, EOFError) as err:
        raise InputError(f"{shard}: expected an uncompressed WebDataset tar: {reason(err)}") from err
    entries: dict[str, _Entry] = {}
    for name, member in found:
        folder, _, base = name.rpartition("/")
        stem, _, ending = base.partition(".")
        if not stem:  # hidden files, such as macOS' ._ doubles
            continue
        entry = entries.setdefault(f"{folder}/{stem}".strip("/"), _Entry())
        if f".{ending.lower()}" in EXTENSIONS:
            if entry.image is not None:
                skipped.append(Skipped(f"{shard}/{name}", "a second image of the same key"))
            else:
                entry.image = member
        elif ending.lower() in ("cls", "json", "txt"):
            entry.labels[ending.lower()] = member
    return entries


def _label(entry: _Entry, name: str) -> str | int | None:
    for ending in ("cls", "json", "txt"):
        member = entry.labels.get(ending)
        if member is None or member.size > LABEL_LIMIT:
            continue
        try:
            text = member.read().decode("utf-8").strip()
            value = json.loads(text) if ending == "json" else text
        except (ValueError, RecursionError) as err:
            raise InputError(f"{name}.{ending}: expected a label: {reason(err)}") from err
        if isinstance(value, dict):
            value = next((value[f] for f in JSON_FIELDS if f in value), None)
        if isinstance(value, str) and re.fullmatch(r"\d+", value):
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str) and value and "\n" not in value:
            return value
    return None


def _classes(
    spec: str, folder: Path, labels: Sequence[str | int | None]
) -> tuple[tuple[str, ...] | None, list[int | None]]:
    known = [label for label in labels if label is not None]
    if not known:
        return None, [None] * len(labels)
    if all(isinstance(label, int) for label in known):
        file = next((folder / f for f in NAME_FILES if (folder / f).is_file()), None)
        if file is not None:
            names = _names_in(file)
        else:
            names = numbered_classes(spec, max(int(label) for label in known))
        if bad := [label for label in known if not 0 <= int(label) < len(names)]:
            raise InputError(f"{spec}: label {bad[0]} has no name: {file or 'there'} names {len(names)} classes")
        return names, [None if label is None else int(label) for label in labels]
    names = tuple(sorted({str(label) for label in known}))
    position = {c: i for i, c in enumerate(names)}
    return names, [None if label is None else position[str(label)] for label in labels]


def _names_in(file: Path) -> tuple[str, ...]:
    try:
        lines = plain_file(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise InputError(f"{file}: expected class names in UTF-8, one a line: {reason(err)}") from err
    names = tuple(line.strip() for line in lines if line.strip())
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise InputError(f"{file}: expected class names that differ, {twice!r} comes twice")
    return names


def set_name(spec: str, shards: Sequence[Path]) -> str:
    """What an image set in one or several files is called: the file's name without its ending and the braces."""
    if len(shards) == 1:
        return shards[0].stem
    return re.sub(r"\{[^{}]*\}", "", Path(spec).stem).strip("-_. ") or shards[0].resolve().parent.name
