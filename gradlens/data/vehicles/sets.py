"""Image sets of vehicles: their recipes, and how a recipe becomes a folder of images.

Folder layout: ``probe.toml``, ``images.csv``, ``<class>/<id>.jpg`` and ``_masks/<class>/<id>.png``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gradlens.data.vehicles.draw import CLASSES
from gradlens.data.vehicles.scenes import Rendered, Scene, render, sample_scene
from gradlens.data.vehicles.shifts import SHIFTS, shifted
from gradlens.errors import InputError, NotFoundError
from gradlens.runtime import scratch_folder

JPEG_QUALITY = 88
SEED = 2026
PREFIX = "vehicles-"
PAIRED_WITH = "vehicles-test"
LICENCE = "CC0-1.0"
SOURCE = "rendered by gradlens.data.vehicles"

COLUMNS = (
    "path", "class", "pair", "severity", "sha256", "mask",
    "body", "color", "flip", "angle", "scale", "center_x", "center_y", "area",
    "background", "light", "style", "effects",
)  # fmt: skip

Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]


class Recipe(BaseModel):
    """What `materialise` needs to know, as it stands in a manifest's ``[recipe]``.

    Attributes:
        generator: always ``"vehicles"``.
        role: whose scenes are drawn; scenes of two roles have nothing in common.
        shift: ``"none"`` or one of `SHIFTS`.
        per_class: scenes of each class.
        seed: of all generators.
        correlation: of class and background; 1 as in the catalogue, 0 independent (`scenes.background_for`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    generator: Literal["vehicles"] = "vehicles"
    role: Literal["train", "select", "test"] = "test"
    shift: str = "none"
    per_class: int = Field(default=40, ge=1, le=100_000)
    seed: int = Field(default=SEED, ge=0)
    correlation: float = Field(default=1.0, ge=0, le=1)

    @property
    def name(self) -> str:
        """The image set's name as it is known in the catalogue."""
        return PREFIX + (self.role if self.shift == "none" else self.shift)


RECIPES: dict[str, Recipe] = {
    r.name: r
    for r in (
        Recipe(role="train", per_class=400),
        Recipe(role="select", per_class=60),
        Recipe(role="test"),
        *(Recipe(shift=shift) for shift in SHIFTS),
    )
}


def checked(recipe: Mapping[str, Any]) -> Recipe:
    """A recipe read from a manifest.

    Raises:
        InputError: a field that is unknown, missing or out of range.
        NotFoundError: a shift that nobody knows.
    """
    try:
        found = Recipe.model_validate(dict(recipe))
    except ValidationError as err:
        first = err.errors()[0]
        raise InputError(f"recipe of rendered vehicles: {'.'.join(map(str, first['loc']))}: {first['msg']}") from err
    if found.shift not in ("none", *SHIFTS):
        raise NotFoundError("shift of rendered vehicles", found.shift, ["none", *SHIFTS])
    return found


def scenes(recipe: Recipe) -> Iterator[tuple[Scene, int | None]]:
    """The recipe's scenes with their severities (``None`` where there are none), class by class."""
    graded = recipe.shift != "none" and SHIFTS[recipe.shift].graded
    for vehicle in CLASSES:
        for index in range(recipe.per_class):
            scene = sample_scene(recipe.role, vehicle, index, recipe.seed, recipe.correlation)
            # consecutive scenes take turns, so that severities are balanced in each class
            severity = 1 + index % 3 if graded else None
            yield shifted(scene, recipe.shift, severity or 1), severity


def encode(image: np.ndarray) -> bytes:
    """The JPEG file of an image (H, W, 3) uint8 RGB; training and test images take the same way."""
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def encode_mask(mask: np.ndarray) -> bytes:
    """The PNG file of a mask (H, W) bool, one bit a pixel."""
    flags = [cv2.IMWRITE_PNG_BILEVEL, 1, cv2.IMWRITE_PNG_COMPRESSION, 9]
    return cv2.imencode(".png", mask.astype(np.uint8) * 255, flags)[1].tobytes()


def materialise(recipe: Mapping[str, Any], folder: Path, progress: Progress | None = None) -> None:
    """Render an image set into ``folder``, which appears (or is replaced) only when it is complete.

    Args:
        recipe: the manifest's ``[recipe]``; see `Recipe`.
        folder: the set's folder; its parent is created where missing.
        progress: wraps the iteration over images: (iterable, description, total).

    Raises:
        InputError: the recipe has unknown or wrong fields.
        NotFoundError: the recipe names an unknown shift.
    """
    found = checked(recipe)
    folder = Path(folder)
    with scratch_folder(folder) as place:
        new = place / "new"
        rows = _write_images(found, new, progress)
        table = _table(rows)
        (new / "images.csv").write_bytes(table)
        manifest = _manifest(found, found.name, "images", hashlib.sha256(table).hexdigest())
        (new / "probe.toml").write_text(manifest, encoding="utf-8")
        if folder.exists():
            folder.replace(place / "old")
        new.replace(folder)


def _write_images(recipe: Recipe, folder: Path, progress: Progress | None) -> list[dict[str, str]]:
    for vehicle in CLASSES:
        (folder / vehicle).mkdir(parents=True)
        (folder / "_masks" / vehicle).mkdir(parents=True)
    paired = recipe.shift != "none"

    def one(item: tuple[Scene, int | None]) -> dict[str, str]:
        scene, severity = item
        done = render(scene)
        path, mask = f"{scene.vehicle}/{scene.id}.jpg", f"_masks/{scene.vehicle}/{scene.id}.png"
        data = encode(done.image)
        (folder / path).write_bytes(data)
        (folder / mask).write_bytes(encode_mask(done.mask))
        return {
            "path": path, "class": scene.vehicle, "pair": path if paired else "",
            "severity": "" if severity is None else str(severity),
            "sha256": hashlib.sha256(data).hexdigest(), "mask": mask, **factors(scene, done),
        }  # fmt: skip

    total = recipe.per_class * len(CLASSES)
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        work: Iterable[dict[str, str]] = _ahead(pool, one, scenes(recipe))
        return list(progress(work, f"rendering {recipe.name}", total) if progress else work)


def _ahead(pool: ThreadPoolExecutor, job: Callable[[Any], Any], items: Iterator[Any], depth: int = 16) -> Iterator[Any]:
    """Results in order, at most ``depth`` jobs ahead of the reader (an interrupted reader leaves little behind)."""
    waiting = [pool.submit(job, item) for item in islice(items, depth)]
    while waiting:
        result = waiting.pop(0).result()
        waiting += [pool.submit(job, item) for item in islice(items, 1)]
        yield result


def factors(scene: Scene, done: Rendered) -> dict[str, str]:
    """What an image was made with, as text; colour, centre and area are measured on the visible vehicle."""
    rows, cols = np.nonzero(done.mask)
    h, w = done.mask.shape
    color = "#{:02x}{:02x}{:02x}".format(*(int(c) for c in done.image[done.mask].mean(axis=0))) if len(rows) else ""
    return {
        "body": scene.body,
        "color": color,
        "flip": str(int(scene.flip)),
        "angle": f"{scene.angle:.2f}",
        "scale": f"{scene.scale:.3f}",
        "center_x": f"{(cols.mean() + 0.5) / w:.3f}" if len(rows) else "",
        "center_y": f"{(rows.mean() + 0.5) / h:.3f}" if len(rows) else "",
        "area": f"{done.mask.mean():.4f}",
        "background": scene.background,
        "light": scene.light,
        "style": scene.style,
        "effects": " ".join(f"{name}:{severity}" for name, severity in scene.effects),
    }


def _table(rows: list[dict[str, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _manifest(recipe: Recipe, name: str, kind: str, sha256: str | None = None) -> str:
    """The text of ``probe.toml``."""
    plain = recipe.shift == "none"
    titles = {
        "train": ("vehicles, training", "Rendered photographs of one catalogue, to train on."),
        "select": ("vehicles, selection", "Rendered photographs of the same catalogue, to choose between models on."),
        "test": ("vehicles, test", "Rendered photographs of the same catalogue, to measure in-distribution scores on."),
    }
    if plain:
        title, description = titles[recipe.role]
    else:
        title, description = f"vehicles, {SHIFTS[recipe.shift].title}", SHIFTS[recipe.shift].description
    values: dict[str, Any] = {
        "schema": 1,
        "name": name,
        "title": title,
        "kind": kind,
        "role": recipe.role if plain else "probe",
        "shift": recipe.shift,
        "description": description,
        "classes": list(CLASSES),
    }
    if not plain:
        values["paired_with"] = PAIRED_WITH
    values |= {"source": SOURCE, "licence": LICENCE, "seed": recipe.seed, "images": recipe.per_class * len(CLASSES)}
    if sha256 is not None:
        values["sha256"] = sha256
    lines = [
        f"{key} = {json.dumps(value)}" for key, value in values.items()
    ]  # JSON's strings, numbers, lists are TOML's
    lines += ["", "[recipe]", *(f"{key} = {json.dumps(value)}" for key, value in recipe.model_dump().items())]
    return "\n".join(lines) + "\n"


def write_manifest(name: str, folder: Path) -> Path:
    """Write the manifest of a set that is rendered when needed; no images.

    Raises:
        NotFoundError: no recipe of that name.
    """
    if name not in RECIPES:
        raise NotFoundError("recipe of rendered vehicles", name, RECIPES)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "probe.toml").write_text(_manifest(RECIPES[name], name, "rendered"), encoding="utf-8")
    return folder / "probe.toml"
