"""Is this picture like those the models were tested on? A score of unfamiliarity, placed among those of the test set.

Per model the in-distribution set is run once: the features of its deepest depth and its logits are kept on disk. A
picture's score is then compared with the scores of those images, each of which was scored by what had been learned
without it (:func:`gradlens.shift.ood.cross_fit`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from gradlens.app.looking import Look, deepest
from gradlens.app.pool import Held, Pool
from gradlens.app.settings import BATCH
from gradlens.data import probe_sets
from gradlens.data.preprocess import to_tensor
from gradlens.data.sources import ImageSet, decoded, open_source
from gradlens.errors import GradlensError, InputError
from gradlens.records import Skipped
from gradlens.runtime import cache_dir, whole_file
from gradlens.shift import ood
from gradlens.shift.predict import about
from gradlens.shift.store import key_of
from gradlens.workflows.measure.features import pooled_pass

DISTANCE, DOUBT = "mahalanobis", "energy"
"""What warns, of the features; and what is told beside it, of the outputs."""

MOST_IMAGES = 1000  # of the in-distribution set; one in a hundred of them is ten images
POLL = 0.5  # seconds between two looks at how far somebody else's work is
UNLIKE, UNUSUAL = 0.01, 0.05

Verdict = Literal["unlike", "unusual", "alike"]


@dataclass(frozen=True, eq=False)
class Reference:
    """What a model gave for in-distribution images.

    Attributes:
        source: name of the set.
        weights: sha256 of the model's weights.
        depth: name of the depth the features are of.
        features: (n, C) float32.
        logits: (n, K) float32.
        labels: (n,) classes of the images; -1 where unlabelled.
    """

    source: str
    weights: str
    depth: str
    features: np.ndarray
    logits: np.ndarray
    labels: np.ndarray

    def save(self, path: Path) -> None:
        """Write it as an ``.npz`` without objects."""
        facts = json.dumps({"source": self.source, "weights": self.weights, "depth": self.depth})
        with whole_file(path) as file:
            np.savez(file, facts=facts, features=self.features, logits=self.logits, labels=self.labels)

    @classmethod
    def load(cls, path: Path) -> Reference:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: it is missing, or something else.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                facts = json.loads(str(arrays["facts"]))
                return cls(**facts, **{name: arrays[name] for name in ("features", "logits", "labels")})
        except FileNotFoundError:
            raise InputError(f"{path} is missing") from None
        except Exception as err:  # damaged archives raise whatever their bytes lead to
            raise InputError(
                f"{path}: expected what gradlens app keeps of a test set, got something else: {err}"
            ) from err

    @cached_property
    def _distances(self) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
        """Scores of the in-distribution images, and a function that scores others.

        Any of the five fits will do for a picture that none of them was learned from; one is kept.

        Raises:
            InputError: too few images.
        """
        # an unlabelled set has one class: the distance is then that from its mean
        crossed = ood.cross_fit(DISTANCE, self.features, self.labels)
        return crossed.in_dist, crossed.fits[0]

    def check(self) -> None:
        """Learn from it now.

        Raises:
            InputError: too few images.
        """
        _ = self._distances

    @cached_property
    def _doubts(self) -> np.ndarray:
        return ood.scored(DOUBT, self.logits)

    def familiarity(self, look: Look) -> Familiarity:
        """Where a picture stands among the in-distribution images."""
        distances, distance_of = self._distances
        distance = float(distance_of(look.features[None].astype(np.float64))[0])
        doubt = float(ood.scored(DOUBT, look.logits[None])[0])
        n = len(self.features)
        return Familiarity(
            model=look.model,
            source=self.source,
            n=n,
            share=_share_at_least(distances, distance),
            doubt_share=_share_at_least(self._doubts, doubt),
        )


def _share_at_least(known: np.ndarray, value: float) -> float:
    """(1 + images that score at least as high) / (n + 1): never zero, because n images cannot tell that."""
    return float((1 + (known >= value).sum()) / (len(known) + 1))


@dataclass(frozen=True)
class Familiarity:
    """Where a picture stands among in-distribution images, as one model sees them.

    Attributes:
        model, source: the model and the set.
        n: images of that set.
        share: of those images, this picture counted, that are at least as far from what the model learnt to expect
            (features of its deepest depth), in (0, 1].
        doubt_share: of those images, this picture counted, whose outputs are at least as hesitant, in (0, 1].
    """

    model: str
    source: str
    n: int
    share: float
    doubt_share: float

    @property
    def verdict(self) -> Verdict:
        """``unlike`` where at most 1 % of the in-distribution images are as far, ``unusual`` up to 5 %."""
        return "unlike" if self.share <= UNLIKE else "unusual" if self.share <= UNUSUAL else "alike"

    @property
    def percentile(self) -> float:
        """Share of the in-distribution images that are more familiar than the picture, in [0, 1)."""
        return 1 - self.share


class References:
    """In-distribution references of the pool's models, made when they are first asked for.

    Args:
        pool: the models.
        source: SOURCE of the in-distribution set; what a model's card names if ``None``.
        folder: references that were brought along (``<model>.npz``, ``/`` as ``--``); they are looked for first.
    """

    def __init__(self, pool: Pool, source: str | None = None, folder: Path | None = None) -> None:
        self.pool, self.source, self.folder = pool, source, folder
        self._made: dict[str, Reference | str] = {}
        self._sets: dict[str, ImageSet] = {}
        self._guard = threading.Lock()
        self._now = (0.0, "")

    def of(self, name: str, progress: Callable[[float, str], None] | None = None) -> Reference | str:
        """The reference of a model, or why there is none.

        Args:
            name: of the model.
            progress: told the share that is done and what is being done, where it takes time.
        """
        told = progress or (lambda share, what: None)

        def told_to_all(share: float, what: str) -> None:
            self._now = share, what
            told(share, what)

        while not self._guard.acquire(timeout=POLL):  # one at a time: the second who asks for the same finds it
            told(*self._now)
        try:
            if name not in self._made:
                try:
                    self._made[name] = found = self._find(name, told_to_all)
                    found.check()
                except GradlensError as err:
                    self._made[name] = str(err)
            return self._made[name]
        finally:
            self._guard.release()

    def _find(self, name: str, progress: Callable[[float, str], None]) -> Reference:
        with self.pool.use(name) as held:
            if self.folder is not None and (path := self.folder / file_name(name)).is_file():
                return _fitting(Reference.load(path), held, path)
        images = self._images(held, progress)
        identity = {**about(held.model, images, self.pool.runtime), "depth": deepest(held).name, "images": len(images)}
        path = cache_dir() / "app" / f"{key_of(identity)}.npz"
        if path.is_file():
            try:
                return _fitting(Reference.load(path), held, path)
            except InputError:  # a cache is made again where it cannot be read
                pass
        made = _measured(name, images, self.pool, progress)
        made.save(path)
        return made

    def _images(self, held: Held, progress: Callable[[float, str], None]) -> ImageSet:
        source = self.source or str(held.model.card.get("test", ""))
        if not source:
            raise InputError("its card names no test set; start the app with --in-dist SOURCE")
        if self.source is None and source not in probe_sets.known():
            raise InputError(f"its test set, {source}, is not at hand; start the app with --in-dist SOURCE")
        if source not in self._sets:
            progress(0.0, f"preparing {source}")
            whole = open_source(source, offline=self.pool.runtime.offline, runtime=self.pool.runtime)
            n = min(MOST_IMAGES, len(whole))
            self._sets[source] = whole.subset(np.linspace(0, len(whole) - 1, n).round().astype(int))
        return self._sets[source]


def file_name(model: str) -> str:
    """How a model's reference is called in a folder of references."""
    return model.replace("/", "--").replace(":", "-") + ".npz"


def _fitting(reference: Reference, held: Held, path: Path) -> Reference:
    if (reference.weights, reference.depth) != (held.model.weights, deepest(held).name):
        raise InputError(f"{path} was made with other weights of {held.model.name}; make it again")
    return reference


def _measured(name: str, images: ImageSet, pool: Pool, progress: Callable[[float, str], None]) -> Reference:
    runtime = pool.runtime
    device = runtime.torch_device()
    features: list[np.ndarray] = []
    logits: list[np.ndarray] = []
    labels: list[int] = []
    batch: list[np.ndarray] = []

    def run() -> None:
        pool.give_way()
        with pool.use(name) as held:  # batch by batch, so that somebody's picture need not wait for all of them
            inputs = torch.stack([to_tensor(held.model.preprocess, pixels) for pixels in batch])
            (vectors,), outputs = pooled_pass(held.model, [deepest(held)], inputs.to(device), runtime)
        features.append(vectors)
        logits.append(outputs)
        batch.clear()
        progress(len(labels) / len(images), f"{name} on {images.name}")

    for i, pixels in decoded(images, runtime.workers):
        if isinstance(pixels, Skipped):
            continue  # an image that cannot be read is no reference for anything
        labels.append(int(images.labels[i]))
        batch.append(pixels)
        if len(batch) == BATCH:
            run()
    if batch:
        run()
    if not features:
        raise InputError(f"{images.name} has no readable image")
    with pool.use(name) as held:
        weights, depth = held.model.weights, deepest(held).name
    return Reference(
        images.name, weights, depth, np.concatenate(features), np.concatenate(logits), np.array(labels, np.int64)
    )


def overall(found: Sequence[Familiarity]) -> Verdict:
    """What most models say: the verdict that at least half of them reach or exceed, from ``unlike`` down."""
    if sum(2 for f in found if f.verdict == "unlike") >= max(1, len(found)):
        return "unlike"
    return "unusual" if sum(2 for f in found if f.verdict != "alike") >= max(1, len(found)) else "alike"
