"""The story of a training: recipe and images in, a scored checkpoint of the zoo out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gradlens import report
from gradlens.data.decode import DECODE_POLICY
from gradlens.data.image_set import ImageSet
from gradlens.data.sources import open_source
from gradlens.data.splits import split
from gradlens.errors import InputError, TrainingError
from gradlens.figures import style
from gradlens.figures.class_distribution import SetSpread
from gradlens.figures.learning_curves import learning_curves, run_of
from gradlens.records import Skipped
from gradlens.runtime import Runtime, cache_dir, versions, whole_file
from gradlens.shift.metrics import evaluate
from gradlens.shift.predict import predict
from gradlens.shift.store import OutputStore, safe_stem
from gradlens.shift.tables import SKIPPED, skipped_rows, write_csv
from gradlens.train import loop, recipes
from gradlens.train.images import Images, load_images, mean_and_std
from gradlens.train.logs import open_logs
from gradlens.train.settings import Recipe
from gradlens.workflows.measure.leave import device
from gradlens.workflows.run_folder import RunFolder, sole_writer
from gradlens.workflows.train_figures import draw_batch, draw_distribution, spread
from gradlens.workflows.train_start import begin, preprocess_of, sized
from gradlens.zoo import checkpoints, pretrained
from gradlens.zoo.cards import Card, Preprocessing, Score, Training
from gradlens.zoo.weights import write_tensors

LAST = "last.safetensors"  # in the work folder: the last epoch's weights, where another's became the checkpoint
OF_TRAININGS = ("state.pt", "metrics.jsonl", "class_distribution.png")  # one of them is in a work folder soon
ON_CARDS = ("accuracy", "top5", "macro_f1")  # of every set that is scored


@dataclass(frozen=True)
class Result:
    """What became of one architecture.

    Attributes:
        folder: the checkpoint's.
        card: as it stands there.
        trained: whether it was trained now; ``False`` where a finished one was found.
        skipped: images that were neither trained on nor scored, and why.
    """

    folder: Path
    card: Card
    trained: bool
    skipped: tuple[Skipped, ...] = ()


def train(
    recipe: Recipe,
    folder: Path,
    runtime: Runtime,
    *,
    work: Path | None = None,
    fresh: bool = False,
    shared: dict[str, Prepared] | None = None,
    logs: Sequence[str] = (),
    command: str = "",
) -> Result:
    """Train one architecture, write its checkpoint, score it.

    Args:
        recipe: see :func:`gradlens.train.recipes.load`.
        folder: where the checkpoint goes, ``.../collection/model``.
        runtime: device, decoding threads, progress; precision and batch size are the recipe's. Where several processes
            train together, the first of them writes and scores.
        work: folder of the training state, ``metrics.jsonl``, logs and figures, and of the last epoch's weights where
            another's were kept; ``None`` for ``runs/train-<collection>-<model>``.
        fresh: start anew where a state or a checkpoint is there.
        shared: images that an earlier call prepared, for architectures that are trained on the same ones; filled in.
        logs: names of :data:`gradlens.train.logs.LOGS`, written beside ``metrics.jsonl``.
        command: what was typed, for ``run.json``.

    Raises:
        TrainingError: a checkpoint or a state of another recipe is there, or the recipe cannot be carried out.
        CheckpointError: the weights it starts from cannot be had, or do not fit.
        GradlensError: another training has the work folder, or makes the same checkpoint.
    """
    name = f"{folder.parent.name}/{folder.name}"
    work = work or Path("runs") / f"train-{folder.parent.name}-{folder.name}"
    recipe = sized(recipe, runtime)
    if not fresh and (card := _finished(folder, recipe)) is not None:
        runtime.say(f"{folder} is trained already; --fresh trains it anew, --score-only scores it again")
        return Result(folder, card, trained=False)
    if not runtime.processes.first:
        return _train(name, recipe, folder, work, None, runtime, shared, logs, command)
    with RunFolder(work, "--work") as run, sole_writer(folder, "--out"):
        if fresh:
            _emptied(run)
        return _train(name, recipe, folder, work, run, runtime, shared, logs, command)


def _emptied(run: RunFolder) -> None:
    """Remove an earlier training and all that lies beside it; never the files of somebody who gave a wrong folder."""
    if run.holds_files and not any((run.path / name).exists() for name in OF_TRAININGS):
        raise TrainingError(
            f"{run.path} holds files and none of a training; --fresh empties the folder, so name another with --work"
        )
    run.clear()


def _train(
    name: str,
    recipe: Recipe,
    folder: Path,
    work: Path,
    run: RunFolder | None,
    runtime: Runtime,
    shared: dict[str, Prepared] | None,
    logs: Sequence[str],
    command: str,
) -> Result:
    """The training of one process; the first of several alone has the work folder to write to (``run``)."""
    if run is None:
        runtime.processes.meet()  # until the first one has looked, and downloaded or rendered what is not there yet
    # what is missing ends it here, not after the last epoch
    found = pretrained.find(recipe.pretrained, recipe.builder, offline=runtime.offline) if recipe.pretrained else None
    for spec in (recipe.data.train, *_scored(recipe)):
        open_source(spec, offline=runtime.offline, runtime=runtime)
    if run is not None:
        runtime.processes.meet()
    with open_logs(logs if run is not None else (), work, name=name, settings=recipe.model_dump(mode="json")) as log:
        prepared = prepare(recipe, runtime, shared)
        begun = begin(recipe, prepared.classes, found, runtime)
        recipe = begun.normalised(recipe, prepared.recipe)
        if run is not None:
            draw_distribution(prepared.spread, work / "class_distribution")
        runtime.say(
            f"{recipe.model}: {len(prepared.images):,} training and {len(prepared.select):,} selection images of "
            f"{recipe.input_size} pixels, {recipe.epochs} epochs"
        )
        with _deaths_of_workers():
            trained = loop.train(
                begun.module, recipe, prepared.images, prepared.select, work, runtime,
                data_fingerprint=f"{prepared.fingerprint}{begun.fingerprint}", on_epoch=log.epoch, on_step=log.step,
            )  # fmt: skip
    card = Card(
        builder=recipe.builder,
        arguments=recipe.arguments,
        head=recipe.head,
        classes=prepared.classes,
        preprocess=Preprocessing.of(preprocess_of(recipe), DECODE_POLICY),
        training=Training(
            recipe=recipe.recipe,
            epochs=recipe.epochs,
            kept=trained.epoch,
            seed=recipe.seed,
            seconds=round(trained.seconds, 3),
            start=begun.start,
            phases=begun.phases,
            stopped=trained.stopped,
            settings=recipe.model_dump(mode="json"),
            history=tuple(asdict(e) for e in trained.history),
            **prepared.data,
        ),
        licence="Apache-2.0",
    )
    if run is None:
        return Result(folder, card, trained=True, skipped=prepared.skipped)
    checkpoints.save(folder, begun.module, card)
    if trained.epoch != len(trained.history):
        with whole_file(work / LAST) as path:
            write_tensors(trained.last, path)
    scored = score(folder, recipe, runtime)
    draw_curves(name, scored.card, work / "learning_curves")
    result = replace(scored, trained=True, skipped=(*prepared.skipped, *scored.skipped))
    _leave(run, name, result, recipe, runtime, command)
    return result


@contextlib.contextmanager
def _deaths_of_workers() -> Iterator[None]:
    """One line where a process that augments was killed; torch raises that wherever the training is just then."""
    try:
        yield
    except RuntimeError as err:
        if "DataLoader worker" not in str(err):
            raise
        raise TrainingError(
            "a process that changes images ahead was killed, as a system does that runs out of memory; the same "
            "command goes on after the last finished epoch, and takes less memory with fewer --workers"
        ) from err


def _leave(run: RunFolder, name: str, result: Result, recipe: Recipe, runtime: Runtime, command: str) -> None:
    """The card, what was left out, the page and ``run.json``: the training is complete."""
    card = result.card
    told = {
        "verb": "train",
        "command": command,
        "versions": versions(),
        **device(runtime),
        "precision": recipe.precision,
        "seed": recipe.seed,
        "models": [{"name": name, "builder": card.builder, "parameters": card.parameters, "weights": card.sha256}],
    }
    for path in sorted(run.path.glob("*")):
        if path.suffix in (".jsonl", ".png", ".pdf"):
            run.add(path)
    write_csv(run.file("skipped.csv"), SKIPPED, skipped_rows(result.skipped))
    with whole_file(run.file(f"cards/{safe_stem(name)}.json")) as part:
        record = {"model": name, **card.model_dump(mode="json")}
        part.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    run.add(report.build(run.path, told))
    run.finish(told)


def show_batch(recipe: Recipe, path: Path, runtime: Runtime) -> Path:
    """Write a picture of the first batch, before and after augmentation, as the network would see it; trains nothing.

    Raises:
        As :func:`train`, where that would before its first step.
    """
    recipe = sized(recipe, runtime)
    found = pretrained.find(recipe.pretrained, recipe.builder, offline=runtime.offline) if recipe.pretrained else None
    prepared = prepare(recipe, runtime)
    recipe = begin(recipe, prepared.classes, found, runtime).normalised(recipe, prepared.recipe)
    return draw_batch(prepared.images, recipe, prepared.classes, path, runtime)


def draw_curves(name: str, card: Card, stem: Path) -> list[Path]:
    """Write the learning curves of a trained model as PNG and PDF."""
    assert card.training is not None
    provenance = {"figure": "learning curves", "versions": versions(), "weights": {name: card.sha256}}
    return style.save(
        learning_curves([run_of(name, card.training.model_dump(mode="json"))]), stem, provenance=provenance
    )


def _finished(folder: Path, recipe: Recipe) -> Card | None:
    """The card of a checkpoint that this recipe made, ``None`` where there is no checkpoint."""
    if not (folder / checkpoints.CONFIG).exists():
        return None
    card = checkpoints.read_card(folder)
    if card.training is None:
        raise TrainingError(f"{folder} holds imported weights; --fresh replaces them, --out names another folder")
    if different := recipe.differences(Recipe.model_validate(card.training.settings)):
        raise TrainingError(
            f"{folder} was trained with another {', '.join(different)}; --fresh replaces it, --out names another folder"
        )
    return card


def _scored(recipe: Recipe) -> list[str]:
    return [s for s in (recipe.data.select, recipe.data.test, *recipe.data.probes) if s is not None]


def score(folder: Path, recipe: Recipe, runtime: Runtime) -> Result:
    """Score a checkpoint, as it lies in its folder, on the recipe's select, test and probe sets, and write its card.

    Scores that the card has of other sets stay; all of the recipe's are computed anew in fp32 (from logits that are
    cached for exactly these weights and images).
    """
    model = checkpoints.load_folder(folder, f"{folder.parent.name}/{folder.name}")
    card = checkpoints.read_card(folder)
    sets = {spec: open_source(spec, offline=runtime.offline, runtime=runtime) for spec in _scored(recipe)}
    if recipe.data.select is None:
        training = _labelled(open_source(recipe.data.train, offline=runtime.offline, runtime=runtime))
        sets["held out"] = split(training, recipe.data.select_fraction, recipe.data.select_seed)[1]
    plain = replace(runtime, precision="fp32")
    outputs = OutputStore(cache_dir() / "outputs")
    scores: list[Score] = []
    skipped: list[Skipped] = []
    for image_set in sets.values():
        (answers,) = predict([model], _labelled(image_set), plain, outputs)
        skipped += answers.skipped
        estimates = evaluate(answers.predictions)
        scores += [
            Score.of(image_set.name, name, estimates[name], image_set.fingerprint)
            for name in ON_CARDS
            if estimates[name].defined
        ]
    test = sets[recipe.data.test].name if recipe.data.test is not None else ""
    if card.training is not None:  # the settings name the sets that the scores are of
        data = card.training.settings.get("data", {}) | recipe.data.model_dump(mode="json", include={"test", "probes"})
        told = card.training.model_copy(update={"settings": card.training.settings | {"data": data}})
        card = card.model_copy(update={"training": told})
    card = card.with_scores(scores, test)
    checkpoints.write_card(folder, card)
    return Result(folder, card, trained=False, skipped=tuple(skipped))


def checkpoint_name(recipe: Recipe, seed: int | None = None) -> str:
    """The folder's name of an architecture: ``resnet18`` for ``timm:resnet18``.

    With ``seed``, the recipe's own, another one is part of the name: ``resnet``, ``resnet-s1``, ``resnet-s2``.
    """
    name = recipe.model.rpartition(":")[2].rpartition("/")[2]
    return name if seed in (None, recipe.seed) else f"{name}-s{recipe.seed}"


def listing() -> list[dict[str, Any]]:
    """The recipes that come with gradlens: name, title, collection, training images, size, epochs, architectures."""
    return [
        {
            "name": name,
            "title": table["title"],
            "collection": table["collection"],
            "data": table["data"]["train"],
            "input_size": table["input_size"],
            "epochs": table["epochs"],
            "models": list(table["models"]),
        }
        for name, table in ((n, recipes.read(n)) for n in recipes.names())
    ]


def summary(result: Result) -> str:
    """One line for people: where it lies, what it scores."""
    card, training = result.card, result.card.training
    parts = [str(result.folder), f"{card.parameters:,} parameters"]
    if training is not None:
        parts.append(f"epoch {training.kept} of {training.epochs}, {training.seconds / 60:.1f} min")
        if training.start is not None:
            parts.append(f"from {training.start.source}")
    shown = [s for s in card.scores if s.metric == "accuracy"]
    parts += [f"{s.dataset} {s.value:.1%} [{s.low:.1%}, {s.high:.1%}]" for s in shown]
    if left := len(result.skipped):
        parts.append(f"{left:,} {'image' if left == 1 else 'images'} left out")
    return "  ".join(parts)


def as_document(result: Result) -> Mapping[str, Any]:
    """The same for scripts."""
    card = result.card.model_dump(mode="json")
    return {
        "name": f"{result.folder.parent.name}/{result.folder.name}",
        "folder": str(result.folder),
        "trained": result.trained,
        "parameters": card["parameters"],
        "training": card["training"],
        "scores": card["scores"],
        "skipped": [asdict(s) for s in result.skipped],
    }


@dataclass(frozen=True)
class Prepared:
    """The images of a recipe, decoded.

    Attributes:
        recipe: with ``mean`` and ``std`` filled in.
        images, select: what is trained on, what the best epoch is chosen on.
        classes: the network's outputs.
        data: for the card: name, fingerprint and number of images of both sets.
        spread: images per class and native sizes of both sets.
        skipped: images that could not be decoded.
    """

    recipe: Recipe
    images: Images
    select: Images
    classes: tuple[str, ...]
    data: dict[str, Any]
    spread: tuple[SetSpread, ...]
    skipped: tuple[Skipped, ...]

    @property
    def fingerprint(self) -> str:
        """Of both sets."""
        return f"{self.data['fingerprint']}/{self.data['select_fingerprint']}"


def prepare(recipe: Recipe, runtime: Runtime, shared: dict[str, Prepared] | None = None) -> Prepared:
    """Open, split, decode and resize the images of a recipe.

    Args:
        recipe: which images, and how large.
        runtime: decoding threads, progress.
        shared: what was prepared before; the last one is kept there, and taken when it is what this recipe asks for.

    Raises:
        InputError, NotFoundError: a source is not there or not what it should be.
        TrainingError: it has no labels, or the classes of the two sets differ.
    """
    shared = {} if shared is None else shared
    wanted = recipe.model_dump_json(include={"data", "input_size", "cache_size", "crop_mode", "interpolation"})
    if wanted not in shared:
        shared.clear()  # one is enough: they may be gigabytes
        shared[wanted] = _prepare(recipe, runtime)
    prepared = shared[wanted]
    if recipe.mean is None:
        mean, std = mean_and_std(prepared.images)
        recipe = recipe.model_copy(update={"mean": mean, "std": std})
    return replace(prepared, recipe=recipe)


def sources(recipe: Recipe, runtime: Runtime) -> tuple[ImageSet, ImageSet]:
    """The images to train on and those to select on, opened and not decoded.

    Raises:
        See :func:`prepare`.
    """
    training = _labelled(open_source(recipe.data.train, offline=runtime.offline, runtime=runtime))
    if recipe.data.select is None:
        return split(training, recipe.data.select_fraction, recipe.data.select_seed)
    select = _labelled(open_source(recipe.data.select, offline=runtime.offline, runtime=runtime))
    if set(select.classes or ()) != set(training.classes or ()):
        odd = sorted(set(select.classes or ()) ^ set(training.classes or ()))
        raise TrainingError(
            f"{select.location} and {training.location} must have the same classes; "
            f"only one of them has {', '.join(odd)}"
        )
    return training, select


def _prepare(recipe: Recipe, runtime: Runtime) -> Prepared:
    training, select = sources(recipe, runtime)
    classes = training.classes or ()
    images, lost = load_images(training, classes, recipe, recipe.cache_size or recipe.input_size, runtime)
    chosen, lost_too = load_images(select, classes, recipe, recipe.input_size, runtime)
    for skipped in (*lost, *lost_too):
        runtime.say(f"left out: {skipped.path}: {skipped.reason}")
    data = {
        "data": training.name,
        "fingerprint": training.fingerprint,
        "images": len(images),
        "select": select.name,
        "select_fingerprint": select.fingerprint,
        "select_images": len(chosen),
    }
    told = spread(training, "training", runtime), spread(select, "selection", runtime)
    return Prepared(recipe, images, chosen, classes, data, told, (*lost, *lost_too))


def _labelled(images: ImageSet) -> ImageSet:
    if images.classes is None or (len(images) and images.labels.min() < 0):
        raise TrainingError(f"{images.location} has images without a label; a folder of class folders gives labels")
    if not len(images):
        raise InputError(f"{images.location} holds no images")
    return images
