"""Models that are loaded when they are first needed and leave when others need their room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from gradlens.depths.find import Depths
from gradlens.records import HookPoint, LoadedModel
from gradlens.runtime import Runtime
from gradlens.workflows.see import depths_of
from gradlens.zoo import checkpoints


@dataclass(frozen=True, eq=False)
class Held:
    """A model in memory.

    Attributes:
        model: on the run's device.
        depths, points: its depths, and those that maps are made at (all that passed their check).
        size: bytes of its parameters and buffers.
    """

    model: LoadedModel
    depths: Depths
    points: tuple[HookPoint, ...]
    size: int


class Pool:
    """Models by name, one user at a time each.

    A model is loaded by the first who needs it. Where the weights of all that are loaded then exceed the budget, those
    leave that were not used for longest; the one in use stays, also when it exceeds the budget alone. What a pass
    allocates on top of the weights is not counted.

    Args:
        names: of the models there are.
        runtime: device and precision.
        budget: bytes.
        zoo, weights, classes: see :func:`gradlens.zoo.checkpoints.load`.
    """

    def __init__(
        self,
        names: Sequence[str],
        runtime: Runtime,
        budget: int,
        *,
        zoo: Path | None = None,
        weights: str | None = None,
        classes: int | None = None,
    ) -> None:
        self.runtime, self.budget = runtime, budget
        self._zoo, self._weights, self._classes = zoo, weights, classes
        # hooks sit on modules, so a model serves one thread at a time; its lock outlives it in memory
        self._locks = {name: threading.Lock() for name in names}
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._guard = threading.Lock()
        self._loading = threading.Lock()  # building a network seeds generators of the whole process

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
        """Bytes of the weights of all that are loaded."""
        with self._guard:
            return sum(held.size for held in self._held.values())

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

    def _load(self, name: str) -> Held:
        with self._loading:
            model = checkpoints.load(
                name, zoo=self._zoo, weights=self._weights, classes=self._classes, offline=self.runtime.offline
            )
            depths = depths_of(model, self.runtime)
        tensors = [*model.module.parameters(), *model.module.buffers()]
        held = Held(model, depths, depths.select(("all",)), sum(t.nbytes for t in tensors))
        with self._guard:
            self._held[name] = held
            while len(self._held) > 1 and sum(h.size for h in self._held.values()) > self.budget:
                self._held.popitem(last=False)
        if self.runtime.torch_device().type == "cuda":
            torch.cuda.empty_cache()
        return held
