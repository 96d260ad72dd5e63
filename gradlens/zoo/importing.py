"""Weights that came from elsewhere, made a network's or a checkpoint folder's: all of them, or none."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradlens.errors import CheckpointError
from gradlens.records import Preprocess
from gradlens.zoo.build import build, hub_config, split_builder
from gradlens.zoo.cards import Card, Preprocessing
from gradlens.zoo.checkpoints import CONFIG, full_name, load_folder, save
from gradlens.zoo.weights import fitted, load_state, read_state_dict


def module_with(
    builder: str, arguments: Mapping[str, Any], state: Mapping[str, torch.Tensor], classes: int | None, where: Path
) -> nn.Module:
    """A network that holds ``state``; ``classes=None`` takes the number of outputs from the weights.

    The head is what differs between a network of 1,000 outputs and one of another number: when all mis-shaped tensors
    have 1,000 rows where the file has K, the network is built again with K outputs.

    Raises:
        CheckpointError: the weights do not fit; lists what is missing, unexpected, mis-shaped.
    """
    module = build(builder, arguments, classes or 1000)
    state = fitted(module, state)
    if classes is None:
        own = module.state_dict()
        differing = {
            (tuple(own[k].shape), tuple(t.shape)) for k, t in state.items() if k in own and own[k].shape != t.shape
        }
        rows = {new[0] if new and old[0] == 1000 and old[1:] == new[1:] else 0 for old, new in differing}
        if len(rows) == 1 and (k := rows.pop()):
            module = build(builder, arguments, k)
    load_state(module, state, where)
    return module


def import_checkpoint(
    folder: Path,
    weights: Path,
    arch: str,
    classes: Sequence[str],
    preprocess: Preprocess,
    *,
    name: str = "",
    arguments: Mapping[str, Any] | None = None,
    decode: str = "",
    licence: str = "",
    replace: bool = False,
) -> Card:
    """Turn a weight file into a checkpoint folder; the folder appears whole, or not at all.

    Args:
        folder: ``.../collection/model``.
        weights: a file that :func:`read_state_dict` reads.
        arch: a builder; the file of ``FILE.py:FACTORY`` is copied into the folder, so it must stand alone.
        classes: names, in the order of the logits.
        preprocess: how the network expects its images.
        name: on the model card; the folder's ``collection/model`` where none is given.
        arguments: of the builder.
        decode: the decoding policy (:data:`gradlens.data.decode.DECODE_POLICY`).
        licence: of the weights.
        replace: whether a checkpoint that is there already may be replaced.

    Returns:
        The card as written.

    Raises:
        CheckpointError: the weights do not fit the network, or a checkpoint is there already.
        ModelError: the network cannot be built.
    """
    if (folder / CONFIG).exists() and not replace:
        raise CheckpointError(f"{folder} is a checkpoint already; choose another name, or say --force to replace it")
    given = {**size_argument(arch, preprocess), **(arguments or {})}
    state = read_state_dict(weights)
    module = module_with(arch, given, state, len(classes), weights)
    half = all(t.dtype == torch.float16 for t in state.values() if t.is_floating_point())  # rounding would move scores
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=folder.parent) as made:
        staged = Path(made) / folder.name
        staged.mkdir()
        card = Card(
            builder=arch,
            arguments=given,
            classes=tuple(classes),
            preprocess=Preprocessing.of(preprocess, decode),
            source=weights.name,
            licence=licence,
        )
        card = save(staged, module.eval(), card, name=name or full_name(folder), half=half)
        load_folder(staged, folder.name)  # what was written is what will be read
        if folder.exists():
            shutil.rmtree(folder)
        staged.rename(folder)
    return card


def size_argument(arch: str, preprocess: Preprocess) -> dict[str, Any]:
    """The argument of networks that are built for one input size (ViT, Swin), where it is not their default."""
    kind, name = split_builder(arch)
    height, width = preprocess.size
    side = height if height == width else [height, width]
    if kind == "torchvision" and name.startswith("vit_") and preprocess.size != (224, 224):
        return {"image_size": height}
    if kind == "hf":
        own = hub_config(name).get("image_size")
        return {"image_size": side} if own is not None and own != side else {}
    if kind != "timm":
        return {}
    from timm.models import get_pretrained_cfg

    cfg = get_pretrained_cfg(name)
    if cfg is None or not cfg.fixed_input_size or tuple(cfg.input_size[1:]) == preprocess.size:
        return {}
    return {"img_size": side}
