"""What the templates show of a run: tables of cells, strips, facts. Formatting only; the numbers are the run's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from gradlens.records import Estimate, GapReport
from gradlens.report import answers
from gradlens.report.run_files import Analysed, Run
from gradlens.shift import tables
from gradlens.shift.metrics import METRICS

MOST_ROWS = 200  # of skipped inputs and of an analysis's tables; the files have them all


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it says; ``small``: less important, under it.
        sort: what the column is sorted by: a number, or text.
        heat: 0 (no colour) to 1 (the strongest); negative in the opposite colour.
        title: the full story, on hover.
    """

    text: str
    small: str = ""
    sort: float | str = ""
    heat: float = 0.0
    title: str = ""


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Attributes:
        heads: text and explanation of each column.
        rows: cells; the first one names the row.
        name: of a metric or a model, for those who pick one of several tables.
        title: in a list of tables.
    """

    caption: str
    heads: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Cell, ...], ...]
    name: str = ""
    title: str = ""


def page_title(run: Run) -> str:
    """``14 models on vehicles-test and 9 probe sets``, after what ``run.json`` says it is about."""
    about = f"{run.about['title']}: " if run.about.get("title") else ""
    return (
        about
        + f"{len(run.models)} {'model' if len(run.models) == 1 else 'models'} on {run.in_dist}"
        + (f" and {len(run.probes)} probe {'set' if len(run.probes) == 1 else 'sets'}" if run.probes else "")
    )


def view(run: Run) -> dict[str, Any]:
    """Everything the templates show of a run, by the names they use."""
    return {
        "run": run,
        "sentences": answers.sentences(run),
        "picks": answers.picks(run),
        "models": answers.short_models(run.models),
        "sets": answers.short_sets(run.datasets),
        "model_table": _model_table(run),
        "gap_tables": _gap_tables(run),
        "class_tables": _class_tables(run),
        "pair_tables": _pair_tables(run),
        "analyses": [(one, _raw_tables(one)) for one in run.analyses if not one.not_done],
        "left_undone": [one for one in run.analyses if one.not_done],
        "strips": _strips(run),
        "most_rows": MOST_ROWS,
        "remarks": _remarks(run),
        "intervals": _interval_methods(run),
        "facts": _facts(run),
        "inputs": _inputs(run),
        "weights": _weights(run),
    }


def _remarks(run: Run) -> list[str]:
    """What a reader must know: limits that were missed, then the run's own warnings."""
    limits = run.about.get("limits")
    missed = _list(limits.get("missed")) if isinstance(limits, dict) else []
    return [str(remark) for remark in (*missed, *_list(run.about.get("warnings")))]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def title_of(metric: str) -> str:
    """A metric as a heading says it: ``top5`` is "Top-5 accuracy"."""
    if metric in METRICS:
        return METRICS[metric].title
    return f"Top-{metric[3:]} accuracy" if metric.startswith("top") and metric[3:].isdigit() else metric


def _is_loss(metric: str) -> bool:
    """Whether less is better."""
    return metric in METRICS and METRICS[metric].better == "lower"


def _in_percent(metric: str) -> bool:
    return metric not in ("nll", "brier")  # both may exceed one


def _number(value: float, metric: str, signed: bool = False) -> str:
    if math.isnan(value):
        return "–"
    if _in_percent(metric):
        return tables.percent(value, signed)
    return f"{value:{'+' if signed else ''}.3f}".replace("-", tables.MINUS)


def _interval(e: Estimate, metric: str) -> str:
    return f"[{_number(e.low, metric)}, {_number(e.high, metric)}]" if e.defined else ""


def _score_cell(e: Estimate | None, metric: str) -> Cell:
    if e is None or not e.defined:
        return Cell("–", sort=-math.inf, title="" if e is None else e.interval)
    return Cell(_number(e.value, metric), _interval(e, metric), e.value, title=f"n = {e.n:,}, {e.interval}")


def _model_table(run: Run) -> Table:
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
    order = sorted(run.models, key=lambda m: -_value(scored[m].get("accuracy")))
    for model in order:
        cells = [Cell(shown[model], sort=shown[model], title=model)]
        if size:
            count = size.get(model)
            cells.append(
                Cell("–", sort=-1) if count is None else Cell(f"{count / 1e6:.2f}", sort=count, title=f"{count:,}")
            )
        cells += [_score_cell(scored[model].get(m), m) for m in metrics]
        if away and model in away:
            o = away[model]
            where = answers.short_sets(run.datasets)[o.worst.probe]
            cells.append(Cell(tables.percent(o.accuracy), sort=o.accuracy))
            cells.append(Cell(tables.percent(o.kept), sort=o.kept))
            cells.append(
                Cell(
                    tables.percent(o.worst.gap.value, signed=True),
                    f"{_interval(o.worst.gap, 'accuracy')} {where}",
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


def _value(e: Estimate | None) -> float:
    return -math.inf if e is None or not e.defined else e.value


def _gap_tables(run: Run) -> list[Table]:
    """A table of models × probe sets for each metric that has a gap anywhere, accuracy first."""
    found = []
    shown, sets = answers.short_models(run.models), answers.short_sets(run.datasets)
    all_classes = _classes_in_distribution(run)
    for metric in dict.fromkeys(["accuracy", *(g.metric for g in run.gaps)]):
        gaps = {key: g for key, g in run.gaps_of(metric).items() if g.gap.defined}
        if not gaps:
            continue
        worst = max(abs(g.gap.value) for g in gaps.values()) or 1.0
        sign = -1.0 if _is_loss(metric) else 1.0
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
        unit = "percentage points" if _in_percent(metric) else "its own units"
        less = "; less is better, so a negative gap is a loss" if _is_loss(metric) else ""
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
        f"{_number(g.in_dist_value, metric)} → {_number(g.probe_value, metric)}; {g.gap.interval}; "
        f"{g.n_in_dist:,} against {g.n_probe:,} images, {g.classes} classes"
    )
    if not math.isnan(g.mix):
        title += f"; class mix {_number(g.mix, metric, True)}, within classes {_number(g.within, metric, True)}"
    text = _number(g.gap.value, metric, signed=True)
    return Cell(text, _interval(g.gap, metric), g.gap.value, g.gap.value * scale, title)


def _class_tables(run: Run) -> list[Table]:
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


def _pair_tables(run: Run) -> list[Table]:
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
                Cell(_number(r["kappa"], "nll"), sort=r["kappa"] if r["kappa"] == r["kappa"] else -math.inf),
            )
            for r in own
        )
        summary = f"{dataset} — {differ} of {len(own)} pairs differ (p < {answers.ALPHA:g})"
        found.append(Table(f"Every two models on {dataset}, n = {own[0]['n']:,}", heads, rows, dataset, summary))
    return found


def _raw_tables(one: Analysed) -> list[Table]:
    """An analysis's tables as its files have them: columns that say something, numbers to four digits."""
    found = []
    for name, rows in one.tables.items():
        if not rows:
            continue
        columns = [key for key in rows[0] if any(row.get(key) for row in rows)]
        title = name.removesuffix(".csv").replace("_", " ")
        caption = title + (f", the first {MOST_ROWS} of {len(rows):,} rows" if len(rows) > MOST_ROWS else "")
        body = tuple(tuple(_raw_cell(row.get(key, "")) for key in columns) for row in rows[:MOST_ROWS])
        found.append(Table(caption, tuple((key.replace("_", " "), "") for key in columns), body, name, title))
    return found


def _raw_cell(text: str) -> Cell:
    try:
        value = float(text)
    except ValueError:
        return Cell(text or "–", sort=text)
    if not math.isfinite(value):
        return Cell("–", sort=-math.inf)
    shown = f"{int(value):,}" if text.lstrip("-").isdigit() else f"{value:.4g}"
    return Cell(shown.replace("-", tables.MINUS), sort=value, title=text)


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


def _strips(run: Run) -> Strips:
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


# ---------------------------------------------------------------------------------------------- how it was made


def _interval_methods(run: Run) -> list[tuple[str, str, str]]:
    """(metric, how the intervals of scores were made, how those of gaps were made)."""
    scores: dict[str, dict[str, None]] = {}
    gaps: dict[str, dict[str, None]] = {}
    for own in run.scores.values():
        for metric, estimate in own.items():
            scores.setdefault(metric, {})[estimate.interval] = None
    for g in run.gaps:
        if g.label_space == "shared":
            gaps.setdefault(g.metric, {})[g.gap.interval] = None
    return [(title_of(m), "; ".join(scores[m]), "; ".join(gaps.get(m, {}))) for m in scores]


def _said(record: Mapping[str, Any], key: str) -> str:
    return str(record[key]) if record.get(key) not in (None, "") else "–"


def _inputs(run: Run) -> list[tuple[str, ...]]:
    """(name, role, images, classes, paired with, beginning of the fingerprint) of each image set."""
    return [
        (
            *(_said(s, key) for key in ("name", "role", "n")),
            str(len(s["classes"])) if isinstance(s.get("classes"), list) else _said(s, "classes"),
            _said(s, "paired_with"),
            _said(s, "fingerprint")[:16],
        )
        for s in [run.about.get("in_dist"), *_list(run.about.get("probe_sets"))]
        if isinstance(s, dict)
    ]


def _weights(run: Run) -> list[tuple[str, ...]]:
    """(name, builder, beginning of the weights' checksum or what is said instead) of each model."""
    recorded = [
        m for m in _list(run.about.get("models")) if isinstance(m, dict) and (m.get("builder") or m.get("weights"))
    ]
    return [
        tuple(_said(m, key)[: 16 if key == "weights" else None] for key in ("name", "builder", "weights"))
        for m in recorded
    ]


def _facts(run: Run) -> list[tuple[str, str]]:
    """What ``run.json`` says, as a list for people."""
    about = run.about
    facts = [("Command", str(about["command"]))] if about.get("command") else []
    device = " — ".join(str(about[k]) for k in ("device", "device_name") if about.get(k))
    plain = {"Device": device, "Precision": about.get("precision"), "Seed": about.get("seed")}
    confidence = about.get("confidence")
    plain["Confidence"] = f"{100 * confidence:g} %" if isinstance(confidence, float | int) else None
    resamples = about.get("resamples")
    plain["Bootstrap resamples"] = f"{resamples:,}" if isinstance(resamples, int) else None
    facts += [(name, str(value)) for name, value in plain.items() if value not in (None, "")]
    for name in ("versions", "timings"):
        values = about.get(name)
        if isinstance(values, dict):
            unit = " s" if name == "timings" else ""
            parts = [f"{k} {v:,.1f}{unit}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()]
            facts.append((name.capitalize(), ", ".join(parts)))
    return facts
