"""Maps that a run keeps as pictures: of its samples at every depth, of failures at one, and the strongest channels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gradlens.cam.derived import strongest_channels
from gradlens.cam.engine import Explanation, explain
from gradlens.cam.targets import scores_of
from gradlens.data.preprocess import normalised
from gradlens.depths.capture import capture
from gradlens.depths.find import Depths
from gradlens.records import HookPoint, LoadedModel, MapStatus
from gradlens.report.tiles import in_8_bits
from gradlens.runtime import Runtime
from gradlens.workflows.measure.evidence import Request
from gradlens.workflows.measure.maps import BATCH, Measured
from gradlens.workflows.see import depths_of

CHANNELS = 6  # of each depth
STAGES = 6  # more depths than these are thinned out to five, where channels are shown


@dataclass(frozen=True)
class Drawn:
    """A map and what the index says of it.

    Attributes:
        row: its model, depth, sample and status, and what it stands for.
        pixels: uint8 (rows, columns); ``None`` where the status says why there is no picture.
    """

    row: dict[str, Any]
    pixels: np.ndarray | None


@dataclass(frozen=True)
class Looked:
    """One model's maps.

    Attributes:
        depths: those of ``maps``.
        reading: the name of the one at which failures are shown: the deepest that is fine enough to tell a place.
        maps, failures: class activation maps of the predicted class, positive parts over their maximum.
        features: activations of single channels between the least (or 0) and the largest (or 0) value.
    """

    depths: tuple[HookPoint, ...]
    reading: str
    maps: list[Drawn]
    failures: list[Drawn]
    features: list[Drawn]


def look(
    network: LoadedModel,
    inputs: Mapping[str, torch.Tensor],
    samples: Sequence[str],
    failures: Sequence[str],
    explored: Sequence[str],
    request: Request,
    runtime: Runtime,
) -> Looked:
    """Make one model's maps; it is left on the device where it was.

    Args:
        network: the model.
        inputs: what it sees of every image by the image's number: uint8 (3, h, w).
        samples: numbers of those whose maps are wanted at all depths, from one pass a batch.
        failures: of those whose map is wanted at one depth.
        explored: of those whose strongest channels are wanted.
        request: its CAM method.
        runtime: device, precision, batch size.

    Raises:
        DepthError, ModelError: the network has no maps of this method.
    """
    was = next((p.device for p in network.module.parameters()), torch.device("cpu"))
    try:
        depths = depths_of(network, runtime)
        stages = depths.select(("stages",))
        reading = stages[Measured(stages).reading]
        maps: list[Drawn] = []
        at_reading: list[Drawn] = []
        points: tuple[HookPoint, ...] = depths.select(("all",))
        for names, x in _batches(network, inputs, samples, runtime):
            e = _explained(network, x, depths, "all", request, runtime)
            points = e.depths  # of a method that explains pixels these are the pixels
            maps += _maps(network, names, e)
        rest = [name for name in failures if name not in samples]
        for names, x in _batches(network, inputs, rest, runtime):
            at_reading += _maps(network, names, _explained(network, x, depths, reading.name, request, runtime))
        shown = stages if len(stages) <= STAGES else depths.select(("5",))
        features = [
            drawn
            for names, x in _batches(network, inputs, explored, runtime)
            for drawn in _features(network, names, x, shown, runtime)
        ]
        own = reading.name if any(p.name == reading.name for p in points) else points[-1].name
        return Looked(points, own, maps, at_reading, features)
    finally:
        network.module.to(was)


def _batches(
    network: LoadedModel, inputs: Mapping[str, torch.Tensor], wanted: Sequence[str], runtime: Runtime
) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Numbers of images and what the network takes: (N, 3, H, W) on the run's device."""
    names = list(dict.fromkeys(wanted))
    size = runtime.batch_size or BATCH
    for start in range(0, len(names), size):
        batch = names[start : start + size]
        pixels = torch.stack([inputs[name] for name in batch]).to(runtime.torch_device())
        yield batch, normalised(network.preprocess, pixels)


def _explained(
    network: LoadedModel, x: torch.Tensor, depths: Depths, layers: str, request: Request, runtime: Runtime
) -> Explanation:
    with runtime.autocast():
        return explain(network.module, x, layers=layers, method=request.cam_method, depths=depths)


def _maps(network: LoadedModel, names: Sequence[str], e: Explanation) -> Iterator[Drawn]:
    """Every map of every image."""
    for stack in e.stacks(network.classes, names, network.name):
        for point, raw, status in zip(stack.depths, stack.maps, stack.statuses, strict=True):
            row = {
                "model": network.name,
                "depth": point.name,
                "sample": stack.image,
                "method": stack.method,
                "target": stack.target[1],
                "prediction": stack.target[1],  # what is explained is what the model says
                "probability": stack.probability if math.isfinite(stack.probability) else None,
                "status": status,
            }
            yield Drawn(row, in_8_bits(raw, 0.0, float(raw.max())) if status == "ok" else None)


def _features(
    network: LoadedModel, names: Sequence[str], x: torch.Tensor, points: Sequence[HookPoint], runtime: Runtime
) -> Iterator[Drawn]:
    """The strongest channels of every image and depth, by what they contribute to the predicted class's score."""
    with runtime.autocast():
        (found,) = capture(
            network.module,
            x,
            points,
            lambda logits: scores_of(None, logits),
            lambda captured: strongest_channels(captured, points, CHANNELS),
        )
    for name, by_depth in zip(names, found, strict=True):
        for channels in by_depth:
            for raw, channel, share, sign in zip(
                channels.maps, channels.indices, channels.shares, channels.signs, strict=True
            ):
                status = _status(raw, share)
                low, high = (min(0.0, float(raw.min())), max(0.0, float(raw.max()))) if status == "ok" else (0.0, 0.0)
                row = {
                    "model": network.name,
                    "depth": channels.depth.name,
                    "sample": name,
                    "channel": channel,
                    "strength": share if math.isfinite(share) else None,
                    "sign": sign,
                    "low": low,
                    "high": high,
                    "status": status,
                }
                yield Drawn(row, in_8_bits(raw, low, high) if status == "ok" else None)


def _status(raw: np.ndarray, share: float) -> MapStatus:
    if not (np.isfinite(raw).all() and math.isfinite(share)):
        return "non-finite"
    if share == 0:  # nothing to rank by
        return "zero gradient"
    return "constant" if raw.min() == raw.max() else "ok"
