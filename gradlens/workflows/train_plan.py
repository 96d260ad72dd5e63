"""What a training would be: its images, what learns when, how many steps, and how long they take here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gradlens.runtime import Runtime
from gradlens.train.epoch_time import EpochTime, epoch_time
from gradlens.train.settings import Recipe
from gradlens.workflows.train import sources
from gradlens.workflows.train_start import Begun, begin, preprocess_of, sized
from gradlens.zoo import pretrained

_STEPS = 3  # timed steps per phase


@dataclass(frozen=True)
class Planned:
    """One training that has not begun.

    Attributes:
        recipe: as it would be carried out.
        folder: where its checkpoint would go.
        classes: names.
        images, select: numbers of training and selection images.
        begun: the network and what learns in each phase.
        times: of an epoch of each phase, from a few steps on noise.
    """

    recipe: Recipe
    folder: Path
    classes: tuple[str, ...]
    images: int
    select: int
    begun: Begun
    times: tuple[EpochTime, ...]

    @property
    def steps(self) -> tuple[int, ...]:
        """Of each phase."""
        return tuple(self.images // self.recipe.batch_size * epochs for epochs in self.begun.epochs)

    @property
    def minutes(self) -> float:
        """Of all phases together, without the passes over selection images."""
        return sum(t.minutes * epochs for t, epochs in zip(self.times, self.begun.epochs, strict=True))


def plan(recipe: Recipe, folder: Path, runtime: Runtime) -> Planned:
    """Find out what training would be, without training: weights are looked for, images are counted, not decoded.

    Raises:
        As :func:`gradlens.workflows.train.train`, where that would before its first step.
    """
    recipe = sized(recipe, runtime)
    found = pretrained.find(recipe.pretrained, recipe.builder, offline=runtime.offline) if recipe.pretrained else None
    images, select = sources(recipe, runtime)
    classes = images.classes or ()
    begun = begin(recipe, classes, found, runtime)
    here = Runtime(runtime.device, recipe.precision, seed=recipe.seed, quiet=runtime.quiet)
    times = tuple(
        epoch_time(
            begun.module, preprocess_of(recipe).input_size, len(classes), here,
            images=len(images), batch_size=recipe.batch_size, steps=_STEPS, train=chosen.train,
            channels_last=recipe.channels_last,
        )
        for chosen in begun.plan
    )  # fmt: skip
    return Planned(recipe, folder, classes, len(images), len(select), begun, times)


def as_text(planned: Planned) -> str:
    """A few lines for people."""
    recipe, begun = planned.recipe, planned.begun
    rate = f"{recipe.optimiser.name} at {recipe.optimiser.lr:g}, {recipe.schedule.name}"
    lines = [
        f"{planned.folder}: {recipe.builder}, {begun.plan[0].parameters[0]:,} parameters, seed {recipe.seed}",
        f"  images   {planned.images:,} to train on and {planned.select:,} to select on, of {len(planned.classes)} "
        f"classes, at {recipe.input_size} pixels",
        f"  weights  {begun.loaded.report() if begun.loaded else 'drawn from the seed'}",
        f"  settings {rate}, batches of {recipe.batch_size}, {recipe.precision}",
    ]
    several = len(begun.plan) > 1
    for number, (chosen, epochs, steps, time) in enumerate(
        zip(begun.plan, begun.epochs, planned.steps, planned.times, strict=True), start=1
    ):
        lines.append(
            f"  {f'phase {number}' if several else 'learns':<8} {chosen.parameters[1]:,} parameters "
            f"({', '.join(chosen.parts)}), {epochs} epochs, {steps:,} steps of {time.step_ms:.0f} ms, "
            f"{time.minutes:.2g} min per epoch"
        )
    lines.append(f"  in all   {sum(planned.steps):,} steps, about {planned.minutes:.2g} min on this machine")
    return "\n".join(lines)


def as_document(planned: Planned) -> Mapping[str, Any]:
    """The same for scripts."""
    recipe, begun = planned.recipe, planned.begun
    return {
        "name": f"{planned.folder.parent.name}/{planned.folder.name}",
        "folder": str(planned.folder),
        "builder": recipe.builder,
        "parameters": begun.plan[0].parameters[0],
        "images": planned.images,
        "select_images": planned.select,
        "classes": list(planned.classes),
        "start": begun.start.model_dump(mode="json") if begun.start else None,
        "phases": [
            {**learnt.model_dump(mode="json"), "steps": steps, "minutes_per_epoch": time.minutes, **asdict(time)}
            for learnt, steps, time in zip(begun.phases, planned.steps, planned.times, strict=True)
        ],
        "steps": sum(planned.steps),
        "minutes": planned.minutes,
        "settings": recipe.model_dump(mode="json"),
    }
