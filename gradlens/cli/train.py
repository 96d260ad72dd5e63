"""``gradlens train``: a recipe and an architecture in, a scored checkpoint of the zoo out."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from gradlens.cli.options import json_option, print_json, runtime_options, strict_option
from gradlens.runtime import Runtime


def _setting(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """``optimiser.lr=1e-3`` -> {"optimiser.lr": 0.001}; the value is TOML, and a bare word is a string."""
    changes: dict[str, Any] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise click.BadParameter(f"expected FIELD=VALUE, like optimiser.lr=1e-3, got {text!r}")
        try:
            changes[name.strip()] = tomllib.loads(f"v = {value}")["v"]
        except tomllib.TOMLDecodeError:
            changes[name.strip()] = value.strip()
    return changes


@click.command(
    "train",
    epilog="""\b
Examples:
  gradlens train --list
  gradlens train vehicles --model densenet
  gradlens train vehicles --model all
  gradlens train vehicles --model densenet --score-only
  gradlens train cifar10 --model resnet --data ../shared/data/cifar10-train.parquet \\
      --test ../shared/data/cifar10-test.parquet --probe ../shared/data/cifar10-internet.parquet
  gradlens train vehicles --model timm:resnet18 --out checkpoints/mine/resnet18 --data photos/train \\
      --select photos/select --test photos/test --set epochs=40 --set optimiser.lr=5e-4
""",
)
@click.argument("recipe", required=False)
@click.option(
    "--model", "models", multiple=True, metavar="NAME",
    help="Architecture of the recipe, 'all' of them, or a builder like timm:resnet18 (repeatable).",
)  # fmt: skip
@click.option("--list", "list_", is_flag=True, help="List the recipes and their architectures.")
@click.option("--data", metavar="SOURCE", help="Train on these images instead of the recipe's.")
@click.option("--select", metavar="SOURCE", help="Choose the best epoch on these images [default: part of --data].")
@click.option("--test", metavar="SOURCE", help="Score on this in-distribution test set when done.")
@click.option("--probe", "probes", multiple=True, metavar="SOURCE", help="Score on this shifted set too (repeatable).")
@click.option("--set", "changes", multiple=True, callback=_setting, metavar="FIELD=VALUE",
              help="Change a field of the recipe (repeatable).")  # fmt: skip
@click.option("--epochs", type=click.IntRange(1), help="Passes over the training images.")
@click.option("--out", type=click.Path(path_type=Path), help="Checkpoint folder [default: ZOO/<collection>/<model>].")
@click.option("--zoo", type=click.Path(path_type=Path), default=Path("checkpoints"), show_default=True,
              help="Folder that the collections lie in.")  # fmt: skip
@click.option("--work", type=click.Path(path_type=Path), help="Folder of the state [default: runs/train-<checkpoint>].")
@click.option("--fresh", is_flag=True, help="Start anew, even where a state or a checkpoint is there.")
@click.option("--score-only", is_flag=True, help="Train nothing; score finished checkpoints again.")
@strict_option
@json_option
@runtime_options
@click.pass_context
def command(
    ctx: click.Context,
    runtime: Runtime,
    recipe: str | None,
    models: tuple[str, ...],
    list_: bool,
    data: str | None,
    select: str | None,
    test: str | None,
    probes: tuple[str, ...],
    changes: dict[str, Any],
    epochs: int | None,
    out: Path | None,
    zoo: Path,
    work: Path | None,
    fresh: bool,
    score_only: bool,
    strict: bool,
    as_json: bool,
) -> None:
    """Train architectures by RECIPE (a name from --list, or a FILE.toml); each becomes a checkpoint of the zoo.

    Killed at any moment and started again with the same command, a training continues after its last finished epoch
    and ends with the same weights. A finished checkpoint is left as it is. The epoch that is kept is chosen on the
    selection images alone; test and probe sets are scored once, at the end.
    """
    from gradlens.train import recipes
    from gradlens.workflows import train as workflow

    if list_:
        listed = workflow.listing()
        if as_json:
            print_json({"recipes": listed})
        else:
            for entry in listed:
                click.echo(f"{entry['name']:<12}{entry['title']}\n{'':<12}--model {', '.join(entry['models'])}")
        return
    if recipe is None:
        raise click.UsageError("Missing argument 'RECIPE'; gradlens train --list shows them.")
    if not models:
        raise click.UsageError("Missing option '--model': an architecture of the recipe, or all.")
    wanted = [m for name in models for m in (recipes.models(recipe) if name == "all" else [name])]
    if len(wanted) > 1 and (out or work):
        raise click.UsageError("--out and --work are for one model; --zoo says where several go.")
    changes = dict(changes)
    if data is not None:  # other images: the recipe's own selection, test and probe sets are not theirs
        changes |= {"data.train": data, "data.test": test, "data.probes": list(probes)}
        if select is None:
            changes |= {"data.select": None, "data.select_fraction": changes.get("data.select_fraction", 0.1)}
    if select is not None:
        changes |= {"data.select": select, "data.select_fraction": 0.0}
    if test is not None:
        changes["data.test"] = test
    if probes:
        changes["data.probes"] = list(probes)
    if epochs is not None:
        changes["epochs"] = epochs
    for option, field, value in (
        ("seed", "seed", runtime.seed),
        ("precision", "precision", runtime.precision),
        ("batch_size", "batch_size", runtime.batch_size),
    ):
        if ctx.get_parameter_source(option) is not ParameterSource.DEFAULT and (value or option == "seed"):
            changes[field] = value
    loaded = [recipes.load(recipe, m, changes) for m in wanted]  # a typo ends it here, before the first epoch
    results: list[workflow.Result] = []
    shared: dict[str, workflow.Prepared] = {}
    for settings in loaded:
        folder = out or zoo / settings.collection / workflow.checkpoint_name(settings)
        if score_only:
            result = workflow.score(folder, settings, runtime)
        else:
            result = workflow.train(settings, folder, runtime, work=work, fresh=fresh, shared=shared)
        results.append(result)
        if not as_json:
            click.echo(workflow.summary(result))
    if as_json:
        print_json({"models": [workflow.as_document(r) for r in results]})
    if strict and any(r.skipped for r in results):
        ctx.exit(3)
