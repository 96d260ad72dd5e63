"""``gradlens bench``: counts beside published ones, times and memory beside known ones, what it prints and writes."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision import models

from gradlens.cli.main import main
from gradlens.errors import ModelError, TrainingError
from gradlens.figures.accuracy_cost import accuracy_cost
from gradlens.records import LoadedModel, Preprocess
from gradlens.runtime import Runtime
from gradlens.train import freezing
from gradlens.train.epoch_time import epoch_time
from gradlens.workflows.bench import Cost, Measures, columns, cost_of, efficient, points
from gradlens.zoo import checkpoints
from gradlens.zoo.build import build, build_seeded
from gradlens.zoo.cards import Card, Preprocessing, Score
from gradlens.zoo.profile import profile
from gradlens.zoo.timing import growth, latency, throughput

CPU = Runtime(device="cpu", quiet=True)
TINY = {"widths": [4, 4, 4, 4]}

# ---------------------------------------------------------------- counts


PUBLISHED = """convnext_tiny densenet161 efficientnet_b0 googlenet mnasnet0_75 mobilenet_v2 mobilenet_v3_small resnet50
shufflenet_v2_x2_0 swin_t vgg16 vit_b_16 wide_resnet50_2"""


@pytest.mark.parametrize("name", PUBLISHED.split())
def test_counts_are_those_that_torchvision_publishes(name: str) -> None:
    """Parameters to the last one; multiply-accumulates (torchvision calls them FLOPs) to its three decimals."""
    published = models.get_model_weights(name).IMAGENET1K_V1
    side = published.transforms().crop_size[0]
    with torch.device("meta"):  # counting needs shapes, no numbers
        cost = profile(build(f"torchvision:{name}"), (3, side, side))
    assert cost.parameters == published.meta["num_params"]
    assert round(cost.macs / 1e9, 3) == published.meta["_ops"]
    assert cost.flops == 2 * cost.macs


@pytest.mark.parametrize(
    ("builder", "classes", "parameters"),
    [
        ("torchvision:vgg16", 37, 134_412_133),
        ("torchvision:efficientnet_b0", 10, 4_020_358),
        ("timm:efficientnet_b0", 10, 4_020_358),
        # fastai 2.8's own, which counts 23,983,304 and 21,816,904 with 1,000 classes
        ("gradlens:xresnext34", 10, 23_475_434),
        ("timm:resnet34d", 10, 21_309_034),
    ],
)
def test_parameters_of_networks_with_other_classes(builder: str, classes: int, parameters: int) -> None:
    with torch.device("meta"):
        module = build(builder, {}, classes)
    assert sum(p.numel() for p in module.parameters()) == parameters


@pytest.mark.parametrize(
    ("builder", "every", "head"),
    [("torchvision:mobilenet_v2", 2_236_682, 12_810), ("torchvision:resnet18", 11_181_642, 5_130)],
)
def test_frozen_backbones_leave_the_head(builder: str, every: int, head: int) -> None:
    module = build_seeded(builder, {}, 10)
    assert profile(module, (3, 32, 32)).trainable == every
    freezing.choose(module, 32, ("head",))
    cost = profile(module, (3, 32, 32))
    assert (cost.parameters, cost.trainable) == (every, head)


def test_xresnext_is_fastais() -> None:
    """The work of one image as counted in fastai's own network; its blocks' groups and widths."""
    with torch.device("meta"):
        module: Any = build("gradlens:xresnext34")
        assert profile(module, (3, 224, 224)).flops == 8_363_155_456
    block = module.layer2[0]
    assert (block.conv1.groups, block.conv1.out_channels, block.conv2.groups, block.conv2.out_channels) == (
        32, 256, 1, 128,
    )  # fmt: skip
    small = build_seeded("gradlens:xresnext34", {}, 3)
    assert small(torch.randn(2, 3, 32, 32)).shape == (2, 3)


def test_attention_is_counted() -> None:
    with torch.device("meta"):
        vit = profile(build("timm:vit_tiny_patch16_224"), (3, 224, 224))
    assert vit.macs == pytest.approx(1.254e9, rel=1e-3)


def test_cost_by_hand() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
    module[0].weight.requires_grad_(False)
    module.train()
    cost = profile(module, (3, 8, 8))
    assert cost.parameters == 3 * 4 * 9 + 144 * 5 + 5
    assert cost.trainable == 144 * 5 + 5
    assert cost.macs == 3 * 4 * 9 * 36 + 144 * 5
    assert cost.size_mb == 4 * cost.parameters / 1e6
    # the convolution's output stays alive (flattening is a view of it) until the logits are there
    assert cost.activations_mb == 4 * (144 + 5) / 1e6
    assert module.training
    with pytest.raises(ModelError, match="does not take"):
        profile(module, (3, 9, 9))


# ---------------------------------------------------------------- times and memory


class Known(nn.Module):
    """Takes a known time, counts its passes by batch size, and has a known need of memory per image."""

    def __init__(self, seconds: Callable[[int], float] = lambda n: 0.0, floats: int = 0, most: int = 10**6) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.seconds, self.floats, self.most = seconds, floats, most
        self.passes: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("as a device says it")
        time.sleep(self.seconds(len(self.passes)))
        spent = torch.ones(len(x), self.floats).sum() if self.floats else 0.0
        logits: torch.Tensor = self.fc(x.mean((2, 3))) + 0 * spent
        return logits


def test_latency_is_the_median_of_the_passes_after_a_warm_up() -> None:
    """Slow passes in the warm-up do not count; of one slow pass in five the median knows nothing, the 95th percentile
    does."""
    module = Known(lambda i: 0.03 if i <= 10 or i in (20, 30, 40) else 0.002)
    found = latency(module, (3, 8, 8), CPU, passes=50)
    assert found.passes == 50
    assert module.passes == [1] * 60
    assert 2 <= found.median_ms < 28
    module = Known(lambda i: 0.03 if i % 5 == 0 else 0.002)
    found = latency(module, (3, 8, 8), CPU, passes=20)
    assert found.median_ms < 28 < found.p95_ms


def test_throughput_counts_images() -> None:
    module = Known(lambda i: 0.01)
    found = throughput(module, (3, 8, 8), CPU, batch_size=8, passes=4)
    assert module.passes == [1, 8, *[8] * 4]
    assert found.images_per_second is not None
    assert 80 < found.images_per_second <= 800  # 8 images in 10 ms; a busy machine may take ten times as long
    assert (found.batch_size, found.passes) == (8, 4)


def test_a_batch_that_the_memory_does_not_hold_is_said() -> None:
    found = throughput(Known(most=4), (3, 8, 8), CPU, batch_size=8)
    assert (found.images_per_second, found.peak_mb, found.passes) == (None, None, 0)
    model = LoadedModel("known", Known(most=4), ("a", "b"), Preprocess((3, 8, 8)), "", weights="random")
    cost = cost_of(model, CPU, Measures(passes=2, batch_sizes=(2, 8)))
    cells = {c.heading: c.cells for c in columns([cost])}
    assert cells["batch 8", "images/s"] == ("too large",)
    assert cells["batch 2", "images/s"] != ("too large",)


def test_peak_memory_is_what_a_pass_takes() -> None:
    with growth(torch.device("cpu")) as small:
        pass
    if small.bytes is None:
        pytest.skip("this system does not count a stretch's peak memory")
    assert small.bytes < 5e6
    for images in (1, 3):
        found = throughput(Known(floats=20_000_000), (3, 8, 8), CPU, images, passes=1)
        assert found.peak_mb == pytest.approx(80 * images, abs=6)
    lean = throughput(Known(), (3, 8, 8), CPU, 3, passes=1)  # the peak before is forgotten
    assert lean.peak_mb is not None
    assert lean.peak_mb < 6


def test_an_epoch_is_extrapolated_from_the_training_loop() -> None:
    module = Known(lambda i: 0.02)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    found = epoch_time(module, (3, 8, 8), 2, CPU, images=1000, batch_size=4, steps=3)
    assert [n for n in module.passes if n == 4] == [4] * 5  # two to warm up
    assert found.steps == 3
    assert 20 <= found.step_ms < 500
    assert found.minutes == 250 * found.step_ms / 60_000
    assert any(not torch.equal(before[k], v) for k, v in module.state_dict().items())
    with pytest.raises(TrainingError, match="less than one batch of 32"):
        epoch_time(module, (3, 8, 8), 2, CPU, images=10)
    with pytest.raises(TrainingError, match="square images, this network takes 8×9"):
        epoch_time(module, (3, 8, 9), 2, CPU, images=100)


def test_an_epoch_of_a_frozen_backbone_trains_the_head_alone() -> None:
    module = build_seeded("timm:resnet18", {"channels": [8, 8, 8, 8]}, 4)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    found = epoch_time(module, (3, 32, 32), 4, CPU, images=64, batch_size=4, steps=1, train=("head",))
    moved = {k for k, v in module.state_dict().items() if not torch.equal(before[k], v)}
    assert moved == {"fc.weight", "fc.bias"}
    if found.peak_mb is not None:
        whole = epoch_time(module, (3, 32, 32), 4, CPU, images=64, batch_size=64, steps=1)
        assert whole.peak_mb is not None
        assert whole.peak_mb > found.peak_mb


# ---------------------------------------------------------------- worth the cost


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), max_size=12))
def test_pareto_front(pairs: list[tuple[int, int]]) -> None:
    """Second opinion: from the cheapest on, whoever beats all that were cheaper (equals of a front point included)."""
    front, best = set(), -1
    for cost, value in sorted(set(pairs), key=lambda p: (p[0], -p[1])):
        if value > best:
            front.add((cost, value))
            best = value
    assert efficient([c for c, _ in pairs], [v for _, v in pairs]) == [p in front for p in pairs]


def scored(name: str, parameters: int, accuracy: float, dataset: str = "photos") -> Cost:
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, parameters // 12, bias=False))
    score = Score(dataset=dataset, metric="accuracy", value=accuracy, low=accuracy - 0.02, high=accuracy + 0.02,
                  n=100, interval="exact 95 %")  # fmt: skip
    return Cost(name, "", "", profile(module, (3, 2, 2)), score=score)


def test_figure_compares_models_of_one_test_set() -> None:
    costs = [scored("a", 120, 0.8), scored("b", 240, 0.7), scored("c", 360, 0.9), scored("d", 120, 0.5, "drawings")]
    drawn = points(costs)
    assert set(drawn) == {"photos", "drawings"}
    front = {(p.model, p.kind) for p in drawn["photos"] if p.efficient}
    assert front == {(m, k) for m in "ac" for k in ("parameters (million)", "GFLOPs per image")}
    figure = accuracy_cost(drawn["photos"], "photos")
    assert [ax.get_xlabel() for ax in figure.axes] == ["parameters (million)", "GFLOPs per image"]
    (line,) = [line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post"]
    assert [tuple(map(float, p)) for p in line.get_xydata()] == [(0.00012, 0.8), (0.00036, 0.9), (0.00036, 0.9)]
    with pytest.raises(ValueError, match="at least one"):
        accuracy_cost([], "photos")


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("zoo")
    for seed, name in enumerate(("custom_cnn", "other")):
        card = Card(builder="gradlens:custom_cnn", arguments=TINY, classes=("blue", "green", "red"),
                    preprocess=Preprocessing(input_size=(3, 16, 16)))  # fmt: skip
        folder = root / "vehicles" / name
        card = checkpoints.save(folder, build_seeded("gradlens:custom_cnn", TINY, 3, seed), card)
        score = Score(dataset="colours", metric="accuracy", value=0.5 + seed / 4, low=0.4, high=0.9, n=8, interval="x")
        checkpoints.write_card(folder, card.with_scores([score], "colours"))
    return root


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def bench(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(["bench", "--device", "cpu", *map(str, args)])
    captured = capsys.readouterr()
    return int(left.value.code or 0), captured.out, captured.err


def test_command_counts_and_times(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--zoo", zoo, "--model", "custom_cnn", "--batch-size", "4,2", "--batch-size", 4, "--passes", 3)
    code, out, _ = bench(capsys, *arguments, "--quiet", "--json")
    document = json.loads(out)
    assert (code, document["device"], document["precision"], document["threads"]) == (
        0, "cpu", "fp32", torch.get_num_threads(),
    )  # fmt: skip
    assert document["device_name"]
    (row,) = document["models"]
    card = checkpoints.read_card(zoo / "vehicles" / "custom_cnn")
    assert (row["name"], row["parameters"], row["flops"]) == ("vehicles/custom_cnn", card.parameters, card.flops)
    assert (row["trainable"], row["flops"]) == (row["parameters"], 2 * row["macs"])
    assert 0 < row["latency_ms"] <= row["latency_p95_ms"]
    assert [t["batch_size"] for t in row["throughput"]] == [4, 2]
    assert (row["weights"], row["accuracy"], row["dataset"]) == (card.sha256, 0.5, "colours")
    assert "minutes_per_epoch" not in row
    _, out, err = bench(capsys, *arguments)
    assert f"{card.parameters:,}" in out
    assert "FLOPs are two per multiply-accumulate" in err


def test_command_writes_tables_and_a_figure(zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    code, _, _ = bench(
        capsys, "--zoo", zoo, "--passes", 2, "--batch-size", 2, "--train", "head", "--epoch-images", 1000,
        "--epoch-batch-size", 4, "--out", out, "--quiet",
    )  # fmt: skip
    assert code == 0
    rows = table(out / "bench.csv")
    card = checkpoints.read_card(zoo / "vehicles" / "custom_cnn")
    assert [r["model"] for r in rows] == ["vehicles/custom_cnn", "vehicles/other"]
    assert {r["parameters"] for r in rows} == {str(card.parameters)}
    assert {r["trainable"] for r in rows} == {str(4 * 3 + 3)}
    assert all(float(r["minutes_per_epoch"]) == pytest.approx(250 * float(r["train_step_ms"]) / 60_000) for r in rows)
    rates = table(out / "throughput.csv")
    assert [(r["model"], r["batch_size"]) for r in rates] == [(r["model"], "2") for r in rows]
    assert f"{card.parameters:,}" in (out / "tables" / "bench.md").read_text(encoding="utf-8")
    tex = (out / "tables" / "bench.tex").read_text(encoding="utf-8")
    assert tex.count(r"\begin{table*}") == tex.count(r"\end{table*}") == 2
    listed = json.loads((out / "run.json").read_text(encoding="utf-8"))["files"]
    on_disk = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert set(listed) == on_disk
    assert {"figures/accuracy-cost-colours.png", "figures/accuracy-cost-colours.pdf"} <= on_disk


def test_command_needs_no_weights_for_an_architecture(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = bench(
        capsys, "--zoo", zoo, "--model", "torchvision:shufflenet_v2_x0_5", "--passes", 0, "--offline", "--quiet",
        "--json",
    )  # fmt: skip
    (row,) = json.loads(out)["models"]
    assert (row["parameters"], row["weights"]) == (1_366_792, "random")  # torchvision's own count
    assert not {"latency_ms", "throughput", "accuracy"} & set(row)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--batch-size", "4,zero"), 2, "expected a positive whole number or auto, got 'zero'"),
        (("--epoch-images", "5"), 2, "--epoch-images 5 is less than one batch of 32"),
        (("--train", "layr9", "--passes", "0"), 1, "layr9"),
        (("--model", "custom_cn"), 1, "custom_cn"),
    ],
)
def test_command_says_what_is_wrong(
    zoo: Path, arguments: tuple[str, ...], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given_code, _, err = bench(capsys, "--zoo", zoo, "--quiet", *arguments)
    assert given_code == code
    assert says in err


def test_batch_sizes_from_a_file(zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "bench.toml"
    config.write_text("batch-size = [1, 3]\npasses = 2\n")
    _, out, _ = bench(capsys, "--config", config, "--zoo", zoo, "--model", "other", "--quiet", "--json")
    assert [t["batch_size"] for t in json.loads(out)["models"][0]["throughput"]] == [1, 3]
