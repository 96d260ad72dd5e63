"""The last layer of a classifier: found in every library's networks, replaced, and loaded again from its folder."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from gradlens.errors import CheckpointError, ModelError
from gradlens.records import Preprocess
from gradlens.zoo import checkpoints, heads
from gradlens.zoo.build import build, build_seeded
from gradlens.zoo.cards import Card, Preprocessing
from gradlens.zoo.heads import Head

NARROW: dict[str, Any] = {"channels": [8, 8, 16, 16]}


def timm_names() -> list[Any]:
    names = [
        "resnet18", "vgg11", "densenet121", "mobilenetv3_small_050", "efficientnet_b0", "convnext_atto", "xception41",
        "levit_128s", "deit_tiny_distilled_patch16_224", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224",
        "mixer_s32_224", "caformer_s18", "inception_v4", "hrnet_w18_small", "resnet50_clip", "tiny_vit_5m_224",
    ]  # fmt: skip
    return [pytest.param(name, id=name) for name in names]


@pytest.mark.parametrize("name", timm_names())
def test_the_head_is_the_layer_that_timm_names_in_its_metadata(name: str) -> None:
    import timm

    with torch.device("meta"):  # names are all that counts: no weights are drawn
        module = timm.create_model(name, num_classes=7)
    named = timm.get_pretrained_cfg(name).classifier
    assert heads.find(module, 7) == ((named,) if isinstance(named, str) else tuple(named))


@pytest.mark.parametrize(
    ("builder", "path"),
    [
        ("torchvision:resnet18", "fc"),
        ("torchvision:mobilenet_v2", "classifier.1"),
        ("torchvision:mobilenet_v3_small", "classifier.3"),
        ("torchvision:vgg11", "classifier.6"),
        ("torchvision:squeezenet1_1", "classifier.1"),
        ("torchvision:swin_t", "head"),
        ("torchvision:vit_b_32", "heads.head"),
        ("torchvision:convnext_tiny", "classifier.2"),
        ("torchvision:maxvit_t", "classifier.5"),
        ("torchvision:googlenet", "fc"),
        ("gradlens:custom_cnn", "fc"),
        ("gradlens:vgg", "classifier"),
        ("gradlens:googlenet", "fc"),
    ],
)
def test_the_head_of_other_networks_is_their_last_layer(builder: str, path: str) -> None:
    with torch.device("meta"):
        assert heads.find(build(builder, {}, 7), 7) == (path,)


def test_a_network_without_a_layer_of_that_many_outputs_has_no_head() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    assert heads.find(module, 7) == ()
    with pytest.raises(ModelError, match="no last layer of 7 outputs that a head could replace"):
        heads.attach(module, Head(kind="mlp"), 7)


def test_the_own_head_is_left_alone() -> None:
    module = build_seeded("timm:resnet18", NARROW, 5)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    heads.attach(module, Head(), 5)
    assert before.keys() == module.state_dict().keys()
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


@pytest.mark.parametrize(
    ("builder", "arguments"),
    [
        ("timm:resnet18", NARROW),
        ("torchvision:squeezenet1_1", {}),
        ("torchvision:mobilenet_v3_small", {}),
        ("timm:deit_tiny_distilled_patch16_224", {"img_size": 64, "depth": 2, "embed_dim": 48}),
        ("timm:vit_tiny_patch16_224", {"img_size": 64, "depth": 2, "embed_dim": 48}),
    ],
)
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_head_gets_the_features_that_the_own_one_got(builder: str, arguments: dict[str, Any], kind: str) -> None:
    module = build_seeded(builder, arguments, 5).eval()
    (path, *_) = heads.find(module, 5)
    own = module.get_submodule(path)
    seen: list[torch.Tensor] = []
    own.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    module(x)
    heads.attach(module, Head(kind=kind, hidden=6, dropout=0.5), 5)
    assert heads.find(module, 5)[0] == path
    attached = module.get_submodule(path)
    attached.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    logits = module.eval()(x)
    torch.testing.assert_close(seen[0], seen[1])
    assert logits.shape == (2, 5)
    layers = [type(m) for m in attached.modules() if not isinstance(m, nn.Sequential | heads.Attached)]
    assert layers == ([nn.Dropout, nn.Linear] if kind == "linear" else [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear])
    again = module.get_submodule(path).in_features
    heads.attach(module, Head(kind="linear"), 5)  # a head in a head's place
    assert module.get_submodule(path).in_features == again


def test_an_mlp_is_two_layers_on_pooled_features() -> None:
    module = build_seeded("torchvision:squeezenet1_1", {}, 5)  # its own head is a convolution
    heads.attach(module, Head(kind="mlp", hidden=6), 5)
    attached = module.get_submodule("classifier.1")
    first, _, _, second = attached.layers
    features = torch.rand(2, 512, 4, 4)
    expected = second(first(features.mean((2, 3))).relu())
    torch.testing.assert_close(attached.eval()(features)[:, :, 0, 0], expected)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "mpl"}, "kind must be own, linear, mlp or FILE.py:FACTORY, got 'mpl'"),
        ({"kind": "timm:resnet18"}, "kind must be"),
        ({"dropout": 0.2}, "dropout belongs to a linear or an mlp head"),
        ({"kind": "mlp", "hidden": 0}, "greater than or equal to 1"),
    ],
)
def test_a_wrong_head_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Head.model_validate(fields)


# ---------------------------------------------------------------------------------------------- a user's own


def file_of(place: Path, body: str) -> str:
    place.write_text("from torch import nn\n" + textwrap.dedent(body))
    return f"{place}:make"


GOOD = """
    def make(in_features, num_classes):
        return nn.Sequential(nn.LayerNorm(in_features), nn.Linear(in_features, num_classes))
"""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def make(in_features, num_classes):\n    return nn.Linear(in_features, 9)", r"a module that gives \(2, 9\)"),
        ("def make(in_features, num_classes):\n    return 3", "returned int"),
        ("def make(num_classes):\n    return nn.Linear(4, num_classes)", "unexpected keyword argument 'in_features'"),
        ("def make(in_features, num_classes):\n    return nn.Linear(4, num_classes)", "cannot be multiplied"),
    ],
)
def test_a_factory_that_makes_no_head_is_refused(body: str, said: str, tmp_path: Path) -> None:
    module = build_seeded("timm:resnet18", NARROW, 5)
    with pytest.raises(ModelError, match=said):
        heads.attach(module, Head(kind=file_of(tmp_path / "bad.py", body)), 5)


# ---------------------------------------------------------------------------------------------- checkpoints


def saved(folder: Path, head: Head, builder: str = "timm:resnet18", arguments: dict[str, Any] | None = None) -> Any:
    module = build_seeded(builder, NARROW if arguments is None else arguments, 3, seed=4)
    torch.manual_seed(5)
    heads.attach(module, head, 3)
    preprocess = Preprocess((3, 32, 32), "bilinear", 1.0, "center", (0, 0, 0), (1, 1, 1))
    card = Card(
        builder=builder,
        arguments=NARROW if arguments is None else arguments,
        head=head,
        classes=("a", "b", "c"),
        preprocess=Preprocessing.of(preprocess),
    )
    checkpoints.save(folder, module, card, half=False)
    return module.eval()


@pytest.mark.parametrize("kind", ["linear", "mlp", "file"])
def test_a_checkpoint_with_another_head_loads_by_its_folder_alone(kind: str, tmp_path: Path) -> None:
    if kind == "file":
        kind = file_of(tmp_path / "mine.py", GOOD)
    module = saved(tmp_path / "zoo" / "x", Head(kind=kind, hidden=7))
    (tmp_path / "mine.py").unlink(missing_ok=True)
    moved = (tmp_path / "zoo").rename(tmp_path / "elsewhere") / "x"
    loaded = checkpoints.load_folder(moved, "x")
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(x), module(x), rtol=0, atol=0)
    card = checkpoints.read_card(moved)
    assert card.head.kind == ("head.py:make" if ":" in kind else kind)
    random = [checkpoints.load_folder(moved, "x", weights="random").module for _ in range(2)]
    states = [m.state_dict() for m in random]
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def test_a_network_of_a_users_file_is_brought_along_when_it_is_saved(tmp_path: Path) -> None:
    body = """
        def make(num_classes):
            return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                                 nn.Linear(4, num_classes))
    """
    builder = file_of(tmp_path / "net.py", body)
    module = saved(tmp_path / "x", Head(), builder, {})
    (tmp_path / "net.py").unlink()
    loaded = checkpoints.load_folder(tmp_path / "x", "x")
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(loaded.module(x), module(x))
    assert checkpoints.read_card(tmp_path / "x").builder == "network.py:make"


def test_a_folder_may_not_pick_a_head_from_elsewhere(tmp_path: Path) -> None:
    kind = file_of(tmp_path / "mine.py", GOOD)
    saved(tmp_path / "x", Head(kind=kind))
    config = tmp_path / "x" / "config.json"
    config.write_text(config.read_text().replace("head.py:make", "../mine.py:make"))
    with pytest.raises(CheckpointError, match="outside its folder"):
        checkpoints.load_folder(tmp_path / "x", "x")
