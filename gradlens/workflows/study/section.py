"""What a section of a study's report is, what it is given and what it leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gradlens.registry import Registry
from gradlens.runtime import Runtime
from gradlens.workflows.measure.analyses import Outcome, Subject
from gradlens.workflows.study.schema import Run, Study
from gradlens.zoo.cards import Card, Training


@dataclass(frozen=True)
class Trained:
    """A run of a study that has its checkpoint.

    Attributes:
        name: as the zoo and all tables call it, ``<study>/<run>``.
        folder: the checkpoint's.
        training: of the card, which every trained checkpoint has.
    """

    run: Run
    name: str
    folder: Path
    card: Card
    training: Training


@dataclass(frozen=True)
class Course:
    """What a section works on: trained runs, and the evaluation of all of them."""

    study: Study
    runs: tuple[Trained, ...]
    subject: Subject

    @property
    def runtime(self) -> Runtime:
        return self.subject.runtime

    def accuracy(self, run: Trained, dataset: str | None = None) -> float:
        """Accuracy of a run on a set, by default the test set, as a fraction."""
        return self.subject.found.scores[run.name, dataset or self.subject.in_dist]["accuracy"].value

    def families(self) -> dict[str, list[Trained]]:
        """Runs that differ in their seed only, by the name of the family."""
        found: dict[str, list[Trained]] = {}
        for run in self.runs:
            found.setdefault(run.run.family, []).append(run)
        return found


@dataclass(frozen=True)
class Section:
    """Something that a study tells at its end.

    Attributes:
        name: as a study file's ``sections`` name it.
        title: its heading in the report.
        what: one sentence: what it tells.
        after: sections that it reads; a study names them before it.
    """

    name: str
    title: str
    what: str
    after: tuple[str, ...]
    of: Callable[[Course], Outcome]


SECTIONS: Registry[Section] = Registry("section of a study")


def section(
    name: str, title: str, what: str, *, after: tuple[str, ...] = ()
) -> Callable[[Callable[[Course], Outcome]], Callable[[Course], Outcome]]:
    """File a function as a section."""

    def file(function: Callable[[Course], Outcome]) -> Callable[[Course], Outcome]:
        SECTIONS.register(name)(Section(name, title, what, after, function))
        return function

    return file
