"""What a shift evaluation would cost, measured on a few of its images and models; nothing is run or written."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mean
from typing import Any

import numpy as np
import torch

from gradlens.data.preprocess import to_tensor
from gradlens.data.sources import ImageSet, decoded
from gradlens.data.sources.stream import PART
from gradlens.errors import InputError
from gradlens.records import LoadedModel, Preprocess, Skipped
from gradlens.runtime import Runtime
from gradlens.shift import tables
from gradlens.shift.predict import cached, pass_size
from gradlens.workflows.measure.computed import image_sets, load_models, output_store, unlabelled_sets
from gradlens.workflows.measure.evidence import Request
from gradlens.zoo import checkpoints
from gradlens.zoo.profile import profile

SAMPLE = 48  # images of a set that are decoded to see how long that takes
PASSES = 2  # timed passes per network, after one to warm up
LISTED_BYTES = 700  # of memory for each image that is listed, with the place of its logits: an estimate


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
    """One model: how many images it must be run on, milliseconds per image in the network, and what these compute.

    Attributes:
        gflops: of one image, two per multiply-accumulate.
        logits: of one image.
    """

    name: str
    images: int
    forward_ms: float
    gflops: float
    logits: int


@dataclass(frozen=True)
class Size:
    """An evaluation of another size: so many images, each run through so many models, on so many devices like this."""

    images: int
    models: int
    devices: int


@dataclass(frozen=True)
class Extrapolated:
    """What that would cost if every image and model were like those measured.

    Attributes:
        reading_seconds, running_seconds: of decoding and preparing, and of the networks, on each device.
        seconds: of both together on each device, as in :class:`Plan`.
        device_hours: of all devices.
        exaflops: 10¹⁸ floating-point operations in all.
        disk_gb: of the predictions, in the cache and again in the run's folder; of a stream, of its counts.
        assumptions: sentences.
    """

    size: Size
    reading_seconds: float
    running_seconds: float
    seconds: float
    device_hours: float
    exaflops: float
    disk_gb: float
    assumptions: tuple[str, ...]

    def text(self) -> str:
        """As a person reads it."""
        s = self.size
        return (
            f"{s.images:,} images × {s.models} models on {s.devices} devices like this one: {duration(self.seconds)} "
            f"on each ({duration(self.reading_seconds)} to decode, {duration(self.running_seconds)} in the networks), "
            f"{self.device_hours:,.1f} device hours, {self.exaflops:.3g} · 10¹⁸ FLOPs, {self.disk_gb:,.1f} GB of disk. "
            "If:\n" + "\n".join(f"- {a}" for a in self.assumptions)
        )


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
    other: Extrapolated | None = None

    def document(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {
            "plan": {"seconds": self.seconds, "disk_mb": self.disk_mb, "flops": self.flops},
            "extrapolated": None if self.other is None else asdict(self.other),
            "models": [asdict(m) for m in self.models],
            "probe_sets": [asdict(s) for s in self.sets],
        }

    @property
    def flops(self) -> float:
        """Floating-point operations of all networks."""
        return sum(m.images * m.gflops for m in self.models) * 1e9

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
                Column(("network", "GFLOPs/image"), tuple(f"{m.gflops:.3f}" for m in self.models)),
                Column(("network", "ms/image"), tuple(f"{m.forward_ms:.2f}" for m in self.models)),
                Column(("network", "seconds"), tuple(f"{m.images * m.forward_ms / 1000:.1f}" for m in self.models)),
            ],
            120,
        )
        return (
            f"{sets}\n\n{models}\n\nAbout {self.seconds:.0f} s of decoding and networks and {self.disk_mb:.1f} MB of "
            "predictions, twice (cache and run folder);\nscoring and drawing come on top. "
            "Images whose predictions are in the cache are not run again."
            + (f"\n\n{self.other.text()}" if self.other is not None else "")
        )


def duration(seconds: float) -> str:
    """Seconds as people say them: ``41 s``, ``3.2 h``, ``11.6 days``."""
    for unit, length in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.2g} s"


def plan(
    request: Request,
    runtime: Runtime,
    images: int | None = None,
    models: int | None = None,
    devices: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Plan:
    """Measure what :func:`~gradlens.workflows.measure.shift_eval` with this request would cost.

    Args:
        request: the evaluation.
        runtime: where.
        images, models, devices: of an evaluation of another size, which is extrapolated to; where one is not given it
            is the request's own, and one device.
        clock: in seconds; that of the wall, or ``time.process_time`` where other work on the machine should not count.

    Raises:
        GradlensError: as the evaluation itself.
    """
    if request.predictions:
        raise InputError("--plan says what running models costs; with --predictions none is run")
    names = checkpoints.expand(request.models or ("all",), request.zoo)
    in_dist, probes = image_sets(request, names, runtime)
    loaded = load_models(request, names, runtime)
    sets = [in_dist, *probes]
    sets += unlabelled_sets(request, [s.name for s in sets], runtime)
    store = output_store(request)
    missing = {
        (m.name, s.name): len(s) if request.fresh else len(s) - cached(m, s, runtime, store)
        for s in sets
        for m in loaded
    }
    preprocesses = list(dict.fromkeys(m.preprocess for m in loaded))
    set_costs = tuple(
        _of_set(s, max(missing[m.name, s.name] for m in loaded), preprocesses, runtime, clock)
        for s in runtime.progress(sets, "measuring sets", unit="set")
    )
    model_costs = tuple(
        ModelCost(
            m.name,
            sum(missing[m.name, s.name] for s in sets),
            _forward_ms(m, runtime, clock),
            profile(m.module, m.preprocess.input_size).flops / 1e9,
            len(m.classes),
        )
        for m in runtime.progress(loaded, "measuring models", unit="model")
    )
    reading = sum(s.to_decode * (s.decode_ms + s.prepare_ms) for s in set_costs) / 1000
    running = sum(m.images * m.forward_ms for m in model_costs) / 1000
    # threads decode while an accelerator computes; on a CPU both want the same cores
    seconds = reading + running if runtime.torch_device().type == "cpu" else max(reading, running)
    logits = sum(4 * len(m.classes) * len(s) for m in loaded for s in sets)
    planned = Plan(set_costs, model_costs, seconds, logits / 2**20)
    if images is None and models is None and devices is None:
        return planned
    size = Size(images or sum(s.images for s in set_costs), models or len(model_costs), devices or 1)
    return replace(planned, other=_extrapolated(planned, size, request, runtime))


def _extrapolated(planned: Plan, size: Size, request: Request, runtime: Runtime) -> Extrapolated:
    """Linear in everything: what an image costs here, times what each device would have of them."""
    listed = sum(s.images for s in planned.sets)
    read_ms = sum(s.images * (s.decode_ms + s.prepare_ms) for s in planned.sets) / listed
    run_ms = mean(m.forward_ms for m in planned.models)
    each = size.images / size.devices
    reading, running = each * read_ms / 1000, each * size.models * run_ms / 1000
    on_cpu = runtime.torch_device().type == "cpu"
    seconds = reading + running if on_cpu else max(reading, running)
    logits = mean(m.logits for m in planned.models)
    # of a stream: one float sum and one sum of squares of 19 columns for each part of each model, as text
    kept = 2 * 4 * logits * size.images if not request.stream else size.images / PART * 2 * 19 * 20
    assumptions = (
        f"images are like the {min(listed, SAMPLE * len(planned.sets))} that were read here "
        f"({read_ms:.2f} ms each to decode and prepare, once for all models)",
        f"models are like these {len(planned.models)} on average ({run_ms:.2f} ms and "
        f"{mean(m.gflops for m in planned.models):.3g} GFLOPs an image, {logits:,.0f} logits)",
        "each device has a machine's share of cores as here, busy as now, and the storage feeds all of them at once",
        "networks and decoding take turns" if on_cpu else "decoding is hidden behind the networks, or they behind it",
        "start-up, listing, scoring and figures come on top; "
        + ("counts take no memory to speak of" if request.stream else
           f"listing takes about {size.images * LISTED_BYTES / 2**30:,.1f} GiB in each process (--stream: none)"),
    )  # fmt: skip
    return Extrapolated(
        size, reading, running, seconds, seconds * size.devices / 3600,
        size.images * size.models * mean(m.gflops for m in planned.models) / 1e9,
        kept * size.models / 1e9, assumptions,
    )  # fmt: skip


def _of_set(
    image_set: ImageSet,
    to_decode: int,
    preprocesses: Sequence[Preprocess],
    runtime: Runtime,
    clock: Callable[[], float],
) -> SetCost:
    chosen = np.unique(np.linspace(0, len(image_set) - 1, min(SAMPLE, len(image_set))).astype(int))
    started = clock()
    images = [image for _, image in decoded(image_set.subset(chosen), runtime.workers)]
    decode_ms = 1000 * (clock() - started) / len(chosen)
    readable = [image for image in images if not isinstance(image, Skipped)]
    started = clock()
    for image in readable:
        for preprocess in preprocesses:
            to_tensor(preprocess, image)
    prepare_ms = 1000 * (clock() - started) / max(1, len(readable))
    return SetCost(image_set.name, len(image_set), to_decode, decode_ms, prepare_ms)


def _forward_ms(model: LoadedModel, runtime: Runtime, clock: Callable[[], float]) -> float:
    device, size = runtime.torch_device(), pass_size(runtime)
    module = model.module.to(device)
    images = torch.zeros(size, *model.preprocess.input_size, device=device)
    try:
        with torch.no_grad(), runtime.autocast():
            module(images)
            _wait(device)
            started = clock()
            for _ in range(PASSES):
                module(images)
            _wait(device)
    finally:
        module.to("cpu")
    return 1000 * (clock() - started) / (PASSES * size)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
