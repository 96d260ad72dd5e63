"""One picture through one model: what it is taken for, and maps at all depths from one pass, kept for the next look."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gradlens.app.pool import Held, Pool
from gradlens.app.settings import MOST_PIXELS
from gradlens.cam.engine import explain
from gradlens.cam.methods import METHODS, Method
from gradlens.data.decode import decode, opened
from gradlens.data.preprocess import to_tensor, view
from gradlens.errors import DepthError, InputError, ModelError
from gradlens.figures.cam_grid import tile
from gradlens.records import CamStack, HookPoint
from gradlens.workflows.measure.features import pooled_pass

ROOM = 256_000_000  # bytes of maps and views that are kept


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture somebody gave.

    Attributes:
        pixels: uint8 (H, W, 3), RGB, upright.
        key: a hash of its pixels, and of what was done to them.
    """

    pixels: np.ndarray
    key: str


def read_photo(path: str | Path, name: str = "", most_pixels: int = MOST_PIXELS) -> Photo:
    """An uploaded file, decoded as everywhere in gradlens (EXIF orientation, alpha over white, first frame).

    Args:
        path: the file.
        name: what messages call it; its file name if empty.
        most_pixels: no larger picture is decoded.

    Raises:
        InputError: it is no image, damaged, or too large.
    """
    path = Path(path)
    name = name or path.name
    with opened(path, name) as header:
        width, height = header.size
    if width * height > most_pixels:
        raise InputError(
            f"{name}: expected at most {most_pixels / 1e6:.0f} million pixels, got {width} × {height}; "
            "make a smaller copy"
        )
    pixels = decode(path, name)
    return Photo(pixels, hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest())


@dataclass(frozen=True, eq=False)
class Look:
    """What one model made of one picture.

    Attributes:
        model: its name.
        classes: K names, in the order of the probabilities.
        probabilities: (K,) float64.
        logits: (K,) float32.
        features: (C,) float32: the mean over the grid of its deepest depth's output.
        stack: maps of one method at all its depths.
        view: uint8 (h, w, 3): the part of the picture that it saw, at the size of a card.
        seen: (height, width) of its input in pixels.
        forward_ms: one forward pass, with its network warm; maps_ms: the pass that gave all maps.
        device: where they ran.
    """

    model: str
    classes: tuple[str, ...]
    probabilities: np.ndarray
    logits: np.ndarray
    features: np.ndarray
    stack: CamStack
    view: np.ndarray
    seen: tuple[int, int]
    forward_ms: float
    maps_ms: float
    device: str

    @property
    def prediction(self) -> str:
        """The class with the largest probability."""
        return self.classes[int(self.probabilities.argmax())]

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The ``k`` most probable classes, most probable first."""
        order = np.argsort(-self.probabilities, kind="stable")[:k]
        return [(self.classes[i], float(self.probabilities[i])) for i in order]

    def at(self, position: float) -> int:
        """The number of the depth at a relative position: 0 the first, 1 the last, evenly between."""
        return round(min(max(position, 0.0), 1.0) * (len(self.stack.depths) - 1))

    @property
    def size(self) -> int:
        """Bytes of what it holds."""
        return self.view.nbytes + sum(m.nbytes for m in self.stack.maps)


def quick_methods() -> list[Method]:
    """Methods that are formulas over one captured pass; the others run a network hundreds of times."""
    return [m for m in METHODS.values() if m.needs != "model"]


class Eyes:
    """Looks of models at pictures; those of late are kept, so that another depth is only drawn.

    Args:
        pool: the models.
        room: bytes of looks that are kept.
    """

    def __init__(self, pool: Pool, room: int = ROOM) -> None:
        self.pool, self.room = pool, room
        self._kept: OrderedDict[tuple[str, str, str, str], Look] = OrderedDict()
        self._guard = threading.Lock()

    def look(self, photo: Photo, model: str, method: str = "gradcam", target: str = "") -> Look:
        """What ``model`` makes of a picture.

        Args:
            photo: the picture.
            model: its name.
            method: one of :func:`quick_methods`.
            target: the class to explain; the model's own prediction if empty.

        Raises:
            ModelError: the model does not know that class, or does not allow that method.
            GradlensError: it cannot be loaded.
        """
        key = photo.key, model, method, target
        with self._guard:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self.pool.awaited(), self.pool.use(model) as held:
            look = self._look(held, photo, method, target)
        with self._guard:
            self._kept[key] = look
            while len(self._kept) > 1 and sum(one.size for one in self._kept.values()) > self.room:
                self._kept.popitem(last=False)
        return look

    def _look(self, held: Held, photo: Photo, method: str, target: str) -> Look:
        model, runtime = held.model, self.pool.runtime
        if target and target not in model.classes:
            raise ModelError(f"has no class {target!r}")
        device = runtime.torch_device()
        images = to_tensor(model.preprocess, photo.pixels)[None].to(device)
        chosen = torch.tensor([model.classes.index(target)], device=device) if target else None
        with runtime.autocast():
            started = time.perf_counter()
            explained = explain(model.module, images, layers="all", targets=chosen, method=method, depths=held.depths)
            stack = explained.stacks(model.classes, name=model.name)[0]  # on the CPU: the pass is over
            maps_ms = 1000 * (time.perf_counter() - started)
        started = time.perf_counter()
        (features,), (logits,) = pooled_pass(model, [deepest(held)], images, runtime)
        forward_ms = 1000 * (time.perf_counter() - started)
        if not np.isfinite(logits).all():
            raise ModelError("gives outputs that are not finite for this picture")
        odds = np.exp(logits.astype(np.float64) - float(logits.max()))
        return Look(
            model=model.name,
            classes=model.classes,
            probabilities=odds / odds.sum(),
            logits=logits,
            features=features[0],
            stack=stack,
            view=tile(view(model.preprocess, photo.pixels)).copy(),
            seen=model.preprocess.size,
            forward_ms=forward_ms,
            maps_ms=maps_ms,
            device=str(device),
        )


def deepest(held: Held) -> HookPoint:
    """The depth that stands for what a model knows of a picture: the last one.

    Raises:
        DepthError: it has none.
    """
    if not held.points:
        raise DepthError(f"{held.model.name} has no depth")
    return held.points[-1]
