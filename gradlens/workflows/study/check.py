"""What can be known of a study before its first epoch: recipes, networks and their size, and what is not here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gradlens.data.sources import open_source
from gradlens.errors import GradlensError
from gradlens.runtime import Runtime
from gradlens.workflows.study.schema import Run, Study
from gradlens.workflows.train_start import sized
from gradlens.zoo import heads, pretrained
from gradlens.zoo.build import build
from gradlens.zoo.profile import profile


@dataclass(frozen=True)
class Network:
    """One network of a study.

    Attributes:
        builder: what makes it.
        input_size: side of its input in pixels.
        parameters, flops: with the head that its runs give it, two FLOPs per multiply-accumulate.
        pretrained: where its weights come from; empty: drawn.
        runs: how many runs train it.
    """

    model: str
    builder: str
    input_size: int
    parameters: int
    flops: int
    pretrained: str
    runs: int


@dataclass(frozen=True)
class Images:
    """One of a study's image sets.

    Attributes:
        n: images; ``None`` where it is not here.
        missing: why it is not.
    """

    role: str
    source: str
    n: int | None
    classes: tuple[str, ...] = ()
    missing: str = ""


def images(study: Study, runtime: Runtime) -> list[Images]:
    """The study's image sets, each opened; one that cannot be had says why."""
    wanted = [("train", study.data.train), ("select", study.data.select), ("test", study.data.test)]
    wanted += [("probe", p) for p in study.data.probes]
    found = []
    for role, source in wanted:
        if source is None:
            continue
        try:
            opened = open_source(source, offline=runtime.offline, runtime=runtime)
        except (GradlensError, OSError) as err:
            found.append(Images(role, source, None, missing=str(err)))
        else:
            found.append(Images(role, source, len(opened), opened.classes or ()))
    return found


def networks(runs: Sequence[Run], classes: int, runtime: Runtime) -> list[Network]:
    """Build every network that the runs train, on torch's meta device: shapes without numbers, so that it is quick.

    Raises:
        NotFoundError, ModelError: one cannot be built, or does not take images of its size.
    """
    found: dict[str, Network] = {}
    for run in runs:
        recipe = sized(run.recipe, runtime)
        key = recipe.model_dump_json(include={"builder", "arguments", "input_size", "head", "pretrained"})
        if key in found:
            found[key] = _another(found[key])
            continue
        with torch.device("meta"):
            module = build(recipe.builder, recipe.arguments, classes)
            heads.attach(module, recipe.head, classes)
        size = (3, recipe.input_size, recipe.input_size)
        cost = profile(module, size)
        found[key] = Network(
            run.model, recipe.builder, recipe.input_size, cost.parameters, cost.flops, recipe.pretrained, 1
        )
    return list(found.values())


def _another(network: Network) -> Network:
    return Network(**{**vars(network), "runs": network.runs + 1})


def weights(runs: Sequence[Run], runtime: Runtime) -> list[str]:
    """Fetch the weights that runs start from, one file after the other; returns why some cannot be had."""
    missing = []
    for wanted in dict.fromkeys((r.recipe.pretrained, r.recipe.builder) for r in runs if r.recipe.pretrained):
        model = next(r.model for r in runs if (r.recipe.pretrained, r.recipe.builder) == wanted)
        try:
            pretrained.find(*wanted, offline=runtime.offline)
        except (GradlensError, OSError) as err:
            missing.append(f"weights for {model}: {err}")
    return missing
