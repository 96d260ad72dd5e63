"""Recipes, augmentation and the training loop, on random images and tiny networks."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.transforms.v2 import functional as tv

from gradlens.errors import NotFoundError, TrainingError
from gradlens.runtime import Runtime, seed_everything
from gradlens.train import freezing, loop, optimise, recipes
from gradlens.train.augment import _DRAWS, Augmenter, derive_seed, draw
from gradlens.train.images import Images, mean_and_std
from gradlens.train.settings import Augment, Phase, Recipe
from gradlens.zoo import heads

QUIET = Runtime(device="cpu", quiet=True)
RAW = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # mean, std that change nothing


def recipe(**changes: Any) -> Recipe:
    fields: dict[str, Any] = {
        "recipe": "test", "title": "test", "collection": "test", "model": "tiny", "builder": "test:tiny",
        "data": {"train": "somewhere", "select_fraction": 0.1},
        "input_size": 8, "epochs": 4, "batch_size": 16, "optimiser": {"lr": 0.02},
        "augment": {"pad": 1, "flip": 0.5, "erase": 0.3, "brightness": 0.2, "hue": 0.05},
        "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "label_smoothing": 0.05,
    }  # fmt: skip
    return Recipe.model_validate(fields | changes)


def images(count: int = 96, side: int = 8, seed: int = 0) -> Images:
    """Two classes that differ in which half is bright."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 160, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 2
    pixels[labels == 0, :, : side // 2] += 60
    pixels[labels == 1, :, side // 2 :] += 60
    return Images(pixels, labels)


def tiny(seed: int = 0) -> nn.Module:
    seed_everything(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 2),
    )  # fmt: skip


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in mine.items())


# ---------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_loads_for_every_architecture(name: str) -> None:
    models = recipes.models(name)
    assert models
    for model in models:
        loaded = recipes.load(name, model)
        assert (loaded.recipe, loaded.model) == (name, model)
        assert loaded.builder


def test_published_budgets_are_kept() -> None:
    assert all(recipes.load("cifar10", m).epochs <= 15 for m in recipes.models("cifar10"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epoch": 3}, "no field named 'epoch'; did you mean 'epochs'?"),
        ({"optimiser.learning_rate": 1}, "no field named 'optimiser.learning_rate'"),
        ({"augment.filp": 0.5}, "did you mean 'augment.flip'?"),
        ({"epochs": 0}, "epochs: .*greater than or equal to 1, got 0"),
        ({"optimiser.lr": -1.0}, "optimiser.lr: .*greater than 0, got -1.0"),
        ({"precision": "fp8"}, "precision: .*'bf16' or 'fp16', got 'fp8'"),
        ({"augment.scale": [0.9, 0.5]}, "augment: scale must be .low, high."),
        ({"cache_size": 8}, "cache_size must be at least input_size"),
        ({"mean": [0.5, 0.5, 0.5]}, "both mean and std"),
        ({"data.select": "x"}, "data: give either select"),
        ({"optimiser.sam_rho": -0.1}, "optimiser.sam_rho: .*greater than or equal to 0, got -0.1"),
        ({"optimiser.sam_rho": 0.0}, "optimiser: sam_start says when sam_rho sets in, which is 0"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        recipes.load("cifar10", "custom_cnn", changes)


def test_unknown_recipes_and_models_suggest_near_ones(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="did you mean 'cifar10'"):
        recipes.load("cifar", "custom_cnn")
    with pytest.raises(NotFoundError, match="did you mean 'custom_cnn'"):
        recipes.load("cifar10", "custom-cnn")
    broken = tmp_path / "mine.toml"
    broken.write_text("title = ")
    with pytest.raises(TrainingError, match="is not TOML"):
        recipes.load(broken, "x")
    with pytest.raises(NotFoundError, match="recipe"):
        recipes.load(tmp_path / "absent.toml", "x")


def test_a_users_file_and_a_builder_of_any_library(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        textwrap.dedent("""
        title = "mine"
        collection = "mine"
        input_size = 32
        epochs = 3
        optimiser.lr = 1e-3
        data.train = "photos"
        data.select_fraction = 0.2
        [models.slow]
        builder = "timm:resnet18"
        arguments = {channels = [8, 16, 16, 16]}
        optimiser.lr = 1e-4
        """)
    )
    assert recipes.load(path, "slow").optimiser.lr == 1e-4
    assert recipes.load(path, "slow").optimiser.weight_decay == 0.05  # merged, not replaced
    other = recipes.load(path, "timm:resnet34", {"optimiser.name": "sgd"})
    assert (other.builder, other.optimiser.name, other.optimiser.lr) == ("timm:resnet34", "sgd", 1e-3)
    assert recipes.load(path, "slow").differences(other) == [
        "builder", "arguments.channels", "optimiser.name", "optimiser.lr",
    ]  # fmt: skip


def test_one_argument_of_a_network_is_changed_and_another_builder_starts_without_any() -> None:
    named = recipes.load("cifar10", "convnext").arguments
    changed = recipes.load("cifar10", "convnext", {"arguments.patch_size": 1, "arguments.depths": [1, 2, 3, 1]})
    assert changed.arguments == named | {"patch_size": 1, "depths": [1, 2, 3, 1]}
    other = recipes.load("cifar10", "convnext", {"builder": "timm:resnet18", "arguments.channels": [8, 8, 8, 8]})
    assert other.arguments == {"channels": [8, 8, 8, 8]}
    assert recipes.load("cifar10", "convnext", {"builder": "timm:resnet18"}).arguments == {}


def test_images_of_ones_own_are_held_out_as_the_recipe_says_else_a_tenth() -> None:
    own = {"data.train": "photos", "data.select": None}
    assert recipes.load("cifar10", "custom_cnn", own).data.select_fraction == 0.02
    assert recipes.load("cifar10", "densenet", own).data.select_fraction == 0.1
    assert recipes.load("cifar10", "vgg", own | {"data.select_fraction": 0.3}).data.select_fraction == 0.3
    vehicles = recipes.load("vehicles", "vit", own).data
    assert (vehicles.select, vehicles.select_fraction) == (None, recipes.HELD_OUT)


# ---------------------------------------------------------------------------------------------- augmentation


def batch(count: int = 6, side: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def draws_with(count: int, **fixed: float) -> torch.Tensor:
    u = torch.full((count, len(_DRAWS)), 0.5)
    for name, value in fixed.items():
        u[:, _DRAWS.index(name)] = value
    return u


def test_without_augmentation_a_batch_is_only_normalised() -> None:
    x = batch()
    out = Augmenter(Augment(), 16, (0.1, 0.2, 0.3), (0.5, 0.25, 1.0))(x, draw(6, 0, 0))
    expected = tv.normalize(tv.to_dtype(x, torch.float32, scale=True), [0.1, 0.2, 0.3], [0.5, 0.25, 1.0])
    torch.testing.assert_close(out, expected)


def test_an_image_looks_the_same_whatever_batch_it_is_in() -> None:
    everything = Augment(
        pad=2, scale=(0.4, 1), ratio=(0.75, 1.3), rotation=10, flip=0.5, brightness=0.3, contrast=0.3, saturation=0.3,
        hue=0.1, grayscale=0.2, erase=0.5,
    )  # fmt: skip
    x, u = batch(), draw(6, seed=3, epoch=2)
    augment = Augmenter(everything, 12, *RAW)
    order = torch.tensor([4, 0, 5])
    torch.testing.assert_close(augment(x[order], u[order]), augment(x, u)[order], rtol=1e-5, atol=1e-6)
    assert torch.equal(u, draw(6, seed=3, epoch=2))
    assert not torch.equal(u, draw(6, seed=3, epoch=3))
    assert not torch.equal(u, draw(6, seed=4, epoch=2))


def test_flips_and_shifts_only_move_pixels() -> None:
    x = batch()
    flipped = Augmenter(Augment(flip=1.0), 16, *RAW)(x, draw(6, 0, 0))
    torch.testing.assert_close(flipped, x.flip(3) / 255)
    moved = Augmenter(Augment(pad=3), 16, *RAW)(x, draws_with(6, top=0.0, left=0.999))
    torch.testing.assert_close(moved[:, :, 3:, :-3], x[:, :, :-3, 3:] / 255)  # down by three, left by three
    seen = Augmenter(Augment(flip=0.5), 16, *RAW)(x[:1].expand(2000, -1, -1, -1), draw(2000, 0, 0))
    assert 0.45 < float((seen == x[0] / 255).flatten(1).all(1).float().mean()) < 0.55


def test_the_resampling_path_agrees_with_exact_operations() -> None:
    x = batch(side=16)
    # rotation by nothing, but resampled: flips, and the whole image at its own size
    torch.testing.assert_close(
        Augmenter(Augment(rotation=10, flip=1.0), 16, *RAW)(x, draws_with(6, flip=0.0)),
        x.flip(3) / 255,
        atol=1e-4,
        rtol=0,
    )
    quarter = Augmenter(Augment(scale=(0.25, 0.25)), 8, *RAW)
    torch.testing.assert_close(quarter(x, draws_with(6, top=0.0, left=0.0)), x[:, :, :8, :8] / 255, atol=1e-4, rtol=0)
    torch.testing.assert_close(quarter(x, draws_with(6, top=1.0, left=0.0)), x[:, :, 8:, :8] / 255, atol=1e-4, rtol=0)
    turned = Augmenter(Augment(rotation=90), 16, *RAW)(x, draws_with(6, angle=1.0))
    torch.testing.assert_close(turned, torch.rot90(x, k=1, dims=(2, 3)) / 255, atol=1e-4, rtol=0)


def test_colour_agrees_with_torchvision() -> None:
    x = (batch() * 0.4 + 70).to(torch.uint8)  # away from 0 and 1: torchvision clips after every step, we once
    plain = x / 255
    at = lambda **u: draws_with(6, **u)  # noqa: E731
    bright = Augmenter(Augment(brightness=0.3), 16, *RAW)(x, at(brightness=1.0))
    torch.testing.assert_close(bright, tv.adjust_brightness(plain, 1.3))
    contrast = Augmenter(Augment(contrast=0.3), 16, *RAW)(x, at(contrast=1.0))
    torch.testing.assert_close(contrast, tv.adjust_contrast(plain, 1.3), atol=1e-3, rtol=0)
    saturation = Augmenter(Augment(saturation=0.3), 16, *RAW)(x, at(saturation=0.0))
    torch.testing.assert_close(saturation, tv.adjust_saturation(plain, 0.7), atol=1e-3, rtol=0)
    gray = Augmenter(Augment(grayscale=1.0), 16, *RAW)(x, at())
    torch.testing.assert_close(gray, tv.rgb_to_grayscale(plain, num_output_channels=3), atol=1e-3, rtol=0)


def test_hue_turns_colours_and_leaves_gray_and_luma_alone() -> None:
    gray = torch.full((1, 3, 4, 4), 90, dtype=torch.uint8)
    augment = Augmenter(Augment(hue=0.5), 4, *RAW)
    torch.testing.assert_close(augment(gray, draws_with(1, hue=1.0)), gray / 255, atol=1e-5, rtol=0)
    reddish = torch.tensor([140, 100, 100], dtype=torch.uint8)[:, None, None].expand(3, 4, 4)[None]
    out = augment(reddish, draws_with(1, hue=1.0))[0, :, 0, 0]
    assert out[0] < out[1]  # half a turn: no longer reddish
    weights = torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(weights @ out, weights @ (reddish[0, :, 0, 0] / 255), atol=1e-4, rtol=0)


def test_erasing_fills_a_rectangle_of_the_asked_size_with_the_mean() -> None:
    x = batch(count=200, side=20)
    mean = (0.3, 0.4, 0.5)
    augment = Augmenter(Augment(erase=1.0, erase_area=(0.2, 0.2)), 20, mean, (1.0, 1.0, 1.0))
    hole = (augment(x, draw(200, 0, 0)) == 0).all(1)  # (N, 20, 20)
    assert float(hole.float().mean((1, 2)).sub(0.2).abs().max()) < 0.06
    rows, columns = hole.any(2), hole.any(1)
    assert torch.equal(hole, rows[:, :, None] & columns[:, None, :])


def test_seeds_differ_between_epochs_and_uses() -> None:
    seeds = {derive_seed(s, e, u) for s in range(20) for e in range(20) for u in range(4)}
    assert len(seeds) == 1600
    assert all(0 <= s < 2**62 for s in seeds)


# ---------------------------------------------------------------------------------------------- the loop


def test_mean_and_std_are_those_of_all_pixels() -> None:
    data = images()
    mean, std = mean_and_std(data)
    x = data.pixels.double() / 255
    assert mean == pytest.approx(x.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert std == pytest.approx(x.std((0, 2, 3), unbiased=False).tolist(), abs=1e-6)


def test_the_loss_falls_and_the_selection_images_are_learnt(tmp_path: Path) -> None:
    module = tiny()
    trained = loop.train(module, recipe(epochs=12), images(), images(64, seed=9), tmp_path, QUIET)
    assert trained.history[-1].loss < 0.6 * trained.history[0].loss
    assert trained.history[trained.epoch - 1].select_accuracy > 0.95
    assert not module.training
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 12


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "constant"])
def test_the_learning_rate_rises_to_its_peak_and_falls(schedule: str, tmp_path: Path) -> None:
    settings = recipe(epochs=10, schedule={"name": schedule, "warmup": 0.3, "final": 0.01})
    rates = [e.lr for e in loop.train(tiny(), settings, images(), images(32, seed=9), tmp_path, QUIET).history]
    assert rates[:3] == sorted(rates[:3])
    assert max(rates) == pytest.approx(0.02, rel=0.05)
    if schedule == "constant":
        assert rates[-1] == pytest.approx(0.02)
    else:
        assert rates[3:] == sorted(rates[3:], reverse=True)
        assert rates[-1] == pytest.approx(0.02 * 0.01, rel=0.8)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema": 0.9, "schedule": {"name": "cosine"}, "optimiser": {"lr": 0.02, "clip_norm": 1.0}},
        {"precision": "bf16", "channels_last": True, "optimiser": {"name": "sgd", "lr": 0.1}, "keep": "last"},
        {"optimiser": {"lr": 0.02, "sam_rho": 0.1, "sam_start": 0.3}},
        {"optimiser": {"name": "muon", "lr": 0.01}},
    ],
    ids=["adamw", "ema", "sgd-bf16", "sam", "muon"],
)
def test_a_cut_run_ends_with_the_same_weights(changes: dict[str, Any], tmp_path: Path) -> None:
    class Cut(Exception):
        pass

    def cut(epoch: loop.Epoch) -> None:
        if epoch.epoch == 2:
            raise Cut

    settings = recipe(**changes)
    data, chosen = images(), images(40, seed=9)
    whole = tiny()
    expected = loop.train(whole, settings, data, chosen, tmp_path / "whole", QUIET)
    with pytest.raises(Cut):
        loop.train(tiny(), settings, data, chosen, tmp_path / "cut", QUIET, on_epoch=cut)
    resumed = tiny()
    got = loop.train(resumed, settings, data, chosen, tmp_path / "cut", QUIET)
    assert same_weights(whole, resumed)
    strip = lambda t: [{k: v for k, v in asdict(e).items() if k != "seconds"} for e in t.history]  # noqa: E731
    assert strip(got) == strip(expected)
    again = tiny(seed=5)  # a finished run: nothing is trained, the kept weights come back
    loop.train(again, settings, data, chosen, tmp_path / "cut", QUIET)
    assert same_weights(whole, again)


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "constant"])
@pytest.mark.parametrize("count", [16, 32, 48])
def test_the_shortest_of_runs(schedule: str, count: int, tmp_path: Path) -> None:
    settings = recipe(epochs=1, schedule={"name": schedule})
    trained = loop.train(tiny(), settings, images(count), images(16, seed=9), tmp_path, QUIET)
    assert 0 < trained.history[0].lr <= settings.optimiser.lr * (1 + 1e-9)


def test_a_sharpness_aware_step_descends_by_the_gradient_uphill(tmp_path: Path) -> None:
    rho, lr = 0.3, 0.05
    settings = recipe(
        epochs=1, augment={}, label_smoothing=0.0, schedule={"name": "constant", "warmup": 0},
        optimiser={"name": "sgd", "lr": lr, "momentum": 0.0, "weight_decay": 0.0, "sam_rho": rho},
    )  # fmt: skip
    data = images(16)
    stepped, by_hand = (nn.Sequential(nn.Flatten(), nn.Linear(192, 2)) for _ in range(2))
    by_hand.load_state_dict(stepped.state_dict())
    loop.train(stepped, settings, data, images(16, seed=9), tmp_path, QUIET)

    x, weights = (data.pixels / 255 - 0.5) / 0.25, list(by_hand.parameters())
    start = [w.detach().clone() for w in weights]
    gradients = torch.autograd.grad(nn.functional.cross_entropy(by_hand(x), data.labels), weights)
    length = torch.cat([g.flatten() for g in gradients]).norm()
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.data += rho * gradient / length
    uphill = torch.autograd.grad(nn.functional.cross_entropy(by_hand(x), data.labels), weights)
    for weight, before, gradient in zip(weights, start, uphill, strict=True):
        weight.data = before - lr * gradient
    for got, expected in zip(stepped.parameters(), weights, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    plain = [before - lr * gradient for before, gradient in zip(start, gradients, strict=True)]
    assert not torch.allclose(next(stepped.parameters()), plain[0], atol=1e-4)  # the two can be told apart here


def test_uphill_leaves_weights_and_statistics_as_they_were() -> None:
    module = tiny()
    x = torch.randn(8, 3, 8, 8)
    module(x).sum().backward()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with optimise.uphill(module, 0.5):
        moved = torch.cat([(p - before[name]).flatten() for name, p in module.named_parameters()])
        assert float(moved.detach().norm()) == pytest.approx(0.5, rel=1e-4)
        module(x).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    module(x)
    assert not torch.equal(module[1].running_mean, before["1.running_mean"])  # it goes on counting afterwards


def test_sharpness_aware_steps_set_in_where_the_recipe_says(tmp_path: Path) -> None:
    passes: list[int] = []
    module = tiny()
    module.register_forward_pre_hook(lambda m, _: passes.append(1) if m.training else None)
    settings = recipe(epochs=4, optimiser={"lr": 0.02, "sam_rho": 0.1, "sam_start": 0.75})
    loop.train(module, settings, images(64), images(16, seed=9), tmp_path, QUIET)
    assert len(passes) == 3 * 4 + 1 * 4 * 2  # epochs of four steps, the last of four at twice the price


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    data, chosen = images(), images(40, seed=9)
    runs = [tiny(seed=0), tiny(seed=0), tiny(seed=0)]
    for i, (module, seed) in enumerate(zip(runs, (0, 0, 1), strict=True)):
        loop.train(module, recipe(epochs=2, seed=seed), data, chosen, tmp_path / str(i), QUIET)
    assert same_weights(runs[0], runs[1])
    assert not same_weights(runs[0], runs[2])  # same start, another order


def test_the_kept_epoch_is_the_best_on_the_selection_images(tmp_path: Path) -> None:
    data, chosen = images(), images(40, seed=9)
    settings = recipe(epochs=8, optimiser={"lr": 0.1})
    module = tiny()
    trained = loop.train(module, settings, data, chosen, tmp_path / "best", QUIET)
    scores = [e.select_accuracy for e in trained.history]
    assert scores[trained.epoch - 1] == max(scores)
    assert max(scores) not in scores[trained.epoch :]  # the later one of equals
    assert settings.mean is not None
    assert settings.std is not None
    plain = Augmenter(Augment(), 8, settings.mean, settings.std)
    assert loop.evaluate(module, chosen, plain, settings, QUIET)[0] == max(scores)
    last = loop.train(tiny(), recipe(epochs=3, keep="last"), data, chosen, tmp_path / "last", QUIET)
    assert last.epoch == 3


def test_the_average_copies_whole_numbers() -> None:
    class WithTable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))
            self.register_buffer("table", torch.arange(9))

    average, module = WithTable(), WithTable()
    with torch.no_grad():
        module.weight.fill_(1.0)
    expected = torch.zeros(2)
    for step in range(50):
        optimise.move_average(average, module, 0.9, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = expected * decay + (1 - decay)
    torch.testing.assert_close(average.weight.detach(), expected)
    assert torch.equal(average.get_buffer("table"), torch.arange(9))


def test_weight_decay_spares_biases_norms_and_positions() -> None:
    import timm

    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=32, depth=1, num_heads=2, num_classes=2)
    chosen = freezing.choose(vit, 32, ["all"])
    decayed, plain = optimise.optimiser_of(vit, recipe().optimiser, Phase(epochs=1), chosen).param_groups
    names = {id(p): n for n, p in vit.named_parameters()}
    spared = {names[id(p)] for p in plain["params"]}
    assert {"pos_embed", "cls_token", "blocks.0.norm1.weight", "head.bias"} <= spared
    assert not any(n.endswith("qkv.weight") for n in spared)
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)


def test_muon_takes_matrices_and_leaves_tables_of_positions_to_adamw() -> None:
    import timm

    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, window_size=4, embed_dim=16, depths=[1, 1, 1, 1],
        num_heads=[8, 8, 8, 8], num_classes=8,
    )  # fmt: skip
    chosen = freezing.choose(swin, 32, ["all"])
    settings = recipe(optimiser={"name": "muon", "lr": 0.01, "weight_decay": 0.1}).optimiser
    made = optimise.optimiser_of(swin, settings, Phase(epochs=1), chosen)
    before = {n: p.detach().clone() for n, p in swin.named_parameters()}
    swin(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    made.step()
    orthogonal = {n for n, p in swin.named_parameters() if "momentum_buffer" in made.state[p]}
    assert {"layers.0.blocks.0.attn.qkv.weight", "patch_embed.proj.weight"} <= orthogonal
    assert not any("bias" in n or "norm" in n for n in orthogonal)  # relative_position_bias_table is (49, 8)
    weight = "layers.0.blocks.0.mlp.fc2.weight"
    step = before[weight] * (1 - 0.01 * 0.1) - swin.get_parameter(weight).detach()
    lengths = torch.linalg.svdvals(step) / (0.01 * 0.2 * max(step.shape) ** 0.5)  # Liu et al. 2025, equation 4
    assert lengths.min() > 0.5, lengths  # Newton-Schulz leaves them near 1
    assert lengths.max() < 1.5, lengths


def test_only_a_head_drawn_for_many_classes_is_drawn_anew() -> None:
    torch.manual_seed(0)
    body, head = nn.Linear(1280, 1280), nn.Linear(1280, 8)
    module = nn.Sequential(body, head)
    before = body.weight.clone(), head.weight.clone()
    heads.calm(module, 8)
    assert torch.equal(before[0], body.weight)
    assert torch.equal(before[1], head.weight)
    nn.init.uniform_(head.weight, -(8**-0.5), 8**-0.5)  # EfficientNet's, for eight classes
    features = torch.rand(64, 1280)
    assert head(features).std() > 3
    heads.calm(module, 8)
    assert head(features).std() < 1
    assert torch.equal(before[0], body.weight)


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    data, chosen = images(), images(40, seed=9)
    loop.train(tiny(), recipe(epochs=1), data, chosen, tmp_path, QUIET, data_fingerprint="a")
    with pytest.raises(TrainingError, match=r"another epochs, optimiser\.lr"):
        loop.train(tiny(), recipe(epochs=2, optimiser={"lr": 0.5}), data, chosen, tmp_path, QUIET, data_fingerprint="a")
    with pytest.raises(TrainingError, match="on other images"):
        loop.train(tiny(), recipe(epochs=1), data, chosen, tmp_path, QUIET, data_fingerprint="b")
    (tmp_path / "state.pt").write_bytes(b"not a state")
    with pytest.raises(TrainingError, match="is no training state"):
        loop.train(tiny(), recipe(epochs=1), data, chosen, tmp_path, QUIET)


def test_a_diverging_run_says_so(tmp_path: Path) -> None:
    class Explodes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) @ self.weight.T + self.weight.sum() * math.inf

    with pytest.raises(TrainingError, match=r"the loss became nan in epoch 1, step 1, .* lower optimiser\.lr"):
        loop.train(Explodes(), recipe(), images(), images(40), tmp_path, QUIET)


def test_fewer_images_than_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="less than one batch of 16"):
        loop.train(tiny(), recipe(), images(8), images(8), tmp_path, QUIET)


@pytest.mark.fault("train", "killed")
def test_a_killed_process_continues_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    """SIGKILL in the middle of an epoch: whatever was half written is not read."""
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import torch
        torch.set_num_threads(1)
        from pathlib import Path
        import test_train as t
        from gradlens.train import loop
        module = t.tiny()
        pause = lambda epoch: (print(epoch.epoch, flush=True), time.sleep(float(sys.argv[2])))
        out, data, select = Path(sys.argv[1]), t.images(), t.images(40, seed=9)
        loop.train(module, t.recipe(epochs=6), data, select, out, t.QUIET, on_epoch=pause)
        torch.save(module.state_dict(), Path(sys.argv[1]) / "out.pt")
        """)
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def command(folder: str, pause: str) -> list[str]:
        return [sys.executable, str(script), str(tmp_path / folder), pause]

    with subprocess.Popen(command("cut", "0.2"), stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        process.stdout.readline()
        time.sleep(0.21)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "cut" / "out.pt").exists()
    for folder in ("cut", "whole"):
        subprocess.run(command(folder, "0"), check=True, capture_output=True, env=environment)
    cut, whole = (torch.load(tmp_path / f / "out.pt", weights_only=True) for f in ("cut", "whole"))
    assert all(torch.equal(v, whole[k]) for k, v in cut.items())


def test_attention_is_plain_while_training_and_fused_again_whatever_happens() -> None:
    import timm

    module = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=2, num_heads=2)
    layers = [m for m in module.modules() if hasattr(m, "fused_attn")]
    before = [m.fused_attn for m in layers]
    assert any(before)

    def fail() -> None:
        with loop.plain_attention(module, torch.device("cpu")):
            assert not any(m.fused_attn for m in layers)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [m.fused_attn for m in layers] == before
    with loop.plain_attention(module, torch.device("cuda")):
        assert [m.fused_attn for m in layers] == before
