"""Does starting from other weights pay: in distribution, on the shifted sets, and in the gap between them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradlens.figures import differences as figure
from gradlens.shift import luck
from gradlens.shift.pairs import holm
from gradlens.shift.tables import percent, with_interval
from gradlens.workflows.measure.analyses import Outcome
from gradlens.workflows.measure.analyses.luck import sides
from gradlens.workflows.measure.evidence import SetInfo
from gradlens.workflows.study.section import Course, Trained, section

STRATEGIES = ("model", "strategy", "seeds", "quantity", "dataset", "n", "value", "low", "high", "interval")
AGAINST = (
    *("model", "strategy", "baseline", "seeds", "quantity", "dataset", "n", "paired", "difference", "low", "high"),
    *("interval", "training_error", "sampling_error", "p", "p_holm", "tests"),
)


@section(
    "transfer",
    "Strategies against the baseline",
    "Accuracy and gap of each strategy over its seeds, and the difference from the baseline with its interval.",
)
def of_course(course: Course) -> Outcome:
    """Accuracies, gaps, and both against the study's baseline, judged against the luck of training and of sampling."""
    baseline = course.study.baseline
    families = {name: own for name, own in course.families().items() if len(own) > 1}
    compared = [
        (name, f"{own[0].run.model}-{baseline}")
        for name, own in families.items()
        if own[0].run.variant != baseline and f"{own[0].run.model}-{baseline}" in families
    ]
    if not compared:
        return Outcome(
            not_done="strategies are compared over seeds; two or more of the baseline and of another are needed"
        )
    runs = {name: [t.name for t in own] for name, own in families.items()}
    sets = course.subject.evidence
    rows, tests, notes = [], [], []
    for quantity, s in [("accuracy", s) for s in sets.sets] + [("gap", p) for p in sets.probes]:
        values, head = sides(course.subject, quantity, s, runs)
        if values is None:
            notes.append(f"{s.name}: strategies are not compared in {quantity}; {head['reason']}")
            continue
        rows += [_row(families[name], values[name], quantity, s, head, course) for name in families]
        own = [_test(families[a], values[a], values[b], quantity, s, head, course) for a, b in compared]
        for row, p in zip(own, holm([t["p"] for t in own]), strict=True):
            tests.append(row | {"p_holm": p, "tests": len(own)})
    marks = [
        figure.Mark(_panel(t), t["strategy"], t["model"], t["difference"], t["low"], t["high"])
        for t in tests
        if t["difference"] == t["difference"]
    ]
    return Outcome(
        tables={"strategies.csv": (STRATEGIES, rows), "strategies_against.csv": (AGAINST, tests)},
        figures=[("strategies", lambda: figure.differences(marks, baseline, tests[0]["interval"]))] if marks else [],
        findings=[
            *_shrinks(tests, baseline, 1 - course.subject.request.confidence),
            *_best(rows, course),
        ],
        notes=notes,
    )


def _panel(test: Mapping[str, Any]) -> str:
    return f"{test['quantity']}, {test['dataset']}"


def _row(
    own: Sequence[Trained], values: list[np.ndarray], quantity: str, s: SetInfo, head: Mapping[str, Any], course: Course
) -> dict[str, Any]:
    mean = luck.mean_interval(values, course.subject.request.confidence)
    return {
        "model": own[0].run.model,
        "strategy": own[0].run.variant,
        "seeds": len(own),
        "quantity": quantity,
        "dataset": s.name,
        "n": head["n"],
        "value": mean.value,
        "low": mean.low,
        "high": mean.high,
        "interval": mean.interval,
    }


def _test(
    own: Sequence[Trained],
    one: list[np.ndarray],
    base: list[np.ndarray],
    quantity: str,
    s: SetInfo,
    head: Mapping[str, Any],
    course: Course,
) -> dict[str, Any]:
    d = luck.difference(one, base, course.subject.request.confidence)
    return {
        "model": own[0].run.model,
        "strategy": own[0].run.variant,
        "baseline": course.study.baseline,
        "seeds": len(own),
        "quantity": quantity,
        "dataset": s.name,
        "n": head["n"],
        "paired": head["paired"],
        "difference": d.value.value,
        "low": d.value.low,
        "high": d.value.high,
        "interval": d.value.interval,
        "training_error": d.training_error,
        "sampling_error": d.sampling_error,
        "p": d.p,
    }


def _shrinks(tests: Sequence[Mapping[str, Any]], baseline: str, alpha: float) -> list[str]:
    """The answer to the question, in the gap first, then in the accuracies it is made of."""
    found = []
    for quantity, better, called in (("gap", -1, "the gap"), ("accuracy", 1, "accuracy")):
        own = [t for t in tests if t["quantity"] == quantity]
        if not own:
            continue
        sure = [t for t in own if t["p_holm"] < alpha]
        good = [t for t in sure if t["difference"] * better > 0]
        shrinks, grows = ("smaller", "larger") if quantity == "gap" else ("higher", "lower")
        text = (
            f"Against {baseline}, {called} is {shrinks} in {len(good)} and {grows} in {len(sure) - len(good)} of "
            f"{len(own)} comparisons beyond both kinds of luck (t over runs and images, Holm within a set)"
        )
        most = max(own, key=lambda t: (t["difference"] * better, t["model"], t["strategy"]))
        least = min(own, key=lambda t: (t["difference"] * better, t["model"], t["strategy"]))
        told = "; ".join(f"{label} {_one(t)}" for label, t in (("best:", most), ("worst:", least)))
        found.append(f"{text}; {told}.")
    return found


def _one(t: Mapping[str, Any]) -> str:
    interval = f"{percent(t['difference'], signed=True)} points [{percent(t['low'])}, {percent(t['high'])}]"
    return f"{t['model']}, {t['strategy']} on {t['dataset']} {interval}"


def _best(rows: Sequence[Mapping[str, Any]], course: Course) -> list[str]:
    """Per model: which strategy scores highest in distribution, and the baseline beside it."""
    found = []
    for model in dict.fromkeys(r["model"] for r in rows):
        own = [
            r for r in rows if (r["model"], r["quantity"], r["dataset"]) == (model, "accuracy", course.subject.in_dist)
        ]
        if not own:
            continue
        first = max(own, key=lambda r: r["value"])
        base = next((r for r in own if r["strategy"] == course.study.baseline), None)
        text = (
            f"{model} on {course.subject.in_dist}: {first['strategy']} is highest, "
            f"{with_interval(first['value'], first['low'], first['high'])} % over {first['seeds']} seeds"
        )
        if base is not None and base is not first:
            text += f"; {base['strategy']} {with_interval(base['value'], base['low'], base['high'])} %"
        found.append(text + ".")
    return found
