"""What a shift evaluation leaves: tables, figures, the page, ``run.json``, and the text on the terminal."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from gradlens.figures import confusion, gap_heatmap, shift_scatter, style
from gradlens.records import GapReport
from gradlens.runtime import Runtime, versions, whole_file
from gradlens.shift import metrics, store, tables
from gradlens.shift.tables import Column
from gradlens.workflows.measure import questions
from gradlens.workflows.measure.analyses import Analysis, Outcome, lines
from gradlens.workflows.measure.evidence import Evidence, Request
from gradlens.workflows.measure.paper_tables import paper_tables
from gradlens.workflows.measure.score import Findings
from gradlens.workflows.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NARROW, WIDE = 80, 120  # columns of text where no terminal says how many there are: never less, usually this


def write_tables(run: RunFolder, evidence: Evidence, found: Findings, request: Request) -> None:
    """The CSV files, and the tables for a report as Markdown and LaTeX."""
    roles = {s.name: s.role for s in evidence.sets}
    csv = {
        "summary.csv": (tables.SUMMARY, tables.summary_rows(found.scores, roles)),
        "gaps.csv": (tables.GAPS, tables.gap_rows(found.gaps)),
        "per_class.csv": (tables.PER_CLASS, found.per_class),
        "confusion.csv": (
            tables.CONFUSION,
            [r for m in evidence.models for s in evidence.sets for r in _answers(evidence, m.name, s.name)],
        ),
        "pairs.csv": (tables.PAIRS, found.pairs),
        "skipped.csv": (tables.SKIPPED, tables.skipped_rows(evidence.skipped)),
    }
    for name, (header, rows) in csv.items():
        tables.write_csv(run.file(name), header, rows)
    remarks = [*found.marks, *found.notes]
    scores, gaps = score_table(evidence, found, request), gap_table(evidence, found, short=True)
    about_scores = f"Scores on {evidence.in_dist.name} in percent. {intervals_note(found, request, gaps=False)}"
    about_gaps = (
        f"Accuracy in distribution ({evidence.in_dist.name}) minus accuracy on each probe set, in percentage points, "
        f"on the classes both sides share. {intervals_note(found, request, scores=False)}"
    )
    for name, columns, about in (("scores", scores, about_scores), ("gaps", gaps, about_gaps)):
        if len(columns) < 2:
            continue
        markdown = f"{about}\n\n{tables.markdown_table(columns)}" + "".join(f"\n- {r}" for r in remarks)
        _write(run, f"tables/{name}.md", markdown.rstrip() + "\n")
        _write(run, f"tables/{name}.tex", tables.latex_table(columns, " ".join([about, *found.marks]), f"tab:{name}"))


def write_paper_tables(
    run: RunFolder, evidence: Evidence, found: Findings, outcomes: Mapping[str, Outcome], request: Request
) -> None:
    """Classes, pairs of models and calibration for a paper, as Markdown and LaTeX."""
    for table in paper_tables(evidence, found, outcomes, request, ranked(evidence, found)):
        name = store.safe_stem(table.name)
        _write(run, f"tables/{name}.md", f"{table.caption}\n\n{tables.markdown_table(table.columns)}")
        _write(run, f"tables/{name}.tex", tables.latex_table(table.columns, table.caption, f"tab:{name}"))


def _answers(evidence: Evidence, model: str, dataset: str) -> list[dict[str, Any]]:
    said = evidence.predictions.get((model, dataset))
    return [] if said is None else metrics.confusion(said)


def _write(run: RunFolder, name: str, text: str) -> None:
    with whole_file(run.file(name)) as part:
        part.write_text(text, encoding="utf-8")


def ranked(evidence: Evidence, found: Findings) -> list[str]:
    """Model names, best in-distribution accuracy first; equal ones as they were given."""
    return sorted(
        (m.name for m in evidence.models),
        key=lambda m: -found.scores[m, evidence.in_dist.name]["accuracy"].value,
    )


def score_table(evidence: Evidence, found: Findings, request: Request) -> list[Column]:
    """Scores of each model in distribution."""
    models = ranked(evidence, found)
    columns = tables.score_columns(models, {m: found.scores[m, evidence.in_dist.name] for m in models}, request.top_k)
    return _short_names(columns)


def gap_table(evidence: Evidence, found: Findings, *, short: bool = False) -> list[Column]:
    """The accuracy gap to each probe set; ``short`` names them without what all names begin with, as figures do."""
    models, probes = ranked(evidence, found), [p.name for p in evidence.probes]
    columns = tables.gap_columns(models, found.gaps, probes, "accuracy", "shared")
    if short and columns:
        names = style.probe_names(probes, evidence.in_dist.name)
        columns = [replace(c, heading=(names[c.heading[0]], *c.heading[1:])) for c in columns]
    return _short_names([Column(("model",), tuple(models), right=False), *columns])


def _short_names(columns: list[Column]) -> list[Column]:
    """Model names without the collection that all of them are in."""
    heads = {name.rpartition("/")[0] for name in columns[0].cells}
    if len(heads) != 1:
        return columns
    return [Column(columns[0].heading, tuple(n.rpartition("/")[2] for n in columns[0].cells), False), *columns[1:]]


def intervals_note(found: Findings, request: Request, *, scores: bool = True, gaps: bool = True) -> str:
    """How the intervals were made, as the numbers themselves say."""
    made: dict[str, list[str]] = {}
    for metric, called in (
        ("accuracy", "accuracy"),
        (f"top{request.top_k}", f"top-{request.top_k}"),
        ("macro_f1", "macro-F1"),
    ):
        for estimates in found.scores.values():
            if scores and estimates[metric].defined:
                made.setdefault(_method(estimates[metric].interval), []).append(called)
    for g in found.gaps:
        if gaps and g.metric == "accuracy" and g.gap.defined:
            made.setdefault(_method(g.gap.interval), []).append("gaps")
    if not made:
        return ""
    parts = [f"{method} ({', '.join(dict.fromkeys(used))})" for method, used in made.items()]
    resampled = f"; {request.resamples:,} resamples" if any("bootstrap" in method for method in made) else ""
    return f"Intervals: {100 * request.confidence:g} %, {', '.join(parts)}{resampled}."


def _method(interval: str) -> str:
    """``"paired Newcombe 95%, 790 of 800 pairs"`` -> ``"paired Newcombe"``."""
    return interval.split("%")[0].rpartition(" ")[0]


def as_text(evidence: Evidence, found: Findings, request: Request, outcomes: Mapping[str, Outcome]) -> str:
    """The evaluation as a person reads it in a terminal: one table where it fits, else the gaps below the scores.

    Below the tables stands the first finding of each analysis; the page has all of them.
    """
    width = max(NARROW, shutil.get_terminal_size((WIDE, 40)).columns) if sys.stdout.isatty() else WIDE
    s = evidence.in_dist
    about = [f"{s.n:,} images", f"{len(s.classes)} classes", f"role {s.role}", *_collection(evidence)]
    parts = [f"In distribution: {s.name} ({', '.join(about)}). Percent."]
    scores, gaps = score_table(evidence, found, request), gap_table(evidence, found)
    lost = "accuracy lost against it, in percentage points, on the classes that both sets have images of"
    one = scores + [replace(c, heading=(f"gap: {c.heading[0]}", *c.heading[1:])) for c in gaps[1:]]
    if len(gaps) < 2:
        parts.append(tables.text_table(scores, width))
    elif tables.width_of(one) <= width:
        parts += [tables.text_table(one, width), f"Gap: {lost}."]
    else:
        parts += [tables.text_table(scores, width), f"Probe sets: {lost}.", tables.text_table(gaps, width)]
    parts.append("\n".join([intervals_note(found, request), *(f"Warning: {mark}." for mark in found.marks)]))
    first = [
        textwrap.fill(o.findings[0], width, initial_indent="- ", subsequent_indent="  ")
        for o in outcomes.values()
        if o.findings
    ]
    if first:
        parts.append("\n".join(["What else was found:", *first]))
    return "\n\n".join(parts)


def _collection(evidence: Evidence) -> list[str]:
    heads = {m.name.rpartition("/")[0] for m in evidence.models}
    return [f"models of {heads.pop()}"] if len(heads) == 1 and "" not in heads else []


def document(evidence: Evidence, found: Findings, run: RunFolder) -> dict[str, Any]:
    """The evaluation as ``--json`` prints it."""
    return {
        "out": str(run.path),
        "in_dist": asdict(evidence.in_dist),
        "probe_sets": [asdict(p) for p in evidence.probes],
        "unlabelled": [asdict(s) for s in evidence.unlabelled],
        "models": [asdict(m) for m in evidence.models],
        "summary": tables.summary_rows(found.scores, {s.name: s.role for s in evidence.sets}),
        "gaps": tables.gap_rows(found.gaps),
        "marks": found.marks,
        "notes": [*evidence.notes, *found.notes],
        "missed": found.missed,
        "skipped": len(evidence.skipped),
        "figures": [f for f in run.files if f.startswith("figures/")],
    }


def run_json(
    evidence: Evidence, found: Findings, request: Request, runtime: Runtime, timings: dict[str, float]
) -> dict[str, Any]:
    """What ``run.json`` records: enough to repeat the run, and to doubt it."""
    return {
        "command": request.command,
        "verb": "shift-eval",
        "versions": versions(),
        **device(runtime),
        "precision": runtime.precision,
        "seed": runtime.seed,
        "confidence": request.confidence,
        "resamples": request.resamples,
        "top_k": request.top_k,
        "in_dist": asdict(evidence.in_dist),
        "probe_sets": [asdict(p) for p in evidence.probes],
        "unlabelled": [asdict(s) for s in evidence.unlabelled],
        "models": [asdict(m) for m in evidence.models],
        "warnings": [*found.marks, *evidence.notes, *found.notes],
        "marks": found.marks,
        "limits": {"max_drop": request.max_drop, "min_accuracy": request.min_accuracy, "missed": found.missed},
        "skipped": len(evidence.skipped),
        "timings": {k: round(v, 3) for k, v in timings.items()},
    }


def device(runtime: Runtime) -> dict[str, str]:
    """The device as people call it."""
    import torch

    place = runtime.torch_device()
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else f"{torch.get_num_threads()} threads"
    return {"device": place.type, "device_name": name}


def write_predictions(run: RunFolder, evidence: Evidence) -> None:
    """Predictions that came from files, as files of this run, so that its folder stands alone."""
    sets = {s.name: s for s in (*evidence.sets, *evidence.unlabelled)}
    for (model, dataset), name in store.file_names(evidence.predictions).items():
        s = sets[dataset]
        about: dict[str, Any] = {
            "role": s.role,
            "shift": s.shift,
            "paired_with": s.paired_with,
            "images": s.fingerprint,
        }
        about["filtered_by"] = list(s.filtered_by)
        store.write(run.file(f"predictions/{name}"), evidence.predictions[model, dataset], about)


def draw(
    run: RunFolder,
    evidence: Evidence,
    found: Findings,
    outcomes: Mapping[str, Outcome],
    request: Request,
    runtime: Runtime,
) -> None:
    """The figures, each as PNG (300 dpi) and PDF, charts as SVG as well: gaps as a heat map, accuracy against accuracy,
    confusion matrices, and those of the analyses.
    """
    figures: list[tuple[str, Callable[[], Figure]]] = []
    gaps = [g for g in found.gaps if g.metric == "accuracy" and g.label_space == "shared"]
    if any(g.gap.defined for g in gaps):
        figures.append(("gap_heatmap", lambda: gap_heatmap.gap_heatmap(gaps)))
        points = [lines.point(g, request.confidence) for g in gaps if g.gap.defined]
        figures.append(("shift_scatter", lambda: shift_scatter.shift_scatter(points)))
    for m in ranked(evidence, found) if evidence.predictions else ():  # of streams only counts are left
        sets = [evidence.in_dist.name, *_hardest(gaps, m)]
        panels = [metrics.on_classes(evidence.predictions[m, s]) for s in sets]
        stem = "confusion-" + store.safe_stem(m)
        figures.append((stem, lambda panels=panels: confusion.confusion(panels)))  # type: ignore[misc]
    figures += [figure for outcome in outcomes.values() for figure in outcome.figures]
    provenance = {
        "command": request.command,
        "versions": versions(),
        "in_dist": evidence.in_dist.name,
        "weights": {m.name: m.weights for m in evidence.models if m.weights},  # predictions may come without
    }
    with style.cast(m.name for m in evidence.models):
        for stem, figure in runtime.progress(figures, "drawing", unit="figure"):
            drawn = figure()
            formats = ("png", "pdf", "svg") if style.is_chart(drawn) else ("png", "pdf")
            for path in style.save(drawn, run.path / "figures" / stem, formats, provenance=provenance):
                run.add(path)


def write_outcomes(
    run: RunFolder,
    outcomes: Mapping[str, Outcome],
    answers: Sequence[Mapping[str, Any]],
    analyses: Mapping[str, Analysis],
) -> list[dict[str, Any]]:
    """The tables of the analyses and ``questions.csv``; returns what ``run.json`` says of them."""
    tables.write_csv(run.file("questions.csv"), questions.COLUMNS, answers)
    told = []
    for name, outcome in outcomes.items():
        for file, (header, rows) in outcome.tables.items():
            tables.write_csv(run.file(file), header, rows)
        told.append(
            {
                "name": name,
                "title": analyses[name].title,
                "what": analyses[name].what,
                "findings": list(outcome.findings),
                "notes": list(outcome.notes),
                "tables": list(outcome.tables),
                "figures": [stem for stem, _ in outcome.figures],
                "not_done": outcome.not_done,
            }
        )
    return told


def _hardest(gaps: Sequence[GapReport], model: str) -> list[str]:
    """The probe set on which the model loses most."""
    own = [g for g in gaps if g.model == model and g.gap.defined]
    return [max(own, key=lambda g: g.gap.value).probe] if own else []
