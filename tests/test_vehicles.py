"""The rendered vehicles: same seeds, same pixels; masks are exact; pairs differ in one factor; roles share nothing."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import tomllib
from collections import Counter

import cv2
import numpy as np
import pytest

from gradlens.data.vehicles.canvas import Layer, paint
from gradlens.data.vehicles.draw import CLASSES, KINDS
from gradlens.data.vehicles.light import LIGHTS
from gradlens.data.vehicles.scenery import BACKGROUNDS
from gradlens.data.vehicles.scenes import (
    NATURAL,
    OVERSAMPLE,
    SIZE,
    background_for,
    drawing_of,
    pose,
    render,
    sample_scene,
)
from gradlens.data.vehicles.sets import RECIPES, SEED, checked, encode, encode_mask, materialise, scenes
from gradlens.data.vehicles.shifts import SHIFTS, shifted
from gradlens.errors import InputError, NotFoundError
from gradlens.runtime import bundled

SETS = bundled("probe_sets")
STORED = sorted(name for name, recipe in RECIPES.items() if recipe.role == "test")


def rows_of(name: str) -> list[dict[str, str]]:
    with (SETS / name / "images.csv").open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


@pytest.mark.parametrize("name", STORED)
def test_the_same_scene_gives_the_same_pixels_in_any_order(name: str) -> None:
    every = [scene for scene, _ in scenes(RECIPES[name].model_copy(update={"per_class": 2}))]
    chosen = [every[k] for k in (0, 5, 10, 15)]
    forwards = [render(s) for s in chosen]
    backwards = [render(s) for s in reversed(chosen)][::-1]
    for a, b in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.mask, b.mask)


@pytest.mark.parametrize("vehicle", CLASSES)
def test_every_body_style_can_be_drawn(vehicle: str) -> None:
    for body in KINDS[vehicle].bodies:
        scene = dataclasses.replace(sample_scene("test", vehicle, 0), body=body, scale=0.6)
        done = render(scene)
        assert done.image.shape == (SIZE, SIZE, 3)
        assert done.image.dtype == np.uint8
        assert 0.01 < done.mask.mean() < 0.6, body


@pytest.mark.parametrize("vehicle", CLASSES)
def test_the_mask_is_where_pixels_change_when_the_vehicle_is_taken_away(
    vehicle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Against a black and then a white place, only the vehicle's own pixels are the same.
    scene = dataclasses.replace(sample_scene("test", vehicle, 3), background="sky", light_strength=0.0)
    pixels = []
    for tone in (0, 255):

        def flat(layer: Layer, rng: np.random.Generator, ground: float, tone: int = tone) -> None:
            layer.color[:] = tone

        monkeypatch.setitem(BACKGROUNDS, "sky", flat)
        pixels.append(render(scene))
    alike = np.abs(pixels[0].image.astype(int) - pixels[1].image).max(axis=2) < 128
    np.testing.assert_array_equal(pixels[0].mask, pixels[1].mask)
    assert iou(alike, pixels[0].mask) > 0.97


@pytest.mark.parametrize("vehicle", CLASSES)
def test_the_mask_agrees_with_coverage_counted_on_the_supersampled_layer(vehicle: str) -> None:
    scene = sample_scene("test", vehicle, 7)
    size = SIZE * OVERSAMPLE
    layer, drawing = Layer(size, size), drawing_of(scene)
    paint(drawing, layer, pose(scene, drawing, size))
    covered = (layer.alpha > 0).reshape(SIZE, OVERSAMPLE, SIZE, OVERSAMPLE).sum(axis=(1, 3))
    np.testing.assert_array_equal(render(scene).mask, covered >= OVERSAMPLE**2 / 2)


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_probe_image_differs_from_its_pair_in_one_factor(shift: str) -> None:
    for index, vehicle in enumerate(CLASSES):
        scene = sample_scene("test", vehicle, index, SEED)
        changed = shifted(scene, shift, 1 + index % 3)
        differing = {f.name for f in dataclasses.fields(scene) if getattr(scene, f.name) != getattr(changed, f.name)}
        assert differing, vehicle
        if shift == "internet":
            assert differing <= {"background", "style", "effects"}
        else:
            assert differing == {{"context": "background", "drawing": "style"}.get(shift, "effects")}
        before, after = render(scene), render(changed)
        if not SHIFTS[shift].moves:
            # ink outlines are a little wider than painted edges; everything else keeps the mask to the pixel
            assert iou(before.mask, after.mask) >= (0.85 if shift == "drawing" else 1.0), vehicle
        elif shift in ("occlusion", "watermark"):
            assert not (after.mask & ~before.mask).any()


def test_context_never_shows_a_usual_background() -> None:
    for vehicle in CLASSES:
        for index in range(20):
            changed = shifted(sample_scene("test", vehicle, index), "context", 1)
            assert changed.background not in {KINDS[vehicle].home, *KINDS[vehicle].away}


def test_occlusion_hides_more_with_severity() -> None:
    seen = {s: [] for s in (1, 2, 3)}
    for index in range(2):
        for vehicle in ("bus", "plane", "ship", "car"):
            scene = sample_scene("test", vehicle, index)
            whole = render(scene).mask.sum()
            for severity in seen:
                seen[severity].append(render(shifted(scene, "occlusion", severity)).mask.sum() / whole)
    means = [float(np.mean(seen[s])) for s in (1, 2, 3)]
    assert 0.65 < means[0] <= 0.90
    assert means[0] > means[1] + 0.1 > means[2] + 0.2
    assert means[2] > 0.15


def test_crops_have_other_shapes_and_their_masks_too() -> None:
    shapes = set()
    for index in range(9):
        done = render(shifted(sample_scene("test", CLASSES[index % 8], index), "crop", 1 + index % 3))
        assert done.image.shape[:2] == done.mask.shape
        assert 0.9 < done.mask.size / SIZE**2 < 1.1
        assert done.mask.any()
        shapes.add(done.mask.shape)
    assert len(shapes) > 5


def test_background_follows_the_class_as_declared() -> None:
    def home_rate(correlation: float) -> float:
        hits = [
            sample_scene("train", v, i, 5, correlation).background == KINDS[v].home for v in CLASSES for i in range(150)
        ]
        return float(np.mean(hits))

    n = 150 * len(CLASSES)
    for correlation in (1.0, 0.5, 0.0):
        expected = correlation * NATURAL + (1 - correlation) / len(BACKGROUNDS)
        assert abs(home_rate(correlation) - expected) < 4 * (expected * (1 - expected) / n) ** 0.5
    away = Counter(background_for("car", np.random.default_rng(k)) for k in range(3000))
    assert set(away) == {KINDS["car"].home, *KINDS["car"].away}


def test_without_correlation_only_the_background_changes() -> None:
    for index in range(10):
        a, b = sample_scene("train", "truck", index), sample_scene("train", "truck", index, correlation=0.0)
        assert dataclasses.replace(a, background=b.background) == b


def test_roles_share_no_scene() -> None:
    seen: dict[bytes, str] = {}
    for role in ("train", "select", "test"):
        for vehicle in CLASSES:
            for index in range(2):
                digest = hashlib.sha256(render(sample_scene(role, vehicle, index, SEED)).image.tobytes()).digest()
                assert digest not in seen, (role, vehicle, index, seen[digest])
                seen[digest] = f"{role} {vehicle} {index}"


def test_a_small_set_is_written_whole_and_the_same_twice(tmp_path) -> None:
    recipe = {"generator": "vehicles", "shift": "occlusion", "per_class": 2, "seed": 11}
    total = []

    def progress(items, text, n):
        total.append(n)
        return items

    materialise(recipe, tmp_path / "a" / "mine", progress)
    materialise(recipe, tmp_path / "b" / "mine")
    assert total == [16]
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 16 * 2 + 2
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    manifest = tomllib.loads((tmp_path / "a/mine/probe.toml").read_text())
    table = (tmp_path / "a/mine/images.csv").read_bytes()
    assert manifest["sha256"] == hashlib.sha256(table).hexdigest()
    assert manifest["paired_with"] == "vehicles-test"
    assert checked(manifest["recipe"]).per_class == 2


@pytest.mark.fault("rendering", "Ctrl-C")
def test_an_interrupted_rendering_leaves_what_was_there(tmp_path) -> None:
    recipe = {"generator": "vehicles", "per_class": 1}
    materialise(recipe, tmp_path / "set")
    before = (tmp_path / "set/images.csv").read_bytes()

    def stop(items, text, n):
        for k, item in enumerate(items):
            if k == 2:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        materialise({**recipe, "seed": 9}, tmp_path / "set", stop)
    assert (tmp_path / "set/images.csv").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_bad_recipes_are_refused(tmp_path) -> None:
    with pytest.raises(NotFoundError, match="occlusion"):
        materialise({"shift": "oclusion"}, tmp_path / "x")
    with pytest.raises(InputError, match="per_class"):
        materialise({"per_class": 0}, tmp_path / "x")
    with pytest.raises(InputError, match="sevrity"):
        materialise({"sevrity": 2}, tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", STORED)
def test_committed_files_are_the_ones_in_the_table(name: str) -> None:
    manifest = tomllib.loads((SETS / name / "probe.toml").read_text(encoding="utf-8"))
    table = (SETS / name / "images.csv").read_bytes()
    assert manifest["sha256"] == hashlib.sha256(table).hexdigest()
    assert manifest["images"] == 320
    assert tuple(manifest["classes"]) == CLASSES
    assert manifest["recipe"] == RECIPES[name].model_dump()
    rows = rows_of(name)
    assert Counter(r["class"] for r in rows) == dict.fromkeys(CLASSES, 40)
    for row in rows:
        data = (SETS / name / row["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"], row["path"]
        assert row["light"] in LIGHTS
        assert row["pair"] == ("" if name == "vehicles-test" else row["path"])
    if manifest["role"] == "probe" and SHIFTS[manifest["shift"]].graded:
        per_class = Counter((r["class"], r["severity"]) for r in rows)
        assert set(per_class.values()) <= {13, 14}
    listed = {r["path"] for r in rows} | {r["mask"] for r in rows}
    there = {p.relative_to(SETS / name).as_posix() for p in (SETS / name).rglob("*") if p.suffix in (".jpg", ".png")}
    assert there == listed


def test_no_image_is_in_two_committed_sets() -> None:
    every = [r["sha256"] for name in STORED for r in rows_of(name)]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize("name", STORED)
def test_committed_images_can_be_rendered_again(name: str) -> None:
    rows = {r["path"]: r for r in rows_of(name)}
    for scene, severity in list(scenes(RECIPES[name]))[7::97]:
        row = rows[f"{scene.vehicle}/{scene.id}.jpg"]
        assert row["severity"] == ("" if severity is None else str(severity))
        done = render(scene)
        stored = cv2.imread(str(SETS / name / row["path"]))
        again = cv2.imdecode(np.frombuffer(encode(done.image), np.uint8), cv2.IMREAD_COLOR)
        # other versions of OpenCV round differently; a wrong scene would differ by tens
        assert np.abs(stored.astype(int) - again).mean() < 2.0
        mask = cv2.imread(str(SETS / name / row["mask"]), cv2.IMREAD_GRAYSCALE)
        assert set(np.unique(mask)) <= {0, 255}
        assert iou(mask > 0, done.mask) > 0.98
        assert mask.shape == stored.shape[:2]


@pytest.mark.parametrize("name", ["vehicles-train", "vehicles-select"])
def test_training_sets_are_recipes_without_images(name: str) -> None:
    manifest = tomllib.loads((SETS / name / "probe.toml").read_text(encoding="utf-8"))
    assert manifest["kind"] == "rendered"
    assert manifest["recipe"] == RECIPES[name].model_dump()
    assert manifest["images"] == RECIPES[name].per_class * len(CLASSES)
    assert [p.name for p in (SETS / name).iterdir()] == ["probe.toml"]


def test_committed_images_and_masks_stay_small() -> None:
    files = [p for name in STORED for p in (SETS / name).rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 20_000_000


def test_masks_survive_their_file() -> None:
    mask = np.random.default_rng(0).random((31, 45)) < 0.3
    again = cv2.imdecode(np.frombuffer(encode_mask(mask), np.uint8), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(again > 0, mask)
