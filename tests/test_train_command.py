"""What ``gradlens train`` does beyond a recipe: weights to start from, strategies, seeds, logs, curves, a dry run."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from click.testing import CliRunner, Result
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file
from test_train_workflow import CLASSES, folder_of

from gradlens import report
from gradlens.cli.main import cli
from gradlens.errors import InstallationError, NotFoundError
from gradlens.figures.learning_curves import TrainingRun, learning_curves, run_of
from gradlens.runtime import Runtime
from gradlens.train import recipes
from gradlens.train.logs import LOGS, open_logs
from gradlens.train.loop import Epoch
from gradlens.workflows import train as workflow
from gradlens.zoo import checkpoints

QUIET = Runtime(device="cpu", quiet=True)
SHAPES = ("dot", "line")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe on three shapes, its checkpoint, and another set of two classes."""
    root = tmp_path_factory.mktemp("command")
    folder_of(root / "train", 20, 0)
    folder_of(root / "test", 6, 1)
    two = folder_of(root / "two", 16, 2, CLASSES[:2])
    for old, new in zip(CLASSES[:2], SHAPES, strict=True):
        (two / old).rename(two / new)
    (root / "shapes.toml").write_text(
        textwrap.dedent(f"""
        title = "three shapes"
        collection = "shapes"
        input_size = 16
        epochs = 3
        batch_size = 16
        seed = 4
        optimiser.lr = 0.01
        data = {{train = "{root}/train", select_fraction = 0.2, test = "{root}/test"}}
        [models.small]
        builder = "gradlens:custom_cnn"
        arguments = {{widths = [8, 16], residuals = [1]}}
        """)
    )
    workflow.train(
        recipes.load(root / "shapes.toml", "small"), root / "zoo" / "shapes" / "small", QUIET, work=root / "w"
    )
    return root


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["train", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def moved(place: Path) -> dict[str, Any]:
    """What the command printed of a training in two phases that starts from the first checkpoint."""
    result = run(
        place / "shapes.toml", "--model", "small", "--data", place / "two", "--pretrained", place / "zoo/shapes/small",
        "--strategy", "two-phase:last:1", "--epochs", 3, "--log", "tensorboard", "--out", place / "zoo/two/small",
        "--work", place / "work", "--class-weights", "balanced", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (document,) = json.loads(result.stdout)["models"]
    document["stderr"] = result.stderr
    return dict(document)


def test_a_training_that_starts_from_another_checkpoint(moved: dict[str, Any], place: Path) -> None:
    training = moved["training"]
    source = checkpoints.read_card(place / "zoo/shapes/small")
    card = checkpoints.read_card(place / "zoo/two/small")
    start = training["start"]
    assert (start["weights"], start["new_head"], start["missing"]) == (source.sha256, True, [])
    head = 2 * (16 + 1)
    assert start["taken"] == card.parameters - head
    assert training["phases"][0]["parameters"] == head
    assert [p["parts"][0] for p in training["phases"]] == ["head", "head"]
    assert sum(p["epochs"] for p in training["phases"]) == 3
    assert training["settings"]["class_weights"] == "balanced"
    # the backbone was given images as it knows them, not as these images' own statistics would have them
    assert card.preprocess.mean == source.preprocess.mean
    assert f"trains {head} of" in moved["stderr"]
    assert "the classifier is new" in moved["stderr"]


def test_its_card_tells_how_it_came_about(moved: dict[str, Any], place: Path) -> None:
    text = (place / "zoo/two/small/README.md").read_text()
    assert f"`{moved['training']['start']['source']}`" in text
    assert "strategy `two-phase:last:1`" in text
    assert "| 1 | 1 | head | 34 of " in text
    rows = [line for line in text.splitlines() if line.endswith(" |") and line.split("|")[1].strip()[:1].isdigit()]
    assert len(rows) == 2 + 3  # phases, epochs
    kept = moved["training"]["kept"]
    assert f"| {kept} (kept) |" in text
    assert checkpoints.stale_fields(place / "zoo/two/small", checkpoints.read_card(place / "zoo/two/small")) == []


def test_logs_and_curves_lie_in_the_work_folder(moved: dict[str, Any], place: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert {"metrics.jsonl", "learning_curves.png", "learning_curves.pdf", "class_distribution.png"} <= {
        p.name for p in (place / "work").iterdir()
    }
    events = EventAccumulator(str(place / "work/tensorboard"))
    events.Reload()
    history = moved["training"]["history"]
    shown = [e.value for e in events.Scalars("accuracy/select")]
    assert shown == pytest.approx([row["select_accuracy"] for row in history])
    steps = [e.step for e in events.Scalars("loss/batch")]
    assert steps == list(range(1, len(steps) + 1))
    assert [e.step for e in events.Scalars("loss/train")] == [len(steps) // 3 * k for k in (1, 2, 3)]


def test_a_finished_training_leaves_its_page_card_and_run(moved: dict[str, Any], place: Path) -> None:
    work = place / "work"
    told = json.loads((work / "run.json").read_text())
    assert (told["verb"], told["models"][0]["name"]) == ("train", "two/small")
    assert told["models"][0]["weights"] == checkpoints.read_card(place / "zoo/two/small").sha256
    assert "--strategy two-phase:last:1" in told["command"]
    listed = {"run.json", "report.html", "metrics.jsonl", "cards/two--small.json", "learning_curves.png"}
    assert listed <= set(told["files"])
    assert all((work / name).is_file() for name in told["files"])
    with Image.open(work / "learning_curves.png") as curves:
        assert json.loads(curves.info["gradlens"])["weights"] == {"two/small": told["models"][0]["weights"]}
    card = json.loads((work / "cards/two--small.json").read_text())
    assert card["training"]["history"] == moved["training"]["history"]
    page = (work / "report.html").read_bytes()
    assert b"two-phase:last:1" in page
    assert report.build(work).read_bytes() == page


def test_the_last_epochs_weights_are_there_where_another_was_kept(place: Path, tmp_path: Path) -> None:
    settings = recipes.load(place / "shapes.toml", "small", {"optimiser.lr": 0.3, "epochs": 4, "seed": 1})
    card = workflow.train(settings, tmp_path / "zoo/shapes/small", QUIET, work=tmp_path / "work").card
    assert card.training is not None
    last = tmp_path / "work" / workflow.LAST
    assert last.exists() == (card.training.kept != 4)
    if last.exists():
        state = load_file(last)
        assert state.keys() == load_file(tmp_path / "zoo/shapes/small" / checkpoints.WEIGHTS).keys()


def test_another_seed_is_part_of_the_name(place: Path) -> None:
    def name(**changes: Any) -> str:
        return workflow.checkpoint_name(recipes.load(place / "shapes.toml", "small", changes), 4)

    assert name() == "small"
    assert name(seed=0) == "small-s0"
    assert (
        workflow.checkpoint_name(recipes.load(place / "shapes.toml", "timm:resnet10t", {"seed": 1}), 4)
        == "resnet10t-s1"
    )


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_dry_run_trains_nothing(form: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [
        place / "shapes.toml", "--model", "small", "--data", place / "two", "--pretrained", place / "zoo/shapes/small",
        "--strategy", "two-phase", "--epochs", 3, "--seed", 2, "--dry-run",
    ]  # fmt: skip
    result = run(*arguments, *(["--json"] if form == "json" else []))
    assert result.exit_code == 0, result.output
    assert list(tmp_path.iterdir()) == []
    if form == "text":
        assert "checkpoints/shapes/small-s2: gradlens:custom_cnn" in result.stdout
        assert "phase 1  34 parameters (head), 1 epochs, 1 steps of " in result.stdout
        return
    (planned,) = json.loads(result.stdout)["models"]
    assert (planned["images"], planned["select_images"], planned["steps"]) == (26, 6, 3)  # the recipe holds a fifth out
    assert planned["phases"][0]["parameters"] == 34
    assert planned["minutes"] == pytest.approx(sum(p["epochs"] * p["minutes_per_epoch"] for p in planned["phases"]))
    assert 0 < planned["minutes"] < 1


def test_a_batch_is_shown_and_nothing_trained(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(place / "shapes.toml", "--model", "small", "--show-batch", "seen.png", "--set", "augment.flip=1.0")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == "seen.png"
    assert [p.name for p in tmp_path.iterdir()] == ["seen.png"]
    refused = run(place / "shapes.toml", "--model", "small", "--show-batch", "seen.png", "--dry-run")
    assert refused.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--strategy", "frozn"], "did you mean 'frozen'"),
        (["--strategy", "gradual", "--epochs", 2], "needs as many epochs"),
        (["--pretrained", "nowhere"], "takes imagenet, a model of the zoo"),
        (["--pretrained", "imagenet"], "no ImageNet weights for it"),
        (["--head", "mpl"], "kind must be own, linear, mlp"),
    ],
)
def test_wrong_use_is_one_line_before_anything_is_done(
    arguments: list[Any], said: str, place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from gradlens.cli.main import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["train", str(place / "shapes.toml"), "--model", "small", *map(str, arguments)])
    assert left.value.code == 1
    err = capfd.readouterr().err.strip()
    assert said in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "checkpoints").exists()


def test_a_network_of_another_input_size_is_built_for_the_recipes(place: Path) -> None:
    from gradlens.workflows.train_start import begin, sized

    small = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    settings = recipes.load(place / "shapes.toml", "timm:vit_tiny_patch16_224", {"arguments": small})
    assert sized(settings, QUIET).arguments == {"img_size": 16, **small}
    begun = begin(sized(settings, QUIET), CLASSES, None, QUIET)
    assert begun.module.get_parameter("pos_embed").shape == (1, 1 + 4, 24)
    assert begun.module.training


@pytest.mark.slow
def test_a_model_of_transformers_is_trained_saved_and_loaded_again(place: Path, tmp_path: Path) -> None:
    """DeiT through ``AutoModelForImageClassification``, from a folder as its ``save_pretrained`` leaves it."""
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    config = transformers.DeiTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8
    )
    deit = tmp_path / "deit"
    transformers.DeiTForImageClassification(config).save_pretrained(deit)
    side = {"height": 32, "width": 32}
    transformers.DeiTImageProcessor(
        size=side, crop_size=side, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]
    ).save_pretrained(deit)
    result = run(
        place / "shapes.toml", "--model", f"hf:{deit}", "--pretrained", "imagenet", "--strategy", "one-frozen",
        "--epochs", 2, "--out", tmp_path / "zoo/shapes/deit", "--work", tmp_path / "work", "--offline", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (document,) = json.loads(result.stdout)["models"]
    assert document["training"]["phases"][0]["parameters"] == 3 * (24 + 1)
    assert document["training"]["start"]["misshaped"] == []
    model = checkpoints.load_folder(tmp_path / "zoo/shapes/deit", "shapes/deit")
    assert (model.classes, model.preprocess.mean, model.preprocess.size) == (CLASSES, (0.5, 0.4, 0.3), (16, 16))


def test_every_option_of_the_help_stands_under_a_heading() -> None:
    text = run("--help").stdout
    for heading in ("What is trained:", "On what:", "How:", "What is left:", "Instead of training:", "Other options:"):
        assert heading in text
    assert text.index("--pretrained") < text.index("On what:") < text.index("--probe")
    assert text.count("\n  --model ") == 1


# ---------------------------------------------------------------- logs


def epoch_row(number: int) -> Epoch:
    return Epoch(number, 1 / number, 0.5, 0.6, 0.7, 0.01, 1.0)


def test_what_an_unfinished_epoch_logged_is_replaced(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def steps(first: int, count: int, loss: float, finished: bool) -> None:
        with open_logs(["tensorboard"], tmp_path) as logs:
            for step in range(first, first + count):
                logs.step({"step": step, "loss": loss, "accuracy": 0.0, "lr": 0.1})
            if finished:
                logs.epoch(epoch_row(1))

    steps(1, 4, 1.0, finished=True)
    steps(5, 2, 2.0, finished=False)  # killed in its second epoch
    steps(5, 4, 3.0, finished=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/batch")] == [
        (s, 1.0 if s < 5 else 3.0) for s in range(1, 9)
    ]


def test_weights_and_biases_writes_an_offline_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    with open_logs(["wandb"], tmp_path, name="two/small", settings={"epochs": 1}) as logs:
        logs.step({"step": 1, "loss": 1.0, "accuracy": 0.0, "lr": 0.1})
        logs.epoch(epoch_row(1))
    (written,) = tmp_path.glob("wandb/wandb/offline-run-*/run-*.wandb")
    content = written.read_bytes()
    assert b"accuracy/select" in content
    assert b"two/small" in content


def test_an_unknown_log_and_one_whose_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFoundError, match="did you mean 'tensorboard'"), open_logs(["tensorbord"], tmp_path):
        pass

    def missing() -> Any:
        raise InstallationError("pip install")

    monkeypatch.setattr(LOGS["wandb"], "package", staticmethod(missing))
    with pytest.raises(InstallationError), open_logs(["wandb"], tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- curves


def history(epochs: int, shift: float = 0.0) -> tuple[dict[str, float], ...]:
    return tuple(
        {"epoch": e, "loss": 1 / e + shift, "accuracy": 1 - 1 / (e + 1), "select_loss": 2 / e, "select_accuracy": 0.5,
         "lr": 0.1 / e}
        for e in range(1, epochs + 1)
    )  # fmt: skip


def lines(figure: Figure, panel: int) -> list[list[float]]:
    return [[float(v) for v in line.get_ydata()] for line in figure.axes[panel].lines]  # type: ignore[union-attr]


def test_curves_draw_means_bands_kept_epochs_and_phases() -> None:
    before = dict(mpl.rcParams)
    runs = [TrainingRun("a", history(4), kept=3, phases=(1, 4)), TrainingRun("a", history(4, 0.5), 4, (1, 4))]
    figure = learning_curves(runs)
    training, selection, *kept, phase = lines(figure, 0)
    assert training == pytest.approx([1.25, 0.75, 1 / 3 + 0.25, 0.5])
    assert selection == pytest.approx([2, 1, 2 / 3, 0.5])
    assert kept == [[pytest.approx(2 / 3)], [pytest.approx(0.5)]]
    assert figure.axes[0].lines[-1].get_xdata()[0] == 1.5
    assert len(phase) == 2
    (band,) = (c for c in figure.axes[0].collections[:1])
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(1.5)
    assert lines(figure, 1)[1] == pytest.approx([50] * 4)
    assert lines(figure, 2)[0] == pytest.approx([0.1, 0.05, 0.1 / 3, 0.025])
    assert dict(mpl.rcParams) == before


def test_curves_of_runs_of_different_length_and_of_a_card(place: Path) -> None:
    card = checkpoints.read_card(place / "zoo/shapes/small")
    assert card.training is not None
    told = run_of("shapes/small", card.training.model_dump(mode="json"))
    assert (len(told.history), told.kept, told.phases) == (3, card.training.kept, ())
    figure = learning_curves([told, TrainingRun("b", history(1)), TrainingRun("b", history(5))])
    assert figure.axes[0].get_xlim() == (0.5, 5.5)
    texts = [t.get_text() for legend in figure.legends for t in legend.get_texts()]
    assert texts == ["training", "selection", "kept", "b", "shapes/small"]
    with pytest.raises(ValueError, match="at least one training run"):
        learning_curves([])
    with pytest.raises(ValueError, match="at least one epoch"):
        TrainingRun("a", ())
