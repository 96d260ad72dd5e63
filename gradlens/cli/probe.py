"""``gradlens probe``: list, check, add and render probe sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from gradlens.cli.options import config_option, json_option, print_json, print_table, strict_option
from gradlens.runtime import Runtime


def _light_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The shared options that matter where no model runs (and torch need not be imported)."""
    for option in (
        config_option,
        click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks."),
        click.option("--quiet", is_flag=True, help="No progress bars, no remarks."),
        json_option,
    ):
        command = option(command)
    return command


def _count(things: Sequence[object], what: str) -> str:
    return _number(len(things), what)


def _number(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


@click.group(
    epilog="""\b
Examples:
  gradlens probe list
  gradlens probe check vehicles-night
  gradlens probe add my-photos photos/ --shift "phone photographs"
  gradlens probe render vehicles-train
""",
)
def command() -> None:
    """Add, check, list and render probe sets: named image sets with a role, a shift, a source and checksums."""


@command.command(
    "list",
    epilog="""\b
Examples:
  gradlens probe list
  gradlens probe list --json
""",
)
@_light_options
def list_command(as_json: bool, quiet: bool) -> None:
    """List the probe sets that a SOURCE can name."""
    from gradlens.workflows.probe import list_sets

    entries = list_sets()
    if as_json:
        print_json({"probe_sets": [asdict(e) for e in entries]})
        return
    if not entries:
        click.echo("no probe sets in ./probe_sets or with gradlens; make one: gradlens probe add", err=True)
        return
    head = ("name", "role", "shift", "images", "classes", "paired with")
    rows = [
        (e.name, e.role, e.shift or "-", str(e.images or "-"), str(len(e.classes)), e.paired_with or "-")
        for e in entries
        if e.problem is None
    ]
    print_table((head, *rows), right=(3, 4))
    for e in entries:
        if e.problem is not None:
            click.echo(f"{e.name}: {e.problem}")


@command.command(
    "check",
    epilog="""\b
Examples:
  gradlens probe check
  gradlens probe check vehicles-night vehicles-test
  gradlens probe check ./probe_sets/my-photos --json
""",
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@_light_options
def check_command(names: tuple[str, ...], as_json: bool, quiet: bool) -> int:
    """Check images, masks, checksums and pairs.

    Reads every image of the named probe sets, compares checksums, sizes and codecs, looks for exact copies, for
    near-duplicates that duplicates.csv does not list, and for pairs that do not exist; sets that are named are
    rendered first where that is needed. All sets where none is named. Leaves with 1 when something is wrong.
    """
    from gradlens.workflows.probe import check_sets

    checks = check_sets(names, Runtime(quiet=quiet))
    if as_json:
        print_json({"checks": [{**asdict(c), "ok": not c.problems} for c in checks]})
    else:
        for c in checks:
            sound = "sound" if c.complete else f"manifest sound; not rendered yet (gradlens probe check {c.name})"
            click.echo(f"{c.name}: " + (_count(c.problems, "problem") if c.problems else sound))
            for problem in c.problems:
                click.echo(f"  {problem}")
            for remark in c.remarks:
                click.echo(f"  note: {remark}", err=True)
    return 1 if any(c.problems for c in checks) else 0


@command.command(
    "add",
    epilog="""\b
Examples:
  gradlens probe add my-photos photos/ --shift "phone photographs" --licence "CC BY 4.0"
  gradlens probe add web downloads/web.parquet --source "collected by hand, March" --shift "web images"
  gradlens probe add noisy noisy-copies/ --paired-with vehicles-test --shift noise
  gradlens probe add my-photos photos/ --map map.toml --classes car,bus --against vehicles-test
""",
)
@click.argument("name")
@click.argument("source", metavar="SOURCE")
@click.option("--role", type=click.Choice(["probe", "test", "select", "train"]), default="probe", show_default=True)
@click.option("--shift", default="not stated", show_default=True, help="What is different; 'none' in distribution.")
@click.option("--title", default="", help="For tables and figures [default: the name].")
@click.option("--description", default="", help="A sentence or two for people.")
@click.option("--licence", default="", help="Of the images.")
@click.option("--source", "provenance", default="", help="Where the images came from [default: SOURCE].")
@click.option("--paired-with", default=None, metavar="SOURCE", help="Set with the same scenes: same class, same stem.")
@click.option("--map", "mapping", type=click.Path(path_type=Path), help="Class mapping (TOML): rename, merge, drop.")
@click.option("--classes", default="", metavar="A,B,...", help="The classes that may be there; others are refused.")
@click.option(
    "--about", type=click.Path(path_type=Path), help="CSV with the columns path, source_url and perhaps licence."
)
@click.option(
    "--against", multiple=True, metavar="SOURCE", help="Training or test data to compare the images with (repeatable)."
)
@click.option(
    "--filtered-by", multiple=True, metavar="MODEL", help="Model whose predictions chose the images (repeatable)."
)
@click.option("--drop-duplicates", is_flag=True, help="Leave near-duplicates out instead of listing them.")
@click.option("--into", type=click.Path(path_type=Path), default=Path("probe_sets"), show_default=True)
@click.option("--offline", is_flag=True, help="Look nothing up on a network.")
@strict_option
@_light_options
def add_command(name: str, source: str, strict: bool, as_json: bool, quiet: bool, offline: bool, **given: Any) -> int:
    """Make a probe set of labelled images.

    Copies the images of SOURCE (a folder of class folders, a .parquet, ...) byte for byte, with a manifest
    (probe.toml), a table of native sizes, codecs and checksums (images.csv), what was left out and why
    (quarantine.csv: unreadable files, exact copies, links that lead elsewhere), and near-duplicates inside the set and
    in the sets of --against (duplicates.csv). Only images whose EXIF turns them are stored anew, upright. SOURCE is
    not touched.
    """
    from gradlens.workflows.probe import add

    runtime = Runtime(offline=offline, quiet=quiet)
    given["classes"] = tuple(c.strip() for c in given["classes"].split(",") if c.strip())
    added = add(name, source, runtime=runtime, **given)
    if as_json:
        print_json({"probe_sets": [asdict(added)]})
    else:
        total, filled = sum(added.images.values()), sum(n > 0 for n in added.images.values())
        pairs = f", {added.paired} of them paired" if given["paired_with"] else ""
        click.echo(f"{added.folder}: {total} images of {filled} classes{pairs}")
    if empty := [c for c, n in added.images.items() if not n]:
        runtime.say(f"no image, so left out of its classes: {', '.join(empty)}")
    for s in added.skipped:
        runtime.say(f"skipped {s.path}: {s.reason}")
    for remark in added.remarks:
        runtime.say(f"note: {remark}")
    if added.upright:
        runtime.say(f"{_number(added.upright, 'image')} turned upright, as EXIF says, and stored as PNG")
    if added.duplicates:
        runtime.say(f"{_number(added.duplicates, 'image')} nearly repeat another one of the set; see duplicates.csv")
    for other, n in added.leaked.items():
        runtime.say(f"{_number(n, 'image')} nearly repeat one of {other}" + ("; see duplicates.csv" if n else ""))
    runtime.say(f"next: gradlens shift-eval --probe {name if str(given['into']) == 'probe_sets' else added.folder}")
    return 3 if strict and added.skipped else 0


@command.command(
    "render",
    epilog="""\b
Examples:
  gradlens probe render vehicles-train
  gradlens probe render all --out rendered
""",
)
@click.argument("names", nargs=-1, required=True, metavar="NAME...|all")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder to write <NAME>/ into [default: the set's own folder, or the cache where no images are committed].",
)
@_light_options
def render_command(names: tuple[str, ...], out: Path | None, as_json: bool, quiet: bool) -> None:
    """Render embedded sets again by their recipes.

    Compares the result with the published checksums.
    """
    from gradlens.workflows.probe import render

    done = render(names, out, Runtime(quiet=quiet))
    if as_json:
        print_json({"probe_sets": [asdict(r) for r in done]})
        return
    same = {
        True: "identical to the published set",
        False: "DIFFERS from the published set",
        None: "no checksum to compare",
    }
    for r in done:
        click.echo(f"{r.folder}: {r.images} images, {same[r.identical]}")


@command.command(
    "sheet",
    epilog="""\b
Examples:
  gradlens probe sheet vehicles-test
  gradlens probe sheet photos/ --per-class 3 --out photos.pdf
""",
)
@click.argument("name", metavar="SOURCE")
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="The picture: .png, .pdf, .svg [default: NAME.png]."
)
@click.option("--per-class", type=click.IntRange(1), default=1, show_default=True, help="Images of each class.")
@_light_options
def sheet_command(name: str, out: Path | None, per_class: int, as_json: bool, quiet: bool) -> None:
    """A picture of a set: images of each class, beside the same scenes in the sets paired with it."""
    from gradlens.workflows.probe import sheet

    default = Path(f"{Path(name).stem}.png")
    written = sheet(name, out or default, per_class, Runtime(quiet=quiet))
    if as_json:
        print_json({"figures": [str(written)]})
    else:
        click.echo(str(written))
