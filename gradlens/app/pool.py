"""Models that are loaded when they are first needed and leave when others need their room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from gradlens.app.settings import BATCH
from gradlens.cam.engine import explain
from gradlens.depths.find import Depths
from gradlens.errors import GradlensError
from gradlens.records import HookPoint, LoadedModel
from gradlens.runtime import Runtime
from gradlens.workflows.see import depths_of
from gradlens.zoo import checkpoints
from gradlens.zoo.profile import Alive

PATIENCE = 1.0  # seconds that work without a reader waits for a pause between passes that somebody does wait for


@dataclass(frozen=True, eq=False)
class Held:
    """A model in memory.

    Attributes:
        model: on the run's device.
        depths, points: its depths, and those that maps are made at (all that passed their check).
        size: bytes of its parameters and buffers.
        look_size: bytes of tensors that are alive at once, at most, while one picture is explained at all depths.
        batch_size: the same of a forward pass of in-distribution images, :data:`gradlens.app.settings.BATCH` of them.
    """

    model: LoadedModel
    depths: Depths
    points: tuple[HookPoint, ...]
    size: int
    look_size: int
    batch_size: int


class Pool:
    """Models by name, one user at a time each.

    A model is loaded by the first who needs it. Where :attr:`size` then exceeds the budget, those leave that were not
    used for longest; the one in use stays, also when it exceeds the budget alone.

    Args:
        names: of the models there are.
        runtime: device and precision.
        budget: bytes.
        at_once: pictures that are looked at at once, at most.
        zoo, weights, classes: see :func:`gradlens.zoo.checkpoints.load`.
    """

    def __init__(
        self,
        names: Sequence[str],
        runtime: Runtime,
        budget: int,
        *,
        at_once: int = 1,
        zoo: Path | None = None,
        weights: str | None = None,
        classes: int | None = None,
    ) -> None:
        self.runtime, self.budget, self.at_once = runtime, budget, at_once
        self._zoo, self._weights, self._classes = zoo, weights, classes
        # hooks sit on modules, so a model serves one thread at a time; its lock outlives it in memory
        self._locks = {name: threading.Lock() for name in names}
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._guard = threading.Lock()
        self._loading = threading.Lock()  # building a network seeds generators of the whole process
        self._pause = threading.Condition()
        self._awaited = 0  # passes that somebody waits for
        self._closed = False

    @property
    def names(self) -> list[str]:
        return list(self._locks)

    @property
    def loaded(self) -> list[str]:
        """Those in memory, the least recently used first."""
        with self._guard:
            return list(self._held)

    @property
    def size(self) -> int:
        """Bytes of the weights of all that are loaded, and of the largest passes that may run at once: as many looks
        as are allowed, and one batch of in-distribution images.
        """
        with self._guard:
            return self._size()

    def _size(self) -> int:
        held = self._held.values()
        weights = sum(h.size for h in held)
        return (
            weights
            + self.at_once * max((h.look_size for h in held), default=0)
            + max((h.batch_size for h in held), default=0)
        )

    @contextmanager
    def use(self, name: str) -> Iterator[Held]:
        """The model, for this thread alone until the block ends.

        Raises:
            GradlensError: it cannot be loaded.
        """
        with self._locks[name]:
            with self._guard:
                held = self._held.get(name)
                if held is not None:
                    self._held.move_to_end(name)
            yield held or self._load(name)

    def prepare(self, name: str) -> None:
        """Load a model, so that the first who needs it does not wait for that.

        Raises:
            GradlensError: it cannot be loaded.
        """
        with self.use(name):
            pass

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Somebody waits for what the block does: :meth:`give_way` holds other work back."""
        with self._pause:
            self._awaited += 1
        try:
            yield
        finally:
            with self._pause:
                self._awaited -= 1
                self._pause.notify_all()

    def give_way(self) -> None:
        """Wait a little for a pause between passes that somebody waits for.

        Raises:
            GradlensError: the pool was closed, so that nobody needs what would come.
        """
        with self._pause:
            self._pause.wait_for(lambda: self._closed or not self._awaited, PATIENCE)
            if self._closed:
                raise GradlensError("the app has ended")

    def close(self) -> None:
        """End the work that gives way."""
        with self._pause:
            self._closed = True
            self._pause.notify_all()

    def _load(self, name: str) -> Held:
        with self._loading:
            model = checkpoints.load(
                name, zoo=self._zoo, weights=self._weights, classes=self._classes, offline=self.runtime.offline
            )
            depths = depths_of(model, self.runtime)
        tensors = [*model.module.parameters(), *model.module.buffers()]
        held = Held(
            model, depths, depths.select(("all",)), sum(t.nbytes for t in tensors), *self._passes(model, depths)
        )
        with self._guard:
            self._held[name] = held
            while len(self._held) > 1 and self._size() > self.budget:
                self._held.popitem(last=False)
        if self.runtime.torch_device().type == "cuda":
            torch.cuda.empty_cache()
        return held

    def _passes(self, model: LoadedModel, depths: Depths) -> tuple[int, int]:
        images = torch.zeros(BATCH, *model.preprocess.input_size, device=self.runtime.torch_device())
        given = [images, *model.module.parameters(), *model.module.buffers()]
        with self.runtime.autocast():
            with Alive(given) as look, suppress(GradlensError):  # who looks is told why not
                explain(model.module, images[:1], layers="all", depths=depths)
            with Alive(given) as batch, torch.inference_mode():
                model.module(images.clone())
        return look.peak, batch.peak
