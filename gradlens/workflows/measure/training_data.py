"""Which images a model was trained on and chosen by: what its card says, and where those images are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gradlens.data import probe_sets
from gradlens.data.sources import ImageSet, open_source
from gradlens.data.splits import split
from gradlens.errors import GradlensError, TrainingError
from gradlens.records import LoadedModel
from gradlens.runtime import Runtime

Use = Literal["trained", "chosen"]


def uses(card: Mapping[str, Any], image_set: ImageSet) -> tuple[Use, ...]:
    """What a card says was done with an image set: ``trained`` on it, ``chosen`` by its score there, both or neither.

    Sets are compared by fingerprint. Where a part of one set was held out for selection, the whole set is both.
    """
    training = card.get("training") or {}
    found: list[Use] = []
    if training.get("fingerprint") and training["fingerprint"] == image_set.fingerprint:
        found.append("trained")
    if training.get("select_fingerprint") and training["select_fingerprint"] == image_set.fingerprint:
        found.append("chosen")
    return tuple(found) or _held_out(training, image_set)


def _held_out(training: Mapping[str, Any], image_set: ImageSet) -> tuple[Use, ...]:
    data = (training.get("settings") or {}).get("data") or {}
    fraction, images = data.get("select_fraction") or 0, training.get("images", 0) + training.get("select_images", 0)
    if not fraction or image_set.classes is None or len(image_set) < images:
        return ()
    try:
        parts = split(image_set, fraction, data.get("select_seed", 0))
    except TrainingError:  # too small to be split, so it was not
        return ()
    return ("trained", "chosen") if parts[0].fingerprint == training.get("fingerprint") else ()


@dataclass(frozen=True)
class TrainingSet:
    """Images that models were trained on.

    Attributes:
        name: as the cards or the user call it.
        models: names of the models.
        images: the set; ``None`` where it was not to be had.
        reason: why not.
        claimed: whether only the user says so, and no card does.
    """

    name: str
    models: tuple[str, ...]
    images: ImageSet | None
    reason: str = ""
    claimed: bool = False


def of_models(models: Iterable[LoadedModel], given: Sequence[str], runtime: Runtime) -> list[TrainingSet]:
    """The training sets of models.

    Args:
        models: with their cards.
        given: SOURCEs that the user says are training data. One that no card names counts as training data of every
            model whose own set is not known or not to be had. Sets that have to be rendered first (minutes) are
            rendered only when they are given; otherwise what the cards name is looked for.
        runtime: for opening them.

    Raises:
        GradlensError: a given SOURCE cannot be opened.
    """
    models = list(models)
    found: list[TrainingSet] = []
    settled: set[str] = set()
    claimed: list[ImageSet] = []
    for spec in dict.fromkeys(given):
        images = open_source(spec, offline=runtime.offline, runtime=runtime)
        own = tuple(m.name for m in models if "trained" in uses(m.card, images))
        if own:
            found.append(TrainingSet(images.name, own, images))
            settled.update(own)
        else:
            claimed.append(images)
    named: dict[tuple[str, str], list[LoadedModel]] = {}
    unknown: list[str] = []
    for m in models:
        if m.name in settled:
            continue
        training = m.card.get("training") or {}
        if training.get("fingerprint"):
            named.setdefault((training.get("data", ""), training["fingerprint"]), []).append(m)
        else:
            unknown.append(m.name)
    for (name, _), own_models in named.items():
        names = tuple(m.name for m in own_models)
        images_or_reason = _looked_for(own_models[0], runtime)
        if isinstance(images_or_reason, str):
            if claimed:
                unknown += names
            else:
                found.append(TrainingSet(name, names, None, images_or_reason))
        else:
            found.append(TrainingSet(name, names, images_or_reason))
    found = _merged(found) + [TrainingSet(images.name, tuple(unknown), images, claimed=True) for images in claimed]
    if unknown and not claimed:
        found.append(
            TrainingSet("", tuple(unknown), None, "no card says what they were trained on; give --train SOURCE")
        )
    return found


def _merged(sets: Iterable[TrainingSet]) -> list[TrainingSet]:
    """Each image set once, with the models of all entries: parts of one set are the same images to compare with."""
    merged: dict[str, TrainingSet] = {}
    for one in sets:
        key = one.images.fingerprint if one.images is not None else f"{one.name}: {one.reason}"
        known = merged.get(key)
        merged[key] = one if known is None else replace(known, models=(*known.models, *one.models))
    return list(merged.values())


def _looked_for(model: LoadedModel, runtime: Runtime) -> ImageSet | str:
    """The training set that a card names, or why it is not to be had."""
    training = model.card.get("training") or {}
    name = training.get("data", "")
    source = ((training.get("settings") or {}).get("data") or {}).get("train") or name
    sets = probe_sets.known()
    if source in sets and (sets[source] / probe_sets.MANIFEST).is_file():
        try:
            manifest = probe_sets.Manifest.read(sets[source] / probe_sets.MANIFEST)
        except GradlensError as err:
            return str(err)
        if manifest.kind == "rendered" and not probe_sets.rendering_place(manifest).exists():
            return f"it has to be rendered first, which takes minutes: --train {source}"
    elif source not in sets and not Path(source).exists():
        return f"{source} is not here; say where it is with --train SOURCE"
    try:
        images = open_source(source, offline=True, runtime=runtime)
    except GradlensError as err:
        return str(err)
    if "trained" not in uses(model.card, images):
        return f"{source} here is another version than the card names (fingerprints differ); give --train SOURCE"
    return images
