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


@pytest.mark.fault("rendering", "two at once")
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


# --- what people's folders really hold -----------------------------------------------------------------------------


def picture(seed: int, side: int = 48) -> np.ndarray:
    from test_duplicates import scene

    return scene(seed, side)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def hostile(here: Path) -> Path:
    """A folder of downloads with everything that goes wrong in one."""
    folder = here / "downloads"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
    cat, dog = folder / "cat", folder / "dog"
    outside = here / "elsewhere.png"
    Image.fromarray(picture(1)).save(outside)
    (cat / "link.png").symlink_to(outside)
    (cat / "dangling.png").symlink_to(here / "gone.png")
    (here / "more").mkdir()
    (cat / "linked-folder").symlink_to(here / "more")
    (cat / "empty.jpg").write_bytes(b"")
    (cat / "page.jpg").write_bytes(b"<!DOCTYPE html><html>404</html>")
    (cat / "cut.png").write_bytes(outside.read_bytes()[:900])
    (cat / "huge.png").write_bytes(png_header(20_000, 20_000))
    frames = [Image.fromarray(picture(seed)) for seed in (2, 3)]
    frames[0].save(dog / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(picture(4)).convert("CMYK").save(dog / "cmyk.jpg", quality=70)
    Image.fromarray(picture(5)[..., 0].astype(np.uint16) * 257).save(dog / "deep.png")
    Image.fromarray(np.dstack([picture(6), np.full((48, 48), 128, np.uint8)])).save(dog / "alpha.png")
    Image.fromarray(picture(7)).convert("P").save(dog / "palette.png")
    Image.fromarray(picture(8)).save(cat / "IMG.jpg", quality=85)
    Image.fromarray(picture(9)).save(cat / "img.jpg", quality=40)
    Image.fromarray(picture(10)).save(cat / "Straßen-Katze 猫 1.webp")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(11)[:, :32]).save(cat / "turned.jpg", exif=exif, quality=90)
    return folder


def png_header(width: int, height: int) -> bytes:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_hostile_folders_are_quarantined_or_handled(hostile: Path) -> None:
    before = {p: p.read_bytes() for p in hostile.rglob("*") if p.is_file() and not p.is_symlink()}
    added = add("mine", hostile)
    folder = Path(added.folder)
    quarantined = {Path(r["path"]).name: r["reason"] for r in rows_of(folder / "quarantine.csv")}
    assert {name: reason.split(": ")[-1] for name, reason in quarantined.items()} == {
        "link.png": "a link that leads out of the folder; copy the file itself",
        "dangling.png": "expected an image file, but there is none of that name",
        "linked-folder": "a link to a folder, which is not followed; copy the folder itself",
        "empty.jpg": "expected an image, but the file is empty (0 bytes)",
        "page.jpg": "expected an image (JPEG, PNG, WEBP, GIF, BMP, DIB, TIFF, PPM, AVIF), "
        "got an HTML page (a download that failed?)",
        "cut.png": quarantined["cut.png"].split(": ")[-1],
        "huge.png": quarantined["huge.png"].split(": ")[-1],
    }
    assert "damaged" in quarantined["cut.png"]
    assert "expected at most 178,956,970 pixels" in quarantined["huge.png"]
    assert all("\n" not in reason for reason in quarantined.values())
    table = {r["original"]: r for r in rows_of(folder / TABLE)}
    facts = {
        name: (r["codec"], r["mode"], r["frames"], r["jpeg_quality"], r["orientation"], r["width"], r["height"])
        for name, r in table.items()
    }
    assert facts == {
        "cat/IMG.jpg": ("JPEG", "RGB", "1", "85", "1", "48", "48"),
        "cat/img.jpg": ("JPEG", "RGB", "1", "40", "1", "48", "48"),
        "cat/Straßen-Katze 猫 1.webp": ("WEBP", "RGB", "1", "", "1", "48", "48"),
        "cat/turned.jpg": ("JPEG", "RGB", "1", "90", "6", "48", "32"),
        "dog/moving.gif": ("GIF", "P", "2", "", "1", "48", "48"),
        "dog/cmyk.jpg": ("JPEG", "CMYK", "1", "70", "1", "48", "48"),
        "dog/deep.png": ("PNG", "I;16", "1", "", "1", "48", "48"),
        "dog/alpha.png": ("PNG", "RGBA", "1", "", "1", "48", "48"),
        "dog/palette.png": ("PNG", "P", "1", "", "1", "48", "48"),
    }
    assert all(int(r["bytes"]) == (hostile / name).stat().st_size for name, r in table.items())
    stored = [r["path"] for r in table.values()]
    assert len({s.casefold() for s in stored}) == len(stored)  # IMG.jpg and img.jpg, also where case does not count
    assert added.upright == 1
    mine, original = open_source("mine"), open_source(str(hostile))
    position = {s.id: i for i, s in enumerate(original.samples)}
    for i, sample in enumerate(mine.samples):
        name = next(n for n, r in table.items() if r["path"] == sample.id)
        np.testing.assert_array_equal(mine.read(i), original.read(position[name]))
        assert sample.factors == {}  # native properties are nothing that the images were made with
    turned = folder / table["cat/turned.jpg"]["path"]
    with Image.open(turned) as image:  # a reader that knows nothing of EXIF
        assert image.size == (48, 32)
        assert image.getexif().get(0x0112, 1) == 1
    assert {p: p.read_bytes() for p in before} == before
    assert check(folder) == []


def test_check_names_links_and_names_that_differ_by_case_only(here: Path) -> None:
    add("mine", photos(here / "photos", cat=2))
    folder = Path("probe_sets/mine")
    first, second = (folder / "cat" / f"00000{i}.png" for i in (0, 1))
    first.rename(folder / "cat" / "Ä.png")
    second.rename(folder / "cat" / "ä.png")
    rewrite(folder, lambda rows: rows[0].update(path="cat/Ä.png") or rows[1].update(path="cat/ä.png"))
    assert check(folder) == ["cat/ä.png: differs from cat/Ä.png by case or composition only, which some systems ignore"]
    shutil.move(folder / "cat" / "ä.png", here / "out.png")
    (folder / "cat" / "ä.png").symlink_to(here / "out.png")
    assert "cat/ä.png: a link that leads out of the folder; copy the file itself" in check(folder)


def test_check_compares_native_properties(here: Path) -> None:
    add("mine", photos(here / "photos", cat=2))
    rewrite(Path("probe_sets/mine"), lambda rows: rows[0].update(width="9", codec="JPEG"))
    assert check(Path("probe_sets/mine")) == [
        "cat/000000.png: images.csv says width 9, the file 8",
        "cat/000000.png: images.csv says codec JPEG, the file PNG",
    ]


@pytest.fixture
def repeating(here: Path) -> Path:
    """Two cats and two dogs, a crop of the first cat among the dogs, and a training set that has the second cat."""
    from test_duplicates import jpeg, part

    for name, pictures in {
        "cat": [picture(0), picture(1)],
        "dog": [picture(2), picture(3), part(picture(0), 0, 0.1, 0.9)],
    }.items():
        (here / "photos" / name).mkdir(parents=True)
        for i, pixels in enumerate(pictures):
            Image.fromarray(pixels).save(here / "photos" / name / f"{i}.png")
    (here / "train" / "cat").mkdir(parents=True)
    Image.fromarray(jpeg(picture(1), 50)).save(here / "train" / "cat" / "x.png")
    Image.fromarray(picture(50)).save(here / "train" / "cat" / "y.png")
    return here / "photos"


def test_near_duplicates_are_marked_and_nothing_is_lost(here: Path, repeating: Path) -> None:
    added = add("mine", repeating, against=("train",))
    assert (added.duplicates, added.leaked, sum(added.images.values())) == (1, {"train": 1}, 5)
    folder = Path("probe_sets/mine")
    found = [
        (r["path"], r["set"], r["repeats"], r["exact"], r["same_class"]) for r in rows_of(folder / "duplicates.csv")
    ]
    assert found == [
        ("dog/000002.png", "", "cat/000000.png", "false", "false"),
        ("cat/000001.png", "train", "cat/x.png", "false", "true"),
    ]
    marks = {r["path"]: r["duplicate_of"] for r in rows_of(folder / TABLE) if r["duplicate_of"]}
    assert marks == {"dog/000002.png": "cat/000000.png", "cat/000001.png": "train:cat/x.png"}
    assert Manifest.read(folder / MANIFEST).against == ["train"]
    assert check(folder) == []
    (folder / "duplicates.csv").unlink()  # what was known of is not known any more
    assert check(folder) == [
        "dog/000002.png: a near-duplicate of cat/000000.png that duplicates.csv does not list",
        "cat/000001.png: a near-duplicate of cat/x.png in train that duplicates.csv does not list",
    ]
    shutil.rmtree(here / "train")
    (checked,) = probe.check_sets(["mine"], QUIET)
    assert len(checked.problems) == 1
    assert checked.remarks[0].startswith(
        "not compared with train, as probe.toml says it was: no image set named 'train'"
    )


def test_near_duplicates_are_dropped_where_asked(here: Path, repeating: Path) -> None:
    added = add("mine", repeating, against=("train",), drop_duplicates=True)
    assert {s.path: s.reason for s in added.skipped} == {
        "dog/2.png": "a near-duplicate of cat/000000.png",
        "cat/1.png": "a near-duplicate of cat/x.png in train",
    }
    folder = Path("probe_sets/mine")
    assert [r["path"] for r in rows_of(folder / TABLE)] == ["cat/000000.png", "dog/000000.png", "dog/000001.png"]
    assert not (folder / "dog" / "000002.png").exists()
    assert rows_of(folder / "duplicates.csv") == []
    assert (repeating / "dog" / "2.png").exists()
    assert check(folder) == []


def test_exact_copies_of_another_class_are_said_to_be(here: Path) -> None:
    source = photos(here / "photos")
    shutil.copy(source / "cat" / "0.png", source / "dog" / "9.png")
    (copy,) = add("mine", source).skipped
    assert copy.reason == f"an exact copy of {source}/cat/0.png, which is of the class 'cat'"


def test_class_names_are_mapped_composed_and_checked(here: Path) -> None:
    source = photos(here / "photos", Cats=1, hunde=1, frog=1, **{"cafe\u0301": 1})
    with pytest.raises(InputError) as refused:
        add("mine", source, classes=("cat", "dog", "café"))
    message = str(refused.value)
    assert "'Cats', 'frog', 'hunde' is not among the classes cat, dog, café; did you mean 'cat' for 'Cats'" in message
    assert "\n" not in message
    (here / "map.toml").write_text('drop = ["frog"]\n[classes]\nCats = "cat"\nhunde = "dog"\n')
    added = add("mine", source, classes=("cat", "dog", "café"), mapping=here / "map.toml")
    assert sorted(open_source("mine").classes) == ["café", "cat", "dog"]  # composed, as every model will have it
    assert [s.reason for s in added.skipped] == [f"class 'frog' is dropped by {here / 'map.toml'}"]
    (here / "map.toml").write_text('drop = ["hund"]\n')
    with pytest.raises(NotFoundError, match="did you mean 'hunde'"):
        add("other", source, mapping=here / "map.toml")


def test_sources_and_licences_of_single_images(here: Path) -> None:
    source = photos(here / "photos")
    table = "path,source_url,licence\ncat/0.png,https://example.org/1,CC BY 4.0\nbird/0.png,https://example.org/2,\n"
    (here / "about.csv").write_text(table)
    added = add("mine", source, about=here / "about.csv")
    assert added.remarks == (f"{here / 'about.csv'}: 1 rows name no image, the first is 'bird/0.png'",)
    first, second, *_ = rows_of(Path("probe_sets/mine") / TABLE)
    assert (first["source_url"], first["licence"]) == ("https://example.org/1", "CC BY 4.0")
    assert (second["source_url"], second["licence"]) == ("", "")
    for text, message in (("url\nx\n", "expected the columns"), ("path,source_url\na,b,c\n", "expected 2 values")):
        (here / "about.csv").write_text(text)
        with pytest.raises(InputError, match=message):
            add("other", source, about=here / "about.csv")


def test_add_at_the_command_line(here: Path, repeating: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "map.toml").write_text('[classes]\ncat = "feline"\n')
    options = ["--map", "map.toml", "--classes", "feline, dog", "--against", "train", "--filtered-by", "vehicles/vit"]
    code, out, err = run(capsys, "probe", "add", "mine", "photos", *options)
    assert (code, out) == (0, "probe_sets/mine: 5 images of 2 classes\n")
    assert "1 image nearly repeat another one of the set; see duplicates.csv" in err
    assert "1 image nearly repeat one of train; see duplicates.csv" in err
    assert Manifest.read(Path("probe_sets/mine/probe.toml")).filtered_by == ["vehicles/vit"]
    code, out, err = run(capsys, "probe", "add", "other", "photos", "--classes", "feline,dog")
    assert code == 1
    assert err.startswith("gradlens: photos: 'cat' is not among the classes feline, dog")
