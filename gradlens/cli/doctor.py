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
"""
)
@json_option
@config_option
def command(as_json: bool) -> None:
    """Check this installation: libraries that must fit together, folders, device, zoo. Each fault with its fix.

    Exits with 1 when something will not work.
    """
    from gradlens import __version__, doctor

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
