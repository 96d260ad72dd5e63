"""``torchrun -m gradlens shift-eval``: whatever the number of processes, the tables are those of one, to the byte."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ranks import Ended, free_port, start_together

from gradlens.cli.main import main
from gradlens.errors import InputError
from gradlens.processes import ALONE, launched
from gradlens.records import Preprocess
from gradlens.shift import predict as predict_module
from gradlens.workflows.measure import leave
from gradlens.zoo import checkpoints
from gradlens.zoo.build import build
from gradlens.zoo.cards import Card, Preprocessing

CLASSES = ("ash", "beech", "cedar")
DIED = "another process of this run ended before its work was done"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, 71 test images (uneven for two and three processes, one of them damaged), a probe set of two."""
    root = tmp_path_factory.mktemp("distributed")
    arguments = {"widths": [4, 4, 4, 4]}
    torch.manual_seed(0)
    module = build("gradlens:custom_cnn", arguments, len(CLASSES))
    for parameter in module.parameters():
        parameter.data *= 3
    preprocess = Preprocessing.of(Preprocess((3, 16, 16)))
    card = Card(builder="gradlens:custom_cnn", arguments=arguments, classes=CLASSES, preprocess=preprocess)
    checkpoints.save(root / "zoo" / "trees" / "one", module, card)
    rng = np.random.default_rng(0)
    for i in range(71):
        path = root / "test" / CLASSES[i % 3] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)
        if i < 2:
            (root / "few" / CLASSES[i]).mkdir(parents=True)
            Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(root / "few" / CLASSES[i] / "0.png")
    (root / "test" / "ash" / "69.png").write_bytes(b"no image")
    return root


def options(place: Path, out: Path) -> list[str]:
    return [
        *("shift-eval", "--model", "trees/one", "--zoo", str(place / "zoo"), "--in-dist", str(place / "test")),
        *("--probe", str(place / "few"), "--resamples", "100", "--device", "cpu", "--out", str(out)),
    ]


def tables(out: Path) -> dict[str, bytes]:
    """Everything that holds a number, by name, but ``run.json`` and ``costs.csv`` with the times they measure."""
    kept = [p for p in sorted(out.rglob("*")) if p.suffix in (".csv", ".parquet", ".md", ".tex")]
    kept = [p for p in kept if "shards" not in p.parts and p.name != "costs.csv"]
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in kept}


def evaluate(rank: int, arguments: list[str], fault: str = "") -> None:
    """The command without pictures; process 1 dies or fails where it is told to."""
    leave.draw = lambda *_: None  # type: ignore[assignment]
    predict_module.FLUSH_IMAGES = 8
    forward = predict_module._forward

    def failing(image_set, *more):  # type: ignore[no-untyped-def]
        for number, outputs in enumerate(forward(image_set, *more)):
            yield outputs
            if rank == 1 and fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if rank == 1 and fault == "error" and number == 0:
                raise InputError("the disk of this machine is full")

    predict_module._forward = failing  # type: ignore[assignment]
    if fault == "blind" and rank == 1:
        os.environ["GRADLENS_CACHE"] += "-of-another-machine"
    main(arguments)


def said_by_gradlens(ended: list[Ended]) -> list[str]:
    return [line for e in ended for line in e.err.splitlines() if line.startswith("gradlens: ")]


@pytest.fixture(scope="module")
def alone(place: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The tables of one process."""
    folder = tmp_path_factory.mktemp("alone")
    (ended,) = start_together(1, evaluate, options(place, folder / "run"), folder=folder / "said", cache=folder / "c")
    assert ended.code == 0, ended.err
    found = tables(folder / "run")
    assert {"summary.csv", "gaps.csv", "per_class.csv", "skipped.csv", "predictions/trees--one--test.parquet"} <= {
        *found
    }
    assert b"69.png" in found["skipped.csv"]
    return found


@pytest.mark.parametrize("world", [2, 3])
def test_tables_do_not_depend_on_the_number_of_processes(
    place: Path, alone: dict[str, bytes], tmp_path: Path, world: int
) -> None:
    """71 images are uneven shares, and of the set of two images a third process gets none."""
    ended = start_together(
        world, evaluate, options(place, tmp_path / "run"), folder=tmp_path / "said", cache=tmp_path / "cache"
    )
    assert [e.code for e in ended] == [0] * world, [e.err for e in ended]
    assert tables(tmp_path / "run") == alone
    first, *others = ended
    assert f"{world} processes on one machine" in first.err
    assert "In distribution: test" in first.out
    assert [(e.out, e.err) for e in others] == [("", "")] * (world - 1)


@pytest.mark.fault("shift-eval, 3 processes", "killed")
def test_a_killed_process_stops_the_others_and_the_rerun_goes_on(
    place: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    arguments = options(place, tmp_path / "run")
    ended = start_together(3, evaluate, arguments, "killed", folder=tmp_path / "said", cache=tmp_path / "cache")
    assert ended[1].code == -signal.SIGKILL
    assert [ended[0].code, ended[2].code] == [1, 1]
    assert [DIED in line for line in said_by_gradlens(ended)] == [True]  # one line of one process
    assert not (tmp_path / "run" / "run.json").exists()
    parts = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "run" / "shards").rglob("*.parquet")}
    assert parts  # what the others had finished

    again = start_together(2, evaluate, arguments, folder=tmp_path / "again", cache=tmp_path / "cache")
    assert [e.code for e in again] == [0, 0], [e.err for e in again]
    assert tables(tmp_path / "run") == alone
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "run" / "shards").rglob("*.parquet")}
    assert parts.items() <= kept.items()  # nothing of it was run again


def test_an_error_of_one_process_is_said_once_with_its_rank(place: Path, tmp_path: Path) -> None:
    arguments = options(place, tmp_path / "run")
    ended = start_together(3, evaluate, arguments, "error", folder=tmp_path / "said", cache=tmp_path / "cache")
    assert all(e.code == 1 for e in ended)
    (line,) = said_by_gradlens(ended)
    assert line.startswith("gradlens: process 1 of 3 on ")
    assert line.endswith(": the disk of this machine is full")


def test_machines_that_do_not_see_one_folder_are_told_before_anything_runs(place: Path, tmp_path: Path) -> None:
    arguments = options(place, tmp_path / "run")[:-2]  # without --out outputs meet in the cache
    ended = start_together(2, evaluate, [*arguments, "--config", str(_empty(tmp_path))], "blind",
                           folder=tmp_path / "said", cache=tmp_path / "cache")  # fmt: skip
    assert [e.code for e in ended] == [1, 1]
    (line,) = said_by_gradlens(ended)
    assert "expected a folder that all machines see" in line
    assert "--out" in line


def _empty(folder: Path) -> Path:
    path = folder / "empty.toml"
    path.write_text("")
    return path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shift-eval", "--shard", "1/2"], "--shard is for job arrays"),
        (["cam"], "expected shift-eval or train under torchrun, got cam"),
        (["shift-eval", "--nope"], "No such option"),
    ],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_wrong_usage_is_said_by_the_first_process_alone(
    rank: int, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert (said in capsys.readouterr().err) == (rank == 0)


def test_without_a_launcher_there_is_one_process() -> None:
    assert launched({}) == (0, 1)
    assert launched({"RANK": "1", "WORLD_SIZE": "4"}) == (0, 1)  # nowhere to meet
    assert launched({"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}) == (1, 4)
    assert ALONE.first
    assert not ALONE.several
    assert (ALONE.same(3), ALONE.all("x")) == (3, ["x"])
    assert torch.equal(ALONE.share(torch.arange(5)), torch.arange(5))


def torchrun(*arguments: str, cache: Path, **more: str) -> subprocess.Popen[str]:
    """The launcher itself, as a user starts it."""
    command = [sys.executable, "-m", "torch.distributed.run", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"GRADLENS_CACHE": str(cache), "OMP_NUM_THREADS": "1", **more},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_machines_meet(place: Path, alone: dict[str, bytes], tmp_path: Path) -> None:
    """Two launchers with addresses of their own, one process each, and one folder that both see."""
    port = free_port()
    nodes = [
        torchrun(
            *("--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "trees"),
            *("--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", f"127.0.0.{i + 1}", "-m", "gradlens"),
            *options(place, tmp_path / "run"),
            cache=tmp_path / f"cache-{i}",
        )
        for i in range(2)
    ]
    said = [node.communicate(timeout=850) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert {name: content for name, content in tables(tmp_path / "run").items()} == alone
    assert sum("In distribution: test" in out for out, _ in said) == 1


@pytest.mark.fault("shift-eval, 3 processes", "killed")
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_torchrun_stops_the_rest_when_a_process_is_killed(place: Path, tmp_path: Path) -> None:
    """Process 1 dies while the others are still at work; the launcher ends with a failure, and one line says why."""
    killer = tmp_path / "killer.py"
    killer.write_text(
        "import os, signal, sys, time\n"
        "from gradlens.shift import predict\n"
        "forward = predict._forward\n"
        "def failing(*arguments):\n"
        "    if os.environ['RANK'] == '1':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    yield from forward(*arguments)\n"
        "    time.sleep(600)\n"  # the others are not yet at the place where they would notice by themselves
        "predict._forward = failing\n"
        "from gradlens.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    run = torchrun("--nproc-per-node", "3", str(killer), *options(place, tmp_path / "run"), cache=tmp_path / "cache")
    _, err = run.communicate(timeout=850)
    assert run.returncode != 0
    assert sum(line.startswith("gradlens: ") and DIED in line for line in err.splitlines()) == 1, err


def test_a_rank_computes_only_its_share(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three shards are a partition: each image is in exactly one of them (a padding sampler would double one)."""
    monkeypatch.setenv("GRADLENS_CACHE", str(tmp_path))
    from gradlens.data.sources import open_source
    from gradlens.runtime import Runtime
    from gradlens.shift.store import OutputStore

    images = open_source(str(place / "test"))
    model = checkpoints.load("trees/one", zoo=place / "zoo")
    runtime = Runtime(device="cpu", quiet=True)
    shares = [
        predict_module.predict([model], images, runtime, OutputStore(tmp_path / str(i)), shard=(i, 3))[0]
        for i in (1, 2, 3)
    ]
    ids = [name for share in shares for name in share.predictions.ids]
    assert sorted(ids) == sorted({s.id for s in images.samples} - {"ash/69.png"})


def shard(place: Path, out: Path, *more: str) -> tuple[int, str]:
    """The command in this process; exit code and what it said."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as left:
        main([*options(place, out), *more])
    return int(left.value.code or 0), said.getvalue()


def test_a_merge_says_which_shards_are_missing_or_of_another_evaluation(
    place: Path, alone: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing: one line, and nothing is computed in their place. Doubled: every image counts once."""
    monkeypatch.setenv("GRADLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(leave, "draw", lambda *_: None)
    out = tmp_path / "run"
    assert shard(place, out, "--shard", "2/3")[0] == 0
    code, said = shard(place, out)
    assert code == 1
    assert said.strip().count("\n") == 0
    assert "expected the outputs of 3 shards, 2 are missing or unfinished: 1/3, 3/3; run --shard 1/3" in said
    for i in ("1/3", "3/3", "3/3", "1/2"):  # one twice, and one of another partition
        assert shard(place, out, "--shard", i)[0] == 0
    code, said = shard(place, out)
    assert code == 0, said
    assert "shards of 2 and of 3 lie in" in said
    assert tables(out) == alone


def test_shards_of_two_evaluations_are_not_merged(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADLENS_CACHE", str(tmp_path / "cache"))
    assert shard(place, tmp_path / "run", "--shard", "1/2")[0] == 0
    shutil.copytree(place / "few", tmp_path / "others")
    other = options(place, tmp_path / "run")
    other[other.index("--probe") + 1] = str(tmp_path / "others")
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as left:
        main([*other, "--shard", "2/2"])
    assert left.value.code in (None, 0), said.getvalue()
    code, text = shard(place, tmp_path / "run")
    assert code == 1
    assert "expected shards of one evaluation" in text
