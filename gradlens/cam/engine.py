"""Maps of every asked depth from one pass: capture, method, status."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from gradlens.cam.methods import METHODS, Method
from gradlens.depths.capture import Captured, Targets, capture
from gradlens.depths.find import Depths, find_depths
from gradlens.records import CamStack, HookPoint, MapStatus

# A map whose values differ by less than this share of the largest one shows rounding, not evidence.
_CONSTANT = 1e-6


def explain(
    model: nn.Module,
    images: torch.Tensor,
    *,
    layers: Sequence[str] | str = ("stages",),
    targets: Targets = None,
    methods: Sequence[str] | str = ("gradcam",),
    depths: Depths | None = None,
    classes: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    name: str = "model",
) -> list[CamStack]:
    """Class activation maps of a batch at any number of depths, from one forward pass and one backward per target.

    Args:
        model: any image classifier; left exactly as it was (modes, flags, hooks, ``.grad``).
        images: (N, 3, H, W), preprocessed as the model expects, on the model's device.
        layers: selectors, numbers, module names or globs (:meth:`gradlens.depths.find.Depths.select`).
        targets: (N,) or (N, T) class indices, a function from (N, K) logits to them, or ``None``: the
            predicted class.
        methods: registered names (:data:`gradlens.cam.methods.METHODS`).
        depths: found before for this model and input size; found now if ``None``.
        classes: K names; ``"0"``, ``"1"``, ... if ``None``.
        ids: N names of the images; their positions if ``None``.
        name: of the model, for the records.

    Returns:
        N x T x len(methods) stacks: images outermost, then targets, then methods. Maps are raw and signed.

    Raises:
        NotFoundError: no method or layer of that name.
        DepthError, ModelError, ValueError: see :func:`gradlens.depths.capture.capture`.
    """
    methods = [methods] if isinstance(methods, str) else list(methods)
    chosen = {m: METHODS[m] for m in methods}
    if depths is None:
        depths = find_depths(model, images[:1])
    points = depths.select([layers] if isinstance(layers, str) else layers)

    def make(captured: Captured) -> list[list[CamStack]]:
        return _stacks(captured, points, chosen, classes, ids, name)

    per_target = capture(model, images, points, targets, make)
    return [stack for i in range(len(images)) for stacks in per_target for stack in stacks[i]]


def _stacks(
    captured: Captured,
    points: Sequence[HookPoint],
    methods: dict[str, Method],
    classes: Sequence[str] | None,
    ids: Sequence[str] | None,
    name: str,
) -> list[list[CamStack]]:
    """Per image, one stack per method."""
    probabilities = captured.logits.float().softmax(1).gather(1, captured.targets[:, None])[:, 0].tolist()
    logits = captured.logits.float().gather(1, captured.targets[:, None])[:, 0].tolist()
    stacks: list[list[CamStack]] = [[] for _ in logits]
    for method, formula in methods.items():
        maps, statuses = [], []
        for a, g in zip(captured.activations, captured.gradients, strict=True):
            raw = formula(a.float(), g.float())  # (N, rows, columns)
            statuses.append(_statuses(raw, g))
            maps.append(raw.cpu().numpy().astype(np.float32))
        for i, target in enumerate(captured.targets.tolist()):
            stacks[i].append(
                CamStack(
                    model=name,
                    image=str(i) if ids is None else ids[i],
                    method=method,
                    target=(target, str(target) if classes is None else classes[target]),
                    logit=logits[i],
                    probability=probabilities[i],
                    depths=tuple(points),
                    maps=tuple(m[i] for m in maps),
                    statuses=tuple(s[i] for s in statuses),
                )
            )
    return stacks


def _statuses(maps: torch.Tensor, gradients: torch.Tensor) -> list[MapStatus]:
    """What each of N maps can be used for; anything but ``ok`` is said instead of drawn as an empty picture."""
    flat = maps.flatten(1)
    finite = torch.isfinite(flat).all(1).tolist()
    live = (gradients.flatten(1) != 0).any(1).tolist()
    low, high = flat.amin(1).tolist(), flat.amax(1).tolist()
    statuses: list[MapStatus] = []
    for is_finite, has_gradient, least, most in zip(finite, live, low, high, strict=True):
        if not is_finite:
            statuses.append("non-finite")
        elif not has_gradient:
            statuses.append("zero gradient")
        elif most - least <= _CONSTANT * max(abs(most), abs(least)):
            statuses.append("constant")
        elif most <= 0:
            statuses.append("all negative")
        else:
            statuses.append("ok")
    return statuses
