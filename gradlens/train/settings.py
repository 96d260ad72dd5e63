"""The settings of a training run, checked before anything starts: what a recipe file may say.

A :class:`Recipe` decides what a run leaves, and stands on the card of what it trained. How files become recipes is
:mod:`gradlens.train.recipes`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gradlens.zoo.heads import Head

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Triple = tuple[float, float, float]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Strict):
    """Where the images come from. Each is a SOURCE, as ``gradlens shift-eval --help`` lists them.

    Attributes:
        train: what is trained on.
        select: what the best epoch is chosen on; never trained on.
        select_fraction: without ``select``: this part of each class of ``train`` is held out instead.
        select_seed: of that split.
        test: in-distribution test set, scored once the training is over.
        probes: shifted sets, scored likewise.
    """

    train: str
    select: str | None = None
    select_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    select_seed: int = 0
    test: str | None = None
    probes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_selection(self) -> Data:
        if (self.select is None) == (self.select_fraction == 0):
            raise ValueError("give either select (a source) or select_fraction (held out of train)")
        return self


class Augment(_Strict):
    """Random changes to training images, drawn anew for each image and epoch.

    Attributes:
        pad: shift by up to so many pixels each way: a random crop of the padded image.
        padding_mode: what is seen beyond the image's border: its ``"reflect"``-ion, or ``"constant"`` black (as
            torchvision's RandomCrop and RandomRotation have it).
        scale: area of a random crop, as fractions (low, high) of the image; (1, 1) crops nothing.
        ratio: aspect ratio of that crop (low, high), width over height.
        rotation: up to so many degrees each way.
        flip, vertical_flip: probability of a horizontal, a vertical flip.
        brightness, contrast, saturation: factor drawn from [1 - x, 1 + x].
        hue: turned by up to so many full turns of the colour circle each way.
        grayscale: probability that all colour goes.
        erase: probability that a rectangle, wholly inside, is filled with the mean colour (Zhong et al. 2020).
        erase_area: area of that rectangle, as fractions (low, high) of the image.
        cutout: side in pixels of a square of the mean colour around any point of each image, cut off at its border
            (DeVries & Taylor 2017; theirs for CIFAR-10: 16); 0 for none.
        policy: a policy drawn per image before the rest: torchvision's ``"randaugment"``, ``"autoaugment"``
            (``-cifar10``, ``-svhn``), ``"trivialaugment"``, ``"augmix"``, or timm's notation
            (``"rand-m9-mstd0.5-inc1"``, ``"augmix-m5-w4-d2"``, ``"original-mstd0.5"``); empty for none.
    """

    pad: Annotated[int, Field(ge=0)] = 0
    padding_mode: Literal["reflect", "constant"] = "reflect"
    scale: tuple[Fraction, Fraction] = (1.0, 1.0)
    ratio: tuple[Positive, Positive] = (1.0, 1.0)
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    flip: Fraction = 0.0
    vertical_flip: Fraction = 0.0
    brightness: Fraction = 0.0
    contrast: Fraction = 0.0
    saturation: Fraction = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    grayscale: Fraction = 0.0
    erase: Fraction = 0.0
    erase_area: tuple[Fraction, Fraction] = (0.02, 0.2)
    cutout: Annotated[int, Field(ge=0)] = 0
    policy: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> Augment:
        for name in ("scale", "ratio", "erase_area"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be (low, high) with 0 < low <= high, got ({low}, {high})")
        if self.policy:
            from gradlens.train.policies import transform  # loads timm, which most recipes can do without here

            transform(self.policy, 32, (0.5, 0.5, 0.5))
        return self


class Mix(_Strict):
    """Two images become one, and so do their labels (torchvision's MixUp and CutMix).

    Attributes:
        mixup: alpha of Zhang et al. 2018; 0 for none.
        cutmix: alpha of Yun et al. 2019; 0 for none. With both, each batch is given one of the two by chance.
        probability: that a batch is mixed at all.
    """

    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    probability: Fraction = 1.0


class Optimiser(_Strict):
    """Adam (Kingma & Ba 2015), AdamW (Loshchilov & Hutter 2019), SGD with Nesterov momentum, or Muon.

    Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; timm's) moves weight matrices
    and kernels along their momentum made orthogonal, in steps as long as AdamW's at the same rate (Liu et al. 2025,
    "Muon is scalable for LLM training"); what is neither it leaves to AdamW (with Nesterov momentum, Dozat 2016).

    Attributes:
        lr: the highest learning rate that the schedule reaches.
        weight_decay: of weight matrices and kernels; biases, norms and position embeddings have none. Adam adds it to
            the gradient, AdamW and Muon shrink the weights by it.
        momentum: of SGD and Muon; Adam and AdamW have betas (0.9, 0.999), within Muon (0.9, 0.95).
        clip_norm: gradients are scaled down to this norm; 0 leaves them.
        sam_rho: sharpness-aware minimisation (Foret et al. 2021): each step takes the gradient at the point this far
            uphill, in the norm of all that learns, where the loss of the batch is about the worst nearby. Such a step
            costs two. 0 for none; 0.05 to 0.2 are usual, more where weights are long, as Muon leaves them.
        sam_start: part of the run's steps after which it sets in: what it brings, it brings late (Zhou et al. 2025).
    """

    name: Literal["adam", "adamw", "muon", "sgd"] = "adamw"
    lr: Positive
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    sam_rho: Annotated[float, Field(ge=0)] = 0.0
    sam_start: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _start_of_something(self) -> Optimiser:
        if self.sam_start and not self.sam_rho:
            raise ValueError(
                "sam_start says when sam_rho sets in, which is 0; give both, like sam_rho = 0.1, or neither"
            )
        return self


class Schedule(_Strict):
    """How the learning rate moves within a phase: step by step, ``plateau`` and ``step`` epoch by epoch.

    Attributes:
        name: ``"onecycle"`` (cosine up, cosine down; Smith & Topin 2018), ``"cosine"`` (linear up, cosine down),
            ``"constant"``, ``"step"`` (times ``factor`` every ``every`` epochs) or ``"plateau"`` (times ``factor``
            after ``patience`` epochs without a better selection loss); the last three rise linearly during warm-up.
        warmup: part of all steps on the way up.
        final: last learning rate of ``onecycle`` and ``cosine``, as a part of the highest one.
        factor, patience, every: see ``name``.
    """

    name: Literal["onecycle", "cosine", "constant", "step", "plateau"] = "onecycle"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.2
    final: Fraction = 1e-3
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: Count = 5
    every: Count = 10


class Stopping(_Strict):
    """Early stopping on the selection images.

    Attributes:
        patience: epochs without improvement after which a run (its last phase, where there are several) ends; 0: never.
        min_delta: what counts as an improvement, of ``metric``.
        metric: ``"loss"`` (falling) or ``"accuracy"`` (rising).
    """

    patience: Annotated[int, Field(ge=0)] = 0
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    metric: Literal["loss", "accuracy"] = "loss"


class Phase(_Strict):
    """A part of a run with its own set of trainable parameters, optimiser state and schedule.

    Attributes:
        epochs: passes over the training images.
        train: what learns: ``"all"``; ``"head"`` (which learns only where it is named); ``"last:N"`` (the last N
            stages); names and globs of depths as ``gradlens layers`` prints them (the parameters on the stretch that
            ends at that depth), or of other modules. Norms of what does not learn keep their statistics.
        lr: highest learning rate; ``None`` for the optimiser's.
        backbone_lr: learning rate of everything but the head, as a factor of ``lr``.
    """

    epochs: Count
    train: tuple[str, ...] = ("all",)
    lr: Positive | None = None
    backbone_lr: Positive = 1.0

    @model_validator(mode="after")
    def _something_learns(self) -> Phase:
        if not self.train or not all(self.train):
            raise ValueError(f"train must name what learns, like ('head',), got {self.train}")
        for part in self.train:
            kind, colon, count = part.partition(":")
            if kind == "last" and colon and not (count.isdigit() and int(count)):
                raise ValueError(f"train: expected last:N with N of at least 1, got {part!r}")
        return self


class Recipe(_Strict):
    """One training run, complete.

    Attributes:
        recipe: name of the file it came from.
        title: one line that says what it trains.
        collection: folder of the zoo that its checkpoints go to.
        model: architecture's name, and by default the checkpoint's.
        builder, arguments: what makes the network (see :mod:`gradlens.zoo.build`).
        input_size: side of the network's square input in pixels.
        cache_size: side at which training images are kept in memory; a random crop larger than the input stays
            sharp when this is more than ``input_size``. 0 means ``input_size``.
        crop_mode: ``"center"`` or ``"squash"``, as in :class:`gradlens.records.Preprocess`.
        interpolation: of the resizing.
        mean, std: of the normalisation; without them they are computed on the training images.
        pretrained: where the weights come from before the first step: ``""`` (drawn from ``seed``), ``"imagenet"`` (the
            library's own), a model of the zoo (``cifar10/resnet``) or a path. ``mean`` and ``std`` are theirs, then.
        strategy: a name of :mod:`gradlens.train.strategies`, which fills ``phases`` in; empty where they are given.
        phases: what is trained when, ``epochs`` in all; none: everything.
        head: what turns features into logits.
        epochs, batch_size: passes over the training images, of all phases together; images per step.
        class_weights: ``"balanced"`` weights each class's loss by the inverse of its share of the training images.
        label_smoothing: probability mass spread over all classes (Szegedy et al. 2016).
        ema: decay of an exponential moving average of the weights, which is then what is scored and kept; 0 for none.
        keep: ``"best"`` keeps the epoch with the highest accuracy on the selection images (the later one of equals),
            ``"last"`` the last.
        precision: of the forward and backward passes.
        channels_last: memory layout; with bf16 it doubles the speed of most convolutional networks on CPUs.
        seed: of weights, order, augmentation, dropout.
    """

    recipe: str
    title: str
    collection: str
    model: str
    builder: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    data: Data
    input_size: Count
    cache_size: Annotated[int, Field(ge=0)] = 0
    crop_mode: Literal["center", "squash"] = "center"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: Triple | None = None
    std: Triple | None = None
    epochs: Count
    batch_size: Annotated[int, Field(ge=2)] = 128
    optimiser: Optimiser
    schedule: Schedule = Schedule()
    augment: Augment = Augment()
    mix: Mix = Mix()
    stopping: Stopping = Stopping()
    pretrained: str = ""
    strategy: str = ""
    phases: tuple[Phase, ...] = ()
    head: Head = Head()
    class_weights: Literal["none", "balanced"] = "none"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    keep: Literal["best", "last"] = "best"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        if 0 < self.cache_size < self.input_size:
            raise ValueError(f"cache_size must be at least input_size ({self.input_size}), got {self.cache_size}")
        if self.augment.pad >= (self.cache_size or self.input_size):
            raise ValueError(f"augment.pad must be less than the image's side, got {self.augment.pad}")
        if (self.mean is None) != (self.std is None):
            raise ValueError("give both mean and std, or neither (they are then computed)")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        if self.phases and (total := sum(p.epochs for p in self.phases)) != self.epochs:
            raise ValueError(f"epochs must be those of all phases together ({total}), got {self.epochs}")
        return self

    def _decisive(self) -> dict[str, Any]:
        """What decides the weights, but for the images: names, texts and places are left out."""
        fields = self.model_dump(mode="json", exclude={"recipe", "title", "collection", "model", "strategy"})
        for place in ("train", "select", "test", "probes"):  # fingerprints stand for what lies there
            del fields["data"][place]
        return fields

    def differences(self, other: Recipe) -> list[str]:
        """Dotted names of the fields that decide the weights and differ between the two.

        A ``mean`` and ``std`` still to be computed differ from none.
        """
        mine, theirs = dict(_flat(self._decisive())), dict(_flat(other._decisive()))
        open_ = {"mean", "std"} if None in (self.mean, other.mean) else set()
        return [k for k in {**mine, **theirs} if mine.get(k) != theirs.get(k) and k not in open_]


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
