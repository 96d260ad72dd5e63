"""Phases of a training run: what learns in each, at which rates, when it ends; an interruption changes nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_train import QUIET, images, recipe, same_weights
from timm.optim import Muon
from torch import nn
from torch.optim import lr_scheduler

from gradlens.depths.find import find_depths
from gradlens.depths.modules import hooked
from gradlens.errors import NotFoundError, TrainingError
from gradlens.runtime import seed_everything
from gradlens.train import freezing, loop, optimise, recipes, strategies
from gradlens.train.settings import Optimiser, Phase, Recipe, Schedule, Stopping
from gradlens.zoo import checkpoints
from gradlens.zoo.build import build_seeded

NARROW: dict[str, Any] = {"channels": [8, 8, 16, 16]}


def staged(seed: int = 0) -> nn.Module:
    """Three stages of a convolution and a batch norm, a dropout and a head."""
    seed_everything(seed)
    stages = [
        nn.Sequential(nn.Conv2d(a, b, 3, padding=1, stride=s), nn.BatchNorm2d(b), nn.ReLU())
        for a, b, s in ((3, 6, 1), (6, 8, 2), (8, 8, 2))
    ]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 2))


PHASES = [
    {"epochs": 2, "train": ["head"]},
    {"epochs": 2, "train": ["head", "2"], "lr": 0.01},
    {"epochs": 2, "backbone_lr": 0.1},
]


# ---------------------------------------------------------------------------------------------- what learns


@pytest.mark.parametrize(
    ("builder", "every", "head"),
    [("torchvision:mobilenet_v2", 2_236_682, 12_810), ("torchvision:resnet18", 11_181_642, 5_130)],
)
def test_published_numbers_of_parameters(builder: str, every: int, head: int) -> None:
    module = build_seeded(builder, {}, 10)
    chosen = freezing.choose(module, 32, ["head"])
    assert sum(p.numel() for p in module.parameters()) == every
    assert sum(p.numel() for p in module.parameters() if p.requires_grad) == head
    assert freezing.report(chosen) == f"trains {head:,} of {every:,} parameters: head"
    assert chosen.backbone == ()


@pytest.mark.parametrize(
    ("builder", "arguments"),
    [
        ("timm:resnet18", NARROW),
        ("timm:vit_tiny_patch16_224", {"img_size": 64, "depth": 3, "embed_dim": 24, "num_heads": 2}),
        ("timm:densenet121", {"growth_rate": 4, "block_config": [2, 2, 2]}),
        ("gradlens:custom_cnn", {"widths": [8, 8, 16], "residuals": [1, 0]}),
    ],
)
def test_a_stretch_ends_at_the_first_depth_that_its_parameters_move(builder: str, arguments: dict[str, Any]) -> None:
    """Every parameter is disturbed: the depth before its stretch's end stays, the end itself moves."""
    module = build_seeded(builder, arguments, 5).eval()
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    names = [p.name for p in find_depths(module, image).points]

    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1)  # some norms start at zero, and hide what is before them
    head = set(freezing.choose(module, 64, ["head"]).head)
    belongs = freezing._Stretches(module, image, head).at
    parts = [{n for n, at in belongs.items() if at == i} for i in range(len(names))]
    assert all(set(freezing.choose(module, 64, [n]).backbone) == p for n, p in zip(names, parts, strict=True) if p)
    modules = {name: module.get_submodule(name) for name in names}

    def outputs() -> dict[str, torch.Tensor]:
        seen: dict[str, torch.Tensor] = {}
        with torch.no_grad(), hooked(modules, lambda path, call, tensor: seen.update({path: tensor.clone()})):
            module(image)
        return seen

    plain = outputs()
    for at, owned in enumerate(parts[:-1]):
        for name in owned:
            parameter = module.get_parameter(name)
            before = parameter.detach().clone()
            with torch.no_grad():
                parameter.add_(torch.randn(before.shape, generator=torch.Generator().manual_seed(1)))
            moved = outputs()
            with torch.no_grad():
                parameter.copy_(before)
            assert all(torch.equal(moved[n], plain[n]) for n in names[:at]), name
            assert not torch.equal(moved[names[at]], plain[names[at]]), name
    assert {*belongs, *head} == {n for n, _ in module.named_parameters()}
    assert not head & belongs.keys()


def test_names_globs_and_stages() -> None:
    module = build_seeded("timm:resnet18", NARROW, 5)
    by_name, by_glob, last, most = freezing.plan(module, 64, [("layer4",), ("layer4.*",), ("last:1",), ("last:99",)])
    assert by_name.backbone == by_glob.backbone == last.backbone
    assert set(last.backbone) == {n for n, _ in module.named_parameters() if n.startswith("layer4.")}
    assert last.parts == ("last:1 (from layer4.0 on)",)
    assert set(most.backbone) == {n for n, _ in module.named_parameters() if not n.startswith("fc.")}
    assert all(p.requires_grad for p in module.parameters())  # planning changes nothing
    assert freezing.choose(module, 64, ["layer2.0.conv1"]).backbone == ("layer2.0.conv1.weight",)  # no depth
    with pytest.raises(NotFoundError, match="no depth or module named 'layer5'; did you mean"):
        freezing.choose(module, 64, ["layer5"])
    with pytest.raises(TrainingError, match="'global_pool' holds no parameters"):
        freezing.choose(module, 64, ["head", "global_pool"])
    with pytest.raises(TrainingError, match="no last layer of 12 outputs"):
        freezing.choose(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten()), 2, ["head"])


def test_what_is_frozen_keeps_its_weights_and_the_statistics_of_its_norms(tmp_path: Path) -> None:
    module = staged()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    settings = recipe(epochs=2, phases=[{"epochs": 2, "train": ["head", "2"]}], keep="last")
    loop.train(module, settings, images(), images(32, seed=9), tmp_path, QUIET)
    moved = {k for k, v in module.state_dict().items() if not torch.equal(v, before[k])}
    assert {k.split(".")[0] for k in moved} == {"2", "6"}
    assert {"2.1.running_mean", "2.1.num_batches_tracked"} <= moved
    assert all(p.requires_grad for p in module.parameters())


def test_a_frozen_part_drops_nothing_out_but_the_dropout_before_the_head_works() -> None:
    module = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout()), nn.Flatten(), nn.Dropout(), nn.Linear(16, 3)
    )
    freezing.choose(module, 2, ["head"])
    freezing.train_mode(module)
    assert [m.training for m in module] == [False, True, True, True]
    assert not module.get_submodule("0.1").training


# ---------------------------------------------------------------------------------------------- optimisers and rates


def test_optimisers_and_the_rates_of_head_and_backbone() -> None:
    module = staged()
    chosen = freezing.choose(module, 8, ["all"])
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "muon": Muon, "sgd": torch.optim.SGD}
    for name, kind in kinds.items():
        settings = Optimiser(name=name, lr=0.2, weight_decay=0.01)  # type: ignore[arg-type]
        made = optimise.optimiser_of(module, settings, Phase(epochs=1, backbone_lr=0.1), chosen)
        assert type(made) is kind
        head = {id(p) for n, p in module.named_parameters() if n.startswith("6.")}
        for group in made.param_groups:
            own = {id(p) in head for p in group["params"]}
            assert group["lr"] == pytest.approx(0.2 if own == {True} else 0.02)
            assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.01}
        assert made.param_groups[0]["lr"] == 0.2
    lower = optimise.optimiser_of(module, settings, Phase(epochs=1, lr=0.03), chosen)
    assert {g["lr"] for g in lower.param_groups} == {0.03}
    frozen = freezing.choose(module, 8, ["2"])
    with pytest.raises(TrainingError, match="leaves the head as it is; add 'head'"):
        optimise.optimiser_of(module, settings, Phase(epochs=1, train=("2",), backbone_lr=0.1), frozen)


def some_sgd(*rates: float) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": r} for r in rates], lr=1.0)


@pytest.mark.parametrize("name", ["cosine", "step", "plateau"])
def test_schedules_agree_with_torchs_own(name: str) -> None:
    steps, epochs = 5, 8
    schedule = Schedule(name=name, warmup=0, final=0, factor=0.3, patience=2, every=3)  # type: ignore[arg-type]
    ours, theirs = some_sgd(1.0, 0.1), some_sgd(1.0, 0.1)
    rates = optimise.Rates(ours, schedule, steps, epochs)
    losses = [1.0, 0.8, 0.9, 0.9, 0.9, 0.7, 0.75, 0.7]
    other: Any = {
        "cosine": lambda: lr_scheduler.CosineAnnealingLR(theirs, steps * epochs),
        "step": lambda: lr_scheduler.StepLR(theirs, 3, 0.3),
        "plateau": lambda: lr_scheduler.ReduceLROnPlateau(theirs, factor=0.3, patience=2),
    }[name]()
    seen = set()
    for loss in losses:
        for _ in range(steps):
            assert [g["lr"] for g in ours.param_groups] == pytest.approx([g["lr"] for g in theirs.param_groups])
            seen.add(round(rates.lr, 9))
            for optimiser in (ours, theirs):
                optimiser.step()
            rates.step()
            if name == "cosine":
                other.step()
        rates.epoch(loss)
        if name != "cosine":
            other.step(*([loss] if name == "plateau" else []))
    assert len(seen) >= 2


def test_plateau_waits_for_the_end_of_warm_up() -> None:
    optimiser = some_sgd(1.0)
    rates = optimise.Rates(optimiser, Schedule(name="plateau", warmup=0.5, patience=1, factor=0.5), 4, 8)
    seen = []
    for _ in range(8):
        for _ in range(4):
            seen.append(rates.lr)
            optimiser.step()
            rates.step()
        rates.epoch(1.0)  # never better
    assert seen[:16] == sorted(seen[:16])
    assert seen[16] == 1.0
    assert (seen[-1], rates.lr) == (0.5, 0.25)  # halved after two bad epochs, and after two more
    assert seen[0] == optimise.START


@pytest.mark.parametrize(
    ("metric", "values", "stops"),
    [
        ("loss", [1.0, 0.9, 0.8, 0.7], False),
        ("loss", [1.0, 0.5, 0.6, 0.5], True),
        ("loss", [1.0, 0.5, 0.495, 0.494], True),  # better, but by less than min_delta
        ("loss", [0.5, 0.6, 0.5], True),
        ("loss", [0.5, 0.6], False),
        ("accuracy", [0.5, 0.6, 0.6, 0.59], True),
        ("accuracy", [0.5, 0.6, 0.6, 0.7], False),
    ],
)
def test_early_stopping_counts_epochs_without_improvement(metric: str, values: list[float], stops: bool) -> None:
    stopping = Stopping(patience=2, min_delta=0.01, metric=metric)  # type: ignore[arg-type]
    assert bool(optimise.reason_to_stop(stopping, values, values)) is stops
    assert not optimise.reason_to_stop(Stopping(), values, values)


# ---------------------------------------------------------------------------------------------- the run as a whole


class Cut(Exception):
    pass


def resumed_after(epoch: int, settings: Recipe, place: Path) -> tuple[nn.Module, loop.Trained]:
    def cut(done: loop.Epoch) -> None:
        if done.epoch == epoch:
            raise Cut

    with pytest.raises(Cut):
        loop.train(staged(), settings, images(), images(40, seed=9), place, QUIET, on_epoch=cut)
    module = staged()
    return module, loop.train(module, settings, images(), images(40, seed=9), place, QUIET)


def without_seconds(trained: loop.Trained) -> list[dict[str, Any]]:
    return [{k: v for k, v in asdict(e).items() if k != "seconds"} for e in trained.history]


STOPS = {"patience": 2, "min_delta": 0.5}
HARD = {"name": "sgd", "lr": 0.05, "clip_norm": 1.0}
RUNS: dict[str, dict[str, Any]] = {
    "phases": {"phases": PHASES, "ema": 0.9, "optimiser": HARD},
    "plateau and stopping": {
        "phases": [{"epochs": 2, "train": ["head"]}, {"epochs": 4}],
        "schedule": {"name": "plateau", "warmup": 0, "patience": 1, "factor": 0.5},
        "stopping": STOPS,
        "optimiser": {"name": "adam", "lr": 1e-3},
    },
    "fp16": {"phases": PHASES, "precision": "fp16", "keep": "last"},
    "mixed and weighted": {"mix": {"mixup": 0.4, "cutmix": 1.0}, "class_weights": "balanced", "keep": "last"},
}


@pytest.mark.parametrize("name", list(RUNS))
def test_a_run_cut_after_any_epoch_of_any_phase_ends_with_the_same_weights(name: str, tmp_path: Path) -> None:
    settings = recipe(epochs=6, **RUNS[name])
    whole = staged()
    expected = loop.train(whole, settings, images(), images(40, seed=9), tmp_path / "whole", QUIET)
    for epoch in range(1, len(expected.history)):
        module, got = resumed_after(epoch, settings, tmp_path / str(epoch))
        assert same_weights(whole, module), epoch
        assert without_seconds(got) == without_seconds(expected)
        assert got.stopped == expected.stopped
    if len(settings.phases) == 3:
        assert [e.phase for e in expected.history] == [1, 1, 2, 2, 3, 3]


def test_fp16_scales_the_loss_and_keeps_the_scale(tmp_path: Path) -> None:
    settings = recipe(epochs=2, precision="fp16")
    trained = loop.train(staged(), settings, images(), images(40, seed=9), tmp_path, QUIET)
    scaler = torch.load(tmp_path / "state.pt", weights_only=True)["scaler"]
    assert scaler["scale"] > 0
    assert scaler["_growth_tracker"] > 0
    assert trained.history[-1].loss < trained.history[0].loss


def test_a_run_that_stops_says_when_and_why_and_stays_stopped(tmp_path: Path) -> None:
    settings = recipe(epochs=6, **RUNS["plateau and stopping"])
    for _ in range(2):  # the second call finds a run that has ended
        trained = loop.train(staged(), settings, images(), images(40, seed=9), tmp_path, QUIET)
        assert (
            len(trained.history) == 5
        )  # two of the first phase, which never stops; the best of the last, and patience
        assert "has not got better than" in trained.stopped
        assert "by more than 0.5 for 2 epochs" in trained.stopped
        *epochs, end = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
        assert [e["epoch"] for e in epochs] == [1, 2, 3, 4, 5]
        assert end == {"stopped": 5, "reason": trained.stopped}


def test_the_loss_is_weighted_by_class(tmp_path: Path) -> None:
    """One step over all images, without augmentation: the loss is cross-entropy as written by hand."""
    data = images(64)
    data = type(data)(data.pixels[16:], torch.tensor([0] * 36 + [1] * 12))
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    settings = recipe(epochs=1, batch_size=48, augment={}, label_smoothing=0.0, class_weights="balanced")
    x = (data.pixels.float() / 255 - 0.5) / 0.25
    losses = F.cross_entropy(module(x).detach(), data.labels, reduction="none")
    weight = torch.tensor([48 / (2 * 36), 48 / (2 * 12)])[data.labels]
    expected = float((losses * weight).sum() / weight.sum())
    seen: list[dict[str, float]] = []
    loop.train(module, settings, data, images(16, seed=9), tmp_path, QUIET, on_step=seen.append)
    assert [(s["step"], s["epoch"], s["phase"]) for s in seen] == [(1, 1, 1)]
    assert seen[0]["loss"] == pytest.approx(expected, rel=1e-5)


# ---------------------------------------------------------------------------------------------- strategies, recipes


@pytest.mark.parametrize("name", list(strategies.STRATEGIES))
@pytest.mark.parametrize("epochs", [5, 6, 13, 40])
def test_a_strategy_spends_all_epochs_and_ends_with_what_it_says(name: str, epochs: int) -> None:
    phases = strategies.phases(name, epochs, 1e-3)
    assert sum(p.epochs for p in phases) == epochs
    assert all(p.epochs >= 1 for p in phases)
    ends = {"frozen": ("head",), "partial": ("head", "last:1"), "two-phase": ("head", "last:2")}
    assert phases[-1].train == ends.get(name, ("all",))
    if len(phases) > 1:
        assert phases[0].train == ("head",)


def test_strategies_with_depths_and_their_rates() -> None:
    first, second = strategies.phases("two-phase:layer3,layer4", 9, 0.02)
    assert (first.epochs, first.lr, second.epochs) == (3, None, 6)
    assert second.train == ("head", "layer3", "layer4")
    assert second.lr == pytest.approx(0.002)
    assert strategies.phases("partial:last:3", 2, 0.02)[0].train == ("head", "last:3")
    one, rest = strategies.phases("one-frozen", 4, 0.02)
    assert (one.epochs, rest.epochs, rest.lr, rest.backbone_lr) == (1, 3, 0.01, 0.01)
    with pytest.raises(NotFoundError, match="did you mean 'frozen'"):
        strategies.phases("frosen", 4, 0.02)
    with pytest.raises(TrainingError, match="only partial and two-phase take depths"):
        strategies.phases("full:layer4", 4, 0.02)
    with pytest.raises(TrainingError, match="has 5 phases, so it needs as many epochs, got 4"):
        strategies.phases("gradual", 4, 0.02)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"phases": [{"epochs": 3}]}, r"epochs must be those of all phases together \(3\), got 15"),
        ({"phases": [{"epochs": 15, "train": ["last:0"]}]}, "expected last:N with N of at least 1"),
        ({"phases": [{"epochs": 15, "train": []}]}, "train must name what learns"),
        ({"strategy": "full", "phases": [{"epochs": 15}]}, "give either strategy or phases"),
        ({"strategy": "nearly"}, "no strategy named 'nearly'"),
    ],
)
def test_phases_that_cannot_be_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises((TrainingError, NotFoundError), match=said):
        recipes.load("cifar10", "custom_cnn", changes)


def test_a_recipe_with_a_strategy_holds_its_phases_and_is_read_again_from_a_card() -> None:
    loaded = recipes.load("cifar10", "custom_cnn", {"strategy": "two-phase"})
    assert loaded.phases == strategies.phases("two-phase", 15, loaded.optimiser.lr)
    assert Recipe.model_validate(loaded.model_dump(mode="json")) == loaded
    assert loaded.differences(recipes.load("cifar10", "custom_cnn")) == ["phases"]


def test_committed_cards_hold_recipes_that_are_still_read(root: Path) -> None:
    cards = [checkpoints.read_card(c.parent) for c in sorted((root / "checkpoints").glob("*/*/config.json"))]
    trained = [card.training for card in cards if card.training is not None]
    assert trained
    for training in trained:
        assert Recipe.model_validate(training.settings).epochs == training.epochs
