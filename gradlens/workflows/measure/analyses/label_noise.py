"""Are the labels right? Images that all good models contradict with one voice, and what that would do to the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from gradlens.errors import InputError
from gradlens.shift.label_noise import GOOD, JURY, Bounds, Contradicted, bounds, contradicted, expected, families, jury
from gradlens.workflows.measure.analyses.analysis import Answer, Outcome, Subject, analysis
from gradlens.workflows.measure.analyses.explanations import number
from gradlens.workflows.measure.analyses.failures import panels_of

COLUMNS = ("dataset", "id", "path", *(f.name for f in fields(Contradicted) if f.name not in ("dataset", "id")))
BOUND_COLUMNS = tuple(f.name for f in fields(Bounds))
FILE, BOUNDS = "label_noise.csv", "label_noise_bounds.csv"


@analysis(
    "label_noise",
    "Are the labels right?",
    "Images whose label all good models contradict with one voice, and the accuracy if those labels were wrong.",
)
def label_noise(subject: Subject) -> Outcome:
    """Ask the jury of every set (:mod:`gradlens.shift.label_noise`)."""
    try:
        panels = panels_of(subject)
    except InputError as err:
        return Outcome(not_done=str(err))
    rows: list[dict[str, Any]] = []
    limits: list[Bounds] = []
    told: list[tuple[float, str]] = []
    without = []
    for name, own in panels.items():
        jurors = jury(own)
        kinds = len(families(own, jurors))
        if kinds < JURY:
            without.append(f"{name} ({kinds})")
            continue
        doubted = contradicted(own, jurors)
        chance = expected(own, jurors)
        limit = bounds(own, jurors, subject.request.confidence)
        images = subject.evidence.images.get(name)
        place = f"{images.location}/" if images is not None and images.location else ""
        rows += [{**asdict(c), "path": place + c.id} for c in doubted]
        limits += limit
        told.append(
            (
                len(doubted) / max(1, len(own)),
                _sentence(name, len(own), len(doubted), len(jurors), kinds, chance, limit),
            )
        )
    reason = (
        f"fewer than {JURY} families of models with an accuracy of {100 * GOOD:g} % or more there, so a contradiction "
        "would say more about the models than about the labels"
    )
    if not told:
        return Outcome(not_done=f"no set has a jury: {', '.join(without)}: {reason}")
    findings = [text for _, text in sorted(told, key=lambda t: -t[0])]
    tables: dict[str, tuple[Sequence[str], Sequence[Mapping[str, Any]]]] = {
        FILE: (COLUMNS, rows),
        BOUNDS: (BOUND_COLUMNS, [asdict(b) for b in limits]),
    }
    notes = [f"label noise: not judged: {', '.join(without)}: {reason}"] if without else []
    text = " ".join(findings) + (f" Not judged: {', '.join(without)}: {reason}." if without else "")
    return Outcome(tables=tables, findings=findings, notes=notes, answers=[Answer(7, text, (FILE, BOUNDS))])


def _sentence(name: str, n: int, doubted: int, jurors: int, kinds: int, chance: float, limit: Sequence[Bounds]) -> str:
    who = f"all {jurors} models" + (f" of {kinds} families" if kinds < jurors else "")
    text = f"{name}: {doubted} of {n} labels are contradicted with one voice by {who} above {100 * GOOD:g} %"
    rest = "; the others are wrong labels, or mistakes that the models share" if doubted > chance else ""
    text += f" (independent errors would give {number(chance, 1 if chance >= 0.05 else 2)}{rest})"
    if not doubted:
        return text + "."
    own = max(limit, key=lambda b: (abs(b.relabelled - b.accuracy), b.model))
    return (
        f"{text}; were all of them wrong, accuracies would change by at most "
        f"{number(100 * (own.relabelled - own.accuracy), 2)} points ({own.model}: {100 * own.accuracy:.2f} % as "
        f"labelled, {100 * own.relabelled:.2f} % relabelled)."
    )
