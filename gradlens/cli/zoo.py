"""``gradlens zoo``: list, show, import and verify trained models."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradlens.cli.options import (
    config_option,
    json_option,
    print_json,
    print_table,
    runtime_options,
    strict_option,
    zoo_option,
)
from gradlens.errors import one_line
from gradlens.runtime import Runtime

if TYPE_CHECKING:
    from gradlens.workflows.zoo import Entry

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def _light_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The shared options that matter where cards are read and no model runs."""
    for option in (
        config_option,
        click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks."),
        click.option("--quiet", is_flag=True, expose_value=False, help="No remarks (there are none here)."),
        json_option,
        zoo_option,
    ):
        command = option(command)
    return command


@click.group(
    epilog="""\b
Examples:
  gradlens zoo list
  gradlens zoo show densenet
  gradlens zoo verify
  gradlens zoo import mine/net --weights net.pth --arch timm:resnet18 --classes cat,dog --input-size 224
""",
)
def command() -> None:
    """List, show, import and verify trained models.

    A zoo is a folder of COLLECTION/MODEL/ folders, each with config.json and model.safetensors in timm's hub layout.
    """


@command.command(
    "list",
    epilog="""\b
Examples:
  gradlens zoo list
  gradlens zoo list --zoo my-models --json
""",
)
@_light_options
def list_command(zoo: Path | None, as_json: bool) -> None:
    """List the models of the zoo: architecture, parameters, input, test accuracy with its interval, size."""
    from gradlens.workflows.zoo import entries

    found = entries(zoo)
    if as_json:
        print_json({"models": [_document(e) for e in found]})
        return
    if not found:
        click.echo("the zoo is empty; train a model (gradlens train) or import one (gradlens zoo import)", err=True)
        return
    head = ("name", "architecture", "parameters", "input", "test accuracy", "95 % interval", "test set", "MB")
    rows = [head]
    for e in found:
        if e.card is None:
            continue
        score = e.test
        rows.append(
            (
                e.name,
                e.card.builder,
                f"{e.card.parameters:,}",
                _sides(e.card.preprocess.input_size),
                f"{score.value:.1%}" if score else "-",
                f"{score.low:.1%} – {score.high:.1%}" if score else "-",
                e.card.test or "-",
                f"{e.card.size / 1e6:.1f}",
            )
        )
    print_table(rows, right=(2, 3, 4, 5, 7))
    for e in found:
        if e.problem is not None:
            click.echo(f"{e.name}: {e.problem}")


def _document(entry: Entry) -> dict[str, Any]:
    card, score = entry.card, entry.test
    document: dict[str, Any] = {"name": entry.name, "folder": str(entry.folder), "problem": entry.problem}
    if card is None:
        return document
    return document | {
        "builder": card.builder,
        "arguments": card.arguments,
        "classes": list(card.classes),
        "input_size": list(card.preprocess.input_size),
        "parameters": card.parameters,
        "flops": card.flops,
        "size": card.size,
        "sha256": card.sha256,
        "test": score.model_dump() if score else None,
    }


@command.command(
    "show",
    epilog="""\b
Examples:
  gradlens zoo show densenet
  gradlens zoo show cifar10/resnet --json
  gradlens zoo show path/to/checkpoint
""",
)
@click.argument("name")
@_light_options
def show_command(name: str, zoo: Path | None, as_json: bool) -> None:
    """Show the card of a model: what built it, how it was trained, what it scores where."""
    from gradlens.workflows.zoo import show

    entry = show(name, zoo)
    card = entry.card
    if card is None:
        raise click.ClickException(entry.problem or "there is no card")
    if as_json:
        print_json({"models": [{"name": entry.name, "folder": str(entry.folder), **card.model_dump(mode="json")}]})
        return
    pre = card.preprocess
    arguments = ", ".join(f"{k}={v}" for k, v in card.arguments.items())
    facts = [
        ("architecture", card.builder + (f" ({arguments})" if arguments else "")),
        ("classes", f"{len(card.classes)}: {_shortened(card.classes)}"),
        ("cost", f"{card.parameters:,} parameters, {card.flops / 2e6:,.1f} million MACs, {card.size / 1e6:.2f} MB"),
        ("input", f"{_sides(pre.input_size)}, {pre.interpolation}, {pre.crop_mode} crop {pre.crop_pct:g}"),
        ("normalised", f"mean {_numbers(pre.mean)}, std {_numbers(pre.std)}"),
    ]
    if card.training is not None:
        made = card.training
        kept = f" (number {made.kept} kept)" if made.kept else ""
        how = f"recipe {made.recipe}, {made.epochs} epochs{kept}, seed {made.seed}, {made.seconds:,.0f} s"
        facts.append(("trained", how))
        facts.append(("on", f"{made.images:,} images of {made.data}"))
    elif card.source:
        facts.append(("imported from", card.source))
    facts += [("folder", str(entry.folder)), ("sha256", card.sha256 or "(not on the card)")]
    click.echo(click.style(entry.name, bold=True))
    for what, value in facts:
        click.echo(f"  {what:<13}  {value}")
    if card.scores:
        rows: list[tuple[str, ...]] = [("set", "metric", "score", "95 % interval", "images", "interval by")]
        for s in card.scores:
            name_ = s.dataset + (" (test)" if s.dataset == card.test else "")
            rows.append((name_, s.metric, f"{s.value:.2%}", f"{s.low:.2%} – {s.high:.2%}", str(s.n), s.interval))
        click.echo()
        print_table(rows, right=(2, 3, 4))


def _sides(input_size: tuple[int, int, int]) -> str:
    return f"{input_size[1]}×{input_size[2]}"


def _shortened(names: tuple[str, ...], most: int = 12) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{v:.4g}" for v in values)


@command.command(
    "trust",
    epilog="""\b
Examples:
  gradlens zoo trust mine/resnet20
  gradlens zoo trust path/to/checkpoint
""",
)
@click.argument("name")
@_light_options
def trust_command(name: str, zoo: Path | None, as_json: bool) -> None:
    """Agree to run the Python code that the checkpoint NAME brings.

    A checkpoint whose network a Python file builds runs that file when it is loaded, with all your rights. One that
    you trained or imported here is trusted; one that came from elsewhere is refused until you have read its file and
    agreed. What is agreed to is the file's content: one byte more, and it is asked for again.
    """
    from gradlens.workflows.zoo import trust

    files = trust(name, zoo)
    if as_json:
        print_json({"models": [{"name": name, "trusted": list(map(str, files))}]})
    for file in files if not as_json else ():
        click.echo(f"{file} may run")
    if not files:
        click.echo(f"{name} brings no code; there is nothing to agree to", err=True)


@command.command(
    "verify",
    epilog="""\b
Examples:
  gradlens zoo verify
  gradlens zoo verify densenet vit --every-set
  gradlens zoo verify 'cifar10/*' --test ../shared/data/cifar10-test.parquet
""",
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--test", default=None, metavar="SOURCE", help="The test set, where it is not where the card says.")
@click.option(
    "--every-set", is_flag=True, help="Compute the scores on every set a card names, not only on its test set."
)
@zoo_option
@strict_option
@json_option
@runtime_options
def verify_command(
    names: tuple[str, ...],
    test: str | None,
    every_set: bool,
    zoo: Path | None,
    strict: bool,
    as_json: bool,
    runtime: Runtime,
) -> int:
    """Compute anew what cards say: checksum, parameters, FLOPs, size, test scores.

    All models where none is named. Leaves with 1 when a card says what is not so; with --strict, with 3 when
    something could not be checked (an imported model without scores, a test set that is not here).
    """
    from gradlens.workflows.zoo import verify

    results = verify(names, runtime, zoo=zoo, test=test, every_set=every_set)
    if as_json:
        checks = [
            {"model": r.name, "claim": c.claim, "ok": c.ok, "says": c.says, "found": c.found}
            for r in results
            for c in r.checks
        ]
        print_json({"models": [{"name": r.name, "ok": not r.lies} for r in results], "checks": checks})
    for r in results if not as_json else ():
        true = sum(c.ok is True for c in r.checks)
        if r.lies:
            verdict = click.style("the card is wrong", fg="red", bold=True)
        elif r.unchecked:
            verdict = click.style("true as far as it could be checked", fg="yellow")
        else:
            verdict = click.style("true", fg="green")
        scores = [c for c in r.checks if c.claim.startswith("accuracy on") and c.ok]
        shown = "; ".join(f"{c.claim}: {c.found}" for c in scores)
        click.echo(f"{r.name}: {verdict} ({true} of {len(r.checks)} claims hold{'; ' + shown if shown else ''})")
        for c in r.checks:
            if c.ok is False:
                click.echo(f"  {c.claim}: the card says {c.says}, found {c.found}")
            elif c.ok is None:
                click.echo(f"  {c.claim}: {c.says}{'; ' + c.found if c.found else ''} (not checked)")
    if any(r.lies for r in results):
        return 1
    return 3 if strict and any(r.unchecked for r in results) else 0


def _name(ctx: click.Context, param: click.Parameter, value: str) -> str:
    part = r"[^\W.][\w.-]*"
    if not re.fullmatch(f"{part}(/{part})?", value):
        raise click.BadParameter(f"expected MODEL or COLLECTION/MODEL of letters, digits, . _ and -, got {value!r}")
    return value


def _classes(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """``a,b,c``, a number, or a file with one name per line (or a JSON list)."""
    path = Path(value)
    if "," not in value and path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
            names = json.loads(text) if path.suffix == ".json" else text.splitlines()
        except (OSError, ValueError, RecursionError) as err:
            kind = "JSON" if path.suffix == ".json" else "a list of names in UTF-8"
            raise click.BadParameter(one_line(f"{path} is not {kind}: {err}")) from None
        names = names if isinstance(names, list) else []
        names = [str(n).strip() for n in names if str(n).strip()]
    elif value.isdigit():
        names = [f"class_{i}" for i in range(int(value))]
    elif "," not in value and (path.suffix or "/" in value):
        raise click.BadParameter(
            f"expected names with commas between them or a file of names; there is no file {value}"
        )
    else:
        names = [n.strip() for n in value.split(",") if n.strip()]
    if doubles := [n for n, count in Counter(names).items() if count > 1]:
        raise click.BadParameter(one_line(f"class names must differ; {doubles[0]!r} comes twice"))
    if not names:
        raise click.BadParameter(f"no class names in {value!r}")
    return tuple(names)


def _triple(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...]:
    """Three numbers with commas, or one for all channels."""
    if value is None:
        return IMAGENET[param.name or ""]
    try:
        numbers = tuple(float(v) for v in value.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 3) or (param.name == "std" and min(numbers) <= 0):
        raise click.BadParameter(f"expected one or three {'positive ' * (param.name == 'std')}numbers, got {value!r}")
    return numbers * 3 if len(numbers) == 1 else numbers


def _arguments(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """``KEY=VALUE``, the value read as JSON where it is JSON, else as text."""
    found: dict[str, Any] = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals or not key.isidentifier() or key == "num_classes":
            raise click.BadParameter(f"expected KEY=VALUE (num_classes comes from --classes), got {value!r}")
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = text
    return found


@command.command(
    "import",
    epilog="""\b
Examples:
  gradlens zoo import mine/birds --weights birds.pth --arch timm:resnet18 --classes wren,robin --input-size 224
  gradlens zoo import mine/scans --weights last.ckpt --arch torchvision:densenet121 --classes names.txt --input-size 320
  gradlens zoo import mine/resnet20 --weights resnet20.th --arch net.py:resnet20 --classes names.txt \\
      --input-size 32 --test cifar10-test.parquet
""",
)
@click.argument("name", callback=_name)
@click.option(
    "--weights",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="safetensors, .pth, .pt, .th, .ckpt; never run as code.",
)
@click.option("--arch", required=True, metavar="timm:NAME|torchvision:NAME|FILE.py:FACTORY", help="What builds it.")
@click.option("--arg", "arguments", multiple=True, metavar="KEY=VALUE", callback=_arguments, help="To the builder.")
@click.option("--classes", required=True, metavar="A,B,C|FILE|N", callback=_classes, help="In the logits' order.")
@click.option("--input-size", required=True, type=click.IntRange(1), metavar="N", help="Side of the input in pixels.")
@click.option("--mean", default=None, metavar="R,G,B", callback=_triple, help="[default: ImageNet's]")
@click.option("--std", default=None, metavar="R,G,B", callback=_triple, help="[default: ImageNet's]")
@click.option(
    "--interpolation",
    type=click.Choice(["bilinear", "bicubic"]),
    default="bilinear",
    show_default=True,
    help="Resizing.",
)
@click.option(
    "--crop-pct",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Part of the resized image that the middle crop keeps (0.875 for many ImageNet models).",
)
@click.option("--test", default=None, metavar="SOURCE", help="Score it on this test set; the card keeps the scores.")
@click.option("--licence", default="", help="Of the weights, for the card.")
@click.option("--force", is_flag=True, help="Replace a model of that name.")
@zoo_option
@json_option
@runtime_options
def import_command(
    name: str,
    weights: Path,
    arch: str,
    arguments: dict[str, Any],
    classes: tuple[str, ...],
    input_size: int,
    mean: Any,
    std: Any,
    interpolation: Any,
    crop_pct: float,
    test: str | None,
    licence: str,
    force: bool,
    zoo: Path | None,
    as_json: bool,
    runtime: Runtime,
) -> None:
    """Turn weights from elsewhere into the model NAME (MODEL or COLLECTION/MODEL) of the zoo.

    Weights nested under state_dict, model or ema, with module. and the like before their names, or in half precision
    are understood. They must fit the architecture wholly: what is missing, unexpected or mis-shaped is listed, and
    nothing is written. FACTORY is called as FACTORY(num_classes=K, ...) and returns a module; FILE.py is the one place
    where code of yours runs. It is copied into the checkpoint, so it must stand alone; on another machine it runs
    after gradlens zoo trust NAME.
    """
    from gradlens.records import Preprocess
    from gradlens.workflows.zoo import ImportRequest, import_model

    preprocess = Preprocess((3, input_size, input_size), interpolation, crop_pct, "center", mean, std)
    entry = import_model(
        ImportRequest(name, weights, arch, classes, preprocess, arguments, zoo, test, licence, force), runtime
    )
    if as_json:
        print_json({"models": [_document(entry)]})
        return
    if entry.card is not None:
        click.echo(f"{entry.folder}: {entry.card.parameters:,} parameters, {len(entry.card.classes)} classes")
        for s in entry.card.scores:
            click.echo(f"  {s.metric} on {s.dataset}: {s.value:.2%} [{s.low:.2%}, {s.high:.2%}] of {s.n} images")
    runtime.say(f"now: gradlens cam --model {entry.name}" + (f" --zoo {zoo}" if zoo else ""))
