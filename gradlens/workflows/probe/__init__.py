"""Probe sets as a person handles them: which are there, are they sound, make one of these images, render them again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gradlens.data import probe_sets
from gradlens.data.checking import examine
from gradlens.data.image_set import ImageSet, sha256_of
from gradlens.data.probe_sets import MANIFEST, TABLE, Manifest
from gradlens.data.sources import open_source
from gradlens.errors import InputError
from gradlens.runtime import Runtime, whole_folder
from gradlens.workflows.probe.adding import Added, add

__all__ = ["Added", "Checked", "Entry", "Rendered", "add", "check_sets", "list_sets", "render", "sheet"]


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

    ``complete`` is false where only the manifest was looked at, because the images are not rendered yet; ``remarks``
    say what else could not be looked at here.
    """

    name: str
    folder: str
    problems: tuple[str, ...]
    complete: bool = True
    remarks: tuple[str, ...] = ()


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
            found = examine(folder, runtime)
            checks.append(Checked(name, str(folder), found.problems, remarks=found.remarks))
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
    with whole_folder(new) as scratch:
        probe_sets.materialise(manifest.recipe or {}, scratch, runtime)
        count = len(probe_sets.read_table(scratch / TABLE, manifest.classes))
        now = manifest.model_copy(update={"kind": "images", "images": count, "sha256": sha256_of(scratch / TABLE)})
        (scratch / MANIFEST).write_text(now.to_toml(), encoding="utf-8")
    if where.exists():
        where.rename(old)
    new.rename(where)
    shutil.rmtree(old, ignore_errors=True)


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
