"""Fast copies: what folds, what must not, and that the maps stay the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.mobilenetv3 import mobilenet_v3_small

from gradlens.cam.engine import explain
from gradlens.cam.fast import compare, deviation, fast_copy
from gradlens.cli.main import main
from gradlens.depths.find import find_depths
from gradlens.zoo import checkpoints


def images(n: int = 2, size: int = 64) -> torch.Tensor:
    return torch.randn((n, 3, size, size), generator=torch.Generator().manual_seed(5))


def with_statistics(model: nn.Module) -> nn.Module:
    """Batch norms that do something: statistics of random weights are all 0 and 1."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                assert m.running_mean is not None
                assert m.running_var is not None
                m.running_mean.copy_(torch.randn(m.num_features, generator=generator) * 0.2)
                m.running_var.copy_(torch.rand(m.num_features, generator=generator) + 0.5)
                m.weight.copy_(torch.rand(m.num_features, generator=generator) + 0.5)
                m.bias.copy_(torch.randn(m.num_features, generator=generator) * 0.2)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


@pytest.mark.parametrize("name", ["densenet", "efficientnet", "googlenet", "resnet", "shufflenet", "swin", "xception"])
def test_maps_of_the_zoo_stay_the_same(name: str) -> None:
    loaded = checkpoints.load(f"vehicles/{name}")
    x = images(2, 96)
    fast = fast_copy(loaded.module, x[:1], find_depths(loaded.module, x[:1]).points)
    off = deviation(loaded.module, fast, x, layers="all")
    assert off.least >= 0.998
    assert off.same_prediction == 1
    assert off.maps > 4


def test_every_norm_behind_its_own_convolution_folds() -> None:
    torch.manual_seed(0)
    for model in (resnet18(num_classes=8), mobilenet_v3_small(num_classes=8)):
        with_statistics(model)
        fast = fast_copy(model, images(1))
        assert len(fast.folded) == norms(model)
        assert norms(fast.module) == 0
        with torch.no_grad():
            torch.testing.assert_close(fast.module(images()), model(images()), rtol=1e-3, atol=1e-4)


class Shared(nn.Module):
    """A convolution whose raw output is used twice: once through a norm, once as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.second_norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raw = self.stem(x)
        out = self.norm(raw).relu() + raw
        return self.head(self.second_norm(self.second(out)).relu().mean((2, 3)))


class Standardised(nn.Conv2d):
    """Does more with its weight than convolve: a norm folded into it would be divided out again."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight / self.weight.flatten(1).norm(dim=1)[:, None, None, None]
        return self._conv_forward(x, weight, self.bias)


def test_what_must_not_fold_stays() -> None:
    torch.manual_seed(0)
    shared = with_statistics(Shared())
    assert fast_copy(shared, images(1)).folded == ("second_norm",)
    standardised = with_statistics(
        nn.Sequential(
            Standardised(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
        )
    )
    fast = fast_copy(standardised, images(1))
    assert fast.folded == ()
    with torch.no_grad():
        torch.testing.assert_close(fast.module(images()), standardised(images()))


def test_a_convolution_that_is_a_depth_keeps_its_norm() -> None:
    torch.manual_seed(0)
    model = with_statistics(resnet18(num_classes=8))
    depths = find_depths(model, images(1))
    points = depths.select(["layer2.0.conv1", "layer4"])
    fast = fast_copy(model, images(1), points)
    assert "layer2.0.bn1" not in fast.folded
    assert deviation(model, fast, images(), layers=[p.name for p in points], depths=depths).least >= 0.998


def test_the_original_is_left_alone() -> None:
    torch.manual_seed(0)
    model = with_statistics(resnet18(num_classes=8)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fast_copy(model, images(1), dtype=torch.bfloat16)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    for k, v in model.state_dict().items():
        assert torch.equal(v, before[k])


def test_lower_precision_is_measured() -> None:
    loaded = checkpoints.load("vehicles/vit")
    x = images(2, 96)
    fast = fast_copy(loaded.module, x[:1], dtype=torch.bfloat16)
    assert all(p.dtype == torch.bfloat16 for p in fast.module.parameters())
    off = deviation(loaded.module, fast, x)
    assert 0.95 < off.least < 1
    assert "cosine" in str(off)


def test_a_deviation_is_seen() -> None:
    """Of two different networks; and a map that is blank in one of two passes is not passed over."""
    torch.manual_seed(0)
    one, two = with_statistics(resnet18(num_classes=8)), with_statistics(resnet18(num_classes=8))
    depths = find_depths(one, images(1))
    first = explain(one, images(), depths=depths)
    off = compare(first, explain(two, images(), depths=depths, targets=first.targets))
    assert off.least < 0.9
    with torch.no_grad():
        two.fc.weight.zero_()
    off = compare(first, explain(two, images(), depths=depths, targets=first.targets))
    assert (off.least, off.median) == (0, 0)
    assert off.maps == sum(m.shape[0] for m in first.maps)


@pytest.mark.parametrize("options", [("--fast",), ("--precision", "bf16"), ("--fast", "--precision", "bf16")])
def test_the_command_says_how_far_its_maps_are(
    options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        main(
            ["cam", "--model", "resnet", "--n", "2", "--json", "--dpi", "50", "--out", str(tmp_path / "run"), *options]
        )
    assert not done.value.code
    printed = capsys.readouterr()
    assert "cosine to the plain pass at least" in printed.err
    (model,) = json.loads(printed.out)["models"]
    (deviation,) = model["deviation"]
    assert 0.98 < deviation["least"] < 1 + 1e-6
    assert deviation["maps"] == 4 * len(model["layers"])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["fast"] == ("--fast" in options)


def test_without_it_nothing_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["cam", "--model=resnet", "--n=1", "--json", "--dpi=50", f"--out={tmp_path / 'run'}"])
    assert json.loads(capsys.readouterr().out)["models"][0]["deviation"] == []
