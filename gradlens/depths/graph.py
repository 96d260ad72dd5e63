"""Cut vertices of an autograd graph: the places that every path from the pixels to the logits crosses.

A forward pass leaves a directed acyclic graph of ``grad_fn`` nodes. Every node on a path from the input to the
logits is looked at once, in topological order from the input. A node is a cut if no edge that opened before it ends
after it. (In such a graph a vertex lies on every path exactly if nothing jumps over it in any topological order.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

# Backward nodes that do more than rearrange, scale, normalise or gate what is already there: between two outputs
# without one of these in between lies no real change of the features, so they count as one depth.
_WORK = ("conv", "mm", "linear", "pool", "scaleddotproduct", "attention", "upsample", "einsum", "fft", "rnn", "lstm")


@dataclass(frozen=True)
class Cuts:
    """Where the cuts of one forward pass are.

    Attributes:
        position: node -> rank in topological order from the input, for every node between input and logits.
        cut: ranks that are cuts.
        outputs: node -> the output numbers of it that are used on the way (``chunk`` has several).
        work: running count of working nodes (convolutions, products, pooling) up to each rank.
    """

    position: dict[Any, int]
    cut: frozenset[int]
    outputs: dict[Any, frozenset[int]]
    work: list[int]

    def is_cut(self, node: Any, output: int) -> bool:
        """Whether the tensor that ``node`` gave as its output number ``output`` is crossed by every path."""
        return self.position.get(node) in self.cut and self.outputs[node] <= {output}


def find_cuts(logits: torch.Tensor, pixels: torch.Tensor) -> Cuts:
    """Sweep the graph between ``pixels`` (a leaf that requires grad) and ``logits`` once.

    Linear in nodes and edges.
    """
    root = logits.grad_fn
    order: list[Any] = []  # post-order over next_functions: inputs before what consumes them
    reaches: dict[Any, bool] = {}  # does the node lie on a path from the pixels?
    stack: list[tuple[Any, bool]] = [(root, False)]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            variable = getattr(node, "variable", None)
            is_pixels = variable is pixels
            reaches[node] = is_pixels or any(reaches.get(child, False) for child, _ in node.next_functions)
            if reaches[node]:
                order.append(node)
            continue
        if node in reaches:
            continue
        reaches[node] = False
        stack.append((node, True))
        stack.extend((child, False) for child, _ in node.next_functions if child is not None and child not in reaches)

    position = {node: i for i, node in enumerate(order)}
    farthest = [0] * len(order)  # the farthest consumer of each node
    outputs: dict[Any, set[int]] = {node: set() for node in order}
    for node, i in position.items():
        for child, number in node.next_functions:
            if child in position:
                at = position[child]
                farthest[at] = max(farthest[at], i)
                outputs[child].add(number)
    if root is not None and root in outputs:
        outputs[root].add(logits.output_nr)

    cut, open_until = set(), 0
    for i in range(len(order)):
        if open_until <= i:
            cut.add(i)
        open_until = max(open_until, farthest[i])

    work, total = [], 0
    for node in order:
        total += any(word in type(node).__name__.lower() for word in _WORK)
        work.append(total)
    return Cuts(position, frozenset(cut), {n: frozenset(o) for n, o in outputs.items()}, work)
