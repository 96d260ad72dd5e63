"""Preprocessing equals timm's evaluation transform, and the way back to original pixels is the true one."""

from __future__ import annotations

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image
from torchvision.transforms import v2

from gradlens.data.preprocess import crop_box, resized_size, to_tensor, view
from gradlens.records import Preprocess

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
SHAPES = [(64, 64), (120, 97), (97, 120), (40, 200), (333, 71), (1, 1), (20, 20)]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth picture with some noise, as photographs are."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = 128 + 90 * np.sin(rows / 9 + random.normal()) * np.cos(columns / 7)
    return (waves[..., None] + random.normal(0, 12, (height, width, 3))).clip(0, 255).astype(np.uint8)


def timm_input(preprocess: Preprocess, image: np.ndarray) -> torch.Tensor:
    transform = timm.data.create_transform(
        input_size=preprocess.input_size,
        is_training=False,
        interpolation=preprocess.interpolation,
        crop_pct=preprocess.crop_pct,
        crop_mode=preprocess.crop_mode,
        mean=preprocess.mean,
        std=preprocess.std,
    )
    return transform(Image.fromarray(image))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(3, 48, 48), (3, 32, 56), (3, 56, 32)])
@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize(("interpolation", "crop_pct"), [("bilinear", 1.0), ("bicubic", 0.9), ("bilinear", 0.875)])
def test_equals_timm(shape, size, crop_pct, mode, interpolation) -> None:
    preprocess = Preprocess(size, interpolation, crop_pct, mode)
    image = noise(*shape)
    got, wanted = to_tensor(preprocess, image), timm_input(preprocess, image)
    assert got.shape == wanted.shape == size
    assert got.dtype == torch.float32
    # timm resizes with Pillow, we with torchvision: the same filter, rounded to 8 bits at other moments
    levels = (got - wanted).abs() * torch.tensor(preprocess.std).view(3, 1, 1) * 255
    assert levels.max() < 2.5
    assert levels.mean() < 0.5


def test_equals_torchvision() -> None:
    preprocess = Preprocess((3, 48, 48), "bicubic", 0.875)
    image = noise(100, 130)
    pipeline = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(54, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(48),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocess.mean, preprocess.std),
        ]
    )
    torch.testing.assert_close(to_tensor(preprocess, image), torch.Tensor(pipeline(image)), atol=1e-6, rtol=0)


def test_deterministic_and_leaves_the_image_alone() -> None:
    preprocess = Preprocess((3, 32, 32), crop_pct=0.9)
    image = noise(70, 50)
    image.flags.writeable = False
    before = image.copy()
    first = to_tensor(preprocess, image)
    assert torch.equal(first, to_tensor(preprocess, image))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("shape", [(90, 90), (90, 160), (210, 70), (8, 400), (900, 30)])
@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("size", [(3, 60, 60), (3, 40, 64)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.8])
def test_a_bright_dot_lands_where_crop_box_says(shape, mode, size, crop_pct) -> None:
    preprocess = Preprocess(size, "bilinear", crop_pct, mode, **PLAIN)
    height, width = shape
    top, left, bottom, right = crop_box(preprocess, height, width)
    for down, across in ((0.5, 0.5), (0.25, 0.3), (0.7, 0.85)):
        row, column = int(top + down * (bottom - top)), int(left + across * (right - left))
        image = np.zeros((height, width, 3), np.uint8)
        image[row, column] = 255
        seen = to_tensor(preprocess, image)[0].double()
        assert seen.sum() > 0
        seen = seen / seen.sum()
        centre = (
            float((seen.sum(1) * (torch.arange(size[1]) + 0.5)).sum()),
            float((seen.sum(0) * (torch.arange(size[2]) + 0.5)).sum()),
        )
        expected = (
            (row + 0.5 - top) / (bottom - top) * size[1],
            (column + 0.5 - left) / (right - left) * size[2],
        )
        # a dot is one pixel; where the input is coarser than the original, a cell of the input is the finer ruler
        slack = (0.75 + 0.5 * size[1] / (bottom - top), 0.75 + 0.5 * size[2] / (right - left))
        assert abs(centre[0] - expected[0]) < slack[0]
        assert abs(centre[1] - expected[1]) < slack[1]


def test_pixels_outside_the_box_are_not_seen() -> None:
    preprocess = Preprocess((3, 32, 32), "bilinear", 1.0, "center", **PLAIN)
    image = np.full((64, 128, 3), 255, np.uint8)
    top, left, bottom, right = crop_box(preprocess, 64, 128)
    assert (top, left, bottom, right) == (0, 32, 64, 96)
    image[:, 34:94] = 0  # white is left outside the box and in a rim of the filter's width
    assert to_tensor(preprocess, image)[:, :, 2:-2].max() == 0
    assert to_tensor(preprocess, image).max() > 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (64, 128), (3, 2)])
def test_view_is_the_box_in_whole_pixels(shape: tuple[int, int]) -> None:
    image = noise(*shape)
    seen = view(Preprocess((3, 32, 32)), image)
    assert min(seen.shape[:2]) >= 1
    if shape == (64, 128):
        np.testing.assert_array_equal(seen, image[:, 32:96])
    whole = view(Preprocess((3, 32, 32), crop_mode="squash"), image)
    np.testing.assert_array_equal(whole, image)


def test_strips_do_not_blow_up_memory() -> None:
    preprocess = Preprocess((3, 224, 224))
    strip = np.tile(np.arange(60_001, dtype=np.uint32)[None, :, None], (1, 1, 3))
    tensor = to_tensor(Preprocess((3, 224, 224), **PLAIN), (strip % 251).astype(np.uint8))
    assert tensor.shape == (3, 224, 224)
    # the one pixel in the middle fills the input
    assert torch.allclose(tensor[0, 112, 112], torch.tensor((30_000 % 251) / 255), atol=0.01)
    top, left, bottom, right = crop_box(preprocess, 1, 60_001)
    assert (top, bottom) == (0, 1)
    assert (left + right) / 2 == pytest.approx(30_000.5, abs=0.01)
    assert right - left == pytest.approx(1)


def test_resized_size_always_holds_the_crop() -> None:
    for size in ((3, 32, 32), (3, 31, 57), (3, 224, 160)):
        for crop_pct in (1.0, 0.95, 0.875):
            for height in (1, 7, 31, 100, 333):
                for width in (1, 9, 57, 101, 500):
                    preprocess = Preprocess(size, crop_pct=crop_pct)
                    rows, columns = resized_size(preprocess, height, width)
                    assert rows >= size[1]
                    assert columns >= size[2]
