"""Checkpoint folders: what is written is what is read, other tools read it too, and faults are one clear line."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gradlens.errors import CheckpointError, GradlensError, ModelError, NotFoundError
from gradlens.records import Estimate, Preprocess
from gradlens.zoo import checkpoints
from gradlens.zoo.build import build_seeded
from gradlens.zoo.cards import Card, Preprocessing, Score, Training
from gradlens.zoo.outputs import logits_of
from gradlens.zoo.weights import sha256_of

ARGUMENTS = {"channels": [8, 16, 16, 24], "layers": [1, 1, 1, 1]}
CLASSES = ("bus", "car", "ship", "train")


def card_of(builder: str, arguments: dict[str, Any] | None = None, size: int = 32, **fields: Any) -> Card:
    preprocess = Preprocessing(input_size=(3, size, size), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), decode="RGB")
    return Card(builder=builder, arguments=arguments or {}, classes=CLASSES, preprocess=preprocess, **fields)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two collections of tiny random networks."""
    root = tmp_path_factory.mktemp("zoo")
    training = Training(recipe="r", epochs=2, seed=3, seconds=4.5, data="d", images=7, fingerprint="f" * 64)
    for name, builder, arguments in (
        ("vehicles/resnet", "timm:resnet18", ARGUMENTS),
        ("vehicles/custom_cnn", "gradlens:custom_cnn", {"widths": [4, 4, 4, 4]}),
        (
            "cifar10/resnet",
            "gradlens:small_images",
            {"of": "timm:resnet18", "channels": [4, 4, 4, 4], "layers": [1, 1, 1, 1]},
        ),
        ("lone", "gradlens:custom_cnn", {"widths": [4, 4, 4, 4]}),
    ):
        module = build_seeded(builder, arguments, 4)
        with torch.no_grad():  # batch norm's statistics away from 0 and 1, so that losing them shows
            module.train()(2 * torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1)) + 1)
        checkpoints.save(root / name, module, card_of(builder, arguments, training=training), name=name)
    return root


@pytest.fixture
def copy(zoo: Path, tmp_path: Path) -> Path:
    """A checkpoint folder to damage."""
    return Path(shutil.copytree(zoo / "vehicles" / "resnet", tmp_path / "resnet"))


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


# ---------------------------------------------------------------- round trip


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    module = build_seeded("timm:resnet18", ARGUMENTS, 4)
    with torch.no_grad():
        module.train()(torch.randn(4, 3, 32, 32) * 3)
    module.to(memory_format=torch.channels_last)
    card = checkpoints.save(tmp_path / "m" / "net", module, card_of("timm:resnet18", ARGUMENTS))
    assert module.training, "saving changed the mode"
    loaded = checkpoints.load(str(tmp_path / "m" / "net"))
    assert not loaded.module.training
    assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}
    assert loaded.classes == CLASSES
    assert loaded.preprocess == Preprocess((3, 32, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    assert (loaded.builder, loaded.weights, loaded.name) == ("timm:resnet18", card.sha256, "net")
    state = module.state_dict()
    for name, tensor in loaded.module.state_dict().items():
        if name in dict(module.named_parameters()):
            assert torch.equal(tensor, state[name].half().float()), name  # half precision, nothing else
        else:
            assert torch.equal(tensor, state[name]), name  # running statistics, to the last bit
    assert card.parameters == sum(p.numel() for p in module.parameters())
    assert card.size == (tmp_path / "m" / "net" / "model.safetensors").stat().st_size
    assert {"torch", "timm", "gradlens", "python"} <= set(card.versions)


def test_whoever_may_read_new_files_may_read_a_checkpoint(tmp_path: Path) -> None:
    module, card = build_seeded("timm:resnet18", ARGUMENTS, 4), card_of("timm:resnet18", ARGUMENTS)
    before = os.umask(0o027)
    try:
        checkpoints.save(tmp_path / "net", module, card)
    finally:
        os.umask(before)
    modes = {p.name: oct(p.stat().st_mode & 0o777) for p in (tmp_path / "net").iterdir()}
    assert modes == dict.fromkeys(("README.md", "config.json", "model.safetensors"), "0o640")


def test_half_precision_is_used_only_where_it_holds(tmp_path: Path) -> None:
    module = build_seeded("gradlens:custom_cnn", {"widths": [4, 4, 4, 4]}, 4)
    with torch.no_grad():
        module.fc.bias[0] = 1e5  # above 65,504
        module.stem[1].running_var.fill_(1e6)
    checkpoints.save(tmp_path / "m" / "net", module, card_of("gradlens:custom_cnn", {"widths": [4, 4, 4, 4]}))
    stored = load_file(tmp_path / "m" / "net" / "model.safetensors")
    assert stored["fc.bias"].dtype == torch.float32
    assert stored["fc.weight"].dtype == torch.float16
    assert stored["stem.1.running_var"].eq(1e6).all()
    assert stored["stem.1.num_batches_tracked"].dtype == torch.int64
    with torch.no_grad():
        module.fc.weight[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"fc\.weight.*not finite"):
        checkpoints.save(tmp_path / "m" / "other", module, card_of("gradlens:custom_cnn", {"widths": [4, 4, 4, 4]}))
    assert not (tmp_path / "m" / "other" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "size"),
    [
        ("resnet18", ARGUMENTS, 32),
        ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}, 32),
    ],
)
def test_timm_loads_the_folder_itself(tmp_path: Path, name: str, arguments: dict[str, Any], size: int) -> None:
    import timm

    builder, folder = f"timm:{name}", tmp_path / "m" / "net"
    checkpoints.save(folder, build_seeded(builder, arguments, 4), card_of(builder, arguments, size))
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    ours = checkpoints.load_folder(folder, "net").module
    images = torch.randn(3, 3, size, size)
    with torch.no_grad():
        assert torch.equal(theirs(images), ours(images))
    settings = timm.data.resolve_model_data_config(theirs)
    assert tuple(settings["input_size"]) == (3, size, size)
    assert [*settings["mean"], *settings["std"]] == [0.5, 0.4, 0.3, 0.2, 0.3, 0.4]
    assert (settings["crop_pct"], settings["crop_mode"], settings["interpolation"]) == (1.0, "center", "bilinear")
    config = json.loads((folder / "config.json").read_text())
    # transformers 5 hands num_classes over itself: a second one is a TypeError there
    assert "num_classes" not in config["model_args"]
    assert (config["num_classes"], config["label_names"]) == (4, list(CLASSES))


def test_a_folder_that_timm_wrote_is_read(tmp_path: Path) -> None:
    import timm
    from timm.models import save_for_hf

    model = timm.create_model("resnet18", num_classes=3, **ARGUMENTS).eval()
    cfg = {**model.pretrained_cfg, "label_names": ["a", "b", "c"], "input_size": (3, 64, 64), "crop_pct": 0.9}
    save_for_hf(model, tmp_path / "hub", model_config={"pretrained_cfg": cfg, "model_args": ARGUMENTS})
    loaded = checkpoints.load(str(tmp_path / "hub"))
    assert loaded.preprocess == Preprocess((3, 64, 64), "bicubic", 0.9)  # as timm's config of resnet18 says
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.module(images), model(images))
    assert loaded.classes in (("a", "b", "c"), ("class_0", "class_1", "class_2"))


def test_the_card_is_complete_and_strict() -> None:
    with pytest.raises(ValueError, match="unique"):
        Card(builder="timm:resnet18", classes=("a", "a"), preprocess=Preprocessing(input_size=(3, 8, 8)))
    with pytest.raises(ValueError, match="std must be positive"):
        Preprocessing(input_size=(3, 8, 8), std=(0, 1, 1))
    score = Score.of("set", "accuracy", Estimate(np.float64(0.5), 0.4, 0.6, np.int64(10), "CP"), "00")
    assert json.loads(score.model_dump_json()) == {
        "dataset": "set", "metric": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6, "n": 10, "interval": "CP",
        "fingerprint": "00",
    }  # fmt: skip
    with pytest.raises(CheckpointError, match="too few classes"):
        Score.of("set", "top5", Estimate.undefined("too few classes", 10))
    card = card_of("timm:resnet18").with_scores([score], test="set")
    better = score.model_copy(update={"value": 0.55})
    assert card.with_scores([better]).scores == (better,)
    assert card.score("set") == score
    assert card.score("other") is None


def test_the_model_card_shows_scores_and_commands(copy: Path) -> None:
    from huggingface_hub import ModelCard

    card = checkpoints.read_card(copy)
    score = Score(
        dataset="vehicles-test", metric="accuracy", value=0.9297, low=0.91, high=0.945, n=800, interval="CP 95%"
    )
    checkpoints.write_card(copy, card.with_scores([score], test="vehicles-test"), name="vehicles/resnet")
    text = (copy / "README.md").read_text(encoding="utf-8")
    assert "| vehicles-test (test) | accuracy | 92.97 % | 91.00 – 94.50 % | 800 | CP 95% |" in text
    assert "gradlens cam --model resnet --layers all" in text
    assert "local-dir:" in text
    data = ModelCard(text).data
    assert data.model_name == "vehicles/resnet"
    assert data.eval_results[0].metric_value == 0.9297
    assert checkpoints.stale_fields(copy, checkpoints.read_card(copy)) == []


def test_fields_for_other_tools_must_agree_with_the_card(copy: Path) -> None:
    edit(copy, lambda c: c["label_names"].reverse())
    (copy / "README.md").write_text((copy / "README.md").read_text().replace("parameters", "weights"))
    assert checkpoints.stale_fields(copy, checkpoints.read_card(copy)) == ["label_names", "README.md"]


# ---------------------------------------------------------------- names


def test_names_of_the_zoo(zoo: Path) -> None:
    assert list(checkpoints.names(zoo)) == ["vehicles/custom_cnn", "vehicles/resnet", "lone", "cifar10/resnet"]
    load = checkpoints.load
    assert load("resnet", zoo=zoo).name == load("vehicles/resnet", zoo=zoo).name == "vehicles/resnet"
    assert load("cifar10/resnet", zoo=zoo).builder == "gradlens:small_images"
    assert load("lone", zoo=zoo).name == "lone"
    with pytest.raises(NotFoundError, match="'vehicles/resnet'"):
        load("resnt", zoo=zoo)
    with pytest.raises(NotFoundError, match="zoo folder"):
        load("resnet", zoo=zoo / "absent")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load(str(zoo))


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["all"], ["vehicles/custom_cnn", "vehicles/resnet"]),
        (["resnet", "all"], ["vehicles/resnet", "vehicles/custom_cnn"]),
        (["*net"], ["vehicles/resnet"]),
        (["*/resnet"], ["vehicles/resnet", "cifar10/resnet"]),
        (["cifar10/*"], ["cifar10/resnet"]),
        (["lone", "timm:resnet18", "net.py:make"], ["lone", "timm:resnet18", "net.py:make"]),
    ],
)
def test_patterns(zoo: Path, patterns: list[str], expected: list[str]) -> None:
    assert checkpoints.expand(patterns, zoo) == expected


@pytest.mark.parametrize("pattern", ["densenet", "vgg*", "cifar100/*", "cifar10/vgg"])
def test_patterns_without_a_match_are_refused(zoo: Path, pattern: str) -> None:
    with pytest.raises(NotFoundError, match="no model named"):
        checkpoints.expand([pattern], zoo)


def test_all_of_a_zoo_without_vehicles_is_everything(zoo: Path, tmp_path: Path) -> None:
    shutil.copytree(zoo / "cifar10", tmp_path / "z" / "mine")
    assert checkpoints.expand(["all"], tmp_path / "z") == ["mine/resnet"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="empty"):
        checkpoints.expand(["all"], tmp_path / "empty")


def test_the_working_folder_goes_before_the_package(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(zoo, tmp_path / "checkpoints")
    monkeypatch.chdir(tmp_path)
    assert checkpoints.names()["vehicles/resnet"] == Path("checkpoints/vehicles/resnet")


# ---------------------------------------------------------------- faults


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    edit(folder, lambda c: c["gradlens"].update(sha256=""))


def header_bomb(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b'{"a": 1}')
    edit(folder, lambda c: c["gradlens"].update(sha256=""))


def wrong_offsets(folder: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 16)
    edit(folder, lambda c: c["gradlens"].update(sha256=""))


def flip_a_byte(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


def not_a_number(folder: Path) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    state["fc.bias"][0] = float("nan")
    save_file(state, path)
    edit(folder, lambda c: c["gradlens"].update(sha256=""))


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "changed weights": (flip_a_byte, "not the file its card describes"),
    "truncated weights": (truncate, "not a whole safetensors file"),
    "header bomb": (header_bomb, "not a whole safetensors file"),
    "offsets beyond the file": (wrong_offsets, "not a whole safetensors file"),
    "not a number": (not_a_number, "not finite, first in fc.bias"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "is not JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "should be a JSON object"),
    "config is deep": (lambda f: (f / "config.json").write_text("[" * 100_000), "is not JSON"),
    "config is binary": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\0"), "is not JSON"),
    "config of nothing": (lambda f: (f / "config.json").write_text("{}"), "describes no model"),
    "card is a list": (lambda f: edit(f, lambda c: c.update(gradlens=[])), "gradlens should be a JSON object"),
    "card lacks classes": (
        lambda f: edit(f, lambda c: c["gradlens"].pop("classes")),
        "gradlens.classes: Field required",
    ),
    "card has more": (lambda f: edit(f, lambda c: c["gradlens"].update(colour="red")), "gradlens.colour: Extra inputs"),
    "a class too few": (lambda f: edit(f, lambda c: c["gradlens"]["classes"].pop()), "num_classes is 4.*has 3 names"),
    "another class count": (
        lambda f: edit(f, lambda c: (c["gradlens"]["classes"].pop(), c.update(num_classes=3))),
        r"2 mis-shaped \(fc.weight is \(4, 24\), expected \(3, 24\)",
    ),
    "another architecture": (
        lambda f: edit(f, lambda c: c["gradlens"].update(builder="timm:resnet50")),
        "does not fit the network",
    ),
    "unknown architecture": (
        lambda f: edit(f, lambda c: c["gradlens"].update(builder="timm:resnet1888")),
        "no timm architecture",
    ),
    "arguments of another": (
        lambda f: edit(f, lambda c: c["gradlens"]["arguments"].update(patch=3)),
        "cannot be built",
    ),
    "code from elsewhere": (
        lambda f: edit(f, lambda c: c["gradlens"].update(builder="../net.py:make")),
        "names a Python file outside its folder",
    ),
    "written by transformers": (
        lambda f: (f / "config.json").write_text('{"model_type": "vit"}'),
        "name the folder as hf:",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_one_clear_line(copy: Path, fault: str) -> None:
    damage, message = FAULTS[fault]
    damage(copy)
    with pytest.raises(GradlensError, match=message) as caught:
        checkpoints.load(str(copy))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_size_the_network_does_not_take(tmp_path: Path) -> None:
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    module = build_seeded("timm:vit_tiny_patch16_224", arguments, 4)
    with pytest.raises(ModelError, match="does not take an input of"):
        checkpoints.save(tmp_path / "m" / "n", module, card_of("timm:vit_tiny_patch16_224", arguments, size=48))
    assert not (tmp_path / "m" / "n" / "config.json").exists()


# ---------------------------------------------------------------- other weights


def test_random_and_other_weights_of_a_zoo_model(zoo: Path, tmp_path: Path) -> None:
    own = checkpoints.load("resnet", zoo=zoo)
    random = checkpoints.load("resnet", zoo=zoo, weights="random")
    assert random.weights == "random"
    assert not torch.equal(random.module.conv1.weight, own.module.conv1.weight)
    again = checkpoints.load("resnet", zoo=zoo, weights="random")
    assert torch.equal(random.module.conv1.weight, again.module.conv1.weight)
    torch.save({"state_dict": {f"module.{k}": v for k, v in random.module.state_dict().items()}}, tmp_path / "w.pth")
    file = checkpoints.load("resnet", zoo=zoo, weights=str(tmp_path / "w.pth"))
    assert torch.equal(file.module.conv1.weight, random.module.conv1.weight)
    assert file.weights == sha256_of(tmp_path / "w.pth")


# ---------------------------------------------------------------- models without a folder


def test_architectures_need_a_word_about_weights() -> None:
    with pytest.raises(CheckpointError, match="--weights FILE, --weights pretrained or --weights random"):
        checkpoints.load("timm:resnet18")


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18"])
def test_pretrained_weights_without_a_network_are_one_quick_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="without --offline") as caught:
        checkpoints.load(name, weights="pretrained", offline=True)
    assert "\n" not in str(caught.value)
    assert constants.HF_HUB_OFFLINE, "the tests run offline; the setting was not put back"


def test_an_architecture_with_random_weights_knows_its_preprocessing_and_names() -> None:
    model = checkpoints.load("timm:mobilenetv3_small_050", weights="random")
    assert model.weights == "random"
    assert len(set(model.classes)) == 1000
    assert model.classes[:2] == ("tench", "goldfish")
    assert model.preprocess.input_size == (3, 224, 224)
    model = checkpoints.load("torchvision:shufflenet_v2_x0_5", weights="random", classes=7)
    assert model.classes == tuple(f"class_{i}" for i in range(7))
    assert model.preprocess == Preprocess((3, 224, 224), "bilinear", 224 / 256)  # torchvision's own preset


def test_weights_of_a_file_decide_the_number_of_classes(tmp_path: Path) -> None:
    module = build_seeded("torchvision:shufflenet_v2_x0_5", {}, 7)
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    model = checkpoints.load("torchvision:shufflenet_v2_x0_5", weights=str(tmp_path / "w.safetensors"))
    assert len(model.classes) == 7
    assert torch.equal(model.module.fc.weight, module.fc.weight)
    with pytest.raises(CheckpointError, match="mis-shaped"):
        checkpoints.load("torchvision:shufflenet_v2_x0_5", weights=str(tmp_path / "w.safetensors"), classes=9)


def test_a_factory_that_ignores_the_number_of_classes(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 6))\n"
    )
    model = checkpoints.load(f"{tmp_path / 'net.py'}:net", weights="random")
    assert len(model.classes) == 6
    with pytest.raises(ModelError, match="has 6 outputs, 5 were asked for"):
        checkpoints.load(f"{tmp_path / 'net.py'}:net", weights="random", classes=5)


def test_a_network_that_is_no_classifier(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\ndef net(num_classes):\n    return nn.Conv2d(3, 2, 3)\n")
    with pytest.raises(ModelError, match=r"returned a tensor of shape \(1, 2, 222, 222\)"):
        checkpoints.load(f"{tmp_path / 'net.py'}:net", weights="random")


class Output:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


def test_logits_are_found_in_what_libraries_return() -> None:
    logits, features = torch.zeros(2, 3), torch.zeros(2, 4, 5, 5)
    for output in (logits, (logits, features), [features, logits], {"logits": logits, "x": features}, Output(logits)):
        assert logits_of(output) is logits
    with pytest.raises(ModelError, match="expected a classifier"):
        logits_of({"features": features})
    assert isinstance(nn.Identity()(logits), torch.Tensor)
