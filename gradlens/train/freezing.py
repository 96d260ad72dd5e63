"""What learns in a phase of a training run, and what stays as it is.

Every parameter belongs to one part of the network: the head (:func:`gradlens.zoo.heads.find`), or the stretch that ends
at the first depth (:mod:`gradlens.depths`) whose output it influences. What comes after the last depth but before the
head (a final norm, the hidden layers of VGG's classifier) goes with the last stretch.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gradlens.depths.find import Depths, find_depths
from gradlens.depths.modules import hooked, undisturbed
from gradlens.errors import DepthError, NotFoundError, TrainingError
from gradlens.zoo import heads
from gradlens.zoo.outputs import logits_of


@dataclass(frozen=True)
class Chosen:
    """What learns.

    Attributes:
        train: what was asked for, as in :class:`gradlens.train.settings.Phase`.
        parts: the same for people: ``last:1`` with the depths that it stands for.
        head, backbone: names of the parameters that learn.
        parameters: numbers of all parameters; of those that learn.
        classes: K, outputs of the network.
    """

    train: tuple[str, ...]
    parts: tuple[str, ...]
    head: tuple[str, ...]
    backbone: tuple[str, ...]
    parameters: tuple[int, int]
    classes: int


def choose(module: nn.Module, input_size: int, train: Sequence[str]) -> Chosen:
    """Find what ``train`` means in this network, and let nothing else learn (see :func:`apply`).

    Args:
        module: a classifier.
        input_size: side of its input in pixels.
        train: see :class:`gradlens.train.settings.Phase`.

    Raises:
        NotFoundError: a name or glob is no depth's and no module's.
        TrainingError: the head was asked for and none is found, or nothing would learn.
        DepthError: depths were asked for and the network has none.
    """
    (chosen,) = plan(module, input_size, [train])
    apply(module, chosen)
    return chosen


def plan(module: nn.Module, input_size: int, trains: Sequence[Sequence[str]]) -> tuple[Chosen, ...]:
    """:func:`choose` for several phases at once; leaves the network as it is.

    A run asks once, before its first step: which of the depths are stages may depend on the weights, and a run that is
    continued has others by then.
    """
    some = next(module.parameters())
    image = torch.randn(1, 3, input_size, input_size, generator=torch.Generator().manual_seed(0)).to(some)
    with undisturbed(module), torch.no_grad():
        classes = logits_of(module(image)).shape[1]
    head = [f"{path}." if path else "" for path in heads.find(module, classes)]
    names = [n for n, _ in module.named_parameters()]
    of_head = {n for n in names if any(n.startswith(path) for path in head)}
    needed = any(part not in ("all", "head") for train in trains for part in train)
    stretches = _Stretches(module, image, of_head) if needed else None
    return tuple(_chosen(module, tuple(train), classes, of_head, stretches) for train in trains)


def _chosen(
    module: nn.Module, train: tuple[str, ...], classes: int, of_head: set[str], stretches: _Stretches | None
) -> Chosen:
    sizes = {n: p.numel() for n, p in module.named_parameters()}
    learns: set[str] = set()
    shown = []
    for part in train:
        if part == "all":
            found, text = set(sizes), part
        elif part == "head":
            found, text = of_head, part
        else:
            assert stretches is not None
            found, text = stretches.named(part)
        if not found:
            raise TrainingError(
                f"{type(module).__name__} has no last layer of {classes} outputs that could be its head; "
                "name the modules that learn instead"
                if part == "head"
                else f"{part!r} holds no parameters, so it cannot learn; see: gradlens layers"
            )
        learns |= found
        shown.append(text)
    return Chosen(
        train,
        tuple(shown),
        tuple(n for n in sizes if n in learns & of_head),
        tuple(n for n in sizes if n in learns - of_head),
        (sum(sizes.values()), sum(sizes[n] for n in learns)),
        classes,
    )


def report(chosen: Chosen) -> str:
    """One line for people: ``trains 5,130 of 11,181,642 parameters: head``."""
    every, learning = chosen.parameters
    return f"trains {learning:,} of {every:,} parameters: {', '.join(chosen.parts)}"


def apply(module: nn.Module, chosen: Chosen) -> None:
    """Let the chosen parameters learn and no others."""
    learns = {*chosen.head, *chosen.backbone}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in learns)


def train_mode(module: nn.Module) -> None:
    """Training mode, but for every part that holds parameters of which none learns.

    Such a part is in evaluation mode as a whole: its batch norms use the statistics they have and leave them alone, and
    it drops nothing out. A dropout between the backbone and the head belongs to neither, and works.
    """
    module.train()
    for part in module.modules():
        parameters = list(part.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            part.eval()


class _Stretches:
    """Which parameters lie between the depths of a network."""

    def __init__(self, module: nn.Module, image: torch.Tensor, of_head: set[str]) -> None:
        self.module = module
        self.depths: Depths = find_depths(module, image)
        if not self.depths.points:
            raise DepthError(f"{self.depths.note}: nothing but 'all', 'head' can be told apart in this network")
        self.names = [p.name for p in self.depths.points]
        self.stages = [i for i, p in enumerate(self.depths.points) if "stages" in p.selectors]
        first = self._first_influenced(image)
        last = len(self.names) - 1
        self.at = {n: first.get(id(p), last) for n, p in module.named_parameters() if n not in of_head}

    def named(self, part: str) -> tuple[set[str], str]:
        """(names of its parameters, how it is reported) of ``last:N``, a depth, a module, or a glob over either."""
        if part.startswith("last:"):
            count = int(part.removeprefix("last:"))
            after = self.stages[-count - 1] if count < len(self.stages) else -1
            return {n for n, at in self.at.items() if at > after}, f"{part} (from {self.names[after + 1]} on)"
        if part in self.names and (own := {n for n, at in self.at.items() if at == self.names.index(part)}):
            return own, part
        # the name of a stage that is no depth itself stands for the depths in it
        picked = {i for i, name in enumerate(self.names) if _matches(name, part)}
        if found := {n for n, at in self.at.items() if at in picked}:
            return found, part
        if not any(_matches(path, part) for path, _ in self.module.named_modules()):
            raise NotFoundError("depth or module", part, self.names, "see: gradlens layers")
        return {n for n, _ in self.module.named_parameters() if _matches(n, part)}, part

    def _first_influenced(self, image: torch.Tensor) -> dict[int, int]:
        """id of a parameter -> number of the first depth whose output it influences.

        One forward pass; then, depth by depth, the part of the autograd graph behind it that no earlier one reached.
        """
        points = self.depths.points
        outputs: dict[tuple[str, int], Any] = {}

        def see(path: str, call: int, tensor: torch.Tensor) -> None:
            outputs[path, call] = tensor.grad_fn

        asked = [p for p in self.module.parameters() if not p.requires_grad]
        modules = {p.path: self.module.get_submodule(p.path) for p in points}
        first: dict[int, int] = {}
        with undisturbed(self.module), hooked(modules, see):
            for p in self.module.parameters():
                p.requires_grad_(True)
            try:
                self.module(image)
            finally:
                for p in asked:
                    p.requires_grad_(False)
        seen: set[Any] = set()
        for i, point in enumerate(points):
            stack = [outputs[point.path, point.call]]
            while stack:
                node = stack.pop()
                if node is None or node in seen:
                    continue
                seen.add(node)
                variable = getattr(node, "variable", None)
                if variable is not None:
                    first.setdefault(id(variable), i)
                stack.extend(child for child, _ in node.next_functions)
        return first


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern names it, or something around it."""
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")
