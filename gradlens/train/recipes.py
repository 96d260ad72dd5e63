"""Recipes: everything that decides what a training run leaves, read from TOML and checked before anything starts.

A recipe file holds the settings of a collection and, under ``[models.<name>]``, what one architecture needs otherwise.
The network itself, its fastest precision and memory layout are those of
:data:`gradlens.zoo.architectures.ARCHITECTURES` (``<collection>/<name>``, else ``<name>``), or stand in that table:

    title = "..."                          [models.vit]
    collection = "vehicles"                optimiser.lr = 1e-3
    input_size = 96                        epochs = 40
    [data]                                 [models.mynet]
    train = "vehicles-train"               builder = "timm:resnet18"
    [optimiser]                            arguments = {channels = [16, 32, 64, 128]}
    lr = 2e-3

:func:`load` merges the two into one :class:`Recipe`, which stands on the card of what it trained.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gradlens.errors import NotFoundError, TrainingError, suggest
from gradlens.zoo.architectures import ARCHITECTURES

FOLDER = Path(__file__).parent / "recipes"

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
        pad: shift by up to so many pixels each way, with the border reflected (He et al. 2016 pad with zeros).
        scale: area of a random crop, as fractions (low, high) of the image; (1, 1) crops nothing.
        ratio: aspect ratio of that crop (low, high), width over height.
        rotation: up to so many degrees each way.
        flip: probability of a horizontal flip.
        brightness, contrast, saturation: factor drawn from [1 - x, 1 + x].
        hue: turned by up to so many full turns of the colour circle each way.
        grayscale: probability that all colour goes.
        erase: probability that a rectangle is filled with the mean colour (Zhong et al. 2020; a square of half the
            side with probability 1 is DeVries & Taylor's 2017 cutout).
        erase_area: area of that rectangle, as fractions (low, high) of the image.
    """

    pad: Annotated[int, Field(ge=0)] = 0
    scale: tuple[Fraction, Fraction] = (1.0, 1.0)
    ratio: tuple[Positive, Positive] = (1.0, 1.0)
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    flip: Fraction = 0.0
    brightness: Fraction = 0.0
    contrast: Fraction = 0.0
    saturation: Fraction = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    grayscale: Fraction = 0.0
    erase: Fraction = 0.0
    erase_area: tuple[Fraction, Fraction] = (0.02, 0.2)

    @model_validator(mode="after")
    def _ordered(self) -> Augment:
        for name in ("scale", "ratio", "erase_area"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be (low, high) with 0 < low <= high, got ({low}, {high})")
        return self


class Optimiser(_Strict):
    """AdamW (Loshchilov & Hutter 2019) or SGD with Nesterov momentum.

    Attributes:
        lr: the highest learning rate that the schedule reaches.
        weight_decay: of weight matrices and kernels; biases, norms and position embeddings have none.
        momentum: of SGD; AdamW has betas (0.9, 0.999).
        clip_norm: gradients are scaled down to this norm; 0 leaves them.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: Positive
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    clip_norm: Annotated[float, Field(ge=0)] = 0.0


class Schedule(_Strict):
    """How the learning rate moves, step by step.

    Attributes:
        name: ``"onecycle"`` (cosine up, cosine down; Smith & Topin 2018), ``"cosine"`` (linear up, cosine down) or
            ``"constant"`` (linear up, then level).
        warmup: part of all steps on the way up.
        final: last learning rate, as a part of the highest one.
    """

    name: Literal["onecycle", "cosine", "constant"] = "onecycle"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.2
    final: Fraction = 1e-3


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
        epochs, batch_size: passes over the training images; images per step.
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
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    keep: Literal["best", "last"] = "best"
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        if 0 < self.cache_size < self.input_size:
            raise ValueError(f"cache_size must be at least input_size ({self.input_size}), got {self.cache_size}")
        if (self.mean is None) != (self.std is None):
            raise ValueError("give both mean and std, or neither (they are then computed)")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        return self

    def _decisive(self) -> dict[str, Any]:
        """What decides the weights, but for the images: names, texts and places are left out."""
        fields = self.model_dump(mode="json", exclude={"recipe", "title", "collection", "model"})
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


def names() -> list[str]:
    """The recipes that come with gradlens."""
    return sorted(p.stem for p in FOLDER.glob("*.toml"))


def read(recipe: str | Path) -> dict[str, Any]:
    """The table of a recipe file: one that comes with gradlens by its name, or a path ending in ``.toml``.

    Raises:
        NotFoundError: no such recipe.
        TrainingError: it is not TOML.
    """
    path = Path(recipe)
    if path.suffix != ".toml":
        path = FOLDER / f"{recipe}.toml"
    if not path.is_file():
        raise NotFoundError("recipe", str(recipe), names(), "a recipe of your own is given by its path, FILE.toml")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) | {"recipe": path.stem}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise TrainingError(f"{path} is not TOML: {err}") from err


def models(recipe: str | Path) -> list[str]:
    """The architectures that a recipe has a ``[models.<name>]`` table for: what ``--model all`` trains."""
    return list(read(recipe).get("models", {}))


def load(recipe: str | Path, model: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe for one architecture.

    Args:
        recipe: name or path, see :func:`read`.
        model: one of :func:`models`, or a builder (``timm:resnet18``).
        changes: dotted field names and values that go before what the file says (``{"optimiser.lr": 1e-3}``).

    Raises:
        NotFoundError: no such recipe, or it knows no such architecture.
        TrainingError: a field is unknown, missing or out of range; the message names it.
    """
    table = read(recipe)
    own = table.pop("models", {})
    if model in own:
        table = _merged(_merged(table, _architecture(table.get("collection"), model)), own[model])
    elif ":" in model:
        table["builder"] = model
    else:
        raise NotFoundError("model", model, own, f"the recipe {table['recipe']!r} has no [models.{model}]")
    table["model"] = model
    for dotted, value in (changes or {}).items():
        *path, last = dotted.split(".")
        change: dict[str, Any] = {last: value}
        for key in reversed(path):
            change = {key: change}
        table = _merged(table, change)
    try:
        return Recipe.model_validate(table)
    except ValidationError as err:
        raise TrainingError(f"recipe {table['recipe']!r} for {model}: {_explained(err)}") from err


def _architecture(collection: object, model: str) -> dict[str, Any]:
    """What the zoo knows under that name: the collection's own variant, or the one that all share."""
    name = next((n for n in (f"{collection}/{model}", model) if n in ARCHITECTURES), None)
    if name is None:
        return {}
    found = ARCHITECTURES[name]
    return {
        "builder": found.builder,
        "arguments": dict(found.arguments),
        "precision": found.precision,
        "channels_last": found.channels_last,
    }


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over``; tables are merged, except a network's arguments, which go together."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) and key != "arguments"
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _explained(err: ValidationError) -> str:
    """The first thing wrong, with the field's dotted name and, for an unknown one, near names."""
    first = err.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        *parents, last = (str(part) for part in first["loc"])
        near = suggest(last, _fields_at(parents))
        hint = f"; did you mean {' or '.join(repr('.'.join([*parents, n])) for n in near)}?" if near else ""
        return f"no field named {field!r}{hint}"
    if first["type"] == "missing":
        return f"the field {field!r} is missing"
    got = "" if first["type"] == "value_error" else f", got {first['input']!r}"
    return f"{field + ': ' if field else ''}{first['msg'].removeprefix('Value error, ')}{got}"


def _fields_at(path: list[str]) -> list[str]:
    model: Any = Recipe
    for part in path:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
