"""``gradlens shift-eval``: scores in and outside a model's own data, and the gap between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from gradlens.cli.options import (
    command_line,
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
from gradlens.processes import launched, together
from gradlens.runtime import Runtime

if TYPE_CHECKING:
    from gradlens.workflows.measure import Request


def _shard(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    i, _, n = value.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise click.BadParameter(f"expected I/N with I from 1 to N, like 1/4 to 4/4, got {value!r}")
    return int(i), int(n)


def _count(text: str) -> int:
    """A positive whole number, which may be written as ``1e8``."""
    number = float(text)
    if not (1 <= number < 1e15 and number == int(number)):
        raise ValueError(text)
    return int(number)


FRACTION = click.FloatRange(0, 1)


@click.command(
    epilog="""\b
Examples:
  gradlens shift-eval
  gradlens shift-eval --model densenet --model vit --probe vehicles-night
  gradlens shift-eval --model resnet --in-dist probe_sets/vehicles-test --probe probe_sets/vehicles-crop
  gradlens shift-eval --model vit --probe vehicles-crop --out runs/vit --max-drop 0.9
  gradlens shift-eval --predictions runs/vit/predictions/vehicles--vit--vehicles-crop.parquet
  gradlens shift-eval --unlabelled downloads/photos
  gradlens shift-eval --accuracies zoo.csv --in-dist imagenet --probe imagenet-v2
  gradlens shift-eval --list-analyses
  gradlens shift-eval --plan --plan-images 1e8 --plan-models 50 --plan-devices 8
  torchrun --nproc-per-node 4 -m gradlens shift-eval --out runs/shared
""",
)
@model_option
@click.option("--in-dist", metavar="SOURCE", help="In-distribution set [default: the test set of the collection].")
@click.option(
    "--probe", "probes", multiple=True, metavar="SOURCE", help="Shifted set, or 'all' (repeatable) [default: all]."
)
@click.option(
    "--unlabelled",
    multiple=True,
    metavar="SOURCE",
    help="Images without labels, such as a folder from the internet: their accuracy is estimated (repeatable).",
)
@click.option(
    "--predictions",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Score the predictions of a Parquet or CSV file instead of running models (repeatable); "
    "--model, --in-dist, --probe and --unlabelled then name what the file holds.",
)
@click.option(
    "--accuracies",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Fit lines to a CSV or Parquet table with one row per model instead of running models; "
    "--in-dist and --probe then name its columns of accuracies.",
)
@click.option(
    "--baseline",
    multiple=True,
    metavar="NAME",
    help="Families or models whose line effective robustness is measured from (repeatable, globs) "
    "[default: for each model all other families].",
)
@click.option(
    "--with",
    "analyses",
    multiple=True,
    metavar="NAME",
    help="An analysis that reads images or runs networks again, or 'all' (repeatable); see --list-analyses.",
)
@click.option(
    "--train",
    multiple=True,
    metavar="SOURCE",
    help="What models were trained on, to be compared with the images of all sets (repeatable); implies "
    "--with leakage, which otherwise looks for what the models' cards name.",
)
@click.option("--list-analyses", "only_list", is_flag=True, help="List what --with takes, and what is always done.")
@click.option("--cam-method", default="gradcam", show_default=True, metavar="NAME", help="Maps of --with explanations.")
@click.option(
    "--cam-target",
    type=click.Choice(["predicted", "true"]),
    default="predicted",
    show_default=True,
    help="Whose maps --with explanations compares: the predicted class's, or the true one's.",
)
@click.option(
    "--cam-images",
    type=click.IntRange(2),
    default=64,
    show_default=True,
    help="Images of each set for --with explanations, balanced over its classes.",
)
@click.option(
    "--images",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="Scenes whose images and maps are kept for the page, each in distribution and in every probe set; "
    "0: no picture of any image is kept.",
)
@click.option(
    "--corruption",
    "corruptions",
    multiple=True,
    metavar="NAME",
    help="What --with corruptions does to the images (repeatable; implies it) [default: all].",
)
@click.option(
    "--severity",
    "severities",
    multiple=True,
    type=click.IntRange(1, 5),
    default=(1, 3, 5),
    show_default=True,
    help="How severely (repeatable).",
)
@click.option(
    "--reference",
    metavar="MODEL",
    help="The model whose errors are the unit of the corruption error [default: the one with the median accuracy].",
)
@click.option("--confidence", type=click.FloatRange(0, 1, True, True), default=0.95, show_default=True)
@click.option("--resamples", type=click.IntRange(100), default=10_000, show_default=True, help="Bootstrap resamples.")
@click.option("--top-k", type=click.IntRange(2), default=5, show_default=True, help="k of top-k accuracy.")
@click.option("--fresh", is_flag=True, help="Run the models again even where their outputs are in the cache.")
@click.option("--max-drop", type=FRACTION, metavar="X", help="Exit with 4 when an accuracy gap is larger than X.")
@click.option("--min-accuracy", type=FRACTION, metavar="X", help="Exit with 4 when an accuracy is below X on any set.")
@click.option(
    "--shard",
    callback=_shard,
    metavar="I/N",
    help="Run the models on every N-th image only, from the I-th, and score nothing; "
    "a run without it merges the shards that lie in its --out or in the cache.",
)
@click.option(
    "--ray",
    "cluster",
    metavar="ADDRESS",
    help="Run every model × set as a task of a Ray cluster: HOST:PORT, auto, or local:N; --out must be seen by all.",
)
@click.option(
    "--stream",
    is_flag=True,
    help="Read --in-dist and --probe once, in order, and keep counts instead of predictions: for sets too large to "
    "keep (.tar and .parquet with braces, hf:). Pairs, analyses and maps are not done.",
)
@click.option("--plan", "only_plan", is_flag=True, help="Measure on a few images what it would cost, and run nothing.")
@click.option(
    "--plan-images", type=_count, metavar="N", help="With --plan: also what N images would cost (1e8 will do)."
)
@click.option("--plan-models", type=_count, metavar="N", help="With --plan: also what N models like these cost.")
@click.option("--plan-devices", type=_count, metavar="N", help="With --plan: also on N devices like this one.")
@zoo_option
@weights_option
@out_option
@json_option
@strict_option
@runtime_options
@click.pass_context
def command(
    ctx: click.Context,
    models: tuple[str, ...],
    in_dist: str | None,
    probes: tuple[str, ...],
    unlabelled: tuple[str, ...],
    predictions: tuple[Path, ...],
    accuracies: Path | None,
    baseline: tuple[str, ...],
    analyses: tuple[str, ...],
    train: tuple[str, ...],
    only_list: bool,
    cam_method: str,
    cam_target: Literal["predicted", "true"],
    cam_images: int,
    images: int,
    corruptions: tuple[str, ...],
    severities: tuple[int, ...],
    reference: str | None,
    confidence: float,
    resamples: int,
    top_k: int,
    fresh: bool,
    max_drop: float | None,
    min_accuracy: float | None,
    shard: tuple[int, int] | None,
    cluster: str | None,
    stream: bool,
    only_plan: bool,
    plan_images: int | None,
    plan_models: int | None,
    plan_devices: int | None,
    zoo: Path | None,
    weights: str | None,
    out: Path | None,
    as_json: bool,
    strict: bool,
    runtime: Runtime,
) -> None:
    """Score models on their own kind of data and on shifted probe sets, and measure the gap with its interval.

    Leaves tables (CSV, Markdown, LaTeX), predictions with logits and figures in --out. Without options: every model
    of the vehicles collection on its test set and every probe set that comes with it. MODEL and SOURCE are explained
    in the README.

    An accuracy gap is the share of images that a model gets right in distribution minus the share on the probe set, on
    the classes both have. Fractions (0.05), not percentages, are what --max-drop and --min-accuracy take.

    On a CPU the network always sees 32 images at once, so that --batch-size cannot move a result; on an accelerator
    --batch-size holds.
    """
    from gradlens.workflows.measure import Request, run_shard, shift_eval

    rank, world = launched()
    if stream:
        _refuse(ctx, NEEDS_PREDICTIONS, "--stream keeps counts and no predictions")
    if world > 1 and shard is not None:
        raise click.UsageError("--shard is for job arrays; under torchrun the processes share the images themselves.")
    if cluster is not None and (world > 1 or shard is not None or stream or predictions):
        raise click.UsageError("--ray runs models over images by itself: leave out --shard, --stream, --predictions "
                               "and torchrun.")  # fmt: skip
    share = world > 1 and not (only_list or only_plan or predictions or accuracies)
    if rank and not share:
        return  # no network is run over images, so there is nothing to share: the first process does it alone
    if only_list:
        _print_analyses(as_json)
        return
    if accuracies is not None:
        _refuse(ctx, NEEDS_MODELS, "--accuracies reads a table and runs nothing")
    if not only_plan and (plan_images or plan_models or plan_devices):
        raise click.UsageError("--plan-images, --plan-models and --plan-devices go with --plan.")
    leaves_nothing = only_plan or shard is not None or rank > 0
    request = Request(
        out=Path() if leaves_nothing else run_folder("shift-eval", out),
        models=models,
        zoo=zoo,
        weights=weights,
        in_dist=in_dist,
        probes=probes,
        unlabelled=unlabelled,
        predictions=predictions,
        accuracies=accuracies,
        baseline=baseline,
        confidence=confidence,
        resamples=resamples,
        top_k=top_k,
        fresh=fresh,
        shard=shard,
        shards=None if out is None else out / "shards",
        max_drop=max_drop,
        min_accuracy=min_accuracy,
        analyses=(*analyses, *(["leakage"] if train else []), *(["corruptions"] if corruptions else [])),
        train=train,
        cam_method=cam_method,
        cam_target=cam_target,
        cam_images=cam_images,
        images=images,
        corruptions=corruptions,
        severities=tuple(sorted(set(severities))),
        reference=reference,
        stream=stream,
        command=command_line(ctx),
    )
    if accuracies is not None:
        _from_table(ctx, request, runtime)
        return
    if only_plan:
        from gradlens.workflows.measure.plan import plan

        planned = plan(request, runtime, plan_images, plan_models, plan_devices)
        if as_json:
            print_json(planned.document())
        else:
            click.echo(planned.text())
        return
    if shard is not None:
        from gradlens.workflows.measure.sharing import mark_done

        evidence = run_shard(request, runtime)
        mark_done(request, evidence)
        count = sum(len(p) for p in evidence.predictions.values())
        if as_json:
            print_json({"shard": list(shard), "models": [m.name for m in evidence.models], "predictions": count})
        runtime.say(
            f"shard {shard[0]} of {shard[1]}: {count:,} predictions in {request.shards or 'the cache'}; "
            "when all shards are done, the same command without --shard merges and scores them"
        )
        return
    if stream:
        _streamed(ctx, request, runtime)
        return
    if share:
        from gradlens.workflows.measure.sharing import share_out

        with together() as processes:
            request = replace(request, out=Path(processes.same(str(request.out))))
            request = share_out(request, runtime.among(processes))
            measured = shift_eval(request, runtime) if processes.first else None
            processes.meet()  # a launcher waits five minutes for those of other machines, and scoring may take longer
        if measured is None:
            return
    else:
        if cluster is not None:
            from gradlens.workflows.measure.cluster import spread

            request = spread(replace(request, shards=request.out / "shards"), runtime, cluster)
        elif (request.out / "shards").is_dir():
            from gradlens.workflows.measure.sharing import check_shards

            check_shards(request, runtime)
        measured = shift_eval(request, runtime)
    left_out = (len(measured.evidence.skipped), "images were not scored")
    _end(ctx, request, runtime, measured.document, measured.text, left_out, measured.findings.missed)


def _end(
    ctx: click.Context,
    request: Request,
    runtime: Runtime,
    document: dict[str, Any],
    text: str,
    left_out: tuple[int, str],
    missed: Sequence[str],
) -> None:
    """Print what came out, then what is amiss: how many of what were ``left_out``, and the bounds that were missed."""
    from gradlens.errors import ThresholdMissed

    if ctx.params["as_json"]:
        print_json(document)
    else:
        click.echo(text)
    count, what = left_out
    if count:
        runtime.say(f"{count} {what}; see {request.out / 'skipped.csv'}")
    runtime.say(f"wrote {request.out}")
    if missed:
        raise ThresholdMissed(missed[0] + (f" (and {len(missed) - 1} more)" if missed[1:] else ""))
    if count and ctx.params["strict"]:
        ctx.exit(3)


# what says something about models or images, of which a table of accuracies has none
NEEDS_MODELS = (
    *("models", "predictions", "unlabelled", "analyses", "train", "corruptions", "shard", "only_plan", "fresh"),
    *("zoo", "weights"),
)
# what needs the predictions of single images, which a stream does not leave
NEEDS_PREDICTIONS = ("unlabelled", "predictions", "accuracies", "analyses", "train", "corruptions", "shard")


def _refuse(ctx: click.Context, names: tuple[str, ...], reason: str) -> None:
    for parameter in ctx.command.params:
        if parameter.name in names and ctx.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{reason}; leave out {parameter.opts[-1]}")


def _streamed(ctx: click.Context, request: Request, runtime: Runtime) -> None:
    from gradlens.workflows.measure.streamed import shift_eval_streamed

    with together() as processes:
        request = replace(request, out=Path(processes.same(str(request.out))))
        measured = shift_eval_streamed(request, runtime.among(processes))
        processes.meet()
    if measured is None:
        return
    document, text, missed = measured
    _end(ctx, request, runtime, document, text, (document["skipped"], "images were not scored"), missed)


def _from_table(ctx: click.Context, request: Request, runtime: Runtime) -> None:
    from gradlens.workflows.measure.accuracies import from_table

    measured = from_table(request, runtime)
    left_out = (len(measured.skipped), "models were left out")
    _end(ctx, request, runtime, measured.document, measured.text, left_out, measured.missed)


def _print_analyses(as_json: bool) -> None:
    from gradlens.workflows.measure import ANALYSES

    fields = ("name", "title", "cost", "what")
    if as_json:
        print_json({"analyses": [{field: getattr(a, field) for field in fields} for a in ANALYSES.values()]})
        return
    done = {"none": "always", "images": "--with, reads images", "networks": "--with, runs networks"}
    print_table([("name", "done", "what it tells"), *((a.name, done[a.cost], a.what) for a in ANALYSES.values())])
