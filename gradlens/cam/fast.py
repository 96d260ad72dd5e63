"""A faster copy of a network for making maps: norms folded into convolutions, channels-last memory, lower precision.

Folding is exact up to rounding: in evaluation mode a batch norm is a scale and a shift per channel, which the
convolution before it can do itself. Which convolutions may take theirs in is found, not listed: a batch norm folds into
a convolution where it is the only thing in the autograd graph that uses the convolution's output, and every fold is
checked on the activations of a real pass. The module tree keeps its names, so that hook points stay valid.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from gradlens.cam.engine import Explanation, explain
from gradlens.cam.targets import Targets
from gradlens.depths.find import Depths, find_depths
from gradlens.depths.modules import undisturbed, unwrap
from gradlens.records import HookPoint
from gradlens.zoo.outputs import logits_of

_TOLERANCE = 1e-3  # of a folded convolution's output, relative to its largest value


@dataclass(frozen=True)
class FastCopy:
    """A network made faster.

    Attributes:
        module: takes the same images as the original, gives the same logits up to rounding.
        folded: paths of the batch norms that went into a convolution.
        dtype: of weights and activations.
    """

    module: nn.Module
    folded: tuple[str, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Deviation:
    """How far maps are from those of the plain pass.

    Attributes:
        least, median: cosine similarity of the raw maps, over images, targets and depths; maps that are blank in both
            passes are left out, and those blank in one of them count as 0.
        maps: how many were compared.
        same_prediction: share of the images whose predicted class is the same.
    """

    least: float
    median: float
    maps: int
    same_prediction: float

    def __str__(self) -> str:
        return (
            f"cosine to the plain pass at least {self.least:.4f}, median {self.median:.4f} over {self.maps} maps; "
            f"same prediction for {100 * self.same_prediction:.0f} % of the images"
        )


def fast_copy(
    model: nn.Module,
    image: torch.Tensor,
    points: Sequence[HookPoint] = (),
    dtype: torch.dtype = torch.float32,
) -> FastCopy:
    """A copy of a classifier that makes the same maps in less time. The original is left as it is.

    Args:
        model: a classifier; the copy takes its place for as long as its weights do not change.
        image: (1, 3, H, W), any image, on the model's device: folds are checked on it.
        points: depths that will be asked for; a convolution whose own output is one keeps its norm behind it.
        dtype: ``torch.bfloat16`` or ``torch.float16`` for lower precision throughout. Maps of convolutional networks
            can change under it: see :func:`deviation`.
    """
    network = copy.deepcopy(unwrap(model)).eval()
    for p in network.parameters():
        p.requires_grad_(False)
    folded = _fold(network, image, {p.path for p in points})
    convolves = any(isinstance(m, nn.Conv2d) and m.kernel_size != m.stride for m in network.modules())
    layout = torch.channels_last if convolves else torch.contiguous_format
    network = network.to(dtype=dtype, memory_format=layout)  # type: ignore[call-overload]  # accepts a memory format

    def prepare(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        images, *rest = inputs
        return (images.to(dtype=dtype, memory_format=layout), *rest)

    network.register_forward_pre_hook(prepare)
    return FastCopy(network, tuple(folded), dtype)


def deviation(
    model: nn.Module,
    fast: FastCopy,
    images: torch.Tensor,
    *,
    layers: Sequence[str] | str = "stages",
    targets: Targets = None,
    method: str = "gradcam",
    depths: Depths | None = None,
) -> Deviation:
    """Maps of the copy against maps of the original, for the same targets (by default what the original predicts)."""
    depths = depths or find_depths(model, images[:1])  # the same for both: a copy's activations may round elsewhere
    plain = explain(model, images, layers=layers, targets=targets, method=method, depths=depths)
    quick = explain(fast.module, images, layers=layers, targets=plain.targets, method=method, depths=depths)
    return compare(plain, quick)


def compare(plain: Explanation, other: Explanation) -> Deviation:
    """How far one explanation's maps are from another's, of the same images, targets and depths."""
    cosines = []
    for one, two in zip(plain.maps, other.maps, strict=True):
        one, two = one.flatten(2).double(), two.flatten(2).double()
        drawn = (one != 0).any(2) | (two != 0).any(2)
        cosines.append(F.cosine_similarity(one, two, dim=2, eps=0.0).nan_to_num()[drawn])
    values = torch.cat(cosines)
    if not len(values):
        return Deviation(1.0, 1.0, 0, _agreement(plain, other))
    return Deviation(float(values.min()), float(values.median()), len(values), _agreement(plain, other))


def _agreement(plain: Explanation, other: Explanation) -> float:
    return float((plain.logits.argmax(1) == other.logits.argmax(1)).float().mean())


def _fold(network: nn.Module, image: torch.Tensor, keep: Collection[str]) -> list[str]:
    """Fold what can be folded, in place; the paths of the batch norms that are gone."""
    convolutions: dict[int, tuple[str, nn.Conv2d, torch.Tensor, torch.Tensor]] = {}  # by identity of the output
    pairs: list[tuple[str, nn.Conv2d, str, nn.BatchNorm2d, torch.Tensor, torch.Tensor, torch.Tensor]] = []
    calls: Counter[nn.Module] = Counter()
    paths = {m: path for path, m in network.named_modules()}

    def see(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] += 1
        if isinstance(module, nn.Conv2d):
            convolutions[id(output)] = (paths[module], module, inputs[0], output)
        elif isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in convolutions:
            path, conv, given, made = convolutions[id(inputs[0])]
            # an activation inside the norm may overwrite what it was given; what came out is kept as a copy
            pairs.append((path, conv, paths[module], module, given, made, output.detach().clone()))

    watched = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    handles = [m.register_forward_hook(see) for m in watched]
    try:
        with undisturbed(network):
            logits = logits_of(network(image.detach().clone().requires_grad_(True)))
    finally:
        for handle in handles:
            handle.remove()
    users = _users(logits)
    shared = Counter(id(p) for m in network.modules() for p in m.parameters(recurse=False))
    folded = []
    for path, conv, norm_path, norm, given, made, expected in pairs:
        alone = calls[conv] == calls[norm] == 1 and users[made.grad_fn] == 1 and shared[id(conv.weight)] == 1
        if not alone or path in keep or norm.running_mean is None or norm.running_var is None:
            continue
        fused = copy.copy(conv)
        fused._parameters = dict(conv._parameters)
        fused.weight, fused.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        after = _after(norm)
        if after is None:
            continue
        with torch.no_grad():
            # a subclass may do more with its weight than convolve (weight standardisation does)
            off = (after(fused(given.detach())) - expected).abs().max()
        if not off <= _TOLERANCE * expected.abs().max():
            continue
        conv.weight, conv.bias = fused.weight, fused.bias
        parent, _, child = norm_path.rpartition(".")
        setattr(network.get_submodule(parent), child, after)
        folded.append(norm_path)
    return folded


def _after(norm: nn.BatchNorm2d) -> nn.Module | None:
    """What a batch norm does besides normalising: nothing, or an activation (timm's norms with one inside)."""
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    steps = [getattr(norm, name, None) for name in ("drop", "act")]
    return nn.Sequential(*steps) if all(isinstance(s, nn.Module) for s in steps) else None  # type: ignore[arg-type]


def _users(logits: torch.Tensor) -> Counter[Any]:
    """How many nodes of the graph behind the logits use each node's output."""
    users: Counter[Any] = Counter()
    stack, seen = [logits.grad_fn], {logits.grad_fn}
    while stack:
        node = stack.pop()
        for child, _ in node.next_functions if node is not None else ():
            if child is not None:
                users[child] += 1
                if child not in seen:
                    seen.add(child)
                    stack.append(child)
    return users
