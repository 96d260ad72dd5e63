"""Pictures of failures: the images decoded again, with the maps of the class that was said and of the true one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from gradlens.cam.engine import explain
from gradlens.cam.methods import METHODS
from gradlens.data.preprocess import to_tensor, view
from gradlens.data.sources import ImageSet
from gradlens.depths.find import Depths
from gradlens.errors import InputError, ModelError
from gradlens.figures.cam_grid import tile
from gradlens.figures.failure_gallery import FailureRow, Shown
from gradlens.records import LoadedModel, MapStatus
from gradlens.shift.failures import Failure
from gradlens.shift.store import safe_stem
from gradlens.workflows.measure.analyses.analysis import Subject
from gradlens.workflows.measure.maps import Measured
from gradlens.workflows.see import depths_of

PICTURES = 6  # rows of a page
PANEL = 4  # models whose maps are shown of an image that all get wrong
_TITLES = {
    "flip": "right in distribution, wrong after the shift",
    "confident error": "the most confident errors",
    "wrong in every model": "images that every model gets wrong",
}


@dataclass(frozen=True)
class Page:
    """One page of failures of one kind.

    Attributes:
        stem: of its file.
    """

    stem: str
    title: str
    columns: tuple[str, ...]
    rows: list[FailureRow]


def pages(subject: Subject, found: Sequence[Failure]) -> tuple[list[Page], list[str]]:
    """One page of each kind and model, and one of the images that every model gets wrong; and what was left out.

    Args:
        found: failures of all sets, ranked within each set; a page takes the first of every set before the second.
    """
    METHODS[subject.request.cam_method]
    artist = _Artist(subject)
    drawn = []
    jobs: list[tuple[str, str]] = [(k, m) for m in subject.models for k in ("flip", "confident error")]
    for kind, model in subject.runtime.progress([*jobs, ("wrong in every model", "")], "picturing", unit="page"):
        own = _first([f for f in found if (f.kind, f.model) == (kind, model)])
        try:
            rows = [row for f in own if (row := artist.row(f)) is not None]
        except ModelError as err:
            artist.notes.append(f"gallery: no maps of {model or 'some model'}: {str(err).partition(chr(10))[0]}")
            continue
        if rows:
            stem = f"gallery-{kind.replace(' ', '-')}" + (f"-{safe_stem(model)}" if model else "")
            title = f"{model}: {_TITLES[kind]}" if model else _TITLES[kind].capitalize()
            drawn.append(Page(stem, title, artist.columns(kind), rows))
    return drawn, list(dict.fromkeys(artist.notes))


def _first(found: Sequence[Failure]) -> list[Failure]:
    """At most a page of them: the first of every set, then the second, each time the most confident first."""
    rank: dict[str, int] = {}
    keyed = []
    for f in found:
        rank[f.dataset] = rank.get(f.dataset, -1) + 1
        keyed.append((rank[f.dataset], -np.nan_to_num(f.confidence), f.dataset, f.id, f))
    return [f for *_, f in sorted(keyed, key=lambda k: k[:4])[:PICTURES]]


@dataclass
class _Artist:
    """Makes the rows; keeps the depths of each model."""

    subject: Subject
    notes: list[str] = field(default_factory=list)
    known: dict[str, Depths] = field(default_factory=dict)

    def columns(self, kind: str) -> tuple[str, ...]:
        if kind == "flip":
            return (
                "in distribution",
                "map of\nthe answer",
                "after the shift",
                "map of\nthe answer",
                "map of\nthe true class",
            )
        if kind == "confident error":
            return "image", "map of\nthe answer", "map of\nthe true class"
        return ("image", *(f"map of the answer of\n{m.rpartition('/')[2]}" for m in self._best()))

    def row(self, f: Failure) -> FailureRow | None:
        """The pictures of one failure; ``None`` where its image cannot be read again."""
        notes = [f.dataset, f.id.rpartition("/")[2], f"wrong in {f.models_wrong} of {f.models} models"]
        try:
            pixels = self._read(f.dataset, f.id)
            if f.kind == "wrong in every model":
                maps = [self._shown(m, pixels, [None], f.label)[-1] for m in self._best()]
                network = self._network(self._best()[0])
                alone = Shown(tile(view(network.preprocess, pixels)), caption=f.label)
                return FailureRow(f.label, notes, [alone, *maps])
            shown = self._shown(f.model, pixels, [None, f.label], f.label)
            if f.kind == "flip":
                before = self._shown(f.model, self._read(self.subject.in_dist, f.pair), [None], f.label)
                return FailureRow(f.label, notes, [*before, *shown])
        except InputError as err:
            self.notes.append(f"gallery: {err}")
            return None
        return FailureRow(f.label, notes, shown)

    def _best(self) -> list[str]:
        scores = self.subject.found.scores
        ranked = sorted(self.subject.models, key=lambda m: (-scores[m, self.subject.in_dist]["accuracy"].value, m))
        return ranked[:PANEL]

    def _network(self, model: str) -> LoadedModel:
        return self.subject.evidence.networks[model]

    def _read(self, dataset: str, name: str) -> np.ndarray:
        images: ImageSet = self.subject.evidence.images[dataset]
        place = next(i for i, s in enumerate(images.samples) if s.id == name)
        return images.read(place)

    def _shown(self, model: str, pixels: np.ndarray, classes: Sequence[str | None], label: str) -> list[Shown]:
        """The picture with the model's answer, then a map per class; ``None`` is the answer's."""
        network, runtime = self._network(model), self.subject.runtime
        if model not in self.known:
            self.known[model] = depths_of(network, runtime)
        depths = self.known[model]
        place = {name: k for k, name in enumerate(network.classes)}
        wanted = [place.get(c, -1) if c is not None else None for c in classes]
        x = to_tensor(network.preprocess, pixels)[None].to(runtime.torch_device())

        def targets(logits: torch.Tensor) -> torch.Tensor:
            said = int(logits[0].argmax())
            return torch.tensor([[said if k is None or k < 0 else k for k in wanted]], device=logits.device)

        with runtime.autocast():
            e = explain(
                network.module, x, layers="stages", targets=targets, method=self.subject.request.cam_method,
                depths=depths,
            )  # fmt: skip
        d = Measured(e.depths).reading
        probabilities = e.logits[0].softmax(0)
        seen = tile(view(network.preprocess, pixels))
        statuses = e.statuses()[0]
        maps = []
        for t, k in enumerate(wanted):
            target = int(e.targets[0, t])
            status: MapStatus = "undefined" if k is not None and k < 0 else statuses[t][d]
            name = network.classes[target] if k is None or k >= 0 else label
            caption = (
                f"{name} {100 * float(probabilities[target]):.0f} %" if k is None or k >= 0 else f"{name}: not known"
            )
            maps.append(
                Shown(
                    seen, e.maps[d][0, t].float().cpu().numpy(), status, caption, name == label if k is None else None
                )
            )
        answer = network.classes[int(probabilities.argmax())]
        return [Shown(seen, caption=f"says {answer}", correct=answer == label), *maps]
