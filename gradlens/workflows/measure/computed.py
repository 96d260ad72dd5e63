"""Evidence from running models over image sets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import softmax

from gradlens.data import probe_sets
from gradlens.data.sources import ImageSet, open_source
from gradlens.errors import GradlensError, InputError
from gradlens.records import LoadedModel, Skipped
from gradlens.runtime import Runtime, cache_dir
from gradlens.shift import store
from gradlens.shift.predict import Timings, predict
from gradlens.workflows.measure.evidence import Evidence, ModelInfo, Request, SetInfo
from gradlens.workflows.measure.training_data import uses
from gradlens.workflows.run_folder import RunFolder
from gradlens.zoo import checkpoints

CHECKED = 64  # images on which less than full precision is compared with it


def from_models(request: Request, runtime: Runtime, run: RunFolder | None) -> Evidence:
    """Evidence from running models; each set's predictions are written to the run folder as soon as they are there.

    Args:
        request: what to run.
        runtime: where.
        run: the folder; ``None`` for a shard, which leaves its outputs in the store only.

    Raises:
        NotFoundError: no such model or image set.
        InputError: a set is unlabelled, or shares no class with a model.
    """
    started = time.perf_counter()
    names = checkpoints.expand(request.models or ("all",), request.zoo)
    in_dist, probes = image_sets(request, names, runtime)
    models = load_models(request, names, runtime)
    image_sets_ = [in_dist, *probes]
    unlabelled = unlabelled_sets(request, [s.name for s in image_sets_], runtime)
    evidence = Evidence(
        [_model_info(m) for m in models],
        _set_info(in_dist),
        [_set_info(p) for p in probes],
        {},
        _left_out([*image_sets_, *unlabelled]),
    )
    evidence.unlabelled = [_set_info(s) for s in unlabelled]
    evidence.unlabelled_images = {s.name: s for s in unlabelled}
    # classes without images are told below, together with what that means for the comparison
    remarks = [(s.name, r) for s in (*image_sets_, *unlabelled) for r in s.remarks if not r.startswith("no image of")]
    evidence.notes += [f"{name}: {remark}" for name, remark in remarks]
    evidence.marks += [mark for m in models for mark in _seen(m, image_sets_)]
    image_sets_ = [_labelled(s, evidence.skipped) for s in image_sets_]
    evidence.images = {s.name: s for s in image_sets_}
    evidence.networks = {m.name: m for m in models}
    for image_set in image_sets_:
        for model in models:
            _check_classes(model, image_set)
    image_sets_ += unlabelled
    evidence.timings["loading"] = time.perf_counter() - started
    outputs = output_store(request)
    files = store.file_names((m.name, s.name) for s in image_sets_ for m in models)
    listed = dict.fromkeys(evidence.skipped)
    for image_set in image_sets_:
        timings = Timings()
        answers = predict(
            models, image_set, runtime, outputs, fresh=request.fresh, shard=request.shard or (1, 1), timings=timings
        )
        about = _about(image_set, evidence)
        for model, answer in zip(models, answers, strict=True):
            evidence.predictions[model.name, image_set.name] = answer.predictions
            listed.update(dict.fromkeys(answer.skipped))  # an unreadable image is skipped by every model: one row
            if run is not None:
                path = run.file(f"predictions/{files[model.name, image_set.name]}")
                store.write(path, answer.predictions, about | {"weights": model.weights, "builder": model.builder})
        evidence.skipped = list(listed)
        _require_some(image_set, evidence, request)
        evidence.timings[f"predicting {image_set.name}"] = timings.total
        evidence.timings["in the networks"] = evidence.timings.get("in the networks", 0.0) + timings.forward
        evidence.timings["images run"] = evidence.timings.get("images run", 0) + timings.images
    if runtime.precision != "fp32" and request.shard is None:
        evidence.notes.append(_deviation(models, image_sets_[0], evidence, request, runtime))
    return evidence


def run_one(request: Request, model: str, spec: str, runtime: Runtime, outputs: store.OutputStore) -> int:
    """Run one model over the labelled images of one set (all images of one without labels) into a store.

    Returns:
        How many images have an answer there now.

    Raises:
        GradlensError: one of them cannot be had.
    """
    image_set = open_source(spec, offline=runtime.offline, runtime=runtime)
    if spec in request.unlabelled:
        (image_set,) = unlabelled_sets(replace(request, unlabelled=(spec,)), (), runtime)
    else:
        image_set = _labelled(image_set, [])
    loaded = load_models(request, [model], runtime)
    (answers,) = predict(loaded, image_set, runtime, outputs, fresh=request.fresh)
    return len(answers.predictions)


def _deviation(
    models: Sequence[LoadedModel], image_set: ImageSet, evidence: Evidence, request: Request, runtime: Runtime
) -> str:
    """How far less than full precision is from it, on images spread over a set."""
    spread = np.unique(np.linspace(0, len(image_set) - 1, CHECKED).astype(int))
    full = predict(models, image_set.subset(spread), replace(runtime, precision="fp32"), output_store(request))
    differ, answers, furthest = 0, 0, 0.0
    for model, answer in zip(models, full, strict=True):
        said = evidence.predictions[model.name, image_set.name]
        row = {name: i for i, name in enumerate(said.ids)}
        one = [i for i, name in enumerate(answer.predictions.ids) if name in row]
        other = [row[answer.predictions.ids[i]] for i in one]
        answers += len(one)
        differ += int((answer.predictions.predicted[one] != said.predicted[other]).sum())
        if one and answer.predictions.logits is not None and said.logits is not None:
            p, q = softmax(answer.predictions.logits[one], axis=1), softmax(said.logits[other], axis=1)
            furthest = max(furthest, float(np.abs(p - q).max()))
    return (
        f"{runtime.precision} against fp32 on {len(spread)} images of {image_set.name}: {differ} of {answers} answers "
        f"are other classes, the furthest probability is {furthest:.2g} off"
    )


def output_store(request: Request) -> store.OutputStore:
    """Where outputs are kept: in the cache, those of a shard in the folder where shards meet."""
    cache = cache_dir() / "outputs"
    if request.shards is None:
        return store.OutputStore(cache)
    if request.shard is None:
        return store.OutputStore(cache, request.shards)
    return store.OutputStore(request.shards, cache, whole=True)  # whoever merges may have another cache


def load_models(request: Request, names: Sequence[str], runtime: Runtime) -> list[LoadedModel]:
    """The models, ready to run.

    Raises:
        GradlensError: a model has random weights that nobody asked for.
    """
    models: list[LoadedModel] = []
    for name in runtime.progress(names, "loading models", unit="model"):
        model = checkpoints.load(name, zoo=request.zoo, weights=request.weights, classes=None, offline=runtime.offline)
        if model.weights == "random" and request.weights != "random":
            raise GradlensError(
                f"{model.name} has random weights, whose scores mean nothing; "
                "give --weights FILE or pretrained, or --weights random if that is meant"
            )
        if any(model.name == other.name for other in models):
            raise InputError(f"two models are called {model.name}; tables need different names, so rename a folder")
        models.append(model)
    return models


def image_sets(request: Request, names: Sequence[str], runtime: Runtime) -> tuple[ImageSet, list[ImageSet]]:
    """The in-distribution set and the probe sets, as asked for or as the models' collection has them."""
    source = request.in_dist or _test_set_of(names)
    in_dist = _opened(source, runtime)
    if in_dist.role == "probe" and in_dist.shift is None:  # a folder without a manifest is what it is used as
        in_dist = replace(in_dist, role="test")
    specs = [p for p in request.probes if p != "all"]
    opened = [_opened(spec, runtime) for spec in specs]
    if not request.probes or "all" in request.probes:
        there = {s.name for s in opened}
        opened += [_opened(name, runtime) for name in _paired_with(in_dist.name) if name not in there]
        if "all" in request.probes and not opened:
            raise InputError(f"no probe set is paired with {in_dist.name}; name some with --probe SOURCE")
    probes = [replace(p, role="probe") if p.role == "test" and p.shift is None else p for p in opened]
    names_ = [in_dist.name, *(p.name for p in probes)]
    twice = next((n for n in names_ if names_.count(n) > 1), None)
    if twice is not None:
        places = " and ".join(s.location for s in (in_dist, *probes) if s.name == twice)
        raise InputError(f"two image sets are called {twice} ({places}); tables need different names, so rename one")
    return in_dist, probes


def unlabelled_sets(request: Request, taken: Sequence[str], runtime: Runtime) -> list[ImageSet]:
    """The sets of ``--unlabelled``, without their labels where they have some.

    Raises:
        InputError: two sets have one name.
    """
    sets: list[ImageSet] = []
    for spec in request.unlabelled:
        found = open_source(spec, offline=runtime.offline, runtime=runtime)
        remarks: tuple[str, ...] = ()
        if known := int((found.labels >= 0).sum()):
            remarks = (f"{known} labels are not looked at, because it was given as unlabelled",)
        samples = tuple(replace(s, label=None, pair=None) for s in found.samples)
        found = replace(
            found, role="unlabelled", classes=None, samples=samples, paired_with=None, shift=None, remarks=remarks
        )
        if found.name in (*taken, *(s.name for s in sets)):
            raise InputError(
                f"--unlabelled {spec}: a set of this run is called {found.name} already; "
                "tables need different names, so rename one or leave one out"
            )
        sets.append(found)
    return sets


def _opened(spec: str, runtime: Runtime) -> ImageSet:
    image_set = open_source(spec, offline=runtime.offline, runtime=runtime)
    if image_set.classes is None or (image_set.labels < 0).all():
        raise InputError(
            f"{spec} is unlabelled, and accuracy needs labels: "
            f"expected a folder with one folder per class, or a table with a label column; "
            f"estimates without labels come with --unlabelled {spec}"
        )
    return image_set


def _test_set_of(models: Sequence[str]) -> str:
    """The in-distribution test set of the models' collection: ``<collection>-test``."""
    collections = sorted({m.rpartition("/")[0].rpartition("/")[2] for m in models})
    known = probe_sets.known()
    if len(collections) == 1 and f"{collections[0]}-test" in known:
        return f"{collections[0]}-test"
    raise InputError(
        f"expected --in-dist SOURCE: no test set belongs to {', '.join(models[:3])}{', ...' if models[3:] else ''}"
    )


def _paired_with(name: str) -> list[str]:
    """Names of the probe sets whose manifest pairs them with the set ``name``."""
    found = []
    for probe, folder in probe_sets.known().items():
        if (folder / probe_sets.MANIFEST).is_file():
            manifest = probe_sets.Manifest.read(folder / probe_sets.MANIFEST)
            if manifest.paired_with == name and manifest.role == "probe":
                found.append(probe)
    return found


def _labelled(image_set: ImageSet, skipped: list[Skipped]) -> ImageSet:
    """The images that have a label; the others are listed as skipped."""
    without = np.flatnonzero(image_set.labels < 0)
    if not len(without):
        return image_set
    skipped += [Skipped(image_set.path(int(i)), "no label") for i in without]
    return image_set.subset(np.flatnonzero(image_set.labels >= 0))


def _left_out(sets: Sequence[ImageSet]) -> list[Skipped]:
    return [skipped for image_set in sets for skipped in image_set.skipped]


def _seen(model: LoadedModel, sets: Sequence[ImageSet]) -> list[str]:
    """Which of the sets (the in-distribution one first) the model's card says it was trained on or chosen by."""
    said = {"trained": "was trained on", "chosen": "was chosen by its score on"}
    return [
        f"{model.name} {' and '.join(said[use] for use in used)} {s.name}: its score there is too good"
        + (", and so is every gap measured from it" if s is sets[0] else "")
        for s in sets
        if (used := uses(model.card, s))
    ]


def _check_classes(model: LoadedModel, image_set: ImageSet) -> None:
    classes = image_set.classes or ()
    if set(model.classes) & set(classes):
        return
    folded = {c.casefold() for c in model.classes} & {c.casefold() for c in classes}
    hint = " (they differ by upper and lower case only)" if folded else ""
    raise InputError(
        f"{model.name} and {image_set.name} have no class in common{hint}: "
        f"the model knows {_some(model.classes)}; the set has {_some(classes)}"
    )


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def _require_some(image_set: ImageSet, evidence: Evidence, request: Request) -> None:
    if request.shard is not None:
        return
    for (model, dataset), predictions in evidence.predictions.items():
        if dataset == image_set.name and not len(predictions):
            why = evidence.skipped[-1] if evidence.skipped else None
            raise InputError(
                f"none of the {len(image_set)} images of {dataset} could be scored by {model}"
                + (f"; the last one, {why.path}: {why.reason}" if why else "")
            )


def _set_info(image_set: ImageSet) -> SetInfo:
    return SetInfo(
        image_set.name,
        role=image_set.role,
        n=len(image_set) if image_set.role == "unlabelled" else int((image_set.labels >= 0).sum()),
        classes=image_set.classes or (),
        shift=image_set.shift,
        paired_with=image_set.paired_with,
        location=image_set.location,
        fingerprint=image_set.fingerprint,
        filtered_by=image_set.filtered_by,
    )


def _model_info(model: LoadedModel) -> ModelInfo:
    parameters = sum(p.numel() for p in model.module.parameters())
    return ModelInfo(model.name, len(model.classes), parameters, model.weights, model.builder)


def _about(image_set: ImageSet, evidence: Evidence) -> dict[str, Any]:
    info = next(s for s in (*evidence.sets, *evidence.unlabelled) if s.name == image_set.name)
    return {
        "role": info.role,
        "shift": info.shift,
        "paired_with": info.paired_with,
        "images": info.fingerprint,
        "filtered_by": list(info.filtered_by),
    }
