"""A shift evaluation of sets too large to keep: they are read once, in order, and what remains of an image is counts.

No predictions are left, so what needs them (pairs of models, analyses, maps) is not done; the page shows the rest.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gradlens.data.image_set import ImageSet, Store
from gradlens.data.sources.stream import PART, Stream, open_stream
from gradlens.errors import InputError
from gradlens.records import LoadedModel, Predictions, Skipped
from gradlens.report import page
from gradlens.runtime import Runtime, whole_file
from gradlens.shift import counts, store, tables
from gradlens.shift.counts import Sums
from gradlens.shift.predict import about, predict
from gradlens.workflows.measure import leave
from gradlens.workflows.measure.computed import load_models
from gradlens.workflows.measure.evidence import Evidence, ModelInfo, Request, SetInfo
from gradlens.workflows.measure.score import Findings, missed
from gradlens.workflows.run_folder import RunFolder
from gradlens.zoo import checkpoints

SAVE_SECONDS = 60.0  # at most this much work is lost when a process is killed
FOLDER = "counts"  # in the run's folder: what each process has counted so far


@dataclass
class Counted:
    """What one process has of one set: sums by model, and images that were not scored.

    Attributes:
        mark: of the models and files; counts of others are not gone on with.
        parts: how many were read.
    """

    mark: str
    sums: dict[str, Sums]
    skipped: list[Skipped] = field(default_factory=list)
    parts: int = 0

    def plain(self) -> dict[str, Any]:
        """As plain types."""
        return {
            "mark": self.mark, "parts": self.parts, "sums": [s.plain() for s in self.sums.values()],
            "skipped": [[s.path, s.reason] for s in self.skipped],
        }  # fmt: skip

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Counted:
        """From what :meth:`plain` gives."""
        sums = [Sums.of(s) for s in plain["sums"]]
        return cls(plain["mark"], {s.model: s for s in sums}, [Skipped(*s) for s in plain["skipped"]], plain["parts"])


def shift_eval_streamed(
    request: Request, runtime: Runtime, *, on_part: Callable[[int], None] | None = None
) -> tuple[dict[str, Any], str, Sequence[str]] | None:
    """Score models on streams; writes the run folder ``request.out``.

    Args:
        request: with ``in_dist`` and ``probes`` given; of several processes the same on each.
        runtime: where it runs.
        on_part: called with the number of images read so far, after each part.

    Returns:
        The document for ``--json``, the text for a terminal and the limits that were missed; ``None`` on all processes
        but the first.

    Raises:
        GradlensError: something that was asked for cannot be had.
    """
    started = time.perf_counter()
    streams = _streams(request, runtime)
    names = checkpoints.expand(request.models or ("all",), request.zoo)
    models = load_models(request, names, runtime)
    counted = [_count(s, models, request, runtime, on_part) for s in streams]
    if not runtime.processes.first:
        return None
    with RunFolder(request.out) as run:
        evidence, found = _found(streams, counted, models, request, runtime)
        leave.write_tables(run, evidence, found, request)
        rows = [row for one in counted for s in one.sums.values() for row in counts.confusion(s)]
        tables.write_csv(run.file("confusion.csv"), tables.CONFUSION, rows)
        leave.draw(run, evidence, found, {}, request, runtime)
        told = leave.run_json(evidence, found, request, runtime, {"total": time.perf_counter() - started})
        told |= {"streamed": True, "analyses": [], "questions": []}
        run.add(page.build(run.path, told))
        run.finish(told)
        return leave.document(evidence, found, run), leave.as_text(evidence, found, request, {}), found.missed


def _streams(request: Request, runtime: Runtime) -> list[Stream]:
    if request.in_dist is None or not request.probes or "all" in request.probes:
        raise InputError("--stream reads what it is told to: expected --in-dist SOURCE and at least one --probe SOURCE")
    streams = [open_stream(s, offline=runtime.offline, runtime=runtime) for s in (request.in_dist, *request.probes)]
    names = [s.name for s in streams]
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise InputError(f"two image sets are called {twice}; tables need different names, so rename one")
    return streams


def _mark(stream: Stream, models: Sequence[LoadedModel], request: Request, runtime: Runtime) -> str:
    """What the counts of a stream depend on."""
    nothing = ImageSet(stream.name, "test", (), (), stream.location, _Nowhere(), ())
    told = [about(m, nothing, runtime) for m in models]
    where = [stream.location, stream.stamp, stream.length, PART, request.top_k, runtime.processes.world]
    return hashlib.sha256(json.dumps([told, where], sort_keys=True).encode()).hexdigest()


class _Nowhere(Store):
    """The store of no images."""

    def encoded(self, row: int) -> bytes:
        raise IndexError(row)

    def content(self) -> str:
        return ""


def _count(
    stream: Stream,
    models: Sequence[LoadedModel],
    request: Request,
    runtime: Runtime,
    on_part: Callable[[int], None] | None,
) -> Counted:
    """Run the models over one stream; of several processes each takes every so many-th part, and all get all counts."""
    processes = runtime.processes
    mark = _mark(stream, models, request, runtime)
    empty = {m.name: Sums(m.name, stream.name, m.classes, request.top_k) for m in models}
    file = request.out / FOLDER / f"{store.safe_stem(stream.name)}-{processes.rank}.json"
    mine = Counted(mark, empty)
    if not request.fresh and (before := _read(file)) is not None and before.mark == mark:
        mine = before
        runtime.say(f"{stream.name}: goes on after {mine.parts} parts")
    saved, seen, consistent = time.monotonic(), 0, True
    bar = _bar(stream, runtime)
    try:
        for number, part in enumerate(stream.parts()):
            seen += len(part)
            bar.update(len(part))
            if number < mine.parts or number % processes.world != processes.rank:
                continue
            answers, left_out = _answered(part, models, runtime)
            consistent = False
            for one in answers:
                mine.sums[one.model].add(number, one)
            mine.skipped += left_out
            mine.parts = number + 1
            consistent = True
            if on_part is not None:
                on_part(seen)
            if time.monotonic() - saved > SAVE_SECONDS:
                _write(file, mine)
                saved = time.monotonic()
    finally:
        bar.close()
        if consistent:  # else some models have the part and others do not
            _write(file, mine)
    if not seen:
        raise InputError(f"{stream.location}: expected images, got none")
    whole = Counted(mark, {m.name: Sums(m.name, stream.name, m.classes, request.top_k) for m in models})
    for plain in processes.all(mine.plain()):
        other = Counted.of(plain)
        for name, sums in whole.sums.items():
            sums.take(other.sums[name])
        whole.skipped += other.skipped
    whole.skipped = sorted(set(whole.skipped), key=lambda s: (s.path, s.reason))
    if not all(s.images for s in whole.sums.values()):
        why = f"; the first one, {whole.skipped[0].path}: {whole.skipped[0].reason}" if whole.skipped else ""
        raise InputError(f"none of the {seen:,} images of {stream.location} could be scored{why}")
    return whole


def _answered(
    part: ImageSet, models: Sequence[LoadedModel], runtime: Runtime
) -> tuple[list[Predictions], list[Skipped]]:
    """What each model says about the labelled images of a part, and what could not be scored."""
    skipped = [*part.skipped, *(Skipped(part.path(int(i)), "no label") for i in np.flatnonzero(part.labels < 0))]
    part = part.subset(np.flatnonzero(part.labels >= 0))
    with tempfile.TemporaryDirectory() as room:  # the outputs of this part, which are gone with it
        silent = replace(runtime, quiet=True)
        answers = predict(models, part, silent, store.OutputStore(Path(room)))
    return [a.predictions for a in answers], [*skipped, *(s for a in answers for s in a.skipped)]


def _bar(stream: Stream, runtime: Runtime) -> Any:
    return runtime.progress((), stream.name, total=stream.length, unit="image")


def _write(file: Path, counted: Counted) -> None:
    with whole_file(file) as part:
        part.write_text(json.dumps(counted.plain()), encoding="utf-8")


def _read(file: Path) -> Counted | None:
    """What an earlier run counted; ``None`` where there is nothing that can be read."""
    try:
        return Counted.of(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _found(
    streams: Sequence[Stream],
    counted: Sequence[Counted],
    models: Sequence[LoadedModel],
    request: Request,
    runtime: Runtime,
) -> tuple[Evidence, Findings]:
    settings: dict[str, Any] = {
        "confidence": request.confidence, "resamples": request.resamples, "seed": runtime.seed
    }  # fmt: skip
    names = [m.name for m in models]
    infos = [
        SetInfo(
            stream.name,
            role=stream.role if i == 0 else "probe",
            n=max(s.images for s in one.sums.values()),
            classes=next(iter(one.sums.values())).with_images(),
            shift=stream.shift,
            location=stream.location,
        )
        for i, (stream, one) in enumerate(zip(streams, counted, strict=True))
    ]
    notes = [
        f"{info.name}: read as a stream; {info.n:,} images were counted and none is kept, so there are no predictions, "
        "no comparison of models on the same images and no analyses"
        for info in infos
    ]
    scores = {
        (name, info.name): counts.evaluate(one.sums[name], **settings)
        for name in names
        for info, one in zip(infos, counted, strict=True)
    }
    gaps = [
        gap
        for name in names
        for one in counted[1:]
        for gap in counts.gaps(counted[0].sums[name], one.sums[name], **settings)
    ]
    evidence = Evidence(
        [ModelInfo(m.name, len(m.classes), sum(p.numel() for p in m.module.parameters()), m.weights, m.builder)
         for m in models],
        infos[0], infos[1:], {}, [s for one in counted for s in one.skipped], notes,
    )  # fmt: skip
    per_class = [row for name in names for one in counted for row in counts.per_class(one.sums[name])]
    return evidence, Findings(scores, gaps, per_class, [], [], [], missed(scores, gaps, request))
