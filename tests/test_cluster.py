"""A sweep on a Ray cluster: what its workers leave is what one process would have left."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gradlens.errors import GradlensError
from gradlens.records import Preprocess
from gradlens.runtime import Runtime
from gradlens.workflows import study
from gradlens.workflows.measure import Request, leave, shift_eval
from gradlens.workflows.measure import cluster as cluster_module
from gradlens.workflows.measure.cluster import spread
from gradlens.zoo import checkpoints
from gradlens.zoo.build import build
from gradlens.zoo.cards import Card, Preprocessing

ray = pytest.importorskip("ray", reason="the extra gradlens[ray] is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]  # Ray's own warnings

CLASSES = ("ash", "beech", "cedar")
RUNTIME = Runtime(device="cpu", quiet=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cluster")
    arguments = {"widths": [4, 4, 4, 4]}
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        module = build("gradlens:custom_cnn", arguments, len(CLASSES))
        preprocess = Preprocessing.of(Preprocess((3, 16, 16)))
        card = Card(builder="gradlens:custom_cnn", arguments=arguments, classes=CLASSES, preprocess=preprocess)
        checkpoints.save(root / "zoo" / "trees" / name, module, card)
    rng = np.random.default_rng(0)
    for folder, count in (("test", 41), ("web", 20)):
        for i in range(count):
            path = root / folder / CLASSES[i % 3] / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def workers() -> None:
    """A cluster of two workers on this machine, which import what the test process imports."""
    paths = os.pathsep.join([str(Path(__file__).parent.parent), str(Path(__file__).parent)])
    variables = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GRADLENS_CACHE": os.environ["GRADLENS_CACHE"]}
    # on a busy machine workers of Ray's own niceness, 15, never get a turn, and late heartbeats count as a dead machine
    patient = {"worker_niceness": 0, "health_check_timeout_ms": 120_000, "health_check_initial_delay_ms": 120_000}
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20,
        runtime_env={"env_vars": variables}, _system_config=patient,
    )  # fmt: skip
    yield
    ray.shutdown()


def request_of(place: Path, out: Path) -> Request:
    return Request(
        out=out, models=("trees/*",), zoo=place / "zoo", in_dist=str(place / "test"), probes=(str(place / "web"),),
        shards=out / "shards", resamples=100, command="gradlens",
    )  # fmt: skip


@pytest.mark.usefixtures("workers")
def test_a_sweep_leaves_what_one_process_leaves(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leave, "draw", lambda *_: None)
    shift_eval(request_of(place, tmp_path / "alone"), RUNTIME)
    done = spread(request_of(place, tmp_path / "swept"), RUNTIME, "auto")
    parts = list((tmp_path / "swept" / "shards").rglob("*.parquet"))
    assert len(parts) == 4  # one for each model and set
    monkeypatch.setattr("gradlens.shift.predict._forward", lambda *_: pytest.fail("a network ran after the sweep"))
    monkeypatch.setenv("GRADLENS_CACHE", str(tmp_path / "empty"))
    shift_eval(done, RUNTIME)
    for name in ("summary.csv", "gaps.csv", "per_class.csv", "pairs.csv", "skipped.csv"):
        assert (tmp_path / "swept" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


STUDY = """
title = "Trees"
question = "Does a second run help?"
classes = 3
seeds = [0, 1]
sections = ["curves"]
resamples = 100
data = {{train = "{train}", select_fraction = 0.2, test = "{place}/web"}}
[recipe]
input_size = 16
epochs = 2
batch_size = 8
optimiser = {{name = "adam", lr = 0.01}}
[narrow.models.small]
builder = "gradlens:custom_cnn"
arguments = {{widths = [4, 4], residuals = [0]}}
"""


@pytest.mark.usefixtures("workers")
def test_a_study_leaves_what_one_process_leaves(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "trees.toml"
    train = tmp_path / "train"
    shutil.copytree(place / "test", train)
    (train / CLASSES[0] / "broken.png").write_bytes(b"no picture")
    file.write_text(STUDY.format(place=place, train=train))
    planned = study.plan(str(file), "narrow", study.Changes(), RUNTIME)
    alone = study.run(planned, tmp_path / "alone", RUNTIME)
    shared = study.run(planned, tmp_path / "shared", RUNTIME, cluster="auto")
    assert alone.trained == shared.trained == ("small", "small-s1")
    assert alone.skipped == shared.skipped
    assert any("broken.png" in one.path for one in shared.skipped)
    for run in shared.trained:
        weights = [tmp_path / d / "zoo" / "trees" / run / "model.safetensors" for d in ("alone", "shared")]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    for name in ("summary.csv", "per_class.csv", "pairs.csv", "skipped.csv"):
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert study.run(planned, tmp_path / "shared", RUNTIME, cluster="auto").trained == ()


def broken(request: Request, model: str, spec: str, runtime: Runtime) -> int:
    """A task that counts its tries and fails on one model; on the other it succeeds at the second try."""
    tries = Path(request.out) / f"{model.replace('/', '-')}-{Path(spec).name}"
    tries.parent.mkdir(parents=True, exist_ok=True)
    count = len(tries.read_text()) if tries.exists() else 0
    tries.write_text("x" * (count + 1))
    if model.endswith("one") or count == 0:
        raise OSError("the disk of this worker is full")
    return 0


@pytest.mark.usefixtures("workers")
def test_tasks_are_tried_again_and_then_reported(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "_task", broken)
    with pytest.raises(GradlensError) as told:
        spread(request_of(place, tmp_path / "run"), RUNTIME, "auto")
    assert str(told.value).startswith("2 of 4 tasks failed 3 times, the first: trees/one on ")
    assert "OSError: the disk of this worker is full" in str(told.value)
    tries = {p.name: len(p.read_text()) for p in (tmp_path / "run").iterdir() if p.is_file()}
    assert tries == {"trees-one-test": 3, "trees-one-web": 3, "trees-two-test": 2, "trees-two-web": 2}
