"""``gradlens cam``: layer-wise CAM grids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from gradlens.cli.options import (
    json_option,
    model_option,
    out_option,
    print_json,
    print_table,
    run_folder,
    runtime_options,
    strict_option,
    weights_option,
    zoo_option,
)
from gradlens.runtime import Runtime


def _method_names(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    from gradlens.workflows.see import methods

    return [m.name for m in methods() if m.name.startswith(incomplete)]


def _measure_names(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    from gradlens.workflows.evaluate import MEASURES

    return [name for name in MEASURES if name.startswith(incomplete)]


@click.command(
    "cam",
    epilog="""\b
Examples:
  gradlens cam --model densenet --layers all
  gradlens cam --model all
  gradlens cam --model vit --model resnet --layers stages --image photo.jpg
  gradlens cam --model convnext --target top:3 --method layercam --save-maps
  gradlens cam --model vgg --method gradcam --method layercam --method hirescam --layers stages --n 2
  gradlens cam --model resnet --target predicted --target true --layers stages
  gradlens cam --model densenet --target contrast:car/bus --layers last
  gradlens cam --model densenet --outline box --threshold 0.2 --image photo.jpg --json
  gradlens cam --model mobilenet --features 8 --n 1
  gradlens cam --list-methods
  gradlens cam --evaluate --model densenet --method gradcam --method layercam --n 8
  gradlens cam --evaluate --model resnet --method gradcam --measure energy --twins twins --n 8
  gradlens cam --model all --fast
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
    metavar="predicted|second|true|CLASS|INDEX|top:K|contrast:A/B",
    help="What is to be explained (repeatable). In contrast:A/B, what speaks for A rather than B, both are one of the "
    "former; it is drawn with both signs.",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    default=("gradcam",),
    show_default="gradcam",
    metavar="NAME",
    shell_complete=_method_names,
    help="CAM method (repeatable); see --list-methods.",
)
@click.option("--list-methods", is_flag=True, help="Print every method with its paper and formula, and stop.")
@click.option(
    "--scale",
    type=click.Choice(["map", "image", "row", "figure"]),
    default="map",
    show_default=True,
    help="Over what one colour means the same.",
)
@click.option("--signed", is_flag=True, help="Draw both signs of the raw maps, in two colours, instead of ReLU(map).")
@click.option(
    "--outline",
    type=click.Choice(["box", "contour"]),
    default=None,
    help="Draw what is strong: a box around the largest region, or the contours of all. Boxes in pixels of the "
    "original image go into run.json and --json.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="What --outline calls strong: the share of the map's maximum.",
)
@click.option(
    "--features",
    type=click.IntRange(1, 32),
    default=None,
    metavar="K",
    help="Also draw the K strongest channels of every depth, a page per image and model.",
)
@click.option(
    "--rank",
    type=click.Choice(["contribution", "activation"]),
    default="contribution",
    show_default=True,
    help="What --features calls strong: |mean gradient| × mean |activation| for the first target, or mean "
    "|activation|.",
)
@click.option(
    "--fast",
    is_flag=True,
    help="Batch norms folded into convolutions, channels-last memory, and with --precision bf16 that throughout; how "
    "far the maps are from the plain pass is printed.",
)
@click.option(
    "--evaluate",
    is_flag=True,
    help="Instead of pictures: are the maps true? Every measure of every method at every depth, as tables and figures.",
)
@click.option(
    "--measure",
    "measures",
    multiple=True,
    metavar="NAME",
    shell_complete=_measure_names,
    help="With --evaluate: what to measure (repeatable); see --list-measures [default: all].",
)
@click.option(
    "--twins",
    metavar="COLLECTION",
    help="With --evaluate: models of the same names, trained without the shortcut that --model had; tells from maps "
    "alone which of two twins reads the background, and counts the hits.",
)
@click.option("--list-measures", is_flag=True, help="Print every measure with its paper and range, and stop.")
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
    list_methods: bool,
    list_measures: bool,
    evaluate: bool,
    measures: tuple[str, ...],
    twins: str | None,
    out: Path | None,
    features: int | None,
    runtime: Runtime,
    **options: Any,
) -> None:
    """Layer-wise class activation maps: where does each model look, at every depth?

    \b
    What is drawn:
      one model, one method       images × depths; a row per target
        and two targets           both side by side at every depth, and their difference
      one model, several methods  a page per image: methods × depths
      several models              images × models at the last depth
        and --layers              a page per image: models × depths
        and --layers, methods     a page per image and model: methods × depths

    Methods that explain pixels have one map, in a column "input". Without --image or --data the images are one per
    class of the models' own test set, each above the same scene from the "internet" probe set. All depths, and all
    targets, come from one forward pass.
    """
    if list_methods:
        _print_methods(as_json)
        return
    if list_measures:
        _print_measures(as_json)
        return
    if not models:
        raise click.UsageError("give at least one --model, for instance: gradlens cam --model densenet")
    if images and data:
        raise click.UsageError("give either --image or --data, not both")
    if evaluate:
        if images:
            raise click.UsageError("--evaluate takes its images from --data, a labelled set with or without masks")
        asked = {k: v for k, v in options.items() if k in ("formats", "dpi", "zoo", "weights", "classes")}
        for name in ("layers", "methods", "n"):  # what was not asked for has another default here
            if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
                asked[name] = options[name]
        _evaluate(ctx, runtime, run_folder("cam", out), as_json, strict, models=models, data=data, measures=measures,
                  twins=twins, **asked)  # fmt: skip
        return
    for name, given in (("--measure", measures), ("--twins", twins)):
        if given:
            raise click.UsageError(f"{name} needs --evaluate")
    from gradlens.workflows.see import CamRequest, cam

    request = CamRequest(models=models, images=images, data=data, features=features or 0, **options)
    run = cam(request, runtime, run_folder("cam", out))
    if as_json:
        print_json(run.document())
    else:
        _print(run)
    if strict and run.skipped:
        ctx.exit(3)


def _evaluate(ctx: click.Context, runtime: Runtime, folder: Path, as_json: bool, strict: bool, **asked: Any) -> None:
    from gradlens.workflows.evaluate import EvaluateRequest, evaluate

    run = evaluate(EvaluateRequest(**asked), runtime, folder)
    if as_json:
        print_json(run.document())
    else:
        _print_evaluation(run)
    if strict and run.skipped:
        ctx.exit(3)


def _print_evaluation(run: Any) -> None:
    for model in dict.fromkeys(t.model for t in run.trust):
        own = [t for t in run.trust if t.model == model]
        click.echo(f"{model}: of {len(own)} methods × depths on {run.n} images of {run.data}, by mean rank")
        rows = [("", "method", "depth", "mean rank", "undefined", "randomised weights")]
        for i, t in enumerate(own[:5], start=1):
            rows.append((f"{i}.", t.method, t.depth, f"{t.mean_rank:.1f}", f"{100 * t.undefined:.0f} %", t.verdict))
        print_table(rows)
        survivors = list(dict.fromkeys(f"{t.method} at {t.depth}" for t in own if t.verdict == "survives"))
        if survivors:
            click.echo(f"the same maps whatever the weights are, not to be trusted: {', '.join(survivors)}")
    if run.verdicts:
        click.echo("twins, told apart from maps alone (hits, misses, undecided):")
        counts = [("method", "hits", "misses", "undecided")]
        for method in dict.fromkeys(v.method for v in run.verdicts):
            hits = [v.hit for v in run.verdicts if v.method == method]
            counts.append((method, str(hits.count(True)), str(hits.count(False)), str(hits.count(None))))
        print_table(counts)
    for path in run.figures:
        click.echo(str(path))
    click.echo(str(run.folder / "evaluation.csv"))


def _print_measures(as_json: bool) -> None:
    from gradlens.workflows.evaluate import MEASURES

    if as_json:
        fields = ("name", "title", "better", "needs", "low", "high", "paper")
        print_json({"measures": [{f: _finite(getattr(m, f)) for f in fields} for m in MEASURES.values()]})
        return
    rows = [("name", "title", "better", "range", "needs", "paper")]
    for m in MEASURES.values():
        rows.append((m.name, m.title, m.better, f"{m.low:g} to {m.high:g}", m.needs, m.paper))
    print_table(rows)


def _finite(value: Any) -> Any:
    return None if value == float("inf") else value


def _print_methods(as_json: bool) -> None:
    from gradlens.workflows.see import methods

    if as_json:
        fields = ("name", "title", "needs", "at", "contrast", "paper", "formula")
        print_json({"methods": [{field: getattr(m, field) for field in fields} for m in methods()]})
        return
    rows = [("name", "title", "needs", "maps at", "paper, formula")]
    for m in methods():
        rows += [(m.name, m.title, m.needs, m.at, m.paper), ("", "", "", "", m.formula)]
    print_table(rows)


def _print(run: Any) -> None:
    pictures = len(run.pictures)
    for seen in run.seen:
        statuses = [status for stack in seen.stacks for status in stack.statuses]
        blank = len(statuses) - statuses.count("ok")
        note = f", {blank} of {len(statuses)} maps blank (each cell says why)" if blank else ""
        click.echo(f"{seen.model.name}: {_count(pictures, 'image')}, {_count(len(seen.depths()), 'depth')}{note}")
    for path in [*run.figures, *run.maps]:
        click.echo(str(path))


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
