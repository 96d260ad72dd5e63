"""Weights that came from elsewhere: reading them without running them, fitting them to a network, all or nothing."""

from __future__ import annotations

import pickle
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradlens.errors import CheckpointError
from gradlens.records import Preprocess
from gradlens.zoo.build import build, split_builder
from gradlens.zoo.cards import Card, Preprocessing
from gradlens.zoo.checkpoints import (
    CONFIG,
    full_name,
    is_safetensors,
    load_folder,
    load_state,
    read_tensors,
    save,
)

# where training scripts put the weights inside what they save; averaged weights first, as timm does
NESTS = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "module",
)
# what wrappers put before every name: DataParallel, torch.compile, AveragedModel, Lightning modules
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weight file, unwrapped: safetensors, or what ``torch.save`` writes.

    A pickle is read with ``weights_only=True``: what would run code is refused, never run.

    Raises:
        CheckpointError: there is no such file, it is cut short, would run code, or holds no tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no weight file {path}")
    document = read_tensors(path) if is_safetensors(path) else _read_pickle(path)
    return _unwrapped(document, path)


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the ages of pickles
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        unsafe = _unsafe_globals(path)
        if unsafe:
            raise CheckpointError(
                f"{path} is a pickle that would run code ({', '.join(unsafe[:4])}"
                f"{', ...' if len(unsafe) > 4 else ''}); it was not loaded. Save the bare weights where you trust it: "
                "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
            ) from err
        raise CheckpointError(f"{path} is no weight file that torch or safetensors can read") from err
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as err:
        why = str(err).strip().partition("\n")[0] or type(err).__name__
        raise CheckpointError(f"{path} is no weight file, or is cut short: {why}") from err


def _unsafe_globals(path: Path) -> list[str]:
    """Names that a pickle would import, found without running it."""
    if zipfile.is_zipfile(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    return sorted(set(_imports(path.read_bytes())))


def _imports(data: bytes) -> list[str]:
    """``module.name`` of every GLOBAL and STACK_GLOBAL of a bare pickle that torch does not allow by itself."""
    import pickletools

    found, strings = [], []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "GLOBAL":
                found.append(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL" and len(strings) >= 2:
                found.append(".".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
    except ValueError:
        pass  # not a pickle from here on: what was found before still stands
    return [f for f in found if not f.startswith(("torch.", "collections.OrderedDict"))]


def _unwrapped(document: Any, path: Path) -> dict[str, torch.Tensor]:
    while isinstance(document, Mapping) and not any(isinstance(v, torch.Tensor) for v in document.values()):
        inner = next((document[k] for k in NESTS if isinstance(document.get(k), Mapping)), None)
        if inner is None:
            break
        document = inner
    if isinstance(document, Mapping):
        nested = next((document[k] for k in NESTS if isinstance(document.get(k), Mapping)), None)
        document = nested if nested is not None else document  # an EMA's counter may lie beside its weights
        state = {str(k): v for k, v in document.items() if isinstance(v, torch.Tensor)}
        if state:
            return {k: v for k, v in state.items() if k != "n_averaged"}  # AveragedModel counts its updates there
        keys = ", ".join(map(str, list(document)[:6])) or "nothing"
        raise CheckpointError(f"{path} holds no weights under state_dict, model or the like; it holds: {keys}")
    raise CheckpointError(f"{path} holds {type(document).__name__}, expected a dictionary of tensors")


def fitted(module: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``state`` under the network's own names: wrappers' prefixes off, batch norm's counters (new in 2018) filled in.

    Of the ways to read the names, the one that leaves the fewest tensors without a place is taken; nothing is dropped.
    """
    expected = module.state_dict()

    def strangers(candidate: Mapping[str, torch.Tensor]) -> int:
        return len(set(candidate) ^ set(expected))

    best = current = dict(state)
    while prefix := next((p for p in WRAPPERS if current and all(k.startswith(p) for k in current)), None):
        current = {k.removeprefix(prefix): v for k, v in current.items()}
        if strangers(current) < strangers(best):
            best = current
    counters = {k: v for k, v in expected.items() if k.endswith("num_batches_tracked") and k not in best}
    known_norms = {k for k in counters if k.replace("num_batches_tracked", "running_mean") in best}
    return {**best, **{k: counters[k] for k in known_norms}}


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
    kind, _ = split_builder(arch)
    given = {**_size_argument(arch, preprocess), **(arguments or {})}
    module = module_with(arch, given, read_state_dict(weights), len(classes), weights)
    builder = arch
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=folder.parent) as made:
        staged = Path(made) / folder.name
        staged.mkdir()
        if kind == "file":
            file, _, factory = arch.rpartition(":")
            shutil.copy(file, staged / "network.py")
            builder = f"network.py:{factory}"
        card = Card(
            builder=builder,
            arguments=given,
            classes=tuple(classes),
            preprocess=Preprocessing.of(preprocess, decode),
            source=weights.name,
            licence=licence,
        )
        card = save(staged, module.eval(), card, name=name or full_name(folder))
        load_folder(staged, folder.name)  # what was written is what will be read
        if folder.exists():
            shutil.rmtree(folder)
        staged.rename(folder)
    return card


def _size_argument(arch: str, preprocess: Preprocess) -> dict[str, Any]:
    """``img_size`` for timm's networks that are built for one input size (ViT, Swin), where it is not their default."""
    kind, name = split_builder(arch)
    if kind != "timm":
        return {}
    from timm.models import get_pretrained_cfg

    cfg = get_pretrained_cfg(name)
    if cfg is None or not cfg.fixed_input_size or tuple(cfg.input_size[1:]) == preprocess.size:
        return {}
    height, width = preprocess.size
    return {"img_size": height if height == width else [height, width]}
