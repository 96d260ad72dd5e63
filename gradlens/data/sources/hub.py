"""Data sets of other libraries: ``torchvision:NAME:SPLIT[:ROOT]`` and ``hf:REPO[:CONFIG]:SPLIT``."""

from __future__ import annotations

import hashlib
import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gradlens.data.decode import pixels_of, reason
from gradlens.data.folders import remarks_on
from gradlens.data.image_set import ImageSet, Store, sha256_of
from gradlens.errors import InputError, InstallationError, NotFoundError
from gradlens.records import Role, Sample
from gradlens.runtime import cache_dir

ROLES: dict[str, Role] = {"train": "train", "val": "select", "valid": "select", "validation": "select"}


class TorchvisionItems(Store):
    """Images of a torchvision data set."""

    def __init__(self, dataset: Any, name: str) -> None:
        self.dataset, self.name = dataset, name
        self._lock = threading.Lock()  # some of them seed torch's global generator or share a file handle

    def encoded(self, row: int) -> bytes | Path | np.ndarray:
        with self._lock:
            image = self.dataset[row][0]
        return pixels_of(image, f"{self.name}/{row}")

    def content(self) -> str:
        return self._content

    @cached_property
    def _content(self) -> str:
        return hashlib.sha256(
            "".join(sha256_of(self.encoded(row)) for row in range(len(self.dataset))).encode()
        ).hexdigest()


def open_torchvision(spec: str, offline: bool) -> ImageSet:
    """A data set of ``torchvision.datasets``, downloaded to ROOT (default: the cache folder) unless offline.

    Raises:
        InputError: it is not there and may not be downloaded, or is not for classification.
        NotFoundError: torchvision has no such data set.
    """
    from torchvision import datasets

    _, name, split, root = _parts(spec, "torchvision:NAME:SPLIT[:ROOT]", at_most=4)
    if name not in datasets.__all__:
        raise NotFoundError("data set of torchvision", name, datasets.__all__)
    make = getattr(datasets, name)
    takes = inspect.signature(make.__init__).parameters
    arguments: dict[str, Any] = {}
    if "root" in takes:
        arguments["root"] = str(Path(root) if root else cache_dir() / "torchvision")
    if "train" in takes:
        if split not in ("train", "test"):
            raise NotFoundError(f"split of {name}", split, ("train", "test"))
        arguments["train"] = split == "train"
    elif "split" in takes:
        arguments["split"] = split
    if "download" in takes:
        arguments["download"] = not offline
    try:
        dataset = make(**arguments)
    except Exception as err:  # each of some sixty classes fails in its own way
        raise _unavailable(spec, offline, err) from err
    labels = _torchvision_labels(dataset, spec)
    classes = tuple(map(str, getattr(dataset, "classes", None) or range(max(labels, default=-1) + 1)))
    samples = tuple(Sample(str(i), label) for i, label in enumerate(labels))
    return ImageSet(
        name=f"{name}-{split}",
        role=ROLES.get(split, "test"),
        classes=classes,
        samples=samples,
        location=spec,
        store=TorchvisionItems(dataset, spec),
        rows=tuple(range(len(samples))),
        remarks=tuple(remarks_on(classes, samples)),
    )


class HubRows(Store):
    """The encoded images of a Hugging Face data set."""

    def __init__(self, rows: Any, column: str, name: str, fingerprint: str) -> None:
        self.rows, self.column, self.name, self._fingerprint = rows, column, name, fingerprint

    def encoded(self, row: int) -> bytes | Path | np.ndarray:
        value = self.rows[row][self.column]
        if not isinstance(value, dict) or (value.get("bytes") is None and not value.get("path")):
            raise InputError(f"{self.name}: row {row} holds no image")
        return bytes(value["bytes"]) if value.get("bytes") is not None else Path(value["path"])

    def content(self) -> str:
        return hashlib.sha256(f"{self.name} {self._fingerprint}".encode()).hexdigest()


def _asked(spec: str) -> tuple[Any, str, str | None, str]:
    """The package ``datasets``; repository, configuration and split of ``hf:REPO[:CONFIG]:SPLIT``."""
    parts = _parts(spec, "hf:REPO[:CONFIG]:SPLIT", at_most=4)
    repo, config, split = (parts[1], parts[2], parts[3]) if parts[3] else (parts[1], None, parts[2])
    try:
        import datasets
    except ImportError as err:
        raise InstallationError(
            f"{spec} needs the package 'datasets' ({err}); run: pip install 'gradlens[hf]'"
        ) from err
    return datasets, repo, config, split


def open_hub(spec: str, offline: bool) -> ImageSet:
    """A data set of the Hugging Face hub, or a folder that ``datasets`` reads; only its cache is used when offline.

    Raises:
        InstallationError: the package ``datasets`` is missing.
        InputError: it cannot be loaded, or has no images or class labels.
    """
    datasets, repo, config, split = _asked(spec)
    if quiet := not (sys.stderr.isatty() or datasets.are_progress_bars_disabled()):
        datasets.disable_progress_bars()
    try:
        table = datasets.load_dataset(
            repo, config, split=split, download_config=datasets.DownloadConfig(local_files_only=offline)
        )
        column = next((n for n, f in table.features.items() if isinstance(f, datasets.Image)), None)
        label = next((n for n, f in table.features.items() if isinstance(f, datasets.ClassLabel)), None)
        if column is not None:
            table = table.cast_column(column, datasets.Image(decode=False))
    except Exception as err:  # network, hub and parsing errors of four libraries
        raise _unavailable(spec, offline, err) from err
    finally:
        if quiet:
            datasets.enable_progress_bars()
    if column is None:
        raise InputError(f"{spec}: expected a column of images, got {', '.join(table.column_names)}")
    classes = None if label is None else tuple(table.features[label].names)
    labels = [None] * len(table) if label is None else [None if v in (None, -1) else int(v) for v in table[label]]
    samples = tuple(Sample(str(i), value) for i, value in enumerate(labels))
    return ImageSet(
        name=f"{repo.rstrip('/').rsplit('/', 1)[-1]}-{split}",
        role="unlabelled" if classes is None else ROLES.get(split, "test"),
        classes=classes,
        samples=samples,
        location=spec,
        store=HubRows(table, column, spec, table._fingerprint),
        rows=tuple(range(len(samples))),
        remarks=tuple(remarks_on(classes or (), samples)),
    )


def open_hub_stream(
    spec: str, offline: bool
) -> tuple[str, Role, Callable[[int], Iterator[tuple[list[Any], list[Any] | None, tuple[str, ...] | None]]]]:
    """The same data set, streamed: nothing of it is stored, and it is never listed.

    Returns:
        Its name and role, and what reads it from the start, so many rows at a time: cells of the image column, of the
        label column (``None`` without one), and the names that labels stand for.

    Raises:
        InstallationError, InputError: see :func:`open_hub`.
    """
    datasets, repo, config, split = _asked(spec)
    try:
        how = datasets.DownloadConfig(local_files_only=offline)
        rows = datasets.load_dataset(repo, config, split=split, streaming=True, download_config=how)
        features = rows.features or next(iter(rows.take(1)))
    except Exception as err:  # network, hub and parsing errors of four libraries
        raise _unavailable(spec, offline, err) from err
    column = next((n for n, f in features.items() if isinstance(f, datasets.Image)), None)
    label = next((n for n, f in features.items() if isinstance(f, datasets.ClassLabel)), None)
    if column is None:
        raise InputError(f"{spec}: expected a column of images, got {', '.join(features)}")
    rows = rows.cast_column(column, datasets.Image(decode=False))
    names = None if label is None else tuple(features[label].names)

    def read(at_once: int) -> Iterator[tuple[list[Any], list[Any] | None, tuple[str, ...] | None]]:
        for batch in rows.iter(batch_size=at_once):
            yield batch[column], None if label is None else batch[label], names

    role = "unlabelled" if names is None else ROLES.get(split, "test")
    return f"{repo.rstrip('/').rsplit('/', 1)[-1]}-{split}", role, read


def _parts(spec: str, form: str, at_most: int) -> list[str]:
    parts = spec.split(":", at_most - 1)
    if len(parts) < 3 or not all(parts):
        raise InputError(f"expected {form}, got {spec!r}")
    return parts + [""] * (at_most - len(parts))


def _torchvision_labels(dataset: Any, spec: str) -> list[int]:
    for attribute in ("targets", "labels", "_labels"):
        values = getattr(dataset, attribute, None)
        if values is not None and len(values) == len(dataset):
            break
    else:
        values = [dataset[i][1] for i in range(len(dataset))]
    labels: Sequence[Any] = (
        values.tolist() if hasattr(values, "tolist") else [getattr(v, "item", lambda v=v: v)() for v in values]
    )
    if not all(isinstance(label, int) for label in labels):
        raise InputError(f"{spec}: expected one class number per image, got {type(labels[0]).__name__} as label")
    return list(labels)


def _unavailable(spec: str, offline: bool, err: Exception) -> InputError:
    how = "without a network (--offline)" if offline else ""
    return InputError(f"{spec}: cannot be opened {how}".rstrip() + f": {reason(err)}")
