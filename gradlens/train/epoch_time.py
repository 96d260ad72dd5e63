"""How long an epoch takes, from a few steps of the training loop itself."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradlens.errors import TrainingError
from gradlens.runtime import Runtime
from gradlens.train import loop
from gradlens.train.images import Images
from gradlens.train.settings import Data, Optimiser, Phase, Recipe, Schedule
from gradlens.zoo.timing import growth

_WARM_UP = 2  # steps: the first ones allocate the optimiser's state and the gradients


@dataclass(frozen=True)
class EpochTime:
    """What training costs on this machine.

    Attributes:
        step_ms: median of the timed steps: normalising the batch, forward pass, backward pass, AdamW's step.
        steps: that were timed, after a warm-up of two.
        batch_size: images per step.
        images: of the epoch that ``minutes`` is of.
        peak_mb: weights and what training allocates on top at most (gradients, AdamW's state, activations, images), in
            10^6 bytes; ``None`` where it cannot be measured.
    """

    step_ms: float
    steps: int
    batch_size: int
    images: int
    peak_mb: float | None

    @property
    def minutes(self) -> float:
        """Of an epoch, extrapolated: whole batches times ``step_ms``. Decoding of image files and the pass over
        selection images come on top."""
        return self.images // self.batch_size * self.step_ms / 60_000


def epoch_time(
    module: nn.Module,
    input_size: tuple[int, int, int],
    num_classes: int,
    runtime: Runtime,
    *,
    images: int,
    batch_size: int = 32,
    steps: int = 5,
    train: Sequence[str] = ("all",),
    channels_last: bool = False,
) -> EpochTime:
    """Train ``module`` for a few steps on noise, and extrapolate.

    Args:
        module: its weights change, and it is left on the device.
        input_size: (3, S, S).
        num_classes: K, its outputs.
        runtime: device and precision.
        images: of the epoch.
        batch_size: images per step.
        steps: that are timed.
        train: what learns, as in :class:`gradlens.train.settings.Phase`.
        channels_last: memory layout.

    Raises:
        TrainingError: the input is not square, or an epoch is less than one batch; or the loop's own.
    """
    if input_size[1] != input_size[2]:
        raise TrainingError(f"training takes square images, this network takes {input_size[1]}×{input_size[2]}")
    if images < batch_size:
        raise TrainingError(f"an epoch of {images} images is less than one batch of {batch_size}")
    every = steps + _WARM_UP
    generator = torch.Generator().manual_seed(runtime.seed)
    pixels = torch.randint(256, (every * batch_size, *input_size), dtype=torch.uint8, generator=generator)
    noise = Images(pixels, torch.arange(len(pixels)) % num_classes)
    recipe = Recipe(
        recipe="bench", title="Noise", collection="bench", model=type(module).__name__, builder="",
        data=Data(train="noise", select="noise"), input_size=input_size[1], mean=(0.5,) * 3, std=(0.25,) * 3,
        epochs=1, batch_size=batch_size, precision=runtime.precision, channels_last=channels_last, seed=runtime.seed,
        optimiser=Optimiser(lr=1e-6), schedule=Schedule(name="constant", warmup=0),  # noise teaches nothing
        phases=(Phase(epochs=1, train=tuple(train)),),
    )  # fmt: skip
    device = runtime.torch_device()
    module.to(device)
    ends: list[float] = []

    def step_done(_: Mapping[str, Any]) -> None:
        ends.append(time.perf_counter())
        if len(ends) == every:
            raise _Enough  # neither the selection images nor the state file belong to a step

    weights = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
    quiet = Runtime(runtime.device, runtime.precision, seed=runtime.seed, quiet=True)
    place = tempfile.TemporaryDirectory(prefix="gradlens-")
    with growth(device) as grown, place as folder, contextlib.suppress(_Enough):
        loop.train(module, recipe, noise, noise, Path(folder), quiet, on_step=step_done)
    took = [end - start for start, end in zip(ends[_WARM_UP - 1 :], ends[_WARM_UP:], strict=False)]
    peak = None if grown.bytes is None else (weights + grown.bytes) / 1e6
    return EpochTime(statistics.median(took) * 1e3, len(took), batch_size, images, peak)


class _Enough(Exception):
    """As many steps as were asked for."""
