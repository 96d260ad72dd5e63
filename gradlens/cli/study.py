"""``gradlens study``: every run of a study file trained, all of them evaluated together, one report."""

from __future__ import annotations

import shlex
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradlens.cli.options import json_option, print_json, print_table, runtime_options, strict_option
from gradlens.runtime import Runtime

if TYPE_CHECKING:
    from gradlens.workflows.study import Plan, Run, Scale

ROLES = ("train", "select", "test", "probe")


def _data(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    found = []
    for text in values:
        role, _, source = text.partition("=")
        if role not in ROLES or not source:
            raise click.BadParameter(f"expected ROLE=SOURCE with a ROLE of {', '.join(ROLES)}, got {text!r}")
        found.append((role, source))
    return tuple(found)


def _seeds(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    parts = [] if value is None else value.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(f"expected whole numbers with commas between them, like 0,1,2, got {value!r}")
    return tuple(int(part) for part in parts)


@click.command(
    "study",
    epilog="""\b
Examples:
  gradlens study --list
  gradlens study three-approaches --scale narrow
  gradlens study five-backbones --scale full --dry-run
  gradlens study cifar10-controlled --scale full --data train=../shared/data/cifar10-train.parquet \\
      --data test=../shared/data/cifar10-test.parquet --data probe=../shared/data/cifar10-internet.parquet
  gradlens study ten-torchvision --only 'swin*' --epochs 1 --out runs/quick
  gradlens study transfer --seeds 0,1,2
  gradlens study fifteen-architectures --ray local:2
""",
)
@click.argument("name", required=False)
@click.option("--list", "list_", is_flag=True, help="List the studies.")
@click.option(
    "--scale",
    type=click.Choice(["full", "narrow"]),
    default="narrow",
    show_default=True,
    help="full: the published networks and settings; narrow: small networks, in minutes on two cores.",
)
@click.option(
    "--dry-run", is_flag=True, help="Check all that can be checked without a network, show the runs, and train nothing."
)
@click.option(
    "--data",
    multiple=True,
    callback=_data,
    metavar="ROLE=SOURCE",
    help="Other images: ROLE is train, select, test or probe (the last repeatable).",
)
@click.option("--only", multiple=True, metavar="RUN", help="These runs only: a name or glob (repeatable).")
@click.option("--epochs", type=click.IntRange(1), help="Epochs of every run, for a quick try.")
@click.option("--seeds", callback=_seeds, metavar="N,N,...", help="Train each run once for each of these seeds.")
@click.option("--fresh", is_flag=True, help="Train all anew, even where a state or a checkpoint is there.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the study [default: runs/study-NAME-SCALE].")
@click.option("--ray", "cluster", default="", metavar="ADDRESS",
              help="Train every run as a task of a Ray cluster: HOST:PORT, auto, or local:N; --out must be seen by "
              "all.")  # fmt: skip
@strict_option
@json_option
@runtime_options
@click.pass_context
def command(
    ctx: click.Context,
    runtime: Runtime,
    name: str | None,
    list_: bool,
    scale: Scale,
    dry_run: bool,
    data: tuple[tuple[str, str], ...],
    only: tuple[str, ...],
    epochs: int | None,
    seeds: tuple[int, ...],
    fresh: bool,
    out: Path | None,
    cluster: str,
    strict: bool,
    as_json: bool,
) -> None:
    """Run the study NAME (a name from --list, or a FILE.toml): train all its runs, evaluate them, write a report.

    Checkpoints, tables, figures and report.html go to --out. Killed and started again, a study continues where it was;
    runs that are finished are not trained again. Precision and batch size are the study's own for training, and
    those of the options for the evaluation.
    """
    from gradlens.workflows import study as workflow

    if list_:
        _print_list(workflow.listing(), as_json)
        return
    if name is None:
        raise click.UsageError("Missing argument 'NAME'; gradlens study --list shows them.")
    changes = workflow.Changes(data, epochs, seeds, only)
    # a dry run fetches nothing: what would have to be downloaded is listed as not here
    planned = workflow.plan(name, scale, changes, replace(runtime, offline=True) if dry_run else runtime)
    if dry_run:
        if as_json:
            print_json(planned.document())
        else:
            _print_plan(planned)
        return
    folder = out or Path("runs") / f"study-{planned.study.study}-{scale}"
    done = workflow.run(
        planned, folder, runtime, fresh=fresh, cluster=cluster, command=shlex.join(["gradlens", *sys.argv[1:]])
    )
    if as_json:
        print_json(
            {"study": planned.study.study, "scale": scale, "trained": list(done.trained), **done.measured.document}
        )
    else:
        click.echo(done.measured.text)
    runtime.say(f"wrote {folder}; {folder / 'report.html'} shows it")
    if done.skipped and strict:
        ctx.exit(3)


def _print_list(listed: list[dict[str, object]], as_json: bool) -> None:
    if as_json:
        print_json({"studies": listed})
        return
    for entry in listed:
        scales = entry["scales"]
        assert isinstance(scales, dict)
        runs = ", ".join(f"{scale} {told['runs']} runs" for scale, told in scales.items())
        click.echo(f"{entry['name']}  ({runs})\n{textwrap.indent(textwrap.fill(str(entry['question']), 100), '    ')}")


def _print_plan(planned: Plan) -> None:
    study = planned.study
    click.echo(f"{study.study} at scale {study.scale}: {study.title}\n{study.question}\n")
    rows = [("role", "images", "source")]
    rows += [(i.role, "-" if i.n is None else f"{i.n:,}", i.source) for i in planned.images]
    print_table(rows, right=(1,))
    click.echo()
    heads = ("model", "network", "side", "parameters", "GFLOPs", "starts from", "runs")
    print_table(
        [
            heads,
            *(
                (n.model, n.builder, str(n.input_size), f"{n.parameters:,}", f"{n.flops / 1e9:.2f}",
                 n.pretrained or "random weights", str(n.runs))
                for n in planned.networks
            ),
        ],
        right=(2, 3, 4, 6),
    )  # fmt: skip
    click.echo()
    families: dict[str, list[Run]] = {}
    for run in planned.runs:
        families.setdefault(run.family, []).append(run)
    lines = [("run", "strategy", "epochs", "optimiser", "rate", "schedule", "batch", "seeds")]
    for name, own in families.items():
        r = own[0].recipe
        seeds = ",".join(str(run.seed) for run in own)
        lines.append((name, r.strategy or "-", str(r.epochs), r.optimiser.name, f"{r.optimiser.lr:g}", r.schedule.name,
                      str(r.batch_size), seeds))  # fmt: skip
    print_table(lines, right=(2, 4, 6))
    click.echo(f"\nTold at the end: {', '.join(study.sections)}")
    for note in study.notes:
        click.echo(textwrap.fill(note, 110, initial_indent="- ", subsequent_indent="  "))
    for text in planned.missing:
        click.echo(f"not here: {text}")
