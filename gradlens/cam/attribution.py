"""Attribution methods that explain pixels: columns to hold CAMs against.

Symbols as in :mod:`gradlens.cam.methods`; x is the image (3, H, W), y the target's logit. Maps are sums over the three
colours. The pixels' baseline is an input of zeros: the mean colour, where images are normalised.

Guided backprop and FullGrad change or read single operations. A :class:`TorchFunctionMode` does that for one pass, so
that functional calls, modules used twice and in-place operations are no different from any others, and no module of
the user's is touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from gradlens.cam.methods import gradcam, method
from gradlens.depths.capture import Score, capture
from gradlens.depths.layout import readings
from gradlens.depths.modules import undisturbed
from gradlens.errors import ModelError
from gradlens.records import HookPoint
from gradlens.zoo.outputs import logits_of

T = TypeVar("T")

_AT_ONCE = 8 * 224 * 224  # pixels that go through the network in one pass: what is kept for a backward pass stays small
IG_STEPS = 50
OCCLUDED = 1 / 8  # side of the occluding square, as a share of the image's shorter side


@method(
    "fullgrad",
    "FullGrad",
    needs="model",
    at="pixels",
    paper="Srinivas and Fleuret 2019, NeurIPS, arXiv:1905.00780",
    formula="ψ(∇y ⊙ x) + Σ_l Σ_c ψ((∂y/∂z_l ⊙ b_l)_c), z_l = a layer's biased output, ψ = up(min-max(|·|))",
)
def fullgrad(model: nn.Module, images: Tensor, points: Sequence[HookPoint], targets: Tensor) -> list[Tensor]:
    """FullGrad: input times gradient, and bias times gradient of every layer, all enlarged to the input.

    Biases are those of convolutions, linear layers over a grid and norms; a batch norm's also holds what its running
    mean takes away. ψ scales one layer of one image to 0..1 over all its channels and cells, as the authors' code does.
    Biases of outputs without rows and columns (fully connected layers, windows, prefix tokens) are left out. In a
    network of ReLUs :func:`full_gradient` adds up to the logit; smooth activations, softmax and layer norm hold further
    "implicit biases" that no layer names, and the map is an approximation there.

    Args:
        model: a classifier.
        images: (N, 3, H, W).
        points: not read; every layer takes part.
        targets: (N, T) class indices.

    Returns:
        One tensor (N, T, H, W), not negative.
    """
    size = (images.shape[2], images.shape[3])
    maps = []
    for some, columns in _chunks(images, targets):
        maps.append(torch.stack(full_gradient(model, some, columns, lambda parts: _aggregated(parts, size)), 1))
    return [torch.cat(maps)]


def _aggregated(parts: Sequence[Part], size: tuple[int, int]) -> Tensor:
    """FullGrad's map (N, H, W) from the parts of the full gradient, the pixels' first."""
    total = _stretched(parts[0].values).sum(1)
    for part in parts[1:]:
        grid = part.grid(size)
        if grid is not None:
            small = _stretched(grid).sum(1, keepdim=True)  # enlarging is linear, so channels are summed first
            total = total + F.interpolate(small, size, mode="bilinear", align_corners=False)[:, 0]
    return total


@method(
    "guided-backprop",
    "guided backpropagation",
    needs="model",
    at="pixels",
    paper="Springenberg et al. 2015, ICLR Workshop, section 3.4",
    formula="∂y/∂x, where every ReLU hands back only positive gradients of its positive inputs",
)
def guided_backprop(model: nn.Module, images: Tensor, points: Sequence[HookPoint], targets: Tensor) -> list[Tensor]:
    """Guided backpropagation; made for networks of ReLUs (ReLU6 counts), other activations keep their derivative.

    Args:
        model: a classifier.
        images: (N, 3, H, W).
        points: not read.
        targets: (N, T) class indices.

    Returns:
        One tensor (N, T, H, W), signed.

    Raises:
        ModelError: the network has no ReLU.
    """
    return [_guided(model, images, targets).sum(2)]


@method(
    "guided-gradcam",
    "Guided Grad-CAM",
    needs="model",
    paper="Selvaraju et al. 2017, ICCV, section 3",
    formula="guided backpropagation ⊙ up(ReLU(Grad-CAM))",
)
def guided_gradcam(model: nn.Module, images: Tensor, points: Sequence[HookPoint], targets: Tensor) -> list[Tensor]:
    """Guided Grad-CAM: at each depth, what guided backpropagation shows where Grad-CAM is positive.

    Args:
        model: a classifier.
        images: (N, 3, H, W).
        points: its depths.
        targets: (N, T) class indices.

    Returns:
        Per depth (N, T, H, W), at the resolution of the pixels, signed.

    Raises:
        ModelError: the network has no ReLU.
    """
    size = (images.shape[2], images.shape[3])
    fine = _guided(model, images, targets).sum(2)  # one coarse map for all three colours, so they can be added first
    columns = capture(
        model,
        images,
        points,
        lambda _: [Score(t) for t in targets.unbind(1)],
        lambda c: [gradcam(a.float(), g.float()) for a, g in zip(c.activations, c.gradients, strict=True)],
    )
    coarse = [torch.stack(maps, 1).clamp(min=0) for maps in zip(*columns, strict=True)]
    return [fine * F.interpolate(c, size, mode="bilinear", align_corners=False) for c in coarse]


@method(
    "integrated-gradients",
    "Integrated Gradients",
    needs="model",
    at="pixels",
    paper="Sundararajan et al. 2017, ICML, eq. 1",
    formula="x ⊙ ∫₀¹ ∂y/∂x at αx dα",
)
def integrated_gradients(
    model: nn.Module, images: Tensor, points: Sequence[HookPoint], targets: Tensor
) -> list[Tensor]:
    """Integrated Gradients from an input of zeros, by Captum: Gauss-Legendre with :data:`IG_STEPS` points.

    Args:
        model: a classifier.
        images: (N, 3, H, W).
        points: not read.
        targets: (N, T) class indices.

    Returns:
        One tensor (N, T, H, W), signed; its cells add up to y(x) − y(0), but for the integration's error.
    """
    from captum.attr import IntegratedGradients

    maps = []
    with undisturbed(model):
        explainer = IntegratedGradients(_forward_of(model))
        for some, columns in _chunks(images, targets):
            made = [
                explainer.attribute(
                    some.clone().requires_grad_(True),
                    target=target,
                    n_steps=IG_STEPS,
                    internal_batch_size=_at_once(images),
                )
                for target in columns.unbind(1)
            ]
            maps.append(torch.stack([m.detach().float().sum(1) for m in made], 1))
    return [torch.cat(maps)]


@method(
    "occlusion",
    "occlusion",
    needs="model",
    at="pixels",
    paper="Zeiler and Fergus 2014, ECCV, section 4.2",
    formula="mean over the squares that cover a pixel of y − y(x with the square set to zero)",
)
def occlusion(model: nn.Module, images: Tensor, points: Sequence[HookPoint], targets: Tensor) -> list[Tensor]:
    """Occlusion by a sliding square, by Captum: what the logit loses where a part of the image is covered.

    The square's side is :data:`OCCLUDED` of the image's shorter side, its step half of that: about 225 forward passes
    of a square image, whatever its size.

    Args:
        model: a classifier.
        images: (N, 3, H, W).
        points: not read.
        targets: (N, T) class indices.

    Returns:
        One tensor (N, T, H, W), signed, in units of the logit.
    """
    from captum.attr import Occlusion

    side = max(1, round(min(images.shape[2:]) * OCCLUDED))
    step = max(1, side // 2)
    maps = []
    with undisturbed(model), torch.no_grad():
        explainer = Occlusion(_forward_of(model))
        for some, columns in _chunks(images, targets):
            made = [
                explainer.attribute(
                    some,
                    target=target,
                    sliding_window_shapes=(3, side, side),
                    strides=(3, step, step),
                    baselines=0,
                    perturbations_per_eval=max(1, _at_once(images) // len(some)),
                )
                for target in columns.unbind(1)
            ]
            # a square covers all three colours, so each has the whole drop
            maps.append(torch.stack([m[:, 0].float() for m in made], 1))
    return [torch.cat(maps)]


def _at_once(images: Tensor) -> int:
    """How many images of this size go through the network in one pass."""
    return max(1, _AT_ONCE // math.prod(images.shape[2:]))


def _chunks(images: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and their targets in pieces for one pass each, ready for autograd."""
    # an inference tensor cannot be saved for backward; outside inference mode a copy is an ordinary one
    with torch.inference_mode(False):
        ready = images.clone() if images.is_inference() else images.detach()
        wanted = targets.clone() if targets.is_inference() else targets
    many = _at_once(images)
    yield from zip(ready.split(many), wanted.split(many), strict=True)


def _forward_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: logits_of(model(x))


class Part:
    """One summand of a network's full gradient, per unit.

    Attributes:
        values: (N, ...): input times gradient, or bias times gradient; a view of the layer's output shape.
    """

    def __init__(self, values: Tensor, axis: int, images: int, seen_grids: Sequence[tuple[int, int]]) -> None:
        self.values = values
        self._axis, self._images, self._seen_grids = axis, images, seen_grids

    def grid(self, size: tuple[int, int]) -> Tensor | None:
        """(N, C, rows, columns) for an input of (H, W) pixels; ``None`` if this part has no rows and columns."""
        v = self.values
        if v.shape[0] != self._images:
            return None  # windows
        if self._axis == 1:
            return v if v.ndim == 4 and v.shape[2] * v.shape[3] > 1 else None
        fitting = [r for r in readings((1, *v.shape[1:]), size, self._seen_grids) if r.layout != "NCHW"]
        return fitting[0].grid(v) if fitting else None


def full_gradient(model: nn.Module, images: Tensor, targets: Tensor, make: Callable[[Sequence[Part]], T]) -> list[T]:
    """The full-gradient decomposition (Srinivas and Fleuret 2019, section 3), once per target.

    In a network that is linear in pieces (convolutions, linear layers, batch norms in evaluation mode, ReLUs, any
    pooling) the parts of an image add up to its logit.

    Args:
        model: a classifier.
        images: (N, 3, H, W).
        targets: (N, T) class indices.
        make: what to keep of a target's parts: input times gradient (N, 3, H, W), then bias times gradient of every
            biased output, in the order they ran. Biases inside ``nn.MultiheadAttention`` are not seen.

    Returns:
        What ``make`` returned, one per target.
    """
    made = []
    with undisturbed(model):
        pixels = images.clone().requires_grad_(True)
        with _Biased() as watch:
            logits = logits_of(model(pixels))
        if not logits.requires_grad:
            raise ModelError("the logits do not depend on the pixels through anything differentiable")
        outputs = [o for o, _, _ in watch.seen]
        grids = list(dict.fromkeys((o.shape[2], o.shape[3]) for o, _, axis in watch.seen if axis == 1 and o.ndim == 4))
        last = targets.shape[1] - 1
        for t, target in enumerate(targets.unbind(1)):
            score = logits.gather(1, target[:, None]).sum()
            first, *rest = torch.autograd.grad(score, [pixels, *outputs], retain_graph=t < last, allow_unused=True)
            with torch.no_grad():
                parts = [Part((first * pixels).float(), 1, len(images), grids)]
                for (_, bias, axis), gradient in zip(watch.seen, rest, strict=True):
                    if gradient is not None:
                        aligned = bias.reshape(-1, *[1] * (gradient.ndim - 2)) if axis == 1 else bias
                        parts.append(Part((gradient * aligned).float(), axis, len(images), grids))
                made.append(make(parts))
    return made


_Bias: TypeAlias = "tuple[Tensor | None, int]"


class _Biased(TorchFunctionMode):
    """Notes every biased output that is made inside it.

    Attributes:
        seen: (output, bias (C,), axis of the channels: 1 or -1), in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor, int]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        find = _BIASES.get(func)
        if find is None or not output.requires_grad:  # made of parameters alone: position embeddings, queries
            return output
        bias, axis = find(*args, **kwargs)
        if bias is None:
            return output
        self.seen.append((output, bias.detach(), axis))
        return output.clone()  # what follows may work in place, and this one is differentiated


def _of_product(input: Tensor, weight: Tensor, bias: Tensor | None = None, *_: Any, **__: Any) -> _Bias:
    return bias, 1


def _of_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> _Bias:
    return bias, -1


def _of_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> _Bias:
    """β − γ μ / √(σ² + ε): what an evaluation-mode batch norm gives for an input of zeros."""
    if training or running_mean is None or running_var is None:
        return bias, 1
    shift = -running_mean / (running_var + eps).sqrt()
    if weight is not None:
        shift = shift * weight
    return (shift if bias is None else shift + bias), 1


def _of_layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> _Bias:
    return (bias if len(normalized_shape) == 1 else None), -1


def _of_group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> _Bias:
    return bias, 1


# from the arguments of a call, named as PyTorch names them: the bias and the axis of its channels
_BIASES: dict[Any, Callable[..., _Bias]] = {
    torch.conv1d: _of_product,
    torch.conv2d: _of_product,
    F.linear: _of_linear,
    F.batch_norm: _of_batch_norm,
    F.layer_norm: _of_layer_norm,
    F.group_norm: _of_group_norm,
}


def _stretched(values: Tensor) -> Tensor:
    """|values| (N, C, h, w) brought to 0..1 per image; zero where an image's are all alike."""
    size = values.abs()
    least = size.amin((1, 2, 3), keepdim=True)
    span = size.amax((1, 2, 3), keepdim=True) - least
    return (size - least) / torch.where(span > 0, span, 1.0)


def _guided(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Guided gradients at the pixels: (N, T, 3, H, W)."""
    made = []
    with undisturbed(model):
        for some, columns in _chunks(images, targets):
            pixels = some.clone().requires_grad_(True)
            with _Guided() as watch:
                logits = logits_of(model(pixels))
            if not watch.rectifiers:
                raise ModelError(
                    "guided backpropagation changes what ReLUs hand back, but this network has none; "
                    "use integrated-gradients or occlusion"
                )
            last = columns.shape[1] - 1
            gradients = [
                torch.autograd.grad(logits.gather(1, target[:, None]).sum(), pixels, retain_graph=t < last)[0]
                for t, target in enumerate(columns.unbind(1))
            ]
            made.append(torch.stack(gradients, 1).float())
    return torch.cat(made)


class _Guided(TorchFunctionMode):
    """Every ReLU that runs inside it hands back only positive gradients.

    Attributes:
        rectifiers: how many ran on something that depends on the pixels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rectifiers = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = _RECTIFIERS.get(func)
        ceiling = None if read is None else read(*args, **kwargs)
        if ceiling is None:
            return func(*args, **kwargs)
        most, inplace = ceiling
        x = args[0] if args else kwargs["input"]
        self.rectifiers += x.requires_grad
        return _GuidedReLU.apply(x, most, inplace)


def _relu(input: Tensor, inplace: bool = False) -> tuple[float, bool]:
    return math.inf, inplace


def _relu_in_place(input: Tensor) -> tuple[float, bool]:
    return math.inf, True


def _relu6(input: Tensor, inplace: bool = False) -> tuple[float, bool]:
    return 6.0, inplace


def _hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> tuple[float, bool] | None:
    return (max_val, inplace) if min_val == 0 else None


# from the arguments of a call: where it is cut off above, and whether it works in place; None if it is no ReLU
_RECTIFIERS: dict[Any, Callable[..., tuple[float, bool] | None]] = {
    F.relu: _relu,
    torch.relu: _relu,
    Tensor.relu: _relu,
    torch.relu_: _relu_in_place,
    Tensor.relu_: _relu_in_place,
    F.relu6: _relu6,
    F.hardtanh: _hardtanh,
}


class _GuidedReLU(torch.autograd.Function):
    """ReLU, cut off at a ceiling, whose backward pass drops negative gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, most: float, inplace: bool) -> Tensor:
        ctx.save_for_backward((x > 0) & (x < most))
        if inplace:
            ctx.mark_dirty(x)
            return x.clamp_(0, most)
        return x.clamp(0, most)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (passed,) = ctx.saved_tensors
        return gradient.clamp(min=0) * passed, None, None
