"""Is a probe set sound? Every file is read again, and everything that the set says about itself is compared with it."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradlens.data.duplicates import Duplicate, Gathering, Signatures, known_scenes, near_duplicates
from gradlens.data.headers import Header, header
from gradlens.data.image_set import ImageSet
from gradlens.data.probe_sets import (
    DUPLICATES,
    MANIFEST,
    TABLE,
    Manifest,
    known,
    open_probe_set,
    places,
    read_table,
)
from gradlens.data.sources import open_source
from gradlens.errors import GradlensError, InputError
from gradlens.records import Sample
from gradlens.runtime import Runtime

DUPLICATE_COLUMNS = ("path", "set", "repeats", "distance", "alike", "fine", "exact", "same_class")


@dataclass(frozen=True)
class Examined:
    """What is wrong with a set, and what could not be looked at here (another machine may have it)."""

    problems: tuple[str, ...]
    remarks: tuple[str, ...] = ()


def check(folder: Path, runtime: Runtime | None = None) -> list[str]:
    """Everything that is wrong with a probe set's folder, one sentence each; empty when it is sound."""
    return list(examine(folder, runtime).problems)


def examine(folder: Path, runtime: Runtime | None = None) -> Examined:
    """Everything that is wrong with a probe set's folder.

    Reads every image and mask; compares every checksum, native property and name; looks for exact copies inside the set
    and between it and the set it is paired with, for ``pair`` ids that the paired set does not have, and for
    near-duplicates that ``duplicates.csv`` does not list, inside the set and in the sets that ``probe.toml`` says it
    was compared with. Sets with a recipe are not searched for near-duplicates: their scenes differ by construction.
    """
    runtime = runtime or Runtime(quiet=True)
    try:
        image_set = open_probe_set(folder, runtime)
    except InputError as err:
        return Examined((str(err),))
    problems = [f"{s.path}: {s.reason}" for s in image_set.skipped]
    problems += image_set.remarks
    rows: list[dict[str, str]] = []
    manifest: Manifest | None = None
    if (folder / MANIFEST).is_file():
        manifest = Manifest.read(folder / MANIFEST)
        if manifest.name != folder.resolve().name:
            problems.append(f"{MANIFEST} names it {manifest.name!r}, but its folder is {folder.resolve().name!r}")
        if manifest.images is not None and manifest.images != len(image_set):
            problems.append(f"{MANIFEST} says {manifest.images} images, but there are {len(image_set)}")
        if (Path(image_set.location) / TABLE).is_file():
            rows = read_table(Path(image_set.location) / TABLE, manifest.classes)
    problems += _names(image_set)
    digests: dict[str, str] = {}
    gathered = Gathering()
    for i, sample in runtime.progress(
        enumerate(image_set.samples), f"checking {image_set.name}", total=len(image_set), unit="image"
    ):
        try:
            digest = image_set.digest(i)
            image = image_set.read(i)
            mask = image_set.mask(i)
        except InputError as err:
            problems.append(str(err))
            continue
        if rows:
            problems += _told_and_found(
                sample.id, rows[i], digest, header(image_set.store.encoded(image_set.rows[i]), sample.id)
            )
        if mask is not None and mask.shape != image.shape[:2]:
            problems.append(f"{sample.id}: its mask has the size {mask.shape}, the image {image.shape[:2]}")
        if digest in digests:
            problems.append(f"{sample.id}: an exact copy of {digests[digest]}")
        digests.setdefault(digest, sample.id)
        gathered.add(sample.id, digest, image)
    masks = {row["mask"] for row in rows}
    for path in sorted((Path(image_set.location) / "_masks").rglob("*.png")):
        if path.relative_to(image_set.location).as_posix() not in masks:
            problems.append(f"{path}: a mask that no row of {TABLE} names")
    problems += _pairing_problems(folder, image_set, digests, runtime)
    remarks: list[str] = []
    if manifest is None or manifest.recipe is None:
        signatures = gathered.done(image_set.name)
        against = () if manifest is None else tuple(manifest.against)
        problems += _repeats(folder, image_set, signatures, against, runtime, remarks)
    return Examined(tuple(problems), tuple(remarks))


def _names(image_set: ImageSet) -> Iterator[str]:
    """Paths that lead out of the folder, or that another file system would not tell apart."""
    place = Path(image_set.location).resolve()
    seen: dict[str, str] = {}
    for sample in image_set.samples:
        if not (place / sample.id).resolve().is_relative_to(place):
            yield f"{sample.id}: a link that leads out of the folder; copy the file itself"
        folded = unicodedata.normalize("NFC", sample.id).casefold()
        if folded in seen:
            yield f"{sample.id}: differs from {seen[folded]} by case or composition only, which some systems ignore"
        seen.setdefault(folded, sample.id)


def _told_and_found(name: str, row: Mapping[str, str], digest: str, found: Header) -> Iterator[str]:
    if row["sha256"] and row["sha256"] != digest:
        yield f"{name}: its sha256 is not the one in {TABLE}"
        return
    if row.get("orientation") not in (None, "", "1"):
        return  # made upright, so that the table tells of another file
    facts = {"width": found.width, "height": found.height, "codec": found.codec, "bytes": found.size}
    for column, value in facts.items():
        if row.get(column) and row.get("codec") != "array" and row[column] != str(value):
            yield f"{name}: {TABLE} says {column} {row[column]}, the file {value}"


def _pairing_problems(
    folder: Path, image_set: ImageSet, digests: Mapping[str, str], runtime: Runtime | None
) -> Iterator[str]:
    pairs = [s for s in image_set.samples if s.pair is not None]
    if image_set.paired_with is None:
        if pairs:
            yield f"{len(pairs)} images name a pair, but {MANIFEST} has no paired_with"
        return
    sets = known([folder.resolve().parent, *places()])
    if image_set.paired_with not in sets:
        yield f"{MANIFEST} pairs it with {image_set.paired_with!r}, which is not a probe set here"
        return
    try:
        other = open_probe_set(sets[image_set.paired_with], runtime)
    except InputError as err:
        yield f"the paired set cannot be read: {err}"
        return
    labels = {s.id: _class_of(other, s) for s in other.samples}
    for sample in pairs:
        if sample.pair not in labels:
            yield f"{sample.id}: its pair {sample.pair!r} is not in {other.name}"
        elif labels[sample.pair] != _class_of(image_set, sample):
            yield f"{sample.id}: its pair {sample.pair!r} is of the class {labels[sample.pair]!r}"
    for i, sample in enumerate(other.samples):
        try:
            copy = digests.get(other.digest(i))
        except InputError as err:
            yield f"in the paired set: {err}"
            continue
        if copy is not None:
            yield f"{copy}: an exact copy of {sample.id} in {other.name}"


def _class_of(image_set: ImageSet, sample: Sample) -> str | None:
    return None if sample.label is None or image_set.classes is None else image_set.classes[sample.label]


# --- near-duplicates -------------------------------------------------------------------------------------------------


def repeats(
    image_set: ImageSet, signatures: Signatures, against: Sequence[tuple[ImageSet, Signatures]], runtime: Runtime
) -> list[dict[str, str]]:
    """Rows of ``duplicates.csv``: verified near-duplicates within a set and in others, without paired images.

    In the set itself, ``path`` is the later one.
    """
    order = {s.id: i for i, s in enumerate(image_set.samples)}
    classes = {s.id: _class_of(image_set, s) for s in image_set.samples}
    rows = []
    for other, signed in ((image_set, None), *against):
        scenes = known_scenes(image_set, other)
        theirs = {s.id: _class_of(other, s) for s in other.samples}
        for p in near_duplicates(signatures, signed, runtime):
            if not p.verified or any(p.a in a and p.b in b for a, b in scenes):
                continue
            later, first = (p.a, p.b) if signed is not None or order[p.a] > order[p.b] else (p.b, p.a)
            both = classes[later], theirs[first]
            same = "" if None in both else str(both[0] == both[1]).lower()
            rows.append(_row(p, later, first, "" if signed is None else other.name, same))
    return sorted(rows, key=lambda row: (row["set"], order[row["path"]], row["repeats"]))


def _row(p: Duplicate, path: str, first: str, of_set: str, same_class: str) -> dict[str, str]:
    values = (path, of_set, first, p.distance, p.alike, p.fine, str(p.exact).lower(), same_class)
    return {column: str(value) for column, value in zip(DUPLICATE_COLUMNS, values, strict=True)}


def _repeats(
    folder: Path,
    image_set: ImageSet,
    signatures: Signatures,
    against: Sequence[str],
    runtime: Runtime,
    remarks: list[str],
) -> list[str]:
    """Near-duplicates that ``duplicates.csv`` does not list."""
    listed: set[tuple[str, str, str]] = set()
    if (folder / DUPLICATES).is_file():
        try:
            with (folder / DUPLICATES).open(encoding="utf-8", newline="") as stream:
                listed = {(row["path"], row["set"], row["repeats"]) for row in csv.DictReader(stream)}
        except (OSError, UnicodeDecodeError, KeyError, csv.Error) as err:
            columns = ", ".join(DUPLICATE_COLUMNS)
            return [f"{folder / DUPLICATES}: expected a table with the columns {columns}; got {err!r}"]
    others: list[tuple[ImageSet, Signatures]] = []
    for spec in against:
        try:
            other = open_source(spec, offline=True, runtime=runtime)
        except GradlensError as err:
            remarks.append(f"not compared with {spec}, as {MANIFEST} says it was: {err}")
            continue
        others.append((other, Signatures.of(other, runtime)))
    problems = []
    for row in repeats(image_set, signatures, others, runtime):
        key = (row["path"], row["set"], row["repeats"])
        exact_here = row["exact"] == "true" and not row["set"]  # found by its checksum already
        if key not in listed and not exact_here:
            where = f" in {row['set']}" if row["set"] else ""
            problems.append(
                f"{row['path']}: a near-duplicate of {row['repeats']}{where} that {DUPLICATES} does not list"
            )
    return problems
