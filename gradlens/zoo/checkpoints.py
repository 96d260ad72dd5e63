"""Checkpoint folders: names to folders, folders to models and back.

A folder holds ``config.json`` (timm's hub layout, and the card under ``gradlens``), ``model.safetensors`` and a
generated ``README.md``. Weights that were trained here are written in half precision, imported ones as they came;
all are loaded as fp32. Buffers (batch norm's running statistics, whose range is the data's) keep the precision they
had.
"""

from __future__ import annotations

import fnmatch
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradlens.errors import CheckpointError, ModelError, NotFoundError
from gradlens.records import LoadedModel, Preprocess
from gradlens.runtime import bundled, plain_file, versions, whole_file
from gradlens.zoo import consent
from gradlens.zoo.build import PREFIXES, build_seeded, split_builder
from gradlens.zoo.cards import Card, config_of, parse_card, readme_of
from gradlens.zoo.heads import attach
from gradlens.zoo.outputs import logits_of
from gradlens.zoo.profile import profile
from gradlens.zoo.weights import fitted, load_state, read_state_dict, read_tensors, sha256_of, write_tensors

WEIGHTS, CONFIG, README = "model.safetensors", "config.json", "README.md"
PICKLED = "pytorch_model.bin"  # what timm writes when it is not asked for safetensors
DEFAULT_COLLECTION = "vehicles"


# ---------------------------------------------------------------- names


def zoo_folders(zoo: Path | None) -> list[Path]:
    """Where checkpoints are looked for: ``zoo``, else ``./checkpoints`` and then those that come with gradlens."""
    if zoo is not None:
        return [zoo]
    here, own = Path("checkpoints"), bundled("checkpoints")
    return [here] if here.resolve() == own.resolve() else [here, own]


def names(zoo: Path | None = None) -> dict[str, Path]:
    """Every model of the zoo: ``collection/model`` (or ``model`` where it lies at the top) -> its folder.

    Where two zoo folders hold the same name, the first one counts. The default collection comes first, its models in
    the order of the table of architectures.
    """
    from gradlens.zoo.architectures import ARCHITECTURES

    found: dict[str, Path] = {}
    for root in zoo_folders(zoo):
        if zoo is not None and not root.is_dir():
            raise NotFoundError("zoo folder", str(root), hint="a zoo is a folder of COLLECTION/MODEL/config.json")
        for config in sorted([*root.glob(f"*/{CONFIG}"), *root.glob(f"*/*/{CONFIG}")]):
            found.setdefault(config.parent.relative_to(root).as_posix(), config.parent)
    order = list(ARCHITECTURES)

    def place(name: str) -> tuple[bool, str, int, str]:
        collection, _, model = name.rpartition("/")
        return collection != DEFAULT_COLLECTION, collection, order.index(model) if model in order else 999, model

    return {name: found[name] for name in sorted(found, key=place)}


def expand(patterns: Sequence[str], zoo: Path | None = None) -> list[str]:
    """Model names behind names, globs and ``all``; without doubles, in the order asked for.

    ``all``, and names and globs without ``/``, mean the default collection (every model of a zoo that has none) and
    models at the zoo's top. What is no name of the zoo (``timm:resnet18``, a folder, ``FILE.py:FACTORY``) passes
    unchanged.

    Raises:
        NotFoundError: no such model, or nothing matches a glob.
    """
    known = names(zoo)
    default = [n for n in known if n.startswith(DEFAULT_COLLECTION + "/")] or list(known)
    chosen: list[str] = []
    for pattern in patterns:
        if pattern == "all":
            if not default:
                raise NotFoundError("model", "all", hint="the zoo is empty; give --zoo DIR, or train a model")
            chosen += default
        elif any(c in pattern for c in "*?[") and not pattern.startswith(tuple(f"{p}:" for p in PREFIXES)):
            where = known if "/" in pattern else [*default, *(n for n in known if "/" not in n)]
            matches = [n for n in where if _matches(n, pattern)]
            if not matches:
                raise NotFoundError("model", pattern, known)
            chosen += matches
        else:
            name = _zoo_name(pattern, known)
            if name is None and not _is_folder(pattern):
                _must_be_builder(pattern, known)
            chosen.append(name or pattern)
    return list(dict.fromkeys(chosen))


def _matches(name: str, pattern: str) -> bool:
    """Part by part, so that ``*`` does not reach over ``/``; a pattern of one part is held against the model's name."""
    parts, patterns = name.split("/"), pattern.split("/")
    parts = parts[-len(patterns) :]
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


def _zoo_name(name: str, known: Mapping[str, Path]) -> str | None:
    candidates = (name,) if "/" in name else (f"{DEFAULT_COLLECTION}/{name}", name)
    return next((c for c in candidates if c in known), None)


def _is_folder(name: str) -> bool:
    return Path(name).is_dir()


def _must_be_builder(name: str, known: Mapping[str, Path]) -> None:
    try:
        split_builder(name)
    except ModelError:
        hint = "or give a folder, timm:NAME, torchvision:NAME, hf:REPO or FILE.py:FACTORY"
        raise NotFoundError("model", name, known, hint) from None


# ---------------------------------------------------------------- writing


def save(folder: Path, module: nn.Module, card: Card, *, name: str = "", half: bool = True) -> Card:
    """Write a checkpoint folder; each file appears whole or not at all, ``config.json`` last.

    Args:
        folder: ``.../collection/model``, made where it is missing.
        module: the network that ``card.builder`` builds, with ``card.head`` attached, with its weights.
        card: its ``parameters, flops, size, sha256, versions`` are filled in here. The file of a ``FILE.py:FACTORY``
            builder or head is copied into the folder, as ``network.py`` or ``head.py``, so it must stand alone.
        name: on the model card; ``collection/model`` of the folder where none is given.
        half: write weights in half precision; ``False`` keeps every bit.

    Returns:
        The complete card, as written.

    Raises:
        CheckpointError: a weight is not finite, or the logits are not as many as the card's classes.
    """
    kind, _ = split_builder(card.builder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = _as_stored(module, half)
    was_training = module.training
    try:
        _check_outputs(module.eval(), card, str(folder))
    finally:
        module.train(was_training)
    with whole_file(folder / WEIGHTS) as path:
        write_tensors(tensors, path)
        size, digest = path.stat().st_size, sha256_of(path)
    cost = profile(module, card.preprocess.input_size)
    head = card.head
    if head.file:
        head = head.model_copy(update={"kind": _bring(head.kind, "head.py", folder)})
    full = card.model_copy(
        update={
            "builder": _bring(card.builder, "network.py", folder) if kind == "file" else card.builder,
            "head": head,
            "parameters": cost.parameters,
            "flops": cost.flops,
            "size": size,
            "sha256": digest,
            "versions": versions(),
        }
    )
    write_card(folder, full, module, name=name)
    return full


def _bring(factory: str, name: str, folder: Path) -> str:
    """``FILE.py:FACTORY`` with the file copied into the folder under ``name``, unless it lies there already."""
    file, _, function = factory.rpartition(":")
    if not Path(file).is_file() and (folder / file).is_file():
        return factory
    with whole_file(folder / name) as path:
        shutil.copyfile(file, path)
    consent.agree(folder / name)  # it has just run, because somebody named it
    return f"{name}:{function}"


def write_card(folder: Path, card: Card, module: nn.Module | None = None, *, name: str = "") -> None:
    """Write ``config.json`` and ``README.md`` of a folder whose weights stand already (to add scores, for instance).

    Args:
        folder: a checkpoint folder.
        card: a complete card.
        module: asked for what timm's layout wants to know; ``None`` keeps what the folder's config says.
        name: on the model card; ``collection/model`` of the folder where none is given.
    """
    config = config_of(card, **(_facts_of(module) if module is not None else _facts_in(folder)))
    with whole_file(folder / README) as path:
        path.write_text(readme_of(card, name or full_name(folder)), encoding="utf-8")
    with whole_file(folder / CONFIG) as path:
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _facts_of(module: nn.Module) -> dict[str, Any]:
    pooling = getattr(module, "global_pool", None)
    return {
        "num_features": getattr(module, "num_features", None),
        "global_pool": pooling if isinstance(pooling, str) else None,
        "classifier": (getattr(module, "pretrained_cfg", None) or {}).get("classifier"),
    }


def _facts_in(folder: Path) -> dict[str, Any]:
    config = _read_config(folder)
    return {
        "num_features": config.get("num_features"),
        "global_pool": config.get("global_pool"),
        "classifier": config.get("pretrained_cfg", {}).get("classifier"),
    }


def stale_fields(folder: Path, card: Card) -> list[str]:
    """Names of what is generated from the card and no longer agrees with it: timm's fields, the model card."""
    config = _read_config(folder)
    if "gradlens" not in config:
        return []  # another tool's folder: there is nothing that the fields could contradict
    expected = config_of(card, **_facts_in(folder))
    stale = [k for k in {**expected, **config} if k != "gradlens" and config.get(k) != expected.get(k)]
    readme = folder / README
    try:
        written = plain_file(readme).read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        written = ""
    # the title is the name it was given when it was written, which a copied folder keeps
    title = written.partition("\n# ")[2].partition("\n")[0]
    if not title or written != readme_of(card, title):
        stale.append(README)
    return stale


def full_name(folder: Path) -> str:
    """``collection/model`` of a checkpoint folder, as its path says; ``model`` at the top of ``checkpoints``."""
    collection, model = folder.resolve().parts[-2:]
    return model if collection == "checkpoints" else f"{collection}/{model}"


def _as_stored(module: nn.Module, in_half: bool) -> dict[str, torch.Tensor]:
    """The state dict, with ``in_half`` in half precision: parameters only, and only those that it can hold."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    stored = {}
    for name, tensor in module.state_dict().items():
        tensor = tensor.detach().cpu().contiguous().clone()  # channels-last and tied weights are refused otherwise
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"{name} holds values that are not finite; nothing was written")
        if in_half and name in parameters and tensor.is_floating_point():
            half = tensor.half()
            tensor = half if half.isfinite().all() else tensor.float()
        stored[name] = tensor
    return stored


# ---------------------------------------------------------------- reading


def read_card(folder: Path) -> Card:
    """The card of a checkpoint folder.

    A folder that timm wrote has none; one is made of timm's own fields.

    Raises:
        CheckpointError: there is no config, it is no JSON, or a field is not what it should be.
    """
    config = _read_config(folder)
    where = folder / CONFIG
    if "gradlens" in config:
        card = parse_card(_mapping(config["gradlens"], where, "gradlens"), where)
        if config.get("num_classes", len(card.classes)) != len(card.classes):
            raise CheckpointError(
                f"{where}: num_classes is {config['num_classes']}, but gradlens.classes has {len(card.classes)} names"
            )
        return card
    if isinstance(config.get("architecture"), str) and "pretrained_cfg" in config:
        return _timm_card(config, where)
    if "model_type" in config:
        raise CheckpointError(f"{where} was written by transformers; name the folder as hf:{folder}")
    raise CheckpointError(f"{where} describes no model: expected the keys 'architecture' and 'pretrained_cfg'")


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        return dict(_mapping(json.loads(plain_file(path).read_text(encoding="utf-8")), path, "the document"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is no checkpoint folder: it has no {CONFIG}") from None
    except (ValueError, RecursionError) as err:
        raise CheckpointError(f"{path} is not JSON: {str(err).partition(chr(10))[0]}") from err


def _mapping(value: Any, where: Path, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: {what} should be a JSON object, but is {type(value).__name__}")
    return value


def _timm_card(config: Mapping[str, Any], where: Path) -> Card:
    given = _mapping(config["pretrained_cfg"], where, "pretrained_cfg")
    k = config.get("num_classes", given.get("num_classes", 1000))
    labels = config.get("label_names") or given.get("label_names")
    arguments = dict(_mapping(config.get("model_args") or {}, where, "model_args"))
    arguments.pop("num_classes", None)
    try:
        preprocess = preprocess_of(given)
    except (TypeError, ValueError, OverflowError) as err:
        raise CheckpointError(f"{where}: pretrained_cfg does not say how images are prepared: {err}") from err
    return parse_card(
        {
            "builder": f"timm:{config['architecture']}",
            "arguments": arguments,
            "classes": labels or generic_classes(k),
            "preprocess": {name: getattr(preprocess, name) for name in Preprocess.__dataclass_fields__},
        },
        where,
    )


def preprocess_of(pretrained_cfg: Mapping[str, Any]) -> Preprocess:
    """What timm's ``pretrained_cfg`` says about the input, as a record; missing fields are timm's defaults."""
    crop_mode = pretrained_cfg.get("crop_mode", "center")
    interpolation = pretrained_cfg.get("interpolation", "bicubic")
    return Preprocess(
        input_size=_three(pretrained_cfg.get("input_size", (3, 224, 224))),
        interpolation=interpolation if interpolation in ("bilinear", "bicubic") else "bicubic",
        crop_pct=float(pretrained_cfg.get("crop_pct") or 0.875),
        crop_mode=crop_mode if crop_mode in ("center", "squash") else "center",
        mean=_three(pretrained_cfg.get("mean", (0.485, 0.456, 0.406))),
        std=_three(pretrained_cfg.get("std", (0.229, 0.224, 0.225))),
    )


def _three(values: Sequence[Any]) -> Any:
    first, second, third = values
    return first, second, third


def generic_classes(k: int) -> tuple[str, ...]:
    """``class_0`` to ``class_<k-1>``: for weights that come without names."""
    return tuple(f"class_{i}" for i in range(k))


def builder_of(card: Card, folder: Path) -> str:
    """The card's builder; a Python file is looked for in the checkpoint folder, where :func:`save` puts it.

    Raises:
        CheckpointError: the card names a Python file that lies elsewhere (a folder may bring code, not pick it), or
            one that nobody has agreed to (:mod:`gradlens.zoo.consent`).
    """
    kind, _ = split_builder(card.builder)
    return _inside(card.builder, folder) if kind == "file" else card.builder


def _inside(factory: str, folder: Path) -> str:
    file = factory.rpartition(":")[0]
    if Path(file).name != file or "\\" in file:
        raise CheckpointError(f"{folder / CONFIG} names a Python file outside its folder: {file}")
    consent.require(folder / file)
    return str(folder / factory)


def code_of(folder: Path) -> list[Path]:
    """The Python files that run when the checkpoint is loaded.

    Raises:
        CheckpointError: there is no card, or it names a file that is not in the folder.
    """
    card = read_card(folder)
    named = [card.head.file] if card.head.file else []
    if split_builder(card.builder)[0] == "file":
        named.append(card.builder.rpartition(":")[0])
    for file in named:
        if Path(file).name != file or not (folder / file).is_file():
            raise CheckpointError(f"{folder / CONFIG} names a Python file that is not in its folder: {file}")
    return [folder / file for file in named]


def _network(card: Card, folder: Path) -> nn.Module:
    """The card's network and head with random weights, always the same ones."""
    module = build_seeded(builder_of(card, folder), card.arguments, len(card.classes))
    head = card.head
    if head.file:
        head = head.model_copy(update={"kind": _inside(head.kind, folder)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        attach(module, head, len(card.classes))
    return module


def load_folder(folder: Path, name: str, weights: str | None = None) -> LoadedModel:
    """The model in a checkpoint folder: eval mode, CPU, fp32.

    Args:
        folder: a checkpoint folder.
        name: what the model is called from here on.
        weights: ``None`` or ``"pretrained"`` for the folder's own, ``"random"``, or a file.

    Raises:
        CheckpointError: weights, config and checksum do not fit together.
        ModelError: the network cannot be built, or does not act as an image classifier.
    """
    card = read_card(folder)
    module = _network(card, folder)
    if weights == "random":
        digest = "random"
    else:
        own = weights in (None, "pretrained")
        path = _own_weights(folder, card) if own else Path(str(weights))
        state = read_tensors(path) if path.name == WEIGHTS else fitted(module, read_state_dict(path))
        load_state(module, state, path)
        digest = sha256_of(path)
    module = module.float().eval()
    _check_outputs(module, card, str(folder))
    return LoadedModel(
        name=name,
        module=module,
        classes=card.classes,
        preprocess=card.preprocess.record(),
        builder=card.builder,
        card=card.model_dump(mode="json"),
        weights=digest,
    )


def _own_weights(folder: Path, card: Card) -> Path:
    """The weight file of a folder, after comparing its sha256 with the card's (where the card has one)."""
    path = folder / WEIGHTS
    if not path.is_file():
        if not card.sha256 and (folder / PICKLED).is_file():
            return folder / PICKLED
        raise CheckpointError(f"{folder} has no {WEIGHTS}")
    digest = sha256_of(path)
    if card.sha256 and digest != card.sha256:
        raise CheckpointError(
            f"{path} is not the file its card describes: sha256 {digest[:12]}… instead of {card.sha256[:12]}…; "
            "copy it again, or import it as a model of its own (gradlens zoo import)"
        )
    return path


def check_acts(module: nn.Module, preprocess: Preprocess, where: str) -> int:
    """The number of logits for one black image.

    Raises:
        ModelError: the network does not take that size, or returns no logits.
    """
    try:
        with torch.no_grad():
            logits = logits_of(module(torch.zeros(1, *preprocess.input_size)))
    except (RuntimeError, ValueError, AssertionError, TypeError) as err:
        why = str(err).strip().partition("\n")[0]
        raise ModelError(f"{where}: the network does not take an input of {preprocess.input_size}: {why}") from err
    return logits.shape[1]


def _check_outputs(module: nn.Module, card: Card, where: str) -> None:
    k = check_acts(module, card.preprocess.record(), where)
    if k != len(card.classes):
        raise CheckpointError(f"{where}: the network has {k} outputs, but there are {len(card.classes)} class names")


# ---------------------------------------------------------------- any model


def load(
    name: str,
    *,
    zoo: Path | None = None,
    weights: str | None = None,
    classes: int | None = None,
    offline: bool = False,
) -> LoadedModel:
    """The model that ``name`` means, ready to run: eval mode, CPU, fp32.

    Args:
        name: a name of the zoo, a checkpoint folder, ``timm:NAME``, ``torchvision:NAME``, ``hf:REPO`` or
            ``FILE.py:FACTORY``.
        zoo: folder of checkpoints; ``None`` for ``./checkpoints``, then gradlens' own.
        weights: a file, ``"pretrained"`` or ``"random"`` (always the same ones); a model of the zoo has its own and
            needs none.
        classes: outputs of an architecture that is built here; ``None`` for 1,000, or what the weight file says.
        offline: look nothing up on a network.

    Raises:
        NotFoundError: no such model.
        CheckpointError: weights do not fit, or none were given where they are needed.
        ModelError: the network cannot be built, or does not act as an image classifier.
    """
    known = names(zoo)
    zoo_name = _zoo_name(name, known)
    if zoo_name is not None:
        return load_folder(known[zoo_name], zoo_name, weights)
    if _is_folder(name):
        return load_folder(Path(name), Path(name).resolve().name, weights)
    _must_be_builder(name, known)
    from gradlens.zoo.foreign import load_foreign

    return load_foreign(name, weights=weights, classes=classes, offline=offline)
