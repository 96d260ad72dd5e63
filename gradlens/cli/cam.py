"""``gradlens cam``: layer-wise CAM grids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gradlens.cli.options import (
    json_option,
    model_option,
    out_option,
    print_json,
    run_folder,
    runtime_options,
    strict_option,
    weights_option,
    zoo_option,
)
from gradlens.runtime import Runtime


@click.command(
    "cam",
    epilog="""\b
Examples:
  gradlens cam --model densenet --layers all
  gradlens cam --model all
  gradlens cam --model vit --model resnet --layers stages --image photo.jpg
  gradlens cam --model convnext --target top:3 --method layercam --save-maps
  gradlens cam --model timm:resnet50 --weights pretrained --image holiday/
""",
)
@model_option
@click.option(
    "--layers",
    multiple=True,
    metavar="stages|blocks|all|last|N|NAME|GLOB",
    help="Depths (repeatable); see `gradlens layers` [default: stages; last for several models].",
)
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(path_type=Path),
    help="An image file or a folder of images (repeatable).",
)
@click.option("--data", metavar="SOURCE", help="Take images from this set instead: probe set, folder, .parquet, ...")
@click.option(
    "--n",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="How many images of --data, or scenes of the models' own test set.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    default=("predicted",),
    show_default="predicted",
    metavar="predicted|true|CLASS|INDEX|top:K",
    help="What is to be explained (repeatable).",
)
@click.option(
    "--method", "methods", multiple=True, default=("gradcam",), show_default="gradcam", help="CAM method (repeatable)."
)
@click.option(
    "--scale",
    type=click.Choice(["map", "image", "row", "figure"]),
    default="map",
    show_default=True,
    help="Over what one colour means the same.",
)
@click.option(
    "--format", "formats", multiple=True, type=click.Choice(["png", "pdf", "svg"]), default=("png",), show_default="png"
)
@click.option("--dpi", type=click.IntRange(30, 1200), default=300, show_default=True)
@click.option("--save-maps", is_flag=True, help="Also write the raw, signed maps as .npz.")
@weights_option
@click.option("--classes", type=click.IntRange(1), default=None, help="Outputs of an architecture without a head.")
@zoo_option
@out_option
@json_option
@strict_option
@runtime_options
@click.pass_context
def command(
    ctx: click.Context,
    models: tuple[str, ...],
    images: tuple[Path, ...],
    data: str | None,
    as_json: bool,
    strict: bool,
    out: Path | None,
    runtime: Runtime,
    **options: Any,
) -> None:
    """Layer-wise class activation maps: where does each model look, at every depth?

    One model gives a grid of images × depths; several give images × models at the last depth, or, with --layers, one
    page per image of models × depths. Without --image or --data the images are one per class of the models' own test
    set, each above the same scene from the "internet" probe set. All depths come from one forward and one backward
    pass.
    """
    from gradlens.workflows.see import CamRequest, cam

    if not models:
        raise click.UsageError("give at least one --model, for instance: gradlens cam --model densenet")
    if images and data:
        raise click.UsageError("give either --image or --data, not both")
    request = CamRequest(models=models, images=images, data=data, **options)
    run = cam(request, runtime, run_folder("cam", out))
    if as_json:
        print_json(run.document())
    else:
        _print(run)
    if strict and run.skipped:
        ctx.exit(3)


def _print(run: Any) -> None:
    pictures = len(run.pictures)
    for seen in run.seen:
        statuses = [status for stack in seen.stacks for status in stack.statuses]
        blank = len(statuses) - statuses.count("ok")
        note = f", {blank} of {len(statuses)} maps blank (each cell says why)" if blank else ""
        click.echo(f"{seen.model.name}: {pictures} images, {len(seen.points)} depths{note}")
    for path in [*run.figures, *run.maps]:
        click.echo(str(path))
