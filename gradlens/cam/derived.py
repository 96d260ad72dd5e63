"""What is read off maps and passes: outlines of a map, the difference of two, the strongest channels of a depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch

from gradlens.depths.capture import Captured
from gradlens.records import CamStack, HookPoint, MapStatus

Rank = Literal["contribution", "activation"]


@dataclass(frozen=True)
class Outline:
    """The part of what the network saw where a map is strong. Places are shares of the view's width and height.

    Attributes:
        contours: closed polygons (points, 2) of x and y in 0..1: borders of regions, and of holes in them.
        box: (left, top, right, bottom) in 0..1 around the largest region.
        area: share of the view that is strong.
        regions: how many regions there are that do not touch.
    """

    contours: tuple[np.ndarray, ...]
    box: tuple[float, float, float, float]
    area: float
    regions: int

    def box_in(self, crop: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """The box in pixels of the original image.

        Args:
            crop: (top, left, bottom, right) of the part that the network saw
                (:func:`gradlens.data.preprocess.crop_box`).

        Returns:
            (left, top, right, bottom); pixel ``i`` covers ``[i, i + 1)``.
        """
        top, left, bottom, right = crop
        x0, y0, x1, y1 = self.box
        across, down = right - left, bottom - top
        return left + x0 * across, top + y0 * down, left + x1 * across, top + y1 * down


def outline(raw: np.ndarray, size: tuple[int, int], threshold: float = 0.5) -> Outline | None:
    """Where a map, enlarged to the network's input, reaches a share of its maximum.

    The box around the largest region is how maps are scored as object detectors (Zhou et al. 2016, CVPR, sec. 3.2,
    where the share is 0.2).

    Args:
        raw: (rows, columns), a raw map; its positive part counts.
        size: (height, width) of the network's input in pixels.
        threshold: share of the enlarged map's maximum, in (0, 1].

    Returns:
        ``None`` where the map has no positive value, or one that is not finite.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"expected a threshold in (0, 1], got {threshold}")
    if not np.isfinite(raw).all() or raw.max() <= 0:
        return None
    height, width = size
    heat = cv2.resize(np.maximum(raw, 0).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    strong = (heat >= np.float32(threshold) * heat.max()).astype(np.uint8)
    found, hierarchy = cv2.findContours(strong, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    regions = [c for c, relations in zip(found, hierarchy[0], strict=True) if relations[3] < 0]  # no parent: no hole
    left, top, across, down = cv2.boundingRect(max(regions, key=lambda c: (cv2.contourArea(c), len(c))))
    return Outline(
        # contours run through the middles of pixels
        contours=tuple((c[:, 0, :] + 0.5) / np.array([width, height]) for c in found),
        box=(left / width, top / height, (left + across) / width, (top + down) / height),
        area=float(strong.mean()),
        regions=len(regions),
    )


def difference(one: CamStack, other: CamStack) -> CamStack:
    """The raw maps of one target minus those of another, of the same image, model, method and depths.

    For methods that are linear in the gradient (Grad-CAM, HiResCAM, XGrad-CAM) these are the maps of the contrast of
    the two classes.

    Raises:
        ValueError: the two are not of the same image, model, method and depths.
    """
    if (one.model, one.image, one.method, one.depths) != (other.model, other.image, other.method, other.depths):
        raise ValueError(
            f"expected two targets of one image, model and method, got {one.image} by {one.method} of {one.model} "
            f"and {other.image} by {other.method} of {other.model}"
        )
    maps = tuple(a - b for a, b in zip(one.maps, other.maps, strict=True))
    statuses = tuple(_difference_status(m, a, b) for m, a, b in zip(maps, one.statuses, other.statuses, strict=True))
    return CamStack(
        model=one.model,
        image=one.image,
        method=one.method,
        target=one.target,
        logit=one.logit,
        probability=one.probability,
        depths=one.depths,
        maps=maps,
        statuses=statuses,
        against=other.target,
    )


def _difference_status(raw: np.ndarray, one: MapStatus, other: MapStatus) -> MapStatus:
    for status in ("non-finite", "undefined"):
        if status in (one, other):
            return status
    if not raw.any():
        return "zero gradient"
    if raw.min() == raw.max():
        return "constant"
    return "ok" if raw.max() > 0 else "all negative"


@dataclass(frozen=True)
class Channels:
    """The strongest channels of one depth for one image, strongest first.

    Attributes:
        depth: where.
        rank: what strong means: ``"contribution"``, |mean gradient| × mean |activation|, how much of the target's score
            a channel carries to first order; ``"activation"``, mean |activation|, of no target in particular.
        indices: channel numbers, from 0.
        shares: of the sum over all channels of that depth, 0..1; all 0 where that sum is 0.
        signs: +1 where more of the channel raises the target's score, -1 where it lowers it, 0 where neither.
        maps: float32 (rows, columns) raw activations of those channels.
    """

    depth: HookPoint
    rank: Rank
    indices: tuple[int, ...]
    shares: tuple[float, ...]
    signs: tuple[int, ...]
    maps: tuple[np.ndarray, ...]


def strongest_channels(
    captured: Captured, points: Sequence[HookPoint], count: int, rank: Rank = "contribution"
) -> list[list[Channels]]:
    """The ``count`` strongest channels per image and depth (all of them where a depth has fewer).

    Args:
        captured: one pass over N images (:func:`gradlens.depths.capture.capture`).
        points: its D depths.
        count: how many channels.
        rank: see :class:`Channels`.

    Returns:
        N lists of D.
    """
    per_depth = []
    for point, activations, gradients in zip(points, captured.activations, captured.gradients, strict=True):
        a = activations.float()  # (N, C, h, w)
        weights = gradients.float().mean((2, 3))  # (N, C)
        strength = a.abs().mean((2, 3))
        if rank == "contribution":
            strength = strength * weights.abs()
        total = strength.sum(1, keepdim=True)
        share = torch.where(total > 0, strength / torch.where(total > 0, total, 1.0), 0.0)
        best = share.topk(min(count, share.shape[1]), dim=1).indices  # (N, k)
        maps = a.gather(1, best[:, :, None, None].expand(-1, -1, *a.shape[2:])).cpu().numpy()
        signs = weights.sign().gather(1, best).int().tolist()
        shares = share.gather(1, best).tolist()
        per_depth.append(
            [
                Channels(point, rank, tuple(indices), tuple(shares[n]), tuple(signs[n]), tuple(map(np.array, maps[n])))
                for n, indices in enumerate(best.tolist())
            ]
        )
    return [list(image) for image in zip(*per_depth, strict=True)]
