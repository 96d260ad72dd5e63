"""Depth discovery: cuts of hand-made graphs, known networks, every architecture of the zoo, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradlens.depths.find import find_depths
from gradlens.depths.graph import find_cuts
from gradlens.depths.layout import Reading, readings
from gradlens.errors import DepthError, ModelError, NotFoundError
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
