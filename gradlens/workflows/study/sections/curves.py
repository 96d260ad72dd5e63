"""Learning curves of all runs, and what they show in a sentence."""

from __future__ import annotations

from functools import partial

from gradlens.figures.learning_curves import learning_curves, run_of
from gradlens.shift.tables import percent
from gradlens.workflows.measure.analyses import Outcome
from gradlens.workflows.study.section import Course, Trained, section

COLUMNS = (
    *("model", "epoch", "loss", "accuracy", "select_loss", "select_accuracy", "lr", "seconds"),
    "kept",
)
MOST = 7  # models of one figure: as many as have colours of their own


@section("curves", "Learning curves", "Loss and accuracy over the epochs, on training and on selection images.")
def of_course(course: Course) -> Outcome:
    """The history of every run as a table, and as figures of a few networks each; seeds of one network are a band."""
    rows = [
        {"model": t.run.name, "kept": e["epoch"] == t.training.kept, **{k: e[k] for k in COLUMNS[1:-1]}}
        for t in course.runs
        for e in t.training.history
    ]
    families = list(course.families().values())
    by_model = [
        [own for own in families if own[0].run.model == m] for m in dict.fromkeys(t.run.model for t in course.runs)
    ]
    # a model with its variants stays together where it has any
    pages = by_model if len(families) > MOST and len(by_model) < len(families) else _parts(families)
    figures = []
    for number, page in enumerate(pages, 1):
        runs = [run_of(t.run.family, t.training.model_dump(mode="json")) for own in page for t in own]
        figures.append((f"curves-{number}" if len(pages) > 1 else "curves", partial(learning_curves, runs)))
    return Outcome(
        tables={"curves.csv": (COLUMNS, rows)}, figures=figures, findings=[_ends(course.runs), *_stopped(course.runs)]
    )


def _parts(families: list[list[Trained]]) -> list[list[list[Trained]]]:
    return [families[i : i + MOST] for i in range(0, len(families), MOST)]


def _ends(runs: tuple[Trained, ...]) -> str:
    last = {t.run.name: float(t.training.history[-1]["select_accuracy"]) for t in runs}
    best, worst = max(last, key=lambda n: last[n]), min(last, key=lambda n: last[n])
    text = f"After its last epoch {best} is highest on the selection images, {percent(last[best])} %"
    return text + (f"; {worst} is lowest, {percent(last[worst])} %." if best != worst else ".")


def _stopped(runs: tuple[Trained, ...]) -> list[str]:
    early = [t for t in runs if len(t.training.history) < t.training.epochs]
    if not early:
        return []
    shown = ", ".join(f"{t.run.name} after {len(t.training.history)}" for t in early[:6])
    return [f"{len(early)} of {len(runs)} runs stopped early: {shown}{', ...' if len(early) > 6 else ''}."]
