"""The zoo as a person handles it: which models are there, are their cards true, take in mine, what do they cost."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradlens.data.decode import DECODE_POLICY
from gradlens.data.image_set import ImageSet
from gradlens.data.sources import open_source
from gradlens.errors import CheckpointError, GradlensError, NotFoundError
from gradlens.records import LoadedModel, Preprocess
from gradlens.runtime import Runtime
from gradlens.shift.metrics import evaluate
from gradlens.shift.predict import predict
from gradlens.shift.store import OutputStore
from gradlens.zoo import checkpoints, consent
from gradlens.zoo.cards import Card, Score
from gradlens.zoo.importing import import_checkpoint
from gradlens.zoo.profile import profile

ON_CARDS = ("accuracy", "top5", "macro_f1")


@dataclass(frozen=True)
class Entry:
    """A model as ``gradlens zoo list`` shows it; ``problem`` says why there is no card."""

    name: str
    folder: Path
    card: Card | None
    problem: str | None = None

    @property
    def test(self) -> Score | None:
        """Accuracy on the in-distribution test set."""
        return self.card.score(self.card.test) if self.card is not None else None


@dataclass(frozen=True)
class Check:
    """One claim of a card, held against what was found. ``ok`` is ``None`` where it could not be checked."""

    claim: str
    ok: bool | None
    says: str
    found: str


@dataclass(frozen=True)
class Verified:
    """What ``gradlens zoo verify`` found out about one model."""

    name: str
    checks: tuple[Check, ...]

    @property
    def lies(self) -> bool:
        """Whether any claim is false."""
        return any(c.ok is False for c in self.checks)

    @property
    def unchecked(self) -> bool:
        """Whether any claim could not be checked."""
        return any(c.ok is None for c in self.checks)


def entries(zoo: Path | None = None) -> list[Entry]:
    """Every model of the zoo."""
    found = []
    for name, folder in checkpoints.names(zoo).items():
        try:
            found.append(Entry(name, folder, checkpoints.read_card(folder)))
        except CheckpointError as err:
            found.append(Entry(name, folder, None, str(err)))
    return found


def show(name: str, zoo: Path | None = None) -> Entry:
    """One model of the zoo, or a checkpoint folder.

    Raises:
        NotFoundError: no such model.
        CheckpointError: its config is not what it should be.
    """
    (full,) = checkpoints.expand([name], zoo)
    folder = checkpoints.names(zoo).get(full, Path(full))
    if not folder.is_dir():
        raise NotFoundError("model of the zoo", name, checkpoints.names(zoo), "gradlens bench looks at architectures")
    return Entry(full, folder, checkpoints.read_card(folder))


def trust(name: str, zoo: Path | None = None) -> list[Path]:
    """Agree to the Python files that a model of the zoo, or a checkpoint folder, brings.

    Raises:
        NotFoundError: no such model.
        CheckpointError: its card names a file that is not in its folder.
    """
    files = checkpoints.code_of(show(name, zoo).folder)
    for file in files:
        consent.agree(file)
    return files


# ---------------------------------------------------------------- verify


def verify(
    models: Sequence[str],
    runtime: Runtime,
    *,
    zoo: Path | None = None,
    test: str | None = None,
    every_set: bool = False,
) -> list[Verified]:
    """Hold cards against weights and images: checksum, parameters, FLOPs, size, written fields, scores.

    Scores are computed anew, from the images; nothing that was stored is trusted.

    Args:
        models: names, globs, folders; none means every model of the zoo.
        runtime: device and decoding threads; scores are computed in fp32.
        zoo: folder of checkpoints.
        test: SOURCE of the test set, where it does not lie where the card says.
        every_set: score every set that a card names, not only the test set.

    Raises:
        NotFoundError: no such model.
    """
    if models:
        known = checkpoints.names(zoo)
        folders = {name: known.get(name, Path(name)) for name in checkpoints.expand(models, zoo)}
        if stranger := next((n for n, folder in folders.items() if not folder.is_dir()), None):
            raise NotFoundError("model of the zoo", stranger, known, "only checkpoint folders have cards to verify")
    else:
        folders = checkpoints.names(zoo)
    sets: dict[str, ImageSet] = {}
    return [
        _verified(name, folder, runtime, test, every_set, sets)
        for name, folder in runtime.progress(list(folders.items()), "verifying", unit="model")
    ]


def _verified(
    name: str, folder: Path, runtime: Runtime, test: str | None, every_set: bool, sets: dict[str, ImageSet]
) -> Verified:
    try:
        card = checkpoints.read_card(folder)
        model = checkpoints.load_folder(folder, name)  # compares the checksum first
    except GradlensError as err:
        return Verified(name, (Check("checkpoint", False, "a model", str(err)),))
    cost = profile(model.module, card.preprocess.input_size)
    size = (folder / checkpoints.WEIGHTS).stat().st_size
    checks = [
        Check("checksum", True if card.sha256 else None, card.sha256[:12] or "nothing", model.weights[:12]),
        Check("parameters", card.parameters == cost.parameters, f"{card.parameters:,}", f"{cost.parameters:,}"),
        Check("FLOPs", card.flops == cost.flops, f"{card.flops:,}", f"{cost.flops:,}"),
        Check("size", card.size == size, f"{card.size:,} bytes", f"{size:,} bytes"),
        _fields(folder, card),
    ]
    return Verified(name, (*checks, *_score_checks(model, card, runtime, test, every_set, sets)))


def _fields(folder: Path, card: Card) -> Check:
    """timm's fields and the model card are generated from the card; other tools read them, so they must agree."""
    wrong = checkpoints.stale_fields(folder, card)
    return Check("other fields", not wrong, "generated from the card", f"differ: {', '.join(wrong)}" if wrong else "so")


def _score_checks(
    model: LoadedModel, card: Card, runtime: Runtime, test: str | None, every_set: bool, sets: dict[str, ImageSet]
) -> list[Check]:
    if not card.test:
        return [Check("test score", None, "no score on a test set", "")]
    checks = []
    for dataset in dict.fromkeys(s.dataset for s in card.scores if every_set or s.dataset == card.test):
        claims = [s for s in card.scores if s.dataset == dataset]
        try:
            image_set = _open(dataset, card, test if dataset == card.test else None, runtime, sets)
        except GradlensError as err:
            checks.append(Check(f"scores on {dataset}", None, f"{len(claims)} scores", f"not computed: {err}"))
            continue
        fingerprint = claims[0].fingerprint
        if fingerprint and image_set.fingerprint != fingerprint:
            same = Check(f"images of {dataset}", False, fingerprint[:12], image_set.fingerprint[:12])
            checks.append(same)
        found = {s.metric: s for s in scores_on(model, image_set, runtime)}
        checks += [_compared(claim, found.get(claim.metric)) for claim in claims]
    return checks


def _compared(claim: Score, found: Score | None) -> Check:
    """Another CPU's kernels may turn an image with two nearly equal logits: one in 500 is allowed for, or one."""
    what, says = f"{claim.metric} on {claim.dataset}", _interval(claim)
    if found is None:
        return Check(what, False, says, "not defined")
    slack = max(1, claim.n / 500) / claim.n
    near = [abs(getattr(claim, f) - getattr(found, f)) <= slack + 1e-9 for f in ("value", "low", "high")]
    return Check(what, claim.n == found.n and all(near), says, _interval(found))


def _interval(score: Score) -> str:
    return f"{score.value:.4f} [{score.low:.4f}, {score.high:.4f}] of {score.n}"


def _open(dataset: str, card: Card, given: str | None, runtime: Runtime, sets: dict[str, ImageSet]) -> ImageSet:
    """The image set a card names: what the user says, a probe set of that name, or where the recipe found it."""
    places = [given] if given else [dataset, *_sources(card, dataset)]
    failure: GradlensError | None = None
    for place in places:
        if place in sets:
            return sets[place]
        try:
            return sets.setdefault(place, open_source(place, offline=runtime.offline, runtime=runtime))
        except GradlensError as err:
            failure = failure or err
    raise failure or NotFoundError("image set", dataset)


def _sources(card: Card, dataset: str) -> list[str]:
    """SOURCEs in the card's recipe that would carry this name."""
    data: Mapping[str, Any] = card.training.settings.get("data", {}) if card.training is not None else {}
    listed = [data.get("select"), data.get("test"), *(data.get("probes") or [])]
    return [s for s in listed if isinstance(s, str) and Path(s).stem == dataset]


def scores_on(model: LoadedModel, image_set: ImageSet, runtime: Runtime) -> list[Score]:
    """The metrics that stand on cards, computed now, in fp32, from every labelled image."""
    labelled = image_set.subset([i for i, sample in enumerate(image_set.samples) if sample.label is not None])
    with tempfile.TemporaryDirectory(prefix="gradlens-") as place:  # nothing of an earlier run may speak for this one
        (answers,) = predict(
            [model], labelled, replace(runtime, precision="fp32"), OutputStore(Path(place)), fresh=True
        )
    estimates = evaluate(answers.predictions)
    return [
        Score.of(image_set.name, metric, estimates[metric], image_set.fingerprint)
        for metric in ON_CARDS
        if estimates[metric].defined
    ]


# ---------------------------------------------------------------- import


@dataclass(frozen=True)
class ImportRequest:
    """What ``gradlens zoo import`` was asked for. See :func:`gradlens.zoo.importing.import_checkpoint`.

    Attributes:
        name: ``collection/model`` or ``model``.
        test: SOURCE to score the model on; its scores go to the card.
    """

    name: str
    weights: Path
    arch: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    arguments: Mapping[str, Any]
    zoo: Path | None = None
    test: str | None = None
    licence: str = ""
    replace: bool = False


def import_model(request: ImportRequest, runtime: Runtime) -> Entry:
    """Turn weights from elsewhere into a model of the zoo.

    Raises:
        CheckpointError: the weights do not fit the network, or a model of that name is there already.
        ModelError: the network cannot be built.
    """
    root = checkpoints.zoo_folders(request.zoo)[0]
    folder = root / request.name
    test_set = open_source(request.test, offline=runtime.offline, runtime=runtime) if request.test else None
    card = import_checkpoint(
        folder,
        request.weights,
        request.arch,
        request.classes,
        request.preprocess,
        name=request.name,
        arguments=request.arguments,
        decode=DECODE_POLICY,
        licence=request.licence,
        replace=request.replace,
    )
    if test_set is not None:
        model = checkpoints.load_folder(folder, request.name)
        card = card.with_scores(scores_on(model, test_set, runtime), test_set.name)
        checkpoints.write_card(folder, card)
    return Entry(request.name, folder, card)
