"""Recipe files: TOML in, one checked :class:`~gradlens.train.settings.Recipe` per architecture out.

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

:func:`load` merges the two into one recipe, which stands on the card of what it trained.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gradlens.errors import NotFoundError, TrainingError, suggest
from gradlens.train import strategies
from gradlens.train.settings import Recipe
from gradlens.zoo.architectures import ARCHITECTURES

FOLDER = Path(__file__).parent / "recipes"
HELD_OUT = 0.1  # of each class, for selection, where a recipe's own selection set does not fit the images given


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
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as err:
        raise TrainingError(f"{path} is not TOML: {err}") from err


def models(recipe: str | Path) -> list[str]:
    """The architectures that a recipe has a ``[models.<name>]`` table for: what ``--model all`` trains."""
    return list(read(recipe).get("models", {}))


def load(recipe: str | Path, model: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe for one architecture.

    Args:
        recipe: name or path, see :func:`read`.
        model: one of :func:`models`, or a builder (``timm:resnet18``).
        changes: dotted field names and values that go before what the file says (``{"optimiser.lr": 1e-3}``). With
            ``{"data.select": None}`` the recipe's ``select_fraction`` is held out, or :data:`HELD_OUT` without one.

    Raises:
        NotFoundError: no such recipe, or it knows no such architecture.
        TrainingError: a field is unknown, missing or out of range; the message names it.
    """
    table = read(recipe)
    own = table.pop("models", {})
    if model in own:
        table = merged(merged(table, architecture(table.get("collection"), model)), own[model])
    elif ":" in model:
        table["builder"] = model
    else:
        raise NotFoundError("model", model, own, f"the recipe {table['recipe']!r} has no [models.{model}]")
    changes = dict(changes or {})
    whole = merged(table | {"model": model}, nested(changes))
    if "data.select" in changes and changes["data.select"] is None and not whole["data"].get("select_fraction"):
        whole["data"]["select_fraction"] = HELD_OUT
    return complete(whole)


def complete(table: Mapping[str, Any]) -> Recipe:
    """The recipe that a whole table says, checked.

    Raises:
        TrainingError: a field is unknown, missing or out of range; the message names it.
    """
    try:
        recipe = Recipe.model_validate(table)
        if recipe.strategy and not recipe.phases:
            made = strategies.phases(recipe.strategy, recipe.epochs, recipe.optimiser.lr)
            recipe = recipe.model_copy(update={"phases": made})
        elif recipe.strategy:
            raise TrainingError(f"recipe {recipe.recipe!r} for {recipe.model}: give either strategy or phases")
        return recipe
    except ValidationError as err:
        raise TrainingError(f"recipe {table['recipe']!r} for {table['model']}: {_explained(err)}") from err


def nested(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Tables from dotted names: ``{"optimiser.lr": 1e-3}`` -> ``{"optimiser": {"lr": 1e-3}}``."""
    table: dict[str, Any] = {}
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        change: dict[str, Any] = {last: value}
        for key in reversed(path):
            change = {key: change}
        table = merged(table, change)
    return table


def architecture(collection: object, model: str) -> dict[str, Any]:
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


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over``, table by table; arguments of one builder never reach another."""
    whole = dict(base)
    if "builder" in base and over.get("builder", base["builder"]) != base["builder"]:
        whole.pop("arguments", None)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(whole.get(key), Mapping)
        whole[key] = merged(whole[key], value) if both else value
    return whole


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
