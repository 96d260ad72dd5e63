"""What lies between the depths: the parameters and the work of each stretch of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gradlens.depths.modules import hooked, undisturbed, unwrap
from gradlens.errors import DepthError, ModelError
from gradlens.records import HookPoint
from gradlens.zoo.outputs import logits_of


@dataclass(frozen=True)
class Stretch:
    """The part of a network from one depth to the next.

    Attributes:
        parameters: first used here; a weight that several stretches share is counted where it comes first.
        flops: of one image's forward pass, two per multiply-accumulate of matrix products and convolutions.
    """

    parameters: int
    flops: int


def stretches(model: nn.Module, points: Sequence[HookPoint], image: torch.Tensor) -> tuple[Stretch, ...]:
    """One stretch per depth, ending there, and a last one from the deepest depth to the logits; together they are the
    whole network.

    A depth is a cut, so whatever its output depends on was computed before it and whatever comes after depends on the
    pixels through it alone. Parameters are therefore told apart by the autograd graph: those that a depth's output
    depends on, less those of the depths before it. What nothing depends on (a head for training only) is counted in
    the last stretch. Costs one forward pass of one image.

    Args:
        model: a classifier; left exactly as it was.
        points: depths of this model in forward order (:func:`gradlens.depths.find.find_depths`), all of them cuts.
        image: (1, 3, H, W) float, of the size that the depths were found at.

    Raises:
        DepthError: a depth is no cut, or did not run.
        ModelError: the network gives no logits that depend on its parameters.
    """
    model = unwrap(model)
    for p in points:
        if not p.cut:
            raise DepthError(f"{p.name} is no cut: a path leads past it, so no stretch of the network ends there")
    wanted = {(p.path, p.call) for p in points}
    ends: dict[tuple[str, int], tuple[Any, int]] = {}
    counter = FlopCounterMode(display=False)

    def see(path: str, call: int, tensor: torch.Tensor) -> None:
        if (path, call) in wanted:
            ends[path, call] = tensor.grad_fn, counter.get_total_flops()

    parameters = list(model.parameters())
    with undisturbed(model):
        try:
            for weight in parameters:
                weight.requires_grad_(weight.is_floating_point())
            modules = {p.path: model.get_submodule(p.path) for p in points}
            with hooked(modules, see), counter:
                logits = logits_of(model(image.detach()))
        finally:
            for weight in parameters:
                weight.requires_grad_(False)  # as ``undisturbed`` had them; it gives them back what they were
    if logits.grad_fn is None:
        raise ModelError("the logits do not depend on the network's parameters through anything differentiable")
    if missing := [p.name for p in points if (p.path, p.call) not in ends]:
        raise DepthError(f"module {missing[0]!r} did not run in this forward pass")
    found, seen, flops, counted = [], set[Any](), 0, 0
    for p in points:
        node, until = ends[p.path, p.call]
        own = _parameters_of(node, seen)
        found.append(Stretch(own, until - flops))
        flops, counted = until, counted + own
    whole = sum(weight.numel() for weight in parameters)
    return (*found, Stretch(whole - counted, counter.get_total_flops() - flops))


def _parameters_of(node: Any, seen: set[Any]) -> int:
    """How many parameters lie upstream of a node of the graph, but for the nodes that were ``seen``; adds to those."""
    count, stack = 0, [node]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)  # of the nodes that accumulate a parameter's gradient
        if leaf is not None:
            count += int(leaf.numel())
        stack.extend(child for child, _ in node.next_functions)
    return count
