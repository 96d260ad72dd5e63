"""What a study file says: images, a base recipe, models, variants of it, and what is told at the end.

A study trains ``models × variants × seeds``. Its file holds what both scales share, and under ``[full]`` and
``[narrow]`` what each has of its own (tables are merged, as in a recipe):

    title = "..."                               [variants.scratch]
    sections = ["stability", "transfer"]        strategy = "scratch"
    baseline = "scratch"
                                                [variants.linear]
    [data]                                      strategy = "linear"
    train = "vehicles-train"
    select = "vehicles-select"                  [full.models.resnet]
    test = "vehicles-test"                      builder = "torchvision:resnet50"
    probes = ["vehicles-night"]                 pretrained = "imagenet"

    [recipe]                                    [narrow.models.resnet]
    batch_size = 64                             architecture = "cifar10/resnet"
    optimiser.lr = 1e-3                         pretrained = "cifar10/resnet"
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gradlens.errors import InputError, NotFoundError, suggest
from gradlens.runtime import bundled
from gradlens.train import recipes
from gradlens.train.settings import Data, Recipe
from gradlens.zoo.architectures import ARCHITECTURES

Scale = Literal["full", "narrow"]
SCALES: tuple[Scale, ...] = get_args(Scale)
FOLDER = "studies"


class Study(BaseModel):
    """A study at one scale.

    Attributes:
        study: name of its file; scale: the one this is.
        title: one line.
        question: what it is to find out.
        notes: where it leaves what was published, and why; shown with the results.
        data: images of every run.
        classes: how many there are; networks are checked with so many outputs before any image is there.
        recipe: fields of a recipe that all runs share.
        models: by name: fields of a recipe, or ``architecture``, a name of the zoo's architectures that stands for
            ``builder``, ``arguments``, ``precision`` and ``channels_last``.
        variants: by name: fields of a recipe that go before the model's. ``only`` (names or globs) says which models
            have it; ``of`` (a table by model) what it means for one of them.
        seeds: each run is trained once for each.
        baseline: the variant that others are compared with.
        sections: what is told at the end, in this order.
        answer: those of them whose findings answer the question: the page begins with these.
        resamples: of the bootstrap.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    study: str
    scale: Scale
    title: str
    question: str
    notes: tuple[str, ...] = ()
    data: Data
    classes: Annotated[int, Field(ge=2)]
    recipe: dict[str, Any] = Field(default_factory=dict)
    models: dict[str, dict[str, Any]] = Field(min_length=1)
    variants: dict[str, dict[str, Any]] = Field(default={"": {}}, min_length=1)
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    baseline: str = ""
    sections: tuple[str, ...]
    answer: tuple[str, ...] = ()
    resamples: Annotated[int, Field(ge=100)] = 2000

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        if self.data.test is None:
            raise ValueError("data.test is missing: a study compares scores on it")
        if self.baseline and self.baseline not in self.variants:
            raise ValueError(f"baseline {self.baseline!r} is none of the variants {', '.join(self.variants)}")
        if other := [name for name in self.answer if name not in self.sections]:
            raise ValueError(f"answer {other[0]!r} is none of the sections {', '.join(self.sections)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, got {', '.join(map(str, self.seeds))}")
        for name, variant in self.variants.items():
            for pattern in (*variant.get("only", ()), *variant.get("of", ())):
                if not any(fnmatchcase(m, pattern) for m in self.models):
                    known = ", ".join(self.models)
                    raise ValueError(f"variants.{name} names {pattern!r}, which is none of the models {known}")
        return self


@dataclass(frozen=True)
class Run:
    """One training run of a study.

    Attributes:
        name: its checkpoint's: model, variant and seed, ``resnet-linear-s1``; the first seed has no ending.
        model, variant, seed: which one it is.
    """

    name: str
    model: str
    variant: str
    seed: int
    recipe: Recipe

    @property
    def family(self) -> str:
        """The name without the seed: what is trained several times."""
        return "-".join(part for part in (self.model, self.variant) if part)


@dataclass(frozen=True)
class Changes:
    """What somebody asked for instead of what the file says.

    Attributes:
        data: (role, SOURCE); roles are train, select, test, probe.
        epochs: of every run.
        seeds: of every run; none: the file's.
        only: names or globs of runs; none: all.
    """

    data: tuple[tuple[str, str], ...] = ()
    epochs: int | None = None
    seeds: tuple[int, ...] = ()
    only: tuple[str, ...] = ()


def known() -> dict[str, Path]:
    """Names and files of all studies: those of ``./studies``, then those that come with gradlens."""
    found: dict[str, Path] = {}
    for place in (Path(FOLDER), bundled("studies")):
        for path in sorted(place.glob("*.toml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def load(name: str, scale: Scale, changes: Changes | None = None) -> Study:
    """The study of a name or path at one scale.

    Raises:
        NotFoundError: no such study.
        InputError: the file is not TOML, or a field is unknown, missing or out of range.
    """
    changes = changes or Changes()
    path, table, scales = _read(name)
    if scale not in scales:
        raise InputError(f"{path} has no [{scale}]; scales that it has: {', '.join(scales) or 'none'}")
    whole = recipes.merged(table, scales[scale]) | {"study": path.stem, "scale": scale}
    if changes.data:
        whole["data"] = _replaced(whole.get("data", {}), changes.data)
    if changes.seeds:
        whole["seeds"] = list(changes.seeds)
    try:
        return Study.model_validate(whole)
    except ValidationError as err:
        raise InputError(f"study {path.stem!r} at scale {scale}: {_explained(err)}") from err


def scales_of(name: str) -> tuple[Scale, ...]:
    """The scales that a study has; raises as :func:`load`."""
    return tuple(_read(name)[2])


def _read(name: str) -> tuple[Path, dict[str, Any], dict[Scale, dict[str, Any]]]:
    """(file, what its scales share, what each has of its own)."""
    path = Path(name)
    if path.suffix != ".toml":
        files = known()
        if name not in files:
            raise NotFoundError("study", name, files, "a study of your own is given by its path, FILE.toml")
        path = files[name]
    elif not path.is_file():
        raise InputError(f"{path} is no file; gradlens study --list shows the studies that are there")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as err:
        raise InputError(f"{path} is not TOML: {err}") from err
    return path, table, {s: table.pop(s) for s in SCALES if s in table}


def _replaced(data: Mapping[str, Any], given: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The images somebody gave; with other training images, none of the file's are kept."""
    by_role: dict[str, list[str]] = {}
    for role, source in given:
        by_role.setdefault(role, []).append(source)
    for role in ("train", "select", "test"):
        if len(by_role.get(role, ())) > 1:
            raise InputError(f"--data {role}= was given {len(by_role[role])} times; only probe= may be repeated")
    whole = dict(data)
    if "train" in by_role:
        if "test" not in by_role:
            raise InputError("--data train=SOURCE needs --data test=SOURCE: the study's test set is of other images")
        seed = whole.get("select_seed", 0)
        whole = {"train": by_role["train"][0], "select_seed": seed, "select_fraction": data.get("select_fraction", 0.1)}
    if "select" in by_role:
        whole |= {"select": by_role["select"][0], "select_fraction": 0.0}
    if "test" in by_role:
        whole["test"] = by_role["test"][0]
    if "probe" in by_role:
        whole["probes"] = by_role["probe"]
    return whole


def runs(study: Study, changes: Changes | None = None) -> list[Run]:
    """Every run of a study, models outermost, seeds innermost.

    Raises:
        TrainingError: a recipe has an unknown field or a value out of range.
        NotFoundError: ``only`` names no run; a model's ``architecture`` is unknown.
    """
    changes = changes or Changes()
    names: dict[str, tuple[str, str, int]] = {}
    for model in study.models:
        for variant, change in study.variants.items():
            if not any(fnmatchcase(model, pattern) for pattern in change.get("only", ["*"])):
                continue
            for seed in study.seeds:
                ending = f"s{seed}" if seed != study.seeds[0] else ""
                names["-".join(part for part in (model, variant, ending) if part)] = (model, variant, seed)
    for pattern in changes.only:
        if not any(fnmatchcase(n, pattern) for n in names):
            raise NotFoundError("run", pattern, names, f"gradlens study {study.study} --dry-run lists them")
    # recipes of the chosen ones alone: a quick try of a few epochs is none for a strategy of five phases
    chosen = [n for n in names if not changes.only or any(fnmatchcase(n, p) for p in changes.only)]
    return [Run(n, *names[n], _recipe(study, *names[n], n, changes)) for n in chosen]


def _recipe(study: Study, model: str, variant: str, seed: int, name: str, changes: Changes) -> Recipe:
    own, change = dict(study.models[model]), dict(study.variants[variant])
    change.pop("only", None)
    of_models = change.pop("of", {})
    table: dict[str, Any] = {"data": study.data.model_dump(exclude_none=True)}
    table = recipes.merged(table, study.recipe)
    if (architecture := own.pop("architecture", None)) is not None:
        if architecture not in ARCHITECTURES:
            raise NotFoundError("architecture", str(architecture), ARCHITECTURES)
        table = recipes.merged(table, recipes.architecture("", architecture))
    for layer in (own, change, *(t for pattern, t in of_models.items() if fnmatchcase(model, pattern))):
        table = recipes.merged(table, layer)
    if changes.epochs is not None:
        table["epochs"] = changes.epochs
    head = {"recipe": f"study {study.study}", "collection": study.study, "model": name, "seed": seed}
    return recipes.complete(table | {"title": f"{study.title} ({study.scale})"} | head)


def _explained(err: ValidationError) -> str:
    """The first thing wrong, in words."""
    first = err.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = suggest(str(first["loc"][-1]), [*Study.model_fields, *Data.model_fields])
        return f"no field named {field!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    if first["type"] == "missing":
        return f"the field {field!r} is missing"
    got = "" if first["type"] == "value_error" else f", got {first['input']!r}"
    return f"{field + ': ' if field else ''}{first['msg'].removeprefix('Value error, ')}{got}"
