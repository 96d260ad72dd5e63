"""``gradlens demo``: the whole story in one command."""

from __future__ import annotations

from pathlib import Path

import click

from gradlens.cli.options import json_option, out_option, print_json, run_folder, runtime_options
from gradlens.runtime import Runtime


@click.command(
    "demo",
    epilog="""\b
Examples:
  gradlens demo
  gradlens demo --out story
""",
)
@out_option
@json_option
@runtime_options
def command(out: Path | None, as_json: bool, runtime: Runtime) -> None:
    """The whole story on the models and images that come with gradlens.

    Layer-wise grids of three models, a grid of all models, the table of generalization gaps with intervals, what
    swapped backgrounds do to models and to their twins, and index.html, which shows all of it. A few minutes on two
    cores; needs no network.
    """
    from gradlens.workflows.demo import demo

    folder = run_folder("demo", out)
    story = demo(folder, runtime)
    figures = [p for run in story.grids for p in run.figures]
    if as_json:
        print_json(
            {
                "page": str(story.page),
                "figures": [str(p) for p in figures],
                "shift_eval": story.measurement.document,
                "shortcut": story.shortcut.document,
            }
        )
        return
    click.echo(story.measurement.text)
    click.echo("\nWhich models rest on the background?")
    for finding in story.shortcut.outcomes["shortcut"].findings:
        click.echo(f"  {finding}")
    click.echo("\nGrids:")
    for path in figures:
        click.echo(f"  {path}")
    click.echo(f"Tables, predictions, report: {folder / 'shift-eval'}")
    click.echo(f"All of it on one page: {story.page}")
