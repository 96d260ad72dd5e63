"""Image sets that lie in folders: class folders (``<class>/<image>``), flat folders, and single files by hand."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from gradlens.data.decode import EXTENSIONS
from gradlens.data.image_set import ImageSet, Store, sha256_of
from gradlens.errors import InputError
from gradlens.records import Role, Sample, Skipped

# what operating systems leave behind; everything else that is no image is reported
SILENT = frozenset({"thumbs.db", "desktop.ini", ".ds_store"})
OWN = frozenset({"probe.toml", "images.csv", "quarantine.csv", "duplicates.csv"})  # what a probe set says of itself
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


class Files(Store):
    """Images that are files of their own, with optional files of masks."""

    def __init__(self, paths: Sequence[Path], masks: Sequence[Path | None] | None = None) -> None:
        self.paths = tuple(paths)
        self.masks = tuple(masks) if masks is not None else (None,) * len(self.paths)

    def encoded(self, row: int) -> bytes | Path | np.ndarray:
        return self.paths[row]

    def mask(self, row: int) -> Path | None:
        return self.masks[row]

    def content(self) -> str:
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(sha256_of(path).encode() if path.is_file() else b"unreadable")
        return digest.hexdigest()


def open_folder(folder: Path, role: Role | None = None, name: str | None = None) -> ImageSet:
    """The images below a folder: labelled by class folders where there are any, otherwise unlabelled.

    Folders whose name starts with ``_`` or ``.`` are never classes. Images may lie deeper inside a class folder.

    Raises:
        InputError: there is no image below it, or its folders are splits rather than classes.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of images, got a file")
    name = name or folder.resolve().name
    classes = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] not in "._"))
    if classes and all(c.casefold() in SPLITS for c in classes):
        raise InputError(
            f"{folder}: expected class folders, got splits ({', '.join(classes)}); name one: {folder / classes[-1]}"
        )
    if broken := [c for c in classes if shown(Path(c)) != c]:
        raise InputError(
            f"{folder}: the folder {shown(Path(broken[0]))} has a name that is not valid Unicode; rename it"
        )
    samples: list[Sample] = []
    paths: list[Path] = []
    skipped: list[Skipped] = []
    for path in _files(folder, deep=False):
        if (reason := not_an_image(path)) is not None:
            if path.name not in OWN:
                skipped.append(Skipped(shown(path), reason))
        elif classes:
            skipped.append(Skipped(shown(path), "lies beside the class folders, so its class is unknown"))
        else:
            samples.append(Sample(path.name))
            paths.append(path)
    for label, class_name in enumerate(classes):
        for path in _files(folder / class_name, deep=True):
            if (reason := not_an_image(path)) is not None:
                skipped.append(Skipped(shown(path), reason))
            else:
                samples.append(Sample(path.relative_to(folder).as_posix(), label))
                paths.append(path)
    if not samples:
        left_out = f" ({len(skipped)} other files)" if skipped else ""
        raise InputError(f"{folder}: expected images or folders of images, found none{left_out}")
    return ImageSet(
        name=name,
        role=role or ("test" if classes else "unlabelled"),
        classes=classes or None,
        samples=tuple(samples),
        location=str(folder),
        store=Files(paths),
        rows=tuple(range(len(samples))),
        skipped=tuple(skipped),
        remarks=tuple(remarks_on(classes, samples)),
    )


def images_from_paths(paths: Iterable[str | os.PathLike[str]]) -> ImageSet:
    """The images a person named one by one: files are taken as they are, folders give the images below them.

    Ids are the paths as given. Unlabelled. A file that cannot be decoded is found out on reading.

    Raises:
        InputError: a path does not exist, a folder holds no image, or nothing was named.
    """
    found: dict[str, Path] = {}
    skipped: list[Skipped] = []
    for given in map(Path, paths):
        if not given.exists():
            raise InputError(f"{given}: expected an image file or a folder of images, but there is none of that name")
        if not given.is_dir():
            found[str(given)] = given
            continue
        before = len(found)
        for path in _files(given, deep=True):
            if (reason := not_an_image(path)) is not None:
                skipped.append(Skipped(shown(path), reason))
            else:
                found[str(path)] = path
        if len(found) == before:
            raise InputError(f"{given}: expected a folder of images, found none in it")
    if not found:
        raise InputError("expected at least one image file or folder, got none")
    return ImageSet(
        name="images",
        role="unlabelled",
        classes=None,
        samples=tuple(Sample(p) for p in found),
        location="",
        store=Files(list(found.values())),
        rows=tuple(range(len(found))),
        skipped=tuple(skipped),
    )


def not_an_image(path: Path) -> str | None:
    """Why a file is not taken for an image, by its name alone; ``None`` when it is."""
    if shown(path) != str(path):
        return "its name is not valid Unicode; rename it"
    if path.is_dir():
        return "a link to a folder, which is not followed; copy the folder itself"
    if path.suffix.lower() in EXTENSIONS:
        return None
    return f"not an image by its ending ({path.suffix or 'it has none'})"


def shown(path: Path) -> str:
    """A path as text that can be printed and written; bytes that are no UTF-8 become escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def remarks_on(classes: Sequence[str], samples: Sequence[Sample]) -> Iterator[str]:
    """What is odd about a labelled set: classes that differ by case only, without images, or named like a formula."""
    folded: dict[str, list[str]] = defaultdict(list)
    for c in classes:
        folded[c.casefold().strip()].append(c)
    for same in folded.values():
        if len(same) > 1:
            yield f"classes {' and '.join(map(repr, same))} differ by case or blanks only: are they one class?"
    seen = {s.label for s in samples}
    empty = [c for i, c in enumerate(classes) if i not in seen]
    if empty:
        yield f"no image of {', '.join(map(repr, empty[:8]))}" + (f" and {len(empty) - 8} more" if empty[8:] else "")
    names = [n for n in (*classes, *(s.id for s in samples)) if is_formula(n)]
    if names:
        more = f" and {len(names) - 3} more" if names[3:] else ""
        yield (
            f"{', '.join(map(repr, names[:3]))}{more}: a spreadsheet takes that for a formula; tables keep names as "
            "they are, so import CSV files of this run as text"
        )


def is_formula(name: str) -> bool:
    """Whether a spreadsheet that opens a CSV file would compute this cell: a number with its sign is none."""
    return name.startswith(("=", "@", "\t", "\r")) or (name[:1] in ("+", "-") and not name[1:2].isdigit())


def _files(folder: Path, deep: bool) -> Iterator[Path]:
    """Files of a folder in a fixed order, without hidden ones and operating systems' litter; links to folders."""
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f[0] not in "._") if deep else []
        yield from (Path(here) / f for f in folders if (Path(here) / f).is_symlink())
        for file in sorted(files):
            if file[0] != "." and file.casefold() not in SILENT:
                yield Path(here) / file
