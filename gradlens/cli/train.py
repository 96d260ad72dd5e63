"""``gradlens train``: a recipe and an architecture in, a scored checkpoint of the zoo out."""

from __future__ import annotations

import contextlib
import shutil
import textwrap
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from gradlens.cli.options import command_line, json_option, print_json, runtime_options, strict_option
from gradlens.cli.sections import SectionedCommand
from gradlens.processes import ALONE, launched, together
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


_SECTIONS = {
    "What is trained": ("--model", "--pretrained", "--strategy", "--head", "--seed"),
    "On what": ("--data", "--select", "--test", "--probe"),
    "How": ("--epochs", "--batch-size", "--patience", "--class-weights", "--precision", "--set"),
    "What is left": ("--out", "--zoo", "--work", "--fresh", "--log"),
    "Instead of training": ("--list", "--dry-run", "--show-batch", "--score-only"),
}


@click.command(
    "train",
    cls=SectionedCommand,
    sections=_SECTIONS,
    epilog="""\b
Examples:
  gradlens train --list
  gradlens train vehicles --model densenet --dry-run
  gradlens train vehicles --model densenet --show-batch batch.png
  gradlens train vehicles --model all
  gradlens train vehicles --model resnet --seed 1 --log tensorboard
  torchrun --nproc-per-node 2 -m gradlens train vehicles --model vit
  gradlens train vehicles --model densenet --score-only
  gradlens train cifar10 --model resnet --data ../shared/data/cifar10-train.parquet \\
      --test ../shared/data/cifar10-test.parquet --probe ../shared/data/cifar10-internet.parquet
  gradlens train cifar10 --model resnet --pretrained cifar10/resnet --strategy two-phase --patience 5 \\
      --data ../shared/data/catdog-train.parquet --test ../shared/data/catdog-test.parquet \\
      --out checkpoints/catdog/resnet
  gradlens train vehicles --model timm:resnet18 --pretrained imagenet --strategy frozen --head mlp \\
      --data photos/train --select photos/select --test photos/test --set optimiser.lr=1e-3
""",
)
@click.argument("recipe", required=False)
@click.option(
    "--model", "models", multiple=True, metavar="NAME",
    help="Architecture of the recipe, 'all' of them, or a builder like timm:resnet18 (repeatable).",
)  # fmt: skip
@click.option(
    "--pretrained", metavar="imagenet|MODEL|PATH",
    help="Weights to start from: the library's own (its cache, else a download), a model of the zoo, a checkpoint "
    "folder or a weight file [default: drawn from the seed].",
)  # fmt: skip
@click.option(
    "--strategy", metavar="NAME[:DEPTHS]",
    help="What learns when: scratch, full, frozen, partial, two-phase, one-frozen, gradual; with depths, like "
    "two-phase:last:2, the blocks that learn.",
)  # fmt: skip
@click.option("--head", metavar="own|linear|mlp|FILE.py:FACTORY", help="What turns features into logits.")
@click.option("--data", metavar="SOURCE", help="Train on these images instead of the recipe's.")
@click.option("--select", metavar="SOURCE", help="Choose the best epoch on these images [default: part of --data].")
@click.option("--test", metavar="SOURCE", help="Score on this in-distribution test set when done.")
@click.option("--probe", "probes", multiple=True, metavar="SOURCE", help="Score on this shifted set too (repeatable).")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the training images.")
@click.option("--patience", type=click.IntRange(0), metavar="EPOCHS",
              help="Stop after so many epochs without a better selection loss; 0 never does.")  # fmt: skip
@click.option("--class-weights", type=click.Choice(["none", "balanced"]),
              help="Weight classes by the inverse of their share of the training images.")  # fmt: skip
@click.option("--set", "changes", multiple=True, callback=_setting, metavar="FIELD=VALUE",
              help="Change any field of the recipe (repeatable).")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Checkpoint folder [default: ZOO/<collection>/<model>, "
              "and -s<seed> where the seed is not the recipe's].")  # fmt: skip
@click.option("--zoo", type=click.Path(path_type=Path), default=Path("checkpoints"), show_default=True,
              help="Folder that the collections lie in.")  # fmt: skip
@click.option("--work", type=click.Path(path_type=Path),
              help="Folder of state, metrics.jsonl, logs and curves [default: runs/train-<checkpoint>].")  # fmt: skip
@click.option("--fresh", is_flag=True, help="Start anew, even where a state or a checkpoint is there.")
@click.option("--log", "logs", multiple=True, type=click.Choice(["tensorboard", "wandb"]),
              help="Write this log too, in the work folder; nothing is sent (repeatable).")  # fmt: skip
@click.option("--list", "list_", is_flag=True, help="List the recipes and their architectures.")
@click.option("--dry-run", is_flag=True, help="Say what would be trained, and how long it would take; train nothing.")
@click.option("--show-batch", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Draw the first batch before and after augmentation; train nothing.")  # fmt: skip
@click.option("--score-only", is_flag=True, help="Train nothing; score finished checkpoints again.")
@strict_option
@json_option
@partial(runtime_options, recipe=True)
@click.pass_context
def command(
    ctx: click.Context,
    runtime: Runtime,
    recipe: str | None,
    models: tuple[str, ...],
    pretrained: str | None,
    strategy: str | None,
    head: str | None,
    list_: bool,
    data: str | None,
    select: str | None,
    test: str | None,
    probes: tuple[str, ...],
    changes: dict[str, Any],
    epochs: int | None,
    patience: int | None,
    class_weights: str | None,
    out: Path | None,
    zoo: Path,
    work: Path | None,
    fresh: bool,
    logs: tuple[str, ...],
    dry_run: bool,
    show_batch: Path | None,
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
    from gradlens.workflows import train_plan

    if list_:
        listed = workflow.listing()
        if as_json:
            print_json({"recipes": listed})
        else:
            _print_list(listed)
        return
    if recipe is None:
        raise click.UsageError("Missing argument 'RECIPE'; gradlens train --list shows them.")
    if not models:
        raise click.UsageError("Missing option '--model': an architecture of the recipe, or all.")
    if dry_run + score_only + (show_batch is not None) > 1:
        raise click.UsageError("--dry-run, --show-batch and --score-only each stand instead of a training: give one.")
    wanted = [m for name in models for m in (recipes.models(recipe) if name == "all" else [name])]
    if len(wanted) > 1 and (out or work):
        raise click.UsageError("--out and --work are for one model; --zoo says where several go.")
    if len(wanted) > 1 and show_batch:
        raise click.UsageError("--show-batch is for one model.")
    changes = dict(changes)
    if data is not None:  # other images: the recipe's own selection, test and probe sets are not theirs
        changes |= {"data.train": data, "data.test": test, "data.probes": list(probes)}
        if select is None:
            changes["data.select"] = None
    if select is not None:
        changes |= {"data.select": select, "data.select_fraction": 0.0}
    if test is not None:
        changes["data.test"] = test
    if probes:
        changes["data.probes"] = list(probes)
    if strategy is not None:
        changes |= {"strategy": strategy, "phases": []}
    given = {
        "epochs": epochs,
        "pretrained": pretrained,
        "head.kind": head,
        "stopping.patience": patience,
        "class_weights": class_weights,
    }
    changes |= {field: value for field, value in given.items() if value is not None}
    for option, value in (("precision", runtime.precision), ("batch_size", runtime.batch_size)):
        if ctx.get_parameter_source(option) is not ParameterSource.DEFAULT and value:
            changes[option] = value
    own_seeds = [recipes.load(recipe, m, changes).seed for m in wanted]
    if ctx.get_parameter_source("seed") is not ParameterSource.DEFAULT:
        changes["seed"] = runtime.seed
    loaded = [recipes.load(recipe, m, changes) for m in wanted]  # a typo ends it here, before the first epoch
    instead = dry_run or score_only or show_batch is not None
    if instead and launched()[0]:
        return  # nothing is trained, so there is nothing to share: the first process does it alone
    documents = []
    skipped = False
    shared: dict[str, workflow.Prepared] = {}
    with contextlib.nullcontext(ALONE) if instead else together() as processes:
        runtime = runtime.among(processes)
        for settings, own_seed in zip(loaded, own_seeds, strict=True):
            folder = out or zoo / settings.collection / workflow.checkpoint_name(settings, own_seed)
            if dry_run:
                planned = train_plan.plan(settings, folder, runtime)
                documents.append(train_plan.as_document(planned))
                text = train_plan.as_text(planned)
            elif show_batch:
                text = str(workflow.show_batch(settings, show_batch, runtime))
                documents.append({"name": settings.model, "figure": text})
            else:
                if score_only:
                    result = workflow.score(folder, settings, runtime)
                else:
                    result = workflow.train(
                        settings, folder, runtime,
                        work=work, fresh=fresh, shared=shared, logs=logs, command=command_line(ctx),
                    )  # fmt: skip
                documents.append(workflow.as_document(result))
                text = workflow.summary(result)
                skipped |= bool(result.skipped)
            if processes.first and not as_json:
                click.echo(text)
    if not processes.first:
        return
    if as_json:
        print_json({"models": documents})
    if strict and skipped:
        ctx.exit(3)


def _print_list(listed: list[dict[str, Any]]) -> None:
    """Each recipe with its images and architectures, then what the options that go with any of them take."""
    from gradlens.train.logs import LOGS
    from gradlens.train.strategies import STRATEGIES

    margin = max(len(entry["name"]) for entry in listed) + 2
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    for entry in listed:
        click.echo(f"{click.style(entry['name'], bold=True)}{'':<{margin - len(entry['name'])}}{entry['title']}")
        about = f"{entry['data']}, {entry['input_size']} pixels, {entry['epochs']} epochs"
        models = f"--model {', '.join(entry['models'])}"
        for line in (about, *textwrap.wrap(models, width - margin, subsequent_indent=" " * 8)):
            click.echo(f"{'':<{margin}}{line}")
        click.echo()
    for option, takes in (
        ("--model", "timm:NAME, torchvision:NAME, hf:REPO or FILE.py:FACTORY, with any of these recipes"),
        ("--pretrained", "imagenet, COLLECTION/MODEL of the zoo, or a path"),
        ("--strategy", ", ".join(STRATEGIES)),
        ("--log", ", ".join(LOGS)),
    ):
        click.echo(f"{option:<14}{takes}")
