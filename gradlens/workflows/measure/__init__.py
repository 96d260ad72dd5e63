"""The story of ``gradlens shift-eval``: score models in and outside their own data, and leave what a report needs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gradlens.errors import InputError
from gradlens.report import page
from gradlens.runtime import Runtime
from gradlens.workflows.measure import leave, published, questions
from gradlens.workflows.measure.analyses import ANALYSES, Analysis, Outcome, Subject, analyse, chosen
from gradlens.workflows.measure.evidence import Evidence, ModelInfo, Request, SetInfo
from gradlens.workflows.measure.score import Findings, score
from gradlens.workflows.run_folder import RunFolder

__all__ = [
    "ANALYSES",
    "Evidence",
    "Findings",
    "Measurement",
    "ModelInfo",
    "Request",
    "SetInfo",
    "run_shard",
    "shift_eval",
]


@dataclass(frozen=True)
class Measurement:
    """A finished evaluation.

    Attributes:
        outcomes: of the analyses, by name.
        text: for a person at a terminal.
        document: for ``--json``.
    """

    evidence: Evidence
    findings: Findings
    outcomes: dict[str, Outcome]
    text: str
    document: dict[str, Any]


def shift_eval(
    request: Request, runtime: Runtime, *, more: Sequence[Analysis] = (), about: Mapping[str, Any] | None = None
) -> Measurement:
    """Score models on an in-distribution set and on probe sets; writes the run folder ``request.out``.

    Args:
        request: what was asked for.
        runtime: where it runs.
        more: analyses beyond the registered ones, told before them.
        about: what ``run.json`` records besides, such as the ``title`` of the page.

    Raises:
        GradlensError: something that was asked for cannot be had; what was finished by then is kept.
    """
    started = time.perf_counter()
    chosen(request)  # a name that nobody knows should not cost a run
    with RunFolder(request.out) as run:
        evidence = _gather(request, runtime, run)
        for remark in evidence.notes:
            runtime.say(f"note: {remark}")
        scoring = time.perf_counter()
        found = score(evidence, request, runtime)
        analysing = time.perf_counter()
        subject = Subject(evidence, found, request, runtime)
        outcomes = analyse(subject, more)
        answers = questions.rows(subject, outcomes)
        measuring = time.perf_counter()
        cost = None
        if evidence.networks:
            from gradlens.workflows.measure import costs  # torch is not needed to score a table

            cost = costs.measure(evidence, runtime)
            found = replace(found, notes=[*found.notes, *cost.notes])
        found = replace(found, marks=_once([found.marks, *(o.marks for o in outcomes.values())]))
        found = replace(found, notes=_once([found.notes, *(o.notes for o in outcomes.values())]))
        for mark in found.marks:
            runtime.say(f"warning: {mark}")
        for note in found.notes:
            runtime.say(f"note: {note}")
        writing = time.perf_counter()
        leave.write_tables(run, evidence, found, request)
        leave.write_paper_tables(run, evidence, found, outcomes, request)
        if cost is not None:
            costs.write(run, cost)
        analyses = leave.write_outcomes(run, outcomes, answers, {a.name: a for a in (*ANALYSES.values(), *more)})
        leave.draw(run, evidence, found, outcomes, request, runtime)
        picturing = time.perf_counter()
        if evidence.networks:
            from gradlens.workflows.measure import images  # torch is not needed to score a table

            images.leave(run, subject, outcomes)
        ended = time.perf_counter()
        timings = {
            **evidence.timings,
            "scoring": analysing - scoring,
            "analyses": measuring - analysing,
            "costs": writing - measuring,
            "tables and figures": picturing - writing,
            "images": ended - picturing,
        }
        told = leave.run_json(evidence, found, request, runtime, {**timings, "total": ended - started})
        told |= {"analyses": analyses, "questions": answers, **(about or {})}
        run.add(page.build(run.path, told))
        run.finish(told)
        document = leave.document(evidence, found, run) | {"analyses": analyses, "questions": answers}
        return Measurement(evidence, found, outcomes, leave.as_text(evidence, found, request, outcomes), document)


def _once(several: Iterable[Iterable[str]]) -> list[str]:
    """All of them, in order, none twice."""
    return list(dict.fromkeys(text for some in several for text in some))


def run_shard(request: Request, runtime: Runtime) -> Evidence:
    """Run the models on this process's share of the images and keep the outputs in the run's folder; scores nothing.

    Any number of shards may run at once. When all of them are done, :func:`shift_eval` with the same folder finds
    their outputs there and merges them by image.

    Raises:
        GradlensError: something that was asked for cannot be had.
    """
    if request.predictions:
        raise InputError("--shard shares out the running of models; with --predictions none is run")
    from gradlens.workflows.measure.computed import from_models

    return from_models(request, runtime, None)


def _gather(request: Request, runtime: Runtime, run: RunFolder) -> Evidence:
    if request.predictions:
        evidence = published.from_files(request)
        leave.write_predictions(run, evidence)
        return evidence
    from gradlens.workflows.measure.computed import from_models  # torch is not needed to score a table

    return from_models(request, runtime, run)
