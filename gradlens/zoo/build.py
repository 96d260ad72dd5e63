"""A builder's name and its arguments -> a network with random weights.

Builders: ``timm:NAME``, ``torchvision:NAME``, ``gradlens:NAME`` (this package's narrow ones), ``FILE.py:FACTORY``,
``hf:REPO``. Building reads no weights and, except for ``hf:``, asks no network.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradlens.errors import InstallationError, ModelError, NotFoundError

OUTSIDE = frozenset({"checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "scriptable"})
PREFIXES = ("timm", "torchvision", "gradlens", "hf")


def split_builder(builder: str) -> tuple[str, str]:
    """(kind, rest) of a builder: one of :data:`PREFIXES` or ``"file"`` and what follows.

    Raises:
        ModelError: it has none of the known forms.
    """
    kind, colon, rest = builder.partition(":")
    if colon and kind in PREFIXES and rest:
        return kind, rest
    path, colon, factory = builder.rpartition(":")
    if colon and path.endswith(".py") and factory.isidentifier():
        return "file", builder
    raise ModelError(
        f"expected an architecture like timm:resnet18, torchvision:densenet121, gradlens:custom_cnn, hf:REPO or "
        f"FILE.py:FACTORY, got {builder!r}"
    )


def build_seeded(builder: str, arguments: Mapping[str, Any], num_classes: int, seed: int = 0) -> nn.Module:
    """:func:`build` with weights drawn from ``seed``; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(builder, arguments, num_classes)


def build(builder: str, arguments: Mapping[str, Any] | None = None, num_classes: int = 1000) -> nn.Module:
    """The network that ``builder`` makes of ``arguments``, with ``num_classes`` outputs and random weights.

    Returns:
        A module in training mode, as its library made it; called with (N, 3, H, W) it returns (N, K) logits, or
        something that contains them (see :func:`gradlens.zoo.outputs.logits_of`).

    Raises:
        NotFoundError: no architecture of that name.
        ModelError: the arguments do not fit, or the factory failed.
    """
    kind, rest = split_builder(builder)
    given = copy.deepcopy(dict(arguments or {}))  # timm writes into lists it is handed (XceptionAligned's block_cfg)
    make = {"timm": _timm, "torchvision": _torchvision, "gradlens": _own, "hf": _hub, "file": _file}[kind]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what libraries say about their own future is not for our user
            module = make(rest, given, num_classes)
    except (TypeError, ValueError, KeyError, AssertionError, RuntimeError) as err:
        shown = ", ".join(f"{k}={v!r}" for k, v in given.items())
        raise ModelError(f"{builder}({shown}) with {num_classes} classes cannot be built: {_first_line(err)}") from err
    if not isinstance(module, nn.Module):
        raise ModelError(f"{builder} returned {type(module).__name__}, expected a torch.nn.Module")
    return module


def _first_line(err: BaseException) -> str:
    return next(iter(str(err).strip().splitlines()), type(err).__name__)


def _timm(name: str, arguments: dict[str, Any], num_classes: int) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise NotFoundError("timm architecture", name.partition(".")[0], timm.list_models())
    if outside := sorted(OUTSIDE & set(arguments)):
        raise ModelError(f"timm:{name}: the argument {outside[0]!r} would read other files; an architecture needs none")
    return timm.create_model(name, pretrained=False, num_classes=num_classes, **arguments)


def _torchvision(name: str, arguments: dict[str, Any], num_classes: int) -> nn.Module:
    from torchvision import models

    if name not in (known := models.list_models(module=models)):
        raise NotFoundError("torchvision classifier", name, known)
    if name in ("googlenet", "inception_v3"):
        # their default initialisation draws from scipy's truncated normal: tens of seconds for nothing, since
        # torch's own is as good with batch norm, and auxiliary heads serve training alone
        arguments = {"init_weights": False, "aux_logits": False, **arguments}
    return models.get_model(name, weights=None, num_classes=num_classes, **arguments)


def _own(name: str, arguments: dict[str, Any], num_classes: int) -> nn.Module:
    from gradlens.zoo.narrow import BUILDERS

    return BUILDERS[name](num_classes=num_classes, **arguments)


def _hub(repo: str, arguments: dict[str, Any], num_classes: int) -> nn.Module:
    path = _hub_config(repo)
    document = json.loads(path.read_text(encoding="utf-8"))
    if "pretrained_cfg" in document:
        return _timm(document["architecture"], {**_timm_arguments(document), **arguments}, num_classes)
    transformers = import_transformers()
    config = transformers.AutoConfig.from_pretrained(path.parent, **arguments)
    config.num_labels = num_classes  # as an argument it would quarrel with the names of the repository's own classes
    return transformers.AutoModelForImageClassification.from_config(config)


def hub_config(repo: str) -> dict[str, Any]:
    """The ``config.json`` of a repository, or of a folder in its layout."""
    return dict(json.loads(_hub_config(repo).read_text(encoding="utf-8")))


def _hub_config(repo: str) -> Path:
    """Where it lies; what is in the cache already is taken from there, without asking whether a newer one exists."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    path = Path(repo) / "config.json"
    if path.is_file():
        return path
    cached = try_to_load_from_cache(repo, "config.json")
    return Path(cached if isinstance(cached, str) else hf_hub_download(repo, "config.json"))


def _timm_arguments(document: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in (document.get("model_args") or {}).items() if k != "num_classes"}


def import_transformers() -> Any:
    """The transformers library.

    Raises:
        InstallationError: it is not installed (it comes with the extra ``hf``).
    """
    try:
        import transformers
    except ImportError as err:
        raise InstallationError("hf: models need transformers; run: pip install 'gradlens[hf]'") from err
    return transformers


def _file(spec: str, arguments: dict[str, Any], num_classes: int) -> nn.Module:
    return call_factory(spec, {**arguments, "num_classes": num_classes})


def call_factory(spec: str, offered: Mapping[str, Any]) -> nn.Module:
    """What a factory makes of ``offered``; ``num_classes`` and ``pretrained`` are kept from one that has no such
    parameter (a factory for one set of classes needs neither), everything else must fit."""
    factory = load_factory(spec)
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # compiled code: it says nothing about itself
        return factory(**offered)
    open_ = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = {p.name for p in parameters}
    optional = {"num_classes", "pretrained"}
    return factory(**{k: v for k, v in offered.items() if open_ or k in names or k not in optional})


def load_factory(spec: str) -> Callable[..., Any]:
    """The function (or class) that ``FILE.py:FACTORY`` names. Runs the file, as importing it would.

    The factory is called with the arguments of the card, and with ``num_classes=K`` where it has that parameter; it
    returns a module.

    Raises:
        ModelError: no such file, or it does not run.
        NotFoundError: the file defines no such factory.
    """
    path_text, _, name = spec.rpartition(":")
    path = Path(path_text)
    if not path.is_file():
        raise ModelError(f"expected a Python file, but there is none at {path}")
    module_spec = importlib.util.spec_from_file_location(f"gradlens_user_{path.stem}", path.resolve())
    if module_spec is None or module_spec.loader is None:
        raise ModelError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses and pickling look their module up there
    try:
        module_spec.loader.exec_module(module)
    except Exception as err:  # whatever the user's file raises, it is that file's fault
        raise ModelError(f"{path} does not run: {type(err).__name__}: {_first_line(err)}") from err
    try:
        factory = getattr(module, name)
    except AttributeError:
        known = [n for n in vars(module) if not n.startswith("_")]
        raise NotFoundError(f"factory in {path.name}", name, known) from None
    if not callable(factory):
        raise ModelError(f"{name} in {path} is {type(factory).__name__}, expected a function that returns a module")
    return factory
