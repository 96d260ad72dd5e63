"""Which images are got wrong: confident errors, flips between paired images, what every model gets wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from typing import TYPE_CHECKING, Any

from gradlens.errors import InputError
from gradlens.shift import intervals
from gradlens.shift.failures import (
    CONFIDENT,
    Failure,
    Tally,
    confident_errors,
    flips,
    tallies,
    wrong_in_all,
    wrong_in_every_model,
)
from gradlens.shift.panel import Panel, panel
from gradlens.workflows.measure.analyses.analysis import Outcome, Subject, analysis
from gradlens.workflows.measure.analyses.explanations import number, span

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 20
"""Images listed of each kind, model and data set."""

COLUMNS = (
    "model", "dataset", "kind", "id", "path", "label", "predicted", "confidence", "margin", "models_wrong", "models",
    "pair", "in_dist_prediction",
)  # fmt: skip
TALLY_COLUMNS = tuple(f.name for f in fields(Tally))


@analysis(
    "failures",
    "Which images fail",
    "The most confident errors of every model, images it gets right in distribution and wrong after the shift, and "
    "images that every model gets wrong.",
)
def failures(subject: Subject) -> Outcome:
    """List and count failures, set by set."""
    try:
        panels = panels_of(subject)
    except InputError as err:
        return Outcome(not_done=str(err))
    home = panels[subject.in_dist]
    rows: list[dict[str, Any]] = []
    counts: list[Tally] = []
    everywhere: dict[str, int] = {}
    for info in subject.evidence.sets:
        own = panels[info.name]
        before = home if info.paired_with == home.dataset and own is not home else None
        rows += [_row(subject, f) for f in listed(own, before, MOST)]
        counts += tallies(own, before)
        everywhere[info.name] = int(wrong_in_all(own).sum())
    kinds = {"confident error": 0, "flip": 1, "wrong in every model": 2}
    order = {m: i for i, m in enumerate(subject.models)}
    rows.sort(key=lambda r: (kinds[r["kind"]], order.get(r["model"], len(order))))  # stable: sets and ranks stay
    notes = []
    if any(t.confident < 0 for t in counts):
        notes.append(
            "failures: confidence is not defined for hard predictions, so their confident errors are not listed"
        )
    tables: dict[str, tuple[Sequence[str], Sequence[Mapping[str, Any]]]] = {
        "failures.csv": (COLUMNS, rows),
        "failure_counts.csv": (TALLY_COLUMNS, [asdict(t) for t in counts]),
    }
    return Outcome(tables=tables, findings=_findings(subject, panels, counts, everywhere), notes=notes)


def panels_of(subject: Subject) -> dict[str, Panel]:
    """All models' answers on each set.

    Raises:
        InputError: two models were scored against different labels.
    """
    said = subject.evidence.predictions
    return {s.name: panel([said[m, s.name] for m in subject.models]) for s in subject.evidence.sets}


def listed(own: Panel, before: Panel | None, most: int) -> list[Failure]:
    """The failures of all kinds on one set; ``before``: the set its pairs refer to."""
    return [
        *confident_errors(own, before, most),
        *(flips(own, before, most) if before is not None else []),
        *wrong_in_every_model(own, most),
    ]


def _row(subject: Subject, f: Failure) -> dict[str, Any]:
    images = subject.evidence.images.get(f.dataset)
    where = f"{images.location}/{f.id}" if images is not None and images.location else f.id
    return {**asdict(f), "path": where, "model": f.model or "(every model)"}


def _findings(
    subject: Subject, panels: Mapping[str, Panel], counts: Sequence[Tally], everywhere: Mapping[str, int]
) -> list[str]:
    found = []
    if len(subject.models) > 1:
        shares = {name: everywhere[name] / n for name, p in panels.items() if (n := int(p.answered.all(axis=0).sum()))}
        worst = max(shares, key=lambda name: (shares[name], name), default="")
        if worst and everywhere[worst]:
            k, n = everywhere[worst], int(panels[worst].answered.all(axis=0).sum())
            low, high = intervals.clopper_pearson(k, n, subject.request.confidence)
            found.append(
                f"{k} of {n} images of {worst} ({number(100 * k / n, 1)} % {span(100 * low, 100 * high, 1)}) are wrong "
                f"in every one of {len(subject.models)} models, the most of {len(shares)} sets; in {subject.in_dist} "
                f"{everywhere[subject.in_dist]} are."
            )
        elif worst:
            found.append(f"No image of {len(shares)} sets is wrong in every one of {len(subject.models)} models.")
    paired = [t for t in counts if t.pairs]
    if paired:
        most = max(paired, key=lambda t: (t.flips / t.pairs, t.model, t.dataset))
        found.append(
            f"{most.model} loses the most images to a shift: {most.flips} of {most.pairs} scenes of {most.dataset} are "
            f"right in distribution and wrong after it, {most.recovered} the other way round."
        )
    sure = [t for t in counts if t.confident > 0]
    if sure:
        most = max(sure, key=lambda t: (t.confident / t.n, t.model, t.dataset))
        found.append(
            f"The most confidently wrong is {most.model} on {most.dataset}: {most.confident} of its {most.errors} "
            f"errors (of {most.n} images) have a confidence of {CONFIDENT:g} or more."
        )
    return found


# --- gallery ---------------------------------------------------------------------------------------------------------


@analysis(
    "gallery",
    "Failures, image by image",
    "The first failures of each kind and model as pictures, with the maps of the wrong and of the true class.",
    cost="networks",
)
def gallery(subject: Subject) -> Outcome:
    """Draw the first failures of each kind, over all probe sets, with their maps."""
    from gradlens.workflows.measure.failure_pictures import PICTURES, pages

    try:
        panels = panels_of(subject)
    except InputError as err:
        return Outcome(not_done=str(err))
    home = panels[subject.in_dist]
    found: list[Failure] = []
    for info in subject.evidence.sets:
        own = panels[info.name]
        before = home if info.paired_with == home.dataset and own is not home else None
        found += listed(own, before, PICTURES)
    drawn, notes = pages(subject, found)
    if not drawn:
        return Outcome(not_done="no model gets a labelled image wrong", notes=())
    figures: list[tuple[str, Callable[[], Figure]]] = [(p.stem, partial(_draw, p)) for p in drawn]
    findings = [
        f"{len(found)} failures were listed, {sum(len(p.rows) for p in drawn)} of them are shown with their maps."
    ]
    return Outcome(figures=figures, findings=findings, notes=notes)


def _draw(page: Any) -> Figure:
    from gradlens.figures.failure_gallery import failure_gallery

    return failure_gallery(page.rows, page.columns, page.title)
