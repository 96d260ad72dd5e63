"""The fault matrix: whatever goes wrong, at whatever moment, finished work is kept and no half-written file is read.

Each row is a command, each column a fault; a command that was struck is run again without the fault and must end with
the files of a run that never was, to the byte. Kills of shift-eval are in test_killed.py, of several processes in
test_distributed.py.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from types import FrameType

import numpy as np
import pyarrow.parquet as pq
import pytest
import test_train_workflow
import torch
from PIL import Image, ImageFile
from test_killed import CLASSES, evaluate, tables

import runs
from gradlens.cli.main import main
from gradlens.data.folders import Files
from gradlens.data.image_set import ImageSet
from gradlens.data.preprocess import to_tensor
from gradlens.data.sources import open_source
from gradlens.records import Preprocess
from gradlens.runtime import UNFINISHED, Runtime, whole_file, whole_folder
from gradlens.shift import predict as predict_module
from gradlens.shift.predict import predict
from gradlens.shift.store import OutputStore
from gradlens.train import policies
from gradlens.workflows import train as train_workflow
from gradlens.workflows.measure import leave
from gradlens.workflows.run_folder import RunFolder, sole_writer
from gradlens.zoo import checkpoints
from gradlens.zoo.build import build_seeded
from gradlens.zoo.cards import Card, Preprocessing

QUIET = Runtime(device="cpu", quiet=True, workers=2)
LEFT = 4096  # bytes, on a full disk: one page of a tmpfs, less than any result
KILLS = 6  # of each command; test_killed.py has twenty of the evaluation
INTERRUPTS = 3  # of each command

Record = Callable[[str, object], None]


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


@pytest.fixture(scope="module")
def places(place: Path, trainable: Path) -> dict[str, Path]:
    """Where the input of each command lies."""
    return dict.fromkeys(COMMANDS, place) | {"train": trainable}


def draw_nothing() -> None:
    """No pictures of an evaluation and of a training: they take longer than all the rest."""
    leave.draw = lambda *_: None  # type: ignore[assignment]
    train_workflow.draw_distribution = train_workflow.draw_curves = lambda *_: []  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leave, "draw", leave.draw)  # all put back afterwards
    monkeypatch.setattr(train_workflow, "draw_distribution", train_workflow.draw_distribution)
    monkeypatch.setattr(train_workflow, "draw_curves", train_workflow.draw_curves)
    draw_nothing()


# ---------------------------------------------------------------------------------------------- the commands

COMMANDS: dict[str, Callable[[Path, Path], list[object]]] = {
    "train": lambda place, out: [
        *("train", place / "shapes.toml", "--model", "small", "--workers", 1),
        *("--out", out / "zoo" / "shapes" / "small", "--work", out / "work"),
    ],
    "shift-eval": lambda place, out: [
        *("shift-eval", "--in-dist", place / "test", "--probe", place / "web", "--model", "trees/one"),
        *("--zoo", place / "zoo", "--resamples", 100, "--out", out, "--workers", 1),
    ],
    "cam": lambda place, out: [
        *("cam", "--model", "trees/one", "--zoo", place / "zoo", "--image", place / "web" / CLASSES[0]),
        *("--image", place / "web" / CLASSES[1] / "03.png", "--layers", 2, "--dpi", 40, "--save-maps", "--out", out),
    ],
    "probe add": lambda place, out: ["probe", "add", "added", place / "web", "--into", out, "--shift", "web"],
    "report": lambda place, out: ["report", out],
}
"""(where its input lies, where its output goes) -> its words."""

HERE = list(COMMANDS)
WAYS: list[list[str]] = [[], ["--fresh"]]  # to train


def struck(fault: str, strikes: int | Mapping[str, int] = 1, but: Iterable[str] = ()) -> pytest.MarkDecorator:
    """Parametrises a test over the commands that a fault strikes, so and so often, and says so in the fault matrix."""
    often = strikes if isinstance(strikes, Mapping) else dict.fromkeys(HERE, strikes)
    marks = {name: pytest.mark.fault(name, fault, strikes=often.get(name, 1)) for name in HERE if name not in but}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=mark) for name, mark in marks.items()])


@dataclass(frozen=True)
class End:
    """How a command ended."""

    code: int
    err: str

    def in_one_line(self, code: int = 1) -> str:
        """The line, which is all that was said."""
        assert self.code == code, self.err
        (line,) = self.err.splitlines()
        assert line.startswith("gradlens: ")
        assert "a mistake in gradlens" not in line
        return line


def end_of(name: str, place: Path, out: Path, capsys: pytest.CaptureFixture[str], quiet: bool = True) -> End:
    """The command in this process."""
    prepare(name, place, out)
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in COMMANDS[name](place, out)] + ["--quiet"] * (quiet and name != "report"))
    return End(int(left.value.code or 0), capsys.readouterr().err)


def prepare(name: str, place: Path, out: Path) -> None:
    """What must lie there before the command starts: a report is built from a run's own files."""
    if name == "report" and not out.exists():
        shutil.copytree(place / "run", out)


def moved(name: str, place: Path, root: Path) -> Path:
    """A copy of a command's input, to be damaged."""
    source = root / "moved"
    shutil.copytree(place, source)
    if name == "train":
        recipe = (source / "shapes.toml").read_text()
        (source / "shapes.toml").write_text(recipe.replace(str(place), str(source)))
    return source


def again(name: str, out: Path) -> None:
    """Remove what would keep the command from doing its work once more."""
    if name in ("train", "probe add"):
        shutil.rmtree(out / ("zoo" if name == "train" else "added"), ignore_errors=True)


LATE = ("gradlens.workflows.see", "gradlens.workflows.measure.computed", "gradlens.workflows.probe.adding")
"""What commands import when they need it; a process that will be struck has it from the start, which saves seconds."""
TIMED = ("costs.csv", "report.html")  # of an evaluation: they hold how long it took


def results(out: Path) -> dict[str, bytes]:
    """What a command leaves, by name; times of day and how long it took are left out, and what is under way."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out)
        kept = path.suffix in (".csv", ".html", ".toml", ".png", ".jpg", ".safetensors", ".parquet", ".npz", ".tex")
        hidden = any(part.startswith(".") for part in name.parts)
        timed = path.name in TIMED and (out / "predictions").is_dir()
        if kept and path.is_file() and "work" not in name.parts and not hidden and not timed:
            found[name.as_posix()] = path.read_bytes()
    return found


@pytest.fixture
def never(places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], object]:
    """What a command leaves that was never struck."""

    def whole(name: str) -> dict[str, bytes]:
        out = tmp_path / "never"
        assert end_of(name, places[name], out, capsys).code == 0
        assert results(out)
        return results(out)

    return whole


# ---------------------------------------------------------------------------------------------- killed, interrupted


def run_alone(name: str, place: Path, out: Path, cache: Path, said: Path, begun: Event) -> None:
    """The command, in a process that will be struck; what it says goes to the file ``said``."""
    os.environ["GRADLENS_CACHE"] = str(cache)
    draw_nothing()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with the signal ignored
    with said.open("w") as stream, contextlib.redirect_stderr(stream):
        begun.set()
        try:
            main([str(word) for word in COMMANDS[name](place, out)] + ["--quiet"] * (name != "report"))
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # what ends now is the test's process, not the command


class Struck:
    """A command that is run in processes of its own, again and again, into one folder."""

    def __init__(self, name: str, place: Path, root: Path) -> None:
        self.name, self.place, self.root = name, place, root
        self.server = multiprocessing.get_context("forkserver")
        self.server.set_forkserver_preload([__name__, *LATE])
        self.moments = random.Random(name)
        self.seconds = self.whole(root / "never")
        self.expected = results(root / "never")
        assert self.expected
        self.out = root / "struck"

    def start(self, out: Path) -> tuple[BaseProcess, Event]:
        prepare(self.name, self.place, out)
        begun = self.server.Event()
        words = (self.name, self.place, out, self.root / f"cache-{out.name}", self.root / "said", begun)
        process = self.server.Process(target=run_alone, args=words)
        process.start()
        return process, begun

    def whole(self, out: Path) -> float:
        """Run it to its end; the seconds it took."""
        process, begun = self.start(out)
        begun.wait()
        started = time.monotonic()
        process.join()
        assert process.exitcode == 0, (self.root / "said").read_text()
        return time.monotonic() - started

    def strike(self, number: signal.Signals, code: int, strikes: int) -> Iterator[str]:
        """Send the signal at random moments until it struck so often; after each, what the command said."""
        struck = 0
        for _ in range(10 * strikes):
            process, begun = self.start(self.out)
            begun.wait()
            process.join(self.moments.uniform(0.02, 0.95) * self.seconds)
            if process.exitcode is None:
                assert process.pid is not None
                os.kill(process.pid, number)
            process.join()
            if process.exitcode == 0:  # it was done before
                self.seconds *= 0.8
                assert results(self.out) == self.expected
                shutil.rmtree(self.out)
                continue
            said = (self.root / "said").read_text()
            assert process.exitcode == code, said
            if self.out.exists():
                assert results(self.out).items() <= self.expected.items(), "a file under its own name is whole"
            yield said
            struck += 1
            if self.name == "probe add" and self.out.exists() and results(self.out):  # done, and is not made twice
                assert results(self.out) == self.expected
                shutil.rmtree(self.out)
            if struck == strikes:
                break
        assert struck == strikes
        self.whole(self.out)
        assert results(self.out) == self.expected


@pytest.mark.slow
@struck("killed", KILLS, but=["shift-eval"])
def test_killed_at_random_moments(name: str, places: dict[str, Path], tmp_path: Path, record_property: Record) -> None:
    """SIGKILL; what lies there afterwards is whole, and the command, given again, ends as if nothing had been."""
    record_property("strikes", len(list(Struck(name, places[name], tmp_path).strike(signal.SIGKILL, -9, KILLS))))


@pytest.mark.slow
@struck("Ctrl-C", INTERRUPTS)
def test_interrupted_at_random_moments(
    name: str, places: dict[str, Path], tmp_path: Path, record_property: Record
) -> None:
    """SIGINT: one line, exit code 130, nothing half written is left, and the rerun is whole."""
    command, strikes = Struck(name, places[name], tmp_path), 0
    for said in command.strike(signal.SIGINT, 130, INTERRUPTS):
        assert said.strip() == "gradlens: interrupted; finished parts are kept"  # click ends the line of a ^C first
        assert not list(command.out.rglob(f"{UNFINISHED}*"))
        strikes += 1
    record_property("strikes", strikes)


def interrupted_at(step: int, work: Callable[[], object]) -> bool:
    """Raise KeyboardInterrupt before the ``step``-th instruction of all Python code of ``work``; whether it came."""
    left = step

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., object]:
        nonlocal left
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if not left:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()  # of whoever measures coverage
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of a file that the interruption left open
def test_interrupted_between_any_two_steps_of_writing_a_file(tmp_path: Path) -> None:
    """Ctrl-C may come within what makes, fills or renames a file: no part is left, and the file is old or new."""
    path = tmp_path / "table.csv"

    def write() -> None:
        with whole_file(path) as part:
            part.write_text("new")

    step = 1
    path.write_text("old")
    while interrupted_at(step, write):
        assert [p.name for p in tmp_path.iterdir()] == ["table.csv"], f"interrupted before instruction {step}"
        assert path.read_text() in ("old", "new")
        path.write_text("old")
        step += 1
    assert step > 300, "the interruptions did not reach the steps of writing"
    assert path.read_text() == "new"


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_interrupted_between_any_two_steps_of_making_a_folder(tmp_path: Path) -> None:
    """Nothing is left of it, or it is there with all that belongs into it."""
    folder = tmp_path / "made" / "set"

    def make() -> None:
        with whole_folder(folder) as scratch:
            (scratch / "one").write_text("1")

    step = 1
    while interrupted_at(step, make):
        left = [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))]
        assert left in ([], ["made"], ["made", "made/set", "made/set/one"]), f"interrupted before instruction {step}"
        shutil.rmtree(folder, ignore_errors=True)
        step += 1
    assert step > 300, "the interruptions did not reach the steps of writing"
    assert (folder / "one").read_text() == "1"


# ---------------------------------------------------------------------------------------------- full disk


@dataclass(frozen=True)
class Disk:
    """A place whose room can be taken away and given back."""

    place: Path
    shrink: Callable[[], object]
    grow: Callable[[], object]


def mounted(place: Path) -> None:
    """A small tmpfs, where one may be mounted."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs may be mounted here")


@pytest.fixture(params=["tmpfs", "file size limit"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A small tmpfs where one may be mounted; a limit of the size of files everywhere."""
    place = tmp_path / "disk"
    if request.param == "tmpfs":
        mounted(place)

        def fill() -> None:
            room = os.statvfs(place)
            (place / "filler").write_bytes(b"\0" * (room.f_bavail * room.f_frsize - LEFT))

        yield Disk(place, fill, (place / "filler").unlink)
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        return
    place.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield Disk(place, lambda: limit(LEFT // 8), lambda: limit(before[0]))
    limit(before[0])
    signal.signal(signal.SIGXFSZ, ignored)


@struck("full disk")
def test_a_full_disk_is_one_error_and_no_half_file(
    name: str, places: dict[str, Path], disk: Disk, never: Callable[[str], object], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = never(name)
    out = disk.place / "out"
    prepare(name, places[name], out)
    before = results(out) if out.exists() else {}
    disk.shrink()
    try:
        ended = end_of(name, places[name], out, capsys)
    finally:
        disk.grow()
    said = ended.in_one_line()
    assert os.strerror(errno.ENOSPC) in said or os.strerror(errno.EFBIG) in said
    assert (results(out) if out.exists() else {}) == before, "no result, and no half of one"
    assert end_of(name, places[name], out, capsys).code == 0
    assert results(out) == expected


@pytest.mark.fault("shift-eval", "full disk")
def test_a_full_cache_is_one_error_and_no_half_file(place: Path, disk: Disk, tmp_path: Path) -> None:
    images = open_source(str(place / "test"))
    model = checkpoints.load("trees/one", zoo=place / "zoo")
    disk.shrink()
    try:
        with pytest.raises(OSError) as caught:
            predict([model], images, QUIET, OutputStore(disk.place / "out"))
    finally:
        disk.grow()
    assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
    assert not list(disk.place.rglob("*.parquet"))
    again, whole = (predict([model], images, QUIET, OutputStore(p))[0] for p in (disk.place / "out", tmp_path / "a"))
    assert again.predictions.logits is not None
    assert whole.predictions.logits is not None
    assert again.predictions.logits.tobytes() == whole.predictions.logits.tobytes()


# ---------------------------------------------------------------------------------------------- output


@struck("read-only output")
def test_a_read_only_disk_is_one_line(
    name: str,
    places: dict[str, Path],
    never: Callable[[str], object],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = never(name)
    mounted(tmp_path / "disk")
    try:
        out = tmp_path / "disk" / "out"
        prepare(name, places[name], out)
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        said = end_of(name, places[name], out, capsys).in_one_line()
        assert os.strerror(errno.EROFS) in said
        subprocess.run(["mount", "-o", "remount,rw", str(tmp_path / "disk")], check=True)
        assert end_of(name, places[name], out, capsys).code == 0
        assert results(out) == expected
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path / "disk")], check=True)


@struck("two at once")
@pytest.mark.slow
def test_two_at_once_leave_what_one_leaves(name: str, places: dict[str, Path], tmp_path: Path) -> None:
    """Into one folder: both succeed, or one of them is told in one line that it is the second."""
    command = Struck(name, places[name], tmp_path)
    started = [command.start(command.out) for _ in range(2)]
    for process, _ in started:
        process.join()
    codes = sorted(process.exitcode or 0 for process, _ in started)
    assert codes in ([0, 0], [0, 1])
    if codes == [0, 1]:
        assert re.search("another run is writing here|exists already", (tmp_path / "said").read_text())
    assert results(command.out) == command.expected


@pytest.mark.parametrize("words", [pytest.param(w, marks=pytest.mark.fault("train", "two at once")) for w in WAYS])
def test_a_second_training_is_told_and_touches_nothing(
    words: list[str], trainable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """While another has the work folder: one line, also with ``--fresh``, which would empty it."""
    work = tmp_path / "out" / "work"
    work.mkdir(parents=True)
    (work / "state.pt").write_bytes(b"of the first")
    given = [str(word) for word in COMMANDS["train"](trainable, tmp_path / "out")]
    with RunFolder(work), pytest.raises(SystemExit) as left:
        main([*given, "--quiet", *words])
    said = End(int(left.value.code or 0), capsys.readouterr().err).in_one_line()
    assert f"{work}: another run is writing here; wait for it to end, or give this one its own --work" in said
    assert (work / "state.pt").read_bytes() == b"of the first"
    assert not (tmp_path / "out" / "zoo").exists()


@pytest.mark.fault("train", "two at once")
def test_a_second_training_of_one_checkpoint_is_told(
    trainable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with a work folder of its own, as two people or two queues may have; the first is left to end."""
    given = [str(word) for word in COMMANDS["train"](trainable, tmp_path / "out")]
    checkpoint = Path(given[given.index("--out") + 1])
    with sole_writer(checkpoint, "--out"), pytest.raises(SystemExit) as left:
        main([*given, "--quiet", "--fresh"])
    said = End(int(left.value.code or 0), capsys.readouterr().err).in_one_line()
    assert f"{checkpoint}: another run is writing here; wait for it to end, or give this one its own --out" in said
    assert not checkpoint.parent.exists()
    with sole_writer(checkpoint, "--out"):  # and is free again
        checkpoint.mkdir()
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]


# ---------------------------------------------------------------------------------------------- input


@struck("vanished input", but=["report"])
def test_input_that_vanishes_is_named(
    name: str,
    places: dict[str, Path],
    never: Callable[[str], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An image is removed after it was listed: the command names it; when it is back, all is as if nothing had been."""
    expected = never(name)
    source = moved(name, places[name], tmp_path)
    gone: dict[Path, bytes] = {}
    one = threading.Lock()  # images are decoded in several threads
    encoded = Files.encoded

    def vanishes(self: Files, row: int) -> Path:
        found = encoded(self, row)
        with one:
            if not gone:
                gone[found] = found.read_bytes()
                found.unlink()
        return found

    with monkeypatch.context() as patch:
        patch.setenv("GRADLENS_CACHE", str(tmp_path / "cache"))
        patch.setattr(Files, "encoded", vanishes)
        ended = end_of(name, source, tmp_path / "out", capsys, quiet=False)
    ((path, content),) = gone.items()
    lists = [p for p in (tmp_path / "out").rglob("*.csv") if p.stem in ("skipped", "quarantine")]
    assert any(path.name in told for told in (ended.err, *(p.read_text() for p in lists)))
    path.write_bytes(content)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert end_of(name, source, tmp_path / "out", capsys).code == 0
    assert set(results(tmp_path / "out")) == set(expected)


CUT: dict[str, Callable[[Path, Path, Path], list[Path]]] = {
    "train": lambda source, out, cache: [out / "work" / "state.pt"],
    "shift-eval": lambda source, out, cache: sorted(cache.rglob("*.parquet")),
    "cam": lambda source, out, cache: sorted((source / "zoo" / "trees" / "one").glob("[cm]*")),
    "probe add": lambda source, out, cache: [source / "web" / CLASSES[0] / "03.png"],
    "report": lambda source, out, cache: [
        out / name for name in ("run.json", "summary.csv", "gaps.csv", "per_class.csv", "confusion.csv", "pairs.csv")
    ],
}
"""(input, output, cache) -> files that a command reads again, or was given."""


@struck("file cut off", {"shift-eval": 2, "cam": 2, "report": 6})
def test_a_file_that_was_cut_off_is_not_read_as_whole(
    name: str,
    places: dict[str, Path],
    never: Callable[[str], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    record_property: Record,
) -> None:
    """It is named in one line, left out with its reason, or (in the cache) made again; put back, all is as before."""
    expected = never(name)
    source = places[name] if name == "shift-eval" else moved(name, places[name], tmp_path)
    out, cache = tmp_path / "out", tmp_path / "cache"
    monkeypatch.setenv("GRADLENS_CACHE", str(cache))
    assert end_of(name, source, out, capsys).code == 0
    files = CUT[name](source, out, cache)
    for path in files:
        whole = path.read_bytes()
        row = whole.rfind(b"\n", 0, len(whole) // 2)  # into the middle of a row, where it is a table
        path.write_bytes(whole[: row + 5 if path.suffix == ".csv" else len(whole) // 2])
        again(name, out)
        ended = end_of(name, source, out, capsys)
        if name == "shift-eval":
            assert ended.code == 0
            assert results(out) == expected
            continue
        if name == "probe add":
            assert ended.code == 0
            assert path.name in (out / "added" / "quarantine.csv").read_text()
        else:
            assert path.name in ended.in_one_line()
        path.write_bytes(whole)
        again(name, out)
        assert end_of(name, source, out, capsys).code == 0
        assert set(results(out)) == set(expected)
    record_property("strikes", len(files))


# ---------------------------------------------------------------------------------------------- memory


@struck("out of memory", but=["report"])
def test_out_of_memory_while_decoding_is_one_line(
    name: str,
    places: dict[str, Path],
    never: Callable[[str], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In a thread that decodes ahead; nothing half done is left, and the rerun is whole."""
    expected = never(name)

    def refuses(self: ImageFile.ImageFile) -> object:
        raise MemoryError("cannot allocate")

    with monkeypatch.context() as patch:
        patch.setenv("GRADLENS_CACHE", str(tmp_path / "cache"))
        patch.setattr(ImageFile.ImageFile, "load", refuses)
        said = end_of(name, places[name], tmp_path / "out", capsys).in_one_line()
    assert "out of memory while decoding" in said
    assert not (tmp_path / "out").exists() or not results(tmp_path / "out")
    assert end_of(name, places[name], tmp_path / "out", capsys).code == 0
    assert results(tmp_path / "out") == expected


@struck("out of memory", but=["report", "probe add"])
def test_a_network_that_is_out_of_memory_is_one_line(
    name: str,
    places: dict[str, Path],
    never: Callable[[str], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also with one image; a training goes on from its last epoch."""
    expected = never(name)
    forward, passes = torch.nn.Conv2d.forward, 0

    def refuses(self: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += 1
        if passes > 60 or name != "train":
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, x)

    with monkeypatch.context() as patch:
        patch.setenv("GRADLENS_CACHE", str(tmp_path / "cache"))
        patch.setattr(torch.nn.Conv2d, "forward", refuses)
        ended = end_of(name, places[name], tmp_path / "out", capsys)
    assert "out of memory" in ended.in_one_line()
    assert not (tmp_path / "out").exists() or not results(tmp_path / "out")
    assert end_of(name, places[name], tmp_path / "out", capsys).code == 0
    assert results(tmp_path / "out") == expected


# ---------------------------------------------------------------------------------------------- output and input


@pytest.mark.fault("shift-eval", "read-only output")
def test_an_output_that_cannot_be_written_is_one_line(place: Path, tmp_path: Path, run: runs.Run) -> None:
    (tmp_path / "file").write_text("in the way")
    got = run(
        "--in-dist", place / "test", "--probe", place / "web", "--model", "trees/one", "--zoo", place / "zoo",
        "--out", tmp_path / "file" / "out", "--quiet",
    )  # fmt: skip
    assert got.code == 1
    assert got.err.startswith("gradlens: the system refused: ")
    assert got.err.count("\n") == 1


@pytest.mark.fault("shift-eval", "vanished input")
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
    (without,) = predict([model], images, QUIET, OutputStore(tmp_path / "b"))
    assert [s.path for s in without.skipped] == [str(gone)]
    assert len(without.predictions) == len(images) - 1
    gone.write_bytes(kept)
    (again,) = predict([model], open_source(str(tmp_path / "test")), QUIET, OutputStore(tmp_path / "b"), fresh=True)
    assert again.predictions.logits is not None
    assert never.predictions.logits is not None
    assert again.predictions.logits.tobytes() == never.predictions.logits.tobytes()


@pytest.mark.fault("shift-eval", "dead worker")
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


@pytest.mark.fault("train", "dead worker")
def test_a_dead_process_that_augments_ends_the_training_in_one_line(
    trainable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed after the first epoch, as by a system that is out of memory; the rerun goes on and ends as if nothing."""

    def end(out: Path) -> End:
        capsys.readouterr()
        words = [*COMMANDS["train"](trainable, out), "--set", "augment.policy=trivialaugment", "--quiet"]
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        return End(int(left.value.code or 0), capsys.readouterr().err)

    assert end(tmp_path / "never").code == 0
    state, here = tmp_path / "out" / "work" / "state.pt", os.getpid()
    change = policies._Changed.__getitem__

    def dies(self: policies._Changed, index: int) -> np.ndarray:
        if state.exists():
            assert os.getpid() != here
            os.kill(os.getpid(), signal.SIGKILL)
        return change(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(policies._Changed, "__getitem__", dies)
        said = end(tmp_path / "out").in_one_line()
    assert "a process that changes images ahead was killed" in said
    assert state.exists()
    assert not (tmp_path / "out" / "zoo").exists()
    assert end(tmp_path / "out").code == 0
    assert results(tmp_path / "out") == results(tmp_path / "never")


# ---------------------------------------------------------------------------------------------- two at once, Ctrl-C


@pytest.mark.fault("shift-eval", "two at once")
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


@pytest.mark.fault("shift-eval", "Ctrl-C")
def test_ctrl_c_leaves_with_130_and_no_half_file(place: Path, tmp_path: Path) -> None:
    """SIGINT while the command runs: one line, exit code 130, no run.json; the rerun is whole."""
    args = [
        "shift-eval", "--in-dist", str(place / "test"), "--probe", str(place / "web"), "--model", "trees/one",
        "--zoo", str(place / "zoo"), "--out", str(tmp_path / "out"), "--quiet",
    ]  # fmt: skip
    code = (
        "import sys, os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored by background jobs of a shell
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


@pytest.mark.fault("shift-eval", "out of memory")
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


# ---------------------------------------------------------------------------------------------- no numbers


@pytest.fixture(scope="module")
def overflowing(place: Path) -> list[str]:
    """Ids of the test images for which the network ``trees/wild`` answers with infinite logits: some, not all."""
    card = checkpoints.read_card(place / "zoo" / "trees" / "one")
    module = build_seeded(card.builder, card.arguments, len(CLASSES)).eval()
    first = next(m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d))
    last = [m for m in module.modules() if isinstance(m, torch.nn.Linear)][-1]
    images = open_source(str(place / "test"))
    x = torch.stack([to_tensor(card.preprocess.record(), images.read(i)) for i in range(len(images))])
    seen: list[torch.Tensor] = []
    with torch.no_grad():
        first.weight.mul_(1e4)
        handle = last.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        module(x)
        handle.remove()
        last.bias.zero_()
        middle = seen[0].sum(1).sort().values[len(x) // 2 - 1 :][:2].mean()  # as far as can be from any image
        last.weight.fill_(torch.finfo(torch.float32).max / float(middle))
        wild = ~module(x).isfinite().all(1)
    checkpoints.save(place / "zoo" / "trees" / "wild", module, card)
    assert 0 < int(wild.sum()) < len(images)
    return [images.samples[i].id for i in wild.nonzero()[:, 0].tolist()]


def test_logits_that_are_not_finite_are_a_reason_and_no_prediction(
    place: Path, overflowing: list[str], tmp_path: Path, run: runs.Run
) -> None:
    got = run(
        "--in-dist", place / "test", "--probe", place / "web", "--model", "trees/wild", "--zoo", place / "zoo",
        "--out", tmp_path / "out", "--resamples", 100, "--strict", "--quiet",
    )  # fmt: skip
    assert got.code == 3, got.err
    with (tmp_path / "out" / "skipped.csv").open() as stream:
        reasons = {row["path"]: row["reason"] for row in csv.DictReader(stream)}
    expected = {str(place / "test" / name) for name in overflowing}
    assert {path for path in reasons if "/test/" in path} == expected
    assert all(r.startswith("trees/wild: the model's output is not finite (") for r in reasons.values())
    table = pq.read_table(tmp_path / "out" / "predictions" / "trees--wild--test.parquet")
    assert np.isfinite(np.stack(table["logits"].to_numpy())).all()
    assert not {str(p) for p in table["path"].to_pylist()} & set(overflowing)
    with (tmp_path / "out" / "summary.csv").open() as stream:
        counts = {r["n"] for r in csv.DictReader(stream) if (r["dataset"], r["metric"]) == ("test", "accuracy")}
    assert counts == {str(20 * len(CLASSES) - len(overflowing))}


def test_a_map_of_logits_that_are_not_finite_says_so(
    place: Path, overflowing: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(
            [
                *("cam", "--model", "trees/wild", "--zoo", str(place / "zoo"), "--layers", "2", "--dpi", "40"),
                *("--image", str(place / "test" / overflowing[0]), "--out", str(tmp_path), "--json", "--quiet"),
            ]
        )
    assert not left.value.code
    told = json.loads(capsys.readouterr().out)
    assert {s for layer in told["models"][0]["layers"] for s in layer["status"]} == {"non-finite"}
    assert told["images"][0]["probability"] is None


# ---------------------------------------------------------------------------------------------- the matrix


def test_the_documented_matrix_is_what_the_tests_declare(root: Path) -> None:
    """docs/trust.md holds the table, and so does every page with its marks: they cannot drift from the tests."""
    command = [sys.executable, str(root / "benchmarks" / "faults.py"), "--declared"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    pages = {p: p.read_text(encoding="utf-8") for p in (root / "docs" / "trust.md", root / "README.md")}
    shown = {p.name: t.partition("<!-- faults -->\n")[2].partition("<!-- /faults -->")[0] for p, t in pages.items()}
    assert shown["trust.md"].strip() == told.stdout.strip()
    assert shown["README.md"].strip() in ("", told.stdout.strip())
