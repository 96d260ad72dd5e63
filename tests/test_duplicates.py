"""Near-duplicates: the hash against a slow DCT, every planted change found, unrelated pictures left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dctn

from gradlens.data import duplicates
from gradlens.data.duplicates import MIRROR, RADIUS, WINDOWS, Gathering, Signatures, close, hashes, near_duplicates
from gradlens.data.folders import open_folder
from gradlens.data.image_set import ImageSet
from gradlens.data.sources import open_source
from gradlens.runtime import Runtime

QUIET = Runtime(quiet=True)


def scene(seed: int, side: int = 96) -> np.ndarray:
    """A picture with structure at every scale, as photographs have: noise of 1/f amplitude, colours of their own."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.normal(size=(n, n, 3)) * 60 / n**0.5, (side, side), interpolation=cv2.INTER_CUBIC)
        for n in (2, 4, 8, 16, 32, side)
    ]
    return (128 + np.sum(layers, axis=0)).clip(0, 255).astype(np.uint8)


def signatures(pictures: dict[str, np.ndarray], name: str = "set") -> Signatures:
    gathered = Gathering()
    for key, picture in pictures.items():
        gathered.add(key, key, picture)
    return gathered.done(name)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))[..., ::-1]


def part(image: np.ndarray, top: float, left: float, keep: float) -> np.ndarray:
    h, w = image.shape[:2]
    return image[round(top * h) : round((top + keep) * h), round(left * w) : round((left + keep) * w)]


def marked(image: np.ndarray) -> np.ndarray:
    image = image.copy()
    cv2.putText(image, "photo", (30, 88), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1)
    return image


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "jpeg 30": lambda i: jpeg(i, 30),
    "jpeg 90": lambda i: jpeg(i, 90),
    "half": lambda i: cv2.resize(i, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "double": lambda i: cv2.resize(i, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC),
    "squeezed": lambda i: cv2.resize(i, (96, 64), interpolation=cv2.INTER_AREA),
    "crop 95": lambda i: part(i, 0.05, 0, 0.95),
    "crop 90": lambda i: part(i, 0.03, 0.07, 0.9),
    "crop 80": lambda i: part(i, 0.1, 0.2, 0.8),
    "mirrored": lambda i: i[:, ::-1],
    "mirrored crop": lambda i: part(i, 0, 0.1, 0.9)[:, ::-1],
    "brighter": lambda i: (i * 1.2 + 15).clip(0, 255).astype(np.uint8),
    "darker": lambda i: (i * 0.6).astype(np.uint8),
    "watermark": marked,
}


# --- the hash --------------------------------------------------------------------------------------------------------


def test_whole_picture_hash_is_the_signs_of_its_dct() -> None:
    grey = np.random.default_rng(0).uniform(0, 255, (5, 64, 64)).astype(np.float32)
    found = hashes(grey)[:, 0]
    for picture, value in zip(grey, found, strict=True):
        coefficients = dctn(picture.astype(np.float64), type=2)
        for bit, (u, v) in enumerate(duplicates._FREQUENCIES):
            assert bool(value >> np.uint64(bit) & np.uint64(1)) == (coefficients[u, v] > 0)
    assert len(set(duplicates._FREQUENCIES)) == 64
    assert (0, 0) not in duplicates._FREQUENCIES


def test_a_window_has_the_hash_of_the_picture_cut_to_it() -> None:
    """Windows fall between pixels; a picture cut by pixels is near, and unrelated pictures are far."""
    big = [scene(seed, 640) for seed in range(6)]
    greys = [cv2.cvtColor(duplicates.shrunk(b, 64), cv2.COLOR_RGB2GRAY).astype(np.float32) for b in big]
    own = hashes(np.stack(greys))
    for w, (y, x) in enumerate(WINDOWS):
        (top, height), (left, width) = duplicates._STEPS[y], duplicates._STEPS[x]
        cut = [
            b[round(top * 640) : round((top + height) * 640), round(left * 640) : round((left + width) * 640)]
            for b in big
        ]
        grey = [cv2.cvtColor(duplicates.shrunk(c, 64), cv2.COLOR_RGB2GRAY).astype(np.float32) for c in cut]
        bits = np.bitwise_count(hashes(np.stack(grey))[:, 0, None] ^ own[None, :, w])
        assert np.diag(bits).max() <= 4
        assert bits[~np.eye(6, dtype=bool)].min() > RADIUS


def test_mirroring_flips_known_bits() -> None:
    grey = np.random.default_rng(1).uniform(0, 255, (8, 64, 64)).astype(np.float32)
    np.testing.assert_array_equal(hashes(grey[:, :, ::-1].copy())[:, 0], hashes(grey)[:, 0] ^ MIRROR)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.integers(0, 64))
@settings(max_examples=25, deadline=None)
def test_close_is_every_pair_within_the_radius(seed: int, n: int, m: int, radius: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 2**63, size, dtype=np.uint64) for size in (n, m))
    expected = {
        (i, j): bin(int(x) ^ int(y)).count("1")
        for i, x in enumerate(a)
        for j, y in enumerate(b)
        if bin(int(x) ^ int(y)).count("1") <= radius
    }
    i, j, bits = close(a, b, radius)
    assert dict(zip(zip(i.tolist(), j.tolist(), strict=True), bits.tolist(), strict=True)) == expected


def test_close_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2**63, 50, dtype=np.uint64), rng.integers(0, 2**63, 70, dtype=np.uint64)
    whole = {tuple(map(int, t)) for t in zip(*close(a, b, 26), strict=True)}
    monkeypatch.setattr(duplicates, "_ROWS", 7)
    monkeypatch.setattr(duplicates, "_COLUMNS", 11)
    assert {tuple(map(int, t)) for t in zip(*close(a, b, 26), strict=True)} == whole
    assert whole


# --- pairs -----------------------------------------------------------------------------------------------------------

PICTURES = {f"{seed:02d}": scene(seed) for seed in range(24)}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_found_and_nothing_else(change: str) -> None:
    originals = signatures(PICTURES)
    changed = signatures({f"copy {k}": CHANGES[change](p) for k, p in PICTURES.items()}, "copies")
    for pairs in (
        [(p.a, p.b) for p in near_duplicates(changed, originals) if p.verified],
        [(p.b, p.a) for p in near_duplicates(originals, changed) if p.verified],
    ):
        assert len(pairs) >= 0.9 * len(PICTURES)
        assert all(copy == f"copy {original}" for copy, original in pairs)


def test_unrelated_pictures_are_no_pairs() -> None:
    assert near_duplicates(signatures(PICTURES)) == []


def test_dark_shapes_on_a_sky_are_no_pairs() -> None:
    """One silhouette before two backgrounds: what has most of the structure agrees, what is around it does not."""
    pictures = {}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        ground = cv2.resize(rng.normal(size=(12, 12)), (96, 96), interpolation=cv2.INTER_CUBIC)
        picture = np.repeat((190 + 16 * ground)[..., None], 3, axis=2)
        cv2.rectangle(picture, (25, 40), (75, 66), (10, 10, 10), -1)
        pictures[str(seed)] = picture.clip(0, 255).astype(np.uint8)
    s = signatures(pictures)
    agreements = [duplicates.agreement(s.small[i], s.small[j]) for i in range(8) for j in range(i)]
    assert min(alike for alike, _ in agreements) > 0.95  # the pictures as a whole would all be taken for one
    assert not [p for p in near_duplicates(s) if p.verified]


def test_blank_pictures_pair_as_exact_copies_only() -> None:
    blank = {str(v): np.full((40, 40, 3), v, np.uint8) for v in (0, 10, 255)}
    s = signatures(blank)
    assert not [p for p in near_duplicates(s) if p.verified]
    same = replace(s, digests=("x", "x", "y"))
    assert [(p.a, p.b, p.exact, p.verified) for p in near_duplicates(same)] == [("0", "10", True, True)]


def test_exact_copies_are_tied_to_one_and_that_one_to_the_rest() -> None:
    pictures = {**{f"c{i}": PICTURES["00"] for i in range(5)}, "near": jpeg(PICTURES["00"], 60), "far": PICTURES["01"]}
    s = replace(signatures(pictures), digests=("same",) * 5 + ("near", "far"))
    pairs = {(p.a, p.b): p.exact for p in near_duplicates(s)}
    assert pairs == {
        ("c0", "c1"): True,
        ("c0", "c2"): True,
        ("c0", "c3"): True,
        ("c0", "c4"): True,
        ("c0", "near"): False,
    }
    train = replace(signatures({"t": PICTURES["00"], "u": PICTURES["02"]}, "train"), digests=("same", "u"))
    found = near_duplicates(s, train)  # every copy has leaked, the near one as well
    assert [(p.a, p.b, p.exact) for p in found] == [*((f"c{i}", "t", True) for i in range(5)), ("near", "t", False)]


@given(st.randoms(use_true_random=False))
@settings(max_examples=5, deadline=None)
def test_the_order_of_images_does_not_matter(random: object) -> None:
    pictures = {k: PICTURES[k] for k in list(PICTURES)[:6]}
    pictures |= {"a": jpeg(PICTURES["00"], 50), "b": part(PICTURES["01"], 0.1, 0.1, 0.85), "c": PICTURES["02"][:, ::-1]}
    names = list(pictures)
    random.shuffle(names)  # type: ignore[attr-defined]
    here, there = (near_duplicates(signatures({k: pictures[k] for k in order})) for order in (pictures, names))
    assert [(p.a, p.b, p.distance) for p in here] == [(p.a, p.b, p.distance) for p in there]
    np.testing.assert_allclose([p.fine for p in here], [p.fine for p in there], atol=1e-6)
    assert len(here) == 3


def test_nothing_from_nothing() -> None:
    empty = signatures({})
    assert near_duplicates(empty) == near_duplicates(empty, signatures(PICTURES)) == []
    assert near_duplicates(signatures(PICTURES), empty) == []


def test_signatures_of_a_set_name_what_cannot_be_decoded(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.fromarray(PICTURES["00" if name == "a" else "01"]).save(tmp_path / f"{name}.png")
    (tmp_path / "c.jpg").write_bytes(b"<html>")
    s = Signatures.of(open_folder(tmp_path), QUIET)
    assert s.ids == ("a.png", "b.png")
    assert [Path(x.path).name for x in s.skipped] == ["c.jpg"]
    assert s.hashes.shape == (2, len(WINDOWS))


def test_scenes_of_paired_sets_are_known(tmp_path: Path) -> None:
    plain = _set("plain", ("a", "b", "c"))
    night = _set("night", ("x", "y", "z"), paired_with="plain", pairs=("a", "b", None))
    fog = _set("fog", ("f",), paired_with="plain", pairs=("a",))
    web = _set("web", ("w",))
    everything = {"a", "b", "c"}
    assert duplicates.known_scenes(night, plain) == [({"x", "y"}, everything)]
    assert duplicates.known_scenes(plain, night) == [(everything, {"x", "y"})]
    assert duplicates.known_scenes(night, night) == [({"x", "y"}, {"x", "y"})]
    assert duplicates.known_scenes(night, fog) == [({"x", "y"}, {"f"})]
    assert duplicates.known_scenes(night, web) == [({"x", "y"}, set())]
    assert duplicates.known_scenes(plain, plain) == duplicates.known_scenes(plain, web) == []


def _set(
    name: str, ids: tuple[str, ...], paired_with: str | None = None, pairs: tuple[str | None, ...] = ()
) -> ImageSet:
    from gradlens.data.folders import Files
    from gradlens.records import Sample

    samples = tuple(Sample(i, pair=p) for i, p in zip(ids, pairs or (None,) * len(ids), strict=True))
    store = Files([Path(i) for i in ids])
    return ImageSet(name, "probe", None, samples, "", store, tuple(range(len(ids))), paired_with=paired_with)


def test_real_photographs(shared_data: Path) -> None:
    """Owners' snapshots: every eighth one saved again, cropped or mirrored is found, and no other pair is verified."""
    photos = open_source(str(shared_data / "catdog-test.parquet"))
    photos = photos.subset(range(0, len(photos), 8))
    pictures = {s.id: photos.read(i) for i, s in enumerate(photos.samples)}
    originals = signatures(pictures)
    assert not [p for p in near_duplicates(originals) if p.verified]
    for change, least in (("jpeg 30", 1.0), ("half", 1.0), ("crop 90", 0.97), ("mirrored", 1.0), ("brighter", 0.97)):
        copies = signatures({f"copy {k}": CHANGES[change](p) for k, p in pictures.items()})
        pairs = [(p.a, p.b) for p in near_duplicates(copies, originals) if p.verified]
        assert len(pairs) >= least * len(pictures), change
        assert all(a == f"copy {b}" for a, b in pairs), change
