"""Tables to paste into a paper, Markdown and LaTeX, beyond scores and gaps: classes, pairs of models, calibration.

Each cell is a value with its interval; what does not fit a page is left to the CSV, and the caption says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gradlens.shift import intervals, pairs
from gradlens.shift.tables import Column, with_interval
from gradlens.workflows.measure.analyses import Outcome
from gradlens.workflows.measure.evidence import Evidence, Request
from gradlens.workflows.measure.score import Findings

MOST_CLASSES = 12  # columns that a page has room for


class PaperTable(NamedTuple):
    """A table: the name of its files, its columns, its caption."""

    name: str
    columns: list[Column]
    caption: str


def paper_tables(
    evidence: Evidence, found: Findings, outcomes: Mapping[str, Outcome], request: Request, models: Sequence[str]
) -> Iterator[PaperTable]:
    """The tables of a run.

    Args:
        evidence: what was scored.
        found: its scores.
        outcomes: of the analyses, by name.
        request: for the confidence.
        models: in the order of the rows.
    """
    for s in evidence.sets:
        if table := _classes(found.per_class, s.name, models, request.confidence):
            yield table
    if table := _against_best(evidence, models, request.confidence):
        yield table
    calibration = outcomes.get("calibration", Outcome()).tables.get("calibration.csv")
    if calibration:
        yield _calibration(list(calibration[1]), evidence, models)


def _names(models: Sequence[str]) -> Column:
    heads = {name.rpartition("/")[0] for name in models}
    shown = tuple(name.rpartition("/")[2] if len(heads) == 1 else name for name in models)
    return Column(("model",), shown, right=False)


def _classes(
    rows: Sequence[Mapping[str, Any]], dataset: str, models: Sequence[str], confidence: float
) -> PaperTable | None:
    """Recall of each class on one set, with its exact interval; models in rows."""
    own = {(r["model"], r["class"]): r for r in rows if r["dataset"] == dataset and r["n"]}
    classes = list(dict.fromkeys(name for _, name in own))
    if not classes:
        return None
    mean = {c: sum(own[m, c]["recall"] for m in models if (m, c) in own) for c in classes}
    shown = sorted(sorted(classes, key=lambda c: mean[c])[:MOST_CLASSES], key=classes.index)

    def cell(model: str, name: str) -> str:
        if (model, name) not in own:
            return "–"
        n, recall = own[model, name]["n"], own[model, name]["recall"]
        return with_interval(recall, *intervals.clopper_pearson(round(recall * n), n, confidence))

    columns = [_names(models)]
    for name in shown:
        sizes = {own[m, name]["n"] for m in models if (m, name) in own}
        size = f"n = {min(sizes):,}" + (f"–{max(sizes):,}" if len(sizes) > 1 else "")
        columns.append(Column((name, size), tuple(cell(m, name) for m in models)))
    which = (
        ""
        if len(shown) == len(classes)
        else (f" Of {len(classes)} classes the {len(shown)} with the lowest mean; per_class.csv has all.")
    )
    about = f"Recall of each class on {dataset} in percent.{which} Intervals: {100 * confidence:g} %, Clopper-Pearson."
    return PaperTable(f"classes-{dataset}", columns, about)


def _against_best(evidence: Evidence, models: Sequence[str], confidence: float) -> PaperTable | None:
    """The most accurate model in distribution against each other one, on the same images of every set."""
    best, others = models[0], list(models[1:])
    if not others:
        return None
    columns = [Column(("model",), _names(models).cells[1:], right=False)]
    said = evidence.predictions
    for s in evidence.sets:
        rows = [pairs.paired_difference(said[best, s.name], said[m, s.name], confidence) for m in others]
        corrected = pairs.holm([r["p_exact"] for r in rows])
        values = [with_interval(r["difference"], r["low"], r["high"], signed=True) for r in rows]
        cells = tuple(
            text.replace(" [", "* [", 1) if p < 1 - confidence else text
            for text, p in zip(values, corrected, strict=True)
        )
        columns.append(Column((s.name, f"n = {rows[0]['n']:,}"), cells))
    about = (
        f"Accuracy of {best}, the most accurate model on {evidence.in_dist.name}, minus that of each other model on "
        f"the same images, in percentage points. Intervals: {100 * confidence:g} %, paired Newcombe. *: told apart by "
        f"McNemar's exact test after Holm's correction for {len(others)} comparisons on the set."
    )
    return PaperTable("pairs", columns, about)


def _calibration(rows: Sequence[Mapping[str, Any]], evidence: Evidence, models: Sequence[str]) -> PaperTable:
    """Expected calibration error before and after temperature scaling: in distribution, and where it is largest."""
    ece = {(r["model"], r["dataset"], r["scaling"]): r for r in rows if r["metric"] == "ece"}
    scored = [m for m in models if any(key[0] == m for key in ece)]

    def mean(dataset: str) -> float:
        own = [r["value"] for (_, d, scaling), r in ece.items() if d == dataset and scaling == "temperature"]
        return sum(own) / len(own) if own else -1.0

    sets = [evidence.in_dist.name]
    if evidence.probes:
        sets.append(max((p.name for p in evidence.probes), key=mean))
    columns = [_names(scored)]
    for dataset in sets:
        for scaling, called in (("none", "before"), ("temperature", "after")):
            own = [ece.get((m, dataset, scaling)) for m in scored]
            cells = tuple("–" if r is None else with_interval(r["value"], r["low"], r["high"]) for r in own)
            columns.append(Column((dataset, called), cells))
    made = next((str(r["interval"]) for r in ece.values()), "none")
    about = (
        "Expected calibration error in percent, before and after one temperature that is fitted in distribution "
        f"(cross-fitted there), on {' and on '.join(sets)}"
        + (", the probe set with the largest error after scaling" if len(sets) > 1 else "")
        + f". Intervals: {made}."
    )
    return PaperTable("calibration", columns, about)
