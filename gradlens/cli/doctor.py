"""``gradlens doctor``: is this installation sound?"""

from __future__ import annotations

import dataclasses

import click

from gradlens.cli.options import config_option, json_option, print_json

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command(
    epilog="""\b
Examples:
  gradlens doctor
  gradlens doctor --json
  gradlens doctor --prune
  gradlens doctor --prune --unused-for 30
"""
)
@click.option("--prune", is_flag=True, help="Empty the cache of outputs and rendered or fetched images instead.")
@click.option(
    "--unused-for", type=click.FloatRange(0), default=0.0, metavar="DAYS", help="With --prune: only what was not used."
)
@json_option
@config_option
def command(prune: bool, unused_for: float, as_json: bool) -> None:
    """Check this installation: libraries that must fit together, folders, device, zoo. Each fault with its fix.

    Exits with 1 when something will not work. The cache is never pruned by itself: its size is shown, and --prune
    removes what can be computed again.
    """
    from gradlens import __version__, doctor

    if prune:
        files, freed = doctor.prune(unused_for)
        if as_json:
            print_json({"files": files, "bytes": freed})
        else:
            click.echo(f"{files:,} files removed, {freed / 1e9:.2f} GB freed; {doctor.cache_size() / 1e9:.2f} GB kept")
        return
    findings = doctor.examine()
    if as_json:
        print_json(
            {
                "gradlens": __version__,
                "checks": [{"name": name, **dataclasses.asdict(finding)} for name, finding in findings.items()],
            }
        )
    else:
        width = max(map(len, findings))
        for name, finding in findings.items():
            click.echo(
                f"{click.style(f'{finding.status:<4}', fg=COLOURS[finding.status])}  {name:<{width}}  {finding.found}"
            )
            if finding.fix:
                click.echo(f"{'':<{width + 6}}  fix: {finding.fix}")
    failed = [name for name, finding in findings.items() if finding.status == "fail"]
    if failed:
        click.echo(f"gradlens: {len(failed)} of {len(findings)} checks failed: {', '.join(failed)}", err=True)
        raise click.exceptions.Exit(1)
