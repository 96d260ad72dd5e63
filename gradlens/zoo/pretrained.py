"""Weights that a training starts from: found, fitted tensor by tensor, and what did not fit named.

Unlike a checkpoint that is loaded to be used, all of it or nothing (:func:`gradlens.zoo.weights.load_state`), weights
to start from may have another classifier, another input size, or a part more or less. What fits is taken; what does
not is listed, on the terminal and on the card; and when more than half of the network would stay random, that is an
error, because it is then another network.
"""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradlens.errors import CheckpointError, NotFoundError
from gradlens.records import Preprocess
from gradlens.zoo import checkpoints, heads
from gradlens.zoo.build import split_builder
from gradlens.zoo.foreign import load_foreign
from gradlens.zoo.weights import fitted, read_state_dict, sha256_of

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Loaded:
    """What became of the weights that a network was given.

    Attributes:
        source: what they are: ``cifar10/resnet``, a file, ``timm:resnet18 (a1_in1k)``.
        weights: sha256 of the file; ``"pretrained"`` for a library's own.
        preprocess: of the images they were trained on, where that is known: their normalisation is ours.
        taken, parameters: numbers that were taken over, of how many in all.
        head: names of the classifier's tensors, where it is new: of other classes, or of another kind.
        missing: names that the network has and the weights do not; they stay random.
        unexpected: names that the weights have and the network does not.
        misshaped: names that both have in different shapes; they stay random.
    """

    source: str
    weights: str
    preprocess: Preprocess | None
    taken: int
    parameters: int
    head: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshaped: tuple[str, ...] = ()

    def misfits(self) -> list[str]:
        """One clause for each kind of tensor that did not fit."""
        named = {"missing": self.missing, "unexpected": self.unexpected, "mis-shaped": self.misshaped}
        return [f"{len(names)} {what} ({_few(names)})" for what, names in named.items() if names]

    def report(self) -> str:
        """One line for people: what was taken, what was not."""
        parts = [f"starts from {self.source}: {self.taken:,} of {self.parameters:,} parameters", *self.misfits()]
        if self.head:
            parts.append(f"the classifier is new ({_few(self.head)})")
        return "; ".join(parts)


def load(
    module: nn.Module,
    spec: str,
    *,
    builder: str,
    arguments: Mapping[str, Any],
    classes: Sequence[str],
    offline: bool = False,
    zoo: Path | None = None,
) -> Loaded:
    """:func:`find` and :func:`fit` in one."""
    return fit(module, find(spec, builder, offline=offline, zoo=zoo), builder, arguments, classes)


def fit(module: nn.Module, found: Found, builder: str, arguments: Mapping[str, Any], classes: Sequence[str]) -> Loaded:
    """Give ``module``, freshly built, the weights that were found, in place, as far as they fit.

    The classifier is taken over only where its classes are the same, name by name (a bare file has no names: there the
    number decides). Position embeddings and biases of another input size are resampled where timm or torchvision know
    how.

    Args:
        module: what ``builder`` made of ``arguments``, with one output per class, and its head.
        found: the weights.
        builder, arguments: see :func:`gradlens.zoo.build.build`; for the message.
        classes: names, in the order of the module's logits.

    Raises:
        CheckpointError: the weights are not finite, or more than half of the network's do not fit.
    """
    own = module.state_dict()
    places = tuple(f"{path}." for path in heads.find(module, len(classes)))
    body = {k: t for k, t in own.items() if not k.startswith(places)}
    state = fitted(module, found.state)
    if any(k not in state or state[k].shape != t.shape for k, t in body.items()):
        state = _resampled(module, state)

    def matches(name: str) -> bool:
        return name in state and state[name].shape == own[name].shape

    same_classes = found.classes is None or tuple(found.classes) == tuple(classes)
    head = [k for k in own if k not in body]
    new = [] if same_classes and all(map(matches, head)) else head  # a classifier in parts is none
    fits = {k: state[k] for k in own if matches(k) and k not in new}
    if infinite := [k for k, t in fits.items() if t.is_floating_point() and not t.isfinite().all()]:
        raise CheckpointError(f"{found.source} holds values that are not finite, first in {infinite[0]}")
    sizes = {name: p.numel() for name, p in module.named_parameters()}
    loaded = Loaded(
        source=found.source,
        weights=found.weights,
        preprocess=found.preprocess,
        taken=sum(n for name, n in sizes.items() if name in fits),
        parameters=sum(sizes.values()),
        head=tuple(new),
        missing=tuple(k for k in body if k not in state and not k.endswith("num_batches_tracked")),
        unexpected=tuple(
            k for k in state if k not in own and not k.endswith("num_batches_tracked") and not k.startswith(places)
        ),
        misshaped=tuple(k for k in body if k in state and not matches(k)),
    )
    before = {name: n for name, n in sizes.items() if name in body}  # the classifier
    if 2 * sum(n for name, n in before.items() if name in fits) < sum(before.values()):
        raise CheckpointError(
            f"{found.source} does not fit {builder}{_shown(arguments)}: it has only {loaded.taken:,} of its "
            f"{loaded.parameters:,} parameters; {'; '.join(loaded.misfits())}. Start from weights of the same "
            "architecture and arguments"
        )
    module.load_state_dict({**own, **{k: t.to(own[k].dtype) for k, t in fits.items()}})
    return loaded


# ---------------------------------------------------------------- where weights lie


@dataclass(frozen=True)
class Found:
    """Weights as they lie somewhere.

    Attributes:
        source, weights, preprocess: see :class:`Loaded`.
        state: tensors by name.
        classes: what the outputs mean; ``None`` where nobody says.
    """

    source: str
    state: Mapping[str, torch.Tensor]
    weights: str
    classes: tuple[str, ...] | None
    preprocess: Preprocess | None


def find(spec: str, builder: str, *, offline: bool = False, zoo: Path | None = None) -> Found:
    """Read the weights that ``spec`` names.

    Args:
        spec: ``"imagenet"`` (those of the architecture's own library), a model of the zoo, a checkpoint folder, or a
            weight file.
        builder: the architecture that is to get them.
        offline: look nothing up on a network; what lies in a cache serves.
        zoo: folder of checkpoints; ``None`` for ``./checkpoints``, then gradlens' own.

    Raises:
        NotFoundError: no such weights.
        CheckpointError: they cannot be had, or not read.
    """
    if spec == "imagenet":
        return _published(builder, offline)
    path = Path(spec)
    if path.name == checkpoints.WEIGHTS and (path.parent / checkpoints.CONFIG).is_file():
        path = path.parent  # its card says more than the tensors do
    if path.is_file():
        return Found(path.name, read_state_dict(path), sha256_of(path), None, None)
    known = checkpoints.names(zoo)
    hint = "--pretrained takes imagenet, a model of the zoo, a checkpoint folder or a weight file"
    try:
        (name,) = checkpoints.expand([spec], zoo) if not path.is_dir() else (str(path),)
    except (NotFoundError, ValueError):
        raise NotFoundError("weights", spec, known, hint) from None
    if name not in known and not path.is_dir():  # timm:NAME: an architecture, and ours is chosen already
        raise NotFoundError("weights", spec, known, hint)
    source = name if name in known else checkpoints.full_name(path)  # a card says nothing about this machine's folders
    model = checkpoints.load_folder(known.get(name, path), source)
    return Found(source, model.module.state_dict(), model.weights, model.classes, model.preprocess)


def _published(builder: str, offline: bool) -> Found:
    """The weights that the architecture's library offers for it."""
    kind, name = split_builder(builder)
    if kind == "gradlens":
        raise CheckpointError(
            f"{builder} is gradlens' own, narrower than what is published: there are no ImageNet weights for it; start "
            "from a model of the zoo (--pretrained COLLECTION/MODEL), or train timm:NAME or torchvision:NAME"
        )
    model = load_foreign(builder, weights="pretrained", classes=None, offline=offline)
    module, preprocess, source = model.module, model.preprocess, builder
    if kind == "torchvision":
        from torchvision import models

        source = f"{builder} ({models.get_model_weights(name).DEFAULT})"
        if getattr(module, "transform_input", False):
            # GoogLeNet and Inception turn ImageNet's normalisation into the one they were trained with; ours, built
            # without that step, is given their images directly
            half = (0.5, 0.5, 0.5)
            preprocess = Preprocess(
                preprocess.input_size, preprocess.interpolation, preprocess.crop_pct, preprocess.crop_mode, half, half
            )
    elif kind == "timm" and (tag := (getattr(module, "pretrained_cfg", None) or {}).get("tag")):
        source = f"{builder} ({tag})"
    return Found(source, module.state_dict(), "pretrained", model.classes, preprocess)


# ---------------------------------------------------------------- fitting


def _resampled(module: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the network's own library makes of weights for another input size (or in its authors' own naming)."""
    from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

    if isinstance(module, VisionTransformer):
        try:
            return dict(interpolate_embeddings(module.image_size, module.patch_size, OrderedDict(state)))
        except ValueError as err:
            raise CheckpointError(f"position embeddings cannot be resampled: {err}") from err
    library = type(module).__module__
    if library.startswith("transformers."):
        return {k: _grid_resampled(k, t, module.state_dict()) for k, t in state.items()}
    rewrite = getattr(sys.modules[library], "checkpoint_filter_fn", None)
    if rewrite is None or not library.startswith("timm."):
        return dict(state)
    try:
        return dict(rewrite(dict(state), module))
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return dict(state)  # another architecture's names: what does not fit is listed as such


def _grid_resampled(name: str, tensor: torch.Tensor, own: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Position embeddings (1, prefix tokens + rows × columns, C) for another square grid; anything else as it is."""
    from timm.layers import resample_abs_pos_embed

    wanted = own[name].shape if name in own else tensor.shape
    if not name.endswith("position_embeddings") or tensor.ndim != 3 or tensor.shape == wanted:
        return tensor
    for prefix in range(3):  # none, the class token, DeiT's distillation token
        old, new = (math.isqrt(max(0, n - prefix)) for n in (tensor.shape[1], wanted[1]))
        if old * old + prefix == tensor.shape[1] and new * new + prefix == wanted[1]:
            resampled: torch.Tensor = resample_abs_pos_embed(tensor, [new, new], [old, old], num_prefix_tokens=prefix)
            return resampled
    return tensor


def _few(names: Sequence[str], most: int = 4) -> str:
    more = f", ... and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _shown(arguments: Mapping[str, Any]) -> str:
    return f"({', '.join(f'{k}={v!r}' for k, v in arguments.items())})" if arguments else ""
