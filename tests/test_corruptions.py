"""Corruptions, sets derived from others, and what a file is apart from its picture."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gradlens.data import properties
from gradlens.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from gradlens.data.derived import corrupted, derived
from gradlens.data.image_set import ImageSet, decoded
from gradlens.data.properties import Match, Properties, jpeg_quality, match, matched, properties_of, sharpness
from gradlens.data.sources import open_source
from gradlens.errors import InputError, NotFoundError

NAMES = list(CORRUPTIONS)


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours, edges and grain, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(40, 216, (5, 5, 3), dtype=np.uint8)).resize((width, height), 3)
    x = np.asarray(coarse).astype(float)
    x[height // 3 : 2 * height // 3, width // 4 : 3 * width // 4] *= 0.4
    return np.clip(x + rng.normal(0, 4, x.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label in ("ash", "elm"):
        (tmp_path / "trees" / label).mkdir(parents=True)
        for i in range(4):
            picture = Image.fromarray(photograph(40, 48, seed=i + (label == "elm") * 10))
            picture.save(tmp_path / "trees" / label / f"{i}.jpg", quality=90)
    return tmp_path / "trees"


# --- every corruption -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(32, 32), (224, 224), (33, 47), (300, 500), (9, 5), (1, 1)])
def test_any_size_keeps_its_shape(name: str, shape: tuple[int, int]) -> None:
    image = photograph(*shape)
    before = image.copy()
    for severity in SEVERITIES:
        out = corrupt(image, name, severity, "id")
        assert out.shape == image.shape
        assert out.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", [32, 144, 224])
def test_every_severity_changes_the_picture_and_the_last_more_than_the_first(name: str, side: int) -> None:
    image = photograph(side, side)
    changes = [
        float(np.mean([np.abs(corrupt(image, name, s, key).astype(float) - image).mean() for key in "abc"]))
        for s in SEVERITIES
    ]
    assert min(changes) > 0.2
    assert changes[-1] > changes[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_pixels_from_any_thread_in_any_order(name: str) -> None:
    images = {str(i): photograph(48, 48, seed=i) for i in range(6)}
    alone = {key: corrupt(image, name, 3, key) for key, image in images.items()}
    with ThreadPoolExecutor(4) as pool:
        backwards = list(reversed(images))
        found = pool.map(lambda key: corrupt(images[key], name, 3, key), backwards)
        together = dict(zip(backwards, found, strict=True))
    for key in images:
        np.testing.assert_array_equal(alone[key], together[key])


RANDOM = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "glass_blur", "motion_blur", "fog", "snow")


@pytest.mark.parametrize("name", [*RANDOM, "spatter", "elastic_transform"])
def test_randomness_is_of_the_image_and_the_seed(name: str) -> None:
    image = photograph(48, 48)
    one = corrupt(image, name, 3, "a")
    assert not np.array_equal(one, corrupt(image, name, 3, "b"))
    assert not np.array_equal(one, corrupt(image, name, 3, "a", seed=1))


def test_a_severer_image_has_more_of_the_same_noise() -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    mild, severe = (corrupt(image, "gaussian_noise", s, "a").astype(float) - 128 for s in (1, 3))
    assert np.corrcoef(mild.ravel(), severe.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(("name", "constants"), [("gaussian_noise", (0.08, 0.38)), ("speckle_noise", (0.15, 0.6))])
def test_noise_has_the_published_strength(name: str, constants: tuple[float, float]) -> None:
    """ImageNet-C's at 224 pixels; grey 64 of 255 leaves room for it on one side at least."""
    level = 64 if name == "speckle_noise" else 128
    image = np.full((224, 224, 3), level, np.uint8)
    for severity, constant in zip((1, 5), constants, strict=True):
        noise = corrupt(image, name, severity, "a").astype(float) / 255 - level / 255
        upper = np.sqrt((noise[noise > 0] ** 2).mean())  # one half of a normal curve has the whole one's spread
        expected = constant * (level / 255 if name == "speckle_noise" else 1)
        assert upper == pytest.approx(expected, rel=0.1 if severity == 1 else 0.25)


def test_small_images_get_the_constants_of_cifar() -> None:
    image = np.full((32, 32, 3), 128, np.uint8)
    noise = np.stack([corrupt(image, "gaussian_noise", 5, str(i)) for i in range(20)]).astype(float) / 255 - 128 / 255
    assert noise.std() == pytest.approx(0.10, rel=0.05)


def test_shot_noise_has_the_mean_and_variance_of_its_quanta() -> None:
    image = np.full((224, 224, 3), 51, np.uint8)  # a fifth
    x = corrupt(image, "shot_noise", 1, "a").astype(float) / 255
    assert x.mean() == pytest.approx(0.2, rel=0.02)
    assert x.var() == pytest.approx(0.2 / 60, rel=0.05)


@pytest.mark.parametrize("name", ["gaussian_blur", "defocus_blur", "motion_blur", "zoom_blur", "pixelate"])
def test_blur_keeps_the_light_and_takes_detail(name: str) -> None:
    image = photograph(96, 96)
    out = corrupt(image, name, 4, "a")
    assert out.mean() == pytest.approx(image.mean(), rel=0.06)
    flat = np.full((64, 64, 3), 77, np.uint8)
    np.testing.assert_array_equal(corrupt(flat, name, 4, "a"), flat)
    if name != "pixelate":  # it leaves edges between its blocks
        assert np.abs(np.diff(out.astype(float), axis=1)).mean() < np.abs(np.diff(image.astype(float), axis=1)).mean()


def test_wrong_input_is_refused() -> None:
    image = photograph(32, 32)
    with pytest.raises(NotFoundError, match="did you mean 'fog'"):
        corrupt(image, "fogg", 1, "a")
    with pytest.raises(ValueError, match="severity must be one of 1, 2, 3, 4, 5, got 6"):
        corrupt(image, "fog", 6, "a")
    with pytest.raises(ValueError, match="expected uint8"):
        corrupt(image.astype(float), "fog", 1, "a")


# --- derived sets -----------------------------------------------------------------------------------------------------


def test_a_corrupted_set_is_paired_with_its_origin(folder: Path) -> None:
    origin = replace(open_source(str(folder)), role="test")
    fog = corrupted(origin, "fog", 3)
    assert (fog.name, fog.role, fog.shift, fog.paired_with) == ("trees+fog-3", "probe", "fog-3", "trees")
    assert [s.pair for s in fog.samples] == [s.id for s in origin.samples]
    assert {s.severity for s in fog.samples} == {3}
    for i, image in decoded(fog):
        assert isinstance(image, np.ndarray)
        np.testing.assert_array_equal(image, corrupt(origin.read(i), "fog", 3, origin.samples[i].id))
    np.testing.assert_array_equal(fog.subset([5, 2]).read(1), fog.read(2))


def test_a_cache_key_for_every_way_to_corrupt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = open_source(str(folder))
    keys = {s.fingerprint for s in (origin, corrupted(origin, "fog", 3), corrupted(origin, "fog", 2))}
    keys |= {s.fingerprint for s in (corrupted(origin, "snow", 3), corrupted(origin, "fog", 3, seed=1))}
    assert len(keys) == 5
    assert corrupted(origin, "fog", 3).fingerprint in keys
    monkeypatch.setattr("gradlens.data.derived.code_digest", lambda: "other code")
    assert corrupted(origin, "fog", 3).fingerprint not in keys
    Image.fromarray(photograph(40, 48, seed=99)).save(folder / "ash" / "0.jpg", quality=90)
    assert corrupted(open_source(str(folder)), "fog", 3).fingerprint not in keys


@pytest.mark.parametrize("role", ["train", "select", "unlabelled"])
def test_training_images_stay_training_images(folder: Path, role: str) -> None:
    origin = replace(open_source(str(folder)), role=role)  # type: ignore[arg-type]
    assert corrupted(origin, "fog", 1).role == role


def test_a_corruption_as_a_source(folder: Path) -> None:
    twice = open_source(f"{folder}+fog-3+jpeg_compression-2")
    assert twice.name == "trees+fog-3+jpeg_compression-2"
    assert twice.paired_with == "trees"  # the scenes are those of the first set
    plain = open_source(str(folder))
    once = corrupt(plain.read(0), "fog", 3, plain.samples[0].id)
    np.testing.assert_array_equal(twice.read(0), corrupt(once, "jpeg_compression", 2, plain.samples[0].id))


def test_wrong_corruptions_in_a_source(folder: Path) -> None:
    with pytest.raises(NotFoundError, match="no corruption named 'fgo'; did you mean 'fog'"):
        open_source(f"{folder}+fgo-3")
    with pytest.raises(InputError, match="expected a severity from 1 to 5, got 7"):
        open_source(f"{folder}+fog-7")
    with pytest.raises(NotFoundError, match="no image set named"):
        open_source("nowhere+fog-3")
    named = folder.rename(folder.parent / "night+day-2")  # a folder may be called like that
    assert open_source(str(named)).name == "night+day-2"


def test_an_image_that_cannot_be_read_is_skipped_as_in_its_origin(folder: Path) -> None:
    (folder / "ash" / "0.jpg").write_bytes(b"no picture")
    fog = corrupted(open_source(str(folder)), "fog", 1)
    reasons = [getattr(image, "reason", "") for _, image in decoded(fog)]
    assert "expected an image" in reasons[0]
    assert not any(reasons[1:])


def test_masks_pass_where_nothing_moves(folder: Path) -> None:
    origin = open_source("vehicles-test").subset([0])
    assert origin.mask(0) is not None
    mask = corrupted(origin, "fog", 1).mask(0)
    assert mask is not None
    np.testing.assert_array_equal(mask, origin.mask(0))
    assert corrupted(origin, "elastic_transform", 1).mask(0) is None


# --- what a file is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [*range(1, 101, 9), 75, 88, 95])
def test_jpeg_quality_is_read_from_the_tables(quality: int) -> None:
    stream = io.BytesIO()
    Image.fromarray(photograph(24, 24)).save(stream, "JPEG", quality=quality)
    with Image.open(stream) as file:
        assert jpeg_quality(tuple(file.quantization[0])) == quality  # type: ignore[attr-defined]


def test_properties_of_files(tmp_path: Path) -> None:
    pixels = Image.fromarray(photograph(30, 50))
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    (tmp_path / "set").mkdir()
    pixels.save(tmp_path / "set" / "a.jpg", quality=60, subsampling=0, exif=exif)
    pixels.save(tmp_path / "set" / "b.png")
    found = open_source(str(tmp_path / "set"))
    jpeg, png = (properties_of(found, i) for i in range(2))
    assert (jpeg.width, jpeg.height, jpeg.codec, jpeg.quality, jpeg.subsampling) == (30, 50, "JPEG", 60, 0)
    assert (png.width, png.height, png.codec, png.quality) == (50, 30, "PNG", None)
    assert png.aspect == pytest.approx(5 / 3)
    as_array = derived(found, "set+same", lambda image, _: image, "same")
    assert properties_of(as_array, 1).codec == properties.PIXELS


def noisy(side: int = 96) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_sharpness_falls_by_the_factor_a_picture_was_enlarged() -> None:
    image = noisy(192)
    assert sharpness(image) > 0.9
    measured = []
    for factor in (0.8, 0.5, 0.25):
        small = Image.fromarray(image).resize((round(192 * factor),) * 2, Image.Resampling.LANCZOS)
        again = np.asarray(small.resize((192, 192), Image.Resampling.LANCZOS))
        measured.append(sharpness(again) / factor)
    assert measured == pytest.approx([1.2, 1.2, 1.2], rel=0.2)  # the corners of the spectrum lie beyond 1
    assert sharpness(np.full((20, 20, 3), 9, np.uint8)) == 1
    assert sharpness(np.zeros((1, 1, 3), np.uint8)) == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 1000))
def test_sharpness_is_a_share(height: int, width: int, seed: int) -> None:
    assert 0 < sharpness(photograph(height, width, seed)) <= 1


# --- another's properties ---------------------------------------------------------------------------------------------


def test_a_match_does_only_what_can_be_done() -> None:
    tables = ((1,) * 64,)
    fine = Properties(100, 80, "JPEG", 95, tables, 0, 0.9)
    coarse = Properties(50, 40, "JPEG", 30, tables, 2, 0.4)
    assert match(fine, fine, sharp=True).nothing
    assert match(fine, coarse, sharp=False) == Match((50, 40), None, ("JPEG", tables, 2))
    up = match(coarse, fine, sharp=True)
    assert up.codec is None  # compression cannot be undone
    assert up.size == (100, 80)
    assert match(replace(fine, sharpness=0.5), replace(fine, sharpness=0.9), sharp=True).nothing
    assert match(fine, replace(fine, sharpness=0.5), sharp=True).sharpness == 0.5
    assert match(fine, replace(fine, sharpness=0.5), sharp=False).nothing
    huge = replace(fine, width=6000, height=4000)
    assert match(fine, huge, sharp=False).size == (768, 512)


def test_matching_gives_size_quality_and_sharpness() -> None:
    image = noisy(120)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=20)
    with Image.open(stream) as file:
        tables = tuple(tuple(file.quantization[k]) for k in sorted(file.quantization))  # type: ignore[attr-defined]
    out = matched(image, Match((90, 60), None, None))
    assert out.shape == (60, 90, 3)
    np.testing.assert_array_equal(
        matched(image, Match(codec=("JPEG", tables, 2))), np.asarray(Image.open(stream).convert("RGB"))
    )
    for wanted in (0.7, 0.4):
        assert sharpness(matched(image, Match(sharpness=wanted))) == pytest.approx(wanted, rel=0.08)
    assert matched(image, Match(codec=("WEBP", (), -1))).shape == image.shape
    assert len(np.unique(matched(image, Match(codec=("GIF", (), -1))).reshape(-1, 3), axis=0)) <= 256
    np.testing.assert_array_equal(matched(image, Match()), image)


@pytest.mark.parametrize("size", [(120, 60), (60, 120), (20, 60)])
def test_aspect_is_reached_by_margins_not_by_cutting_or_squeezing(size: tuple[int, int]) -> None:
    image = np.zeros((60, 60, 3), np.uint8)
    image[15:45, 15:45] = 255
    out = matched(image, Match(size=size))[..., 0] > 127
    assert out.shape == size[::-1]
    side = min(size)
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    middle = out[top : top + side, left : left + side]  # the whole picture, as square as it was
    rows, columns = np.flatnonzero(middle.any(axis=1)), np.flatnonzero(middle.any(axis=0))
    assert len(rows) == len(columns) == side // 2


def test_what_is_drawn_for_an_image_does_not_depend_on_others() -> None:
    drawn: Callable[[str], int] = lambda key: properties.drawn_for(key, 7, 0)  # noqa: E731
    assert drawn("a") == drawn("a")
    counts = np.bincount([drawn(str(i)) for i in range(3500)], minlength=7)
    assert counts.min() > 400


def test_a_header_that_cannot_be_read_is_an_input_error(folder: Path) -> None:
    found: ImageSet = open_source(str(folder))
    (folder / "ash" / "0.jpg").write_bytes(b"\xff\xd8\xff\xe0nothing")
    with pytest.raises(InputError):
        properties_of(found, 0)
