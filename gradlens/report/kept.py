"""The pictures that a run kept (``images/index.json``), read back for its page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from gradlens.errors import InputError
from gradlens.report.tiles import data_uri
from gradlens.runtime import plain_file

INDEX = "images/index.json"
_LISTS = ("samples", "scenes", "maps", "features", "refused", "unreadable", "sets")
_TABLES = ("geometries", "depths", "reading")


@dataclass(frozen=True)
class Kept:
    """What a run kept of its images.

    Attributes:
        folder: the run.
        samples: rows with ``id, dataset, key, label, width, height, use, crops, file``.
        scenes: data set -> the id of its sample that shows the scene; the in-distribution set first.
        maps: rows with ``model, depth, sample, target, prediction, probability, status``, and ``file, box`` where there
            is a picture; features: likewise, with ``channel, strength, sign, low, high``.
        geometries: model -> which crop of a sample it sees; depths: model -> its depths; reading: model -> the depth at
            which failures have their map.
        refused: models without maps, and why; unreadable: images that could not be read again.
        sets: what each set holds.
    """

    folder: Path
    samples: Sequence[Mapping[str, Any]]
    scenes: Sequence[Mapping[str, str]]
    maps: Sequence[Mapping[str, Any]]
    features: Sequence[Mapping[str, Any]]
    refused: Sequence[Mapping[str, str]]
    unreadable: Sequence[Mapping[str, str]]
    sets: Sequence[Mapping[str, Any]]
    geometries: Mapping[str, str]
    depths: Mapping[str, Sequence[Mapping[str, Any]]]
    reading: Mapping[str, str]

    @cached_property
    def by_id(self) -> dict[str, Mapping[str, Any]]:
        """The samples."""
        return {s["id"]: s for s in self.samples}

    @cached_property
    def by_key(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        """The samples by data set and the image's id there."""
        return {(s["dataset"], s["key"]): s for s in self.samples}

    @cached_property
    def _uris(self) -> dict[str, str]:
        return {}

    def picture(self, file: str) -> str:
        """A file of the run as the address of an image inside the page.

        Raises:
            InputError: it is missing, no picture, or not in the run's folder.
        """
        path = PurePosixPath(file)
        if path.is_absolute() or ".." in path.parts:
            raise InputError(f"{self.folder / INDEX} names a file outside the run's folder: {file}")
        if file not in self._uris:
            self._uris[file] = data_uri(self.folder / path)
        return self._uris[file]


def read_kept(folder: Path) -> Kept | None:
    """What the run kept; ``None`` where it kept nothing (predictions from files, an earlier version).

    Raises:
        InputError: the index is not what a run writes.
    """
    path = folder / INDEX
    try:
        found = json.loads(plain_file(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as err:
        raise InputError(f"{path} cannot be read: {err}") from None
    if not isinstance(found, dict) or found.get("schema") != 1:
        raise InputError(f'{path}: expected "schema": 1; it is damaged or of another version: run the evaluation again')
    wrong = [name for name in _LISTS if not isinstance(found.get(name), list)]
    wrong += [name for name in _TABLES if not isinstance(found.get(name), dict)]
    if wrong:
        raise InputError(f"{path} has no {wrong[0]}; it is damaged: run the evaluation again")
    return Kept(folder, **{name: found[name] for name in (*_LISTS, *_TABLES)})
