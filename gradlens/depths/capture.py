"""Activations and gradients at any number of depths from one forward pass and one backward pass per score."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradlens.depths.layout import Reading
from gradlens.depths.modules import hooked, undisturbed, unwrap
from gradlens.errors import DepthError, ModelError
from gradlens.records import HookPoint
from gradlens.zoo.outputs import logits_of

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Score:
    """What is differentiated, per image: the logit of a class, less that of another one if two are contrasted.

    Attributes:
        target: (N,) class indices.
        against: (N,) class indices, or ``None``.
    """

    target: torch.Tensor
    against: torch.Tensor | None = None

    def of(self, logits: torch.Tensor) -> torch.Tensor:
        """(N,) values of the score for (N, K) logits."""
        value = logits.gather(1, self.target[:, None])[:, 0]
        return value if self.against is None else value - logits.gather(1, self.against[:, None])[:, 0]


@dataclass(frozen=True)
class Captured:
    """One pass over N images for one score.

    Attributes:
        logits: (N, K), detached.
        score: what was differentiated.
        activations: per depth (N, C, rows, columns), detached.
        gradients: per depth (N, C, rows, columns): of each image's score.
        curvatures: per depth (N, C, rows, columns): second derivative of the score times the activations, at that
            depth; empty unless asked for.
    """

    logits: torch.Tensor
    score: Score
    activations: tuple[torch.Tensor, ...]
    gradients: tuple[torch.Tensor, ...]
    curvatures: tuple[torch.Tensor, ...] = ()


def capture(
    model: nn.Module,
    images: torch.Tensor,
    points: Sequence[HookPoint],
    scores: Callable[[torch.Tensor], Sequence[Score]],
    make: Callable[[Captured], T],
    curvature: bool = False,
) -> list[T]:
    """Run the model once, differentiate once per score, and hand each :class:`Captured` to ``make``.

    All depths come from one forward pass and, per score, one ``torch.autograd.grad`` call. Outputs are kept under
    their module's path and call number. Where something later works in place on an output, a clone travels onward.
    The graph starts at the shallowest depth, and parameters are frozen, so nothing more than needed is stored. The
    model's modes, flags, hooks and ``.grad`` are as before, also after an exception; works under ``no_grad`` and
    ``inference_mode``.

    Args:
        model: a classifier.
        images: (N, 3, H, W), preprocessed, on the model's device.
        points: depths found in this model (:func:`gradlens.depths.find.find_depths`).
        scores: from the (N, K) logits, detached, to what is differentiated.
        make: what to keep of each pass; gradients are large, maps are small.
        curvature: second derivatives too, for one more backward pass per depth and score.

    Returns:
        What ``make`` returned, one per score.

    Raises:
        DepthError: a depth's module did not run, or its output has another shape than when it was found.
        ModelError: no logits came out.
    """
    model = unwrap(model)
    if not points:
        raise DepthError("expected at least one depth, got none")
    modules = {p.path: _module(model, p) for p in points}
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

    # fused attention has no second derivative
    attention = sdpa_kernel(SDPBackend.MATH) if curvature else contextlib.nullcontext()
    with undisturbed(model), hooked(modules, see), attention:
        # an inference tensor cannot be saved for backward; outside inference mode a copy is an ordinary one
        pixels = images.clone() if images.is_inference() else images.detach()
        logits = logits_of(model(pixels))
        missing = [p.name for p in points if (p.path, p.call) not in outputs]
        if missing:
            raise DepthError(f"module {missing[0]!r} did not run in this forward pass")
        asked = scores(logits.detach())
        tensors = [outputs[p.path, p.call] for p in points]
        outputs.clear()
        activations = tuple(_reading(p).grid(_checked(t, p)).detach() for p, t in zip(points, tensors, strict=True))
        if not logits.requires_grad:
            raise ModelError("the logits do not depend on the depths through anything differentiable")
        made = []
        for i, score in enumerate(asked):
            # images do not see one another in evaluation mode, so the gradient of the sum is each image's own
            gradients = torch.autograd.grad(
                score.of(logits).sum(),
                tensors,
                retain_graph=curvature or i + 1 < len(asked),
                create_graph=curvature,
                allow_unused=True,
            )
            curvatures = _curvatures(tensors, gradients) if curvature else ()
            with torch.no_grad():
                captured = Captured(
                    logits.detach(), score, activations, _grids(points, tensors, gradients),
                    _grids(points, tensors, curvatures) if curvature else (),
                )  # fmt: skip
                del gradients, curvatures
                made.append(make(captured))
                del captured
    return made


def _module(model: nn.Module, point: HookPoint) -> nn.Module:
    try:
        return model.get_submodule(point.path)
    except AttributeError:
        raise DepthError(f"expected a module {point.path!r}, but this model has none; find the depths again") from None


def _curvatures(
    tensors: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None]
) -> tuple[torch.Tensor | None, ...]:
    """(∂²s/∂A²) A at each depth on its own; ``None`` where the gradient does not depend on the depth."""
    return tuple(
        torch.autograd.grad((g * t.detach()).sum(), t, retain_graph=True, allow_unused=True)[0]
        if g is not None and g.requires_grad
        else None
        for t, g in zip(tensors, gradients, strict=True)
    )


def _grids(
    points: Sequence[HookPoint], tensors: Sequence[torch.Tensor], values: Sequence[torch.Tensor | None]
) -> tuple[torch.Tensor, ...]:
    """Each value as (N, C, rows, columns), zero where there is none."""
    return tuple(
        _reading(p).grid(torch.zeros_like(t) if v is None else v.detach())
        for p, t, v in zip(points, tensors, values, strict=True)
    )


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
