"""The images to look at: those named, some of a source, or one per class of the models' own data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from gradlens.data import probe_sets
from gradlens.data.preprocess import crop_box, view
from gradlens.data.sources import ImageSet, decoded, images_from_paths, open_source
from gradlens.errors import InputError
from gradlens.figures.cam_grid import tile
from gradlens.records import LoadedModel, Preprocess, Skipped
from gradlens.runtime import Runtime

Geometry = tuple[tuple[int, int, int], float, str]


@dataclass(frozen=True)
class Picture:
    """One image with what is known about it; its pixels are gone, but for what figures show.

    Attributes:
        size: (height, width) of the original in pixels.
    """

    id: str
    path: str
    source: str
    label: str | None
    size: tuple[int, int]
    _views: dict[Geometry, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """Its class, or its file's name where it is unlabelled."""
        return self.label or Path(self.id).name

    def keep_view(self, preprocess: Preprocess, pixels: np.ndarray) -> None:
        """Keep what a model saw of the image, at the size of a figure's cell; models with equal crops share it."""
        if _geometry(preprocess) not in self._views:
            self._views[_geometry(preprocess)] = tile(view(preprocess, pixels)).copy()

    def view(self, preprocess: Preprocess) -> np.ndarray:
        """uint8 (h, w, 3): what a model saw of the image."""
        return self._views[_geometry(preprocess)]

    def crop(self, preprocess: Preprocess) -> tuple[float, float, float, float]:
        """(top, left, bottom, right) of what a model saw, in pixels of the original."""
        return crop_box(preprocess, *self.size)


def _geometry(preprocess: Preprocess) -> Geometry:
    return preprocess.input_size, preprocess.crop_pct, preprocess.crop_mode


def chosen_sets(
    images: Sequence[Path], data: str | None, n: int, models: Sequence[LoadedModel], runtime: Runtime
) -> list[ImageSet]:
    """The named images, or ``n`` of the source ``data``, or the models' own examples, each with its shifted partner."""
    if images:
        return [images_from_paths(images)]
    if data:
        whole = open_source(data, offline=runtime.offline, runtime=runtime)
        return [whole.subset(one_per_class(whole, n))]
    return list(own_examples([str(m.card.get("test", "")) for m in models], runtime, n))


def pictures(sets: Sequence[ImageSet], runtime: Runtime) -> Iterator[tuple[Picture, np.ndarray] | Skipped]:
    """Every image with its pixels, decoded as it is asked for; sets of equal length take turns, so that the same scene
    in distribution and shifted stand together.
    """
    streams = [_read(one, runtime.workers) for one in sets]
    alike = len({len(one) for one in sets}) == 1
    return chain.from_iterable(zip(*streams, strict=True) if alike else streams)


def _read(images: ImageSet, workers: int) -> Iterator[tuple[Picture, np.ndarray] | Skipped]:
    for i, pixels in decoded(images, workers):
        if isinstance(pixels, Skipped):
            yield pixels
            continue
        label = images.samples[i].label
        named = images.classes[label] if label is not None and images.classes else None
        height, width = pixels.shape[:2]
        yield Picture(images.samples[i].id, images.path(i), images.name, named, (height, width)), pixels


def one_per_class(images: ImageSet, n: int) -> list[int]:
    """``n`` images, spread evenly over the classes, in the set's order; the first ``n`` where unlabelled."""
    if images.classes is None:
        return list(range(min(n, len(images))))
    by_class: dict[int, list[int]] = {}
    for i, label in enumerate(images.labels.tolist()):
        by_class.setdefault(label, []).append(i)
    turns = max(map(len, by_class.values()), default=0)
    in_turn = [members[t] for t in range(turns) for members in by_class.values() if t < len(members)]
    return sorted(in_turn[:n])


def own_examples(tests: Sequence[str], runtime: Runtime, n: int) -> tuple[ImageSet, ImageSet]:
    """One image of each of ``n`` classes from the models' own test set, and the same scenes from the probe set that
    mixes all shifts.

    Args:
        tests: the test set that each model's card names; empty where it names none.
        runtime: shows the progress of sets that must be rendered first.
        n: images of each set.

    Raises:
        InputError: the models' cards name no test set that is at hand, or not all the same.
    """
    distinct = set(tests)
    name = distinct.pop() if len(distinct) == 1 else ""
    if not name or name not in probe_sets.known():
        raise InputError("these models have no common test set here to take images from; give --image or --data")
    test = open_source(name, runtime=runtime)
    paired = [open_source(p, runtime=runtime) for p in probe_sets.known() if p != name and _is_paired(p, name)]
    if not paired:
        raise InputError(f"no probe set is paired with {name}; give --image or --data")
    probe = next((p for p in paired if p.shift == "internet"), paired[-1])
    partners = {s.pair: i for i, s in enumerate(probe.samples)}
    chosen: dict[int, int] = {}
    for i, sample in enumerate(test.samples):
        if sample.label is not None and sample.label not in chosen and sample.id in partners:
            chosen[sample.label] = i
    indices = list(chosen.values())[:n]
    return test.subset(indices), probe.subset([partners[test.samples[i].id] for i in indices])


def _is_paired(name: str, with_set: str) -> bool:
    manifest = probe_sets.Manifest.read(probe_sets.find(name) / probe_sets.MANIFEST)
    return manifest.paired_with == with_set
