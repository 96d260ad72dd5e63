"""The story of ``gradlens study``: train every run of a study file, evaluate all of them together, tell what came out.

Training is :mod:`gradlens.workflows.train`'s, so a study that was killed goes on where it was, and finished runs are
not trained again; on a cluster each run is a task. The evaluation is that of ``gradlens shift-eval``, with the study's
sections beside its analyses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gradlens.errors import InputError
from gradlens.records import Skipped
from gradlens.runtime import Runtime
from gradlens.workflows import train as training
from gradlens.workflows.cluster import run_tasks
from gradlens.workflows.measure import Measurement, Request, shift_eval
from gradlens.workflows.measure.analyses import Analysis, Subject
from gradlens.workflows.study import check, schema
from gradlens.workflows.study.schema import SCALES, Changes, Run, Scale, Study
from gradlens.workflows.study.sections import SECTIONS, Course, Section, Trained

__all__ = ["SCALES", "SECTIONS", "Changes", "Done", "Plan", "Run", "Scale", "listing", "plan", "run"]


@dataclass(frozen=True)
class Plan:
    """A study before its first epoch.

    Attributes:
        images: its image sets, with how many images each has.
        networks: that its runs train.
        missing: what a run of it would stop at: images or weights that are not here and cannot be fetched.
    """

    study: Study
    runs: tuple[Run, ...]
    images: tuple[check.Images, ...]
    networks: tuple[check.Network, ...]
    missing: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        study = self.study.model_dump(mode="json", include={"study", "scale", "title", "question", "notes", "sections"})
        runs = [{"name": r.name, "model": r.model, "variant": r.variant, "seed": r.seed} for r in self.runs]
        for row, run in zip(runs, self.runs, strict=True):
            row["settings"] = run.recipe.model_dump(mode="json")
        return study | {
            "runs": runs,
            "images": [asdict(i) for i in self.images],
            "networks": [asdict(n) for n in self.networks],
            "missing": list(self.missing),
        }


@dataclass(frozen=True)
class Done:
    """A study that was carried out.

    Attributes:
        trained: names of the runs that were trained now; the others were there.
        skipped: images that were neither trained on nor scored.
    """

    measured: Measurement
    trained: tuple[str, ...]
    skipped: tuple[Skipped, ...]


def listing() -> list[dict[str, Any]]:
    """The studies that are there: name, title, question, runs and sections at each scale that they have."""
    found = []
    for name in schema.known():
        studies = {scale: schema.load(name, scale) for scale in schema.scales_of(name)}
        first = next(iter(studies.values()))
        scales = {
            s: {"runs": len(schema.runs(study)), "sections": list(study.sections)} for s, study in studies.items()
        }
        found.append({"name": name, "title": first.title, "question": first.question, "scales": scales})
    return found


def plan(name: str, scale: Scale, changes: Changes, runtime: Runtime) -> Plan:
    """Read a study and check all of it that can be checked without training.

    Everything that needs no network comes first, so that a mistake in the file is not found after a download.

    Raises:
        GradlensError: the file, a recipe or a network is not as it should be.
    """
    study = schema.load(name, scale, changes)
    for i, section in enumerate(study.sections):  # an unknown name is refused before anything is trained
        for other in SECTIONS[section].after:
            if other not in study.sections[:i]:
                raise InputError(f"study {name}: the section {section!r} needs {other!r} before it")
    runs = schema.runs(study, changes)
    networks = check.networks(runs, study.classes, runtime)
    images = check.images(study, runtime)
    classes = next((i.classes for i in images if i.role == "train" and i.classes), ())
    missing = [f"images to {i.role}: {i.missing}" for i in images if i.missing]
    if classes and len(classes) != study.classes:
        networks = check.networks(runs, len(classes), runtime)
    missing += check.weights(runs, runtime)
    return Plan(study, tuple(runs), tuple(images), tuple(networks), tuple(missing))


def run(
    planned: Plan, out: Path, runtime: Runtime, *, fresh: bool = False, cluster: str = "", command: str = ""
) -> Done:
    """Train what is not trained yet, evaluate all, and leave the run folder ``out`` with its report.

    Args:
        planned: see :func:`plan`.
        out: the folder; checkpoints go to ``zoo/`` in it, training states to ``work/``.
        runtime: where it runs; precision and batch size of the training are the recipes'.
        fresh: train everything anew.
        cluster: address of a Ray cluster whose workers train, see :func:`gradlens.workflows.cluster.run_tasks`; they
            must see ``out`` and the images. Evaluated is here.
        command: the command line, as ``run.json`` records it.

    Raises:
        InputError: images or weights that the study needs are not here.
        GradlensError: a run could not be trained; what was finished by then is kept.
    """
    study = planned.study
    if planned.missing:
        first, *more = planned.missing
        others = f" (and {len(more)} more; --dry-run lists them)" if more else ""
        raise InputError(f"study {study.study} cannot start at scale {study.scale}: {first}{others}")
    done: list[Trained] = []
    now: list[str] = []
    skipped: dict[Skipped, None] = {}
    shared: dict[str, training.Prepared] = {}
    elsewhere: dict[str, training.Result] = {}
    if cluster:
        tasks = {one.name: (study, one, out.resolve(), replace(runtime, quiet=True), fresh) for one in planned.runs}
        elsewhere = run_tasks(_train, tasks, f"{len(tasks)} runs", runtime, cluster)
    for number, one in enumerate(planned.runs, 1):
        runtime.say(f"run {number} of {len(planned.runs)}: {one.name}")
        result = elsewhere[one.name] if cluster else _train(study, one, out, runtime, fresh, shared)
        skipped.update(dict.fromkeys(result.skipped))
        if result.trained:
            now.append(one.name)
            runtime.say(training.summary(result))
        assert result.card.training is not None  # the workflow refuses a folder with imported weights
        done.append(Trained(one, f"{study.study}/{one.name}", result.folder, result.card, result.card.training))
    shared.clear()
    measured = _measure(study, done, out, runtime, command)
    return Done(measured, tuple(now), (*skipped, *measured.evidence.skipped))


def _train(
    study: Study,
    one: Run,
    out: Path,
    runtime: Runtime,
    fresh: bool,
    shared: dict[str, training.Prepared] | None = None,
) -> training.Result:
    folder, work = out / "zoo" / study.study / one.name, out / "work" / one.name
    return training.train(one.recipe, folder, runtime, work=work, fresh=fresh, shared=shared)


def _measure(study: Study, done: Sequence[Trained], out: Path, runtime: Runtime, command: str) -> Measurement:
    request = Request(
        out=out,
        models=tuple(t.name for t in done),
        zoo=out / "zoo",
        in_dist=study.data.test,
        probes=study.data.probes,
        resamples=study.resamples,
        command=command,
    )

    def analysis(section: Section) -> Analysis:
        def of(subject: Subject) -> Any:
            return section.of(Course(study, tuple(done), subject))

        return Analysis(section.name, section.title, section.what, "none", of, lambda _: None)

    about = {
        "title": study.title,
        "study": study.model_dump(mode="json"),
        "runs": [{"name": t.name, "variant": t.run.variant, "model": t.run.model, "seed": t.run.seed} for t in done],
    }
    return shift_eval(request, runtime, more=[analysis(SECTIONS[name]) for name in study.sections], about=about)
