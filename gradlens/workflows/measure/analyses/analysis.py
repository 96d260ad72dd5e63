"""What an analysis is, what it is given and what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from gradlens.registry import Registry
from gradlens.runtime import Runtime
from gradlens.workflows.measure.evidence import Evidence, Request
from gradlens.workflows.measure.score import Findings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cost = Literal["none", "images", "networks"]


@dataclass(frozen=True)
class Subject:
    """What an analysis works on: a scored evaluation.

    Attributes:
        evidence: predictions, and with models that were run also their image sets and networks.
        found: scores, gaps, pairs.
        request: what was asked for.
        runtime: device, seed, progress.
        settled: the outcomes of the analyses done before this one, by name.
    """

    evidence: Evidence
    found: Findings
    request: Request
    runtime: Runtime
    settled: Mapping[str, Outcome] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        return [m.name for m in self.evidence.models]

    @property
    def probes(self) -> list[str]:
        return [p.name for p in self.evidence.probes]

    @property
    def in_dist(self) -> str:
        return self.evidence.in_dist.name


@dataclass(frozen=True)
class Answer:
    """An answer to one of the questions of :mod:`gradlens.workflows.measure.questions`.

    Attributes:
        question: its number, from 1.
        text: one or two sentences with numbers.
        files: of the run's folder, where the evidence is.
    """

    question: int
    text: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What an analysis leaves.

    Attributes:
        tables: file name (``"lines.csv"``) -> (columns, rows); fractions at full precision, ``nan`` where undefined.
        figures: (file name without ending, what draws it).
        findings: sentences with numbers that a reader should take away, the most important first.
        notes: what limits them.
        marks: why scores or gaps are not what they seem.
        answers: to a reviewer's questions.
        not_done: why there is nothing, where that is so; then there are at most answers, which say the same.
    """

    tables: Mapping[str, tuple[Sequence[str], Sequence[Mapping[str, Any]]]] = field(default_factory=dict)
    figures: Sequence[tuple[str, Callable[[], Figure]]] = ()
    findings: Sequence[str] = ()
    notes: Sequence[str] = ()
    marks: Sequence[str] = ()
    answers: Sequence[Answer] = ()
    not_done: str = ""


@dataclass(frozen=True)
class Analysis:
    """Something to say about a scored evaluation.

    Attributes:
        name: as ``--with`` takes it.
        title: its heading in the report.
        what: one sentence: what it tells.
        cost: ``"none"`` (from predictions and what the sets say about their images; always done), ``"images"`` (decodes
            images) or ``"networks"`` (runs models again); the last two are done when ``--with`` asks for them.
        of: the function itself.
        check: raises where its options make no sense, before anything is run.
    """

    name: str
    title: str
    what: str
    cost: Cost
    of: Callable[[Subject], Outcome]
    check: Callable[[Request], object]


ANALYSES: Registry[Analysis] = Registry("analysis")


def analysis(
    name: str,
    title: str,
    what: str,
    *,
    cost: Cost = "none",
    check: Callable[[Request], object] = lambda _: None,
) -> Callable[[Callable[[Subject], Outcome]], Callable[[Subject], Outcome]]:
    """File a function as an analysis."""

    def file(function: Callable[[Subject], Outcome]) -> Callable[[Subject], Outcome]:
        ANALYSES.register(name)(Analysis(name, title, what, cost, function, check))
        return function

    return file
