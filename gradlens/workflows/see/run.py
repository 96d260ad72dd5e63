"""What ``gradlens cam`` was asked for, and what its run holds: for figures, files, the printed summary, ``--json``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from gradlens.cam.derived import Channels, Outline, Rank
from gradlens.cam.fast import Deviation
from gradlens.figures.cam_grid import Scale
from gradlens.records import CamStack, HookPoint, LoadedModel, Skipped
from gradlens.workflows.see.pictures import Picture
from gradlens.workflows.see.targets import Ask


@dataclass(frozen=True)
class CamRequest:
    """What ``gradlens cam`` was asked for; see its options."""

    models: Sequence[str]
    layers: Sequence[str] = ()
    images: Sequence[Path] = ()
    data: str | None = None
    n: int = 8
    targets: Sequence[str] = ("predicted",)
    methods: Sequence[str] = ("gradcam",)
    scale: Scale = "map"
    signed: bool = False
    outline: Literal["box", "contour"] | None = None
    threshold: float = 0.5
    features: int = 0
    fast: bool = False
    rank: Rank = "contribution"
    formats: Sequence[str] = ("png",)
    dpi: int = 300
    save_maps: bool = False
    zoo: Path | None = None
    weights: str | None = None
    classes: int | None = None


@dataclass(frozen=True)
class SeenImage:
    """One image in one model.

    Attributes:
        prediction: class and its probability.
        stacks: one per target and method, the methods of one target together.
        outlines: per stack and depth, where they were asked for.
        channels: per depth, where they were asked for.
    """

    picture: Picture
    prediction: tuple[str, float]
    stacks: tuple[CamStack, ...]
    outlines: tuple[tuple[Outline | None, ...], ...] = ()
    channels: tuple[Channels, ...] = ()


@dataclass(frozen=True)
class Seen:
    """One model's part of a run.

    Attributes:
        points: the depths that were asked for.
        asks: what was explained.
        images: in order; grows while the run goes on.
        refused: methods that this network does not allow, and why; their maps are undefined.
        deviation: how far the maps of the first batch are from the plain pass; empty if that is what ran.
    """

    model: LoadedModel
    points: tuple[HookPoint, ...]
    asks: tuple[Ask, ...]
    images: list[SeenImage] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    deviation: list[Deviation] = field(default_factory=list)

    @property
    def stacks(self) -> list[CamStack]:
        """All stacks, images outermost, then targets, then methods."""
        return [stack for image in self.images for stack in image.stacks]

    def depths(self) -> list[HookPoint]:
        """The depths there are maps of; the input first, where a method explains pixels."""
        every = {p.name: p for stack in self.images[0].stacks for p in stack.depths}
        return sorted(every.values(), key=lambda p: p.position)


@dataclass
class CamRun:
    """What a run left."""

    folder: Path
    request: CamRequest
    seen: list[Seen] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    figures: list[Path] = field(default_factory=list)
    maps: list[Path] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """The JSON document of INTERFACE: models with their layers, images, figures, maps."""
        document = {
            "models": [
                {
                    "name": s.model.name,
                    "layers": [_layer(s, p) for p in s.depths()],
                    "refused": s.refused,
                    "deviation": [asdict(d) for d in s.deviation],
                }
                for s in self.seen
            ],
            "images": [entry for s in self.seen for image in s.images for entry in _entries(s, image)],
            "figures": [str(p) for p in self.figures],
            "maps": [str(p) for p in self.maps],
            "skipped": [{"path": s.path, "reason": s.reason} for s in self.skipped],
        }
        if self.request.features:
            document["features"] = [entry for s in self.seen for image in s.images for entry in _features(s, image)]
        return document


def layer_fields(point: HookPoint) -> dict[str, Any]:
    """What JSON says of a depth, the same for ``cam`` and ``layers``."""
    return {
        "name": point.name,
        "path": point.path,
        "stride": list(point.stride),
        "shape": list(point.shape),
        "layout": point.layout,
    }


def _layer(seen: Seen, point: HookPoint) -> dict[str, Any]:
    statuses = [
        status
        for stack in seen.stacks
        for p, status in zip(stack.depths, stack.statuses, strict=True)
        if p.name == point.name
    ]
    return {**layer_fields(point), "status": statuses}


def _entries(seen: Seen, image: SeenImage) -> Iterator[dict[str, Any]]:
    """One entry per stack."""
    for k, stack in enumerate(image.stacks):
        entry: dict[str, Any] = {
            "path": image.picture.path,
            "model": seen.model.name,
            "label": image.picture.label,
            "prediction": image.prediction[0],
            "probability": _finite(image.prediction[1]),
            "target": stack.target[1],
            "target_probability": _finite(stack.probability),
            "target_logit": _finite(stack.logit),
            "against": stack.against[1] if stack.against else None,
            "method": stack.method,
            "status": {p.name: status for p, status in zip(stack.depths, stack.statuses, strict=True)},
        }
        if image.outlines:
            crop = image.picture.crop(seen.model.preprocess)
            entry["outlines"] = [
                {
                    "layer": p.name,
                    "box": list(o.box_in(crop)) if o else None,
                    "area": o.area if o else None,
                    "regions": o.regions if o else 0,
                }
                for p, o in zip(stack.depths, image.outlines[k], strict=True)
            ]
        yield entry


def _features(seen: Seen, image: SeenImage) -> Iterator[dict[str, Any]]:
    """One entry per depth."""
    for channels in image.channels:
        yield {
            "path": image.picture.path,
            "model": seen.model.name,
            "layer": channels.depth.name,
            "target": image.stacks[0].target[1],
            "rank": channels.rank,
            "channels": list(channels.indices),
            "shares": list(map(_finite, channels.shares)),
            "signs": list(channels.signs),
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
