"""Activations and gradients at any number of depths from one forward and one backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from gradlens.depths.layout import Reading
from gradlens.depths.modules import hooked, undisturbed, unwrap
from gradlens.errors import DepthError, ModelError
from gradlens.records import HookPoint
from gradlens.zoo.outputs import logits_of

T = TypeVar("T")
Targets = torch.Tensor | Callable[[torch.Tensor], torch.Tensor] | None


@dataclass(frozen=True)
class Captured:
    """One pass over N images for one target each.

    Attributes:
        logits: (N, K), detached.
        targets: (N,) class indices whose logits were differentiated.
        activations: per depth (N, C, rows, columns), detached.
        gradients: per depth (N, C, rows, columns): of each image's target logit.
    """

    logits: torch.Tensor
    targets: torch.Tensor
    activations: tuple[torch.Tensor, ...]
    gradients: tuple[torch.Tensor, ...]


def capture(
    model: nn.Module,
    images: torch.Tensor,
    points: Sequence[HookPoint],
    targets: Targets,
    make: Callable[[Captured], T],
) -> list[T]:
    """Run the model once, differentiate once per target, and hand each :class:`Captured` to ``make``.

    All depths come from one forward pass and, per target, one ``torch.autograd.grad`` call. Outputs are kept under
    their module's path and call number. Where something later works in place on an output, a clone travels onward.
    The graph starts at the shallowest depth, and parameters are frozen, so nothing more than needed is stored. The
    model's modes, flags, hooks and ``.grad`` are as before, also after an exception; works under ``no_grad`` and
    ``inference_mode``.

    Args:
        model: a classifier.
        images: (N, 3, H, W), preprocessed, on the model's device.
        points: depths found in this model (:func:`gradlens.depths.find.find_depths`).
        targets: (N,) or (N, T) class indices, or a function that makes them from the (N, K) logits; ``None`` means
            the predicted class.
        make: what to keep of each pass; gradients are large, maps are small.

    Returns:
        What ``make`` returned, one per column of targets.

    Raises:
        DepthError: a depth's module did not run, or its output has another shape than when it was found.
        ModelError: no logits came out.
        ValueError: a target is no class index, or there is not one per image.
    """
    model = unwrap(model)
    if not points:
        raise DepthError("expected at least one depth, got none")
    modules = dict(model.named_modules())
    wanted = {(p.path, p.call): p for p in points}
    outputs: dict[tuple[str, int], torch.Tensor] = {}

    def see(path: str, call: int, tensor: torch.Tensor) -> torch.Tensor | None:
        point = wanted.get((path, call))
        if point is None:
            return None
        if not tensor.requires_grad:  # nothing shallower is asked for: the graph starts here
            tensor = tensor.detach().requires_grad_(True)
            outputs[path, call] = tensor
            return tensor.clone() if point.overwritten else tensor
        outputs[path, call] = tensor
        return tensor.clone() if point.overwritten else None

    with undisturbed(model), hooked({p.path: modules[p.path] for p in points}, see):
        # an inference tensor cannot be saved for backward; outside inference mode a copy is an ordinary one
        pixels = images.clone() if images.is_inference() else images.detach()
        logits = logits_of(model(pixels))
        missing = [p.name for p in points if (p.path, p.call) not in outputs]
        if missing:
            raise DepthError(f"module {missing[0]!r} did not run in this forward pass")
        columns = _columns(targets(logits.detach()) if callable(targets) else targets, logits)
        tensors = [outputs[p.path, p.call] for p in points]
        grids = [_reading(p).grid(_checked(t, p)) for p, t in zip(points, tensors, strict=True)]
        activations = tuple(g.detach() for g in grids)
        if not logits.requires_grad:
            raise ModelError("the logits do not depend on the depths through anything differentiable")
        made = []
        for i, column in enumerate(columns):
            score = logits.gather(1, column[:, None]).sum()
            # images do not see one another in evaluation mode, so the gradient of the sum is each image's own
            gradients = torch.autograd.grad(score, tensors, retain_graph=i + 1 < len(columns), allow_unused=True)
            filled = [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, gradients, strict=True)]
            shaped = tuple(_reading(p).grid(g) for p, g in zip(points, filled, strict=True))
            with torch.no_grad():
                made.append(make(Captured(logits.detach(), column, activations, shaped)))
    return made


def _reading(point: HookPoint) -> Reading:
    return Reading(point.layout, point.prefix, point.shape[1], point.shape[2])


def _checked(tensor: torch.Tensor, point: HookPoint) -> torch.Tensor:
    channels, rows, columns = point.shape
    expected = {
        "NCHW": (channels, rows, columns),
        "NHWC": (rows, columns, channels),
        "NLC": (tensor.shape[1], channels),
    }[point.layout]
    enough = point.layout != "NLC" or tensor.shape[1] >= point.prefix + rows * columns
    if tuple(tensor.shape[1:]) != expected or not enough:
        raise DepthError(
            f"expected {point.name!r} to give {expected} per image as when it was found, "
            f"got {tuple(tensor.shape[1:])}; find the depths again for this input size"
        )
    return tensor


def _columns(targets: torch.Tensor | None, logits: torch.Tensor) -> list[torch.Tensor]:
    """Targets as one (N,) tensor per pass."""
    if targets is None:
        return [logits.detach().argmax(1)]
    targets = targets.to(logits.device)
    if targets.ndim == 1:
        targets = targets[:, None]
    if targets.shape[0] != logits.shape[0]:
        raise ValueError(f"expected one target per image ({logits.shape[0]}), got {targets.shape[0]}")
    bad = (targets < 0) | (targets >= logits.shape[1])
    if bad.any():
        raise ValueError(f"expected targets in 0..{logits.shape[1] - 1}, got {int(targets[bad][0])}")
    return list(targets.unbind(1))
