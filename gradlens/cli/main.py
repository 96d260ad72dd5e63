"""The ``gradlens`` command: finds its subcommands without importing them, and turns errors into exit codes.

Exit codes: 0 done · 1 could not be done · 2 wrong usage · 3 done, but inputs were skipped under ``--strict`` ·
4 done, but a threshold was missed · 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys

import click

from gradlens import __version__
from gradlens.errors import GradlensError

# name -> (module, one-line help): the help stands here so that `gradlens --help` imports no command
COMMANDS = {
    "demo": ("demo", "The whole story on the embedded data: grids, gap table, page."),
    "cam": ("cam", "Layer-wise CAM grids: where does each model look, at every depth?"),
    "layers": ("layers", "The depths found in a model: path, stride, shape, selectors."),
    "shift-eval": ("shift_eval", "Scores, gaps with intervals, figures: what survives outside the data?"),
    "train": ("train", "Train a recipe on a data set; leaves a checkpoint of the zoo."),
    "zoo": ("zoo", "List, show, import and verify trained models."),
    "probe": ("probe", "Add, check, list and render probe sets."),
    "bench": ("bench", "Parameters, FLOPs, size, latency, throughput of models."),
    "doctor": ("doctor", "Is this installation sound? Each fault with its fix."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called (torch alone takes seconds to import)."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"gradlens.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
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


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "GRADLENS"},
    epilog="""\b
Examples:
  gradlens demo
  gradlens cam --model densenet --layers all
  gradlens shift-eval
""",
)
@click.version_option(__version__, prog_name="gradlens")
def cli() -> None:
    """Where does each image classifier look, at every depth, and how much of its score survives elsewhere?"""


def main(args: list[str] | None = None) -> None:
    """Run the command line and leave with the exit code that INTERFACE promises."""
    args = sys.argv[1:] if args is None else args
    debug = "--debug" in args
    color = False if os.environ.get("NO_COLOR") else None
    try:
        code = cli.main(args=args, prog_name="gradlens", standalone_mode=False, color=color)
    except click.exceptions.Exit as done:
        code = done.exit_code
    except click.UsageError as err:
        err.show()
        code = 2
    except click.ClickException as err:
        err.show()
        code = 1
    except (click.Abort, KeyboardInterrupt):
        click.echo("gradlens: interrupted; finished parts are kept", err=True)
        code = 130
    except GradlensError as err:
        if debug:
            raise
        click.echo(f"gradlens: {err}", err=True)
        code = err.exit_code
    except BrokenPipeError:  # the reader of our stdout went away (`| head`): not our error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as err:
        if debug:
            raise
        what = f"{err.filename}: {err.strerror}" if err.filename else str(err)
        click.echo(f"gradlens: the system refused: {what}", err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
