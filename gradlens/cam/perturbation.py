"""CAM methods that weight a channel by what happens to the score when the channel is shown alone or taken away.

They need forward passes and no gradient: one per channel, image and depth, in batches of bounded size. All targets of
an image share them. Symbols as in :mod:`gradlens.cam.methods`; y_t is the logit of class t, x the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlens.cam.methods import method
from gradlens.depths.layout import Reading
from gradlens.depths.modules import hooked, undisturbed
from gradlens.errors import DepthError, ModelError
from gradlens.records import HookPoint
from gradlens.zoo.outputs import logits_of

# What one batch may hold. At the input, images of 224 pixels a side: larger batches were slower on a CPU (up to twice
# as slow at 64), whose cache they leave. At a depth, values of its output: 64 MB in float32.
_IMAGES = {"cpu": 8, "cuda": 64}
_VALUES = 2**24


@method(
    "scorecam",
    "Score-CAM",
    needs="model",
    paper="Wang et al. 2020, CVPR Workshops, algorithm 1",
    formula="Σ_c w_c A_c, w = softmax over c of y(x ⊙ s(up(A_c))) − y(0), s(u) = (u − min u) / (max u − min u)",
)
def scorecam(model: nn.Module, images: Tensor, points: Sequence[HookPoint], targets: Tensor) -> list[Tensor]:
    """Score-CAM: channels weighted by the target's logit where the image shows through that channel alone.

    The score is the logit, the baseline an input of zeros (the mean colour, for a normalised image), the softmax runs
    over the channels of one depth, as in the paper's algorithm; so the baseline's logit, the same for all channels,
    cancels. A channel that is constant over the image has no mask (0/0); it gets no weight, as in the authors' code.

    Args:
        model: a classifier.
        images: (N, 3, H, W).
        points: its depths.
        targets: (N, T) class indices.

    Returns:
        Per depth (N, T, rows, columns).
    """
    size = (images.shape[2], images.shape[3])
    with undisturbed(model), torch.no_grad():
        pixels = images.detach()
        activations = _activations(model, pixels, points)
        return [_scorecam(model, pixels, a, targets, size) for a in activations]


def _scorecam(model: nn.Module, images: Tensor, a: Tensor, targets: Tensor, size: tuple[int, int]) -> Tensor:
    n, channels = a.shape[:2]
    flat = a.flatten(2)
    live = (flat.amax(2) > flat.amin(2)).nonzero()  # pairs of image and channel
    scores = torch.full((n, channels, targets.shape[1]), -torch.inf, device=a.device)
    for pairs in live.split(_at_once(images)):
        image, channel = pairs.unbind(1)
        up = F.interpolate(a[image, channel][:, None], size, mode="bilinear", align_corners=False)
        least, most = up.amin((2, 3), keepdim=True), up.amax((2, 3), keepdim=True)
        masks = (up - least) / torch.where(most > least, most - least, 1.0)
        logits = logits_of(model(images[image] * masks.to(images.dtype))).float()
        scores[image, channel] = logits.gather(1, targets[image])
    weights = torch.nan_to_num(scores.softmax(1), nan=0.0)  # NaN: no channel of this image is alive
    return torch.einsum("nct,nchw->nthw", weights, a)


@method(
    "ablationcam",
    "Ablation-CAM",
    needs="model",
    paper="Desai and Ramaswamy 2020, WACV",
    formula="Σ_c w_c A_c, w_c = (y − y without A_c) / |y|",
)
def ablationcam(model: nn.Module, images: Tensor, points: Sequence[HookPoint], targets: Tensor) -> list[Tensor]:
    """Ablation-CAM: channels weighted by the share of the target's logit that goes when they are set to zero.

    Where it leaves the paper: the drop is divided by the logit's size, not by the logit, so that a map does not turn
    over where the logit is negative. Only the grid's cells are set to zero; prefix tokens (class token, registers) are
    no part of a feature map. What lies before the depth runs on one image per batch, as far as the network allows.

    Args:
        model: a classifier.
        images: (N, 3, H, W).
        points: its depths.
        targets: (N, T) class indices.

    Returns:
        Per depth (N, T, rows, columns).
    """
    with undisturbed(model), torch.no_grad():
        pixels = images.detach()
        return [_ablationcam(model, pixels, p, targets) for p in points]


def _ablationcam(model: nn.Module, images: Tensor, point: HookPoint, targets: Tensor) -> Tensor:
    maps = []
    for image, target in zip(images.split(1), targets, strict=True):
        (a,) = _activations(model, image, [point])
        alive = a[0].flatten(1).any(1).nonzero()[:, 0]  # a channel that is zero already changes nothing
        whole = logits_of(model(image)).float()[0, target]  # (T,)
        drop = torch.zeros((a.shape[1], len(target)), device=a.device)
        for channels, logits in _without(model, image, point, alive, max(1, _VALUES // a[0].numel())):
            drop[channels] = whole - logits[:, target]
        size = whole.abs()
        weights = drop / torch.where(size > 0, size, 1.0)
        maps.append(torch.einsum("ct,nchw->nthw", weights, a))
    return torch.cat(maps)


def _without(
    model: nn.Module, image: Tensor, point: HookPoint, channels: Tensor, chunk: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of channels, and the logits (channels, K) without each.

    The depth's output for one image is copied as often as there are channels in a chunk, one of them set to zero in
    each copy, so that what lies before the depth runs once. The first copy stays whole: where its logits are not those
    of the image (or the network fails on a batch that grew in its middle), the copies go in at the pixels.
    """
    truth = logits_of(model(image)).float()
    for done in range(0, len(channels), chunk):
        some = channels[done : done + chunk]
        logits = _ablated(model, image, point, some)
        if logits is None or not _same(logits[:1], truth):
            break
        yield some, logits[1:]
    else:
        return
    for some in channels[done:].split(_at_once(image)):
        logits = _ablated(model, image.expand(1 + len(some), -1, -1, -1), point, some)
        if logits is None:
            raise ModelError(f"the network does not run with channels of {point.name!r} set to zero")
        yield some, logits[1:]


def _same(logits: Tensor, truth: Tensor) -> bool:
    return bool((logits - truth).abs().max() <= 1e-3 * truth.abs().max())


def _ablated(model: nn.Module, images: Tensor, point: HookPoint, channels: Tensor) -> Tensor | None:
    """Logits (1 + channels, K), first of the whole; ``None`` where the network failed or lost the batch."""

    def see(_path: str, call: int, tensor: Tensor) -> Tensor | None:
        if call != point.call:
            return None
        copies = tensor.expand(1 + len(channels), *tensor.shape[1:]).clone()
        _reading(point).grid(copies)[torch.arange(1, len(copies), device=channels.device), channels] = 0
        return copies

    with hooked({point.path: model.get_submodule(point.path)}, see):
        try:
            logits = logits_of(model(images)).float()
        except (RuntimeError, ModelError):
            if len(images) == 1 + len(channels):
                raise
            return None
    return logits if len(logits) == 1 + len(channels) else None


def _at_once(images: Tensor) -> int:
    """How many images of this size go through the network at once."""
    return max(1, _IMAGES.get(images.device.type, 8) * 224 * 224 // images[0, 0].numel())


def _activations(model: nn.Module, images: Tensor, points: Sequence[HookPoint]) -> list[Tensor]:
    """Every depth's output as (N, C, rows, columns) float32 from one forward pass; call it without gradients."""
    wanted = {(p.path, p.call): p for p in points}
    seen: dict[tuple[str, int], Tensor] = {}

    def see(path: str, call: int, tensor: Tensor) -> None:
        if (path, call) in wanted:
            # a copy, because something later may work in place on it
            seen[path, call] = _reading(wanted[path, call]).grid(tensor).float().clone()

    with hooked({p.path: model.get_submodule(p.path) for p in points}, see):
        model(images)
    missing = [p.name for p in points if (p.path, p.call) not in seen]
    if missing:
        raise DepthError(f"module {missing[0]!r} did not run in this forward pass")
    return [seen[p.path, p.call] for p in points]


def _reading(point: HookPoint) -> Reading:
    return Reading(point.layout, point.prefix, point.shape[1], point.shape[2])
