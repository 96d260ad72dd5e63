"""What is explained: class indices per image, or contrasts of two classes, from what a caller may pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from gradlens.depths.capture import Score


@dataclass(frozen=True)
class Contrast:
    """Two classes per image: what speaks for ``target`` rather than ``against``.

    Attributes:
        target, against: (N,) or (N, T) class indices, of the same shape.
    """

    target: torch.Tensor
    against: torch.Tensor


Fixed: TypeAlias = "torch.Tensor | Contrast | None"
Targets: TypeAlias = "Fixed | Callable[[torch.Tensor], Fixed]"


def scores_of(targets: Targets, logits: torch.Tensor) -> list[Score]:
    """One score per column of targets.

    Args:
        targets: (N,) or (N, T) class indices, a :class:`Contrast` of such, a function from (N, K) logits to either,
            or ``None``: the predicted class.
        logits: (N, K).

    Raises:
        ValueError: a target is no class index, there is not one per image, or a class is contrasted with itself.
    """
    fixed = targets(logits) if callable(targets) else targets
    if fixed is None:
        return [Score(logits.argmax(1))]
    if isinstance(fixed, Contrast):
        target, against = _columns(fixed.target, logits), _columns(fixed.against, logits)
        if target.shape != against.shape:
            raise ValueError(f"expected as many targets against as for, got {target.shape[1]} and {against.shape[1]}")
        return [Score(t, a) for t, a in zip(target.unbind(1), against.unbind(1), strict=True)]
    return [Score(t) for t in _columns(fixed, logits).unbind(1)]


def nearest_rival(score: Score, logits: torch.Tensor) -> Score:
    """The score's target against the most likely other class; as it is where it is a contrast already.

    Raises:
        ValueError: there is no other class.
    """
    if score.against is not None:
        return score
    if logits.shape[1] < 2:
        raise ValueError("expected at least two classes to contrast, got one")
    others = logits.scatter(1, score.target[:, None], -torch.inf)
    return Score(score.target, others.argmax(1))


def _columns(targets: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """(N, T) class indices on the logits' device, checked."""
    if targets.ndim not in (1, 2) or targets.is_floating_point():
        raise ValueError(
            f"expected class indices of shape (images,) or (images, targets), got {targets.dtype} of shape "
            f"{tuple(targets.shape)}"
        )
    with torch.inference_mode(False):  # an inference tensor cannot be saved for backward, an ordinary copy can
        targets = targets.to(logits.device, torch.int64, copy=True)
    if targets.ndim == 1:
        targets = targets[:, None]
    if targets.shape[0] != logits.shape[0]:
        raise ValueError(f"expected one target per image ({logits.shape[0]}), got {targets.shape[0]}")
    bad = (targets < 0) | (targets >= logits.shape[1])
    if bad.any():
        raise ValueError(f"expected targets in 0..{logits.shape[1] - 1}, got {int(targets[bad][0])}")
    return targets
