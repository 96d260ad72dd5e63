"""What the page says of gaps: a table of models and probe sets per metric, strips of accuracies, pairs of models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from gradlens.records import GapReport
from gradlens.report import answers
from gradlens.report.cells import Cell, Table, in_percent, interval, is_loss, number, title_of
from gradlens.report.run_files import Run
from gradlens.shift import tables


def gap_tables(run: Run) -> list[Table]:
    """A table of models × probe sets for each metric that has a gap anywhere, accuracy first."""
    found = []
    shown, sets = answers.short_models(run.models), answers.short_sets(run.datasets)
    all_classes = _classes_in_distribution(run)
    for metric in dict.fromkeys(["accuracy", *(g.metric for g in run.gaps)]):
        gaps = {key: g for key, g in run.gaps_of(metric).items() if g.gap.defined}
        if not gaps:
            continue
        worst = max(abs(g.gap.value) for g in gaps.values()) or 1.0
        sign = -1.0 if is_loss(metric) else 1.0
        lost = {key: sign * g.gap.value for key, g in gaps.items()}
        probes = _by_mean(run.probes, {p: [v for key, v in lost.items() if key[1] == p] for p in run.probes})
        models = _by_mean(run.models, {m: [v for key, v in lost.items() if key[0] == m] for m in run.models})
        heads = [("Model", "")]
        for probe in probes:
            own = [g for g in gaps.values() if g.probe == probe]
            sizes = sorted({g.n_probe for g in own})
            text = f"n = {sizes[0]:,}" + (f"–{sizes[-1]:,}" if len(sizes) > 1 else "")
            text += ", paired" if all(g.paired for g in own) else ""
            classes = {g.classes for g in own}
            if all_classes is not None and classes != {all_classes}:
                text += f", {min(classes)} of {all_classes} classes"
            heads.append((sets.get(probe, probe), text))
        rows = tuple(
            (
                Cell(shown[m], sort=shown[m], title=m),
                *(_gap_cell(gaps.get((m, p)), metric, sign / worst) for p in probes),
            )
            for m in models
        )
        unit = "percentage points" if in_percent(metric) else "its own units"
        less = "; less is better, so a negative gap is a loss" if is_loss(metric) else ""
        n = sorted({g.n_in_dist for g in gaps.values()})
        size = f"n = {n[0]:,}" + (f"–{n[-1]:,}" if len(n) > 1 else "")
        title = title_of(metric)
        caption = (
            f"{title} on {run.in_dist} ({size}) minus {title[0].lower() + title[1:]} on each probe set, in {unit}, "
            f"on the classes both share{less}"
        )
        found.append(Table(caption, tuple(heads), rows, metric, title))
    return found


def _by_mean(names: Sequence[str], losses: Mapping[str, Sequence[float]]) -> list[str]:
    """Those names that have losses, the smallest mean first: the order of the heat map's rows and columns."""
    return sorted((name for name in names if losses[name]), key=lambda name: fmean(losses[name]))


def _classes_in_distribution(run: Run) -> int | None:
    """How many classes the in-distribution set has, where the run recorded them."""
    about = run.about.get("in_dist")
    classes = about.get("classes") if isinstance(about, dict) else None
    return len(classes) if isinstance(classes, list) else None


def _gap_cell(g: GapReport | None, metric: str, scale: float) -> Cell:
    if g is None:
        return Cell("–", sort=-math.inf)
    title = (
        f"{number(g.in_dist_value, metric)} → {number(g.probe_value, metric)}; {g.gap.interval}; "
        f"{g.n_in_dist:,} against {g.n_probe:,} images, {g.classes} classes"
    )
    if not math.isnan(g.mix):
        title += f"; class mix {number(g.mix, metric, True)}, within classes {number(g.within, metric, True)}"
    text = number(g.gap.value, metric, signed=True)
    return Cell(text, interval(g.gap, metric), g.gap.value, g.gap.value * scale, title)


def mix_table(run: Run) -> Table | None:
    """Each accuracy gap in two parts, as numbers and as a bar; none where no gap has a part of class mix."""
    gaps = {key: g for key, g in run.gaps_of("accuracy").items() if g.gap.defined and not math.isnan(g.mix)}
    if not any(abs(g.mix) >= 5e-4 for g in gaps.values()):  # would be printed as 0.0
        return None
    shown, sets = answers.short_models(run.models), answers.short_sets(run.datasets)
    probes = [p for p in run.probes if any(key[1] == p for key in gaps)]
    ends = [end for g in gaps.values() for end in (g.within, g.gap.value, 0.0)]
    start, room = min(ends), max(ends) - min(ends)

    def part(kind: str, a: float, b: float) -> tuple[str, float, float]:
        return kind, round(100 * (min(a, b) - start) / room, 2), round(100 * abs(a - b) / room, 2)

    def cell(g: GapReport | None) -> Cell:
        if g is None:
            return Cell("–", sort=-math.inf)
        parts = part("within", 0.0, g.within), part("mix", g.within, g.gap.value)
        text = f"within classes {tables.percent(g.within, True)}, class mix {tables.percent(g.mix, True)}"
        small = f"{tables.percent(g.within, True)} within, {tables.percent(g.mix, True)} mix"
        return Cell(tables.percent(g.gap.value, True), small, g.mix, title=f"{g.model} on {g.probe}: {text}", bar=parts)

    rows = tuple(
        (Cell(shown[m], sort=shown[m], title=m), *(cell(gaps.get((m, p))) for p in probes))
        for m in run.models
        if any(key[0] == m for key in gaps)
    )
    caption = (
        "Accuracy gaps in percentage points, split into what the same class lost and what comes from classes that "
        "appear in other shares; columns sort by the class mix"
    )
    return Table(caption, (("Model", ""), *((sets[p], "") for p in probes)), rows, "mix")


def pair_tables(run: Run) -> list[Table]:
    """For each set: every two models compared."""
    heads = (
        ("Model A", ""),
        ("Model B", ""),
        ("Only A right", "images"),
        ("Only B right", "images"),
        ("p", "exact McNemar, Holm-corrected"),
        ("Agreement", "same answer, %"),
        ("Kappa", "of errors"),
    )
    found = []
    shown = answers.short_models(run.models)
    for dataset in dict.fromkeys(r["dataset"] for r in run.pairs):
        own = [r for r in run.pairs if r["dataset"] == dataset]
        differ = sum(r["p_holm"] < answers.ALPHA for r in own)
        rows = tuple(
            (
                Cell(shown.get(r["model_a"], r["model_a"]), sort=r["model_a"]),
                Cell(shown.get(r["model_b"], r["model_b"]), sort=r["model_b"]),
                Cell(f"{r['b']:,}", sort=r["b"]),
                Cell(f"{r['c']:,}", sort=r["c"]),
                Cell("< 0.0001" if r["p_holm"] < 1e-4 else f"{r['p_holm']:.4f}", sort=r["p_holm"]),
                Cell(tables.percent(r["agreement"]), sort=r["agreement"]),
                Cell(number(r["kappa"], "nll"), sort=r["kappa"] if r["kappa"] == r["kappa"] else -math.inf),
            )
            for r in own
        )
        summary = f"{dataset} — {differ} of {len(own)} pairs differ (p < {answers.ALPHA:g})"
        found.append(Table(f"Every two models on {dataset}, n = {own[0]['n']:,}", heads, rows, dataset, summary))
    return found


# ---------------------------------------------------------------------------------------------- a chart of strips


@dataclass(frozen=True)
class Strip:
    """One model's accuracies as marks on a line; positions are percent of the line's length.

    Attributes:
        in_dist: position and text of the in-distribution accuracy.
        dots: position and text of each probe set's, lowest first.
    """

    model: str
    in_dist: tuple[float, str]
    dots: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Strips:
    """The lines of all models on one scale; ``ticks`` are (position, text)."""

    strips: tuple[Strip, ...]
    ticks: tuple[tuple[float, str], ...]


def strips(run: Run) -> Strips:
    """Accuracy in distribution and on each probe set, on the shared classes; best outside first."""
    gaps, away = run.gaps_of("accuracy"), answers.outside(run)
    shown, sets = answers.short_models(run.models), answers.short_sets(run.datasets)
    if not away:
        return Strips((), ())
    lowest = min(gaps[m, p].probe_value for m in away for p in run.probes)
    start = 10 * int(10 * lowest)
    step = 10 if start >= 50 else 20

    def place(value: float) -> float:
        return round(100 * (100 * value - start) / (100 - start), 2)

    found = []
    for model in sorted(away, key=lambda m: -away[m].accuracy):
        own = sorted((gaps[model, probe] for probe in run.probes), key=lambda g: g.probe_value)
        before = max(g.in_dist_value for g in own)
        found.append(
            Strip(
                shown[model],
                (place(before), f"in distribution {tables.percent(before)} %"),
                tuple(
                    (place(g.probe_value), f"{sets.get(g.probe, g.probe)} {tables.percent(g.probe_value)} %")
                    for g in own
                ),
            )
        )
    return Strips(tuple(found), tuple((place(t / 100), str(t)) for t in range(100, start - 1, -step)))
