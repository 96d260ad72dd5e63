"""What a shift evaluation was asked for, and what it rests on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gradlens.records import LoadedModel, Predictions, Skipped

if TYPE_CHECKING:
    from gradlens.data.sources import ImageSet


@dataclass(frozen=True)
class Request:
    """What was asked for: the options of ``gradlens shift-eval``.

    Attributes:
        models: zoo names, globs and other MODEL forms; none means the whole collection.
        in_dist, probes: SOURCEs, or with ``predictions`` the names of data sets in those files.
        unlabelled: the same, of sets whose labels are not there or not looked at.
        shard: (i, n), counted from (1, 1); shards: the folder where they meet, ``None`` for the cache alone.
        max_drop, min_accuracy: fractions, or ``None`` for no limit.
        analyses: names of those to do beyond the ones that cost nothing, or ``all``.
        baseline: families and models (names, globs) whose line effective robustness is measured from; none: for each
            model all other families.
        accuracies: a table of accuracies to work on instead of models and images.
        cam_method: a registered CAM method; cam_target: ``predicted`` or ``true``, the class whose maps are compared;
            cam_images: of each set, balanced over its classes (analyses that make maps).
        images: scenes whose images and maps are kept for the page; 0 keeps no picture at all.
        train: SOURCEs of training data, for the analysis ``leakage``; what the models' cards name is looked for anyway.
        corruptions: registered names (none: all), severities: of 1 to 5, and reference: the model whose errors are the
            unit (``None``: the one with the median accuracy), for the analysis ``corruptions``.
        stream: read the sets once, in order, and keep counts instead of predictions.
        command: the command line, as ``run.json`` records it.
    """

    out: Path
    models: tuple[str, ...] = ()
    zoo: Path | None = None
    weights: str | None = None
    in_dist: str | None = None
    probes: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    predictions: tuple[Path, ...] = ()
    confidence: float = 0.95
    resamples: int = 10_000
    top_k: int = 5
    fresh: bool = False
    shard: tuple[int, int] | None = None
    shards: Path | None = None
    max_drop: float | None = None
    min_accuracy: float | None = None
    analyses: tuple[str, ...] = ()
    baseline: tuple[str, ...] = ()
    accuracies: Path | None = None
    cam_method: str = "gradcam"
    cam_target: Literal["predicted", "true"] = "predicted"
    cam_images: int = 64
    images: int = 2
    train: tuple[str, ...] = ()
    corruptions: tuple[str, ...] = ()
    severities: tuple[int, ...] = (1, 3, 5)
    reference: str | None = None
    stream: bool = False
    command: str = ""


@dataclass(frozen=True)
class SetInfo:
    """An image set as tables, figures and ``run.json`` know it.

    Attributes:
        n: labelled images; all images of an unlabelled set.
        paired_with: the set whose images its pairs name.
        fingerprint: of its content; empty for foreign predictions.
        filtered_by: models whose predictions decided which images are in it.
    """

    name: str
    role: str
    n: int
    classes: tuple[str, ...]
    shift: str | None = None
    paired_with: str | None = None
    location: str = ""
    fingerprint: str = ""
    filtered_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelInfo:
    """A model as tables and ``run.json`` know it; parameters are ``None`` for foreign predictions."""

    name: str
    classes: int
    parameters: int | None = None
    weights: str = ""
    builder: str = ""


@dataclass
class Evidence:
    """Everything that is scored, and everything that is not.

    Attributes:
        predictions: by (model, data set), for every model and every set, unlabelled ones too.
        notes: what a reader must know, one sentence each.
        marks: why scores are too good, where a model's own card says so.
        timings: seconds.
        images: the sets by name, without unlabelled images; empty where predictions came from files.
        networks: the models by name, ready to run; empty where predictions came from files.
        unlabelled: sets without labels; they are in ``predictions``, and never scored or compared.
        unlabelled_images: those sets by name; empty where predictions came from files.
    """

    models: list[ModelInfo]
    in_dist: SetInfo
    probes: list[SetInfo]
    predictions: dict[tuple[str, str], Predictions]
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    images: dict[str, ImageSet] = field(default_factory=dict)
    networks: dict[str, LoadedModel] = field(default_factory=dict)
    unlabelled: list[SetInfo] = field(default_factory=list)
    unlabelled_images: dict[str, ImageSet] = field(default_factory=dict)

    @property
    def sets(self) -> list[SetInfo]:
        """The in-distribution set, then the probe sets: everything that is scored."""
        return [self.in_dist, *self.probes]
