"""Probe sets: the manifest is checked, the images are checked, and every one can be made, found and made again."""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gradlens.cli.main import main
from gradlens.data import probe_sets
from gradlens.data.checking import check
from gradlens.data.probe_sets import MANIFEST, TABLE, Manifest, find, known, open_probe_set, rendered
from gradlens.data.sources import open_source
from gradlens.errors import InputError, NotFoundError
from gradlens.runtime import Runtime, bundled
from gradlens.workflows import probe

QUIET = Runtime(quiet=True)
RECIPE = {"generator": "vehicles", "role": "test", "shift": "none", "per_class": 1, "seed": 5}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and no probe sets that come with gradlens."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probe_sets, "bundled", lambda name: tmp_path / "none")
    monkeypatch.setenv("GRADLENS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def photos(place: Path, seed: int = 0, **classes: int) -> Path:
    random = np.random.default_rng(seed)
    for name, count in (classes or {"cat": 2, "dog": 2}).items():
        (place / name).mkdir(parents=True)
        for n in range(count):
            Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(place / name / f"{n}.png")
    return place


def add(name: str, source: Path, **given: object) -> probe.Added:
    arguments: dict[str, object] = {
        "into": Path("probe_sets"), "role": "probe", "shift": "phones", "title": "", "description": "", "licence": "",
        "provenance": "", "paired_with": None, "runtime": QUIET,
    }  # fmt: skip
    return probe.add(name, str(source), **{**arguments, **given})


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    with pytest.raises(SystemExit) as done:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(done.value.code or 0), out, err


def manifest(**changes: object) -> dict[str, object]:
    return {"schema": 1, "name": "x", "shift": "none", "classes": ["a", "b"], **changes}


# --- the manifest --------------------------------------------------------------------------------------------------


def test_manifest_round_trip(tmp_path: Path) -> None:
    full = manifest(
        title='quotes " and \\ and\ttabs and \x7f', description="Umlaute äöü, 数字", kind="rendered", role="test",
        paired_with="y", source="s", licence="l", seed=7, images=3, sha256="0" * 64,
        recipe={"generator": "vehicles", "per_class": 3, "correlation": 0.5, "on": True, "names": ["a"]},
    )  # fmt: skip
    first = Manifest.model_validate(full)
    (tmp_path / MANIFEST).write_text(first.to_toml(), encoding="utf-8")
    assert tomllib.loads(first.to_toml()) == full
    assert Manifest.read(tmp_path / MANIFEST) == first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shfit": "x"}, "shfit: Extra inputs"),
        ({"role": "prob"}, "role: Input should be 'train', 'select', 'test', 'probe'"),
        ({"schema": 2}, "schema: Input should be 1"),
        ({"name": "../x"}, "name: String should match"),
        ({"classes": []}, "classes: List should have at least 1"),
        ({"classes": ["a", "a"]}, "classes: .*a class is named twice"),
        ({"kind": "rendered"}, r"needs a \[recipe\]"),
        ({"sha256": "abc"}, "sha256: String should match"),
        ({"images": 0}, "images: Input should be greater"),
    ],
)
def test_manifest_names_the_wrong_field(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    text = "\n".join(f"{k} = {json.dumps(v)}" for k, v in manifest(**changes).items())
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(InputError, match=rf"probe\.toml: .*{message}") as error:
        open_probe_set(tmp_path)
    assert "\n" not in str(error.value)


def test_manifest_that_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("name = ")
    with pytest.raises(InputError, match="expected TOML"):
        open_probe_set(tmp_path)


# --- making and reading --------------------------------------------------------------------------------------------


def test_add_makes_a_set_that_reads_back_and_is_sound(here: Path) -> None:
    source = photos(here / "photos")
    added = add("mine", source, licence="CC0", description='a "quoted" word')
    assert (added.images, added.skipped, added.paired) == ({"cat": 2, "dog": 2}, (), 0)
    images = open_source("mine")
    assert (images.name, images.role, images.shift, images.classes) == ("mine", "probe", "phones", ("cat", "dog"))
    assert [s.id for s in images.samples] == [f"{c}/00000{n}.png" for c in ("cat", "dog") for n in (0, 1)]
    original = open_source(str(source))
    for i in range(4):
        assert images.digest(i) == original.digest(i)  # byte for byte
    assert check(Path("probe_sets/mine")) == []
    assert not [p for p in Path("probe_sets").iterdir() if p.name != "mine"]
    with pytest.raises(InputError, match="exists already"):
        add("mine", source)
    with pytest.raises(InputError, match="expected a name of letters"):
        add("../mine", source)


def test_add_leaves_out_what_cannot_be_read_and_says_so(here: Path) -> None:
    source = photos(here / "photos", cat=2, dog=2, frog=0)
    (source / "cat" / "broken.jpg").write_bytes(b"<html>")
    (source / "cat" / "notes.txt").write_text("x")
    shutil.copy(source / "dog" / "0.png", source / "dog" / "copy.png")
    added = add("mine", source)
    assert {Path(s.path).name: s.reason.split(": ")[-1] for s in added.skipped} == {
        "broken.jpg": "expected an image (JPEG, PNG, WEBP, GIF, BMP, DIB, TIFF, PPM, AVIF), "
        "got an HTML page (a download that failed?)",
        "notes.txt": "not an image by its ending (.txt)",
        "copy.png": f"an exact copy of {source}/dog/0.png",
    }
    assert open_source("mine").classes == ("cat", "dog")  # no image of a frog, no class
    assert check(find("mine")) == []


def test_add_refuses_what_cannot_become_a_set(here: Path) -> None:
    with pytest.raises(InputError, match="without any"):
        add("mine", photos(here / "flat", cat=1) / "cat")
    broken = here / "broken" / "cat"
    broken.mkdir(parents=True)
    (broken / "x.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="none of its 1 images can be read"):
        add("mine", here / "broken")
    assert not Path("probe_sets/mine").exists()
    assert not list(Path("probe_sets").glob(".*"))


def test_add_from_arrays_and_classes_that_no_folder_can_be_called(here: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)
    names = ["_hidden", "a/b", "a-b", "x"]
    np.savez(here / "x.npz", images=pixels, labels=[0, 1, 2, 3], classes=names)
    add("arrays", here / "x.npz")
    images = open_source("arrays")
    assert images.classes == tuple(names)
    assert [images.classes[s.label] for s in images.samples] == names
    np.testing.assert_array_equal(images.read(1), pixels[1])
    assert check(find("arrays")) == []


def test_add_pairs_by_class_and_stem(here: Path) -> None:
    add("plain", photos(here / "photos"), role="test", shift="none")
    other = photos(here / "other", seed=1, cat=1, dog=3)
    assert add("noisy", other, paired_with="plain", shift="noise").paired == 0  # 0.png became 000000.png
    shutil.rmtree("probe_sets/noisy")
    for path in list(other.rglob("*.png")):
        path.rename(path.with_stem(f"{int(path.stem):06d}"))
    assert add("noisy", other, paired_with="plain", shift="noise").paired == 3
    images = open_source("noisy")
    assert images.paired_with == "plain"
    assert [s.pair for s in images.samples] == ["cat/000000.png", "dog/000000.png", "dog/000001.png", None]
    assert check(find("noisy")) == []


def test_a_set_written_by_hand_needs_little(here: Path) -> None:
    photos(here / "probe_sets" / "mine")
    text = 'schema = 1\nname = "mine"\nshift = "fog"\nclasses = ["dog", "cat", "deer"]\n'
    (here / "probe_sets" / "mine" / MANIFEST).write_text(text)
    images = open_source("mine")
    assert (images.role, images.shift, images.classes) == ("probe", "fog", ("dog", "cat", "deer"))
    assert [images.classes[s.label] for s in images.samples] == ["cat", "cat", "dog", "dog"]
    assert check(find("mine")) == ["no image of 'deer'"]
    (here / "probe_sets" / "mine" / "bird").mkdir()
    with pytest.raises(InputError, match="got the folders bird"):
        open_source("mine")


def test_names_are_looked_up_here_then_in_the_package(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_sets, "bundled", lambda name: here / "package")
    photos(here / "package" / "both")
    photos(here / "package" / "theirs")
    photos(here / "probe_sets" / "both", cat=1)
    assert list(known()) == ["both", "theirs"]
    assert (len(open_source("both")), len(open_source("theirs"))) == (1, 4)
    with pytest.raises(NotFoundError, match="no probe set named 'thiers'; did you mean 'theirs'"):
        find("thiers")


# --- the table -----------------------------------------------------------------------------------------------------


def rewrite(folder: Path, change: object, sign: bool = True) -> None:
    """Change the rows of a set's table, and its manifest's checksum with it unless told otherwise."""
    with (folder / TABLE).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rows = change(rows) or rows
    with (folder / TABLE).open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0] if rows else ["path", "class"])
        writer.writeheader()
        writer.writerows(rows)
    if sign:
        now = Manifest.read(folder / MANIFEST).model_copy(
            update={"sha256": hashlib.sha256((folder / TABLE).read_bytes()).hexdigest()}
        )
        (folder / MANIFEST).write_text(now.to_toml())


@pytest.fixture
def mine(here: Path) -> Path:
    """A sound set of two cats and two dogs."""
    add("mine", photos(here / "photos"))
    return Path("probe_sets/mine")


def test_factors_severities_and_masks_are_read(mine: Path) -> None:
    (mine / "_masks").mkdir()
    Image.new("L", (8, 8), 255).save(mine / "_masks" / "0.png")
    rewrite(mine, lambda rows: [{**r, "angle": "1.5", "n": "3", "style": "night", "none": ""} for r in rows])
    rewrite(mine, lambda rows: rows[0].update(severity="2", mask="_masks/0.png"))
    images = open_probe_set(mine)
    assert images.samples[0].severity == 2
    assert images.samples[1].severity is None
    assert images.samples[0].factors == {"angle": 1.5, "n": 3, "style": "night", "none": None}
    mask = images.mask(0)
    assert mask is not None
    assert mask.all()
    assert images.mask(1) is None
    assert check(mine) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[0].update(path="../../secret.png"), "leaves the folder"),
        (lambda rows: rows[0].update(path="/etc/passwd"), "leaves the folder"),
        (lambda rows: rows[0].update(mask="../m.png"), "leaves the folder"),
        (lambda rows: rows[0].update(path=rows[1]["path"]), "that no other row has"),
        (lambda rows: rows[0].update({"class": "bird"}), "class 'bird' is not among"),
        (lambda rows: rows[0].update(severity="mild"), "whole number as severity"),
        (lambda rows: [{"path": r["path"]} for r in rows], "class missing"),
        (lambda rows: rows.clear(), "without rows"),
    ],
)
def test_bad_tables(mine: Path, change: object, message: str) -> None:
    rewrite(mine, change)
    with pytest.raises(InputError, match=message):
        open_probe_set(mine)
    assert len(check(mine)) == 1


def test_a_changed_table_is_refused(mine: Path) -> None:
    rewrite(mine, lambda rows: rows[0].update({"class": "dog"}), sign=False)
    with pytest.raises(InputError, match=r"its sha256 is not the one in probe\.toml"):
        open_probe_set(mine)
    (mine / TABLE).unlink()
    with pytest.raises(InputError, match="no such file"):
        open_probe_set(mine)


# --- check ---------------------------------------------------------------------------------------------------------


def test_check_finds_every_kind_of_damage(mine: Path) -> None:
    assert check(mine) == []
    first, second, third, fourth = (mine / s.id for s in open_probe_set(mine).samples)
    shutil.copy(fourth, third)  # an exact copy, and another checksum
    second.unlink()
    first.write_bytes(first.read_bytes()[:60])
    photos(mine, seed=3, bird=1)
    (mine / "_masks").mkdir()
    Image.new("L", (9, 8)).save(mine / "_masks" / "d.png")
    Image.new("L", (8, 8)).save(mine / "_masks" / "stray.png")
    rewrite(mine, lambda rows: rows[3].update(mask="_masks/d.png", pair="x"))
    now = Manifest.read(mine / MANIFEST).model_copy(update={"images": 7, "name": "other"})
    (mine / MANIFEST).write_text(now.to_toml())
    found = "\n".join(check(mine))
    for expected in (
        "bird/0.png: not listed in images.csv",
        "names it 'other', but its folder is 'mine'",
        "says 7 images, but there are 4",
        "cat/000000.png: expected",
        "cat/000001.png: expected a readable file",
        "dog/000000.png: its sha256 is not the one in images.csv",
        "dog/000001.png: an exact copy of dog/000000.png",
        "its mask has the size (8, 9), the image (8, 8)",
        "stray.png: a mask that no row of images.csv names",
        "1 images name a pair, but probe.toml has no paired_with",
    ):
        assert expected in found
    assert len(found.splitlines()) == 10


def test_check_looks_into_the_paired_set(here: Path) -> None:
    add("plain", photos(here / "photos"))
    shifted = photos(here / "shifted", seed=1)
    shutil.copy(here / "photos" / "dog" / "1.png", shifted / "dog" / "1.png")
    for path in list(shifted.rglob("*.png")):
        path.rename(path.with_stem(f"{int(path.stem):06d}"))
    add("shifted", shifted, paired_with="plain")
    folder = find("shifted")
    assert check(folder) == ["dog/000001.png: an exact copy of dog/000001.png in plain"]
    rewrite(folder, lambda rows: rows[0].update(pair="cat/9.png") or rows[1].update(pair="dog/000000.png"))
    assert check(folder)[:2] == [
        "cat/000000.png: its pair 'cat/9.png' is not in plain",
        "cat/000001.png: its pair 'dog/000000.png' is of the class 'dog'",
    ]
    shutil.rmtree("probe_sets/plain")
    assert check(folder) == ["probe.toml pairs it with 'plain', which is not a probe set here"]


# --- rendered sets -------------------------------------------------------------------------------------------------


def write_rendered(folder: Path, **changes: object) -> Path:
    from gradlens.data.vehicles.draw import CLASSES

    folder.mkdir(parents=True, exist_ok=True)
    text = Manifest(
        **{
            "schema": 1, "name": folder.name, "kind": "rendered", "role": "test", "shift": "none",
            "classes": list(CLASSES), "images": len(CLASSES), "recipe": RECIPE, **changes,
        }
    ).to_toml()  # fmt: skip
    (folder / MANIFEST).write_text(text)
    return folder


def test_rendered_sets_are_rendered_once_into_the_cache(here: Path) -> None:
    folder = write_rendered(here / "probe_sets" / "little")
    images = open_source("little")
    assert len(images) == len(images.classes) == 8
    assert Path(images.location).parent == here / "cache" / "sets"
    assert [p.name for p in folder.iterdir()] == [MANIFEST]
    mask = images.mask(0)
    assert mask is not None
    assert mask.shape == images.read(0).shape[:2]
    assert 0 < mask.mean() < 1
    marker = Path(images.location) / "marker"
    marker.touch()
    assert open_source("little").fingerprint == images.fingerprint
    assert marker.exists()  # not rendered again
    assert check(folder) == []
    other = Manifest.read(write_rendered(folder, recipe={**RECIPE, "seed": 6}) / MANIFEST)
    assert rendered(other).name != Path(images.location).name
    assert open_source("little").fingerprint != images.fingerprint


def _open_little(cache_free_name: str) -> str:
    return open_source(cache_free_name).fingerprint


def test_two_processes_may_render_at_once(here: Path) -> None:
    folder = write_rendered(here / "probe_sets" / "little")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        prints = pool.map(_open_little, [str(folder)] * 2, chunksize=1)
    assert prints[0] == prints[1] == open_source("little").fingerprint
    assert len(list((here / "cache" / "sets").iterdir())) == 1


def test_rendering_that_fails_leaves_nothing(here: Path) -> None:
    folder = write_rendered(here / "probe_sets" / "bad", recipe={**RECIPE, "per_clas": 1})
    with pytest.raises(InputError, match="per_clas"):
        open_probe_set(folder)
    write_rendered(folder, recipe={"generator": "dogs"})
    with pytest.raises(InputError, match="expected the generator 'vehicles' in"):
        open_probe_set(folder)
    assert not list((here / "cache" / "sets").glob("*"))
    assert not list((here / "cache" / "sets").glob(".*"))


def test_render_again_is_identical(here: Path) -> None:
    write_rendered(here / "probe_sets" / "little")
    (first,) = probe.render(["little"], here / "out", QUIET)
    assert (first.images, first.identical) == (8, None)
    shutil.move(here / "out" / "little", here / "probe_sets" / "committed")
    path = here / "probe_sets" / "committed" / MANIFEST
    path.write_text(Manifest.read(path).model_copy(update={"name": "committed"}).to_toml())
    assert check(path.parent) == []
    again = probe.render(["all"], None, QUIET)
    assert [(r.name, r.identical) for r in again] == [("committed", True), ("little", None)]
    path.write_text(Manifest.read(path).model_copy(update={"sha256": "0" * 64}).to_toml())
    assert probe.render(["committed"], None, QUIET)[0].identical is False
    assert check(path.parent) == []  # the new checksum was written with the new images
    assert not list((here / "probe_sets").glob(".*"))
    with pytest.raises(InputError, match="exists already"):
        probe.render(["little"], here / "probe_sets", QUIET)
    add("mine", photos(here / "photos"))
    with pytest.raises(InputError, match="collected, not rendered"):
        probe.render(["mine"], None, QUIET)


# --- the command ---------------------------------------------------------------------------------------------------


def test_commands(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "probe", "list")
    assert (code, out) == (0, "")
    assert "no probe sets" in err
    photos(here / "photos")
    (here / "photos" / "cat" / "x.jpg").write_bytes(b"")
    code, out, err = run(capsys, "probe", "add", "mine", "photos", "--shift", "phones", "--strict")
    assert (code, out) == (3, "probe_sets/mine: 4 images of 2 classes\n")
    assert "skipped photos/cat/x.jpg: " in err
    assert "next: gradlens shift-eval --probe mine" in err
    code, out, _ = run(capsys, "probe", "list", "--json")
    document = json.loads(out)
    assert (code, document["schema"]) == (0, 1)
    assert document["probe_sets"][0]["name"] == "mine"
    assert document["probe_sets"][0]["images"] == 4
    code, out, _ = run(capsys, "probe", "list")
    assert out.splitlines()[1].split() == ["mine", "probe", "phones", "4", "2", "-"]
    assert run(capsys, "probe", "check") == (0, "mine: sound\n", "")
    (here / "probe_sets" / "mine" / "cat" / "000000.png").unlink()
    code, out, _ = run(capsys, "probe", "check", "mine", "--json")
    document = json.loads(out)
    assert (code, document["schema"], document["checks"][0]["ok"]) == (1, 1, False)
    assert "000000.png" in document["checks"][0]["problems"][0]
    code, out, _ = run(capsys, "probe", "check", "probe_sets/mine")
    assert (code, out.splitlines()[0]) == (1, "probe_sets/mine: 1 problem")
    code, _, err = run(capsys, "probe", "check", "mien")
    assert (code, err) == (1, "gradlens: no probe set named 'mien'; did you mean 'mine'?\n")
    assert run(capsys, "probe", "add", "x", "photos", "--role", "prob")[0] == 2
    assert run(capsys, "probe", "add", "x", "nowhere")[0] == 1
    write_rendered(here / "probe_sets" / "little")
    code, out, _ = run(capsys, "probe", "check")
    assert "little: manifest sound; not rendered yet (gradlens probe check little)" in out.splitlines()
    assert not (here / "cache").exists() or not list((here / "cache").glob("sets/*"))
    code, out, _ = run(capsys, "probe", "render", "little", "--json")
    assert (code, json.loads(out)["probe_sets"][0]["images"]) == (0, 8)


def test_list_shows_a_broken_set(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "probe_sets" / "bad").mkdir(parents=True)
    (here / "probe_sets" / "bad" / MANIFEST).write_text("schema = 3")
    code, out, _ = run(capsys, "probe", "list")
    assert code == 0
    assert "bad: probe_sets/bad/probe.toml: schema: Input should be 1" in out
    assert run(capsys, "probe", "check")[0] == 1


@pytest.mark.parametrize("verb", ["list", "check", "add", "render"])
def test_help_ends_with_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "probe", verb, "--help")
    assert code == 0
    assert out.rstrip().splitlines()[-1].strip().startswith(f"gradlens probe {verb}")


# --- the sets that come with gradlens ------------------------------------------------------------------------------

OURS = sorted(p.parent for p in bundled("probe_sets").glob("*/probe.toml"))


@pytest.mark.parametrize("folder", OURS, ids=lambda p: p.name)
def test_embedded_sets_are_sound(folder: Path) -> None:
    ours = Manifest.read(folder / MANIFEST)
    if ours.kind == "images":
        assert check(folder) == []
    assert ours.name == folder.name
    assert ours.licence
    assert ours.source
    assert ours.images is not None


def test_sheet_shows_each_class_and_its_pairs(tmp_path: Path) -> None:
    from PIL import Image

    from gradlens.runtime import Runtime
    from gradlens.workflows.probe import sheet

    written = sheet("vehicles-test", tmp_path / "sheet.png", 1, Runtime(quiet=True), dpi=60)
    with Image.open(written) as picture:
        columns, rows = 10, 8  # the test set and its nine shifts, eight classes
        assert picture.width > picture.height * columns / rows * 0.8
        assert len(np.unique(np.asarray(picture.convert("L")))) > 100
    with pytest.raises(InputError, match="png"):
        sheet("vehicles-test", tmp_path / "sheet.txt", 1, Runtime(quiet=True))
