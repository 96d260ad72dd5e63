"""Builders, the zoo's architectures, the custom CNN, and what networks cost."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from gradlens.errors import ModelError, NotFoundError
from gradlens.zoo.architectures import ARCHITECTURES
from gradlens.zoo.build import build, build_seeded, split_builder

VEHICLES = [
    "custom_cnn", "resnet", "wide_resnet", "densenet", "convnext", "swin", "vit", "mobilenet", "efficientnet",
    "googlenet", "shufflenet", "mnasnet", "xception", "vgg",
]  # fmt: skip


def made(name: str, k: int = 8) -> nn.Module:
    found = ARCHITECTURES[name]
    return build_seeded(found.builder, found.arguments, k)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_an_architecture_is_small_trains_and_answers(name: str) -> None:
    found = ARCHITECTURES[name]
    arguments = copy.deepcopy(dict(found.arguments))
    module = made(name)
    assert dict(found.arguments) == arguments, "building changed the table"
    weights = sum(p.numel() for p in module.parameters())
    assert 100_000 < weights < 6_000_000  # 12 MB in half precision
    images = torch.randn(2, *found.input_size)
    module.train()
    logits = module(images)
    assert logits.shape == (2, 8)
    logits.logsumexp(1).sum().backward()
    without = [n for n, p in module.named_parameters() if p.grad is None]
    assert not without, f"no gradient reaches {without[:3]}"


def test_the_collection_is_complete_and_fits() -> None:
    assert [n for n in ARCHITECTURES if "/" not in n] == VEHICLES
    # two bytes a weight: the repository's collection has to stay below 60 MB
    assert sum(2 * sum(p.numel() for p in made(n).parameters()) for n in VEHICLES) < 45e6


CHARACTER = {  # what makes an architecture what it is, by the library's own class names
    "resnet": {"BasicBlock"},
    "wide_resnet": {"Bottleneck"},
    "densenet": {"DenseLayer", "DenseTransition"},
    "convnext": {"ConvNeXtBlock"},
    "swin": {"WindowAttention", "PatchMerging"},
    "vit": {"Attention", "PatchEmbed"},
    "mobilenet": {"InvertedResidual"},
    "efficientnet": {"MBConv", "SqueezeExcitation"},
    "googlenet": {"Inception"},
    "shufflenet": {"InvertedResidual"},
    "mnasnet": {"InvertedResidual", "SqueezeExcite"},
    "xception": {"XceptionModule", "SeparableConv2d"},
    "cifar10/resnet": {"BasicBlock"},
    "cifar10/densenet": {"DenseLayer", "DenseTransition"},
}


@pytest.mark.parametrize("name", CHARACTER)
def test_narrow_networks_keep_their_blocks(name: str) -> None:
    kinds = {type(m).__name__ for m in made(name).modules()}
    assert kinds >= CHARACTER[name]


def test_wide_resnet_is_wide_and_swin_shifts() -> None:
    block = made("wide_resnet").layer1[0]
    assert block.conv2.out_channels == 2 * made("wide_resnet").layer1[0].conv3.out_channels // 4
    shifts = {max(b.shift_size) for stage in made("swin").layers for b in stage.blocks}
    assert shifts == {0, 3}  # half a window of six


def test_vgg_counts_as_torchvision_counts() -> None:
    """With the original widths, the convolutional part is torchvision's VGG-11 with batch norm."""
    from torchvision.models import vgg11_bn

    ours = build("gradlens:vgg", {"channels": [64, 128, 256, 512, 512]}, 10).features
    with torch.device("meta"):
        theirs = vgg11_bn(weights=None).features
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def test_full_width_is_the_original() -> None:
    from torchvision.models import efficientnet_b0, googlenet

    original = googlenet(init_weights=False, aux_logits=False, num_classes=10)
    pairs = [
        (build("gradlens:googlenet", {"width": 1.0}, 10), original),
        (build("gradlens:efficientnet", {"width": 1.0, "depth": 1.0}, 10), efficientnet_b0(num_classes=10)),
    ]
    for ours, theirs in pairs:
        assert {k: v.shape for k, v in ours.state_dict().items()} == {
            k: v.shape for k, v in theirs.state_dict().items()
        }


@pytest.mark.parametrize("size", [32, 96])
def test_custom_cnn_takes_any_size(size: int) -> None:
    module = build("gradlens:custom_cnn", {"widths": [8, 16, 24, 32], "residuals": [1, 0, 1]}, 5)
    assert module(torch.randn(2, 3, size, size)).shape == (2, 5)
    with pytest.raises(ModelError, match="widths need"):
        build("gradlens:custom_cnn", {"widths": [8, 16], "residuals": [1, 0, 1]}, 5)


MIRRORED = {"widths": [8, 16, 24, 32], "residuals": [1, 0, 1], "mirrored": True}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_mirrored_network_sees_an_image_and_its_mirror_image_alike(
    training: bool, layout: torch.memory_format
) -> None:
    module = build_seeded("gradlens:custom_cnn", MIRRORED, 5).train(training).to(memory_format=layout)
    images = torch.randn(4, 3, 32, 32)
    logits = module(images.contiguous(memory_format=layout))
    torch.testing.assert_close(module(images.flip(-1)), logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(module(images.flip(-2)), logits, atol=1e-3)  # upside down is another matter
    features = module.stages(module.stem(images))
    mirrored = module.stages(module.stem(images.flip(-1))).flip(-1)
    torch.testing.assert_close(torch.cat(mirrored.chunk(2, 1)[::-1], 1), features, rtol=1e-4, atol=1e-4)


def test_a_mirrored_network_has_half_the_weights_in_its_convolutions() -> None:
    plain, mirrored = (build("gradlens:custom_cnn", MIRRORED | {"mirrored": m}, 5) for m in (False, True))
    kernels = [sum(p.numel() for p in m.parameters() if p.ndim == 4) for m in (plain, mirrored)]
    assert kernels[0] == 2 * kernels[1]
    assert mirrored.fc.in_features == mirrored.num_features == 16
    with pytest.raises(ModelError, match="needs a stem_stride of 1, got 2"):
        build("gradlens:custom_cnn", MIRRORED | {"stem_stride": 2}, 5)
    with pytest.raises(ModelError, match="must be even, got 3 and 9"):
        build("gradlens:custom_cnn", MIRRORED | {"widths": [9, 16, 24, 32]}, 5)


def test_cifar_custom_cnn_stays_below_the_published_one() -> None:
    assert sum(p.numel() for p in made("cifar10/custom_cnn", 10).parameters()) <= 2_462_282


def test_small_image_stems_keep_the_resolution() -> None:
    for name, stem in (("cifar10/resnet", "maxpool"), ("cifar10/densenet", "features.pool0")):
        module, seen = made(name, 10), []
        module.get_submodule(stem).register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out.shape))
        module.eval()(torch.randn(1, 3, 32, 32))
        assert seen[0][2:] == (32, 32)


def test_seeded_weights_repeat_and_leave_the_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, two = (build_seeded("gradlens:custom_cnn", {}, 3) for _ in range(2))
    assert torch.equal(one.fc.weight, two.fc.weight)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("builder", "near"),
    [
        ("timm:resnet1888", "resnet18"),
        ("torchvision:densnet121", "densenet121"),
        ("gradlens:custom_cn", "custom_cnn"),
    ],
)
def test_unknown_architectures_suggest_near_ones(builder: str, near: str) -> None:
    with pytest.raises(NotFoundError, match=near):
        build(builder)


@pytest.mark.parametrize("text", ["resnet18", "nolib:resnet18", "timm:", "net.py:", "net.txt:make", "net.py:a b"])
def test_what_is_no_builder_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="expected an architecture"):
        split_builder(text)


def test_wrong_arguments_are_one_line() -> None:
    with pytest.raises(ModelError, match="cannot be built") as caught:
        build("timm:resnet18", {"no_such_argument": 1}, 8)
    assert "\n" not in str(caught.value)


def test_factories_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n"
        "def small(num_classes, width=4):\n"
        "    return nn.Sequential(nn.Conv2d(3, width, 3), nn.Flatten(), nn.LazyLinear(num_classes))\n"
        "def wrong(num_classes):\n    return 'no network'\n"
        "number = 3\n"
    )
    assert build(f"{file}:small", {"width": 6}, 5)(torch.zeros(1, 3, 8, 8)).shape == (1, 5)
    with pytest.raises(NotFoundError, match="small"):
        build(f"{file}:smal")
    with pytest.raises(ModelError, match="str"):
        build(f"{file}:wrong")
    with pytest.raises(ModelError, match="int"):
        build(f"{file}:number")
    (tmp_path / "broken.py").write_text("import no_such_module_anywhere\n")
    with pytest.raises(ModelError, match="does not run: ModuleNotFoundError"):
        build(f"{tmp_path / 'broken.py'}:f")
    with pytest.raises(ModelError, match="there is none"):
        build(f"{tmp_path / 'absent.py'}:f")


@pytest.mark.parametrize(
    "of",
    [
        "timm:resnet18",
        "timm:densenet121",
        "timm:mobilenetv2_035",
        "torchvision:shufflenet_v2_x0_5",
        "gradlens:xception",
    ],
)
def test_small_images_keep_their_resolution(of: str) -> None:
    """The stem takes every pixel; behind it stands the same network, fit for the other's weights."""
    small, plain = build("gradlens:small_images", {"of": of}, 10), build(of, {}, 10)
    image = torch.randn(2, 3, 32, 32)
    seen: dict[str, tuple[int, int]] = {}
    first = next(m for m in small.modules() if isinstance(m, torch.nn.Conv2d))
    second = [m for m in small.modules() if isinstance(m, torch.nn.Conv2d)][1]
    first.register_forward_hook(lambda m, x, y: seen.update(first=tuple(y.shape[-2:])))
    second.register_forward_hook(lambda m, x, y: seen.update(into_second=tuple(x[0].shape[-2:])))
    assert small(image).shape == (2, 10)
    assert seen == {"first": (32, 32), "into_second": (32, 32)}
    shapes = [{k: v.shape for k, v in net.state_dict().items()} for net in (small, plain)]
    assert shapes[0].keys() == shapes[1].keys()
    assert sum(shapes[0][k] != shapes[1][k] for k in shapes[0]) <= 1  # a 7×7 kernel that became 3×3


@pytest.mark.parametrize("of", ["timm:vit_tiny_patch16_224", "timm:mixer_s32_224", "timm:convnext_atto"])
def test_small_images_send_patches_elsewhere(of: str) -> None:
    with pytest.raises(ModelError, match="cuts the image into patches; a smaller patch_size"):
        build("gradlens:small_images", {"of": of}, 10)


def test_vit_with_convolutional_stem() -> None:
    """Each wider convolution halves the sides; behind them stand timm's own blocks."""
    module = build("gradlens:vit_conv_stem", {"stem": (8, 16, 16, 24), "embed_dim": 24, "depth": 2, "num_heads": 2}, 5)
    assert module.patch_embed(torch.randn(2, 3, 32, 32)).shape == (2, 64, 24)  # 8×8 tokens
    assert module(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    assert {type(b).__module__ for b in module.blocks} == {"timm.models.vision_transformer"}
    assert made("cifar10/vit").patch_embed.num_patches == 64
