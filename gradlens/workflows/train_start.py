"""A network as a training starts with it: built for its images, with its head and its first weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from gradlens.records import Preprocess
from gradlens.runtime import Runtime, seed_everything
from gradlens.train import freezing
from gradlens.train.settings import Phase, Recipe
from gradlens.zoo import heads, pretrained
from gradlens.zoo.build import build
from gradlens.zoo.cards import Learnt, Start
from gradlens.zoo.checkpoints import check_acts
from gradlens.zoo.downloads import network
from gradlens.zoo.foreign import server_of
from gradlens.zoo.importing import size_argument


@dataclass(frozen=True)
class Begun:
    """A network before its first step.

    Attributes:
        module: in training mode, on the CPU.
        loaded: what its weights are; ``None`` where they were drawn.
        plan: what learns in each phase.
        epochs: of each phase.
    """

    module: nn.Module
    loaded: pretrained.Loaded | None
    plan: tuple[freezing.Chosen, ...]
    epochs: tuple[int, ...]

    @property
    def start(self) -> Start | None:
        """What the card says about the first weights."""
        told = self.loaded
        if told is None:
            return None
        return Start(
            source=told.source,
            weights=told.weights,
            taken=told.taken,
            new_head=bool(told.head),
            missing=told.missing,
            unexpected=told.unexpected,
            misshaped=told.misshaped,
        )

    @property
    def phases(self) -> tuple[Learnt, ...]:
        """What the card says about the phases."""
        return tuple(
            Learnt(epochs=epochs, parts=chosen.parts, parameters=chosen.parameters[1])
            for epochs, chosen in zip(self.epochs, self.plan, strict=True)
        )

    @property
    def fingerprint(self) -> str:
        """Of the first weights, where they were not drawn; a run that is continued must have had the same."""
        return "" if self.loaded is None else f"/{self.loaded.source}/{self.loaded.weights}"

    def normalised(self, recipe: Recipe, computed: Recipe) -> Recipe:
        """``recipe`` with the mean and standard deviation that its images are to be scaled by.

        Those that it gives go first, then those of the images that the first weights were trained on; else they are
        ``computed`` on the training images.
        """
        if recipe.mean is not None or self.loaded is None or self.loaded.preprocess is None:
            return computed
        theirs = self.loaded.preprocess
        return recipe.model_copy(update={"mean": theirs.mean, "std": theirs.std})


def preprocess_of(recipe: Recipe) -> Preprocess:
    """How images become the input of the network that the recipe trains."""
    side = recipe.input_size
    return Preprocess(
        (3, side, side), recipe.interpolation, 1.0, recipe.crop_mode, recipe.mean or (0, 0, 0), recipe.std or (1, 1, 1)
    )


def sized(recipe: Recipe, runtime: Runtime) -> Recipe:
    """The recipe with the argument that a network built for one input size (ViT, Swin) needs, where it has none."""
    with network(runtime.offline, recipe.builder, server_of(recipe.builder)):
        arguments = size_argument(recipe.builder, preprocess_of(recipe))
    return recipe.model_copy(update={"arguments": {**arguments, **recipe.arguments}}) if arguments else recipe


def begin(recipe: Recipe, classes: Sequence[str], found: pretrained.Found | None, runtime: Runtime) -> Begun:
    """Build the network of a recipe, give it its head and its first weights, and find what learns in each phase.

    Args:
        recipe: as :func:`sized` leaves it.
        classes: names, one per output.
        found: the weights to start from; ``None`` draws them from the recipe's seed.
        runtime: what is printed, and whether a network may be asked.

    Raises:
        ModelError: the network cannot be built, or does not take images of the recipe's size.
        CheckpointError: the weights do not fit it.
        TrainingError, NotFoundError: a phase names what the network does not have.
    """
    seed_everything(recipe.seed)
    with network(runtime.offline, recipe.builder, server_of(recipe.builder)):
        module = build(recipe.builder, recipe.arguments, len(classes))
    heads.calm(module, len(classes))
    heads.attach(module, recipe.head, len(classes))
    check_acts(module.eval(), preprocess_of(recipe), recipe.model)
    module.train()
    loaded = None
    if found is not None:
        loaded = pretrained.fit(module, found, recipe.builder, recipe.arguments, classes)
        runtime.say(f"{recipe.model}: {loaded.report()}")
        theirs = found.preprocess
        if theirs is not None and theirs.size != (recipe.input_size, recipe.input_size):
            runtime.say(
                f"{recipe.model}: {found.source} saw images of {theirs.size[0]} pixels, and is trained on with "
                f"{recipe.input_size}"
            )
    phases = recipe.phases or (Phase(epochs=recipe.epochs),)
    plan = freezing.plan(module, recipe.input_size, [p.train for p in phases])
    return Begun(module, loaded, plan, tuple(p.epochs for p in phases))
