"""The last layer of a classifier, which turns features into logits: found, drawn anew, or replaced by another head.

The head is the last layer alone, as timm's ``pretrained_cfg["classifier"]`` has it. Where a classifier is a small
network of its own (VGG's two hidden layers of 4,096, MobileNetV3's one of 1,280, MaxViT's), the layers before its last
one carry weights that were learned with the backbone, and count as part of it.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from gradlens.errors import ModelError
from gradlens.zoo.build import call_factory, split_builder

KINDS = ("own", "linear", "mlp")


class Head(BaseModel):
    """What turns the backbone's features into logits.

    Attributes:
        kind: ``"own"`` (the architecture's), ``"linear"``, ``"mlp"`` (pooled features, Linear, ReLU, Dropout, Linear)
            or ``FILE.py:FACTORY``, called with ``in_features`` and ``num_classes``.
        hidden: width of the MLP's hidden layer.
        dropout: of the MLP, and before a linear head.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str = "own"
    hidden: Annotated[int, Field(ge=1)] = 256
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _known(self) -> Head:
        if self.kind not in KINDS and not self.file:
            raise ValueError(f"kind must be {', '.join(KINDS)} or FILE.py:FACTORY, got {self.kind!r}")
        if self.dropout and self.kind not in ("linear", "mlp"):
            raise ValueError(f"dropout belongs to a linear or an mlp head; kind is {self.kind!r}")
        return self

    @property
    def file(self) -> str:
        """The Python file that makes it; empty where none does."""
        try:
            is_file = split_builder(self.kind)[0] == "file"
        except ModelError:
            return ""
        return self.kind.rpartition(":")[0] if is_file else ""


class Attached(nn.Module):
    """A head in the place of a network's own last layer.

    Attributes:
        layers: (N, ..., in_features) -> (N, ..., K).
        in_features: channels of what it is given.
        pools: whether it stands in the place of a convolution, whose (N, C, H, W) input it averages first; it then
            returns (N, K, 1, 1), since such a network pools its logits (SqueezeNet).
    """

    def __init__(self, layers: nn.Module, in_features: int, pools: bool) -> None:
        super().__init__()
        self.layers, self.in_features, self.pools = layers, in_features, pools

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features as the network's own last layer got them -> logits as it gave them."""
        if self.pools:
            return self.layers(features.mean((2, 3)))[:, :, None, None]
        return self.layers(features)


def find(module: nn.Module, num_classes: int) -> tuple[str, ...]:
    """Paths of the layers that give the logits: one, or two where a network averages two heads (LeViT, distilled DeiT).

    An attached head is found as a whole. Else it is the layer of ``num_classes`` outputs in what timm's
    ``get_classifier`` returns, or the last one that the network registered. Empty where there is none.
    """
    paths = {id(m): path for path, m in module.named_modules()}
    if attached := tuple(path for path, m in module.named_modules() if isinstance(m, Attached)):
        return attached
    ask = getattr(module, "get_classifier", None)
    named = ask() if callable(ask) else None
    for part in named if isinstance(named, tuple | list) else (named,):
        if not isinstance(part, nn.Module) or id(part) not in paths:
            break
    else:
        parts = named if isinstance(named, tuple | list) else (named,)
        found = [last for part in parts if (last := _last_layer(part, num_classes)) is not None]
        if found:
            return tuple(paths[id(layer)] for layer in found)
    last = _last_layer(module, num_classes)
    return () if last is None else (paths[id(last)],)


def _last_layer(module: nn.Module, outputs: int) -> nn.Module | None:
    layers = [m for m in module.modules() if _outputs(m) == outputs]
    return layers[-1] if layers else None


def _outputs(layer: nn.Module) -> int:
    if isinstance(layer, nn.Linear):
        return layer.out_features
    return layer.out_channels if isinstance(layer, nn.Conv2d) else 0


def attach(module: nn.Module, head: Head, num_classes: int) -> None:
    """Put ``head`` in the place of the network's last layer, with new weights; ``"own"`` leaves the network alone.

    Args:
        module: a classifier with ``num_classes`` outputs.
        head: what kind.
        num_classes: K.

    Raises:
        ModelError: the network has no last layer to replace, or the user's factory does not make a head.
    """
    if head.kind == "own":
        return
    places = find(module, num_classes)
    if not places or "" in places:
        raise ModelError(
            f"{type(module).__name__} has no last layer of {num_classes} outputs that a head could replace; "
            "use head.kind = own, and let the network's own file make the head"
        )
    for path in places:
        own = module.get_submodule(path)
        if isinstance(own, Attached):
            inputs, pools = own.in_features, own.pools
        elif isinstance(own, nn.Conv2d):
            inputs, pools = own.in_channels, True
        else:
            assert isinstance(own, nn.Linear)
            inputs, pools = own.in_features, False
        module.set_submodule(path, Attached(_layers(head, inputs, num_classes), inputs, pools))


def _layers(head: Head, inputs: int, outputs: int) -> nn.Module:
    if head.kind == "linear":
        return nn.Sequential(nn.Dropout(head.dropout), nn.Linear(inputs, outputs))
    if head.kind == "mlp":
        return nn.Sequential(
            nn.Linear(inputs, head.hidden), nn.ReLU(), nn.Dropout(head.dropout), nn.Linear(head.hidden, outputs)
        )
    try:
        made: Any = call_factory(head.kind, {"in_features": inputs, "num_classes": outputs})
        shape = tuple(made.eval()(torch.zeros(2, inputs)).shape) if isinstance(made, nn.Module) else None
    except (TypeError, ValueError, AssertionError, RuntimeError) as err:
        why = next(iter(str(err).splitlines()), type(err).__name__)
        raise ModelError(f"{head.kind} with in_features={inputs}, num_classes={outputs}: {why}") from err
    if shape != (2, outputs):
        got = type(made).__name__ if shape is None else f"a module that gives {shape}"
        raise ModelError(f"{head.kind} returned {got}; expected a module from (N, {inputs}) to (N, {outputs})")
    return made.train()


@torch.no_grad()
def calm(module: nn.Module, classes: int) -> None:
    """Draw a classification head anew, in place, where its library's initialisation is too large for few classes.

    EfficientNet's (Tan & Le 2019), which MobileNet and MNASNet share in timm and torchvision, draws it from
    ±1/sqrt(classes): right for 1,000 outputs, but with eight the first logits are near five and the first epochs are
    spent on forgetting them. torch's own initialisation goes by the number of inputs.
    """
    for layer in module.modules():
        if not isinstance(layer, nn.Linear) or layer.out_features != classes:
            continue
        if float(layer.weight.std()) > 2 / math.sqrt(3 * layer.in_features):  # torch's own has half of that
            layer.reset_parameters()
