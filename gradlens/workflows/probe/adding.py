"""``gradlens probe add``: downloaded images become a probe set that says what it is and what was left out."""

from __future__ import annotations

import csv
import re
import shutil
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from gradlens.data.checking import DUPLICATE_COLUMNS, repeats
from gradlens.data.decode import file_ending
from gradlens.data.duplicates import Gathering, Signatures
from gradlens.data.headers import Header, header
from gradlens.data.image_set import ImageSet, decoded, sha256_of
from gradlens.data.probe_sets import COLUMNS, DUPLICATES, FACTS, MANIFEST, QUARANTINE, TABLE, Manifest
from gradlens.data.sources import open_source
from gradlens.data.sources.mapping import ClassMap, map_classes
from gradlens.errors import InputError, suggest
from gradlens.records import Role, Sample, Skipped
from gradlens.runtime import Runtime, plain_file, whole_file, whole_folder

ABOUT_COLUMNS = ("path", "source_url", "licence")


@dataclass(frozen=True)
class Added:
    """The probe set that ``gradlens probe add`` made.

    Attributes:
        images: how many of each class.
        paired: how many have a partner in the set it is paired with.
        skipped: what is in ``quarantine.csv``.
        duplicates: images that repeat another one of the set; leaked: images that a set of ``--against`` has as well.
        upright: images that were turned as their EXIF says.
        remarks: what a person should know, one sentence each.
    """

    name: str
    folder: str
    images: Mapping[str, int]
    paired: int
    skipped: tuple[Skipped, ...]
    duplicates: int = 0
    leaked: Mapping[str, int] = field(default_factory=dict)
    upright: int = 0
    remarks: tuple[str, ...] = ()


def add(
    name: str,
    source: str,
    *,
    into: Path,
    role: Role,
    shift: str,
    title: str,
    description: str,
    licence: str,
    provenance: str,
    paired_with: str | None,
    runtime: Runtime,
    mapping: Path | None = None,
    classes: Sequence[str] = (),
    about: Path | None = None,
    against: Sequence[str] = (),
    filtered_by: Sequence[str] = (),
    drop_duplicates: bool = False,
) -> Added:
    """Copy a labelled image set into a probe set of its own: ``into/name`` with manifest, tables and checksums.

    Files are copied byte for byte; only those whose EXIF says that they lie on their side are stored upright, as PNG,
    so that every reader sees them as gradlens does. Images that cannot be decoded, links that lead out of the folder
    and exact copies of earlier ones stay out and stand in ``quarantine.csv`` with their reason; near-duplicates stay in
    and stand in ``duplicates.csv``. So do classes without an image. The source is not touched, and the folder appears
    complete or not at all.

    Args:
        name: of the set.
        source: a SOURCE with labels.
        mapping: a class mapping, as SOURCE@MAP.toml takes it.
        classes: the only classes that may be there after mapping.
        about: a CSV with the columns ``path`` (as in the source), ``source_url`` and, if wanted, ``licence``.
        against: SOURCEs of training or test data to compare with.
        filtered_by: models whose predictions decided which images are in the set.
        drop_duplicates: near-duplicates (the later ones, and those that ``against`` has) are left out as well.

    Raises:
        InputError: the source is unlabelled, a class is unknown, none of its images can be read, or the folder exists.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"expected a name of letters, digits, '.', '_' and '-' (it becomes a folder), got {name!r}")
    final = into / name
    if final.exists():
        raise InputError(f"{final} exists already; remove it first, or take another name")
    images = _source(source, mapping, classes, runtime)
    notes = _Notes.read(about, images) if about is not None else _Notes({})
    other = open_source(paired_with, offline=runtime.offline, runtime=runtime) if paired_with else None
    partners = _by_class_and_stem(other) if other else {}
    others = [open_source(spec, offline=runtime.offline, runtime=runtime) for spec in dict.fromkeys(against)]
    with whole_folder(final) as scratch:
        made = _copy(images, scratch, partners, notes, runtime)
        if not made.rows:
            first = made.skipped[0].reason
            raise InputError(f"{source}: none of its {len(images)} images can be read; the first: {first}")
        samples = tuple(
            Sample(row["path"], (images.classes or ()).index(row["class"]), pair=row["pair"] or None)
            for row in made.rows
        )
        new = ImageSet(
            name, role, images.classes, samples, str(final), images.store, tuple(range(len(samples))),
            paired_with=other.name if other else None,
        )  # fmt: skip
        found = repeats(new, made.signatures, [(o, Signatures.of(o, runtime)) for o in others], runtime)
        if drop_duplicates:
            found = _drop(found, made, scratch)
        for row in found:
            at = next(r for r in made.rows if r["path"] == row["path"])
            at["duplicate_of"] = at["duplicate_of"] or (f"{row['set']}:" if row["set"] else "") + row["repeats"]
        kept = list(dict.fromkeys(r["class"] for r in made.rows))
        _write_table(scratch / TABLE, (*COLUMNS, *FACTS), made.rows)
        _write_table(scratch / DUPLICATES, DUPLICATE_COLUMNS, found)
        left_out = [{"path": s.path, "reason": s.reason} for s in made.skipped]
        _write_table(scratch / QUARANTINE, ("path", "reason"), left_out)
        manifest = Manifest(
            schema=1,
            name=name,
            title=title or name,
            role=role,
            shift=shift,
            description=description,
            classes=[c for c in images.classes or () if c in kept],
            paired_with=other.name if other else None,
            source=provenance or source,
            licence=licence,
            filtered_by=list(filtered_by),
            against=list(dict.fromkeys(against)),
            images=len(made.rows),
            sha256=sha256_of(scratch / TABLE),
        )
        (scratch / MANIFEST).write_text(manifest.to_toml(), encoding="utf-8")
    return Added(
        name,
        str(final),
        {c: sum(r["class"] == c for r in made.rows) for c in images.classes or ()},
        sum(bool(r["pair"]) for r in made.rows),
        tuple(made.skipped),
        duplicates=len({r["path"] for r in found if not r["set"]}),
        leaked={o.name: len({r["path"] for r in found if r["set"] == o.name}) for o in others},
        upright=sum(r["orientation"] not in ("", "1") for r in made.rows),
        remarks=(*(r for r in images.remarks if not r.startswith("no image of")), *notes.unused(images)),
    )


# --- classes ---------------------------------------------------------------------------------------------------------


def _source(source: str, mapping: Path | None, classes: Sequence[str], runtime: Runtime) -> ImageSet:
    """The images, under the names their classes shall have."""
    images = open_source(source, offline=runtime.offline, runtime=runtime)
    if images.classes is None:
        raise InputError(f"{source}: expected class folders or labels, got images without any")
    if mapping is not None:
        images = map_classes(images, ClassMap.read(mapping), str(mapping))
    composed = {c: unicodedata.normalize("NFC", c) for c in images.classes or ()}
    if changed := {c: n for c, n in composed.items() if c != n}:  # as macOS writes the names of folders
        images = map_classes(images, ClassMap(classes=changed), "Unicode composition")
    if classes and (unknown := [c for c in images.classes or () if c not in classes]):
        hints = [f"{_near(c, classes)!r} for {c!r}" for c in unknown if _near(c, classes)]
        said = f"; did you mean {', '.join(hints)}?" if hints else ""
        raise InputError(
            f"{source}: {', '.join(map(repr, unknown))} is not among the classes {', '.join(classes)}{said} "
            'Say so in a file for --map: [classes] with lines like "cars" = "car", or drop = ["..."]'
        )
    return images


def _near(name: str, classes: Sequence[str]) -> str:
    """The class that somebody probably meant; blanks, hyphens and a plural's ending do not count."""

    def plain(text: str) -> str:
        text = re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", text)).casefold()
        return text[:-1] if text.endswith("s") and len(text) > 3 else text

    same = [c for c in classes if plain(c) == plain(name)]
    return (same or suggest(name, classes, 1) or [""])[0]


def _by_class_and_stem(image_set: ImageSet) -> dict[tuple[str, str], str]:
    classes = image_set.classes or ()
    return {(classes[s.label], Path(s.id).stem): s.id for s in image_set.samples if s.label is not None}


# --- what is known about each image ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Notes:
    """The rows of ``--about`` by path."""

    rows: Mapping[str, Mapping[str, str]]
    file: str = ""

    @classmethod
    def read(cls, path: Path, images: ImageSet) -> _Notes:
        try:
            reader = csv.DictReader(plain_file(path).read_text(encoding="utf-8-sig").splitlines())
        except (OSError, UnicodeDecodeError) as err:
            raise InputError(f"{path}: expected a table about the images as UTF-8 CSV: {err}") from err
        header_ = reader.fieldnames or []
        if "path" not in header_ or not set(header_) <= set(ABOUT_COLUMNS):
            raise InputError(f"{path}: expected the columns {', '.join(ABOUT_COLUMNS)}, got {', '.join(header_)}")
        rows: dict[str, Mapping[str, str]] = {}
        for number, row in enumerate(reader, start=2):
            if None in row or None in row.values() or not row["path"] or row["path"] in rows:
                raise InputError(f"{path}:{number}: expected {len(header_)} values and a path that no other row has")
            rows[row["path"]] = row
        return cls(rows, str(path))

    def of(self, sample: Sample, column: str) -> str:
        return self.rows.get(sample.id, {}).get(column, "")

    def unused(self, images: ImageSet) -> list[str]:
        gone = sorted(set(self.rows) - {s.id for s in images.samples})
        return [f"{self.file}: {len(gone)} rows name no image, the first is {gone[0]!r}"] if gone else []


# --- files -----------------------------------------------------------------------------------------------------------


@dataclass
class _Made:
    """What was copied, in order."""

    rows: list[dict[str, str]]
    skipped: list[Skipped]
    signatures: Signatures


def _copy(
    images: ImageSet,
    scratch: Path,
    partners: Mapping[tuple[str, str], str],
    notes: _Notes,
    runtime: Runtime,
) -> _Made:
    folder_of = _class_folders(images.classes or ())
    inside = Path(images.location).resolve() if Path(images.location).is_dir() else None
    rows: list[dict[str, str]] = []
    skipped = list(images.skipped)
    seen: dict[str, tuple[str, str]] = {}
    taken: set[str] = set()
    gathered = Gathering()
    for i, image in decoded(images, runtime=runtime):
        sample = images.samples[i]
        if isinstance(image, Skipped):
            skipped.append(image)
            continue
        if sample.label is None:
            skipped.append(Skipped(images.path(i), "has no label"))
            continue
        encoded = images.store.encoded(images.rows[i])
        if inside is not None and isinstance(encoded, Path) and not encoded.resolve().is_relative_to(inside):
            skipped.append(Skipped(images.path(i), "a link that leads out of the folder; copy the file itself"))
            continue
        digest, label = sha256_of(encoded), (images.classes or ())[sample.label]
        if digest in seen:
            first, its_class = seen[digest]
            other = f", which is of the class {its_class!r}" if its_class != label else ""
            skipped.append(Skipped(images.path(i), f"an exact copy of {first}{other}"))
            continue
        seen[digest] = images.path(i), label
        about = header(encoded, images.path(i))
        path = _free_path(scratch / folder_of[label], Path(sample.id).stem, encoded, about, taken)
        _write(path, encoded, image, about)
        stored = path.relative_to(scratch).as_posix()
        stored_digest = sha256_of(path)
        gathered.add(stored, stored_digest, image)
        rows.append(
            {
                "path": stored,
                "class": label,
                "pair": partners.get((label, Path(sample.id).stem), ""),
                "severity": "" if sample.severity is None else str(sample.severity),
                "sha256": stored_digest,
                "mask": "",
                "width": str(about.width),
                "height": str(about.height),
                "codec": about.codec,
                "mode": about.mode,
                "frames": str(about.frames),
                "orientation": str(about.orientation),
                "jpeg_quality": "" if about.jpeg_quality is None else str(about.jpeg_quality),
                "bytes": str(about.size),
                "original": sample.id,
                "source_url": notes.of(sample, "source_url"),
                "licence": notes.of(sample, "licence"),
                "duplicate_of": "",
            }
        )
    return _Made(rows, skipped, gathered.done(scratch.name))


def _drop(found: list[dict[str, str]], made: _Made, scratch: Path) -> list[dict[str, str]]:
    """Move near-duplicates to the quarantine; what is left to tell of the others."""
    dropped: dict[str, str] = {}
    for row in sorted(found, key=lambda r: r["set"] == ""):
        if row["set"] or row["repeats"] not in dropped:  # what repeats a dropped image only may stay
            where = f" in {row['set']}" if row["set"] else ""
            dropped.setdefault(row["path"], f"a near-duplicate of {row['repeats']}{where}")
    original = {r["path"]: r["original"] for r in made.rows}
    made.skipped += [Skipped(original[path], reason) for path, reason in dropped.items()]
    made.rows[:] = [r for r in made.rows if r["path"] not in dropped]
    for path in dropped:
        (scratch / path).unlink()
    return [r for r in found if r["path"] not in dropped and (r["set"] or r["repeats"] not in dropped)]


def _class_folders(classes: Sequence[str]) -> dict[str, str]:
    """A folder's name for each class: the class itself where a folder can be called that and read back as a class."""
    folders: dict[str, str] = {}
    for c in classes:
        safe = re.sub(r'[/\\:*?"<>|\x00-\x1f]', "-", c).strip().lstrip("._") or "class"
        name, n = safe, 2
        while name.casefold() in {f.casefold() for f in folders.values()}:
            name, n = f"{safe}-{n}", n + 1
        folders[c] = name
    return folders


def _free_path(folder: Path, stem: str, encoded: bytes | Path | np.ndarray, about: Header, taken: set[str]) -> Path:
    """A path in a folder that no other file of the set has on any file system, with the ending of what is written."""
    as_pixels = isinstance(encoded, np.ndarray) or about.orientation != 1
    ending = ".png" if as_pixels or isinstance(encoded, np.ndarray) else file_ending(encoded)
    stem = f"{int(stem):06d}" if stem.isascii() and stem.isdigit() else unicodedata.normalize("NFC", stem)
    stem = re.sub(r'[\\:*?"<>|\x00-\x1f]', "-", stem)
    path, n = folder / f"{stem}{ending}", 2
    while str(path).casefold() in taken:
        path, n = folder / f"{stem}-{n}{ending}", n + 1
    taken.add(str(path).casefold())
    return path


def _write(path: Path, encoded: bytes | Path | np.ndarray, image: np.ndarray, about: Header) -> None:
    path.parent.mkdir(exist_ok=True)
    if isinstance(encoded, np.ndarray) or about.orientation != 1:
        Image.fromarray(image).save(path)
    elif isinstance(encoded, Path):
        shutil.copyfile(encoded, path)
    else:
        path.write_bytes(encoded)


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    with whole_file(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
