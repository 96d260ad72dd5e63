"""A command whose ``--help`` lists its options under headings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click


class SectionedCommand(click.Command):
    """Options under the headings they were given; those that were given none come last, under ``Other options``.

    Args:
        sections: heading -> options as they are typed (``--model``), in the order to print them.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections
        known = {opt for parameter in self.params for opt in parameter.opts}
        if strange := [o for options in sections.values() for o in options if o not in known]:
            raise ValueError(f"sections name options that {self.name} does not have: {', '.join(strange)}")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections, each as click would write all options."""
        records = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                records[parameter.opts[-1]] = record
        for heading, options in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl([records.pop(o) for o in options if o in records])
        if records:
            with formatter.section("Other options"):
                formatter.write_dl(list(records.values()))
