"""What the page says of each model: the table of models, and every class of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gradlens.report import answers
from gradlens.report.cells import Cell, Table, interval, score_cell, title_of, value_or_lowest
from gradlens.report.run_files import Run
from gradlens.shift import tables


def model_table(run: Run) -> Table:
    """One row per model, best in-distribution accuracy first."""
    shown, away, size = answers.short_models(run.models), answers.outside(run), answers.parameters(run)
    scored = {m: run.scores.get((m, run.in_dist), {}) for m in run.models}
    metrics = [
        metric
        for metric in dict.fromkeys(name for own in scored.values() for name in own)
        if metric in ("accuracy", "macro_f1", "ece") or (metric.startswith("top") and metric[3:].isdigit())
    ]
    metrics = [m for m in metrics if any(own[m].defined for own in scored.values() if m in own)]
    heads = [("Model", "")]
    if size:
        heads.append(("Parameters", "millions"))
    heads += [(title_of(m), "%") for m in metrics]
    if away:
        heads.append(("Mean outside", "accuracy, %"))
        heads.append(("Kept", "of its accuracy, %"))
        heads.append(("Largest gap", "points, and where"))
    rows = []
    order = sorted(run.models, key=lambda m: -value_or_lowest(scored[m].get("accuracy")))
    for model in order:
        cells = [Cell(shown[model], sort=shown[model], title=model)]
        if size:
            count = size.get(model)
            cells.append(
                Cell("–", sort=-1) if count is None else Cell(f"{count / 1e6:.2f}", sort=count, title=f"{count:,}")
            )
        cells += [score_cell(scored[model].get(m), m) for m in metrics]
        if away and model in away:
            o = away[model]
            where = answers.short_sets(run.datasets)[o.worst.probe]
            cells.append(Cell(tables.percent(o.accuracy), sort=o.accuracy))
            cells.append(Cell(tables.percent(o.kept), sort=o.kept))
            cells.append(
                Cell(
                    tables.percent(o.worst.gap.value, signed=True),
                    f"{interval(o.worst.gap, 'accuracy')} {where}",
                    o.worst.gap.value,
                    title=f"{o.worst.probe}: {o.worst.gap.interval}",
                )
            )
        elif away:
            cells += [Cell("–", sort=-math.inf)] * 3
        rows.append(tuple(cells))
    caption = f"Scores on {run.in_dist} with their intervals"
    if away:
        caption += f"; mean accuracy over the {len(run.probes)} probe sets, and the share of accuracy kept there"
    return Table(caption, tuple(heads), tuple(rows), "models")


def class_tables(run: Run) -> list[Table]:
    """For each model: recall of each class on each set."""
    found = []
    sets = answers.short_sets(run.datasets)
    for model in run.models:
        rows = {(r["class"], r["dataset"]): r for r in run.per_class if r["model"] == model}
        datasets = [d for d in run.datasets if any(key[1] == d for key in rows)]
        if not datasets:
            continue
        classes = list(dict.fromkeys(key[0] for key in rows))
        worst = min(rows.values(), key=lambda r: r["recall"] if r["recall"] == r["recall"] else math.inf)
        weakest = f"weakest: {worst['class']} on {sets[worst['dataset']]}, {tables.percent(worst['recall'])} % recall"
        body = tuple((Cell(name, sort=name), *(_class_cell(rows.get((name, d))) for d in datasets)) for name in classes)
        heads = (("Class", ""), *((sets[d], "") for d in datasets))
        caption = f"Recall of {model} by class, in percent, and F1 under it"
        shown = answers.short_models(run.models)[model]
        found.append(Table(caption, heads, body, model, f"{shown} — {weakest}"))
    return found


def _class_cell(row: Mapping[str, Any] | None) -> Cell:
    if row is None or math.isnan(row["recall"]):
        return Cell("–", sort=-math.inf)
    few = f" (n = {row['n']})" if row["n"] < tables.FEW else ""
    title = f"n = {row['n']:,}; precision {tables.percent(row['precision'])} %"
    f1 = f"F1 {tables.percent(row['f1'])}{few}"
    return Cell(tables.percent(row["recall"]), f1, row["recall"], 1 - row["recall"], title)
