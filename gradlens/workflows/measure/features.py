"""Features of whole image sets, per depth of each model: one forward pass, each image decoded once for several models.

A feature vector is the mean over the grid of a depth's output (global average pooling), so that depths of any
resolution and layout can be compared. What is held is one set's vectors of a few models; see :func:`in_groups`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gradlens.data.preprocess import to_tensor
from gradlens.data.sources import ImageSet, decoded
from gradlens.depths.layout import Reading
from gradlens.depths.modules import hooked, undisturbed, unwrap
from gradlens.errors import DepthError, ModelError
from gradlens.records import HookPoint, LoadedModel, Preprocess, Skipped
from gradlens.runtime import Runtime
from gradlens.shift.predict import pass_size
from gradlens.workflows.see import depths_of
from gradlens.zoo.outputs import logits_of

ROOM = 2**28  # float32 values of all sets of a group of models: 1 GiB


@dataclass(frozen=True, eq=False)
class Features:
    """One model's features of one set, in the order of the images' ids.

    Attributes:
        ids: n ids.
        by_depth: depth name -> (n, C) float32, shallow to deep.
    """

    ids: tuple[str, ...]
    by_depth: Mapping[str, np.ndarray]


def depths(models: Sequence[LoadedModel], runtime: Runtime) -> tuple[dict[str, tuple[HookPoint, ...]], list[str]]:
    """The depths (``stages``) of each model by name, and a sentence for each model that has none.

    The models are left on the CPU.
    """
    found: dict[str, tuple[HookPoint, ...]] = {}
    without = []
    for model in runtime.progress(models, "finding depths", unit="model"):
        try:
            found[model.name] = depths_of(model, runtime).select(("stages",))
        except (DepthError, ModelError) as err:
            without.append(f"{model.name}: {err}")
        finally:
            model.module.to("cpu")
    return found, without


def in_groups(
    models: Sequence[LoadedModel], points: Mapping[str, Sequence[HookPoint]], images: int
) -> Iterator[list[LoadedModel]]:
    """Models in groups whose features of ``images`` images fit into a gigabyte; a model alone where it does not fit."""
    group: list[LoadedModel] = []
    held = 0
    for model in models:
        values = images * sum(p.shape[0] for p in points[model.name])
        if group and held + values > ROOM:
            yield group
            group, held = [], 0
        group.append(model)
        held += values
    if group:
        yield group


def features(
    models: Sequence[LoadedModel], points: Mapping[str, Sequence[HookPoint]], images: ImageSet, runtime: Runtime
) -> dict[str, Features]:
    """Features of every readable image of a set, by model name.

    The models are moved to the run's device for the duration, and left on the CPU in the state they had.

    Args:
        models: in eval mode or not; they are run in it.
        points: the depths of each, see :func:`depths`.
        images: the set.
        runtime: device and precision.

    Raises:
        DepthError: a depth gives another shape than when it was found.
    """
    device, size = runtime.torch_device(), pass_size(runtime)
    preprocesses = list(dict.fromkeys(m.preprocess for m in models))
    ids: list[str] = []
    waiting: dict[Preprocess, list[torch.Tensor]] = {p: [] for p in preprocesses}
    pooled: dict[str, list[list[np.ndarray]]] = {m.name: [[] for _ in points[m.name]] for m in models}

    def run() -> None:
        for preprocess, tensors in waiting.items():
            batch = torch.stack(tensors).to(device)
            for model in models:
                if model.preprocess == preprocess:
                    vectors, _ = pooled_pass(model, points[model.name], batch, runtime)
                    for kept, values in zip(pooled[model.name], vectors, strict=True):
                        kept.append(values)
            tensors.clear()

    try:
        for model in models:
            model.module.to(device)
        for i, image in decoded(images, runtime.workers, runtime):
            if isinstance(image, Skipped):
                continue  # listed when the models were run
            ids.append(images.samples[i].id)
            for preprocess, tensors in waiting.items():
                tensors.append(to_tensor(preprocess, image))
            if len(waiting[preprocesses[0]]) == size:
                run()
        if waiting[preprocesses[0]]:
            run()
    finally:
        for model in models:
            model.module.to("cpu")
    order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
    named = tuple(ids[i] for i in order)
    return {
        m.name: Features(
            named,
            {
                p.name: np.concatenate(kept)[order] if kept else np.empty((0, p.shape[0]), np.float32)
                for p, kept in zip(points[m.name], pooled[m.name], strict=True)
            },
        )
        for m in models
    }


def pooled_pass(
    model: LoadedModel, points: Sequence[HookPoint], images: torch.Tensor, runtime: Runtime
) -> tuple[list[np.ndarray], np.ndarray]:
    """One forward pass: per depth (N, C) float32, the grid's mean; and the logits, (N, K) float32.

    Args:
        model: on the device of the images; left as it was.
        points: its depths.
        images: (N, 3, H, W), preprocessed.
        runtime: the precision.

    Raises:
        DepthError: a depth did not run, or gives another shape than when it was found.
    """
    module = unwrap(model.module)
    wanted = {(p.path, p.call): p for p in points}
    seen: dict[tuple[str, int], torch.Tensor] = {}

    def see(path: str, call: int, tensor: torch.Tensor) -> None:
        point = wanted.get((path, call))
        if point is None:
            return
        grid = Reading(point.layout, point.prefix, point.shape[1], point.shape[2]).grid(tensor)
        if grid.shape[1:] != point.shape:
            raise DepthError(
                f"{model.name}: expected {point.name!r} to give {point.shape} per image as when it was found, "
                f"got {tuple(grid.shape[1:])}"
            )
        seen[path, call] = grid.float().mean((2, 3)).cpu()  # at once: what follows may work in place

    hooks = {p.path: module.get_submodule(p.path) for p in points}
    with undisturbed(module), hooked(hooks, see), torch.no_grad(), runtime.autocast():
        logits = logits_of(module(images.clone())).float().cpu().numpy()
    missing = [p.name for p in points if (p.path, p.call) not in seen]
    if missing:
        raise DepthError(f"{model.name}: module {missing[0]!r} did not run in this forward pass")
    return [seen[p.path, p.call].numpy() for p in points], logits
