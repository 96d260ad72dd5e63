"""Batched augmentation against torchvision's transforms, and where the two differ on purpose."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from gradlens.errors import TrainingError
from gradlens.train import recipes
from gradlens.train.augment import _DRAWS, Augmenter, draw, order
from gradlens.train.settings import Augment

RAW = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # mean, std that change nothing


def smooth(count: int = 6, side: int = 24) -> torch.Tensor:
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(3))
    return F.interpolate(coarse, side, mode="bicubic").clamp(0, 1).mul(255).to(torch.uint8)


def draws_with(count: int, **fixed: float) -> torch.Tensor:
    u = torch.full((count, len(_DRAWS)), 0.5)
    for name, value in fixed.items():
        u[:, _DRAWS.index(name)] = value
    return u


def test_vertical_flips_are_torchvisions_on_both_paths() -> None:
    x = smooth()
    expected = tv.vertical_flip(x) / 255
    exact = Augmenter(Augment(vertical_flip=1.0), 24, *RAW)(x, draw(6, 0, 0))
    torch.testing.assert_close(exact, expected)
    resampled = Augmenter(Augment(vertical_flip=1.0, rotation=10), 24, *RAW)(x, draws_with(6))
    torch.testing.assert_close(resampled, expected, atol=1e-4, rtol=0)
    seen = Augmenter(Augment(vertical_flip=0.3), 24, *RAW)(x[:1].expand(2000, -1, -1, -1), draw(2000, 0, 0))
    assert 0.26 < float((seen == expected[0]).flatten(1).all(1).float().mean()) < 0.34


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_a_padded_random_crop_is_torchvisions(mode: str) -> None:
    x = smooth()
    for top, left in ((0, 0), (3, 8), (8, 1)):
        u = draws_with(6, top=(top + 0.5) / 9, left=(left + 0.5) / 9)
        ours = Augmenter(Augment.model_validate({"pad": 4, "padding_mode": mode}), 24, *RAW)(x, u)
        padded = tv.pad(x, [4], padding_mode=mode)
        torch.testing.assert_close(ours, tv.crop(padded, top, left, 24, 24) / 255)


@pytest.mark.parametrize("box", [(0, 0, 12, 12), (3, 5, 12, 18), (10, 2, 8, 16), (0, 0, 24, 24)])
def test_a_random_resized_crop_is_torchvisions(box: tuple[int, int, int, int]) -> None:
    top, left, height, width = box
    x = smooth()
    area, aspect = height * width / 24**2, width / height
    augment = Augmenter(Augment(scale=(area, area), ratio=(aspect, aspect)), 24, *RAW)
    ours = augment(x, draws_with(6, top=top / max(1, 24 - height), left=left / max(1, 24 - width)))
    theirs = tv.resized_crop(x / 255, top, left, height, width, [24, 24], InterpolationMode.BILINEAR, antialias=True)
    inner = slice(1, -1)  # at a crop's edge ours looks beyond it, theirs repeats the edge
    torch.testing.assert_close(ours[..., inner, inner], theirs[..., inner, inner], atol=0.01, rtol=0)


def boxes(scale: tuple[float, float], ratio: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """(areas, logarithms of aspect ratios) of our crops, read off from what is seen of an image of coordinates."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    coordinates = torch.stack([x, y, torch.zeros_like(x)]).mul(255).round().to(torch.uint8).expand(2000, -1, -1, -1)
    seen = Augmenter(Augment(scale=scale, ratio=ratio), 16, *RAW)(coordinates, draw(2000, 1, 1)) * 63 / 64
    width = ((seen[:, 0, :, 12] - seen[:, 0, :, 3]).mean(1) * 16 / 9).numpy()
    height = ((seen[:, 1, 12] - seen[:, 1, 3]).mean(1) * 16 / 9).numpy()
    return width * height, np.log(width / height)


def boxes_of_torchvision(scale: tuple[float, float], ratio: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    transform = v2.RandomResizedCrop(224, scale=scale, ratio=ratio)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = [transform.make_params([torch.empty(3, 224, 224)]) for _ in range(4000)]
    height, width = (np.array([m[side] for m in made]) / 224 for side in ("height", "width"))
    return width * height, np.log(width / height)


def test_crops_are_as_large_and_as_long_as_torchvisions() -> None:
    ratio = (3 / 4, 4 / 3)
    area, aspect = boxes((0.2, 0.7), ratio)  # none is longer than the image
    area_there, aspect_there = boxes_of_torchvision((0.2, 0.7), ratio)
    assert abs(area.mean() - area_there.mean()) < 0.01
    assert abs(area.std() - area_there.std()) < 0.01
    assert abs(aspect.mean() - aspect_there.mean()) < 0.02
    assert abs(aspect.std() - aspect_there.std()) < 0.02
    # where some would be, ours are cut to it and theirs drawn again, which makes theirs smaller: 0.48 against 0.53
    area, area_there = boxes((0.08, 1.0), ratio)[0], boxes_of_torchvision((0.08, 1.0), ratio)[0]
    assert 0.04 < area.mean() - area_there.mean() < 0.065


@pytest.mark.parametrize("angle", [-30, -7.5, 20, 90])
def test_a_rotation_with_black_corners_is_torchvisions(angle: float) -> None:
    x = smooth()
    augment = Augmenter(Augment(rotation=90, padding_mode="constant"), 24, *RAW)
    ours = augment(x, draws_with(6, angle=angle / 180 + 0.5))
    theirs = tv.rotate(x / 255, angle, InterpolationMode.BILINEAR)
    difference = (ours - theirs).abs().amax(1)[:, 2:-2, 2:-2]
    corner = (tv.rotate(torch.ones(1, 1, 24, 24), angle) == 0).float()
    inner = F.max_pool2d(corner, 5, stride=1, padding=2)[0, 0, 2:-2, 2:-2] == 0  # seams are where the two round apart
    assert float(difference[:, inner].max()) < 0.02
    black = tv.rotate(torch.ones(1, 24, 24), angle)[0] == 0
    assert float((ours[:, :, black] == 0).float().mean()) > 0.95 or not black.any()


def test_all_of_color_jitter_together_is_torchvisions_in_the_same_order() -> None:
    """Away from black and white, where nothing is clipped; without hue, which turns another circle."""
    x = (smooth().float() * 0.3 + 90).to(torch.uint8)
    generator = torch.Generator().manual_seed(0)
    u = draws_with(6)
    for name in ("brightness", "contrast", "saturation"):
        u[:, _DRAWS.index(name)] = torch.rand(6, generator=generator)
    ours = Augmenter(Augment(brightness=0.3, contrast=0.3, saturation=0.3), 24, *RAW)(x, u)
    for i in range(6):
        factor = {n: float(0.7 + 0.6 * u[i, _DRAWS.index(n)]) for n in ("brightness", "contrast", "saturation")}
        theirs = tv.adjust_saturation(x[i] / 255, factor["saturation"])
        theirs = tv.adjust_contrast(theirs, factor["contrast"])
        theirs = tv.adjust_brightness(theirs, factor["brightness"])
        torch.testing.assert_close(ours[i], theirs, atol=2e-3, rtol=0)


def test_hue_turns_as_far_as_torchvisions_for_pure_small_chroma() -> None:
    """Another circle (YIQ instead of HSV), so the same angle ends up near, not at, the same hue: within 20 degrees."""
    x = torch.tensor([150, 120, 110], dtype=torch.uint8)[:, None, None].expand(3, 4, 4)[None]
    for turn in (-0.1, 0.05, 0.1):
        ours = Augmenter(Augment(hue=0.5), 4, *RAW)(x, draws_with(1, hue=turn + 0.5))
        theirs = tv.adjust_hue(x / 255, -turn)

        def angle(rgb: torch.Tensor) -> float:
            red, green, blue = (float(c[0, 0]) for c in rgb[0])
            return math.degrees(math.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue))

        assert abs((angle(ours) - angle(theirs) + 180) % 360 - 180) < 20


def test_cutout_is_devries_and_taylors() -> None:
    """Against their code's arithmetic: a square around a pixel drawn from all, clipped at the border."""
    x, mean = smooth(400, 20), (0.3, 0.4, 0.5)
    for side in (8, 5):
        u = draw(400, 2, 1)
        seen = Augmenter(Augment(cutout=side), 20, mean, (1.0, 1.0, 1.0))(x, u)
        expected = np.ones((400, 20, 20), dtype=bool)
        for i in range(400):
            cy, cx = (int(u[i, _DRAWS.index(f"cutout_{edge}")] * 20) for edge in ("top", "left"))
            y1, x1 = np.clip(cy - side // 2, 0, 20), np.clip(cx - side // 2, 0, 20)
            y2, x2 = np.clip(cy - side // 2 + side, 0, 20), np.clip(cx - side // 2 + side, 0, 20)
            expected[i, y1:y2, x1:x2] = False
        plain = Augmenter(Augment(), 20, mean, (1.0, 1.0, 1.0))(x, u)
        torch.testing.assert_close(seen, plain * torch.from_numpy(expected)[:, None])
        cut = (~expected).sum((1, 2))
        assert cut.max() == side**2
        assert cut.min() < side**2 / 2  # cut off at the border


def test_new_kinds_of_draws_leave_the_old_ones_alone() -> None:
    """Committed checkpoints were trained on these numbers."""
    generator = torch.Generator()
    for count in (1, 5, 100):
        from gradlens.train.augment import derive_seed

        generator.manual_seed(derive_seed(4, 2, use=1))
        assert torch.equal(draw(count, 4, 2)[:, :16], torch.rand(count, 16, generator=generator))
    assert _DRAWS[:3] == ("area", "aspect", "top")
    assert _DRAWS[15] == "erase_left"


def test_the_order_of_an_epoch_is_a_permutation_of_its_own() -> None:
    assert sorted(order(50, 0, 1).tolist()) == list(range(50))
    assert torch.equal(order(50, 0, 1), order(50, 0, 1))
    assert not torch.equal(order(50, 0, 1), order(50, 0, 2))


def test_padding_by_more_than_the_image_is_refused() -> None:
    with pytest.raises(TrainingError, match="pad must be less than the image's side, got 32"):
        recipes.load("cifar10", "custom_cnn", {"augment.pad": 32})
    with pytest.raises(TrainingError, match=r"padding_mode: .*'reflect' or 'constant', got 'zeros'"):
        recipes.load("cifar10", "custom_cnn", {"augment.padding_mode": "zeros"})


def test_a_batch_that_goes_in_parts_is_the_same_as_one_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from gradlens.train import augment as module

    everything = Augment(scale=(0.5, 1), rotation=10, flip=0.5, vertical_flip=0.5, contrast=0.3, erase=0.5, cutout=6)
    x, u = smooth(10), draw(10, 0, 1)
    for settings in (everything, Augment(pad=2, flip=0.5)):
        augment = Augmenter(settings, 24, *RAW)
        whole = augment(x, u)
        with monkeypatch.context() as patch:
            patch.setattr(module, "_PART", 4 * 3 * 24**2)  # four images
            torch.testing.assert_close(augment(x, u), whole, rtol=1e-5, atol=1e-6)
