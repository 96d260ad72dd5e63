"""Attention rollout: how much of each input token reaches the classifier through the attention layers.

Fused attention never forms its matrix, so a :class:`TorchFunctionMode` stands between the network and PyTorch for one
forward pass: ``scaled_dot_product_attention`` is computed step by step there, and where a network spells it out, its
``softmax`` is taken. No module is touched or recognised by name; timm, torchvision (``nn.MultiheadAttention``) and
transformers all go through one of the two.

Symbols: A_l (N, heads, L, L) attention of layer l, rows are the tokens that look; ∇A_l gradient of the target's logit;
L tokens are prefix tokens (class token, registers) and the cells of the grid; E_h is the mean over heads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradlens.cam.methods import method
from gradlens.depths.modules import hooked, undisturbed
from gradlens.errors import DepthError, ModelError
from gradlens.records import HookPoint
from gradlens.zoo.outputs import logits_of


@method(
    "rollout",
    "attention rollout",
    needs="model",
    paper="Abnar and Zuidema 2020, ACL, section 3",
    formula="row of the read-out token in R_l = (½ E_h[A_l] + ½ I) R_{l−1}, R_0 = I, over the grid's tokens",
)
def rollout(model: nn.Module, images: Tensor, points: Sequence[HookPoint], targets: Tensor) -> list[Tensor]:
    """Attention rollout up to each depth; of no class in particular, so all targets of an image get the same map.

    Which rows are read out is seen from the network: those of the last attention layer that the logits depend on. With
    a class token that is its row; with average pooling it is the mean over the grid's rows.

    Args:
        model: a classifier with global attention over a token grid.
        images: (N, 3, H, W).
        points: its depths.
        targets: (N, T) class indices.

    Returns:
        Per depth (N, T, rows, columns), not negative; NaN at depths before the first attention layer, and at those
        whose tokens are not the ones all attention layers up to there work on.

    Raises:
        ModelError: none of the depths behind an attention layer is defined: windows, other token counts, no attention.
    """
    with undisturbed(model):
        run = _look(model, images, points)
        (gradient,) = torch.autograd.grad(_sum(run.logits, targets[:, 0]), run.layers[-1:])
        with torch.no_grad():
            eye = torch.eye(gradient.shape[-1], device=gradient.device)
            steps = [0.5 * run.heads(a).mean(1) + 0.5 * eye for a in run.layers]
            maps = _maps(run, steps, _read_out(run.heads(gradient)))
            return [m.expand(-1, targets.shape[1], -1, -1) for m in maps]


@method(
    "gradient-rollout",
    "gradient-weighted attention rollout",
    needs="model",
    paper="Chefer et al. 2021, ICCV, eq. 5 and 6",
    formula="row of the read-out token in R_l = (I + E_h[ReLU(∇A_l ⊙ A_l)]) R_{l−1}, R_0 = I, over the grid's tokens",
)
def gradient_rollout(model: nn.Module, images: Tensor, points: Sequence[HookPoint], targets: Tensor) -> list[Tensor]:
    """Attention relevance of Chefer et al. ("Generic Attention-model Explainability") up to each depth.

    Rows are read out as for :func:`rollout`. With average pooling the identity adds the same to every cell.

    Args:
        model: a classifier with global attention over a token grid.
        images: (N, 3, H, W).
        points: its depths.
        targets: (N, T) class indices.

    Returns:
        Per depth (N, T, rows, columns), not negative; NaN as for :func:`rollout`.

    Raises:
        ModelError: as for :func:`rollout`.
    """
    with undisturbed(model):
        run = _look(model, images, points)
        columns = []
        for t in range(targets.shape[1]):
            last = t + 1 == targets.shape[1]
            gradients = torch.autograd.grad(_sum(run.logits, targets[:, t]), run.layers, retain_graph=not last)
            with torch.no_grad():
                eye = torch.eye(gradients[0].shape[-1], device=gradients[0].device)
                pairs = zip(run.layers, gradients, strict=True)
                steps = [(run.heads(g) * run.heads(a)).clamp(min=0).mean(1) + eye for a, g in pairs]
                columns.append(_maps(run, steps, _read_out(run.heads(gradients[-1]))))
        return [torch.cat(depth, 1) for depth in zip(*columns, strict=True)]


@dataclass(frozen=True)
class _Run:
    """One forward pass.

    Attributes:
        logits: (N, K), in the graph.
        layers: attention (N, heads, L, L) or (N · heads, L, L), in the graph: that of the first layers, as long as
            they work on the same L tokens.
        points: the depths.
        before: per depth, how many of these layers come before it; 0 where the map is undefined.
    """

    logits: Tensor
    layers: tuple[Tensor, ...]
    points: Sequence[HookPoint]
    before: tuple[int, ...]

    def heads(self, values: Tensor) -> Tensor:
        """A layer's attention or its gradient as (N, heads, L, L) float32."""
        return values.float().reshape(len(self.logits), -1, *values.shape[-2:])


def _sum(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.gather(1, targets[:, None]).sum()


def _read_out(gradient: Tensor) -> Tensor:
    """(N, L) weights of the tokens that the logits are read from, which sum to one; NaN if there are none.

    Args:
        gradient: (N, heads, L, L) of the last layer's attention. After that layer tokens do not meet any more until
            the network reads some of them out, so the row of a token that it drops has no gradient.
    """
    rows = (gradient != 0).any(3).any(1).float()
    return rows / rows.sum(1, keepdim=True)


def _maps(run: _Run, steps: Sequence[Tensor], read: Tensor) -> list[Tensor]:
    """Per depth (N, 1, rows, columns): what the read-out tokens get from each cell through the steps before it."""
    rolled = [torch.eye(read.shape[1], device=read.device).expand(len(read), -1, -1)]
    for step in steps:
        rolled.append(step @ rolled[-1])
    maps = []
    for point, before in zip(run.points, run.before, strict=True):
        _, rows, columns = point.shape
        reached = (read[:, None] @ rolled[before])[:, 0, point.prefix : point.prefix + rows * columns]
        shape = (len(read), 1, rows, columns)
        maps.append(reached.reshape(shape) if before else torch.full(shape, torch.nan, device=read.device))
    return maps


def _look(model: nn.Module, images: Tensor, points: Sequence[HookPoint]) -> _Run:
    """Run the network once, keep its attention, and see which layers come before each depth."""
    wanted = {(p.path, p.call): p for p in points}
    watch = _Watch(len(images))
    seen: dict[tuple[str, int], tuple[int, int]] = {}  # attention calls before, tokens

    def see(path: str, call: int, tensor: Tensor) -> None:
        point = wanted.get((path, call))
        if point is not None:
            tokens = tensor.shape[1] if point.layout == "NLC" else point.shape[1] * point.shape[2]
            seen[path, call] = len(watch.calls), tokens

    # an inference tensor cannot be saved for backward; outside inference mode a copy is an ordinary one
    pixels = images.clone() if images.is_inference() else images.detach()
    with hooked({p.path: model.get_submodule(p.path) for p in points}, see), watch:
        logits = logits_of(model(pixels))
    if not watch.calls:
        raise ModelError("attention rollout needs a transformer, but this network has no attention layer")
    missing = [p.name for p in points if (p.path, p.call) not in seen]
    if missing:
        raise DepthError(f"module {missing[0]!r} did not run in this forward pass")
    before, reasons = [], []
    for p in points:
        calls, tokens = seen[p.path, p.call]
        reason = _why_undefined(watch.calls[:calls], tokens)
        before.append(0 if reason else calls)
        if calls and reason:
            reasons.append(f"{reason} (at {p.name!r})")
    if reasons and not any(before):
        raise ModelError(f"attention rollout needs attention from each token of the grid to every other; {reasons[-1]}")
    layers: list[Tensor] = []
    for layer in watch.calls:
        if isinstance(layer, str) or (layers and layer.shape[-1] != layers[0].shape[-1]):
            break
        layers.append(layer)
    if not layers:
        raise ModelError(
            f"attention rollout needs attention from each token of the grid to every other; {watch.calls[0]}"
        )
    return _Run(logits, tuple(layers), points, tuple(before))


def _why_undefined(calls: Sequence[Tensor | str], tokens: int) -> str:
    """Why a depth of this many tokens, behind these attention calls, has no rollout; empty if it has one."""
    for call in calls:
        if isinstance(call, str):
            return call
        if call.shape[-1] != tokens:
            return f"a layer attends over {call.shape[-1]} items, and the depth has {tokens} tokens"
        if call.ndim == 3 and isinstance(calls[0], Tensor) and call.shape != calls[0].shape:
            return "heads and windows cannot be told apart"
    return ""


_SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)


class _Watch(TorchFunctionMode):
    """Notes every attention call that happens inside it, in order: its matrix, in the graph, or why it has none.

    Args:
        images: N of the pass.
    """

    def __init__(self, images: int) -> None:
        super().__init__()
        self.images = images
        self.calls: list[Tensor | str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func in _SOFTMAX:
            return self._softmax(func, *args, **kwargs)
        if func is F.multi_head_attention_forward:
            with self._by_name():
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """``scaled_dot_product_attention``, step by step."""
        if is_causal or enable_gqa:
            self.calls.append("a layer's attention is causal or grouped")
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        scores = query * (query.shape[-1] ** -0.5 if scale is None else scale) @ key.transpose(-2, -1)
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        return self._noted(scores.softmax(-1)) @ value

    def _softmax(self, function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        result = function(*args, **kwargs)
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        last = dim in (-1, result.ndim - 1)
        return self._noted(result) if result.ndim >= 3 and last else result

    def _noted(self, weights: Tensor) -> Tensor:
        """Attention of shape (..., queries, keys), noted, and as it should travel on."""
        queries, keys = weights.shape[-2:]
        if queries != keys:
            self.calls.append(f"a layer attends from {queries} tokens to {keys}")
            return weights
        if weights.shape[0] != self.images and (weights.ndim > 3 or weights.shape[0] % self.images):
            self.calls.append(f"a layer attends within windows of {keys} tokens")
            return weights
        if not weights.requires_grad:  # the graph starts at the first layer
            weights = weights.detach().requires_grad_(True)
        self.calls.append(weights)
        return weights

    @contextmanager
    def _by_name(self) -> Iterator[None]:
        """Inside ``F.multi_head_attention_forward``, which is Python and runs with this mode off.

        It looks its two helpers up by name, so that is where they are caught; other threads get the real ones.
        """
        names: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
            "scaled_dot_product_attention": (F.scaled_dot_product_attention, self._attend),
            "softmax": (F.softmax, lambda *args, **kwargs: self._softmax(names["softmax"][0], *args, **kwargs)),
        }
        thread = threading.get_ident()

        def caught(real: Callable[..., Tensor], ours: Callable[..., Tensor]) -> Callable[..., Tensor]:
            return lambda *args, **kwargs: (ours if threading.get_ident() == thread else real)(*args, **kwargs)

        try:
            for name, (real, ours) in names.items():
                setattr(F, name, caught(real, ours))
            yield
        finally:
            for name, (real, _) in names.items():
                setattr(F, name, real)
