"""The ``gradlens`` command: finds its subcommands without importing them, and turns errors into exit codes.

Exit codes: 0 done · 1 could not be done · 2 wrong usage · 3 done, but inputs were skipped under ``--strict`` ·
4 done, but a threshold was missed · 130 interrupted.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import click

from gradlens import __version__
from gradlens.errors import GradlensError, ToldElsewhereError
from gradlens.processes import launched

# name -> (module, one-line help): the help stands here so that `gradlens --help` imports no command
COMMANDS = {
    "demo": ("demo", "The whole story on the embedded data: grids, gap table, page."),
    "cam": ("cam", "Layer-wise CAM grids: where does each model look, at every depth?"),
    "layers": ("layers", "The depths found in a model: path, stride, shape, selectors."),
    "shift-eval": ("shift_eval", "Scores, gaps with intervals, figures: what survives outside the data?"),
    "train": ("train", "Train a recipe on a data set; leaves a checkpoint of the zoo."),
    "study": ("study", "Train and compare all runs of a published kind of study; leaves a report."),
    "zoo": ("zoo", "List, show, import and verify trained models."),
    "probe": ("probe", "Add, check, list and render probe sets."),
    "bench": ("bench", "Parameters, FLOPs, size, latency, throughput of models."),
    "report": ("report", "Build the page of a run again from its files."),
    "app": ("app", "The page in the browser: your picture, every model side by side."),
    "doctor": ("doctor", "Is this installation sound? Each fault with its fix."),
}


TOGETHER = ("shift-eval", "train")
"""Commands that several processes (torchrun) do together."""


class ReaderLeft(Exception):
    """Whoever read our stdout went away; click would turn that into exit code 1 before we see it."""


@contextlib.contextmanager
def _reader() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise ReaderLeft from None


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called (torch alone takes seconds to import)."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"gradlens.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        command.name = cmd_name  # as it is typed, which is what the reference in docs/ shows
        _name_variables(command, f"GRADLENS_{cmd_name}")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from gradlens.errors import suggest

            near = suggest(args[0], COMMANDS)
            ctx.fail(
                f"No such command {args[0]!r}." + (f" Did you mean {' or '.join(map(repr, near))}?" if near else "")
            )
        return super().resolve_command(ctx, args)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:  # --help and --version print in here
        with _reader():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _reader():
            return super().invoke(ctx)


def _name_variables(command: click.Command, prefix: str) -> None:
    """``GRADLENS_<COMMAND>_<OPTION>``, by the option's name as it is typed (click would take that of its parameter)."""
    for parameter in command.params:
        long = next((opt for opt in parameter.opts if opt.startswith("--")), None)
        if isinstance(parameter, click.Option) and long and parameter.envvar is None:
            parameter.envvar = f"{prefix}_{long.removeprefix('--')}".replace("-", "_").upper()
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            _name_variables(inner, f"{prefix}_{name}")


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  gradlens demo
  gradlens cam --model densenet --layers all
  gradlens shift-eval
""",
)
@click.version_option(__version__, prog_name="gradlens")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks; every command takes it.")
def cli() -> None:
    """Where does each image classifier look, at every depth, and how much of its score survives elsewhere?"""


def main(args: list[str] | None = None) -> None:
    """Run the command line and leave with the exit code that INTERFACE promises."""
    args = list(sys.argv[1:] if args is None else args)
    options = args[: args.index("--")] if "--" in args else args
    debug = "--debug" in options  # any command takes it, wherever it stands
    args = [a for a in options if a != "--debug"] + args[len(options) :]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot print × is no reason to stop
    if not debug:
        _plain_warnings()
    rank, world = launched()
    if world > 1 and not any(a in (*TOGETHER, "-h", "--help", "--version") for a in args[:1]):
        message = f"expected {' or '.join(TOGETHER)} under torchrun, got {' '.join(args[:1]) or 'no command'}"
        sys.exit(_complain(f"{message}; it runs in one process", 2) if rank == 0 else 2)
    sys.exit(_run(args, debug))


def _run(args: list[str], debug: bool) -> int:
    try:
        code = cli.main(
            args=args,
            prog_name="gradlens",
            standalone_mode=False,
            color=False if os.environ.get("NO_COLOR") else None,
        )
        sys.stdout.flush()  # a reader that went away is noticed here, not by the interpreter as it ends
        return code if isinstance(code, int) else 0
    except (ReaderLeft, BrokenPipeError):  # `| head`: not our error; nothing more can be said there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except click.UsageError as err:
        if launched()[0] == 0:  # of several processes, which all read the same line, one says what is wrong with it
            err.show()
        return 2
    except click.ClickException as err:
        err.show()
        return 1
    except (click.Abort, KeyboardInterrupt):
        return _complain("interrupted; finished parts are kept", 130)
    except ToldElsewhereError as err:
        return err.exit_code
    except Exception as err:
        if debug:
            traceback.print_exc()
        if isinstance(err, GradlensError):
            return _complain(str(err), err.exit_code)
        if isinstance(err, MemoryError) or type(err).__name__ == "OutOfMemoryError":  # torch's, without importing it
            return _complain(f"out of memory ({_first_line(err)}); try a smaller --batch-size", 1)
        if isinstance(err, OSError):
            what = f"{err.filename}: {err.strerror}" if err.filename and err.strerror else _first_line(err)
            return _complain(f"the system refused: {what}", 1)
        more = "" if debug else "; the same command with --debug shows where"
        return _complain(f"unexpected {type(err).__name__}: {_first_line(err)} (a mistake in gradlens{more})", 1)


def _complain(message: str, code: int) -> int:
    click.echo(f"gradlens: {message}", err=True)
    return code


def _first_line(err: BaseException) -> str:
    return next((line.strip() for line in str(err).splitlines() if line.strip()), type(err).__name__)


def _plain_warnings() -> None:
    """Warnings as one line for a person; those that speak to programmers only under ``--debug``."""
    warnings.formatwarning = lambda message, *_, **__: f"gradlens: note: {_first_line(Warning(message))}\n"
    for kind in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=kind)
    if launched()[0]:  # of several processes the first one speaks
        warnings.filterwarnings("ignore")
