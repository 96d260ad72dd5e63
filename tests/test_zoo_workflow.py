"""``gradlens zoo list|show|verify``: what they print, and that a card that lies is caught."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from gradlens.cli.zoo import command as zoo_command
from gradlens.data.preprocess import to_tensor
from gradlens.errors import NotFoundError
from gradlens.records import Preprocess
from gradlens.runtime import Runtime
from gradlens.workflows import zoo as workflow
from gradlens.zoo import checkpoints
from gradlens.zoo.build import build_seeded
from gradlens.zoo.cards import Card, Preprocessing, Training

CLASSES = ("blue", "green", "red")
WIDTHS = {"widths": [4, 4, 4, 4]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A test set of 24 noisy images in three colours, and a zoo whose one model has its scores on it."""
    root = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    for k, name in enumerate(CLASSES):
        (root / "colours" / name).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 120, (20, 20, 3))
            pixels[..., 2 - k] += 60 if i else 0
            Image.fromarray(pixels.astype(np.uint8)).save(root / "colours" / name / f"{i}.png")
    from gradlens.data.sources import open_source

    module = build_seeded("gradlens:custom_cnn", WIDTHS, 3, seed=2).train()
    images, preprocess = open_source(str(root / "colours")), Preprocess((3, 16, 16))
    batch = torch.stack([to_tensor(preprocess, images.read(i)) for i in range(len(images))])
    optimiser = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(25):  # better than chance: then other weights score otherwise
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(module(batch), torch.from_numpy(images.labels)).backward()
        optimiser.step()
    training = Training(
        recipe="none", epochs=0, seed=2, seconds=0, data="nothing", images=0, fingerprint="",
        settings={"data": {"train": "x", "test": str(root / "colours"), "probes": []}},
    )  # fmt: skip
    folder = root / "zoo" / "vehicles" / "custom_cnn"
    card = Card(
        builder="gradlens:custom_cnn",
        arguments=WIDTHS,
        classes=CLASSES,
        preprocess=Preprocessing(input_size=(3, 16, 16)),
        training=training,
    )
    card = checkpoints.save(folder, module, card)
    model = checkpoints.load("custom_cnn", zoo=root / "zoo")
    scores = workflow.scores_on(model, images, Runtime(device="cpu", quiet=True))
    checkpoints.write_card(folder, card.with_scores(scores, "colours"))
    return root


@pytest.fixture
def zoo(place: Path, tmp_path: Path) -> Path:
    """A copy of the zoo, to be lied in."""
    return Path(shutil.copytree(place / "zoo", tmp_path / "zoo"))


def run(command: Any, *args: str | Path) -> Result:
    return CliRunner().invoke(command, [*map(str, args)], standalone_mode=False)


def verify(zoo: Path, *args: str | Path) -> Result:
    return run(zoo_command, "verify", "--zoo", zoo, "--device", "cpu", "--quiet", *args)


def change_card(zoo: Path, **fields: Any) -> None:
    """Change the card and everything generated from it: a lie that only recomputing can find."""
    folder = zoo / "vehicles" / "custom_cnn"
    checkpoints.write_card(folder, checkpoints.read_card(folder).model_copy(update=fields))


def test_a_true_card_is_found_true(zoo: Path, place: Path) -> None:
    score = checkpoints.read_card(zoo / "vehicles" / "custom_cnn").score("colours")
    assert score is not None
    assert score.n == 24
    assert score.value > 0.6, "a score at chance would be that of other weights too"
    done = verify(zoo, "--json")
    assert done.return_value == 0, done.stdout
    document = json.loads(done.stdout)
    assert document["models"] == [{"name": "vehicles/custom_cnn", "ok": True}]
    claims = [c["claim"] for c in document["checks"]]
    assert claims == [
        "checksum", "parameters", "FLOPs", "size", "other fields", "accuracy on colours", "macro_f1 on colours"
    ]  # fmt: skip
    assert all(c["ok"] for c in document["checks"])


def bend_scores(zoo: Path, by: float) -> None:
    card = checkpoints.read_card(zoo / "vehicles" / "custom_cnn")
    bent = [
        s.model_copy(update={f: getattr(s, f) + by for f in ("value", "low", "high")}) if s.metric == "accuracy" else s
        for s in card.scores
    ]
    change_card(zoo, scores=tuple(bent))


def swap_weights(zoo: Path) -> None:
    """Other weights, and a checksum that fits them: only the scores can tell."""
    folder = zoo / "vehicles" / "custom_cnn"
    card = checkpoints.read_card(folder)
    checkpoints.save(folder, build_seeded("gradlens:custom_cnn", WIDTHS, 3, seed=5), card)


def edit_config(zoo: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = zoo / "vehicles" / "custom_cnn" / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


LIES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another score": (lambda z: bend_scores(z, -0.2), "accuracy on colours"),
    "other weights": (swap_weights, "accuracy on colours"),
    "fewer parameters": (lambda z: change_card(z, parameters=7), "parameters"),
    "fewer FLOPs": (lambda z: change_card(z, flops=7), "FLOPs"),
    "another size": (lambda z: change_card(z, size=7), "size"),
    "another checksum": (lambda z: change_card(z, sha256="0" * 64), "checkpoint"),
    "another order of labels": (lambda z: edit_config(z, lambda c: c["label_names"].reverse()), "other fields"),
    "a broken card": (lambda z: edit_config(z, lambda c: c["gradlens"].pop("builder")), "checkpoint"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_card_that_lies_fails(lie: str, zoo: Path) -> None:
    tell, claim = LIES[lie]
    tell(zoo)
    done = verify(zoo, "--json")
    assert done.return_value == 1
    document = json.loads(done.stdout)
    assert document["models"] == [{"name": "vehicles/custom_cnn", "ok": False}]
    assert claim in [c["claim"] for c in document["checks"] if c["ok"] is False]
    shown = verify(zoo)
    assert "the card is wrong" in shown.stdout
    assert f"  {claim}: the card says" in shown.stdout


def test_another_test_set_than_the_cards(zoo: Path, place: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(place / "colours", tmp_path / "other" / "colours"))
    shutil.copy(other / "red" / "1.png", other / "blue" / "1.png")
    done = verify(zoo, "--test", other, "--json")
    assert done.return_value == 1
    assert "images of colours" in [c["claim"] for c in json.loads(done.stdout)["checks"] if c["ok"] is False]


def test_what_cannot_be_checked_is_said(zoo: Path) -> None:
    card = checkpoints.read_card(zoo / "vehicles" / "custom_cnn")
    settings = {"data": {"test": "/nowhere/colours"}}
    change_card(zoo, training=card.training.model_copy(update={"settings": settings}))
    done = verify(zoo)
    assert done.return_value == 0
    assert "true as far as it could be checked" in done.stdout
    assert "not computed: no" in done.stdout
    assert verify(zoo, "--strict").return_value == 3
    change_card(zoo, scores=(), test="")
    assert "no score on a test set" in verify(zoo).stdout


def test_only_checkpoints_can_be_verified(zoo: Path) -> None:
    assert isinstance(verify(zoo, "timm:resnet18").exception, NotFoundError)
    assert isinstance(verify(zoo, "densenet").exception, NotFoundError)


# ---------------------------------------------------------------- list and show


def test_list_shows_models_and_faults(zoo: Path) -> None:
    broken = zoo / "mine" / "broken"
    broken.mkdir(parents=True)
    (broken / "config.json").write_text("{")
    shown = run(zoo_command, "list", "--zoo", zoo).stdout.splitlines()
    assert shown[0].split()[:3] == ["name", "architecture", "parameters"]
    score = checkpoints.read_card(zoo / "vehicles" / "custom_cnn").score("colours")
    assert score is not None
    assert f"{score.value:.1%}" in shown[1]
    assert f"{score.low:.1%} – {score.high:.1%}" in shown[1]
    assert shown[2].startswith("mine/broken: ")
    document = json.loads(run(zoo_command, "list", "--zoo", zoo, "--json").stdout)
    assert document["schema"] == 1
    good, bad = document["models"]
    assert (good["name"], good["test"]["value"]) == ("vehicles/custom_cnn", score.value)
    assert good["input_size"] == [3, 16, 16]
    assert good["parameters"] == sum(p.numel() for p in build_seeded("gradlens:custom_cnn", WIDTHS, 3).parameters())
    assert "is not JSON" in bad["problem"]


def test_show(zoo: Path) -> None:
    shown = run(zoo_command, "show", "custom_cnn", "--zoo", zoo).stdout
    for part in ("vehicles/custom_cnn", "3: blue, green, red", "16×16, bilinear", "colours (test)", "macro_f1"):
        assert part in shown
    document = json.loads(run(zoo_command, "show", "custom_cnn", "--zoo", zoo, "--json").stdout)
    assert document["models"][0]["classes"] == list(CLASSES)
    assert isinstance(run(zoo_command, "show", "custom_cn", "--zoo", zoo).exception, NotFoundError)
    assert isinstance(run(zoo_command, "show", "timm:resnet18", "--zoo", zoo).exception, NotFoundError)
