"""Which network to take: the best, the one for a phone, the balanced one, each by a rule that is stated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gradlens.report.answers import LIGHT_ROOM, ROOM
from gradlens.shift import pairs
from gradlens.shift.tables import percent
from gradlens.workflows.measure.analyses import Outcome
from gradlens.workflows.study.section import Course, section
from gradlens.workflows.study.sections.costs import rows_of

COLUMNS = ("pick", "model", "accuracy", "parameters", "flops", "latency_ms", "rule", "not_told_apart_from")
# those of the page's own picks, here for the accuracy on the test set: two rules under one name would confuse
RULES = {
    "best": "the highest accuracy",
    "mobile": f"the fewest FLOPs within {100 * LIGHT_ROOM:g} points of the best accuracy",
    "balanced": f"the fewest parameters within {100 * ROOM:g} points of the best accuracy",
}


@section(
    "recommendation",
    "Recommendation",
    "A best, a mobile and a balanced network, and who is as good as they.",
    after=("costs",),
)
def of_course(course: Course) -> Outcome:
    """Three picks, with the networks whose errors do not tell them apart from the pick (McNemar, Holm)."""
    costs = rows_of(course)
    rows = [_row(pick, chosen(pick, costs), course) for pick in RULES]
    findings = []
    for r in rows:
        text = (
            f"{r['pick'].capitalize()}: {r['model']} ({percent(r['accuracy'])} %, {r['parameters']:,} parameters, "
            f"{r['flops'] / 1e9:.3g} GFLOPs, {r['latency_ms']:.3g} ms), by {r['rule']}"
        )
        same = r["not_told_apart_from"].split()
        shown = ", ".join(same[:5]) + (f" and {len(same) - 5} more" if len(same) > 5 else "")
        findings.append(text + (f"; not told apart from it in accuracy: {shown}." if same else "."))
    return Outcome(tables={"recommendation.csv": (COLUMNS, rows)}, findings=findings)


def chosen(pick: str, costs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The row that the rule of ``pick`` (see :data:`RULES`) takes; of equals the more accurate one."""
    room, least = {"best": (0.0, "flops"), "mobile": (LIGHT_ROOM, "flops"), "balanced": (ROOM, "parameters")}[pick]
    enough = max(r["accuracy"] for r in costs) - room
    return min(
        (r for r in costs if r["accuracy"] >= enough), key=lambda r: (r[least], -r["accuracy"], r["flops"], r["model"])
    )


def _row(pick: str, taken: Mapping[str, Any], course: Course) -> dict[str, Any]:
    first = {name: own[0].name for name, own in course.families().items()}
    said = course.subject.evidence.predictions
    tests = pairs.compare([said[name, course.subject.in_dist] for name in first.values()])
    alpha = 1 - course.subject.request.confidence
    mine = first[taken["model"]]
    called = {model: name for name, model in first.items()}
    same = [
        called[t["model_b"] if t["model_a"] == mine else t["model_a"]]
        for t in tests
        if mine in (t["model_a"], t["model_b"]) and t["p_holm"] >= alpha
    ]
    fields = {k: taken[k] for k in ("model", "accuracy", "parameters", "flops", "latency_ms")}
    return {"pick": pick, **fields, "rule": RULES[pick], "not_told_apart_from": " ".join(same)}
