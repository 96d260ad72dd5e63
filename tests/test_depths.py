"""Depth discovery: cuts of hand-made graphs, known networks, every architecture of the zoo, refusals."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from gradlens.depths.find import find_depths
from gradlens.depths.graph import find_cuts
from gradlens.depths.layout import Reading, readings
from gradlens.errors import DepthError, ModelError, NotFoundError
from gradlens.zoo import checkpoints
from gradlens.zoo.architectures import ARCHITECTURES
from gradlens.zoo.build import build


def image(height: int, width: int | None = None) -> torch.Tensor:
    return torch.randn((1, 3, height, width or height), generator=torch.Generator().manual_seed(1))


def seeded(builder: str, num_classes: int = 8, **arguments: object) -> nn.Module:
    torch.manual_seed(0)
    return build(builder, arguments, num_classes)


class Head(nn.Module):
    """Mean over the grid, then a linear layer."""

    def __init__(self, channels: int, classes: int = 4) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.mean((2, 3)))


class TestGraph:
    def cuts_of(self, function: object) -> tuple[torch.Tensor, dict[str, bool]]:
        pixels = torch.randn(2, 6, requires_grad=True)
        tensors: dict[str, torch.Tensor] = {}
        logits = function(pixels, tensors)  # type: ignore[operator]
        cuts = find_cuts(logits, pixels)
        return logits, {name: cuts.is_cut(t.grad_fn, t.output_nr) for name, t in tensors.items()}

    def test_every_step_of_a_chain_is_a_cut(self) -> None:
        def chain(x: torch.Tensor, seen: dict[str, torch.Tensor]) -> torch.Tensor:
            seen["a"] = x.exp()
            seen["b"] = seen["a"].sin()
            return seen["b"].sum(1, keepdim=True)

        assert self.cuts_of(chain)[1] == {"a": True, "b": True}

    def test_what_a_skip_passes_by_is_no_cut(self) -> None:
        def residual(x: torch.Tensor, seen: dict[str, torch.Tensor]) -> torch.Tensor:
            seen["stem"] = x.exp()
            seen["inside"] = seen["stem"].sin()
            seen["end"] = seen["stem"] + seen["inside"].cos()
            return seen["end"].sum(1, keepdim=True)

        assert self.cuts_of(residual)[1] == {"stem": True, "inside": False, "end": True}

    def test_one_output_of_a_split_is_no_cut(self) -> None:
        def split(x: torch.Tensor, seen: dict[str, torch.Tensor]) -> torch.Tensor:
            seen["left"], seen["right"] = x.exp().chunk(2, dim=1)
            return (seen["left"] * seen["right"]).sum(1, keepdim=True)

        assert self.cuts_of(split)[1] == {"left": False, "right": False}

    def test_a_long_skip_hides_everything_below_it(self) -> None:
        def unet(x: torch.Tensor, seen: dict[str, torch.Tensor]) -> torch.Tensor:
            seen["top"] = x.exp()
            seen["down"] = seen["top"].sin()
            seen["bottom"] = seen["down"] + seen["down"].cos()
            return torch.cat([seen["top"], seen["bottom"]], 1).sum(1, keepdim=True)

        assert self.cuts_of(unet)[1] == {"top": True, "down": False, "bottom": False}

    def test_agrees_with_removing_each_node(self) -> None:
        """Second opinion: a node is a cut exactly if the input cannot be reached from the logits without it."""
        generator = torch.Generator().manual_seed(3)
        for _ in range(20):
            pixels = torch.randn(3, 4, requires_grad=True)
            pool = [pixels.exp()]
            for _ in range(12):
                i, j = (int(torch.randint(len(pool), (1,), generator=generator)) for _ in range(2))
                pool.append(pool[-1] + pool[i].sin() * pool[j])
            logits = pool[-1].sum(1, keepdim=True)
            cuts = find_cuts(logits, pixels)
            for node in cuts.position:
                assert (cuts.position[node] in cuts.cut) == (not reaches(logits.grad_fn, pixels, without=node))


def reaches(node: object, pixels: torch.Tensor, without: object) -> bool:
    seen, stack = set(), [node]
    while stack:
        node = stack.pop()
        if node is None or node is without or node in seen:
            continue
        seen.add(node)
        if getattr(node, "variable", None) is pixels:
            return True
        stack += [child for child, _ in node.next_functions]  # type: ignore[attr-defined]
    return False


class TestKnownNetworks:
    def test_resnet(self) -> None:
        depths = find_depths(seeded("torchvision:resnet18"), image(64))
        names = [p.name for p in depths.points]
        assert names == ["relu", "maxpool", *(f"layer{i}.{j}" for i in range(1, 5) for j in range(2))]
        assert [p.name for p in depths.select(["blocks"])] == names[2:]
        assert [p.name for p in depths.select(["last"])] == ["layer4.1"]
        assert [p.stride for p in depths.points][:3] == [(2, 2), (4, 4), (4, 4)]

    def test_densenet_ends_of_dense_blocks_and_transitions(self) -> None:
        depths = find_depths(seeded("torchvision:densenet121"), image(64))
        assert [p.name for p in depths.select(["blocks"])] == [f"features.denseblock{i}" for i in range(1, 5)]
        assert "features.transition2" in [p.name for p in depths.points]
        assert not [p for p in depths.points if "denselayer" in p.name or p.name.endswith("transition1.conv")]

    def test_inverted_residuals_are_one_depth_each_with_or_without_a_skip(self) -> None:
        depths = find_depths(seeded("torchvision:mobilenet_v2"), image(64))
        assert [p.name for p in depths.points] == [f"features.{i}" for i in range(19)]

    def test_a_plain_network_gives_its_steps(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(inplace=True), Head(16),
        )  # fmt: skip
        depths = find_depths(model, image(32))
        assert [p.name for p in depths.points] == ["2", "3", "5"]
        assert [p.name for p in depths.select(["stages"])] == ["2", "5"]

    @pytest.mark.parametrize(
        ("prefix", "arguments"),
        [(1, {}), (5, {"reg_tokens": 4}), (0, {"class_token": False, "global_pool": "avg"})],
    )
    def test_vit_prefix_tokens_on_a_rectangle(self, prefix: int, arguments: dict[str, object]) -> None:
        model = seeded(
            "timm:vit_tiny_patch16_224",
            img_size=(48, 80),
            patch_size=8,
            depth=4,
            embed_dim=48,
            num_heads=2,
            **arguments,
        )
        depths = find_depths(model, image(48, 80))
        blocks = depths.select(["blocks"])
        assert [p.path for p in blocks] == [f"blocks.{i}" for i in range(4)]
        assert all((p.prefix, p.shape, p.layout) == (prefix, (48, 6, 10), "NLC") for p in blocks)
        assert all(p.verified for p in blocks)
        # read out at the class token, the last block's patches have no gradient
        assert depths.select(["last"])[0].path == ("blocks.3" if prefix == 0 else "blocks.2")

    def test_convnext_blocks_hand_their_input_through_a_module(self) -> None:
        depths = find_depths(seeded("timm:convnext_atto", depths=[1, 2, 2, 1], dims=[8, 16, 24, 32]), image(96))
        expected = [f"stages.{i}.blocks.{j}" for i, n in enumerate([1, 2, 2, 1]) for j in range(n)]
        assert [p.name for p in depths.select(["blocks"])] == expected

    def test_swin_is_channels_last(self) -> None:
        arch = ARCHITECTURES["swin"]
        depths = find_depths(seeded(arch.builder, **arch.arguments), image(96))
        blocks = depths.select(["blocks"])
        assert {p.layout for p in blocks} == {"NHWC"}
        assert all(p.verified for p in blocks)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_every_architecture_of_the_zoo(name: str) -> None:
    arch = ARCHITECTURES[name]
    model = seeded(arch.builder, 10, **arch.arguments)
    before = [(m.training, len(m._forward_hooks)) for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    depths = find_depths(model, image(*arch.input_size[1:]))
    assert before == [(m.training, len(m._forward_hooks)) for m in model.modules()]
    assert flags == [p.requires_grad for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())
    assert len(depths.points) >= 3
    assert all(p.verified is not False for p in depths.points), depths.note
    assert [p.position for p in depths.points] == sorted(p.position for p in depths.points)
    assert len(depths.select(["last"])) == 1
    assert len(depths.select(["stages"])) >= 3
    assert depths.select(["all"]) == depths.points
    assert len(depths.select(["4"])) == 4


class Cube(nn.Module):
    """Channels last, with as many channels as rows and columns: the shape tells nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 4, 4)
        self.mix = nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.mix(self.embed(x).permute(0, 2, 3, 1)).mean((1, 2)))


class Unfolded(nn.Module):
    """A linear patch embedding and a class token: no feature map is ever seen."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.cut = nn.Unfold(8, stride=8)
        self.embed = nn.Linear(192, 24)
        self.first = nn.Parameter(torch.randn(1, prefix, 24))
        self.mix = nn.Linear(24, 24)
        self.head = nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(self.cut(x).transpose(1, 2))
        tokens = torch.cat([self.first.expand(len(x), -1, -1), tokens], 1)
        return self.head(self.mix(tokens).mean(1))


class Attentive(nn.Module):
    """torch's own transformer, whose layers take a path without hooks where no gradient is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 24, 8, 8)
        layer = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3)
        self.head = nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.head(self.encoder(self.embed(x).flatten(2).transpose(1, 2)).mean(1))}


class Fading(nn.Module):
    """Twelve layers that each keep a thousandth of what came in: what a patch of pixels does ends in rounding."""

    def __init__(self, order: torch.Tensor | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(8 if i else 3, 8, 3, 1 if i else 8, 1) for i in range(12))
        self.order = order
        self.head = Head(8)
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=1e-4 if layer is not self.layers[0] else 0.1)
            nn.init.ones_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i == 8 and self.order is not None:
                x = x.flatten(2)[:, :, self.order].unflatten(2, x.shape[2:])
        return self.head(x)


class TestLayouts:
    """Each fails where the layout is guessed from the shape."""

    def test_channels_last_with_as_many_channels_as_rows(self) -> None:
        torch.manual_seed(0)
        points = {p.name: p for p in find_depths(Cube(), image(64)).points}
        assert points["mix"].shape == (16, 16, 16)
        assert points["mix"].layout == "NHWC"
        assert points["mix"].verified

    @pytest.mark.parametrize("prefix", [0, 1, 2, 5])
    def test_tokens_of_a_linear_patch_embedding_on_a_rectangle(self, prefix: int) -> None:
        torch.manual_seed(0)
        points = {p.name: p for p in find_depths(Unfolded(prefix), image(48, 80)).points}
        assert (points["mix"].prefix, points["mix"].shape) == (prefix, (24, 6, 10))
        assert points["mix"].verified
        assert points["cut"].verified is False  # patches as columns: neither axis is a grid

    def test_distilled_deit_has_two_prefix_tokens(self) -> None:
        model = seeded("timm:deit_tiny_distilled_patch16_224", img_size=(48, 64), depth=4)
        depths = find_depths(model, image(48, 64))
        assert {(p.prefix, p.shape[1:]) for p in depths.select(["blocks"])} == {(2, (3, 4))}

    def test_rectangles_of_convolutions_and_windows(self) -> None:
        resnet = find_depths(seeded("timm:resnet18", channels=[8, 16, 24, 32]), image(64, 128))
        assert [p.shape[1:] for p in resnet.select(["stages"])] == [(32, 64), (16, 32), (8, 16), (4, 8), (2, 4)]
        swin = seeded(
            "timm:swin_tiny_patch4_window7_224", img_size=(64, 128), window_size=4, embed_dim=24, depths=(1,) * 4
        )
        points = find_depths(swin, image(64, 128)).select(["stages"])
        assert [(p.layout, p.shape[1:]) for p in points] == [("NHWC", (16 >> i, 32 >> i)) for i in range(4)]
        assert all(p.verified for p in points)

    def test_layers_of_torchs_own_transformer(self) -> None:
        torch.manual_seed(0)
        model = Attentive().eval()
        depths = find_depths(model, image(64))
        assert [p.name for p in depths.points] == ["embed", *(f"encoder.layers.{i}" for i in range(3))]
        assert all(p.verified for p in depths.points)
        inner = depths.select(["encoder.layers.1.self_attn"])  # runs on the slow path while it is hooked
        assert [p.shape for p in inner] == [(24, 8, 8)]

    def test_windows_in_the_batch_are_no_grid(self) -> None:
        depths = find_depths(seeded("timm:swin_tiny_patch4_window7_224", img_size=64, window_size=4), image(64))
        with pytest.raises(DepthError, match="feature map"):
            depths.select(["layers.0.blocks.0.attn"])

    def test_a_change_that_fades_is_followed_from_depth_to_depth(self) -> None:
        torch.manual_seed(0)
        depths = find_depths(Fading(), image(64))
        assert len(depths.points) == 12
        assert all(p.verified for p in depths.points)

    def test_a_wrong_order_is_seen_where_the_change_of_the_pixels_has_faded(self) -> None:
        torch.manual_seed(0)
        order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
        depths = find_depths(Fading(order), image(64))
        assert [p.verified for p in depths.points][:9] == [True] * 9
        assert depths.points[9].verified is False


class TestBlocks:
    """What counts as one depth, in networks whose blocks have outputs of their own inside."""

    @pytest.mark.parametrize(
        ("builder", "arguments", "expected"),
        [
            # a convolution with a skip of its own before the attention and before the MLP
            ("timm:davit_tiny", {"depths": (1, 1), "embed_dims": (24, 48), "num_heads": (2, 4)}, 4),
            # the sum in the middle goes through an Identity
            ("timm:poolformer_s12", {}, 12),
            # branches in parallel inside the token mixer, a skip around the MLP
            ("timm:repvit_m0_9", {"depth": (1, 1, 2, 1), "embed_dim": (16, 24, 32, 40)}, 5),
        ],
    )
    def test_end_where_their_last_skip_ends(self, builder: str, arguments: dict[str, object], expected: int) -> None:
        depths = find_depths(seeded(builder, **arguments), image(96))
        blocks = [p.name for p in depths.select(["blocks"]) if "downsample" not in p.name]
        assert len(blocks) == expected
        assert not [p for p in depths.points if any(p.name.startswith(b + ".") for b in blocks)]

    def test_keys_and_values_of_attention_pooling_are_no_depth(self) -> None:
        model = seeded("timm:vit_base_patch16_siglip_224", img_size=64, depth=3, embed_dim=48, num_heads=4)
        depths = find_depths(model, image(64))
        assert [p.name for p in depths.points] == ["patch_embed", "blocks.0", "blocks.1", "blocks.2"]
        assert [p.name for p in depths.select(["attn_pool.kv"])] == ["attn_pool.kv"]

    def test_last_of_a_head_that_starts_at_zero(self) -> None:
        """torchvision's ViT reads the class token with weights of zero: nothing has a gradient yet."""
        model = seeded("torchvision:vit_b_16", image_size=64)
        model.encoder.layers = model.encoder.layers[:4]
        assert not model.heads.head.weight.any()
        assert [p.name for p in find_depths(model, image(64)).select(["last"])] == ["encoder.layers.encoder_layer_2"]
        assert not model.heads.head.weight.any()


def scripted(make: Callable[[], nn.Module]) -> torch.jit.ScriptModule:
    """A module as TorchScript.

    PyTorch's table of builtins is keyed by ``id()``: now and then an argument has the id of something that is gone, is
    taken for that builtin, and scripting fails. Another module has other ids.
    """
    for _ in range(3):
        with contextlib.suppress(RuntimeError):
            return torch.jit.script(make().eval())
    return torch.jit.script(make().eval())


class TestAnyModule:
    """Whatever a classifier comes wrapped in, and whatever state it is in."""

    def names(self, model: nn.Module, size: int = 64) -> list[str]:
        return [p.name for p in find_depths(model, image(size)).points]

    def small(self) -> nn.Module:
        return seeded("timm:resnet18", channels=[8, 16, 24, 32])

    def test_train_mode_dropout_statistics_and_random_state(self) -> None:
        model = seeded("torchvision:googlenet", aux_logits=True, init_weights=False).train()
        model.inception3a.eval()
        modes, x = [m.training for m in model.modules()], image(64)
        state, before = torch.get_rng_state(), model.conv1.bn.running_mean.clone()
        depths = find_depths(model, x)
        assert torch.equal(torch.get_rng_state(), state)
        assert [m.training for m in model.modules()] == modes
        assert torch.equal(model.conv1.bn.running_mean, before)
        plain = self.names(seeded("torchvision:googlenet", aux_logits=False, init_weights=False).eval())
        assert [p.name for p in depths.points] == plain

    @pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
    def test_wrappers(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        assert self.names(wrap(self.small())) == self.names(self.small())

    def test_compiled_in_place(self) -> None:
        model = self.small()
        model.compile()
        assert self.names(model) == self.names(self.small())

    def test_a_compiled_part(self) -> None:
        model = self.small()
        model.layer3 = torch.compile(model.layer3)
        expected = [n.replace("layer3.", "layer3._orig_mod.") for n in self.names(self.small())]
        assert self.names(model) == expected

    @pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
    def test_scripted_and_traced_models_are_refused_with_the_way_out(self) -> None:
        model = self.small().eval()
        for made in (
            scripted(self.small),
            torch.jit.trace(model, image(64)),
            nn.DataParallel(scripted(self.small)),
        ):
            with pytest.raises(ModelError, match=r"load_state_dict\(scripted\.state_dict\(\)\)"):
                find_depths(made, image(64))
            if not isinstance(made, nn.DataParallel):
                self.small().load_state_dict(made.state_dict())  # the way out works

    @pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
    def test_a_scripted_part_is_passed_over(self) -> None:
        model = self.small().eval()
        model.layer3 = scripted(lambda: self.small().eval().layer3)
        assert self.names(model) == [n for n in self.names(self.small()) if not n.startswith("layer3")]

    def test_a_users_own_file(self, tmp_path: Path) -> None:
        (tmp_path / "net.py").write_text(
            "from torch import nn\n"
            "class Unit(nn.Module):\n"
            "    def __init__(self, c):\n"
            "        super().__init__()\n"
            "        self.body = nn.Sequential(nn.Conv2d(c, c, 3, 1, 1), nn.ReLU(), nn.Conv2d(c, c, 3, 1, 1))\n"
            "    def forward(self, x):\n"
            "        return x + self.body(x)\n"
            "class Net(nn.Module):\n"
            "    def __init__(self, num_classes):\n"
            "        super().__init__()\n"
            "        self.stem = nn.Conv2d(3, 8, 4, 4)\n"
            "        self.units = nn.Sequential(Unit(8), Unit(8), nn.Conv2d(8, 16, 2, 2), Unit(16))\n"
            "        self.fc = nn.Linear(16, num_classes)\n"
            "    def forward(self, x):\n"
            "        features = self.units(self.stem(x))\n"
            "        return features, self.fc(features.mean((2, 3)))\n"
        )
        loaded = checkpoints.load(f"{tmp_path / 'net.py'}:Net", weights="random", classes=5)
        depths = find_depths(loaded.module, image(64))
        assert [p.name for p in depths.points] == ["stem", "units.0", "units.1", "units.2", "units.3"]
        assert [p.name for p in depths.select(["blocks"])] == ["units.0", "units.1", "units.3"]


class Shuffled(nn.Module):
    """Tokens in an order that is not raster, as Hiera's after its unroll."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 24, 8, 8)
        self.order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
        self.mix = nn.Linear(24, 24)
        self.head = nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)[:, self.order]
        return self.head(self.mix(tokens).mean(1))


class Parallel(nn.Module):
    """Two branches from the pixels to the logits: nothing but the sum is crossed by both."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), Head(8))
        self.right = nn.Sequential(nn.Conv2d(3, 8, 5, 4, 2), nn.ReLU(), Head(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.left(x) + self.right(x)


class TestRefusals:
    def test_shuffled_tokens_are_refused(self) -> None:
        torch.manual_seed(0)
        depths = find_depths(Shuffled(), image(64))
        verdicts = {p.name: p.verified for p in depths.points}
        assert verdicts == {"embed": True, "mix": False}
        with pytest.raises(DepthError, match="refused"):
            depths.select(["mix"])
        assert [p.name for p in depths.select(["all"])] == ["embed"]

    def test_parallel_branches_say_so_and_take_names_by_hand(self) -> None:
        torch.manual_seed(0)
        depths = find_depths(Parallel(), image(32))
        assert depths.points == ()
        with pytest.raises(DepthError, match="every path"):
            depths.select(["all"])
        assert [(p.name, p.cut) for p in depths.select(["left.0"])] == [("left.0", False)]

    def test_unknown_layer_suggests(self) -> None:
        torch.manual_seed(0)
        depths = find_depths(seeded("torchvision:resnet18"), image(64))
        with pytest.raises(NotFoundError, match="layer4") as err:
            depths.select(["layer4.0.conv"])
        assert "\n" not in str(err.value)

    def test_a_named_module_that_is_not_spatial(self) -> None:
        depths = find_depths(seeded("torchvision:resnet18"), image(64))
        with pytest.raises(DepthError, match="feature map"):
            depths.select(["fc"])

    def test_no_classifier(self) -> None:
        with pytest.raises(ModelError, match="logits"):
            find_depths(nn.Sequential(nn.Conv2d(3, 4, 3)), image(16))

    def test_logits_without_pixels(self) -> None:
        class Constant(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.zeros(len(x), 3)

        with pytest.raises(ModelError, match="depend"):
            find_depths(Constant(), image(16))


class TestSelectors:
    def test_names_globs_numbers_and_modules_inside_blocks(self) -> None:
        depths = find_depths(seeded("torchvision:resnet18"), image(64))
        assert [p.name for p in depths.select(["layer2.*"])][:2] == ["layer2.0.conv1", "layer2.0.bn1"]
        assert [p.name for p in depths.select(["layer4", "relu"])] == ["relu", "layer4"]
        inner = depths.select(["layer3.0.conv1"])[0]
        assert not inner.cut
        assert inner.verified
        assert [p.name for p in depths.select(["2"])] == ["relu", "layer4.1"]
        assert len(depths.select(["99"])) == len(depths.points)

    def test_a_module_called_twice_has_two_names(self) -> None:
        depths = find_depths(seeded("torchvision:resnet18"), image(64))
        first, second = depths.select(["layer1.0.relu", "layer1.0.relu#2"])
        assert (first.call, second.call) == (1, 2)


class TestReadings:
    def test_an_ambiguous_shape_keeps_both_readings(self) -> None:
        assert {r.layout for r in readings((1, 16, 16, 16), (64, 64))} == {"NCHW", "NHWC"}

    def test_a_rectangle_is_not_read_as_a_square(self) -> None:
        assert readings((1, 60, 32), (48, 80))[0] == Reading("NLC", 0, 6, 10)

    def test_vectors_are_no_grid(self) -> None:
        assert readings((1, 512), (64, 64)) == []
        assert readings((1, 512, 1, 1), (64, 64)) == []

    def test_grid_of_tokens_in_raster_order(self) -> None:
        tokens = torch.arange(2 * 7 * 3).reshape(2, 7, 3)
        grid = Reading("NLC", 1, 2, 3).grid(tokens)
        assert grid.shape == (2, 3, 2, 3)
        assert grid[1, 2, 1, 0] == tokens[1, 1 + 3, 2]
