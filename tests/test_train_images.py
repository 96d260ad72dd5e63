"""What happens to training images: splits, statistics, room for them, class weights, mixing, augmentation policies."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.utils.class_weight import compute_sample_weight
from timm.data import auto_augment
from torch import nn
from torchvision.transforms import v2

from gradlens.data.image_set import ImageSet, Store
from gradlens.data.splits import split
from gradlens.errors import TrainingError
from gradlens.records import Sample
from gradlens.runtime import Runtime, seed_everything
from gradlens.train import images as train_images
from gradlens.train import loop, policies, recipes
from gradlens.train.augment import derive_seed
from gradlens.train.balance import class_weights
from gradlens.train.images import Images, load_images, mean_and_std
from gradlens.train.mix import Mixer
from gradlens.train.settings import Augment, Mix, Recipe

# from Python 3.12 on a fork of a process with threads warns; the workers use none of them
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
QUIET = Runtime(device="cpu", quiet=True, workers=1)


class Pixels(Store):
    """Random images; those of each class have their own brightness."""

    def __init__(self, labels: list[int], side: int = 10) -> None:
        generator = np.random.default_rng(0)
        self.pixels = [generator.integers(0, 100, (side, side + i % 3, 3), dtype=np.uint8) for i in range(len(labels))]
        for pixels, label in zip(self.pixels, labels, strict=True):
            pixels += np.uint8(min(150, 50 * label))

    def encoded(self, row: int) -> np.ndarray:
        return self.pixels[row]

    def content(self) -> str:
        return "random"


def image_set(labels: list[int], classes: int, side: int = 10) -> ImageSet:
    samples = tuple(Sample(f"{label}/{i:04}", label) for i, label in enumerate(labels))
    names = tuple(f"c{k}" for k in range(classes))
    return ImageSet("set", "train", names, samples, "place", Pixels(labels, side), tuple(range(len(labels))))


def recipe(**changes: Any) -> Recipe:
    fields: dict[str, Any] = {
        "recipe": "test", "title": "test", "collection": "test", "model": "tiny", "builder": "test:tiny",
        "data": {"train": "somewhere", "select_fraction": 0.1}, "input_size": 8, "epochs": 2, "batch_size": 16,
        "optimiser": {"lr": 0.02}, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25],
    }  # fmt: skip
    return Recipe.model_validate(fields | changes)


def smooth(count: int, side: int, seed: int = 0) -> torch.Tensor:
    """(count, 3, side, side) uint8 with large shapes in them."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, side, mode="bilinear").mul(255).to(torch.uint8)


# ---------------------------------------------------------------------------------------------- splits, statistics


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(2, 40), min_size=1, max_size=12),
    fraction=st.floats(0.01, 0.95),
    seed=st.integers(0, 2**31),
)
def test_every_class_keeps_its_share_on_both_sides(counts: list[int], fraction: float, seed: int) -> None:
    labels = [k for k, count in enumerate(counts) for _ in range(count)]
    rest, held = split(image_set(labels, len(counts)), fraction, seed)
    assert {s.id for s in rest.samples} | {s.id for s in held.samples} == {
        s.id for s in image_set(labels, len(counts)).samples
    }
    assert len(rest) + len(held) == len(labels)
    for k, count in enumerate(counts):
        out = int((held.labels == k).sum())
        assert 1 <= out <= count - 1
        assert abs(out - fraction * count) <= 0.5 or out in (1, count - 1)


def test_a_split_of_cards_that_are_out_there_stays_what_it_is() -> None:
    """The exact images: a card's selection score is of them."""
    held = split(image_set([0] * 12 + [1] * 8, 2), 0.25, 3)[1]
    assert [s.id for s in held.samples] == ["0/0004", "0/0005", "0/0008", "1/0014", "1/0018"]


def test_a_class_of_one_image_cannot_be_split() -> None:
    with pytest.raises(TrainingError, match="class 'c1' has 1 images; two are the least"):
        split(image_set([0, 0, 1], 2), 0.5, 0)


def test_statistics_are_those_of_the_training_images_in_any_number_of_parts() -> None:
    pixels = torch.randint(0, 256, (2500, 3, 4, 4), dtype=torch.uint8)  # three parts
    mean, std = mean_and_std(Images(pixels, torch.zeros(2500, dtype=torch.int64)))
    assert mean == pytest.approx((pixels.double() / 255).mean((0, 2, 3)).tolist(), abs=1e-6)
    assert std == pytest.approx((pixels.double() / 255).std((0, 2, 3), unbiased=False).tolist(), abs=1e-6)


def test_selection_images_do_not_move_the_normalisation(tmp_path: Path) -> None:
    """Made white, they change neither mean nor std; a training image made white does."""
    from gradlens.data.sources import open_source
    from gradlens.workflows.train import prepare

    for kind in "ab":
        (tmp_path / kind).mkdir()
        for i in range(10):
            shade = np.full((12, 12, 3), 10 * i, dtype=np.uint8)
            Image.fromarray(shade).save(tmp_path / kind / f"{i}.png")
    asked = recipe(mean=None, std=None, data={"train": str(tmp_path), "select_fraction": 0.3})
    before = prepare(asked, QUIET).recipe
    rest, held = split(open_source(str(tmp_path)), 0.3, 0)

    def whiten(images: ImageSet) -> None:
        for sample in images.samples:
            Image.new("RGB", (12, 12), "white").save(tmp_path / sample.id)

    whiten(held)
    after = prepare(asked, QUIET).recipe
    assert (after.mean, after.std) == (before.mean, before.std)
    whiten(rest.subset([0]))
    assert prepare(asked, QUIET).recipe.mean != before.mean


# ---------------------------------------------------------------------------------------------- room


def test_images_that_fill_the_memory_go_to_a_file_and_train_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRADLENS_CACHE", str(tmp_path))
    labels = [0, 1] * 24
    inside, _ = load_images(image_set(labels, 2), ("c1", "c0"), recipe(), 8, QUIET)
    monkeypatch.setattr(train_images, "free_memory", lambda: 2 * 48 * 3 * 64 - 2)  # a byte short
    outside, _ = load_images(image_set(labels, 2), ("c1", "c0"), recipe(), 8, Runtime(device="cpu", workers=1))
    assert "48 images of 8 pixels take 0.0 GB" in capsys.readouterr().err
    assert torch.equal(inside.pixels, outside.pixels)
    assert outside.labels.tolist() == [1, 0] * 24  # by name
    modules = []
    for name, data in (("inside", inside), ("outside", outside)):
        seed_everything(0)
        modules.append(
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        )
        loop.train(modules[-1], recipe(), data, data, tmp_path / name, QUIET)
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in modules), strict=True))


def test_no_room_anywhere_is_one_line_with_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> np.ndarray:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("GRADLENS_CACHE", str(tmp_path))
    monkeypatch.setattr(train_images, "free_memory", lambda: 10**9)
    monkeypatch.setattr(train_images, "scratch", full)
    many = image_set([0, 1] * 2000, 2)
    with pytest.raises(
        TrainingError, match=r"place: 4,000 images of 224 pixels take 0\.6 GB, 1\.0 GB .*; lower cache_"
    ):
        load_images(many, ("c0", "c1"), recipe(input_size=224), 224, QUIET)


def test_free_memory_is_less_than_there_is() -> None:
    import os

    assert 2**20 < train_images.free_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# ---------------------------------------------------------------------------------------------- class weights


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_class_weights_are_scikit_learns_and_keep_the_size_of_the_loss(labels: list[int]) -> None:
    labels = [*labels, *range(6)]
    weights = class_weights(torch.tensor(labels), 6)
    torch.testing.assert_close(
        weights[labels], torch.tensor(compute_sample_weight("balanced", labels), dtype=torch.float32)
    )
    assert float(weights[labels].mean()) == pytest.approx(1, rel=1e-5)


def test_a_class_without_images_has_no_weight() -> None:
    with pytest.raises(TrainingError, match=r"2 of 4 have none \(first: class 1\)"):
        class_weights(torch.tensor([0, 2, 2]), 4)


# ---------------------------------------------------------------------------------------------- mixing


@pytest.mark.parametrize("count", [1, 2, 7, 16])
@pytest.mark.parametrize("ways", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_mixing_is_torchvisions_at_any_batch_size_and_seeded(count: int, ways: dict[str, float]) -> None:
    x, y = torch.rand(count, 3, 9, 9), torch.arange(count) % 5
    mixer = Mixer(Mix(**ways), 5)
    mixed, shares = mixer(x, y, seed=7)
    assert mixed.shape == x.shape
    assert shares.shape == (count, 5)
    torch.testing.assert_close(shares.sum(1), torch.ones(count))
    again, shares_again = mixer(x, y, seed=7)
    assert torch.equal(mixed, again)
    assert torch.equal(shares, shares_again)
    others = [mixer(x, y, seed=s)[1] for s in range(8, 24)]
    assert count == 1 or any(not torch.equal(shares, o) for o in others)


def test_mixup_blends_images_as_it_blends_labels() -> None:
    """Zhang et al. 2018, equation 2, with each image's partner the one before it in the batch."""
    x, y = torch.rand(6, 3, 4, 4), torch.arange(6)
    mixed, shares = Mixer(Mix(mixup=1.0), 6)(x, y, seed=3)
    share = shares.diagonal()[:, None, None, None]
    torch.testing.assert_close(mixed, share * x + (1 - share) * x.roll(1, 0))
    assert 0 < float(shares[0, 0]) < 1


def test_cutmix_shares_are_the_areas() -> None:
    """Yun et al. 2019: what a label counts is the part of the image that shows it."""
    x, y = torch.arange(6.0)[:, None, None, None].expand(6, 3, 10, 10), torch.arange(6)
    for seed in range(20):
        mixed, shares = Mixer(Mix(cutmix=1.0), 6)(x, y, seed=seed)
        own = (mixed[:, 0] == torch.arange(6.0)[:, None, None]).float().mean((1, 2))
        torch.testing.assert_close(shares.diagonal(), own)


def test_a_batch_is_mixed_as_often_as_asked_by_either_way_and_nothing_else_is_drawn() -> None:
    x, y = torch.rand(4, 3, 6, 6), torch.arange(4)
    mixer = Mixer(Mix(mixup=1.0, cutmix=1.0, probability=0.6), 4)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    results = [mixer(x, y, derive_seed(0, 0, use=s))[0] for s in range(400)]
    assert torch.equal(torch.get_rng_state(), before)
    plain = [torch.equal(r, x) for r in results]
    cut = [not p and bool((r == x).flatten(1).any(1).any()) for r, p in zip(results, plain, strict=True)]
    assert 0.33 < np.mean(plain) < 0.50  # 0.4, and CutMix's empty boxes
    assert 0.2 < np.mean(cut) < 0.37
    assert not Mixer(Mix(), 4).mixes
    assert not Mixer(Mix(mixup=1.0, probability=0), 4).mixes
    assert torch.equal(Mixer(Mix(), 4)(x, y, 0)[1], torch.eye(4))


# ---------------------------------------------------------------------------------------------- policies

NAMES = ("randaugment", "autoaugment", "autoaugment-cifar10", "trivialaugment", "augmix", "rand-m9-mstd0.5-inc1",
         "augmix-m5-w2", "original-mstd0.5", "3a")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_changes_each_image_alike_in_any_order_and_number_of_processes(name: str) -> None:
    pixels, settings_ = smooth(12, 16), recipe(augment={"policy": name}, seed=3)

    def run(order: list[int], size: int, epoch: int, workers: int) -> torch.Tensor:
        out = torch.zeros_like(pixels)
        for indices, changed in policies.batches(pixels, torch.tensor(order).split(size), settings_, epoch, workers):
            assert changed.dtype == torch.uint8
            out[indices] = changed
        return out

    torch.manual_seed(1)
    before = torch.get_rng_state(), random.getstate()
    first = run(list(range(12)), 4, 1, 1)
    assert torch.equal(run(random.Random(0).sample(range(12), 12), 5, 1, 2), first)
    assert not torch.equal(run(list(range(12)), 4, 2, 1), first)
    assert not torch.equal(first, pixels)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_torchvisions_policy_is_torchvisions() -> None:
    pixels = smooth(6, 16)
    ((_, changed),) = policies.batches(pixels, [torch.arange(6)], recipe(augment={"policy": "randaugment"}), 1, 1)
    base = derive_seed(0, 1, use=5)
    with torch.random.fork_rng(devices=[]):
        for i in range(6):
            torch.manual_seed(derive_seed(base, 0, i))
            expected = v2.RandAugment()(Image.fromarray(pixels[i].permute(1, 2, 0).numpy()))
            assert np.array_equal(changed[i].permute(1, 2, 0).numpy(), np.asarray(expected))


def test_timms_posterize_works_at_its_highest_magnitude() -> None:
    """Pillow 13 raises when no bit is to be kept, which PosterizeIncreasing asks for at magnitude 10."""
    made = policies.transform("rand-m10-n8-p1.0-inc1", 16, (0.5, 0.5, 0.5))
    (posterize,) = [op for op in made.ops if op.name == "PosterizeIncreasing"]  # type: ignore[attr-defined]
    image = Image.fromarray(smooth(1, 16)[0].permute(1, 2, 0).numpy())
    posterize.prob = 1.0
    assert np.asarray(posterize(image)).max() == 0
    posterize.magnitude = 5
    assert np.array_equal(np.asarray(posterize(image)), np.asarray(auto_augment.posterize(image, 2)))


@pytest.mark.parametrize("name", ["randaugmnt", "rand-m9-foo", "rand-x9", "RandAugment", "rand-tnone", "rand-t3"])
def test_an_unknown_policy_is_refused_before_anything_starts(name: str) -> None:
    with pytest.raises(TrainingError, match=r"augment: expected randaugment, .* or timm's notation.*, got 'r?"):
        recipes.load("cifar10", "custom_cnn", {"augment.policy": name})


def test_without_a_policy_batches_are_slices() -> None:
    pixels = smooth(6, 8)
    for indices, got in policies.batches(pixels, torch.arange(6).flip(0).split(4), recipe(), 1):
        assert torch.equal(got, pixels[indices])
    assert Augment().policy == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"mix": {"mixup": 0.4, "cutmix": 1.0, "probability": 0.7}, "class_weights": "balanced"},
        {"augment": {"policy": "trivialaugment", "cutout": 3, "vertical_flip": 0.5}},
    ],
    ids=["mixed", "policy"],
)
def test_a_cut_run_with_mixing_or_a_policy_ends_with_the_same_weights(changes: dict[str, Any], tmp_path: Path) -> None:
    class Cut(Exception):
        pass

    def cut(epoch: loop.Epoch) -> None:
        if epoch.epoch == 1:
            raise Cut

    def network() -> nn.Module:
        seed_everything(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4, 3)
        )

    data = Images(smooth(40, 8), torch.arange(40) % 7 % 3)
    asked = recipe(epochs=3, batch_size=15, **changes)
    whole, resumed = network(), network()
    loop.train(whole, asked, data, data, tmp_path / "whole", QUIET)
    with pytest.raises(Cut):
        loop.train(network(), asked, data, data, tmp_path / "cut", QUIET, on_epoch=cut)
    loop.train(resumed, asked, data, data, tmp_path / "cut", Runtime(device="cpu", quiet=True, workers=2))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
