"""Depth discovery on architectures that nobody told gradlens about: torchvision's and timm's, with random weights.

The table says what is found in each. A change of the rules that loses depths somewhere, moves `last` or leaves more
layouts unsettled shows here; a change for the better is written into the table. Inputs are as small as the
architecture permits, so a few layouts on grids of 2 x 2 and 4 x 4 cells stay inconclusive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gradlens.cam.engine import explain
from gradlens.depths.find import Depths, find_depths
from gradlens.errors import DepthError
from gradlens.zoo import checkpoints
from gradlens.zoo.build import build_seeded


@dataclass(frozen=True)
class Sight:
    """What is found in one architecture.

    Attributes:
        builder: its name; size: side of the square input in pixels.
        depths, blocks, stages: how many the selectors ``all``, ``blocks`` and ``stages`` give.
        last: the depth that ``last`` gives.
        unsure: most depths whose layout check may be inconclusive.
        blank: depths behind a read-out at the class token, where patches have no gradient.
        arguments: of the builder; where they shorten the network, its blocks are all alike.
    """

    builder: str
    size: int
    depths: int
    blocks: int
    stages: int
    last: str
    unsure: int = 0
    blank: int = 0
    arguments: Mapping[str, Any] = field(default_factory=dict)


SIGHTS = [
    Sight("torchvision:resnet18", 64, 10, 8, 5, "layer4.1"),
    Sight("torchvision:resnet34", 64, 18, 16, 5, "layer4.2"),
    Sight("torchvision:resnet50", 64, 18, 16, 5, "layer4.2"),
    Sight("torchvision:resnet101", 64, 35, 33, 5, "layer4.2"),
    Sight("torchvision:resnet152", 64, 52, 50, 5, "layer4.2"),
    Sight("torchvision:wide_resnet50_2", 64, 18, 16, 5, "layer4.2"),
    Sight("torchvision:resnext50_32x4d", 64, 18, 16, 5, "layer4.2"),
    Sight("torchvision:densenet121", 64, 9, 4, 5, "features.denseblock4"),
    Sight("torchvision:densenet161", 64, 9, 4, 5, "features.denseblock4"),
    Sight("torchvision:vgg16", 64, 18, 18, 6, "features"),
    Sight("torchvision:alexnet", 96, 8, 8, 4, "features"),
    Sight("torchvision:squeezenet1_1", 64, 13, 8, 4, "classifier.2"),
    Sight("torchvision:mobilenet_v2", 64, 19, 17, 5, "features.18"),
    Sight("torchvision:mobilenet_v3_small", 64, 13, 11, 5, "features.12", unsure=2),
    Sight("torchvision:mobilenet_v3_large", 64, 17, 15, 5, "features.16"),
    Sight("torchvision:mnasnet0_75", 64, 20, 16, 5, "layers", unsure=2),
    Sight("torchvision:shufflenet_v2_x2_0", 64, 19, 16, 5, "conv5"),
    Sight("torchvision:efficientnet_b0", 64, 18, 16, 5, "features.8", unsure=3),
    Sight("torchvision:efficientnet_b2", 64, 25, 23, 5, "features.8", unsure=7),
    Sight("torchvision:efficientnet_b3", 64, 28, 26, 5, "features.8", unsure=8),
    Sight("torchvision:efficientnet_b4", 64, 34, 32, 5, "features.8", unsure=6),
    Sight("torchvision:convnext_tiny", 64, 22, 18, 4, "features.7.2"),
    Sight("torchvision:googlenet", 64, 16, 9, 5, "inception5b"),
    Sight("torchvision:regnet_y_400mf", 64, 17, 16, 5, "trunk_output.block4.block4-5"),
    Sight("torchvision:inception_v3", 128, 18, 11, 7, "Mixed_7c"),
    Sight("torchvision:swin_t", 64, 16, 12, 4, "features.7.1"),
    Sight("torchvision:swin_v2_t", 64, 16, 12, 4, "features.7.1"),
    Sight(
        "torchvision:vit_b_16", 64, 13, 12, 5, "encoder.layers.encoder_layer_10", blank=1, arguments={"image_size": 64}
    ),
    Sight("timm:resnet34d", 64, 20, 16, 5, "layer4.2"),
    Sight("timm:seresnet18", 64, 10, 8, 5, "layer4.1", unsure=2),
    Sight("timm:skresnet18", 64, 10, 8, 5, "layer4.1"),
    Sight("timm:resnest14d", 64, 8, 4, 5, "layer4.0"),
    Sight("timm:res2net50_26w_4s", 64, 18, 16, 5, "layer4.2", unsure=3),
    Sight("timm:selecsls42", 64, 9, 6, 5, "head.1", unsure=1),
    Sight("timm:cspresnet50", 64, 6, 4, 5, "stages.3"),
    Sight("timm:dla34", 64, 7, 4, 6, "level5"),
    Sight("timm:dpn68", 64, 24, 22, 5, "features.conv5_3"),
    Sight("timm:vovnet39a", 64, 18, 6, 5, "stages.3.blocks.1.conv_concat"),
    Sight("timm:darknet53", 64, 29, 23, 6, "stages.4.blocks.3"),
    Sight("timm:resnetv2_50x1_bit", 64, 19, 16, 6, "stages.3.blocks.2"),
    Sight("timm:ghostnet_100", 64, 18, 16, 5, "blocks.9.0"),
    Sight("timm:ghostnetv2_100", 64, 18, 16, 5, "blocks.9.0"),
    Sight("timm:lcnet_050", 64, 18, 2, 5, "blocks.5.1", unsure=4),
    Sight("timm:tinynet_e", 64, 12, 10, 5, "bn2", unsure=1),
    Sight("timm:rexnet_100", 64, 18, 16, 5, "features.16"),
    Sight("timm:regnetx_002", 64, 14, 13, 5, "s4.b7", unsure=7),
    Sight("timm:regnety_002", 64, 14, 13, 5, "s4.b7", unsure=7),
    Sight("timm:repvgg_a0", 64, 22, 22, 5, "stages.3.0"),
    Sight("timm:hgnetv2_b0", 64, 9, 6, 4, "stages.3.blocks.0"),
    Sight("timm:legacy_xception", 96, 16, 12, 6, "conv4", unsure=1),
    Sight("timm:xception41", 96, 15, 13, 5, "blocks.12"),
    Sight("timm:inception_v4", 128, 22, 17, 7, "features.21"),
    Sight("timm:inception_resnet_v2", 128, 51, 43, 7, "conv2d_7b"),
    Sight("timm:resnet50_clip", 64, 20, 16, 5, "stages.3.2"),
    Sight("timm:vit_base_patch16_clip_224", 96, 13, 12, 5, "blocks.10", blank=1, arguments=dict(img_size=96)),
    Sight("timm:vit_base_patch16_siglip_224", 96, 5, 4, 4, "blocks.3", arguments=dict(img_size=96, depth=4)),
    Sight("timm:deit_tiny_patch16_224", 96, 13, 12, 5, "blocks.10", blank=1, arguments=dict(img_size=96)),
    Sight("timm:deit_tiny_distilled_patch16_224", 96, 13, 12, 5, "blocks.10", blank=1, arguments=dict(img_size=96)),
    Sight("timm:deit3_small_patch16_224", 96, 7, 6, 5, "blocks.4", blank=1, arguments=dict(img_size=96, depth=6)),
    Sight("timm:vit_small_patch14_reg4_dinov2", 98, 7, 6, 5, "blocks.4", blank=1, arguments=dict(img_size=98, depth=6)),
    Sight("timm:vit_little_patch16_reg4_gap_256", 96, 7, 6, 5, "blocks.5", arguments=dict(img_size=96, depth=6)),
    Sight("timm:beit_base_patch16_224", 96, 5, 4, 4, "blocks.3", arguments=dict(img_size=96, depth=4)),
    Sight("timm:eva02_tiny_patch14_224", 98, 13, 12, 5, "blocks.11", arguments=dict(img_size=98)),
    Sight("timm:vit_tiny_r_s16_p8_224", 96, 15, 12, 3, "blocks.10", blank=1, arguments=dict(img_size=96)),
    Sight("timm:naflexvit_base_patch16_gap", 96, 5, 4, 4, "blocks.3", arguments=dict(depth=4)),
    Sight("timm:samvit_base_patch16_224", 96, 5, 4, 4, "blocks.3", arguments=dict(img_size=96, depth=4)),
    Sight("timm:cait_xxs24_224", 96, 26, 24, 5, "blocks.23", blank=1, arguments=dict(img_size=96)),
    Sight("timm:xcit_nano_12_p16_224", 96, 18, 14, 4, "cls_attn_blocks.0", blank=1),
    Sight("timm:convit_tiny", 96, 13, 12, 5, "blocks.10", blank=1, arguments=dict(img_size=96)),
    Sight("timm:pit_ti_224", 128, 13, 12, 3, "transformers.2.blocks.2", blank=1, arguments=dict(img_size=128)),
    Sight("timm:volo_d1_224", 96, 25, 20, 3, "post_network.1", arguments=dict(img_size=96)),
    Sight("timm:mixer_s32_224", 96, 9, 8, 5, "blocks.7", arguments=dict(img_size=96)),
    Sight("timm:maxvit_nano_rw_256", 128, 23, 21, 5, "stages.3.blocks.0.attn_grid", arguments=dict(img_size=128)),
    Sight("timm:coatnet_nano_rw_224", 96, 18, 16, 5, "stages.3.blocks.2", arguments=dict(img_size=96)),
    Sight("timm:mobilevit_xxs", 128, 12, 10, 5, "final_conv"),
    Sight("timm:mobilevitv2_050", 128, 10, 9, 5, "stages.4.1"),
    Sight("timm:levit_128s", 224, 15, 11, 6, "stages.2.blocks.3"),
    Sight("timm:pvt_v2_b0", 96, 12, 8, 4, "stages.3.blocks.1"),
    Sight("timm:twins_svt_small", 96, 26, 18, 4, "blocks.3.3", arguments=dict(img_size=96)),
    Sight("timm:twins_pcpvt_small", 96, 24, 16, 4, "blocks.3.2", arguments=dict(img_size=96)),
    Sight("timm:davit_tiny", 96, 16, 12, 4, "stages.3.blocks.0.1"),
    Sight("timm:nest_tiny", 128, 4, 3, 3, "levels.2", arguments=dict(img_size=128)),
    Sight("timm:tiny_vit_5m_224", 224, 17, 12, 5, "stages.3.blocks.1"),
    Sight("timm:gcvit_xxtiny", 128, 7, 5, 5, "stages.3", arguments=dict(img_size=128)),
    Sight("timm:focalnet_tiny_srf", 96, 16, 12, 4, "layers.3.blocks.1"),
    Sight("timm:coat_lite_tiny", 128, 20, 8, 4, "cpe4#2", blank=1, arguments=dict(img_size=128)),
    Sight(
        "timm:swinv2_cr_tiny_ns_224", 128, 16, 12, 4, "stages.3.blocks.1", arguments=dict(img_size=128, window_size=4)
    ),
    Sight("timm:mvitv2_tiny", 96, 11, 10, 4, "stages.3.blocks.1", arguments=dict(img_size=96)),
    Sight("timm:efficientformer_l1", 224, 20, 15, 5, "stages.3.blocks.4"),
    Sight("timm:efficientformerv2_s0", 128, 19, 15, 5, "stages.3.blocks.3", arguments=dict(img_size=128)),
    Sight("timm:efficientvit_b0", 96, 12, 11, 5, "stages.3.blocks.2"),
    Sight("timm:efficientvit_m0", 128, 50, 24, 6, "stages.2.blocks.2.ffn1", arguments=dict(img_size=128)),
    Sight("timm:fastvit_t8", 96, 17, 16, 5, "final_conv"),
    Sight("timm:poolformer_s12", 96, 16, 12, 4, "stages.3.blocks.1"),
    Sight("timm:caformer_s18", 96, 22, 18, 4, "stages.3.blocks.2"),
    Sight("timm:convmixer_768_32", 64, 65, 32, 5, "blocks"),
    Sight("timm:convnextv2_atto", 96, 16, 12, 4, "stages.3.blocks.1"),
    Sight("timm:edgenext_xx_small", 96, 16, 12, 4, "stages.3.blocks.1"),
    Sight("timm:inception_next_atto", 96, 16, 12, 4, "stages.3.blocks.1"),
    Sight("timm:mambaout_femto", 96, 23, 18, 5, "stages.3.blocks.2"),
    Sight("timm:mobilenetv4_conv_small", 96, 18, 12, 5, "blocks.4.0"),
    Sight("timm:mobilenetv4_hybrid_medium", 96, 33, 31, 5, "blocks.4.0"),
    Sight("timm:nextvit_small", 96, 24, 20, 5, "stages.3.blocks.2"),
    Sight("timm:nfnet_f0", 64, 17, 12, 5, "final_act"),
    Sight("timm:rdnet_tiny", 96, 14, 7, 4, "dense_stages.6.2"),
    Sight("timm:repvit_m1", 96, 25, 23, 5, "stages.3.blocks.1"),
    Sight("timm:shvit_s1", 96, 25, 17, 6, "stages.2.blocks.4"),
    Sight("timm:starnet_s1", 96, 20, 15, 5, "stages.3.3"),
    Sight("timm:swiftformer_xs", 128, 21, 16, 5, "stages.3.blocks.3"),
    Sight("timm:visformer_tiny", 96, 19, 15, 4, "stage3.3", arguments=dict(img_size=96)),
    Sight("timm:fasternet_t0", 96, 17, 13, 4, "stages.3.blocks.1"),
    Sight("timm:lambda_resnet26t", 128, 12, 8, 5, "stages.3.1"),
]


@pytest.fixture(autouse=True)
def _cheap_initialisation(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision draws truncated normals, at seconds per network; the tails make no difference here."""

    def normal(t: torch.Tensor, mean: float = 0.0, std: float = 1.0, *_: object, **__: object) -> torch.Tensor:
        return nn.init.normal_(t, mean, std)

    monkeypatch.setattr(nn.init, "trunc_normal_", normal)


def grown(builder: str, arguments: Mapping[str, Any]) -> nn.Module:
    """With random weights in the head, as after some training: one that starts at zero passes no gradient."""
    model = build_seeded(builder, arguments, 8).eval()
    generator = torch.Generator().manual_seed(0)
    for m in model.modules():
        if isinstance(m, nn.Linear) and not m.weight.any():
            nn.init.normal_(m.weight, std=0.02, generator=generator)
    return model


def image(size: int) -> torch.Tensor:
    return torch.randn((1, 3, size, size), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("sight", SIGHTS, ids=lambda s: s.builder)
def test_depths_selectors_and_maps(sight: Sight) -> None:
    model, x = grown(sight.builder, sight.arguments), image(sight.size)
    found = find_depths(model, x)
    assert all(p.verified is not False for p in found.points), found.note
    chosen = {s: [p.name for p in found.select([s])] for s in ("all", "blocks", "stages", "last", "4")}
    counts = {s: len(names) for s, names in chosen.items()}
    assert counts == {"all": sight.depths, "blocks": sight.blocks, "stages": sight.stages, "last": 1, "4": 4}
    assert counts["all"] >= 3
    assert chosen["last"] == [sight.last]
    assert sum(p.verified is None for p in found.points) <= sight.unsure
    assert found.note == ""
    maps_are_sound(model, x, found, sight.blank)


def maps_are_sound(model: nn.Module, x: torch.Tensor, found: Depths, blank: int) -> None:
    explained = explain(model, x, layers="all", depths=found)
    for point, cells in zip(explained.depths, explained.maps, strict=True):
        assert tuple(cells.shape) == (1, 1, *point.shape[1:]), point.name
    statuses = explained.statuses()[0][0]
    counts = Counter(statuses)
    assert not counts["non-finite"] + counts["undefined"], counts
    assert counts["zero gradient"] == blank
    live = [s != "zero gradient" for s, p in zip(statuses, explained.depths, strict=True) if "last" in p.selectors]
    assert live == [True]


def test_at_least_sixty() -> None:
    assert len({s.builder for s in SIGHTS}) == len(SIGHTS) >= 60


class TestNotEveryArchitecture:
    """What has no depths, or too few, says why, and which modules work by hand."""

    def test_hiera_reorders_its_tokens(self) -> None:
        """Its unroll undoes itself at the last stage, where three poolings have used it up."""
        found = find_depths(grown("timm:hiera_tiny_224", {"img_size": (128, 128)}), image(128))
        assert [p.name for p in found.points if p.verified] == ["patch_embed", "blocks.10", "blocks.11"]
        assert all(p.verified is False for p in found.points[1:-2])
        assert "10 of 13 depths failed the layout check" in found.note
        with pytest.raises(DepthError, match="moving a patch of the image moved another cell"):
            found.select(["blocks.5"])

    def test_hrnet_runs_branches_beside_one_another(self) -> None:
        model, x = grown("timm:hrnet_w18_small", {}), image(64)
        found = find_depths(model, x)
        assert [p.name for p in found.points] == ["act1", "act2", "layer1.0", "final_layer"]
        assert found.note.endswith("modules named by hand work there, e.g. stage2, stage3, stage4")
        by_hand = explain(model, x, layers=["stage2", "stage3", "stage4", "stage3.0.branches.0.1"], depths=found)
        assert {s for s in by_hand.statuses()[0][0]} <= {"ok", "all negative"}

    def test_crossvit_has_two_token_streams(self) -> None:
        model, x = grown("timm:crossvit_9_240", {}), image(240)
        found = find_depths(model, x)
        assert found.points == ()
        with pytest.raises(DepthError, match=r"parallel branches .* by hand work there, e\.g\. blocks\.0, blocks\.1"):
            found.select(["stages"])
        by_hand = explain(model, x, layers=["blocks.0", "blocks.1"], depths=found)
        assert [p.cut for p in by_hand.depths] == [False, False]
        assert {s for s in by_hand.statuses()[0][0]} <= {"ok", "all negative"}

    def test_tnt_has_a_stream_of_pixels_inside_that_of_patches(self) -> None:
        model, x = grown("timm:tnt_s_patch16_224", {"img_size": 96}), image(96)
        found = find_depths(model, x)
        assert [p.name for p in found.points] == ["norm"]  # behind it only the class token is read
        assert "parallel branches" in found.note
        assert "the gradient is zero at every depth" in found.note
        by_hand = explain(model, x, layers=["blocks.0.attn_out", "blocks.2.attn_out"], depths=found)
        assert {s for s in by_hand.statuses()[0][0]} <= {"ok", "all negative"}
        with pytest.raises(DepthError, match="feature map"):
            found.select(["pixel_embed"])  # one grid per patch: its rows are no images


def transformers_model(kind: str) -> nn.Module:
    """A small classifier of the Hugging Face library with random weights."""
    import transformers as tf

    vit = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96}
    vit |= {"image_size": 64, "patch_size": 8}
    deep = {"depths": [1, 1, 2, 1], "image_size": 64}
    torch.manual_seed(0)
    made = {
        "vit": lambda: tf.ViTForImageClassification(tf.ViTConfig(num_labels=5, **vit)),
        "deit": lambda: tf.DeiTForImageClassification(tf.DeiTConfig(num_labels=5, **vit)),
        "swin": lambda: tf.SwinForImageClassification(
            tf.SwinConfig(num_labels=5, embed_dim=16, num_heads=[1, 2, 4, 8], window_size=4, patch_size=2, **deep)
        ),
        "convnext": lambda: tf.ConvNextForImageClassification(
            tf.ConvNextConfig(num_labels=5, hidden_sizes=[8, 16, 24, 32], **deep)
        ),
    }
    return made[kind]().eval()


class OwnCall(nn.Module):
    """How somebody's training script calls such a classifier."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.inner(pixel_values=x, return_dict=False)


class TestTransformers:
    @pytest.mark.parametrize(
        ("kind", "layout", "prefix", "blocks", "last"),
        [
            ("vit", "NLC", 1, 4, "vit.layers.2"),
            ("deit", "NLC", 2, 4, "deit.layers.2"),
            ("swin", "NLC", 0, 5, "swin.encoder.layers.3.blocks.0"),
            ("convnext", "NCHW", 0, 5, "convnext.encoder.stages.3.layers.0"),
        ],
    )
    def test_classifiers(self, kind: str, layout: str, prefix: int, blocks: int, last: str) -> None:
        model, x = transformers_model(kind), image(64)
        found = find_depths(model, x)
        assert {(p.layout, p.prefix) for p in found.select(["blocks"])} == {(layout, prefix)}
        assert len(found.select(["blocks"])) == blocks
        assert [p.name for p in found.select(["last"])] == [last]
        assert all(p.verified for p in found.points)
        maps_are_sound(model, x, found, blank=int(kind in ("vit", "deit")))

    def test_pixel_values_by_keyword_and_outputs_as_tuples(self) -> None:
        model = transformers_model("vit")
        inner = [f"inner.{p.name}" for p in find_depths(model, image(64)).points]
        assert [p.name for p in find_depths(OwnCall(model), image(64)).points] == inner

    def test_a_saved_folder(self, tmp_path: Path) -> None:
        import transformers as tf

        model = transformers_model("vit")
        model.config.id2label = {i: name for i, name in enumerate(["bus", "car", "cat", "dog", "van"])}
        model.save_pretrained(tmp_path)
        tf.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
        loaded = checkpoints.load(f"hf:{tmp_path}", weights="pretrained", offline=True)
        assert loaded.classes == ("bus", "car", "cat", "dog", "van")
        assert loaded.preprocess.size == (64, 64)
        saved, again = explain(model, image(64)), explain(loaded.module, image(64))
        assert torch.equal(saved.maps[-1], again.maps[-1])
