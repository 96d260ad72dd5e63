"""What hostile files must not do: run code, reach out of their folder, command a terminal, browser or spreadsheet."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from fuzz.bombs import png
from fuzz.inputs import cases as cases_of
from fuzz.inputs import unclear
from fuzz.readers import CLEAR, READERS
from gradlens.cli.zoo import command as zoo_command
from gradlens.data import room
from gradlens.data.image_set import ImageSet
from gradlens.data.sources import images_from_paths, open_source
from gradlens.errors import CheckpointError, GradlensError, InputError, ModelError, one_line
from gradlens.records import Preprocess
from gradlens.shift import store, tables
from gradlens.train import recipes
from gradlens.train.loop import _read_state
from gradlens.zoo import checkpoints, consent, pretrained
from gradlens.zoo.build import build, build_seeded
from gradlens.zoo.cards import Card, Preprocessing
from gradlens.zoo.importing import import_checkpoint

SMALL = ("gradlens:custom_cnn", {"widths": [4, 4, 4, 4]})
INPUT = Preprocess((3, 32, 32))


class Canary:
    """Sings when it is unpickled: it makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.place),)


def pickled(place: Path, kind: str) -> bytes:
    """A canary in the wrapping that a door opens."""
    stream = io.BytesIO()
    canary = Canary(place)
    if kind == "torch":
        torch.save({"state_dict": {"w": torch.zeros(2)}, "args": canary, "mark": canary}, stream)
    elif kind == "torch, old":
        torch.save({"w": torch.zeros(2), "args": canary}, stream, _use_new_zipfile_serialization=False)
    elif kind == "npz":
        objects = np.array([canary, canary], dtype=object)
        np.savez(stream, images=np.zeros((2, 2, 2), np.uint8), labels=objects, classes=objects)
    elif kind == "npy":
        np.save(stream, np.array([canary], dtype=object))
    else:
        pickle.dump(canary, stream)
    return stream.getvalue()


def saved(folder: Path) -> Path:
    """A small checkpoint."""
    card = Card(builder=SMALL[0], arguments=SMALL[1], classes=("a", "b"), preprocess=Preprocessing.of(INPUT))
    checkpoints.save(folder, build_seeded(*SMALL, 2), card)
    return folder


def a_folders_own(file: Path) -> object:
    folder = saved(file.parent / "folder")
    shutil.copy(file, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["gradlens"]["sha256"] = ""
    (folder / "config.json").write_text(json.dumps(config))
    return checkpoints.load_folder(folder, "x")


def a_folders_pickle(file: Path) -> object:
    folder = saved(file.parent / "folder")
    (folder / "model.safetensors").unlink()
    shutil.copy(file, folder / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    del config["gradlens"]
    config["architecture"] = "resnet18"
    (folder / "config.json").write_text(json.dumps(config))
    return checkpoints.load_folder(folder, "x")


def a_source(file: Path) -> object:
    return open_source(str(file.rename(file.with_suffix(".npz"))))


WEIGHT_DOORS: dict[str, Callable[[Path], object]] = {
    "zoo import": lambda f: import_checkpoint(f.parent / "zoo" / "x", f, SMALL[0], ["a", "b"], INPUT),
    "--weights with an architecture": lambda f: checkpoints.load("gradlens:custom_cnn", weights=str(f), classes=2),
    "--weights with a checkpoint": lambda f: checkpoints.load_folder(saved(f.parent / "folder"), "x", str(f)),
    "--pretrained": lambda f: pretrained.find(str(f), SMALL[0]),
    "a checkpoint's own weights": a_folders_own,
    "a checkpoint's pytorch_model.bin": a_folders_pickle,
    "state.pt of a training": lambda f: _read_state(f, {"data": ""}, recipes.load("cifar10", "resnet")),
}
OTHER_DOORS: dict[str, Callable[[Path], object]] = {
    "--predictions": lambda f: store.read([f]),
    "an image": lambda f: images_from_paths([f]).read(0),
    "an .npz source": a_source,
}


@pytest.mark.parametrize("kind", ["torch", "torch, old", "bare", "npy", "npz"])
@pytest.mark.parametrize("door", [*WEIGHT_DOORS, *OTHER_DOORS])
def test_no_pickle_runs_at_any_door(door: str, kind: str, tmp_path: Path) -> None:
    sung = tmp_path / "sung"
    file = tmp_path / "file.pth"
    file.write_bytes(pickled(sung, kind))
    with pytest.raises(GradlensError) as caught:
        (WEIGHT_DOORS | OTHER_DOORS)[door](file)
    assert not sung.exists()
    assert str(caught.value).isprintable()


def test_the_canary_sings_when_it_is_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickled(tmp_path / "sung", "bare"))
    assert (tmp_path / "sung").is_dir()


# ---------------------------------------------------------------- code in checkpoint folders


FACTORY = """from pathlib import Path
import torch
Path({trace!r}).touch()
def make(num_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, num_classes))
"""


@pytest.fixture
def with_code(tmp_path: Path) -> tuple[Path, Path]:
    """(a checkpoint that brings code, the trace that the code leaves), trained or imported here."""
    trace = tmp_path / "ran"
    (tmp_path / "net.py").write_text(FACTORY.format(trace=str(trace)))
    card = Card(builder=f"{tmp_path / 'net.py'}:make", classes=("a", "b"), preprocess=Preprocessing.of(INPUT))
    folder = tmp_path / "zoo" / "mine" / "net"
    checkpoints.save(folder, build(card.builder, {}, 2), card)
    trace.unlink()
    return folder, trace


def test_code_that_was_named_here_is_trusted(with_code: tuple[Path, Path]) -> None:
    folder, trace = with_code
    checkpoints.load_folder(folder, "x")
    assert trace.exists()


def test_a_strangers_code_runs_after_consent_alone(
    with_code: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, trace = with_code
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another user"))
    with pytest.raises(CheckpointError, match=r"brings Python code \(network\.py\).*gradlens zoo trust") as caught:
        checkpoints.load("mine/net", zoo=tmp_path / "zoo")
    assert not trace.exists()
    assert "\n" not in str(caught.value)
    done = CliRunner().invoke(zoo_command, ["trust", "mine/net", "--zoo", str(tmp_path / "zoo")], standalone_mode=False)
    assert done.exception is None
    assert "network.py may run" in done.stdout
    assert not trace.exists(), "agreeing runs nothing"
    checkpoints.load("mine/net", zoo=tmp_path / "zoo")
    assert trace.exists()
    (folder / "network.py").write_text((folder / "network.py").read_text() + "#")
    with pytest.raises(CheckpointError, match="nobody here"):
        checkpoints.load_folder(folder, "x")


def test_nobody_agrees_for_another_through_a_cache_that_both_use(
    with_code: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, trace = with_code
    monkeypatch.setenv("GRADLENS_CACHE", str(tmp_path / "shared"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "one"))
    consent.agree(folder / "network.py")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another"))
    with pytest.raises(CheckpointError, match="nobody here"):
        checkpoints.load_folder(folder, "x")
    assert not trace.exists()


def test_a_model_without_code_has_nothing_to_agree_to(tmp_path: Path) -> None:
    saved(tmp_path / "zoo" / "plain")
    done = CliRunner().invoke(zoo_command, ["trust", "plain", "--zoo", str(tmp_path / "zoo")], standalone_mode=False)
    assert done.exception is None
    assert done.stdout == ""


@pytest.mark.parametrize("argument", ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"])
def test_a_card_cannot_make_timm_read_another_file(argument: str) -> None:
    with pytest.raises(ModelError, match="would read other files"):
        build("timm:resnet18", {argument: "/etc/passwd"}, 2)


# ---------------------------------------------------------------- memory


def picture(tmp_path: Path, data: bytes) -> ImageSet:
    (tmp_path / "x.png").write_bytes(data)
    return images_from_paths([tmp_path / "x.png"])


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"13000 x 13000 pixels of 16 or more bits take 4\.4 GB to decode"):
        picture(tmp_path, png(13_000, 13_000, bits=16, colour=0, lines=1)).read(0)


def test_images_share_the_room_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One image fills the room; a second one waits until it is done, and a failure gives the room back."""
    monkeypatch.setattr(room, "PER_PIXEL", 1)
    small = room.Room(1000)
    data = png(30, 30)
    inside = threading.Event()

    def second() -> None:
        with small.for_image(data, "second"):
            inside.set()

    thread = threading.Thread(target=second)
    with small.for_image(data, "first"):
        thread.start()
        assert not inside.wait(0.2)
    thread.join(30)
    assert inside.is_set()
    with pytest.raises(RuntimeError), small.for_image(data, "third"):
        raise RuntimeError
    with small.for_image(data, "fourth"):
        pass


# ---------------------------------------------------------------- names that are more than names


NAMES = (
    "<script>alert(1)</script>",
    "\\input{/etc/passwd}",
    "=cmd|'/c calc'!A0",
    "a|b",
    "\x1b[2J",
    "${x}",
    "[x](javascript:y)",
)


def column(name: str) -> list[tables.Column]:
    return [tables.Column((name,), (name,), right=False), tables.Column((name,), (name,))]


@pytest.mark.parametrize("name", NAMES)
def test_tables_show_a_name_as_a_name(name: str, tmp_path: Path) -> None:
    markdown = tables.markdown_table(column(name))
    assert not re.search(r"<(?!br>)", markdown)
    assert "](" not in markdown.replace("\\](", "")
    lines = [re.sub(r"\\.", "", line) for line in markdown.splitlines()]
    assert {line.count("|") for line in lines} == {3}
    latex = tables.latex_table(column(name), name, "t")
    body = latex.partition("\\toprule")[2]
    assert not re.search(r"\\input|(?<!\\)[$^~]", body)
    tables.write_csv(tmp_path / "x.csv", ("name",), [{"name": name}])
    import csv

    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as stream:
        assert list(csv.reader(stream)) == [["name"], [name]], "tables are joined by names: they stay as they are"


def test_a_name_like_a_formula_is_remarked_on(tmp_path: Path) -> None:
    for name in ("=1+1", "-5", "plain"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "set" / name / "a.png")
    remarks = open_source(str(tmp_path / "set")).remarks
    assert len(remarks) == 1
    assert remarks[0].startswith("'=1+1', '=1+1/a.png': a spreadsheet takes that for a formula")


def test_messages_are_one_printable_line() -> None:
    said = str(InputError("x: got '\x1b[2J\u202e' and\nmore " + "a" * 100_000))
    assert said.isprintable()
    assert "\\x1b[2J\\u202e' and more" in said
    assert len(said) < 2_000
    assert one_line("as it is, × and – too") == "as it is, × and – too"


# ---------------------------------------------------------------- what is no file


class Pipe:
    """A pipe with a name in the place of a file, that notices who opens it, and lets them go on."""

    def __init__(self, path: Path) -> None:
        self.path, self.opened = path, False
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.wait(0.01):
            try:  # refused by the system as long as nobody has it open to read
                os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK))
                self.opened = True
            except OSError:
                pass

    def __enter__(self) -> Pipe:
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()


FILES = [
    (reader, name)
    for reader in READERS
    if not reader.startswith("image: ")  # those are handed bytes; the sets below name image files
    for name in sorted({n for case in cases_of(reader) for n in case})
]
"""Every file that any reader opens."""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize(("reader", "name"), FILES)
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(reader: str, name: str, tmp_path: Path) -> None:
    """Whoever opens it would wait for a writer that never comes; a device such as /dev/zero would never end."""
    given = next(case for case in cases_of(reader) if name in case)
    for file, data in given.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(data)
    said = ""
    with Pipe(tmp_path / name) as pipe:
        try:
            READERS[reader].read(tmp_path)
        except CLEAR as err:
            said = str(err)
    assert not pipe.opened
    assert unclear(said or "skipped, and named") == ""
