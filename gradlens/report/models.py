"""The table of models: what each scores in and outside its own data, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gradlens.records import GapReport
from gradlens.report import answers
from gradlens.report.cells import Cell, interval, number, score_cell, title_of, value_or_lowest
from gradlens.report.model_files import ModelFiles
from gradlens.report.model_page import anchors
from gradlens.report.run_files import Run
from gradlens.shift import tables

NOTHING = Cell("–", sort=-math.inf)
# what makes room first on a screen that is too narrow for all columns; columns that are not named stay
FOLDED = (
    *("macro_recall", "macro_precision", "size", "many gaps", "top", "ece", "flops", "macro_f1", "kept"),
    *("latency", "largest", "parameters", "few gaps"),
)
FEW = 4  # probe sets whose columns stay before others do; the heat map below the table has them all


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        name: columns of one name are shown and hidden together.
        group: heading over several columns; title, more: heading and explanation of this one.
        label: in the menu of columns and in the filter.
        unit, scale: the shown number is the sorted one times ``scale``, in ``unit``.
        cells: one per model, in the order of the rows.
        fold: place among those that make room on a narrow screen; 0: never does.
    """

    name: str
    group: str
    title: str
    more: str
    label: str
    unit: str
    scale: float
    cells: tuple[Cell, ...]
    fold: int = 0


@dataclass(frozen=True)
class ModelTable:
    """The table of models.

    Attributes:
        rows: model, what leads to it in the page, its name as shown; best in-distribution accuracy first.
        columns: of numbers.
    """

    caption: str
    rows: tuple[tuple[str, str, str], ...]
    columns: tuple[Column, ...]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Headings over the columns, and how many each spans."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = column.group, spans[-1][1] + 1
            else:
                spans.append((column.group, 1))
        return spans

    @property
    def menu(self) -> dict[str, str]:
        """Name and label of what can be hidden."""
        several = {"gaps": "Gap on each probe set"} if sum(c.name == "gaps" for c in self.columns) > 1 else {}
        return {c.name: c.label for c in self.columns} | several


def model_table(run: Run, files: ModelFiles) -> ModelTable:
    """One row per model, and columns for what the run's files know."""
    shown, anchor = answers.short_models(run.models), anchors(run)
    scored = {m: run.scores.get((m, run.in_dist), {}) for m in run.models}
    order = sorted(run.models, key=lambda m: -value_or_lowest(scored[m].get("accuracy")))
    columns = [*_scores(run, order), *_gaps(run, order), *_outside(run, order), *_costs(run, files, order)]
    caption = f"Scores on {run.in_dist} with their intervals"
    if run.probes:
        caption += "; the gap is the accuracy there minus that on the probe set, on the classes both share"
    if answers.outside(run) and len(run.probes) > 1:
        caption += f"; mean accuracy over the {len(run.probes)} probe sets, and the share of accuracy kept there"
    if devices := sorted({f"{c.device}, threads: {c.threads}" for c in files.costs.values()}):
        caption += f"; latency of one image on {' and '.join(devices)}, with whatever else ran there"
    return ModelTable(caption, tuple((m, anchor[m], shown[m]) for m in order), tuple(columns))


def _fold(name: str) -> int:
    return FOLDED.index(name) + 1 if name in FOLDED else 0


def _scores(run: Run, order: list[str]) -> list[Column]:
    known = dict.fromkeys(m for model in order for m in run.scores.get((model, run.in_dist), {}))
    wanted = ["accuracy", "macro_precision", "macro_recall", "macro_f1"]
    wanted += [m for m in known if m.startswith("top") and m[3:].isdigit()] + ["ece"]
    found = []
    for metric in wanted:
        own = [run.scores.get((model, run.in_dist), {}).get(metric) for model in order]
        if any(e is not None and e.defined for e in own):
            title, name = title_of(metric), "top" if metric.startswith("top") else metric
            cells = tuple(score_cell(e, metric) for e in own)
            found.append(Column(name, "In distribution", title, "%", title, "%", 100, cells, _fold(name)))
    return found


def _gaps(run: Run, order: list[str]) -> list[Column]:
    gaps, names = run.gaps_of("accuracy"), answers.short_sets(run.datasets)
    fold = _fold("few gaps" if len(run.probes) <= FEW else "many gaps")
    return [
        Column(
            "gaps",
            "Gap, points",
            names.get(probe, probe),
            "",
            f"Gap on {names.get(probe, probe)}",
            "points",
            100,
            tuple(_gap_cell(gaps.get((model, probe))) for model in order),
            fold,
        )
        for probe in run.probes
        if any((model, probe) in gaps and gaps[model, probe].gap.defined for model in order)
    ]


def _gap_cell(g: GapReport | None) -> Cell:
    if g is None or not g.gap.defined:
        return NOTHING if g is None else Cell("–", sort=-math.inf, title=g.gap.interval)
    title = (
        f"{number(g.in_dist_value, 'accuracy')} → {number(g.probe_value, 'accuracy')}; {g.gap.interval}; "
        f"{g.n_in_dist:,} against {g.n_probe:,} images, {g.classes} classes"
    )
    return Cell(number(g.gap.value, "accuracy", signed=True), interval(g.gap, "accuracy"), g.gap.value, title=title)


def _outside(run: Run, order: list[str]) -> list[Column]:
    away, names = answers.outside(run), answers.short_sets(run.datasets)
    if not away:
        return []

    def percents(name: str, title: str, more: str, values: Mapping[str, float]) -> Column:
        cells = tuple(Cell(tables.percent(values[m]), sort=values[m]) if m in values else NOTHING for m in order)
        return Column(name, "Outside", title, more, title, "%", 100, cells, _fold(name))

    found = [
        percents("mean", "Mean outside", "accuracy, %", {m: o.accuracy for m, o in away.items()}),
        percents("kept", "Kept", "of its accuracy, %", {m: o.kept for m, o in away.items()}),
    ]
    if len(run.probes) > 1:
        worst = {m: o.worst for m, o in away.items()}
        cells = tuple(_largest(worst[m], names) if m in worst else NOTHING for m in order)
        where = ("Largest gap", "points, and where", "Largest gap", "points")
        found.append(Column("largest", "Outside", *where, 100, cells, _fold("largest")))
    return found


def _largest(g: GapReport, names: Mapping[str, str]) -> Cell:
    text, where = tables.percent(g.gap.value, signed=True), f"{interval(g.gap, 'accuracy')} {names[g.probe]}"
    return Cell(text, where, g.gap.value, title=f"{g.probe}: {g.gap.interval}")


def _costs(run: Run, files: ModelFiles, order: list[str]) -> list[Column]:
    counted = {m: float(n) for m, n in answers.parameters(run).items()}
    counted |= {m: c.parameters for m, c in files.costs.items()}
    costs = files.costs

    def column(
        name: str, title: str, unit: str, scale: float, values: Mapping[str, float], p95: Mapping[str, float]
    ) -> list[Column]:
        known = {m: v for m, v in values.items() if not math.isnan(v)}
        cells = tuple(
            Cell(_three_digits(known[m] * scale), _p95(p95.get(m, math.nan)), known[m], title=_exact(known[m], name))
            if m in known
            else NOTHING
            for m in order
        )
        more = "ms, median" if name == "latency" else unit
        return [Column(name, "Cost", title, more, title, unit, scale, cells, _fold(name))] if known else []

    flops = {m: c.flops for m, c in costs.items()}
    giga = max((v for v in flops.values() if not math.isnan(v)), default=0.0) >= 1e10
    size, p95 = {m: c.size_bytes for m, c in costs.items()}, {m: c.latency_p95_ms for m, c in costs.items()}
    return [
        *column("parameters", "Parameters", "millions", 1e-6, counted, {}),
        *column("flops", "FLOPs", "billions" if giga else "millions", 1e-9 if giga else 1e-6, flops, {}),
        *column("size", "Size", "MB", 1e-6, size, {}),
        *column("latency", "Latency", "ms", 1, {m: c.latency_ms for m, c in costs.items()}, p95),
    ]


def _p95(value: float) -> str:
    return "" if math.isnan(value) else f"p95 {_three_digits(value)}"


def _exact(value: float, name: str) -> str:
    return f"{value:.3f} ms" if name == "latency" else f"{value:,.0f}"


def _three_digits(value: float) -> str:
    """Three digits, and never fewer than the whole number has: ``0.653``, ``12.3``, ``1,234``."""
    digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"
