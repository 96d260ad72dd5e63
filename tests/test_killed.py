"""An evaluation that is killed at any moment goes on where it was, and ends with the same tables to the byte."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gradlens.records import Preprocess
from gradlens.runtime import Runtime
from gradlens.shift import predict as predict_module
from gradlens.workflows.measure import Request, leave, shift_eval
from gradlens.zoo import checkpoints
from gradlens.zoo.build import build
from gradlens.zoo.cards import Card, Preprocessing

CLASSES = ("ash", "beech", "cedar", "dogwood")
MODELS = ("one", "two", "three")
PER_CLASS = 40
KILLS = 20


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small random networks, a test set and a folder of other photographs."""
    root = tmp_path_factory.mktemp("killed")
    arguments = {"widths": [4, 4, 4, 4]}
    for seed, name in enumerate(MODELS):
        torch.manual_seed(seed)
        module = build("gradlens:custom_cnn", arguments, len(CLASSES))
        preprocess = Preprocessing.of(Preprocess((3, 32, 32)))
        card = Card(builder="gradlens:custom_cnn", arguments=arguments, classes=CLASSES, preprocess=preprocess)
        checkpoints.save(root / "zoo" / "trees" / name, module, card)
    rng = np.random.default_rng(0)
    for dataset in ("test", "web"):
        for name in CLASSES:
            folder = root / dataset / name
            folder.mkdir(parents=True)
            for i in range(PER_CLASS):
                pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:02d}.jpg")
    return root


def evaluate(place: Path, out: Path, cache: Path) -> None:
    """A whole evaluation, without pictures; outputs are kept after every pass, so that there is much to lose."""
    os.environ["GRADLENS_CACHE"] = str(cache)
    leave.draw = lambda *_: None  # type: ignore[assignment]
    predict_module.FLUSH_IMAGES = predict_module.CPU_PASS
    sets = {"in_dist": str(place / "test"), "probes": (str(place / "web"),)}
    request = Request(out=out, models=("trees/*",), zoo=place / "zoo", resamples=200, command="gradlens", **sets)  # type: ignore[arg-type]
    shift_eval(request, Runtime(device="cpu", quiet=True, workers=1))


def tables(out: Path) -> dict[str, bytes]:
    """Everything that holds a number, by name; ``run.json`` and ``costs.csv`` have times and are left out."""
    kept = [p for p in sorted(out.rglob("*")) if p.suffix in (".csv", ".parquet", ".md", ".tex")]
    kept.remove(out / "costs.csv")
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in kept}


@pytest.mark.fault("shift-eval", "killed", strikes=20)
def test_killed_twenty_times_ends_with_the_same_bytes(
    place: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """SIGKILL at random moments, half of the time with an empty cache; afterwards nothing half written is believed."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["gradlens.workflows.measure.computed", __name__])

    def start(out: Path, cache: Path) -> multiprocessing.process.BaseProcess:
        process = server.Process(target=evaluate, args=(place, out, cache))
        process.start()
        return process

    def whole(out: Path, cache: Path) -> float:
        started = time.monotonic()
        process = start(out, cache)
        process.join()
        assert process.exitcode == 0
        return time.monotonic() - started

    whole(tmp_path / "warm", tmp_path / "warm-cache")  # the server's own start is not to be timed
    seconds = whole(tmp_path / "never-killed", tmp_path / "cache-0")
    expected = tables(tmp_path / "never-killed")
    assert {"summary.csv", "gaps.csv", "pairs.csv"} < set(expected)
    assert sum(name.startswith("predictions/") for name in expected) == 2 * len(MODELS)

    moments = random.Random(0)
    killed, attempts, unfinished, kept = 0, 0, 0, set()
    while killed < KILLS:
        attempts += 1
        assert attempts <= 5 * KILLS
        cache = tmp_path / ("cache-1" if killed < KILLS // 2 else f"cache-{killed}")
        process = start(tmp_path / "killed", cache)
        early = 0.2 if killed % 2 else 1.0  # the networks run first, and soon they are done
        process.join(moments.uniform(0.05, 0.9) * early * seconds)
        if process.exitcode is None:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            killed += 1
        else:  # the first run was timed while the machine was busier
            assert process.exitcode == 0
            seconds *= 0.8
        if (tmp_path / "killed" / "run.json").exists():  # it says that the folder is whole, so it is
            assert tables(tmp_path / "killed") == expected
        else:
            unfinished += 1
        kept.add(len(list((cache / "outputs").rglob("*.parquet"))))
    assert unfinished >= KILLS // 2  # a run that is under way has no run.json
    assert len(kept) > 2  # it was caught at different stages
    record_property("strikes", killed)
    for cache in ("cache-1", f"cache-{KILLS - 1}"):
        whole(tmp_path / "killed", tmp_path / cache)
        assert tables(tmp_path / "killed") == expected
        assert (tmp_path / "killed" / "run.json").is_file()
