"""Weights to start from: our zoo, files, and the libraries' own through their caches, without a network."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from gradlens.errors import CheckpointError, NotFoundError
from gradlens.records import Preprocess
from gradlens.zoo import checkpoints, downloads, pretrained
from gradlens.zoo.build import build, build_seeded
from gradlens.zoo.cards import Card, Preprocessing

BUILDER = "gradlens:custom_cnn"
NARROW: dict[str, Any] = {"widths": [8, 16], "residuals": [0]}
PETS = ("cat", "dog")


def start(
    spec: str, builder: str, arguments: dict[str, Any], classes: tuple[str, ...], **more: Any
) -> tuple[nn.Module, dict[str, torch.Tensor], pretrained.Loaded]:
    """(the network, its weights before, what was loaded)."""
    module = build_seeded(builder, arguments, len(classes), seed=1)
    before = copy.deepcopy(module.state_dict())
    return module, before, pretrained.load(module, spec, builder=builder, arguments=arguments, classes=classes, **more)


def checkpoint(folder: Path, builder: str, arguments: dict[str, Any], classes: tuple[str, ...], side: int) -> nn.Module:
    module = build_seeded(builder, arguments, len(classes), seed=2)
    preprocess = Preprocess((3, side, side), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    card = Card(builder=builder, arguments=arguments, classes=classes, preprocess=Preprocessing.of(preprocess))
    checkpoints.save(folder, module, card, half=False)
    return module


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(torch.equal(a, b))


def test_from_the_zoo_with_other_classes_only_the_classifier_is_new(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "zoo" / "pets" / "net", BUILDER, NARROW, PETS, 32).state_dict()
    module, before, loaded = start("pets/net", BUILDER, NARROW, ("car", "bus", "tram"), zoo=tmp_path / "zoo")
    state = module.state_dict()
    head = {name for name in state if state[name].shape != source[name].shape}
    assert set(loaded.head) == head != set()
    assert all(same(state[k], source[k]) for k in state if k not in head)
    assert all(same(state[k], before[k]) for k in head)
    assert loaded.preprocess is not None
    assert (loaded.preprocess.mean, loaded.source) == ((0.1, 0.2, 0.3), "pets/net")
    assert loaded.weights == checkpoints.read_card(tmp_path / "zoo" / "pets" / "net").sha256
    assert loaded.taken == sum(p.numel() for n, p in module.named_parameters() if n not in head)
    assert "the classifier is new" in loaded.report()


@pytest.mark.parametrize(("classes", "kept"), [(PETS, True), (("dog", "cat"), False), (("car", "bus"), False)], ids=str)
def test_as_many_classes_are_not_the_same_classes(tmp_path: Path, classes: tuple[str, ...], kept: bool) -> None:
    source = checkpoint(tmp_path / "net", BUILDER, NARROW, PETS, 32).state_dict()
    module, before, loaded = start(str(tmp_path / "net"), BUILDER, NARROW, classes)
    assert same(module.state_dict()["fc.weight"], (source if kept else before)["fc.weight"])
    assert (loaded.head == ()) == kept


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_a_bare_file_and_a_wrapped_one(tmp_path: Path, ending: str) -> None:
    source = build_seeded(BUILDER, NARROW, 2, seed=3).state_dict()
    path = tmp_path / f"weights{ending}"
    if ending == ".pt":
        torch.save({"state_dict": {f"module.{k}": t for k, t in source.items()}, "epoch": 3}, path)
    else:
        save_file(source, path)
    module, _, loaded = start(str(path), BUILDER, NARROW, PETS)
    assert all(same(t, source[k]) for k, t in module.state_dict().items())
    assert loaded.preprocess is None
    assert loaded.taken == loaded.parameters
    assert loaded.report() == f"starts from {path.name}: {loaded.taken:,} of {loaded.taken:,} parameters"


def test_what_does_not_fit_is_named_and_stays_as_it_was(tmp_path: Path) -> None:
    source = dict(build_seeded(BUILDER, NARROW, 2, seed=3).state_dict())
    names = [k for k in source if k.endswith("bias")][:2]
    gone, bent = names
    del source[gone]
    source[bent] = source[bent].repeat(2)
    source["extra.weight"] = torch.zeros(3)
    save_file(source, tmp_path / "odd.safetensors")
    module, before, loaded = start(str(tmp_path / "odd.safetensors"), BUILDER, NARROW, PETS)
    assert (loaded.missing, loaded.unexpected, loaded.misshaped) == ((gone,), ("extra.weight",), (bent,))
    assert all(same(module.state_dict()[k], before[k]) for k in (gone, bent))
    assert f"1 missing ({gone}); 1 unexpected (extra.weight); 1 mis-shaped ({bent})" in loaded.report()


def test_another_architecture_and_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    source = dict(build_seeded("timm:resnet10t", {}, 2).state_dict())
    save_file(source, tmp_path / "resnet.safetensors")
    with pytest.raises(CheckpointError, match=r"does not fit gradlens:custom_cnn\(widths=\[8, 16\].*only 0 of its"):
        start(str(tmp_path / "resnet.safetensors"), BUILDER, NARROW, PETS)
    source = dict(build_seeded(BUILDER, NARROW, 2).state_dict())
    name = next(iter(source))
    source[name] = source[name] * float("nan")
    save_file(source, tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match=f"not finite, first in {name}"):
        start(str(tmp_path / "nan.safetensors"), BUILDER, NARROW, PETS)


@pytest.mark.parametrize("spec", ["nowhere", "cifar10/rasnet", "nowhere.pt", "timm:resnet18"])
def test_an_unknown_place(spec: str) -> None:
    with pytest.raises(NotFoundError, match="takes imagenet, a model of the zoo, a checkpoint folder or a weight file"):
        start(spec, BUILDER, NARROW, PETS)


def test_position_embeddings_are_resampled_to_another_input_size(tmp_path: Path) -> None:
    from timm.layers import resample_abs_pos_embed

    small: dict[str, Any] = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    source = checkpoint(tmp_path / "vit", "timm:vit_tiny_patch16_224", {**small, "img_size": 32}, PETS, 32)
    module, _, loaded = start(str(tmp_path / "vit"), "timm:vit_tiny_patch16_224", {**small, "img_size": 64}, PETS)
    assert (loaded.misshaped, loaded.head) == ((), ())
    expected = resample_abs_pos_embed(source.get_parameter("pos_embed"), [8, 8], [4, 4], num_prefix_tokens=1)
    assert torch.allclose(module.get_parameter("pos_embed"), expected)


# ---------------------------------------------------------------- the libraries' own


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    place = tmp_path / "torch" / "hub" / "checkpoints"
    place.mkdir(parents=True)
    return place


def in_hub_cache(place: Path, repo: str) -> Path:
    """The folder of a repository's files in a cache of the Hugging Face hub."""
    root = place / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    folder = root / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_torchvision_from_its_cache(torch_home: Path) -> None:
    best = models.ShuffleNet_V2_X0_5_Weights.DEFAULT
    published = build_seeded("torchvision:shufflenet_v2_x0_5", {}, 1000, seed=5).state_dict()
    torch.save(published, torch_home / Path(best.url).name)
    module, before, loaded = start("imagenet", "torchvision:shufflenet_v2_x0_5", {}, PETS, offline=True)
    state = module.state_dict()
    assert all(same(t, published[k]) for k, t in state.items() if not k.startswith("fc."))
    assert all(same(state[k], before[k]) for k in ("fc.weight", "fc.bias"))
    assert loaded.preprocess is not None
    assert loaded.preprocess.mean == tuple(best.transforms().mean)
    assert loaded.source == "torchvision:shufflenet_v2_x0_5 (ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1)"


@pytest.mark.slow
def test_googlenets_own_normalisation_is_kept(torch_home: Path) -> None:
    """torchvision's builds it with a first step that turns ImageNet's normalisation into its own."""
    published = build("torchvision:googlenet", {"aux_logits": True}, 1000)
    torch.save(published.state_dict(), torch_home / Path(models.GoogLeNet_Weights.DEFAULT.url).name)
    module, _, loaded = start("imagenet", "torchvision:googlenet", {}, tuple(f"c{i}" for i in range(1000)))
    theirs = models.googlenet(weights="DEFAULT")
    module.fc.load_state_dict(theirs.fc.state_dict())  # type: ignore[operator, union-attr]
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    transforms = models.GoogLeNet_Weights.DEFAULT.transforms()

    def normalised(mean: Any, std: Any) -> torch.Tensor:
        return (image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    assert loaded.preprocess is not None
    with torch.no_grad():
        ours = module.eval()(normalised(loaded.preprocess.mean, loaded.preprocess.std))
        assert torch.allclose(ours, theirs.eval()(normalised(transforms.mean, transforms.std)), atol=1e-5)


def test_timm_from_its_cache(hub_cache: Path) -> None:
    published = build_seeded("timm:mobilenetv3_small_050", {}, 1000, seed=5)
    cfg = timm.models.get_pretrained_cfg("mobilenetv3_small_050")
    save_file(published.state_dict(), in_hub_cache(hub_cache, cfg.hf_hub_id) / "model.safetensors")
    module, before, loaded = start("imagenet", "timm:mobilenetv3_small_050", {}, PETS, offline=True)
    state, theirs = module.state_dict(), published.state_dict()
    assert all(same(t, theirs[k]) for k, t in state.items() if not k.startswith("classifier."))
    assert all(same(state[k], before[k]) for k in ("classifier.weight", "classifier.bias"))
    assert set(loaded.head) == {"classifier.weight", "classifier.bias"}
    assert loaded.preprocess is not None
    assert loaded.preprocess.mean == tuple(cfg.mean)
    assert loaded.source == f"timm:mobilenetv3_small_050 ({cfg.tag})"


@pytest.fixture
def deit(tmp_path: Path) -> Path:
    """A folder as transformers writes one: config, weights, image processor."""
    transformers = pytest.importorskip("transformers")
    config = transformers.DeiTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8,
        num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.DeiTForImageClassification(config).save_pretrained(tmp_path / "deit")
    processor = {
        "image_processor_type": "DeiTImageProcessor", "do_resize": True, "size": {"height": 36, "width": 36},
        "resample": 3, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}, "do_normalize": True,
        "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4],
    }  # fmt: skip
    (tmp_path / "deit" / "preprocessor_config.json").write_text(json.dumps(processor))
    return tmp_path / "deit"


def test_transformers_from_a_folder(deit: Path) -> None:
    import transformers

    published = transformers.AutoModelForImageClassification.from_pretrained(deit).state_dict()
    module, _, loaded = start("imagenet", f"hf:{deit}", {}, PETS, offline=True)
    state = module.state_dict()
    assert all(same(t, published[k]) for k, t in state.items() if not k.startswith("classifier."))
    assert set(loaded.head) == {"classifier.weight", "classifier.bias"}
    assert loaded.preprocess is not None
    assert (loaded.preprocess.mean, loaded.preprocess.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    larger, _, loaded = start("imagenet", f"hf:{deit}", {"image_size": 48}, PETS, offline=True)
    (name,) = (k for k in published if k.endswith("position_embeddings"))
    assert loaded.misshaped == ()
    assert larger.state_dict()[name].shape == (1, 2 + 36, 24)
    assert same(larger.state_dict()[name][:, :2], published[name][:, :2])  # class and distillation tokens have no place


@pytest.mark.parametrize(
    "builder", ["torchvision:shufflenet_v2_x0_5", "timm:mobilenetv3_small_050", "hf:someone/deit-tiny"]
)
@pytest.mark.parametrize("offline", [True, False])
def test_without_network_and_cache_it_says_so_at_once(
    builder: str, offline: bool, torch_home: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # as a user's machine has it
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("gradlens.zoo.downloads.reachable", lambda url: False)
    monkeypatch.setattr("gradlens.zoo.foreign.reachable", lambda url: False)
    started = time.perf_counter()
    with pytest.raises(CheckpointError) as refused:
        pretrained.find("imagenet", builder, offline=offline)
    assert time.perf_counter() - started < 10  # retries alone would take three times that
    message = str(refused.value)
    assert "\n" not in message
    assert "not in the cache" in message
    assert ("--offline" if offline else "no network answers") in message
    assert constants.HF_HUB_OFFLINE is False


def test_a_server_that_is_not_there_is_not_waited_for() -> None:
    started = time.perf_counter()
    assert not downloads.reachable("http://127.0.0.1:9/")  # nobody listens on the discard port
    assert not downloads.reachable("no address")
    assert time.perf_counter() - started < 5


def test_our_own_narrow_networks_have_no_published_weights() -> None:
    with pytest.raises(CheckpointError, match="no ImageNet weights for it; start from a model of the zoo"):
        start("imagenet", BUILDER, NARROW, PETS)
