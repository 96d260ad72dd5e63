"""``gradlens shift-eval --accuracies``: lines and effective robustness from a table of accuracies, without images."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradlens.errors import InputError
from gradlens.figures import style
from gradlens.figures.shift_scatter import Point
from gradlens.records import Skipped
from gradlens.report import page
from gradlens.runtime import Runtime, versions
from gradlens.shift import accuracies, tables
from gradlens.workflows.measure.analyses import Outcome, lines
from gradlens.workflows.measure.evidence import Request
from gradlens.workflows.run_folder import RunFolder

ACCURACIES = ("model", "family", "extra_data", "dataset", "n", "accuracy", "low", "high", "interval")
MOST = 20  # models in the text's table


@dataclass(frozen=True)
class Measured:
    """A finished evaluation of a table.

    Attributes:
        text: for a person at a terminal.
        document: for ``--json``.
        skipped: models that were left out.
        missed: the limits that were not reached, one sentence each.
    """

    outcome: Outcome
    text: str
    document: dict[str, Any]
    skipped: tuple[Skipped, ...]
    missed: list[str]


def from_table(request: Request, runtime: Runtime) -> Measured:
    """Fit lines to a table of accuracies; writes the run folder ``request.out``.

    Raises:
        InputError: the file is no table of accuracies, or holds too little for a line.
        NotFoundError: a column or a baseline that is not there.
    """
    started = time.perf_counter()
    assert request.accuracies is not None
    with RunFolder(request.out) as run:
        table = accuracies.read(request.accuracies, request.in_dist, request.probes)
        runtime.say(f"note: {request.accuracies.name} was read as {table.scale}")
        outcome = lines.fit(
            lines.Zoo(
                _points(table, request.confidence),
                dict(zip(table.models, table.families, strict=True)),
                extra_data=dict(zip(table.models, table.extra_data, strict=True)),
                baseline=request.baseline,
                confidence=request.confidence,
                resamples=request.resamples,
                seed=runtime.seed,
            )
        )
        if outcome.not_done:
            raise InputError(f"{request.accuracies}: {outcome.not_done}")
        for note in outcome.notes:
            runtime.say(f"note: {note}")
        written: Mapping[str, tuple[Sequence[str], Sequence[Mapping[str, Any]]]] = {
            "accuracies.csv": (ACCURACIES, _rows(table, request.confidence)),
            **outcome.tables,
            "skipped.csv": (tables.SKIPPED, tables.skipped_rows(table.skipped)),
        }
        for name, (header, rows) in written.items():
            tables.write_csv(run.file(name), header, rows)
        provenance = {"command": request.command, "versions": versions(), "in_dist": table.sets[0]}
        for stem, figure in outcome.figures:
            for path in style.save(figure(), run.path / "figures" / stem, ("png", "pdf", "svg"), provenance=provenance):
                run.add(path)
        missed = _missed(table, request)
        about = {
            "verb": "shift-eval",
            "mode": "accuracies",
            "command": request.command,
            "versions": versions(),
            "seed": runtime.seed,
            "confidence": request.confidence,
            "resamples": request.resamples,
            "source": str(request.accuracies),
            "read_as": table.scale,
            "in_dist": table.sets[0],
            "probe_sets": list(table.sets[1:]),
            "models": [
                {"name": m, "family": f, "extra_data": e}
                for m, f, e in zip(table.models, table.families, table.extra_data, strict=True)
            ],
            "findings": list(outcome.findings),
            "warnings": list(outcome.notes),
            "limits": {"max_drop": request.max_drop, "min_accuracy": request.min_accuracy, "missed": missed},
            "skipped": len(table.skipped),
            "timings": {"total": round(time.perf_counter() - started, 3)},
        }
        run.add(page.build(run.path, about | {"files": run.files}))
        run.finish(about)
        document = {
            "out": str(run.path),
            **{k: about[k] for k in ("in_dist", "probe_sets", "models", "read_as", "findings", "skipped")},
            "notes": list(outcome.notes),
            "missed": missed,
            "lines": outcome.tables["lines.csv"][1],
            "effective_robustness": outcome.tables["effective_robustness.csv"][1],
            "figures": [f for f in run.files if f.startswith("figures/")],
        }
        return Measured(outcome, _text(table, outcome), document, table.skipped, missed)


def _points(table: accuracies.AccuracyTable, confidence: float) -> list[Point]:
    def side(model: int, column: int) -> Any:
        return lines.accuracy(float(table.values[model, column]), int(table.images[model, column]), confidence)

    return [
        Point(model, table.sets[0], name, side(i, 0), side(i, j))
        for j, name in enumerate(table.sets[1:], 1)
        for i, model in enumerate(table.models)
    ]


def _rows(table: accuracies.AccuracyTable, confidence: float) -> list[dict[str, Any]]:
    rows = []
    for i, model in enumerate(table.models):
        for j, name in enumerate(table.sets):
            n = int(table.images[i, j])
            e = lines.accuracy(float(table.values[i, j]), n, confidence)
            row: dict[str, Any] = {
                "model": model,
                "family": table.families[i],
                "extra_data": table.extra_data[i],
                "dataset": name,
            }
            row |= {"n": n or None, "accuracy": e.value, "low": e.low if n else math.nan}
            row |= {"high": e.high if n else math.nan}
            rows.append(row | {"interval": e.interval or "not defined: the file does not say how many images"})
    return rows


def _missed(table: accuracies.AccuracyTable, request: Request) -> list[str]:
    missed = []
    for i, model in enumerate(table.models):
        for j, name in enumerate(table.sets):
            value, drop = float(table.values[i, j]), float(table.values[i, 0] - table.values[i, j])
            if request.min_accuracy is not None and value < request.min_accuracy:
                limit = f"below --min-accuracy {request.min_accuracy:g}"
                missed.append(f"accuracy of {model} on {name} is {value:.4f}, {limit}")
            if request.max_drop is not None and j and drop > request.max_drop:
                limit = f"more than --max-drop {request.max_drop:g}"
                missed.append(f"accuracy of {model} drops by {drop:.4f} on {name}, {limit}")
    return missed


def _text(table: accuracies.AccuracyTable, outcome: Outcome) -> str:
    """The lines, and of the models those that are furthest off, as a person reads them."""
    rows = [r for r in outcome.tables["lines.csv"][1] if str(r["interval"]).startswith("t ")]
    column = tables.Column

    def ends(r: Mapping[str, Any], name: str) -> str:
        return f"{r[name]:.3f} [{r[f'{name}_low']:.3f}, {r[f'{name}_high']:.3f}]".replace("-", tables.MINUS)

    fitted = tables.text_table(
        [
            column(("set",), tuple(r["probe"] for r in rows), right=False),
            column(("scale",), tuple(r["transform"] for r in rows), right=False),
            column(("models",), tuple(str(r["models"]) for r in rows)),
            column(("families",), tuple(str(r["families"]) for r in rows)),
            column(("R²",), tuple("–" if math.isnan(r["r2"]) else f"{r['r2']:.3f}" for r in rows)),
            column(("slope",), tuple(ends(r, "slope") for r in rows)),
            column(("intercept",), tuple(ends(r, "intercept") for r in rows)),
        ],
        120,
    )
    parts = [f"Lines in accuracy on {table.sets[0]} ({len(table.models)} models, read as {table.scale}).", fitted]
    robust = [r for r in outcome.tables["effective_robustness.csv"][1] if not math.isnan(r["low"])]
    scales = [r["transform"] for r in robust]
    robust = [r for r in robust if r["transform"] == ("probit" if "probit" in scales else "identity")]
    robust.sort(key=lambda r: (-abs(r["effective_robustness"]), r["model"], r["probe"]))
    if robust:
        shown = robust[:MOST]
        head = f"Effective robustness in points ({shown[0]['transform']} scale; p after Holm)"
        if len(robust) > MOST:
            head += f", the {MOST} largest of {len(robust)}; effective_robustness.csv has all"
        values = [tables.with_interval(r["effective_robustness"], r["low"], r["high"], signed=True) for r in shown]
        parts += [
            head + ".",
            tables.text_table(
                [
                    column(("model",), tuple(r["model"] for r in shown), right=False),
                    column(("set",), tuple(r["probe"] for r in shown), right=False),
                    column(("accuracy",), tuple(tables.percent(r["probe_value"]) for r in shown)),
                    column(("expected",), tuple(tables.percent(r["expected"]) for r in shown)),
                    column(("effective robustness",), tuple(values)),
                    column(("p",), tuple("< 0.0001" if r["p_holm"] < 1e-4 else f"{r['p_holm']:.4f}" for r in shown)),
                ],
                120,
            ),
        ]
    parts.append("\n".join(f"- {finding}" for finding in outcome.findings))
    return "\n\n".join(parts)
