"""The ten questions that a reviewer of a generalization gap asks, and what this run answers to each.

Every question is in ``questions.csv`` of every run. One that this run cannot answer says what would answer it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradlens.shift import gap
from gradlens.workflows.measure.analyses import Answer, Outcome, Subject

COLUMNS = ("question", "asked", "answer", "files")
OPEN = "not answered by this run"


@dataclass(frozen=True)
class Question:
    """A question; ``how``: what would answer it, for runs that do not."""

    number: int
    asked: str
    how: str


QUESTIONS = (
    Question(1, "Are both sides scored on the same classes, in the same mix?", "gaps need a probe set: --probe SOURCE"),
    Question(2, "Is the probe set large enough?", "gaps need a probe set: --probe SOURCE"),
    Question(3, "Has training or test data leaked into the probe set?", "images are compared by: --with leakage"),
    Question(4, "Is it only resolution or the codec?", "matched controls are made by: --with controls"),
    Question(5, "Does top-k mean anything with so few classes?", ""),
    Question(6, "Are many models, sets and metrics compared at once?", "pairs need two models: --model NAME"),
    Question(7, "Are the labels right?", "needs several models on the same images"),
    Question(8, "Was the model chosen on this test set?", ""),
    Question(9, "Is the probe set harder, or different?", "needs five models, or: --with drift"),
    Question(10, "Are the models independent?", "needs several models"),
)


def rows(subject: Subject, outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """Rows of ``questions.csv``: one per question, in their order, with all answers that the run has."""
    answers = [*_from_scores(subject), *(a for outcome in outcomes.values() for a in outcome.answers)]
    found = []
    for q in QUESTIONS:
        own = [a for a in answers if a.question == q.number]
        files = dict.fromkeys(name for a in own for name in a.files)
        text = " ".join(a.text for a in own) or f"{OPEN}; {q.how}"
        found.append({"question": q.number, "asked": q.asked, "answer": text, "files": " ".join(files)})
    return found


def _from_scores(subject: Subject) -> list[Answer]:
    """What the scores and gaps themselves answer."""
    return [
        a for a in (_classes(subject), _size(subject), _top_k(subject), _family(subject), _chosen(subject)) if a.text
    ]


def _classes(subject: Subject) -> Answer:
    parts = []
    for probe in subject.evidence.probes:
        own = [g for g in subject.found.gaps if g.probe == probe.name and g.metric == "accuracy"]
        shared = [g for g in own if g.label_space == "shared" and g.gap.defined]
        if not shared:
            parts.append(f"{probe.name}: no class in common, so no gap is given.")
            continue
        full = len(own) > len([g for g in own if g.label_space == "shared"])
        mix = max((abs(g.mix) for g in shared), default=0.0)
        same = "the same classes" if full else f"{shared[0].classes} shared classes only, no raw gap"
        parts.append(f"{probe.name}: {same}; class mix explains at most {100 * mix:.1f} points.")
    return Answer(1, " ".join(parts), ("gaps.csv",))


def _size(subject: Subject) -> Answer:
    parts = []
    for probe in subject.evidence.probes:
        own = [
            g
            for g in subject.found.gaps
            if (g.probe, g.metric, g.label_space) == (probe.name, "accuracy", "shared") and g.gap.defined
        ]
        if not own:
            continue
        widest = max(g.gap.high - g.gap.low for g in own)
        text = f"{probe.name}: {own[0].n_probe:,} images{' in pairs' if own[0].paired else ''}, "
        text += f"intervals up to {100 * widest:.1f} points wide"
        if not own[0].paired:
            middle = sorted(own, key=lambda g: g.in_dist_value)[len(own) // 2]
            least = gap.detectable_gap(
                middle.in_dist_value, middle.n_in_dist, middle.n_probe, subject.request.confidence
            )
            text += f", smallest gap detectable with 80 % power {100 * least:.1f} points"
        parts.append(text + ".")
    return Answer(2, " ".join(parts), ("gaps.csv", "per_class.csv"))


def _top_k(subject: Subject) -> Answer:
    k = subject.request.top_k
    of_set = [subject.found.scores[m, subject.in_dist][f"top{k}"] for m in subject.models]
    defined = sum(e.defined for e in of_set)
    if defined == len(of_set):
        return Answer(5, f"Top-{k} is defined: every model chooses among more than {k} classes.", ("summary.csv",))
    reasons = ", ".join(dict.fromkeys(e.interval.removeprefix("not defined: ") for e in of_set if not e.defined))
    return Answer(5, f"Top-{k} is left undefined for {len(of_set) - defined} models ({reasons}).", ("summary.csv",))


def _family(subject: Subject) -> Answer:
    tests = subject.found.pairs
    if not tests:
        return Answer(6, "")
    per_set = len(tests) // len(subject.evidence.sets)
    alpha = 1 - subject.request.confidence
    differ, discovered = (sum(r[p] < alpha for r in tests) for p in ("p_holm", "p_bh"))
    text = (
        f"{len(tests)} pairs were tested, {per_set} on each of {len(subject.evidence.sets)} sets; p values are "
        f"corrected within each set, after which {differ} pairs differ (Holm; {discovered} by Benjamini-Hochberg)."
    )
    return Answer(6, text, ("pairs.csv",))


def _chosen(subject: Subject) -> Answer:
    roles = ", ".join(f"{s.name} ({s.role})" for s in subject.evidence.sets)
    if subject.found.marks:
        return Answer(8, f"Roles: {roles}. {'. '.join(subject.found.marks)}.", ("summary.csv",))
    cards = [n for n in subject.evidence.networks.values() if (n.card.get("training") or {}).get("fingerprint")]
    if cards:
        text = f"No: none of the sets is one that the cards of {len(cards)} models name as training or selection data."
    else:
        text = "Nothing says so; the models come without a record of what they were trained and selected on."
    return Answer(8, f"Roles: {roles}. {text}", ("run.json",))
