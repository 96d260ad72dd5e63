"""``gradlens layers``: the depths found in a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradlens.cli.options import (
    json_option,
    model_option,
    print_json,
    print_table,
    runtime_options,
    weights_option,
    zoo_option,
)
from gradlens.runtime import Runtime

if TYPE_CHECKING:
    from gradlens.records import HookPoint


@click.command(
    "layers",
    epilog="""\b
Examples:
  gradlens layers --model densenet
  gradlens layers --model timm:vit_base_patch16_224 --layers stages
  gradlens layers --model torchvision:resnet50 --json
""",
)
@model_option
@click.option(
    "--layers",
    "selectors",
    multiple=True,
    default=("all",),
    metavar="stages|blocks|all|last|N|NAME|GLOB",
    help="Which depths to list (repeatable) [default: all].",
)
@weights_option
@click.option("--classes", type=click.IntRange(1), default=None, help="Outputs of an architecture without a head.")
@zoo_option
@json_option
@runtime_options
def command(
    models: tuple[str, ...],
    selectors: tuple[str, ...],
    weights: str | None,
    classes: int | None,
    zoo: Path | None,
    as_json: bool,
    runtime: Runtime,
) -> None:
    """The depths of a model: places that every path from the pixels to the logits crosses.

    They are found from the autograd graph of one forward pass, not from a list of architectures. Use the names with
    `gradlens cam --layers NAME`. The column `check` says whether moving a patch of the image moved the cell that the
    layout says it should: passed, inconclusive, or refused.
    """
    from gradlens.workflows.see import layers

    if not models:
        raise click.UsageError("give at least one --model, for instance: gradlens layers --model densenet")
    found = layers(models, runtime, zoo=zoo, weights=weights, classes=classes)
    listed = [
        (model, depths, depths.points if selectors == ("all",) else depths.select(selectors)) for model, depths in found
    ]
    if as_json:
        document = [
            {
                "name": model.name,
                "builder": model.builder,
                "input_size": list(model.preprocess.input_size),
                "note": depths.note,
                "layers": [_row(p) for p in points],
            }
            for model, depths, points in listed
        ]
        print_json({"models": document})
        return
    for i, (model, depths, points) in enumerate(listed):
        height, width = depths.input_size
        click.echo(
            ("\n" if i else "") + click.style(model.name, bold=True) + f"  {model.builder}, input {height}×{width}"
        )
        _print_points(points)
        if depths.note:
            click.echo(f"note: {depths.note}")


def _row(point: HookPoint) -> dict[str, Any]:
    from gradlens.workflows.see import layer_fields

    return {
        **layer_fields(point),
        "prefix_tokens": point.prefix,
        "position": point.position,
        "verified": point.verified,
        "selectors": list(point.selectors),
    }


def _print_points(points: Sequence[HookPoint]) -> None:
    rows = [("name", "stride", "channels", "grid", "layout", "work", "check", "picked by")]
    for p in points:
        check = {True: "passed", False: "refused", None: "inconclusive"}[p.verified]
        layout = p.layout + (f" +{p.prefix}" if p.prefix else "")
        picked = " ".join(p.selectors)
        rows.append(
            (
                p.name,
                p.stride_text,
                str(p.shape[0]),
                f"{p.shape[1]}×{p.shape[2]}",
                layout,
                f"{p.position:.0%}",
                check,
                picked,
            )
        )
    print_table(rows, right=(1, 2, 5))
