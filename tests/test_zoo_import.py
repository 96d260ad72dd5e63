"""Weights from elsewhere: read without running them, fitted wholly or refused, and a published network at its score."""

from __future__ import annotations

import os
import pickle
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from gradlens.cli.zoo import command as zoo_command
from gradlens.errors import CheckpointError, GradlensError
from gradlens.records import Preprocess
from gradlens.zoo import checkpoints
from gradlens.zoo.build import build, build_seeded
from gradlens.zoo.importing import import_checkpoint
from gradlens.zoo.weights import fitted, load_state, read_state_dict

SMALL = ("gradlens:custom_cnn", {"widths": [4, 4, 4, 4]})
CIFAR10 = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return dict(build_seeded(*SMALL, 3).state_dict())


Wrap = Callable[[dict[str, torch.Tensor]], Any]
WRAPPED: dict[str, Wrap] = {
    "bare": lambda s: s,
    "ordered": OrderedDict,
    "state_dict and module.": lambda s: {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in s.items()}},
    "model": lambda s: {"model": s, "optimizer": {"state": {}, "lr": 0.1}},
    "twice nested": lambda s: {"model": {"state_dict": s}},
    "compiled": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "compiled, parallel": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    "lightning": lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}, "hyper_parameters": {"lr": 0.1}},
    "averaged": lambda s: {"n_averaged": torch.tensor(7), **{f"module.{k}": v for k, v in s.items()}},
    "averaged beside": lambda s: {"state_dict": {k: v * 0 for k, v in s.items()}, "state_dict_ema": s},
    "half": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
    "from before batch norm counted": lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
}


@pytest.mark.parametrize("how", WRAPPED)
def test_wrapped_weights_are_unwrapped(how: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(WRAPPED[how](state), tmp_path / "w.pth")
    module = build(*SMALL, 3)
    path = tmp_path / "w.pth"
    load_state(module, fitted(module, read_state_dict(path)), path)
    for name, tensor in module.state_dict().items():
        expected = state[name].half().float() if how == "half" and tensor.is_floating_point() else state[name]
        assert torch.equal(tensor, expected), name


@pytest.mark.parametrize("ending", ["safetensors", "bin", "weights"])
def test_safetensors_are_known_by_their_content(ending: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / f"w.{ending}")
    assert read_state_dict(tmp_path / f"w.{ending}").keys() == state.keys()


def test_names_that_look_wrapped_but_are_the_networks_own() -> None:
    module = torch.nn.Module()
    module.model = torch.nn.Linear(2, 3)
    assert fitted(module, module.state_dict()).keys() == {"model.weight", "model.bias"}


class Bomb:
    """Unpickling it would make a file: the proof that nothing was run is that the file is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("way", ["zip", "legacy", "bare pickle", "old protocol"])
def test_a_pickle_that_would_run_code_is_refused_by_name(
    way: str, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path, trace = tmp_path / "w.pth", tmp_path / "it-ran"
    document = {"state_dict": state, "extra": Bomb(trace)}
    if way in ("zip", "legacy"):
        torch.save(document, path, _use_new_zipfile_serialization=way == "zip")
    else:
        path.write_bytes(pickle.dumps({"extra": Bomb(trace)}, protocol=0 if way == "old protocol" else 4))
    with pytest.raises(CheckpointError, match=r"would run code \((posix|nt|os)\.mkdir\); it was not loaded") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(build(*SMALL, 3), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"would run code \(gradlens\.zoo\.custom_cnn"):
        read_state_dict(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no weight file"),
        (b"<html><body>404 Not Found</body></html>", "no weight file"),
        (b"PK\x03\x04 cut short", "no weight file"),
        (b"\x80\x02}q\x00", "no weight file"),
    ],
)
def test_what_is_no_weight_file_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_state_dict(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


def test_a_truncated_torch_file(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="no weight file"):
        read_state_dict(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"epoch": 3, "args": {"lr": 1}}, "it holds: epoch, args"),
        ({}, "it holds: nothing"),
        ([1, 2], "holds list"),
        (torch.zeros(3), "holds Tensor"),
    ],
)
def test_files_without_weights_say_what_they_hold(document: Any, message: str, tmp_path: Path) -> None:
    torch.save(document, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(tmp_path / "w.pth")


# ---------------------------------------------------------------- import


def imported(folder: Path, weights: Path, arch: str = SMALL[0], k: int = 3, **kwargs: Any) -> Any:
    kwargs = {"arguments": SMALL[1] if arch == SMALL[0] else {}, **kwargs}
    return import_checkpoint(folder, weights, arch, [f"c{i}" for i in range(k)], Preprocess((3, 32, 32)), **kwargs)


def test_misfits_are_listed_and_nothing_is_written(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    bad = {k: v for k, v in state.items() if k != "fc.bias"} | {"extra.weight": torch.zeros(2)}
    bad["stem.0.weight"] = torch.zeros(9, 3, 3, 3)
    torch.save(bad, tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as caught:
        imported(tmp_path / "zoo" / "mine" / "net", tmp_path / "w.pth")
    message = str(caught.value)
    assert "1 missing (fc.bias)" in message
    assert "1 unexpected (extra.weight)" in message
    assert "1 mis-shaped (stem.0.weight is (9, 3, 3, 3), expected (4, 3, 3, 3))" in message
    assert not list((tmp_path / "zoo").rglob("*.*"))


def test_wrong_class_count_is_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"2 mis-shaped \(fc\.weight is \(3, 4\), expected \(5, 4\)"):
        imported(tmp_path / "zoo" / "mine" / "net", tmp_path / "w.pth", k=5)


def test_a_model_is_not_replaced_unasked(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pth")
    folder = tmp_path / "zoo" / "mine" / "net"
    imported(folder, tmp_path / "w.pth")
    kept = checkpoints.load("mine/net", zoo=tmp_path / "zoo").module.state_dict()
    assert all(torch.equal(kept[k], v) for k, v in state.items()), "imported weights keep every bit"
    with pytest.raises(CheckpointError, match="--force"):
        imported(folder, tmp_path / "w.pth")
    torch.save({k: v * 2 if v.is_floating_point() else v for k, v in state.items()}, tmp_path / "w.pth")
    imported(folder, tmp_path / "w.pth", replace=True)
    loaded = checkpoints.load("mine/net", zoo=tmp_path / "zoo").module
    assert torch.equal(loaded.fc.weight, 2 * state["fc.weight"])


def test_networks_of_a_fixed_size_are_built_for_the_asked_one(tmp_path: Path) -> None:
    builder, arguments = "timm:vit_tiny_patch16_224", {"embed_dim": 24, "depth": 1, "num_heads": 2}
    torch.save(build_seeded(builder, {**arguments, "img_size": 32}, 3).state_dict(), tmp_path / "w.pth")
    card = imported(tmp_path / "zoo" / "mine" / "vit", tmp_path / "w.pth", builder, arguments=arguments)
    assert card.arguments == {**arguments, "img_size": 32}
    assert checkpoints.load("mine/vit", zoo=tmp_path / "zoo").preprocess.size == (32, 32)


# ---------------------------------------------------------------- the command


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(zoo_command, [*map(str, args), "--quiet"], standalone_mode=False)


def test_the_command_imports_what_a_person_has(
    state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "w.pth")
    (tmp_path / "names.txt").write_text("cat\n\n dog \nfish, gold\n", encoding="utf-8")
    done = run(
        "import", "mine/net", "--weights", tmp_path / "w.pth", "--arch", SMALL[0], "--arg", "widths=[4, 4, 4, 4]",
        "--classes", tmp_path / "names.txt", "--input-size", 40, "--mean", "0.5", "--std", "0.1,0.2,0.3",
        "--interpolation", "bicubic", "--crop-pct", "0.875", "--zoo", tmp_path / "zoo",
    )  # fmt: skip
    assert done.exception is None, done.exception
    model = checkpoints.load("mine/net", zoo=tmp_path / "zoo")
    assert model.classes == ("cat", "dog", "fish, gold")
    assert model.preprocess == Preprocess((3, 40, 40), "bicubic", 0.875, "center", (0.5, 0.5, 0.5), (0.1, 0.2, 0.3))
    assert model.card["source"] == "w.pth"
    assert model.card["preprocess"]["decode"]
    assert "# mine/net" in (tmp_path / "zoo" / "mine" / "net" / "README.md").read_text(encoding="utf-8")
    listed = run("list", "--zoo", tmp_path / "zoo")
    assert "mine/net" in listed.stdout


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--classes", "a,b,a", "'a' comes twice"),
        ("--classes", "absent.txt", "there is no file absent.txt"),
        ("--mean", "1,2", "expected one or three numbers"),
        ("--std", "0,1,1", "positive"),
        ("--arg", "widths", "KEY=VALUE"),
        ("--arg", "num_classes=3", "comes from --classes"),
        ("--input-size", "0", "range"),
        ("--weights", "absent.pth", "does not exist"),
    ],
)
def test_wrong_usage_is_refused(
    option: str, value: str, message: str, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(state, tmp_path / "w.pth")
    given = {"--weights": str(tmp_path / "w.pth"), "--arch": SMALL[0], "--classes": "a,b,c", "--input-size": "32"}
    flat = [part for pair in (given | {option: value}).items() for part in pair]
    refused = CliRunner().invoke(zoo_command, ["import", "mine/net", *flat, "--zoo", str(tmp_path / "zoo")])
    assert refused.exit_code == 2
    assert message in refused.output
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize("name", ["../net", "a/b/c", "/net", ".net", "a/.b", ""])
def test_names_stay_inside_the_zoo(name: str, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"x")
    refused = CliRunner().invoke(
        zoo_command,
        ["import", name, "--weights", str(tmp_path / "w.pth"), "--arch", "timm:resnet18", "--classes", "2",
         "--input-size", "32"],
    )  # fmt: skip
    assert refused.exit_code == 2
    assert "expected MODEL or COLLECTION/MODEL" in refused.output


# ---------------------------------------------------------------- a published network


def test_published_weights_of_an_unknown_network(shared_data: Path, tmp_path: Path) -> None:
    """He et al.'s ResNet-20 with option A: 269,722 parameters, in no library; its file lies nested and prefixed."""
    arch = shutil.copy(Path(__file__).with_name("resnet20.py"), tmp_path / "net.py")
    weights = shared_data / "third-party" / "resnet20-12fca82f.th"
    done = run(
        "import", "mine/resnet20", "--weights", weights, "--arch", f"{arch}:resnet20", "--classes", CIFAR10,
        "--input-size", 32, "--zoo", tmp_path / "zoo",
    )  # fmt: skip
    assert done.exception is None, done.exception
    Path(arch).unlink()  # the checkpoint stands alone
    model = checkpoints.load("mine/resnet20", zoo=tmp_path / "zoo")
    assert model.card["parameters"] == 269_722
    assert model.classes == tuple(CIFAR10.split(","))
    with pytest.raises(GradlensError, match=r"\d+ missing .* unexpected"):
        imported(tmp_path / "zoo" / "mine" / "wrong", weights, "timm:resnet18", k=10)


@pytest.mark.slow
def test_published_weights_score_what_was_published(shared_data: Path, tmp_path: Path) -> None:
    """81.03 % of the 10,000 re-encoded CIFAR-10 test images; the card keeps it and `zoo verify` finds it again."""
    done = run(
        "import", "mine/resnet20", "--weights", shared_data / "third-party" / "resnet20-12fca82f.th",
        "--arch", f"{Path(__file__).with_name('resnet20.py')}:resnet20", "--classes", CIFAR10, "--input-size", 32,
        "--test", shared_data / "cifar10-test.parquet", "--zoo", tmp_path / "zoo",
    )  # fmt: skip
    assert done.exception is None, done.exception
    card = checkpoints.read_card(tmp_path / "zoo" / "mine" / "resnet20")
    score = card.score("cifar10-test")
    assert score is not None
    assert (round(score.value, 4), score.n) == (0.8103, 10_000)
