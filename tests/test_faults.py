"""The fault matrix: whatever goes wrong, at whatever moment, finished work is kept and no half-written file is read.

Each row is a command, each column a fault; a command that was struck is run again without the fault and must end with
the files of a run that never was, to the byte. Kills of shift-eval are in test_killed.py, of several processes in
test_distributed.py.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import test_train_workflow
import torch
from PIL import Image
from test_killed import CLASSES, evaluate, tables

import runs
from gradlens import report
from gradlens.cli.main import main
from gradlens.data.image_set import ImageSet
from gradlens.data.sources import open_source
from gradlens.records import Preprocess
from gradlens.runtime import UNFINISHED, Runtime
from gradlens.shift import predict as predict_module
from gradlens.shift.predict import predict
from gradlens.shift.store import OutputStore
from gradlens.train import recipes
from gradlens.workflows.train import train
from gradlens.zoo import checkpoints
from gradlens.zoo.build import build_seeded
from gradlens.zoo.cards import Card, Preprocessing

QUIET = Runtime(device="cpu", quiet=True, workers=2)
LEFT = 4096  # bytes, on a full disk: one page of a tmpfs, less than any result
KILLS = 6  # of each command; test_killed.py has twenty more of the evaluation


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network, two sets of photographs, a run."""
    root = tmp_path_factory.mktemp("faults")
    arguments = {"widths": [4, 4, 4, 4]}
    card = Card(
        builder="gradlens:custom_cnn", arguments=arguments, classes=CLASSES,
        preprocess=Preprocessing.of(Preprocess((3, 32, 32))),
    )  # fmt: skip
    checkpoints.save(root / "zoo" / "trees" / "one", build_seeded(card.builder, arguments, len(CLASSES)), card)
    rng = np.random.default_rng(0)
    for dataset in ("test", "web"):
        for name in CLASSES:
            (root / dataset / name).mkdir(parents=True)
            for i in range(20):
                pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / dataset / name / f"{i:02d}.png")
    accuracies = {"one": {"test": 0.9, "web": 0.6}, "two": {"test": 0.8, "web": 0.7}}
    runs.write_run(root / "run", accuracies, in_dist="test", classes=CLASSES, n=24, resamples=20)
    return root


trainable = test_train_workflow.place  # a fixture: folders of images and a recipe


# ---------------------------------------------------------------------------------------------- the commands


def run_report(place: Path, out: Path) -> None:
    report.build(out)


def run_probe_add(place: Path, out: Path) -> None:
    name = "added"
    command(["probe", "add", name, str(place / "web"), "--into", str(out), "--shift", "web", "--quiet"])


def run_train(place: Path, out: Path) -> None:
    torch.set_num_threads(1)
    recipe = recipes.load(place / "shapes.toml", "small")
    train(recipe, out / "zoo" / "shapes" / "small", Runtime(device="cpu", quiet=True, workers=1), work=out / "work")


def command(args: list[str]) -> None:
    """A command in this process; anything but success is an exception."""
    with pytest.raises(SystemExit) as left:
        main(args)
    if left.value.code:
        raise RuntimeError(f"exit {left.value.code}")


def results(out: Path) -> dict[str, bytes]:
    """What a command leaves, by name; times of day and how long it took are left out."""
    found = {}
    for path in sorted(out.rglob("*")):
        kept = path.suffix in (".csv", ".html", ".toml", ".png", ".jpg", ".safetensors")
        if kept and path.is_file() and "work" not in path.parts:
            found[path.relative_to(out).as_posix()] = path.read_bytes()
    return found


COMMANDS: dict[str, Callable[[Path, Path], None]] = {
    "report": run_report, "probe add": run_probe_add, "train": run_train,
}  # fmt: skip


def prepare(name: str, place: Path, out: Path) -> None:
    """What must lie there before the command starts: a report is built from a run's own files."""
    if name == "report" and not out.exists():
        shutil.copytree(place / "run", out)


def struck(name: str, place: Path, out: Path, cache: Path) -> None:
    """The command, in a process that will be killed."""
    os.environ["GRADLENS_CACHE"] = str(cache)
    COMMANDS[name](place, out)


# ---------------------------------------------------------------------------------------------- killed


@pytest.mark.slow
@pytest.mark.parametrize("name", [*COMMANDS])
def test_killed_at_random_moments(
    name: str,
    place: Path,
    trainable: Path,
    tmp_path: Path,
) -> None:
    """SIGKILL; what lies there afterwards is whole, and the command, given again, ends as if nothing had been."""
    data = trainable if name == "train" else place
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])
    cache = tmp_path / "cache"

    def whole(out: Path) -> float:
        prepare(name, data, out)
        started = time.monotonic()
        process = server.Process(target=struck, args=(name, data, out, cache))
        process.start()
        process.join()
        assert process.exitcode == 0
        return time.monotonic() - started

    whole(tmp_path / "warm")
    seconds = whole(tmp_path / "never")
    expected = results(tmp_path / "never")
    assert expected
    moments = random.Random(name)
    for _ in range(KILLS):
        prepare(name, data, tmp_path / "killed")
        process = server.Process(target=struck, args=(name, data, tmp_path / "killed", cache))
        process.start()
        process.join(moments.uniform(0.05, 0.95) * seconds)
        if process.exitcode is None:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        there = {k: v for k, v in results(tmp_path / "killed").items() if UNFINISHED not in k and "/." not in f"/{k}"}
        assert there.items() <= expected.items(), "a file under its own name is whole"
        if process.exitcode == 0:
            shutil.rmtree(tmp_path / "killed")
    if name == "probe add" and (tmp_path / "killed" / "added").is_dir():
        assert results(tmp_path / "killed") == expected
    else:
        whole(tmp_path / "killed")
        left = {k: v for k, v in results(tmp_path / "killed").items() if UNFINISHED not in k and "/." not in f"/{k}"}
        assert left == expected


# ---------------------------------------------------------------------------------------------- full disk


@dataclass(frozen=True)
class Disk:
    """A place whose room can be taken away and given back."""

    place: Path
    shrink: Callable[[], object]
    grow: Callable[[], object]


@pytest.fixture(params=["tmpfs", "file size limit"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A small tmpfs where one may be mounted; a limit of the size of files everywhere."""
    place = tmp_path / "disk"
    place.mkdir()
    if request.param == "tmpfs":
        mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("no tmpfs may be mounted here")

        def fill() -> None:
            room = os.statvfs(place)
            (place / "filler").write_bytes(b"\0" * (room.f_bavail * room.f_frsize - LEFT))

        yield Disk(place, fill, (place / "filler").unlink)
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield Disk(place, lambda: limit(LEFT // 8), lambda: limit(before[0]))
    limit(before[0])
    signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("name", ["report", "train", "predictions"])
def test_a_full_disk_is_one_error_and_no_half_file(
    name: str, place: Path, trainable: Path, disk: Disk, tmp_path: Path
) -> None:
    images = open_source(str(place / "test"))
    model = checkpoints.load("trees/one", zoo=place / "zoo")

    def work(out: Path) -> None:
        if name == "predictions":
            predict([model], images, QUIET, OutputStore(out))
        else:
            COMMANDS[name](trainable if name == "train" else place, out)

    out, never = disk.place / "out", tmp_path / "never"
    for folder in (out, never):
        prepare(name, place, folder)
    before = results(out) if out.exists() else {}
    disk.shrink()
    try:
        with pytest.raises(OSError) as caught:
            work(out)
    finally:
        disk.grow()
    assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
    assert results(out) == before, "no result, and no half of one"
    assert not list(out.rglob("*.parquet"))
    work(out)
    work(never)
    assert results(out) == results(never)


# ---------------------------------------------------------------------------------------------- output and input


def test_an_output_that_cannot_be_written_is_one_line(place: Path, tmp_path: Path, run: runs.Run) -> None:
    (tmp_path / "file").write_text("in the way")
    got = run(
        "--in-dist", place / "test", "--probe", place / "web", "--model", "trees/one", "--zoo", place / "zoo",
        "--out", tmp_path / "file" / "out", "--quiet",
    )  # fmt: skip
    assert got.code == 1
    assert got.err.startswith("gradlens: the system refused: ")
    assert got.err.count("\n") == 1


def test_images_that_vanish_are_named_and_the_rest_is_kept(place: Path, tmp_path: Path) -> None:
    """Removed after the set was listed: skipped with their reason; when they are back, as if nothing had been."""
    shutil.copytree(place / "test", tmp_path / "test")
    model = checkpoints.load("trees/one", zoo=place / "zoo")
    images = open_source(str(tmp_path / "test"))
    (never,) = predict([model], images, QUIET, OutputStore(tmp_path / "a"))
    images = open_source(str(tmp_path / "test"))
    assert images.fingerprint
    gone = tmp_path / "test" / CLASSES[0] / "03.png"
    kept = gone.read_bytes()
    gone.unlink()
    (struck_,) = predict([model], images, QUIET, OutputStore(tmp_path / "b"))
    assert [s.path for s in struck_.skipped] == [str(gone)]
    assert len(struck_.predictions) == len(images) - 1
    gone.write_bytes(kept)
    (again,) = predict([model], open_source(str(tmp_path / "test")), QUIET, OutputStore(tmp_path / "b"), fresh=True)
    assert again.predictions.logits is not None
    assert never.predictions.logits is not None
    assert again.predictions.logits.tobytes() == never.predictions.logits.tobytes()


def test_a_dead_decoding_thread_ends_the_run_and_keeps_what_was_done(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = checkpoints.load("trees/one", zoo=place / "zoo")
    images = open_source(str(place / "test"))
    (never,) = predict([model], images, QUIET, OutputStore(tmp_path / "a"))
    read = ImageSet.read

    def dies(self: ImageSet, i: int) -> np.ndarray:
        if i == 70:
            raise SystemError("the decoder is gone")
        return read(self, i)

    store = OutputStore(tmp_path / "b")
    with monkeypatch.context() as patch:
        patch.setattr(ImageSet, "read", dies)
        with pytest.raises(SystemError, match="the decoder is gone"):
            predict([model], images, QUIET, store)
    (again,) = predict([model], images, QUIET, store)
    assert again.computed == len(images) - 2 * predict_module.CPU_PASS, "two passes were kept"
    assert again.predictions.logits is not None
    assert never.predictions.logits is not None
    assert again.predictions.logits.tobytes() == never.predictions.logits.tobytes()


# ---------------------------------------------------------------------------------------------- two at once, Ctrl-C


@pytest.mark.slow
def test_two_evaluations_share_a_cache(tmp_path: Path) -> None:
    """At once, into two folders, with one cache: both end with the tables of one that was alone."""
    from test_killed import MODELS

    root = tmp_path / "data"
    arguments = {"widths": [4, 4, 4, 4]}
    for seed, name in enumerate(MODELS):
        card = Card(
            builder="gradlens:custom_cnn", arguments=arguments, classes=CLASSES,
            preprocess=Preprocessing.of(Preprocess((3, 32, 32))),
        )  # fmt: skip
        checkpoints.save(root / "zoo" / "trees" / name, build_seeded(card.builder, arguments, len(CLASSES), seed), card)
    rng = np.random.default_rng(1)
    for dataset in ("test", "web"):
        for name in CLASSES:
            (root / dataset / name).mkdir(parents=True)
            for i in range(20):
                Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(
                    root / dataset / name / f"{i:02d}.png"
                )
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])
    both = [server.Process(target=evaluate, args=(root, tmp_path / n, tmp_path / "cache")) for n in ("a", "b")]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    alone = server.Process(target=evaluate, args=(root, tmp_path / "c", tmp_path / "other"))
    alone.start()
    alone.join()
    assert tables(tmp_path / "a") == tables(tmp_path / "b") == tables(tmp_path / "c")


def test_ctrl_c_leaves_with_130_and_no_half_file(place: Path, tmp_path: Path) -> None:
    """SIGINT while the command runs: one line, exit code 130, no run.json; the rerun is whole."""
    args = [
        "shift-eval", "--in-dist", str(place / "test"), "--probe", str(place / "web"), "--model", "trees/one",
        "--zoo", str(place / "zoo"), "--out", str(tmp_path / "out"), "--quiet",
    ]  # fmt: skip
    code = (
        "import sys, os, signal\n"
        "from gradlens.shift import store\n"
        "whole = store.write\n"
        "def write(*args):\n"
        "    whole(*args)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "store.write = write\n"
        f"from gradlens.cli.main import main\nmain({args!r})\n"
    )
    environment = {**os.environ, "GRADLENS_CACHE": str(tmp_path / "cache")}
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert got.returncode == 130, got.stderr
    assert got.stderr.strip().splitlines()[-1] == "gradlens: interrupted; finished parts are kept"
    assert not (tmp_path / "out" / "run.json").exists()
    assert len(list((tmp_path / "out" / "predictions").glob("*.parquet"))) == 1
    assert not list((tmp_path / "out").rglob(f"{UNFINISHED}*"))


def test_out_of_memory_halves_the_batch_and_leaves_the_same_answers(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An allocator that refuses more than eight images: the answers are those of whole passes."""
    model = checkpoints.load("trees/one", zoo=place / "zoo")
    images = open_source(str(place / "test"))
    (never,) = predict([model], images, QUIET, OutputStore(tmp_path / "a"))
    forward = model.module.forward

    def refuses(x: torch.Tensor) -> torch.Tensor:
        if len(x) > 8:
            raise torch.OutOfMemoryError("out of memory")
        return forward(x)

    monkeypatch.setattr(model.module, "forward", refuses)
    (halved,) = predict([model], images, Runtime(device="cpu", workers=2), OutputStore(tmp_path / "b"))
    said = capsys.readouterr().err
    assert "out of memory with 32 images at once; going on with 16" in said
    assert "out of memory with 16 images at once; going on with 8" in said
    assert halved.predictions.predicted.tolist() == never.predictions.predicted.tolist()
    assert halved.predictions.logits is not None
    np.testing.assert_allclose(halved.predictions.logits, never.predictions.logits, atol=1e-5)


# ---------------------------------------------------------------------------------------------- determinism


@pytest.mark.parametrize("name", ["vit", "densenet", "convnext", "mobilenet"])
def test_batches_and_workers_move_no_bit_and_threads_no_answer_of_a_zoo_model(
    name: str, place: Path, tmp_path: Path
) -> None:
    """80 images: two passes of 32 and one that is filled up. Real networks; with another number of threads some
    kernels (mobilenet's) sum in another order, which moves the last bits.
    """
    model = checkpoints.load(name)
    images = open_source(str(place / "test"))
    before = torch.get_num_threads()
    logits = []
    try:
        for threads, batch, workers in ((1, 1, 1), (1, 500, 4), (2, 7, 2)):
            torch.set_num_threads(threads)
            setting = Runtime(device="cpu", quiet=True, batch_size=batch, workers=workers)
            (answers,) = predict([model], images, setting, OutputStore(tmp_path / f"{threads}-{batch}"))
            assert answers.predictions.logits is not None
            logits.append(answers.predictions.logits)
    finally:
        torch.set_num_threads(before)
    assert logits[0].tobytes() == logits[1].tobytes(), "batch size and workers"
    if name == "mobilenet":
        np.testing.assert_allclose(logits[0], logits[2], atol=1e-5, err_msg="threads")
    else:
        assert logits[0].tobytes() == logits[2].tobytes(), "threads"
    assert (logits[0].argmax(axis=1) == logits[2].argmax(axis=1)).all()
