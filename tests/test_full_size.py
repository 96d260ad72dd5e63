"""The full-size architectures of the studies, with random weights and as few pixels as each permits: built, trained
for two steps, explained at every depth, saved, loaded and measured."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gradlens.cam.engine import explain
from gradlens.runtime import Runtime
from gradlens.train import loop
from gradlens.train.images import Images
from gradlens.train.settings import Data, Optimiser, Recipe, Schedule
from gradlens.workflows.bench import Measures, cost_of
from gradlens.zoo import checkpoints
from gradlens.zoo.build import build_seeded
from gradlens.zoo.cards import Card, Preprocessing
from gradlens.zoo.outputs import logits_of

CLASSES = tuple(f"class {i}" for i in range(10))
CPU = Runtime(device="cpu", quiet=True)


@dataclass(frozen=True)
class Network:
    """An architecture, the side of its images here, and the blocks that its paper gives it."""

    builder: str
    blocks: int
    side: int = 64
    arguments: dict[str, Any] = field(default_factory=dict)


NETWORKS = (
    # ten torchvision networks
    Network("torchvision:convnext_tiny", 18),
    Network("torchvision:densenet161", 4),  # dense blocks
    Network("torchvision:efficientnet_b0", 16),
    Network("torchvision:googlenet", 9),
    Network("torchvision:mobilenet_v3_small", 11),
    Network("torchvision:mnasnet0_75", 16),
    Network("torchvision:swin_t", 12),
    Network("torchvision:shufflenet_v2_x2_0", 16),
    Network("torchvision:vit_b_16", 12, 64, {"image_size": 64}),
    Network("torchvision:wide_resnet50_2", 16),
    # fifteen architectures
    Network("timm:resnet34", 16),
    Network("timm:resnet50", 16),
    Network("timm:resnet101", 33),
    Network("timm:resnet152", 50),
    Network("timm:resnet34d", 16),  # fastai's xresnet34
    Network("gradlens:xresnext34", 16),  # fastai's
    Network("timm:efficientnet_b0", 16),
    Network("timm:efficientnet_b2", 23),
    Network("timm:efficientnet_b4", 32),
    Network("timm:densenet121", 4),
    Network("timm:inception_v4", 17, 107),  # three of them reduce the resolution
    Network("timm:inception_resnet_v2", 43, 107),  # likewise
    Network("timm:mobilenetv3_large_100", 15),
    Network("timm:vit_base_patch16_224", 12, 64, {"img_size": 64}),
    Network("timm:xception41", 13),
    Network("timm:vit_base_patch16_clip_224", 12, 64, {"img_size": 64}),
    Network("timm:resnet50_clip", 16, 96, {"img_size": 96}),
    # the other studies
    Network("timm:vgg16", 17, 32),  # no skips: 13 convolutions and 4 poolings (the fifth leaves one pixel)
    Network("timm:efficientnet_b3", 26),
    Network("timm:legacy_xception", 12, 71),
    Network("timm:deit_tiny_patch16_224", 12, 224),
)


class Enough(Exception):
    """Ends a training run."""


def noise(n: int, side: int, seed: int) -> torch.Tensor:
    return torch.randint(256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def recipe_for(network: Network, **changes: Any) -> Recipe:
    return Recipe(
        recipe="test", title="Noise", collection="test", model=network.builder, builder=network.builder,
        data=Data(train="noise", select="noise"), input_size=network.side, mean=(0.5,) * 3, std=(0.25,) * 3, epochs=1,
        batch_size=2, optimiser=Optimiser(name="adam", lr=1e-4, weight_decay=0),
        schedule=Schedule(name="constant", warmup=0), **changes,
    )  # fmt: skip


def two_steps(module: nn.Module, network: Network) -> list[float]:
    """Train with the loop; returns both losses. The first step frees what is drawn as zero (torchvision's ViT its head,
    timm's ResNet the last norm of each block), behind which nothing can move before."""
    losses: list[float] = []

    def stop(step: dict[str, float]) -> None:
        losses.append(step["loss"])
        if len(losses) == 2:
            raise Enough

    images = Images(noise(4, network.side, 0), torch.tensor([1, 7, 2, 5]))
    with tempfile.TemporaryDirectory() as folder, pytest.raises(Enough):
        loop.train(module, recipe_for(network), images, images, Path(folder), CPU, on_step=stop)
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.builder)
def test_full_size(network: Network) -> None:
    module = build_seeded(network.builder, network.arguments, len(CLASSES))
    before = {k: float(p.detach().sum(dtype=torch.float64)) for k, p in module.named_parameters()}
    losses = two_steps(module, network)
    assert all(math.isfinite(loss) for loss in losses)
    still = [k for k, p in module.named_parameters() if float(p.detach().sum(dtype=torch.float64)) == before[k]]
    assert len(still) < 0.05 * len(before), still
    module.zero_grad(set_to_none=True)

    image = noise(1, network.side, 1) / 255 * 4 - 2
    module.eval()
    found = explain(module, image, layers="all")
    assert sum("blocks" in p.selectors for p in found.depths) == network.blocks
    statuses = {s for by_target in found.statuses() for row in by_target for s in row}
    assert "ok" in statuses
    assert not statuses & {"non-finite"}
    assert all(m.shape[:2] == (1, 1) and m.shape[2] * m.shape[3] > 1 for m in found.maps)
    del found

    with torch.no_grad():
        logits = logits_of(module(image))
    assert logits.shape == (1, len(CLASSES))
    with tempfile.TemporaryDirectory() as folder:
        card = Card(
            builder=network.builder, arguments=network.arguments, classes=CLASSES,
            preprocess=Preprocessing(input_size=(3, network.side, network.side)),
        )  # fmt: skip
        card = checkpoints.save(Path(folder), module, card, half=False)
        del module
        loaded = checkpoints.load_folder(Path(folder), "again")
    with torch.no_grad():
        assert torch.equal(logits_of(loaded.module(image)), logits)

    cost = cost_of(loaded, CPU, Measures(passes=1, batch_sizes=(2,)))
    assert (cost.profile.parameters, cost.profile.flops) == (card.parameters, card.flops)
    assert card.parameters == sum(p.numel() for p in loaded.module.parameters())
    assert cost.latency is not None
    assert cost.latency.median_ms > 0
    (batch,) = cost.throughput
    assert batch.images_per_second is not None
    assert batch.peak_mb is None or batch.peak_mb > cost.profile.size_mb


@pytest.mark.parametrize("builder", ["torchvision:mnasnet0_75", "torchvision:googlenet"])
def test_kept_weights_come_back(builder: str, tmp_path: Path) -> None:
    """MNASNet takes no weights without the version of their format: not after the last epoch, nor to go on."""
    network = Network(builder, 0)
    images = Images(noise(4, network.side, 0), torch.tensor([0, 1, 2, 3]))
    trained = []
    for ends in (1, 2):  # killed after the first epoch, then continued
        module = build_seeded(builder, {}, 4)
        recipe = recipe_for(network).model_copy(update={"epochs": 2})

        def kill(epoch: loop.Epoch, ends: int = ends) -> None:
            if epoch.epoch == ends == 1:
                raise Enough

        try:
            loop.train(module, recipe, images, images, tmp_path / "killed", CPU, on_epoch=kill)
        except Enough:
            assert ends == 1
        else:
            trained.append(module.state_dict())
    module = build_seeded(builder, {}, 4)
    loop.train(module, recipe_for(network).model_copy(update={"epochs": 2}), images, images, tmp_path / "whole", CPU)
    (after_kill,) = trained
    assert all(torch.equal(after_kill[k], v) for k, v in module.state_dict().items())
