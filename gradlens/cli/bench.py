"""``gradlens bench``: what models cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradlens.cli.options import json_option, model_option, print_json, runtime_options, weights_option, zoo_option
from gradlens.runtime import Runtime

if TYPE_CHECKING:
    from gradlens.workflows.zoo import Cost

COLUMNS = (
    ("model", 28),
    ("input", 9),
    ("parameters", 12),
    ("MMACs", 9),
    ("MB", 8),
    ("activations MB", 14),
    ("median ms", 10),
    ("p95 ms", 8),
    ("images/s", 9),
)


@click.command(
    "bench",
    epilog="""\b
Examples:
  gradlens bench
  gradlens bench --model densenet --model timm:resnet50 --json
  gradlens bench --model 'cifar10/*' --batch-size 128 --precision bf16
  gradlens bench --model torchvision:vgg16 --passes 0
""",
)
@model_option
@weights_option
@click.option("--classes", type=click.IntRange(1), default=None, help="Outputs of an architecture without a head.")
@click.option(
    "--passes",
    type=click.IntRange(0),
    default=30,
    show_default=True,
    help="Timed passes of one image; 0 counts without timing.",
)
@zoo_option
@json_option
@runtime_options
def command(
    models: tuple[str, ...],
    weights: str | None,
    classes: int | None,
    passes: int,
    zoo: Path | None,
    as_json: bool,
    runtime: Runtime,
) -> None:
    """Parameters, FLOPs, size, latency and throughput of models (the zoo's, where none is named).

    MACs count matrix products and convolutions of one image's forward pass, fused attention included; FLOPs are two
    per MAC. Latency is that of one image after a warm-up, throughput that of whole batches (32 images unless
    --batch-size says otherwise). Architectures without weights are built with random ones.
    """
    from gradlens.workflows.zoo import bench

    if not as_json:
        click.echo(click.style(_line([name for name, _ in COLUMNS]), dim=True))
    found = bench(
        models or ("all",),
        runtime,
        zoo=zoo,
        weights=weights,
        classes=classes,
        passes=passes,
        done=(lambda cost: None) if as_json else (lambda cost: click.echo(_line(_cells(cost)))),
    )
    if as_json:
        import torch

        place = {
            "device": str(runtime.torch_device()),
            "precision": runtime.precision,
            "threads": torch.get_num_threads(),
        }
        print_json({**place, "models": [_document(cost) for cost in found]})


def _cells(cost: Cost) -> list[str]:
    p, t = cost.profile, cost.latency
    cells = [
        cost.model.name,
        f"{p.input_size[1]}×{p.input_size[2]}",
        f"{p.parameters:,}",
        f"{p.macs / 1e6:,.1f}",
        f"{p.size_mb:,.1f}",
        f"{p.activations_mb:,.2f}",
    ]
    return cells + ([f"{t.median_ms:.2f}", f"{t.p95_ms:.2f}", f"{t.images_per_second:,.0f}"] if t else ["-"] * 3)


def _line(cells: list[str]) -> str:
    padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, (_, w)) in enumerate(zip(cells, COLUMNS, strict=True))]
    return " ".join(padded).rstrip()


def _document(cost: Cost) -> dict[str, Any]:
    p, t = cost.profile, cost.latency
    document: dict[str, Any] = {
        "name": cost.model.name,
        "builder": cost.model.builder,
        "weights": cost.model.weights,
        "input_size": list(p.input_size),
        "parameters": p.parameters,
        "trainable": p.trainable,
        "macs": p.macs,
        "flops": p.flops,
        "size_mb": p.size_mb,
        "activations_mb": p.activations_mb,
    }
    if t is not None:
        document |= {
            "latency_ms": t.median_ms,
            "latency_p95_ms": t.p95_ms,
            "images_per_second": t.images_per_second,
            "batch_size": t.batch_size,
            "passes": t.passes,
            "peak_mb": t.peak_mb,
        }
    return document
