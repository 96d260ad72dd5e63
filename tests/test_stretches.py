"""What lies between the depths adds up to the network, and is what the modules in between hold."""

from __future__ import annotations

import timm
import torch
import torchvision
from torch import nn

from gradlens.depths.find import find_depths
from gradlens.depths.stretches import stretches
from gradlens.zoo.profile import profile


def parts(model: nn.Module, side: int) -> dict[str, tuple[int, int]]:
    """Name of each depth (``""`` for the rest) -> parameters and FLOPs of the stretch that ends there."""
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    points = find_depths(model.eval(), image).points
    found = stretches(model, points, image)
    assert len(found) == len(points) + 1
    return {name: (s.parameters, s.flops) for name, s in zip([*(p.name for p in points), ""], found, strict=True)}


def test_a_residual_network_is_told_apart_block_by_block() -> None:
    model = torchvision.models.resnet18(num_classes=7)
    found = parts(model, 64)
    for name in ("layer1.0", "layer1.1", "layer2.0", "layer4.1"):
        assert found[name][0] == sum(p.numel() for p in model.get_submodule(name).parameters())
    # two 3 x 3 convolutions of 64 channels on 16 x 16 cells, two operations per multiply-accumulate
    assert found["layer1.1"][1] == 2 * 2 * 64 * 64 * 9 * 16 * 16
    assert found[""] == (512 * 7 + 7, 2 * 512 * 7)


def test_parameters_of_no_module_belong_to_the_first_stretch_that_uses_them() -> None:
    """A ViT's class token and position embedding are the network's own; its first block is the first to see them."""
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=2, num_classes=5
    )
    found = parts(model, 32)
    extra = model.get_parameter("cls_token").numel() + model.get_parameter("pos_embed").numel()
    assert found["blocks.0"][0] - found["blocks.1"][0] == extra
    assert found["blocks.1"] == found["blocks.2"]


def test_stretches_are_the_whole_network_and_leave_it_as_it_was() -> None:
    """Fused attention too, which the counter does not see (torchvision's ViT without gradients)."""
    torch.manual_seed(0)
    vit = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5
    )
    auxiliary = torchvision.models.googlenet(num_classes=5, init_weights=False, aux_logits=True)  # heads not used
    for model, side in ((vit, 32), (auxiliary, 64)):
        first = next(model.parameters()).requires_grad_(False)
        found = parts(model, side)
        whole = profile(model, (3, side, side))
        assert sum(p for p, _ in found.values()) == whole.parameters
        assert sum(f for _, f in found.values()) == whole.flops
        assert not first.requires_grad
        assert sum(p.requires_grad for p in model.parameters()) == len(list(model.parameters())) - 1
        assert all(p.grad is None for p in model.parameters())


def test_fused_attention_is_counted_in_its_parts() -> None:
    """The same work with and without gradients; by hand: projections, two products of attention, the output."""
    attention = nn.MultiheadAttention(16, 2, batch_first=True)

    class OneLayer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention
            self.head = nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = x.reshape(len(x), -1, 16)
            mixed: torch.Tensor = self.attention(tokens, tokens, tokens, need_weights=False)[0]
            logits: torch.Tensor = self.head(mixed.mean(1))
            return logits

    n = 3 * 8 * 8 // 16
    by_hand = n * 16 * 48 + 2 * n * n * 16 + n * 16 * 16 + 16 * 3
    enabled = torch.backends.mha.get_fastpath_enabled()
    assert profile(OneLayer(), (3, 8, 8)).macs == by_hand
    assert torch.backends.mha.get_fastpath_enabled() == enabled
