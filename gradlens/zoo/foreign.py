"""Models that have no checkpoint folder: timm, torchvision, the Hugging Face hub, a Python file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradlens.errors import CheckpointError, ModelError
from gradlens.records import LoadedModel, Preprocess
from gradlens.zoo.build import build, build_seeded, call_factory, hub_config, import_transformers, split_builder
from gradlens.zoo.checkpoints import check_acts, generic_classes, preprocess_of
from gradlens.zoo.downloads import hub, network, reachable
from gradlens.zoo.importing import module_with
from gradlens.zoo.weights import read_state_dict, sha256_of

DEFAULT_CLASSES = 1000


def load_foreign(name: str, *, weights: str | None, classes: int | None, offline: bool) -> LoadedModel:
    """The model that a builder makes, with weights from where ``weights`` says. See :func:`checkpoints.load`.

    Raises:
        CheckpointError: no weights were named, or they do not fit, or cannot be had.
        ModelError: the network cannot be built, or does not act as an image classifier.
    """
    if weights is None:
        raise CheckpointError(
            f"{name} names an architecture, not weights: say --weights FILE, --weights pretrained or --weights random"
        )
    kind, rest = split_builder(name)
    lookup = server_of(name)
    labels: tuple[str, ...] | None = None
    preprocess: Preprocess | None = None
    if weights == "pretrained":
        if classes is not None:
            raise CheckpointError("pretrained weights bring their own classes; leave --classes out")
        with network(offline, name, hub() if kind == "timm" else lookup) as online:
            module, preprocess, labels = _PRETRAINED[kind](rest, not online)
        origin = "pretrained"
    elif weights == "random":
        with network(offline, name, lookup):
            module = build_seeded(name, {}, classes or outputs_of(kind, rest))
        origin = "random"
    else:
        path = Path(weights)
        state = read_state_dict(path)
        with network(offline, name, lookup):
            module = module_with(name, {}, state, classes, path)
        origin = sha256_of(path)
    module = module.float().eval()
    if preprocess is None:
        with network(offline, name, lookup):
            preprocess = preprocess_for(kind, rest, module)
    k = check_acts(module, preprocess, name)
    if classes is not None and k != classes:
        raise ModelError(f"{name} has {k} outputs, {classes} were asked for; its factory should heed num_classes")
    return LoadedModel(name, module, labels or class_names(kind, rest, k), preprocess, name, weights=origin)


def server_of(builder: str) -> str:
    """The address that building an architecture asks; empty for those that are built without asking anybody."""
    kind, rest = split_builder(builder)
    return hub() if kind == "hf" and not Path(rest).is_dir() else ""


# ---------------------------------------------------------------- preprocessing and class names


def preprocess_for(kind: str, name: str, module: nn.Module) -> Preprocess:
    """How this architecture's images are prepared, as far as its library says; else timm's defaults at 224 pixels."""
    if kind == "torchvision":
        from torchvision import models

        return _of_transforms(models.get_model_weights(name).DEFAULT.transforms())
    if kind == "hf" and not hasattr(module, "pretrained_cfg"):
        return _of_processor(import_transformers().AutoImageProcessor.from_pretrained(name))
    given = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    return preprocess_of(given if isinstance(given, Mapping) else {})


def outputs_of(kind: str, name: str) -> int:
    """Outputs of an architecture where nobody says how many: a repository knows its own, all others have 1,000."""
    if kind != "hf":
        return DEFAULT_CLASSES
    config = hub_config(name)
    labels = config.get("id2label") or config.get("label_names") or range(config.get("num_classes", DEFAULT_CLASSES))
    return len(labels)


def _of_transforms(transforms: Any) -> Preprocess:
    """torchvision's ``ImageClassification`` preset: resize the short side, crop the middle, normalise."""
    (crop,), (resize,) = (transforms.crop_size[:1], transforms.resize_size[:1])
    return Preprocess(
        input_size=(3, crop, crop),
        interpolation=transforms.interpolation.value,
        crop_pct=min(1.0, crop / resize),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def class_names(kind: str, name: str, k: int) -> tuple[str, ...]:
    """ImageNet's names for 1,000 outputs of a timm or torchvision architecture, else ``class_0`` ...; all unique."""
    if k == DEFAULT_CLASSES and kind in ("timm", "torchvision"):
        from timm.data import ImageNetInfo

        info = ImageNetInfo()
        return _unique([info.index_to_description(i).partition(",")[0] for i in range(k)])
    return generic_classes(k)


def _unique(names: list[str]) -> tuple[str, ...]:
    """ImageNet has two cranes and two maillots: a name met before gets a number."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(result)


# ---------------------------------------------------------------- published weights

Published = tuple[nn.Module, Preprocess, tuple[str, ...] | None]


def _timm_pretrained(name: str, offline: bool) -> Published:
    import timm

    if not timm.is_model(name):
        build(f"timm:{name}")  # raises, with near names
    return _of_timm(timm.create_model(name, pretrained=True), name)


def _of_timm(module: nn.Module, name: str) -> Published:
    if not module.num_classes:
        raise CheckpointError(
            f"the published weights of {name} have no classification head; train one and import it "
            "(gradlens zoo import), or look at the architecture with --weights random"
        )
    return module, _timm_preprocess(module), _timm_classes(module)


def _timm_preprocess(module: nn.Module) -> Preprocess:
    from timm.data import resolve_model_data_config

    return preprocess_of(resolve_model_data_config(module))


def _timm_classes(module: Any) -> tuple[str, ...] | None:
    from timm.data import ImageNetInfo, infer_imagenet_subset

    labels = module.pretrained_cfg.get("label_names")
    if labels:
        return tuple(labels)
    subset = infer_imagenet_subset(module)
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    k = module.num_classes
    return _unique([info.index_to_description(i).partition(",")[0] for i in range(k)])


def _torchvision_pretrained(name: str, offline: bool) -> Published:
    from torchvision import models

    build(f"torchvision:{name}")  # raises, with near names
    best = models.get_model_weights(name).DEFAULT
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(best.url).name
    if not cached.is_file() and (offline or not reachable(best.url)):
        what = "run once without --offline" if offline else "no network answers; fetch it where there is one"
        raise CheckpointError(f"torchvision:{name}: its weights are not in the cache ({what}): there is no {cached}")
    module = models.get_model(name, weights=best)
    return module, _of_transforms(best.transforms()), _unique(list(best.meta["categories"]))


def _hub_pretrained(repo: str, offline: bool) -> Published:
    config = hub_config(repo)
    if "pretrained_cfg" in config:
        import timm

        place = "local-dir" if Path(repo).is_dir() else "hf-hub"
        return _of_timm(timm.create_model(f"{place}:{repo}", pretrained=True), repo)
    transformers = import_transformers()
    bars = transformers.utils.logging
    with_bars = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()  # they are drawn on what is no terminal, too
    try:
        module, info = transformers.AutoModelForImageClassification.from_pretrained(
            repo, local_files_only=offline, output_loading_info=True
        )
    finally:
        if with_bars:
            bars.enable_progress_bar()
    if info["missing_keys"]:  # it fills them with random numbers
        raise CheckpointError(f"hf:{repo} holds no weights for {', '.join(sorted(info['missing_keys'])[:3])}")
    processor = transformers.AutoImageProcessor.from_pretrained(repo, local_files_only=offline)
    labels = [module.config.id2label[i] for i in range(module.config.num_labels)]
    return module, _of_processor(processor), _unique(labels)


def _of_processor(processor: Any) -> Preprocess:
    """A transformers image processor, as far as a :class:`Preprocess` can say the same."""
    size = dict(processor.size)
    resize: Any = size.get("shortest_edge") or size.get("height")
    crop = dict(getattr(processor, "crop_size", None) or {}) if getattr(processor, "do_center_crop", False) else {}
    height, width = crop.get("height", resize), crop.get("width", resize)
    kept = getattr(processor, "crop_pct", None) or min(1.0, height / resize)
    return Preprocess(
        input_size=(3, height, width),
        interpolation="bicubic" if int(processor.resample) == 3 else "bilinear",  # PIL's numbers
        crop_pct=kept,
        crop_mode="center" if "shortest_edge" in size else "squash",
        mean=tuple(processor.image_mean) if processor.do_normalize else (0.0, 0.0, 0.0),
        std=tuple(processor.image_std) if processor.do_normalize else (1.0, 1.0, 1.0),
    )


def _file_pretrained(spec: str, offline: bool) -> Published:
    """The factory's own weights: it is told ``pretrained=True`` where it has that parameter."""
    module = call_factory(spec, {"pretrained": True})
    if not isinstance(module, nn.Module):
        raise ModelError(f"{spec} returned {type(module).__name__}, expected a torch.nn.Module")
    given = getattr(module, "pretrained_cfg", None)
    labels = given.get("label_names") if isinstance(given, Mapping) else None
    return module, preprocess_for("file", spec, module), tuple(labels) if labels else None


def _own_pretrained(name: str, offline: bool) -> Published:
    raise CheckpointError(
        f"gradlens:{name} has no published weights of its own; see gradlens zoo list for trained ones"
    )


_PRETRAINED = {
    "timm": _timm_pretrained,
    "torchvision": _torchvision_pretrained,
    "hf": _hub_pretrained,
    "file": _file_pretrained,
    "gradlens": _own_pretrained,
}
