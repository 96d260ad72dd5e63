"""Evidence from predictions files: published ones, foreign ones, those of an earlier run. No model runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np

from gradlens.errors import InputError, NotFoundError
from gradlens.records import Predictions, Role, Skipped
from gradlens.shift import store
from gradlens.workflows.measure.evidence import Evidence, ModelInfo, Request, SetInfo


def from_files(request: Request) -> Evidence:
    """Evidence from predictions files: no model runs, no image is read.

    Raises:
        InputError: a file is not a predictions file, or a model has no predictions on one of the sets.
        NotFoundError: a data set or model that the files do not name.
    """
    found = store.read(request.predictions)
    by_key = {(s.predictions.model, s.predictions.dataset): s for s in found}
    datasets = list(dict.fromkeys(d for _, d in by_key))
    models = _chosen_models(list(dict.fromkeys(m for m, _ in by_key)), request.models)
    unlabelled = _unlabelled(request, datasets, by_key)
    in_dist, probes = _chosen_sets(request, [d for d in datasets if d not in unlabelled], by_key)
    lacking = [(m, d) for d in (in_dist, *probes, *unlabelled) for m in models if (m, d) not in by_key]
    if lacking:
        model, dataset = lacking[0]
        raise InputError(
            f"the files have no predictions of {model} on {dataset}; leave it out with --model, or add the file"
        )
    evidence = Evidence(
        [ModelInfo(m, len(by_key[m, in_dist].predictions.classes)) for m in models],
        _stored_set(in_dist, [by_key[m, in_dist] for m in models], "test"),
        [_stored_set(p, [by_key[m, p] for m in models], "probe") for p in probes],
        {(m, d): by_key[m, d].predictions for d in (in_dist, *probes) for m in models},
    )
    for (model, dataset), predictions in evidence.predictions.items():
        without_label = int((predictions.labels < 0).sum())
        if without_label == len(predictions):
            raise InputError(
                f"the predictions of {model} on {dataset} have no labels, so nothing can be scored; "
                f"estimates without labels come with --unlabelled {dataset}"
            )
        if without_label:
            without = np.flatnonzero(predictions.labels < 0)
            evidence.skipped += [Skipped(f"{dataset}/{predictions.ids[i]}", f"{model}: no label") for i in without]
    for name in unlabelled:
        told = [by_key[m, name] for m in models]
        known = max(int((s.predictions.labels >= 0).sum()) for s in told)
        if known:
            evidence.notes.append(f"{name}: {known} labels are not looked at, because it was given as unlabelled")
        evidence.predictions |= {(m, name): _hidden(s.predictions) for m, s in zip(models, told, strict=True)}
        evidence.unlabelled.append(_stored_set(name, [replace(s, predictions=_hidden(s.predictions)) for s in told]))
    return evidence


def _unlabelled(
    request: Request, datasets: list[str], by_key: Mapping[tuple[str, str], store.StoredPredictions]
) -> list[str]:
    """The data sets that ``--unlabelled`` names, else those that a run wrote as unlabelled."""
    for name in request.unlabelled:
        if name not in datasets:
            raise NotFoundError("data set", name, datasets, hint="these are the data sets of the predictions files")
        if name == request.in_dist or name in request.probes:
            raise InputError(f"{name} is to be scored and was given with --unlabelled too; take one of them away")
    written = (d for (_, d), s in by_key.items() if s.about.get("role") == "unlabelled")
    named = {request.in_dist, *request.probes}
    return list(dict.fromkeys(request.unlabelled or (d for d in written if d not in named)))


def _hidden(predictions: Predictions) -> Predictions:
    return replace(predictions, labels=np.full(len(predictions), -1, dtype=np.int64), label_classes=(), pairs=None)


def _chosen_models(known: list[str], patterns: Sequence[str]) -> list[str]:
    if not patterns or "all" in patterns:
        return known
    chosen: list[str] = []
    for pattern in patterns:
        matching = [m for m in known if fnmatchcase(m, pattern)]
        if not matching:
            raise NotFoundError("model", pattern, known, hint="these are the models of the predictions files")
        chosen += [m for m in matching if m not in chosen]
    return chosen


def _chosen_sets(
    request: Request, datasets: list[str], by_key: Mapping[tuple[str, str], store.StoredPredictions]
) -> tuple[str, list[str]]:
    hint = "these are the data sets of the predictions files"
    for name in (request.in_dist, *request.probes):
        if name is not None and name != "all" and name not in datasets:
            raise NotFoundError("data set", name, datasets, hint=hint)
    in_dist = request.in_dist
    if in_dist is None:
        tests = list(dict.fromkeys(d for (_, d), s in by_key.items() if s.about.get("role") == "test"))
        candidates = tests or datasets
        if len(candidates) > 1:
            raise InputError(f"expected --in-dist with one of the files' data sets: {', '.join(datasets)}")
        in_dist = candidates[0]
    others = [d for d in datasets if d != in_dist]
    if not request.probes or "all" in request.probes:
        return in_dist, others
    return in_dist, _different(in_dist, request.probes)


def _different(in_dist: str, probes: Iterable[str]) -> list[str]:
    names = list(dict.fromkeys(probes))
    if in_dist in names:
        raise InputError(f"{in_dist} is the in-distribution set already; name other sets with --probe")
    return names


def _stored_set(name: str, stored: Sequence[store.StoredPredictions], role: Role = "unlabelled") -> SetInfo:
    about, first = stored[0].about, stored[0].predictions
    filtered_by = about.get("filtered_by")

    def text(key: str) -> str | None:
        return about[key] if isinstance(about.get(key), str) else None

    return SetInfo(
        name,
        role=role if role == "unlabelled" else text("role") or role,
        n=max(len(s.predictions) if role == "unlabelled" else int((s.predictions.labels >= 0).sum()) for s in stored),
        classes=first.label_classes,
        shift=text("shift"),
        paired_with=text("paired_with") if first.pairs is not None else None,
        location=stored[0].source,
        fingerprint=text("images") or "",
        filtered_by=tuple(map(str, filtered_by)) if isinstance(filtered_by, list) else (),
    )
