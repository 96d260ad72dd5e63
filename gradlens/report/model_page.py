"""Everything that the page says of one model: scores, confusions, classes, curves, its card, its architecture."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradlens.report import answers
from gradlens.report.architecture import Architecture, architecture
from gradlens.report.cells import Cell, Table, interval, number, score_cell, title_of, value_or_lowest
from gradlens.report.confusions import MOST_CELLS, Confusion, confusion
from gradlens.report.curves import Chart, charts, history_table
from gradlens.report.model_files import ModelFiles
from gradlens.report.run_files import Run
from gradlens.shift import store, tables

MOST_BARS = 40  # classes with bars; of more, those that the model recalls least in distribution
ON_SCREEN = ("macro_precision", "macro_recall", "worst_class_recall", "ece", "nll")  # of a model, too many for paper
CLASS_SCORES = {"recall": "Recall", "precision": "Precision", "f1": "F1"}


@dataclass(frozen=True)
class Bar:
    """A score of one class on one set.

    Attributes:
        text: in percent; value: 0-1, ``None`` where it is not defined.
        before: the same in distribution, ``None`` on the in-distribution set itself.
        n: images of the class.
    """

    text: str
    value: float | None
    before: float | None
    n: int

    @property
    def few(self) -> bool:
        """Whether the score rests on too few images to mean much."""
        return self.n < tables.FEW


@dataclass(frozen=True)
class ClassBars:
    """One score of every class on every set.

    Attributes:
        score: ``recall``, ``precision`` or ``f1``; title: as a heading says it.
        sets: names of the sets, the in-distribution one first, and their images.
        rows: class and its bars, one per set (``None``: no images of it there).
        left_out: classes that are not among the rows.
    """

    score: str
    title: str
    sets: tuple[tuple[str, int], ...]
    rows: tuple[tuple[str, tuple[Bar | None, ...]], ...]
    left_out: int


@dataclass(frozen=True)
class ModelPage:
    """One model of the page.

    Attributes:
        name: in the run; shown: without the collection that all share; anchor: what leads to it in the page.
        headline: the main numbers in a line.
        scores: a row per set.
        confusions: one per set that has counts, in distribution first; printed: the set whose one goes on paper, that
            of the largest gap.
        bars: one per score.
        curves, epochs: of the training as charts and as a table, none where the card has no history.
        facts: what is known of its making, (what, value).
        architecture: ``None`` where the run recorded no depths.
    """

    name: str
    shown: str
    anchor: str
    headline: str
    scores: Table
    confusions: tuple[Confusion, ...]
    printed: str
    bars: tuple[ClassBars, ...]
    curves: tuple[Chart, ...]
    epochs: Table | None
    facts: tuple[tuple[str, str], ...]
    architecture: Architecture | None


def anchors(run: Run) -> dict[str, str]:
    """What leads to each model in the page: ``model-`` and its short name, letters of any script kept."""
    shown = answers.short_models(run.models)
    return store.different({m: "model-" + (re.sub(r"[^\w.-]+", "-", shown[m]) or "-") for m in run.models})


def pages(run: Run, files: ModelFiles) -> list[ModelPage]:
    """The models, best in-distribution accuracy first, as in the table of models."""
    shown, anchor = answers.short_models(run.models), anchors(run)
    accuracy = {m: run.scores.get((m, run.in_dist), {}).get("accuracy") for m in run.models}
    order = sorted(run.models, key=lambda m: -value_or_lowest(accuracy[m]))
    away = answers.outside(run)
    room = MOST_CELLS // max(1, len(files.answers))
    found = []
    for model in order:
        card = files.cards.get(model, {})
        training = _part(card, "training")
        history = _list(training.get("history"))
        kept = training.get("kept")
        found.append(
            ModelPage(
                model,
                shown[model],
                anchor[model],
                _headline(run, model, away.get(model)),
                _scores(run, model, shown[model]),
                _confusions(run, model, files, room),
                away[model].worst.probe if model in away else run.in_dist,
                _bars(run, model),
                tuple(charts(history, kept if isinstance(kept, int) else 0)),
                history_table(history, shown[model]),
                tuple(facts(run.about, model, card)),
                architecture(files.depths.get(model, ())),
            )
        )
    return found


def _sets(run: Run) -> list[str]:
    """In distribution first, then the probe sets, then sets without gaps."""
    return list(dict.fromkeys([run.in_dist, *run.probes, *run.datasets]))


def _headline(run: Run, model: str, away: answers.Outside | None) -> str:
    e = run.scores.get((model, run.in_dist), {}).get("accuracy")
    parts = []
    if e is not None and e.defined:
        parts.append(f"{tables.percent(e.value)} % on {run.in_dist}")
    if away:
        worst = answers.short_sets(run.datasets)[away.worst.probe]
        if len(run.probes) == 1:
            parts.append(f"{tables.percent(away.accuracy)} % on {worst}")
        else:
            lost = f", loses most on {worst}" if away.worst.gap.value > 0 else ""
            parts.append(f"{tables.percent(away.accuracy)} % outside{lost}")
    return ", ".join(parts)


def _scores(run: Run, model: str, shown: str) -> Table:
    """A row per set: images, accuracy and its gap, other scores, all with intervals."""
    gaps = run.gaps_of("accuracy")
    sets = [d for d in _sets(run) if (model, d) in run.scores]
    metrics = [
        m
        for m in dict.fromkeys(name for d in sets for name in run.scores[model, d])
        if m in ("macro_precision", "macro_recall", "macro_f1", "ece", "nll", "worst_class_recall")
        or (m.startswith("top") and m[3:].isdigit())
    ]
    metrics = [m for m in metrics if any(_defined(run, model, d, m) for d in sets)]
    heads = [("Set", ""), ("Images", ""), ("Accuracy", "%")]
    lost = any((model, d) in gaps for d in sets)
    if lost:
        heads.append(("Lost", "points of accuracy, on shared classes"))
    heads += [(title_of(m), "" if m == "nll" else "%") for m in metrics]
    names = answers.short_sets(run.datasets)
    rows = []
    for d in sets:
        own = run.scores[model, d]
        accuracy = own.get("accuracy")
        n = accuracy.n if accuracy is not None else 0
        cells = [
            Cell(names[d], "in distribution" if d == run.in_dist else "", names[d], title=d),
            Cell(f"{n:,}", sort=n),
        ]
        cells.append(score_cell(accuracy, "accuracy"))
        if lost:
            gap = gaps.get((model, d))
            cells.append(
                Cell("–", sort=-math.inf)
                if gap is None
                else Cell(
                    number(gap.gap.value, "accuracy", signed=True),
                    interval(gap.gap, "accuracy"),
                    gap.gap.value if gap.gap.defined else -math.inf,
                    title=f"{gap.gap.interval}; {gap.n_in_dist:,} against {gap.n_probe:,} images",
                )
            )
        cells += [score_cell(own.get(m), m) for m in metrics]
        rows.append(tuple(cells))
    screen = frozenset(len(heads) - len(metrics) + i for i, m in enumerate(metrics) if m in ON_SCREEN)
    caption = f"Scores of {shown} on every set, with their intervals"
    return Table(caption, tuple(heads), tuple(rows), model, screen=screen)


def _defined(run: Run, model: str, dataset: str, metric: str) -> bool:
    e = run.scores[model, dataset].get(metric)
    return e is not None and e.defined


def _confusions(run: Run, model: str, files: ModelFiles, room: int) -> tuple[Confusion, ...]:
    names = answers.short_sets(run.datasets)
    order = [str(row["class"]) for row in run.per_class]
    return tuple(
        confusion(d, names[d], files.answers[model, d], list(dict.fromkeys(order)), room)
        for d in _sets(run)
        if (model, d) in files.answers
    )


def _bars(run: Run, model: str) -> tuple[ClassBars, ...]:
    rows = {(r["class"], r["dataset"]): r for r in run.per_class if r["model"] == model}
    sets = [d for d in _sets(run) if any(key[1] == d for key in rows)]
    classes = list(dict.fromkeys(key[0] for key in rows))
    left_out = max(0, len(classes) - MOST_BARS)
    if left_out:
        before = {c: rows[c, run.in_dist]["recall"] if (c, run.in_dist) in rows else math.inf for c in classes}
        classes = sorted(classes, key=lambda c: before[c])[:MOST_BARS]
    names = answers.short_sets(run.datasets)
    heads = tuple((names[d], sum(r["n"] for key, r in rows.items() if key[1] == d)) for d in sets)
    return tuple(
        ClassBars(
            score,
            title,
            heads,
            tuple((c, tuple(_bar(rows, c, d, run.in_dist, score) for d in sets)) for c in classes),
            left_out,
        )
        for score, title in CLASS_SCORES.items()
        if rows
    )


def _bar(
    rows: Mapping[tuple[str, str], Mapping[str, Any]], name: str, dataset: str, in_dist: str, score: str
) -> Bar | None:
    row, home = rows.get((name, dataset)), rows.get((name, in_dist))
    if row is None:
        return None
    before = None if home is None or dataset == in_dist or math.isnan(home[score]) else home[score]
    if math.isnan(row[score]):
        return Bar("–", None, before, row["n"])
    return Bar(tables.percent(row[score]), row[score], before, row["n"])


# ---------------------------------------------------------------------------------------------- the card


def facts(run: Mapping[str, Any], model: str, card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of a model's making, from its card and the content of ``run.json``; only what is there."""
    about = next((m for m in _list(run.get("models")) if isinstance(m, dict) and m.get("name") == model), {})
    training, settings = _part(card, "training"), _part(_part(card, "training"), "settings")
    preprocess = _part(card, "preprocess")
    classes = card.get("classes")
    found: list[tuple[str, str]] = [
        ("Model", model),
        ("Built by", _said(card, "builder") or _said(about, "builder")),
        ("Arguments", _options(_part(card, "arguments"))),
        ("Input", _input(preprocess)),
        ("Classes", f"{len(classes):,}" if isinstance(classes, list) else _said(about, "classes")),
        ("Recipe", _said(training, "recipe")),
        ("Started from", _start(training)),
        ("Training data", _data(training, "data", "images", "fingerprint")),
        ("Epoch chosen on", _data(training, "select", "select_images", "select_fingerprint")),
        ("Epochs", _epochs(training)),
        ("Seed", _said(training, "seed")),
        ("Batch size", _said(settings, "batch_size")),
        ("Optimiser", _options(_part(settings, "optimiser"), first="name")),
        ("Schedule", _options(_part(settings, "schedule"), first="name")),
        ("Augmentation", _options(_part(settings, "augment"))),
        ("Label smoothing", _said(settings, "label_smoothing")),
        ("Learnt", "; ".join(_phase(p) for p in _list(training.get("phases")) if isinstance(p, dict))),
        ("Training time", _duration(training.get("seconds"))),
        ("Stopped early", _said(training, "stopped")),
        ("Accuracy on the card", _card_scores(card)),
        ("Imported from", _said(card, "source")),
        ("Licence", _said(card, "licence")),
        ("SHA-256 of the weights", _said(card, "sha256") or _said(about, "weights")),
        ("Made with", _options(_part(card, "versions"))),
    ]
    return [(name, value) for name, value in found if value]


def _part(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = record.get(key)
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _said(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if value is None or isinstance(value, dict | list):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _options(record: Mapping[str, Any], first: str = "") -> str:
    """``adamw, lr 0.001``: what is zero is off and left out."""
    named = [str(record[first])] if record.get(first) else []
    rest = [
        f"{k.replace('_', ' ')} {_value(v)}" for k, v in record.items() if k != first and v not in (None, 0, "", False)
    ]
    return ", ".join(named + rest)


def _input(preprocess: Mapping[str, Any]) -> str:
    size = preprocess.get("input_size")
    if not isinstance(size, list) or len(size) != 3:
        return ""
    rest = {k: v for k, v in preprocess.items() if k in ("interpolation", "crop_mode", "crop_pct", "mean", "std")}
    return f"{_value(size[1])} × {_value(size[2])} pixels, {_options(rest)}"


def _start(training: Mapping[str, Any]) -> str:
    if not training:
        return ""
    start = _part(training, "start")
    return _said(start, "source") + f" ({_said(start, 'weights')[:16]})" if start else "random weights"


def _data(training: Mapping[str, Any], name: str, images: str, fingerprint: str) -> str:
    if not _said(training, name):
        return ""
    n = training.get(images)
    count = f", {n:,} images" if isinstance(n, int) and n else ""
    mark = _said(training, fingerprint)[:16]
    return f"{_said(training, name)}{count}" + (f", fingerprint {mark}…" if mark else "")


def _epochs(training: Mapping[str, Any]) -> str:
    asked, kept = _said(training, "epochs"), training.get("kept")
    return asked + (f", the weights are those of epoch {kept}" if asked and isinstance(kept, int) and kept else "")


def _phase(phase: Mapping[str, Any]) -> str:
    parts, n = ", ".join(map(str, _list(phase.get("parts")))), phase.get("parameters")
    count = f" ({n:,} parameters)" if isinstance(n, int) else ""
    return f"{_said(phase, 'epochs')} epochs: {parts}{count}"


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds <= 0:
        return ""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _card_scores(card: Mapping[str, Any]) -> str:
    scores: Sequence[Any] = _list(card.get("scores"))
    told = [
        f"{_said(s, 'dataset')} {tables.percent(s['value'])} %"
        for s in scores
        if isinstance(s, dict) and s.get("metric") == "accuracy" and isinstance(s.get("value"), float | int)
    ]
    return ", ".join(told)
