"""Probe sets: named image sets in folders that carry their own description, and where they are found.

``probe_sets/<name>/`` holds ``probe.toml`` (a :class:`Manifest`), ``images.csv`` (one row per image: path, class, pair,
severity, sha256, mask, native properties, then one column per factor), images in class folders, and masks below
``_masks/``. Sets that ``gradlens probe add`` made also hold ``quarantine.csv`` (what was left out, and why) and
``duplicates.csv`` (images that repeat others). A set of kind ``rendered`` commits no images: they are rendered into the
cache folder by its recipe when first used.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gradlens.data.folders import Files, not_an_image, open_folder, remarks_on
from gradlens.data.image_set import ImageSet, sha256_of
from gradlens.errors import InputError, NotFoundError
from gradlens.records import Role, Sample, Skipped
from gradlens.runtime import Runtime, bundled, cache_dir, plain_file, versions, whole_folder

MANIFEST, TABLE = "probe.toml", "images.csv"
COLUMNS = ("path", "class", "pair", "severity", "sha256", "mask")
FACTS = (
    *("width", "height", "codec", "mode", "frames", "orientation", "jpeg_quality", "bytes"),
    *("original", "source_url", "licence", "duplicate_of"),
)
"""Columns that ``gradlens probe add`` writes about each image; they are no factors that the images were made with."""
QUARANTINE, DUPLICATES = "quarantine.csv", "duplicates.csv"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """``probe.toml``: what a probe set is.

    Attributes:
        schema_version: 1 (written ``schema``).
        name: the folder's name.
        title: for tables and figures.
        kind: ``images`` lie in the folder, ``rendered`` ones are made by the recipe when first used.
        role: what the images are for.
        shift: what was changed against the training data; ``none`` in distribution.
        classes: all class names, also those without an image.
        paired_with: the set whose images the ``pair`` column names.
        filtered_by: models whose predictions decided which images are in it.
        against: SOURCEs of other sets that its images were compared with when it was made.
        images: how many there are; sha256: of ``images.csv``.
        recipe: what the renderer needs to make the images again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = Field(alias="schema")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    title: str = ""
    kind: Literal["images", "rendered"] = "images"
    role: Role = "probe"
    shift: str
    description: str = ""
    classes: Annotated[list[str], Field(min_length=1)]
    paired_with: str | None = None
    source: str = ""
    licence: str = ""
    filtered_by: list[str] = []
    against: list[str] = []
    seed: int | None = None
    images: Annotated[int, Field(ge=1)] | None = None
    sha256: Sha256 | None = None
    recipe: dict[str, Any] | None = None

    @field_validator("classes")
    @classmethod
    def _unique(cls, names: list[str]) -> list[str]:
        if len(set(names)) != len(names):
            raise ValueError("a class is named twice")
        return names

    @model_validator(mode="after")
    def _rendered_by_recipe(self) -> Manifest:
        if self.kind == "rendered" and self.recipe is None:
            raise ValueError("a set of kind 'rendered' needs a [recipe]")
        return self

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """The manifest in a file.

        Raises:
            InputError: there is none, it is not TOML, or a field is missing, unknown or wrong; names the field.
        """
        try:
            table = tomllib.loads(plain_file(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{path}: expected a probe set's manifest, but there is no such file") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as err:
            raise InputError(f"{path}: expected TOML: {err}") from err
        try:
            return cls.model_validate(table)
        except ValidationError as err:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'table'}: {e['msg']}" for e in err.errors())
            raise InputError(f"{path}: {wrong}") from None

    def to_toml(self) -> str:
        """The text of its ``probe.toml``."""
        fields = self.model_dump(by_alias=True, exclude_none=True)
        recipe = fields.pop("recipe", None)
        lines = [f"{key} = {_toml(value)}" for key, value in fields.items() if value not in ("", [])]
        if recipe is not None:
            lines += ["", "[recipe]", *(f"{key} = {_toml(value)}" for key, value in recipe.items())]
        return "\n".join(lines) + "\n"


def places() -> list[Path]:
    """Folders of probe sets, in the order they are searched: ``./probe_sets``, then those that come with gradlens."""
    return [Path("probe_sets"), bundled("probe_sets")]


def known(where: Iterable[Path] | None = None) -> dict[str, Path]:
    """Names and folders of all probe sets, sorted by name; the first place that has a name wins.

    A folder of class folders without a manifest counts as well.
    """
    found: dict[str, Path] = {}
    for place in places() if where is None else where:
        for folder in sorted(place.iterdir()) if place.is_dir() else ():
            if folder.is_dir() and folder.name[0] not in "._":
                found.setdefault(folder.name, folder)
    return dict(sorted(found.items()))


def find(name: str) -> Path:
    """The folder of the probe set of that name.

    Raises:
        NotFoundError: there is none; suggests near names.
    """
    sets = known()
    if name not in sets:
        raise NotFoundError("probe set", name, sets)
    return sets[name]


def open_probe_set(folder: Path, runtime: Runtime | None = None) -> ImageSet:
    """The image set in a folder that may have a manifest; a ``rendered`` one is rendered on first use.

    Raises:
        InputError: the manifest or the table of images is wrong, or the table is not the one the manifest describes.
    """
    if not (folder / MANIFEST).is_file():
        return open_folder(folder, role="probe")
    manifest = Manifest.read(folder / MANIFEST)
    remarks: list[str] = []
    where = folder
    if manifest.kind == "rendered":
        where = rendered(manifest, runtime)
        if manifest.sha256 is not None and sha256_of(where / TABLE) != manifest.sha256:
            remarks.append("rendered here it differs from the published images (other versions of OpenCV or NumPy?)")
    elif manifest.sha256 is not None and sha256_of(_table(where)) != manifest.sha256:
        raise InputError(
            f"{where / TABLE}: its sha256 is not the one in {MANIFEST}: one of them was changed; "
            f"see: gradlens probe check {folder}"
        )
    if not (where / TABLE).is_file():
        plain = open_folder(where, role=manifest.role, name=manifest.name)
        plain = replace(plain, shift=manifest.shift, paired_with=manifest.paired_with)
        return _with_classes(replace(plain, filtered_by=tuple(manifest.filtered_by)), manifest)
    rows = read_table(where / TABLE, manifest.classes)
    position = {c: i for i, c in enumerate(manifest.classes)}
    samples = tuple(
        Sample(
            id=row["path"],
            label=position[row["class"]],
            pair=row["pair"] or None,
            severity=int(row["severity"]) if row["severity"] else None,
            factors={k: _value(v) for k, v in row.items() if k not in COLUMNS and k not in FACTS},
        )
        for row in rows
    )
    listed = {row["path"] for row in rows}
    return ImageSet(
        name=manifest.name,
        role=manifest.role,
        classes=tuple(manifest.classes),
        samples=samples,
        location=str(where),
        store=Files([where / row["path"] for row in rows], [where / r["mask"] if r["mask"] else None for r in rows]),
        rows=tuple(range(len(samples))),
        paired_with=manifest.paired_with,
        shift=manifest.shift,
        filtered_by=tuple(manifest.filtered_by),
        skipped=tuple(Skipped(str(p), f"not listed in {TABLE}") for p in _unlisted(where, listed)),
        remarks=(*remarks, *remarks_on(manifest.classes, samples)),
    )


def read_table(path: Path, classes: Iterable[str]) -> list[dict[str, str]]:
    """The rows of an ``images.csv``; columns that are absent read as empty.

    Raises:
        InputError: not a table, a column or value is missing or wrong, a path leaves the folder or stands there twice.
    """
    try:
        text = plain_file(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise InputError(f"{path}: expected a table of images as UTF-8 CSV: {err}") from err
    reader = csv.DictReader(text.splitlines())
    try:
        header, listed = reader.fieldnames or [], list(reader)
    except csv.Error as err:
        raise InputError(f"{path}:{reader.line_num}: expected CSV: {err}") from err
    if missing := [c for c in ("path", "class") if c not in header]:
        raise InputError(f"{path}: expected the columns {', '.join(COLUMNS)}; {', '.join(missing)} missing")
    classes, seen = set(classes), set()
    rows = []
    for number, raw in enumerate(listed, start=2):
        if None in raw or None in raw.values():
            raise InputError(f"{path}:{number}: expected {len(header)} values")
        row = {**dict.fromkeys(COLUMNS, ""), **raw}
        for column in ("path", "mask"):
            if row[column] and not _is_inside(row[column]):
                raise InputError(f"{path}:{number}: {column} {row[column]!r} leaves the folder")
        if not row["path"] or row["path"] in seen:
            raise InputError(f"{path}:{number}: expected a path that no other row has, got {row['path']!r}")
        if row["class"] not in classes:
            raise InputError(f"{path}:{number}: class {row['class']!r} is not among those of {MANIFEST}")
        if row["severity"] and not row["severity"].isdigit():
            raise InputError(f"{path}:{number}: expected a whole number as severity, got {row['severity']!r}")
        seen.add(row["path"])
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: expected images, got a table without rows")
    return rows


def rendered(manifest: Manifest, runtime: Runtime | None = None) -> Path:
    """The folder in the cache that holds the images of a ``rendered`` set; renders them unless it is there.

    It appears complete or not at all, also when two processes render at once.
    """
    final = rendering_place(manifest)
    if not (final / TABLE).is_file():
        with whole_folder(final) as folder:
            materialise(manifest.recipe or {}, folder, runtime)
    return final


def rendering_place(manifest: Manifest) -> Path:
    """Where the images of a ``rendered`` set lie once they are rendered.

    The folder's name carries a hash of the recipe, of the renderer's source and of the libraries that draw, so that a
    change of any of them renders anew.
    """
    ours = versions()
    key = hashlib.sha256(json.dumps(manifest.recipe or {}, sort_keys=True).encode())
    key.update(f"{ours.get('opencv-python')} {ours['numpy']} {ours['pillow']} {_renderer_source()}".encode())
    return cache_dir() / "sets" / f"{manifest.name}-{key.hexdigest()[:12]}"


def materialise(recipe: Mapping[str, Any], folder: Path, runtime: Runtime | None = None) -> None:
    """Render an image set by its recipe into a folder.

    Raises:
        InputError: no such generator, or a field of the recipe is unknown or wrong.
    """
    if recipe.get("generator") != "vehicles":
        raise InputError(f"expected the generator 'vehicles' in [recipe], got {recipe.get('generator')!r}")
    from gradlens.data.vehicles.sets import materialise as render

    render(recipe, folder, (runtime or Runtime(quiet=True)).progress)


def _with_classes(plain: ImageSet, manifest: Manifest) -> ImageSet:
    """A set read from class folders, its labels now indices into the manifest's classes."""
    unknown = sorted(set(plain.classes or ()) - set(manifest.classes))
    if plain.classes is None or unknown:
        what = f"the folders {', '.join(unknown)}" if unknown else "no class folders"
        raise InputError(f"{plain.location}: expected the classes {', '.join(manifest.classes)}, got {what}")
    position = {c: i for i, c in enumerate(manifest.classes)}
    samples = tuple(replace(s, label=position[plain.classes[s.label or 0]]) for s in plain.samples)
    return replace(
        plain,
        classes=tuple(manifest.classes),
        samples=samples,
        remarks=tuple(remarks_on(manifest.classes, samples)),
    )


def _table(folder: Path) -> Path:
    if not (folder / TABLE).is_file():
        raise InputError(f"{folder / MANIFEST}: it gives the sha256 of {TABLE}, but there is no such file")
    return folder / TABLE


def _unlisted(folder: Path, listed: set[str]) -> Iterator[Path]:
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f[0] not in "._")
        for file in sorted(files):
            path = Path(here) / file
            if not_an_image(path) is None and path.relative_to(folder).as_posix() not in listed:
                yield path


def _is_inside(path: str) -> bool:
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts and "\\" not in path and not re.match(r"[A-Za-z]:", path)


def _renderer_source() -> str:
    spec = importlib.util.find_spec("gradlens.data.vehicles")
    digest = hashlib.sha256()
    for place in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(place).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _value(text: str) -> str | int | float | None:
    """A factor as it was meant: a number where it reads as one."""
    if text == "":
        return None
    numbers: tuple[Callable[[str], int | float], ...] = (int, float)
    for number in numbers:
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml(str(k))} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, str):  # TOML's basic strings are JSON's, but for DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
