"""Options that commands share: written once, the same everywhere."""

from __future__ import annotations

import functools
import json
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gradlens.runtime import Runtime


def _read_config(ctx: click.Context, _: click.Parameter, value: Path | None) -> Path | None:
    """Defaults from a TOML file: its top level, then the table named like the command (``[cam]``)."""
    if value is None:
        return None
    try:
        table = tomllib.loads(value.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise click.BadParameter(f"{value} is not TOML: {err}") from None
    own = table.get(ctx.info_name or "", {})
    flat = {k: v for k, v in table.items() if not isinstance(v, dict)} | (own if isinstance(own, dict) else {})
    given = {k.replace("-", "_"): v for k, v in flat.items()}
    known = {p.name for p in ctx.command.params}
    # the file may spell an option as on the command line ("model"), which click may store under another name
    spelled = {
        opt.lstrip("-").replace("-", "_"): p.name for p in ctx.command.params for opt in p.opts if opt.startswith("--")
    }
    unknown = [k for k in given if k not in known and k not in spelled]
    if unknown:
        raise click.BadParameter(f"{value} sets {unknown[0]!r}, which {ctx.command_path} does not have")
    ctx.default_map = {**(ctx.default_map or {}), **{spelled.get(k, k): v for k, v in given.items()}}
    return value


def _batch_size(ctx: click.Context, param: click.Parameter, value: str) -> int:
    if value == "auto":
        return 0
    if not str(value).isdigit() or int(value) < 1:
        raise click.BadParameter(f"expected a positive whole number or auto, got {value!r}")
    return int(value)


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
    help="Model: zoo name, glob, 'all', folder, timm:NAME, torchvision:NAME, hf:REPO, FILE.py:FACTORY (repeatable).",
)
weights_option = click.option(
    "--weights", default=None, metavar="FILE|pretrained|random", help="Weights for a model that is not in the zoo."
)
out_option = click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="Output folder [default: runs/<verb>-<time>]."
)
strict_option = click.option("--strict", is_flag=True, help="Exit with 3 when an input had to be skipped.")


def runtime_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of a :class:`~gradlens.runtime.Runtime` and hands it over as ``runtime``."""

    @click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]|mps")
    @click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True)
    @click.option("--batch-size", default="auto", show_default=True, callback=_batch_size, metavar="N|auto")
    @click.option("--workers", type=click.IntRange(0), default=0, help="Decoding threads [default: chosen].")
    @click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
    @click.option("--offline", is_flag=True, help="Look nothing up on a network.")
    @click.option("--quiet", is_flag=True, help="No progress bars, no remarks.")
    @click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")
    @config_option
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        device: str,
        precision: Any,
        batch_size: int,
        workers: int,
        seed: int,
        offline: bool,
        quiet: bool,
        **kwargs: Any,
    ) -> Any:
        from gradlens.runtime import import_torch

        import_torch()
        runtime = Runtime(device, precision, batch_size, workers, seed, offline, quiet)
        return command(*args, runtime=runtime, **kwargs)

    return wrapped


def run_folder(verb: str, out: Path | None) -> Path:
    """The folder of this run: ``--out``, else ``runs/<verb>-<time>``. Created."""
    folder = out if out is not None else Path("runs") / f"{verb}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def print_json(document: dict[str, Any]) -> None:
    """One JSON document on stdout; not-a-number becomes null, as JSON has no such number."""
    click.echo(json.dumps(_plain({"schema": 1, **document}), indent=2, ensure_ascii=False, allow_nan=False))


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
