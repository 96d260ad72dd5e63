"""What a shift evaluation says beyond scores and gaps: one file per analysis.

To add one, write a function under ``@analysis`` in a file of its own here, and name the file below. What it writes
(tables, figures, findings, answers to a reviewer's questions) is its :class:`Outcome`; the run's folder, the page, the
terminal and ``--json`` show it without knowing it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from gradlens.errors import InputError
from gradlens.workflows.measure.analyses.analysis import ANALYSES, Analysis, Answer, Outcome, Subject
from gradlens.workflows.measure.evidence import Request

# in the order they are done and told: where the models look, what changed, which model, how sure, which images
for _file in (
    *("explanations", "shortcut", "factors", "severity", "controls", "corruptions", "ranks", "lines", "luck"),
    *("calibration", "ood", "unlabelled", "drift", "leakage", "label_noise", "failures"),
):
    import_module(f"{__name__}.{_file}")

__all__ = ["ANALYSES", "Analysis", "Answer", "Outcome", "Subject", "analyse", "chosen"]


def chosen(request: Request) -> list[Analysis]:
    """The analyses that a request wants: those that cost nothing, and those it names.

    Raises:
        NotFoundError: it names one that nobody knows, or an option of one names what nobody knows.
        InputError: it names one that needs images or networks where only predictions are given.
    """
    asked = {ANALYSES[name].name for name in request.analyses if name != "all"}
    for name in asked:
        if request.predictions and ANALYSES[name].cost != "none":
            raise InputError(
                f"--with {name} needs {ANALYSES[name].cost}, and with --predictions there are none; leave it out"
            )
    if "all" in request.analyses:
        asked = {a.name for a in ANALYSES.values() if a.cost == "none" or not request.predictions}
    wanted = [a for a in ANALYSES.values() if a.cost == "none" or a.name in asked]
    for a in wanted:
        a.check(request)
    return wanted


def analyse(subject: Subject, more: Sequence[Analysis] = ()) -> dict[str, Outcome]:
    """The outcome of every analysis that was asked for, by name.

    Args:
        subject: what they work on.
        more: analyses of the caller's own; they are done last, so that they know the others, and told first.
    """
    settled: dict[str, Outcome] = {}
    for one in (*chosen(subject.request), *more):
        if one.cost != "none":
            subject.runtime.say(f"{one.title.lower()} ...")
        settled[one.name] = one.of(
            Subject(subject.evidence, subject.found, subject.request, subject.runtime, dict(settled))
        )
    return {a.name: settled.pop(a.name) for a in more} | settled
