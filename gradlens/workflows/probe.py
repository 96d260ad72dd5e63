"""Probe sets as a person handles them: which are there, are they sound, make one of these images, render them again."""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gradlens.data import probe_sets
from gradlens.data.decode import file_ending
from gradlens.data.image_set import ImageSet, decoded, sha256_of
from gradlens.data.probe_sets import COLUMNS, MANIFEST, TABLE, Manifest
from gradlens.data.sources import open_source
from gradlens.errors import InputError
from gradlens.records import Role, Skipped
from gradlens.runtime import Runtime, whole_file


@dataclass(frozen=True)
class Entry:
    """A probe set as ``gradlens probe list`` shows it; ``problem`` says why the rest is not known."""

    name: str
    folder: str
    title: str = ""
    kind: str = "images"
    role: str = "probe"
    shift: str | None = None
    images: int | None = None
    classes: tuple[str, ...] = ()
    paired_with: str | None = None
    description: str = ""
    source: str = ""
    licence: str = ""
    problem: str | None = None


@dataclass(frozen=True)
class Checked:
    """What ``gradlens probe check`` found wrong with one set; nothing when it is sound.

    ``complete`` is false where only the manifest was looked at, because the images are not rendered yet.
    """

    name: str
    folder: str
    problems: tuple[str, ...]
    complete: bool = True


@dataclass(frozen=True)
class Added:
    """The probe set that ``gradlens probe add`` made."""

    name: str
    folder: str
    images: Mapping[str, int]
    paired: int
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class Rendered:
    """A set made again by its recipe; ``identical`` compares it with the checksum its manifest gives, if any."""

    name: str
    folder: str
    images: int
    identical: bool | None


def list_sets() -> list[Entry]:
    """All probe sets that a SOURCE can name; nothing is rendered or decoded."""
    return [_entry(name, folder) for name, folder in probe_sets.known().items()]


def _entry(name: str, folder: Path) -> Entry:
    try:
        if not (folder / MANIFEST).is_file():
            plain = probe_sets.open_probe_set(folder)
            return Entry(name, str(folder), role=plain.role, images=len(plain), classes=plain.classes or ())
        m = Manifest.read(folder / MANIFEST)
        count = m.images if m.images is not None or m.kind == "rendered" else len(probe_sets.open_probe_set(folder))
    except InputError as err:
        return Entry(name, str(folder), problem=str(err))
    return Entry(
        name, str(folder), m.title, m.kind, m.role, m.shift, count, tuple(m.classes), m.paired_with, m.description,
        m.source, m.licence,
    )  # fmt: skip


def check_sets(names: Sequence[str], runtime: Runtime) -> list[Checked]:
    """What is wrong with probe sets, by name or folder; all that are known where none is named.

    A set that would have to be rendered first is rendered when it is named; otherwise only its manifest is checked.
    """
    folders = {n: _folder(n) for n in names} if names else probe_sets.known()
    checks: list[Checked] = []
    for name, folder in runtime.progress(folders.items(), "checking", total=len(folders), unit="set"):
        if not names and _awaits_rendering(folder):
            checks.append(Checked(name, str(folder), (), complete=False))
        else:
            checks.append(Checked(name, str(folder), tuple(probe_sets.check(folder, runtime))))
    return checks


def _awaits_rendering(folder: Path) -> bool:
    try:
        manifest = Manifest.read(folder / MANIFEST) if (folder / MANIFEST).is_file() else None
    except InputError:
        return False
    return manifest is not None and manifest.kind == "rendered" and not probe_sets.rendering_place(manifest).exists()


def _folder(name: str) -> Path:
    is_path = name not in probe_sets.known() and Path(name).is_dir()
    return Path(name) if is_path else probe_sets.find(name)


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
) -> Added:
    """Copy a labelled image set into a probe set of its own: ``into/name`` with manifest, table and checksums.

    Files are copied byte for byte. Images that cannot be decoded and exact copies of earlier ones stay out, each with
    its reason; so do classes without an image. The folder appears complete or not at all.

    Raises:
        InputError: the source is unlabelled, none of its images can be read, or the folder exists.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"expected a name of letters, digits, '.', '_' and '-' (it becomes a folder), got {name!r}")
    final = into / name
    if final.exists():
        raise InputError(f"{final} exists already; remove it first, or take another name")
    images = open_source(source, offline=runtime.offline, runtime=runtime)
    if images.classes is None:
        raise InputError(f"{source}: expected class folders or labels, got images without any")
    other = open_source(paired_with, offline=runtime.offline, runtime=runtime) if paired_with else None
    partners = _by_class_and_stem(other) if other else {}
    folder_of = _class_folders(images.classes)
    skipped = list(images.skipped)
    rows: list[dict[str, str]] = []
    seen: dict[str, str] = {}
    counts = dict.fromkeys(images.classes, 0)
    with probe_sets.whole_folder(final) as scratch:
        for i, image in decoded(images, runtime=runtime):
            sample = images.samples[i]
            if isinstance(image, Skipped):
                skipped.append(image)
                continue
            if sample.label is None:
                skipped.append(Skipped(images.path(i), "has no label"))
                continue
            encoded = images.store.encoded(images.rows[i])
            digest = sha256_of(encoded)
            if digest in seen:
                skipped.append(Skipped(images.path(i), f"an exact copy of {seen[digest]}"))
                continue
            seen[digest] = images.path(i)
            label = images.classes[sample.label]
            path = _free_path(scratch / folder_of[label], Path(sample.id).stem, encoded)
            _write(path, encoded)
            counts[label] += 1
            rows.append(
                {
                    "path": path.relative_to(scratch).as_posix(),
                    "class": label,
                    "pair": partners.get((label, Path(sample.id).stem), ""),
                    "severity": "" if sample.severity is None else str(sample.severity),
                    "sha256": sha256_of(path),
                    "mask": "",
                }
            )
        if not rows:
            raise InputError(f"{source}: none of its {len(images)} images can be read; the first: {skipped[0].reason}")
        _write_table(scratch / TABLE, rows)
        manifest = Manifest(
            schema=1,
            name=name,
            title=title or name,
            role=role,
            shift=shift,
            description=description,
            classes=[c for c in images.classes if counts[c]],
            paired_with=other.name if other else None,
            source=provenance or source,
            licence=licence,
            images=len(rows),
            sha256=sha256_of(scratch / TABLE),
        )
        (scratch / MANIFEST).write_text(manifest.to_toml(), encoding="utf-8")
    return Added(name, str(final), counts, sum(bool(r["pair"]) for r in rows), tuple(skipped))


def render(names: Sequence[str], out: Path | None, runtime: Runtime) -> list[Rendered]:
    """Make sets again by their recipes: into ``out/<name>``, or where their images belong (see below).

    Without ``out``, sets whose images are committed are replaced in their folder, and those of kind ``rendered`` are
    rendered into the cache.

    Raises:
        InputError: a set was not rendered from a recipe, or ``out`` has a folder of that name already.
    """
    sets = probe_sets.known()
    if list(names) == ["all"]:
        chosen = {n: f for n, f in sets.items() if _has_recipe(f)}
    else:
        chosen = {n: _folder(n) for n in names}
    done: list[Rendered] = []
    for name, folder in chosen.items():
        manifest = Manifest.read(folder / MANIFEST)
        if manifest.recipe is None:
            raise InputError(f"{folder / MANIFEST} has no [recipe]: {name} was collected, not rendered")
        if out is None and manifest.kind == "rendered":
            where = probe_sets.rendered(manifest, runtime)
        else:
            where = (out / manifest.name) if out is not None else folder
            if out is not None and where.exists():
                raise InputError(f"{where} exists already; remove it first, or choose another --out")
            _render_into(where, manifest, runtime)
        digest = sha256_of(where / TABLE)
        count = len(probe_sets.read_table(where / TABLE, manifest.classes))
        done.append(Rendered(name, str(where), count, None if manifest.sha256 is None else digest == manifest.sha256))
    return done


def _has_recipe(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() and Manifest.read(folder / MANIFEST).recipe is not None


def _render_into(where: Path, manifest: Manifest, runtime: Runtime) -> None:
    new, old = (where.parent / f".{where.name}-{word}-{os.getpid()}" for word in ("new", "old"))
    with probe_sets.whole_folder(new) as scratch:
        probe_sets.materialise(manifest.recipe or {}, scratch, runtime)
        count = len(probe_sets.read_table(scratch / TABLE, manifest.classes))
        now = manifest.model_copy(update={"kind": "images", "images": count, "sha256": sha256_of(scratch / TABLE)})
        (scratch / MANIFEST).write_text(now.to_toml(), encoding="utf-8")
    if where.exists():
        where.rename(old)
    new.rename(where)
    shutil.rmtree(old, ignore_errors=True)


def _by_class_and_stem(image_set: ImageSet) -> dict[tuple[str, str], str]:
    classes = image_set.classes or ()
    return {(classes[s.label], Path(s.id).stem): s.id for s in image_set.samples if s.label is not None}


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


def _free_path(folder: Path, stem: str, encoded: bytes | Path | np.ndarray) -> Path:
    """A path in a folder that is not taken, with the ending of what will be written there."""
    ending = ".png" if isinstance(encoded, np.ndarray) else file_ending(encoded)
    stem = f"{int(stem):06d}" if stem.isdigit() else stem
    path, n = folder / f"{stem}{ending}", 2
    while path.exists():
        path, n = folder / f"{stem}-{n}{ending}", n + 1
    return path


def _write(path: Path, encoded: bytes | Path | np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    if isinstance(encoded, np.ndarray):
        from PIL import Image

        Image.fromarray(encoded).save(path)
    elif isinstance(encoded, Path):
        shutil.copyfile(encoded, path)
    else:
        path.write_bytes(encoded)


def _write_table(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    with whole_file(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def sheet(name: str, out: Path, per_class: int, runtime: Runtime, dpi: int = 200) -> Path:
    """A picture of a set: some images of each class, beside the same scenes in the sets paired with it.

    Args:
        name: a SOURCE; sets paired with it are looked for among the probe sets.
        out: the picture: ``.png``, ``.pdf`` or ``.svg``.
        per_class: images of each class, the first whose scene every paired set has.
        dpi: dots per inch.

    Raises:
        InputError: ``out`` has another ending, or no image of the set can be read.
    """
    from gradlens.figures.contact_sheet import contact_sheet  # matplotlib, which the other commands do without
    from gradlens.figures.style import save

    if out.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise InputError(f"{out}: expected a name that ends in .png, .pdf or .svg")
    images = open_source(name, runtime=runtime)
    paired = [other for n in probe_sets.known() if n != images.name for other in _paired(n, images.name, runtime)]
    partners = [{s.pair: i for i, s in enumerate(other.samples)} for other in paired]
    rows: list[tuple[str, list[np.ndarray | None]]] = []
    classes = images.classes or ("",)
    for k, label in enumerate(classes):
        members = [i for i, s in enumerate(images.samples) if s.label in (k, None)]
        complete = [i for i in members if all(images.samples[i].id in p for p in partners)] or members
        for i in complete[:per_class]:
            others = [
                other.read(p[images.samples[i].id]) if images.samples[i].id in p else None
                for other, p in zip(paired, partners, strict=True)
            ]
            rows.append((label, [images.read(i), *others]))
    if not rows:
        raise InputError(f"{name}: expected images, got none")
    columns = [images.name, *(other.shift or other.name for other in paired)]
    figure = contact_sheet(rows, columns, images.name)
    (written,) = save(figure, out.with_suffix(""), (out.suffix[1:].lower(),), dpi, {"command": "gradlens probe sheet"})
    return written


def _paired(name: str, with_set: str, runtime: Runtime) -> list[ImageSet]:
    manifest = Manifest.read(probe_sets.find(name) / MANIFEST)
    return [open_source(name, runtime=runtime)] if manifest.paired_with == with_set else []
