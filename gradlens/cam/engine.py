"""Maps of every asked depth from one pass: discovery, capture, methods, statuses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from gradlens.cam import attention, attribution, perturbation  # noqa: F401  # they register their methods
from gradlens.cam.methods import METHODS, Method
from gradlens.cam.targets import Targets, nearest_rival, scores_of
from gradlens.depths.capture import Captured, Score, capture
from gradlens.depths.find import Depths, find_depths
from gradlens.depths.modules import undisturbed, unwrap
from gradlens.records import CamStack, HookPoint, MapStatus
from gradlens.zoo.outputs import logits_of

# A map whose values differ by less than this share of the largest one shows rounding, not evidence.
_CONSTANT = 1e-6


@dataclass(frozen=True)
class Explanation:
    """The maps of one method for N images, T targets and D depths. Tensors stay on the model's device.

    Attributes:
        method: its registered name.
        depths: D hook points, shallow to deep; a single one, named ``input``, for a method at the pixels.
        input_size: (H, W) of the images in pixels.
        logits: (N, K) float32.
        targets: (N, T) class indices.
        against: (N, T) class indices that the targets are contrasted with, or ``None``.
        maps: per depth (N, T, rows, columns) float32, raw and signed.
        evidence: per depth (N, T): 1, or 0 where what the map is made of (gradient, else activation) is zero, NaN where
            that is not finite.
    """

    method: str
    depths: tuple[HookPoint, ...]
    input_size: tuple[int, int]
    logits: torch.Tensor
    targets: torch.Tensor
    against: torch.Tensor | None
    maps: tuple[torch.Tensor, ...]
    evidence: tuple[torch.Tensor, ...]

    def heatmaps(self, size: tuple[int, int] | None = None) -> torch.Tensor:
        """Every map's positive part over its maximum, enlarged: (N, T, D, H, W) in 0..1; a blank map is all zero.

        Args:
            size: (H, W) in pixels; the images' own if ``None``. Bilinear, each cell centred on its pixels.
        """
        enlarged = []
        for m in self.maps:
            positive = torch.nan_to_num(m, nan=0.0, posinf=0.0, neginf=0.0).clamp(min=0)
            top = positive.amax((2, 3), keepdim=True)
            scaled = torch.where(top > 0, positive / torch.where(top > 0, top, 1.0), 0.0)
            enlarged.append(F.interpolate(scaled, size or self.input_size, mode="bilinear", align_corners=False))
        return torch.stack(enlarged, 2)

    def statuses(self) -> list[list[list[MapStatus]]]:
        """What each map can be used for, by image, target and depth: anything but ``ok`` is no picture."""
        sound = torch.isfinite(self.logits).all(1, keepdim=True)  # no map of a non-finite pass is merely undefined
        evidence = [torch.where(sound, e, torch.nan) for e in self.evidence]
        facts = torch.stack([_facts(m, e) for m, e in zip(self.maps, evidence, strict=True)], 2)
        return [[[_status(f) for f in target] for target in image] for image in facts.tolist()]

    def stacks(
        self, classes: Sequence[str] | None = None, ids: Sequence[str] | None = None, name: str = "model"
    ) -> list[CamStack]:
        """Records for figures and files: one per image and target, images outermost; maps come to the CPU here.

        Args:
            classes: K names; ``"0"``, ``"1"``, ... if ``None``.
            ids: N names of the images; their positions if ``None``.
            name: of the model.
        """

        def named(k: int) -> tuple[int, str]:
            return k, str(k) if classes is None else classes[k]

        probabilities = self.logits.softmax(1).gather(1, self.targets).tolist()
        logits = self.logits.gather(1, self.targets).tolist()
        targets = self.targets.tolist()
        against = None if self.against is None else self.against.tolist()
        maps = [m.cpu().numpy() for m in self.maps]
        return [
            CamStack(
                model=name,
                image=str(i) if ids is None else ids[i],
                method=self.method,
                target=named(targets[i][t]),
                logit=logits[i][t],
                probability=probabilities[i][t],
                depths=self.depths,
                maps=tuple(np.array(m[i, t]) for m in maps),
                statuses=tuple(status),
                against=None if against is None else named(against[i][t]),
            )
            for i, row in enumerate(self.statuses())
            for t, status in enumerate(row)
        ]


def explain(
    model: nn.Module,
    images: torch.Tensor,
    *,
    layers: Sequence[str] | str = "stages",
    targets: Targets = None,
    method: str = "gradcam",
    depths: Depths | None = None,
) -> Explanation:
    """Class activation maps of a batch at any number of depths, from one forward pass and one backward per target.

    The model is left exactly as it was (modes, flags, hooks, ``.grad``), whatever the caller's state: training loop,
    ``no_grad``, ``inference_mode``, frozen parameters, autocast, ``torch.compile``, ``DataParallel``.

    Args:
        model: any image classifier.
        images: (N, 3, H, W), preprocessed as the model expects, on the model's device.
        layers: selectors, numbers, module names or globs (:meth:`gradlens.depths.find.Depths.select`).
        targets: (N,) or (N, T) class indices, a :class:`gradlens.cam.targets.Contrast` of such, a function from
            (N, K) logits to either, or ``None``: the predicted class.
        method: a registered name (:data:`gradlens.cam.methods.METHODS`).
        depths: found before for this model and input size. If ``None``, they are found at the first call and
            remembered for as long as the model lives and keeps its modules.

    Returns:
        Raw, signed maps on the model's device, and what to make of them.

    Raises:
        NotFoundError: no method or layer of that name.
        DepthError, ModelError, ValueError: see :func:`gradlens.depths.capture.capture`,
            :func:`gradlens.cam.targets.scores_of`.
    """
    return explain_all(model, images, layers=layers, targets=targets, methods=[method], depths=depths)[0]


def explain_all(
    model: nn.Module,
    images: torch.Tensor,
    *,
    layers: Sequence[str] | str = "stages",
    targets: Targets = None,
    methods: Sequence[str] = ("gradcam",),
    depths: Depths | None = None,
) -> list[Explanation]:
    """:func:`explain` for several methods, in their order; those that read one pass share it."""
    chosen = [METHODS[m] for m in methods]
    selectors = (layers,) if isinstance(layers, str) else tuple(layers)
    points = depths.select(selectors) if depths is not None else _points(model, images, selectors)
    formulas = [m for m in chosen if m.needs != "model"]
    made = _from_one_pass(model, images, points, targets, formulas) if formulas else {}
    rest = [m for m in chosen if m.needs == "model"]
    if rest:
        logits, columns = _forward(model, images, targets)
        made |= {m.name: _from_model(m, model, images, points, logits, columns) for m in rest}
    return [made[m.name] for m in chosen]


_FOUND: WeakKeyDictionary[nn.Module, dict[Any, tuple[HookPoint, ...]]] = WeakKeyDictionary()


def _points(model: nn.Module, images: torch.Tensor, layers: tuple[str, ...]) -> tuple[HookPoint, ...]:
    """What the selectors pick in this model at this input size, found once per model.

    Remembered under the identity of every submodule, so that a network that was changed is looked at again.
    """
    inner = unwrap(model)
    key = layers, tuple(images.shape[1:]), tuple(id(m) for m in inner.modules())
    known = _FOUND.setdefault(inner, {})
    if key not in known:
        known[key] = find_depths(inner, images[:1]).select(layers)
    return known[key]


def _from_one_pass(
    model: nn.Module,
    images: torch.Tensor,
    points: Sequence[HookPoint],
    targets: Targets,
    methods: Iterable[Method],
) -> dict[str, Explanation]:
    """The explanations of all methods that are formulas over activations and gradients."""
    methods = list(methods)
    plain = any(not m.contrast for m in methods)
    contrasted = any(m.contrast for m in methods)
    first: list[Score] = []
    second: list[Score] = []

    def scores(logits: torch.Tensor) -> list[Score]:
        asked = scores_of(targets, logits)
        first.extend(asked if plain else [])
        second.extend(nearest_rival(s, logits) for s in asked if contrasted)
        return first + second

    done: list[torch.Tensor] = []  # the logits, once per pass

    def make(captured: Captured) -> dict[str, list[tuple[torch.Tensor, torch.Tensor]]]:
        contrast = len(done) >= len(first)
        done.append(captured.logits)
        mine = [m for m in methods if m.contrast == contrast]
        with torch.autocast(images.device.type, enabled=False):  # formulas are not what a caller's autocast is for
            return {m.name: [_apply(m, captured, d) for d in range(len(points))] for m in mine}

    passes = capture(model, images, points, scores, make, curvature=any(m.needs == "curvature" for m in methods))
    logits = done[0].float()
    explanations = {}
    for m in methods:
        columns = second if m.contrast else first
        own = [maps[m.name] for maps in passes if m.name in maps]
        explanations[m.name] = Explanation(
            method=m.name,
            depths=tuple(points),
            input_size=(images.shape[2], images.shape[3]),
            logits=logits,
            targets=torch.stack([s.target for s in columns], 1),
            against=_against(columns),
            maps=tuple(torch.stack([column[d][0] for column in own], 1) for d in range(len(points))),
            evidence=tuple(torch.stack([column[d][1] for column in own], 1) for d in range(len(points))),
        )
    return explanations


def _apply(m: Method, captured: Captured, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One method at one depth: the map (N, rows, columns), and what it was made of (N,)."""
    a = captured.activations[depth].float()
    if m.needs == "activations":
        raw = m.function(a)
        return raw, _evidence(raw, a)
    g = captured.gradients[depth].float()
    raw = m.function(a, g) if m.needs == "gradients" else m.function(a, g, captured.curvatures[depth].float())
    return raw, _evidence(raw, g)


def _evidence(maps: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """(N,): 1, or 0 where ``source`` (N, C, h, w) is zero throughout, NaN where it is not finite."""
    if maps.device.type == "cpu" and torch.isfinite(maps).all() and (maps != 0).flatten(1).any(1).all():
        return maps.new_ones(len(maps))  # was made of something: no need to read all of that again
    largest = torch.linalg.vector_norm(source, ord=torch.inf, dim=(1, 2, 3))
    return torch.where(torch.isfinite(largest), (largest != 0).float(), torch.nan)


def _forward(model: nn.Module, images: torch.Tensor, targets: Targets) -> tuple[torch.Tensor, list[Score]]:
    inner = unwrap(model)
    with undisturbed(inner), torch.no_grad():
        logits = logits_of(inner(images)).float()
        return logits, scores_of(targets, logits)


def _from_model(
    m: Method,
    model: nn.Module,
    images: torch.Tensor,
    points: Sequence[HookPoint],
    logits: torch.Tensor,
    columns: Sequence[Score],
) -> Explanation:
    """The explanation of a method that runs the model itself."""
    if _against(columns) is not None:
        raise ValueError(f"{m.title} explains one class at a time; a contrast needs a method over gradients")
    with torch.inference_mode(False):  # these maps may need gradients, whatever the caller does
        targets = torch.stack([s.target for s in columns], 1)
    maps = tuple(t.detach().float() for t in m.function(unwrap(model), images, points, targets))
    size = images.shape[2], images.shape[3]
    at = tuple(points) if m.at == "depths" else (at_the_pixels(size),)
    made_of = tuple(torch.ones(targets.shape, device=targets.device) for _ in maps)
    return Explanation(m.name, at, size, logits, targets, None, maps, made_of)


def at_the_pixels(size: tuple[int, int]) -> HookPoint:
    """The depth of a method that explains pixels: the input itself."""
    return HookPoint(path="", call=1, shape=(3, *size), stride=(1.0, 1.0), layout="NCHW", verified=True)


def _against(columns: Sequence[Score]) -> torch.Tensor | None:
    against = [s.against for s in columns if s.against is not None]
    return torch.stack(against, 1) if against else None


def _facts(maps: torch.Tensor, evidence: torch.Tensor) -> torch.Tensor:
    """(N, T, 5) numbers of (N, T, h, w) maps: all finite?, all NaN?, evidence, least, most."""
    flat = maps.flatten(2)
    clean = torch.nan_to_num(flat, nan=0.0, posinf=0.0, neginf=0.0)
    return torch.stack(
        [torch.isfinite(flat).all(2), torch.isnan(flat).all(2), evidence, clean.amin(2), clean.amax(2)], 2
    )


def _status(facts: Sequence[float]) -> MapStatus:
    finite, missing, evidence, least, most = facts
    if missing and math.isfinite(evidence):
        return "undefined"
    if not finite or math.isnan(evidence):  # nor is a finite map of a pass whose logits or gradients are not
        return "non-finite"
    if evidence == 0:
        return "zero gradient"
    if most - least <= _CONSTANT * max(abs(most), abs(least)):
        return "constant"
    return "ok" if most > 0 else "all negative"
