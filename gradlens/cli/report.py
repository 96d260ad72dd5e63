"""``gradlens report``: build the page of a run again from its files."""

from __future__ import annotations

from pathlib import Path

import click

from gradlens.cli.options import config_option, json_option, print_json


@click.command(
    epilog="""\b
Examples:
  gradlens report runs/shift-eval-20260101-120000
  gradlens report runs/paper --json
"""
)
@click.argument("run_dir", metavar="RUN_DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@json_option
@config_option
def command(run_dir: Path, as_json: bool) -> None:
    """Build report.html in RUN_DIR from the files of that run; no model is run and nothing is scored again."""
    from gradlens import report

    page = report.build(run_dir)
    if as_json:
        print_json({"report": str(page), "bytes": page.stat().st_size})
    else:
        click.echo(page)
