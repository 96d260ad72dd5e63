"""What a shift evaluation would cost, measured on a few of its images and models; nothing is run or written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from gradlens.data.preprocess import to_tensor
from gradlens.data.sources import ImageSet, decoded
from gradlens.errors import InputError
from gradlens.records import LoadedModel, Preprocess, Skipped
from gradlens.runtime import Runtime
from gradlens.shift import tables
from gradlens.shift.predict import cached, pass_size
from gradlens.workflows.measure.computed import image_sets, load_models, output_store, unlabelled_sets
from gradlens.workflows.measure.evidence import Request
from gradlens.zoo import checkpoints

SAMPLE = 48  # images of a set that are decoded to see how long that takes
PASSES = 2  # timed passes per network, after one to warm up


@dataclass(frozen=True)
class SetCost:
    """One image set: how many images, how many must be decoded, milliseconds to decode and prepare one."""

    name: str
    images: int
    to_decode: int
    decode_ms: float
    prepare_ms: float


@dataclass(frozen=True)
class ModelCost:
    """One model: how many images it must be run on, milliseconds per image in the network."""

    name: str
    images: int
    forward_ms: float


@dataclass(frozen=True)
class Plan:
    """The cost of an evaluation.

    Attributes:
        seconds: expected wall time of decoding and of the networks; scoring and drawing come on top.
        disk_mb: of the predictions it would leave, in the cache and again in the run's folder, uncompressed.
    """

    sets: tuple[SetCost, ...]
    models: tuple[ModelCost, ...]
    seconds: float
    disk_mb: float

    def document(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {
            "plan": {"seconds": self.seconds, "disk_mb": self.disk_mb},
            "models": [asdict(m) for m in self.models],
            "probe_sets": [asdict(s) for s in self.sets],
        }

    def text(self) -> str:
        """As a person reads it."""
        Column = tables.Column
        sets = tables.text_table(
            [
                Column(("image set",), tuple(s.name for s in self.sets), right=False),
                Column(("images",), tuple(f"{s.images:,}" for s in self.sets)),
                Column(("to decode",), tuple(f"{s.to_decode:,}" for s in self.sets)),
                Column(("decode", "ms/image"), tuple(f"{s.decode_ms:.2f}" for s in self.sets)),
                Column(("prepare", "ms/image"), tuple(f"{s.prepare_ms:.2f}" for s in self.sets)),
            ],
            120,
        )
        models = tables.text_table(
            [
                Column(("model",), tuple(m.name for m in self.models), right=False),
                Column(("images to run",), tuple(f"{m.images:,}" for m in self.models)),
                Column(("network", "ms/image"), tuple(f"{m.forward_ms:.2f}" for m in self.models)),
                Column(("network", "seconds"), tuple(f"{m.images * m.forward_ms / 1000:.1f}" for m in self.models)),
            ],
            120,
        )
        return (
            f"{sets}\n\n{models}\n\nAbout {self.seconds:.0f} s of decoding and networks and {self.disk_mb:.1f} MB of "
            "predictions, twice (cache and run folder);\nscoring and drawing come on top. "
            "Images whose predictions are in the cache are not run again."
        )


def plan(request: Request, runtime: Runtime) -> Plan:
    """Measure what :func:`~gradlens.workflows.measure.shift_eval` with this request would cost.

    Raises:
        GradlensError: as the evaluation itself.
    """
    if request.predictions:
        raise InputError("--plan says what running models costs; with --predictions none is run")
    names = checkpoints.expand(request.models or ("all",), request.zoo)
    in_dist, probes = image_sets(request, names, runtime)
    models = load_models(request, names, runtime)
    sets = [in_dist, *probes]
    sets += unlabelled_sets(request, [s.name for s in sets], runtime)
    store = output_store(request)
    missing = {
        (m.name, s.name): len(s) if request.fresh else len(s) - cached(m, s, runtime, store)
        for s in sets
        for m in models
    }
    preprocesses = list(dict.fromkeys(m.preprocess for m in models))
    set_costs = tuple(
        _of_set(s, max(missing[m.name, s.name] for m in models), preprocesses, runtime)
        for s in runtime.progress(sets, "measuring sets", unit="set")
    )
    model_costs = tuple(
        ModelCost(m.name, sum(missing[m.name, s.name] for s in sets), _forward_ms(m, runtime))
        for m in runtime.progress(models, "measuring models", unit="model")
    )
    reading = sum(s.to_decode * (s.decode_ms + s.prepare_ms) for s in set_costs) / 1000
    running = sum(m.images * m.forward_ms for m in model_costs) / 1000
    # threads decode while an accelerator computes; on a CPU both want the same cores
    seconds = reading + running if runtime.torch_device().type == "cpu" else max(reading, running)
    logits = sum(4 * len(m.classes) * len(s) for m in models for s in sets)
    return Plan(set_costs, model_costs, seconds, logits / 2**20)


def _of_set(image_set: ImageSet, to_decode: int, preprocesses: Sequence[Preprocess], runtime: Runtime) -> SetCost:
    chosen = np.unique(np.linspace(0, len(image_set) - 1, min(SAMPLE, len(image_set))).astype(int))
    started = time.perf_counter()
    images = [image for _, image in decoded(image_set.subset(chosen), runtime.workers)]
    decode_ms = 1000 * (time.perf_counter() - started) / len(chosen)
    readable = [image for image in images if not isinstance(image, Skipped)]
    started = time.perf_counter()
    for image in readable:
        for preprocess in preprocesses:
            to_tensor(preprocess, image)
    prepare_ms = 1000 * (time.perf_counter() - started) / max(1, len(readable))
    return SetCost(image_set.name, len(image_set), to_decode, decode_ms, prepare_ms)


def _forward_ms(model: LoadedModel, runtime: Runtime) -> float:
    device, size = runtime.torch_device(), pass_size(runtime)
    module = model.module.to(device)
    images = torch.zeros(size, *model.preprocess.input_size, device=device)
    try:
        with torch.no_grad(), runtime.autocast():
            module(images)
            _wait(device)
            started = time.perf_counter()
            for _ in range(PASSES):
                module(images)
            _wait(device)
    finally:
        module.to("cpu")
    return 1000 * (time.perf_counter() - started) / (PASSES * size)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
