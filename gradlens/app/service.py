"""What the page asks for, without the page: pictures in, looks and sentences out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gradlens.app.agreement import agreement
from gradlens.app.cards import Outcome
from gradlens.app.changes import base, changed
from gradlens.app.familiar import Familiarity, References
from gradlens.app.looking import Eyes, Look, Photo, read_photo
from gradlens.app.pool import Pool
from gradlens.app.run_table import RunTable, read_run
from gradlens.app.settings import Settings
from gradlens.data.sources import images_from_paths
from gradlens.errors import GradlensError, InputError
from gradlens.runtime import Runtime
from gradlens.workflows.see.pictures import own_examples
from gradlens.zoo import checkpoints

AT_FIRST = 4  # models that are chosen when the page opens; more can be ticked
SCENES = 4  # of the models' own test set, each in distribution and shifted
OWN = ""  # the target that stands for each model's own prediction


@dataclass(frozen=True)
class Example:
    """A picture to begin with: its name, and uint8 (H, W, 3)."""

    name: str
    pixels: np.ndarray


class Service:
    """Everything behind the page.

    Args:
        settings: what was asked for.
        runtime: device, precision, network.

    Raises:
        GradlensError: a run or a model's card cannot be read.
    """

    def __init__(self, settings: Settings, runtime: Runtime) -> None:
        self.settings, self.runtime = settings, runtime
        runtime.torch_device()  # a device that is not there is said now, not to the first visitor
        self.pool = Pool(
            settings.models, runtime, settings.memory,
            at_once=settings.concurrency,
            zoo=settings.zoo, weights=settings.weights, classes=settings.classes,
        )  # fmt: skip
        self.eyes = Eyes(self.pool)
        self.references = References(self.pool, settings.in_dist, settings.references)
        self.run: RunTable | None = read_run(settings.run) if settings.run is not None else None

    @cached_property
    def folders(self) -> dict[str, Path]:
        """Checkpoint folders of those models that have one."""
        known = checkpoints.names(self.settings.zoo)
        found = {}
        for name in self.settings.models:
            folder = known.get(name) or Path(name)
            if (folder / checkpoints.CONFIG).is_file():
                found[name] = folder
        return found

    @cached_property
    def classes(self) -> list[str]:
        """Class names that can be asked for, of all models whose card tells them without loading."""
        cards = [checkpoints.read_card(folder) for folder in self.folders.values()]
        return list(dict.fromkeys(name for card in cards for name in card.classes))

    @property
    def at_first(self) -> list[str]:
        """Models that are chosen when the page opens: spread over the list, in which relatives stand together."""
        names = self.pool.names
        few = min(AT_FIRST, len(names))
        return [names[i * (len(names) - 1) // max(few - 1, 1)] for i in range(few)]

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """While the block lasts, load the models that are chosen at first and learn what their test images look like.

        In a thread of its own, which gives way to people's pictures; what fails is said to the first who asks. Python
        waits for it even where Ctrl-C comes while it starts: ending with a thread inside torch aborts the process.
        """
        thread = threading.Thread(target=self._prepare, name="preparing")
        try:
            thread.start()
            yield
        finally:
            self.pool.close()
            if thread.is_alive():
                thread.join()

    def _prepare(self) -> None:
        for step in (self.pool.prepare, self.references.of):
            for name in self.at_first:
                with suppress(GradlensError):
                    self.pool.give_way()
                    step(name)

    def examples(self) -> list[Example]:
        """Pictures to begin with: those that were named, else some of the models' own test set where it is at hand.

        Raises:
            InputError: a named file is no image.
        """
        if self.settings.images:
            named = images_from_paths(self.settings.images)
            return [Example(Path(named.samples[i].id).stem, named.read(i)) for i in range(len(named))]
        tests = [checkpoints.read_card(folder).test for folder in self.folders.values()]
        try:
            sets = own_examples(tests or [""], self.runtime, SCENES)
        except InputError:  # models of several collections, or a test set that is elsewhere: no examples then
            return []
        found = []
        for i in range(len(sets[0])):
            for one in sets:
                label = one.samples[i].label
                shift = "as tested" if one.shift in ("none", None) else str(one.shift)
                found.append(Example(f"{(one.classes or ())[label or 0]} ({shift})", one.read(i)))
        return found

    # ------------------------------------------------------------------------------------------ one picture

    def photo(self, path: str | Path) -> Photo:
        """An uploaded file.

        Raises:
            InputError: it is no image, damaged, or too large.
        """
        return read_photo(path)

    def outcomes(
        self, photo: Photo, models: Sequence[str], method: str, target: str = OWN
    ) -> Iterator[dict[str, Outcome]]:
        """What each model makes of a picture; told after each of them, the first time when only kept looks are there.

        A model that cannot answer says why, and the others go on.
        """
        found: dict[str, Outcome] = dict.fromkeys(models)
        for name in models:
            found[name] = self.outcome(photo, name, method, target)
            yield dict(found)

    def outcome(self, photo: Photo, model: str, method: str, target: str = OWN) -> Look | str:
        """What one model makes of a picture, or why it cannot."""
        try:
            return self.eyes.look(photo, model, method, target)
        except GradlensError as err:
            return str(err)

    def familiarity(
        self, photo: Photo, models: Sequence[str], method: str, progress: Callable[[float, str], None] | None = None
    ) -> tuple[list[Familiarity], dict[str, str]]:
        """Where the picture stands among the in-distribution images of each model; and who cannot tell, and why."""
        found: list[Familiarity] = []
        without: dict[str, str] = {}
        for i, name in enumerate(models):

            def told(share: float, what: str, i: int = i) -> None:
                if progress is not None:
                    progress((i + share) / len(models), what)

            look = self.outcome(photo, name, method)
            if isinstance(look, str):
                without[name] = look
                continue
            reference = self.references.of(name, told)
            if isinstance(reference, str):
                without[name] = reference
            else:
                found.append(reference.familiarity(look))
        return found, without

    def before_after(
        self, photo: Photo, models: Sequence[str], method: str, target: str, change: str, severity: int
    ) -> Iterator[dict[str, tuple[Outcome, Outcome]]]:
        """Each model on the picture as it was and after something happened to it; told after each model.

        Both are explained for the same class: the one asked for, else what the model says of the picture as it was.
        """
        before = base(photo)
        after = changed(before, change, severity)
        found: dict[str, tuple[Outcome, Outcome]] = dict.fromkeys(models, (None, None))
        for name in models:
            first = self.outcome(before, name, method, target)
            same = target or (first.prediction if isinstance(first, Look) else OWN)
            found[name] = first, self.outcome(after, name, method, same)
            yield dict(found)

    def answer(self, path: str | Path, models: Sequence[str], method: str) -> dict[str, Any]:
        """What programs get: predictions and agreement as plain values.

        Raises:
            InputError: the file is no image, or no model was named.
        """
        photo = self.photo(path)
        known = self._known(models)
        outcomes: dict[str, Outcome] = {name: self.outcome(photo, name, method) for name in known}
        looks = [one for one in outcomes.values() if isinstance(one, Look)]
        together = agreement(looks)
        return {
            "schema": 1,
            "models": [_told(name, one) for name, one in outcomes.items()],
            "votes": dict(together.votes),
            "pairs": together.pairs,
            "pairs_that_agree": together.same,
            "overlap": together.overlap,
        }

    def _known(self, models: Sequence[str]) -> list[str]:
        if strange := [name for name in models if name not in self.pool.names]:
            raise InputError(f"expected models of this app ({', '.join(self.pool.names)}), got {', '.join(strange)}")
        if not models:
            raise InputError("choose at least one model")
        return list(models)


def _told(name: str, one: Outcome) -> dict[str, Any]:
    if not isinstance(one, Look):
        return {"name": name, "error": one}
    return {
        "name": name,
        "top": [{"class": c, "probability": p} for c, p in one.top(5)],
        "depths": [point.name for point in one.stack.depths],
        "status": list(one.stack.statuses),
        "forward_ms": one.forward_ms,
    }
