"""``gradlens bench``: what models cost."""

from __future__ import annotations

import shlex
import shutil
import sys
from functools import partial
from pathlib import Path

import click

from gradlens.cli.options import (
    json_option,
    model_option,
    print_json,
    runtime_options,
    weights_option,
    zoo_option,
)
from gradlens.runtime import Runtime

MEASURED_BATCHES = (1, 8, 32)


@click.command(
    "bench",
    epilog="""\b
Examples:
  gradlens bench
  gradlens bench --model densenet --model timm:resnet50 --json
  gradlens bench --model 'cifar10/*' --batch-size 1,8,32,128 --precision bf16 --out runs/costs
  gradlens bench --model timm:resnet18 --classes 10 --train head --passes 0
  gradlens bench --model torchvision:mobilenet_v2 --classes 10 --train head --epoch-images 50000 --passes 20
""",
)
@model_option
@weights_option
@click.option("--classes", type=click.IntRange(1), default=None, help="Outputs of an architecture [default: 1000].")
@click.option(
    "--passes",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Timed passes of one image, and a tenth of it of each batch; 0 counts without timing.",
)
@click.option(
    "--train", "learns", multiple=True, metavar="all|head|last:N|DEPTH", default=("all",), show_default=True,
    help="What would be trained: counted as trainable, and timed with --epoch-images (repeatable).",
)  # fmt: skip
@click.option(
    "--epoch-images", type=click.IntRange(1), metavar="N",
    help="Time training steps, and extrapolate to an epoch of N images.",
)  # fmt: skip
@click.option("--epoch-batch-size", type=click.IntRange(2), default=32, show_default=True, metavar="N",
              help="Images per training step.")  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), default=None,
    help="Write CSV, Markdown and LaTeX tables and the figure of accuracy against cost into this folder.",
)  # fmt: skip
@zoo_option
@json_option
@partial(runtime_options, batch_sizes=True)
def command(
    models: tuple[str, ...],
    weights: str | None,
    classes: int | None,
    passes: int,
    learns: tuple[str, ...],
    epoch_images: int | None,
    epoch_batch_size: int,
    out: Path | None,
    zoo: Path | None,
    as_json: bool,
    runtime: Runtime,
    batch_sizes: tuple[int, ...],
) -> None:
    """Parameters, FLOPs, size, latency, throughput, memory, training time of models (the zoo's, where none is named).

    FLOPs are two per multiply-accumulate of matrix products and convolutions in one image's forward pass, fused
    attention included. Latency is that of one image after a warm-up, throughput that of whole batches (1, 8 and 32
    images unless --batch-size says otherwise), each with the memory that weights and pass take at most. The time of an
    epoch is extrapolated from a few steps of the training loop. Architectures without weights are built with random
    ones.
    """
    from gradlens.shift.tables import text_table
    from gradlens.workflows import bench as workflow

    if epoch_images is not None and epoch_images < epoch_batch_size:
        raise click.UsageError(
            f"--epoch-images {epoch_images} is less than one batch of {epoch_batch_size} (--epoch-batch-size)."
        )
    measures = workflow.Measures(
        passes, batch_sizes or MEASURED_BATCHES, tuple(learns), epoch_images or 0, epoch_batch_size
    )
    found = workflow.bench(
        models or ("all",),
        runtime,
        measures,
        zoo=zoo,
        weights=weights,
        classes=classes,
        out=out,
        command=shlex.join(["gradlens", *sys.argv[1:]]),
    )
    if as_json:
        print_json({**found.machine, "models": [workflow.document(cost) for cost in found.costs]})
        return
    width = shutil.get_terminal_size((120, 24)).columns
    click.echo(text_table(workflow.columns(found.costs), width))
    runtime.say(workflow.caption(found.costs, found.machine))
    if out is not None:
        click.echo(f"written: {out}")
