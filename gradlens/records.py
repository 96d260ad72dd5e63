"""The values that travel between the parts of gradlens. All frozen, all checked at birth.

Nothing here computes anything beyond what a record needs to check or describe itself, and nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import torch

LARGEST_SIDE = 4096  # pixels of a network's input; a card that asks for more would fill the memory with one image
Role = Literal["train", "select", "test", "probe", "unlabelled"]
Layout = Literal["NCHW", "NHWC", "NLC"]
MapStatus = Literal["ok", "zero gradient", "all negative", "constant", "non-finite", "undefined"]


@dataclass(frozen=True)
class Preprocess:
    """How a decoded image becomes a network's input. The fields are those of timm's ``pretrained_cfg``.

    Attributes:
        input_size: (channels, height, width) of the network's input; channels is 3.
        interpolation: ``"bilinear"`` or ``"bicubic"``; always antialiased.
        crop_pct: the part of the resized image that the crop keeps, in (0, 1].
        crop_mode: ``"center"`` (resize the short side, crop the middle) or ``"squash"`` (resize both sides
            on their own, then the same crop).
        mean: per channel, on a 0-1 scale.
        std: per channel, on a 0-1 scale.
    """

    input_size: tuple[int, int, int]
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop_pct: float = 1.0
    crop_mode: Literal["center", "squash"] = "center"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        size = self.input_size
        if len(size) != 3 or not all(isinstance(n, int) for n in size) or size[0] != 3 or min(size) < 1:
            raise ValueError(f"input_size must be (3, height, width), got {size}")
        if max(size) > LARGEST_SIDE:
            raise ValueError(f"input_size must be at most {LARGEST_SIDE} pixels a side, got {size}")
        if not all(isinstance(n, int | float) and math.isfinite(n) for n in (*self.mean, *self.std, self.crop_pct)):
            raise ValueError(f"mean, std and crop_pct must be numbers, got {self.mean}, {self.std}, {self.crop_pct}")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct must be in (0, 1], got {self.crop_pct}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the network's input in pixels."""
        return self.input_size[1], self.input_size[2]


@dataclass(frozen=True)
class LoadedModel:
    """A classifier ready to run: eval mode, weights in place, class names known.

    Attributes:
        name: as the user would name it (``"vehicles/densenet"``, ``"timm:resnet18"``).
        module: the network; called with (N, 3, H, W) it returns (N, K) logits or something that contains them.
        classes: K names, in the order of the logits.
        preprocess: how images become its input.
        builder: what made it, e.g. ``"timm:resnet18"``.
        card: the ``gradlens`` part of its ``config.json``, empty for a model without a checkpoint folder.
        weights: sha256 of its weight file, or ``"random"`` or ``"pretrained"``.
    """

    name: str
    module: torch.nn.Module
    classes: tuple[str, ...]
    preprocess: Preprocess
    builder: str
    card: Mapping[str, Any] = field(default_factory=dict)
    weights: str = "random"


@dataclass(frozen=True)
class HookPoint:
    """A depth: a module's output that every path from the pixels to the logits crosses.

    Attributes:
        path: the module's path as PyTorch names it (``"layer2.1"``); empty for the pixels themselves.
        call: which call of that module within one forward pass, from 1.
        shape: (channels, rows, columns) of the feature grid.
        stride: input pixels per cell, (rows, columns); not always whole numbers.
        layout: order of the axes of the raw tensor.
        prefix: tokens before the grid's first (class token, registers); 0 for feature maps.
        position: 0 at the pixels, 1 at the logits: the share of the forward pass's work done by then.
        verified: the input-perturbation check of the layout: passed, failed, or ``None`` when inconclusive.
        selectors: those of ``stages``, ``blocks``, ``last`` that pick this depth.
        cut: whether every path crosses it; modules named by hand may be no cut.
        overwritten: whether something later in the forward pass works in place on this output.
    """

    path: str
    call: int
    shape: tuple[int, int, int]
    stride: tuple[float, float]
    layout: Layout
    prefix: int = 0
    position: float = 0.0
    verified: bool | None = None
    selectors: tuple[str, ...] = ()
    cut: bool = True
    overwritten: bool = False

    @property
    def name(self) -> str:
        """Its path, with ``#call`` where the module runs more than once; ``input`` for the pixels themselves."""
        if not self.path:
            return "input"
        return self.path if self.call == 1 else f"{self.path}#{self.call}"

    @property
    def stride_text(self) -> str:
        """The stride as people read it: one number where both directions agree.

        >>> HookPoint("layer2", 1, (64, 12, 12), (8, 8), "NCHW").stride_text
        '8'
        """
        down, across = self.stride
        return f"{down:g}" if down == across else f"{down:.3g}×{across:.3g}"


@dataclass(frozen=True)
class CamStack:
    """Raw maps of one image for one target, one per depth, shallow to deep.

    Maps stay raw (signed, unscaled, at the depth's own resolution): a figure chooses its scale and prints it.

    Attributes:
        model: the model's name.
        image: the image's id.
        method: the registered name of the method.
        target: (class index, class name).
        logit: the target's logit; probability: its softmax probability.
        depths: one per map.
        maps: float32 arrays (rows, columns), signed.
        statuses: one per map; anything but ``ok`` is said instead of drawn as an empty picture.
        against: (class index, class name) that the target is contrasted with, or ``None``.
    """

    model: str
    image: str
    method: str
    target: tuple[int, str]
    logit: float
    probability: float
    depths: tuple[HookPoint, ...]
    maps: tuple[np.ndarray, ...]
    statuses: tuple[MapStatus, ...]
    against: tuple[int, str] | None = None

    def __post_init__(self) -> None:
        if not len(self.depths) == len(self.maps) == len(self.statuses):
            raise ValueError(f"{len(self.depths)} depths, {len(self.maps)} maps, {len(self.statuses)} statuses")


@dataclass(frozen=True)
class CamScore:
    """One measure of the maps of one model, method and depth: the mean over images.

    Attributes:
        depth: the hook point's name; position: 0 at the pixels, 1 at the logits.
        measure: its registered name.
        n: images with a defined value; undefined: images without one (a blank map has none).
        value: mean over the n images; low, high: ends of its 95 % interval (images resampled).
        chance: what maps that know nothing get on the same images; ``nan`` where that is not known.
    """

    model: str
    method: str
    depth: str
    position: float
    measure: str
    n: int
    undefined: int
    value: float
    low: float
    high: float
    chance: float


@dataclass(frozen=True)
class Sample:
    """One image of an image set, before it is decoded.

    Attributes:
        id: unique in its set: the path inside the set's folder, or the row number.
        label: index into the set's ``classes``; ``None`` where unlabelled.
        pair: id of the image in the paired set that shows the same scene.
        severity: 1 (mild) to 3 (severe) where the shift has severities.
        factors: what the image was made with, where known.
    """

    id: str
    label: int | None = None
    pair: str | None = None
    severity: int | None = None
    factors: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Predictions:
    """What one model said about one image set. Everything else is derived from this.

    Attributes:
        model, dataset: names.
        classes: the model's K class names, in the order of the logits.
        label_classes: the set's class names, which ``labels`` indexes.
        ids: N ids, unique.
        labels: (N,) int64 into ``label_classes``; -1 where unlabelled.
        predicted: (N,) int64 into ``classes``.
        logits: (N, K) float32, or ``None`` where only hard predictions were published.
        pairs: N ids of the paired set's images (``None`` each where unpaired), or ``None``.
    """

    model: str
    dataset: str
    classes: tuple[str, ...]
    label_classes: tuple[str, ...]
    ids: tuple[str, ...]
    labels: np.ndarray
    predicted: np.ndarray
    logits: np.ndarray | None = None
    pairs: tuple[str | None, ...] | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)
        for what, got in (("labels", len(self.labels)), ("predicted", len(self.predicted))):
            if got != n:
                raise ValueError(f"{n} ids but {got} {what}")
        if len(set(self.ids)) != n:
            raise ValueError(f"ids of {self.model} on {self.dataset} are not unique")
        if n and not (self.labels.min() >= -1 and self.labels.max() < len(self.label_classes)):
            raise ValueError(f"labels must be in -1..{len(self.label_classes) - 1}")
        if n and not (self.predicted.min() >= 0 and self.predicted.max() < len(self.classes)):
            raise ValueError(f"predictions must be in 0..{len(self.classes) - 1}")
        if self.logits is not None and self.logits.shape != (n, len(self.classes)):
            raise ValueError(f"logits must be {(n, len(self.classes))}, got {self.logits.shape}")
        if self.pairs is not None and len(self.pairs) != n:
            raise ValueError(f"{n} ids but {len(self.pairs)} pairs")

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: the point estimate, a fraction where the metric is one; ``nan`` where it is not defined.
        low, high: ends of the interval.
        n: images it rests on.
        interval: how the interval was made (``"Clopper-Pearson 95%"``), or why there is no value.

    >>> Estimate.undefined("not defined: 5 classes for top-5", 320).defined
    False
    >>> Estimate(0.93, 0.94, 0.96, 320, "by hand")
    Traceback (most recent call last):
    ValueError: the interval [0.94, 0.96] does not contain 0.93 (by hand)
    """

    value: float
    low: float
    high: float
    n: int
    interval: str

    def __post_init__(self) -> None:
        if not math.isnan(self.value) and not self.low <= self.value <= self.high:
            raise ValueError(f"the interval [{self.low}, {self.high}] does not contain {self.value} ({self.interval})")

    @classmethod
    def undefined(cls, reason: str, n: int) -> Estimate:
        """No value, and why."""
        return cls(math.nan, math.nan, math.nan, n, reason)

    @property
    def defined(self) -> bool:
        return not math.isnan(self.value)


@dataclass(frozen=True)
class GapReport:
    """In-distribution score minus probe score of one model, on classes both sides share (or all of them).

    Attributes:
        gap: ``in_dist_value - probe_value`` with its interval; positive means that score was lost.
        label_space: ``"shared"`` or ``"full"``.
        paired: whether the interval rests on pairs of images of the same scene.
        classes: how many classes both sides were scored on.
        mix, within: the class-mix and the within-class part of an accuracy gap; they add up to it. ``nan`` elsewhere.
    """

    model: str
    in_dist: str
    probe: str
    metric: str
    label_space: Literal["shared", "full"]
    gap: Estimate
    paired: bool
    in_dist_value: float
    probe_value: float
    n_in_dist: int
    n_probe: int
    classes: int
    mix: float
    within: float


@dataclass(frozen=True)
class Skipped:
    """An input that was not scored, and why. Nothing is dropped without one of these."""

    path: str
    reason: str
