"""Training by several processes takes the steps that one process would take."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ranks import Ended, start_together
from torch import nn

from gradlens.errors import TrainingError
from gradlens.processes import ALONE, Processes, together
from gradlens.runtime import Runtime, seed_everything
from gradlens.train import loop
from gradlens.train.images import Images
from gradlens.train.parallel import in_parallel, synchronised, weight_of_share
from gradlens.train.settings import Recipe

PER_BATCH = 17  # an odd number: the shares of two and of three processes are uneven


def recipe(**changes: Any) -> Recipe:
    fields: dict[str, Any] = {
        "recipe": "test", "title": "test", "collection": "test", "model": "tiny", "builder": "test:tiny",
        "data": {"train": "somewhere", "select_fraction": 0.1},
        "input_size": 8, "epochs": 3, "batch_size": PER_BATCH, "optimiser": {"lr": 0.02},
        "augment": {"pad": 1, "flip": 0.5, "erase": 0.3, "brightness": 0.2, "hue": 0.05},
        "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "label_smoothing": 0.05,
    }  # fmt: skip
    return Recipe.model_validate(fields | changes)


def images(count: int, seed: int) -> Images:
    """Two uneven classes that differ in which half is bright."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 160, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = (torch.arange(count) % 5 > 2).long()
    pixels[labels == 0, :, :4] += 60
    pixels[labels == 1, :, 4:] += 60
    return Images(pixels, labels)


class Tiny(nn.Module):
    """No batch norm, no dropout, and a head that is never used, as auxiliary ones are not."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU())
        self.unused = nn.Linear(4, 4)
        self.head = nn.Linear(32, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.adaptive_avg_pool2d(self.features(x), 2).flatten(1))


def train(rank: int, folder: Path, changes: dict[str, Any], die_after: int = 0) -> None:
    """One training; every process leaves its weights and history, and the first one's may die after an epoch."""
    seed_everything(0)
    module = Tiny()

    def after(epoch: loop.Epoch) -> None:
        if epoch.epoch == die_after and rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with together() as processes:
        runtime = Runtime(device="cpu").among(processes)
        done = loop.train(
            module, recipe(**changes), images(96, 0), images(600, 1), folder, runtime, on_epoch=after
        )  # fmt: skip
    history = [(e.loss, e.accuracy, e.select_accuracy, e.select_loss) for e in done.history]
    torch.save({"weights": module.state_dict(), "history": history}, folder / f"left-{rank}.pt")


def trained(world: int, folder: Path, changes: dict[str, Any], die_after: int = 0) -> list[Ended]:
    folder.mkdir(parents=True, exist_ok=True)
    return start_together(world, train, folder, changes, die_after, folder=folder / "said", cache=folder / "cache")


def left(folder: Path, rank: int = 0) -> dict[str, Any]:
    return torch.load(folder / f"left-{rank}.pt", weights_only=True)


def assert_close(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Equal but for the order of summation; three epochs of 5 steps at a rate of 0.02 amplify it little."""
    for name, tensor in one["weights"].items():
        torch.testing.assert_close(other["weights"][name], tensor, rtol=1e-4, atol=2e-5, msg=name)
    torch.testing.assert_close(torch.tensor(other["history"]), torch.tensor(one["history"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"class_weights": "balanced", "mix": {"mixup": 0.4, "cutmix": 1.0}, "ema": 0.9},
        {"class_weights": "balanced", "optimiser": {"name": "sgd", "lr": 0.1, "clip_norm": 1.0}},
    ],
    ids=["plain", "mixed", "weighted"],
)
def test_two_processes_train_what_one_does(changes: dict[str, Any], tmp_path: Path) -> None:
    """Batches of 17 are shares of 9 and 8 images, whose gradients do not count equally."""
    alone = trained(1, tmp_path / "one", changes)
    assert alone[0].code == 0, alone[0].err
    ended = trained(2, tmp_path / "two", changes)
    assert [e.code for e in ended] == [0, 0], [e.err for e in ended]
    assert_close(left(tmp_path / "one"), left(tmp_path / "two"))
    first, second = left(tmp_path / "two", 0), left(tmp_path / "two", 1)
    assert all(torch.equal(t, second["weights"][name]) for name, t in first["weights"].items())
    assert first["history"] == second["history"]
    assert "3/3" in ended[0].err
    assert ended[1].err == ""
    assert (tmp_path / "two" / "state.pt").is_file()


@pytest.mark.fault("train, 2 processes", "killed")
def test_a_killed_training_goes_on_with_the_same_number_of_processes(tmp_path: Path) -> None:
    assert [e.code for e in trained(2, tmp_path / "whole", {})] == [0, 0]
    ended = trained(2, tmp_path / "cut", {}, die_after=1)
    assert ended[0].code == -signal.SIGKILL
    assert ended[1].code not in (0, None)
    (other,) = trained(1, tmp_path / "cut", {})
    assert other.code == 1
    assert "belongs to a run of 2 processes" in other.err
    again = trained(2, tmp_path / "cut", {})
    assert [e.code for e in again] == [0, 0], [e.err for e in again]
    assert "continues after epoch 1 of 3" in again[0].err
    whole, cut = left(tmp_path / "whole"), left(tmp_path / "cut")
    assert all(torch.equal(t, cut["weights"][name]) for name, t in whole["weights"].items())


def test_shares_weigh_as_their_images_do() -> None:
    """The mean over processes of weighted shares' losses is that of the whole batch, whatever the sizes."""
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 3, dtype=torch.float64, requires_grad=True), torch.tensor([0, 2, 1, 1, 0, 2, 2])
    for weight in (None, torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)):
        whole = F.cross_entropy(logits, labels, weight, label_smoothing=0.1)
        for world in (1, 2, 3, 7):
            shares = [Processes(rank, world) for rank in range(world)]
            parts = [
                F.cross_entropy(p.share(logits), p.share(labels), weight, label_smoothing=0.1)
                * weight_of_share(p.share(labels), labels, weight, world)
                for p in shares
            ]
            torch.testing.assert_close(sum(parts) / world, whole)
    assert weight_of_share(labels, labels, None, 1) == 1.0


def test_a_batch_smaller_than_the_processes_is_refused(tmp_path: Path) -> None:
    runtime = Runtime(device="cpu", quiet=True, processes=Processes(0, 32))
    with pytest.raises(TrainingError, match="a batch of 17 images cannot be shared by 32 processes"):
        loop.train(Tiny(), recipe(), images(96, 0), images(600, 1), tmp_path, runtime)


def test_batch_norm_on_a_cpu_is_said_to_depend_on_the_processes(capsys: pytest.CaptureFixture[str]) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with synchronised(module, torch.device("cpu"), Runtime(processes=Processes(0, 2))):
        assert type(module[1]) is nn.BatchNorm2d
    assert "1 batch norms take the statistics of each process's share" in capsys.readouterr().err
    with synchronised(module, torch.device("cpu"), Runtime(processes=ALONE)):
        assert capsys.readouterr().err == ""


def test_batch_norms_are_synchronised_on_cuda_and_themselves_afterwards() -> None:
    """The conversion needs no GPU; only its forward pass does."""
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4)))
    norm = module[1][0]
    with synchronised(module, torch.device("cuda"), Runtime(processes=Processes(0, 2))):
        inside = module[1][0]
        assert type(inside) is nn.SyncBatchNorm
        assert inside.weight is norm.weight
        inside.running_mean.add_(1)
    assert module[1][0] is norm
    assert norm.running_mean.tolist() == [1.0] * 4


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(TrainingError, match="this-host has 2; use torchrun --nproc-per-node 2"):
        in_parallel(Tiny(), torch.device("cuda"), Processes(2, 3, local=2, host="this-host"))
