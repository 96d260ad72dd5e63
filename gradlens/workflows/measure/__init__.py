"""The story of ``gradlens shift-eval``: score models in and outside their own data, and leave what a report needs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from gradlens.errors import InputError
from gradlens.report import page
from gradlens.runtime import Runtime
from gradlens.workflows.measure import leave, published
from gradlens.workflows.measure.evidence import Evidence, ModelInfo, Request, SetInfo
from gradlens.workflows.measure.score import Findings, score
from gradlens.workflows.run_folder import RunFolder

__all__ = ["Evidence", "Findings", "Measurement", "ModelInfo", "Request", "SetInfo", "run_shard", "shift_eval"]


@dataclass(frozen=True)
class Measurement:
    """A finished evaluation.

    Attributes:
        text: for a person at a terminal.
        document: for ``--json``.
    """

    evidence: Evidence
    findings: Findings
    text: str
    document: dict[str, Any]


def shift_eval(request: Request, runtime: Runtime) -> Measurement:
    """Score models on an in-distribution set and on probe sets; writes the run folder ``request.out``.

    Raises:
        GradlensError: something that was asked for cannot be had; what was finished by then is kept.
    """
    started = time.perf_counter()
    with RunFolder(request.out) as run:
        evidence = _gather(request, runtime, run)
        for remark in evidence.notes:
            runtime.say(f"note: {remark}")
        scoring = time.perf_counter()
        found = score(evidence, request, runtime)
        for mark in found.marks:
            runtime.say(f"warning: {mark}")
        for note in found.notes:
            runtime.say(f"note: {note}")
        writing = time.perf_counter()
        leave.write_tables(run, evidence, found, request)
        leave.draw(run, evidence, found, request, runtime)
        ended = time.perf_counter()
        timings = {**evidence.timings, "scoring": writing - scoring, "tables and figures": ended - writing}
        about = leave.run_json(evidence, found, request, runtime, {**timings, "total": ended - started})
        run.add(page.build(run.path, about))
        run.finish(about)
        return Measurement(
            evidence, found, leave.as_text(evidence, found, request), leave.document(evidence, found, run)
        )


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
