"""Does the mask agree with the map? How much of a map lies on the object, against masks that say where it is.

Every measure takes heat (..., N, H, W) of any positive scale and masks bool (N, H, W), and gives (..., N) in 0..1,
higher is better. Negative heat counts as none. NaN, undefined: a map without a positive value (blank is not a miss), a
map that is not finite, a mask that is empty. A mask says where the object is, not where the evidence is: a model that
rightly reads the background is not measured here, but beside its twin (:mod:`gradlens.cam.twins`).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from gradlens.cam.measures import measure, unit
from gradlens.data.preprocess import crop_box
from gradlens.records import Preprocess

# Zhang et al. allow 15 pixels on photographs of about 500 x 375; this is that share of the shorter side.
TOLERANCE = 15 / 375
_POINTING = "Zhang et al. 2016, ECCV (excitation backprop), section 4.1"
_ARRAS = "Arras et al. 2022, Information Fusion (CLEVR-XAI), section 3.3"


def network_mask(preprocess: Preprocess, mask: np.ndarray) -> Tensor:
    """A mask of the original image, resized and cropped as the network's input was: bool (h, w).

    Nearest: each input pixel takes the value at its own centre (:func:`gradlens.data.preprocess.crop_box`).

    Args:
        preprocess: the model's.
        mask: bool (H, W), of the image before preprocessing.
    """
    height, width = mask.shape
    top, left, bottom, right = crop_box(preprocess, height, width)
    rows, columns = preprocess.size
    down = np.floor(top + (np.arange(rows) + 0.5) * (bottom - top) / rows).astype(int).clip(0, height - 1)
    across = np.floor(left + (np.arange(columns) + 0.5) * (right - left) / columns).astype(int).clip(0, width - 1)
    return torch.from_numpy(np.ascontiguousarray(mask[np.ix_(down, across)]).astype(bool))


def area(masks: Tensor) -> Tensor:
    """(N,) share of each image that its mask (N, H, W) covers: what a map that knows nothing gets; NaN if empty."""
    share = masks.flatten(-2).float().mean(-1)
    return torch.where(share > 0, share, torch.nan)


def widened(masks: Tensor) -> Tensor:
    """Masks (N, H, W) and every pixel within :data:`TOLERANCE` of the shorter side of them, centre to centre."""
    reach = TOLERANCE * min(masks.shape[-2:])
    near = [ndimage.distance_transform_edt(~m) <= reach if m.any() else m for m in masks.cpu().numpy()]
    return torch.from_numpy(np.stack(near)).to(masks.device) if near else masks


def widened_area(masks: Tensor) -> Tensor:
    """:func:`area` of :func:`widened` masks."""
    return area(widened(masks))


@measure("pointing", "pointing game", better="higher", needs="mask", paper=_POINTING, chance=area)
def pointing(heat: Tensor, masks: Tensor) -> Tensor:
    """1 where the map's maximum lies on the object, else 0; the share of them that do where several pixels tie."""
    scaled, masks = _defined(heat, masks)
    peak = scaled == 1
    hits = (peak & masks).flatten(-2).sum(-1) / peak.flatten(-2).sum(-1)  # 0/0 is NaN: no peak, no answer
    return hits.float()


@measure(
    "pointing-tolerant", "pointing game with tolerance", better="higher", needs="mask", paper=_POINTING,
    chance=widened_area,
)  # fmt: skip
def pointing_tolerant(heat: Tensor, masks: Tensor) -> Tensor:
    """:func:`pointing`, where a maximum just beside the object hits too: within 4 % of the image's shorter side.

    That is the paper's 15 pixels at the size of its photographs.
    """
    return pointing(heat, widened(masks))


@measure(
    "energy", "energy on the object", better="higher", needs="mask", chance=area,
    paper="Wang et al. 2020, CVPR workshops (Score-CAM), section 4.3; relevance mass accuracy of Arras et al. 2022",
)  # fmt: skip
def energy(heat: Tensor, masks: Tensor) -> Tensor:
    """The share of the map's positive values that lies on the object."""
    scaled, masks = _defined(heat, masks)
    flat = scaled.flatten(-2).double()
    return ((flat * masks.flatten(-2)).sum(-1) / flat.sum(-1)).float()


@measure(
    "iou", "IoU at half the maximum", better="higher", needs="mask", chance=area,
    paper="Jaccard index of the mask and the map at half its maximum; Zhou et al. 2016, CVPR, box it at a threshold",
)  # fmt: skip
def iou(heat: Tensor, masks: Tensor, threshold: float = 0.5) -> Tensor:
    """Intersection over union of the object and the part of the map at or above ``threshold`` of its maximum.

    The chance level is that of a map which marks everything.
    """
    scaled, masks = _defined(heat, masks)
    marked = scaled >= threshold
    both = (marked & masks).flatten(-2).sum(-1)
    either = (marked | masks).flatten(-2).sum(-1)
    return torch.where(torch.isnan(scaled).flatten(-2).any(-1), torch.nan, both / either)


@measure(
    "best-iou", "IoU at the best threshold", better="higher", needs="mask", chance=area,
    paper="Choe et al. 2020, CVPR, whose argument it is that no threshold suits every method; here the best per image",
)  # fmt: skip
def best_iou(heat: Tensor, masks: Tensor) -> Tensor:
    """The highest intersection over union that any threshold above zero gives; how good the map's ranking could be.

    The threshold is chosen with the mask in hand, so it is an upper bound, not what a user gets.
    """
    scaled, masks = _defined(heat, masks)
    values, order = scaled.flatten(-2).sort(-1, descending=True)
    inside = masks.flatten(-2).expand(order.shape).gather(-1, order).cumsum(-1)  # of the k highest pixels
    marked = torch.arange(1, order.shape[-1] + 1, device=order.device)
    size = masks.flatten(-2).sum(-1, keepdim=True)
    ratio = inside / (marked + size - inside)
    # a threshold takes all pixels of one value or none
    ends = torch.cat([values[..., 1:] < values[..., :-1], torch.ones_like(values[..., :1], dtype=torch.bool)], -1)
    best = torch.where(ends & (values > 0), ratio, 0.0).amax(-1)
    return torch.where(torch.isnan(values).any(-1), torch.nan, best)


@measure(
    "rank-accuracy", "relevance rank accuracy", better="higher", needs="mask", paper=_ARRAS, chance=area
)  # fmt: skip
def rank_accuracy(heat: Tensor, masks: Tensor) -> Tensor:
    """Of the K pixels with the highest values, K the object's size in pixels, the share that lies on the object.

    Where values tie at the K-th place, the expected share over all ways to break the tie.
    """
    scaled, masks = _defined(heat, masks)
    flat, on = scaled.flatten(-2), masks.flatten(-2).expand((*scaled.shape[:-2], -1))
    size = on.sum(-1)  # K
    at = flat.sort(-1, descending=True).values.gather(-1, (size - 1).clamp(min=0)[..., None])
    above, tied = flat > at, flat == at
    places = size - above.sum(-1)  # left for the tied ones
    hits = (above & on).sum(-1) + places * (tied & on).sum(-1) / tied.sum(-1)
    return torch.where(torch.isnan(flat).any(-1), torch.nan, hits / size)


def _defined(heat: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Heat over its maximum, NaN throughout where nothing can be said; masks as bool on the same device.

    Raises:
        ValueError: there is not one mask of the map's size per image.
    """
    if heat.ndim < 3 or tuple(masks.shape) != tuple(heat.shape[-3:]):
        raise ValueError(f"expected one mask of the map's size per image, got {masks.shape} for heat {heat.shape}")
    masks = masks.to(heat.device, torch.bool)
    seen = masks.flatten(-2).any(-1)[..., None, None]
    return torch.where(seen, unit(heat), torch.nan), masks
