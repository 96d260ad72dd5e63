"""What commands share: options, the run's folder, and the two ways to print: a JSON document, a table."""

from __future__ import annotations

import functools
import itertools
import json
import shlex
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from gradlens.errors import suggest
from gradlens.runtime import Runtime


def _read_config(ctx: click.Context, _: click.Parameter, value: Path | None) -> Path | None:
    """Defaults from a TOML file: its top level, then the table named like the command (``[cam]``, ``[zoo.verify]``)."""
    if value is None:
        return None
    try:
        table = tomllib.loads(value.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as err:
        raise click.BadParameter(f"{value} is not TOML: {err}") from None
    root = ctx.find_root()
    if isinstance(root.command, click.Group):
        commands = root.command.list_commands(root)
        for name, content in table.items():
            if isinstance(content, dict) and name not in commands:
                near = suggest(name, commands)
                hint = f"; did you mean [{near[0]}]?" if near else f"; commands: {', '.join(commands)}"
                raise click.BadParameter(f"{value} has a table [{name}], which is no command{hint}")
    given = {k: v for k, v in table.items() if not isinstance(v, dict)}
    for name in ctx.command_path.split()[1 if ctx.parent else 0 :]:
        inner = table.get(name, {})
        table = inner if isinstance(inner, dict) else {}
        given |= {k: v for k, v in table.items() if not isinstance(v, dict)}
    # spelled as on the command line ("batch-size", "model"), or as click stores it
    parameters = {p.name: p for p in ctx.command.params}
    spelled = {opt.lstrip("-").replace("-", "_"): p for p in ctx.command.params for opt in p.opts} | parameters
    defaults = {}
    for name, setting in given.items():
        parameter = spelled.get(name.replace("-", "_"))
        if parameter is None or parameter.name is None:
            near = suggest(name, [str(key) for key in spelled])
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise click.BadParameter(f"{value} sets {name!r}, which {ctx.command_path} does not have{hint}")
        if parameter.multiple and not isinstance(setting, list):  # click would take a word for a list of letters
            setting = [setting]
        defaults[parameter.name] = setting
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return value


def _batch_size(ctx: click.Context, param: click.Parameter, value: str) -> int:
    if value == "auto":
        return 0
    if not str(value).isdigit() or int(value) < 1:
        raise click.BadParameter(f"expected a positive whole number or auto, got {value!r}")
    return int(value)


def _batch_sizes(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[int, ...]:
    found = [_batch_size(ctx, param, part.strip()) for value in values for part in str(value).split(",")]
    return tuple(dict.fromkeys(n for n in found if n))  # auto leaves the choice to the command


config_option = click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help="TOML file with defaults for these options.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
zoo_option = click.option(
    "--zoo", type=click.Path(path_type=Path), default=None, help="Folder of checkpoints [default: checkpoints]."
)
model_option = click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="Model: zoo name, glob, 'all', folder, timm:NAME, torchvision:NAME, hf:REPO, FILE.py:FACTORY, whose code runs "
    "(repeatable).",
)
weights_option = click.option(
    "--weights", default=None, metavar="FILE|pretrained|random", help="Weights for a model that is not in the zoo."
)
out_option = click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="Output folder [default: runs/<verb>-<time>]."
)
_batch_sizes_option = click.option(
    "--batch-size", "batch_sizes", multiple=True, callback=_batch_sizes, metavar="N,N,...",
    help="Images per pass of the throughput (repeatable, or a list).",
)  # fmt: skip
strict_option = click.option("--strict", is_flag=True, help="Exit with 3 when an input had to be skipped.")


def runtime_options(
    command: Callable[..., Any], *, batch_sizes: bool = False, recipe: bool = False
) -> Callable[..., Any]:
    """Adds the options of a :class:`~gradlens.runtime.Runtime` and hands it over as ``runtime``.

    Args:
        command: what they are added to.
        batch_sizes: it is given ``batch_sizes``, several, and the runtime leaves the choice.
        recipe: a recipe says precision, batch size and seed where the command line does not, and ``--help`` says so.
    """
    default = " [default: the recipe's]." if recipe else "."
    batch_size_option = click.option(
        "--batch-size", default="auto", show_default=not recipe, callback=_batch_size, metavar="N|auto",
        help=f"Images per pass{default}",
    )  # fmt: skip

    @click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]|mps",
                  help="Where the networks run; auto takes a GPU where there is one.")  # fmt: skip
    @click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=not recipe,
                  help=f"Of the networks' passes{default}")  # fmt: skip
    @(_batch_sizes_option if batch_sizes else batch_size_option)
    @click.option("--workers", type=click.IntRange(0), default=0, help="Decoding threads [default: chosen].")
    @click.option("--seed", type=click.IntRange(0), default=0, show_default=not recipe,
                  help=f"Of everything random{default}")  # fmt: skip
    @click.option("--offline", is_flag=True, help="Look nothing up on a network.")
    @click.option("--quiet", is_flag=True, help="No progress bars, no remarks.")
    @click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")
    @config_option
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        device: str,
        precision: Any,
        workers: int,
        seed: int,
        offline: bool,
        quiet: bool,
        batch_size: int = 0,
        **kwargs: Any,
    ) -> Any:
        from gradlens.runtime import import_torch

        import_torch()
        runtime = Runtime(device, precision, batch_size, workers, seed, offline, quiet)
        return command(*args, runtime=runtime, **kwargs)

    return wrapped


def run_folder(verb: str, out: Path | None) -> Path:
    """The folder of this run: ``--out``, else ``runs/<verb>-<time>``. Created; a chosen one may exist already."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        return out
    stem = f"{verb}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in itertools.count(1):
        folder = Path("runs") / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:  # another run of this second
            continue
        return folder
    raise AssertionError("itertools.count ended")


def print_json(document: dict[str, Any]) -> None:
    """One JSON document on stdout; not-a-number becomes null, as JSON has no such number."""
    click.echo(json.dumps(_plain({"schema": 1, **document}), indent=2, ensure_ascii=False, allow_nan=False))


def print_table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Columns of text on stdout, the first row as their dimmed heads; those in ``right`` end at the same place."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for k, row in enumerate(rows):
        cells = (c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        line = "  ".join(cells).rstrip()
        click.echo(click.style(line, dim=True) if k == 0 else line)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return _plain(value.tolist())
    return str(value) if isinstance(value, Path) else value


def command_line(ctx: click.Context) -> str:
    """The command with everything that was not left at its default, wherever it was set."""
    words = ["gradlens", ctx.info_name or ""]
    for parameter in ctx.command.params:
        name = parameter.name or ""
        source = ctx.get_parameter_source(name)
        if source in (None, ParameterSource.DEFAULT) or name not in ctx.params:
            continue
        option, value = parameter.opts[-1], ctx.params[name]
        if isinstance(parameter, click.Argument):
            words.append(str(value))
            continue
        if value is True:
            words.append(option)
            continue
        if isinstance(value, dict):  # FIELD=VALUE
            words += itertools.chain.from_iterable((option, f"{field}={one}") for field, one in value.items())
            continue
        for one in value if parameter.multiple else [value]:
            words += [option, "/".join(map(str, one)) if isinstance(one, tuple) else str(one)]
    return shlex.join(words)
