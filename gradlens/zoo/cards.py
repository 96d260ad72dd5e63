"""What stands in a checkpoint folder's ``config.json``: timm's hub fields for other tools, and the card for ours.

The card is the value of the key ``gradlens``: whatever timm's layout has no field for.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gradlens.errors import CheckpointError
from gradlens.records import Estimate, Preprocess
from gradlens.zoo.heads import Head


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Preprocessing(_Part):
    """A :class:`~gradlens.records.Preprocess` as it is written, and how images were decoded before it."""

    input_size: tuple[int, int, int]
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop_pct: float = 1.0
    crop_mode: Literal["center", "squash"] = "center"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    decode: str = ""

    @model_validator(mode="after")
    def _must_make_a_preprocess(self) -> Preprocessing:
        self.record()
        return self

    @classmethod
    def of(cls, preprocess: Preprocess, decode: str = "") -> Preprocessing:
        """The written form of ``preprocess``; ``decode`` is :data:`gradlens.data.decode.DECODE_POLICY`."""
        fields = {name: getattr(preprocess, name) for name in Preprocess.__dataclass_fields__}
        return cls(**fields, decode=decode)

    def record(self) -> Preprocess:
        """The record that the rest of gradlens works with."""
        return Preprocess(**self.model_dump(exclude={"decode"}))


class Start(_Part):
    """The weights that a training started from, where they were not drawn at random.

    Attributes:
        source, weights: what they are, and the sha256 of their file (or ``"pretrained"``: a library's own).
        taken: how many of the network's parameters they gave.
        new_head: whether the classifier was drawn anew.
        missing, unexpected, misshaped: tensors that did not fit, by name.
    """

    source: str
    weights: str
    taken: int
    new_head: bool
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshaped: tuple[str, ...] = ()


class Learnt(_Part):
    """A phase of a training.

    Attributes:
        epochs: that it was given.
        parts: what learnt: ``all``, ``head``, depths by name.
        parameters: how many learnt.
    """

    epochs: int
    parts: tuple[str, ...]
    parameters: int


class Training(_Part):
    """How the weights came about.

    Attributes:
        epochs: that were asked for; kept: the one whose weights these are (from 1).
        data: name of the training set; images: how many of it were trained on; fingerprint: its sha256.
        select: name of the set that the kept epoch was chosen on; select_images, select_fingerprint: likewise.
        start: what the weights were before the first step; ``None``: drawn from ``seed``.
        phases: what learnt when; empty on cards from before there were phases, when everything learnt.
        stopped: why the training ended before its last epoch; empty where it did not.
        settings: the whole recipe as it was carried out.
        history: one row per epoch: its number, losses, accuracies, learning rate, seconds.
    """

    recipe: str
    epochs: int
    kept: int = 0
    seed: int
    seconds: float
    data: str
    images: int
    fingerprint: str
    select: str = ""
    select_images: int = 0
    select_fingerprint: str = ""
    start: Start | None = None
    phases: tuple[Learnt, ...] = ()
    stopped: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    history: tuple[dict[str, int | float], ...] = ()


class Score(_Part):
    """One measured score with its interval; values are fractions. ``fingerprint`` is the sha256 of the image set."""

    dataset: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    interval: str
    fingerprint: str = ""

    @classmethod
    def of(cls, dataset: str, metric: str, estimate: Estimate, fingerprint: str = "") -> Score:
        """The written form of an estimate.

        Raises:
            CheckpointError: the estimate has no value; JSON has no such number, and a card no use for it.
        """
        if not estimate.defined:
            raise CheckpointError(f"{metric} on {dataset} is not defined ({estimate.interval}); leave it off the card")
        return cls(
            dataset=dataset,
            metric=metric,
            value=float(estimate.value),
            low=float(estimate.low),
            high=float(estimate.high),
            n=int(estimate.n),
            interval=estimate.interval,
            fingerprint=fingerprint,
        )


class Card(_Part):
    """The ``gradlens`` part of ``config.json``.

    ``parameters`` to ``versions`` are filled in by :func:`gradlens.zoo.checkpoints.save`, from the weights it writes.

    Attributes:
        builder, arguments: what makes the network (see :mod:`gradlens.zoo.build`).
        head: what was put in the place of its last layer, if anything was.
        classes: names, in the order of the logits.
        preprocess: how images become its input.
        training: ``None`` for weights that were imported.
        source: where imported weights came from: a file's name or a repository's.
        licence: of the weights.
        scores: on select, test and probe sets; the first ``accuracy`` on a set of role test is the headline.
        test: name of the in-distribution test set among the scores.
        parameters: of the network; flops: of one image's forward pass, two per multiply-accumulate.
        size: of the weight file in bytes; sha256: of the weight file.
        versions: of the libraries that wrote it.
    """

    builder: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    head: Head = Head()
    classes: tuple[str, ...] = Field(min_length=1)
    preprocess: Preprocessing
    training: Training | None = None
    source: str = ""
    licence: str = ""
    scores: tuple[Score, ...] = ()
    test: str = ""
    parameters: int = 0
    flops: int = 0
    size: int = 0
    sha256: str = ""
    versions: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _classes_are_unique(self) -> Card:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("class names must be unique")
        return self

    def score(self, dataset: str, metric: str = "accuracy") -> Score | None:
        """The score on that data set, or ``None`` when the card does not say."""
        return next((s for s in self.scores if (s.dataset, s.metric) == (dataset, metric)), None)

    def with_scores(self, scores: Sequence[Score], test: str = "") -> Card:
        """This card with ``scores`` added; one of the same data set and metric is replaced."""
        new = {(s.dataset, s.metric): s for s in (*self.scores, *scores)}
        return self.model_copy(update={"scores": tuple(new.values()), "test": test or self.test})


def parse_card(document: Mapping[str, Any], where: Path) -> Card:
    """A card from its JSON form.

    Raises:
        CheckpointError: a field is missing, unknown or of the wrong kind; names the first one.
    """
    try:
        return Card.model_validate(document)
    except ValidationError as err:
        first = err.errors()[0]
        field = ".".join(map(str, first["loc"])) or "card"
        more = f" ({err.error_count()} faults in all)" if err.error_count() > 1 else ""
        raise CheckpointError(f"{where}: gradlens.{field}: {first['msg']}{more}") from err


def config_of(card: Card, num_features: int | None, global_pool: str | None, classifier: str | None) -> dict[str, Any]:
    """The whole ``config.json``: timm's hub layout and the card.

    ``model_args`` leaves ``num_classes`` out: transformers 5 passes it a second time and refuses the folder.
    """
    kind, _, name = card.builder.partition(":")
    preprocess = json.loads(card.preprocess.model_dump_json(exclude={"decode"}))
    config: dict[str, Any] = {"architecture": name.rsplit(":", 1)[-1], "num_classes": len(card.classes)}
    if num_features:
        config["num_features"] = num_features
    if global_pool:
        config["global_pool"] = global_pool
    if kind == "timm" and card.arguments:
        config["model_args"] = dict(card.arguments)
    config["pretrained_cfg"] = {
        "tag": "gradlens",
        "custom_load": False,
        **preprocess,
        "num_classes": len(card.classes),
        **({"classifier": classifier} if classifier else {}),
    }
    config["label_names"] = list(card.classes)
    config["gradlens"] = json.loads(card.model_dump_json())
    return config


def readme_of(card: Card, name: str) -> str:
    """The model card (README.md) of a checkpoint folder: YAML that the hub reads, then text for people.

    Args:
        card: a complete one, as it was saved.
        name: ``collection/model``.
    """
    from huggingface_hub import EvalResult, ModelCardData
    from jinja2 import Environment, StrictUndefined

    text = importlib.resources.files("gradlens.zoo").joinpath("model_card.md.j2").read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)  # noqa: S701  (Markdown)
    data = ModelCardData(
        license=card.licence.lower() or None,
        library_name="timm" if card.builder.startswith("timm:") else "gradlens",
        pipeline_tag="image-classification",
        tags=["gradlens", "image-classification"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=score.dataset,
                dataset_name=score.dataset,
                metric_type=score.metric,
                metric_value=score.value,
            )
            for score in card.scores
            if score.metric == "accuracy"
        ]
        or None,
    )
    collection, _, model = name.rpartition("/")
    short = model if collection in ("", "vehicles") else name
    return environment.from_string(text).render(card=card, name=name, short=short, yaml=data.to_yaml())
