"""The fault matrix: what strikes which command, and how many strikes the tests counted that ended well.

    python benchmarks/faults.py --out build/faults.json

Runs the tests that carry the mark ``fault(stage, fault, strikes=1)``, all of them and no others, and prints a Markdown
table of stages and faults. A strike counts when its test passed; a test of many strikes says how many there were (its
property ``strikes``), one of a single strike is one. What was declared and not counted is listed, with exit code 1.
``--declared`` prints the table that the marks declare, without running anything; docs/trust.md holds it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent / "tests"
FAULTS = (
    "killed", "Ctrl-C", "full disk", "read-only output", "vanished input", "file cut off", "dead worker",
    "out of memory", "two at once",
)  # fmt: skip

Cell = tuple[str, str]
"""(stage, fault)."""


@dataclass
class Matrix:
    """A pytest plugin that counts strikes.

    Attributes:
        declared: by cell, as the marks say.
        counted: by cell, of tests that passed.
        short: tests that were skipped, failed or struck less often than they declare, with what became of them.
    """

    declared: Counter[Cell] = field(default_factory=Counter)
    counted: Counter[Cell] = field(default_factory=Counter)
    short: dict[str, str] = field(default_factory=dict)
    _cells: dict[str, tuple[Cell, int]] = field(default_factory=dict)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            for mark in item.iter_markers("fault"):
                stage, fault = mark.args
                assert fault in FAULTS, f"{item.nodeid}: {fault!r} is not among {', '.join(FAULTS)}"
                strikes = mark.kwargs.get("strikes", 1)
                self.declared[stage, fault] += strikes
                self._cells[item.nodeid] = (stage, fault), strikes

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        cell, strikes = self._cells[report.nodeid]
        told = dict(report.user_properties).get("strikes", 1)
        if report.passed:
            self.counted[cell] += int(str(told))
        if not report.passed or told != strikes:
            self.short[report.nodeid] = f"{told} strikes of {strikes}" if report.passed else report.outcome


def table(counts: Mapping[Cell, int]) -> str:
    """Markdown: a row for each stage, a column for each fault, and what they add up to."""
    stages = list(dict.fromkeys(stage for stage, _ in counts))
    stages.sort(key=lambda stage: -sum(n for (s, _), n in counts.items() if s == stage))
    faults = [fault for fault in FAULTS if any(f == fault for _, f in counts)]
    rows = [["", *faults], ["---", *["--:"] * len(faults)]]
    rows += [[stage, *(str(counts.get((stage, fault)) or "") for fault in faults)] for stage in stages]
    rows.append(["**all**", *(str(sum(n for (_, f), n in counts.items() if f == fault)) for fault in faults)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--declared", action="store_true", help="print the table of the marks, run nothing")
    parser.add_argument("--out", type=Path, help="JSON")
    options = parser.parse_args()
    os.chdir(TESTS.parent)
    matrix = Matrix()
    files = [str(path) for path in sorted(TESTS.glob("test_*.py")) if "mark.fault(" in path.read_text(encoding="utf-8")]
    quiet = ["-q", "--no-header", "-n0", "-p", "no:cacheprovider", "-m", "fault"]
    started = time.monotonic()
    # stdout holds the table alone
    with contextlib.redirect_stdout(io.StringIO() if options.declared else sys.stderr):
        pytest.main([*quiet, *(["--collect-only"] if options.declared else []), *files], plugins=[matrix])
    counts = matrix.declared if options.declared else matrix.counted
    print(table(counts))
    if options.declared:
        return
    print(f"\n{counts.total()} strikes of {matrix.declared.total()}, {(time.monotonic() - started) / 60:.0f} min")
    for name, why in matrix.short.items():
        print(f"{why}: {name}", file=sys.stderr)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        cells = [
            {"stage": stage, "fault": fault, "strikes": n, "counted": matrix.counted[stage, fault]}
            for (stage, fault), n in matrix.declared.items()
        ]
        document = {"schema": 1, "cells": cells, "short": matrix.short}
        options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    sys.exit(matrix.counted != matrix.declared)


if __name__ == "__main__":
    main()
