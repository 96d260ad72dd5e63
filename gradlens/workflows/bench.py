"""What models cost, on this machine: counted, timed, and drawn against their accuracy."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gradlens.errors import GradlensError
from gradlens.figures import style
from gradlens.figures.accuracy_cost import Point, accuracy_cost
from gradlens.records import LoadedModel
from gradlens.report import page
from gradlens.runtime import Runtime, versions, whole_file
from gradlens.shift.tables import Column, latex_table, markdown_table, with_interval, write_csv
from gradlens.train import freezing
from gradlens.train.epoch_time import EpochTime, epoch_time
from gradlens.workflows.run_folder import RunFolder
from gradlens.zoo import checkpoints
from gradlens.zoo.build import split_builder
from gradlens.zoo.cards import Card, Score
from gradlens.zoo.profile import Profile, profile
from gradlens.zoo.timing import Latency, Throughput, latency, throughput

CONVENTION = (
    "FLOPs are two per multiply-accumulate of matrix products and convolutions, of one image's forward pass; MB are a "
    "million bytes; size is parameters and buffers as they lie in memory; the memory of a pass or of training includes "
    "them"
)
COLUMNS = (
    *("model", "builder", "weights", "input_height", "input_width", "parameters", "trainable", "macs", "flops"),
    *("size_mb", "activations_mb", "latency_ms", "latency_p95_ms", "passes"),
    *("train_step_ms", "train_batch_size", "train_steps", "epoch_images", "minutes_per_epoch", "train_peak_mb"),
    *("dataset", "accuracy", "accuracy_low", "accuracy_high"),
)
THROUGHPUT = ("model", "batch_size", "images_per_second", "peak_mb", "passes")


@dataclass(frozen=True)
class Measures:
    """What is measured.

    Attributes:
        passes: timed passes of one image, and a tenth of it of each batch (three at least); 0 takes no time at all.
        batch_sizes: of the throughput.
        train: what learns: counted as trainable, and trained for the time of an epoch. As in
            :class:`gradlens.train.settings.Phase`.
        epoch_images: images of the epoch whose time is extrapolated from ``epoch_steps`` steps; 0 leaves it out.
        epoch_batch_size: images per training step.
    """

    passes: int = 100
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    train: tuple[str, ...] = ("all",)
    epoch_images: int = 0
    epoch_batch_size: int = 32
    epoch_steps: int = 5


@dataclass(frozen=True)
class Cost:
    """What one model costs, and what its card says it is worth.

    Attributes:
        name, builder, weights: see :class:`gradlens.records.LoadedModel`.
        latency, throughput, epoch: ``None`` or empty where they were not asked for.
        score: accuracy on the card's in-distribution test set.
    """

    name: str
    builder: str
    weights: str
    profile: Profile
    latency: Latency | None = None
    throughput: tuple[Throughput, ...] = ()
    epoch: EpochTime | None = None
    score: Score | None = None


@dataclass(frozen=True)
class Bench:
    """What ``gradlens bench`` found, and the files it wrote.

    Attributes:
        machine: device, its name, precision, threads.
        files: written into the run's folder; none without a folder.
    """

    costs: tuple[Cost, ...]
    machine: dict[str, Any]
    files: tuple[Path, ...] = field(default=())


def bench(
    models: Sequence[str],
    runtime: Runtime,
    measures: Measures | None = None,
    *,
    zoo: Path | None = None,
    weights: str | None = None,
    classes: int | None = None,
    out: Path | None = None,
    command: str = "gradlens bench",
) -> Bench:
    """Count and time models, one after the other. Architectures without weights are built with random ones.

    Args:
        models: names, globs, folders, architectures.
        runtime: device, precision; its batch size does not matter here.
        measures: what is measured.
        zoo: folder of checkpoints.
        weights, classes: see :func:`gradlens.zoo.checkpoints.load`.
        out: folder for tables and figures; ``bench.csv`` there grows model by model.
        command: for ``run.json``.

    Raises:
        NotFoundError: no such model.
        ModelError, CheckpointError: a model cannot be built or loaded.
        TrainingError: a training step was asked for that the model cannot do.
    """
    measures = measures or Measures()
    names = checkpoints.expand(models, zoo)

    def one(name: str) -> Cost:
        model = checkpoints.load(
            name,
            zoo=zoo,
            weights=weights or ("random" if _is_architecture(name) else None),
            classes=classes,
            offline=runtime.offline,
        )
        return cost_of(model, runtime, measures)

    work = runtime.progress(names, "measuring" if measures.passes else "counting", unit="model")
    if out is None:
        return Bench(tuple(one(name) for name in work), machine(runtime))
    costs: list[Cost] = []
    with RunFolder(out) as run:
        for name in work:
            costs.append(one(name))
            write_csv(run.file("bench.csv"), COLUMNS, [row(c) for c in costs])
            write_csv(run.file("throughput.csv"), THROUGHPUT, throughput_rows(costs))
        about = {"command": command, "verb": "bench", "versions": versions(), **machine(runtime), "seed": runtime.seed}
        _write(run, costs, about)
        told = {**about, "models": [document(c) for c in costs], "convention": CONVENTION}
        run.add(page.build(run.path, told | {"files": run.files}))
        run.finish(told)
        return Bench(tuple(costs), machine(runtime), tuple(run.path / f for f in run.files))


def cost_of(model: LoadedModel, runtime: Runtime, measures: Measures) -> Cost:
    """The costs of one model. Its module is used up: moved to the device, and trained where an epoch was asked for."""
    module, size = model.module, model.preprocess.input_size
    if measures.train != ("all",):
        freezing.choose(module, _side(size), measures.train)
    counted = profile(module, size)
    single: Latency | None = None
    batches: tuple[Throughput, ...] = ()
    epoch: EpochTime | None = None
    if measures.passes:
        # memory first: later passes leave caches behind
        some = max(3, measures.passes // 10)
        batches = tuple(throughput(module, size, runtime, n, some) for n in measures.batch_sizes)
        single = latency(module, size, runtime, measures.passes)
    if measures.epoch_images:
        epoch = epoch_time(
            module,
            size,
            len(model.classes),
            runtime,
            images=measures.epoch_images,
            batch_size=measures.epoch_batch_size,
            steps=measures.epoch_steps,
            train=measures.train,
        )
    card = Card.model_validate(model.card) if model.card else None
    score = card.score(card.test) if card is not None else None
    return Cost(model.name, model.builder, model.weights, counted, single, batches, epoch, score)


def _side(size: tuple[int, int, int]) -> int:
    if size[1] != size[2]:
        raise GradlensError(f"what learns is found on square images, this network takes {size[1]}×{size[2]}")
    return size[1]


def _is_architecture(name: str) -> bool:
    """Whether ``name`` has the form of a builder rather than that of a checkpoint."""
    try:
        split_builder(name)
    except GradlensError:
        return False
    return not Path(name).is_dir()


def machine(runtime: Runtime) -> dict[str, Any]:
    """Device, its name, precision, threads: what a time without them means nothing."""
    device = runtime.torch_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": str(device),
        "device_name": name,
        "precision": runtime.precision,
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    try:  # Python's own answer on Linux is empty or the instruction set
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


# ---------------------------------------------------------------- who is worth its cost


def efficient(costs: Sequence[float], values: Sequence[float]) -> list[bool]:
    """Who lies on the Pareto front: nobody costs no more and is worth no less, and one of the two truly.

    Args:
        costs: of each, lower is better.
        values: of each, higher is better.
    """
    pairs = list(zip(costs, values, strict=True))
    return [not any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in pairs) for cost, value in pairs]


def points(costs: Sequence[Cost]) -> dict[str, list[Point]]:
    """Test set -> one point per model and kind of cost, for the figure. Models without a score are left out."""
    found: dict[str, list[Point]] = {}
    kinds: tuple[tuple[str, Callable[[Cost], float | None]], ...] = (
        ("parameters (million)", lambda c: c.profile.parameters / 1e6),
        ("GFLOPs per image", lambda c: c.profile.flops / 1e9),
        ("latency of one image (ms)", lambda c: c.latency.median_ms if c.latency else None),
        ("minutes per epoch", lambda c: c.epoch.minutes if c.epoch else None),
    )
    sets = dict.fromkeys(c.score.dataset for c in costs if c.score)
    for dataset in sets:
        for kind, of in kinds:
            own = [(c, c.score, x) for c in costs if c.score and c.score.dataset == dataset and (x := of(c))]
            best = efficient([x for _, _, x in own], [s.value for _, s, _ in own])
            found.setdefault(dataset, []).extend(
                Point(c.name, kind, x, s.value, s.low, s.high, on_front)
                for (c, s, x), on_front in zip(own, best, strict=True)
            )
    return found


# ---------------------------------------------------------------- rows, tables, files


def row(cost: Cost) -> dict[str, Any]:
    """One row of ``bench.csv``; what was not measured is ``None``."""
    p, t, e, s = cost.profile, cost.latency, cost.epoch, cost.score
    return {
        "model": cost.name,
        "builder": cost.builder,
        "weights": cost.weights,
        "input_height": p.input_size[1],
        "input_width": p.input_size[2],
        "parameters": p.parameters,
        "trainable": p.trainable,
        "macs": p.macs,
        "flops": p.flops,
        "size_mb": p.size_mb,
        "activations_mb": p.activations_mb,
        "latency_ms": t and t.median_ms,
        "latency_p95_ms": t and t.p95_ms,
        "passes": t and t.passes,
        "train_step_ms": e and e.step_ms,
        "train_batch_size": e and e.batch_size,
        "train_steps": e and e.steps,
        "epoch_images": e and e.images,
        "minutes_per_epoch": e and e.minutes,
        "train_peak_mb": e and e.peak_mb,
        "dataset": s and s.dataset,
        "accuracy": s and s.value,
        "accuracy_low": s and s.low,
        "accuracy_high": s and s.high,
    }


def throughput_rows(costs: Sequence[Cost]) -> list[dict[str, Any]]:
    """One row per model and batch size."""
    return [{"model": c.name, **{k: getattr(t, k) for k in THROUGHPUT[1:]}} for c in costs for t in c.throughput]


def document(cost: Cost) -> dict[str, Any]:
    """The same for JSON: only what was measured."""
    found = {k: v for k, v in row(cost).items() if v is not None}
    name, height, width = found.pop("model"), found.pop("input_height"), found.pop("input_width")
    batches = [{k: v for k, v in r.items() if k != "model"} for r in throughput_rows([cost])]
    whole = {"name": name, "input_size": [3, height, width], **found}
    return {**whole, "throughput": batches} if batches else whole


def _column(costs: Sequence[Cost], heading: tuple[str, ...], of: Callable[[Cost], str | None]) -> list[Column]:
    """What was measured of at least one model."""
    cells = [of(c) for c in costs]
    return [Column(heading, tuple(x or "–" for x in cells))] if any(cells) else []


def size_columns(costs: Sequence[Cost]) -> list[Column]:
    """For people: what is counted, the latency, the accuracy."""
    column = partial(_column, costs)
    return [
        *column(("input",), lambda c: f"{c.profile.input_size[1]}×{c.profile.input_size[2]}"),
        *column(("parameters",), lambda c: f"{c.profile.parameters:,}"),
        *column(("trainable",), lambda c: f"{c.profile.trainable:,}"),
        *column(("GFLOPs",), lambda c: _short(c.profile.flops / 1e9)),
        *column(("size", "MB"), lambda c: _short(c.profile.size_mb)),
        *column(("activations", "MB"), lambda c: _short(c.profile.activations_mb)),
        *column(("1 image", "median ms"), lambda c: _short(c.latency.median_ms) if c.latency else None),
        *column(("1 image", "p95 ms"), lambda c: _short(c.latency.p95_ms) if c.latency else None),
        *column(("test", "accuracy %"), lambda c: _accuracy(c.score)),
    ]


def rate_columns(costs: Sequence[Cost]) -> list[Column]:
    """For people: throughput and memory by batch size, and of training."""
    column = partial(_column, costs)
    shown: list[Column] = []
    for n in dict.fromkeys(t.batch_size for c in costs for t in c.throughput):
        own = {c.name: t for c in costs for t in c.throughput if t.batch_size == n}
        shown += column((f"batch {n}", "images/s"), lambda c, own=own: _rate(own.get(c.name)))  # type: ignore[misc]
        shown += column((f"batch {n}", "MB"), lambda c, own=own: _memory(own.get(c.name)))  # type: ignore[misc]
    batch = next((c.epoch.batch_size for c in costs if c.epoch), 0)
    shown += [
        *column((f"train {batch}", "ms/step"), lambda c: _short(c.epoch.step_ms) if c.epoch else None),
        *column((f"train {batch}", "MB"), lambda c: _memory(c.epoch)),
        *column(("epoch", "minutes"), lambda c: _short(c.epoch.minutes) if c.epoch else None),
    ]
    return shown


def columns(costs: Sequence[Cost]) -> list[Column]:
    """The whole table, models first."""
    return [_models(costs), *size_columns(costs), *rate_columns(costs)]


def _models(costs: Sequence[Cost]) -> Column:
    return Column(("model",), tuple(c.name for c in costs), right=False)


def _rate(t: Throughput | None) -> str | None:
    if t is None:
        return None
    return "too large" if t.images_per_second is None else _short(t.images_per_second)


def _memory(t: Throughput | EpochTime | None) -> str | None:
    return None if t is None or t.peak_mb is None else _short(t.peak_mb)


def _accuracy(s: Score | None) -> str | None:
    return None if s is None else with_interval(s.value, s.low, s.high)


def _short(value: float) -> str:
    """Three significant digits, and never fewer than the whole number has."""
    digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def caption(costs: Sequence[Cost], about: dict[str, Any]) -> str:
    """What a reader of the table must know."""
    timed = next((c.latency for c in costs if c.latency), None)
    epoch = next((c.epoch for c in costs if c.epoch), None)
    parts = [
        f"{about['device_name']} ({about['device']}), {about['threads']} threads, {about['precision']}",
        CONVENTION,
    ]
    if timed:
        parts.append(
            f"times of {timed.passes} passes of one image after a warm-up; a batch's rate is its median pass's"
        )
    if epoch:
        parts.append(
            f"an epoch of {epoch.images:,} images is extrapolated from {epoch.steps} training steps of "
            f"{epoch.batch_size} images (forward, backward, AdamW), without decoding and selection"
        )
    return "; ".join(parts) + "."


def _write(run: RunFolder, costs: Sequence[Cost], about: dict[str, Any]) -> None:
    told = caption(costs, about)
    with whole_file(run.file("tables/bench.md")) as path:
        path.write_text(f"{markdown_table(columns(costs))}\n{told}\n", encoding="utf-8")
    latex = [latex_table([_models(costs), *size_columns(costs)], told, "tab:bench")]
    if rates := rate_columns(costs):  # a table of its own: together they are wider than a page
        latex.append(latex_table([_models(costs), *rates], f"Throughput and memory. {told}", "tab:bench-rates"))
    with whole_file(run.file("tables/bench.tex")) as path:
        path.write_text("\n".join(latex), encoding="utf-8")
    for dataset, drawn in points(costs).items():
        stem = run.path / "figures" / f"accuracy-cost-{dataset.replace('/', '--')}"
        for file in style.save(accuracy_cost(drawn, dataset), stem, provenance=about):
            run.add(file)
